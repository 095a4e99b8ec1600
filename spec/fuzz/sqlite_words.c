/*
** sqlite_words: what the SQLite driver reads of SQL itself (db/sqlite_words.c), and whose value each parameter is (db/sqlite_statement.c).
**
** A text is looked at as the driver does and as SQLite does, which only prepares it: both find the same nothing in it, and what the command
** is called fits what SQLite says it does. A text that begins with NUL is instead bytes that choose a select of variables in any notation
** and order, between comments and texts that look like some: each column is the parameter that it should be.
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "db/sqlite.h"
#include "fuzz/fuzz.h"

enum { VARIABLES_MAX = 12, NUMBER_MAX = 20 };

/* ---- words ---- */

static bool one_of(const char *word, const char *const *list) {
  for (; *list; list++)
    if (strcmp(word, *list) == 0) return true;
  return false;
}

/* SQLite takes it all as nothing but blanks, comments and semicolons. */
static bool sqlite_sees_nothing(sqlite3 *db, const char *sql, const char *end) {
  while (sql < end) {
    sqlite3_stmt *stmt = NULL;
    const char *tail = NULL;
    int code = sqlite3_prepare_v2(db, sql, (int)(end - sql) + 1, &stmt, &tail);
    sqlite3_finalize(stmt);
    if (code != SQLITE_OK || stmt != NULL || tail <= sql) return false;
    sql = tail;
  }
  return true;
}

static void command_check(sqlite3_stmt *stmt, const char *command) {
  static const char *const changing[] = {"INSERT", "UPDATE", "DELETE", NULL}, *const reading[] = {"SELECT", NULL};
  HOLDS(command[0] != '\0' && strlen(command) < WORDS_COMMAND);
  for (const char *p = command; *p; p++) HOLDS(*p == ' ' || *p == '_' || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9'));
  if (sqlite3_stmt_isexplain(stmt))
    HOLDS(strcmp(command, "EXPLAIN") == 0);
  else if (one_of(command, changing))
    HOLDS(!sqlite3_stmt_readonly(stmt));
  else if (one_of(command, reading))
    HOLDS(sqlite3_stmt_readonly(stmt) && sqlite3_column_count(stmt) > 0);
  else
    HOLDS(strncmp(command, "WITH", 4) != 0);
}

static void words_check(const char *sql, size_t len) {
  sqlite3 *db = NULL;
  sqlite3_stmt *stmt = NULL;
  const char *end = sql + len, *start = words_skip(sql, end);
  char command[WORDS_COMMAND];
  HOLDS(start >= sql && start <= end && words_skip(start, end) == start);
  words_command(sql, end, command);
  words_outside(sql, end);
  HOLDS(sqlite3_open(":memory:", &db) == SQLITE_OK);
  sqlite3_exec(db, "create table t(a, b, c)", NULL, NULL, NULL);
  HOLDS((start == end) == sqlite_sees_nothing(db, sql, end));
  if (start < end && sqlite3_prepare_v2(db, start, (int)(end - start) + 1, &stmt, NULL) == SQLITE_OK && stmt) command_check(stmt, command);
  sqlite3_finalize(stmt);
  sqlite3_close(db);
}

/* ---- variables ---- */

/* What SQLite numbers, and which parameter each number stands for by the driver's rule: `$n` the n-th; others by SQLite's own. */
struct model {
  char sql[2048];
  size_t len;
  char names[NUMBER_MAX * 2][8]; /* of `$n`, by SQLite's number; "" of others */
  int numbers;                   /* SQLite's, so far */
  int columns[VARIABLES_MAX];    /* SQLite's number of each column; 0: no variable */
  int count;
};

static void model_text(struct model *m, const char *text) {
  m->len += (size_t)snprintf(m->sql + m->len, sizeof m->sql - m->len, "%s", text);
}

static int model_named(struct model *m, int n) {
  char name[8];
  snprintf(name, sizeof name, "$%d", n);
  for (int i = 1; i <= m->numbers; i++)
    if (strcmp(m->names[i], name) == 0) return i;
  snprintf(m->names[++m->numbers], sizeof m->names[0], "%s", name);
  return m->numbers;
}

static void model_column(struct model *m, struct fuzz *f) {
  static const char *const blanks[] = {" ", "\n", "/* $1 ? */", "-- ?3 $2\n", "\t", " +"};
  static const char *const others[] = {"'a $1 ?'", "\"t\".\"$3\"", "`$2`", "[?1]", "x'24'", "null", "'it''s ?2'"};
  char text[16];
  unsigned kind = fuzz_below(f, 4);
  int n = 1 + (int)fuzz_below(f, NUMBER_MAX - 1);
  model_text(m, m->count ? "," : "");
  model_text(m, blanks[fuzz_below(f, 6)]);
  if (kind == 0) {
    m->columns[m->count] = ++m->numbers;
    model_text(m, "?");
  } else if (kind == 1) {
    if (n > m->numbers) m->numbers = n;
    m->columns[m->count] = n;
    snprintf(text, sizeof text, "?%d", n), model_text(m, text);
  } else if (kind == 2) {
    m->columns[m->count] = model_named(m, n);
    snprintf(text, sizeof text, "$%d", n), model_text(m, text);
  } else {
    model_text(m, others[fuzz_below(f, 7)]);
  }
  model_text(m, blanks[fuzz_below(f, 6) % 5]);
  m->count++;
}

static int model_parameter(const struct model *m, int number) { return m->names[number][0] ? atoi(m->names[number] + 1) : number; }

static enum db_want finish(struct db_conn *c, struct pool_error *e) {
  for (;;) {
    enum db_want want = sqlite_driver.step(c, e);
    if (want == DB_DONE || want == DB_FAILED) return want;
    HOLDS(fuzz_readable(sqlite_driver.fd(c), -1, 20000));
  }
}

/* One connection for all runs: what they do leaves nothing behind. */
static struct db *kept_db;
static struct db_conn *kept_conn;

static void kept_end(void) {
  struct pool_error error;
  sqlite_driver.close(kept_conn);
  finish(kept_conn, &error);
  sqlite_driver.abandon(kept_conn);
  sqlite_driver.destroy(kept_db);
}

static struct db_conn *connection(void) {
  struct db_settings settings = {.statement_cache = 4};
  struct pool_error error;
  if (kept_conn != NULL) return kept_conn;
  text_copy(settings.database_url, sizeof settings.database_url, "sqlite:///:memory:");
  kept_db = sqlite_driver.create(&settings, NULL, NULL, &error);
  HOLDS(kept_db != NULL);
  kept_conn = sqlite_driver.open(kept_db, &error);
  HOLDS(kept_conn != NULL && finish(kept_conn, &error) == DB_DONE);
  atexit(kept_end);
  struct statement s = {.sql = "create table t(\"$3\", \"$2\", \"?1\"); insert into t values (1, 2, 3)", .script = true};
  s.len = strlen(s.sql);
  HOLDS(sqlite_driver.send(kept_conn, &s, &error) && finish(kept_conn, &error) == DB_DONE);
  sqlite_driver.free_result(sqlite_driver.result(kept_conn));
  return kept_conn;
}

/* Parameter n is the integer n. */
static struct db_result *run(struct db_conn *c, const struct model *m, int nparams, struct pool_error *error) {
  struct param params[NUMBER_MAX * 2];
  for (int i = 0; i < nparams; i++) params[i] = (struct param){.type = PARAM_INTEGER, .integer = 1000 + i + 1};
  struct statement s = {.sql = m->sql, .len = m->len, .params = params, .nparams = nparams};
  HOLDS(sqlite_driver.send(c, &s, error));
  return finish(c, error) == DB_DONE ? sqlite_driver.result(c) : NULL;
}

static void variables_check(struct fuzz *f) {
  static struct model m; /* static for its size alone */
  struct pool_error error = {.kind = POOL_OK};
  struct db_conn *c = connection();
  struct value v;
  int most = 0;
  memset(&m, 0, sizeof m);
  model_text(&m, "select");
  for (int i = 1 + (int)fuzz_below(f, VARIABLES_MAX); i > 0; i--) model_column(&m, f);
  model_text(&m, " from t");
  for (int i = 1; i <= m.numbers; i++) most = model_parameter(&m, i) > most ? model_parameter(&m, i) : most;
  struct db_result *r = run(c, &m, most, &error);
  HOLDS(r != NULL && sqlite_driver.rows(r) == 1 && sqlite_driver.columns(r) == m.count);
  for (int i = 0; i < m.count; i++) {
    sqlite_driver.cell(r, 0, i, &v);
    if (m.columns[i])
      HOLDS(v.type == VALUE_INTEGER && v.integer == 1000 + model_parameter(&m, m.columns[i]));
    else
      HOLDS(v.type != VALUE_INTEGER || v.integer < 1000);
  }
  sqlite_driver.free_result(r);
  HOLDS(run(c, &m, most + 1, &error) == NULL && strcmp(error.sqlstate, "08P01") == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct fuzz f = fuzz_of(data, size);
  if (size > 0 && data[0] == 0) {
    fuzz_byte(&f);
    variables_check(&f);
    return 0;
  }
  char *text = fuzz_text(data, size);
  words_check(text, strlen(text));
  free(text);
  return 0;
}
