/*
** postgres_cancel: cancels, and the reset that may need one.
**
** PQcancel blocks: it opens a connection of its own, asks, and waits until the server closes it. So it runs on a worker, and an
** operation that was cancelled ends only when, besides its last result, the worker has seen that end: from then on no signal
** of this cancel can hit the next statement. (PostgreSQL sends two signals for one request, to the process and to its group, and closes
** the cancel's link after both.) A connection abandoned meanwhile leaves the job to free itself,
** or, where it has not begun yet, drops it: its statement then runs on at the server until that notices.
**
** A cancel that overtakes its statement is lost: the server ignores it while it is idle. So the worker asks again, a few times,
** later each time, until it is told to stop: the statement has ended.
**
** A reset goes through PHASE_DRAIN (what was under way comes to its end; if it does not at once, it is cancelled), PHASE_UNDO
** (ROLLBACK), PHASE_DISCARD (DISCARD ALL, with which every prepared statement goes), PHASE_DATESTYLE. Phases with nothing to do
** are passed over. Any failure fails the reset: the caller closes the connection.
*/
#include "postgres.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* ---- cancels ---- */

static void cancel_run(struct worker_job *job) {
  struct cancel_job *cancel = CONTAINER(job, struct cancel_job, job);
  static const int after_ms[] = {20, 100, 500};
  char said[256];
  cancel->failed = !PQcancel(cancel->cancel, said, sizeof said);
  for (size_t i = 0; i < sizeof after_ms / sizeof *after_ms; i++) {
    struct pollfd stop = {.fd = cancel->stop, .events = POLLIN};
    if (poll(&stop, 1, after_ms[i]) != 0) return;
    cancel->failed = !PQcancel(cancel->cancel, said, sizeof said);
  }
}

static void cancel_free(struct worker_job *job) {
  struct cancel_job *cancel = CONTAINER(job, struct cancel_job, job);
  PQfreeCancel(cancel->cancel);
  if (cancel->stop >= 0) close(cancel->stop);
  free(cancel);
}

static void cancel_stop(struct cancel_job *cancel) {
  uint64_t one = 1;
  ssize_t written = write(cancel->stop, &one, sizeof one); /* cannot fail: the counter is small */
  INSIST(written == sizeof one);
}

static bool cancel_begin(struct db_conn *conn) {
  struct cancel_job *cancel = calloc(1, sizeof *cancel);
  if (!cancel) return false;
  cancel->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  cancel->cancel = PQgetCancel(conn->pg);
  if (cancel->stop >= 0 && cancel->cancel && worker_submit(conn->db->cancels, &cancel->job, cancel_run, cancel_free)) {
    conn->cancel = cancel;
    return true;
  }
  cancel_free(&cancel->job);
  return false;
}

void cancel_leave(struct db_conn *conn) {
  if (!conn->cancel) return;
  cancel_stop(conn->cancel);
  worker_leave(&conn->cancel->job);
  conn->cancel = NULL;
}

void postgres_cancel(struct db_conn *conn) {
  bool running = conn->op == OP_QUERY || conn->op == OP_PING || conn->op == OP_RESET;
  if (!running || conn->ran_dry || conn->copy_ended || postgres_dead(conn)) return;
  if (conn->cancel && !worker_done(&conn->cancel->job)) return;
  cancel_leave(conn); /* one that ended and did not help */
  conn->cancelled = conn->asked = true;
  if (!cancel_begin(conn)) postgres_log(conn->db, "warn", "a cancel could not be sent: no thread or no memory");
}

bool cancel_over(struct db_conn *conn) {
  if (!conn->cancel) return true;
  if (!worker_done(&conn->cancel->job)) {
    cancel_stop(conn->cancel);
    return false;
  }
  if (conn->cancel->failed) postgres_log(conn->db, "debug", "a cancel did not reach the server");
  cancel_leave(conn);
  return true;
}

/* ---- reset ---- */

bool postgres_needs_reset(const struct db_conn *conn) {
  return postgres_dead(conn) || conn->op != OP_NONE || PQtransactionStatus(conn->pg) != PQTRANS_IDLE ||
         (conn->db->reset == RESET_DISCARD && !conn->pooled);
}

void postgres_reset(struct db_conn *conn) {
  INSIST(conn->op == OP_NONE || conn->op == OP_QUERY || conn->op == OP_PING || conn->op == OP_RESET);
  conn->op = OP_RESET;
  conn->phase = PHASE_DRAIN;
  conn->reset = conn->db->reset;
  conn->discarding = true;
  conn->begun = conn->cancelled = false;
  query_forget(conn);
}

static enum db_want reset_failed(struct db_conn *conn, struct pool_error *error) {
  if (postgres_dead(conn)) error_of_loss(conn, error);
  else if (conn->failed) *error = conn->error;
  else error_set(error, POOL_LOST, "the connection was lost: it takes no statement any more, and so cannot be reset");
  cancel_leave(conn); /* it may still hit: so nothing may be sent here any more but a goodbye */
  if (!conn->ran_dry) conn->dead = true;
  conn->op = OP_NONE;
  conn->discarding = false;
  return DB_FAILED;
}

static enum db_want reset_refused(struct db_conn *conn, struct pool_error *error) {
  error_set(&conn->error, POOL_QUERY, "the connection was left in a transaction, and reset = none undoes nothing");
  conn->failed = true;
  return reset_failed(conn, error);
}

static enum db_want reset_done(struct db_conn *conn) {
  conn->op = OP_NONE;
  conn->phase = PHASE_NONE;
  conn->discarding = conn->read_only = false;
  return DB_DONE;
}

static const char *reset_undo(const struct db_conn *conn) {
  return PQtransactionStatus(conn->pg) == PQTRANS_IDLE ? NULL : "ROLLBACK";
}

static const char *reset_discard(const struct db_conn *conn) {
  return conn->reset == RESET_DISCARD && !conn->pooled ? "DISCARD ALL" : NULL;
}

/* Only what DISCARD ALL took back: with `rollback` what a lease has SET stays, this too. */
static const char *reset_datestyle(const struct db_conn *conn) {
  const char *style = PQparameterStatus(conn->pg, "DateStyle");
  return !reset_discard(conn) || (style && strncmp(style, "ISO", 3) == 0) ? NULL : "SET DateStyle TO ISO";
}

/* The next phase's statement; NULL: nothing to do in it. */
static const char *reset_advance(struct db_conn *conn) {
  switch (conn->phase) {
    case PHASE_DRAIN: conn->phase = PHASE_UNDO; return reset_undo(conn);
    case PHASE_UNDO: conn->phase = PHASE_DISCARD; return reset_discard(conn);
    case PHASE_DISCARD: conn->phase = PHASE_DATESTYLE; return reset_datestyle(conn);
    case PHASE_DATESTYLE: conn->phase = PHASE_NONE; return NULL;
    default: WRONG("a reset in no phase of resetting");
  }
}

/* The phase's statement has run dry and no cancel is left: on to the next that has something to do. */
static enum db_want reset_next(struct db_conn *conn, struct pool_error *error) {
  if (conn->phase != PHASE_DRAIN && conn->failed) return reset_failed(conn, error);
  if (conn->phase == PHASE_DISCARD) cache_clear(&conn->cache);
  for (;;) {
    const char *sql = reset_advance(conn);
    if (conn->phase == PHASE_NONE) return reset_done(conn);
    if (!sql) continue;
    if (conn->phase == PHASE_UNDO && conn->reset == RESET_NONE) return reset_refused(conn, error);
    return query_begin(conn, sql) ? query_receive(conn) : reset_failed(conn, error);
  }
}

enum db_want reset_step(struct db_conn *conn, struct pool_error *error) {
  if (postgres_dead(conn)) return reset_failed(conn, error);
  if (!conn->ran_dry) {
    enum db_want want = query_receive(conn);
    if (want == DB_FAILED) return reset_failed(conn, error);
    if (want != DB_DONE) {
      if (conn->phase == PHASE_DRAIN && !conn->cancelled) postgres_cancel(conn);
      return want;
    }
  }
  if (!cancel_over(conn)) return DB_READ;
  return reset_next(conn, error);
}
