-- hillclimb: tries a little more and a little less, and goes where throughput grows. Knows no model.
--
-- While the pool is full the size takes two values in turn, `wave` of it apart, for `period` ticks each; when `samples` of each are there,
-- the difference of their throughputs, measured against its own noise, says where to go: up or down by one wave when it is larger than
-- `confidence` standard errors, nowhere otherwise. The period is drawn anew each time, so that it cannot keep step with the load.
--
-- Source: the .NET thread pool's hill climbing (Hellerstein, Morrison, Eilebrecht 2008), with a square wave in place of the Fourier
-- component.
--
-- wave          0.1    share of the size, one connection at least
-- period        2      ticks, and up to as many more by chance
-- samples       3      of each value
-- confidence    1.5    standard errors
-- least         2      connections
-- most          64     connections

local given = ...
local known = { wave = 0.1, period = 2, samples = 3, confidence = 1.5, least = 2, most = 64 }
for name in pairs(given) do
  if known[name] == nil then error("hillclimb: there is no parameter " .. name) end
end
local function number(name, low, high)
  local value = given[name] or known[name]
  if type(value) ~= "number" or not (value >= low and value <= high) then
    error(("hillclimb: %s must be a number from %g to %g, not %s"):format(name, low, high, tostring(value)))
  end
  return value
end
local wave, period, samples = number("wave", 0.01, 1), number("period", 1, 1000), number("samples", 2, 1000)
local confidence, least, most = number("confidence", 0, 10), number("least", 1, 1000), number("most", 1, 1000)

local function moments(values)
  local sum, squares = 0, 0
  for _, each in ipairs(values) do sum = sum + each end
  local mean = sum / #values
  for _, each in ipairs(values) do squares = squares + (each - mean) ^ 2 end
  return mean, squares / math.max(1, #values - 1) / #values
end

-- Up, down or nowhere, once there is enough of both.
local function verdict(state)
  local low, low_error = moments(state.low)
  local high, high_error = moments(state.high)
  local noise = math.sqrt(low_error + high_error)
  state.low, state.high = {}, {}
  if high - low > confidence * noise then return 1 end
  if low - high > confidence * noise then return -1 end
  return 0
end

return {
  name = "hillclimb",
  tick = function(s, state)
    state.middle = state.middle or s.settings.size + s.settings.max_overflow
    state.low, state.high, state.up = state.low or {}, state.high or {}, state.up or false
    local step = math.max(1, math.floor(wave * state.middle + 0.5))
    if s.waiting > 0 and s.leased_max >= s.limit then
      state.left = (state.left or 1) - 1
      if state.settled then table.insert(state.up and state.high or state.low, s.releases / s.interval) end
      state.settled = true
      if state.left <= 0 then
        state.up, state.settled = not state.up, false
        state.left = math.floor(period + math.random() * period + 0.5) + 1
      end
      if #state.low >= samples and #state.high >= samples then
        state.middle = math.max(least, math.min(most, state.middle + step * verdict(state)))
      end
    end
    local size = math.floor(math.max(least, math.min(most, state.middle + (state.up and step or 0))))
    if size ~= s.settings.size or s.settings.max_overflow ~= 0 then
      return { size = size, max_overflow = 0 }, ("about %d"):format(state.middle)
    end
  end,
}
