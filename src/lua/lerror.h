/*
** lerror: pool errors as Lua tables with the metatable "pool.Error" (DESIGN section 4, Errors), and misuse raised at the
** caller's line.
*/
#ifndef POOL_LUA_LERROR_H
#define POOL_LUA_LERROR_H

#include <lauxlib.h>
#include <lua.h>

#include "core/base.h"

/* Pushes the error as a table: kind, message, and the fields that are known. */
void lerror_push(lua_State *L, const struct pool_error *);

/* Pushes nil and the error; returns 2, for `return lerror_return(L, &e)`. */
int lerror_return(lua_State *L, const struct pool_error *);

/* Raises a string at the line of the Lua code that called the API, skipping frames of pool's own Lua files. */
int lerror_misuse(lua_State *L, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
