--- The Lua side of a scripted server's connection (support/fake_postgres.c runs it, a process a connection; see
--- support/fake_postgres.lua). A script gets `c`:
---
---   c:startup() -> request | nil         answers SSLRequest and GSSENCRequest with `N`; request as pg.read_first has it
---   c:greet{ pid=, key=, parameters= }   what an honest server says to a startup
---   c:read() -> type, body | nil, why    the next message; why: eof, reset, closed
---   c:recv(most), c:readable(seconds)    bytes as they come
---   c:put(bytes), c:flush(), c:send(bytes)     send = put, flush
---   c:sleep(seconds) -> whether it was cancelled
---   c:close("fin" | "rst")               afterwards the others do nothing
---   c:serve(change)                      an honest server from here on, with what `change` (see there) has to say
---   c:note(text)                         for f:notes(); c:await(word): until f:tell(word)
---   c.pid, c.serial                      of this connection: its process, its number from 1
---
--- The honest server understands BEGIN and its kin, SET, DISCARD, DEALLOCATE, and SELECT of numbers, texts, NULL, parameters,
--- pg_backend_pid(), pg_sleep(), generate_series(); everything else is a syntax error. Values are int4 or text.
local pg = require "support.pg"

local Connection = {}
Connection.__index = Connection

-- ---- bytes ----

function Connection:recv(most) return self.wire.recv(most) end
function Connection:readable(seconds) return self.wire.readable(seconds) end
function Connection:sleep(seconds) return self.wire.sleep(seconds) end
function Connection:note(text) self.wire.append(self.wire.dir .. "/notes", (tostring(text):gsub("\n", "\\n")) .. "\n") end

function Connection:put(bytes) self.out[#self.out + 1] = bytes end

function Connection:flush()
  local bytes = table.concat(self.out)
  self.out = {}
  return self.wire.send(bytes)
end

function Connection:send(bytes)
  self:put(bytes)
  return self:flush()
end

function Connection:close(how)
  self.out = {}
  self.wire.close(how == "rst")
end

--- Exactly so many bytes.
function Connection:take(count)
  local parts = {}
  while count > 0 do
    local bytes, why = self.wire.recv(math.min(count, 65536))
    if not bytes then return nil, why end
    parts[#parts + 1] = bytes
    count = count - #bytes
  end
  return table.concat(parts)
end

--- Waits until the spec says so (f:tell); raises after ten seconds.
function Connection:await(word)
  for _ = 1, 5000 do
    local file = io.open(self.wire.dir .. "/told." .. word)
    if file then return file:close() end
    self:sleep(0.002)
  end
  error(("nobody told %q"):format(word))
end

-- ---- messages ----

function Connection:read()
  local head, why = self:take(5)
  if not head then return nil, why end
  local type, length = string.unpack(">c1I4", head)
  local body
  body, why = self:take(length - 4)
  if not body then return nil, why end
  return type, body
end

--- A connection's first packet, of any kind.
function Connection:first()
  local head = self:take(4)
  local body = head and self:take(string.unpack(">I4", head) - 4)
  return body and pg.read_first(body)
end

function Connection:startup()
  while true do
    local first = self:first()
    if not first or first.kind == "startup" or first.kind == "cancel" then return first end
    self:send("N")
  end
end

local PARAMETERS = { -- in the order in which they are told
  { "server_version", "15.1" }, { "server_encoding", "UTF8" }, { "client_encoding", "UTF8" }, { "DateStyle", "ISO, MDY" },
  { "integer_datetimes", "on" }, { "standard_conforming_strings", "on" }, { "in_hot_standby", "off" },
  { "default_transaction_read_only", "off" }, { "TimeZone", "UTC" },
}

--- What greets a client, as bytes. `options`: pid, key, parameters (name → value, false leaves one out).
function Connection:greeting(options)
  local o, own = options or {}, {}
  for name, value in pairs(o.parameters or {}) do own[name] = value end
  local parts = { pg.authentication_ok() }
  for _, parameter in ipairs(PARAMETERS) do
    local value = own[parameter[1]]
    if value == nil then value = parameter[2] end
    if value then parts[#parts + 1] = pg.parameter_status(parameter[1], value) end
  end
  parts[#parts + 1] = pg.backend_key(o.pid or self.pid, o.key or self.key) .. pg.ready("I")
  return table.concat(parts)
end

function Connection:greet(options) return self:send(self:greeting(options)) end

-- ---- an honest server: what a statement means ----

local INT4, TEXT = 23, 25
local TAGS = { begin = "BEGIN", start = "START TRANSACTION", commit = "COMMIT", ["end"] = "COMMIT", rollback = "ROLLBACK",
  abort = "ROLLBACK", savepoint = "SAVEPOINT", release = "RELEASE", set = "SET", discard = "DISCARD ALL", deallocate = "DEALLOCATE" }

local function refusal(state, text) return { failed = pg.error_response { C = state, M = text } } end

-- One item of a select list: a column, and a function of the parameters for its value (a list of values for a series).
local function item_of(text, c)
  local name = text:match("%s+as%s+([%w_]+)%s*$")
  text = (name and text:match("^(.*)%s+as%s+[%w_]+%s*$") or text):match("^%s*(.-)%s*$")
  local int, quoted, parameter, sleep = text:match("^%-?%d+$"), text:match("^'([^']*)'$"), text:match("^%$(%d+)"),
    text:match("^pg_sleep%(([%d.]+)%)$")
  local called = name or text:match("^([%w_]+)%(") or "?column?"
  if int then return { called, INT4 }, function() return int end end
  if quoted then return { called, TEXT }, function() return quoted end end
  if text == "null" then return { called, TEXT }, function() return false end end
  if text == "pg_backend_pid()" then return { called, INT4 }, function() return tostring(c.pid) end end
  if parameter then
    return { called, text:match("::int") and INT4 or TEXT }, function(given) return given[tonumber(parameter)] end
  end
  if sleep then
    return { called, 2278 }, function()
      c:flush()
      if c:sleep(tonumber(sleep)) then error({ cancelled = true }) end
      return ""
    end
  end
  local from, to = text:match("^generate_series%((%d+),%s*(%d+)%)$")
  if from then return { called, INT4 }, function() return { tonumber(from), tonumber(to) } end end
end

local function items_of(list, c)
  local columns, values = {}, {}
  for text in list:gsub("(%b())", function(inner) return (inner:gsub(",", "\1")) end):gmatch("[^,]+") do
    local column, value = item_of(text:gsub("\1", ","), c)
    if not column then return nil end
    columns[#columns + 1], values[#values + 1] = column, value
  end
  return columns, values
end

local function rows_of(values, given)
  local cells, series = {}, nil
  for i, value in ipairs(values) do
    cells[i] = value(given)
    if type(cells[i]) == "table" then series = i end
  end
  if not series then return pg.data_row(cells), 1 end
  local range, parts = cells[series], {}
  for n = range[1], range[2] do
    cells[series] = tostring(n)
    parts[#parts + 1] = pg.data_row(cells)
  end
  return table.concat(parts), #parts
end

--- What is known of a statement before it runs: { columns, run } where run(parameters) gives bytes, or { failed = bytes }.
local function plan_of(c, sql)
  sql = sql:match("^%s*(.-)[%s;]*$")
  local word = sql:match("^%a*"):lower()
  if sql == "" then return { run = function() return pg.empty_query() end } end
  if c.status == "E" and TAGS[word] ~= "ROLLBACK" and TAGS[word] ~= "COMMIT" then
    return refusal("25P02", "current transaction is aborted, commands ignored until end of transaction block")
  end
  if word == "select" then
    local columns, values = items_of(sql:sub(8), c)
    if not columns then return refusal("42601", "the fake server does not understand: " .. sql) end
    return { columns = columns, run = function(given)
      local rows, count = rows_of(values, given)
      return rows .. pg.command_complete("SELECT " .. count)
    end }
  end
  local tag = TAGS[word]
  if not tag then return refusal("42601", "the fake server does not understand: " .. sql) end
  return { run = function()
    if tag == "COMMIT" and c.status == "E" then tag = "ROLLBACK" end
    if tag == "BEGIN" or tag == "START TRANSACTION" then c.status = "T" end
    if (tag == "COMMIT" or tag == "ROLLBACK") and not sql:lower():find(" to ", 1, true) then c.status = "I" end
    return pg.command_complete(tag)
  end }
end

-- ---- an honest server: what a client says ----

local function hooked(c, name, bytes, ...)
  local hook = c.change[name]
  if not hook then return c:put(bytes) end
  bytes = hook(c, bytes, ...)
  if bytes then c:put(bytes) end
end

local function fail(c, bytes, sql)
  if c.status == "T" then c.status = "E" end
  hooked(c, "failed", bytes, sql)
  return false
end

-- false: it failed, and what follows is skipped up to a Sync
local function execute(c, plan, sql, parameters)
  c:sleep(0) -- a cancel that came late is nobody's
  local fine, bytes = pcall(plan.run, parameters)
  if fine then
    hooked(c, "execute", bytes, sql, parameters)
    return true
  end
  if type(bytes) ~= "table" then error(bytes, 0) end
  return fail(c, pg.error_response { C = "57014", M = "canceling statement due to user request" }, sql)
end

local function describe(c, plan, sql) hooked(c, "describe", plan.columns and pg.row_description(plan.columns) or pg.no_data(), sql) end

local function ready(c)
  hooked(c, "ready", pg.ready(c.status))
  c:flush()
end

local handlers = {}

function handlers.Q(c, body)
  local sql = body:match("^[^%z]*")
  for statement in (sql:find(";", 1, true) and sql or sql .. ";"):gmatch("[^;]*") do
    if statement:find("%S") or not sql:find("[^%s;]") then
      local plan = plan_of(c, statement)
      if plan.failed then
        fail(c, plan.failed, statement)
        break
      end
      if plan.columns then describe(c, plan, statement) end
      if not execute(c, plan, statement, {}) then break end
      if not sql:find("%S") then break end
    end
  end
  ready(c)
  return true
end

function handlers.P(c, body)
  local name, sql = pg.read_parse(body)
  local plan = plan_of(c, sql)
  if plan.failed then return fail(c, plan.failed, sql) end
  c.statements[name] = sql
  hooked(c, "complete", pg.parse_complete(), sql)
  return true
end

function handlers.B(c, body)
  local portal, name, parameters = pg.read_bind(body)
  local sql = c.statements[name]
  if not sql then return fail(c, pg.error_response { C = "26000", M = ('prepared statement "%s" does not exist'):format(name) }, "") end
  c.portals[portal] = { sql = sql, parameters = parameters }
  hooked(c, "complete", pg.bind_complete(), sql)
  return true
end

function handlers.D(c, body)
  local sql = body:sub(1, 1) == "S" and c.statements[body:sub(2, -2)] or (c.portals[body:sub(2, -2)] or {}).sql
  if not sql then return fail(c, pg.error_response { C = "34000", M = "nothing of that name" }, "") end
  if body:sub(1, 1) == "S" then c:put(pg.parameter_description {}) end
  describe(c, plan_of(c, sql), sql)
  return true
end

function handlers.E(c, body)
  local portal = c.portals[body:match("^[^%z]*")]
  if not portal then return fail(c, pg.error_response { C = "34000", M = "no such portal" }, "") end
  local plan = plan_of(c, portal.sql)
  if plan.failed then return fail(c, plan.failed, portal.sql) end
  return execute(c, plan, portal.sql, portal.parameters)
end

function handlers.C(c)
  hooked(c, "complete", pg.close_complete(), "")
  return true
end

function handlers.H(c)
  c:flush()
  return true
end

function handlers.S(c)
  ready(c)
  return true
end

local function converse(c)
  local skipping = false
  while true do
    local type, body = c:read()
    if not type or type == "X" then return end
    if not (c.change.message and c.change.message(c, type, body)) then
      if type == "S" or not skipping then
        local handler = handlers[type]
        if not handler then return c:send(pg.error_response { S = "FATAL", C = "08P01", M = "invalid message type" }) end
        skipping = not handler(c, body)
      end
    end
  end
end

--- An honest server, to its end. `change` says what is not honest; each function sees the bytes that are due and returns those to be
--- sent instead (nil: none), and may send, sleep or close by itself:
---   options                       c:greet's
---   request(c, request)           instead of the greeting; false: no conversation after it
---   greeting(c, bytes)
---   cancel(c, request)            instead of interrupting the connection that it names
---   message(c, type, body)        before anything else; true: it has been dealt with
---   complete(c, bytes, sql)       ParseComplete, BindComplete, CloseComplete
---   describe(c, bytes, sql)       RowDescription, NoData
---   execute(c, bytes, sql, parameters)      rows and CommandComplete
---   failed(c, bytes, sql)         ErrorResponse
---   ready(c, bytes)               ReadyForQuery
---   goodbye(c)                    the client has left
---
--- A function instead is given the request first, and returns the table.
function Connection:serve(change)
  local request = self:startup()
  if not request then return end
  if type(change) == "function" then change = change(request) end
  self.change, self.status, self.statements, self.portals = change or {}, "I", {}, {}
  change = self.change
  if request.kind == "cancel" then
    if change.cancel then return change.cancel(self, request) end
    return self.wire.interrupt(request.pid)
  end
  if change.request then
    if change.request(self, request) == false then return end
  else
    hooked(self, "greeting", self:greeting(change.options))
    self:flush()
  end
  converse(self)
  if change.goodbye then change.goodbye(self) end
end

--- Loads a script; what it gives is a child's whole life.
return function(path)
  local script = dofile(path)
  return function(wire)
    local c = setmetatable({ wire = wire, pid = wire.pid, serial = wire.serial, key = wire.pid * 7 + 1, out = {} }, Connection)
    local fine, err = xpcall(script, debug.traceback, c)
    if not fine then c:note("error: " .. tostring(err)) end
    c:close()
  end
end
