-- require "pool.sim" and `pool simulate`.

local pool = require "pool"
local process = require "support.process"
local sim = require "pool.sim"

local COMMAND = os.getenv "POOL_SPEC_COMMAND"

local function queue(c, rho, options)
  local made = { settings = { size = c, max_overflow = 0, timeout = 1e6, max_waiting = 1000000 }, duration = 2000, warmup = 100,
    workload = { arrival = { kind = "poisson", rate = rho * c / 0.01 }, service = { kind = "exponential", mean = 0.01 } } }
  for name, value in pairs(options or {}) do made[name] = value end
  return made
end

describe("sim.run", function()
  it("is M/M/c with size c and no overflow", function()
    local result = assert(sim.run(queue(5, 0.8)))
    assert.is_true(math.abs(result.wait.mean / 0.0055411 - 1) < 0.05)
    assert.is_true(math.abs(result.utilization / 0.8 - 1) < 0.01)
    local settled = result.served + result.timeouts + result.rejected + result.errors + result.cancelled + result.in_system
    assert.equal(result.offered, settled)
    assert.equal(1999, #result.timeline)
  end)

  it("gives the same result for the same seed, to the last digit, policy and all", function()
    local function run(seed)
      return pool.json.encode((function(r)
        r.policy = nil -- its times are of this machine
        return r
      end)(assert(sim.run { policy = "default", workload = "W6", seed = seed, duration = 120 })))
    end
    local first = run(3)
    assert.equal(first, run(3))
    assert.not_equal(first, run(4))
  end)

  it("tells what the policy changed and why, in virtual time", function()
    local file = os.tmpname()
    local out <close> = assert(io.open(file, "w"))
    out:write 'return { every = 2, tick = function(s) if s.now < 3 then return { size = 12 }, "more" end end }'
    out:flush()
    local result = assert(sim.run { policy = file, workload = "W2", duration = 20 })
    os.remove(file)
    assert.equal(1, #result.decisions)
    assert.same({ at = 2.0, before = { size = 10 }, changes = { size = 12 }, reason = "more" }, result.decisions[1])
  end)

  it("runs a policy that fails on with the settings as they are, and says so", function()
    local file = os.tmpname()
    local out <close> = assert(io.open(file, "w"))
    out:write 'return { tick = function(s) if s.now > 5.5 then error "oops" end end }'
    out:flush()
    local result = assert(sim.run { policy = file, workload = "W2", duration = 10 })
    os.remove(file)
    assert.equal(4, result.policy_failures)
    assert.matches("oops", result.policy_failure)
    local none, err = sim.run { policy = "nosuch", workload = "W2" }
    assert.is_nil(none)
    assert.equal("policy", err.kind)
  end)

  it("kills and refuses as a database that restarts does, and the pool recovers", function()
    local result = assert(sim.run { workload = "W10", timeline = 1, settings = { timeout = 0.8 } })
    local down, after = result.timeline[105], result.timeline[150]
    assert.same({ 0, true }, { down.served, down.open_failures > 0 })
    assert.is_true(after.served > 200)
    assert.is_true(result.errors > 0)
  end)

  it("misuse raises at the caller's line, naming the option and what is right", function()
    local function refused(options)
      local fine, message = pcall(sim.run, options)
      assert.is_false(fine)
      return message
    end
    local base = queue(1, 0.5)
    local function with(name, value)
      local made = queue(1, 0.5)
      made[name] = value
      return made
    end
    assert.matches("there is no option sede; did you mean seed", refused(with("sede", 1)))
    assert.matches('workload.arrival.kind: "poison" is none of batch, closed', refused(with("workload", {
      arrival = { kind = "poison" }, service = base.workload.service })))
    assert.matches("workload.arrival.rate: %-1 is not a number from 0", refused(with("workload", {
      arrival = { kind = "poisson", rate = -1 }, service = base.workload.service })))
    assert.matches("workload.service: what a request takes is wanted", refused(with("workload", { arrival = base.workload.arrival })))
    assert.matches("duration: 0 is not a number from", refused(with("duration", 0)))
    assert.matches("database.usl: there is no option sgima", refused(with("database", { usl = { sgima = 1 } })))
    assert.matches("there is no workload W99", refused { workload = "W99" })
    assert.matches("^spec/sim_spec.lua:%d+: sim.run: ", refused { workload = "W99" })
  end)
end)

describe("sim.compare", function()
  it("pairs the seeds, and gives means with their intervals", function()
    local cards = assert(sim.compare { policies = { "fixed", "fixed", "default" }, workloads = { "W2", "W8" }, seeds = 3, duration = 60 })
    assert.same({ 0, 0 }, { cards[2].workloads[1].difference, cards[2].workloads[2].difference_interval })
    assert.is_true(cards[3].workloads[2].difference > 0)
    assert.is_true(cards[1].interval > 0)
    assert.equal(3, #cards[1].workloads[1].scores)
  end)
end)

describe("pool simulate", function()
  local function pool_simulate(...)
    local p <close> = process.start { COMMAND, "simulate", ... }
    local code = p:wait(60)
    return p:stdout(), p:stderr(), code
  end

  it("prints a table within 100 columns, the same twice", function()
    local text, complaints, code = pool_simulate("default", "--workload", "W2,W8", "--duration", "60", "--seeds", "2")
    assert.same({ "", 0 }, { complaints, code })
    assert.matches("^workload +offered +served +good +failed +wait +p95 +p99 +conns +max +opens +util +score\nW2 ", text)
    assert.matches("\nmean %d+%.%d ± %d+%.%d, worst %d+%.%d\n$", text)
    for line in text:gmatch "[^\n]+" do assert.is_true(#line <= 100) end
    assert.equal(text, (pool_simulate("default", "--workload", "W2,W8", "--duration", "60", "--seeds", "2")))
  end)

  it("prints JSON, decisions and comparisons", function()
    local rows = assert(pool.json.decode((pool_simulate("default", "--duration", "20", "--json"))))
    assert.equal("W2", rows[1].name)
    assert.is_true(rows[1].runs[1].offered > 1500)
    assert.matches("\n +1%.00 s  [^\n]*queue fifo %-> codel", (pool_simulate("default", "--duration", "20", "--decisions")))
    assert.matches("\ndefault +%d+%.%d ±", (pool_simulate("--compare", "fixed,default", "--duration", "20", "--seeds", "2")))
    assert.matches("\nW2 ", (pool_simulate("tiers", "--param", "tier=high", "--size", "3", "--duration", "20")))
  end)

  it("refuses what makes no sense with exit code 2, and a policy that fails with 1", function()
    for _, case in ipairs { { "--workload", "W99" }, { "--seeds", "0" }, { "--limits", "size=5" }, { "--size", "abc" }, { "a", "b" },
      { "--compare", "fixed", "default" } } do
      local _, complaints, code = pool_simulate(table.unpack(case))
      assert.equal(2, code, complaints)
      assert.matches("^pool: simulate: ", complaints)
    end
    local _, complaints, code = pool_simulate "nosuch"
    assert.equal(1, code)
    assert.matches("there is no policy nosuch", complaints)
  end)

  it("names the workload file whose settings are wrong", function()
    local path = os.tmpname()
    local wrong = { ["{ queue = 'c0odel' }"] = 'settings: queue: "c0odel" is not one of fifo, lifo, codel',
      ["5"] = "settings: a table is wanted, not 5", ["nil, limits = 5"] = "limits: a table is wanted, not 5" }
    for settings, message in pairs(wrong) do
      local file = assert(io.open(path, "w"))
      file:write("return { workload = { arrival = { kind = 'poisson', rate = 50 }, service = { kind = 'exponential', mean = 0.01 } }, ",
        "settings = ", settings, " }")
      file:close()
      local _, complaints, code = pool_simulate("--workload", path)
      assert.equal(2, code)
      assert.equal("pool: simulate: --workload: " .. path .. ": " .. message, complaints:match "^[^\n]*")
    end
    os.remove(path)
  end)

  it("tells a policy's on_event as a live pool does", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write [[return { on_event = function(e, s, state) assert(s.timeouts > 0) error("heard " .. e.kind) end }]]
    file:close()
    local result = assert(sim.run { policy = path, settings = { size = 1, max_overflow = 0, timeout = 0.05 }, duration = 10,
      workload = { arrival = { kind = "even", rate = 20 }, service = { kind = "deterministic", mean = 0.1 } } })
    assert.matches("heard timeout", result.policy_failure)
    assert.is_true(result.policy_failures >= 8 and result.timeouts > 50)
    os.remove(path)
  end)
end)
