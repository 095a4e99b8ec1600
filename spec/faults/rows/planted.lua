--- Rows that must fail, each check for a reason of its own: the harness is seen to notice. Only spec/faults_spec.lua runs them.
local kept = {}

--- Wrong now and then, or an error that nobody allowed; and it keeps what it should not.
local function bad(db, n)
  kept[coroutine.running()] = true
  kept.file = kept.file or assert(io.open "/dev/null")
  local answer, err = db:query(n % 4 == 0 and "select $1::int / 0" or "select $1::int", n)
  if not answer then return nil, err end
  if n % 4 == 2 then error "planted" end
  return true
end

return {
  {
    name = "planted: everything wrong", planted = true, patience = 1, calm = false,
    allow = "lost", saw = "57P01", ask = bad, calls = {}, least = 20,
    strike = function() end,
  },
}
