-- The bench is run, in small, so that it does not rot; how long anything takes is asserted nowhere.
local process = require "support.process"

local function bench(arguments)
  return process.run("spec/bench/run --no-install " .. arguments .. " 2>&1")
end

local function row(output, what)
  local cells = {}
  for line in output:gmatch("[^\n]+") do
    if line:find("| " .. what, 1, true) == 1 then
      for cell in line:gmatch("|%s*([^|]-)%s*%f[|]") do cells[#cells + 1] = cell end
      return cells
    end
  end
  error(("no row %q in:\n%s"):format(what, output))
end

describe("spec/bench/run", function()
  it("refuses what it does not know, and says what it does", function()
    local output, code = process.run("lua5.4 spec/bench/bench.lua --only nothing 2>&1")
    assert.equal(2, code)
    assert.matches("core, lease, query", output)
  end)

  if os.getenv("POOL_SPEC_PRELOAD") then
    pending("measures the release build: see it there")
    return
  end

  it("counts the core's instructions and times it", function()
    local output, code = bench "--quick --only core --markdown"
    assert.equal(0, code, output)
    local counted = row(output, "core acquire + next + release: instructions")[2]
    assert.truthy(counted == "valgrind is missing" or tonumber(counted) > 0)
    assert.matches("^%d+ ns %(%d+–%d+%)$", row(output, "core acquire + next + release ")[2])
  end)

  it("sets queries beside pgbench, as a ratio", function()
    local output, code = bench "--quick --only query --markdown"
    assert.equal(0, code, output)
    local cells = row(output, "db:query by key")
    assert.matches("^%d+/s pgbench", cells[3])
    assert.matches("^%d+%.%d+ %(%d+%.%d+–%d+%.%d+%)$", cells[4])
    assert.truthy(tonumber((cells[4]:match("^%S+"))) > 0)
    assert.matches("^%d+%.%d µs$", row(output, "db:query: CPU of the client")[2])
  end)

  it("counts simulated requests and ticks", function()
    local output, code = bench "--quick --only tuning --markdown"
    assert.equal(0, code, output)
    assert.matches("^%d+ %(%d+–%d+%)$", row(output, "a simulated request, fixed settings, a CPU second")[2])
    assert.matches("^%d+ µs", row(output, "a tick of default  ")[2])
  end)
end)
