/*
** postgres_query_spec: statements: results, streams, scripts, errors, COPY, notices
*/
#include "db/postgres_support.h"

#include <stdlib.h>

static struct world w;
static struct db_conn *conn;
static struct pool_error e;

static void result_specs(void) {
  TEST("a statement's rows, columns, command and count come back") {
    struct statement s = statement_of("select 1 as a, 'x'::text as b union all select 2, null order by 1");
    struct db_result *r = run(&w, conn, &s, &e);
    struct column c;
    CHECK_INT(D->rows(r), 2);
    CHECK_INT(D->columns(r), 2);
    D->column(r, 1, &c);
    CHECK_TEXT(c.name, "b");
    CHECK_INT(c.type, VALUE_TEXT);
    CHECK_TEXT(cell_text(r, 1, 0), "2");
    CHECK_TEXT(cell_text(r, 1, 1), "NULL");
    CHECK_TEXT(D->command(r), "SELECT");
    CHECK_INT(D->affected(r), 2);
    D->free_result(r);
    CHECK(D->result(conn) == NULL);
  }
  TEST("commands without rows have their tag and count") {
    static const struct { const char *sql, *command; int affected; } cases[] = {
      {"create temp table tag (n int)", "CREATE TABLE", 0}, {"insert into tag values (1), (2)", "INSERT", 2},
      {"update tag set n = 3", "UPDATE", 2}, {"delete from tag where n = 4", "DELETE", 0}, {"begin", "BEGIN", 0},
      {"commit", "COMMIT", 0}, {"", "", 0}, {"select from generate_series(1,3)", "SELECT", 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
      struct statement s = statement_of(cases[i].sql);
      struct db_result *r = run(&w, conn, &s, &e);
      if (!CHECK(r != NULL)) continue;
      CHECK_TEXT(D->command(r), cases[i].command);
      CHECK_INT(D->affected(r), cases[i].affected);
      D->free_result(r);
    }
  }
  TEST("a hundred thousand rows come whole") {
    struct statement s = statement_of("select i, repeat('x', 50) from generate_series(1, 100000) i");
    struct db_result *r = run(&w, conn, &s, &e);
    CHECK(r && D->rows(r) == 100000);
    CHECK_TEXT(cell_text(r, 99999, 0), "100000");
    D->free_result(r);
  }
  TEST("a result outlives its connection") {
    struct statement s = statement_of("select '\\x00ff'::bytea, 7");
    struct db_conn *other = must_connect(&w);
    struct db_result *r = run(&w, other, &s, &e);
    goodbye(&w, other);
    struct value v;
    D->cell(r, 0, 0, &v);
    CHECK(v.type == VALUE_BYTES && v.len == 2 && memcmp(v.text, "\0\377", 2) == 0);
    D->free_result(r);
  }
  TEST("a ping answers and gives nothing") {
    D->ping(conn);
    CHECK(await(&w, conn, &e) == DB_DONE);
    CHECK(D->result(conn) == NULL && D->status(conn) == DB_IDLE);
  }
}

static int stream(const char *sql, int *batches, struct pool_error *error) {
  struct statement s = statement_of(sql);
  int rows = 0;
  s.stream = true;
  *batches = 0;
  if (!D->send(conn, &s, error)) return -1;
  do {
    if (await(&w, conn, error) != DB_DONE) return -1;
    struct db_result *r = D->result(conn);
    if (!CHECK(r && D->rows(r) <= 256)) return -1;
    if (D->rows(r) > 0) CHECK_INT(strtoll(cell_text(r, 0, 0), NULL, 10), rows + 1);
    rows += D->rows(r);
    ++*batches;
    D->free_result(r);
  } while (!D->finished(conn));
  return rows;
}

static void stream_specs(void) {
  int batches;
  TEST("a stream comes in batches of 256 and then its end") {
    CHECK_INT(stream("select i from generate_series(1, 1000) i", &batches, &e), 1000);
    CHECK_INT(batches, 4);
    CHECK_INT(stream("select i from generate_series(1, 512) i", &batches, &e), 512);
    CHECK_INT(batches, 3);
    CHECK_INT(stream("select i from generate_series(1, 100000) i", &batches, &e), 100000);
    CHECK(D->status(conn) == DB_IDLE);
  }
  TEST("an empty stream has columns and one batch") {
    struct statement s = statement_of("select 1 as a where false");
    s.stream = true;
    struct db_result *r = run(&w, conn, &s, &e);
    CHECK(r && D->rows(r) == 0 && D->columns(r) == 1 && D->finished(conn));
    D->free_result(r);
  }
  TEST("a prepared statement streams too") {
    const char *sql = "select i from generate_series(1, 300) i";
    CHECK_TEXT(one(&w, conn, sql), "1");
    CHECK_INT(stream(sql, &batches, &e), 300);
  }
  TEST("a stream that fails in its middle gives its rows and then the error") {
    struct statement s = statement_of("select 1 / (300 - i) from generate_series(1, 400) i");
    s.stream = true;
    struct db_result *r = run(&w, conn, &s, &e);
    CHECK(r && D->rows(r) == 256 && !D->finished(conn));
    D->free_result(r);
    CHECK(await(&w, conn, &e) == DB_FAILED);
    CHECK_TEXT(e.sqlstate, "22012");
    CHECK(D->finished(conn) && D->status(conn) == DB_IDLE);
  }
}

static void script_specs(void) {
  TEST("a script's result is its last statement's") {
    struct statement s = statement_of("create temp table sc (n int); insert into sc values (1),(2),(3); select count(*) from sc");
    s.script = true;
    struct db_result *r = run(&w, conn, &s, &e);
    CHECK(r && strcmp(cell_text(r, 0, 0), "3") == 0);
    D->free_result(r);
  }
  TEST("a script's first error wins, and the rest does not run") {
    struct statement s = statement_of("insert into sc values (4); select 1/0; select nonsense");
    s.script = true;
    CHECK(run(&w, conn, &s, &e) == NULL);
    CHECK_TEXT(e.sqlstate, "22012");
    CHECK_TEXT(one(&w, conn, "select count(*) from sc"), "3");
  }
  TEST("two statements outside a script are refused by the server") {
    CHECK(fails(&w, conn, "select 1; select 2", &e));
    CHECK_TEXT(e.sqlstate, "42601");
  }
}

static void error_specs(void) {
  TEST("an error has its fields") {
    CHECK(execute(&w, conn, "create table if not exists public.er (n int constraint positive check (n > 0), t text not null)"));
    CHECK(fails(&w, conn, "insert into er values (-1, 'x')", &e));
    CHECK_INT(e.kind, POOL_QUERY);
    CHECK_TEXT(e.sqlstate, "23514");
    CHECK_TEXT(e.constraint, "positive");
    CHECK_TEXT(e.schema, "public");
    CHECK_TEXT(e.table, "er");
    CHECK(strstr(e.detail, "Failing row") != NULL);
    CHECK(!e.retryable && !e.disconnect && !e.permanent);
    CHECK(fails(&w, conn, "insert into er values (1, null)", &e));
    CHECK_TEXT(e.column, "t");
    CHECK(fails(&w, conn, "select nope from er", &e));
    CHECK_INT(e.position, 8);
    CHECK_TEXT(e.message, "column \"nope\" does not exist");
    CHECK(execute(&w, conn, "drop table er"));
  }
  TEST("an error in a transaction leaves it failed, and the next statement says so") {
    CHECK(execute(&w, conn, "begin"));
    CHECK(D->status(conn) == DB_IN_TRANSACTION);
    CHECK(fails(&w, conn, "select 1/0", &e));
    CHECK(D->status(conn) == DB_IN_FAILED_TRANSACTION);
    CHECK(fails(&w, conn, "select 1", &e));
    CHECK_TEXT(e.sqlstate, "25P02");
    CHECK(execute(&w, conn, "rollback"));
    CHECK(D->status(conn) == DB_IDLE);
  }
  TEST("the server's own statement_timeout is a deadline") {
    CHECK(execute(&w, conn, "set statement_timeout = 50"));
    CHECK(fails(&w, conn, "select pg_sleep(20)", &e));
    CHECK_INT(e.kind, POOL_DEADLINE);
    CHECK(execute(&w, conn, "reset statement_timeout"));
  }
  TEST("writing in a read-only transaction of a primary is no disconnect") {
    CHECK(execute(&w, conn, "begin read only"));
    CHECK(fails(&w, conn, "create table ro (n int)", &e));
    CHECK_TEXT(e.sqlstate, "25006");
    CHECK(!e.disconnect);
    CHECK(execute(&w, conn, "rollback"));
  }
  TEST("notices go to the log, by their severity") {
    w.log[0] = '\0';
    CHECK(execute(&w, conn, "do $$ begin raise notice 'hello'; raise warning 'careful'; end $$"));
    CHECK_TEXT(w.log, "info: NOTICE: hello\nwarn: WARNING: careful\n");
  }
}

static void copy_specs(void) {
  static const char *const copies[] = {
    "copy (select repeat('x', 1000) from generate_series(1, 2000)) to stdout", "copy cp from stdin",
    "/* hidden */ copy cp from stdin", "/* hidden */ copy (select 1) to stdout"};
  TEST("COPY is refused in a statement and in a script, and the connection is fit afterwards") {
    CHECK(execute(&w, conn, "create temp table cp (n int)"));
    for (size_t i = 0; i < 8; i++) {
      struct statement s = statement_of(copies[i % 4]);
      s.script = i >= 4;
      CHECK(run(&w, conn, &s, &e) == NULL);
      if (!CHECK(e.kind == POOL_QUERY && strstr(e.message, "COPY") == e.message)) printf("%s: %s\n", copies[i % 4], e.message);
      if (!CHECK(D->status(conn) == DB_IDLE)) return;
      CHECK_TEXT(one(&w, conn, "select 41 + 1"), "42");
    }
  }
}

static void param_specs(void) {
  struct param p[4] = {{.type = PARAM_TEXT, .text = "a\0b", .len = 3}};
  TEST("a NUL in text is refused by its number, and nothing was sent") {
    struct statement s = {.sql = "select $1", .len = 9, .params = p, .nparams = 1};
    CHECK(!D->send(conn, &s, &e));
    CHECK_TEXT(e.sqlstate, "22021");
    CHECK(e.kind == POOL_QUERY && e.retryable && strstr(e.message, "$1") != NULL);
    CHECK(D->status(conn) == DB_IDLE);
  }
  TEST("more than 65,535 parameters are refused") {
    struct statement s = {.sql = "select 1", .len = 8, .params = p, .nparams = 65536};
    CHECK(!D->send(conn, &s, &e));
    CHECK(strstr(e.message, "65535") != NULL);
    CHECK_TEXT(one(&w, conn, "select 1"), "1");
  }
  TEST("too few parameters are the server's error") {
    struct statement s = {.sql = "select $1::int + $2::int", .len = 24, .params = p, .nparams = 0};
    CHECK(run(&w, conn, &s, &e) == NULL);
    CHECK_TEXT(e.sqlstate, "08P01");
    CHECK(D->status(conn) == DB_IDLE);
  }
  TEST("a statement far larger than the socket's buffer is sent without waiting") {
    size_t len = 24u << 20;
    char *text = malloc(len + 1);
    memset(text, 'y', len);
    text[len] = '\0';
    struct param big = {.type = PARAM_TEXT, .text = text, .len = len};
    struct statement s = {.sql = "select length($1)", .len = 17, .params = &big, .nparams = 1};
    struct db_result *r = run(&w, conn, &s, &e);
    CHECK(r && strcmp(cell_text(r, 0, 0), "25165824") == 0);
    D->free_result(r);
    free(text);
  }
}

void query_specs(void) {
  world_open(&w, NULL, &e);
  conn = must_connect(&w);
  result_specs();
  stream_specs();
  script_specs();
  error_specs();
  copy_specs();
  param_specs();
  TEST("the session is still there, and says goodbye") {
    CHECK(D->status(conn) == DB_IDLE);
    goodbye(&w, conn);
  }
  world_close(&w);
}
