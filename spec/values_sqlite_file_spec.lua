-- SQLite's database files: errors, locks, transactions, what is set on each connection.
local pool = require "pool"
local process = require "support.process"
local values = require "support.values"
local same, one = values.same, values.one

local dir, url, db
setup(function()
  dir = process.run("mktemp -d"):gsub("\n", "")
  url = "sqlite:///" .. dir .. "/values.db"
  db = pool.new { database_url = url, size = 4, max_overflow = 0 }
end)
teardown(function()
  assert.equal(0, db:stats().leased)
  db:close()
  process.run("rm -rf " .. process.quote(dir))
end)

local function state_of(sql, ...)
  local rows, err = db:query(sql, ...)
  assert.is_nil(rows)
  return err.sqlstate, err
end

describe("an error of SQLite's", function()
  it("has PostgreSQL's SQLSTATE, and the names that SQLite tells", function()
    assert(db:exec [[create table parent (id integer primary key, name text not null unique, n int check (n > 0));
      create table child (parent int references parent(id)); insert into parent values (1, 'a', 1)]])
    local state, err = state_of("insert into parent (name) values ($1)", "a")
    assert.same({ "23505", "parent", "name" }, { state, err.table, err.column })
    state, err = state_of "insert into parent (name) values (null)"
    assert.same({ "23502", "parent", "name" }, { state, err.table, err.column })
    assert.equal("23503", (state_of "insert into child values (7)"))
    assert.equal("23514", (state_of "insert into parent (name, n) values ('b', -1)"))
    assert.equal("42601", (state_of "select from where"))
    assert.equal("42601", (state_of "select 1; select 2"))
    assert.equal("42P01", (state_of "select * from nowhere"))
    assert.equal("42703", (state_of "select nothere"))
    assert.equal("22021", (state_of "select 1\0"))
    assert.equal("42P07", (state_of "create table parent (id int)"))
    same(1, one(db, "select count(*) from parent"))
  end)

  it("in a script undoes what ran before it, and a script takes no parameters", function()
    local done, err = db:exec "create table scripted (a int); insert into scripted values (1); insert into nowhere values (2)"
    assert.is_nil(done)
    assert.equal("42P01", err.sqlstate)
    same(0, one(db, "select count(*) from sqlite_master where name = 'scripted'"))
    local fine, message = pcall(db.exec, db, "select $1", 1)
    assert.is_false(fine)
    assert.matches("no parameters", message)
    assert(db:exec "")
    assert.same({}, assert(db:query "-- nothing"))
  end)
end)

describe("a file of SQLite's", function()
  it("is made for its owner alone, with a write-ahead log, and has foreign keys on", function()
    assert(db:exec "create table if not exists made (a int)")
    assert.equal("600", (process.run("stat -c %a " .. process.quote(dir .. "/values.db")):gsub("\n", "")))
    same("wal", one(db, "pragma journal_mode"))
    same(1, one(db, "pragma foreign_keys"))
  end)

  it("in memory is one connection, which keeps what it holds", function()
    local memory = pool.new { database_url = "sqlite:///:memory:", size = 5 }
    assert(memory:exec "create table kept (a int)")
    local answers = {}
    pool.run(function()
      for i = 1, 20 do
        pool.spawn(function() answers[i] = assert(memory:query("insert into kept values ($1) returning a", i))[1].a end)
      end
    end)
    for i = 1, 20 do same(i, answers[i]) end
    same(20, one(memory, "select count(*) from kept"))
    assert.equal(1, memory:stats().total)
    memory:close()
  end)

  it("that another pool writes is waited for, as long as the deadline allows", function()
    local other = pool.new { database_url = url, size = 1, max_overflow = 0 }
    assert(db:exec "create table locked (a int)")
    local order, late = {}, nil
    pool.run(function()
      local held = assert(db:acquire())
      assert(held:begin())
      assert(held:query "insert into locked values (1)")
      late = select(2, pool.deadline(0.1, other.query, other, "insert into locked values (2)"))
      local waiting = pool.spawn(function()
        assert(other:query "insert into locked values (3)")
        order[#order + 1] = "waiter"
        return true
      end)
      pool.sleep(0.02)
      order[#order + 1] = "holder"
      assert(held:commit())
      held:release()
      assert(waiting:join(5))
    end)
    assert.equal("deadline", late.kind)
    assert.same({ "holder", "waiter" }, order)
    assert.equal('[{"a":1},{"a":3}]', db:json "select a from locked order by a")
    other:close()
  end)

  it("that stays locked is 55P03, and may be tried again", function()
    local other = pool.new { database_url = url, size = 1, max_overflow = 0 }
    assert(db:exec "create table if not exists locked (a int)")
    local c <close> = assert(db:acquire())
    assert(c:begin())
    local rows, err = other:query "insert into locked values (9)"
    assert.is_nil(rows)
    assert.same({ "query", "55P03", true }, { err.kind, err.sqlstate, err.retryable })
    assert(c:rollback())
    assert(other:query "insert into locked values (10)")
    other:close()
  end)
end)

describe("a file that is taken away or replaced under its connections", function()
  local path, other

  --- A pool of three on a file of its own, every connection open; `kept` holds 1. Beside it a file whose `kept` holds 2.
  before_each(function()
    path = process.run("mktemp -d " .. dir .. "/XXXXXX"):gsub("\n", "") .. "/a.db"
    for value, file in ipairs { path, path .. ".new" } do
      local made = pool.new { database_url = "sqlite:///" .. file, size = 3 }
      assert(made:exec(("create table kept (n int); insert into kept values (%d)"):format(value)))
      assert.is_true(made:close()) -- and waits: what is in its journal is in the file then
    end
    other = pool.new { database_url = "sqlite:///" .. path, size = 3, max_overflow = 0 }
    local held = {}
    for i = 1, 3 do held[i] = assert(other:acquire()) end
    for i = 1, 3 do held[i]:release() end
  end)
  after_each(function() other:close() end)

  local function replace() process.run(("rm -f %s %s-wal %s-shm; mv %s.new %s"):format(path, path, path, path, path)) end

  it("costs no query: all see the other one from then on, and what they write is in it", function()
    same(1, one(other, "select n from kept"))
    replace()
    for i = 1, 9 do
      same(2, one(other, "select min(n) from kept"))
      assert(other:query("insert into kept values ($1)", 10 + i))
    end
    assert.equal(3, other:stats().lost)
    other:close()
    local later <close> = pool.new { database_url = "sqlite:///" .. path }
    same(10, one(later, "select count(*) from kept"))
    same("ok", one(later, "pragma integrity_check"))
  end)

  it("is told as lost on a lease, and in a transaction, which cannot be committed to a file that is gone", function()
    local c, tx = assert(other:acquire()), assert(other:acquire())
    assert(tx:begin())
    assert(tx:query "insert into kept values (3)")
    replace()
    for _, call in ipairs { function() return c:query "select 1" end, function() return tx:commit() end } do
      local done, err = call()
      assert.is_nil(done)
      assert.equal("lost", err.kind)
      assert.equal("the database file was removed or replaced", err.message)
    end
    c:release()
    tx:release()
    same(1, one(other, "select count(*) from kept"))
  end)

  it("is seen by the check of a connection that was idle", function()
    assert(other:configure { pre_ping_after = 0 })
    replace()
    same(2, one(other, "select n from kept"))
    assert.is_true(other:stats().check_failures >= 1)
  end)

  it("is seen by a reset that would open the file anew", function()
    local only <close> = pool.new { database_url = "sqlite:///" .. path, size = 1, max_overflow = 0, reset = "discard", pre_ping = false }
    pool.run(function()
      local c = assert(only:acquire())
      assert(c:query "select n from kept")
      replace()
      c:release()
      same(2, one(only, "select n from kept"))
      assert.equal(2, only:stats().opens) -- it was closed, and not opened anew by the reset itself
    end)
  end)

  it("is made anew where nothing was put in its place", function()
    process.run(("rm -f %s*"):format(path))
    local _, err = other:query "select n from kept"
    assert.equal("42P01", err.sqlstate)
    assert(other:exec "create table kept (n int); insert into kept values (4)")
    same(4, one(other, "select n from kept"))
  end)
end)

describe("a damaged file", function()
  it("that was put right is read anew, by connections that have met the damage too", function()
    local path = dir .. "/damaged.db"
    local other <close> = pool.new { database_url = "sqlite:///" .. path, size = 1, max_overflow = 0 }
    local function sum() return other:query "select sum(length(pad)) as n from large" end
    assert(other:exec [[create table large (n integer primary key, pad text);
      with recursive s(n) as (select 1 union all select n + 1 from s where n < 3000)
      insert into large select n, hex(zeroblob(1000)) from s]])
    assert(other:query "pragma wal_checkpoint(truncate)")
    process.run(("cp %s %s.good; perl -e 'open F, \"+<\", $ARGV[0]; for (5 .. 1500) { seek F, $_ * 4096, 0; print F qq(\\xff) x 100 }' %s")
      :format(path, path, path))
    assert(other:query "pragma shrink_memory")
    for _ = 1, 3 do
      local rows, err = sum()
      assert.is_nil(rows)
      assert.equal("XX001", err.sqlstate)
    end
    process.run(("cat %s.good >%s"):format(path, path))
    assert.equal(6000000, assert(sum())[1].n)
    assert.equal(1, other:stats().opens)
  end)
end)

describe("a transaction on SQLite", function()
  setup(function() assert(db:exec "create table counted (n int); insert into counted values (0)") end)

  it("takes the write lock at its beginning, so that none of twenty is lost or fails half-way", function()
    pool.run(function()
      for _ = 1, 20 do
        pool.spawn(function()
          assert(db:transaction(function(tx)
            local n = assert(tx:query "select n from counted")[1].n
            pool.sleep(0)
            assert(tx:query("update counted set n = $1", n + 1))
          end))
        end)
      end
    end)
    same(20, one(db, "select n from counted"))
  end)

  it("that only reads waits for no writer, and sees one state throughout", function()
    local first, second
    pool.run(function()
      assert(db:transaction(function(reader)
        first = one(reader, "select n from counted")
        assert(db:exec "update counted set n = 100") -- on another connection
        second = one(reader, "select n from counted")
      end, { read_only = true }))
    end)
    same(20, first)
    same(20, second)
    same(100, one(db, "select n from counted"))
  end)

  it("is rolled back when its function raises", function()
    local fine = pcall(db.transaction, db, function(tx)
      assert(tx:query "update counted set n = -1")
      error "no"
    end)
    assert.is_false(fine)
    same(100, one(db, "select n from counted"))
  end)
end)

describe("a long statement on SQLite", function()
  local endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select "

  it("is interrupted by a deadline, and the connection goes on", function()
    local rows, err = pool.deadline(0.05, db.query, db, endless .. "count(*) from n")
    assert.is_nil(rows)
    assert.equal("deadline", err.kind)
    for _ = 1, 8 do same(1, one(db, "select 1")) end
  end)

  it("streams, and is left by break", function()
    local last
    for row in db:rows(endless .. "i from n where i > $1", 10) do
      last = row.i
      if last == 2000 then break end
    end
    same(2000, last)
    assert.equal(0, db:stats().leased)
    assert(db:exec "create table after_break (a int); drop table after_break") -- no read lock is left
  end)

  it("streams to its end, and raises an error in the middle", function()
    local count = 0
    for row in db:rows("with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000) select i from n") do
      count = count + row.i
    end
    same(500500, count)
    local fine, err = pcall(function()
      for row in db:rows(endless .. "abs(case when i = 600 then -9223372036854775808 else i end) as a from n") do count = row.a end
    end)
    assert.is_false(fine)
    assert.is_true(count >= 256 and count < 600, "rows before the error were seen, none after it")
    assert.equal("22003", err.sqlstate)
    assert.equal(0, db:stats().leased)
  end)

  it("keeps up with a table that changes and six hundred statements", function()
    assert(db:exec "create table changing (a int); insert into changing values (1)")
    for _ = 1, 3 do assert.equal('[{"a":1}]', db:json "select * from changing") end
    assert(db:exec "alter table changing add column b text default 'new'")
    assert.equal('[{"a":1,"b":"new"}]', values.json(db, "select * from changing"))
    for _ = 1, 2 do
      for i = 1, 600 do assert(one(db, ("select $1 + %d"):format(i), 1) == i + 1) end
    end
    assert(db:exec "drop table changing")
  end)
end)

describe("a script that ends", function()
  -- Whether or not it closes its pool, what it wrote is in the database's own file: that may be copied.
  for _, ending in ipairs { "", "db:close()" } do
    it("leaves its writes in the file and nothing beside it" .. (ending == "" and ", closed or not" or ""), function()
      local path = dir .. "/ends.db"
      local code = ([[local pool = require "pool"
        local db = pool.new { database_url = "sqlite:///%s" }
        assert(db:exec "create table if not exists t (n int); insert into t values (1)") %s]]):format(path, ending)
      for _ = 1, 5 do
        local p <close> = process.start { "lua5.4", "-e", code }
        assert.equal(0, p:wait(), p:stderr())
        assert.equal(path .. "\n", process.run("ls " .. path .. "*"))
      end
      assert.equal("SQLite", process.run("head -c 6 " .. process.quote(path)))
    end)
  end
end)
