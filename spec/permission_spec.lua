-- Who else on the machine can see what: files, descriptors, the list of processes, the address that is listened on.
local http = require "support.http"
local postgres = require "support.postgres"
local process = require "support.process"
local quote = process.quote

local COMMAND = os.getenv "POOL_SPEC_COMMAND"
local dir

local function write(name, text)
  local file = assert(io.open(dir .. "/" .. name, "w"))
  file:write(text)
  file:close()
end

local function shell(command) return (process.run("cd " .. quote(dir) .. " && " .. command .. " 2>&1")) end

--- Starts a program under a umask that forbids nothing.
local function start(command, options)
  options = options or {}
  options.cwd = dir
  return process.start({ "sh", "-c", 'umask 000; exec "$0" "$@"', table.unpack(command) }, options)
end

local function mode(name) return shell("stat -c %a " .. name):match "^%d+" end

before_each(function() dir = process.run("mktemp -d"):match "[^\n]*" end)
after_each(function() process.run("rm -rf " .. quote(dir)) end)

if not COMMAND then
  describe("permissions", function() pending "needs a build: run it through spec/run" end)
  return
end

local APP = [[
local http = require "pool.http"
local app = http.app()
app:on("start", function(db) assert(db:exec "create table if not exists t (a integer); insert into t values (1)") end)
app:get("/child", function(req)
  local _ = assert(req.db:query "select 1 as one")
  local child <close> = io.popen "ls -l /proc/self/fd"
  return child:read "a"
end)
return app
]]

local function serve(...)
  write("app.lua", APP)
  local p = start { COMMAND, "serve", "app.lua", "--listen", "127.0.0.1:0", ... }
  return p, p:wait_line "(http://127%.0%.0%.1:%d+)$"
end

describe("files of pool's own making", function()
  it("are their owner's alone whatever the umask: the SQLite database, its log and index, a recording", function()
    local p <close> = serve("--record", "traffic.rec")
    for _, name in ipairs { "pool.db", "pool.db-wal", "pool.db-shm", "traffic.rec" } do assert.equal("600", mode(name), name) end
    p:signal "TERM"
    assert.equal(0, p:wait())
    assert.equal("600", mode "pool.db")
    assert.equal("app.lua\npool.db\ntraffic.rec\n", shell "ls") -- and there are no others
  end)

  it("a recording in place of one that everybody could read, and never through a link or over another file", function()
    local script = [[
      local pool = require "pool"
      local db = pool.new "sqlite:///:memory:"
      local recording, err = db:record(arg[1])
      print(recording and "recording" or err.message)
      if recording then recording:close() end
      db:close(0)]]
    write("script.lua", script)
    local function record(name)
      local p <close> = start { COMMAND, "run", "script.lua", name }
      return p:line()
    end
    assert.equal("recording", record "a.rec")
    shell "chmod 666 a.rec"
    assert.equal("recording", record "a.rec")
    assert.equal("600", mode "a.rec")
    write("precious", "untouched")
    shell "ln -s precious link.rec && ln -s nowhere dangling.rec && mkfifo pipe.rec"
    for _, name in ipairs { "link.rec", "dangling.rec", "precious", "pipe.rec", "." } do
      assert.not_equal("recording", record(name))
    end
    assert.equal("untouched", shell "cat precious")
    assert.matches("No such file", shell "cat nowhere")
  end)
end)

describe("a password", function()
  local URL = "postgresql://u:hunter2@127.0.0.1:1/d"

  --- What is warned of when settings are read where .env holds this text and has these permissions.
  local function warned(text, permissions, env)
    write(".env", text)
    shell("chmod " .. permissions .. " .env")
    env = env or {}
    env.DATABASE_URL = env.DATABASE_URL or false
    local p <close> = process.start({ COMMAND, "settings", "--values" }, { cwd = dir, env = env })
    assert.equal(0, p:wait(), p:stderr())
    return p:stderr()
  end

  it("in a .env that everybody may read is warned of, and is not shown", function()
    assert.equal("pool: warn: .env holds the database's password and can be read by everybody on this machine: chmod o-r .env\n",
      warned("DATABASE_URL=" .. URL .. "\n", "644"))
    assert.matches("chmod o%-r", warned("DATABASE_URL='postgresql:///d?password=hunter2'\n", "604"))
  end)

  it("is not warned of where nobody else may, where there is none, or where another source wins", function()
    assert.equal("", warned("DATABASE_URL=" .. URL .. "\n", "640"))
    assert.equal("", warned("DATABASE_URL=postgresql://u@127.0.0.1:1/d\n", "644"))
    assert.equal("", warned("DATABASE_URL=sqlite:///a:b@c.db\nDB_POOL_SIZE=4\n", "644"))
    assert.equal("", warned("DATABASE_URL=" .. URL .. "\n", "644", { DATABASE_URL = "sqlite:///x.db" }))
  end)

  it("on the command line is gone from the list of processes once the server listens", function()
    for _, flag in ipairs { { "--database-url", true }, { "--database-url=", false }, { "--database_url=", false } } do
      local url = postgres.url { tcp = true, application_name = "in-ps" }
      local words = flag[2] and { flag[1], url } or { flag[1] .. url }
      local p <close> = serve(table.unpack(words))
      local shown = process.run(("tr '\\0' ' ' </proc/%d/cmdline"):format(p.pid))
      assert.matches("serve app.lua %-%-listen 127%.0%.0%.1:0 %-%-database[-_]url", shown)
      assert.is_nil(shown:find(postgres.cluster().PASSWORD, 1, true), shown)
      assert.equal(1, postgres.count "in-ps") -- it was used all the same
      p:signal "TERM"
      assert.equal(0, p:wait())
    end
    postgres.sql "drop table t"
  end)
end)

describe("a program that a handler starts", function()
  for name, url in pairs { PostgreSQL = postgres.url {}, SQLite = "sqlite:///pool.db" } do
    it("inherits no connection, no client, no loop, with " .. name, function()
      local p <close>, at = serve("--database-url", url, "--record", "traffic.rec", "--policy", "default")
      local answer = http.ask(at .. "/child")
      assert.equal(200, answer.status)
      local seen = 0
      for target in answer.body:gmatch " %-> (%S+)" do -- pipes and files that the spec itself was started with may be among them
        seen = seen + 1
        for _, ours in ipairs { "^socket:", "^anon_inode:", "pool%.db", "traffic%.rec" } do assert.is_nil(target:match(ours), target) end
      end
      assert.is_true(seen >= 3, answer.body)
      p:signal "TERM"
      assert.equal(0, p:wait())
      if name == "PostgreSQL" then postgres.sql "drop table t" end
    end)
  end
end)

describe("pool serve", function()
  it("listens on this machine alone unless it is told otherwise", function()
    write("app.lua", APP)
    local p <close> = process.start({ COMMAND, "serve", "app.lua" }, { cwd = dir })
    local function said() return p:stdout() .. p:stderr() end
    process.wait_until(function() return said():find("8080", 1, true) end, 20, "the server to listen, or the port to be taken")
    for address in said():gmatch "(%S+):8080" do assert.equal("127.0.0.1", address:match "[%d.]+$") end
    if p:stdout() ~= "" then
      local listening = process.run "ss -Hltn 'sport = :8080' 2>/dev/null"
      for address in listening:gmatch "(%S+):8080" do assert.equal("127.0.0.1", address) end
    end
  end)
end)
