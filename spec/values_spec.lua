-- What PostgreSQL's types are in Lua and in JSON.
local pool = require "pool"
local values = require "support.values"
local same, one, json = values.same, values.one, values.json

local db, close
setup(function() db, close = values.open() end)
teardown(function() close() end)

describe("a number from PostgreSQL", function()
  it("is an integer up to both ends of int8", function()
    same(math.maxinteger, one(db, "select 9223372036854775807::int8"))
    same(math.mininteger, one(db, "select (-9223372036854775808)::int8"))
    same(-32768, one(db, "select (-32768)::int2"))
    same(2147483647, one(db, "select 2147483647"))
    same(4294967295, one(db, "select 4294967295::oid"))
    assert.equal('[{"a":9223372036854775807,"b":-9223372036854775808}]',
      json(db, "select 9223372036854775807::int8 as a, (-9223372036854775808)::int8 as b"))
  end)

  it("is text, digit for digit, when it is numeric", function()
    local digits = ("1234567890"):rep(100) .. "." .. ("0987654321"):rep(50)
    same(digits, one(db, "select '" .. digits .. "'::numeric"))
    same("1.10", one(db, "select 1.10"))
    same("NaN", one(db, "select 'NaN'::numeric"))
    same("-Infinity", one(db, "select '-inf'::numeric"))
    same("0.00", one(db, "select 0.00"))
    assert.equal('[{"n":"1.10","nan":"NaN","i":"Infinity"}]', json(db, "select 1.10 as n, 'nan'::numeric as nan, 'inf'::numeric as i"))
  end)

  it("is a float when it is real or double precision, integral or not", function()
    same(1.0, one(db, "select 1::float8"))
    same(-0.0, one(db, "select '-0'::float8"))
    same(0.1, one(db, "select 0.1::float8"))
    same(1e15, one(db, "select 1e15::float8"))
    same(5e-324, one(db, "select 5e-324::float8"))
    same(1.7976931348623157e308, one(db, "select 1.7976931348623157e308::float8"))
    same(0.1, one(db, "select 0.1::float4"))
    same(math.huge, one(db, "select 'inf'::float8"))
    same(-math.huge, one(db, "select '-inf'::float4"))
    local nan = one(db, "select 'nan'::float8")
    assert.equal("float", math.type(nan))
    assert.is_true(nan ~= nan)
  end)

  it("is in JSON the shortest text that reads back equal, with .0 when integral, and null when not finite", function()
    local text = json(db, [[select 1::float8 as a, '-0'::float8 as b, 0.1::float8 as c, 1e15::float8 as d, 5e-324::float8 as e,
      1e300::float8 as f, 'nan'::float8 as g, 'inf'::float8 as h, '-inf'::float8 as i, 123456789.125::float8 as j, 0.1::float4 as k]])
    assert.equal('[{"a":1.0,"b":-0.0,"c":0.1,"d":1e+15,"e":5e-324,"f":1e+300,"g":null,"h":null,"i":null,"j":123456789.125,"k":0.1}]', text)
  end)

  it("that is a float reads back equal from its JSON, a thousand of them", function()
    local rows = assert(db:query "select setseed(0.5), random() * 10 ^ (i % 600 - 300) as x from generate_series(1, 1000) i")
    local text = assert(db:json "select setseed(0.5), random() * 10 ^ (i % 600 - 300) as x from generate_series(1, 1000) i")
    local back = assert(pool.json.decode(text))
    assert.equal(1000, #back)
    for i, row in ipairs(rows) do same(row.x, back[i].x) end
  end)
end)

describe("a boolean from PostgreSQL", function()
  it("is a boolean", function()
    same(true, one(db, "select true"))
    same(false, one(db, "select 1 = 2"))
    assert.equal('[{"t":true,"f":false,"n":null}]', json(db, "select true as t, false as f, null::bool as n"))
  end)
end)

describe("NULL", function()
  it("is absent from the row, and an empty string is not", function()
    local row = assert(db:query "select null as a, '' as b, ''::bytea as c, null::int[] as d")[1]
    local names = {}
    for name in pairs(row) do names[#names + 1] = name end
    table.sort(names)
    assert.same({ "b", "c" }, names)
    same("", row.b)
    same("", row.c)
    assert.is_nil(row.a)
    assert.equal('[{"a":null,"b":"","c":"","d":null}]', json(db, "select null as a, '' as b, ''::bytea as c, null::int[] as d"))
  end)

  it("is pool.null with null = sentinel, and the JSON is the same", function()
    local other, close_other = values.open { null = "sentinel" }
    local row = assert(other:query "select null as a, '' as b, null::json as c, 'null'::json as d")[1]
    same(pool.null, row.a)
    same("", row.b)
    same(pool.null, row.c)
    same(pool.null, row.d)
    assert.equal('[{"a":null,"b":""}]', json(other, "select null as a, '' as b"))
    for streamed in other:rows "select null as a" do same(pool.null, streamed.a) end
    close_other()
  end)
end)

describe("an array from PostgreSQL", function()
  it("is an array of its elements, NULL inside it pool.null", function()
    assert.same({}, one(db, "select array[]::int[]"))
    assert.same({ 1, pool.null, 3 }, one(db, "select array[1, null, 3]"))
    assert.same({ { 1, 2 }, { pool.null, 4 } }, one(db, "select array[[1, 2], [null, 4]]"))
    assert.same({ { { "a" }, { "b" } } }, one(db, "select array[[['a'], ['b']]]"))
    assert.same({ true, false, pool.null }, one(db, "select array[true, false, null]"))
    assert.same({ "1.10", "NaN" }, one(db, "select array[1.10, 'nan'::numeric]"))
    same(1.0, one(db, "select array[1, 0.5]::float8[]")[1])
    same(math.maxinteger, one(db, "select array[9223372036854775807]")[1])
  end)

  it("of text keeps quotes, commas, backslashes, braces, blanks, empty strings and the word NULL", function()
    local want = { 'a"b', "a,b", "a\\b", "{a}", " a ", "", "NULL", "null", "é😀", "a\nb\t", "\\\"", pool.null }
    local sql = [[select array['a"b', 'a,b', 'a\b', '{a}', ' a ', '', 'NULL', 'null', 'é😀', E'a\nb\t', '\"', null] as t]]
    assert.same(want, one(db, sql))
    assert.equal([==[[{"t":["a\"b","a,b","a\\b","{a}"," a ","","NULL","null","é😀","a\nb\t","\\\"",null]}]]==], json(db, sql))
  end)

  it("of bytea has bytes, of json has what was encoded", function()
    local every = values.every_byte()
    assert.same({ every, "", pool.null }, one(db, "select array[$1, ''::bytea, null]", pool.bytes(every)))
    assert.same({ { a = { 1, pool.null } }, "x", pool.null, pool.null },
      one(db, [[select array['{"a": [1, null]}', '"x"', 'null', null]::json[] ]]))
    assert.equal('[{"b":["AP8=","",null],"j":[{"a":1},"x"]}]',
      json(db, [[select array['\x00ff', '', null]::bytea[] as b, array['{"a":1}', '"x"']::json[] as j]]))
  end)

  it("with other lower bounds is the same array", function()
    assert.same({ 1, 2, 3 }, one(db, "select '[5:7]={1,2,3}'::int[]"))
    assert.equal('[{"a":[[1,2],[3,4]]}]', json(db, "select '[0:1][-1:0]={{1,2},{3,4}}'::int[] as a"))
  end)

  it("is an array in JSON, empty ones too, and goes back as a parameter", function()
    assert.equal('[{"a":[],"b":[[1,null],[3,4]],"c":[1.0,null],"d":["1.10"],"e":[true]}]', json(db, [=[select array[]::text[] as a,
      array[[1, null], [3, 4]] as b, array[1, 'nan']::float8[] as c, array[1.10] as d, array[true] as e]=]))
    local array = one(db, "select array['a', null, 'NULL']")
    assert.same(array, one(db, "select $1::text[]", array))
  end)
end)
