--- Sessions: SQLAlchemy's unit of work on a connection. One begins at its first statement; commit and rollback give the
--- connection back, and the next statement begins anew; closing rolls back.

local core = require "pool.core"

---@class pool.Session
---@field db pool.Pool
local Session = {}

local methods = {}

local function connection_of(self)
  if self.closed then core.misuse("this session was closed") end
  if self.connection then return self.connection end
  local connection, err = self.db:acquire()
  if not connection then return nil, err end
  local ok
  ok, err = connection:begin()
  if not ok then
    connection:release()
    return nil, err
  end
  self.connection = connection
  return connection
end

for _, name in ipairs { "query", "json", "exec", "transaction" } do
  methods[name] = function(self, ...)
    local connection, err = connection_of(self)
    if not connection then return nil, err end
    return connection[name](connection, ...)
  end
end

--- Rows one at a time; raises when it cannot begin, as iterators do.
function methods:rows(...)
  local connection, err = connection_of(self)
  if not connection then error(err, 0) end
  return connection:rows(...)
end

local function finish(self, verb)
  if self.closed then core.misuse("this session was closed") end
  local connection = self.connection
  if not connection then return true end
  self.connection = nil
  local ok, err = connection[verb](connection)
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

--- Gives the connection back; what was not committed is rolled back by the engine before anybody else gets it.
function methods:close()
  local connection = self.connection
  self.connection, self.closed = nil, true
  if connection then connection:release() end
end

Session.__close = methods.close

function Session.__index(self, name)
  local method = methods[name]
  if method then return method end
  if name == "in_transaction" then return rawget(self, "connection") ~= nil end
  return nil
end

Session.__name = "pool.Session"

---@return pool.Session
function core.pool_methods:session() return setmetatable({ db = self }, Session) end
