--- Arguments of the methods that are written in Lua: what is wrong raises at the caller's line, in the words of those in C.

local core = require "pool.core"

local check = {}

--- `who` names the method: "db:transaction".
function check.pool(self, who) core.check_self(self, "pool.Pool", who, "pool") end

function check.connection(self, who) core.check_self(self, "pool.Connection", who, "connection") end

function check.fn(fn, who)
  if type(fn) ~= "function" then core.misuse(("%s: a function is wanted, not a %s"):format(who, type(fn))) end
end

--- A statement and, unless it is a script, any number of parameters.
function check.statement(who, ...)
  local sql = ...
  if type(sql) ~= "string" then
    local given = select("#", ...) == 0 and "no value" or type(sql)
    core.misuse(("%s: the SQL must be a string, not %s"):format(who, given))
  end
  local prefix, name = who:match("^(%a+:)(%a+)$")
  if name == "exec" and select("#", ...) > 1 then
    core.misuse(("%s takes a script and no parameters: use %squery"):format(who, prefix))
  end
end

return check
