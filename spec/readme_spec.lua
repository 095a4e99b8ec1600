-- What the README says is so.

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "a"
  file:close()
  return text
end

describe("the README", function()
  local readme = read "README.md"

  it("holds the table of settings as the program prints it", function()
    local table_text = readme:match "<!%-%- settings:[^\n]*\n(.-)<!%-%- /settings %-%->"
    local printed = require("pool.settings_text").markdown(require("pool").settings())
    assert.equal(printed, table_text)
  end)

  it("links to files that are there", function()
    local links = 0
    for target in readme:gmatch "%]%(([^)#:]+)%)" do
      local file = io.open(target)
      assert.is_truthy(file, target .. " is linked to and is not there")
      file:close()
      links = links + 1
    end
    assert.is_true(links > 5)
  end)

  it("shows Lua that compiles", function()
    local blocks = 0
    for block in readme:gmatch "```lua\n(.-)```" do
      assert(load(block, "=README", "t"))
      blocks = blocks + 1
    end
    assert.equal(3, blocks)
  end)

  it("names no method that is not there", function()
    local core = require "pool.core"
    for name in readme:gmatch "`[^`]*db:([a-z_]+)" do
      assert.is_function(core.pool_methods[name], "db:" .. name)
    end
  end)
end)
