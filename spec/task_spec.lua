local pool = require "pool"

--- What the log was told while fn ran.
local function logged(fn)
  local before, lines = pool.log, {}
  pool.log = function(level, message) lines[#lines + 1] = level .. ": " .. message end
  local ok, err = pcall(fn)
  pool.log = before
  if not ok then error(err, 0) end
  return lines
end

local function here() return debug.getinfo(2, "l").currentline end
local function closing(fn) return setmetatable({}, { __close = fn }) end
local function forever() return pool.sleep(math.huge) end
local function memory() return pool.new { database_url = "sqlite:///:memory:" } end

describe("pool.run", function()
  it("returns what the function returns, nils and all", function()
    assert.same({ n = 4, 1, nil, 3, nil }, table.pack(pool.run(function(...) return ... end, 1, nil, 3, nil)))
    assert.same({ n = 0 }, table.pack(pool.run(function() end)))
  end)

  it("waits for the tasks that were spawned, and for those that they spawn", function()
    local done = {}
    pool.run(function()
      pool.spawn(function()
        pool.sleep(0.002)
        done[#done + 1] = "child"
        pool.spawn(function() pool.sleep(0.002); done[#done + 1] = "grandchild" end)
      end)
      done[#done + 1] = "fn"
    end)
    assert.same({ "fn", "child", "grandchild" }, done)
  end)

  it("cancels the others, awaits them and raises when the function raised", function()
    local task, closed
    local ok, err = pcall(pool.run, function()
      task = pool.spawn(function()
        local _ <close> = closing(function() closed = true end)
        forever()
      end)
      pool.sleep(0)
      error "broken"
    end)
    assert.is_false(ok)
    assert.match("task_spec.lua:%d+: broken\nstack traceback:", err)
    assert.match("spawned at:\n\t[^\n]*task_spec.lua:%d+", err)
    assert.is_true(closed)
    assert.equal("cancelled", task.status)
  end)

  it("cancels also what is spawned by a __close function while it cancels", function()
    local late
    assert.has_error(function()
      pool.run(function()
        pool.spawn(function()
          local _ <close> = closing(function() late = pool.spawn(forever) end)
          forever()
        end)
        pool.sleep(0)
        error({})
      end)
    end)
    assert.equal("cancelled", late.status)
  end)

  it("raises a table as the same object, with a traceback", function()
    local object = setmetatable({}, { __name = "mine" })
    local ok, err = pcall(pool.run, function() error(object) end)
    assert.is_false(ok)
    assert.is_true(rawequal(object, err))
    assert.match("^stack traceback:.*spawned at:\n\t[^\n]*task_spec.lua:%d+", object.traceback)
  end)

  it("raises inside itself, from a task and from what the log calls", function()
    pool.run(function()
      local line = here() + 1
      local ok, err = pcall(function() pool.run(function() end) end)
      assert.is_false(ok)
      assert.match("task_spec.lua:" .. line .. ": pool.run inside pool.run", err)
    end)
    local seen
    local before = pool.log
    pool.log = function() seen = table.pack(pcall(pool.run, function() end)) end
    pool.spawn(error, "nobody's")
    pool.sleep(0)
    collectgarbage()
    collectgarbage()
    pool.sleep(0)
    pool.log = before
    assert.is_false(seen[1])
    assert.match("pool.run: not from a log function", seen[2])
  end)

  it("is not kept alive by an open pool", function()
    local db = pool.run(function()
      local db = memory()
      assert(db:query "select 1")
      return db
    end)
    assert.equal(0, db:stats().leased)
    db:close()
  end)

  it("refuses what is not a function at the caller's line", function()
    local line = here() + 1
    local ok, err = pcall(function() pool.run(42) end)
    assert.is_false(ok)
    assert.match("task_spec.lua:" .. line .. ": pool.run: a function is wanted, not number", err)
  end)
end)

describe("pool.spawn", function()
  it("starts a task at the next turn of the ready queue, in order", function()
    local order = {}
    pool.run(function()
      for i = 1, 3 do pool.spawn(function() order[#order + 1] = i end) end
      order[#order + 1] = "spawner"
      pool.sleep(0)
      order[#order + 1] = "again"
    end)
    assert.same({ "spawner", 1, 2, 3, "again" }, order)
  end)

  it("outside pool.run starts it at the next waiting call", function()
    local started = false
    local task = pool.spawn(function() started = true end)
    assert.is_false(started)
    assert.equal("ready", task.status)
    pool.sleep(0)
    assert.is_true(started)
    assert.equal("done", task.status)
  end)

  it("hands on its arguments", function()
    local task = pool.spawn(table.pack, 1, nil, 3)
    assert.same({ n = 3, 1, nil, 3 }, (task:join()))
  end)

  it("has an id, a status and no other field", function()
    local task = pool.spawn(function() end)
    assert.equal("integer", math.type(task.id))
    assert.match("pool.Task " .. task.id .. " %(ready%)", tostring(task))
    assert.has_error(function() return task.state end)
    assert.has_error(function() return task.stat end)
    task:join()
  end)

  it("tells of each of a task's states", function()
    local states = {}
    local failed = pool.spawn(error, "x")
    pool.run(function()
      local task = pool.spawn(forever)
      states[1] = task.status
      pool.sleep(0)
      states[2] = task.status
      task:cancel()
      task:join()
      states[3] = task.status
      failed:join()
      states[4] = failed.status
    end)
    assert.same({ "ready", "waiting", "cancelled", "failed" }, states)
  end)
end)

describe("task:join", function()
  it("gives the results, to each who asks and as often as they ask", function()
    pool.run(function()
      local task = pool.spawn(function() pool.sleep(0.001); return 1, nil, 3, nil end)
      local others = {}
      for i = 1, 3 do others[i] = pool.spawn(function() return table.pack(task:join()) end) end
      for i = 1, 3 do assert.same({ n = 4, 1, nil, 3, nil }, (others[i]:join())) end
      assert.same({ n = 4, 1, nil, 3, nil }, table.pack(task:join()))
    end)
  end)

  it("gives nil and the raised value itself, a string with the traceback appended", function()
    local object, line = {}, here() + 1
    local function work() error("broken") end
    pool.run(function()
      local value, err = pool.spawn(error, object):join()
      assert.is_nil(value)
      assert.is_true(rawequal(object, err))
      assert.match("stack traceback", object.traceback)
      value, err = pool.spawn(work):join()
      assert.is_nil(value)
      assert.match("^[^\n]*task_spec.lua:" .. line .. ": broken\nstack traceback:.*spawned at:\n\t[^\n]*task_spec.lua:" .. line + 6, err)
      assert.same({ n = 2, [2] = 42 }, table.pack(pool.spawn(error, 42):join()))
      assert.same({ n = 2, [2] = false }, table.pack(pool.spawn(error, false):join()))
    end)
  end)

  it("tells of error(nil) by text, since nil would say that all went well", function()
    local value, err = pool.spawn(error):join()
    assert.is_nil(value)
    assert.match("^error%(nil%)\nstack traceback", err)
  end)

  it("keeps a traceback that an error has already", function()
    local _, err = pool.spawn(error, { traceback = "mine" }):join()
    assert.equal("mine", err.traceback)
  end)

  it("gives up after its time-out with kind deadline, and the task goes on", function()
    pool.run(function()
      local task = pool.spawn(function() pool.sleep(0.3); return "late" end)
      local value, err = task:join(0.001)
      assert.is_nil(value)
      assert.equal("deadline", err.kind)
      assert.equal("waiting", task.status)
      value, err = task:join(0)
      assert.is_nil(value)
      assert.equal("deadline", err.kind)
      assert.equal("late", (task:join()))
    end)
  end)

  it("gives kind cancelled for a cancelled task", function()
    pool.run(function()
      local task = pool.spawn(forever)
      pool.sleep(0)
      task:cancel()
      local value, err = task:join()
      assert.is_nil(value)
      assert.equal("cancelled", err.kind)
      assert.match("cancelled: ", tostring(err))
    end)
  end)

  it("runs the loop outside pool.run", function()
    assert.equal(7, (pool.spawn(function() pool.sleep(0.001); return 7 end):join()))
    local value, err = pool.spawn(forever):join(0.001)
    assert.is_nil(value)
    assert.equal("deadline", err.kind)
    local cleaned = pcall(pool.run, function() error {} end) -- cancels what is left
    assert.is_false(cleaned)
  end)

  it("refuses the task itself and a time-out that is none", function()
    pool.run(function()
      local me
      me = pool.spawn(function() return me:join() end)
      local _, err = me:join()
      assert.match("a task cannot join itself", err)
      local line = here() + 1
      local ok, message = pcall(function() me:join("soon") end)
      assert.is_false(ok)
      assert.match("task_spec.lua:" .. line .. ": task:join timeout: a number of seconds .* not the string \"soon\"", message)
      assert.is_false(pcall(me.join, me, -1))
      assert.is_false(pcall(me.join, me, 0 / 0))
    end)
  end)
end)

describe("a failure", function()
  it("that nobody joined is logged at the end of pool.run, once", function()
    local lines = logged(function()
      pool.run(function() pool.spawn(error, "nobody's business") end)
      collectgarbage()
      pool.sleep(0)
    end)
    assert.equal(1, #lines)
    assert.match("^error: a task that nobody joined failed: nobody's business\nstack traceback", lines[1])
  end)

  it("that nobody joined is logged when its task is collected", function()
    local lines = logged(function()
      pool.spawn(error, { message = "m" })
      pool.sleep(0)
      collectgarbage()
      collectgarbage()
      pool.sleep(0)
    end)
    assert.equal(1, #lines)
  end)

  it("that somebody joined is not logged, were it before the failure or after", function()
    assert.same({}, logged(function()
      pool.run(function()
        pool.spawn(error, "x"):join()
        local task = pool.spawn(error, "y")
        pool.sleep(0)
        task:join()
      end)
      collectgarbage()
      pool.sleep(0)
    end))
  end)

  it("whose join timed out before is logged all the same", function()
    local lines = logged(function()
      pool.run(function()
        local task = pool.spawn(function() pool.sleep(0.005); error "later" end)
        task:join(0.001)
      end)
    end)
    assert.equal(1, #lines)
  end)

  it("whose value cannot be made text is logged too, and its __close functions run", function()
    local closed
    local lines = logged(function()
      pool.run(function()
        pool.spawn(function()
          local _ <close> = closing(function() closed = true end)
          error(setmetatable({}, { __tostring = function() error "no" end }))
        end)
      end)
    end)
    assert.is_true(closed)
    assert.match("cannot be told as text", lines[1])
  end)

  it("of a cancel is none", function()
    assert.same({}, logged(function()
      pool.run(function()
        local task = pool.spawn(forever)
        pool.sleep(0)
        task:cancel()
      end)
    end))
  end)

  it("by stack overflow ends its task only", function()
    pool.run(function()
      local function deep() return 1 + deep() end
      local value, err = pool.spawn(deep):join()
      assert.is_nil(value)
      assert.match("stack overflow", err)
      local nested = setmetatable({}, { __index = function(t, k) return t[k + 1] end })
      value, err = pool.spawn(function() return nested[1] end):join()
      assert.is_nil(value)
      assert.match("overflow", err)
      assert.equal("fine", (pool.spawn(function() return "fine" end):join()))
    end)
  end)
end)

describe("task:cancel", function()
  it("closes the task at its wait: pcall does not catch it, <close> variables run in order, without an error", function()
    local order = {}
    pool.run(function()
      local task = pool.spawn(function()
        local _ <close> = closing(function(_, err) order[#order + 1] = { "outer", err } end)
        local caught = pcall(function()
          local _ <close> = closing(function(_, err) order[#order + 1] = { "inner", err } end)
          forever()
        end)
        order[#order + 1] = caught
      end)
      pool.sleep(0)
      task:cancel()
      assert.same({}, order)
      task:join()
    end)
    assert.same({ { "inner" }, { "outer" } }, order)
  end)

  it("of a task that has not started runs nothing of it", function()
    local ran = false
    pool.run(function()
      local task = pool.spawn(function() ran = true end)
      task:cancel()
      local _, err = task:join()
      assert.equal("cancelled", err.kind)
    end)
    assert.is_false(ran)
  end)

  it("of a task that is ready again ends it before it goes on", function()
    local reached = false
    pool.run(function()
      local task = pool.spawn(function() pool.sleep(0); reached = true end)
      pool.sleep(0)
      task:cancel()
      task:join()
    end)
    assert.is_false(reached)
  end)

  it("of itself ends it at its next wait", function()
    local seen = {}
    pool.run(function()
      local me
      me = pool.spawn(function()
        me:cancel()
        seen[1] = "on"
        pool.sleep(0)
        seen[2] = "too far"
      end)
      me:join()
    end)
    assert.same({ "on" }, seen)
  end)

  it("of itself lets it finish when it never waits again", function()
    pool.run(function()
      local me
      me = pool.spawn(function() me:cancel(); return "done" end)
      assert.equal("done", (me:join()))
      assert.equal("done", me.status)
    end)
  end)

  it("of a task that has ended does nothing, and may be said twice", function()
    local task = pool.spawn(function() return 1 end)
    task:join()
    task:cancel()
    task:cancel()
    assert.equal("done", task.status)
    assert.equal(1, (task:join()))
  end)

  it("ends waits in join, all, sleep, query, acquire and close, and nothing is left of them", function()
    pool.run(function()
      local db = memory()
      local held = assert(db:acquire())
      local sleeper = pool.spawn(forever)
      local child
      local waits = {
        function() sleeper:join() end,
        function() pool.all { function() child = true; forever() end } end,
        forever,
        function() db:query "select 1" end,
        function() db:acquire() end,
        function() db:rows "select 1" end,
        function() db:transaction(function() end) end,
      }
      local tasks = {}
      for i, wait in ipairs(waits) do tasks[i] = pool.spawn(wait) end
      pool.sleep(0)
      pool.sleep(0)
      assert.is_true(child)
      assert.equal(4, db:stats().waiting)
      for i, task in ipairs(tasks) do
        assert.equal("waiting", task.status, "wait " .. i)
        task:cancel()
        local _, err = task:join()
        assert.equal("cancelled", err.kind)
      end
      assert.equal(0, db:stats().waiting)
      assert.equal("waiting", sleeper.status)
      sleeper:cancel()
      local closer = pool.spawn(function() db:close(100) end)
      pool.sleep(0)
      assert.equal("waiting", closer.status)
      closer:cancel()
      closer:join()
      held:release()
      db:close()
    end)
  end)

  it("logs the error of a __close function and runs the others", function()
    local others = {}
    local lines = logged(function()
      pool.run(function()
        local task = pool.spawn(function()
          local _ <close> = closing(function() others[#others + 1] = "first" end)
          local _ <close> = closing(function() error "cannot close" end)
          local _ <close> = closing(function() others[#others + 1] = "last" end)
          forever()
        end)
        pool.sleep(0)
        task:cancel()
      end)
    end)
    assert.same({ "last", "first" }, others)
    assert.equal(1, #lines)
    assert.match("a __close function of a cancelled task failed: .*cannot close", lines[1])
  end)

  it("lets a __close function know that it cannot wait", function()
    local message
    pool.run(function()
      local task = pool.spawn(function()
        local _ <close> = closing(function() message = select(2, pcall(pool.sleep, 1)) end)
        forever()
      end)
      pool.sleep(0)
      task:cancel()
    end)
    assert.match("a __close function cannot wait while its task is being closed", message)
  end)
end)

describe("a task that raised", function()
  it("has its <close> variables run, which are given the error", function()
    local got, object = {}, {}
    pool.run(function()
      pool.spawn(function()
        local _ <close> = closing(function(_, err) got[#got + 1] = err end)
        local _ <close> = closing(function(_, err) got[#got + 1] = err end)
        error(object)
      end):join()
    end)
    assert.equal(2, #got)
    assert.is_true(rawequal(object, got[1]))
    assert.is_true(rawequal(object, got[2]))
  end)

  it("logs the error of a __close function beside its own", function()
    local err
    local lines = logged(function()
      pool.run(function()
        err = select(2, pool.spawn(function()
          local _ <close> = closing(function() error "second" end)
          error "first"
        end):join())
      end)
    end)
    assert.match("first", err)
    assert.equal(1, #lines)
    assert.match("a __close function of a failed task failed: .*second", lines[1])
  end)
end)
