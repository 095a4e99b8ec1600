/*
** lpolicy_library: string, table, utf8 and math, bounded.
**
** A hook cannot stop a C function, so each of these whose time grows with its arguments refuses beforehand what would take long, by a
** bound on sizes or an estimate of steps, and looks at the clock when it is done. The originals do the work, except where they
** would show addresses (format), draw from the clock (sort, random) or call what lies about its size: the table functions take plain
** tables alone, without metatables. Absent: dump, pack, unpack (of string), packsize, randomseed.
*/
#include <string.h>

#include "lpolicy_internal.h"

#define PLAIN_STEPS_MAX 1e7 /* bytes compared by a plain find */
#define FORMAT_MAX 1024     /* bytes of a format */

/* The original is upvalue 1, a C function without upvalues of its own; its stack is ours. */
static int original(lua_State *P) {
  int results = lua_tocfunction(P, lua_upvalueindex(1))(P);
  policy_look(P);
  return results;
}

static int bounded(lua_State *P) { return original(P); }

/* Sets name in the table on top to `wrapper` over the original of that name, in the table below. */
static void wrap(lua_State *P, const char *name, lua_CFunction wrapper) {
  lua_getfield(P, -2, name);
  lua_pushcclosure(P, wrapper, 1);
  lua_setfield(P, -2, name);
}

static void keep(lua_State *P, const char *const *names) {
  for (; *names; names++) {
    lua_getfield(P, -2, *names);
    lua_setfield(P, -2, *names);
  }
}

/* ---- patterns ---- */

/* How many single steps matching may take at most, roughly: each unlimited repetition may stop at each place of the subject, so they
   multiply; an unanchored match begins at each place; every attempt goes through the pattern. */
static double pattern_steps(const char *pattern, size_t length, size_t subject, bool anchors) {
  double places = (double)subject + 1, steps = (double)length + 1;
  bool anchored = anchors && length > 0 && pattern[0] == '^';
  if (!anchored) steps *= places;
  for (size_t i = 0; i < length; i++) {
    if (pattern[i] == '%' && i + 1 < length) {
      i++;
      if (pattern[i] == 'b' || (pattern[i] >= '0' && pattern[i] <= '9')) steps *= places; /* both go through the subject */
    } else if (pattern[i] == '*' || pattern[i] == '+' || pattern[i] == '-') {
      steps *= places;
    } else if (pattern[i] == '?') {
      steps *= 2;
    }
  }
  return steps;
}

static bool pattern_plain(const char *pattern, size_t length) {
  for (size_t i = 0; i < length; i++)
    if (pattern[i] != '\0' && strchr("^$*+?.([%-", pattern[i]) != NULL) return false;
  return true;
}

static void pattern_check(lua_State *P, const char *who, bool anchors) {
  size_t subject, length;
  luaL_checklstring(P, 1, &subject);
  const char *pattern = luaL_checklstring(P, 2, &length);
  if (pattern_steps(pattern, length, subject, anchors) > POLICY_STEPS_MAX)
    luaL_error(P, "string.%s: this pattern may take too long for a policy on a text of %d bytes", who, (int)subject);
}

static int string_find(lua_State *P) {
  size_t subject, length;
  luaL_checklstring(P, 1, &subject);
  const char *pattern = luaL_checklstring(P, 2, &length);
  if (!lua_toboolean(P, 4) && !pattern_plain(pattern, length))
    pattern_check(P, "find", true);
  else if ((double)subject * (double)length > PLAIN_STEPS_MAX)
    luaL_error(P, "string.find: texts of %d and %d bytes are too long for a policy", (int)subject, (int)length);
  return original(P);
}

static int string_match(lua_State *P) {
  pattern_check(P, "match", true);
  return original(P);
}

/* The iterator is upvalue 1 and has upvalues of its own, so it must be called as Lua calls. */
static int string_gmatch_step(lua_State *P) {
  lua_settop(P, 0);
  lua_pushvalue(P, lua_upvalueindex(1));
  lua_call(P, 0, LUA_MULTRET);
  policy_look(P);
  return lua_gettop(P);
}

static int string_gmatch(lua_State *P) {
  pattern_check(P, "gmatch", false);
  lua_tocfunction(P, lua_upvalueindex(1))(P); /* leaves the iterator on top */
  lua_pushcclosure(P, string_gmatch_step, 1);
  return 1;
}

static int string_gsub(lua_State *P) {
  size_t subject, with = 0;
  pattern_check(P, "gsub", true);
  luaL_checklstring(P, 1, &subject);
  if (lua_type(P, 3) == LUA_TSTRING) with = lua_rawlen(P, 3);
  if (((double)subject + 1) * ((double)with + 1) > POLICY_STEPS_MAX) /* it is gone through at each match */
    luaL_error(P, "string.gsub: a replacement of %d bytes may take too long for a policy on a text of %d", (int)with, (int)subject);
  return original(P);
}

/* ---- other texts ---- */

static int string_rep(lua_State *P) {
  size_t length, separator = 0;
  luaL_checklstring(P, 1, &length);
  lua_Integer n = luaL_checkinteger(P, 2);
  luaL_optlstring(P, 3, "", &separator);
  size_t each = length + separator > 0 ? length + separator : 1; /* empty texts are put together one by one too */
  if (n > (lua_Integer)(POLICY_STRING_MAX / each) + 1 || (n > 0 && (size_t)n * each > POLICY_STRING_MAX + separator))
    luaL_error(P, "string.rep: the result would be longer than %d bytes", (int)POLICY_STRING_MAX);
  return original(P);
}

/* Refuses %p, which shows an address, and puts texts in place of what %s would show the address of. */
static int string_format(lua_State *P) {
  size_t length;
  const char *format = luaL_checklstring(P, 1, &length);
  if (length > FORMAT_MAX) luaL_error(P, "string.format: a format of %d bytes; at most %d", (int)length, FORMAT_MAX);
  for (const char *p = format; (p = memchr(p, '%', length - (size_t)(p - format))) != NULL; p++) {
    p += 1 + strspn(p + 1, "-+ #0123456789.");
    if (*p == 'p') luaL_error(P, "string.format: %%p is not offered to policies");
    if (p >= format + length) break;
  }
  luaL_checkstack(P, 4, "string.format");
  for (int i = lua_gettop(P); i > 1; i--) {
    if (lua_type(P, i) == LUA_TSTRING || lua_type(P, i) <= LUA_TNUMBER) continue;
    policy_tostring(P, i);
    lua_replace(P, i);
  }
  return original(P);
}

void policy_string_open(lua_State *P) {
  static const char *const plain[] = {"byte", "char", "len", "lower", "reverse", "sub", "upper", NULL};
  static const luaL_Reg watched[] = {{"find", string_find}, {"match", string_match}, {"gmatch", string_gmatch}, {"gsub", string_gsub},
                                     {"rep", string_rep},   {"format", string_format}, {NULL, NULL}};
  for (const luaL_Reg *r = watched; r->name; r++) wrap(P, r->name, r->func);
  for (int i = 0; plain[i]; i++) wrap(P, plain[i], bounded);
}

/* ---- tables ---- */

static void table_plain(lua_State *P, int arg, const char *who) {
  luaL_checktype(P, arg, LUA_TTABLE);
  if (lua_getmetatable(P, arg)) luaL_error(P, "table.%s: a table with a metatable is not taken", who);
}

static void count_check(lua_State *P, const char *who, lua_Integer from, lua_Integer to) {
  if (to >= from && (lua_Unsigned)to - (lua_Unsigned)from >= POLICY_ELEMENTS_MAX)
    luaL_error(P, "table.%s: more than %d elements", who, POLICY_ELEMENTS_MAX);
}

static lua_Integer length_check(lua_State *P, const char *who) {
  table_plain(P, 1, who);
  lua_Integer length = (lua_Integer)lua_rawlen(P, 1);
  count_check(P, who, 1, length);
  return length;
}

static int table_concat(lua_State *P) {
  table_plain(P, 1, "concat");
  count_check(P, "concat", luaL_optinteger(P, 3, 1), luaL_opt(P, luaL_checkinteger, 4, (lua_Integer)lua_rawlen(P, 1)));
  return original(P);
}

static int table_insert(lua_State *P) {
  length_check(P, "insert");
  return original(P);
}

static int table_remove(lua_State *P) {
  length_check(P, "remove");
  return original(P);
}

static int table_move(lua_State *P) {
  table_plain(P, 1, "move");
  if (!lua_isnoneornil(P, 5)) table_plain(P, 5, "move");
  count_check(P, "move", luaL_checkinteger(P, 2), luaL_checkinteger(P, 3));
  return original(P);
}

static int table_unpack(lua_State *P) {
  table_plain(P, 1, "unpack");
  count_check(P, "unpack", luaL_optinteger(P, 2, 1), luaL_opt(P, luaL_checkinteger, 3, (lua_Integer)lua_rawlen(P, 1)));
  return original(P);
}

static bool element_less(lua_State *P, int a, int b) {
  bool less = lua_compare(P, a, b, LUA_OPLT);
  policy_look(P);
  return less;
}

/* The function is at 2. */
static bool element_less_by(lua_State *P, int a, int b) {
  lua_pushvalue(P, 2);
  lua_pushvalue(P, a);
  lua_pushvalue(P, b);
  lua_call(P, 2, 1);
  bool less = lua_toboolean(P, -1);
  lua_pop(P, 1);
  return less;
}

static int table_sort(lua_State *P) {
  int count = (int)length_check(P, "sort");
  bool by = !lua_isnoneornil(P, 2);
  if (by) luaL_checktype(P, 2, LUA_TFUNCTION);
  lua_settop(P, 2);
  luaL_checkstack(P, count + 8, "sort");
  for (int i = 1; i <= count; i++) lua_rawgeti(P, 1, i);
  const uint16_t *order = policy_sort(P, count, by ? element_less_by : element_less);
  for (int i = 0; i < count; i++) {
    lua_pushvalue(P, 3 + order[i]);
    lua_rawseti(P, 1, i + 1);
  }
  return 0;
}

void policy_table_open(lua_State *P) {
  static const luaL_Reg watched[] = {{"concat", table_concat}, {"insert", table_insert}, {"move", table_move}, {"remove", table_remove},
                                     {"unpack", table_unpack}, {"pack", bounded},        {NULL, NULL}};
  for (const luaL_Reg *r = watched; r->name; r++) wrap(P, r->name, r->func);
  lua_pushcfunction(P, table_sort);
  lua_setfield(P, -2, "sort");
}

/* ---- utf8 ---- */

void policy_utf8_open(lua_State *P) {
  static const char *const watched[] = {"char", "codepoint", "len", "offset", NULL};
  static const char *const plain[] = {"charpattern", "codes", NULL};
  for (int i = 0; watched[i]; i++) wrap(P, watched[i], bounded);
  keep(P, plain);
}

/* ---- math ---- */

/* A whole number below `count` (0: any), each as likely as the others. */
static uint64_t random_below(struct sim_random *random, uint64_t count) {
  uint64_t drawn = sim_random_next(random), unfair = count == 0 ? 0 : (0 - count) % count; /* 2^64 mod count */
  while (drawn < unfair) drawn = sim_random_next(random);
  return count == 0 ? drawn : drawn % count;
}

/* random(), random(m), random(m, n), as Lua has them, from the host's seed. */
static int math_random(lua_State *P) {
  struct sim_random *random = &policy_of(P)->random;
  int arguments = lua_gettop(P);
  if (arguments == 0) {
    lua_pushnumber(P, (double)(sim_random_next(random) >> 11) * 0x1p-53);
    return 1;
  }
  lua_Integer low = arguments == 1 ? 1 : luaL_checkinteger(P, 1), high = luaL_checkinteger(P, arguments == 1 ? 1 : 2);
  luaL_argcheck(P, arguments <= 2, 3, "math.random takes two numbers at most");
  luaL_argcheck(P, low <= high, arguments == 1 ? 1 : 2, "interval is empty");
  lua_pushinteger(P, (lua_Integer)((lua_Unsigned)low + random_below(random, (lua_Unsigned)high - (lua_Unsigned)low + 1)));
  return 1;
}

void policy_math_open(lua_State *P) {
  static const char *const plain[] = {"abs", "acos", "asin", "atan", "ceil", "cos", "deg", "exp", "floor", "fmod", "huge", "log", "max",
                                      "maxinteger", "min", "mininteger", "modf", "pi", "rad", "sin", "sqrt", "tan", "tointeger", "type",
                                      "ult", NULL};
  keep(P, plain);
  lua_pushcfunction(P, math_random);
  lua_setfield(P, -2, "random");
}
