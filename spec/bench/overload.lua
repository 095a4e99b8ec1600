--- The overload table (started by spec/bench/run overload): goodput and the p99 of the wait from half to ten times the capacity, for each
--- way to stand in line, real and simulated beside each other, as Markdown. BENCH_URL names the database.
local cells = require "bench.overload_cells"
local pool = require "pool"

local LOADS, QUICK_LOADS = { 0.5, 0.8, 1, 1.5, 2, 3, 5, 10 }, { 0.8, 3 }
local KINDS = {
  { "gone", "Callers who are gone at their deadline and whom nobody sees go: what they asked for goes on for nobody" },
  { "leave", "Callers who leave at their deadline (pool.deadline): out of the line, their statement cancelled" },
}

local function usage(message)
  io.stderr:write("bench: overload: ", message, "; see spec/bench/run --help\n")
  os.exit(2)
end

local p, quick, loads = cells.DEFAULTS, false, nil

local function parse(words)
  local i, seconds = 1, nil
  while words[i] do
    if words[i] == "--quick" then
      quick = true
    elseif words[i] == "--seconds" then
      i = i + 1
      seconds = tonumber(words[i]) or usage "--seconds is followed by a number: half of what a cell takes"
    elseif words[i] ~= "--no-install" and words[i] ~= "--markdown" then
      usage(("unknown option %q"):format(words[i]))
    end
    i = i + 1
  end
  loads, p.seconds = quick and QUICK_LOADS or LOADS, seconds or (quick and 0.8 or p.seconds)
end

local function shown(real, simulated)
  local function wait(cell) return cell.p99 and ("%.2f"):format(cell.p99) or "–" end
  return ("%.0f / %.0f %%, %s / %s s"):format(100 * real.goodput, 100 * simulated.goodput, wait(real), wait(simulated))
end

local function row(kind, load)
  local texts = { ("%g"):format(load) }
  for _, way in ipairs(cells.ways(p)) do
    local real = cells.real(p, way, kind, load, os.getenv "BENCH_URL")
    texts[#texts + 1] = shown(real, cells.simulated(p, way, kind, load))
  end
  return "| " .. table.concat(texts, " | ") .. " |"
end

parse(arg)
print(("%d connections, statements of %g ms in the mean (exponential), so a capacity of %g a second; callers with %g s.\n"):format(p.size,
  1000 * p.mean, cells.capacity(p), p.deadline))
print "Goodput as a share of the capacity, real / simulated, and the p99 of the wait, real / simulated.\n"
pool.log = function() end
pool.run(function()
  for _, kind in ipairs(KINDS) do
    print("**" .. kind[2] .. "**\n")
    local titles = { "load" }
    for i, way in ipairs(cells.ways(p)) do titles[i + 1] = way.name end
    print("| " .. table.concat(titles, " | ") .. " |")
    print("|" .. ("---|"):rep(#titles))
    for _, load in ipairs(loads) do
      io.stderr:write(("bench: overload: %s, %g times the capacity\n"):format(kind[1], load))
      print(row(kind[1], load))
      io.stdout:flush()
    end
    print()
  end
end)
