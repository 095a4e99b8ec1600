--- db:rows: rows one at a time on a connection of their own, which goes back with the last row or when the loop is left.

local check = require "pool.check"
local core = require "pool.core"

---   for row in db:rows("select * from big where id > $1", 10) do … end
--- Constant memory: a slow loop slows the server. Raises what goes wrong, as iterators do.
---@param sql string
---@return fun(): pool.Row iterator
function core.pool_methods:rows(sql, ...)
  check.pool(self, "db:rows")
  check.statement("db:rows", sql, ...)
  local connection, err = self:acquire()
  if not connection then error(err, 0) end
  local fine, cursor = pcall(connection.rows, connection, sql, ...)
  if not fine then
    connection:release()
    error(cursor, 0)
  end
  core.connection_methods._own_cursor(cursor)
  return cursor, nil, nil, cursor
end
