/*
** sqlite_worker: the thread of a connection. It waits for a job, does it, reports, until it has nothing open any more.
**
** A connection belongs to two, the caller and this thread; whoever lets go last frees it. An abandoned one is closed here,
** however long that takes, while nobody waits.
**
** A statement that was under way at a reset is stopped, whatever the setting. `rollback` rolls back, and leaves what else a lease
** did to the connection: temporary tables, attached databases, pragmas. `discard` opens the file anew: SQLite has no other way back
** from all that can be set. A database in memory would be lost with its connection: there what is temporary is dropped, what is
** attached detached, and the two pragmas that would stand in the way of the next lease are as they were; others stay. `none` refuses
** to undo a transaction, so that the connection is closed, but not where that would lose the database.
*/
#include "mask.h"
#include "sqlite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void place_leave(struct sqlite_place *p) {
  if (atomic_fetch_sub(&p->owners, 1) != 1) return;
  INSIST(!p->writing && list_empty(&p->line));
  pthread_mutex_destroy(&p->turns);
  free(p);
}

void sqlite_conn_leave(struct db_conn *c) {
  if (atomic_fetch_sub(&c->owners, 1) != 1) return;
  INSIST(c->event < 0 && c->handle == NULL && !c->turn);
  if (c->turn_event >= 0) close(c->turn_event);
  pthread_mutex_destroy(&c->lock);
  pthread_cond_destroy(&c->posted);
  sqlite_result_free(c->report.result);
  free(c->request.memory);
  place_leave(c->place);
  free(c);
}

/* ---- the jobs ---- */

/* The caller can interrupt no longer once the handle is out of its sight. */
static sqlite3 *worker_take_handle(struct db_conn *c) {
  pthread_mutex_lock(&c->lock);
  sqlite3 *handle = c->handle;
  c->handle = NULL;
  pthread_mutex_unlock(&c->lock);
  return handle;
}

/* SQLite frees what is left. */
static void worker_close(struct db_conn *c) {
  sqlite_statement_end(c);
  cache_destroy(&c->cache);
  sqlite3 *handle = worker_take_handle(c);
  if (handle) {
    sqlite3_exec(handle, "select 1", NULL, NULL, NULL); /* ends an interrupt, which would keep close from emptying the -wal */
    sqlite3_close_v2(handle);
  }
  if (c->turn) turn_give(c);
}

/* A failure of the driver's own SQL, into the report. */
static bool worker_run(struct db_conn *c, const char *sql) {
  int code = sqlite_run(c, sql);
  if (code == SQLITE_OK) return true;
  sqlite_error_fill(&c->report.error, c->handle, code, atomic_load(&c->cancelled), NULL);
  return false;
}

/* Runs what `list` gives as statements, one at a time: each may change what the list says next. */
static bool worker_run_list(struct db_conn *c, const char *list) {
  for (;;) {
    sqlite3_stmt *stmt = NULL;
    char *sql = NULL;
    int code = sqlite3_prepare_v2(c->handle, list, -1, &stmt, NULL);
    bool some = code == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW;
    const unsigned char *text = some ? sqlite3_column_text(stmt, 0) : NULL;
    if (text) sql = sqlite3_mprintf("%s", text);
    if (code == SQLITE_OK) code = sqlite3_finalize(stmt);
    if (code != SQLITE_OK) return sqlite_error_fill(&c->report.error, c->handle, code, false, NULL), false;
    if (!some) return true;
    if (!sql) return sqlite_error_memory(&c->report.error); /* and not: there is nothing left to undo */
    bool ok = worker_run(c, sql);
    sqlite3_free(sql);
    if (!ok) return false;
  }
}

/* In memory. Foreign keys are off meanwhile: with them a table that another refers to could not be dropped first. */
static bool worker_discard(struct db_conn *c) {
  statements_clear(&c->cache);
  return worker_run(c, "pragma query_only = off") && worker_run(c, "pragma foreign_keys = off") &&
         worker_run_list(c, "select 'drop ' || type || ' temp.\"' || replace(name, '\"', '\"\"') || '\"' from sqlite_temp_master"
                            " where type in ('table', 'view', 'trigger') and name not like 'sqlite\\_%' escape '\\' limit 1") &&
         worker_run_list(c, "select 'detach \"' || replace(name, '\"', '\"\"') || '\"' from pragma_database_list"
                            " where name not in ('main', 'temp') limit 1") &&
         worker_run(c, "pragma foreign_keys = on");
}

/* The old handle is the last to close, or its close would bring the -wal home and wait for the disk; it lets go of a lock it was told
   to keep. */
static bool worker_reopen(struct db_conn *c) {
  cache_destroy(&c->cache);
  sqlite_run(c, "pragma locking_mode = normal; pragma schema_version");
  sqlite3 *old = worker_take_handle(c);
  bool opened = sqlite_open(c);
  c->report.notice[0] = '\0'; /* was said when the connection was first opened */
  sqlite3_close_v2(old);
  return opened;
}

static bool worker_reset(struct db_conn *c) {
  sqlite_statement_end(c);
  bool open = !sqlite3_get_autocommit(c->handle);
  if (open && c->request.reset == RESET_NONE && !c->place->memory) {
    sqlite_error_query(&c->report.error, "25001", "the connection came back in a transaction, and reset is none");
    return false;
  }
  if (open && !worker_run(c, "rollback")) return false;
  if (c->request.reset != RESET_DISCARD) return true;
  return c->place->memory ? worker_discard(c) : worker_reopen(c);
}

/* Was the file taken away under its connections, or another put in its place? They would go on, and commit, where nobody finds it. */
static bool worker_moved(struct db_conn *c) {
  int moved = 0, on = 1;
  if (c->place->memory || sqlite3_file_control(c->handle, "main", SQLITE_FCNTL_HAS_MOVED, &moved) != SQLITE_OK || !moved) return false;
  sqlite3_file_control(c->handle, "main", SQLITE_FCNTL_PERSIST_WAL, &on); /* the -wal of that name may be another's by now */
  error_set(&c->report.error, POOL_LOST, "the database file was removed or replaced");
  c->report.error.disconnect = true;
  c->report.error.retryable = sqlite3_get_autocommit(c->handle);
  return true;
}

/* Before what would go on in the file, or make another in its place. */
static bool worker_looks(const struct db_conn *c, enum sqlite_job job) {
  return job == JOB_STATEMENT || job == JOB_PING || (job == JOB_RESET && c->request.reset == RESET_DISCARD);
}

static bool worker_do(struct db_conn *c, enum sqlite_job job) {
  c->report.gone = job == JOB_CLOSE || (worker_looks(c, job) && worker_moved(c));
  if (c->report.gone) return job == JOB_CLOSE;
  switch (job) {
  case JOB_OPEN: return sqlite_open(c);
  case JOB_STATEMENT: return sqlite_statement_begin(c);
  case JOB_MORE: return sqlite_statement_more(c);
  case JOB_PING: return worker_run(c, "select 1");
  case JOB_RESET: return worker_reset(c);
  default: WRONG("not a job");
  }
}

/* ---- the thread ---- */

static enum sqlite_job worker_wait(struct db_conn *c) {
  pthread_mutex_lock(&c->lock);
  while (!c->leaving && (c->job == JOB_NONE || c->done)) pthread_cond_wait(&c->posted, &c->lock);
  enum sqlite_job job = c->leaving ? JOB_NONE : c->job;
  pthread_mutex_unlock(&c->lock);
  return job;
}

static void worker_report(struct db_conn *c) {
  uint64_t one = 1;
  pthread_mutex_lock(&c->lock);
  c->done = true;
  if (c->event >= 0) INSIST(write(c->event, &one, sizeof one) == sizeof one);
  pthread_mutex_unlock(&c->lock);
}

static void worker_job(struct db_conn *c, enum sqlite_job job) {
  struct sqlite_report *r = &c->report;
  INSIST(r->result == NULL);
  r->finished = true;
  r->notice[0] = '\0';
  r->failed = !worker_do(c, job);
  if (r->failed && job == JOB_MORE) { /* whose statement only the worker still knows */
    const struct sqlite_request *q = &c->request;
    mask_error(&r->error, &(struct statement){.sql = q->sql, .len = q->len, .params = q->params, .nparams = q->nparams});
  }
  if (r->failed) {
    sqlite_result_free(r->result);
    r->result = NULL;
    if (c->handle && strcmp(r->error.sqlstate, "XX001") == 0) sqlite3_db_release_memory(c->handle); /* not to read damage from the cache */
  }
  r->gone = r->gone || (job == JOB_OPEN && r->failed);
  if (r->gone) worker_close(c);
  r->in_transaction = c->handle && !sqlite3_get_autocommit(c->handle);
  c->read_only = c->read_only && r->in_transaction;
  if (c->turn && !r->in_transaction && !c->running) turn_give(c); /* an open stream may write on */
}

void *sqlite_worker_main(void *conn) {
  struct db_conn *c = conn;
  bool gone = false;
  while (!gone) {
    enum sqlite_job job = worker_wait(c);
    if (job == JOB_NONE) break;
    worker_job(c, job);
    gone = c->report.gone; /* before the report: afterwards it is the caller's */
    worker_report(c);
  }
  if (!gone) worker_close(c);
  sqlite_conn_leave(c);
  return NULL;
}
