--- db:on: functions that hear what the pool does.
---
---   connect(conn)            a new connection, before its first lease; may query; an error (raised, or nil, err) fails the open
---   acquire(conn)            somebody was given a connection
---   release(conn, outcome)   ... and gives it back: "clean", "reset", "lost", "retired"
---   close(id, reason)        a connection was closed: "closed" or "lost"
---   timeout(err)             somebody waited in vain
---   settings(new, old, by)   db:configure changed something
---
--- A lease that nobody gave back (its task ended without a <close>, or the collector found it) is told in the log instead of to release.
--- All but connect run inside the call they tell of and may not wait; their errors are logged. While somebody listens to
--- acquire or release, a single db:query is a lease too, and so tells of both.

local core = require "pool.core"

local Pool = core.pool_methods
local EVENTS = { connect = true, acquire = true, release = true, close = true, timeout = true, settings = true }

--- Pool -> event -> list of functions.
local listeners = setmetatable({}, { __mode = "k" })

local function leased(name)
  return function(db, ...)
    local connection, err = db:acquire()
    if not connection then return nil, err end
    local _ <close> = connection
    return connection[name](connection, ...)
  end
end

--- What C calls (lpool.c): emit for events, setup for new connections, and the statements as leases.
local function handlers_of(functions)
  local handlers = { query = leased "query", json = leased "json", exec = leased "exec" }
  function handlers.emit(event, ...)
    for _, fn in ipairs(functions[event] or {}) do
      local ok, err = pcall(fn, ...)
      if not ok then require("pool").log("error", ('db:on("%s"): %s'):format(event, tostring(err)), {}) end
    end
  end
  function handlers.setup(connection)
    for _, fn in ipairs(functions.connect or {}) do
      local value, err = fn(connection)
      if value == nil and err ~= nil then error(err, 0) end
    end
  end
  return handlers
end

local function changed(db, functions)
  local wanted = {}
  for event, list in pairs(functions) do
    if #list > 0 then wanted[event] = true end
  end
  core.set_handlers(db, handlers_of(functions), wanted)
end

---@param event "connect" | "acquire" | "release" | "close" | "timeout" | "settings"
---@param fn function
---@return fun() remove takes it off again
function Pool:on(event, fn)
  if not EVENTS[event] then
    core.misuse(("db:on: there is no event '%s' (connect, acquire, release, close, timeout, settings)"):format(tostring(event)))
  end
  if type(fn) ~= "function" then core.misuse(("db:on: a function is wanted, not a %s"):format(type(fn))) end
  local functions = listeners[self] or {}
  listeners[self] = functions
  local list = { table.unpack(functions[event] or {}) }
  list[#list + 1] = fn
  functions[event] = list
  changed(self, functions)
  return function()
    local rest = {}
    for _, other in ipairs(functions[event]) do
      if other ~= fn then rest[#rest + 1] = other end
    end
    functions[event] = rest
    changed(self, functions)
  end
end
