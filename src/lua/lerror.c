/*
** lerror: errors as values ("pool.Error" tables, for what the world does wrong) and as raised strings (misuse).
**
** A value carries only the fields that are known, so that `err.sqlstate` is nil when there is none. A misuse is blamed on the
** first frame that is neither C nor one of pool's own Lua files: the line that a user can change.
*/
#include "lerror.h"

#include <string.h>

#include "core/nearest.h"
#include "lruntime.h"

static void error_field(lua_State *L, const char *name, const char *text) {
  if (text[0] == '\0') return;
  lua_pushstring(L, text);
  lua_setfield(L, -2, name);
}

void lerror_push(lua_State *L, const struct pool_error *e) {
  lua_createtable(L, 0, 4);
  error_field(L, "kind", pool_err_name(e->kind));
  lua_pushstring(L, e->message);
  lua_setfield(L, -2, "message");
  error_field(L, "sqlstate", e->sqlstate);
  error_field(L, "detail", e->detail);
  error_field(L, "hint", e->hint);
  error_field(L, "constraint", e->constraint);
  error_field(L, "schema", e->schema);
  error_field(L, "table", e->table);
  error_field(L, "column", e->column);
  if (e->position > 0) {
    lua_pushinteger(L, e->position);
    lua_setfield(L, -2, "position");
  }
  if (e->retryable) {
    lua_pushboolean(L, true);
    lua_setfield(L, -2, "retryable");
  }
  luaL_setmetatable(L, LERROR_NAME);
}

int lerror_return(lua_State *L, const struct pool_error *e) {
  lua_pushnil(L);
  lerror_push(L, e);
  return 2;
}

int lerror_fail(lua_State *L, enum pool_err kind, const char *message) {
  lua_pushnil(L);
  lua_createtable(L, 0, 2);
  error_field(L, "kind", pool_err_name(kind));
  error_field(L, "message", message);
  luaL_setmetatable(L, LERROR_NAME);
  return 2;
}

/* Is this source one of pool's own Lua files? `home` is the path of pool.lua without ".lua". */
static bool source_is_own(const char *source, const char *home) {
  size_t n = strlen(home);
  return source[0] == '@' && strncmp(source + 1, home, n) == 0 && (source[n + 1] == '/' || strcmp(source + n + 1, ".lua") == 0);
}

bool lerror_caller_from(lua_State *L, int level, const char *home, lua_Debug *ar) {
  for (; lua_getstack(L, level, ar); level++) {
    lua_getinfo(L, "Sl", ar);
    if (ar->currentline > 0 && !(home && source_is_own(ar->source, home))) return true;
  }
  return false;
}

bool lerror_caller(lua_State *L, lua_Debug *ar) { return lerror_caller_from(L, 0, lruntime_home(L), ar); }

int lerror_misuse(lua_State *L, const char *format, ...) {
  lua_Debug ar;
  if (lerror_caller(L, &ar))
    lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline);
  else
    lua_pushliteral(L, "");
  va_list arguments;
  va_start(arguments, format);
  lua_pushvfstring(L, format, arguments);
  va_end(arguments);
  lua_concat(L, 2);
  lua_error(L);
}

/* core.misuse(message): for pool's Lua files. */
static int error_misuse(lua_State *L) { return lerror_misuse(L, "%s", luaL_checkstring(L, 1)); }

const char *lerror_push_key(lua_State *L, int index) {
  switch (lua_type(L, index)) {
  case LUA_TSTRING: return lua_pushfstring(L, "'%s'", lua_tostring(L, index));
  case LUA_TNUMBER:
    lua_pushvalue(L, index); /* lua_tostring would change the key itself */
    lua_pushfstring(L, "[%s]", lua_tostring(L, -1));
    lua_remove(L, -2);
    return lua_tostring(L, -1);
  default: return lua_pushfstring(L, "[a %s]", luaL_typename(L, index));
  }
}

/* The text in quotes, cut when it is long. */
static const char *text_push(lua_State *L, const char *text) {
  char cut[40];
  text_copy(cut, sizeof cut, text);
  return lua_pushfstring(L, "the string \"%s\"", cut);
}

const char *lerror_push_value(lua_State *L, int index) {
  switch (lua_type(L, index)) {
  case LUA_TNONE: return lua_pushliteral(L, "nothing");
  case LUA_TSTRING: return text_push(L, lua_tostring(L, index));
  case LUA_TNIL:
  case LUA_TBOOLEAN:
  case LUA_TNUMBER: return luaL_tolstring(L, index, NULL);
  default: return lua_pushfstring(L, "a %s", luaL_typename(L, index));
  }
}

/* The nearest of the fields and of the names in the table; NULL when none is near. */
static const char *field_nearest(lua_State *L, const char *wanted, const char *const *fields, int names) {
  struct nearest near;
  nearest_begin(&near, wanted);
  for (; fields && *fields; fields++) nearest_offer(&near, *fields);
  for (lua_pushnil(L); lua_next(L, names); lua_pop(L, 1))
    if (lua_type(L, -2) == LUA_TSTRING && lua_tostring(L, -2)[0] != '_') nearest_offer(&near, lua_tostring(L, -2));
  return near.name;
}

int lerror_no_field(lua_State *L, const char *what, int key, const char *const *fields, int names) {
  key = lua_absindex(L, key);
  names = lua_absindex(L, names);
  const char *nearest = lua_type(L, key) == LUA_TSTRING ? field_nearest(L, lua_tostring(L, key), fields, names) : NULL;
  const char *shown = lerror_push_key(L, key);
  if (nearest) lerror_misuse(L, "%s has no %s (did you mean %s?)", what, shown, nearest);
  lerror_misuse(L, "%s has no %s", what, shown);
}

/* core.no_field(what, key, names): for pool's Lua files. */
static int error_no_field(lua_State *L) {
  luaL_checktype(L, 3, LUA_TTABLE);
  return lerror_no_field(L, luaL_checkstring(L, 1), 2, NULL, 3);
}

/* core.nearest(name, names): which of the names, an array, was probably meant; nil when none is near. Of equals the first. */
static int error_nearest(lua_State *L) {
  struct nearest near;
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  nearest_begin(&near, luaL_checkstring(L, 1));
  for (lua_Integer i = 1; lua_rawgeti(L, 2, i) != LUA_TNIL; i++, lua_settop(L, 2)) {
    luaL_checktype(L, 3, LUA_TSTRING); /* a number would be made a string that the table does not hold */
    nearest_offer(&near, lua_tostring(L, 3));
  }
  lua_pushstring(L, near.name); /* nil for NULL; the table holds it */
  return 1;
}

/* core.check_self(self, type, who, what): a method that is written in Lua was called on what its type's name says. */
static int error_check_self(lua_State *L) {
  const char *type = luaL_checkstring(L, 2);
  if (luaL_testudata(L, 1, type)) return 0;
  if (strcmp(type, "pool.Pool") == 0 && luaL_testudata(L, 1, "pool.View")) return 0; /* a view of one is one */
  return lerror_misuse(L, "%s: call it on a %s, with a colon; got %s", luaL_checkstring(L, 3), luaL_checkstring(L, 4), luaL_typename(L, 1));
}

/* "kind: message (SQLSTATE 23505)". Raw access throughout: a printer of errors must not fail. */
static int error_tostring(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_pushliteral(L, "kind");
  lua_rawget(L, 1);
  lua_pushliteral(L, "message");
  lua_rawget(L, 1);
  lua_pushliteral(L, "sqlstate");
  lua_rawget(L, 1);
  const char *kind = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "error";
  const char *message = lua_type(L, 3) == LUA_TSTRING ? lua_tostring(L, 3) : "";
  if (lua_type(L, 4) == LUA_TSTRING)
    lua_pushfstring(L, "%s: %s (SQLSTATE %s)", kind, message, lua_tostring(L, 4));
  else
    lua_pushfstring(L, "%s: %s", kind, message);
  return 1;
}

/* core.error(table): makes a table with kind and message an error value; for pool's Lua files. */
static int error_make(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  luaL_setmetatable(L, LERROR_NAME);
  return 1;
}

/* core.is_error(value) */
static int error_is(lua_State *L) {
  bool is = lua_istable(L, 1) && lua_getmetatable(L, 1) && luaL_getmetatable(L, LERROR_NAME) && lua_rawequal(L, -1, -2);
  lua_pushboolean(L, is);
  return 1;
}

void lerror_open(lua_State *L) {
  static const luaL_Reg meta[] = {{"__tostring", error_tostring}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"misuse", error_misuse},         {"error", error_make},
                                       {"is_error", error_is},           {"no_field", error_no_field},
                                       {"check_self", error_check_self}, {"nearest", error_nearest},
                                       {NULL, NULL}};
  luaL_newmetatable(L, LERROR_NAME);
  luaL_setfuncs(L, meta, 0);
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
