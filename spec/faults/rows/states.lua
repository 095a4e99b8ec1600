--- What the server says no with: every SQLSTATE that concerns a connection, a role, a statement or a transaction.
local pool = require "pool"
local postgres = require "support.postgres"
local process = require "support.process"
local rows = {}

local function add(row) rows[#rows + 1] = row end

--- One statement on a pool or connection, whose one row must have this number as n.
local function ask(on, n, sql, ...)
  local answer, err = on:query(sql, ...)
  if not answer then return nil, err end
  if #answer ~= 1 or answer[1].n ~= n then error(("%s instead of %d"):format(answer[1] and answer[1].n, n)) end
  return true
end

-- ---- sessions that the server ends ---------------------------------------------------------------------------------------------

add { -- it concerns that connection alone, and is seen when it happens; one that is lent in that very moment cannot have run anything
  name = "57P05: idle_session_timeout ends idle sessions",
  allow = "lost:57P05", settings = { size = 8, max_overflow = 0, min_idle = 8 }, tasks = 3, url = { user = "sleepy" },
  calm = false, -- sessions end from the first on
  setup = function(w)
    w:sql "create role sleepy superuser login; alter role sleepy set idle_session_timeout = 150"
    w:defer(function() postgres.sql "drop owned by sleepy; drop role sleepy" end)
  end,
  saw = function(w) return w.ended >= 20 and w:stats().checks == 0 end, -- nobody else was suspected for it
  strike = function(w)
    w:wait(function() return w:stats().lost >= 20 end, 20, "20 idle sessions that ended")
    w.ended = w:stats().lost
    w:sql "alter role sleepy reset idle_session_timeout"
    pool.sleep(0.5) -- and those that have it still have ended
  end,
}

add {
  name = "25P03: idle_in_transaction_session_timeout ends slow transactions", quick = "tasks",
  allow = "lost:25P03", saw = "25P03", url = { options = "-c idle_in_transaction_session_timeout=400" },
  ask = function(db, n, calls)
    return db:transaction(function(tx)
      local fine, err = ask(tx, n, "select $1::int as n", n)
      if not fine then return nil, err end
      pool.sleep(n % 4 == 0 and calls:cause() and 0.8 or 0)
      return ask(tx, n, "select $1::int as n", n)
    end)
  end,
  strike = function(w) w:wait(function() return (w.load:state().seen["lost:25P03"] or 0) >= 5 end, 20, "five who were ended") end,
}

-- ---- a database that is not there any more -------------------------------------------------------------------------------------------

local function own_database(w)
  w.database = "fault_" .. w.name:match "%w+$":lower()
  w:sql("create database " .. w.database)
  w:defer(function() postgres.sql(("drop database if exists %s with (force)"):format(w.database)) end)
  w.url.database = w.database
end

add { -- permanent: everybody in line is told at once; callers who come again find it when it is back
  name = "database dropped under its connections, and made again",
  allow = "lost:57P01 connect:3D000", saw = "connect:3D000", ledger = false, setup = own_database,
  strike = function(w)
    w:sql(("drop database %s with (force)"):format(w.database))
    w:more_errors(20)
    w:sql("create database " .. w.database)
    w:sql("create table fault_ledger (n bigint not null)", { database = w.database })
  end,
}

-- ---- servers that change places ------------------------------------------------------------------------------------------------------

local function cluster(verb, dir)
  local text, code = process.run(("%s spec/support/cluster %s $PPID"):format(dir and "POOL_SPEC_PG_DIR=" .. process.quote(dir) or "", verb))
  assert(code == 0, text)
  local made = { dir = text:match "PG_DIR=(%S+)", port = text:match "PG_PORT=(%S+)" }
  made.host = made.dir
  return made
end

--- A primary and its standby, of this row alone: w.one and w.two.
local function pair(w)
  w.one = cluster "create"
  w:defer(function() w:cluster("remove", w.one.dir) end)
  w.two = cluster("follow", w.one.dir)
  w:defer(function() w:cluster("remove", w.two.dir) end)
  w.observe = { w.one, w.two }
end

local function address(w, ...)
  local hosts, ports = {}, {}
  for i, server in ipairs { ... } do hosts[i], ports[i] = server.dir, server.port end
  return ("postgresql://pool@/pool?application_name=%s&host=%s&port=%s"):format(w.name, table.concat(hosts, ","), table.concat(ports, ","))
end

--- What was committed at the one (or `primary`) is at the two.
local function caught_up(w, primary)
  w:wait(function()
    return w:sql("select count(*) from pg_stat_replication where replay_lsn >= pg_current_wal_lsn()", primary or w.one) == "1"
  end, 20, "the standby to catch up")
end

--- The first, stopped, starts again as a standby of the second.
local function come_back_as_standby(w)
  w:run(("cd %s/data && touch standby.signal && chown --reference=PG_VERSION standby.signal && printf \"primary_conninfo = '%s'\\n\" "
    .. ">>postgresql.conf"):format(process.quote(w.one.dir), ("host=%s port=%s user=pool"):format(w.two.dir, w.two.port)))
  w:cluster("start", w.one.dir)
end

local function both(w)
  pair(w)
  w.url = address(w, w.one, w.two) .. "&target_session_attrs=read-write"
end

add {
  name = "primary killed -9, its standby promoted: target_session_attrs=read-write finds it",
  allow = "lost", saw = "lost", setup = both, ledger = false, -- what was not yet replicated is gone
  strike = function(w)
    caught_up(w)
    w:cluster("kill", w.one.dir)
    w:cluster("promote", w.two.dir)
    w.observe = { w.two }
  end,
}

add { -- a fast stop waits for the standby: nothing that was committed may be missing
  name = "switchover: primary stopped and demoted, its standby promoted",
  allow = "lost", saw = "lost", setup = both,
  strike = function(w)
    caught_up(w)
    w:cluster("stop fast", w.one.dir)
    w:cluster("promote", w.two.dir)
    come_back_as_standby(w)
  end,
}

add { -- whoever names that one alone, and asks for nothing, is back at it, reads, and is told 25006 until it is the primary again
  name = "25006: an old primary that came back as a standby, until it is promoted again",
  allow = "lost query:25006", saw = "query:25006",
  setup = function(w)
    pair(w)
    w.url = address(w, w.one)
  end,
  strike = function(w)
    caught_up(w)
    w:cluster("stop fast", w.one.dir)
    w:cluster("promote", w.two.dir)
    come_back_as_standby(w)
    w:wait(function() return (w.load:state().seen["query:25006"] or 0) >= 20 end, 20, "20 who are told 25006")
    caught_up(w, w.two)
    w:cluster("stop fast", w.two.dir)
    w:cluster("promote", w.one.dir)
    w.observe = { w.one }
  end,
}

add { -- whoever asks for nothing gets a standby, can read there, and is told 25006; once it is promoted the same URL writes
  name = "25006: writes to a standby, until it is promoted",
  allow = "query:25006", saw = "25006", calm = false,
  setup = function(w)
    pair(w)
    w:sql("create table fault_ledger (n bigint not null)", w.one)
    caught_up(w)
    w.url = address(w, w.two)
  end,
  strike = function(w)
    w:more_errors(50)
    w:cluster("promote", w.two.dir)
  end,
}

add { -- said by a standby alone, when its primary drops the database
  name = "57P04: database dropped at the primary of a standby that is read",
  allow = "lost:57P04 lost:57P01 connect:3D000", saw = "57P04", calls = { "query", "json", "lease", "stream" }, ledger = false,
  setup = function(w)
    pair(w)
    w:sql("create database other", w.one)
    w:sql("create table fault_ledger (n bigint not null)", { host = w.one.host, port = w.one.port, database = "other" })
    caught_up(w)
    w.url = address(w, w.two):gsub("/pool%?", "/other?")
  end,
  strike = function(w)
    w:sql("drop database other", w.one)
    w:more_errors(20)
    w:sql("create database other", w.one)
    caught_up(w)
  end,
}

-- ---- statements and transactions -------------------------------------------------------------------------------------------------------

add {
  name = "57014: statement_timeout at the server",
  allow = "deadline:57014", saw = "deadline:57014", url = { options = "-c statement_timeout=500" },
  ask = function(db, n, calls)
    return ask(db, n, "select $1::int as n, pg_sleep($2)", n, n % 4 == 0 and calls:cause() and 1.5 or 0)
  end,
  strike = function(w) w:more_errors(5) end,
}

add {
  name = "57014: pg_cancel_backend",
  allow = "cancelled:57014", saw = "cancelled:57014",
  strike = function(w)
    for _ = 1, 10 do
      w:hit("cancel", w.STATES.query)
      w:more(5)
    end
  end,
}

local ADD = "update contended set value = value + 1 where id = $1 returning $2::int as n"

--- Reads the sum of all, then adds to one of few rows: serializable transactions that cannot all have been alone.
local function contended(retries)
  return function(db, n, calls)
    local runs, cause = 0, calls:cause()
    local answer, err = db:transaction(function(tx)
      runs = runs + 1
      if runs > 1 then calls.seen.rerun = (calls.seen.rerun or 0) + 1 end
      local all, why = tx:query("select sum(value) as sum, pg_sleep($1) from contended", cause and 0.005 or 0)
      if not all then return nil, why end
      return ask(tx, n, ADD, n % 2, n)
    end, { isolation = cause and "serializable" or "read committed", retries = retries })
    if not answer then return nil, err end
    calls.seen.kept = (calls.seen.kept or 0) + 1
    return true
  end
end

--- Locks two rows in the order that the number gives, while the cause lasts.
local function crossing(retries)
  return function(db, n, calls)
    local runs, first = 0, calls:cause() and n // 2 % 2 or 0
    local answer, err = db:transaction(function(tx)
      runs = runs + 1
      if runs > 1 then calls.seen.rerun = (calls.seen.rerun or 0) + 1 end
      for i = 0, 1 do
        local fine, why = ask(tx, n, ADD, (first + i) % 2, n)
        if not fine then return nil, why end
        pool.sleep(0.005)
      end
      return true
    end, { retries = retries })
    if not answer then return nil, err end
    calls.seen.kept = (calls.seen.kept or 0) + 1
    return true
  end
end

--- Every transaction that was said to be committed counts, once, and no other: `each` is what one adds.
local function adds_up(each)
  return function(w, result)
    local sum, kept = tonumber(w:sql "select sum(value) from contended"), w.load:state().seen.kept or 0
    if sum ~= kept * each then
      result.wrong = result.wrong + 1
      result.broken[#result.broken + 1] = ("%d transactions of %d were kept, and the sum is %d"):format(kept, each, sum)
    end
  end
end

local function two_rows(w)
  w:sql "drop table if exists contended; create table contended (id int primary key, value bigint)"
  w:sql "insert into contended values (0, 0), (1, 0)"
  w:defer(function() postgres.sql "drop table contended" end)
end

local function struggle(w) w:wait(function() return w.row.enough(w.load:state().seen) end, 30, "the conflict") end

for _, conflict in ipairs {
  { "40001", "serialization failures", contended, 1 },
  { "40P01", "deadlocks", crossing, 2, url = { options = "-c deadlock_timeout=20" } },
} do
  local state, what, call, each = table.unpack(conflict)
  add {
    name = ("%s: %s, without retries"):format(state, what),
    allow = "query:" .. state, saw = state, url = conflict.url, calls = { "query" }, ask = call(nil), ledger = false, setup = two_rows,
    enough = function(seen) return (seen[state] or 0) >= 5 end, strike = struggle, after = adds_up(each),
  }
  add { -- what is run again in time costs nobody an error
    name = ("%s: %s, with retries"):format(state, what),
    allow = "", saw = "rerun", url = conflict.url, calls = { "query" }, ask = call(1000), ledger = false, setup = two_rows, tasks = 8,
    enough = function(seen) return (seen.rerun or 0) >= 5 end, strike = struggle, after = adds_up(each),
  }
end

-- ---- no room ---------------------------------------------------------------------------------------------------------------------------

--- A server of this row alone in a mount namespace of its own, which ends with it: its tables are on a file system of 16 MB.
local function small_disk(w)
  local script = [[set -e
    mkdir -p "$0"
    mount -t tmpfs -o size=16m,mode=0777 tmpfs "$0"
    chown "$(id -u postgres 2>/dev/null || id -u nobody)" "$0"
    spec/support/cluster create "$1"]]
  local place = w.dir .. "/disk"
  local text, code = process.run(("unshare --mount --propagation private bash -c %s %s $PPID"):format(process.quote(script),
    process.quote(place)))
  assert(code == 0, text)
  w.own = { dir = text:match "PG_DIR=(%S+)", host = text:match "PG_DIR=(%S+)", port = text:match "PG_PORT=(%S+)" }
  w:defer(function() w:cluster("remove", w.own.dir) end)
  w.observe = { w.own }
  w:sql(("create tablespace small location '%s'"):format(place), w.own)
  w:sql("alter database pool set default_tablespace = small", w.own)
  w:sql("create table wide (n bigint, payload text); alter table wide alter payload set storage plain", w.own)
  w.url = address(w, w.own)
end

add {
  name = "53100: disk full at the server, and room again", root = true,
  allow = "query:53100", saw = "53100", setup = small_disk,
  ask = function(db, n) return ask(db, n, "insert into wide values ($1, repeat('x', 4000)) returning n", n) end,
  strike = function(w)
    local filler = "create table filler_%d as select repeat('x', 1000) as x from generate_series(1, %d)"
    for _, size in ipairs { 8000, 4000, 1000, 500, 100 } do
      w:run(("echo %s | %s >/dev/null 2>&1 || true"):format(process.quote(filler:format(size, size)), w.psql(w.own)))
    end
    w:more_errors(20)
    w:sql("drop table if exists filler_8000, filler_4000, filler_1000, filler_500, filler_100; truncate wide", w.own)
  end,
}

return rows
