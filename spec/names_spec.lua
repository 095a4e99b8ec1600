-- Names that are not there: misspelt, of later work, or of something else; and methods called without their object.

local pool = require "pool"

local URL = "sqlite:///:memory:"
local HERE = "spec/names_spec%.lua:%d+: "

--- What fn raises, without the place, which must be in this file.
local function raised(fn, ...)
  local fine, err = pcall(fn, ...)
  assert.is_false(fine, "nothing was raised")
  assert.is_string(err)
  assert.matches("^" .. HERE, err)
  return (err:gsub("^" .. HERE, ""))
end

local function misused(fn)
  local fine, err = pcall(fn)
  assert.is_false(fine)
  local line = debug.getinfo(fn, "S").linedefined
  return (tostring(err):gsub("^[^\n]*names_spec%.lua:" .. line .. ": ", "here: "))
end

describe("what an application is written with", function()
  local http, request = require "pool.http", require "pool.request"
  local app, req = http.app(), request.new({ headers = {}, query_string = "" }, {}, error)

  it("has no name but its own, and says which one was probably meant, at the caller's line", function()
    assert.equal("here: an App has no 'gett' (did you mean get?)", misused(function() app:gett("/", print) end))
    assert.equal("here: an App has no 'zebra'", misused(function() return app:group("/a").zebra end))
    assert.equal("here: pool.http has no 'htlm' (did you mean html?)", misused(function() return http.htlm "x" end))
    assert.equal("here: pool.http has no 'zebra'", misused(function() return http.zebra end))
  end)

  it("refuses of a request what is nearly a name of its own; what middleware may have set is nil", function()
    assert.equal("here: a Request has no 'headrs' (did you mean headers?)", misused(function() return req.headrs end))
    assert.equal("here: a Request has no 'jsno' (did you mean json?)", misused(function() return req:jsno() end))
    for _, name in ipairs { "deadline", "user", "session_id", "uid", "format", 1 } do assert.is_nil(req[name]) end
    req.user = "me"
    assert.equal("me", req.user)
  end)
end)

describe("a name that is not there", function()
  local db, c
  before_each(function()
    db = pool.new(URL)
    c = assert(db:acquire())
  end)
  after_each(function()
    c:release()
    db:close(0)
  end)

  it("of a Pool raises, with the nearest method or field", function()
    assert.equal("a Pool has no 'quer' (did you mean query?)", raised(function() return db.quer end))
    assert.equal("a Pool has no 'drivers' (did you mean driver?)", raised(function() return db.drivers end))
    assert.equal("a Pool has no 'zebra'", raised(function() return db.zebra end))
  end)

  it("of a Connection raises, with the nearest method or field", function()
    assert.equal("a Connection has no 'comit' (did you mean commit?)", raised(function() return c.comit end))
    assert.equal("a Connection has no 'zebra'", raised(function() return c.zebra end))
    assert.equal("a Connection has no 'in_transactoin' (did you mean in_transaction?)", raised(function() return c.in_transactoin end))
  end)

  it("of a Task raises, with the nearest method or field", function()
    local task = pool.spawn(function() end)
    assert.equal("a Task has no 'joint' (did you mean join?)", raised(function() return task.joint end))
    assert.equal("a Task has no 'statuz' (did you mean status?)", raised(function() return task.statuz end))
    assert.equal("a Task has no [1]", raised(function() return task[1] end))
    task:join()
  end)

  it("and is no name at all raises with what it is", function()
    assert.equal("a Pool has no [5]", raised(function() return db[5] end))
    assert.equal("a Pool has no [a table]", raised(function() return db[{}] end))
    assert.equal("a Connection has no [0.5]", raised(function() return c[0.5] end))
    assert.equal("db:acquire: unknown option [1] (timeout, key, priority)", raised(function() db:acquire { 5 } end))
    assert.equal("db:acquire: unknown option 'timout' (timeout, key, priority)", raised(function() db:acquire { timout = 5 } end))
  end)
end)

describe("a value that is wrong", function()
  it("is named, and what it is", function()
    local expected = "pool.sleep: a number of seconds from 0 up is wanted, not "
    assert.equal(expected .. 'the string "1"', raised(function() pool.sleep "1" end))
    assert.equal(expected .. "nothing", raised(function() pool.sleep() end))
    assert.equal(expected .. "nil", raised(function() pool.sleep(nil) end))
    assert.equal(expected .. "-1", raised(function() pool.sleep(-1) end))
    assert.equal(expected .. "a table", raised(function() pool.sleep {} end))
    assert.equal(expected .. 'the string "' .. ("x"):rep(36) .. '…"', raised(function() pool.sleep(("x"):rep(100)) end))
  end)

  it("is blamed on the method that was called", function()
    local db <close> = pool.new(URL)
    assert.equal("db:query: the SQL must be a string, not nil", raised(function() db:query(nil) end))
    assert.equal("db:json: the SQL must be a string, not table", raised(function() db:json {} end))
    assert.equal("db:exec: the SQL must be a string, not no value", raised(function() db:exec() end))
  end)
end)

describe("a name of later work", function()
  it("is not there yet, as a method of a Pool or of a Connection", function()
    local db <close> = pool.new(URL)
    for _, name in ipairs { "listen" } do
      assert.matches("^db:" .. name .. " is not there yet: it comes with ", raised(function() return db[name] end))
    end
    local c <close> = assert(db:acquire())
    for _, name in ipairs { "pipeline", "copy_in", "copy_out" } do
      assert.matches("^c:" .. name .. " is not there yet: it comes with ", raised(function() return c[name] end))
    end
  end)

  it("of the module that is not there is nil, as in every table", function()
    assert.is_nil(pool.zebra)
    assert.is_nil(pool[5])
  end)

  it("is not there yet, as a setting, when a pool is made and when it is changed", function()
    local db <close> = pool.new(URL)
    for _, name in ipairs { "lanes" } do
      local expected = "^" .. name .. " is not there yet: it comes with "
      assert.matches(expected, raised(function() pool.new { database_url = URL, [name] = 1 } end))
      assert.matches(expected, raised(function() db:configure { [name] = 1 } end))
    end
  end)
end)
