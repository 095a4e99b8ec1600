-- SECURITY.md is held to its word: every test that it names is there, and every threat has tests or says why not.
local read = require("support.process").read

local document = assert(read "SECURITY.md")

--- Its threats: name -> the text below its heading.
local threats, count = {}, 0
for part in (document:gsub("\n## ", "\0") .. "\0"):gmatch "([^%z]*)%z" do
  local name, text = part:match "^([^\n]+)\n(.*)$"
  if text and name:sub(1, 1) ~= "#" and name ~= "To report something" and name ~= "Whom pool trusts" then
    threats[name] = text
    count = count + 1
  end
end

local function named_tests(text)
  local tests = {}
  for path, sentence in text:gmatch "\n%- `([^`]+)`: ([^\n]+)" do tests[#tests + 1] = { path = path, sentence = sentence } end
  return tests
end

--- Without what is no code in it: Lua's comments, which are of one line here or in long brackets, and C's.
local function code_of(path, text)
  if path:match "%.c$" then return (("\n" .. text):gsub("/%*.-%*/", ""):gsub("\n%s*//[^\n]*", "")) end
  return (("\n" .. text):gsub("%-%-%[(=*)%[.-%]%1%]", ""):gsub("\n[ \t]*%-%-[^\n]*", "\n"))
end

--- How a line may begin that has the sentence: a test that runs, in a script the comment that says what comes.
local MARKS = { lua = { 'it("', 'describe("' }, c = { 'TEST("' } }

--- Does a test of this name run? What is commented out, or pending, does not.
local function holds(test)
  local text = test.text or read(test.path)
  if not text then return false end
  local kind = test.path:match "%.(%l+)$"
  if MARKS[kind] then text = code_of(test.path, text) end
  for line in text:gmatch "[^\n]+" do
    local begins = line:match "^%s*(.*)$"
    for _, mark in ipairs(MARKS[kind] or { "# " }) do
      if begins:sub(1, #mark + #test.sentence) == mark .. test.sentence then return true end
    end
  end
  return false
end

describe("SECURITY.md", function()
  it("has the threats that were thought of, each with a promise, what is done, tests, and what is not covered", function()
    for _, name in ipairs {
      "A hostile database", "A hostile network", "A hostile policy file", "A careless handler", "A hostile HTTP client", "SQL injection",
      "Secrets in logs, errors, figures and recordings", "Files and sockets", "The environment and `.env`", "A crash and its dump",
      "A C host",
    } do
      local text = assert(threats[name], "no threat is called " .. name)
      assert.truthy(text:find("*Promise.*", 1, true), name)
      assert.truthy(text:find("*How.*", 1, true), name)
      assert.truthy(text:find("*Not covered", 1, true) or text:find("*Not\ncovered", 1, true), name)
      assert.is_true(#named_tests(text) > 0, name)
    end
    assert.equal(11, count)
  end)

  it("names tests that are there", function()
    local missing, tests = {}, named_tests(document)
    for _, test in ipairs(tests) do
      if not holds(test) then missing[#missing + 1] = ("%s: %s"):format(test.path, test.sentence) end
    end
    assert(#missing == 0, "not there:\n  " .. table.concat(missing, "\n  "))
    assert.is_true(#tests > 60, #tests .. " tests")
  end)

  it("would say so if one was not", function()
    assert.is_true(holds { path = "spec/security_spec.lua", sentence = "names tests that are there" })
    assert.is_false(holds { path = "spec/security_spec.lua", sentence = ("names tests that "):rep(2) })
    assert.is_false(holds { path = "spec/no_spec.lua", sentence = "names" })
    assert.is_false(holds { path = "spec/db/mask_test.c", sentence = "mask_value" })
  end)

  it("does not count a test that is commented out, or pending", function()
    local function lua(text) return holds { path = "x_spec.lua", sentence = "does it", text = text } end
    local function c(text) return holds { path = "x_test.c", sentence = "does it", text = text } end
    assert.is_true(lua '\n  it("does it", function()\n')
    for _, text in ipairs { '-- it("does it", function()', '  --it("does it"', '--[[\nit("does it", function()\n]]',
      '--[==[\nit("does it"\n]==]', 'pending("does it", function()', 'local name = "does it"', 'print(\'it("does it")\')' } do
      assert.is_false(lua(text), text)
    end
    assert.is_true(c 'TEST("does it") {')
    for _, text in ipairs { '/* TEST("does it") { */', '/*\n TEST("does it") {\n*/', '// TEST("does it") {', '  // TEST("does it")' } do
      assert.is_false(c(text), text)
    end
  end)
end)
