--- The application that spec/serve_spec.lua serves: slow, broken and honest handlers, on PostgreSQL.
local http = require "pool.http"
local pool = require "pool"
local app = http.app()

app:on("start", function(db)
  assert(db:exec "create table if not exists serve_spec (n integer)")
  pool.spawn(function() -- work in the background that never ends must not keep the server from ending
    while true do pool.sleep(3600) end
  end)
end)
app:on("stop", function(db)
  assert(db:query "select 1")
  pool.log("info", "the stop hook ran, and could query")
end)

app:get("/health", http.health)

-- Holds a connection for a moment, so that many at once have to share.
app:get("/double/:n", function(req)
  local rows = assert(req.db:query("select $1::int * 2 as twice, pg_sleep(0.002)::text", req.params.n))
  return tostring(rows[1].twice)
end)

app:get("/sleep/:seconds", function(req)
  assert(req.db:query("select pg_sleep($1::float8)::text", req.params.seconds))
  return "slept " .. req.params.seconds
end)

app:get("/count", function(req) return tostring(assert(req.db:query "select count(*) as n from serve_spec")[1].n) end)

app:post("/transaction-that-fails", function(req)
  return req.db:transaction(function(tx)
    assert(tx:query "insert into serve_spec values (1)")
    error "cause-of-the-transaction"
  end)
end)

app:post("/session-that-fails", function(req)
  assert(req:session():query "insert into serve_spec values (1)")
  error "cause-of-the-session"
end)

app:post("/session-not-committed", function(req)
  assert(req:session():query "insert into serve_spec values (1)")
  return 201
end)

app:post("/connection-forgotten", function(req)
  local connection = assert(req.db:acquire())
  assert(connection:begin())
  assert(connection:query "insert into serve_spec values (1)")
  return 201
end)

app:get("/raise", function() error "cause-that-was-raised" end)
app:get("/refused", function(req) return req.db:query "select cause_that_was_refused" end)
app:get("/away", function(req)
  return nil, select(2, req.db:acquire { timeout = 0.01 })
end)

return app
