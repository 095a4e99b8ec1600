--- pool.size_for: a first size from stated requirements, with the reasons. Pure arithmetic; a policy finds the rest (db:tune "default").
---
--- The load is a = requests at a time, or requests a second times seconds a query (Little). The size is the smallest number of
--- connections c at which at most one request in a hundred waits longer than acceptable_wait: C(c, a) exp(-(c - a) w / S) <= 0.01, C by
--- Erlang (1917), through B(k) = a B(k-1) / (k + a B(k-1)) and C = B / (1 - rho (1 - B)). Then the caps: a tenth less than this
--- instance's share of what the database allows, and of twice its cores and one (PostgreSQL's wiki, HikariCP's "About Pool Sizing").

local core = require "pool.core"

local sizing = {}

local LATE = 0.01         -- the share of requests that may wait longer
local SIZE_MAX = 10000

local function number(name, low, high)
  return function(value)
    if type(value) ~= "number" or not (value >= low and value <= high) then
      core.misuse(("pool.size_for: %s must be a number from %g to %g, not %s"):format(name, low, high, tostring(value)))
    end
    return value
  end
end

local function whole(name, low, high)
  return function(value)
    local made = type(value) == "number" and math.tointeger(value)
    if not made or made < low or made > high then
      core.misuse(("pool.size_for: %s must be a whole number from %d to %d, not %s"):format(name, low, high, tostring(value)))
    end
    return made
  end
end

--- Its requirements: name, what it means, how it is checked; in the order of `pool size --help`.
sizing.REQUIREMENTS = {
  { "requests_per_second", "of one instance, with query_seconds", number("requests_per_second", 1e-6, 1e6) },
  { "query_seconds", "a request holds a connection for so long, in the mean", number("query_seconds", 1e-6, 1e5) },
  { "concurrent_requests", "at a time, of one instance, instead of the two above", number("concurrent_requests", 1e-3, 5000) },
  { "acceptable_wait", "seconds that 99 requests of 100 may wait at most; default 0", number("acceptable_wait", 0, 1e5) },
  { "database_limit", "connections that the database allows (max_connections)", whole("database_limit", 1, 1000000) },
  { "instances", "of the application, sharing the database; default 1", whole("instances", 1, 100000) },
  { "database_cores", "of the database's machine", whole("database_cores", 1, 100000) },
  { "deadline", "seconds after which the callers have gone", number("deadline", 1e-3, 1e6) },
  { "idle_limit", "seconds, the shortest idle limit on the way (a firewall, a proxy, the server)", number("idle_limit", 1, 1e9) },
  { "driver", "postgres or sqlite; default postgres", function(value)
    if value ~= "postgres" and value ~= "sqlite" then
      core.misuse(("pool.size_for: driver must be postgres or sqlite, not %s"):format(tostring(value)))
    end
    return value
  end },
}

local NAMES, CHECKS = {}, {}
for i, requirement in ipairs(sizing.REQUIREMENTS) do NAMES[i], CHECKS[requirement[1]] = requirement[1], requirement[3] end

local function checked(given)
  if type(given) ~= "table" then core.misuse("pool.size_for: a table of requirements is wanted, not a " .. type(given)) end
  local made = {}
  for name, value in pairs(given) do
    if not CHECKS[name] then
      local near = type(name) == "string" and core.nearest(name, NAMES)
      near = near and ("; did you mean %s?"):format(near) or ""
      core.misuse(("pool.size_for: there is no requirement %s%s"):format(tostring(name), near))
    end
    made[name] = CHECKS[name](value)
  end
  local pair = made.requests_per_second and made.query_seconds
  if not made.concurrent_requests and not pair then
    core.misuse "pool.size_for: the load is wanted: concurrent_requests, or requests_per_second and query_seconds"
  end
  if made.concurrent_requests and made.requests_per_second then
    core.misuse "pool.size_for: concurrent_requests and requests_per_second say the same: give one of them"
  end
  return made
end

--- Erlang C: the probability that a request waits, with c connections and load a < c.
---@param c integer
---@param a number
---@return number
function sizing.erlang_c(c, a)
  local b = 1
  for k = 1, c do b = a * b / (k + a * b) end
  local rho = a / c
  return b / (1 - rho * (1 - b))
end

--- The smallest number of connections at which at most 1 % wait longer than `ratio` mean holds.
---@param a number
---@param ratio number
---@return integer
function sizing.connections(a, ratio)
  local c = math.floor(a) + 1
  while c < SIZE_MAX and sizing.erlang_c(c, a) * math.exp(-(c - a) * ratio) > LATE do c = c + 1 end
  return c
end

local function shown(value) return ("%.4g"):format(value) end

--- What one instance may have of the database: nil when nothing says.
local function share_of(r, say)
  local share
  if r.database_limit then
    share = math.max(1, math.floor(r.database_limit / (r.instances or 1) * 0.9))
    say("the database allows %d connections: %d for each of %d instances, a tenth kept free", r.database_limit, share, r.instances or 1)
  end
  if r.database_cores then
    local most = math.max(1, (2 * r.database_cores + 1) // (r.instances or 1))
    say("a database of %d cores does best with about %d at a time (2 x cores + 1), %d for each instance", r.database_cores,
      2 * r.database_cores + 1, most)
    share = math.min(share or math.huge, most)
  end
  return share
end

--- Says what it costs when the caps leave less than was asked for.
local function tell_shortage(r, size, wanted, a, say)
  if size <= a then
    say("%d connections cannot carry a load of %s: requests will pile up until they time out. Make queries shorter, or the database larger",
      size, shown(a))
  elseif size < wanted then
    local waits = sizing.erlang_c(size, a)
    local mean = r.query_seconds and (", %s s in the mean"):format(shown(waits * r.query_seconds / (size - a))) or ""
    say("with %d instead of %d connections %.0f %% of the requests wait%s", size, wanted, 100 * waits, mean)
  end
end

local function sqlite(r, say)
  say "SQLite has one writer at a time and readers beside it: one connection writes, a few read; more only wait for each other"
  local settings = { size = 4, max_overflow = 0 }
  if r.deadline then settings.timeout = 0.8 * r.deadline end
  return settings
end

local function times(r, settings, say)
  if r.deadline then
    settings.timeout = math.min(30, 0.8 * r.deadline)
    say("timeout %s s: 0.8 of the callers' deadline, so that nobody is served who has gone", shown(settings.timeout))
  end
  if r.idle_limit then
    settings.recycle = math.max(1, math.min(3600, math.floor(0.9 * r.idle_limit)))
    say("recycle %s s: below the shortest idle limit on the way, %s s", shown(settings.recycle), shown(r.idle_limit))
  end
end

--- A first size from stated requirements: sizing.REQUIREMENTS. Overflow is what the database's share leaves, as much as the size at
--- most; without a share, as much as the size.
---@param requirements table
---@return pool.Settings settings size, max_overflow, and timeout and recycle where something says what they should be
---@return string[] explanation
function sizing.size_for(requirements)
  local r, lines = checked(requirements), {}
  local function say(...) lines[#lines + 1] = string.format(...) end
  if r.driver == "sqlite" then return sqlite(r, say), lines end
  local a = r.concurrent_requests or r.requests_per_second * r.query_seconds
  if a > 5000 then core.misuse(("pool.size_for: a load of %s connections is more than one pool can carry (5000)"):format(shown(a))) end
  local ratio = r.query_seconds and (r.acceptable_wait or 0) / r.query_seconds or 0
  local wanted = sizing.connections(a, ratio)
  if r.concurrent_requests then say("%s requests at a time", shown(a))
  else
    say("%s requests a second of %s s each keep %s connections busy (Little's law)", shown(r.requests_per_second),
      shown(r.query_seconds), shown(a))
  end
  say("%d connections: then at most 1 request in 100 waits%s (Erlang C)", wanted,
    ratio > 0 and (" longer than %s s"):format(shown(r.acceptable_wait)) or " at all")
  local share = share_of(r, say)
  local size = math.min(wanted, share or wanted)
  tell_shortage(r, size, wanted, a, say)
  local settings = { size = size, max_overflow = math.max(0, math.min(size, (share or 2 * size) - size)) }
  say("max_overflow %d: room for bursts, as much as the size%s", settings.max_overflow, share and " and the share allow" or "")
  times(r, settings, say)
  return settings, lines
end

-- ---- pool size ----

local function help()
  local lines = { "usage: pool size --NAME VALUE...", "",
    "A first size for a pool, from what is known of the load and the database; a policy finds the rest.", "" }
  for _, requirement in ipairs(sizing.REQUIREMENTS) do
    lines[#lines + 1] = ("  --%-22s %s"):format(requirement[1]:gsub("_", "-"), requirement[2])
  end
  lines[#lines + 1] = "  --env                    as environment variables\n  --json                   as JSON\n"
  return table.concat(lines, "\n")
end

sizing.HELP = help()

local ORDER = { "size", "max_overflow", "timeout", "recycle" }

local function print_settings(settings, lines, as)
  if as == "json" then
    io.stdout:write(core.json.encode { settings = settings, explanation = core.array(lines) }, "\n")
    return
  end
  local envs = {}
  for _, setting in ipairs(core.settings()) do envs[setting.name] = setting.env end
  for _, name in ipairs(ORDER) do
    local value = settings[name]
    local text = value and (as == "env" and "%s=%s\n" or "%-13s %s\n")
    if text then io.stdout:write(text:format(as == "env" and envs[name] or name, shown(value))) end
  end
  if as == "env" then return end
  io.stdout:write "\n"
  for _, line in ipairs(lines) do io.stdout:write("- ", line, "\n") end
end

--- Runs the verb; the exit code.
function sizing.main(args, misuse)
  local known = { env = {}, json = {}, help = {} }
  for _, name in ipairs(NAMES) do known[(name:gsub("_", "-"))] = { value = true } end
  local values, rest = require("pool.flags").parse(args, known)
  if not values then return misuse("size: " .. rest) end
  if values.help then return io.stdout:write(sizing.HELP) and 0 end
  if #rest > 0 then return misuse(("size: %s is one argument too many"):format(rest[1])) end
  local requirements = {}
  for _, name in ipairs(NAMES) do
    local text = values[name:gsub("_", "-")]
    if text then requirements[name] = tonumber(text) or text end
  end
  local fine, settings, lines = pcall(sizing.size_for, requirements)
  if not fine then return misuse((tostring(settings):gsub("^.-pool%.size_for: ", "size: "))) end
  print_settings(settings, lines, values.json and "json" or values.env and "env")
  return 0
end

return sizing
