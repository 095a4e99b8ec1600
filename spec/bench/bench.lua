--- The bench itself (started by spec/bench/run): sections in order, each of which adds rows to one table.
---
--- A row: what was measured; ours; the rival's; their ratio, median (least–most) of turns taken one after the other; the goal.
local measure = require "bench.measure"
local process = require "support.process"
local run, command = measure.run, measure.command

local HERE = "spec/bench/"
local WORK = { "lua5.4", HERE .. "work.lua" }
local BIN = os.getenv("POOL_SPEC_PG_BIN")
local PYTHON = "/usr/bin/python3" -- the one that python3-sqlalchemy is for
local KEYS = 10000

local options = { only = {} }
local rows = {}

local function add(row) rows[#rows + 1] = row end
local function scale(full, quick) return options.quick and quick or full end
local function turns() return scale(5, 3) end
local function work(name) return command(WORK, name) end

local function per_unit(words, count, field, unit)
  return function()
    local took = measure.work(words, count)
    return took[field or "cpu"] / took.count * (unit or 1e9)
  end
end

local function ratio_text(spread) return ("%.2f (%.2f–%.2f)"):format(spread.median, spread.min, spread.max) end
local function whole(number) return ("%.0f"):format(number) end

-- A row of instructions, when they can be counted.
local function add_instructions(what, words, short, long, goal)
  local count = measure.instructions(words, short, long)
  add { what = what .. ": instructions", ours = count and whole(count) or "valgrind is missing", goal = goal }
end

local function add_time(what, spread, unit)
  add { what = what, ours = ("%.0f %s (%.0f–%.0f)"):format(spread.median, unit, spread.min, spread.max) }
end

local function psql(sql)
  return run { BIN .. "/psql", "-XqAt", "-v", "ON_ERROR_STOP=1", os.getenv("BENCH_URL"), "-c", sql }
end

-- pgbench of the very query that work.lua runs; { rate, cpu (seconds a query) }.
local function pgbench(count)
  local script = os.tmpname()
  local file = assert(io.open(script, "w"))
  file:write(("\\set id random(1, %d)\nselect id, title, done from bench where id = :id;\n"):format(KEYS))
  file:close()
  local ok, output, cpu = pcall(measure.timed, { BIN .. "/pgbench", "-n", "-M", "prepared", "-c", 10, "-j", 1, "-t", count // 10,
    "-f", script, "-h", os.getenv("POOL_SPEC_PG_DIR"), "-p", os.getenv("POOL_SPEC_PG_PORT"), "-U", os.getenv("POOL_SPEC_PG_USER"),
    os.getenv("POOL_SPEC_PG_DATABASE") })
  os.remove(script)
  if not ok then error(output, 0) end
  return { rate = tonumber(output:match("tps = ([%d.]+)")), cpu = cpu / count }
end

local section = {}

function section.core()
  local program = { os.getenv("BENCH_BUILD") .. "/spec/core_bench" }
  local function once() return tonumber(run(command(program, scale(5000000, 500000))):match("([%d.]+) ns each")) end
  add_instructions("core acquire + next + release", program, 1000, 11000)
  add_time("core acquire + next + release", measure.in_turn(turns(), { "ours" }, { ours = once }).ours, "ns")
end

function section.lease()
  local order, sides = { "ours", "table" }, {
    ours = per_unit(work "lease", scale(300000, 20000)),
    table = per_unit(work "table", scale(3000000, 200000)),
  }
  local sqlalchemy = os.execute(PYTHON .. " -c 'import sqlalchemy' 2>/dev/null")
  if sqlalchemy then
    order[3], sides.queue = "queue", per_unit({ PYTHON, HERE .. "queue_pool.py" }, scale(100000, 10000))
  end
  local taken = measure.in_turn(turns(), order, sides)
  local ours = whole(taken.ours.median) .. " ns"
  local what = "db:acquire() + c:release()"
  add_instructions(what, work "lease", 1000, 11000, "3000")
  local function beside(name, rival)
    local text = ("%.0f ns %s"):format(taken[name].median, rival)
    add { what = what, ours = ours, rival = text, ratio = ratio_text(taken.ratio("ours", name)) }
  end
  if sqlalchemy then
    beside("queue", "SQLAlchemy QueuePool")
  else
    add { what = what, ours = ours, rival = "python3-sqlalchemy is missing" }
  end
  beside("table", "table.remove + insert")
end

-- Sides that give { rate, cpu }, in turn: { rate = what measure.in_turn gives, cpu = the same }.
local function side_by_side(order, sides)
  local cpu, rates = {}, {}
  for _, name in ipairs(order) do
    local kept = {}
    rates[name] = function()
      local took = sides[name]()
      kept[#kept + 1] = took.cpu
      return took.rate
    end
    cpu[name] = function() return table.remove(kept, 1) end
  end
  return { rate = measure.in_turn(turns(), order, rates), cpu = measure.in_turn(turns(), order, cpu) }
end

function section.query()
  local count = scale(100000, 10000)
  local taken = side_by_side({ "ours", "pgbench" }, {
    ours = function()
      local took = measure.work(work "query", count)
      return { rate = count / took.wall, cpu = took.cpu / count }
    end,
    pgbench = function() return pgbench(count) end,
  })
  add { what = "db:query by key, 10 connections, 64 tasks", ours = whole(taken.rate.ours.median) .. "/s",
    rival = whole(taken.rate.pgbench.median) .. "/s pgbench prepared -c 10 -j 1", ratio = ratio_text(taken.rate.ratio("ours", "pgbench")),
    goal = "0.80" }
  add { what = "db:query: CPU of the client", ours = ("%.1f µs"):format(taken.cpu.ours.median * 1e6),
    rival = ("%.1f µs pgbench"):format(taken.cpu.pgbench.median * 1e6), ratio = ratio_text(taken.cpu.ratio("ours", "pgbench")) }
  add_instructions("db:query", work "query", 1280, 6400)
end

function section.memory()
  for _, row in ipairs { { "waiting", "memory of a task waiting in line" }, { "sleeping", "memory of a task asleep" } } do
    local name, what = table.unpack(row)
    local count = scale(100000, 10000)
    local took = measure.in_turn(3, { "ours" }, { ours = function() return measure.work(work(name), count).bytes end }).ours
    add { what = what, ours = ("%.0f bytes (%.0f–%.0f)"):format(took.median, took.min, took.max), goal = "2048 bytes" }
  end
end

function section.tasks()
  local kinds = { { "spawn", "pool.spawn + join", 100000, 1000, 6000 }, { "switch", "pool.sleep(0), a switch", 1000000, 1000, 21000 } }
  for _, row in ipairs(kinds) do
    local name, what, count, short, long = table.unpack(row)
    add_instructions(what, work(name), short, long)
    add_time(what, measure.in_turn(turns(), { "ours" }, { ours = per_unit(work(name), scale(count, count // 10)) }).ours, "ns")
  end
end

function section.rows()
  for _, row in ipairs { { "rows", "a row of 1,000 to Lua" }, { "json", "a row of 1,000 to JSON" } } do
    local name, what = table.unpack(row)
    add_instructions(what, work(name), 10000, 60000)
    add_time(what, measure.in_turn(turns(), { "ours" }, { ours = per_unit(work(name), scale(1000000, 100000)) }).ours, "ns")
  end
end

function section.tuning()
  local function rate(kind)
    local took = measure.work(work(kind), scale(3000000, 200000))
    return took.count / took.cpu
  end
  local kinds = { { "simulated", "a simulated request, fixed settings", "1000000" }, { "simulated_default", "the same under default" } }
  for _, row in ipairs(kinds) do
    local name, what, goal = table.unpack(row)
    add_instructions(what, work(name), scale(60000, 6000), scale(660000, 66000))
    local spread = measure.in_turn(turns(), { "ours" }, { ours = function() return rate(name) end }).ours
    add { what = what .. ", a CPU second", ours = ("%.0f (%.0f–%.0f)"):format(spread.median, spread.min, spread.max), goal = goal }
  end
  add_instructions("a tick of default", work "tick", 100, 1100)
  local ticks = per_unit(work "tick", scale(20000, 2000), "cpu", 1e6)
  add_time("a tick of default", measure.in_turn(turns(), { "ours" }, { ours = ticks }).ours, "µs")
  add_instructions("db:acquire() + c:release(), recorded", work "recorded", 1000, 11000)
end

-- { rate, cpu (seconds of the server a request) }
local function wrk(url, server)
  local before = measure.cpu(server.pid)
  local output = run { "wrk", "-t", 1, "-c", 64, "-d", scale(4, 1) .. "s", url }
  local errors = output:match("Non%-2xx or 3xx responses: (%d+)")
  if errors then error(errors .. " answers were not 2xx: " .. url, 0) end
  local requests = tonumber(output:match("(%d+) requests in"))
  return { rate = tonumber(output:match("Requests/sec:%s+([%d.]+)")), cpu = (measure.cpu(server.pid) - before) / requests }
end

function section.serve()
  if not measure.has "wrk" then
    add { what = "pool serve", ours = "wrk is missing" }
    return
  end
  local server <close> = process.start({ os.getenv("BENCH_BUILD") .. "/pool", "serve", HERE .. "app.lua", "--listen", "127.0.0.1:0" },
    { env = { DATABASE_URL = os.getenv("BENCH_URL") } })
  local url = server:wait_line("listening on (http://%S+)")
  local taken = side_by_side({ "text", "row", "pgbench" }, {
    text = function() return wrk(url .. "/text", server) end,
    row = function() return wrk(url .. "/row/4711", server) end,
    pgbench = function() return pgbench(scale(100000, 10000)) end,
  })
  for _, row in ipairs { { "text", "GET of a text" }, { "row", "GET of one row by key" } } do
    local name, what = row[1], "pool serve: " .. row[2]
    add { what = what .. ", wrk -c 64", ours = whole(taken.rate[name].median) .. "/s",
      rival = whole(taken.rate.pgbench.median) .. "/s pgbench", ratio = ratio_text(taken.rate.ratio(name, "pgbench")) }
    add { what = what .. ": CPU of the server", ours = ("%.1f µs"):format(taken.cpu[name].median * 1e6),
      rival = ("%.1f µs pgbench"):format(taken.cpu.pgbench.median * 1e6), ratio = ratio_text(taken.cpu.ratio(name, "pgbench")) }
  end
end

local SECTIONS = { "core", "lease", "query", "memory", "tasks", "rows", "tuning", "serve" }
local TITLES = { what = "what", ours = "ours", rival = "the rival's", ratio = "ours ÷ rival's", goal = "goal" }
local COLUMNS = { "what", "ours", "rival", "ratio", "goal" }

local function print_table()
  local widths = {}
  local function width(text) return utf8.len(text) or #text end
  table.insert(rows, 1, TITLES)
  for _, name in ipairs(COLUMNS) do
    widths[name] = 1
    for _, row in ipairs(rows) do widths[name] = math.max(widths[name], width(row[name] or "")) end
  end
  for i, row in ipairs(rows) do
    local cells = {}
    for j, name in ipairs(COLUMNS) do
      local text = row[name] or ""
      cells[j] = text .. (" "):rep(widths[name] - width(text))
    end
    print(options.markdown and "| " .. table.concat(cells, " | ") .. " |" or (table.concat(cells, "  "):gsub("%s+$", "")))
    if i == 1 and options.markdown then print("|" .. ("---|"):rep(#COLUMNS)) end
  end
end

local function usage(message)
  io.stderr:write("bench: ", message, "; see spec/bench/run --help\n")
  os.exit(2)
end

local function parse(words)
  local i = 1
  while words[i] do
    if words[i] == "--quick" or words[i] == "--markdown" or words[i] == "--no-install" then
      options[words[i]:sub(3)] = true
    elseif words[i] == "--only" then
      i = i + 1
      if not section[words[i]] then usage("--only is followed by one of " .. table.concat(SECTIONS, ", ")) end
      options.only[words[i]] = true
    else
      usage(("unknown option %q"):format(words[i]))
    end
    i = i + 1
  end
end

parse(arg)
local failed = false
psql("create table bench (id int primary key, title text not null, done boolean not null)")
psql(("insert into bench select i, 'the title of row ' || i, i %% 3 = 0 from generate_series(1, %d) i"):format(KEYS))
psql("vacuum analyze bench")
for _, name in ipairs(SECTIONS) do
  if next(options.only) == nil or options.only[name] then
    io.stderr:write("bench: ", name, "\n")
    local ok, message = pcall(section[name])
    if not ok then
      failed = true
      add { what = name, ours = "failed" }
      io.stderr:write("bench: ", name, ": ", tostring(message), "\n")
    end
  end
end
print_table()
os.exit(failed and 1 or 0)
