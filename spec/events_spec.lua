-- db:on: registrations, and what a failing set-up says. What each event tells of is in pool_spec.

local pool = require "pool"
local pools = require "support.pools"

local URL = { database_url = "sqlite:///:memory:", size = 1, max_overflow = 0 }

local function culprit() error("not like this") end

describe("db:on", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("given the same function twice calls it twice, and takes off one at a time", function()
    local db = pools.open(URL)
    local calls = 0
    local function count() calls = calls + 1 end
    local function acquired()
      calls = 0
      assert(db:acquire()):release()
      return calls
    end
    local first, second = db:on("acquire", count), db:on("acquire", count)
    assert.equal(2, acquired())
    first()
    assert.equal(1, acquired())
    first()
    assert.equal(1, acquired())
    second()
    assert.equal(0, acquired())
  end)

  it("tells neither of acquire nor of release where a task is cancelled before it knew of its connection", function()
    local db = pools.open(URL)
    local told = {}
    db:on("acquire", function() told[#told + 1] = "acquire" end)
    db:on("release", function() told[#told + 1] = "release" end)
    pool.run(function()
      local held = assert(db:acquire())
      local waiting = pool.spawn(function() db:acquire() end)
      pool.sleep(0)
      held:release() -- and it is the other's, who has not had its turn
      waiting:cancel()
      waiting:join()
    end)
    assert.same({ "acquire", "release" }, told)
    assert.equal(0, db:stats().leaks)
    assert.equal(2, db:stats().releases)
  end)

  it("connect that raises fails the open with the cause alone, and logs once where it was", function()
    local db = pools.open(URL)
    db:on("connect", function() culprit() end)
    for _ = 1, 2 do
      local c, err = db:acquire { timeout = 0.3 }
      assert.is_nil(c)
      assert.equal("connect", err.kind)
      assert.matches('db:on%("connect"%) failed: spec/events_spec%.lua:%d+: not like this', err.message)
      assert.is_nil(err.message:find("\n", 1, true))
      assert.is_nil(err.message:find("traceback", 1, true))
    end
    assert.equal(1, pools.logged('db:on("connect"): spec/events_spec.lua:'))
    assert.matches("'culprit'", pools.field("traceback"))
  end)

  it("connect that returns nil and an error, or asserts one, fails the open with its text", function()
    for _, set_up in ipairs {
      function(c) return c:query "select nothing" end,
      function(c) assert(c:query "select nothing") end,
      function(c) c:query() end,
      function() return nil, "two\nlines" end,
      function() error() end,
      function() error(setmetatable({}, { __tostring = error })) end,
    } do
      local db = pools.open(URL)
      db:on("connect", set_up)
      local c, err = db:acquire { timeout = 0.3 }
      assert.is_nil(c)
      assert.equal("connect", err.kind)
      assert.matches('db:on%("connect"%) failed: %S', err.message)
      assert.is_nil(err.message:find("\n", 1, true))
    end
  end)
end)

describe("while somebody listens to acquire", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("a statement that is wrong is still db:'s, and takes no connection", function()
    local db = pools.open(URL)
    db:on("acquire", function() end)
    assert.error_matches(function() db:query() end, "db:query: the SQL must be a string, not no value")
    assert.error_matches(function() db:json(5) end, "db:json: the SQL must be a string, not number")
    assert.error_matches(function() db:exec("select 1", 2) end, "db:exec takes a script and no parameters: use db:query")
    assert.equal(0, db:stats().arrivals)
  end)
end)
