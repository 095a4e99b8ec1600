--- db:probe: does the database answer? For health endpoints.

local core = require "pool.core"

local KNOWN_FOR = 1 -- seconds that an answer of the server counts as news

--- True when the server answered something within the last second. Else a connection is checked, an idle one or a new one
--- within the limit, for at most `seconds`. Never takes one from the line: when all are busy, what the pool itself meets says
--- how things are.
---@param seconds number
---@return true | nil alive, pool.Error? err
function core.pool_methods:probe(seconds)
  local stats = self:stats()
  if stats.last_alive and stats.last_alive <= KNOWN_FOR and not stats.failing then return true end
  if stats.waiting > 0 or (stats.idle == 0 and stats.total >= stats.limit) then
    if not stats.failing then return true end
    return nil, core.error { kind = "connect", message = "connections to the database cannot be opened" }
  end
  local connection, err = self:acquire { timeout = seconds }
  if not connection then return nil, err end
  local _ <close> = connection
  local _ <close> = core.deadline(seconds)
  local rows
  rows, err = connection:query("select 1")
  if not rows then return nil, err end
  return true
end
