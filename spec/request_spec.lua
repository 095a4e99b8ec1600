local request = require "pool.request"
local response = require "pool.response"

local function decode(text)
  if text == "{}" then return { yes = true } end
  return nil, { kind = "json", message = "malformed" }
end

local function new(fields, db)
  local exchange = { method = "GET", path = "/", id = "r1", remote = "::1", query_string = "", headers = {}, body = "" }
  for name, value in pairs(fields or {}) do exchange[name] = value end
  return request.new(exchange, db or {}, decode)
end

local function aborts(status, fn, ...)
  local fine, err = pcall(fn, ...)
  assert.is_false(fine)
  assert.is_true(response.is_abort(err))
  assert.equal(status, err.status)
end

describe("a request", function()
  it("has its query decoded, the last of repeated names, and a table always", function()
    assert.same({}, new().query)
    assert.same({ a = "2", b = "x y", c = "", ["d e"] = "=" }, new({ query_string = "a=1&a=2&b=x+y&c&d%20e=%3D&" }).query)
  end)

  it("aborts with 400 for a query that is not percent-encoded UTF-8", function()
    for _, text in ipairs { "a=%", "a=%zz", "%ff=1", "a=%00" } do
      aborts(400, function() return new({ query_string = text }).query end)
    end
  end)

  it("decodes JSON, and aborts with 400 when it is malformed", function()
    assert.same({ yes = true }, new({ body = "{}" }):json())
    aborts(400, function() return new({ body = "{" }):json() end)
    aborts(400, function() return new():json() end)
  end)

  it("decodes a form, and aborts with 415 for another kind of body", function()
    local headers = { ["content-type"] = "Application/x-www-form-urlencoded; charset=utf-8" }
    assert.same({ a = "1", b = "é" }, new({ headers = headers, body = "a=1&b=%C3%A9" }):form())
    aborts(415, function() return new({ body = "a=1" }):form() end)
  end)

  it("finds a cookie", function()
    local req = new { headers = { cookie = 'a=1; b="two"; aa=3; c=x=y' } }
    assert.same({ "1", "two", "x=y" }, { req:cookie "a", req:cookie "b", req:cookie "c" })
    assert.is_nil(req:cookie "z")
    assert.same({ "x  y", "", "" },
      { request.cookie_of(" a = x  y\t ; b=;c= ", "a"), request.cookie_of("b=;", "b"), request.cookie_of("c= ", "c") })
    assert.is_nil(new():cookie "a")
  end)

  it("finds a cookie in no time, however many blanks somebody sends", function()
    local header, before = "a=x" .. (" "):rep(16000) .. "x", os.clock()
    assert.equal(16002, #request.cookie_of(header, "a"))
    assert.is_true(os.clock() - before < 0.5) -- processor time; it took two seconds
  end)

  it("has one session, ended with it", function()
    local ended = 0
    local db = { session = function() return setmetatable({}, { __close = function() ended = ended + 1 end }) end }
    local req = new(nil, db)
    assert.equal(req:session(), req:session())
    request.close(req)
    assert.equal(1, ended)
    request.close(new(nil, db))
    assert.equal(1, ended)
  end)
end)
