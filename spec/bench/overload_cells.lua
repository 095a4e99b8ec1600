--- One cell of the overload table: a load, a way to stand in line, callers of a kind; upon a real PostgreSQL and upon the simulated one.
---
--- A statement sleeps an exponential time, so that the capacity is size / mean whatever the machine's cores do. Arrivals are Poisson. What
--- counts is the second half of the time: the first is the way there, with an empty line at its beginning.
---   goodput   answers within the callers' deadline, as a share of what the capacity allows
---   p99       of the waits of those who were granted a connection
--- Callers of two kinds: those who `leave` at their deadline are seen to (pool.deadline: out of the line, the statement cancelled); those
--- who are `gone` are not: what they asked for goes on for nobody.
local pool = require "pool"
local sim = require "pool.sim"

local cells = {}

cells.DEFAULTS = { size = 10, mean = 0.05, deadline = 0.5, seconds = 2.4, seed = 1 }

--- The ways to stand in line, by name: settings, and a policy.
function cells.ways(p)
  return {
    { name = "fifo, 30 s", settings = { timeout = 30 } },
    { name = "fifo, 0.8 of the deadline", settings = { timeout = 0.8 * p.deadline } },
    { name = "codel", settings = { timeout = 30, queue = "codel", queue_target = p.mean, queue_interval = 2 * p.mean } },
    { name = "default", settings = { timeout = 30 }, policy = { policy = "default", deadline = p.deadline } },
  }
end

function cells.capacity(p) return p.size / p.mean end

-- No way changes the size: it would be another capacity.
local function limits(p) return { size = { p.size, p.size }, max_overflow = { 0, 0 } } end

local function settings_of(p, way)
  local made = { size = p.size, max_overflow = 0, min_idle = p.size, max_waiting = 1000000, shrink_after = 0, recycle = 0 }
  for name, value in pairs(way.settings) do made[name] = value end
  return made
end

local function percentile(values, share)
  if #values == 0 then return nil end
  table.sort(values)
  return values[math.max(1, math.ceil(share * #values))]
end

-- ---- real ----

-- Spawns fn at Poisson times until `stop`; a late turn of the loop makes up for what it has missed.
local function arrive(rate, stop, fn)
  local at = pool.now()
  while true do
    at = at - math.log(1 - math.random()) / rate
    if at >= stop then break end
    local wait = at - pool.now()
    if wait > 0 then pool.sleep(wait) end
    pool.spawn(fn)
  end
  local rest = stop - pool.now()
  if rest > 0 then pool.sleep(rest) end
end

local function fill(db, size)
  local held = {}
  for i = 1, size do held[i] = assert(db:acquire()) end
  for i = 1, size do held[i]:release() end
end

local SQL = "select pg_sleep(-ln(1 - random()) * $1::float8)"

--- Runs it: { goodput =, p99 = seconds or nil, good =, offered = }. In a task.
function cells.real(p, way, kind, load, url)
  local db = pool.new { database_url = url, size = p.size, max_overflow = 0, leak_after = 0, timeout = 60 }
  fill(db, p.size) -- before it stands in line in its way: an open may take longer than codel lets wait
  assert(db:configure(settings_of(p, way)))
  if way.policy then assert(db:tune(way.policy, { limits = limits(p) })) end
  math.randomseed(p.seed)
  local from = pool.now() + p.seconds
  local stop = from + p.seconds
  local good, offered, waits = 0, 0, {}
  local function ask(start)
    local c <close> = db:acquire()
    if not c then return end
    local granted = pool.now()
    if granted >= from and granted < stop then waits[#waits + 1] = granted - start end
    if not c:query(SQL, p.mean) then return end
    local now = pool.now()
    if now >= from and now < stop and now - start <= p.deadline then good = good + 1 end
  end
  arrive(load * cells.capacity(p), stop, function()
    local start = pool.now()
    if start >= from then offered = offered + 1 end
    if kind == "leave" then return pool.deadline(p.deadline, ask, start) end
    return ask(start)
  end)
  assert(db:close(0))
  return { goodput = good / p.seconds / cells.capacity(p), p99 = percentile(waits, 0.99), good = good, offered = offered }
end

-- ---- simulated ----

--- The same upon the model.
function cells.simulated(p, way, kind, load)
  local result = assert(sim.run {
    settings = settings_of(p, way), policy = way.policy, limits = limits(p), seed = p.seed, score = false,
    duration = 2 * p.seconds + 0.001, timeline = p.seconds, -- a step for each half, both whole
    workload = { arrival = { kind = "poisson", rate = load * cells.capacity(p) }, deadline = p.deadline, leaves = kind == "leave",
      service = { kind = "exponential", mean = p.mean, holding = true } },
  })
  local half = result.timeline[2]
  return { goodput = half.good / p.seconds / cells.capacity(p), p99 = half.served > 0 and half.wait_p99 or nil, good = half.good,
    offered = half.arrivals }
end

return cells
