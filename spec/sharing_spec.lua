-- Fair sharing: db:with and db:acquire{key=, priority=, timeout=}, in virtual time against a database that takes 10 ms.

local http = require "pool.http"
local pool = require "pool"
local testing = require "pool.testing"

local function slow(settings, fn)
  settings.max_overflow = settings.max_overflow or 0
  return testing.run({ settings = settings, database = function() return { after = 0.010, rows = { { n = 1 } } } end }, fn)
end

-- `callers` tasks that ask again and again through `db` until `stop.now`; got.count counts their answers.
local function tenant(db, callers, stop)
  local got = { count = 0 }
  for _ = 1, callers do
    pool.spawn(function()
      while not stop.now do
        if db:query "select 1" then got.count = got.count + 1 end
      end
    end)
  end
  return got
end

local function jain(values)
  local sum, squares = 0, 0
  for _, value in ipairs(values) do sum, squares = sum + value, squares + value * value end
  return sum * sum / (#values * squares)
end

local function shares(keyed)
  return slow({ size = 3 }, function(db)
    local stop, got = {}, {}
    for i, callers in ipairs { 4, 16, 64 } do
      got[i] = tenant(keyed and db:with { key = "tenant " .. i } or db, callers, stop)
    end
    pool.sleep(30)
    stop.now = true
    return jain { got[1].count, got[2].count, got[3].count }
  end)
end

describe("tenants", function()
  it("of unequal demand get equal shares by key: Jain's index is at least 0.95", function()
    local by_key, without = shares(true), shares(false)
    print(("\n  three tenants of 4, 16 and 64 callers: Jain's index %.4f by key, %.4f without"):format(by_key, without))
    assert.is_true(by_key >= 0.95)
    assert.is_true(without < 0.7)
  end)

  it("whose line is too long are refused, and nobody else is", function()
    slow({ size = 1, max_waiting_per_key = 2 }, function(db)
      local a, b = db:with { key = "a" }, db:with { key = "b" }
      local held <close> = assert(db:acquire())
      for _ = 1, 2 do pool.spawn(function() a:query "select 1" end) end
      pool.sleep(0)
      local rows, err = a:query "select 1"
      assert.is_nil(rows)
      assert.equal("overloaded", err.kind)
      assert.matches("too many of this key wait.*2 are in line %(max_waiting_per_key%)", err.message)
      local other = pool.spawn(function() return assert(b:query "select 1") end)
      held:release()
      assert(other:join())
      assert.equal(1, db:stats().rejected)
    end)
  end)
end)

describe("priority", function()
  it("decides who of a key is next", function()
    slow({ size = 1 }, function(db)
      local order, tasks = {}, {}
      local held = assert(db:acquire())
      for _, priority in ipairs { 1, 9, 5 } do
        tasks[#tasks + 1] = pool.spawn(function()
          local _ <close> = assert(db:acquire { priority = priority })
          order[#order + 1] = priority
          return true
        end)
        pool.sleep(0)
      end
      held:release()
      for _, task in ipairs(tasks) do assert(task:join()) end
      assert.same({ 9, 5, 1 }, order)
    end)
  end)
end)

describe("db:with", function()
  it("is a pool with a time-out of its own", function()
    slow({ size = 1, timeout = 30 }, function(db)
      local _ <close> = assert(db:acquire())
      local start = pool.now()
      local err = select(2, db:with { timeout = 0.5 }:query "select 1")
      assert.equal("timeout", err.kind)
      assert.equal(0.5, pool.now() - start)
    end)
  end)

  it("has every method of a pool, those in Lua too", function()
    slow({ size = 2 }, function(db)
      local view = db:with { key = 7, priority = 3 }
      assert.equal(1, view:query "select 1"[1].n)
      assert.equal('[{"n":1}]', view:json "select 1")
      assert.is_true(view:exec "select 1")
      assert.equal(1, assert(view:transaction(function(tx) return tx:query "select 1"[1].n end)))
      local s <close> = view:session()
      assert(s:query "select 1")
      assert(s:commit())
      for row in view:rows "select 1" do assert.equal(1, row.n) end
      assert.matches("^Pool size: 2 ", view:status())
      assert.equal("scripted", view.driver)
      assert(view:configure { size = 3 })
      assert.equal(3, db:stats().size)
    end)
  end)

  it("of a view keeps what it does not name", function()
    slow({ size = 1, max_waiting_per_key = 1 }, function(db)
      local _ <close> = assert(db:acquire())
      local view = db:with { key = "a" }:with { timeout = 1 }
      pool.spawn(function() view:query "select 1" end)
      pool.sleep(0)
      assert.equal("overloaded", select(2, view:query "select 1").kind)
    end)
  end)

  it("inside a transaction of its pool is a savepoint, and the other way round", function()
    slow({ size = 1, timeout = 1 }, function(db)
      local view = db:with { key = "a" }
      assert(db:transaction(function()
        return assert(view:transaction(function(tx) return tx:query "select 1" end))
      end))
      assert(view:transaction(function()
        return assert(db:transaction(function(tx) return tx:query "select 1" end))
      end))
    end)
  end)

  it("is told of by the pool's events, and asks as itself while somebody listens", function()
    slow({ size = 1, timeout = 30 }, function(db)
      local acquired = 0
      db:with { key = "a" }:on("acquire", function() acquired = acquired + 1 end)
      assert(db:with { key = "b" }:query "select 1")
      assert.equal(1, acquired)
      local _ <close> = assert(db:acquire())
      local start = pool.now()
      assert.equal("timeout", select(2, db:with { timeout = 2 }:query "select 1").kind)
      assert.equal(2, pool.now() - start)
    end)
  end)

  it("names what is wrong", function()
    slow({ size = 1 }, function(db)
      local function refused(options) return select(2, pcall(db.with, db, options)) end
      assert.matches("db:with: a table is wanted", refused(5))
      assert.matches("priority must be a whole number from 0 to 9", refused { priority = 10 })
      assert.matches("key must be a string or an integer", refused { key = {} })
      assert.matches("key must be a string or an integer", refused { key = 1.5 })
      assert.matches("unknown option 'prioritee' %(timeout, key, priority%)", refused { prioritee = 1 })
      assert.matches("db:with timeout", refused { timeout = -1 })
      assert.matches("db:acquire: priority", select(2, pcall(db.acquire, db, { priority = "9" })))
    end)
  end)
end)

describe("req.db", function()
  it("may be a view that middleware has set, and the request's session follows it", function()
    local app = http.app()
    app:use(function(req, next)
      req.db = req.db:with { key = req.headers["x-tenant"], timeout = 0.5 }
      return next()
    end)
    app:get("/one", function(req)
      local s <close> = req:session()
      return s:query "select 1"
    end)
    local log = pool.log
    finally(function() pool.log = log end)
    pool.log = function() end
    slow({ size = 1 }, function(db)
      assert.equal(200, testing.request(app, db, "GET", "/one", { headers = { ["x-tenant"] = "a" } }).status)
      local _ <close> = assert(db:acquire())
      local start = pool.now()
      assert.equal(503, testing.request(app, db, "GET", "/one", { headers = { ["x-tenant"] = "a" } }).status)
      assert.equal(0.5, pool.now() - start)
    end)
  end)
end)
