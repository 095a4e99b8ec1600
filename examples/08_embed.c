/*
** A C program with a libev loop of its own, in which pool's tasks live side by side with what the program does itself.
**
**   cmake --install build/release --prefix P                      (P/include/pool.h, P/lib/lua/5.4/pool/core.so, P/share/lua/5.4)
**   cc -o embed examples/08_embed.c -IP/include $(pkg-config --cflags lua5.4) \
**      P/lib/lua/5.4/pool/core.so $(pkg-config --libs lua5.4) -lev
**   LUA_PATH='P/share/lua/5.4/?.lua;;' ./embed
**
** core.so is linked by its path. The host owns the loop and runs it; pool only adds its watchers. So nothing may wait outside a task
** here: whatever waits belongs into pool.spawn.
*/
#include <ev.h>
#include <lauxlib.h>
#include <lualib.h>
#include <pool.h>
#include <stdio.h>
#include <stdlib.h>

struct host {
  ev_timer timer;
  int ticks;
};

/* What the program does for a living: it counts, ten milliseconds at a time. */
static void host_tick(struct ev_loop *loop, ev_timer *timer, int events) {
  struct host *host = timer->data;
  (void)loop, (void)events;
  host->ticks++;
}

/* finished(ok, text): how the Lua side tells that it is done. */
static int host_finished(lua_State *L) {
  struct host *host = lua_touserdata(L, lua_upvalueindex(1));
  printf("task: %s\n", luaL_checkstring(L, 2));
  printf("host: the timer went on meanwhile: %s\n", host->ticks > 2 ? "yes" : "no");
  if (!lua_toboolean(L, 1)) exit(EXIT_FAILURE);
  ev_break(EV_DEFAULT_ EVBREAK_ALL);
  return 0;
}

static const char SCRIPT[] =
  "local finished = ...\n"
  "local pool = require 'pool'\n"
  "local db = pool.new { size = 2, max_overflow = 0 }\n"
  "pool.spawn(function()\n"
  "  local ok, text = pcall(function()\n"
  "    pool.sleep(0.3)\n" /* the host's timer runs; so would other tasks */
  "    local rows = assert(db:query('select cast($1 as integer) + 1 as answer', 41))\n"
  "    db:close()\n"
  "    return 'the answer is ' .. rows[1].answer\n"
  "  end)\n"
  "  finished(ok, tostring(text))\n"
  "end)\n";

/* Protected: whatever raises in here is reported by main. */
static int host_start(lua_State *L) {
  luaL_openlibs(L);
  pool_use_loop(L, EV_DEFAULT); /* before anything else of pool in this state */
  luaL_requiref(L, "pool.core", luaopen_pool_core, 0); /* linked in: there is no need to look for it */
  if (luaL_loadbuffer(L, SCRIPT, sizeof SCRIPT - 1, "=script") != LUA_OK) return lua_error(L);
  lua_pushvalue(L, 1);
  lua_pushcclosure(L, host_finished, 1);
  lua_call(L, 1, 0);
  return 0;
}

int main(void) {
  struct host host = { .ticks = 0 };
  ev_timer_init(&host.timer, host_tick, 0.01, 0.01);
  host.timer.data = &host;
  ev_timer_start(EV_DEFAULT_ &host.timer);

  lua_State *L = luaL_newstate();
  if (L == NULL) return EXIT_FAILURE;
  lua_pushcfunction(L, host_start);
  lua_pushlightuserdata(L, &host);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    fprintf(stderr, "embed: %s\n", lua_tostring(L, -1));
    return EXIT_FAILURE;
  }
  ev_run(EV_DEFAULT_ 0); /* until host_finished breaks it */
  lua_close(L);          /* closes what pool holds; the loop stays ours */
  ev_timer_stop(EV_DEFAULT_ &host.timer);
  puts("host: done");
  return EXIT_SUCCESS;
}
