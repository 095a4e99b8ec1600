--- The verb `pool simulate`: policies judged in virtual time, as a table for people or as JSON.

local flags = require "pool.flags"

local simulate = {}

simulate.HELP = [[
usage: pool simulate [POLICY] [FLAG...]

Runs a tuning policy (a file, or a built-in one: default, fixed, tiers, little, aimd, gradient, vegas, hillclimb, usl, deadline, codel,
guard) against modelled callers and a modelled database, in virtual time, around the very same core. Without POLICY the settings stay
as they are. The same flags print the same figures, to the last digit.

  --workload NAME      W1 .. W12 (trickle, steady, contended, diurnal, bursty, flash, mixture, closed, brownout, crash, neighbours,
                       spike), a Lua file that returns one, a recording (pool serve --record FILE), several with commas, or
                       all: W1 to W11; default W2
  --seeds N            so many runs, of seeds S, S + 1, ...; default 1, with --compare 10
  --seed S             default 1
  --duration SECONDS   instead of the workload's own
  --compare A,B,...    these policies beside each other on the same seeds: mean score and 95 % interval of each workload
  --param NAME=VALUE   a parameter of the policy; may be given once (several with commas)
  --limits NAME=LOW..HIGH,...   what no proposal leaves; default size=1..64,max_overflow=0..64
  --html FILE          a page of its own with charts and decisions (of the first run of each workload), besides
  --decisions          what the policy proposed, and why (of the first run)
  --json               everything as JSON
  --NAME VALUE         any setting of the pool to begin with: --size 20, --timeout 0.8

Columns: offered requests, answered, good (within the callers' deadline), failed (time-outs, refusals, errors), wait in line, connections
open, opens, utilization, score (0 to 100, against a clairvoyant that knows the database).
]]

local OWN = { workload = { value = true }, seeds = { value = true }, seed = { value = true }, duration = { value = true },
  compare = { value = true }, param = { value = true }, limits = { value = true },
  decisions = {}, html = { value = true }, json = {}, help = {} }

local function known_flags(core)
  local known = {}
  for name, flag in pairs(OWN) do known[name] = flag end
  for _, setting in ipairs(core.settings()) do
    if setting.room == "pool" then
      known[(setting.name:gsub("_", "-"))] = { value = setting.type ~= "flag", setting = setting.name }
    end
  end
  return known
end

local function number_of(text, name, least)
  local value = tonumber(text)
  if not value or value < least then error(("--%s: %s is not a number from %g on"):format(name, text, least), 0) end
  return value
end

local function whole_of(text, name, least)
  local value = math.tointeger(number_of(text, name, least))
  if not value then error(("--%s: %s is not a whole number"):format(name, text), 0) end
  return value
end

local function value_of(text)
  if text == "true" then return true elseif text == "false" then return false end
  return math.tointeger(tonumber(text)) or tonumber(text) or text
end

local function params_of(text)
  local params = {}
  for pair in (text or ""):gmatch "[^,]+" do
    local name, value = pair:match "^([%w_]+)=(.+)$"
    if not name then error(("--param: %s is not NAME=VALUE"):format(pair), 0) end
    params[name] = value_of(value)
  end
  return params
end

local function limits_of(text)
  if not text then return nil end
  local limits = {}
  for part in text:gmatch "[^,]+" do
    local name, low, high = part:match "^([%w_]+)=([%d.]+)%.%.([%d.]+)$"
    if not name then error(("--limits: %s is not NAME=LOW..HIGH"):format(part), 0) end
    limits[name] = { number_of(low, "limits", 0), number_of(high, "limits", 0) }
  end
  return limits
end

local function settings_of(core, values, known)
  local settings = {}
  for name, text in pairs(values) do
    local setting = known[name].setting
    if setting then
      local value, message = core.parse_setting(setting, text)
      if value == nil then error("--" .. name .. message:sub(#setting + 1), 0) end
      settings[setting] = value
    end
  end
  return settings
end

local function workloads_of(sim, text)
  local names = {}
  if text == "all" then
    for i, workload in ipairs(sim.workloads.list()) do
      if i <= 11 then names[i] = workload end
    end
    return names
  end
  for name in text:gmatch "[^,]+" do
    local workload, message = sim.workloads.get(name)
    if not workload then error("--workload: " .. message, 0) end
    names[#names + 1] = workload -- once: a recording may be long
  end
  return names
end

local function policy_of(name, params)
  if not name then return nil end
  local policy = { policy = name }
  for key, value in pairs(params) do policy[key] = value end
  return policy
end

-- ---- printing ----

local function milliseconds(seconds)
  if seconds >= 10 then return ("%.1fs"):format(seconds) end
  return ("%.1fms"):format(seconds * 1000)
end

local ROW = "%-9s %7s %7s %7s %7s %7s %7s %7s %6s %4s %6s %5s %6s"
local HEADS = { "workload", "offered", "served", "good", "failed", "wait", "p95", "p99", "conns", "max", "opens", "util", "score" }

local function row_of(name, r)
  return ROW:format(name, r.offered, r.served, r.good, r.timeouts + r.rejected + r.errors + r.cancelled, milliseconds(r.wait.mean),
    milliseconds(r.wait.p95), milliseconds(r.wait.p99), ("%.1f"):format(r.connections.mean), r.connections.max, r.opens,
    ("%.2f"):format(r.utilization), r.score and ("%.1f"):format(r.score) or "-")
end

--- "size 10 -> 12, timeout 30 -> 0.8"
local function changes_text(decision)
  local names, words = {}, {}
  for name in pairs(decision.changes) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do words[i] = ("%s %s -> %s"):format(name, decision.before[name], decision.changes[name]) end
  return table.concat(words, ", ")
end

local function print_decisions(write, result)
  for _, d in ipairs(result.decisions) do
    if d.refused then write(("  %8.2f s  refused: %s\n"):format(d.at, d.refused))
    else write(("  %8.2f s  %s%s\n"):format(d.at, changes_text(d), d.reason ~= "" and "  (" .. d.reason .. ")" or "")) end
  end
end

local function mean_of(sim, values, digits)
  local m = sim.mean(values)
  if m.count == 1 then return ("%." .. digits .. "f"):format(m.mean) end
  return ("%." .. digits .. "f ± %." .. digits .. "f"):format(m.mean, m.interval)
end

-- ---- what is run ----

local function run_all(sim, o)
  local rows = {}
  for w, workload in ipairs(o.workloads) do
    rows[w] = { name = workload.name, word = workload.word, text = workload.text, runs = {} }
    for i = 1, o.seeds do
      local result, err = sim.run { policy = o.policy, settings = o.settings, limits = o.limits, workload = workload, duration = o.duration,
        seed = o.seed + i - 1 }
      if not result then error(err, 0) end
      rows[w].runs[i] = result
    end
  end
  return rows
end

local function scores_of(row)
  local scores = {}
  for i, run in ipairs(row.runs) do scores[i] = run.score end
  return scores
end

local function print_rows(sim, write, rows, o)
  write(ROW:format(table.unpack(HEADS)), "\n")
  for _, row in ipairs(rows) do
    for _, run in ipairs(row.runs) do write(row_of(row.name, run), "\n") end
    local first = row.runs[1]
    if o.decisions then print_decisions(write, first) end
    if first.policy_failures > 0 then
      write(("  the policy failed %d times, first: %s\n"):format(first.policy_failures, first.policy_failure))
    end
  end
  if #rows == 1 and o.seeds == 1 then return end
  local sums, worst = {}, math.huge
  for _, row in ipairs(rows) do
    local scores = scores_of(row)
    if #scores == 0 then return end
    worst = math.min(worst, sim.mean(scores).mean)
    for i, score in ipairs(scores) do sums[i] = (sums[i] or 0) + score / #rows end
    if o.seeds > 1 then write(("%-9s score %s\n"):format(row.name, mean_of(sim, scores, 1))) end
  end
  if #rows > 1 then write(("mean %s, worst %.1f\n"):format(mean_of(sim, sums, 1), worst)) end
end

local function print_cards(write, cards)
  write(("%-14s %14s %6s"):format("policy", "mean", "worst"))
  for _, row in ipairs(cards[1].workloads) do write((" %12s"):format(row.name)) end
  write "\n"
  for _, card in ipairs(cards) do
    write(("%-14s %7.1f ±%5.1f %6.1f"):format(card.label, card.mean, card.interval, card.worst))
    for _, row in ipairs(card.workloads) do write((" %6.1f ±%4.1f"):format(row.mean, row.interval)) end
    write "\n"
  end
end

--- Writes a page to o.html.
local function save(o, page)
  local file, message = io.open(o.html, "wb")
  if not file then error("--html: " .. message, 0) end
  local fine, wrong = file:write(page)
  local closed = file:close()
  if not fine or not closed then error(("--html: %s: %s"):format(o.html, wrong or "it could not be written"), 0) end
end

local function compare(sim, o, write)
  local cards, err = sim.compare { policies = o.compare, workloads = o.workloads, seeds = o.seeds, seed = o.seed, settings = o.settings,
    limits = o.limits, duration = o.duration }
  if not cards then error(err, 0) end
  if o.html then save(o, require("pool.report").cards(cards, { command = o.command })) end
  if o.json then write(require("pool.core").json.encode(cards), "\n") else print_cards(write, cards) end
end

local function go(sim, o, write)
  if o.compare then return compare(sim, o, write) end
  local rows = run_all(sim, o)
  if o.html then
    save(o, require("pool.report").runs(rows, { policy = o.label, command = o.command, mean = sim.mean }))
  end
  if o.json then write(require("pool.core").json.encode(rows), "\n") else print_rows(sim, write, rows, o) end
end

local function options_of(core, sim, values, rest, known)
  local o = { workloads = workloads_of(sim, values.workload or "W2"), seed = whole_of(values.seed or "1", "seed", 0),
    duration = values.duration and number_of(values.duration, "duration", 1e-6), limits = limits_of(values.limits),
    settings = settings_of(core, values, known), policy = policy_of(rest[1], params_of(values.param)),
    json = values.json == "true",
    html = values.html, label = rest[1] or "the settings as they are", decisions = values.decisions == "true" }
  if values.compare then
    if rest[1] then error("--compare names every policy itself: give none besides", 0) end
    o.compare = {}
    for name in values.compare:gmatch "[^,]+" do o.compare[#o.compare + 1] = name end
  end
  o.seeds = whole_of(values.seeds or (o.compare and "10" or "1"), "seeds", 1)
  return o
end

--- Runs the verb; the exit code.
function simulate.main(args, complain, misuse)
  local core = require "pool.core"
  local known = known_flags(core)
  local values, rest = flags.parse(args, known)
  if not values then return misuse("simulate: " .. rest) end
  if values.help then return io.stdout:write(simulate.HELP) and 0 end
  if #rest > 1 then return misuse(("simulate: %s is one argument too many"):format(rest[2])) end
  require "pool"
  local sim = require "pool.sim"
  local fine, o = pcall(options_of, core, sim, values, rest, known)
  if not fine then return misuse("simulate: " .. tostring(o)) end
  o.command = "pool simulate " .. table.concat(args, " ")
  local done, err = pcall(go, sim, o, function(...) io.stdout:write(...) end)
  if done then return 0 end
  complain("simulate: " .. tostring(type(err) == "table" and err.message or err))
  return 1
end

return simulate
