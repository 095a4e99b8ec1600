-- Recordings: what a pool's requests met, in a file; read, replayed, asked for advice.

local advise = require "pool.advise"
local core = require "pool.core"
local pool = require "pool"
local process = require "support.process"
local recording = require "pool.recording"
local sim = require "pool.sim"
local testing = require "pool.testing"

local COMMAND = os.getenv "POOL_SPEC_COMMAND"

local path

local function save(text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

local function text_of(name)
  local file = assert(io.open(name, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

local HEADER = '{"pool":"recording","version":1,"run":"0a","part":1,"began":"2026-11-24T00:00:00Z","driver":"sqlite","settings":'
  .. '{"size":2,"max_overflow":0,"timeout":0.2}}\n'

-- A pool of `size` whose database takes 100 ms, recorded while fn(db) runs in virtual time; what was read of it.
local function recorded(fn, settings)
  settings = settings or { size = 2, max_overflow = 0, timeout = 1 }
  testing.run({ settings = settings, database = function() return { after = 0.1 } end }, function(db)
    local _ <close> = assert(db:record(path))
    fn(db)
  end)
  return assert(recording.read(path))
end

local function all(n, fn)
  local tasks = {}
  for i = 1, n do tasks[i] = pool.spawn(fn, i) end
  for i = 1, n do tasks[i]:join() end
end

describe("a recording", function()
  before_each(function() path = os.tmpname() os.remove(path) end)
  after_each(function() os.remove(path) os.remove(path .. ".1") end)

  it("holds when each request came, how long it waited and held, and how it ended", function()
    local is = recorded(function(db)
      all(4, function() return db:query "select 1" end)
      local _ <close> = assert(db:acquire())
      pool.sleep(0.25)
    end)
    local r = is.requests
    assert.equal(5, #r.at)
    assert.same({ "granted", "granted", "granted", "granted", "granted" }, r.outcome)
    assert.near(0, r.waited[1], 1e-3)
    assert.near(0.1, r.waited[3], 1e-3)
    assert.near(0.1, r.held[4], 1e-3)
    assert.near(0.25, r.held[5], 1e-3)
    assert.near(0.2, r.at[5] - r.at[1], 1e-3)
    assert.is_true(is.whole)
    assert.equal("scripted", is.driver)
    assert.equal(2, is.settings.size)
    assert.equal(5, is.stats.grants)
  end)

  it("holds those who got nothing: timed out, turned away, gone before their turn", function()
    local is = recorded(function(db)
      local _ <close> = assert(db:acquire())
      local _ <close> = assert(db:acquire())
      local gone = pool.spawn(function() return db:query "select 1" end)
      local late = pool.spawn(function() return db:query "select 1" end)
      pool.sleep(0.1)
      gone:cancel()
      pool.sleep(0)
      local third = pool.spawn(function() return db:query "select 1" end)
      pool.sleep(0)
      assert.equal("overloaded", select(2, db:query "select 1").kind)
      late:join()
      third:cancel()
    end, { size = 2, max_overflow = 0, timeout = 0.5, max_waiting = 2 })
    local counts = {}
    for _, outcome in ipairs(is.requests.outcome) do counts[outcome] = (counts[outcome] or 0) + 1 end
    assert.same({ granted = 2, cancelled = 2, timeout = 1, overloaded = 1 }, counts)
  end)

  it("tells keys apart without naming them, and keeps priorities; nothing in it is SQL, a parameter or where the database is", function()
    local is = recorded(function(db)
      for _, name in ipairs { "acme-tenant", "acme-tenant", "other-tenant" } do
        assert(db:with { key = name, priority = 8 }:query("select secretword from t where x = $1", "hunter2"))
      end
      assert(db:query "select 1")
    end, { database_url = "sqlite:///secretfile.db", size = 2, max_overflow = 0 })
    assert.same({ 1, 1, 2, 0 }, is.requests.key)
    assert.same({ 8, 8, 8, 5 }, is.requests.priority)
    assert.equal(2, is.keys)
    local text = text_of(path)
    for _, word in ipairs { "tenant", "secretword", "hunter2", "secretfile", "select" } do assert.is_nil(text:find(word, 1, true), word) end
  end)

  it("is one a pool at a time, goes on until closed, and takes the requests of the pool's views too", function()
    local db <close> = pool.new "sqlite:///:memory:"
    local first = assert(db:record(path))
    assert.has_error(function() db:record(path .. "x") end)
    assert(db:with({ timeout = 1 }):query "select 1")
    assert.equal(1, first:status().requests)
    first:close()
    first:close()
    assert(db:query "select 1")
    assert.same({ path = path, requests = 1, closed = true }, first:status())
    local second <close> = assert(db:record(path))
    assert.equal(0, second:status().requests)
    assert.equal(1, #recording.read(path .. ".1").requests.at)
    local _, err = pool.new("sqlite:///:memory:"):record "/etc/hostname"
    assert.equal("settings", err.kind)
    assert.matches("/etc/hostname is there and is no recording", err.message)
    for _, wrong in ipairs { 5, "", false } do assert.has_error(function() db:record(wrong) end) end
  end)

  it("survives its pool: closed first, dropped, or never closed", function()
    local db = pool.new "sqlite:///:memory:"
    local made = assert(db:record(path))
    assert(db:query "select 1")
    db:close()
    made:close()
    assert.equal(1, #recording.read(path).requests.at)
    do
      local dropped = pool.new "sqlite:///:memory:"
      assert(dropped:record(path))
      assert(dropped:query "select 1")
    end
    for _ = 1, 3 do collectgarbage() end
    assert.equal(1, #recording.read(path).requests.at)
  end)

  it("is not ended by the collection of one that was dropped before it", function()
    testing.run({ settings = { size = 1 }, database = function() return {} end }, function(db)
      assert(core.recorder(db, path .. ".other", 1000000, "{}\n")) -- as where memory ends before db:record has it in hand
      local later <close> = assert(db:record(path))
      collectgarbage()
      assert(db:query "select 1")
      assert.equal(1, later:status().requests)
    end)
    os.remove(path .. ".other")
  end)

  it("may be read while it is written, cut in the middle of a line, and joined with its older part", function()
    save(HEADER .. "r 2000000 0 100000 g\nr 1000000 5 2000")
    local is = assert(recording.read(path))
    assert.same({ 2.0 }, is.requests.at)
    assert.near(0.1, is.seconds, 1e-9)
    assert.equal(0, os.execute(("mv %s %s.1"):format(path, path)) and 0)
    save((HEADER:gsub('"part":1', '"part":2')) .. "r 1500000 0 100000 g\n")
    is = assert(recording.read(path))
    assert.same({ { 1.5, 2.0 }, true }, { is.requests.at, is.whole })
    save((HEADER:gsub('"part":1', '"part":3')) .. "r 1500000 0 100000 g\n")
    is = assert(recording.read(path))
    assert.same({ { 1.5 }, false }, { is.requests.at, is.whole })
  end)

  it("that is damaged is refused, naming file and line", function()
    local wrong = {
      { "", "no recording" }, { "return {}\n", "no recording" }, { HEADER:gsub('"version":1', '"version":2'), "version 2" },
      { '{"pool":"recording",\n', "damaged" }, { '{"pool":"recording","version":1}\n', "damaged" },
      { HEADER .. "r 1 2 g\n", ":2: not a request" }, { HEADER .. "r 1 2 3 g\nr 1 2 3 z\n", ":3: not a request" },
      { HEADER .. "r 1 2 3 g key\n", ":2: not a key" }, { HEADER .. "s 1.0 {\n", ":2: figures that are no JSON" },
      { HEADER .. "r -1 2 3 g\n", ":2: not a request" },
      { HEADER:gsub('"part":1', '"part":"1"'), "damaged: part" }, { HEADER:gsub('"began":"[^"]*"', '"began":{}'), "damaged: began" },
      { HEADER:gsub('"size":2', '"size":"many"'), "damaged: size" },
      { HEADER .. "s 1 null\n", ":2: figures that are no pool's: a table" }, { HEADER .. "s 1 false\n", ":2: figures that are no pool's" },
      { HEADER .. "s 1 3\n", ":2: figures that are no pool's" }, { HEADER .. 's 1 {"size":-1}\n', ":2: figures that are no pool's: size" },
    }
    for _, case in ipairs(wrong) do
      save(case[1])
      local is, message = recording.read(path)
      assert.is_nil(is)
      assert.truthy(message:find(case[2], 1, true), message)
    end
    assert.is_nil((recording.read "/nowhere/at/all"))
  end)
end)

describe("the replay of a recording", function()
  before_each(function() path = os.tmpname() os.remove(path) end)
  after_each(function() os.remove(path) os.remove(path .. ".1") end)

  it("meets what was met: the same grants, the same waits, the same time-outs", function()
    local is = recorded(function(db)
      for _ = 1, 30 do
        all(3, function() return db:query "select 1" end)
        pool.sleep(0.03)
      end
      all(30, function() return db:query "select 1" end)
    end)
    local counts = {}
    for _, outcome in ipairs(is.requests.outcome) do counts[outcome] = (counts[outcome] or 0) + 1 end
    local result = assert(sim.run { workload = path, score = false })
    assert.equal(#is.requests.at, result.offered)
    assert.equal(counts.granted, result.served)
    assert.equal(counts.timeout, result.timeouts)
    assert.is_true(counts.timeout > 5)
    assert.near(is.stats.wait.mean, result.wait.mean, 0.02 * is.stats.wait.mean)
  end)

  it("begins with the recorded settings, which others may replace; and is scored against one that knows it", function()
    save(HEADER .. ("r 0 0 100000 g\n"):rep(20))
    local as_was = assert(sim.run { workload = path })
    local larger = assert(sim.run { workload = path, settings = { size = 20 } })
    assert.equal(4, as_was.served)
    assert.equal(20, larger.served)
    assert.is_nil(as_was.score)
    local source = { arrival = { kind = "trace", path = path }, deadline = 1 }
    local scored = assert(sim.run { workload = source, settings = { size = 20, max_overflow = 0 }, duration = 1 })
    assert.is_true(scored.score > 80, scored.score)
  end)

  it("gives who got nothing the hold of the one before, and keeps keys and priorities", function()
    save(HEADER .. "r 0 0 100000 g\nr 1000 200000 0 t\nr 2000 0 300000 g - 9\nr 3000 5 0 c 9f 0\nr 4000 5 0 c ab 1\n")
    local trace = assert(recording.trace(path))
    assert.same({ 0.1, 0.1, 0.3, 0.3, 0.3 }, trace.service)
    assert.same({ 0, 0, 0, 1, 2 }, trace.key)
    assert.same({ 5, 5, 9, 0, 1 }, trace.priority)
    save(HEADER .. "r 1000 200000 0 t\n")
    local none, message = recording.trace(path)
    assert.is_nil(none)
    assert.matches("nothing to replay", message)
  end)

  it("refuses a path beside arrays, and arrays that make no sense", function()
    local function run(arrival) return pcall(sim.run, { workload = { arrival = arrival } }) end
    save(HEADER)
    for _, case in ipairs {
      { { kind = "trace", path = path, at = {} }, "do not go together" }, { { kind = "trace", path = 5 }, "a file's name" },
      { { kind = "trace", path = "/nowhere" }, "/nowhere" }, { { kind = "trace", path = path }, "nothing to replay" },
      { { kind = "trace", at = { 1 }, service = { 1 }, priority = { 10 } }, "priority[1]" },
      { { kind = "trace", at = { 1 }, service = { 1 }, key = 5 }, "key" }, { { kind = "trace" }, "path, a recording's" },
    } do
      local fine, err = run(case[1])
      assert.is_false(fine)
      assert.truthy(tostring(err):find(case[2], 1, true), tostring(err))
    end
  end)
end)

describe("advice from a recording", function()
  before_each(function() path = os.tmpname() os.remove(path) end)
  after_each(function() os.remove(path) os.remove(path .. ".1") end)

  it("replays the change that it suggests, and looks for a size that is enough", function()
    recorded(function(db)
      for _ = 1, 20 do
        all(8, function() return db:query "select 1" end)
      end
    end, { size = 2, max_overflow = 0, timeout = 0.15 })
    local found = assert(advise.from(path))
    local advice = found.advice[1]
    assert.equal("callers time out", advice.symptom)
    assert.same({ size = 3 }, advice.settings)
    assert.equal(found.counts.timeout, advice.before.failed)
    assert.is_true(advice.after.failed < advice.before.failed and advice.after.failed > 0)
    assert.equal(4, advice.enough)
    assert.equal(0, advice.at_enough.failed)
  end)

  --- The recorded file with its figures changed.
  local function with_figures(pattern, replacement)
    local text, count = text_of(path):gsub("\ns [^\n]*", function(line) return (line:gsub(pattern, replacement)) end)
    assert.is_true(count > 0)
    save(text)
  end

  it("tries a size that size_limit has no room for, and skips one that no limit has", function()
    recorded(function(db) all(8, function() return db:query "select 1" end) end, { size = 2, max_overflow = 0, timeout = 0.15 })
    with_figures('"shed":0,"size":2,', '"shed":0,"size":900,')
    local advice = assert(advise.from(path)).advice[1]
    assert.same({ size = 1350 }, advice.settings)
    assert.equal(0, advice.after.failed)
    with_figures('"size":900,', '"size":90000,')
    advice = assert(advise.from(path)).advice[1]
    assert.same({ size = 135000 }, advice.settings)
    assert.is_nil(advice.after)
  end)

  it("fills in settings that the figures lack", function()
    recorded(function(db) all(8, function() return db:query "select 1" end) end, { size = 2, max_overflow = 0, timeout = 0.15 })
    with_figures(',"timeout":[%d.]+', "")
    assert.matches("within 30 s", assert(advise.from(path)).advice[1].evidence)
  end)

  it("needs figures", function()
    save(HEADER .. "r 0 0 100000 g\n")
    local found, message = advise.from(path)
    assert.is_nil(found)
    assert.matches("no figures yet", message)
  end)
end)

if not COMMAND then return end

describe("pool serve --record", function()
  it("records a server; pool advise and pool simulate read it", function()
    local name <const> = os.tmpname()
    os.remove(name)
    local p = process.start { COMMAND, "serve", "spec/support/app.lua", "--listen", "127.0.0.1:0", "--database-url", "sqlite:///:memory:",
      "--record", name }
    local url = p:wait_line "^pool: listening on (http://127%.0%.0%.1:%d+)$"
    p:wait_stderr("recording to " .. name:gsub("%p", "%%%0") .. ", at most 67108864 bytes")
    for _ = 1, 5 do require("support.http").ask(url .. "/health") end
    p:signal "TERM"
    assert.equal(0, p:wait(10))
    p:close()
    local text, code = process.run(COMMAND .. " advise " .. name)
    assert.equal(0, code)
    assert.matches("^" .. name:gsub("%p", "%%%0") .. ": %d+ requests in [%d.]+ s from 20%d%d%-", text)
    text, code = process.run(COMMAND .. " advise --json " .. name)
    assert.equal(0, code)
    assert.is_table(pool.json.decode(text).advice)
    text, code = process.run(COMMAND .. " advise /etc/hostname 2>&1")
    assert.same({ "pool: advise: /etc/hostname is no recording: one begins with {\"pool\":\"recording\",\n", 1 }, { text, code })
    assert.equal(2, select(2, process.run(COMMAND .. " advise 2>&1")))
    text, code = process.run(COMMAND .. " serve spec/support/app.lua --listen 127.0.0.1:0 --record /etc/hostname 2>&1")
    assert.equal(1, code)
    assert.matches("is no recording", text)
    os.remove(name)
  end)
end)
