-- default: as many connections as the load needs and the database does well with (usl), nobody in line for longer than it is worth
-- (deadline), and never what belongs to others (guard).
--
-- deadline    1      seconds after which the callers have gone: the one figure that only you know
-- reserve     3      connections of the database that are not ours to take
-- floor       2      connections, the least size

local given = ...
local known = { deadline = true, reserve = true, floor = true }
for name in pairs(given) do
  if not known[name] then error(("default: there is no parameter %s (copy this file, and give it to its part)"):format(name)) end
end

local made = compose {
  { "usl", floor = given.floor },
  { "deadline", deadline = given.deadline },
  { "guard", reserve = given.reserve },
}
made.name = "default"
return made
