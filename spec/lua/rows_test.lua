-- Rows, parameters and JSON as Lua sees them (rows_test.c runs this).
local t, pool = ...
local check, test, encode, decode = t.check, t.test, pool.json.encode, pool.json.decode

local function same(got, want)
  check(got == want and math.type(got) == math.type(want), ("got %s, want %s"):format(tostring(got), tostring(want)))
end

local function raises(pattern, fn, ...)
  local ok, message = pcall(fn, ...)
  check(not ok and tostring(message):find(pattern), ("raised %s, want %s"):format(tostring(message), pattern))
end

local function result(columns, ...)
  local list = {}
  for name, type in columns:gmatch("(%S+):(%S+)") do
    list[#list + 1] = {name, type}
  end
  return {columns = list, rows = {...}}
end

-- ---- rows ----

test("each type arrives as DESIGN says", function()
  local rows = t.rows(result("i:integer r:real n:numeric b:boolean t:text j:json x:bytes a:integer[]",
    {math.mininteger, 1.0, "1.10", false, "text", '{"a":1}', "\0\xff", "{1,2}"}))
  same(#rows, 1)
  same(rows[1].i, math.mininteger)
  same(rows[1].r, 1.0)
  same(rows[1].n, "1.10")
  same(rows[1].b, false)
  same(rows[1].t, "text")
  same(rows[1].j.a, 1)
  same(rows[1].x, "\0\xff")
  same(#rows[1].a, 2)
  same(rows[1].a[2], 2)
end)

test("NULL is absent, or pool.null with the sentinel", function()
  local d = result("a:text b:text", {nil, "x"})
  same(t.rows(d)[1].a, nil)
  same(rawlen(t.rows(d)[1]), 0)
  same(t.rows(d, true)[1].a, pool.null)
  same(t.row(d, 1, true).a, pool.null)
  same(t.row(d, 1).b, "x")
  local keys = 0
  for _ in pairs(t.rows(d)[1]) do keys = keys + 1 end
  same(keys, 1)
end)

test("arrays nest, are empty, hold NULL as pool.null and stay arrays in JSON", function()
  local row = t.rows(result("e:text[] n:integer[] z:text[] b:bytes[] j:json[] r:real[] bad:integer[]",
    {"{}", "{{1,NULL},{3,4}}", '{a,NULL,"NULL","q\\"\\\\"}', '{"\\\\x6869"}', '{"{\\"a\\": 1}","[]"}', "{1,NaN}", "{1,"}))[1]
  same(#row.e, 0)
  same(row.n[1][2], pool.null)
  same(row.n[2][1], 3)
  same(row.z[2], pool.null)
  same(row.z[3], "NULL")
  same(row.z[4], 'q"\\')
  same(row.b[1], "hi")
  same(row.j[1].a, 1)
  check(row.r[2] ~= row.r[2], "NaN")
  same(row.bad, "{1,")
  same(encode(row), [=[{"e":[],"n":[[1,null],[3,4]],"z":["a",null,"NULL","q\"\\"],"b":["aGk="],"j":[{"a":1},[]],]=]
    .. [=["r":[1.0,null],"bad":"{1,"}]=])
end)

test("affected, columns and command are reached, and neither iterated nor encoded", function()
  local d = result("a:integer b:text", {1, "x"})
  d.command, d.affected = "UPDATE", 7
  local rows = t.rows(d)
  same(rows.affected, 7)
  same(rows.command, "UPDATE")
  same(table.concat(rows.columns, ","), "a,b")
  same(rows.other, nil)
  same(rows[2], nil)
  local count = 0
  for k in pairs(rows) do count = count + 1; same(k, 1) end
  same(count, 1)
  same(encode(rows), '[{"a":1,"b":"x"}]')
  same(encode(rows.columns), '["a","b"]')
end)

test("a column may be called affected, columns, command or n", function()
  local rows = t.rows(result("affected:text columns:text command:text n:text", {"a", "b", "c", "d"}))
  same(rows[1].affected, "a")
  same(rows[1].n, "d")
  same(rows.affected, 1)
  same(encode(rows), '[{"affected":"a","columns":"b","command":"c","n":"d"}]')
end)

test("what one result hands out cannot change another", function()
  local d = result("a:integer b:text", {1, nil})
  d.shape = 5
  local rows = t.rows(d)
  local names = rows.columns
  names[1], names[3] = "hacked", "more"
  same(getmetatable(rows), "pool.Array")
  same(getmetatable(rows[1]), "pool.Row")
  raises("protected metatable", setmetatable, rows[1], {})
  same(table.concat(rows.columns, ","), "a,b")
  same(table.concat(t.rows(d).columns, ","), "a,b")
  same(encode(t.rows(d)), '[{"a":1,"b":null}]')
end)

test("a shape pointer that now means other columns is seen through", function()
  local one, two, three = result("a:integer", {1}), result("b:integer", {2}), result("a:bytes", {"hi"})
  one.shape, two.shape, three.shape = 9, 9, 9
  for _ = 1, 2 do
    same(encode(t.rows(one)), '[{"a":1}]')
    same(encode(t.rows(two)), '[{"b":2}]')
    same(encode(t.rows(three)), '[{"a":"aGk="}]')
  end
end)

test("more shapes than the cache holds", function()
  for i = 1, 1500 do
    local d = result(("c%d:integer d:text"):format(i), {i, "x"})
    d.shape = i % 2 == 0 and i or nil
    local rows = t.rows(d)
    if i % 100 == 0 then same(encode(rows), ('[{"c%d":%d,"d":"x"}]'):format(i, i)) end
    if i % 100 == 1 then same(encode(t.rows(result("a:integer", {1}))), '[{"a":1}]') end
  end
end)

test("the cache of shapes has an end", function()
  local function settled()
    collectgarbage()
    collectgarbage()
    return collectgarbage("count")
  end
  local before = settled()
  for i = 1, 5000 do t.rows(result(("a_column_of_its_own_%d:integer"):format(i), {i})) end
  check(settled() - before < 1024, "KiB kept: " .. settled() - before)
end)

test("of repeated column names the last wins, and every cell has its position", function()
  local d = result("id:integer name:text id:integer", {1, "x", 2}, {3, nil, nil})
  local rows = t.rows(d)
  same(rows[1].id, 2)
  same(rows[1][1], 1)
  same(rows[1][2], "x")
  same(rows[1][3], 2)
  same(rows[2].id, nil)
  same(rows[2][1], 3)
  same(t.rows(d, true)[2][3], pool.null)
  same(encode(rows), '[{"id":2,"name":"x"},{"id":null,"name":null}]')
  same(encode(rows), t.json(d))
  rows[1][4] = "more"
  raises("%$%[1%] has the integer key 4", encode, rows)
end)

test("rows without columns, and no rows", function()
  local bare = {columns = {}, rows = {{}, {}}}
  same(encode(t.rows(bare)), "[{},{}]")
  same(encode(t.rows(bare)[1]), "{}")
  same(encode(t.rows(result("a:integer"))), "[]")
  same(t.json(bare), "[{},{}]")
  same(t.json(result("a:integer")), "[]")
  same(#t.rows({columns = {}, rows = {}, affected = 3}), 0)
  same(t.rows({columns = {}, rows = {}, affected = 3}).affected, 3)
end)

test("rows, one row and db:json are the same JSON", function()
  local d = result("z:integer a:text n:numeric r:real x:bytes ok:boolean l:integer[] j:json nothing:text",
    {1, 'q"ü\n', "1.50", 2.0, "\xff\0", true, "{1,NULL}", '{"k":[1,2.5,null]}', nil},
    {2, nil, nil, 0.1, nil, nil, nil, nil, nil}, {3, "", "NaN", 1 / 0, "", false, "{}", "[]", nil})
  local text = t.json(d)
  same(encode(t.rows(d)), text)
  same(encode(t.rows(d, true)), text)
  same("[" .. encode(t.row(d, 1)) .. "," .. encode(t.row(d, 2)) .. "," .. encode(t.row(d, 3, true)) .. "]", text)
  local first = [==[[{"z":1,"a":"q\"ü\n","n":"1.50","r":2.0,"x":"/wA=","ok":true,"l":[1,null],"j":{"k":[1,2.5,null]},"nothing":null},]==]
  same(text:sub(1, #first), first)
end)

test("bytes in a column of another type, and the reverse, encode as db:json has them", function()
  local d = result("a:text b:bytes", {"text", "raw"}, {{"bytes", "\xff"}, {"text", "plain"}}, {nil, nil}, {"text", "raw"})
  same(t.json(d), '[{"a":"text","b":"cmF3"},{"a":"/w==","b":"plain"},{"a":null,"b":null},{"a":"text","b":"cmF3"}]')
  same(encode(t.rows(d)), t.json(d))
  same(encode(t.row(d, 2)), '{"a":"/w==","b":"plain"}')
  same(t.rows(d)[2].a, "\xff")
end)

test("keys added to a row follow its columns, sorted; a removed one is null", function()
  local row = t.rows(result("b:integer a:integer", {1, 2}))[1]
  row.d, row.c, row.b, row["ä"] = 4, 3, nil, true
  same(encode(row), '{"b":null,"a":2,"c":3,"d":4,"ä":true}')
  row[1] = 1
  raises("integer key 1", encode, row)
  local bare = t.rows({columns = {}, rows = {{}}})[1]
  bare.x = 1
  same(encode(bare), '{"x":1}')
end)

test("json that Lua cannot hold exactly comes as its text", function()
  local row = t.rows(result("a:json b:json c:json d:json e:json f:json",
    {"9223372036854775808", "1e400", '"\\u0000"', "null", "9223372036854775807", '{"a":{"b":[null]}}'}))[1]
  same(row.a, "9223372036854775808")
  same(row.b, "1e400")
  same(row.c, "\0")
  same(row.d, pool.null)
  same(row.e, math.maxinteger)
  same(row.f.a.b[1], pool.null)
end)

test("text that is not UTF-8 is rows' as it is, and an error of db:json that names the column", function()
  local d = result("fine:text odd:text", {"a", "\xff"})
  same(t.rows(d)[1].odd, "\xff")
  local text, message = t.json(d)
  same(text, nil)
  check(message:find('column "odd", row 1', 1, true), message)
  raises('%$%[1%]%.odd is not UTF%-8', encode, t.rows(d))
end)

test("a result of 1,600 columns, and one of 100,000 rows", function()
  local columns, cells = {}, {}
  for i = 1, 1600 do columns[i], cells[i] = {"c" .. i, "integer"}, i end
  local d = {columns = columns, rows = {cells}}
  same(t.rows(d)[1].c1600, 1600)
  same(encode(t.rows(d)), t.json(d))
  local many = {}
  for i = 1, 100000 do many[i] = {i, "text"} end
  local rows = t.rows({columns = {{"i", "integer"}, {"s", "text"}}, rows = many})
  same(#rows, 100000)
  same(rows[100000].i, 100000)
  same(rows.affected, 100000)
end)

-- ---- the encoder ----

test("scalars encode", function()
  same(encode(nil), "null")
  same(encode(pool.null), "null")
  same(encode(true), "true")
  same(encode(math.mininteger), "-9223372036854775808")
  same(encode(3.0), "3.0")
  same(encode(-0.0), "-0.0")
  same(encode(1e100), "1e+100")
  same(encode(0 / 0), "null")
  same(encode(-1 / 0), "null")
  same(encode('a"\\\n\0ü'), [["a\"\\\n\u0000ü"]])
  raises("pool.json.encode wants a value", encode)
end)

test("plain tables: sorted keys, no spaces; #t > 0 is an array, empty is {}", function()
  same(encode {}, "{}")
  same(encode {b = 1, a = 2, aa = 3, B = 4, [""] = 5}, '{"":5,"B":4,"a":2,"aa":3,"b":1}')
  same(encode {1, "a", {}, {{}}}, '[1,"a",{},[{}]]')
  same(encode(pool.array {}), "[]")
  same(encode {a = pool.array {}}, '{"a":[]}')
  same(encode(decode "[[],{}]"), "[[],{}]")
  local backwards = {}
  for i = 100, 1, -1 do backwards[i] = i end
  same(select(2, encode(backwards):gsub(",", "")), 99)
  local nested = {}
  for i = 1, 100 do nested["k" .. i] = {["x" .. i] = i, y = {z = i}} end
  same(#decode(encode(nested)).k77, 0)
  same(decode(encode(nested)).k77.y.z, 77)
end)

test("an array's n counts its nulls; a hole without it raises", function()
  same(encode(pool.array {1, nil, 3, n = 4}), "[1,null,3,null]")
  same(encode(pool.array {n = 0}), "[]")
  raises("a hole", encode, {1, nil, 3})
  raises("a hole", encode, pool.array {1, nil, 3})
  raises("n is not a length", encode, pool.array {n = "many"})
  raises("other keys", encode, pool.array {1, 2, n = 1})
  raises("64 MiB", encode, pool.array {n = 1 << 40})
end)

test("what JSON cannot hold raises, naming the place", function()
  raises("%$ is a function", encode, print)
  raises("%$%.a%[2%]%.b is a thread", encode, {a = {1, {b = coroutine.create(print)}}})
  raises('%$%["odd key"%] is a userdata', encode, {["odd key"] = io.stdout})
  raises("%$ cannot be a JSON array: it has other keys", encode, {1, 2, x = 3})
  raises("%$%.list has the integer key 5 but is no sequence", encode, {list = {[5] = 1}})
  raises("%$ has a key that is a boolean", encode, {[true] = 1})
  raises("%$ has a key that is a number", encode, {[1.5] = 1})
  raises("%$%.s is not UTF%-8", encode, {s = "\xff"})
  raises("not UTF%-8", encode, {["\xff"] = 1})
  local cycle = {}
  cycle.self = cycle
  raises("%$%.self%.self.*nested deeper than 128 levels", encode, cycle)
  raises("rows_test.lua:%d+: pool.json", function() encode(print) end)
end)

test("128 levels encode and decode, 129 do not", function()
  local function nest(n)
    local v = 1
    for _ = 1, n do v = {v} end
    return v
  end
  same(encode(nest(128)), ("["):rep(128) .. "1" .. ("]"):rep(128))
  raises("nested deeper", encode, nest(129))
  check(decode(encode(nest(128))))
  local value, err = decode(("["):rep(129) .. ("]"):rep(129))
  same(value, nil)
  same(err.kind, "json")
  check(err.message:find("128 levels"), err.message)
  value, err = decode(("["):rep(100000))
  same(value, nil)
  check(err.message:find("128 levels"), err.message)
end)

test("no metamethod of a plain table is asked", function()
  local trap = setmetatable({1}, {__index = error, __len = error, __pairs = error, __name = 5, __tostring = error})
  same(encode(trap), "[1]")
  same(encode(setmetatable({a = 1}, {__index = {b = 2}})), '{"a":1}')
end)

test("bytes, jsonb and arrays encode as what they are", function()
  same(encode {pool.bytes("\xff"), pool.jsonb {b = {}, a = pool.null}, pool.array {}}, '["/w==",{"a":null,"b":{}},[]]')
end)

test("a finalizer that empties the table being encoded does no harm", function()
  for round = 1, 200 do
    local victim = {}
    for i = 1, 60 do victim[("a rather long key, so that it is not interned, %d"):format(i)] = {tostring(i):rep(50), {}} end
    for _ = 1, 20 do
      setmetatable({}, {__gc = function() for k in pairs(victim) do victim[k] = nil end collectgarbage("step", 1000) end})
    end
    pcall(encode, {victim, victim, {victim}})
    if round % 50 == 0 then check(true) end
  end
end)

-- ---- the decoder ----

test("integers stay integers, null is pool.null, scalars and \\u0000 decode", function()
  same(decode "9007199254740993", 9007199254740993)
  same(decode "-9223372036854775808", math.mininteger)
  same(decode "1.0", 1.0)
  same(decode "1e2", 100.0)
  same(decode "null", pool.null)
  same(decode '{"a":null}'.a, pool.null)
  same(decode '"\\u0000\\ud83d\\ude00"', "\0😀")
  same(decode ' [1 , 2 ] '[2], 2)
  same(decode '{"a":1,"a":2}'.a, 2)
  same(encode(decode '{"b":[],"a":{}}'), '{"a":{},"b":[]}')
end)

test("what is malformed, or more than Lua holds, is nil and an error that says where and quotes nothing", function()
  local function fails(text, pattern)
    local value, err = decode(text)
    check(value == nil and err.kind == "json" and err.message:find(pattern), text:sub(1, 40) .. ": " .. tostring(err))
    check(not tostring(err):find("hunter2", 1, true), tostring(err))
  end
  fails("", "line 1, column %d+: .")
  fails("{", "line 1, column 1")
  fails('{"a":\n hunter2}', "line 2, column %d+: invalid token")
  fails('["hunter2" 1]', "line 1")
  fails("[1,]", "line 1")
  fails("1 2", "goes on")
  fails("nul", "invalid token")
  fails("\"hunter2\xff\"", "UTF%-8")
  fails('"\\ud800"', "Unicode")
  fails("[9223372036854775808]", "integer past 64 bits")
  fails("1e400", "range of a float")
  fails('{"a\\u0000b":1}', "key with \\u0000")
  fails("\0", "line 1")
  fails("NaN", "invalid token")
  raises("wants a string, not number", decode, 1)
  raises("wants a string, not no value", decode)
end)

test("random bytes decode to something or to an error", function()
  local letters = {"{", "}", "[", "]", ",", ":", '"', "\\", "u", "0", "1", "e", "-", ".", "a", "null", "true",
    "\xff", "\0", " ", '"a":', "[1"}
  local good = 0
  for _ = 1, 20000 do
    local parts = {}
    for i = 1, math.random(12) do parts[i] = letters[math.random(#letters)] end
    local value, err = decode(table.concat(parts))
    if value ~= nil then
      good = good + 1
      encode(value)
    elseif err.kind ~= "json" then
      check(false, "no json error")
    end
  end
  check(good > 10, "some decode")
end)

-- ---- parameters ----

local function param(value, want, json)
  local type, element, got = t.param(value, json)
  local text = ("%s %s %s"):format(type, element, tostring(got))
  check(text == want, ("got %s, want %s"):format(text, want))
end

test("scalars are parameters as they are", function()
  param(nil, "null  nil")
  param(pool.null, "null  nil")
  param(math.mininteger, "integer  -9223372036854775808")
  param(2.5, "real  2.5")
  param(false, "boolean  false")
  param("text", "text  text")
  param(pool.bytes("\0\xff"), "bytes  \0\xff")
  param(pool.jsonb({b = 1, a = {}}), 'json  {"a":{},"b":1}')
  param(pool.jsonb(nil), "json  null")
end)

test("arrays are parameters in either notation, with the type of their elements", function()
  param(pool.array {1, 2}, "array integer {1,2}")
  param(pool.array {1, 2.5, 3.0}, "array real {1,2.5,3}")
  param(pool.array {1, 2.5, 3.0}, "array real [1,2.5,3.0]", true)
  param(pool.array {true, false}, "array boolean {true,false}")
  param(pool.array {"a", 'q"\\', "NULL", ""}, [[array text {"a","q\"\\","NULL",""}]])
  param(pool.array {"a", 'q"\\'}, [=[array text ["a","q\"\\"]]=], true)
  param(pool.array {}, "array null {}")
  param(pool.array {pool.null, n = 2}, "array null {NULL,NULL}")
  param(pool.array {1, nil, 3, n = 3}, "array integer {1,NULL,3}")
  param(pool.array {1, pool.null}, "array integer [1,null]", true)
  param(pool.array {{1, 2}, pool.array {3, 4}}, "array integer {{1,2},{3,4}}")
  param(pool.array {pool.bytes("hi")}, [[array null {"\\x6869"}]])
  param(pool.array {pool.bytes("hi")}, [=[array null ["aGk="]]=], true)
  param(pool.array {0 / 0, 1 / 0}, "array real {nan,inf}")
  local row = t.rows(result("n:integer[] b:bytes[]", {"{{1,NULL}}", '{"\\\\x00"}'}))[1]
  param(row.n, "array integer {{1,NULL}}")
  param(row.b, [[array null {"\\x00"}]])
end)

test("misuse raises, naming the parameter and what to say instead", function()
  raises("parameter %$3: .*pool.array.*pool.jsonb.*pool.bytes", t.param, {1, 2})
  raises("pool.array", t.param, t.rows(result("a:text", {"x"}))[1])
  raises("parameter %$3: a function", t.param, print)
  raises("parameter %$3: a userdata", t.param, io.stdout)
  raises("parameter %$3: a thread", t.param, coroutine.create(print))
  raises("parameter %$3: an array of different types", t.param, pool.array {1, "a"})
  raises("parameter %$3: an array of different types", t.param, pool.array {{1}, {true}})
  raises("parameter %$3: an array of function", t.param, pool.array {print})
  raises("parameter %$3: an array of rows", t.param, t.rows(result("a:text", {"x"})))
  raises("parameter %$3: .*a hole", t.param, pool.array {1, nil, 3})
  raises("parameter %$3: .*other keys", t.param, pool.array {1, x = 3})
  local cycle = pool.array {}
  cycle[1] = cycle
  raises("nested too deep", t.param, cycle)
  raises("pool.array wants a table, not string", pool.array, "x")
  raises("it is a row", pool.array, t.rows(result("a:text", {"x"}))[1])
  raises("pool.bytes wants a string", pool.bytes, 5)
  raises("pool.jsonb wants a value", pool.jsonb)
  raises("%$%.f is a function", pool.jsonb, {f = print})
end)

test("text with a NUL, or not UTF-8, is the world's error 22021 with the parameter's number", function()
  for _, value in ipairs {"a\0b", "\xff", pool.array {"fine", "a\0b"}, pool.array {{"\xff"}}} do
    local ok, err = t.param(value)
    same(ok, nil)
    same(err.kind, "query")
    same(err.sqlstate, "22021")
    check(err.message:find("parameter $3", 1, true), err.message)
  end
end)

test("pool.array gives the table itself; wrappers are opaque", function()
  local list = {1}
  same(pool.array(list), list)
  same(pool.array(list), list)
  same(getmetatable(pool.bytes("x")), "pool.Bytes")
  check(not tostring(pool.bytes("secret")):find("secret"))
end)

test("identifiers are quoted", function()
  same(pool.identifier('we"ird'), '"we""ird"')
  same(pool.identifier("Große"), '"Große"')
  raises("empty", pool.identifier, "")
  raises("NUL", pool.identifier, "a\0b")
  raises("wants a string", pool.identifier, 5)
end)
