-- deadline: nobody waits longer than it is worth.
--
-- A caller who leaves after `deadline` seconds is served in vain by a pool that lets him wait longer. So the timeout is `share` of the
-- deadline, less what a statement takes (its p99, smoothed), but never less than half of that. In a burst the line stays first come, first
-- served, which serves everybody; once it has stood for `interval` it is an overload, and the line sheds by the time waited (codel) or
-- serves the newest first (lifo). `target`, the wait that codel accepts, is `holds` median holds as they are when the database is well
-- (the least seen, forgotten at 0.2 % a tick), so that fast and slow databases are treated alike and a slow hour does not lengthen the
-- line.
--
-- Sources: Maurer, "Fail at Scale" (ACM Queue 2015); Zhou and others, "Overload Control for Scaling WeChat Microservices" (SoCC 2018).
--
-- deadline    1        seconds after which the callers have gone
-- share       0.8      of it that the pool may take
-- queue       codel    what to do in an overload: codel, lifo, or fifo for nothing
-- interval    0.05     seconds that the line may stand before it is one
-- holds       1        median holds that codel lets people wait
-- least       0.005    seconds, the least target

local given = ...
local known = { deadline = 1, share = 0.8, queue = "codel", interval = 0.05, holds = 1, least = 0.005 }
for name in pairs(given) do
  if known[name] == nil then error("deadline: there is no parameter " .. name) end
end
local function number(name, low, high)
  local value = given[name] or known[name]
  if type(value) ~= "number" or not (value >= low and value <= high) then
    error(("deadline: %s must be a number from %g to %g, not %s"):format(name, low, high, tostring(value)))
  end
  return value
end
local deadline, share = number("deadline", 0.001, 1e6), number("share", 0.01, 1)
local interval, holds, least = number("interval", 0, 1e6), number("holds", 0.1, 1000), number("least", 0, 1e6)
local queue = given.queue or known.queue
if queue ~= "codel" and queue ~= "lifo" and queue ~= "fifo" then
  error("deadline: queue must be codel, lifo or fifo, not " .. tostring(queue))
end

local SMOOTH, FORGET = 0.2, 0.002

local function smooth(old, new) return old and old + SMOOTH * (new - old) or new end

local function watch(s, state)
  if s.hold.count == 0 then return end
  state.median = smooth(state.median, s.hold.p50)
  state.p99 = smooth(state.p99, s.hold.p99)
  state.base = math.min((state.base or state.median) * (1 + FORGET), state.median)
end

return {
  name = "deadline",
  tick = function(s, state)
    watch(s, state)
    local timeout = math.max(share * deadline / 2, share * deadline - (state.p99 or 0))
    local target = math.max(least, holds * (state.base or 0))
    local now, changes = s.settings, {}
    if math.abs(now.timeout - timeout) > 0.05 * timeout then changes.timeout = timeout end
    if now.queue ~= queue then changes.queue = queue end
    if now.queue_interval ~= interval then changes.queue_interval = interval end
    if math.abs(now.queue_target - target) > 0.2 * target then changes.queue_target = target end
    if next(changes) then return changes, ("callers leave after %g s, a median hold is %.3g s"):format(deadline, state.median or 0) end
  end,
}
