/*
** postgres_query: a statement from send to its last result.
**
** How it is sent:
**   script                simple protocol, several statements; the result is the last one's
**   a plan is prepared    one Bind and Execute: the hot path; nothing is allocated, one send, one recv
**   new to the cache      a pipeline of Prepare, Execute, Sync: one round trip (before it, in a Sync of their own, DEALLOCATEs
**                         of evicted plans, only outside a transaction, which their failure would abort)
**   no cache, a pooler, a stream not yet prepared, COPY: the unnamed statement
**
** 1. Results are taken only while PQisBusy says no, so that PQgetResult never waits.
** 2. `ran_dry` is set when the last result has been taken; the operation ends when, besides, no cancel is under way.
** 3. A plan counts as prepared from the result of its Prepare. A plan that the server no longer has, or whose result type has
**    changed, is prepared anew and the statement sent again, once, and only if the server has rolled it back whole: outside a
**    transaction.
** 4. The first error is the statement's; what comes after it is its echo.
** 5. COPY is refused: the server is told so (in) or its data thrown away and a cancel sent (out).
** 6. A statement has one end, a script one or more. No end, or one too many, and the next answer would be taken for another's: the
**    connection is given up. So it is for what the server says beyond the end (error_notice).
*/
#include "postgres.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { CLOSINGS_MOST = 4 }; /* evicted plans closed in one go */

/* OpenSSL's, if libpq came with it: bytes decrypted and not yet read. Weak, so that nothing links for its sake. */
extern int SSL_pending(const void *) __attribute__((weak));

bool query_pending_input(PGconn *pg) {
  if (!PQsslInUse(pg) || !SSL_pending) return false;
  const void *ssl = PQsslStruct(pg, "OpenSSL");
  return ssl && SSL_pending(ssl) > 0;
}

void query_forget(struct db_conn *conn) {
  PQclear(conn->last);
  conn->last = NULL;
  result_free(conn->batch);
  result_free(conn->ready);
  conn->batch = conn->ready = NULL;
}

/* ---- sending ---- */

static void query_start(struct db_conn *conn) {
  INSIST(conn->ran_dry && !conn->cancel);
  query_forget(conn);
  conn->begun = true;
  conn->ran_dry = conn->streaming = conn->preparing = conn->single = false;
  conn->resent = conn->failed = conn->stale = conn->cancelled = conn->asked = conn->copy_ended = false;
  conn->closing = 0;
  conn->between = false;
  conn->plan = NULL;
}

static void text_note(struct db_conn *conn) { conn->told = strlen(PQerrorMessage(conn->pg)); }

bool query_begin(struct db_conn *conn, const char *sql) {
  query_start(conn);
  conn->ran_dry = !PQsendQuery(conn->pg, sql);
  text_note(conn);
  return !conn->ran_dry;
}

static const char *skip_space(const char *sql) {
  while (isspace((unsigned char)*sql)) sql++;
  return sql;
}

static bool begins_with(const char *sql, const char *word) { return strncasecmp(sql, word, strlen(word)) == 0; }

/* Does it make the transaction read-only? BEGIN, START and SET are looked at; SELECT, which comes most, is out at once. */
static void transaction_note(struct db_conn *conn, const char *sql) {
  sql = skip_space(sql);
  char first = (char)(*sql | 32);
  if ((first != 'b' && first != 's') || (sql[1] && (sql[2] | 32) == 'l')) return;
  if (!begins_with(sql, "begin") && !begins_with(sql, "start") && !begins_with(sql, "set")) return;
  if (strcasestr(sql, "read only")) conn->read_only = true;
}

static bool send_unnamed(struct db_conn *conn, const char *sql) {
  const struct pg_params *p = &conn->params;
  conn->plan = NULL;
  return PQsendQueryParams(conn->pg, sql, p->count, p->oids, p->values, p->lengths, p->formats, 0);
}

static bool send_prepared(struct db_conn *conn, struct plan *plan) {
  const struct pg_params *p = &conn->params;
  conn->plan = plan;
  return PQsendQueryPrepared(conn->pg, plan->name, p->count, p->values, p->lengths, p->formats, 0);
}

static bool send_closings(struct db_conn *conn) {
  if (PQtransactionStatus(conn->pg) != PQTRANS_IDLE) return true;
  while (conn->closing < CLOSINGS_MOST) {
    struct plan *plan = cache_dropped(&conn->cache);
    if (!plan) break;
    char sql[64] = "DEALLOCATE ";
    text_copy(sql + 11, sizeof sql - 11, plan->name);
    bool sent = PQsendQueryParams(conn->pg, sql, 0, NULL, NULL, NULL, NULL, 0);
    plan_free(plan);
    if (!sent) return false;
    conn->closing++;
  }
  if (conn->closing == 0) return true;
  conn->syncs++;
  return PQpipelineSync(conn->pg);
}

static bool send_prepare(struct db_conn *conn, struct plan *plan) {
  if (!PQenterPipelineMode(conn->pg)) return false;
  conn->in_pipeline = true;
  conn->preparing = true;
  conn->syncs = 0;
  cache_name(&conn->cache, plan, ++conn->db->serial);
  return send_closings(conn) && PQsendPrepare(conn->pg, plan->name, plan->sql, plan->noids, plan->oids) && send_prepared(conn, plan) &&
         (conn->syncs++, PQpipelineSync(conn->pg));
}

static bool send_extended(struct db_conn *conn, const struct statement *s) {
  const struct pg_params *p = &conn->params;
  if (conn->cache.limit == 0 || conn->pooled) return send_unnamed(conn, s->sql);
  uint64_t hash = cache_hash(s->sql, s->len, p->oids, p->count);
  struct plan *plan = cache_find(&conn->cache, s->sql, s->len, p->oids, p->count, hash);
  if (plan && plan->prepared) return send_prepared(conn, plan);
  /* Neither single-row mode nor COPY goes together with a pipeline. */
  if (s->stream || begins_with(skip_space(s->sql), "copy")) return send_unnamed(conn, s->sql);
  bool full = cache_full(&conn->cache) && PQtransactionStatus(conn->pg) != PQTRANS_IDLE;
  if (!plan && !full) plan = cache_add(&conn->cache, s->sql, s->len, p->oids, p->count, hash);
  return plan ? send_prepare(conn, plan) : send_unnamed(conn, s->sql);
}

static bool send_failed(struct db_conn *conn, struct pool_error *error) {
  /* half a pipeline is in libpq's buffer, and cannot be taken back; or libpq is busy with what nobody has asked for */
  if (conn->in_pipeline || PQtransactionStatus(conn->pg) == PQTRANS_ACTIVE) conn->dead = true;
  conn->ran_dry = true;
  conn->begun = false;
  if (postgres_dead(conn)) {
    error_of_loss(conn, error);
    error_mask(conn, error);
    error->retryable = !conn->in_pipeline;
    return false;
  }
  error_set(error, POOL_QUERY, "libpq could not send the statement (out of memory?)");
  error->retryable = true;
  return false;
}

bool postgres_send(struct db_conn *conn, const struct statement *s, struct pool_error *error) {
  INSIST(conn->op == OP_NONE && s->sql && s->nparams >= 0);
  if (postgres_dead(conn)) {
    error_of_loss(conn, error);
    error_mask(conn, error);
    error->retryable = true;
    return false;
  }
  if (!params_set(&conn->params, s, error)) return false;
  transaction_note(conn, s->sql);
  query_start(conn);
  conn->single = !s->script;
  conn->streaming = s->stream && !s->script;
  if (!(s->script ? PQsendQuery(conn->pg, s->sql) : send_extended(conn, s))) return send_failed(conn, error);
  if (conn->streaming) PQsetSingleRowMode(conn->pg);
  text_note(conn);
  conn->op = OP_QUERY;
  return true;
}

void postgres_ping(struct db_conn *conn) {
  INSIST(conn->op == OP_NONE);
  conn->op = OP_PING;
  if (!postgres_dead(conn) && !query_begin(conn, "")) conn->dead = true; /* step says so */
}

/* Has libpq look at what has come beyond the end of what was asked. What is out of turn is a warning, and error_notice hears of it; what
   makes no sense libpq keeps as a result, and is busy with it as with a statement. */
void query_look_beyond(struct db_conn *conn) {
  PQisBusy(conn->pg);
  PGTransactionStatusType status = PQtransactionStatus(conn->pg);
  if (status == PQTRANS_ACTIVE || status == PQTRANS_UNKNOWN) conn->dead = true;
}

/* ---- taking results ---- */

enum taken { TAKEN_MORE, TAKEN_NOTHING /* more must be read first */, TAKEN_BATCH, TAKEN_ALL };

static void note_failure(struct db_conn *conn, const struct pool_error *error) {
  if (conn->failed) return;
  conn->failed = true;
  conn->error = *error;
}

/* What comes next may be anybody's answer. */
static void note_violation(struct db_conn *conn, const char *what) {
  struct pool_error error;
  error_set(&error, POOL_LOST, "the server broke the protocol: %s", what);
  error.disconnect = true;
  note_failure(conn, &error);
  conn->dead = true;
}

static void take_error(struct db_conn *conn, PGresult *result) {
  struct pool_error error;
  const char *source = PQresultErrorField(result, PG_DIAG_SOURCE_FUNCTION); /* the message may be in any language */
  error_of_result(conn, result, &error);
  if (!conn->failed) conn->stale = source && strcmp(source, "RevalidateCachedQuery") == 0;
  PQclear(result);
  if (conn->closing > 0) { /* a DEALLOCATE's: it was gone already */
    conn->closing--;
    if (error.kind != POOL_LOST) return;
  } else if (conn->preparing) {
    conn->preparing = false;
    cache_forget(&conn->cache, conn->plan);
    conn->plan = NULL;
  }
  note_failure(conn, &error);
}

static void take_single(struct db_conn *conn, PGresult *result) {
  struct pool_error memory;
  if (!conn->batch) conn->batch = result_batch(conn->plan ? conn->plan->serial : 0);
  if (conn->batch && result_add(conn->batch, result) >= 0) return;
  if (!conn->batch) PQclear(result);
  error_set(&memory, POOL_QUERY, "out of memory for the rows");
  note_failure(conn, &memory);
}

/* Did the session throw away every plan, the cache's among them? By the next use it may be in a transaction, where (3) cannot help. What a
   function or a DO block throws away nothing tells. */
static bool plans_thrown_away(PGresult *result) {
  const char *tag = PQcmdStatus(result);
  return strcmp(tag, "DEALLOCATE ALL") == 0 || strcmp(tag, "DISCARD ALL") == 0;
}

/* The end of one command. */
static void take_end(struct db_conn *conn, PGresult *result) {
  if (plans_thrown_away(result)) cache_lost(&conn->cache);
  if (conn->closing > 0 || conn->preparing || conn->discarding) {
    if (conn->closing > 0) {
      conn->closing--;
    } else if (conn->preparing) {
      conn->preparing = false;
      conn->plan->prepared = true;
    }
    PQclear(result);
    return;
  }
  if (conn->last && conn->single) note_violation(conn, "a statement ended twice");
  PQclear(conn->last);
  conn->last = result;
}

static enum taken take_sync(struct db_conn *conn, PGresult *result) {
  PQclear(result);
  INSIST(conn->syncs > 0);
  if (--conn->syncs > 0) return TAKEN_MORE;
  conn->in_pipeline = false;
  if (!PQexitPipelineMode(conn->pg)) conn->dead = true;
  return TAKEN_ALL;
}

static void refuse_copy(struct db_conn *conn) {
  struct pool_error error;
  error_set(&error, POOL_QUERY, "COPY to or from the client is not possible in a query; use INSERT, or psql's \\copy");
  memcpy(error.sqlstate, "0A000", 6);
  note_failure(conn, &error);
}

static enum taken take_copy_out(struct db_conn *conn, PGresult *result) {
  char *row;
  int len;
  PQclear(result);
  if (!conn->failed && !conn->discarding) postgres_cancel(conn); /* there may be gigabytes of it */
  refuse_copy(conn);
  while ((len = PQgetCopyData(conn->pg, &row, 1)) > 0) PQfreemem(row);
  return len == 0 ? TAKEN_NOTHING : TAKEN_MORE;
}

/* A cancel that ends the COPY before the server has read the statement's own Sync leaves two of them, CopyFail's Sync being the second,
   and so two ReadyForQuery: every later answer would come one statement late. Where one may be under way the connection is
   given up, and where none is, none is sent any more. */
static enum taken take_copy_in(struct db_conn *conn, PGresult *result) {
  PQclear(result);
  refuse_copy(conn);
  if (conn->asked) {
    conn->dead = true;
    return TAKEN_ALL;
  }
  conn->copy_ended = true;
  if (PQputCopyEnd(conn->pg, "COPY from the client is not possible here") == 1) return TAKEN_MORE;
  conn->dead = true;
  return TAKEN_ALL;
}

/* No result: the end of one of a pipeline's commands, or of all. Two in a row: libpq had no memory for the next result, and would not get
   past that. */
static enum taken take_nothing(struct db_conn *conn) {
  if (conn->in_pipeline && conn->between) conn->dead = true;
  conn->between = true;
  return conn->syncs > 0 && !postgres_dead(conn) ? TAKEN_MORE : TAKEN_ALL;
}

static enum taken query_take(struct db_conn *conn, PGresult *result) {
  text_note(conn);
  if (!result) return take_nothing(conn);
  conn->between = false;
  switch (PQresultStatus(result)) {
    case PGRES_SINGLE_TUPLE:
      if (conn->discarding || conn->failed) PQclear(result);
      else take_single(conn, result);
      return conn->batch && result_rows(conn->batch) >= BATCH_ROWS ? TAKEN_BATCH : TAKEN_MORE;
    case PGRES_TUPLES_OK: case PGRES_COMMAND_OK: case PGRES_EMPTY_QUERY: take_end(conn, result); return TAKEN_MORE;
    case PGRES_PIPELINE_SYNC: return take_sync(conn, result);
    case PGRES_PIPELINE_ABORTED:
      if (conn->closing > 0) conn->closing--;
      PQclear(result);
      return TAKEN_MORE;
    case PGRES_COPY_OUT: return take_copy_out(conn, result);
    case PGRES_COPY_IN: return take_copy_in(conn, result);
    case PGRES_FATAL_ERROR: case PGRES_BAD_RESPONSE: case PGRES_NONFATAL_ERROR: take_error(conn, result); return TAKEN_MORE;
    default: /* COPY BOTH: a replication connection */
      PQclear(result);
      conn->dead = true;
      return TAKEN_ALL;
  }
}

/* ---- stepping ---- */

static enum db_want want_now(const struct db_conn *conn) { return PQflush(conn->pg) > 0 ? DB_READ_WRITE : DB_READ; }

static enum db_want receive_end(struct db_conn *conn) {
  conn->ran_dry = true;
  if (!postgres_dead(conn)) return DB_DONE;
  conn->dead = true;
  return DB_FAILED;
}

/* Have all results of the pipeline come, up to its next Sync? */
static bool query_awaits_sync(const struct db_conn *conn) {
  if (!conn->in_pipeline || !conn->between) return false;
  return conn->preparing ? conn->closing == 0 && conn->syncs == 2 : conn->last || conn->failed || conn->discarding;
}

/* PQisBusy. Where libpq has no memory for a message it may wait for ever for what has come already (an error, a COPY's beginning), and the
   answer to a Sync it just swallows: then the connection is given up. Only malloc itself tells, by errno. Anything else that there is no
   memory for, rows above all, becomes an error of its own: libpq's text grows before that result is there. */
static bool query_is_busy(struct db_conn *conn) {
  errno = 0;
  bool busy = PQisBusy(conn->pg), short_of_memory = errno == ENOMEM;
  if (short_of_memory && query_awaits_sync(conn)) conn->dead = true;
  if (short_of_memory && busy && strlen(PQerrorMessage(conn->pg)) <= conn->told) conn->dead = true;
  return busy && !conn->dead;
}

enum db_want query_receive(struct db_conn *conn) {
  PGconn *pg = conn->pg;
  if (conn->begun) { /* just sent: there can be no answer yet, so spare the system call */
    conn->begun = false;
    return want_now(conn);
  }
  for (bool fed = false, starved = false;;) {
    while (!postgres_dead(conn) && (starved || query_is_busy(conn))) {
      if (fed && !query_pending_input(pg)) return want_now(conn);
      if (!PQconsumeInput(pg) && PQstatus(pg) != CONNECTION_BAD) conn->dead = true; /* memory: nothing sane can follow */
      fed = true;
      starved = false;
    }
    if (conn->dead) return receive_end(conn);
    switch (query_take(conn, PQgetResult(pg))) {
      case TAKEN_MORE: break;
      case TAKEN_NOTHING: starved = true; break;
      case TAKEN_BATCH: return DB_DONE;
      case TAKEN_ALL: return receive_end(conn);
      default: WRONG("an unknown outcome of taking a result");
    }
  }
}

/* Sends it again if a stale plan was all that was wrong (3). */
static bool query_recover(struct db_conn *conn) {
  struct plan *plan = conn->plan;
  if (!conn->failed || !plan || !plan->prepared) return false;
  bool lost = strcmp(conn->error.sqlstate, "26000") == 0 && strstr(conn->error.message, plan->name);
  bool changed = conn->stale && strcmp(conn->error.sqlstate, "0A000") == 0;
  if (!lost && !changed) return false;
  bool again = !conn->resent && !conn->cancelled && !conn->streaming && PQtransactionStatus(conn->pg) == PQTRANS_IDLE;
  if (lost) cache_lost(&conn->cache);
  else conn->plan = cache_replace(&conn->cache, plan);
  if (!again || !conn->plan) return false;
  query_forget(conn);
  conn->failed = conn->stale = conn->ran_dry = false;
  conn->begun = conn->resent = true;
  if (send_prepare(conn, conn->plan)) return true;
  conn->dead = true;
  return false;
}

static enum db_want query_died(struct db_conn *conn, struct pool_error *error) {
  conn->op = OP_NONE;
  cancel_leave(conn);
  if (conn->failed && conn->error.kind == POOL_LOST) *error = conn->error;
  else error_of_loss(conn, error);
  conn->dead = true;
  query_forget(conn);
  return DB_FAILED;
}

static enum db_want query_end(struct db_conn *conn, struct pool_error *error) {
  bool ping = conn->op == OP_PING;
  if (!ping && !conn->failed && !conn->last) {
    note_violation(conn, "a statement ended without an answer");
    return query_died(conn, error);
  }
  conn->op = OP_NONE;
  query_look_beyond(conn);
  if (PQtransactionStatus(conn->pg) == PQTRANS_IDLE) conn->read_only = false;
  if (conn->failed) {
    *error = conn->error;
    query_forget(conn);
    return DB_FAILED;
  }
  PGresult *last = conn->last;
  conn->last = NULL;
  uint64_t shape = conn->plan ? conn->plan->serial : 0;
  if (ping) {
    PQclear(last);
    return DB_DONE;
  }
  if (conn->batch) {
    conn->ready = result_finish(conn->batch, last) ? conn->batch : (result_free(conn->batch), NULL);
    conn->batch = NULL;
  } else {
    conn->ready = result_of(last, shape);
  }
  if (conn->ready) return DB_DONE;
  error_set(error, POOL_QUERY, "out of memory for the result");
  return DB_FAILED;
}

enum db_want query_step(struct db_conn *conn, struct pool_error *error) {
  if (postgres_dead(conn)) return query_died(conn, error);
  if (!conn->ran_dry) {
    enum db_want want = query_receive(conn);
    if (want == DB_FAILED) return query_died(conn, error);
    if (want != DB_DONE) return want;
    if (!conn->ran_dry) { /* a full batch */
      conn->ready = conn->batch;
      conn->batch = NULL;
      return DB_DONE;
    }
    if (query_recover(conn)) return query_receive(conn);
    if (postgres_dead(conn)) return query_died(conn, error);
  }
  if (!cancel_over(conn)) return DB_READ; /* fd() is the cancel's now */
  return query_end(conn, error);
}
