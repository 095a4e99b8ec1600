-- What a server says that is hostile, broken or mad: every call ends in a right answer or a typed error within its deadline, nothing
-- crashes, and the pool comes to rest. A right answer is what an honest server would have said: where only the server can know that
-- it lies (a wrong number in a well-formed row), nobody else can, and no case here does that.
local fake_postgres = require "support.fake_postgres"
local pg = require "support.pg"
local pool = require "pool"
local pools = require "support.pools"

local SQL = "select 7 as n"
local SETTINGS = { size = 1, max_overflow = 0, timeout = 5, connect_timeout = 5, statement_timeout = 5, pre_ping = false,
  pooler = "none", backoff_min = 5, backoff_max = 5 }
local BOUND = 4 -- seconds for a call that nothing holds

local T, D, C, Z = pg.row_description { { "n", 23 } }, pg.data_row { "7" }, pg.command_complete "SELECT 1", pg.ready "I"

--- Says it instead of the rows of our statement.
local function rows(bytes) return { execute = function(_, honest, sql) return sql == SQL and bytes or honest end } end
--- Says it instead of the description of our statement.
local function description(bytes) return { describe = function(_, honest, sql) return sql == SQL and bytes or honest end } end
--- Begins a COPY instead of the rows, undescribed: of a description before a COPY libpq loses the memory.
local function copies(said)
  return { describe = function(_, honest, sql) return sql ~= SQL and honest or nil end,
    execute = type(said) == "function" and said or function(_, honest, sql) return sql == SQL and said or honest end }
end
--- Says it at the start, and then nothing more until the client goes.
local function greeting(bytes)
  return { request = function(c)
    c:send(bytes)
    c:read()
    return false
  end }
end
--- Goes on saying it until nobody listens any more.
local function endless(first, again)
  return function(c)
    c:put(first)
    while c:send(again) do c:sleep(0.001) end
  end
end

-- name → { what changes, what the first call ends in: "right" or kinds of error }
local cases = {
  ["nothing is wrong"] = { {}, "right" },

  -- lengths
  ["a message of length 0"] = { rows("D\0\0\0\0"), "lost" },
  ["a message of length 3"] = { rows("C\0\0\0\3"), "lost" },
  ["a message of a negative length"] = { rows("D\xff\xff\xff\xf0"), "lost" },
  ["a CommandComplete of two gigabytes"] = { rows(D .. pg.message("C", "SELECT 1\0", 0x7fffffff)), "lost" },
  ["a DataRow of megabytes that never come"] = { rows(pg.message("D", "\0\1", 0x1000000)), "deadline" },
  ["a row whose message is longer than the row"] = { rows(pg.message("D", "\0\1\0\0\0\0017rest") .. C), "query lost" },
  ["a row whose cell is longer than its message"] = { rows(pg.message("D", "\0\1\0\0\1\0007") .. C), "query lost" },
  ["a ReadyForQuery without its status"] = { { ready = function() return pg.message("Z", "") end }, "connect lost deadline" },
  ["a description cut short"] = { description(pg.message("T", "\0\5name\0")), "query lost" },
  ["a description with 65535 columns announced"] = { description(pg.row_description({ { "n", 23 } }, 65535)), "query lost" },

  -- types and order
  ["an unknown message type"] = { rows(pg.message("@", "what?") .. D .. C), "query lost" },
  ["a frontend's message"] = { rows(pg.message("Q", "select 1\0") .. D .. C), "query lost" },
  ["rows without a description"] = { description(""), "query lost" },
  ["a row with too few columns"] = { rows(pg.data_row {} .. C), "query lost" },
  ["a row with too many columns"] = { rows(pg.data_row { "7", "8" } .. C), "query lost" },
  ["a row that lies about its columns"] = { rows(pg.data_row({ "7" }, 9) .. C), "query lost" },
  ["a description in the middle of the rows"] = { rows(D .. T .. D .. C), "any" },
  ["no ParseComplete and no BindComplete"] = { { complete = function() return nil end }, "any" },
  ["no CommandComplete"] = { rows(D), "lost" },
  ["no answer at all but ReadyForQuery"] = { { complete = function() end, describe = function() end, execute = function() end }, "lost" },
  ["only CommandComplete"] = { { complete = function() end, describe = function() end, execute = function() return C end }, "any cells" },
  ["CommandComplete twice"] = { rows(D .. C .. C), "any" },
  ["the whole answer twice"] = { rows(D .. C .. T .. D .. C), "any" },
  ["ReadyForQuery twice"] = { { ready = function(_, bytes) return bytes .. bytes end }, "any" },
  ["ReadyForQuery before the rows"] = { rows(Z .. D .. C), "any" },
  ["ReadyForQuery in the middle of the rows"] = { rows(D .. Z .. C), "any" },
  ["ReadyForQuery of a status that there is not"] = { { ready = function() return pg.ready "?" end }, "any" },
  ["ReadyForQuery that claims a transaction"] = { { ready = function() return pg.ready "T" end }, "right" },
  ["ReadyForQuery that claims a failed transaction"] = { { ready = function() return pg.ready "E" end }, "right" },
  ["an answer after the end"] = { { ready = function(_, bytes) return bytes .. T .. pg.data_row { "8" } .. C .. bytes end }, "any" },
  ["PortalSuspended instead of an end"] = { rows(D .. pg.portal_suspended()), "any" },
  ["EmptyQueryResponse"] = { rows(pg.empty_query()), "any cells" },
  ["a FunctionCallResponse"] = { rows(pg.function_call_response "x" .. D .. C), "query lost" },
  ["authentication once more in the middle"] = { rows(pg.authentication_ok() .. D .. C), "query lost" },
  ["another key in the middle"] = { rows(pg.backend_key(1, 1) .. D .. C), "right" },

  -- what is in it
  ["a NUL in a number"] = { rows(pg.data_row { "7\0007" } .. C), "any cells" },
  ["a number that is none"] = { rows(pg.data_row { "seven" } .. C), "any cells" },
  ["a number of a thousand digits"] = { rows(pg.data_row { ("9"):rep(1000) } .. C), "any cells" },
  ["a column without a name, of a type that there is not"] = { description(pg.row_description { { "", 4000000000, 1, -1, 7, 7 } }),
    "any cells" },
  ["a column in binary"] = { description(pg.row_description { { "n", 23, 0, 0, 4, -1, 1 } }), "any cells" },
  ["text that is no UTF-8"] = { rows(pg.data_row { "\xff\xfe\xc3" } .. C), "any cells" },
  ["hex that is none"] = { { describe = function() return pg.row_description { { "n", 17 } } end,
    execute = function() return pg.data_row { "\\xzz" } .. C end }, "any cells" },
  ["an octal that is none"] = { { describe = function() return pg.row_description { { "n", 17 } } end,
    execute = function() return pg.data_row { "\\9\\" } .. C end }, "any cells" },
  ["an array that is none"] = { { describe = function() return pg.row_description { { "n", 1007 } } end,
    execute = function() return pg.data_row { "{1,{2,\"" } .. C end }, "any cells" },
  ["an array a hundred thousand deep"] = { { describe = function() return pg.row_description { { "n", 1007 } } end,
    execute = function() return pg.data_row { ("{"):rep(100000) .. ("}"):rep(100000) } .. C end }, "any cells" },
  ["JSON that is none"] = { { describe = function() return pg.row_description { { "n", 114 } } end,
    execute = function() return pg.data_row { "{\"a\": [1, " } .. C end }, "any cells" },
  ["JSON a hundred thousand deep"] = { { describe = function() return pg.row_description { { "n", 3802 } } end,
    execute = function() return pg.data_row { ("["):rep(100000) .. ("]"):rep(100000) } .. C end }, "any cells" },
  ["a tag with a number beyond all bounds"] = { rows(D .. pg.command_complete("SELECT " .. ("9"):rep(400))), "right" },
  ["a tag without an end"] = { rows(D .. pg.message("C", "SELECT 1")), "query lost" },
  ["an empty tag"] = { rows(D .. pg.command_complete ""), "right" },

  -- errors
  ["an error without a field"] = { rows(pg.message("E", "\0")), "query" },
  ["an error without an end"] = { rows(pg.message("E", "SERROR\0Mno")), "query lost" },
  ["an error of nothing"] = { rows(pg.message("E", "")), "query lost" },
  ["an error whose SQLSTATE is a book"] = { rows(pg.error_response { C = ("X"):rep(5000), M = "\27[2J\r\n%s%n" }), "query" },
  ["an error at a place that there is not"] = { rows(pg.error_response { C = "42601", P = "-99999999999999999999" }), "query" },
  ["an error and then the rows"] = { rows(pg.error_response { C = "22012" } .. T .. D .. C), "query" },
  ["rows and then an error"] = { rows(D .. pg.error_response { C = "22012" }), "query" },
  ["a FATAL, and everything goes on"] = { rows(pg.error_response { S = "FATAL", C = "57P01" } .. D .. C), "lost" },
  ["an error of a severity that there is not"] = { rows(pg.error_response { S = "GRAVE", V = false }), "query" },
  ["an endless error text"] = { { execute = endless(pg.message("E", "SERROR\0M", 0x1000000), ("x"):rep(4096)) }, "deadline" },
  ["an endless row"] = { { execute = endless(pg.message("D", "\0\1\0\xf0\0\0", 0x1000000), ("7"):rep(4096)) }, "deadline" },

  -- COPY
  ["COPY IN in answer to a select"] = { copies(pg.copy_in()), "query lost deadline" },
  ["COPY OUT in answer to a select"] = { copies(pg.copy_out() .. pg.copy_data "7\n" .. pg.copy_done() .. pg.command_complete "COPY 1"),
    "query lost" },
  ["COPY OUT without an end"] = { copies(endless(pg.copy_out(), pg.copy_data(("7\n"):rep(500)))), "query deadline" },
  ["COPY BOTH"] = { copies(pg.copy_both()), "lost" },
  ["COPY data without a COPY"] = { rows(pg.copy_data "7\n" .. D .. C), "any" },

  -- unasked
  ["notices everywhere"] = { { greeting = function(_, b) return b .. pg.notice { M = "hi" } end,
    complete = function(_, b) return pg.notice { M = "a" } .. b .. pg.notice { M = "b" } end,
    describe = function(_, b) return pg.notice { M = "c" } .. b .. pg.notice { M = "d" } end,
    execute = function(_, b) return pg.notice { M = "e" } .. b .. pg.notice { M = "f" } end,
    ready = function(_, b) return pg.notice { M = "g" } .. b .. pg.notice { M = "h" } end }, "right" },
  ["a notice of nothing"] = { { ready = function(_, b) return pg.message("N", "\0") .. b end }, "right" },
  ["a flood of notices"] = { rows(pg.notice { M = ("n"):rep(100) }:rep(2000) .. D .. C), "right" },
  ["a notice in half a row"] = { rows(D:sub(1, 7) .. pg.notice { M = "x" } .. D:sub(8) .. C), "query lost deadline" },
  ["notifications that nobody asked for"] = { rows(pg.notification(1, "c", ("p"):rep(7000)):rep(50) .. D .. C), "right" },
  ["a flood of parameters"] = { { greeting = function(_, b)
    local flood = {}
    for i = 1, 3000 do flood[i] = pg.parameter_status("p" .. i, ("v"):rep(100)) end
    return b .. table.concat(flood)
  end, execute = function(_, b) return pg.parameter_status("p5", "again"):rep(2000) .. b end }, "right" },
  ["another encoding on the way"] = { rows(pg.parameter_status("client_encoding", "SJIS") .. D .. C), "right" },
  ["another DateStyle on the way"] = { rows(pg.parameter_status("DateStyle", "German, DMY") .. D .. C), "right" },
  ["an endless talk after the end"] = { { ready = function(c, b)
    c:put(b)
    for _ = 1, 200 do
      if not c:send(pg.notice { M = "and" }:rep(20)) then break end
    end
  end }, "any" },

  -- the start
  ["an HTTP server"] = { greeting "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "connect" },
  ["an SSH server"] = { greeting "SSH-2.0-OpenSSH_9.2\r\n", "connect" },
  ["an error of version 2, without an end"] = { { request = endless("E", ("go away "):rep(100)) }, "connect" },
  ["zeros"] = { greeting(("\0"):rep(10000)), "connect" },
  ["an authentication that there is not"] = { greeting(pg.authentication(99)), "connect" },
  ["an authentication cut short"] = { greeting(pg.message("R", "\0\0")), "connect" },
  ["MD5 without its salt"] = { greeting(pg.authentication(5)), "connect" },
  ["SASL without a mechanism"] = { greeting(pg.authentication_sasl {}), "connect" },
  ["SASL of a mechanism that there is not"] = { greeting(pg.authentication_sasl { "TELEPATHY" }), "connect" },
  ["SCRAM with nonsense in the middle"] = { { request = function(c)
    c:send(pg.authentication_sasl { "SCRAM-SHA-256" })
    c:read()
    c:send(pg.authentication_sasl_continue "r=mine,s=!!!,i=-1")
    c:read()
    return false
  end }, "connect" },
  ["SCRAM that is over before it began"] = { greeting(pg.authentication_sasl { "SCRAM-SHA-256" } .. pg.authentication_ok() .. Z),
    "connect" },
  ["a version that it wants to talk about"] = { greeting(pg.negotiate_version(0, { "_pq_.x" })), "connect" },
  ["no key"] = { { greeting = function() return pg.authentication_ok() .. Z end }, "right" },
  ["no authentication at all"] = { greeting(pg.backend_key(1, 2) .. Z), "connect" },
  ["a FATAL in the middle of the greeting"] = { greeting(pg.authentication_ok() .. pg.error_response { S = "FATAL", C = "53300" }),
    "connect" },
  ["a select's answer as greeting"] = { greeting(T .. D .. C .. Z), "connect" },
  ["a greeting that does not end"] = { { request = endless(pg.authentication_ok(), pg.parameter_status("x", "y")) }, "connect" },
  ["a query's answer before the query"] = { { greeting = function(_, b) return b .. T .. pg.data_row { "8" } .. C .. Z end }, "connect" },

  -- cancels
  ["a cancel key that is wrong"] = { { options = { pid = 1, key = 1 }, execute = function(c, b, sql)
    if sql == SQL then c:sleep(30) end
    return b
  end }, "deadline" },
}

-- In these the server says nothing more, and the cancel does not help.
local held = {}
for _, name in ipairs { "a DataRow of megabytes that never come", "a cancel key that is wrong", "an endless error text", "an endless row",
  "COPY OUT without an end", "COPY IN in answer to a select", "a ReadyForQuery without its status" } do
  held[name] = assert(cases[name])
end

-- In a pipeline libpq loses the memory of a result that a ReadyForQuery cuts short, which the sanitizers would lay at our door.
local leaky = {}
for _, name in ipairs { "ReadyForQuery before the rows", "ReadyForQuery in the middle of the rows", "no CommandComplete" } do
  leaky[name] = os.getenv "POOL_SPEC_PRELOAD" and assert(cases[name])
end

local KINDS = { right = 1, connect = 1, lost = 1, query = 1, deadline = 1, timeout = 1, cancelled = 1, json = 1 }

--- Every way to ask: rows, or what else says that it went well; or nil and the error.
local ways = {
  { "query", function(db) return db:query(SQL) end },
  { "query again", function(db) return db:query(SQL) end },
  { "json", function(db) return db:json(SQL) end },
  { "rows", function(db)
    local all = {}
    local fine, err = pcall(function()
      for row in db:rows(SQL) do all[#all + 1] = row end
    end)
    if fine then return all end
    return nil, err
  end },
  { "a script", function(db) return db:exec(SQL .. "; " .. SQL) end },
  { "a transaction", function(db) return db:transaction(function(tx) return tx:query(SQL) end) end },
}

--- One call: ended in time, in one of the kinds wanted, and if it says that it went well, then with what an honest server says.
local function judge(who, wanted, call, ...)
  local before = pool.now()
  local answer, err = call(...)
  local took, kind = pool.now() - before, "right"
  if not answer then kind = type(err) == "table" and err.kind or "untyped" end
  assert(took < BOUND, ("%s: took %.1f s"):format(who, took))
  assert(KINDS[kind], ("%s: %s"):format(who, tostring(err)))
  assert(wanted:find "any" or wanted:find(kind, 1, true), ("%s: %s instead of %s: %s"):format(who, kind, wanted, tostring(err)))
  if type(answer) == "table" and not wanted:find "cells" then assert.same({ { n = 7 } }, answer, who) end
end

local function open(f, name, settings)
  local given = { database_url = ("postgresql://u:p@127.0.0.1:%d/%s?sslmode=disable&gssencmode=disable"):format(f.port,
    name:gsub("[^%w]", "_")) }
  for _, from in ipairs { SETTINGS, settings or {} } do
    for k, v in pairs(from) do given[k] = v end
  end
  return pool.new(given)
end

local function close(db)
  local before = pool.now()
  db:close(0)
  assert.is_true(pool.now() - before < 3)
  assert.same({ 0, 0, 0 }, { db:stats().total, db:stats().leased, db:stats().waiting })
  pools.assert_balanced(db)
end

local function answered(f, name, wanted)
  local db = open(f, name, { statement_cache = leaky[name] and 0 or nil })
  for i, way in ipairs(ways) do
    -- the first is a case's own; what follows may meet a connection that has had enough
    judge(name .. ", " .. way[1], (i == 1 and wanted or "any ") .. (wanted:match "cells" or ""), way[2], db)
  end
  close(db)
end

--- All of them at once: each takes a second to be got rid of.
local function answered_by_the_deadline(f)
  pool.run(function()
    local tasks = {}
    for name, case in pairs(held) do
      tasks[#tasks + 1] = pool.spawn(function()
        local db = open(f, name, { size = 4 })
        for _, i in ipairs { 1, 4 } do -- query, rows
          judge(name .. ", " .. ways[i][1], case[2] .. " deadline", pool.deadline, 0.3, ways[i][2], db)
        end
        close(db)
        return true
      end)
    end
    for _, task in ipairs(tasks) do pools.check(task:join(20)) end
  end)
end

--- It does not come to a connection: the open fails, and who waits for it is told so.
local function not_opened(f, name)
  local db = open(f, name, { timeout = 10, connect_timeout = 0.3 })
  pool.run(function()
    local task = pool.spawn(function() return db:query(SQL) end)
    pools.wait(function() return db:stats().open_failures > 0 end, BOUND)
    close(db)
    local answer, err = task:join(BOUND)
    assert.is_nil(answer)
    assert.is_true(err.kind == "connect" or err.kind == "closed", tostring(err))
  end)
end

describe("a hostile server:", function()
  local f
  before_each(pools.begin)
  after_each(pools.finish)
  setup(function()
    local changes = {}
    for name, case in pairs(cases) do changes[(name:gsub("[^%w]", "_"))] = case[1] end
    f = fake_postgres.start(function(c) c:serve(function(request) return changes[(request.parameters or {}).database] end) end)
  end)
  teardown(function() f:close() end)

  local names = {}
  for name in pairs(cases) do names[#names + 1] = not held[name] and name or nil end
  table.sort(names)
  for _, name in ipairs(names) do
    it(name, function() (cases[name][2] == "connect" and not_opened or answered)(f, name, cases[name][2]) end)
  end

  it("one that says nothing more, and whose cancels do not help, holds nobody beyond the deadline", function()
    answered_by_the_deadline(f)
  end)

  it("a goodbye that does not end is cut short, and the loop turns meanwhile", function()
    local g <close> = fake_postgres.start { goodbye = function(c)
      while c:send(pg.notice { M = ("and "):rep(5000) }:rep(50)) do c:note "talked" end
    end }
    local db = open(g, "x")
    assert.equal(8, pools.check(db:query("select 8 as n"))[1].n)
    pool.run(function()
      local closing = pool.spawn(close, db)
      pools.wait(function() return g:notes()[1] end, BOUND)
      local turns = 0
      while closing.status ~= "done" do
        turns = turns + 1
        pool.sleep(0.01)
      end
      assert.is_true(turns > 2, turns .. " turns of the loop")
      assert.is_nil(select(2, closing:join()))
    end)
  end)

  for what, said in pairs { ["twice"] = 2, ["not at all"] = 0 } do
    it("the end of a forgotten statement told " .. what, function()
      local g <close> = fake_postgres.start { execute = function(_, b, sql)
        return sql:match "^DEALLOCATE" and b:rep(said) or b
      end }
      local db = open(g, "x", { statement_cache = 1 })
      for i = 1, 9 do
        local n = i % 3
        local answer, err = db:query("select " .. n .. " as n")
        assert.is_true(answer ~= nil or KINDS[err.kind] ~= nil, tostring(err))
        if answer then assert.same({ { n = n } }, answer) end
      end
      close(db)
    end)
  end

  it("a cancel that is answered with nonsense, and changes nothing", function()
    local g <close> = fake_postgres.start { cancel = function(c) c:send(Z .. Z) end, execute = function(c, b, sql)
      if sql == SQL then c:sleep(30) end
      return b
    end }
    local db = open(g, "x", { size = 2 })
    judge("query", "deadline", pool.deadline, 0.1, db.query, db, SQL)
    assert.equal(8, pools.check(db:query("select 8 as n"))[1].n)
    close(db)
  end)

  local ASKED = "SELECT pg_backend_pid()" -- what pool itself asks a new connection, unless `pooler` says what the server is
  local odd = {
    ["a row without columns"] = { pg.row_description {}, pg.data_row {} .. C },
    ["a row of many columns"] = { pg.row_description { { "a", 23 }, { "b", 23 } }, pg.data_row { "1", "2" } .. C },
    ["no rows"] = { pg.row_description { { "a", 23 } }, pg.command_complete "SELECT 0" },
    ["NULL"] = { pg.row_description { { "a", 23 } }, pg.data_row { false } .. C },
    ["no number"] = { pg.row_description { { "a", 25 } }, pg.data_row { "me" } .. C },
    ["a number of many digits"] = { pg.row_description { { "a", 25 } }, pg.data_row { ("9"):rep(999) } .. C },
    ["no rows at all"] = { pg.no_data(), pg.command_complete "SET" },
  }
  for what, said in pairs(odd) do
    it("the question which backend it is, answered with " .. what, function()
      local g <close> = fake_postgres.start {
        describe = function(_, b, sql) return sql == ASKED and said[1] or b end,
        execute = function(_, b, sql) return sql == ASKED and said[2] or b end,
      }
      local db = open(g, "x", { pooler = "auto" })
      judge("query", "right", db.query, db, SQL)
      close(db)
    end)
  end

  it("an answer to the wish for TLS that is none", function()
    local answers = { "X", "", "EERROR: no\0", "N" .. Z, "S" .. T .. D, "S\21\3\3\0\2\2\40", "S" .. ("\0"):rep(20000) }
    local f2 <close> = fake_postgres.start(function(c)
      c:first()
      c:send(answers[(c.serial - 1) % #answers + 1])
      c:readable(5)
    end)
    for i = 1, #answers do
      local db = pool.new { database_url = ("postgresql://u:p@127.0.0.1:%d/x?sslmode=require&gssencmode=disable"):format(f2.port), size = 1,
        max_overflow = 0, timeout = 10, connect_timeout = 0.3, backoff_min = 5, backoff_max = 5 }
      pool.run(function()
        local task = pool.spawn(function() return db:query(SQL) end)
        pools.wait(function() return db:stats().open_failures > 0 end, BOUND, "the failure of " .. i)
        close(db)
        assert.is_nil((task:join(BOUND)))
      end)
    end
  end)
end)
