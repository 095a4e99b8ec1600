-- Several cursors on one connection, one after another: what streams there belongs to the last, whenever the collector finds the others.
local pool = require "pool"
local pools = require "support.pools"

local check = pools.check
local MANY = "select i from generate_series(1, 3000) i"

--- Reads all of MANY on the connection; calls `amid` after the fifth row. How many rows came.
local function read(c, amid)
  local n = 0
  for _ in c:rows(MANY) do
    n = n + 1
    if n == 5 then amid() end
  end
  return n
end

local function collect()
  collectgarbage()
  collectgarbage()
end

describe("a cursor", function()
  before_each(pools.begin)
  after_each(pools.finish)

  it("that never began, found by the collector, leaves the next one's rows alone", function()
    local c <close> = check(pools.open():acquire())
    assert.is_false(pcall(c.rows, c, 42))
    assert.is_false(pcall(c.rows, c, "select $1", {}))
    assert.equal(3000, read(c, collect))
  end)

  it("that was dropped before its end, found by the collector, leaves the next one's rows alone", function()
    local c <close> = check(pools.open():acquire())
    c:rows("select 1 union all select 2")()
    assert.equal(3000, read(c, collect))
  end)

  it("whose batch is read to its end amid another's rows takes none of them", function()
    local c <close> = check(pools.open():acquire())
    local outer = c:rows("select 7 as i union all select 8 order by i")
    assert.equal(7, outer().i)
    assert.equal(3000, read(c, function()
      assert.equal(8, outer().i)
      assert.is_nil(outer())
    end))
  end)

  it("whose reader was cancelled raises for the next one rather than seem to end", function()
    local db = pools.open()
    pool.run(function()
      local c <close> = check(db:acquire())
      local rows = c:rows("select i, repeat('x', 200) as x, pg_sleep(case when i > 300 then 10 else 0 end) from generate_series(1, 400) i")
      assert.equal(1, rows().i)
      local reader = pool.spawn(function() for _ in rows, nil do end end) -- without its fourth value: nobody closes it
      pools.wait(function() return reader.status == "waiting" end)
      reader:cancel()
      pools.wait(function() return reader.status == "cancelled" end)
      local fine, err = pcall(rows)
      assert.is_false(fine)
      assert.equal("cancelled", err.kind)
      assert.equal(1, check(c:query "select 1 as one")[1].one)
    end)
  end)
end)
