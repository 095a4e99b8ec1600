/*
** lticker: tickers, file watches, SIGHUP. Each is a userdata with a function and a piece of deferred work: events note, the drain calls.
**
** A userdata is found again by its address in a weak table: one that the collector has taken is not called any more.
*/
#include "lticker.h"

#include <signal.h>
#include <string.h>

#include "io/file_watch.h"
#include "lerror.h"
#include "lruntime.h"

#define LTICKER_NAME "pool.Ticker"
#define LFILE_WATCH_NAME "pool.FileWatch"
#define LSIGNAL_WATCH_NAME "pool.SignalWatch"

static const char known_key = 0; /* registry: address -> userdata, weak */

enum { CALLED = 1, CALLED_VALUES = 1 };

/* What both begin with. */
struct called {
  struct runtime *runtime;
  struct deferred due;
  usec lag;
};

struct lticker {
  struct called called;
  struct timer timer;
  usec every, planned; /* every 0: once */
};

struct lsignal_watch {
  struct called called;
  struct signal signal;
  bool running;
};

struct lfile_watch {
  struct called called;
  struct file_watch *watch;
};

/* ---- calling ---- */

static void called_run(lua_State *L, struct deferred *d) {
  struct called *c = CONTAINER(d, struct called, due);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &known_key);
  if (lua_rawgetp(L, -1, c) != LUA_TUSERDATA) return;
  lua_getiuservalue(L, -1, CALLED);
  lua_pushnumber(L, (lua_Number)c->lag / USEC_PER_SECOND);
  c->runtime->barred++;
  int status = lua_pcall(L, 1, 0, 0);
  c->runtime->barred--;
  if (status != LUA_OK) lua_error(L); /* the drain logs it */
}

/* The userdata is on top, the function at index 1. */
static void called_init(lua_State *L, struct called *c) {
  c->runtime = lruntime_get(L);
  list_init(&c->due.link);
  c->due.run = called_run;
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, CALLED);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &known_key);
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, c);
  lua_pop(L, 1);
}

/* ---- tickers ---- */

static void ticker_fired(struct timer *timer) {
  struct lticker *t = CONTAINER(timer, struct lticker, timer);
  struct loop *loop = t->called.runtime->loop;
  usec now = loop_now(loop);
  t->called.lag = now - t->planned;
  lruntime_defer(t->called.runtime, &t->called.due);
  if (t->every == 0) return;
  t->planned += t->every;
  if (t->planned <= now) t->planned = now + t->every; /* what was slept over is not made up for */
  timer_start(loop, &t->timer, t->planned);
}

static int ticker_new(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  struct lticker *t = lua_newuserdatauv(L, sizeof *t, CALLED_VALUES);
  memset(t, 0, sizeof *t);
  t->timer.fire = ticker_fired;
  called_init(L, &t->called);
  luaL_setmetatable(L, LTICKER_NAME);
  return 1;
}

static int ticker_begin(lua_State *L, bool again) {
  struct lticker *t = luaL_checkudata(L, 1, LTICKER_NAME);
  usec seconds = lruntime_check_seconds(L, 2, "ticker");
  struct loop *loop = t->called.runtime->loop;
  if (seconds < 1000) seconds = 1000;
  t->every = again ? seconds : 0;
  t->planned = lruntime_after(loop_update(loop), seconds);
  timer_start(loop, &t->timer, t->planned);
  return 0;
}

static int ticker_start(lua_State *L) { return ticker_begin(L, true); }
static int ticker_once(lua_State *L) { return ticker_begin(L, false); }

static int ticker_stop(lua_State *L) {
  struct lticker *t = luaL_checkudata(L, 1, LTICKER_NAME);
  if (t->called.runtime->loop == NULL) return 0; /* the state is being closed */
  timer_stop(t->called.runtime->loop, &t->timer);
  list_remove(&t->called.due.link);
  return 0;
}

/* ---- file watches ---- */

static void file_changed(void *user) {
  struct lfile_watch *f = user;
  lruntime_defer(f->called.runtime, &f->called.due);
}

/* file_watch(path, fn) */
static int file_watch_new(lua_State *L) {
  struct pool_error error;
  const char *path = luaL_checkstring(L, 1);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 2);
  lua_insert(L, 1); /* fn, path */
  struct lfile_watch *f = lua_newuserdatauv(L, sizeof *f, CALLED_VALUES);
  memset(f, 0, sizeof *f);
  called_init(L, &f->called);
  luaL_setmetatable(L, LFILE_WATCH_NAME);
  f->watch = file_watch_open(f->called.runtime->loop, path, file_changed, f, &error);
  if (f->watch == NULL) return lerror_return(L, &error);
  return 1;
}

static int file_watch_end(lua_State *L) {
  struct lfile_watch *f = luaL_checkudata(L, 1, LFILE_WATCH_NAME);
  list_remove(&f->called.due.link);
  if (f->called.runtime->loop != NULL) file_watch_close(f->watch);
  f->watch = NULL;
  return 0;
}

/* ---- signals, for as long as somebody listens ---- */

static void signal_came(struct signal *s, int number) {
  struct lsignal_watch *w = CONTAINER(s, struct lsignal_watch, signal);
  (void)number;
  lruntime_defer(w->called.runtime, &w->called.due);
}

/* hangup_watch(fn) */
static int hangup_watch(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  struct lsignal_watch *w = lua_newuserdatauv(L, sizeof *w, CALLED_VALUES);
  memset(w, 0, sizeof *w);
  w->signal.caught = signal_came;
  called_init(L, &w->called);
  luaL_setmetatable(L, LSIGNAL_WATCH_NAME);
  signal_start(w->called.runtime->loop, &w->signal, SIGHUP);
  w->running = true;
  return 1;
}

static int signal_watch_end(lua_State *L) {
  struct lsignal_watch *w = luaL_checkudata(L, 1, LSIGNAL_WATCH_NAME);
  list_remove(&w->called.due.link);
  if (w->running && w->called.runtime->loop != NULL) signal_stop(w->called.runtime->loop, &w->signal);
  w->running = false;
  return 0;
}

static void type_make(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction end) {
  luaL_newmetatable(L, name);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, end);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, end);
  lua_setfield(L, -2, "__close");
  lua_pop(L, 1);
}

void lticker_open(lua_State *L) {
  static const luaL_Reg ticker[] = {{"start", ticker_start}, {"once", ticker_once}, {"stop", ticker_stop}, {NULL, NULL}};
  static const luaL_Reg watch[] = {{"close", file_watch_end}, {NULL, NULL}};
  static const luaL_Reg signals[] = {{"close", signal_watch_end}, {NULL, NULL}};
  static const luaL_Reg functions[] = {
    {"ticker", ticker_new}, {"file_watch", file_watch_new}, {"hangup_watch", hangup_watch}, {NULL, NULL}};
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &known_key);
  type_make(L, LTICKER_NAME, ticker, ticker_stop);
  type_make(L, LFILE_WATCH_NAME, watch, file_watch_end);
  type_make(L, LSIGNAL_WATCH_NAME, signals, signal_watch_end);
  luaL_setfuncs(L, functions, 0);
}
