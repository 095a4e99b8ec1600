--- What a process under the soak says of itself: memory, tasks, coroutines, the pool's counters; as one line of name=value.
---
--- Tasks, coroutines and leases are counted by a walk over everything that Lua's registry reaches, the stacks of coroutines included:
--- what nothing reaches is garbage, what something reaches and nobody wants is a leak.
local schedule = require "faults.soak_schedule"

local figures = {}

-- Names of what is counted, by the name of its metatable.
local KINDS = { ["pool.Task"] = "tasks", ["pool.Connection"] = "connections", ["pool.Pool"] = "pools" }

local function malloc_module()
  local build = os.getenv "POOL_SPEC_BUILD"
  local open = build and package.loadlib(build .. "/spec/malloc_figures.so", "luaopen_malloc_figures")
  return open and open() or { figures = function() end }
end

figures.malloc = malloc_module()

-- Each kind of value: calls found(value) for whatever it refers to and keeps alive.
local REACHES = {}

function REACHES.table(t, found)
  local meta = debug.getmetatable(t)
  local mode = meta and rawget(meta, "__mode") or ""
  found(meta)
  for key, value in next, t do
    if not mode:find "k" then found(key) end
    if not mode:find "v" then found(value) end
  end
end

REACHES["function"] = function(fn, found)
  local i = 1
  while true do
    local name, value = debug.getupvalue(fn, i)
    if not name then return end
    found(value)
    i = i + 1
  end
end

function REACHES.userdata(u, found)
  found(debug.getmetatable(u))
  local i = 1
  while true do
    local value, is = debug.getuservalue(u, i)
    if not is then return end
    found(value)
    i = i + 1
  end
end

function REACHES.thread(co, found)
  local level = 0
  while true do
    local info = debug.getinfo(co, level, "f")
    if not info then return end
    found(info.func)
    for _, step in ipairs { 1, -1 } do -- locals and temporaries, then varargs
      local i = step
      while true do
        local name, value = debug.getlocal(co, level, i)
        if not name then break end
        found(value)
        i = i + step
      end
    end
    level = level + 1
  end
end

--- How many of each: { coroutines =, tasks =, connections =, pools = }.
function figures.census()
  local counts, seen, left = { coroutines = 0, tasks = 0, connections = 0, pools = 0 }, {}, {}
  local function found(value)
    if REACHES[type(value)] and not seen[value] then
      seen[value] = true
      left[#left + 1] = value
    end
  end
  found(debug.getregistry())
  while #left > 0 do
    local value = table.remove(left)
    local kind = type(value)
    if kind == "thread" then
      counts.coroutines = counts.coroutines + 1
    elseif kind == "userdata" then
      local meta = debug.getmetatable(value)
      local name = meta and KINDS[rawget(meta, "__name")]
      if name then counts[name] = counts[name] + 1 end
    end
    REACHES[kind](value, found)
  end
  return counts
end

local COUNTERS = { "arrivals", "grants", "timeouts", "rejected", "cancelled", "errors", "waiting", "releases", "leased", "total", "limit",
  "opens", "lost", "leaks", "queries" }

--- All of it; `db` may be nil.
function figures.take(db)
  collectgarbage()
  collectgarbage()
  local taken = { lua = math.floor(collectgarbage "count" * 1024) }
  taken.used, taken.held = figures.malloc.figures()
  for name, count in pairs(figures.census()) do taken[name] = count end
  if db then
    local s = db:stats()
    for _, name in ipairs(COUNTERS) do taken[name] = s[name] end
    for _, version in ipairs(db:tuner():versions()) do
      if version.name == schedule.LAST and version.state ~= "refused" then taken.last = 1 end
    end
  end
  return taken
end

local planted = {}

-- A leak of each sort, once a sample: what the judge must find.
local PLANTS = {
  table = function() planted[#planted + 1] = ("x"):rep(100000) .. #planted end,
  memory = function() figures.malloc.keep(300000) end,
  descriptor = function() planted[#planted + 1] = assert(io.open "/dev/null") end,
  task = function(db) if db then require("pool").spawn(function() require("pool").sleep(1e6) end) end end,
  lease = function(db)
    local c = db and not db:stats().paused and #planted < 4 and db:acquire { timeout = 0.2 }
    if c then planted[#planted + 1] = c:detach() end
  end,
}

--- SOAK_PLANT names one.
function figures.plant(db)
  local plant = PLANTS[os.getenv "SOAK_PLANT" or ""]
  if plant then plant(db) end
end

return figures
