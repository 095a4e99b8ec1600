-- NullPool: no connection is kept. For functions that are frozen between calls, and for databases behind a pooler of their own.
--
--   build/release/pool run examples/06_nullpool.lua
--
-- size = 0 keeps none: each is closed as soon as it comes back, unless somebody waits for it. Unlike SQLAlchemy's, it is still bounded:
-- a thousand invocations at once do not become a thousand connections.

local pool = require "pool"
local db = pool.new { size = 0, max_overflow = 2 }

local function invocation(i)
  local connection <close> = assert(db:acquire())
  local rows = assert(connection:query("select cast($1 as integer) as n", i))
  return ("invocation %d ran on connection %d"):format(rows[1].n, connection.id)
end

for i = 1, 2 do print(invocation(i)) end

local most = 0
db:on("connect", function() most = math.max(most, db:stats().total) end)
pool.run(function()
  for i = 3, 22 do pool.spawn(invocation, i) end
end)
print(("twenty at once used %d connections at most"):format(most))

db:close() -- returns when the last one is closed, at the server too
print("connections kept:", db:stats().total)
