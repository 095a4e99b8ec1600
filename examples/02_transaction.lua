-- All or nothing: transactions that commit by themselves, and what makes them roll back.
--
--   build/release/pool run examples/02_transaction.lua

local pool = require "pool"
local db = pool.new()

assert(db:exec [[
  drop table if exists example_account;
  create table example_account (owner text primary key, euros integer not null);
  insert into example_account values ('Ada', 100), ('Bob', 20);
]])

local function transfer(tx, from, to, euros)
  assert(tx:query("update example_account set euros = euros - $2 where owner = $1", from, euros))
  local left = assert(tx:query("select euros from example_account where owner = $1", from))[1].euros
  if left < 0 then return nil, ("%s has not got %d euros"):format(from, euros) end
  local credited = assert(tx:query("update example_account set euros = euros + $2 where owner = $1", to, euros))
  if credited.affected == 0 then error("there is nobody called " .. to) end
  return left
end

local function show(what)
  local list = {}
  for owner in db:rows "select owner, euros from example_account order by owner" do
    list[#list + 1] = ("%s %d"):format(owner.owner, owner.euros)
  end
  print(("%-22s%s"):format(what, table.concat(list, ", ")))
end

show "at first"

-- The function gets the transaction; when it returns, that commits, and its results are ours.
local left = assert(db:transaction(function(tx) return transfer(tx, "Ada", "Bob", 30) end))
show(("Ada has %d left"):format(left))

-- nil and an error: rolled back, and they are what we get.
local ok, err = db:transaction(function(tx) return transfer(tx, "Bob", "Ada", 1000) end)
show "refused"
print("  because:", ok, err)

-- An error raised inside: rolled back too, and raised on. Nothing has to be cleaned up on the way.
print("  because:", pcall(db.transaction, db, function(tx) return transfer(tx, "Ada", "Nobody", 10) end))
show "raised"

-- A transaction inside is a savepoint: it fails by itself, and what is around it goes on.
assert(db:transaction(function(tx)
  assert(transfer(tx, "Bob", "Ada", 5))
  tx:transaction(function(inner) return transfer(inner, "Bob", "Ada", 1000) end)
  return true
end))
show "five went through"

assert(db:exec "drop table example_account")
db:close()
