-- A pool's upkeep and its ends, on real PostgreSQL: recycling, pre-ping, live changes, events, reports, closing, settings.

local pool = require "pool"
local pools = require "support.pools"
local postgres = require "support.postgres"
local process = require "support.process"

local check = pools.check

local function pid_of(db) return check(db:query("select pg_backend_pid() as pid"))[1].pid end

local function warm(db, count)
  local held = {}
  for i = 1, count do held[i] = check(db:acquire()) end
  for i = 1, count do held[i]:release() end
end

describe("upkeep:", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("a connection older than recycle is replaced in the background, and no lease is cut", function()
    local db, name = pools.open { size = 1, max_overflow = 0, recycle = 0.2, recycle_jitter = 0 }
    local first = pid_of(db)
    local c <close> = check(db:acquire())
    pools.wait(function() return c.age > 0.3 end)
    assert.equal(first, check(c:query("select pg_backend_pid() as pid"))[1].pid)
    c:release()
    pools.wait(function() return db:stats().recycled >= 1 and db:stats().idle == 1 end)
    local second = pid_of(db)
    assert.is_true(second ~= first)
    assert.equal(1, postgres.count(name))
    assert.equal(0, db:stats().lost)
  end)

  it("recycle 0 keeps a connection for ever", function()
    local db = pools.open { size = 1, max_overflow = 0, recycle = 0 }
    local first = pid_of(db)
    local c <close> = check(db:acquire())
    pools.wait(function() return c.age > 0.3 end)
    c:release()
    assert.equal(first, pid_of(db))
    assert.equal(0, db:stats().recycled)
  end)

  it("pre_ping checks a connection idle for longer than pre_ping_after, and no other", function()
    local db = pools.open { size = 1, max_overflow = 0, pre_ping = true, pre_ping_after = 0.1 }
    pid_of(db)
    pid_of(db)
    assert.equal(0, db:stats().checks)
    pool.sleep(0.15)
    pid_of(db)
    assert.equal(1, db:stats().checks)
    db:configure { pre_ping = false }
    pool.sleep(0.15)
    pid_of(db)
    assert.equal(1, db:stats().checks)
  end)

  it("invalidate replaces every connection: idle ones at once, leased ones at their return", function()
    local db, name = pools.open { size = 3, max_overflow = 0 }
    warm(db, 3)
    local before = {}
    for _, pid in ipairs(postgres.pids(name)) do before[pid] = true end
    local c = check(db:acquire())
    db:invalidate()
    assert.equal(1, check(c:query("select 1 as n"))[1].n)
    c:release()
    pools.wait(function() return db:stats().total == 0 end)
    warm(db, 3)
    for _, pid in ipairs(postgres.pids(name)) do assert.is_nil(before[pid]) end
    assert.equal(3, postgres.count(name))
  end)

  it("pause holds the line, whose deadlines go on, and resume serves it", function()
    local db = pools.open { size = 2, max_overflow = 0, timeout = 10 }
    pid_of(db)
    db:pause()
    assert.is_true(db:stats().paused)
    pool.run(function()
      local task = pool.spawn(pid_of, db)
      pools.wait(function() return db:stats().waiting == 1 end)
      local c, err = db:acquire { timeout = 0.05 }
      assert.is_nil(c)
      assert.equal("timeout", err.kind)
      assert.equal("waiting", task.status)
      db:resume()
      assert.is_number(task:join(5))
    end)
    assert.is_false(db:stats().paused)
  end)

  it("probe says whether the database answers, without taking a connection from the line", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    assert.is_true(db:probe(1))
    assert.equal(1, db:stats().opens)
    local c <close> = check(db:acquire())
    assert.is_true(db:probe(1))
    c:release()
    local dead = pools.open({ size = 1, timeout = 5 }, { database = "no_such_database" })
    local alive, err = dead:probe(0.5)
    assert.is_nil(alive)
    assert.equal("connect", err.kind)
    assert.equal("3D000", err.sqlstate)
  end)

  it("a lease in hand goes on working while the pool is paused", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    local c <close> = check(db:acquire())
    db:pause()
    assert.equal(3, check(c:query("select 3 as n"))[1].n)
    db:resume()
  end)
end)

describe("db:configure", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("changes settings while the pool runs and returns all of them", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    local heard
    db:on("settings", function(new, old, by) heard = { new.size, old.size, by } end)
    local now = assert(db:configure { size = 3, timeout = 2.5 })
    assert.equal(3, now.size)
    assert.equal(2.5, now.timeout)
    assert.equal(0, now.max_overflow)
    assert.same({ 3, 1, "configure" }, heard)
    assert.equal(3, db:stats().settings.size)
    assert.equal(3, db:stats().size)
  end)

  it("is all or nothing, and names what it refuses", function()
    local db = pools.open { size = 2, max_overflow = 1 }
    local cases = {
      { { size = 5, max_overflow = -1 }, "max_overflow: %-1" },
      { { size = 0, max_overflow = 0 }, "size" },
      { { size = 5, size_limit = 7 }, "size_limit" },
      { { size = 5, database_url = "sqlite:///x.db" }, "database_url" },
      { { size = 1.5 }, "size" },
      { { size = 2000 }, "size_limit" },
    }
    for _, case in ipairs(cases) do
      local fine, err = db:configure(case[1])
      assert.is_nil(fine)
      assert.equal("settings", err.kind)
      assert.matches(case[2], err.message)
      assert.same({ 2, 1 }, { db:stats().settings.size, db:stats().settings.max_overflow })
    end
    assert.is_number(pid_of(db))
  end)

  it("serves those who wait as soon as there is room for them", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    pool.run(function()
      local c <close> = check(db:acquire())
      local waiting = {}
      for i = 1, 3 do waiting[i] = pool.spawn(pid_of, db) end
      pools.wait(function() return db:stats().waiting == 3 end)
      assert(db:configure { size = 2 })
      for i = 1, 3 do assert.is_number(waiting[i]:join(5)) end
      assert(c.pid)
    end)
    assert.equal(2, db:stats().total)
  end)

  it("changes statement_timeout for the next statement", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    assert(db:query("select pg_sleep(0.05)"))
    assert(db:configure { statement_timeout = 0.05 })
    local rows, err = db:query("select pg_sleep(10)")
    assert.is_nil(rows)
    assert.equal("deadline", err.kind)
    assert.matches("statement_timeout %(0.05 s%)", err.message)
    assert(db:configure { statement_timeout = 0 })
    assert(db:query("select pg_sleep(0.1)"))
    assert.equal(1, db:stats().opens)
  end)
end)

describe("db:close", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("returns when the server counts no connection any more, and is idempotent", function()
    local db, name = pools.open { size = 5, max_overflow = 0 }
    warm(db, 5)
    assert.equal(5, postgres.count(name))
    assert.is_true(db:close())
    assert.equal(0, postgres.count(name))
    assert.is_true(db:close())
    assert.is_true(db:close(0))
  end)

  it("answers every later call with closed", function()
    local db = pools.open { size = 1 }
    pid_of(db)
    db:close()
    for _, call in ipairs { "query", "json", "exec", "acquire" } do
      local result, err = db[call](db, call ~= "acquire" and "select 1" or nil)
      assert.is_nil(result)
      assert.equal("closed", err.kind)
    end
    assert.equal("closed", select(2, db:transaction(function() end)).kind)
    assert.equal("closed", select(2, db:session():query("select 1")).kind)
    local fine, err = pcall(db.rows, db, "select 1")
    assert.is_false(fine)
    assert.equal("closed", err.kind)
    assert.same({}, db:leases())
    assert.equal(0, db:stats().total)
  end)

  it("waits for leases up to its grace, and serves nobody new", function()
    local db, name = pools.open { size = 2, max_overflow = 0 }
    pool.run(function()
      local working = pool.spawn(function()
        local c <close> = check(db:acquire())
        return check(c:query("select pg_sleep(0.2), 4 as n"))[1].n
      end)
      pools.wait(function() return db:leases()[1] and db:leases()[1].sql end)
      local closing = pool.spawn(db.close, db, 10)
      pools.wait(function() return db:stats().draining end)
      assert.equal("closed", select(2, db:query("select 1")).kind)
      assert.equal(4, working:join(5))
      assert.is_true(closing:join(5))
    end)
    assert.equal(0, postgres.count(name))
  end)

  it("tells those in line at once that it is closed", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    pool.run(function()
      local c <close> = check(db:acquire())
      local waiting = {}
      for i = 1, 5 do waiting[i] = pool.spawn(function() return select(2, db:query("select 1")) end) end
      pools.wait(function() return db:stats().waiting == 5 end)
      local closing = pool.spawn(db.close, db, 10)
      for i = 1, 5 do assert.equal("closed", assert(waiting[i]:join(5)).kind) end
      assert.equal("waiting", closing.status)
      assert.equal(2, check(c:query("select 2 as n"))[1].n)
      c:release()
      assert.is_true(closing:join(5))
    end)
    assert.equal(5, pools.assert_balanced(db).errors)
  end)

  it("cuts leases after its grace, in the middle of a statement too, and returns with nothing left at the server", function()
    local db, name = pools.open { size = 3, max_overflow = 0 }
    pool.run(function()
      local running = pool.spawn(function() return select(2, db:query("select pg_sleep(30)")) end)
      local begun
      local held = pool.spawn(function()
        local c <close> = check(db:acquire())
        begun = check(c:begin())
        pools.wait(function() return db:stats().total == 0 end)
        return select(2, c:query("select 1"))
      end)
      local streaming = pool.spawn(function()
        local n = 0
        local fine, err = pcall(function()
          for _ in db:rows("select generate_series(1, 10000000)") do
            n = n + 1
            if n % 100 == 0 then pool.sleep(0) end
          end
        end)
        return not fine and err
      end)
      pools.wait(function() return begun and db:stats().leased == 3 end)
      local started = pool.now()
      assert.is_true(db:close(0.1))
      assert.is_true(pool.now() - started < 5)
      assert.equal(0, postgres.count(name))
      assert.equal("closed", assert(running:join(5)).kind)
      assert.equal("closed", assert(held:join(5)).kind)
      local err = assert(streaming:join(5))
      assert.is_true(err.kind == "closed" or err.kind == "lost", tostring(err))
    end)
    pools.assert_balanced(db)
  end)

  it("cuts at once with a grace of 0", function()
    local db, name = pools.open { size = 1, max_overflow = 0 }
    local c <close> = check(db:acquire())
    check(c:begin())
    local started = pool.now()
    assert.is_true(db:close(0))
    assert.is_true(pool.now() - started < 3)
    assert.equal(0, postgres.count(name))
    assert.equal("closed", select(2, c:query("select 1")).kind)
    c:release()
  end)

  it("may be called by several tasks at once, each of which returns when it is done", function()
    local db, name = pools.open { size = 2, max_overflow = 0 }
    pool.run(function()
      local c = check(db:acquire())
      local closing = {}
      for i = 1, 4 do closing[i] = pool.spawn(db.close, db, 10) end
      pools.wait(function() return closing[4].status == "waiting" end)
      local impatient = pool.spawn(db.close, db, 0.05)
      assert.is_true(impatient:join(5))
      assert.equal(0, postgres.count(name))
      for i = 1, 4 do assert.is_true(closing[i]:join(5)) end
      c:release()
    end)
  end)

  it("can be given up by a deadline, and finished by another", function()
    local db, name = pools.open { size = 1, max_overflow = 0 }
    pool.run(function()
      local c <close> = check(db:acquire())
      local _, err = pool.deadline(0.05, db.close, db, 30)
      assert.equal("deadline", err and err.kind)
      assert.equal(1, check(c:query("select 1 as n"))[1].n)
      assert.is_true(db:close(0))
    end)
    assert.equal(0, postgres.count(name))
  end)

  it("refuses a grace that is no time", function()
    local db = pools.open()
    assert.error_matches(function() db:close(-1) end, "grace")
    assert.error_matches(function() db:close("soon") end, "grace")
  end)

  it("closes what a pool that nobody has any more had open", function()
    local name = "collected"
    do
      local db = pool.new { database_url = postgres.url { application_name = name }, size = 2 }
      warm(db, 2)
    end
    assert.equal(2, postgres.count(name))
    pools.wait(function()
      collectgarbage()
      return postgres.count(name) == 0
    end)
  end)
end)

describe("db:on", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("connect prepares every new connection before its first lease, and may query", function()
    local db = pools.open { size = 2, max_overflow = 0 }
    local seen = {}
    db:on("connect", function(c)
      seen[#seen + 1] = c.pid
      check(c:query("set search_path to pg_catalog"))
      check(c:query("select set_config('pool.tag', $1, false)", "tagged"))
    end)
    pool.run(function()
      local tasks = {}
      for i = 1, 10 do
        tasks[i] = pool.spawn(function()
          return check(db:query("select current_setting('pool.tag') || ' ' || current_setting('search_path') as t, pg_sleep(0.005)"))[1].t
        end)
      end
      for i = 1, 10 do assert.equal("tagged pg_catalog", tasks[i]:join(5)) end
    end)
    assert.equal(2, #seen)
    assert.equal(2, pools.assert_at_rest(db).opens)
  end)

  it("connect fails the open by raising, and by returning nil and an error", function()
    for _, fail in ipairs { function() error("not tonight") end, function(c) return c:query("select * from not_tonight") end } do
      local db, name = pools.open { size = 1, max_overflow = 0, timeout = 1 }
      db:on("connect", fail)
      local rows, err = db:query("select 1")
      assert.is_nil(rows)
      assert.equal("connect", err.kind)
      assert.matches("not.tonight", err.message)
      assert.is_true(db:stats().open_failures >= 1)
      pools.wait(function() return db:stats().opening == 0 end)
      process.wait_until(function() return postgres.count(name) == 0 end)
    end
  end)

  it("connect may not leave a transaction open", function()
    local db = pools.open { size = 1, max_overflow = 0, timeout = 0.3 }
    db:on("connect", function(c) check(c:query("begin")) end)
    local _, err = db:query("select 1")
    assert.equal("connect", err.kind)
    assert.matches("transaction", err.message)
  end)

  it("connect that hangs is given up after connect_timeout, and is cut by db:close(0)", function()
    local db, name = pools.open { size = 1, max_overflow = 0, timeout = 0.6, connect_timeout = 0.2 }
    db:on("connect", function(c) check(c:query("select pg_sleep(30)")) end)
    local _, err = db:query("select 1")
    assert.equal("connect", err.kind)
    assert.matches("deadline", err.message)
    assert(db:configure { connect_timeout = 20, timeout = 20 })
    pool.run(function()
      local waiting = pool.spawn(function() return select(2, db:query("select 1")) end)
      local query = "select count(*) from pg_stat_activity where query like '%pg_sleep(30)%' and state = 'active' and application_name = '"
      pools.wait(function() return postgres.sql(query .. name .. "'") == "1" end)
      local started = pool.now()
      assert.is_true(db:close(0))
      assert.is_true(pool.now() - started < 5, "it took " .. pool.now() - started)
      assert.equal("closed", assert(waiting:join(5)).kind)
    end)
    assert.equal(0, postgres.count(name)) -- close has seen the server let go
  end)

  it("acquire and release tell of each lease and of each db:query, with its outcome", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    local told = {}
    db:on("acquire", function(c) told[#told + 1] = "acquire " .. c.pid end)
    db:on("release", function(c, outcome) told[#told + 1] = ("release %d %s"):format(c.pid, outcome) end)
    local pid
    do
      local c <close> = check(db:acquire())
      pid = c.pid
      check(c:begin())
    end
    assert.equal(pid, pid_of(db))
    assert.equal("[{\"n\":1}]", check(db:json("select 1 as n")))
    assert.is_true(check(db:exec("select 1; select 2")))
    assert.same({ "acquire " .. pid, ("release %d reset"):format(pid), "acquire " .. pid, ("release %d clean"):format(pid),
      "acquire " .. pid, ("release %d clean"):format(pid), "acquire " .. pid, ("release %d clean"):format(pid) }, told)
  end)

  it("acquire and release tell of db:rows as of one lease, however its loop ends", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    local told = {}
    db:on("acquire", function() told[#told + 1] = "acquire" end)
    db:on("release", function(c, outcome) told[#told + 1] = c.id .. " " .. outcome end)
    for _ in db:rows("select generate_series(1, 10)") do assert.same({ "acquire" }, told) end
    for row in db:rows("select generate_series(1, 100000) as n") do
      if row.n == 1 then break end
    end
    pcall(function()
      for _ in db:rows("select 1 / (3 - n) from generate_series(1, 5) n") do assert(told) end
    end)
    pcall(db.rows, db, "select nothing")
    assert.same({ "acquire", "1 clean", "acquire", "1 reset", "acquire", "1 clean", "acquire", "1 clean" }, told)
    pools.assert_at_rest(db)
  end)

  it("release tells of leases whose task died, too", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    local outcomes = {}
    db:on("release", function(_, outcome) outcomes[#outcomes + 1] = outcome end)
    pool.run(function()
      pool.spawn(function()
        local c <close> = check(db:acquire())
        check(c:begin())
        error("planned")
      end):join(5)
    end)
    assert.same({ "reset" }, outcomes)
  end)

  it("close tells of every connection that is closed or lost", function()
    local db, name = pools.open { size = 2, max_overflow = 0 }
    local told = {}
    db:on("close", function(id, reason) told[id] = reason end)
    warm(db, 2)
    postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = '" .. name .. "' limit 1")
    pools.wait(function() return next(told) end)
    assert.equal("lost", select(2, next(told)))
    db:close()
    pools.wait(function() return told[1] and told[2] end)
    local reasons = { told[1], told[2] }
    table.sort(reasons)
    assert.same({ "closed", "lost" }, reasons)
  end)

  it("logs what its functions raise, and goes on", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    local called = 0
    db:on("acquire", function() error("in a listener") end)
    db:on("acquire", function() called = called + 1 end)
    pid_of(db)
    assert.equal(1, called)
    assert.matches("error: db:on%(\"acquire\"%): .*in a listener", pools.log())
  end)

  it("returns a function that takes the listener off", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    local first, second = 0, 0
    local remove = db:on("acquire", function() first = first + 1 end)
    db:on("acquire", function() second = second + 1 end)
    pid_of(db)
    remove()
    remove()
    pid_of(db)
    assert.same({ 1, 2 }, { first, second })
  end)

  it("lets no listener wait", function()
    local db = pools.open { size = 2, max_overflow = 0 }
    db:on("acquire", function() pool.sleep(0.01) end)
    pid_of(db)
    assert.matches("error: db:on%(\"acquire\"%)", pools.log())
  end)

  it("refuses what is no event and no function", function()
    local db = pools.open()
    assert.error_matches(function() db:on("opened", print) end, "no event 'opened'")
    assert.error_matches(function() db:on("close", 5) end, "a function is wanted")
  end)
end)

describe("reports:", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("db:stats adds up in every way a request can end", function()
    local db = pools.open { size = 1, max_overflow = 0, max_waiting = 2, timeout = 0.5 }
    pool.run(function()
      local c = check(db:acquire())
      local timed = pool.spawn(function() return select(2, db:query("select 1")) end)
      local cancelled = pool.spawn(function() return db:query("select 1") end)
      pools.wait(function() return db:stats().waiting == 2 end)
      local middle = pools.assert_balanced(db)
      assert.same({ 3, 1, 2 }, { middle.arrivals, middle.grants, middle.waiting })
      assert.equal("overloaded", select(2, db:query("select 1")).kind)
      cancelled:cancel()
      assert.equal("timeout", assert(timed:join(5)).kind)
      c:release()
      pid_of(db)
      assert(db:json("select 1"))
    end)
    local s = pools.assert_at_rest(db)
    assert.same({ arrivals = 6, grants = 3, releases = 3, timeouts = 1, rejected = 1, cancelled = 1, errors = 0 }, {
      arrivals = s.arrivals, grants = s.grants, releases = s.releases, timeouts = s.timeouts, rejected = s.rejected,
      cancelled = s.cancelled, errors = s.errors })
    assert.equal(3, s.wait.count)
    assert.equal(3, s.hold.count)
    assert.equal(1, s.open_time.count)
    assert.is_true(s.hold.max >= 0.1 and s.open_time.max > 0)
    assert.is_true(s.utilization > 0 and s.utilization <= 1)
    assert.equal(1, s.size)
    assert.equal(0, s.max_overflow)
  end)

  it("db:leases says who holds what, since when, where, and what runs", function()
    local db = pools.open { size = 2, max_overflow = 0 }
    pool.run(function()
      local c <close> = check(db:acquire()) local line = debug.getinfo(1, "l").currentline
      local other = pool.spawn(function() return db:query("select pg_sleep(0.5), $1::text", "a parameter") end)
      pools.wait(function() return db:leases()[2] and db:leases()[2].sql end)
      local mine, theirs = table.unpack(db:leases())
      assert.equal(c.id, mine.id)
      assert.equal(c.pid, mine.pid)
      assert.equal("spec/pool_spec.lua:" .. line, mine.where)
      assert.is_nil(mine.sql)
      assert.is_true(mine.held >= 0 and mine.since > 0)
      assert.equal("select pg_sleep(0.5), $1::text", theirs.sql)
      assert.matches("spec/pool_spec.lua:" .. line + 1, theirs.where)
      assert.is_true(math.type(mine.task) == "integer" and mine.task ~= theirs.task)
      assert(other:join(5))
    end)
    assert.same({}, db:leases())
  end)

  it("a lease older than leak_after is reported once, with where it was acquired and its task's traceback", function()
    local db = pools.open { size = 1, max_overflow = 0, leak_after = 0.1 }
    local line
    pool.run(function()
      local function holder()
        line = debug.getinfo(1, "S").linedefined
        local c <close> = check(db:acquire())
        pools.wait(function() return c.age > 0.4 end)
        return true
      end
      assert.is_true(pool.spawn(holder):join(5))
    end)
    assert.equal(1, pools.logged("has been held for"))
    local log = pools.log()
    assert.matches("warn: connection 1, acquired at spec/pool_spec.lua:%d+, has been held for [%d.]+ s %(leak_after%)\n", log)
    assert.matches("stack traceback:.*in function <spec/pool_spec.lua:" .. line .. ">", log)
  end)

  it("leak_after 0 reports nothing", function()
    local db = pools.open { size = 1, max_overflow = 0, leak_after = 0 }
    local c <close> = check(db:acquire())
    pools.wait(function() return c.age > 0.2 end)
    assert.equal("", pools.log())
  end)

  it("echo logs the SQL and never its parameters", function()
    local db = pools.open { size = 1, max_overflow = 0, echo = true }
    assert(db:query("select $1::text as t", "a-secret-parameter"))
    local c <close> = check(db:acquire())
    assert(c:query("select $1::text as u", "a-secret-parameter"))
    assert.matches("info: select %$1::text as t\n.*info: select %$1::text as u", pools.log())
    assert.is_nil(pools.log():find("a-secret-parameter", 1, true))
    assert(db:configure { echo = false })
    assert(c:query("select 'quiet'"))
    assert.equal(0, pools.logged("quiet"))
  end)

  it("no secret of the URL is in an error, the log, the settings or the pool as text", function()
    local secret = "plnted%2Dhunter2"
    local urls = {
      (postgres.url { tcp = true, password = "XX" }:gsub("XX", (secret:gsub("%%", "%%%%")))),
      "postgresql://u:" .. secret .. "@127.0.0.1:1/x",
      "postgresql://u:" .. secret .. "@/x?host=/nowhere&sslmode=nonsense",
    }
    for _, url in ipairs(urls) do
      local texts = {}
      local fine, db = pcall(pools.open, { database_url = url, timeout = 0.1, connect_timeout = 1 })
      texts[1] = tostring(db)
      if fine then
        local _, err = db:query("select 1")
        assert.equal("connect", err.kind)
        for name, value in pairs(err) do texts[#texts + 1] = name .. tostring(value) end
        texts[#texts + 1] = tostring(err)
        for name, value in pairs(db:stats().settings) do texts[#texts + 1] = name .. tostring(value) end
      end
      texts[#texts + 1] = pools.log()
      local all = table.concat(texts, "\n")
      assert.is_nil(all:find("hunter2", 1, true), all)
    end
  end)

  it("a query's error keeps what the server said, field by field", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    assert(db:exec("drop table if exists fields; create table fields (id int primary key, name text not null, "
      .. "constraint small check (id < 100)); insert into fields values (1, 'a')"))
    local function failure(...)
      local rows, err = db:query(...)
      assert.is_nil(rows)
      assert.equal("query", err.kind)
      return err
    end
    local err = failure("insert into fields values ($1, $2)", 1, "b")
    assert.same({ "23505", "fields_pkey", "fields", "public" }, { err.sqlstate, err.constraint, err.table, err.schema })
    assert.equal("Key (id)=(1) already exists.", err.detail)
    err = failure("insert into fields (id) values (2)")
    assert.same({ "23502", "name", "fields" }, { err.sqlstate, err.column, err.table })
    err = failure("insert into fields values (100, 'c')")
    assert.same({ "23514", "small" }, { err.sqlstate, err.constraint })
    err = failure("select nam from fields")
    assert.same({ "42703", 8 }, { err.sqlstate, err.position })
    assert.matches("fields.name", err.hint)
    assert.equal(tostring(err), tostring(err))
    assert.matches('column "nam" does not exist', tostring(err))
    assert.is_nil(err.waited)
    assert(db:exec("drop table fields"))
    assert.equal(4, pools.assert_at_rest(db).query_errors)
    assert.equal(1, db:stats().opens)
  end)
end)

describe("settings", function()
  local PROGRAM = [[
    local pool = require "pool"
    local db = pool.new(load("return " .. arg[1])())
    local s = db:stats().settings
    print(s.size, s.max_overflow, s.timeout, (db:query("show application_name"))[1].application_name)
    db:close()
  ]]

  --- Runs a program in a directory with this .env, under this environment; its line of settings.
  local function run(argument, env_file, environment)
    local dir = process.run("mktemp -d"):gsub("\n$", "")
    local file = assert(io.open(dir .. "/.env", "w"))
    file:write(env_file)
    file:close()
    local program = "arg = {[1] = [==[" .. argument .. "]==]}" .. PROGRAM
    local p <close> = process.start({ "lua5.4", "-e", program }, { cwd = dir, env = environment })
    local line = p:line(20)
    assert.equal(0, p:wait(10), p:stderr())
    process.run("rm -rf " .. dir)
    return line
  end

  local function env_file(name, rest) return ("DATABASE_URL='%s'\n%s"):format(postgres.url { application_name = name }, rest or "") end

  it("come from .env in the working directory", function()
    local text = "DB_POOL_SIZE=3\nexport DB_MAX_OVERFLOW = 4 # four\nDB_POOL_TIMEOUT=2.5\n"
    assert.equal("3\t4\t2.5\tof-dotenv", run("nil", env_file("of-dotenv", text)))
  end)

  it("of the environment come before those of .env", function()
    assert.equal("5\t4\t30.0\tof-environment", run("nil", env_file("of-dotenv", "DB_POOL_SIZE=3\nDB_MAX_OVERFLOW=4\n"),
      { DB_POOL_SIZE = "5", DATABASE_URL = postgres.url { application_name = "of-environment" } }))
  end)

  it("of the argument come before all", function()
    local text = "DB_POOL_SIZE=3\nDB_MAX_OVERFLOW=4\n"
    assert.equal("7\t4\t30.0\tof-dotenv", run("{ size = 7 }", env_file("of-dotenv", text), { DB_POOL_SIZE = "5" }))
    assert.equal("3\t20\t30.0\tof-argument", run(("%q"):format(postgres.url { application_name = "of-argument" }),
      env_file("of-dotenv", "DB_POOL_SIZE=3\n")))
  end)
end)
