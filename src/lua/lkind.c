/*
** lkind: the private key is the address of `kind_key`. Under it a metatable has the kind as an integer; a row's has the userdata of its
** shape instead, since every shape has a metatable of its own. The other kinds' metatables are made when first wanted, and kept
** in the registry under `kinds_key`. Raw access throughout, so that nothing here can be led astray by a metamethod.
*/
#include "lkind.h"

#include "core/base.h"

static const char kind_key, kinds_key;

enum lkind lkind_of(lua_State *L, int index) {
  if (!lua_getmetatable(L, index)) return LKIND_NONE;
  int type = lua_rawgetp(L, -1, &kind_key);
  enum lkind kind = type == LUA_TUSERDATA ? LKIND_ROW : type == LUA_TNUMBER ? (enum lkind)lua_tointeger(L, -1) : LKIND_NONE;
  lua_pop(L, 2);
  return kind;
}

static const char *kind_name(enum lkind kind) {
  switch (kind) {
  case LKIND_ARRAY:
  case LKIND_BYTES_ARRAY: return "pool.Array";
  case LKIND_BYTES: return "pool.Bytes";
  case LKIND_JSONB: return "pool.Jsonb";
  case LKIND_ROW: return "pool.Row";
  case LKIND_NONE:
  default: WRONG("a kind without a name");
  }
}

static void kind_mark_names(lua_State *L, enum lkind kind) {
  lua_pushstring(L, kind_name(kind));
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "__name");
  lua_setfield(L, -2, "__metatable");
}

void lkind_mark(lua_State *L, enum lkind kind) {
  kind_mark_names(L, kind);
  lua_pushinteger(L, kind);
  lua_rawsetp(L, -2, &kind_key);
}

void lkind_mark_row(lua_State *L, int metatable) {
  INSIST(lua_type(L, -1) == LUA_TUSERDATA);
  metatable = lua_absindex(L, metatable);
  lua_rawsetp(L, metatable, &kind_key);
  lua_pushvalue(L, metatable);
  kind_mark_names(L, LKIND_ROW);
  lua_pop(L, 1);
}

void lkind_push_shape(lua_State *L, int metatable) { lua_rawgetp(L, metatable, &kind_key); }

/* The table of the kinds' metatables, made on first use. */
static void kinds_push(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &kinds_key) == LUA_TTABLE) return;
  lua_pop(L, 1);
  lua_createtable(L, LKIND_JSONB, 0);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &kinds_key);
}

void lkind_set(lua_State *L, enum lkind kind) {
  INSIST(kind > LKIND_NONE && kind < LKIND_ROW);
  kinds_push(L);
  if (lua_rawgeti(L, -1, kind) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_createtable(L, 0, 3);
    lkind_mark(L, kind);
    lua_pushvalue(L, -1);
    lua_rawseti(L, -3, kind);
  }
  lua_setmetatable(L, -3);
  lua_pop(L, 1);
}

/* ---- the length of an array ---- */

/* The field n of one of our arrays: -1 absent, -2 no length. */
static lua_Integer array_n(lua_State *L, int index) {
  lua_pushliteral(L, "n");
  int type = lua_rawget(L, index);
  lua_Integer n = type == LUA_TNIL ? -1 : -2;
  if (type == LUA_TNUMBER && lua_isinteger(L, -1) && lua_tointeger(L, -1) >= 0) n = lua_tointeger(L, -1);
  lua_pop(L, 1);
  return n;
}

static bool key_is_n(lua_State *L, int index) {
  size_t len;
  if (lua_type(L, index) != LUA_TSTRING) return false;
  const char *key = lua_tolstring(L, index, &len);
  return len == 1 && key[0] == 'n';
}

/* How many of the keys are 1..n; -1 when there are others (but for the field n, where it is allowed). */
static lua_Integer array_count(lua_State *L, int index, lua_Integer n, bool has_n) {
  lua_Integer count = 0;
  lua_pushnil(L);
  while (lua_next(L, index)) {
    lua_pop(L, 1);
    bool counts = lua_isinteger(L, -1) && lua_tointeger(L, -1) >= 1 && lua_tointeger(L, -1) <= n;
    if (!counts && !(has_n && key_is_n(L, -1))) {
      lua_pop(L, 1);
      return -1;
    }
    count += counts;
  }
  return count;
}

lua_Integer lkind_length(lua_State *L, int index, const char **wrong) {
  index = lua_absindex(L, index);
  lua_Integer n = lkind_of(L, index) == LKIND_NONE ? -1 : array_n(L, index), length = n < 0 ? (lua_Integer)lua_rawlen(L, index) : n;
  if (n == -2) {
    *wrong = "its field n is not a length";
    return -1;
  }
  lua_Integer count = array_count(L, index, length, n >= 0);
  if (count < 0)
    *wrong = "it has other keys beside its elements 1, 2, 3 ...";
  else if (n < 0 && count < length)
    *wrong = "it has a hole: write pool.null there, or pool.array{..., n = its length}";
  else
    return length;
  return -1;
}
