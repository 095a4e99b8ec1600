-- Every example runs, on SQLite and on PostgreSQL, and says what it is there to show.
local config = require "pool.config"
local http = require "support.http"
local pool = require "pool"
local postgres = require "support.postgres"
local process = require "support.process"

local COMMAND, BUILD = os.getenv "POOL_SPEC_COMMAND", os.getenv "POOL_SPEC_BUILD"
if not COMMAND then
  describe("the examples", function() pending "needs a build: run it through spec/run" end)
  return
end

local ROOT = process.run "pwd":gsub("\n$", "")
local EXAMPLES = ROOT .. "/examples/"

local function directory()
  local path = process.run "mktemp -d":gsub("\n$", "")
  return setmetatable({ path = path }, { __close = function() process.run("rm -rf " .. process.quote(path)) end })
end

-- What each prints, as patterns for its lines. What is run with `pool run` unless it says otherwise.
local SCRIPTS = {
  ["01_query.lua"] = { lines = {
    "^Kepler%-22b  moons unknown  rings false$", "^Mars        moons 2        rings false$", "^Saturn      moons 146      rings true$",
    '^%[{"name":"Kepler%-22b","moons":null}%]$', "^nil\tquery$",
  } },
  ["02_transaction.lua"] = { lines = {
    "^at first %s+Ada 100, Bob 20$", "^Ada has 70 left %s+Ada 70, Bob 50$", "^refused %s+Ada 70, Bob 50$",
    "^  because:\tnil\tBob has not got 1000 euros$", "^  because:\tfalse\t.*02_transaction.lua:%d+: there is nobody called Nobody$",
    "^raised %s+Ada 70, Bob 50$", "^five went through %s+Ada 75, Bob 45$",
  } },
  ["03_thousand_tasks.lua"] = { lines = {
    "^1000 tasks, 1?%d connections at most$", -- fewer where the last are served before the tenth is open; the example checks 10
    "^Pool size: 10  Connections in pool: 1?%d Current Overflow: 0 Current Checked out connections: 0$",
  } },
  ["04_session.lua"] = { lines = {
    "^connections in use before the first statement:\t0$", "^and after it:\t1$", "^notes after a commit:\t1$", "^notes after none:\t1$",
    "^false\tthe roof is on fire$", "^notes after an error:\t1$",
  } },
  ["06_nullpool.lua"] = { lines = {
    "^invocation 1 ran on connection 1$", "^invocation 2 ran on connection 2$", "^twenty at once used 2 connections at most$",
    "^connections kept:\t0$",
  } },
  ["07_embed.lua"] = { command = { "lua5.4", EXAMPLES .. "07_embed.lua" }, lines = {
    "^/about\t3\t50$", "^/home\t3\t60$", "^side by side$",
  } },
  ["08_embed.c"] = { command = { BUILD .. "/spec/example_embed" }, lines = {
    "^task: the answer is 42$", "^host: the timer went on meanwhile: yes$", "^host: done$",
  } },
  ["09_simulate.lua"] = { no_database = true, lines = {
    "^fixed +%d+ %% answered in time, wait p99 +[%d.]+ ms, +[%d.]+ connections, score %d+$",
    "^tune.lua +%d+ %% answered in time, wait p99 +[%d.]+ ms, +[%d.]+ connections, score %d+$",
    "^default +9%d %% answered in time, wait p99 +[%d.]+ ms, +[%d.]+ connections, score %d+$",
    "^tune.lua's first step: at 1 s size 5 %-> 6 %(wait p95 13 ms%)$",
  } },
  ["10_reload.lua"] = { lines = {
    "^v1 live$", "^v1 passed its probation$", "^v2 reloaded$", "^v2 size 8 %-> 6: to save money$",
    "^v2 rolled back: wait p99 is %S+ s, it was %S+ s; back to v1$", "^size\t8$",
  } },
  ["11_record.lua"] = { lines = {
    "^as it was: +%d+ of 40 timed out$", "^with  2 connections: +%d+ of 40 timed out, wait p99 +%d+ ms$",
    "^with  4 connections: +%d+ of 40 timed out, wait p99 +%d+ ms$", "^with  8 connections: +%d+ of 40 timed out, wait p99 +%d+ ms$",
  }, holds = function(output) -- the more connections, the fewer time out
    local two, four, eight = output:match "2 connections: +(%d+).-4 connections: +(%d+).-8 connections: +(%d+)"
    return tonumber(two) > tonumber(four) and tonumber(four) >= tonumber(eight)
  end },
}
local OTHERS = { ["tune.lua"] = true, ["05_tasks.lua"] = true, [".env.example"] = true, run = true } -- below, and in serve_spec.lua

local function run(name, database_url)
  local dir <close> = directory()
  local example = SCRIPTS[name]
  local p <close> = process.start(example.command or { COMMAND, "run", EXAMPLES .. name }, {
    cwd = dir.path,
    env = { DATABASE_URL = database_url, LUA_PATH = ROOT .. "/lua/?.lua;;", LUA_CPATH = BUILD .. "/lib/?.so;;" },
  })
  local code = p:wait(60)
  assert.equal(0, code, p:stderr())
  local number = 0
  for line in p:stdout():gmatch "([^\n]*)\n" do
    number = number + 1
    assert.matches(example.lines[number] or "^nothing more$", line)
  end
  assert.equal(#example.lines, number)
  if example.holds then assert.is_true(example.holds(p:stdout()), p:stdout()) end
  return p:stderr(), process.run("ls -A " .. process.quote(dir.path))
end

describe("the examples", function()
  it("are all known here", function()
    local names = {}
    for name in process.run("cd examples && { git ls-files -co --exclude-standard . 2>/dev/null || ls -A; }"):gmatch "[^\n]+" do
      names[name] = true
      local data = name:find "^tasks%.db" -- what examples/run keeps its tasks in
      assert.is_truthy(data or SCRIPTS[name] or OTHERS[name], "examples/" .. name .. " has no spec")
    end
    for name in pairs(SCRIPTS) do assert.is_true(names[name], name .. " is gone") end
    for name in pairs(OTHERS) do assert.is_true(names[name], name .. " is gone") end
  end)

  for name in pairs(SCRIPTS) do
    it(name .. " runs on SQLite, in a file of the working directory", function()
      local complaints, files = run(name, false)
      assert.equal("", complaints)
      assert.equal(SCRIPTS[name].no_database and "" or "pool.db\n", files:gsub("pool%.db%-%l+\n", ""))
    end)

    it(name .. " runs on PostgreSQL unchanged, and leaves nothing there", function()
      local tables = "select count(*) from pg_tables where schemaname = 'public'"
      local before = postgres.sql(tables)
      local complaints, files = run(name, postgres.url { application_name = "examples" })
      assert.equal("", complaints:gsub("pool: info: NOTICE: [^\n]*does not exist, skipping\n", ""))
      assert.equal("", files)
      assert.equal(before, postgres.sql(tables))
      process.wait_until(function() return postgres.count "examples" == 0 end, 10, "its connections to be gone")
    end)
  end

  it("08_embed.c is built as its first lines tell", function()
    if os.getenv "POOL_SPEC_PRELOAD" then return end -- a plain compiler's program cannot load a module under the sanitizers
    local dir <close> = directory()
    local file <close> = assert(io.open(EXAMPLES .. "08_embed.c"))
    local steps = file:read "a":match "\n%*%*   (cmake .-)\n%*%*\n"
    steps = steps:gsub("%b()\n", "\n"):gsub("\n%*%* +", "\n"):gsub("\\\n", " "):gsub("build/release", process.quote(BUILD))
    steps = steps:gsub("examples/", process.quote(EXAMPLES)):gsub("%f[%w]P%f[^%w]", dir.path .. "/P"):gsub("%./embed", dir.path .. "/embed")
    steps = steps:gsub("%-o embed", "-o " .. dir.path .. "/embed")
    local output, code = process.run(("cd %s && set -e\nexport DATABASE_URL=sqlite:///:memory:\n%s"):format(dir.path, steps) .. " 2>&1")
    assert.equal(0, code, output)
    assert.matches("task: the answer is 42\n.*host: done\n$", output)
  end)

  it(".env.example says what holds anyway, but for the database's name", function()
    local values, sources = config.read(nil, { dotenv = EXAMPLES .. ".env.example", environment = function() end })
    assert.is_table(values, sources)
    local count = 0
    for _, setting in ipairs(pool.settings()) do
      if sources[setting.name] == ".env" and setting.name ~= "database_url" then
        count = count + 1
        assert.equal(setting.default, values[setting.name], setting.name)
      end
    end
    assert.equal(8, count)
    assert.equal("sqlite:///tasks.db", values.database_url)
  end)
end)

describe("examples/run", function()
  local PRESET = BUILD:match "/build/(%w+)$"
  if not PRESET then
    pending "needs a build of a preset: run it through spec/run"
    return
  end

  local function start(options, ...)
    options.env = options.env or {}
    options.env.POOL_BUILD = PRESET
    local p = process.start({ EXAMPLES .. "run", ... }, options)
    p.url = p:wait_line("^pool: listening on (http://127%.0%.0%.1:%d+)$", 300)
    return p
  end

  it("serves the tasks application, prints lines to try that work, and ends well", function()
    local dir <close> = directory()
    local database = dir.path .. "/tasks.db"
    local p <close> = start({ cwd = dir.path, env = { DATABASE_URL = "sqlite:///" .. database } })
    p:wait_line "^Ctrl%-C stops it%.$"
    local tried = {}
    for line in p:stdout():gmatch "\n  (curl [^\n]*)" do
      tried[#tried + 1] = process.run(line:gsub("^curl", "curl --silent --noproxy '*'"))
    end
    assert.same({ "[]", '{"id":1,"title":"buy milk","done":false}' }, { tried[1], tried[2] })
    assert.matches('"status":"healthy"', tried[3])
    assert.equal(3, #tried)
    p:signal "TERM"
    assert.equal(0, p:wait(), p:stderr())
    assert.equal("tasks.db\n", (process.run("ls -A " .. dir.path)))
    local again <close> = start({ cwd = dir.path, env = { DATABASE_URL = "sqlite:///" .. database } })
    assert.matches("buy milk", http.ask(again.url .. "/tasks").body)
    again:signal "INT"
    assert.equal(0, again:wait(), again:stderr())
  end)

  it("keeps the tasks in examples/tasks.db, and says so, when nobody names a database", function()
    local dir <close> = directory()
    local there = io.open(EXAMPLES .. "tasks.db")
    if there then there:close() end
    local p <close> = start({ cwd = dir.path, env = { DATABASE_URL = false } })
    assert.equal(200, http.ask(p.url .. "/tasks").status)
    assert.truthy(p:stderr():find(("the database is the file %stasks.db\n"):format(EXAMPLES), 1, true))
    p:signal "TERM"
    assert.equal(0, p:wait(), p:stderr())
    assert.equal("", (process.run("ls -A " .. dir.path)))
    local made = assert(io.open(EXAMPLES .. "tasks.db"))
    made:close()
    if not there then os.remove(EXAMPLES .. "tasks.db") end
  end)

  it("takes the database from .env, passes flags on, and fails as the server does", function()
    local dir <close> = directory()
    local file = assert(io.open(dir.path .. "/.env", "w"))
    file:write(("# mine\nDATABASE_URL=%q\nDB_POOL_SIZE=7\n"):format(postgres.url { application_name = "examples-run" }))
    file:close()
    local p <close> = start({ cwd = dir.path, env = { DATABASE_URL = false } }, "--max-overflow", "4")
    local health = assert(pool.json.decode(http.ask(p.url .. "/health").body))
    assert.same({ 7, 4 }, { health.pool.size, health.pool.max_overflow })
    assert.is_true(postgres.count "examples-run" > 0)
    local port = p.url:match "%d+$"
    local q <close> = process.start({ EXAMPLES .. "run", "--listen", "127.0.0.1:" .. port }, { cwd = dir.path,
      env = { POOL_BUILD = PRESET, DATABASE_URL = false } })
    assert.equal(1, q:wait(300))
    assert.equal("", q:stdout())
    p:signal "TERM"
    assert.equal(0, p:wait(), p:stderr())
    postgres.sql "drop table task"
  end)
end)
