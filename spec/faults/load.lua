--- The two ways of loading a pool, behind one face:
---
---   load:start() :figures() :mark() :whole() :stop() :state() :close()
---
--- figures: { calls, right, errors = {kind → n}, wrong, missing, longest }; mark begins a streak, whole is the instant (pool.now) at
--- which STREAK answers in a row were right since. stop ends the calling and waits for what is under way; state is what the process
--- under load says of itself; close ends its pool and returns what that left behind.
---
--- "tasks": tasks of this very process. "serve": `pool serve spec/faults/app.lua` with support/http_load.c before it.
local pool = require "pool"
local process = require "support.process"
local Calls = require "faults.calls"

local load = { TASKS = 16, STREAK = 50 }
local PAUSE = 0.005  -- after an error
local PATIENCE = 60  -- for any one answer

-- ---- tasks ------------------------------------------------------------------------------------------------------------------------

local Tasks = {}
Tasks.__index = Tasks

-- After a moment: by then this process has closed its copy of the shell's end of the pipe.
local function descriptors(pid)
  return math.tointeger(tonumber((process.run(("sleep 0.02; ls /proc/%s/fd | wc -l"):format(pid)))))
end

--- Those that are no database connection's. A connection of SQLite's has several: its files, and what its thread is woken by.
local function other_descriptors(w, pid, connections)
  if w.row.driver ~= "sqlite" then return descriptors(pid) - connections end
  return math.tointeger(tonumber((process.run(("sleep 0.02; ls -l /proc/%s/fd | grep -cv 'pool\\.db\\|eventfd'"):format(pid)))))
end

--- One pool, opened, used and closed: what the process makes once, it has made then.
local function warm_up(settings)
  local db = pool.new(settings)
  assert(db:query "select 1")
  assert(Calls.prepare(db))
  assert(db:close())
end

function load.tasks(w, settings)
  local self = setmetatable({ w = w, over = false, number = 0, streak = 0, tasks = {} }, Tasks)
  self.numbers = { calls = 0, right = 0, errors = {}, wrong = 0, longest = 0 }
  self.pid = math.tointeger(tonumber((process.run "echo $PPID")))
  warm_up(settings)
  self.descriptors = descriptors(self.pid)
  self.db = pool.new(settings)
  self.calls = Calls.new(self.db, w.row)
  if w.policy then self.tuner = assert(self.db:tune(w.policy)) end
  if w.record then self.recording = assert(self.db:record(w.record)) end
  return self
end

function Tasks:one()
  local figures, began = self.numbers, pool.now()
  self.number = self.number + 1
  figures.calls = figures.calls + 1
  local fine, right, err = pcall(self.calls.ask, self.calls, self.number)
  figures.longest = math.max(figures.longest, pool.now() - began)
  if fine and right then
    figures.right = figures.right + 1
    self.streak = self.streak + 1
    if self.marked and self.streak >= load.STREAK and not self.whole_at then self.whole_at = pool.now() end
    return
  end
  self.streak = 0
  if fine then
    figures.errors[err.kind] = (figures.errors[err.kind] or 0) + 1
  else
    figures.wrong = figures.wrong + 1
  end
  pool.sleep(PAUSE)
end

function Tasks:start()
  for i = 1, self.w.row.tasks or load.TASKS do
    self.tasks[i] = pool.spawn(function()
      while not self.over do self:one() end
    end)
  end
end

function Tasks:figures() return self.numbers end

function Tasks:mark() self.marked, self.streak, self.whole_at = true, 0, nil end
function Tasks:whole() return self.whole_at end

function Tasks:stop()
  self.over = true
  local figures, missing = self.numbers, 0
  for _, task in ipairs(self.tasks) do
    local _, err = task:join(PATIENCE)
    if task.status ~= "done" then
      missing = missing + 1
      task:cancel()
      self.calls.wrong[#self.calls.wrong + 1] = "a task did not end: " .. tostring(err)
    end
  end
  self.tasks = {}
  figures.missing = figures.calls - figures.right - figures.wrong
  for _, n in pairs(figures.errors) do figures.missing = figures.missing - n end
  figures.missing = math.max(figures.missing, missing)
end

function Tasks:state()
  local calls = self.calls
  return { stats = self.db:stats(), leases = #self.db:leases(), seen = calls.seen, told = calls.told, wrong = calls.wrong,
    coroutines = calls:left_coroutines() }
end

function Tasks:log()
  local file = assert(io.open(self.w.dir .. "/log", "rb"))
  local text = file:read "a"
  file:close()
  return text
end

function Tasks:ledger() return self.calls.ledger end

--- Ends the pool; { descriptors, complaint? }.
function Tasks:close()
  if self.recording then self.recording:close() end
  if self.tuner then self.tuner:close() end
  self.db:close()
  local total = self.db:stats().total
  return { descriptors = descriptors(self.pid) - self.descriptors, complaint = total > 0 and total .. " connections after close" or nil }
end

-- ---- serve ------------------------------------------------------------------------------------------------------------------------

local Serve = {}
Serve.__index = Serve

local BUILD = os.getenv "POOL_SPEC_BUILD"

local function flags(settings)
  local words = {}
  for name, value in pairs(settings) do
    words[#words + 1] = ("--%s=%s"):format(name:gsub("_", "-"), tostring(value))
  end
  table.sort(words)
  return words
end

--- Starts the server at once: its start hook needs the database.
function load.serve(w, settings, wrap, env)
  local self = setmetatable({ w = w, file = w.dir .. "/load", marks = 0 }, Serve)
  local words = table.move(wrap, 1, #wrap, 1, {})
  local command = { BUILD .. "/pool", "serve", "spec/faults/app.lua", "--dev", "--listen", "127.0.0.1:0" }
  if w.policy then table.move({ "--policy", w.policy }, 1, 2, #command + 1, command) end
  if w.record then table.move({ "--record", w.record }, 1, 2, #command + 1, command) end
  for _, list in ipairs { command, flags(settings), w.flags } do table.move(list, 1, #list, #words + 1, words) end
  local given = { FAULT_ROW = w.row.name }
  for name, value in pairs(env) do given[name] = value end
  self.server = process.start(words, { env = given })
  w:defer(function() self.server:close() end)
  w:defer(function() -- its log goes to the row's
    local log <close> = assert(io.open(w.dir .. "/log", "a"))
    log:write(self.server:stderr())
  end)
  self.port = math.tointeger(tonumber(self.server:wait_line("^pool: listening on http://127%.0%.0%.1:(%d+)$", 30)))
  self.pid = self.server.pid -- what it was wrapped in has become it (exec)
  self.open_at_first = other_descriptors(w, self.pid, self:state().stats.total)
  return self
end

--- GET through curl, beside the loop.
function Serve:get(path)
  return self.w:run(("curl --silent --show-error --fail --max-time 20 --noproxy '*' http://127.0.0.1:%d%s"):format(self.port, path))
end

function Serve:start()
  self.client = process.start({ BUILD .. "/spec/http_load", self.port, self.w.row.tasks or load.TASKS, load.STREAK, self.file, PATIENCE,
    self.w.row.reconnect or 50 })
  self.w:defer(function() self.client:close() end)
  self.w:wait(function() return self:figures().calls > 0 end, 20, "the first call")
end

--- The client's line, when it was caught whole.
function Serve:figures()
  local file = io.open(self.file, "rb")
  local text = file and file:read("a") or ""
  if file then file:close() end
  local first, last = text:match "^seq=(%d+) .* seq=(%d+) *\n$"
  if first and first == last then
    local n = {}
    for name, value in text:gmatch "(%w+)=([%d.]+)" do n[name] = math.tointeger(tonumber(value)) or tonumber(value) end
    local figures = { calls = n.calls, right = n.right, wrong = n.wrong, missing = n.missing, longest = n.longest, errors = {} }
    self.whole_at = n.marks == self.marks and n.whole > 0 and n.whole or nil
    for _, kind in ipairs { "timeout", "overloaded", "connect", "lost", "closed", "deadline", "query", "cancelled" } do
      figures.errors[kind] = n[kind] > 0 and n[kind] or nil
    end
    self.known = figures
  end
  return self.known or { calls = 0, right = 0, wrong = 0, missing = 0, longest = 0, errors = {} }
end

function Serve:mark()
  self.marks = self.marks + 1
  os.execute(("kill -USR1 %d"):format(self.client.pid))
end

function Serve:whole()
  self:figures()
  return self.whole_at
end

function Serve:stop()
  self.client:signal "TERM"
  self.w:wait(function() return self.client:code() end, PATIENCE + 10, "the client's end")
  local code, complaint = self.client:code(), self.client:stderr()
  self:figures()
  if code > 1 then error("http_load ended with " .. code .. ": " .. complaint) end
  self.complaint = complaint ~= "" and complaint or nil
end

function Serve:state()
  local state = assert(pool.json.decode(self:get "/state"))
  if self.complaint then state.wrong[#state.wrong + 1] = self.complaint end
  return state
end

function Serve:log() return self.server:stderr() end

function Serve:ledger()
  local states = {}
  for n, state in self:get "/ledger":gmatch "(%d+) (%a+)\n" do states[math.tointeger(tonumber(n))] = state end
  return states
end

--- The descriptors that the server has beyond those at first, its database connections aside, once its clients' are gone; then its end.
function Serve:close()
  local left
  pcall(self.w.wait, self.w, function()
    left = other_descriptors(self.w, self.pid, self:state().stats.total) - self.open_at_first
    return left <= 0
  end, 5)
  process.run(("kill -TERM %d"):format(self.pid))
  local fine, code = pcall(self.w.wait, self.w, function() return self.server:code() end, 15)
  local complaint
  if not fine or code ~= 0 then complaint = ("the server ended with %s:\n%s"):format(tostring(code), self.server:stderr():sub(-2000)) end
  return { descriptors = left, complaint = complaint }
end

return load
