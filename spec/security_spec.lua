-- SECURITY.md is held to its word: every test that it names is there, and every threat has tests or says why not.
local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return text
end

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

--- A sentence is in quotes in a spec, and after the sign of a comment in a script.
local function holds(test)
  local text = read(test.path)
  if not text then return false end
  local marks = test.path:match "%.lua$" and { '"' } or test.path:match "%.c$" and { 'TEST("' } or { "# " }
  for _, mark in ipairs(marks) do
    if text:find(mark .. test.sentence, 1, true) then return true end
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
end)
