--- Recordings: what each request for a connection met, in a file that is bounded, so that a day of traffic can be replayed in virtual
--- time (`pool simulate --workload FILE`) and asked for advice (`pool advise FILE`).
---
---   local recording = assert(db:record "traffic.rec")
---   ...
---   recording:close()
---   local is = assert(require("pool.recording").read "traffic.rec")
---   print(is.seconds, #is.requests.at, is.stats.wait.p99)
---
--- No SQL, no parameters, no names: when a request came, how long it waited and held a connection, how it ended, its priority and a hash
--- of its key, which another process would give another key. The file is its owner's alone (0600); its format is in src/io/recorder.h.

local check = require "pool.check"
local core = require "pool.core"
local sim_check = require "pool.sim_check"

local recording = {}

local Pool = core.pool_methods

local EVERY, FIGURES = 1, 10 -- seconds between writes, and between lines with the pool's figures

-- ---- writing ----

---@class pool.Recording
local Recording = {}
Recording.__index = Recording

--- Pool -> its Recording.
local recordings = setmetatable({}, { __mode = "k" })

local SECRET = { database_url = true }

--- The inside of the first line's JSON object: when it began and the settings, but not where the database is.
local function header_of(db)
  local settings = {}
  for name, value in pairs(db:stats().settings) do
    if not SECRET[name] then settings[name] = value end
  end
  local json = core.json.encode { began = os.date "!%Y-%m-%dT%H:%M:%SZ", driver = db.driver, settings = settings }
  return json:sub(2, -2)
end

local function figures_line(self)
  local stats = self.db:stats()
  stats.settings.database_url = nil
  self.recorder:line(("s %.3f %s"):format(core.now() - self.began, core.json.encode(stats)))
end

local function failed(self, err)
  self.reason = err.message
  require("pool").log("error", err.message .. "; nothing is recorded any more", {})
  self:close()
end

local function write(self)
  self.turn = self.turn + 1
  if self.turn % (FIGURES // EVERY) == 0 then figures_line(self) end
  local fine, err = self.recorder:flush()
  if not fine then failed(self, err) end
end

--- Ends it; what is gathered is written. Idempotent.
function Recording:close()
  if self.closed then return end
  self.closed = true
  self.ticker:stop()
  self.requests = self.recorder:requests()
  if not self.reason then pcall(figures_line, self) end -- the pool may be closed by now, and then has no figures
  local fine, err = self.recorder:flush()
  if not fine then self.reason = self.reason or err.message end
  self.recorder:close()
  if recordings[self.db] == self then recordings[self.db] = nil end
end

Recording.__close = Recording.close

--- What it is about: { path, requests, closed, reason? }. requests counts all since it began, also those that are no longer in the file;
--- reason: why it could not be written.
function Recording:status()
  return { path = self.path, requests = self.closed and self.requests or self.recorder:requests(), closed = self.closed or false,
    reason = self.reason }
end

--- Records what the pool's requests for connections meet, until it is closed: to `path`, and past half of record_limit to `path`.1.
--- A recording that is there already becomes `path`.1; any other file there is refused.
---@param path string
---@return pool.Recording? recording
---@return any err kind settings
function Pool:record(path)
  check.pool(self, "db:record")
  if type(path) ~= "string" or path == "" or path:find "\0" then
    local shown = type(path) == "string" and ("%q"):format(path) or "a " .. type(path)
    core.misuse("db:record: path must be a file's name, not " .. shown)
  end
  local db = core.pool_of(self)
  local now = recordings[db]
  if now then core.misuse(("db:record: this pool is recorded already, to %s; close that recording first"):format(now.path)) end
  local recorder, err = core.recorder(db, path, db:stats().settings.record_limit, header_of(db))
  if not recorder then return nil, err end
  local made = setmetatable({ db = db, path = path, recorder = recorder, began = core.now(), turn = 0 }, Recording)
  local weak = setmetatable({ made = made }, { __mode = "v" })
  made.ticker = core.ticker(function()
    if weak.made and not weak.made.closed then write(weak.made) end
  end)
  made.ticker:start(EVERY)
  recordings[db] = made
  return made
end

-- ---- reading ----

local OUTCOMES = { g = "granted", l = "lost", t = "timeout", o = "overloaded", e = "connect", c = "cancelled" }
local MAGIC = '{"pool":"recording",'

--- What is wrong with settings as a recording has them, nil when nothing: those of the pool must be such that a pool could have them. What
--- is not there is filled in with its default.
local function settings_fault(given)
  local own = {}
  if type(given) ~= "table" then return "settings: a table is wanted" end
  for _, row in ipairs(core.settings()) do
    if row.room == "pool" then own[row.name] = given[row.name] end
  end
  local wrong, all = sim_check.settings(own)
  if wrong then return wrong end
  for _, row in ipairs(core.settings()) do
    if row.room == "pool" then given[row.name] = all[row.name] end
  end
end

--- The same of a first line.
local function header_fault(header)
  for _, name in ipairs { "run", "began", "driver" } do
    if type(header[name]) ~= "string" then return name .. ": a text is wanted" end
  end
  if math.type(header.part) ~= "integer" or header.part < 1 then return "part: a number from 1 is wanted" end
  return settings_fault(header.settings)
end

-- What is read of a pool's figures, here and by advise.lua: whole numbers, and times by what they are of.
local COUNTS = { "size", "max_overflow", "total", "idle", "arrivals", "grants", "timeouts", "rejected", "shed", "opens", "open_failures",
  "leaks", "queries", "checks", "check_failures" }
local TIMES = { wait = { "p95", "p99", "max" }, hold = { "mean" }, query = { "mean" }, open_time = { "mean" } }

local function is_count(value) return math.type(value) == "integer" and value >= 0 and value <= 1 << 53 end
local function is_number(value) return type(value) == "number" and value >= 0 and value <= 1e15 end

--- The same of figures.
local function figures_fault(stats)
  if type(stats) ~= "table" then return "a table is wanted" end
  for _, name in ipairs(COUNTS) do
    if not is_count(stats[name]) then return name .. ": a count is wanted" end
  end
  if not is_number(stats.utilization) then return "utilization: a number is wanted" end
  for name, fields in pairs(TIMES) do
    local is = stats[name]
    if type(is) ~= "table" or not is_count(is.count) then return name .. ": times are wanted" end
    for _, field in ipairs(fields) do
      if not is_number(is[field]) then return ("%s.%s: a number is wanted"):format(name, field) end
    end
  end
  return settings_fault(stats.settings)
end

--- A file's lines, the last one only when it is whole; the header decoded. nil and what is wrong.
local function open(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  local first = file:read "L"
  if not first or first:sub(1, #MAGIC) ~= MAGIC then
    file:close()
    return nil, path .. " is no recording: one begins with " .. MAGIC
  end
  local header, err = core.json.decode(first)
  local wrong = err and err.message
  if not wrong and header.version ~= 1 then
    file:close()
    return nil, ("%s: a recording of version %s; this pool reads version 1"):format(path, tostring(header.version))
  end
  wrong = wrong or header_fault(header)
  if wrong then
    file:close()
    return nil, ("%s: its first line is damaged: %s"):format(path, wrong)
  end
  return file, header
end

--- Whether a file begins as a recording does.
---@param path string
---@return boolean
function recording.is(path)
  local file = io.open(path, "rb")
  if not file then return false end
  local start = file:read(#MAGIC)
  file:close()
  return start == MAGIC
end

local COLUMNS = { "at", "waited", "held", "outcome", "key", "priority" }

--- A request's line, added to the columns r.
local function request_line(line, number, path, r)
  local arrived, waited, held, outcome, rest = line:match "^r (%d+) (%d+) (%d+) (%a)(.*)$"
  if not arrived or not OUTCOMES[outcome] then
    return nil, ("%s:%d: not a request: %q; r ARRIVED WAITED HELD OUTCOME [KEY PRIORITY] is one"):format(path, number, line:sub(1, 80))
  end
  local key, priority = "-", 5
  if rest ~= "" then
    local text
    key, text = rest:match "^ ([%x-]+) (%d)$"
    priority = tonumber(text)
    if not key then return nil, ("%s:%d: not a key and a priority: %q"):format(path, number, rest:sub(1, 80)) end
  end
  local i = #r.at + 1
  r.at[i], r.waited[i], r.held[i] = arrived / 1e6, waited / 1e6, held / 1e6
  r.outcome[i], r.key[i], r.priority[i] = OUTCOMES[outcome], key, priority
  return true
end

local function figures_of(line, number, path, made)
  local text = line:match "^s [%d.]+ (.*)$"
  local stats, err = core.json.decode(text or "")
  if err then return nil, ("%s:%d: figures that are no JSON: %s"):format(path, number, err.message) end
  local wrong = figures_fault(stats)
  if wrong then return nil, ("%s:%d: figures that are no pool's: %s"):format(path, number, wrong) end
  made.stats = stats
  return true
end

--- The lines of one file, added to what was made so far; nil and what is wrong.
local function read_part(path, file, made)
  local number = 1
  for line in file:lines "L" do
    number = number + 1
    if line:sub(-1) ~= "\n" then break end -- cut in the middle, by a crash or while it is being written
    line = line:sub(1, -2)
    local start, fine, message = line:sub(1, 2), true, nil
    if start == "r " then fine, message = request_line(line, number, path, made.requests)
    elseif start == "s " then fine, message = figures_of(line, number, path, made) end
    if not fine then return nil, message end
  end
  return true
end

--- Brings the columns into the order of arrival: a line is written when its request has ended.
local function sort_columns(r)
  local order = {}
  for i = 1, #r.at do order[i] = i end
  local at = r.at
  table.sort(order, function(a, b) return at[a] < at[b] or (at[a] == at[b] and a < b) end)
  for _, name in ipairs(COLUMNS) do
    local column, sorted = r[name], {}
    for i, from in ipairs(order) do sorted[i] = column[from] end
    r[name] = sorted
  end
end

--- Hashes become numbers as they first come; how many there are.
local function number_keys(r)
  local numbers, count = { ["-"] = 0 }, 0
  for i, hash in ipairs(r.key) do
    if not numbers[hash] then
      count = count + 1
      numbers[hash] = count
    end
    r.key[i] = numbers[hash]
  end
  return count
end

--- The part before, when it is of the same run and the file is still there.
local function older_of(path, header)
  if header.part == 1 then return nil end
  local file, older = open(path .. ".1")
  if not file then return nil end
  if older.run == header.run and older.part == header.part - 1 then return file, older end
  file:close()
end

---@class pool.Recorded
---@field began string when it began, UTC
---@field driver string
---@field settings table<string, any> as they were when it began
---@field whole boolean false: the beginning was rotated away
---@field seconds number from the first request kept to the end of the last one
---@field keys integer how many keys there were
---@field requests { at: number[], waited: number[], held: number[], outcome: string[], key: integer[], priority: integer[] } by arrival:
--- seconds since `began`; outcome granted, lost, timeout, overloaded, connect or cancelled; key numbered, 0 none
---@field stats table? the pool's last figures, as db:stats()

--- Reads a recording, with its older part where that is still there.
---@param path string
---@return pool.Recorded?
---@return string? message
function recording.read(path)
  local file, header = open(path)
  if not file then return nil, header end
  local made = { began = header.began, driver = header.driver, settings = header.settings, requests = {} }
  for _, name in ipairs(COLUMNS) do made.requests[name] = {} end
  local _ <close> = file
  local older, older_header = older_of(path, header)
  made.whole = (older_header or header).part == 1
  if older then
    local fine, message = read_part(path .. ".1", older, made)
    older:close()
    if not fine then return nil, message end
  end
  local fine, message = read_part(path, file, made)
  if not fine then return nil, message end
  sort_columns(made.requests)
  made.keys = number_keys(made.requests)
  local r, last = made.requests, 0
  for i = 1, #r.at do last = math.max(last, r.at[i] + r.waited[i] + r.held[i]) end
  made.seconds = #r.at > 0 and last - r.at[1] or 0.0
  return made
end

--- As the simulator replays it: { at, service, key, priority } from the first request on. Whoever got no connection would have held one
--- as long as the request before it did.
---@param path string
---@return table? trace
---@return any message or the pool.Recorded
function recording.trace(path)
  local is, message = recording.read(path)
  if not is then return nil, message end
  local r = is.requests
  local trace = { at = {}, service = {}, key = r.key, priority = r.priority }
  local hold
  for i = 1, #r.at do
    if r.outcome[i] == "granted" then
      hold = r.held[i]
      break
    end
  end
  if not hold then return nil, path .. ": nobody got a connection in it: there is nothing to replay" end
  for i = 1, #r.at do
    if r.outcome[i] == "granted" then hold = r.held[i] end
    trace.at[i], trace.service[i] = r.at[i] - r.at[1], hold
  end
  return trace, is
end

--- A recording as a workload (pool.workloads): its requests and settings, an open that takes as long as they did.
---@param path string
---@return table? workload
---@return string? message
function recording.workload(path)
  local trace, is = recording.trace(path)
  if not trace then return nil, is end
  local settings = {}
  for _, row in ipairs(core.settings()) do
    if row.room == "pool" then settings[row.name] = is.settings[row.name] end
  end
  local opens = is.stats and is.stats.open_time or { count = 0 }
  return {
    name = path:match "[^/]*$", text = ("recorded from %s on"):format(is.began), duration = math.max(1.0, math.ceil(is.seconds) + 0.0),
    workload = { arrival = { kind = "trace", at = trace.at, service = trace.service, key = trace.key, priority = trace.priority } },
    database = { connect = opens.count > 0 and opens.mean or 0.01 }, settings = settings,
  }
end

return recording
