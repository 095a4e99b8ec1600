-- What was built is hardened: seen in the files themselves, since a flag that the linker dropped protects nobody.
local pool = require "pool"
local process = require "support.process"
local quote = process.quote

local build = os.getenv "POOL_SPEC_BUILD"
local sanitized = os.getenv "POOL_SPEC_PRELOAD" ~= nil
local release = build and build:match "[^/]*$" == "release"
if not build then
  describe("the build", function() pending "needs a build: run it through spec/run" end)
  return
end

local COMMAND, MODULE = build .. "/bin/pool", build .. "/lib/pool/core.so"

local function shown(options, path)
  local output, code = process.run(("LC_ALL=C readelf -W %s %s 2>&1"):format(options, quote(path)))
  assert(code == 0, output)
  return output
end

for _, path in ipairs { COMMAND, MODULE } do
  describe("hardened: " .. path:match "[^/]*$", function()
    it("is loaded at an address that nobody can foresee", function()
      assert.matches("Type:%s+DYN", shown("-h", path))
      if path == COMMAND then assert.matches("FLAGS_1.-PIE", shown("-d", path)) end
    end)

    it("has no memory that is writable and executable, its stack among it", function()
      local segments = shown("-l", path)
      assert.matches("GNU_STACK%s+%S+%s+%S+%s+%S+%s+%S+%s+%S+%s+RW%s", segments)
      assert.is_nil(segments:match "\n%s+%u[%u_]+%s+0x%x+%s+0x%x+%s+0x%x+%s+0x%x+%s+0x%x+%s+RWE")
    end)

    it("has every name bound before it begins, and those tables read-only from then on", function()
      assert.matches("GNU_RELRO", shown("-l", path))
      local dynamic = shown("-d", path)
      assert.matches("BIND_NOW", dynamic)
      assert.is_nil(dynamic:match "TEXTREL")
    end)

    it("looks for libraries where the system does, nowhere else", function()
      local dynamic = shown("-d", path)
      assert.matches("NEEDED", dynamic)
      assert.is_nil(dynamic:match "RPATH" or dynamic:match "RUNPATH")
    end)

    it("notices a stack that was written past a buffer's end", function()
      assert.matches(" __stack_chk_fail", shown("--dyn-syms", path))
    end)

    it("has the sizes of its buffers checked by the C library", function()
      if not release then return end -- the sanitizers look for themselves, and a debugger's build is not optimised
      local symbols = shown("--dyn-syms", path)
      for _, name in ipairs { "memcpy", "snprintf", "vsnprintf" } do
        assert.truthy(symbols:find(" __" .. name .. "_chk", 1, true), "__" .. name .. "_chk")
      end
    end)
  end)
end

describe("each file of ours", function()
  it("is compiled with what cannot be seen in the result, where the compiler knows it", function()
    local file = assert(io.open(build .. "/compile_commands.json"))
    local commands = assert(pool.json.decode(file:read "a"))
    file:close()
    local function known(flag)
      local command = "printf 'int f(int a) { return a; }\\n' | cc -Werror %s -c -xc - -o /dev/null 2>/dev/null"
      return select(2, process.run(command:format(flag))) == 0
    end
    local wanted, ours = { "-Werror=format-security" }, 0
    for _, flag in ipairs { "-fstack-protector-strong", "-fstack-clash-protection", "-fcf-protection=return" } do
      if known(flag) then wanted[#wanted + 1] = flag end
    end
    if release then wanted[#wanted + 1] = "-D_FORTIFY_SOURCE=" end
    for _, entry in ipairs(commands) do
      if entry.file:match "/src/%a+/[%w_]+%.c$" then
        ours = ours + 1
        for _, flag in ipairs(wanted) do assert.truthy(entry.command:find(" " .. flag, 1, true), entry.file .. " without " .. flag) end
        assert.is_nil(entry.command:match " %-D_FORTIFY_SOURCE=0" or entry.command:match "%-fno%-stack%-protector", entry.file)
      end
    end
    assert.is_true(ours > 80, ours .. " files of ours")
    assert.is_true(sanitized or #wanted >= 3)
  end)
end)
