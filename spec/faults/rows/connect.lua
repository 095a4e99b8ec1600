--- What can be wrong when a connection is opened: passwords, the server's own rules, certificates, a server that is full or starting,
--- names. Every row first ends what is open, so that everybody needs what cannot be had; what is permanent is told at once, what may
--- pass is waited for.
local pool = require "pool"
local postgres = require "support.postgres"
local process = require "support.process"
local proxy = require "support.proxy"
local tls = require "faults.tls"

local rows = {}

local function add(row) rows[#rows + 1] = row end

--- A role of the row's own, who comes by TCP with a password; the superuser who watches is not touched by what happens to it.
local function own_role(w)
  w:sql "drop role if exists faulty"
  w:sql "create role faulty login password 'open-sesame-41'"
  w:sql "grant create on schema public to faulty"
  w:defer(function() postgres.sql "drop owned by faulty; drop role faulty" end)
  w.url.tcp, w.url.user, w.url.password = true, "faulty", "open-sesame-41"
  w.url.sslmode = w.url.sslmode or "disable"
  w.url.gssencmode = "disable"
end

local function hang_up(w) w:sql("select count(pg_terminate_backend(pid)) from pg_stat_activity where " .. w:mine()) end

-- ---- refused for good -----------------------------------------------------------------------------------------------------------

add {
  name = "28P01: the password changed at the server, and back",
  allow = "lost:57P01 connect:28P01", saw = "connect:28P01", setup = own_role,
  strike = function(w)
    w:sql "alter role faulty password 'another'"
    hang_up(w)
    w:more_errors(50)
    w:sql "alter role faulty password 'open-sesame-41'"
  end,
}

--- The server's pg_hba.conf with a line before all others.
local function rule(w, line)
  local path = postgres.cluster().DIR .. "/data/pg_hba.conf"
  local keep = path .. ".kept"
  process.run(("[ -e %s ] || cp -p %s %s"):format(keep, path, keep))
  w:defer(function()
    process.run(("cp -p %s %s"):format(keep, path))
    postgres.sql "select pg_reload_conf()"
  end)
  w:run(("{ echo %s; cat %s; } >%s.new && cat %s.new >%s"):format(process.quote(line or "#"), keep, path, path, path))
  tls.reload(w)
end

for name, line in pairs { ["28000: refused by pg_hba.conf, and let in again"] = "host all faulty all reject",
  ["28000: TLS demanded of one who has none"] = "hostnossl all faulty all reject" } do
  add {
    name = name, allow = "lost:57P01 connect:28000", saw = "connect:28000", setup = own_role, needs = tls.lacks,
    ready = function(w)
      if not line:find "nossl" then return end
      tls.authority "one"
      tls.present(w, tls.certificate("one", "IP:127.0.0.1"))
      w:defer(tls.undo)
    end,
    strike = function(w)
      rule(w, line)
      hang_up(w)
      w:more_errors(50)
      rule(w, nil)
    end,
  }
end

--- Who a client with sslmode=verify-full talks to: the right certificate but during the strike.
local function wrong_certificate(name, authority, subject, text)
  add {
    name = name, allow = "lost:57P01 connect", needs = tls.lacks,
    saw = "connect",
    setup = function(w)
      w.url.sslmode, w.url.sslrootcert = "verify-full", tls.authority "one"
      w.url.ssl_min_protocol_version = "TLSv1.2"
      own_role(w)
      tls.authority "two"
      w.right, w.wrong = tls.certificate("one", "IP:127.0.0.1"), tls.certificate(authority, subject)
      tls.present(w, w.right)
      w:defer(tls.undo)
    end,
    ready = function(w)
      assert(w:sql("select count(*) > 0 and bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid) where " .. w:mine()) == "t")
    end,
    strike = function(w)
      tls.present(w, w.wrong)
      hang_up(w)
      w:more_errors(50)
      w.said = w.load:state().told["connect:"]
      tls.present(w, w.right)
    end,
    after = function(w, result)
      if not w.said:find(text, 1, true) then result.broken[#result.broken + 1] = "callers were told: " .. w.said end
    end,
  }
end
wrong_certificate("a certificate of an authority that nobody trusts", "two", "IP:127.0.0.1", "certificate verify failed")
wrong_certificate("a certificate of another host", "one", "DNS:elsewhere.example", "does not match host name")

-- ---- refused for now -----------------------------------------------------------------------------------------------------------------

add { -- the pool wants eight, the server has five or so, and for a while none
  name = "53300: max_connections, and others who take them all",
  allow = "lost connect timeout", saw = "connect:53300", settings = { timeout = 1 },
  setup = function(w)
    own_role(w)
    w.proxy = proxy.start()
    w:defer(function() w.proxy:close() end)
    w.url.through = w.proxy
    w:sql "alter system set max_connections = 10" -- three of them the superuser's, and those who watch hold two
    w:cluster "restart fast"
    w:defer(function()
      postgres.sql "alter system reset max_connections"
      postgres.restart()
    end)
  end,
  strike = function(w)
    w.proxy:set { accept = "refuse" } -- while the others come in
    w.proxy:now "fin"
    local hogs = {}
    for i = 1, 8 do
      hogs[i] = w:beside(("until PGAPPNAME=hog %s -U faulty -c 'select pg_sleep(60)'; do :; done >/dev/null 2>&1"):format(w.psql {}))
    end
    w:wait(function() return tonumber(w:sql "select count(*) from pg_stat_activity where application_name = 'hog'") >= 5 end, 20,
      "the others")
    w.proxy:set { accept = "yes" }
    pool.sleep(2)
    for _, each in ipairs(hogs) do each:stop() end
    w:sql "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'hog'"
  end,
}

-- Recovery after a crash is over in a moment, even with something to do; so its process is caught at it and frozen. No program is
-- started for that, which would take longer than recovery does.
local CATCH = [=[
  end=$((SECONDS + 20))
  while [ $SECONDS -lt $end ]; do
    read -r main <"$POOL_SPEC_PG_DIR/data/postmaster.pid" || continue
    read -r -a children <"/proc/$main/task/$main/children" # has no end of line
    for child in "${children[@]}"; do
      read -r -d "" what <"/proc/$child/cmdline"
      [[ $what == *startup* ]] || continue
      kill -STOP $child || continue
      trap "kill -CONT $child" EXIT
      echo caught; sleep 2; exit 0
    done
  done 2>/dev/null]=]

add {
  name = "57P03: the server is starting up, for 2 s",
  allow = "lost connect timeout", saw = "connect:57P03", settings = { timeout = 1 }, seconds = 200, setup = own_role,
  strike = function(w)
    for _ = 1, 5 do
      w:more(20, 30)
      w:sql "create table if not exists fault_junk (n int); insert into fault_junk select generate_series(1, 300000)"
      w:cluster "kill"
      local catch = w:beside(CATCH)
      local start = w:beside "spec/support/cluster start"
      w:wait(function() return start:code() or catch:code() end, 60)
      local caught = catch:code() == 0 and catch:wait():find "caught"
      catch:stop()
      start:wait()
      w:sql "drop table fault_junk"
      if caught then return end
    end
  end,
}

-- ---- names ---------------------------------------------------------------------------------------------------------------------------

-- A name server of the row's own, in a namespace where it is the only one: w.dir/zone has a line, read anew for each question:
-- addresses parted by commas and perhaps a delay in seconds, or nxdomain, servfail, silent.
local SERVER = [[
use Socket; $SIG{CHLD} = 'IGNORE'; $| = 1;
socket(S, PF_INET, SOCK_DGRAM, 0) && bind(S, sockaddr_in(53, INADDR_LOOPBACK)) or die "$!"; print "ready\n";
while (defined(my $from = recv(S, my $asked, 512, 0))) {
  open(my $zone, '<', $ARGV[0]) or die; my ($what, $delay) = split ' ', scalar <$zone>; close $zone;
  next if $what eq 'silent' || fork;
  select(undef, undef, undef, $delay) if $delay;
  my ($id) = unpack 'n', $asked; my $question = substr($asked, 12); my ($name) = $question =~ /^(.*?\0....)/s;
  my @found = unpack('n', substr($name, -4, 2)) == 1 && $what =~ /^\d/ ? split(',', $what) : ();
  my $code = $what eq 'nxdomain' ? 3 : $what eq 'servfail' ? 2 : 0;
  my $said = pack('n6', $id, 0x8180 | $code, 1, scalar @found, 0, 0) . $name;
  $said .= pack('n3Nn', 0xc00c, 1, 1, 0, 4) . inet_aton($_) for @found;
  send(S, $said, 0, $from); exit;
}]]

local INSIDE = [[
  ip link set lo up
  printf 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\n' >"$0/resolv.conf"
  printf 'hosts: dns\n' >"$0/nsswitch.conf"
  for file in resolv.conf nsswitch.conf; do mount --bind "$0/$file" "/etc/$file" || exit; done
  exec "$@"]]

local function inside(dir) return { "unshare", "--net", "--mount", "sh", "-c", INSIDE, dir } end

local function needs()
  for _, tool in ipairs { "unshare", "ip", "perl" } do
    if not os.execute("command -v " .. tool .. " >/dev/null") then return "needs " .. tool end
  end
  if not os.execute "unshare --net --mount true 2>/dev/null" then return "needs namespaces" end
end

local function zone(w, text)
  local file = assert(io.open(w.dir .. "/zone.new", "w"))
  file:write(text, "\n")
  file:close()
  assert(os.rename(w.dir .. "/zone.new", w.dir .. "/zone"))
end

--- The database has the name db.test; behind 127.0.0.1 is the proxy w.one, behind 127.0.0.2, the same port, w.two.
local function named(w)
  local c = postgres.cluster()
  local socket = ("%s/.s.PGSQL.%s"):format(c.DIR, c.PORT)
  w.one = proxy.start { to = socket }
  w.two = proxy.start { to = socket, listen = "127.0.0.2:" .. w.one.port }
  zone(w, "127.0.0.1")
  local server = process.start { "perl", "-e", SERVER, w.dir .. "/zone" }
  assert(server:wait_line "ready")
  w:defer(function()
    server:close()
    w.one:close()
    w.two:close()
  end)
  w.url.through = { unix = false, host = "db.test", port = w.one.port }
  w.url.sslmode, w.url.gssencmode = "disable", "disable"
end

local function add_named(row)
  row.inside, row.root, row.needs, row.setup, row.allow = inside, true, needs, named, row.allow or "lost"
  if row.cuts_links then
    row.excess = 4
    row.excess_why = "the server hears of its end of a link in its own time, when the client opens others already, four at a time"
  end
  add(row)
end

for _, how in ipairs { "nxdomain", "servfail" } do
  add_named {
    name = ("the database's name unknown for 2 s (%s)"):format(how:upper()), saw = function(w) return w:stats().open_failures > 2 end,
    strike = function(w)
      zone(w, how)
      hang_up(w)
      pool.sleep(2)
      zone(w, "127.0.0.1")
    end,
  }
end

add_named { -- who has a connection works on: looking up names holds nobody but those who wait for them
  name = "the name server silent for 3 s", settings = { connect_timeout = 0.5 },
  saw = function(w) return w:stats().open_failures > 2 end,
  bound = 2.5, why = "the resolver gives up a question after its second, the attempt after its half, and then comes the back-off",
  strike = function(w)
    zone(w, "silent")
    for _ = 1, 3 do w:hit("terminate", "true") end
    local began = pool.now()
    w:more(100)
    pool.sleep(math.max(0, 3 - (pool.now() - began)))
    zone(w, "127.0.0.1")
  end,
}

add_named {
  name = "the name server takes 0.7 s", saw = function(_, result) return result.longest > 0.7 end,
  strike = function(w)
    zone(w, "127.0.0.1 0.7")
    for _ = 1, 3 do
      hang_up(w)
      w:more(50)
    end
    zone(w, "127.0.0.1")
  end,
}

add_named { -- nobody keeps an address longer than an attempt
  name = "the database moves to another address", cuts_links = true, saw = function(w) return w.two:stats().accepted > 0 end,
  strike = function(w)
    w.one:set { accept = "refuse" }
    w.one:now "fin"
    pool.sleep(0.5)
    zone(w, "127.0.0.2")
  end,
}

add_named { -- an address that answers costs nobody more than the one that does not
  name = "the first of two addresses is dead", allow = "lost", cuts_links = true,
  saw = function(w) return w.two:stats().accepted > 0 and w:stats().open_failures == 0 end,
  strike = function(w)
    zone(w, "127.0.0.1,127.0.0.2")
    w.one:set { accept = "refuse" }
    w.one:now "rst"
    w:more(100)
    w.one:set { accept = "yes" }
  end,
}

return rows
