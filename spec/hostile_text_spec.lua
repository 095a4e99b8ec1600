-- What a hostile server puts into texts, found by fuzzing (spec/fuzz): errors, notices, cells; and what it says to an idle connection, or
-- does not say to one that opens.
local fake_postgres = require "support.fake_postgres"
local pg = require "support.pg"
local pool = require "pool"
local pools = require "support.pools"

local SQL = "select 7 as n"

--- Calls fn(db) with a pool of one connection to a server that says `bytes` instead of the rows of our statement, and `describe` instead
--- of their description.
local function with(bytes, describe, fn)
  local f <close> = fake_postgres.start { execute = function(_, honest, sql) return sql == SQL and bytes or honest end,
    describe = function(_, honest, sql) return sql == SQL and describe or honest end }
  local db = pools.open({ size = 1, max_overflow = 0, pre_ping = false, pooler = "none" }, { through = f, sslmode = "disable" })
  fn(db)
  db:close(0)
end

local function error_of(fields)
  local answer, err
  with(pg.error_response(fields), nil, function(db) answer, err = db:query(SQL) end)
  assert.is_nil(answer)
  return err
end

--- The one cell, of this type and text, as rows and as JSON.
local function cell(oid, text)
  local value, json
  with(pg.data_row { text } .. pg.command_complete "SELECT 1", pg.row_description { { "n", oid } }, function(db)
    value, json = pools.check(db:query(SQL))[1].n, pools.check(db:json(SQL))
  end)
  return value, json
end

describe("a hostile server's text:", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("an error's texts are UTF-8, whatever the server writes", function()
    local err = error_of { C = "22P02", M = "a\xff\xc3(\xed\xa0\x80b", D = "\xfe", H = "\xc0\x80", t = "\x80" }
    assert.equal("a??(???b", err.message)
    assert.same({ "?", "??", "?" }, { err.detail, err.hint, err.table })
    assert.equal("query", err.kind)
    pools.check(pool.json.encode(err))
  end)

  it("an SQLSTATE is five capitals and digits, or none", function()
    assert.is_nil(error_of { C = "4a\n01", M = "no" }.sqlstate)
    assert.is_nil(error_of { C = "425010", M = "no" }.sqlstate)
    assert.equal("42501", error_of { C = "42501", M = "no" }.sqlstate)
  end)

  it("an error says something, and its place is one", function()
    local err = error_of { C = "42601", M = "", P = "-3" }
    assert.equal("the server sent an error without a message", err.message)
    assert.is_nil(err.position)
    assert.is_nil(error_of { C = "42601", M = "no", P = "99999999999" }.position)
  end)

  it("a notice is one line of the log", function()
    with(pg.notice { S = "WARNING", V = "WARNING", M = "a\npool: error: b\27[2J\xff" } .. pg.data_row { "7" }
      .. pg.command_complete "SELECT 1", nil, function(db) assert.equal(7, pools.check(db:query(SQL))[1].n) end)
    assert.truthy(pools.log():find("warn: WARNING: a pool: error: b [2J?", 1, true), pools.log())
  end)

  it("a bytea that is none is text, in an array too", function()
    assert.same({ "0**", '[{"n":"MCoq"}]' }, { cell(17, "\\0**") })
    assert.same({ "a\1", '[{"n":"a\\u0001"}]' }, { cell(17, "a\1") })
    assert.same({ "\\xzz", '[{"n":"\\\\xzz"}]' }, { cell(17, "\\xzz") })
    assert.same({ '{"\\\\xzz"}', '[{"n":"{\\"\\\\\\\\xzz\\"}"}]' }, { cell(1001, '{"\\\\xzz"}') })
  end)

  it("what makes no sense ends an idle connection, and not the next call", function()
    local f <close> = fake_postgres.start(function(c)
      if c.serial > 1 then return c:serve() end
      c:startup()
      c:greet()
      c:await "idle"
      c:send(pg.message("A", "\0\0\0\1a\0b\0and more"))
      c:read()
    end)
    local db = pools.open({ size = 1, max_overflow = 0, min_idle = 1, pre_ping = false, pooler = "none" },
      { through = f, sslmode = "disable" })
    pool.run(function()
      pools.wait(function() return db:stats().idle == 1 end, 5)
      f:tell "idle"
      pools.wait(function() return db:stats().lost > 0 end, 5)
      assert.equal(7, pools.check(db:query(SQL))[1].n)
    end)
    db:close(0)
  end)

  it("a connection about whose transaction the server says nonsense is not opened", function()
    local f <close> = fake_postgres.start(function(c)
      if c.serial > 1 then return c:serve() end
      c:startup()
      c:greet()
      c:read()
      c:send(pg.row_description { { "pg_backend_pid", 23 } } .. pg.data_row { "1" } .. pg.command_complete "SELECT 1" .. pg.ready "}")
      c:read()
    end)
    local db = pools.open({ size = 1, max_overflow = 0, backoff_min = 0.01, backoff_max = 0.01 }, { through = f, sslmode = "disable" })
    assert.equal(7, pools.check(db:query(SQL))[1].n)
    assert.equal(1, db:stats().open_failures)
    db:close(0)
  end)

  it("silence in answer to the first statement costs an address its share of connect_timeout, and the next one is tried", function()
    local f <close> = fake_postgres.start(function(c)
      if c.serial > 1 then return c:serve() end
      c:startup()
      c:greet()
      while c:read() do c:note "heard" end
    end)
    local db = pools.open { database_url = ("postgresql://u:p@127.0.0.1:%d,127.0.0.1:%d/x?sslmode=disable"):format(f.port, f.port),
      size = 1, max_overflow = 0, connect_timeout = 2 }
    assert.equal(7, pools.check(db:query(SQL))[1].n)
    assert.equal("heard", f:notes()[1])
    db:close(0)
  end)
end)
