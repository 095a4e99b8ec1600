/*
** scripted_driver: see the header. An operation is over when its answer is due; a cancelled statement when, besides, its cancel
** is. Until a step has taken the end, the descriptor is readable.
*/
#include "scripted_driver.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct db_result {
  struct scripted *db;
};

static struct scripted *scripted(const struct db *db) { return (struct scripted *)(uintptr_t)db; }

void scripted_init(struct scripted *s, struct loop *loop) {
  memset(s, 0, sizeof *s);
  s->loop = loop;
  s->batches = 3;
  s->addresses = 1;
  s->descriptors = 100;
  list_init(&s->conns);
}

void scripted_url(const struct scripted *s, char *buffer, size_t size) { snprintf(buffer, size, "scripted:%" PRIxPTR, (uintptr_t)s); }

/* ---- the database ---- */

static struct db *db_create(const struct db_settings *settings, db_log_fn log, void *user, struct pool_error *error) {
  uintptr_t at = 0;
  (void)log, (void)user;
  if (sscanf(settings->database_url, "scripted:%" SCNxPTR, &at) == 1) return (struct db *)at;
  error_set(error, POOL_SETTINGS, "no such database");
  return NULL;
}

static void db_configure(struct db *db, const struct db_settings *settings) {
  scripted(db)->reset_setting = settings->reset;
  scripted(db)->configured++;
}

static void db_destroy(struct db *db) { INSIST(scripted(db)->live == 0); }
static int db_size_limit(const struct db *db) { return scripted(db)->size_limit > 0 ? scripted(db)->size_limit : INT_MAX; }

/* ---- what is due ---- */

static usec usec_after(usec now, usec after) { return after == NEVER ? NEVER : now + after; }

static void op_begin(struct db_conn *c, enum operation op) {
  struct scripted *s = c->db;
  c->op = op;
  c->answer = s->choose ? s->choose(s->user, op) : s->answers[op];
  c->due = usec_after(loop_now(s->loop), c->answer.after);
  c->fresh = !s->prompt;
}

/* When the next step would have something to say. */
static usec op_due(const struct db_conn *c) {
  usec due = c->due;
  if (c->killed && c->op != OP_OPEN) return 0;
  if (c->cancelled_at && c->cancel_hits && c->cancelled_at < due) due = c->cancelled_at;
  bool last = c->left <= 1 || c->answer.kind != ANSWER_OK;
  if (c->cancelled_at && last && c->cancelled_at > due) due = c->cancelled_at; /* the end waits for the cancel's end */
  return due;
}

static usec conn_due(const struct db_conn *c) {
  if (c->dead || c->resting) return NEVER;
  if (c->op != OP_NONE) return op_due(c);
  return c->killed || c->noise ? 0 : NEVER;
}

bool scripted_announce(struct scripted *s) {
  bool any = false;
  LIST_EACH(node, &s->conns) {
    struct db_conn *c = CONTAINER(node, struct db_conn, link);
    if (conn_due(c) > loop_now(s->loop)) continue;
    loop_virtual_ready(s->loop, c->fd, LOOP_READ | LOOP_WRITE);
    any = true;
  }
  return any;
}

usec scripted_next(const struct scripted *s) {
  usec next = NEVER;
  LIST_EACH(node, &s->conns) {
    usec due = conn_due(CONTAINER(node, struct db_conn, link));
    if (due < next) next = due;
  }
  return next;
}

void scripted_answer(struct db_conn *c, enum answer_kind kind) {
  INSIST(c->op != OP_NONE);
  c->answer.kind = kind;
  c->due = loop_now(c->db->loop);
}

void scripted_kill(struct db_conn *c, bool spread) {
  c->killed = true;
  c->spread = spread;
}

struct db_conn *scripted_conn(struct scripted *s, int index) {
  LIST_EACH(node, &s->conns) {
    if (index-- == 0) return CONTAINER(node, struct db_conn, link);
  }
  return NULL;
}

bool scripted_busy(const struct db_conn *c) { return c->op == OP_STATEMENT || c->cancelled_at; }

/* ---- opening and ending ---- */

static void conn_move(struct db_conn *c) { c->fd = c->db->descriptors++; }

static struct db_conn *conn_open(struct db *db, struct pool_error *error) {
  struct scripted *s = scripted(db);
  if (s->refuse_open) {
    error_set(error, POOL_CONNECT, "no descriptor");
    return NULL;
  }
  struct db_conn *c = calloc(1, sizeof *c);
  INSIST(c != NULL);
  c->db = s;
  c->serial = ++s->opened;
  conn_move(c);
  list_append(&s->conns, &c->link);
  s->live++;
  if (s->live > s->most) s->most = s->live;
  op_begin(c, OP_OPEN);
  return c;
}

static int conn_addresses_left(const struct db_conn *c) { return c->db->addresses - 1 - c->address; }

static void conn_next_address(struct db_conn *c) {
  INSIST(c->op == OP_OPEN && conn_addresses_left(c) > 0);
  c->db->next_addresses++;
  c->address++;
  conn_move(c);
  op_begin(c, OP_OPEN);
}

static void conn_abandon(struct db_conn *c) {
  list_remove(&c->link);
  c->db->live--;
  if (c->ready) {
    c->db->results--;
    free(c->ready);
  }
  free(c);
}

static void conn_close(struct db_conn *c) {
  INSIST(c->op == OP_NONE && !c->cancelled_at && !c->dead);
  c->db->closes++;
  conn_move(c);
  op_begin(c, OP_CLOSE);
}

/* ---- operations ---- */

static void conn_ping(struct db_conn *c) {
  INSIST(c->op == OP_NONE && !c->cancelled_at && !c->dead);
  c->db->pings++;
  op_begin(c, OP_PING);
}

static bool conn_send(struct db_conn *c, const struct statement *statement, struct pool_error *error) {
  INSIST(c->op == OP_NONE && !c->cancelled_at && !c->ready); /* the quarantine */
  if (c->dead || (c->killed && !c->db->deaf)) {
    c->dead = true;
    error_set(error, POOL_LOST, "the server hung up");
    error->disconnect = c->spread;
    return false;
  }
  if (c->db->refuse_send) {
    error_set(error, POOL_QUERY, "a parameter that cannot be sent");
    return false;
  }
  c->db->sends++;
  text_copy(c->sql, sizeof c->sql, statement->sql);
  c->stream = statement->stream;
  c->left = c->stream ? c->db->batches : 1;
  c->writing = c->db->write_first;
  c->noise = false;
  op_begin(c, OP_STATEMENT);
  return true;
}

static void conn_cancel(struct db_conn *c) {
  struct scripted *s = c->db;
  bool running = c->op == OP_STATEMENT || c->op == OP_PING;
  if (!running || c->cancelled_at || c->dead) return;
  s->cancels++;
  struct answer a = s->choose ? s->choose(s->user, OP_CANCEL) : s->answers[OP_CANCEL];
  c->cancelled_at = usec_after(loop_now(s->loop), a.after);
  c->cancel_hits = a.kind == ANSWER_OK;
  c->resting = false;
}

static void conn_reset(struct db_conn *c) {
  INSIST((c->op == OP_NONE || c->op == OP_STATEMENT || c->op == OP_PING) && !c->dead);
  usec until = c->op == OP_NONE ? 0 : c->due;
  if (c->op != OP_NONE && !c->cancelled_at) conn_cancel(c);
  if (c->cancelled_at && c->cancel_hits && c->cancelled_at < until) until = c->cancelled_at;
  if (c->cancelled_at > until) until = c->cancelled_at;
  if (c->ready) {
    c->db->results--;
    free(c->ready);
    c->ready = NULL;
  }
  c->db->resets++;
  c->cancelled_at = 0;
  c->left = 0;
  c->resting = false;
  op_begin(c, OP_RESET);
  if (until > c->due) c->due = until;
}

static bool conn_needs_reset(const struct db_conn *c) {
  return c->op != OP_NONE || c->status != DB_IDLE || c->db->reset_setting == RESET_DISCARD;
}

/* ---- steps ---- */

static enum db_want op_end(struct db_conn *c, enum db_want how) {
  c->op = OP_NONE;
  c->cancelled_at = 0;
  c->left = 0;
  c->writing = c->ended = false;
  return how;
}

static enum db_want op_died(struct db_conn *c, struct pool_error *error, bool spread) {
  c->dead = c->killed = true;
  error_set(error, POOL_LOST, "the server hung up");
  error->disconnect = spread;
  return op_end(c, DB_FAILED);
}

static enum db_want open_end(struct db_conn *c, struct pool_error *error) {
  if (c->answer.kind == ANSWER_OK) return op_end(c, DB_DONE);
  if (conn_addresses_left(c) > 0) {
    c->address++;
    conn_move(c);
    op_begin(c, OP_OPEN);
    c->fresh = false;
    return DB_READ;
  }
  error_set(error, POOL_CONNECT, "the server refused");
  error->permanent = c->answer.kind == ANSWER_DIE;
  return op_end(c, DB_FAILED);
}

static enum db_want statement_failed(struct db_conn *c, struct pool_error *error, enum pool_err kind, const char *sqlstate) {
  error_set(error, kind, "the statement failed");
  text_copy(error->sqlstate, sizeof error->sqlstate, sqlstate);
  if (c->status == DB_IN_TRANSACTION) c->status = DB_IN_FAILED_TRANSACTION;
  return op_end(c, DB_FAILED);
}

static void statement_note_transaction(struct db_conn *c) {
  if (strcmp(c->sql, "begin") == 0) c->status = DB_IN_TRANSACTION;
  if (strcmp(c->sql, "commit") == 0 || strcmp(c->sql, "rollback") == 0) c->status = DB_IDLE;
}

static enum db_want statement_batch(struct db_conn *c) {
  INSIST(!c->ready);
  c->ready = calloc(1, sizeof *c->ready);
  INSIST(c->ready != NULL);
  c->ready->db = c->db;
  c->db->results++;
  if (--c->left == 0) {
    statement_note_transaction(c);
    return op_end(c, DB_DONE);
  }
  op_begin(c, OP_STATEMENT);
  c->resting = true;
  return DB_DONE;
}

static enum db_want statement_end(struct db_conn *c, struct pool_error *error, usec now) {
  if (c->cancelled_at && c->cancel_hits && c->cancelled_at <= now && c->due >= c->cancelled_at)
    return statement_failed(c, error, POOL_CANCELLED, "57014");
  switch (c->answer.kind) {
    case ANSWER_OK: return statement_batch(c);
    case ANSWER_FAIL: return statement_failed(c, error, POOL_QUERY, "42601");
    case ANSWER_DIE: return op_died(c, error, false);
    case ANSWER_DISCONNECT: {
      enum db_want want = statement_failed(c, error, POOL_QUERY, "25006");
      error->disconnect = true;
      return want;
    }
    default: WRONG("no such answer");
  }
}

static enum db_want reset_end(struct db_conn *c, struct pool_error *error) {
  if (c->answer.kind == ANSWER_OK) {
    c->status = DB_IDLE;
    return op_end(c, DB_DONE);
  }
  if (c->answer.kind != ANSWER_FAIL) return op_died(c, error, c->answer.kind == ANSWER_DISCONNECT);
  error_set(error, POOL_QUERY, "the reset failed");
  return op_end(c, DB_FAILED);
}

static enum db_want conn_step(struct db_conn *c, struct pool_error *error) {
  usec now = loop_now(c->db->loop);
  INSIST(c->op != OP_NONE && !c->dead);
  INSIST(!c->ready); /* a batch that nobody took */
  c->db->steps++;
  c->resting = false;
  if (c->fresh && !(c->killed && c->db->deaf)) {
    c->fresh = false;
    return c->writing ? DB_READ_WRITE : DB_READ;
  }
  if (op_due(c) > now) {
    if (c->cancelled_at && c->due <= now && c->left == 1 && !c->ended) { /* the statement is over, the cancel's end is awaited elsewhere */
      c->ended = true;
      conn_move(c);
    }
    return c->writing ? DB_READ_WRITE : DB_READ;
  }
  if (c->killed && c->op != OP_OPEN && c->op != OP_CLOSE) return op_died(c, error, c->spread);
  switch (c->op) {
    case OP_OPEN: return open_end(c, error);
    case OP_STATEMENT: return statement_end(c, error, now);
    case OP_RESET: return reset_end(c, error);
    case OP_PING: return c->answer.kind == ANSWER_OK ? op_end(c, DB_DONE) : op_died(c, error, true);
    case OP_CLOSE: c->dead = true; return op_end(c, c->answer.kind == ANSWER_OK ? DB_DONE : DB_FAILED);
    default: WRONG("a step of no operation");
  }
}

static enum db_want conn_idle(struct db_conn *c, struct pool_error *error) {
  INSIST(c->op == OP_NONE && !c->dead);
  c->db->idles += c->noise;
  c->noise = false;
  if (!c->killed) return DB_READ;
  return op_died(c, error, c->spread);
}

static int conn_fd(const struct db_conn *c) { return c->fd; }

static enum db_status conn_status(const struct db_conn *c) {
  if (c->dead) return DB_DEAD;
  return c->op != OP_NONE ? DB_BUSY : c->status;
}

static int conn_pid(const struct db_conn *c) { return c->serial; }

/* ---- results ---- */

static struct db_result *conn_result(struct db_conn *c) {
  struct db_result *r = c->ready;
  c->ready = NULL;
  return r;
}

static bool conn_finished(const struct db_conn *c) { return c->left == 0; }

static void result_free(struct db_result *r) {
  if (!r) return;
  r->db->results--;
  free(r);
}

const struct driver scripted_driver = {
    .name = "scripted", .create = db_create, .configure = db_configure, .destroy = db_destroy, .size_limit = db_size_limit,
    .open = conn_open, .addresses_left = conn_addresses_left, .next_address = conn_next_address, .ping = conn_ping,
    .send = conn_send, .reset = conn_reset, .needs_reset = conn_needs_reset, .cancel = conn_cancel, .close = conn_close,
    .abandon = conn_abandon, .step = conn_step, .idle = conn_idle, .fd = conn_fd, .status = conn_status, .pid = conn_pid,
    .result = conn_result, .finished = conn_finished, .free_result = result_free,
};
