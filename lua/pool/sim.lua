--- `require "pool.sim"`: a day of traffic in a second. The real core, the real policy in its real sandbox, and a modelled database and
--- callers around them, in virtual time; the same seed gives the same result to the last digit.
---
---   local sim = require "pool.sim"
---   local result = assert(sim.run {
---     policy = "tune.lua", settings = { size = 10, max_overflow = 20 }, duration = 3600, warmup = 60, seed = 1,
---     workload = { arrival = { kind = "poisson", rate = 300 }, service = { kind = "exponential", mean = 0.01 }, deadline = 1 },
---     database = { connect = 0.015, max_connections = 100, usl = { sigma = 0.08, kappa = 0.0008 } },
---   })
---   print(result.good, result.wait.p99, result.connections.mean, result.score)

local core = require "pool.core"
local policies = require "pool.policies"
local score = require "pool.score"
local sim_check = require "pool.sim_check"
local workloads = require "pool.workloads"

local sim = {}

--- A named workload's table as options of sim.run; other options as they are.
local function with_workload(options)
  local workload, message = options.workload, nil
  if type(workload) == "string" then workload, message = workloads.get(workload) end
  if not workload and message then core.misuse("sim.run: workload: " .. message) end
  if type(workload) ~= "table" or type(workload.workload) ~= "table" then return options end
  local made = {}
  for name, value in pairs(options) do made[name] = value end
  made.workload, made.database = workload.workload, options.database or workload.database
  made.duration, made.warmup = options.duration or workload.duration, options.warmup or workload.warmup
  made.limits = options.limits or workload.limits
  if workload.settings then
    made.settings = {}
    for name, value in pairs(workload.settings) do made.settings[name] = value end
    for name, value in pairs(options.settings or {}) do made.settings[name] = value end
  end
  return made
end

local function checked(options)
  local made
  local wrong = sim_check.fault(function() made = sim_check.run(options) end)
  if wrong then core.misuse("sim.run: " .. wrong) end
  return made
end

local PATIENCE = 60 -- seconds of processor time a call, unless policy_time is given: a busy machine must not change what comes out

--- What runs as the tick: nil, a pool.Policy that has begun, or a function of this state.
local function tick_of(policy, seed, settings)
  if policy == nil then return nil end
  if type(policy) == "function" then return policy, "function" end
  local made, name = policies.load(policy, { seed = seed, time = settings.policy_time or PATIENCE, memory = settings.policy_memory,
    instructions = settings.policy_instructions })
  if not made then return nil, name end
  local begun, err = made:begin()
  if not begun then
    made:close()
    return nil, err
  end
  return made, name
end

local function figures_of(policy)
  if type(policy) ~= "userdata" then return nil end
  local figures = policy:figures()
  policy:close()
  return figures
end

---@class pool.sim.Options
---@field policy? string | table | function a path, a name, { policy = either, ...parameters }, or a tick function; nil: the settings stay
---@field settings? pool.Settings those of the pool; the defaults for what is not given, whatever the environment says. Of a policy's
--- limits policy_time counts only when it is given: instructions and memory are the same on every machine
---@field limits? table<string, number[]> name = {low, high}: what the policy may not leave; default size 1..64, max_overflow 0..64
---@field workload string | table a name ("W2", "steady"), a file's or a recording's path, what sim.workloads.get returned for one, a
--- source of requests or an array of them
---@field database? table connect (seconds, or {round_trip=, work=}), max_connections, usl = {sigma=, kappa=},
--- faults = {{kind=, at=, seconds=, value=}, ...}
---@field duration? number seconds, default 300
---@field warmup? number seconds whose requests do not count, default 0
---@field seed? integer default 1
---@field timeline? number seconds a step of result.timeline, default 1, 0 for none
---@field score? boolean default true: also run the reference that the score is measured against, where there is one
---@field checked? boolean run the core's assertions after every event: slow

--- Runs one simulation. Misuse raises; a policy that cannot be loaded is nil, err (kind policy).
---@param options pool.sim.Options
---@return table? result { requests, offered, served, good, timeouts, rejected, errors, cancelled, in_system, retried, goodput,
--- wait = {count, mean, variance, p50, p95, p99, max}, response, connections = {mean, max}, line, opens, open_failures,
--- opens_per_minute, utilization, score, scores,
--- timeline = {{at, arrivals, served, good, failed, waiting, size, open, leased, wait_p50, wait_p99, ...}, ...},
--- decisions = {{at, before, changes, reason | refused}, ...}, policy = {name, calls, errors, mean, longest, memory} }
---@return any err
function sim.run(options)
  if type(options) ~= "table" then core.misuse("sim.run: options are a table, not a " .. type(options)) end
  local flat = with_workload(options)
  local made = checked(flat)
  local policy, name = tick_of(options.policy, made.seed, made.settings)
  if options.policy ~= nil and not policy then return nil, name end
  local result, err = core.simulate(made, policy)
  local figures = figures_of(policy)
  if not result then return nil, err end
  core.array(result.decisions)
  core.array(result.timeline)
  result.seed, result.duration, result.warmup = made.seed, made.duration, made.warmup
  if figures then
    figures.name = name
    result.policy = figures
  end
  if options.score ~= false then
    result.scores = score.of(result, score.reference(made))
    result.score = result.scores and result.scores.total
  end
  return result
end

-- ---- comparisons ----

-- Student's t, 97.5 %, by degrees of freedom (beyond 30: the normal's).
local T = { 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110,
  2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042 }

--- Mean and the half-width of its 95 % interval; 0 for one value alone.
---@param values number[]
---@return { mean: number, interval: number, count: integer }
function sim.mean(values)
  local n, sum, squares = #values, 0, 0
  for _, value in ipairs(values) do sum = sum + value end
  local mean = sum / n
  for _, value in ipairs(values) do squares = squares + (value - mean) ^ 2 end
  local interval = n > 1 and (T[n - 1] or 1.96) * math.sqrt(squares / (n - 1) / n) or 0
  return { mean = mean, interval = interval, count = n }
end

local function policy_label(policy)
  if policy == nil then return "(settings)" end
  if type(policy) == "string" then return (policy:match "([^/]*)$":gsub("%.lua$", "")) end
  return type(policy) == "table" and (policy.label or policy.policy and policy_label(policy.policy)) or "(settings)"
end

--- What an entry of sim.compare's policies runs: a policy as sim.run takes it, or { settings = {...}, policy = ..., label = ... }.
local function entry_of(given)
  if type(given) == "table" and (given.settings or given.label) then
    return { policy = given.policy, settings = given.settings, label = given.label or policy_label(given.policy) }
  end
  return { policy = given, label = policy_label(given) }
end

local function scores_of(entry, workload, options)
  local scores = {}
  for i = 1, options.seeds do
    local result, err = sim.run {
      policy = entry.policy, settings = entry.settings or options.settings, limits = options.limits, workload = workload,
      duration = options.duration, seed = (options.seed or 1) + i - 1, timeline = 0,
    }
    if not result then return nil, err end
    scores[i] = result.score or result.goodput
  end
  return scores
end

--- The mean over workloads of each seed, so that the interval is the card's own.
local function card_means(rows, seeds)
  local means, worst = {}, math.huge
  for i = 1, seeds do
    local sum = 0
    for _, row in ipairs(rows) do sum = sum + row.scores[i] end
    means[i] = sum / #rows
  end
  for _, row in ipairs(rows) do worst = math.min(worst, row.mean) end
  return sim.mean(means), worst
end

--- Runs every policy on every workload with the same seeds, and compares them pairwise with the first.
---@param options table { policies, workloads, seeds = 10, seed = 1, settings?, limits?, duration? }
---@return table? cards { {label, mean, interval, worst,
--- workloads = {{name, mean, interval, scores, difference?, difference_interval?}, ...}}, ... }
---@return any err
function sim.compare(options)
  local cards = {}
  local run = { seeds = options.seeds or 10, seed = options.seed, settings = options.settings, limits = options.limits,
    duration = options.duration }
  for p, given in ipairs(options.policies) do
    local entry = entry_of(given)
    local card = { label = entry.label, workloads = {} }
    for w, workload in ipairs(options.workloads) do
      local scores, err = scores_of(entry, workload, run)
      if not scores then return nil, err end
      local row = sim.mean(scores)
      row.name, row.scores = type(workload) == "table" and workload.name or workload, scores
      if p > 1 then
        local differences = {}
        for i, each in ipairs(scores) do differences[i] = each - cards[1].workloads[w].scores[i] end
        local difference = sim.mean(differences)
        row.difference, row.difference_interval = difference.mean, difference.interval
      end
      card.workloads[w] = row
    end
    local mean, worst = card_means(card.workloads, run.seeds)
    card.mean, card.interval, card.worst = mean.mean, mean.interval, worst
    cards[p] = card
  end
  return cards
end

sim.workloads = workloads

return sim
