--- Transactions: begin, commit and rollback of a connection, and transaction() of pools and connections.
---
--- A transaction that is not committed needs no undoing here: its connection goes back, and the engine rolls back before
--- anybody else gets it. So an error passes through untouched, with its own traceback. Only a savepoint, whose connection
--- stays, is rolled back in place: what is raised in one is caught and raised again, and core.keep_traceback remembers where
--- that was.

local check = require "pool.check"
local core = require "pool.core"

local Connection, Pool = core.connection_methods, core.pool_methods
local unpack, pack = table.unpack, table.pack

local TYPES = { isolation = "string", read_only = "boolean", deferrable = "boolean", retries = "number" }
local BEGIN = { "isolation", "read_only", "deferrable" }
local RETRIED = { "isolation", "read_only", "deferrable", "retries" }
local ISOLATION = { ["read committed"] = true, ["repeatable read"] = true, serializable = true, ["read uncommitted"] = true }
local BACKOFF_MIN, BACKOFF_MAX = 0.01, 0.5 -- seconds between the tries of a transaction that could not be serialized

--- What a task is in the middle of: task -> pool -> connection.
local active = {}

--- How many savepoints a connection is inside.
local depths = setmetatable({}, { __mode = "k" })

--- Connections whose transaction was ended by commit or rollback; and those with a savepoint that could not be undone, and why.
local ended, broken = setmetatable({}, { __mode = "k" }), setmetatable({}, { __mode = "k" })

--- Is it one of these names?
local function among(names, wanted)
  for _, name in ipairs(names) do
    if name == wanted then return true end
  end
  return false
end

local function check_option(name, value, allowed, who)
  if not among(allowed, name) then
    core.misuse(("%s: unknown option '%s' (%s)"):format(who, tostring(name), table.concat(allowed, ", ")))
  end
  local wanted = TYPES[name]
  if type(value) ~= wanted then core.misuse(("%s: %s must be a %s, not a %s"):format(who, name, wanted, type(value))) end
end

local function check_options(options, allowed, who)
  if options == nil then return {} end
  if type(options) ~= "table" then core.misuse(("%s: options must be a table, not a %s"):format(who, type(options))) end
  for name, value in pairs(options) do check_option(name, value, allowed, who) end
  if options.isolation and not ISOLATION[options.isolation:lower()] then
    core.misuse(("%s: isolation '%s' is none of read committed, repeatable read, serializable"):format(who, options.isolation))
  end
  local retries = options.retries
  if retries and (math.type(retries) ~= "integer" or retries < 0) then
    core.misuse(("%s: retries must be a whole number from 0 up, not %s"):format(who, tostring(retries)))
  end
  return options
end

--- A savepoint takes over what its transaction began with.
local function check_no_options(options, who)
  local name = next(options)
  if name then
    core.misuse(("%s: inside a transaction this is a savepoint, which cannot have %s: give it to the outermost one"):format(who, name))
  end
end

local function begin_sql(connection, options)
  return core.begin_sql(connection.db, options.isolation and options.isolation:lower(), options.read_only, options.deferrable)
end

local function begin(connection, options)
  local rows, err = connection:query(begin_sql(connection, options))
  if not rows then return nil, err end
  ended[connection], broken[connection], depths[connection] = nil, nil, nil
  return true
end

--- Begins a transaction.
---@param options? { isolation?: string, read_only?: boolean, deferrable?: boolean }
---@return true | nil ok, pool.Error? err
function Connection:begin(options)
  check.connection(self, "c:begin")
  options = check_options(options, BEGIN, "c:begin")
  if self.in_transaction then core.misuse("c:begin: a transaction is under way on this connection already (c:transaction nests)") end
  return begin(self, options)
end

--- Commits. A COMMIT that the server answers with ROLLBACK, because a statement had failed, is an error; so is one after a
--- savepoint that could not be undone: that transaction is rolled back.
---@return true | nil ok, pool.Error? err
function Connection:commit()
  check.connection(self, "c:commit")
  ended[self] = true
  if broken[self] then
    local why = broken[self]
    self:rollback()
    return nil, why
  end
  local rows, err = self:query("COMMIT")
  if not rows then return nil, err end
  if rows.command == "ROLLBACK" then
    return nil, core.error { kind = "query", sqlstate = "25P02",
      message = "the transaction was rolled back instead of committed: a statement in it had failed" }
  end
  return true
end

---@return true | nil ok, pool.Error? err
function Connection:rollback()
  check.connection(self, "c:rollback")
  ended[self], broken[self] = true, nil
  local rows, err = self:query("ROLLBACK")
  if not rows then return nil, err end
  return true
end

--- "Commits unless fn returns nil and an error": hands on fn's results, true when there are none.
local function settle(finish, ...)
  local first, second = ...
  if first == nil and second ~= nil then return nil, second end
  local ok, err = finish()
  if not ok then return nil, err end
  if select("#", ...) == 0 then return true end
  return ...
end

--- What was done since the savepoint must not be committed, even where its undoing fails (a deadline that has passed).
local function savepoint_undo(connection, name, depth)
  depths[connection] = depth - 1
  local ok, err = connection:exec(("ROLLBACK TO SAVEPOINT %s; RELEASE SAVEPOINT %s"):format(name, name))
  if not ok then broken[connection] = err end
end

--- Where it cannot be released fn's caller is told so: what fn did must not be committed then.
local function savepoint_release(connection, name, depth)
  local ok, err = connection:exec("RELEASE SAVEPOINT " .. name)
  if not ok then
    savepoint_undo(connection, name, depth)
    return nil, err
  end
  depths[connection] = depth - 1
  return true
end

local function savepoint(connection, fn)
  local depth = (depths[connection] or 0) + 1
  depths[connection] = depth
  local name = "pool_" .. depth
  local ok, err = connection:exec("SAVEPOINT " .. name)
  if not ok then
    depths[connection] = depth - 1
    return nil, err
  end
  local results = pack(xpcall(fn, core.keep_traceback, connection))
  if not results[1] then
    savepoint_undo(connection, name, depth)
    error(results[2], 0)
  end
  if results[2] == nil and results[3] ~= nil then
    savepoint_undo(connection, name, depth)
    return nil, results[3]
  end
  return settle(function() return savepoint_release(connection, name, depth) end, unpack(results, 2, results.n))
end

local leave = { __close = function(mark)
  local mine = active[mark.task]
  mine[mark.db] = nil
  if next(mine) == nil then active[mark.task] = nil end
end }

--- Notes that the running task is inside a transaction of `db`; close what it returns, which is therefore made first: memory may end.
local function enter(db, connection)
  local task = core.task_key()
  db = core.pool_of(db)
  local mark = setmetatable({ task = task, db = db }, leave)
  local mine = active[task] or {}
  mine[db] = connection
  active[task] = mine
  return mark
end

local function current(db)
  db = core.pool_of(db)
  local mine = active[core.task_key()]
  return mine and mine[db]
end

local function once(db, fn, options)
  local connection, err = db:acquire()
  if not connection then return nil, err end
  local _ <close> = connection
  local ok
  ok, err = begin(connection, options)
  if not ok then return nil, err end
  local _ <close> = enter(db, connection)
  return settle(function()
    if ended[connection] then return true end -- by fn itself
    return connection:commit()
  end, fn(connection))
end

local function may_retry(err) return core.is_error(err) and (err.sqlstate == "40001" or err.sqlstate == "40P01") end

local function with_retries(db, fn, options, retries)
  local backoff = BACKOFF_MIN
  while true do
    local results = pack(xpcall(once, core.keep_traceback, db, fn, options))
    local err
    if results[1] then err = results[2] == nil and results[3] or nil else err = results[2] end
    if not may_retry(err) or retries == 0 then
      if not results[1] then error(err, 0) end
      return unpack(results, 2, results.n)
    end
    retries = retries - 1
    local slept, late = core.sleep(backoff * (0.5 + math.random() / 2))
    if slept == nil and late then return nil, late end
    backoff = math.min(backoff * 2, BACKOFF_MAX)
  end
end

--- Runs fn(tx) in a transaction on one connection: commits unless fn raises or returns nil and an error. Inside a transaction
--- of the same task it is a savepoint. With retries, 40001 and 40P01 run fn again, also when COMMIT met them.
---@param fn fun(tx: pool.Connection): ...
---@param options? { isolation?: string, read_only?: boolean, deferrable?: boolean, retries?: integer }
---@return any ... fn's results, true if none; or nil, err
function Pool:transaction(fn, options)
  check.pool(self, "db:transaction")
  check.fn(fn, "db:transaction")
  options = check_options(options, RETRIED, "db:transaction")
  local inside = current(self)
  if inside then
    check_no_options(options, "db:transaction")
    return savepoint(inside, fn)
  end
  local retries = options.retries or 0
  if retries == 0 then return once(self, fn, options) end
  return with_retries(self, fn, options, retries)
end

--- The same on a connection that one has: a savepoint when it is in a transaction already.
---@param fn fun(tx: pool.Connection): ...
---@param options? { isolation?: string, read_only?: boolean, deferrable?: boolean }
---@return any ... fn's results, true if none; or nil, err
function Connection:transaction(fn, options)
  check.connection(self, "c:transaction")
  check.fn(fn, "c:transaction")
  if type(options) == "table" and options.retries then
    core.misuse("c:transaction: retries is db:transaction's: here the connection is yours")
  end
  options = check_options(options, BEGIN, "c:transaction")
  if self.in_transaction then
    check_no_options(options, "c:transaction")
    return savepoint(self, fn)
  end
  local ok, err = begin(self, options)
  if not ok then return nil, err end
  local results = pack(xpcall(fn, core.keep_traceback, self))
  if not results[1] or (results[2] == nil and results[3] ~= nil) then
    self:rollback()
    if not results[1] then error(results[2], 0) end
    return nil, results[3]
  end
  return settle(function() return self:commit() end, unpack(results, 2, results.n))
end

return {
  --- For who runs fn in a transaction that there is already: no option can be had.
  check_savepoint = function(fn, options, who)
    check.fn(fn, who)
    check_no_options(check_options(options, BEGIN, who), who)
  end,
}
