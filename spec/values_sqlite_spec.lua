-- The same values on SQLite, as far as it has them.
local pool = require "pool"
local process = require "support.process"
local values = require "support.values"
local same, one, json = values.same, values.one, values.json

local dir, db
setup(function()
  dir = process.run("mktemp -d"):gsub("\n", "")
  db = pool.new { database_url = "sqlite:///" .. dir .. "/values.db", size = 1, max_overflow = 0 }
end)
teardown(function()
  assert.equal(0, db:stats().leased)
  db:close()
  process.run("rm -rf " .. process.quote(dir))
end)

local function refused(sql, ...)
  local rows, err = db:query(sql, ...)
  assert.is_nil(rows)
  assert.equal("query", err.kind)
  return err.sqlstate, err.message, err
end

describe("a value from SQLite", function()
  it("is an integer to both ends, a float, text, bytes, or absent", function()
    local row = assert(db:query [[select 9223372036854775807 as a, -9223372036854775808 as b, 1.0 as c, -0.0 as d, 1e400 as e,
      'x' as f, '' as g, x'00ff' as h, x'' as i, null as j]])[1]
    same(math.maxinteger, row.a)
    same(math.mininteger, row.b)
    same(1.0, row.c)
    same(-0.0, row.d)
    same(math.huge, row.e)
    assert.same({ "x", "", "\0\xff", "" }, { row.f, row.g, row.h, row.i })
    assert.is_nil(row.j)
  end)

  it("is in JSON as PostgreSQL's is", function()
    assert.equal('[{"a":9223372036854775807,"c":1.0,"e":null,"f":"x\\u0000","g":"","h":"AP8=","i":"","j":null}]', json(db,
      [[select 9223372036854775807 as a, 1.0 as c, 1e400 as e, 'x' || char(0) as f, '' as g, x'00ff' as h, x'' as i, null as j]]))
  end)

  it("of a declared BOOLEAN or JSON comes back as such, and 0 or 1 elsewhere does not", function()
    assert(db:exec "create table typed (b boolean, j json, i int)")
    local sql = "insert into typed values ($1, $2, $3) returning *"
    local row = assert(db:query(sql, true, pool.jsonb { a = { 1, pool.null } }, true))[1]
    same(true, row.b)
    assert.same({ a = { 1, pool.null } }, row.j)
    same(1, row.i)
    row = assert(db:query(sql, 2, "not json", 0))[1]
    assert.same({ 2, "not json", 0 }, { row.b, row.j, row.i })
    row = assert(db:query(sql, false, "[]", nil))[1]
    same(false, row.b)
    assert.equal('{"b":false,"j":[],"i":null}', pool.json.encode(row))
    assert.equal('[{"b":true,"j":{"a":[1,null]},"i":1},{"b":2,"j":"not json","i":0},{"b":false,"j":[],"i":null}]',
      json(db, "select * from typed order by rowid"))
    same(1, one(db, "select true"))
    assert(db:exec "drop table typed")
  end)

  it("of a declared real is a float, integral or not, from returning too", function()
    assert(db:exec "create table reals (t text, r real, d double precision, f float)")
    local given = assert(db:query("insert into reals values ($1, $2, $3, $4) returning *", "x", 3, 2.0, 1))[1]
    for _, row in ipairs { given, assert(db:query "select * from reals")[1] } do
      same(3.0, row.r)
      same(2.0, row.d)
      same(1.0, row.f)
    end
    assert(db:exec "drop table reals")
  end)

  it("of a date is the text that was stored", function()
    assert(db:exec "create table dates (d date, t timestamp)")
    local row = assert(db:query("insert into dates values ($1, $2) returning *", "2024-02-29", "2024-02-29 10:00:00"))[1]
    assert.same({ "2024-02-29", "2024-02-29 10:00:00" }, { row.d, row.t })
    assert(db:exec "drop table dates")
  end)

  it("may be megabytes long, one of 2,000 columns, or in one of 100,000 rows", function()
    assert.is_true(one(db, "select replace(hex(zeroblob(5242880)), '00', '0x')") == ("0x"):rep(5242880))
    local list = {}
    for i = 1, 2000 do list[i] = ("%d as c%d"):format(i, i) end
    local rows = assert(db:query("select " .. table.concat(list, ", ")))
    for i = 1, 2000 do assert(rows[1]["c" .. i] == i) end
    local sql = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000) select i, 'row ' || i as t from n"
    rows = assert(db:query(sql))
    assert.same({ 100000, 100000, "row 100000" }, { #rows, rows.affected, rows[100000].t })
    assert.is_true(assert(db:json(sql)) == pool.json.encode(rows))
  end)

  it("that is text but not UTF-8 comes to rows as it is, and has no JSON", function()
    same("\xff", one(db, "select cast(x'ff' as text)"))
    local text, err = db:json "select cast(x'ff' as text) as t"
    assert.is_nil(text)
    assert.equal("json", err.kind)
    assert.matches('column "t", row 1', err.message)
  end)
end)

describe("a result from SQLite", function()
  it("says its command, how many were affected, and its columns", function()
    local function facts(sql, ...)
      local rows = assert(db:query(sql, ...))
      return { rows.command, rows.affected, #rows, table.concat(rows.columns, " ") }
    end
    assert.same({ "CREATE TABLE", 0, 0, "" }, facts "create table facts (id int, name text)")
    assert.same({ "INSERT", 3, 0, "" }, facts "insert into facts values (1, 'a'), (2, 'b'), (3, null)")
    assert.same({ "INSERT", 2, 2, "name id" }, facts "insert into facts values (4, 'd'), (5, 'e') returning name, id")
    assert.same({ "SELECT", 5, 5, "id name" }, facts "select * from facts")
    assert.same({ "SELECT", 0, 0, "id name" }, facts "select * from facts where id > 100")
    assert.same({ "UPDATE", 4, 0, "" }, facts("update facts set name = 'x' where id > $1", 1))
    assert.same({ "DELETE", 5, 5, "id" }, facts "delete from facts returning id")
    assert.same({ "DROP TABLE", 0, 0, "" }, facts "drop table facts")
  end)

  it("has columns of one name, of no name, and of the names of its own fields", function()
    local sql = [[select 1 as a, 'b' as b, 3 as a, 4 as "", 5 as affected, 6 as "__index"]]
    local row = assert(db:query(sql))[1]
    assert.same({ 3, 1, "b", 3, 4, 5 }, { row.a, row[1], row[2], row[3], row[""], row.affected })
    assert.equal('[{"a":3,"b":"b","":4,"affected":5,"__index":6}]', json(db, sql))
  end)

  it("shows bytes as base64 row by row where one column holds both text and bytes", function()
    local sql = "select 'text' as v union all select x'00' union all select 1 union all select 'more'"
    assert.equal('[{"v":"text"},{"v":"AA=="},{"v":1},{"v":"more"}]', json(db, sql))
  end)
end)

describe("a parameter on SQLite", function()
  it("goes by its number, wherever it stands, or as ? in turn", function()
    local row = assert(db:query("select $2 as b, $1 as a, $2 as c", 1, 2))[1]
    assert.same({ 1, 2, 2 }, { row.a, row.b, row.c })
    row = assert(db:query("select ? as a, ? as b, ?1 as c", 1, 2))[1]
    assert.same({ 1, 2, 1 }, { row.a, row.b, row.c })
  end)

  it("is what it is in Lua; nil and pool.null are NULL, and so is NaN", function()
    local row = assert(db:query([[select typeof($1) as a, typeof($2) as b, typeof($3) as c, typeof($4) as d, typeof($5) as e,
      typeof($6) as f, typeof($7) as g, $8 as h]], 1, 1.0, "x", pool.bytes "", true, pool.null, 0 / 0, nil))[1]
    assert.same({ "integer", "real", "text", "blob", "integer", "null", "null" }, { row.a, row.b, row.c, row.d, row.e, row.f, row.g })
    for _, v in ipairs { math.maxinteger, math.mininteger, 0.1, -0.0, 5e-324, math.huge, "", "é😀", values.every_byte():sub(2, 128) } do
      same(v, one(db, "select $1", v))
    end
    same(values.every_byte(), one(db, "select $1", pool.bytes(values.every_byte())))
  end)

  it("is JSON text when it is an array or json", function()
    same('[1,null,"a"]', one(db, "select json($1)", '[1,null,"a"]'))
    same("[1,2.5,null]", one(db, "select $1", pool.array { 1, 2.5, pool.null }))
    same(2, one(db, "select count(*) from json_each($1) where value > 1", pool.array { 1, 2, 3 }))
    same('{"a":1}', one(db, "select $1", pool.jsonb { a = 1 }))
  end)

  it("is counted, and refused with a NUL or when it is a plain table", function()
    assert.equal("08P01", (refused("select $1, $2", 1)))
    assert.equal("08P01", (refused("select $1", 1, nil)))
    assert.equal("22021", (refused("select $1", "a\0b")))
    assert.equal("22021", (refused("select $1", "\xff")))
    assert.equal("42P02", (refused("select :name", 1)))
    assert.equal("42601", (refused("select $1::int", 1)))
    local fine, message = pcall(db.query, db, "select $1", {})
    assert.is_false(fine)
    assert.matches("parameter %$1: .*pool%.array.*pool%.jsonb.*pool%.bytes", message)
  end)
end)
