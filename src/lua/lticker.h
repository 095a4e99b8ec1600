/*
** lticker: what comes up by itself: ticks of a clock, files that were saved, SIGHUP. For pool's own Lua files.
*/
#ifndef POOL_LUA_LTICKER_H
#define POOL_LUA_LTICKER_H

#include <lua.h>

/* Sets in the table on top of the stack:
     ticker(fn) -> Ticker             t:start(seconds): fn(lag) each so many seconds, lag being how late it is; t:once(seconds): once;
                                      t:stop(). Neither keeps pool.run alive; stopped when collected.
     hangup_watch(fn) -> Watch        fn() at each SIGHUP, which ends the process only once it is closed; w:close()
     file_watch(path, fn) -> Watch | nil, err    fn() when the file was saved (io/file_watch.h); w:close()
   The functions run in the loop's drain; they may not wait; what they raise is logged. */
void lticker_open(lua_State *L);

#endif
