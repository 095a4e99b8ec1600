/*
** lerror: pool errors as Lua tables with the metatable "pool.Error" (DESIGN section 4, Errors), and misuse raised at the
** caller's line.
*/
#ifndef POOL_LUA_LERROR_H
#define POOL_LUA_LERROR_H

#include <lauxlib.h>
#include <lua.h>

#include "core/base.h"

#define LERROR_NAME "pool.Error"

/* Makes the metatable and sets misuse, error, is_error, no_field, check_self and nearest in the table on top of the stack. */
void lerror_open(lua_State *L);

/* Pushes the error as a table: kind, message, and the fields that are known. */
void lerror_push(lua_State *L, const struct pool_error *);

/* lua.h does not say that these never return; compilers, and what reads for mistakes, had better know. */
LUA_API int lua_error(lua_State *L) __attribute__((noreturn));
LUALIB_API int luaL_error(lua_State *L, const char *format, ...) __attribute__((noreturn));

/* Pushes nil and the error; returns 2, for `return lerror_return(L, &e)`. */
int lerror_return(lua_State *L, const struct pool_error *);

/* The same for an error that is all kind and message. */
int lerror_fail(lua_State *L, enum pool_err kind, const char *message);

/* Fills *ar ("Sl") with the first frame that is neither C nor one of pool's own Lua files; false when there is none. */
bool lerror_caller(lua_State *L, lua_Debug *ar);
/* The same, for who has lruntime_home at hand, from a level on (1: the running C function itself is not asked, which costs). */
bool lerror_caller_from(lua_State *L, int level, const char *home, lua_Debug *ar);

/* Raises a string at the line of the Lua code that called the API, skipping frames of pool's own Lua files. */
int lerror_misuse(lua_State *L, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));

/* Pushes how the key at index reads in a message: 'name', [5] or [a table]. Returns it. */
const char *lerror_push_key(lua_State *L, int index);

/* Pushes how the value at index reads after "not": 5, nil, the string "5", a table. Returns it. */
const char *lerror_push_value(lua_State *L, int index);

/* Raises misuse for the key at index, which `what` ("a Pool") does not have, naming the nearest of the fields (NULL-terminated;
   NULL: none) and of the names in the table at index `names`. */
int lerror_no_field(lua_State *L, const char *what, int key, const char *const *fields, int names) __attribute__((noreturn));

#endif
