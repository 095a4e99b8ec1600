-- More asked than can be given: deadline-aware lines beside plain ones, a pool resized under load, a spike, a database that is down.

local cells = require "bench.overload_cells"
local http = require "support.http"
local pool = require "pool"
local pools = require "support.pools"
local postgres = require "support.postgres"
local process = require "support.process"

local COMMAND = os.getenv "POOL_SPEC_COMMAND"

-- Files for `pool serve`, gone when the block is left.
local function application(text)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write('local http, pool = require "pool.http", require "pool"\nlocal app = http.app()\n', text, "\nreturn app\n")
  file:close()
  return setmetatable({ path = path }, { __close = function() os.remove(path) end })
end

local function serve(app, url, ...)
  local p = process.start { COMMAND, "serve", app.path, "--listen", "127.0.0.1:0", "--database-url", url, ... }
  p.url = p:wait_line "^pool: listening on (http://127%.0%.0%.1:%d+)$"
  return p
end

local function spread(values)
  table.sort(values)
  local sum = 0
  for _, value in ipairs(values) do sum = sum + value end
  return ("mean %.1f ms, p50 %.1f, p95 %.1f, most %.1f"):format(1000 * sum / #values, 1000 * values[(#values + 1) // 2],
    1000 * values[math.ceil(0.95 * #values)], 1000 * values[#values])
end

local function better(side, i) return side[i].good >= 20 and side[i].good >= 2 * side[1].good end

describe("at three times the capacity", function()
  it("a line that minds the callers' deadline serves more of them in time than fifo with 30 s, real and simulated", function()
    local p = { size = 6, mean = 0.03, deadline = 0.3, seconds = 0.7, seed = 7 }
    local ways, real, simulated = cells.ways(p), {}, {}
    pool.run(function()
      for i = 1, 3 do simulated[i] = cells.simulated(p, ways[i], "gone", 3) end
      for _ = 1, 3 do -- twice more at most: a machine that pauses while one of them runs says nothing of the line
        for i = 1, 3 do real[i] = cells.real(p, ways[i], "gone", 3, postgres.url {}) end
        if better(real, 2) and better(real, 3) then break end
      end
    end)
    for i = 1, 3 do
      print(("\n  %s: %d real and %d simulated in time, of %d and %d"):format(ways[i].name, real[i].good, simulated[i].good,
        real[i].offered, simulated[i].offered))
    end
    for i = 2, 3 do assert.is_true(better(real, i) and better(simulated, i)) end
  end)
end)

describe("spec/bench/run overload", function()
  it("prints a table for each kind of caller, real beside simulated, and refuses what it does not know", function()
    local env = { BENCH_URL = postgres.url {} }
    local p <close> = process.start({ "lua5.4", "spec/bench/overload.lua", "--quick", "--seconds", "0.05" }, { env = env })
    assert.equal(0, p:wait(60), p:stderr())
    local rows = 0
    for load, cell in p:stdout():gmatch "\n| ([%d.]+) |[^\n]*| ([^|]*) |%f[\n]" do
      rows = rows + 1
      assert.is_true(load == "0.8" or load == "3")
      assert.matches("^%d+ / %d+ %%, [%d.–]+ / [%d.–]+ s$", cell)
    end
    assert.equal(4, rows, p:stdout())
    local wrong <close> = process.start({ "lua5.4", "spec/bench/overload.lua", "--quik" }, { env = env })
    assert.equal(2, wrong:wait(20))
  end)
end)

-- ---- resizing ----

local WORKERS = 60

-- Looks at the pool at every turn of the loop and at the server as often as it answers, until over(): each look must be within the bound
-- that held before and after it, or seen.wrong says how it was not.
local function watch(db, name, bound, over, seen)
  local outside = pools.open { size = 1, max_overflow = 0 }
  assert(outside:query "select 1")
  local function within(where, before, n)
    local now = bound()
    if now ~= before then return end
    seen[where] = seen[where] + 1
    seen.most = math.max(seen.most, n)
    if n > now then seen.wrong = ("%d connections in the %s, at most %d can be"):format(n, where, now) end
  end
  local looking = pool.spawn(function()
    while not over() do
      within("pool", bound(), db:stats().total)
      pool.sleep(0)
      pool.sleep(0.0005)
    end
    return true
  end)
  while not over() do
    local before = bound()
    local n = assert(outside:query("select count(*) as n from pg_stat_activity where application_name = $1", name))[1].n
    within("server", before, n)
  end
  return looking:join(10)
end

-- Counts up a row of its own, a transaction each time, until over().
local function count_up(db, id, over)
  local kept = 0
  while not over() do
    assert(db:transaction(function(tx)
      local n = assert(tx:query("update resized set n = n + 1 where id = $1 returning n", id))[1].n
      assert(n == kept + 1, "a transaction was cut or kept twice")
      assert(tx:query("select pg_sleep(0.004)"))
      return true
    end))
    kept = kept + 1
  end
  return kept
end

describe("a pool that is resized under load", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("from 20 to 4 to 40: loses no waiter, never has too many connections, cuts no transaction", function()
    postgres.sql("drop table if exists resized; create table resized (id int primary key, n int not null); "
      .. "insert into resized select i, 0 from generate_series(1, " .. WORKERS .. ") i")
    local db, name = pools.open { size = 20, max_overflow = 0, timeout = 60, shrink_after = 0 }
    local seen, sum, most = { pool = 0, server = 0, most = 0 }, 0, {}
    pool.run(function()
      local over, bound, tasks = false, 20, {}
      local function ended() return over end
      for i = 1, WORKERS do tasks[i] = pool.spawn(count_up, db, i, ended) end
      local watching = pool.spawn(watch, db, name, function() return bound end, ended, seen)
      local function reach(n, size)
        assert(size == nil or db:configure { size = size })
        pools.wait(function() return seen.wrong or db:stats().total == n end, 20, n .. " connections")
        bound = n -- 40 from the start of growing would be too lenient, 4 from the start of shrinking too strict
        local releases = db:stats().releases
        pools.wait(function() return seen.wrong or db:stats().releases >= releases + 200 end, 20, "some work with " .. n)
        assert.is_nil(seen.wrong)
        most[#most + 1] = db:stats().total
      end
      reach(20)
      reach(4, 4)
      bound = 40
      reach(40, 40)
      over = true
      for i = 1, WORKERS do sum = sum + assert(tasks[i]:join(20)) end
      assert(watching:join(10))
    end)
    local s = pools.assert_at_rest(db)
    assert.same({ 20, 4, 40 }, most)
    assert.equal(tostring(sum), postgres.sql "select sum(n) from resized")
    assert.same({ 0, 0, 0, 0 }, { s.timeouts, s.rejected, s.cancelled, s.errors })
    assert.same({ 0, 0 }, { s.lost, s.query_errors })
    assert.equal(40, seen.most)
    assert.is_true(seen.pool > 50 and seen.server > 10, ("%d looks at the pool, %d at the server"):format(seen.pool, seen.server))
    print(("\n  %d transactions, each kept once; %d looks at the pool and %d at the server within the bound"):format(sum, seen.pool,
      seen.server))
    postgres.sql "drop table resized"
  end)
end)

-- ---- the spike ----

local OPEN = 0.15 -- seconds that an open takes: what a pool would cost that opens one for each who waits

-- Five idle connections; their processes at the server.
local function five_idle(db)
  local held, pids = {}, {}
  for i = 1, 5 do held[i] = assert(db:acquire()) end
  for i = 1, 5 do
    pids[held[i].pid] = true
    held[i]:release()
  end
  assert.same({ 5, 5 }, { db:stats().idle, db:stats().opens })
  return pids
end

-- What must be true of the spike in both forms: most are served by the five, before one that is opened could have been there, and what is
-- opened for them is a few at a time: 4 of the 45 that there is room for, and the demand is gone before many more can begin.
local function assert_no_stampede(waits, by_the_five, opened)
  assert.equal(50, #waits)
  print(("\n  waits: %s; %d served by the five, %d opened (9.0 ms in the mean and 18 at most with the five alone)"):format(spread(waits),
    by_the_five, opened))
  assert.is_true(by_the_five >= 30, by_the_five .. " served by the five")
  assert.is_true(waits[25] < OPEN, ("half of them waited for %.3f s"):format(waits[25])) -- spread() has sorted them
  assert.is_true(opened <= 12, opened .. " opened")
end

describe("HikariCP's spike: 50 at once, 5 idle, an open that takes the server 150 ms, a query of 2 ms, 50 at most", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("upon tasks: all are served within the limit, by the five that are there before those that open", function()
    local db, name = pools.open { size = 50, max_overflow = 0, shrink_after = 0 } -- max_opening as it is: 4
    db:on("connect", function(c) assert(c:query "select pg_sleep(0.15)") end)
    local waits, by_the_five, opened, at_server = {}, 0, nil, nil
    pool.run(function()
      local five, tasks = five_idle(db), {}
      for i = 1, 50 do
        tasks[i] = pool.spawn(function()
          local start = pool.now()
          local c <close> = assert(db:acquire())
          waits[#waits + 1] = pool.now() - start
          if five[c.pid] then by_the_five = by_the_five + 1 end
          assert(c:query "select pg_sleep(0.002)")
          return i
        end)
      end
      for i = 1, 50 do assert(tasks[i]:join(20) == i) end
      pools.wait(function() return db:stats().opening == 0 end)
      opened, at_server = db:stats().opens - 5, postgres.count(name)
    end)
    assert_no_stampede(waits, by_the_five, opened)
    assert.equal(5 + opened, at_server)
  end)

  if not COMMAND then return pending "pool serve needs a build: run it through spec/run" end

  it("upon pool serve: the same", function()
    local app <close> = application [[
      local five = {}
      app:on("start", function(db)
        db:on("connect", function(c) assert(c:query "select pg_sleep(0.15)") end)
        local held = {}
        for i = 1, 5 do held[i] = assert(db:acquire()) end
        for i = 1, 5 do
          five[held[i].pid] = true
          held[i]:release()
        end
      end)
      app:get("/opens", function(req)
        while req.db:stats().opening > 0 do pool.sleep(0.01) end
        return tostring(req.db:stats().opens)
      end)
      app:get("/ask/:n", function(req)
        local start = pool.now()
        local c <close> = assert(req.db:acquire())
        local waited, whose = pool.now() - start, five[c.pid] and "five" or "new"
        return assert(c:query("select $1::int as n, pg_sleep(0.002)", req.params.n))[1].n .. " " .. waited .. " " .. whose
      end)]]
    local p <close> = serve(app, postgres.url { application_name = "spike" }, "--size", "50", "--max-overflow", "0",
      "--shrink-after", "0")
    assert.equal("5", http.ask(p.url .. "/opens").body)
    local answers, complaints = http.together(p.url .. "/ask/%d", 50)
    local opened, waits, by_the_five = tonumber(http.ask(p.url .. "/opens").body) - 5, {}, 0
    for i = 1, 50 do
      local n, waited, whose = (answers[i] or ""):match "^200 (%d+) (%S+) (%l+)$"
      assert.equal(tostring(i), n, complaints)
      waits[i] = tonumber(waited)
      if whose == "five" then by_the_five = by_the_five + 1 end
    end
    assert_no_stampede(waits, by_the_five, opened)
    assert.equal(5 + opened, postgres.count "spike")
    p:signal "TERM"
    assert.equal(0, p:wait(20))
    postgres.wait_gone "spike"
  end)
end)

-- ---- a database that is down ----

-- Seconds past a deadline that a busy machine may take to say so. The deadlines lie between STEP and 40 times that: a call that came back
-- with the latest of the others would be late by half as much again.
local LATE, STEP = 1, 0.04

-- One call for each deadline, all at once, in two ways: acquire's own timeout, and pool.deadline around it all. How late the latest was.
local function ask_all(db, deadlines)
  local tasks, late = {}, 0
  for i, seconds in ipairs(deadlines) do
    tasks[i] = pool.spawn(function()
      local start = pool.now()
      local got, err
      if i % 2 == 0 then
        got, err = db:acquire { timeout = seconds }
      else
        got, err = pool.deadline(seconds, function() return db:query "select 1" end)
      end
      late = math.max(late, pool.now() - start - seconds)
      local early = start + seconds - pool.now()
      if got or early > 0.05 then error(("%g s: %s %s, %g s early"):format(seconds, got, err, early)) end
      local wanted = i % 2 == 0 and { connect = true, timeout = true } or { deadline = true }
      if not wanted[err.kind] then error(("%g s: %s"):format(seconds, err)) end
      return true
    end)
  end
  for _, task in ipairs(tasks) do assert(task:join(20)) end
  return late
end

describe("while the database is down for all of it", function()
  before_each(pools.begin)
  after_each(pools.finish)

  local function deadlines()
    local list = {}
    for i = 1, 40 do list[i] = STEP * (1 + i * 7 % 40) end -- each another one, not in order
    return list
  end

  it("a call that comes back with the latest of them all would be seen", function()
    local latest = {}
    function latest.acquire()
      pool.sleep(40 * STEP)
      return nil, { kind = "timeout" }
    end
    function latest.query() return pool.sleep(40 * STEP) end -- pool.deadline itself is in time
    pool.run(function() assert.is_true(ask_all(latest, deadlines()) >= LATE) end)
  end)

  it("every call comes back within its own deadline, whatever the others have: refused, silent, deaf", function()
    local silent, hole <close> = pools.black_hole "silent"
    local full, deaf <close> = pools.black_hole "full"
    local latest = {}
    pool.run(function()
      local tasks = {}
      for i, port in ipairs { 9, silent, full } do
        local db = pools.open({ size = 3, max_overflow = 2, timeout = 30, connect_timeout = 5 }, { tcp = true, port = port })
        tasks[i] = pool.spawn(function() return ask_all(db, deadlines()) end)
      end
      for i, task in ipairs(tasks) do latest[i] = assert(task:join(20)) end
    end)
    assert(hole and deaf)
    print(("\n  late at most: %.0f ms where it is refused, %.0f ms by silence, %.0f ms by a full backlog"):format(1000 * latest[1],
      1000 * latest[2], 1000 * latest[3]))
    for _, late in ipairs(latest) do assert.is_true(late < LATE) end
  end)

  it("one that goes down costs nobody more than his own deadline, and those with time left are served when it is back", function()
    local db = pools.open { size = 4, max_overflow = 0, timeout = 30 }
    assert(db:query "select 1")
    postgres.stop()
    local _ <close> = setmetatable({}, { __close = function() pcall(postgres.start) end })
    pool.run(function()
      local patient = {}
      for i = 1, 10 do patient[i] = pool.spawn(function() return assert(db:query("select $1::int as n", i))[1].n end) end
      assert.is_true(ask_all(db, deadlines()) < LATE)
      assert.equal(10, db:stats().waiting)
      postgres.start()
      for i = 1, 10 do assert.equal(i, assert(patient[i]:join(20))) end
    end)
    pools.assert_at_rest(db)
  end)

  if not COMMAND then return pending "pool serve needs a build: run it through spec/run" end

  it("pool serve answers every request within that request's deadline", function()
    local app <close> = application [[
      app:get("/ask/:n", function(req)
        local seconds, start = req.params.n * 0.04, pool.now()
        local rows, err = pool.deadline(seconds, function() return req.db:query "select 1" end)
        return ("%s %.3f"):format(rows and "rows" or err.kind, pool.now() - start - seconds)
      end)
      app:get("/plain", function(req) return pool.deadline(0.3, function() return req.db:query "select 1" end) end)]]
    local silent, hole <close> = pools.black_hole "silent"
    for _, port in ipairs { 9, silent } do
      local p <close> = serve(app, postgres.url { tcp = true, port = port }, "--size", "3", "--timeout", "30", "--connect-timeout", "1")
      local answers, complaints = http.together(p.url .. "/ask/%d", 40)
      for i = 1, 40 do
        local late = tonumber((answers[i] or ""):match "^200 deadline (%S+)$")
        assert(late, answers[i] or complaints)
        assert.is_true(late > -0.05 and late < LATE)
      end
      local plain = http.ask(p.url .. "/plain")
      assert.equal(504, plain.status)
      p:signal "TERM"
      assert.equal(0, p:wait(20))
    end
    assert(hole)
  end)
end)
