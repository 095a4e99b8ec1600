/*
** sqlite_file: any bytes as a SQLite database, opened and asked by the real driver (db/sqlite*.c).
**
** SQLite itself is fuzzed elsewhere. Here: opening, reading, writing, streaming and closing end, each in a result or an error of a kind and
** with texts as base.h promises; cells are what they say they are; json that is handed on is JSON.
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "db/json_text.h"
#include "db/sqlite.h"
#include "fuzz/fuzz.h"

#define D (&sqlite_driver)
#define KIND(kind) (1u << (kind))

enum { ROWS_MAX = 500 };

static void text_check(const char *text, size_t size) {
  size_t len = strnlen(text, size);
  HOLDS(len < size && utf8_valid(text, len));
}

static void error_check(const struct pool_error *e, unsigned kinds) {
  HOLDS((KIND(e->kind) & kinds) && e->message[0] != '\0' && (e->sqlstate[0] == '\0' || strlen(e->sqlstate) == 5));
  text_check(e->message, sizeof e->message);
  text_check(e->constraint, sizeof e->constraint);
  text_check(e->table, sizeof e->table);
  text_check(e->column, sizeof e->column);
}

static void log_line(void *user, const char *level, const char *line) {
  (void)user;
  HOLDS(strcmp(level, "error") != 0);
  text_check(line, strlen(line) + 1);
  for (const char *p = line; *p; p++) HOLDS((unsigned char)*p >= ' ' && *p != 0x7f);
}

/* Awaits its end; one that takes very long is cancelled, as a statement_timeout would. */
static enum db_want finish(struct db_conn *c, struct pool_error *e) {
  for (bool cancelled = false;;) {
    enum db_want want = D->step(c, e);
    if (want == DB_DONE || want == DB_FAILED) return want;
    if (fuzz_readable(D->fd(c), -1, cancelled ? 20000 : 1000)) continue;
    HOLDS(!cancelled);
    D->cancel(c);
    cancelled = true;
  }
}

static void result_check(struct db_result *r) {
  struct json_buffer b;
  struct pool_error error;
  json_buffer_init(&b);
  for (int i = 0; i < D->rows(r) * D->columns(r); i++) {
    struct value v;
    D->cell(r, i / D->columns(r), i % D->columns(r), &v);
    HOLDS(v.type != VALUE_ARRAY && v.type != VALUE_NUMERIC);
    if (v.type == VALUE_JSON) HOLDS(json_valid(v.text, v.len));
  }
  if (json_append_result(&b, D, r, &error))
    HOLDS(utf8_valid(b.data, b.len) && json_valid(b.data, b.len));
  else
    error_check(&error, KIND(POOL_JSON));
  json_buffer_free(&b);
}

/* false: nothing more is to be had from the connection. */
static bool ask(struct db_conn *c, const char *sql, bool stream) {
  static const struct param params[] = {{.type = PARAM_INTEGER, .integer = 5}, {.type = PARAM_TEXT, .text = "x", .len = 1}};
  struct statement s = {.sql = sql, .len = strlen(sql), .stream = stream, .params = params, .nparams = strstr(sql, "$2") ? 2 : 0};
  struct pool_error error = {.kind = POOL_OK};
  if (D->status(c) == DB_DEAD) return false;
  HOLDS(D->send(c, &s, &error));
  for (int rows = 0; rows < ROWS_MAX;) {
    if (finish(c, &error) == DB_FAILED) {
      error_check(&error, KIND(POOL_QUERY) | KIND(POOL_LOST) | KIND(POOL_CANCELLED));
      break;
    }
    struct db_result *r = D->result(c);
    HOLDS(r != NULL);
    result_check(r);
    rows += D->rows(r) + 1;
    D->free_result(r);
    if (D->finished(c)) break;
  }
  if (D->status(c) == DB_DEAD) return false;
  D->reset(c);
  return finish(c, &error) == DB_DONE;
}

static void conversation(struct db_conn *c) {
  static const char *const sqls[] = {"select type, name, tbl_name, sql from sqlite_master",
                                     "select * from t limit 300",
                                     "select * from t order by 1 limit 20",
                                     "insert into t values ($1, $2)",
                                     "update t set a = a + 1 where rowid < 5",
                                     "pragma integrity_check(3)",
                                     "select count(*) from t",
                                     "delete from t where rowid = 1"};
  struct pool_error error = {.kind = POOL_OK};
  if (finish(c, &error) == DB_FAILED) {
    error_check(&error, KIND(POOL_CONNECT));
    return;
  }
  bool more = true;
  for (size_t i = 0; more && i < sizeof sqls / sizeof sqls[0]; i++) more = ask(c, sqls[i], i == 1);
  D->close(c);
  HOLDS(finish(c, &error) == DB_DONE);
}

static void siblings_remove(const char *path) {
  static const char *const ends[] = {"-wal", "-shm", "-journal"};
  char name[300];
  for (int i = 0; i < 3; i++) {
    snprintf(name, sizeof name, "%s%s", path, ends[i]);
    unlink(name);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct db_settings settings = {.statement_cache = 2};
  struct pool_error error;
  const char *path = fuzz_file();
  fuzz_file_write(data, size);
  snprintf(settings.database_url, sizeof settings.database_url, "sqlite:///%s%s", path, size % 4 == 3 ? "?mode=ro" : "");
  struct db *db = D->create(&settings, log_line, NULL, &error);
  HOLDS(db != NULL);
  struct db_conn *c = D->open(db, &error);
  HOLDS(c != NULL);
  conversation(c);
  D->abandon(c);
  D->destroy(db);
  siblings_remove(path);
  return 0;
}
