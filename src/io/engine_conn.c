/*
** engine_conn: what a connection is doing, and how it gets from one job to the next.
**
**   EMPTY -> OPENING (conn_open) -> SETUP (somebody wants to prepare it) -> IDLE
**   IDLE -> CHECKING (conn_check) -> IDLE;   IDLE -> LEASED (conn_lease) -> IDLE, RESETTING (conn_reset) -> IDLE
**   LEASED, SETUP -> RUNNING (conn_run) -> back, or -> STOPPING (its caller left: cancelled, or its rest is read) -> back
**   any but EMPTY -> CLOSING (conn_close) -> EMPTY; from SETUP too, when it failed: the slot is OPENING until then
** A connection that dies while leased stays LEASED and `dead` until it is given back; statements on it fail at once. One timer
** serves the job: connect_timeout, statement_timeout, the patience with a cancel, a reset, a goodbye or the rest of a stream. The read
** watch stays on through idle and busy alike, so that a query costs no change of it; it is off between the batches of a stream, which
** is how a slow reader slows the server. Where the driver may put another file under the same descriptor (opening, closing,
** cancelling, resetting) the watch is stopped before the step and set afresh after; whatever a job left of it, a connection with
** nothing under way is watched for reading (conn_listen).
*/
#include <stdlib.h>
#include <string.h>

#include "engine_internal.h"

static void conn_ready(struct watch *w, int events);
static void conn_timed_out(struct timer *t);

void conn_init(struct conn *c, struct engine *e, struct slot *s) {
  c->engine = e;
  c->slot = s;
  s->user = c;
  c->watch.ready = conn_ready;
  c->timer.fire = conn_timed_out;
  list_init(&c->leased);
}

static void conn_start_timer(struct conn *c, usec patience) {
  if (patience > 0)
    timer_start(c->engine->loop, &c->timer, engine_now(c->engine) + patience);
  else
    timer_stop(c->engine->loop, &c->timer);
}

static void conn_stop_timer(struct conn *c) {
  if (c->timer.running) timer_stop(c->engine->loop, &c->timer);
}

static void conn_watch(struct conn *c, int events) { watch_set(c->engine->loop, &c->watch, c->engine->driver->fd(c->db), events); }

/* Nothing is under way: hears what the server says of its own accord. Looks at the descriptor, too: where the driver has cancelled by
   itself (a COPY), what was watched last was that cancel. */
static void conn_listen(struct conn *c) {
  c->moving = false;
  conn_watch(c, LOOP_READ);
}

void conn_discard(struct conn *c) {
  conn_stop_timer(c);
  watch_set(c->engine->loop, &c->watch, c->watch.fd, 0);
  if (c->db) c->engine->driver->abandon(c->db);
  c->db = NULL;
  c->job = CONN_EMPTY;
  c->streaming = c->dead = c->retire = c->timed_out = c->moving = c->parting = false;
  free(c->why);
  c->why = NULL;
}

/* ---- opening ---- */

static void conn_open_failed(struct conn *c, const struct pool_error *error) {
  struct engine *e = c->engine;
  conn_discard(c);
  pool_opened(e->core, c->slot, engine_now(e), error);
}

/* Arms the timer to this address's share of what is left of connect_timeout; nothing to do while the number of addresses to
   come is as it was. */
static void conn_share_time(struct conn *c) {
  struct engine *e = c->engine;
  if (c->job != CONN_OPENING || c->connect_by == NEVER) return;
  int left = e->driver->addresses_left ? e->driver->addresses_left(c->db) : 0;
  if (left == c->addresses_left) return;
  c->addresses_left = left;
  usec now = engine_now(e), share = (c->connect_by - now) / (left + 1);
  timer_start(e->loop, &c->timer, now + (share > 0 ? share : 0));
}

void conn_open(struct conn *c) {
  struct engine *e = c->engine;
  e->error.kind = POOL_OK;
  c->db = e->driver->open(e->db, &e->error);
  if (!c->db) {
    conn_open_failed(c, &e->error);
    return;
  }
  c->job = CONN_OPENING;
  c->moving = true;
  c->id = ++e->opened;
  usec patience = e->db_settings.connect_timeout;
  c->connect_by = patience > 0 ? engine_now(e) + patience : NEVER;
  c->addresses_left = -1; /* not known: any number is news */
  conn_step(c);
}

void conn_rest(struct conn *c) {
  c->job = CONN_IDLE;
  c->idle_at = engine_now(c->engine);
}

bool conn_fresh(struct conn *c) {
  struct engine *e = c->engine;
  if (engine_now(e) - c->idle_at < FRESH_FOR) return true;
  e->error.kind = POOL_OK;
  return e->driver->idle(c->db, &e->error) != DB_FAILED;
}

static void conn_opened(struct conn *c) {
  struct engine *e = c->engine;
  conn_stop_timer(c);
  conn_rest(c);
  conn_listen(c);
  pool_opened(e->core, c->slot, engine_now(e), NULL);
}

static void conn_connected(struct conn *c) {
  struct engine *e = c->engine;
  if (!e->setup_wanted) {
    conn_opened(c);
    return;
  }
  c->job = CONN_SETUP;
  c->lease = ++e->serial;
  conn_stop_timer(c);
  conn_listen(c);
  e->events.setup(e->user, c);
}

static bool conn_setup_clean(const struct conn *c) {
  return c->job == CONN_SETUP && !c->dead && !c->retire && !c->streaming && c->engine->driver->status(c->db) == DB_IDLE;
}

/* The server hears a goodbye before the open is answered: what a set-up left running must not run on beside the next attempt. */
static void conn_setup_failed(struct conn *c, const struct pool_error *error) {
  if (!c->why) c->why = calloc(1, sizeof *c->why);
  if (c->why && error)
    *c->why = *error;
  else if (c->why && c->why->kind == POOL_OK)
    error_set(c->why, POOL_CONNECT, "a connection was lost, invalidated, or left busy or in a transaction by its set-up");
  conn_close(c);
}

void engine_setup_done(struct conn *c, const struct pool_error *error) {
  struct engine *e = c->engine;
  INSIST(c->slot->state == SLOT_OPENING && c->lease != 0);
  INSIST(error != &e->error); /* the scratch is about to be used */
  if (engine_busy(c)) call_drop(c);
  c->borrower = NULL;
  c->lease = 0;
  if (!error && conn_setup_clean(c))
    conn_opened(c);
  else
    conn_setup_failed(c, error);
  engine_settle(e);
}

static void conn_cut_open(struct conn *c) {
  struct engine *e = c->engine;
  struct pool_error error;
  error_set(&error, POOL_CLOSED, "the pool was closed while the connection was opened");
  if (c->job == CONN_CLOSING) return; /* its set-up has failed already */
  if (c->lease == 0) {
    conn_open_failed(c, &error);
    return;
  }
  if (e->events.lost) e->events.lost(e->user, c);
  engine_setup_done(c, &error);
}

void conn_cut(struct conn *c) {
  struct engine *e = c->engine;
  switch (c->slot->state) {
    case SLOT_OPENING: conn_cut_open(c); return;
    case SLOT_CHECKING: pool_lost(e->core, c->slot, engine_now(e), false); return;
    case SLOT_RESETTING:
      conn_stop_timer(c);
      pool_reset_done(e->core, c->slot, engine_now(e), false);
      return;
    case SLOT_EMPTY:
    case SLOT_IDLE:
    case SLOT_LEASED:
    case SLOT_CLOSING: return;
    default: WRONG("a state of a slot");
  }
}

/* ---- the other jobs' beginnings ---- */

void conn_check(struct conn *c) {
  c->job = CONN_CHECKING;
  c->engine->driver->ping(c->db);
  conn_step(c);
}

void conn_reset(struct conn *c) {
  c->job = CONN_RESETTING;
  c->streaming = c->timed_out = false;
  c->moving = true; /* a cancel may be under way, or come to be */
  conn_start_timer(c, STOP_TIMEOUT);
  c->engine->driver->reset(c->db);
  conn_step(c);
}

static void conn_closed(struct conn *c) {
  struct engine *e = c->engine;
  bool set_up = c->slot->state != SLOT_OPENING; /* else its set-up failed, and that is the open's answer */
  if (e->events.closed) e->events.closed(e->user, c, !set_up ? "failed" : c->dead ? "lost" : "closed");
  if (set_up) {
    conn_discard(c);
    pool_closed(e->core, c->slot, engine_now(e));
    return;
  }
  if (c->why)
    e->error = *c->why;
  else
    error_set(&e->error, POOL_CONNECT, "the set-up of a connection failed");
  conn_open_failed(c, &e->error);
}

void conn_close(struct conn *c) {
  const struct driver *d = c->engine->driver;
  enum db_status status = d->status(c->db);
  bool hopeless = c->dead || status == DB_DEAD;
  bool cancelling = c->moving && (c->job == CONN_RUNNING || c->job == CONN_STOPPING);
  c->dead = hopeless;
  if (hopeless) {
    conn_closed(c);
    return;
  }
  c->job = CONN_CLOSING;
  c->moving = true;
  watch_set(c->engine->loop, &c->watch, c->watch.fd, 0);
  c->parting = status != DB_BUSY;
  if (c->parting)
    d->close(c->db);
  else if (!cancelling) /* the server would not hear a goodbye before its statement is over */
    d->cancel(c->db);
  conn_start_timer(c, CLOSE_TIMEOUT);
  conn_step(c);
}

/* A step of closing came to its end: the cancelled statement's, or the goodbye's. true: step on. */
static bool conn_close_on(struct conn *c) {
  const struct driver *d = c->engine->driver;
  if (c->parting || d->status(c->db) == DB_DEAD) {
    conn_closed(c);
    return false;
  }
  d->free_result(d->result(c->db));
  if (d->finished(c->db)) {
    c->parting = true;
    d->close(c->db);
  }
  return true;
}

void conn_lease(struct conn *c) {
  struct engine *e = c->engine;
  c->job = CONN_LEASED;
  c->lease = ++e->serial;
  c->leased_at = engine_now(e);
  c->arrived = -1;
  list_append(&e->leases, &c->leased);
}

void conn_unlease(struct conn *c) {
  list_remove(&c->leased);
  c->lease = 0;
  c->borrower = NULL;
  c->call = NULL;
}

/* ---- statements ---- */

void conn_run(struct conn *c, struct call *call) {
  c->call = call;
  c->job = CONN_RUNNING;
  if (c->moving) /* the cancel of an earlier batch has not come to its end */
    conn_start_timer(c, STOP_TIMEOUT);
  else if (c->engine->db_settings.statement_timeout > 0)
    conn_start_timer(c, c->engine->db_settings.statement_timeout);
  conn_step(c);
}

static void conn_begin_cancel(struct conn *c) {
  watch_set(c->engine->loop, &c->watch, c->watch.fd, 0);
  c->moving = true;
  c->engine->driver->cancel(c->db);
  conn_start_timer(c, STOP_TIMEOUT);
}

void conn_stop(struct conn *c) {
  INSIST(c->job == CONN_RUNNING || c->streaming);
  bool cancelling = c->job == CONN_RUNNING && c->moving;
  c->call = NULL;
  c->streaming = false; /* whatever still comes of it is thrown away */
  c->job = CONN_STOPPING;
  if (!cancelling) conn_begin_cancel(c);
  conn_step(c);
}

static void conn_drain_turn(struct conn *c) {
  usec now = engine_now(c->engine);
  c->drained = 0;
  if (now < c->drain_by)
    timer_start(c->engine->loop, &c->timer, c->drain_by);
  else
    conn_begin_cancel(c);
  conn_step(c);
}

void conn_drain(struct conn *c) {
  INSIST(c->streaming && (c->job == CONN_LEASED || c->job == CONN_SETUP));
  if (c->moving) { /* cancelled already */
    conn_stop(c);
    return;
  }
  c->streaming = false;
  c->job = CONN_STOPPING;
  c->drain_by = engine_now(c->engine) + DRAIN_TIMEOUT;
  conn_drain_turn(c);
}

/* A batch that nobody wants. true: step on. */
static bool conn_drain_on(struct conn *c) {
  if (c->moving || ++c->drained < DRAIN_TURN) return true;
  timer_start(c->engine->loop, &c->timer, engine_now(c->engine) + 1); /* a server that is fast must not keep the loop to itself; +1: not in
                                                                         the round of timers that is being fired */
  return false;
}

bool engine_cancel(struct conn *c) {
  if (c->job != CONN_RUNNING || c->moving) return false;
  conn_begin_cancel(c);
  conn_step(c);
  engine_settle(c->engine);
  return true;
}

void conn_declare_dead(struct conn *c, const struct pool_error *error) {
  struct engine *e = c->engine;
  if (c->dead) return;
  c->dead = true;
  c->streaming = false;
  conn_stop_timer(c);
  watch_set(e->loop, &c->watch, c->watch.fd, 0);
  c->why = malloc(sizeof *c->why);
  if (c->why) *c->why = *error;
  e->alive = 0;
  if (c->slot->state == SLOT_LEASED)
    pool_lost(e->core, c->slot, engine_now(e), error->disconnect);
  else if (error->disconnect)
    pool_suspect(e->core, engine_now(e));
}

/* Its borrower's again: the statement is over, or the batch. */
static void conn_hand_back(struct conn *c) {
  conn_stop_timer(c);
  c->job = c->slot->state == SLOT_OPENING ? CONN_SETUP : CONN_LEASED;
}

/* The statement is over, or the batch. true: step on, nobody wants what comes. */
static bool conn_statement_done(struct conn *c) {
  const struct driver *d = c->engine->driver;
  struct db_result *result = d->result(c->db);
  bool stopping = c->job == CONN_STOPPING, more = !d->finished(c->db);
  if (stopping) d->free_result(result);
  if (stopping && more) return conn_drain_on(c);
  conn_hand_back(c);
  c->streaming = more;
  if (more) { /* a cancel may still be under way: `moving` stays */
    watch_set(c->engine->loop, &c->watch, c->watch.fd, 0);
  } else {
    c->timed_out = false;
    conn_listen(c);
  }
  if (stopping)
    call_resume_held(c);
  else
    call_statement_over(c, result, NULL);
  return false;
}

static void conn_note_role(struct conn *c, const struct pool_error *error) {
  if (!error->disconnect) return;
  c->retire = true;
  pool_invalidate(c->engine->core, engine_now(c->engine));
}

static void conn_statement_failed(struct conn *c, struct pool_error *error) {
  struct engine *e = c->engine;
  bool stopping = c->job == CONN_STOPPING, timed_out = c->timed_out;
  conn_hand_back(c);
  c->streaming = c->timed_out = false;
  if (e->driver->status(c->db) == DB_DEAD) {
    conn_declare_dead(c, error);
  } else {
    conn_listen(c);
    conn_note_role(c, error);
  }
  if (timed_out && (error->kind == POOL_CANCELLED || error->kind == POOL_DEADLINE)) {
    error_set(error, POOL_DEADLINE, "the statement ran into statement_timeout (%.3g s) and was cancelled",
              (double)e->db_settings.statement_timeout / USEC_PER_SECOND);
    text_copy(error->sqlstate, sizeof error->sqlstate, "57014");
  }
  if (stopping)
    call_resume_held(c);
  else
    call_statement_over(c, NULL, error);
}

/* ---- steps ---- */

/* What follows the end of a step; true: step on. */
static bool conn_done(struct conn *c) {
  struct engine *e = c->engine;
  usec now = e->alive = engine_now(e);
  switch (c->job) {
    case CONN_OPENING: conn_connected(c); return false;
    case CONN_RUNNING:
    case CONN_STOPPING: return conn_statement_done(c);
    case CONN_CHECKING:
      conn_rest(c);
      conn_listen(c);
      pool_checked(e->core, c->slot, now, true);
      return false;
    case CONN_RESETTING:
      conn_stop_timer(c);
      conn_rest(c);
      conn_listen(c);
      pool_reset_done(e->core, c->slot, now, true);
      return false;
    case CONN_CLOSING: return conn_close_on(c);
    case CONN_EMPTY:
    case CONN_SETUP:
    case CONN_IDLE:
    case CONN_LEASED: break;
  }
  WRONG("a connection's job is done");
}

static bool conn_failed(struct conn *c, struct pool_error *error) {
  struct engine *e = c->engine;
  usec now = engine_now(e);
  switch (c->job) {
    case CONN_OPENING: conn_open_failed(c, error); return false;
    case CONN_RUNNING:
    case CONN_STOPPING: conn_statement_failed(c, error); return false;
    case CONN_CHECKING:
      c->job = CONN_IDLE;
      c->dead = true;
      e->alive = 0;
      pool_checked(e->core, c->slot, now, false);
      return false;
    case CONN_RESETTING:
      conn_stop_timer(c);
      c->dead = e->driver->status(c->db) == DB_DEAD;
      if (c->dead && error->disconnect) pool_suspect(e->core, now);
      c->job = CONN_IDLE;
      pool_reset_done(e->core, c->slot, now, false);
      return false;
    case CONN_CLOSING: return conn_close_on(c);
    case CONN_EMPTY:
    case CONN_SETUP:
    case CONN_IDLE:
    case CONN_LEASED: break;
  }
  WRONG("a connection's job failed");
}

static int want_events(enum db_want want) {
  return want == DB_READ ? LOOP_READ : want == DB_WRITE ? LOOP_WRITE : LOOP_READ | LOOP_WRITE;
}

static void conn_wait(struct conn *c, enum db_want want) {
  struct engine *e = c->engine;
  if (c->moving) {
    watch_renew(e->loop, &c->watch, e->driver->fd(c->db), want_events(want));
    conn_share_time(c);
  } else {
    conn_watch(c, want_events(want));
  }
}

void conn_step(struct conn *c) {
  struct engine *e = c->engine;
  bool on = true;
  while (on) {
    if (c->moving) watch_set(e->loop, &c->watch, c->watch.fd, 0);
    e->error.kind = POOL_OK;
    enum db_want want = e->driver->step(c->db, &e->error);
    on = want == DB_DONE ? conn_done(c) : want == DB_FAILED && conn_failed(c, &e->error);
    if (want != DB_DONE && want != DB_FAILED) conn_wait(c, want);
  }
}

/* Readable with nothing under way: the server has something to say, its farewell perhaps. */
static void conn_overhear(struct conn *c) {
  struct engine *e = c->engine;
  e->error.kind = POOL_OK;
  if (e->driver->idle(c->db, &e->error) != DB_FAILED) return;
  if (c->job == CONN_IDLE) {
    c->dead = true;
    e->alive = 0;
    watch_set(e->loop, &c->watch, c->watch.fd, 0);
    pool_lost(e->core, c->slot, engine_now(e), e->error.disconnect);
  } else {
    conn_declare_dead(c, &e->error);
  }
}

static void conn_ready(struct watch *w, int events) {
  (void)events;
  struct conn *c = CONTAINER(w, struct conn, watch);
  struct engine *e = c->engine;
  if (c->job == CONN_IDLE || c->job == CONN_LEASED || c->job == CONN_SETUP)
    conn_overhear(c);
  else
    conn_step(c);
  engine_settle(e);
}

/* ---- time limits ---- */

static void conn_open_timed_out(struct conn *c) {
  struct engine *e = c->engine;
  if (c->addresses_left > 0) {
    watch_set(e->loop, &c->watch, c->watch.fd, 0);
    c->addresses_left = -1; /* the timer has run out: the next address gets its share whatever their number */
    e->driver->next_address(c->db);
    conn_step(c);
    return;
  }
  error_set(&e->error, POOL_CONNECT, "no connection to the database within connect_timeout (%.3g s)",
            (double)e->db_settings.connect_timeout / USEC_PER_SECOND);
  conn_open_failed(c, &e->error);
}

static void conn_stop_timed_out(struct conn *c) {
  struct engine *e = c->engine;
  error_set(&e->error, POOL_LOST, "the server did not end a cancelled statement within %d s: the connection was given up",
            (int)(STOP_TIMEOUT / USEC_PER_SECOND));
  bool stopping = c->job == CONN_STOPPING;
  conn_hand_back(c);
  conn_declare_dead(c, &e->error);
  if (stopping)
    call_resume_held(c);
  else
    call_statement_over(c, NULL, &e->error);
}

static void conn_timed_out(struct timer *t) {
  struct conn *c = CONTAINER(t, struct conn, timer);
  struct engine *e = c->engine;
  switch (c->job) {
    case CONN_OPENING: conn_open_timed_out(c); break;
    case CONN_RUNNING:
      if (c->moving) {
        conn_stop_timed_out(c);
      } else { /* statement_timeout */
        c->timed_out = true;
        conn_begin_cancel(c);
        conn_step(c);
      }
      break;
    case CONN_STOPPING:
      if (c->moving)
        conn_stop_timed_out(c);
      else
        conn_drain_turn(c);
      break;
    case CONN_RESETTING:
      c->dead = true;
      c->job = CONN_IDLE;
      pool_reset_done(e->core, c->slot, engine_now(e), false);
      break;
    case CONN_CLOSING: conn_closed(c); break;
    case CONN_EMPTY:
    case CONN_SETUP:
    case CONN_IDLE:
    case CONN_CHECKING:
    case CONN_LEASED: WRONG("a connection's timer without a job that has one");
  }
  engine_settle(e);
}
