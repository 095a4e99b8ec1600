/*
** lrows: cells into Lua values, rows into tables.
**
** Every push may raise for want of memory, so the result belongs to a userdata ("pool.Result") before the first one, scratch is
** a userdata too, and the result is freed early only when nothing can raise any more. A cell's text is valid until the next cell is
** read: it is pushed at once.
**
** A row table is made with exactly the room it needs, its keys are strings that the shape keeps (lshape.h), and it gets the
** shape's metatable, which has no __index: an absent NULL reads as nil. Where column names repeat, the last one's cell has the name,
** and every cell also has its integer position.
*/
#include "lrows.h"

#include <string.h>

#include "ljson.h"
#include "lkind.h"
#include "lshape.h"

#define RESULT_NAME "pool.Result"

/* Where the walk over a result is. */
struct cursor {
  const struct driver *driver;
  struct db_result *result;
  const struct lshape *shape;
  int metatable; /* the stack index of the shape's row metatable */
  bool sentinel;
};

/* ---- the guard ---- */

static void result_free(struct lresult *r) {
  struct db_result *result = r->result;
  r->result = NULL;
  if (result) r->driver->free_result(result);
}

static int result_gc(lua_State *L) {
  result_free(lua_touserdata(L, 1));
  return 0;
}

struct lresult *lrows_guard(lua_State *L, const struct driver *driver) {
  struct lresult *r = lua_newuserdatauv(L, sizeof *r, 0);
  *r = (struct lresult){.driver = driver};
  if (luaL_newmetatable(L, RESULT_NAME)) {
    lua_pushcfunction(L, result_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushliteral(L, RESULT_NAME);
    lua_setfield(L, -2, "__metatable");
  }
  lua_setmetatable(L, -2);
  return r;
}

/* ---- cells ---- */

static void scalar_push(lua_State *L, const struct value *v) {
  switch (v->type) {
  case VALUE_NULL: ljson_push_null(L); break;
  case VALUE_INTEGER: lua_pushinteger(L, v->integer); break;
  case VALUE_REAL: lua_pushnumber(L, v->real); break;
  case VALUE_BOOLEAN: lua_pushboolean(L, v->boolean); break;
  case VALUE_JSON: ljson_push_cell(L, v->text, v->len); break;
  case VALUE_TEXT:
  case VALUE_NUMERIC:
  case VALUE_BYTES: lua_pushlstring(L, v->text, v->len); break;
  case VALUE_ARRAY:
  default: WRONG("not a scalar value");
  }
}

/* One token's worth: the value on top of the stack goes into the table below it. false: malformed, nothing pushed. */
static bool element_push(lua_State *L, struct array_reader *reader, enum array_token token, enum value_type element) {
  struct value v = {.type = VALUE_NULL};
  if (token == ARRAY_ELEMENT && !array_value(reader, element, &v)) return false;
  scalar_push(L, &v);
  return true;
}

/* Reads the tokens into nested tables, the outermost left on top. false: malformed, with tables left on the stack. */
static bool array_fill(lua_State *L, struct array_reader *reader, enum value_type element) {
  lua_Integer filled[ARRAY_DEPTH_MAX + 1] = {0}; /* elements so far, by depth */
  luaL_checkstack(L, ARRAY_DEPTH_MAX + 8, "an array cell");
  for (;;) {
    enum array_token token = array_next(reader);
    if (token == ARRAY_END || token == ARRAY_MALFORMED) return token == ARRAY_END;
    if (token == ARRAY_OPEN) {
      filled[reader->depth] = 0;
      lua_newtable(L);
      lkind_set(L, element == VALUE_BYTES ? LKIND_BYTES_ARRAY : LKIND_ARRAY);
      continue;
    }
    if (token != ARRAY_CLOSE && !element_push(L, reader, token, element)) return false;
    if (reader->depth > 0) lua_rawseti(L, -2, ++filled[reader->depth]);
  }
}

static void array_push(lua_State *L, const struct value *array) {
  int base = lua_gettop(L);
  struct array_reader reader;
  array_begin(&reader, array, lua_newuserdatauv(L, array->len + 1, 0));
  if (array_fill(L, &reader, array->element)) {
    lua_replace(L, base + 1);
  } else {
    lua_settop(L, base);
    lua_pushlstring(L, array->text, array->len);
  }
}

static void cell_push(lua_State *L, const struct value *v) {
  if (v->type == VALUE_ARRAY)
    array_push(L, v);
  else
    scalar_push(L, v);
}

/* ---- rows ---- */

/* Sets one cell in the row table on top of the stack. */
static void row_set(lua_State *L, const struct cursor *c, int column, const struct value *v) {
  const struct lshape_column *at = &c->shape->columns[column];
  lua_rawgeti(L, c->metatable, column + 1);
  cell_push(L, v);
  if (lshape_duplicates(c->shape)) {
    lua_pushvalue(L, -1);
    lua_rawseti(L, -4, column + 1);
  }
  if (at->source == column)
    lua_rawset(L, -3);
  else
    lua_pop(L, 2);
}

static void row_push(lua_State *L, struct cursor *c, int row) {
  const struct lshape *s = c->shape;
  bool strange = false; /* bytes where the column says otherwise, or the reverse */
  lua_createtable(L, lshape_duplicates(s) ? s->count : 0, s->names);
  for (int column = 0; column < s->count; column++) {
    struct value v;
    c->driver->cell(c->result, row, column, &v);
    strange |= v.type != VALUE_NULL && (v.type == VALUE_BYTES) != s->columns[column].bytes;
    if (v.type != VALUE_NULL || c->sentinel) row_set(L, c, column, &v);
  }
  if (strange) c->shape = lshape_vary(L, c->metatable, c->driver, c->result, row);
  lua_pushvalue(L, c->metatable);
  lua_setmetatable(L, -2);
}

/* Pushes the row metatable. */
static struct cursor cursor_begin(lua_State *L, struct lresult *r, bool sentinel) {
  INSIST(r->result);
  luaL_checkstack(L, 16, "rows");
  struct cursor c = {.driver = r->driver, .result = r->result, .sentinel = sentinel};
  c.shape = lshape_push(L, c.driver, c.result);
  c.metatable = lua_gettop(L);
  return c;
}

void lrows_push(lua_State *L, struct lresult *r, bool sentinel) {
  struct cursor c = cursor_begin(L, r, sentinel);
  int rows = c.driver->rows(c.result);
  lua_createtable(L, rows, 0);
  for (int row = 0; row < rows; row++) {
    row_push(L, &c, row);
    lua_rawseti(L, -2, row + 1);
  }
  lshape_push_rows_metatable(L, c.metatable, c.driver, c.result);
  lua_setmetatable(L, -2);
  lua_replace(L, c.metatable);
  result_free(r);
}

void lrows_push_row(lua_State *L, struct lresult *r, int row, bool sentinel) {
  struct cursor c = cursor_begin(L, r, sentinel);
  INSIST(row >= 0 && row < c.driver->rows(c.result));
  row_push(L, &c, row);
  lua_replace(L, c.metatable);
}

bool lrows_push_json(lua_State *L, struct lresult *r, struct pool_error *error) {
  INSIST(r->result);
  luaL_checkstack(L, 8, "rows as JSON");
  struct json_buffer *b = ljson_buffer(L);
  int at = lua_gettop(L);
  bool fine = json_append_result(b, r->driver, r->result, error);
  result_free(r);
  if (fine) lua_pushlstring(L, b->data, b->len);
  json_buffer_free(b);
  lua_remove(L, at);
  return fine;
}
