-- The bad network of the specs (support/proxy.c): every knob does what it says, seen through pool and PostgreSQL.
local pool = require "pool"
local pools = require "support.pools"
local postgres = require "support.postgres"
local proxy = require "support.proxy"

local check = pools.check

--- A pool through a proxy, of one connection unless told otherwise.
local function open(p, settings)
  local wanted = { size = 1, max_overflow = 0, timeout = 5, pre_ping = false, pooler = "none" }
  for name, value in pairs(settings or {}) do wanted[name] = value end
  return pools.open(wanted, { through = p, sslmode = "disable", gssencmode = "disable" })
end

--- One try to connect, and a short wait for what it brings.
local ONCE = { timeout = 0.3, connect_timeout = 0.2, backoff_min = 5, backoff_max = 5 }

--- The same without waiting longer than it takes.
local function fail_once(p)
  local db = open(p, { timeout = 10, backoff_min = 5, backoff_max = 5 })
  pool.run(function()
    local task = pool.spawn(function() return db:query("select 1") end)
    pools.wait(function() return db:stats().open_failures == 1 end)
    task:cancel()
  end)
  db:close(0)
end

local function one(db) return check(db:query("select 1 as one"))[1].one end

describe("the proxy", function()
  before_each(pools.begin)
  after_each(pools.finish)

  for _, unix in ipairs { false, true } do
    it("passes everything and counts it, over " .. (unix and "a Unix socket" or "TCP"), function()
      local p <close> = proxy.start { unix = unix }
      local db, name = open(p)
      local text = check(db:query("select repeat('x', 300000) as t"))[1].t
      assert.equal(300000, #text)
      assert.equal(1, postgres.count(name))
      local s = p:stats()
      assert.same({ 1, 1, 0, 0 }, { s.accepted, s.open, s.cuts, s.failed })
      assert.is_true(s.down > 300000 and s.up > 50 and s.up < 2000, ("%d up, %d down"):format(s.up, s.down))
      db:close(0)
      pools.wait(function() return p:stats().open == 0 end)
      assert.same({ s.down, true }, { p:stats().last_down, p:stats().last_up > s.up }) -- a Terminate went up
      assert.equal(0, postgres.count(name))
    end)

    it("passes a byte at a time, over " .. (unix and "a Unix socket" or "TCP"), function()
      local p <close> = proxy.start { unix = unix }
      p:set { fragment = 1 }
      local db = open(p)
      assert.equal(500, #check(db:query("select generate_series(1, 500)")))
      local s = p:stats()
      assert.equal(s.up + s.down, s.writes)
    end)
  end

  it("delays each way", function()
    local p <close> = proxy.start()
    local db = open(p)
    assert.equal(1, one(db))
    p:set { delay = 0.3 }
    local before = pool.now()
    assert.equal(1, one(db))
    assert.is_true(pool.now() - before >= 0.6)
    p:set { delay = false }
    before = pool.now()
    assert.equal(1, one(db))
    assert.is_true(pool.now() - before < 0.6)
  end)

  it("keeps to a rate", function()
    local p <close> = proxy.start()
    local db = open(p)
    assert.equal(1, one(db))
    p:set { rate = 100000 }
    local before = pool.now()
    assert.equal(30000, #check(db:query("select repeat('x', 30000) as t"))[1].t)
    local took = pool.now() - before
    assert.is_true(took > 0.25, took .. " s")
  end)

  for _, case in ipairs { { "up", 40 }, { "down", 100 }, { "both", 250 } } do
    it(("cuts a link after exactly %d bytes %s, and the next one not at all when told so"):format(case[2], case[1]), function()
      local p <close> = proxy.start()
      p:set { cut = case[2], direction = case[1], how = "rst" }
      fail_once(p)
      p:set { cut = false }
      local s = p:stats()
      assert.same({ 1, 1 }, { s.cuts, s.accepted })
      local passed = { up = s.last_up, down = s.last_down, both = s.last_up + s.last_down }
      assert.equal(case[2], passed[case[1]])
      assert.equal(1, one(open(p)))
      assert.equal(1, p:stats().cuts)
    end)
  end

  it("cuts an open link so many bytes from now, with FIN or RST, and pool says lost", function()
    local p <close> = proxy.start()
    local db = open(p)
    for _, how in ipairs { "fin", "rst" } do
      assert.equal(1, one(db))
      p:set { cut = 1000, direction = "down", how = how }
      local before = p:stats().down
      local _, err = db:query("select repeat('x', 5000)")
      assert.equal("lost", err.kind)
      assert.equal(before + 1000, p:stats().down)
      p:calm()
    end
  end)

  it("sweeps: each link is cut a step later than the one before", function()
    local p <close> = proxy.start()
    p:set { cut = 0, sweep = 7, direction = "up" }
    for i = 0, 5 do
      assert.equal(i * 7, p:stats().next_cut)
      fail_once(p)
      local s = p:stats()
      assert.same({ i + 1, i + 1, 0, i * 7 }, { s.accepted, s.cuts, s.open, s.last_up })
    end
  end)

  it("stalls: nothing comes until resume, and then nothing is missing", function()
    local p <close> = proxy.start()
    local db = open(p)
    assert.equal(1, one(db))
    pool.run(function()
      p:stall()
      local task = pool.spawn(function() return one(db) end)
      pools.wait(function() return db:stats().leased == 1 end)
      pool.sleep(0.05)
      assert.same({ 1, 1 }, { p:stats().stalled, db:stats().leased })
      p:resume()
      assert.equal(1, task:join(5))
    end)
    p:set { cut = 200, direction = "down", how = "stall" }
    pool.run(function()
      local task = pool.spawn(function() return check(db:query("select repeat('x', 5000) as t"))[1].t end)
      pools.wait(function() return p:stats().stalled == 1 end)
      assert.equal(1, p:stats().cuts)
      p:resume()
      assert.equal(("x"):rep(5000), task:join(5))
    end)
  end)

  it("ends every open link now", function()
    local p <close> = proxy.start()
    for _, how in ipairs { "fin", "rst" } do
      local db = open(p, { size = 3 })
      local a, b, c = check(db:acquire()), check(db:acquire()), check(db:acquire())
      p:now(how)
      assert.equal(0, p:stats().open)
      for _, conn in ipairs { a, b, c } do
        assert.equal("lost", select(2, conn:query("select 1")).kind)
        conn:release()
      end
      assert.equal(1, one(db))
      db:close(0)
    end
  end)

  it("turns bits over, the same ones for the same seed", function()
    local function flipped(seed)
      local p <close> = proxy.start()
      local db = open(p, { statement_cache = 0 })
      assert.equal(1, one(db))
      p:set { flip = 0.001, seed = seed, direction = "down" } -- of links to come
      db:invalidate()
      p:set { flip = false }
      local c <close> = check(db:acquire())
      p:set { flip = 0.0005 }
      local rows, err = c:query("select repeat('x', 4000) as t")
      return rows and rows[1].t or tostring(err)
    end
    local first = flipped(5)
    assert.is_true(first ~= ("x"):rep(4000))
    assert.equal(first, flipped(5))
    assert.is_true(first ~= flipped(6))
  end)

  it("spares a link's beginning", function()
    local p <close> = proxy.start()
    p:set { flip = 1, spare = 600, direction = "down" }
    local db = open(p)
    local c <close> = check(db:acquire()) -- some 400 bytes
    local _, err = c:query("select repeat('x', 4000) as t")
    assert.is_true(err.kind == "lost" or err.kind == "query", tostring(err))
  end)

  for _, unix in ipairs { false, true } do
    it("refuses: no listener, hangs up, says nothing; " .. (unix and "a Unix socket" or "TCP"), function()
      local p <close> = proxy.start { unix = unix }
      for how, message in pairs { refuse = "[Cc]onnection refused", close = "closed the connection", silent = "connect_timeout" } do
        p:set { accept = how }
        local before = p:stats()
        local _, err = open(p, ONCE):query("select 1")
        assert.equal("connect", err.kind)
        assert.matches(message, err.message)
        assert.equal(how == "close", p:stats().refused > before.refused)
        assert.equal(how == "silent", p:stats().accepted > before.accepted)
      end
      p:set { accept = "yes" }
      assert.equal(1, one(open(p)))
    end)
  end

  it("sends a client away when there is no server", function()
    local p <close> = proxy.start { to = "/nowhere/at/all" }
    assert.equal("connect", select(2, open(p, ONCE):query("select 1")).kind)
    assert.is_true(p:stats().failed >= 1)
  end)

  it("refuses what it does not know, and changes nothing then", function()
    local p <close> = proxy.start()
    for _, wrong in ipairs { { dealy = 1 }, { how = "gently" }, { cut = "7x", delay = 1 }, { accept = "" } } do
      assert.is_false(pcall(p.set, p, wrong))
    end
    assert.is_false(pcall(p.now, p, "later"))
    local db, before = open(p), pool.now()
    assert.equal(1, one(db))
    assert.is_true(pool.now() - before < 1)
  end)

  it("is gone when its spec is, and says so when it has died", function()
    local p <close> = proxy.start()
    p.process:signal("KILL")
    local fine, err = pcall(p.stats, p)
    assert.is_false(fine)
    assert.matches("the proxy has died", err)
    local other = proxy.start()
    other.orders:close()
    assert.equal(0, other.process:wait(5))
    other.orders = io.open("/dev/null", "w")
    other:close()
  end)
end)
