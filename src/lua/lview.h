/*
** lview: a Pool with defaults of its own for what it asks. Internal.
*/
#ifndef POOL_LUA_LVIEW_H
#define POOL_LUA_LVIEW_H

#include "lpool.h"

#define LVIEW_NAME "pool.View"

void lview_none(struct lask *);                                        /* as a Pool asks by itself */
/* When the value at index is a View: its Pool takes its place, *ask is filled, true. */
bool lview_resolve(lua_State *L, int index, struct lask *ask);
void lview_push(lua_State *L, int pool, const struct lask *ask);       /* a View of the Pool at index `pool` */
/* Reads {timeout=, key=, priority=} at the absolute index into *ask, which keeps what is not named. Raises naming `who`. */
void lview_options(lua_State *L, int index, struct lpool *, const char *who, struct lask *ask);
void lview_methods(lua_State *L);                                      /* sets with in the Pool's methods on top */
void lview_open(lua_State *L);                                         /* sets pool_of in the table on top */

#endif
