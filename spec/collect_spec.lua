-- A collection after every callback of the runtime (support/collect.c): it does happen, and pool's specs pass under it. Which of them is
-- a choice of what has most callbacks in least time; all of them: POOL_SPEC_GC=1 spec/run.
local process = require "support.process"

local BUILD = os.getenv "POOL_SPEC_BUILD"
local SPECS = { "acquire", "between", "cursor", "deadline", "finalizer", "session", "task", "testing" }

--- Runs Lua in a process of its own; its exit code and what it printed.
local function lua(arguments, every)
  local env = { LUA_CPATH = BUILD .. "/collect/lib/?.so;;", POOL_SPEC_COMMAND = BUILD .. "/collect/bin/pool", POOL_SPEC_GC = every }
  local p <close> = process.start({ "lua5.4", table.unpack(arguments) }, { env = env })
  return p:wait(300), p:stdout() .. p:stderr()
end

describe("a collection after every callback", function()
  it("runs the finaliser of what a task dropped before its next turn", function()
    local chunk = [[
      local pool = require "pool"
      local gone = "kept"
      pool.run(function()
        setmetatable({}, { __gc = function() gone = "gone" end })
        pool.sleep(0)
        io.write(gone)
      end)]]
    assert.same({ 0, "gone" }, { lua({ "-e", chunk }, "1") })
    assert.same({ 0, "kept" }, { lua({ "-e", chunk }, "0") })
  end)

  local busted = process.run("command -v busted"):gsub("\n", "")
  for _, name in ipairs(SPECS) do
    it("takes nothing from what " .. name .. "_spec does", function()
      local code, said = lua({ busted, "--config-file=.busted", "spec/" .. name .. "_spec.lua" }, "1")
      assert(code == 0, (said:gsub("\n", "\n  "))) -- so that its closing line is not taken for this file's
    end)
  end
end)
