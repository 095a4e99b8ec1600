-- Many tasks over few connections: every answer right, never a connection too many at the server, nothing left behind.

local pool = require "pool"
local pools = require "support.pools"
local postgres = require "support.postgres"

local SIZE, OVERFLOW = 2, 3

--- Looks at the server all the while, over a pool of its own, until `over()`; returns the most connections seen under `name`, and
--- how often it looked.
local function watch(outside, name, over)
  local most, looks = 0, 0
  while not over() do
    local n = assert(outside:query("select count(*) as n from pg_stat_activity where application_name = $1", name))[1].n
    most, looks = math.max(most, n), looks + 1
  end
  return { most = most, looks = looks }
end

--- Runs `request(db, i)` as `count` tasks at once beside a watch of the server. Every result must be i.
local function storm(db, name, count, request)
  local outside = pools.open { size = 1, max_overflow = 0 }
  assert(outside:query("select 1"))
  pool.run(function()
    local done = false
    local watching = pool.spawn(watch, outside, name, function() return done end)
    local tasks = {}
    for i = 1, count do tasks[i] = pool.spawn(request, db, i) end
    for i = 1, count do
      local result, err = tasks[i]:join(60)
      if result ~= i then error(("request %d ended with %s, %s"):format(i, tostring(result), tostring(err))) end
    end
    done = true
    local seen = assert(watching:join(10))
    assert.is_true(seen.most <= SIZE + OVERFLOW, seen.most .. " connections at the server")
    assert.is_true(seen.most > SIZE, "only " .. seen.most .. " seen: the overflow was never used, or nobody looked")
    assert.is_true(seen.looks >= 3)
  end)
  local s = pools.assert_at_rest(db)
  assert.is_true(s.total <= SIZE + OVERFLOW)
  assert.equal(s.total, postgres.count(name))
  assert.equal(0, s.timeouts + s.errors + s.rejected + s.cancelled)
end

local function by_query(db, i)
  return assert(db:query("select $1::int as i, pg_sleep(0.01)", i))[1].i
end

local function by_lease(db, i)
  local c <close> = assert(db:acquire())
  local first = assert(c:query("select $1::int as i, pg_backend_pid() as pid", i))[1]
  pool.sleep(0.01)
  local again = assert(c:query("select $1::int as i, pg_backend_pid() as pid", i))[1]
  assert(first.pid == again.pid and first.pid == c.pid)
  return first.i == again.i and first.i
end

local function by_transaction(db, i)
  return assert(db:transaction(function(tx)
    assert(tx:query("select set_config('pool.mine', $1, true)", tostring(i)))
    pool.sleep(0.01)
    return math.tointeger(tonumber(assert(tx:query("select current_setting('pool.mine') as i"))[1].i))
  end))
end

describe("concurrency", function()
  before_each(pools.begin)
  after_each(pools.finish)

  for _, way in ipairs { { "db:query", by_query }, { "a lease", by_lease }, { "a transaction", by_transaction } } do
    for _, count in ipairs { 20, 500 } do
      it(("serves %d requests at once, each by %s, over size 2 and overflow 3"):format(count, way[1]), function()
        local db, name = pools.open { size = SIZE, max_overflow = OVERFLOW, max_waiting = 500 }
        storm(db, name, count, way[2])
      end)
    end
  end

  it("serves requests that end in every way, and has all of its connections afterwards", function()
    local db, name = pools.open { size = SIZE, max_overflow = OVERFLOW }
    local ways_to_end = {
      function() return by_query(db, 1) end,
      function() pools.check(db:query("select 1/0")) end,
      function()
        local c = assert(db:acquire())
        assert(c:begin())
        error("in a transaction of " .. c.pid)
      end,
      function() pool.deadline(0.005, function() pools.check(db:query("select pg_sleep(10)")) end) end,
      function()
        assert(db:acquire())
        pool.sleep(60)
      end,
      function() for row in db:rows("select generate_series(1, 10000) as n") do if row.n == 5 then break end end end,
    }
    pool.run(function()
      local tasks = {}
      for i = 1, 120 do tasks[i] = pool.spawn(ways_to_end[(i - 1) % #ways_to_end + 1]) end
      for i = 5, 120, #ways_to_end do
        pools.wait(function() return tasks[i].status ~= "ready" end)
        tasks[i]:cancel()
      end
      local kinds = {}
      for i = 1, 120 do
        local _, err = tasks[i]:join(30)
        local kind = type(err) == "table" and err.kind or err and "raised" or "fine"
        kinds[kind] = (kinds[kind] or 0) + 1
      end
      assert.same({ fine = 40, query = 20, raised = 20, deadline = 20, cancelled = 20 }, kinds)
    end)
    local s = pools.assert_at_rest(db)
    assert.is_true(s.total <= SIZE + OVERFLOW)
    assert.equal(s.total, postgres.count(name))
    assert.equal(s.total, postgres.count(name, "idle"))
    for i = 1, 10 do assert.equal(i, by_transaction(db, i)) end
  end)

  it("never passes the old limit while it grows and shrinks under load, and cuts no lease", function()
    local db, name = pools.open { size = 5, max_overflow = 0, idle_timeout = 0.01 }
    local outside = pools.open { size = 1, max_overflow = 0 }
    pool.run(function()
      local over, served = false, 0
      local tasks = {}
      for i = 1, 12 do
        tasks[i] = pool.spawn(function()
          while not over do
            assert(by_lease(db, i) == i)
            served = served + 1
          end
          return i
        end)
      end
      local function settle(limit, before)
        assert(db:configure { size = limit - 1, max_overflow = 1 })
        local upper = math.max(limit, before)
        pools.wait(function()
          local s = db:stats()
          assert.is_true(s.total <= upper, ("%d connections, at most %d"):format(s.total, upper))
          return s.total <= limit and s.total >= limit - 1
        end)
        upper = limit
        for _ = 1, 20 do
          local n = assert(outside:query("select count(*) as n from pg_stat_activity where application_name = $1", name))[1].n
          assert.is_true(n <= upper, ("%d at the server, at most %d"):format(n, upper))
        end
      end
      local before = 5
      for _, limit in ipairs { 8, 2, 6, 1, 4 } do
        settle(limit, before)
        before = limit
      end
      over = true
      for i = 1, 12 do assert.equal(i, tasks[i]:join(10)) end
      assert.is_true(served > 20)
    end)
    pools.assert_at_rest(db)
  end)

  it("never hits the next user of a connection with the cancel of the last one's deadline, in 200 rounds", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    pool.run(function()
      local late = 0
      for i = 1, 200 do
        local neighbour = pool.spawn(function()
          return assert(db:query("select $1::int as i from pg_sleep(0.0005)", i))[1].i
        end)
        local rows, err = pool.deadline(0.0002 * (i % 10), function() return db:query("select pg_sleep(0.001)") end)
        if not rows then
          assert.equal("deadline", err.kind)
          late = late + 1
        end
        assert.equal(i, neighbour:join(5))
        assert.equal(i, assert(db:query("select $1::int as i", i))[1].i)
      end
      assert.is_true(late > 50, late .. " were late")
    end)
    assert.equal(1, pools.assert_at_rest(db).total)
  end)

  it("lets a connection be used again right after a deadline on it, in 200 rounds", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    pool.run(function()
      local c <close> = assert(db:acquire())
      local late, pid = 0, c.pid
      for i = 1, 200 do
        local rows, err = pool.deadline(0.0001 * (i % 20), function() return c:query("select pg_sleep(0.001)") end)
        if not rows then
          assert.equal("deadline", err.kind)
          late = late + 1
        end
        local after = assert(c:query("select $1::int as i, pg_backend_pid() as pid, pg_sleep(0.0005)", i))[1]
        assert.same({ i, pid }, { after.i, after.pid })
      end
      assert.is_true(late > 50, late .. " were late")
    end)
    assert.equal(1, pools.assert_at_rest(db).opens)
  end)
end)
