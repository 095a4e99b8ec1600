--- The specs' own PostgreSQL (support/cluster): spec/run starts one for the whole run and passes it in POOL_SPEC_PG_*; a spec run
--- by itself makes one, which is gone when this process is. What is asked here goes through psql, independent of pool.
---
---   local postgres = require "support.postgres"
---   local db = pool.new(postgres.url { application_name = "my-spec" })
---   assert.equal(1, postgres.count("my-spec"))
local process = require "support.process"

local postgres = {}
local quote = process.quote
local HERE = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$") or "."
local CLUSTER = HERE .. "/cluster"

local variables -- POOL_SPEC_PG_* without the prefix

local function from_environment()
  if not os.getenv("POOL_SPEC_PG_DIR") then return nil end
  local found = {}
  for _, name in ipairs { "DIR", "PORT", "USER", "PASSWORD", "DATABASE", "BIN" } do
    found[name] = os.getenv("POOL_SPEC_PG_" .. name)
  end
  return found
end

-- The cluster's owner is this process: the shell's parent. Its watcher removes it when this process has ended.
local function create()
  local output, code = process.run(quote(CLUSTER) .. " create $PPID")
  assert(code == 0, "no PostgreSQL for the specs")
  local found = {}
  for name, value in output:gmatch("export POOL_SPEC_PG_(%u+)=([^\n]*)") do found[name] = value end
  return found
end

local function cluster()
  variables = variables or from_environment() or create()
  return variables
end

local function control(...)
  local command = { "POOL_SPEC_PG_DIR=" .. quote(cluster().DIR), quote(CLUSTER), ... }
  local output, code = process.run(table.concat(command, " ") .. " 2>&1")
  assert(code == 0, output)
end

--- The directory of its Unix socket, its port, and so on: { DIR, PORT, USER, PASSWORD, DATABASE, BIN }.
function postgres.cluster() return cluster() end

local function escape(text)
  return (tostring(text):gsub("[^%w%-._~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

--- A URL of it. `options`: tcp = true (127.0.0.1 and the password; else the Unix socket), user, password, database, host, port,
--- through (something with a host, a port and unix = true or false: support.proxy, support.fake_postgres), scheme; every other name
--- is a parameter of libpq's (application_name, sslmode, ...).
---@param options table?
---@return string
function postgres.url(options)
  local c, o, query = cluster(), {}, {}
  for name, value in pairs(options or {}) do o[name] = value end
  local function take(name, default)
    local value = o[name]
    o[name] = nil
    if value == nil then return default end
    return value
  end
  local through = take("through", {})
  local tcp = take("tcp", through.unix == false)
  local authority = escape(take("user", c.USER))
  local password = take("password", tcp and c.PASSWORD or nil)
  if password then authority = authority .. ":" .. escape(password) end
  local host, port = take("host", tcp and (through.host or "127.0.0.1") or nil), take("port", through.port or c.PORT)
  authority = authority .. "@" .. (host and host .. ":" .. port or "")
  local url = take("scheme", "postgresql") .. "://" .. authority .. "/" .. escape(take("database", c.DATABASE))
  if not host then query = { "host=" .. escape(through.host or c.DIR), "port=" .. port } end
  for name, value in pairs(o) do query[#query + 1] = name .. "=" .. escape(value) end
  table.sort(query)
  return url .. (#query > 0 and "?" .. table.concat(query, "&") or "")
end

--- Runs SQL through psql; what it prints, without alignment and headings, a row a line, cells parted by `|`. Raises what the
--- server refuses.
---@param sql string
---@param database string?
---@return string
function postgres.sql(sql, database)
  local c = cluster()
  local output, code = process.run(("printf %%s %s | %s -X -q -A -t -v ON_ERROR_STOP=1 -h %s -p %s -U %s -d %s 2>&1"):format(quote(sql),
    quote(c.BIN .. "/psql"), quote(c.DIR), c.PORT, quote(c.USER), quote(database or c.DATABASE)))
  output = output:gsub("\n$", "")
  if code ~= 0 then error(output, 2) end
  return output
end

local function literal(text) return "'" .. text:gsub("'", "''") .. "'" end

--- How many connections the server itself counts under this application_name.
---@param application_name string
---@param state string?  only those in this state: "idle", "active", "idle in transaction"
---@return integer
function postgres.count(application_name, state)
  return math.tointeger(postgres.sql("select count(*) from pg_stat_activity where application_name = " .. literal(application_name)
    .. (state and " and state = " .. literal(state) or "")))
end

--- Waits until the server counts no connection under this name any more: one that was cut is there for as long as its process takes
--- to see it.
function postgres.wait_gone(application_name)
  local sql = "select pid, state, wait_event, query from pg_stat_activity where application_name = " .. literal(application_name)
  local answered, left
  local gone = pcall(process.wait_until, function()
    answered, left = pcall(postgres.sql, sql)
    return answered and left == ""
  end)
  if not gone then error(("connections of %s are still at the server:\n%s"):format(application_name, left), 2) end
end

--- The process ids of its connections at the server.
---@return integer[]
function postgres.pids(application_name)
  local pids = {}
  local text = postgres.sql("select pid from pg_stat_activity where application_name = " .. literal(application_name) .. " order by 1")
  for pid in text:gmatch("%d+") do pids[#pids + 1] = math.tointeger(pid) end
  return pids
end

--- pg_terminate_backend for every connection under this name: how many.
function postgres.terminate(application_name)
  return math.tointeger(postgres.sql("select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = "
    .. literal(application_name)))
end

--- SIGKILL to one server process. The server then restarts itself: all of its connections die.
---@param pid integer
function postgres.kill_backend(pid) process.run(("kill -KILL %d"):format(pid)) end

--- Waits until the server answers, for example after kill_backend.
function postgres.wait_ready(seconds)
  process.wait_until(function() return (pcall(postgres.sql, "select 1")) end, seconds, "PostgreSQL")
end

function postgres.start() control("start") end
---@param mode string?  "fast" (default), "immediate", "smart"
function postgres.stop(mode) control("stop", mode) end
---@param mode string?
function postgres.restart(mode) control("restart", mode) end
--- SIGKILL to every process of the server; start() afterwards.
function postgres.kill() control("kill") end

--- What the server has logged so far.
---@return string
function postgres.log()
  local file = io.open(cluster().DIR .. "/log", "rb")
  if not file then return (process.run("cat " .. quote(cluster().DIR .. "/log"))) end
  local text = file:read("a")
  file:close()
  return text
end

return postgres
