-- Results on their way into Lua: one guard a Pool holds them (src/lua/lquery.c), and whoever comes in between gets another.
-- A result that nobody frees is the sanitizer's to see.
local pool = require "pool"
local postgres = require "support.postgres"

local MANY = "select i, 'row ' || i as text from generate_series(1, 3000) i"

local function right(rows)
  for i, row in ipairs(rows) do
    if row.i ~= i or row.text ~= "row " .. i then return false end
  end
  return #rows == 3000
end

describe("a query", function()
  it("made by a finaliser amid another's rows leaves both results whole", function()
    local db = pool.new(postgres.url { application_name = "query-spec" })
    local inside, met = {}, 0
    local function litter()
      setmetatable({}, { __gc = function()
        if met >= 20 then return end
        local rows = db:query(MANY)
        met = met + 1
        inside[met] = rows and right(rows)
        litter()
      end })
    end
    collectgarbage()
    litter()
    local round = 0
    while met < 20 and round < 1000 do
      round = round + 1
      assert.is_true(right(assert(db:query(MANY))))
    end
    met = 20
    assert.equal(20, #inside)
    for _, whole in ipairs(inside) do assert.is_true(whole) end
    db:close()
    postgres.wait_gone "query-spec"
  end)

  it("on a connection shares it with the pool's own", function()
    local db = pool.new(postgres.url { application_name = "query-spec" })
    local c = assert(db:acquire())
    for _ = 1, 3 do
      assert.is_true(right(assert(c:query(MANY))))
      assert.is_true(right(assert(db:query(MANY))))
      assert.equal('[{"i":1}]', assert(c:json "select 1 as i"))
      assert.is_true(c:exec "select 1; select 2")
    end
    c:release()
    db:close()
  end)
end)
