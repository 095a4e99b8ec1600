-- Whatever a task was doing with its connection when it ended, the connection is back and clean for whoever comes next.

local pool = require "pool"
local pools = require "support.pools"
local postgres = require "support.postgres"

local check = pools.check

--- A pool of one connection and a table of its own, so that whoever comes next gets what was left behind.
local function pool_of_one(settings)
  local wanted = { size = 1, max_overflow = 0 }
  for name, value in pairs(settings or {}) do wanted[name] = value end
  local db, name = pools.open(wanted)
  local label = name:gsub("%W", "_")
  check(db:exec("drop table if exists " .. label .. "; create table " .. label .. " (n int primary key)"))
  return db, label, name
end

--- The next user sees no transaction, no row that was not committed, nothing of the session, and the same limit holds.
local function assert_clean(db, label, name)
  local function look()
    local c <close> = check(db:acquire { timeout = 5 })
    assert.is_false(c.in_transaction)
    local first = check(c:query("select pg_current_xact_id_if_assigned() is null as fresh, count(*) as n from " .. label))[1]
    assert.same({ true, 0 }, { first.fresh, first.n })
    assert.equal("read committed", check(c:query("show transaction_isolation"))[1].transaction_isolation)
  end
  look()
  local s = pools.assert_at_rest(db)
  assert.equal(1, s.total)
  assert.equal(1, postgres.count(name, "idle"))
end

local function insert(c, label) check(c:query("insert into " .. label .. " values (1)")) end

--- What a task may be in the middle of. Each gets the pool and the table, signals `ready()` and may go on to wait for ever.
local WORK = {
  { "in a transaction", function(db, label, ready)
    local c = check(db:acquire())
    check(c:begin { isolation = "serializable" })
    insert(c, label)
    ready(c)
  end },
  { "in a failed transaction", function(db, label, ready)
    local c = check(db:acquire())
    check(c:begin())
    insert(c, label)
    assert.is_nil((c:query("select 1/0")))
    ready(c)
  end },
  { "inside db:transaction", function(db, label, ready)
    db:transaction(function(tx)
      insert(tx, label)
      ready()
    end)
  end },
  { "in a savepoint", function(db, label, ready)
    db:transaction(function(tx)
      insert(tx, label)
      tx:transaction(function() ready() end)
    end)
  end },
  { "with a session", function(db, label, ready)
    local session <close> = db:session()
    insert(session, label)
    ready()
  end },
  { "with a session that nobody closes", function(db, label, ready)
    local session = db:session()
    insert(session, label)
    ready()
    session:rollback()
  end },
  { "in the middle of a db:rows loop", function(db, _, ready)
    for row in db:rows("select generate_series(1, 200000) as n") do
      if row.n == 3 then ready() end
    end
  end },
  { "in the middle of a loop over rows in a transaction", function(db, label, ready)
    local c <close> = check(db:acquire())
    check(c:begin())
    insert(c, label)
    for row in c:rows("select generate_series(1, 200000) as n") do
      if row.n == 3 then ready() end
    end
  end },
  { "holding a connection with a <close>", function(db, label, ready)
    local c <close> = check(db:acquire())
    check(c:begin())
    insert(c, label)
    ready()
  end },
}

--- Statements under way: what a cancelled task leaves running at the server.
local RUNNING = {
  { "a query's", function(db) check(db:query("select pg_sleep(30)")) end },
  { "a lease's", function(db)
    local c = check(db:acquire())
    check(c:query("select pg_sleep(30)"))
  end },
  { "a transaction's", function(db, label)
    db:transaction(function(tx)
      insert(tx, label)
      check(tx:query("select pg_sleep(30)"))
    end)
  end },
  { "a session's", function(db, label)
    local session <close> = db:session()
    insert(session, label)
    check(session:query("select pg_sleep(30)"))
  end },
  { "a script's", function(db, label) check(db:exec("begin; insert into " .. label .. " values (1); select pg_sleep(30)")) end },
  { "a stream's", function(db)
    for _ in db:rows("select pg_sleep(30)") do error("a row") end
  end },
}

local function running_at_server(name)
  return function()
    return postgres.sql("select count(*) from pg_stat_activity where state = 'active' and query like '%pg_sleep(30)%' and "
      .. "application_name = '" .. name .. "'") == "1"
  end
end

describe("a task's connection", function()
  before_each(pools.begin)
  after_each(pools.finish)

  for _, work in ipairs(WORK) do
    it("is back and clean when the task raises " .. work[1], function()
      local db, label, name = pool_of_one()
      pool.run(function()
        local task = pool.spawn(work[2], db, label, function() error { planned = true } end)
        local _, err = task:join(10)
        assert.is_true(err.planned)
        assert_clean(db, label, name)
      end)
    end)

    it("is back and clean when the task is cancelled " .. work[1], function()
      local db, label, name = pool_of_one()
      pool.run(function()
        local waiting
        local task = pool.spawn(work[2], db, label, function()
          waiting = true
          pool.sleep(60)
        end)
        pools.wait(function() return waiting end)
        task:cancel()
        local _, err = task:join(10)
        assert.equal("cancelled", err.kind)
        assert_clean(db, label, name)
      end)
    end)
  end

  for _, work in ipairs { WORK[1], WORK[2] } do
    it("is back, clean and told of in the log when the task just ends " .. work[1], function()
      local db, label, name = pool_of_one()
      local held
      pool.run(function()
        assert(pool.spawn(function()
          work[2](db, label, function(c) held = c end) -- not the collector's to take back
          return true
        end):join(10))
        assert_clean(db, label, name)
      end)
      assert.equal("pool.Connection", tostring(held):match "^%S+")
      assert.equal(1, db:stats().leaks)
      assert.matches("warn: a task ended holding connection 1, acquired at spec/leak_spec.lua:%d+: it was taken back", pools.log())
    end)

    it("is back and clean after a deadline " .. work[1], function()
      local db, label, name = pool_of_one()
      pool.run(function()
        local err = pool.spawn(function()
          return select(2, pool.deadline(0.5, function()
            work[2](db, label, function() end)
            return pool.sleep(60)
          end))
        end):join(10)
        assert.equal("deadline", err.kind)
        assert_clean(db, label, name)
      end)
    end)
  end

  for _, work in ipairs(RUNNING) do
    it("is back and clean when the task is cancelled while a statement runs: " .. work[1], function()
      local db, label, name = pool_of_one()
      pool.run(function()
        local task = pool.spawn(work[2], db, label)
        pools.wait(running_at_server(name))
        local started = pool.now()
        task:cancel()
        assert.equal("cancelled", select(2, task:join(10)).kind)
        assert_clean(db, label, name)
        assert.is_true(pool.now() - started < 10)
        assert.equal(1, db:stats().opens, "it was put in order, not replaced")
      end)
    end)

    it("is back and clean when a deadline passes while a statement runs: " .. work[1], function()
      local db, label, name = pool_of_one()
      pool.run(function()
        local _, err = pool.spawn(function() pool.deadline(0.05, work[2], db, label) end):join(10)
        assert.is_true(err == nil or err.kind == "deadline", tostring(err))
        assert_clean(db, label, name)
        assert.equal(1, db:stats().opens)
      end)
    end)
  end

  it("is back when its task is abandoned by pool.run, whose function raised", function()
    local db, label, name = pool_of_one()
    local fine, err = pcall(pool.run, function()
      local ready
      pool.spawn(WORK[1][2], db, label, function()
        ready = true
        pool.sleep(60)
      end)
      pools.wait(function() return ready end)
      error { planned = true }
    end)
    assert.is_false(fine)
    assert.is_true(err.planned)
    assert_clean(db, label, name)
  end)

  it("is back when nobody released it and the collector finds it, and the log says where it was acquired", function()
    local db, label, name = pool_of_one()
    do
      local c = check(db:acquire())
      check(c:begin())
      insert(c, label)
      assert.equal(1, db:stats().leased)
      assert(c.pid)
    end
    collectgarbage()
    collectgarbage()
    assert_clean(db, label, name)
    assert.matches("warn: connection 1, acquired at spec/leak_spec.lua:%d+, was never released: the collector took it back", pools.log())
    assert.equal(1, db:stats().leaks)
  end)

  it("is back when a detached one is collected, and outlives its task until then", function()
    local db, label, name = pool_of_one()
    pool.run(function()
      local kept = assert(pool.spawn(function()
        local c = check(db:acquire())
        check(c:begin())
        insert(c, label)
        return c:detach()
      end):join(10))
      assert.equal(1, db:stats().leased)
      assert.is_true(kept.in_transaction)
      assert.equal(1, check(kept:query("select count(*) as n from " .. label))[1].n)
      kept = nil -- luacheck: ignore
      collectgarbage()
      collectgarbage()
      assert_clean(db, label, name)
    end)
  end)

  it("is back when a session that nobody closed is collected", function()
    local db, label, name = pool_of_one()
    do
      local session = db:session()
      insert(session, label)
      assert.equal(1, db:stats().leased)
      assert.is_true(session.in_transaction)
    end
    collectgarbage()
    collectgarbage()
    assert_clean(db, label, name)
  end)

  it("is back when the iterator of a loop that was left by an error is collected", function()
    local db, label, name = pool_of_one()
    do
      local next_row = db:rows("select generate_series(1, 100000) as n")
      assert.equal(1, next_row().n)
    end
    collectgarbage()
    collectgarbage()
    assert_clean(db, label, name)
  end)

  it("is back with break, and with return, out of a loop over rows", function()
    local db, label, name = pool_of_one()
    for row in db:rows("select generate_series(1, 100000) as n") do
      if row.n == 2 then break end
    end
    assert_clean(db, label, name)
    local function third()
      for row in db:rows("select generate_series(1, 100000) as n") do
        if row.n == 3 then return row.n end
      end
    end
    assert.equal(3, third())
    assert_clean(db, label, name)
  end)

  it("keeps nothing of the last user's session with reset = discard", function()
    local db, label, name = pool_of_one { reset = "discard" }
    do
      local c <close> = check(db:acquire())
      check(c:query("set statement_timeout = 12345"))
      check(c:query("create temp table mine (n int)"))
      check(c:query("select pg_advisory_lock(7)"))
    end
    assert_clean(db, label, name)
    local row = check(db:query("select current_setting('statement_timeout') as t, to_regclass('mine') is null as gone, "
      .. "(select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) as locks"))[1]
    assert.same({ "0", true, 0 }, { row.t, row.gone, row.locks })
  end)

  it("knows which prepared statements a DISCARD ALL took when reset is changed while it is under way", function()
    local db = pool_of_one { reset = "discard" }
    local c = check(db:acquire())
    check(c:query("select $1::int as n", 1))
    c:release()
    assert.equal(1, db:stats().resetting)
    check(db:configure { reset = "rollback" })
    check(db:transaction(function(tx)
      assert.equal(2, check(tx:query("select $1::int as n", 2))[1].n)
      return true
    end))
  end)

  it("takes DISCARD ALL to its end, DateStyle and all, when reset is changed to none while it is under way", function()
    local db = pool_of_one { reset = "discard" }
    check(db:exec "alter role current_user set DateStyle to 'German, DMY'")
    local _ <close> = setmetatable({}, { __close = function() postgres.sql "alter role current_user reset DateStyle" end })
    check(db:query("select 1"))
    db:invalidate() -- the role's own style is what DISCARD ALL goes back to
    local c = check(db:acquire())
    c:release()
    assert.equal(1, db:stats().resetting)
    check(db:configure { reset = "none" })
    assert.equal("2026-11-26", check(db:query("select date '2026-11-26' as day"))[1].day)
  end)

  it("goes back as it is with reset = none, but never in a transaction or in the middle of a statement", function()
    local db, label, name = pool_of_one { reset = "none" }
    do
      local c <close> = check(db:acquire())
      check(c:query("set statement_timeout = 12345"))
    end
    assert.equal("12345ms", check(db:query("show statement_timeout"))[1].statement_timeout)
    do
      local c <close> = check(db:acquire())
      check(c:begin())
      insert(c, label)
    end
    do
      local c <close> = check(db:acquire())
      assert.is_false(c.in_transaction)
      assert.equal(0, check(c:query("select count(*) as n from " .. label))[1].n)
    end
    pools.assert_at_rest(db)
    assert.is_true(postgres.count(name, "idle") == db:stats().total)
  end)

  it("closes at its return what was invalidated, and lends another", function()
    local db = pool_of_one()
    local pid
    do
      local c <close> = check(db:acquire())
      pid = c.pid
      assert.is_true(c:invalidate())
      assert.equal(pid, check(c:query("select pg_backend_pid() as pid"))[1].pid)
    end
    assert.is_true(pid ~= check(db:query("select pg_backend_pid() as pid"))[1].pid)
    assert.equal(1, db:stats().total)
  end)
end)
