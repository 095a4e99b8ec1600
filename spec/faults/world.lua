--- What a row's `strike` does its damage with: `w`. Everything here runs beside the loop, so that the load goes on meanwhile, has a
--- bound, and is undone when the row ends, however it ends: a frozen process is woken by the very shell that froze it.
local pool = require "pool"
local postgres = require "support.postgres"
local process = require "support.process"

local World = {}
World.__index = World

local quote = process.quote
local SECONDS = 60 -- bound of everything beside the loop
local POLL = 0.002

---@param row table
---@param name string  the application_name of the connections under test
---@param dir string  a directory of this run's own, removed after it
function World.new(row, name, dir)
  local self = setmetatable({ row = row, name = name, dir = dir, undo = {}, serial = 0, hits = 0, settings = {}, flags = {} }, World)
  self.url = { application_name = name }
  for key, value in pairs(row.url or {}) do self.url[key] = value end
  return self
end

--- Does `fn` when the row ends, last first.
function World:defer(fn) self.undo[#self.undo + 1] = fn end

--- Undoes everything; what failed doing so, as texts.
function World:close()
  local complaints = {}
  for i = #self.undo, 1, -1 do
    local fine, err = pcall(self.undo[i])
    if not fine then complaints[#complaints + 1] = tostring(err) end
    self.undo[i] = nil
  end
  return complaints
end

-- ---- waiting ------------------------------------------------------------------------------------------------------------------

--- Lets the loop turn until the condition holds; raises after `seconds` (default 20), naming `what`.
function World.wait(_, condition, seconds, what)
  local deadline = pool.now() + (seconds or 20)
  while true do
    local result = condition()
    if result then return result end
    if pool.now() > deadline then error(("waited %g s in vain for %s"):format(seconds or 20, what or "a condition"), 2) end
    pool.sleep(POLL)
  end
end

--- Waits until the load has had `count` more right answers.
function World:more(count, seconds)
  local from = self.load:figures().right
  self:wait(function() return self.load:figures().right >= from + count end, seconds, count .. " more right answers")
end

--- Waits until the load has met `count` more errors, of whatever kind.
function World:more_errors(count, seconds)
  local function errors()
    local sum = 0
    for _, n in pairs(self.load:figures().errors) do sum = sum + n end
    return sum
  end
  local from = errors()
  self:wait(function() return errors() >= from + count end, seconds, count .. " errors")
end

--- Calls that are part of the cause (Calls:cause) begin and stop being so: "begun", "ended".
function World:cause(what) assert(io.open(self.dir .. "/" .. what, "w")):close() end

-- ---- beside the loop ------------------------------------------------------------------------------------------------------------

local read = process.read

local Beside = {}
Beside.__index = Beside

--- Its exit code once it has ended.
function Beside:code()
  self.ended = self.ended or tonumber(read(self.base .. ".code") or nil)
  return self.ended
end

--- Waits for its end; what it printed. Raises when it failed.
function Beside:wait(seconds)
  self.w:wait(function() return self:code() end, seconds or SECONDS, "the end of: " .. self.command)
  local output = (read(self.base .. ".out") or ""):gsub("\n$", "")
  if self.ended ~= 0 then error(("%s ended with %d: %s"):format(self.command, self.ended, output), 2) end
  return output
end

--- Ends it, gently: its traps run.
function Beside:stop()
  if self:code() then return end
  local group = tonumber(read(self.base .. ".pid") or nil)
  if not group then return end
  os.execute(("kill -TERM -%d 2>/dev/null"):format(group))
  process.wait_until(function()
    if self:code() then return true end
    os.execute(("kill -TERM -%d 2>/dev/null"):format(group))
  end, 10, "the end of: " .. self.command)
end

-- A session of its own, so that its whole group can be ended; no descriptor of ours is kept open by it. It tells of itself with what
-- the shell has built in: another program would die of the signal that ends the group.
local LAUNCH = [[unset LD_PRELOAD; setsid bash -c '
echo $$ >"$0.pid"
trap : TERM INT
bash -c "trap - TERM INT; $1" >"$0.out" 2>&1
echo $? >"$0.code"' %s %s </dev/null >/dev/null 2>&1 &]]

--- Starts a shell command beside the loop.
---@return table beside  :wait(seconds) -> output; :code(); :stop()
function World:beside(command)
  self.serial = self.serial + 1
  local made = setmetatable({ w = self, command = command, base = ("%s/%d"):format(self.dir, self.serial) }, Beside)
  assert(os.execute(LAUNCH:format(quote(made.base), quote(command))))
  self:defer(function() made:stop() end)
  self:wait(function() return tonumber(read(made.base .. ".pid") or nil) end, 10, "the start of: " .. command)
  return made
end

--- A shell command to its end, beside the loop; what it printed. Raises when it failed.
function World:run(command, seconds) return self:beside(command):wait(seconds) end

-- ---- the server -----------------------------------------------------------------------------------------------------------------

--- The words of a psql on the matrix's cluster, or another: `options`: host, port, database.
function World.psql(options)
  local c = postgres.cluster()
  return ("%s -X -q -A -t -v ON_ERROR_STOP=1 -h %s -p %s -U %s -d %s"):format(quote(c.BIN .. "/psql"),
    quote(options.host or c.DIR), quote(options.port or c.PORT), quote(c.USER), quote(options.database or c.DATABASE))
end

--- SQL through psql, independent of pool. `options`: database, host, port.
---@return string output  a row a line, cells parted by `|`
function World:sql(text, options)
  return self:run(("printf %%s %s | %s"):format(quote(text), self.psql(options or {})))
end

--- A verb of support/cluster: "stop fast", "start", "restart immediate", "kill". `dir`: of another cluster than the matrix's.
function World:cluster(verb, dir)
  return self:run(("POOL_SPEC_PG_DIR=%s spec/support/cluster %s"):format(quote(dir or postgres.cluster().DIR), verb))
end

--- A condition on the connections under test, for pg_stat_activity.
function World:mine(condition)
  return ("application_name = '%s'%s"):format(self.name, condition and " and " .. condition or "")
end

--- The server's processes of the connections under test, those that fulfil the condition of pg_stat_activity.
---@param condition string?  "state = 'idle'", "state = 'active'", "state = 'idle in transaction'", "query like '%...%'"
---@return integer[]
function World:pids(condition, options)
  local found = {}
  for pid in self:sql("select pid from pg_stat_activity where " .. self:mine(condition), options):gmatch "%d+" do
    found[#found + 1] = math.tointeger(pid)
  end
  return found
end

local HIT = [[do $hit$
declare victim int; deadline timestamptz := clock_timestamp() + interval '%g s';
begin
  loop
    perform pg_stat_clear_snapshot();
    select pid into victim from pg_stat_activity where %s order by random() limit 1;
    exit when found;
    if clock_timestamp() > deadline then raise exception 'nobody was in that state'; end if;
    perform pg_sleep(0.0005);
  end loop;
  raise notice 'hit %%', victim;
  %s
end $hit$]]

local HOW = {
  terminate = "perform pg_terminate_backend(victim);",
  cancel = "perform pg_cancel_backend(victim);",
  kill = "execute format('copy (select 1) to program %L', 'kill -KILL ' || victim);", -- the server's own hand is the quickest
}

--- Hits one connection under test as soon as one fulfils the condition of pg_stat_activity (World.STATES has some): looked for and hit
--- by the server itself, so that it is hit in that state.
---@param how "terminate" | "cancel" | "kill" | string  the last: a function of the server's that takes the pid
---@param condition string
---@return integer pid
function World:hit(how, condition, seconds)
  local text = HIT:format(seconds or 10, self:mine(condition), HOW[how] or ("perform %s(victim);"):format(how))
  local said = self:run(("printf %%s %s | %s 2>&1%s"):format(quote(text), self.psql {}, how == "kill" and " || true" or ""))
  local pid = said:match "NOTICE:  hit (%d+)" or error(("nobody was hit where %s: %s"):format(condition, said), 2)
  self.hits = self.hits + 1
  return math.tointeger(tonumber(pid))
end

--- What the server's own view says of a connection.
World.STATES = {
  idle = "state = 'idle' and state_change < clock_timestamp() - interval '0.1 s'",
  query = "state = 'active' and query like '%pg_sleep%'",
  transaction = "state = 'idle in transaction'",
  stream = "state = 'active' and query like '%as wide%'",
}

--- Waits until the matrix's server answers again.
function World:ready(seconds)
  self:run(("for i in {1..%d}; do %s -c 'select 1' >/dev/null 2>&1 && exit 0; sleep 0.02; done; exit 1")
    :format((seconds or 20) * 50, self.psql {}))
end

--- The postmaster's process id, and those of all its children.
---@return integer, integer[]
function World.server_pids(dir)
  dir = dir or postgres.cluster().DIR
  local main = math.tointeger(tonumber((process.run(("head -n 1 %s/data/postmaster.pid"):format(quote(dir))))))
  local children = {}
  for pid in process.run(("cat /proc/%d/task/%d/children"):format(main, main)):gmatch "%d+" do
    children[#children + 1] = math.tointeger(pid)
  end
  return main, children
end

--- Stops processes (SIGSTOP) for so many seconds, at most 20, then wakes them: a shell of its own does both, so that they are woken
--- whatever becomes of this process.
---@param pids integer | integer[]
---@return table beside  :wait() returns when they are awake again
function World:freeze(pids, seconds)
  local list = type(pids) == "table" and table.concat(pids, " ") or tostring(pids)
  return self:beside(("trap 'kill -CONT %s' EXIT; trap 'exit 1' TERM INT; kill -STOP %s; sleep %g & wait $!"):format(list, list,
    math.min(seconds, 20)))
end

-- ---- the process under load -------------------------------------------------------------------------------------------------------

--- What the process under load says of itself: db:stats() of its pool, in both ways of loading.
function World:stats() return self.load:state().stats end

--- What it has logged so far.
function World:log() return self.load:log() end

return World
