--- What the soak does to a pool from within, on and on, from a seeded schedule: settings of every kind up and down, invalidate, pause,
--- events, recordings, versions of the policy, looks. Used in both processes. Of each kind one in turn, in an order shuffled anew.
local pool = require "pool"
local schedule = require "faults.soak_schedule"

local life = {}

local function rest(random) pool.sleep(0.01 + random(60) / 1000) end

--- The same, and on until there is something, for a second at most.
local function rest_for(random, something)
  local patience = pool.now() + 1
  rest(random)
  while not something() and pool.now() < patience do pool.sleep(0.01) end
end

local kinds = {}

-- What does not go with what the policy has set meanwhile is refused: all or nothing.
local function set(name, make)
  kinds[name] = function(self)
    local made, err = self.db:configure(make(self.random))
    if not made and err.kind ~= "settings" then self.wrong(("%s: %s"):format(name, err)) end
  end
end

set("grow", function(random) return { size = 4 + random(schedule.HALF - 4), max_overflow = random(schedule.HALF) } end)
set("shrink", function(random) return { size = random(3), max_overflow = random(3) - 1 } end)
set("null pool", function(random) return { size = 0, max_overflow = 1 + random(schedule.HALF - 1) } end)
set("size", function(random) return { size = 1 + random(schedule.HALF - 1) } end)
set("timeout", function(random) return { timeout = random(20) / 10 } end)
set("fifo", function() return { queue = "fifo" } end)
set("lifo", function(random) return { queue = "lifo", queue_interval = random(10) / 50 } end)
set("codel", function(random) return { queue = "codel", queue_target = random(10) / 200, queue_interval = random(10) / 50 } end)
set("reset", function(random) return { reset = random(2) == 1 and "discard" or "rollback" } end)
set("max_waiting", function(random) return { max_waiting = 5 + random(100), max_waiting_per_key = random(2) == 1 and 0 or 20 } end)
set("idle", function(random) return { idle_timeout = random(10) / 20, shrink_after = random(20) / 10, min_idle = random(4) - 1 } end)
set("checks", function(random)
  return { pre_ping = random(4) > 1, pre_ping_after = (random(3) - 1) / 10, pre_ping_timeout = random(10) / 4 }
end)
set("lifetimes", function(random) return { recycle = random(40) / 10, recycle_jitter = random(10) / 10 } end)
set("forever", function() return { recycle = 3600 } end)
set("opening", function(random) return { max_opening = random(6), backoff_max = 0.1 + random(4) / 10 } end)
set("statement_timeout", function(random) return { statement_timeout = random(2) == 1 and 0 or random(10) / 10 } end)
set("leak_after", function(random) return { leak_after = random(2) == 1 and 0 or 0.01 } end)

function kinds.refused(self)
  local before = self.db:stats().settings.size
  local made, err = self.db:configure { size = before + 1, size_limit = 5 }
  if made or err.kind ~= "settings" or self.db:stats().settings.size ~= before then self.wrong "size_limit changed while the pool runs" end
end

function kinds.invalidate(self) self.db:invalidate() end

function kinds.pause(self)
  local _ <close> = schedule.finally(function() self.db:resume() end)
  self.db:pause()
  rest(self.random)
end

--- One who is in time for nothing, one who is cancelled and one for whom the line is full, whatever else goes on: nobody is served
--- meanwhile.
function kinds.crowd(self)
  local db = self.db
  local _ <close> = schedule.finally(function()
    db:configure { max_waiting = 100, max_waiting_per_key = 0 }
    db:resume()
  end)
  db:pause()
  local got = db:acquire { timeout = 0.01 }
  if got then self.wrong "a lease of a paused pool" end
  local tasks = {}
  for i = 1, 2 do tasks[i] = pool.spawn(db.acquire, db) end
  pool.sleep(0)
  if not db:configure { max_waiting = 1, max_waiting_per_key = 0 } then return end
  got = db:acquire()
  if got then self.wrong "a lease of a paused pool" end
  for i = 1, 2 do
    tasks[i]:cancel()
    tasks[i]:join()
  end
end

local EVENTS = { "acquire", "release", "close", "timeout", "settings", "policy" }

function kinds.events(self)
  local heard, off = 0, {}
  local _ <close> = schedule.finally(function() for _, remove in ipairs(off) do remove() end end)
  for _, name in ipairs(EVENTS) do
    off[#off + 1] = self.db:on(name, function() heard = heard + 1 end)
  end
  rest_for(self.random, function() return heard > 0 end)
  self.heard = self.heard + heard
end

function kinds.setup(self)
  local off = self.db:on("connect", function(c) assert(c:query "select set_config('soak.mark', 'set', false)") end)
  local _ <close> = schedule.finally(off)
  rest(self.random)
end

function kinds.recording(self)
  local recording, err = self.db:record(self.record)
  if not recording then return self.wrong("db:record: " .. tostring(err)) end
  local _ <close> = recording
  rest_for(self.random, function() return recording:status().requests > 0 end)
  self.recorded = self.recorded + recording:status().requests
end

function kinds.use(self)
  local tuner = self.db:tuner()
  local versions = tuner:versions()
  local version = versions[self.random(#versions)]
  if version.state ~= "refused" and version.state ~= "rolled back" then tuner:use(version.version) end
end

function kinds.shadow(self)
  local tuner = self.db:tuner()
  local fine, err = tuner:shadow(self.random(2) == 1 and "little" or "aimd")
  if not fine then -- over the figures of now it may propose what does not fit into size_limit
    if err.kind ~= "settings" and err.kind ~= "policy" then self.wrong("shadow: " .. tostring(err)) end
    return
  end
  rest(self.random)
  if self.random(3) == 1 then tuner:promote() end
end

function kinds.reload(self) self.db:tuner():reload() end

function kinds.look(self)
  for _, lease in ipairs(self.db:leases()) do
    if not (lease.id > 0 and lease.held >= 0) then self.wrong "a lease without an id" end
  end
  self.db:advise()
  self.db:probe(0.01)
  if not self.db:status():find "^Pool size: %d" then self.wrong "no status" end
end

local ORDER = {}
for name in pairs(kinds) do ORDER[#ORDER + 1] = name end
table.sort(ORDER)

--- What must hold whenever somebody looks.
function life.check(self)
  local s = self.db:stats()
  if s.arrivals ~= s.grants + s.timeouts + s.rejected + s.cancelled + s.errors + s.waiting then self.wrong "arrivals do not add up" end
  if s.grants ~= s.releases + s.leased then self.wrong "grants do not add up" end
  if s.total > schedule.CEILING then self.wrong(s.total .. " connections") end
end

--- What it came to, as a line of figures: what was done, and the pool's counters at the end.
function life.exercised(self)
  local s = self.db:stats()
  local taken = { changes = self.done, events = self.heard, recorded = self.recorded }
  for _, name in ipairs { "leaks", "grants", "timeouts", "rejected", "cancelled", "errors", "lost", "opens" } do taken[name] = s[name] end
  return schedule.line(taken)
end

--- Begins. `wrong(story)` hears what was wrong, `record` is a file for recordings. Until stop() has returned.
function life.begin(db, seed, record, wrong)
  local self = { db = db, random = schedule.random(seed), record = record, wrong = wrong, heard = 0, recorded = 0, done = 0 }
  local draw, over = schedule.deck(ORDER, self.random), false
  local task = pool.spawn(function()
    while not over do
      local name = draw()
      local fine, err = pcall(kinds[name], self)
      if not fine then wrong(("%s: %s"):format(name, err)) end
      self.done = self.done + 1
      life.check(self)
      rest(self.random)
    end
  end)
  function self.stop()
    over = true
    assert(select("#", task:join(30)) == 0, "the schedule has come to its end")
    db:resume()
    assert(db:configure { size = 5, max_overflow = 5, timeout = 10, min_idle = 0, queue = "fifo", max_waiting = 1000, statement_timeout = 0,
      max_waiting_per_key = 0, pre_ping = true, recycle = 3600, max_opening = 4 })
  end
  return self
end

return life
