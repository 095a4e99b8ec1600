/*
** lshape: the columns of a result, as every row of it knows them. A shape lives in a userdata that its row metatable keeps
** alive; results with equal columns share one, found again through a cache in the registry, so that the column names are
** made into Lua strings once. Nothing of it can be reached or changed from Lua.
*/
#ifndef POOL_LUA_LSHAPE_H
#define POOL_LUA_LSHAPE_H

#include <lauxlib.h>
#include <lua.h>

#include "db/driver.h"

struct lshape_column {
  const char *name; /* in the shape's own memory, NUL-terminated */
  size_t len;
  const char *json; /* `,"name":` as JSON, in a string that the row metatable keeps; NULL when the name is not UTF-8 */
  size_t json_len;
  uint32_t hash;
  int source; /* the last column of this name: whose cell the name stands for */
  bool first; /* no column before it has this name: where JSON shows it */
  bool bytes; /* its strings are bytes: base64 in JSON */
};

struct lshape {
  int count;
  int names; /* different ones */
  uint64_t hash;
  struct lshape_column columns[];
};

static inline bool lshape_duplicates(const struct lshape *s) { return s->names < s->count; }

/* The shape of a result; pushes its row metatable, whose [1] to [count] are the names as strings. The shape lives as long as that. */
const struct lshape *lshape_push(lua_State *L, const struct driver *, struct db_result *);

/* The same columns with `bytes` as the cells of one row have it (SQLite's columns hold anything). Replaces the row metatable at index. */
const struct lshape *lshape_vary(lua_State *L, int metatable, const struct driver *, struct db_result *, int row);

/* The shape of the row at index, or NULL when it is none. Valid while the row keeps its metatable. */
const struct lshape *lshape_of(lua_State *L, int index);

/* Pushes the metatable of a result's array of rows: affected, command, and the columns of the row metatable at index. */
void lshape_push_rows_metatable(lua_State *L, int metatable, const struct driver *, struct db_result *);

#endif
