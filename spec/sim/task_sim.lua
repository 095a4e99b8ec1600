--- A life of task_sim: a pool, tasks at work on it (task_actions.lua), somebody who changes it, and its end.
local sim = require "sim"
local core = require "pool.core"
local pool = require "pool"
local calls = require "task_calls"
local users = require "task_actions"

local S, chance, pick, check, seen, finally = calls.state, calls.chance, calls.pick, calls.check, calls.seen, calls.finally
local begin, query, rest = calls.begin, calls.query, calls.rest
local actions, UNDO = users.actions, users.UNDO

math.randomseed(sim.random(1 << 30))
pool.log = function(level, message) sim.note(("log %s %s"):format(level, message:match "^[^\n]*":gsub("0x%x+", "0x"))) end

-- ---- what is done to the pool ----

--- Settings as anybody may have them.
local function draw_settings()
  local s = {
    size = sim.random(6) - 1, max_overflow = sim.random(4) - 1, min_idle = pick(0, 0, 0, 2), max_opening = sim.random(4),
    timeout = pick(0.05, 1, 5, 30, 30), connect_timeout = pick(0.5, 10), statement_timeout = pick(0, 0, 0.02, 1),
    pre_ping = chance(60), pre_ping_after = pick(0, 0.01, 1), pre_ping_timeout = pick(0.05, 5),
    recycle = pick(0, 0.1, 10, 3600), idle_timeout = pick(0, 0.01, 30), shrink_after = pick(0, 0.1, 600), leak_after = pick(0, 0.1, 60),
    max_waiting = chance(75) and 10000 or pick(0, 3), max_waiting_per_key = chance(80) and 0 or 2,
    queue = pick("fifo", "fifo", "fifo", "lifo", "codel"), queue_target = pick(0.005, 0.05, 1), queue_interval = pick(0.01, 1),
    reset = pick("rollback", "discard", "none"), policy_time = 60,
  }
  if s.size + s.max_overflow == 0 then s.size = 1 end
  s.min_idle = math.min(s.min_idle, s.size + s.max_overflow)
  return s
end

local function note_settings(s)
  S.timeout = s.timeout or S.timeout
  S.timed = S.timed or (s.statement_timeout or 0) > 0
  S.bounded = S.bounded or s.max_waiting ~= 10000 or s.max_waiting_per_key ~= 0 or s.queue == "codel"
end

local admin = {}

function admin.configure()
  if S.fixed then return end
  local s = draw_settings()
  local settings, err = S.db:configure(s)
  if not settings then return check(S.closing and err.kind == "closed", "configure: %s", tostring(err)) end
  note_settings(s)
  check(settings.size == s.size and S.db:stats().settings.size == s.size, "configure: not as it was told")
end

function admin.pause()
  S.db:pause()
  local _ <close> = finally(function() S.db:resume() end)
  rest()
end

function admin.invalidate() S.db:invalidate() end

function admin.look()
  local s = S.db:stats()
  check(s.arrivals == s.grants + s.timeouts + s.rejected + s.cancelled + s.errors + s.waiting, "arrivals do not add up")
  check(s.grants == s.releases + s.leased, "grants do not add up")
  check(#S.db:leases() == s.leased and #S.db:status() > 0, "a lease that is not told of")
  S.db:advise()
end

--- What was left lying about is given back.
function admin.collect()
  collectgarbage()
  collectgarbage()
  for i = #S.leaked, 1, -1 do
    local leak = S.leaked[i]
    if not leak.ref[1] then
      check(sim.lease(leak.pid) ~= leak.lease, "the collector took a Connection, and its lease goes on")
      table.remove(S.leaked, i)
    end
  end
end

local POLICIES = { "aimd", "little", "hillclimb", "vegas", "gradient", "usl", "codel", "deadline", "default" }
function admin.tune()
  if not S.tunable then return end
  S.tuned, S.bounded = true, true
  local old = S.db:tuner()
  if old and chance(40) then return old:close() end
  local name, fine, err = POLICIES[sim.random(#POLICIES)]
  if old and chance(30) then
    fine, err = old:shadow(name)
  else
    fine, err = S.db:tune(name, { limits = { size = { 1, 5 }, max_overflow = { 0, 4 } } })
  end
  check(fine or err.kind == "policy" or err.kind == "settings", "tune: %s", tostring(err)) -- settings: it would propose what is refused
end

local function close(grace)
  S.closing = true
  local call <close> = begin("close", {}, grace + 1)
  check(S.db:close(grace), "%s: not true", call.what)
  local s = S.db:stats()
  check(s.total == 0 and s.waiting == 0 and s.leased == 0, "closed, and not empty: %s", S.db:status())
end

local function set_up(c)
  local failing = S.failing and not S.calm
  if failing and chance(10) then return nil, UNDO end
  if failing and chance(5) then error("a set-up's own mistake", 0) end
  query(c, { pid = c.pid, set_up = true, cancellable = true })
end

--- Somebody prepares new connections from now on, or does so no more.
function admin.prepare()
  if not S.prepared then
    S.prepared = S.db:on("connect", set_up)
  elseif chance(50) then
    S.prepared()
    S.prepared = nil
  end
end

--- What db:on tells from the beginning.
local function listen()
  if chance(20) then admin.prepare() end
  if chance(60) then return end
  S.listening = true
  S.db:on("acquire", function(c)
    S.acquired = S.acquired + 1
    check(c.id > 0, "acquire: of nothing")
  end)
  S.db:on("release", function() S.released = S.released + 1 end)
end

-- ---- a life ----

local WEIGHTS = { statement = 6, lease = 5, leak = 2, kept = 2, transaction = 6, session = 4, cancel_statement = 2, view = 4, deadline = 5,
  cancel = 4, all = 3, cursors = 2, cancel_woken = 1 }
local names, BAG = {}, {}
for name in pairs(actions) do names[#names + 1] = name end
table.sort(names)
for _, name in ipairs(names) do
  for _ = 1, assert(WEIGHTS[name], name) do BAG[#BAG + 1] = name end
end

local function worker(number)
  while not sim.over() and not S.closed do
    local name, refusals = BAG[sim.random(#BAG)], S.refusals
    sim.note(("task %d: %s"):format(number, name))
    actions[name](S.db, {})
    if chance(30) then rest() end
    if S.refusals > refusals then pool.sleep(0.1 * sim.random(10)) end -- a life of nothing but refusals shows little
    if S.closing then pool.sleep(0.05) end
  end
end

local ADMIN = { "configure", "pause", "invalidate", "look", "look", "collect", "tune", "prepare" }
local function administrator()
  while not sim.over() and not S.closed do
    pool.sleep(pick(0.001, 0.02, 0.5))
    local name = ADMIN[sim.random(#ADMIN)]
    sim.note("admin: " .. name)
    admin[name]()
  end
end

local function release_kept()
  for i = 1, 4 do
    if S.kept[i] then
      S.kept[i]:release()
      S.kept[i] = nil
      sim.detach(-1)
    end
  end
end

--- The faults are over: everybody is answered, and six seconds later everybody is answered right, within one.
local function recover(tasks)
  sim.calm()
  S.calm = true
  do
    local call <close> = begin("the end of the tasks", {}, 300)
    for _, t in ipairs(tasks) do
      local ok, err = t:join()
      check(ok ~= nil or err == nil, "%s: %s", call.what, tostring(err))
    end
  end
  release_kept()
  collectgarbage()
  if S.closed then return end
  local tuner = S.db:tuner()
  if tuner then tuner:close() end
  S.tuned = false
  local settings = { size = 2 + sim.random(3), max_overflow = sim.random(2), timeout = 30, max_waiting = 10000, max_waiting_per_key = 0,
    queue = "fifo", statement_timeout = 0, pre_ping_timeout = 5, connect_timeout = 10, recycle = pick(2, 3600), min_idle = pick(0, 2) }
  check(S.db:configure(settings))
  note_settings(settings)
  S.db:resume()
  pool.sleep(6)
  S.failing = false
  check(sim.age() < settings.recycle + 0.1, "a connection is %g s old, and recycle is %g", sim.age(), settings.recycle)
  local functions = {}
  for i = 1, 12 do
    functions[i] = function()
      local call <close> = begin("a call when all is well", {}, 1)
      return check(query(S.db, {}), "%s failed", call.what)
    end
  end
  check(pool.all(functions), "not everybody was answered")
  local s = S.db:stats()
  check(s.leased == 0 and s.waiting == 0, "somebody has a connection still: %s", S.db:status())
end

local ENDS = { "close", "close", "close", "middle", "middle", "drop", "leave", "raise", "raise" }
local RAISED = core.error { kind = "query", message = "the run is over" }

local function root()
  local tasks, how = {}, ENDS[sim.random(#ENDS)]
  listen()
  for i = 1, 1 + sim.random(11) do tasks[i] = seen(pool.spawn(worker, i)) end
  tasks[#tasks + 1] = seen(pool.spawn(administrator))
  if how == "middle" or how == "raise" then
    pool.sleep(sim.random(pick(2000, 20000)) / 1000)
    sim.note("the end begins: " .. how)
    if how == "raise" then error(RAISED, 0) end
    S.closing = true
    for _ = 1, sim.random(2) do tasks[#tasks + 1] = pool.spawn(close, pick(0, 0.05, 1, 5)) end
    close(pick(0, 0.05, 1, 5))
    S.closed = true
  end
  while not sim.over() and not S.closed do pool.sleep(0.5) end
  recover(tasks)
  sim.note("end: " .. how)
  if how == "close" then close(pick(0, 1, 5)) end
  if how == "leave" then
    S.closing = true
    local _ <close> = S.db
  end
  return how
end

--- Nothing of the life is left, and what its transactions said of themselves was so.
local function nothing_left(before)
  sim.watch(nil)
  S.db, S.prepared = nil, nil
  collectgarbage()
  for _ = 0, 110 do -- a set-up keeps its pool, for connect_timeout at most, and has its last turn when that is closed
    if sim.left() == 0 then break end
    pool.sleep(0.1)
    collectgarbage()
  end
  collectgarbage()
  local left = next(S.seen)
  check(left == nil, "left behind: %s", tostring(left))
  check(sim.left() == 0, "%d tasks are left", sim.left())
  for key, value in pairs(debug.getregistry()) do -- tables: types and caches, made when first used
    check(before[key] or type(value) == "table", "a reference is left: %s, %s", tostring(key), tostring(value))
  end
  check(sim.live() == 0, "connections are left")
  for _, n in ipairs(S.never) do check(select(4, sim.fate(n)) == 0, "%d was undone, and it happened", n) end
  for _, tx in ipairs(S.txs) do
    local happened = 0
    for _, n in ipairs(tx.numbers) do happened = happened + select(4, sim.fate(n)) end
    check(happened == 0 or happened == #tx.numbers, "of a transaction's %d statements %d happened", #tx.numbers, happened)
    check(tx.expect ~= "all" or happened == #tx.numbers, "a transaction was committed, and it did not happen")
    check(tx.expect ~= "none" or happened == 0, "a transaction was undone, and it happened")
  end
end

collectgarbage()
local before = {}
for key in pairs(debug.getregistry()) do before[key] = true end
local drawn = draw_settings()
drawn.database_url, drawn.size_limit, drawn.policy_time, drawn.nested = sim.url, 12, 60, "allow"
note_settings(drawn)
S.fixed = chance(30) and drawn.statement_timeout
S.tunable = chance(25)
S.db = core.new(drawn)
sim.watch(S.db)
if chance(4) then -- the collector at any instruction of Lua's
  debug.sethook(function() collectgarbage() end, "", 500 + sim.random(5000))
end
local function outside() -- of pool.run
  if S.closing or chance(85) then return end
  for _ = 1, sim.random(5) do users.simple(S.db, {}) end
  release_kept()
  admin.collect()
end
outside()
local fine, how = pcall(pool.run, root)
if not fine then
  check(how == RAISED, "the run raised: %s", tostring(how))
  how = "raise"
  local leases, kept = S.db:stats().leased, 0
  for _ in pairs(S.kept) do kept = kept + 1 end
  check(leases <= kept, "the run is over, and %d have a connection still", leases)
  outside()
end
if S.listening and how ~= "raise" and how ~= "middle" then
  check(S.acquired == S.released, "%d acquired, %d released", S.acquired, S.released)
end
if how == "raise" then
  release_kept()
  if chance(50) then
    sim.calm()
    close(pick(0, 1))
  end
end
if how ~= "raise" or chance(80) then nothing_left(before) end
