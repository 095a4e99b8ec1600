/*
** sqlite_memory_test: the SQLite driver when memory ends: its own and SQLite's, on the caller's thread and on the connection's, the
** thread itself included. Each trial lets the n-th allocation fail while a connection opens and does all that one does. The first thing
** that fails says that memory is why; afterwards, with memory back, the connection is fit again by a reset, or known to be dead.
*/
#include "sqlite_support.h"

#include <sqlite3.h>

#include "support/scarce.h"

struct pool_error last;

enum { CACHE = 4 };

/* ---- SQLite's own memory ---- */

/* By this, SQLite's is ours also where only our own calls come by way of scarce.c. A block begins with its size. */
static void *memory_malloc(int size) {
  int64_t *block = malloc(sizeof *block + (size_t)size);
  if (!block) return NULL;
  *block = size;
  return block + 1;
}

static void memory_free(void *block) { free((int64_t *)block - 1); }
static int memory_size(void *block) { return block ? (int)((int64_t *)block)[-1] : 0; }
static int memory_roundup(int size) { return (size + 7) & ~7; }

static void *memory_realloc(void *old, int size) {
  int64_t *block = realloc((int64_t *)old - 1, sizeof *block + (size_t)size);
  if (!block) return NULL;
  *block = size;
  return block + 1;
}

static int memory_init(void *user) { return (void)user, SQLITE_OK; }
static void memory_shutdown(void *user) { (void)user; }

/* ---- what a trial says ---- */

struct trial {
  struct home home;
  struct db *db;
  struct db_conn *conn;
  bool stopped; /* something has failed: the rest is not tried */
};

static bool tells_of_memory(const struct pool_error *e) {
  return strcmp(e->sqlstate, "53200") == 0 || strstr(e->message, "memory") != NULL;
}

/* A failure: it must say that memory was why. */
static bool stop(struct trial *t, const struct pool_error *e, const char *doing) {
  if (!CHECK(scarce_failed() && tells_of_memory(e))) printf("  %s: %s %s %s\n", doing, pool_err_name(e->kind), e->sqlstate, e->message);
  t->stopped = true;
  return false;
}

/* ---- a connection's work ---- */

static bool ended(struct trial *t, const char *doing) {
  struct pool_error e = {0};
  return finish(t->conn, &e) == DB_DONE || stop(t, &e, doing);
}

static struct db_result *run(struct trial *t, const char *sql, const struct param *params, int count, bool script) {
  if (t->stopped) return NULL;
  if (!begin_statement(t->conn, sql, params, count, script, false)) return stop(t, &last, sql), NULL;
  return ended(t, sql) ? D->result(t->conn) : NULL;
}

static void expect(struct trial *t, const char *sql, int rows) {
  struct db_result *r = run(t, sql, NULL, 0, false);
  if (r) CHECK_INT(D->rows(r), rows);
  D->free_result(r);
}

static void script_of(struct trial *t, const char *sql) { D->free_result(run(t, sql, NULL, 0, true)); }

/* It fails with this SQLSTATE, or for want of memory. */
static void expect_error(struct trial *t, const char *sql, const char *state) {
  if (t->stopped) return;
  last = (struct pool_error){0};
  if (begin_statement(t->conn, sql, NULL, 0, false, false)) CHECK_INT(finish(t->conn, &last), DB_FAILED);
  if (strcmp(last.sqlstate, state) != 0) stop(t, &last, sql);
}

static void parameters(struct trial *t) {
  static char long_text[9000];
  memset(long_text, 'x', sizeof long_text - 1);
  const struct param params[] = {
    {.type = PARAM_NULL},
    {.type = PARAM_INTEGER, .integer = 42},
    {.type = PARAM_REAL, .real = 2.5},
    {.type = PARAM_BOOLEAN, .boolean = true},
    {.type = PARAM_BYTES, .text = "by\0tes", .len = 6},
    {.type = PARAM_JSON, .text = "[1]", .len = 3},
    {.type = PARAM_ARRAY, .text = "[1,2]", .len = 5},
    {.type = PARAM_TEXT, .text = long_text, .len = sizeof long_text - 1}};
  struct db_result *r = run(t, "select $1 as a, $2 as b, $3 as c, $4 as d, $5 as e, $6 as f, $7 as g, $8 as h", params, 8, false);
  if (!r) return;
  CHECK_INT(D->columns(r), 8);
  CHECK(cell(r, 0, 0).type == VALUE_NULL && cell(r, 0, 1).integer == 42 && cell(r, 0, 2).real == 2.5);
  CHECK(cell(r, 0, 4).len == 6 && text_is(cell(r, 0, 7), VALUE_TEXT, long_text));
  D->free_result(r);
}

static void rows(struct trial *t) {
  static const char sql[] = "select id, name, done, doc, raw, score, zeroblob(id * 3500) as zeros from task order by id";
  struct db_result *r = run(t, sql, NULL, 0, false);
  if (!r) return;
  struct column column;
  D->column(r, 1, &column);
  CHECK_TEXT(column.name, "name");
  D->column(r, 6, &column);
  CHECK_TEXT(column.name, "zeros");
  CHECK_INT(D->rows(r), 2);
  CHECK(text_is(cell(r, 0, 1), VALUE_TEXT, "one") && cell(r, 0, 2).type == VALUE_BOOLEAN);
  CHECK(text_is(cell(r, 0, 3), VALUE_JSON, "{\"a\":1}"));
  CHECK(cell(r, 1, 5).real == 2.5 && cell(r, 1, 6).len == 7000);
  D->free_result(r);
}

/* All of it, or as far as it goes. */
static void stream(struct trial *t, int most) {
  int seen = 0;
  if (t->stopped) return;
  if (!begin_statement(t->conn, SERIES("600") "select i, 'row ' || i from s", NULL, 0, false, true)) {
    stop(t, &last, "a stream");
    return;
  }
  do {
    if (!ended(t, "a stream")) return;
    struct db_result *r = D->result(t->conn);
    seen += D->rows(r);
    D->free_result(r);
  } while (!D->finished(t->conn) && seen < most);
  CHECK(D->finished(t->conn) ? seen == 600 : seen >= most);
}

/* false: the connection is gone, as it says. */
static bool put_in_order(struct trial *t, const char *doing) {
  struct pool_error e = {0};
  if (D->status(t->conn) == DB_DEAD) return false;
  D->reset(t->conn);
  if (finish(t->conn, &e) == DB_DONE) {
    CHECK_INT(D->status(t->conn), DB_IDLE);
    return true;
  }
  stop(t, &e, doing);
  return false;
}

static void work(struct trial *t) {
  struct pool_error e = {0};
  script_of(t, "create table task(id integer primary key, name text not null, done boolean, doc json, raw blob, score real);"
               "insert into task values (1, 'one', 1, '{\"a\":1}', x'00ff', 1), (2, 'two', 0, '[]', x'', 2.5)");
  parameters(t);
  rows(t);
  rows(t); /* from the cache */
  expect(t, "insert into task(name) values ('three') returning id", 1);
  expect_error(t, "insert into task(id, name) values (1, 'again')", "23505");
  expect_error(t, "selec", "42601");
  for (int i = 0; i < CACHE + 2; i++) {
    char sql[32];
    snprintf(sql, sizeof sql, "select %d", i);
    expect(t, sql, 1);
  }
  stream(t, 600);
  script_of(t, "create temp table t(a); create temp view v as select a from t");
  script_of(t, "attach ':memory:' as other");
  script_of(t, "begin; insert into t values (1)");
  stream(t, 256);
  if (!t->stopped) put_in_order(t, "a reset");
  if (!t->stopped) expect_error(t, "select * from t", "42P01"); /* discarded */
  if (!t->stopped) D->ping(t->conn), ended(t, "a ping");
  if (!t->stopped && begin_statement(t->conn, FOR_EVER, NULL, 0, false, false)) {
    D->cancel(t->conn);
    CHECK_INT(finish(t->conn, &e), DB_FAILED);
    if (strcmp(e.sqlstate, "57014") != 0) stop(t, &e, "a cancel");
  }
}

/* ---- trials ---- */

static void make(struct trial *t, const char *url) {
  struct db_settings s = {.reset = RESET_DISCARD, .statement_cache = CACHE};
  struct pool_error e = {0};
  snprintf(s.database_url, sizeof s.database_url, "%s", url);
  t->db = D->create(&s, home_log, &t->home, &e);
  if (!t->db) CHECK(e.kind == POOL_SETTINGS), stop(t, &e, "create");
}

/* false: the connection did not come to be. */
static bool open_one(struct trial *t) {
  struct pool_error e = {0};
  t->conn = D->open(t->db, &e);
  if (t->conn && finish(t->conn, &e) == DB_DONE) return true;
  CHECK(e.kind == POOL_CONNECT && !e.permanent);
  stop(t, &e, "open");
  if (t->conn) D->abandon(t->conn);
  t->conn = NULL;
  return false;
}

/* With memory back. */
static void check_afterwards(struct trial *t, const char *url) {
  t->stopped = false;
  if (!t->db) make(t, url);
  if (t->conn && !put_in_order(t, "the reset afterwards")) D->abandon(t->conn), t->conn = NULL;
  if (!t->conn) open_one(t);
  CHECK(t->conn && !t->stopped);
  CHECK_INT(integer(t->conn, "select 7"), 7);
  expect_error(t, "select * from t", "42P01");
  disconnect(t->conn);
  D->destroy(t->db);
}

static void try_work(void *user) {
  struct trial t = {.db = NULL};
  (void)user;
  make(&t, "sqlite:///:memory:");
  open_one(&t);
  scarce_on();
  work(&t);
  scarce_off();
  check_afterwards(&t, "");
}

static void try_open(void *user) {
  struct home *h = user;
  struct trial t = {.home = *h};
  scarce_on();
  make(&t, h->url);
  if (t.db) open_one(&t);
  if (t.conn) expect(&t, "select 1", 1);
  scarce_off();
  check_afterwards(&t, h->url);
  CHECK_TEXT(t.home.log, "");
}

/* While memory is short, to the end: whatever it is, it ends. */
static void try_end(void *user) {
  struct trial t = {.db = NULL};
  struct pool_error e = {0};
  bool abandon = user != NULL;
  make(&t, "sqlite:///:memory:");
  open_one(&t);
  script_of(&t, "begin; create temp table t(a)");
  begin_statement(t.conn, SERIES("600") "select i from s", NULL, 0, false, true);
  CHECK_INT(finish(t.conn, &e), DB_DONE);
  scarce_on();
  if (!abandon) D->close(t.conn), CHECK_INT(finish(t.conn, &e), DB_DONE);
  D->abandon(t.conn);
  D->destroy(t.db);
  scarce_off();
}

/* Three threads at once leave three stacks that later ones use again: what a stack costs is not a leak. */
static void warm_up(struct home *h) {
  struct db *db = database(h, h->url, CACHE, RESET_ROLLBACK);
  struct db_conn *c[3];
  for (int i = 0; i < 3; i++) c[i] = connect_to(db);
  for (int i = 0; i < 3; i++) disconnect(c[i]);
  D->destroy(db);
}

int main(int argc, char **argv) {
  bool all = scarce_all(argc, argv);
  static const sqlite3_mem_methods methods = {memory_malloc, memory_free,    memory_realloc, memory_size, memory_roundup,
                                              memory_init,   memory_shutdown, NULL};
  struct home h;
  sqlite3_config(SQLITE_CONFIG_MALLOC, &methods);
  sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0); /* small pieces of a connection's own, of which none could fail */
  sqlite3_initialize();
  home_begin(&h);
  TEST("a connection that is short of memory says so, and works again when there is some") {
    warm_up(&h);
    scarce_sweep_by("a connection's work", try_work, NULL, all ? 1 : 11);
  }
  TEST("a file that cannot be opened for want of memory can be, afterwards") scarce_sweep_by("open", try_open, &h, all ? 1 : 3);
  TEST("a connection is closed and abandoned without memory") {
    scarce_sweep("close", try_end, NULL);
    scarce_sweep("abandon", try_end, &h);
  }
  home_end(&h);
  return check_done();
}
