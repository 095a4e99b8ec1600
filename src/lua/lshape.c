/*
** lshape: a candidate is made of the result's columns, then looked up by its content; only an unknown one gets a metatable.
**
** The cache, a table in the registry, has row metatables by two sorts of keys: the driver's shape pointer, for the hot path, and the
** hash of the content. Neither is trusted: a statement's memory may have been given to another one, hashes collide, so the
** columns are compared before a shape is used. It is emptied when it holds CACHE_MAX entries.
**
** The metatable of the last array of rows is kept in the row metatable, under `rows_key`: [1] affected, [2] command, [3] the row
** metatable. `__index` is a function, so that the table of columns which it hands out is the caller's own.
*/
#include "lshape.h"

#include <string.h>

#include "ljson.h"
#include "lkind.h"

#define CACHE_MAX 512

static const char cache_key, rows_key;

/* ---- a shape from columns ---- */

static void shape_hash(struct lshape *s) {
  s->hash = 14695981039346656037u;
  for (int i = 0; i < s->count; i++) {
    struct lshape_column *c = &s->columns[i];
    c->hash = 2166136261u;
    for (size_t k = 0; k < c->len; k++) c->hash = (c->hash ^ (unsigned char)c->name[k]) * 16777619u;
    s->hash = (s->hash ^ c->hash ^ ((uint64_t)c->bytes << 40)) * 1099511628211u;
  }
}

static bool column_same(const struct lshape_column *a, const struct lshape_column *b) {
  return a->hash == b->hash && a->len == b->len && memcmp(a->name, b->name, a->len) == 0;
}

/* Which columns share a name. Hashes are compared first, so that 1,600 columns take a millisecond, once. */
static void shape_find_duplicates(struct lshape *s) {
  s->names = 0;
  for (int i = 0; i < s->count; i++) {
    int same = 0;
    while (same < i && !column_same(&s->columns[same], &s->columns[i])) same++;
    s->columns[i].first = same == i;
    s->columns[i].source = i;
    s->names += same == i;
    for (int k = same; k < i; k++) /* the earlier ones of this name stand for the cell of the last */
      if (column_same(&s->columns[k], &s->columns[i])) s->columns[k].source = i;
  }
}

static struct lshape *shape_allocate(lua_State *L, int count, size_t text) {
  size_t size = sizeof(struct lshape) + (size_t)count * sizeof(struct lshape_column) + text;
  struct lshape *s = lua_newuserdatauv(L, size, 0);
  memset(s, 0, size);
  s->count = count;
  return s;
}

/* Pushes a candidate. */
static struct lshape *shape_from_result(lua_State *L, const struct driver *driver, struct db_result *result) {
  int count = driver->columns(result);
  size_t text = 0;
  struct column c;
  for (int i = 0; i < count; i++) {
    driver->column(result, i, &c);
    text += strlen(c.name) + 1;
  }
  struct lshape *s = shape_allocate(L, count, text);
  char *at = (char *)&s->columns[count];
  for (int i = 0; i < count; i++) {
    driver->column(result, i, &c);
    s->columns[i] = (struct lshape_column){.name = at, .len = strlen(c.name), .bytes = c.type == VALUE_BYTES};
    memcpy(at, c.name, s->columns[i].len + 1);
    at += s->columns[i].len + 1;
  }
  return s;
}

static bool shape_equal(const struct lshape *a, const struct lshape *b) {
  bool equal = a->count == b->count && a->hash == b->hash;
  for (int i = 0; equal && i < a->count; i++)
    equal = column_same(&a->columns[i], &b->columns[i]) && a->columns[i].bytes == b->columns[i].bytes;
  return equal;
}

static bool shape_fits(const struct lshape *s, const struct driver *driver, struct db_result *result) {
  bool fits = s->count == driver->columns(result);
  for (int i = 0; fits && i < s->count; i++) {
    struct column c;
    driver->column(result, i, &c);
    fits = s->columns[i].bytes == (c.type == VALUE_BYTES) && strcmp(s->columns[i].name, c.name) == 0;
  }
  return fits;
}

/* ---- the cache ---- */

/* Pushes a fresh cache; there may be an old one, which is forgotten. */
static void cache_make(lua_State *L) {
  lua_createtable(L, 0, 8);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &cache_key);
}

static void cache_push(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &cache_key) != LUA_TTABLE) {
    lua_pop(L, 1);
    cache_make(L);
  }
}

/* Counts an entry that is about to be added to the cache at index; a full cache is replaced there. */
static void cache_count(lua_State *L, int cache) {
  lua_rawgetp(L, cache, &cache_key);
  lua_Integer count = lua_tointeger(L, -1) + 1;
  lua_pop(L, 1);
  if (count > CACHE_MAX) {
    cache_make(L);
    lua_replace(L, cache);
    count = 1;
  }
  lua_pushinteger(L, count);
  lua_rawsetp(L, cache, &cache_key);
}

/* The shape of the row metatable on top of the stack. */
static const struct lshape *metatable_shape(lua_State *L) {
  lkind_push_shape(L, -1);
  const struct lshape *s = lua_touserdata(L, -1);
  lua_pop(L, 1);
  INSIST(s);
  return s;
}

/* The names as JSON go into the row metatable on top of the stack, behind the names: where rows are encoded, half the work would
   be to escape them again. */
static void metatable_add_json(lua_State *L, struct lshape *s) {
  struct json_buffer *b = ljson_buffer(L);
  for (int i = 0; i < s->count; i++) {
    struct lshape_column *c = &s->columns[i];
    if (!utf8_valid(c->name, c->len)) continue;
    b->len = 0;
    json_append(b, ",", 1);
    json_append_string(b, c->name, c->len);
    json_append(b, ":", 1);
    if (b->failed) luaL_error(L, "not enough memory");
    lua_pushlstring(L, b->data, b->len);
    c->json = lua_tolstring(L, -1, &c->json_len);
    lua_rawseti(L, -3, s->count + i + 1);
  }
  json_buffer_free(b);
  lua_pop(L, 1);
}

/* The candidate on top of the stack becomes a row metatable. */
static void metatable_make(lua_State *L, struct lshape *s) {
  lua_createtable(L, 2 * s->count, 4);
  lua_insert(L, -2);
  lkind_mark_row(L, -2);
  for (int i = 0; i < s->count; i++) {
    lua_pushlstring(L, s->columns[i].name, s->columns[i].len);
    lua_rawseti(L, -2, i + 1);
  }
  metatable_add_json(L, s);
}

/* The candidate on top of the stack is replaced by the row metatable of its content, a known one or a new one. */
static const struct lshape *shape_intern(lua_State *L, int cache, struct lshape *s) {
  shape_hash(s);
  if (lua_rawgeti(L, cache, (lua_Integer)s->hash) == LUA_TTABLE && shape_equal(metatable_shape(L), s)) {
    lua_replace(L, -2);
    return metatable_shape(L);
  }
  lua_pop(L, 1);
  shape_find_duplicates(s);
  metatable_make(L, s);
  cache_count(L, cache);
  lua_pushvalue(L, -1);
  lua_rawseti(L, cache, (lua_Integer)s->hash);
  return s;
}

const struct lshape *lshape_push(lua_State *L, const struct driver *driver, struct db_result *result) {
  const void *pointer = driver->shape(result);
  cache_push(L);
  int cache = lua_gettop(L);
  if (pointer && lua_rawgetp(L, cache, pointer) == LUA_TTABLE) {
    const struct lshape *known = metatable_shape(L);
    if (shape_fits(known, driver, result)) {
      lua_replace(L, cache);
      return known;
    }
  }
  lua_settop(L, cache);
  const struct lshape *s = shape_intern(L, cache, shape_from_result(L, driver, result));
  if (pointer) {
    cache_count(L, cache);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, cache, pointer);
  }
  lua_replace(L, cache);
  return s;
}

const struct lshape *lshape_vary(lua_State *L, int metatable, const struct driver *driver, struct db_result *result, int row) {
  metatable = lua_absindex(L, metatable);
  cache_push(L);
  int cache = lua_gettop(L);
  struct lshape *s = shape_from_result(L, driver, result);
  for (int i = 0; i < s->count; i++) {
    struct value v;
    driver->cell(result, row, i, &v);
    if (v.type != VALUE_NULL) s->columns[i].bytes = v.type == VALUE_BYTES;
  }
  const struct lshape *varied = shape_intern(L, cache, s);
  lua_replace(L, metatable);
  lua_settop(L, cache - 1);
  return varied;
}

const struct lshape *lshape_of(lua_State *L, int index) {
  if (!lua_getmetatable(L, index)) return NULL;
  lkind_push_shape(L, -1);
  const struct lshape *s = lua_type(L, -1) == LUA_TUSERDATA ? lua_touserdata(L, -1) : NULL;
  lua_pop(L, 2);
  return s;
}

/* ---- the array of rows ---- */

/* A copy of the names of the row metatable on top of the stack. */
static void columns_push(lua_State *L) {
  int metatable = lua_gettop(L), count = metatable_shape(L)->count;
  lua_createtable(L, count, 0);
  for (int i = 1; i <= count; i++) {
    lua_rawgeti(L, metatable, i);
    lua_rawseti(L, -2, i);
  }
  lkind_set(L, LKIND_ARRAY);
}

/* __index of an array of rows. The upvalue: its metatable. */
static int rows_index(lua_State *L) {
  const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  if (strcmp(key, "affected") == 0)
    lua_rawgeti(L, lua_upvalueindex(1), 1);
  else if (strcmp(key, "command") == 0)
    lua_rawgeti(L, lua_upvalueindex(1), 2);
  else if (strcmp(key, "columns") == 0) {
    lua_rawgeti(L, lua_upvalueindex(1), 3);
    columns_push(L);
  } else
    lua_pushnil(L);
  return 1;
}

static void rows_metatable_make(lua_State *L, int metatable, lua_Integer affected, const char *command) {
  lua_createtable(L, 3, 4);
  lua_pushinteger(L, affected);
  lua_rawseti(L, -2, 1);
  lua_pushstring(L, command);
  lua_rawseti(L, -2, 2);
  lua_pushvalue(L, metatable);
  lua_rawseti(L, -2, 3);
  lkind_mark(L, LKIND_ARRAY);
  lua_pushvalue(L, -1);
  lua_pushcclosure(L, rows_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pushvalue(L, -1);
  lua_rawsetp(L, metatable, &rows_key);
}

void lshape_push_rows_metatable(lua_State *L, int metatable, const struct driver *driver, struct db_result *result) {
  const char *command = driver->command(result);
  lua_Integer affected = driver->affected(result);
  metatable = lua_absindex(L, metatable);
  if (lua_rawgetp(L, metatable, &rows_key) == LUA_TTABLE) {
    lua_rawgeti(L, -1, 1);
    lua_rawgeti(L, -2, 2);
    bool same = lua_tointeger(L, -2) == affected && strcmp(lua_tostring(L, -1), command) == 0;
    lua_pop(L, 2);
    if (same) return;
  }
  lua_pop(L, 1);
  rows_metatable_make(L, metatable, affected, command);
}
