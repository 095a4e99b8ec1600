--- What the value specs share: one pool on the specs' PostgreSQL, closed with a look at what it left behind, and comparisons that
--- tell an integer from a float.
local assert = require "luassert"
local pool = require "pool"
local postgres = require "support.postgres"

local values, serial = {}, 0

--- A pool whose close asserts that nothing is left: no lease, nobody in line, no connection at the server.
---@param settings table?  beside database_url, size and max_overflow (1 and 0)
---@param url table?       for postgres.url
function values.open(settings, url)
  serial = serial + 1
  local options, all = { application_name = "values-" .. serial }, { size = 1, max_overflow = 0 }
  for name, value in pairs(url or {}) do options[name] = value end
  for name, value in pairs(settings or {}) do all[name] = value end
  all.database_url = postgres.url(options)
  local db = pool.new(all)
  return db, function()
    local stats = db:stats()
    assert(stats.leased == 0 and stats.waiting == 0, "a lease or a waiter was left")
    db:close()
    postgres.wait_gone(options.application_name)
  end
end

--- The one cell of the one row.
function values.one(db, sql, ...)
  local rows = assert(db:query(sql, ...))
  assert(#rows == 1, "not one row")
  return rows[1][rows.columns[1]]
end

--- Equal, and of one type: 1 is not 1.0, and 0.0 is not -0.0.
function values.same(want, got)
  local equal = want == got and math.type(want) == math.type(got)
  if equal and want == 0 and math.type(want) == "float" then equal = 1 / want == 1 / got end
  local function say(v) return ("%s (%s)"):format(v, math.type(v) or type(v)) end
  if not equal then error("want " .. say(want) .. ", got " .. say(got), 2) end
end

--- The same JSON by all three ways: db:json, the rows, and each row for itself. Returns it.
function values.json(db, sql, ...)
  local text, rows = assert(db:json(sql, ...)), assert(db:query(sql, ...))
  assert.equal(text, pool.json.encode(rows))
  local each = {}
  for i, row in ipairs(rows) do each[i] = pool.json.encode(row) end
  assert.equal(text, "[" .. table.concat(each, ",") .. "]")
  return text
end

--- All 256 bytes.
function values.every_byte()
  local bytes = {}
  for i = 0, 255 do bytes[i + 1] = string.char(i) end
  return table.concat(bytes)
end

return values
