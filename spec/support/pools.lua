--- Pools on the specs' PostgreSQL, each under an application_name of its own, and what must be true of all of them at the end:
--- nothing leased, nobody in line, every counter accounted for, and no connection left at the server.
---
---   before_each(pools.begin)
---   after_each(pools.finish)
---   local db, name = pools.open { size = 2, max_overflow = 3 }
local assert = require "luassert"
local pool = require "pool"
local postgres = require "support.postgres"
local process = require "support.process"

local pools = {}

--- Lua's own assert, which raises the error object itself: busted's makes text of it.
pools.check = _G.assert

local made, log, real_log = {}, {}, pool.log
local serial = 0

--- Starts to collect what pool logs, and to remember pools.
function pools.begin()
  made, log = {}, {}
  pool.log = function(level, message, fields) log[#log + 1] = { level = level, message = message, fields = fields } end
end

--- A pool with these settings; `options` are postgres.url's. Closed by pools.finish.
---@return pool.Pool db, string application_name
function pools.open(settings, options)
  serial = serial + 1
  local given, wanted = { application_name = "spec-" .. serial }, {}
  for name, value in pairs(options or {}) do given[name] = value end
  for name, value in pairs(settings or {}) do wanted[name] = value end
  wanted.database_url = wanted.database_url or postgres.url(given)
  local db = pool.new(wanted)
  made[#made + 1] = { db = db, name = given.application_name }
  return db, given.application_name
end

--- The log so far as one text, a line "level: message" each.
function pools.log()
  local lines = {}
  for i, line in ipairs(log) do lines[i] = line.level .. ": " .. line.message end
  return table.concat(lines, "\n")
end

--- How often the log holds `text`, literally.
function pools.logged(text)
  local count, at = 0, 1
  local all = pools.log()
  while true do
    local from, to = all:find(text, at, true)
    if not from then return count end
    count, at = count + 1, to + 1
  end
end

--- What the first line of the log that has such a field says in it; nil when none has.
function pools.field(name)
  for _, line in ipairs(log) do
    if line.fields and line.fields[name] ~= nil then return line.fields[name] end
  end
end

--- Lets the loop turn until the condition holds; raises after `seconds` (default 10).
function pools.wait(condition, seconds, what)
  local deadline = pool.now() + (seconds or 10)
  while true do
    local result = condition()
    if result then return result end
    if pool.now() > deadline then error(("waited %g s in vain for %s"):format(seconds or 10, what or "a condition"), 2) end
    pool.sleep(0.002)
  end
end

--- Everybody who ever asked was answered in exactly one way, and every connection given is back or out.
function pools.assert_balanced(db)
  local s = db:stats()
  assert.equal(s.arrivals, s.grants + s.timeouts + s.rejected + s.cancelled + s.errors + s.waiting, "arrivals and their ends")
  assert.equal(s.grants, s.releases + s.leased, "grants, and releases and leases")
  return s
end

--- Nothing is out and nothing is under way.
function pools.assert_at_rest(db)
  pools.wait(function()
    local s = db:stats()
    return s.leased + s.waiting + s.resetting + s.closing + s.opening + s.checking == 0
  end, 10, "the pool to come to rest: " .. db:status())
  assert.same({}, db:leases())
  return pools.assert_balanced(db)
end

--- Closes what was opened here; raises when something is left behind.
function pools.finish()
  pool.log = real_log
  local leased = {}
  for _, entry in ipairs(made) do
    local s = pools.assert_balanced(entry.db)
    if not s.draining then pcall(entry.db.resume, entry.db) end
    leased[#leased + 1] = s.leased > 0 and ("%s: %d leased"):format(entry.name, s.leased) or nil
    entry.db:close(0)
  end
  for _, entry in ipairs(made) do
    assert.equal(0, entry.db:stats().total)
    postgres.wait_gone(entry.name)
  end
  made = {}
  assert.same({}, leased)
end

--- Something that accepts connections, or does not, and never says anything. Returns its port and what ends it (<close>).
--- kind "silent": accepts and says nothing; "full": its backlog is full, so that not even the handshake ends.
-- Perl is on every Debian, and PostgreSQL's packages need it.
local HOLE = [[
use Socket; $| = 1;
socket(S, PF_INET, SOCK_STREAM, 0) or die; bind(S, sockaddr_in(0, INADDR_LOOPBACK)) or die;
listen(S, $ARGV[0] eq "full" ? 0 : 50) or die;
my @kept; my $at = getsockname(S);
if ($ARGV[0] eq "full") {
  for (1 .. 4) { socket(my $c, PF_INET, SOCK_STREAM | 2048, 0) or die; connect($c, $at); push @kept, $c } # 2048: SOCK_NONBLOCK
  select(undef, undef, undef, 0.1);
}
print +(sockaddr_in($at))[0], "\n";
if ($ARGV[0] eq "full") { sleep 60 while 1 }
while (accept(my $c, S)) { push @kept, $c }
]]

function pools.black_hole(kind)
  local p = process.start { "perl", "-e", HOLE, kind }
  return math.tointeger(tonumber(p:wait_line("^(%d+)$"))), p
end

return pools
