/*
** postgres: the driver's table, a database, and what a connection does besides statements: sitting idle, saying goodbye.
**
** A connection does one operation at a time (`op`); step() hands on to the file that carries it out:
**   OP_OPEN postgres_open.c; OP_PING, OP_QUERY postgres_query.c; OP_RESET postgres_cancel.c; OP_CLOSE here.
**
** 1. Nothing here waits: names and cancels, which block in libpq, are with worker threads.
** 2. ran_dry and no cancel: the connection is between two statements.
** 3. dead is for ever: a dead connection can only be abandoned (or closed).
** 4. Goodbye: a dup of the socket outlives PQfinish, and its end of file says that the server has let go.
*/
#include "postgres.h"
#include "url.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum { NAME_THREADS = 4, CANCEL_THREADS = 4, IDLE_ROUNDS = 64 };

/* ---- a database ---- */

static void db_destroy(struct db *db) {
  if (!db) return;
  INSIST(db->connections == 0);
  worker_destroy(db->names);
  worker_destroy(db->cancels);
  conninfo_free(&db->where);
  free(db);
}

static void db_configure(struct db *db, const struct db_settings *settings) { db->reset = settings->reset; }

static struct db *db_create(const struct db_settings *settings, db_log_fn log, void *user, struct pool_error *error) {
  struct db *db = calloc(1, sizeof *db);
  if (!db || !(db->names = worker_create(NAME_THREADS)) || !(db->cancels = worker_create(CANCEL_THREADS))) {
    error_set(error, POOL_SETTINGS, "out of memory for the database");
    db_destroy(db);
    return NULL;
  }
  /* A shape must not come twice in a process, and no variable is shared between pools: so each counts from anywhere. */
  if (getrandom(&db->serial, sizeof db->serial, GRND_NONBLOCK) != sizeof db->serial) db->serial = (uint64_t)(uintptr_t)db << 16;
  db->log = log;
  db->user = user;
  db->statement_cache = settings->statement_cache;
  db->pooler = settings->pooler;
  db_configure(db, settings);
  if (conninfo_read(&db->where, settings->database_url, error)) return db;
  db_destroy(db);
  return NULL;
}

static int db_size_limit(const struct db *db) {
  (void)db;
  return INT_MAX;
}

/* ---- goodbye ---- */

static void conn_close(struct db_conn *conn) {
  INSIST(conn->op != OP_OPEN && conn->op != OP_CLOSE);
  postgres_cancel(conn); /* a statement under way would keep the server busy; nobody waits for its end */
  conn->op = OP_CLOSE;
  query_forget(conn);
  if (!conn->pg) return;
  int fd = PQsocket(conn->pg);
  conn->farewell = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
  PQfinish(conn->pg);
  conn->pg = NULL;
  if (conn->farewell >= 0) shutdown(conn->farewell, SHUT_WR);
}

static enum db_want close_step(struct db_conn *conn) {
  char rest[4096];
  for (int i = 0; conn->farewell >= 0; i++) {
    if (i == IDLE_ROUNDS) return DB_READ; /* one who goes on talking does not hold the loop */
    ssize_t n = recv(conn->farewell, rest, sizeof rest, MSG_DONTWAIT);
    if (n > 0 || (n < 0 && errno == EINTR)) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return DB_READ;
    close(conn->farewell);
    conn->farewell = -1;
  }
  conn->dead = true;
  conn->op = OP_NONE;
  return DB_DONE;
}

static void conn_abandon(struct db_conn *conn) {
  if (!conn) return;
  open_free(conn);
  cancel_leave(conn);
  query_forget(conn);
  if (conn->pg) PQfinish(conn->pg); /* the socket is non-blocking: it says goodbye if that needs no waiting */
  if (conn->farewell >= 0) close(conn->farewell);
  cache_free(&conn->cache);
  params_free(&conn->params);
  INSIST(conn->db->connections > 0);
  conn->db->connections--;
  free(conn);
}

/* ---- stepping, idling ---- */

static enum db_want conn_go(struct db_conn *conn, struct pool_error *error) {
  switch (conn->op) {
    case OP_OPEN: return open_step(conn, error);
    case OP_PING: case OP_QUERY: return query_step(conn, error);
    case OP_RESET: return reset_step(conn, error);
    case OP_CLOSE: return close_step(conn);
    default: WRONG("a step without an operation");
  }
}

static enum db_want conn_step(struct db_conn *conn, struct pool_error *error) {
  enum db_want want = conn_go(conn, error);
  if (want == DB_FAILED) error_mask(conn, error);
  return want;
}

static bool is_readable(const PGconn *pg) {
  struct pollfd at = {.fd = PQsocket(pg), .events = POLLIN};
  return at.fd >= 0 && poll(&at, 1, 0) > 0;
}

/* The first read of a dead connection finds its last words, only the second its end: read until nothing is there. */
static enum db_want conn_idle(struct db_conn *conn, struct pool_error *error) {
  INSIST(conn->op == OP_NONE);
  for (int i = 0; i < IDLE_ROUNDS && !postgres_dead(conn); i++) {
    if (!PQconsumeInput(conn->pg)) conn->dead = true;
    for (PGnotify *note; !conn->dead && (note = PQnotifies(conn->pg));) PQfreemem(note); /* nobody listens yet */
    if (conn->dead || (!query_pending_input(conn->pg) && !is_readable(conn->pg))) break;
  }
  if (!postgres_dead(conn)) query_look_beyond(conn);
  if (!postgres_dead(conn) && !conn->fatal) return DB_READ;
  error_of_loss(conn, error);
  error_mask(conn, error);
  return DB_FAILED;
}

/* ---- queries ---- */

static int conn_fd(const struct db_conn *conn) {
  if (conn->op == OP_OPEN) return open_fd(conn);
  if (conn->op == OP_CLOSE) return conn->farewell;
  if (conn->cancel && conn->ran_dry) return conn->cancel->job.fd;
  return conn->pg ? PQsocket(conn->pg) : -1;
}

static enum db_status conn_status(const struct db_conn *conn) {
  if (conn->op == OP_OPEN || conn->op == OP_CLOSE) return DB_BUSY;
  if (postgres_dead(conn)) return DB_DEAD;
  if (conn->op != OP_NONE) return DB_BUSY;
  switch (PQtransactionStatus(conn->pg)) {
    case PQTRANS_IDLE: return DB_IDLE;
    case PQTRANS_INTRANS: return DB_IN_TRANSACTION;
    case PQTRANS_INERROR: return DB_IN_FAILED_TRANSACTION;
    case PQTRANS_ACTIVE: /* busy with nothing that we have asked for: with what made no sense to libpq */
    default: return DB_DEAD;
  }
}

static int conn_pid(const struct db_conn *conn) { return conn->pg && !postgres_dead(conn) ? PQbackendPID(conn->pg) : 0; }
static bool conn_encrypted(const struct db_conn *conn) { return conn->pg && (PQsslInUse(conn->pg) || PQgssEncInUse(conn->pg)); }

static struct db_result *conn_result(struct db_conn *conn) {
  struct db_result *result = conn->ready;
  conn->ready = NULL;
  return result;
}

static bool conn_finished(const struct db_conn *conn) { return conn->op != OP_QUERY; }

static const char *transaction_begin(bool read_only, const char *isolation, bool deferrable, char *buffer, size_t size) {
  int len = snprintf(buffer, size, "BEGIN%s%s%s%s", isolation ? " ISOLATION LEVEL " : "", isolation ? isolation : "",
                     read_only ? " READ ONLY" : "", deferrable ? " DEFERRABLE" : "");
  INSIST(len > 0 && (size_t)len < size);
  return buffer;
}

const struct driver postgres_driver = {
  .name = "postgres",
  .json_arrays = false,
  .begin_sql = "BEGIN", .cancel_aborts = true,
  .create = db_create,
  .configure = db_configure,
  .destroy = db_destroy,
  .size_limit = db_size_limit,
  .open = postgres_open,
  .addresses_left = postgres_addresses_left,
  .next_address = postgres_next_address,
  .ping = postgres_ping,
  .send = postgres_send,
  .reset = postgres_reset,
  .needs_reset = postgres_needs_reset,
  .cancel = postgres_cancel,
  .close = conn_close,
  .abandon = conn_abandon,
  .step = conn_step,
  .idle = conn_idle,
  .fd = conn_fd,
  .status = conn_status,
  .pid = conn_pid,
  .encrypted = conn_encrypted,
  .result = conn_result,
  .finished = conn_finished,
  .rows = result_rows,
  .columns = result_columns,
  .column = result_column,
  .cell = result_cell,
  .command = result_command,
  .affected = result_affected,
  .shape = result_shape,
  .free_result = result_free,
  .begin = transaction_begin,
};
