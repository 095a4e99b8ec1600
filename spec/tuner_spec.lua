-- db:tune: stages, dry run, flip, probation, roll-back, shadows; in virtual time, the files read when the spec says so.

local pool = require "pool"
local testing = require "pool.testing"

local path, log, lines

local function save(text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

-- A pool of two whose database takes 100 ms, and `callers` that keep it busy; fn(db).
local function tuned(fn, callers, settings)
  settings = settings or { size = 2, max_overflow = 0, probation = 5 }
  settings.policy_time = settings.policy_time or 10 -- of a busy machine, or of sanitizers, this says nothing
  return testing.run({ settings = settings, database = function() return { after = 0.1 } end }, function(db)
    local stop
    for _ = 1, callers or 8 do
      pool.spawn(function()
        while not stop do db:query "select 1" end
      end)
    end
    fn(db)
    stop = true
  end)
end

local function policy(name, body) return ("return { name = %q, tick = function(s, state) %s end }"):format(name, body or "") end

local function states(tuner)
  local list = {}
  for i, version in ipairs(tuner:versions()) do list[i] = version.name .. " " .. version.state end
  return list
end

describe("db:tune", function()
  before_each(function()
    path = os.tmpname() .. ".lua"
    log, lines = pool.log, {}
    pool.log = function(level, message) lines[#lines + 1] = level .. ": " .. message end
  end)
  after_each(function()
    pool.log = log
    os.remove(path)
    os.remove((path:gsub("%.lua$", "")))
  end)

  it("applies what the policy proposes, slewed, with its reason in the log, the history and the event", function()
    tuned(function(db)
      local by, told = nil, {}
      db:on("settings", function(_, _, who) by = who end)
      db:on("policy", function(what, version, reason) told[#told + 1] = { what, version, reason } end)
      save(policy("grow", 'if s.wait.p95 > 0.05 then return { size = s.settings.size + 2 }, "they wait" end'))
      local tuner = assert(db:tune(path))
      pool.sleep(1.5)
      assert.equal(3, db:stats().size) -- by one: max(1, 25 %)
      assert.equal("policy grow", by)
      assert.same({ "size 2 -> 3", 1, "they wait" }, told[2])
      local last = tuner:history()[2]
      assert.same({ "size 2 -> 3", "they wait", 1 }, { last.what, last.reason, last.version })
      assert.matches("^info: policy grow v1 %(%x%x%x%x%x%x%x%x%): size 2 %-> 3: they wait$", lines[2])
    end)
  end)

  it("keeps proposals within the limits, and refuses a wrong one whole", function()
    tuned(function(db)
      save(policy("wild", "return { size = 60, timeout = s.now > 2.5 and -1 or 5 }"))
      local tuner = assert(db:tune(path, { limits = { size = { 1, 3 } } }))
      pool.sleep(2.2)
      assert.same({ 3, 5.0 }, { db:stats().size, db:stats().settings.timeout })
      pool.sleep(1)
      assert.same({ "wild rolled back" }, states(tuner))
      assert.same({ 2, 30.0 }, { db:stats().size, db:stats().settings.timeout })
      assert.matches("timeout: %-1 is out of range", tuner:versions()[1].reason)
    end)
  end)

  it("refuses at once what does not compile, raises, is no policy, or is not there: the pool is as it was", function()
    tuned(function(db)
      for _, case in ipairs { { "return {", "expected" }, { "error 'oops'", "oops" }, { "return 5", "table" },
        { "return { tick = 5 }", "tick" }, { policy("dry", "error 'in the dry run'"), "in the dry run" },
        { policy("dry", "return { reset = 'none' }"), "reset" } } do
        save(case[1])
        local tuner, err = db:tune(path)
        assert.is_nil(tuner)
        assert.equal("policy", err.kind)
        assert.matches(case[2], err.message)
      end
      local tuner, err = db:tune "nosuch"
      assert.is_nil(tuner)
      assert.matches("there is no policy nosuch: it is a file, or one of default, fixed", err.message)
      assert.is_nil(db:tuner())
      assert.equal(2, db:stats().size)
    end)
  end)

  it("a reload carries the state over, through load", function()
    tuned(function(db)
      save(policy("count", "state.n = (state.n or 0) + 1"))
      local tuner = assert(db:tune(path))
      pool.sleep(6.5)
      save [[return { name = "more", load = function(old) return { n = 100 + old.n } end,
        tick = function(s, state) return { max_waiting = state.n } end }]]
      assert(tuner:reload())
      pool.sleep(1.1)
      assert.equal(106, db:stats().settings.max_waiting)
      assert.same({ "count good", "more probation" }, states(tuner))
    end)
  end)

  it("a state that cannot be carried over does not keep the next version from coming after it", function()
    tuned(function(db)
      save(policy("knotted", "state.me = state"))
      local tuner = assert(db:tune(path))
      pool.sleep(6.5)
      save(policy("mended", "state.n = (state.n or 0) + 1 return { max_waiting = 100 + state.n, timeout = state.me and 1 or 5 }"))
      assert(tuner:reload())
      pool.sleep(1.1)
      assert.same({ 101, 5.0 }, { db:stats().settings.max_waiting, db:stats().settings.timeout })
      assert.same({ "knotted good", "mended probation" }, states(tuner))
      assert.matches("warn: policy knotted v1 %(%x+%): its state is not carried over: the old state: .*contains itself",
        table.concat(lines, "\n"))
    end)
  end)

  it("nor does one that leaves the next version no room within policy_memory", function()
    tuned(function(db)
      assert(db:configure { policy_memory = 1000000 })
      save(policy("hoards", "state.all = state.all or {} for i = 1, 300 do state.all[i] = ('x'):rep(1000) .. i end"))
      local tuner = assert(db:tune(path))
      pool.sleep(6.5)
      save(policy("wants", "local t = {} for i = 1, 200 do t[i] = ('x'):rep(2000) .. i end return { max_waiting = 101 }"))
      assert(tuner:reload())
      pool.sleep(1.1)
      assert.equal(101, db:stats().settings.max_waiting)
      assert.matches("its state is not carried over: it leaves no room within policy_memory", table.concat(lines, "\n"))
    end)
  end)

  it("rolls back by itself what makes the waits worse, settings and all", function()
    tuned(function(db)
      save(policy("good", "if s.now < 5 then return { size = 8 } end"))
      local tuner = assert(db:tune(path))
      pool.sleep(15)
      assert.equal(6, db:stats().size)
      assert(db:configure { probation = 12 })
      save(policy("bad", "return { size = 1, min_idle = 1 }"))
      assert(tuner:reload())
      pool.sleep(13)
      assert.same({ "good live", "bad rolled back" }, states(tuner))
      assert.matches("wait p99 is %S+ s, it was %S+ s", tuner:versions()[2].reason)
      assert.same({ 6, 0 }, { db:stats().size, db:stats().settings.min_idle })
      assert.is_true(assert(tuner:reload()))
      assert.equal(2, #tuner:versions()) -- the same text is not tried again
    end)
  end)

  it("does not judge a first policy by figures that nobody took: what sheds in an overload from the start stays", function()
    tuned(function(db)
      save(policy("sheds", "return { queue = 'codel', queue_target = 0.2, queue_interval = 0.1 }"))
      local tuner = assert(db:tune(path))
      pool.sleep(8)
      assert.is_true(db:stats().shed > 20)
      assert.same({ "sheds live" }, states(tuner))
      assert.equal("codel", db:stats().settings.queue)
    end, 40)
  end)

  it("rolls back what fails or is killed in its probation; what failed later only after three times in a row", function()
    tuned(function(db)
      save(policy "good")
      local tuner = assert(db:tune(path))
      pool.sleep(8)
      save(policy("loops", "if s.now > 9.5 then while true do end end"))
      assert(tuner:reload())
      pool.sleep(4)
      assert.matches("tick was killed", tuner:versions()[2].reason)
      save(policy("late", "if s.now > 30.5 then error 'late' end"))
      assert(tuner:reload())
      pool.sleep(25)
      assert.same({ "good live", "loops rolled back", "late rolled back" }, states(tuner))
      assert.matches("failed 3 times in a row: .*late", tuner:versions()[3].reason)
    end)
  end)

  it("a version that replaces one on trial is rolled back to the one before both", function()
    tuned(function(db)
      save(policy "first")
      local tuner = assert(db:tune(path))
      pool.sleep(8)
      save(policy("second", "return { max_waiting = 77 }"))
      assert(tuner:reload())
      pool.sleep(2)
      save(policy("third", "if s.now > 12 then error 'third' end return { max_waiting = 78 }"))
      assert(tuner:reload())
      pool.sleep(4)
      assert.same({ "first live", "second replaced", "third rolled back" }, states(tuner))
      assert.equal(10000, db:stats().settings.max_waiting)
    end)
  end)

  it("use brings a stored version back, source tells its text", function()
    tuned(function(db)
      local one, two = policy("one", "return { max_waiting = 1000 }"), policy("two", "return { max_waiting = 2000 }")
      save(one)
      local tuner = assert(db:tune(path))
      pool.sleep(8)
      save(two)
      assert(tuner:reload())
      pool.sleep(8)
      assert.equal(2000, db:stats().settings.max_waiting)
      assert(tuner:use(1))
      pool.sleep(2)
      assert.equal(1000, db:stats().settings.max_waiting)
      assert.same({ one, two }, { tuner:source(1), tuner:source(2) })
      assert.error_matches(function() tuner:use(9) end, "there is no version 9")
    end)
  end)

  it("a shadow changes nothing, says what it would do, and can be promoted", function()
    tuned(function(db)
      local tuner = assert(db:tune "fixed")
      save(policy("shade", "return { size = 3 }, 'why not'"))
      assert(tuner:shadow(path))
      pool.sleep(3.5)
      assert.equal(2, db:stats().size)
      local shadow = tuner:status().shadow
      assert.same({ "size 2 -> 3", 3, 0 }, { shadow.last, shadow.ticks, shadow.failures })
      assert(tuner:promote())
      pool.sleep(1.5)
      assert.equal(3, db:stats().size)
      assert.error_matches(function() tuner:promote() end, "nothing runs as a shadow")
    end)
  end)

  it("asks admit at the door, and weighs keys", function()
    tuned(function(db)
      save [[return { name = "door", admit = function(s, request) return request.key ~= "greedy" end,
        weight = function(key) return key == "gold" and 4 or 1 end }]]
      local tuner = assert(db:tune(path))
      local rows, err = db:with { key = "greedy" }:query "select 1"
      assert.is_nil(rows)
      assert.equal("overloaded", err.kind)
      assert.equal(1, db:stats().refused)
      assert(db:with { key = "modest" }:query "select 1")
      local got, stop = { gold = 0, lead = 0 }, false
      for _, key in ipairs { "gold", "lead" } do
        for _ = 1, 20 do
          pool.spawn(function()
            local view = db:with { key = key }
            while not stop do
              if view:query "select 1" then got[key] = got[key] + 1 end
            end
          end)
        end
      end
      pool.sleep(20)
      stop = true
      assert.is_true(got.gold > 3 * got.lead and got.gold < 5 * got.lead)
      tuner:close()
      assert(db:with { key = "greedy" }:query "select 1")
    end, 0)
  end)

  it("tells on_event once a tick, with how many there were", function()
    tuned(function(db)
      save [[return { name = "hears", tick = function(s, state) return { max_waiting = state.heard or 9 } end,
        on_event = function(e, s) end }]]
      local tuner = assert(db:tune(path))
      pool.sleep(5)
      assert.is_true(tuner:versions()[1].calls > 5) -- ticks, and the time-outs of those who waited
    end, 8, { size = 1, max_overflow = 0, timeout = 0.2, probation = 0 })
  end)

  it("of a pool that is tuned already replaces the policy through the same stages; close ends it", function()
    tuned(function(db)
      local tuner = assert(db:tune "fixed")
      assert.equal(tuner, assert(db:tune { policy = "tiers", tier = "high" }))
      assert.equal(tuner, db:tuner())
      pool.sleep(30)
      assert.same({ 20, 30 }, { db:stats().size, db:stats().max_overflow })
      local refused, err = db:tune { policy = "tiers", tier = "sky" }
      assert.is_nil(refused)
      assert.matches("tier must be", err.message)
      assert.equal("tiers", tuner:status().name)
      tuner:close()
      assert.is_true(tuner:status().closed)
      assert.is_nil(db:tuner())
    end)
  end)

  it("a thousand reloads do not grow memory", function()
    tuned(function(db)
      save(policy "0")
      local tuner = assert(db:tune(path))
      local function memory()
        collectgarbage()
        collectgarbage()
        local file <close> = assert(io.open "/proc/self/statm")
        return tonumber(file:read "a":match "^%d+ (%d+)") * 4, collectgarbage "count"
      end
      local function reloads(from, to)
        for i = from, to do
          save(policy(tostring(i), "state.n = " .. i))
          assert(tuner:reload())
          if i % 10 == 0 then pool.sleep(1) end
        end
      end
      reloads(1, 200)
      local resident, kept = memory()
      reloads(201, 1200)
      local resident_after, kept_after = memory()
      assert.is_true(#tuner:versions() <= 20)
      assert.is_true(kept_after - kept < 200, ("Lua kept %.0f KiB more"):format(kept_after - kept))
      if not os.getenv "POOL_SPEC_PRELOAD" then -- the sanitizer's quarantine keeps what was freed
        assert.is_true(resident_after - resident < 4096, ("%.0f KiB more are resident"):format(resident_after - resident))
      end
    end, 0)
  end)

  it("holds policies to the pool's policy_time, policy_memory and policy_instructions", function()
    for setting, body in pairs { policy_instructions = "for i = 1, 1e6 do local _ = i end", policy_time = "while true do end",
      policy_memory = "state.t = {} for i = 1, 3000 do state.t[i] = { i } end" } do
      local least = { policy_instructions = 1000, policy_time = 0.001, policy_memory = 262144 }
      tuned(function(db)
        save(policy("big", body))
        local tuner, err = db:tune(path)
        assert.is_nil(tuner, setting)
        assert.matches(setting == "policy_memory" and "memory" or setting, err.message)
      end, 0, { size = 1, [setting] = least[setting] })
    end
  end)

  it("misuse raises and names what is right", function()
    tuned(function(db)
      assert.error_matches(function() db:tune(5) end, "a policy is a path, a name, or")
      assert.error_matches(function() db:tune("fixed", { limits = { size = { 5, 1 } } }) end, "limits: size")
      assert.error_matches(function() db:tune("fixed", { limits = { reset = { 1, 2 } } }) end, "limits: reset")
    end, 0)
  end)

  it("tells on_event what happened and what others have set, and takes back a version whose on_event fails", function()
    save [[local told = {}
      return { name = "listener", on_event = function(e, s) told[#told + 1] = e.kind .. " " .. e.message end,
        tick = function(s, state) if #told > 0 then local t = table.concat(told, ", ") told = {} return { recycle = s.now }, t end end }]]
    tuned(function(db)
      local tuner = assert(db:tune(path))
      pool.sleep(2.5)
      assert(db:configure { size = 3, timeout = 7 })
      pool.sleep(1)
      assert.matches("settings size 2 %-> 3, timeout 0.15 %-> 7$", tuner:history()[#tuner:history()].reason)
      assert(db:configure { size = 1, timeout = 0.15 })
      pool.sleep(3)
      local text = {}
      for _, entry in ipairs(tuner:history()) do text[#text + 1] = entry.reason end
      assert.matches("timeout %d+", table.concat(text, "\n"))
      assert.equal(2, select(2, table.concat(text, "\n"):gsub("settings ", "")))
      assert(db:configure { probation = 5 })
      save [[return { name = "deaf", on_event = function(e, s) error "what?" end }]]
      assert(tuner:reload())
      pool.sleep(3)
      assert.same({ "listener live", "deaf rolled back" }, states(tuner))
      assert.matches("what%?", tuner:versions()[2].reason)
    end, 8, { size = 2, max_overflow = 0, probation = 0, timeout = 0.15 })
  end)

  it("remembers twenty versions however many are refused, the live one among them", function()
    tuned(function(db)
      save(policy "good")
      local tuner = assert(db:tune(path))
      for i = 1, 60 do
        save("return { wrong" .. i)
        assert.is_nil((tuner:reload()))
      end
      local list = tuner:versions()
      assert.equal(20, #list)
      assert.same({ 1, "good", 43, 61 }, { list[1].version, list[1].name, list[2].version, list[20].version })
      assert.equal("return { wrong60", tuner:source(61))
      assert.error_matches(function() tuner:shadow(5) end, "tuner:shadow: a policy is a path")
      assert.error_matches(function() db:tune {} end, "db:tune: a policy is a path")
    end)
  end)

  it("reloads that race, a failing one among them, never leave a mixture", function()
    tuned(function(db)
      local function pair(n)
        return ("return { name = 'p%d', tick = function() return { timeout = %d, recycle = %d } end }"):format(n, n, 10 * n)
      end
      save(pair(3))
      local tuner, seen = assert(db:tune(path)), {}
      db:on("settings", function(new)
        seen[new.timeout] = true
        assert(new.recycle == 10 * new.timeout, "a mixture")
      end)
      local tasks = {}
      for task = 1, 3 do
        tasks[task] = pool.spawn(function()
          for i = 1, 60 do
            save(task == 3 and (i % 2 == 0 and "return { tick = " or "error 'never'") or pair(3 + (task + i) % 4))
            pool.sleep(0)
            tuner:reload()
            local live = tuner:status()
            assert(live.name:match "^p[3-6]$" and live.state ~= "refused")
            pool.sleep(0.3 * task)
          end
          return true
        end)
      end
      for _, task in ipairs(tasks) do assert(task:join()) end
      local settings = db:stats().settings
      assert.equal(10 * settings.timeout, settings.recycle)
      local kinds = 0
      for _ in pairs(seen) do kinds = kinds + 1 end
      assert.equal(4, kinds)
    end)
  end)
end)
