--- What happens to a SQLite file and to those who use it beside us: locks, rot, permissions, a full disk, a file that is taken away,
--- processes that are killed.
---
--- The file is found through a link (pool.db -> real/pool.db), so that what is at the end of the path can be changed in one step.
--- Where every call is to open the file anew, the pool keeps no connection (size 0). After each row that writes, the file is whole and
--- what was committed is in it, once.
local pool = require "pool"
local process = require "support.process"

local rows = {}
local quote = process.quote
local ANEW = { size = 0, max_overflow = 4, timeout = 10 }
local VICTIM, PAGE = 4000, 4096 -- rows of two to a page: more than a connection's page cache holds

local function add(row)
  row.driver = "sqlite"
  if row.settings == ANEW then row.tasks = 3 end -- where somebody waits a connection is handed on
  row.name = "SQLite: " .. row.name
  rows[#rows + 1] = row
end

-- ---- the file -------------------------------------------------------------------------------------------------------------------

local function path_of(w) return w.dir .. "/real/pool.db" end

--- Runs fn on a pool of the file, which is closed after it: the -wal is brought home.
local function with_file(path, fn)
  local db <close> = pool.new { database_url = "sqlite:///" .. path, size = 1 }
  local result = fn(db)
  assert(db:close())
  return result
end

local function make(w, script)
  w:run(("mkdir -p %s/real; ln -sfn real/pool.db %s/pool.db"):format(w.dir, w.dir))
  with_file(path_of(w), function(db) return assert(db:exec(script or "create table if not exists kept (n integer)")) end)
end

--- Lets pool.db lead elsewhere, in one step.
local function lead_to(w, where) w:run(("ln -sfn %s %s/next && mv -T %s/next %s/pool.db"):format(where, w.dir, w.dir, w.dir)) end

local function complain(result, ...) result.broken[#result.broken + 1] = string.format(...) end

--- The file is whole, and each transaction of the load is in it as it ended. `more`: numbers -> whether they must be there; nil: may.
local function audit(w, result, path, more)
  local found = {}
  local health = with_file(path or path_of(w), function(db)
    for row in db:rows "select n from fault_ledger" do found[row.n] = (found[row.n] or 0) + 1 end
    return assert(db:query "pragma integrity_check")[1].integrity_check
  end)
  if health ~= "ok" then complain(result, "the file is not whole: %s", health) end
  local function look(n, must)
    local times = found[n] or 0
    if times > 1 or (must ~= nil and times ~= (must and 1 or 0)) then
      result.wrong = result.wrong + 1
      complain(result, "transaction %d is there %d times", n, times)
    end
  end
  for n, state in pairs(w.load:ledger()) do
    if state == "right" then look(n, true) elseif state == "clean" then look(n, false) else look(n) end
  end
  for n, must in pairs(more or {}) do look(n, must or nil) end
end

-- ---- others who use it ------------------------------------------------------------------------------------------------------------

--- A shell command that runs this Lua in a process of its own; its first line is that process's id.
local function neighbour(w, text)
  w.scripts = (w.scripts or 0) + 1
  local file = ("%s/neighbour.%d.lua"):format(w.dir, w.scripts)
  local out = assert(io.open(file, "w"))
  out:write(("io.stdout:setvbuf 'no'\nlocal pool = require 'pool'\nlocal db = pool.new { database_url = 'sqlite:///%s', size = 1 }\n")
    :format(path_of(w)), text, "\n")
  out:close()
  return ("echo $$; exec %s/pool run %s"):format(quote(os.getenv "POOL_SPEC_BUILD"), quote(file))
end

local function said(beside)
  local file = io.open(beside.base .. ".out")
  local text = file and file:read "a" or ""
  if file then file:close() end
  return text
end

local function kill(w, beside)
  w:wait(function() return said(beside):match "^%d+\n" end, 10, "a process")
  w:run("kill -KILL " .. said(beside):match "^(%d+)\n")
  w:wait(function() return beside:code() end, 10, "the end of a killed process")
end

-- ---- locks ------------------------------------------------------------------------------------------------------------------------

local LOCK = [[
local c = assert(db:acquire())
assert(c:exec "begin immediate")
pool.sleep(%g)
assert(c:exec "commit")
]]

add { -- writers wait for it, readers do not
  name = "locked by another process for 2 s",
  allow = "", saw = function(_, result) return result.longest > 1.5 end, setup = make,
  strike = function(w) w:run(neighbour(w, LOCK:format(2))) end, after = audit,
}
add { -- a lock is waited for at most 5 s
  name = "locked by another process for longer than a lock is waited for",
  allow = "query:55P03", saw = "query:55P03", setup = make,
  strike = function(w) w:run(neighbour(w, LOCK:format(7))) end, after = audit,
}
add { -- for ever, as far as anybody can tell: until it is killed
  name = "locked for ever by a process that is killed at last",
  allow = "query:55P03", saw = "query:55P03", setup = make,
  strike = function(w)
    local holder = w:beside(neighbour(w, LOCK:format(60)))
    w:more_errors(8)
    kill(w, holder)
  end,
  after = audit,
}

-- ---- rot --------------------------------------------------------------------------------------------------------------------------

local function pad_of(n) return ("%06d"):format(n):rep(300) end

--- One row of many, whose text only this number has.
local function look_up(db, n)
  local wanted = n * 7919 % VICTIM + 1
  local found, err = db:query("select pad from victim where n = $1", wanted)
  if not found then return nil, err end
  if #found ~= 1 or found[1].pad ~= pad_of(wanted) then error("a wrong answer for " .. wanted, 0) end
  return true
end

local function make_victim(w)
  make(w, ([[create table victim (n integer primary key, pad text not null);
    with recursive s(n) as (select 1 union all select n + 1 from s where n < %d)
    insert into victim select n, replace(hex(zeroblob(150)), '0', printf('%%06d', n)) from s]]):format(VICTIM))
end

--- Spoils the file by a shell command, until callers have met that, and puts back what was there. Nobody writes to it meanwhile.
local function spoiled(name, allow, spoil, first, last, more)
  local row = { name = name, allow = allow, saw = allow:match "%S+", ask = look_up, calls = { "query" }, ledger = false,
    setup = make_victim }
  function row.strike(w)
    local file = path_of(w)
    w:run(("cp %s %s/good"):format(file, w.dir))
    w:run((spoil:gsub("FILE", file)))
    w:more_errors(20)
    w:run(("dd if=%s/good of=%s bs=%d skip=%d seek=%d count=%d conv=notrunc status=none"):format(w.dir, file, PAGE, first, first,
      last - first))
  end
  function row.after(w, result)
    local differs = w:run(("cmp %s/good %s 2>&1 || true"):format(w.dir, path_of(w)))
    if differs ~= "" then complain(result, "it was not put back as it was: %s", differs) end
  end
  for key, value in pairs(more or {}) do row[key] = value end
  add(row)
end

local OVERWRITE = [[perl -e 'open F, "+<", $ARGV[0] or die; for (200 .. 1799) { seek F, $_ * 4096, 0; print F "\xff" x 100 }' FILE]]
spoiled("pages of the file overwritten", "query:XX001", OVERWRITE, 200, 1800)
spoiled("file cut to half", "query:XX001", "truncate -s 4194304 FILE", 1024, 100000)
spoiled("no database: its first page overwritten", "connect:XX001 query:XX001",
  [[perl -e 'open F, "+<", $ARGV[0] or die; print F "rotten" x 600' FILE]], 0, 1, { settings = ANEW })

-- ---- what is at the end of the path -------------------------------------------------------------------------------------------------

local function instead(name, allow, prepare, where)
  add {
    name = name, allow = allow, saw = allow:match "%S+", settings = ANEW,
    setup = function(w)
      make(w)
      w:run((prepare:gsub("DIR", w.dir)))
    end,
    strike = function(w)
      lead_to(w, where)
      w:more_errors(16)
      lead_to(w, "real/pool.db")
    end,
    after = audit,
  }
end

instead("a directory in the file's place", "connect:58P01", "mkdir DIR/real/directory", "real/directory")
instead("no file in its directory's place", "connect:58P01", "true", "gone/pool.db")
instead("an empty path that leads to itself", "connect:58P01", "ln -s loop DIR/loop", "loop")
instead("a text in the file's place", "connect:XX001",
  "head -c 8192 /dev/zero | tr '\\0' x >DIR/real/text", "real/text")

-- ---- permissions: the process under load is nobody ------------------------------------------------------------------------------------

local function as_nobody(dir)
  local script = 'chown -R nobody "$0" && exec setpriv --reuid=nobody --regid=nogroup --clear-groups -- "$@"'
  return { "sh", "-c", script, dir }
end

local function nobody_can_read()
  local test = "setpriv --reuid=nobody --regid=nogroup --clear-groups test -r %s/pool -a -r spec/faults/main.lua"
  local _, code = process.run(test:format(quote(os.getenv "POOL_SPEC_BUILD")) .. " 2>&1")
  return code ~= 0 and "needs a checkout that nobody can read" or nil
end

local function forbidden(name, allow, forbid, permit)
  add {
    name = name, allow = allow, saw = allow:match "%S+", settings = ANEW, root = true, needs = nobody_can_read, wrap = as_nobody,
    setup = function(w)
      make(w)
      w:run(("chown -R nobody %s/real 2>/dev/null || true"):format(w.dir))
    end,
    strike = function(w)
      w:run((forbid:gsub("DIR", w.dir .. "/real")))
      w:more_errors(16)
      w:run((permit:gsub("DIR", w.dir .. "/real")))
    end,
    after = audit,
  }
end

forbidden("the file may not be read", "connect:42501", "chmod 000 DIR/pool.db", "chmod 600 DIR/pool.db")
forbidden("the file is read-only", "connect:42501", "chmod 400 DIR/pool.db", "chmod 600 DIR/pool.db")
forbidden("its directory may not be searched", "connect:42501 lost", "chmod 000 DIR", "chmod 755 DIR")

add { -- the -wal is there, and so it stays
  name = "its directory is read-only", settings = ANEW, root = true, needs = nobody_can_read, wrap = as_nobody, allow = "",
  saw = function(w) return w.read_only end,
  setup = function(w)
    make(w)
    w:run(("chown -R nobody %s/real 2>/dev/null || true"):format(w.dir))
  end,
  strike = function(w)
    w:run(("chmod 555 %s/real"):format(w.dir))
    w:more(300)
    w.read_only = w:run(("stat -c %%a %s/real"):format(w.dir)) == "555"
    w:run(("chmod 755 %s/real"):format(w.dir))
  end,
  after = audit,
}

add { -- the same file through a mount that is read-only: the process under load's alone
  name = "the file system is read-only", allow = "connect:42501", saw = "connect:42501", settings = ANEW, root = true,
  wrap = function(dir)
    local script = 'mkdir -p "$0/real" "$0/frozen" && mount --bind "$0/real" "$0/frozen" && mount -o remount,ro,bind "$0/frozen" && '
      .. '! touch "$0/frozen/x" 2>/dev/null && exec "$@"'
    return { "unshare", "--mount", "--propagation", "private", "sh", "-c", script, dir }
  end,
  setup = make,
  strike = function(w)
    lead_to(w, "frozen/pool.db")
    w:more_errors(16)
    lead_to(w, "real/pool.db")
  end,
  after = audit,
}

-- ---- a full disk ------------------------------------------------------------------------------------------------------------------

add { -- readers go on
  name = "disk full", root = true, allow = "query:53100", saw = "query:53100",
  setup = function() end,
  wrap = function(dir)
    local script = 'mkdir -p "$0/real" && mount -t tmpfs -o size=4m tmpfs "$0/real" && : >"$0/real/pool.db" && ln -sfn real/pool.db '
      .. '"$0/pool.db" && exec "$@"'
    return { "unshare", "--mount", "--propagation", "private", "sh", "-c", script, dir }
  end,
  strike = function(w)
    local disk = ("/proc/%d/root%s/real"):format(w.pid, w.dir)
    w:run(("head -c 8000000 /dev/zero >%s/filler 2>/dev/null || true"):format(disk))
    w:more_errors(50)
    w:run(("rm %s/filler"):format(disk))
  end,
  after = function(w, result) -- at rest, so that a copy is whole; the mount is the other process's alone
    w:run(("mkdir %s/copy && cp /proc/%d/root%s/real/pool.db* %s/copy"):format(w.dir, w.pid, w.dir, w.dir))
    audit(w, result, w.dir .. "/copy/pool.db")
  end,
}

-- ---- the file taken away ------------------------------------------------------------------------------------------------------------

--- Which file is this? Whoever begins after somebody has met the other one meets that one.
local function which(db, n, calls)
  local after = calls.seen["2"]
  local found, err = db:query("select n, $1 as asked from kept", n)
  if not found then return nil, err end
  local number = tostring(found[1].n)
  calls.seen[number] = (calls.seen[number] or 0) + 1
  if after and number ~= "2" then error("an answer from the file that was taken away", 0) end
  return true
end

add { -- only what was in the middle of it is lost
  name = "the file's directory replaced by another", quick = true, ledger = false, ask = which,
  allow = "lost connect:58P01", saw = "2",
  setup = function(w)
    w:run(("mkdir -p %s/real; ln -sfn real/pool.db %s/pool.db"):format(w.dir, w.dir))
    for number, file in ipairs { path_of(w), w.dir .. "/new.db" } do
      with_file(file, function(db)
        return assert(db:exec(("create table kept (n int); insert into kept values (%d); create table fault_ledger (n bigint not null)")
          :format(number)))
      end)
    end
    w:run(("mkdir %s/new; mv %s/new.db %s/new/pool.db"):format(w.dir, w.dir, w.dir))
  end,
  strike = function(w)
    w:run(("cd %s && mv real old && mv new real"):format(w.dir))
    w:more(100)
  end,
  after = function(w, result)
    if not (w.load:state().seen["1"] and w.load:state().stats.lost >= 4) then complain(result, "not every connection was replaced") end
    for _, file in ipairs { path_of(w), w.dir .. "/old/pool.db" } do
      local health = with_file(file, function(db) return assert(db:query "pragma integrity_check")[1].integrity_check end)
      if health ~= "ok" then complain(result, "%s: %s", file, health) end
    end
  end,
}

add { -- it is made anew, empty, and works once it has its tables
  name = "the file removed", ledger = false, allow = "lost query:42P01", saw = "query:42P01",
  setup = function(w) w:run(("mkdir %s/real && ln -s ../pool.db %s"):format(w.dir, path_of(w))) end,
  strike = function(w)
    w:run(("cd %s && rm -f pool.db pool.db-wal pool.db-shm"):format(w.dir))
    w:more_errors(16)
    w:run(neighbour(w, "repeat until db:exec 'create table fault_ledger (n bigint not null)'")) -- among so many it may not get its turn
  end,
}

-- ---- others who die -------------------------------------------------------------------------------------------------------------------

--- The rows of `kept` that were committed before the load began.
local function whole(db)
  local found, err = db:query "select count(*) as many, sum(n) as sum from kept"
  if not found then return nil, err end
  if found[1].many ~= 100 or found[1].sum ~= 5050 then error(("%d rows, %d"):format(found[1].many, found[1].sum), 0) end
  return true
end

local FILL = "with recursive s(n) as (select 1 union all select n + 1 from s where n < %d) insert into kept select n from s"

--- What a process that was killed has left; `proof`: a shell command that says what lies beside the file then.
local function left_over(name, text, proof)
  add {
    name = name, allow = "", ask = whole, saw = function(w) return w.hot end,
    setup = function(w)
      make(w)
      local victim = w:beside(neighbour(w, text))
      w:wait(function() return said(victim):find "ready" end, 20, "the process to be in the middle of it")
      kill(w, victim)
      w.hot = w:run((proof:gsub("FILE", path_of(w))) .. " && echo hot || true") == "hot"
    end,
    strike = function(w) w:more(100) end, after = audit,
  }
end

left_over("a write-ahead log left by a process killed in a transaction", ([[
assert(db:query "%s")
local c = assert(db:acquire())
assert(c:exec "begin immediate; pragma cache_size = 10; %s")
print "ready"
pool.sleep(60)
]]):format(FILL:format(100), FILL:format(20000)), "test -s FILE-wal")

left_over("a hot journal left by a process killed in a transaction", ([[
local c = assert(db:acquire())
assert(c:query "pragma journal_mode = delete")
assert(c:query "%s")
assert(c:exec "begin immediate; pragma cache_size = 10; %s")
print "ready"
pool.sleep(60)
]]):format(FILL:format(100), FILL:format(20000)), "test -s FILE-journal")

local WRITER = [[
for n = %d, %d do
  repeat -- among so many it may not get its turn
    local done = db:transaction(function(tx)
      assert(tx:query("insert into fault_ledger values ($1)", n))
      print("begun " .. n)
      if n %% 3 == 0 then pool.sleep(0.01) end
    end)
  until done
  print("done " .. n)
end
pool.sleep(60)
]]

add { -- what they said was committed is there, once; nothing of the rest, unless it was and they could not say so
  name = "writers killed -9 in transactions, twelve times", allow = "", saw = function(w) return w.halves > 0 end, setup = make,
  strike = function(w)
    w.written, w.halves = {}, 0
    for i = 1, 12 do
      local first = 1000000000 + i * 1000
      local writer = w:beside(neighbour(w, WRITER:format(first, first + 999)))
      w:wait(function() return select(2, said(writer):gsub("done", "")) >= 3 * i end, 60, "commits")
      kill(w, writer)
      for n in said(writer):gmatch "begun (%d+)" do w.written[tonumber(n)] = false end
      for n in said(writer):gmatch "done (%d+)" do w.written[tonumber(n)] = true end
      for _, done in pairs(w.written) do w.halves = w.halves + (done and 0 or 1) end
    end
  end,
  after = function(w, result) audit(w, result, nil, w.written) end,
}

return rows
