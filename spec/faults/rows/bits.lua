--- Bits that fall over between pool and server. Without TLS nobody below the application can see that a letter of a value, or of a
--- statement, has become another: what is promised there is that nothing crashes, nothing hangs beyond its deadline, what is not
--- a message any more is a typed error, and nobody ever gets another caller's answer. The row's own calls tell such a value (garbled)
--- from another's answer (wrong), for every value carries a check. With TLS nothing but the loss of connections is left.
local proxy = require "support.proxy"
local tls = require "faults.tls"

local rows = {}

local garbled = setmetatable({ kind = "garbled" }, { __tostring = function() return "garbled: the answer is nobody's" end })

local function sign(n) return ("%d:%d"):format(n, n * 7919 % 1000003) end

--- Is it some call's value, whole?
local function belongs(value)
  local n = type(value) == "string" and value:match "^(%d+):%d+$"
  return n and #n < 16 and sign(math.tointeger(tonumber(n))) == value
end

local function ask(db, n)
  local sent = sign(n)
  local answer, err = db:query("select $1::text as a, $1::text as b", sent)
  if not answer then -- a statement that the server no longer understands is garbled, too
    return nil, err.kind == "query" and garbled or err
  end
  local row = answer[1] or {}
  if #answer == 1 and row.a == sent and row.b == sent then return true end
  for _, value in pairs(row) do
    if value ~= sent and belongs(value) then error(("%s for %s"):format(value, sent), 0) end
  end
  return nil, garbled
end

local function setup(w)
  w.proxy = proxy.start()
  w:defer(function() w.proxy:close() end)
  w.url.through, w.url.gssencmode, w.url.sslmode = w.proxy, "disable", w.url.sslmode or "disable"
end

local function turn_over(settings, count)
  return function(w)
    w.proxy:set(settings)
    w:more(count, 60)
    w.proxy:calm()
  end
end

for _, direction in ipairs { "down", "up" } do
  rows[#rows + 1] = {
    name = "bits turned over " .. (direction == "up" and "towards the server" or "on the way back"), loads = { "tasks" },
    allow = "lost connect deadline timeout garbled", saw = "garbled", calls = {}, ask = ask, setup = setup,
    settings = { statement_timeout = 0.5, connect_timeout = 1, timeout = 3, statement_cache = 0 },
    bound = 7, why = "a length that fell over keeps a connection for statement_timeout and the five seconds' patience with its cancel",
    excess = 4, excess_why = "the server hears of its end of a link in its own time, when the client opens others already, four at a time",
    -- towards the server all of a log-in is spared: what fell over there would be its own business for as long as the session lasts
    strike = turn_over({ flip = 0.001, direction = direction, spare = direction == "up" and 600 or 0 }, 2000),
  }
end

rows[#rows + 1] = {
  name = "bits turned over under TLS", needs = tls.lacks, allow = "lost connect", saw = "lost", url = { sslmode = "require" },
  setup = function(w)
    tls.authority "one"
    tls.present(w, tls.certificate("one", "IP:127.0.0.1"))
    w:defer(tls.undo)
    setup(w)
  end,
  excess = 4, excess_why = "the server hears of its end of a link in its own time, when the client opens others already, four at a time",
  strike = turn_over({ flip = 1e-5 }, 500),
}

return rows
