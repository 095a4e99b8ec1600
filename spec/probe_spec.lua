-- db:probe, and what http.health makes of it: news of the database, asked for when there is none, without anybody losing a turn.

local pool = require "pool"
local pools = require "support.pools"
local postgres = require "support.postgres"

local check = pools.check

local function unreachable(settings)
  local port, hole = pools.black_hole "silent"
  settings.database_url = ("postgresql://nobody@127.0.0.1:%d/none?sslmode=disable&gssencmode=disable"):format(port)
  return pools.open(settings), hole
end

local function dead(db, seconds, what)
  local alive, err = db:probe(seconds)
  assert.is_nil(alive, what)
  assert.equal("connect", err.kind)
  return err.message
end

describe("db:probe", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("finds a database that says nothing dead within its time, and not the pool short of connections", function()
    local db, hole <close> = unreachable { size = 1, max_overflow = 0 }
    local started = pool.now()
    assert.equal("the database did not answer within 0.2 s", dead(db, 0.2))
    assert.is_true(pool.now() - started < 5)
    assert.is_not_nil(hole)
  end)

  it("finds it dead too while others wait for it, with nothing ever heard", function()
    local db, hole <close> = unreachable { size = 1, max_overflow = 0, timeout = 60 }
    pool.run(function()
      local waiting = pool.spawn(function() return db:query "select 1" end)
      pools.wait(function() return db:stats().waiting == 1 end)
      assert.equal("the database did not answer within 0.2 s", dead(db, 0.2))
      waiting:cancel()
    end)
    assert.is_not_nil(hole)
  end)

  it("right after a crash asks, rather than rely on what was answered before", function()
    local db = pools.open { size = 2, max_overflow = 0 }
    assert.is_true(db:probe(1))
    postgres.stop "immediate"
    local up <close> = setmetatable({}, { __close = function() pcall(postgres.start) end })
    pools.wait(function() return db:stats().total == 0 end)
    dead(db, 1, "a crash went unnoticed")
    postgres.start()
    pools.wait(function() return db:probe(1) end)
    assert.is_not_nil(up)
  end)

  it("takes what the pool met last, however long ago, while every connection is out", function()
    local db = pools.open { size = 1, max_overflow = 0 }
    local c <close> = check(db:acquire())
    pools.wait(function() return db:stats().last_alive > 1 end)
    local arrivals = db:stats().arrivals
    assert.is_true(db:probe(0.2))
    assert.equal(arrivals, db:stats().arrivals)
    assert.is_not_nil(c)
  end)

  it("does not hold a pause against the database", function()
    local db = pools.open { size = 1 }
    db:pause()
    assert.is_true(db:probe(0.2))
    db:resume()
  end)

  it("wants seconds", function()
    local db = pools.open { size = 1 }
    assert.error_matches(function() db:probe() end, "db:probe: a number of seconds from 0 up is wanted, not nil")
    assert.error_matches(function() db:probe "1" end, 'not the string "1"')
    assert.error_matches(function() db:probe(-1) end, "not %-1")
  end)
end)

describe("http.health", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("tells a client that the database is away, and the log where it is", function()
    local db = pools.open({ size = 1 }, { database = "no_such_database" })
    local status, body = require("pool.http").health { db = db, id = "r-1" }
    assert.equal(503, status)
    assert.equal("connect: the database cannot be reached", body.error)
    assert.matches("warn: health: connect: .*no_such_database", pools.log())
  end)
end)
