--- Problems: errors as responses (RFC 9457), and what of them goes to the log. The cause is for the log; a body holds it only with --dev.

local response = require "pool.response"

local problem = {}

local RETRY_AFTER = "1" -- seconds

local TITLES = {
  [400] = "Bad Request", [401] = "Unauthorized", [402] = "Payment Required", [403] = "Forbidden", [404] = "Not Found",
  [405] = "Method Not Allowed", [406] = "Not Acceptable", [408] = "Request Timeout", [409] = "Conflict", [410] = "Gone",
  [411] = "Length Required", [412] = "Precondition Failed", [413] = "Content Too Large", [415] = "Unsupported Media Type",
  [418] = "I'm a teapot", [422] = "Unprocessable Content", [423] = "Locked", [424] = "Failed Dependency",
  [428] = "Precondition Required", [429] = "Too Many Requests", [451] = "Unavailable For Legal Reasons",
  [500] = "Internal Server Error", [501] = "Not Implemented", [502] = "Bad Gateway", [503] = "Service Unavailable",
  [504] = "Gateway Timeout",
}

local BUSY = "The database is busy; try again."
local AWAY = "The database cannot be reached; try again."

local KINDS = { -- every other kind is 500
  timeout = { 503, BUSY },
  overloaded = { 503, BUSY },
  connect = { 503, AWAY },
  lost = { 503, AWAY },
  closed = { 503, AWAY },
  deadline = { 504, "The request took too long." },
}

--- What of a text is not UTF-8 becomes U+FFFD: a cause or a detail must not hide the problem that it belongs to.
local function sound(text)
  if type(text) ~= "string" or utf8.len(text) then return text end
  local parts, i = {}, 1
  while i <= #text do
    local _, bad = utf8.len(text, i)
    parts[#parts + 1] = text:sub(i, bad and bad - 1)
    if bad then parts[#parts + 1] = "\u{FFFD}" end
    i = (bad or #text) + 1
  end
  return table.concat(parts)
end

--- The title of a status.
function problem.title(status)
  return TITLES[status] or (status >= 500 and "Server Error" or status >= 400 and "Client Error" or "Status " .. status)
end

---@param err any
---@return integer status
---@return string? detail for the client
function problem.classify(err)
  if response.is_abort(err) then return err.status, err.detail end
  local known = type(err) == "table" and type(err.kind) == "string" and KINDS[err.kind]
  if known then return known[1], known[2] end
  return 500, nil
end

--- The response for a status.
---@param encode fun(value: any): string
---@param status integer
---@param detail? string
---@param id? string the request's
---@param headers? table
---@param extra? table more members (with --dev)
---@return pool.Response
function problem.response(encode, status, detail, id, headers, extra)
  local body = { title = problem.title(status), status = status, detail = sound(detail), request_id = id }
  for name, value in pairs(extra or {}) do body[name] = sound(value) end
  local made = response.new(status, encode(body), headers, "application/problem+json")
  if status == 503 and not made.headers["retry-after"] then made.headers["retry-after"] = RETRY_AFTER end
  if id then made.headers["x-request-id"] = id end
  return made
end

local RENDERED = 200 -- bytes of a raised table that the log shows

--- A raised table that cannot tell itself: its kind and message, else its plain fields by name.
local function render(err)
  if type(err.message) == "string" then
    return (type(err.kind) == "string" and err.kind .. ": " or "") .. err.message
  end
  local parts = {}
  for name, value in next, err do
    local kind = type(value)
    if kind == "string" then value = ("%q"):format(value) end
    parts[#parts + 1] = ("%s = %s"):format(tostring(name), (kind == "table" or kind == "userdata") and "a " .. kind or tostring(value))
  end
  table.sort(parts)
  local text = table.concat(parts, ", ")
  return ("a table {%s}"):format(#text <= RENDERED and text or text:sub(1, RENDERED) .. "...")
end

local function tell(err)
  local meta = getmetatable(err)
  if type(err) ~= "table" or (type(meta) == "table" and (meta.__tostring or meta.__name)) then return tostring(err) end
  return render(err)
end

--- The text of an error that surely can be had: a failing __tostring must not hide the failure it describes.
function problem.text(err)
  local fine, text = pcall(tell, err)
  return fine and text or ("(an error that is a %s)"):format(type(err))
end

--- A line of the log is one line.
local function one_line(text) return (text:gsub("%s*\n%s*", " | ")) end

---@class pool.problem.Context
---@field encode fun(value: any): string
---@field log fun(level: string, message: string, fields: table)
---@field id string? the request's
---@field method string?
---@field path string?
---@field dev boolean?

--- An error as a response; the cause is logged unless it is the client's own mistake.
---@param err any
---@param traceback string?
---@param context pool.problem.Context
---@return pool.Response
function problem.from(err, traceback, context)
  local status, detail = problem.classify(err)
  local extra
  if status >= 500 and not response.is_abort(err) then
    local cause = problem.text(err)
    local kind = type(err) == "table" and type(err.kind) == "string" and err.kind or nil
    context.log("error", ("%s %s: %d: %s"):format(context.method or "?", context.path or "?", status, one_line(cause)),
      { id = context.id, kind = kind, traceback = traceback and one_line(traceback) })
    if context.dev then extra = { cause = cause, kind = kind, traceback = traceback } end
  end
  return problem.response(context.encode, status, detail, context.id, nil, extra)
end

return problem
