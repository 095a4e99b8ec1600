--- `.env` files, read as python-dotenv reads them: NAME=value, `export`, comments, quotes, escapes, ${NAME} and ${NAME:-default}.
--
-- Two things are stricter or kinder than there: a malformed line is an error (with its number, never its content: it may hold a
-- password), and `NAME= # note` is empty. Every step moves forward in the text, so that no file takes more than linear time.

local dotenv = {}

--- Bytes of a file, and of all values together once ${NAME} is filled in.
local SIZE_MAX = 1024 * 1024

local ESCAPED = { a = "\a", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", v = "\v" }

--- What ends up where a variable is written: environment before what the file has said so far, as in python-dotenv.
local function variable(inside, values, environment)
  local name, default = inside:match("^([^:]*):%-(.*)$")
  if not name and not inside:find(":", 1, true) then name = inside end
  if not name then return "${" .. inside .. "}" end
  return environment(name) or (values[name] and values[name].value) or default or ""
end

--- The text with its variables filled in; nil when it grows beyond `room` bytes.
local function expand(text, values, environment, room)
  local pieces, size, position = {}, 0, 1
  local function add(piece)
    pieces[#pieces + 1] = piece
    size = size + #piece
  end
  while size <= room do
    local from = text:find("${", position, true)
    local to = from and text:find("}", from, true)
    if not to then
      add(text:sub(position))
      break
    end
    add(text:sub(position, from - 1))
    add(variable(text:sub(from + 2, to - 1), values, environment))
    position = to + 1
  end
  return size <= room and table.concat(pieces) or nil
end

--- The position of the quote that ends what begins at `position`, nil when there is none.
local function quote_end(text, position, quote)
  while true do
    local at = text:find("[\\" .. quote .. "]", position)
    if not at or text:sub(at, at) == quote then return at end
    position = at + 2
  end
end

local function unescape(text, quote)
  if quote == "'" then return (text:gsub("\\([\\'])", "%1")) end
  return (text:gsub("\\([\\'\"abfnrtv])", function(c) return ESCAPED[c] or c end))
end

--- An unquoted value: up to a # that follows a blank, without blanks at its end.
local function unquoted(line, after_blank)
  local stop, at = #line, 0
  repeat
    at = line:find("#", at + 1, true)
    if at and (at == 1 and after_blank or at > 1 and line:find("^%s", at - 1)) then
      stop = at - 1
      break
    end
  until not at
  while stop > 0 and line:find("^%s", stop) do stop = stop - 1 end
  return line:sub(1, stop)
end

--- The value at `position`. Returns it and the position of the end of its line, or nil and what is wrong.
local function value_at(text, position, after_blank)
  local quote = text:match("^['\"]", position)
  if not quote then
    local stop = text:find("\n", position, true) or #text + 1
    return unquoted(text:sub(position, stop - 1), after_blank), stop
  end
  local last = quote_end(text, position + 1, quote)
  if not last then return nil, "a quote that does not end" end
  local stop = text:find("\n", last, true) or #text + 1
  local blanks = text:match("^[^%S\n]*()", last + 1)
  if blanks < stop and text:sub(blanks, blanks) ~= "#" then return nil, "something follows the closing quote" end
  return unescape(text:sub(position + 1, last - 1), quote), stop
end

--- The name at `position` and the position of its value, or nil.
local function name_at(text, position)
  local pattern = text:sub(position, position) == "'" and "^'([^'\n]+)'[^%S\n]*()" or "^([^=#%s]+)[^%S\n]*()"
  local name, equals = text:match(pattern, position)
  if not name or text:sub(equals, equals) ~= "=" then return nil end
  return name, equals + 1
end

local function newlines(text, from, to)
  local count, at = 0, from - 1
  while true do
    at = text:find("\n", at + 1, true)
    if not at or at > to then return count end
    count = count + 1
  end
end

--- Reads the text of a `.env` file.
---@param text string
---@param file string its name, for messages
---@param environment fun(name: string): string? what ${NAME} finds first
---@return table<string, {value: string, line: integer}>? values by name; the last of repeated names wins
---@return string? message what is wrong, with file and line
function dotenv.parse(text, file, environment)
  if #text > SIZE_MAX then return nil, ("%s: larger than %d bytes"):format(file, SIZE_MAX) end
  text = text:gsub("^\xEF\xBB\xBF", ""):gsub("\r\n?", "\n")
  local values, position, line, room = {}, 1, 1, SIZE_MAX
  local function wrong(what) return nil, ("%s:%d: %s"):format(file, line, what) end
  while true do
    local start = text:match("^%s*()", position)
    line = line + newlines(text, position, start - 1)
    if start > #text then return values end
    position = start
    local stop
    if text:sub(start, start) == "#" then
      stop = text:find("\n", start, true) or #text + 1
    else
      local name, at = name_at(text, text:match("^export[^%S\n]+()", start) or start)
      if not name then return wrong("not NAME=value") end
      local first = text:match("^[^%S\n]*()", at)
      local value, after = value_at(text, first, first > at)
      if not value then return wrong(after) end
      value = expand(value, values, environment, room)
      if not value then return wrong("the values are too long") end
      room = room - #value
      values[name] = { value = value, line = line }
      stop = after
    end
    line = line + newlines(text, position, stop - 1)
    position = stop
  end
end

return dotenv
