-- The command as a shell meets it: what it prints where, and its exit codes. What it serves is in serve_spec.lua.
local process = require "support.process"

local command = os.getenv "POOL_SPEC_COMMAND"
local directory

--- Output (both streams) and exit code of the command, run in a directory of its own.
local function pool(...)
  local words = { process.quote(command) }
  for _, word in ipairs { ... } do words[#words + 1] = process.quote(word) end
  return process.run(("cd %s && %s 2>&1"):format(process.quote(directory), table.concat(words, " ")))
end

local function write(name, text)
  local file = assert(io.open(directory .. "/" .. name, "w"))
  file:write(text)
  file:close()
  if name == ".env" then process.run("chmod 600 " .. process.quote(directory .. "/" .. name)) end -- else that is warned of
end

describe("the pool command", function()
  if not command then
    pending("needs a build: run it through spec/run")
    return
  end

  setup(function() directory = process.run("mktemp -d"):gsub("%s+$", "") end)
  teardown(function() process.run("rm -rf " .. process.quote(directory)) end)

  it("explains itself, as a whole and verb by verb", function()
    for _, words in ipairs { { "--help" }, { "help" }, { "-h" } } do
      local text, code = pool(table.unpack(words))
      assert.equal(0, code)
      for _, verb in ipairs { "serve", "run", "settings", "version" } do assert.truthy(text:find("  " .. verb .. " ", 1, true), verb) end
    end
    for _, verb in ipairs { "serve", "run", "settings", "version" } do
      local text, code = pool(verb, "--help")
      assert.equal(0, code, verb)
      assert.truthy(text:find("^usage: pool " .. verb), verb)
    end
    assert.equal(2, (select(2, pool())))
  end)

  it("prints its version and its settings", function()
    assert.truthy(pool("version"):find("^%d+%.%d+%.%d+\n$"))
    local text, code = pool("settings")
    assert.equal(0, code)
    assert.truthy(text:find("max_overflow%s+20%s.*DB_MAX_OVERFLOW"))
    assert.truthy(pool("settings", "--markdown"):find("| `size` |", 1, true))
  end)

  it("prints the value that each setting has here and where it comes from, without a password", function()
    write(".env", "DB_POOL_SIZE=3\nDATABASE_URL=postgresql://app:hunter2@h/d?connect_timeout=4\n")
    local words = ("cd %s && DB_ECHO=1 %s settings --values 2>&1"):format(process.quote(directory), process.quote(command))
    local text, code = process.run(words)
    assert.equal(0, code, text)
    for _, line in ipairs { "size +3 +%.env", "echo +true +environment", "timeout +30 +default", "connect_timeout +4 +database_url",
      "database_url +postgresql://app:%*%*%*@h/d%S* +%.env" } do
      assert.truthy(text:find("\n" .. line .. "\n"), line .. "\n" .. text)
    end
    assert.is_nil(text:find("hunter2", 1, true), text)
    local lines = select(2, text:gsub("\n", ""))
    assert.equal(#require("pool.core").settings() + 1, lines)
    write(".env", "DB_POOL_SIZE=0\nDB_MAX_OVERFLOW=0\n")
    text, code = pool("settings", "--values")
    assert.equal(2, code)
    assert.truthy(text:find("^pool: settings: size 0 %+ max_overflow 0: at least one connection"), text)
    os.remove(directory .. "/.env")
    assert.equal(2, (select(2, pool("settings", "--values", "--markdown"))))
  end)

  it("refuses what is not there yet, and what it does not know, with the nearest name", function()
    for _, verb in ipairs { "top" } do
      local text, code = pool(verb)
      assert.same({ "pool: " .. verb .. " is not there yet\n", 2 }, { text, code })
    end
    for _, flag in ipairs { "admin", "workers", "watch", "check" } do
      local text, code = pool("serve", "app.lua", "--" .. flag, "x")
      assert.same({ ("pool: serve: --%s is not there yet\n"):format(flag), 2 }, { text, code })
    end
    local text, code = pool("serve", "app.lua", "--lanes", "3")
    assert.equal(2, code)
    assert.matches("^pool: serve: %-%-lanes is not there yet: it comes with ", text)
    text, code = pool("serv")
    assert.equal(2, code)
    assert.truthy(text:find("did you mean serve?", 1, true))
    assert.truthy(pool("serev"):find("did you mean serve?", 1, true))
    text, code = pool("serve", "app.lua", "--max-overflov", "1")
    assert.equal(2, code)
    assert.truthy(text:find("did you mean --max-overflow?", 1, true))
  end)

  it("refuses values of flags, naming them and what would be right", function()
    local cases = {
      { { "--size", "many" }, "size" }, { { "--timeout=-1" }, "timeout" }, { { "--pre-ping=perhaps" }, "pre%-ping" },
      { { "--listen", "8080" }, "HOST:PORT" }, { { "--size" }, "needs a value" }, { { "--no-size" }, "takes a value" },
    }
    for _, case in ipairs(cases) do
      local text, code = pool("serve", "app.lua", table.unpack(case[1]))
      assert.equal(2, code, text)
      assert.truthy(text:find(case[2]), text)
    end
  end)

  it("says what is wrong with an application that cannot be served", function()
    write("syntax.lua", "return return")
    write("raises.lua", "error 'early'")
    write("number.lua", "return 1")
    write("nothing.lua", "local app = require('pool.http').app()")
    write("start.lua", "local app = require('pool.http').app()\napp:on('start', function() error 'no start' end)\nreturn app")
    local wanted = { missing = "missing.lua", syntax = "syntax.lua:1:", raises = "early", number = "it returned a number",
      nothing = "it returned nothing",
      start = "no start" }
    for name, part in pairs(wanted) do
      local text, code = pool("serve", name .. ".lua", "--listen", "127.0.0.1:0")
      assert.equal(1, code, text)
      assert.truthy(text:find(part, 1, true), text)
    end
  end)

  it("refuses settings that do not go together, without a word of Lua's and without the password", function()
    local cases = {
      { { "--size", "0", "--max-overflow", "0" }, "at least one connection is needed" },
      { { "--size", "900", "--max-overflow", "900" }, "size_limit" },
      { { "--database-url", "mysql://h/x" }, "known are postgresql:// and sqlite://" },
      { { "--database-url", "postgresql://u:hunter2@h:bad/x" }, "database_url" },
    }
    for _, case in ipairs(cases) do
      local text, code = pool("serve", "app.lua", table.unpack(case[1]))
      assert.equal(2, code, text)
      assert.truthy(text:find(case[2], 1, true), text)
      assert.truthy(text:find("^pool: serve: [^\n]*\n$"), text)
      assert.is_nil(text:find("hunter2", 1, true), text)
    end
  end)

  it("refuses a variable and a line of .env that it cannot read, without showing the line", function()
    write(".env", "DB_POOL_SIZE=banana\n")
    assert.same({ 'pool: serve: .env:1: DB_POOL_SIZE: "banana" is not a whole number\n', 2 }, { pool("serve", "app.lua") })
    write(".env", "\nmy password is hunter2\n")
    assert.same({ "pool: serve: .env:2: not NAME=value\n", 2 }, { pool("serve", "app.lua") })
    os.remove(directory .. "/.env")
    local text = process.run(("cd %s && DB_MAX_OVERFLOW=x %s serve app.lua 2>&1"):format(process.quote(directory), process.quote(command)))
    assert.equal('pool: serve: DB_MAX_OVERFLOW: "x" is not a whole number\n', text)
  end)

  it("says which database it cannot open, in one line", function()
    write("asks.lua", "local app = require('pool.http').app()\napp:on('start', function(db) assert(db:query 'select 1') end)\nreturn app")
    local cases = { ["sqlite:////nowhere/at/all.db"] = "cannot open the SQLite database /nowhere/at/all.db",
      ["postgresql://u:hunter2@127.0.0.1:1/x"] = "Connection refused" }
    for url, part in pairs(cases) do
      local text, code = pool("serve", "asks.lua", "--listen", "127.0.0.1:0", "--database-url", url, "--timeout", "1")
      assert.equal(1, code, text)
      local last = text:match "\n(pool: connect: [^\n]*\n)$"
      assert.truthy(last and last:find(part, 1, true), text)
      assert.truthy(text:find("^pool: info: database [^\n]*\npool: info: pool size "), text)
      assert.is_nil(text:find("hunter2", 1, true), text)
    end
  end)

  it("says in which line of which hook the database complained", function()
    write("hook.lua", "local app = require('pool.http').app()\napp:on('start', function(db)\n" ..
      "  assert(db:query 'select * from nowhere')\nend)\nreturn app")
    local text, code = pool("serve", "hook.lua", "--listen", "127.0.0.1:0")
    assert.equal(1, code, text)
    assert.matches("\npool: query: no such table: nowhere %(SQLSTATE 42P01%) %(in the start hook, hook%.lua:3%)\n$", text)
  end)

  it("prints on standard output where it listens and nothing else; a second server there is refused", function()
    write("fine.lua", "local app = require('pool.http').app()\napp:get('/', function() return 'fine' end)\nreturn app")
    local function serve(...) return process.start({ command, "serve", "fine.lua", ... }, { cwd = directory }) end
    local first <close> = serve("--listen", "127.0.0.1:0")
    local port = first:wait_line("^pool: listening on http://127%.0%.0%.1:(%d+)$")
    assert.equal("fine", (process.run("curl -s --noproxy '*' http://127.0.0.1:" .. port)))
    local second <close> = serve("--listen", "127.0.0.1:" .. port)
    assert.equal(1, second:wait())
    assert.equal("", second:stdout())
    assert.equal(("pool: connect: cannot listen on 127.0.0.1 port %s: Address already in use"):format(port),
      second:stderr():match "([^\n]*)\n$")
    first:signal("INT")
    assert.equal(0, first:wait())
    assert.equal(("pool: listening on http://127.0.0.1:%s\n"):format(port), first:stdout())
    assert.truthy(first:stderr():find("^pool: info: database sqlite:///pool.db\n"), first:stderr())
  end)

  it("runs a script with its arguments and pool at hand", function()
    write("script.lua", [[
      local pool = require "pool"
      local _ <close> = setmetatable({}, { __close = function() print "closed" end })
      print(arg[0], #arg, pool.version, ...)
    ]])
    local text, code = pool("run", "script.lua", "--size", "two words")
    assert.equal(0, code, text)
    assert.truthy(text:find("^script.lua\t2\t%d+%.%d+%.%d+\t%-%-size\ttwo words\nclosed\n"), text)
  end)

  it("shows where a script failed, and fails", function()
    write("fails.lua", "local function deep() error 'oops' end\ndeep()")
    local text, code = pool("run", "fails.lua")
    assert.equal(1, code)
    assert.truthy(text:find("fails.lua:1: oops\nstack traceback:", 1, true))
    assert.truthy(text:find("fails.lua:2: in", 1, true))
    text, code = pool("run", "nowhere.lua")
    assert.equal(1, code)
    assert.truthy(text:find("nowhere.lua", 1, true))
    assert.equal(2, (select(2, pool("run"))))
  end)

  it("finds its Lua files wherever it is called from, through a link too", function()
    process.run(("ln -s %s %s/linked"):format(process.quote(command), process.quote(directory)))
    local text, code = process.run(("cd / && %s/linked version"):format(process.quote(directory)))
    assert.equal(0, code)
    assert.truthy(text:find("^%d"))
  end)
end)
