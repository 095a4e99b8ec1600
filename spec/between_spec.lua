-- Between the end of a wait and the turn of the task that waited: whatever others do meanwhile (cancel it, close the pool), what it
-- waited for is neither lost nor touched again.
local process = require "support.process"

--- Runs a chunk of Lua in a process of its own, on a file of its own; its exit code and what it printed.
local function lua(chunk)
  local p <close> = process.start { "lua5.4", "-e", [[
    local pool = require "pool"
    local path = os.tmpname()
    local function new(settings) settings.database_url = "sqlite:///" .. path return pool.new(settings) end
    -- Cancels the task once what it waits for has come and before it has had its turn.
    local function cancel_woken(t)
      return pool.spawn(function()
        while t.status == "waiting" do pool.sleep(0) end
        if t.status == "ready" then t:cancel() return true end
      end)
    end
    local function collect() for _ = 1, 4 do collectgarbage() end end
    pool.run(function() ]] .. chunk .. " end) os.remove(path)" }
  local code = p:wait(30)
  return code, p:stdout(), p:stderr()
end

describe("a task between the end of its wait and its turn", function()
  it("hears that the pool was closed when its new connection was cut", function()
    local code, out, err = lua [[
      local db = new { size = 1, max_overflow = 0 }
      local c = assert(db:acquire())
      local t = pool.spawn(function() return db:acquire() end)
      pool.sleep(0.01)
      c:release()
      db:close(0)
      print(t:join())]]
    assert.equal(0, code, err)
    assert.equal("nil\tclosed: the pool was closed\n", out)
  end)

  it("cancelled takes its pool.all's other functions with it", function()
    local code, out, err = lua [[
      local ended
      local t = pool.spawn(pool.all, {
        function() pool.sleep(0.01) error {} end,
        function() local _ <close> = setmetatable({}, { __close = function() ended = true end }) pool.sleep(60) end })
      assert(cancel_woken(t):join())
      collect()
      pool.sleep(0.01)
      print(t.status, ended)]]
    assert.equal(0, code, err)
    assert.equal("cancelled\ttrue\n", out)
  end)

  it("cancelled leaves its result to nobody, though its pool is collected meanwhile", function()
    local code, out, err = lua [[
      local hits = 0
      for _ = 1, 100 do
        local box = { new { size = 1 } }
        assert(box[1]:query "select 1")
        local function take() return (table.unpack(box)) end
        local t = pool.spawn(function()
          local _ <close> = setmetatable({}, { __close = collect })
          return (take():query "select 1")
        end)
        pool.sleep(0)
        local canceller = cancel_woken(t)
        box = {}
        if canceller:join() then hits = hits + 1 end
        t:join()
        if hits == 5 then break end
      end
      print(hits)]]
    assert.equal(0, code, err)
    assert.equal("5\n", out)
  end)

  it("cancelled no longer watches for the signal that it waited for", function()
    local code, out, err = lua [[
      local t = pool.spawn(require "pool.core".wait_signal, "USR1")
      local canceller = cancel_woken(t)
      pool.sleep(0.01)
      os.execute "kill -USR1 $PPID"
      assert(canceller:join())
      os.execute "kill -USR1 $PPID" -- whose default action is back
      pool.sleep(5)
      print "still watched"]]
    assert.equal("", out, err)
    assert.equal(128 + 10, code)
  end)
end)
