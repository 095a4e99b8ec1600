--- Routes: which handler a method and a path belong to. Pure: no server, no loop.
--
-- A pattern is segments: text, `:name` (one segment, never empty) and, last, `*name` (all that is left, empty too). Text comes before
-- `:name`, `:name` before `*name`; where a better match lacks the method, a lesser one that has it is taken. Segments are
-- percent-decoded one by one, so that %2F can stand inside one.

local router = {}

---@class pool.Router
local Router = {}
Router.__index = Router

---@return pool.Router
function router.new()
  return setmetatable({ root = { static = {} } }, Router)
end

--- Percent-decodes a text. nil when an escape is malformed, or what comes out is not UTF-8 or holds a NUL.
---@param text string
---@return string?
function router.decode(text)
  if text:find("%", 1, true) then
    if text:gsub("%%%x%x", ""):find("%", 1, true) then return nil end
    text = text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  end
  if text:find("\0", 1, true) or not utf8.len(text) then return nil end
  return text
end

local function split(path)
  local segments = {}
  for segment in (path .. "/"):gmatch("([^/]*)/", 2) do segments[#segments + 1] = segment end
  return segments
end

local function check_pattern(pattern, segments)
  local seen = {}
  for i, segment in ipairs(segments) do
    local kind, name = segment:match("^([:*])(.*)$")
    if kind then
      if not name:find("^[%a_][%w_]*$") then
        error(("route %q: %q needs a name of letters, digits and _"):format(pattern, segment), 4)
      end
      if seen[name] then error(("route %q: %q is there twice"):format(pattern, name), 4) end
      if kind == "*" and i < #segments then error(("route %q: nothing can follow %q"):format(pattern, segment), 4) end
      seen[name] = true
    end
  end
end

local function step(node, segment)
  local kind = segment:sub(1, 1)
  local key = kind == ":" and "param" or kind == "*" and "rest" or nil
  local place = key and node or node.static
  key = key or segment
  place[key] = place[key] or { static = {} }
  return place[key], kind
end

--- Adds a route. `method` "*" takes every method that has no route of its own.
---@param method string in capitals
---@param pattern string "/tasks/:id"
---@param handler any what match gives back
function Router:add(method, pattern, handler)
  if type(pattern) ~= "string" or pattern:sub(1, 1) ~= "/" then
    error(("route %s: a pattern begins with /"):format(tostring(pattern)), 3)
  end
  local segments, names, node = split(pattern), {}, self.root
  check_pattern(pattern, segments)
  for _, segment in ipairs(segments) do
    local kind
    node, kind = step(node, segment)
    if kind == ":" or kind == "*" then names[#names + 1] = segment:sub(2) end
  end
  node.routes = node.routes or {}
  if node.routes[method] then error(("route %s %s is there twice"):format(method, pattern), 3) end
  node.routes[method] = { handler = handler, names = names, pattern = pattern }
end

local function has_parent_step(path)
  return ("/" .. path .. "/"):find("/../", 1, true) ~= nil
end

--- Calls visit(routes, values, count) for every node that the path leads to, the best first, until it returns true.
local function walk(node, segments, i, values, visit)
  if i > #segments then
    return node.routes and visit(node.routes, values)
  end
  local segment = segments[i]
  local static = node.static[segment]
  if static and walk(static, segments, i + 1, values, visit) then return true end
  if node.param and segment ~= "" then
    values[#values + 1] = segment
    if walk(node.param, segments, i + 1, values, visit) then return true end
    values[#values] = nil
  end
  if node.rest and node.rest.routes then
    values[#values + 1] = table.concat(segments, "/", i)
    if visit(node.rest.routes, values) then return true end
    values[#values] = nil
  end
end

local function choose(routes, method)
  return routes[method] or (method == "HEAD" and routes.GET) or routes["*"]
end

local function allow_text(allowed)
  if allowed.GET then allowed.HEAD = true end
  allowed.OPTIONS = true
  local list = {}
  for method in pairs(allowed) do list[#list + 1] = method end
  table.sort(list)
  return table.concat(list, ", ")
end

local function params_of(route, values)
  local params = {}
  for i, name in ipairs(route.names) do params[name] = values[i] end
  if route.pattern:find("/*", 1, true) and has_parent_step(values[#values]) then return nil end
  return params
end

---@class pool.router.Miss
---@field status integer 400, 404, 405, or 204 for an OPTIONS that nobody handles
---@field allow string? for 405 and 204

--- The handler for a request.
---@param method string
---@param path string as sent, still percent-encoded
---@return any? handler
---@return table<string, string> | pool.router.Miss params, or why there is none
---@return string? pattern
function Router:match(method, path)
  if path == "*" then return nil, { status = 204, allow = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT" } end
  local segments = split(path)
  for i, segment in ipairs(segments) do
    segments[i] = router.decode(segment)
    if not segments[i] then return nil, { status = 400 } end
  end
  local found, params
  local allowed = {}
  walk(self.root, segments, 1, {}, function(routes, values)
    found = choose(routes, method)
    if found then params = params_of(found, values) end
    for name in pairs(routes) do allowed[name] = true end
    return found
  end)
  if found and not params then return nil, { status = 400 } end
  if found then return found.handler, params, found.pattern end
  if not next(allowed) then return nil, { status = 404 } end
  return nil, { status = method == "OPTIONS" and 204 or 405, allow = allow_text(allowed) }
end

return router
