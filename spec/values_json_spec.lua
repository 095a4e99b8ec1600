-- pool.json: encode and decode.
local pool = require "pool"
local values = require "support.values"
local same, encode, decode = values.same, pool.json.encode, pool.json.decode

-- What decode says against it.
local function malformed(text)
  local value, err = decode(text)
  if value ~= nil then error("it was decoded", 2) end -- not shown: some are huge
  assert.equal("json", err.kind)
  return err.message
end

local function refusal(v)
  local fine, message = pcall(function() encode(v) end)
  assert.is_false(fine)
  assert.matches("^spec/values_json_spec.lua:%d+: ", message)
  return message
end

describe("pool.json.decode", function()
  it("keeps integers integers, floats floats, and null pool.null", function()
    same(1, decode "1")
    same(1.0, decode "1.0")
    same(100.0, decode "1e2")
    same(-0.0, decode "-0.0")
    same(math.maxinteger, decode "9223372036854775807")
    same(math.mininteger, decode "-9223372036854775808")
    same(pool.null, decode "null")
    same(true, decode " true ")
    same("a\0é😀\"\\/\b\f\n\r\t", decode [["a\u0000\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t"]])
    assert.same({ 1, pool.null, { a = pool.null, [""] = {} } }, decode '[1,null,{"a":null,"":[]}]')
  end)

  it("gives nil and an error of kind json for what is malformed, with the place and without the text", function()
    for _, text in ipairs { "", " ", "{", "[1,]", "{a:1}", "'a'", "01", "+1", "1.", ".5", "nul", "NaN", "[1] 2", '"\t"', '"\\x"',
      '"\\ud800"', '{"a":1,}', '"a', "\xEF\xBB\xBF1" } do
      assert.matches("^malformed JSON at line 1, column %d+: ", malformed(text))
    end
    assert.matches("line 3, column", malformed "[1,\n2,\nsecret]")
    assert.is_nil(malformed("[1,\n2,\nsecret]"):find("secret", 1, true))
    assert.matches("not UTF%-8", malformed '"\xff"')
    assert.matches("past 64 bits", malformed "9223372036854775808")
    assert.matches("past the range", malformed "1e400")
    assert.matches("\\u0000", malformed '{"a\\u0000": 1}')
  end)

  it("refuses a NUL, after a number too", function()
    for _, text in ipairs { "1\0", "1.5\0", "[1]\0", "\0", "1\0x", "true\0" } do
      local value, err = pool.json.decode(text)
      assert.is_nil(value)
      assert.equal("json", err.kind)
    end
  end)

  it("holds 128 levels and not one more", function()
    assert.is_table(decode(("["):rep(128) .. ("]"):rep(128)))
    assert.matches("128 levels", malformed(("["):rep(129) .. ("]"):rep(129)))
    assert.matches("128 levels", malformed(("["):rep(100000)))
    assert.matches("128 levels", malformed(('{"a":'):rep(129) .. "1" .. ("}"):rep(129)))
  end)

  it("holds 64 MiB and not one byte more", function()
    local text = '"' .. ("x"):rep(64 * 1024 * 1024 - 2) .. '"'
    assert.equal(64 * 1024 * 1024 - 2, #assert(decode(text)))
    assert.matches("64 MiB", malformed(text .. " "))
  end)

  it("refuses what would take hundreds of times its size, before it does", function()
    local most = 4 * 1024 * 1024
    assert.equal(most, #assert(decode("[" .. ("1,"):rep(most - 1) .. "1]")))
    collectgarbage()
    assert.matches("more than 4194304", malformed("[" .. ("1,"):rep(most) .. "1]"))
    assert.matches("more than 4194304", malformed("[" .. ("{},"):rep(most // 2) .. "1]"))
    local commas = '"' .. (',[{:\\"'):rep(most) .. '"'
    assert.equal(6 * most - most, #assert(decode(commas)))
  end)

  it("raises for what is no string", function()
    for _, bad in ipairs { 1, true, {} } do
      local fine, message = pcall(function() decode(bad) end)
      assert.is_false(fine)
      assert.matches("^spec/values_json_spec.lua:%d+: pool%.json%.decode wants a string, not " .. type(bad), message)
    end
  end)

  it("takes the last of two equal keys", function()
    same(2, decode('{"a":1,"a":2}').a)
  end)
end)

describe("pool.json.encode", function()
  it("writes integers as they are and floats as the shortest text that reads back", function()
    for text, v in pairs { ["1"] = 1, ["1.0"] = 1.0, ["-0.0"] = -0.0, ["0.1"] = 0.1, ["1e+15"] = 1e15, ["5e-324"] = 5e-324,
      ["9223372036854775807"] = math.maxinteger, ["-9223372036854775808"] = math.mininteger, ["123456789012345.0"] = 123456789012345.0,
      ["3.141592653589793"] = math.pi, ["9007199254740993"] = 2 ^ 53 // 1 | 1 } do
      assert.equal(text, encode(v))
      same(v, decode(text))
    end
    assert.equal("[null,null,null]", encode { 0 / 0, math.huge, -math.huge })
  end)

  it("writes tables: sorted keys, no spaces, arrays by their length", function()
    assert.equal('{"a":{"b":[1,2]},"b":true,"c":null}', encode { c = pool.null, b = true, a = { b = { 1, 2 } } })
    assert.equal("{}", encode {})
    assert.equal("[]", encode(pool.array {}))
    assert.equal("[]", encode(decode "[]"))
    assert.equal("{}", encode(decode "{}"))
    assert.equal("[[],{},[null]]", encode { pool.array {}, {}, { pool.null } })
    assert.equal("[null,1,null]", encode(pool.array { nil, 1, n = 3 }))
    assert.equal("null", encode(nil))
    assert.equal('"AP8="', encode(pool.bytes "\0\xff"))
    assert.equal('{"a":[1]}', encode(pool.jsonb { a = { 1 } }))
  end)

  it("writes text: UTF-8 as it is, control characters, quotes and backslashes escaped", function()
    assert.equal([["\u0000\u0001\b\t\n\f\r\u001f \"\\/é😀]] .. '\127"', encode "\0\1\b\t\n\f\r\31 \"\\/é😀\127")
  end)

  it("raises at the caller's line, naming the place, for what JSON cannot hold", function()
    assert.matches("%$%.a%[2%].*function", refusal { a = { 1, print } })
    assert.matches("thread", refusal(coroutine.create(print)))
    assert.matches("userdata", refusal { io.stdout })
    assert.matches("key", refusal { 1, 2, a = 3 })
    assert.matches("hole", refusal { 1, nil, nil, 4 })
    assert.matches("key", refusal { [1.5] = 1 })
    assert.matches("key", refusal { [true] = 1 })
    assert.matches("%$%.t is not UTF%-8", refusal { t = "\xff" })
    assert.matches("UTF%-8", refusal { ["\xff"] = 1 })
  end)

  it("raises for cycles, for more than 128 levels and for more than 64 MiB", function()
    local cycle = {}
    cycle.a = cycle
    assert.matches("128", refusal(cycle))
    local deep = {}
    for _ = 1, 127 do deep = { deep } end
    assert.equal(("["):rep(127) .. "{}" .. ("]"):rep(127), encode(deep))
    assert.matches("128", refusal { deep })
    local mega = ("x"):rep(1 << 20)
    local list = {}
    for i = 1, 64 do list[i] = mega end
    assert.matches("64 MiB", refusal(list))
    list[64] = nil
    assert.equal(63 * (1 << 20) + 63 * 3 + 1, #encode(list))
  end)

  it("runs no metamethods", function()
    local trap = setmetatable({ a = 1 }, { __index = function() error "__index ran" end, __pairs = function() error "__pairs ran" end,
      __len = function() error "__len ran" end, __tostring = function() error "__tostring ran" end })
    assert.equal('{"a":1}', encode(trap))
  end)

  it("wants a value", function()
    assert.error_matches(encode, "pool.json.encode wants a value")
  end)
end)
