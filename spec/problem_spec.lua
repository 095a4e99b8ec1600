local problem = require "pool.problem"
local response = require "pool.response"

local function encode(value) return value end -- the body as a table, to look at

local function context(fields)
  local lines = {}
  local made = { encode = encode, id = "r1", method = "GET", path = "/x", log = function(...) lines[#lines + 1] = { ... } end }
  for name, value in pairs(fields or {}) do made[name] = value end
  return made, lines
end

describe("a problem", function()
  it("has the status of its error's kind, and says when to come back", function()
    local wanted = {
      timeout = 503, overloaded = 503, connect = 503, lost = 503, closed = 503, deadline = 504,
      query = 500, cancelled = 500, settings = 500, policy = 500, json = 500, other = 500,
    }
    for kind, status in pairs(wanted) do
      local made = problem.from({ kind = kind, message = "m" }, nil, (context()))
      assert.equal(status, made.status, kind)
      assert.equal(status == 503 and "1" or nil, made.headers["retry-after"], kind)
      assert.equal("application/problem+json", made.headers["content-type"])
      assert.equal(status, made.body.status)
      assert.equal("r1", made.body.request_id)
    end
    assert.equal(500, problem.from("text", nil, (context())).status)
    assert.equal(500, problem.from(nil, nil, (context())).status)
    assert.equal(500, problem.from({}, nil, (context())).status)
  end)

  it("keeps its cause for the log", function()
    local secret = setmetatable({ kind = "query", message = "secret" }, { __tostring = function() return "query: secret" end })
    local ctx, lines = context()
    local made = problem.from(secret, "the traceback", ctx)
    for _, value in pairs(made.body) do assert.is_nil(tostring(value):find("secret", 1, true)) end
    assert.is_nil(made.body.traceback)
    assert.equal(1, #lines)
    assert.equal("error", lines[1][1])
    assert.truthy(lines[1][2]:find("query: secret", 1, true))
    assert.is_nil(lines[1][2]:find("\n", 1, true))
    assert.equal("the traceback", lines[1][3].traceback)
    assert.equal("r1", lines[1][3].id)
  end)

  it("shows its cause with --dev", function()
    local made = problem.from("boom", "the traceback", (context { dev = true }))
    assert.same({ "boom", "the traceback" }, { made.body.cause, made.body.traceback })
  end)

  it("of an abort tells the client why, and is not logged", function()
    local ctx, lines = context()
    local made = problem.from(response.abort(409, "taken"), nil, ctx)
    assert.same({ 409, "taken", "Conflict" }, { made.status, made.body.detail, made.body.title })
    assert.equal(0, #lines)
  end)

  it("is told also when its cause or its detail is not UTF-8", function()
    local json = require "pool".json
    local ctx = context { dev = true, encode = json.encode }
    local body = json.decode(problem.from("caf\xe9 \xff", nil, ctx).body)
    assert.equal("caf\u{FFFD} \u{FFFD}", body.cause)
    body = json.decode(problem.from(response.abort(404, "\xe9t\u{E9}"), nil, ctx).body)
    assert.same({ "\u{FFFD}t\u{E9}", "r1" }, { body.detail, body.request_id })
  end)

  it("of a raised table that cannot tell itself logs its kind and message, or its plain fields", function()
    local wanted = {
      ["query: no such thing"] = { kind = "query", message = "no such thing" },
      ["no such thing"] = { message = "no such thing", code = 5 },
      ['a table {code = 5, where = "here", why = a table}'] = { code = 5, where = "here", why = {} },
      ["a table {}"] = {},
    }
    for text, err in pairs(wanted) do
      local ctx, lines = context()
      assert.equal(500, problem.from(err, nil, ctx).status)
      assert.equal("GET /x: 500: " .. text, lines[1][2])
    end
    assert.is_true(#problem.text { long = ("x"):rep(10000) } < 300)
  end)

  it("survives an error whose __tostring fails", function()
    local bad = setmetatable({}, { __tostring = function() error "no" end })
    local ctx, lines = context()
    assert.equal(500, problem.from(bad, nil, ctx).status)
    assert.equal(1, #lines)
  end)
end)
