-- What memory_test.c tries while memory is short. Called with the C functions and a scenario's name it returns that scenario: act(), tried
-- while memory is short, which returns a text; check(ok, result, short, for_good), which says what is wrong, if anything; `fresh` where
-- each trial needs a state of its own. Without a name it returns the names.
local t, wanted = ...

local scenarios, names = {}, {}

local function scenario(name, make)
  scenarios[name] = make
  names[#names + 1] = name
end

-- ---- what is fair ----

local function text_of(value)
  local ok, text = pcall(tostring, value)
  return ok and text or "(an error that cannot be told)"
end

--- Does it say that memory was short? luaL_checkstack has words of its own for it, and `require` for a file that could not be opened.
local function tells_of_memory(text)
  return text:lower():find "memory" ~= nil or text:find("stack overflow", 1, true) ~= nil
    or text:find "^[^\n]*module '[%w_.]+' not found" ~= nil
end

--- What a trial came to: its answer, or an error for want of memory.
local function judge(expected, ok, result, short)
  if ok and result == expected then return nil end
  if not short then return ("memory was there, and it came to: %s"):format(text_of(result)) end
  if ok then return ("it answered %s"):format(text_of(result)) end
  if not tells_of_memory(text_of(result)) then return ("the error does not say why: %s"):format(text_of(result)) end
end

-- ---- pools ----

local pool -- required by what needs it
local logged = 0
local function quiet() logged = logged + 1 end

local function use_pool()
  pool = require "pool"
  pool.log = quiet
end

local function file(name) return t.directory .. "/" .. name end

local function new(settings)
  settings.database_url = "sqlite:////" .. file "t.db"
  settings.backoff_min, settings.backoff_max = 0.001, 0.002
  return pool.new(settings)
end

--- With memory back: what is left of tasks ends, and the pool is at rest and works.
local function whole(db)
  collectgarbage()
  collectgarbage()
  pcall(pool.run, function() error("the end of whatever is left", 0) end)
  db:resume()
  local deadline = pool.now() + 2
  local s
  repeat
    pool.sleep(0)
    s = db:stats()
  until s.leased + s.waiting + s.resetting + s.closing + s.opening + s.checking == 0 or pool.now() > deadline
  if s.leased ~= 0 or s.waiting ~= 0 or s.opening ~= 0 or s.closing ~= 0 then
    return ("not at rest: %d leased, %d waiting, %d opening, %d closing"):format(s.leased, s.waiting, s.opening, s.closing)
  end
  if s.arrivals ~= s.grants + s.timeouts + s.rejected + s.cancelled + s.errors then return "the counters do not add up: " .. db:status() end
  if s.grants ~= s.releases then return "grants and releases differ: " .. s.grants .. ", " .. s.releases end
  local rows, err = db:query("select $1 as n", 7)
  if not rows or rows[1].n ~= 7 then return "a query fails afterwards: " .. text_of(err) end
end

local function pool_scenario(expected, db, act)
  return {
    act = act,
    check = function(ok, result, short) return judge(expected, ok, result, short) or whole(db) end,
  }
end

--- The same inside pool.run.
local function task_scenario(expected, db, act)
  return pool_scenario(expected, db, function() return pool.run(act) end)
end

-- ---- the module ----

scenario("require", function()
  return {
    fresh = true,
    act = function()
      local public = require "pool"
      require "pool.http"
      return public.version
    end,
    check = function(ok, result, short)
      local wrong = judge("0.1.0", ok, result, short)
      if wrong then return wrong end
      use_pool()
      local db <close> = pool.new "sqlite:///:memory:"
      return whole(db)
    end,
  }
end)

scenario("first use", function()
  use_pool()
  return {
    fresh = true,
    act = function()
      local db <close> = pool.new "sqlite:///:memory:"
      local value = assert(pool.json.decode '[1]')
      for row in db:rows "select 1 as n" do value[2] = row.n end
      return pool.json.encode(value) .. db:query("select 'a' as a")[1].a .. db:json "select 1 as n"
    end,
    check = function(ok, result, short)
      local wrong = judge('[1,1]a[{"n":1}]', ok, result, short)
      if wrong then return wrong end
      for _ = 1, 3 do pool.json.decode '[1, [2]]' end
      local db <close> = pool.new "sqlite:///:memory:"
      for row in db:rows "select 1 as n" do if row.n ~= 1 then return "rows are wrong" end end
      return whole(db)
    end,
  }
end)

scenario("virtual time", function()
  use_pool()
  local testing = require "pool.testing"
  local db = new { size = 1 }
  local function act()
    return testing.run({ settings = { size = 1 }, database = function() return { { n = 1 } } end }, function(tested)
      return tostring(assert(tested:query "select 1")[1].n)
    end)
  end
  return {
    fresh = true,
    act = act,
    check = function(ok, result, short)
      return judge("1", ok, result, short) or whole(db) or (act() ~= "1" and "no virtual time afterwards" or nil)
    end,
  }
end)

scenario("new", function()
  use_pool()
  return {
    act = function()
      local db <close> = pool.new { database_url = "sqlite:///:memory:", size = 3, timeout = 1, size_limit = 50 }
      local other <close> = pool.new "sqlite:///:memory:"
      return db.driver .. other:stats().size
    end,
    check = function(ok, result, short)
      local wrong = judge("sqlite1", ok, result, short)
      collectgarbage()
      local db <close> = pool.new "sqlite:///:memory:"
      return wrong or whole(db)
    end,
  }
end)

scenario("settings", function()
  use_pool()
  local config, dotenv = require "pool.config", require "pool.dotenv"
  local text = "# a comment\nexport DB_POOL_SIZE=7\nNAME='single'\nOTHER=\"a\\n${NAME}\"\nEMPTY=\nLAST=${MISSING:-default} # note\n"
  return {
    act = function()
      local values = assert(dotenv.parse(text, ".env", function() end))
      local read = assert(config.read { database_url = "postgresql://u:p@localhost:5432/d?sslmode=disable", size = 4, echo = true })
      local refused, why = pcall(pool.new, { database_url = "sqlite:///x.db", size = -1 })
      if not tostring(why):find "size" then error(why, 0) end
      return table.concat({ values.DB_POOL_SIZE.value, values.OTHER.value, values.LAST.value, read.size, tostring(refused) }, " ")
    end,
    check = function(ok, result, short) return judge("7 a\nsingle default 4 false", ok, result, short) end,
  }
end)

-- ---- statements ----

local TYPES = "select 1 as i, 2.5 as r, 'text' as t, x'00ff' as b, null as n, json('{\"a\":[1,null]}') as j"

local function statements(db)
  local rows = assert(db:query(TYPES))
  local args = assert(db:query("select $1 as a, $2 as b, $3 as c, $4 as d, $5 as e", 1, 2.5, true, pool.bytes "x", pool.array { 1, 2 }))
  local json = assert(db:json("select 1 as a, 'b' as c"))
  assert(db:exec "create table if not exists memory_task (id integer primary key); delete from memory_task")
  local none, err = db:query "selec"
  if err.sqlstate ~= "42601" then error(err, 0) end
  local twice = assert(db:query "select 1 as a, 2 as a")
  local row = rows[1]
  return table.concat({ row.i, row.r, row.t, #row.b, tostring(row.n), args[1].a, args[1].e, json, tostring(none), err.kind,
    err.sqlstate, #tostring(err) > 10 and 1 or 0, twice[1][1], twice[1].a, rows.command, rows.affected, #rows.columns }, "|")
end

local STATEMENTS = '1|2.5|text|2|nil|1|[1,2]|[{"a":1,"c":"b"}]|nil|query|42601|1|1|2|SELECT|1|6'

scenario("statements", function()
  use_pool()
  local db = new { size = 2, max_overflow = 0, statement_cache = 2 }
  return task_scenario(STATEMENTS, db, function() return statements(db) end)
end)

scenario("statements outside tasks", function()
  use_pool()
  local db = new { size = 2, max_overflow = 0 }
  return pool_scenario(STATEMENTS, db, function() return statements(db) end)
end)

--- Whose stack is small, and has to grow where the loop is turned.
scenario("statements in a coroutine", function()
  use_pool()
  local db = new { size = 2, max_overflow = 0 }
  local function query(...)
    local c <close> = assert(db:acquire())
    return assert(c:query "select 1 as n")[1].n, ...
  end
  return pool_scenario("20", db, function()
    local sum = 0
    for n = 1, 20 do sum = sum + coroutine.wrap(query)(table.unpack({}, 1, n)) end
    return tostring(sum)
  end)
end)

scenario("json", function()
  use_pool()
  return {
    act = function()
      local value = assert(pool.json.decode '{"a":[1,2.5,true,null,{"b":"\\u00e4"}],"c":{}}')
      local bad, err = pool.json.decode "{"
      if tells_of_memory(err.message) then error(err, 0) end
      return pool.json.encode(value) .. tostring(bad) .. err.kind .. pool.identifier 'a"b' ..
        pool.json.encode { z = 1, a = { 1, 2 }, n = pool.null, e = pool.array {} }
    end,
    check = function(ok, result, short)
      return judge('{"a":[1,2.5,true,null,{"b":"ä"}],"c":{}}niljson"a""b"{"a":[1,2],"e":[],"n":null,"z":1}', ok, result, short)
    end,
  }
end)

local SERIES = "with recursive s(i) as (select 1 union all select i + 1 from s where i < 300) select i, 'row' as t from s"

local function cursors(db)
  local sum = 0
  for row in db:rows(SERIES) do sum = sum + row.i end
  for row in db:rows(SERIES) do
    if row.i == 3 then break end
  end
  local c <close> = assert(db:acquire())
  for row in c:rows(SERIES) do sum = sum + row.i end
  local ok, err = pcall(function() c:rows "selec"() end)
  if err.kind ~= "query" then error(err, 0) end
  return sum .. " " .. tostring(ok) .. err.kind
end

scenario("rows", function()
  use_pool()
  local db = new { size = 2, max_overflow = 0 }
  return task_scenario("90300 falsequery", db, function() return cursors(db) end)
end)

scenario("rows outside tasks", function()
  use_pool()
  local db = new { size = 2, max_overflow = 0 }
  return pool_scenario("90300 falsequery", db, function() return cursors(db) end)
end)

-- ---- connections ----

local function leases(db)
  local c = assert(db:acquire())
  local said = tostring(c):match "^pool.Connection %d+$" and 1 or 0
  assert(c:query "select 1")
  local d <close> = assert(db:acquire { timeout = 20, key = "a", priority = 9 })
  assert(d:begin())
  said = said .. tostring(d.in_transaction) .. math.type(d.id) .. (d.age >= 0 and 1 or 0) .. d.uses % 1
  local list = db:leases()
  c:release()
  c:release()
  local misuse, why = pcall(c.query, c, "select 1")
  if not why:find "released" then error(why, 0) end
  d:detach():cancel()
  return said .. #list .. tostring(misuse)
end

scenario("leases", function()
  use_pool()
  local db = new { size = 2, max_overflow = 0 }
  return task_scenario("1trueinteger102false", db, function() return leases(db) end)
end)

scenario("leases outside tasks", function()
  use_pool()
  local db = new { size = 2, max_overflow = 0 }
  return pool_scenario("1trueinteger102false", db, function() return leases(db) end)
end)

scenario("transactions", function()
  use_pool()
  local db = new { size = 2, max_overflow = 0 }
  assert(db:exec "create table if not exists memory_tx (n int)")
  local function act()
    assert(db:exec "delete from memory_tx")
    local made = assert(db:transaction(function(tx)
      assert(tx:query("insert into memory_tx values ($1)", 1))
      local undone, why = db:transaction(function(inner)
        assert(inner:query "insert into memory_tx values (2)")
        return nil, "undo"
      end)
      return why .. tostring(undone)
    end))
    local raised, err = pcall(db.transaction, db, function() error({ "x" }, 0) end)
    if raised or type(err) == "string" then error(err, 0) end
    local s <close> = db:session()
    assert(s:query "insert into memory_tx values (3)")
    assert(s:commit())
    assert(s:query "insert into memory_tx values (4)")
    assert(s:rollback())
    local rows = assert(db:query "select count(*) as n from memory_tx")
    return made .. tostring(raised) .. type(err) .. rows[1].n
  end
  local is = task_scenario("undonilfalsetable2", db, act)
  local check = is.check
  function is.check(...)
    local wrong = check(...)
    if wrong then return wrong end
    -- nobody is taken to be inside a transaction that is over
    return pool.run(function()
      local inside = assert(db:transaction(function(tx) return tx.in_transaction end))
      return inside ~= true and "a transaction is not one" or nil
    end)
  end
  return is
end)

-- ---- tasks and events ----

scenario("tasks", function()
  use_pool()
  local db = new { size = 1, max_overflow = 0 }
  return task_scenario("1 2 deadline cancelled timeout nil", db, function()
    local both = assert(pool.all { function() return 1 end, function() return db:query("select 2 as n")[1].n end })
    local late = select(2, pool.deadline(0.001, pool.sleep, 100))
    local sleeper = pool.spawn(pool.sleep, 100)
    sleeper:cancel()
    local _, cancelled = sleeper:join()
    local _ <close> = assert(db:acquire())
    local none, refused = db:acquire { timeout = 0.001 }
    if none or refused.kind ~= "timeout" then error(refused, 0) end
    return table.concat({ both[1], both[2], late.kind, cancelled.kind, refused.kind, tostring(none) }, " ")
  end)
end)

scenario("events", function()
  use_pool()
  local db = new { size = 1, max_overflow = 0 }
  local heard
  db:on("connect", function(c) assert(c:query "select 1") heard = heard + 1 end)
  db:on("acquire", function() heard = heard + 10 end)
  db:on("release", function() heard = heard + 100 end)
  db:on("timeout", function() heard = heard + 1000 end)
  db:on("settings", function() heard = heard + 10000 end)
  local is = task_scenario("11221", db, function()
    heard = 0
    db:invalidate()
    assert(db:query "select 1")
    local c <close> = assert(db:acquire())
    local none, err = db:acquire { timeout = 0.001 }
    if none or err.kind ~= "timeout" then error(err, 0) end
    assert(db:configure { max_waiting = 10000 })
    c:release()
    return tostring(heard)
  end)
  local check = is.check
  -- an event's function that memory was too short for has failed as any that raises: a line in the log
  function is.check(ok, result, short) return check(ok, ok and short and "11221" or result, short) end
  return is
end)

--- What a task held is told in one go: what memory is too short to tell is lost, and not what comes after it.
scenario("tellings", function()
  use_pool()
  local db = new { size = 6, max_overflow = 0 }
  local taken, heard = 0, 0
  db:on("release", function() heard = heard + 1 end)
  local is = task_scenario("true", db, function()
    return tostring(assert(pool.spawn(function()
      for _ = 1, 6 do
        assert(db:acquire())
        taken = taken + 1
      end
      return true
    end):join()))
  end)
  local check = is.check
  function is.check(ok, result, short, for_good)
    local wrong, lost = check(ok, result, short), taken - heard
    taken, heard = 0, 0
    return wrong or (lost > (short and (for_good and 6 or 1) or 0) and lost .. " releases were not told") or nil
  end
  return is
end)

scenario("a set-up", function()
  use_pool()
  local db = new { size = 2, max_overflow = 0, timeout = 20, connect_timeout = 20 }
  local ready = 0
  db:on("connect", function(c)
    assert(c:query "select 1")
    ready = ready + 1
  end)
  local is = task_scenario("2", db, function()
    ready = 0
    db:invalidate()
    local _ <close> = assert(db:acquire())
    local _ <close> = assert(db:acquire())
    return tostring(ready)
  end)
  local check = is.check
  function is.check(ok, result, short)
    -- a set-up that memory was too short for fails its open, and somebody else's is waited for
    if short and not ok and type(result) == "table" and (result.kind == "timeout" or result.kind == "connect") then result = "memory" end
    return check(ok, ok and short and "2" or result, short)
  end
  return is
end)

-- ---- figures, changes, the end ----

scenario("figures", function()
  use_pool()
  local db = new { size = 3, max_overflow = 0 }
  return task_scenario("3 Pool size: 4 true settings 4", db, function()
    local _ <close> = assert(db:acquire())
    local s, list, advice = db:stats(), db:leases(), db:advise()
    local changed = assert(db:configure { size = 4 })
    local refused, err = db:configure { size = -1 }
    local status = db:status():match "^Pool size: %d+"
    assert(db:configure { size = 3 })
    local all = #list == 1 and type(advice) == "table" and refused == nil
    return ("%d %s %s %s %d"):format(s.size, status, tostring(all), err.kind, changed.size)
  end)
end)

scenario("close", function()
  use_pool()
  local other = new { size = 2 }
  return {
    act = function()
      return pool.run(function()
        local db = new { size = 1, max_overflow = 0 }
        assert(db:query "select 1")
        local holder = pool.spawn(function()
          local _ <close> = assert(db:acquire())
          pool.sleep(100)
        end)
        pool.sleep(0)
        local waiter = pool.spawn(function() return db:query "select 1" end)
        pool.sleep(0)
        local closed = db:close(0)
        holder:cancel()
        local _, err = waiter:join()
        local _, again = db:query "select 1"
        if err.kind ~= "closed" then error(err, 0) end
        if again.kind ~= "closed" then error(again, 0) end
        return tostring(closed) .. err.kind .. again.kind
      end)
    end,
    check = function(ok, result, short)
      collectgarbage()
      return judge("trueclosedclosed", ok, result, short) or whole(other)
    end,
  }
end)

scenario("tune", function()
  use_pool()
  local testing = require "pool.testing"
  local policy = file "tune.lua"
  local out = assert(io.open(policy, "w"))
  out:write 'return { name = "grow", tick = function(s, state) return { size = s.settings.size + 1 } end }'
  out:close()
  return {
    act = function()
      return testing.run({ settings = { size = 2, max_overflow = 0 }, database = function() return { { n = 1 } } end }, function(db)
        local rows = assert(db:query "select 1")
        local tuner = assert(db:tune(policy))
        pool.sleep(2.5)
        local text = #tuner:versions() .. rows[1].n .. db:stats().size
        tuner:close()
        return text
      end)
    end,
    check = function(ok, result, short)
      collectgarbage()
      collectgarbage()
      -- a tick that memory is too short for is a failure of the policy, and tuning goes on without
      if ok and short and result:match "^11%d$" then result = "114" end
      local wrong = judge("114", ok, result, short)
      if wrong then return wrong end
      return testing.run({ settings = { size = 2 } }, function(db) return not db:query "select 1" and "a query fails afterwards" or nil end)
    end,
  }
end)

scenario("a recording", function()
  use_pool()
  local db = new { size = 2, max_overflow = 0 }
  local path = file "traffic.rec"
  return task_scenario("1", db, function()
    local recording <close> = assert(db:record(path))
    assert(db:query "select 1")
    recording:close()
    local is = assert(require("pool.recording").read(path))
    return tostring(#is.requests.at)
  end)
end)

scenario("a simulation", function()
  use_pool()
  local sim = require "pool.sim"
  return {
    act = function()
      local result = sim.run { settings = { size = 2, max_overflow = 0 }, duration = 2, seed = 1,
        workload = { arrival = { kind = "poisson", rate = 20 }, service = { kind = "exponential", mean = 0.05 } },
        database = { connect = 0.005 } }
      return tostring(result.served > 10)
    end,
    check = function(ok, result, short) return judge("true", ok, result, short) end,
  }
end)

-- ---- HTTP ----

local REQUESTS = "GET /rows HTTP/1.1\r\nHost: a\r\n\r\n" ..
  "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n" ..
  '{"a":"b"}GET /missing HTTP/1.1\r\nHost: a\r\n\r\nGET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'

local function app_of()
  local http = require "pool.http"
  local app = http.app()
  app:use(function(req, next) return next(req) end)
  app:get("/rows", function(req) return req.db:query "select 1 as n" end)
  app:post("/echo", function(req)
    local s <close> = req:session()
    assert(s:query "select 1")
    return 201, req:json()
  end)
  app:get("/stream", function() return http.stream(function(write) write "one" write "two" end) end)
  return app
end

--- The statuses of the answers there are.
local function statuses(text)
  local list = {}
  for status in text:gmatch "HTTP/1.1 (%d%d%d) " do list[#list + 1] = status end
  return table.concat(list, " ")
end

scenario("http", function()
  use_pool()
  local core = require "pool.core"
  local db = new { size = 2, max_overflow = 0 }
  local server
  assert(db:query "select 1")
  local function converse()
    local fd = t.dial(server.port)
    t.say(fd, REQUESTS)
    local until_then = pool.now() + 5
    while not t.hear(fd) and pool.now() < until_then do pool.sleep(0.0005) end
    return fd
  end
  local fd
  local is = {
    act = function()
      fd = converse()
      return "done"
    end,
  }
  server = assert(core.http_listen { port = 0, handler = app_of():handler(db) })
  function is.check(ok, result, short)
    local wrong = judge("done", ok, result, short)
    local text = statuses(t.heard())
    if fd then t.hang_up(fd) end
    fd = nil
    -- right answers, then perhaps failures, then the end; all of them where nothing failed
    if not short and text ~= "200 201 404 200" then wrong = wrong or "without a failure: " .. text end
    for status in text:gmatch "%d+" do
      if not ("200 201 404 500 503"):find(status, 1, true) then wrong = wrong or "an answer of " .. status end
    end
    wrong = wrong or whole(db)
    if wrong then return wrong end
    local again = converse()
    text = statuses(t.heard())
    t.hang_up(again)
    return text ~= "200 201 404 200" and "afterwards: " .. text or nil
  end
  return is
end)

if wanted == "" then return names end
return scenarios[wanted]()
