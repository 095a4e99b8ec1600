--- Cancel races: statements are stopped at random times, in every way there is, and what runs next on the same connection must never
--- feel it. A cancel of PostgreSQL's names a connection, not a statement: one that comes late hits whatever runs there by then.
---
---   spec/faults/run cancels [CANCELS = 100000] [SEED]
---
--- First comes `pool serve`, whose clients go away; then pools on a Unix socket and on TCP, few connections, many tasks. Each round stops
--- a statement of 0 to 3 ms after 0 to 3 ms and then asks a question on the same connection that takes a moment itself, and whose
--- answer is known.
---
--- CANCELS are those that came to the server: it logs each connection, and one that is received and never authorized was a cancel's.
--- It also logs each statement that it cancelled; the other requests came when their statement had ended: those are the dangerous
--- ones. By way, what callers saw: stopped (in the line for a connection, too, where no cancel is sent), of these told so and
--- finished first; hit the wrong one (0); in the end connections given up (0). Prints its seed first; a seed repeats the choices, not
--- the server's timing.
local pool = require "pool"
local postgres = require "support.postgres"
local process = require "support.process"

local WANTED = math.tointeger(tonumber(arg and arg[1])) or 100000
local SEED = math.tointeger(tonumber(arg and arg[2])) or os.time()
local CLIENTS = 0.05  -- the share of the clients that go
local SIZE, TASKS = 3, 7 -- connections a pool, and who wants them
local LONGEST = 0.003 -- seconds: of statements, and before they are stopped
local TIMEOUT = LONGEST / 3
local GOING = { deadline = true, cancelled = true } -- what a stopped statement may say

print(("cancel races: %d cancels, seed %d"):format(WANTED, SEED))
math.randomseed(SEED)
pool.log = function() end

local random = math.random
local counts, order, wrong = {}, {}, {}
local stopped = 0

local function count(way, what)
  if not counts[way] then
    counts[way] = { stopped = 0, cancelled = 0, finished = 0, wrong = 0 }
    order[#order + 1] = way
  end
  counts[way][what] = counts[way][what] + 1
end

local function fail(way, ...)
  count(way, "wrong")
  wrong[#wrong + 1] = way .. ": " .. string.format(...)
end

-- ---- what the server sees ------------------------------------------------------------------------------------------------------------

local seen = { received = 0, authorized = 0, hit = 0 }
local WORDS = {
  received = "connection received: ", authorized = "connection authorized: ", hit = "canceling statement due to user request",
}

local function reload(text) postgres.sql(text .. "; select pg_reload_conf()") end

--- From now on what it logs is counted.
function seen.open()
  seen.log = assert(io.open(postgres.cluster().DIR .. "/log", "rb"))
  seen.log:seek "end"
  seen.rest = ""
  -- one setting a statement: ALTER SYSTEM cannot be in a transaction with another
  for _, text in ipairs { "log_connections = on", "log_min_error_statement = panic" } do postgres.sql("alter system set " .. text) end
  reload "select 1"
  process.wait_until(function() return postgres.sql "show log_connections" == "on" end, 10, "log_connections")
  seen.look()
  for name in pairs(WORDS) do seen[name] = 0 end
  postgres.sql "select 1"
  if seen.look() ~= 0 or seen.received == 0 then fail("the server's log", "says %d cancels of %d connections where there was none",
    seen.look(), seen.received) end
end

function seen.close()
  for _, name in ipairs { "log_connections", "log_min_error_statement" } do postgres.sql("alter system reset " .. name) end
  reload "select 1"
  seen.log:close()
end

--- Counts what it has logged since the last look; the cancel requests so far.
function seen.look()
  local text = seen.rest .. seen.log:read "a"
  local whole = text:match "^.*\n" or ""
  seen.rest = text:sub(#whole + 1)
  for name, words in pairs(WORDS) do seen[name] = seen[name] + select(2, whole:gsub(words, "")) end
  return seen.received - seen.authorized
end

-- ---- statements -----------------------------------------------------------------------------------------------------------------

local serial = 0

--- One of 0 to 3 ms: SQL and its parameters. Asleep or at work, prepared already or new to the connection.
local VICTIMS = {
  function(seconds) return "select pg_sleep($1)", seconds end,
  function(seconds) return ("select pg_sleep(%g) as s%d"):format(seconds, serial) end,
  function(seconds) return "select count(*) from generate_series(1, $1::int)", (seconds * 5e6) // 1 end,
  function(seconds) return "select 1" .. (seconds > LONGEST / 2 and "" or " where false") end,
}
local function victim()
  serial = serial + 1
  return VICTIMS[random(#VICTIMS)](random() * LONGEST * (random(4) == 1 and 10 or 1)) -- some are there still when a slow cancel comes
end

--- A moment: some turns of the loop, or some time.
local function moment()
  if random(2) == 1 then
    for _ = 1, random(0, 6) do pool.sleep(0) end
  else
    pool.sleep(random() * LONGEST)
  end
end

--- How the statement ended. `late`: nobody had stopped it by then.
local function outcome(way, err, late)
  if err and not (type(err) == "table" and GOING[err.kind]) then return fail(way, "the stopped statement says %s", tostring(err)) end
  if late then return end
  count(way, "stopped")
  count(way, err and "cancelled" or "finished")
  stopped = stopped + 1
end

--- The question after it. On a pool with a statement_timeout it may itself take too long: then it is one more that was stopped.
local function ask(way, on, pid)
  serial = serial + 1
  local number = serial
  local rows, err = on:query("select $1::int as n, pg_backend_pid() as pid, pg_sleep($2)", number, random(3) == 1 and random() * 0.001 or 0)
  if not rows and err.kind == "deadline" and way == "statement_timeout" then return ask(way, on, pid) end
  if not rows then return fail(way, "the next statement was hit: %s", tostring(err)) end
  local row = rows[1]
  if #rows ~= 1 or row.n ~= number then return fail(way, "asked %d, got %s", number, tostring(row and row.n)) end
  if pid and row.pid ~= pid then return fail(way, "asked process %d, %d answered", pid, row.pid) end
end

-- ---- ways to stop one --------------------------------------------------------------------------------------------------------------

local ways = {}

--- A statement of another task on this lease, once it is under way.
local function beside(c)
  local task = pool.spawn(function(...) return c:query(...) end, victim())
  pool.sleep(0)
  moment()
  return task
end

local function on_lease(way, db, fn)
  local c <close> = assert(db:acquire())
  local pid = c.pid
  if random(8) == 1 then assert(c:begin()) end
  outcome(way, fn(c))
  if c.in_transaction then assert(c:rollback()) end
  for _ = 1, random(2) do ask(way, c, pid) end
end

local function over(task) return task.status == "done" end

ways["task:cancel, its lease stays"] = function(way, db)
  on_lease(way, db, function(c)
    local task = beside(c)
    local late = over(task)
    task:cancel()
    return select(2, task:join()), late
  end)
end

ways["task:cancel, its lease goes"] = function(way, db)
  local asked
  local task = pool.spawn(function(...)
    local c = assert(db:acquire())
    asked = true
    return c:query(...)
  end, victim())
  while not asked do pool.sleep(0) end
  moment()
  local late = over(task)
  task:cancel()
  outcome(way, select(2, task:join()), late)
  ask(way, db)
end

ways["task:cancel of a db:query"] = function(way, db)
  local task = pool.spawn(function(...) return db:query(...) end, victim())
  moment()
  local late = over(task)
  task:cancel()
  outcome(way, select(2, task:join()), late)
  ask(way, db)
end

ways["c:cancel"] = function(way, db)
  on_lease(way, db, function(c)
    local task = beside(c)
    local late = over(task)
    for _ = 1, random(2) do assert(c:cancel()) end
    return select(2, task:join()), late
  end)
end

ways["c:cancel and task:cancel"] = function(way, db)
  on_lease(way, db, function(c)
    local task = beside(c)
    local late = over(task)
    assert(c:cancel())
    if random(2) == 1 then pool.sleep(0) end
    task:cancel()
    return select(2, task:join()), late
  end)
end

local function limited_by_deadline(on)
  local rows, err = pool.deadline(random() * LONGEST, function(...) return on:query(...) end, victim())
  return err, rows ~= nil
end

ways["pool.deadline"] = function(way, db) on_lease(way, db, limited_by_deadline) end

ways["pool.deadline of a db:query"] = function(way, db)
  outcome(way, limited_by_deadline(db))
  ask(way, db)
end

ways["pool.deadline, its lease goes"] = function(way, db)
  do
    local c <close> = assert(db:acquire())
    outcome(way, limited_by_deadline(c))
  end
  ask(way, db)
end

ways["c:release amid a statement"] = function(way, db)
  local c <close> = assert(db:acquire())
  local task = beside(c)
  local late = over(task)
  c:release()
  outcome(way, select(2, task:join()), late)
  ask(way, db)
end

local STREAM = "select n, repeat('x', 100) as x from generate_series(1, $1::int) as n"

--- Some rows of a stream: an error for its having been left, and whether it came to its end first.
local function rows_of(on)
  local most, leave = random(257, 3000), random(1, 900)
  for row in on:rows(STREAM, most) do
    if row.n == leave then return { kind = "cancelled" }, false end
  end
  return nil, true
end

ways["leaving a stream"] = function(way, db) on_lease(way, db, rows_of) end

ways["leaving a stream of db:rows"] = function(way, db)
  outcome(way, rows_of(db))
  ask(way, db)
end

local limited = {} -- pools whose statement_timeout is TIMEOUT -> true

ways["statement_timeout"] = function(way, db)
  local c <close> = assert(db:acquire())
  local pid = c.pid
  local began = pool.now()
  local _, err = c:query(victim())
  outcome(way, err, not err and pool.now() - began < TIMEOUT)
  ask(way, c, pid)
end

local names = {}
for name in pairs(ways) do
  if name ~= "statement_timeout" then names[#names + 1] = name end
end
table.sort(names)

-- ---- pools -----------------------------------------------------------------------------------------------------------------------

local pools = {}

local function open(url, settings)
  settings.database_url, settings.size, settings.max_overflow = postgres.url(url), SIZE, 0
  local db = pool.new(settings)
  pools[#pools + 1] = db
  return db
end

local function rounds(db, wanted)
  while seen.sent < wanted and stopped < 4 * wanted and #wrong < 100 do
    local way = limited[db] and "statement_timeout" or names[random(#names)]
    ways[way](way, db)
    if random(20) == 1 then pool.sleep(0) end
  end
end

local function race(wanted)
  for _, tcp in ipairs { false, true } do
    open({ tcp = tcp }, {})
    limited[open({ tcp = tcp }, { statement_timeout = TIMEOUT })] = true
  end
  local tasks = {}
  local looking = pool.spawn(function()
    while true do
      seen.sent = seen.look()
      pool.sleep(0.02)
    end
  end)
  for _, db in ipairs(pools) do
    for _ = 1, limited[db] and 1 or TASKS do tasks[#tasks + 1] = pool.spawn(rounds, db, wanted) end
  end
  for _, task in ipairs(tasks) do
    local _, err = task:join()
    if task.status ~= "done" then fail("a task", "%s", tostring(err)) end
  end
  looking:cancel()
end

--- Connections beyond the first ones: each replaces one that was given up.
local function given_up()
  local sum = 0
  for _, db in ipairs(pools) do
    local s = db:stats()
    sum = sum + s.opens - s.total
    if s.leased > 0 or s.waiting > 0 then fail("the pool", "%s", db:status()) end
    db:close()
  end
  return sum
end

-- ---- clients that go ----------------------------------------------------------------------------------------------------------------

local APP = [[
local http = require "pool.http"
local app = http.app()
app:get("/wait/:ms", function(req)
  assert(req.db:query("select pg_sleep($1::float8 / 1000)", req.params.ms))
  return "waited"
end)
app:get("/ask/:n", function(req) return tostring(assert(req.db:query("select $1::int as n, pg_sleep(0.0003)", req.params.n))[1].n) end)
app:get("/opened", function(req) return tostring(req.db:stats().opens) end)
return app
]]

-- PORT GOES SEED: so many requests whose client goes before it has read an answer; half of them by a reset. After each a question.
local CLIENT = [[
use strict; use Socket; use IO::Handle;
my ($port, $goes, $seed) = @ARGV; srand($seed);
my ($gone, $late, $wrong) = (0, 0, 0);
sub meet { socket(my $s, PF_INET, SOCK_STREAM, 0) or die; connect($s, sockaddr_in($port, INADDR_LOOPBACK)) or die "connect: $!";
  $s->autoflush(1); return $s }
sub get { my ($s, $path) = @_; print $s "GET $path HTTP/1.1\r\nHost: x\r\n\r\n" }
my $asker = meet();
sub ask { my $n = int(rand(1e9)); get($asker, "/ask/$n"); my ($len, $head) = (0, "");
  while (defined(my $line = <$asker>)) { $head .= $line; $len = $1 if $line =~ /^content-length: (\d+)/i; last if $line eq "\r\n" }
  read($asker, my $body, $len); return if $head =~ m{^HTTP/1.1 200} && $body eq $n;
  $wrong++; print STDERR "asked $n: $head$body\n"; $asker = meet() }
while ($gone < $goes && $wrong < 10) {
  my $s = meet(); get($s, sprintf("/wait/%.3f", rand(rand() < 0.25 ? 30 : 3))); select(undef, undef, undef, rand(0.003));
  my $in = ""; vec($in, fileno($s), 1) = 1;
  if (select($in, undef, undef, 0)) { $late++ } else { $gone++ }
  setsockopt($s, SOL_SOCKET, SO_LINGER, pack("ii", 1, 0)) if rand() < 0.5;
  close($s); ask();
}
print "$gone $late $wrong\n";
]]

local function finish_client(way, client)
  local numbers = { client:wait_line("^(%d+) (%d+) (%d+)$", 600) }
  local gone, late, errors = tonumber(numbers[1]), tonumber(numbers[2]), tonumber(numbers[3])
  for _ = 1, gone + late do count(way, "stopped") end
  for _ = 1, gone do count(way, "cancelled") end
  for _ = 1, late do count(way, "finished") end
  for _ = 1, errors do count(way, "wrong") end
  if errors > 0 then wrong[#wrong + 1] = way .. ": " .. client:stderr() end
  client:close()
end

--- Clients of one `pool serve`; the connections that it had to give up.
local function clients(wanted)
  local file = os.tmpname()
  local out <close> = assert(io.open(file, "w"))
  out:write(APP)
  out:flush()
  local server <close> = process.start({ assert(os.getenv "POOL_SPEC_COMMAND"), "serve", file, "--listen", "127.0.0.1:0",
    "--size", tostring(SIZE), "--max-overflow", "0", "--database-url", postgres.url { tcp = true } })
  local port, running = server:wait_line "listening on http://127.0.0.1:(%d+)", {}
  for i = 1, TASKS do
    running[i] = process.start { "perl", "-e", CLIENT, port, tostring((wanted + TASKS - 1) // TASKS), tostring(SEED + i) }
  end
  for _, client in ipairs(running) do finish_client("a client that goes", client) end
  local opened = process.run(("curl --silent --noproxy '*' http://127.0.0.1:%s/opened"):format(port))
  os.remove(file)
  server:signal "TERM"
  local code = server:wait(20)
  if code ~= 0 then wrong[#wrong + 1] = "the server ended with " .. code .. ": " .. server:stderr() end
  return tonumber(opened) - SIZE
end

-- ---- the sum ------------------------------------------------------------------------------------------------------------------------

local began = pool.now()
seen.open()
local lost = math.max(0, clients(math.ceil(WANTED * CLIENTS)))
seen.sent = seen.look()
local by_clients = seen.sent
pool.run(race, WANTED)
lost = lost + given_up()
seen.sent = seen.look()
seen.close()

local COLUMNS = { "stopped", "cancelled", "finished", "wrong" }
local sum, line = { stopped = 0, cancelled = 0, finished = 0, wrong = 0 }, "%-32s %10s %10s %15s %18s"
print(line:format("", "stopped", "told so", "finished first", "hit the wrong one"))
local function row(way, c) print(line:format(way, c.stopped, c.cancelled, c.finished, c.wrong)) end
table.sort(order)
for _, way in ipairs(order) do
  for _, what in ipairs(COLUMNS) do sum[what] = sum[what] + counts[way][what] end
  row(way, counts[way])
end
row("all", sum)
print(("%d cancels came to the server, %d of them when clients went: %d cancelled a statement, %d came when it had ended"):format(seen.sent,
  by_clients, seen.hit, seen.sent - seen.hit))
print(("%d connections given up, %.0f s"):format(lost, pool.now() - began))
for i = 1, math.min(#wrong, 10) do io.stderr:write(wrong[i], "\n") end
local late = seen.sent - seen.hit
local least = WANTED / 20
local raced = seen.sent >= WANTED and by_clients > 0 and seen.hit > least and late > least and sum.finished > least
if not raced then io.stderr:write "too few cancels, hits or late ones: nothing was raced\n" end
local fine = #wrong == 0 and raced and lost == 0
print(("%d passed, %d failed"):format(fine and 1 or 0, fine and 0 or 1))
os.exit(fine, true)
