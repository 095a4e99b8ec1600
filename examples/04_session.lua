-- A session: one unit of work, as SQLAlchemy has it.
--
--   build/release/pool run examples/04_session.lua
--
-- It begins at its first statement: until then it holds no connection. What was not committed when it closes is rolled back.
-- `<close>` closes it however the block is left: by its end, by return, by an error.

local pool = require "pool"
local db = pool.new()

assert(db:exec "drop table if exists example_note; create table example_note (body text not null)")

local function count() return assert(db:query "select count(*) as n from example_note")[1].n end

do
  local session <close> = db:session()
  print("connections in use before the first statement:", db:stats().leased)
  assert(session:query("insert into example_note values ($1)", "buy milk"))
  print("and after it:", db:stats().leased)
  assert(session:commit()) -- gives the connection back; another statement would begin anew
end
print("notes after a commit:", count())

do
  local session <close> = db:session()
  assert(session:query("insert into example_note values ($1)", "buy a boat"))
end -- left without a commit
print("notes after none:", count())

print(pcall(function()
  local session <close> = db:session()
  assert(session:query("insert into example_note values ($1)", "call home"))
  error("the roof is on fire", 0)
end))
print("notes after an error:", count())

assert(db:exec "drop table example_note")
db:close()
