--- `require "pool.http"`: what an application for `pool serve` is written with.

local core = require "pool.core"
local problem = require "pool.problem"
local response = require "pool.response"

local http = {}

local REDIRECTS = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }
local PROBE_SECONDS = 1 -- that http.health may take to learn whether the database answers

local function check_text(value, what)
  if type(value) ~= "string" then error(("%s: a string is wanted, not a %s"):format(what, type(value)), 3) end
end

--- A new application.
---@return pool.App
function http.app() return require("pool.app").new() end

---@param text string
---@param status? integer default 200
---@param headers? table
---@return pool.Response
function http.html(text, status, headers)
  check_text(text, "http.html")
  return response.new(status or 200, text, headers, "text/html; charset=utf-8")
end

---@param text string
---@param status? integer default 200
---@param headers? table
---@return pool.Response
function http.text(text, status, headers)
  check_text(text, "http.text")
  return response.new(status or 200, text, headers, response.TEXT_TYPE)
end

--- Any value as JSON, a string or a number too.
---@param value any
---@param status? integer default 200
---@param headers? table
---@return pool.Response
function http.json(value, status, headers)
  local pool = require "pool"
  if value == nil then value = pool.null end
  return response.new(status or 200, pool.json.encode(value), headers, response.JSON_TYPE)
end

---@param location string
---@param status? integer 301, 302, 303, 307 or 308; default 302
---@return pool.Response
function http.redirect(location, status)
  check_text(location, "http.redirect")
  status = status or 302
  if not REDIRECTS[status] then error(("http.redirect: %s is none of 301, 302, 303, 307, 308"):format(tostring(status)), 2) end
  return response.new(status, nil, { location = location })
end

--- A response whose body is written piece by piece: fn(write); write(chunk) waits for a slow client and raises when it is gone.
---@param fn fun(write: fun(chunk: string))
---@param status? integer default 200
---@param headers? table
---@return pool.Response
function http.stream(fn, status, headers)
  if type(fn) ~= "function" then error(("http.stream: a function is wanted, not a %s"):format(type(fn)), 2) end
  local made = response.new(status or 200, nil, headers, "application/octet-stream")
  made.stream = fn
  return made
end

--- Ends the handler with a status; `detail` is told to the client.
---@param status integer 400..599
---@param detail? string
function http.abort(status, detail)
  if math.type(status) ~= "integer" or status < 400 or status > 599 then
    error(("http.abort: a status from 400 to 599 is wanted, not %s"):format(tostring(status)), 2)
  end
  if detail ~= nil then check_text(detail, "http.abort: the detail") end
  error(response.abort(status, detail), 0)
end

local function health_of(stats, alive, err)
  local full = stats.waiting > 0 or stats.leased >= stats.size + stats.max_overflow
  local busy = not alive and type(err) == "table" and (err.kind == "timeout" or err.kind == "overloaded")
  if not alive and not busy then return "unhealthy", "disconnected" end
  return (full or busy) and "saturated" or "healthy", "connected"
end

--- What a client may know of it; the rest, hosts and all, is for the log.
local function health_error(req, err)
  local text = problem.text(err):gsub("%s*\n%s*", " | ")
  require("pool").log("warn", "health: " .. text, { id = req.id })
  local kind = type(err) == "table" and type(err.kind) == "string" and err.kind or "error"
  return kind .. ": the database cannot be reached"
end

--- A handler: how the pool and its database are. 200 for healthy and saturated, 503 for unhealthy.
---@param req pool.Request
function http.health(req)
  local db = req.db
  local alive, err = db:probe(PROBE_SECONDS)
  local stats = db:stats()
  local status, database = health_of(stats, alive, err)
  local body = {
    status = status, database = database, pool_status = db:status(),
    pool = {
      size = stats.size, max_overflow = stats.max_overflow, idle = stats.idle, leased = stats.leased, waiting = stats.waiting,
      opening = stats.opening, closing = stats.closing, total = stats.total, utilization = stats.utilization,
    },
    error = status == "unhealthy" and health_error(req, err) or nil,
  }
  return status == "unhealthy" and 503 or 200, body, { ["cache-control"] = "no-store" }
end

return setmetatable(http, { __index = function(_, name) return core.no_field("pool.http", name, http) end })
