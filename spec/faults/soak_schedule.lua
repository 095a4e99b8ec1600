--- What the processes of the soak have in common and needs no pool: chance, decks, the ceiling, lines of figures.
local schedule = {}

--- size + max_overflow never exceed this, whoever sets them: what the server's side is held against.
schedule.CEILING, schedule.HALF = 24, 12

--- Bytes that a policy may take: twice that is what resident memory may grow by (soak_judge.lua).
schedule.POLICY_MEMORY = 2 * 1024 * 1024

--- The name of the policy that is saved last and must have come to live.
schedule.LAST = "the-last-one"

--- A stream of numbers of its own (splitmix64), so that the choices follow from the seed alone: next(n) -> 1..n.
function schedule.random(seed)
  local state = seed
  return function(n)
    state = state + 0x9E3779B97F4A7C15
    local z = state
    z = (z ~ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ~ (z >> 27)) * 0x94D049BB133111EB
    return (z ~ (z >> 31)) % n + 1
  end
end

--- The elements of a list in a random order, again and again: next() -> one.
function schedule.deck(list, random)
  local left = {}
  return function()
    if #left == 0 then
      for i, each in ipairs(list) do left[i] = each end
      for i = #left, 2, -1 do
        local j = random(i)
        left[i], left[j] = left[j], left[i]
      end
    end
    return table.remove(left)
  end
end

--- Whether there is such a file.
function schedule.exists(path)
  local file = io.open(path)
  return file and file:close()
end

--- Whether the judge that started us still is: who has lost it ends by itself, whatever became of it.
function schedule.judged() return schedule.exists("/proc/" .. os.getenv "SOAK_JUDGE" .. "/stat") end

--- Runs fn when the block is left.
function schedule.finally(fn) return setmetatable({}, { __close = fn }) end

--- "a=1 b=2", in the order of names.
function schedule.line(taken)
  local words = {}
  for name, value in pairs(taken) do words[#words + 1] = ("%s=%s"):format(name, value) end
  table.sort(words)
  return table.concat(words, " ")
end

--- The other way: a table; numbers as numbers.
function schedule.read(line)
  local taken = {}
  for name, value in line:gmatch "(%w+)=(%S+)" do taken[name] = tonumber(value) or value end
  return taken
end

return schedule
