--- The soak: two processes under load on a PostgreSQL of their own, everything that can happen to them meanwhile, and what must stay as
--- it was. Started by spec/faults/soak, which says how.
---
---   lua5.4 spec/faults/soak.lua [SECONDS = 600] [--seed N] [--plant table|memory|descriptor|task|lease]
---
--- soak_tasks.lua is one process, `pool serve soak_app.lua` under soak_client.pl the other; each lives through soak_life.lua's schedule
--- from within. Here the world is moved: backends and servers die, stop and come back, files of policies are saved in every way. What is
--- seen (soak_figures.lua from within, /proc from without) goes to soak_judge.lua. The schedules follow from the seed, the timing does not.
local http = require "support.http"
local judge = require "faults.soak_judge"
local postgres = require "support.postgres"
local process = require "support.process"
local schedule = require "faults.soak_schedule"
local system = require "system"

local read = process.read

local HERE = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local BUILD = assert(os.getenv "POOL_SPEC_BUILD", "POOL_SPEC_BUILD names no build: see spec/faults/soak")
local SANITIZED = os.getenv "POOL_SPEC_PRELOAD" ~= nil
local ME = read("/proc/self/stat"):match "^%d+"
local CLIENTS, TICK, LEAST = 10, 0.05, 9 -- LEAST: samples after the warm-up that a verdict needs
local AFTER, SHARE = 0.4, 0.6 -- seconds after a fault that are still its own; of the answers of all others so many are right at least

local LEFT = { tasks = {}, serve = { threads = 8 } } -- the engine's own, for names and cancels, while its pool lives

local options = { seconds = 600, seed = os.time() }
local verdicts, failed = {}, false

local function usage(message)
  io.stderr:write("soak: ", message, "; see spec/faults/soak --help\n")
  os.exit(2)
end

local function parse(words)
  local i = 1
  while words[i] do
    if words[i] == "--seed" then
      options.seed = math.tointeger(tonumber(words[i + 1])) or usage "--seed is followed by a whole number"
      i = i + 1
    elseif words[i] == "--plant" then
      options.plant = words[i + 1] or usage "--plant is followed by the leak to plant"
      i = i + 1
    else
      options.seconds = tonumber(words[i]) or usage(("%q is neither seconds nor an option"):format(words[i]))
      if options.seconds < 5 then usage "fewer than 5 seconds say nothing" end
    end
    i = i + 1
  end
end

local function verdict(fine, what, ...)
  verdicts[#verdicts + 1] = ("%s  %s: %s"):format(fine and "ok  " or "FAIL", what, string.format(...))
  failed = failed or not fine
end

local function write(path, text, how)
  local file = assert(io.open(path, how or "wb"))
  file:write(text)
  file:close()
end

-- ---- the server, seen from without ----

local function postmaster() return (read(postgres.cluster().DIR .. "/data/postmaster.pid") or ""):match "^(%d+)" end

local frozen = {} -- backends that were stopped: the pool may have given them up before they could hear of it

--- The server's processes by user: { soak_tasks = {pid, ...}, soak_serve = {...} }. As the kernel has them: no connection is needed.
local function backends()
  local found, main = { soak_tasks = {}, soak_serve = {} }, postmaster()
  local children = main and read(("/proc/%s/task/%s/children"):format(main, main)) or ""
  for pid in children:gmatch "%d+" do
    local user = (read("/proc/" .. pid .. "/cmdline") or ""):match "^postgres: (soak_%l+) "
    if found[user] and not frozen[pid] then table.insert(found[user], pid) end
  end
  return found
end

local half = {} -- "tasks", "serve" -> { process, samples, most (connections seen at the server), begin, last (soak_figures.lua's), ... }

-- ---- what happens to the world: coroutines that yield while they wait ----

local random

local function rest(seconds)
  local until_then = system.monotime() + seconds
  while system.monotime() < until_then do coroutine.yield() end
end

local function cluster(verb)
  local env = { POOL_SPEC_PG_DIR = postgres.cluster().DIR }
  local p <close> = process.start({ HERE .. "/../support/cluster", table.unpack(verb) }, { env = env })
  while not p:code() do coroutine.yield() end
  if p:code() ~= 0 then error(("cluster %s: %s"):format(table.concat(verb, " "), p:stderr())) end
end

local function some_backend()
  local all = backends()
  local list = all[random(2) == 1 and "soak_tasks" or "soak_serve"]
  return list[#list > 0 and random(#list) or 1]
end

local function signal(pid, name) process.run(("kill -%s %s 2>/dev/null"):format(name, pid)) end

local function save(text)
  for _, whose in ipairs { "tasks", "serve" } do write(("%s/%s.policy"):format(options.directory, whose), text) end
end

local version = 0
local function policy(body, rest_of)
  version = version + 1
  return ("-- version %d\nreturn { name = \"v%d\", every = 0.1, tick = function(s, state) %s end%s }\n"):format(version, version, body,
    rest_of or "")
end

local function good()
  return policy(("state.n = (state.n or 0) + 1 if state.n %% 5 == 0 then return { size = %d, max_overflow = %d } end"):format(
    random(schedule.HALF), random(schedule.HALF)))
end

local BAD = {
  function() return policy "error 'no'" end,
  function() return policy "return { size = -5 }" end,
  function() return policy "return { sise = 5 }" end,
  function() return policy "return { timeout = 0/0 }" end,
  function() return policy "while true do end" end,
  function() return policy "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end" end,
  function() return policy("return nil", ", load = function() error 'no state' end") end,
  function() return policy "state[1] = state return { timeout = 0.001 }" end,
}

-- Two lanes, each of which does one thing after another: what happens to the server, and to the policies' files.
local faults, saves = {}, {}

function faults.terminate()
  local sql = "select pg_terminate_backend(pid) from pg_stat_activity where usename like 'soak%%' order by random() limit %d"
  pcall(postgres.sql, sql:format(random(4)))
end
function faults.terminate_all()
  pcall(postgres.sql, "select pg_terminate_backend(pid) from pg_stat_activity where usename like 'soak%'")
end
function faults.kill()
  local pid = some_backend()
  if pid then signal(pid, "KILL") end
  rest(0.5)
end
function faults.restart_fast() cluster { "restart", "fast" } end
function faults.restart_immediate() cluster { "restart", "immediate" } end
function faults.stop_for_a_moment()
  cluster { "stop", "fast" }
  rest(0.3 + random(10) / 20)
  cluster { "start" }
end
function faults.freeze_backend()
  local pid = some_backend()
  if not pid then return end
  frozen[pid] = true
  signal(pid, "STOP")
  rest(0.1 + random(10) / 20)
  signal(pid, "CONT")
end
function faults.freeze_server()
  local pid = postmaster()
  signal(pid, "STOP")
  rest(0.1 + random(10) / 40)
  signal(pid, "CONT")
end
function faults.refuse() -- whoever connects, and so all who wait, are told 28000
  pcall(postgres.sql, "alter role soak_tasks nologin; alter role soak_serve nologin")
  faults.terminate_all()
  rest(0.3)
  while not pcall(postgres.sql, "alter role soak_tasks login; alter role soak_serve login") do coroutine.yield() end
end
function saves.good() save(good()) end
function saves.again() save(good()) end
function saves.bad() save(BAD[random(#BAD)]()) end
function saves.broken() save(good():gsub("end", "ned", 1)) end
function saves.half()
  local text = good()
  save(text:sub(1, #text // 2))
  rest(random(20) / 100)
  save(text)
end
function saves.renamed()
  for _, whose in ipairs { "tasks", "serve" } do
    local path = ("%s/%s.policy"):format(options.directory, whose)
    write(path .. ".new", good())
    os.rename(path .. ".new", path)
  end
end
function saves.removed()
  for _, whose in ipairs { "tasks", "serve" } do os.remove(("%s/%s.policy"):format(options.directory, whose)) end
  rest(random(20) / 100)
  save(good())
end
function saves.storm()
  for _ = 1, 10 do
    save(good())
    rest(0.02)
  end
end
function saves.hangup() signal(half.serve.process.pid, "HUP") end

local function names_of(list)
  local names = {}
  for name in pairs(list) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- ---- the two processes ----

--- New whole lines that the tasks have printed.
local function tasks_lines()
  local tasks = half.tasks
  tasks.out = tasks.out or assert(io.open(tasks.process.dir .. "/out"))
  return function()
    local at = tasks.out:seek()
    local line = tasks.out:read "L"
    if line and line:sub(-1) == "\n" then return line:sub(1, -2) end
    tasks.out:seek("set", at)
  end
end

local started -- the load's beginning
local function clock() return system.monotime() - started end

--- What /proc says: memory, threads, descriptors less those of connections to the server.
local function from_without(name, sample)
  local pid = half[name].process.pid
  local status = read(("/proc/%d/status"):format(pid))
  if not status then return nil end
  local all = backends()["soak_" .. name]
  sample.rss = tonumber(status:match "VmRSS:%s+(%d+) kB") * 1024
  sample.threads = tonumber(status:match "Threads:%s+(%d+)")
  local count = tonumber((process.run(("ls /proc/%d/fd 2>/dev/null | wc -l"):format(pid))))
  sample.descriptors, sample.server = count - #all, #all
  sample.at = clock()
  return sample
end

local function add(name, sample)
  local h = half[name]
  if judge.counts(sample) then
    local wrong = judge.sums(sample)
    if wrong then h.sums = h.sums or ("after %.1f s: %s"):format(clock(), wrong) end
    h.summed = (h.summed or 0) + 1
  end
  if from_without(name, sample) then table.insert(h.samples, sample) end
end

local function sample_tasks()
  for line in tasks_lines() do
    local phase, rest_of = line:match "^(%l+) ?(.*)$"
    local taken = schedule.read(rest_of)
    if phase == "load" then
      add("tasks", taken)
      table.insert(half.tasks.tallies, { at = taken.clock, right = taken.plainright, typed = taken.plaintyped })
    else
      half.tasks[phase] = phase == "begin" and from_without("tasks", taken) or taken
    end
  end
end

local function serve_figures()
  return schedule.read(http.ask(half.serve.process.url .. "/figures").body)
end

local function begun(p) return { process = p, samples = {}, tallies = {}, summed = 0, most = 0 } end

local function start()
  local env = { SOAK_DIRECTORY = options.directory, SOAK_SEED = options.seed, SOAK_JUDGE = ME,
    SOAK_PLANT = options.plant or false, SOAK_URL = postgres.url { user = "soak_tasks", application_name = "soak" } }
  local tasks = process.start({ "lua5.4", HERE .. "/soak_tasks.lua", options.directory, tostring(options.seed) }, { env = env })
  local serve = process.start({ BUILD .. "/pool", "serve", HERE .. "/soak_app.lua", "--listen", "127.0.0.1:0",
    "--database-url", postgres.url { tcp = true, user = "soak_serve", password = "soak", application_name = "soak" },
    "--size-limit", schedule.CEILING, "--size", "5", "--max-overflow", "5", "--timeout", "2", "--connect-timeout", "5",
    "--policy", options.directory .. "/serve.policy", "--probation", "3", "--policy-time", "0.5",
    "--policy-memory", schedule.POLICY_MEMORY }, { env = env })
  half.tasks, half.serve = begun(tasks), begun(serve)
  serve.url, serve.port = serve:wait_line("listening on (http://%S+:(%d+))", 60)
  process.wait_until(function() return tasks:stdout():find "ready\n" end, 60, "the tasks; their standard error: " .. tasks:stderr())
end

-- ---- the run ----

local function prepare()
  random = schedule.random(options.seed)
  options.directory = process.run "mktemp -d":gsub("\n$", "")
  save(good())
  postgres.sql [[
    create role soak_tasks login; create role soak_serve login password 'soak';
    create table soak_ledger (id integer primary key, n integer not null);
    grant select, update on soak_ledger to soak_tasks, soak_serve;
    insert into soak_ledger select i, 0 from generate_series(1, 100) i;
    insert into soak_ledger select i, 0 from generate_series(1001, 1100) i]]
end

local function begin_load()
  local figures = serve_figures()
  system.sleep(0.3) -- until that request's own connection is gone
  half.serve.begin = from_without("serve", figures)
  sample_tasks()
  write(options.directory .. "/go", "")
  assert(http.ask(half.serve.process.url .. "/begin", { method = "POST" }).status == 200)
  half.clients = process.start { "perl", HERE .. "/soak_client.pl", half.serve.process.port, tostring(CLIENTS), tostring(options.seed),
    options.directory .. "/stop", ME }
end

local function watch_server()
  for user, pids in pairs(backends()) do
    local h = half[user:match "_(%l+)$"]
    h.most = math.max(h.most, #pids)
  end
end

local function warm() return math.max(3, options.seconds / 5) end

--- Whether a slow machine has let too little be seen or happen yet; it gets eight times the time.
local function too_little()
  if clock() > 8 * options.seconds then return false end
  for _, name in ipairs { "tasks", "serve" } do
    local samples = half[name].samples
    if #samples < LEAST + 1 or samples[#samples - LEAST].at < warm() then return true end
    if samples[#samples].lost == 0 or samples[#samples].leaks == 0 then return true end
    if #judge.untried(samples[#samples], samples) > 0 then return true end
  end
  return false
end

--- A lane of what happens, one after another with a pause: turn() carries it on, busy() says whether something is under way. Counts in
--- `done`, and notes in `spans` from when till when each took.
local function lane(list, done, pause, spans)
  local draw, next_at, now = schedule.deck(names_of(list), random), 0.5, nil
  local self = {}
  function self.busy() return now ~= nil end
  function self.turn()
    if not now and clock() >= next_at and (clock() < options.seconds or too_little()) then
      local name = draw()
      now, done[name] = coroutine.create(list[name]), (done[name] or 0) + 1
      if spans then spans[#spans + 1] = { from = system.monotime(), till = math.huge } end
    end
    if not now then return end
    local fine, err = coroutine.resume(now)
    if not fine then error(err) end
    if coroutine.status(now) ~= "dead" then return end
    now, next_at = nil, clock() + pause
    if spans then spans[#spans].till = system.monotime() end
  end
  return self
end

local spans = {} -- of faults

--- Everything that happens until the time is over; samples meanwhile. What was done how often.
local function live()
  local done, every, next_sample = {}, math.max(0.25, math.min(2, options.seconds / 60)), 0
  local short = options.seconds < 60
  local server, files = lane(faults, done, short and 2 * AFTER or 2, spans), lane(saves, done, short and 0.3 or 1)
  while clock() < options.seconds or server.busy() or files.busy() or too_little() do
    watch_server()
    if clock() >= next_sample then
      next_sample = clock() + every
      sample_tasks()
      add("serve", serve_figures())
    end
    server.turn()
    files.turn()
    system.sleep(TICK)
  end
  return done
end

--- The last policy saved must come to live, whatever was saved before.
local function last_policy()
  save(("return { name = %q, tick = function() end }\n"):format(schedule.LAST))
  local function came(name) return half[name].samples[#half[name].samples].last == 1 end
  local fine = pcall(process.wait_until, function()
    sample_tasks()
    add("serve", serve_figures())
    return came "tasks" and came "serve"
  end, 15)
  verdict(fine, "policies", "the last of %d saved came to live in %s", version, fine and "both processes" or "not both processes, in 15 s")
end

local function clients_end()
  write(options.directory .. "/stop", "")
  half.clients:wait(90)
  local sum = { right = 0, typed = 0, wrong = 0 }
  half.ledger = {}
  for id, right, typed, wrong, kept, unknown in half.clients:stdout():gmatch "client (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)" do
    sum.right, sum.typed, sum.wrong = sum.right + right, sum.typed + typed, sum.wrong + wrong
    half.ledger[id] = { kept = tonumber(kept), unknown = tonumber(unknown) }
  end
  half.serve.by_client = {}
  for id, at, right, typed in half.clients:stdout():gmatch "so_far (%d+) (%S+) (%d+) (%d+)" do
    local list = half.serve.by_client[id] or {}
    half.serve.by_client[id] = list
    list[#list + 1] = { at = tonumber(at), right = tonumber(right), typed = tonumber(typed) }
  end
  half.serve.tally = sum
  half.clients_heard = #names_of(half.ledger)
end

local function at_server_in_the_end()
  local left = 1
  pcall(process.wait_until, function()
    local all = backends()
    left = #all.soak_tasks + #all.soak_serve
    return left == 0
  end, 10)
  return left
end

--- The last sample: what the kernel is slow to take back (a closed connection, a thread that ends) has five seconds for it.
local function settle(name, figures)
  local h = half[name]
  pcall(process.wait_until, function()
    h.last = from_without(name, figures)
    return not judge.back(h.begin, h.last, LEFT[name])
  end, 5)
end

local function finish()
  clients_end()
  half.serve.exercised = schedule.read(http.ask(half.serve.process.url .. "/quiet", { method = "POST" }).body)
  settle("serve", serve_figures())
  process.wait_until(function()
    sample_tasks()
    return half.tasks["end"] or half.tasks.process:code()
  end, 120, "the end of the tasks; their standard error: " .. half.tasks.process:stderr())
  if half.tasks["end"] then settle("tasks", half.tasks["end"]) end
  half.left = at_server_in_the_end()
  write(options.directory .. "/exit", "")
  half.tasks.code = half.tasks.process:wait(60)
  half.serve.process:signal "TERM"
  half.serve.code = half.serve.process:wait(60)
end

-- ---- what is said of it ----

local function judge_answers(name, tally, lists)
  local fine = tally.wrong == 0 and tally.right > 0
  verdict(fine, name .. ": answers", "%d right, %d typed errors, %d wrong", tally.right, tally.typed, tally.wrong)
  local right, all = 0, 0
  for _, list in pairs(lists) do
    local r, a = judge.calm(list, spans, AFTER)
    right, all = right + r, all + a
  end
  verdict(all > 0 and right >= SHARE * all, name .. ": where no fault is on", "%d of %d answers right, %.0f %%; %.0f %% at least", right,
    all, 100 * right / math.max(1, all), 100 * SHARE)
end

local function judge_ledger()
  local off, sum = {}, 0
  for id, client in pairs(half.ledger) do
    local n = tonumber(postgres.sql("select n from soak_ledger where id = " .. id))
    sum = sum + n
    if n < client.kept or n > client.kept + client.unknown then
      off[#off + 1] = ("row %s says %d: %d were kept, of %d nobody knows"):format(id, n, client.kept, client.unknown)
    end
  end
  verdict(#off == 0 and half.clients_heard == CLIENTS and sum > 0, "serve: transactions", "%d kept by %d clients, each once%s", sum,
    half.clients_heard, #off > 0 and "; " .. table.concat(off, "; ") or "")
end

local function judge_half(name, rows)
  local h = half[name]
  for _, figure in ipairs(judge.FLAT) do
    local there = figure.name ~= "used" or h.samples[1] and h.samples[1].used
    if there and not (SANITIZED and figure.unsanitized) then rows[#rows + 1] = judge.flat(name, h.samples, figure, warm()) end
  end
  local unlike = h.sums and ": not " .. h.sums or ""
  verdict(not h.sums and h.summed >= LEAST, name .. ": counters", "add up at each of %d looks%s", h.summed, unlike)
  verdict(h.most <= schedule.CEILING and h.most > 0, name .. ": connections", "at most %d at the server, of %d", h.most, schedule.CEILING)
  local off = h.last and judge.back(h.begin, h.last, LEFT[name]) or not h.last and "it ended before its time"
  verdict(not off, name .. ": at the end", "%s", off or "descriptors, threads, coroutines, tasks and leases are back at the start's number")
  local e = h.exercised or {}
  local untried = judge.untried(e, h.samples)
  verdict(#untried == 0, name .. ": all of the sum", "%d timed out, %d rejected, %d cancelled, %d failed%s", e.timeouts or 0,
    e.rejected or 0, e.cancelled or 0, e.errors or 0, #untried > 0 and "; untried: " .. table.concat(untried, ", ") or "")
  verdict((e.changes or 0) > 0 and e.leaks > 0 and e.lost > 0 and e.events > 0 and e.recorded > 0, name .. ": lived through",
    "%d changes, %d events, %d recorded, %d leaked leases taken back, %d connections lost, %d opened", e.changes or 0, e.events or 0,
    e.recorded or 0, e.leaks or 0, e.lost or 0, e.opens or 0)
  verdict(h.code == 0, name .. ": exit code", "%d", h.code)
end

local function report(done)
  local rows = {}
  judge_half("tasks", rows)
  judge_half("serve", rows)
  judge_answers("tasks", half.tasks.last or half.tasks.samples[#half.tasks.samples], { half.tasks.tallies })
  half.serve.tally.wrong = half.serve.tally.wrong + half.serve.last.wrong -- what its schedule from within found
  judge_answers("serve", half.serve.tally, half.serve.by_client)
  judge_ledger()
  verdict(half.left == 0, "server", "%d connections left at the end", half.left)
  for _, row in ipairs(rows) do
    if not row.fine then verdict(false, row.process .. ": " .. row.what, "%s", row.why) end
  end
  local told = {}
  for _, name in ipairs(names_of(done)) do told[#told + 1] = ("%s %d"):format(name, done[name]) end
  print("\nfaults: " .. table.concat(told, ", "))
  print("\n" .. judge.table(rows) .. "\n")
  for _, line in ipairs(verdicts) do print(line) end
end

--- What the processes had to complain of: of the server's log only what is no server's daily life.
local function show_errors()
  for name, p in pairs { tasks = half.tasks and half.tasks.process, clients = half.clients, serve = half.serve and half.serve.process } do
    local shown = 0
    for line in p:stderr():gmatch "[^\n]+" do
      local worth = name ~= "serve" or line:find "^wrong: " or line:find "Sanitizer" or line:find "runtime error"
      if worth and shown < 40 then
        shown = shown + 1
        io.stderr:write("soak: ", name, ": ", line, "\n")
      end
    end
  end
end

local function close()
  for _, p in ipairs { half.clients or false, half.tasks and half.tasks.process or false, half.serve and half.serve.process or false } do
    if p then p:close() end
  end
  if options.directory then process.run("rm -rf " .. process.quote(options.directory)) end
end

local function main()
  prepare()
  start()
  started = system.monotime()
  begin_load()
  local done = live()
  last_policy()
  finish()
  report(done)
end

parse(arg)
print(("soak: %g s, seed %d%s"):format(options.seconds, options.seed, options.plant and ", a planted leak: " .. options.plant or ""))
local fine, err = xpcall(main, debug.traceback)
if not fine then
  failed = true
  print("FAIL  the soak itself: " .. err)
end
if failed then show_errors() end
close()
print(failed and "soak: FAILED" or "soak: passed")
os.exit(failed and 1 or 0, true)
