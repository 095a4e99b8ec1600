/*
** lmeter: a pool's figures over intervals, and what a policy decides at its door. For pool's own Lua files.
*/
#ifndef POOL_LUA_LMETER_H
#define POOL_LUA_LMETER_H

#include "lpool.h"

/* What the current policy says of a call that begins now, by lpool.ask: sets *weight; false: it is not to be let in. */
bool lmeter_admit(struct lpool *, uint8_t *weight);

int lmeter_refuse(lua_State *L); /* nil and the error of who is not let in */

/* Sets in the table on top of the stack:
     meter(db) -> Meter               m:take(lag) -> pool.Snapshot of what was since the last take (or since now), nil once the pool is
     closed
     set_policy(db, policy | nil)     whose admit and weight are asked from now on
     sha256(text) -> 64 hexadecimal digits */
void lmeter_open(lua_State *L);

#endif
