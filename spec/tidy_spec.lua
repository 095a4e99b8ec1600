-- The laws of the house, so that reviews need not keep them. Each law collects every offence and shows them all.
local process = require "support.process"

local ROOMS = { -- what a room may include besides itself
  core = {},
  db = { "core" },
  http = { "core" },
  io = { "core", "db", "http" },
  lua = { "core", "db", "http", "io", "sim" },
  cli = { "core", "db", "http", "io", "sim", "lua" },
  sim = { "core" },
}
local OUTSIDE = { -- headers from outside that belong to some rooms or files alone
  ["ev.h"] = { "src/io/loop_ev.c" },
  ["lua.h"] = { "src/lua/", "src/cli/" },
  ["lauxlib.h"] = { "src/lua/", "src/cli/" },
  ["lualib.h"] = { "src/lua/", "src/cli/" },
  ["jansson.h"] = { "src/lua/" },
  ["libpq-fe.h"] = { "src/db/" },
  ["sqlite3.h"] = { "src/db/" },
  ["llhttp.h"] = { "src/http/" },
}
local CORE_HEADERS = " ctype errno float inttypes limits math stdarg stdbool stddef stdint stdio stdlib string strings "
local CLOCKS = { "clock_gettime", "gettimeofday", "time", "clock", "ftime", "timespec_get", "times", "ev_time", "ev_now" }
local SLEEPS = { "nanosleep", "clock_nanosleep", "usleep", "sleep" }
local CORE_IMPORTS = { -- no system call, no clock; allocation is looked at apart; printing is for a failed assertion
  "mem%a+", "str%a+", "v?snprintf", "fprintf", "fputs", "fflush", "stderr", "abort", "malloc", "calloc", "free", "qsort",
  "log%d*p?", "exp%d?", "expm1", "pow", "sqrt", "floor", "ceil", "fmod", "ldexp", "frexp", "l?l?round", "l?l?rint", "nan", "fabs",
  "__%a+_chk", "__stack_chk_fail", "__assert_fail", "__ctype_b_loc", "_GLOBAL_OFFSET_TABLE_", "__asan_.*", "__ubsan_.*",
  "__sanitizer_.*",
}
local TOP = { -- what may lie at the top, beside what git ignores
  [".busted"] = 1, [".ci"] = 1, [".clang-format"] = 1, [".clang-tidy"] = 1, [".gitignore"] = 1, [".github"] = 1, [".luacheckrc"] = 1,
  ["CHANGELOG.md"] = 1, ["CMakeLists.txt"] = 1, ["CMakePresets.json"] = 1, ["CONTRIBUTING.md"] = 1, LICENSE = 1, ["README.md"] = 1,
  ["SECURITY.md"] = 1, examples = 1, lua = 1, ["pool-scm-1.rockspec"] = 1, spec = 1, src = 1,
}
local FUNCTION_LINES, FILE_LINES, COLUMNS = 70, 700, 140

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

local function lines_of(text)
  local lines = {}
  for line in (text:match("\n$") and text or text .. "\n"):gmatch("([^\n]*)\n") do lines[#lines + 1] = line end
  return lines
end

local function list(command)
  return lines_of((process.run(command)))
end

local function files(pattern, ...)
  local found = {}
  local roots = table.concat({ ... }, " ")
  for _, path in ipairs(list("find " .. roots .. " -type f 2>/dev/null | LC_ALL=C sort")) do
    if path:find(pattern) then found[#found + 1] = path end
  end
  return found
end

-- C without its comments and the insides of its strings; lines stay where they are.
local function code_of(text)
  local out, at, state = {}, 1, "code"
  local function blank(s) return (s:gsub("[^\n]", " ")) end
  while at <= #text do
    local stop
    if state == "code" then
      stop = text:find("[\"'/]", at) or #text + 1
      out[#out + 1] = text:sub(at, stop - 1)
      local two, one = text:sub(stop, stop + 1), text:sub(stop, stop)
      if two == "/*" then
        local _, last = text:find("*/", stop + 2, true)
        last = last or #text
        out[#out + 1] = blank(text:sub(stop, last))
        at = last + 1
      elseif two == "//" then
        local last = (text:find("\n", stop, true) or #text + 1) - 1
        out[#out + 1] = blank(text:sub(stop, last))
        at = last + 1
      elseif one == '"' or one == "'" then
        out[#out + 1], at, state = one, stop + 1, one
      else
        out[#out + 1], at = one, stop + 1
      end
    else
      local char = text:sub(at, at)
      if char == "\\" then
        out[#out + 1], at = blank(text:sub(at, at + 1)), at + 2
      else
        if char == state or char == "\n" then state = "code" end
        out[#out + 1], at = (state == "code") and char or " ", at + 1
      end
    end
  end
  return table.concat(out)
end

-- The functions of a C file: { name, first line, last line, body }. A body is a top-level brace after a parenthesis.
local function functions_of(code)
  local found, depth, line, start, head = {}, 0, 1, 1, ""
  local body_at
  for at = 1, #code do
    local char = code:sub(at, at)
    if char == "\n" then line = line + 1 end
    if char == "{" then
      if depth == 0 then
        local name = head:match("([%w_]+)%s*%b()%s*$")
        body_at = name and not head:find("=") and { name = name, first = start, at = at }
      end
      depth = depth + 1
    elseif char == "}" then
      depth = depth - 1
      if depth == 0 then
        if body_at then
          body_at.last, body_at.body = line, code:sub(body_at.at, at)
          found[#found + 1] = body_at
          body_at = nil
        end
        head = ""
      end
    elseif depth == 0 then
      if char == ";" or (char == "\n" and head:match("^%s*#")) then
        head = ""
      else
        if head:match("^%s*$") then start = line end
        head = head .. char
      end
    end
  end
  return found
end

-- Likewise for Lua, for what starts in the first column.
local function lua_functions_of(text)
  local found, open = {}, nil
  for number, line in ipairs(lines_of(text)) do
    local name = line:match("^local function ([%w_]+)") or line:match("^function ([%w_.:]+)")
    if name and not line:match("%send$") then open = { name = name, first = number } end
    if open and line:match("^end") then
      open.last = number
      found[#found + 1] = open
      open = nil
    end
  end
  return found
end

local function none(offences, law)
  assert(#offences == 0, law .. ":\n  " .. table.concat(offences, "\n  "))
end

local function offend(offences, format, ...) offences[#offences + 1] = format:format(...) end

local function starts_with_any(path, prefixes)
  for _, prefix in ipairs(prefixes) do
    if path:sub(1, #prefix) == prefix then return true end
  end
  return false
end

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

local C = files("%.[ch]$", "src")
local OURS = files("", "src", "lua", "spec", "examples", ".ci")
for _, name in ipairs { "CMakeLists.txt", "CMakePresets.json", "pool-scm-1.rockspec", ".busted", ".luacheckrc", ".clang-format" } do
  OURS[#OURS + 1] = name
end
local DOCUMENTS = files("%.md$", "*.md", "src", "examples")

local function is_text(path) return path:match("%.[chd]$") or path:match("%.lua$") or path:match("%.txt$") or path:match("/run$")
  or path:match("/install$") or path:match("/cluster$") end

describe("the tidy spec's own eyes", function()
  it("see code without comments and strings", function()
    assert.equal('a      "  "   \n  b', code_of('a /*x*/"\\""//{\n  b'))
    assert.equal("' ' \"  \"", code_of("'{' \"a{\""))
  end)

  it("measure functions of either brace style, and pass over tables and structs", function()
    local found = functions_of("struct x {\n int a;\n};\nstatic const int t[] = {\n1};\nint f(int a) {\n return a;\n}\n\n"
      .. "void\ng(void)\n{\n if (1) {\n }\n}\n")
    assert.equal(2, #found)
    assert.same({ "f", 6, 8 }, { found[1].name, found[1].first, found[1].last })
    assert.same({ "g", 10, 15 }, { found[2].name, found[2].first, found[2].last })
  end)

  it("measure Lua's functions", function()
    local found = lua_functions_of("local function a()\n  if x then\n  end\nend\nfunction m:b() return 1 end\nfunction m.c()\nend\n")
    assert.same({ { name = "a", first = 1, last = 4 }, { name = "m.c", first = 6, last = 7 } }, found)
  end)

  it("find the house at all", function()
    assert.is_true(#C > 10 and #OURS > 20)
  end)
end)

describe("the laws of the house:", function()
  it("a room includes itself and the rooms below it", function()
    local offences = {}
    for _, path in ipairs(C) do
      local room = path:match("^src/([^/]+)/")
      local allowed = { [room] = true }
      for _, below in ipairs(assert(ROOMS[room], "unknown room " .. room)) do allowed[below] = true end
      for name in read(path):gmatch('\n%s*#%s*include%s*"([^"\n]+)"') do
        local other = name:match("^([^/]+)/")
        if other and (not allowed[other] or other == room) then offend(offences, "%s includes %s", path, name) end
        if not exists(other and "src/" .. name or ("src/%s/%s"):format(room, name)) then
          offend(offences, "%s includes %s, which is not there", path, name)
        end
      end
    end
    none(offences, "includes that the rooms forbid")
  end)

  it("ev.h is for loop_ev.c, lua.h for src/lua and src/cli, each library for its room", function()
    local offences = {}
    for _, path in ipairs(C) do
      for name in read(path):gmatch('\n%s*#%s*include%s*[<"]([^>"\n]+)[>"]') do
        if OUTSIDE[name] and not starts_with_any(path, OUTSIDE[name]) then offend(offences, "%s includes %s", path, name) end
        if path:match("^src/core/") and not name:match("/") and not exists("src/core/" .. name)
          and not CORE_HEADERS:find(" " .. name:gsub("%.h$", "") .. " ", 1, true) then
          offend(offences, "%s includes %s: the core asks nothing of the system", path, name)
        end
      end
    end
    none(offences, "headers in rooms that must not know them")
  end)

  it("only loop_ev.c reads a clock, and nobody sleeps but SQLite's worker threads", function()
    local offences = {}
    local function look(path, names, allowed)
      local code = code_of(read(path))
      for _, name in ipairs(names) do
        local calls = code:find("%f[%w_]" .. name .. "%s*%(") and not code:find("[%.>]" .. name .. "%s*%(")
        if calls and not path:find(allowed) then offend(offences, "%s calls %s", path, name) end
      end
    end
    for _, path in ipairs(C) do
      look(path, CLOCKS, "^src/io/loop_ev%.c$")
      look(path, SLEEPS, "^src/db/sqlite[%w_]*%.c$")
    end
    none(offences, "clocks outside src/io/loop_ev.c, sleeps on the loop")
  end)

  it("lua_resume appears once, in src/lua/ltask.c", function()
    local places = {}
    for _, path in ipairs(C) do
      for _ in code_of(read(path)):gmatch("%f[%w_]lua_resume%s*%(") do places[#places + 1] = path end
    end
    assert.same({ "src/lua/ltask.c" }, places)
  end)

  it("the core allocates in its create functions and frees in its destroy functions, nowhere else", function()
    local offences, seen = {}, 0
    for _, path in ipairs(files("%.c$", "src/core")) do
      for _, f in ipairs(functions_of(code_of(read(path)))) do
        for word in f.body:gmatch("%f[%w_](%a+)%s*%(") do
          if word == "malloc" or word == "calloc" or word == "realloc" or word == "free" or word == "strdup" then
            seen = seen + 1
            if not f.name:match("_create$") and not f.name:match("_destroy$") then
              offend(offences, "%s:%d: %s calls %s", path, f.first, f.name, word)
            end
          end
        end
      end
    end
    none(offences, "allocation between create and destroy")
    assert.is_true(seen > 0)
  end)

  it("a function has at most 70 lines", function()
    local offences = {}
    for _, path in ipairs(files("%.[ch]$", "src", "spec", "examples")) do
      for _, f in ipairs(functions_of(code_of(read(path)))) do
        local length = f.last - f.first + 1
        if length > FUNCTION_LINES then offend(offences, "%s:%d: %s has %d lines", path, f.first, f.name, length) end
      end
    end
    for _, path in ipairs(files("%.lua$", "lua", "spec", "examples")) do
      for _, f in ipairs(lua_functions_of(read(path))) do
        local length = f.last - f.first + 1
        if length > FUNCTION_LINES then offend(offences, "%s:%d: %s has %d lines", path, f.first, f.name, length) end
      end
    end
    none(offences, "long functions")
  end)

  it("a file has at most 700 lines, a line 140 columns", function()
    local offences = {}
    for _, path in ipairs(OURS) do
      if is_text(path) then
        local lines = lines_of(read(path))
        if #lines > FILE_LINES then offend(offences, "%s has %d lines", path, #lines) end
        for number, line in ipairs(lines) do
          if (utf8.len(line) or #line) > COLUMNS then offend(offences, "%s:%d: %d columns", path, number, utf8.len(line) or #line) end
        end
      end
    end
    none(offences, "long files and lines")
  end)

  it("nothing is left behind: notes to oneself, blanks at the end of a line, tabs, a missing newline", function()
    local offences, notes = {}, { "TO" .. "DO", "FIX" .. "ME" }
    for _, path in ipairs(OURS) do
      local text = read(path)
      if is_text(path) then
        for number, line in ipairs(lines_of(text)) do
          if line:find("%s$") then offend(offences, "%s:%d: ends in a blank", path, number) end
          if line:find("\t") then offend(offences, "%s:%d: a tab", path, number) end
          for _, note in ipairs(notes) do
            if line:find("%f[%w_]" .. note .. "%f[^%w_]") then offend(offences, "%s:%d: %s", path, number, note) end
          end
        end
        if #text > 0 and text:sub(-1) ~= "\n" then offend(offences, "%s: no newline at its end", path) end
      end
    end
    none(offences, "left behind")
  end)

  it("a C file opens with its design", function()
    local offences = {}
    for _, path in ipairs(files("%.[ch]$", "src", "spec")) do
      local wanted = path:match("^src/") and "^/%*\n%*%* " or "^/%*"
      if not read(path):match(wanted) then offend(offences, "%s", path) end
    end
    none(offences, "files that do not say what they are")
  end)

  it("no file names a place on its author's machine", function()
    local offences = {}
    local places = { "/wo" .. "rk/", "/ho" .. "me/", "/ro" .. "ot/", "/tmp/" .. "build" }
    local function look(path)
      for number, line in ipairs(lines_of(read(path))) do
        for _, place in ipairs(places) do
          if line:find("%f[%w/]" .. place) then offend(offences, "%s:%d: %s", path, number, place) end
        end
      end
    end
    for _, path in ipairs(OURS) do look(path) end
    for _, path in ipairs(DOCUMENTS) do look(path) end
    none(offences, "machine paths")
  end)

  it("every setting appears in a spec", function()
    local specs, offences, count = {}, {}, 0
    for _, path in ipairs(files("%.[luach]+$", "spec")) do
      if path ~= "spec/tidy_spec.lua" then specs[#specs + 1] = read(path) end
    end
    local all = table.concat(specs, "\n")
    for _, path in ipairs(files("%.c$", "src")) do
      for name in read(path):gmatch('{%s*"([%w_]+)",%s*"?[%w_]+"?,%s*SETTING_') do
        count = count + 1
        if not all:find("%f[%w_]" .. name .. "%f[^%w_]") then offend(offences, "%s (%s)", name, path) end
      end
    end
    none(offences, "settings that no spec mentions")
    assert.is_true(count >= 25, count .. " settings found")
  end)

  it("the top holds what belongs there and nothing else", function()
    local offences = {}
    local names, code = process.run("git ls-files 2>/dev/null | sed 's,/.*,,' | sort -u")
    if code ~= 0 or names == "" then names = process.run("ls -A | grep -vE '^(build.*|\\.git|pool\\.db.*)$'") end
    for _, name in ipairs(lines_of(names)) do
      if not TOP[name] then offend(offences, "%s", name) end
    end
    none(offences, "strangers at the top")
  end)
end)

describe("what the compiler made of it:", function()
  local build = os.getenv("POOL_SPEC_BUILD")
  local sanitized = os.getenv("POOL_SPEC_PRELOAD") ~= nil
  if not build or build:match "/coverage$" then
    pending("needs a build that counts nothing: run it through spec/run")
    return
  end

  local function objects(room)
    local found = files("%.o$", ("%s/CMakeFiles/room_%s.dir/src"):format(process.quote(build), room))
    assert(#found > 0, "no objects of the room " .. room)
    return found
  end

  it("the core imports nothing that knows the time or the system", function()
    local own, offences = {}, {}
    for _, object in ipairs(objects "core") do
      for _, symbol in ipairs(list("nm --defined-only -f posix " .. process.quote(object))) do own[symbol:match("^%S+") or ""] = true end
    end
    for _, object in ipairs(objects "core") do
      for _, symbol in ipairs(list("nm -u -f posix " .. process.quote(object))) do
        local name = symbol:match("^[^%s@]+")
        local fine = not name or own[name]
        for _, pattern in ipairs(CORE_IMPORTS) do fine = fine or name:match("^" .. pattern .. "$") end
        if not fine then offend(offences, "%s needs %s", object:match("[^/]+$"), name) end
      end
    end
    none(offences, "imports of the core")
  end)

  it("no variable at file scope, nor static in a function, changes", function()
    local offences = {}
    for room in pairs(ROOMS) do
      for _, object in ipairs(room == "sim" and {} or objects(room)) do
        for _, line in ipairs(list("objdump -t " .. process.quote(object))) do
          local kind, section, name = line:match("^%x+ ......(.) (%S+)%s+%x+%s+(.*)$")
          local changes = section and (section:match("^%.data") and not section:match("^%.data%.rel%.ro") or section:match("^%.t?bss")
            or section:match("^%.tdata") or section == "*COM*")
          -- the sanitizers keep tables of their own
          local ours = name and not name:match("asan") and not name:match("ubsan") and not (sanitized and name:match("^%.L"))
          if kind == "O" and changes and ours then offend(offences, "%s: %s in %s", object:match("src/.*"), name, section) end
        end
      end
    end
    none(offences, "variables that live outside the loop, the pool or the Lua registry")
  end)

  it("the module shows luaopen_* and pool_use_loop, and brings no Lua of its own", function()
    local module, offences, seen = process.quote(build .. "/lib/pool/core.so"), {}, {}
    for _, line in ipairs(list("nm -D --defined-only -f posix " .. module)) do
      local name = line:match("^[^%s@]+")
      seen[name or ""] = true
      if name and not name:match("^luaopen_") and name ~= "pool_use_loop" and not (sanitized and name:match("asan")) then
        offend(offences, "%s", name)
      end
    end
    none(offences, "names that the module should hide")
    assert.is_true(seen.pool_use_loop and seen.luaopen_pool_core)
    assert.is_nil(process.run("readelf -d " .. module):match("NEEDED[^\n]*liblua"))
  end)
end)
