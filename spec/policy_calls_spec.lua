-- What the policy host gives a policy and takes from it: snapshots, state, proposals, the other hooks, compose.
local core = require "pool.core"

local SNAPSHOT = {
  now = 5, interval = 1, size = 10, max_overflow = 20, waiting = 3, arrivals = 7, queue_age = 0.25, settings = { size = 10 },
}

local function policy(source, options) return assert(core.policy(source, "tune.lua", options)) end

-- tick's answer for a body.
local function ticked(body, options)
  local p <close> = policy("local params = ... return { tick = function(s, state) " .. body .. "\n end }", options)
  assert(p:begin())
  local changes, reason, err = p:tick(SNAPSHOT)
  assert.is_nil(err, err and err.message)
  return changes, reason
end

-- What the body returns as a text, by way of the reason.
local function said(body, options) return select(2, ticked("return nil, tostring((function() " .. body .. "\n end)())", options)) end

describe("a snapshot", function()
  it("comes to a policy as it was taken, and is a fresh table each time", function()
    assert.equal("5 10 0.25 7", said "return ('%g %d %g %d'):format(s.now, s.settings.size, s.queue_age, s.arrivals)")
    local p <close> = policy "return { tick = function(s, state) if state.s == s then error 'same' end state.s = s s.size = nil end }"
    for _ = 1, 3 do assert.is_nil(select(3, p:tick(SNAPSHOT))) end
  end)

  it("is the same after going in and out", function()
    local whole = core.snapshot(SNAPSHOT):table()
    whole.wait = { count = 5, mean = 0.1, p50 = 0.1, p95 = 0.2, p99 = 0.25, max = 0.5 }
    whole.failing, whole.utilization, whole.leased_mean, whole.query.count = true, 0.5, 12.25, 9
    whole.database = { max_connections = 100, in_use = 42 }
    whole.settings.timeout, whole.settings.pre_ping = 1.5, false
    assert.same(whole, core.snapshot(whole):table())
    assert.same(whole, core.snapshot(core.snapshot(whole)):table())
  end)

  it("has every setting of the pool, and no figure of a database that is not known", function()
    local settings = {}
    for _, row in ipairs(core.settings()) do
      if row.room == "pool" then settings[row.name] = row.default end
    end
    local made = core.snapshot {}:table()
    assert.same(settings, made.settings)
    assert.same({}, made.database)
    assert.same({ count = 0, mean = 0, p50 = 0, p95 = 0, p99 = 0, max = 0 }, made.open_time)
  end)

  it("is refused when it is none", function()
    for _, case in ipairs {
      { 5, "a pool.Snapshot or its table is wanted, not a number" }, { { size = -1 }, "size is not a whole number from 0" },
      { { size = 1.5 }, "size is not a whole number" }, { { now = 0 / 0 }, "now is not a number from 0" },
      { { failing = 1 }, "failing is not true or false" }, { { wait = 3 }, "wait is a number, not a table" },
      { { wait = { p95 = "x" } }, "p95 is not a number" }, { { settings = { size = -1 } }, "size: -1 is out of range" },
    } do
      local ok, message = pcall(core.snapshot, case[1])
      assert.is_false(ok)
      assert(tostring(message):find(case[2], 1, true), message)
    end
  end)
end)

describe("tick", function()
  it("proposes nothing, one thing, several, with a reason or without", function()
    assert.is_nil((ticked ""))
    assert.is_nil((ticked "return {}"))
    assert.same({ size = 12 }, (ticked "return { size = 12.0 }"))
    assert.same({ size = 11, timeout = 0.5, pre_ping = false, queue = "fifo" },
      (ticked "return { size = s.settings.size + 1, timeout = 0.5, pre_ping = false, queue = 'fifo' }"))
    assert.equal("why not", select(2, ticked "return { size = 1 }, 'why not'"))
  end)

  it("has its reason cut and cleaned", function()
    local _, reason = ticked "return nil, 'a\\nb' .. ('x'):rep(1000)"
    assert.equal("a bxxx", reason:sub(1, 6))
    assert(#reason <= 255, #reason)
  end)

  it("keeps what it puts into its state, though it failed", function()
    local p <close> = policy [[return { tick = function(_, state)
      state.n = (state.n or 0) + 1
      if state.n < 3 then error 'x' end
      return { size = state.n } end }]]
    p:tick(SNAPSHOT)
    p:tick(SNAPSHOT)
    assert.same({ size = 3 }, (p:tick(SNAPSHOT)))
    assert.same({ 3, 2 }, { p:figures().calls, p:figures().errors })
    assert(p:figures().memory > 1000 and p:figures().longest >= p:figures().mean and p:figures().mean > 0)
  end)
end)

describe("what is the same each time:", function()
  it("pairs goes by integers, numbers, texts, booleans", function()
    local body = [[
      local t, out = { [3] = 1, b = 1, [1.5] = 1, a = 1, [-1] = 1, [true] = 1, [1] = 1, ab = 1, [-0.5] = 1, [false] = 1 }, {}
      for key in pairs(t) do out[#out + 1] = tostring(key) end
      return table.concat(out, ' ')]]
    for _ = 1, 20 do assert.equal("-1 1 3 -0.5 1.5 a ab b false true", said(body)) end
  end)

  it("pairs allows what is gone through to be changed", function()
    assert.equal("a c", said [[
      local t, out = { a = 1, b = 2, c = 3 }, {}
      for key in pairs(t) do out[#out + 1] = key t.b = nil t.a = 5 end
      return table.concat(out, ' ')]])
    assert.equal("1 2 3", said "local out = {} for i, v in pairs { 1, 2, 3 } do out[i] = v end return table.concat(out, ' ')")
    assert.equal("nil", said "return next {}")
  end)

  it("next goes the way of pairs", function()
    assert.equal("1=x 2=y a=5 b=6", said [[
      local out = {}
      for key, value in next, { b = 6, a = 5, 'x', 'y' } do out[#out + 1] = key .. '=' .. value end
      return table.concat(out, ' ')]])
  end)

  it("math.random, by the seed", function()
    local body = [[
      local out = {}
      for i = 1, 200 do out[i] = math.random(6) .. ' ' .. math.random(-5, 5) .. ' ' .. math.random() end
      return table.concat(out, ' '):sub(1, 250)]]
    assert.equal(said(body, { seed = 7 }), said(body, { seed = 7 }))
    assert.not_equal(said(body, { seed = 7 }), said(body, { seed = 8 }))
    assert.equal("true", said [[
      local low, high = math.huge, -math.huge
      for _ = 1, 2000 do local n = math.random(3, 5) low, high = math.min(low, n), math.max(high, n) end
      for _ = 1, 2000 do local n = math.random() if n < 0 or n >= 1 then return n end end
      return low == 3 and high == 5 and math.random(math.mininteger, math.maxinteger) ~= nil and not pcall(math.random, 2, 1)]])
  end)

  it("table.sort, which keeps the order of equals", function()
    assert.equal("1 1 2 3 5 8 9", said "local t = { 5, 3, 9, 1, 8, 2, 1 } table.sort(t) return table.concat(t, ' ')")
    assert.equal("9 8 5 3 2 1 1", said [[
      local t = { 5, 3, 9, 1, 8, 2, 1 } table.sort(t, function(a, b) return a > b end) return table.concat(t, ' ')]])
    assert.equal("true", said [[
      local t = {} for i = 1, 1000 do t[i] = { i * 7 % 10, i } end
      table.sort(t, function(a, b) return a[1] < b[1] end)
      for i = 2, 1000 do if t[i - 1][1] > t[i][1] or (t[i - 1][1] == t[i][1] and t[i - 1][2] > t[i][2]) then return i end end
      return true]])
    assert.equal("false", said "return (pcall(table.sort, { 1, 'x' }))")
  end)
end)

describe("the libraries that are left", function()
  it("work as ever", function()
    assert.equal("b-c 3 x1y abc 2.50", said [[
      local words = {} for w in ('b c'):gmatch '%a' do words[#words + 1] = w end
      local joined = table.concat(words, '-') .. ' ' .. #'abc' .. ' ' .. ('x y'):gsub(' ', '1')
      return joined .. ' ' .. ('%s%s'):format('ab', 'c') .. (' %.2f'):format(2.5)]])
    assert.equal("1 2 nil", said "local a, b, c = table.unpack { 1, 2 } return ('%s %s %s'):format(a, b, c)")
    assert.equal("false caught: tune.lua:1: no true 3", said [[
      local ok, text = xpcall(function() error 'no' end, function(err) return 'caught: ' .. err end)
      local good, value = xpcall(function(a) return a end, error, 3)
      return ('%s %s %s %s'):format(ok, text:gsub(':%d+:', ':1:'), good, value)]])
    assert.equal("3 5.0 16", said "return ('%s %s %s'):format(math.floor(3.7), math.max(5.0, 2), tonumber('10', 16))")
    assert.equal("7 v called 1", said [[
      local t = setmetatable({}, { __add = function() return 7 end, __tostring = function() return 'v' end,
        __call = function() return 'called' end, __len = function() return 1 end })
      return ('%d %s %s %d'):format(t + 1, t, t(), #t)]])
    assert.equal("done closed", said [[
      local log = 'done'
      do local _ <close> = setmetatable({}, { __close = function() log = log .. ' closed' end }) end
      return log]])
  end)
end)

describe("begin", function()
  it("hands the old state to load, or copies it: plain data only", function()
    local old <close> = policy [[return { tick = function(_, state)
      state.n, state.list, state.f, state.on, state[1.5] = 3, { 1, 2, { deep = 'x' }, error }, error, true, 'y' end }]]
    old:tick(SNAPSHOT)
    local report = [[ return { tick = function(_, state) return nil,
      ('%s %s %s %s %s %s'):format(state.n, state.list[3].deep, state.f, state.on, state[1.5], #state.list) end ]]
    local copied <close> = policy(report .. "}")
    local loaded <close> = policy(report .. ", load = function(o) o.n = o.n + 1 return o end }")
    assert(copied:begin(old))
    assert(loaded:begin(old))
    assert.equal("3 x nil true y 3", select(2, copied:tick(SNAPSHOT)))
    assert.equal("4 x nil true y 3", select(2, loaded:tick(SNAPSHOT)))
    old:close()
    assert.equal("3 x nil true y 3", select(2, copied:tick(SNAPSHOT))) -- nothing of the old state is shared
  end)

  it("begins with nothing, and load then gets nil", function()
    local p <close> = policy [[return { tick = function(_, state) return nil, state.first end,
      load = function(old) return { first = tostring(old) } end }]]
    assert(p:begin())
    assert.equal("nil", select(2, p:tick(SNAPSHOT)))
  end)

  it("refuses a state that contains itself, is too deep or too large, and a load without a table", function()
    local function begins(body, load, options)
      local old <close> = policy("return { tick = function(_, state) " .. body .. " end }")
      assert.is_nil(select(3, old:tick(SNAPSHOT)))
      local new <close> = policy("return { tick = error" .. (load or "") .. "}", options)
      return select(2, new:begin(old)).message
    end
    assert.matches("the old state: tables nested deeper than 64, or one that contains itself", begins "state.me = state")
    assert.matches("nested deeper than 64", begins "local t = {} for _ = 1, 100 do t = { t } end state.t = t")
    assert.matches("was killed", begins "local t = {} for _ = 1, 40 do t = { t, t } end state.t = t")
    local large = "for i = 1, 40 do state[i] = {} for j = 1, 100 do state[i][j] = { {} } end end"
    assert.matches("tune.lua: load: more than 300000 bytes", begins(large, nil, { memory = 300000 }))
    assert.error_matches(function()
      local p <close> = policy "return { tick = error }"
      p:begin(p)
    end, "a policy cannot follow itself")
    assert.matches("tune.lua: load returned a number: a table is wanted", begins("", ", load = function() return 5 end"))
  end)
end)

describe("parameters", function()
  it("come as the chunk's ..., a table even when none are given", function()
    local params = { a = 5, b = { "x" }, c = true }
    assert.equal("5 x true", said("return ('%s %s %s'):format(params.a, params.b[1], params.c)", { params = params }))
    assert.equal("table", said "return type(params)")
  end)

  it("are refused when they are no plain data", function()
    local _, err = core.policy("return {}", "x", { params = { print } })
    assert.matches("params: a function is no plain data", err.message)
    local loop = {}
    loop.loop = loop
    assert.matches("or one that contains itself", select(2, core.policy("return {}", "x", { params = loop })).message)
  end)
end)

describe("the other hooks", function()
  local hooks <const> = [[return { name = "guard", every = 0.5,
    admit = function(s, r)
      if r.key == "bad" then error "x" end
      return s.waiting < 5 and r.key ~= "out" and r.priority > 2 and r.timeout == 1.5 or nil == r.key end,
    on_event = function(e, s) if e.kind == "fail" then error(e.message .. s.size) end end,
    weight = function(key) if key == "none" then return end return key == "silly" and 1000 or #key end }]]

  it("are known by name, with every and name", function()
    local p <close> = policy(hooks)
    assert.same({ admit = true, on_event = true, weight = true }, p.hooks)
    assert.same({ "guard", 0.5 }, { p.name, p.every })
    local plain <close> = policy "return { tick = error }"
    assert.same({ 1.0, { tick = true } }, { plain.every, plain.hooks })
    assert.is_nil(plain.name)
    assert.has_error(function() return plain.tock end, nil)
  end)

  it("admit: only nil or true admits, and a hook that fails admits", function()
    local p <close> = policy(hooks)
    local function admits(...) return p:admit(SNAPSHOT, ...) end
    assert.same({ true, false, false }, { admits("a", 5, 1.5), admits("out", 5, 1.5), admits("a", 2, 1.5) })
    assert.same({ true, true }, { admits("bad", 5, 1.5), admits(nil, 0, 1) })
    assert.same({ 5, 1 }, { p:figures().calls, p:figures().errors })
  end)

  it("weight: a whole number from 1 to 255, else 1", function()
    local p <close> = policy(hooks)
    assert.same({ 3, 1, 1 }, { p:weight "abc", p:weight "none", p:weight "silly" })
    assert.equal(1, p:figures().errors)
  end)

  it("on_event: its failure is told", function()
    local p <close> = policy(hooks)
    assert.is_true(p:event("timeout", "m", SNAPSHOT))
    assert.matches("tune.lua:5: gone10", select(2, p:event("fail", "gone", SNAPSHOT)).message)
  end)

  it("that are not there cost nothing and do no harm", function()
    local p <close> = policy "return { weight = function() end }"
    assert.is_nil((p:tick(SNAPSHOT)))
    assert.is_true(p:admit(SNAPSHOT, "k", 5, 1))
    assert.is_true(p:event("lost", "m", SNAPSHOT))
    assert.equal(0, p:figures().calls)
  end)

  it("are over when the policy is closed", function()
    local p = policy(hooks)
    p:close()
    p:close()
    assert.error_matches(function() p:weight "x" end, "this policy is closed")
  end)
end)

describe("compose", function()
  local library <const> = {
    sizer = "local p = ... return { name = 'sizer', tick = function(s, state) state.n = (state.n or 0) + 1 "
      .. "return { size = (p.from or 0) + state.n, max_overflow = 1 }, 'sizer' end }",
    closer = "return { every = 0.5, tick = function() return { max_overflow = 7 }, 'closer' end, "
      .. "admit = function(_, r) return r.key ~= 'no' end, weight = function(key) if key == 'k' then return 9 end end }",
    keeper = "return { load = function(old) return { n = (old and old.n or 10) + 1 } end, "
      .. "tick = function(_, state) return { min_idle = state.n } end }",
    both = "return compose { 'sizer', 'closer' }",
    broken = "local x = nil + 1",
  }
  local function composed(entries) return policy("return compose { " .. entries .. " }", { library = library }) end

  it("merges what the parts propose, the later ones win, the reasons are joined", function()
    local p <close> = composed "'sizer', 'closer', { tick = function() return nil, 'own' end }"
    assert(p:begin())
    local changes, reason = p:tick(SNAPSHOT)
    assert.same({ size = 1, max_overflow = 7 }, changes)
    assert.equal("sizer; closer; own", reason)
    assert.equal(2, p:tick(SNAPSHOT).size)
    assert.same({ 0.5, "sizer+closer+part 3" }, { p.every, p.name })
    assert.same({ tick = true, admit = true, weight = true, load = true }, p.hooks)
  end)

  it("takes names, names with parameters, policies, and what was composed before", function()
    local p <close> = composed "{ 'sizer', from = 10 }, { policy = 'sizer', from = 20 }, 'both', compose { 'keeper' }"
    assert(p:begin())
    assert.same({ size = 1, max_overflow = 7, min_idle = 11 }, (p:tick(SNAPSHOT)))
    local q <close> = composed "'both', { 'sizer', from = 10 }, { policy = 'sizer', from = 20 }"
    assert(q:begin())
    assert.same({ size = 21, max_overflow = 1 }, (q:tick(SNAPSHOT)))
  end)

  it("admits when all admit, weighs by the first that says something", function()
    local p <close> = composed "'closer', { admit = function() end, weight = function() return 3 end }"
    assert.same({ true, false }, { p:admit(SNAPSHOT, "yes", 5, 1), p:admit(SNAPSHOT, "no", 5, 1) })
    assert.same({ 9, 3 }, { p:weight "k", p:weight "other" })
  end)

  it("calls on_event of each", function()
    local p <close> = composed "{ on_event = function() end }, { on_event = function() error 'second' end }"
    assert.matches("second", select(2, p:event("lost", "m", SNAPSHOT)).message)
  end)

  it("keeps each part's state apart, and finds it again after a reload that changed the others", function()
    local p <close> = composed "'sizer', 'keeper'"
    assert(p:begin())
    p:tick(SNAPSHOT)
    local q <close> = composed "'keeper', 'closer', 'sizer'"
    assert(q:begin(p))
    assert.same({ size = 2, min_idle = 12, max_overflow = 1 }, (q:tick(SNAPSHOT)))
  end)

  it("says what is wrong with an entry", function()
    for entries, message in pairs {
      ["'nobody'"] = 'compose: there is no policy "nobody"; there is both, broken, closer, keeper, sizer',
      ["{}"] = 'compose: entry 1 has no policy: {"name", ...}, {policy = "name", ...} or {tick = function ...}',
      ["'sizer', 5"] = "compose: entry 2 is a number: a name, or a table",
      [""] = "compose: no policy is named",
      ["sizer = true, 'sizer'"] = "compose: sizer is no entry",
      ["'broken'"] = "broken:1: attempt to perform arithmetic on a nil value",
      ["{ tick = 5 }"] = "compose: entry 1: tick is a number, not a function",
    } do
      local p, err = core.policy("return compose { " .. entries .. " }", "tune.lua", { library = library })
      assert.is_nil(p)
      assert(err.message:find(message, 1, true), err.message)
    end
  end)
end)

describe("dispose", function()
  local now <const> = { size = 10, max_overflow = 20 }

  it("clamps, slews and checks", function()
    assert.same({ 12, 20 }, { core.dispose(now, { size = 40 }).size, core.dispose(now, { size = 40 }).max_overflow })
    assert.equal(40, core.dispose(now, { size = 40 }, nil, false).size)
    assert.equal(15, core.dispose(now, { size = 40 }, { size = { 1, 15 } }, false).size)
    assert.matches("backoff_min", select(2, core.dispose(now, { backoff_min = 5 })).message)
    assert.matches("out of range", select(2, core.dispose(now, { size = -1 })).message)
  end)

  it("refuses limits that are none", function()
    for _, limits in ipairs {
      { siz = { 1, 2 } }, { size = { 5, 1 } }, { size = { -1, 5 } }, { size = 5 }, { pre_ping = { 0, 1 } }, { size = {} },
    } do
      assert.error_matches(function() core.dispose(now, {}, limits) end, "limits: ")
    end
  end)
end)
