-- `pool serve` as its clients see it: real sockets, real databases.
local http = require "support.http"
local pool = require "pool"
local postgres = require "support.postgres"
local process = require "support.process"

local COMMAND = os.getenv "POOL_SPEC_COMMAND"
if not COMMAND then
  describe("pool serve", function() pending "needs a build: run it through spec/run" end)
  return
end

local TASKS, OWN = "examples/05_tasks.lua", "spec/support/app.lua"

-- A server on a free port: its process, with url and port.
local function serve(application, database_url, ...)
  local p = process.start({ COMMAND, "serve", application, "--listen", "127.0.0.1:0", "--database-url", database_url, ... })
  p.url, p.port = p:wait_line("^pool: listening on (http://127%.0%.0%.1:(%d+))$")
  return p
end

local function decoded(answer) return assert(pool.json.decode(answer.body)) end

local function drop_table() postgres.sql "drop table if exists serve_spec" end -- what OWN's start makes

local function health(server) return decoded(http.ask(server.url .. "/health")) end

local function none_leased(server)
  process.wait_until(function() return health(server).pool.leased == 0 end, 10, "every connection to come back")
end

-- What a problem must look like, whatever it is about.
local function problem(answer, status, detail)
  assert.equal(status, answer.status, answer.body)
  assert.equal("application/problem+json", answer.headers["content-type"])
  local body = decoded(answer)
  assert.equal(status, body.status)
  assert.equal(answer.headers["x-request-id"], body.request_id)
  if detail then assert.matches(detail, body.detail or "") end
  return body
end

-- ---- the tasks application, the same file on both -----------------------------------------------------------------------------

local function post_task(t, text) return http.ask(t.url, { method = "POST", body = text }) end

-- `t`: server and url, there once the specs run.
local function tasks_work(t)
  it("has no tasks at first", function()
    local answer = http.ask(t.url)
    assert.same({ 200, "[]", "application/json" }, { answer.status, answer.body, answer.headers["content-type"] })
  end)

  it("creates, shows, lists, changes and deletes", function()
    local made = post_task(t, '{"title": "buy mílk"}')
    assert.equal(201, made.status)
    local id = made.body:match '^{"id":(%d+),"title":"buy mílk","done":false}$'
    assert.equal("/tasks/" .. id, made.headers.location)
    local one = t.server.url .. made.headers.location
    assert.equal(made.body, http.ask(one).body)
    assert.equal("[" .. made.body .. "]", http.ask(t.url).body)
    local changed = http.ask(one, { method = "PUT", body = '{"title": "buy milk", "done": true}' })
    assert.same({ 200, ('{"id":%s,"title":"buy milk","done":true}'):format(id) }, { changed.status, changed.body })
    assert.equal(changed.body, http.ask(one).body)
    local gone = http.ask(one, { method = "DELETE" })
    assert.same({ 204, "" }, { gone.status, gone.body })
    problem(http.ask(one), 404, "there is no task " .. id)
  end)

  it("answers HEAD as GET without the body", function()
    local get, head = http.ask(t.url), http.ask(t.url, { method = "HEAD" })
    assert.same({ 200, "", get.headers["content-length"] }, { head.status, head.body, head.headers["content-length"] })
  end)

  it("is healthy", function()
    local answer = health(t.server)
    assert.same({ "healthy", "connected" }, { answer.status, answer.database })
    local line = "^Pool size: 2  Connections in pool: %d Current Overflow: %d Current Checked out connections: 0$"
    assert.matches(line, answer.pool_status)
    assert.same({ 2, 3 }, { answer.pool.size, answer.pool.max_overflow })
  end)

  it("takes twenty new tasks at once, each exactly once", function()
    local output = process.run([[seq 20 | xargs -P 20 -I N curl -s -o /dev/null -w '%{http_code}\n' --noproxy '*' \
      --data '{"title": "task N"}' ]] .. t.url)
    assert.equal(("201\n"):rep(20), output)
    local seen = {}
    for _, task in ipairs(decoded(http.ask(t.url))) do
      assert.is_nil(seen[task.title])
      seen[task.title] = true
      assert.equal(204, http.ask(t.url .. "/" .. task.id, { method = "DELETE" }).status)
    end
    for i = 1, 20 do assert.is_true(seen["task " .. i]) end
  end)
end

local function tasks_refuse(t)
  it("says what is wrong with a task that it refuses", function()
    problem(post_task(t, '{"title": "x"'), 400, "not JSON")
    problem(post_task(t, ""), 400, "not JSON")
    problem(post_task(t, "5"), 400, "an object")
    problem(post_task(t, "null"), 400, "an object")
    problem(post_task(t, "{}"), 400, "title is missing")
    problem(post_task(t, '{"title": 5}'), 400, "title must be text")
    problem(post_task(t, '{"title": null}'), 400, "title must be text")
    problem(post_task(t, '{"title": ""}'), 400, "not be empty")
    problem(post_task(t, '{"title": "a\\u0000b"}'), 400, "NUL")
    problem(post_task(t, '{"title": "x", "done": 1}'), 400, "done must be true or false")
    problem(http.ask(t.url .. "/1", { method = "PUT", body = "[]" }), 400, "title is missing")
    assert.equal("[]", http.ask(t.url).body)
  end)

  it("answers 404 for what is no task", function()
    for _, id in ipairs { "7777", "x", "-1", "1.5", "0x1", "9223372036854775807", "99999999999999999999" } do
      problem(http.ask(t.url .. "/" .. id), 404, "there is no task")
      problem(http.ask(t.url .. "/" .. id, { method = "DELETE" }), 404)
      problem(http.ask(t.url .. "/" .. id, { method = "PUT", body = '{"title": "x"}' }), 404)
    end
  end)

  it("answers 404 for a route that is not there, 405 for a method", function()
    problem(http.ask(t.server.url .. "/task"), 404)
    problem(http.ask(t.server.url .. "/tasks/1/2"), 404)
    local refused = http.ask(t.url, { method = "DELETE" })
    problem(refused, 405)
    assert.equal("GET, HEAD, OPTIONS, POST", refused.headers.allow)
    assert.equal("DELETE, GET, HEAD, OPTIONS, PUT", http.ask(t.url .. "/1", { method = "OPTIONS" }).headers.allow)
  end)
end

local function tasks_application(name, prepare)
  describe("the tasks application on " .. name, function()
    local t, finish = {}, nil
    setup(function()
      local database_url
      database_url, finish = prepare()
      t.server = serve(TASKS, database_url, "--size", "2", "--max-overflow", "3")
      t.url = t.server.url .. "/tasks"
    end)
    teardown(function()
      t.server:signal "TERM"
      assert.equal(0, t.server:wait())
      assert.equal("", t.server:stdout():gsub("^[^\n]*\n", ""))
      t.server:close()
      finish()
    end)
    after_each(function() none_leased(t.server) end)

    tasks_work(t)
    tasks_refuse(t)
  end)
end

tasks_application("SQLite", function()
  local dir = process.run "mktemp -d":gsub("\n$", "")
  return "sqlite:///" .. dir .. "/tasks.db", function() process.run("rm -rf " .. process.quote(dir)) end
end)

tasks_application("PostgreSQL", function()
  postgres.sql "drop table if exists task"
  return postgres.url { application_name = "serve-tasks" }, function()
    postgres.wait_gone "serve-tasks"
    postgres.sql "drop table task"
  end
end)

-- ---- one connection -----------------------------------------------------------------------------------------------------------

describe("a connection to pool serve", function()
  local server
  setup(function() server = serve(OWN, postgres.url { application_name = "serve-one" }, "--size", "1", "--max-overflow", "1") end)
  teardown(function()
    server:signal "TERM"
    assert.equal(0, server:wait())
    server:close()
    postgres.wait_gone "serve-one"
    drop_table()
  end)

  it("serves several requests", function()
    local command = "curl -s --noproxy '*' -w ' %%{num_connects}\\n' %s/double/1 %s/nothing %s/double/3 2>&1"
    local output = process.run(command:format(server.url, server.url, server.url))
    assert.matches("^2 1\n", output)
    assert.matches("6 0\n$", output)
  end)

  it("is answered in order when requests come before their answers", function()
    local function get(path, headers) return ("GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n"):format(path, headers or "") end
    local output = http.raw(server.port, get "/sleep/0.3" .. get "/double/2" .. get "/nothing" .. get("/double/4", "Connection: close\r\n"))
    local order = {}
    for status in output:gmatch "HTTP/1%.1 (%d+) " do order[#order + 1] = status end
    assert.same({ "200", "200", "404", "200" }, order)
    assert.matches("slept 0%.3HTTP/1%.1 200 .-\r\n\r\n4HTTP/1%.1 404 .-HTTP/1%.1 200 .-\r\n\r\n8$", output)
  end)

  it("is refused with 400 and closed when it does not speak HTTP", function()
    assert.matches("^HTTP/1%.1 400 ", http.raw(server.port, "what is this\r\n\r\n"))
  end)

  it("is refused by a problem that has a request id of its own, before any handler", function()
    local long = ("x"):rep(70000)
    local refused, seen = {
      [400] = "GET / HTTP/1.1\r\n\r\n", [413] = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n",
      [414] = "GET /" .. long .. " HTTP/1.1\r\n", [431] = "GET / HTTP/1.1\r\nHost: x\r\nX: " .. long .. "\r\n\r\n",
      [505] = "GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    }, {}
    for status, bytes in pairs(refused) do
      local text = http.raw(server.port, bytes)
      assert.matches(("^HTTP/1%%.1 %d "):format(status), text)
      assert.truthy(text:find("\r\ncontent-type: application/problem+json\r\n", 1, true), text)
      assert.truthy(text:find("\r\nconnection: close\r\n", 1, true), text)
      local id = text:match "\r\nx%-request%-id: (%x+)\r\n"
      local body = assert(pool.json.decode(text:match "\r\n\r\n(.*)$"))
      assert.same({ status, 16, id }, { body.status, #id, body.request_id })
      assert.is_nil(seen[id])
      seen[id] = true
    end
  end)
end)

-- ---- many at once -------------------------------------------------------------------------------------------------------------

-- Prints again and again how many connections of a name the server itself counted at most, looking every two milliseconds.
local WATCH = [[while :; do %s -c "do \$\$ declare n int; m int := 0; begin
  for i in 1..200 loop
    perform pg_stat_clear_snapshot();
    select count(*) into n from pg_stat_activity where application_name = '%s';
    m := greatest(m, n);
    perform pg_sleep(0.002);
  end loop;
  raise notice 'most %%', m; end \$\$" 2>&1; done]]

local function most_of(name)
  local c = postgres.cluster()
  return ("%s/psql -X -q -h %s -p %s -U %s -d %s"):format(c.BIN, c.DIR, c.PORT, c.USER, c.DATABASE), name
end

describe("pool serve with two connections and three more", function()
  local server
  -- The server itself would refuse a sixth: a role that may have five.
  setup(function()
    postgres.sql "drop role if exists five"
    postgres.sql "create role five login connection limit 5; grant all on schema public to five"
    server = serve(OWN, postgres.url { application_name = "serve-many", user = "five" }, "--size", "2", "--max-overflow", "3")
  end)
  teardown(function()
    server:signal "TERM"
    assert.equal(0, server:wait(20))
    server:close()
    postgres.wait_gone "serve-many"
    drop_table()
    postgres.sql "revoke all on schema public from five; drop role five"
  end)

  local function all_right(n)
    local answers, complaints = http.together(server.url .. "/double/%d", n)
    assert.equal("", complaints)
    for i = 1, n do assert.equal("200 " .. 2 * i, answers[i], "request " .. i) end
    none_leased(server)
    local now = health(server)
    assert.equal(0, now.pool.waiting)
    assert.is_true(now.pool.total <= 5 and postgres.count "serve-many" <= 5)
    assert.is_nil(postgres.log():match 'too many connections for role "five"', "a sixth connection was tried")
  end

  it("answers twenty requests at once", function() all_right(20) end)

  it("answers five hundred at once, and never opens a sixth connection", function()
    local watch <close> = process.start { "bash", "-c", WATCH:format(most_of "serve-many") }
    watch:wait_line "most %d"
    all_right(500)
    watch:wait_line "most %d"
    local most = 0
    for n in watch:stdout():gmatch "most (%d+)" do most = math.max(most, tonumber(n)) end
    assert.is_true(most >= 2 and most <= 5, "the server counted " .. most)
  end)
end)

-- ---- what goes wrong ----------------------------------------------------------------------------------------------------------

describe("a handler that fails", function()
  local server, pid
  setup(function()
    server = serve(OWN, postgres.url { application_name = "serve-fail" }, "--size", "1", "--max-overflow", "0", "--timeout", "5")
    pid = postgres.pids "serve-fail"
    assert.equal(1, #pid)
  end)
  teardown(function()
    server:signal "TERM"
    assert.equal(0, server:wait())
    server:close()
    postgres.wait_gone "serve-fail"
    drop_table()
  end)

  -- The one connection is back, clean, and still the same: nobody had to throw it away.
  local function clean()
    none_leased(server)
    local answer = http.ask(server.url .. "/count")
    assert.same({ 200, "0" }, { answer.status, answer.body }, server:stderr())
    assert.equal(0, postgres.count("serve-fail", "idle in transaction"))
    assert.same(pid, postgres.pids "serve-fail")
  end

  local function post(path) return http.ask(server.url .. path, { method = "POST" }) end

  it("inside a transaction leaves nothing behind", function()
    problem(post "/transaction-that-fails", 500)
    clean()
  end)

  it("inside the request's session leaves nothing behind", function()
    problem(post "/session-that-fails", 500)
    clean()
  end)

  it("to commit the request's session, or to give a connection back, leaves nothing behind either", function()
    assert.equal(201, post "/session-not-committed".status)
    clean()
    assert.equal(201, post "/connection-forgotten".status)
    clean()
  end)

  it("tells the log and never the client why", function()
    for path, cause in pairs { ["/raise"] = "cause%-that%-was%-raised", ["/refused"] = "cause_that_was_refused" } do
      local answer = http.ask(server.url .. path)
      local body = problem(answer, 500)
      assert.is_nil(answer.body:match "cause")
      assert.is_nil(body.detail)
      server:wait_stderr(("error: GET %s: 500: [^\n]*%s[^\n]* id=%s"):format(path, cause, body.request_id))
    end
  end)

  it("tells the client too with --dev", function()
    local dev <close> = serve(OWN, postgres.url { application_name = "serve-dev" }, "--dev")
    local body = problem(http.ask(dev.url .. "/raise"), 500)
    assert.matches("app%.lua:%d+: cause%-that%-was%-raised", body.cause)
    assert.matches("stack traceback", body.traceback)
    body = problem(http.ask(dev.url .. "/refused"), 500)
    assert.same({ "query" }, { body.kind })
    assert.matches("cause_that_was_refused", body.cause)
    dev:signal "TERM"
    assert.equal(0, dev:wait())
  end)

  it("because every connection is taken is answered 503, with when to come again", function()
    local _ <close> = http.start(server.url .. "/sleep/30")
    process.wait_until(function() return postgres.count("serve-fail", "active") == 1 end, 10, "the slow request")
    local answer = http.ask(server.url .. "/away")
    problem(answer, 503, "busy")
    assert.equal("1", answer.headers["retry-after"])
    local now = http.ask(server.url .. "/health")
    assert.same({ 200, "saturated", "connected" }, { now.status, decoded(now).status, decoded(now).database })
  end)

  it("whose client hangs up is cancelled, and its statement at the server too", function()
    none_leased(server) -- the one above
    local slow <close> = http.start(server.url .. "/sleep/60")
    process.wait_until(function() return postgres.count("serve-fail", "active") == 1 end, 10, "the slow request")
    slow:signal "KILL"
    process.wait_until(function() return postgres.count("serve-fail", "active") == 0 end, 10, "the end of the statement")
    clean()
  end)
end)

describe("pool serve while the database is down", function()
  teardown(drop_table)

  it("is unhealthy, answers 503, and recovers by itself", function()
    local server <close> = serve(OWN, postgres.url { application_name = "serve-down" }, "--size", "2", "--timeout", "0.5")
    assert.equal("healthy", health(server).status)
    postgres.stop "immediate"
    local up <close> = setmetatable({}, { __close = function() pcall(postgres.start) end })
    local now = process.wait_until(function()
      local answer = http.ask(server.url .. "/health")
      return answer.status == 503 and answer
    end, 15, "an unhealthy answer")
    assert.equal("1", now.headers["retry-after"] or "1")
    assert.same({ "unhealthy", "disconnected" }, { decoded(now).status, decoded(now).database })
    assert.matches("^%a+: the database cannot be reached$", decoded(now).error)
    problem(http.ask(server.url .. "/count"), 503, "try again")
    postgres.start()
    process.wait_until(function() return health(server).status == "healthy" end, 15, "recovery")
    assert.equal("0", http.ask(server.url .. "/count").body)
    none_leased(server)
    server:signal "TERM"
    assert.equal(0, server:wait())
    assert.is_not_nil(up)
  end)
end)

describe("SIGTERM", function()
  teardown(drop_table)

  it("lets the request under way finish, refuses new ones, and leaves no connection", function()
    for _, name in ipairs { "TERM", "INT" } do
      local server <close> = serve(OWN, postgres.url { application_name = "serve-term" })
      local slow <close> = http.start(server.url .. "/sleep/2.5")
      process.wait_until(function() return postgres.count("serve-term", "active") == 1 end, 10, "the slow request")
      server:signal(name)
      server:wait_stderr("SIG" .. name .. ": stopping")
      assert.equal(7, http.failure(server.url .. "/health"))
      assert.equal(0, slow:wait())
      assert.equal("slept 2.5", slow:stdout())
      assert.equal(0, server:wait())
      postgres.wait_gone "serve-term"
      assert.matches("SIG" .. name .. ": stopping\n.*the stop hook ran, and could query", server:stderr())
    end
  end)

  it("answers what still runs at the end of the grace 503, cancels it and says how many", function()
    local server <close> = serve(OWN, postgres.url { application_name = "serve-grace" })
    local slow <close> = process.start { "curl", "-s", "-i", "--max-time", "30", "--noproxy", "*", "-H", "X-Request-Id: mine",
      server.url .. "/sleep/60" }
    process.wait_until(function() return postgres.count("serve-grace", "active") == 1 end, 10, "the slow request")
    server:signal "TERM"
    assert.equal(0, slow:wait())
    local output = slow:stdout()
    assert.matches("^HTTP/1%.1 503 ", output)
    assert.truthy(output:find("\r\nconnection: close\r\n", 1, true), output)
    assert.truthy(output:find("\r\nx-request-id: mine\r\n", 1, true), output)
    local body = assert(pool.json.decode(output:match "\r\n\r\n(.*)$"))
    assert.same({ 503, "the server is stopping", "mine" }, { body.status, body.detail, body.request_id })
    assert.equal(0, server:wait())
    assert.matches("warn: the grace is over: 1 running request was cut off", server:stderr())
    postgres.wait_gone "serve-grace"
  end)

  it("twice stops it at once", function()
    local server <close> = serve(OWN, postgres.url { application_name = "serve-twice" })
    local slow <close> = http.start(server.url .. "/sleep/60")
    process.wait_until(function() return postgres.count("serve-twice", "active") == 1 end, 10, "the slow request")
    server:signal "TERM"
    server:wait_stderr "SIGTERM: stopping"
    server:signal "TERM"
    assert.equal(128 + 15, server:wait())
    assert.not_equal(0, slow:wait())
    postgres.terminate "serve-twice" -- nobody was left to cancel the statement
    process.wait_until(function() return postgres.count "serve-twice" == 0 end, 10, "the server to see it gone")
  end)
end)
