/*
** ltask: coroutines as tasks, and the only lua_resume. A task is a userdata "pool.Task" that owns a coroutine; it waits for
** one thing at a time. Whatever ends a wait (a timer, a grant, rows) only marks the task ready; ready tasks are resumed in
** a drain of the loop, never from the event itself.
**
** How a C function waits (STYLE, C and Lua, 3): check arguments; `t = ltask_enter(L)`; begin the operation, remembering t;
** `return ltask_wait(L, t, abort, continuation)`. The operation's end calls ltask_wake(t). The continuation runs in the task
** (or, outside pool.run, right there: the loop was run meanwhile) with the stack as it was, and first asks ltask_interrupted.
*/
#ifndef POOL_LUA_LTASK_H
#define POOL_LUA_LTASK_H

#include <lauxlib.h>
#include <lua.h>

#include "core/base.h"
#include "io/loop.h"

struct task;

/* Withdraws what the task waits for: after it returns, nothing will wake the task for that. Not in Lua: must not raise. */
typedef void (*ltask_abort_fn)(struct task *);

/* The state's loop, made on first use (libev's own, or the host's after pool_use_loop). */
struct loop *ltask_loop(lua_State *L);

/* The task that L's running code belongs to, fit to wait. Raises at the caller's line when a wait is impossible here: a
   coroutine pool did not start, across a C-call boundary, inside a __close while its task is being cancelled. Outside
   pool.run: the state's own synchronous task. */
struct task *ltask_enter(lua_State *L);

/* Waits. `abort` is called when the task is cancelled or its deadline passes first. */
int ltask_wait(lua_State *L, struct task *t, ltask_abort_fn abort, lua_KFunction continuation);

/* In a continuation: POOL_OK, or POOL_DEADLINE when the wait was ended by pool.deadline (abort has been called). */
enum pool_err ltask_interrupted(struct task *t);

void ltask_wake(struct task *t);          /* its wait is over; harmless when it is not waiting */
usec ltask_deadline(const struct task *); /* the earliest pool.deadline it is under, NEVER when none */

/* Where an operation's own state of the wait under way is kept (one at a time). */
void ltask_set_operation(struct task *, void *operation);
void *ltask_operation(const struct task *);

/* Starts function + nargs arguments on top of L as a task; pops them, pushes the Task. `finished` (may be NULL) is called
   once when it has ended, however it ended, from the scheduler: not in Lua, must not raise or free the task. `deadline`: as
   pool.deadline, NEVER for none. Raises on memory. The runtime keeps the task alive until it has ended. */
struct task *ltask_spawn(lua_State *L, int nargs, void (*finished)(struct task *, void *user), void *user, usec deadline);
void ltask_cancel(struct task *);         /* as task:cancel(); from C, outside the task */

#endif
