/*
** rows_test: results, parameters and JSON in Lua, with a driver that serves what the test wrote down. The tests are in the Lua file
** that is the first argument; this program gives them:
**   t.test(sentence, fn)  t.check(value, what)
**   t.rows(description, sentinel?) -> rows        t.row(description, n, sentinel?) -> one row
**   t.json(description) -> string | nil, message  t.param(value, json_arrays?) -> type, element, value | nil, error
** and then runs everything again in states whose memory ends after n allocations, for every n.
**
** A description: { columns = {{name, type}, ...}, rows = {{cell, ...}, ...}, command =, affected =, shape = }. A cell is a scalar, text for
** the column's type, {type, text} for another type, or nil for NULL; "integer[]" is an array of integers.
*/
#include <lauxlib.h>
#include <lua.h>
#include <limits.h>
#include <lualib.h>
#include <stdio.h>

#include "lua/ljson.h"
#include "lua/lerror.h"
#include "lua/lrows.h"
#include "support/check.h"
#include "support/fake_driver.h"

static const struct driver fake = FAKE_DRIVER(false), fake_json = FAKE_DRIVER(true);
static const char *const type_names[] = {"null", "integer", "real", "boolean", "text", "numeric", "json", "bytes", NULL};
static const char *const param_names[] = {"null", "integer", "real", "boolean", "text", "bytes", "json", "array"};

/* ---- results from descriptions ---- */

static enum value_type type_of(const char *name, enum value_type *element) {
  size_t len = strlen(name);
  bool array = len > 2 && strcmp(name + len - 2, "[]") == 0;
  for (int i = 0; type_names[i]; i++)
    if (strlen(type_names[i]) == len - (array ? 2 : 0) && strncmp(name, type_names[i], strlen(type_names[i])) == 0) {
      *element = array ? (enum value_type)i : VALUE_NULL;
      return array ? VALUE_ARRAY : (enum value_type)i;
    }
  WRONG("no such type in a description");
}

static char *text_keep(struct db_result *r, const char *text, size_t len) {
  char *kept = fake_alloc(r, len + 1);
  memcpy(kept, text, len);
  return kept;
}

/* The cell at `index` of the stack, of this type. */
static struct value cell_of(lua_State *L, struct db_result *r, int index, const char *type) {
  struct value v = {.delimiter = ','};
  if (lua_istable(L, index)) {
    lua_rawgeti(L, index, 1);
    lua_rawgeti(L, index, 2);
    v = cell_of(L, r, lua_gettop(L), lua_tostring(L, -2));
    lua_pop(L, 2);
    return v;
  }
  switch (lua_type(L, index)) {
  case LUA_TNIL: v.type = VALUE_NULL; break;
  case LUA_TBOOLEAN: v.type = VALUE_BOOLEAN, v.boolean = lua_toboolean(L, index); break;
  case LUA_TNUMBER:
    v.type = lua_isinteger(L, index) ? VALUE_INTEGER : VALUE_REAL;
    if (v.type == VALUE_INTEGER) v.integer = lua_tointeger(L, index);
    else v.real = lua_tonumber(L, index);
    break;
  default: {
    size_t len;
    const char *text = lua_tolstring(L, index, &len);
    v.type = type_of(type, &v.element);
    v.text = text_keep(r, text, len);
    v.len = len;
  }
  }
  return v;
}

static void columns_of(lua_State *L, struct db_result *r) {
  lua_getfield(L, 1, "columns");
  r->columns = (int)lua_rawlen(L, -1);
  struct column *columns = fake_alloc(r, (size_t)r->columns * sizeof *columns);
  for (int i = 0; i < r->columns; i++) {
    enum value_type element;
    lua_rawgeti(L, -1, i + 1);
    lua_rawgeti(L, -1, 1);
    lua_rawgeti(L, -2, 2);
    columns[i].name = text_keep(r, lua_tostring(L, -2), strlen(lua_tostring(L, -2)));
    columns[i].type = type_of(lua_tostring(L, -1), &element);
    lua_pop(L, 3);
  }
  r->column = columns;
  lua_pop(L, 1);
}

static void cells_of(lua_State *L, struct db_result *r) {
  lua_getfield(L, 1, "columns");
  lua_getfield(L, 1, "rows");
  r->rows = (int)lua_rawlen(L, -1);
  struct value *cells = fake_alloc(r, (size_t)r->columns * (size_t)r->rows * sizeof *cells);
  for (int i = 0; i < r->rows * r->columns; i++) {
    lua_rawgeti(L, -1, i / r->columns + 1);
    lua_rawgeti(L, -1, i % r->columns + 1);
    lua_rawgeti(L, -4, i % r->columns + 1);
    lua_rawgeti(L, -1, 2);
    cells[i] = cell_of(L, r, lua_gettop(L) - 2, lua_tostring(L, -1));
    lua_pop(L, 4);
  }
  r->cells = cells;
  lua_pop(L, 2);
}

/* The description at index 1 as a result in the guard, which is pushed. */
static struct lresult *result_of(lua_State *L, const struct driver *driver) {
  luaL_checktype(L, 1, LUA_TTABLE);
  struct lresult *guard = lrows_guard(L, driver);
  struct db_result *r = guard->result = fake_result((struct db_result){.command = "SELECT"});
  columns_of(L, r);
  cells_of(L, r);
  lua_getfield(L, 1, "command");
  if (!lua_isnil(L, -1)) r->command = text_keep(r, lua_tostring(L, -1), strlen(lua_tostring(L, -1)));
  lua_getfield(L, 1, "affected");
  r->affected = lua_isnil(L, -1) ? r->rows : lua_tointeger(L, -1);
  lua_getfield(L, 1, "shape");
  r->shape = lua_isnil(L, -1) ? NULL : (const char *)&fake + lua_tointeger(L, -1);
  lua_pop(L, 3);
  return guard;
}

/* ---- what the tests call ---- */

static int t_rows(lua_State *L) {
  bool sentinel = lua_toboolean(L, 2);
  struct lresult *r = result_of(L, &fake);
  int top = lua_gettop(L);
  lrows_push(L, r, sentinel);
  INSIST(lua_gettop(L) == top + 1 && !r->result);
  return 1;
}

static int t_row(lua_State *L) {
  int n = (int)luaL_checkinteger(L, 2) - 1;
  bool sentinel = lua_toboolean(L, 3);
  struct lresult *r = result_of(L, &fake);
  int top = lua_gettop(L);
  lrows_push_row(L, r, n, sentinel);
  INSIST(lua_gettop(L) == top + 1 && r->result);
  return 1;
}

static int t_json(lua_State *L) {
  struct pool_error error;
  struct lresult *r = result_of(L, &fake);
  int top = lua_gettop(L);
  bool fine = lrows_push_json(L, r, &error);
  INSIST(lua_gettop(L) == top + fine && !r->result);
  if (fine) return 1;
  lua_pushnil(L);
  lua_pushstring(L, error.message);
  return 2;
}

static int t_param(lua_State *L) {
  struct param p;
  struct pool_error error;
  bool ok;
  lua_settop(L, 2);
  int pushed = lrows_param(L, 1, 3, lua_toboolean(L, 2) ? &fake_json : &fake, &p, &ok, &error);
  INSIST(lua_gettop(L) == 2 + pushed);
  if (!ok) return lerror_return(L, &error);
  lua_pushstring(L, param_names[p.type]);
  lua_pushstring(L, p.type == PARAM_ARRAY ? param_names[p.element] : "");
  switch (p.type) {
  case PARAM_NULL: lua_pushnil(L); break;
  case PARAM_INTEGER: lua_pushinteger(L, p.integer); break;
  case PARAM_REAL: lua_pushnumber(L, p.real); break;
  case PARAM_BOOLEAN: lua_pushboolean(L, p.boolean); break;
  default: lua_pushlstring(L, p.text, p.len);
  }
  return 3;
}

static int t_check(lua_State *L) {
  luaL_where(L, 1);
  const char *what = luaL_optstring(L, 2, "a check");
  lua_pushfstring(L, "%s%s", lua_tostring(L, -1), what);
  lua_pushboolean(L, check_that(lua_toboolean(L, 1), lua_tostring(L, -1), "rows_test", 0));
  return 1;
}

/* Raises nothing but for want of memory: a test that raised has failed. */
static int t_test(lua_State *L) {
  luaL_checktype(L, 2, LUA_TFUNCTION);
  check_begin(luaL_checkstring(L, 1));
  int status = lua_pcall(L, 0, 0, 0);
  if (status == LUA_ERRMEM) return lua_error(L);
  if (status != LUA_OK) check_that(false, luaL_tolstring(L, -1, NULL), "rows_test", 0);
  return 0;
}

/* ---- states ---- */

static int open_all(lua_State *L) {
  static const luaL_Reg functions[] = {{"test", t_test}, {"check", t_check}, {"rows", t_rows}, {"row", t_row},
                                       {"json", t_json}, {"param", t_param}, {NULL, NULL}};
  luaL_openlibs(L);
  luaL_newlib(L, functions);
  lua_newtable(L);
  lerror_open(L);
  lrows_open(L);
  ljson_open(L);
  return 2;
}

/* Memory where the allocation after `left` others fails, twice, since Lua tries again after a collection. Not for ever: Lua drops an
   object whose __gc it could not call for want of memory, and no binding can prevent that leak. */
struct memory {
  long left, used;
};

static void *memory_alloc(void *user, void *block, size_t old, size_t size) {
  struct memory *m = user;
  if (size == 0) {
    free(block);
    return NULL;
  }
  if (block == NULL || size > old) {
    m->used++;
    if (m->left-- <= 0 && m->left >= -2) return NULL;
  }
  return realloc(block, size);
}

static int run_sample(lua_State *L) {
  lua_pushcfunction(L, open_all);
  lua_call(L, 0, 2);
  if (luaL_loadstring(L, lua_touserdata(L, 1)) != LUA_OK) luaL_error(L, "not enough memory");
  lua_insert(L, -3);
  lua_call(L, 2, 0);
  return 0;
}

/* What touches everything that allocates, small enough to be run once an allocation. */
static const char sample[] =
    "local t, pool = ...\n"
    "local d = {columns = {{'id', 'integer'}, {'name', 'text'}, {'id', 'text'}, {'doc', 'json'}, {'list', 'integer[]'},\n"
    "             {'raw', 'bytes'}},\n"
    "  rows = {{1, 'a', 'b', '{\"a\":[1,{\"b\":null}],\"c\":\"x\"}', '{{1,2},{3,NULL}}', 'bytes'},\n"
    "          {2, {'bytes', 'raw'}, nil, '[]', '{}', nil}}, shape = 1}\n"
    "local rows = t.rows(d)\n"
    "rows[1].added = {z = 1, a = {1, 2.5, true}}\n"
    "assert(#rows.columns == 6)\n"
    "pool.json.encode(rows)\n"
    "t.json(d) t.row(d, 1, true) t.param(pool.array{{'a', 'b'}, {'c'}}) t.param(pool.jsonb{a = rows}) t.param(pool.bytes('x'))\n"
    "pool.json.decode('{\"a\":[1,2,{\"b\":\"c\"}]}') pool.json.decode('{') pool.identifier('a\"b')\n"
    "local big = {} for i = 1, 70 do big['key' .. i] = i end pool.json.encode(big)\n";

/* Runs the sample; the n-th allocation fails. Returns how many there were. */
static long run_with(long n, int *status) {
  struct memory memory = {.left = LONG_MAX};
  lua_State *L = lua_newstate(memory_alloc, &memory);
  lua_pushcfunction(L, run_sample);
  lua_pushlightuserdata(L, (void *)(uintptr_t)sample);
  memory.left = n;
  memory.used = 0;
  *status = lua_pcall(L, 1, 0, 0);
  memory.left = LONG_MAX;
  if (*status == LUA_ERRRUN && strstr(lua_tostring(L, -1), "stack overflow")) *status = LUA_ERRMEM; /* luaL_checkstack's words for it */
  if (*status != LUA_OK && *status != LUA_ERRMEM) printf("# %s\n", lua_tostring(L, -1));
  lua_close(L);
  return memory.used;
}

static void test_memory(void) {
  TEST("whichever allocation fails, the error is raised and nothing leaks") {
    int status = LUA_OK, raised = 0, strange = 0;
    long total = run_with(LONG_MAX, &status), n;
    CHECK(status == LUA_OK);
    for (n = 0; n < total; n++) {
      run_with(n, &status);
      raised += status == LUA_ERRMEM;
      strange += status != LUA_ERRMEM && status != LUA_OK;
    }
    CHECK_INT(strange, 0);
    CHECK(raised > 500);
    printf("# %ld allocations failed in turn, %d of them raised\n", total, raised);
  }
}

int main(int count, char **arguments) {
  INSIST(count == 2);
  lua_State *L = luaL_newstate();
  lua_pushcfunction(L, open_all);
  lua_call(L, 0, 2);
  if (luaL_loadfile(L, arguments[1]) != LUA_OK) {
    printf("%s\n", lua_tostring(L, -1));
    return 1;
  }
  lua_insert(L, -3);
  if (lua_pcall(L, 2, 0, 0) != LUA_OK) check_that(false, lua_tostring(L, -1), "rows_test", 0);
  lua_close(L);
  test_memory();
  return check_done();
}
