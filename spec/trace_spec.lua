-- Where an error was raised is told though it was caught and raised again on its way: out of savepoints and retried transactions.

local pool = require "pool"
local process = require "support.process"

local URL = "sqlite:///:memory:"

local function culprit(what) error(what) end

--- How often `text` has `part`, literally.
local function count(text, part)
  local n, at = 0, 1
  while true do
    local from, to = text:find(part, at, true)
    if not from then return n end
    n, at = n + 1, to + 1
  end
end

--- What joining a task gives in which fn(db) raises.
local function failure(fn)
  local db <close> = pool.new { database_url = URL, size = 1, max_overflow = 0 }
  return pool.run(function()
    local ok, err = pool.spawn(fn, db):join()
    assert.is_nil(ok)
    return err
  end)
end

describe("the traceback of an error raised", function()
  local ways = {
    ["in a savepoint"] = function(what)
      return function(db)
        db:transaction(function(tx) tx:transaction(function() culprit(what) end) end)
      end
    end,
    ["in a savepoint in a savepoint"] = function(what)
      return function(db)
        db:transaction(function() db:transaction(function() db:transaction(function() culprit(what) end) end) end)
      end
    end,
    ["in a transaction on a connection of one's own"] = function(what)
      return function(db)
        local c <close> = assert(db:acquire())
        c:transaction(function() culprit(what) end)
      end
    end,
    ["in a transaction with retries"] = function(what)
      return function(db) db:transaction(function() culprit(what) end, { retries = 3 }) end
    end,
  }
  for way, raising in pairs(ways) do
    it(way .. " names the line that raised a string, once", function()
      local err = failure(raising "oops")
      assert.is_string(err)
      assert.matches("^spec/trace_spec%.lua:%d+: oops\nstack traceback:\n", err)
      assert.equal(1, count(err, "stack traceback:"))
      assert.matches("'culprit'", err)
      assert.matches("spawned at:", err)
    end)

    it(way .. " names the line that raised a table, which is otherwise as it was", function()
      local mine = { mine = true }
      local err = failure(raising(mine))
      assert.equal(mine, err)
      assert.matches("'culprit'", err.traceback)
      assert.equal(1, count(err.traceback, "stack traceback:"))
    end)
  end

  it("in a savepoint is told by pool run, and to the log by a handler's failure", function()
    local command = os.getenv "POOL_SPEC_COMMAND"
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write([[
      local function culprit() error "oops" end
      local db = require("pool").new "sqlite:///:memory:"
      db:transaction(function(tx) tx:transaction(function() culprit() end) end)]])
    file:close()
    local output, code = process.run(process.quote(command) .. " run " .. path .. " 2>&1")
    os.remove(path)
    assert.equal(1, code)
    assert.equal(1, count(output, "stack traceback:"))
    assert.matches("oops\nstack traceback:.*'culprit'", output)

    local db <close> = pool.new(URL)
    local real, traceback = pool.log, nil
    pool.log = function(_, _, fields) traceback = traceback or fields.traceback end
    local exchange = { method = "GET", path = "/", id = "r1", headers = {}, body = "", query_string = "", respond = function() end }
    local app = require("pool.http").app()
    app:get("/", function(req)
      req.db:transaction(function(tx) tx:transaction(function() culprit "oops" end) end)
    end)
    app:handler(db)(exchange)
    pool.log = real
    assert.matches("'culprit'", traceback)
  end)

  it("and caught outside a savepoint leaves the raised value untouched", function()
    local db <close> = pool.new(URL)
    local mine = {}
    db:transaction(function(tx)
      local _, err = pcall(tx.transaction, tx, function() culprit(mine) end)
      assert.equal(mine, err)
      assert.is_nil(next(mine))
      _, err = pcall(tx.transaction, tx, function() culprit "plain" end)
      assert.matches("^spec/trace_spec%.lua:%d+: plain$", err)
    end)
  end)

  it("elsewhere, later, is not taken for that of one caught in a savepoint", function()
    local err = failure(function(db)
      db:transaction(function(tx) pcall(tx.transaction, tx, function() culprit "one" end) end)
      error("two", 0)
    end)
    assert.matches("^two\nstack traceback:", err)
    assert.is_nil(err:find("culprit", 1, true))
  end)
end)
