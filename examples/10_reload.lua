-- A policy that is saved while the pool works goes live at once, on probation. One that does harm is taken back by itself.
--
--   build/release/pool run examples/10_reload.lua
--
-- In a server the same is: pool serve app.lua --policy tune.lua, and then saving tune.lua.

local pool = require "pool"

local FILE = os.tmpname()

local function save(text)
  local file = assert(io.open(FILE, "w"))
  file:write(text)
  file:close()
end

pool.log = function() end -- what it would say is in tuner:history(), below

local db = pool.new { size = 4, max_overflow = 0, probation = 20 }

pool.run(function()
  local stop
  local tasks = {}
  for i = 1, 8 do -- eight callers, each holding a connection for 10 ms
    tasks[i] = pool.spawn(function()
      while not stop do
        local _ <close> = assert(db:acquire())
        pool.sleep(0.01)
      end
    end)
  end

  save [[return { name = "roomy", every = 0.05, tick = function(s) return { size = 8 }, "eight callers" end }]]
  local tuner = assert(db:tune(FILE))
  while tuner:status().state ~= "live" do pool.sleep(0.01) end

  save [[return { name = "stingy", every = 0.05, tick = function(s) return { size = 1 }, "to save money" end }]]
  while #tuner:versions() < 2 or tuner:versions()[2].state == "probation" do pool.sleep(0.01) end -- the file is watched

  stop = true
  for _, task in ipairs(tasks) do task:join() end
  for _, entry in ipairs(tuner:history()) do
    local interesting = entry.what ~= "size 7 -> 8" and not entry.what:find "^size [2-6] "
    if interesting then print(("v%d %s%s"):format(entry.version, entry.what, entry.reason and ": " .. entry.reason or "")) end
  end
  print("size", db:stats().size)
  tuner:close()
end)
os.remove(FILE)
db:close()
