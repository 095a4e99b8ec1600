-- vegas: estimates how many of those in use only wait inside the database, from the best hold ever seen.
--
-- queue = limit (1 - best / hold): below `alpha` there is room, one more; above `beta` one less, where alpha and beta are multiples of
-- log10 of the limit. Nothing changes while less than half the limit is in use. For comparison: see gradient.
--
-- Source: TCP Vegas (Brakmo, Peterson 1995), VegasLimit of Netflix/concurrency-limits.
--
-- alpha    3      times max(1, log10(limit))
-- beta     6      times the same
-- probe    60     ticks after which the best hold is looked for anew
-- least    2      connections
-- most     64     connections

local given = ...
local known = { alpha = 3, beta = 6, probe = 60, least = 2, most = 64 }
for name in pairs(given) do
  if known[name] == nil then error("vegas: there is no parameter " .. name) end
end
local function number(name, low, high)
  local value = given[name] or known[name]
  if type(value) ~= "number" or not (value >= low and value <= high) then
    error(("vegas: %s must be a number from %g to %g, not %s"):format(name, low, high, tostring(value)))
  end
  return value
end
local alpha, beta, probe = number("alpha", 0, 100), number("beta", 0, 100), number("probe", 2, 1e6)
local least, most = number("least", 1, 1000), number("most", 1, 1000)

return {
  name = "vegas",
  tick = function(s, state)
    if s.hold.count == 0 then return end
    state.ticks = (state.ticks or 0) + 1
    if not state.best or s.hold.mean < state.best or state.ticks % probe == 0 then state.best = s.hold.mean end
    state.limit = state.limit or s.settings.size + s.settings.max_overflow
    local waiting, unit = state.limit * (1 - state.best / s.hold.mean), math.max(1, math.log(state.limit, 10))
    if s.leased_max >= state.limit / 2 then
      if waiting < alpha * unit then state.limit = math.min(most, state.limit + unit)
      elseif waiting > beta * unit then state.limit = math.max(least, state.limit - unit) end
    end
    local size = math.floor(state.limit)
    if size ~= s.settings.size or s.settings.max_overflow ~= 0 then
      return { size = size, max_overflow = 0 }, ("about %.1f wait inside the database"):format(waiting)
    end
  end,
}
