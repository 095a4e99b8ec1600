--- The score of a run, against a clairvoyant that knows N*.
---
---   100 (0.50 g + 0.25 l + 0.15 e + 0.10 c) (1 - time over budget)
---   g = goodput / reference                      good answers: within the callers' deadline of the attempt
---   l = 1 - log10(max(p99 wait, 10 ms) / 10 ms) / 3
---   e = 1 - log2(mean open / reference) / 5      connections open, in the mean
---   c = 1 - log10(1 + opens a minute) / 3        each between 0 and 1
---
--- The reference is the same run (same seed, same arrivals) under a clairvoyant: it knows the contention of the database and so its best
--- concurrency N* = sqrt((1 - sigma) / kappa), the rates to come and the mean work of a request. It sizes by Little's law at the speed
--- that the database will have, with room for two standard deviations, and never beyond N*; connections that hold without working do not
--- count against N*. Its timeout is 0.8 of the callers' deadline.

local core = require "pool.core"

local score = {}

local function clamp(value) return math.max(0, math.min(1, value)) end

local function parts(result, reference)
  local goodput = reference.good > 0 and result.good / reference.good or 1
  local open = reference.connections.mean > 0 and result.connections.mean / reference.connections.mean or 1
  return {
    goodput = clamp(goodput), latency = clamp(1 - math.log(math.max(result.wait.p99, 0.010) / 0.010, 10) / 3),
    economy = clamp(1 - math.log(math.max(open, 1e-9), 2) / 5), churn = clamp(1 - math.log(1 + result.opens_per_minute, 10) / 3),
  }
end

--- The parts and the total, 0 to 100; nil without a reference.
---@param result table
---@param reference table?
---@return table?
function score.of(result, reference)
  if not reference then return nil end
  local p = parts(result, reference)
  p.total = 100 * (0.50 * p.goodput + 0.25 * p.latency + 0.15 * p.economy + 0.10 * p.churn) * (1 - result.over_budget)
  return p
end

-- ---- the clairvoyant ----

local function points_rate(points, t)
  if t <= points[1][1] then return points[1][2] end
  for i = 2, #points do
    local a, b = points[i - 1], points[i]
    if t < b[1] then return a[2] + (b[2] - a[2]) * (t - a[1]) / (b[1] - a[1]) end
  end
  return points[#points][2]
end

--- Requests a second that a source will bring at time t; nil where nobody can know it in advance.
local function rate_of(source, t)
  if source.kind == "poisson" or source.kind == "even" then return points_rate(source.points, t) end
  if source.kind == "diurnal" then
    return source.low + (source.high - source.low) * (1 - math.cos(2 * math.pi * t / source.period)) / 2
  end
  if source.kind == "mmpp" then return math.max(source.rates[1], source.rates[2]) end
  return nil
end

--- Mean work and mean holding of a source's requests, seconds.
local function means_of(source)
  local work, holding, shares = 0, 0, 0
  for _, service in ipairs(source.services) do
    shares = shares + service.share
    if service.holding then holding = holding + service.share * service.mean else work = work + service.share * service.mean end
  end
  return work / shares, holding / shares
end

--- The database's speed at time t.
local function speed_at(database, t)
  local speed = 1
  for _, fault in ipairs(database.faults) do
    if fault.kind == "speed" and t >= fault.at and t < fault.at + fault.seconds then speed = fault.value end
  end
  return speed
end

--- How many queries are in the database when `rate` of them a second bring `work` seconds each: the fixed point of
--- n = rate work (1 + sigma (n - 1) + kappa n (n - 1)) / speed, N* where there is none.
local function in_database(rate, work, database, speed, best)
  local n = rate * work / speed
  for _ = 1, 60 do
    local stretch = n > 1 and 1 + database.sigma * (n - 1) + database.kappa * n * (n - 1) or 1
    n = rate * work * stretch / speed
    if n >= best then return best end
  end
  return n
end

local function best_of(database)
  local best = core.best_concurrency(database.sigma, database.kappa)
  if best == 0 then best = 64 end
  return best
end

--- Seconds of service that a trace brings in each second of it.
local function demand_of(source)
  local demand = {}
  for i, at in ipairs(source.trace.at) do
    local second = math.floor(at)
    demand[second] = (demand[second] or 0) + source.trace.service[i]
  end
  return demand
end

local function trace_load(source, t)
  source.demand = source.demand or demand_of(source)
  local load = source.demand[math.floor(t)] or 0
  if source.services[1].holding then return 0, load end
  return load, 0
end

local function need_at(options, t, best)
  local work, holding, burst = 0, 0, 0
  local speed = speed_at(options.database, t)
  for _, source in ipairs(options.sources) do
    local mean_work, mean_holding = means_of(source)
    local rate = rate_of(source, t)
    if source.kind == "closed" then
      local seconds = source.think + mean_work + mean_holding
      rate = source.clients / seconds
    elseif source.kind == "batch" then
      burst = math.max(burst, source.batch)
      rate = 0
    elseif source.kind == "trace" then
      rate, mean_work, mean_holding = 1, trace_load(source, t)
    end
    work, holding = work + (rate or 0) * mean_work, holding + (rate or 0) * mean_holding
  end
  local n = in_database(1, work, options.database, speed, best)
  local load = n + holding
  local need = load + 2 * math.sqrt(load)
  return math.max(1, math.ceil(math.min(math.max(need, math.min(burst, best)), best + holding + 2 * math.sqrt(holding))))
end

local function deadline_of(options)
  local least
  for _, source in ipairs(options.sources) do
    if source.deadline > 0 then least = math.min(least or math.huge, source.deadline) end
  end
  return least
end

--- The clairvoyant's tick for these options (sim_check.run's), and the settings it begins with.
function score.clairvoyant(options)
  local best = best_of(options.database)
  local deadline = deadline_of(options)
  local function tick(s)
    local need = math.max(need_at(options, s.now, best), need_at(options, s.now + 1, best))
    return { size = math.min(64, need), max_overflow = 0 }, "clairvoyant"
  end
  local settings = { size = math.min(64, math.max(need_at(options, 0, best), need_at(options, 1, best))), max_overflow = 0 }
  if deadline then settings.timeout = 0.8 * deadline end
  return tick, settings
end

--- The reference run for the same options; nil where there is no deadline, and so no goodput.
---@param options table as sim_check.run makes them
---@return table?
function score.reference(options)
  if not deadline_of(options) then return nil end
  local tick, settings = score.clairvoyant(options)
  local made = {}
  for name, value in pairs(options) do made[name] = value end
  made.settings, made.limits, made.timeline = settings, nil, 0
  return assert(core.simulate(made, tick))
end

return score
