-- The result as a whole: its rows and columns, and what is known of it beside them.
local pool = require "pool"
local values = require "support.values"
local same, json = values.same, values.json

local db, close
setup(function() db, close = values.open() end)
teardown(function() close() end)

local function keys(t)
  local found = {}
  for key in pairs(t) do found[#found + 1] = tostring(key) end
  table.sort(found)
  return table.concat(found, " ")
end

describe("a result", function()
  it("says how many rows were affected, its columns and its command", function()
    local function facts(sql, ...)
      local rows = assert(db:query(sql, ...))
      return { rows.command, rows.affected, #rows, table.concat(rows.columns, " ") }
    end
    assert.same({ "CREATE TABLE", 0, 0, "" }, facts "create temp table facts (id int, name text)")
    assert.same({ "INSERT", 3, 0, "" }, facts "insert into facts values (1, 'a'), (2, 'b'), (3, null)")
    assert.same({ "INSERT", 2, 2, "name id" }, facts "insert into facts values (4, 'd'), (5, 'e') returning name, id")
    assert.same({ "SELECT", 5, 5, "id name" }, facts "select * from facts")
    assert.same({ "SELECT", 0, 0, "id name" }, facts "select * from facts where id > 100")
    assert.same({ "UPDATE", 4, 0, "" }, facts("update facts set name = 'x' where id > $1", 1))
    assert.same({ "UPDATE", 0, 0, "" }, facts "update facts set name = 'x' where id > 100")
    assert.same({ "DELETE", 5, 5, "n" }, facts "delete from facts returning id * 2 as n")
    assert.same({ "SELECT", 1, 0, "" }, facts "create temp table facts2 as select 1 as a")
    assert.same({ "SET", 0, 0, "" }, facts "set work_mem = '4MB'")
    assert.same({ "DROP TABLE", 0, 0, "" }, facts "drop table facts, facts2")
    assert.same({ "SHOW", 0, 1, "work_mem" }, facts "show work_mem")
  end)

  it("has them reached and not iterated, counted or encoded", function()
    local rows = assert(db:query "select 1 as a union all select 2 order by 1")
    assert.equal(2, #rows)
    assert.equal("1 2", keys(rows))
    assert.equal("a", keys(rows[1]))
    assert.is_nil(rawget(rows, "affected"))
    assert.equal('[{"a":1},{"a":2}]', pool.json.encode(rows))
    assert.is_nil(rows.nonsense)
    assert.is_nil(rows[3])
  end)

  it("hands out columns that are the caller's own", function()
    local rows = assert(db:query "select 1 as a, 2 as b")
    rows.columns[1] = "changed"
    assert.same({ "a", "b" }, rows.columns)
    assert.equal('[{"a":1,"b":2}]', pool.json.encode(rows))
  end)

  it("without rows is [], and without columns has empty rows", function()
    assert.equal("[]", json(db, "select 1 as a where false"))
    assert.equal("[]", json(db, "set work_mem = '4MB'"))
    assert.equal("[{}]", json(db, "select"))
    assert.equal("[{},{},{}]", json(db, "select from generate_series(1, 3)"))
    local rows = assert(db:query "select from generate_series(1, 3)")
    assert.same({}, rows.columns)
    assert.equal(3, #rows)
    assert.is_nil(next(rows[3]))
  end)

  it("of a hundred thousand rows is all there, in order, in every way", function()
    local sql = "select i, 'row ' || i as t from generate_series(1, 100000) i"
    local rows = assert(db:query(sql))
    assert.equal(100000, #rows)
    assert.equal(100000, rows.affected)
    for i, row in ipairs(rows) do
      if row.i ~= i or row.t ~= "row " .. i then error("row " .. i .. " is wrong") end
    end
    local text, count = assert(db:json(sql)), 0
    assert.is_true(text == pool.json.encode(rows))
    for row in db:rows(sql) do
      count = count + 1
      if row.i ~= count or row.t ~= rows[count].t then error("streamed row " .. count .. " is wrong") end
    end
    assert.equal(100000, count)
  end)

  it("may have 1,600 columns", function()
    local list = {}
    for i = 1, 1600 do list[i] = ("%d as c%d"):format(i, i) end
    local sql = "select " .. table.concat(list, ", ")
    local rows = assert(db:query(sql))
    assert.equal(1600, #rows.columns)
    for i = 1, 1600 do assert(rows[1]["c" .. i] == i and rows.columns[i] == "c" .. i) end
    assert.is_true(assert(db:json(sql)) == pool.json.encode(rows))
  end)

  it("of 1,664 columns of one name has the last by name, and each by position", function()
    local list = {}
    for i = 1, 1664 do list[i] = ("%d as same"):format(i) end
    local rows = assert(db:query("select " .. table.concat(list, ", ")))
    assert.equal(1664, rows[1].same)
    assert.equal(1664, #rows[1])
    assert.equal('[{"same":1664}]', pool.json.encode(rows))
    list[1665] = "1"
    local none, err = db:query("select " .. table.concat(list, ", "))
    assert.is_nil(none)
    assert.equal("54011", err.sqlstate)
  end)
end)

describe("columns of one name", function()
  it("leave the last by name, each at its position, and one in JSON", function()
    local rows = assert(db:query "select 1 as a, 'b' as b, 3 as a")
    assert.same({ "a", "b", "a" }, rows.columns)
    same(3, rows[1].a)
    assert.same({ 1, "b", 3 }, { rows[1][1], rows[1][2], rows[1][3] })
    assert.equal("1 2 3 a b", keys(rows[1]))
    assert.equal('[{"a":3,"b":"b"}]', json(db, "select 1 as a, 'b' as b, 3 as a"))
  end)

  it("may end in NULL", function()
    local row = assert(db:query "select 1 as a, null as a")[1]
    assert.is_nil(row.a)
    same(1, row[1])
    assert.is_nil(row[2])
    assert.equal('[{"a":null}]', json(db, "select 1 as a, null as a"))
  end)

  it("keep apart those that only look alike", function()
    assert.equal('[{"a":1,"A":2,"a ":3}]', json(db, [[select 1 as a, 2 as "A", 3 as "a "]]))
  end)
end)

describe("a column", function()
  it("may have the name of what is known of the result, or of Lua's own", function()
    local sql = [[select 1 as affected, 2 as columns, 3 as command, 4 as "__index", 5 as "__gc", 6 as n, 7 as "__name"]]
    local rows = assert(db:query(sql))
    assert.equal("__gc __index __name affected columns command n", keys(rows[1]))
    same(1, rows[1].affected)
    same(4, rows[1].__index)
    same(1, rows.affected)
    assert.is_nil(rows[1].other)
    assert.equal('[{"affected":1,"columns":2,"command":3,"__index":4,"__gc":5,"n":6,"__name":7}]', json(db, sql))
  end)

  it("may have a number, quotes or an emoji for a name", function()
    local row = assert(db:query [[select 'x' as "1", 'y' as "a""b", 'z' as "😀"]])[1]
    same("x", row["1"])
    assert.is_nil(row[1])
    same("y", row['a"b'])
    assert.equal([==[[{"1":"x","a\"b":"y","😀":"z"}]]==], json(db, [[select 'x' as "1", 'y' as "a""b", 'z' as "😀"]]))
  end)

  it("without a name of its own has the server's", function()
    assert.equal('[{"?column?":2,"max":3}]', json(db, "select 1 + 1, max(3)"))
  end)
end)

describe("a row in JSON", function()
  it("shows what it holds by now: columns in select order, then what was added, sorted", function()
    local rows = assert(db:query "select 2 as b, 1 as a, null as n")
    local row = rows[1]
    row.z, row.c, row.a, row.b = true, { 1 }, "changed", nil
    assert.equal('{"b":null,"a":"changed","n":null,"c":[1],"z":true}', pool.json.encode(row))
    row.n = pool.null
    assert.equal('[{"b":null,"a":"changed","n":null,"c":[1],"z":true}]', pool.json.encode(rows))
  end)

  it("is one row's even inside a table of the application's", function()
    local row = assert(db:query "select null as n, 1 as a")[1]
    assert.equal('{"items":[{"n":null,"a":1}],"one":{"n":null,"a":1}}', pool.json.encode { one = row, items = { row } })
  end)

  it("refuses keys that are neither columns nor strings", function()
    local row = assert(db:query "select 1 as a")[1]
    row[1] = "x"
    assert.error_matches(function() pool.json.encode(row) end, "key")
  end)

  it("has bytes as base64 though it came by db:rows", function()
    for row in db:rows "select 'foo'::bytea as b, array['f'::bytea] as l" do
      assert.equal('{"b":"Zm9v","l":["Zg=="]}', pool.json.encode(row))
    end
  end)

  it("keeps its columns when two results of different columns are read side by side", function()
    local a, b = assert(db:query "select 1 as x, null as y"), assert(db:query "select 1 as y, null as x")
    assert.equal('[{"x":1,"y":null}]', pool.json.encode(a))
    assert.equal('[{"y":1,"x":null}]', pool.json.encode(b))
  end)
end)
