--- The `pool` command: verbs, flags, exit codes. 0: done; 1: it failed; 2: called wrongly.

local flags = require "pool.flags"

local cli = {}

local FAILED, MISUSED = 1, 2

local USAGE = [[
usage: pool VERB [ARGUMENT...]

  serve APP.LUA      serve an application over HTTP
  run SCRIPT.LUA     run a Lua script with pool at hand
  simulate POLICY    judge a tuning policy in virtual time
  advise RECORDING   what the figures of a recorded server say is wrong, and what to change
  size               a first size from what is known of the load
  settings           list every setting: default, range, environment variable; or its value here
  version            print the version
  help [VERB]        this text, or the one of a verb (as VERB --help)
]]

local HELP = {
  serve = [[
usage: pool serve APP.LUA [FLAG...]

Serves the application that APP.LUA returns (see require "pool.http"). Prints `pool: listening on http://HOST:PORT` when it is
ready to answer. SIGTERM and SIGINT stop it gracefully: no new requests, 5 seconds for those that run, which are then answered
503; a second one stops it at once.

  --listen HOST:PORT   where to listen, default 127.0.0.1:8080; port 0 picks a free one
  --policy FILE|NAME   a tuning policy: a file, reloaded when it is saved and on SIGHUP, or a built-in one (default, fixed, ...)
  --record FILE        record when requests come and how long they hold connections, no SQL and no parameters, for
                       `pool simulate --workload FILE` and `pool advise FILE`; bounded by record_limit
  --dev                causes of errors in responses: for development alone
  --NAME VALUE         any setting, as `pool settings` lists them: --size 20, --database-url=sqlite:///pool.db;
                       those that are on or off: --pre-ping, --no-pre-ping
]],
  run = [[
usage: pool run SCRIPT.LUA [ARGUMENT...]

Runs a plain Lua script: `require "pool"` works in it, and `arg` holds the arguments. Exit code 1 when it raises an error.
]],
  settings = [[
usage: pool settings [--markdown | --values]

Lists every setting: its default, range, environment variable, whether it can change while the pool runs, and what 0 means.

  --markdown   as a Markdown table
  --values     what each is set to here and where that comes from: the environment, .env of this directory, the database's
               URL or the default; passwords are not shown
]],
  simulate = require("pool.simulate").HELP,
  advise = require("pool.advise").HELP,
  size = require("pool.sizing").HELP,
  version = "usage: pool version\n",
  help = "usage: pool help [VERB]\n",
}

local LATER_VERBS = { top = true }
local LATER_FLAGS = { "admin", "workers", "watch", "check" }

local function complain(...) io.stderr:write("pool: ", ..., "\n") end

local function misuse(message)
  complain(message)
  return MISUSED
end

--- Flags of `serve`: its own, those of later, every setting.
local function serve_flags(core)
  local known = { listen = { value = true }, policy = { value = true }, record = { value = true }, dev = {}, help = {} }
  for _, name in ipairs(LATER_FLAGS) do known[name] = { value = true, later = true } end
  for name, with in pairs(core.later.setting) do known[(name:gsub("_", "-"))] = { value = true, later = with } end
  for _, setting in ipairs(core.settings()) do
    known[(setting.name:gsub("_", "-"))] = { value = setting.type ~= "flag", setting = true }
  end
  return known
end

--- HOST:PORT or [ADDRESS]:PORT.
---@param text string
---@return string? host
---@return integer | string port or what is wrong
function cli.parse_listen(text)
  local host, port = text:match("^%[([%x:.]+)%]:(%d+)$")
  if not host then host, port = text:match("^([^:%[%]]*):(%d+)$") end
  port = math.tointeger(tonumber(port))
  if not host or not port or port > 65535 then
    return nil, ("--listen: %s is not HOST:PORT, such as 127.0.0.1:8080 or [::1]:0"):format(text)
  end
  return host, port
end

--- The URL of a listener, for people and scripts.
function cli.url(host, port)
  if host == "" or host == "*" then host = "0.0.0.0" end
  return ("http://%s:%d"):format(host:find(":", 1, true) and "[" .. host .. "]" or host, port)
end

--- Loads an application file. nil and what is wrong.
local function load_app(path)
  local directory = path:match("^(.*)/[^/]*$")
  if directory then package.path = directory .. "/?.lua;" .. package.path end
  local chunk, message = loadfile(path, "t")
  if not chunk then return nil, message end
  local fine, made = xpcall(chunk, function(err)
    return debug.traceback(require("pool.problem").text(err), 2)
  end)
  if not fine then return nil, made end
  if not require("pool.app").is(made) then
    return nil, ("%s must return an application, as `return app` after `local app = http.app()`; it returned %s"):format(path,
      made == nil and "nothing" or "a " .. type(made))
  end
  return made
end

local function log_start(pool, db)
  local now = db:stats().settings
  pool.log("info", ("database %s"):format(now.database_url), {})
  pool.log("info", ("pool size %d, max_overflow %d"):format(now.size, now.max_overflow), {})
end

--- Listens, prints where, and waits for a signal; returns when every request is answered or cut.
local function listen(pool, core, application, db, options)
  local server, err = core.http_listen {
    host = options.host, port = options.port, handler = application:handler(db, { dev = options.dev, pool = pool }),
  }
  if not server then return nil, err end
  local signal = pool.spawn(core.wait_signal, "TERM", "INT")
  pool.sleep(0) -- it waits now: who reads that we listen may stop us at once
  io.stdout:write("pool: listening on ", cli.url(server.host, server.port), "\n")
  io.stdout:flush()
  local name = assert(signal:join())
  pool.log("info", ("SIG%s: stopping"):format(name), {})
  server:stop()
  server:wait()
  return true
end

-- pool's own files, this one among them: their lines are no place for a user to look.
local OWN = debug.getinfo(1, "S").source:match "^(.*)cli%.lua$"

--- FILE:LINE of the innermost frame that is not pool's own; nil when every one is. For message handlers, `level` as theirs.
local function place(level)
  while true do
    local frame = debug.getinfo(level, "Sl")
    if not frame then return nil end
    local own = frame.source:sub(1, #OWN) == OWN or frame.source == OWN:sub(1, -2) .. ".lua"
    if frame.currentline > 0 and not own then return ("%s:%d"):format(frame.short_src, frame.currentline) end
    level = level + 1
  end
end

--- Runs an application's hooks. A pool error of theirs names the database's complaint alone: where it was raised is told as well.
local function run_hooks(application, event, db)
  local fine, err = xpcall(application.run_hooks, function(err)
    if type(err) ~= "table" or not err.kind then return require("pool.core").keep_traceback(err) end
    local text = ("%s (in the %s hook, %s)"):format(require("pool.problem").text(err), event, place(3) or "pool")
    return setmetatable({ kind = err.kind, message = text }, { __tostring = function(told) return told.message end })
  end, application, event, db)
  if not fine then error(err, 0) end
end

-- What ends the serving task well: raised, so that what the application spawned and left running is cancelled, not awaited.
local STOPPED = {}

--- The tuner of a server's pool: what it is, for the log; nil and what is wrong.
local function start_tuner(pool, core, db, policy)
  if not policy then
    pool.log("info", "no tuning policy; reload off", {})
    return true
  end
  local tuner, err = db:tune(policy)
  if not tuner then return nil, err end
  local path = tuner:status().path
  pool.log("info", path and ("reload on: %s is watched, SIGHUP reads it again"):format(path) or "reload off: a built-in policy", {})
  return true, core.hangup_watch(function() tuner:reload() end)
end

--- The recording of a server's pool, nil when none is wanted; nil and what is wrong.
local function start_recording(pool, db, path)
  if not path then return nil end
  local recording, err = db:record(path)
  if not recording then return nil, err end
  pool.log("info", ("recording to %s, at most %d bytes"):format(path, db:stats().settings.record_limit), {})
  return recording
end

local function serve_in_task(pool, core, path, db, options)
  local application, message = load_app(path)
  if not application then return nil, message end
  log_start(pool, db) -- before the hooks, which may wait long for a database that does not answer
  local tuned, hangups = start_tuner(pool, core, db, options.policy)
  if not tuned then return nil, hangups end
  local _ <close> = hangups
  local recording <close>, refused = start_recording(pool, db, options.record)
  if refused then return nil, refused end
  run_hooks(application, "start", db)
  local done, err = listen(pool, core, application, db, options)
  run_hooks(application, "stop", db)
  if recording then recording:close() end -- while the pool still has figures
  db:close()
  if not done then return nil, err end
  error(STOPPED, 0)
end

--- A failure for people: a pool error by its own text, the rest with where it came from.
local function failure(err)
  if err == STOPPED then return err end
  local text = require("pool.problem").text(err)
  if (type(err) == "table" and err.kind) or text:find("\nstack traceback:", 1, true) then return text end
  return text .. "\n" .. require("pool.core").traceback(err, 2)
end

local function setting_flags(values, known)
  local texts = {}
  for name, text in pairs(values) do
    if known[name].setting then texts[name] = text end -- as it is typed, for messages
  end
  return texts
end

local verbs = {}

function verbs.serve(args)
  local core = require "pool.core"
  local known = serve_flags(core)
  local values, rest = flags.parse(args, known)
  if not values then return misuse("serve: " .. rest) end
  if values.help then return io.stdout:write(HELP.serve) and 0 end
  if #rest ~= 1 then return misuse("serve: one application file is wanted: pool serve APP.LUA") end
  local host, port = cli.parse_listen(values.listen or "127.0.0.1:8080")
  if not host then return misuse("serve: " .. port) end
  if values.dev and values.dev ~= "true" and values.dev ~= "false" then return misuse("serve: --dev is true or false") end
  local settings, message = require("pool.config").read(nil, { flags = setting_flags(values, known) })
  if not settings then return misuse("serve: " .. message) end
  local pool = require "pool"
  local made, db = pcall(pool.new, settings)
  if not made then return misuse("serve: " .. tostring(db):gsub("^pool%.new: ", "")) end
  local _, done, err = xpcall(pool.run, failure, serve_in_task, pool, core, rest[1], db,
    { host = host, port = port, dev = values.dev == "true", policy = values.policy, record = values.record })
  if done == STOPPED then return 0 end
  complain(tostring(done or err))
  return FAILED
end

function verbs.run(args)
  if args[1] == "--help" or args[1] == "-h" then return io.stdout:write(HELP.run) and 0 end
  local path = args[1]
  if not path then return misuse("run: a script is wanted: pool run SCRIPT.LUA") end
  if path:find("^%-%-?%a") then return misuse(("run: unknown flag %s; flags for the script follow its name"):format(path)) end
  local chunk, message = loadfile(path, "t")
  if not chunk then
    complain(message)
    return FAILED
  end
  local script_args = { [0] = path }
  table.move(args, 2, #args, 1, script_args)
  _G.arg = script_args -- luacheck: ignore 122
  local fine, err = xpcall(chunk, function(raised)
    return require("pool.problem").text(raised) .. "\n" .. require("pool.core").traceback(raised, 2)
  end, table.unpack(script_args))
  if fine then return 0 end
  complain(err)
  return FAILED
end

--- What the settings are set to in this directory, secrets redacted, and their sources; nil and what is wrong.
local function settings_here(core)
  local given, sources = require("pool.config").read()
  if not given then return nil, sources end
  local fine, values = pcall(core.check_settings, given)
  if not fine then return nil, tostring(values) end
  return values, sources
end

local function settings_print(flag)
  local text, core = require "pool.settings_text", require "pool.core"
  if flag.values ~= "true" then
    io.stdout:write((flag.markdown == "true" and text.markdown or text.text)(core.settings()))
    return 0
  end
  if flag.markdown == "true" then return misuse("settings: --markdown and --values do not go together") end
  require "pool" -- for its log, and for errors without a place in its files
  local values, sources = settings_here(core)
  if not values then return misuse("settings: " .. sources) end
  io.stdout:write(text.values(core.settings(), values, sources))
  return 0
end

function verbs.settings(args)
  local values, rest = flags.parse(args, { markdown = {}, values = {}, help = {} })
  if not values then return misuse("settings: " .. rest) end
  if values.help then return io.stdout:write(HELP.settings) and 0 end
  if #rest > 0 then return misuse(("settings: %s is one argument too many"):format(rest[1])) end
  return settings_print(values)
end

function verbs.simulate(args)
  return require("pool.simulate").main(args, complain, misuse)
end

function verbs.advise(args)
  return require("pool.advise").main(args, complain, misuse)
end

function verbs.size(args)
  require "pool" -- for errors without a place in its files
  return require("pool.sizing").main(args, misuse)
end

function verbs.version(args)
  local values, rest = flags.parse(args, { help = {} })
  if not values then return misuse("version: " .. rest) end
  if values.help then return io.stdout:write(HELP.version) and 0 end
  if #rest > 0 then return misuse(("version: %s is one argument too many"):format(rest[1])) end
  io.stdout:write(tostring(require("pool").version), "\n")
  return 0
end

function verbs.help(args)
  local verb = args[1]
  if verb == nil then return io.stdout:write(USAGE) and 0 end
  if HELP[verb] then return io.stdout:write(HELP[verb]) and 0 end
  return misuse(("help: there is no verb %s"):format(verb))
end

--- Runs the command. Returns its exit code.
---@param args string[]
---@return integer
function cli.main(args)
  local verb = args[1]
  if verb == nil then
    io.stderr:write(USAGE)
    return MISUSED
  end
  if verb == "--help" or verb == "-h" then verb = "help" end
  if verb == "--version" then verb = "version" end
  if LATER_VERBS[verb] then return misuse(("%s is not there yet"):format(verb)) end
  if not verbs[verb] then
    local near = flags.nearest(verb, verbs)
    return misuse(("unknown verb %s%s; see pool --help"):format(verb, near and (", did you mean %s?"):format(near) or ""))
  end
  return verbs[verb](table.move(args, 2, #args, 1, {}))
end

return cli
