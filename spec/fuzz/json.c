/*
** json: pool.json both ways (lua/ldecode.c, lua/ljson.c), and the reader of json that SQLite's cells go through (db/sqlite_json.c).
**
** Plain bytes are a JSON text: what it decodes to, encoded and decoded again, is the same value, and its text is the same again; what one
** reader takes the other takes. After a NUL the bytes choose a Lua value instead: it encodes to a text that decodes, or is refused by
** an error that names the place.
*/
#include <stdlib.h>
#include <string.h>

#include "db/json_text.h"
#include "db/sqlite.h"
#include "fuzz/fuzz.h"
#include "fuzz/lua.h"

static const char chunk[] =
    "local pool = require 'pool.core'\n"
    "local json, null = pool.json, pool.null\n"
    "local function same(a, b)\n"
    "  if type(a) ~= type(b) or math.type(a) ~= math.type(b) or getmetatable(a) ~= getmetatable(b) then return false end\n"
    "  if type(a) ~= 'table' then return a == b and (a ~= 0 or 1 / a == 1 / b) end\n"
    "  for key, value in next, a do if not same(value, b[key]) then return false end end\n"
    "  for key in next, b do if a[key] == nil then return false end end\n"
    "  return true\n"
    "end\n"
    "local function text_of_value(value)\n"
    "  local fine, text = pcall(json.encode, value)\n"
    "  if fine then return text end\n"
    "  assert(text:find('pool.json: $', 1, true), text)\n"
    "end\n"
    "local places = {}\n"
    "local function value_of(take, depth)\n" /* a value as the bytes choose it; tables may be met again, within themselves too */
    "  local kind = take(20)\n"
    "  if kind == 0 then return nil elseif kind == 1 then return null elseif kind == 2 then return take(2) == 1\n"
    "  elseif kind == 3 then return take(256) - 128 elseif kind == 4 then return math.mininteger // (take(8) + 1)\n"
    "  elseif kind == 5 then return (take(256) - 128) / 8 elseif kind == 6 then return ({ 1/0, -1/0, 0/0, -0.0, 1e308, 5e-324 })[take(6) + "
    "1]\n"
    "  elseif kind <= 9 then return take(-1) elseif kind == 10 then return pool.bytes(take(-1))\n"
    "  elseif kind == 11 then local fine, made = pcall(pool.jsonb, value_of(take, depth + 1)) return fine and made or nil\n"
    "  elseif kind == 12 then return places[take(8) + 1] elseif kind == 13 then return ({ print, coroutine.create(print), io.stdout "
    "})[take(3) + 1]\n"
    "  elseif depth > 40 then return {} end\n"
    "  local made, array = {}, kind >= 18\n"
    "  if kind == 14 or array then made = pool.array(made) end\n"
    "  places[#places + 1] = made\n"
    "  for i = 1, take(6) do\n"
    "    local key = i\n"
    "    if not array and kind ~= 17 then key = take(8) == 0 and value_of(take, depth + 1) or take(-1) end\n"
    "    if key ~= nil and key == key and key ~= null then made[key] = value_of(take, depth + 1) end\n"
    "  end\n"
    "  if array and take(8) == 0 then made.n = take(300) end\n"
    "  return made\n"
    "end\n"
    "return function(text, take)\n"
    "  if take then\n"
    "    places = {}\n"
    "    local made = text_of_value(value_of(take, 0))\n"
    "    if not made then return nil end\n"
    "    local again, err = json.decode(made)\n" /* a key with a NUL is written, and not read */
    "    if err then assert(err.message:find('a key with \\\\u0000', 1, true), err) return made end\n"
    "    assert(same(again, json.decode(text_of_value(again))))\n"
    "    return made\n"
    "  end\n"
    "  local value, err = json.decode(text)\n"
    "  if err then assert(value == nil and err.kind == 'json' and #err.message > 0) return nil, err.message end\n"
    "  local first = text_of_value(value)\n"
    "  assert(first, 'what was decoded is not encoded')\n"
    "  local whole = text:match('^%s*(-?[1-9]%d*)%s*$')\n" /* exact, to the last digit */
    "  assert(not whole or first == whole)\n"
    "  local back = assert(json.decode(first))\n"
    "  assert(same(value, back), 'decoded, encoded and decoded is something else')\n"
    "  assert(text_of_value(back) == first, 'encoded twice is something else')\n"
    "  return first\n"
    "end\n";

/* take(n): a number below n; take(-1): a text. */
static int take(lua_State *L) {
  struct fuzz *f = lua_touserdata(L, lua_upvalueindex(1));
  lua_Integer n = luaL_checkinteger(L, 1);
  if (n > 0) {
    lua_pushinteger(L, (lua_Integer)(n > 256 ? fuzz_number(f, 2) : fuzz_byte(f)) % n);
  } else {
    size_t len;
    char *text = fuzz_take(f, fuzz_below(f, 12), &len);
    lua_pushlstring(L, text, len);
    free(text);
  }
  return 1;
}

/* Why jansson refuses what is JSON all the same: Lua could not hold it. */
static bool refusal_is_lua_s(const char *message) {
  static const char *const reasons[] = {
      "past 64 bits", "past the range of a float", "nested deeper", "not UTF-8", "\\u0000 in it", "Unicode", NULL};
  for (int i = 0; reasons[i]; i++)
    if (strstr(message, reasons[i])) return true;
  return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  lua_State *L = fuzz_lua(chunk);
  struct fuzz f = fuzz_of(data, size);
  if (size > 0 && data[0] == 0) {
    fuzz_byte(&f);
    lua_pushnil(L);
    lua_pushlightuserdata(L, &f);
    lua_pushcclosure(L, take, 1);
    fuzz_lua_call(L, 2);
    size_t len = 0;
    const char *text = lua_tolstring(L, 1, &len);
    if (text) HOLDS(utf8_valid(text, len) && json_valid(text, len));
  } else {
    char *text = malloc(size + (size == 0)); /* it ends where its memory does */
    if (size > 0) memcpy(text, data, size);
    bool valid = json_valid(text, size);
    free(text);
    lua_pushlstring(L, (const char *)data, size);
    fuzz_lua_call(L, 1);
    HOLDS(lua_type(L, 1) == LUA_TSTRING ? valid : !valid || refusal_is_lua_s(lua_tostring(L, 2)));
  }
  lua_settop(L, 0);
  lua_gc(L, LUA_GCSTEP, 0);
  return 0;
}
