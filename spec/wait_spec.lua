local pool = require "pool"

--- What the log was told while fn ran.
local function logged(fn)
  local before, lines = pool.log, {}
  pool.log = function(level, message) lines[#lines + 1] = level .. ": " .. message end
  local ok, err = pcall(fn)
  pool.log = before
  if not ok then error(err, 0) end
  return lines
end

local function here() return debug.getinfo(2, "l").currentline end
local function closing(fn) return setmetatable({}, { __close = fn }) end
local function forever() return pool.sleep(math.huge) end

describe("pool.all", function()
  it("gives each one's first result in order, pool.null for none", function()
    local results = assert(pool.run(pool.all, {
      function() pool.sleep(0.005); return "a", "b" end,
      function() end,
      function() return nil, 1 end,
      function() return false end,
    }))
    assert.same({ "a", pool.null, pool.null, false }, results)
    assert.equal(4, #results)
  end)

  it("of nothing is nothing", function() assert.same({}, pool.all {}) end)

  it("runs outside pool.run as well", function() assert.same({ 1, 2 }, pool.all { function() return 1 end, function() return 2 end }) end)

  it("cancels the others at the first failure, awaits them, and gives that failure", function()
    local closed, tasks, object = false, {}, { kind = "mine" }
    local lines = logged(function()
      pool.run(function()
        local results, err = pool.all {
          function() local _ <close> = closing(function() closed = true end) forever() end,
          function() pool.sleep(0.001) error(object) end,
          function() pool.sleep(0.001) error "second" end,
        }
        tasks[1] = closed
        assert.is_nil(results)
        assert.is_true(rawequal(object, err))
      end)
    end)
    assert.same({ true }, tasks)
    assert.same({}, lines)
  end)

  it("ends its children when the parent is cancelled, or out of time", function()
    local closed = 0
    local function child() local _ <close> = closing(function() closed = closed + 1 end) forever() end
    pool.run(function()
      local task = pool.spawn(pool.all, { child, child })
      pool.sleep(0)
      pool.sleep(0)
      task:cancel()
      task:join()
      pool.sleep(0)
      assert.equal(2, closed)
      local results, err = pool.deadline(0.05, pool.all, { child })
      assert.is_nil(results)
      assert.equal("deadline", err.kind)
    end)
    assert.equal(3, closed)
  end)

  it("is left by a parent that a child cancels", function()
    pool.run(function()
      local parent
      parent = pool.spawn(pool.all, { function() parent:cancel() pool.sleep(0.001) end, function() error "x" end, forever })
      local _, err = parent:join()
      assert.equal("cancelled", err.kind)
    end)
  end)

  it("refuses what is no table of functions at the caller's line", function()
    local line = here() + 1
    local ok, err = pcall(function() pool.all { print, 2 } end)
    assert.is_false(ok)
    assert.match("wait_spec.lua:" .. line .. ": pool.all: element 2 is a number, not a function", err)
    assert.match("a table of functions is wanted, not number", select(2, pcall(pool.all, 1)))
  end)
end)

describe("pool.sleep", function()
  it("of nothing yields until every ready task has run, in order", function()
    local order = {}
    pool.run(function()
      for i = 1, 3 do
        pool.spawn(function()
          for round = 1, 3 do order[#order + 1] = i .. "." .. round; pool.sleep(0) end
        end)
      end
    end)
    assert.equal("1.1 2.1 3.1 1.2 2.2 3.2 1.3 2.3 3.3", table.concat(order, " "))
  end)

  it("lasts at least as long as it is asked to, and gives true", function()
    local start = pool.now()
    assert.is_true(pool.sleep(0.01))
    assert.is_true(pool.now() - start >= 0.01)
    assert.is_true(pool.sleep(0))
    assert.is_true(pool.run(pool.sleep, 0))
  end)

  it("wakes the sleepers by their time, not by their order", function()
    local order = {}
    pool.run(function()
      for _, s in ipairs { 0.006, 0.002, 0.004 } do pool.spawn(function() pool.sleep(s); order[#order + 1] = s end) end
    end)
    assert.same({ 0.002, 0.004, 0.006 }, order)
  end)

  it("does not let tasks that never rest starve timers", function()
    pool.run(function()
      local stop = false
      pool.spawn(function() while not stop do pool.sleep(0) end end)
      pool.sleep(0.005)
      stop = true
    end)
  end)

  it("refuses what is no duration at the caller's line", function()
    for _, value in ipairs { -1, 0 / 0, "1", {}, false } do
      local line = here() + 1
      local ok, err = pcall(function() pool.sleep(value) end)
      assert.is_false(ok)
      assert.match("wait_spec.lua:" .. line .. ": pool.sleep: a number of seconds from 0 up is wanted, not ", err)
    end
    assert.is_false(pcall(pool.sleep))
  end)
end)

describe("a wait", function()
  local function inside(fn) return pool.run(function() return select(2, pool.spawn(fn):join()) end) end

  it("works in pcall, in a metamethod, in an iterator and in a __close function", function()
    local waited = {}
    pool.run(function()
      assert.is_true(pcall(pool.sleep, 0.001))
      local object = setmetatable({}, { __index = function(_, k) pool.sleep(0.001); return k end,
        __add = function() pool.sleep(0.001); return "sum" end })
      waited[1] = object.field
      waited[2] = object + 1
      for i in function(_, i) pool.sleep(0.001); if i < 2 then return i + 1 end end, nil, 0 do waited[#waited + 1] = i end
      do
        local _ <close> = closing(function() pool.sleep(0.001); waited[#waited + 1] = "closed" end)
      end
    end)
    assert.same({ "field", "sum", 1, 2, "closed" }, waited)
  end)

  it("across a C-call boundary says so", function()
    local sort = inside(function() table.sort({ 3, 2, 1 }, function(a, b) pool.sleep(0) return a < b end) end)
    assert.match("wait_spec.lua:%d+: cannot wait across a C%-call boundary", sort)
    local gsub = inside(function() return (("x"):gsub("x", function() pool.sleep(0) end)) end)
    assert.match("wait_spec.lua:%d+: cannot wait across a C%-call boundary", gsub)
  end)

  it("in a coroutine that pool did not start names pool.spawn", function()
    local err = inside(function() coroutine.wrap(function() pool.sleep(0) end)() end)
    assert.match("wait_spec.lua:%d+: a coroutine that pool did not start cannot wait: use pool.spawn", err)
  end)

  it("leaves coroutines that do not wait alone", function()
    assert.equal(3, pool.run(function()
      local sum = 0
      for i in coroutine.wrap(function() coroutine.yield(1) coroutine.yield(2) end) do sum = sum + i; pool.sleep(0) end
      return sum
    end))
  end)

  it("by coroutine.yield at a task's top is an error that names pool.sleep", function()
    local closed
    local err = inside(function()
      local _ <close> = closing(function() closed = true end)
      coroutine.yield()
    end)
    assert.match("coroutine.yield in a task.*pool.sleep%(0%)", err)
    assert.is_true(closed)
  end)

  it("works in a plain coroutine outside pool.run", function()
    assert.equal("woke", coroutine.wrap(function() pool.sleep(0.001) return "woke" end)())
  end)

  it("in a finalizer that runs while the loop does is refused rather than fatal", function()
    local ok, err
    local function litter()
      setmetatable({}, { __gc = function() ok, err = pcall(pool.sleep, 0.001) end })
    end
    pool.spawn(function() litter() collectgarbage() collectgarbage() end):join()
    assert.is_false(ok)
    assert.match("cannot wait", err)
  end)
end)

describe("the log", function()
  it("may not wait, and prints what a failing one was given", function()
    local before, seen = pool.log, nil
    pool.log = function() seen = table.pack(pcall(pool.sleep, 0.001)) end
    pool.run(function() pool.spawn(error, "x") end)
    pool.log = before
    assert.is_false(seen[1])
    assert.match("a log function or an event's function cannot wait", seen[2])
  end)
end)

describe("many tasks", function()
  local many = os.getenv "POOL_SPEC_GC" and 100 or 10000 -- there each has a collection of its own

  it("run, ten thousand at once", function()
    local sum = 0
    pool.run(function()
      for i = 1, many do pool.spawn(function() pool.sleep(0.001); sum = sum + i end) end
    end)
    assert.equal(many * (many + 1) // 2, sum)
  end)

  it("leave nothing behind, one after the other", function()
    pool.run(function()
      local function nothing() end
      local function round(n) for _ = 1, n do pool.spawn(nothing):join() end end
      round(many // 10)
      collectgarbage()
      local before = collectgarbage("count")
      round(many * 10)
      collectgarbage()
      assert.is_true(collectgarbage("count") - before < 64, collectgarbage("count") - before .. " KiB")
    end)
  end)

  it("are collected once they ended", function()
    local weak = setmetatable({}, { __mode = "v" })
    pool.run(function()
      for i = 1, 10 do weak[i] = pool.spawn(function() return {} end) end
      local failed = pool.spawn(error, "x")
      failed:join()
      weak[11] = failed
    end)
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(weak))
  end)
end)
