-- db:advise: each rule with figures that call for it, and figures that just do not.

local advise = require "pool.advise"
local pool = require "pool"

local base
do
  local db <close> = pool.new "sqlite:///:memory:"
  base = db:stats()
end

local function times(mean, count, more)
  local made = { count = count or 1000, mean = mean, p50 = mean, p95 = mean, p99 = mean, max = mean }
  for name, value in pairs(more or {}) do made[name] = value end
  return made
end

-- A pool of 10 + 20 that does well.
local function figures(changes, settings)
  local s = {}
  for name, value in pairs(base) do s[name] = value end
  s.settings = {}
  for name, value in pairs(base.settings) do s.settings[name] = value end
  s.settings.size, s.settings.max_overflow, s.settings.recycle = 10, 20, 3600
  for name, value in pairs(settings or {}) do s.settings[name] = value end
  local well = { size = 10, max_overflow = 20, arrivals = 1000, grants = 1000, releases = 1000, total = 10, idle = 6, utilization = 0.2,
    opens = 10, queries = 1000, wait = times(0.001), hold = times(0.01), query = times(0.008) }
  for name, value in pairs(well) do s[name] = value end
  for name, value in pairs(changes or {}) do s[name] = value end
  return s
end

local CASES = {
  { "callers time out", { timeouts = 3 }, { timeouts = 0 } },
  { "codel sheds callers", { rejected = 4, shed = 4 }, { rejected = 0 } },
  { "the line is full", { rejected = 4 }, { rejected = 0 } },
  { "connections cannot be opened", { open_failures = 1 }, { open_failures = 0 } },
  { "leases leak", { leaks = 1 }, { leaks = 0 } },
  { "callers wait for connections", { wait = times(0.05) }, { wait = times(0.049) } },
  { "connections are held while nothing runs on them", { hold = times(0.03), query = times(0.01) },
    { hold = times(0.029), query = times(0.01) } },
  { "callers may wait longer than they stay", { wait = times(0.001, 1000, { max = 1.5 }) }, { wait = times(0.001, 1000, { max = 0.9 }) } },
  { "connections come and go", { opens = 150 }, { opens = 99 } },
  { "NullPool under traffic", { opens = 1000 }, { grants = 99 }, { size = 0 } },
  { "more connections than are used", { total = 30, idle = 30, utilization = 0.01 }, { total = 30, idle = 30, utilization = 0.06 } },
  { "idle connections die", { checks = 10, check_failures = 3 }, { checks = 10, check_failures = 2 } },
}

local function symptoms(s)
  local list = {}
  for i, each in ipairs(advise.of(s)) do
    list[i] = each.symptom
    assert.is_true(#each.evidence > 0 and #each.change > 0)
  end
  return list
end

describe("advice", function()
  it("is none for a pool that does well", function() assert.same({}, advise.of(figures())) end)

  for _, case in ipairs(CASES) do
    it(case[1] .. ": said when it is so, not when it is just not", function()
      assert.same({ case[1] }, symptoms(figures(case[2], case[4])))
      assert.same({}, symptoms(figures(case[3], case[4])))
    end)
  end

  it("has its evidence in figures and a change with a number", function()
    local first = advise.of(figures { timeouts = 30, utilization = 0.95 })[1]
    assert.matches("30 of 1000 arrivals got no connection within 30 s", first.evidence)
    assert.matches("size = 15 %(now 10%)", first.change)
  end)

  it("comes from a live pool through db:advise, the gravest first", function()
    local db <close> = pool.new { database_url = "sqlite:///:memory:", timeout = 0.01 }
    pool.run(function()
      local _ <close> = assert(db:acquire())
      assert.is_nil((db:acquire()))
    end)
    assert.equal("callers time out", db:advise()[1].symptom)
  end)
end)
