-- The lifecycle of a pool as its users know it from SQLAlchemy, on real PostgreSQL: reuse, overflow, waiting, time-outs, limits.

local pool = require "pool"
local pools = require "support.pools"
local postgres = require "support.postgres"

local function pid_of(db) return assert(db:query("select pg_backend_pid() as pid"))[1].pid end

--- What every try of another to get a connection meets: the error of an acquire that fails.
local function refused(db, options)
  local c, err = db:acquire(options)
  assert.is_nil(c)
  return err
end

describe("acquire", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("opens nothing before it is needed, and then one connection for one user", function()
    local db, name = pools.open { size = 3 }
    assert.equal(0, db:stats().total)
    assert.equal(0, postgres.count(name))
    pid_of(db)
    assert.equal(1, db:stats().total)
    assert.equal(1, postgres.count(name))
  end)

  it("lends the same connection again and again", function()
    local db = pools.open { size = 3, max_overflow = 2 }
    local pid = pid_of(db)
    for _ = 1, 20 do assert.equal(pid, pid_of(db)) end
    for _ = 1, 20 do
      local c <close> = assert(db:acquire())
      assert.equal(pid, c.pid)
    end
    local s = pools.assert_at_rest(db)
    assert.equal(1, s.opens)
    assert.equal(41, s.grants)
  end)

  it("lends the most recently used connection first", function()
    local db = pools.open { size = 2, max_overflow = 0 }
    local a, b = assert(db:acquire()), assert(db:acquire())
    local last = a.pid
    b:release()
    a:release()
    for _ = 1, 5 do assert.equal(last, pid_of(db)) end
  end)

  it("opens overflow under load, which lingers for idle_timeout and is then closed", function()
    local db, name = pools.open { size = 1, max_overflow = 2, idle_timeout = 0.15 }
    local a, b, c = assert(db:acquire()), assert(db:acquire()), assert(db:acquire())
    assert.equal(3, db:stats().total)
    assert.equal("Pool size: 1  Connections in pool: 0 Current Overflow: 2 Current Checked out connections: 3", db:status())
    local started = pool.now()
    a:release() b:release() c:release()
    assert.equal(3, db:stats().idle)
    assert.equal("Pool size: 1  Connections in pool: 3 Current Overflow: 2 Current Checked out connections: 0", db:status())
    pools.wait(function() return db:stats().total == 1 end)
    assert.is_true(pool.now() - started >= 0.15)
    assert.equal(1, postgres.count(name))
    assert.equal("Pool size: 1  Connections in pool: 1 Current Overflow: 0 Current Checked out connections: 0", db:status())
  end)

  it("closes overflow at its return with idle_timeout 0", function()
    local db = pools.open { size = 1, max_overflow = 1, idle_timeout = 0 }
    local a, b = assert(db:acquire()), assert(db:acquire())
    a:release() b:release()
    pools.wait(function() return db:stats().total == 1 end)
  end)

  it("closes what is idle for shrink_after down to min_idle", function()
    local db, name = pools.open { size = 3, max_overflow = 0, min_idle = 1, shrink_after = 0.1 }
    local a, b, c = assert(db:acquire()), assert(db:acquire()), assert(db:acquire())
    a:release() b:release() c:release()
    pools.wait(function() return db:stats().total == 1 end)
    assert.equal(1, postgres.count(name))
    local deadline = pool.now() + 0.3
    pools.wait(function()
      assert.equal(1, db:stats().total)
      return pool.now() > deadline
    end)
  end)

  it("opens min_idle connections ahead, and again when one is taken", function()
    local db, name = pools.open { size = 5, max_overflow = 0, min_idle = 2 }
    local c <close> = assert(db:acquire())
    pools.wait(function() return db:stats().idle == 2 end)
    assert.equal(3, postgres.count(name))
    local d <close> = assert(db:acquire())
    pools.wait(function() return db:stats().idle == 2 end)
    assert.equal(4, postgres.count(name))
    assert.is_true(c.pid ~= d.pid)
  end)

  it("waits for a connection and gets it when it comes back, in the order of arrival", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    local order = {}
    pool.run(function()
      local c = assert(db:acquire())
      local tasks = {}
      for i = 1, 10 do
        tasks[i] = pool.spawn(function()
          local mine <close> = assert(db:acquire())
          assert.equal(c and mine.pid, mine.pid)
          order[#order + 1] = i
          pool.sleep(0.001)
        end)
        pools.wait(function() return db:stats().waiting == i end)
      end
      assert.is_true(db:stats().queue_age > 0)
      c:release()
      for _, task in ipairs(tasks) do
        local _, err = task:join(5)
        assert.is_nil(err)
      end
    end)
    assert.same({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, order)
    pools.assert_at_rest(db)
  end)

  it("times out with the whole sentence: how long, what limit, who waits, and where the oldest lease was taken", function()
    local db = pools.open { size = 1, max_overflow = 0, timeout = 0.2 }
    local heard
    db:on("timeout", function(err) heard = err end)
    pool.run(function()
      local c <close> = assert(db:acquire()) local line = debug.getinfo(1, "l").currentline
      local err = pool.spawn(function() return refused(db) end):join(5)
      assert.equal(("timed out after 0.2 s waiting for a connection: size 1 overflow 0 reached, 1 leased, 0 waiting, " ..
        "oldest lease 0.2 s at spec/acquire_spec.lua:%d"):format(line),
        (err.message:gsub("after [%d.]+ s", "after 0.2 s"):gsub("lease [%d.]+ s", "lease 0.2 s")))
      assert.near(err.waited, tonumber(err.message:match "after ([%d.]+) s"), 0.06 * err.waited) -- of two digits
      assert.equal(err.message, (tostring(err):gsub("^timeout: ", "")))
      assert.equal("timeout", err.kind)
      assert.is_true(err.waited >= 0.2 and err.waited < 2)
      assert.is_true(err.retryable)
      assert.is_nil(err.deadlock)
      assert.equal(err, heard)
      assert.is_false(c.in_transaction)
    end)
    assert.equal(1, pools.assert_at_rest(db).timeouts)
  end)

  it("says in a time-out how many others still wait, and counts the oldest lease", function()
    local db = pools.open { size = 1, max_overflow = 1 }
    pool.run(function()
      local a <close> = assert(db:acquire())
      pools.wait(function() return db:leases()[1].held > 0.11 end)
      local b <close> = assert(db:acquire())
      local patient = pool.spawn(function() return db:query("select 1") end)
      local err = pool.spawn(refused, db, { timeout = 0.05 }):join(5)
      assert.matches("size 1 overflow 1 reached, 2 leased, 1 waiting, oldest lease %d%.%d%d? s at spec/acquire_spec.lua:", err.message)
      assert.is_true(a.pid ~= b.pid)
      b:release()
      assert.equal(1, #assert(patient:join(5)))
    end)
  end)

  it("tells of a deadlock when every holder waits in the same line", function()
    local db = pools.open { size = 2, max_overflow = 0 }
    pool.run(function()
      local function greedy(timeout)
        local c <close> = assert(db:acquire())
        pools.wait(function() return db:stats().leased == 2 end)
        local second <close>, err = db:acquire { timeout = timeout }
        return { got = second and second.pid, err = err, had = c.pid }
      end
      local a, b = pool.spawn(greedy, 0.2), pool.spawn(greedy, 10)
      local err = assert(a:join(5)).err
      assert.equal("timeout", err.kind)
      assert.is_true(err.deadlock)
      assert.matches("; every holder of a connection waits in this same line %(deadlock%)$", err.message)
      assert.equal(a:join().had, assert(b:join(5)).got)
    end)
    pools.assert_at_rest(db)
  end)

  it("calls it no deadlock while one holder works", function()
    local db = pools.open { size = 2, max_overflow = 0, timeout = 0.15 }
    pool.run(function()
      local working <close> = assert(db:acquire())
      local err = pool.spawn(function()
        local c <close> = assert(db:acquire())
        assert(c.pid)
        return refused(db)
      end):join(5)
      assert.equal("timeout", err.kind)
      assert.is_nil(err.deadlock)
      assert(working.pid)
    end)
  end)

  it("calls it no deadlock while a single statement runs", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    pool.run(function()
      local statement = pool.spawn(function() return assert(db:query "select pg_sleep(2)::text") end)
      pools.wait(function() return db:stats().leased == 1 end)
      assert.is_nil(refused(db, { timeout = 0.05 }).deadlock)
      assert(statement:join(5))
    end)
    pools.assert_at_rest(db)
  end)

  it("gives up at once with timeout 0, and still takes an idle connection", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    local err = refused(db, { timeout = 0 })
    assert.equal("timeout", err.kind)
    assert.equal(0, db:stats().opens)
    pid_of(db)
    do
      local c <close> = assert(db:acquire { timeout = 0 })
      assert(c.pid)
      local started = pool.now()
      assert.equal("timeout", refused(db, { timeout = 0 }).kind)
      assert.is_true(pool.now() - started < 0.5)
    end
    pools.assert_at_rest(db)
  end)

  it("refuses at once when max_waiting wait already", function()
    local db = pools.open { size = 1, max_overflow = 0, max_waiting = 2 }
    pool.run(function()
      local c = assert(db:acquire())
      local waiting = {}
      for i = 1, 2 do waiting[i] = pool.spawn(function() return pid_of(db) end) end
      pools.wait(function() return db:stats().waiting == 2 end)
      local rows, err = db:query("select 1")
      assert.is_nil(rows)
      assert.equal("overloaded", err.kind)
      assert.matches("max_waiting", err.message)
      assert.is_true(err.retryable)
      c:release()
      for i = 1, 2 do assert.is_number(waiting[i]:join(5)) end
    end)
    assert.equal(1, pools.assert_at_rest(db).rejected)
  end)

  it("forbids a second connection in one task with nested = error, and says so at the caller's line", function()
    local db = pools.open { size = 2, nested = "error" }
    pool.run(function()
      local c <close> = assert(db:acquire())
      local fine, message = pcall(db.acquire, db)
      assert.is_false(fine)
      assert.matches("nested = error", tostring(message))
      fine, message = pcall(function() return db:query("select 1") end)
      assert.is_false(fine)
      assert.matches("spec/acquire_spec.lua:%d+: this task holds a connection already", tostring(message))
      assert.equal(c.pid, assert(c:query("select pg_backend_pid() as pid"))[1].pid)
      assert.is_number(pool.spawn(pid_of, db):join(5))
    end)
    pid_of(db)
    pools.assert_at_rest(db)
  end)

  it("raises for a connection that was released, and for options that do not exist", function()
    local db = pools.open { size = 1 }
    local c = assert(db:acquire())
    c:release()
    c:release()
    assert.error_matches(function() c:query("select 1") end, "^c:query: this connection was released")
    assert.error_matches(function() return c.pid end, "this connection was released")
    assert.error_matches(function() db:acquire { timout = 1 } end, "unknown option 'timout' %(timeout, key, priority%)")
    assert.error_matches(function() db:acquire { timeout = -1 } end, "timeout")
    assert.error_matches(function() db:acquire(5) end, "a table is wanted")
    pools.assert_at_rest(db)
  end)

  it("raises when two tasks use one connection at once, and leaves the first alone", function()
    local db = pools.open { size = 1 }
    pool.run(function()
      local c <close> = assert(db:acquire())
      local first = pool.spawn(function() return c:query("select pg_sleep(0.1), 7 as n") end)
      pools.wait(function() return db:leases()[1].sql end)
      assert.error_matches(function() c:query("select 1") end, "another task's statement is under way")
      assert.equal(7, assert(first:join(5))[1].n)
    end)
  end)

  it("closes every connection at its return with size 0 (NullPool), unless somebody waits, and never passes its limit", function()
    local db, name = pools.open { size = 0, max_overflow = 2 }
    local seen = {}
    for _ = 1, 4 do
      local pid = pid_of(db)
      assert.is_nil(seen[pid])
      seen[pid] = true
    end
    pools.wait(function() return db:stats().total == 0 end)
    assert.equal(0, postgres.count(name))
    assert.equal(4, db:stats().opens)
    pool.run(function()
      local tasks = {}
      for i = 1, 20 do
        tasks[i] = pool.spawn(function()
          local rows = assert(db:query("select pg_sleep(0.005), pg_backend_pid() as pid"))
          assert.is_true(db:stats().total <= 2)
          return rows[1].pid
        end)
      end
      for i = 1, 20 do assert.is_number(tasks[i]:join(10)) end
    end)
    pools.wait(function() return db:stats().total == 0 end)
    assert.is_true(db:stats().opens < 24, "those who waited were given what came back")
    pools.assert_at_rest(db)
  end)

  it("keeps two pools side by side apart", function()
    local a, first = pools.open { size = 1, max_overflow = 0 }
    local b, second = pools.open { size = 2, max_overflow = 0 }
    pool.run(function()
      local c <close> = assert(a:acquire())
      local x, y = assert(b:acquire()), assert(b:acquire())
      assert.equal("timeout", refused(a, { timeout = 0 }).kind)
      assert.equal(first, assert(c:query("show application_name"))[1].application_name)
      assert.equal(second, assert(x:query("show application_name"))[1].application_name)
      x:release() y:release()
      a:close(0)
      assert.is_number(pid_of(b))
    end)
    assert.equal(0, postgres.count(first))
    assert.equal(2, postgres.count(second))
  end)
end)
