--- The other half of the soak: the application that `pool serve` serves meanwhile. What its clients (soak_client.pl) ask for has one right
--- answer; POST /begin and /quiet start and end the same schedule from within that the tasks live through (soak_life.lua).
---
--- SOAK_DIRECTORY, SOAK_SEED, SOAK_JUDGE (its pid).
local figures = require "faults.soak_figures"
local http = require "pool.http"
local life = require "faults.soak_life"
local pool = require "pool"
local schedule = require "faults.soak_schedule"

local app = http.app()
local living, wrongs = nil, 0

local function wrong(story)
  wrongs = wrongs + 1
  if wrongs <= 20 then io.stderr:write("wrong: ", story, "\n") end
end

local function count_up(on, client)
  local rows, err = on:query("update soak_ledger set n = n + 1 where id = $1 returning n", client)
  if not rows then return nil, err end
  return tostring(rows[1].n)
end

app:on("start", function()
  pool.spawn(function()
    while schedule.judged() do pool.sleep(0.5) end
    os.exit(1)
  end)
end)

app:get("/health", http.health)

app:get("/n/:n", function(req)
  local rows, err = req.db:query("select $1::int * 7 as m", req.params.n)
  if not rows then return nil, err end
  return tostring(rows[1].m)
end)

app:post("/ledger/:client", function(req)
  if math.random(2) == 1 then
    return req.db:transaction(function(tx) return count_up(tx, req.params.client) end)
  end
  local s = req:session()
  local n, err = count_up(s, req.params.client)
  if not n then return nil, err end
  assert(s:commit())
  return n
end)

app:get("/rows/:n", function(req)
  return http.stream(function(write)
    for row in req.db:rows("select n from generate_series(1, $1::int) as n", req.params.n) do write(row.n .. "\n") end
  end)
end)

app:get("/slow", function(req)
  local rows, err = req.db:query "select pg_sleep(0.02), 'slow' as word"
  if not rows then return nil, err end
  return rows[1].word
end)

app:get("/deadline", function(req)
  return pool.deadline(0.01, function()
    local rows, err = req.db:query "select pg_sleep(5)"
    if rows then return "who slept?" end
    return nil, err
  end)
end)

-- Leases that nobody gives back: the end of the request's task does, and the collector.
app:get("/forgotten", function(req)
  local c = assert(req.db:acquire())
  return tostring(c.in_transaction)
end)
app:get("/dropped", function(req)
  local c = assert(req.db:acquire())
  assert(c:begin())
  c:detach()
  return "dropped"
end)

app:get("/raise", function() error "on purpose" end)

app:get("/figures", function(req)
  if living then figures.plant(req.db) end
  local taken = figures.take(req.db)
  taken.wrong = wrongs
  life.check { db = req.db, wrong = wrong }
  return schedule.line(taken)
end)

app:post("/begin", function(req)
  local db = req.db
  living = life.begin(db, math.tointeger(tonumber(os.getenv "SOAK_SEED")), os.getenv "SOAK_DIRECTORY" .. "/serve.record", wrong)
  return "begun"
end)

--- Ends the schedule, and closes what is idle.
app:post("/quiet", function(req)
  local ended = living
  living = nil
  ended.stop()
  collectgarbage()
  collectgarbage()
  req.db:invalidate()
  local s
  repeat
    pool.sleep(0.01)
    s = req.db:stats()
  until s.total + s.leased + s.waiting == 0 or s.leased > 0 and os.getenv "SOAK_PLANT"
  return "exercised " .. life.exercised(ended)
end)

return app
