--- Programs in the background, for specs: their output line by line, signals, their end, each with a deadline. Made of a shell,
--- files in a temporary directory and polling; nothing here waits without an end.
---
---   local p <close> = process.start({ "build/release/pool", "serve", "app.lua", "--listen", "127.0.0.1:0" }, { env = { A = "b" } })
---   local port = p:wait_line("listening on http://127.0.0.1:(%d+)")
---   p:signal("TERM")
---   assert.equal(0, p:wait(5))
local planted = require "support.planted"
local system = require "system" -- comes with busted

local process = {}
local Process = {}
Process.__index = Process

local POLL = 0.01
local COUNTED = (os.getenv "POOL_SPEC_BUILD" or ""):match "/coverage$" ~= nil

---@param text string
---@return string quoted  as one word for a shell
function process.quote(text)
  return "'" .. tostring(text):gsub("'", [['\'']]) .. "'"
end

--- Polls until `condition` returns something true, and returns it; raises after `seconds` (default 10), naming `what`.
function process.wait_until(condition, seconds, what)
  local deadline = system.monotime() + (seconds or 10)
  while true do
    local result = condition()
    if result then return result end
    if system.monotime() > deadline then
      error(("waited %g s in vain for %s"):format(seconds or 10, what or "a condition"), 2)
    end
    system.sleep(POLL)
  end
end

--- What is in the file; nil when there is none.
---@param path string
---@return string?
function process.read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end
local read = process.read

--- Runs a shell command to its end. The sanitizers' library, if any, is for the programs under test and not for the shell's.
---@return string output, integer code
function process.run(command)
  local pipe = assert(io.popen("unset LD_PRELOAD\n" .. command, "r"))
  local output = pipe:read("a")
  local _, _, code = pipe:close()
  local ours = os.getenv("POOL_SPEC_COMMAND")
  if ours and command:find(ours, 1, true) then planted.printed(output) end -- psql's and curl's is not pool's to answer for
  return output, code
end

local function words(command)
  local quoted = {}
  for i, word in ipairs(command) do quoted[i] = process.quote(word) end
  return table.concat(quoted, " ")
end

-- A Lua that loads the module under the sanitizers must have their library first; pool itself is linked with it.
local function preload(command)
  local library = os.getenv("POOL_SPEC_PRELOAD")
  if library and command[1]:match("lua[%d.]*$") then return "LD_PRELOAD=" .. process.quote(library) end
  return ""
end

local function environment(options)
  local assignments = {}
  for name, value in pairs(options.env or {}) do
    assignments[#assignments + 1] = value == false and "-u " .. name or process.quote(name .. "=" .. tostring(value))
  end
  -- env's -u must precede its assignments
  table.sort(assignments, function(a, b) return (a:sub(1, 3) == "-u ") and (b:sub(1, 3) ~= "-u ") end)
  return table.concat(assignments, " ")
end

-- Job control (set -m), so that the program leads a group of its own; a shell's background jobs ignore SIGINT, so that is undone. A
-- program that is stopped has not ended, though `wait` returns; and `wait -f` was seen to spin for ever.
local LAUNCH = [[
unset LD_PRELOAD
dir=%s
bash -c '
  set -m
  cd %s || exit
  env --default-signal=INT,QUIT,PIPE %s %s %s <%s >"$0/out" 2>"$0/err" &
  echo $! >"$0/pid.new"; mv "$0/pid.new" "$0/pid"
  while wait $!; code=$?; kill -0 $! 2>/dev/null; do sleep 0.02; done
  echo $code >"$0/code.new"; mv "$0/code.new" "$0/code"
' "$dir" >/dev/null 2>&1 </dev/null &
]]

--- Starts a program. `options`: env (a table; false removes a variable), cwd, stdin (a path).
---@param command string[]
function process.start(command, options)
  options = options or {}
  local dir = process.run("mktemp -d"):gsub("\n$", "")
  local function inner(text) return (text:gsub("'", [['\'']])) end -- once more: the launch is itself inside quotes
  local self = setmetatable({ dir = dir, command = command, read_up_to = 0 }, Process)
  local launch = LAUNCH:format(process.quote(dir), inner(process.quote(options.cwd or ".")), inner(environment(options)),
    inner(preload(command)), inner(words(command)), inner(process.quote(options.stdin or "/dev/null")))
  assert(os.execute(launch))
  self.pid = tonumber(process.wait_until(function() return read(dir .. "/pid") end, 10, "the start of " .. command[1]))
  return self
end

function Process:stdout() return read(self.dir .. "/out") or "" end
function Process:stderr() return read(self.dir .. "/err") or "" end

--- Its exit code, nil while it runs. A signal's is 128 more than its number, as shells have it.
---@return integer?
function Process:code()
  if not self.ended then self.ended = tonumber(read(self.dir .. "/code") or nil) end
  return self.ended
end

--- The next whole line of standard output; nil when the program has ended and there is none. Raises at the deadline.
---@param seconds number?  default 10
---@return string?
function Process:line(seconds)
  local function take()
    local over = self:code() ~= nil -- asked before reading: what it wrote last is then there
    local first, last = self:stdout():find("[^\n]*\n", self.read_up_to + 1)
    if first then
      self.read_up_to = last
      return { self:stdout():sub(first, last - 1) }
    end
    return over and {}
  end
  return process.wait_until(take, seconds, "a line of " .. self.command[1] .. "; its standard error:\n" .. self:stderr())[1]
end

--- Reads lines until one matches; returns its captures (or the match). Raises when the program ended first, and at the deadline.
---@param pattern string
---@param seconds number?  default 10, for all of them
function Process:wait_line(pattern, seconds)
  local deadline = system.monotime() + (seconds or 10)
  while true do
    local line = self:line(math.max(0, deadline - system.monotime()))
    if not line then
      error(("%s ended with %d without a line like %q; its standard error:\n%s"):format(self.command[1], self:code(), pattern,
        self:stderr()), 2)
    end
    if line:match(pattern) then return line:match(pattern) end
  end
end

--- Waits until its standard error matches; returns the captures.
function Process:wait_stderr(pattern, seconds)
  local fine, why = pcall(process.wait_until, function() return self:stderr():match(pattern) end, seconds, ("%q"):format(pattern))
  if not fine then error(("%s on standard error, which is:\n%s"):format(why, self:stderr()), 2) end
  return self:stderr():match(pattern)
end

---@param name string  "TERM", "INT", "KILL", "HUP", ...
function Process:signal(name)
  process.run(("kill -%s %d 2>&1"):format(name, self.pid))
end

--- Waits for its end; its exit code. Raises at the deadline.
---@param seconds number?  default 10
---@return integer
function Process:wait(seconds)
  return process.wait_until(function() return self:code() end, seconds, "the end of " .. self.command[1])
end

--- Ends it (SIGKILL to its whole group when it still runs) and removes what it wrote. Idempotent.
function Process:close()
  if self.closed then return end
  self.closed = true
  if not self:code() and COUNTED then -- what is killed writes no counts
    self:signal "TERM"
    pcall(self.wait, self, 2)
  end
  if not self:code() then
    process.run(("kill -KILL -%d 2>&1"):format(self.pid))
    self:wait(10)
  end
  planted.printed(self:stdout() .. self:stderr())
  process.run("rm -rf " .. process.quote(self.dir))
end
Process.__close = Process.close
Process.__gc = Process.close

return process
