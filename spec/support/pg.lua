--- The PostgreSQL protocol (version 3) as bytes: a builder for every message of a server, and what it takes to read a client's.
--- Plain strings in and out, no state: for scripted servers (support/fake_postgres.lua), for corpora, for nonsense.
---
---   pg.row_description { { "n", 23 } } .. pg.data_row { "1" } .. pg.command_complete "SELECT 1" .. pg.ready "I"
local pg = {}

local pack = string.pack

pg.CANCEL, pg.SSL, pg.GSS, pg.VERSION = 80877102, 80877103, 80877104, 196608 -- what a connection may begin with

--- A message; `length` is told instead of the true one when given (it counts itself, not the type).
---@param type string
---@param body string
---@param length integer?
---@return string
function pg.message(type, body, length) return type .. pack(">I4", (length or #body + 4) & 0xffffffff) .. body end

local message = pg.message

-- ---- the start ----

function pg.authentication(code, data) return message("R", pack(">i4", code) .. (data or "")) end
function pg.authentication_ok() return pg.authentication(0) end
function pg.authentication_cleartext() return pg.authentication(3) end
function pg.authentication_md5(salt) return pg.authentication(5, salt) end
---@param mechanisms string[]
function pg.authentication_sasl(mechanisms) return pg.authentication(10, table.concat(mechanisms, "\0") .. "\0\0") end
function pg.authentication_sasl_continue(data) return pg.authentication(11, data) end
function pg.authentication_sasl_final(data) return pg.authentication(12, data) end
function pg.parameter_status(name, value) return message("S", name .. "\0" .. value .. "\0") end
function pg.backend_key(pid, key) return message("K", pack(">i4i4", pid, key)) end
function pg.negotiate_version(minor, options)
  return message("v", pack(">i4i4", minor, #options) .. (#options > 0 and table.concat(options, "\0") .. "\0" or ""))
end
---@param status string  "I" idle, "T" in a transaction, "E" in a failed one
function pg.ready(status) return message("Z", status) end

-- ---- results ----

--- Columns are { name, oid, table oid, column number, size, modifier, format }; all but the name may be left out: text.
---@param columns table[]
function pg.row_description(columns, count)
  local parts = { pack(">I2", count or #columns) }
  for _, c in ipairs(columns) do
    parts[#parts + 1] = pack(">zI4i2I4i2i4i2", c[1], c[3] or 0, c[4] or 0, c[2] or 25, c[5] or -1, c[6] or -1, c[7] or 0)
  end
  return message("T", table.concat(parts))
end

--- Cells are strings, or false for NULL; `count` is told instead of their number when given.
function pg.data_row(cells, count)
  local parts = { pack(">I2", count or #cells) }
  for _, cell in ipairs(cells) do parts[#parts + 1] = cell and pack(">s4", cell) or pack(">i4", -1) end
  return message("D", table.concat(parts))
end

function pg.command_complete(tag) return message("C", tag .. "\0") end
function pg.empty_query() return message("I", "") end
function pg.parse_complete() return message("1", "") end
function pg.bind_complete() return message("2", "") end
function pg.close_complete() return message("3", "") end
function pg.no_data() return message("n", "") end
function pg.portal_suspended() return message("s", "") end
---@param oids integer[]
function pg.parameter_description(oids)
  local parts = { pack(">I2", #oids) }
  for _, oid in ipairs(oids) do parts[#parts + 1] = pack(">I4", oid) end
  return message("t", table.concat(parts))
end
function pg.function_call_response(value) return message("V", value and pack(">s4", value) or pack(">i4", -1)) end

-- ---- errors and what comes unasked ----

-- Fields by their letter: S and V severity, C SQLSTATE, M message, D detail, H hint, P position, s t c n the names, F L R the source.
local function fields(given)
  local parts, letters, defaults = {}, {}, { S = "ERROR", V = given.S or "ERROR", C = "XX000", M = "something" }
  for letter in pairs(given) do letters[#letters + 1] = letter end
  for letter in pairs(defaults) do
    if given[letter] == nil then letters[#letters + 1] = letter end
  end
  table.sort(letters)
  for _, letter in ipairs(letters) do
    local value = given[letter] == nil and defaults[letter] or given[letter]
    if value then parts[#parts + 1] = letter .. value .. "\0" end
  end
  return table.concat(parts) .. "\0"
end

---@param given table<string, string|false>  fields by letter; false leaves one out that would otherwise be there
function pg.error_response(given) return message("E", fields(given)) end
function pg.notice(given)
  local all = { S = "NOTICE", V = "NOTICE", C = "00000" }
  for letter, value in pairs(given) do all[letter] = value end
  return message("N", fields(all))
end
function pg.notification(pid, channel, payload) return message("A", pack(">i4zz", pid, channel, payload or "")) end

-- ---- COPY ----

local function copy(type, format, columns)
  return message(type, pack(">BI2", format or 0, columns or 1) .. pack(">I2", format or 0):rep(columns or 1))
end
function pg.copy_in(format, columns) return copy("G", format, columns) end
function pg.copy_out(format, columns) return copy("H", format, columns) end
function pg.copy_both(format, columns) return copy("W", format, columns) end
function pg.copy_data(data) return message("d", data) end
function pg.copy_done() return message("c", "") end

-- ---- what a client says ----

--- A connection's first packet, without its length: { kind = "startup" | "cancel" | "ssl" | "gss", code, ... }.
function pg.read_first(body)
  local code, at = string.unpack(">I4", body)
  local first = { code = code, kind = ({ [pg.CANCEL] = "cancel", [pg.SSL] = "ssl", [pg.GSS] = "gss" })[code] or "startup" }
  if first.kind == "cancel" then
    first.pid, first.key = string.unpack(">i4i4", body, at)
  elseif first.kind == "startup" then
    first.parameters = {}
    for name, value in body:sub(at):gmatch("([^%z]+)%z([^%z]*)%z") do first.parameters[name] = value end
  end
  return first
end

--- Parse: the statement's name, its text.
function pg.read_parse(body) return string.unpack(">zz", body) end

--- Bind: portal, statement, parameters (false for NULL).
function pg.read_bind(body)
  local portal, statement, at = string.unpack(">zz", body)
  local parameters = {}
  local formats, after = string.unpack(">I2", body, at)
  local count
  count, at = string.unpack(">I2", body, after + 2 * formats)
  for i = 1, count do
    local len
    len, at = string.unpack(">i4", body, at)
    parameters[i] = len >= 0 and body:sub(at, at + len - 1)
    at = at + math.max(0, len)
  end
  return portal, statement, parameters
end

return pg
