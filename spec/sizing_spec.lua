-- pool.size_for and `pool size`.

local pool = require "pool"
local process = require "support.process"
local sizing = require "pool.sizing"

local COMMAND = os.getenv "POOL_SPEC_COMMAND"

describe("pool.size_for", function()
  it("gives the published sizes: at most 1 % wait longer than no time, and than a mean hold", function()
    for a, sizes in pairs { [2] = { 7, 5 }, [4] = { 10, 7 }, [8] = { 16, 12 }, [16] = { 27, 20 }, [32] = { 47, 36 } } do
      assert.same(sizes, { sizing.connections(a, 0), sizing.connections(a, 1) })
      assert.equal(sizes[1], (pool.size_for { concurrent_requests = a }).size)
      assert.equal(sizes[2], (pool.size_for { requests_per_second = a * 100, query_seconds = 0.01, acceptable_wait = 0.01 }).size)
    end
  end)

  it("keeps to the database's share, less a tenth, and to twice its cores and one, and says what that costs", function()
    local settings, lines = pool.size_for { concurrent_requests = 8, database_limit = 100, instances = 8 }
    assert.same({ size = 11, max_overflow = 0 }, settings)
    assert.matches("100 connections: 11 for each of 8 instances", table.concat(lines, "\n"))
    assert.matches("with 11 instead of 16 connections %d+ %% of the requests wait", table.concat(lines, "\n"))
    settings, lines = pool.size_for { concurrent_requests = 8, database_cores = 2 }
    assert.equal(5, settings.size)
    assert.matches("5 connections cannot carry a load of 8", table.concat(lines, "\n"))
  end)

  it("sets the timeout by the deadline, recycle by the shortest idle limit, overflow as much as the size", function()
    local settings = pool.size_for { concurrent_requests = 2, deadline = 1, idle_limit = 300, database_limit = 12 }
    assert.same({ size = 7, max_overflow = 3, timeout = 0.8, recycle = 270 }, settings)
    assert.equal(7, (pool.size_for { concurrent_requests = 2 }).max_overflow)
    assert.equal(4, (pool.size_for { concurrent_requests = 2, driver = "sqlite" }).size)
  end)

  it("gives settings that a pool takes", function()
    local settings = pool.size_for { requests_per_second = 300, query_seconds = 0.02, deadline = 2, idle_limit = 60 }
    settings.database_url = "sqlite:///:memory:"
    local db <close> = pool.new(settings)
    assert.equal("sqlite", db.driver)
  end)

  it("misuse raises and names what is right", function()
    local function refused(requirements) return select(2, pcall(pool.size_for, requirements)) end
    assert.matches("the load is wanted", refused {})
    assert.matches("there is no requirement query_second; did you mean query_seconds", refused { query_second = 1 })
    assert.matches("instances must be a whole number from 1", refused { concurrent_requests = 1, instances = 0.5 })
    assert.matches("query_seconds must be a number from", refused { requests_per_second = 1, query_seconds = 0 / 0 })
    assert.matches("say the same", refused { concurrent_requests = 1, requests_per_second = 1, query_seconds = 1 })
  end)
end)

describe("pool size", function()
  local function pool_size(...)
    local p <close> = process.start { COMMAND, "size", ... }
    local code = p:wait(20)
    return p:stdout(), p:stderr(), code
  end

  it("prints settings and reasons, as text, variables or JSON", function()
    local text, _, code = pool_size("--requests-per-second", "200", "--query-seconds", "0.01", "--deadline", "1")
    assert.equal(0, code)
    assert.matches("^size          7\nmax_overflow  7\ntimeout       0.8\n\n%- 200 requests a second of 0.01 s", text)
    assert.equal("DB_POOL_SIZE=7\nDB_MAX_OVERFLOW=7\n", (pool_size("--concurrent-requests", "2", "--env")))
    assert.equal(7, pool.json.decode((pool_size("--concurrent-requests", "2", "--json"))).settings.size)
  end)

  it("refuses what makes no sense with exit code 2", function()
    for _, case in ipairs { {}, { "--instances", "x" }, { "--concurrent-requests", "-1" }, { "5" }, { "--conncurrent-requests", "1" } } do
      local _, complaints, code = pool_size(table.unpack(case))
      assert.equal(2, code)
      assert.matches("^pool: size: ", complaints)
    end
  end)
end)
