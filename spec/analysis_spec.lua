-- What spec/analyze does with what its tools say; the tools themselves take minutes and are run by hand.
local process = require "support.process"
local answers = dofile "spec/analysis/answers.lua"

local function write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  file:write(text)
end

--- A directory of what tools said, and the answers to it; gone at the end.
local function saying(said, answer_lines)
  local dir = process.run("mktemp -d"):gsub("\n$", "")
  process.run("mkdir " .. dir .. "/found")
  for name, text in pairs(said) do write(dir .. "/found/" .. name, text) end
  write(dir .. "/answers", answer_lines)
  return setmetatable({ dir = dir }, { __close = function() process.run("rm -rf " .. dir) end })
end

--- What is printed of it, and whether all was well.
local function sum_up(place, whole, tools)
  local pipe = assert(io.popen(("lua5.4 spec/analysis/findings.lua %s/answers %s/found %s %s"):format(place.dir, place.dir, whole, tools)))
  local text = pipe:read "a"
  return text, pipe:close() == true
end

--- Where it is said, so that the function is found by the line: `struct pool *pool_create(` in src/core/pool.c.
local function line_of(path, wanted)
  local number = 0
  for line in io.lines(path) do
    number = number + 1
    if line:find(wanted, 1, true) then return number end
  end
  error(path .. " has no line with " .. wanted)
end

local FREED = "src/core/list.h:%d:7: warning: use after 'free' of 'node' [CWE-416] [-Wanalyzer-use-after-free]\n"
local STEP = "src/core/pool_slot.c:%d:12: note: (1) entry to 'slots_merge'\n"

describe("the answers to what analysers find", function()
  it("are well formed, name files that are there and functions that are in them, and no finding twice", function()
    local list = assert(answers.read "spec/analysis/answers.txt")
    assert.is_true(#list > 20)
    local seen = {}
    for _, answer in ipairs(list) do
      local file = assert(io.open(answer.file), "no file " .. answer.file)
      assert.truthy(answer.place == "-" or file:read "a":find(answer.place .. "(", 1, true), answer.file .. ": no " .. answer.place)
      file:close()
      local key = table.concat({ answer.tool, answer.file, answer.place, answer.check, answer.text }, " ")
      assert.falsy(seen[key], "twice: " .. key)
      seen[key] = true
    end
  end)

  it("are refused with their line when one says nothing", function()
    for text, complaint in pairs {
      ["gcc src/a.c f check: text\n"] = ":1: it does not say why",
      ["# fine\nlint src/a.c f check: text\n  because it is so\n"] = ':2: no tool is called "lint"',
      ["gcc src/a.c f check: \n  because it is so\n"] = ":1: it does not say what the finding says",
      ["gcc src/a.c: text\n  because it is so\n"] = ":1: no answer: gcc src/a.c: text",
    } do
      local place <close> = saying({}, text)
      local list, problem = answers.read(place.dir .. "/answers")
      assert.is_nil(list)
      assert.truthy(problem:find(complaint, 1, true), problem)
    end
  end)
end)

describe("spec/analyze", function()
  local said = FREED:format(line_of("src/core/list.h", "node->prev->next = node->next"))
    .. STEP:format(line_of("src/core/pool_slot.c", "static void slots_merge(") + 1) .. "ended with 0\n"
  local answer = "gcc src/core/pool_slot.c slots_merge analyzer-use-after-free: use after 'free'\n  it is somebody else's by then\n"

  it("fails for a finding that has no answer, and says in which function of the file it is", function()
    local place <close> = saying({ ["gcc.src:core:pool_slot.c"] = said }, "")
    local text, well = sum_up(place, "whole", "gcc")
    assert.is_false(well)
    assert.truthy(text:find("  gcc src/core/pool_slot.c slots_merge analyzer-use-after-free: use after 'free' of 'node'\n", 1, true), text)
    assert.truthy(text:find("1 findings, 0 answered, 1 open\n$"), text)
  end)

  it("counts one that has an answer, and fails for an answer that has none", function()
    local place <close> = saying({ ["gcc.src:core:pool_slot.c"] = said }, answer)
    local text, well = sum_up(place, "whole", "gcc")
    assert.is_true(well, text)
    assert.truthy(text:find("1 findings, 1 answered, 0 open\n$"), text)
    local stale <close> = saying({ ["gcc.src:core:pool_slot.c"] = "ended with 0\n" }, answer)
    text, well = sum_up(stale, "whole", "gcc")
    assert.is_false(well)
    assert.truthy(text:find("answers:1: an answer to nothing: gcc src/core/pool_slot.c", 1, true), text)
  end)

  it("leaves answers alone for files and tools that were not asked", function()
    local place <close> = saying({ ["gcc.src:core:pool.c"] = "ended with 0\n" }, answer)
    assert.is_true(select(2, sum_up(place, "part", "gcc")))
    assert.is_false(select(2, sum_up(place, "whole", "gcc")))
    local other <close> = saying({ ["cppcheck.src:core:pool_slot.c"] = "ended with 0\n" }, answer)
    assert.is_true(select(2, sum_up(other, "whole", "cppcheck")))
  end)

  it("counts what is in a header once, whoever includes it", function()
    local macro = "src/core/list.h:41:46: warning: macro argument should be enclosed [bugprone-macro-parentheses]\nended with 0\n"
    local place <close> = saying({ ["clang-tidy.src:core:pool.c"] = macro, ["clang-tidy.src:core:lane.c"] = macro }, "")
    assert.truthy(sum_up(place, "whole", "clang-tidy"):find("1 findings, 0 answered, 1 open\n$"))
  end)

  it("fails for a tool that did not come to its end, or read nothing", function()
    for _, words in ipairs { "error: unknown argument\nended with 1\n", "" } do
      local place <close> = saying({ ["gcc.src:core:pool.c"] = words }, "")
      local text, well = sum_up(place, "whole", "gcc")
      assert.is_false(well)
      assert.truthy(text:find("gcc did not come to its end over src/core/pool.c", 1, true), text)
    end
    local nothing <close> = saying({}, "")
    assert.is_false(select(2, sum_up(nothing, "whole", "gcc")))
  end)
end)
