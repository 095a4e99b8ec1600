/*
** ldecode: jansson's tree of a JSON text, as Lua values.
**
** The tree belongs to a userdata before the first push, and is let go as soon as it has been turned into tables. jansson checks
** the grammar and UTF-8, keeps integers, and refuses what would not be exact: integers past 64 bits, reals past a double, keys
** with \u0000. Its messages quote the text around the fault: ours give the place instead, since the text may be a secret.
*/
#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "ljson.h"
#include "lkind.h"

#define TREE_NAME "pool.JsonTree"

struct tree {
  json_t *root;
};

static void tree_free(struct tree *t) {
  json_t *root = t->root;
  t->root = NULL;
  json_decref(root);
}

static int tree_gc(lua_State *L) {
  tree_free(lua_touserdata(L, 1));
  return 0;
}

static struct tree *tree_new(lua_State *L) {
  struct tree *t = lua_newuserdatauv(L, sizeof *t, 0);
  t->root = NULL;
  if (luaL_newmetatable(L, TREE_NAME)) {
    lua_pushcfunction(L, tree_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushliteral(L, TREE_NAME);
    lua_setfield(L, -2, "__metatable");
  }
  lua_setmetatable(L, -2);
  return t;
}

static bool value_push(lua_State *L, json_t *v, int depth);

/* false: too deep; what was pushed is the caller's to drop, here and above. */
static bool array_push(lua_State *L, json_t *array, int depth) {
  size_t n = json_array_size(array);
  lua_createtable(L, (int)n, 0);
  lkind_set(L, LKIND_ARRAY);
  for (size_t i = 0; i < n; i++) {
    if (!value_push(L, json_array_get(array, i), depth)) return false;
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return true;
}

static bool object_push(lua_State *L, json_t *object, int depth) {
  const char *key;
  json_t *value;
  lua_createtable(L, 0, (int)json_object_size(object));
  json_object_foreach(object, key, value) {
    lua_pushstring(L, key);
    if (!value_push(L, value, depth)) return false;
    lua_rawset(L, -3);
  }
  return true;
}

static bool value_push(lua_State *L, json_t *v, int depth) {
  luaL_checkstack(L, 8, "JSON");
  switch (json_typeof(v)) {
  case JSON_OBJECT: return depth < LJSON_DEPTH_MAX && object_push(L, v, depth + 1);
  case JSON_ARRAY: return depth < LJSON_DEPTH_MAX && array_push(L, v, depth + 1);
  case JSON_STRING: lua_pushlstring(L, json_string_value(v), json_string_length(v)); break;
  case JSON_INTEGER: lua_pushinteger(L, json_integer_value(v)); break;
  case JSON_REAL: lua_pushnumber(L, json_real_value(v)); break;
  case JSON_TRUE: lua_pushboolean(L, true); break;
  case JSON_FALSE: lua_pushboolean(L, false); break;
  case JSON_NULL: ljson_push_null(L); break;
  default: WRONG("no such type of JSON value");
  }
  return true;
}

/* What is wrong, without the text that jansson quotes ("... near 'x'"). */
static const char *fault_reason(json_error_t *fault) {
  switch (json_error_code(fault)) {
  case json_error_numeric_overflow:
    return strncmp(fault->text, "too big", 7) == 0 ? "an integer past 64 bits, which Lua cannot hold exactly"
                                                   : "a number past the range of a float, which Lua cannot hold";
  case json_error_stack_overflow: return "nested deeper than 128 levels";
  case json_error_null_byte_in_key: return "a key with \\u0000 in it, which is not supported";
  case json_error_invalid_utf8: return "the text is not UTF-8";
  case json_error_premature_end_of_input: return "the text ends too early";
  case json_error_end_of_input_expected: return "the value is over, but the text goes on";
  default: break;
  }
  char *near = strstr(fault->text, " near ");
  if (near) *near = '\0';
  return fault->text;
}

static void fault_set(struct pool_error *error, json_error_t *fault) {
  const char *reason = fault_reason(fault);
  error_set(error, POOL_JSON, "malformed JSON at line %d, column %d: %s", fault->line < 1 ? 1 : fault->line,
            fault->column < 0 ? 0 : fault->column, reason);
}

/* Past the closing quote of the string whose opening one is before `at`. */
static const char *string_end(const char *at, const char *end) {
  while (at < end && *at != '"') at += *at == '\\' ? 2 : 1;
  return at < end ? at + 1 : end;
}

/* A few bytes of text may become hundreds of memory (`{},`): their number is bounded before any of it is made. */
static bool parts_fit(const char *text, size_t len) {
  const char *at = text, *end = text + len;
  size_t parts = 0;
  if (len <= LJSON_PARTS_MAX) return true;
  while (at < end) {
    char c = *at++;
    if (c == '"')
      at = string_end(at, end);
    else
      parts += c == ',' || c == '[' || c == '{' || c == ':';
  }
  return parts <= LJSON_PARTS_MAX;
}

bool ljson_decode(lua_State *L, const char *text, size_t len, struct pool_error *error) {
  json_error_t fault;
  luaL_checkstack(L, 8, "JSON");
  if (len > LJSON_SIZE_MAX) {
    error_set(error, POOL_JSON, "the JSON text is larger than 64 MiB");
    return false;
  }
  if (!parts_fit(text, len)) {
    error_set(error, POOL_JSON, "the JSON has more than %u brackets, commas and colons", LJSON_PARTS_MAX);
    return false;
  }
  int base = lua_gettop(L);
  struct tree *t = tree_new(L);
  errno = 0;
  t->root = json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &fault);
  if (!t->root && errno == ENOMEM) luaL_error(L, "not enough memory"); /* jansson calls it all kinds of malformed */
  bool nul = t->root && memchr(text, '\0', len); /* jansson takes one after a number for the text's end */
  bool fine = t->root && !nul && value_push(L, t->root, 0);
  if (!t->root)
    fault_set(error, &fault);
  else if (nul)
    error_set(error, POOL_JSON, "malformed JSON: the text has a NUL byte");
  else if (!fine)
    error_set(error, POOL_JSON, "the JSON is nested deeper than 128 levels");
  tree_free(t);
  if (fine) lua_replace(L, base + 1);
  lua_settop(L, base + fine);
  return fine;
}

void ljson_push_cell(lua_State *L, const char *text, size_t len) {
  struct pool_error error;
  if (!ljson_decode(L, text, len, &error)) lua_pushlstring(L, text, len);
}
