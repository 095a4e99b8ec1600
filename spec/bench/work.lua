--- One workload, run on its own so that it can be counted (callgrind) and weighed (its memory):
---
---   lua5.4 spec/bench/work.lua NAME COUNT
---
--- It prints `COUNT WALL CPU [BYTES]`: seconds of this process for COUNT units of work, and bytes a unit where memory is what is
--- asked. What comes before the work (connecting, warming up) is in neither, but it is in what callgrind counts: two runs with
--- different counts cancel it. BENCH_URL names the database.
local pool = require "pool"

local CONNECTIONS, TASKS, ROWS, KEYS, PATIENCE = 10, 64, 1000, 10000, 1e6
local BY_KEY = "select id, title, done from bench where id = $1"

local function measure(count, fn)
  collectgarbage()
  local wall, cpu = pool.now(), os.clock()
  fn(count)
  return pool.now() - wall, os.clock() - cpu
end

local function resident()
  for line in io.lines("/proc/self/status") do
    local kilobytes = line:match("^VmRSS:%s+(%d+) kB")
    if kilobytes then return tonumber(kilobytes) * 1024 end
  end
end

-- Every connection open and idle.
local function open_all(db)
  local held = {}
  for i = 1, CONNECTIONS do held[i] = assert(db:acquire()) end
  for i = 1, CONNECTIONS do held[i]:release() end
end

local function leases(db, count)
  for _ = 1, count do
    local c = db:acquire()
    c:release()
  end
end

-- The least that a pool in Lua can be: a list of what is free.
local function table_leases(count)
  local free = {}
  for i = 1, CONNECTIONS do free[i] = { id = i } end
  for _ = 1, count do
    local c = table.remove(free)
    table.insert(free, c)
  end
end

-- TASKS tasks share the work.
local function queries(db, count)
  local left = count
  local function worker()
    local id = 1
    while left > 0 do
      left, id = left - 1, (id * 7919 + left) % KEYS + 1
      assert(db:query(BY_KEY, id))
    end
  end
  local tasks = {}
  for i = 1, TASKS do tasks[i] = pool.spawn(worker) end
  for i = 1, TASKS do assert(select("#", tasks[i]:join()) == 0) end
end

local function spawns(count)
  local function nothing() end
  for _ = 1, count do pool.spawn(nothing):join() end
end

-- Ten tasks give way to each other: each sleep(0) is one switch there and back.
local function switches(count)
  local function worker()
    for _ = 1, count // 10 do pool.sleep(0) end
  end
  local tasks = {}
  for i = 1, 10 do tasks[i] = pool.spawn(worker) end
  for i = 1, 10 do tasks[i]:join() end
end

-- What `count` tasks that all wait take.
local function weigh(count, wait)
  collectgarbage()
  collectgarbage()
  local before = resident()
  for _ = 1, count do pool.spawn(wait) end
  pool.sleep(0)
  pool.sleep(0)
  collectgarbage()
  return (resident() - before) / count
end

local function new(settings)
  settings.database_url, settings.size, settings.max_overflow = os.getenv("BENCH_URL"), settings.size or CONNECTIONS, 0
  settings.leak_after = 0
  return pool.new(settings)
end

local work = {}

function work.lease(count)
  local db = new {}
  open_all(db)
  return measure(count, function(n) leases(db, n) end)
end

work.table = function(count) return measure(count, table_leases) end

function work.query(count)
  local db = new {}
  open_all(db)
  queries(db, 10 * TASKS)
  return measure(count, function(n) queries(db, n) end)
end

work.spawn = function(count) return measure(count, spawns) end
work.switch = function(count) return measure(count, switches) end

local function of_rows(method)
  return function(count)
    local db = new { size = 1 }
    local c = assert(db:acquire())
    local sql = "select id, title, done from bench limit " .. ROWS
    assert(c[method](c, sql))
    return measure(count, function(n)
      for _ = 1, n // ROWS do assert(c[method](c, sql)) end
    end)
  end
end
work.rows, work.json, work.discard = of_rows "query", of_rows "json", of_rows "exec"

-- In line behind the only connection.
function work.waiting(count)
  local db = new { size = 1, timeout = PATIENCE, max_waiting = count }
  local c = assert(db:acquire())
  local bytes = weigh(count, function() db:acquire() end)
  assert(db:stats().waiting == count)
  c:invalidate()
  return 0, 0, bytes
end

work.sleeping = function(count) return 0, 0, weigh(count, function() pool.sleep(PATIENCE) end) end

-- A lease as above, written down by a recording.
function work.recorded(count)
  local db = new {}
  open_all(db)
  local path = os.tmpname()
  os.remove(path)
  local recording = assert(db:record(path))
  local wall, cpu = measure(count, function(n) leases(db, n) end)
  recording:close()
  os.remove(path)
  os.remove(path .. ".1")
  return wall, cpu
end

-- Simulated requests: 600 a second upon 10 + 20 connections, a line now and then, with these settings or under this policy.
local function simulated(policy)
  return function(count)
    local sim = require "pool.sim"
    local function run(seconds)
      assert(sim.run { policy = policy, workload = "W3", duration = seconds, seed = 1, timeline = 0, score = false })
    end
    run(1)
    return measure(count, function(n) run(n / 600) end)
  end
end
work.simulated, work.simulated_default = simulated(nil), simulated "default"

-- Ticks of the default policy, snapshot in and proposal out.
function work.tick(count)
  local p = require("pool.testing").policy "default"
  local busy = { leased = 20, waiting = 3, releases = 600, arrivals = 600, grants = 600, hold = { count = 600, mean = 0.02, p50 = 0.02 },
    wait = { count = 600, mean = 0.005, p95 = 0.02, p99 = 0.03 } }
  return measure(count, function(n)
    for _ = 1, n do p:tick(busy) end
  end)
end

local name, count = arg[1], tonumber(arg[2])
if not work[name] or not count then
  io.stderr:write("usage: work.lua NAME COUNT\n")
  os.exit(2)
end
pool.run(function()
  print(count, table.unpack({ work[name](count) }))
  io.stdout:flush()
  os.exit(0, false) -- tasks that wait for ever need not be ended one by one
end)
