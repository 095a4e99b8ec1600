--- Where settings come from. The first of these that has one wins: flag, argument, environment, `.env`, default.
--
-- Texts (of flags, the environment, `.env`) are read by the settings' own table, in C; what the argument holds is passed on as it
-- is and checked there too. An empty variable counts as unset. Nothing here is global: each source can be replaced.

local dotenv = require "pool.dotenv"

local config = {}

---@alias pool.config.Source "flag" | "argument" | "environment" | ".env" | "default"

---@class pool.config.Options
---@field flags? table<string, string> by name of the setting, as text
---@field environment? fun(name: string): string? default os.getenv
---@field dotenv? string | false path of the `.env` file, default ".env" in the working directory; false: none
---@field read_file? fun(path: string): string?, string? the text; nil when there is no such file; nil and a message
---@field core? table with settings() and parse_setting(name, text), default require "pool.core"

local ENOENT = 2
local READ_MAX = 1024 * 1024 + 1 -- one byte more than dotenv takes, so that it says what is wrong

local function read_file(path)
  local file, message, code = io.open(path, "rb")
  if not file then
    if code == ENOENT then return nil end
    return nil, message
  end
  local text, why = file:read(READ_MAX)
  file:close()
  if not text and why then return nil, ("%s: %s"):format(path, why) end
  return text or ""
end

--- The argument as a table of its own.
local function argument_table(argument)
  if argument == nil then return {} end
  if type(argument) == "string" then return { database_url = argument } end
  if type(argument) ~= "table" then
    return nil, ("settings: a table of settings or a database URL is wanted, not a %s"):format(type(argument))
  end
  local copy = {}
  for name, value in next, argument do copy[name] = value end
  return copy
end

--- The value of a text; its message, if it is refused, begins with where the text came from instead of the setting's name.
local function parse(core, name, text, where)
  local value, message = core.parse_setting(name, text)
  if value ~= nil then return value end
  local prefix = name .. ": "
  if message:sub(1, #prefix) == prefix then message = message:sub(#prefix + 1) end
  return nil, ("%s: %s"):format(where, message)
end

local function dotenv_values(options, environment)
  local path = options.dotenv
  if path == nil then path = ".env" end
  if not path then return {} end
  local text, message = (options.read_file or read_file)(path)
  if not text then
    if message then return nil, message end
    return {}
  end
  return dotenv.parse(text, path, environment)
end

--- The text of a setting from the environment or `.env`, its source, and what to call it in a message. nil: neither has one.
local function text_of(setting, environment, file, path)
  local text = environment(setting.env)
  if text and text ~= "" then return text, "environment", setting.env end
  local entry = file[setting.env]
  if entry and entry.value ~= "" then
    return entry.value, ".env", ("%s:%d: %s"):format(path, entry.line, setting.env)
  end
end

local function take_flags(core, flags, values, sources)
  for flag, text in pairs(flags) do
    local name = flag:gsub("-", "_")
    local value, message = parse(core, name, text, "--" .. flag)
    if value == nil then return nil, message end
    values[name], sources[name] = value, "flag"
  end
  return true
end

--- Gathers the settings that are given anywhere.
---@param argument? string | table a database URL, or settings by name
---@param options? pool.config.Options
---@return table<string, any>? values those given, by name; what is left out has its default
---@return table<string, pool.config.Source> | string sources of every setting by name; or what is wrong
function config.read(argument, options)
  options = options or {}
  local core = options.core or require "pool.core"
  local environment = options.environment or os.getenv
  local values, message = argument_table(argument)
  if not values then return nil, message end
  local sources = {}
  for name in pairs(values) do sources[name] = "argument" end
  local fine
  fine, message = take_flags(core, options.flags or {}, values, sources)
  if not fine then return nil, message end
  local file
  file, message = dotenv_values(options, environment)
  if not file then return nil, message end
  for _, setting in ipairs(core.settings()) do
    local name = setting.name
    if values[name] == nil then
      local text, source, where = text_of(setting, environment, file, options.dotenv or ".env")
      if text then
        values[name], message = parse(core, name, text, where)
        if values[name] == nil then return nil, message end
      end
      sources[name] = source or "default"
    end
  end
  return values, sources
end

return config
