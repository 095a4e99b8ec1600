local pool = require "pool"

local function here() return debug.getinfo(2, "l").currentline end

--- What misuse says when fn is called, from this file's `line` on.
local function blamed(line, fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  assert.equal("string", type(err))
  assert.match("^spec/error_spec.lua:" .. line .. ": ", err)
  return err
end

describe("misuse is blamed on the caller's line", function()
  local db

  before_each(function() db = pool.new { database_url = "sqlite:///:memory:" } end)
  after_each(function() db:close(0) end)

  it("of pool.new", function()
    assert.match("siz", blamed(here(), function() pool.new { siz = 1 } end))
    blamed(here(), function() pool.new(42) end)
    blamed(here(), function() pool.new { size = -5 } end)
  end)

  it("of a pool's methods, written in C or in Lua", function()
    blamed(here(), function() db:query(42) end)
    blamed(here(), function() db.query("select 1") end)
    blamed(here(), function() db:acquire(1) end)
    blamed(here(), function() db:transaction(1) end)
    blamed(here(), function() db:transaction(print, { isolation = "x" }) end)
    blamed(here(), function() db:on("nothing", print) end)
    blamed(here(), function() return db.nothing() end)
  end)

  it("of a connection that was released", function()
    local c = assert(db:acquire())
    c:release()
    c:release()
    assert.match("was released", blamed(here(), function() c:query "select 1" end))
    assert.match("was released", blamed(here(), function() c:begin() end))
  end)

  it("also inside a transaction's function, whose callers are pool's own files", function()
    db:transaction(function(tx)
      blamed(here(), function() tx:query(1) end)
      blamed(here(), function() tx:begin { what = 1 } end)
    end)
  end)
end)

describe("a task that ends while it holds a connection", function()
  local function lines_of(fn)
    local before, lines = pool.log, {}
    pool.log = function(level, message) lines[#lines + 1] = level .. ": " .. message end
    local ok, err = pcall(fn)
    pool.log = before
    if not ok then error(err, 0) end
    return table.concat(lines, "\n")
  end

  for how, finish in pairs {
    returned = function() end,
    raised = function() error {} end,
    cancelled = function(task) task().cancel(task()) pool.sleep(1) end,
  } do
    it(how .. ": it is back, clean, counted and traced", function()
      local db <close> = pool.new { database_url = "sqlite:///:memory:" }
      local line, c -- not the collector's to take back
      local log = lines_of(function()
        pool.run(function()
          assert(db:exec "create table t (i integer)")
          local task
          task = pool.spawn(function()
            line = here() + 1
            c = assert(db:acquire())
            assert(c:begin())
            assert(c:query "insert into t values (1)")
            finish(function() return task end)
          end)
          task:join()
          assert.equal(0, assert(db:query "select count(*) as n from t")[1].n)
        end)
      end)
      assert.equal(0, db:stats().leased)
      assert.equal(1, db:stats().leaks)
      assert.match("a task ended holding connection 1, acquired at spec/error_spec.lua:" .. line, log, 1, true)
    end)
  end

  it("whose wait a closing pool ends hears that it is closed", function()
    pool.run(function()
      local waiting
      do
        local db <close> = pool.new { database_url = "sqlite:///:memory:" }
        local _ = assert(db:acquire())
        waiting = pool.spawn(function() return db:query "select 1" end)
        pool.sleep(0)
        assert.equal("waiting", waiting.status)
      end
      local value, err = waiting:join()
      assert.is_nil(value)
      assert.equal("closed", err.kind)
    end)
  end)
end)
