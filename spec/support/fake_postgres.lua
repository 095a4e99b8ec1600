--- A scripted PostgreSQL server: says anything at any point, also nonsense (support/fake_server.lua tells what a script can do).
---
---   local f <close> = fake_postgres.start(function(c)       -- a process a connection, cancel requests included
---     if c:startup().kind == "cancel" then return end
---     c:greet()
---     c:read()
---     c:send(pg.ready "I" .. pg.ready "I")
---   end)
---   local db = pool.new(postgres.url { through = f, sslmode = "disable" })
---
---   local f <close> = fake_postgres.start { ready = function(_, bytes) return bytes .. bytes end }    -- honest but for one thing
---
--- The script runs elsewhere: it takes its upvalues along as they are at the start (values, tables, functions; modules by their
--- name), and what it changes is not seen here. What it has to tell it tells with c:note(), and f:tell() answers it.
--- A script that raised makes f:close() raise.
local process = require "support.process"

local fake_postgres = {}
local Fake = {}
Fake.__index = Fake

-- ---- a function as text ----

local function module_name(value)
  for name, module in pairs(package.loaded) do
    if module == value then return name end
  end
end

-- Emits statements that build `value`; returns an expression for it. Each table and function is built once, so cycles are fine.
local function ship(value, lines, seen)
  local kind = type(value)
  if kind == "nil" or kind == "boolean" or kind == "number" or kind == "string" then return ("%q"):format(value) end
  if value == _G then return "_G" end
  if kind ~= "table" and kind ~= "function" then error("a script cannot take a " .. kind .. " along", 0) end
  if seen[value] then return seen[value] end
  local function emit(...) lines[#lines + 1] = (...):format(select(2, ...)) end
  seen.count = seen.count + 1
  local own = ("v[%d]"):format(seen.count)
  seen[value] = own
  local name = module_name(value)
  if name then
    emit("%s = require %q", own, name)
  elseif kind == "table" then
    emit("%s = {}", own)
    for k, v in pairs(value) do emit("%s[%s] = %s", own, ship(k, lines, seen), ship(v, lines, seen)) end
  else
    if debug.getinfo(value, "S").what == "C" then error("a script cannot take a C function along", 0) end
    emit("%s = assert(load(%q, 'script', 'b'))", own, string.dump(value))
    for i = 1, 255 do
      local upvalue, held = debug.getupvalue(value, i)
      if not upvalue then break end
      -- busted runs a spec in an environment of its own; the server's is its own, too
      emit("debug.setupvalue(%s, %d, %s)", own, i, upvalue == "_ENV" and "_G" or ship(held, lines, seen))
    end
  end
  return own
end

local function text_of(script)
  if type(script) == "string" then return script end
  local lines = { "local v = {}" }
  local root = ship(script, lines, { count = 0 })
  if type(script) == "table" then
    lines[#lines + 1] = ("return function(c) return c:serve(%s) end"):format(root)
  else
    lines[#lines + 1] = "return " .. root
  end
  return table.concat(lines, "\n")
end

-- ---- a server ----

local function owner()
  local file <close> = assert(io.open("/proc/self/stat"))
  return (file:read("a"):match("^%d+"))
end

--- Starts one. `script`: a function of a connection; Lua text that returns one; a table: an honest server but for what it says
--- (c:serve); nil: an honest server. `options.unix`: a Unix socket instead of 127.0.0.1.
---@param script function|string|table|nil
---@param options table?
function fake_postgres.start(script, options)
  local unix = options and options.unix or false
  local build = assert(os.getenv("POOL_SPEC_BUILD"), "the scripted server needs a build: run it through spec/run")
  local text = text_of(script == nil and {} or script)
  local dir = process.run("mktemp -d /tmp/pool-fake.XXXXXX"):gsub("\n$", "")
  local file = assert(io.open(dir .. "/script.lua", "wb"))
  assert(file:write(text))
  assert(file:close())
  local self = setmetatable({ dir = dir, unix = unix, host = unix and dir or "127.0.0.1" }, Fake)
  local listen = unix and "unix:" .. dir .. "/.s.PGSQL.5432" or "tcp:127.0.0.1:0"
  self.process = process.start { build .. "/spec/fake_postgres", listen, dir, owner(), package.path }
  self.port = math.tointeger(tonumber(self.process:wait_line("^listening on (%d+)$")))
  if unix then self.port = 5432 end
  return self
end

--- What scripts have noted so far, a line each; `pattern`: only those that match, or what its captures are.
---@param pattern string?
---@return string[]
function Fake:notes(pattern)
  local found = {}
  local file <close> = io.open(self.dir .. "/notes", "rb")
  for line in (file and file:read("a") or ""):gmatch("([^\n]*)\n") do
    local match = not pattern and line or line:match(pattern)
    if match then found[#found + 1] = match end
  end
  return found
end

--- Lets every c:await(word) go on, now and later.
function Fake:tell(word) assert(io.open(self.dir .. "/told." .. word, "w")):close() end

--- Ends it and every connection. Raises when a script raised. Idempotent.
function Fake:close()
  if self.closed then return end
  self.closed = true
  local errors = self:notes("^error: (.*)")
  local other = self.process:stderr()
  if other ~= "" then errors[#errors + 1] = other end
  self.process:close()
  process.run("rm -rf " .. process.quote(self.dir))
  if errors[1] then error("a script of the fake server raised: " .. errors[1]:gsub("\\n", "\n"), 2) end
end
Fake.__close = Fake.close
Fake.__gc = function(self) pcall(Fake.close, self) end

return fake_postgres
