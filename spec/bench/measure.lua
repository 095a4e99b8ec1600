--- How the bench measures: programs run to their end, counted by callgrind, or taken in turn with a rival's.
local measure = {}

local function quote(text) return "'" .. tostring(text):gsub("'", [['\'']]) .. "'" end

--- Runs a command (a list of words) to its end; what it printed, both streams. Raises with it when the command failed.
function measure.run(command)
  local words = {}
  for i, word in ipairs(command) do words[i] = quote(word) end
  local pipe = assert(io.popen(table.concat(words, " ") .. " 2>&1 </dev/null"))
  local output = pipe:read("a")
  if not pipe:close() then error(("%s failed:\n%s"):format(table.concat(command, " "), output), 0) end
  return output
end

--- Is there such a program?
function measure.has(program) return (os.execute("command -v " .. quote(program) .. " >/dev/null 2>&1")) == true end

--- The words of a command followed by more.
function measure.command(words, ...)
  local command = table.move(words, 1, #words, 1, {})
  for i = 1, select("#", ...) do command[#command + 1] = (select(i, ...)) end
  return command
end

--- What a workload says of itself (work.lua, queue_pool.py): { count, wall, cpu, bytes? }.
function measure.work(words, count)
  local output = measure.run(measure.command(words, count))
  local done, wall, cpu, bytes = output:match("^(%d+)%s+(%S+)%s+(%S+)%s*(%S*)")
  if not done then error("an answer was expected, not: " .. output, 0) end
  return { count = tonumber(done), wall = tonumber(wall), cpu = tonumber(cpu), bytes = tonumber(bytes) }
end

--- Runs a command under the shell's clock: its output, and the CPU seconds, its children's included.
function measure.timed(command)
  local script = [[TIMEFORMAT='cpu %U %S'; time "$@"]]
  local output = measure.run(measure.command({ "bash", "-c", script, "bash" }, table.unpack(command)))
  local user, system = output:match("cpu ([%d.]+) ([%d.]+)%s*$")
  return output, user + system
end

--- CPU seconds that a process has used, to the kernel's tick (a hundredth).
function measure.cpu(pid)
  local file = assert(io.open(("/proc/%d/stat"):format(pid)))
  local fields = file:read("a"):match("^.*%)%s+(.*)$") -- behind the name, which may hold anything
  file:close()
  local user, system = fields:match("^" .. ("%S+%s+"):rep(11) .. "(%d+)%s+(%d+)")
  return (user + system) / 100
end

local function instructions(words, count)
  local command = { "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null" }
  table.move(words, 1, #words, #command + 1, command)
  local collected = measure.run(measure.command(command, count)):match("Collected : (%d+)")
  return tonumber(collected) or error("callgrind counted nothing", 0)
end

--- Instructions of user space for each unit of work: a long run less a short one, so that what surrounds the work cancels.
--- nil without valgrind.
function measure.instructions(words, short, long)
  if not measure.has "valgrind" then return nil end
  return (instructions(words, long) - instructions(words, short)) / (long - short)
end

--- Middle, least, most.
function measure.spread(values)
  local sorted = table.move(values, 1, #values, 1, {})
  table.sort(sorted)
  local middle = (#sorted + 1) // 2
  local median = #sorted % 2 == 1 and sorted[middle] or (sorted[middle] + sorted[middle + 1]) / 2
  return { median = median, min = sorted[1], max = sorted[#sorted] }
end

--- Takes the functions of `sides` (name → function that returns a number) in turn, `times` times: the machine's mood is then
--- everybody's. A spread for each, and `ratio(a, b)`: that of the ratios taken within one turn.
function measure.in_turn(times, order, sides)
  local taken, result = {}, {}
  for _, name in ipairs(order) do taken[name] = {} end
  for turn = 1, times do
    for _, name in ipairs(order) do taken[name][turn] = sides[name]() end
  end
  for _, name in ipairs(order) do result[name] = measure.spread(taken[name]) end
  function result.ratio(a, b)
    local ratios = {}
    for turn = 1, times do ratios[turn] = taken[a][turn] / taken[b][turn] end
    return measure.spread(ratios)
  end
  return result
end

return measure
