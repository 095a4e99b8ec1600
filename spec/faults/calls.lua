--- The calls that the load makes: each has a number of its own, and an answer that only this number has. Used by the tasks of load.lua
--- and by the handler of app.lua alike.
---
--- A call ends right (true), in a typed error (nil, err), or raises: then the answer was wrong, and `wrong` has its story.
--- What transactions insert is in the table fault_ledger, so that it can be asked afterwards whether right answers were kept, each
--- once, and whether those that failed before their COMMIT left nothing.
local pool = require "pool"

local Calls = {}
Calls.__index = Calls

local ROWS = 300 -- of a stream
local BROKEN_OFF = 5 -- rows after which a stream is left

local TEXTS = {
  postgres = {
    one = "select $1::int as n, $1::int * 7 as m, pg_sleep(0.002)",
    stream = "select n, n + $1::int as m from generate_series(1, $2::int) as n",
  },
  sqlite = {
    one = "select cast($1 as integer) as n, cast($1 as integer) * 7 as m",
    stream = "with recursive s(n) as (select 1 union all select n + 1 from s where n < $2) select n, n + $1 as m from s",
  },
}

--- Kinds of calls by name: each returns true, or nil and the error, or raises a pool error.
local kinds = {}
local ORDER = { "query", "json", "lease", "transaction", "session", "stream", "broken_off", "query" } -- by the number modulo 8

---@param db pool.Pool
---@param row table the row of the matrix: its `calls` (names) and `ask` (a kind of its own, called as "own")
function Calls.new(db, row)
  local order = row.calls or ORDER
  if row.ask then
    order = table.move(order, 1, #order, 1, {})
    order[#order + 1] = "own"
  end
  return setmetatable({
    db = db, row = row, order = order, text = TEXTS[db.driver],
    seen = {},      -- typed errors: kind, "kind:sqlstate" and sqlstate → how many
    told = {},      -- kind:sqlstate → what the first of them said
    ledger = {},    -- number → "right", "clean" (nothing may be there) or "open" (the COMMIT's fate is unknown)
    wrong = {},     -- stories
    running = setmetatable({}, { __mode = "k" }), -- the coroutines that ever called
  }, Calls)
end

--- The table that transactions write to; made before anything fails. On a standby it must be there.
function Calls.prepare(db)
  local fine, err = db:exec "create table if not exists fault_ledger (n bigint not null)"
  if not fine and err.sqlstate ~= "25006" then return nil, err end
  return true
end

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

--- Does the cause last now? For calls that are part of it: a row's `ask` gets the Calls as its third argument.
function Calls:cause()
  local dir = os.getenv "FAULT_DIR"
  self.ended = self.ended or exists(dir .. "/ended")
  self.begun = self.begun or exists(dir .. "/begun")
  return self.begun and not self.ended
end

local function same(what, got, want)
  if got ~= want then error(("%s: %s instead of %s"):format(what, tostring(got), tostring(want)), 0) end
end

local function query(self, on, n)
  local rows, err = on:query(self.text.one, n)
  if not rows then return nil, err end
  same("rows", #rows, 1)
  same("number", rows[1].n, n)
  same("answer", rows[1].m, n * 7)
  return true
end

local function insert(on, n)
  local rows, err = on:query("insert into fault_ledger values ($1) returning n", n)
  if not rows then return nil, err end
  same("inserted", rows[1].n, n)
  return true
end

function kinds.query(self, n) return query(self, self.db, n) end

function kinds.json(self, n)
  local text, err = self.db:json(self.text.one, n)
  if not text then return nil, err end
  local rows = assert(pool.json.decode(text))
  same("json", rows[1].m, n * 7)
  return true
end

function kinds.lease(self, n)
  local c <close>, err = self.db:acquire()
  if not c then return nil, err end
  for _ = 1, 2 do
    local fine, why = query(self, c, n)
    if not fine then return nil, why end
  end
  return true
end

--- Does this error of a COMMIT say that nothing was committed? A loss does not; that it cannot have run does, and so does PostgreSQL's no.
local function refused(self, err)
  if err.retryable or err.sqlstate == "40001" or err.sqlstate == "40P01" then return true end
  return self.db.driver == "postgres" and err.kind == "query" and err.sqlstate ~= "40003"
end

--- How a transaction ended whose COMMIT may have been sent: the error that its caller was told decides what may be there.
local function not_kept(self, n, err)
  if refused(self, err) then self.ledger[n] = "clean" end
  return nil, err
end

-- Until its COMMIT is sent a transaction that fails has left nothing; afterwards that is the server's secret, but where it has told.
function kinds.transaction(self, n)
  self.ledger[n] = "clean"
  local answer, err = self.db:transaction(function(tx)
    self.ledger[n] = "clean"
    local fine, why = query(self, tx, n)
    if fine then fine, why = insert(tx, n) end
    if not fine then return nil, why end
    self.ledger[n] = "open"
    return n
  end, self.row.transaction)
  if not answer then return not_kept(self, n, err) end
  same("transaction", answer, n)
  self.ledger[n] = "right"
  return true
end

function kinds.session(self, n)
  local s <close> = self.db:session()
  self.ledger[n] = "clean"
  local fine, err = query(self, s, n)
  if fine then fine, err = insert(s, n) end
  if not fine then return nil, err end
  self.ledger[n] = "open"
  fine, err = s:commit()
  if not fine then return not_kept(self, n, err) end
  self.ledger[n] = "right"
  return true
end

function kinds.stream(self, n)
  local count = 0
  for row in self.db:rows(self.text.stream, n, ROWS) do
    count = count + 1
    same("row", row.n, count)
    same("row's answer", row.m, count + n)
  end
  same("rows of a stream", count, ROWS)
  return true
end

function kinds.broken_off(self, n)
  local count = 0
  for row in self.db:rows(self.text.stream, n, 100 * ROWS) do
    count = count + 1
    same("row's answer", row.m, count + n)
    if count == BROKEN_OFF then break end
  end
  same("rows before the break", count, BROKEN_OFF)
  return true
end

function kinds.own(self, n) return self.row.ask(self.db, n, self) end

local function tally(seen, name) seen[name] = (seen[name] or 0) + 1 end

--- The call with this number, to its end.
---@return true? right
---@return pool.Error? err
function Calls:ask(n)
  self.running[coroutine.running()] = true
  local fine, right, err = pcall(kinds[self.order[n % #self.order + 1]], self, n)
  if fine and right then return true end
  if not fine then err = right end
  if type(err) ~= "table" or type(err.kind) ~= "string" then
    self.wrong[#self.wrong + 1] = ("%s %d: %s"):format(self.order[n % #self.order + 1], n, tostring(err))
    error(self.wrong[#self.wrong], 0)
  end
  local key = ("%s:%s"):format(err.kind, err.sqlstate or "")
  tally(self.seen, err.kind)
  tally(self.seen, key)
  if err.sqlstate then tally(self.seen, err.sqlstate) end
  self.told[key] = self.told[key] or tostring(err)
  return nil, err
end

--- Coroutines that have called and still are, the caller's left out.
function Calls:left_coroutines()
  collectgarbage()
  collectgarbage()
  local count, self_co = 0, coroutine.running()
  for co in pairs(self.running) do
    if co ~= self_co then count = count + 1 end
  end
  return count
end

return Calls
