-- The fault matrix (spec/faults): a few of its rows, under a server of their own; and that its harness notices what is wrong.
if not os.getenv "POOL_SPEC_BUILD" then
  describe("the fault matrix", function() pending "needs a build: run it through spec/run" end)
  return
end

local Calls = require "faults.calls"
local matrix = require "faults.matrix"
local process = require "support.process"

local names = { "DIR", "PORT", "USER", "PASSWORD", "DATABASE", "BIN" }

--- A cluster that is nobody else's, for rows that stop it: what a child sees of it.
local function own_cluster()
  local text, code = process.run "spec/support/cluster create $PPID"
  assert(code == 0, text)
  local env = { POOL_FAULTS_SLOW = "3" }
  for _, name in ipairs(names) do env["POOL_SPEC_PG_" .. name] = text:match("PG_" .. name .. "=([^\n]*)") end
  return env
end

describe("the fault matrix", function()
  local env

  setup(function() env = own_cluster() end)
  teardown(function() process.run("POOL_SPEC_PG_DIR=" .. env.POOL_SPEC_PG_DIR .. " spec/support/cluster remove") end)

  local function judge(row, how) return matrix.judge(row, how, env) end

  for _, row in ipairs(matrix.rows()) do
    if row.quick then
      it(("%s (%s)"):format(row.name, row.quick), function()
        local result = judge(row, row.quick)
        if result.skipped then return pending(result.skipped) end
        assert.same({}, result.broken)
      end)
    end
  end

  it("notices wrong answers, errors that nobody allowed, faults that did not strike, and what is left behind", function()
    for _, how in ipairs { "tasks", "serve" } do
      local told = table.concat(judge(matrix.row "planted: everything wrong", how).broken, "\n")
      assert.matches("%d+ wrong answers: own %d+: .*planted", told)
      assert.matches("not allowed: %d+ x query:22012", told)
      assert.matches("the fault did not strike: nobody met 57P01", told)
      assert.matches("never whole again", told)
      assert.matches("left behind: %d+ coroutines", told)
      assert.matches("left behind: 1 descriptors", told)
    end
  end)

  local function broken(changes, row)
    local result = { broken = {}, right = 299, wrong = 0, missing = 0, bound = 1, whole = 0.5, calm = 0.1, most = 8, looks = 50,
      limit = 8, left = {}, errors = {} }
    for name, value in pairs(changes) do result[name] = value end
    matrix.verdict(row or { allow = "lost query:40001" }, result, { seen = result.seen or {}, told = {}, wrong = {} })
    return table.concat(result.broken, "\n")
  end

  it("lets a run pass that is fine", function()
    assert.equal("", broken { seen = { lost = 3, ["lost:57P01"] = 2, ["lost:"] = 1, ["query:40001"] = 1, ["40001"] = 1 } })
  end)

  it("asks for each figure of a run", function()
    assert.equal("1 missing answers: nil", broken { missing = 1 })
    assert.matches("^1 wrong answers", broken { wrong = 1 })
    assert.equal("only 10 right answers: no load", broken { right = 10 })
    assert.equal("9 connections at the server, 8 allowed", broken { most = 9 })
    assert.equal("", broken({ most = 9 }, { allow = "", excess = 1 }))
    assert.equal("left behind: 2 leases", broken { left = { leases = 2, waiters = 0 } })
    assert.matches("^never whole again", broken { whole = false })
    if not os.getenv "POOL_SPEC_PRELOAD" then assert.equal("whole only after 1.20 s", broken { whole = 1.2 }) end
    assert.matches("^not allowed: 1 x query:23505 ", broken { seen = { ["query:23505"] = 1 } })
    assert.matches("^not allowed: 1 x timeout: ", broken { seen = { ["timeout:"] = 1 } })
    assert.matches("^not allowed: 1 x lost:57P01 ", broken({ seen = { ["lost:57P01"] = 1 } }, { allow = "lost:57P05" }))
  end)

  it("holds against a row what pool serve itself answered, though no call was told it", function()
    assert.equal("not allowed: 2 x overloaded, not from a call", broken { errors = { overloaded = 2 } })
    assert.equal("not allowed: 1 x query, not from a call", broken { errors = { query = 2 }, seen = { query = 1, ["query:40001"] = 1 } })
    assert.equal("", broken { errors = { lost = 5, query = 1 }, seen = { lost = 3, ["lost:"] = 3, query = 1, ["query:40001"] = 1 } })
  end)

  it("asks that it was calm before the strike, and that somebody looked at the server", function()
    assert.equal("never calm before the strike", broken { calm = false })
    assert.equal("3 errors before the strike", broken { early = 3 })
    assert.equal("", broken({ calm = false, early = 3 }, { allow = "", calm = false }))
    assert.equal("nobody saw a connection at the server", broken { most = 0 })
    assert.equal("only 3 looks at a server", broken { looks = 3 })
    assert.equal("", broken({ most = false, looks = false }, { allow = "", driver = "sqlite" }))
  end)

  --- What one call of this kind leaves in the ledger when its COMMIT ends in this error.
  local function fate(kind, err, driver)
    local tx = {}
    function tx.query(_, text, n) return { text:find "^insert" and { n = n } or { n = n, m = n * 7 } } end
    local db = { driver = driver or "postgres" }
    function db.transaction(_, fn)
      assert(fn(tx))
      return nil, err
    end
    function db.session()
      return setmetatable({ query = tx.query, commit = function() return nil, err end }, { __close = function() end })
    end
    local calls = Calls.new(db, { calls = { kind } })
    assert.equal(err, select(2, calls:ask(9)))
    return calls.ledger[9]
  end

  it("knows what a COMMIT left that was answered with an error: nothing; and does not where it was lost", function()
    for _, kind in ipairs { "transaction", "session" } do
      assert.equal("clean", fate(kind, { kind = "query", sqlstate = "40001" }))
      assert.equal("clean", fate(kind, { kind = "query", sqlstate = "23505" }))
      assert.equal("clean", fate(kind, { kind = "lost", retryable = true }))
      assert.equal("clean", fate(kind, { kind = "query", sqlstate = "55P03", retryable = true }, "sqlite"))
      assert.equal("open", fate(kind, { kind = "lost", sqlstate = "57P01" }))
      assert.equal("open", fate(kind, { kind = "query", sqlstate = "53100" }, "sqlite"))
    end
  end)

  it("compares what is there with what callers were told", function()
    local ledger = { [1] = "right", [2] = "clean", [3] = "open", [4] = "open" }
    assert.same({}, matrix.fates({ 1, nil, 1 }, ledger))
    assert.same({ "transaction 1, which ended right, is there 0 times" }, matrix.fates({}, ledger))
    assert.same({ "transaction 2, which ended clean, is there 1 times" }, matrix.fates({ 1, 1 }, ledger))
    assert.same({ "transaction 3, which ended open, is there 2 times" }, matrix.fates({ 1, 0, 2 }, ledger))
  end)
end)
