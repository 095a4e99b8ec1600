/*
** ltask: the scheduler of coroutines.
**
** States, and who moves a task between them:
**   READY -> RUNNING        task_resume (a drain of the loop)
**   RUNNING -> WAITING      ltask_wait_until
**   WAITING -> READY        ltask_wake (an event's end), task_expire (a deadline), ltask_cancel
**   RUNNING -> DONE, FAILED task_resume, when the coroutine returned or raised
**   READY, WAITING -> CANCELLED  task_close, from task_resume: never from inside an event
** Invariants: a task that is READY is in the ready list once, with woken or cancelled set or not yet started; a task that is
** WAITING has an abort function, and keeps it until its continuation is about to run: one that is cancelled after it was woken
** leaves what it waited for all the same; after abort nothing wakes it for that wait; a task is anchored in the registry (under
** its address) from spawn until it ended; a coroutine that raised or was cancelled is reset at once, since Lua does not run
** the <close> variables of a dead coroutine by itself; what a task still holds when it ends is dropped.
**
** Whatever can raise in the scheduler (memory, a value's __tostring) runs protected and ends a task rather than the loop; what
** still escapes, when memory is short, is put right by tasks_recover. When the state is closed tasks do not run again, not even
** their <close> variables: ltask_forget_all only withdraws what they wait for and frees what they hold.
**
** The synchronous task stands for code outside any task: its waits turn the loop in place. Finalisers have another such one, for
** the collector may run them while a call of the first is being made or answered.
*/
#include "ltask_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lerror.h"
#include "ltrace.h"

#define IMMEDIATE_MAX 64 /* waits in a row that need not wait, before the loop gets its turn */

static int task_close_coroutine(lua_State *co, lua_State *from) {
#if LUA_VERSION_RELEASE_NUM >= 50406
  return lua_closethread(co, from);
#else
  (void)from;
  return lua_resetthread(co);
#endif
}

struct loop *ltask_loop(lua_State *L) { return lruntime_get(L)->loop; }
usec ltask_deadline(const struct task *t) { return t->deadline; }
uint64_t ltask_id(const struct task *t) { return t->id; }
enum pool_err ltask_interrupted(const struct task *t) { return (enum pool_err)t->interrupted; }
void *ltask_scratch(struct task *t) { return t->scratch; }
struct task *ltask_of_scratch(void *scratch) { return CONTAINER(scratch, struct task, scratch); }
void ltask_hold(struct task *t, struct holding *h) { list_append(&t->holdings, &h->link); }
void ltask_set_line(struct task *t, const void *pool) { t->line = pool; }
const void *ltask_line(const struct task *t) { return t->line; }
bool ltask_failed(const struct task *t) { return t->status == TASK_FAILED || t->status == TASK_CANCELLED; }
bool task_ended(const struct task *t) { return t->status >= TASK_DONE; }

bool ltask_holds(const struct task *t, bool (*is)(const struct holding *, const void *), const void *user) {
  LIST_EACH(node, &t->holdings) {
    if (is(CONTAINER(node, struct holding, link), user)) return true;
  }
  return false;
}

void task_push(lua_State *L, struct task *t) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, t);
  INSIST(lua_touserdata(L, -1) == t);
}

/* ---- waiting ---- */

/* Does the collector run this code, as a finaliser? Then it may be amid anything, a call of the synchronous task too. */
static bool task_finalising(lua_State *L) {
#if LUA_VERSION_RELEASE_NUM >= 50404
  return lua_gc(L, LUA_GCISRUNNING) < 0; /* stopped by Lua itself */
#else
  lua_Debug ar;
  for (int level = 0; lua_getstack(L, level, &ar); level++)
    if (lua_getinfo(L, "n", &ar) && strcmp(ar.namewhat, "metamethod") == 0 && strcmp(ar.name, "__gc") == 0) return true;
  return false;
#endif
}

struct runtime *ltask_runtime(const struct task *t) { return t->runtime; }

static struct task *task_synchronous(lua_State *L, struct runtime *r) { return task_finalising(L) ? r->finaliser : r->self; }

struct task *ltask_current(lua_State *L) {
  struct runtime *r = lruntime_get(L);
  return r->current ? r->current : task_synchronous(L, r);
}

struct task *ltask_enter(lua_State *L) {
  struct runtime *r = lruntime_get(L);
  struct task *t = r->current;
  if (r->barred > 0) lerror_misuse(L, "a log function or an event's function cannot wait");
  if (!t) {
    if (loop_attached(r->loop)) lerror_misuse(L, "nothing runs the host's loop from here: a call that waits belongs in pool.spawn");
    if (r->turning > 0) lerror_misuse(L, "cannot wait here: the loop is running (in a finalizer?)");
    luaL_checkstack(L, 2 * LUA_MINSTACK, "pool"); /* task_run_until's room: nothing waits yet, if this raises */
    t = task_synchronous(L, r);
  } else {
    if (L != t->co)
      lerror_misuse(L, "a coroutine that pool did not start cannot wait: use pool.spawn (or call this from the task itself)");
    if (t->closing) lerror_misuse(L, "a __close function cannot wait while its task is being closed");
    if (!lua_isyieldable(L))
      lerror_misuse(L, "cannot wait across a C-call boundary (a sort or gsub callback, a metamethod called from C)");
  }
  loop_update(r->loop); /* deadlines count from now, however long Lua has run */
  t->woken = false;
  t->interrupted = POOL_OK;
  return t;
}

static void task_make_ready(struct task *t) {
  t->status = TASK_READY;
  if (t->co) list_append(&t->runtime->ready, &t->link);
}

void ltask_wake(struct task *t) {
  if (t->woken) return;
  t->woken = true;
  if (t->status != TASK_WAITING) return;
  timer_stop(t->runtime->loop, &t->timer);
  task_make_ready(t);
}

static void task_withdraw(struct task *t) {
  ltask_abort_fn abort = t->abort;
  timer_stop(t->runtime->loop, &t->timer);
  t->abort = NULL;
  if (abort) abort(t);
}

static void task_expire(struct timer *timer) {
  struct task *t = CONTAINER(timer, struct task, timer);
  t->interrupted = POOL_DEADLINE;
  task_withdraw(t);
  t->woken = true;
  task_make_ready(t);
}

static bool self_over(void *user) { return ((struct task *)user)->status != TASK_WAITING; }

int ltask_wait_until(lua_State *L, struct task *t, usec until, ltask_abort_fn abort, lua_KFunction continuation) {
  struct runtime *r = t->runtime;
  INSIST(t->status != TASK_WAITING && abort);
  if (t->deadline < until) until = t->deadline;
  t->abort = abort;
  if (!t->woken && until <= loop_now(r->loop)) {
    t->interrupted = POOL_DEADLINE;
    task_withdraw(t);
    t->woken = true;
  }
  if (t->woken && !t->cancelled && (!t->co || ++t->immediate < IMMEDIATE_MAX)) {
    t->abort = NULL;
    return continuation(L, LUA_OK, (lua_KContext)t);
  }
  t->immediate = 0;
  t->status = TASK_WAITING;
  if (t->woken || t->cancelled) { /* on with the others first, or to its end */
    if (!t->woken) task_withdraw(t);
    task_make_ready(t);
  } else if (until != NEVER) {
    timer_start(r->loop, &t->timer, until);
  }
  if (t->co) return lua_yieldk(L, 0, (lua_KContext)t, continuation);
  task_run_until(L, r, NEVER, self_over, t);
  t->abort = NULL;
  t->status = TASK_RUNNING;
  return continuation(L, LUA_OK, (lua_KContext)t);
}

int ltask_wait(lua_State *L, struct task *t, ltask_abort_fn abort, lua_KFunction continuation) {
  return ltask_wait_until(L, t, NEVER, abort, continuation);
}

void task_run_until(lua_State *L, struct runtime *r, usec until, bool (*over)(void *), void *user) {
  luaL_checkstack(L, LUA_MINSTACK, "pool");
  lua_State *host = r->host;
  struct task *current = r->current;
  r->host = L;
  r->current = NULL;
  r->turning++;
  while (!over(user)) loop_turn(r->loop, until);
  r->turning--;
  r->current = current;
  r->host = host;
}

/* ---- the end of a task ---- */

void task_joined(struct task *t) {
  t->joined = true;
  if (!t->report) return;
  free(t->report);
  t->report = NULL;
  if (task_ended(t)) list_remove(&t->link);
}

void task_report(struct task *t) {
  lruntime_log(t->runtime, "error", "a task that nobody joined failed: %s", t->report);
  task_joined(t);
}

/* Keeps the text of an error value, in case nobody joins. Protected. Stack: Task, error value. */
static int task_keep_report(lua_State *L) {
  struct task *t = lua_touserdata(L, 1);
  const char *trace = "";
  if (lua_istable(L, 2)) {
    lua_pushliteral(L, "traceback");
    lua_rawget(L, 2);
    if (lua_type(L, -1) == LUA_TSTRING) trace = lua_tostring(L, -1);
  }
  const char *text = luaL_tolstring(L, 2, NULL);
  size_t size = strlen(text) + strlen(trace) + 2;
  t->report = malloc(size);
  if (t->report) snprintf(t->report, size, "%s%s%s", text, trace[0] ? "\n" : "", trace);
  return 0;
}

static void task_drop_holdings(struct task *t) {
  struct list *node;
  while ((node = t->holdings.next) != &t->holdings) {
    struct holding *h = CONTAINER(node, struct holding, link);
    h->drop(h);
    INSIST(t->holdings.next != node);
  }
}

static void task_wake_joiners(struct task *t) {
  struct list *node;
  while ((node = list_shift(&t->joiners)) != NULL) {
    struct task *joiner = CONTAINER(node, struct task, link);
    task_joined(t);
    ltask_wake(joiner);
  }
}

static void task_end(lua_State *L, struct task *t, enum task_status status) {
  t->status = status;
  list_remove(&t->all);
  task_drop_holdings(t);
  task_wake_joiners(t);
  if (t->finished) t->finished(t, t->user);
  if (t->report && !t->joined) list_append(&t->runtime->failures, &t->link);
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, t);
}

/* Pushes where the Task at index 1 was spawned, as lines of a traceback: "" when that is not known. */
static void task_push_spawned(lua_State *L, const struct task *t) {
  lua_pushstring(L, t->lines[0] > 0 ? "\nspawned at:" : "");
  for (int i = 0; i < TASK_FRAMES && t->lines[i] > 0; i++) {
    lua_getiuservalue(L, 1, TASK_SPAWNED + i);
    lua_pushfstring(L, "\n\t%s:%d", lua_tostring(L, -1), t->lines[i]);
    lua_remove(L, -2);
    lua_concat(L, 2);
  }
}

/* Adds to an error value where it was raised and where its task was spawned: text grows, a table without a field `traceback`
   gets one, nil, which would say that all went well, becomes text. Protected. Stack: Task, error value; returns the value. */
static int task_trace(lua_State *L) {
  struct task *t = lua_touserdata(L, 1);
  if (lua_isnil(L, 2)) {
    lua_pushliteral(L, "error(nil)");
    lua_replace(L, 2);
  }
  bool text = lua_type(L, 2) == LUA_TSTRING;
  if (!text && !lua_istable(L, 2)) return 1;
  if (!text) {
    lua_pushliteral(L, "traceback");
    if (lua_rawget(L, 2) != LUA_TNIL) lua_settop(L, 2);
    if (lua_gettop(L) == 2) return 1;
  }
  lua_pushvalue(L, 2);
  lua_pushliteral(L, "\n");
  ltrace_push(L, t->co, 2, 0);
  task_push_spawned(L, t);
  lua_concat(L, text ? 4 : 2);
  if (text) return 1;
  lua_pushliteral(L, "traceback");
  lua_insert(L, -2);
  lua_rawset(L, 2);
  lua_settop(L, 2);
  return 1;
}

/* Pushes the value on top of a coroutine, which keeps it. Needs no room there: a stack overflow may have left none. */
static void task_copy_top(lua_State *L, lua_State *co) {
  lua_xmove(co, L, 1);
  lua_pushvalue(L, -1);
  lua_xmove(L, co, 1);
}

/* Closes the coroutine: its <close> variables run. When one of them raised, its error is on top of the coroutine; the error that
   ended the task, if one did, is on top of L. */
static void task_close_variables(lua_State *L, struct task *t, bool failed) {
  t->closing = true;
  if (task_close_coroutine(t->co, L) == LUA_OK || lua_gettop(t->co) == 0) return;
  task_copy_top(L, t->co);
  if (!failed || !lua_rawequal(L, -1, -2)) {
    const char *why = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "(an error that is not text)";
    lruntime_log(t->runtime, "error", "a __close function of a %s task failed: %s", failed ? "failed" : "cancelled", why);
  }
  lua_pop(L, 1);
}

/* The coroutine raised; its error value is on top of it, and stays there: its __close functions are given it. */
static void task_fail(lua_State *L, struct task *t) {
  task_push(L, t);
  int task = lua_gettop(L);
  lua_pushcfunction(L, task_trace);
  lua_pushvalue(L, task);
  task_copy_top(L, t->co);
  if (lua_pcall(L, 2, 1, 0) != LUA_OK) {
    lua_pop(L, 1);
    task_copy_top(L, t->co); /* untraced, then */
  }
  if (!t->joined && list_empty(&t->joiners)) {
    lua_pushcfunction(L, task_keep_report);
    lua_pushvalue(L, task);
    lua_pushvalue(L, -3);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) lua_pop(L, 1);
    if (!t->report) t->report = strdup("(an error that cannot be told as text)");
  }
  lua_setiuservalue(L, task, TASK_ERROR);
  task_copy_top(L, t->co);
  task_close_variables(L, t, true);
  task_end(L, t, TASK_FAILED);
}

/* Ends a task at its wait: its <close> variables run, then it is over. */
static void task_close(lua_State *L, struct task *t) {
  task_push(L, t);
  task_close_variables(L, t, false);
  lerror_fail(L, POOL_CANCELLED, "the task was cancelled");
  lua_setiuservalue(L, -3, TASK_ERROR);
  lua_pop(L, 2);
  task_end(L, t, TASK_CANCELLED);
}

/* Notes in the Task on top of L where its spawner is: two frames, cheap enough for every spawn (a file's name is one string in Lua,
   however many tasks are spawned there). */
static void task_note_spawner(lua_State *L, struct task *t) {
  lua_Debug ar;
  for (int level = 0, frames = 0; frames < TASK_FRAMES && lua_getstack(L, level, &ar); level++) {
    lua_getinfo(L, "Sl", &ar);
    if (ar.currentline <= 0) continue;
    lua_pushstring(L, ar.short_src);
    lua_setiuservalue(L, -2, TASK_SPAWNED + frames);
    t->lines[frames++] = ar.currentline;
  }
}

/* ---- running ---- */

static void task_resume(lua_State *L, struct task *t) {
  struct runtime *r = t->runtime;
  r->current = t;
  if (t->cancelled) {
    task_withdraw(t);
    task_close(L, t);
    r->current = NULL;
    return;
  }
  int arguments = t->results;
  t->results = 0;
  t->abort = NULL;
  t->status = TASK_RUNNING;
  int status = lua_resume(t->co, L, arguments, &t->results);
  if (status == LUA_YIELD) {
    lua_pop(t->co, t->results);
    t->results = 0;
    if (t->status == TASK_RUNNING) {
      lua_pushliteral(L, "coroutine.yield in a task, outside a coroutine of its own: a task waits with pool's calls "
                         "(pool.sleep(0) yields)");
      lua_xmove(L, t->co, 1);
      task_fail(L, t);
    }
  } else if (status == LUA_OK) {
    task_end(L, t, TASK_DONE);
  } else {
    task_fail(L, t);
  }
  r->current = NULL;
}

/* Runs those that are ready now, once each, up to the mark. Stack: lightuserdata runtime. */
static int tasks_run_batch(lua_State *L) {
  struct runtime *r = lua_touserdata(L, 1);
  struct list *node;
  while ((node = list_shift(&r->ready)) != &r->mark) {
    task_resume(L, CONTAINER(node, struct task, link));
    lua_settop(L, 1);
  }
  return 0;
}

/* Memory was short outside the task's own code: it is over all the same, without an error value. */
static void tasks_recover(lua_State *L, struct runtime *r) {
  struct task *t = r->current;
  list_remove(&r->mark);
  if (t && !task_ended(t)) {
    if (!t->closing) task_close_variables(L, t, false);
    task_push(L, t);
    lua_pushnil(L);
    lua_setiuservalue(L, -2, TASK_ERROR);
    lua_pop(L, 1);
    task_end(L, t, t->cancelled ? TASK_CANCELLED : TASK_FAILED);
  }
  r->current = NULL;
}

static bool tasks_run(struct drain *d) {
  struct runtime *r = CONTAINER(d, struct runtime, tasks);
  lua_State *L = r->host;
  if (list_empty(&r->ready) || !lua_checkstack(L, LUA_MINSTACK)) return false;
  loop_update(r->loop);
  list_append(&r->ready, &r->mark);
  r->inside++;
  lua_pushcfunction(L, tasks_run_batch);
  lua_pushlightuserdata(L, r);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    lua_pop(L, 1);
    tasks_recover(L, r);
  }
  r->inside--;
  return true;
}

static bool tasks_pending(struct drain *d) { return !list_empty(&CONTAINER(d, struct runtime, tasks)->ready); }

void ltask_attach(struct runtime *r) {
  list_init(&r->mark);
  r->tasks.run = tasks_run;
  r->tasks.pending = tasks_pending;
  drain_add(r->loop, &r->tasks);
}

/* ---- the beginning of a task ---- */

static struct task *task_make(lua_State *L, struct runtime *r) {
  struct task *t = lua_newuserdatauv(L, sizeof *t, TASK_VALUES);
  memset(t, 0, offsetof(struct task, scratch));
  t->runtime = r;
  t->deadline = t->inherited = NEVER;
  t->timer.fire = task_expire;
  list_init(&t->link);
  list_init(&t->all);
  list_init(&t->holdings);
  list_init(&t->joiners);
  luaL_setmetatable(L, LTASK_NAME);
  return t;
}

struct task *ltask_make_self(lua_State *L, struct runtime *r) {
  struct task *t = task_make(L, r);
  t->status = TASK_RUNNING;
  return t;
}

struct task *ltask_spawn(lua_State *L, int nargs, void (*finished)(struct task *, void *), void *user, usec deadline) {
  struct runtime *r = lruntime_get(L);
  struct task *t = task_make(L, r);
  lua_State *co = lua_newthread(L);
  lua_setiuservalue(L, -2, TASK_THREAD);
  task_note_spawner(L, t);
  if (!lua_checkstack(co, nargs + LUA_MINSTACK)) luaL_error(L, "pool.spawn: too many arguments");
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, t);
  lua_insert(L, -(nargs + 2));
  lua_xmove(L, co, nargs + 1);
  t->co = co;
  t->results = nargs;
  t->finished = finished;
  t->user = user;
  t->deadline = t->inherited = deadline;
  t->id = ++r->serial;
  list_append(&r->all, &t->all);
  list_append(&r->ready, &t->link);
  t->status = TASK_READY;
  return t;
}

void ltask_cancel(struct task *t) {
  if (task_ended(t) || t->cancelled || !t->co) return;
  t->cancelled = true;
  if (t->status != TASK_WAITING) return; /* running: at its next wait; ready: closed instead of resumed */
  task_withdraw(t);
  task_make_ready(t);
}

static void task_forget(struct task *t) {
  task_withdraw(t);
  task_drop_holdings(t);
}

/* The state is being closed: nothing will run again. What memory a task has outside Lua goes, and events must not touch it. The
   objects that tasks wait for have been finalised, but are still there. */
void ltask_forget_all(struct runtime *r) {
  LIST_EACH(each, &r->all) task_forget(CONTAINER(each, struct task, all));
  while (list_shift(&r->all) != NULL) continue;
  if (r->self) task_forget(r->self);
  if (r->finaliser) task_forget(r->finaliser);
  list_init(&r->ready);
  list_init(&r->failures);
}

const char *ltask_failure(const struct task *t) { return t->report; }
void ltask_forget_failure(struct task *t) { task_joined(t); }

void ltask_again(struct task *t) {
  t->woken = false;
  t->interrupted = POOL_OK;
}

void ltask_push_traceback(lua_State *L, struct task *t) {
  if (t->co)
    ltrace_stack(L, t->co, 0);
  else
    lua_pushliteral(L, "");
}

const char *ltask_where(struct task *t, char *buffer, size_t size) {
  lua_Debug ar;
  buffer[0] = '\0';
  lua_State *L = t->co ? t->co : t->runtime->host;
  if (lerror_caller(L, &ar)) snprintf(buffer, size, "%s:%d", ar.short_src, ar.currentline);
  return buffer;
}
