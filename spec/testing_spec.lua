-- pool.testing: handlers and tasks against virtual time and a database that is a function.

local http = require "pool.http"
local pool = require "pool"
local testing = require "pool.testing"

local function answering(answer, settings) return { database = function() return answer end, settings = settings } end

describe("pool.testing.run", function()
  it("gives rows as a database would: columns in order, NULL, JSON, integers and reals exact", function()
    testing.run(answering { columns = { "n", "title", "tags", "ratio", "done" },
      rows = { { n = 9007199254740993, tags = { "a" }, ratio = 2.0, done = false } } }, function(db)
      local rows = assert(db:query "select")
      assert.equal(9007199254740993, rows[1].n)
      assert.is_nil(rows[1].title)
      assert.equal("float", math.type(rows[1].ratio))
      assert.equal('[{"n":9007199254740993,"title":null,"tags":["a"],"ratio":2.0,"done":false}]', db:json "select")
    end)
  end)

  it("refuses pools of another time, which would wait for ever", function()
    local real <close> = pool.new "sqlite:///:memory:"
    local inner
    testing.run({}, function(db)
      inner = db
      assert.error_matches(function() real:query "select 1" end, "belongs to another time")
      assert.error_matches(function() real:acquire() end, "belongs to another time")
      assert(db:query "select 1")
    end)
    assert(real:query "select 1")
    assert.is_false((pcall(inner.query, inner, "select 1")))
  end)

  it("hands the statement and its parameters to the function", function()
    local seen
    testing.run({ database = function(...)
      seen = table.pack(...)
      return {}
    end }, function(db) assert(db:query("select $1, $2, $3, $4", 7, "x", nil, true)) end)
    assert.same({ n = 5, "select $1, $2, $3, $4", 7, "x", pool.null, true }, seen)
  end)

  it("lets virtual time pass only when everybody waits: a day takes no time", function()
    local began = os.clock()
    local slept = testing.run({}, function()
      local start = pool.now()
      pool.sleep(86000)
      return pool.now() - start
    end)
    assert.equal(86000, slept)
    assert.is_true(os.clock() - began < 5)
  end)

  it("runs the pool's own time-out in virtual time", function()
    testing.run(answering({ after = 60 }, { size = 1, max_overflow = 0, timeout = 2 }), function(db)
      local holder = pool.spawn(db.query, db, "select pg_sleep(60)")
      pool.sleep(0)
      local start = pool.now()
      local rows, err = db:query "select 1"
      assert.is_nil(rows)
      assert.equal("timeout", err.kind)
      assert.equal(2, pool.now() - start)
      assert(holder:join())
      assert.equal(60, math.floor(pool.now() - start))
    end)
  end)

  it("fails a statement as the server would, with its SQLSTATE", function()
    testing.run(answering { error = { message = "duplicate key", sqlstate = "23505", constraint = "task_title" } }, function(db)
      local _, err = db:query "insert"
      assert.same({ "query", "23505", "task_title", "duplicate key" }, { err.kind, err.sqlstate, err.constraint, err.message })
    end)
  end)

  it("kills a connection, and the next statement finds another", function()
    local calls = 0
    testing.run({ database = function()
      calls = calls + 1
      return calls == 1 and { lost = true } or { { n = calls } }
    end }, function(db)
      local _, err = db:query "select 1"
      assert.equal("lost", err.kind)
      assert.equal(2, assert(db:query "select 1")[1].n)
      assert.equal(2, db:stats().opens)
    end)
  end)

  it("refuses opens, and the pool backs off until one succeeds", function()
    local opens = {}
    testing.run({ connect = function(n)
      opens[n] = pool.now()
      return n < 4 and { error = { message = "refused" }, after = 0.001 } or {}
    end }, function(db)
      assert(db:query "select 1")
      assert.equal(4, #opens)
      assert.equal(3, db:stats().open_failures)
    end)
    assert.is_true(opens[3] - opens[2] >= 0.025 and opens[4] - opens[3] >= 0.05)
  end)

  it("cancels what runs into statement_timeout", function()
    testing.run(answering({ after = 10 }, { statement_timeout = 1 }), function(db)
      local _, err = db:query "select pg_sleep(10)"
      assert.equal("deadline", err.kind)
    end)
  end)

  it("keeps transactions: a failed one answers COMMIT with ROLLBACK", function()
    testing.run({ database = { ["bad"] = "no such table", ["good"] = { { n = 1 } } } }, function(db)
      assert.equal(1, assert(db:transaction(function(tx) return assert(tx:query "good")[1].n end)))
      local done, err = db:transaction(function(tx)
        tx:query "bad"
        return true
      end)
      assert.is_nil(done)
      assert.equal("query", err.kind)
      assert.equal(0, db:stats().leased)
    end)
  end)

  it("answers what still waits after its limit with kind deadline", function()
    testing.run({ limit = 5, database = function() return { after = 1e6 } end }, function(db)
      local _, err = db:query "select 1"
      assert.equal("deadline", err.kind)
    end)
  end)

  it("raises what the function raised, whatever the code made of the error", function()
    assert.has_error(function()
      testing.run({ database = {} }, function(db) db:query "select 5" end)
    end, "the scripted database has no answer for: select 5")
    assert.has_error(function()
      testing.run({ database = function() return { row = {} } end }, function(db) db:query "select 5" end)
    end, "a script's answer has no field row")
  end)

  it("raises what the test raised, and leaves the usual time behind it", function()
    local fine, err = pcall(testing.run, {}, function() error { oops = true } end)
    assert.is_false(fine)
    assert.is_true(err.oops)
    local start = pool.now()
    pool.sleep(0.001)
    assert.is_true(pool.now() - start < 60)
  end)

  it("is deterministic: two runs are the same, jitter and all", function()
    local function run()
      local times = {}
      testing.run({ connect = function(n)
        times[n] = pool.now()
        return n < 8 and { error = "refused" } or {}
      end }, function(db) assert(db:query "select 1") end)
      for n = #times, 1, -1 do times[n] = math.floor((times[n] - times[1]) * 1e6 + 0.5) end
      return times
    end
    assert.same(run(), run())
  end)

  it("names what is wrong with its arguments", function()
    assert.error_matches(function() testing.run({ databse = {} }, print) end, "databse.*database")
    assert.error_matches(function() testing.run({ database = 5 }, print) end, "not a number")
    assert.error_matches(function() testing.run({}, 5) end, "a function is wanted")
    assert.error_matches(function()
      testing.run({}, function() testing.run({}, print) end)
    end, "virtual time")
  end)
end)

describe("pool.testing.request", function()
  local app = http.app()
  app:get("/tasks/:id", function(req) return req.db:query("select", req.params.id, req.query.full) end)
  app:post("/tasks", function(req)
    local s <close> = req:session()
    local rows = assert(s:query("insert", req:json().title))
    assert(s:commit())
    return 201, rows[1], { location = "/tasks/1" }
  end)
  app:get("/stream", function()
    return http.stream(function(write)
      write "one "
      write "two"
    end, "text/plain")
  end)

  it("answers with a handler: status, headers, body", function()
    testing.run({ database = function(_, first, second) return { { first = first, second = second } } end }, function(db)
      local answer = testing.request(app, db, "GET", "/tasks/4?full=yes")
      assert.same({ 200, { { first = "4", second = "yes" } } }, { answer.status, answer:json() })
      answer = testing.request(app, db, "POST", "/tasks", { json = { title = "write specs" } })
      assert.same({ 201, "/tasks/1", "write specs" }, { answer.status, answer.headers.location, answer:json().first })
      assert.equal("one two", testing.request(app, db, "GET", "/stream").body)
      assert.equal(404, testing.request(app, db, "GET", "/nowhere").status)
      assert.equal(400, testing.request(app, db, "POST", "/tasks", { body = "{" }).status)
    end)
  end)

  it("makes a time-out a 503 with Retry-After, and logs its cause", function()
    local log, lines = pool.log, {}
    finally(function() pool.log = log end)
    pool.log = function(_, message) lines[#lines + 1] = message end
    testing.run(answering({ after = 60 }, { size = 1, max_overflow = 0, timeout = 2 }), function(db)
      pool.spawn(db.query, db, "select pg_sleep(60)")
      pool.sleep(0)
      local answer = testing.request(app, db, "GET", "/tasks/4")
      assert.equal(503, answer.status)
      assert.truthy(answer.headers["retry-after"])
      assert.matches("timed out after 2.0 s", lines[1])
    end)
  end)
end)

describe("pool.testing.policy", function()
  local path

  local function save(text)
    local file = assert(io.open(path, "w"))
    file:write(text)
    file:close()
    return path
  end

  before_each(function() path = os.tmpname() .. ".lua" end)
  after_each(function()
    os.remove(path)
    os.remove((path:gsub("%.lua$", "")))
  end)

  it("runs a tick with the figures given, and tells what comes of it: limits and steps included", function()
    local p <close> = testing.policy("examples/tune.lua", { settings = { size = 8 }, limits = { size = { 2, 11 } } })
    local changes, reason = p:tick { waiting = 3, wait = { p95 = 0.05 } }
    assert.same({ { size = 10 }, "wait p95 50 ms" }, { changes, reason })
    assert.same({ size = 11 }, (p:tick { wait = { p95 = 0.05 } }))
    assert.is_nil((p:tick { wait = { p95 = 0.05 } }))
    assert.equal(11, p.settings.size)
    for _ = 1, 60 do assert.is_nil((p:tick())) end
    assert.same({ size = 10 }, (p:tick()))
    assert.equal(64, p.now)
  end)

  it("fills in what follows from what is given", function()
    save [[return { tick = function(s)
      return nil, ("%d %d %d %g %g %d %g"):format(s.size, s.limit, s.total, s.utilization, s.leased_mean, s.idle, s.interval)
    end, every = 2 }]]
    local p <close> = testing.policy(path, { settings = { size = 4, max_overflow = 4 } })
    assert.equal("4 8 6 0.75 6 0 2", (select(2, p:tick { leased = 6 })))
    assert.equal("4 8 4 0 0 4 2", (select(2, p:tick())))
  end)

  it("asks the other hooks, carries state over a reload, and passes parameters", function()
    save [[local given = ... return {
      tick = function(s, state) state.n = (state.n or 0) + (given.by or 1) return nil, tostring(state.n) end,
      admit = function(s, r) return s.waiting < 5 or r.priority > 7 end, weight = function(key) return key == "gold" and 4 or 1 end,
      on_event = function(e) if e.kind == "lost" then error "lost" end end }]]
    local p <close> = testing.policy { policy = path, by = 5 }
    assert.equal("5", (select(2, p:tick())))
    assert.same({ true, false, true }, { p:admit(), p:admit { waiting = 5 }, p:admit({ waiting = 5 }, { priority = 8 }) })
    assert.same({ 4, 1 }, { p:weight "gold", p:weight "lead" })
    p:event "timeout"
    assert.error_matches(function() p:event "lost" end, "lost")
    p:reload(path)
    assert.equal("6", (select(2, p:tick())))
    save "return {"
    assert.has_error(function() p:reload(path) end)
    assert.equal("7", (select(2, p:tick())))
  end)

  it("raises what is wrong: a policy that fails, a proposal that is refused, figures and options that do not exist", function()
    save "return { tick = function(s) if s.waiting > 1 then error 'too many' end return { size = -5 } end }"
    local p <close> = testing.policy(path)
    assert.error_matches(function() p:tick { waiting = 2 } end, "too many")
    assert.error_matches(function() p:tick() end, "size: %-5 is out of range")
    assert.error_matches(function() p:tick { waitng = 2 } end, "no figure waitng")
    assert.error_matches(function() p:tick { waiting = -2 } end, "waiting is not a whole number")
    assert.error_matches(function() testing.policy "nope" end, "there is no policy nope")
    assert.error_matches(function() testing.policy("fixed", { sed = 1 }) end, "no option sed")
  end)
end)
