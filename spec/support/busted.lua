-- Run by busted before the specs.
local planted = require "support.planted"

-- What was printed must not be lost with a process that dies in a spec.
io.stdout:setvbuf "no"

-- Specs put a function of their own in place of pool.log and look at what it is given. All of that counts as printed, too: whatever is
-- put there is called through one that writes it down.
local originals = setmetatable({}, { __mode = "k" })

local function watched(log)
  local function through(level, message, fields)
    local parts = { level, tostring(message) }
    for name, value in pairs(fields or {}) do parts[#parts + 1] = ("%s=%s"):format(name, tostring(value)) end
    planted.printed(table.concat(parts, " "))
    return log(level, message, fields)
  end
  originals[through] = log
  return through
end

local function watch(pool)
  local current = watched(pool.log)
  pool.log = nil
  return setmetatable(pool, {
    __pairs = function()
      local all = { log = current }
      for name, value in next, pool do all[name] = value end
      return next, all, nil
    end,
    __index = function(_, name) return name == "log" and current or nil end,
    __newindex = function(_, name, value)
      if name == "log" and value ~= nil then current = watched(originals[value] or value) else rawset(pool, name, value) end
    end,
  })
end

if os.getenv "POOL_SPEC_PRINTED" then
  package.preload.pool = function(name)
    local path = assert(package.searchpath(name, package.path))
    return watch(assert(loadfile(path))(name, path))
  end
end
