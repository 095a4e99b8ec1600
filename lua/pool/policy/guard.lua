-- guard: leave the database its room, and bring it back gently.
--
-- Neighbours: where the database tells how many connections it allows and how many are in use, size + max_overflow never takes more than
-- the others leave, less a `reserve` for people and replication (PostgreSQL keeps three for superusers). Where it does not tell, refusals
-- for want of connections bound the pool at what is open, and the bound grows by one each `regrow` ticks without refusals. Restarts: while
-- opens fail, one at a time is tried; then max_opening doubles each tick up to `openings`, so that a database that comes back is not met
-- by every log-in at once. In a composition it comes last: it bounds what those before it have proposed.
--
-- Sources: gRPC's connection back-off; the envelope of HikariCP's and PgBouncer's documentation (never all of max_connections).
--
-- reserve     3    connections of the database that are not ours to take
-- openings    4    opens at a time when all is well
-- regrow      5    ticks

local given = ...
local known = { reserve = 3, openings = 4, regrow = 5 }
for name in pairs(given) do
  if known[name] == nil then error("guard: there is no parameter " .. name) end
end
local function whole(name, low, high)
  local value = given[name] or known[name]
  if math.type(value) ~= "integer" or value < low or value > high then
    error(("guard: %s must be a whole number from %d to %d, not %s"):format(name, low, high, tostring(value)))
  end
  return value
end
local reserve, openings, regrow = whole("reserve", 0, 100000), whole("openings", 1, 1000), whole("regrow", 1, 100000)

-- What refusals say: an open that fails while others stand has met a limit; one that fails while none stands has met a database that
-- is down, which says nothing of limits.
local function refused(s, state)
  if s.open_failures > 0 and s.total > 0 and s.releases > 0 then
    state.bound, state.calm = math.max(1, s.total), 0
  elseif state.bound then
    state.calm = state.calm + 1
    if state.calm % regrow == 0 then state.bound = state.bound + 1 end
    if state.bound > 1000 then state.bound = nil end
  end
  return state.bound
end

-- What we may have; nil when nothing says.
local function bound_of(s, state)
  local most, used = s.database.max_connections, s.database.in_use
  if most and used then return math.max(1, most - math.max(0, used - s.total) - reserve) end
  return refused(s, state)
end

return {
  name = "guard",
  tick = function(s, state)
    local now, changes, reasons = s.settings, {}, {}
    local bound = bound_of(s, state)
    if bound and now.size + now.max_overflow > bound then
      changes.size = math.max(1, math.min(now.size, bound))
      changes.max_overflow = math.max(0, bound - changes.size)
      reasons[#reasons + 1] = ("the others leave %d connections"):format(bound)
    end
    local opening = now.max_opening
    if s.failing then opening = 1
    elseif opening < openings then opening = math.min(openings, opening * 2) end
    if opening ~= now.max_opening then
      changes.max_opening = opening
      reasons[#reasons + 1] = s.failing and "opens fail" or "the database is back"
    end
    if next(changes) then return changes, table.concat(reasons, ", ") end
  end,
}
