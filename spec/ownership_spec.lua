-- Leases that are misused: released twice, used by others, kept beyond their time. Whoever did it is told; nobody else feels it.

local pool = require "pool"
local pools = require "support.pools"

local check = pools.check

local function one(settings)
  local wanted = { size = 1, max_overflow = 0, timeout = 5 }
  for name, value in pairs(settings or {}) do wanted[name] = value end
  return pools.open(wanted)
end

--- A pool of one connection and a table owned(n) in it.
local function with_table(settings)
  local db, name = one(settings)
  local label = name:gsub("%W", "_")
  check(db:exec(("drop table if exists %s; create table %s (n int)"):format(label, label)))
  return db, label
end

local function count(on, label) return check(on:query("select count(*) as n from " .. label))[1].n end

describe("a lease that is released twice", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("by two tasks at once is released once", function()
    local db = one()
    pool.run(function()
      local c = check(db:acquire())
      local a, b = pool.spawn(function() c:release() end), pool.spawn(function() c:release() end)
      a:join()
      b:join()
    end)
    assert.equal(1, pools.assert_at_rest(db).releases)
  end)

  it("leaves the next holder's lease of the same connection alone, its transaction and its rows too", function()
    local db, label = with_table()
    pool.run(function()
      local stale = check(db:acquire())
      stale:release()
      local c <close> = check(db:acquire())
      assert.equal(stale.id, c.id)
      check(c:begin())
      check(c:query("insert into " .. label .. " values (1)"))
      for row in c:rows "select generate_series(1, 1000) as n" do
        if row.n == 500 then
          stale:release()
          pool.spawn(function() stale:release() end):join()
        end
      end
      assert.equal(1, count(c, label))
      assert.is_true(c:commit())
    end)
    assert.equal(1, count(db, label))
  end)

  it("by a listener to its release is told of once", function()
    local db = one()
    local told = 0
    db:on("release", function(c, outcome)
      told = told + 1
      assert.equal("clean", outcome)
      c:release()
    end)
    pool.run(function()
      local c = check(db:acquire())
      c:release()
      assert.equal(1, told)
      for _ in db:rows "select 1" do told = told + 10 end
      assert.equal(12, told)
    end)
    assert.equal("", pools.log())
  end)

  it("by a listener to its acquisition is of no use to who acquired it, and back", function()
    local db = one()
    local off = db:on("acquire", function(c) c:release() end)
    pool.run(function()
      local c = check(db:acquire())
      assert.error_matches(function() c:query "select 1" end, "this connection was released")
      assert.equal(0, db:stats().leased)
    end)
    off()
    assert.equal(1, check(db:query "select 1 as n")[1].n)
  end)
end)

describe("a lease in another task's hands", function()
  before_each(pools.begin)
  after_each(pools.finish)

  local USES = { "query", "json", "exec", "rows", "begin", "commit", "rollback", "transaction", "cancel", "detach", "invalidate" }

  it("is of no use once its owner has ended, not even when the connection is somebody's again", function()
    local db = one()
    pool.run(function()
      local c
      pool.spawn(function() c = check(db:acquire()) end):join()
      local mine
      for _ = 1, 2 do
        for _, use in ipairs(USES) do
          local argument = use == "transaction" and print or use ~= "begin" and "select 1" or nil
          assert.error_matches(function() c[use](c, argument) end, "this connection was released")
        end
        assert.error_matches(function() return c.in_transaction end, "this connection was released")
        c:release()
        mine = mine or check(db:acquire())
      end
      assert.equal(mine.id, c.id)
      assert.is_true(mine:begin())
      assert.equal(1, check(mine:query "select 1 as n")[1].n)
      assert.is_true(mine:commit())
      mine:release()
    end)
  end)

  it("fails the statement that the other runs on it when its owner ends, and comes back clean", function()
    local db, label = with_table()
    pool.run(function()
      local other
      pool.spawn(function()
        local c = check(db:acquire())
        check(c:begin())
        check(c:query("insert into " .. label .. " values (1)"))
        other = pool.spawn(function() return c:query "select pg_sleep(30)" end)
        pool.sleep(0)
      end):join()
      local rows, err = other:join(10)
      assert.is_nil(rows)
      assert.equal("cancelled", err.kind)
      assert.matches("released while the statement ran", err.message)
      assert.equal(0, count(db, label))
    end)
    assert.equal(1, pools.assert_at_rest(db).opens)
  end)

  it("gives its rows to one reader, and the other is told", function()
    local db = one()
    pool.run(function()
      local c <close> = check(db:acquire())
      local next_row = c:rows "select n, repeat('x', 100) as x from generate_series(1, 50000) as n" -- more than is there at once
      local function read()
        local sum = 0
        for row in next_row do sum = sum + row.n end
        return sum
      end
      local a, b = pool.spawn(read), pool.spawn(read)
      assert.equal(50000 * 50001 // 2, a:join())
      assert.matches("two tasks read the same rows", select(2, b:join()))
      assert.equal(1, check(c:query "select 1 as n")[1].n)
    end)
  end)

  it("that was detached lives on when its task fails, until whoever has it lets go", function()
    local db, label = with_table()
    pool.run(function()
      local c
      local task = pool.spawn(function()
        c = check(db:acquire()):detach()
        check(c:begin())
        check(c:query("insert into " .. label .. " values (1)"))
        error { planned = true }
      end)
      assert.is_true(select(2, task:join()).planned)
      assert.equal(1, count(c, label))
      assert.is_nil(db:leases()[1].task)
      assert.equal("done", (function()
        local heir = pool.spawn(function()
          check(c:commit())
          c:release()
        end)
        heir:join()
        return heir.status
      end)())
      assert.error_matches(function() c:query "select 1" end, "this connection was released")
      assert.equal(1, count(db, label))
    end)
    assert.equal(0, pools.assert_at_rest(db).leaks)
  end)

  it("that was detached is cut by db:close like any other", function()
    local db = one()
    pool.run(function()
      local c = pool.spawn(function() return check(db:acquire()):detach() end):join()
      check(c:begin())
      db:close(0)
      local rows, err = c:query "select 1"
      assert.is_nil(rows)
      assert.equal("closed", err.kind)
      c:release()
    end)
  end)
end)

describe("a lease released amid its own work", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("by the loop that reads its rows ends that loop, and the next lease finds nothing of it", function()
    local db = one()
    pool.run(function()
      for _, leave in ipairs { false, true } do
        local c = check(db:acquire())
        local fine, err = pcall(function()
          for row in c:rows "select generate_series(1, 100000) as n" do
            if row.n == 300 then
              c:release()
              if leave then break end
            end
          end
        end)
        assert.equal(leave, fine)
        assert.is_true(leave or err:find("released while its rows were being read", 1, true) ~= nil)
        assert.equal(7, check(db:query "select 7 as n")[1].n)
      end
    end)
    local s = pools.assert_at_rest(db)
    assert.same({ 1, 0 }, { s.opens, s.leaks })
  end)

  for what, work in pairs {
    ["db:transaction's function"] = function(db, insert)
      return db:transaction(function(tx)
        insert(tx)
        tx:release()
      end)
    end,
    ["a savepoint's function"] = function(db, insert)
      return db:transaction(function(tx)
        insert(tx)
        return tx:transaction(function(inner) inner:release() end)
      end)
    end,
    ["c:transaction's function"] = function(db, insert)
      local c <close> = check(db:acquire())
      return c:transaction(function(tx)
        insert(tx)
        tx:release()
      end)
    end,
    ["s:transaction's function"] = function(db, insert)
      local s <close> = db:session()
      return s:transaction(function(tx)
        insert(tx)
        s:close()
      end)
    end,
    ["a transaction's function, which then uses the pool"] = function(db, insert)
      return db:transaction(function(tx)
        insert(tx)
        tx:release()
        return db:transaction(function(other) return other:query "select 1" end)
      end)
    end,
  } do
    it("by " .. what .. " raises, and nothing of it is committed", function()
      local db, label = with_table()
      assert.error_matches(function() work(db, function(on) check(on:query("insert into " .. label .. " values (1)")) end) end,
        "this connection was released")
      assert.equal(0, count(db, label))
      assert.equal(1, pools.assert_at_rest(db).opens)
    end)
  end

  it("by db:transaction's function that detaches it commits, and it goes back", function()
    local db, label = with_table()
    assert.is_true(db:transaction(function(tx)
      check(tx:query("insert into " .. label .. " values (1)"))
      tx:detach()
    end))
    assert.equal(1, count(db, label))
    assert.equal(0, pools.assert_at_rest(db).leaks)
  end)
end)

describe("a session", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("is told closed once its pool is, whatever it had begun", function()
    local db = one()
    pool.run(function()
      local begun, fresh = db:session(), db:session()
      check(begun:query "select 1")
      db:close(0)
      for _ = 1, 2 do
        for _, s in ipairs { begun, fresh } do
          for _, call in ipairs { "query", "json", "exec" } do assert.equal("closed", select(2, s[call](s, "select 1")).kind) end
          assert.equal("closed", select(2, pcall(s.rows, s, "select 1")).kind)
          assert.equal("closed", select(2, s:transaction(print)).kind)
        end
        local ok, err = begun:commit() -- which ends it: the next statement begins anew
        assert.is_true(ok or err.kind == "closed")
        assert.equal("closed", select(2, begun:query "select 1").kind)
        assert.is_true(fresh:commit())
      end
      begun:close()
      fresh:close()
    end)
  end)

  it("whose commit or rollback comes amid its own rows keeps its connection and its work", function()
    local db, label = with_table()
    pool.run(function()
      local s <close> = db:session()
      check(s:query("insert into " .. label .. " values (1)"))
      local n = 0
      for _ in s:rows "select n, repeat('x', 100) as x from generate_series(1, 50000) as n" do
        n = n + 1
        if n == 300 or n == 600 then
          assert.error_matches(function() s[n == 300 and "commit" or "rollback"](s) end, "rows are still being read")
        end
      end
      assert.equal(50000, n)
      assert.equal(1, count(s, label)) -- on the same connection: there is but one
      assert.is_true(s:commit())
      assert.equal(1, count(db, label))
    end)
    assert.same({ 1, 0 }, { pools.assert_at_rest(db).opens, db:stats().leaks })
  end)

  it("whose connection somebody else gave back says so once, and begins anew", function()
    local db, label = with_table()
    pool.run(function()
      local s <close> = db:session()
      check(s:query("insert into " .. label .. " values (1)"))
      s.connection:release()
      assert.error_matches(function() s:commit() end, "this connection was released")
      assert.equal(0, count(s, label))
    end)
  end)
end)

describe("a second connection wanted by who holds the only one", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("is explained as a deadlock, in whatever way it is asked for", function()
    local db = one { timeout = 0.05 }
    pool.run(function()
      local c <close> = check(db:acquire { timeout = 20 })
      for what, ask in pairs {
        acquire = function() return db:acquire() end,
        query = function() return db:query "select 1" end,
        transaction = function() return db:transaction(print) end,
        session = function() return db:session():query "select 1" end,
        rows = function() return nil, select(2, pcall(db.rows, db, "select 1")) end,
      } do
        local value, err = ask()
        assert.is_nil(value)
        assert.equal("timeout", err.kind, what)
        assert.is_true(err.deadlock, what)
        assert.matches("oldest lease [%d.]+ s at spec/ownership_spec.lua:%d+; every holder of a connection waits in this same line",
          err.message)
      end
      assert.equal(1, check(c:query "select 1 as n")[1].n)
    end)
    assert.equal(5, pools.assert_at_rest(db).timeouts)
  end)
end)

describe("a finalizer of the user's own", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("that gives back what others have by now, amid whatever made the collector run, disturbs no answer", function()
    local db = one { size = 3 }
    local mode = collectgarbage "generational"
    local collected = 0
    pool.run(function()
      local tasks = {}
      for t = 1, 4 do
        tasks[t] = pool.spawn(function()
          local stale = {}
          for i = 1, 150 do
            local c = check(db:acquire())
            if i % 3 == 0 then check(c:begin()) end
            stale[#stale + 1] = setmetatable({}, { __gc = function()
              c:release()
              collected = collected + 1
            end })
            assert.equal(i * t, check(c:query("select $1::int as n, repeat('x', 100) as x", i * t))[1].n)
            if i % 5 == 0 then for row in c:rows "select generate_series(1, 600) as n" do if row.n == i then break end end end
            collectgarbage(i % 7 == 0 and "collect" or "step")
            c:release()
            if i % 10 == 0 then stale = {} end
          end
          return t
        end)
      end
      for t = 1, 4 do assert.equal(t, tasks[t]:join(30)) end
    end)
    collectgarbage(mode)
    assert.is_true(collected > 100, collected .. " were collected in the meantime")
    assert.same({ 3, 0 }, { pools.assert_at_rest(db).opens, db:stats().leaks })
  end)

  it("that closes the pool with leases out is refused, since that waits, and nothing is lost", function()
    local db = one()
    local said
    pool.run(function()
      local c <close> = check(db:acquire())
      setmetatable({}, { __gc = function() said = select(2, pcall(db.close, db, 0)) end })
      collectgarbage()
      assert.matches("cannot wait across a C%-call boundary", said)
      local rows, err = c:query "select 1 as n"
      assert.is_true(rows and rows[1].n == 1 or err.kind == "closed")
    end)
  end)
end)
