/*
** lpolicy_order: everything that depends on an order has one, the same in each run and on each machine: Lua's own order of a table's
** keys is not (texts are hashed with a seed of the process), and its sort may draw a pivot from the clock.
**
** The sort is a merge of runs from the bottom: n log n comparisons at most, whatever the comparison says, and none of its calls
** sees the values in the middle of their moving.
*/
#include <string.h>

#include "lpolicy_internal.h"

static void run_merge(lua_State *P, int base, const uint16_t *from, uint16_t *to, int low, int middle, int high, policy_less less) {
  int left = low, right = middle;
  for (int i = low; i < high; i++) {
    bool take_right = left == middle || (right < high && less(P, base + from[right], base + from[left]));
    to[i] = take_right ? from[right++] : from[left++];
  }
}

const uint16_t *policy_sort(lua_State *P, int count, policy_less less) {
  INSIST(count <= POLICY_ELEMENTS_MAX);
  int base = lua_gettop(P) - count + 1;
  uint16_t *order = lua_newuserdatauv(P, (size_t)(count + 1) * 2 * sizeof *order, 0), *other = order + count + 1;
  for (int i = 0; i < count; i++) order[i] = (uint16_t)i;
  for (int width = 1; width < count; width *= 2) {
    for (int low = 0; low < count; low += 2 * width) {
      int middle = low + width < count ? low + width : count, high = middle + width < count ? middle + width : count;
      run_merge(P, base, order, other, low, middle, high, less);
      policy_look(P);
    }
    uint16_t *swapped = order;
    order = other;
    other = swapped;
  }
  return order;
}

/* ---- keys ---- */

enum rank { RANK_INTEGER, RANK_FLOAT, RANK_TEXT, RANK_BOOLEAN };

static enum rank key_rank(lua_State *P, int key) {
  switch (lua_type(P, key)) {
  case LUA_TNUMBER: return lua_isinteger(P, key) ? RANK_INTEGER : RANK_FLOAT;
  case LUA_TSTRING: return RANK_TEXT;
  case LUA_TBOOLEAN: return RANK_BOOLEAN;
  default:
    return (enum rank)luaL_error(P, "pairs: a %s is a key of the table, and has no place in an order: only numbers, texts and booleans do",
                                 luaL_typename(P, key));
  }
}

static bool text_less(lua_State *P, int a, int b) {
  size_t a_length, b_length;
  const char *a_text = lua_tolstring(P, a, &a_length), *b_text = lua_tolstring(P, b, &b_length);
  int order = memcmp(a_text, b_text, a_length < b_length ? a_length : b_length);
  if (a_length + b_length > 1024) policy_look(P);
  return order != 0 ? order < 0 : a_length < b_length;
}

static bool key_less(lua_State *P, int a, int b) {
  enum rank a_rank = key_rank(P, a), b_rank = key_rank(P, b);
  if (a_rank != b_rank) return a_rank < b_rank;
  switch (a_rank) {
  case RANK_INTEGER: return lua_tointeger(P, a) < lua_tointeger(P, b);
  case RANK_FLOAT: return lua_tonumber(P, a) < lua_tonumber(P, b);
  case RANK_TEXT: return text_less(P, a, b);
  default: return lua_toboolean(P, a) < lua_toboolean(P, b);
  }
}

/* next(t, k): the first key after k, with its value. It goes through the whole table each time. */
int policy_next(lua_State *P) {
  int seen = 0;
  luaL_checktype(P, 1, LUA_TTABLE);
  lua_settop(P, 2);
  if (!lua_isnil(P, 2)) key_rank(P, 2);
  lua_pushnil(P); /* 3: the least so far */
  for (lua_pushnil(P); lua_next(P, 1); lua_pop(P, 1)) {
    key_rank(P, 4);
    bool after = lua_isnil(P, 2) || key_less(P, 2, 4);
    if (after && (lua_isnil(P, 3) || key_less(P, 4, 3))) lua_copy(P, 4, 3);
    if (++seen % 256 == 0) policy_look(P);
  }
  policy_look(P);
  if (lua_isnil(P, 3)) return 1;
  lua_pushvalue(P, 3);
  lua_rawget(P, 1);
  return 2;
}

/* ---- pairs ---- */

/* The keys of the table at 1 on the stack; their number, and whether they came as 1, 2, 3 ... */
static int keys_push(lua_State *P, bool *plain) {
  int count = 0;
  *plain = true;
  lua_pushnil(P);
  while (lua_next(P, 1)) {
    lua_pop(P, 1);
    count++;
    if (count > POLICY_ELEMENTS_MAX) luaL_error(P, "pairs: a table of more than %d entries", POLICY_ELEMENTS_MAX);
    if (count % 256 == 0) policy_look(P);
    *plain = *plain && lua_isinteger(P, -1) && lua_tointeger(P, -1) == count;
    luaL_checkstack(P, 4, "pairs");
    lua_pushvalue(P, -1); /* one stays, one is for lua_next */
  }
  return count;
}

/* Upvalues: the keys in order (nil: they are 1, 2, 3 ...), how many, the last given. What has been removed since is passed over. */
static int pairs_step(lua_State *P) {
  lua_Integer count = lua_tointeger(P, lua_upvalueindex(2)), i = lua_tointeger(P, lua_upvalueindex(3));
  luaL_checktype(P, 1, LUA_TTABLE);
  while (i++ < count) {
    if (lua_isnil(P, lua_upvalueindex(1)))
      lua_pushinteger(P, i);
    else
      lua_rawgeti(P, lua_upvalueindex(1), i);
    lua_pushvalue(P, -1);
    if (lua_rawget(P, 1) != LUA_TNIL) {
      lua_pushinteger(P, i);
      lua_replace(P, lua_upvalueindex(3));
      return 2;
    }
    lua_pop(P, 2);
  }
  lua_pushnil(P);
  return 1;
}

int policy_pairs(lua_State *P) {
  bool plain;
  luaL_checkany(P, 1);
  if (luaL_getmetafield(P, 1, "__pairs") != LUA_TNIL) {
    lua_pushvalue(P, 1);
    lua_call(P, 1, 3);
    return 3;
  }
  luaL_checktype(P, 1, LUA_TTABLE);
  lua_settop(P, 1);
  int count = keys_push(P, &plain);
  if (plain) {
    lua_settop(P, 1);
    lua_pushnil(P);
  } else {
    for (int i = 0; i < count; i++) key_rank(P, 2 + i);
    luaL_checkstack(P, 4, "pairs");
    const uint16_t *order = policy_sort(P, count, key_less);
    lua_createtable(P, count, 0);
    for (int i = 0; i < count; i++) {
      lua_pushvalue(P, 2 + order[i]);
      lua_rawseti(P, -2, i + 1);
    }
  }
  lua_pushinteger(P, count);
  lua_pushinteger(P, 0);
  lua_pushcclosure(P, pairs_step, 3);
  lua_pushvalue(P, 1);
  lua_pushnil(P);
  return 3;
}
