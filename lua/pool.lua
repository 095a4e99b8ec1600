--- pool: a Lua-scriptable database pool.
---
---   local pool = require "pool"
---   local db = pool.new { database_url = "postgresql:///shop", size = 5 }
---   for _, row in ipairs(assert(db:query("select id, title from task where done = $1", false))) do print(row.id, row.title) end
---
--- Times are seconds. Misuse raises at the caller's line; what the world does wrong returns nil, err, where err.kind says what
--- it was. A call that waits gives way to other tasks inside pool.run, and runs the loop until it is done outside.
--- The annotations of what is C are in pool/types.lua.

local core = require "pool.core"

-- Where these files are, so that an error is blamed on the code that called them.
core.set_home((debug.getinfo(1, "S").source:sub(2):gsub("%.lua$", "")))

local config = require "pool.config"
require "pool.transaction"
require "pool.session"
require "pool.events"
require "pool.rows"
require "pool.probe"
require "pool.tuner"
require "pool.advise"
require "pool.recording"

---@class pool
local pool = {
  version = "0.1.0",
  null = core.null,
  json = core.json,
  array = core.array,
  bytes = core.bytes,
  jsonb = core.jsonb,
  identifier = core.identifier,
  run = core.run,
  spawn = core.spawn,
  all = core.all,
  sleep = core.sleep,
  now = core.now,
  settings = core.settings,
  size_for = require("pool.sizing").size_for,
}

local function escaped(bytes) return (bytes:gsub(".", function(c) return ("\\x%02x"):format(c:byte()) end)) end

--- A text as the log may have it: who says something (a server, a client, an application) begins no line of pool's, and gives no
--- orders to a terminal.
local function tame(text)
  text = tostring(text):gsub("\r?\n", "\n  ")
  return (text:gsub("[^%C\n\t]", escaped):gsub("\xc2[\x80-\x9f]", escaped))
end

--- Where lines for the log go; replace it to send them elsewhere. It may not wait.
---@param level "debug" | "info" | "warn" | "error"
---@param message string
---@param fields table<string, any>
function pool.log(level, message, fields)
  local parts = { ("pool: %s: %s"):format(level, tame(message)) }
  local names = {}
  for name in pairs(fields or {}) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do parts[#parts + 1] = ("%s=%s"):format(name, tame(fields[name])) end
  io.stderr:write(table.concat(parts, " "), "\n")
end

core.set_log(function(level, message, fields) pool.log(level, message, fields) end)

--- A pool of connections to one database. Never blocks and opens nothing yet.
---@param settings? pool.Settings | string settings by name, or a database URL; what is left out comes from the environment, then
--- from `.env` in the working directory, then from the defaults
---@return pool.Pool
function pool.new(settings)
  local values, message = config.read(settings)
  if not values then core.misuse("pool.new: " .. message) end
  return core.new(values)
end

--- Runs fn(...) under a deadline: a wait that is under way when it passes, and each later one, returns nil, err of kind
--- deadline. The earlier of nested deadlines wins; tasks spawned inside inherit it.
---@param seconds number
---@param fn function
---@return any ... fn's results
function pool.deadline(seconds, fn, ...)
  if type(fn) ~= "function" then core.misuse("pool.deadline: a function is wanted, not a " .. type(fn)) end
  local _ <close> = core.deadline(seconds)
  return fn(...)
end

return pool
