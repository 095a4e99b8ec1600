--- Responses: what a handler returned, made uniform. Pure but for the JSON encoder.

local response = {}

---@class pool.Response
---@field status integer
---@field headers table<string, string | string[]> by name in lower case
---@field body string?
---@field stream? fun(write: fun(chunk: string))
local Response = {}
Response.__index = Response

---@class pool.Abort a refusal raised on purpose by http.abort: its detail is for the client
---@field status integer
---@field detail string?
local Abort = { __tostring = function(a) return ("%d %s"):format(a.status, a.detail or "") end }

local JSON_TYPE = "application/json"
local TEXT_TYPE = "text/plain; charset=utf-8"

--- A copy with names in lower case, values as text. Of one name in two spellings the one not in lower case counts: it was added to
--- a response, whose own are in lower case.
local function headers_of(given)
  local headers = {}
  if given == nil then return headers end
  if type(given) ~= "table" then error(("headers must be a table, not a %s"):format(type(given)), 0) end
  for name, value in pairs(given) do
    if type(name) ~= "string" then error(("a header's name must be a string, not a %s"):format(type(name)), 0) end
    local kind = type(value)
    if kind == "number" then value = tostring(value)
    elseif kind ~= "string" and kind ~= "table" then error(("header %s: a %s is no value"):format(name, kind), 0) end
    local lower = name:lower()
    if lower ~= name or headers[lower] == nil then headers[lower] = value end
  end
  return headers
end

---@param status integer
---@param body string?
---@param headers? table
---@param content_type? string unless the headers say
---@return pool.Response
function response.new(status, body, headers, content_type)
  local made = headers_of(headers)
  if content_type and not made["content-type"] then made["content-type"] = content_type end
  return setmetatable({ status = status, headers = made, body = body }, Response)
end

function response.is(value) return getmetatable(value) == Response end

function response.is_abort(value) return getmetatable(value) == Abort end

function response.abort(status, detail) return setmetatable({ status = status, detail = detail }, Abort) end

local function is_status(value) return math.type(value) == "integer" and value >= 100 and value <= 599 end

local function is_error(value) return type(value) == "table" and type(value.kind) == "string" and value.message ~= nil end

local function with_body(status, body, headers, encode)
  if response.is(body) then -- a copy: one made ahead may answer many requests
    local made = response.new(status or body.status, body.body, body.headers)
    for name, value in pairs(headers_of(headers)) do made.headers[name] = value end
    made.stream = body.stream
    return made
  end
  if body == nil then return response.new(status or 204, nil, headers) end
  if type(body) == "string" then return response.new(status or 200, body, headers, TEXT_TYPE) end
  if type(body) == "table" or type(body) == "userdata" then
    return response.new(status or 200, encode(body), headers, JSON_TYPE)
  end
  if type(body) == "number" and not status then error(("%s is no status: those are 100 to 599"):format(body), 0) end
  error(("a handler returned a %s; it returns [status,] body [, headers]: text, a table, or a status alone"):format(type(body)), 0)
end

--- What a handler returned as a response: `[status,] body [, headers]`.
---@param encode fun(value: any): string
---@param first any
---@return pool.Response? response
---@return any err of `nil, err`
function response.from(encode, first, second, third)
  if first == nil then
    if second ~= nil then return nil, second end
    return response.new(204)
  end
  if is_status(first) then
    if second == nil and is_error(third) then return nil, third end -- return 200, db:query(...)
    return with_body(first, second, third, encode)
  end
  return with_body(nil, first, second, encode)
end

response.JSON_TYPE, response.TEXT_TYPE = JSON_TYPE, TEXT_TYPE

return response
