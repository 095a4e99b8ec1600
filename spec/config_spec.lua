-- Where settings come from (lua/pool/config.lua, dotenv.lua), what the C tables make of them (src/lua/lsettings.c), and how they
-- are printed (lua/pool/settings_text.lua). No spec here changes the process's environment: it is handed in.

local config = require "pool.config"
local core = require "pool.core"
local dotenv = require "pool.dotenv"
local settings_text = require "pool.settings_text"

--- Every setting: its default, and a second value as text with what it reads as.
local SETTINGS = {
  size = { env = "DB_POOL_SIZE", default = 10, text = "7", value = 7 },
  max_overflow = { env = "DB_MAX_OVERFLOW", default = 20, text = "0", value = 0 },
  size_limit = { env = "DB_POOL_SIZE_LIMIT", default = 1000, text = "50", value = 50 },
  timeout = { env = "DB_POOL_TIMEOUT", default = 30, text = "2.5", value = 2.5 },
  recycle = { env = "DB_POOL_RECYCLE", default = 3600, text = "0", value = 0 },
  recycle_jitter = { env = "DB_POOL_RECYCLE_JITTER", default = 0.25, text = "0.1", value = 0.1 },
  pre_ping = { env = "DB_POOL_PRE_PING", default = true, text = "no", value = false },
  pre_ping_after = { env = "DB_POOL_PRE_PING_AFTER", default = 1, text = "3", value = 3 },
  pre_ping_timeout = { env = "DB_POOL_PRE_PING_TIMEOUT", default = 5, text = "6", value = 6 },
  min_idle = { env = "DB_POOL_MIN_IDLE", default = 0, text = "2", value = 2 },
  idle_timeout = { env = "DB_POOL_IDLE_TIMEOUT", default = 30, text = "1", value = 1 },
  shrink_after = { env = "DB_POOL_SHRINK_AFTER", default = 600, text = "60", value = 60 },
  max_waiting = { env = "DB_POOL_MAX_WAITING", default = 10000, text = "9", value = 9 },
  max_waiting_per_key = { env = "DB_POOL_MAX_WAITING_PER_KEY", default = 0, text = "3", value = 3 },
  max_opening = { env = "DB_POOL_MAX_OPENING", default = 4, text = "8", value = 8 },
  backoff_min = { env = "DB_POOL_BACKOFF_MIN", default = 0.05, text = "0.1", value = 0.1 },
  backoff_max = { env = "DB_POOL_BACKOFF_MAX", default = 0.5, text = "5", value = 5 },
  queue = { env = "DB_POOL_QUEUE", default = "fifo", text = "codel", value = "codel" },
  queue_target = { env = "DB_POOL_QUEUE_TARGET", default = 0.05, text = "2e-2", value = 0.02 },
  queue_interval = { env = "DB_POOL_QUEUE_INTERVAL", default = 1, text = "0.1", value = 0.1 },
  database_url = { env = "DATABASE_URL", default = "sqlite:///pool.db", text = "sqlite:///x.db", value = "sqlite:///x.db" },
  connect_timeout = { env = "DB_CONNECT_TIMEOUT", default = 10, text = "3", value = 3 },
  reset = { env = "DB_POOL_RESET", default = "rollback", text = "discard", value = "discard" },
  statement_timeout = { env = "DB_STATEMENT_TIMEOUT", default = 0, text = "15", value = 15 },
  statement_cache = { env = "DB_POOL_STATEMENT_CACHE", default = 256, text = "0", value = 0 },
  pooler = { env = "DB_POOL_POOLER", default = "auto", text = "transaction", value = "transaction" },
  nested = { env = "DB_POOL_NESTED", default = "allow", text = "error", value = "error" },
  null = { env = "DB_POOL_NULL", default = "absent", text = "sentinel", value = "sentinel" },
  leak_after = { env = "DB_POOL_LEAK_AFTER", default = 60, text = "0", value = 0 },
  policy_time = { env = "DB_POOL_POLICY_TIME", default = 0.02, text = "0.01", value = 0.01 },
  policy_memory = { env = "DB_POOL_POLICY_MEMORY", default = 16777216, text = "1000000", value = 1000000 },
  policy_instructions = { env = "DB_POOL_POLICY_INSTRUCTIONS", default = 10000000, text = "50000", value = 50000 },
  probation = { env = "DB_POOL_PROBATION", default = 10, text = "0", value = 0 },
  record_limit = { env = "DB_POOL_RECORD_LIMIT", default = 67108864, text = "65536", value = 65536 },
  echo = { env = "DB_ECHO", default = false, text = "on", value = true },
}

--- Options for config.read: this environment, this `.env`, no other.
local function sources(environment, env_file, flags)
  return {
    environment = function(name) return environment and environment[name] end,
    read_file = function(path)
      assert.equal(".env", path)
      return env_file
    end,
    flags = flags,
  }
end

local function value_of(text, environment)
  local values = assert(dotenv.parse("KEY=" .. text, ".env", function(name) return environment and environment[name] end))
  return values.KEY.value
end

local function refusal(text)
  local values, message = dotenv.parse(text, ".env", function() end)
  assert.is_nil(values)
  return message
end

--- The message of an error raised by f, without the place it was raised at.
local function raised(f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  return (message:gsub("^[^:]*:%d+: ", ""))
end

describe("the list of settings", function()
  it("has every setting with its environment variable and default, and no other", function()
    local seen = 0
    for _, setting in ipairs(core.settings()) do
      local fact = assert(SETTINGS[setting.name], setting.name)
      assert.equal(fact.env, setting.env)
      assert.equal(fact.default, setting.default)
      assert.is_string(setting.help)
      seen = seen + 1
    end
    for _ in pairs(SETTINGS) do seen = seen - 1 end
    assert.equal(0, seen)
  end)

  it("says of each its type, range, choices and room", function()
    local by_name = {}
    for _, setting in ipairs(core.settings()) do by_name[setting.name] = setting end
    assert.same({ "duration", "seconds", 0.0, 1e9, "only an idle connection will do", true, "pool" }, {
      by_name.timeout.type, by_name.timeout.unit, by_name.timeout.min, by_name.timeout.max, by_name.timeout.zero,
      by_name.timeout.live, by_name.timeout.room })
    assert.equal("integer", math.type(by_name.size.default))
    assert.same({ "fifo", "lifo", "codel" }, by_name.queue.choices)
    assert.same({ "rollback", "discard", "none" }, by_name.reset.choices)
    assert.same({ "auto", "none", "transaction" }, by_name.pooler.choices)
    assert.is_true(by_name.database_url.secret)
    assert.equal("host", by_name.echo.room)
  end)

  it("lets all change live but database_url, size_limit, null, pooler and statement_cache", function()
    local fixed = {}
    for _, setting in ipairs(core.settings()) do
      if not setting.live then fixed[#fixed + 1] = setting.name end
    end
    table.sort(fixed)
    assert.same({ "database_url", "null", "pooler", "size_limit", "statement_cache" }, fixed)
  end)
end)

describe("config.read", function()
  it("takes every setting from the environment, read as its type", function()
    for name, fact in pairs(SETTINGS) do
      local values, from = config.read(nil, sources { [fact.env] = fact.text })
      assert.same({ [name] = fact.value }, values)
      assert.equal("environment", from[name])
    end
  end)

  it("takes every setting from .env", function()
    for name, fact in pairs(SETTINGS) do
      local values, from = config.read(nil, sources(nil, fact.env .. "=" .. fact.text .. "\n"))
      assert.same({ [name] = fact.value }, values)
      assert.equal(".env", from[name])
    end
  end)

  it("prefers flag, argument, environment, .env, default, in this order", function()
    local function size(flag, argument, environment, file)
      local values, from = config.read({ size = argument }, sources({ DB_POOL_SIZE = environment },
        file and "DB_POOL_SIZE=" .. file, { size = flag }))
      return { values.size, from.size }
    end
    assert.same({ 1, "flag" }, size("1", 2, "3", "4"))
    assert.same({ 2, "argument" }, size(nil, 2, "3", "4"))
    assert.same({ 3, "environment" }, size(nil, nil, "3", "4"))
    assert.same({ 4, ".env" }, size(nil, nil, nil, "4"))
    assert.same({ nil, "default" }, size())
  end)

  it("counts an empty variable as unset, in the environment and in .env", function()
    local values, from = config.read(nil, sources({ DB_POOL_SIZE = "" }, "DB_POOL_SIZE=4\nDB_ECHO=\n"))
    assert.same({ size = 4 }, values)
    assert.equal("default", from.echo)
  end)

  it("takes false in the argument for given", function()
    local values, from = config.read({ pre_ping = false }, sources { DB_POOL_PRE_PING = "true" })
    assert.is_false(values.pre_ping)
    assert.equal("argument", from.pre_ping)
  end)

  it("takes a text argument for the database's URL", function()
    local values, from = config.read("sqlite:///a.db", sources { DATABASE_URL = "sqlite:///b.db" })
    assert.same({ database_url = "sqlite:///a.db" }, values)
    assert.equal("argument", from.database_url)
  end)

  it("leaves the caller's table alone", function()
    local argument = { size = 3 }
    assert(config.read(argument, sources { DB_MAX_OVERFLOW = "9" }))
    assert.same({ size = 3 }, argument)
  end)

  it("takes flags with dashes", function()
    local values = config.read(nil, sources(nil, nil, { ["max-overflow"] = "9" }))
    assert.same({ max_overflow = 9 }, values)
  end)

  it("names the variable that a wrong value came from", function()
    local function message(...) return select(2, config.read(nil, sources(...))) end
    assert.equal('DB_POOL_SIZE: "ten" is not a whole number', message { DB_POOL_SIZE = "ten" })
    assert.equal("DB_POOL_SIZE: -5 is out of range: 0 to 100000", message { DB_POOL_SIZE = "-5" })
    assert.equal('.env:2: DB_POOL_SIZE: "ten" is not a whole number', message(nil, "\nDB_POOL_SIZE=ten"))
    assert.equal('--size: "ten" is not a whole number', message(nil, nil, { size = "ten" }))
    assert.equal('--sise: unknown setting "sise"; did you mean "size"?', message(nil, nil, { sise = "1" }))
    assert.equal("DB_POOL_SIZE: the value is not a whole number", message { DB_POOL_SIZE = "postgresql://app:hunter2@h/d" })
  end)

  it("refuses the name of a setting that comes later, in the environment and in .env", function()
    local function message(...) return select(2, config.read(nil, sources(...))) end
    for name, with in pairs(core.later.setting) do
      local refused = ("DB_POOL_%s is not there yet: it comes with %s"):format(name:upper(), with)
      assert.equal(refused, message { ["DB_POOL_" .. name:upper()] = "4" })
      assert.equal(".env:2: " .. refused, message(nil, "\nDB_POOL_" .. name:upper() .. "=4"))
      assert.same({}, (config.read(nil, sources({ ["DB_POOL_" .. name:upper()] = "" }, "DB_POOL_" .. name:upper() .. "="))))
    end
  end)

  it("warns once of a name in .env that looks like a setting's and is none, with the nearest", function()
    local lines = {}
    local options = sources(nil, "DB_POOL_SIZE=1\nDB_POOL_SIZEE=hunter2\nDB_POOL_MAX_OVERFLWO=3\nDB_POOL_BANANA=3\nAPP=1\n")
    options.log = function(level, message) lines[#lines + 1] = level .. ": " .. message end
    for _ = 1, 2 do assert.same({ size = 1 }, (config.read(nil, options))) end
    assert.same({
      "warn: .env:2: DB_POOL_SIZEE is no setting; did you mean DB_POOL_SIZE?",
      "warn: .env:3: DB_POOL_MAX_OVERFLWO is no setting; did you mean DB_MAX_OVERFLOW?",
      "warn: .env:4: DB_POOL_BANANA is no setting",
    }, lines)
  end)

  it("refuses an argument that is neither table nor text", function()
    local values, message = config.read(5, sources())
    assert.is_nil(values)
    assert.equal("settings: a table of settings or a database URL is wanted, not a number", message)
  end)

  it("reads the real file, does without one, and says when it cannot", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "wb"))
    file:write("\xEF\xBB\xBFDB_POOL_SIZE=3\r\n")
    file:close()
    local none = { environment = function() end, dotenv = path }
    assert.same({ size = 3 }, (config.read(nil, none)))
    os.remove(path)
    assert.same({}, (config.read(nil, none)))
    none.dotenv = "/"
    local values, message = config.read(nil, none)
    assert.is_nil(values)
    assert.match("^/: ", message)
    none.dotenv = false
    assert.same({}, (config.read(nil, none)))
  end)
end)

describe(".env", function()
  it("is NAME=value, with blanks around and export before", function()
    local values = assert(dotenv.parse("A=1\n  export  B = 2 \n\n# note\nC=\n'D E'=5\n", ".env", function() end))
    local flat = {}
    for name, entry in pairs(values) do flat[name] = entry.value end
    assert.same({ A = "1", B = "2", C = "", ["D E"] = "5" }, flat)
  end)

  it("may have a byte order mark, CRLF and no line end at its end", function()
    local values = assert(dotenv.parse("\xEF\xBB\xBFA=1\r\nB=2", ".env", function() end))
    assert.same({ "1", "2" }, { values.A.value, values.B.value })
  end)

  it("ends an unquoted value at a # that follows a blank", function()
    assert.equal("a#b", value_of "a#b")
    assert.equal("a", value_of "a #b")
    assert.equal("a b", value_of "a b  \t# c # d")
    assert.equal("#a", value_of "#a")
    assert.equal("", value_of " # only a note")
    assert.equal("a\\nb", value_of "a\\nb")
  end)

  it("keeps what is quoted, with escapes in double quotes and only those of \\ and ' in single ones", function()
    assert.equal(" a # b ", value_of '" a # b "')
    assert.equal("a\nb\t\"c\"\\", value_of [["a\nb\t\"c\"\\"]])
    assert.equal([[a\nb'c\]], value_of [['a\nb\'c\\']])
    assert.equal("a\\xb", value_of [["a\xb"]])
    assert.equal("two\nlines", value_of '"two\nlines"')
    assert.equal("a", value_of '"a" # note')
    assert.equal("", value_of "''")
  end)

  it("fills in ${NAME} and ${NAME:-default}, the environment first", function()
    local values = assert(dotenv.parse("A=1\nB=${A}-${C:-x}-${D}-${E:-y}\nF=$A ${A ${A:b}\n", ".env",
      function(name) return name == "E" and "env" or nil end))
    assert.equal("1-x--env", values.B.value)
    assert.equal("$A ${A ${A:b}", values.F.value)
    assert.equal("env", value_of("${A}", { A = "env" }))
    assert.equal("env", dotenv.parse("A=file\nB=${A}\n", ".env", function() return "env" end).B.value)
  end)

  it("takes the last of repeated names", function()
    assert.equal("2", assert(dotenv.parse("A=1\nA=2\n", ".env", function() end)).A.value)
  end)

  it("refuses a malformed line by file and number, never showing it", function()
    assert.equal(".env:3: not NAME=value", refusal "A=1\n\nhunter2\n")
    assert.equal(".env:1: not NAME=value", refusal "hunter 2=x")
    assert.equal(".env:1: not NAME=value", refusal "=hunter2")
    assert.equal(".env:1: not NAME=value", refusal "'hunter2=x")
    assert.equal(".env:4: a quote that does not end", refusal "A='x\ny\n'\nB=\"hunter2\n\n")
    assert.equal(".env:2: something follows the closing quote", refusal "A=1\nB='hunter2'x\n")
    assert.equal(".env:1: something follows the closing quote", refusal [[A="hunter2"\]])
  end)

  it("takes linear time and bounded memory, whatever it holds", function()
    local began = os.clock()
    for _, piece in ipairs { " ", "#", " #", "${", "${}", "\\", "'", '"', "=", "A=", "\t", "\\'" } do
      dotenv.parse("A=" .. piece:rep(1000000 // #piece), ".env", function() end)
      dotenv.parse('A="' .. piece:rep(1000000 // #piece), ".env", function() end)
      dotenv.parse(piece:rep(1000000 // #piece), ".env", function() end)
    end
    local laughs = { "A0=" .. ("x"):rep(1000) }
    for i = 1, 30 do laughs[#laughs + 1] = ("A%d=${A%d}${A%d}"):format(i, i - 1, i - 1) end
    assert.match("the values are too long", refusal(table.concat(laughs, "\n")))
    local many = { laughs[1] }
    for i = 1, 1100 do many[#many + 1] = ("B%d=${A0}"):format(i) end
    assert.match("the values are too long", refusal(table.concat(many, "\n")))
    assert.equal(".env: larger than 1048576 bytes", refusal((" "):rep(1024 * 1024 + 1)))
    assert.is_true(os.clock() - began < 30)
  end)
end)

describe("settings read by C", function()
  it("gives every default for an empty table and for none", function()
    for name, fact in pairs(SETTINGS) do
      assert.equal(fact.default, core.check_settings({})[name])
      assert.equal(fact.default, core.check_settings()[name])
    end
  end)

  it("takes every setting's value and gives it back in the same units", function()
    for name, fact in pairs(SETTINGS) do
      assert.equal(fact.value, core.check_settings({ [name] = fact.value })[name])
    end
  end)

  it("refuses an unknown name with the nearest one, and shows no secret", function()
    assert.equal('unknown setting "sise"; did you mean "size"?', raised(core.check_settings, { sise = 1 }))
    assert.equal('unknown setting "pool_size"; did you mean "size"?', raised(core.check_settings, { pool_size = 1 }))
    assert.equal('unknown setting "max-overflow"; did you mean "max_overflow"?', raised(core.check_settings, { ["max-overflow"] = 1 }))
    assert.equal('unknown setting "banana"', raised(core.check_settings, { banana = 1 }))
    assert.not_match("hunter2", raised(core.check_settings, { ["postgresql://app:hunter2@h/d"] = 1 }))
    assert.not_match("hunter2", raised(core.check_settings, { "postgresql://app:hunter2@h/d" }))
    assert.match("unknown setting", raised(core.check_settings, { ["size\0x"] = 1 }))
    assert.equal("settings: a name is a string, not a number", raised(core.check_settings, { 5 }))
    assert.equal("settings: a table is wanted, not a number", raised(core.check_settings, 5))
  end)

  it("refuses a value of another type, saying what is wanted", function()
    assert.equal('size: the string "20" is not what is wanted: write it without quotes', raised(core.check_settings, { size = "20" }))
    assert.equal('timeout: "abc" is not a number of seconds', raised(core.check_settings, { timeout = "abc" }))
    assert.equal("size: true is not a whole number", raised(core.check_settings, { size = true }))
    assert.equal("size: a table is not a whole number", raised(core.check_settings, { size = {} }))
    assert.equal("pre_ping: 1 is not true or false", raised(core.check_settings, { pre_ping = 1 }))
    assert.equal("pre_ping: a function is not true or false", raised(core.check_settings, { pre_ping = print }))
    assert.equal("reset: 1 is not one of rollback, discard, none", raised(core.check_settings, { reset = 1 }))
    assert.equal("database_url: 5 is not a text", raised(core.check_settings, { database_url = 5 }))
    assert.equal("database_url: a text with a NUL in it", raised(core.check_settings, { database_url = "sqlite:///a\0b" }))
    assert.equal("database_url: longer than 2047 bytes", raised(core.check_settings, { database_url = ("x"):rep(2048) }))
  end)

  it("refuses a value out of range and settings that do not go together", function()
    assert.equal("size: -5 is out of range: 0 to 100000", raised(core.check_settings, { size = -5 }))
    assert.equal("size: 2.5 is not a whole number", raised(core.check_settings, { size = 2.5 }))
    assert.equal("timeout: nan is not a number of seconds", raised(core.check_settings, { timeout = 0 / 0 }))
    assert.match("size 0 %+ max_overflow 0: at least one connection is needed", raised(core.check_settings, { size = 0, max_overflow = 0 }))
    assert.match("queue: \"random\" is not one of fifo, lifo, codel", raised(core.check_settings, { queue = "random" }))
    assert.equal('nested: "deny" is not one of allow, error', raised(core.check_settings, { nested = "deny" }))
    assert.equal('null: "nil" is not one of absent, sentinel', raised(core.check_settings, { null = "nil" }))
    assert.equal('pooler: "pgbouncer" is not one of auto, none, transaction', raised(core.check_settings, { pooler = "pgbouncer" }))
  end)

  it("reports the same one of several wrong values every time, whatever the order of a table's keys", function()
    local names = { "timeout", "size", "leak_after", "connect_timeout", "recycle", "max_waiting" }
    for first = 1, #names do
      local settings = {}
      for i = 0, #names - 1 do settings[names[(first + i - 1) % #names + 1]] = -1 end
      assert.match("^size: ", raised(core.check_settings, settings))
    end
  end)

  it("shows the URL redacted", function()
    local given = { database_url = "postgresql://app:hunter2@h/d" }
    assert.equal("postgresql://app:***@h/d", core.check_settings(given).database_url)
  end)

  it("lets the URL's connect_timeout win over the default and lose to the setting", function()
    local url = "postgresql://h/d?connect_timeout=3"
    assert.equal(3.0, core.check_settings({ database_url = url }).connect_timeout)
    assert.equal(7.0, core.check_settings({ database_url = url, connect_timeout = 7 }).connect_timeout)
    assert.equal(10.0, core.check_settings({ database_url = url, connect_timeout = 10 }).connect_timeout)
    local values = config.read(url, sources { DB_CONNECT_TIMEOUT = "8" })
    assert.equal(8.0, core.check_settings(values).connect_timeout)
    assert.equal('database_url: in its query, connect_timeout: "x" is not a number of seconds',
      raised(core.check_settings, { database_url = "postgresql://h/d?connect_timeout=x" }))
  end)
end)

describe("a change of settings", function()
  local url = "postgresql://app:hunter2@h/d"

  it("takes what is given and keeps the rest", function()
    local changed = core.change_settings({ size = 5, timeout = 1 }, { size = 6 })
    assert.same({ 6, 1.0 }, { changed.size, changed.timeout })
  end)

  it("refuses by name what cannot change live, and takes the value it has for no change", function()
    for _, name in ipairs { "database_url", "size_limit", "null", "pooler", "statement_cache" } do
      local changed, message = core.change_settings({}, { [name] = SETTINGS[name].value })
      assert.is_nil(changed)
      assert.equal(name .. ": cannot change while the pool runs", message)
      assert(core.change_settings({ [name] = SETTINGS[name].value }, { [name] = SETTINGS[name].value }))
    end
  end)

  it("takes back what it has shown, redacted URL included", function()
    local changed = assert(core.change_settings({ database_url = url }, core.check_settings { database_url = url }))
    assert.equal("postgresql://app:***@h/d", changed.database_url)
  end)

  it("returns what is out of range or does not go together, and raises misuse", function()
    assert.same({ nil, "size: -5 is out of range: 0 to 100000" }, { core.change_settings({}, { size = -5 }) })
    assert.match("at least one connection", select(2, core.change_settings({}, { size = 0, max_overflow = 0 })))
    assert.match("unknown setting", raised(core.change_settings, {}, { sise = 5 }))
    assert.match("not a whole number", raised(core.change_settings, {}, { size = "x" }))
    assert.match("not a whole number", raised(core.change_settings, {}, { timeout = -1, size = true }))
    assert.equal("settings: a table is wanted, not a nil", raised(core.change_settings, {}, nil))
  end)
end)

describe("the printed table of settings", function()
  local settings = core.settings()

  it("has a line for every setting in both forms, within 140 columns as text", function()
    local text, markdown = settings_text.text(settings), settings_text.markdown(settings)
    for name, fact in pairs(SETTINGS) do
      assert.match("\n" .. name .. " +[^\n]*" .. fact.env, text)
      assert.match("\n| `" .. name .. "` | [^\n]*`" .. fact.env .. "`", markdown)
    end
    for line in text:gmatch "[^\n]+" do assert.is_true(#line <= 140) end
  end)

  it("aligns its columns", function()
    local text = settings_text.text(settings)
    local column = text:find("environment", 1, true)
    for line in text:gmatch "[^\n]+" do
      local at = line:find("DB_", 1, true) or line:find("DATABASE_URL", 1, true)
      if at then assert.equal(column, at) end
    end
  end)

  it("says default, range and what 0 means", function()
    local text = settings_text.text(settings)
    assert.match("\nsize +10 +0%.%.100000 +DB_POOL_SIZE +yes\n    connections kept; 0: NullPool", text)
    assert.match("\ntimeout +30 +0%.%.1e9 s ", text)
    assert.match("\nqueue +fifo +fifo, lifo, codel ", text)
    assert.match("| `size_limit` | `1000` | 1%.%.100000 |  | `DB_POOL_SIZE_LIMIT` | no |", settings_text.markdown(settings))
  end)
end)
