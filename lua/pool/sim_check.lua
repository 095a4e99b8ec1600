--- What sim.run takes, checked and brought into the one form that core.simulate reads. What is wrong raises, naming the option, the
--- value and what would be right.

local core = require "pool.core"

local sim_check = {}

local Fault = { __tostring = function(fault) return fault.message end }

local function fail(...) error(setmetatable({ message = string.format(...) }, Fault), 0) end

--- Calls fn; what it found wrong as a text, nil when nothing.
function sim_check.fault(fn)
  local fine, err = pcall(fn)
  if fine then return nil end
  if getmetatable(err) == Fault then return err.message end
  error(err, 0)
end

local function shown(value)
  if type(value) == "string" then return ("%q"):format(value:sub(1, 60)) end
  if type(value) == "number" then return ("%.14g"):format(value) end
  return "a " .. type(value)
end

local function check_names(given, known, what)
  if type(given) ~= "table" then fail("%s: a table is wanted, not %s", what, shown(given)) end
  for name in pairs(given) do
    if not known[name] then
      local names = {}
      for each in pairs(known) do names[#names + 1] = each end
      table.sort(names)
      local near = type(name) == "string" and core.nearest(name, names)
      fail("%s: there is no option %s%s", what, tostring(name), near and ("; did you mean %s?"):format(near) or
        " (" .. table.concat(names, ", ") .. ")")
    end
  end
end

local function number(given, what, low, high, fallback)
  if given == nil and fallback ~= nil then return fallback end
  if type(given) ~= "number" or not (given >= low and given <= high) then
    fail("%s: %s is not a number from %.14g to %.14g", what, given == nil and "nothing" or shown(given), low, high)
  end
  return given + 0.0
end

local function whole(given, what, low, high, fallback)
  if given == nil and fallback ~= nil then return fallback end
  local value = math.type(given) == "integer" and given or (type(given) == "number" and math.tointeger(given))
  if not value or value < low or value > high then
    fail("%s: %s is not a whole number from %d to %d", what, given == nil and "nothing" or shown(given), low, high)
  end
  return value
end

local function flag(given, what)
  if given ~= nil and type(given) ~= "boolean" then fail("%s: %s is not true or false", what, shown(given)) end
  return given or false
end

local function kind_of(given, kinds, what)
  local kind = given.kind
  if kinds[kind] then return kind end
  local names = {}
  for name in pairs(kinds) do names[#names + 1] = name end
  table.sort(names)
  fail("%s.kind: %s is none of %s", what, kind == nil and "nothing" or shown(kind), table.concat(names, ", "))
end

local FOREVER = 1e9

-- ---- service ----

local SERVICES = { exponential = true, deterministic = true, lognormal = true, hyperexponential = true, erlang = true }
local SERVICE = { kind = true, mean = true, cv = true, k = true, share = true, holding = true }

local function service_of(given, what)
  check_names(given, SERVICE, what)
  local kind = kind_of(given, SERVICES, what)
  return {
    kind = kind, mean = number(given.mean, what .. ".mean", 0, FOREVER), share = number(given.share, what .. ".share", 1e-9, 1e9, 1.0),
    cv = number(given.cv, what .. ".cv", kind == "hyperexponential" and 1.000001 or 1e-6, 1000, kind == "hyperexponential" and 2.0 or 1.0),
    k = whole(given.k, what .. ".k", 1, 1000, 2), holding = flag(given.holding, what .. ".holding"),
  }
end

local function services_of(given, what)
  if given == nil then fail("%s: what a request takes is wanted, such as {kind = \"exponential\", mean = 0.01}", what) end
  if type(given) ~= "table" then fail("%s: a table is wanted, not %s", what, shown(given)) end
  if #given == 0 then return { service_of(given, what) } end
  local list = {}
  for i, each in ipairs(given) do list[i] = service_of(each, ("%s[%d]"):format(what, i)) end
  return list
end

-- ---- arrivals ----

local RATE_MAX = 1e7

local function rate_of(given, what)
  if type(given) ~= "table" then return { { 0, number(given, what, 0, RATE_MAX) } } end
  local points = {}
  for i, point in ipairs(given) do
    if type(point) ~= "table" then fail("%s[%d]: a point is {seconds, rate}, not %s", what, i, shown(point)) end
    local where = ("%s[%d]"):format(what, i)
    points[i] = { number(point[1], where .. "[1]", 0, FOREVER), number(point[2], where .. "[2]", 0, RATE_MAX) }
  end
  if #points == 0 then fail("%s: a number, or points {{seconds, rate}, ...}, is wanted", what) end
  return points
end

local function pair_of(given, what, low, high)
  if type(given) ~= "table" or #given ~= 2 then fail("%s: two numbers are wanted: {first, second}", what) end
  return { number(given[1], what .. "[1]", low, high), number(given[2], what .. "[2]", low, high) }
end

--- Arrays in step: at and service in seconds, key (0: none) and priority where they are given.
local function trace_of(a, what)
  local made = { at = {}, service = {}, key = {}, priority = {} }
  if type(a.at) ~= "table" or type(a.service) ~= "table" or #a.at ~= #a.service then
    fail("%s: at and service are wanted, two arrays of seconds of the same length, or path, a recording's", what)
  end
  for _, name in ipairs { "key", "priority" } do
    if a[name] ~= nil and type(a[name]) ~= "table" then fail("%s.%s: an array is wanted, not %s", what, name, shown(a[name])) end
  end
  local keys, priorities = a.key or {}, a.priority or {}
  for i, each in ipairs(a.at) do
    made.at[i] = number(each, ("%s.at[%d]"):format(what, i), i > 1 and made.at[i - 1] or 0, FOREVER)
    made.service[i] = number(a.service[i], ("%s.service[%d]"):format(what, i), 0, FOREVER)
    made.key[i] = whole(keys[i], ("%s.key[%d]"):format(what, i), 0, 1 << 52, 0)
    made.priority[i] = whole(priorities[i], ("%s.priority[%d]"):format(what, i), 0, 9, 5)
  end
  return made
end

--- What a recording's requests were, at their times.
local function recorded_of(a, what)
  for _, name in ipairs { "at", "service", "key", "priority" } do
    if a[name] ~= nil then fail("%s: path and %s do not go together", what, name) end
  end
  if type(a.path) ~= "string" then fail("%s.path: a file's name is wanted, not %s", what, shown(a.path)) end
  local trace, message = require("pool.recording").trace(a.path)
  if not trace then fail("%s.path: %s", what, message) end
  return trace
end

local ARRIVALS = {
  poisson = { fields = { "rate" }, read = function(a, what) return { points = rate_of(a.rate, what .. ".rate") } end },
  even = { fields = { "rate" }, read = function(a, what) return { points = rate_of(a.rate, what .. ".rate") } end },
  diurnal = { fields = { "low", "high", "period" }, read = function(a, what)
    return { low = number(a.low, what .. ".low", 0, RATE_MAX), high = number(a.high, what .. ".high", 0, RATE_MAX),
      period = number(a.period, what .. ".period", 1e-3, FOREVER, 86400.0) }
  end },
  mmpp = { fields = { "rates", "means", "fixed_periods" }, read = function(a, what)
    return { rates = pair_of(a.rates, what .. ".rates", 0, RATE_MAX), means = pair_of(a.means, what .. ".means", 1e-6, FOREVER),
      fixed_periods = flag(a.fixed_periods, what .. ".fixed_periods") }
  end },
  batch = { fields = { "batch", "first", "every" }, read = function(a, what)
    return { batch = whole(a.batch, what .. ".batch", 1, 1000000), first = number(a.first, what .. ".first", 0, FOREVER, 0.0),
      every = number(a.every, what .. ".every", 0, FOREVER, 0.0) }
  end },
  closed = { fields = { "clients", "think" }, read = function(a, what)
    return { clients = whole(a.clients, what .. ".clients", 1, 1000000), think = number(a.think, what .. ".think", 0, FOREVER, 0.0) }
  end },
  trace = { fields = { "path", "at", "service", "key", "priority" }, read = function(a, what)
    return { trace = a.path ~= nil and recorded_of(a, what) or trace_of(a, what) }
  end },
}
local KINDS = {}
for kind, is in pairs(ARRIVALS) do
  KINDS[kind] = true
  is.known = { kind = true }
  for _, name in ipairs(is.fields) do is.known[name] = true end
end

local SOURCE = { arrival = true, service = true, deadline = true, leaves = true, retries = true, retry_after = true, retry_budget = true,
  key = true, priority = true }

local function source_of(given, what)
  check_names(given, SOURCE, what)
  if type(given.arrival) ~= "table" then fail("%s.arrival: a table is wanted, such as {kind = \"poisson\", rate = 100}", what) end
  local kind = kind_of(given.arrival, KINDS, what .. ".arrival")
  check_names(given.arrival, ARRIVALS[kind].known, what .. ".arrival")
  local made = ARRIVALS[kind].read(given.arrival, what .. ".arrival")
  made.kind = kind
  local traced = kind == "trace" and { kind = "deterministic", mean = 0, holding = true } -- how long is the trace's to say
  made.services = services_of(given.service or traced or nil, what .. ".service")
  made.deadline = number(given.deadline, what .. ".deadline", 0, FOREVER, 0.0)
  made.leaves = flag(given.leaves, what .. ".leaves")
  made.retries = whole(given.retries, what .. ".retries", 0, 100, 0)
  made.retry_after = number(given.retry_after, what .. ".retry_after", 0, FOREVER, 0.1)
  made.retry_budget = number(given.retry_budget, what .. ".retry_budget", 0, 1e6, 0.0)
  made.key = whole(given.key, what .. ".key", 0, 1 << 52, 0)
  made.priority = whole(given.priority, what .. ".priority", 0, 9, 5)
  return made
end

--- One source or an array of them.
function sim_check.sources(given, what)
  what = what or "workload"
  if type(given) ~= "table" then fail("%s: a table is wanted, not %s", what, given == nil and "nothing" or shown(given)) end
  if #given == 0 then return { source_of(given, what) } end
  if #given > 8 then fail("%s: at most 8 sources, not %d", what, #given) end
  local list = {}
  for i, each in ipairs(given) do list[i] = source_of(each, ("%s[%d]"):format(what, i)) end
  return list
end

-- ---- the database ----

local FAULTS = { restart = true, speed = true, others = true }
local FAULT = { kind = true, at = true, seconds = true, value = true }
local DATABASE = { connect = true, max_connections = true, usl = true, faults = true }
local CONNECT = { round_trip = true, work = true }
local USL = { sigma = true, kappa = true }

local function fault_of(given, what)
  check_names(given, FAULT, what)
  local kind = kind_of(given, FAULTS, what)
  return { kind = kind, at = number(given.at, what .. ".at", 0, FOREVER), seconds = number(given.seconds, what .. ".seconds", 0, FOREVER),
    value = number(given.value, what .. ".value", 0, 1e6, kind == "restart" and 0.0 or nil) }
end

function sim_check.database(given)
  given = given or {}
  check_names(given, DATABASE, "database")
  local connect, usl = given.connect or 0, given.usl or {}
  if type(connect) == "number" then connect = { round_trip = connect } end
  check_names(connect, CONNECT, "database.connect")
  check_names(usl, USL, "database.usl")
  local faults = {}
  if given.faults ~= nil and type(given.faults) ~= "table" then fail("database.faults: an array is wanted, not %s", shown(given.faults)) end
  for i, each in ipairs(given.faults or {}) do faults[i] = fault_of(each, ("database.faults[%d]"):format(i)) end
  return {
    round_trip = number(connect.round_trip, "database.connect.round_trip", 0, FOREVER, 0.0),
    login_work = number(connect.work, "database.connect.work", 0, FOREVER, 0.0),
    max_connections = whole(given.max_connections, "database.max_connections", 0, 1000000, 0),
    sigma = number(usl.sigma, "database.usl.sigma", 0, 1e6, 0.0), kappa = number(usl.kappa, "database.usl.kappa", 0, 1e6, 0.0),
    faults = faults,
  }
end

-- ---- a run ----

local RUN = { policy = true, settings = true, limits = true, duration = true, warmup = true, seed = true, workload = true, database = true,
  timeline = true, checked = true, score = true }
local FILE = { name = true, word = true, text = true, duration = true, warmup = true, workload = true, database = true, settings = true,
  limits = true }

--- What is wrong with settings that a file names, as a text; nil and every setting's value when nothing is.
function sim_check.settings(given)
  local fine, all = pcall(core.check_settings, given)
  if fine then return nil, all end
  return (tostring(all):gsub("^[^:]+:%d+: ", ""))
end

--- Settings and limits as tables. What is in the limits is checked against the policy's settings, by core.simulate.
local function check_tables(given)
  if given.settings ~= nil and type(given.settings) ~= "table" then fail("settings: a table is wanted, not %s", shown(given.settings)) end
  if given.limits ~= nil and type(given.limits) ~= "table" then fail("limits: a table is wanted, not %s", shown(given.limits)) end
end

--- A workload file's table.
function sim_check.workload_file(given)
  check_names(given, FILE, "the workload")
  number(given.duration, "duration", 1e-6, 1e8)
  sim_check.sources(given.workload)
  sim_check.database(given.database)
  check_tables(given)
  local wrong = sim_check.settings(given.settings or {})
  if wrong then fail("settings: %s", wrong) end
end

--- sim.run's options as core.simulate takes them.
function sim_check.run(given)
  check_names(given, RUN, "sim.run")
  local duration = number(given.duration, "duration", 1e-6, 1e8, 300.0)
  local warmup = number(given.warmup, "warmup", 0, 1e8, 0.0)
  if warmup >= duration then fail("warmup: %s is not less than the duration, %s", shown(warmup), shown(duration)) end
  check_tables(given)
  return {
    settings = given.settings or {}, limits = given.limits, duration = duration, warmup = warmup,
    seed = whole(given.seed, "seed", 0, 1 << 52, 1), timeline = number(given.timeline, "timeline", 0, 1e8, 1.0),
    checked = flag(given.checked, "checked"), sources = sim_check.sources(given.workload), database = sim_check.database(given.database),
  }
end

return sim_check
