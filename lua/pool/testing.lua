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

--- Closes what was tested; what its script raised first.
local function finish(is)
  local db, script = is.db, is.script
  is.db = false
  if not db then return nil end
  db:close(0)
  return core.script_end(script)
end

--- One testing.run. The usual time comes back even where memory was too short to say what happened.
local Test = { __close = function(is)
  pcall(finish, is)
  if is.begun then core.virtual_time(false) end
end }

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
  local is <close> = setmetatable({ db = false, script = false, begun = false }, Test)
  local function test() return pool.deadline(options.limit or LIMIT, fn, is.db) end
  local function run()
    is.db, is.script = core.new(settings_of(options), script_of(options))
    return pool.run(test)
  end
  core.virtual_time(true)
  is.begun = true
  local results = table.pack(xpcall(run, core.keep_traceback))
  local failure = finish(is)
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

-- ---- policies ----

---@class pool.testing.Policy
---@field settings table<string, any> the pool's, as the policy has left them
---@field now number virtual seconds
---@field name string
local Policy = {}
Policy.__index = Policy

local FIGURES = core.snapshot({}):table()
local PATIENCE = 60 -- seconds of processor time a call: instructions and memory are limits enough for a test
local POLICY_OPTIONS = { settings = true, limits = true, seed = true }

--- A snapshot of a pool with these figures; what is not given follows from what is, or is as in a pool where nothing happens.
local function snapshot_of(self, figures)
  if type(figures) ~= "table" then core.misuse("testing.policy: figures are a table, not a " .. type(figures)) end
  local s = { now = self.now, interval = self.every, settings = self.settings, size = self.settings.size,
    max_overflow = self.settings.max_overflow }
  for name, value in pairs(figures) do
    if FIGURES[name] == nil then core.misuse(("testing.policy: a snapshot has no figure %s"):format(tostring(name))) end
    s[name] = value
  end
  s.limit = s.limit or s.size + s.max_overflow
  s.leased = s.leased or 0
  s.total = s.total or math.max(s.leased + (s.idle or 0), math.min(s.size, s.limit))
  s.idle = s.idle or s.total - s.leased
  s.leased_mean = s.leased_mean or s.leased + 0.0
  s.leased_max = s.leased_max or s.leased
  s.waiting_max = s.waiting_max or s.waiting
  s.utilization = s.utilization or s.leased_mean / (s.size + s.max_overflow)
  return s
end

--- One tick with these figures: what comes of the proposal, limits and steps included, and the reason; nil when nothing changes. The next
--- tick is `every` later and sees the settings so. Raises when the policy fails or its proposal is refused (kind policy, settings).
---@param figures? table as a policy's snapshot: { waiting = 5, wait = { p95 = 0.2 }, ... }
---@return table<string, any>? changes
---@return string? reason
function Policy:tick(figures)
  self.now = self.now + self.every
  local changes, reason, err = self.policy:tick(snapshot_of(self, figures or {}))
  if err then error(err, 0) end
  if not changes then return nil, reason end
  local made, refused = core.dispose(self.settings, changes, self.limits, true)
  if not made then error(refused, 0) end
  local different
  for name, value in pairs(made) do
    if value ~= self.settings[name] then
      different = different or {}
      different[name] = value
    end
  end
  self.settings = made
  return different, reason
end

--- What the policy's admit says; true without one.
---@param figures? table
---@param request? { key?: string, priority?: integer, timeout?: number }
---@return boolean
function Policy:admit(figures, request)
  request = request or {}
  return self.policy:admit(snapshot_of(self, figures or {}), request.key, request.priority or 5, request.timeout or self.settings.timeout)
end

--- What its weight says of a key; 1 without one.
---@param key string
---@return integer
function Policy:weight(key) return self.policy:weight(key) end

--- Tells its on_event; raises when that fails.
---@param kind "timeout" | "overloaded" | "connect" | "lost" | "settings"
---@param message? string default "1"
---@param figures? table
function Policy:event(kind, message, figures)
  local fine, err = self.policy:event(kind, message or "1", snapshot_of(self, figures or {}))
  if not fine then error(err, 0) end
end

local function load_policy(given, seed, old)
  local policy, name = require("pool.policies").load(given, { seed = seed, time = PATIENCE })
  if not policy then error(name, 0) end
  local begun, err = policy:begin(old)
  if not begun then
    policy:close()
    error(err, 0)
  end
  return policy, name
end

--- Another version in its place, as a reload does it: the state is carried over. Raises, and changes nothing, when it cannot be loaded.
---@param given string | table as in testing.policy
function Policy:reload(given)
  local old = self.policy
  self.policy, self.name = load_policy(given, self.seed, old)
  self.every = self.policy.every
  old:close()
end

function Policy:close() self.policy:close() end
Policy.__close = Policy.close

--- A policy to be called by hand, in its real sandbox: a path, a built-in one's name, or { policy = either, ...parameters }. Raises when it
--- cannot be loaded. For what it does to traffic there is require "pool.sim".
---
---   local p <close> = testing.policy({ policy = "tune.lua", wait = 0.02 }, { settings = { size = 8 } })
---   assert.same({ size = 10 }, (p:tick { waiting = 3, wait = { p95 = 0.05 } }))
---@param given string | table
---@param options? { settings?: pool.Settings, limits?: table<string, number[]>, seed?: integer }
---@return pool.testing.Policy
function testing.policy(given, options)
  options = options or {}
  for name in pairs(options) do
    if not POLICY_OPTIONS[name] then
      core.misuse(("testing.policy: there is no option %s (limits, seed, settings)"):format(tostring(name)))
    end
  end
  local policy, name = load_policy(given, options.seed)
  return setmetatable({ policy = policy, name = name, every = policy.every, seed = options.seed, limits = options.limits, now = 0.0,
    settings = core.snapshot({ settings = options.settings }):table().settings }, Policy)
end

return testing
