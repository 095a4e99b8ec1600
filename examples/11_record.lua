-- What if there had been more connections? Traffic is recorded as it happens, then replayed in virtual time with other settings.
--
--   build/release/pool run examples/11_record.lua
--
-- The same of a server: pool serve app.lua --record traffic.rec, then pool advise traffic.rec, and
-- pool simulate default --workload traffic.rec

local pool = require "pool"
local sim = require "pool.sim"

local PATH = os.tmpname()
os.remove(PATH) -- a recording makes its file itself

local db <close> = pool.new { size = 2, max_overflow = 0, timeout = 0.2 }

pool.run(function()
  assert(db:query "select 1")
  local _ <close> = assert(db:record(PATH))
  local tasks = {}
  for i = 1, 40 do
    tasks[i] = pool.spawn(function()
      local c <close> = db:acquire()
      if c then pool.sleep(0.02) end -- held for 20 ms, whatever for
    end)
  end
  for _, task in ipairs(tasks) do task:join() end
end)

local function replayed(size)
  local r = assert(sim.run { workload = PATH, settings = { size = size } })
  print(("with %2d connections: %2d of %d timed out, wait p99 %3.0f ms"):format(size, r.timeouts, r.offered, r.wait.p99 * 1000))
end

print(("as it was:           %2d of %d timed out"):format(db:stats().timeouts, 40))
for _, size in ipairs { 2, 4, 8 } do replayed(size) end
os.remove(PATH)
