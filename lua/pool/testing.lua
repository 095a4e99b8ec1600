--- `require "pool.testing"`: handlers, tasks and policies under test, in virtual time and without a server.
---
---   local testing = require "pool.testing"
---   it("gives up after the pool's timeout", function()
---     local settings = { size = 1, max_overflow = 0, timeout = 2 }
---     testing.run({ settings = settings, database = function() return { after = 60 } end }, function(db)
---       pool.spawn(function() db:query "select pg_sleep(60)" end)
---       local rows, err = db:query "select 1"
---       assert.equal("timeout", err.kind)          -- two virtual seconds later, at once
---     end)
---   end)
---
--- Everything above the database is the real thing: the pool's core, the engine, tasks, transactions, sessions, the router. The
--- database is a function of the test. Time passes only when everybody waits, and then it jumps: a test of a minute takes a
--- millisecond, the same every time.

local core = require "pool.core"
local check = require "pool.check"

local testing = {}

local OPTIONS = { database = true, connect = true, settings = true, limit = true }
local ANSWER = { after = true, columns = true, rows = true, command = true, affected = true, error = true, lost = true }
local LIMIT = 86400

---@class pool.testing.Answer
---@field rows? table[] by column name; an array of tables alone is the same as { rows = it }
---@field columns? string[] their order, and those that are in no row; otherwise the names in the rows, sorted
---@field affected? integer rows changed, when that is not #rows
---@field command? string "INSERT"; otherwise the statement's first word
---@field after? number virtual seconds until the answer comes
---@field error? string | table a message, or { message=, sqlstate=, detail=, hint=, constraint=, ... }
---@field lost? boolean the connection dies instead

--- The names in the rows, sorted.
local function columns_of(rows)
  local names, seen = {}, {}
  for _, row in ipairs(rows) do
    for name in pairs(row) do
      if type(name) ~= "string" then error("a scripted row is a table by column name", 0) end
      if not seen[name] then
        seen[name] = true
        names[#names + 1] = name
      end
    end
  end
  table.sort(names)
  return names
end

local function cell_of(value)
  if type(value) == "table" then return { core.json.encode(value) } end
  return value
end

--- Rows by name as the driver wants them: arrays in the order of the columns.
local function cells_of(rows, columns)
  local cells = {}
  for i, row in ipairs(rows) do
    cells[i] = {}
    for n, name in ipairs(columns) do cells[i][n] = cell_of(row[name]) end
  end
  return cells
end

local function is_rows(answer)
  if #answer > 0 then return true end
  return next(answer) == nil
end

--- What a script returned, in the driver's form.
local function answer_of(answer, sql)
  if answer == nil or answer == true then answer = {} end
  if type(answer) == "string" then answer = { error = answer } end
  if type(answer) ~= "table" then error(("a script answers with a table or a message, not a %s"):format(type(answer)), 0) end
  if is_rows(answer) then answer = { rows = answer } end
  for name in pairs(answer) do
    if not ANSWER[name] then error(("a script's answer has no field %s"):format(tostring(name)), 0) end
  end
  local failure = answer.error
  if type(failure) == "string" then failure = { message = failure } end
  local rows = answer.rows or {}
  local columns = answer.columns or columns_of(rows)
  return {
    after = answer.after or 0, error = failure, lost = answer.lost, columns = columns, rows = cells_of(rows, columns),
    affected = answer.affected, command = answer.command or (sql and sql:match("^%s*(%a+)") or "select"):upper(),
  }
end

--- A table of answers by statement, or a function, as one function.
local function statements_of(database)
  if type(database) == "function" then return database end
  return function(sql, ...)
    local answer = database[sql]
    if answer == nil then error(("the scripted database has no answer for: %s"):format(sql), 0) end
    if type(answer) == "function" then return answer(sql, ...) end
    return answer
  end
end

local function script_of(options)
  local query = statements_of(options.database or function() return {} end)
  local connect = options.connect or function() return {} end
  return function(kind, what, ...)
    if kind == "connect" then return answer_of(connect(what)) end
    return answer_of(query(what, ...), what)
  end
end

local function check_options(options)
  if type(options) ~= "table" then core.misuse("testing.run: options are a table, not a " .. type(options)) end
  for name in pairs(options) do
    if not OPTIONS[name] then core.no_field("testing.run's options", name, OPTIONS) end
  end
  local kind = type(options.database)
  if kind ~= "nil" and kind ~= "table" and kind ~= "function" then
    core.misuse("testing.run: database is a function(sql, ...) or a table of answers by statement, not a " .. kind)
  end
  if options.connect ~= nil then check.fn(options.connect, "testing.run: connect") end
end

--- The settings of a scripted pool: those given over the defaults; the environment is none of a test's business.
local function settings_of(options)
  local settings = {}
  for name, value in pairs(options.settings or {}) do settings[name] = value end
  settings.database_url = settings.database_url or "sqlite:///:memory:"
  return settings
end

--- Runs fn(db) as pool.run does, in virtual time, with a pool whose database is `options.database`: a function(sql, ...) that returns a
--- pool.testing.Answer (or just its rows, or a message for an error, or nothing), or a table of such by statement. `connect`, a
--- function(n), answers the n-th open in the same way; without them all goes
--- well and is empty. BEGIN, COMMIT, ROLLBACK and savepoints are understood without it; the
--- parameters come as they were sent (NULL as pool.null). Neither may wait. A script that raises fails its statement and, in the
--- end, testing.run.
---
--- The pool is closed in the end. What still waits after `limit` virtual seconds (default a day) is answered with kind deadline.
---@param options { database?: function | table, connect?: function, settings?: pool.Settings, limit?: number }
---@param fn fun(db: pool.Pool): any
---@return any ... fn's results
function testing.run(options, fn)
  check_options(options)
  check.fn(fn, "testing.run")
  local pool = require "pool"
  core.virtual_time(true)
  local db, script, failure
  local results = table.pack(xpcall(function()
    db, script = core.new(settings_of(options), script_of(options))
    return pool.run(function()
      return pool.deadline(options.limit or LIMIT, fn, db)
    end)
  end, core.keep_traceback))
  if db then
    db:close(0)
    failure = core.script_end(script)
  end
  core.virtual_time(false)
  if not results[1] then error(results[2], 0) end
  if failure then error(failure, 0) end
  return table.unpack(results, 2, results.n)
end

---@class pool.testing.Response
---@field status integer
---@field headers table<string, string | string[]>
---@field body string all of it, of a stream too
---@field json fun(self): any the body decoded

local Response = {}
Response.__index = Response

function Response:json() return assert(core.json.decode(self.body)) end

--- An exchange that only remembers what it was answered.
local function exchange_of(method, target, options)
  local path, query = target:match("^([^?]*)%??(.*)$")
  local headers = {}
  for name, value in pairs(options.headers or {}) do headers[name:lower()] = value end
  local body = options.body or ""
  if options.json ~= nil then
    body = core.json.encode(options.json)
    headers["content-type"] = headers["content-type"] or "application/json"
  end
  local answer = setmetatable({ headers = {}, body = "" }, Response)
  local exchange = {
    method = method:upper(), path = path, query_string = query, target = target, headers = headers, body = body, version = "1.1",
    id = options.id or "test", remote = options.remote or "127.0.0.1", responded = false,
  }
  function exchange:respond(status, fields, text)
    self.responded = true
    answer.status, answer.headers, answer.body = status, fields or {}, text or ""
  end
  function exchange:start(status, fields) self:respond(status, fields) end
  function exchange:write(chunk) answer.body = answer.body .. chunk return self end
  function exchange:finish() return self end
  return exchange, answer
end

--- Answers one request with an application's handler, middleware and all, as `pool serve` would: inside testing.run, or with any pool.
---@param app pool.App
---@param db pool.Pool
---@param method string "GET"
---@param target string "/tasks?done=1"
---@param options? { headers?: table, body?: string, json?: any, id?: string, remote?: string, dev?: boolean }
---@return pool.testing.Response
function testing.request(app, db, method, target, options)
  if not require("pool.app").is(app) then core.misuse("testing.request: an application is wanted, not a " .. type(app)) end
  check.pool(db, "testing.request")
  local exchange, answer = exchange_of(method, target, options or {})
  app:handler(db, { dev = options and options.dev })(exchange)
  return answer
end

return testing
