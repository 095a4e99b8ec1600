--- Command-line flags: `--name value`, `--name=value`, for what is on or off also `--name` and `--no-name`. Pure.

local core = require "pool.core"

local flags = {}

---@class pool.flags.Known
---@field value boolean? it takes a value
---@field later boolean | string? known, and refused as not there yet; a string says what it comes with

--- The name nearest to `name`, nil when none is near; as for settings, fields and methods.
---@param name string
---@param names table<string, any>
---@return string?
function flags.nearest(name, names)
  local sorted = {}
  for candidate in pairs(names) do sorted[#sorted + 1] = candidate end
  table.sort(sorted)
  return core.nearest(name, sorted)
end

local function lookup(known, name)
  name = name:gsub("_", "-")
  if known[name] then return name, known[name] end
  local positive = name:match("^no%-(.+)$")
  if positive and known[positive] then
    if known[positive].value and not known[positive].later then
      return nil, ("--%s: --%s is not on or off, it takes a value"):format(name, positive)
    end
    return positive, known[positive], true
  end
  return nil, ("unknown flag --%s%s"):format(name, (function()
    local near = flags.nearest(name, known)
    return near and ("; did you mean --%s?"):format(near) or ""
  end)())
end

--- The value of one flag, and how many arguments it took. `text` is what follows an = sign.
local function value_of(name, flag, negated, text, following)
  if not flag.value then
    if negated then
      if text then return nil, ("--no-%s takes no value"):format(name) end
      return "false", 1
    end
    return text or "true", 1
  end
  if text then return text, 1 end
  if following == nil then return nil, ("--%s needs a value"):format(name) end
  return following, 2
end

local function not_yet(name, with)
  return ("--%s is not there yet%s"):format(name, type(with) == "string" and ": it comes with " .. with or "")
end

--- Splits arguments into flags and the rest. `--` ends the flags.
---@param args string[]
---@param known table<string, pool.flags.Known>
---@return table<string, string>? values of the flags given, by name
---@return string[] | string rest or what is wrong
function flags.parse(args, known)
  local values, rest, i = {}, {}, 1
  while i <= #args do
    local arg = args[i]
    local name, text = arg:match("^%-%-([^=]+)=?(.*)$")
    if arg == "--" then
      table.move(args, i + 1, #args, #rest + 1, rest)
      break
    elseif arg == "-h" then
      values.help, i = "true", i + 1
    elseif not name then
      if arg:find("^%-.") then return nil, ("unknown flag %s"):format(arg) end
      rest[#rest + 1], i = arg, i + 1
    else
      if not arg:find("=", 1, true) then text = nil end
      local found, flag, negated = lookup(known, name)
      if not found then return nil, flag end
      if flag.later then return nil, not_yet(found, flag.later) end
      local value, taken = value_of(found, flag, negated, text, args[i + 1])
      if not value then return nil, taken end
      values[found], i = value, i + taken
    end
  end
  return values, rest
end

return flags
