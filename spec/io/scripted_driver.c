/*
** scripted_driver: see the header. An operation is over when its answer is due; a cancelled statement when, besides, its cancel
** is. Until a step has taken the end, the descriptor is readable. A statement has its effect when its last answer is taken, or, with
** answer.ran, when its connection dies or is abandoned.
*/
#include "scripted_driver.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct db_result {
  struct scripted *db;
  int64_t number, transaction;
  int serial, first, rows; /* first: the row before its first one */
  char command[16];
};

static struct scripted *scripted(const struct db *db) { return (struct scripted *)(uintptr_t)db; }

void scripted_init(struct scripted *s, struct loop *loop) {
  memset(s, 0, sizeof *s);
  s->loop = loop;
  s->batches = 3;
  s->batch_rows = 1;
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

static bool conn_mute(const struct db_conn *c) { return c->mute > loop_now(c->db->loop); }

/* When the next step would have something to say. */
static usec op_due(const struct db_conn *c) {
  usec due = c->due;
  if (conn_mute(c)) return c->mute;
  if (c->killed && c->op != OP_OPEN) return 0;
  if (c->cancelled_at && c->cancel_hits && c->cancelled_at < due) due = c->cancelled_at;
  bool last = c->left <= 1 || c->answer.kind != ANSWER_OK;
  if (c->cancelled_at && last && c->cancelled_at > due) due = c->cancelled_at; /* the end waits for the cancel's end */
  return due;
}

static usec conn_due(const struct db_conn *c) {
  if (c->dead || c->given_up || c->resting) return NEVER;
  if (c->op != OP_NONE) return op_due(c);
  if (conn_mute(c)) return c->mute;
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

void scripted_mute(struct db_conn *c, usec until) {
  c->killed = c->spread = true;
  c->mute = until;
}

struct db_conn *scripted_conn(struct scripted *s, int index) {
  LIST_EACH(node, &s->conns) {
    if (index-- == 0) return CONTAINER(node, struct db_conn, link);
  }
  return NULL;
}

bool scripted_busy(const struct db_conn *c) { return c->op == OP_STATEMENT || c->cancelled_at; }

/* ---- what statements do ---- */

enum word { WORD_OTHER, WORD_BEGIN, WORD_COMMIT, WORD_ROLLBACK, WORD_ROLLBACK_TO, WORD_SAVEPOINT, WORD_RELEASE };

static enum word word_of(const char *sql) {
  static const struct {
    const char *text;
    enum word word;
  } words[] = {{"begin", WORD_BEGIN},       {"commit", WORD_COMMIT},       {"rollback to", WORD_ROLLBACK_TO},
               {"rollback", WORD_ROLLBACK}, {"savepoint", WORD_SAVEPOINT}, {"release", WORD_RELEASE}};
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
    if (strncasecmp(sql, words[i].text, strlen(words[i].text)) == 0) return words[i].word;
  return WORD_OTHER;
}

static int64_t number_of(const struct statement *s) {
  if (word_of(s->sql) != WORD_OTHER) return 0;
  for (int i = 0; i < s->nparams; i++)
    if (s->params[i].type == PARAM_INTEGER) return s->params[i].integer;
  return strtoll(s->sql + strcspn(s->sql, "0123456789"), NULL, 10);
}

static void number_note(const struct db_conn *c, enum scripted_note note, int64_t number) {
  if (c->db->note) c->db->note(c->db->user, note, c, number);
}

static void transaction_end(struct db_conn *c, bool commit) {
  for (int i = 0; commit && i < c->pendings; i++) number_note(c, NOTE_COMMITTED, c->pending[i]);
  c->status = DB_IDLE;
  c->transaction = 0;
  c->pendings = c->savepoints = 0;
}

/* Which savepoint is meant, from 0: pool_1 is the first. */
static int savepoint_of(const struct db_conn *c) {
  const char *name = strstr(c->sql, "pool_");
  INSIST(name != NULL);
  return atoi(name + strlen("pool_")) - 1;
}

/* The statement's effect. */
static void statement_run(struct db_conn *c) {
  enum word word = word_of(c->sql);
  if (word == WORD_BEGIN && c->status == DB_IDLE) {
    c->status = DB_IN_TRANSACTION;
    c->transaction = ++c->db->transactions;
  } else if (word == WORD_COMMIT || word == WORD_ROLLBACK) {
    transaction_end(c, word == WORD_COMMIT && c->status == DB_IN_TRANSACTION);
  } else if (word == WORD_SAVEPOINT) {
    INSIST(savepoint_of(c) == c->savepoints && c->savepoints < SCRIPTED_SAVEPOINTS);
    c->marks[c->savepoints++] = c->pendings;
  } else if (word == WORD_ROLLBACK_TO || word == WORD_RELEASE) {
    c->savepoints = savepoint_of(c);
    if (word == WORD_ROLLBACK_TO) c->pendings = c->marks[c->savepoints];
    c->status = DB_IN_TRANSACTION;
  } else if (word == WORD_OTHER && c->status == DB_IDLE) {
    number_note(c, NOTE_COMMITTED, c->number);
  } else if (word == WORD_OTHER && c->number > 0) {
    INSIST(c->pendings < SCRIPTED_PENDING);
    c->pending[c->pendings++] = c->number;
  }
}

/* What the server refuses whatever the script says: its SQLSTATE, NULL when it does not. */
static const char *statement_refused(const struct db_conn *c) {
  enum word word = word_of(c->sql);
  bool undoes = word == WORD_COMMIT || word == WORD_ROLLBACK || word == WORD_ROLLBACK_TO;
  if (c->status == DB_IN_FAILED_TRANSACTION && !undoes) return "25P02";
  if (word < WORD_ROLLBACK_TO) return NULL;
  if (c->status == DB_IDLE) return "25P01";
  return word != WORD_SAVEPOINT && savepoint_of(c) >= c->savepoints ? "3B001" : NULL;
}

/* Its end is nobody's to hear. */
static void statement_unheard(struct db_conn *c) {
  if (c->op == OP_STATEMENT && c->answer.ran && !c->unsent && !statement_refused(c)) statement_run(c);
}

static void conn_undo(struct db_conn *c) {
  statement_unheard(c);
  transaction_end(c, false);
}

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
  conn_undo(c);
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
  if (c->dead || (c->killed && !c->db->deaf && !conn_mute(c))) {
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
  c->number = number_of(statement);
  c->unsent = c->killed;
  if (!c->unsent) number_note(c, NOTE_SENT, c->number);
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
  statement_unheard(c);
  c->db->resets++;
  c->cancelled_at = 0;
  c->left = 0;
  c->resting = false;
  op_begin(c, OP_RESET);
  if (c->db->reset_setting == RESET_NONE && c->status != DB_IDLE && c->answer.kind == ANSWER_OK) c->answer.kind = ANSWER_FAIL;
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
  conn_undo(c);
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
  number_note(c, NOTE_FAILED, c->number);
  if (word_of(c->sql) == WORD_COMMIT)
    transaction_end(c, false);
  else if (c->status == DB_IN_TRANSACTION)
    c->status = DB_IN_FAILED_TRANSACTION;
  return op_end(c, DB_FAILED);
}

static void result_name(struct db_result *r, const char *sql, bool failed) {
  size_t i = 0;
  for (; i < sizeof r->command - 1 && sql[i] > ' '; i++) r->command[i] = (char)(sql[i] & ~0x20);
  if (failed && word_of(sql) == WORD_COMMIT) text_copy(r->command, sizeof r->command, "ROLLBACK");
}

static enum db_want statement_batch(struct db_conn *c) {
  INSIST(!c->ready);
  struct db_result *r = c->ready = calloc(1, sizeof *c->ready);
  INSIST(r != NULL);
  int batches = c->stream ? c->db->batches : 1;
  *r = (struct db_result){.db = c->db, .number = c->number, .transaction = c->transaction, .serial = c->serial};
  r->rows = c->number > 0 ? c->db->batch_rows : 0;
  r->first = (batches - c->left) * c->db->batch_rows;
  result_name(r, c->sql, c->status == DB_IN_FAILED_TRANSACTION);
  c->db->results++;
  if (--c->left == 0) {
    number_note(c, NOTE_ANSWERED, c->number);
    statement_run(c);
    return op_end(c, DB_DONE);
  }
  op_begin(c, OP_STATEMENT);
  c->resting = true;
  return DB_DONE;
}

static enum db_want statement_end(struct db_conn *c, struct pool_error *error, usec now) {
  const char *refused = statement_refused(c);
  if (c->cancelled_at && c->cancel_hits && c->cancelled_at <= now && c->due >= c->cancelled_at)
    return statement_failed(c, error, POOL_CANCELLED, "57014");
  bool heard = c->answer.kind == ANSWER_OK || c->answer.kind == ANSWER_FAIL;
  if (refused && heard) return statement_failed(c, error, POOL_QUERY, refused);
  switch (c->answer.kind) {
    case ANSWER_OK: return statement_batch(c);
    case ANSWER_FAIL: return statement_failed(c, error, POOL_QUERY, c->answer.sqlstate ? c->answer.sqlstate : "42601");
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
    transaction_end(c, false);
    return op_end(c, DB_DONE);
  }
  if (c->answer.kind != ANSWER_FAIL) return op_died(c, error, c->answer.kind == ANSWER_DISCONNECT);
  error_set(error, POOL_QUERY, "the reset failed");
  return op_end(c, DB_FAILED);
}

/* The server hung up, before the statement came. */
static enum db_want op_killed(struct db_conn *c, struct pool_error *error) {
  bool unsent = c->op == OP_STATEMENT && c->unsent;
  enum db_want want = op_died(c, error, c->spread);
  error->retryable = unsent && c->db->candid;
  return want;
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
  if (c->killed && c->op != OP_OPEN && c->op != OP_CLOSE) return op_killed(c, error);
  switch (c->op) {
    case OP_OPEN: return open_end(c, error);
    case OP_STATEMENT: return statement_end(c, error, now);
    case OP_RESET: return reset_end(c, error);
    case OP_PING:
      if (c->answer.kind == ANSWER_OK) return op_end(c, DB_DONE);
      return c->db->lingers ? op_end(c, DB_FAILED) : op_died(c, error, true);
    case OP_CLOSE: c->dead = true; return op_end(c, c->answer.kind == ANSWER_OK ? DB_DONE : DB_FAILED);
    default: WRONG("a step of no operation");
  }
}

static enum db_want conn_idle(struct db_conn *c, struct pool_error *error) {
  INSIST(c->op == OP_NONE && !c->dead);
  c->db->idles += c->noise;
  c->noise = false;
  if (!c->killed || conn_mute(c)) return DB_READ;
  if (!c->db->lingers) return op_died(c, error, c->spread);
  error_set(error, POOL_LOST, "farewell");
  return DB_FAILED;
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

static const char *const columns[] = {"n", "conn", "tx", "row"};
enum { COLUMNS = 4 };

static int result_rows(const struct db_result *r) { return r->rows; }
static int result_columns(const struct db_result *r) { return r->number > 0 ? COLUMNS : 0; }
static const char *result_command(const struct db_result *r) { return r->command; }
static int64_t result_affected(const struct db_result *r) { return r->rows; }
static const void *result_shape(const struct db_result *r) { return r->number > 0 ? columns : NULL; }

static void result_column(const struct db_result *r, int column, struct column *out) {
  INSIST(column >= 0 && column < result_columns(r));
  *out = (struct column){columns[column], VALUE_INTEGER};
}

static void result_cell(struct db_result *r, int row, int column, struct value *out) {
  INSIST(row >= 0 && row < r->rows && column >= 0 && column < COLUMNS);
  const int64_t cells[COLUMNS] = {r->number, r->serial, r->transaction, r->first + row + 1};
  *out = (struct value){.type = VALUE_INTEGER, .integer = cells[column]};
}

static bool conn_encrypted(const struct db_conn *c) { return (void)c, false; }

static const char *db_begin(bool read_only, const char *isolation, bool deferrable, char *buffer, size_t size) {
  snprintf(buffer, size, "BEGIN%s%s%s%s", isolation ? " ISOLATION LEVEL " : "", isolation ? isolation : "", read_only ? " READ ONLY" : "",
           deferrable ? " DEFERRABLE" : "");
  return buffer;
}

const struct driver scripted_driver = {
    .name = "scripted", .begin_sql = "BEGIN", .cancel_aborts = true, .create = db_create, .configure = db_configure, .destroy = db_destroy,
    .size_limit = db_size_limit, .open = conn_open, .addresses_left = conn_addresses_left, .next_address = conn_next_address,
    .ping = conn_ping, .send = conn_send, .reset = conn_reset, .needs_reset = conn_needs_reset, .cancel = conn_cancel,
    .close = conn_close, .abandon = conn_abandon, .step = conn_step, .idle = conn_idle, .fd = conn_fd, .status = conn_status,
    .pid = conn_pid, .encrypted = conn_encrypted, .result = conn_result, .finished = conn_finished, .rows = result_rows,
    .columns = result_columns, .column = result_column, .cell = result_cell, .command = result_command,
    .affected = result_affected, .shape = result_shape, .free_result = result_free, .begin = db_begin,
};
