--- HTTP for specs: requests through curl, bytes through bash. Independent of pool.
local process = require "support.process"

local http = {}
local quote = process.quote
local SECONDS = 30 -- a request's own time-out: nothing here waits without an end

local function parse(text)
  local head, body = text:match "^(.-\r\n)\r\n(.*)$"
  if not head then return nil end
  local answer = { status = math.tointeger(tonumber(head:match "^HTTP/1%.1 (%d%d%d)")), headers = {}, body = body }
  for name, value in head:gmatch "\r?\n([^:\r\n]+): ?([^\r\n]*)" do answer.headers[name:lower()] = value end
  return answer
end

local function command_of(url, options)
  local words = { "curl", "--silent", "--show-error", "--include", "--max-time", SECONDS, "--noproxy", "'*'" }
  local function add(...) table.move({ ... }, 1, select("#", ...), #words + 1, words) end
  if options.method == "HEAD" then
    add("--head")
  elseif options.method then
    add("--request", quote(options.method))
  end
  for name, value in pairs(options.headers or {}) do add("--header", quote(name .. ": " .. value)) end
  if options.body then add("--header", quote "Expect:", "--data-binary", "@-") end
  add(quote(url))
  local command = table.concat(words, " ")
  if options.body then return ("printf %%s %s | %s"):format(quote(options.body), command) end
  return command
end

--- One request. `options`: method, headers (a table), body (text).
---@return { status: integer, headers: table<string, string>, body: string }
function http.ask(url, options)
  local output, code = process.run(command_of(url, options or {}) .. " 2>&1")
  local answer = code == 0 and parse(output)
  if not answer then error(("curl %s: %d: %s"):format(url, code, output), 2) end
  return answer
end

--- The exit code of curl for a request that is to fail: 7 is a refused connection, 52 an empty answer.
function http.failure(url)
  local _, code = process.run(command_of(url, {}) .. " 2>&1")
  return code
end

--- The process of a request in the background: its output is the body.
function http.start(url)
  return process.start { "curl", "--silent", "--show-error", "--fail", "--max-time", tostring(SECONDS), "--noproxy", "*", url }
end

--- What comes back for these bytes on one connection, until the server closes it (or the time is out).
---@param port integer
---@param bytes string without NUL
---@return string
function http.raw(port, bytes)
  local script = ('exec 3<>/dev/tcp/127.0.0.1/%d; printf %%s "$0" >&3; exec cat <&3'):format(port)
  return (process.run(("timeout %d bash -c %s %s"):format(SECONDS, quote(script), quote(bytes))))
end

--- Requests all at once: GET of `url` for each number 1..n in place of `%d`. Their bodies by number, "status body"; and what curl has
--- to complain of.
---@param url string
---@param n integer
---@return string[] answers, string complaints
function http.together(url, n)
  local dir = process.run "mktemp -d":gsub("\n$", "")
  local EACH = 250 -- curl itself has at most 300 under way
  local command = "curl --silent --show-error --parallel --parallel-immediate --parallel-max 300 --max-time %d --noproxy '*' "
    .. "--output %s/'#1' --write-out '%%{filename_effective} %%{http_code}\\n' %s >%s/status.%d 2>>%s/errors &"
  local commands, at = {}, quote(dir)
  for first = 1, n, EACH do
    local range = ("[%d-%d]"):format(first, math.min(first + EACH - 1, n))
    commands[#commands + 1] = command:format(4 * SECONDS, at, quote((url:gsub("%%d", range))), at, first, at)
  end
  process.run(table.concat(commands, "\n") .. "\nwait")
  local answers = {}
  for number, status in process.run("cat " .. quote(dir) .. "/status.*"):gmatch "/(%d+) (%d+)\n" do
    local file = io.open(dir .. "/" .. number)
    answers[tonumber(number)] = status .. " " .. (file and file:read "a" or "")
    if file then file:close() end
  end
  local complaints = process.run("grep -a -o 'curl: .*' " .. quote(dir) .. "/errors") -- the rest is its progress, silent or not
  process.run("rm -rf " .. quote(dir))
  return answers, complaints
end

return http
