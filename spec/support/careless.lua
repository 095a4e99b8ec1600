--- The application that spec/handler_spec.lua serves: everything that a handler can do wrong without meaning harm.
local http = require "pool.http"
local pool = require "pool"
local app = http.app()

local function failing(fn) return setmetatable({}, { __tostring = fn }) end

local function nested(depth)
  local t = {}
  for _ = 1, depth do t = { t } end
  return t
end

local function recurse() return 1 + recurse() end

local cyclic = {}
cyclic.self = cyclic

-- Each: what it returns or raises is to be answered 500, or as told in the spec.
local careless = {
  ["raise-nil"] = function() error(nil) end,
  ["raise-false"] = function() error(false) end,
  ["raise-number"] = function() error(5) end,
  ["raise-function"] = function() error(print) end,
  ["raise-coroutine"] = function() error(coroutine.create(print)) end,
  ["raise-failing"] = function() error(failing(function() error "again" end)) end,
  ["raise-no-text"] = function() error(failing(function() return {} end)) end,
  ["raise-yielding"] = function() error(failing(function() pool.sleep(0.01) return "slept" end)) end,
  ["raise-index"] = function() error(setmetatable({}, { __index = function() error "index" end })) end,
  ["raise-cyclic"] = function() error(cyclic) end,
  ["raise-deep"] = function() error(nested(1e6)) end,
  ["raise-long"] = function() error(("x"):rep(1e6)) end,
  ["raise-bytes"] = function() error "\xff\0\27[2J\r\nHTTP/1.1 200 OK" end,
  ["raise-kind"] = function() error { kind = "query", message = failing(error) } end,
  ["raise-fake"] = function() error { kind = {}, message = {} } end,
  ["raise-nested"] = function() error(setmetatable({}, { __tostring = function() return ("x"):rep(100) end, __name = "\n" })) end,
  ["return-error-without-text"] = function() return nil, { kind = "query", message = print } end,
  ["return-function"] = function() return print end,
  ["return-coroutine"] = function() return coroutine.create(print) end,
  ["return-userdata"] = function() return io.stdout end,
  ["return-pool"] = function(req) return req.db end,
  ["return-cyclic"] = function() return cyclic end,
  ["return-deep"] = function() return nested(1e6) end,
  ["return-mixed"] = function() return { 1, 2, a = 3 } end,
  ["return-function-inside"] = function() return { a = { b = print } } end,
  ["return-bytes-as-json"] = function() return { "\xff" } end,
  ["return-request"] = function(req) return req end,
  ["return-number"] = function() return 1.5 end,
  ["return-huge-number"] = function() return 200, math.huge end,
  ["status-low"] = function() return 99, "x" end,
  ["status-informational"] = function() return 100, "x" end,
  ["status-text"] = function() return "200", "x" end,
  ["header-split"] = function() return 200, "x", { ["x-a"] = "b\r\nset-cookie: owned=1" } end,
  ["header-newline"] = function() return 200, "x", { ["x-a"] = "b\nset-cookie: owned=1" } end,
  ["header-nul"] = function() return 200, "x", { ["x-a"] = "b\0c" } end,
  ["header-name-split"] = function() return 200, "x", { ["x-a: b\r\nset-cookie"] = "owned=1" } end,
  ["header-name-blank"] = function() return 200, "x", { ["x a"] = "b" } end,
  ["header-framing"] = function() return 200, "x", { ["Content-Length"] = "5" } end,
  ["header-chunked"] = function() return 200, "x", { ["transfer-encoding"] = "chunked" } end,
  ["header-table"] = function() return 200, "x", { ["x-a"] = { {} } } end,
  ["header-number"] = function() return 200, "x", { [5] = "x" } end,
  ["header-many"] = function() return 200, "x", { ["x-a"] = table.move({ "b" }, 1, 1, 1001, {}) } end,
  ["redirect-split"] = function() return http.redirect "/a\r\nset-cookie: owned=1" end,
  ["content-type-split"] = function() return http.text("x", 200, { ["content-type"] = "text/html\r\n\r\n<script>" }) end,
  ["recursion"] = function() return recurse() end,
  ["recursion-in-c"] = function() return ("x"):gsub(".", function(c) return (c:gsub(".", recurse)) end) end,
  ["memory"] = function() return ("x"):rep(1 << 40) end,
  ["pattern"] = function() return tostring(("("):rep(300):find(("("):rep(300))) end,
  ["close-fails"] = function()
    local _ <close> = setmetatable({}, { __close = function() error "closing" end })
    return "never"
  end,
  ["close-in-coroutine"] = function(req) -- a coroutine of its own that is dropped while it waits
    local co = coroutine.create(function() return req.db:query "select 1" end)
    return select(2, coroutine.resume(co))
  end,
  ["wait-in-coroutine"] = function(req) return coroutine.wrap(function() return req.db:query "select 1 as one" end)() end,
  ["wait-in-sort"] = function(req)
    local list = { 2, 1 }
    table.sort(list, function(a, b) return req.db:query "select 1 as one" and a < b end)
    return list
  end,
  ["yield"] = function() return coroutine.yield "what" end,
  ["yield-many"] = function() for _ = 1, 100 do coroutine.yield() end return "went on" end,
  ["abort-status"] = function() return http.abort(99, "x") end,
  ["abort-split"] = function() return http.abort(400, "a\r\nset-cookie: owned=1") end,
  ["stream-fails"] = function() return http.stream(function(write) write "begun" error "half-way" end) end,
  ["stream-table"] = function() return http.stream(function(write) write "begun" write {} end) end,
  ["answers-twice"] = function(req)
    req.exchange:respond(200, nil, "first")
    return "second"
  end,
  ["answers-and-fails"] = function(req)
    req.exchange:respond(200, nil, "first")
    error "after that"
  end,
  ["leaks"] = function(req)
    local c = assert(req.db:acquire())
    assert(c:begin())
    assert(c:query "select 1 as one")
    return "leaked"
  end,
  ["finaliser"] = function()
    setmetatable({}, { __gc = function() error "in a finaliser" end })
    collectgarbage()
    return "collected"
  end,
  ["holds"] = function(req)
    local _ = assert(req.db:acquire())
    pool.sleep(1e6)
  end,
  ["closes-the-pool-twice"] = function(req) return tostring(pcall(req.db.close, req.db, -1)) end,
}

app:get("/health", http.health)
app:get("/names", function()
  local names = {}
  for name in pairs(careless) do names[#names + 1] = name end
  table.sort(names)
  return names
end)
app:get("/careless/:name", function(req) return careless[req.params.name](req) end)
app:get("/giant/:n", function(req) return ("x"):rep(math.tointeger(tonumber(req.params.n))) end)
app:get("/loop", function() while true do end end)

return app
