--- TLS for rows of the matrix: authorities and certificates by openssl, and the matrix's server with and without them. What the server
--- is given lies beside its data, so that it can start whatever becomes of the row.
local postgres = require "support.postgres"
local process = require "support.process"

local tls = {}
local quote = process.quote

function tls.lacks()
  if not os.execute "command -v openssl >/dev/null" then return "needs openssl" end
end

local function directory() return postgres.cluster().DIR .. "/tls" end

local function run(command)
  local text, code = process.run(("{ %s; } 2>&1"):format(command))
  assert(code == 0, text)
  return text
end

local function owned(path) run(("chown --reference=%s %s && chmod 600 %s"):format(quote(postgres.cluster().DIR .. "/data"), path, path)) end

--- A new authority; the path of its certificate.
---@param name string
function tls.authority(name)
  local base = directory() .. "/" .. name
  run(("mkdir -p %s && chmod 755 %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=%s "
    .. "-keyout %s.key -out %s.crt"):format(quote(directory()), quote(directory()), name, quote(base), quote(base)))
  return base .. ".crt"
end

--- A certificate of that authority for that name ("DNS:..." or "IP:..."), and its key: what tls.present takes.
---@param authority string
---@param name string
function tls.certificate(authority, name)
  local ca, base = directory() .. "/" .. authority, ("%s/%s-%s"):format(directory(), authority, name:gsub("%W", "-"))
  run(([[openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=server -keyout %s.key -out %s.csr &&
    printf 'subjectAltName=%s\n' >%s.ext &&
    openssl x509 -req -in %s.csr -CA %s.crt -CAkey %s.key -CAcreateserial -days 2 -extfile %s.ext -out %s.crt]]):format(quote(base),
    quote(base), name, quote(base), quote(base), quote(ca), quote(ca), quote(base), quote(base)))
  owned(base .. ".key")
  owned(base .. ".crt")
  return base
end

--- The server shows this certificate from now on, to whoever connects.
function tls.present(w, base)
  w:sql(("alter system set ssl_cert_file = '%s.crt'"):format(base))
  w:sql(("alter system set ssl_key_file = '%s.key'"):format(base))
  w:sql "alter system set ssl = on"
  tls.reload(w)
end

--- Its configuration read again, the connections to come included.
function tls.reload(w)
  local before = w:sql "select pg_conf_load_time()"
  w:sql "select pg_reload_conf()"
  w:wait(function() return w:sql "select pg_conf_load_time()" ~= before end, 10, "the server to read its configuration")
end

--- Off at the row's end.
function tls.undo()
  for _, name in ipairs { "ssl", "ssl_cert_file", "ssl_key_file" } do postgres.sql("alter system reset " .. name) end
  postgres.sql "select pg_reload_conf()"
end

return tls
