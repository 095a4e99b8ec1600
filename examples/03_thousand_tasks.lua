-- A thousand tasks share ten connections.
--
--   build/release/pool run examples/03_thousand_tasks.lua
--
-- A task is a coroutine: straight-line code that waits without holding up anybody else. Those that find no connection free stand
-- in line, and are served in order. A connection is back in the pool as soon as its statement is done.

local pool = require "pool"

local TASKS = 1000
local db = pool.new { size = 10, max_overflow = 0 }

local most, sum = 0, 0
db:on("connect", function() most = math.max(most, db:stats().total) end) -- each time that a connection was opened

pool.run(function()
  for i = 1, TASKS do
    pool.spawn(function()
      -- casts make it mean the same on every database
      local rows = assert(db:query("select cast($1 as integer) * 2 as twice", i))
      sum = sum + rows[1].twice
    end)
  end
end) -- run returns when all of them are done

assert(sum == TASKS * (TASKS + 1), "an answer went to the wrong task")
assert(most <= 10, "an eleventh connection was opened")
print(("%d tasks, %d connections at most"):format(TASKS, most))
print(db:status())
db:close()
