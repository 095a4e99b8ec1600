-- What Lua values are as parameters on PostgreSQL.
local pool = require "pool"
local values = require "support.values"
local same, one = values.same, values.one

local db, close
setup(function() db, close = values.open() end)
teardown(function() close() end)

-- The error's SQLSTATE, and its message.
local function refused(sql, ...)
  local rows, err = db:query(sql, ...)
  assert.is_nil(rows)
  assert.equal("query", err.kind)
  return err.sqlstate, err.message
end

describe("nil as a parameter", function()
  it("is NULL wherever it stands, trailing ones too, and so is pool.null", function()
    local sql = "select $1::int as a, $2::text as b, $3::int as c, $4::int as d"
    local row = assert(db:query(sql, 1, nil, 3, nil))[1]
    assert.same({ a = 1, c = 3 }, { a = row.a, b = row.b, c = row.c, d = row.d })
    row = assert(db:query(sql, nil, nil, nil, nil))[1]
    assert.is_nil(next(row))
    row = assert(db:query(sql, pool.null, "", pool.null, 4))[1]
    assert.same({ b = "", d = 4 }, { a = row.a, b = row.b, c = row.c, d = row.d })
    same(true, one(db, "select $1::int is null", nil))
  end)

  it("is counted: one too few or one too many is refused, and told", function()
    assert.equal("08P01", (refused("select $1::int, $2::int", 1)))
    assert.equal("08P01", (refused("select $1::int")))
    for _, given in ipairs { { n = 2, 1, 2 }, { n = 2, 1, nil } } do
      local _, err = db:query("select $1::int", table.unpack(given, 1, given.n))
      assert.equal("42P18", err.sqlstate)
      assert.matches("parameter %$2", err.message)
      assert.matches("does not use that parameter", err.hint)
    end
    assert.equal("42P18", (refused("select 1", nil)))
    same(1, one(db, "select $1::int", 1))
  end)
end)

describe("a number as a parameter", function()
  it("goes into columns of any type that takes it, 3.0 as 3", function()
    local row = assert(db:query([[select $1::int as i, $2::int8 as l, $3::float8 as f, $4::numeric as n, $5::text as t,
      $6::int2 as s]], 3.0, math.mininteger, 2, 0.1, 7, -1.0))[1]
    assert.same({ i = 3, l = math.mininteger, f = 2.0, n = "0.1", t = "7", s = -1 },
      { i = row.i, l = row.l, f = row.f, n = row.n, t = row.t, s = row.s })
    same("float", math.type(row.f))
    same("7", one(db, "select $1::text", 7.0))
    same("bc", one(db, "select substr('abc', $1)", 2))
    same("2024-03-03", one(db, "select date '2024-03-01' + $1::int", 2))
  end)

  it("keeps every bit of an integer and of a float", function()
    for _, n in ipairs { 0, -1, math.maxinteger, math.mininteger } do same(n, one(db, "select $1::int8", n)) end
    for _, x in ipairs { 0.1, -0.0, 1e308, 5e-324, 2 ^ 53, 2 ^ 63, -2 ^ 63, 1e15, 1e22, 123456789.125, math.pi, math.huge, -math.huge } do
      same(x, one(db, "select $1::float8", x))
    end
    local nan = one(db, "select $1::float8", 0 / 0)
    assert.is_true(nan ~= nan)
    same("NaN", one(db, "select $1::numeric", 0 / 0))
  end)

  it("with a fraction is refused for an integer by the server itself", function()
    assert.equal("22P02", (refused("select $1::int", 1.5)))
    assert.equal("22003", (refused("select $1::int2", 40000)))
    assert.equal("22P02", (refused("select $1::int", 0 / 0)))
    assert.equal("22P02", (refused("select $1::int", "1x")))
  end)

  it("goes into text columns and comes back from them", function()
    assert(db:exec "create temp table texts (t text, v varchar(5), b bool, n numeric, c char(3))")
    local rows = assert(db:query("insert into texts values ($1, $2, $3, $4, $5) returning *", 12, 3.5, true, 1e100, 7))
    assert.same({ t = "12", v = "3.5", b = true, n = "1" .. ("0"):rep(100), c = "7  " },
      { t = rows[1].t, v = rows[1].v, b = rows[1].b, n = rows[1].n, c = rows[1].c })
    assert(db:exec "drop table texts")
  end)
end)

describe("a boolean as a parameter", function()
  it("is a boolean without a cast", function()
    same(true, one(db, "select $1", true))
    same(false, one(db, "select $1", false))
    same(false, one(db, "select not $1", true))
    same("yes", one(db, "select case when $1 then 'yes' else 'no' end", true))
  end)
end)

describe("text as a parameter", function()
  it("is text where nothing else says what it is", function()
    same("abc", one(db, "select $1", "abc"))
    same("", one(db, "select $1", ""))
    same("it's \\ \"fine\" $1", one(db, "select $1", "it's \\ \"fine\" $1"))
    same("7", one(db, "select $1", 7))
  end)

  it("is what the place wants: dates, uuids, json, numbers, arrays", function()
    same("2024-02-29", one(db, "select $1::date", "2024-02-29"))
    same("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", one(db, "select $1::uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"))
    same(5, one(db, "select $1::int + $2::int", "2", 3))
    assert.same({ 1, 2 }, one(db, "select $1::int[]", "{1,2}"))
    assert.same({ a = 1 }, one(db, "select $1::jsonb", '{"a": 1}'))
  end)

  it("with a NUL is refused by the parameter's name, and bytes say how it could be sent", function()
    local state, message = refused("select $1::text, $2::text", "fine", "a\0secret")
    assert.equal("22021", state)
    assert.matches("parameter %$2", message)
    assert.matches("NUL", message)
    assert.matches("pool%.bytes", message)
    assert.is_nil(message:find("secret", 1, true))
  end)

  it("that is not UTF-8 is refused by the parameter's name", function()
    for _, text in ipairs { "\xff", "a\x80", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe4\xb8" } do
      local state, message = refused("select $1::text", text)
      assert.equal("22021", state)
      assert.matches("parameter %$1: the text is not UTF%-8", message)
    end
    same("\u{10FFFF}", one(db, "select $1::text", "\u{10FFFF}"))
  end)
end)

describe("parameters", function()
  it("may be 65,535 and not one more", function()
    local sql, given = {}, {}
    for i = 1, 65535 do sql[i], given[i] = "$" .. i .. "::int", i end
    local text = "select sum(v)::int8 as sum from unnest(array[" .. table.concat(sql, ",") .. "]) v"
    same(65535 * 65536 // 2, one(db, text, table.unpack(given, 1, 65535)))
    given[65536] = 1
    local state, message = refused(text, table.unpack(given, 1, 65536))
    assert.equal("54000", state)
    assert.matches("65536 parameters", message)
    assert.matches("65535", message)
    same(1, one(db, "select 1"))
  end)

  it("of another type for the same SQL are another statement", function()
    for _ = 1, 3 do
      same("7", one(db, "select $1", 7))
      same(true, one(db, "select $1", true))
      same("\0", one(db, "select $1", pool.bytes "\0"))
      assert.same({ a = 1 }, one(db, "select $1", pool.jsonb { a = 1 }))
      assert.same({ 1 }, one(db, "select $1", pool.array { 1 }))
      assert.same({ "1" }, one(db, "select $1", pool.array { "1" }))
      assert.is_nil(one(db, "select $1", nil))
    end
  end)

  it("may change after the call, which has long since read them", function()
    local list = pool.array { 1, 2 }
    local task_rows
    pool.run(function()
      local task = pool.spawn(function() return db:query("select $1::int[] as l, pg_sleep(0.02)", list) end)
      pool.sleep(0)
      list[1] = "changed"
      task_rows = assert(task:join())
    end)
    assert.same({ 1, 2 }, task_rows[1].l)
  end)
end)

describe("what no database could take", function()
  local function raised(...) return select(2, pcall(db.query, db, "select $1, $2", 1, ...)) end

  it("raises at the caller's line, naming the parameter and what would be right", function()
    local message = raised { 1, 2 }
    for _, want in ipairs { "parameter %$2", "pool%.array", "pool%.jsonb", "pool%.bytes" } do assert.matches(want, message) end
    local line = debug.getinfo(1, "l").currentline + 1
    local _, here = pcall(function() db:query("select $1", {}) end)
    assert.matches("values_parameter_spec%.lua:" .. line .. ": ", here)
    assert.matches("parameter %$2: a function", raised(print))
    assert.matches("parameter %$2: a thread", raised(coroutine.create(print)))
    assert.matches("parameter %$2: a userdata", raised(io.stdout))
    assert.matches("parameter %$2", raised(db))
    assert.matches("parameter %$2", raised(assert(db:query "select 1 as a")[1]))
  end)

  it("holds nothing afterwards", function()
    raised(print)
    assert.equal(0, db:stats().leased)
    same(1, one(db, "select 1"))
  end)
end)
