/*
** llater: the one list of names that people will look for and that come with later work, so that whoever asks for one is told
** so, rather than that there is no such thing. A name that has come is taken off here.
*/
#ifndef POOL_LUA_LLATER_H
#define POOL_LUA_LLATER_H

#include <lauxlib.h>
#include <lua.h>

/* What a name is. */
enum later_kind { LATER_SETTING, LATER_POOL, LATER_CONNECTION };

/* What it comes with ("the tuning policies"); NULL when it is none of the names of later. */
const char *llater_with(enum later_kind, const char *name);

/* Raises "WHOSEname is not there yet ..." when the key at index is such a name; else does nothing. */
void llater_check(lua_State *L, enum later_kind, const char *whose, int key);

/* Sets later in the table on top of the stack: name -> what it comes with, for "setting". */
void llater_open(lua_State *L);

#endif
