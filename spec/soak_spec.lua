-- The soak (spec/faults/soak) in short, and its judge: that it finds what grows, what does not add up and what is left behind.
local judge = require "faults.soak_judge"
local process = require "support.process"

local SCRIPT = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$") .. "/faults/soak.lua"
local SECONDS = "20"

--- Samples of a figure, one a second: fn(second).
local function series(name, fn)
  local samples = {}
  for i = 1, 60 do samples[i] = { at = i, [name] = fn(i) } end
  return samples
end

local function figure(name)
  for _, each in ipairs(judge.FLAT) do
    if each.name == name then return each end
  end
end

describe("the judge of the soak", function()
  it("calls flat what goes up and down, and what grew during the warm-up alone", function()
    for _, each in ipairs(judge.FLAT) do
      local half = each.constant // 2
      local row = judge.flat("x", series(each.name, function(i) return i <= 12 and 0 or 1000 + (i % 2) * half end), each, 12)
      assert.is_true(row.fine, each.name)
    end
  end)

  it("finds what grows by more than the margin from the first third to the last, whatever it is", function()
    for _, each in ipairs(judge.FLAT) do
      local step = (each.constant + each.share * 1000) / 25 -- 32 seconds lie between the thirds' middles
      local row = judge.flat("x", series(each.name, function(i) return 1000 + i * step end), each, 12)
      assert.same({ false, "grew" }, { row.fine, row.why }, each.name)
    end
  end)

  it("is not deceived by a burst, and passes nothing that it has not seen", function()
    local burst = judge.flat("x", series("tasks", function(i) return i > 55 and 5000 or 20 end), figure "tasks", 12)
    assert.is_true(burst.fine)
    local nothing = judge.flat("x", series("other", function() return 1 end), figure "tasks", 12)
    assert.same({ false, "too few samples" }, { nothing.fine, nothing.why })
  end)

  it("adds up the counters", function()
    local function sample() return { arrivals = 21, grants = 10, timeouts = 4, rejected = 3, cancelled = 1, errors = 1, waiting = 2,
      releases = 8, leased = 2 } end
    assert.is_nil(judge.sums(sample()))
    for _, name in ipairs { "arrivals", "timeouts", "rejected", "cancelled", "errors", "waiting" } do
      local off = sample()
      off[name] = off[name] + 1
      assert.matches("arrived", judge.sums(off), name)
    end
    local lost = sample()
    lost.releases = 7
    assert.equal("10 granted, 9 released or out", judge.sums(lost))
  end)

  it("counts the answers between looks that no fault touches", function()
    local tallies = {}
    for i = 1, 10 do tallies[i] = { at = i, right = 10 * i, typed = i > 6 and 4 * (i - 6) or 0 } end
    assert.same({ 90, 106 }, { judge.calm(tallies, {}, 0.5) })
    assert.same({ 50, 50 }, { judge.calm(tallies, { { from = 6.2, till = math.huge } }, 0.5) })
    assert.same({ 70, 86 }, { judge.calm(tallies, { { from = 2.1, till = 2.8 }, { from = 2.9, till = 3.1 } }, 0.5) })
    assert.same({ 0, 0 }, { judge.calm({ tallies[1] }, {}, 0.5) })
  end)

  it("names the terms of the sum that nothing came to", function()
    local ended = { grants = 9, timeouts = 1, rejected = 1, cancelled = 1, errors = 1 }
    assert.same({}, judge.untried(ended, { { waiting = 0 }, { waiting = 3 } }))
    assert.same({ "waiting" }, judge.untried(ended, { { waiting = 0 }, {} }))
    for name in pairs(ended) do
      local without = setmetatable({ [name] = 0 }, { __index = ended })
      assert.same({ name }, judge.untried(without, { { waiting = 1 } }))
    end
  end)

  it("says what is not back at its beginning, but for what may remain", function()
    local first = { descriptors = 9, coroutines = 2, tasks = 3, threads = 1 }
    assert.is_nil(judge.back(first, { descriptors = 9, coroutines = 2, tasks = 2, threads = 3 }, { threads = 8 }))
    assert.equal("10 descriptors, it began with 9; 3 threads, it began with 1",
      judge.back(first, { descriptors = 10, coroutines = 2, tasks = 3, threads = 3 }, {}))
  end)
end)

if not os.getenv "POOL_SPEC_BUILD" then
  describe("the soak", function() pending "needs a build: run it through spec/run" end)
  return
end

describe("seconds of everything that can happen, upon tasks and pool serve at once", function()
  it("leave memory, descriptors, tasks, threads and connections flat, every answer right and every counter adding up", function()
    local env = {} -- a PostgreSQL of its own: this one's server dies again and again
    for _, name in ipairs { "DIR", "PORT", "USER", "PASSWORD", "DATABASE", "BIN" } do env["POOL_SPEC_PG_" .. name] = false end
    local p <close> = process.start({ "lua5.4", SCRIPT, SECONDS }, { env = env })
    local code = p:wait(400)
    local out = p:stdout()
    assert.equal(0, code, out .. p:stderr())
    assert.matches("soak: passed\n$", out)
    print("\n  " .. out:match "^[^\n]*")
    for what in out:gmatch "\nok    (%l+: answers: [^\n]*)" do print("  " .. what) end
  end)
end)
