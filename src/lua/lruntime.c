/*
** lruntime: one loop a lua_State, and the log.
**
** Log lines are queued and handed to pool.log in a drain, since most of them come up in events, where no Lua may run. The log
** function runs in protected mode and may not wait; one that fails is reported once on standard error and the line is
** printed there, so that no line is lost to a mistake in a logger.
*/
#include "lruntime.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "embed.h"
#include "lerror.h"

/* Addresses are keys in the registry; the values never change. */
static const char runtime_key = 0, home_key = 0, log_key = 0, loop_key = 0, other_key = 0;

static void line_print(const struct log_line *line) { fprintf(stderr, "pool: %s: %s\n", line->level, line->message); }

/* Calls the log function with one line; protected by the caller. Stack: lightuserdata line. */
static int line_call(lua_State *L) {
  const struct log_line *line = lua_touserdata(L, 1);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &log_key) != LUA_TFUNCTION) {
    line_print(line);
    return 0;
  }
  lua_pushstring(L, line->level);
  lua_pushstring(L, line->message);
  lua_newtable(L);
  lua_call(L, 3, 0);
  return 0;
}

static bool log_run(struct runtime *r) {
  struct list *node;
  bool did = false;
  lua_State *L = r->host;
  while ((node = list_shift(&r->log)) != NULL) {
    struct log_line *line = CONTAINER(node, struct log_line, link);
    r->barred++;
    lua_pushcfunction(L, line_call);
    lua_pushlightuserdata(L, line);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
      fprintf(stderr, "pool: error: pool.log failed: %s\n", lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "(no text)");
      lua_pop(L, 1);
      line_print(line);
    }
    r->barred--;
    free(line);
    did = true;
  }
  return did;
}

void lruntime_log(struct runtime *r, const char *level, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int n = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  if (n < 0) return;
  struct log_line *line = malloc(sizeof *line + (size_t)n + 1);
  if (!line) return;
  line->level = level;
  va_start(arguments, format);
  vsnprintf(line->message, (size_t)n + 1, format, arguments);
  va_end(arguments);
  list_append(&r->log, &line->link);
}

/* ---- deferred work ---- */

void lruntime_defer(struct runtime *r, struct deferred *d) {
  if (list_empty(&d->link)) list_append(&r->deferred, &d->link);
}

static int deferred_call(lua_State *L) {
  struct deferred *d = lua_touserdata(L, 1);
  d->run(L, d);
  return 0;
}

static bool deferred_run(struct runtime *r) {
  struct list *node;
  bool did = false;
  lua_State *L = r->host;
  while ((node = list_shift(&r->deferred)) != NULL) {
    lua_pushcfunction(L, deferred_call);
    lua_pushlightuserdata(L, CONTAINER(node, struct deferred, link));
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
      lruntime_log(r, "error", "%s", lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "an event's function failed");
      lua_pop(L, 1);
    }
    did = true;
  }
  return did;
}

static bool lines_run(struct drain *d) {
  struct runtime *r = CONTAINER(d, struct runtime, lines);
  if (list_empty(&r->deferred) && list_empty(&r->log)) return false;
  if (!lua_checkstack(r->host, LUA_MINSTACK)) return false; /* a host's stack, as it happens to be */
  r->inside++;
  bool did = deferred_run(r);
  did = log_run(r) || did;
  r->inside--;
  return did;
}

void lruntime_flush(lua_State *L, struct runtime *r) {
  lua_State *host = r->host;
  r->host = L;
  if (lua_checkstack(L, LUA_MINSTACK)) log_run(r);
  r->host = host;
}

/* Last of all finalizers of the state: it was the first object made. A state that is closed from inside the loop (os.exit in a
   task) leaves the loop, which is still on the C stack, to the end of the process. */
static int runtime_gc(lua_State *L) {
  struct runtime *r = luaL_checkudata(L, 1, LRUNTIME_NAME);
  if (!r->loop) return 0;
  struct list *node;
  while ((node = list_shift(&r->log)) != NULL) {
    line_print(CONTAINER(node, struct log_line, link));
    free(CONTAINER(node, struct log_line, link));
  }
  ltask_forget_all(r);
  drain_remove(r->loop, &r->tasks);
  drain_remove(r->loop, &r->lines);
  if (r->turning == 0 && r->inside == 0) loop_destroy(r->loop);
  r->loop = NULL;
  return 0;
}

/* The loop of a state's usual runtime: the host's when there is one. */
static struct loop *runtime_loop(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &loop_key);
  struct ev_loop *host = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return host ? loop_ev_attach(host) : loop_ev_create();
}

static struct runtime *runtime_make(lua_State *L, bool virtual_time) {
  struct runtime *r = lua_newuserdatauv(L, sizeof *r, 2);
  memset(r, 0, sizeof *r);
  list_init(&r->ready);
  list_init(&r->all);
  list_init(&r->failures);
  list_init(&r->deferred);
  list_init(&r->log);
  luaL_newmetatable(L, LRUNTIME_NAME);
  lua_pushcfunction(L, runtime_gc);
  lua_setfield(L, -2, "__gc"); /* also where an earlier attempt ran out of memory here */
  lua_setmetatable(L, -2);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  r->main = r->host = lua_tothread(L, -1);
  lua_pop(L, 1);
  struct task *self = ltask_make_self(L, r); /* pushes it */
  lua_setiuservalue(L, -2, 1);
  struct task *finaliser = ltask_make_self(L, r);
  lua_setiuservalue(L, -2, 2);
  r->loop = virtual_time ? loop_virtual_create(USEC_PER_SECOND) : runtime_loop(L);
  r->virtual_time = virtual_time;
  if (!r->loop) luaL_error(L, "pool: no event loop could be made: no memory, or no descriptor");
  r->self = self;
  r->finaliser = finaliser;
  r->lines.run = lines_run;
  r->lines.pending = NULL;
  r->home = lruntime_home(L);
  drain_add(r->loop, &r->lines);
  ltask_attach(r);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &runtime_key);
  lua_pop(L, 1);
  return r;
}

struct runtime *lruntime_get(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &runtime_key);
  struct runtime *r = lua_touserdata(L, -1);
  lua_pop(L, 1);
  if (!r) return runtime_make(L, false);
  if (!r->loop) luaL_error(L, "pool cannot be used any more: its Lua state is being closed");
  return r;
}

/* core.virtual_time(on): what is made and waited for from now on belongs to a loop in virtual time (on), or to the usual one again. The
   other
   runtime stays, with all that is its own. */
static int runtime_virtual(lua_State *L) {
  bool on = lua_toboolean(L, 1);
  struct runtime *r = lruntime_get(L);
  if (r->running || r->current || r->turning > 0 || r->inside > 0)
    return lerror_misuse(L, "virtual time cannot begin or end while tasks run: call it outside pool.run");
  if (r->virtual_time == on) return lerror_misuse(L, on ? "virtual time has begun already" : "virtual time has not begun");
  lua_rawgetp(L, LUA_REGISTRYINDEX, &runtime_key);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &other_key) == LUA_TNIL) runtime_make(L, on); /* becomes the runtime when it is whole */
  else lua_pushvalue(L, -1), lua_rawsetp(L, LUA_REGISTRYINDEX, &runtime_key);
  lua_pop(L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &other_key);
  return 0;
}

void pool_use_loop(lua_State *L, struct ev_loop *loop) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &runtime_key);
  if (lua_touserdata(L, -1)) luaL_error(L, "pool_use_loop: pool is already in use in this Lua state; call it before anything else");
  lua_pop(L, 1);
  lua_pushlightuserdata(L, loop);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &loop_key);
}

const char *lruntime_home(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &home_key);
  const char *home = lua_tostring(L, -1); /* anchored by the registry */
  lua_pop(L, 1);
  return home;
}

/* core.set_home(path). Does not make the runtime: pool_use_loop may still be to come. */
static int runtime_set_home(lua_State *L) {
  const char *home = luaL_checkstring(L, 1);
  lua_settop(L, 1);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &runtime_key);
  struct runtime *r = lua_touserdata(L, -1);
  if (r) r->home = home;
  lua_pop(L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &home_key);
  return 0;
}

/* core.set_log(fn) */
static int runtime_set_log(lua_State *L) {
  lua_settop(L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &log_key);
  return 0;
}

/* core.now() -> monotonic seconds */
static int runtime_now(lua_State *L) {
  lua_pushnumber(L, (lua_Number)loop_update(lruntime_get(L)->loop) / USEC_PER_SECOND);
  return 1;
}

void lruntime_open(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"set_home", runtime_set_home}, {"set_log", runtime_set_log}, {"now", runtime_now}, {"virtual_time", runtime_virtual},
      {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
