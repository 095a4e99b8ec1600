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

  it("and is no name at all raises with what it is", function()
    assert.equal("a Pool has no [5]", raised(function() return db[5] end))
    assert.equal("a Pool has no [a table]", raised(function() return db[{}] end))
    assert.equal("a Connection has no [0.5]", raised(function() return c[0.5] end))
    assert.equal("db:acquire: unknown option [1] (timeout)", raised(function() db:acquire { 5 } end))
    assert.equal("db:acquire: unknown option 'timout' (timeout)", raised(function() db:acquire { timout = 5 } end))
  end)
end)

describe("a name of later work", function()
  it("is not there yet, as a method of a Pool or of a Connection", function()
    local db <close> = pool.new(URL)
    for _, name in ipairs { "with", "advise", "listen", "tune" } do
      assert.matches("^db:" .. name .. " is not there yet: it comes with ", raised(function() return db[name] end))
    end
    local c <close> = assert(db:acquire())
    for _, name in ipairs { "pipeline", "copy_in", "copy_out" } do
      assert.matches("^c:" .. name .. " is not there yet: it comes with ", raised(function() return c[name] end))
    end
  end)

  it("is not there yet, in the module, where any other name is nil", function()
    assert.equal("pool.size_for is not there yet: it comes with the tuning policies", raised(function() return pool.size_for end))
    assert.equal("pool.sim is not there yet: it comes with the simulator", raised(function() return require "pool.sim" end))
    assert.is_nil(pool.zebra)
    assert.is_nil(pool[5])
  end)

  it("is not there yet, as a setting, when a pool is made and when it is changed", function()
    local db <close> = pool.new(URL)
    for _, name in ipairs { "lanes", "max_waiting_per_key", "policy_time", "policy_memory", "policy_instructions", "probation" } do
      local expected = "^" .. name .. " is not there yet: it comes with "
      assert.matches(expected, raised(function() pool.new { database_url = URL, [name] = 1 } end))
      assert.matches(expected, raised(function() db:configure { [name] = 1 } end))
    end
  end)
end)
