--- Applications: routes, middleware, hooks, and the function that answers one exchange.

local core = require "pool.core"
local problem = require "pool.problem"
local request = require "pool.request"
local response = require "pool.response"
local router = require "pool.router"

local app = {}

---@class pool.App
local App = {}

function App.__index(_, name)
  local method = rawget(App, name)
  if method == nil then core.no_field("an App", name, App) end
  return method
end

local HOOKS = { start = true, stop = true }
local unpack = table.unpack

---@return pool.App
function app.new()
  return setmetatable({ router = router.new(), middleware = {}, hooks = { start = {}, stop = {} }, prefix = "", parent = false }, App)
end

function app.is(value) return getmetatable(value) == App end

local function check_function(value, what)
  if type(value) ~= "function" then error(("%s must be a function, not a %s"):format(what, type(value)), 3) end
end

local function add(self, method, pattern, handler)
  if type(pattern) ~= "string" or pattern:sub(1, 1) ~= "/" then
    error(("%s: a pattern is text that begins with /, not %s"):format(method, tostring(pattern)), 2) -- App:get is a tail call
  end
  check_function(handler, ("the handler of %s %s"):format(method, pattern))
  if self.prefix ~= "" and pattern == "/" then pattern = "" end
  self.router:add(method, self.prefix .. pattern, { call = handler, group = self })
  return self
end

for _, method in ipairs { "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS" } do
  App[method:lower()] = function(self, pattern, handler) return add(self, method, pattern, handler) end
end

--- A route for every method that has none of its own.
function App:any(pattern, handler) return add(self, "*", pattern, handler) end

--- Middleware: fn(req, next) returns a response as a handler does; next() runs the rest and returns it as a pool.Response, whose
--- status, headers and body may be changed. A failure behind it comes as its response too. Of an app it sees every request, of
--- a group those that its routes take.
---@param fn fun(req: pool.Request, next: fun(): pool.Response): any
function App:use(fn)
  check_function(fn, "use: the middleware")
  self.middleware[#self.middleware + 1] = fn
  return self
end

--- Routes under a prefix, with middleware of their own.
---@param prefix string "/api"
---@return pool.App
function App:group(prefix)
  if type(prefix) ~= "string" or prefix:sub(1, 1) ~= "/" or prefix:sub(-1) == "/" then
    error(("group: a prefix begins with / and does not end with it, unlike %s"):format(tostring(prefix)), 2)
  end
  return setmetatable({ router = self.router, middleware = {}, hooks = self.hooks, prefix = self.prefix .. prefix, parent = self }, App)
end

--- Calls fn(db) before the first request ("start") or after the last ("stop").
---@param event "start" | "stop"
---@param fn fun(db: pool.Pool)
function App:on(event, fn)
  if not HOOKS[event] then error(("on: %s is neither start nor stop"):format(tostring(event)), 2) end
  check_function(fn, "on: the hook")
  table.insert(self.hooks[event], fn)
  return self
end

--- Runs the hooks of an event, in the order added; raises what one raises.
function App:run_hooks(event, db)
  for _, hook in ipairs(self.hooks[event]) do hook(db) end
end

-- What pairs an error with where it came from, while the stack is still there. Only a mistake is worth a traceback.
local function trace(err)
  if problem.classify(err) ~= 500 then return { err = err } end
  return { err = err, traceback = core.traceback(err, 2) }
end

--- Calls fn(...) and makes its results, or its failure, a response.
local function respond(context, fn, ...)
  local results = table.pack(xpcall(fn, trace, ...))
  if not results[1] then return problem.from(results[2].err, results[2].traceback, context) end
  local fine, made, err = pcall(response.from, context.encode, unpack(results, 2, math.min(results.n, 4)))
  if not fine then return problem.from(made, nil, context) end
  if not made then return problem.from(err, nil, context) end
  return made
end

--- Runs the middleware from number `i`, then `last`.
local function chain(context, middleware, i, req, last)
  local fn = middleware[i]
  if not fn then return last(req) end
  return respond(context, fn, req, function() return chain(context, middleware, i + 1, req, last) end)
end

local function miss(context, why)
  local headers = why.allow and { allow = why.allow } or nil
  if why.status == 204 then return response.new(204, nil, headers) end
  return problem.response(context.encode, why.status, nil, context.id, headers)
end

--- The middleware of a group and of those around it but the app's own, outermost first.
local function group_middleware(group)
  if not group.parent then return {} end
  local list = group_middleware(group.parent)
  for _, fn in ipairs(group.middleware) do list[#list + 1] = fn end
  return list
end

local function dispatch(self, context, req)
  local route, params = self.router:match(req.method, req.path)
  if not route then return miss(context, params) end
  req.params = params
  return chain(context, group_middleware(route.group), 1, req, function() return respond(context, route.call, req) end)
end

local function write_stream(exchange, stream, context)
  local gone
  local fine, failed = xpcall(stream, trace, function(chunk)
    local written, err = exchange:write(chunk)
    if not written then
      gone = err
      error(err, 0)
    end
    return written
  end)
  if fine then
    exchange:finish()
  elseif not gone or failed.err ~= gone then -- the head is out: the client can only be cut off, which the unfinished exchange does
    problem.from(failed.err, failed.traceback, context)
  end
end

local function send(exchange, answer, context)
  local begin = answer.stream and exchange.start or exchange.respond
  local fine, err = pcall(begin, exchange, answer.status, answer.headers, answer.body)
  if fine and answer.stream then return write_stream(exchange, answer.stream, context) end
  if fine or exchange.responded then return end
  answer = problem.from(err, nil, context)
  exchange:respond(answer.status, answer.headers, answer.body)
end

---@class pool.app.Options
---@field dev boolean? causes in responses
---@field deadline number? seconds a request may take
---@field pool table? what `require "pool"` gives

--- The function that answers one exchange, for core.http_listen.
---@param db pool.Pool
---@param options? pool.app.Options
---@return fun(exchange: table)
function App:handler(db, options)
  options = options or {}
  local pool = options.pool or require "pool"
  local function answer(exchange)
    local context = {
      encode = pool.json.encode, dev = options.dev, id = exchange.id, method = exchange.method, path = exchange.path,
      log = function(...) return pool.log(...) end,
    }
    local due = options.deadline and pool.now() + options.deadline or nil
    local req = request.new(exchange, db, pool.json.decode, due)
    local made = chain(context, self.middleware, 1, req, function() return dispatch(self, context, req) end)
    if not made.stream then request.close(req) end -- before the answer: who has it finds the connection free
    send(exchange, made, context)
    request.close(req)
  end
  if not options.deadline then return answer end
  return function(exchange) return pool.deadline(options.deadline, answer, exchange) end
end

return app
