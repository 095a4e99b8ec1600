--- The workloads that policies are judged on, W1 to W12: plain tables, as a workload file returns one.
---
--- A workload: name, word, text (what it is), duration (seconds), workload (a source of requests, or an array of them, as sim.run takes),
--- database (as sim.run takes), settings (those the workload itself needs, if any), limits (if any).
--- The callers of W1 to W11 leave after 1 s: what they asked for goes on for nobody, and only what is answered within 1 s of the attempt
--- is good.

local sim_check = require "pool.sim_check"

local workloads = {}

-- Database A: 10 ms a query, N* = 34. Database B: N* = 10. An open: 10 ms round trip and 5 ms of work.
local CONNECT = { round_trip = 0.010, work = 0.005 }

local function database(usl, more)
  local made = { connect = CONNECT, max_connections = 100, usl = usl }
  for name, value in pairs(more or {}) do made[name] = value end
  return made
end

local A = { sigma = 0.08, kappa = 0.0008 }
local B = { sigma = 0.05, kappa = 0.01 }
local QUERY = { kind = "exponential", mean = 0.010 }

local function source(arrival, more)
  local made = { arrival = arrival, service = QUERY, deadline = 1 }
  for name, value in pairs(more or {}) do made[name] = value end
  return made
end

local function poisson(rate, more) return source({ kind = "poisson", rate = rate }, more) end

local LIST = {
  { name = "W1", word = "trickle", text = "0.5/s, and 20 at once each minute", duration = 600, database = database(A),
    workload = { poisson(0.5), source { kind = "batch", batch = 20, first = 60, every = 60 } } },
  { name = "W2", word = "steady", text = "100/s", duration = 300, database = database(A), workload = poisson(100) },
  { name = "W3", word = "contended", text = "600/s", duration = 300, database = database(A), workload = poisson(600) },
  { name = "W4", word = "diurnal", text = "50 to 600/s and back in 600 s", duration = 600, database = database(A),
    workload = source { kind = "diurnal", low = 50, high = 600, period = 600 } },
  { name = "W5", word = "bursty", text = "100/s for 9 s and 1000/s for 1 s, in the mean", duration = 300, database = database(A),
    workload = source { kind = "mmpp", rates = { 100, 1000 }, means = { 9, 1 } } },
  { name = "W6", word = "flash", text = "150/s, to 1500/s within 2 s, 30 s long, and back within 20 s", duration = 300,
    database = database(A), workload = poisson { { 0, 150 }, { 100, 150 }, { 102, 1500 }, { 132, 1500 }, { 152, 150 } } },
  { name = "W7", word = "mixture", text = "400/s, 95 % of them 5 ms of work, 5 % hold for 500 ms and do none", duration = 300,
    database = database(A), workload = poisson(400, { service = {
      { kind = "exponential", mean = 0.005, share = 95 }, { kind = "exponential", mean = 0.500, share = 5, holding = true },
    } }) },
  { name = "W8", word = "closed", text = "200 callers who think for 300 ms, database B", duration = 300, database = database(B),
    workload = source { kind = "closed", clients = 200, think = 0.300 } },
  { name = "W9", word = "brownout", text = "400/s, the database at a quarter of its speed from 100 to 160 s, up to 3 retries",
    duration = 300, database = database(A, { faults = { { kind = "speed", at = 100, seconds = 60, value = 0.25 } } }),
    workload = poisson(400, { retries = 3, retry_after = 0.1 }) },
  { name = "W10", word = "crash", text = "300/s, a crash at 100 s for 10 s, log-ins cost 30 ms", duration = 300,
    database = database(A, { connect = { round_trip = 0.010, work = 0.030 },
      faults = { { kind = "restart", at = 100, seconds = 10 } } }), workload = poisson(300) },
  { name = "W11", word = "neighbours", text = "300/s, neighbours hold 50, then 92 of the 100 connections from 100 to 200 s",
    duration = 300, database = database(A, { faults = {
      { kind = "others", at = 0, seconds = 1e6, value = 50 }, { kind = "others", at = 100, seconds = 100, value = 42 },
    } }), workload = poisson(300) },
  { name = "W12", word = "spike", text = "50 at once upon 5 idle connections, open 150 ms, query 2 ms, 50 connections at most",
    duration = 20, database = { connect = { round_trip = 0, work = 0.150 }, max_connections = 50 },
    workload = {
      { arrival = { kind = "batch", batch = 5, first = 1 }, service = { kind = "deterministic", mean = 0.2 }, deadline = 1 },
      { arrival = { kind = "batch", batch = 50, first = 10 }, service = { kind = "deterministic", mean = 0.002 }, deadline = 1 },
    } },
}

local by_name = {}
for _, workload in ipairs(LIST) do
  by_name[workload.name] = workload
  by_name[workload.word] = workload
end

--- The built-in ones, in order.
---@return table[]
function workloads.list() return { table.unpack(LIST) } end

local function names()
  local all = {}
  for _, workload in ipairs(LIST) do all[#all + 1] = workload.name .. " (" .. workload.word .. ")" end
  return table.concat(all, ", ")
end

--- Loads a workload file: Lua text that returns such a table; it has math, ipairs and pairs at hand and nothing else.
local function load_file(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  local text = file:read(1024 * 1024) or ""
  file:close()
  local chunk, wrong = load(text, "@" .. path, "t", { math = math, ipairs = ipairs, pairs = pairs })
  if not chunk then return nil, wrong end
  local fine, made = pcall(chunk)
  if not fine then return nil, tostring(made) end
  if type(made) ~= "table" or type(made.workload) ~= "table" then
    local what = made == nil and "nothing" or "a " .. type(made)
    return nil, ("%s must return a table with a field workload; it returned %s"):format(path, what)
  end
  made.name = made.name or path:match "([^/]*)$":gsub("%.lua$", "")
  made.database = made.database or {}
  made.duration = made.duration or 300
  local wrongly = sim_check.fault(function() sim_check.workload_file(made) end)
  if wrongly then return nil, path .. ": " .. wrongly end
  return made
end

--- A workload by its name ("W2", "steady"), from a file, or from a recording.
---@param name string
---@return table? workload
---@return string? message
function workloads.get(name)
  if by_name[name] then return by_name[name] end
  if require("pool.recording").is(name) then return require("pool.recording").workload(name) end
  if name:find "[/.]" then return load_file(name) end
  return nil, ("there is no workload %s: it is a file, a recording, or one of %s"):format(name, names())
end

return workloads
