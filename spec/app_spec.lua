local app = require "pool.app"
local http = require "pool.http"
local response = require "pool.response"

local function encode(value) return "json:" .. tostring(value.status or value.name) end

--- A request through the whole application, with an exchange that notes its answer.
local function ask(application, method, path, options)
  local answer = { parts = {} }
  local exchange = { method = method, path = path, id = "r1", remote = "::1", query_string = "", headers = {}, body = "" }
  function exchange:respond(status, headers, body)
    if headers.bad then error "this response cannot be sent" end
    self.responded = true
    answer.status, answer.headers, answer.body = status, headers, body
  end
  function exchange:start(status, headers)
    if headers.bad then error "this response cannot be sent" end
    self.responded, answer.status = true, status
  end
  function exchange.write(_, chunk)
    if chunk == "gone" then return nil, "the client is gone" end
    table.insert(answer.parts, chunk)
    return true
  end
  function exchange.finish() answer.finished = true end
  local pool = { json = { encode = encode, decode = error }, log = function(_, message) table.insert(answer, message) end }
  application:handler(options and options.db or { name = "db" }, { pool = pool, dev = options and options.dev })(exchange)
  return answer
end

describe("an application", function()
  it("answers by its routes", function()
    local a = app.new():get("/hi/:name", function(req) return "hi " .. req.params.name end)
    assert.same({ 200, "hi you" }, { ask(a, "GET", "/hi/you").status, ask(a, "GET", "/hi/you").body })
    assert.equal(404, ask(a, "GET", "/ho").status)
    local refused = ask(a, "POST", "/hi/you")
    assert.same({ 405, "GET, HEAD, OPTIONS" }, { refused.status, refused.headers.allow })
    assert.equal(204, ask(a, "OPTIONS", "/hi/you").status)
  end)

  it("answers what a handler raises or returns as an error", function()
    local a = app.new()
    a:get("/raise", function() error("boom") end)
    a:get("/table", function() error({ kind = "lost", message = "m" }) end)
    a:get("/return", function() return nil, { kind = "deadline", message = "m" } end)
    a:get("/abort", function() error(response.abort(403, "no")) end)
    a:get("/nonsense", function() return true end)
    a:get("/split", function() return "x", { bad = "1" } end)
    local wanted = { raise = 500, table = 503, ["return"] = 504, abort = 403, nonsense = 500, split = 500 }
    for path, status in pairs(wanted) do
      local got = ask(a, "GET", "/" .. path)
      assert.equal(status, got.status, path)
      assert.equal(status >= 500 and 1 or 0, #got, path)
    end
  end)

  it("runs middleware from the outside in, which sees every response", function()
    local a, seen = app.new(), {}
    a:use(function(_, next)
      local made = next()
      table.insert(seen, made.status)
      made.headers.x = "1"
      return made
    end)
    a:use(function(req, next)
      if req.path == "/stop" then return 401, "stop" end
      return next()
    end)
    a:get("/ok", function() return "ok" end)
    a:get("/raise", function() error "boom" end)
    assert.equal("1", ask(a, "GET", "/ok").headers.x)
    ask(a, "GET", "/stop")
    ask(a, "GET", "/raise")
    ask(a, "GET", "/nowhere")
    assert.same({ 200, 401, 500, 404 }, seen)
  end)

  it("has groups with a prefix and middleware of their own", function()
    local a = app.new()
    local api = a:group("/api")
    api:use(function(req, next) return req.headers.key and next() or 401 end)
    api:group("/v1"):get("/x", function() return "x" end)
    api:get("/", function() return "root" end)
    a:get("/x", function() return "free" end)
    assert.equal(401, ask(a, "GET", "/api/v1/x").status)
    assert.equal(401, ask(a, "GET", "/api").status)
    assert.equal(200, ask(a, "GET", "/x").status)
  end)

  it("streams, and leaves a stream that failed unfinished", function()
    local a = app.new()
    local function stream(...)
      local parts = { ... }
      return function()
        local made = response.new(200)
        made.stream = function(write)
          for _, part in ipairs(parts) do write(part) end
        end
        return made
      end
    end
    a:get("/all", stream("a", "b"))
    a:get("/cut", stream("a", "gone", "b"))
    local got = ask(a, "GET", "/all")
    assert.same({ { "a", "b" }, true }, { got.parts, got.finished })
    got = ask(a, "GET", "/cut")
    assert.same({ "a" }, got.parts)
    assert.is_nil(got.finished)
    assert.is_nil(got[1], "a client that leaves is nobody's error, and logged by nobody")
  end)

  it("answers a stream whose head cannot be sent as an error, with the request's id", function()
    local a = app.new()
    a:get("/x", function() return http.stream(function(write) write "a" end, 200, { bad = "1" }) end)
    local got = ask(a, "GET", "/x")
    assert.same({ 500, "r1", {} }, { got.status, got.headers["x-request-id"], got.parts })
    assert.matches("GET /x: 500: .*this response cannot be sent", got[1])
  end)

  it("keeps the request's session open until its stream has ended", function()
    local a, events = app.new(), {}
    local session = setmetatable({}, { __close = function() events[#events + 1] = "closed" end })
    a:get("/x", function(req)
      req:session()
      return http.stream(function(write) write "a" events[#events + 1] = "streamed" end)
    end)
    ask(a, "GET", "/x", { db = { session = function() return session end } })
    assert.same({ "streamed", "closed" }, { events[1], events[2] })
  end)

  it("runs its hooks in the order added, with the database", function()
    local a, seen = app.new(), {}
    a:on("start", function(db) table.insert(seen, "1" .. db) end):on("start", function() table.insert(seen, "2") end)
    a:on("stop", function() table.insert(seen, "3") end)
    a:run_hooks("start", "db")
    assert.same({ "1db", "2" }, seen)
  end)

  it("refuses what cannot be a handler, a pattern, a prefix, a hook", function()
    local a = app.new()
    assert.has_error(function() a:get("/x") end)
    assert.has_error(function() a:get("x", print) end)
    assert.has_error(function() a:group("api") end)
    assert.has_error(function() a:group("/api/") end)
    assert.has_error(function() a:on("begin", print) end)
    assert.has_error(function() a:use("x") end)
    local _, message = pcall(function() a:get("x", print) end)
    assert.truthy(message:find("app_spec.lua", 1, true))
  end)
end)
