local process = require "support.process"

--- Runs a chunk of Lua in a process of its own; its exit code and what it printed.
local function lua(chunk)
  local p <close> = process.start { "lua5.4", "-e", "local pool = require 'pool' " .. chunk }
  local code = p:wait(30)
  return code, p:stdout(), p:stderr()
end

local WAITS = [[
  local db = pool.new { database_url = "sqlite:///:memory:" }
  local held = assert(db:acquire())
  for _, wait in ipairs {
    function() db:query "select 1" end,
    function() db:acquire() end,
    function() pool.sleep(100) end,
    function() pool.all { function() pool.sleep(100) end, function() db:query "select 2" end } end,
    function() local own = pool.new { database_url = "sqlite:///:memory:" } for _ in own:rows "select 1" do pool.sleep(100) end end,
    function() pool.deadline(50, pool.sleep, 100) end,
    function() db:close(100) end,
  } do pool.spawn(wait) end
  pool.sleep(0.01)
]]

describe("the end of a Lua state", function()
  it("amid tasks that wait for all kinds of things is quiet, and leaks nothing", function()
    local code, out, err = lua(WAITS .. "print 'end'")
    assert.equal(0, code, err)
    assert.equal("end\n", out)
  end)

  it("by os.exit in a task closes the state and ends with its code", function()
    local code, _, err = lua("pool.run(function() pool.spawn(pool.sleep, 100) pool.sleep(0) os.exit(3, true) end)")
    assert.equal(3, code, err)
    assert.equal("", err)
  end)

  it("by os.exit in a task that a call outside pool.run runs ends with its code too", function()
    local code, _, err = lua("pool.spawn(function() os.exit(4, true) end) pool.sleep(1)")
    assert.equal(4, code, err)
    assert.equal("", err)
  end)

  it("lets a late finalizer hear that pool cannot be used any more", function()
    local p <close> = process.start { "lua5.4", "-e", [[
      Late = setmetatable({}, { __gc = function() print(pcall(require("pool").sleep, 0)) end })
      require("pool").sleep(0)]] }
    assert.equal(0, p:wait(30))
    assert.equal("false\tpool cannot be used any more: its Lua state is being closed\n", p:stdout())
  end)
end)
