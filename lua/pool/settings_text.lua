--- The table of all settings, for people: aligned text for `pool settings`, Markdown for the README, and the values of one place.

local settings_text = {}

local function number(value)
  if value >= 1e6 then return (("%e"):format(value):gsub("%.?0*e%+?0*", "e")) end
  return ("%.14g"):format(value)
end

local function shown(value)
  if math.type(value) == "integer" and value < 1000000000 then return tostring(value) end -- to the last digit
  return type(value) == "number" and number(value) or (tostring(value):gsub("%c", "?"))
end

local function default(setting) return shown(setting.default) end

--- What the setting takes: "0..1e9 s", "true, false", "fifo, lifo, codel".
local function range(setting)
  if setting.choices then return table.concat(setting.choices, ", ") end
  if setting.type == "flag" then return "true, false" end
  if setting.type == "text" then return "text" end
  local unit = setting.unit == "seconds" and " s" or ""
  return ("%s..%s%s"):format(number(setting.min), number(setting.max), unit)
end

local HEAD = { "name", "default", "range", "environment", "live" }

local function cells(setting)
  return { setting.name, default(setting), range(setting), setting.env, setting.live and "yes" or "no" }
end

local function aligned(row, widths)
  local out = {}
  for i, cell in ipairs(row) do out[i] = cell .. (" "):rep(widths[i] - #cell) end
  return (table.concat(out, "  "):gsub("%s+$", ""))
end

--- Rows of cells, each column as wide as its widest cell.
local function table_lines(rows)
  local widths, lines = {}, {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do widths[i] = math.max(widths[i] or 0, #cell) end
  end
  for i, row in ipairs(rows) do lines[i] = aligned(row, widths) end
  return lines
end

--- Aligned text, two lines a setting: its cells, then what it is and what 0 means.
---@param settings table[] as pool.settings() gives them
---@return string text ends with a newline
function settings_text.text(settings)
  local rows = { HEAD }
  for _, setting in ipairs(settings) do rows[#rows + 1] = cells(setting) end
  local firsts = table_lines(rows)
  local lines = { firsts[1] }
  for i, setting in ipairs(settings) do
    lines[#lines + 1] = firsts[i + 1]
    lines[#lines + 1] = ("    %s%s"):format(setting.help, setting.zero and ("; 0: " .. setting.zero) or "")
  end
  return table.concat(lines, "\n") .. "\n"
end

--- Each setting's value and where it comes from, a line each.
---@param settings table[] as pool.settings() gives them
---@param values table<string, any> all of them, secrets redacted, as core.check_settings gives them
---@param sources table<string, pool.config.Source> as config.read gives them
---@return string text ends with a newline
function settings_text.values(settings, values, sources)
  local rows = { { "name", "value", "source" } }
  for i, setting in ipairs(settings) do
    local name, source = setting.name, sources[setting.name]
    if source == "default" and values[name] ~= setting.default then source = "database_url" end -- its query has it
    rows[i + 1] = { name, shown(values[name]), source }
  end
  return table.concat(table_lines(rows), "\n") .. "\n"
end

local function escaped(text) return (text:gsub("|", "\\|")) end

--- The same as a Markdown table.
---@param settings table[] as pool.settings() gives them
---@return string markdown ends with a newline
function settings_text.markdown(settings)
  local lines = {
    "| name | default | range | 0 means | environment | live | what it is |",
    "|---|---|---|---|---|---|---|",
  }
  for _, setting in ipairs(settings) do
    lines[#lines + 1] = ("| `%s` | `%s` | %s | %s | `%s` | %s | %s |"):format(setting.name, default(setting), escaped(range(setting)),
      escaped(setting.zero or ""), setting.env, setting.live and "yes" or "no", escaped(setting.help))
  end
  return table.concat(lines, "\n") .. "\n"
end

return settings_text
