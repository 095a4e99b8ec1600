-- codel: the line sheds by the time waited, whatever the size.
--
-- The pool's own queue = codel does the work: when nobody was served within `target` for `interval`, whoever has waited twice the target
-- is answered `overloaded` at once. This policy keeps the target at `holds` median holds, smoothed: 5 ms, as in routers, is too tight for
-- queries of 10 ms.
--
-- Sources: Nichols, Jacobson, "Controlling Queue Delay" (ACM Queue 2012); folly's Codel.
--
-- holds       2        median holds
-- interval    0.1      seconds
-- least       0.005    seconds, the least target

local given = ...
local known = { holds = 2, interval = 0.1, least = 0.005 }
for name in pairs(given) do
  if known[name] == nil then error("codel: there is no parameter " .. name) end
end
local function number(name, low, high)
  local value = given[name] or known[name]
  if type(value) ~= "number" or not (value >= low and value <= high) then
    error(("codel: %s must be a number from %g to %g, not %s"):format(name, low, high, tostring(value)))
  end
  return value
end
local holds, interval, least = number("holds", 0.1, 1000), number("interval", 0, 1e6), number("least", 0, 1e6)

return {
  name = "codel",
  tick = function(s, state)
    if s.hold.count > 0 then state.median = state.median and state.median + 0.2 * (s.hold.p50 - state.median) or s.hold.p50 end
    local target = math.max(least, holds * (state.median or 0))
    local now, changes = s.settings, {}
    if now.queue ~= "codel" then changes.queue = "codel" end
    if now.queue_interval ~= interval then changes.queue_interval = interval end
    if math.abs(now.queue_target - target) > 0.2 * target then changes.queue_target = target end
    if next(changes) then return changes, ("a median hold is %.3g s"):format(state.median or 0) end
  end,
}
