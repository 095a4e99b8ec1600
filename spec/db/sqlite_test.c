/*
** The SQLite driver's specs: driven as the engine drives it, with poll() on its descriptor, on real files in a directory of
** its own.
*/
#include "db/driver.h"
#include "support/check.h"

#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const struct driver *const D = &sqlite_driver;

/* ---- driving ---- */

struct home {
  char directory[64], file[96], url[128];
  char log[1024]; /* the driver's lines */
};

static void home_log(void *user, const char *level, const char *message) {
  struct home *h = user;
  size_t used = strlen(h->log);
  snprintf(h->log + used, sizeof h->log - used, "%s: %s\n", level, message);
}

static void home_begin(struct home *h) {
  *h = (struct home){.directory = "/tmp/pool-sqlite-XXXXXX"};
  INSIST(mkdtemp(h->directory) != NULL);
  snprintf(h->file, sizeof h->file, "%s/t.db", h->directory);
  snprintf(h->url, sizeof h->url, "sqlite:///%s", h->file);
}

/* Abandoned connections' threads close their files by themselves: waited for. */
static void home_end(struct home *h) {
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

static struct db *database(struct home *h, const char *url, int cache, int reset) {
  struct db_settings s = {.reset = reset, .statement_cache = cache};
  struct pool_error e;
  snprintf(s.database_url, sizeof s.database_url, "%s", url);
  struct db *db = D->create(&s, home_log, h, &e);
  INSIST(db != NULL);
  return db;
}

static long long milliseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* Steps until it is over; an hour-glass of 20 s. */
static enum db_want finish(struct db_conn *c, struct pool_error *e) {
  long long end = milliseconds() + 20000;
  for (;;) {
    enum db_want want = D->step(c, e);
    if (want == DB_DONE || want == DB_FAILED) return want;
    INSIST(want == DB_READ);
    struct pollfd p = {.fd = D->fd(c), .events = POLLIN};
    INSIST(poll(&p, 1, 20000) == 1 && milliseconds() < end);
  }
}

static struct db_conn *connect_to(struct db *db) {
  struct pool_error e = {0};
  struct db_conn *c = D->open(db, &e);
  INSIST(c != NULL);
  CHECK_INT(D->status(c), DB_BUSY);
  if (finish(c, &e) != DB_DONE) printf("open: %s\n", e.message), abort();
  CHECK_INT(D->status(c), DB_IDLE);
  return c;
}

static void disconnect(struct db_conn *c) {
  struct pool_error e;
  D->close(c);
  CHECK_INT(finish(c, &e), DB_DONE);
  CHECK_INT(D->status(c), DB_DEAD);
  D->abandon(c);
}

static struct pool_error last; /* of the last statement that failed */

static bool begin_statement(struct db_conn *c, const char *sql, const struct param *params, int nparams, bool script, bool stream) {
  struct statement s = {.sql = sql, .len = strlen(sql), .params = params, .nparams = nparams, .script = script, .stream = stream};
  last = (struct pool_error){0};
  return D->send(c, &s, &last);
}

static struct db_result *with(struct db_conn *c, const char *sql, const struct param *params, int nparams) {
  if (!begin_statement(c, sql, params, nparams, false, false) || finish(c, &last) == DB_FAILED) return NULL;
  CHECK(D->finished(c));
  return D->result(c);
}

static struct db_result *query(struct db_conn *c, const char *sql) { return with(c, sql, NULL, 0); }

static struct db_result *script(struct db_conn *c, const char *sql) {
  if (!begin_statement(c, sql, NULL, 0, true, false) || finish(c, &last) == DB_FAILED) return NULL;
  return D->result(c);
}

static bool done(struct db_conn *c, const char *sql) {
  struct db_result *r = script(c, sql);
  if (!r) printf("%s: %s\n", sql, last.message);
  bool ok = r != NULL;
  D->free_result(r);
  return ok;
}

static enum db_want reset(struct db_conn *c) {
  last = (struct pool_error){0};
  D->reset(c);
  return finish(c, &last);
}

static struct value cell(struct db_result *r, int row, int column) {
  struct value v;
  D->cell(r, row, column, &v);
  return v;
}

static int64_t integer(struct db_conn *c, const char *sql) {
  struct db_result *r = query(c, sql);
  if (!CHECK(r != NULL)) return INT64_MIN;
  struct value v = cell(r, 0, 0);
  CHECK_INT(v.type, VALUE_INTEGER);
  D->free_result(r);
  return v.integer;
}

static bool text_is(struct value v, enum value_type type, const char *text) {
  return v.type == type && v.len == strlen(text) && memcmp(v.text, text, v.len) == 0;
}

static struct param text(const char *t) { return (struct param){.type = PARAM_TEXT, .text = t, .len = strlen(t)}; }
static struct param number(int64_t n) { return (struct param){.type = PARAM_INTEGER, .integer = n}; }

static bool fails(struct db_conn *c, const char *sql, const char *state) {
  struct db_result *r = query(c, sql);
  D->free_result(r);
  bool as_said = r == NULL && strcmp(last.sqlstate, state) == 0;
  if (!as_said) printf("%s: %s %s\n", sql, r ? "no error" : last.sqlstate, r ? "" : last.message);
  return as_said;
}

/* ---- opening ---- */

static int mode_of(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 ? (int)(info.st_mode & 0777) : -1;
}

static void open_specs(struct home *h) {
  char path[128];
  struct db *db = database(h, h->url, 16, RESET_ROLLBACK);
  mode_t mask = umask(0);
  struct db_conn *c = connect_to(db);
  TEST("the file, its log and its index are the owner's alone, whatever the umask") {
    CHECK(done(c, "create table t(a); insert into t values (1)"));
    CHECK_INT(mode_of(h->file), 0600);
    snprintf(path, sizeof path, "%s-wal", h->file);
    CHECK_INT(mode_of(path), 0600);
    snprintf(path, sizeof path, "%s-shm", h->file);
    CHECK_INT(mode_of(path), 0600);
  }
  umask(mask);
  TEST("a connection has a write-ahead log, foreign keys and synchronous = normal") {
    struct db_result *r = query(c, "pragma journal_mode");
    CHECK(r && text_is(cell(r, 0, 0), VALUE_TEXT, "wal"));
    D->free_result(r);
    CHECK_INT(integer(c, "pragma foreign_keys"), 1);
    CHECK_INT(integer(c, "pragma synchronous"), 1);
    CHECK_TEXT(h->log, "");
    CHECK_INT(D->pid(c), 0);
    CHECK_INT(D->size_limit(db), INT_MAX);
  }
  TEST("a ping is answered, and gives no result") {
    struct pool_error e;
    D->ping(c);
    CHECK_INT(finish(c, &e), DB_DONE);
    CHECK(D->result(c) == NULL);
    CHECK_INT(D->status(c), DB_IDLE);
  }
  disconnect(c);
  D->destroy(db);
}

static bool refuses(struct home *h, const char *url, const char *words) {
  struct pool_error e = {0};
  struct db *db = database(h, url, 16, RESET_ROLLBACK);
  struct db_conn *c = D->open(db, &e);
  enum db_want want = finish(c, &e);
  bool as_said = want == DB_FAILED && e.kind == POOL_CONNECT && e.permanent && strstr(e.message, words) && D->status(c) == DB_DEAD;
  if (!as_said) printf("%s: kind %d: %s\n", url, e.kind, e.message);
  D->abandon(c);
  D->destroy(db);
  return as_said;
}

/* As a user who may do nothing here: root may do everything. */
static bool by_stranger(struct home *h, bool (*holds)(struct home *h)) {
  pid_t child = fork();
  if (child == 0) {
    if (getuid() == 0 && setuid(65534) != 0) _exit(2);
    bool ok = holds(h);
    fflush(stdout);
    _exit(ok ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return status == 0;
}

static bool no_permission(struct home *h) { return refuses(h, h->url, "no permission"); }

static bool no_log(struct home *h) {
  struct db *db = database(h, h->url, 16, RESET_ROLLBACK);
  struct db_conn *c = connect_to(db);
  bool ok = integer(c, "select count(*) from sqlite_master") == 0;
  disconnect(c);
  D->destroy(db);
  return ok && strncmp(h->log, "warn: SQLite: no write-ahead log here", 37) == 0;
}

static void refusal_specs(struct home *h) {
  char url[256];
  TEST("a missing directory, a directory, a file that is no database: refused for good, saying so") {
    snprintf(url, sizeof url, "sqlite:///%s/none/t.db", h->directory);
    CHECK(refuses(h, url, "does not exist"));
    snprintf(url, sizeof url, "sqlite:///%s", h->directory);
    CHECK(refuses(h, url, "it is a directory"));
    FILE *f = fopen(h->file, "w");
    for (int i = 0; i < 1000; i++) fputs("not a database at all\n", f);
    fclose(f);
    CHECK(refuses(h, h->url, "file is not a database"));
    CHECK_INT(unlink(h->file), 0);
  }
  TEST("a file that may not be written, or not be made, is refused for good") {
    CHECK_INT(chmod(h->directory, 0755), 0);
    CHECK(by_stranger(h, no_permission));
    FILE *f = fopen(h->file, "w");
    fclose(f);
    CHECK_INT(chmod(h->file, 0444), 0);
    CHECK(by_stranger(h, no_permission));
    CHECK_INT(unlink(h->file), 0);
  }
  TEST("where no log can be kept, a line says so and the connection works") {
    FILE *f = fopen(h->file, "w");
    fclose(f);
    CHECK_INT(chmod(h->file, 0666), 0);
    CHECK(by_stranger(h, no_log));
    CHECK_INT(unlink(h->file), 0);
  }
  TEST("mode=ro reads and does not write, and makes no file") {
    snprintf(url, sizeof url, "%s?mode=ro", h->url);
    CHECK(refuses(h, url, "does not exist"));
    struct db *db = database(h, h->url, 16, RESET_ROLLBACK), *ro = database(h, url, 16, RESET_ROLLBACK);
    struct db_conn *c = connect_to(db);
    CHECK(done(c, "create table t(a); insert into t values (7)"));
    struct db_conn *r = connect_to(ro);
    CHECK_INT(integer(r, "select a from t"), 7);
    CHECK(fails(r, "insert into t values (8)", "25006"));
    disconnect(r);
    disconnect(c);
    D->destroy(ro);
    D->destroy(db);
  }
  TEST("a host in the URL is refused at creation") {
    struct pool_error e = {0};
    struct db_settings s = {.database_url = "sqlite://host/t.db"};
    CHECK(D->create(&s, home_log, h, &e) == NULL);
    CHECK_INT(e.kind, POOL_SETTINGS);
  }
}

static void memory_specs(struct home *h) {
  struct db *db = database(h, "sqlite:///:memory:", 16, RESET_ROLLBACK);
  TEST("a database in memory is one connection's, and needs no log") {
    CHECK_INT(D->size_limit(db), 1);
    struct db_conn *c = connect_to(db);
    CHECK(done(c, "create table t(a); insert into t values (3)"));
    CHECK_INT(integer(c, "select a from t"), 3);
    CHECK_TEXT(h->log, "");
    disconnect(c);
    CHECK(access(":memory:", F_OK) != 0);
  }
  D->destroy(db);
}

/* ---- values ---- */

static void type_specs(struct db_conn *c) {
  TEST("values come back as they were stored, declared booleans and JSON as such") {
    CHECK(done(c, "create table v(i integer, r real, t text, b blob, n, yes Boolean, j JSON, jb jsonb, d numeric);"
                  "insert into v values (-9223372036854775808, 1.5, 'tëxt', x'00ff00', null, true, '{\"a\":[1,2]}', 'not json', 1.25),"
                  "(9223372036854775807, 1e300, '', x'', 'x', 2, '[', 'null', 'abc')"));
    struct db_result *r = query(c, "select * from v");
    if (!CHECK(r != NULL)) return;
    CHECK_INT(D->rows(r), 2);
    CHECK_INT(D->columns(r), 9);
    CHECK_INT(cell(r, 0, 0).integer, INT64_MIN);
    CHECK_INT(cell(r, 1, 0).integer, INT64_MAX);
    CHECK(cell(r, 0, 1).type == VALUE_REAL && cell(r, 0, 1).real == 1.5);
    CHECK(text_is(cell(r, 0, 2), VALUE_TEXT, "tëxt"));
    CHECK(text_is(cell(r, 1, 2), VALUE_TEXT, ""));
    struct value blob = cell(r, 0, 3);
    CHECK(blob.type == VALUE_BYTES && blob.len == 3 && memcmp(blob.text, "\0\xff\0", 3) == 0);
    CHECK(cell(r, 1, 3).type == VALUE_BYTES && cell(r, 1, 3).len == 0 && cell(r, 1, 3).text);
    CHECK_INT(cell(r, 0, 4).type, VALUE_NULL);
    CHECK(cell(r, 0, 5).type == VALUE_BOOLEAN && cell(r, 0, 5).boolean);
    CHECK(cell(r, 1, 5).type == VALUE_INTEGER && cell(r, 1, 5).integer == 2);
    CHECK(text_is(cell(r, 0, 6), VALUE_JSON, "{\"a\":[1,2]}"));
    CHECK(text_is(cell(r, 1, 6), VALUE_TEXT, "["));
    CHECK(text_is(cell(r, 0, 7), VALUE_TEXT, "not json"));
    CHECK(text_is(cell(r, 1, 7), VALUE_JSON, "null"));
    CHECK(cell(r, 0, 8).type == VALUE_REAL && cell(r, 0, 8).real == 1.25);
    CHECK(text_is(cell(r, 1, 8), VALUE_TEXT, "abc"));
    D->free_result(r);
  }
  TEST("columns are named and typed by their declarations, a result of no rows too") {
    struct column k;
    struct db_result *r = query(c, "select i, yes as \"Yes\", j, n, 1 + 1, t, r from v where 0");
    if (!CHECK(r != NULL)) return;
    static const enum value_type types[] = {VALUE_INTEGER, VALUE_BOOLEAN, VALUE_JSON, VALUE_TEXT, VALUE_TEXT, VALUE_TEXT, VALUE_REAL};
    CHECK_INT(D->rows(r), 0);
    for (int i = 0; i < 7; i++) {
      D->column(r, i, &k);
      CHECK_INT(k.type, types[i]);
    }
    D->column(r, 1, &k);
    CHECK_TEXT(k.name, "Yes");
    D->free_result(r);
  }
}

static void json_spec(struct db_conn *c) {
  static const char *const good[] = {"1", " -0.5e+3 ", "\"\\u00e9\\n\"", "[]", "{}", "[[],{\"a\":{}}]",
                                     "{\"a\":1,\"b\":[true,false,null]}"};
  static const char *const bad[] = {"", "01", "1.", "-", "[1,]", "{\"a\"}", "{\"a\":1,}", "{1:2}", "[1}", "tru", "\"a", "\"\\x\"",
                                    "\"\\u12\"", "1 2", "[1 2]", "{,}", "nul", "]", "1e", "\"\n\""};
  TEST("only a JSON text in a column declared JSON comes back as JSON") {
    CHECK(done(c, "create table j(d json, t text)"));
    for (size_t i = 0; i < sizeof good / sizeof *good + sizeof bad / sizeof *bad; i++) {
      bool is = i < sizeof good / sizeof *good;
      const char *json = is ? good[i] : bad[i - sizeof good / sizeof *good];
      struct param p[] = {text(json)};
      CHECK(done(c, "delete from j"));
      D->free_result(with(c, "insert into j values ($1, $1)", p, 1));
      struct db_result *r = query(c, "select d, t from j");
      if (!CHECK(r != NULL)) return;
      enum value_type type = cell(r, 0, 0).type;
      bool numeric = type == VALUE_INTEGER || type == VALUE_REAL; /* the column's affinity has made a number of it */
      if (!CHECK(numeric ? is || json[0] == '0' || json[0] == '1' : type == (is ? VALUE_JSON : VALUE_TEXT))) printf("%s\n", json);
      CHECK_INT(cell(r, 0, 1).type, VALUE_TEXT);
      D->free_result(r);
    }
  }
  TEST("JSON nested past all bounds is text, and nothing overflows") {
    enum { DEEP = 100000 };
    char *deep = malloc(DEEP);
    memset(deep, '[', DEEP);
    struct param p = {.type = PARAM_JSON, .text = deep, .len = DEEP};
    CHECK(done(c, "delete from j"));
    D->free_result(with(c, "insert into j(d) values ($1)", &p, 1));
    struct db_result *r = query(c, "select d from j");
    CHECK(r && cell(r, 0, 0).type == VALUE_TEXT && cell(r, 0, 0).len == DEEP);
    D->free_result(r);
    free(deep);
  }
}

static void param_specs(struct db_conn *c) {
  TEST("parameters go by name: $2 before $1 is right, and one may come twice") {
    struct param p[] = {text("one"), text("two"), text("three")};
    struct db_result *r = with(c, "select $2, $1, $3, $2", p, 3);
    if (!CHECK(r != NULL)) return;
    CHECK(text_is(cell(r, 0, 0), VALUE_TEXT, "two"));
    CHECK(text_is(cell(r, 0, 1), VALUE_TEXT, "one"));
    CHECK(text_is(cell(r, 0, 2), VALUE_TEXT, "three"));
    CHECK(text_is(cell(r, 0, 3), VALUE_TEXT, "two"));
    D->free_result(r);
    r = with(c, "select ?2, ?1", p, 2);
    CHECK(r && text_is(cell(r, 0, 0), VALUE_TEXT, "two"));
    D->free_result(r);
    r = with(c, "select ?, ?", p, 2);
    CHECK(r && text_is(cell(r, 0, 0), VALUE_TEXT, "one") && text_is(cell(r, 0, 1), VALUE_TEXT, "two"));
    D->free_result(r);
  }
  TEST("every type of parameter arrives") {
    struct param p[] = {{.type = PARAM_NULL},
                        number(INT64_MIN),
                        {.type = PARAM_REAL, .real = 0.1},
                        {.type = PARAM_BOOLEAN, .boolean = true},
                        text(""),
                        {.type = PARAM_BYTES, .text = "\0\1", .len = 2},
                        {.type = PARAM_JSON, .text = "[1]", .len = 3},
                        {.type = PARAM_ARRAY, .text = "[1,2]", .len = 5},
                        {.type = PARAM_BYTES}};
    struct db_result *r = with(c, "select $1, $2, $3, $4, $5, $6, $7, $8, typeof($4), typeof($9), length($9)", p, 9);
    if (!CHECK(r != NULL)) return;
    CHECK_INT(cell(r, 0, 0).type, VALUE_NULL);
    CHECK_INT(cell(r, 0, 1).integer, INT64_MIN);
    CHECK(cell(r, 0, 2).real == 0.1);
    CHECK_INT(cell(r, 0, 3).integer, 1);
    CHECK(text_is(cell(r, 0, 4), VALUE_TEXT, ""));
    CHECK(cell(r, 0, 5).type == VALUE_BYTES && cell(r, 0, 5).len == 2);
    CHECK(text_is(cell(r, 0, 6), VALUE_TEXT, "[1]"));
    CHECK(text_is(cell(r, 0, 7), VALUE_TEXT, "[1,2]"));
    CHECK(text_is(cell(r, 0, 8), VALUE_TEXT, "integer"));
    CHECK(text_is(cell(r, 0, 9), VALUE_TEXT, "blob"));
    D->free_result(r);
  }
  TEST("too few, too many or misnamed parameters are refused, and so are casts of PostgreSQL's and NUL in text") {
    struct param p[] = {text("one"), {.type = PARAM_TEXT, .text = "a\0b", .len = 3}};
    CHECK(with(c, "select $2", p, 1) == NULL);
    CHECK_TEXT(last.sqlstate, "08P01");
    CHECK_TEXT(last.message, "the statement has 2 parameters, and 1 was given");
    CHECK_INT(last.kind, POOL_QUERY);
    CHECK(with(c, "select 1", p, 1) == NULL);
    CHECK_TEXT(last.sqlstate, "08P01");
    CHECK(with(c, "select :name", p, 1) == NULL);
    CHECK_TEXT(last.sqlstate, "42P02");
    CHECK(with(c, "select $0", p, 1) == NULL);
    CHECK_TEXT(last.sqlstate, "42P02");
    CHECK(with(c, "select $1::int", p, 1) == NULL);
    CHECK_TEXT(last.sqlstate, "42601");
    CHECK(with(c, "select $1, $2", p, 2) == NULL);
    CHECK_TEXT(last.sqlstate, "22021");
    CHECK(strstr(last.message, "$2") != NULL);
    CHECK_INT(D->status(c), DB_IDLE);
  }
  TEST("five megabytes go in and come out") {
    enum { LARGE = 5 << 20 };
    char *large = malloc(LARGE);
    memset(large, 'x', LARGE);
    struct param p = {.type = PARAM_TEXT, .text = large, .len = LARGE};
    struct db_result *r = with(c, "select $1, length($1)", &p, 1);
    CHECK(r && cell(r, 0, 0).len == LARGE && memcmp(cell(r, 0, 0).text, large, LARGE) == 0);
    D->free_result(r);
    CHECK_INT(integer(c, "select 1"), 1);
    free(large);
  }
}

/* ---- errors and commands ---- */

static void error_specs(struct db_conn *c) {
  CHECK(done(c, "create table task(id integer primary key, title text not null unique, n integer check (n > 0), a, b, unique(a, b));"
                "create table child(id integer references task(id)); insert into task values (1, 'x', 1, 1, 1);"
                "create unique index odd on task(n + 100);"
                "create trigger stop before delete on task begin select raise(abort, 'not this one'); end"));
  TEST("constraints are named as PostgreSQL names them") {
    CHECK(fails(c, "insert into task(title) values ('x')", "23505"));
    CHECK_TEXT(last.table, "task");
    CHECK_TEXT(last.column, "title");
    CHECK_TEXT(last.message, "UNIQUE constraint failed: task.title");
    CHECK(fails(c, "insert into task(id, title) values (1, 'y')", "23505"));
    CHECK_TEXT(last.column, "id");
    CHECK(fails(c, "insert into task(title, a, b) values ('z', 1, 1)", "23505"));
    CHECK_TEXT(last.table, "task");
    CHECK_TEXT(last.column, "");
    CHECK(fails(c, "insert into task(title) values (null)", "23502"));
    CHECK_TEXT(last.column, "title");
    CHECK(fails(c, "insert into task(title, n) values ('n', 0)", "23514"));
    CHECK_TEXT(last.constraint, "n > 0");
    CHECK(fails(c, "insert into task(title, n) values ('n', 1)", "23505"));
    CHECK_TEXT(last.constraint, "odd");
    CHECK(fails(c, "insert into child values (99)", "23503"));
    CHECK(fails(c, "delete from task", "P0001"));
    CHECK_TEXT(last.message, "not this one");
    CHECK(!last.retryable && !last.disconnect);
  }
  TEST("mistakes in a statement have PostgreSQL's states, names and positions") {
    CHECK(fails(c, "selec 1", "42601"));
    CHECK_INT(last.position, 1);
    CHECK(fails(c, "select 'é', from task", "42601"));
    CHECK_INT(last.position, 13);
    CHECK(fails(c, "select 1 from (", "42601"));
    CHECK(fails(c, "select * from none", "42P01"));
    CHECK_TEXT(last.table, "none");
    CHECK(fails(c, "select missing from task", "42703"));
    CHECK_TEXT(last.column, "missing");
    CHECK(fails(c, "insert into task(missing) values (1)", "42703"));
    CHECK_TEXT(last.table, "task");
    CHECK_TEXT(last.column, "missing");
    CHECK(fails(c, "select nofunction(1)", "42883"));
    CHECK(fails(c, "create table task(a)", "42P07"));
    CHECK(fails(c, "commit", "25P01"));
    CHECK(fails(c, "insert into task(id, title) values ('abc', 'abc')", "42804"));
    CHECK(fails(c, "select zeroblob(2000000000)", "54000"));
    CHECK(fails(c, "select abs(-9223372036854775808)", "22003"));
  }
  TEST("several statements in a query are refused, before any has run; a script takes them") {
    CHECK(fails(c, "insert into child values (1); select 1", "42601"));
    CHECK_TEXT(last.message, "cannot insert multiple commands into a prepared statement");
    CHECK_INT(integer(c, "select count(*) from child; -- and that is all\n ; /* really */ "), 0);
    struct db_result *r = script(c, "insert into child values (1); /* ; */ select 5 as five;\n select 7, 8; -- end");
    CHECK(r && D->rows(r) == 1 && D->columns(r) == 2 && cell(r, 0, 1).integer == 8);
    D->free_result(r);
    r = script(c, " -- nothing\n");
    CHECK(r && D->columns(r) == 0 && strcmp(D->command(r), "") == 0);
    D->free_result(r);
    CHECK(script(c, "delete from child; select * from none; delete from task") == NULL);
    CHECK_TEXT(last.sqlstate, "42P01");
    CHECK_INT(integer(c, "select count(*) from child"), 0);
  }
}

static bool answers(struct db_conn *c, const char *sql, const char *command, int64_t affected) {
  struct db_result *r = query(c, sql);
  bool as_said = r && strcmp(D->command(r), command) == 0 && D->affected(r) == affected;
  if (!as_said) printf("%s: %s %lld\n", sql, r ? D->command(r) : last.message, r ? (long long)D->affected(r) : 0);
  D->free_result(r);
  return as_said;
}

static void command_specs(struct db_conn *c) {
  TEST("a result says its command and how many rows it touched") {
    CHECK(answers(c, "create table k(a)", "CREATE TABLE", 0));
    CHECK(answers(c, "/* a */ -- b\n insert into k values (1), (2), (3)", "INSERT", 3));
    CHECK(answers(c, "select * from k", "SELECT", 3));
    CHECK(answers(c, "values (1), (2)", "SELECT", 2));
    CHECK(answers(c, "with x(a) as (select 9) insert into k select a from x", "INSERT", 1));
    CHECK(answers(c, "with \"insert\"(a) as (select ')') select * from \"insert\"", "SELECT", 1));
    CHECK(answers(c, "update k set a = a + 1 returning a", "UPDATE", 4));
    CHECK(answers(c, "Delete from k where a > 3", "DELETE", 2));
    CHECK(answers(c, "create unique index ka on k(a)", "CREATE INDEX", 0));
    CHECK(answers(c, "drop index ka", "DROP INDEX", 0));
    CHECK(answers(c, "begin", "BEGIN", 0));
    CHECK(answers(c, "end", "COMMIT", 0));
    CHECK(answers(c, "", "", 0));
    CHECK(answers(c, "drop table k", "DROP TABLE", 0));
  }
}

/* ---- transactions and resets ---- */

static void transaction_specs(struct home *h, struct db *db, struct db_conn *c) {
  char buffer[64];
  TEST("a transaction begins immediate unless it only reads") {
    CHECK_TEXT(D->begin(false, NULL, false, buffer, sizeof buffer), "BEGIN IMMEDIATE");
    CHECK_TEXT(D->begin(true, "serializable", true, buffer, sizeof buffer), "BEGIN");
    CHECK_TEXT(D->begin_sql, "BEGIN IMMEDIATE");
    CHECK(D->json_arrays);
  }
  TEST("the status follows the transaction, and a reset rolls it back") {
    CHECK(done(c, "create table x(a)"));
    D->free_result(query(c, "begin immediate"));
    CHECK_INT(D->status(c), DB_IN_TRANSACTION);
    CHECK(D->needs_reset(c));
    CHECK(done(c, "insert into x values (1)"));
    CHECK(fails(c, "select * from none", "42P01"));
    CHECK_INT(D->status(c), DB_IN_TRANSACTION); /* SQLite goes on after an error */
    CHECK_INT(reset(c), DB_DONE);
    CHECK(D->result(c) == NULL);
    CHECK_INT(D->status(c), DB_IDLE);
    CHECK(!D->needs_reset(c));
    CHECK_INT(integer(c, "select count(*) from x"), 0);
    CHECK_INT(reset(c), DB_DONE); /* nothing to undo */
  }
  TEST("discard also drops what is temporary, attached or cached; none refuses to undo") {
    struct db_settings s = {.reset = RESET_DISCARD};
    D->configure(db, &s);
    CHECK(D->needs_reset(c));
    CHECK(done(c, "create temp table \"a\"\"b\"(a); create temp view w as select 1;"
                  "create temp table s(a integer primary key autoincrement);"
                  "create temp trigger g after insert on s begin select 1; end;"
                  "attach ':memory:' as other; pragma foreign_keys = off; begin"));
    CHECK_INT(reset(c), DB_DONE);
    CHECK_INT(integer(c, "select count(*) from sqlite_temp_master where name not like 'sqlite%'"), 0);
    CHECK_INT(integer(c, "select count(*) from pragma_database_list where name not in ('main', 'temp')"), 0);
    CHECK_INT(integer(c, "pragma foreign_keys"), 1);
    s.reset = RESET_NONE;
    D->configure(db, &s);
    CHECK_INT(reset(c), DB_DONE);
    CHECK(done(c, "begin"));
    CHECK_INT(reset(c), DB_FAILED);
    CHECK(strstr(last.message, "reset is none") != NULL);
    s.reset = RESET_ROLLBACK;
    D->configure(db, &s);
    CHECK_INT(reset(c), DB_DONE);
    CHECK_TEXT(h->log, "");
  }
}

/* ---- large, streamed, cached ---- */

#define SERIES(n) "with recursive s(i) as (select 1 union all select i + 1 from s where i < " n ") "

static void stream_specs(struct db_conn *c) {
  TEST("100,000 rows at once") {
    struct db_result *r = query(c, SERIES("100000") "select i, 'row ' || i from s");
    if (!CHECK(r != NULL)) return;
    CHECK_INT(D->rows(r), 100000);
    CHECK_INT(D->affected(r), 100000);
    CHECK_INT(cell(r, 99999, 0).integer, 100000);
    CHECK(text_is(cell(r, 77776, 1), VALUE_TEXT, "row 77777"));
    D->free_result(r);
  }
  TEST("a stream comes in batches of 256, in order, to its end") {
    int64_t next = 1;
    int batches = 0;
    bool more = CHECK(begin_statement(c, SERIES("100000") "select i from s", NULL, 0, false, true));
    while (more) {
      if (!CHECK_INT(finish(c, &last), DB_DONE)) break;
      struct db_result *r = D->result(c);
      CHECK(D->rows(r) == (next + 256 <= 100001 ? 256 : 100000 % 256));
      for (int i = 0; i < D->rows(r); i++)
        if (cell(r, i, 0).integer != next++) CHECK(false);
      D->free_result(r);
      batches++;
      more = !D->finished(c);
      CHECK_INT(D->status(c), more ? DB_BUSY : DB_IDLE);
    }
    CHECK_INT(next, 100001);
    CHECK_INT(batches, 391);
  }
  TEST("a stream of exactly one batch is finished with it, an empty one has its columns") {
    CHECK(begin_statement(c, SERIES("256") "select i from s", NULL, 0, false, true));
    CHECK_INT(finish(c, &last), DB_DONE);
    CHECK(D->finished(c));
    D->free_result(D->result(c));
    CHECK(begin_statement(c, "select 1 as one where 0", NULL, 0, false, true));
    CHECK_INT(finish(c, &last), DB_DONE);
    CHECK(D->finished(c));
    struct db_result *r = D->result(c);
    CHECK(D->rows(r) == 0 && D->columns(r) == 1);
    D->free_result(r);
  }
  TEST("a stream left in the middle, its batch taken or not, is reset; what it read stays readable") {
    for (int taken = 0; taken < 2; taken++) {
      CHECK(begin_statement(c, SERIES("100000") "select i from s", NULL, 0, false, true));
      CHECK_INT(finish(c, &last), DB_DONE);
      struct db_result *r = taken ? D->result(c) : NULL;
      CHECK(!D->finished(c));
      CHECK_INT(reset(c), DB_DONE);
      CHECK_INT(D->status(c), DB_IDLE);
      CHECK(D->finished(c));
      CHECK_INT(integer(c, "select 5"), 5);
      if (taken) CHECK_INT(cell(r, 255, 0).integer, 256);
      D->free_result(r);
    }
  }
  TEST("a stream that fails later fails then") {
    CHECK(begin_statement(c, SERIES("1000") "select abs(iif(i = 700, -9223372036854775808, i)) from s", NULL, 0, false, true));
    CHECK_INT(finish(c, &last), DB_DONE);
    D->free_result(D->result(c));
    CHECK_INT(finish(c, &last), DB_DONE);
    D->free_result(D->result(c));
    CHECK_INT(finish(c, &last), DB_FAILED);
    CHECK_TEXT(last.sqlstate, "22003");
    CHECK_INT(D->status(c), DB_IDLE);
  }
}

static char *columns_sql(int count) {
  char *sql = malloc((size_t)count * 2 + 16), *at = sql + sprintf(sql, "select 1");
  for (int i = 1; i < count; i++) at += sprintf(at, ",1");
  return sql;
}

static void column_spec(struct db_conn *c) {
  TEST("2,000 columns are had, 2,001 are an error") {
    char *sql = columns_sql(2000);
    struct db_result *r = query(c, sql);
    CHECK(r && D->columns(r) == 2000 && cell(r, 0, 1999).integer == 1);
    D->free_result(r);
    free(sql);
    sql = columns_sql(2001);
    CHECK(fails(c, sql, "54011"));
    free(sql);
  }
}

static void cache_specs(struct db_conn *c) {
  TEST("a kept statement has an identity, which changes when the table does") {
    CHECK(done(c, "create table g(a)"));
    struct db_result *one = query(c, "select * from g"), *two = query(c, "select * from g"), *other = query(c, "select a from g");
    if (!CHECK(one && two && other)) return;
    CHECK(D->shape(one) != NULL && D->shape(one) == D->shape(two));
    CHECK(D->shape(other) != D->shape(one));
    CHECK(done(c, "alter table g add column b boolean; insert into g values (1, true)"));
    struct db_result *after = query(c, "select * from g");
    CHECK(after && D->columns(after) == 2 && cell(after, 0, 1).type == VALUE_BOOLEAN && D->shape(after) != D->shape(one));
    CHECK_INT(D->columns(one), 1);
    D->free_result(one);
    D->free_result(two);
    D->free_result(other);
    D->free_result(after);
  }
  TEST("more statements than the cache holds, and the same ones again") {
    char sql[64];
    for (int round = 0; round < 3; round++)
      for (int i = 0; i < 100; i++) {
        snprintf(sql, sizeof sql, "select %d + $1", i);
        struct param p = number(round);
        struct db_result *r = with(c, sql, &p, 1);
        if (!CHECK(r && cell(r, 0, 0).integer == i + round)) return;
        D->free_result(r);
      }
  }
}

static const void *shape_of(struct db_conn *c, const char *sql) {
  struct db_result *r = query(c, sql);
  if (!CHECK(r != NULL)) return NULL;
  const void *shape = D->shape(r);
  D->free_result(r);
  return shape;
}

static void eviction_spec(struct db_conn *c) { /* its cache holds 16 */
  TEST("the cache keeps what was used last and lets the rest go") {
    char sql[64];
    const void *old = shape_of(c, "select 'old'"), *used = shape_of(c, "select 'used'");
    for (int i = 0; i < 15; i++) {
      snprintf(sql, sizeof sql, "select 'other %d'", i);
      shape_of(c, sql);
      CHECK(shape_of(c, "select 'used'") == used);
    }
    CHECK(shape_of(c, "select 'old'") != old);
    CHECK(shape_of(c, "select 'used'") == used);
  }
}

static void uncached_spec(struct home *h) {
  struct db *db = database(h, h->url, 0, RESET_ROLLBACK);
  TEST("without a cache it works the same, and results have no identity; they outlive connection and database") {
    struct db_conn *c = connect_to(db);
    struct param p[] = {text("kept")};
    struct db_result *r = with(c, "select $1 as name", p, 1);
    CHECK_INT(integer(c, "select 1"), 1);
    disconnect(c);
    D->destroy(db);
    struct column k;
    CHECK(r && D->shape(r) == NULL && text_is(cell(r, 0, 0), VALUE_TEXT, "kept"));
    D->column(r, 0, &k);
    CHECK_TEXT(k.name, "name");
    D->free_result(r);
  }
}

/* ---- cancels, locks, leaving ---- */

#define FOR_EVER "with recursive s(i) as (select 1 union all select i + 1 from s) select count(*) from s"

static bool waits(struct db_conn *c, int ms) { /* is it still at it after so long? */
  struct pollfd p = {.fd = D->fd(c), .events = POLLIN};
  return poll(&p, 1, ms) == 0 && D->step(c, NULL) == DB_READ;
}

static void cancel_specs(struct db_conn *c) {
  TEST("a statement that would never end is cancelled, and the next one is not") {
    for (int ms = 0; ms <= 40; ms += 20) {
      CHECK(begin_statement(c, FOR_EVER, NULL, 0, false, false));
      if (ms) CHECK(waits(c, ms));
      long long since = milliseconds();
      D->cancel(c);
      CHECK_INT(finish(c, &last), DB_FAILED);
      CHECK(milliseconds() - since < 1000);
      CHECK_INT(last.kind, POOL_CANCELLED);
      CHECK_TEXT(last.sqlstate, "57014");
      CHECK_INT(D->status(c), DB_IDLE);
      CHECK_INT(integer(c, "select 3"), 3);
    }
  }
  TEST("a cancel that comes too late, or with nothing to cancel, hurts nothing") {
    for (int i = 0; i < 200; i++) {
      CHECK(begin_statement(c, "select 4", NULL, 0, false, false));
      if (i % 2) waits(c, 1);
      D->cancel(c);
      enum db_want want = finish(c, &last);
      CHECK(want == DB_DONE || last.kind == POOL_CANCELLED);
      D->free_result(D->result(c));
      D->cancel(c);
      CHECK_INT(integer(c, SERIES("2000") "select count(*) from s"), 2000);
    }
  }
  TEST("a stream is cancelled between its batches, however little is left; what it changed is undone") {
    CHECK(done(c, "create table w(a); " SERIES("300") "insert into w select i from s"));
    CHECK(begin_statement(c, "select a from w", NULL, 0, false, true));
    CHECK_INT(finish(c, &last), DB_DONE);
    D->free_result(D->result(c));
    D->cancel(c);
    CHECK_INT(finish(c, &last), DB_FAILED);
    CHECK_INT(last.kind, POOL_CANCELLED);
    CHECK(begin_statement(c, "insert into w select a from w returning a", NULL, 0, false, true));
    CHECK_INT(finish(c, &last), DB_DONE);
    D->free_result(D->result(c));
    D->cancel(c);
    CHECK_INT(finish(c, &last), DB_FAILED);
    CHECK_INT(integer(c, "select count(*) from w"), 300);
  }
  TEST("a long stream is cancelled between its batches") {
    CHECK(begin_statement(c, SERIES("100000") "select i from s", NULL, 0, false, true));
    CHECK_INT(finish(c, &last), DB_DONE);
    D->free_result(D->result(c));
    D->cancel(c);
    CHECK_INT(finish(c, &last), DB_FAILED);
    CHECK_INT(last.kind, POOL_CANCELLED);
    CHECK_INT(D->status(c), DB_IDLE);
  }
  TEST("a reset or a close stops what is running first") {
    CHECK(begin_statement(c, FOR_EVER, NULL, 0, false, false));
    CHECK(waits(c, 5));
    CHECK_INT(reset(c), DB_DONE);
    CHECK_INT(D->status(c), DB_IDLE);
    CHECK_INT(integer(c, "select 6"), 6);
  }
}

static void lock_specs(struct db *db, struct db_conn *a) {
  struct db_conn *b = connect_to(db);
  CHECK(done(a, "create table l(a)"));
  TEST("a lock is waited for, and had when it is given back") {
    CHECK(done(a, "begin immediate; insert into l values (1)"));
    CHECK(begin_statement(b, "insert into l values (2)", NULL, 0, false, false));
    CHECK(waits(b, 50));
    CHECK_INT(integer(a, "select count(*) from l"), 1);
    CHECK(done(a, "commit"));
    CHECK_INT(finish(b, &last), DB_DONE);
    D->free_result(D->result(b));
    CHECK_INT(integer(a, "select count(*) from l"), 2);
  }
  TEST("waiting for a lock is cancelled at once") {
    CHECK(done(a, "begin immediate"));
    CHECK(begin_statement(b, "begin immediate", NULL, 0, false, false));
    CHECK(waits(b, 50));
    long long since = milliseconds();
    D->cancel(b);
    CHECK_INT(finish(b, &last), DB_FAILED);
    CHECK(milliseconds() - since < 500);
    CHECK_INT(last.kind, POOL_CANCELLED);
    CHECK_INT(D->status(b), DB_IDLE);
  }
  TEST("a lock that is not given back in five seconds is 55P03, to be tried again") {
    long long since = milliseconds();
    CHECK(fails(b, "insert into l values (3)", "55P03"));
    CHECK(milliseconds() - since >= 4900);
    CHECK(last.retryable);
    CHECK_INT(last.kind, POOL_QUERY);
    CHECK_INT(reset(a), DB_DONE);
    CHECK(done(b, "insert into l values (3)"));
  }
  TEST("a transaction that read before another wrote must start again: 40001, at once") {
    CHECK(done(a, "begin"));
    integer(a, "select count(*) from l");
    CHECK(done(b, "insert into l values (4)"));
    long long since = milliseconds();
    CHECK(fails(a, "insert into l values (5)", "40001"));
    CHECK(milliseconds() - since < 1000);
    CHECK_INT(reset(a), DB_DONE);
  }
  disconnect(b);
}

/* One of ten that write at once: begins, inserts, commits, over and over. */
struct writer {
  struct db_conn *c;
  int at; /* statements done */
};

enum { WRITERS = 10, WRITES = 20 };

static void writer_send(struct writer *w) {
  static const char *const sqls[] = {"begin immediate", "insert into many values ($1)", "commit"};
  struct param p = number(w->at);
  CHECK(begin_statement(w->c, sqls[w->at % 3], &p, w->at % 3 == 1, false, false));
}

/* True while it has more to do. */
static bool writer_step(struct writer *w) {
  struct pool_error e;
  enum db_want want = D->step(w->c, &e);
  if (want == DB_READ) return true;
  if (!CHECK_INT(want, DB_DONE)) return false;
  D->free_result(D->result(w->c));
  if (++w->at == 3 * WRITES) return false;
  writer_send(w);
  return true;
}

static void writers_spec(struct db *db, struct db_conn *c) {
  TEST("ten connections that write at once each get their turn") {
    struct writer writers[WRITERS] = {{NULL, 0}};
    struct pollfd fds[WRITERS];
    int left = WRITERS;
    CHECK(done(c, "create table many(a)"));
    for (int i = 0; i < WRITERS; i++) {
      writers[i].c = connect_to(db);
      writer_send(&writers[i]);
      fds[i] = (struct pollfd){.fd = D->fd(writers[i].c), .events = POLLIN};
    }
    while (left > 0 && CHECK(poll(fds, WRITERS, 20000) > 0))
      for (int i = 0; i < WRITERS; i++) {
        if (fds[i].fd < 0 || !fds[i].revents || writer_step(&writers[i])) continue;
        fds[i].fd = -1;
        left--;
      }
    for (int i = 0; i < WRITERS; i++) disconnect(writers[i].c);
    CHECK_INT(integer(c, "select count(*) from many"), WRITERS * WRITES);
  }
}

static void depth_spec(struct db_conn *c) {
  TEST("what recurses inside SQLite has stack enough") {
    enum { PAIRS = 24000 };
    char *pattern = malloc(2 * PAIRS + 1);
    for (int i = 0; i < PAIRS; i++) memcpy(pattern + 2 * i, "%a", 3);
    struct param p = text(pattern);
    struct db_result *r = with(c, "select replace($1, '%', '') like $1", &p, 1);
    CHECK(r && cell(r, 0, 0).integer == 1);
    D->free_result(r);
    free(pattern);
  }
}

static void leave_specs(struct home *h) {
  struct db *db = database(h, h->url, 16, RESET_ROLLBACK);
  struct pool_error e;
  TEST("abandoning blocks nobody: while opening, running, streaming, idle, in a transaction") {
    long long since = milliseconds();
    for (int i = 0; i < 5; i++) {
      D->abandon(D->open(db, &e));
      struct db_conn *c = connect_to(db);
      if (i == 1) CHECK(begin_statement(c, FOR_EVER, NULL, 0, false, false));
      if (i == 2) CHECK(begin_statement(c, SERIES("5000") "select i from s", NULL, 0, false, true) && finish(c, &e) == DB_DONE);
      if (i == 3) CHECK(done(c, "begin immediate"));
      if (i == 4) D->reset(c);
      D->abandon(c);
    }
    CHECK(milliseconds() - since < 15000);
  }
  TEST("close follows what is running, and may come while the connection opens") {
    struct db_conn *c = connect_to(db);
    CHECK(begin_statement(c, FOR_EVER, NULL, 0, false, false));
    disconnect(c);
    disconnect(D->open(db, &e));
    c = connect_to(db);
    CHECK(done(c, "begin immediate"));
    disconnect(c);
    c = connect_to(db); /* that transaction is gone with its connection */
    CHECK(done(c, "begin immediate; rollback"));
    disconnect(c);
  }
  D->destroy(db);
}

static void signal_spec(struct home *h) {
  struct db *db = database(h, h->url, 16, RESET_ROLLBACK);
  TEST("a connection's thread takes none of the process's signals") {
    sigset_t set, before;
    struct db_conn *c = connect_to(db);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, &before);
    CHECK_INT(kill(getpid(), SIGUSR2), 0); /* would end the process on a thread that does not block it */
    CHECK_INT(integer(c, "select 1"), 1);
    CHECK_INT(sigwaitinfo(&set, NULL), SIGUSR2);
    sigprocmask(SIG_SETMASK, &before, NULL);
    disconnect(c);
  }
  D->destroy(db);
}

static void shared_specs(struct home *h) {
  struct db *db = database(h, h->url, 16, RESET_ROLLBACK);
  struct db_conn *c = connect_to(db);
  type_specs(c);
  json_spec(c);
  param_specs(c);
  error_specs(c);
  command_specs(c);
  transaction_specs(h, db, c);
  stream_specs(c);
  column_spec(c);
  cache_specs(c);
  eviction_spec(c);
  cancel_specs(c);
  lock_specs(db, c);
  writers_spec(db, c);
  depth_spec(c);
  disconnect(c);
  D->destroy(db);
}

int main(void) {
  static void (*const groups[])(struct home *) = {open_specs,   refusal_specs, memory_specs, shared_specs,
                                                  uncached_spec, leave_specs,  signal_spec};
  for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
    struct home h;
    home_begin(&h);
    groups[i](&h);
    home_end(&h);
  }
  return check_done();
}
