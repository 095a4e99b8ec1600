-- The poison test: every state that a lease can leave its connection in, by every way that a lease can come back, under every value
-- of the setting `reset`. The next lease finds what is written here, and nothing else.
--
-- One connection (size 1), so that what was left is what comes next; and it must be the same server process where the table says
-- so, or the test would pass by connecting anew.
local pool = require "pool"
local poison = require "support.poison"
local pools = require "support.pools"
local postgres = require "support.postgres"
local process = require "support.process"

local check = pools.check
local RESETS = { "rollback", "discard", "none" }

-- What the next lease finds, under reset = rollback, discard, none:
--   clean   nothing of the state, on the same connection
--   kept    the state and nothing else, on the same connection
--   other   nothing of it, on another connection: the first was closed rather than lent
--   either  nothing of it, on whichever connection
-- by where the state was made: alone (outside a transaction, unless the state is one); in a transaction that was committed; in one
-- that a ROLLBACK of its owner's undid; in one that was open when the connection came back. "-": it cannot be.
local LASTS, UNDONE = "kept clean kept", "clean clean clean"
local OPEN, LASTS_OPEN = "clean clean other", "kept clean other"
local BEGUN, EITHER = "clean clean either", "either either either" -- as far as it got before it was stopped
local POSTGRES = {
  --                                                            alone       committed  rolled back  left open
  ["an open transaction"]                                   = { OPEN,       "-",       UNDONE,      OPEN },
  ["a failed transaction"]                                  = { OPEN,       "-",       UNDONE,      OPEN },
  ["a savepoint inside"]                                    = { OPEN,       "-",       UNDONE,      OPEN },
  ["SET"]                                                   = { LASTS,      LASTS,     UNDONE,      OPEN },
  ["SET LOCAL"]                                             = { OPEN,       UNDONE,    UNDONE,      OPEN },
  ["SET ROLE"]                                              = { LASTS,      LASTS,     UNDONE,      OPEN },
  ["SET SESSION AUTHORIZATION"]                             = { LASTS,      LASTS,     UNDONE,      OPEN },
  ["search_path"]                                           = { LASTS,      LASTS,     UNDONE,      OPEN },
  ["time zone"]                                             = { LASTS,      LASTS,     UNDONE,      OPEN },
  ["DateStyle"]                                             = { LASTS,      LASTS,     UNDONE,      OPEN },
  ["client_encoding"]                                       = { LASTS,      LASTS,     UNDONE,      OPEN },
  ["default_transaction_read_only"]                         = { LASTS,      LASTS,     UNDONE,      OPEN },
  ["session characteristics"]                               = { LASTS,      LASTS,     UNDONE,      OPEN },
  ["a temporary table"]                                     = { LASTS,      LASTS,     UNDONE,      OPEN },
  ["a session's advisory lock"]                             = { LASTS,      LASTS,     LASTS,       LASTS_OPEN },
  ["a transaction's advisory lock"]                         = { OPEN,       UNDONE,    UNDONE,      OPEN },
  ["LISTEN"]                                                = { LASTS,      LASTS,     UNDONE,      OPEN },
  ["PREPARE"]                                               = { LASTS,      LASTS,     LASTS,       LASTS_OPEN },
  ["a plan of the driver's cache"]                          = { LASTS,      LASTS,     LASTS,       LASTS_OPEN },
  ["DEALLOCATE ALL behind the driver's back"]               = { UNDONE,     UNDONE,    UNDONE,      OPEN },
  ["DISCARD PLANS and RESET ALL"]                           = { UNDONE,     UNDONE,    UNDONE,      OPEN },
  ["a cursor WITH HOLD"]                                    = { LASTS,      LASTS,     UNDONE,      OPEN },
  ["rows left in the middle"]                               = { UNDONE,     "-",       "-",         OPEN },
  ["rows of a statement that writes left in the middle"]    = { UNDONE,     "-",       "-",         OPEN },
  ["a statement under way"]                                 = { UNDONE,     "-",       "-",         OPEN },
  ["a large result under way"]                              = { UNDONE,     "-",       "-",         OPEN },
  ["a script under way, in a transaction of its own"]       = { BEGUN,      "-",       "-",         OPEN },
  ["COPY TO STDOUT"]                                        = { UNDONE,     "-",       UNDONE,      OPEN },
  ["COPY FROM STDIN"]                                       = { UNDONE,     "-",       UNDONE,      OPEN },
  ["COPY in a script"]                                      = { UNDONE,     "-",       UNDONE,      OPEN },
  ["COPY TO STDOUT under way"]                              = { UNDONE,     "-",       "-",         OPEN },
  ["COPY FROM STDIN under way"]                             = { EITHER,     "-",       "-",         "either either other" },
}
local SQLITE = {
  ["an open transaction"]                                   = { OPEN,       "-",       UNDONE,      OPEN },
  ["a transaction that reads"]                              = { OPEN,       UNDONE,    UNDONE,      OPEN },
  ["a savepoint inside"]                                    = { OPEN,       "-",       UNDONE,      OPEN },
  ["pragma foreign_keys"]                                   = { LASTS,      "-",       "-",         "-" },
  ["pragma query_only"]                                     = { LASTS,      "-",       "-",         "-" },
  ["pragma busy_timeout"]                                   = { LASTS,      LASTS,     LASTS,       LASTS_OPEN },
  ["pragma case_sensitive_like"]                            = { LASTS,      LASTS,     LASTS,       LASTS_OPEN },
  ["pragma locking_mode"]                                   = { LASTS,      LASTS,     LASTS,       LASTS_OPEN },
  ["a temporary table"]                                     = { LASTS,      LASTS,     UNDONE,      OPEN },
  ["temporary tables that refer to each other"]             = { LASTS,      LASTS,     UNDONE,      OPEN },
  ["a temporary trigger"]                                   = { LASTS,      LASTS,     UNDONE,      OPEN },
  ["an attached database"]                                  = { LASTS,      "-",       "-",         "-" },
  ["last_insert_rowid"]                                     = { LASTS,      LASTS,     LASTS,       LASTS_OPEN },
  ["rows left in the middle"]                               = { UNDONE,     "-",       "-",         OPEN },
  ["rows of a statement that writes left in the middle"]    = { UNDONE,     "-",       "-",         OPEN },
  ["a statement under way"]                                 = { UNDONE,     "-",       "-",         OPEN },
  ["a script under way, in a transaction of its own"]       = { BEGUN,      "-",       "-",         OPEN },
}
local PLACES = { alone = 1, committed = 2, ["rolled back"] = 3, ["left open"] = 4 }

local function expected(row, way, reset)
  local at = 0
  for word in row[PLACES[way.place]]:gmatch "%S+" do
    at = at + 1
    if RESETS[at] == reset then return way.other and "other" or word end
  end
end

--- May this state come back this way at all?
local function possible(state, row, way)
  if row[PLACES[way.place]] == "-" or (state.shared and way.lost) then return false end
  return not ((state.busy or state.failed or (state.failed_inside and way.place ~= "alone")) and way.runs)
end

local function sorted(names)
  local list = {}
  for name in pairs(names) do list[#list + 1] = name end
  table.sort(list)
  return list
end

--- One SQL that asks for everything at once, a column a state: { sql, the names by column }.
local function probe_of(subject)
  local parts, names = {}, {}
  local function ask(name, sql)
    names[#names + 1] = name
    parts[#parts + 1] = ("(%s) as p%d"):format(sql, #names)
  end
  for _, name in ipairs(sorted(subject.unclean)) do ask(name, subject.unclean[name]) end
  for _, name in ipairs(sorted(subject.states)) do
    if subject.states[name].seen then ask(name, subject.states[name].seen) end
  end
  return "select " .. table.concat(parts, ", "), names
end

--- What a lease finds: a set of names.
local function look(world, c)
  local found = {}
  if c.in_transaction then found["a transaction"] = true end
  local row = check(c:query(world.probe))[1]
  for i, name in ipairs(world.names) do
    local value = row["p" .. i]
    if value == true or value == 1 then found[name] = true end
  end
  local answer = check(c:query(world.subject.cached, 5))[1].n
  if answer ~= 4716 then found["a wrong answer: " .. tostring(answer)] = true end
  return found
end

--- What of it is not as it should be; nil when all is.
local function verdict(wanted, name, was, is, found)
  local should = wanted == "kept" and name or ""
  local does = table.concat(sorted(found), ", ")
  if does ~= should then return ("wanted %s, found [%s]"):format(wanted, does) end
  if wanted ~= "either" and (was == is) ~= (wanted ~= "other") then
    return ("wanted %s, but %s"):format(wanted, was == is and "it is the same connection" or "it is another connection")
  end
end

--- Calls itself with a lease that is to be made dirty; notes which it was.
local function dirt(world, state, way)
  local held, self = {}, {}
  function self.forget() held = {} end
  return setmetatable(self, { __call = function(_, on)
    check(on:query(world.subject.cached, 1))
    self.lease = world.subject.identity(world.db:leases()[1])
    state.make(on, way.place, held)
  end })
end

local function no_lease(world, err)
  local s, doing = world.db:stats(), {}
  for _, what in ipairs { "idle", "leased", "opening", "checking", "resetting", "closing", "waiting" } do
    doing[#doing + 1] = ("%d %s"):format(s[what], what)
  end
  return ("no lease came: %s (%s)"):format(tostring(err), table.concat(doing, ", "))
end

--- The next lease: what is wrong with it, nil for nothing. What it found is not left to the next trial; where it found nothing, nothing
--- is done, so that what nobody looked for would come out in the end.
local function next_lease(world, name, dirty, wanted)
  local c <close>, err = world.db:acquire { timeout = 30 }
  if not c then return no_lease(world, err) end
  local fine, found = pcall(look, world, c)
  local wrong = fine and verdict(wanted, name, dirty.lease, world.subject.identity(c), found) or not fine and tostring(found) or nil
  if wrong or (wanted == "kept" and not (world.subject.wash and c:exec(world.subject.wash))) then c:invalidate() end
  if not wrong and world.alone and wanted ~= "kept" then wrong = world:alone() end
  return wrong
end

local tried, skipped = 0, 0

--- One trial; what is wrong, nil for nothing.
local function try(world, name, way, wanted)
  local state = world.subject.states[name]
  local dirty = dirt(world, state, way)
  tried = tried + 1
  local fine, err = pcall(way.back, world, dirty)
  if not fine then
    world.db:invalidate()
    return "it could not come back: " .. tostring(type(err) == "table" and err.message or err)
  end
  if way.gone then return world:gone(dirty, state) end
  if way.outside then return pool.run(next_lease, world, name, dirty, wanted) end
  return next_lease(world, name, dirty, wanted)
end

--- Every state by one way under one reset; what was wrong goes into the list.
local function try_all(open, subject, matrix, way, reset, wrong)
  local world
  for _, name in ipairs(sorted(subject.states)) do
    if not possible(subject.states[name], matrix[name], way) then
      skipped = skipped + 1
    else
      if not world or way.gone then world = open(reset, way.gone) end
      local what = try(world, name, way, expected(matrix[name], way, reset))
      if what then wrong[#wrong + 1] = ("%s, reset = %s: %s"):format(name, reset, what) end
    end
  end
end

--- The three resets side by side, each with a pool of its own.
local function side_by_side(...)
  local tasks = {}
  for i, reset in ipairs(RESETS) do
    local open, subject, matrix, way, wrong = ...
    tasks[i] = pool.spawn(try_all, open, subject, matrix, way, reset, wrong)
  end
  for _, task in ipairs(tasks) do
    local _, err = task:join()
    if err then error(err, 0) end
  end
end

local function specify(open, subject, matrix)
  for _, way in ipairs(poison.ways) do
    it("comes back as `reset` says by " .. way.name, function()
      local wrong = {}
      if way.outside then
        for _, reset in ipairs(RESETS) do try_all(open, subject, matrix, way, reset, wrong) end
      else
        pool.run(side_by_side, open, subject, matrix, way, wrong)
      end
      assert(#wrong == 0, "\n" .. table.concat(wrong, "\n"))
    end)
  end
end

local function sum(what)
  if tried == 0 then return end
  print(("\n%s: %d combinations tried, %d that cannot be"):format(what, tried, skipped))
  tried, skipped = 0, 0
end

describe("a poisoned lease on PostgreSQL", function()
  local subject = poison.postgres
  local probe, names = probe_of(subject)
  local watcher

  setup(function()
    watcher = pool.new { database_url = postgres.url { application_name = "poison-watcher", options = "-c client_min_messages=warning" } }
    check(watcher:exec(subject.schema))
  end)
  teardown(function()
    check(watcher:exec(subject.remove))
    watcher:close()
    sum "PostgreSQL"
  end)
  before_each(pools.begin)
  after_each(pools.finish)

  local function gone(_, dirty)
    local function left() return check(watcher:query("select count(*) as n from pg_stat_activity where pid = $1", dirty.lease))[1].n end
    local deadline = pool.now() + 10
    while left() > 0 do
      if pool.now() > deadline then return "it is still at the server" end
      pool.sleep(0.002)
    end
  end

  specify(function(reset, going)
    local settings = { size = 1, max_overflow = 0, reset = reset, pre_ping = false }
    if going then settings.database_url = postgres.url { application_name = "poison-gone" } end
    local db = going and pool.new(settings) or pools.open(settings)
    return { db = db, subject = subject, probe = probe, names = names, sleep = subject.sleep, gone = gone }
  end, subject, POSTGRES)
end)

describe("what a set-up has SET", function()
  before_each(pools.begin)
  after_each(pools.finish)

  for reset, later in pairs { rollback = "7MB", none = "7MB", discard = "4MB" } do
    it("is " .. later .. " in later leases with reset = " .. reset, function()
      local db = pools.open({ size = 1, max_overflow = 0, reset = reset }, { options = "-c work_mem=4MB" })
      db:on("connect", function(c) return c:query "set work_mem = '7MB'" end)
      assert.equal("7MB", check(db:query "show work_mem")[1].work_mem)
      assert.equal(later, check(db:query "show work_mem")[1].work_mem)
      assert.equal(1, db:stats().opens)
    end)
  end
end)

describe("a connection whose reset fails", function()
  before_each(pools.begin)
  after_each(pools.finish)

  --- A lease's process, left in a state; the next lease's must be another, and clean.
  local function left_behind(db, leave)
    local c <close> = check(db:acquire())
    local pid = c.pid
    leave(c)
    return pid
  end
  local function assert_another(db, pid)
    local c <close> = check(db:acquire { timeout = 10 })
    assert.is_true(c.pid ~= pid)
    assert.is_false(c.in_transaction)
    assert.equal("4MB", check(c:query "show work_mem")[1].work_mem)
    assert.equal(1, db:stats().resets)
    assert.equal(2, db:stats().opens)
  end

  it("is closed, not lent: DISCARD ALL runs into a lock", function()
    local db = pools.open({ size = 1, max_overflow = 0, reset = "discard" }, { options = "-c lock_timeout=20ms -c work_mem=4MB" })
    local other = pools.open { size = 1, max_overflow = 0 }
    local c <close> = check(other:acquire())
    local pid = left_behind(db, function(dirty)
      check(dirty:exec "create temporary table held (n int); set work_mem = '7MB'")
      check(c:exec "begin; lock table pg_class in share mode") -- the table could not be dropped
    end)
    pools.wait(function() return db:stats().resetting + db:stats().closing == 0 end)
    assert.equal(0, db:stats().total)
    check(c:rollback()) -- its process waits for the lock to end, too
    assert_another(db, pid)
  end)

  it("is closed, not lent: its server process is gone", function()
    local db = pools.open({ size = 1, max_overflow = 0, pre_ping = false }, { options = "-c work_mem=4MB" })
    local pid = left_behind(db, function(dirty)
      check(dirty:exec "begin; set work_mem = '7MB'")
      postgres.sql("select pg_terminate_backend(" .. dirty.pid .. ")") -- this process sees nothing of it before the reset
      process.wait_until(function() return postgres.sql("select count(*) from pg_stat_activity where pid = " .. dirty.pid) == "0" end)
    end)
    assert_another(db, pid)
  end)

  it("is closed, not lent: reset = none, and a transaction to undo", function()
    local db = pools.open({ size = 1, max_overflow = 0, reset = "none" }, { options = "-c work_mem=4MB" })
    assert_another(db, left_behind(db, function(dirty) check(dirty:exec "begin; set work_mem = '7MB'") end))
  end)

  it("on SQLite too: its file is a directory when discard opens it anew", function()
    local dir = process.run "mktemp -d":gsub("\n$", "")
    local db = pools.open { size = 1, max_overflow = 0, reset = "discard", database_url = "sqlite:///" .. dir .. "/a.db", timeout = 0.2 }
    pool.run(function()
      local c <close> = check(db:acquire())
      process.run(("cd %s && rm -f a.db* && mkdir a.db"):format(dir))
      c:release()
      pools.wait(function() return db:stats().resetting + db:stats().closing == 0 end)
      assert.equal(0, db:stats().total)
      assert.equal("connect", select(2, db:query "select 1").kind)
      process.run(("cd %s && rmdir a.db"):format(dir))
      assert(db:configure { timeout = 10 })
      assert.equal(1, check(db:query "select 1 as n")[1].n)
    end)
    db:close()
    process.run("rm -rf " .. dir)
  end)
end)

describe("a poisoned lease on SQLite", function()
  local subject = poison.sqlite
  local probe, names = probe_of(subject)
  local dir, others

  setup(function()
    dir, others = process.run "mktemp -d":gsub("\n$", ""), {}
    for _, reset in ipairs(RESETS) do
      others[reset] = pool.new { database_url = ("sqlite:///%s/%s.db"):format(dir, reset) }
      check(others[reset]:exec(subject.schema))
    end
  end)
  teardown(function()
    for _, other in pairs(others) do other:close() end
    process.run("rm -rf " .. dir)
    sum "SQLite"
  end)
  before_each(pools.begin)
  after_each(pools.finish)

  --- Does it hold back another connection of the file?
  local function alone(world)
    local rows, err = pool.deadline(3, world.other.query, world.other, "insert into poison_work values (3)")
    if not rows then return "nobody else can write: " .. tostring(err) end
    check(world.other:query "delete from poison_work")
  end

  specify(function(reset, going)
    local settings = { size = 1, max_overflow = 0, reset = reset, database_url = ("sqlite:///%s/%s.db"):format(dir, reset) }
    local db = going and pool.new(settings) or pools.open(settings)
    return {
      db = db, subject = subject, probe = probe, names = names, sleep = subject.sleep, gone = alone, alone = alone, other = others[reset],
    }
  end, subject, SQLITE)
end)
