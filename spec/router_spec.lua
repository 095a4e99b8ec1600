local router = require "pool.router"

local function routes(list)
  local r = router.new()
  for _, route in ipairs(list) do
    local method, pattern = route:match("^(%S+) (%S+)$")
    r:add(method, pattern, route)
  end
  return r
end

describe("the router", function()
  it("finds a path by its text, with and without a final slash", function()
    local r = routes { "GET /", "GET /tasks", "GET /tasks/" }
    assert.equal("GET /", (r:match("GET", "/")))
    assert.equal("GET /tasks", (r:match("GET", "/tasks")))
    assert.equal("GET /tasks/", (r:match("GET", "/tasks/")))
    assert.same({ status = 404 }, (select(2, r:match("GET", "/task"))))
    assert.same({ status = 404 }, (select(2, r:match("GET", "/tasks/1"))))
  end)

  it("gives parameters as text, percent-decoded one segment at a time", function()
    local r = routes { "GET /tasks/:id/notes/:note" }
    local _, params = r:match("GET", "/tasks/a%2Fb/notes/%C3%A9+x")
    assert.same({ id = "a/b", note = "é+x" }, params)
  end)

  it("takes no empty parameter", function()
    local r = routes { "GET /tasks/:id" }
    assert.same({ status = 404 }, (select(2, r:match("GET", "/tasks/"))))
  end)

  it("gives a rest all that is left, the empty text too, but no step to the parent", function()
    local r = routes { "GET /files/*path" }
    assert.same({ path = "a/b c" }, (select(2, r:match("GET", "/files/a/b%20c"))))
    assert.same({ path = "" }, (select(2, r:match("GET", "/files/"))))
    assert.same({ status = 404 }, (select(2, r:match("GET", "/files"))))
    for _, path in ipairs { "/files/..", "/files/../x", "/files/a/%2e%2E/b", "/files/a%2F..%2Fb" } do
      assert.same({ status = 400 }, (select(2, r:match("GET", path))))
    end
  end)

  it("prefers text to a parameter and a parameter to a rest", function()
    local r = routes { "GET /*rest", "GET /:one", "GET /new", "GET /:one/edit" }
    assert.equal("GET /new", (r:match("GET", "/new")))
    assert.equal("GET /:one", (r:match("GET", "/old")))
    assert.equal("GET /:one/edit", (r:match("GET", "/new/edit")))
    local handler, params = r:match("GET", "/new/x")
    assert.equal("GET /*rest", handler)
    assert.same({ rest = "new/x" }, params)
  end)

  it("takes a lesser match when the better one lacks the method", function()
    local r = routes { "GET /tasks/new", "DELETE /tasks/:id" }
    local handler, params = r:match("DELETE", "/tasks/new")
    assert.equal("DELETE /tasks/:id", handler)
    assert.same({ id = "new" }, params)
  end)

  it("answers HEAD with GET, unless HEAD has a route", function()
    local r = routes { "GET /a", "GET /b", "HEAD /b" }
    assert.equal("GET /a", (r:match("HEAD", "/a")))
    assert.equal("HEAD /b", (r:match("HEAD", "/b")))
  end)

  it("says which methods a path allows", function()
    local r = routes { "GET /a", "POST /a", "PUT /b" }
    assert.same({ status = 405, allow = "GET, HEAD, OPTIONS, POST" }, (select(2, r:match("DELETE", "/a"))))
    assert.same({ status = 405, allow = "OPTIONS, PUT" }, (select(2, r:match("GET", "/b"))))
    assert.same({ status = 204, allow = "GET, HEAD, OPTIONS, POST" }, (select(2, r:match("OPTIONS", "/a"))))
    assert.equal(204, (select(2, r:match("OPTIONS", "*"))).status)
  end)

  it("lets a route for every method take what has no own", function()
    local r = routes { "* /a", "GET /a" }
    assert.equal("GET /a", (r:match("GET", "/a")))
    assert.equal("* /a", (r:match("DELETE", "/a")))
    assert.equal("* /a", (r:match("OPTIONS", "/a")))
  end)

  it("refuses a path that is not percent-encoded UTF-8 without NUL", function()
    local r = routes { "GET /:x" }
    for _, path in ipairs { "/%", "/%2", "/%zz", "/%00", "/%ff", "/%ed%a0%80" } do
      assert.same({ status = 400 }, (select(2, r:match("GET", path))))
    end
  end)

  it("refuses patterns that make no sense, and the same route twice", function()
    local r = routes { "GET /a/:id" }
    for _, pattern in ipairs { "a", "", "/:", "/:1", "/*", "/*x/y", "/:x/:x", "/a/:other" } do
      assert.has_error(function() r:add("GET", pattern, "h") end)
    end
    assert.has_error(function() r:add("GET", nil, "h") end)
  end)
end)
