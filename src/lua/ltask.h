/*
** ltask: coroutines as tasks, and the only lua_resume. A task is a userdata "pool.Task" that owns a coroutine; it waits for
** one thing at a time. Whatever ends a wait (a timer, a grant, rows) only marks the task ready; ready tasks are resumed in
** a drain of the loop, never from the event itself.
**
** How a C function waits (STYLE, C and Lua, 3): check arguments; `t = ltask_enter(L)`; begin the operation, remembering t;
** `return ltask_wait(L, t, abort, continuation)`. The operation's end calls ltask_wake(t), before ltask_wait or after. The
** continuation (lua_KContext: the task) runs in the task or, outside pool.run, right there after the loop was run; the stack
** is as it was; it asks ltask_interrupted first.
*/
#ifndef POOL_LUA_LTASK_H
#define POOL_LUA_LTASK_H

#include <lauxlib.h>
#include <lua.h>

#include "core/base.h"
#include "io/loop.h"

struct task;
struct runtime;

#define LTASK_NAME "pool.Task"
#define LTASK_SCRATCH 384 /* bytes for the operation under way */

/* Withdraws what the task waits for: after it returns, nothing will wake the task for that. Also where it was woken and then
   cancelled before its continuation ran: it gives up what came, and the continuation's clean-up is its. Not in Lua: must not raise. */
typedef void (*ltask_abort_fn)(struct task *);

/* The state's loop, made on first use (libev's own, or the host's after pool_use_loop). */
struct loop *ltask_loop(lua_State *L);

/* The task that L's running code belongs to, fit to wait. Raises at the caller's line when a wait is impossible here: a
   coroutine pool did not start, across a C-call boundary, inside a __close while its task is being cancelled, in a log
   function. Outside pool.run: the state's own synchronous task. */
struct task *ltask_enter(lua_State *L);

/* The task whose code runs now: the synchronous one outside tasks. Never raises. */
struct task *ltask_current(lua_State *L);

/* Waits. `abort` is called when the task is cancelled or its deadline passes first. */
int ltask_wait(lua_State *L, struct task *t, ltask_abort_fn abort, lua_KFunction continuation);
/* The same with a deadline of this wait's own (absolute; NEVER); the task's counts as well. */
int ltask_wait_until(lua_State *L, struct task *t, usec until, ltask_abort_fn abort, lua_KFunction continuation);

/* In a continuation: POOL_OK, or POOL_DEADLINE when the wait was ended by a deadline (abort has been called). */
enum pool_err ltask_interrupted(const struct task *t);

void ltask_wake(struct task *t);          /* its wait is over; harmless when it is not waiting */
usec ltask_deadline(const struct task *); /* the earliest pool.deadline it is under, NEVER when none */
uint64_t ltask_id(const struct task *);   /* 1, 2 ...; 0 is the synchronous task */

/* Memory for the state of the wait under way, zeroed by ltask_enter's caller as it needs; LTASK_SCRATCH bytes, 8-aligned
   (Lua gives no more). Stays where it is until the continuation has returned or abort has been called. */
void *ltask_scratch(struct task *);
struct task *ltask_of_scratch(void *scratch);

/* What a task holds until it ends: `drop` is called for each when it does (leases). */
struct holding {
  struct list link;
  void (*drop)(struct holding *); /* takes it off the list; not in Lua */
};
void ltask_hold(struct task *, struct holding *);

/* Where the task is now, "file:line", into the buffer; "" when unknown. For messages. */
const char *ltask_where(struct task *, char *buffer, size_t size);
/* The pool in whose line the task waits, NULL when in none: for telling a deadlock from a shortage. */
void ltask_set_line(struct task *, const void *pool);
const void *ltask_line(const struct task *);
bool ltask_holds(const struct task *, bool (*is)(const struct holding *, const void *), const void *user); /* something such? */

/* Starts function + nargs arguments on top of L as a task; pops them, pushes the Task. `finished` (may be NULL) is called
   once when it has ended, however it ended, from the scheduler: not in Lua, must not raise or free the task. `deadline`: as
   pool.deadline, NEVER for none. Raises on memory. The runtime keeps the task alive until it has ended. */
struct task *ltask_spawn(lua_State *L, int nargs, void (*finished)(struct task *, void *user), void *user, usec deadline);
void ltask_cancel(struct task *);         /* as task:cancel(); from C, outside the task */
bool ltask_failed(const struct task *);   /* ended by an error or a cancel */
const char *ltask_failure(const struct task *);   /* in `finished`: the error's text, NULL when it is somebody's already or there is none */
void ltask_forget_failure(struct task *);         /* nobody needs to hear of it */
void ltask_again(struct task *);                  /* in a continuation that waits once more */
void ltask_push_traceback(lua_State *L, struct task *); /* where it is now, as text */

struct runtime *ltask_runtime(const struct task *);

/* For lruntime. */
struct task *ltask_make_self(lua_State *L, struct runtime *); /* pushes it */
void ltask_attach(struct runtime *);
void ltask_forget_all(struct runtime *);
void ltask_open(lua_State *L); /* sets run, spawn, all, sleep, deadline … in the table on top of the stack */

#endif
