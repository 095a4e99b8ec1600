-- The text of a statement on PostgreSQL, the statements a connection keeps, and what a connection remembers.
local pool = require "pool"
local postgres = require "support.postgres"
local values = require "support.values"
local same, one = values.same, values.one

local db, close
setup(function() db, close = values.open() end)
teardown(function() close() end)

local function refused(sql, ...)
  local rows, err = db:query(sql, ...)
  assert.is_nil(rows)
  assert.equal("query", err.kind)
  return err.sqlstate, err.message, err
end

describe("the text of a statement", function()
  it("with a NUL, of two statements or with a fault is refused, and the connection goes on", function()
    assert.equal("22021", (refused "select 1\0; select 2"))
    assert.equal("42601", (refused "select 1; select 2"))
    local state, message, err = refused "select from where"
    assert.equal("42601", state)
    assert.matches("syntax error", message)
    assert.equal(13, err.position)
    assert.equal("22P05", (refused [[select '"\u0000"'::jsonb]]))
    assert.equal("42P01", (refused "select * from nowhere"))
    assert.equal("42703", (refused "select nothing"))
    same(1, one(db, "select 1"))
  end)

  it("that is not UTF-8 is refused by the server", function()
    assert.equal("22021", (refused "select '\xff'"))
    same("ü", one(db, "select 'ü'"))
  end)

  it("without a statement in it is no rows", function()
    for _, sql in ipairs { "", " \n", "-- a comment", "/* a comment */", ";" } do
      local rows = assert(db:query(sql))
      assert.same({ 0, 0, "" }, { #rows, rows.affected, rows.command })
      assert.equal("[]", db:json(sql))
      assert.is_true(db:exec(sql))
    end
  end)

  it("that is COPY is refused, however it is sent, and the connection goes on", function()
    for _, sql in ipairs { "copy (select generate_series(1, 100000)) to stdout", "copy pg_class from stdin" } do
      assert.equal("0A000", (refused(sql)))
      same(1, one(db, "select 1"))
      local done, err = db:exec(sql)
      assert.is_nil(done)
      assert.equal("0A000", err.sqlstate)
      same(1, one(db, "select 1"))
      assert.is_false((pcall(function() return db:rows(sql)() end)))
      same(1, one(db, "select 1"))
    end
  end)

  it("may be a megabyte long, and end in a semicolon", function()
    local long = ("x"):rep(1 << 20)
    assert.is_true(one(db, "select '" .. long .. "'") == long)
    same(1, one(db, "select 1;"))
    same(1, one(db, "select 1 ; -- done"))
  end)

  it("must be a string", function()
    for _, bad in ipairs { 1, true, {} } do
      local fine, message = pcall(db.query, db, bad)
      assert.is_false(fine)
      assert.matches("the SQL must be a string, not " .. type(bad), message)
    end
  end)

  it("has every word on what a constraint refused", function()
    assert(db:exec "create temp table parent (id int primary key, n int not null constraint positive check (n > 0))")
    assert(db:query "insert into parent values (1, 1)")
    local _, _, err = refused("insert into parent values ($1, 1)", 1)
    assert.same({ "23505", "parent_pkey", "parent" }, { err.sqlstate, err.constraint, err.table })
    assert.matches("already exists", err.detail)
    _, _, err = refused "insert into parent values (2, null)"
    assert.same({ "23502", "n", "parent" }, { err.sqlstate, err.column, err.table })
    _, _, err = refused "insert into parent values (2, -1)"
    assert.same({ "23514", "positive" }, { err.sqlstate, err.constraint })
    assert.is_falsy(err.retryable)
    assert(db:exec "drop table parent")
  end)
end)

describe("db:exec", function()
  it("runs several statements as one transaction and wants no parameters", function()
    assert.is_true(db:exec "create temp table script (a int); insert into script values (1); insert into script values (2)")
    same(2, one(db, "select count(*) from script"))
    local done, err = db:exec "insert into script values (3); select 1 / 0; insert into script values (4)"
    assert.is_nil(done)
    assert.equal("22012", err.sqlstate)
    same(2, one(db, "select count(*) from script"))
    local fine, message = pcall(function() db:exec("select $1", 1) end)
    assert.is_false(fine)
    assert.matches("values_statement_spec.lua:%d+: .*no parameters", message)
    assert(db:exec "drop table script")
  end)

  it("that leaves a transaction open has it rolled back before the next statement", function()
    assert(db:exec "create table left_open (a int)")
    assert(db:exec "begin; insert into left_open values (1)")
    same(0, one(db, "select count(*) from left_open"))
    assert(db:exec "drop table left_open")
  end)
end)

describe("the statements that a connection keeps", function()
  it("are bounded, and all of six hundred work, again and again", function()
    for round = 1, 2 do
      for i = 1, 600 do
        if one(db, ("select $1::int + %d"):format(i), round) ~= i + round then error("statement " .. i) end
      end
    end
    local kept = one(db, "select count(*) from pg_prepared_statements")
    assert.is_true(kept > 0 and kept <= 256, kept .. " are kept")
  end)

  it("are none with statement_cache = 0", function()
    local other, close_other = values.open { statement_cache = 0 }
    for i = 1, 3 do same(i, one(other, "select $1::int", i)) end
    same(0, one(other, "select count(*) from pg_prepared_statements"))
    close_other()
  end)

  it("may be dropped behind our back", function()
    for i = 1, 2 do same(i, one(db, "select $1::int as dropped", i)) end
    assert(db:exec "deallocate all")
    for i = 3, 4 do same(i, one(db, "select $1::int as dropped", i)) end
    assert(db:query "deallocate all")
    same(5, one(db, "select $1::int as dropped", 5))
    assert(db:exec "discard all")
    same(6, one(db, "select $1::int as dropped", 6))
  end)

  it("follow a table that changes, outside a transaction unseen", function()
    assert(db:exec "create table changing (a int); insert into changing values (1)")
    for _ = 1, 3 do assert.equal('[{"a":1}]', db:json "select * from changing") end
    assert(db:exec "alter table changing add column b text default 'new'")
    assert.equal('[{"a":1,"b":"new"}]', values.json(db, "select * from changing"))
    assert(db:exec "alter table changing alter column a type text")
    assert.equal('[{"a":"1","b":"new"}]', values.json(db, "select * from changing"))
    assert(db:exec "drop table changing; create table changing (c bool); insert into changing values (true)")
    assert.equal('[{"c":true}]', values.json(db, "select * from changing"))
    for row in db:rows "select * from changing" do same(true, row.c) end
    assert(db:exec "drop table changing")
    assert.equal("42P01", (refused "select * from changing"))
  end)

  it("follow a table that another connection changes", function()
    assert(db:exec "create table changing (a int); insert into changing values (1)")
    for _ = 1, 3 do assert.equal('[{"a":1}]', db:json "select * from changing") end
    postgres.sql "alter table changing add column b int default 2"
    assert.equal('[{"a":1,"b":2}]', db:json "select * from changing")
    postgres.sql "drop table changing"
  end)

  it("in a transaction give the server's error when the table changed, and work after it", function()
    assert(db:exec "create table changing (a int)")
    for _ = 1, 3 do assert(db:query "select * from changing") end
    local done, err = db:transaction(function(tx)
      assert(tx:exec "alter table changing add column b int")
      return tx:query "select * from changing"
    end)
    assert.is_nil(done)
    assert.equal("0A000", err.sqlstate)
    assert(db:query "select * from changing")
    assert(db:exec "drop table changing")
  end)
end)

describe("a connection", function()
  it("sends the server's notices to the log", function()
    local lines, log = {}, pool.log
    pool.log = function(level, message) lines[#lines + 1] = level .. " " .. message end
    assert(db:exec "do $$ begin raise notice 'hello'; raise warning 'beware'; end $$")
    pool.log = log
    assert.same({ "info NOTICE: hello", "warn WARNING: beware" }, lines)
  end)

  it("forgets what was SET at its return with reset = discard", function()
    local other, close_other = values.open { reset = "discard" }
    assert(other:exec "set work_mem = '7MB'; create temp table gone (a int); prepare p as select 1")
    assert.not_equal("7MB", one(other, "show work_mem"))
    same(0, one(other, "select count(*) from pg_class where relname = 'gone'"))
    for i = 1, 3 do same(i, one(other, "select $1::int", i)) end
    close_other()
  end)

  it("keeps what was SET with reset = rollback, but nothing of a transaction", function()
    local other, close_other = values.open { reset = "rollback" }
    do
      local c <close> = assert(other:acquire())
      assert(c:query "set work_mem = '7MB'")
      assert(c:begin())
      assert(c:query "set work_mem = '8MB'")
      assert(c:query "set local statement_timeout = 1234")
    end
    same("7MB", one(other, "show work_mem"))
    same("0", one(other, "show statement_timeout"))
    close_other()
  end)

  it("streams rows with parameters, and is back when the loop is left", function()
    local seen = 0
    for row in db:rows("select i from generate_series(1, $1) i", 1000000) do
      seen = row.i
      if row.i == 300 then break end
    end
    same(300, seen)
    assert.equal(0, db:stats().leased)
    same(1, one(db, "select 1"))
    local fine, err = pcall(function() for _ in db:rows("select 1 / (3 - i) from generate_series(1, 5) i") do seen = seen + 1 end end)
    assert.is_false(fine)
    assert.equal("22012", err.sqlstate)
    assert.equal(0, db:stats().leased)
    assert.is_false((pcall(function() for _ in db:rows("select $1", {}) do seen = seen + 1 end end)))
    assert.equal(0, db:stats().leased)
  end)
end)
