--- Many tasks do everything at once to pools, at random from a seed: queries, leases, transactions, sessions, rows, cancels, deadlines,
--- live changes, events, garbage, closes. Every answer must be its query's, every counter accounted for, nothing left behind.
---
---   lua5.4 spec/sim/torture.lua [seconds = 10] [seed]      POOL_SPEC_PG_* set: PostgreSQL; else SQLite
---
--- Prints its seed first; exits non-zero when anything was wrong. A seed repeats the choices, not the server's timing.
local pool = require "pool"

local seconds = tonumber(arg and arg[1]) or 10
local seed = math.tointeger(tonumber(arg and arg[2])) or os.time()
local postgres = os.getenv "POOL_SPEC_PG_DIR" and true or false
print(("torture: seed %d, %g s, %s"):format(seed, seconds, postgres and "PostgreSQL" or "SQLite"))
math.randomseed(seed)

local random = math.random
local wrong, counts = {}, {}
local path = os.tmpname()
pool.log = function() end

local function count(what) counts[what] = (counts[what] or 0) + 1 end
local function fail(...) wrong[#wrong + 1] = string.format(...) end
local function chance(percent) return random(100) <= percent end

local function url()
  if not postgres then return "sqlite:///" .. path end
  return ("postgresql://%s@/%s?host=%s&port=%s"):format(os.getenv "POOL_SPEC_PG_USER", os.getenv "POOL_SPEC_PG_DATABASE",
    (os.getenv "POOL_SPEC_PG_DIR"):gsub("/", "%%2F"), os.getenv "POOL_SPEC_PG_PORT")
end

--- Errors that the tasks bring upon each other; anything else is a wrong answer.
local EXPECTED = { timeout = true, overloaded = true, closed = true, deadline = true, cancelled = true }

local function expected(what, err)
  count "refusals"
  if not (type(err) == "table" and EXPECTED[err.kind]) then fail("%s: unexpected error %s", what, tostring(err)) end
end

local serial = 0
--- One query with an answer of its own.
local function ask(what, on)
  serial = serial + 1
  local number, text = serial, ("t"):rep(random(0, 40)) .. serial
  local rows, err = on:query("select cast($1 as integer) as n, cast($2 as text) as t, cast($3 as text) as empty", number, text, nil)
  if not rows then return expected(what, err) end
  count "answers"
  local row = rows[1]
  if #rows ~= 1 or row.n ~= number or row.t ~= text or row.empty ~= nil then
    fail("%s: asked %d, got %s", what, number, tostring(row and row.n))
  end
  return true
end

local function read_rows(what, on)
  local wanted, n = random(1, 900), 0
  local stop = chance(30) and random(wanted) or nil
  local fine, err = pcall(function()
    for row in on:rows("with recursive s(n) as (select 1 union all select n + 1 from s where n < $1) select n from s", wanted) do
      n = n + 1
      if row.n ~= n then fail("%s: row %d says %s", what, n, tostring(row.n)) end
      if n == stop then break end
      if chance(1) then collectgarbage() elseif chance(1) then pool.sleep(0) end
    end
  end)
  if not fine then return expected(what, err) end
  count "streams"
  if n ~= (stop or wanted) then fail("%s: %d rows of %d", what, n, stop or wanted) end
end

--- Runs fn when the block is left, by a cancel too.
local function finally(fn) return setmetatable({}, { __close = fn }) end

local actions = {}
local kept = setmetatable({}, { __mode = "v" })

function actions.query(db) ask("query", db) end
function actions.json(db)
  local text, err = db:json("select 1 as one")
  if text and text ~= '[{"one":1}]' then fail("json: %s", text) elseif not text then expected("json", err) end
end
function actions.acquire(db)
  local c <close>, err = db:acquire { timeout = random() * 0.2 }
  if not c then return expected("acquire", err) end
  for _ = 1, random(3) do ask("lease", c) end
  if chance(30) then
    if chance(50) then pcall(c.rows, c, 7) end -- cursors that nobody closes: the collector's, amid the next one's rows
    if chance(50) then pcall(function() c:rows("select 1 union all select 2")() end) end
    read_rows("lease's rows", c)
  end
  if chance(10) then c:invalidate() end
end
function actions.leak(db)
  do
    local c, err = db:acquire { timeout = 0.05 }
    if not c then return expected("leak", err) end
    if chance(50) then c:detach() end
    if chance(50) then kept[random(20)] = c end
  end
  for _ = 1, random(0, 20) do actions.look(db) end -- may collect it in the middle
end
function actions.rows(db) read_rows("rows", db) end
function actions.transaction(db)
  local result, err = db:transaction(function(tx)
    ask("transaction", tx)
    if chance(30) then tx:transaction(function(inner) ask("savepoint", inner) end) end
    if chance(20) then return nil, pool.deadline(0, pool.sleep, 1) and nil or { kind = "cancelled" } end
    return 5
  end, { read_only = not postgres or chance(50) })
  if result ~= 5 then expected("transaction", err) end
end
function actions.session(db)
  local s <close> = db:session()
  for _ = 1, random(3) do ask("session", s) end
  if chance(50) then
    local ok, err = s:commit()
    if not ok then expected("commit", err) end
  end
end
function actions.deadline(db) pool.deadline(random() * 0.01, function() for _ = 1, 3 do ask("deadline", db) end end) end
function actions.cancel(db)
  local t = pool.spawn(function() while true do actions[chance(50) and "rows" or "acquire"](db) pool.sleep(0) end end)
  local _ <close> = finally(function() t:cancel() end)
  pool.sleep(random() * 0.01)
  t:cancel()
  local _, err = t:join()
  if not err or err.kind ~= "cancelled" then fail("cancel: %s", tostring(err)) end
end
function actions.all(db)
  local function one() return ask("all", db) end
  local t = pool.spawn(pool.all, { one, one, function() if chance(30) then error { kind = "cancelled" } end return one() end })
  if chance(30) then t:cancel() end
  local results, err = t:join()
  if not results and err then expected("all", err) end
end
function actions.statement_cancel(db)
  local c <close>, err = db:acquire { timeout = 0.05 }
  if not c then return expected("cancel's lease", err) end
  local t = pool.spawn(function() ask("cancelled statement", c) end)
  pool.sleep(0)
  if chance(50) then c:cancel() end
  if chance(20) then c:release() end
  t:join()
end
function actions.cancel_woken()
  local t = pool.spawn(pool.all, { function() pool.sleep(random() * 0.002) error {} end, function() pool.sleep(random() * 0.05) end })
  while t.status == "waiting" do pool.sleep(0) end
  t:cancel()
  t:join()
  if chance(20) then collectgarbage() end
end
function actions.configure(db)
  db:configure { size = random(1, 5), max_overflow = random(0, 3), timeout = random() * 0.5, max_waiting = random(5, 100),
    leak_after = chance(50) and 0.01 or 0 }
end
function actions.invalidate(db) db:invalidate() end
function actions.pause(db)
  local _ <close> = finally(function() db:resume() end)
  db:pause()
  pool.sleep(random() * 0.005)
end
function actions.look(db)
  for _, lease in ipairs(db:leases()) do if not (lease.id > 0 and lease.held >= 0) then fail "a lease without an id" end end
  if #db:status() == 0 then fail "no status" end
end
local EVENTS = { "connect", "acquire", "release", "close", "timeout", "settings" }
function actions.events(db)
  local event = EVENTS[random(#EVENTS)]
  local off = db:on(event, function(c)
    if event == "connect" then ask("set-up", c) elseif chance(5) then error "an event's own mistake" end
  end)
  local _ <close> = finally(off)
  pool.sleep(random() * 0.01)
end
function actions.garbage()
  if chance(50) then collectgarbage() else collectgarbage("step", random(100)) end
end

local names = {}
for name in pairs(actions) do names[#names + 1] = name end
table.sort(names)

local function balance(db, what)
  local s = db:stats()
  if s.arrivals ~= s.grants + s.timeouts + s.rejected + s.cancelled + s.errors + s.waiting then fail("%s: arrivals do not add up", what) end
  if s.grants ~= s.releases + s.leased then fail("%s: grants do not add up", what) end
  return s
end

--- One pool's life: tasks at work, and an end that comes while they are, or after.
local function life()
  local db = pool.new { database_url = url(), size = random(1, 4), max_overflow = random(0, 3), timeout = 1, min_idle = 0 }
  local stop, tasks = pool.now() + 0.2 + random() * 0.6, {}
  for i = 1, random(4, 16) do
    tasks[i] = pool.spawn(function()
      while pool.now() < stop do
        actions[names[random(#names)]](db)
        if chance(10) or db:stats().draining then pool.sleep(random() * 0.003) end
      end
    end)
  end
  local early = chance(40)
  if early then
    pool.sleep(random() * 0.4)
    for _, t in ipairs(tasks) do if chance(30) then t:cancel() end end
    local c = db:acquire { timeout = 0.05 }
    if c then c:release() end -- to somebody in line, perhaps, whose turn comes after the end
    if chance(50) then assert(db:close(chance(50) and 0 or random() * 0.05)) else do local _ <close> = db end end
  end
  for _, t in ipairs(tasks) do
    local _, err = t:join()
    if err and not (type(err) == "table" and EXPECTED[err.kind]) and not (early and tostring(err):find "released") then
      fail("a task failed: %s", tostring(err))
    end
  end
  for i = 1, 20 do kept[i] = nil end
  collectgarbage()
  collectgarbage()
  assert(db:close(1))
  local s = balance(db, "closed pool")
  if s.total + s.leased + s.waiting ~= 0 then fail("a closed pool: %s", db:status()) end
  count "pools"
end

--- Outside pool.run a finalizer may query, amid whatever call made the collector run.
local function synchronous()
  local db, armed = pool.new { database_url = url() }, true
  local function litter()
    setmetatable({}, { __gc = function()
      if not armed then return end
      ask("finalizer", db)
      litter()
    end })
  end
  litter()
  for _ = 1, 100 do ask("synchronous", db) end
  armed = false
  assert(db:close(1))
  balance(db, "synchronous pool")
end

collectgarbage(random(2) == 1 and "generational" or "incremental")
local finish = pool.now() + seconds
while pool.now() < finish and #wrong == 0 do
  if chance(20) then
    for _ = 1, 20 do pool.new { database_url = url() } end -- made and dropped
  end
  if chance(85) then pool.run(life) else life() end
  synchronous()
end
os.remove(path)

local told = {}
for what, n in pairs(counts) do told[#told + 1] = ("%d %s"):format(n, what) end
table.sort(told)
print(table.concat(told, ", "))
for i = 1, math.min(#wrong, 10) do io.stderr:write("torture: ", wrong[i], "\n") end
if (counts.answers or 0) == 0 then io.stderr:write "torture: no answer at all\n" end
os.exit(#wrong == 0 and (counts.answers or 0) > 0, true)
