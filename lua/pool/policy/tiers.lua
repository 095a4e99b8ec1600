-- tiers: one of three fixed sizes, as sizing guides give them.
--
-- Source: the rules of thumb for SQLAlchemy's pool in web applications.
--
-- tier    moderate    conservative: 5 + 5, moderate: 10 + 20, high: 20 + 30 (size + max_overflow)

local given = ...
local tiers = { conservative = { 5, 5 }, moderate = { 10, 20 }, high = { 20, 30 } }
for name in pairs(given) do
  if name ~= "tier" then error("tiers: there is no parameter " .. name) end
end
local tier = given.tier or "moderate"
if not tiers[tier] then error("tiers: tier must be conservative, moderate or high, not " .. tostring(tier)) end

return {
  name = "tiers",
  tick = function(s)
    local size, overflow = tiers[tier][1], tiers[tier][2]
    if s.settings.size ~= size or s.settings.max_overflow ~= overflow then return { size = size, max_overflow = overflow }, tier end
  end,
}
