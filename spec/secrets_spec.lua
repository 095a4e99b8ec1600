-- Planted secrets driven through every way that something can go wrong: none is in an error, a log line, a figure or a recording.
-- What may hold values of rows, an error's `detail`, is for the program alone: it is in no text that is made of the error.
local fake_postgres = require "support.fake_postgres"
local pg = require "support.pg"
local pool = require "pool"
local planted = require "support.planted"
local pools = require "support.pools"
local postgres = require "support.postgres"
local process = require "support.process"

local check = pools.check
local PASSWORD = planted.plant "Pl@nted pa:ss/w?rd#7"
local PARAMETER, LONG = planted.plant "planted-parameter-7", planted.plant "planted-long-parameter-7 " .. ("lorem-ipsum-"):rep(200)
local QUOTED = planted.plant [[planted-"quoted"-'parameter'-7]]
local CELL, ENV = planted.plant "planted-cell-7", planted.plant "planted-env-7"
local SECRETS = { PASSWORD, PARAMETER, "planted-long-parameter", "planted-\"quoted", CELL, ENV, "hunter2" }

local function encoded(text) return (text:gsub("[^%w]", function(c) return ("%%%02X"):format(c:byte()) end)) end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

local told, real_log -- what pool logged

--- What an error says of itself wherever it goes: the log, a response, JSON. The detail is looked at apart.
local function look_at(err, what)
  local detail = err.detail
  err.detail = nil
  planted.assert_none(err, SECRETS, what)
  planted.assert_none(assert(pool.json.encode(err)), SECRETS, what)
  planted.assert_none(require("pool.problem").text(err), SECRETS, what)
  planted.assert_none(detail, { PASSWORD }, what)
  err.detail = detail
end

--- Everything that a pool says of itself, and its methods are reached through.
local function look_around(db)
  for _, method in ipairs { "stats", "status", "leases", "advise" } do planted.assert_none(db[method](db), SECRETS, "db:" .. method) end
  planted.assert_none(tostring(db), SECRETS, "a pool")
  planted.assert_none(told, SECRETS, "the log")
  planted.printed(pools.check(pool.json.encode(db:stats())))
end

local function begin()
  pools.begin()
  told, real_log = {}, pool.log
  pool.log = function(level, message, fields)
    told[#told + 1] = { level, message, fields }
    real_log(level, message, fields)
  end
end

local function finish()
  pool.log = real_log
  pools.finish()
end

-- ---- opening ------------------------------------------------------------------------------------------------------------------

-- Servers that ask for the password in the clear and say it back in every way there is: `refusing` at once, with detail and hint;
-- `telling` lets the client in, with a warning, and answers each statement with a notice and an error.
local function said_back(said, severity, state)
  return { S = severity, V = severity, C = state, M = "your password is " .. said, D = "it is " .. said, H = "is it " .. said .. "?" }
end

local function refusing(c)
  if not c:startup() then return end
  c:send(pg.authentication_cleartext())
  local _, said = c:read()
  c:send(pg.error_response(said_back(said:gsub("%z", ""), "FATAL", "28P01")))
end

local function telling(c)
  local asked = c:startup()
  if not asked or asked.kind == "cancel" then return end
  c:send(pg.authentication_cleartext())
  local _, said = c:read()
  said = said:gsub("%z", "")
  local greeting = c:greeting()
  c:send(greeting:sub(1, -7) .. pg.notice(said_back(said, "WARNING", "01000")) .. greeting:sub(-6)) -- before its ReadyForQuery
  while c:read() do
    c:send(pg.notice(said_back(said, "NOTICE", "00000")) .. pg.error_response(said_back(said, "ERROR", "P0001")) .. pg.ready "I")
  end
end

local function with_secret(options)
  options.password, options.tcp = options.password or PASSWORD, options.tcp ~= false
  return postgres.url(options)
end

--- Opens a connection and gives what came of it.
local function opened(url, settings)
  settings = settings or {}
  settings.database_url, settings.timeout, settings.connect_timeout = url, settings.timeout or 0.5, settings.connect_timeout or 0.5
  local db <close> = pool.new(settings)
  local c, err = db:acquire()
  look_around(db)
  if c then c:release() end
  return err
end

describe("no secret shows when a connection cannot be opened:", function()
  before_each(begin)
  after_each(finish)

  -- Each: what fails, its URL, and the kind of error (default connect).
  local failures = {
    { "a wrong password", function() return with_secret {} end },
    { "a role that is not there", function() return with_secret { user = "nobody" } end },
    { "a database that is not there", function() return with_secret { tcp = false, database = "nowhere" } end },
    { "nobody listens", function() return with_secret { port = 1 } end },
    { "a socket that is not there", function() return with_secret { tcp = false, host = encoded "/nowhere" } end },
    { "a name without an address", function() return with_secret { host = "nowhere.invalid" } end },
    { "TLS that the server has not", function() return with_secret { sslmode = "require" } end },
    { "certificates that cannot be read",
      function() return with_secret { sslmode = "verify-full", sslrootcert = "/nowhere", sslcert = "/nowhere" } end },
    { "a channel binding without TLS", function() return with_secret { channel_binding = "require" } end },
    { "a session of another kind",
      function() return with_secret { target_session_attrs = "standby", password = postgres.cluster().PASSWORD } end },
    { "several hosts, none of which answers",
      function() return ("postgresql://u:%s@127.0.0.1:1,127.0.0.1:2/d"):format(encoded(PASSWORD)) end },
  }
  for _, failure in ipairs(failures) do
    it(failure[1], function()
      local err = opened(failure[2]())
      assert.truthy(err and (err.kind == "connect" or err.kind == "timeout"), tostring(err))
      look_at(err, failure[1])
    end)
  end

  it("an address that never answers", function()
    local port, hole = pools.black_hole "silent"
    local _ <close> = hole
    local err = opened(with_secret { port = port }, { timeout = 0.3, connect_timeout = 0.1 })
    assert.equal("connect", err.kind)
    look_at(err, "an address that never answers")
  end)

  it("a server that says the password back, in what it refuses", function()
    local f <close> = fake_postgres.start(refusing)
    local err = opened(with_secret { through = f, sslmode = "disable" }, { timeout = 5, connect_timeout = 5 })
    assert.equal("connect", err.kind)
    assert.equal("your password is ***", err.message)
    look_at(err, "a refusal")
  end)

  it("a server that says the password back later", function()
    local f <close> = fake_postgres.start(telling)
    local err = opened(with_secret { through = f, sslmode = "disable" }, { timeout = 5, connect_timeout = 5 })
    assert.truthy(err)
    look_at(err, "a late refusal")
    for _, level in ipairs { "WARNING", "NOTICE" } do assert.matches(level .. ": your password is %*%*%*", pools.log()) end
  end)
end)

describe("no secret shows when settings are refused:", function()
  before_each(begin)
  after_each(finish)

  local refused = 0

  --- A pool that is not made says why; one that is made all the same says nothing of its secrets either.
  local function refusal(settings)
    local fine, result = pcall(pool.new, settings)
    planted.assert_none(not fine and result or tostring(result), SECRETS, "a refusal")
    if not fine then refused = refused + 1 return end
    look_around(result)
    result:close(0)
  end

  it("URLs that are none, with the password in each of their parts", function()
    local p = PASSWORD:gsub("[ #]", "")
    for _, url in ipairs {
      "postgresql://u:" .. p .. "@h:bad/d", "postgresql://u:" .. p .. "@h/d", "postgresql://u:hun%zzter2hunter2@h:1/d?x=" .. encoded(p),
      "postgresql://u:hunter2@h/d?password=" .. p, "postgresql://u@h/d?options=hunter2\0", "postgresql://u:hunter2@h/d?x=1&hunter2",
      "postgresql:/u:hunter2@h", "u:hunter2@h/d", "host=h password=hunter2", "postgresql://u:hunter2@h:99999/d",
      "postgresql://u:hunter2@h:1,h:2,h:3/d?hostaddr=127.0.0.1&port=1,2", "postgresql://u:hunter2@[::1/d", "sqlite://u:hunter2@h/d",
      "postgresql://u:hunter2@h/d?service=hunter2", "postgresql://u:hun%00ter2hunter2@h/d", "postgresql://u:hunter2@h/d?replication=1",
      "mysql://root:hunter2@h/d", "postgresql://u:hunter2@h/d?channel_binding=x", "postgresql://u:hunter2@h/d?passfile=hunter2&x=1",
    } do
      refusal(url)
      refusal { database_url = url }
    end
    assert.is_true(refused >= 34, refused .. " were refused")
  end)

  it("names, values, types and limits", function()
    for _, settings in ipairs {
      { "postgresql://u:hunter2@h/d" }, { size = "postgresql://u:hunter2@h/d" }, { queue = "postgresql://u:hunter2@h/d" },
      { ["postgresql://u:hunter2@h/d"] = "x" }, { echo = "postgresql://u:hunter2@h/d" }, { ["password=hunter2"] = 1 },
    } do refusal(settings) end
    local db = pools.open()
    for _, changes in ipairs { { reset = "postgresql://u:hunter2@h/d" }, { database_url = "postgresql://u:hunter2@h/d" } } do
      local fine, result, err = pcall(db.configure, db, changes)
      planted.assert_none({ result, err }, SECRETS, "configure")
      assert.is_true(not fine or result == nil)
    end
  end)

  it(".env and the environment, whatever is wrong there", function()
    local config, dir = require "pool.config", process.run("mktemp -d"):match "[^\n]*"
    local url = "postgresql://u:" .. ENV .. "@h:bad/d"
    for _, text in ipairs {
      "DATABASE_URL=" .. url, "DB_POOL_SIZE=" .. url, ENV, "DB_POOL_SIZE='" .. ENV, "DB_POOL_SIZE='1'" .. ENV, "DB_POOL_QUEUE=" .. url,
      "DB_POOL_LANES=" .. ENV, "DB_ECHO=" .. url, "X=" .. url .. "\nDB_POOL_SIZE=${X}", "DB_POOL_SIZEE=" .. ENV, ENV .. "=1", "A B=" .. ENV,
    } do
      write(dir .. "/.env", text .. "\n")
      local values, message = config.read(nil, { dotenv = dir .. "/.env" })
      if values then message = select(2, pcall(pool.new, values)) end
      planted.assert_none(message, SECRETS, ".env")
      local name, value = text:match "^([%u_]+)=([^\n']*)$"
      if name then
        local _, wrong = config.read(nil, { dotenv = false, environment = function(of) return of == name and value or nil end })
        if type(wrong) == "string" then planted.assert_none(wrong, SECRETS, "the environment") end
      end
    end
    process.run("rm -r " .. dir)
    planted.assert_none(told, SECRETS, "the log")
  end)
end)

-- ---- statements ---------------------------------------------------------------------------------------------------------------

local TABLE = [[drop table if exists planted; drop type if exists planted_mood; drop domain if exists planted_domain;
  create type planted_mood as enum ('good');
  create domain planted_domain as text check (length(value) < 3);
  create table planted (id int primary key, t text unique, v varchar(3), n int not null default 0, c text check (c = 'good'), j jsonb,
    r int references planted);
  insert into planted (id, t) values (1, ']] .. CELL .. [[');
  create or replace function planted_raise(x text) returns int language plpgsql as $$ begin
    raise notice 'about to refuse %', x; raise warning 'refusing "%"', x;
    raise exception 'refused %', x using detail = x; end $$;
  create or replace function planted_execute(x text) returns int language plpgsql as $$ begin execute x; return 1; end $$]]

-- The parameter goes in as $1. What is wrong with each the server says; `detail` may hold it then, the message must not.
local STATEMENTS = {
  "select $1::int", "select $1::bool", "select $1::numeric", "select $1::date", "select $1::timestamptz", "select $1::interval",
  "select $1::uuid", "select $1::inet", "select $1::json", "select $1::jsonb", "select $1::xml", "select $1::point", "select $1::int4range",
  "select $1::planted_mood", "select $1::planted_domain", "select $1::planted", "select $1::regclass", "select $1::regprocedure",
  "select $1::regtype", "select $1::bit(3)", "select $1::text::bytea", "select $1::money", "select $1::pg_lsn", "select $1::tsquery",
  "select $1::jsonpath", "select $1::macaddr", "select upper($1)::int", "select lower($1)::int", "select reverse($1)::int",
  "select substr($1, 3)::int", "select ($1 || 'x')::int", "select md5($1)::int", "select left($1, 12)::date", "select to_date($1, 'YYYY')",
  "select to_timestamp($1, 'HH24')", "select to_number($1, '9')", "select decode($1, 'hex')", "select decode($1, 'base64')",
  "select convert_to('x', $1)", "select format($1 || '%q')", "select 'a' ~ ('(' || $1)", "select 'a' like 'a' escape $1",
  "select date_trunc($1, now())", "select currval($1)", "select nextval($1)", "select pg_has_role($1, 'usage')",
  "select current_setting($1)",
  "select set_config($1, 'x', false)", "select set_config('DateStyle', $1, false)", "select set_config('timezone', $1, false)",
  "select pg_read_file($1)", "select lo_import($1)", "select pg_ls_dir($1)", "select query_to_xml($1, true, true, '')",
  "select planted_raise($1)", "select planted_execute($1)", "select planted_execute('select ''' || $1)",
  "insert into planted (id, t) values (2, $1), (3, $1)", "insert into planted (id, v) values (2, $1)",
  "insert into planted (id, c) values (2, $1)", "insert into planted (id, n, t) values (2, null, $1)",
  "insert into planted (id, r, t) values (2, 77, $1)", "update planted set n = t::int where $1 <> ''",
  "select t::date from planted where $1 <> ''",
  "select jsonb_set('{}', array[$1], null, true) -> 'a' -> $1 || $1::int", "select 1 from planted where t = $1 and nonsense",
  "select no_such_function($1)", "select $1 from nowhere", "selct $1", "select $1::nowhere", "copy planted to stdout",
  "select $2::int, $1::int",
  "select case when $1 <> '' then pg_sleep(5)::text end",
}

describe("no secret shows when a statement fails:", function()
  local db
  before_each(function()
    begin()
    db = pools.open { statement_timeout = 0.2, echo = true, size = 1 }
  end)
  after_each(function()
    look_around(db)
    finish()
  end)
  setup(function() postgres.sql(TABLE) end)
  teardown(function()
    postgres.sql "drop table planted; drop function planted_raise, planted_execute; drop type planted_mood; drop domain planted_domain"
  end)

  local parameters = { ["a text"] = PARAMETER, ["a long text"] = LONG, ["quotes in it"] = QUOTED, ["a NUL"] = PARAMETER .. "\0" }
  for name, parameter in pairs(parameters) do
    it("PostgreSQL's, each with " .. name, function()
      local failed = 0
      for _, sql in ipairs(STATEMENTS) do
        local rows, err = db:query(sql, parameter)
        failed = failed + (rows and 0 or 1)
        if err then look_at(err, sql) end
      end
      assert.is_true(failed > #STATEMENTS - 5, failed .. " of " .. #STATEMENTS .. " failed")
    end)
  end

  it("PostgreSQL's, with what is inside an array, JSON, bytes, a number", function()
    local number = 4711471147114711
    for sql, parameter in pairs {
      ["select $1::int[]"] = pool.array { PARAMETER }, ["select ($1->>'a')::int"] = pool.jsonb { a = PARAMETER },
      ["select ($1->0->>'a')::date"] = pool.jsonb { { a = LONG } }, ["select ($1::text[])[1]::uuid"] = pool.array { "x", PARAMETER },
      ["select convert_from($1, 'UTF8')::int"] = pool.bytes(PARAMETER), ["select encode($1, 'hex')::int"] = pool.bytes(PARAMETER),
      ["select encode($1, 'base64')::int"] = pool.bytes(PARAMETER), ["select convert_from($1, 'SJIS')"] = pool.bytes("\xff" .. PARAMETER),
    } do look_at(select(2, db:query(sql, parameter)), sql) end
    for sql, value in pairs { ["select $1::int2"] = number, ["select $1::text::bool"] = number + 0.0, ["select chr($1)"] = number } do
      local err = select(2, db:query(sql, value))
      assert.is_nil(tostring(err):find("4711471147114711", 1, true), tostring(err))
    end
  end)

  it("PostgreSQL's, in the middle of rows, in a transaction, as JSON, in a script, from a lease", function()
    local fine, err = pcall(function()
      for _ in db:rows("select case when i < 600 then i else ($1 || i)::int end from generate_series(1, 700) i", PARAMETER) do end
    end)
    assert.is_false(fine)
    look_at(err, "a stream")
    look_at(select(2, db:json("select $1::int", PARAMETER)), "json")
    look_at(select(2, db:transaction(function(tx) return tx:query("select $1::int", PARAMETER) end)), "a transaction")
    look_at(select(2, db:exec("do $$ begin perform '" .. PARAMETER:sub(1, 5) .. "'::int; end $$")), "a script")
    local c <close> = check(db:acquire())
    look_at(select(2, c:query("select $1::int", LONG)), "a lease")
  end)

  it("a task that nobody joins, a hook that fails, a deadline, a cancel, a lease held for long", function()
    local other = pools.open { leak_after = 0.05, size = 1, max_overflow = 0, timeout = 0.1 }
    other:on("acquire", function() error(select(2, db:query("select $1::int", PARAMETER))) end)
    pool.run(function()
      pool.spawn(function() check(db:query("select $1::int", LONG)) end)
      local c <close> = check(other:acquire())
      local busy = pool.spawn(function() return c:query("select pg_sleep(5)::text, $1", PARAMETER) end)
      look_at(select(2, other:query("select $1", PARAMETER)), "the line")
      pools.wait(function() return #other:leases() == 1 and other:leases()[1].held > 0.1 end)
      planted.assert_none(other:leases(), SECRETS, "leases")
      busy:cancel()
      local _, err = pool.deadline(0.05, function() return db:query("select pg_sleep(5)::text, $1", PARAMETER) end)
      look_at(err, "a deadline")
    end)
    look_around(other)
    assert.is_true(#told > 2)
  end)

  it("SQLite's", function()
    local lite <close> = pool.new { database_url = "sqlite:///:memory:", echo = true }
    check(lite:exec("create table planted (id integer primary key, t text unique, n integer not null, c text check (c = 'good')) strict"))
    check(lite:query("insert into planted (id, t, n) values (1, $1, 1)", CELL))
    local failed = 0
    for _, parameter in ipairs { PARAMETER, LONG, QUOTED } do
      for _, sql in ipairs {
        "insert into planted values (2, $1, 'x' || $1, null)", "insert into planted values (1, $1, 1, null)",
        "insert into planted values (2, $1, null, null)", "insert into planted values (2, 'x', 1, $1)", "select json($1)",
        "select json_extract('{}', $1)", "select json_extract('{}', '$.' || $1 || '[')", "select abs($1, 2)", "select $1 from nowhere",
        "selct $1",
        "select load_extension($1)", "attach $1 as x", "select * from pragma_table_info($1, $1, $1, $1)", "select zeroblob(1e12) || $1",
        "insert into planted (id, t, n) select 5, '" .. CELL:sub(1, 3) .. "' || substr($1, 1, 0) || t, 'a' || t from planted",
        "select json_insert('[]', '$[' || $1, 1)", "select t -> $1 from planted", "select 'x' like 'x' escape $1", "pragma encoding = $1",
      } do
        local rows, err = lite:query(sql, parameter)
        failed = failed + (rows and 0 or 1)
        if err then look_at(err, sql) end
      end
    end
    assert.is_true(failed > 40, failed .. " failed")
    look_around(lite)
  end)

  it("misuse: what raises shows at most a name or a number of what it was given", function()
    for _, fn in ipairs {
      function() db:query(42, PARAMETER) end, function() db:query("select $1", function() end, PARAMETER) end,
      function() db:query("select $1", { [PARAMETER] = PARAMETER, PARAMETER }) end, function() db:exec("select 1", PARAMETER) end,
      function() db:query("select $1", setmetatable({ PARAMETER }, { __name = "x" })) end,
      function() pool.json.encode { [{}] = PARAMETER } end,
      function() pool.json.encode { PARAMETER, a = PARAMETER } end,
      function() db:query("select $1", pool.array { PARAMETER, {} }) end,
    } do
      local fine, err = pcall(fn)
      if not fine then planted.assert_none(err, SECRETS, "misuse") end
    end
    look_at(select(2, pool.json.decode('{"a": "' .. PARAMETER .. '", ' .. PARAMETER .. "}")), "JSON")
    look_at(select(2, pool.json.decode('"' .. PARAMETER .. "\xff\"")), "JSON")
  end)
end)

-- ---- recordings, responses, the command ---------------------------------------------------------------------------------------

local APP = [==[
local http, pool = require "pool.http", require "pool"
local app = http.app()
app:get("/health", http.health)
app:get("/fail/:how", function(req)
  local secret = req.query.secret
  local how = {
    raise = function() return req.db:query("select planted_serve($1)", secret) end,
    cast = function() return assert(req.db:query("select $1::int", secret)) end,
    long = function() error(select(2, req.db:query("select repeat($1, 200)::int", secret))) end,
    unique = function() return req.db:query("insert into planted_serve values ($1), ($1)", secret) end,
    traced = function() local kept = secret; error("a mistake of length " .. #kept) end,
    leak = function() req.db:acquire():query("select $1", secret) return "leaked" end,
    session = function() return req:session():query("select upper($1)::int", secret) end,
    figures = function() return { req.db:stats(), req.db:status(), req.db:leases(), req.db:advise() } end,
  }
  return how[req.params.how]()
end)
return app
]==]

describe("no secret shows in what is served", function()
  local COMMAND = os.getenv "POOL_SPEC_COMMAND"
  if not COMMAND then return pending "needs a build: run it through spec/run" end
  local http, dir = require "support.http", nil
  local password = planted.plant(postgres.cluster().PASSWORD)
  local secrets = { password, table.unpack(SECRETS) }
  setup(function()
    dir = process.run "mktemp -d":gsub("\n", "")
    postgres.sql [[create table planted_serve (t text unique); create function planted_serve(x text) returns int language plpgsql as
      $$ begin raise warning 'refusing "%"', x; raise exception 'refused %', x using detail = x; end $$]]
  end)
  teardown(function()
    postgres.sql "drop function planted_serve; drop table planted_serve"
    process.run("rm -r " .. dir)
  end)

  for _, flags in ipairs { {}, { "--dev" } } do
    it("nor in its log, its health and its recording" .. (flags[1] and ", with " .. flags[1] or ""), function()
      write(dir .. "/app.lua", APP)
      write(dir .. "/.env", "DATABASE_URL=" .. postgres.url { tcp = true } .. "\nOTHER=" .. ENV .. "\n")
      local command = { COMMAND, "serve", "app.lua", "--listen", "127.0.0.1:0", "--echo", "--leak-after", "0.05", "--record",
        "rec" .. #flags, "--policy", "default", "--size", "2", table.unpack(flags) }
      local p <close> = process.start(command, { cwd = dir })
      local url, answers = p:wait_line "(http://127%.0%.0%.1:%d+)$", {}
      for _, how in ipairs { "raise", "cast", "long", "unique", "traced", "leak", "session", "figures" } do
        local answer = http.ask(url .. "/fail/" .. how .. "?secret=" .. PARAMETER)
        assert.is_true(answer.status == 500 or answer.status == 200, answer.body)
        answers[#answers + 1] = answer
      end
      answers[#answers + 1] = http.ask(url .. "/health")
      p:signal "TERM"
      assert.equal(0, p:wait())
      assert.matches("error: GET /fail/cast: 500: query: invalid input syntax", p:stderr())
      assert.matches("warn: WARNING: refusing", p:stderr())
      local file <close> = assert(io.open(dir .. "/rec" .. #flags))
      planted.assert_none({ answers, p:stdout(), p:stderr(), file:read "a" }, secrets, "pool serve")
    end)
  end

  it("nor in what the command says of its settings, or why it does not begin", function()
    write(dir .. "/app.lua", "error 'nothing to serve'")
    for _, arguments in ipairs {
      { "settings", "--values" }, { "serve", "app.lua" }, { "serve", "app.lua", "--size", "postgresql://u:hunter2@h/d" },
      { "serve", "app.lua", "--database-url", "postgresql://u:hunter2@h:x/d" }, { "serve", "--database-url=postgresql://u:hunter2@h/d" },
      { "run", "app.lua" }, { "serve", "nowhere.lua", "--database-url", "postgresql://u:hunter2@127.0.0.1:1/d" },
    } do
      local env = { DATABASE_URL = postgres.url { tcp = true } }
      local p <close> = process.start({ COMMAND, table.unpack(arguments) }, { cwd = dir, env = env })
      p:wait()
      planted.assert_none({ p:stdout(), p:stderr() }, secrets, table.concat(arguments, " "))
    end
  end)
end)

describe("the search for what was planted", function()
  it("finds it in every spelling, and in every place that is reachable", function()
    local secret = "planted-Example:7"
    for _, text in ipairs {
      "x planted-Example:7 y", "PLANTED-EXAMPLE:7", "planted-example%3a7", "planted-Example%3A7", "706c616e7465642d4578616d706c653a37",
      "cGxhbnRlZC1FeGFtcGxlOjc=", "eHBsYW50ZWQtRXhhbXBsZTo3", "eHhwbGFudGVkLUV4YW1wbGU6Nw==",
      "\\x706C616E7465642D4578616D706C653A37",
      "%70%6c%61%6e%74%65%64%2d%45%78%61%6d%70%6c%65%3a%37",
    } do
      assert.equal(secret, (planted.find(text, { secret })), text)
      local hidden = text
      for _, value in ipairs {
        { { a = { b = hidden } } }, { [hidden] = 1 }, setmetatable({}, { __index = { hidden } }), function() return hidden end,
        setmetatable({}, { __tostring = function() return text end }),
      } do assert.has_error(function() planted.assert_none(value, { secret }) end) end
    end
    planted.assert_none({ "planted", "example:7", 7, true, print }, { secret })
  end)

  it("in a run ends with 1 where something is there, or nothing was planted or printed", function()
    local dir = process.run "mktemp -d":gsub("\n", "")
    local function search(secrets, printed)
      write(dir .. "/planted", secrets)
      write(dir .. "/printed", printed)
      return process.run(("lua5.4 spec/support/planted.lua %s/planted %s/printed"):format(dir, dir))
    end
    local output, code = search("planted-1\nplanted-2\nplanted-1\n", "nothing\n")
    assert.same({ "2 planted secrets looked for in 8 bytes that were printed: none is there\n", 0 }, { output, code })
    output, code = search("planted-1\nplanted-2\n", ("x"):rep(1048570) .. "PLANTED-2 y\nz")
    assert.equal(1, code)
    assert.matches("the planted planted%-2 ", output)
    assert.equal(1, select(2, search("", "something")))
    assert.equal(1, select(2, search("planted-1\n", "")))
    process.run("rm -r " .. dir)
  end)
end)
