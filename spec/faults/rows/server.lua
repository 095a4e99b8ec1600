--- Backends and servers that end or stand still: one by one, all at once, for good or for a moment.
local rows = {}

local function add(row) rows[#rows + 1] = row end

local SPARE = { size = 8, max_overflow = 0, min_idle = 8 } -- with three callers: connections that nobody uses

-- ---- one backend, in every state it can be in ---------------------------------------------------------------------------------

--- A transaction that does nothing for a moment, so that it can be found idle in transaction.
local function pausing(db, n)
  return db:transaction(function(tx)
    local rows_, err = tx:query("select $1::int as n", n)
    if not rows_ then return nil, err end
    require("pool").sleep(0.02)
    rows_, err = tx:query("select $1::int + 1 as n", n)
    if not rows_ then return nil, err end
    if rows_[1].n ~= n + 1 then error "a wrong answer" end
    return true
  end)
end

local WIDE = 400 -- rows of a kilobyte: more than the sockets hold, so that the server is still sending while they are read

local function slowly(db, n)
  local count = 0
  for row in db:rows("select i, repeat('x', 1000) || ($1::int + i) as wide from generate_series(1, $2::int) as i", n, WIDE) do
    count = count + 1
    if row.wide ~= ("x"):rep(1000) .. n + count then error "a wrong row" end
    if count % 100 == 0 then require("pool").sleep(0.001) end
  end
  if count ~= WIDE then error(count .. " rows") end
  return true
end

local STATES = {
  { "query", "in a query" },
  { "transaction", "in a transaction", ask = pausing },
  { "stream", "while streaming", ask = slowly, allow = "lost", saw = "lost" }, -- amid its rows the server cannot say why
}

local function ten_times(state)
  return function(w)
    for _ = 1, 10 do
      w:hit("terminate", w.STATES[state])
      w:more(5)
    end
  end
end

--- SIGKILL makes the server end every other connection, and start itself again.
local function three_times(state)
  return function(w)
    for _ = 1, 3 do
      w:hit("kill", w.STATES[state])
      w:more(20)
    end
    w:ready()
  end
end

add { -- its end is seen when it comes. A call may get it in that very moment, but not as a rule
  name = "backend terminated while idle",
  allow = "lost:57P01", settings = SPARE, tasks = 3,
  saw = function(w, result) return w.hits == 10 and w:stats().lost >= 10 and (result.errors.lost or 0) <= 3 end,
  strike = ten_times "idle",
}
add {
  name = "backend killed -9 while idle",
  allow = "lost", settings = SPARE, tasks = 3, saw = function(w) return w.hits == 3 and w:stats().lost >= 10 end,
  strike = three_times "idle",
}
for _, state in ipairs(STATES) do
  add {
    name = "backend terminated " .. state[2], quick = state[1] == "query" and "serve" or nil,
    allow = state.allow or "lost:57P01", ask = state.ask, saw = state.saw or "57P01", strike = ten_times(state[1]),
  }
  add { -- what the others are told is 57P02
    name = "backend killed -9 " .. state[2], allow = "lost", ask = state.ask, saw = "57P02", strike = three_times(state[1]),
  }
end

-- ---- one backend, at work for the pool itself --------------------------------------------------------------------------------

--- Freezes a backend that is about to be asked something by the pool itself, waits until the pool's figures say so, ends it, and wakes
--- it to that. Three times.
local function end_at(figure, how, condition, before)
  return function(w)
    w.met = 0
    for _ = 1, 30 do
      local pid = w:pids(condition)[1]
      if pid then
        local frozen = w:freeze(pid, 10)
        if before then before(w, pid) end
        local function at_it() return w:stats()[figure] > 0 end
        if pcall(w.wait, w, at_it, 0.5) then
          require("pool").sleep(0.05) -- others are at it for a moment, this one for as long as it is frozen
          if at_it() then w.met = w.met + 1 end
        end
        if how == "kill" then w:run("kill -KILL " .. pid) else w:sql(("select pg_terminate_backend(%d)"):format(pid)) end
        frozen:stop()
        w:ready()
        w:more(10)
        if w.met == 3 then return end
      end
    end
  end
end

--- Gives its connection back in the middle of a transaction: ROLLBACK is the pool's work.
local function forgetful(db, n)
  local c <close>, err = db:acquire()
  if not c then return nil, err end
  local fine
  fine, err = c:begin()
  if not fine then return nil, err end
  local rows_
  rows_, err = c:query("select $1::int as forgetful", n)
  if not rows_ then return nil, err end
  if rows_[1].forgetful ~= n then error "a wrong answer" end
  require("pool").sleep(0.1)
  return true
end

--- With pauses, in which its connection is idle.
local function seldom(db, n)
  local rows_, err = db:query("select $1::int as n", n)
  if not rows_ then return nil, err end
  if rows_[1].n ~= n then error "a wrong answer" end
  require("pool").sleep(0.1)
  return true
end

for _, how in ipairs { "terminate", "kill" } do
  local what = how == "kill" and "backend killed -9 " or "backend terminated "
  local others = how == "kill" and "lost" or "lost:57P01" -- whose connections died of it, or were lent in that very moment
  local function met(w, result) return w.met == 3 and (how == "kill" or (result.errors.lost or 0) <= 3) end
  add { -- its borrower had given it back
    name = what .. "while resetting",
    allow = others, ask = forgetful, tasks = 6, saw = met,
    strike = end_at("resetting", how, "state = 'idle in transaction' and query like '%forgetful%'"),
  }
  add {
    name = what .. "while being checked in the background",
    allow = others, settings = SPARE, tasks = 3,
    saw = function(w, result) return met(w, result) and w:stats().check_failures >= 3 end,
    strike = end_at("checking", how, "state = 'idle' and state_change < clock_timestamp() - interval '0.3 s'", function(w, pid)
      w:hit("terminate", w.STATES.idle .. " and pid <> " .. pid) -- a loss makes all others suspect
    end),
  }
  add { -- that costs the borrower a retry, not an error
    name = what .. "while being checked for a borrower",
    allow = others, settings = { size = 4, max_overflow = 0, pre_ping_after = 0 }, tasks = 12, calls = {}, ask = seldom, ledger = false,
    saw = function(w, result) return met(w, result) and w:stats().check_failures >= 3 end,
    strike = end_at("checking", how, "state = 'idle'"),
  }
end

-- ---- the whole server -----------------------------------------------------------------------------------------------------------

local function whole(name, allow, strike, more)
  local row = { name = name, allow = allow, saw = "lost", strike = strike }
  for key, value in pairs(more or {}) do row[key] = value end
  add(row)
end

for _, mode in ipairs { "fast", "immediate" } do
  whole("server restarted " .. mode, "lost", function(w) w:cluster("restart " .. mode) end,
    { quick = mode == "immediate" and "tasks" or nil })
  whole("server stopped " .. mode .. " and started a second later", "lost", function(w)
    w:cluster("stop " .. mode)
    require("pool").sleep(1)
    w:cluster "start"
  end)
end

whole("server killed -9 whole and started a second later", "lost", function(w)
  w:cluster "kill"
  require("pool").sleep(1)
  w:cluster "start"
end)

-- Callers whose own timeout is shorter than the outage are told connect, with the last cause.
whole("server away for longer than the timeout", "lost connect timeout", function(w)
  w:cluster "stop fast"
  w:more_errors(16)
  w:cluster "start"
end, { settings = { timeout = 1 }, saw = "connect", url = { tcp = true }, tasks = 8 })

local function smart_stops(w) return w:run "grep -c 'received smart shutdown' \"$POOL_SPEC_PG_DIR/log\" || true" end

-- A smart stop lets those who are in work on, and tells newcomers 57P03; somebody who stays keeps it there.
whole("server that says 57P03 to whoever connects", "lost connect timeout", function(w)
  local stays = w:beside(w.psql {} .. " -c 'select pg_sleep(30)'")
  w:wait(function() return w:sql "select query from pg_stat_activity where query = 'select pg_sleep(30)'" ~= "" end)
  local pids = w:pids "true"
  local stopping = w:beside "spec/support/cluster stop smart"
  w:wait(function() return smart_stops(w) ~= w.stops end)
  w:run("kill -TERM " .. table.concat(pids, " "))
  w:wait(function() return w.load:state().seen["connect:57P03"] end, 20, "somebody who is told 57P03")
  w:cluster "stop fast"
  stays:stop()
  stopping:stop()
  w:cluster "start"
end, {
  settings = { timeout = 0.3 }, saw = "connect:57P03",
  ready = function(w) w.stops = smart_stops(w) end,
})

-- ---- what stands still ------------------------------------------------------------------------------------------------------------

add { -- those who are on it wait; nobody else does
  name = "backend frozen for 2 s", settings = { size = 4, max_overflow = 0 }, calls = { "query" }, ledger = false,
  allow = "", saw = function(_, result) return result.longest > 1.5 end,
  strike = function(w) w:freeze(w:pids("true")[1], 2):wait() end,
}
add { -- no cancel reaches it: after 5 s the connection is given up, which the server does not know before it wakes
  name = "backend frozen for longer than statement_timeout and the patience with a cancel",
  allow = "lost", saw = "lost", settings = { size = 4, max_overflow = 0, statement_timeout = 0.5 }, calls = { "query" },
  ledger = false, excess = 1, excess_why = "a frozen backend cannot see that it was given up",
  strike = function(w) w:freeze(w:pids "true"[1], 7):wait() end,
}
add { -- what is open works on; opens and cancels wait
  name = "postmaster frozen for 2 s",
  allow = "lost", saw = function(w) return w:stats().lost >= 1 and w:stats().opens > w.opens end,
  strike = function(w)
    local main = w.server_pids()
    local frozen = w:freeze(main, 2)
    w:run(("kill -TERM %d"):format(w.victim))
    frozen:wait()
  end,
  ready = function(w) w.victim, w.opens = w:pids "true"[1], w:stats().opens end,
}
add {
  name = "every process of the server frozen for 2 s",
  allow = "", saw = function(_, result) return result.longest > 1.5 end,
  strike = function(w)
    local main, children = w.server_pids()
    w:freeze({ main, table.unpack(children) }, 2):wait()
  end,
}
add {
  name = "every process of the server frozen for longer than the timeout",
  allow = "timeout deadline lost", saw = "timeout", settings = { timeout = 1 },
  strike = function(w)
    local main, children = w.server_pids()
    w:freeze({ main, table.unpack(children) }, 3):wait()
  end,
}

return rows
