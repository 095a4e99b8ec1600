-- The server dies, restarts, stops, refuses: every statement ends in a right answer or a typed error, and the pool is whole again.

local pool = require "pool"
local pools = require "support.pools"
local postgres = require "support.postgres"
local process = require "support.process"

local check = pools.check
local WORLD = { timeout = true, connect = true, lost = true } -- what a server that goes away may cost

--- Runs a shell command beside the loop, so that tasks go on meanwhile; returns a function that says whether it has ended.
local function beside(command)
  local p = process.start({ "bash", "-c", command })
  return function()
    local code = p:code()
    if code and code ~= 0 then error(p:stdout() .. p:stderr()) end
    return code and (p:close() or true)
  end
end

local function cluster(verb)
  local c = postgres.cluster()
  return beside("POOL_SPEC_PG_DIR='" .. c.DIR .. "' spec/support/cluster " .. verb .. " 2>&1")
end

--- `count` queries one after another are right, and the server counts what the pool does, within the limit.
local function assert_whole(db, name, count)
  for i = 1, count do assert.equal(i, check(db:query("select $1::int as i", i))[1].i) end
  local s = pools.assert_at_rest(db)
  assert.is_true(s.total <= s.limit)
  process.wait_until(function() return postgres.count(name) == s.total end, 10, s.total .. " connections at the server")
end

--- Fills the pool with idle connections.
local function warm(db, count)
  local held = {}
  for i = 1, count do held[i] = check(db:acquire()) end
  for i = 1, count do held[i]:release() end
  assert.equal(count, db:stats().idle)
end

--- Tasks that query until over(): every statement's end is counted by its kind, and anything else is an error.
local function hammer(db, tasks, over)
  local counts, running = { fine = 0 }, {}
  for i = 1, tasks do
    running[i] = pool.spawn(function()
      local n = 0
      while not over() do
        n = n + 1
        local rows, err = db:query("select $1::int as n, pg_sleep(0.002)", i * 1000000 + n)
        if rows then
          if rows[1].n ~= i * 1000000 + n then error("a wrong answer") end
          counts.fine = counts.fine + 1
        else
          if not WORLD[err.kind] then error(("%s: %s"):format(err.kind, err)) end
          counts[err.kind] = (counts[err.kind] or 0) + 1
          pool.sleep(0.005)
        end
      end
      return true
    end)
  end
  return counts, running
end

local function join_all(running)
  for i = 1, #running do
    local fine, err = running[i]:join(30)
    if not fine then error(("task %d: %s"):format(i, tostring(err))) end
  end
end

describe("a server's faults:", function()
  before_each(pools.begin)
  after_each(function()
    if not pcall(postgres.sql, "select 1") then pcall(postgres.start) end
    postgres.wait_ready(20)
    pools.finish()
  end)

  it("a backend terminated in the middle of a query costs that query alone, as lost", function()
    local db, name = pools.open { size = 3, max_overflow = 0 }
    pool.run(function()
      local pid
      local victim = pool.spawn(function()
        local c <close> = check(db:acquire())
        pid = c.pid
        local rows, err = c:query("select pg_sleep(30)")
        assert.is_nil(rows)
        local again, still = c:query("select 1")
        assert.is_nil(again)
        assert.equal("lost", still.kind)
        assert.is_true(still.retryable)
        return err
      end)
      pools.wait(function() return db:leases()[1] and db:leases()[1].sql end)
      local other = pool.spawn(function() return check(db:query("select pg_sleep(0.2), 5 as n"))[1].n end)
      pools.wait(function() return db:stats().leased == 2 end)
      assert.is_true(check(db:query("select pg_terminate_backend($1)", pid))[1].pg_terminate_backend)
      local err = assert(victim:join(10))
      assert.equal("lost", err.kind)
      assert.equal("57P01", err.sqlstate)
      assert.is_true(not err.retryable, "it may have run")
      assert.equal(5, other:join(10))
    end)
    assert_whole(db, name, 20)
  end)

  it("kill -9 of a backend in the middle of a query is lost, and the restart of the others is found out by few queries of many", function()
    local db, name = pools.open { size = 8, max_overflow = 0, timeout = 10 }
    warm(db, 8)
    pool.run(function()
      local victim = pool.spawn(function() return select(2, db:query("select pg_sleep(30)")) end)
      pools.wait(function() return db:leases()[1] and db:leases()[1].sql end)
      postgres.kill_backend(db:leases()[1].pid)
      local err = assert(victim:join(10))
      assert.equal("lost", err.kind)
      local failed = 0
      for i = 1, 20 do
        local rows, why = db:query("select $1::int as i", i)
        if rows then
          assert.equal(i, rows[1].i)
        else
          assert.is_true(WORLD[why.kind] ~= nil, tostring(why))
          failed = failed + 1
        end
      end
      assert.is_true(failed <= 3, failed .. " failed") -- of seven: a busy server tells the second later than the first
      pools.wait(function() return db:stats().lost >= 8 end)
      postgres.wait_ready(10)
    end)
    assert_whole(db, name, 20)
  end)

  it("a server that goes down at once, or for another's crash, says why, and callers are told", function()
    local db, name = pools.open { size = 2, max_overflow = 0, timeout = 10 }
    local cases = {
      ["57P01"] = function() postgres.restart("immediate") end,
      ["57P02"] = function() postgres.kill_backend(postgres.pids "somebody-else"[1]) end,
    }
    for sqlstate, go_down in pairs(cases) do
      local other <close> = process.start { postgres.cluster().BIN .. "/psql", (postgres.url { application_name = "somebody-else" }),
        "-c", "select pg_sleep(30)" }
      process.wait_until(function() return postgres.count("somebody-else", "active") == 1 end, 10, "the other session")
      pool.run(function()
        local victim = pool.spawn(function() return select(2, db:query("select pg_sleep(30)")) end)
        pools.wait(function() return postgres.count(name, "active") == 1 end)
        go_down()
        local err = assert(victim:join(10))
        assert.same({ "lost", sqlstate }, { err.kind, err.sqlstate })
        assert.is_true(not err.retryable, "it may have run")
      end)
      other:close()
      postgres.wait_ready()
    end
    assert_whole(db, name, 20)
  end)

  it("idle connections terminated at the server are seen at once, and cost no query", function()
    local db, name = pools.open { size = 4, max_overflow = 0, pre_ping = false }
    warm(db, 4)
    assert.equal(4, postgres.terminate(name))
    pools.wait(function() return db:stats().total == 0 end, 5)
    assert.equal(4, db:stats().lost)
    assert_whole(db, name, 10)
  end)

  it("so is one that has just refused a COPY, which the driver ends with a cancel of its own", function()
    local db, name = pools.open { size = 1, max_overflow = 0, pre_ping = false }
    for round = 1, 5 do
      assert.is_nil((db:query "copy (select generate_series(1, 300000)) to stdout"))
      assert.equal(1, postgres.terminate(name))
      pools.wait(function() return db:stats().total == 0 end, 5)
      assert.equal(round, db:stats().lost)
      assert_whole(db, name, 1)
    end
  end)

  it("one disconnect makes every older connection suspect: they are checked in the background, before anybody asks", function()
    local db, name = pools.open { size = 4, max_overflow = 0, pre_ping = false }
    warm(db, 4)
    postgres.sql("select pg_terminate_backend(" .. postgres.pids(name)[1] .. ")")
    pools.wait(function() return db:stats().checks == 3 and db:stats().idle == 3 end, 5)
    assert.equal(0, db:stats().check_failures)
    assert_whole(db, name, 10)
  end)

  it("one disconnect makes those suspect that are out: they are checked at their return", function()
    local db = pools.open { size = 3, max_overflow = 0, pre_ping = false }
    local a, b, c = check(db:acquire()), check(db:acquire()), check(db:acquire())
    local pid = c.pid
    c:release()
    postgres.sql("select pg_terminate_backend(" .. pid .. ")")
    pools.wait(function() return db:stats().lost == 1 end)
    assert.equal(0, db:stats().checks)
    a:release()
    b:release()
    pools.wait(function() return db:stats().checks == 2 and db:stats().idle == 2 end)
  end)

  it("a restart while the program did not look costs no error, with pre_ping", function()
    local db, name = pools.open { size = 3, max_overflow = 0, pre_ping = true, pre_ping_after = 0 }
    warm(db, 3)
    local before = check(db:query("select pg_backend_pid() as pid"))[1].pid
    postgres.restart("fast") -- the loop does not turn meanwhile
    local after = check(db:query("select pg_backend_pid() as pid"))[1].pid
    assert.is_true(before ~= after)
    assert_whole(db, name, 20)
    assert.equal(0, db:stats().query_errors)
  end)

  it("a restart costs no error without pre_ping either, once it was seen", function()
    local db, name = pools.open { size = 3, max_overflow = 0, pre_ping = false }
    warm(db, 3)
    postgres.restart("immediate")
    pools.wait(function() return db:stats().total == 0 end)
    assert_whole(db, name, 20)
    assert.equal(0, db:stats().query_errors)
  end)

  it("stale connections that nobody noticed cost at most one failed query, without pre_ping", function()
    local db, name = pools.open { size = 5, max_overflow = 0, pre_ping = false }
    warm(db, 5)
    postgres.restart("immediate")
    local failed = 0
    for i = 1, 20 do
      local rows, err = db:query("select $1::int as i", i)
      if rows then
        assert.equal(i, rows[1].i)
      else
        assert.equal("lost", err.kind)
        failed = failed + 1
      end
    end
    assert.is_true(failed <= 1, failed .. " failed")
    assert_whole(db, name, 20)
  end)

  it("an immediate restart under 50 tasks: typed errors alone, nothing hangs, whole soon after the server", function()
    local db, name = pools.open { size = 5, max_overflow = 5, timeout = 20, connect_timeout = 5 }
    pool.run(function()
      local over = false
      local counts, running = hammer(db, 50, function() return over end)
      pools.wait(function() return counts.fine > 200 end)
      local restarted = cluster "restart immediate"
      pools.wait(restarted, 30, "the restart")
      local back, fine = pool.now(), counts.fine
      pools.wait(function() return counts.fine >= fine + 100 end, 5, "the pool to be whole")
      assert.is_true(pool.now() - back < 3, ("whole only after %.2f s"):format(pool.now() - back)) -- in a second: spec/faults/run
      over = true
      join_all(running)
      assert.is_true((counts.lost or 0) >= 1)
      assert.is_nil(counts.timeout)
      assert.is_nil(counts.connect)
    end)
    assert_whole(db, name, 100)
  end)

  it("kill -9 of the whole server under tasks, and its return", function()
    local db, name = pools.open { size = 4, max_overflow = 0, timeout = 20 }
    pool.run(function()
      local over = false
      local counts, running = hammer(db, 12, function() return over end)
      pools.wait(function() return counts.fine > 50 end)
      pools.wait(cluster "kill", 20, "the kill")
      pools.wait(function() return db:stats().failing end)
      local fine = counts.fine
      pools.wait(cluster "start", 30, "the start")
      pools.wait(function() return counts.fine >= fine + 100 end, 5, "the pool to be whole")
      over = true
      join_all(running)
    end)
    assert_whole(db, name, 50)
  end)

  it("those who wait while the server is away are served when it is back before their deadline", function()
    local db, name = pools.open { size = 2, max_overflow = 0, timeout = 20 }
    warm(db, 2)
    pool.run(function()
      pools.wait(cluster "stop fast", 20, "the stop")
      local waiting = {}
      for i = 1, 10 do waiting[i] = pool.spawn(function() return check(db:query("select $1::int as i", i))[1].i end) end
      pools.wait(function() return db:stats().failing and db:stats().waiting == 10 end)
      pools.wait(cluster "start", 30, "the start")
      for i = 1, 10 do
        local result, err = waiting[i]:join(5)
        assert.is_nil(err)
        assert.equal(i, result)
      end
      assert.is_true(db:stats().open_failures >= 1)
    end)
    assert.equal(0, db:stats().query_errors)
    assert_whole(db, name, 10)
  end)

  it("those whose deadline comes first are told connect, with the last cause", function()
    local db = pools.open({ size = 2, max_overflow = 0, timeout = 0.3 }, { tcp = true })
    warm(db, 2)
    postgres.stop()
    pools.wait(function() return db:stats().total == 0 end)
    pool.run(function()
      local tasks = {}
      for i = 1, 5 do tasks[i] = pool.spawn(function() return select(2, db:query("select 1")) end) end
      for i = 1, 5 do
        local err = assert(tasks[i]:join(5))
        assert.equal("connect", err.kind)
        assert.matches("[Cc]onnection refused", err.message)
        assert.is_true(err.retryable)
        assert.is_true(err.waited >= 0.2 and err.waited < 3)
      end
    end)
    postgres.start()
    pools.wait(function() return (db:query("select 1")) end)
    pools.assert_at_rest(db)
  end)

  it("a rows loop raises lost when its connection dies, and the next one works", function()
    local db, name = pools.open { size = 1, max_overflow = 0 }
    local fine, err = pcall(function()
      for row in db:rows("select generate_series(1, 10000000) as n") do
        if row.n == 10 then postgres.terminate(name) end
      end
    end)
    assert.is_false(fine)
    assert.equal("lost", err.kind)
    local n = 0
    for _ in db:rows("select generate_series(1, 1000)") do n = n + 1 end
    assert.equal(1000, n)
    pools.assert_at_rest(db)
  end)

  it("a connection lost during COMMIT is lost and is not retried", function()
    local db, name = pools.open { size = 1, max_overflow = 0 }
    postgres.sql("drop table if exists at_commit; create table at_commit (n int); create or replace function die() returns trigger as "
      .. "'begin perform pg_terminate_backend(pg_backend_pid()); return null; end' language plpgsql; create constraint trigger die "
      .. "after insert on at_commit deferrable initially deferred for each row execute function die()")
    local runs = 0
    local ok, err = db:transaction(function(tx)
      runs = runs + 1
      check(tx:query("insert into at_commit values (1)"))
    end, { retries = 5 })
    assert.is_nil(ok)
    assert.equal("lost", err.kind)
    assert.equal(1, runs)
    assert.equal("0", postgres.sql("select count(*) from at_commit"))
    postgres.sql("drop table at_commit; drop function die")
    assert_whole(db, name, 3)
  end)

  it("permanent failures answer everybody at once, with their SQLSTATE", function()
    postgres.sql("drop role if exists nologin_role; create role nologin_role nologin")
    local cases = {
      ["3D000"] = { database = "no_such_database" },
      ["28P01"] = { tcp = true, password = "planted-secret" },
      ["28000"] = { user = "nologin_role" },
    }
    for sqlstate, options in pairs(cases) do
      local db = pools.open({ size = 2, max_overflow = 0, timeout = 30 }, options)
      pool.run(function()
        local started = pool.now()
        local tasks = {}
        for i = 1, 10 do tasks[i] = pool.spawn(function() return select(2, db:query("select 1")) end) end
        for i = 1, 10 do
          local err = assert(tasks[i]:join(10))
          assert.equal("connect", err.kind)
          assert.equal(sqlstate, err.sqlstate)
          assert.is_nil(tostring(err):find("planted-secret", 1, true))
        end
        assert.is_true(pool.now() - started < 5)
      end)
      assert.equal(10, pools.assert_at_rest(db).errors)
    end
    assert.is_nil(pools.log():find("planted-secret", 1, true))
    postgres.sql("drop role nologin_role")
  end)

  it("a setting of libpq that the server cannot keep is one, whatever the place of its socket is called", function()
    local c = postgres.cluster()
    local dir = process.run "mktemp -d /tmp/pool-memory.XXXXXX":gsub("\n$", "")
    local socket = ("/.s.PGSQL.%s"):format(c.PORT)
    process.run(("chmod 755 %s && ln -s %s%s %s%s"):format(dir, c.DIR, socket, dir, socket))
    local db = pools.open({ timeout = 30 }, { through = { unix = true, host = dir }, channel_binding = "require" })
    local started = pool.now()
    local _, err = db:query("select 1")
    assert.equal("connect", err.kind)
    assert.matches("channel binding", err.message)
    assert.is_true(pool.now() - started < 5)
    process.run("rm -r " .. dir)
  end)

  it("cancels that a network has swallowed do not keep later ones from the server", function()
    local proxy = require("support.proxy").start()
    local db = pools.open({ size = 8, max_overflow = 0, timeout = 20 }, { through = proxy, sslmode = "disable", gssencmode = "disable" })
    warm(db, 8)
    pool.run(function()
      proxy:set { accept = "silent" } -- what is open goes on; cancels come on links of their own
      local tasks = {}
      for i = 1, 8 do tasks[i] = pool.spawn(function() return select(2, pool.deadline(0.05, db.query, db, "select pg_sleep(60)")) end) end
      for i = 1, 8 do assert.equal("deadline", assert(tasks[i]:join(5)).kind) end
      process.wait_until(function()
        pool.sleep(0.05)
        return db:stats().total == 0
      end, 15, "the end of the patience with cancels")
      proxy:set { accept = "yes" }
      local c <close> = check(db:acquire())
      local pid = c.pid
      assert.equal("deadline", select(2, pool.deadline(0.05, c.query, c, "select pg_sleep(60)")).kind)
      assert.equal(pid, check(c:query "select pg_backend_pid() as pid")[1].pid)
    end)
    db:close(0)
    proxy:close()
    -- nothing has told these of their client's end
    postgres.sql "select count(pg_terminate_backend(pid)) from pg_stat_activity where query = 'select pg_sleep(60)'"
  end)

  it("a role that does not exist is refused at once", function()
    local db = pools.open({ timeout = 30 }, { user = "nobody_of_that_name" })
    local started = pool.now()
    local _, err = db:query("select 1")
    assert.equal("connect", err.kind)
    assert.equal("28000", err.sqlstate)
    assert.is_true(pool.now() - started < 5)
  end)

  it("too many connections for the server is a passing failure: the line waits for one that comes back", function()
    local limit = math.tointeger(tonumber(postgres.sql("select current_setting('max_connections')::int")))
    postgres.sql("drop role if exists small; create role small login connection limit 2")
    local db = pools.open({ size = 5, max_overflow = 0, timeout = 10 }, { user = "small" })
    assert.is_true(limit > 2)
    pool.run(function()
      local tasks = {}
      for i = 1, 30 do tasks[i] = pool.spawn(function() return check(db:query("select $1::int as i, pg_sleep(0.01)", i))[1].i end) end
      for i = 1, 30 do
        local result, err = tasks[i]:join(20)
        assert.is_nil(err)
        assert.equal(i, result)
      end
    end)
    assert.equal(2, pools.assert_at_rest(db).total) -- one more may have been tried while somebody waited
    assert.is_true(db:stats().open_failures >= 1)
    db:close(0)
    postgres.sql("drop role small")
  end)

  for _, kind in ipairs { "silent", "full" } do
    it("connect_timeout ends a try at a black hole: " .. kind, function()
      local port, hole <close> = pools.black_hole(kind)
      local db = pools.open({ connect_timeout = 0.3, timeout = 1.2 }, { tcp = true, host = "127.0.0.1", port = port })
      local started = pool.now()
      local _, err = db:query("select 1")
      assert.equal("connect", err.kind)
      assert.matches("connect_timeout %(0.3 s%)", err.message)
      assert.is_true(pool.now() - started < 5)
      assert(hole)
      pools.wait(function() return db:stats().opening == 0 end)
      assert.is_true(db:stats().open_failures >= 1)
    end)

    it("the next host of the URL is tried when the first is a black hole: " .. kind, function()
      local port, hole <close> = pools.black_hole(kind)
      local c = postgres.cluster()
      local url = ("postgresql://%s:%s@127.0.0.1:%d,127.0.0.1:%s/%s"):format(c.USER, c.PASSWORD, port, c.PORT, c.DATABASE)
      local db = pools.open { connect_timeout = 4, timeout = 10, database_url = url .. "?application_name=two-hosts-" .. kind }
      assert.equal(math.tointeger(tonumber(c.PORT)), check(db:query("select inet_server_port() as port"))[1].port)
      assert.equal(0, db:stats().open_failures)
      assert(hole)
      db:close(0)
      postgres.wait_gone("two-hosts-" .. kind)
    end)
  end

  it("a stopped server process (SIGSTOP) does not hold the pool: pre-ping times out and another connection serves", function()
    local db, name = pools.open { size = 2, max_overflow = 0, pre_ping_after = 0, pre_ping_timeout = 0.2 }
    warm(db, 1)
    local pid = postgres.pids(name)[1]
    process.run("kill -STOP " .. pid)
    local row = check(db:query("select pg_backend_pid() as pid"))[1]
    process.run("kill -CONT " .. pid)
    assert.is_true(row.pid ~= pid)
    pools.wait(function() return db:stats().closing == 0 end)
    process.wait_until(function() return postgres.count(name) == db:stats().total end)
    assert_whole(db, name, 5)
  end)
end)
