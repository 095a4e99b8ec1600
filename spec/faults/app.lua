--- The application that `pool serve` runs under a row of the matrix: GET /check/N is the call with number N (calls.lua), its body
--- "N 7N"; the rest is for the harness. FAULT_ROW names the row, whose `calls` and `ask` count here too.
local http = require "pool.http"
local Calls = require "faults.calls"
local matrix = require "faults.matrix"
local app = http.app()
local calls

app:on("start", function(db)
  calls = Calls.new(db, matrix.row(os.getenv "FAULT_ROW"))
  assert(Calls.prepare(db))
end)

app:get("/check/:n", function(req)
  local n = math.tointeger(tonumber(req.params.n))
  local right, err = calls:ask(n)
  if not right then return nil, err end
  return ("%d %d\n"):format(n, n * 7)
end)

-- Everything the harness asks of the process under load, as of now.
app:get("/state", function(req)
  return { stats = req.db:stats(), leases = #req.db:leases(), seen = calls.seen, told = calls.told, wrong = calls.wrong,
    coroutines = calls:left_coroutines() }
end)

app:get("/ledger", function()
  local lines = {}
  for n, state in pairs(calls.ledger) do lines[#lines + 1] = ("%d %s"):format(n, state) end
  return table.concat(lines, "\n") .. "\n"
end)

return app
