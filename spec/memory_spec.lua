-- A database in memory is one connection's: a pool of it keeps that one, whatever its settings were to be.
local pool = require "pool"
local pools = require "support.pools"

local check = pools.check

local function memory(settings)
  settings.database_url = "sqlite:///:memory:"
  return pools.open(settings)
end

local function assert_fitted(settings)
  for name, value in pairs { size = 1, max_overflow = 0, recycle = 0, shrink_after = 0 } do
    assert.equal(value, settings[name], name)
  end
end

describe("a pool of a database in memory", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("has one connection that is never closed for its age or quiet, and shows it", function()
    local db = memory {}
    assert_fitted(db:stats().settings)
    assert.same({ 1, 0 }, { db:stats().size, db:stats().max_overflow })
    assert.equal(30, db:stats().settings.idle_timeout)
    assert.matches("size: 1 ", db:status())
    pool.sleep(0)
    assert.equal("", pools.log()) -- nobody asked for anything else
  end)

  it("keeps what it holds under size 0, and says once what it does instead", function()
    local db = memory { size = 0, recycle = 60, shrink_after = 5, min_idle = 3, timeout = 1 }
    check(db:exec "create table kept (n int); insert into kept values (7)")
    assert.equal(7, check(db:query "select n from kept")[1].n)
    assert.equal(1, db:stats().total)
    assert_fitted(db:stats().settings)
    assert.equal(1, db:stats().settings.min_idle)
    pools.wait(function() return pools.logged "info: " == 1 end)
    local line = "size 1 instead of 0, recycle 0 instead of 60, min_idle 1 instead of 3, shrink_after 0 instead of 5"
    pools.wait(function() return pools.logged(line) == 1 end)
  end)

  it("cannot be changed to lose it", function()
    local db = memory {}
    check(db:exec "create table kept (n int); insert into kept values (7)")
    local settings = check(db:configure { size = 20, recycle = 1, idle_timeout = 2 })
    assert_fitted(settings)
    assert_fitted(db:stats().settings)
    assert.equal(2, settings.idle_timeout)
    assert_fitted(check(db:configure { idle_timeout = 3 }))
    assert.equal(7, check(db:query "select n from kept")[1].n)
    pools.wait(function() return pools.logged "size 1 instead of 20, recycle 0 instead of 1" == 1 end)
    pools.wait(function() return pools.logged "info: " == 1 end)
  end)

  it("waits and explains itself with the size it has", function()
    local db = memory { timeout = 0.05, size = 5, max_overflow = 5 }
    local c <close> = check(db:acquire())
    local late, err = db:acquire()
    assert.is_nil(late)
    assert.matches("size 1 overflow 0 reached, 1 leased", err.message)
    c:release()
  end)

  it("keeps it whatever a lease leaves behind, under every reset", function()
    local leavings = {
      { "a transaction", function(c) check(c:exec "begin; delete from kept") end },
      { "rows left in the middle", function(c) c:rows "select a.n from kept a, kept b, kept c, kept d, kept e"() end },
      { "temporary tables that refer to each other", function(c)
        check(c:exec "create temp table parent (n primary key); create temp table child (n references parent (n))")
        check(c:exec "insert into parent values (1); insert into child values (1)")
      end },
      { "a connection that may only read", function(c) check(c:exec "create temp table t (n); pragma query_only = on") end },
    }
    for _, reset in ipairs { "rollback", "discard", "none" } do
      local db = memory { reset = reset }
      check(db:exec "create table kept (n int); insert into kept values (1), (2), (3), (4), (5), (6), (7)")
      for _, leaving in ipairs(leavings) do
        do
          local c <close> = check(db:acquire())
          leaving[2](c)
        end
        local what = reset .. ": " .. leaving[1]
        assert.equal(7, check(db:query "select count(*) as n from kept")[1].n, what)
        assert.equal(1, db:stats().opens, what)
      end
    end
  end)

  it("gives it up for db:invalidate, as asked", function()
    local db = memory {}
    check(db:exec "create table kept (n int)")
    db:invalidate()
    assert.equal("42P01", select(2, db:query "select n from kept").sqlstate)
  end)
end)
