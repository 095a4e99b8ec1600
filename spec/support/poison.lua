--- The poison test's vocabulary: what a lease can be left in (states) and how a lease can come back (ways). The trials and what they
--- must find are the spec's.
---
--- A state: make(on, place, held) dirties a Connection or Session; what must stay alive goes into `held`. `seen` is SQL that is true
--- where the next lease finds it. `busy`: something is under way on the connection, so that the way can neither run a statement nor
--- end a transaction; `failed`: the same for a transaction that has failed (`failed_inside`: only if the way had one). `shared`:
--- another task has the lease too.
---
--- A way: back(world, dirty) takes a lease, calls dirty(lease) and gives it back, in a task unless it is `outside` of pool.run.
--- `place`: where the state is made: "alone", or in a transaction of the way's that is "committed", "rolled back" by a statement, or
--- "left open" for the engine. `runs`: it needs the connection for a statement of its own. `lost`: nobody may have the lease any more.
--- `other`: the connection never comes back; `gone`: nor does the pool.
local pool = require "pool"
local pools = require "support.pools"

local check = pools.check
local poison = {}

local function run(on, sql, ...) return check(on:query(sql, ...)) end

local function refused(on, sql, sqlstate)
  local rows, err = on:query(sql)
  if rows or err.sqlstate ~= sqlstate then error(("%s: wanted %s, got %s"):format(sql, sqlstate, tostring(err)), 0) end
end

local function begin(on, place, sql)
  if place == "alone" then run(on, sql or "begin") end
end

--- Another task's statement under way on the same connection. Its end is that task's alone.
local function under_way(on, sql)
  pool.spawn(function() on:query(sql) end)
  pool.sleep(0)
end

--- A statement of the lease's own.
local function by(sql)
  return function(on) run(on, sql) end
end

--- The first row of many.
local function stream(sql)
  return function(on, _, held)
    held.iterator = on:rows(sql)
    assert(held.iterator())
  end
end

local function setting(name, value) return ("current_setting('%s') = '%s'"):format(name, value) end

-- A lock of its own for every process: several trials run at once.
local advisory = "exists (select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid() and classid = %d)"

--- The work that a transaction holds; the table is poison.postgres.schema's.
local WORK = "insert into public.poison_work values (1)"

poison.postgres = {
  sleep = "select pg_sleep(30)",
  schema = [[
    drop table if exists public.poison_work;
    create table public.poison_work (n int);
    create unlogged table if not exists public.poison_many (n int);
    create schema if not exists poison_schema;
    do $$ begin create role poison_role; exception when duplicate_object then null; end $$;
    grant all on public.poison_work, public.poison_many to public;
  ]],
  --- A statement of the driver's own cache: right in every lease, whatever was done to the cache before.
  cached = "select $1::int + 4711 as n",
  remove = "drop table public.poison_work, public.poison_many; drop schema poison_schema; drop role poison_role",
  identity = function(c) return c.pid end,
  wash = "discard all",
  unclean = { -- what no lease may ever find
    ["a transaction"] = "pg_current_xact_id_if_assigned() is not null",
    ["a transaction's work"] = "exists (select from public.poison_work where n = 1)",
  },
  states = {
    ["an open transaction"] = { make = function(on, place)
      begin(on, place)
      run(on, WORK)
    end },
    ["a failed transaction"] = { failed = true, make = function(on, place)
      begin(on, place)
      run(on, WORK)
      refused(on, "select 1 / 0", "22012")
    end },
    ["a savepoint inside"] = { make = function(on, place)
      begin(on, place, "begin isolation level serializable")
      run(on, "savepoint deep")
      run(on, WORK)
      run(on, "savepoint deeper")
    end },
    ["SET"] = { make = by "set work_mem = '7MB'", seen = setting("work_mem", "7MB") },
    ["SET LOCAL"] = { seen = setting("maintenance_work_mem", "33MB"), make = function(on, place)
      begin(on, place)
      run(on, "set local maintenance_work_mem = '33MB'")
    end },
    ["SET ROLE"] = { make = by "set role poison_role", seen = "current_user = 'poison_role' and session_user <> 'poison_role'" },
    ["SET SESSION AUTHORIZATION"] = { make = by "set session authorization poison_role", seen = "session_user = 'poison_role'" },
    ["search_path"] = { make = by "set search_path to poison_schema", seen = setting("search_path", "poison_schema") },
    ["time zone"] = { make = by "set time zone 'Asia/Kathmandu'", seen = setting("TimeZone", "Asia/Kathmandu") },
    ["DateStyle"] = { make = by "set DateStyle to 'German'", seen = "current_setting('DateStyle') like 'German%'" },
    ["client_encoding"] = { make = by "set client_encoding to 'LATIN1'", seen = setting("client_encoding", "LATIN1") },
    ["default_transaction_read_only"] = { make = by "set default_transaction_read_only = on",
      seen = setting("default_transaction_read_only", "on") },
    ["session characteristics"] = { make = by "set session characteristics as transaction isolation level serializable",
      seen = setting("default_transaction_isolation", "serializable") },
    ["a temporary table"] = { make = by "create temporary table poison_temp (n int)",
      seen = "to_regclass('pg_temp.poison_temp') is not null" },
    ["a session's advisory lock"] = { make = by "select pg_advisory_lock(7, pg_backend_pid())", seen = advisory:format(7) },
    ["a transaction's advisory lock"] = { seen = advisory:format(8), make = function(on, place)
      begin(on, place)
      run(on, "select pg_advisory_xact_lock(8, pg_backend_pid())")
    end },
    ["LISTEN"] = { seen = "exists (select from pg_listening_channels() as c where c = 'poison')", make = function(on)
      run(on, "listen poison")
      run(on, "notify poison")
    end },
    ["PREPARE"] = { make = by "prepare poison_plan as select 1",
      seen = "exists (select from pg_prepared_statements where name = 'poison_plan')" },
    ["a plan of the driver's cache"] = { make = function(on) run(on, "select $1::int + 4712 as n", 1) end,
      seen = "exists (select from pg_prepared_statements where not from_sql and statement like '% + 4712 as n')" },
    ["DEALLOCATE ALL behind the driver's back"] = { make = function(on)
      run(on, "select $1::int + 4711 as n", 1)
      run(on, "deallocate all")
    end },
    ["DISCARD PLANS and RESET ALL"] = { make = function(on)
      run(on, "reset all")
      run(on, "discard plans")
    end },
    ["a cursor WITH HOLD"] = { make = by "declare poison_cursor cursor with hold for select generate_series(1, 10)",
      seen = "exists (select from pg_cursors where name = 'poison_cursor')" },
    ["rows left in the middle"] = { busy = true, make = stream "select generate_series(1, 200000) as n" },
    ["rows of a statement that writes left in the middle"] = { busy = true,
      make = stream "insert into public.poison_many select generate_series(1, 2000) returning n, repeat('x', 500)" },
    ["a statement under way"] = { busy = true, shared = true, make = function(on) under_way(on, "select pg_sleep(30)") end },
    ["a large result under way"] = { busy = true, shared = true, make = function(on)
      under_way(on, "select generate_series(1, 1000000) as n, repeat('x', 1000) as x")
    end },
    ["a script under way, in a transaction of its own"] = { busy = true, shared = true, make = function(on)
      pool.spawn(function() on:exec("begin; " .. WORK .. "; select pg_sleep(30)") end)
      pool.sleep(0)
    end },
    ["COPY TO STDOUT"] = { failed_inside = true, make = function(on) refused(on, "copy (select 1) to stdout", "0A000") end },
    ["COPY FROM STDIN"] = { failed_inside = true, make = function(on) refused(on, "copy public.poison_work from stdin", "0A000") end },
    ["COPY in a script"] = { failed_inside = true, make = function(on)
      local ok, err = on:exec("select 1; copy public.poison_work from stdin; select 2")
      if ok or err.sqlstate ~= "0A000" then error("a script with COPY: " .. tostring(err), 0) end
    end },
    ["COPY TO STDOUT under way"] = { busy = true, shared = true, make = function(on)
      under_way(on, "copy (select pg_sleep(30)) to stdout")
    end },
    ["COPY FROM STDIN under way"] = { busy = true, shared = true, make = function(on)
      under_way(on, "copy public.poison_work from stdin")
    end },
  },
}

local ENDLESS = "with recursive s(n) as (select 1 union all select n + 1 from s) select count(*) from s"

poison.sqlite = {
  sleep = ENDLESS,
  schema = "create table if not exists poison_work (n int); delete from poison_work;",
  cached = "select cast($1 as integer) + 4711 as n",
  identity = function(c) return c.id end,
  unclean = { ["a transaction's work"] = "exists (select 1 from main.poison_work where n = 1)" },
  states = {
    ["an open transaction"] = { make = function(on, place)
      begin(on, place, "begin immediate")
      run(on, "insert into poison_work values (1)")
    end },
    ["a transaction that reads"] = { make = function(on, place)
      begin(on, place)
      run(on, "select count(*) from poison_work")
    end },
    ["a savepoint inside"] = { make = function(on, place)
      begin(on, place)
      run(on, "savepoint deep")
      run(on, "insert into poison_work values (1)")
    end },
    ["pragma foreign_keys"] = { make = by "pragma foreign_keys = off", seen = "(select foreign_keys = 0 from pragma_foreign_keys)" },
    ["pragma query_only"] = { make = by "pragma query_only = on", seen = "(select query_only = 1 from pragma_query_only)" },
    ["pragma busy_timeout"] = { make = by "pragma busy_timeout = 7", seen = "(select timeout = 7 from pragma_busy_timeout)" },
    ["pragma case_sensitive_like"] = { make = by "pragma case_sensitive_like = on", seen = "not 'a' like 'A'" },
    ["pragma locking_mode"] = { make = by "pragma locking_mode = exclusive",
      seen = "(select locking_mode = 'exclusive' from pragma_locking_mode)" },
    ["a temporary table"] = { make = by "create temporary table poison_temp (n int)",
      seen = "exists (select 1 from sqlite_temp_master where name = 'poison_temp')" },
    ["temporary tables that refer to each other"] = { make = function(on)
      run(on, "create temporary table poison_parent (n int primary key)")
      run(on, "create temporary table poison_child (n int references poison_parent (n))")
      run(on, "insert into poison_parent values (5)")
      run(on, "insert into poison_child values (5)")
    end, seen = "exists (select 1 from sqlite_temp_master where name = 'poison_parent')" },
    ["a temporary trigger"] = { seen = "exists (select 1 from sqlite_temp_master where name = 'poison_trigger')",
      make = by "create temporary trigger poison_trigger after insert on main.poison_work begin select raise(abort, 'poisoned'); end" },
    ["an attached database"] = { make = by "attach ':memory:' as poison_attached",
      seen = "exists (select 1 from pragma_database_list where name = 'poison_attached')" },
    ["last_insert_rowid"] = { seen = "last_insert_rowid() = 4713", make = function(on)
      run(on, "insert into poison_work (rowid, n) values (4713, 2)")
      run(on, "delete from poison_work where rowid = 4713")
    end },
    ["rows left in the middle"] = { busy = true, make = stream(ENDLESS:gsub("count%(%*%)", "n")) },
    ["rows of a statement that writes left in the middle"] = { busy = true,
      make = stream "insert into poison_work select 2 from pragma_function_list returning n" },
    ["a statement under way"] = { busy = true, shared = true, make = function(on) under_way(on, ENDLESS) end },
    ["a script under way, in a transaction of its own"] = { busy = true, shared = true, make = function(on)
      pool.spawn(function() on:exec("begin immediate; insert into poison_work values (1); " .. ENDLESS) end)
      pool.sleep(0)
    end },
  },
}

-- ---- the ways back ----

--- Runs fn in a task until it has set `ready`; the task is then at its next wait.
local function until_ready(fn)
  local mark = {}
  local task = pool.spawn(fn, mark)
  pools.wait(function() return mark.ready or task.status == "failed" end)
  if task.status == "failed" then error(select(2, task:join()), 0) end
  return task
end

local function planned(fine, err)
  if fine then error("nothing was raised", 0) end
  if type(err) ~= "table" or not err.planned then error(err, 0) end
end

local function ended_as(kind, rows, err)
  if rows ~= nil or type(err) ~= "table" or err.kind ~= kind then error(("wanted %s, got %s"):format(kind, tostring(err or rows)), 0) end
end

local function cancelled(task)
  task:cancel()
  ended_as("cancelled", task:join(10))
end

--- A way on a lease of its own.
local function leased(fn)
  return function(world, dirty)
    local c <close> = check(world.db:acquire { timeout = 30 })
    dirty(c)
    fn(c, world)
  end
end

local function in_transaction(fn)
  return function(world, dirty)
    planned(pcall(function()
      world.db:transaction(function(tx)
        dirty(tx)
        fn(tx, world)
        error { planned = true }
      end)
    end))
  end
end

local function in_session(fn)
  return function(world, dirty)
    local s <close> = world.db:session()
    dirty(s)
    fn(s)
  end
end

poison.ways = {
  { name = "c:release", place = "alone", back = leased(function() end) },
  { name = "c:release by another task", place = "alone", back = leased(function(c) assert(pool.spawn(function()
    c:release()
    return true
  end):join(10)) end) },
  { name = "<close>", place = "alone", back = function(world, dirty)
    local c <close> = check(world.db:acquire { timeout = 30 })
    dirty(c)
  end },
  { name = "an error past a <close>", place = "alone", back = function(world, dirty)
    planned(pcall(function()
      local c <close> = check(world.db:acquire { timeout = 30 })
      dirty(c)
      error { planned = true }
    end))
  end },
  { name = "an error that ends the task", place = "alone", back = function(world, dirty)
    local _, err = pool.spawn(function()
      dirty(check(world.db:acquire { timeout = 30 }))
      error { planned = true }
    end):join(10)
    planned(false, err)
  end },
  { name = "the end of the task", place = "alone", back = function(world, dirty)
    assert(pool.spawn(function()
      dirty(check(world.db:acquire { timeout = 30 }))
      return true
    end):join(10))
  end },
  { name = "the end of pool.run by an error", place = "alone", outside = true, back = function(world, dirty)
    planned(pcall(pool.run, function()
      until_ready(function(mark)
        dirty(check(world.db:acquire { timeout = 30 }))
        mark.ready = true
        pool.sleep(60)
      end)
      error { planned = true }
    end))
  end },
  { name = "task:cancel", place = "alone", back = function(world, dirty)
    cancelled(until_ready(function(mark)
      dirty(check(world.db:acquire { timeout = 30 }))
      mark.ready = true
      pool.sleep(60)
    end))
  end },
  { name = "task:cancel amid a statement", place = "alone", runs = true, back = function(world, dirty)
    cancelled(until_ready(function(mark)
      local c = check(world.db:acquire { timeout = 30 })
      dirty(c)
      mark.ready = true
      c:query(world.sleep)
    end))
  end },
  { name = "pool.deadline amid a statement", place = "alone", runs = true, back = leased(function(c, world)
    ended_as("deadline", pool.deadline(0.003, c.query, c, world.sleep))
  end) },
  { name = "statement_timeout", place = "alone", runs = true, back = leased(function(c, world)
    check(world.db:configure { statement_timeout = 0.003 })
    local task = pool.spawn(c.query, c, world.sleep)
    pool.sleep(0)
    check(world.db:configure { statement_timeout = 0 })
    ended_as("deadline", task:join(10))
  end) },
  { name = "c:cancel", place = "alone", runs = true, back = leased(function(c, world)
    local task = pool.spawn(c.query, c, world.sleep)
    pool.sleep(0)
    check(c:cancel())
    ended_as("cancelled", task:join(10))
  end) },
  { name = "c:release amid another task's statement", place = "alone", runs = true, back = leased(function(c, world)
    local task = pool.spawn(c.query, c, world.sleep)
    pool.sleep(0)
    c:release()
    ended_as("cancelled", task:join(10))
  end) },
  { name = "the collector, detached", place = "alone", lost = true, back = function(world, dirty)
    assert(pool.spawn(function()
      local c = check(world.db:acquire { timeout = 30 })
      dirty(c)
      c:detach()
      return true
    end):join(10))
    dirty.forget()
    pools.wait(function()
      collectgarbage()
      return world.db:stats().leased == 0
    end)
  end },
  { name = "the collector, outside pool.run", place = "alone", lost = true, outside = true, back = function(world, dirty)
    local function lose() dirty(check(world.db:acquire { timeout = 30 })) end
    lose()
    dirty.forget()
    pools.wait(function()
      collectgarbage()
      return world.db:stats().leased == 0
    end)
  end },
  { name = "c:invalidate", place = "alone", other = true, back = leased(function(c) check(c:invalidate()) end) },
  { name = "db:invalidate while it is out", place = "alone", other = true, back = leased(function(_, world) world.db:invalidate() end) },
  { name = "s:close", place = "left open", back = in_session(function(s) s:close() end) },
  { name = "a session's <close>", place = "left open", back = in_session(function() end) },
  { name = "s:rollback", place = "rolled back", back = in_session(function(s) check(s:rollback()) end) },
  { name = "s:commit", place = "committed", back = in_session(function(s) check(s:commit()) end) },
  { name = "db:transaction", place = "committed", back = function(world, dirty)
    check(world.db:transaction(function(tx) dirty(tx) end))
  end },
  { name = "db:transaction by an error", place = "left open", back = in_transaction(function() end) },
  { name = "db:transaction by nil and an error", place = "left open", back = function(world, dirty)
    planned(world.db:transaction(function(tx)
      dirty(tx)
      return nil, { planned = true }
    end))
  end },
  { name = "db:transaction by pool.deadline amid a statement", place = "left open", runs = true,
    back = in_transaction(function(tx, world) ended_as("deadline", pool.deadline(0.003, tx.query, tx, world.sleep)) end) },
  { name = "db:transaction by task:cancel", place = "left open", back = function(world, dirty)
    cancelled(until_ready(function(mark)
      world.db:transaction(function(tx)
        dirty(tx)
        mark.ready = true
        pool.sleep(60)
      end)
    end))
  end },
  { name = "c:transaction by an error", place = "rolled back", back = function(world, dirty)
    local c <close> = check(world.db:acquire { timeout = 30 })
    planned(pcall(c.transaction, c, function(tx)
      dirty(tx)
      error { planned = true }
    end))
  end },
  { name = "db:close(0) while it is out", place = "alone", gone = true, back = leased(function(_, world) world.db:close(0) end) },
  { name = "db:close(0) amid a statement", place = "alone", gone = true, runs = true, back = leased(function(c, world)
    local task = pool.spawn(c.query, c, world.sleep)
    pool.sleep(0)
    world.db:close(0)
    ended_as("closed", task:join(10))
  end) },
  { name = "db:close, then c:release", place = "alone", gone = true, back = leased(function(c, world)
    local task = pool.spawn(world.db.close, world.db, 10)
    pools.wait(function() return world.db:stats().draining end)
    c:release()
    assert(task:join(10))
  end) },
}

return poison
