-- The fault matrix (spec/faults): a few of its rows, under a server of their own; and that its harness notices what is wrong.
if not os.getenv "POOL_SPEC_BUILD" then
  describe("the fault matrix", function() pending "needs a build: run it through spec/run" end)
  return
end

local matrix = require "faults.matrix"
local process = require "support.process"

local names = { "DIR", "PORT", "USER", "PASSWORD", "DATABASE", "BIN" }

--- A cluster that is nobody else's, for rows that stop it: what a child sees of it.
local function own_cluster()
  local text, code = process.run "spec/support/cluster create $PPID"
  assert(code == 0, text)
  local env = {}
  for _, name in ipairs(names) do env["POOL_SPEC_PG_" .. name] = text:match("PG_" .. name .. "=([^\n]*)") end
  return env
end

describe("the fault matrix", function()
  local env

  setup(function() env = own_cluster() end)
  teardown(function() process.run("POOL_SPEC_PG_DIR=" .. env.POOL_SPEC_PG_DIR .. " spec/support/cluster remove") end)

  local function judge(row, how) return matrix.judge(row, how, env) end

  for _, row in ipairs(matrix.rows()) do
    if row.quick then
      it(("%s (%s)"):format(row.name, row.quick), function()
        local result = judge(row, row.quick)
        if result.skipped then return pending(result.skipped) end
        assert.same({}, result.broken)
      end)
    end
  end

  it("notices wrong answers, errors that nobody allowed, faults that did not strike, and what is left behind", function()
    for _, how in ipairs { "tasks", "serve" } do
      local told = table.concat(judge(matrix.row "planted: everything wrong", how).broken, "\n")
      assert.matches("%d+ wrong answers: own %d+: .*planted", told)
      assert.matches("not allowed: %d+ x query:22012", told)
      assert.matches("the fault did not strike: nobody met 57P01", told)
      assert.matches("never whole again", told)
      assert.matches("left behind: %d+ coroutines", told)
      assert.matches("left behind: 1 descriptors", told)
    end
  end)

  local function broken(changes, row)
    local result = { broken = {}, right = 299, wrong = 0, missing = 0, bound = 1, whole = 0.5, calm = 0.1, most = 8, limit = 8, left = {} }
    for name, value in pairs(changes) do result[name] = value end
    matrix.verdict(row or { allow = "lost query:40001" }, result, { seen = result.seen or {}, told = {}, wrong = {} })
    return table.concat(result.broken, "\n")
  end

  it("lets a run pass that is fine", function()
    assert.equal("", broken { seen = { lost = 3, ["lost:57P01"] = 2, ["lost:"] = 1, ["query:40001"] = 1, ["40001"] = 1 } })
  end)

  it("asks for each figure of a run", function()
    assert.equal("1 missing answers: nil", broken { missing = 1 })
    assert.matches("^1 wrong answers", broken { wrong = 1 })
    assert.equal("only 10 right answers: no load", broken { right = 10 })
    assert.equal("9 connections at the server, 8 allowed", broken { most = 9 })
    assert.equal("", broken({ most = 9 }, { allow = "", excess = 1 }))
    assert.equal("left behind: 2 leases", broken { left = { leases = 2, waiters = 0 } })
    assert.matches("^never whole again", broken { whole = false })
    if not os.getenv "POOL_SPEC_PRELOAD" then assert.equal("whole only after 1.20 s", broken { whole = 1.2 }) end
    assert.matches("^not allowed: 1 x query:23505 ", broken { seen = { ["query:23505"] = 1 } })
    assert.matches("^not allowed: 1 x timeout: ", broken { seen = { ["timeout:"] = 1 } })
    assert.matches("^not allowed: 1 x lost:57P01 ", broken({ seen = { ["lost:57P01"] = 1 } }, { allow = "lost:57P05" }))
  end)
end)
