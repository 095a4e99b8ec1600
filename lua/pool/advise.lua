--- db:advise: what a pool's figures say is wrong, with the evidence and a change to try. A pure function of db:stats(); each rule says
--- where its threshold comes from. The gravest comes first; a pool that does well hears nothing.

local check = require "pool.check"
local core = require "pool.core"

local advise = {}

local Pool = core.pool_methods

local ENOUGH = 100 -- grants below which shares and percentiles say little

local function seconds(value) return ("%.3g s"):format(value) end
local function percent(part, whole) return ("%.1f %%"):format(100 * part / whole) end

-- Each rule: fn(s) -> symptom, evidence, change; nothing when it does not apply. s: db:stats().
local RULES = {
  -- Callers that got nothing: SQLAlchemy's "QueuePool limit of size ... reached, connection timed out".
  function(s)
    if s.timeouts == 0 then return end
    local most = s.size + s.max_overflow
    local evidence = ("%d of %d arrivals got no connection within %s"):format(s.timeouts, s.arrivals, seconds(s.settings.timeout))
    return "callers time out", evidence,
      s.utilization > 0.7 and ("size = %d (now %d), or shorter holds: %s in the mean"):format(math.ceil(1.5 * s.size), s.size,
        seconds(s.hold.mean)) or ("look for bursts and long holds first: the pool is %s used in the mean, of %d"):format(
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
    return "callers wait for connections", ("wait p95 %s, p99 %s"):format(seconds(s.wait.p95), seconds(s.wait.p99)),
      ("size = %d (now %d), or shorter holds: %s in the mean"):format(math.ceil(1.25 * s.size) + 1, s.size, seconds(s.hold.mean))
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
      return "NullPool under traffic", ("%d connections were opened for %d leases"):format(s.opens, s.grants), "size = 5: keep some"
    end
    if s.opens < ENOUGH or s.opens < 0.1 * s.grants then return end
    return "connections come and go", ("%d were opened for %d leases"):format(s.opens, s.grants),
      ("idle_timeout = %s (now %s), or a larger size"):format(seconds(math.max(30, 2 * s.settings.idle_timeout)),
        seconds(s.settings.idle_timeout))
  end,
  -- Less than a twentieth of a large pool in use, in the mean: others could have those connections.
  function(s)
    if s.grants < ENOUGH or s.total <= 5 or s.idle < s.total / 2 or s.utilization > 0.05 or s.wait.p95 > 0.001 then return end
    local used = math.max(1, math.ceil(2 * s.utilization * (s.size + s.max_overflow)) + 2)
    if used >= s.size then return end
    return "more connections than are used", ("%d open, %d idle, %s used in the mean"):format(s.total, s.idle, percent(s.utilization, 1)),
      ("size = %d (now %d); max_overflow is there for bursts"):format(used, s.size)
  end,
  function(s)
    if s.check_failures < 3 then return end
    return "idle connections die", ("%d of %d checks failed"):format(s.check_failures, s.checks),
      ("something on the way cuts idle connections: recycle below its limit (now %s)"):format(seconds(s.settings.recycle))
  end,
}

--- What figures say: { {symptom=, evidence=, change=}, ... }, the gravest first.
---@param stats pool.Stats
---@return { symptom: string, evidence: string, change: string }[]
function advise.of(stats)
  local list = {}
  for _, rule in ipairs(RULES) do
    local symptom, evidence, change = rule(stats)
    if symptom then list[#list + 1] = { symptom = symptom, evidence = evidence, change = change } end
  end
  return list
end

--- What the pool's figures say is wrong, since it was made: symptom, evidence, a change to try. Empty when nothing is.
---@return { symptom: string, evidence: string, change: string }[]
function Pool:advise()
  check.pool(self, "db:advise")
  return advise.of(self:stats())
end

return advise
