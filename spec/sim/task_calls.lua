--- Calls of a pool as the tasks of task_sim make them: each with what may come of it, and by when. What a call is answered is held against
--- what the database knows of its number.
---
--- With each call goes `w`, its surroundings:
---   by           when the pool.deadline around it is over
---   cancellable  somebody may cancel the statement, or give its connection away under it
---   pid          the connection it runs on; nil: it asks the pool for one
---   tx           the transaction it is in, which learns its number from its first answer
---   session      it is a session's: begins it where that is not done yet
---   littered     there are unfinished cursors about, for the collector to find amid others
---   set_up       in db:on("connect"), which has connect_timeout for it
---   timeout      what its view of the pool asks with
local sim = require "sim"
local core = require "pool.core"
local pool = require "pool"

local function chance(percent) return sim.random(100) <= percent end
local function pick(...) return (select(sim.random(select("#", ...)), ...)) end

--- What is known of this life's pool.
local S = {
  db = nil,                    -- itself
  closing = false,             -- its end has begun
  closed = false,
  timeout = 30,                -- the setting
  timed = false,               -- statement_timeout was not always 0
  fixed = false,               -- statement_timeout, where nobody changes the settings
  bounded = false,             -- calls may be refused for a full line
  failing = sim.badness > 0,   -- connections get lost, opens fail
  calm = false,                -- ... no more
  tunable = false, tuned = false,
  held = {},                   -- pid -> somebody has it
  gone = {},                   -- pid -> it was invalidated
  kept = {},                   -- Connections that are nobody's
  leaked = {},                 -- those left to the collector: { pid, lease, ref = { Connection } }
  seen = setmetatable({}, { __mode = "k" }), -- what the collector must find in the end
  claims = {},                 -- number of a transaction -> the one in `txs` that it is
  txs = {}, never = {},        -- transactions; numbers that must not happen
  refusals = 0,                -- for a full line
  acquired = 0, released = 0,  -- as db:on tells
}

local function check(condition, format, ...)
  if not condition then sim.fail(debug.traceback(format:format(...), 2)) end
  return condition
end

local function seen(object)
  S.seen[object] = true
  return object
end

local Finally = { __close = function(self)
  local fn = self.fn
  self.fn = nil
  if fn then fn() end
end }
--- To be closed; `fn = nil` takes it back.
local function finally(fn) return setmetatable({ fn = fn }, Finally) end

local function with(w, more)
  local new = {}
  for name, value in pairs(w) do new[name] = value end
  for name, value in pairs(more) do new[name] = value end
  return new
end

-- ---- calls ----

local STATEMENT = 130 -- seconds a statement may take: it hangs, then the network falls silent; and the patience with a cancel
local STOP = 5        -- ... that alone
local DRAIN = 5       -- the rest of a stream may be read first
local CHECK = 5       -- who wants an idle connection alone may wait for its check
local EARLY = 0.002   -- what rounding may make of seconds

local Call = { __close = function(call) sim.done(call.id) end }

--- How long a statement may take.
local function longest() return S.fixed and S.fixed > 0 and S.fixed + STOP or STATEMENT end

--- A call that begins now, to be closed when it is over: late, it fails the life. timeout: of its line, nil when it asks for no
--- connection. statements: how many it runs, batches of rows each counting as one.
local function begin(what, w, timeout, statements)
  local now, statement = pool.now(), statements and true
  local limit = (timeout == 0 and CHECK or timeout or 0) + (statements or 0) * longest()
  if (w.pid or w.session) and statement then limit = limit + DRAIN + STOP end -- for the one before on this connection, which was left
  if w.by then limit = math.min(limit, math.max(0, w.by - now)) end
  return setmetatable({ what = what, w = w, since = now, timeout = timeout, statement = statement, id = sim.due(what, limit) }, Call)
end

--- How long a call in such surroundings waits in line.
local function patience(w)
  if w.pid then return nil end
  return w.timeout or (S.tuned and S.db:stats().settings.timeout) or S.timeout
end

local POSSIBLE = {
  timeout = function(call) return call.timeout and (call.timeout == 0 or pool.now() - call.since >= call.timeout - EARLY) end,
  overloaded = function(call) return call.timeout and S.bounded end,
  connect = function(call) return call.timeout and S.failing end,
  lost = function(call) return call.statement and S.failing end,
  query = function(call, err) -- 25P02: after one that was cancelled
    return call.statement and (S.failing or err.sqlstate == "25P02")
  end,
  deadline = function(call)
    if call.w.by and pool.now() >= call.w.by - EARLY then return true end
    return (call.statement and (S.timed or call.w.set_up)) or (call.tx and call.tx.late)
  end,
  cancelled = function(call) return call.statement and call.w.cancellable end,
  closed = function() return S.closing end,
}

--- The call has failed: can it have failed so? Returns nil, err.
local function refuse(call, err)
  check(core.is_error(err), "%s: not an error: %s", call.what, tostring(err))
  sim.count(err.kind)
  S.refusals = S.refusals + (err.kind == "overloaded" and 1 or 0)
  sim.note(("%s: %s"):format(call.what, err.kind))
  local possible = POSSIBLE[err.kind]
  check(possible and possible(call, err), "%s: this cannot come here: %s", call.what, tostring(err))
  return nil, err
end

--- The same of a statement with a number: what the database knows of it bears it out.
local function refuse_number(call, err, n)
  refuse(call, err)
  local sent, _, failed, committed = sim.fate(n)
  local line = err.kind == "timeout" or err.kind == "overloaded" or err.kind == "connect"
  check(not line or sent == 0, "%s: %s, and it was sent", call.what, err.kind)
  local begins = call.w.session and sent == 0 -- it was the session's BEGIN
  check(err.kind ~= "query" or failed == 1 or begins, "%s: not the server's error: %s", call.what, tostring(err))
  if err.retryable then
    check(committed == 0, "%s: retryable, and it happened: %s", call.what, tostring(err))
    S.never[#S.never + 1] = n
  end
  return nil, err
end

local function tx_new()
  local tx = { numbers = {}, expect = "none" }
  S.txs[#S.txs + 1] = tx
  return tx
end

--- An answer tells of the transaction that its call is in.
local function check_tx(call, number)
  local tx = call.w.tx
  if not tx then return check(number == 0, "%s: in somebody's transaction", call.what) end
  check(number > 0, "%s: in no transaction", call.what)
  check(not S.claims[number] or S.claims[number] == tx, "%s: in another one's transaction", call.what)
  check(not tx.id or tx.id == number, "%s: from one transaction into another", call.what)
  tx.id, S.claims[number] = number, tx
end

local function check_row(call, row, n, i)
  check(row.n == n and row.row == i, "%s: asked %d, got row %d of %d", call.what, n, row.row, row.n)
  check(not call.w.pid or row.conn == call.w.pid, "%s: from another connection", call.what)
  check_tx(call, row.tx)
  local tx = call.w.tx
  if tx and not tx.lease then tx.conn, tx.lease = row.conn, sim.lease(row.conn) end
end

--- It was answered: once, and it has happened, or will with its transaction.
local function answered(call, n)
  local sent, given, _, committed = sim.fate(n)
  local tx = call.w.tx
  sim.count "answers"
  sim.note(("%s: %d"):format(call.what, n))
  check(sent == 1 and given == 1, "%s: answered, and not asked", call.what)
  check(committed == (tx and 0 or 1), "%s: answered, and it happened %d times", call.what, committed)
  if tx then tx.numbers[#tx.numbers + 1] = n end
  return true
end

local function query(on, w)
  local n = sim.number()
  local call <close> = begin("query", w, patience(w), 1)
  local rows, err = on:query("select $1", n)
  if not rows then return refuse_number(call, err, n) end
  check(#rows > 0 and rows.command == "SELECT" and rows.affected == #rows, "query: not its result")
  for i, row in ipairs(rows) do check_row(call, row, n, i) end
  return answered(call, n)
end

local function json(on, w)
  local n = sim.number()
  local call <close> = begin("json", w, patience(w), 1)
  local text, err = on:json("select $1", n)
  if not text then return refuse_number(call, err, n) end
  for i, row in ipairs(assert(core.json.decode(text))) do check_row(call, row, n, i) end
  return answered(call, n)
end

local function exec(on, w)
  local n = sim.number()
  local call <close> = begin("exec", w, patience(w), 1)
  local ok, err = on:exec(("update %d"):format(n))
  if not ok then return refuse_number(call, err, n) end
  return answered(call, n)
end

--- Rows one at a time, to the end or not. A call each: a reader takes its time.
local function rows(on, w)
  local n, i, stop = sim.number(), 0, chance(40) and sim.random(4) or nil
  local call <close> = begin("rows", w, patience(w), 5)
  local fine, err = pcall(function()
    for row in on:rows("select $1", n) do
      i = i + 1
      check_row(call, row, n, i)
      if i == stop and chance(20) then error("stop", 0) end
      if i == stop then break end
      if chance(5) then pool.sleep(pick(0, 0.001, 0.3)) end
      if chance(w.littered and 30 or 1) then collectgarbage() end
    end
  end)
  if i > 0 then call.timeout = nil end
  if not fine and err ~= "stop" then
    check(i == 0 or not err.retryable, "rows: retryable after %d rows: %s", i, tostring(err))
    return refuse_number(call, err, n)
  end
  sim.count "streams"
  if stop and i >= stop then return true end
  check(i > 0, "rows: none")
  return answered(call, n)
end

local STATEMENTS = { query, query, query, json, exec, rows }
local function ask(on, w) return STATEMENTS[sim.random(#STATEMENTS)](on, w) end

local function rest() pool.sleep(pick(0, 0.001, 0.02, 0.5)) end

return {
  state = S, chance = chance, pick = pick, check = check, seen = seen, finally = finally, with = with, begin = begin, patience = patience,
  refuse = refuse, tx_new = tx_new, query = query, rows = rows, ask = ask, rest = rest, EARLY = EARLY,
}
