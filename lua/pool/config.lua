--- Where settings come from. The first of these that has one wins: flag, argument, environment, `.env`, default.
--
-- Texts (of flags, the environment, `.env`) are read by the settings' own table, in C; what the argument holds is passed on as it
-- is and checked there too. An empty variable counts as unset. Each source can be replaced.
--
-- Names that are not ours: one of a setting that comes later is refused, in `.env` and in the environment; any other name of `.env`
-- that begins with DB_POOL_ is probably misspelt, and warned of once. The environment cannot be listed, so there is no warning for it.
--
-- A password in a `.env` that everybody on the machine may read is warned of too, as libpq does for its password file.

local dotenv = require "pool.dotenv"

local config = {}

---@alias pool.config.Source "flag" | "argument" | "environment" | ".env" | "default"

---@class pool.config.Options
---@field flags? table<string, string> by name of the setting, as text
---@field environment? fun(name: string): string? default os.getenv
---@field dotenv? string | false path of the `.env` file, default ".env" in the working directory; false: none
---@field read_file? fun(path: string): string?, string? the text; nil when there is no such file; nil and a message
---@field core? table with settings(), parse_setting(name, text), later and nearest, default require "pool.core"
---@field log? fun(level: string, message: string, fields: table) default pool.log

local ENOENT = 2
local PREFIX = "DB_POOL_"
local NAME_MAX = 64 -- bytes of an unknown name that are shown
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

--- Refuses the names of settings that come later: what they say would be lost unseen.
local function refuse_later(core, environment, file, path)
  local names = {}
  for name in pairs(core.later.setting) do names[#names + 1] = name end
  table.sort(names) -- of several always the same one is named
  for _, name in ipairs(names) do
    local variable, with = PREFIX .. name:upper(), core.later.setting[name]
    local text, entry = environment(variable), file[variable]
    local where = text and text ~= "" and "" or entry and entry.value ~= "" and ("%s:%d: "):format(path, entry.line)
    if where then return nil, ("%s%s is not there yet: it comes with %s"):format(where, variable, with) end
  end
  return true
end

--- The variable that somebody who wrote `name` probably meant, compared without what they all begin with.
local function nearest_variable(core, name)
  local rests, by_rest = {}, {}
  for i, setting in ipairs(core.settings()) do
    rests[i] = setting.env:match("^DB_POOL_(.+)$") or setting.env:match("^DB_(.+)$") or setting.env
    by_rest[rests[i]] = setting.env
  end
  return by_rest[core.nearest(name:sub(#PREFIX + 1), rests)]
end

local warned = {} -- the messages given: every pool of a process reads the same file

local function warn_once(log, message)
  if warned[message] then return end
  warned[message] = true
  log("warn", message, {})
end

--- Warns of the names in `.env` that look like ours and are not.
local function warn_unknown(core, file, path, log)
  local ours, messages = {}, {}
  for _, setting in ipairs(core.settings()) do ours[setting.env] = true end
  for name in pairs(core.later.setting) do ours[PREFIX .. name:upper()] = true end
  for name, entry in pairs(file) do
    if not ours[name] and name:sub(1, #PREFIX) == PREFIX and #name <= NAME_MAX and not name:find("[^%w_]") then
      local near = nearest_variable(core, name)
      messages[#messages + 1] = ("%s:%d: %s is no setting%s"):format(path, entry.line, name,
        near and ("; did you mean %s?"):format(near) or "")
    end
  end
  table.sort(messages)
  for _, message in ipairs(messages) do warn_once(log, message) end
end

local function warn_readable(core, path, url, log)
  local password = url:match "^[^/]*//[^/?#@]*:[^/?#]*@" or url:match "[?&]password="
  if not password or not core.others_may_read(path) then return end
  warn_once(log, ("%s holds the database's password and can be read by everybody on this machine: chmod o-r %s"):format(path, path))
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
  local path = options.dotenv or ".env"
  fine, message = refuse_later(core, environment, file, path)
  if not fine then return nil, message end
  warn_unknown(core, file, path, options.log or require("pool").log)
  for _, setting in ipairs(core.settings()) do
    local name = setting.name
    if values[name] == nil then
      local text, source, where = text_of(setting, environment, file, path)
      if text then
        values[name], message = parse(core, name, text, where)
        if values[name] == nil then return nil, message end
      end
      sources[name] = source or "default"
    end
  end
  if sources.database_url == ".env" and not options.read_file then
    warn_readable(core, path, values.database_url, options.log or require("pool").log)
  end
  return values, sources
end

return config
