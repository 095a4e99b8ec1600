/*
** lpolicy_sandbox: the environment of a policy, and its base functions.
**
** 1. Globals and libraries are seen through empty proxies, whose __newindex raises and whose metatable is out of reach. The registry's
**    globals are the proxy, so each chunk compiled here gets it as its _ENV; whatever a chunk puts in that place is its own affair.
** 2. setmetatable installs a copy of the metamethods, made when it is called; getmetatable gives back the original. So what a
**    metatable must not have stays out of it later too: __gc (runs where hooks are off), __mode (collecting chains of weak tables is
**    quadratic), and a __call that is no function (Lua follows it in C, for ever when it is its own).
** 3. pcall does not catch a kill. xpcall is pcall and then the handler: Lua would run the handler of an error raised by a hook with
**    hooks off.
** 4. Strings have methods, and no arithmetic ("10" + 1): their metatable is made here and shown to nobody.
** 5. Nothing shows an address or the order of a hash: two runs of a policy with the same seed are the same.
*/
#include <lualib.h>
#include <string.h>

#include "lpolicy_internal.h"

static const char ORIGINAL = 'o'; /* its address: in the copy of a metatable, where the original is */

/* ---- proxies ---- */

static int readonly_raise(lua_State *P) {
  const char *what = lua_tostring(P, lua_upvalueindex(1)), *key = lua_type(P, 2) == LUA_TSTRING ? lua_tostring(P, 2) : NULL;
  if (key == NULL) return luaL_error(P, "%s: read-only", what);
  if (strcmp(what, "globals") == 0) return luaL_error(P, "globals are read-only: write \"local %s\"", key);
  return luaL_error(P, "%s.%s: the library is read-only", what, key);
}

void policy_push_readonly(lua_State *P, const char *what) {
  lua_newtable(P);
  lua_createtable(P, 0, 3);
  lua_rotate(P, -3, -1); /* proxy, metatable, table */
  lua_setfield(P, -2, "__index");
  lua_pushstring(P, what);
  lua_pushcclosure(P, readonly_raise, 1);
  lua_setfield(P, -2, "__newindex");
  lua_pushboolean(P, false);
  lua_setfield(P, -2, "__metatable");
  lua_setmetatable(P, -2);
}

/* Whether the table at index is out of a policy's reach. */
static bool table_protected(lua_State *P, int index) {
  if (luaL_getmetafield(P, index, "__metatable") == LUA_TNIL) return false;
  lua_pop(P, 1);
  return true;
}

/* ---- metatables ---- */

static const char *const metamethods[] = {
    "__index", "__newindex", "__call", "__tostring", "__eq",  "__lt",  "__le",   "__len", "__concat", "__close", "__pairs", "__metatable",
    "__add",   "__sub",      "__mul",  "__div",      "__mod", "__pow", "__idiv", "__unm", "__band",   "__bor",   "__bxor",  "__bnot",
    "__shl",   "__shr",      "__name", NULL};

static void metatable_check(lua_State *P, int index) {
  static const char *const refused[] = {"__gc", "__mode", NULL};
  for (int i = 0; refused[i]; i++) {
    lua_pushstring(P, refused[i]);
    if (lua_rawget(P, index) != LUA_TNIL) luaL_error(P, "setmetatable: a policy's metatables have no %s", refused[i]);
    lua_pop(P, 1);
  }
  lua_pushliteral(P, "__call");
  int type = lua_rawget(P, index);
  if (type != LUA_TNIL && type != LUA_TFUNCTION) luaL_error(P, "setmetatable: __call must be a function, not a %s", luaL_typename(P, -1));
  lua_pop(P, 1);
}

static int base_setmetatable(lua_State *P) {
  luaL_checktype(P, 1, LUA_TTABLE);
  luaL_argexpected(P, lua_isnil(P, 2) || lua_istable(P, 2), 2, "nil or table");
  if (table_protected(P, 1)) return luaL_error(P, "cannot change a protected metatable");
  lua_settop(P, 2);
  if (lua_istable(P, 2)) {
    metatable_check(P, 2);
    lua_newtable(P);
    for (int i = 0; metamethods[i]; i++) {
      lua_pushstring(P, metamethods[i]);
      if (lua_rawget(P, 2) != LUA_TNIL)
        lua_setfield(P, 3, metamethods[i]);
      else
        lua_pop(P, 1);
    }
    lua_pushvalue(P, 2);
    lua_rawsetp(P, 3, &ORIGINAL);
  }
  lua_setmetatable(P, 1);
  lua_settop(P, 1);
  return 1;
}

static int base_getmetatable(lua_State *P) {
  luaL_checkany(P, 1);
  if (!lua_getmetatable(P, 1)) return 0;
  lua_pushliteral(P, "__metatable");
  if (lua_rawget(P, -2) != LUA_TNIL) return 1;
  lua_rawgetp(P, -2, &ORIGINAL);
  return 1;
}

static int base_rawset(lua_State *P) {
  luaL_checktype(P, 1, LUA_TTABLE);
  luaL_checkany(P, 3);
  lua_settop(P, 3);
  if (table_protected(P, 1)) return luaL_error(P, "rawset: this table is read-only");
  lua_rawset(P, 1);
  return 1;
}

/* ---- calls ---- */

static int base_pcall(lua_State *P) {
  luaL_checkany(P, 1);
  int status = lua_pcall(P, lua_gettop(P) - 1, LUA_MULTRET, 0);
  policy_look(P);
  lua_pushboolean(P, status == LUA_OK);
  lua_insert(P, 1);
  return lua_gettop(P);
}

/* xpcall(f, handler, ...) */
static int base_xpcall(lua_State *P) {
  luaL_checktype(P, 2, LUA_TFUNCTION);
  lua_pushvalue(P, 2);
  lua_insert(P, 1);
  lua_remove(P, 3); /* handler, f, ... */
  int status = lua_pcall(P, lua_gettop(P) - 2, LUA_MULTRET, 0);
  policy_look(P);
  if (status == LUA_OK) {
    lua_pushboolean(P, true);
    lua_replace(P, 1);
    return lua_gettop(P);
  }
  lua_call(P, 1, LUA_MULTRET); /* handler, error */
  lua_pushboolean(P, false);
  lua_insert(P, 1);
  return lua_gettop(P);
}

/* ---- texts ---- */

const char *policy_tostring(lua_State *P, int index) {
  index = lua_absindex(P, index);
  if (luaL_getmetafield(P, index, "__tostring") != LUA_TNIL) {
    lua_pushvalue(P, index);
    lua_call(P, 1, 1);
    if (!lua_isstring(P, -1)) luaL_error(P, "__tostring must return a text, not a %s", luaL_typename(P, -1));
    return lua_tostring(P, -1);
  }
  switch (lua_type(P, index)) {
  case LUA_TNIL:
  case LUA_TBOOLEAN:
  case LUA_TNUMBER:
  case LUA_TSTRING: return luaL_tolstring(P, index, NULL);
  default: return lua_pushstring(P, luaL_typename(P, index));
  }
}

static int base_tostring(lua_State *P) {
  luaL_checkany(P, 1);
  policy_tostring(P, 1);
  return 1;
}

/* Calls the original, the upvalue, and then looks at the time. */
static int base_original(lua_State *P) {
  int results = lua_tocfunction(P, lua_upvalueindex(1))(P);
  policy_look(P);
  return results;
}

/* ---- compiling ---- */

struct reading_source {
  const char *at;
  size_t left;
};

/* A little at a time: compiling has no instructions to count, so this is where its time is looked at. */
static const char *source_read(lua_State *P, void *ud, size_t *size) {
  struct reading_source *r = ud;
  const char *at = r->at;
  policy_look(P);
  *size = r->left < 64 ? r->left : 64;
  r->at += *size;
  r->left -= *size;
  return at;
}

/* How often a word stands in the source. */
static int source_count(const char *source, size_t length, const char *word) {
  int count = 0;
  const char *end = source + length, *p = source;
  while ((p = memmem(p, (size_t)(end - p), word, strlen(word))) != NULL) count++, p += strlen(word);
  return count;
}

void policy_compile(lua_State *P, const char *source, size_t length, const char *chunk) {
  struct reading_source r = {source, length};
  if (length > POLICY_SOURCE_MAX)
    luaL_error(P, "%s: %d bytes of text; a policy has at most %d", chunk, (int)length, (int)POLICY_SOURCE_MAX);
  if (source_count(source, length, "goto") > 1000) /* the compiler's time goes with their square */
    luaL_error(P, "%s: more than 1000 gotos", chunk);
  lua_pushfstring(P, "@%s", chunk);
  int status = lua_load(P, source_read, &r, lua_tostring(P, -1), "t");
  policy_look(P);
  if (status != LUA_OK) lua_error(P);
  lua_remove(P, -2);
}

/* ---- putting it together ---- */

/* Calls a luaopen_ function and leaves its table; ours comes on top of it. */
static void library_begin(lua_State *P, lua_CFunction open) {
  lua_pushcfunction(P, open);
  lua_call(P, 0, 1);
  lua_newtable(P);
}

/* Takes the library from the top and sets its proxy in the globals at index. */
static void library_end(lua_State *P, int globals, const char *name) {
  lua_remove(P, -2);
  policy_push_readonly(P, name);
  lua_setfield(P, globals, name);
}

static void base_open(lua_State *P) {
  static const char *const plain[] = {"assert", "error", "ipairs", "rawequal", "rawget", "rawlen", "select", "type", NULL};
  static const luaL_Reg own[] = {{"getmetatable", base_getmetatable}, {"setmetatable", base_setmetatable}, {"rawset", base_rawset},
                                 {"pcall", base_pcall},               {"xpcall", base_xpcall},             {"tostring", base_tostring},
                                 {"pairs", policy_pairs},             {"next", policy_next},               {"compose", policy_compose},
                                 {NULL, NULL}};
  for (int i = 0; plain[i]; i++) {
    lua_getfield(P, -2, plain[i]);
    lua_setfield(P, -2, plain[i]);
  }
  luaL_setfuncs(P, own, 0);
  lua_getfield(P, -2, "tonumber");
  lua_pushcclosure(P, base_original, 1);
  lua_setfield(P, -2, "tonumber");
  lua_pushliteral(P, LUA_VERSION);
  lua_setfield(P, -2, "_VERSION");
}

/* Texts' methods, and nothing else. The string library's proxy is in the globals at index. */
static void strings_dress(lua_State *P, int globals) {
  lua_pushliteral(P, "");
  lua_createtable(P, 0, 2);
  lua_getfield(P, globals, "string");
  lua_setfield(P, -2, "__index");
  lua_pushboolean(P, false);
  lua_setfield(P, -2, "__metatable");
  lua_setmetatable(P, -2);
  lua_pop(P, 1);
}

void policy_sandbox_open(lua_State *P) {
  static const struct {
    const char *name;
    lua_CFunction open;
    void (*fill)(lua_State *);
  } libraries[] = {{"string", luaopen_string, policy_string_open},
                   {"table", luaopen_table, policy_table_open},
                   {"utf8", luaopen_utf8, policy_utf8_open},
                   {"math", luaopen_math, policy_math_open}};
  library_begin(P, luaopen_base);
  int globals = lua_gettop(P); /* below it, Lua's own */
  base_open(P);
  for (int i = 0; i < (int)(sizeof libraries / sizeof libraries[0]); i++) {
    library_begin(P, libraries[i].open);
    libraries[i].fill(P);
    library_end(P, globals, libraries[i].name);
  }
  strings_dress(P, globals);
  lua_pushvalue(P, globals);
  policy_push_readonly(P, "globals");
  lua_pushvalue(P, -1);
  lua_setfield(P, globals, "_G");
  lua_rawseti(P, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  lua_settop(P, globals - 2);
}
