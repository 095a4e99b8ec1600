--- Bad networks between pool and a healthy server. Through support/proxy.lua: links that end, stand still, crawl. In a network namespace
--- of the row's own (iptables, so root): packets that are lost, dropped without a word, refused with a reset; there the proxy carries
--- the namespace's TCP to the server's Unix socket, which namespaces do not part.
local pool = require "pool"
local proxy = require "support.proxy"

local rows = {}

--- A proxy for w.url, on TCP, for the time of the row. `to_socket`: it goes on to the server's Unix socket.
local function through_proxy(w, to_socket)
  local c = require("support.postgres").cluster()
  w.proxy = proxy.start { to = to_socket and ("%s/.s.PGSQL.%s"):format(c.DIR, c.PORT) or nil }
  w.url.through, w.url.sslmode, w.url.gssencmode = w.proxy, "disable", "disable"
  w:defer(function() w.proxy:close() end)
end

local function add(row)
  row.setup = row.setup or through_proxy
  rows[#rows + 1] = row
end

-- Of links that end by themselves. More than are opened at a time (max_opening) cannot have come before the server heard of the old ones'
-- ends; seen: 2.
local LATE, LATE_WHY = 4, "the server hears of its end of a link in its own time, when the client opens others already, four at a time"

-- ---- through the proxy ------------------------------------------------------------------------------------------------------------

for _, how in ipairs { "rst", "fin" } do
  add {
    name = "every link ended by " .. how:upper() .. ", ten times",
    allow = "lost", saw = "lost", quick = how == "rst" and "tasks", excess = LATE, excess_why = LATE_WHY,
    strike = function(w)
      for _ = 1, 10 do
        w.proxy:now(how)
        w:more(10)
      end
    end,
  }
  add {
    name = "every link cut after 20 kB, by " .. how:upper(),
    allow = "lost", saw = "lost", excess = LATE, excess_why = LATE_WHY,
    strike = function(w)
      w.proxy:set { cut = 20000, direction = "down", how = how }
      w:more(1000)
      w.proxy:calm()
    end,
  }
end

add {
  name = "nothing passes for 1 s, then everything",
  allow = "", saw = function(_, result) return result.longest > 0.9 end,
  strike = function(w)
    w.proxy:stall()
    pool.sleep(1)
    w.proxy:resume()
  end,
}

add { -- a port that nobody listens on, or that somebody listens on who says nothing
  name = "links reset and connects refused for 2 s",
  allow = "lost", saw = function(w) return w:stats().open_failures > 2 end,
  strike = function(w)
    w.proxy:set { accept = "refuse" }
    w.proxy:now "rst"
    pool.sleep(2)
    w.proxy:set { accept = "yes" }
  end,
}
add {
  name = "links reset and connects unanswered for 2 s",
  allow = "lost", settings = { connect_timeout = 0.3 },
  bound = 1.5, why = "a connect under way ends by its connect_timeout (0.3 s), and then comes the back-off (0.5 s)",
  saw = function(w) return w:stats().open_failures > 2 and w.proxy:stats().accepted > 0 end,
  strike = function(w)
    w.proxy:set { accept = "silent" }
    w.proxy:now "rst"
    pool.sleep(2)
    w.proxy:now "rst" -- a cancel among them, which waits for its answer for as long as its link is there
    w.proxy:set { accept = "yes" }
  end,
}
add {
  name = "links hung up on when they open, for 2 s",
  allow = "lost", saw = function(w) return w.proxy:stats().refused > 2 end,
  strike = function(w)
    w.proxy:set { accept = "close" }
    w.proxy:now "fin"
    pool.sleep(2)
    w.proxy:set { accept = "yes" }
  end,
}

-- A stream broken off must be drained to where the server stopped, which on a slow link takes its time: not in these.
local SMALL = { "query", "json", "lease", "transaction", "session", "stream" }

add {
  name = "a byte at a time", allow = "", calls = SMALL,
  saw = function(w) return w.fragments > 20000 end,
  strike = function(w)
    local before = w.proxy:stats().down
    w.proxy:set { fragment = 1 }
    w:more(100, 60)
    w.fragments = w.proxy:stats().down - before
    w.proxy:calm()
  end,
}
add {
  name = "50 ms each way and 50 kB/s", allow = "", calls = SMALL,
  saw = function(_, result) return result.longest > 0.1 end,
  strike = function(w)
    w.proxy:set { delay = 0.05, rate = 50000 }
    w:more(100, 60)
    w.proxy:calm()
  end,
}

-- ---- packets, in a namespace ------------------------------------------------------------------------------------------------------

local function namespace() return { "unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh" } end

local function needs()
  for _, tool in ipairs { "unshare", "ip", "iptables" } do
    if not os.execute("command -v " .. tool .. " >/dev/null") then return "needs " .. tool end
  end
  if not os.execute "unshare --net true 2>/dev/null" then return "needs network namespaces" end
end

--- Rules for the proxy's port until lifted; w.packets have met them. "DROP" and its like: in both directions; "REJECT" to the server alone,
--- since its own resets, going back, must pass.
local function rules(w, target, match)
  local made = {}
  for _, side in ipairs { "--dport", "--sport" } do
    made[#made + 1] = ("-i lo -p tcp %s %d %s -j %s"):format(side, w.proxy.port, match or "", target)
  end
  if target:find "^REJECT" then made[2] = nil end
  local function each(verb)
    local words = {}
    for i, rule in ipairs(made) do words[i] = ("iptables -%s INPUT %s"):format(verb, rule) end
    w:run(table.concat(words, " && "))
  end
  each "A"
  return {
    lift = function()
      local hits = w:run("iptables -nvxL INPUT | awk '$1 > 0 && /" .. target:match "%u+" .. "/ { n += $1 } END { print n + 0 }'")
      each "D"
      w.packets = (w.packets or 0) + tonumber(hits)
    end,
  }
end

local function add_namespace(row)
  row.inside, row.root, row.needs = namespace, true, needs
  row.setup = function(w) through_proxy(w, true) end
  add(row)
end

for _, percent in ipairs { 2, 10 } do
  add_namespace {
    name = ("%d %% of all packets lost"):format(percent), allow = "",
    saw = function(w) return w.packets >= 20 end,
    bound = percent == 10 and 3 or nil,
    why = percent == 10 and "TCP's own back-off, which doubles: a packet lost three times in a row is sent again 1.4 s later" or nil,
    strike = function(w)
      local lossy = rules(w, "DROP", ("-m statistic --mode random --probability %g"):format(percent / 100))
      w:more(percent == 2 and 1000 or 400, 60)
      lossy.lift()
    end,
  }
end

add_namespace { -- connections survive: TCP asks again, and nobody here is in a hurry
  name = "a black hole for 2 s",
  allow = "", saw = function(w, result) return w.packets >= 10 and result.longest > 1.9 end,
  bound = 3, why = "TCP's own back-off, which doubles: it asks again after at most as long again as the hole was there",
  strike = function(w)
    local hole = rules(w, "DROP")
    pool.sleep(2)
    hole.lift()
  end,
}
add_namespace {
  name = "a black hole for 9 s, statements given up",
  allow = "deadline connect timeout lost", settings = { statement_timeout = 0.5, connect_timeout = 1, timeout = 2 },
  saw = function(w) return w.packets >= 10 and w:stats().open_failures > 2 and w.load:state().seen.connect end,
  bound = 2, why = "a connect under way asks again a second later",
  excess = 8, excess_why = "a connection given up in a black hole is there at the server until the network is back, when the new ones come",
  strike = function(w)
    local hole = rules(w, "DROP")
    pool.sleep(9)
    hole.lift()
  end,
}
add_namespace {
  name = "everything answered with a reset for 2 s",
  allow = "lost", saw = function(w) return w.packets >= 10 and w:stats().open_failures > 2 end,
  excess = 8, excess_why = "a connection that only the client was told is reset is there at the server until it says something",
  strike = function(w)
    local wall = rules(w, "REJECT --reject-with tcp-reset")
    pool.sleep(2)
    wall.lift()
  end,
}

return rows
