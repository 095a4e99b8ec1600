-- The collector may run a finalizer wherever Lua allocates: amid the making of a call, its answer, or a list of leases.
local process = require "support.process"

--- Runs a chunk of Lua in a process of its own, on a file of its own; its exit code and what it printed.
local function lua(chunk)
  local p <close> = process.start { "lua5.4", "-e", [[
    local pool = require "pool"
    pool.log = function(level, message) Logged = (Logged or "") .. level .. ": " .. message .. "\n" end
    local path = os.tmpname()
    local function new(settings) settings.database_url = "sqlite:///" .. path return pool.new(settings) end
  ]] .. chunk .. " os.remove(path)" }
  local code = p:wait(30)
  return code, p:stdout(), p:stderr()
end

describe("a finalizer", function()
  it("that gives connections back while db:leases makes its list does not disturb it", function()
    local code, out, err = lua [[
      local db = new { size = 20, max_overflow = 0 }
      collectgarbage("generational")
      pool.run(function()
        for _ = 1, 100 do
          for _ = 1, 10 do assert(db:acquire()) end
          for _ = 1, 10 do
            for _, lease in ipairs(db:leases()) do assert(lease.id > 0 and lease.pid == 0 and lease.where) end
          end
          collectgarbage()
        end
      end)
      print(db:stats().leaks, db:stats().leased)]]
    assert.equal(0, code, err)
    assert.equal("1000\t0\n", out)
  end)

  it("that gives connections back while old leases are reported does not disturb the report", function()
    local code, out, err = lua [[
      local db = new { size = 50, max_overflow = 0, leak_after = 0.02 }
      pool.run(function()
        for _ = 1, 50 do assert(db:acquire()) end
        local stop = pool.now() + 0.03
        collectgarbage("stop")
        while pool.now() < stop do end
        collectgarbage("restart")
        collectgarbage("incremental", 10, 10000)
        collectgarbage("step", 0)
        pool.sleep(0.1)
        collectgarbage()
      end)
      print(db:stats().leaks, db:stats().leased)]]
    assert.equal(0, code, err)
    assert.equal("50\t0\n", out)
  end)

  it("may query outside pool.run amid a call that is being made there, or answered", function()
    local code, out, err = lua [[
      local db = new { size = 4 }
      local asked, armed = 0, true
      local function litter()
        setmetatable({}, { __gc = function()
          if not armed then return end
          local fit, rows, err = pcall(db.query, db, "select 'other' as a, 'other' as b, 'other' as c")
          if fit and rows and rows[1].a == "other" then asked = asked + 1 end
          if fit and not (rows and rows[1].a == "other") then Wrong = err or "the finalizer's" end -- where it cannot wait it is told so
          litter()
        end })
      end
      litter()
      collectgarbage("generational", 1)
      for i = 1, 2000 do
        local rows, err = db:query("select $1 as a, $2 as b, $3 as c", i, i + 1, i + 2)
        if not rows or rows[1].a ~= i or rows[1].b ~= i + 1 or rows[1].c ~= i + 2 then Wrong = err or rows[1].a end
        local all, failure = pool.all { function() return i end, function() return -i end }
        if not all or all[1] ~= i or all[2] ~= -i then Wrong = failure or all[1] end
        local nothing, refused = db:query "select nothing"
        if nothing or refused.kind ~= "query" then Wrong = refused or "no error" end
      end
      armed = false
      print(Wrong, asked > 20 or os.getenv "POOL_SPEC_GC" ~= nil)]] -- with a collection after every callback most are collected there
    assert.equal(0, code, err)
    assert.equal("nil\ttrue\n", out)
  end)
end)
