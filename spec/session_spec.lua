-- What sessions, and the other methods that are written in Lua, say to those who call them wrongly. What a session does with its
-- connection is in transaction_spec.

local pool = require "pool"

local URL = "sqlite:///:memory:"
local HERE = "^spec/session_spec%.lua:%d+: "

--- What fn raises, without the place, which must be in this file.
local function raised(fn, ...)
  local fine, err = pcall(fn, ...)
  assert.is_false(fine, "nothing was raised")
  assert.is_string(err)
  assert.matches(HERE, err)
  return (err:gsub(HERE, ""))
end

describe("a session", function()
  local db, session
  before_each(function()
    db = pool.new(URL)
    session = db:session()
  end)
  after_each(function()
    session:close()
    assert.equal(0, db:stats().leased)
    db:close(0)
  end)

  it("raises for what it does not have, naming the nearest", function()
    assert.equal("a Session has no 'quer' (did you mean query?)", raised(function() return session.quer end))
    assert.equal("a Session has no 'begin'", raised(function() return session.begin end))
    assert.equal("a Session has no [1]", raised(function() return session[1] end))
    assert.is_false(session.closed)
    assert.is_false(session.in_transaction)
    session:close()
    assert.is_true(session.closed)
  end)

  it("names its own methods, not the connection's, and takes no connection for a call that is wrong", function()
    assert.equal("s:query: the SQL must be a string, not no value", raised(function() session:query() end))
    assert.equal("s:json: the SQL must be a string, not table", raised(function() session:json {} end))
    assert.equal("s:rows: the SQL must be a string, not nil", raised(function() session:rows(nil) end))
    assert.equal("s:exec takes a script and no parameters: use s:query", raised(function() session:exec("select $1", 1) end))
    assert.equal("s:transaction: a function is wanted, not a nil", raised(function() session:transaction() end))
    assert.matches("^s:transaction: inside a transaction this is a savepoint, which cannot have read_only",
      raised(function() session:transaction(print, { read_only = true }) end))
    assert.equal(0, db:stats().arrivals)
  end)

  it("once closed is of no use, and says which call was too late", function()
    session:close()
    assert.equal("s:query: this session was closed", raised(function() session:query "select 1" end))
    assert.equal("s:commit: this session was closed", raised(function() session:commit() end))
    assert.equal("s:transaction: this session was closed", raised(function() session:transaction(print) end))
    session:close()
  end)

  it("that a task is beginning is refused to another: its work would go to a connection that nobody commits", function()
    local ALONE = "another task is beginning this session; a session is for one task at a time"
    pool.run(function()
      local first = pool.spawn(function()
        local rows = assert(session:query "select 1 as one")
        return session:commit() and rows[1].one
      end)
      pool.sleep(0)
      assert.equal("s:query: " .. ALONE, raised(function() session:query "select 2" end))
      assert.equal("s:commit: " .. ALONE, raised(function() session:commit() end))
      assert.equal(1, first:join())
      assert.equal(2, assert(session:query "select 2 as two")[1].two)
      assert.is_true(session:commit())
      assert.equal(0, db:stats().leased)
    end)
  end)

  it("whose beginning is cancelled can begin anew; one closed meanwhile gives the connection back", function()
    pool.run(function()
      local holder = assert(db:acquire())
      local first = pool.spawn(function() return session:query "select 1" end)
      pool.sleep(0)
      first:cancel()
      first:join()
      local second = pool.spawn(function() return session:query "select 1" end)
      pool.sleep(0)
      session:close()
      holder:release()
      local _, err = second:join()
      assert.matches("s:query: this session was closed", tostring(err))
      assert.equal(0, db:stats().leased)
    end)
  end)

  it("called without a colon says so", function()
    assert.equal("s:query: call it on a session, with a colon; got string", raised(function() session.query "select 1" end))
    assert.equal("s:commit: call it on a session, with a colon; got nil", raised(function() session.commit() end))
    assert.equal("s:close: call it on a session, with a colon; got nil", raised(function() session.close() end))
    assert.equal("s:rows: call it on a session, with a colon; got userdata", raised(function() session.rows(db, "select 1") end))
  end)
end)

describe("a method written in Lua and called without a colon", function()
  it("says so at the caller's line", function()
    local db <close> = pool.new(URL)
    local c <close> = assert(db:acquire())
    local function wrong(who, what, given, fn, ...)
      assert.equal(("%s: call it on a %s, with a colon; got %s"):format(who, what, given), raised(fn, ...))
    end
    wrong("db:transaction", "pool", "string", function() db.transaction("x", print) end)
    wrong("db:rows", "pool", "string", function() db.rows "select 1" end)
    wrong("db:session", "pool", "nil", function() db.session() end)
    wrong("db:on", "pool", "string", function() db.on("close", print) end)
    wrong("db:probe", "pool", "number", function() db.probe(1) end)
    wrong("c:begin", "connection", "nil", function() c.begin() end)
    wrong("c:commit", "connection", "string", function() c.commit "x" end)
    wrong("c:rollback", "connection", "userdata", function() c.rollback(db) end)
    wrong("c:transaction", "connection", "function", function() c.transaction(print) end)
  end)

  it("and db:rows without SQL names itself", function()
    local db <close> = pool.new(URL)
    assert.equal("db:rows: the SQL must be a string, not nil", raised(function() db:rows() end))
    assert.equal(0, db:stats().arrivals)
  end)
end)
