--- The table of all settings, for people: aligned text for `pool settings`, Markdown for the README.

local settings_text = {}

local function number(value)
  if value >= 1e6 then return (("%e"):format(value):gsub("%.?0*e%+?0*", "e")) end
  return ("%.14g"):format(value)
end

local function default(setting)
  local value = setting.default
  return type(value) == "number" and number(value) or tostring(value)
end

--- What the setting takes: "0..1e9 s", "true, false", "fifo (later: lifo, codel)".
local function range(setting)
  if setting.choices then
    local later = setting.not_yet and (" (later: %s)"):format(table.concat(setting.not_yet, ", ")) or ""
    return table.concat(setting.choices, ", ") .. later
  end
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

--- Aligned text, two lines a setting: its cells, then what it is and what 0 means.
---@param settings table[] as pool.settings() gives them
---@return string text ends with a newline
function settings_text.text(settings)
  local widths, rows = {}, { HEAD }
  for _, setting in ipairs(settings) do rows[#rows + 1] = cells(setting) end
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do widths[i] = math.max(widths[i] or 0, #cell) end
  end
  local lines = { aligned(HEAD, widths) }
  for i, setting in ipairs(settings) do
    lines[#lines + 1] = aligned(rows[i + 1], widths)
    lines[#lines + 1] = ("    %s%s"):format(setting.help, setting.zero and ("; 0: " .. setting.zero) or "")
  end
  return table.concat(lines, "\n") .. "\n"
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
