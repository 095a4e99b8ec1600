--- Where policies come from: files, and those built in (pool/policy/*.lua beside this file).

local core = require "pool.core"

local policies = {}

local HOME = debug.getinfo(1, "S").source:match "^@(.*)policies%.lua$" or "./"

--- The built-in policies, in the order of a tour through them.
policies.NAMES = {
  "default", "fixed", "tiers", "little", "aimd", "gradient", "vegas", "hillclimb", "usl", "deadline", "codel", "guard",
}

local known = {}
for _, name in ipairs(policies.NAMES) do known[name] = true end

---@return string[] names of the built-in policies
function policies.names() return { table.unpack(policies.NAMES) } end

---@param name any
---@return boolean
function policies.is_builtin(name) return known[name] == true end

--- The text of a policy: a built-in one by its name, any other by its path.
---@param name string
---@return string? source
---@return string chunk what messages call it; or what is wrong
function policies.source(name)
  if known[name] then
    local source, message = core.policy_text(HOME .. "policy/" .. name .. ".lua")
    return source, source and name or message
  end
  local source, message = core.policy_text(name)
  if source then return source, name:match "[^/]*$" end
  if name:find "[/.]" then return nil, message end
  local near = core.nearest(name, policies.NAMES)
  return nil, ("there is no policy %s%s: it is a file, or one of %s"):format(name, near and (" (%s?)"):format(near) or "",
    table.concat(policies.NAMES, ", "))
end

local library

--- name -> source of what compose{} may name.
---@return table<string, string>
function policies.library()
  if library then return library end
  library = {}
  for _, name in ipairs(policies.NAMES) do library[name] = (policies.source(name)) end
  return library
end

local CONTROL = { policy = true }

--- A policy as users give one: a path, a name, or { policy = name or path, ...parameters }.
---@param given string | table
---@param options? { seed?: integer, time?: number, memory?: integer, instructions?: integer }
---@return table? policy a pool.Policy, not begun
---@return any name its name; or the error
---@return string? source
function policies.load(given, options)
  local name, params = given, {}
  if type(given) == "table" then
    name = given.policy
    for key, value in pairs(given) do
      if not CONTROL[key] then params[key] = value end
    end
  end
  if type(name) ~= "string" then
    core.misuse(("a policy is a path, a name, or {policy = name or path, ...}, not a %s"):format(type(name)))
  end
  local source, chunk = policies.source(name)
  if not source then return nil, core.error { kind = "policy", message = chunk } end
  options = options or {}
  local policy, err = core.policy(source, chunk, {
    params = params, library = policies.library(), seed = options.seed, time = options.time, memory = options.memory,
    instructions = options.instructions,
  })
  if not policy then return nil, err end
  return policy, policy.name or chunk:gsub("%.lua$", ""), source
end

return policies
