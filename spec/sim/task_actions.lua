--- What users do with a pool, an action each: action(pool or view, surroundings) in a task of task_sim.
local sim = require "sim"
local core = require "pool.core"
local pool = require "pool"
local calls = require "task_calls"

local S, chance, pick, check, seen, finally = calls.state, calls.chance, calls.pick, calls.check, calls.seen, calls.finally
local with, begin, patience, refuse, tx_new = calls.with, calls.begin, calls.patience, calls.refuse, calls.tx_new
local query, rows, ask, rest = calls.query, calls.rows, calls.ask, calls.rest

local actions = {}

-- ---- leases ----

--- Nobody else has it until what this returns is closed. Also returns its pid.
local function hold(c)
  local pid = c.pid
  check(not S.held[pid], "two have connection %d", pid)
  check(not S.gone[pid], "connection %d was invalidated, and is lent", pid)
  S.held[pid] = true
  return finally(function() S.held[pid] = nil end), pid
end

local function lease(on, w)
  local options = {}
  if chance(30) then options.timeout = pick(0, 0.01, 0.3, 5, 30) end
  if chance(30) then options.key = pick("a", "b", 7) end
  if chance(30) then options.priority = sim.random(10) - 1 end
  if next(options) == nil and chance(50) then options = nil end
  local call <close> = begin("acquire", w, options and options.timeout or patience(w))
  local c, err = on:acquire(options)
  if not c then return refuse(call, err) end
  sim.count "leases"
  return seen(c)
end

--- What was asked since the mark is not to happen.
local function forget(tx, mark)
  for _ = #tx.numbers, mark + 1, -1 do S.never[#S.never + 1] = table.remove(tx.numbers) end
end

--- The end of a transaction that is to be committed by fn.
local function finish(tx, call, fn)
  tx.expect = "either"
  local ok, err = fn()
  if ok then
    tx.expect = "all"
    return true
  end
  if err.kind == "query" or err.retryable then tx.expect = "none" end
  return refuse(call, err)
end

--- A transaction by hand. Whether the connection can be used on.
local function by_hand(c, w)
  local tx = tx_new()
  do
    local call <close> = begin("begin", w, nil, 1)
    local ok, err = c:begin()
    if not ok then return refuse(call, err) end
  end
  for _ = 1, sim.random(2) do ask(c, with(w, { tx = tx })) end
  if chance(20) then return false end
  local call <close> = begin("commit", w, nil, 1)
  if chance(60) then return finish(tx, call, function() return c:commit() end) end
  local ok, err = c:rollback()
  if not ok then return refuse(call, err) end
  return true
end

local function use(c, w)
  for _ = 1, sim.random(3) do
    if chance(15) then
      if not by_hand(c, w) then return end
    else
      ask(c, w)
    end
    if chance(20) then rest() end
  end
  if chance(8) then
    local call <close> = begin("invalidate", w)
    local ok, err = c:invalidate()
    S.gone[w.pid] = ok
    if not ok then refuse(call, err) end
  end
end

function actions.statement(on, w) ask(on, w) end

function actions.lease(on, w)
  local c <close> = lease(on, w)
  if not c then return end
  local guard <close>, pid = hold(c)
  use(c, with(w, { pid = pid }))
  if chance(70) then return end
  guard:fn()
  guard.fn = nil
  c:release()
  c:release()
  check(S.closing or not pcall(c.query, c, "select 1"), "a connection was used after its release")
end

--- Taken and left lying about: the task's end takes it back, or the collector, or it is kept by nobody in particular.
function actions.leak(on, w)
  local place, c = sim.random(4), lease(on, w)
  if not c then return end
  if chance(50) and not S.kept[place] then
    sim.detach(1)
    if c:detach() then S.kept[place] = c else sim.detach(-1) end
    return
  end
  S.leaked[#S.leaked + 1] = { pid = c.pid, lease = sim.lease(c.pid), ref = setmetatable({ c }, { __mode = "v" }) }
  if chance(50) then pcall(c.rows, c, "select $1", sim.number()) end
end

--- Whoever finds what was kept uses it, and gives it back.
function actions.kept(_, w)
  local place = sim.random(4)
  local found = S.kept[place]
  S.kept[place] = nil
  if not found then return end
  local _ <close> = finally(function() sim.detach(-1) end)
  local c <close> = found
  local fine, guard, pid = pcall(hold, c)
  if not fine then return check(S.closing, "what was kept is gone: %s", tostring(guard)) end
  local _ <close> = guard
  if chance(60) then ask(c, with(w, { pid = pid })) end
end

--- Two tasks, one connection: its statement is cancelled, or it goes away under it. The next statement is none of that's concern.
function actions.cancel_statement(on, w)
  local c <close> = lease(on, w)
  if not c then return end
  local guard <close>, pid = hold(c)
  local inner, released = with(w, { pid = pid, cancellable = true }), false
  local t = seen(pool.spawn(function()
    if not released then query(c, inner) end
  end))
  local _ <close> = finally(function() t:cancel() end)
  pool.sleep(pick(0, 0, 0.001, 0.02))
  local how = sim.random(4)
  if how == 1 then
    c:cancel()
  elseif how == 2 then
    released = true
    guard:fn()
    guard.fn = nil
    c:release()
  elseif how == 3 then
    t:cancel()
  end
  t:join()
  if t.status ~= "waiting" and t.status ~= "ready" and not released then ask(c, with(w, { pid = pid })) end
end

--- Cursors left amid their rows, on a connection that is read from again.
function actions.cursors(on, w)
  local c <close> = lease(on, w)
  if not c then return end
  local _ <close>, pid = hold(c)
  for _ = 1, sim.random(2) do
    local t = pool.spawn(function()
      local cursor = seen((c:rows("select $1", sim.number())))
      repeat until not cursor()
    end)
    local _ <close> = finally(function() t:cancel() end)
    rest()
    t:cancel()
    t:join()
    if t.status == "waiting" or t.status == "ready" then return end -- by a deadline: it may read still
  end
  rows(c, with(w, { pid = pid, littered = true }))
end

-- ---- transactions ----

local UNDO = core.error { kind = "query", message = "undone on purpose" }

--- The transaction cannot go on after this error, but may be run again.
local function is_conflict(err) return core.is_error(err) and err.sqlstate and err.sqlstate:find "^40" end

local nested

--- What is asked in a transaction, savepoints included. Returns what it cannot go on after.
local function inside(c, w, depth)
  for _ = 1, sim.random(2) do
    local _, err = ask(c, w)
    if is_conflict(err) then return err end
  end
  if depth < 3 and chance(50) then return nested((w.session or chance(50)) and c or S.db, w, depth) end
end

--- A savepoint, by way of `on`, that is left in one of several ways: under a deadline of its own, too.
function nested(on, w, depth)
  local tx, how = w.tx, sim.random(4)
  local mark = #tx.numbers
  local seconds = chance(30) and pick(0, 0.001, 0.02, 0.05) or nil
  local by = seconds and pool.now() + seconds
  if by then w = with(w, { by = math.min(by, w.by or by) }) end
  local _ <close> = begin("savepoint", with(w, { by = false }), patience(w), 40)
  local function body(c)
    local err = inside(c, with(w, { pid = c.pid }), depth + 1)
    if err then return nil, err end
    if how == 1 then error(UNDO, 0) end
    if how == 2 then return nil, UNDO end
    return how
  end
  local fine, result, err = pcall(function()
    if seconds then return pool.deadline(seconds, on.transaction, on, body) end
    return on:transaction(body)
  end)
  if fine and result == how then return end
  forget(tx, mark)
  tx.late = tx.late or by ~= nil -- it may be what COMMIT says too
  if not fine then err = result end
  check(core.is_error(err), "savepoint: %s", tostring(err))
  return is_conflict(err) and err
end

function actions.transaction(on, w)
  local options = { retries = pick(0, 0, 1, 3), isolation = pick("serializable", nil), read_only = pick(true, nil) }
  local tx, how
  local call = { what = "transaction", w = w, since = pool.now(), timeout = 0, statement = true }
  local fine, result, err = pcall(on.transaction, on, function(c)
    if tx then tx.expect = "none" end -- it could not be serialized
    tx, how = tx_new(), sim.random(6)
    call.tx = tx
    local _ <close>, pid = hold(c)
    local stop = inside(c, with(w, { pid = pid, tx = tx }), 1)
    if stop then return nil, stop end
    if how == 1 then error(UNDO, 0) end
    if how == 2 then return nil, UNDO end
    if how == 3 then
      finish(tx, call, function() return c:commit() end)
      return how
    end
    tx.expect = "either"
    return how
  end, options)
  if fine and how and result == how then
    if how ~= 3 then tx.expect = "all" end
    return
  end
  if not fine then err = result end
  if err == UNDO then return end
  if tx and how ~= 3 and (err.kind == "query" or err.retryable) then tx.expect = "none" end
  refuse(call, err)
end

function actions.session(on, w)
  local s <close> = seen(on:session())
  for _ = 1, sim.random(2) do
    local tx = tx_new()
    local inner = with(w, { tx = tx, session = true })
    for _ = 1, sim.random(3) do ask(s, inner) end
    if chance(20) then nested(s, inner, 2) end
    if chance(20) then rest() end
    local call <close> = begin("session", with(w, { session = true }), nil, 1)
    call.tx = tx
    local verb = pick("commit", "commit", "rollback", nil)
    if not verb then return end
    if verb == "commit" then
      finish(tx, call, function() return s:commit() end)
    else
      local ok, err = s:rollback()
      if not ok then refuse(call, err) end
    end
    check(not tx.lease or sim.lease(tx.conn) ~= tx.lease, "a session's transaction is over, and its connection not given back")
  end
end

-- ---- tasks ----

local SIMPLE = { "statement", "statement", "lease", "leak", "kept", "transaction", "session", "cancel_statement" }
local function simple(on, w) actions[SIMPLE[sim.random(#SIMPLE)]](on, w) end

function actions.view(on, w)
  local options = { key = pick("a", "b", "c", 7), priority = pick(0, 5, 9, nil), timeout = pick(0, 0.02, 2, nil) }
  simple(on:with(options), with(w, { timeout = options.timeout or w.timeout }))
end

function actions.deadline(on, w)
  local seconds = pick(0, 0.001, 0.02, 0.3, 3)
  local by = pool.now() + seconds
  local inner = with(w, { by = math.min(by, w.by or by) })
  local call <close> = begin("deadline", inner, 1e6)
  pool.deadline(seconds, function() for _ = 1, sim.random(2) do simple(on, inner) end end)
  check(pool.now() < by + calls.EARLY, "%s went on after its deadline", call.what)
end

function actions.cancel(on, w)
  local t = seen(pool.spawn(function()
    simple(on, w)
    return "done"
  end))
  local cancelled = false
  local _ <close> = finally(function() t:cancel() end)
  rest()
  if chance(60) then
    cancelled = true
    t:cancel()
  end
  local limit = chance(30) and pick(0, 0.01, 1) or nil
  local call <close> = begin("join", with(w, { by = limit and pool.now() + limit or w.by }), 1000)
  local result, err = t:join(limit)
  if result == "done" then return end
  check(core.is_error(err), "join: %s", tostring(err))
  check((err.kind == "cancelled" and cancelled) or (err.kind == "deadline" and (limit or w.by)), "%s: %s", call.what, tostring(err))
end

function actions.all(on, w)
  local count = sim.random(3)
  local bad, functions = chance(25) and sim.random(count) or nil, {}
  local failing
  local _ <close> = finally(function() if failing then sim.done(failing.id) end end)
  for i = 1, count do
    functions[i] = function()
      if i == bad then
        rest()
        failing = begin("pool.all when one has failed", {})
        error(UNDO, 0)
      end
      simple(on, w)
      return i
    end
  end
  local results, err = pool.all(functions)
  if results then
    check(not bad and #results == count, "all: %d results", #results)
    for i = 1, count do check(results[i] == i, "all: the results are mixed up") end
  else
    check((bad and err == UNDO) or (w.by and err.kind == "deadline"), "all: %s", tostring(err))
  end
end

--- Cancelled when it was woken already, perhaps, and had not had its turn: its children are cancelled all the same.
function actions.cancel_woken(_, w)
  local begun, ended, delay = false, false, pick(0, 0.001, 0.02)
  local t = pool.spawn(pool.all, {
    function()
      pool.sleep(delay)
      error(UNDO, 0)
    end,
    function()
      local _ <close> = finally(function() ended = true end)
      begun = true
      pool.sleep(100)
    end,
  })
  local _ <close> = finally(function() t:cancel() end)
  for _ = 1, sim.random(4) do pool.sleep(0) end
  pool.sleep(delay)
  for _ = 1, sim.random(3) do
    if t.status == "waiting" then pool.sleep(0) end
  end
  t:cancel()
  t:join()
  collectgarbage()
  pool.sleep(0)
  pool.sleep(0)
  check(ended or not begun or w.by, "a child of pool.all goes on without its parent")
end

return { actions = actions, simple = simple, UNDO = UNDO }
