-- pool as a library in a plain Lua program: no `pool` command, no tasks, no loop to be seen.
--
--   export LUA_PATH='lua/?.lua;;' LUA_CPATH='build/release/lib/?.so;;'        (not needed when installed: cmake --install, luarocks make)
--   lua5.4 examples/07_embed.lua
--
-- Outside pool.run a call that waits simply takes its time, as in any script. All else is the same.

local pool = require "pool"

-- Settings that are not given here come from the environment, from .env, or are the defaults.
local db <close> = pool.new { size = 2, max_overflow = 0, timeout = 5 } -- closed when the script ends

assert(db:exec "drop table if exists example_visit; create table example_visit (page text not null, seconds integer not null)")

assert(db:transaction(function(tx)
  for i = 1, 6 do
    assert(tx:query("insert into example_visit values ($1, $2)", i % 2 == 0 and "/home" or "/about", i * 10))
  end
  return true
end))

-- rows streams: memory stays the same however many there are, and leaving the loop stops the statement.
for row in db:rows "select page, count(*) as visits, max(seconds) as longest from example_visit group by page order by page" do
  print(row.page, row.visits, row.longest)
end

assert(db:exec "drop table example_visit")

-- Several things at once: each function is a task, and all is done when they are.
print(table.concat(assert(pool.all {
  function() return assert(db:query "select 'side' as word")[1].word end,
  function() return assert(db:query "select 'by' as word")[1].word end,
  function() return assert(db:query "select 'side' as word")[1].word end,
}), " "))
