/*
** ltask_internal: struct task, shared by ltask.c (scheduling) and ltask_api.c (what Lua calls). Nobody else's.
*/
#ifndef POOL_LUA_LTASK_INTERNAL_H
#define POOL_LUA_LTASK_INTERNAL_H

#include "lruntime.h"
#include "ltask.h"

enum task_status { TASK_READY, TASK_RUNNING, TASK_WAITING, TASK_DONE, TASK_FAILED, TASK_CANCELLED };

#define TASK_FRAMES 2 /* of the spawner that an error's traceback names */

struct deadline;

struct task {
  struct runtime *runtime;
  lua_State *co;          /* its coroutine, kept by user value 1; NULL: the synchronous task */
  enum task_status status;
  uint8_t interrupted;    /* enum pool_err: why the last wait ended early */
  uint8_t immediate;      /* waits in a row that were over before they began */
  bool woken;             /* what it waits for has come */
  bool cancelled;         /* to be closed at its next wait */
  bool closing;           /* its __close functions run now: no waiting */
  bool joined;            /* somebody took its result, or will */
  int results;            /* arguments of the first resume; results at the end, on top of co */
  int lines[TASK_FRAMES]; /* where it was spawned, innermost first; 0: no such frame */
  uint64_t id;
  struct list link;       /* ready, or a joiner in line */
  struct list all;
  struct list holdings;
  struct list joiners;    /* tasks waiting for its end */
  char *report;           /* of a failure nobody joined yet: what to log; malloc'd */
  usec deadline;          /* the earliest of those it is under: its spawner's and pool.deadline's */
  usec inherited;         /* its spawner's */
  struct deadline *deadlines; /* pool.deadline's that it is inside of, the newest first */
  struct timer timer;     /* of the wait under way */
  const void *line;       /* the pool in whose line it waits */
  ltask_abort_fn abort;
  void (*finished)(struct task *, void *user);
  void *user;
  _Alignas(8) unsigned char scratch[LTASK_SCRATCH];
};

/* User values of a Task: its coroutine; the files it was spawned in (see `lines`) while it runs, its error value once it failed. */
enum { TASK_THREAD = 1, TASK_SPAWNED = 2, TASK_ERROR = 2, TASK_VALUES = TASK_SPAWNED + TASK_FRAMES - 1 };

void task_push(lua_State *L, struct task *t); /* the Task of a task that has not ended */
bool task_ended(const struct task *t);
void task_joined(struct task *t);  /* its failure, if it is one, is somebody's now */
void task_report(struct task *t);  /* logs the failure nobody joined, once */
/* Turns the loop, on L, until over(user); each turn waits until `until` at most. */
void task_run_until(lua_State *L, struct runtime *r, usec until, bool (*over)(void *), void *user);

#endif
