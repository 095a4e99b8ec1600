--- Runs the mutants of list.lua; see run.
---
--- The copy lies in build/mutants/tree, built without optimisation and debug data, since that is quick. Programs are run in the order of
--- PROGRAMS, quick ones first; whoever survives them meets the specs in SPECS, on a real server, through the copy's own spec/run.
local HERE = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local mutants = dofile(HERE .. "/list.lua")
local PLACE = "build/mutants"
local TREE, BUILD = PLACE .. "/tree", PLACE .. "/tree/build/mutants"
local SECONDS = 120 -- of one program: a mutant that hangs is caught

local PROGRAMS = { "queue_test", "pool_test", "pool_upkeep_test", "engine_test", "core_sim", "engine_sim", "task_sim" }
local ARGUMENTS = {
  core_sim = "--seeds " .. TREE .. "/spec/sim/seeds.txt",
  engine_sim = "--seeds " .. TREE .. "/spec/sim/engine_seeds.txt",
  task_sim = "--seeds " .. TREE .. "/spec/sim/task_seeds.txt --steps 100000",
}
local SPECS = "acquire_spec pool_spec lease_spec deadline_spec fault_spec wait_spec transaction_spec"

local function shell(command, ...) return (os.execute(command:format(...))) end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  assert(file:close())
end

--- The text with the mutant's change; raises when the place is not there exactly once: the list has to follow the sources.
local function changed(text, m)
  local from, to = text:find(m[3], 1, true)
  if not from then error(("%s no longer holds %q"):format(m[1], m[3]), 0) end
  if text:find(m[3], to + 1, true) then error(("%s holds %q twice"):format(m[1], m[3]), 0) end
  return text:sub(1, from - 1) .. m[4] .. text:sub(to + 1)
end

local function build(targets) return shell("cmake --build %s --target %s -- --quiet >%s/build.log 2>&1", BUILD, targets, PLACE) end

local function prepare()
  assert(shell("mkdir -p %s && rm -rf %s/new && mkdir %s/new", PLACE, PLACE, PLACE))
  assert(shell("cp -rp CMakeLists.txt CMakePresets.json pool-scm-1.rockspec README.md .ci .busted src lua spec examples %s/new/", PLACE))
  if shell("test -d %s/build", TREE) then assert(shell("mv %s/build %s/new/build", TREE, PLACE)) end -- its objects are still good
  assert(shell("rm -rf %s && mv %s/new %s", TREE, PLACE, TREE))
  local configure = "cd %s && cmake -G Ninja -S . -B build/mutants -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG='-O1 -w' "
    .. ">../configure.log 2>&1"
  assert(shell(configure, TREE), "the copy could not be configured: " .. PLACE .. "/configure.log")
  assert(build(table.concat(PROGRAMS, " ")), "the copy could not be built: " .. PLACE .. "/build.log")
end

--- What a program said of its failure.
local function words(output)
  return output:match "FAILED: ([^\n]*)" or output:match "internal error: (.-) %(%S*%)\n" or "not a word, or too late"
end

--- The first program that fails, and its words; nil when all pass.
local function judged()
  for _, name in ipairs(PROGRAMS) do
    if not build(name) then return "the compiler" end
    local command = "timeout -k 1 %d %s/spec/%s %s >%s/out 2>&1 </dev/null"
    if not shell(command, SECONDS, BUILD, name, ARGUMENTS[name] or "", PLACE) then
      return name, words(read(PLACE .. "/out"))
    end
  end
  local failed -- twice, and the same: a busy machine is no judge
  for _ = 1, 2 do
    if shell("cd %s && POOL_SPEC_TIMEOUT=%d spec/run %s >../out 2>&1 </dev/null", TREE, SECONDS, failed or SPECS) then return nil end
    failed = read(PLACE .. "/out"):match "failed: spec/([%w_]*)"
  end
  return "the specs", failed
end

local function wanted(i, m)
  if #arg == 0 then return true end
  for _, word in ipairs(arg) do
    if tonumber(word) == i or (not tonumber(word) and m[1]:find(word, 1, true)) then return true end
  end
  return false
end

if arg[1] == "--list" then
  for i, m in ipairs(mutants) do print(("%3d  %-20s %s%s"):format(i, m[1], m[2], m.same and " (lives: " .. m.same .. ")" or "")) end
  os.exit(true)
end

prepare()
local good, bad, by = 0, 0, {}
for i, m in ipairs(mutants) do
  if wanted(i, m) then
    local path = ("%s/src/%s"):format(TREE, m[1])
    local original = read(path)
    write(path, changed(original, m))
    local catcher, how = judged()
    write(path, original)
    local fine = (catcher == nil) == (m.same ~= nil)
    good, bad = good + (fine and 1 or 0), bad + (fine and 0 or 1)
    by[catcher or "nobody"] = (by[catcher or "nobody"] or 0) + 1
    print(("%3d %-20s %s: %s%s"):format(i, m[1], m[2], catcher and "caught by " .. catcher or "LIVED", fine and "" or "  <- unexpected"))
    if how then print("      " .. how) end
    io.stdout:flush()
  end
end
print ""
local names = {}
for name, n in pairs(by) do names[#names + 1] = ("%s: %d"):format(name, n) end
table.sort(names)
print(table.concat(names, ", "))
print(("%d passed, %d failed"):format(good, bad))
os.exit(bad == 0 and good > 0)
