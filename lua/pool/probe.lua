--- db:probe: does the database answer? For health endpoints.

local check = require "pool.check"
local core = require "pool.core"

local KNOWN_FOR = 1 -- seconds that an answer of the server counts as news
local LOOK_EVERY = 0.02 -- seconds, while others ask

--- Did a server answer just now? A connection lost since makes last_alive nil; an open that failed since, failing.
local function news(stats) return stats.last_alive ~= nil and stats.last_alive <= KNOWN_FOR and not stats.failing end

--- Nothing to ask with: a connection would have to be taken from the line, or nothing is lent.
local function busy(stats)
  return stats.waiting > 0 or stats.paused or (stats.idle == 0 and stats.total >= stats.limit)
end

local function silent(seconds)
  return nil, core.error { kind = "connect", message = ("the database did not answer within %.2g s"):format(seconds) }
end

local function ask(db, seconds)
  local until_then = core.now() + seconds
  local connection, err = db:acquire { timeout = seconds }
  if not connection then
    if err.kind ~= "timeout" then return nil, err end
    if news(db:stats()) then return true end -- others were quicker
    return silent(seconds)
  end
  local _ <close> = connection
  local _ <close> = core.deadline(math.max(0, until_then - core.now()))
  local rows
  rows, err = connection:query("select 1")
  if not rows then return nil, err end
  return true
end

--- True when a server answered something within the last second and nothing bad was seen since. Else a connection is checked, an
--- idle one or a new one within the limit, for at most `seconds`. Never takes one from the line: when all are busy, what the
--- pool itself meets says how things are; when a loss is the last that it met, what it meets next.
---@param seconds number
---@return true | nil alive, pool.Error? err
function core.pool_methods:probe(seconds)
  check.pool(self, "db:probe")
  local give_up = core.now() + core.check_seconds(seconds, "db:probe")
  while true do
    local stats = self:stats()
    if news(stats) then return true end
    local left = give_up - core.now()
    if not busy(stats) then return ask(self, math.max(0, left)) end
    if stats.failing then
      return nil, core.error { kind = "connect", message = "connections to the database cannot be opened" }
    end
    if stats.last_alive or stats.paused then return true end
    if left <= 0 then return silent(seconds) end
    local slept, late = core.sleep(math.min(left, LOOK_EVERY))
    if not slept then return nil, late end
  end
end
