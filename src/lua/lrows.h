/*
** lrows: results as Lua tables (DESIGN section 4, Rows).
*/
#ifndef POOL_LUA_LROWS_H
#define POOL_LUA_LROWS_H

#include <lauxlib.h>
#include <lua.h>

#include "db/driver.h"

/* A userdata "pool.Result" that owns a db_result until it is taken apart: pushed BEFORE the result exists (STYLE, C and Lua,
   6), so that no error in between leaks it. */
struct lresult {
  const struct driver *driver;
  struct db_result *result; /* NULL at first and when freed */
};
struct lresult *lrows_guard(lua_State *L, const struct driver *); /* pushes it */

/* Pushes the rows of `r` as one array of row tables; frees the result. sentinel: NULL becomes pool.null instead of absent. */
void lrows_push(lua_State *L, struct lresult *r, bool sentinel);

/* Pushes the rows as a JSON string; frees the result. false: *error filled and nothing pushed. */
bool lrows_push_json(lua_State *L, struct lresult *r, struct pool_error *error);

/* Pushes row `row` alone (0-based) with its row metatable; the result stays. For db:rows. */
void lrows_push_row(lua_State *L, struct lresult *r, int row, bool sentinel);

/* Checks the value at `index` as a statement's parameter and fills *out, whose text borrows from the Lua value (which must
   stay reachable) or from a string pushed by this call: returns how many values it pushed (0 or 1). false in *ok: what the
   world does wrong (a NUL in text, not UTF-8): *error is kind query with sqlstate 22021 and names the parameter. Raises for
   misuse (a plain table: the message names pool.array, pool.jsonb, pool.bytes; a function, thread, foreign userdata). `number` is the
   parameter's number for messages, from 1. pool.null is NULL. */
int lrows_param(lua_State *L, int index, int number, const struct driver *, struct param *out, bool *ok, struct pool_error *error);

/* Sets array, bytes, jsonb, identifier and null in the table on top of the stack (lparam.c).
     pool.array{...}  gives the table itself the array metatable and returns it: it encodes as [] when empty, and as a parameter it is
                      an array. Its length is #t, or its field n (elements that are nil are then NULL). Tables inside are nested
                      arrays. Arrays from rows and from pool.json.decode are such arrays already.
     pool.bytes(s), pool.jsonb(v)  are immutable userdata; jsonb encodes v at once, and so raises at once.
     pool.identifier(s)  is s in double quotes. */
void lrows_open(lua_State *L);

#endif
