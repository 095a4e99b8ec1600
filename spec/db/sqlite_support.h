/*
** sqlite_support: what the SQLite driver's specs share: a directory of one's own, and driving a connection with poll() on its
** descriptor as the engine does.
*/
#ifndef POOL_SPEC_SQLITE_SUPPORT_H
#define POOL_SPEC_SQLITE_SUPPORT_H

#include "db/driver.h"
#include "support/check.h"

#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static const struct driver *const D = &sqlite_driver;

/* ---- driving ---- */

struct home {
  char directory[64], file[96], url[128];
  char log[1024]; /* the driver's lines */
};

static inline void home_log(void *user, const char *level, const char *message) {
  struct home *h = user;
  size_t used = strlen(h->log);
  snprintf(h->log + used, sizeof h->log - used, "%s: %s\n", level, message);
}

static inline void home_begin(struct home *h) {
  *h = (struct home){.directory = "/tmp/pool-sqlite-XXXXXX"};
  INSIST(mkdtemp(h->directory) != NULL);
  snprintf(h->file, sizeof h->file, "%s/t.db", h->directory);
  snprintf(h->url, sizeof h->url, "sqlite:///%s", h->file);
}

/* Abandoned connections' threads close their files by themselves: waited for. */
static inline void home_end(struct home *h) {
  static const char *const ends[] = {"", "-wal", "-shm", "-journal"};
  char path[128];
  bool gone = false;
  for (int tries = 0; !gone && tries < 1000; tries++) {
    for (int i = 0; i < 4; i++) {
      snprintf(path, sizeof path, "%s%s", h->file, ends[i]);
      unlink(path);
    }
    gone = rmdir(h->directory) == 0;
    if (!gone) poll(NULL, 0, 10);
  }
  CHECK(gone); /* nothing else was left */
}

static inline struct db *database(struct home *h, const char *url, int cache, int reset) {
  struct db_settings s = {.reset = reset, .statement_cache = cache};
  struct pool_error e;
  snprintf(s.database_url, sizeof s.database_url, "%s", url);
  struct db *db = D->create(&s, home_log, h, &e);
  INSIST(db != NULL);
  return db;
}

static inline long long milliseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* Steps until it is over; an hour-glass of 20 s. */
static inline enum db_want finish(struct db_conn *c, struct pool_error *e) {
  long long end = milliseconds() + 20000;
  for (;;) {
    enum db_want want = D->step(c, e);
    if (want == DB_DONE || want == DB_FAILED) return want;
    INSIST(want == DB_READ);
    struct pollfd p = {.fd = D->fd(c), .events = POLLIN};
    INSIST(poll(&p, 1, 20000) == 1 && milliseconds() < end);
  }
}

static inline struct db_conn *connect_to(struct db *db) {
  struct pool_error e = {0};
  struct db_conn *c = D->open(db, &e);
  INSIST(c != NULL);
  CHECK_INT(D->status(c), DB_BUSY);
  if (finish(c, &e) != DB_DONE) printf("open: %s\n", e.message), abort();
  CHECK_INT(D->status(c), DB_IDLE);
  return c;
}

static inline void disconnect(struct db_conn *c) {
  struct pool_error e;
  D->close(c);
  CHECK_INT(finish(c, &e), DB_DONE);
  CHECK_INT(D->status(c), DB_DEAD);
  D->abandon(c);
}

extern struct pool_error last; /* of the last statement that failed */

static inline bool begin_statement(struct db_conn *c, const char *sql, const struct param *params, int nparams, bool script, bool stream) {
  struct statement s = {.sql = sql, .len = strlen(sql), .params = params, .nparams = nparams, .script = script, .stream = stream};
  last = (struct pool_error){0};
  return D->send(c, &s, &last);
}

static inline struct db_result *with(struct db_conn *c, const char *sql, const struct param *params, int nparams) {
  if (!begin_statement(c, sql, params, nparams, false, false) || finish(c, &last) == DB_FAILED) return NULL;
  CHECK(D->finished(c));
  return D->result(c);
}

static inline struct db_result *query(struct db_conn *c, const char *sql) { return with(c, sql, NULL, 0); }

static inline struct db_result *script(struct db_conn *c, const char *sql) {
  if (!begin_statement(c, sql, NULL, 0, true, false) || finish(c, &last) == DB_FAILED) return NULL;
  return D->result(c);
}

static inline bool done(struct db_conn *c, const char *sql) {
  struct db_result *r = script(c, sql);
  if (!r) printf("%s: %s\n", sql, last.message);
  bool ok = r != NULL;
  D->free_result(r);
  return ok;
}

static inline enum db_want reset(struct db_conn *c) {
  last = (struct pool_error){0};
  D->reset(c);
  return finish(c, &last);
}

static inline struct value cell(struct db_result *r, int row, int column) {
  struct value v;
  D->cell(r, row, column, &v);
  return v;
}

static inline int64_t integer(struct db_conn *c, const char *sql) {
  struct db_result *r = query(c, sql);
  if (!CHECK(r != NULL)) return INT64_MIN;
  struct value v = cell(r, 0, 0);
  CHECK_INT(v.type, VALUE_INTEGER);
  D->free_result(r);
  return v.integer;
}

static inline bool text_is(struct value v, enum value_type type, const char *text) {
  return v.type == type && v.len == strlen(text) && memcmp(v.text, text, v.len) == 0;
}

static inline struct param text(const char *t) { return (struct param){.type = PARAM_TEXT, .text = t, .len = strlen(t)}; }
static inline struct param number(int64_t n) { return (struct param){.type = PARAM_INTEGER, .integer = n}; }

static inline bool fails(struct db_conn *c, const char *sql, const char *state) {
  struct db_result *r = query(c, sql);
  D->free_result(r);
  bool as_said = r == NULL && strcmp(last.sqlstate, state) == 0;
  if (!as_said) printf("%s: %s %s\n", sql, r ? "no error" : last.sqlstate, r ? "" : last.message);
  return as_said;
}

static inline bool waits(struct db_conn *c, int ms) { /* is it still at it after so long? */
  struct pollfd p = {.fd = D->fd(c), .events = POLLIN};
  return poll(&p, 1, ms) == 0 && D->step(c, NULL) == DB_READ;
}

/* Statements of many rows. */
#define SERIES(n) "with recursive s(i) as (select 1 union all select i + 1 from s where i < " n ") "
#define FOR_EVER "with recursive s(i) as (select 1 union all select i + 1 from s) select count(*) from s"

/* The groups of specs. */
void sqlite_values_specs(struct db_conn *);                              /* types, parameters, errors, commands */
void sqlite_run_specs(struct home *, struct db *, struct db_conn *);     /* transactions, streams, the cache, cancels, locks */

#endif
