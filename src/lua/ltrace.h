/*
** ltrace: where an error was raised, for errors that are caught and raised again (a savepoint undoes its work in between), which
** loses the stack. The value itself passes untouched: what is kept is beside it, the last one of a state alone.
*/
#ifndef POOL_LUA_LTRACE_H
#define POOL_LUA_LTRACE_H

#include <lauxlib.h>
#include <lua.h>

/* Pushes the traceback for the error at index (of L): the one kept for that value when it was raised on `co` and raised again,
   else that of `co` as it is now, from `level` on. */
void ltrace_push(lua_State *L, lua_State *co, int index, int level);

/* Pushes on L the traceback of `co` from `level` on, as luaL_traceback does, but for a stack so deep that finding its other end would
   take long (a recursion that never ended: seconds): its top alone. */
void ltrace_stack(lua_State *L, lua_State *co, int level);

/* Sets keep_traceback and traceback in the table on top of the stack. */
void ltrace_open(lua_State *L);

#endif
