-- The soak (spec/faults/soak) in short, and its judge: that it finds what grows, what does not add up and what is left behind.
local judge = require "faults.soak_judge"
local process = require "support.process"

local SCRIPT = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$") .. "/faults/soak.lua"
local SECONDS = "12"

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
