/*
** lruntime: what a lua_State has one of: its loop, its ready tasks, its lines for the log. A userdata "pool.Runtime" under
** one key of the registry, made on first use and finalised last. Internal to this room.
*/
#ifndef POOL_LUA_LRUNTIME_H
#define POOL_LUA_LRUNTIME_H

#include <lauxlib.h>
#include <lua.h>

#include "io/loop.h"
#include "ltask.h"

/* A line for pool.log that came up where Lua must not run (a driver's notice, a leak). malloc'd. */
struct log_line {
  struct list link;
  const char *level; /* static text */
  char message[];
};

/* Lua code to be run at the loop's next drain, from where Lua must not run. Embedded in its owner. */
struct deferred {
  struct list link;  /* list_init at first */
  void (*run)(lua_State *L, struct deferred *); /* protected; a raise is logged */
};

struct runtime {
  struct loop *loop;
  lua_State *main;        /* the state's main thread */
  lua_State *host;        /* whose stack the scheduler uses now: the thread that runs the loop */
  struct task *current;   /* whose Lua code runs now; NULL outside tasks */
  struct task *self;      /* the synchronous task: waits made outside pool.run */
  struct task *finaliser; /* the same for finalisers, which may come amid such a wait's beginning or end */
  struct list ready;      /* tasks to resume */
  struct list all;        /* tasks not yet ended, in the order started */
  struct list failures;   /* failed tasks that nobody joined yet */
  struct list log;        /* struct log_line, oldest first */
  struct list mark;       /* in ready while a batch runs: where it ends */
  struct list deferred;   /* struct deferred */
  struct drain tasks, lines;
  int barred;             /* > 0: Lua code runs that must not wait (a log function, an event) */
  int turning;            /* > 0: on the C stack is a loop that pool turns: it cannot be turned again */
  int inside;             /* > 0: Lua code runs that a drain called */
  bool running;           /* inside pool.run */
  bool virtual_time;      /* its loop is a virtual one: pool.testing */
  const char *home;       /* lruntime_home's, kept at hand */
  uint64_t serial;        /* of the last task */
};

#define LRUNTIME_NAME "pool.Runtime"

struct runtime *lruntime_get(lua_State *L);

/* Where pool's own Lua files are (the path of pool.lua without ".lua"), NULL before require "pool" told. */
const char *lruntime_home(lua_State *L);

/* The userdata at index when it is the one that its brand says, else NULL. A branded userdata begins with an address that only its
   own kind has there: what luaL_testudata tells, without two look-ups in the registry by a string. */
static inline void *lruntime_branded(lua_State *L, int index, const void *brand, size_t size) {
  const void **block = lua_touserdata(L, index);
  return block && lua_rawlen(L, index) == size && *block == brand ? block : NULL; /* a light one's length is 0 */
}

/* Hands a line to pool.log at the loop's next drain. From anywhere, in Lua or not; a line is dropped when memory is short. */
void lruntime_log(struct runtime *, const char *level, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Hands over the lines that wait for a drain, when none may come soon. */
void lruntime_flush(lua_State *L, struct runtime *);

/* Puts it in line to be run; harmless when it is already. Take it off with list_remove before its owner goes. */
void lruntime_defer(struct runtime *, struct deferred *);

/* A duration argument in seconds, checked: raises naming `what`. NEVER for huge ones. */
usec lruntime_check_seconds(lua_State *L, int index, const char *what);
usec lruntime_after(usec now, usec duration); /* never overflows */


void lruntime_open(lua_State *L); /* sets now, home, set_log, virtual_time … in the table on top of the stack */

#endif
