-- Two thousand cancels at random times (spec/faults/cancel_races.lua; a hundred thousand by `spec/faults/run cancels`): a statement that
-- was hit by somebody else's cancel shows here, with the seed.
local postgres = require "support.postgres"
local process = require "support.process"

local SCRIPT = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$") .. "/faults/cancel_races.lua"

describe("two thousand cancels", function()
  it("never hit the next statement of their connection, and cost no connection", function()
    local env = {}
    for name, value in pairs(postgres.cluster()) do env["POOL_SPEC_PG_" .. name] = value end
    local p <close> = process.start({ "lua5.4", SCRIPT, "2000" }, { env = env })
    local code = p:wait(120)
    assert.equal(0, code, p:stdout() .. p:stderr())
    assert.equal("", p:stderr())
    local sent, hit, late = p:stdout():match(
      "\nall +%d+ +%d+ +%d+ +0\n(%d+) cancels came to the server, [^\n]*: (%d+) cancelled a statement, (%d+) came when it had ended\n")
    assert.is_true(sent and tonumber(sent) >= 2000 and tonumber(sent) == tonumber(hit) + tonumber(late), p:stdout())
    assert.match("\n0 connections given up", p:stdout())
  end)
end)
