/*
** pool, for programs in C that embed it: installed as <pool.h>.
**
** A host with its own lua_State and its own libev loop links pool/core.so by path and lets pool live on that loop:
**
**   lua_State *L = luaL_newstate();
**   luaL_openlibs(L);
**   pool_use_loop(L, EV_DEFAULT);          before anything else of pool in this state
**   luaL_dofile(L, "app.lua");             pool = require "pool"; pool.spawn(function() ... end)
**   ev_run(EV_DEFAULT, 0);
**
** There the host runs the loop, and nothing else does: a call that waits belongs into pool.spawn; outside a task it raises.
** Connections that are open and tasks that wait keep ev_run going: end with db:close() in a task, or with ev_break.
** Lua and libev must be those that the module was built with. One state belongs to one thread. Closing the state closes what
** pool holds; the loop stays the host's, and must outlive the state.
*/
#ifndef POOL_EMBED_H
#define POOL_EMBED_H

#include <lua.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the module shows to the outside; everything else in it is hidden. */
#define POOL_API __attribute__((visibility("default")))

struct ev_loop; /* libev's */

/* Makes `loop` the one that pool uses in this Lua state. Borrows the loop. Call it before `require "pool"`: raises a Lua
   error (so call it protected, or where a panic is right) when the state already has a loop. */
POOL_API void pool_use_loop(lua_State *L, struct ev_loop *loop);

/* The module itself, for hosts that put it into package.preload instead of looking it up: `require "pool.core"`. The public
   face, `require "pool"`, is the Lua file pool.lua above it. */
POOL_API int luaopen_pool_core(lua_State *L);

#ifdef __cplusplus
}
#endif

#endif
