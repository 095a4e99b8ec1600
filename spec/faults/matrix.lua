--- The fault matrix: what a pool under load does while its world breaks, one named row a fault, against real PostgreSQL.
---
--- How to add a row: a table in the list that a file in spec/faults/rows returns (a new file is found by itself).
---
---   {
---     name = "backend terminated in a query",    -- lower case; patterns of `spec/faults/run` look for it
---     allow = "lost",                            -- kinds of error that callers may meet, by spaces; a `query` needs its SQLSTATE
---                                                --   ("query:40001"), others may have one ("lost:57P01"); nothing else is allowed
---     saw = "57P01",                             -- what proves that the fault struck: a kind, an SQLSTATE or kind:sqlstate that
---                                                --   callers met at least once; or function(w, result, state) → true, where
---                                                --   state.seen has those counts, w:stats() the pool's
---     strike = function(w)                       -- does the damage under load (world.lua: w:hit, w:cluster, w:freeze, w:sql, w:run,
---       for _ = 1, 5 do                          --   w:beside, w:wait, w:more); returns when the cause has ended. It runs as a task
---         w:hit("terminate", w.STATES.query)     --   beside the load: nothing in it may block the loop for long
---         w:more(20)
---       end
---     end,
---   }
---
--- What else a row may have:
---   loads = { "tasks", "serve" }   how it is loaded: tasks in one process, `pool serve` under HTTP clients; default both
---   bound = 1                      seconds from the cause's end until 50 answers in a row have come, all right, and the pool is at rest
---   why = "..."                    for a bound other than 1: the back-off or deadline that it comes from, or what 50 answers take
---   settings = {}                  of the pool; default size 4, max_overflow 4, timeout 10
---   url = {}                       for support/postgres.url: tcp = true, user, sslmode, ...
---   driver = "sqlite"              a file in w.dir instead of PostgreSQL
---   tasks = 16                     callers at a time
---   calls = {"query", ...}         the kinds of calls (calls.lua), default all; `ask = function(db, n, calls)` adds one of the row's own:
---                                  it returns true, or nil and the error, or raises what is wrong; calls:cause() is true while strike
---                                  runs
---   transaction = {}               options of db:transaction in the transactions of the load
---   least = 200                    right answers that the load must have had for the row to mean anything
---   excess = 0, excess_why = ""    connections that the server may count beyond the pool's limit, and why it does
---   unseen = ""                    why the pool under test has no connection at all for the server to count
---   limit = 10                     the pool's limit, where it changes on the way and may be lower in the end
---   setup = function(w)            before the pool is made; may change w.url (a table as above, or a whole URL), w.settings, w.flags (of
---                                  `pool serve`), w.policy and w.record (files: db:tune, --policy; db:record, --record), and
---                                  w.observe = { {host=, port=}, … } (the servers that count; the last has the ledger at the end)
---   ready = function(w)            after the load has had its first 50 answers, before the strike
---   after = function(w, result)    when the load has ended and the pool is at rest; may add to result.broken
---   wrap = function(dir) → words   put before the command under load (unshare, faketime, prlimit: it must end in an exec)
---   inside = function(dir) → words put before the row's whole run, strike and HTTP clients included (a network namespace)
---   env = function(dir) → table    environment of the command under load
---   preload = "libfaketime.so.1"   a library for LD_PRELOAD of the command under load (the sanitizers' go before it)
---   needs = function() → text      nil, or what is missing to run the row: it is skipped, and says so; `root = true`: needs root
---   quick = "tasks" | "serve"      (true is "tasks") in spec/faults_spec.lua too, under that load
---   planted = true                 is to fail, so that the harness is seen to notice: left out of everything but the spec
---   calm = false                   callers meet errors from the start; without it any error before the strike is the row's failure
---   ledger = false                 what was committed cannot be asked afterwards (a server that lost it by design)
---
--- In strike, w.pid is the process under load, w.name its application_name, w.load:figures() what callers met so far. What is to be
--- undone however the row ends goes to w:defer(fn).
local pool = require "pool"
local postgres = require "support.postgres"
local process = require "support.process"
local system = require "system"

local matrix = { LOADS = { "tasks", "serve" } }
local HERE = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local SETTINGS = { size = 4, max_overflow = 4, timeout = 10 }
local FIRST, LEAST, BOUND = 50, 200, 1
local LOOKS = 5 -- at the server, at least: fewer and nobody has counted
-- How much longer everything may take: under the sanitizers, or where this is not about speed (faults_spec).
local SLOW = tonumber(os.getenv "POOL_FAULTS_SLOW") or os.getenv "POOL_SPEC_PRELOAD" and 3 or 1
local WHOLE_WITHIN, CALM_WITHIN = 30, 15 -- seconds after which nobody waits for it any more

-- ---- rows -------------------------------------------------------------------------------------------------------------------------

local rows

local function read_rows()
  rows = {}
  local names = {}
  for path in process.run("ls " .. process.quote(HERE) .. "/rows/*.lua"):gmatch "[^\n]+" do
    for _, row in ipairs(assert(loadfile(path, "t"))()) do
      assert(row.name and row.strike and row.saw and row.allow, path .. ": a row needs name, allow, saw, strike")
      assert(row.why or not row.bound, path .. ": a bound without its why: " .. row.name)
      assert(row.excess_why or not row.excess, path .. ": an excess without its why: " .. row.name)
      assert(not names[row.name], path .. ": a second row " .. row.name)
      names[row.name] = true
      row.file = path:match "([^/]*)%.lua$"
      row.quick = row.quick == true and "tasks" or row.quick
      rows[#rows + 1] = row
    end
  end
end

--- All rows, in the order of their files.
function matrix.rows()
  if not rows then read_rows() end
  return rows
end

--- Is a file of rows called so?
function matrix.is_file(name)
  for _, row in ipairs(matrix.rows()) do
    if row.file == name then return true end
  end
  return false
end

function matrix.row(name)
  for _, row in ipairs(matrix.rows()) do
    if row.name == name then return row end
  end
  error("no row is called " .. tostring(name))
end

--- Why this row cannot run here; nil when it can.
function matrix.lacks(row)
  if row.root and process.run "id -u" ~= "0\n" then return "needs root" end
  return row.needs and row.needs() or nil
end

-- ---- one run: in a process of its own, started by judge -------------------------------------------------------------------------------

local function database_url(w)
  if w.row.driver == "sqlite" then return "sqlite:///" .. w.dir .. "/pool.db" end
  return type(w.url) == "string" and w.url or postgres.url(w.url)
end

--- The server's own count of the connections under test, sampled until it is asked for the most, and how many looks there were.
local function sampler(w, where)
  local text = ("select count(*) from pg_stat_activity where %s \\watch 0.02"):format(w:mine())
  local file = ("%s/count.%d"):format(w.dir, w.serial)
  local each = "%s -c 'set application_name = observer' -f - >>%s 2>/dev/null <<<%s"
  local beside = w:beside(("while true; do " .. each .. "; sleep 0.05; done"):format(w.psql(where), file, process.quote(text)))
  return {
    most = function()
      beside:stop()
      local said = process.run(("grep -xE '[0-9]+' %s | sort -n | awk 'END { print NR, $0 }'"):format(file))
      local looks, most = said:match "^(%d+) (%d+)"
      return tonumber(most) or 0, tonumber(looks) or 0
    end,
  }
end

local function samplers(w)
  local made = {}
  if w.row.driver == "sqlite" then return made end
  for i, where in ipairs(w.observe or { {} }) do made[i] = sampler(w, where) end
  return made
end

local function counted(w)
  local sum = 0
  if w.row.driver == "sqlite" then return 0 end
  for _, where in ipairs(w.observe or { {} }) do
    local fine, text = pcall(w.sql, w, "select count(*) from pg_stat_activity where " .. w:mine(), where)
    sum = sum + (fine and tonumber(text) or 0)
  end
  return math.tointeger(sum)
end

local function busy(s) return s.leased + s.waiting + s.resetting + s.closing + s.opening + s.checking end

--- Seconds until a streak that begins now is whole; nil when it never is.
local function streak(w, since, patience)
  w.load:mark()
  local again = pcall(w.wait, w, function() return w.load:whole() end, patience)
  return again and math.max(0, w.load:whole() - since) or nil
end

--- Strikes under load and waits until the pool is whole; seconds, nil when it never was.
local function suffer(w, row, result)
  local load = w.load
  load:start()
  w:more(FIRST, 30)
  if row.calm ~= false then result.calm = streak(w, pool.now(), CALM_WITHIN) end
  result.early = 0
  for _, n in pairs(load:figures().errors) do result.early = result.early + n end
  if row.ready then row.ready(w) end
  local began = pool.now()
  w:cause "begun"
  local fine, err = pcall(row.strike, w)
  w:cause "ended"
  local ended = pool.now()
  result.struck = ended - began
  if not fine then result.broken[#result.broken + 1] = "the strike failed: " .. tostring(err) end
  local again = streak(w, ended, row.patience or WHOLE_WITHIN)
  pcall(w.more, w, row.least or LEAST, row.patience or WHOLE_WITHIN)
  load:stop()
  local stopped = pool.now()
  local rested = pcall(w.wait, w, function() return busy(w:stats()) == 0 end, 10)
  return again and rested and again + pool.now() - stopped or nil
end

--- What of the ledger is not so: right answers are kept, each once; what failed before its COMMIT, or was told that it did, left nothing.
---@param found table<integer, integer>  number -> how many times it is there
---@param ledger table<integer, string>
---@return string[] stories
function matrix.fates(found, ledger)
  local stories = {}
  for n, state in pairs(ledger) do
    local times = found[n] or 0
    if times > 1 or (state == "right" and times ~= 1) or (state == "clean" and times ~= 0) then
      stories[#stories + 1] = ("transaction %d, which ended %s, is there %d times"):format(n, state, times)
    end
  end
  return stories
end

local function audit(w, result)
  local found = {}
  local where = w.observe and w.observe[#w.observe] or {}
  for n in w:sql("select n from fault_ledger", where):gmatch "%d+" do
    n = math.tointeger(tonumber(n))
    found[n] = (found[n] or 0) + 1
  end
  for _, story in ipairs(matrix.fates(found, w.load:ledger())) do
    result.wrong = result.wrong + 1
    result.broken[#result.broken + 1] = story
  end
end

--- May callers be told this? `what`: "kind:sqlstate"; a query's SQLSTATE must be listed, others' need not.
local function listed(row, what)
  local kind = what:match "^(%l+):"
  local list = " " .. row.allow .. " "
  return list:find(" " .. what .. " ", 1, true) or (kind ~= "query" and list:find(" " .. kind .. " ", 1, true))
end

--- What callers met that the row does not allow, as texts: what calls were told, and what never came to a call, since `pool serve` itself
--- answered the request.
local function refusals(row, result, state)
  local refused = {}
  for what, n in pairs(state.seen) do
    if what:find "^%l+:" and not listed(row, what) then refused[#refused + 1] = ("%d x %s (%s)"):format(n, what, state.told[what]) end
  end
  for kind, n in pairs(result.errors or {}) do
    local outside = n - (state.seen[kind] or 0)
    if outside > 0 and not listed(row, kind .. ":") then refused[#refused + 1] = ("%d x %s, not from a call"):format(outside, kind) end
  end
  table.sort(refused)
  return refused
end

local function fail_if(result, condition, text, ...)
  if condition then result.broken[#result.broken + 1] = text:format(...) end
end

local function balance(result, s)
  fail_if(result, s.arrivals ~= s.grants + s.timeouts + s.rejected + s.cancelled + s.errors + s.waiting, "arrivals and their ends differ")
  fail_if(result, s.grants ~= s.releases + s.leased, "grants differ from releases and leases")
end

--- What must be true of every row; what is not goes to result.broken.
function matrix.verdict(row, result, state)
  local refused = refusals(row, result, state)
  fail_if(result, result.wrong > 0, "%d wrong answers: %s", result.wrong, tostring(state.wrong[1]))
  fail_if(result, result.missing > 0, "%d missing answers: %s", result.missing, tostring(state.wrong[1]))
  fail_if(result, #refused > 0, "not allowed: %s", table.concat(refused, ", "))
  fail_if(result, result.right < (row.least or LEAST), "only %d right answers: no load", result.right)
  fail_if(result, not result.whole, "never whole again")
  fail_if(result, result.whole and result.whole > result.bound * SLOW, "whole only after %.2f s", result.whole or 0)
  fail_if(result, row.calm ~= false and not result.calm, "never calm before the strike")
  fail_if(result, row.calm ~= false and (result.early or 0) > 0, "%d errors before the strike", result.early or 0)
  fail_if(result, row.driver ~= "sqlite" and not row.unseen and (result.most or 0) < 1, "nobody saw a connection at the server")
  fail_if(result, result.looks and result.looks < LOOKS, "only %d looks at a server", result.looks or 0)
  fail_if(result, result.most and result.most > result.limit + (row.excess or 0), "%d connections at the server, %d allowed",
    result.most or 0, result.limit)
  for what, n in pairs(result.left) do fail_if(result, n > 0, "left behind: %d %s", n, what) end
end

local function proven(w, row, result, state)
  if type(row.saw) == "function" then
    fail_if(result, not row.saw(w, result, state), "the fault did not strike")
  else
    fail_if(result, not state.seen[row.saw], "the fault did not strike: nobody met %s", row.saw)
  end
end

local function measure(w, row, result)
  local sampled = samplers(w)
  result.whole = suffer(w, row, result)
  local figures, state = w.load:figures(), w.load:state()
  for _, name in ipairs { "calls", "right", "wrong", "missing", "errors", "longest" } do result[name] = figures[name] end
  local s = state.stats
  result.limit, result.seen = row.limit or s.limit, state.seen
  result.left = { leases = s.leased + state.leases, waiters = s.waiting, coroutines = state.coroutines }
  fail_if(result, s.total > s.limit, "%d connections, %d allowed", s.total, s.limit)
  balance(result, s)
  if row.driver ~= "sqlite" then
    local same = pcall(w.wait, w, function() return counted(w) == w:stats().total end, 5)
    fail_if(result, not same, "the server counts %d connections, the pool %d", counted(w), w:stats().total)
  end
  for _, each in ipairs(sampled) do
    local most, looks = each.most()
    result.most, result.looks = math.max(result.most or 0, most), math.min(result.looks or looks, looks)
  end
  if row.after then row.after(w, result) end
  proven(w, row, result, state)
  if row.ledger ~= false and row.driver ~= "sqlite" then audit(w, result) end
  local ended = w.load:close()
  result.left.descriptors, result.left["connections at the server"] = ended.descriptors, counted(w)
  fail_if(result, ended.complaint, "%s", tostring(ended.complaint))
  matrix.verdict(row, result, state)
end

local function settings_of(w, row)
  local settings = {}
  for _, given in ipairs { SETTINGS, row.settings or {}, w.settings } do
    for name, value in pairs(given) do settings[name] = value end
  end
  settings.database_url = database_url(w)
  return settings
end

--- What goes before the command under load, and its environment.
local function surroundings(row, dir)
  local words = row.wrap and row.wrap(dir) or {}
  local preload = table.concat({ os.getenv "POOL_SPEC_PRELOAD" or "", row.preload or "" }, " "):match "^%s*(.-)%s*$"
  if preload ~= "" then table.move({ "env", "LD_PRELOAD=" .. preload }, 1, 2, #words + 1, words) end
  return words, row.env and row.env(dir) or {}
end

local function begin(w, row, how, dir)
  local load = require "faults.load"
  if row.driver ~= "sqlite" then w:sql "drop table if exists fault_ledger" end
  if row.setup then row.setup(w) end
  local settings = settings_of(w, row)
  if how == "tasks" then return load.tasks(w, settings) end
  return load.serve(w, settings, surroundings(row, dir))
end

--- Runs a row in this process: the result.
---@param name string
---@param how "tasks" | "serve"
function matrix.run(name, how, dir)
  local World = require "faults.world"
  local row = matrix.row(name)
  local result = { broken = {}, bound = row.bound or BOUND, wrong = 0, missing = 0, calls = 0, right = 0, errors = {}, left = {} }
  local log = assert(io.open(dir .. "/log", "w"))
  log:setvbuf "line"
  pool.log = function(level, message) log:write(level, ": ", message, "\n") end
  local w = World.new(row, "fault-" .. dir:match "%w+$", dir)
  local fine, err = pcall(pool.run, function()
    local done, why = xpcall(function()
      w.load = begin(w, row, how, dir)
      w.pid = w.load.pid
      measure(w, row, result)
    end, function(raised)
      pool.log("error", debug.traceback(tostring(raised), 2))
      return raised
    end)
    for _, complaint in ipairs(w:close()) do result.broken[#result.broken + 1] = "undoing: " .. complaint end
    if not done then error(why, 0) end
  end)
  if not fine then result.broken[#result.broken + 1] = tostring(err) end
  log:close()
  return result
end

-- ---- judging: a row in a child process --------------------------------------------------------------------------------------------------

local function command(row, how, dir)
  local words, env = {}, {}
  if how == "tasks" then words, env = surroundings(row, dir) end
  if how == "serve" and os.getenv "POOL_SPEC_PRELOAD" then words = { "env", "LD_PRELOAD=" .. os.getenv "POOL_SPEC_PRELOAD" } end
  local own = { "lua5.4", HERE .. "/main.lua", "--child", row.name, how }
  env.FAULT_DIR = dir
  words = table.move(own, 1, #own, #words + 1, words)
  local inside = row.inside and row.inside(dir) or {}
  return table.move(words, 1, #words, #inside + 1, inside), env
end

--- The cluster answers, whatever the row before did to it.
local function mend_cluster(env)
  local words = {}
  for name, value in pairs(env) do words[#words + 1] = ("export %s=%s; "):format(name, process.quote(value)) end
  local said, code = process.run(table.concat(words) .. [[
    psql() { "$POOL_SPEC_PG_BIN/psql" -X -h "$POOL_SPEC_PG_DIR" -p "$POOL_SPEC_PG_PORT" -U "$POOL_SPEC_PG_USER" -c 'select 1' postgres; }
    psql >/dev/null 2>&1 || { spec/support/cluster kill; spec/support/cluster start; } 2>&1]])
  if code ~= 0 then error("the server cannot be had again: " .. said) end
end

--- The log of a run that failed, where a build's files are.
local function keep_log(row, how, dir, result)
  local path = ("%s/faults/%s.%s.log"):format(os.getenv "POOL_SPEC_BUILD", row.name:gsub("[^%w]+", "-"), how)
  process.run(("mkdir -p %s && cp %s/log %s"):format(process.quote(path:match "^(.*)/"), dir, process.quote(path)))
  result.broken[#result.broken + 1] = "its log: " .. path
end

--- One row under one load, in a process of its own, whose crash or hang is the row's failure alone: the result; `skipped` says why there
--- is none. The cluster is the one in the environment, or in `env` (POOL_SPEC_PG_*), and must be nobody else's.
---@return table result  broken: what was wrong, empty when the row has passed
function matrix.judge(row, how, env)
  local lacks = matrix.lacks(row)
  if lacks then return { skipped = lacks, broken = {} } end
  mend_cluster(env or {})
  local dir = process.run("mktemp -d ${FAULT_SCRATCH:-/tmp}/pool-fault.XXXXXX"):gsub("\n$", "")
  process.run("chmod 755 " .. dir)
  local words, own = command(row, how, dir)
  for name, value in pairs(env or {}) do own[name] = value end
  local child <close> = process.start(words, { env = own })
  local began = system.monotime()
  local fine = pcall(child.wait, child, (row.seconds or 120) * SLOW)
  local out, err = child:stdout(), child:stderr()
  local result = pool.json.decode(out:match "RESULT (%b{})" or "null")
  if type(result) ~= "table" then result = { broken = { "no result: " .. out } } end
  if not fine then result.broken[#result.broken + 1] = "it hung" end
  if fine and child:code() ~= 0 then result.broken[#result.broken + 1] = ("it ended with %d"):format(child:code()) end
  if err ~= "" then result.broken[#result.broken + 1] = "it said: " .. err:sub(-3000) end
  child:close()
  result.seconds = system.monotime() - began
  if #result.broken > 0 and not row.planted then keep_log(row, how, dir, result) end
  process.run("rm -rf " .. dir)
  return result
end

return matrix
