--- db:tune: a policy that watches a pool and retunes it while it runs, reloaded the moment its file is saved.
---
--- A version of a policy goes live in these steps; one that fails changes nothing:
---   stage      read, hash, compile, run in a state of its own, look at what it returned
---   dry run    a scratch copy runs over the last snapshots: it must not fail, and what it proposes must be valid
---   flip       between two turns of the loop; load(state of the one before) carries its state over
---   probation  `probation` ticks, in which it is taken back when it fails, is killed, proposes what is refused, or makes waits, time-outs
---              or failed opens worse than they were; then the settings it has changed return to what they were
---
--- What happened is logged once, in tuner:history(), and told to db:on("policy", fn).

local check = require "pool.check"
local core = require "pool.core"
local policies = require "pool.policies"

local Pool = core.pool_methods

local RING, HISTORY, VERSIONS = 60, 200, 20
local STRIKES = 3             -- failing ticks in a row after which a version that was good is given up
local LOOK, SETTLE = 2, 0.2   -- seconds between looks at a file, and before a text that does not compile is believed
local LEAST = 0.05            -- seconds, the shortest tick
local GRANTS = 20             -- below so many grants a p99 says nothing

---@class pool.Tuner
local Tuner = {}
Tuner.__index = Tuner

--- Pool -> its Tuner. The values lead back to their keys: ephemerons, which the collector sees through.
local tuners = setmetatable({}, { __mode = "k" })

local function seconds(value) return ("%.4g"):format(value) end

-- ---- telling ----

local function tell(self, level, what, version, reason)
  local entry = { at = core.now(), what = what, version = version and version.version, sha = version and version.sha, reason = reason }
  table.insert(self.log, entry)
  if #self.log > HISTORY then table.remove(self.log, 1) end
  local name = version and ("policy %s v%d (%s)"):format(version.name, version.version, version.sha:sub(1, 8)) or "policy"
  require("pool").log(level, ("%s: %s%s"):format(name, what, reason and ": " .. reason or ""), {})
  require("pool.events").tell(self.db, "policy", what, version and version.version, reason)
end

local function message_of(err) return type(err) == "table" and err.message or tostring(err) end

-- ---- versions ----

local function version_of(self, number)
  for _, version in ipairs(self.list) do
    if version.version == number then return version end
  end
  core.misuse(("tuner: there is no version %s"):format(tostring(number)))
end

--- Only what is live, may come back or runs as a shadow keeps its state.
local function retire(self, version)
  if not version or not version.policy or version == self.live or version == self.fallback or version == self.shadowed then return end
  version.figures = version.policy:figures()
  version.policy:close()
  version.policy = nil
end

local function remember(self, version)
  self.count = self.count + 1
  version.version = self.count
  table.insert(self.list, version)
  if #self.list <= VERSIONS then return end
  for i, oldest in ipairs(self.list) do -- at most three of the twenty are in use
    if oldest ~= self.live and oldest ~= self.fallback and oldest ~= self.shadowed then return table.remove(self.list, i) end
  end
end

local function options_of(self)
  local settings = self.db:stats().settings
  return { time = settings.policy_time, memory = settings.policy_memory, instructions = settings.policy_instructions }
end

local function make(self, version)
  local options = options_of(self)
  options.params, options.library = version.params, policies.library()
  return core.policy(version.source, version.chunk, options)
end

--- The snapshots to try a version on: those recorded, or one of now.
local function recorded(self)
  if #self.ring > 0 then return self.ring end
  local snapshot = self.meter:take(0)
  return snapshot and { { snapshot = snapshot } } or {}
end

--- A scratch copy over the recorded snapshots; nil and what is wrong.
local function dry_run(self, version, before)
  local scratch, err = make(self, version)
  if not scratch then return nil, err end
  local _ <close> = scratch
  local fine
  fine, err = scratch:begin(before)
  if not fine then return nil, err end
  local settings = self.db:stats().settings
  for _, entry in ipairs(recorded(self)) do
    local changes, _, failed = nil, nil, nil
    if scratch.hooks.tick then changes, _, failed = scratch:tick(entry.snapshot) end
    if failed then return nil, failed end
    if changes then
      local made, refused = core.dispose(settings, changes, self.limits, false)
      if not made then return nil, refused end
    end
  end
  return true
end

--- What the next version follows: the live one, or nobody when its state cannot be carried over (it contains itself, is too large): a bare
--- policy finds out. Else a wrong policy would keep every better one from coming after it.
local function predecessor(self)
  local before = self.live and self.live.policy
  local bare <close> = before and make(self, { source = "return { tick = function() end }", chunk = "bare", params = {} })
  local fine, err = true, nil
  if bare then fine, err = bare:begin(before) end
  if fine then return before end
  tell(self, "warn", "its state is not carried over", self.live, (message_of(err):gsub("^bare: ", "")))
  return nil
end

--- Stages a version: nil and what is wrong, or it is ready to flip.
local function stage(self, version)
  local before = predecessor(self)
  local policy, err = make(self, version)
  if not policy then return nil, err end
  version.policy = policy
  version.name = policy.name or version.chunk:gsub("%.lua$", "")
  local tried, wrong = dry_run(self, version, before)
  if not tried and before and message_of(wrong):find("policy_memory", 1, true) then -- beside that state there may be no room for it
    before = nil
    tried, wrong = dry_run(self, version)
    if tried then tell(self, "warn", "its state is not carried over: it leaves no room within policy_memory", self.live) end
  end
  if tried then tried, wrong = policy:begin(before) end
  if not tried then
    policy:close()
    version.policy = nil
    return nil, wrong
  end
  return true
end

-- ---- guard figures ----

local function figures_of(entries, first, last)
  local sum = { ticks = 0, grants = 0, failed = 0, arrivals = 0, open_failures = 0, p99 = 0 }
  for i = math.max(1, first), last do
    local f = entries[i]
    sum.ticks, sum.grants, sum.arrivals = sum.ticks + 1, sum.grants + f.grants, sum.arrivals + f.arrivals
    sum.failed, sum.open_failures = sum.failed + f.failed, sum.open_failures + f.open_failures
    sum.p99 = sum.p99 + f.p99 * f.grants
  end
  if sum.grants > 0 then sum.p99 = sum.p99 / sum.grants end
  return sum
end

--- Why the figures since the flip are worse than those before it; nil when they are not, or when there are none from before: of a first
--- policy nobody knows what it was without, and one that sheds in an overload must not be taken for its cause.
local function worse(now, before)
  if before.ticks == 0 then return nil end
  local ticks, ticks_before = math.max(1, now.ticks), before.ticks
  if now.grants >= GRANTS and before.grants >= GRANTS and now.p99 > 2 * before.p99 + 0.010 then
    return ("wait p99 is %s s, it was %s s"):format(seconds(now.p99), seconds(before.p99))
  end
  local failed, failed_before = now.failed / ticks, before.failed / ticks_before
  if failed > failed_before + math.max(1, 0.01 * now.arrivals / ticks) then
    return ("%s time-outs and refusals a tick, it was %s"):format(seconds(failed), seconds(failed_before))
  end
  local opens, opens_before = now.open_failures / ticks, before.open_failures / ticks_before
  if opens > opens_before + 1 then
    return ("%s failed opens a tick, it was %s"):format(seconds(opens), seconds(opens_before))
  end
end

-- ---- the flip, and the way back ----

local function arm(self)
  local every = self.live and self.live.policy.every or 1
  if self.shadowed then every = math.min(every, self.shadowed.policy.every) end
  every = math.max(LEAST, every)
  if every == self.every then return end -- goes on: a file that is saved again and again must not put the ticks off for ever
  self.every = every
  self.ticker:start(every)
end

local function flip(self, version, what, reason)
  local before = self.live
  self.trial = {
    left = self.db:stats().settings.probation, first = #self.ring + 1, before = figures_of(self.ring, #self.ring - 9, #self.ring),
    settings = self.db:stats().settings, changed = {},
  }
  if before and before.state ~= "probation" then
    if self.fallback and self.fallback ~= before then
      local older = self.fallback
      self.fallback = before
      retire(self, older)
    end
    self.fallback = before
    before.state = "good"
  elseif before then -- on trial itself: who came before it stays the way back, with the settings it had
    before.state = "replaced"
    self.trial.settings = self.before_trial or self.trial.settings
  end
  self.before_trial = self.trial.settings
  self.live, self.strikes, self.refusal = version, 0, nil
  version.state, version.since = self.trial.left > 0 and "probation" or "live", core.now()
  core.set_policy(self.db, version.policy)
  if before and before.state == "replaced" then retire(self, before) end
  if self.trial.left == 0 then self.trial = nil end
  arm(self)
  tell(self, "info", what, version, reason)
end

--- Back to the settings of the flip, as far as the version has changed them.
local function restore(self, trial)
  local changes, any = {}, false
  for name in pairs(trial.changed) do changes[name], any = trial.settings[name], true end
  if any then core.configure_by(self.db, changes, "policy roll-back") end
end

local function give_up(self, reason)
  local bad, trial = self.live, self.trial
  bad.state, bad.reason = "rolled back", reason
  self.refused_sha = bad.sha
  self.live, self.trial, self.before_trial = self.fallback, nil, nil
  self.fallback = nil
  core.set_policy(self.db, self.live and self.live.policy or nil)
  if trial then restore(self, trial) end
  if self.live then
    self.live.state, self.strikes = "live", 0
    arm(self)
  end
  tell(self, "warn", "rolled back", bad, reason .. (self.live and ("; back to v%d"):format(self.live.version) or "; no policy is live now"))
  retire(self, bad)
end

local function trial_ends(self)
  self.live.state = "live"
  self.trial, self.before_trial = nil, nil
  local older = self.fallback
  tell(self, "info", "passed its probation", self.live)
  return older
end

-- ---- ticks ----

local function fail(self, reason)
  if self.trial then return give_up(self, reason) end
  self.strikes = self.strikes + 1
  tell(self, "warn", "failed", self.live, reason)
  if self.strikes >= STRIKES then give_up(self, ("failed %d times in a row: %s"):format(STRIKES, reason)) end
end

local function shown(value) return type(value) == "number" and seconds(value) or tostring(value) end

--- What differs, in words: "size 10 -> 12, timeout 30 -> 0.8".
local function difference(now, made, changes)
  local names, words, diff = {}, {}, {}
  for name in pairs(changes) do
    if made[name] ~= now[name] then names[#names + 1] = name end
  end
  table.sort(names)
  for i, name in ipairs(names) do
    diff[name] = made[name]
    words[i] = ("%s %s -> %s"):format(name, shown(now[name]), shown(made[name]))
  end
  return #names > 0 and diff or nil, table.concat(words, ", ")
end

local function refuse(self, err)
  if self.trial then return give_up(self, "a proposal was refused: " .. message_of(err)) end
  if self.refusal == message_of(err) then return end
  self.refusal = message_of(err)
  tell(self, "warn", "a proposal was refused", self.live, self.refusal)
end

local function propose(self, changes, reason)
  local now = self.db:stats().settings
  local made, err = core.dispose(now, changes, self.limits, true)
  if not made then return refuse(self, err) end
  local diff, words = difference(now, made, changes)
  if not diff then return end
  local done
  done, err = core.configure_by(self.db, diff, "policy " .. self.live.name)
  if not done then return refuse(self, err) end
  self.refusal, self.left = nil, done
  if self.trial then
    for name in pairs(diff) do self.trial.changed[name] = true end
  end
  tell(self, "info", words, self.live, reason)
end

--- What a tick tells a policy that listens: one event a kind, with how many there were; and what others have set since. nil and what is
--- wrong when its on_event failed.
local function events(self, snapshot)
  local live = self.live
  local fine, err = live.policy:tell(snapshot)
  local now = self.db:stats().settings
  local before = self.left or now
  self.left = now
  if not fine then return nil, err end
  local _, words = difference(before, now, now)
  if words == "" then return true end
  return live.policy:event("settings", words, snapshot)
end

local function shadow_tick(self, snapshot)
  local shadow = self.shadowed
  local changes, reason, err = shadow.policy:tick(snapshot)
  if err then
    self.comparison.failures = self.comparison.failures + 1
    return tell(self, "warn", "failed as a shadow", shadow, message_of(err))
  end
  local now = self.db:stats().settings
  local made = changes and core.dispose(now, changes, self.limits, true)
  local _, words = difference(now, made or now, changes or {})
  self.comparison.ticks = self.comparison.ticks + 1
  if words ~= self.comparison.last then
    self.comparison.last = words
    self.comparison.different = self.comparison.different + 1
    tell(self, "info", words == "" and "would change nothing (shadow)" or "would: " .. words .. " (shadow)", shadow, reason)
  end
end

local function watch_trial(self)
  local trial = self.trial
  trial.left = trial.left - 1
  local reason = worse(figures_of(self.ring, trial.first, #self.ring), trial.before)
  if reason then return give_up(self, reason) end
  if trial.left == 0 then trial_ends(self) end
end

local function record(self, snapshot)
  local s = snapshot:table()
  local figures = { snapshot = snapshot, grants = s.wait.count, p99 = s.wait.p99, arrivals = s.arrivals,
    failed = s.timeouts + s.rejected, open_failures = s.open_failures }
  table.insert(self.ring, figures)
  if #self.ring > RING then
    table.remove(self.ring, 1)
    if self.trial then self.trial.first = math.max(1, self.trial.first - 1) end
  end
end

local function tick(self, lag)
  local snapshot = self.meter:take(lag)
  if not snapshot then return self:close() end
  record(self, snapshot)
  if self.watch and core.now() - (self.looked or 0) >= LOOK then
    self.looked = core.now()
    self.look(self)
  end
  if self.shadowed then shadow_tick(self, snapshot) end
  if not self.live then return end
  local live, told, wrong = self.live, true, nil
  if live.policy.hooks.on_event then told, wrong = events(self, snapshot) end
  if not told then fail(self, message_of(wrong)) end
  if self.trial and self.live == live then watch_trial(self) end
  if self.live ~= live or not live.policy.hooks.tick then return end
  local changes, reason, err = live.policy:tick(snapshot)
  if err then return fail(self, message_of(err)) end
  if told then self.strikes = 0 end
  if changes then propose(self, changes, reason) end
end

-- ---- loading ----

local function candidate(given, params, source, chunk)
  return { given = given, params = params, source = source, chunk = chunk, sha = core.sha256(source), state = "staged" }
end

--- Stages and flips; nil, err when the version is refused, which changes nothing.
local function adopt(self, version, what)
  local fine, err = stage(self, version)
  remember(self, version)
  version.name = version.name or version.chunk:gsub("%.lua$", "")
  if not fine then
    version.state, version.reason = "refused", message_of(err)
    tell(self, "error", "refused", version, version.reason)
    return nil, err
  end
  flip(self, version, what)
  return true
end

local function given_of(given, who)
  local params = {}
  if type(given) == "table" then
    for name, value in pairs(given) do
      if name ~= "policy" then params[name] = value end
    end
    given = given.policy
  end
  if type(given) ~= "string" then
    core.misuse(("%s: a policy is a path, a name, or {policy = name or path, ...}, not a %s"):format(who, type(given)))
  end
  return given, params
end

--- Looks at the file: a new text goes through the stages. `asked`: by a person, for whom a text that was seen before, but is not live,
--- is new too; `patient`: it was saved just now. What is live, was rolled back, or is empty is no change.
local function look(self, asked, patient)
  if self.closed or not self.path then return true end
  local source, chunk = policies.source(self.path)
  if not source then return nil, core.error { kind = "policy", message = chunk } end
  local sha = core.sha256(source)
  local known = (self.live and self.live.sha == sha) or self.refused_sha == sha or (self.seen == sha and not asked)
  if known or source:match "^%s*$" then return true end
  if patient and not load(source, "=" .. chunk, "t", {}) then -- perhaps half of a text: once more, when it has settled
    self.settle:once(SETTLE)
    return true
  end
  self.seen, self.refused_sha = sha, sha
  local fine, err = adopt(self, candidate(self.given, self.params, source, chunk), "reloaded")
  if fine then self.refused_sha = nil end
  return fine, err
end

local function watch_file(self)
  if self.watch then self.watch:close() end
  self.watch, self.path = nil, nil
  if policies.is_builtin(self.given) then return true end
  local weak = setmetatable({ self = self }, { __mode = "v" })
  local watch, err = core.file_watch(self.given, function()
    if weak.self then look(weak.self, false, true) end
  end)
  if not watch then return nil, err end
  self.watch, self.path = watch, self.given
  return true
end

local function take(self, given, options)
  local name, params = given_of(given, "db:tune")
  local source, chunk = policies.source(name)
  if not source then return nil, core.error { kind = "policy", message = chunk } end
  local limits = options and options.limits
  core.dispose(self.db:stats().settings, {}, limits) -- raises for limits that make no sense
  self.limits = limits
  local fine, err = adopt(self, candidate(name, params, source, chunk), "live")
  if not fine then return nil, err end
  self.given, self.params, self.refused_sha, self.seen = name, params, nil, core.sha256(source)
  return watch_file(self)
end

-- ---- the public face ----

---@class pool.TunerVersion
---@field version integer
---@field name string
---@field sha string SHA-256 of its text
---@field state "probation" | "live" | "good" | "replaced" | "rolled back" | "refused" | "shadow"
---@field since number? pool.now() when it went live
---@field reason string? why it was refused or rolled back
---@field calls integer
---@field errors integer
---@field mean number seconds of processor time a call
---@field longest number

local NO_FIGURES = { calls = 0, errors = 0, mean = 0.0, longest = 0.0 }

--- The last versions, the oldest first.
---@return pool.TunerVersion[]
function Tuner:versions()
  local list = {}
  for i, v in ipairs(self.list) do
    local f = v.policy and v.policy:figures() or v.figures or NO_FIGURES
    list[i] = { version = v.version, name = v.name, sha = v.sha, state = v.state, since = v.since, reason = v.reason,
      calls = f.calls, errors = f.errors, mean = f.mean, longest = f.longest }
  end
  return list
end

--- Looks at the file now, as SIGHUP does in `pool serve`: a text that is not the one live goes through the stages, unless it was
--- rolled back.
---@return true? fine
---@return any err
function Tuner:reload() return look(self, true) end

--- A stored version goes live again, through the same stages; its file is left alone.
---@param number integer
---@return true?
---@return any err
function Tuner:use(number)
  local old = version_of(self, number)
  return adopt(self, candidate(old.given, old.params, old.source, old.chunk), ("live again, as v%d was"):format(number))
end

--- The text of a version.
---@param number integer
---@return string
function Tuner:source(number) return version_of(self, number).source end

--- Runs another policy beside the live one: on the same snapshots, changing nothing; what it would do is logged where that differs
--- from what it would have done a tick before.
---@param given string | table as in db:tune
---@return true?
---@return any err
function Tuner:shadow(given)
  local name, params = given_of(given, "tuner:shadow")
  local source, chunk = policies.source(name)
  if not source then return nil, core.error { kind = "policy", message = chunk } end
  local version = candidate(name, params, source, chunk)
  local fine, err = stage(self, version)
  if not fine then return nil, err end
  remember(self, version)
  local older = self.shadowed
  self.shadowed, version.state, version.since = version, "shadow", core.now()
  retire(self, older)
  self.comparison = { ticks = 0, different = 0, failures = 0 }
  arm(self)
  tell(self, "info", "runs as a shadow", version)
  return true
end

--- The shadow goes live, through probation, with the state it has.
---@return true?
---@return any err
function Tuner:promote()
  local version = self.shadowed
  if not version then core.misuse "tuner:promote: nothing runs as a shadow" end
  self.shadowed, self.comparison = nil, nil
  flip(self, version, "promoted")
  return true
end

--- What is live, and what is on trial.
---@return table { live?, state?, probation_left?, shadow?, path?, closed }
function Tuner:status()
  local status = { closed = self.closed or false, path = self.path }
  if self.live then
    status.live, status.name, status.state, status.sha = self.live.version, self.live.name, self.live.state, self.live.sha
    status.probation_left = self.trial and self.trial.left or nil
  end
  if self.shadowed then
    status.shadow = { version = self.shadowed.version, name = self.shadowed.name, ticks = self.comparison.ticks,
      different = self.comparison.different, failures = self.comparison.failures, last = self.comparison.last }
  end
  return status
end

--- What has happened, the oldest first: { at, what, version?, sha?, reason? }.
---@return table[]
function Tuner:history() return { table.unpack(self.log) } end

--- Ends it: the settings stay as they are.
function Tuner:close()
  if self.closed then return end
  self.closed = true
  self.ticker:stop()
  self.settle:stop()
  if self.watch then self.watch:close() end
  pcall(core.set_policy, self.db, nil)
  for _, version in ipairs(self.list) do
    if version.policy then
      version.figures = version.policy:figures()
      version.policy:close()
      version.policy = nil
    end
  end
  self.live, self.fallback, self.shadowed, self.watch = nil, nil, nil, nil
  if tuners[self.db] == self then tuners[self.db] = nil end
end

Tuner.__close = Tuner.close

local function new(db)
  local self = setmetatable({ db = db, list = {}, log = {}, ring = {}, count = 0, strikes = 0, look = look }, Tuner)
  local weak = setmetatable({ self = self }, { __mode = "v" })
  self.meter = core.meter(db)
  self.ticker = core.ticker(function(lag)
    if weak.self and not weak.self.closed then tick(weak.self, lag) end
  end)
  self.settle = core.ticker(function()
    if weak.self then look(weak.self) end
  end)
  return self
end

--- Tunes the pool by a policy: a file's path, which is watched, a built-in policy's name, or { policy = either, ...parameters }. Where
--- the pool is tuned already, the new policy replaces the old one through the same stages.
---@param given string | table
---@param options? { limits?: table<string, number[]> } name = {low, high}: what no proposal leaves; default size 1..64, max_overflow 0..64
---@return pool.Tuner? tuner
---@return any err kind policy, when it cannot be loaded: the pool is as it was
function Pool:tune(given, options)
  check.pool(self, "db:tune")
  local db = core.pool_of(self)
  local tuner = tuners[db] or new(db)
  local fine, err = take(tuner, given, options)
  if not fine then
    if not tuners[db] then tuner:close() end
    return nil, err
  end
  tuners[db] = tuner
  return tuner
end

--- The tuner of a pool, nil when it has none.
---@return pool.Tuner?
function Pool:tuner()
  check.pool(self, "db:tuner")
  return tuners[core.pool_of(self)]
end

return Tuner
