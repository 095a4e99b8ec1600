-- little: Little's law, L = lambda S: the mean number of connections in use is the rate of requests times how long each holds one.
--
-- The size is ceil(L + z sqrt(L)), with L smoothed, and the most of the last `window` ticks; no overflow. Beware: where the database slows
-- down under concurrency, S grows with the size and the law feeds on itself: `most` is the only thing that stops it.
--
-- Source: Little 1961; square-root staffing (Halfin, Whitt 1981).
--
-- z         2      standard deviations of room
-- window    30     ticks
-- smooth    0.3    weight of the newest tick
-- most      64     connections

local given = ...
local known = { z = 2, window = 30, smooth = 0.3, most = 64 }
for name in pairs(given) do
  if known[name] == nil then error("little: there is no parameter " .. name) end
end
local function number(name, low, high)
  local value = given[name] or known[name]
  if type(value) ~= "number" or not (value >= low and value <= high) then
    error(("little: %s must be a number from %g to %g, not %s"):format(name, low, high, tostring(value)))
  end
  return value
end
local z, window, weight, most = number("z", 0, 10), number("window", 1, 3600), number("smooth", 0.01, 1), number("most", 1, 1000)

return {
  name = "little",
  tick = function(s, state)
    local load = s.arrivals / s.interval * s.hold.mean
    if s.hold.count == 0 then load = s.leased_mean end
    state.load = state.load and state.load + weight * (load - state.load) or load
    state.ring = state.ring or {}
    table.insert(state.ring, state.load + z * math.sqrt(state.load))
    if #state.ring > window then table.remove(state.ring, 1) end
    local need = 1
    for _, each in ipairs(state.ring) do need = math.max(need, each) end
    local size = math.floor(math.min(most, math.ceil(need)))
    if size ~= s.settings.size or s.settings.max_overflow ~= 0 then
      return { size = size, max_overflow = 0 }, ("load %.2f"):format(state.load)
    end
  end,
}
