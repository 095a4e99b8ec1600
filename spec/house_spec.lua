-- What surrounds the code: the list of packages, what is installed and where, the rock.
local process = require "support.process"
local quote = process.quote

local function lines(text)
  local found = {}
  for line in text:gmatch("[^\n]+") do found[#found + 1] = line end
  return found
end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

describe(".ci/install", function()
  local dir
  before_each(function()
    dir = process.run("mktemp -d"):gsub("\n", "")
    for _, name in ipairs { "apt-get", "sudo" } do
      write(dir .. "/" .. name, ("#!/bin/sh\necho %s \"$@\" >>%s/calls\n%s"):format(name, dir, name == "sudo" and 'shift; "$@"\n' or ""))
    end
  end)
  after_each(function() process.run("rm -rf " .. quote(dir)) end)

  local function install(missing, arguments)
    local query = '#!/bin/sh\nfor last; do :; done\ncase " %s " in *" $last "*) exit 1;; esac\nprintf installed\n'
    write(dir .. "/dpkg-query", query:format(missing))
    process.run("chmod +x " .. quote(dir) .. "/*")
    local output, code = process.run(("PATH=%s:$PATH .ci/install %s 2>&1"):format(quote(dir), arguments or ""))
    local calls = process.run("cat " .. quote(dir) .. "/calls 2>/dev/null")
    return output, code, calls
  end

  it("does nothing and says nothing when all are there", function()
    local output, code, calls = install ""
    assert.same({ "", 0, "" }, { output, code, calls })
  end)

  it("installs what is missing and no more, after an update", function()
    local _, code, calls = install "libev-dev curl"
    assert.equal(0, code)
    local update, rest = calls:match("^.-(apt%-get [^\n]*update)\n(.*)$")
    assert.truthy(update)
    assert.matches("apt%-get .-install %-y %-%-no%-install%-recommends .-libev%-dev curl\n", rest)
    assert.is_nil(rest:match("cmake"))
  end)

  it("run is content without what only the specs need", function()
    local output, code, calls = install("postgresql lua-busted lua-check luarocks", "run")
    assert.same({ "", 0, "" }, { output, code, calls })
  end)

  it("refuses a set it does not know", function()
    local output, code = install("", "everything")
    assert.matches('unknown set "everything"', output)
    assert.not_equal(0, code)
  end)
end)

describe("cmake --install", function()
  local build = os.getenv("POOL_SPEC_BUILD")
  local sanitized = os.getenv("POOL_SPEC_PRELOAD") ~= nil
  if not build then
    pending("needs a build: run it through spec/run")
    return
  end
  local prefix
  setup(function()
    prefix = process.run("mktemp -d"):gsub("\n", "") .. "/some where"
    local output, code = process.run(("cmake --install %s --prefix %s 2>&1"):format(quote(build), quote(prefix)))
    assert(code == 0, output)
  end)
  teardown(function() process.run("rm -rf " .. quote(prefix:match("^(.*)/"))) end)

  it("gives the command, the module, the Lua files and the header, and nothing else", function()
    local expected = { "./bin/pool", "./include/pool.h", "./lib/lua/5.4/pool/core.so", "./share/lua/5.4/pool.lua" }
    for _, path in ipairs(lines((process.run("cd lua && find pool -name '*.lua'")))) do
      expected[#expected + 1] = "./share/lua/5.4/" .. path
    end
    table.sort(expected)
    local found = lines((process.run(("cd %s && find . -type f"):format(quote(prefix)))))
    table.sort(found)
    assert.same(expected, found)
  end)

  it("gives a command that finds its Lua files beside itself, wherever they were put", function()
    local p <close> = process.start({ prefix .. "/bin/pool", "version" }, { cwd = "/", env = { LUA_PATH = false, LUA_CPATH = false } })
    assert.matches("%d+%.%d+%.%d+", p:line())
    assert.equal(0, p:wait())
    local script = prefix .. "/script.lua"
    write(script, 'local pool = require "pool"\nprint(pool.version, (package.searchpath("pool", package.path)))\n')
    local q <close> = process.start({ prefix .. "/bin/pool", "run", script }, { cwd = "/", env = { LUA_PATH = false, LUA_CPATH = false } })
    assert.matches("share/lua/5%.4/pool%.lua", q:line(), q:stderr())
    assert.equal(0, q:wait())
  end)

  it("gives a module that a plain Lua loads", function()
    local p <close> = process.start({ "lua5.4", "-e", 'print(require "pool".version)' }, {
      cwd = "/",
      env = {
        LUA_PATH = ("%s/share/lua/5.4/?.lua;%s/share/lua/5.4/?/init.lua"):format(prefix, prefix),
        LUA_CPATH = prefix .. "/lib/lua/5.4/?.so",
      },
    })
    assert.matches("%d+%.%d+%.%d+", p:line(), p:stderr())
    assert.equal(0, p:wait())
  end)

  it("gives a header that a C program includes with nothing but Lua's own", function()
    local command = "printf '#include <pool.h>\\nint main(void) { return pool_use_loop == 0; }\\n' | gcc -std=c11 -Wall -Wextra -pedantic "
      .. "-Werror -Wno-address -fsyntax-only $(pkg-config --cflags lua5.4) -I%s -xc - 2>&1"
    local output, code = process.run(command:format(quote(prefix .. "/include")))
    assert.equal("", output)
    assert.equal(0, code)
  end)

  it("and `luarocks make` give the same to a rocks tree", function()
    if sanitized then return end -- the rock is a build of its own, without them
    local tree = quote(prefix .. "-rocks")
    local output, code = process.run(("luarocks make --lua-version 5.4 --tree %s 2>&1"):format(tree))
    assert(code == 0, output)
    local found = process.run(("cd %s && find bin share lib/lua -type f"):format(tree))
    for _, path in ipairs { "bin/pool", "share/lua/5.4/pool.lua", "lib/lua/5.4/pool/core.so" } do
      assert.truthy(found:find(path, 1, true), path .. " is missing of\n" .. found)
    end
  end)
end)

describe("the commands of the harness", function()
  it("tell each its own help, wherever --help stands, and refuse a flag they do not know", function()
    for command, first in pairs {
      ["spec/fuzz/run --help"] = "Fuzzes", ["spec/fuzz/run url --help"] = "Fuzzes", ["spec/faults/run --help"] = "The fault matrix",
      ["spec/faults/run soak --help"] = "The soak", ["spec/faults/run soak 30 --help"] = "The soak", ["spec/bench/run --help"] = "",
      ["spec/mutants/run --help"] = "",
    } do
      local said, code = process.run(command)
      assert.equal(0, code, command)
      assert.equal(first, said:sub(1, #first), command)
      assert.is_true(#lines(said) >= 4, said)
    end
    assert.same({ "unknown flag --nonsense", 2 }, { (function(said, code) return lines(said)[1], code end)(
      process.run "spec/fuzz/run --nonsense") })
  end)

  local build = os.getenv "POOL_SPEC_BUILD"
  if not build then return pending "the simulators need a build: run it through spec/run" end

  it("which simulate take the same steps and seeds, and nothing else", function()
    for _, name in ipairs { "core_sim", "engine_sim", "task_sim" } do
      local function run(words) return process.run(("%s/spec/%s %s 2>&1"):format(build, name, words)) end
      local one, code = run "--steps 1000 --from 3"
      assert.equal(0, code, one)
      local steps = tonumber(one:match "^(%d+) steps in ")
      assert.is_true(steps >= 1000 and steps < 3000, one)
      for _, words in ipairs { "--steps", "--steps 10x", "--steps -1", "--stepz 10", "--schedules 3", "x", "3 4 5" } do
        local said, status = run(words)
        assert.equal(2, status, name .. " " .. words)
        assert.matches("\nusage: " .. name .. " ", said)
      end
    end
  end)
end)
