-- gradient: the limit follows the ratio of the long-term hold to the present one.
--
-- limit = limit x max(0.5, min(1, tolerance x long / short)) + queue, smoothed; nothing changes while less than half the limit is in use.
-- For comparison: baselines of latency drift (Netflix's issues 37, 88 and 165), and a pool sees throughput, which is sturdier.
--
-- Source: Gradient2Limit of Netflix/concurrency-limits.
--
-- tolerance    1.5    how much longer than usual a hold may be
-- queue        4      room for more, each tick
-- smooth       0.2    weight of the new limit
-- long         600    ticks that the long-term hold looks back
-- least        2      connections
-- most         64     connections

local given = ...
local known = { tolerance = 1.5, queue = 4, smooth = 0.2, long = 600, least = 2, most = 64 }
for name in pairs(given) do
  if known[name] == nil then error("gradient: there is no parameter " .. name) end
end
local function number(name, low, high)
  local value = given[name] or known[name]
  if type(value) ~= "number" or not (value >= low and value <= high) then
    error(("gradient: %s must be a number from %g to %g, not %s"):format(name, low, high, tostring(value)))
  end
  return value
end
local tolerance, queue, weight = number("tolerance", 1, 100), number("queue", 0, 1000), number("smooth", 0.01, 1)
local long, least, most = number("long", 2, 1e6), number("least", 1, 1000), number("most", 1, 1000)

return {
  name = "gradient",
  tick = function(s, state)
    if s.hold.count == 0 then return end
    state.long = state.long and state.long + (s.hold.mean - state.long) * 2 / (long + 1) or s.hold.mean
    if state.long > 2 * s.hold.mean then state.long = state.long * 0.95 end
    state.limit = state.limit or s.settings.size + s.settings.max_overflow
    if s.leased_max >= state.limit / 2 then
      local gradient = math.max(0.5, math.min(1, tolerance * state.long / s.hold.mean))
      local wanted = gradient * state.limit + queue
      state.limit = math.max(least, math.min(most, state.limit + weight * (wanted - state.limit)))
    end
    local size = math.floor(state.limit)
    if size ~= s.settings.size or s.settings.max_overflow ~= 0 then
      return { size = size, max_overflow = 0 }, ("hold %.3g s, usually %.3g s"):format(s.hold.mean, state.long)
    end
  end,
}
