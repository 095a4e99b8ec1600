local response = require "pool.response"

local function encode(value) return "json:" .. tostring(value.name or "") end
local function from(...) return response.from(encode, ...) end

describe("what a handler returns", function()
  it("is text, JSON, a status alone, or nothing", function()
    local made = from("hi")
    assert.same({ 200, "hi", "text/plain; charset=utf-8" }, { made.status, made.body, made.headers["content-type"] })
    made = from { name = "x" }
    assert.same({ 200, "json:x", "application/json" }, { made.status, made.body, made.headers["content-type"] })
    made = from(404)
    assert.same({ 404, {} }, { made.status, made.headers })
    assert.is_nil(made.body)
    assert.equal(204, from().status)
    assert.equal(204, from(nil).status)
  end)

  it("is a status and a body, with headers last", function()
    local made = from(201, { name = "x" }, { ["X-A"] = 1, ["content-Type"] = "application/x" })
    assert.same({ 201, "json:x", { ["x-a"] = "1", ["content-type"] = "application/x" } }, { made.status, made.body, made.headers })
    made = from("hi", { Vary = "Accept" })
    assert.same({ 200, "Accept" }, { made.status, made.headers.vary })
    made = from(301, nil, { location = "/" })
    assert.same({ 301, "/" }, { made.status, made.headers.location })
  end)

  it("is an error's response for nil, err, also behind a status", function()
    local err = { kind = "timeout", message = "late" }
    assert.same({ nil, err }, { from(nil, err) })
    assert.equal(err, (select(2, from(nil, err))))
    assert.equal(err, (select(2, from(200, nil, err))))
    assert.equal("text", (select(2, from(nil, "text"))))
  end)

  it("may be a response made elsewhere, whose status and headers it changes", function()
    local page = response.new(200, "<p>", { a = "1" }, "text/html")
    assert.same(page, from(page))
    local made = from(202, page, { b = "2" })
    assert.same({ 202, "<p>", "1", "2" }, { made.status, made.body, made.headers.a, made.headers.b })
  end)

  it("is never the response made elsewhere itself: one may answer many requests", function()
    local page = response.new(200, "<p>")
    from(404, page, { b = "2" })
    from(page).headers.c = "3"
    assert.same({ 200, "<p>", {} }, { page.status, page.body, page.headers })
  end)

  it("may be a response with headers added in any spelling, or as numbers", function()
    local page = response.new(200, "<p>", nil, "text/html")
    page.headers["Content-Type"], page.headers["X-Count"] = "text/plain", 5
    assert.same({ ["content-type"] = "text/plain", ["x-count"] = "5" }, from(page).headers)
  end)

  it("is refused by the number's name when the number is no status", function()
    for number, text in pairs { [999] = "999", [99] = "99", [2.5] = "2.5" } do
      assert.has_error(function() from(number, "x") end, text .. " is no status: those are 100 to 599")
      assert.has_error(function() from(number) end, text .. " is no status: those are 100 to 599")
    end
  end)

  it("is refused when it can be no response", function()
    assert.has_error(function() from(true) end)
    assert.has_error(function() from(1000) end)
    assert.has_error(function() from(2.5) end)
    assert.has_error(function() from(print) end)
    assert.has_error(function() from("x", "y") end)
    assert.has_error(function() from("x", { [1] = "y" }) end)
    assert.has_error(function() from("x", { y = true }) end)
  end)
end)
