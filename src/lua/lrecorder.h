/*
** lrecorder: "pool.Recorder", a pool's requests on their way into a file (io/recorder.h). For lua/pool/recording.lua.
*/
#ifndef POOL_LUA_LRECORDER_H
#define POOL_LUA_LRECORDER_H

#include "lpool.h"

/* Sets in the table on top of the stack:
     recorder(db, path, limit, header) -> Recorder | nil, err (kind settings)     what db's requests meet, from now until its close
       r:line(text)                one more line
       r:flush() -> true | nil, err; after err nothing is recorded any more
       r:requests() -> how many
       r:close()                   idempotent, also __gc and __close */
void lrecorder_open(lua_State *L);

#endif
