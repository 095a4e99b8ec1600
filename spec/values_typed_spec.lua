-- pool.array, pool.bytes, pool.jsonb and pool.identifier.
local pool = require "pool"
local values = require "support.values"
local same, one = values.same, values.one

local db, close
setup(function() db, close = values.open() end)
teardown(function() close() end)

local function raises(pattern, fn, ...)
  local fine, message = pcall(fn, ...)
  assert.is_false(fine)
  assert.matches(pattern, message)
end

describe("pool.array", function()
  it("goes into arrays of integers, floats, text and booleans", function()
    assert.same({ 1, -2, math.maxinteger }, one(db, "select $1", pool.array { 1, -2, math.maxinteger }))
    assert.same({ 1, 2 }, one(db, "select $1::int[]", pool.array { 1, 2 }))
    assert.same({ 1, 2 }, one(db, "select $1::int2[]", pool.array { 1.0, 2.0 }))
    assert.same({ 0.5, 2.0 }, one(db, "select $1", pool.array { 0.5, 2 }))
    same("float", math.type(one(db, "select $1", pool.array { 0.5, 2 })[2]))
    assert.same({ "a", "NULL", "", 'q"\\{},' }, one(db, "select $1", pool.array { "a", "NULL", "", 'q"\\{},' }))
    assert.same({ true, false }, one(db, "select $1", pool.array { true, false }))
    assert.same({ "1", "2.5" }, one(db, "select $1::numeric[]", pool.array { "1", "2.5" }))
    assert.same({ "2024-02-29" }, one(db, "select $1::date[]", pool.array { "2024-02-29" }))
    assert.same({ math.huge, -math.huge, -0.0 }, one(db, "select $1", pool.array { math.huge, -math.huge, -0.0 }))
  end)

  it("holds NULLs, as pool.null or as nil with its length in n", function()
    assert.same({ 1, pool.null, 3 }, one(db, "select $1", pool.array { 1, pool.null, 3 }))
    assert.same({ pool.null, "x", pool.null }, one(db, "select $1", pool.array { nil, "x", nil, n = 3 }))
    assert.same({ pool.null, pool.null }, one(db, "select $1::int[]", pool.array { n = 2 }))
    assert.same({ pool.null }, one(db, "select $1::text[]", pool.array { pool.null }))
    assert.same({ 1, 2 }, one(db, "select $1", pool.array(table.pack(1, 2))))
  end)

  it("is empty, nested, of bytes", function()
    assert.same({}, one(db, "select $1::int[]", pool.array {}))
    assert.same({ { 1, 2 }, { 3, pool.null } }, one(db, "select $1", pool.array { { 1, 2 }, { 3, pool.null } }))
    local every = values.every_byte()
    assert.same({ every, "" }, one(db, "select $1::bytea[]", pool.array { pool.bytes(every), pool.bytes "" }))
  end)

  it("is what any() compares with", function()
    local rows = assert(db:query("select i from generate_series(1, 9) i where i = any($1) order by i", pool.array { 2, 5, 7.0, 99 }))
    assert.equal('[{"i":2},{"i":5},{"i":7}]', pool.json.encode(rows))
    same(0, one(db, "select count(*) from generate_series(1, 9) i where i = any($1)", pool.array {}))
    same(2, one(db, "select count(*) from (values ('a'), ('b'), ('c')) v(t) where t = any($1)", pool.array { "a", "c" }))
    same(1, one(db, "select count(*) from (values (true)) v(b) where b = any($1)", pool.array { true }))
    local id = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    same(1, one(db, "select count(*) from (select '" .. id .. "'::uuid as u) v where u = any($1::uuid[])", pool.array { id }))
  end)

  it("is the same table, which may grow after", function()
    local list = {}
    assert.equal(list, pool.array(list))
    assert.equal(list, pool.array(pool.array(list)))
    list[1] = 7
    assert.same({ 7 }, one(db, "select $1", list))
  end)

  it("raises for what is no array, naming the parameter", function()
    local function sent(t) return function() db:query("select $2::int, $1", pool.array(t), 1) end end
    raises("parameter %$1: .*different types", sent { 1, "a" })
    raises("parameter %$1: .*different types", sent { true, 1 })
    raises("parameter %$1: .*function", sent { print })
    raises("parameter %$1: .*other keys", sent { 1, a = 2 })
    raises("parameter %$1: .*hole", sent { 1, 2, nil, 4 })
    raises("parameter %$1: .*field n", sent { n = -1 })
    local cycle = {}
    cycle[1] = cycle
    raises("parameter %$1: .*too deep", sent(cycle))
    raises("pool%.array wants a table, not nil", pool.array, nil)
    raises("pool%.array wants a table, not number", pool.array, 1)
    raises("metatable", pool.array, setmetatable({}, {}))
  end)

  it("with a NUL in a text is refused with 22021", function()
    local rows, err = db:query("select $1", pool.array { "fine", "a\0" })
    assert.is_nil(rows)
    assert.equal("22021", err.sqlstate)
  end)

  it("of unequal rows is refused by the server", function()
    local rows, err = db:query("select $1", pool.array { { 1, 2 }, { 3 } })
    assert.is_nil(rows)
    assert.equal("22P02", err.sqlstate)
  end)
end)

describe("pool.bytes", function()
  it("is bytea, without a cast", function()
    same("\0\xff", one(db, "select $1", pool.bytes "\0\xff"))
    same("", one(db, "select $1", pool.bytes ""))
    same(true, one(db, "select $1 = ''::bytea", pool.bytes ""))
  end)

  it("of ten megabytes arrives whole", function()
    local long = values.every_byte():rep(40 * 1024)
    assert.is_true(long == one(db, "select $1", pool.bytes(long)))
  end)

  it("wants a string", function()
    raises("pool%.bytes wants a string, not nil", pool.bytes, nil)
    raises("pool%.bytes wants a string, not number", pool.bytes, 1)
  end)
end)

describe("pool.jsonb", function()
  it("is any value as jsonb", function()
    assert.same({ a = { 1, 2.5, pool.null }, b = {} }, one(db, "select $1", pool.jsonb { a = { 1, 2.5, pool.null }, b = pool.array {} }))
    for _, v in ipairs { 7, 1.5, "text", true, false, "" } do same(v, one(db, "select $1", pool.jsonb(v))) end
    same("null", one(db, "select jsonb_typeof($1)", pool.jsonb(pool.null)))
    same("null", one(db, "select jsonb_typeof($1)", pool.jsonb(nil)))
    same("array", one(db, "select jsonb_typeof($1)", pool.jsonb { 1 }))
    same("object", one(db, "select jsonb_typeof($1)", pool.jsonb {}))
    same("array", one(db, "select jsonb_typeof($1)", pool.jsonb(pool.array {})))
    same("9223372036854775807", one(db, "select ($1 -> 'n')::text", pool.jsonb { n = math.maxinteger }))
  end)

  it("goes into json columns too, and has rows inside", function()
    assert.same({ { a = 1, b = pool.null } }, one(db, "select $1::json", pool.jsonb(assert(db:query "select 1 as a, null as b"))))
  end)

  it("is made at once, and raises at once", function()
    local t = { a = 1 }
    local made = pool.jsonb(t)
    t.a = 2
    assert.same({ a = 1 }, one(db, "select $1", made))
    raises("values_typed_spec.lua:%d+: .*function", function() pool.jsonb { print } end)
    raises("wants a value", pool.jsonb)
  end)

  it("with \\u0000 is refused by the server, which has it in json alone", function()
    local rows, err = db:query("select $1", pool.jsonb { "a\0b" })
    assert.is_nil(rows)
    assert.equal("22P05", err.sqlstate)
  end)
end)

describe("pool.identifier", function()
  it("is a name as SQL wants it, whatever is in it", function()
    for _, name in ipairs { "a", "A b", 'quo"ted"', "select", "é😀", "a;drop" } do
      local rows = assert(db:query("select 1 as " .. pool.identifier(name)))
      assert.same({ name }, rows.columns)
    end
    assert.equal('"a""b"', pool.identifier 'a"b')
  end)

  it("refuses what is no name", function()
    raises("empty", pool.identifier, "")
    raises("not nil", pool.identifier, nil)
    raises("not number", pool.identifier, 1)
    raises("NUL", pool.identifier, "a\0b")
    raises("UTF%-8", pool.identifier, "\xff")
  end)
end)

describe("whatever goes out", function()
  local pieces = { '"', "\\", "{", "}", ",", " ", "'", "$1", "NULL", "a", "é", "😀", "\n", "\t", "\1", "\127", "(", ")", ";", "--" }
  local function random_text()
    local text = {}
    for i = 1, math.random(0, 8) do text[i] = pieces[math.random(#pieces)] end
    return table.concat(text)
  end

  local function random_list(depth, width)
    local list = pool.array {}
    for i = 1, width do
      if depth > 1 then list[i] = random_list(depth - 1, width)
      else list[i] = math.random(5) == 1 and pool.null or random_text() end
    end
    return list
  end

  it("comes back: two hundred texts, arrays and json of every nasty character", function()
    math.randomseed(20240229)
    for _ = 1, 200 do
      local text, list = random_text(), random_list(math.random(3), math.random(3))
      local sent = pool.jsonb { t = text, l = list, [text] = true }
      local sql = "select $1::text as t, $2::text[] as l, $3 as j, array[$3] as js"
      local row = assert(db:query(sql, text, list, sent))[1]
      same(text, row.t)
      assert.same(list, row.l)
      assert.same(text, row.j.t)
      assert.same(list, row.j.l)
      assert.is_true(row.j[text] == true or text == "t" or text == "l")
      assert.same(row.j, row.js[1])
      local read = assert(pool.json.decode(assert(db:json(sql, text, list, sent))))[1]
      assert.same({ text, list, row.j }, { read.t, read.l, read.j })
    end
  end)
end)
