/*
** engine_call: what callers wait for: a connection, a statement, a batch.
**
** A call is OUT before it begins and after it ended; IN_LINE while the core has its waiter; RUNNING while its statement is
** under way; HELD while the connection it is to run on still ends a cancelled statement. call_finish and call_fail end it, once.
** Whoever is given a connection that turns out dead before anything was sent goes back in line with the old deadline: that costs
** a place, never an error. So a connection that lay idle for a while is listened to once more before it is lent.
*/
#include <stdlib.h>
#include <string.h>

#include "engine_internal.h"

/* What a caller is told when there is no memory to say it. Shared, so never written to. */
static const struct pool_error call_untold = {.kind = POOL_OVERLOADED, .message = "out of memory: what went wrong cannot be told"};

bool engine_error_is_shared(const struct pool_error *error) { return error == &call_untold; }

void engine_free_error(struct pool_error *error) {
  if (!engine_error_is_shared(error)) free(error);
}

static void call_end(struct call *call) {
  call->state = CALL_OUT;
  call->done(call);
}

void call_finish(struct call *call, struct db_result *result) {
  call->result = result;
  call->error = NULL;
  call_end(call);
}

void call_fail(struct call *call, const struct pool_error *error) {
  call->result = NULL;
  call->error = malloc(sizeof *call->error);
  if (call->error)
    *call->error = *error;
  else
    call->error = (struct pool_error *)&call_untold;
  call_end(call);
}

/* ---- the line ---- */

static void call_enter_line(struct engine *e, struct call *call, usec deadline) {
  struct waiter asked = call->waiter;
  waiter_init(&call->waiter, deadline, call);
  if (asked.weight > 0) { /* the caller has said how it asks */
    call->waiter.key = asked.key;
    call->waiter.priority = asked.priority;
    call->waiter.weight = asked.weight;
  }
  call->conn = NULL;
  call->result = NULL;
  call->error = NULL;
  call->state = CALL_IN_LINE;
  pool_acquire(e->core, &call->waiter, engine_now(e));
}

/* Its connection was dead before anything was sent: another one, by the same deadline; an idle one, if that was what it wanted. */
static void call_enter_line_again(struct engine *e, struct call *call) {
  const struct waiter *w = &call->waiter;
  call_enter_line(e, call, w->idle_only ? w->since : w->deadline);
}

void engine_lease(struct engine *e, struct call *call, usec deadline) {
  call->kind = CALL_LEASE;
  call_enter_line(e, call, deadline);
  engine_settle(e);
}

void engine_query(struct engine *e, struct call *call, usec deadline) {
  call->kind = CALL_QUERY;
  call_enter_line(e, call, deadline);
  engine_settle(e);
}

/* ---- recordings ---- */

static void record_refused(const struct engine *e, const struct waiter *w, char outcome) {
  struct recorded r = {.arrived = w->since, .waited = engine_now(e) - w->since, .key = w->key, .priority = w->priority, .outcome = outcome};
  if (r.waited < 0) r.waited = 0;
  recorder_add(e->recorder, &r);
}

static char failure_letter(enum pool_err kind) { return kind == POOL_TIMEOUT ? 't' : kind == POOL_OVERLOADED ? 'o' : 'e'; }

static void record_granted(const struct engine *e, struct conn *c, const struct waiter *w) {
  c->arrived = e->recorder ? w->since : -1;
  c->key = w->key;
  c->priority = w->priority;
}

static void record_lease(struct conn *c) {
  const struct engine *e = c->engine;
  struct recorded r = {.arrived = c->arrived, .waited = c->leased_at - c->arrived, .held = engine_now(e) - c->leased_at, .key = c->key,
                       .priority = c->priority, .outcome = c->dead ? 'l' : 'g'};
  c->arrived = -1;
  if (r.waited < 0) r.waited = 0;
  recorder_add(e->recorder, &r);
}

/* Why the core refused it; the room above adds what it knows of the pool. */
void call_refused(struct engine *e, struct waiter *w) {
  struct call *call = waiter_call(w);
  struct pool_error *error = &e->error;
  const struct pool_error *failure = pool_failure(e->core);
  if (e->recorder) record_refused(e, w, failure_letter(w->failed));
  if (w->failed == POOL_CONNECT && failure->kind != POOL_OK)
    *error = *failure;
  else
    error_set(error, w->failed, "%s",
              w->failed == POOL_OVERLOADED ? "too many wait for a connection (max_waiting)"
              : w->failed == POOL_CLOSED   ? "the pool is closed"
                                           : "timed out waiting for a connection");
  error->kind = w->failed;
  error->retryable = true;
  call_fail(call, error);
}

/* The lease of a query's connection ends with the query. */
static void call_give_back(struct conn *c, enum outcome outcome) {
  if (c->engine->recorder && c->arrived >= 0) record_lease(c);
  conn_unlease(c);
  if (outcome == OUTCOME_CLEAN) conn_rest(c);
  pool_release(c->engine->core, c->slot, engine_now(c->engine), outcome);
}

static enum outcome conn_outcome(const struct conn *c) {
  if (c->dead || c->retire) return OUTCOME_RETIRE; /* the core was told of a disconnect when it was seen */
  if (c->job != CONN_LEASED || c->streaming || c->engine->driver->needs_reset(c->db)) return OUTCOME_DIRTY;
  return OUTCOME_CLEAN;
}

static void call_fail_dead(struct call *call) {
  const struct conn *c = call->conn;
  struct pool_error *error = &c->engine->error;
  if (c->why)
    *error = *c->why;
  else
    error_set(error, POOL_LOST, "the connection was lost");
  error->kind = POOL_LOST;
  error->retryable = call->kind != CALL_FETCH; /* nothing of this statement was sent */
  call_fail(call, error);
}

/* The driver began nothing: the call fails, or goes back in line for another connection. */
static void call_send_refused(struct conn *c, struct call *call) {
  struct engine *e = c->engine;
  bool dead = e->driver->status(c->db) == DB_DEAD;
  if (dead) {
    conn_declare_dead(c, &e->error);
    if (call->kind == CALL_QUERY) c->arrived = -1; /* it goes back in line: nothing has ended yet */
  }
  if (call->kind == CALL_QUERY) call_give_back(c, conn_outcome(c));
  if (!dead)
    call_fail(call, &e->error);
  else if (call->kind == CALL_QUERY)
    call_enter_line_again(e, call);
  else
    call_fail_dead(call);
}

bool engine_in_transaction(const struct conn *c) {
  enum db_status status = c->engine->driver->status(c->db);
  if (status == DB_BUSY) return c->within;
  return status == DB_IN_TRANSACTION || status == DB_IN_FAILED_TRANSACTION;
}

static void call_send(struct conn *c, struct call *call) {
  struct engine *e = c->engine;
  c->within = call->kind != CALL_QUERY && engine_in_transaction(c); /* db:query's connection has come clean */
  e->error.kind = POOL_OK;
  call->conn = c;
  call->state = CALL_RUNNING;
  if (e->driver->send(c->db, &call->statement, &e->error))
    conn_run(c, call);
  else
    call_send_refused(c, call);
}

void call_granted(struct engine *e, struct waiter *w, struct slot *s) {
  struct conn *c = slot_conn(s);
  struct call *call = waiter_call(w);
  bool dead = !conn_fresh(c);
  conn_lease(c);
  if (dead) {
    conn_declare_dead(c, &e->error);
    call_give_back(c, OUTCOME_RETIRE);
    call_enter_line_again(e, call);
    return;
  }
  c->borrower = call->borrower;
  if (e->recorder) record_granted(e, c, w);
  if (call->kind == CALL_QUERY) {
    call_send(c, call);
    return;
  }
  call->conn = c;
  call_finish(call, NULL);
}

/* ---- on a lease ---- */

static void call_start(struct conn *c, struct call *call) {
  if (c->dead)
    call_fail_dead(call);
  else if (call->kind == CALL_FETCH) {
    call->state = CALL_RUNNING;
    conn_run(c, call);
  } else
    call_send(c, call);
}

static void call_begin(struct conn *c, struct call *call, enum call_kind kind) {
  INSIST(!engine_busy(c) && c->lease != 0);
  call->kind = kind;
  call->conn = c;
  call->result = NULL;
  call->error = NULL;
  if (c->job == CONN_STOPPING) {
    call->state = CALL_HELD;
    c->held = call;
  } else {
    call_start(c, call);
  }
  engine_settle(c->engine);
}

void engine_run(struct conn *c, struct call *call) {
  INSIST(!c->streaming);
  call_begin(c, call, CALL_RUN);
}

void engine_fetch(struct conn *c, struct call *call) {
  INSIST(c->streaming || c->dead);
  call_begin(c, call, CALL_FETCH);
}

void call_resume_held(struct conn *c) {
  struct call *call = c->held;
  c->held = NULL;
  if (call) call_start(c, call);
}

void call_statement_over(struct conn *c, struct db_result *result, const struct pool_error *error) {
  struct call *call = c->call;
  c->call = NULL;
  bool again = error && call->kind == CALL_QUERY && error->kind == POOL_LOST && error->retryable;
  if (again) c->arrived = -1;
  if (call->kind == CALL_QUERY) call_give_back(c, conn_outcome(c));
  if (!error)
    call_finish(call, result);
  else if (again)
    call_enter_line_again(c->engine, call);
  else
    call_fail(call, error);
}

/* ---- leaving ---- */

void engine_leave(struct engine *e, struct call *call) {
  struct conn *c = call->conn;
  switch (call->state) {
    case CALL_OUT: return;
    case CALL_IN_LINE:
      if (e->recorder) record_refused(e, &call->waiter, 'c');
      pool_cancel(e->core, &call->waiter, engine_now(e));
      break;
    case CALL_HELD: c->held = NULL; break;
    case CALL_RUNNING:
      INSIST(c->call == call);
      c->call = NULL;
      if (call->kind == CALL_QUERY)
        call_give_back(c, OUTCOME_DIRTY);
      else
        conn_stop(c);
      break;
  }
  call->state = CALL_OUT;
  engine_settle(e);
}

bool engine_busy(const struct conn *c) { return c->call || c->held; }

void engine_retire(struct conn *c) { c->retire = true; }

void call_drop(struct conn *c) {
  struct call *running = c->call, *held = c->held;
  struct pool_error *error = &c->engine->error;
  c->call = c->held = NULL;
  if (c->engine->cutting)
    error_set(error, POOL_CLOSED, "the pool was closed while the statement ran");
  else
    error_set(error, POOL_CANCELLED, "the connection was released while the statement ran");
  if (running) call_fail(running, error);
  if (held) call_fail(held, error);
}

void engine_stop_stream(struct conn *c) {
  if (!c->streaming || c->dead || (c->job != CONN_LEASED && c->job != CONN_SETUP)) return;
  if (c->within && c->engine->driver->cancel_aborts)
    conn_drain(c);
  else
    conn_stop(c);
  engine_settle(c->engine);
}

void engine_release(struct conn *c) {
  INSIST(c->lease != 0 && c->slot->state == SLOT_LEASED);
  if (engine_busy(c)) call_drop(c);
  call_give_back(c, conn_outcome(c));
  engine_settle(c->engine);
}
