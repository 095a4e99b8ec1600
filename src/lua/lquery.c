/*
** lquery: one statement on any connection, and what every call that a task waits for has in common.
**
** The call lives in the task's scratch, so that waiting costs no memory beyond the task. What a call brings (a result, an
** error, a lease) is held by the task from the instant it comes until the continuation takes it: a task that is cancelled
** in between leaks nothing. SQL and parameters are borrowed from the coroutine's stack, where they stay until the end.
*/
#include <stdio.h>
#include <string.h>

#include "db/mask.h"
#include "ljson.h"
#include "lpool.h"
#include "lmeter.h"
#include "lview.h"

_Static_assert(sizeof(struct lcall) <= LTASK_SCRATCH, "a call fits the task's scratch");

/* ---- the call's end, in the engine's time ---- */

static struct task *lcall_task(struct lcall *q) { return ltask_of_scratch(q); }

static void lcall_drop(struct holding *h) {
  struct lcall *q = CONTAINER(h, struct lcall, undelivered);
  list_remove(&h->link);
  if (q->call.result) q->driver->free_result(q->call.result);
  engine_free_error(q->call.error);
  q->call.result = NULL;
  q->call.error = NULL;
}

static void call_explain(struct lcall *q) {
  struct pool_error *error = q->call.error;
  if (engine_error_is_shared(error)) return;
  if (error->kind == POOL_TIMEOUT)
    lpool_explain_timeout(q->pool, q->call.waiter.waited, error, &q->deadlock);
  else if (error->kind == POOL_OVERLOADED && q->call.waiter.failed == POOL_OVERLOADED)
    lpool_explain_overload(q->pool, &q->call.waiter, error);
  else if (error->kind == POOL_QUERY || error->kind == POOL_LOST || error->kind == POOL_CANCELLED || error->kind == POOL_DEADLINE)
    mask_error(error, &q->call.statement);
}

static void lcall_done(struct call *call) {
  struct lcall *q = CONTAINER(call, struct lcall, call);
  struct task *t = lcall_task(q);
  if (call->error) call_explain(q); /* while its own task counts as waiting: it may be one of the holders */
  ltask_set_line(t, NULL);
  if (call->kind == CALL_LEASE && !call->error)
    lease_begin(q->pool, call->conn, t);
  else
    ltask_hold(t, &q->undelivered);
  ltask_wake(t);
}

static void lcall_abort(struct task *t) {
  struct lcall *q = ltask_scratch(t);
  q->stage = (uint8_t)q->call.state;
  ltask_set_line(t, NULL);
  if (q->pool->engine) engine_leave(q->pool->engine, &q->call); /* else it was dropped with the engine */
  if (!list_empty(&q->undelivered.link)) lcall_drop(&q->undelivered); /* the Pool is still on the stack; later it may be gone */
}

static bool lcall_is_held(const struct holding *h, const void *q) { return h == &((const struct lcall *)q)->undelivered; }

struct lcall *lquery_begin(lua_State *L, struct task *t, struct lpool *p) {
  if (ltask_runtime(t) != p->runtime)
    lerror_misuse(L, "this pool belongs to another time: one made outside of testing.run cannot be used inside, nor the other way round");
  struct lcall *q = ltask_scratch(t);
  if (ltask_holds(t, lcall_is_held, q)) lcall_drop(&q->undelivered); /* an earlier one's: memory was too short to hand it over */
  memset(q, 0, offsetof(struct lcall, params));
  q->pool = p;
  q->driver = p->driver;
  q->call.done = lcall_done;
  q->call.borrower = t;
  q->call.waiter.key = p->ask.key;
  q->call.waiter.priority = p->ask.priority;
  q->call.waiter.weight = 1;
  q->undelivered.drop = lcall_drop;
  list_init(&q->undelivered.link);
  return q;
}

int lquery_wait(lua_State *L, struct task *t, lua_KFunction continuation) {
  struct lcall *q = ltask_scratch(t);
  q->began = loop_now(q->pool->runtime->loop);
  return ltask_wait(L, t, lcall_abort, continuation);
}

/* ---- statements ---- */

static bool query_refuse(lua_State *L, struct pool_error *error) {
  lerror_return(L, error);
  return false;
}

static bool query_params(lua_State *L, struct lcall *q, int first, int count) {
  struct param *params = q->params;
  if (count > (int)(sizeof q->params / sizeof q->params[0]))
    params = lua_newuserdatauv(L, (size_t)count * sizeof *params, 0); /* stays on the stack until the end */
  luaL_checkstack(L, count + 8, "too many parameters"); /* more would double the stack of every task that waits here */
  const struct driver *driver = engine_driver(q->pool->engine);
  for (int i = 0; i < count; i++) {
    struct pool_error error;
    bool ok = true;
    lrows_param(L, first + i, i + 1, driver, &params[i], &ok, &error);
    if (!ok) return query_refuse(L, &error);
  }
  q->call.statement.params = params;
  q->call.statement.nparams = count;
  return true;
}

bool lquery_late(lua_State *L, const struct task *t) {
  if (ltask_deadline(t) > loop_now(ltask_loop(L))) return false;
  lerror_fail(L, POOL_DEADLINE, "the deadline had passed before the statement began");
  return true;
}

bool lquery_statement(lua_State *L, struct lcall *q, int index, const char *who) {
  if (lua_type(L, index) != LUA_TSTRING) lerror_misuse(L, "%s: the SQL must be a string, not %s", who, luaL_typename(L, index));
  size_t len;
  const char *sql = lua_tolstring(L, index, &len);
  if (memchr(sql, '\0', len)) {
    struct pool_error error;
    error_set(&error, POOL_QUERY, "the SQL holds a NUL byte, which no statement can");
    text_copy(error.sqlstate, sizeof error.sqlstate, "22021");
    return query_refuse(L, &error);
  }
  q->call.statement.sql = sql;
  q->call.statement.len = len;
  q->pool->queries++;
  if (q->pool->settings.host.echo) lruntime_log(q->pool->runtime, "info", "%s", sql);
  return query_params(L, q, index + 1, lua_gettop(L) - index);
}

/* ---- answers ---- */

static void query_push_error(lua_State *L, struct lcall *q) {
  const struct pool_error *error = q->call.error;
  lua_pushnil(L);
  lerror_push(L, error);
  if (q->call.waiter.failed != POOL_OK) { /* refused in line */
    lua_pushnumber(L, (lua_Number)q->call.waiter.waited / USEC_PER_SECOND);
    lua_setfield(L, -2, "waited");
  }
  if (q->deadlock) {
    lua_pushboolean(L, true);
    lua_setfield(L, -2, "deadlock");
  }
}

static const char *stage_doing(const struct lcall *q) {
  return q->stage == CALL_IN_LINE ? "waiting for a connection" : q->stage == CALL_OUT ? "about to begin" : "waiting for the database";
}

/* How long the statement took, whatever came of it; its line does not count. */
static void lcall_time(struct lcall *q) {
  const struct call *call = &q->call;
  const struct waiter *w = &call->waiter;
  bool line = call->kind == CALL_QUERY;
  if ((line && w->failed != POOL_OK) || (!line && call->kind != CALL_RUN)) return;
  histogram_record(&q->pool->query, loop_now(q->pool->runtime->loop) - (line ? w->since + w->waited : q->began));
}

bool lquery_ok(lua_State *L, struct task *t, struct lcall *q, int index) {
  if (ltask_interrupted(t) != POOL_OK) {
    lua_pushfstring(L, "the deadline passed while %s", stage_doing(q));
    lerror_fail(L, POOL_DEADLINE, lua_tostring(L, -1));
    lua_remove(L, -3);
    if (q->stage == CALL_IN_LINE) {
      lua_pushnumber(L, (lua_Number)(loop_now(ltask_loop(L)) - q->call.waiter.since) / USEC_PER_SECOND);
      lua_setfield(L, -2, "waited");
    }
    return false;
  }
  lcall_time(q);
  if (!q->call.error) return true;
  query_push_error(L, q);
  q->pool->query_errors++;
  bool timed_out = q->call.error->kind == POOL_TIMEOUT;
  lcall_drop(&q->undelivered);
  if (timed_out && (q->pool->events & EVENT_TIMEOUT)) {
    lua_pushvalue(L, -1);
    lpool_emit(L, index, "timeout", 1);
  }
  return false;
}

/* Moves the result into a guard on the stack: the Pool's, so that not every query makes one and the collector finalises it. One
   that still holds a result (memory was short, or this is a finaliser's query amid another's rows) is left to the collector. */
static struct lresult *query_take(lua_State *L, struct lcall *q, int index) {
  lua_getiuservalue(L, index, LPOOL_GUARD);
  struct lresult *guard = lua_touserdata(L, -1);
  if (!guard || guard->result) {
    guard = lrows_guard(L, engine_driver(q->pool->engine));
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, index, LPOOL_GUARD);
  }
  guard->result = q->call.result;
  q->call.result = NULL;
  list_remove(&q->undelivered.link);
  return guard;
}

int lquery_give(lua_State *L, struct lcall *q, int index) {
  struct lpool *p = q->pool;
  enum lquery_answer answer = (enum lquery_answer)q->answer;
  struct lresult *guard = query_take(L, q, index);
  if (answer == ANSWER_ROWS) {
    lrows_push(L, guard, p->settings.host.null == NULL_SENTINEL);
    return 1;
  }
  if (answer == ANSWER_JSON) {
    struct pool_error error;
    return lrows_push_json(L, guard, &error) ? 1 : lerror_return(L, &error);
  }
  guard->driver->free_result(guard->result);
  guard->result = NULL;
  lua_pushboolean(L, true);
  return 1;
}

/* ---- db:query, db:json, db:exec ---- */

static int query_k(lua_State *L, int status, lua_KContext context) {
  (void)status;
  struct task *t = (struct task *)context;
  struct lcall *q = ltask_scratch(t);
  return lquery_ok(L, t, q, 1) ? lquery_give(L, q, 1) : 2;
}

static int observed_k(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  return lua_gettop(L);
}

/* Somebody listens to acquire or release: by way of a lease, in Lua (lua/pool/events.lua). */
static int query_observed(lua_State *L, const struct lpool *p, const char *name) {
  lua_getiuservalue(L, 1, LPOOL_HANDLERS);
  lua_getfield(L, -1, name);
  lua_remove(L, -2);
  lview_push(L, 1, &p->ask);
  lua_replace(L, 1);
  lua_insert(L, 1);
  lua_callk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, observed_k);
  return lua_gettop(L);
}

static bool lease_is_of_pool(const struct holding *h, const void *user) {
  const struct lpool *p = user;
  const struct lease *l = CONTAINER(h, struct lease, holding);
  return l >= p->leases && l < p->leases + p->settings.pool.size_limit;
}

void lquery_check_nested(lua_State *L, struct lpool *p, struct task *t) {
  if (p->settings.host.nested != NESTED_ERROR || !ltask_holds(t, lease_is_of_pool, p)) return;
  lerror_misuse(L, "this task holds a connection already, and nested = error forbids a second one");
}

static int query_start(lua_State *L, const char *who, enum lquery_answer answer) {
  struct lpool *p = lpool_check(L, 1);
  if (p->events & (EVENT_ACQUIRE | EVENT_RELEASE)) return query_observed(L, p, who + strlen("db:"));
  struct task *t = ltask_enter(L);
  lquery_check_nested(L, p, t);
  if (lquery_late(L, t)) return 2;
  struct lcall *q = lquery_begin(L, t, p);
  q->answer = (uint8_t)answer;
  if (answer == ANSWER_DONE) {
    if (lua_gettop(L) > 2) lerror_misuse(L, "db:exec takes a script and no parameters: use db:query");
    q->call.statement.script = true;
  }
  if (!lquery_statement(L, q, 2, who)) return 2;
  if (p->policy && !lmeter_admit(p, &q->call.waiter.weight)) return lmeter_refuse(L);
  ltask_set_line(t, p);
  engine_query(p->engine, &q->call, lpool_patience(p));
  return lquery_wait(L, t, query_k);
}

static int pool_query(lua_State *L) { return query_start(L, "db:query", ANSWER_ROWS); }
static int pool_json(lua_State *L) { return query_start(L, "db:json", ANSWER_JSON); }
static int pool_exec(lua_State *L) { return query_start(L, "db:exec", ANSWER_DONE); }

void lquery_open(lua_State *L) {
  static const luaL_Reg methods[] = {{"query", pool_query}, {"json", pool_json}, {"exec", pool_exec}, {NULL, NULL}};
  luaL_setfuncs(L, methods, 0);
}
