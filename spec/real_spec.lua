-- The simulator beside the real thing: the same arrivals and holds upon a real PostgreSQL and upon the model, the spike, a database
-- that is down.

local pool = require "pool"
local pools = require "support.pools"
local postgres = require "support.postgres"
local sim = require "pool.sim"

-- Calls fn(i) for each i at its time (seconds from now), each as a task; returns when all are done.
local function at_times(times, fn)
  local start, tasks = pool.now(), {}
  for i, at in ipairs(times) do
    local wait = start + at - pool.now()
    if wait > 0 then pool.sleep(wait) end
    tasks[i] = pool.spawn(fn, i)
  end
  for _, task in ipairs(tasks) do task:join() end
end

local function mean(values)
  local sum = 0
  for _, value in ipairs(values) do sum = sum + value end
  return sum / #values
end

describe("the real pool and the simulated one", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("let the same requests wait the same: Poisson arrivals, exponential holds, three connections, load 0.8", function()
    local db = pools.open { database_url = postgres.url {}, size = 3, max_overflow = 0, min_idle = 3 }
    local times, t, waits, holds, arrived = {}, 0.3, {}, {}, {}
    math.randomseed(7)
    for i = 1, 240 do
      t = t - math.log(1 - math.random()) / 48
      times[i] = t
    end
    pool.run(function()
      local start = pool.now()
      at_times(times, function(i)
        arrived[i] = pool.now() - start
        local c <close> = assert(db:acquire())
        local granted = pool.now()
        assert(c:query("select pg_sleep($1)", -math.log(1 - math.random()) * 0.05))
        waits[i], holds[i] = granted - start - arrived[i], pool.now() - granted
        return true
      end)
    end)
    local order = {}
    for i = 1, #times do order[i] = i end
    table.sort(order, function(a, b) return arrived[a] < arrived[b] end)
    local at, service = {}, {}
    for i, which in ipairs(order) do at[i], service[i] = arrived[which], holds[which] end
    local result = assert(sim.run { settings = { size = 3, max_overflow = 0, min_idle = 3 }, duration = 60,
      workload = { arrival = { kind = "trace", at = at, service = service } } })
    local real = mean(waits)
    print(("\n  240 requests, mean hold %.1f ms: mean wait %.1f ms real, %.1f ms simulated"):format(1000 * mean(holds), 1000 * real,
      1000 * result.wait.mean))
    assert.equal(240, result.served)
    assert.is_true(math.abs(real - result.wait.mean) < 0.01 + 0.25 * real)
  end)

  it("serve the spike with few opens: 50 at once upon 5 idle connections, an open of 150 ms, a query of 2 ms", function()
    local db = pools.open { database_url = postgres.url {}, size = 50, max_overflow = 0, min_idle = 5, max_opening = 5, shrink_after = 0 }
    db:on("connect", function() pool.sleep(0.15) end)
    local waits = {}
    local opens
    pool.run(function()
      assert(db:query "select 1")
      while db:stats().idle < 5 or db:stats().opening > 0 do pool.sleep(0.01) end
      local before, tasks = db:stats().opens, {}
      for i = 1, 50 do
        tasks[i] = pool.spawn(function()
          local start = pool.now()
          local c <close> = assert(db:acquire())
          waits[i] = pool.now() - start
          assert(c:query "select pg_sleep(0.002)")
          return true
        end)
      end
      for _, task in ipairs(tasks) do assert(task:join()) end
      while db:stats().opening > 0 do pool.sleep(0.01) end
      opens = db:stats().opens - before
    end)
    local settings = { size = 50, max_overflow = 0, min_idle = 5, max_opening = 5, shrink_after = 0 }
    local result = assert(sim.run { settings = settings, workload = "W12", warmup = 5 })
    print(("\n  the spike: mean wait %.1f ms and %d opens real, %.1f ms and %d simulated (9.0 with the five alone)"):format(
      1000 * mean(waits), opens, 1000 * result.wait.mean, result.opens - 5))
    assert.is_true(result.wait.mean <= 0.0091)
    assert.is_true(opens <= 10)
    assert.equal(50, #waits)
  end)

  it("answer everybody within his own deadline while the database is down for all of it", function()
    local db = pools.open { database_url = "postgresql://nobody@127.0.0.1:9/none", timeout = 0.6, size = 5 }
    local simulated = assert(sim.run { settings = { size = 5, timeout = 0.6 }, duration = 20, warmup = 1,
      workload = { arrival = { kind = "poisson", rate = 50 }, service = { kind = "exponential", mean = 0.01 }, deadline = 1 },
      database = { connect = 0.005, faults = { { kind = "restart", at = 0, seconds = 1000 } } } })
    assert.same({ 0, 0 }, { simulated.served, simulated.cancelled })
    assert.is_true(simulated.errors + simulated.timeouts >= simulated.offered - 40) -- but for those still in line at the end
    local longest = 0
    pool.run(function()
      local times = {}
      for i = 1, 40 do times[i] = i / 12 end -- the last deadline is 3.2 s after the first
      at_times(times, function()
        local start = pool.now()
        local rows, err = db:query "select 1"
        longest = math.max(longest, pool.now() - start)
        assert(rows == nil and err.kind == "connect", err and err.kind)
        return true
      end)
    end)
    assert.is_true(longest < 0.6 + 2, ("the last was answered after %.2f s"):format(longest))
  end)

  it("tell a policy how many connections the database has, and how many are in use", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write [[return { every = 0.05, tick = function(s, state)
      if s.database.in_use ~= state.last then
        state.last = s.database.in_use
        return { timeout = s.database.in_use / 100 + 5 }, ("%d of %d"):format(s.database.in_use, s.database.max_connections)
      end
    end }]]
    file:close()
    local db = pools.open { database_url = postgres.url {}, size = 3, max_overflow = 0, probation = 0 }
    local reasons = {}
    db:on("policy", function(_, _, reason) reasons[#reasons + 1] = reason end)
    pool.run(function()
      local most = assert(db:query [[select current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int n]])
      local tuner = assert(db:tune(path))
      local deadline = pool.now() + 10
      while not reasons[1] and pool.now() < deadline do
        assert(db:query "select 1")
        pool.sleep(0.02)
      end
      local used, of = reasons[1]:match "^(%d+) of (%d+)$"
      assert.equal(most[1].n, tonumber(of))
      assert.is_true(tonumber(used) >= 1 and tonumber(used) < 20)
      local before = db:stats().arrivals
      pool.sleep(0.3)
      assert.equal(before, db:stats().arrivals) -- a quiet pool is not asked
      tuner:close()
    end)
    os.remove(path)
  end)
end)
