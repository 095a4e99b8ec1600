-- aimd: additive increase, multiplicative decrease, as TCP finds its share of a network.
--
-- Wait p95 above `wait` with all connections in use: one more, or `grow` of the size. Opens refused: times `refused`. Holds `slow` times
-- what they are at best, with the pool full: times `full`. Otherwise the least that was idle during `window` ticks goes, a fifth of the
-- size at most. Beware: it takes a mixture of fast and slow work for a slow database.
--
-- Sources: Chiu, Jain 1989; Vibur DBCP's reducer (the least idle of a period).
--
-- wait       0.010    seconds
-- grow       0.10     share of the size
-- refused    0.8      factor
-- slow       3        times the best median hold
-- full       0.9      factor
-- window     30       ticks
-- least      2        connections
-- most       64       connections

local given = ...
local known = { wait = 0.010, grow = 0.10, refused = 0.8, slow = 3, full = 0.9, window = 30, least = 2, most = 64 }
for name in pairs(given) do
  if known[name] == nil then error("aimd: there is no parameter " .. name) end
end
local function number(name, low, high)
  local value = given[name] or known[name]
  if type(value) ~= "number" or not (value >= low and value <= high) then
    error(("aimd: %s must be a number from %g to %g, not %s"):format(name, low, high, tostring(value)))
  end
  return value
end
local wait, grow, refused, slow = number("wait", 0, 1000), number("grow", 0, 1), number("refused", 0.1, 1), number("slow", 1, 1000)
local full, window, least, most = number("full", 0.1, 1), number("window", 1, 3600), number("least", 1, 1000), number("most", 1, 1000)

-- What was idle all the time of the window: size less the most in use.
local function spare(s, state)
  state.used = state.used or {}
  table.insert(state.used, s.leased_max)
  if #state.used > window then table.remove(state.used, 1) end
  if #state.used < window then return 0 end
  local highest = 0
  for _, each in ipairs(state.used) do highest = math.max(highest, each) end
  return math.max(0, s.size - highest)
end

return {
  name = "aimd",
  tick = function(s, state)
    local size, reason = s.settings.size, nil
    if s.hold.count > 0 then state.best = math.min(state.best or s.hold.p50, s.hold.p50) end
    local busy, idle = s.leased_max >= s.limit, spare(s, state)
    if s.open_failures > 0 then size, reason = size * refused, "opens were refused"
    elseif busy and state.best and s.hold.p50 > slow * state.best then size, reason = size * full, "holds grow"
    elseif busy and s.wait.p95 > wait then size, reason = size + math.max(1, grow * size), ("wait p95 %.3g s"):format(s.wait.p95)
    elseif idle > 0 then size, reason = size - math.min(idle, math.max(1, size / 5)), ("%d were idle"):format(idle) end
    size = math.floor(math.max(least, math.min(most, size)))
    if size ~= s.settings.size or s.settings.max_overflow ~= 0 then return { size = size, max_overflow = 0 }, reason or "no overflow" end
  end,
}
