-- One application file serves both databases: scripts and read-only transactions do the same on PostgreSQL and on SQLite.
local pool = require "pool"
local pools = require "support.pools"
local process = require "support.process"

local check = pools.check
local dir, db

local endless = {
  postgres = "select pg_sleep(30)",
  sqlite = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n",
}

--- One connection, so that what one use leaves on it meets the next one.
local function open(driver)
  local url = driver == "sqlite" and "sqlite:///" .. dir .. "/both.db" or nil
  db = pools.open { database_url = url, size = 1, max_overflow = 0 }
  check(db:exec "drop table if exists child; drop table if exists kept; create table kept (n int primary key)")
end

local function kept(n)
  local found = {}
  for i, row in ipairs(check(db:query "select n from kept order by n")) do found[i] = row.n end
  return assert.same(n, found)
end

local function state_of(ok, err)
  assert.is_nil(ok)
  return err.sqlstate
end

local function before() dir = process.run("mktemp -d"):gsub("\n", "") end
local function after() process.run("rm -rf " .. process.quote(dir)) end

for _, driver in ipairs { "postgres", "sqlite" } do
  describe("a script on " .. driver, function()
    setup(before)
    teardown(after)
    before_each(function()
      pools.begin()
      open(driver)
    end)
    after_each(pools.finish)

    it("that fails leaves nothing of itself behind, and no transaction", function()
      local c <close> = check(db:acquire())
      assert.equal("42P01", state_of(c:exec [[create table child (n int); insert into kept values (1);
        update kept set n = 2; insert into nowhere values (1)]]))
      assert.is_false(c.in_transaction)
      assert.equal("23505", state_of(c:exec "insert into kept values (1); insert into kept values (1)"))
      assert.equal("42601", state_of(c:exec "insert into kept values (1); insert intoo kept values (2)"))
      assert.equal("42P01", state_of(c:query "select * from child"))
      c:release()
      kept {}
    end)

    it("that fails only as it commits leaves nothing behind either", function()
      check(db:exec "create table child (n int references kept deferrable initially deferred)")
      assert.equal("23503", state_of(db:exec "insert into kept values (1); insert into child values (7); select 1"))
      kept {}
      assert.is_true(db:exec "insert into child values (7); insert into kept values (7)")
      kept { 7 }
    end)

    it("that is stopped leaves nothing behind", function()
      local ok, err = pool.deadline(0.1, db.exec, db, "insert into kept values (1); " .. endless[driver] .. "; select 1")
      assert.is_nil(ok)
      assert.equal("deadline", err.kind)
      kept {}
    end)

    it("that begins and commits keeps what it committed, with what came before its begin", function()
      local script = "insert into kept values (1); begin; insert into kept values (2); commit;"
      assert.equal("42P01", state_of(db:exec(script .. "insert into kept values (3); insert into nowhere values (1)")))
      kept { 1, 2 }
      assert.equal("42P01", state_of(db:exec "insert into kept values (3); begin; insert into nowhere values (1); commit"))
      kept { 1, 2 }
    end)

    it("may leave a transaction open on a lease, which then holds all of it", function()
      local c = check(db:acquire())
      assert.is_true(c:exec "insert into kept values (1); begin")
      assert.is_true(c.in_transaction)
      check(c:query "insert into kept values (2)")
      c:release()
      kept {}
    end)

    it("ends what it did so far with commit or rollback, and goes on in a new transaction", function()
      assert.is_true(db:exec "insert into kept values (1); rollback; insert into kept values (2)")
      kept { 2 }
      assert.equal("42P01", state_of(db:exec [[insert into kept values (3); commit;
        insert into kept values (4); insert into nowhere values (1)]]))
      kept { 2, 3 }
    end)

    it("inside a transaction is a part of it", function()
      local ok = db:transaction(function(tx)
        check(tx:exec "insert into kept values (1); insert into kept values (2)")
        return nil, "no"
      end)
      assert.is_nil(ok)
      kept {}
      check(db:transaction(function(tx) check(tx:exec "insert into kept values (1); insert into kept values (2)") end))
      kept { 1, 2 }
    end)

    it("of one statement may be one that no transaction allows", function()
      assert.is_true(db:exec "vacuum;")
      kept {}
    end)
  end)

  describe("a read-only transaction on " .. driver, function()
    setup(before)
    teardown(after)
    before_each(function()
      pools.begin()
      open(driver)
      check(db:query "insert into kept values (1)")
    end)
    after_each(pools.finish)

    local function read_only(fn) return db:transaction(fn, { read_only = true }) end

    it("reads, and refuses every kind of write with 25006", function()
      for _, sql in ipairs { "insert into kept values (2)", "update kept set n = 3", "delete from kept", "create table child (n int)",
        "drop table kept", "create index k on kept (n)", "insert into kept values (2) returning n",
        "with w as (select 2 as n) insert into kept select n from w" } do
        local ok, err = read_only(function(tx)
          assert.equal(1, check(tx:query "select n from kept")[1].n)
          return tx:query(sql)
        end)
        assert.equal("25006", state_of(ok, err), sql)
        assert.matches("read%-only transaction", err.message)
      end
      kept { 1 }
    end)

    it("refuses a write by script, as JSON and as a stream", function()
      assert.equal("25006", state_of(read_only(function(tx) return tx:exec "select 1; insert into kept values (2)" end)))
      assert.equal("25006", state_of(read_only(function(tx) return tx:json "insert into kept values (2) returning n" end)))
      local fine, err = pcall(read_only, function(tx)
        for row in tx:rows "insert into kept values (2) returning n" do error(row.n) end
      end)
      assert.is_false(fine)
      assert.equal("25006", err.sqlstate)
      kept { 1 }
    end)

    it("has savepoints, and refuses in them too", function()
      check(read_only(function(tx)
        assert.equal("25006", state_of(tx:transaction(function(inner) return inner:query "insert into kept values (2)" end)))
        assert.equal(1, check(tx:query "select n from kept")[1].n)
      end))
      kept { 1 }
    end)

    it("leaves a connection that writes, however it ended", function()
      local n = 1
      local function writes()
        n = n + 1
        check(db:query("insert into kept values ($1)", n))
      end
      check(read_only(function() end))
      writes()
      assert.is_nil((read_only(function() return nil, "no" end)))
      writes()
      assert.is_false((pcall(read_only, function() error "no" end)))
      writes()
      assert.is_nil((read_only(function(tx) return tx:query "delete from kept" end)))
      writes()
      assert.is_nil((pool.deadline(0.1, read_only, function(tx) return tx:query(endless[driver]) end)))
      writes()
      local c = check(db:acquire())
      check(c:begin { read_only = true })
      c:release() -- in the transaction
      writes()
      c = check(db:acquire())
      check(c:begin { read_only = true })
      check(c:exec "commit; begin; insert into kept values (100); commit")
      c:release()
      writes()
      pool.run(function()
        local task = pool.spawn(function() return read_only(function(tx) return tx:query(endless[driver]) end) end)
        pools.wait(function() return db:stats().leased == 1 end)
        task:cancel()
      end)
      writes()
      assert.equal(n + 1, #check(db:query "select n from kept"))
    end)
  end)
end

describe("a script on sqlite", function()
  setup(before)
  teardown(after)
  before_each(function()
    pools.begin()
    open "sqlite"
    check(db:exec "create table child (n int references kept)")
  end)
  after_each(pools.finish)

  it("has its settings of the connection outside of its transaction, where they count", function()
    assert.is_true(db:exec "pragma foreign_keys = off; insert into child values (7); insert into kept values (1); pragma foreign_keys = on")
    assert.equal(1, check(db:query "pragma foreign_keys")[1].foreign_keys)
    assert.equal("42P01", state_of(db:exec [[insert into kept values (2); PRAGMA main . foreign_keys; insert into kept values (3);
      insert into nowhere values (1)]]))
    kept { 1, 2 }
    assert.is_true(db:exec "insert into kept values (3); select 1; /* and */ vacuum; insert into kept values (4)")
    kept { 1, 2, 3, 4 }
  end)

  it("may begin a transaction of its own in every way that SQLite has", function()
    for i, begin in ipairs { "begin", "begin immediate", "begin exclusive transaction", "savepoint a" } do
      local finish = begin == "savepoint a" and "release a" or "end"
      assert.is_true(db:exec(("%s; insert into kept values (%d); %s; select 1"):format(begin, 2 * i, finish)))
      assert.is_true(db:exec(("insert into kept values (%d); %s; %s"):format(2 * i + 1, begin, finish)))
    end
    kept { 2, 3, 4, 5, 6, 7, 8, 9 }
  end)

  it("has its version inside of it", function()
    local version = check(db:query "pragma user_version")[1].user_version
    assert.equal("42P01", state_of(db:exec "pragma user_version = 7; insert into kept values (1); insert into nowhere values (1)"))
    assert.equal(version, check(db:query "pragma user_version")[1].user_version)
  end)
end)
