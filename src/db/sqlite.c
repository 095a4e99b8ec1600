/*
** sqlite: the SQLite driver, the caller's half. Calls of sqlite3 may block, so each connection has a thread that makes them
** (sqlite_worker.c); here jobs are posted to it and its reports collected. fd() is an eventfd, readable while a report waits.
**
** 1. One job at a time: posted under the lock, collected under the lock; in between the request and the report are the
**    worker's. The event is readable exactly while `done` is set.
** 2. cancel() sets a flag, which the worker looks at before a statement starts, every SQLITE_TICK instructions and while it
**    waits for a lock, and interrupts what runs; SQLite rolls back what an interrupted statement did. Only while a job is
**    under way or a stream is open. The flag is cleared before the next operation is posted, and SQLite forgets an interrupt
**    when the next statement starts: a cancel cannot hit what comes after.
** 3. reset() and close() while something is under way cancel it and follow it (`next`).
** 4. A connection that was closed, or never opened, has a thread with nothing left to do: abandon() joins it. Any other is
**    detached and cleans up by itself; destroy() waits for those, within bounds.
** 5. begin: IMMEDIATE, so that a writer never has to give up half-way because another wrote meanwhile; read-only ones are
**    deferred, and kept from writing by the worker. Any isolation is accepted: SQLite's transactions are serializable.
** 6. status() is what the worker saw when it last reported: SQLite itself rolls back on some errors (full disk, interrupted
**    write), and then says so here.
*/
#include "sqlite.h"
#include "url.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define DESTROY_PATIENCE 1 /* seconds */

enum { REQUEST_KEPT = 1 << 20 };  /* a larger request's memory is given back with the next small one */
enum { WORKER_STACK = 8 << 20 };  /* address space only: a LIKE pattern of SQLite's greatest length recurses through megabytes */

struct db {
  struct sqlite_place *place; /* shared */
  db_log_fn log;
  void *user;
  int reset;
  int connections;
};

/* ---- the database ---- */

/* Relative paths are the working directory's of now, not of each open. */
static bool place_path(struct sqlite_place *p, const char *url, struct pool_error *error) {
  char path[SETTING_TEXT_MAX], directory[4096];
  if (!url_sqlite_path(url, path, sizeof path, &p->read_only, error)) return false;
  p->memory = strcmp(path, ":memory:") == 0;
  if (p->memory || path[0] == '/') {
    text_copy(p->path, sizeof p->path, path);
    return true;
  }
  if (!getcwd(directory, sizeof directory)) {
    error_set(error, POOL_SETTINGS, "database_url: a relative path, and no working directory: %s", strerror(errno));
    return false;
  }
  snprintf(p->path, sizeof p->path, "%s/%s", directory, path);
  return true;
}

static struct db *sqlite_create(const struct db_settings *settings, db_log_fn log, void *user, struct pool_error *error) {
  if (!sqlite3_threadsafe()) return error_set(error, POOL_SETTINGS, "this SQLite library was built without threads"), NULL;
  struct db *db = calloc(1, sizeof *db);
  struct sqlite_place *place = calloc(1, sizeof *place);
  if (!db || !place) {
    error_set(error, POOL_SETTINGS, "out of memory");
  } else if (place_path(place, settings->database_url, error)) {
    atomic_init(&place->owners, 1);
    atomic_init(&place->shapes, 0);
    pthread_mutex_init(&place->turns, NULL);
    list_init(&place->line);
    place->statement_cache = settings->statement_cache;
    *db = (struct db){.place = place, .log = log, .user = user, .reset = settings->reset};
    return db;
  }
  free(place);
  free(db);
  return NULL;
}

static void sqlite_configure(struct db *db, const struct db_settings *settings) { db->reset = settings->reset; }

/* Threads that were abandoned a moment ago are given the time to close their handles: a process that ends at once would leave its last
   writes in the -wal beside the database. One that is stuck keeps nobody for longer than DESTROY_PATIENCE. */
static void destroy_wait(const struct sqlite_place *place) {
  const struct timespec nap = {.tv_nsec = 200 * 1000};
  for (int naps = 0; naps < DESTROY_PATIENCE * 5000 && atomic_load(&place->owners) > 1; naps++) nanosleep(&nap, NULL);
}

static void sqlite_destroy(struct db *db) {
  if (!db) return;
  INSIST(db->connections == 0);
  destroy_wait(db->place);
  place_leave(db->place);
  free(db);
}

static int sqlite_size_limit(const struct db *db) { return db->place->memory ? 1 : INT_MAX; }

/* What is in memory is its connection's, and gone with it: there is one, and nothing but its user's word ends it. */
static void sqlite_fit(const struct db *db, struct settings *s) {
  if (!db->place->memory) return;
  s->size = 1;
  s->max_overflow = 0;
  s->recycle = s->shrink_after = 0;
  if (s->min_idle > 1) s->min_idle = 1;
}

/* ---- jobs ---- */

static void conn_post(struct db_conn *c, enum sqlite_job job) {
  INSIST(c->job == JOB_NONE && c->status != DB_DEAD);
  if (job != JOB_MORE) atomic_store(&c->cancelled, false);
  if (job == JOB_RESET) c->request.reset = c->db->reset;
  c->status = DB_BUSY;
  pthread_mutex_lock(&c->lock);
  c->job = job;
  c->done = false;
  pthread_mutex_unlock(&c->lock);
  pthread_cond_signal(&c->posted); /* after the unlock: the thread would wake only to wait for it */
}

/* Takes the report over; false while there is none. The job it was for is in *job. */
static bool conn_collect(struct db_conn *c, enum sqlite_job *job) {
  uint64_t count;
  pthread_mutex_lock(&c->lock);
  bool done = c->done;
  if (done) {
    INSIST(read(c->event, &count, sizeof count) == sizeof count);
    *job = c->job;
    c->job = JOB_NONE;
    c->done = false;
  }
  pthread_mutex_unlock(&c->lock);
  return done;
}

static void conn_cancel(struct db_conn *c) {
  pthread_mutex_lock(&c->lock);
  atomic_store(&c->cancelled, true);
  if (c->handle) sqlite3_interrupt(c->handle);
  pthread_mutex_unlock(&c->lock);
}

/* `job` now, or once what is under way has been stopped. */
static void conn_follow(struct db_conn *c, enum sqlite_job job) {
  if (c->job == JOB_NONE) {
    sqlite_result_free(c->report.result); /* a batch nobody took */
    c->report.result = NULL;
    conn_post(c, job);
    return;
  }
  c->next = job;
  conn_cancel(c);
}

/* ---- opening and ending ---- */

static bool conn_start(struct db_conn *c) {
  sigset_t all, before;
  pthread_attr_t attr;
  if (pthread_attr_init(&attr) != 0) return false;
  pthread_attr_setstacksize(&attr, WORKER_STACK);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the host's threads' business */
  int failed = pthread_create(&c->thread, &attr, sqlite_worker_main, c);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attr);
  return failed == 0;
}

static struct db_conn *sqlite_conn_open(struct db *db, struct pool_error *error) {
  struct db_conn *c = calloc(1, sizeof *c);
  if (!c) return error_set(error, POOL_CONNECT, "out of memory"), NULL;
  c->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (c->event < 0) {
    error_set(error, POOL_CONNECT, "no descriptor for a SQLite connection: %s", strerror(errno));
    free(c);
    return NULL;
  }
  atomic_init(&c->owners, 2);
  pthread_mutex_init(&c->lock, NULL);
  pthread_cond_init(&c->posted, NULL);
  list_init(&c->in_line);
  c->turn_event = -1;
  c->db = db;
  c->place = db->place;
  atomic_fetch_add(&db->place->owners, 1);
  db->connections++;
  conn_post(c, JOB_OPEN);
  if (conn_start(c)) return c;
  error_set(error, POOL_CONNECT, "no thread for a SQLite connection");
  db->connections--;
  close(c->event);
  c->event = -1;
  atomic_store(&c->owners, 1);
  sqlite_conn_leave(c);
  return NULL;
}

static void sqlite_conn_abandon(struct db_conn *c) {
  bool gone = c->status == DB_DEAD;
  INSIST(c->db->connections > 0);
  c->db->connections--;
  pthread_mutex_lock(&c->lock);
  c->leaving = true;
  atomic_store(&c->cancelled, true);
  if (c->handle) sqlite3_interrupt(c->handle);
  close(c->event);
  c->event = -1;
  pthread_mutex_unlock(&c->lock);
  pthread_cond_signal(&c->posted);
  if (gone) pthread_join(c->thread, NULL); /* it is past its last job: this waits for its return at most */
  else pthread_detach(c->thread);
  sqlite_conn_leave(c);
}

/* ---- operations ---- */

static void sqlite_ping(struct db_conn *c) { conn_post(c, JOB_PING); }

static bool param_is_text(const struct param *p) {
  return p->type == PARAM_TEXT || p->type == PARAM_JSON || p->type == PARAM_ARRAY;
}

static size_t param_bytes(const struct param *p) { return param_is_text(p) || p->type == PARAM_BYTES ? p->len : 0; }

static bool request_room(struct sqlite_request *q, size_t want) {
  bool shrink = q->capacity > REQUEST_KEPT && want <= REQUEST_KEPT;
  if (want <= q->capacity && !shrink) return true;
  size_t capacity = want < 4096 ? 4096 : want;
  void *memory = malloc(capacity);
  if (!memory) return false;
  free(q->memory);
  q->memory = memory;
  q->capacity = capacity;
  return true;
}

/* Copies the statement into one piece of memory: parameters, the text, then what the parameters point at. */
static bool request_copy(struct sqlite_request *q, const struct statement *s) {
  size_t params = (size_t)s->nparams * sizeof *s->params, want = params + s->len + 1;
  for (int i = 0; i < s->nparams; i++) want += param_bytes(&s->params[i]);
  if (!request_room(q, want)) return false;
  char *at = (char *)q->memory + params;
  q->params = q->memory;
  if (params) memcpy(q->params, s->params, params);
  q->sql = memcpy(at, s->sql, s->len);
  at[s->len] = '\0';
  at += s->len + 1;
  for (int i = 0; i < s->nparams; i++) {
    size_t len = param_bytes(&s->params[i]);
    if (len) memcpy(at, s->params[i].text, len);
    q->params[i].text = at;
    at += len;
  }
  q->len = s->len;
  q->nparams = s->nparams;
  q->script = s->script;
  q->stream = s->stream;
  return true;
}

static bool sqlite_send(struct db_conn *c, const struct statement *s, struct pool_error *error) {
  INSIST(c->job == JOB_NONE && !c->streaming && c->report.result == NULL);
  INSIST(!s->script || s->nparams == 0);
  if (c->status == DB_DEAD) return error_set(error, POOL_LOST, "the SQLite connection is closed"), false;
  for (int i = 0; i < s->nparams; i++) {
    const struct param *p = &s->params[i];
    if (!param_is_text(p) || p->len == 0 || !memchr(p->text, '\0', p->len)) continue;
    sqlite_error_query(error, "22021", "parameter $%d holds a NUL, which text cannot; bytes can", i + 1);
    return false;
  }
  if (!request_copy(&c->request, s)) return sqlite_error_memory(error);
  conn_post(c, JOB_STATEMENT);
  return true;
}

static void sqlite_reset(struct db_conn *c) { conn_follow(c, JOB_RESET); }

static bool sqlite_needs_reset(const struct db_conn *c) { return c->status != DB_IDLE || c->db->reset == RESET_DISCARD; }

static void sqlite_cancel(struct db_conn *c) {
  if (c->job != JOB_NONE || c->streaming) conn_cancel(c);
}

static void sqlite_conn_close(struct db_conn *c) {
  if (c->status != DB_DEAD) conn_follow(c, JOB_CLOSE);
}

static enum db_status conn_status(const struct db_conn *c) {
  if (c->report.gone) return DB_DEAD;
  if (c->streaming) return DB_BUSY;
  return c->report.in_transaction ? DB_IN_TRANSACTION : DB_IDLE;
}

/* A report has come that nobody waits for: something follows. */
static enum db_want conn_next(struct db_conn *c) {
  enum sqlite_job next = c->next;
  c->next = JOB_NONE;
  sqlite_result_free(c->report.result);
  c->report.result = NULL;
  if (c->status != DB_DEAD) {
    conn_post(c, next);
    return DB_READ;
  }
  return DB_DONE; /* the open that was under way has failed: there is nothing to close */
}

static enum db_want sqlite_step(struct db_conn *c, struct pool_error *error) {
  enum sqlite_job job;
  if (c->status == DB_DEAD) return DB_DONE; /* closed before it was ever open */
  if (c->job == JOB_NONE) {
    INSIST(c->streaming && c->report.result == NULL); /* the last batch has been taken */
    conn_post(c, JOB_MORE);
    return DB_READ;
  }
  if (!conn_collect(c, &job)) return DB_READ;
  c->streaming = (job == JOB_STATEMENT || job == JOB_MORE) && !c->report.failed && !c->report.finished;
  c->status = conn_status(c);
  if (c->report.notice[0] && c->db->log) c->db->log(c->db->user, "warn", c->report.notice);
  if (c->next != JOB_NONE) return conn_next(c);
  if (!c->report.failed) return DB_DONE;
  if (error) *error = c->report.error;
  return DB_FAILED;
}

static enum db_want sqlite_idle(struct db_conn *c, struct pool_error *error) {
  (void)c, (void)error; /* there is nobody who could have sent something */
  return DB_READ;
}

static int sqlite_fd(const struct db_conn *c) { return c->event; }
static enum db_status sqlite_status(const struct db_conn *c) { return c->status; }
static bool sqlite_finished(const struct db_conn *c) { return !c->streaming; }

static int sqlite_pid(const struct db_conn *c) {
  (void)c;
  return 0;
}

static bool sqlite_encrypted(const struct db_conn *c) {
  (void)c;
  return false;
}

static struct db_result *sqlite_result(struct db_conn *c) {
  INSIST(c->job == JOB_NONE);
  struct db_result *r = c->report.result;
  c->report.result = NULL;
  return r;
}

static const char *sqlite_begin(bool read_only, const char *isolation, bool deferrable, char *buffer, size_t size) {
  (void)isolation, (void)deferrable;
  snprintf(buffer, size, "%s", read_only ? SQLITE_BEGIN_READ_ONLY : "BEGIN IMMEDIATE");
  return buffer;
}

const struct driver sqlite_driver = {
  .name = "sqlite",
  .json_arrays = true,
  .begin_sql = "BEGIN IMMEDIATE",
  .create = sqlite_create,
  .configure = sqlite_configure,
  .destroy = sqlite_destroy,
  .size_limit = sqlite_size_limit,
  .fit = sqlite_fit,
  .open = sqlite_conn_open,
  .ping = sqlite_ping,
  .send = sqlite_send,
  .reset = sqlite_reset,
  .needs_reset = sqlite_needs_reset,
  .cancel = sqlite_cancel,
  .close = sqlite_conn_close,
  .abandon = sqlite_conn_abandon,
  .step = sqlite_step,
  .idle = sqlite_idle,
  .fd = sqlite_fd,
  .status = sqlite_status,
  .pid = sqlite_pid,
  .encrypted = sqlite_encrypted,
  .result = sqlite_result,
  .finished = sqlite_finished,
  .rows = sqlite_result_rows,
  .columns = sqlite_result_columns,
  .column = sqlite_result_column,
  .cell = sqlite_result_cell,
  .command = sqlite_result_command,
  .affected = sqlite_result_affected,
  .shape = sqlite_result_shape,
  .free_result = sqlite_result_free,
  .begin = sqlite_begin,
};
