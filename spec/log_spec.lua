-- The log as pool.log writes it: who reads it can tell pool's lines from what somebody wants to look like one.
local process = require "support.process"
local postgres = require "support.postgres"

-- What a script writes to standard error.
local function logged(script, env)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write('local pool = require "pool"\n', script)
  file:close()
  local p <close> = process.start({ "lua5.4", path }, { env = env })
  assert.equal(0, p:wait(20), p:stderr())
  os.remove(path)
  return p:stderr()
end

describe("a line of the log", function()
  it("is one line and its fields, in order", function()
    assert.equal("pool: warn: it is so a=1 b=true c=x y\n", logged 'pool.log("warn", "it is so", { c = "x y", b = true, a = 1 })')
    assert.equal("pool: info: plain\n", logged 'pool.log("info", "plain")')
  end)

  it("cannot be forged by a message or a field: what goes on is indented", function()
    assert.equal("pool: info: one\n  pool: error: two\n  three f=x\n  pool: warn: four\n",
      logged [[pool.log("info", "one\npool: error: two\r\nthree", { f = "x\npool: warn: four" })]])
  end)

  it("does nothing to a terminal", function()
    assert.equal("pool: info: \\x1b[2J\\x1b]0;owned\\x07 \\x00 \\x7f \\x08 \\xc2\\x9b1m tab\tümlaut\n",
      logged [[pool.log("info", "\27[2J\27]0;owned\a \0 \127 \b \u{9b}1m tab\tümlaut")]])
  end)

  it("cannot be forged by the server either, nor by the error of a task", function()
    local text = logged([[
      local db = pool.new(os.getenv "URL")
      pool.run(function()
        assert(db:exec "do $$ begin raise warning E'one\npool: error: two\x1b[2J'; end $$")
        pool.spawn(function() db:query("select E'x\npool: error: three'") error("one\npool: error: four") end)
        pool.sleep(0)
      end)
      db:close(0)]], { URL = postgres.url {} })
    assert.matches("pool: warn: WARNING: one pool: error: two %[2J\n", text) -- the driver makes one line of it
    assert.matches("\n  pool: error: four", text)
    assert.is_nil(("\n" .. text):match "\npool: error: [tf][wtoh]")
  end)
end)
