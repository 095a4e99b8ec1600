-- Policies that want out: of their files, of their environment, into the host. Beside policy_host_spec.lua, which is about what one call
-- may cost.
local core = require "pool.core"
local policies = require "pool.policies"
local pool = require "pool"
local process = require "support.process"

local SNAPSHOT = { now = 1, interval = 1, size = 10, settings = { size = 10 } }

--- What a policy whose chunk is `source` (text before its table) says as the reason of its tick.
local function said(source, options)
  local p <close> = assert(core.policy(source, "bad.lua", options))
  assert(p:begin())
  local _, reason, err = p:tick(SNAPSHOT)
  assert.is_nil(err, err and err.message)
  return reason
end

local function tick(body) return "return { tick = function(s, state) " .. body .. "\n end }" end

describe("a policy's file", function()
  local dir
  before_each(function() dir = process.run("mktemp -d"):match "[^\n]*" end)
  after_each(function() process.run("rm -rf " .. dir) end)

  local function refusal(name)
    local source, message = policies.source(dir .. "/" .. name)
    assert.is_nil(source)
    return (message:gsub("^.*/", ""))
  end

  it("is a file: what would never end, or make everybody wait, is not read", function()
    process.run(("cd %s && mkfifo pipe.lua && ln -s /dev/zero zero.lua && ln -s /dev/tty tty.lua && mkdir dir.lua "
      .. "&& ln -s loop.lua loop.lua && head -c 100000 /dev/zero >large.lua && truncate -s 1T sparse.lua"):format(dir))
    for _, name in ipairs { "pipe.lua", "zero.lua", "tty.lua", "dir.lua" } do assert.equal(name .. ": it is no file", refusal(name)) end
    assert.equal("large.lua: 100000 bytes of text; a policy has at most 65536", refusal "large.lua")
    assert.equal("sparse.lua: 1099511627776 bytes of text; a policy has at most 65536", refusal "sparse.lua")
    assert.equal("loop.lua: Too many levels of symbolic links", refusal "loop.lua")
    assert.equal("none.lua: No such file or directory", refusal "none.lua")
    for _, name in ipairs { "pipe.lua", "zero.lua" } do
      local db <close> = pool.new "sqlite:///:memory:"
      local tuner, err = db:tune(dir .. "/" .. name)
      assert.is_nil(tuner)
      assert.matches("it is no file", err.message)
    end
  end)

  it("that becomes something else while it is watched leaves the live version alone", function()
    local path = dir .. "/tune.lua"
    process.run(("printf '%s' >%s"):format("return { tick = function() end }", path))
    local db <close> = pool.new "sqlite:///:memory:"
    local tuner = assert(db:tune(path))
    process.run(("cd %s && mkfifo pipe && mv pipe tune.lua"):format(dir))
    local fine, err = tuner:reload()
    assert.is_nil(fine)
    assert.matches("it is no file", err.message)
    assert.equal(1, #tuner:versions())
    tuner:close()
  end)

  it("is read by nobody else's wish: compose knows the built-in policies, by their names alone", function()
    for _, name in ipairs { "../../../etc/passwd", "/etc/passwd", "./fixed", "policy/fixed", "fixed.lua", "..", "", "FIXED" } do
      local p, err = core.policy("return compose { '" .. name .. "' }", "bad.lua", { library = policies.library() })
      assert.is_nil(p)
      assert.truthy(err.message:find("compose: there is no policy ", 1, true), err.message)
    end
    assert.is_nil(policies.source "fixed\0")
  end)
end)

describe("a policy's environment", function()
  it("is all there is: no way leads from what it has to what it has not", function()
    -- Everything reachable from the globals, by every name there could be, and what it is.
    assert.equal("math.type ", said(tick [[
      local names, found = { '_G', '_VERSION', 'assert', 'error', 'getmetatable', 'setmetatable', 'ipairs', 'next', 'pairs', 'pcall',
        'xpcall', 'rawequal', 'rawget', 'rawlen', 'rawset', 'select', 'tonumber', 'tostring', 'type', 'compose',
        'string', 'table', 'math', 'utf8',
        '__index', '__metatable', '__gc', 'load', 'loaded', 'preload', 'loadlib', 'cpath', 'path', 'require', 'open', 'popen', 'execute',
        'getenv', 'exit', 'getinfo', 'getregistry', 'getupvalue', 'sethook', 'setmetatable', 'wrap', 'create', 'running', 'yield' }, ''
      local function look(t, path, depth)
        for _, name in ipairs(names) do
          local value = t[name]
          if path == '' and type(value) == 'table' and depth < 3 and name ~= '_G' then look(value, name .. '.', depth + 1) end
          if path ~= '' and value ~= nil then found = found .. path .. name .. ' ' end
        end
      end
      look(_G, '', 0)
      return nil, found]]))
  end)

  it("cannot be changed through any function that takes a table", function()
    assert.equal("0 of 60", said(tick [[
      local changed, tried = 0, 0
      local ways = { function(t) t.x = 1 end, function(t) rawset(t, 'x', 1) end, function(t) table.insert(t, 1) end,
        function(t) table.move({ 1 }, 1, 1, 1, t) end, function(t) table.sort(t) end, function(t) table.remove(t) end,
        function(t) setmetatable(t, { __index = { x = 1 } }) end, function(t) getmetatable(t).__index = { x = 1 } end,
        function(t) setmetatable(t, nil) end, function(t) for k in pairs(t) do t[k] = nil end t[1] = 1 end }
      for _, t in ipairs { _G, string, table, math, utf8, _G._G } do
        for _, way in ipairs(ways) do
          tried = tried + 1
          pcall(way, t)
          if rawget(t, 'x') or rawget(t, 1) or t.x or t[1] or rawlen(t) > 0 then changed = changed + 1 end
        end
      end
      return nil, changed .. ' of ' .. tried]]))
  end)

  it("of texts is theirs alone: no method of a text leads out, and none can be put in", function()
    assert.equal("true nil nil false", said(tick [[
      local s = ''
      return nil, ('%s %s %s %s'):format(s.format == string.format, s.dump, s.__index, pcall(function() s.x = 1 end))]]))
  end)

  it("is the policy's own: neither another policy nor the host sees what one does to it", function()
    local a <close> = assert(core.policy(tick "state.seen = (state.seen or 0) + 1 return nil, tostring(state.seen)", "a.lua"))
    local b <close> = assert(core.policy(tick "state.seen = (state.seen or 0) + 1 return nil, tostring(state.seen)", "b.lua"))
    assert(a:begin() and b:begin())
    a:tick(SNAPSHOT)
    assert.same({ "2", "1" }, { select(2, a:tick(SNAPSHOT)), (select(2, b:tick(SNAPSHOT))) })
    assert.is_nil(("").seen)
    assert.equal(10, SNAPSHOT.settings.size)
  end)
end)

describe("what comes out of a policy", function()
  it("is text and numbers: an error object with a metatable, a function, a table within are not", function()
    for body, message in pairs {
      ["error(setmetatable({}, { __tostring = function() return 'told' end, __name = 'pool.Error', kind = 'closed' }))"] = "bad.lua: told",
      ["error({ kind = 'closed', message = 'x' })"] = "bad.lua: table",
      ["error(function() end)"] = "bad.lua: function", ["error(true)"] = "bad.lua: true", ["error('x', 1e9)"] = "bad.lua: x",
      ["error('a\\0b')"] = "bad.lua:1: a", ["error(('x'):rep(60000))"] = ("x"):rep(100), ["error('x', -1)"] = "bad.lua: x",
      ["error('\\u{202e}\\27]0;t\\7pool: error: forged\\npool: error: forged')"] = "]0;t pool: error: forged pool: error: forged",
    } do
      local p <close> = assert(core.policy(tick(body), "bad.lua"))
      assert(p:begin())
      local _, _, err = p:tick(SNAPSHOT)
      assert.equal("policy", err.kind)
      assert.truthy(err.message:find(message, 1, true), err.message)
      assert.is_nil(err.message:find "%c", err.message)
      assert.is_true(#err.message < 1024)
      assert.is_true(core.is_error(err))
      for name, value in pairs(err) do assert.truthy(({ kind = 1, message = 1 })[name] and type(value) == "string") end
    end
  end)

  it("is cleaned: reasons and names in the log are one line of text", function()
    assert.is_nil(said(tick "return nil, 'a\\nb\\27[2J\\0c\\r' .. ('y'):rep(60000)"):find "%c")
    local p, err = core.policy("return { name = 'a\\27[2Jb', tick = error }", "x")
    assert.is_nil(p)
    assert.matches("name has control characters", err.message)
    p, err = core.policy("error 'x'", "a\27[2J\nb.lua")
    assert.is_nil(p)
    assert.is_nil(err.message:find "%c")
  end)

  it("counts as what it is: limits are kept with the largest and the least numbers", function()
    for _, body in ipairs {
      "return { size = math.maxinteger }", "return { size = math.mininteger }", "return { timeout = 1e308 }", "return { timeout = -1e308 }",
      "return { size = 2^53 }", "return { size = -0.0 }", "return { max_overflow = 1e15 }", "return { timeout = 5e-324 }",
      "return { [math.huge] = 1 }", "return { [2^53] = 1 }", "return { ['size\\0'] = 1 }", "return { [('x'):rep(60000)] = 1 }",
    } do
      local p <close> = assert(core.policy(tick(body), "bad.lua"))
      assert(p:begin())
      local changes, _, err = p:tick(SNAPSHOT)
      if changes then -- what is in range is disposed of like anybody's
        local now = core.dispose({ size = 10, max_overflow = 20 }, changes)
        assert.is_true(now == nil or now.size >= 0 and now.size <= 64 and now.max_overflow <= 64)
      else
        assert.equal("policy", err.kind)
      end
    end
  end)
end)

describe("what was a hole in Lua 5.4", function()
  -- Each ends in one way or the other, and the next policy works: Debian's Lua has the fixes, and spec/policy_host_spec.lua the limits.
  for name, body in pairs {
    ["a constant _ENV (CVE-2022-28805)"] = "local function f() local _ENV <const> = 11 X = 'a' end pcall(f) local _ENV <const> = {} Y = 1",
    ["an error while an error is handled (CVE-2022-33099)"] = [[
      local function loop(x) return 1 + loop(x) end
      local m = setmetatable({}, { __tostring = loop, __index = loop, __concat = loop })
      for _ = 1, 3 do pcall(function() error(m) end) xpcall(loop, loop) pcall(function() return m .. m end) end]],
    ["names of functions in errors of metamethods (CVE-2021-44647)"] = [[
      local t = setmetatable({}, { __eq = function() error 'x' end, __lt = function() local x = nil; x() end, __close = error })
      pcall(function() return t == setmetatable({}, getmetatable(t)) end) pcall(function() return t < t end)
      pcall(function() local x <close> = t for i in t do end end)]],
    ["a stack that is moved while variables are closed"] = [[
      local function deep(n) if n > 0 then return deep(n - 1) + 1 end return 0 end
      for _ = 1, 20 do
        pcall(function() local a <close> = setmetatable({}, { __close = function() deep(5000) error(deep) end }) deep(10) error 'x' end)
      end]],
    ["integers that a loop cannot count"] = [[
      local n = 0
      for i = math.maxinteger - 2, math.maxinteger do n = n + 1 end
      for i = math.mininteger, math.mininteger + 2 do n = n + 1 end
      for i = 1, math.huge, math.maxinteger do n = n + 1 end
      for i = 3, 1, math.mininteger do n = n + 1 end
      pcall(function() for i = 1, 10, 0 do end end)
      assert(math.mininteger // -1 == math.mininteger and math.mininteger % -1 == 0 and n > 6)]],
    ["texts with zeros compared and searched"] = [[
      local a, b = 'a\0b\0', 'a\0b\0c'
      assert(a < b and a ~= b and #(a .. b) == 9 and ('\0\0'):rep(3):find('\0', 2, true) == 2 and b:find('%z') == 2)
      for i = 1, 100 do local s = ('\0'):rep(i) assert(s < s .. '\0' and not (s .. '\0' < s)) end]],
    ["arguments at their edges"] = [[
      for _, n in ipairs { math.mininteger, math.maxinteger, -1, 0, 2^53 } do
        pcall(select, n, 1, 2) pcall(string.sub, 'abc', n, n) pcall(string.byte, 'abc', n, n) pcall(string.rep, 'a', n)
        pcall(utf8.offset, 'abc', n, n) pcall(utf8.codepoint, 'abc', n, n) pcall(utf8.char, n) pcall(utf8.len, 'abc', n, n)
        pcall(table.unpack, {}, n, n) pcall(table.concat, {}, '', n, n) pcall(table.insert, {}, n, 1) pcall(table.remove, {}, n)
        pcall(table.move, {}, n, n, n) pcall(table.move, {}, 1, 2, n) pcall(string.find, 'abc', 'b', n) pcall(tonumber, '10', n)
        pcall(string.format, '%' .. tostring(n) .. 'd', n) pcall(string.format, '%c', n) pcall(error, 'x', n) pcall(math.random, n)
        pcall(string.gmatch, 'abc', 'b', n) pcall(string.char, n) pcall(rawset, {}, n, 1) pcall(string.format, '%99.99s', 'x')
      end]],
  } do
    it(name, function()
      local p <close> = assert(core.policy(tick(body .. " state.done = true return nil, 'whole'"), "bad.lua"))
      assert(p:begin())
      for _ = 1, 3 do
        local _, reason, err = p:tick(SNAPSHOT)
        assert.is_true(reason == "whole" or err ~= nil)
        if err then assert.truthy(err.message:match "was killed" or err.message:match "policy_memory") end
      end
      assert.equal("good", said(tick "return nil, 'good'"))
    end)
  end
end)
