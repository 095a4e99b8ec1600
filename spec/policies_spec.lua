-- The built-in policies: their parameters, what they propose, and the mark that `default` must reach.

local core = require "pool.core"
local policies = require "pool.policies"
local sim = require "pool.sim"

local SETTINGS = core.check_settings {}

-- A snapshot of a pool of 10 + 20 with nothing to do, changed by `fields`.
local function snapshot(fields)
  local none = { count = 0, mean = 0, p50 = 0, p95 = 0, p99 = 0, max = 0 }
  local s = { now = 10, interval = 1, size = 10, max_overflow = 20, limit = 30, total = 10, idle = 10, leased = 0, opening = 0, waiting = 0,
    leased_max = 0, waiting_max = 0, unmet = 0, arrivals = 0, grants = 0, releases = 0, timeouts = 0, rejected = 0, cancelled = 0,
    errors = 0, opens = 0, open_failures = 0, closes = 0, lost = 0, leased_mean = 0, utilization = 0, queue_age = 0, loop_lag = 0,
    failing = false, wait = none, hold = none, open_time = none, query = none, database = {}, settings = SETTINGS }
  for name, value in pairs(fields or {}) do s[name] = value end
  return s
end

local function holds(seconds, count)
  return { count = count or 100, mean = seconds, p50 = seconds, p95 = seconds, p99 = seconds, max = seconds }
end

local function begun(given)
  local policy = assert(policies.load(given))
  assert(policy:begin())
  return policy
end

-- The parameters that a policy's header documents: names.
local function documented(source)
  local names = {}
  for name in source:match "^.-\n\n":gmatch "\n%-%- ([%a_]+)%s%s+%S" do names[name] = true end
  return names
end

-- ... and those it knows.
local function known(source)
  local names = {}
  local list = source:match "\nlocal known = (%b{})"
  for name in (list or "{}"):gmatch "([%a_]+) =" do names[name] = true end
  return names
end

describe("a built-in policy", function()
  for _, name in ipairs(policies.names()) do
    it(name .. " loads, documents what it takes, refuses anything else, and runs", function()
      local source = assert(policies.source(name))
      if name ~= "fixed" and name ~= "tiers" then assert.same(known(source), documented(source)) end
      local wrong, err = policies.load { policy = name, nonsense = 1 }
      assert.is_nil(wrong)
      assert.matches("there is no parameter nonsense", err.message)
      for parameter in pairs(known(source)) do
        local refused, why = policies.load { policy = name, [parameter] = -1 }
        assert.is_nil(refused, name .. " takes " .. parameter .. " = -1")
        assert.matches(parameter, why.message)
      end
      for _, workload in ipairs { "W2", "W6" } do
        local result = assert(sim.run { policy = name, workload = workload, duration = 140, timeline = 0, score = false })
        assert.same({ 0, 0 }, { result.policy_failures, result.refused })
        assert.is_true(result.good > 0)
      end
    end)
  end

  it("tiers proposes its tier", function()
    assert.same({ size = 5, max_overflow = 5 }, (begun { policy = "tiers", tier = "conservative" }:tick(snapshot())))
    assert.is_nil((begun { policy = "tiers" }:tick(snapshot())))
  end)

  it("little takes the load and two standard deviations", function()
    local changes = begun "little":tick(snapshot { arrivals = 400, hold = holds(0.01) })
    assert.same({ size = 8, max_overflow = 0 }, changes) -- 4 + 2 x 2
  end)

  it("deadline leaves the pool 0.8 of the deadline less a statement's p99, and watches the line", function()
    local changes = begun { policy = "deadline", deadline = 2 }:tick(snapshot { hold = holds(0.1) })
    assert.same({ 1.5, "codel", 0.1 }, { changes.timeout, changes.queue, changes.queue_target })
    changes = begun { policy = "deadline", queue = "lifo" }:tick(snapshot { hold = holds(0.01) })
    assert.equal("lifo", changes.queue)
  end)

  it("guard leaves the others what is theirs, and tries one open at a time while opens fail", function()
    local changes, reason = begun "guard":tick(snapshot { database = { max_connections = 100, in_use = 102 } })
    assert.same({ 5, 0 }, { changes.size, changes.max_overflow }) -- 100 - 92 - 3
    assert.matches("the others leave 5 connections", reason)
    assert.same({ max_opening = 1 }, (begun "guard":tick(snapshot { failing = true })))
    assert.is_nil((begun "guard":tick(snapshot { database = { max_connections = 100, in_use = 20 } })))
  end)

  it("aimd grows while people wait, and gives way when opens are refused", function()
    local busy = snapshot { leased_max = 30, size = 30, limit = 30, wait = holds(0.05), hold = holds(0.01),
      settings = core.check_settings { size = 30, max_overflow = 0 } }
    assert.equal(33, (begun "aimd":tick(busy)).size)
    assert.equal(8, (begun "aimd":tick(snapshot { open_failures = 1 })).size)
  end)

  it("codel sets its target to two median holds", function()
    local changes = begun "codel":tick(snapshot { hold = holds(0.02) })
    assert.same({ "codel", 0.04 }, { changes.queue, changes.queue_target })
  end)

  it("usl covers the demand, and looks for the ceiling while the pool is full", function()
    local policy = begun { policy = "usl", settle = 1 }
    assert.equal(12, (policy:tick(snapshot { leased_mean = 20, leased_max = 25, leased = 20 })).size) -- a quarter a tick
    local full = { leased_mean = 30, leased_max = 30, waiting = 50, releases = 270 }
    for _ = 1, 2 do policy:tick(snapshot(full)) end
    local changes = policy:tick(snapshot(full))
    assert.equal(22, changes.size + changes.max_overflow)
  end)
end)

describe("the score of default", function()
  it("over W1 to W11 is at least 90 in the mean and 78 at worst, on three seeds", function()
    local workloads = {}
    for i = 1, 11 do workloads[i] = "W" .. i end
    local cards = assert(sim.compare { policies = { "default", "fixed" }, workloads = workloads, seeds = 3 })
    print(("\n  default %.1f, worst %.1f; fixed %.1f, worst %.1f"):format(cards[1].mean, cards[1].worst, cards[2].mean, cards[2].worst))
    assert.is_true(cards[1].mean >= 90)
    assert.is_true(cards[1].worst >= 78)
    assert.is_true(cards[2].mean < 80)
  end)
end)
