--- Secrets that specs plant, and the search for them: in every spelling in which one could show, in a text or in all that is reachable
--- from a value. What a spec plants is written down in the file POOL_SPEC_PLANTED; at the end of a run spec/run has all that was
--- printed searched for it:
---
---   lua5.4 spec/support/planted.lua PLANTED PRINTED     says where it found what; exit code 1 when it did
local planted = {}

local function each_byte(text, format) return (text:gsub(".", function(c) return format:format(c:byte()) end)) end

local function base64(text)
  local digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  return (text:gsub("(.)(.)(.)", function(a, b, c)
    local n = a:byte() << 16 | b:byte() << 8 | c:byte()
    local out = {}
    for i = 1, 4 do
      local at = (n >> (24 - 6 * i)) & 63
      out[i] = digits:sub(at + 1, at + 1)
    end
    return table.concat(out)
  end))
end

local LEAST = 8 -- shorter ones turn up by chance
local known = {} -- the forms of each secret

--- The spellings of a secret in lower case: as it is, percent-encoded, in hex, base64 (whatever stands before it), with \u and \x.
---@param secret string
---@return table<string, string> texts by name
function planted.forms(secret)
  if known[secret] then return known[secret] end
  local forms = {
    plain = secret, quoted = ("%q"):format(secret):sub(2, -2), hex = each_byte(secret, "%02x"), percent = each_byte(secret, "%%%02x"),
    encoded = (secret:gsub("[^%w%-._~]", function(c) return ("%%%02x"):format(c:byte()) end)),
    json = each_byte(secret, "\\u%04x"), escaped = each_byte(secret, "\\x%02x"),
  }
  for before = 0, 2 do -- the three ways in which base64's groups of three may fall; what shares a group with a neighbour is left out
    local whole = secret:sub(1 + (3 - before) % 3)
    forms["base64 " .. before] = base64(whole:sub(1, #whole - #whole % 3))
  end
  for name, text in pairs(forms) do forms[name] = (#text >= LEAST or name == "plain") and text:lower() or nil end
  for name, text in pairs(forms) do
    if text == forms.plain and name ~= "plain" then forms[name] = nil end
  end
  known[secret] = forms
  return forms
end

--- Where one of the secrets is in the text: which, in what spelling, and the line around it. nil: nowhere.
---@param text string
---@param secrets string[]
function planted.find(text, secrets)
  local lower = text:lower()
  for _, secret in ipairs(secrets) do
    for name, form in pairs(planted.forms(secret)) do
      local at = lower:find(form, 1, true)
      if at then
        local first = text:sub(math.max(1, at - 300), at - 1):match "[^\n]*$"
        return secret, name, first .. text:sub(at, at + 300):match "^[^\n]*"
      end
    end
  end
end

--- Calls visit(text, path) for every string reachable from the value: keys, elements, metatables, upvalues, user values.
function planted.walk(value, visit, path, seen)
  path, seen = path or "it", seen or {}
  if type(value) == "string" then return visit(value, path) end
  if seen[value] or (type(value) ~= "table" and type(value) ~= "function" and type(value) ~= "userdata") then return end
  seen[value] = true
  if type(value) == "table" then
    for key, element in next, value do
      planted.walk(key, visit, path .. " (a key)", seen)
      planted.walk(element, visit, path .. "." .. (type(key) == "string" and key or type(key)), seen)
    end
  elseif type(value) == "function" then
    for i = 1, 255 do
      local name, upvalue = debug.getupvalue(value, i)
      if not name then break end
      if upvalue ~= _G and name ~= "_ENV" then planted.walk(upvalue, visit, path .. "^" .. name, seen) end
    end
  else
    for i = 1, 8 do planted.walk(debug.getuservalue(value, i), visit, path .. "#" .. i, seen) end
  end
  planted.walk(debug.getmetatable(value), visit, path .. "'s metatable", seen)
end

--- Raises when a secret can be reached from the value, its tostring included.
function planted.assert_none(value, secrets, what)
  local function look(text, path)
    local secret, form, line = planted.find(text, secrets)
    if secret then error(("%s shows the planted %s (%s) in %s: %s"):format(what or "a value", secret, form, path, line), 0) end
  end
  planted.walk(value, look)
  local fine, text = pcall(tostring, value)
  if fine then look(text, "its text") end
end

--- Remembers a secret for the search at the end of the run, and returns it.
---@param secret string
---@return string secret
function planted.plant(secret)
  assert(#secret >= LEAST - 1 and not secret:find "\n", "a planted secret is one that no text has by chance")
  local path = os.getenv "POOL_SPEC_PLANTED"
  local file = path and io.open(path, "a")
  if file then
    file:write(secret, "\n")
    file:close()
  end
  return secret
end

--- Adds a text to what the run has printed: logs that a spec kept for itself, what programs in the background wrote.
function planted.printed(text)
  local path = os.getenv "POOL_SPEC_PRINTED"
  local file = path and text ~= "" and io.open(path, "a")
  if not file then return end
  file:write(text, text:sub(-1) ~= "\n" and "\n" or "")
  file:close()
end

--- Both files as above. The secrets that were planted, how many bytes were searched, and where one was found (nil: nowhere).
function planted.search(planted_path, printed_path)
  local secrets, seen, bytes, kept = {}, {}, 0, ""
  for secret in io.lines(planted_path) do
    if not seen[secret] then secrets[#secrets + 1] = secret end
    seen[secret] = true
  end
  local file <close> = assert(io.open(printed_path, "rb"))
  for block in function() return file:read(1 << 20) end do
    local secret, form, line = planted.find(kept .. block, secrets)
    if secret then return secrets, bytes, ("the planted %s (%s): %s"):format(secret, form, line) end
    bytes, kept = bytes + #block, block:sub(-4096) -- one may lie across two blocks
  end
  return secrets, bytes
end

if arg and arg[0] and arg[0]:match "support/planted%.lua$" then
  local secrets, bytes, found = planted.search(arg[1], arg[2])
  print(("%d planted secrets looked for in %d bytes that were printed: %s"):format(#secrets, bytes, found or "none is there"))
  os.exit(not found and #secrets > 0 and bytes > 0)
end

return planted
