/*
** lsignal: core.wait_signal("TERM", "INT") -> name: a task waits for a signal of the process.
*/
#ifndef POOL_LUA_LSIGNAL_H
#define POOL_LUA_LSIGNAL_H

#include <lauxlib.h>
#include <lua.h>

void lsignal_open(lua_State *L); /* sets wait_signal in the table on top of the stack */

#endif
