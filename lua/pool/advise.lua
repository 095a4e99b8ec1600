--- db:advise: what a pool's figures say is wrong, with the evidence and a change to try. A pure function of db:stats(); each rule says
--- where its threshold comes from. The gravest comes first; a pool that does well hears nothing.

local check = require "pool.check"
local core = require "pool.core"

local advise = {}

local Pool = core.pool_methods

local ENOUGH = 100 -- grants below which shares and percentiles say little

local function seconds(value) return ("%.3g s"):format(value) end
local function percent(part, whole) return ("%.1f %%"):format(100 * part / whole) end

-- Each rule: fn(s) -> symptom, evidence, change, settings that are the change, where it is one of settings; nothing when it does not
-- apply. s: db:stats().
local RULES = {
  -- Callers that got nothing: SQLAlchemy's "QueuePool limit of size ... reached, connection timed out".
  function(s)
    if s.timeouts == 0 then return end
    local most = s.size + s.max_overflow
    local evidence = ("%d of %d arrivals got no connection within %s"):format(s.timeouts, s.arrivals, seconds(s.settings.timeout))
    local larger = math.ceil(1.5 * math.max(1, s.size))
    if s.utilization > 0.7 then
      return "callers time out", evidence, ("size = %d (now %d), or shorter holds: %s in the mean"):format(larger, s.size,
        seconds(s.hold.mean)), { size = larger }
    end
    return "callers time out", evidence, ("look for bursts and long holds first: the pool is %s used in the mean, of %d"):format(
      percent(s.utilization, 1), most)
  end,
  function(s)
    if s.rejected == 0 then return end
    if s.shed > 0 then
      return "codel sheds callers", ("%d of %d arrivals were shed"):format(s.shed, s.arrivals),
        "the database is asked for more than it does: shorter statements, fewer retries, or db:tune \"default\""
    end
    return "the line is full", ("%d of %d arrivals were overloaded"):format(s.rejected, s.arrivals),
      ("max_waiting is %d: a longer line only answers later; look at size and holds"):format(s.settings.max_waiting)
  end,
  function(s)
    if s.open_failures == 0 then return end
    return "connections cannot be opened", ("%d of %d opens failed%s"):format(s.open_failures, s.opens + s.open_failures,
      s.failing and ", the last one too" or ""), "see the log for why; where the server has no room left, lower size + max_overflow"
  end,
  -- Nobody gave them back himself: a path without release or <close>.
  function(s)
    if s.leaks == 0 then return end
    return "leases leak", ("%d were taken back from tasks that had ended"):format(s.leaks),
      "local c <close> = assert(db:acquire()); the log names file and line (leak_after)"
  end,
  -- A p95 of the checkout above 50 ms is felt; HikariCP's guide watches the same figure.
  function(s)
    if s.grants < ENOUGH or s.wait.p95 < 0.050 or s.timeouts > 0 then return end
    local larger = math.ceil(1.25 * s.size) + 1
    return "callers wait for connections", ("wait p95 %s, p99 %s"):format(seconds(s.wait.p95), seconds(s.wait.p99)),
      ("size = %d (now %d), or shorter holds: %s in the mean"):format(larger, s.size, seconds(s.hold.mean)), { size = larger }
  end,
  -- Work that is done while a connection is held and no statement runs: more than three times the statements' own time.
  function(s)
    if s.queries < ENOUGH or s.query.count < ENOUGH or s.hold.count < ENOUGH then return end
    local busy = s.query.mean * s.queries / s.hold.count
    if s.hold.mean < 0.005 or s.hold.mean < 3 * busy then return end
    local evidence = ("a hold takes %s, its statements %s"):format(seconds(s.hold.mean), seconds(busy))
    return "connections are held while nothing runs on them", evidence,
      "do other work (HTTP calls, rendering, sleeping) before the acquire or after the release"
  end,
  -- With a timeout of half a minute a caller who has gone is served in vain (see the tuning chapter of the README).
  function(s)
    if s.grants < ENOUGH or s.settings.timeout < 10 or s.wait.max < 1 then return end
    return "callers may wait longer than they stay", ("somebody has waited %s; timeout is %s"):format(seconds(s.wait.max),
      seconds(s.settings.timeout)), "timeout = 0.8 x the callers' deadline (0.8 for a deadline of 1 s)"
  end,
  -- 64 opens a minute is a connection a second: then opening is a cost of its own.
  function(s)
    if s.settings.size == 0 then
      if s.grants < ENOUGH then return end
      return "NullPool under traffic", ("%d connections were opened for %d leases"):format(s.opens, s.grants), "size = 5: keep some",
        { size = 5 }
    end
    if s.opens < ENOUGH or s.opens < 0.1 * s.grants then return end
    local longer = math.min(1e9, math.max(30, 2 * s.settings.idle_timeout)) -- 1e9 s is the longest there is
    return "connections come and go", ("%d were opened for %d leases"):format(s.opens, s.grants),
      ("idle_timeout = %s (now %s), or a larger size"):format(seconds(longer), seconds(s.settings.idle_timeout)), { idle_timeout = longer }
  end,
  -- Less than a twentieth of a large pool in use, in the mean: others could have those connections.
  function(s)
    if s.grants < ENOUGH or s.total <= 5 or s.idle < s.total / 2 or s.utilization > 0.05 or s.wait.p95 > 0.001 then return end
    local used = math.max(1, math.ceil(2 * s.utilization * (s.size + s.max_overflow)) + 2)
    if used >= s.size then return end
    return "more connections than are used", ("%d open, %d idle, %s used in the mean"):format(s.total, s.idle, percent(s.utilization, 1)),
      ("size = %d (now %d); max_overflow is there for bursts"):format(used, s.size), { size = used }
  end,
  function(s)
    if s.check_failures < 3 then return end
    return "idle connections die", ("%d of %d checks failed"):format(s.check_failures, s.checks),
      ("something on the way cuts idle connections: recycle below its limit (now %s)"):format(seconds(s.settings.recycle))
  end,
}

---@class pool.Advice
---@field symptom string
---@field evidence string
---@field change string
---@field settings table<string, any>? the change as settings, where it is one

--- What figures say, the gravest first.
---@param stats pool.Stats
---@return pool.Advice[]
function advise.of(stats)
  local list = {}
  for _, rule in ipairs(RULES) do
    local symptom, evidence, change, settings = rule(stats)
    if symptom then list[#list + 1] = { symptom = symptom, evidence = evidence, change = change, settings = settings } end
  end
  return list
end

--- What the pool's figures say is wrong, since it was made: symptom, evidence, a change to try. Empty when nothing is.
---@return pool.Advice[]
function Pool:advise()
  check.pool(self, "db:advise")
  return advise.of(self:stats())
end

-- ---- pool advise ----

advise.HELP = [[
usage: pool advise RECORDING [FLAG...]

What the figures of a recording (pool serve --record FILE, or db:record) say is wrong: symptom, evidence, a change to try. A change of
settings is tried right away: the recorded requests are replayed in virtual time as things were, and with it. Each holds its connection
as long as it did then: what a database under more load does to that is not in the recording.

  --json   as JSON
]]

local function milliseconds(value) return ("%.4g ms"):format(1000 * value) end

--- What became of the recorded requests: outcome -> how many.
local function outcomes_of(is)
  local counts = {}
  for _, outcome in ipairs(is.requests.outcome) do counts[outcome] = (counts[outcome] or 0) + 1 end
  return counts
end

local function failed_of(run) return run.timeouts + run.rejected + run.errors end

local LIMIT = 100000 -- the most that size_limit can be

--- The settings with a size_limit that has room for their size: the recorded pool's may have none. nil: there is no such limit.
local function with_room(workload, settings)
  if not settings.size then return settings end
  local most = settings.size + workload.settings.max_overflow
  return most <= LIMIT and { size = settings.size, size_limit = math.max(most, workload.settings.size_limit) } or nil
end

--- The recorded requests, replayed with these settings besides.
local function replay(workload, settings)
  local result, err = require("pool.sim").run { workload = workload, settings = settings, score = false, timeline = 0 }
  if not result then error(err, 0) end
  return { failed = failed_of(result), wait_p99 = result.wait.p99, connections = result.connections.mean, opens = result.opens }
end

local MOST = 256 -- connections, the largest size that is tried

--- The smallest size from `low` on with which a replay fails nobody, and that replay; nil when there is none up to MOST.
local function enough(workload, low)
  local high, at_high = low
  repeat
    high = math.min(MOST, math.ceil(1.5 * high))
    at_high = replay(workload, with_room(workload, { size = high }))
  until at_high.failed == 0 or high == MOST
  if at_high.failed > 0 then return nil end
  while high - low > 1 do
    local middle = (low + high) // 2
    local at_middle = replay(workload, with_room(workload, { size = middle }))
    if at_middle.failed == 0 then high, at_high = middle, at_middle else low = middle end
  end
  return high, at_high
end

--- Advice from a recording, with what replays of it show.
---@param path string
---@return table? found { recorded, counts, advice }
---@return string? message
function advise.from(path)
  local recording = require "pool.recording"
  local is, message = recording.read(path)
  if not is then return nil, message end
  if not is.stats then return nil, path .. ": it holds no figures yet: they are written every 10 s, and when it is closed" end
  local list, before = advise.of(is.stats), nil
  local workload = recording.workload(path)
  for _, advice in ipairs(list) do
    local settings = workload and advice.settings and with_room(workload, advice.settings)
    if settings then
      before = before or replay(workload)
      advice.before, advice.after = before, replay(workload, settings)
      local size = advice.settings.size
      if size and advice.after.failed > 0 then advice.enough, advice.at_enough = enough(workload, size) end
    end
  end
  return { recorded = is, counts = outcomes_of(is), advice = list }
end

local ORDER = { "granted", "timeout", "overloaded", "connect", "lost", "cancelled" }

local function replayed_text(run)
  return ("%d failed, wait p99 %s, %.1f connections, %d opens"):format(run.failed, milliseconds(run.wait_p99), run.connections, run.opens)
end

local function print_found(path, found)
  local is, words = found.recorded, {}
  for _, outcome in ipairs(ORDER) do
    if found.counts[outcome] then words[#words + 1] = ("%s %d"):format(outcome, found.counts[outcome]) end
  end
  io.stdout:write(("%s: %d requests in %.1f s from %s on%s (%s)\n"):format(path, #is.requests.at, is.seconds, is.began,
    is.whole and "" or ", the first of them rotated away", table.concat(words, ", ")))
  if #found.advice == 0 then io.stdout:write "nothing to complain of\n" end
  for i, advice in ipairs(found.advice) do
    io.stdout:write(("\n%d. %s\n   %s\n   try: %s\n"):format(i, advice.symptom, advice.evidence, advice.change))
    if advice.after then
      io.stdout:write(("   replayed as it was: %s\n   replayed so:        %s\n"):format(replayed_text(advice.before),
        replayed_text(advice.after)))
    end
    if advice.enough then io.stdout:write(("   with size = %-3d      %s\n"):format(advice.enough, replayed_text(advice.at_enough))) end
  end
end

--- Runs the verb; the exit code.
function advise.main(args, complain, misuse)
  local values, rest = require("pool.flags").parse(args, { json = {}, help = {} })
  if not values then return misuse("advise: " .. rest) end
  if values.help then return io.stdout:write(advise.HELP) and 0 end
  if #rest ~= 1 then return misuse "advise: one recording is wanted: pool advise FILE (pool serve --record FILE makes one)" end
  require "pool"
  local found, message = advise.from(rest[1])
  if not found then
    complain("advise: " .. message)
    return 1
  end
  if values.json then
    io.stdout:write(core.json.encode { began = found.recorded.began, seconds = found.recorded.seconds, outcomes = found.counts,
      requests = #found.recorded.requests.at, advice = core.array(found.advice) }, "\n")
  else
    print_found(rest[1], found)
  end
  return 0
end

return advise
