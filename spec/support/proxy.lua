--- A bad network on loopback (support/proxy.c): between pool and a server, whatever a spec orders, at once.
---
---   local p <close> = proxy.start()                       -- 127.0.0.1:p.port, to the specs' PostgreSQL by TCP
---   local db = pool.new(postgres.url { through = p })
---   p:set { delay = 0.05, fragment = 1 }                  -- from now on; what is not named stays as it is
---   p:set { cut = 0, sweep = 1, direction = "down", how = "rst" }   -- the next link is cut at once, the one after it a byte later, ...
---   p:now "rst"
---   assert.equal(1, p:stats().accepted)
---
--- Orders and answers go through two FIFOs, so that an order has been carried out when the call returns. A proxy that has died
--- answers with an end of file, one that hangs dies of its own alarm after ten seconds: no call waits for ever.
local postgres = require "support.postgres"
local process = require "support.process"

local proxy = {}
local Proxy = {}
Proxy.__index = Proxy

local DEFAULTS = { -- what false sets
  delay = 0,           -- seconds that every byte is held, each way
  rate = 0,            -- bytes a second, each way of each link; 0: as fast as it goes
  fragment = 0,        -- bytes a write at most, a write a turn; 0: as they come
  cut = -1,            -- bytes after which a link is ended: of new ones from their beginning, of open ones from now; -1: never
  sweep = 0,           -- each new link is cut so many bytes later than the one before; those open already are not
  direction = "both",  -- which bytes cut counts and flip hits: up (to the server), down, both
  how = "rst",         -- how a cut ends: fin, rst, stall (says nothing more, stays open). Over Unix sockets rst is a plain close
  flip = 0,            -- the probability that a byte has a bit turned over
  spare = 0,           -- so many bytes of a link's beginning, each way, are not hit
  seed = 1,            -- of flip: the same bytes over the same link are hit in the same way
  accept = "yes",      -- yes, refuse (no listener), close (accepted and closed), silent (accepted, and not a word)
}

local function owner() -- this process, which no library of Lua's names
  local file <close> = assert(io.open("/proc/self/stat"))
  return (file:read("a"):match("^%d+"))
end

local function address(to)
  if type(to) == "number" then return "tcp:127.0.0.1:" .. to end
  if to:sub(1, 1) == "/" then return "unix:" .. to end
  return "tcp:" .. to
end

--- Starts one. `options`:
---   to      a port on 127.0.0.1, "ADDRESS:PORT" or a Unix socket's path; default: the specs' PostgreSQL by TCP, or its socket with unix
---   unix    true: listens on a Unix socket in p.dir, named as libpq has it, for p.port; false: on 127.0.0.1
---   listen  another address of this machine, "ADDRESS:PORT" (port 0: any)
---   wrap    words to put before the command: { "ip", "netns", "exec", "x" }
---@param options table?
function proxy.start(options)
  local o = options or {}
  local c = postgres.cluster()
  local build = assert(os.getenv("POOL_SPEC_BUILD"), "the proxy needs a build: run it through spec/run")
  -- not in TMPDIR: a socket's path must be shorter than 107 bytes
  local dir = process.run("d=$(mktemp -d /tmp/pool-proxy.XXXXXX) && mkfifo $d/orders $d/answers && echo $d"):gsub("\n$", "")
  local to = o.to or (o.unix and ("%s/.s.PGSQL.%s"):format(c.DIR, c.PORT) or tonumber(c.PORT))
  local listen = o.unix and ("unix:%s/.s.PGSQL.%s"):format(dir, c.PORT) or address(o.listen or "127.0.0.1:0")
  local command = {}
  for i, word in ipairs(o.wrap or {}) do command[i] = word end
  for _, word in ipairs { build .. "/spec/proxy", address(to), listen, dir, owner() } do command[#command + 1] = word end
  local self = setmetatable({ dir = dir, unix = o.unix or false, process = process.start(command) }, Proxy)
  self.host = o.unix and dir or (o.listen or "127.0.0.1:0"):match("^[^:]+")
  self.port = math.tointeger(tonumber(self.process:wait_line("^listening on (%d+)$")))
  if o.unix then self.port = math.tointeger(tonumber(c.PORT)) end
  self.orders = assert(io.open(dir .. "/orders", "w")) -- neither waits: the proxy has opened both
  self.answers = assert(io.open(dir .. "/answers", "r"))
  return self
end

local function order(self, line)
  assert(not self.closed, "the proxy is closed")
  self.orders:write(line, "\n")
  self.orders:flush()
  local answer = self.answers:read("l")
  if not answer then error("the proxy has died:\n" .. self.process:stderr(), 3) end
  if answer:sub(1, 2) ~= "ok" then error(answer, 3) end
  return answer
end

local function assignments(settings)
  local words = {}
  for name, value in pairs(settings) do
    if DEFAULTS[name] == nil then error(("the proxy has no setting %q"):format(name), 3) end
    if value == false then value = DEFAULTS[name] end
    words[#words + 1] = name .. "=" .. (type(value) == "number" and ("%.17g"):format(value) or value)
  end
  table.sort(words) -- the same order every time
  return table.concat(words, " ")
end

--- Changes what is named; false puts the default back. New bytes and new links see it; cut counts anew.
---@param settings table
function Proxy:set(settings) order(self, "set " .. assignments(settings)) end

--- Back to a good network, but for what is named. What is stalled stays so: resume().
---@param settings table?
function Proxy:calm(settings) order(self, "calm " .. assignments(settings or {})) end

--- Ends every open link: "fin", "rst", or "stall"s it.
---@param how string
function Proxy:now(how) order(self, "now " .. how) end

--- No byte and no end passes on any link, nor on those to come, until resume(), after which nothing is missing.
function Proxy:stall() order(self, "stall") end
function Proxy:resume() order(self, "resume") end

--- accepted, refused (with accept = close), failed (no server), open, stalled (of the open ones), up, down (bytes passed), writes, cuts,
--- last_up, last_down (bytes of the link that ended last), next_cut (where the next link will be cut; -1: nowhere).
---@return table<string, integer>
function Proxy:stats()
  local stats = {}
  for name, value in order(self, "stats"):gmatch("([%l_]+)=(%-?%d+)") do stats[name] = math.tointeger(tonumber(value)) end
  return stats
end

--- Ends it and all of its links (by a reset where the system does so for an unread byte). Idempotent.
function Proxy:close()
  if self.closed then return end
  self.closed = true
  self.orders:close()
  self.answers:close()
  self.process:close()
  process.run("rm -rf " .. process.quote(self.dir))
end
Proxy.__close = Proxy.close
Proxy.__gc = Proxy.close

return proxy
