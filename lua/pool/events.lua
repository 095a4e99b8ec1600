--- db:on: functions that hear what the pool does.
---
---   connect(conn)            a new connection, before its first lease; may query; an error (raised, or nil, err) fails the open
---   acquire(conn)            somebody was given a connection
---   release(conn, outcome)   ... and gives it back: "clean", "reset", "lost", "retired"
---   close(id, reason)        a connection was closed: "closed", "lost", or "failed" in its set-up
---   timeout(err)             somebody waited in vain
---   settings(new, old, by)   db:configure changed something, or a policy
---   policy(what, version, reason)   a tuning policy went live, proposed, was rolled back: what tuner:history() keeps
---
--- None but connect may wait; their errors are logged. They run inside the call they tell of, or soon after where that is no call: a
--- close, the release of a lease that nobody gave back (its conn has only its id left). While somebody listens to acquire or
--- release, a single db:query is a lease too, and so tells of both.

local check = require "pool.check"
local core = require "pool.core"

local Pool = core.pool_methods
local EVENTS = { connect = true, acquire = true, release = true, close = true, timeout = true, settings = true, policy = true }

--- Pool -> event -> list of registrations, { fn = function }: one function may be there twice.
local listeners = setmetatable({}, { __mode = "k" })

local function leased(name)
  local who = "db:" .. name
  return function(db, ...)
    check.statement(who, ...)
    local connection, err = db:acquire()
    if not connection then return nil, err end
    local _ <close> = connection
    return connection[name](connection, ...)
  end
end

--- A failing __tostring must not hide the failure it describes.
local function text_of(err)
  local fine, text = pcall(tostring, err)
  return fine and text or ("(an error that is a %s)"):format(type(err))
end

local function log_failure(event, text, traceback)
  require("pool").log("error", ('db:on("%s"): %s'):format(event, text), { traceback = traceback })
end

--- A failure of a set-up, as its task is to end with: the cause alone, for it becomes the message of everybody's error.
local Cause = { __tostring = function(cause) return cause.text end }

--- What a set-up's function raised or returned, as a Cause. Where a mistake was made is for the log: once for each, not again for
--- every connection that is tried.
local function cause_of(functions, err, traceback)
  local text = text_of(err):match("^[^\n]*")
  if traceback and not core.is_error(err) and functions.told ~= text then
    functions.told = text
    log_failure("connect", text, traceback)
  end
  return setmetatable({ text = text, traceback = false }, Cause)
end

local function trace(err) return { err = err, traceback = core.traceback(err, 2) } end

local function set_up(functions, connection)
  for _, registration in ipairs(functions.connect or {}) do
    local fine, value, err = xpcall(registration.fn, trace, connection)
    if not fine then error(cause_of(functions, value.err, value.traceback), 0) end
    if value == nil and err ~= nil then error(cause_of(functions, err), 0) end
  end
  functions.told = nil
end

--- What C calls (lpool.c): emit for events, setup for new connections, and the statements as leases.
local function handlers_of(functions)
  local handlers = { query = leased "query", json = leased "json", exec = leased "exec" }
  function handlers.emit(event, ...)
    for _, registration in ipairs(functions[event] or {}) do
      local ok, err = pcall(registration.fn, ...)
      if not ok then log_failure(event, text_of(err)) end
    end
  end
  function handlers.setup(connection) set_up(functions, connection) end
  return handlers
end

local function changed(db, functions)
  local wanted = {}
  for event in pairs(EVENTS) do
    if functions[event] and #functions[event] > 0 then wanted[event] = true end
  end
  core.set_handlers(db, handlers_of(functions), wanted)
end

local function remove(db, functions, event, registration)
  local rest = {}
  for _, other in ipairs(functions[event]) do
    if other ~= registration then rest[#rest + 1] = other end
  end
  functions[event] = rest
  changed(db, functions)
end

---@param event "connect" | "acquire" | "release" | "close" | "timeout" | "settings" | "policy"
---@param fn function
---@return fun() remove takes it off again
function Pool:on(event, fn)
  check.pool(self, "db:on")
  self = core.pool_of(self)
  if not EVENTS[event] then
    core.misuse(("db:on: there is no event '%s' (connect, acquire, release, close, timeout, settings, policy)"):format(tostring(event)))
  end
  check.fn(fn, "db:on")
  local functions = listeners[self] or {}
  listeners[self] = functions
  local list = { table.unpack(functions[event] or {}) }
  local registration = { fn = fn }
  list[#list + 1] = registration
  functions[event] = list
  changed(self, functions)
  return function() remove(self, functions, event, registration) end
end

return {
  --- Calls the functions of an event that comes up in Lua.
  tell = function(db, event, ...)
    for _, registration in ipairs((listeners[db] or {})[event] or {}) do
      local fine, err = pcall(registration.fn, ...)
      if not fine then log_failure(event, text_of(err)) end
    end
  end,
}
