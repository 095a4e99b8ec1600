--- Sums up for spec/analyze: lua5.4 findings.lua ANSWERS DIRECTORY whole|part TOOL... reads DIRECTORY/TOOL.FILE (slashes as colons), what
--- the tool said of the file, prints each finding that has no answer and each answer that has no finding, and a line of counts. Ends with
--- failure when it printed any, or a tool did not come to its end. `part`: not every file was read, and answers for others do not count.
local HERE = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local answers_path, directory, whole = arg[1], arg[2], arg[3] == "whole"
local tools = table.move(arg, 4, #arg, 1, {})

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return text
end

-- ---- which function a line is in ----

local heads = {} -- path -> what a line is part of, by its number

--- A function's head begins in the first column and its body ends with a brace there, as .clang-format has it.
local function heads_of(path)
  if heads[path] then return heads[path] end
  local found, number, name = {}, 0, nil
  for line in ((read(path) or "") .. "\n"):gmatch "([^\n]*)\n" do
    number = number + 1
    local begins = line:match "^([%w_%-]+)%(%)%s*{" or line:match "^[%a_][^;=(]*[%s*]([%w_]+)%s*%(" or line:match "^#%s*define%s+([%w_]+)"
    if begins and not line:match ";%s*$" then name = begins end
    found[number] = name or "-"
    if line:match "^}" or (begins and line:match "}%s*$") then name = nil end
  end
  heads[path] = found
  return found
end

local function place_of(path, line) return heads_of(path)[tonumber(line)] or "-" end

--- A path from the root; the build gives each room its own links to the rooms below it.
local function our_path(path)
  local below = path:match "/law/%a+/(.*)$"
  return below and "src/" .. below or path:match "(src/%a+/[%w_]+%.[ch])$" or path
end

-- ---- findings ----

local PATTERNS = { -- path, line, message, check
  gcc = "^(%S-):(%d+):%d+: warning: (.*) %[%-W([%w%-=]+)%]$",
  ["clang-tidy"] = "^(%S-):(%d+):%d+: %a+: (.*) %[([%w%-.,]+)%]$",
  cppcheck = "^(%S-):(%d+):%d+: %a+: (.*) %[(%w+)%]$",
  shellcheck = "^(%S-):(%d+):%d+: %a+: (.*) %[(SC%d+)%]$",
}

--- A finding at the end of a path through the file, which may end in a function of a header.
local function is_of_a_path(check) return check:match "^analyzer%-" or check:match "^clang%-analyzer%-" end

--- The findings in what the tool said of the file; nil when it did not come to its end.
local function findings_of(tool, file, text)
  local list, code, last = {}, text:match "ended with (%d+)\n$", nil
  for line in text:gmatch "[^\n]+" do
    local path, number, message, check = line:match(PATTERNS[tool])
    local step, at = line:match "^(%S-):(%d+):%d+: note: "
    if path then
      path = our_path(path)
      last = { tool = tool, file = path, at = path .. ":" .. number, text = message:gsub(" %[CWE%-%d+%]$", ""), check = check,
        place = place_of(path, number) }
      if path ~= file and is_of_a_path(check) then last.file, last.open_ended = file, true end
      list[#list + 1] = last
    elseif step and last and last.open_ended and our_path(step) == file then
      last.place = place_of(file, at) -- the last function of the file itself that the path was in
    end
  end
  local broken = not code or (#list == 0 and code ~= "0")
  return not broken and list or nil
end

local function key(f) return ("%s %s %s %s: "):format(f.tool, f.file, f.place, f.check) end

-- ---- answers ----

local answers, problem = dofile(HERE .. "/answers.lua").read(answers_path)
if not answers then
  print(problem)
  os.exit(false)
end

local function answered(finding)
  local found = false
  for _, answer in ipairs(answers) do
    if key(answer) == key(finding) and finding.text:sub(1, #answer.text) == answer.text then
      answer.used = answer.used + 1
      found = true
    end
  end
  return found
end

-- ---- the sum ----

local function names_of(tool)
  local names = {}
  for name in io.popen(("LC_ALL=C ls '%s'"):format(directory)):lines() do
    if name:sub(1, #tool + 1) == tool .. "." then names[#names + 1] = name end
  end
  return names
end

local asked, looked_at, seen = {}, {}, {} -- tools; "TOOL FILE"; findings
local sum = { findings = 0, open = 0, broken = 0, stale = 0 }

local function take(finding)
  local id = key(finding) .. finding.at .. finding.text
  if seen[id] then return end -- in a header, said of another file already
  seen[id] = true
  sum.findings = sum.findings + 1
  if answered(finding) then return end
  sum.open = sum.open + 1
  print(("%s: %s\n  %s%s"):format(finding.at, finding.text, key(finding), finding.text))
end

for _, tool in ipairs(tools) do
  local before, names = sum.findings, names_of(tool)
  asked[tool] = true
  for _, name in ipairs(names) do
    local file, text = name:sub(#tool + 2):gsub(":", "/"), read(directory .. "/" .. name)
    local list = findings_of(tool, file, text)
    looked_at[tool .. " " .. file] = true
    if not list then
      sum.broken = sum.broken + 1
      print(("%s did not come to its end over %s:\n%s"):format(tool, file, text))
    end
    for _, finding in ipairs(list or {}) do take(finding) end
  end
  if whole and #names == 0 then sum.broken = sum.broken + 1 end
  print(("%s: %d files, %d findings"):format(tool, #names, sum.findings - before))
end
for _, answer in ipairs(answers) do
  if answer.used == 0 and (whole and asked[answer.tool] or looked_at[answer.tool .. " " .. answer.file]) then
    sum.stale = sum.stale + 1
    print(("%s:%d: an answer to nothing: %s%s"):format(answers_path, answer.line, key(answer), answer.text))
  end
end
if sum.stale > 0 then print(("%d answers to nothing"):format(sum.stale)) end
if sum.broken > 0 then print(("%d files not read to the end"):format(sum.broken)) end
print(("%d findings, %d answered, %d open"):format(sum.findings, sum.findings - sum.open, sum.open))
os.exit(sum.open + sum.broken + sum.stale == 0)
