--- The matrix as a table, a line as soon as its row has ended; what broke is told below the table.
local Report = {}
Report.__index = Report

local COLUMNS = {
  { "fault", 52 }, { "load", 5 }, { "calls", 6 }, { "right", 6 }, { "typed errors", 34 }, { "wrong", 5 }, { "missing", 7 },
  { "most", 7 }, { "left", 4 }, { "calm", 6 }, { "whole", 6 }, { "of", 3 }, { "took", 6 }, { "", 7 },
}

---@param form "plain" | "markdown"
function Report.new(form)
  local self = setmetatable({ form = form, passed = 0, failed = 0, skipped = 0, stories = {} }, Report)
  local heads, lines = {}, {}
  for i, column in ipairs(COLUMNS) do heads[i], lines[i] = column[1], "---" end
  self:line(heads)
  if form == "markdown" then self:line(lines) end
  return self
end

function Report:line(cells)
  local parts = {}
  for i, cell in ipairs(cells) do
    parts[i] = self.form == "markdown" and cell or ("%-" .. COLUMNS[i][2] .. "s"):format(cell)
  end
  local text = self.form == "markdown" and "| " .. table.concat(parts, " | ") .. " |" or table.concat(parts, "  ")
  print((text:gsub("%s+$", "")))
  io.stdout:flush()
end

--- "12 lost (57P01), 3 connect".
local function errors(result)
  local parts = {}
  for kind, n in pairs(result.errors or {}) do
    local states = {}
    for what in pairs(result.seen or {}) do
      local state = what:match("^" .. kind .. ":(%w+)$")
      if state then states[#states + 1] = state end
    end
    table.sort(states)
    parts[#parts + 1] = ("%d %s"):format(n, kind) .. (#states > 0 and " (" .. table.concat(states, ", ") .. ")" or "")
  end
  table.sort(parts)
  return table.concat(parts, ", ")
end

local function left(result)
  local sum = 0
  for _, n in pairs(result.left or {}) do sum = sum + math.max(0, n) end
  return sum
end

local function seconds(n) return n and ("%.2f s"):format(n) or nil end

function Report:row(row, how, result)
  if result.skipped then
    self.skipped = self.skipped + 1
    return self:line { row.name, how, "", "", "", "", "", "", "", "", "", "", "", "skipped: " .. result.skipped }
  end
  local fine = #result.broken == 0
  if fine then self.passed = self.passed + 1 else self.failed = self.failed + 1 end
  if not fine then self.stories[#self.stories + 1] = ("%s (%s):\n  %s"):format(row.name, how, table.concat(result.broken, "\n  ")) end
  local function whole(n) return tostring(n or "?") end
  self:line { row.name, how, whole(result.calls), whole(result.right), errors(result), whole(result.wrong), whole(result.missing),
    result.most and ("%d of %d"):format(result.most, result.limit) or "", tostring(left(result)),
    seconds(result.calm) or "", seconds(result.whole) or "never", tostring(result.bound or 1),
    ("%.1f s"):format(result.seconds), fine and "ok" or "FAILED" }
end

--- Tells what broke; was all well?
function Report:finish()
  if #self.stories > 0 then print("\n" .. table.concat(self.stories, "\n")) end
  print(("\n%d passed, %d failed"):format(self.passed, self.failed))
  return self.failed == 0
end

return Report
