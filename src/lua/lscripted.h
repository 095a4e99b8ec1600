/*
** lscripted: a database that is a Lua function: what require "pool.testing" puts behind a pool, in virtual time. A driver like the
** others, so that everything above it is the real thing.
*/
#ifndef POOL_LUA_LSCRIPTED_H
#define POOL_LUA_LSCRIPTED_H

#include "db/driver.h"
#include "lruntime.h"

extern const struct driver lscripted_driver;

/* Pushes a "pool.Script" for the function at index and writes the database URL that leads the driver to it. The Script must stay as
   long as the pool does.

   The function is called as fn("connect", n) for the n-th open and as fn("query", sql, ...) for a statement; transaction control is
   answered
   without it. It may not wait. It returns a table, or nothing for an empty answer:
     after     seconds until the answer comes, default 0
     columns   array of names; rows: array of arrays of as many cells: nil or pool.null, booleans, numbers, strings, {json text}
     command   "SELECT"; affected: rows, default #rows
     error     {message=, sqlstate=?, detail=?, hint=?, constraint=?, schema=?, table=?, column=?, permanent=?} instead
     lost      true: the connection dies instead
   A function that raises fails the statement; the first such error stays in script.failure (a string). */
void lscripted_push(lua_State *L, int index, char url[SETTING_TEXT_MAX]);

/* The Script on top is asked from now on, until core.script_end. */
void lscripted_begin(lua_State *L);

void lscripted_open(lua_State *L); /* makes the metatable */

#endif
