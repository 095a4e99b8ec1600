--- Requests as handlers see them. Fields are made when first asked for.

local core = require "pool.core"
local response = require "pool.response"
local router = require "pool.router"

local request = {}

---@class pool.Request
---@field method string
---@field path string as sent, percent-encoded
---@field params table<string, string> of the route, decoded
---@field query table<string, string> decoded; the last of repeated names
---@field query_string string
---@field headers table<string, string> by name in lower case
---@field body string
---@field id string
---@field remote string the client's address
---@field db pool.Pool
---@field deadline number? by when the answer is due, as pool.now(); nil when there is no deadline
local Request = {}

--- name=value pairs joined by &, percent-decoded, `+` a space. Raises 400 for what cannot be decoded.
---@param text string
---@return table<string, string>
function request.pairs_of(text)
  local values = {}
  for pair in text:gmatch("[^&]+") do
    local name, value = pair:match("^([^=]*)=(.*)$")
    name = router.decode(((name or pair):gsub("%+", " ")))
    value = router.decode(((value or ""):gsub("%+", " ")))
    if not name or not value then error(response.abort(400, "a parameter is not percent-encoded UTF-8"), 0) end
    values[name] = value
  end
  return values
end

--- The value of a cookie in a Cookie header, nil when it is not there.
function request.cookie_of(header, wanted)
  for pair in (header or ""):gmatch("[^;]+") do
    local name, value = pair:match("^%s*([^=%s]+)%s*=%s*(.*)$")
    if name == wanted then
      value = value:match("^.*%S") or "" -- a lazy match up to blanks at the end would take the square of their number
      return value:match('^"(.*)"$') or value
    end
  end
end

local LAZY = {
  headers = function(req) return rawget(req, "exchange").headers end,
  body = function(req) return rawget(req, "exchange").body end,
  query_string = function(req) return rawget(req, "exchange").query_string end,
  query = function(req) return request.pairs_of(req.query_string) end,
}

local methods = {}

-- The names long enough to tell a slip from another name.
local NAMES = {
  "body", "cookie", "deadline", "form", "headers", "json", "method", "params", "path", "query", "query_string", "remote", "session",
}

--- A field that is not there is nil, since middleware may set fields of its own; but one that is nearly the name of a request's own
--- is a slip, and raises.
local function absent(name)
  if name == "deadline" or type(name) ~= "string" then return nil end
  local near = core.nearest(name, NAMES)
  if near and math.abs(#near - #name) <= 1 then core.no_field("a Request", name, { [near] = true }) end
  return nil
end

function Request.__index(req, name)
  local method = methods[name]
  if method then return method end
  local lazy = LAZY[name]
  if not lazy then return absent(name) end
  local value = lazy(req)
  rawset(req, name, value)
  return value
end

--- The body decoded as JSON; 400 when it is malformed.
---@return any
function methods:json()
  local value, err = rawget(self, "decode")(self.body)
  if value == nil then error(response.abort(400, "the body is not JSON: " .. (err and err.message or "it is empty")), 0) end
  return value
end

--- The body of an HTML form (application/x-www-form-urlencoded); 415 for another kind of body.
---@return table<string, string>
function methods:form()
  local kind = (self.headers["content-type"] or ""):lower():match("^%s*([^;%s]*)")
  if kind ~= "application/x-www-form-urlencoded" then
    error(response.abort(415, "the body must be application/x-www-form-urlencoded"), 0)
  end
  return request.pairs_of(self.body)
end

---@param name string
---@return string?
function methods:cookie(name) return request.cookie_of(self.headers.cookie, name) end

--- The request's session: one a request, rolled back at its end unless committed.
---@return pool.Session
function methods:session()
  local session = rawget(self, "current_session")
  if not session then
    session = self.db:session()
    rawset(self, "current_session", session)
  end
  return session
end

---@param exchange table pool.Exchange
---@param db pool.Pool
---@param decode fun(text: string): any, any
---@param deadline number?
---@return pool.Request
function request.new(exchange, db, decode, deadline)
  return setmetatable({
    exchange = exchange, decode = decode, db = db, deadline = deadline,
    method = exchange.method, path = exchange.path, id = exchange.id, remote = exchange.remote, params = {},
  }, Request)
end

--- Ends what the request still holds.
function request.close(req)
  local session <close> = rawget(req, "current_session") -- luacheck: ignore
end

return request
