-- Everything at once, at random (spec/sim/torture.lua): a crash, a hang, a leak, a wrong answer or counter shows here with its seed.
local postgres = require "support.postgres"
local process = require "support.process"

local SCRIPT = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$") .. "/sim/torture.lua"

local function torture(env)
  local p <close> = process.start({ "lua5.4", SCRIPT, "5" }, { env = env })
  local code = p:wait(60)
  local out, err = p:stdout(), p:stderr()
  assert.equal(0, code, out .. err)
  assert.equal("", err, out)
  assert.match("%d+ answers", out)
end

describe("five seconds of everything at once", function()
  it("on PostgreSQL leave every answer right and nothing behind", function()
    local env = {}
    for name, value in pairs(postgres.cluster()) do env["POOL_SPEC_PG_" .. name] = value end
    torture(env)
  end)

  it("on SQLite leave every answer right and nothing behind", function()
    torture { POOL_SPEC_PG_DIR = false }
  end)
end)
