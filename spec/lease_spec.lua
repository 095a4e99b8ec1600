-- How leases begin and end when the world interferes: set-ups, cuts, stale connections, long computations.

local pool = require "pool"
local pools = require "support.pools"
local postgres = require "support.postgres"
local process = require "support.process"

local check = pools.check

local function compute(seconds)
  local from = os.clock()
  while os.clock() - from < seconds do end
end

describe("a lease that db:close cuts", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("answers statements, begin, rows and a transaction's commit with closed", function()
    local db = pools.open { size = 2, max_overflow = 0 }
    pool.run(function()
      local c = check(db:acquire())
      local t = pool.spawn(function()
        return db:transaction(function(tx)
          check(tx:query "select 1")
          pool.sleep(0.02)
          return "committed?"
        end)
      end)
      pool.sleep(0.005)
      db:close(0)
      for _, call in ipairs {
        function() return c:query "select 1" end, function() return c:begin() end, function() return c:transaction(print) end,
        function() return c:cancel() end, function() return c:invalidate() end,
      } do
        local value, err = call()
        assert.is_nil(value)
        assert.equal("closed", err.kind)
      end
      local fine, err = pcall(c.rows, c, "select 1")
      assert.is_false(fine)
      assert.equal("closed", err.kind)
      assert.is_nil(c.in_transaction)
      local value
      value, err = t:join()
      assert.is_nil(value)
      assert.equal("closed", err.kind)
    end)
  end)

  it("ends a loop over rows with closed", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    pool.run(function()
      local seen = 0
      local fine, err = pcall(function()
        for _ in db:rows "select * from generate_series(1, 100000)" do
          seen = seen + 1
          if seen == 10 then db:close(0) end
        end
      end)
      assert.is_false(fine)
      assert.equal("closed", err.kind)
      assert.equal(10, seen)
    end)
  end)
end)

describe("a set-up", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("that releases its connection does not lose the place", function()
    local db = pools.open { size = 1, max_overflow = 0, timeout = 2 }
    db:on("connect", function(c) c:release() end)
    assert.equal(1, check(db:query "select 1 as n")[1].n)
    assert.equal(1, db:stats().total)
  end)

  it("that detaches its connection does not lose the place", function()
    local db = pools.open { size = 1, max_overflow = 0, timeout = 2 }
    db:on("connect", function(c) c:detach() end)
    assert.equal(1, check(db:query "select 1 as n")[1].n)
    assert.equal(1, db:stats().idle)
  end)

  it("that fails is told as a close as well", function()
    local db = pools.open { size = 1, max_overflow = 0, timeout = 0.2 }
    local reasons = {}
    db:on("connect", function() return nil, "no" end)
    db:on("close", function(_, reason) reasons[#reasons + 1] = reason end)
    local rows, err = db:query "select 1"
    assert.is_nil(rows)
    assert.equal("connect", err.kind)
    assert.equal("failed", reasons[1])
  end)
end)

describe("connections whose backends are gone", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("cost several tasks at once nothing, even unseen by the loop", function()
    local db, name = pools.open { size = 5, max_overflow = 0 }
    local held = {}
    for i = 1, 5 do held[i] = check(db:acquire()) end
    for i = 1, 5 do held[i]:release() end
    pool.run(function()
      postgres.terminate(name) -- these block this process: the loop sees nothing of it before the queries
      process.wait_until(function() return postgres.count(name) == 0 end)
      local calls = {}
      for i = 1, 5 do calls[i] = function() return check(db:query("select $1::int as n", i))[1].n end end
      assert.same({ 1, 2, 3, 4, 5 }, check(pool.all(calls)))
    end)
    assert.equal(5, db:stats().lost)
  end)
end)

describe("time", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("counts from the call, however long Lua has computed before", function()
    local db = pools.open { size = 1, max_overflow = 0, timeout = 1, statement_timeout = 1 }
    pool.run(function()
      compute(1.2)
      assert.equal(1, check(db:query "select 1 as n")[1].n)
      local c <close> = check(db:acquire())
      compute(1.2)
      check(c:query "select pg_sleep(0.01)")
      compute(1.2)
      local t = pool.spawn(function() pool.sleep(0.01) return "slept" end)
      assert.equal("slept", t:join(1))
    end)
  end)

  it("of statement_timeout is told as deadline with 57014", function()
    local db = pools.open { statement_timeout = 0.05 }
    local rows, err = db:query "select pg_sleep(5)"
    assert.is_nil(rows)
    assert.equal("deadline", err.kind)
    assert.equal("57014", err.sqlstate)
  end)

  it("opens min_idle ahead, but nothing from pool.new itself", function()
    local db = pools.open { min_idle = 2, size = 5 }
    assert.equal(0, db:stats().opening)
    pool.run(function() pools.wait(function() return db:stats().idle == 2 end) end)
  end)

  it("leak_after changes for leases that are out already", function()
    local db = pools.open { leak_after = 0 }
    pool.run(function()
      local c <close> = check(db:acquire())
      check(db:configure { leak_after = 0.02 })
      pools.wait(function() return pools.logged "has been held for" > 0 end)
      assert.is_truthy(c)
    end)
  end)
end)

describe("what is told", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("db:on(release) hears of a lease that its task did not give back", function()
    local db = pools.open {}
    local told = {}
    db:on("release", function(c, outcome) told[#told + 1] = { c.id, outcome } end)
    pool.run(function()
      local id
      pool.spawn(function()
        local c = check(db:acquire())
        id = c.id
        check(c:begin())
      end):join()
      pools.wait(function() return #told > 0 end)
      assert.same({ { id, "reset" } }, told)
    end)
  end)

  it("a parameter's value is not in the message of the server's error", function()
    local db = pools.open {}
    local rows, err = db:query("select $1::int", "hunter2")
    assert.is_nil(rows)
    assert.equal("22P02", err.sqlstate)
    assert.equal("invalid input syntax for type integer: $1", err.message)
  end)

  it("overloaded says how many wait", function()
    local db = pools.open { size = 1, max_overflow = 0, max_waiting = 0 }
    local c <close> = check(db:acquire())
    local rows, err = db:query "select 1"
    assert.is_nil(rows)
    assert.equal("too many wait for a connection: 0 in line (max_waiting 0), 1 leased, size 1 overflow 0", err.message)
    assert.is_truthy(c)
  end)

  it("a deadline met in line says how long it waited", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    pool.run(function()
      local c <close> = check(db:acquire())
      local rows, err = pool.deadline(0.05, function() return db:query "select 1" end)
      assert.is_nil(rows)
      assert.equal("deadline", err.kind)
      assert.is_true(err.waited >= 0.04)
      assert.is_truthy(c)
    end)
  end)

  it("rows read after their connection's release are misuse", function()
    local db = pools.open {}
    local c = check(db:acquire())
    local next_row = c:rows "select * from generate_series(1, 3)"
    assert.equal(1, next_row().generate_series)
    c:release()
    assert.has_error(function() next_row() end)
  end)
end)
