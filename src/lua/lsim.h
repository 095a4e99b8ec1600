/*
** lsim: the simulator's door for lua/pool/sim.lua.
*/
#ifndef POOL_LUA_LSIM_H
#define POOL_LUA_LSIM_H

#include <lua.h>

/* Sets in the table on top of the stack:
     simulate(options, policy | function | nil) -> result | nil, err     one run; options complete, as sim.lua makes them; the policy is a
                                                      pool.Policy that has begun, or a function(snapshot) -> changes, reason of this state
     best_concurrency(sigma, kappa) -> N*, 0 when throughput has no peak */
void lsim_open(lua_State *L);

#endif
