-- Hostile policies: each does its worst in one call. The call must end within its budget and say what was wrong, a second call must be
-- possible, and another policy must not notice. What the host lets policies do is in policy_calls_spec.lua.
local core = require "pool.core"

local BUDGET = 0.020
-- What one bounded piece of C may take on top: collecting 16 MiB of small tables is the longest. Sanitizers slow the allocator down; a
-- collection after every callback (POOL_SPEC_GC) is on top of all.
local SLACK = os.getenv "POOL_SPEC_GC" and 0.500 or os.getenv "POOL_SPEC_PRELOAD" and 0.100 or 0.020
local SNAPSHOT = { now = 1, interval = 1, size = 10, settings = { size = 10 } }
local GOOD = "return { tick = function(s) return { size = s.settings.size + 1 } end }"
local KILLED = "was killed: more than 0.02 s of processor time"
local KILLED_SOME_TIME = "was killed: more than 0.0" -- less of it, the more there is to collect
local longest = { seconds = 0, name = "none" }

local function note(name, seconds)
  if seconds > longest.seconds then longest = { seconds = seconds, name = name } end
  assert(seconds <= BUDGET + SLACK, ("%s: a call took %.1f ms"):format(name, seconds * 1000))
end

local function good_still_works()
  local good <close> = assert(core.policy(GOOD, "good.lua"))
  assert(good:begin())
  assert.same({ size = 11 }, (good:tick(SNAPSHOT)))
end

-- Runs the body as tick, twice; returns what the first call did. Twice more, where a machine that gave its time to others was the slow one.
local function attack(name, body, tries)
  local source = "return { tick = function(s, state) " .. body .. "\n end }"
  local p <close> = assert(core.policy(source, "bad.lua", { library = { self = "return compose { 'self' }" } }))
  assert(p:begin())
  local changes, reason, err = p:tick(SNAPSHOT)
  p:tick(SNAPSHOT)
  tries = tries or 1
  if tries < 3 and p:figures().longest > BUDGET + SLACK then return attack(name, body, tries + 1) end
  note(name, p:figures().longest)
  return changes, reason, err
end

-- { "what it does", [[ body of tick ]], what the error must match }
local function refused(rows)
  for _, row in ipairs(rows) do
    local name, body, wanted = row[1], row[2], row[3] or KILLED_SOME_TIME
    it(name, function()
      local changes, _, err = attack(name, body)
      assert.is_nil(changes)
      assert.equal("policy", err and err.kind)
      assert(err.message:find(wanted, 1, true), err.message)
      good_still_works()
    end)
  end
end

-- The body finds out for itself that it cannot, and says so by size = 2.
local function harmless(rows)
  for _, row in ipairs(rows) do
    it(row[1], function()
      local changes, _, err = attack(row[1], row[2])
      assert.is_nil(err, err and err.message)
      assert.same({ size = 2 }, changes)
      good_still_works()
    end)
  end
end

describe("an endless loop is killed:", function()
  refused {
    { "a plain one", "while true do end" },
    { "one of gotos", "::again:: goto again" },
    { "under pcall, again and again", "while true do pcall(function() while true do end end) end" },
    { "under pcalls within pcalls", "local function f() while true do pcall(f) end end f()" },
    { "in the handler of xpcall", "xpcall(error, function() while true do end end)" },
    { "in the handler of xpcall, after the kill", "local function f() while true do end end while true do xpcall(f, f) end" },
    { "in __index",
      "local t = setmetatable({}, { __index = function() while true do end end }) while true do pcall(function() return t.x end) end" },
    { "in __add", "local t = setmetatable({}, { __add = function() while true do end end }) return t + 1" },
    { "in __eq", "local m = { __eq = function() while true do end end } return setmetatable({}, m) == setmetatable({}, m)" },
    { "in __tostring", "tostring(setmetatable({}, { __tostring = function() while true do end end }))" },
    { "in the __tostring of an error", "error(setmetatable({}, { __tostring = function() while true do end end }))" },
    { "in __close", "local x <close> = setmetatable({}, { __close = function() while true do end end })" },
    { "in __close while the kill unwinds",
      "local x <close> = setmetatable({}, { __close = function() while true do end end }) while true do end" },
    { "in thousands of __close while the kill unwinds", [[
      local mt = { __close = function() while true do pcall(error) end end }
      local function down(n) local x <close> = setmetatable({}, mt) if n == 0 then while true do end end down(n - 1) return 1 end
      down(6000)]] },
    { "in thousands of __close, each with few but long instructions", [[
      local a, b = ('x'):rep(65000) .. 1, ('x'):rep(65000) .. 2
      local mt = { __close = function() local _ = a < b, a < b, a < b, a < b, a < b, a < b, a < b, a < b, a < b, a < b, a < b, a < b end }
      local function down(n) local x <close> = setmetatable({}, mt) if n == 0 then while true do end end down(n - 1) return 1 end
      down(6000)]] },
    { "without a single instruction, of table.sort and pcall alone", [[
      local m, t = { __call = pcall }, {}
      for i = 1, 10000 do t[i] = setmetatable({}, m) end
      table.sort(t, pcall)]] },
    { "in the closing value of a for", [[
      for _ in next, { 1 }, nil, setmetatable({}, { __close = function() while true do end end }) do while true do end end]] },
    { "in __pairs", "for _ in pairs(setmetatable({}, { __pairs = function() while true do end end })) do break end" },
    { "in a comparison of table.sort", "table.sort({ 3, 2, 1 }, function() while true do end end)" },
    { "in values that table.sort calls through pcall", [[
      local t = {} for i = 1, 10000 do t[i] = function() while true do end end end table.sort(t, pcall)]] },
    { "in a replacement of gsub", "('x'):rep(60000):gsub('.', function() while true do end end)" },
    { "of ipairs over a table without an end", "for _ in ipairs(setmetatable({}, { __index = function() return 1 end })) do end" },
    { "of pcalls of pcall itself", "while true do pcall(pcall, pcall, pcall, error) end" },
    { "of comparisons that lie to table.sort",
      "local t = {} for i = 1, 10000 do t[i] = i end while true do table.sort(t, function() return true end) end" },
  }

  it("of instructions, where they are what is limited", function()
    local source = "return { tick = function() while true do end end }"
    local p <close> = assert(core.policy(source, "bad.lua", { instructions = 50000, time = 10 }))
    assert.matches("more than 50000 instructions", select(3, p:tick(SNAPSHOT)).message)
    note("instructions", p:figures().longest)
  end)

  it("at load, and in the load hook", function()
    local _, err = core.policy("while true do pcall(error) end", "bad.lua")
    assert.equal("bad.lua:1: the chunk " .. KILLED .. " (policy_time)", err.message)
    local p <close> = assert(core.policy("return { tick = error, load = function() while true do end end }", "bad.lua"))
    assert.matches("load " .. KILLED, select(2, p:begin()).message)
    note("load", p:figures().longest)
  end)
end)

describe("memory is bounded:", function()
  refused {
    { "chains of tables", "local t = {} while true do t = { t } end", "" },
    { "chains of tables, under pcall", "local t = {} local function f() while true do t = { t } end end while true do pcall(f) end" },
    { "closures", "local t = {} while true do local a, b, c = t, t, t t = function() return a, b, c end end", "" },
    { "long texts", "local t = {} while true do t[#t + 1] = ('x'):rep(60000) .. #t end", "" },
    { "a full state that goes on allocating", [[
      local t = {} local function f() while true do t = { t } end end pcall(f) while true do pcall(string.rep, 'x', 60000) end]] },
    { "a state that is nearly full, and has room made for each text", [[
      local t = {} local function f() while true do t = { t } end end pcall(f)
      for _ = 1, 600 do t = t[1] end
      while true do local s = ('x'):rep(16000) end]] },
    { "collecting much again and again", [[
      local ts = {} for i = 1, 100 do ts[i] = {} for j = 1, 1500 do ts[i][j] = {} end end
      local i = 1 while true do ts[i % 100 + 1][i % 1500 + 1] = {} i = i + 1 end]] },
    { "a text that doubles", "local s = 'x' while true do s = s .. s end", "bad.lua:1: tick: a text of more than 65536 bytes" },
    { "a text that doubles, under pcall", "local s = ('x'):rep(40000) while true do pcall(function() return s .. s end) end" },
    { "a table of very many keys", "local t = {} for i = 1, 1e6 do t['k' .. i] = 1 end", "a table of more than 4096 keys" },
    { "an array without an end", "local t = {} for i = 1, 1e9 do t[i] = 1 end", "1/16 of policy_memory" },
    { "recursion", "local function f() return 1 + f() end return f()", "" },
    { "recursion, under pcall", "local function f() return 1 + f() end while true do pcall(f) end" },
    { "recursion with ever more arguments", "local function f(...) return 1 + f(1, ...) end while true do pcall(f) end" },
    { "recursion through pcall", "local function f() pcall(f) pcall(f) end f()" },
    { "recursion through metamethods", [[
      local m = {} m.__index = function(t, k) return t[k .. 1] end
      local t = setmetatable({}, m) while true do pcall(function() return t.x end) end]] },
    { "recursion through __concat", [[
      local t t = setmetatable({}, { __concat = function(_, b) return t .. b end }) return t .. 'x']], "C stack overflow" },
    { "recursion through gsub", "local function f() return ('x'):gsub('.', f) end while true do pcall(f) end" },
    { "recursion through compose", "compose { 'self' }", "C stack overflow" },
  }
end)

describe("a state that is nearly full", function()
  it("is collected for each text it makes, and no longer than a call may take", function()
    local p <close> = assert(core.policy([[
      return { tick = function(s, state)
        state.n = (state.n or 0) + 1
        if state.n <= 45 then
          for _ = 1, 5000 do state.t = { state.t } end
          return
        end
        local long = ('x'):rep(30000)
        while true do local _ = long .. 'y' end
      end }]], "bad.lua"))
    for _ = 1, 45 do p:tick(SNAPSHOT) end -- little by little: the fuller it is, the less time has a call
    local _, _, err = p:tick(SNAPSHOT)
    assert.matches("^bad.lua:8: tick was killed: more than 0%.0%d+ s .-, less what collecting 1[2-6]%.%d MiB takes%)", err.message)
    note("collecting for each text", p:figures().longest)
    good_still_works()
  end)
end)

describe("what runs in C is bounded:", function()
  refused {
    { "string.rep", "return ('x'):rep(1e9)", "string.rep: the result would be longer than 65536 bytes" },
    { "string.rep of nothing", "return (''):rep(1e9)", "string.rep: the result" },
    { "string.rep, many times", "while true do ('x'):rep(65536) end" },
    { "a pattern that would take a minute",
      "return ('a'):rep(700):find('.-.-.-b')", "string.find: this pattern may take too long for a policy" },
    { "a pattern that is just short enough, again and again", "local s = ('a'):rep(50) while true do s:find('.-.-b') end" },
    { "a pattern of many question marks",
      "local s = ('a'):rep(30) while true do s:find('^' .. ('a?'):rep(12) .. ('a'):rep(16) .. 'b') end" },
    { "back references", "local s = ('a'):rep(48) while true do s:find('(.*)%1b') end" },
    { "brackets", "local s = ('('):rep(400) while true do s:find('%b()') end" },
    { "many iterators of gmatch, each with a long step to go", [[
      local s, its = ('a'):rep(50), {}
      for i = 1, 1000 do its[i] = s:gmatch('.-.-b') end
      while true do for i = 1, 1000 do its[i]() end end]] },
    { "a replacement that says nothing at length", [[
      return ('x '):rep(32000):gsub('(%f[x])', ('%1'):rep(32000))]], "string.gsub: a replacement of 64000 bytes may take too long" },
    { "a plain find", "local s, m = ('a'):rep(60000), ('a'):rep(150) .. 'b' while true do s:find(m, 1, true) end" },
    { "a plain find of half the text", "return ('a'):rep(60000):find(('a'):rep(30000) .. 'b', 1, true)", "are too long for a policy" },
    { "formats", [[
      local t = {} for i = 1, 250 do t[i] = 1e308 end
      local f = ('%99.99f'):rep(140) while true do string.format(f, table.unpack(t)) end]] },
    { "a long format", "string.format(('%d'):rep(1000), 1)", "string.format: a format of 2000 bytes" },
    { "texts as numbers", "local s = ('1'):rep(65000) while true do tonumber(s) tonumber(s, 36) end" },
    { "texts compared", "local a, b = ('x'):rep(65000) .. 1, ('x'):rep(65000) .. 2 while true do local _ = a < b end" },
    { "texts as keys", "local s, t, i = ('x'):rep(65000), {}, 0 while true do i = i + 1 t[s .. i % 10] = 1 end" },
    { "texts sorted", "local t, p = {}, ('x'):rep(60000) for i = 1, 200 do t[i] = p .. i end while true do table.sort(t) end" },
    { "bytes", "local s = ('x'):rep(30000) while true do s:byte(1, -1) end" },
    { "characters", "local s = ('\\xe2\\x82\\xac'):rep(10000) while true do utf8.len(s) utf8.codepoint(s, 1, -1) end" },
    { "what is no character",
      "local s = 'a' .. ('\\x80'):rep(65000) while true do pcall(function() for _ in utf8.codes(s) do end end) end" },
    { "table.move over a gap", "table.move({}, 1, 1e15, 2)", "table.move: more than 10000 elements" },
    { "table.unpack over a gap", "table.unpack({}, math.mininteger, math.maxinteger)", "table.unpack: more than 10000 elements" },
    { "table.concat over a gap", "table.concat({}, '', 1, 1e15)", "table.concat: more than 10000 elements" },
    { "table.concat", "local t = {} for i = 1, 10000 do t[i] = ('x'):rep(60) end while true do pcall(table.concat, t) end" },
    { "table.insert in front", "local t = {} for i = 1, 9990 do t[i] = i end while true do table.insert(t, 1, 0) table.remove(t, 1) end" },
    { "tables that lie about their length", [[
      table.concat(setmetatable({}, { __len = function() return 1e15 end, __index = function() return 'x' end }))]],
      "table.concat: a table with a metatable is not taken" },
    { "pairs over many keys", "local t = {} for i = 1, 4000 do t[('x'):rep(100) .. i] = 1 end while true do pairs(t) end" },
    { "next over many keys", "local t = {} for i = 1, 4000 do t['k' .. i] = 1 end while true do for _ in next, t do end end" },
    { "a function that is its own __call", "local m = {} m.__call = m setmetatable(m, m)()", "__call must be a function" },
    { "a __call that comes late", "local m = {} local t = setmetatable({}, m) m.__call = t t()", "attempt to call a table value" },
    { "long chains of __index",
      "local t = {} for _ = 1, 1999 do t = setmetatable({}, { __index = t }) end while true do local _ = t.a end" },
    { "keys made to collide", "while true do local t = {} for i = 1, 4096 do t[i * 4095 * 2047] = 1 end end" },
    { "keys made to collide in a full table", [[
      local t = {} for i = 1, 4095 do t[i * 4095 * 2047] = 1 end
      local i = 1 while true do t[i * 4095 * 2047] = nil t[(i + 4095) * 4095 * 2047] = 1 i = i + 1 end]] },
    { "a table filled anew with each key", [[
      local t = {} for i = 1, 4095 do t['k' .. i] = 1 end
      local i = 1 while true do t['k' .. i] = nil t['k' .. i + 4095] = 1 i = i + 1 end]] },
    { "weak tables", "setmetatable({}, { __mode = 'k' })", "a policy's metatables have no __mode" },
    { "finalisers", "setmetatable({}, { __gc = function() while true do end end })", "a policy's metatables have no __gc" },
    { "remainders", "while true do local _ = 1e308 % 1e-308 end" },
  }
end)

describe("what is out of reach stays so:", function()
  harmless {
    { "finalisers and weakness that come late", [[
      local m = {} local t = setmetatable({}, m)
      m.__gc = function() s.ran = true end m.__mode = 'k'
      t[{}], t = 1, nil
      for _ = 1, 5000 do local _ = {} end
      return { size = s.ran and 3 or 2 }]] },
    { "the metatable of texts", "return { size = getmetatable('') == false and not pcall(setmetatable, '', {}) and 2 or 3 }" },
    { "the libraries", [[
      local kept = 0
      for _, t in ipairs { _G, string, table, math, utf8 } do
        if not pcall(function() t.rep = error end) and not pcall(rawset, t, 'rep', error) and not pcall(setmetatable, t, {})
          and getmetatable(t) == false and rawget(t, 'rep') == nil and next(t) == nil then kept = kept + 1 end
      end
      return { size = kept == 5 and ('x'):rep(2) == 'xx' and 2 or 3 }]] },
    { "what policies do not have", [[
      local found = ''
      for _, name in ipairs { 'load', 'loadstring', 'loadfile', 'dofile', 'require', 'collectgarbage', 'print', 'warn', 'io', 'os', 'debug',
        'coroutine', 'package', 'module', 'setfenv' } do if _G[name] ~= nil then found = found .. name end end
      local s = ''
      for _, name in ipairs { 'dump', 'pack', 'unpack', 'packsize' } do if s[name] ~= nil then found = found .. name end end
      if math.randomseed then found = found .. 'randomseed' end
      return { size = 2, timeout = found ~= '' and error(found) or nil }]] },
    { "addresses", [[
      local shown = tostring({}) .. tostring(print or error) .. string.format('%s %s', {}, error)
      return { size = not shown:find('0x') and not pcall(string.format, '%p', {}) and 2 or 3 }]] },
    { "the snapshot, which is a copy", "s.settings.size = 1e9 s.wait = nil s.interval = -1 return { size = 2 }" },
    { "its own _ENV, which is its own affair", "local _ENV = {} x = 1 return { size = x + 1 }" },
    { "the original behind a copied metatable", [[
      local m = { __index = { a = 1 } } local t = setmetatable({}, m)
      return { size = getmetatable(t) == m and t.a == 1 and getmetatable(setmetatable({}, { __metatable = 5 })) == 5 and 2 or 3 }]] },
  }

  it("_ENV: losing it breaks the policy that lost it, and no other", function()
    local p <close> = assert(core.policy("return { tick = function() _ENV = nil return { size = 2 } end }", "bad.lua"))
    assert.same({ size = 2 }, (p:tick(SNAPSHOT)))
    assert.same({ size = 2 }, (p:tick(SNAPSHOT)))
    good_still_works()
  end)

  it("globals", function()
    assert.equal('bad.lua:2: globals are read-only: write "local x"', select(2, core.policy("\nx = 1", "bad.lua")).message)
    assert.matches("string.rep: the library is read%-only", select(2, core.policy("string.rep = error", "bad.lua")).message)
  end)

  it("a yield", function()
    local _, err = core.policy("coroutine.yield()", "bad.lua")
    assert.matches("attempt to index a nil value %(global 'coroutine'%)", err.message)
  end)
end)

describe("a proposal is refused whole:", function()
  refused {
    { "NaN", "return { size = 0 / 0, timeout = 1 }", "bad.lua: tick: size: nan is not a whole number" },
    { "infinities", "return { timeout = 1 / 0 }", "timeout: inf is out of range: 0 to 1000000000 seconds" },
    { "less than nothing", "return { size = -5 }", "size: -5 is out of range" },
    { "fractions of connections", "return { size = 10.5 }", "size: 10.5 is not a whole number" },
    { "texts for numbers", "return { size = '10' }", "size: a text is not a whole number" },
    { "flags for numbers", "return { size = true }", "size: true is not a whole number" },
    { "texts for flags", "return { pre_ping = 'yes' }", "pre_ping: a text is not true or false" },
    { "choices that there are not", "return { queue = 'random' }", 'queue: "random" is not one of' },
    { "unknown names, naming the nearest",
      "return { size = 3, max_overlow = 1 }", 'unknown setting "max_overlow"; did you mean "max_overflow"?' },
    { "names in other letters", "return { Size = 3 }", 'did you mean "size"?' },
    { "names with control characters", "return { ['\\27[31m'] = 3 }", 'unknown setting " [31m"' },
    { "very many unknown names, and always the same is told", "local t = {} for i = 1, 4000 do t['k' .. i] = 1 end return t", '"k1"' },
    { "settings that cannot change live", "return { size_limit = 5 }", "size_limit: it cannot change while the pool runs" },
    { "settings of the database", "return { database_url = 'x' }", "database_url: it is no setting that a policy may change" },
    { "settings of the host", "return { policy_time = 60 }", "policy_time: it is no setting that a policy may change" },
    { "a list", "return { 10 }", "the name of a setting is a text, not a number" },
    { "a text", "return 'size'", "tick returned a string: a table of settings, or nothing" },
    { "a reason that is no text", "return { size = 2 }, {}", "the reason that tick returned is a table, not a text" },
  }
end)

describe("an error tells where and what:", function()
  refused {
    { "with chunk and line", "\n\n error('no')", "bad.lua:3: no" },
    { "of a nil value", "\n return nil + s.nothing", "bad.lua:2: attempt to perform arithmetic on a nil value" },
    { "when it is a table", "error({})", "bad.lua: table" },
    { "when it is nothing", "error()", "bad.lua: nil" },
    { "when its __tostring fails", "error(setmetatable({}, { __tostring = error }))", "the error is a value that says nothing of itself" },
    { "when its __tostring returns no text",
      "error(setmetatable({}, { __tostring = function() return {} end }))", "says nothing of itself" },
    { "on one line, in UTF-8", "error('a\\nb\\27\\xff')", "bad.lua:1: a b ?" },
    { "of an arithmetic of texts", "return '1' + 1", "attempt to perform arithmetic on a string value" },
    { "of a pairs over keys without an order",
      "for _ in pairs { [{}] = 1 } do end", "a table is a key of the table, and has no place in an order" },
  }

  it("at load, and of the syntax", function()
    for source, message in pairs {
      ["return {"] = "bad.lua:1: unexpected symbol near <eof>",
      ["\nerror 'no'"] = "bad.lua:2: no",
      ["\27Lua"] = "attempt to load a binary chunk",
      ["return 3"] = "bad.lua: the chunk returned a number: a table with tick, admit, on_event or weight is wanted",
      [""] = "the chunk returned nothing",
      ["return {}"] = "the policy has none of tick, admit, on_event, weight",
      ["return { tick = 3 }"] = "tick is a number, not a function",
      ["return { tik = error, tick = error }"] = "a policy has no hook tik; did you mean tick?",
      ["return { tick = error, every = 0 }"] = "every must be a number of seconds",
      ["return { tick = error, every = 0 / 0 }"] = "every must be a number of seconds",
      ["return { tick = error, name = 'a\\nb' }"] = "name has control characters",
      ["return { tick = error, name = {} }"] = "name is a table, not a text",
      ["return { tick = error, name = ('x'):rep(65) }"] = "name has 65 bytes",
      [(" "):rep(70000)] = "70000 bytes of text; a policy has at most 65536",
    } do
      local p, err = core.policy(source, "bad.lua")
      assert.is_nil(p)
      assert(err.message:find(message, 1, true), err.message)
    end
  end)

  it("at its third tick, and works again at the fourth", function()
    local source = "return { tick = function(s, state) state.n = (state.n or 0) + 1 "
      .. "if state.n == 3 then error 'three' end return { size = state.n } end }"
    local p <close> = assert(core.policy(source, "bad.lua"))
    assert(p:begin())
    assert.same({ 1, 2 }, { p:tick(SNAPSHOT).size, p:tick(SNAPSHOT).size })
    assert.equal("bad.lua:1: three", select(3, p:tick(SNAPSHOT)).message)
    assert.equal(4, p:tick(SNAPSHOT).size)
    assert.same({ 5, 1 }, { p:figures().calls, p:figures().errors }) -- begin is one
  end)
end)

describe("compiling is under the same limits:", function()
  local function compile(name, source)
    it(name, function()
      local began = os.clock()
      local p = core.policy(source, "bad.lua")
      assert.is_nil(p)
      note(name, os.clock() - began)
      good_still_works()
    end)
  end
  local labels, locals = {}, {}
  for i = 1, 7000 do labels[i] = ("do ::a%d:: end "):format(i) end
  for i = 1, 190 do locals[i] = "a" .. i end
  compile("gotos", "do " .. ("goto x "):rep(9000) .. "::x:: end")
  compile("labels", table.concat(labels):sub(1, 65000))
  compile("chains of or", "local x = " .. ("a or "):rep(12000) .. "a")
  compile("nested blocks", ("do "):rep(20000))
  compile("nested parentheses", "return " .. ("("):rep(60000))
  compile("names looked up through many functions", ("local function f() local " .. table.concat(locals, ",") .. " "):rep(40) ..
    ("zz = zz "):rep(3000) .. ("end "):rep(40))
end)

describe("nothing is left behind:", function()
  it("a thousand policies made, run and closed do not grow the process", function()
    local function resident() return tonumber(assert(io.open "/proc/self/statm"):read "a":match "%d+ (%d+)") * 4096 end
    local bad = "return { tick = function() local t = {} while true do t[#t + 1] = {} end end }"
    local function round(i)
      local p <close> = assert(core.policy(i % 50 == 0 and bad or GOOD, "round.lua"))
      p:begin()
      p:tick(SNAPSHOT)
      core.policy("return compose { {} }", "round.lua")
    end
    for i = 1, 200 do round(i) end
    collectgarbage()
    local before = resident()
    for i = 1, 1000 do round(i) end
    collectgarbage()
    local grown = resident() - before
    assert(grown < 1024 * 1024 or os.getenv "POOL_SPEC_PRELOAD", grown) -- a sanitizer keeps what is freed, and looks for leaks itself
  end)

  it("and the longest call of them all is told", function()
    print(("the longest call of a hostile policy: %.1f ms of its %.0f (%s)"):format(longest.seconds * 1000, BUDGET * 1000, longest.name))
    assert(longest.seconds > 0)
  end)
end)
