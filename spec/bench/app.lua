--- What `pool serve` is measured with: a text, and one row by its key.
local http = require "pool.http"
local app = http.app()

app:get("/text", function() return "Hello, World!" end)
app:get("/row/:id", function(req)
  local rows, err = req.db:query("select id, title, done from bench where id = $1", req.params.id)
  if not rows then return nil, err end
  return rows[1] or 404
end)

return app
