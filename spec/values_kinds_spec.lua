-- Json, bytes, and the types that have no counterpart in Lua, from PostgreSQL.
local pool = require "pool"
local postgres = require "support.postgres"
local values = require "support.values"
local same, one, json = values.same, values.one, values.json

local db, close
setup(function() db, close = values.open() end)
teardown(function() close() end)

describe("json from PostgreSQL", function()
  it("is decoded: objects, arrays, scalars, and null as pool.null at every level", function()
    assert.same({ a = { 1, pool.null, { b = pool.null } }, c = 1.5, d = true }, one(db,
      [[select '{"a": [1, null, {"b": null}], "c": 1.5, "d": true}'::jsonb]]))
    same("text", one(db, [[select '"text"'::jsonb]]))
    same(7, one(db, "select '7'::json"))
    same(7.0, one(db, "select '7.0'::json"))
    same(false, one(db, "select 'false'::jsonb"))
    same(pool.null, one(db, "select 'null'::jsonb"))
    same(pool.null, one(db, "select 'null'::json"))
    assert.is_nil(one(db, "select null::json"))
    assert.same({}, one(db, "select '[]'::jsonb"))
    same(math.maxinteger, one(db, "select '[9223372036854775807]'::jsonb")[1])
  end)

  it("keeps [] and {} apart on the way back", function()
    local row = assert(db:query [=[select '{"a": [], "o": {}, "n": [[], [null]]}'::jsonb as j]=])[1]
    assert.equal('{"j":{"a":[],"n":[[],[null]],"o":{}}}', pool.json.encode(row))
  end)

  it("that Lua cannot hold exactly is its own text", function()
    for _, text in ipairs { "9223372036854775808", "-9223372036854775809", '{"a": 123456789012345678901234567890}', "[1e400]", "-1e999" } do
      same(text, one(db, "select $1::json", text))
    end
    same('{"\\u0000key": 1}', one(db, "select $1::json", '{"\\u0000key": 1}'))
  end)

  it("may hold \\u0000 and any other character", function()
    same("a\0b", one(db, [[select '"a\u0000b"'::json]]))
    assert.equal([==[{"j":"a\u0000b"}]==], pool.json.encode(assert(db:query [[select '"a\u0000b"'::json as j]])[1]))
    same("é😀\n\127", one(db, [[select '"\u00e9\ud83d\ude00\n\u007f"'::json]]))
  end)

  it("is inserted by db:json as the server wrote it", function()
    assert.equal([==[[{"j":{ "b":1,  "a" : 1e400 },"n":null,"m":null}]]==],
      db:json [[select '{ "b":1,  "a" : 1e400 }'::json as j, 'null'::jsonb as n, null::jsonb as m]])
  end)

  it("deeper than 128 levels is its own text in rows, and comes whole in db:json", function()
    local deep = ("["):rep(200) .. ("]"):rep(200)
    same(deep, one(db, "select $1::json", deep))
    assert.equal('[{"j":' .. deep .. "}]", db:json("select $1::json as j", deep))
    local fine = ("["):rep(128) .. ("]"):rep(128)
    assert.equal("table", type(one(db, "select $1::json", fine)))
  end)
end)

describe("bytea from PostgreSQL", function()
  it("is the bytes, both ways, however the database writes them", function()
    local every = values.every_byte()
    same("", one(db, "select ''::bytea"))
    same(every, one(db, "select $1::bytea", pool.bytes(every)))
    same(256, one(db, "select length($1::bytea)", pool.bytes(every)))
    assert(db:exec "set bytea_output = escape")
    same(every, one(db, "select $1::bytea", pool.bytes(every)))
    same("\\", one(db, [[select '\x5c'::bytea]]))
    assert.same({ every }, one(db, "select array[$1::bytea]", pool.bytes(every)))
    assert(db:exec "reset bytea_output")
    same(every, one(db, "select $1::bytea", pool.bytes(every)))
  end)

  it("is base64 in JSON", function()
    assert.equal('[{"a":"","b":"Zg==","c":"Zm8=","d":"Zm9v","e":"//79"}]', json(db,
      [[select ''::bytea as a, 'f'::bytea as b, 'fo'::bytea as c, 'foo'::bytea as d, '\xfffefd'::bytea as e]]))
  end)
end)

describe("another type of PostgreSQL's", function()
  it("is text", function()
    for sql, want in pairs {
      ["timestamp '2024-02-29 12:34:56.789'"] = "2024-02-29 12:34:56.789",
      ["timestamptz '2024-02-29 12:34:56+02'"] = "2024-02-29 10:34:56+00",
      ["date '2024-02-29'"] = "2024-02-29",
      ["timestamp 'infinity'"] = "infinity",
      ["date '0044-03-15 BC'"] = "0044-03-15 BC",
      ["time '12:34:56.7'"] = "12:34:56.7",
      ["interval '1 year 2 months 3 days 04:05:06'"] = "1 year 2 mons 3 days 04:05:06",
      ["'A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid"] = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
      ["int4range(1, 5)"] = "[1,5)",
      ["'{[1,3),[5,7)}'::int4multirange"] = "{[1,3),[5,7)}",
      ["'192.168.0.1/24'::inet"] = "192.168.0.1/24",
      ["B'0101'"] = "0101",
      ["point '(1,2)'"] = "(1,2)",
      ["row(1, 'a b', null)"] = '(1,"a b",)',
      ["1.5::money::numeric::text"] = "1.50",
      ["'x'::\"char\""] = "x",
      ["'ab'::char(4)"] = "ab  ",
      ["'pg_class'::regclass"] = "pg_class",
    } do
      same(want, one(db, "select " .. sql))
    end
  end)

  it("is text in arrays", function()
    assert.same({ "2024-02-29", pool.null }, one(db, "select array[date '2024-02-29', null]"))
    assert.same({ "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11" }, one(db, "select array['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid]"))
    assert.same({ "(1,1),(0,0)", "(2,2),(1,1)" }, one(db, "select array['(0,0),(1,1)', '(1,1),(2,2)']::box[]"))
    assert.same({ "[1,5)", "empty" }, one(db, "select array[int4range(1, 5), 'empty']"))
  end)

  it("is what its base is for a domain, and text for an enum, a composite and arrays of them", function()
    assert(db:exec [[create schema kinds; create domain kinds.age as int check (value >= 0); create domain kinds.name as text;
      create type kinds.mood as enum ('sad', 'so so'); create type kinds.pair as (a int, b text)]])
    same(7, one(db, "select 7::kinds.age"))
    same("x", one(db, "select 'x'::kinds.name"))
    same("so so", one(db, "select 'so so'::kinds.mood"))
    same('(1,"x y")', one(db, "select (1, 'x y')::kinds.pair"))
    same('{sad,"so so"}', one(db, "select array['sad', 'so so']::kinds.mood[]"))
    assert(db:exec "drop type kinds.mood, kinds.pair; drop domain kinds.age, kinds.name; drop schema kinds")
  end)
end)

describe("text from PostgreSQL", function()
  it("is UTF-8 as it is, in JSON too", function()
    local text = "Grüße, 世界 😀 \u{10FFFF} \u{200B}"
    same(text, one(db, "select $1::text", text))
    assert.equal('[{"t":"' .. text .. '"}]', json(db, "select $1::text as t", text))
  end)

  it("has its control characters, quotes and backslashes escaped in JSON, and nothing else", function()
    assert.equal([==[[{"t":"\u0001\t\n\r\b\f\u001f\"\\/]==] .. '\127"}]',
      json(db, "select $1::text as t", "\1\t\n\r\b\f\31\"\\/\127"))
  end)

  it("may be ten megabytes long", function()
    local long = assert(db:query "select repeat('0123456789', 1024 * 1024) as t, 'after' as u")[1]
    assert.equal(10 * 1024 * 1024, #long.t)
    assert.equal("after", long.u)
    assert.is_true(long.t == ("0123456789"):rep(1024 * 1024))
    same(10 * 1024 * 1024, one(db, "select length($1)", long.t))
  end)

  it("is UTF-8 and its dates are ISO though the database says otherwise", function()
    local name = "values_settings"
    pcall(postgres.sql, "drop database if exists " .. name)
    postgres.sql("create database " .. name .. " encoding 'LATIN1' template template0 lc_collate 'C' lc_ctype 'C'")
    postgres.sql("alter database " .. name .. " set datestyle = 'SQL, DMY'; alter database " .. name .. " set client_encoding = 'LATIN1'")
    local other, close_other = values.open(nil, { database = name })
    same("2024-02-29", one(other, "select date '2024-02-29'"))
    same("ü", one(other, "select chr(252)"))
    same("ü", one(other, "select $1::text", "ü"))
    local rows, err = other:query("select $1::text", "世")
    assert.is_nil(rows)
    assert.equal("22P05", err.sqlstate)
    close_other()
    postgres.sql("drop database " .. name)
  end)
end)
