/*
** postgres: the real driver (src/db/postgres*.c, on libpq) against a server that says what the bytes choose (postgres_server.h).
**
** Connections are opened, asked, streamed from, reset, cancelled, closed, abandoned, as the engine does it, in one thread: the
** descriptor is looked at, then the server says the next thing, then the driver steps. Whatever is said: no step waits, and each operation
** ends once the server is gone; an error is of a kind that its operation may have, and its texts are as base.h promises; the log gets
** lines; the password and the parameters are in neither; results read the same after their connection has gone; nothing is left (leaks,
** descriptors).
**
** Not here: TLS (sockets of this kind have none), and what libpq does of its own. It believes a message's length, so memory is bounded
** (fuzz.c). It leaks a result when a server says that it is ready before the result was whole (15, in a pipeline): a description's size
** each time; so leaks that libpq has a part in are not looked for, and what it gives and takes back is counted instead. And it follows a
** NULL pointer when a server answers its own question, of a target_session_attrs other than any, with a row that has no columns: so none is
** asked for.
*/
#include <fcntl.h>
#include <libpq-fe.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "db/json_text.h"
#include "fuzz/fuzz.h"
#include "fuzz/postgres_server.h"

#define D (&postgres_driver)
#define PASSWORD "hunter2hunter2"
#define PARAMETER "p4r4meterp4r4meter"
#define KIND(kind) (1u << (kind))

enum { STEPS_MAX = 20000, RESULTS_MAX = 16, OPERATIONS_MAX = 24, WAIT_MS = 5000 };

struct world {
  struct fuzz f;
  struct server server;
  struct db *db;
  struct db_conn *conn;
  bool opening, cancelled;
  bool amid; /* a stream was left half read */
  struct db_result *results[RESULTS_MAX];
  int count;
};

/* ---- what libpq has given and not got back ---- */

const char *__lsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void) { return "leak:libpq.so"; }

static int results_out, connections_out;

PGresult *__real_PQgetResult(PGconn *);
PGresult *__wrap_PQgetResult(PGconn *);
PGresult *__wrap_PQgetResult(PGconn *pg) {
  PGresult *result = __real_PQgetResult(pg);
  results_out += result != NULL;
  return result;
}

void __real_PQclear(PGresult *);
void __wrap_PQclear(PGresult *);
void __wrap_PQclear(PGresult *result) {
  results_out -= result != NULL;
  __real_PQclear(result);
}

PGconn *__real_PQconnectStartParams(const char *const *, const char *const *, int);
PGconn *__wrap_PQconnectStartParams(const char *const *, const char *const *, int);
PGconn *__wrap_PQconnectStartParams(const char *const *keywords, const char *const *values, int expand) {
  PGconn *pg = __real_PQconnectStartParams(keywords, values, expand);
  connections_out += pg != NULL;
  return pg;
}

void __real_PQfinish(PGconn *);
void __wrap_PQfinish(PGconn *);
void __wrap_PQfinish(PGconn *pg) {
  connections_out -= pg != NULL;
  __real_PQfinish(pg);
}

/* A cancel's worker may hold some for a moment; but they do not grow in number. */
static void descriptors_check(void) {
  static int least = -1;
  int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (least < 0) least = fd;
  HOLDS(fd >= 0 && fd < least + 64);
  close(fd);
}

/* ---- what must hold ---- */

static void text_check(const char *text, size_t size) {
  size_t len = strnlen(text, size);
  HOLDS(len < size && utf8_valid(text, len));
  HOLDS(strstr(text, PASSWORD) == NULL && strstr(text, PARAMETER) == NULL);
}

static void log_line(void *user, const char *level, const char *line) {
  (void)user;
  HOLDS(strcmp(level, "debug") == 0 || strcmp(level, "info") == 0 || strcmp(level, "warn") == 0);
  text_check(line, strlen(line) + 1);
  for (const char *p = line; *p; p++) HOLDS((unsigned char)*p >= ' ' && *p != 0x7f);
}

static void error_check(const struct pool_error *e, unsigned kinds) {
  HOLDS(KIND(e->kind) & kinds);
  HOLDS(e->message[0] != '\0' && e->position >= 0);
  text_check(e->message, sizeof e->message);
  text_check(e->detail, sizeof e->detail);
  text_check(e->hint, sizeof e->hint);
  text_check(e->constraint, sizeof e->constraint);
  text_check(e->schema, sizeof e->schema);
  text_check(e->table, sizeof e->table);
  text_check(e->column, sizeof e->column);
  HOLDS(e->sqlstate[0] == '\0' || (strlen(e->sqlstate) == 5 && strspn(e->sqlstate, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5));
}

static void result_check(struct db_result *r) {
  struct json_buffer b;
  struct pool_error error;
  struct column c;
  json_buffer_init(&b);
  for (int i = 0; i < D->columns(r); i++) D->column(r, i, &c), HOLDS(c.name != NULL);
  if (!json_append_result(&b, D, r, &error)) error_check(&error, KIND(POOL_JSON));
  HOLDS(strlen(D->command(r)) < 32);
  D->affected(r);
  D->shape(r);
  json_buffer_free(&b);
}

/* ---- operations ---- */

/* The server is gone, and the driver waits all the same: for a worker, whose cancel comes to the listener. */
static void worker_wait(struct world *w) {
  int fd = D->fd(w->conn);
  HOLDS(fd >= 0 && fuzz_readable(fd, w->server.listener, WAIT_MS)); /* or it waits for nothing */
  server_accept(&w->server, w->opening);
}

/* What a caller does meanwhile, when it has waited for long. */
static void interfere(struct world *w) {
  if (!w->opening)
    D->cancel(w->conn), w->cancelled = true;
  else if (D->addresses_left(w->conn) > 0)
    D->next_address(w->conn);
}

/* Steps until the operation is over. */
static enum db_want finish(struct world *w, unsigned kinds) {
  for (int steps = 0; steps < STEPS_MAX; steps++) {
    struct pool_error error = {.kind = POOL_OK};
    enum db_want want = D->step(w->conn, &error);
    if (want == DB_FAILED) error_check(&error, kinds);
    if (want == DB_FAILED || want == DB_DONE) return want;
    server_accept(&w->server, w->opening);
    server_take(&w->server);
    if (want == DB_WRITE || fuzz_readable(D->fd(w->conn), -1, 0)) continue;
    if (w->server.peer < 0 && !w->opening)
      worker_wait(w);
    else if (!server_say(&w->server) && w->server.peer >= 0)
      interfere(w);
  }
  HOLDS(!"it ends");
}

static void results_keep(struct world *w) {
  struct db_result *r = D->result(w->conn);
  if (r == NULL) return;
  result_check(r);
  if (w->count < RESULTS_MAX)
    w->results[w->count++] = r;
  else
    D->free_result(r);
}

static bool send_statement(struct world *w, const char *sql, bool script, bool stream, int nparams) {
  static const struct param params[] = {{.type = PARAM_TEXT, .text = PARAMETER, .len = sizeof PARAMETER - 1},
                                        {.type = PARAM_INTEGER, .integer = 5},
                                        {.type = PARAM_BYTES, .text = PARAMETER, .len = sizeof PARAMETER - 1},
                                        {.type = PARAM_NULL}};
  struct statement s = {.sql = sql, .len = strlen(sql), .params = params, .nparams = nparams, .script = script, .stream = stream};
  struct pool_error error = {.kind = POOL_OK};
  if (D->send(w->conn, &s, &error)) return true;
  error_check(&error, KIND(POOL_LOST) | KIND(POOL_QUERY));
  return false;
}

static void statement(struct world *w, unsigned which) {
  static const char *const sqls[] = {"select 1",
                                     "select $1::text, $2::int",
                                     "begin isolation level serializable read only",
                                     "copy t from stdin",
                                     "insert into t values ($1)",
                                     "select 2",
                                     "select 3",
                                     "commit"};
  const unsigned kinds = KIND(POOL_LOST) | KIND(POOL_QUERY) | KIND(POOL_DEADLINE) | KIND(POOL_CANCELLED);
  bool script = which >> 3 & 1, stream = which >> 4 & 1;
  if (!send_statement(w, sqls[which % 8], script, stream, script ? 0 : (int)(which >> 5 & 3))) return;
  for (bool over = false; !over;) {
    enum db_want want = finish(w, kinds);
    if (want == DB_DONE) results_keep(w);
    w->amid = want == DB_DONE && !D->finished(w->conn);
    over = !w->amid || w->count == RESULTS_MAX;
  }
}

/* An idle connection's descriptor became readable. */
static void idle(struct world *w) {
  struct pool_error error = {.kind = POOL_OK};
  server_say(&w->server);
  if (!fuzz_readable(D->fd(w->conn), -1, 0)) return;
  enum db_want want = D->idle(w->conn, &error);
  HOLDS(want == DB_READ || want == DB_FAILED);
  if (want == DB_FAILED) error_check(&error, KIND(POOL_LOST));
}

static void goodbye(struct world *w) {
  D->close(w->conn);
  HOLDS(D->status(w->conn) == DB_BUSY);
  server_hang_up(&w->server);
  HOLDS(finish(w, KIND(POOL_LOST)) == DB_DONE);
}

/* One operation; false: the connection is of no more use. */
static bool operation(struct world *w) {
  unsigned what = fuzz_byte(&w->f);
  enum db_status status = D->status(w->conn);
  HOLDS(status != DB_BUSY || w->amid);                                     /* or nobody could end it */
  if (status == DB_DEAD || status == DB_BUSY || D->needs_reset(w->conn)) { /* as the engine gives it back */
    w->amid = false;
    if (status == DB_DEAD || what > 200) return false;
    D->reset(w->conn);
    return finish(w, KIND(POOL_LOST) | KIND(POOL_QUERY) | KIND(POOL_DEADLINE) | KIND(POOL_CANCELLED)) == DB_DONE;
  }
  if (what < 230) {
    statement(w, what);
  } else if (what < 240) {
    D->ping(w->conn);
    finish(w, KIND(POOL_LOST) | KIND(POOL_QUERY) | KIND(POOL_DEADLINE) | KIND(POOL_CANCELLED));
  } else if (what < 250) {
    idle(w);
  } else {
    return false;
  }
  return true;
}

static void connection(struct world *w) {
  struct pool_error error;
  w->conn = D->open(w->db, &error);
  HOLDS(w->conn != NULL);
  w->opening = true;
  bool useful = finish(w, KIND(POOL_CONNECT)) == DB_DONE;
  w->opening = false;
  HOLDS(useful == (D->status(w->conn) != DB_DEAD) || !useful);
  D->pid(w->conn);
  HOLDS(!D->encrypted(w->conn));
  for (int i = 0; useful && i < OPERATIONS_MAX && fuzz_left(&w->f) > 0; i++) useful = operation(w);
  if (fuzz_byte(&w->f) & 1) goodbye(w);
  D->abandon(w->conn);
  server_hang_up(&w->server);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv) {
  (void)argc;
  (void)argv;
  signal(SIGPIPE, SIG_IGN);
  setenv("HOME", "/nonexistent", 1);
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct world w = {.f = fuzz_of(data, size)};
  struct pool_error error;
  if (memmem(data, size, "hunter2", 7) || memmem(data, size, "p4r4meter", 9)) return 0; /* the server does not know them */
  unsigned how = fuzz_byte(&w.f), more = fuzz_byte(&w.f);
  struct db_settings settings = {.reset = (int)(how & 3) % 3,
                                 .statement_cache = (how >> 2 & 3) == 0   ? 0
                                                    : (how >> 2 & 3) == 1 ? 2
                                                                          : 256,
                                 .pooler = (int)(how >> 4 & 3) % 3};
  server_begin(&w.server, &w.f, 1 + (int)(more >> 3 & 1));
  w.server.raw = more & 1;
  text_copy(settings.database_url, sizeof settings.database_url, w.server.url);
  w.db = D->create(&settings, log_line, NULL, &error);
  HOLDS(w.db != NULL);
  do connection(&w);
  while (fuzz_left(&w.f) > 0 && !w.cancelled); /* a cancel may still come, and would be taken for the next one */
  server_end(&w.server);
  for (int i = 0; i < w.count; i++) {
    result_check(w.results[i]);
    D->free_result(w.results[i]);
  }
  D->destroy(w.db);
  HOLDS(results_out == 0 && connections_out == 0);
  descriptors_check();
  return 0;
}
