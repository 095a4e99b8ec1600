-- The scripted server (support/fake_postgres.lua): it is an honest one when nothing else is said, and says what it is told to.
local fake_postgres = require "support.fake_postgres"
local pg = require "support.pg"
local pool = require "pool"
local pools = require "support.pools"

local check = pools.check

local function open(f, settings)
  local wanted = { size = 1, max_overflow = 0, timeout = 5, connect_timeout = 5, pre_ping = false }
  for name, value in pairs(settings or {}) do wanted[name] = value end
  return pools.open(wanted, { through = f, user = "u", password = "p", sslmode = "disable", gssencmode = "disable" })
end

describe("the scripted server", function()
  before_each(pools.begin)
  after_each(pools.finish)

  for _, unix in ipairs { false, true } do
    it("is an honest one by default, over " .. (unix and "a Unix socket" or "TCP"), function()
      local f <close> = fake_postgres.start(nil, { unix = unix })
      local db = open(f)
      local row = check(db:query("select $1::int as a, $2 as b, 3, 'four' as d, null as e", 1, "two"))[1]
      assert.same({ a = 1, b = "two", ["?column?"] = 3, d = "four" }, row)
      assert.equal(1000, #check(db:query("select generate_series(1, 1000) as n")))
      local _, err = db:query("selec 1")
      assert.same({ "query", "42601" }, { err.kind, err.sqlstate })
      local c <close> = check(db:acquire())
      assert.equal(c.pid, check(c:query("select pg_backend_pid()"))[1].pg_backend_pid)
      check(c:begin())
      assert.is_true(c.in_transaction)
      assert.equal("query", select(2, c:query("oops")).kind)
      assert.equal("25P02", select(2, c:query("select 1")).sqlstate)
      check(c:rollback())
      assert.is_false(c.in_transaction)
      local sum = 0
      for r in c:rows("select generate_series(1, 600) as n") do sum = sum + r.n end
      assert.equal(600 * 601 // 2, sum)
    end)
  end

  it("runs a script of straight-line code, which takes its upvalues along and tells what it saw", function()
    local said = { "hello", "again" }
    local function seen(request) return request.kind .. " " .. request.parameters.user end
    local f <close> = fake_postgres.start(function(c)
      local request = c:startup()
      c:note(seen(request))
      c:greet()
      local _, body = c:read()
      c:note(select(2, pg.read_parse(body)))
      repeat until c:read() == "S"
      c:await("go")
      c:send(pg.parse_complete() .. pg.bind_complete() .. pg.row_description { { "t" } })
      for _, text in ipairs(said) do c:send(pg.data_row { text }) end
      c:send(pg.command_complete "SELECT 2" .. pg.ready "I")
      c:note(c:read())
    end)
    local db = open(f, { pooler = "none", statement_cache = 0 })
    pool.run(function()
      local task = pool.spawn(function() return check(db:query("select whatever")) end)
      pools.wait(function() return #f:notes() == 2 end)
      f:tell("go")
      local rows = task:join(5)
      assert.same({ "hello", "again" }, { rows[1].t, rows[2].t })
    end)
    db:close(0)
    pools.wait(function() return #f:notes() == 3 end)
    assert.same({ "startup u", "select whatever", "X" }, f:notes())
  end)

  it("sees a cancel as a connection of its own, which names the other", function()
    local f <close> = fake_postgres.start { cancel = function(c, request)
      c:note(("%d %d"):format(request.pid, request.key))
      c.wire.interrupt(request.pid)
    end }
    local db = open(f, { statement_timeout = 0.05 })
    local _, err = db:query("select pg_sleep(20)")
    assert.equal("deadline", err.kind)
    local c <close> = check(db:acquire())
    assert.equal(("%d %d"):format(c.pid, c.pid * 7 + 1), f:notes()[1])
    assert.equal(1, check(c:query("select 1 as one"))[1].one)
  end)

  it("changes one thing, at the place that is named", function()
    local f <close> = fake_postgres.start {
      options = { parameters = { server_version = "99.9", TimeZone = false } },
      greeting = function(_, bytes) return bytes .. pg.notice { M = "welcome" } end,
      describe = function(_, bytes, sql) return sql == "select 5 as n" and pg.row_description { { "m", 25 } } or bytes end,
      execute = function(_, bytes, sql) return sql == "select 6 as n" and pg.error_response { C = "22012", M = "no" } or bytes end,
      goodbye = function(c) c:note "gone" end,
    }
    local db = open(f)
    assert.equal("5", check(db:query("select 5 as n"))[1].m)
    assert.equal("22012", select(2, db:query("select 6 as n")).sqlstate)
    assert.equal(7, check(db:query("select 7 as n"))[1].n)
    db:close(0)
    pools.wait(function() return f:notes()[1] == "gone" end)
  end)

  it("hangs up by FIN and by RST, and sees how a client does", function()
    for _, how in ipairs { "fin", "rst" } do
      local f <close> = fake_postgres.start { execute = function(c) c:close(how) end }
      assert.equal("lost", select(2, open(f, { pooler = "none" }):query("select 1")).kind)
    end
  end)

  it("raises at the end what its script raised", function()
    local f = fake_postgres.start(function(c)
      c:startup()
      error "the script is wrong"
    end)
    assert.equal("connect", select(2, open(f, { timeout = 0.5 }):query("select 1")).kind)
    local fine, err = pcall(f.close, f)
    assert.is_false(fine)
    assert.matches("fake_postgres_spec.lua:%d+: the script is wrong", err)
  end)

  it("cannot take along what cannot be taken along", function()
    assert.is_false(pcall(fake_postgres.start, { ready = io.stdout }))
  end)
end)
