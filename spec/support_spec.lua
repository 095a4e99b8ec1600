local postgres = require "support.postgres"
local process = require "support.process"

describe("a background process", function()
  it("gives its lines one by one, then nil", function()
    local p <close> = process.start { "sh", "-c", "echo one; echo 'it''s two'; sleep 0.1; printf three; echo; exit 7" }
    assert.equal("one", p:line())
    assert.equal("its two", p:line())
    assert.equal("three", p:line())
    assert.is_nil(p:line())
    assert.equal(7, p:wait())
  end)

  it("is waited for by a line's pattern, and what it captures comes back", function()
    local p <close> = process.start { "sh", "-c", "echo starting; echo port 81; sleep 30" }
    assert.equal("81", p:wait_line("port (%d+)"))
    assert.is_nil(p:code())
  end)

  it("that ends without the line raises with its standard error", function()
    local p <close> = process.start { "sh", "-c", "echo oh dear >&2; exit 3" }
    local ok, err = pcall(p.wait_line, p, "ready")
    assert.is_false(ok)
    assert.matches("ended with 3", err)
    assert.matches("oh dear", err)
  end)

  it("that says nothing raises at the deadline", function()
    local p <close> = process.start { "sleep", "30" }
    assert.has_error(function() p:line(0.1) end)
  end)

  it("gets signals, SIGINT among them", function()
    for signal, code in pairs { TERM = 143, INT = 130, KILL = 137 } do
      local p <close> = process.start { "sh", "-c", "echo up; exec sleep 30" }
      p:wait_line "up"
      p:signal(signal)
      assert.equal(code, p:wait(5))
    end
  end)

  it("sees its environment and its directory, and quotes reach it as they are", function()
    local p <close> = process.start({ "sh", "-c", [[echo "$A" "$HOME" "$(pwd)" "$0"]], "it's \"b\" $x" },
      { env = { A = "a 'b'", HOME = false }, cwd = "/" })
    assert.equal([[a 'b'  / it's "b" $x]], p:line())
  end)

  it("is gone when its variable is closed, and so is what it wrote", function()
    local pid, dir
    do
      local p <close> = process.start { "sleep", "30" }
      pid, dir = p.pid, p.dir
    end
    local _, code = process.run(("kill -0 %d 2>/dev/null"):format(pid))
    assert.not_equal(0, code)
    assert.is_nil(io.open(dir .. "/pid"))
  end)
end)

describe("the specs' PostgreSQL", function()
  it("answers psql, and raises what the server refuses", function()
    assert.equal("1|it's\n2|", postgres.sql "select 1, 'it''s' union all select 2, null order by 1")
    local ok, err = pcall(postgres.sql, "select nothing")
    assert.is_false(ok)
    assert.matches('column "nothing" does not exist', err)
  end)

  it("has URLs for its socket and for TCP that libpq accepts", function()
    local c = postgres.cluster()
    for _, url in ipairs { postgres.url { application_name = "url spec" }, postgres.url { tcp = true, application_name = "url spec" } } do
      local output, code = process.run(("%s/psql -X -A -t -c 'show application_name' %s"):format(c.BIN, process.quote(url)))
      assert.equal(0, code)
      assert.equal("url spec\n", output)
    end
  end)

  it("wants the password over TCP", function()
    local url = postgres.url { tcp = true, password = "wrong" }
    local output, code = process.run(postgres.cluster().BIN .. "/psql -X -w -c 'select 1' " .. process.quote(url) .. " 2>&1")
    assert.equal(2, code)
    assert.matches("password authentication failed", output)
  end)

  it("counts and ends connections by their application_name", function()
    local url = postgres.url { application_name = "counted" }
    local p <close> = process.start { postgres.cluster().BIN .. "/psql", "-X", "-c", "select pg_sleep(30)", url }
    process.wait_until(function() return postgres.count("counted", "active") == 1 end)
    assert.equal(1, #postgres.pids("counted"))
    assert.equal(1, postgres.terminate("counted"))
    assert.not_equal(0, p:wait())
    process.wait_until(function() return postgres.count("counted") == 0 end)
  end)

  it("restarts, stops and starts, survives a crash and the death of one process", function()
    postgres.sql "drop table if exists support_kept; create table support_kept (x int)"
    postgres.restart "immediate"
    postgres.stop "fast"
    assert.is_false((pcall(postgres.sql, "select 1")))
    postgres.start()
    postgres.kill()
    assert.is_false((pcall(postgres.sql, "select 1")))
    postgres.start()
    assert.equal("0", postgres.sql "select count(*) from support_kept")

    local p <close> = process.start { postgres.cluster().BIN .. "/psql", "-X", "-c", "select pg_sleep(30)",
      postgres.url { application_name = "killed" } }
    process.wait_until(function() return postgres.count("killed") == 1 end)
    postgres.kill_backend(postgres.pids("killed")[1])
    assert.not_equal(0, p:wait())
    postgres.wait_ready()
    postgres.sql "drop table support_kept"
  end)
end)
