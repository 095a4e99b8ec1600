--- Sessions: SQLAlchemy's unit of work on a connection. One begins at its first statement; commit and rollback give the
--- connection back, and the next statement begins anew; closing rolls back.

local check = require "pool.check"
local core = require "pool.core"
local transaction = require "pool.transaction"

---@class pool.Session
---@field db pool.Pool
---@field connection pool.Connection | false that it holds
---@field closed boolean
---@field beginning boolean whether a task waits for its connection
local Session = {}

local methods = {}

local function check_session(self, who)
  if getmetatable(self) == Session then return end
  core.misuse(("%s: call it on a session, with a colon; got %s"):format(who, type(self)))
end

local function check_open(self, who)
  check_session(self, who)
  if self.closed then core.misuse(("%s: this session was closed"):format(who)) end
end

-- While a session waits for its connection it is one task's: another that began too would take a second one, and what the first
-- did would be lost unseen.
local Beginning = { __close = function(beginning) beginning.session.beginning = false end }

local function check_alone(self, who)
  if self.beginning then core.misuse(("%s: another task is beginning this session; a session is for one task at a time"):format(who)) end
end

local function connection_of(self, who)
  if self.connection then return self.connection end
  check_alone(self, who)
  self.beginning = true
  local _ <close> = setmetatable({ session = self }, Beginning)
  local connection, err = self.db:acquire()
  if not connection then return nil, err end
  local ok
  ok, err = connection:begin()
  if not ok then
    connection:release()
    return nil, err
  end
  if self.closed then
    connection:release()
    core.misuse(("%s: this session was closed"):format(who))
  end
  self.connection = connection
  return connection
end

for _, name in ipairs { "query", "json", "exec" } do
  local who = "s:" .. name
  methods[name] = function(self, ...)
    check_open(self, who)
    check.statement(who, ...)
    local connection, err = connection_of(self, who)
    if not connection then return nil, err end
    return connection[name](connection, ...)
  end
end

--- Rows one at a time; raises when it cannot begin, as iterators do.
function methods:rows(...)
  check_open(self, "s:rows")
  check.statement("s:rows", ...)
  local connection, err = connection_of(self, "s:rows")
  if not connection then error(err, 0) end
  return connection:rows(...)
end

--- A savepoint.
function methods:transaction(fn, options)
  check_open(self, "s:transaction")
  transaction.check_savepoint(fn, options, "s:transaction")
  local connection, err = connection_of(self, "s:transaction")
  if not connection then return nil, err end
  return connection:transaction(fn)
end

--- Is the lease still there? Its fields raise when it is not.
local function held(connection) return (pcall(function() return connection.uses end)) end

local function finish(self, verb)
  check_open(self, "s:" .. verb)
  check_alone(self, "s:" .. verb)
  local connection = self.connection
  if not connection then return true end
  self.connection = false
  local fine, ok, err = pcall(connection[verb], connection)
  if not fine then -- misuse, amid a loop over its rows for one: nothing has ended
    if held(connection) then self.connection = connection end
    error(ok, 0)
  end
  connection:release()
  if not ok then return nil, err end
  return true
end

--- Commits what was done since it began, and gives the connection back. True when there was nothing.
---@return true | nil ok, pool.Error? err
function methods:commit() return finish(self, "commit") end

--- Undoes it, and gives the connection back.
---@return true | nil ok, pool.Error? err
function methods:rollback() return finish(self, "rollback") end

local function close(self)
  local connection = self.connection
  self.connection, self.closed = false, true
  if connection then connection:release() end
end

--- Gives the connection back; what was not committed is rolled back by the engine before anybody else gets it. Idempotent.
function methods:close()
  check_session(self, "s:close")
  close(self)
end

Session.__close = close

function Session:__index(name)
  local method = methods[name]
  if method then return method end
  if name == "in_transaction" then return rawget(self, "connection") ~= false end
  return core.no_field("a Session", name, methods)
end

Session.__name = "pool.Session"

---@return pool.Session
function core.pool_methods:session()
  check.pool(self, "db:session")
  return setmetatable({ db = self, connection = false, closed = false, beginning = false }, Session)
end
