-- Transactions, savepoints, retries, sessions, scripts and streams on real PostgreSQL; and stopping a statement on purpose.

local pool = require "pool"
local pools = require "support.pools"
local postgres = require "support.postgres"

local check = pools.check

--- A pool and a table of its own: work(n int primary key, v int).
local function open(settings)
  local db, name = pools.open(settings or { size = 3, max_overflow = 0 })
  check(db:exec("drop table if exists work; create table work (n int primary key, v int)"))
  return db, name
end

local function rows_in(db)
  local found = {}
  for i, row in ipairs(check(db:query("select n from work order by n"))) do found[i] = row.n end
  return found
end

local function insert(on, n) return check(on:query("insert into work values ($1, 0)", n)) end

describe("db:transaction", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("commits, and hands on what its function returns, true if nothing", function()
    local db = open()
    assert.is_true(db:transaction(function(tx) insert(tx, 1) end))
    local results = table.pack(db:transaction(function(tx)
      insert(tx, 2)
      return 1, nil, "three", nil
    end))
    assert.same({ 1, nil, "three", nil, n = 4 }, results)
    assert.same({ false, n = 1 }, table.pack(db:transaction(function() return false end)))
    assert.same({ n = 1 }, table.pack(db:transaction(function() return nil end)))
    assert.same({ 1, 2 }, rows_in(db))
  end)

  it("rolls back when its function raises, and lets the raised value through as it is", function()
    local db = open()
    local mine = { mine = true }
    local fine, err = pcall(db.transaction, db, function(tx)
      insert(tx, 1)
      error(mine)
    end)
    assert.is_false(fine)
    assert.equal(mine, err)
    assert.same({}, rows_in(db))
    pools.assert_at_rest(db)
  end)

  it("rolls back when its function returns nil and an error", function()
    local db = open()
    local ok, err = db:transaction(function(tx)
      insert(tx, 1)
      return nil, "changed my mind"
    end)
    assert.is_nil(ok)
    assert.equal("changed my mind", err)
    assert.same({}, rows_in(db))
  end)

  it("is nil and an error when the server answers COMMIT with ROLLBACK", function()
    local db = open()
    local ok, err = db:transaction(function(tx)
      insert(tx, 1)
      assert.is_nil((tx:query("select 1/0"))) -- and goes on as if nothing had happened
    end)
    assert.is_nil(ok)
    assert.equal("query", err.kind)
    assert.equal("25P02", err.sqlstate)
    assert.same({}, rows_in(db))
  end)

  it("is nil and an error when a deferred constraint fails at COMMIT", function()
    local db = open()
    check(db:exec("alter table work add constraint later unique (v) deferrable initially deferred"))
    local ok, err = db:transaction(function(tx)
      insert(tx, 1)
      insert(tx, 2)
    end)
    assert.is_nil(ok)
    assert.equal("23505", err.sqlstate)
    assert.equal("later", err.constraint)
    assert.same({}, rows_in(db))
  end)

  it("inside another of the same task is a savepoint on the same connection", function()
    local db = open { size = 1, max_overflow = 0 }
    assert.is_true(db:transaction(function(tx)
      insert(tx, 1)
      local ok, err = db:transaction(function(inner)
        assert.equal(tx, inner)
        insert(inner, 2)
        return nil, "undo two"
      end)
      assert.same({ nil, "undo two" }, { ok, err })
      assert.is_true(tx:transaction(function(inner)
        insert(inner, 3)
        local fine = pcall(inner.transaction, inner, function(deepest)
          insert(deepest, 4)
          check(deepest:query("select 1/0"))
        end)
        assert.is_false(fine)
        insert(inner, 5)
      end))
      assert.equal(6, db:transaction(function(inner)
        insert(inner, 6)
        return 6
      end))
      assert.is_true(tx.in_transaction)
    end))
    assert.same({ 1, 3, 5, 6 }, rows_in(db))
    pools.assert_at_rest(db)
  end)

  it("of another task, and of another pool, is one of its own", function()
    local db, other = open(), pools.open { size = 1, max_overflow = 0 }
    pool.run(function()
      assert.is_nil((db:transaction(function(tx)
        insert(tx, 1)
        assert(pool.spawn(function() return db:transaction(function(theirs) insert(theirs, 2) end) end):join(5))
        assert(other:transaction(function(theirs) insert(theirs, 3) end))
        return nil, "undo one"
      end)))
    end)
    assert.same({ 2, 3 }, rows_in(db))
  end)

  it("takes isolation, read_only and deferrable, which end with it", function()
    local db = open { size = 1, max_overflow = 0 }
    local seen = db:transaction(function(tx)
      local _, err = tx:transaction(function(inner) return inner:query("insert into work values (1)") end)
      return { check(tx:query("show transaction_isolation"))[1].transaction_isolation,
        check(tx:query("show transaction_read_only"))[1].transaction_read_only,
        check(tx:query("show transaction_deferrable"))[1].transaction_deferrable, err.sqlstate }
    end, { isolation = "serializable", read_only = true, deferrable = true })
    assert.same({ "serializable", "on", "on", "25006" }, seen)
    assert.equal(1, db:stats().opens, "a read-only transaction's 25006 says nothing of the server's role")
    assert.is_true(db:transaction(function(tx) insert(tx, 1) end))
    assert.equal("read committed", check(db:query("show transaction_isolation"))[1].transaction_isolation)
    assert.equal("repeatable read", db:transaction(function(tx)
      return check(tx:query("show transaction_isolation"))[1].transaction_isolation
    end, { isolation = "Repeatable Read" }))
  end)

  it("refuses options that do not exist, and what is no function", function()
    local db = pools.open()
    assert.error_matches(function() db:transaction(function() end, { isolaton = "x" }) end, "unknown option 'isolaton'")
    assert.error_matches(function() db:transaction(function() end, { isolation = "best" }) end, "isolation 'best'")
    assert.error_matches(function() db:transaction(function() end, { retries = -1 }) end, "retries")
    assert.error_matches(function() db:transaction(function() end, { read_only = 1 }) end, "read_only must be a boolean")
    assert.error_matches(function() db:transaction("begin") end, "a function is wanted")
    assert.equal(0, db:stats().arrivals)
  end)

  it("inside a transaction takes no options, since a savepoint cannot have them", function()
    local db = open { size = 1, max_overflow = 0 }
    local ran = 0
    assert.is_true(db:transaction(function(tx)
      local function inner() ran = ran + 1 end
      for name, value in pairs { isolation = "serializable", read_only = true, deferrable = true, retries = 2 } do
        assert.error_matches(function() db:transaction(inner, { [name] = value }) end,
          "^db:transaction: inside a transaction this is a savepoint, which cannot have " .. name)
      end
      assert.error_matches(function() tx:transaction(inner, { read_only = true }) end,
        "c:transaction: .* a savepoint, which cannot have read_only")
      assert.error_matches(function() tx:transaction(inner, { retries = 1 }) end, "retries is db:transaction's")
      assert.is_true(db:transaction(inner, {}))
    end))
    assert.equal(1, ran)
  end)

  it("runs again after 40001, with retries, until it can be serialized; two writers lose no update", function()
    local db = open()
    insert(db, 1)
    local a, b, c = check(db:acquire()), check(db:acquire()), check(db:acquire()) -- open, so that all three begin at once
    a:release() b:release() c:release()
    local runs = 0
    local function increment()
      return db:transaction(function(tx)
        runs = runs + 1
        local v = check(tx:query("select v from work where n = 1"))[1].v
        pool.sleep(0.005)
        check(tx:query("update work set v = $1 where n = 1", v + 1))
        return v
      end, { isolation = "serializable", retries = 20 })
    end
    pool.run(function()
      local tasks = {}
      for i = 1, 3 do tasks[i] = pool.spawn(function() return check(increment()) and check(increment()) end) end
      for i = 1, 3 do assert.is_number(tasks[i]:join(20)) end
    end)
    assert.equal(6, check(db:query("select v from work"))[1].v)
    assert.is_true(runs > 6, "nothing was ever retried")
    pools.assert_at_rest(db)
  end)

  it("without retries gives 40001 to its caller", function()
    local db = open()
    insert(db, 1)
    pool.run(function()
      local read, failed = 0, 0
      local tasks = {}
      for i = 1, 2 do
        tasks[i] = pool.spawn(function()
          return db:transaction(function(tx)
            check(tx:query("select v from work where n = 1"))
            read = read + 1
            pools.wait(function() return read == 2 end)
            check(tx:query("update work set v = v + 1 where n = 1"))
          end, { isolation = "serializable" })
        end)
      end
      for i = 1, 2 do
        local ok, err = tasks[i]:join(10)
        if not ok then
          failed = failed + 1
          assert.equal("40001", err.sqlstate)
        end
      end
      assert.same({ 2, 1 }, { read, failed })
    end)
  end)

  it("runs again when COMMIT itself answers 40001", function()
    local db = open()
    insert(db, 1)
    insert(db, 2)
    local runs, reading = 0, 0
    --- Write skew: each reads both and writes the other's; only COMMIT, or the slower one's statement, can find that.
    local function skew(mine)
      return db:transaction(function(tx)
        runs = runs + 1
        check(tx:query("select sum(v) from work"))
        reading = reading + 1
        pools.wait(function() return reading >= 2 end)
        check(tx:query("update work set v = v + 1 where n = $1", mine))
        if mine == 1 then pool.sleep(0.01) end
      end, { isolation = "serializable", retries = 5 })
    end
    pool.run(function()
      local a, b = pool.spawn(skew, 1), pool.spawn(skew, 2)
      assert.is_true(a:join(10))
      assert.is_true(b:join(10))
    end)
    assert.is_true(runs >= 3)
    assert.equal(2, check(db:query("select sum(v)::int as s from work"))[1].s)
  end)

  it("runs again after a deadlock, 40P01", function()
    local db = open()
    check(db:exec("alter database " .. postgres.cluster().DATABASE .. " set deadlock_timeout = '50ms'"))
    db:invalidate()
    insert(db, 1)
    insert(db, 2)
    local runs, first = 0, 0
    local function lock(one, two)
      return db:transaction(function(tx)
        runs = runs + 1
        check(tx:query("update work set v = v + 1 where n = $1", one))
        first = first + 1
        pools.wait(function() return first >= 2 end)
        check(tx:query("update work set v = v + 1 where n = $1", two))
      end, { retries = 3 })
    end
    pool.run(function()
      local a, b = pool.spawn(lock, 1, 2), pool.spawn(lock, 2, 1)
      assert.is_true(a:join(10))
      assert.is_true(b:join(10))
    end)
    assert.is_true(runs >= 3)
    assert.equal(4, check(db:query("select sum(v)::int as s from work"))[1].s)
    check(db:exec("alter database " .. postgres.cluster().DATABASE .. " reset deadlock_timeout"))
  end)
end)

describe("a connection's begin, commit and rollback", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("return true, and in_transaction follows the server", function()
    local db = open()
    local c <close> = check(db:acquire())
    assert.is_true(c:begin())
    assert.is_true(c.in_transaction)
    insert(c, 1)
    assert.error_matches(function() c:begin() end, "a transaction is under way")
    assert.is_true(c:commit())
    assert.is_false(c.in_transaction)
    assert.is_true(c:begin { isolation = "repeatable read", read_only = true })
    assert.equal("25006", select(2, c:query("insert into work values (2)")).sqlstate)
    assert.is_true(c.in_transaction)
    assert.is_true(c:rollback())
    assert.is_false(c.in_transaction)
    assert.same({ 1 }, rows_in(db))
  end)

  it("know no retries, and do not list them", function()
    local db = open()
    local c <close> = check(db:acquire())
    assert.error_matches(function() c:begin { retries = 3 } end,
      "c:begin: unknown option 'retries' %(isolation, read_only, deferrable%)")
    assert.error_matches(function() c:transaction(print, { retires = 3 }) end,
      "c:transaction: unknown option 'retires' %(isolation, read_only, deferrable%)")
    assert.error_matches(function() db:transaction(print, { retires = 3 }) end,
      "db:transaction: unknown option 'retires' %(isolation, read_only, deferrable, retries%)")
    assert.is_false(c.in_transaction)
  end)

  it("c:transaction leaves the connection usable after an error in it", function()
    local db = open()
    local c <close> = check(db:acquire())
    local fine, err = pcall(c.transaction, c, function(tx)
      insert(tx, 1)
      check(tx:query("select 1/0"))
    end)
    assert.is_false(fine)
    assert.equal("22012", err.sqlstate)
    assert.is_false(c.in_transaction)
    assert.is_true(c:transaction(function(tx) insert(tx, 2) end))
    assert.same({ 2 }, rows_in(c))
  end)
end)

describe("a session", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("takes a connection at its first statement, gives it back at commit, and begins anew after it", function()
    local db = open()
    local session <close> = db:session()
    assert.equal(0, db:stats().leased)
    assert.is_true(session:commit())
    insert(session, 1)
    assert.equal(1, db:stats().leased)
    assert.is_true(session.in_transaction)
    assert.same({}, rows_in(db))
    assert.is_true(session:commit())
    assert.equal(0, db:stats().leased)
    assert.same({ 1 }, rows_in(db))
    insert(session, 2)
    assert.is_true(session:rollback())
    assert.same({ 1 }, rows_in(session))
    assert.is_true(session:rollback())
    assert.is_true(session:transaction(function(tx) insert(tx, 3) end))
    assert.equal('[{"n":1},{"n":3}]', session:json("select n from work order by n"))
    local seen = {}
    for row in session:rows("select n from work order by n") do seen[#seen + 1] = row.n end
    assert.same({ 1, 3 }, seen)
    assert.is_true(session:commit())
    assert.same({ 1, 3 }, rows_in(db))
  end)

  it("rolls back when it is closed without a commit, and refuses to be used after that", function()
    local db = open()
    local kept
    do
      local session <close> = db:session()
      kept = session
      insert(session, 1)
    end
    assert.same({}, rows_in(db))
    assert.error_matches(function() kept:query("select 1") end, "this session was closed")
    assert.error_matches(function() kept:commit() end, "this session was closed")
    pools.assert_at_rest(db)
  end)

  it("tells of a commit that was a rollback", function()
    local db = open()
    local session <close> = db:session()
    insert(session, 1)
    assert.is_nil((session:query("select 1/0")))
    local ok, err = session:commit()
    assert.is_nil(ok)
    assert.equal("25P02", err.sqlstate)
    insert(session, 2)
    assert.is_true(session:commit())
    assert.same({ 2 }, rows_in(db))
  end)
end)

describe("scripts and streams:", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("db:exec runs several statements as one, and stops at the first error", function()
    local db = open()
    assert.is_true(db:exec("insert into work values (1, 0); insert into work values (2, 0); select * from work;"))
    local ok, err = db:exec("insert into work values (3, 0); insert into work values (1, 0); insert into work values (4, 0)")
    assert.is_nil(ok)
    assert.equal("23505", err.sqlstate)
    assert.same({ 1, 2 }, rows_in(db))
    assert.is_true(db:exec("begin; insert into work values (5, 0); commit; begin; insert into work values (6, 0)"))
    assert.same({ 1, 2, 5 }, rows_in(db))
    assert.is_true(db:exec(""))
    assert.error_matches(function() db:exec("select $1", 1) end, "db:exec takes a script and no parameters")
    pools.assert_at_rest(db)
  end)

  it("db:rows streams a million rows in constant memory", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    local function resident()
      for line in io.lines("/proc/self/status") do
        local kib = line:match("^VmRSS:%s+(%d+)")
        if kib then return tonumber(kib) end
      end
    end
    for _ in db:rows("select n, repeat('x', 100) as pad from generate_series(1, 20000) n") do end
    collectgarbage()
    local before, most, n, sum = resident(), 0, 0, 0
    for row in db:rows("select n, repeat('x', 100) as pad from generate_series(1, 1000000) n") do
      n, sum = n + 1, sum + row.n
      if n % 50000 == 0 then most = math.max(most, resident()) end
    end
    assert.same({ 1000000, 500000500000 }, { n, sum })
    local kept = os.getenv("POOL_SPEC_PRELOAD") and 300 or 0 -- MiB: AddressSanitizer holds back what was freed
    assert.is_true(most - before < (20 + kept) * 1024, ("%d KiB more"):format(most - before))
    pools.assert_at_rest(db)
  end)

  it("rows hold their connection while the loop runs, and refuse other use of it until then", function()
    local db = open { size = 1, max_overflow = 0 }
    local c <close> = check(db:acquire())
    local n = 0
    for row in c:rows("select generate_series(1, 50000) as n") do
      n = n + 1
      assert.equal(n, row.n)
      if n == 1 then assert.error_matches(function() c:query("select 1") end, "rows are still being read") end
      if n == 5 then break end
    end
    assert.equal(9, check(c:query("select 9 as n"))[1].n)
    assert.equal(0, (function()
      local count = 0
      for _ in c:rows("select 1 where false") do count = count + 1 end
      return count
    end)())
    local fine, err = pcall(function()
      for row in c:rows("select 10 / (3 - n) as q from generate_series(1, 5) n") do assert(row.q) end
    end)
    assert.is_false(fine)
    assert.equal("22012", err.sqlstate)
    assert.equal(9, check(c:query("select 9 as n"))[1].n)
  end)

  it("db:rows raises what cannot begin", function()
    local db = open { size = 1, max_overflow = 0 }
    local fine, err = pcall(db.rows, db, "select nothing from nowhere")
    assert.is_false(fine)
    assert.equal("42P01", err.sqlstate)
    pools.assert_at_rest(db)
  end)
end)

describe("a statement", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("is stopped by c:cancel() of another task: cancelled, and the connection goes on", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    pool.run(function()
      local c <close> = check(db:acquire())
      local pid = c.pid
      assert.is_true(c:cancel()) -- nothing to stop
      local task = pool.spawn(function() return select(2, c:query("select pg_sleep(30)")) end)
      pools.wait(function() return db:leases()[1].sql end)
      assert.is_true(c:cancel())
      local err = assert(task:join(5))
      assert.equal("cancelled", err.kind)
      for i = 1, 20 do
        local row = check(c:query("select $1::int as i, pg_backend_pid() as pid", i))[1]
        assert.same({ i, pid }, { row.i, row.pid })
      end
    end)
    assert.equal(1, pools.assert_at_rest(db).opens)
  end)

  it("is stopped by statement_timeout with the kind deadline, on the pool and on a lease", function()
    local db = pools.open { size = 1, max_overflow = 0, statement_timeout = 0.05 }
    local c <close> = check(db:acquire())
    local _, err = c:query("select pg_sleep(30)")
    assert.equal("deadline", err.kind)
    assert.matches("statement_timeout", err.message)
    assert.equal(1, check(c:query("select 1 as n"))[1].n)
    c:release()
    assert.equal("deadline", select(2, db:query("select pg_sleep(30)")).kind)
    assert.equal("deadline", select(2, db:exec("select 1; select pg_sleep(30)")).kind)
    assert.equal(2, check(db:query("select 2 as n"))[1].n)
    assert.equal(1, pools.assert_at_rest(db).opens)
  end)

  it("of the server's own statement_timeout is deadline, too", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    local c <close> = check(db:acquire())
    check(c:query("set statement_timeout = '30ms'"))
    local _, err = c:query("select pg_sleep(30)")
    assert.equal("deadline", err.kind)
    check(c:query("reset statement_timeout"))
  end)

  it("is stopped by pool.deadline, also in the line", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    pool.run(function()
      local c <close> = check(db:acquire())
      local err = pool.spawn(function() return select(2, pool.deadline(0.05, db.query, db, "select 1")) end):join(5)
      assert.equal("deadline", err.kind)
      assert.matches("waiting for a connection", err.message)
      err = select(2, pool.deadline(0.05, c.query, c, "select pg_sleep(30)"))
      assert.equal("deadline", err.kind)
      assert.matches("waiting for the database", err.message)
      local started, pid = pool.now(), c.pid
      assert.equal(pid, check(c:query("select pg_backend_pid() as pid"))[1].pid) -- once the first is over: it was told to stop
      assert.is_true(pool.now() - started < 4)
    end)
    assert.equal(1, pools.assert_at_rest(db).opens)
    assert.equal(1, db:stats().cancelled)
  end)
end)

describe("a transaction that cannot be finished as meant", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("is an error when its connection died, even if fn did not look at its statements' errors", function()
    local db, name = pools.open { size = 1, max_overflow = 0 }
    local value, err = db:transaction(function(tx)
      postgres.terminate(name)
      tx:query "select 1"
      return "done"
    end)
    assert.is_nil(value)
    assert.equal("lost", err.kind)
  end)

  it("is `lost`, and no other error, when its connection died and savepoints are begun and undone all the same", function()
    local db, name = pools.open { size = 1, max_overflow = 0 }
    local value, err = db:transaction(function(tx)
      return tx:transaction(function()
        postgres.terminate(name)
        tx:query "select 1"
        return tx:transaction(function() return "not reached" end)
      end)
    end)
    assert.is_nil(value)
    assert.equal("lost", err.kind)
  end)

  it("is a transaction still while a statement that its deadline ended is being stopped", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    pool.run(function()
      local c <close> = assert(db:acquire())
      check(c:begin())
      local rows, err = pool.deadline(0.05, c.query, c, "select pg_sleep(10)")
      assert.is_nil(rows)
      assert.equal("deadline", err.kind)
      assert.is_true(c.in_transaction)
      assert.error_matches(function() c:begin() end, "a transaction is under way")
      local inner
      inner, err = c:transaction(function() return "not reached" end) -- a savepoint: it must not commit what is around it
      assert.is_nil(inner)
      assert.equal("25P02", err.sqlstate)
      assert.is_true(c.in_transaction)
      check(c:rollback())
      assert.is_false(c.in_transaction)
    end)
  end)

  it("goes on when the loop over its rows is left, however many are still to come", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    pool.run(function()
      for _, rows in ipairs { 3, 300, 100000 } do
        local first = check(db:transaction(function(tx)
          for row in tx:rows("select generate_series(1, $1) as n, repeat('x', 100) as x", rows) do
            if row.n == 2 then break end
          end
          assert.is_true(tx.in_transaction)
          return check(tx:query("select txid_current_if_assigned() is null as fine, 7 as n"))[1].n
        end))
        assert.equal(7, first)
      end
      assert.equal(0, db:stats().query_errors)
    end)
  end)

  it("can be left in db:on(\"connect\") too", function()
    local db = pools.open { size = 1, max_overflow = 0, timeout = 5 }
    local seen
    db:on("connect", function(c)
      for row in c:rows "select generate_series(1, 100000) as n" do
        if row.n == 2 then break end
      end
      seen = check(c:query "select 7 as n")[1].n
    end)
    pool.run(function() assert.equal(1, check(db:query "select 1 as n")[1].n) end)
    assert.equal(7, seen)
  end)

  --- A table that is there for fn alone.
  local function with_table(db, fn)
    check(db:exec "create table if not exists undone (n int); truncate undone")
    fn()
    check(db:exec "drop table undone")
  end

  it("does not commit what a savepoint did that could not be released, which its caller was told", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    with_table(db, function()
      local inner, late
      local value, err = db:transaction(function(tx)
        pool.deadline(0.3, function()
          inner, late = tx:transaction(function()
            check(tx:query "insert into undone values (1)")
            pool.sleep(1)
            return "released too late"
          end)
        end)
        return "committed"
      end)
      assert.is_nil(inner)
      assert.equal("deadline", late.kind)
      assert.is_nil(value)
      assert.equal("deadline", err.kind)
      assert.equal(0, check(db:query "select count(*)::int as n from undone")[1].n)
    end)
  end)

  it("goes on after a savepoint that could not be released because a statement in it had failed", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    with_table(db, function()
      assert.is_true(db:transaction(function(tx)
        check(tx:query "insert into undone values (1)")
        local inner, err = tx:transaction(function()
          check(tx:query "insert into undone values (2)")
          tx:query "select 1 / 0"
          return "not seen"
        end)
        assert.is_nil(inner)
        assert.equal("25P02", err.sqlstate)
        check(tx:query "insert into undone values (3)")
      end))
      assert.equal(4, check(db:query "select sum(n)::int as n from undone")[1].n)
    end)
  end)

  it("does not commit what a savepoint did that could not be undone", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    with_table(db, function()
      local value, err = db:transaction(function(tx)
        check(tx:query "insert into undone values (1)")
        pool.deadline(0.3, function()
          return tx:transaction(function()
            check(tx:query "insert into undone values (2)")
            pool.sleep(1)
            return nil, "too late"
          end)
        end)
        return "committed"
      end)
      assert.is_nil(value)
      assert.equal("deadline", err.kind)
      assert.equal(0, check(db:query "select count(*)::int as n from undone")[1].n)
    end)
  end)
end)
