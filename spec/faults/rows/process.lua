--- What happens to the process itself: its clock, its time, its descriptors, its files.
local pool = require "pool"
local process = require "support.process"
local rows = {}

local function add(row) rows[#rows + 1] = row end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

-- ---- time -------------------------------------------------------------------------------------------------------------------------

local FAKETIME = (process.run "ls /usr/lib/*/faketime/libfaketime.so.1 2>/dev/null | head -n 1"):gsub("\n$", "")

--- Notes when the wall clock has gone another way than the monotonic one.
local function looking_at_the_clock(db, n, calls)
  local rows_, err = db:query("select $1::int as n, pg_sleep(0.002)", n)
  if not rows_ then return nil, err end
  if rows_[1].n ~= n then error "a wrong answer" end
  local offset = os.time() - pool.now()
  calls.offset = calls.offset or offset
  if math.abs(offset - calls.offset) > 1000 then calls.seen.jump = (calls.seen.jump or 0) + 1 end
  return true
end

add { -- only the monotonic clock decides: nothing times out, nothing is too old, nothing waits for a time that has gone
  name = "wall clock jumps an hour on, a day back, ten years on", quick = "serve",
  allow = "", saw = "jump", ask = looking_at_the_clock, settings = { recycle = 600, idle_timeout = 30, timeout = 5 },
  needs = function()
    if os.getenv "POOL_SPEC_PRELOAD" then return "faketime and the sanitizers do not go together" end
    return FAKETIME == "" and "needs faketime" or nil
  end,
  preload = FAKETIME,
  env = function(dir)
    write(dir .. "/clock", "+0")
    return { FAKETIME_TIMESTAMP_FILE = dir .. "/clock", FAKETIME_NO_CACHE = "1", FAKETIME_DONT_FAKE_MONOTONIC = "1" }
  end,
  strike = function(w)
    for _, jump in ipairs { "+3600", "-86400", "+315360000", "+0" } do
      write(w.dir .. "/clock", jump)
      w:more(50)
    end
  end,
}

for _, how in ipairs { { "", "", 10 }, { ", longer than the timeout", "timeout", 2 } } do
  add {
    name = "the process itself stopped for 5 s" .. how[1],
    allow = how[2], settings = { timeout = how[3] }, saw = function(_, result) return result.longest > 4.5 end,
    strike = function(w) w:freeze(w.pid, 5):wait() end,
  }
end

-- ---- descriptors --------------------------------------------------------------------------------------------------------------------

add { -- the connections that are there work on; one that is lost cannot be had again, and no client comes in, until the limit rises
  name = "EMFILE: no descriptor left for 2 s",
  allow = "lost connect timeout", saw = "connect", settings = { timeout = 0.5 }, reconnect = 5,
  strike = function(w)
    local hit = ("select count(pg_terminate_backend(pid)) from pg_stat_activity where %s"):format(w:mine())
    w:run(("set -e; prlimit --pid %d --nofile=3:; trap 'prlimit --pid %d --nofile=1024:' EXIT; printf %%s %s | %s; sleep 2"):format(w.pid,
      w.pid, process.quote(hit), w.psql {}))
  end,
}

-- ---- policies -----------------------------------------------------------------------------------------------------------------------

local function policy(size) return ("return { every = 0.1, tick = function() return { size = %d } end }\n"):format(size) end

local function has_size(w, size, seconds)
  w:wait(function() return w:stats().size == size end, seconds, ("the size %d that was saved"):format(size))
end

local function tuned(place)
  return function(w)
    w:run("mkdir -p " .. w.dir .. place)
    w.policy = w.dir .. place .. "/tune.lua"
    write(w.policy, policy(4))
  end
end

add { -- whatever becomes of those that went live amid the restart, which may be taken back, the one saved afterwards is live
  name = "a policy saved again and again in the middle of a restart",
  allow = "lost", settings = { probation = 5 }, setup = tuned "", limit = 10,
  saw = function(w) return w.saved == 6 and w:stats().errors == 0 and select(2, w:log():gsub("policy tune v%d", "")) >= 3 end,
  strike = function(w)
    local restart = w:beside "spec/support/cluster restart immediate"
    for _, text in ipairs { policy(3), policy(5), "return { tick = ", policy(2) } do
      write(w.policy .. ".new", text)
      assert(os.rename(w.policy .. ".new", w.policy))
      pool.sleep(0.15)
    end
    restart:wait()
    for i = 1, 5 do -- on probation while waits are still long from the restart, it may be taken back, too
      write(w.policy, policy(6) .. "-- " .. i)
      if pcall(has_size, w, 6, 2) then break end
    end
    w.saved = w:stats().size
  end,
}

add { -- what is live stays live; the file is found again when its directory is back
  name = "the policy's directory removed, and back with another",
  allow = "", setup = tuned "/policies", limit = 10, saw = function(w) return w.saved == 6 end,
  strike = function(w)
    has_size(w, 4, 5)
    w:run("rm -rf " .. w.dir .. "/policies")
    w:more(200)
    w:run("mkdir " .. w.dir .. "/policies")
    write(w.policy, policy(6))
    has_size(w, 6, 10)
    w.saved = w:stats().size
  end,
}

-- ---- recordings -----------------------------------------------------------------------------------------------------------------------

local function given_up(w) return w:log():find("nothing is recorded any more", 1, true) end

add {
  name = "a recording whose disk is full", root = true,
  allow = "", saw = given_up, setup = function(w) w.record = w.dir .. "/small/traffic.rec" end,
  wrap = function(dir)
    local script = 'mkdir -p "$0" && mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@"'
    return { "unshare", "--mount", "--propagation", "private", "sh", "-c", script, dir .. "/small" }
  end,
  strike = function(w)
    w:run(("head -c 1000000 /dev/zero >/proc/%d/root%s/small/filler 2>/dev/null || true"):format(w.pid, w.dir))
    w:wait(function() return given_up(w) end, 10, "the recording to end")
  end,
}

add { -- it goes on in the file that has no name any more, until that is half full
  name = "a recording whose directory is gone",
  allow = "", saw = given_up, settings = { record_limit = 65536 },
  setup = function(w)
    w:run("mkdir " .. w.dir .. "/gone")
    w.record = w.dir .. "/gone/traffic.rec"
  end,
  strike = function(w)
    w:run("rm -r " .. w.dir .. "/gone")
    w:wait(function() return given_up(w) end, 30, "the recording to end")
  end,
}

return rows
