-- Values travel apart from the statement, so nothing that a client sends can become SQL: hostile values of every kind come back byte by
-- byte on both databases, names are quoted, one call is one statement, and options are no text.
local pool = require "pool"
local pools = require "support.pools"
local process = require "support.process"

local check = pools.check

local TEXTS = {
  "'", "''", "\"", "\\", "\\'", "';--", "'; drop table victim; --", "\"; drop table victim; --", "1; drop table victim", "1 or 1=1",
  "' or ''='", "$1", "$2", "$$", "$a$ drop table victim $a$", "?", "?1", ":a", "@a", "%s", "%27", "E'\\x27'", "/* */",
  "/*", "--", "\n--\n", "\r\n", "\t",
  ";", "NULL", "null", "true", "{}", "{a,b}", "[]", "()", "(1,2)", "\\x41", "\\copy",
  "\\.", "0x1F", "1e999", "-0", "NaN", "infinity",
  "\u{2019}; drop table victim", "\u{FF07}", "\u{BF}\u{27}", "e\u{301}", "\u{202E}evil", "\u{FEFF}bom", "\u{10FFFF}", "\1\2\31\127",
  ("'"):rep(5000), ("\\"):rep(5001), (" "):rep(300) .. "'", "", " ", "a\u{A0}b", "', (select version()), '", "x' union select 'y",
  "\u{2028}", "select pg_sleep(9)", "'||(select 1)||'", "}{", "\",\"", "{\"a\":\"b\"}", "{\"a\": {\"$ne\": null}}", "__proto__",
}
local BYTES = { "\0", "'\0'", "\xbf\x27", "\xbf\x5c", "\xff\xfe", "\x00\x01\x02", "\\x00", ("\0'\\\""):rep(999), "" }
local NAMES = {
  "a", "select", "A b", "\"", "\"\"", "a\"b", "'; drop table victim; --", "\"; drop table victim; --", "a.b", "$1", "?", "%",
  "\\", "--", "/*", "t\u{FC}r", "\u{2019}", "\n", " ", "[x]", "`x`", "x`; drop table victim; --", "1",
}

for _, driver in ipairs { "postgres", "sqlite" } do
  describe("on " .. driver, function()
    local db, dir
    before_each(function()
      pools.begin()
      dir = process.run("mktemp -d"):match "[^\n]*"
      db = pools.open { database_url = driver == "sqlite" and "sqlite:///" .. dir .. "/a.db" or nil, size = 1, max_overflow = 0 }
      check(db:exec "drop table if exists victim; create table victim (t text)")
    end)
    after_each(function()
      assert.equal(0, check(db:query "select count(*) as n from victim")[1].n)
      check(db:exec "drop table victim")
      pools.finish()
      process.run("rm -r " .. dir)
    end)

    it("a hostile text comes back as it was: asked for, stored, compared, streamed, as JSON, beside others", function()
      local c <close> = check(db:acquire())
      check(c:begin())
      for i, text in ipairs(TEXTS) do
        assert.equal(text, check(c:query("select cast($1 as text) as t", text))[1].t)
        check(c:query("insert into victim values ($1)", text))
        local row = check(c:query("select t, cast($2 as text) as other from victim where t = $1", text, TEXTS[#TEXTS + 1 - i]))[1]
        assert.same({ text, TEXTS[#TEXTS + 1 - i] }, { row.t, row.other })
        assert.equal(1, check(c:query("delete from victim where t = $1", text)).affected)
        assert.equal(text, pool.json.decode(check(c:json("select cast($1 as text) as t", text)))[1].t)
        for streamed in c:rows("select cast($1 as text) as t", text) do assert.equal(text, streamed.t) end
      end
      check(c:rollback())
    end)

    it("bytes come back as they were, each of them", function()
      local every = {}
      for byte = 0, 255 do every[#every + 1] = string.char(byte) end
      for _, bytes in ipairs { table.concat(every), table.unpack(BYTES) } do
        local sql = driver == "sqlite" and "select $1 as b" or "select $1::bytea as b"
        assert.equal(bytes, check(db:query(sql, pool.bytes(bytes)))[1].b)
      end
    end)

    it("a text inside an array or JSON comes back as it was, a key of it too", function()
      local object = {}
      for i, text in ipairs(TEXTS) do object[text] = TEXTS[#TEXTS + 1 - i] end
      local sql = driver == "sqlite" and "select cast($1 as text) as j" or "select $1::jsonb as j"
      local back = check(db:query(sql, pool.jsonb(object)))[1].j
      if type(back) == "string" then back = check(pool.json.decode(back)) end
      for text, other in pairs(object) do assert.equal(other, back[text]) end
      for text in pairs(back) do assert.truthy(object[text]) end
      if driver == "postgres" then
        local array = check(db:query("select $1::text[] as a", pool.array(TEXTS)))[1].a
        for i, text in ipairs(TEXTS) do assert.equal(text, array[i]) end
        assert.equal(#TEXTS, check(db:query("select count(*) as n from unnest($1::text[])", pool.array(TEXTS)))[1].n)
      else
        local rows = check(db:query("select value as t from json_each($1)", pool.array(TEXTS)))
        for i, text in ipairs(TEXTS) do assert.equal(text, rows[i].t) end
      end
    end)

    it("numbers, booleans and NULL are no text", function()
      for _, value in ipairs { 0, -1, math.maxinteger, math.mininteger, 1.5, -0.25, 1e300, true, false } do
        local sql = driver == "sqlite" and "select $1 as v" or "select $1::" .. (math.type(value) == "integer" and "int8" or
          math.type(value) and "float8" or "bool") .. " as v"
        local back = check(db:query(sql, value))[1].v
        if driver == "sqlite" and type(value) == "boolean" then back = back == 1 end
        assert.equal(value, back)
      end
      assert.is_nil(check(db:query("select cast($1 as text) as v", nil))[1].v)
      for _, wrong in ipairs { {}, { 1 }, print, setmetatable({}, { __tostring = function() return "'; drop table victim" end }) } do
        assert.has_error(function() db:query("select $1", wrong) end)
      end
    end)

    it("a quoted name is one name, whatever is in it", function()
      for _, name in ipairs(NAMES) do
        local quoted = pool.identifier(name)
        assert.same({ [name] = 1 }, (check(db:query("select 1 as " .. quoted))[1]), name)
        check(db:exec("create table " .. quoted .. " (a integer); insert into " .. quoted .. " values (7)"))
        assert.equal(7, check(db:query("select a from " .. quoted))[1].a)
        check(db:exec("drop table " .. quoted))
      end
      for _, name in ipairs { "", "a\0b", "\xff", ("x"):rep(3) .. "\xc3" } do assert.has_error(function() pool.identifier(name) end) end
      for _, wrong in ipairs { 1, {}, print, true } do assert.has_error(function() pool.identifier(wrong) end) end
    end)

    it("one call is one statement, with parameters or without, streamed, as JSON, prepared or not", function()
      local unprepared = pools.open { database_url = driver == "sqlite" and "sqlite:///" .. dir .. "/a.db" or nil, statement_cache = 0,
        pooler = "transaction" }
      for _, sql in ipairs {
        "select 1; drop table victim", "select 1; insert into victim values ('x')", "insert into victim values ('x'); select 1",
        "; insert into victim values ('x'); insert into victim values ('y')", "select 1; commit; drop table victim",
        "select 1 /* ; */ ; drop table victim; --",
      } do
        for _, d in ipairs { db, unprepared } do
          for _, parameters in ipairs { {}, { "x" } } do
            assert.is_nil((d:query(sql, table.unpack(parameters))), sql)
            assert.is_nil((d:json(sql, table.unpack(parameters))), sql)
            assert.is_false((pcall(function() d:rows(sql, table.unpack(parameters))() end)), sql)
          end
        end
      end
      assert.has_error(function() db:exec("insert into victim values ($1)", "x") end)
      assert.has_error(function() db:query { "select 1" } end)
    end)

    it("a statement's end is its length: a NUL hides nothing behind it", function()
      for _, method in ipairs { "query", "json", "exec" } do
        local result, err = db[method](db, "select 1\0; drop table victim")
        assert.is_nil(result)
        assert.equal("22021", err.sqlstate)
      end
    end)

    it("options that become SQL are names from a list", function()
      for _, isolation in ipairs { "serializable; drop table victim", "read committed read only", "'", "", "SERIALIZABLE\0" } do
        assert.has_error(function() db:transaction(function() end, { isolation = isolation }) end)
      end
      local wrong = { { read_only = "true; drop table victim" }, { deferrable = "x" }, { isolation = 5 }, { retries = "1; x" } }
      for _, options in ipairs(wrong) do
        assert.has_error(function() db:transaction(function() end, options) end)
      end
    end)
  end)
end
