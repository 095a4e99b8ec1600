--- Every cut point of a whole conversation: the link ends after 0, 1, 2, … bytes, each time in a conversation of its own, until one comes
--- through whole; counted towards the server and back, ended by FIN and by RST. What a caller meets must be right or a typed error, and
--- what it was told is committed must be there.
---
--- One caller at a time; each call of the load is a conversation over a pool of its own, from connect to goodbye.
local pool = require "pool"
local proxy = require "support.proxy"
local postgres = require "support.postgres"

local rows = {}

local function must(condition, text) if not condition then error(text, 0) end end

-- ---- what is said -----------------------------------------------------------------------------------------------------------------

local function ask(db, n)
  local answer, err = db:query("select $1::int as n", n)
  if not answer then return nil, err end
  must(#answer == 1 and answer[1].n == n, "a wrong answer")
  return true
end

local function stream(db, n)
  local count = 0
  local fine, err = pcall(function()
    for row in db:rows("select i + $1::int as m from generate_series(1, 4) as i", n) do
      count = count + 1
      must(row.m == n + count, "a wrong row")
    end
  end)
  if not fine then return nil, err end
  must(count == 4, "rows are missing")
  return true
end

local function insert(db, n, ledger)
  ledger[n] = "clean"
  local fine, err = db:transaction(function(tx)
    local answer, why = tx:query("insert into fault_ledger values ($1)", n)
    if not answer then return nil, why end
    ledger[n] = "open"
    return true
  end)
  if not fine then return nil, err end
  ledger[n] = "right"
  return true
end

--- Left in a transaction, so that the way back is a ROLLBACK.
local function leave(db)
  local c <close>, err = db:acquire()
  if not c then return nil, err end
  local fine, why = c:begin()
  if not fine then return nil, why end
  return c:query "select 1"
end

local function rest(db)
  for _ = 1, 5000 do
    local s = db:stats()
    if s.resetting + s.leased + s.checking == 0 then return true end
    local fine, err = pool.sleep(0.001)
    if not fine then return nil, err end
  end
  error("the pool does not come to rest", 0)
end

-- Connections of a pool of the row's own.
local function open(w)
  return pool.new { database_url = w.conversation, size = 1, max_overflow = 0, timeout = 30, connect_timeout = 30, backoff_min = 30,
    backoff_max = 30 }
end

local WHOLE = { ask, ask, stream, insert, leave, rest, ask } -- prepared, executed again, streamed, committed, reset, and in order again
local SHORT = { ask }

--- The steps of one conversation. An open that fails ends it: the next one would only be cut at the same place.
local function converse(w, steps, n, ledger)
  local db = open(w)
  local talk = pool.deadline(w.patience or 60, pool.spawn, function()
    for _, step in ipairs(steps) do
      local fine, err = step(db, n, ledger)
      if not fine then return nil, err end
    end
    return true
  end)
  while talk.status ~= "done" and db:stats().open_failures == 0 do pool.sleep(0.0005) end
  db:close(talk.status == "done" and not w.patience and 1 or 0)
  local fine, err = talk:join(10)
  if w.patience then w.proxy:now "rst" end
  local s = db:stats()
  must(s.total + s.leased + s.waiting == 0, "something is left: " .. db:status())
  must(s.arrivals == s.grants + s.timeouts + s.rejected + s.cancelled + s.errors, "arrivals and their ends differ")
  if fine then return true end
  if type(err) ~= "table" then error(err, 0) end
  return nil, err
end

-- ---- the sweep --------------------------------------------------------------------------------------------------------------------

local function sweep(name, steps, start, more)
  local world
  local hows = more and more.hows or { "fin", "rst" }
  local row = {
    name = name, loads = { "tasks" }, tasks = 1, calls = {}, allow = "lost connect closed", seconds = 900, least = 60,
    setup = function(w)
      world = w
      w.proxy = start()
      w:defer(function() w.proxy:close() end)
      w.conversation = postgres.url { through = w.proxy, application_name = w.name, sslmode = "disable", gssencmode = "disable" }
      w.cuts = 0
    end,
    ask = function(_, n, calls)
      local w, at = world, world.at
      w.patience = at and more and more.silence -- only where something can fall silent
      if not at then return converse(w, steps, n, calls.ledger) end
      w.proxy:calm { cut = at, direction = w.direction, how = w.how }
      local before = w.proxy:stats().cuts
      local right, err = converse(w, steps, n, calls.ledger)
      local cuts = w.proxy:stats().cuts - before
      w.cuts = w.cuts + cuts
      must(cuts > 0 or right, "nothing was cut, and yet: " .. tostring(err))
      w.at = cuts > 0 and at + (more and more.step or 1) or nil
      if cuts == 0 then w.proxy:calm() end
      return right, err
    end,
    strike = function(w)
      w.swept = {}
      for _, direction in ipairs { "up", "down" } do
        for _, how in ipairs(hows) do
          w.direction, w.how, w.at = direction, how, 0
          w:wait(function()
            if w.at then w.last = w.at end
            return not w.at
          end, 400, "the end of a sweep")
          w.swept[#w.swept + 1] = w.last
        end
      end
    end,
    saw = function(w)
      pool.log("info", "swept " .. table.concat(w.swept, ", ") .. " bytes")
      local least = 0
      for _, last in ipairs(w.swept) do least = least + last // (more and more.step or 1) end
      return #w.swept == 2 * #hows and w.cuts >= least
    end,
  }
  for key, value in pairs(more or {}) do row[key] = value end
  rows[#rows + 1] = row
end

sweep("a conversation cut at every byte", WHOLE, function() return proxy.start { unix = true } end,
  { bound = 3, why = "fifty conversations one after another" })
sweep("a log-in with SCRAM over TCP cut at every byte", SHORT, function() return proxy.start() end,
  { bound = 5, why = "fifty log-ins one after another" })
sweep("a conversation that falls silent at every 31st byte", WHOLE, function() return proxy.start { unix = true } end,
  { hows = { "stall" }, step = 31, silence = 0.5, allow = "deadline", bound = 5, why = "fifty conversations one after another" })

-- A cancel that does not come through whole: the statement ends by itself, and the connection's next one has its own answer.
rows[#rows + 1] = {
  name = "a cancel cut at every byte", loads = { "tasks" }, tasks = 1, calls = {}, allow = "", least = 30, ledger = false,
  unseen = "the calls are on a pool of the row's own, whose connections are looked for in the end",
  setup = function(w)
    w.row.world = w
    w.proxy = proxy.start { unix = true }
    w.conversation = postgres.url { through = w.proxy, application_name = w.name .. "-own" }
    w.own = open(w)
    w:defer(function() w.proxy:close() end)
  end,
  ask = function(_, n, calls)
    local w = calls.row.world
    if w.how then
      -- Of new links alone, and those are the cancel's. It is asked four times: no link may end at its 16th byte, which would be a whole
      -- cancel whose end the server has not said. It signals the process and then its group: the second would hit the next statement.
      w.proxy:set { cut = w.at, sweep = w.at <= 12 and 1 or 17, direction = "up", how = w.how }
      w.how = nil
      local answer, err = pool.deadline(0.02, w.own.query, w.own, "select pg_sleep(0.3)")
      must(not answer and err.kind == "deadline", "no deadline: " .. tostring(err))
    end
    return ask(w.own, n)
  end,
  strike = function(w)
    w.swept = 0
    for _, how in ipairs { "fin", "rst" } do
      for at = 0, 15 do -- a whole one is 16
        local cuts = w.proxy:stats().cuts
        w.how, w.at = how, at
        w:wait(function() return w.proxy:stats().cuts > cuts end, 20, "a cancel")
        w:more(1)
        w.swept = w.swept + 1
      end
    end
    w.proxy:calm()
  end,
  saw = function(w) return w.swept == 32 end,
  after = function(w)
    w.own:close()
    local left = w:sql(("select count(*) from pg_stat_activity where application_name = '%s-own'"):format(w.name))
    must(left == "0", left .. " connections left")
  end,
}

return rows
