-- Ask a database something.
--
--   build/release/pool run examples/01_query.lua
--
-- The database is the SQLite file pool.db in the working directory. With DATABASE_URL=postgresql://user@host/name in the
-- environment, or in a file .env, it is that server: nothing below changes.

local pool = require "pool"
local db = pool.new() -- opens nothing yet: the first statement does

-- exec takes a script of several statements: what migrations are made of.
assert(db:exec [[
  drop table if exists example_planet;
  create table example_planet (name text primary key, moons integer, rings boolean not null);
]])

-- query takes one statement. Values never go into its text: they are $1, $2, ..., and nil is NULL.
local insert = "insert into example_planet (name, moons, rings) values ($1, $2, $3)"
assert(db:query(insert, "Mars", 2, false))
assert(db:query(insert, "Saturn", 146, true))
assert(db:query(insert, "Kepler-22b", nil, false))

-- Rows are plain tables by column name. Integers are integers, booleans are booleans, and NULL is simply absent.
local planets = assert(db:query "select name, moons, rings from example_planet order by name")
for _, planet in ipairs(planets) do
  print(("%-10s  moons %-7s  rings %s"):format(planet.name, planet.moons or "unknown", planet.rings))
end

-- The same as JSON text, straight from the driver's result: every column in its order, NULL as null.
print(assert(db:json("select name, moons from example_planet where moons is null")))

-- What goes wrong in the world comes back as nil and an error that is a table.
local rows, err = db:query "select * from no_such_table"
print(rows, err.kind)

assert(db:exec "drop table example_planet")
db:close()
