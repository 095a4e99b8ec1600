local pool = require "pool"

local function here() return debug.getinfo(2, "l").currentline end
local function forever() return pool.sleep(math.huge) end
local function memory() return pool.new { database_url = "sqlite:///:memory:" } end

--- Calls fn in a task and outside any.
local function both(fn)
  pool.run(fn)
  fn()
end

describe("pool.deadline", function()
  it("returns what the function returns when it is in time", function()
    both(function() assert.same({ n = 3, 1, nil, 3 }, table.pack(pool.deadline(10, function(...) return ... end, 1, nil, 3))) end)
  end)

  it("ends the wait under way, and each later one at once", function()
    both(function()
      local start = pool.now()
      pool.deadline(0.01, function()
        for _ = 1, 3 do
          local ok, err = pool.sleep(100)
          assert.is_nil(ok)
          assert.equal("deadline", err.kind)
        end
      end)
      assert.is_true(pool.now() - start < 10)
    end)
  end)

  it("of nothing lets no wait begin", function()
    both(function()
      pool.deadline(0, function()
        local ok, err = pool.sleep(0.001)
        assert.is_nil(ok)
        assert.equal("deadline", err.kind)
      end)
    end)
  end)

  it("is over when the function has returned or raised", function()
    both(function()
      pool.deadline(0, function() end)
      assert.is_true(pool.sleep(0.001))
      assert.is_false(pcall(pool.deadline, 0, error, "x"))
      assert.is_true(pool.sleep(0.001))
    end)
  end)

  it("nested: the earlier wins, whichever it is", function()
    both(function()
      pool.deadline(0, function()
        pool.deadline(100, function() assert.equal("deadline", select(2, pool.sleep(1)).kind) end)
      end)
      pool.deadline(100, function()
        pool.deadline(0, function() assert.equal("deadline", select(2, pool.sleep(1)).kind) end)
        assert.is_true(pool.sleep(0.001))
      end)
    end)
  end)

  it("is restored though the inner one was left by a coroutine that is never finished", function()
    pool.run(function()
      local inner
      pool.deadline(0.5, function()
        inner = coroutine.wrap(function() pool.deadline(0.2, coroutine.yield) end)
        inner()
      end)
      inner()
      assert.is_true(pool.deadline(100, pool.sleep, 0))
      collectgarbage()
      assert.is_true(pool.sleep(0.55))
    end)
  end)

  it("is inherited by the tasks spawned inside, and outlasts it in them", function()
    pool.run(function()
      local task = pool.deadline(0, pool.spawn, function() return pool.sleep(100) end)
      local ok, err = task:join()
      assert.is_nil(ok)
      assert.equal("deadline", err.kind)
    end)
    local task = pool.deadline(0, pool.spawn, function() return pool.sleep(100) end)
    assert.equal("deadline", select(2, task:join()).kind)
  end)

  it("cancels the children of pool.all", function()
    local closed = false
    pool.run(function()
      local results, err = pool.deadline(0.005, function()
        return pool.all { function()
          local _ <close> = setmetatable({}, { __close = function() closed = true end })
          while true do forever() end
        end }
      end)
      assert.is_nil(results)
      assert.equal("deadline", err.kind)
    end)
    assert.is_true(closed)
  end)

  it("ends waits in join, all, query, acquire, rows and transaction", function()
    both(function()
      local db = memory()
      local held = assert(db:acquire())
      local sleeper = pool.spawn(function() while pool.sleep(0.001) do end end)
      local waits = {
        function() return sleeper:join() end,
        function() return pool.all { forever } end,
        function() return db:query "select 1" end,
        function() return db:json "select 1" end,
        function() return db:exec "select 1" end,
        function() return db:acquire() end,
        function() return db:transaction(function() return 1 end) end,
        function() local _, err = pcall(db.rows, db, "select 1") return nil, err end,
      }
      for i, wait in ipairs(waits) do
        for _, seconds in ipairs { 0, 0.002 } do
          local value, err = pool.deadline(seconds, wait)
          assert.is_nil(value)
          assert.equal("deadline", err.kind, "wait " .. i)
        end
      end
      assert.equal(0, db:stats().waiting)
      assert.equal(1, db:stats().leased)
      held:release()
      sleeper:cancel()
      sleeper:join()
      db:close()
    end)
  end)

  --- Keeps the processor, and so every other task, from anything for so long.
  local function busy(seconds)
    local start = os.clock()
    while os.clock() - start < seconds do end
  end

  it("ends pool.all as well where its functions begin, or end, only after it", function()
    both(function()
      for _, fn in ipairs { function() return forever() end, function() return 1 end } do
        local results, err = pool.deadline(0.01, pool.all, { function() busy(0.02) return fn() end, function() return 2 end })
        assert.is_nil(results)
        assert.equal("deadline", err.kind)
      end
    end)
  end)

  it("takes nothing from functions of pool.all that ended in time, however late the rest of the program lets it look", function()
    both(function()
      local function first()
        pool.spawn(busy, 0.6) -- runs between the end of this and the return of pool.all
        return 1
      end
      assert.same({ 1 }, (pool.deadline(0.5, pool.all, { first })))
    end)
  end)

  it("that has passed keeps a statement from being begun", function()
    both(function()
      local db = memory()
      assert(db:exec "create table t (i integer)")
      local connection <close> = assert(db:acquire())
      pool.deadline(0, function()
        local _, err = connection:query "insert into t values (1)"
        assert.equal("deadline", err.kind)
        _, err = connection:exec "insert into t values (1)"
        assert.equal("deadline", err.kind)
      end)
      assert.equal(0, assert(connection:query "select count(*) as n from t")[1].n)
      connection:release()
      pool.deadline(0, function()
        local _, err = db:query "insert into t values (1)"
        assert.equal("deadline", err.kind)
      end)
      assert.equal(0, assert(db:query "select count(*) as n from t")[1].n)
      assert.equal(0, db:stats().leased)
      db:close()
    end)
  end)

  it("refuses what is no duration and no function at the caller's line", function()
    local line = here() + 1
    local ok, err = pcall(function() pool.deadline(-1, print) end)
    assert.is_false(ok)
    assert.match("deadline_spec.lua:" .. line .. ": pool.deadline: a number of seconds from 0 up is wanted, not %-1", err)
    line = here() + 1
    ok, err = pcall(function() pool.deadline(1) end)
    assert.is_false(ok)
    assert.match("deadline_spec.lua:" .. line .. ": pool.deadline: a function is wanted, not a nil", err)
  end)
end)
