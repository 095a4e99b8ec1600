-- lua/pool/types.lua tells editors what there is: everything that is there, and nothing that is not.
local core = require "pool.core"
local pool = require "pool"

local file = assert(io.open "lua/pool/types.lua")
local TEXT = file:read "a"
file:close()

-- The names of a class: its `---@field` lines, and the functions of the table below it.
local function fields_of(class)
  local block = assert(TEXT:match("\n%-%-%-@class " .. class:gsub("%.", "%%.") .. "%f[^%w.][^\n]*\n(.-)\n[^-]"), class .. " is not there")
  local names = {}
  for name in ("\n" .. block):gmatch "\n%-%-%-@field ([%w_]+)" do names[name] = true end
  return names
end

local function functions_of(prefix)
  local names = {}
  for name in TEXT:gmatch("\nfunction " .. prefix:gsub("%.", "%%.") .. "[.:]([%w_]+)%(") do names[name] = true end
  return names
end

local function keys_of(...)
  local names = {}
  for _, t in ipairs { ... } do
    for name in pairs(t) do
      if name:sub(1, 1) ~= "_" then names[name] = true end -- an underscore first is for pool's own files
    end
  end
  return names
end

-- Both ways, as lists of what is missing, so that a failure names it.
local function same(there, documented)
  local missing, extra = {}, {}
  for name in pairs(there) do if not documented[name] then missing[#missing + 1] = name end end
  for name in pairs(documented) do if not there[name] then extra[#extra + 1] = name end end
  assert.same({ undocumented = {}, ["not there"] = {} }, { undocumented = missing, ["not there"] = extra })
  assert.truthy(next(there))
end

local function methods_of(name) return debug.getregistry()[name].__index end

describe("the annotations for editors", function()
  it("compile, and refuse to be run", function()
    assert(loadfile("lua/pool/types.lua", "t"))
    assert.has_error(function() require "pool.types" end)
  end)

  it("name everything of require \"pool\"", function()
    same(keys_of(pool), keys_of(functions_of "pool", fields_of "pool", { json = true }))
    same(keys_of(pool.json), functions_of "pool.json")
  end)

  it("name every method of a Pool and of a Connection", function()
    same(keys_of(core.pool_methods), functions_of "Pool")
    same(keys_of(core.connection_methods), functions_of "Connection")
  end)

  it("name every method of a Session and of a Task", function()
    local db <close> = pool.new "sqlite:///:memory:"
    local session <close> = db:session()
    for name in pairs(functions_of "Session") do assert.is_function(session[name], name) end
    local _, methods = debug.getupvalue(getmetatable(session).__index, 1)
    same(keys_of(methods), functions_of "Session")
    _, methods = debug.getupvalue(methods_of "pool.Task", 1)
    same(keys_of(methods), functions_of "Task")
  end)

  it("name the fields that a Pool, a Connection, a Session and a Task answer to", function()
    local db <close> = pool.new "sqlite:///:memory:"
    local values = { ["pool.Pool"] = db }
    pool.run(function()
      values["pool.Task"] = pool.spawn(function() end)
      values["pool.Session"] = db:session()
      local c <close> = assert(db:acquire())
      values["pool.Connection"] = c
      for class, value in pairs(values) do
        for name in pairs(fields_of(class)) do assert.is_not_nil(value[name], class .. "." .. name) end
      end
    end)
  end)

  it("are right that there is nothing else: another name raises", function()
    local db <close> = pool.new "sqlite:///:memory:"
    pool.run(function()
      local c <close> = assert(db:acquire())
      for class, value in pairs { Pool = db, Connection = c, Task = pool.spawn(function() end) } do
        for _, name in ipairs { "sum", "idle", "Status", "quer" } do
          local fine, message = pcall(function() return value[name] end)
          assert.is_false(fine, class .. "." .. name)
          assert.matches(("a %s has no '%s'"):format(class, name), message)
        end
      end
    end)
  end)

  it("name every setting, and each as what it takes", function()
    local there, fields = {}, fields_of "pool.Settings"
    local types = { count = "integer", duration = "number", ratio = "number", flag = "boolean", text = "string" }
    for _, setting in ipairs(pool.settings()) do
      there[setting.name] = true
      local annotated = TEXT:match("%-%-%-@field " .. setting.name .. "%? (%S+)")
      if setting.choices then
        for _, choice in ipairs(setting.choices) do
          assert.truthy(TEXT:match("%-%-%-@field " .. setting.name .. '%? [^\n]*"' .. choice .. '"'), setting.name .. " " .. choice)
        end
      else
        assert.equal(types[setting.type], annotated, setting.name)
      end
    end
    same(there, fields)
  end)

  it("name the fields of a setting's description, of figures and of leases", function()
    local described = {}
    for _, setting in ipairs(pool.settings()) do
      for name in pairs(setting) do described[name] = true end
    end
    same(described, fields_of "pool.Setting")
    local db <close> = pool.new "sqlite:///:memory:"
    pool.run(function()
      local c <close> = assert(db:acquire())
      assert(c:query "select 1")
      local stats = db:stats()
      same(keys_of(stats, { last_alive = 0 }), fields_of "pool.Stats")
      same(keys_of(stats.wait), fields_of "pool.Histogram")
      same(keys_of(db:leases()[1], { sql = "" }), fields_of "pool.Lease")
    end)
  end)

  it("name what rows have beside themselves", function()
    local db <close> = pool.new "sqlite:///:memory:"
    local rows = assert(db:query "select 1 as one")
    for name in pairs(fields_of "pool.Rows") do assert.is_not_nil(rows[name], name) end
  end)

  it("name every kind of error, and no other", function()
    local source = assert(io.open "src/core/base.c")
    local kinds = {}
    for kind in source:read "a":gmatch 'case POOL_%u+: return "(%l+)"' do kinds[kind] = kind ~= "ok" or nil end
    source:close()
    local documented = {}
    for kind in TEXT:match "%-%-%-@alias pool%.Error%.Kind\n(.-)\n\n":gmatch '"(%l+)"' do documented[kind] = true end
    same(kinds, documented)
  end)
end)
