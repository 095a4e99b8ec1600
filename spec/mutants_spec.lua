-- The mutants (spec/mutants/run) are run by hand, for they take long; that each still has its place in the sources is seen here.
local list = dofile "spec/mutants/list.lua"

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

describe("the list of mutants", function()
  it("holds at least fifty, each a change of one place that is there exactly once", function()
    assert.is_true(#list >= 50)
    local seen = {}
    for i, mutant in ipairs(list) do
      local file, what, from, to = table.unpack(mutant)
      local text = read("src/" .. file)
      local at, last = text:find(from, 1, true)
      assert.truthy(at, ("%d: %s no longer holds %q"):format(i, file, from))
      assert.falsy(text:find(from, last + 1, true), ("%d: %s holds %q twice"):format(i, file, from))
      assert.are_not.equal(from, to)
      assert.falsy(seen[file .. from .. to], ("%d: %s is there twice"):format(i, what))
      seen[file .. from .. to] = true
    end
  end)

  it("says why of each that is to live", function()
    for _, mutant in ipairs(list) do assert.is_true(mutant.same == nil or #mutant.same > 20) end
  end)
end)
