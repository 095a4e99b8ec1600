-- A policy judged in virtual time, before it goes near a server: ten minutes of traffic in well under a second, the same every time.
--
--   build/release/pool run examples/09_simulate.lua
--
-- The same from the command line: build/release/pool simulate examples/tune.lua --workload diurnal

local sim = require "pool.sim"

local POLICY = arg[0]:match "^(.-)[^/]*$" .. "tune.lua"

-- A workload of one's own: what arrives, what it costs, what kind of database it meets.
local workload = {
  -- the rate: {seconds, requests a second}, linear in between
  arrival = { kind = "poisson", rate = { { 0, 50 }, { 200, 50 }, { 210, 700 }, { 400, 700 }, { 410, 50 } } },
  service = { kind = "exponential", mean = 0.010 },
  deadline = 1, -- the caller is gone after a second
}
local database = { connect = 0.015, max_connections = 100, usl = { sigma = 0.08, kappa = 0.0008 } }

local function run(label, policy)
  local r = assert(sim.run { policy = policy, workload = workload, database = database, duration = 600, seed = 1,
    settings = { size = 5, max_overflow = 0 } })
  print(("%-9s %3.0f %% answered in time, wait p99 %7.1f ms, %4.1f connections, score %.0f"):format(label, 100 * r.good / r.requests,
    r.wait.p99 * 1000, r.connections.mean, r.score))
  return r
end

run("fixed", nil)
local tuned = run("tune.lua", POLICY)
run("default", "default")

local first = tuned.decisions[1]
print(("tune.lua's first step: at %.0f s size %d -> %d (%s)"):format(first.at, first.before.size, first.changes.size, first.reason))
