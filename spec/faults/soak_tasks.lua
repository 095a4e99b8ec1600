--- One half of the soak: tasks at work on a pool of PostgreSQL, and beside it on one of SQLite.
---
---   lua5.4 spec/faults/soak_tasks.lua DIRECTORY SEED      SOAK_URL, SOAK_JUDGE (its pid)
---
--- In the directory it finds tasks.policy, and waits for files to appear: go, stop, exit.
--- Prints lines `PHASE name=value ...` (soak_figures.lua): begin before anything is made, load once an interval, end when all is closed.
--- Wrong answers go to standard error. Each transaction counts up a row of its worker's own, so that its answers, and at the end the row,
--- tell whether it was kept exactly once.
local figures = require "faults.soak_figures"
local life = require "faults.soak_life"
local pool = require "pool"
local schedule = require "faults.soak_schedule"

local directory, seed = arg[1], math.tointeger(tonumber(arg[2]))
local WORKERS, LITE_WORKERS, INTERVAL = 20, 3, 0.25
local EXPECTED = { timeout = true, overloaded = true, connect = true, lost = true, deadline = true, cancelled = true }

pool.log = function() end
math.randomseed(seed)
local random = math.random
local tally = { right = 0, typed = 0, wrong = 0, plain_right = 0, plain_typed = 0 }
local plain = setmetatable({}, { __mode = "k" }) -- workers' coroutines that ask PostgreSQL for something plain: what the plain_ ones count

--- Whether the judge has put that file there.
local function told(name)
  if not schedule.judged() then os.exit(1) end
  return schedule.exists(directory .. "/" .. name)
end

local function wrong(story)
  tally.wrong = tally.wrong + 1
  if tally.wrong <= 20 then io.stderr:write("tasks: ", story, "\n") end
end

local function chance(percent) return random(100) <= percent end

--- An error that the faults explain; nil, so that it can be a caller's last word.
local function typed(what, err)
  tally.typed = tally.typed + 1
  if plain[coroutine.running()] then tally.plain_typed = tally.plain_typed + 1 end
  if not (type(err) == "table" and EXPECTED[err.kind]) then wrong(("%s: %s"):format(what, tostring(err))) end
end

local function right()
  tally.right = tally.right + 1
  if plain[coroutine.running()] then tally.plain_right = tally.plain_right + 1 end
end

local serial = 0
local function ask(what, on)
  serial = serial + 1
  local n = serial
  local rows, err = on:query("select cast($1 as integer) as n, cast($1 as integer) * 7 as m", n)
  if not rows then return typed(what, err) end
  if #rows ~= 1 or rows[1].n ~= n or rows[1].m ~= n * 7 then wrong(("%s: asked %d, got %s"):format(what, n, pool.json.encode(rows))) end
  right()
  return true
end

-- ---- what a worker does ----

local actions = {}

function actions.query(w) ask("query", w.db) end

function actions.keyed(w) ask("keyed", w.db:with { key = "k" .. random(5), priority = random(0, 9) }) end

function actions.json(w)
  local text, err = w.db:json "select 1 as one"
  if not text then return typed("json", err) end
  if text ~= '[{"one":1}]' then wrong("json: " .. text) end
  right()
end

function actions.lease(w)
  local c <close>, err = w.db:acquire { timeout = random() }
  if not c then return typed("acquire", err) end
  for _ = 1, random(3) do
    if not ask("lease", c) then return end
  end
  if chance(10) then c:invalidate() end
end

function actions.rows(w)
  local wanted, n = random(500), 0
  local stop = chance(30) and random(wanted) or nil
  local fine, err = pcall(function()
    for row in w.db:rows("with recursive s(n) as (select 1 union all select n + 1 from s where n < $1) select n from s", wanted) do
      n = n + 1
      if row.n ~= n then wrong(("row %d says %s"):format(n, row.n)) end
      if n == stop then return end
    end
  end)
  if not fine then return typed("rows", err) end
  if n ~= (stop or wanted) then wrong(("%d rows of %d"):format(n, wanted)) end
  right()
end

--- The worker's row: at least what was told to be kept, at most that and what nobody knows of.
local function check_row(w, n)
  if n <= w.kept or n > w.kept + w.unknown + 1 then
    wrong(("row %d says %d: %d were kept, of %d nobody knows"):format(w.id, n, w.kept, w.unknown))
  end
end

local function count_up(w, on)
  local rows, err = on:query("update soak_ledger set n = n + 1 where id = $1 returning n", w.id)
  if not rows then return nil, err end
  check_row(w, rows[1].n)
  return true
end

--- How a unit of work ended: its fate is open when it had come as far as COMMIT.
local function settle(w, what, committing, ok, err)
  w.open = false
  if ok then
    w.kept = w.kept + 1
    return right()
  end
  if committing then w.unknown = w.unknown + 1 end
  typed(what, err)
end

function actions.transaction(w)
  local committing = false
  local ok, err = w.db:transaction(function(tx)
    committing = false
    local done, failed = count_up(w, tx)
    if not done then return nil, failed end
    if chance(30) then
      local _, inner = tx:transaction(function(inside)
        ask("savepoint", inside)
        return nil, "enough"
      end)
      if inner ~= "enough" then return nil, inner end
    end
    committing = true
    return true
  end)
  settle(w, "transaction", committing, ok, err)
end

function actions.rolled_back(w)
  local ok, err = w.db:transaction(function(tx)
    local done, failed = count_up(w, tx)
    if not done then return nil, failed end
    return nil, "on purpose"
  end)
  if ok or err ~= "on purpose" then typed("rolled back", err) end
end

function actions.session(w)
  local s <close> = w.db:session()
  local ok, err = count_up(w, s)
  if not ok then return typed("session", err) end
  if chance(20) then return end
  settle(w, "commit", true, s:commit())
end

function actions.deadline(w)
  pool.deadline(random() * 0.02, function()
    while ask("deadline", w.db) do end -- luacheck: ignore 542
  end)
end

--- A task cancelled in the middle of whatever it does.
function actions.cancel(w)
  local victim = pool.spawn(function()
    while true do
      actions[chance(50) and "rows" or "lease"](w)
      pool.sleep(0)
    end
  end)
  local _ <close> = schedule.finally(function() victim:cancel() end)
  pool.sleep(random() * 0.01)
  victim:cancel()
  local _, err = victim:join()
  if not err or err.kind ~= "cancelled" then wrong("a cancelled task ended with " .. tostring(err)) end
end

function actions.cancel_statement(w)
  local c <close>, err = w.db:acquire { timeout = 0.5 }
  if not c then return typed("acquire", err) end
  local t = pool.spawn(function() ask("cancelled statement", c) end)
  pool.sleep(0)
  if chance(70) then c:cancel() end
  t:join()
end

--- A lease that nobody gives back: the task's end does, or the collector.
function actions.forget(w)
  local t = pool.spawn(function()
    local c, err = w.db:acquire { timeout = 0.5 }
    if not c then return typed("acquire", err) end
    if chance(50) then c:detach() end
    if chance(50) then c:query "select 1" end
  end)
  t:join()
  collectgarbage()
end

function actions.refused(w)
  local rows, err = w.db:query "select no_such_column"
  if rows then return wrong "an answer to nonsense" end
  if err.kind == "query" then return right() end
  typed("refused", err)
end

--- A pool made, used and closed, or dropped.
function actions.brief()
  local db = pool.new { database_url = "sqlite:///:memory:" }
  ask("brief", db)
  if chance(50) then db:close(0) end
end

local OFTEN = { "query", "query", "query", "keyed", "json", "lease", "lease", "rows", "transaction", "transaction", "session" }
local RARELY = { "deadline", "cancel", "cancel_statement", "forget", "refused", "rolled_back" }

local function work(w, over)
  while not over() do
    local list = chance(70) and OFTEN or RARELY
    local name = chance(1) and "brief" or list[random(#list)]
    plain[coroutine.running()] = not w.lite and list == OFTEN and name ~= "brief" or nil
    if not (w.lite and name == "cancel_statement") then actions[name](w) end
    pool.sleep(random() * 0.02)
  end
end

-- ---- the whole ----

local function say(phase, db)
  local taken = figures.take(db)
  taken.right, taken.typed, taken.wrong, taken.clock = tally.right, tally.typed, tally.wrong, pool.now()
  taken.plainright, taken.plaintyped = tally.plain_right, tally.plain_typed
  print(phase .. " " .. schedule.line(taken))
  io.stdout:flush()
end

local function await(name)
  while not told(name) do pool.sleep(0.02) end
end

--- Every worker's row is what its worker knows.
local function check_ledger(workers)
  for _, w in ipairs(workers) do
    local rows, err = w.db:query("select n from soak_ledger where id = $1", w.id)
    if not rows then
      wrong("at the end: " .. tostring(err))
    elseif rows[1].n < w.kept or rows[1].n > w.kept + w.unknown then
      wrong(("at the end row %d says %d: %d were kept, of %d nobody knows"):format(w.id, rows[1].n, w.kept, w.unknown))
    end
  end
end

local function start_workers(db, lite, over)
  local workers, tasks = {}, {}
  for i = 1, WORKERS + LITE_WORKERS do
    local w = { id = i, kept = 0, unknown = 0, lite = i > WORKERS, db = i > WORKERS and lite or db }
    if w.lite then assert(lite:query("insert into soak_ledger values ($1, 0)", i)) end
    workers[i], tasks[i] = w, pool.spawn(work, w, over)
  end
  return workers, tasks
end

local function load(db, lite)
  local over = false
  local living = life.begin(db, seed, directory .. "/tasks.record", wrong)
  local workers, tasks = start_workers(db, lite, function() return over end)
  while not told "stop" do
    assert(lite:configure { size = 1 + random(2), max_overflow = random(2) - 1 })
    say("load", db)
    figures.plant(db)
    pool.sleep(INTERVAL)
  end
  living.stop()
  over = true
  for i, task in ipairs(tasks) do
    local _, err = task:join(30)
    if err then wrong(("worker %d: %s"):format(i, tostring(err))) end
  end
  collectgarbage()
  check_ledger(workers)
  return living
end

--- The pools, from their making to their end.
local function pools()
  local db = pool.new { database_url = os.getenv "SOAK_URL", size_limit = schedule.CEILING, size = 5, max_overflow = 5, timeout = 2,
    connect_timeout = 5, probation = 3, policy_time = 0.5, policy_memory = schedule.POLICY_MEMORY }
  local lite = pool.new { database_url = "sqlite:///" .. directory .. "/lite.db", size = 3, max_overflow = 0, timeout = 5 }
  assert(lite:exec "create table soak_ledger (id integer primary key, n integer not null)")
  assert(db:tune(directory .. "/tasks.policy"))
  print "ready"
  io.stdout:flush()
  await "go"
  local lived = load(db, lite)
  say("rest", db)
  db:tuner():close()
  assert(db:close(5))
  assert(lite:close(5))
  life.check { db = db, wrong = wrong }
  life.check { db = lite, wrong = wrong }
  print("exercised " .. life.exercised(lived))
end

pool.run(function()
  say "begin"
  pools()
  say "end"
  await "exit"
  os.exit(tally.wrong == 0, true) -- planted tasks sleep for ever
end)
