/*
** postgres_support: the private cluster, operations awaited with poll()
*/
#include "db/postgres_support.h"

#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

usec clock_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (usec)t.tv_sec * USEC_PER_SECOND + t.tv_nsec / 1000;
}

void pause_for(int milliseconds) { poll(NULL, 0, milliseconds); }

static const char *cluster(const char *name) {
  const char *value = getenv(name);
  if (value) return value;
  printf("%s is not set: run this through spec/run\n0 passed, 1 failed\n", name);
  exit(1);
}

const char *url_of(const struct url_parts *parts, char *buffer, size_t size) {
  char place[300];
  snprintf(place, sizeof place, "host=%s&port=%d", parts->host ? parts->host : cluster("POOL_SPEC_PG_DIR"),
           parts->port ? parts->port : atoi(cluster("POOL_SPEC_PG_PORT")));
  snprintf(buffer, size, "postgresql://%s:%s@/%s?%s%s", parts->user ? parts->user : cluster("POOL_SPEC_PG_USER"),
           parts->password ? parts->password : cluster("POOL_SPEC_PG_PASSWORD"),
           parts->database ? parts->database : cluster("POOL_SPEC_PG_DATABASE"), place, parts->options ? parts->options : "");
  return buffer;
}

static void world_log(void *user, const char *level, const char *message) {
  struct world *w = user;
  size_t len = strlen(w->log);
  snprintf(w->log + len, sizeof w->log - len, "%s: %s\n", level, message);
}

bool world_open(struct world *w, const char *url, struct pool_error *error) {
  char buffer[1024];
  struct url_parts parts = {0};
  if (!w->settings.statement_cache) w->settings.statement_cache = 256;
  if (w->settings.statement_cache < 0) w->settings.statement_cache = 0;
  text_copy(w->settings.database_url, sizeof w->settings.database_url, url ? url : url_of(&parts, buffer, sizeof buffer));
  w->db = D->create(&w->settings, world_log, w, error);
  return w->db != NULL;
}

void world_close(struct world *w) {
  CHECK(w->slowest_step < USEC_PER_SECOND); /* or something blocked */
  D->destroy(w->db);
  w->db = NULL;
}

static long slept(void) { /* how often this thread has waited for something, rather than for its turn */
  struct rusage usage;
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nvcsw;
}

static enum db_want timed_step(struct world *w, struct db_conn *conn, struct pool_error *error) {
  long sleeps = slept();
  usec before = clock_now();
  enum db_want want = D->step(conn, error);
  usec took = clock_now() - before;
  if (took > w->slowest_step && slept() > sleeps) w->slowest_step = took;
  return want;
}

enum db_want await(struct world *w, struct db_conn *conn, struct pool_error *error) {
  for (;;) {
    enum db_want want = timed_step(w, conn, error);
    if (want == DB_DONE || want == DB_FAILED) return want;
    struct pollfd at = {.fd = D->fd(conn), .events = (short)(want == DB_READ ? POLLIN : want == DB_WRITE ? POLLOUT : POLLIN | POLLOUT)};
    if (!CHECK(at.fd >= 0) || !CHECK(poll(&at, 1, w->patience ? w->patience : 20000) > 0)) return DB_READ;
  }
}

struct db_conn *connect_to(struct world *w, struct pool_error *error) {
  struct db_conn *conn = D->open(w->db, error);
  if (!CHECK(conn != NULL)) return NULL;
  if (await(w, conn, error) == DB_DONE) return conn;
  D->abandon(conn);
  return NULL;
}

struct db_conn *must_connect(struct world *w) {
  struct pool_error error = {0};
  struct db_conn *conn = connect_to(w, &error);
  if (!conn) printf("could not connect: %s %s\n0 passed, 1 failed\n", error.sqlstate, error.message), exit(1);
  return conn;
}

void goodbye(struct world *w, struct db_conn *conn) {
  struct pool_error error;
  D->close(conn);
  CHECK(await(w, conn, &error) == DB_DONE);
  D->abandon(conn);
}

struct statement statement_of(const char *sql) { return (struct statement){.sql = sql, .len = strlen(sql)}; }

struct db_result *run(struct world *w, struct db_conn *conn, const struct statement *s, struct pool_error *error) {
  if (!D->send(conn, s, error)) return NULL;
  return await(w, conn, error) == DB_DONE ? D->result(conn) : NULL;
}

const char *cell_text(struct db_result *result, int row, int column) {
  static char text[4][256];
  static int turn;
  char *out = text[turn++ & 3];
  struct value v;
  D->cell(result, row, column, &v);
  switch (v.type) {
    case VALUE_NULL: return "NULL";
    case VALUE_INTEGER: snprintf(out, 256, "%" PRId64, v.integer); return out;
    case VALUE_REAL: snprintf(out, 256, "%.17g", v.real); return out;
    case VALUE_BOOLEAN: return v.boolean ? "true" : "false";
    default: snprintf(out, 256, "%.*s", (int)v.len, v.text); return out;
  }
}

const char *one(struct world *w, struct db_conn *conn, const char *sql) {
  static char text[256];
  struct pool_error error = {0};
  struct statement s = statement_of(sql);
  struct db_result *result = run(w, conn, &s, &error);
  if (!result) snprintf(text, sizeof text, "failed: %s %.200s", error.sqlstate, error.message);
  else snprintf(text, sizeof text, "%s", D->rows(result) ? cell_text(result, 0, 0) : "no row");
  D->free_result(result);
  return text;
}

bool execute(struct world *w, struct db_conn *conn, const char *sql) {
  struct pool_error error = {0};
  struct statement s = statement_of(sql);
  s.script = true;
  struct db_result *result = run(w, conn, &s, &error);
  if (!result) printf("%s: %s %s\n", sql, error.sqlstate, error.message);
  D->free_result(result);
  return result != NULL;
}

bool fails(struct world *w, struct db_conn *conn, const char *sql, struct pool_error *error) {
  struct statement s = statement_of(sql);
  memset(error, 0, sizeof *error);
  struct db_result *result = run(w, conn, &s, error);
  D->free_result(result);
  return result == NULL;
}

bool await_reset(struct world *w, struct db_conn *conn, struct pool_error *error) {
  D->reset(conn);
  return await(w, conn, error) == DB_DONE;
}
