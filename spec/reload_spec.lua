-- A policy's file saved under a running server: however editors save, SIGHUP, and a wrong policy that is taken back under load.
local http = require "support.http"
local pool = require "pool"
local process = require "support.process"

local COMMAND = os.getenv "POOL_SPEC_COMMAND"
if not COMMAND then
  describe("the reload of a policy", function() pending "needs a build: run it through spec/run" end)
  return
end

local function directory()
  local path = process.run "mktemp -d":gsub("\n$", "")
  return setmetatable({ path = path }, { __close = function() process.run("rm -rf " .. process.quote(path)) end })
end

local function save(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

local function policy(name, body, every)
  return ("return { name = %q, every = %g, tick = function(s, state) %s end }\n"):format(name, every or 0.05, body or "")
end

local function serve(file, ...)
  local p = process.start { COMMAND, "serve", "examples/05_tasks.lua", "--listen", "127.0.0.1:0", "--database-url", "sqlite:///:memory:",
    "--policy", file, ... }
  p.url = p:wait_line "^pool: listening on (http://127%.0%.0%.1:%d+)$"
  return p
end

describe("pool serve --policy", function()
  it("says in the log what is watched, and refuses to start with a policy that cannot be loaded", function()
    local dir <close> = directory()
    local file = dir.path .. "/tune.lua"
    save(file, policy "one")
    local p <close> = serve(file)
    p:wait_stderr("reload on: " .. file:gsub("%p", "%%%0") .. " is watched, SIGHUP reads it again")
    save(file, "return {")
    local wrong <close> = process.start { COMMAND, "serve", "examples/05_tasks.lua", "--listen", "127.0.0.1:0", "--database-url",
      "sqlite:///:memory:", "--policy", file }
    assert.equal(1, wrong:wait(10))
    assert.matches("tune.lua:1: ", wrong:stderr())
  end)

  it("sees a file however it is saved: in place, renamed over, slowly, through a switched link; not when half written", function()
    local dir <close> = directory()
    local file = dir.path .. "/tune.lua"
    save(file, policy "one")
    local p <close> = serve(file, "--probation", "0")
    p:wait_stderr "policy one v1 %(%x+%): live"
    save(file, policy "two")
    p:wait_stderr "policy two v2 %(%x+%): reloaded"
    save(dir.path .. "/.tune.lua.swp", policy "three")
    os.rename(dir.path .. "/.tune.lua.swp", file)
    p:wait_stderr "policy three v3 %(%x+%): reloaded"
    local slow = assert(io.open(file, "w"))
    local text = policy "four"
    slow:write(text:sub(1, 30))
    slow:flush()
    pool.sleep(0.12)
    slow:write(text:sub(31))
    slow:close()
    p:wait_stderr "policy four v4 %(%x+%): reloaded"
    process.run(("mkdir %s/a %s/b"):format(dir.path, dir.path))
    save(dir.path .. "/a/tune.lua", policy "five")
    save(dir.path .. "/b/tune.lua", policy "six")
    process.run(("cd %s && ln -s a ..data && ln -sf ..data/tune.lua tune.lua"):format(dir.path))
    p:wait_stderr "policy five v5 %(%x+%): reloaded"
    process.run(("cd %s && ln -s b ..new && mv -T ..new ..data"):format(dir.path))
    p:wait_stderr "policy six v6 %(%x+%): reloaded"
    assert.is_nil(p:stderr():find("refused", 1, true))
  end)

  it("reads the file again at SIGHUP, and lives through many", function()
    local dir <close> = directory()
    local file = dir.path .. "/tune.lua"
    save(file, policy "one")
    local p <close> = serve(file, "--probation", "0")
    p:wait_stderr "policy one v1"
    save(file, policy "two")
    for _ = 1, 20 do p:signal "HUP" end
    p:wait_stderr "policy two v2 %(%x+%): reloaded"
    for _ = 1, 20 do p:signal "HUP" end
    assert.equal(200, http.ask(p.url .. "/health").status)
  end)

  it("takes a wrong policy back by itself, under load, and no request fails", function()
    local dir <close> = directory()
    local file = dir.path .. "/tune.lua"
    save(file, policy "good")
    local p <close> = serve(file, "--probation", "40")
    p:wait_stderr "policy good v1 %(%x+%): passed its probation"
    save(file, policy("bad", "state.n = (state.n or 0) + 1 if state.n > 3 then while true do end end return { max_waiting = 5 }"))
    local asked, failed, back = 0, 0, nil
    process.wait_until(function()
      for _ = 1, 20 do
        asked = asked + 1
        if http.ask(p.url .. "/tasks").status ~= 200 then failed = failed + 1 end
      end
      back = p:stderr():match "policy bad v2[^\n]*: rolled back: ([^\n]*)" or p:stderr():match "policy bad v2[^\n]*: refused: ([^\n]*)"
      return back
    end, 20, "the roll-back")
    assert.equal(0, failed)
    assert.is_true(asked > 0)
    assert.matches("processor time", back)
    assert.equal(200, http.ask(p.url .. "/health").status)
  end)

  it("takes back one that starves the callers, settings and all", function()
    local dir <close> = directory()
    local file, app = dir.path .. "/tune.lua", dir.path .. "/app.lua"
    save(app, [[local http, pool = require "pool.http", require "pool"
      local app = http.app()
      app:get("/", function(req)
        local c <close> = assert(req.db:acquire())
        pool.sleep(0.1)
        return 204
      end)
      app:get("/size", function(req) return tostring(req.db:stats().settings.timeout) end)
      return app]])
    local every = 0.1 -- ten of them are what the next one is judged by: enough requests, on a busy machine too
    save(file, policy("good", "", every))
    local p <close> = process.start { COMMAND, "serve", app, "--listen", "127.0.0.1:0", "--policy", file, "--probation", "40",
      "--database-url", "sqlite:///" .. dir.path .. "/x.db", "--size", "8", "--max-overflow", "0" }
    p.url = p:wait_line "^pool: listening on (http://127%.0%.0%.1:%d+)$"
    local load <close> = process.start { "sh", "-c",
      ("for i in 1 2 3 4 5 6 7 8; do (while :; do curl -s -o /dev/null %s/ || exit; done) & done; wait"):format(p.url) }
    p:wait_stderr "policy good v1 %(%x+%): passed its probation"
    save(file, policy("bad", "return { size = 1, timeout = 7 }", every))
    p:wait_stderr("policy bad v2 %(%x+%): rolled back: wait p99 is %S+ s, it was %S+ s; back to v1", 20)
    assert.equal("30.0", http.ask(p.url .. "/size").body)
    load:signal "KILL"
  end)
end)
