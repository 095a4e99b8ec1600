-- What a handler does wrong without meaning harm costs its own request, and nobody else's: support/careless.lua is served.
local http = require "support.http"
local pool = require "pool"
local process = require "support.process"

local COMMAND = os.getenv "POOL_SPEC_COMMAND"
if not COMMAND then
  describe("a careless handler", function() pending "needs a build: run it through spec/run" end)
  return
end

local function serve(...)
  local p = process.start({ COMMAND, "serve", "spec/support/careless.lua", "--listen", "127.0.0.1:0", "--database-url",
    "sqlite:///:memory:", "--timeout", "0.2", ... })
  p.url, p.port = p:wait_line "^pool: listening on (http://127%.0%.0%.1:(%d+))$"
  return p
end

local function health(server) return assert(pool.json.decode(http.ask(server.url .. "/health").body)) end

-- What is not answered with a plain 500, by name: the status and the body's beginning.
local OTHERWISE = {
  ["abort-split"] = { 400, '{"detail":"a\\r\\nset-cookie: owned=1"' }, ["answers-twice"] = { 200, "first" },
  ["answers-and-fails"] = { 200, "first" }, ["close-in-coroutine"] = { 200, "spec/support/careless.lua" },
  ["finaliser"] = { 200, "collected" }, ["leaks"] = { 200, "leaked" }, ["closes-the-pool-twice"] = { 200, "false" },
  ["header-many"] = { 200, "x" },
}

describe("a handler that raises, returns, sends or waits for what it should not", function()
  local server, names
  setup(function()
    server = serve()
    names = assert(pool.json.decode(http.ask(server.url .. "/names").body))
  end)
  teardown(function()
    server:signal "TERM"
    assert.equal(0, server:wait(20), server:stderr())
    server:close()
  end)

  it("is answered, once, by a problem that says nothing of the cause, and the log has it", function()
    assert.is_true(#names > 60)
    for _, name in ipairs(names) do
      if name:find "^stream" then -- the head is out: the client must see that it is cut
        assert.error_matches(function() http.ask(server.url .. "/careless/" .. name) end, "%(18%) .*begun")
      elseif name ~= "holds" then
        local answer = http.ask(server.url .. "/careless/" .. name)
        local wanted = OTHERWISE[name] or { 500, "{" }
        assert.equal(wanted[1], answer.status, name .. ": " .. tostring(answer.body))
        assert.equal(wanted[2], answer.body:sub(1, #wanted[2]), name)
        if answer.status == 500 then
          local body = assert(pool.json.decode(answer.body))
          assert.same({ "Internal Server Error", 500, answer.headers["x-request-id"] }, { body.title, body.status, body.request_id })
          for field in pairs(body) do assert.truthy(({ title = 1, status = 1, request_id = 1 })[field], name .. ": " .. field) end
        end
        assert.is_nil(answer.headers["set-cookie"], name)
      end
    end
  end)

  it("leaves no connection leased and the server whole", function()
    local now = health(server)
    assert.same({ "healthy", 0, 0 }, { now.status, now.pool.leased, now.pool.waiting })
  end)

  it("that recurses for ever is told with the top of its stack, however deep that is", function()
    http.ask(server.url .. "/careless/recursion")
    server:wait_stderr "GET /careless/recursion: 500: [^\n]*stack overflow id=%x+ traceback=[^\n]*more than 500 levels"
  end)

  it("that holds a connection for ever loses it when its client goes", function()
    local client = process.start { "curl", "-s", "--noproxy", "*", server.url .. "/careless/holds" }
    process.wait_until(function() return health(server).pool.leased == 1 end, 10, "the lease")
    client:close()
    process.wait_until(function() return health(server).pool.leased == 0 end, 10, "the connection to come back")
  end)

  it("whose answer has megabytes sends all of them, and clients that stop reading hold up nobody", function()
    local output = process.run(("curl -s --noproxy '*' %s/giant/%d | wc -c"):format(server.url, 1 << 25))
    assert.equal(1 << 25, math.tointeger(tonumber(output)))
    local stalled = process.start { "bash", "-c", ([[for i in {1..30}; do exec {fd}<>/dev/tcp/127.0.0.1/%d
      printf 'GET /giant/1000000 HTTP/1.1\r\nHost: x\r\n\r\n' >&$fd; done; echo there; sleep 60]]):format(server.port) }
    stalled:wait_line "there"
    process.wait_until(function() return health(server).status == "healthy" end, 20, "the server to answer")
    stalled:close()
  end)
end)

describe("a handler that never ends", function()
  local NUMBERS = { TERM = 15, INT = 2 }

  local function ends(first, second)
    local server <close> = serve()
    local client <close> = process.start { "curl", "-s", "--noproxy", "*", "--max-time", "30", server.url .. "/loop" }
    process.wait_until(function() -- it loops once it has used more processor than a server at rest does
      local stat = process.run(("cat /proc/%d/stat"):format(server.pid))
      return tonumber(stat:match "^%d+ %b() %S (.*)$":match("^" .. ("%S+ "):rep(10) .. "(%d+)")) > 20
    end, 20, "the loop")
    server:signal(first)
    process.wait_until(function() -- the first has come when its handler is gone; two at once would be one
      local caught = process.run(("cat /proc/%d/status"):format(server.pid)):match "SigCgt:%s*(%x+)"
      return math.tointeger(tonumber(caught, 16)) & 1 << (NUMBERS[first] - 1) == 0
    end, 10, "the signal to come")
    assert.is_nil(server:code()) -- it is graceful, and would end when the handler does
    server:signal(second)
    assert.equal(128 + NUMBERS[second], server:wait(10))
    client:wait(10)
  end

  it("holds up its process, which two signals end all the same", function()
    ends("TERM", "TERM")
    ends("TERM", "INT")
    ends("INT", "TERM")
  end)
end)
