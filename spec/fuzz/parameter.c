/*
** parameter: what is sent to a database: array literals (lua/lparam.c), numbers as text (db/postgres_params.c), quoted names
** (pool.identifier).
**
** The bytes choose a value. What is written as an array of PostgreSQL's is read back by the reader of cells as the same array. A text goes
** as it is or is refused with 22021; no parameter's text holds a NUL. A quoted name is one name to SQLite, the very same.
*/
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "db/json_text.h"
#include "db/postgres.h"
#include "fuzz/fuzz.h"
#include "fuzz/lua.h"
#include "lua/lrows.h"

static const char chunk[] =
    "local pool = require 'pool.core' return function() return pool.array, pool.bytes, pool.null, pool.identifier end\n";

enum element { INTEGERS, REALS, BOOLEANS, TEXTS, BYTES, MIXED, ELEMENTS };

static void text_push(lua_State *L, struct fuzz *f) {
  size_t len;
  char *text = fuzz_take(f, fuzz_below(f, 20), &len);
  lua_pushlstring(L, text, len);
  free(text);
}

static void scalar_push(lua_State *L, struct fuzz *f, enum element element) {
  uint64_t bits;
  double real;
  if (element == MIXED) element = (enum element)fuzz_below(f, MIXED);
  switch (element) {
  case INTEGERS: lua_pushinteger(L, (lua_Integer)fuzz_number(f, 1 + (int)fuzz_below(f, 8))); break;
  case REALS:
    bits = fuzz_number(f, 8);
    memcpy(&real, &bits, sizeof real);
    lua_pushnumber(L, real);
    break;
  case BOOLEANS: lua_pushboolean(L, fuzz_byte(f) & 1); break;
  case BYTES:
    lua_pushvalue(L, 2);
    text_push(L, f);
    lua_call(L, 1, 1);
    break;
  default: text_push(L, f);
  }
}

/* An array, on top: nested `depth` deep, with nulls. */
static void array_push(lua_State *L, struct fuzz *f, enum element element, int depth) {
  luaL_checkstack(L, 8, NULL);
  lua_pushvalue(L, 1);
  lua_newtable(L);
  for (int i = 1, n = (int)fuzz_below(f, 5); i <= n; i++) {
    if (fuzz_byte(f) > 240)
      lua_pushvalue(L, 3);
    else if (depth > 1)
      array_push(L, f, element, depth - 1);
    else
      scalar_push(L, f, element);
    lua_rawseti(L, -2, i);
  }
  lua_call(L, 1, 1);
}

static int param_body(lua_State *L) {
  struct pool_error *error = lua_touserdata(L, 2);
  struct param *out = lua_touserdata(L, 3);
  bool ok;
  lrows_param(L, 1, 7, &postgres_driver, out, &ok, error);
  if (!ok) return 0;
  lua_pushlstring(L, out->text ? out->text : "", out->len);
  return 1;
}

/* The value on top as a parameter; its text is pushed, and false says that it was refused. */
static bool param_of(lua_State *L, struct param *out, struct pool_error *error) {
  *error = (struct pool_error){.kind = POOL_OK};
  lua_pushcfunction(L, param_body);
  lua_pushvalue(L, -2);
  lua_pushlightuserdata(L, error);
  lua_pushlightuserdata(L, out);
  if (lua_pcall(L, 3, 1, 0) != LUA_OK) {
    HOLDS(strstr(lua_tostring(L, -1), "parameter $7: ")); /* misuse, named */
    return false;
  }
  HOLDS(lua_isnil(L, -1) == (error->kind != POOL_OK));
  HOLDS(lua_isstring(L, -1) || (error->kind == POOL_QUERY && strcmp(error->sqlstate, "22021") == 0));
  return error->kind == POOL_OK;
}

static void number_check(lua_State *L, int index, const struct value *v, enum element element) {
  if (element == INTEGERS) HOLDS(v->type == VALUE_INTEGER && v->integer == lua_tointeger(L, index));
  double wanted = lua_tonumber(L, index);
  if (element == REALS && v->type == VALUE_REAL)
    HOLDS(isnan(wanted) ? isnan(v->real) : v->real == wanted);
  else if (element == REALS)
    HOLDS(!isfinite(wanted) && v->len >= 3); /* "inf": what PostgreSQL takes, and never writes */
}

/* Is the element just read the value at index? */
static void element_check(lua_State *L, int index, struct array_reader *r, enum element element) {
  static const enum value_type types[] = {VALUE_INTEGER, VALUE_REAL, VALUE_BOOLEAN, VALUE_TEXT, VALUE_BYTES, VALUE_TEXT};
  struct value v;
  size_t len;
  HOLDS(array_value(r, types[element], &v));
  if (element == INTEGERS || element == REALS) number_check(L, index, &v, element);
  if (element == BOOLEANS) HOLDS(v.type == VALUE_BOOLEAN && v.boolean == (lua_toboolean(L, index) != 0));
  if (element != TEXTS && element != BYTES) return;
  if (element == BYTES)
    lua_getiuservalue(L, index, 1);
  else
    lua_pushvalue(L, index);
  const char *text = lua_tolstring(L, -1, &len);
  HOLDS(v.len == len && memcmp(v.text, text, len) == 0);
  lua_pop(L, 1);
}

static void array_check(lua_State *L, int array, struct array_reader *r, enum element element) {
  luaL_checkstack(L, 8, NULL);
  HOLDS(array_next(r) == ARRAY_OPEN);
  for (int i = 1, n = (int)lua_rawlen(L, array); i <= n; i++) {
    lua_rawgeti(L, array, i);
    int index = lua_gettop(L);
    if (lua_istable(L, index)) {
      array_check(L, index, r, element);
    } else {
      enum array_token token = array_next(r);
      HOLDS(token == (lua_islightuserdata(L, index) ? ARRAY_NULL : ARRAY_ELEMENT));
      if (token == ARRAY_ELEMENT) element_check(L, index, r, element);
    }
    lua_pop(L, 1);
  }
  HOLDS(array_next(r) == ARRAY_CLOSE);
}

static void array_param_check(lua_State *L, struct fuzz *f) {
  enum element element = (enum element)fuzz_below(f, ELEMENTS);
  struct param p;
  struct pool_error error;
  array_push(L, f, element, 1 + (int)fuzz_below(f, 4));
  int array = lua_gettop(L);
  if (!param_of(L, &p, &error) || element == MIXED) return;
  struct value v = {.type = VALUE_ARRAY, .delimiter = ','};
  v.text = lua_tolstring(L, -1, &v.len);
  HOLDS(memchr(v.text, '\0', v.len) == NULL && utf8_valid(v.text, v.len));
  char *scratch = malloc(v.len + 1);
  struct array_reader r;
  array_begin(&r, &v, scratch);
  array_check(L, array, &r, element);
  HOLDS(array_next(&r) == ARRAY_END);
  free(scratch);
}

/* One parameter as libpq is given it. */
static void plain_param_check(lua_State *L, struct fuzz *f) {
  struct param p;
  struct pool_error error;
  struct pg_params params = {0};
  scalar_push(L, f, MIXED);
  int value = lua_gettop(L);
  if (!param_of(L, &p, &error)) return;
  struct statement s = {.sql = "select $1", .len = 9, .params = &p, .nparams = 1};
  HOLDS(params_set(&params, &s, &error) && params.count == 1 && params.values[0] != NULL);
  size_t len = (size_t)params.lengths[0];
  HOLDS(params.values[0][len] == '\0' && (params.formats[0] == 1 || strlen(params.values[0]) == len));
  struct value v;
  if (p.type == PARAM_INTEGER || p.type == PARAM_REAL) {
    value_from_text(&v, p.type == PARAM_INTEGER ? VALUE_INTEGER : VALUE_REAL, params.values[0], len);
    number_check(L, value, &v, p.type == PARAM_INTEGER ? INTEGERS : REALS);
  } else if (p.type != PARAM_BOOLEAN) {
    HOLDS(len == p.len && memcmp(params.values[0], p.text, len) == 0);
  }
  params_free(&params);
}

static void identifier_check(lua_State *L, struct fuzz *f) {
  static sqlite3 *memory; /* nothing is ever written to it */
  sqlite3_stmt *statement = NULL;
  size_t len;
  char *name = fuzz_take(f, 100, &len), sql[400];
  if (memory == NULL) HOLDS(sqlite3_open(":memory:", &memory) == SQLITE_OK);
  lua_pushvalue(L, 4);
  lua_pushlstring(L, name, len);
  bool made = lua_pcall(L, 1, 1, 0) == LUA_OK;
  HOLDS(made == (len > 0 && !memchr(name, '\0', len) && utf8_valid(name, len)));
  if (made) {
    snprintf(sql, sizeof sql, "select 1 as %s, 2", lua_tostring(L, -1));
    HOLDS(sqlite3_prepare_v2(memory, sql, -1, &statement, NULL) == SQLITE_OK && sqlite3_column_count(statement) == 2);
    HOLDS(strcmp(sqlite3_column_name(statement, 0), name) == 0);
    sqlite3_finalize(statement);
  }
  free(name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  lua_State *L = fuzz_lua(chunk);
  struct fuzz f = fuzz_of(data, size);
  fuzz_lua_call(L, 0); /* 1 array, 2 bytes, 3 null, 4 identifier */
  switch (fuzz_below(&f, 3)) {
  case 0: array_param_check(L, &f); break;
  case 1: plain_param_check(L, &f); break;
  default: identifier_check(L, &f); break;
  }
  lua_settop(L, 0);
  lua_gc(L, LUA_GCSTEP, 0);
  return 0;
}
