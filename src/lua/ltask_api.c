/*
** ltask_api: tasks as Lua sees them: run, spawn, all, sleep, deadlines, and the methods of a Task.
**
** Ownership: a group (pool.all) is a userdata on its parent's stack; its children know it only while the parent waits for
** them: a parent that leaves first (cancelled, or out of time) makes them forget it. A failure that nobody joined is logged
** when its Task is collected, or at the end of pool.run, whichever comes first.
*/
#include <math.h>
#include <string.h>

#include "lerror.h"
#include "ljson.h"
#include "ltask_internal.h"

static struct task *task_check(lua_State *L, int index) { return luaL_checkudata(L, index, LTASK_NAME); }

usec lruntime_check_seconds(lua_State *L, int index, const char *what) {
  int is_number;
  lua_Number s = lua_tonumberx(L, index, &is_number);
  if (!is_number || lua_type(L, index) != LUA_TNUMBER || !(s >= 0))
    lerror_misuse(L, "%s: a number of seconds from 0 up is wanted, not %s", what, lerror_push_value(L, index));
  return s >= 1e12 ? NEVER : (usec)(s * USEC_PER_SECOND);
}

usec lruntime_after(usec now, usec duration) { return duration >= NEVER - now ? NEVER : now + duration; }

static int task_deadline_error(lua_State *L, const char *doing) {
  lua_pushfstring(L, "the deadline passed while %s", doing);
  return lerror_fail(L, POOL_DEADLINE, lua_tostring(L, -1));
}

/* ---- failures nobody joined ---- */

static int task_gc(lua_State *L) {
  struct task *t = task_check(L, 1);
  if (t->report) task_report(t);
  return 0;
}

/* ---- joining ---- */

/* Pushes nil and the error of the failed task at the index. One that memory was too short to keep has left none. */
static void task_push_failure(lua_State *L, int index) {
  lua_pushnil(L);
  if (lua_getiuservalue(L, index < 0 ? index - 1 : index, TASK_ERROR) != LUA_TNIL) return;
  lua_pop(L, 1);
  lua_pushliteral(L, "not enough memory");
}

/* Pushes one of the results of a task that is done; they stay on its coroutine for whoever joins next. */
static void task_push_result(lua_State *L, struct task *t, int number) {
  if (!lua_checkstack(t->co, 1)) luaL_error(L, "not enough memory");
  lua_pushvalue(t->co, number - t->results - 1);
  lua_xmove(t->co, L, 1);
}

/* Pushes what the ended task at stack index 1 gives: its results, or nil and its error. */
static int task_give(lua_State *L, int index, struct task *t) {
  task_joined(t);
  if (t->status != TASK_DONE) {
    task_push_failure(L, index);
    return 2;
  }
  luaL_checkstack(L, t->results + 1, "too many results");
  for (int i = 1; i <= t->results; i++) task_push_result(L, t, i);
  return t->results;
}

static void join_abort(struct task *t) { list_remove(&t->link); }

static int task_join_k(lua_State *L, int status, lua_KContext context) {
  (void)status;
  struct task *me = (struct task *)context, *t = task_check(L, 1);
  if (ltask_interrupted(me) != POOL_OK) return task_deadline_error(L, "joining a task");
  return task_give(L, 1, t);
}

static int task_join(lua_State *L) {
  struct task *t = task_check(L, 1);
  usec timeout = lua_isnoneornil(L, 2) ? NEVER : lruntime_check_seconds(L, 2, "task:join timeout");
  if (task_ended(t)) return task_give(L, 1, t);
  struct task *me = ltask_enter(L);
  if (me == t) return lerror_misuse(L, "a task cannot join itself");
  list_append(&t->joiners, &me->link);
  return ltask_wait_until(L, me, lruntime_after(loop_now(me->runtime->loop), timeout), join_abort, task_join_k);
}

static int task_cancel(lua_State *L) {
  ltask_cancel(task_check(L, 1));
  return 0;
}

static const char *task_status_name(const struct task *t) {
  switch (t->status) {
    case TASK_READY:
    case TASK_RUNNING: return "ready";
    case TASK_WAITING: return "waiting";
    case TASK_DONE: return "done";
    case TASK_FAILED: return "failed";
    case TASK_CANCELLED: return "cancelled";
  }
  WRONG("a task's status");
}

static int task_index(lua_State *L) {
  struct task *t = task_check(L, 1);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
  static const char *const fields[] = {"status", "id", NULL};
  const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  if (strcmp(key, "status") == 0)
    lua_pushstring(L, task_status_name(t));
  else if (strcmp(key, "id") == 0)
    lua_pushinteger(L, (lua_Integer)t->id);
  else
    return lerror_no_field(L, "a Task", 2, fields, lua_upvalueindex(1));
  return 1;
}

static int task_tostring(lua_State *L) {
  struct task *t = task_check(L, 1);
  lua_pushfstring(L, "pool.Task %d (%s)", (int)t->id, task_status_name(t));
  return 1;
}

/* ---- run and spawn ---- */

static void function_check(lua_State *L, const char *who) {
  if (lua_type(L, 1) != LUA_TFUNCTION) lerror_misuse(L, "%s: a function is wanted, not %s", who, luaL_typename(L, 1));
}

static int api_spawn(lua_State *L) {
  function_check(L, "pool.spawn");
  ltask_spawn(L, lua_gettop(L) - 1, NULL, NULL, ltask_current(L)->deadline);
  return 1;
}

static bool run_root_over(void *user) { return task_ended(user); }
static bool run_all_over(void *user) { return list_empty(&((struct runtime *)user)->all); }

/* Those too that a __close function spawned meanwhile. */
static bool run_all_cancelled(void *user) {
  struct runtime *r = user;
  LIST_EACH(node, &r->all) ltask_cancel(CONTAINER(node, struct task, all));
  return list_empty(&r->all);
}

static void run_report_failures(struct runtime *r) {
  while (!list_empty(&r->failures)) task_report(CONTAINER(r->failures.next, struct task, link));
}

/* The loop, protected so that `running` is put back whatever happens. Stack: Task. */
static int run_body(lua_State *L) {
  struct runtime *r = lruntime_get(L);
  struct task *root = task_check(L, 1);
  task_run_until(L, r, NEVER, run_root_over, root);
  task_joined(root);
  task_run_until(L, r, NEVER, root->status == TASK_DONE ? run_all_over : run_all_cancelled, r);
  return 0;
}

static int api_run(lua_State *L) {
  struct runtime *r = lruntime_get(L);
  function_check(L, "pool.run");
  if (r->running || r->current) return lerror_misuse(L, "pool.run inside pool.run: use pool.spawn, or just call the function");
  if (r->turning > 0 || r->barred > 0) return lerror_misuse(L, "pool.run: not from a log function, an event's function or a finalizer");
  if (loop_attached(r->loop)) return lerror_misuse(L, "pool.run: the host runs the loop; use pool.spawn");
  struct task *root = ltask_spawn(L, lua_gettop(L) - 1, NULL, NULL, r->self->deadline);
  r->running = true;
  lua_pushcfunction(L, run_body);
  lua_pushvalue(L, 1);
  int status = lua_pcall(L, 1, 0, 0);
  r->running = false;
  run_report_failures(r);
  lruntime_flush(L, r);
  if (status != LUA_OK) return lua_error(L);
  int n = task_give(L, 1, root);
  return root->status == TASK_DONE ? n : lua_error(L);
}

/* ---- sleep and deadlines ---- */

static void sleep_abort(struct task *t) { (void)t; }

static int sleep_k(lua_State *L, int status, lua_KContext context) {
  (void)status;
  struct task *t = (struct task *)context;
  if (ltask_interrupted(t) != POOL_OK && ltask_deadline(t) <= loop_now(t->runtime->loop)) return task_deadline_error(L, "sleeping");
  lua_pushboolean(L, true);
  return 1;
}

static bool sleep_turned(void *user) { return (*(int *)user)++ > 0; }

/* pool.sleep(seconds) -> true | nil, err */
static int api_sleep(lua_State *L) {
  usec duration = lruntime_check_seconds(L, 1, "pool.sleep");
  struct task *t = ltask_enter(L);
  struct loop *loop = t->runtime->loop;
  if (duration > 0) return ltask_wait_until(L, t, lruntime_after(loop_update(loop), duration), sleep_abort, sleep_k);
  if (!t->co) {
    int turns = 0;
    task_run_until(L, t->runtime, loop_now(loop), sleep_turned, &turns);
    lua_pushboolean(L, true);
    return 1;
  }
  ltask_wake(t);
  t->immediate = UINT8_MAX - 1; /* however short, everybody else goes first */
  return ltask_wait(L, t, sleep_abort, sleep_k);
}

/* One pool.deadline under way. Not a stack's frame: a coroutine inside the task may leave it before the ones around it, later than
   they, or never. Keeps its Task. */
struct deadline {
  struct deadline *outer;
  struct task *task; /* NULL once over */
  usec at;
};

/* core.deadline(seconds) -> something to close */
static int api_deadline(lua_State *L) {
  usec duration = lruntime_check_seconds(L, 1, "pool.deadline");
  struct task *t = ltask_current(L);
  struct deadline *d = lua_newuserdatauv(L, sizeof *d, 1);
  d->task = NULL;
  luaL_setmetatable(L, "pool.Deadline");
  if (t->co) {
    task_push(L, t);
    lua_setiuservalue(L, -2, 1);
  }
  d->at = lruntime_after(loop_update(t->runtime->loop), duration);
  d->task = t;
  d->outer = t->deadlines;
  t->deadlines = d;
  if (d->at < t->deadline) t->deadline = d->at;
  return 1;
}

/* __close, and __gc for a coroutine that was abandoned inside. */
static int deadline_close(lua_State *L) {
  struct deadline *d = luaL_checkudata(L, 1, "pool.Deadline");
  struct task *t = d->task;
  if (!t) return 0;
  d->task = NULL;
  t->deadline = t->inherited;
  for (struct deadline **at = &t->deadlines; *at;) {
    if (*at == d) {
      *at = d->outer;
      continue;
    }
    if ((*at)->at < t->deadline) t->deadline = (*at)->at;
    at = &(*at)->outer;
  }
  return 0;
}

/* core.time_left() -> seconds until the task's deadline, nil when there is none */
static int api_time_left(lua_State *L) {
  struct task *t = ltask_current(L);
  if (t->deadline == NEVER) return 0;
  lua_pushnumber(L, (lua_Number)(t->deadline - loop_update(t->runtime->loop)) / USEC_PER_SECOND);
  return 1;
}

/* core.check_seconds(value, what) -> value: for pool's Lua files. */
static int api_check_seconds(lua_State *L) {
  lruntime_check_seconds(L, 1, luaL_checkstring(L, 2));
  lua_settop(L, 1);
  return 1;
}

/* core.task_key() -> a key for what belongs to the running task */
static int api_task_key(lua_State *L) {
  lua_pushlightuserdata(L, ltask_current(L));
  return 1;
}

/* ---- all ---- */

struct group {
  int remaining, failed;  /* failed: which child failed first, from 1; 0 none */
  bool late;              /* one ended when the deadline that it had from its parent had passed: by it, or too late */
  struct task *parent;
  int count;
  struct member {
    struct group *group;
    struct task *task;    /* NULL once ended */
    int number;
  } members[];
};

static void group_cancel(struct group *g) {
  for (int i = 0; i < g->count; i++)
    if (g->members[i].task) ltask_cancel(g->members[i].task);
}

static void group_child_ended(struct task *t, void *user) {
  struct member *m = user;
  struct group *g = m->group;
  m->task = NULL;
  task_joined(t);
  g->remaining--;
  if (t->inherited != NEVER && t->inherited <= loop_update(t->runtime->loop)) g->late = true;
  bool first = ltask_failed(t) && g->failed == 0;
  if (first) g->failed = m->number;
  if (first || g->remaining == 0) ltask_wake(g->parent);
}

static void all_abort(struct task *t) {
  struct group *g = *(struct group **)ltask_scratch(t);
  for (int i = 0; i < g->count; i++) {
    struct task *child = g->members[i].task;
    if (!child) continue;
    child->finished = NULL;
    task_joined(child);
  }
  group_cancel(g);
}

static int all_results(lua_State *L, struct group *g) {
  lua_createtable(L, g->count, 0);
  for (int i = 1; i <= g->count; i++) {
    lua_rawgeti(L, 2, i);
    struct task *t = task_check(L, -1);
    if (t->results > 0 && !lua_isnil(t->co, -t->results))
      task_push_result(L, t, 1);
    else
      ljson_push_null(L);
    lua_rawseti(L, -3, i);
    lua_pop(L, 1);
  }
  return 1;
}

/* Stack: the functions, the Tasks, the group. */
static int all_k(lua_State *L, int status, lua_KContext context) {
  (void)status;
  struct task *me = (struct task *)context;
  if (ltask_interrupted(me) != POOL_OK) return task_deadline_error(L, "waiting for pool.all");
  struct group *g = *(struct group **)ltask_scratch(me);
  if (g->remaining > 0) { /* one failed: the others are cancelled, and awaited */
    group_cancel(g);
    ltask_again(me);
    return ltask_wait(L, me, all_abort, all_k);
  }
  if (g->failed == 0 && g->late) return task_deadline_error(L, "waiting for pool.all");
  if (g->failed == 0) return all_results(L, g);
  lua_rawgeti(L, 2, g->failed);
  task_push_failure(L, -1);
  return 2;
}

static int group_spawn(lua_State *L) {
  struct group *g = lua_touserdata(L, 3);
  g->remaining = g->count; /* all at once: outside pool.run a finaliser that waits may run some to their end before the last is there */
  for (int i = 1; i <= g->count; i++) {
    struct member *m = &g->members[i - 1];
    lua_rawgeti(L, 1, i);
    m->group = g;
    m->number = i;
    m->task = ltask_spawn(L, 0, group_child_ended, m, g->parent->deadline);
    lua_rawseti(L, 2, i);
  }
  return 0;
}

static void all_check(lua_State *L, lua_Integer n) {
  for (lua_Integer i = 1; i <= n; i++) {
    if (lua_rawgeti(L, 1, i) != LUA_TFUNCTION)
      lerror_misuse(L, "pool.all: element %d is a %s, not a function", (int)i, luaL_typename(L, -1));
    lua_pop(L, 1);
  }
}

static int api_all(lua_State *L) {
  if (!lua_istable(L, 1)) return lerror_misuse(L, "pool.all: a table of functions is wanted, not %s", luaL_typename(L, 1));
  lua_settop(L, 1);
  int n = (int)lua_rawlen(L, 1);
  all_check(L, n);
  lua_createtable(L, n, 0);
  if (n == 0) return 1;
  struct task *me = ltask_enter(L);
  size_t size = sizeof(struct group) + (size_t)n * sizeof(struct member);
  struct group *g = lua_newuserdatauv(L, size, 0);
  memset(g, 0, size);
  g->count = n;
  g->parent = me;
  *(struct group **)ltask_scratch(me) = g;
  lua_pushcfunction(L, group_spawn);
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 2);
  lua_pushlightuserdata(L, g);
  if (lua_pcall(L, 3, 0, 0) != LUA_OK) {
    all_abort(me);
    return lua_error(L);
  }
  return ltask_wait(L, me, all_abort, all_k);
}

/* ---- */

static void meta_close_with(lua_State *L, const char *name, lua_CFunction close) {
  luaL_newmetatable(L, name);
  lua_pushcfunction(L, close);
  lua_setfield(L, -2, "__close");
  lua_pushcfunction(L, close);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}

void ltask_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"run", api_run},           {"spawn", api_spawn},       {"all", api_all}, {"sleep", api_sleep},
                                       {"deadline", api_deadline}, {"time_left", api_time_left}, {"task_key", api_task_key},
                                       {"check_seconds", api_check_seconds}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{"join", task_join}, {"cancel", task_cancel}, {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", task_gc}, {"__tostring", task_tostring}, {NULL, NULL}};
  luaL_newmetatable(L, LTASK_NAME);
  luaL_setfuncs(L, meta, 0);
  luaL_newlib(L, methods);
  lua_pushcclosure(L, task_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  meta_close_with(L, "pool.Deadline", deadline_close);
  luaL_setfuncs(L, functions, 0);
}
