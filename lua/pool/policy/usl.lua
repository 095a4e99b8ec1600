-- usl: as many connections as the load needs, and never more than the database does best with.
--
-- Demand: Little's law. The mean number of leases L of a tick, and what chance adds to it, L + z sqrt(L); the most of the last `window`
-- ticks is the size. Everything up to the ceiling is overflow: it comes at once when it is needed, and lingers for idle_timeout.
--
-- The ceiling: a database that is asked too much at once does less (Gunther's Universal Scalability Law: its throughput at n queries at a
-- time is n / (1 + sigma (n - 1) + kappa n (n - 1)), highest at N* = sqrt((1 - sigma) / kappa)). Only a pool that is full, with a line
-- behind it, shows what its ceiling does, so only then it is looked for: `settle` ticks at a ceiling, then a quarter down, for as long as
-- that costs no throughput (from fewer than 8, up first). Once three ceilings are known the law is fitted to them and the next one is
-- `headroom` N*, a quarter away at most; where the fit is no such law, the smallest ceiling within `slack` of the best is kept (one step
-- up is tried where down was worse). What was found is doubted after `again` ticks, full or quiet. A database that slows down as a whole
-- looks the same at every ceiling, and leaves it where it is: the law's shape decides, not the time a statement takes.
--
-- Sources: Little 1961; Gunther 2007; .NET's thread pool hill climbing (Hellerstein, Morrison, Eilebrecht 2008) for the search.
--
-- z         2       standard deviations of the demand that the size covers
-- window    120     ticks
-- floor     2       connections, the least size
-- ceiling   size + max_overflow as found   connections, where the search begins
-- most      64      connections, the highest ceiling that is tried
-- settle    3       ticks at a ceiling before it is judged
-- slack     0.03    share of throughput that is given for fewer connections
-- headroom  1.1     times N*
-- again     60      ticks

local given = ...
local known = { z = 2, window = 120, floor = 2, ceiling = false, most = 64, settle = 3, slack = 0.03, again = 60, headroom = 1.1 }
for name in pairs(given) do
  if known[name] == nil then error("usl: there is no parameter " .. name) end
end
local function number(name, low, high, kind)
  local value = given[name] or known[name]
  if type(value) ~= "number" or (kind and math.type(value) ~= kind) or not (value >= low and value <= high) then
    error(("usl: %s must be a %s from %g to %g, not %s"):format(name, kind and "whole number" or "number", low, high, tostring(value)))
  end
  return value
end
local z, slack = number("z", 0, 10), number("slack", 0, 0.5)
local window, floor, settle = number("window", 1, 3600, "integer"), number("floor", 1, 1000, "integer"), number("settle", 1, 100, "integer")
local headroom = number("headroom", 0.5, 2)
local most, again = number("most", 1, 1000, "integer"), number("again", 1, 1000000, "integer")
local first = given.ceiling and number("ceiling", 1, 1000, "integer")

local SMALL = 8 -- connections: below, the search goes up before it goes down

-- The most of the last `window` values.
local function peak(ring, value)
  ring[#ring + 1] = value
  if #ring > window then table.remove(ring, 1) end
  local highest = 0
  for _, each in ipairs(ring) do highest = math.max(highest, each) end
  return highest
end

-- The ceiling with the best throughput seen; of several within `slack` of it the smallest.
local function best_of(seen)
  local best = 0
  for _, x in pairs(seen) do best = math.max(best, x) end
  local least
  for n, x in pairs(seen) do
    if x >= (1 - slack) * best and (not least or n < least) then least = n end
  end
  return least, best
end

-- Solves the 3 x 3 system m x = r by elimination; nil when it has no one solution.
local function solve(m, r)
  for i = 1, 3 do
    local pivot = i
    for j = i + 1, 3 do if math.abs(m[j][i]) > math.abs(m[pivot][i]) then pivot = j end end
    m[i], m[pivot], r[i], r[pivot] = m[pivot], m[i], r[pivot], r[i]
    if math.abs(m[i][i]) < 1e-300 then return nil end
    for j = i + 1, 3 do
      local f = m[j][i] / m[i][i]
      for k = i, 3 do m[j][k] = m[j][k] - f * m[i][k] end
      r[j] = r[j] - f * r[i]
    end
  end
  local c = r[3] / m[3][3]
  local b = (r[2] - m[2][3] * c) / m[2][2]
  return (r[1] - m[1][2] * b - m[1][3] * c) / m[1][1], b, c
end

-- N* from the law's own form, n / x = a + b (n - 1) + c n (n - 1), fitted by least squares to the ceilings seen; nil with fewer than three
-- of them, or where the fit is no such law (a, c > 0 and b < a).
local function fitted(seen)
  local m, r, count = { { 0, 0, 0 }, { 0, 0, 0 }, { 0, 0, 0 } }, { 0, 0, 0 }, 0
  for n, x in pairs(seen) do
    if x > 0 then
      local row, y = { 1, n - 1, n * (n - 1) }, n / x
      for i = 1, 3 do
        for j = 1, 3 do m[i][j] = m[i][j] + row[i] * row[j] / (y * y) end -- by relative error
        r[i] = r[i] + row[i] / y
      end
      count = count + 1
    end
  end
  if count < 3 then return nil end
  local a, b, c = solve(m, r)
  if a and a > 0 and c > 0 and b < a then return math.sqrt((a - b) / c) end
end

-- One step of the search: the next ceiling to stand at.
local function step(state, n)
  local best, x = best_of(state.seen)
  local star = fitted(state.seen)
  if star then
    local wanted = math.floor(math.max(n * 0.75, math.min(n * 1.25, headroom * star, most)) + 0.5)
    if wanted >= 1 and not state.seen[wanted] and math.abs(wanted - n) > 0.1 * n then return wanted end
    if state.seen[best] and math.abs(best - headroom * star) <= 0.25 * best then return best end
  end
  if state.seen[n] < (1 - slack) * x and best ~= n then return best end -- back to what was better
  local down, up = math.max(1, math.floor(n * 0.75)), math.min(most, math.ceil(n * 1.25))
  if n < SMALL and n == best then -- few databases do best with so few: up first, by what one tick can change size and overflow by
    up = math.min(most, math.max(up, n + 2))
    if not state.seen[up] then return up end
  end
  if not state.seen[down] then return down end
  if n == best and not state.seen[up] and state.seen[down] < (1 - slack) * state.seen[n] then return up end
  return best
end

local function search(s, state, limit)
  if state.at ~= limit then
    state.at, state.stood, state.sum = limit, -1, 0 -- the tick of the change tells of neither
    return
  end
  state.stood = state.stood + 1
  if state.stood < 1 then return end
  state.sum = state.sum + s.releases / s.interval
  if state.stood < settle then return end
  state.seen[limit] = state.sum / state.stood
  state.stood, state.sum = 0, 0
  local wanted = step(state, limit)
  if wanted == limit then
    state.rest = (state.rest or 0) + settle
    if state.rest >= again then
      state.rest, state.seen = 0, { [limit] = state.seen[limit] }
    end
  end
  state.ceiling = wanted
end

return {
  name = "usl",
  tick = function(s, state)
    local limit = s.size + s.max_overflow
    state.ceiling = state.ceiling or first or limit
    state.ring, state.seen = state.ring or {}, state.seen or {}
    local full = s.waiting > 0 and s.leased_mean > 0.85 * limit
    if full then search(s, state, limit)
    else
      state.at = nil
      state.calm = s.waiting == 0 and (state.calm or 0) + 1 or 0
      if state.calm > again then state.seen = {} end
    end
    local need = peak(state.ring, math.max(s.leased_max, s.leased_mean + z * math.sqrt(s.leased_mean)))
    local size = math.max(1, math.min(state.ceiling, math.max(floor, math.ceil(need))))
    local most_a_tick = math.max(1, s.settings.size // 4) -- what the core lets it change by: the ceiling is to be whole all the way
    size = math.max(s.settings.size - most_a_tick, math.min(s.settings.size + most_a_tick, size))
    local overflow = math.max(0, state.ceiling - size)
    if size ~= s.settings.size or overflow ~= s.settings.max_overflow then
      return { size = size, max_overflow = overflow }, ("demand %.1f, ceiling %d"):format(need, state.ceiling)
    end
  end,
}
