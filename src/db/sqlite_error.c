/*
** sqlite_error: SQLite's codes and messages as SQLSTATEs of PostgreSQL's, so that one application serves both databases.
**
** The extended code decides where there is one (constraints, locks); for SQLITE_ERROR there is only the message, whose
** beginnings have been stable for many years: what is not recognised is 42000. Constraint, table and column come out of the
** message (`UNIQUE constraint failed: task.title`); with several columns only the table is named.
**
** A lock (BUSY, LOCKED) is 55P03 and retryable: the statement had no effect. A transaction that read before others wrote
** (BUSY_SNAPSHOT) cannot be saved by trying the statement again, only as a whole: 40001, which db:transaction retries.
** Too few or too many parameters are 08P01 and an unknown name 42P02, as in PostgreSQL.
*/
#include "sqlite.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct code_state {
  int code;
  const char *state;
};

static const char *state_of_code(int code) {
  static const struct code_state states[] = {
    {SQLITE_CONSTRAINT_UNIQUE, "23505"},
    {SQLITE_CONSTRAINT_PRIMARYKEY, "23505"},
    {SQLITE_CONSTRAINT_ROWID, "23505"},
    {SQLITE_CONSTRAINT_FOREIGNKEY, "23503"},
    {SQLITE_CONSTRAINT_NOTNULL, "23502"},
    {SQLITE_CONSTRAINT_CHECK, "23514"},
    {SQLITE_CONSTRAINT_TRIGGER, "P0001"}, /* raise(abort, ...) */
    {3091 /* SQLITE_CONSTRAINT_DATATYPE */, "42804"},
    {SQLITE_BUSY_SNAPSHOT, "40001"},
    {SQLITE_CONSTRAINT, "23000"},
    {SQLITE_BUSY, "55P03"},
    {SQLITE_LOCKED, "55P03"},
    {SQLITE_READONLY, "25006"},
    {SQLITE_FULL, "53100"},
    {SQLITE_NOMEM, "53200"},
    {SQLITE_IOERR, "58030"},
    {SQLITE_CANTOPEN, "58030"},
    {SQLITE_CORRUPT, "XX001"},
    {SQLITE_NOTADB, "XX001"},
    {SQLITE_INTERRUPT, "57014"},
    {SQLITE_TOOBIG, "54000"},
    {SQLITE_PERM, "42501"},
    {SQLITE_AUTH, "42501"},
    {SQLITE_MISMATCH, "42804"},
    {SQLITE_RANGE, "08P01"},
    {SQLITE_ABORT, "40000"},
  };
  for (size_t i = 0; i < sizeof states / sizeof *states; i++)
    if (states[i].code == code) return states[i].state;
  return NULL;
}

struct text_state {
  const char *text, *state;
};

/* What a plain SQLITE_ERROR's message begins with, or (text with a leading '*') holds. */
static const struct text_state error_texts[] = {
  {"no such table", "42P01"},
  {"no such view", "42P01"},
  {"no such column", "42703"},
  {"* has no column named ", "42703"},
  {"ambiguous column name", "42702"},
  {"no such function", "42883"},
  {"wrong number of arguments to function", "42883"},
  {"duplicate column name", "42701"},
  {"too many columns", "54011"},
  {"no such savepoint", "3B001"},
  {"no such", "42704"},
  {"*already exists", "42P07"},
  {"there is already", "42P07"},
  {"cannot start a transaction within", "25001"},
  {"cannot commit - no transaction", "25P01"},
  {"cannot rollback - no transaction", "25P01"},
  {"misuse of", "42803"},
  {"integer overflow", "22003"},
  {"malformed JSON", "22P02"},
  {"too many", "54000"},
  {"*too large", "54000"},
  {"string or blob too big", "54000"},
  {"*syntax error", "42601"},
  {"incomplete input", "42601"},
  {"unrecognized token", "42601"},
  {"* values for ", "42601"},
  {"* values were supplied", "42601"},
};

static const char *state_of_text(const char *message) {
  for (size_t i = 0; i < sizeof error_texts / sizeof *error_texts; i++) {
    const char *text = error_texts[i].text;
    bool found = *text == '*' ? strstr(message, text + 1) != NULL : strncmp(message, text, strlen(text)) == 0;
    if (found) return error_texts[i].state;
  }
  return "42000";
}

const char *sqlite_error_state(int code, const char *message) {
  if ((code & 0xff) == SQLITE_ERROR) return state_of_text(message);
  const char *state = state_of_code(code);
  if (!state) state = state_of_code(code & 0xff);
  return state ? state : "XX000";
}

/* ---- names out of the message ---- */

static void name_copy(char *field, size_t size, const char *name, size_t len) {
  char text[256];
  snprintf(text, sizeof text, "%.*s", (int)(len < sizeof text - 1 ? len : sizeof text - 1), name);
  text_copy(field, size, text);
}

/* `table.column`, or `schema.table.column`; the column is everything after the last dot. */
static void name_column(struct pool_error *e, const char *name) {
  const char *dot = strrchr(name, '.');
  bool several = strstr(name, ", ") != NULL;
  if (several) dot = strchr(name, '.');
  if (!dot) return;
  name_copy(e->table, sizeof e->table, name, (size_t)(dot - name));
  if (!several) text_copy(e->column, sizeof e->column, dot + 1);
}

static void names_constraint(struct pool_error *e, int code) {
  static const char mark[] = "constraint failed: ";
  const char *name = strstr(e->message, mark);
  if (!name) return;
  name += sizeof mark - 1;
  if (code == SQLITE_CONSTRAINT_CHECK) text_copy(e->constraint, sizeof e->constraint, name);
  else if (strncmp(name, "index '", 7) == 0) name_copy(e->constraint, sizeof e->constraint, name + 7, strcspn(name + 7, "'"));
  else name_column(e, name);
}

static void names_missing(struct pool_error *e) {
  static const char middle[] = " has no column named ";
  const char *at = strstr(e->message, middle), *colon = strstr(e->message, ": ");
  if (at && strncmp(e->message, "table ", 6) == 0) {
    name_copy(e->table, sizeof e->table, e->message + 6, (size_t)(at - e->message - 6));
    text_copy(e->column, sizeof e->column, at + sizeof middle - 1);
  } else if (colon && strcmp(e->sqlstate, "42P01") == 0) {
    text_copy(e->table, sizeof e->table, colon + 2);
  } else if (colon && strcmp(e->sqlstate, "42703") == 0) {
    text_copy(e->column, sizeof e->column, colon + 2);
  }
}

/* A byte's offset as a 1-based character. */
static int position_of(sqlite3 *handle, const char *sql) {
  int offset = -1, position = 1;
#if SQLITE_VERSION_NUMBER >= 3038000
  if (sql) offset = sqlite3_error_offset(handle);
#else
  (void)handle;
#endif
  if (offset < 0 || (size_t)offset > strlen(sql)) return 0;
  for (int i = 0; i < offset; i++)
    if (((unsigned char)sql[i] & 0xc0) != 0x80) position++;
  return position;
}

/* ---- filling ---- */

void sqlite_error_query(struct pool_error *e, const char *sqlstate, const char *format, ...) {
  char text[sizeof e->message + 8]; /* longer than the field, so that what is cut there says so */
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  error_set(e, POOL_QUERY, "%s", text);
  text_copy(e->sqlstate, sizeof e->sqlstate, sqlstate);
}

bool sqlite_error_memory(struct pool_error *e) {
  sqlite_error_query(e, "53200", "out of memory");
  return false;
}

void sqlite_error_fill(struct pool_error *e, sqlite3 *handle, int code, bool cancelled, const char *sql) {
  const char *message = sqlite3_errmsg(handle);
  int basic = code & 0xff;
  INSIST(basic != SQLITE_OK && basic != SQLITE_ROW && basic != SQLITE_DONE);
  if (basic == SQLITE_INTERRUPT || (cancelled && basic == SQLITE_BUSY)) {
    error_set(e, POOL_CANCELLED, "the statement was cancelled");
    text_copy(e->sqlstate, sizeof e->sqlstate, "57014");
    return;
  }
  sqlite_error_query(e, sqlite_error_state(code, message), "%s", message);
  e->retryable = basic == SQLITE_BUSY || basic == SQLITE_LOCKED;
  if (basic == SQLITE_CONSTRAINT) names_constraint(e, code);
  if (basic == SQLITE_ERROR) {
    names_missing(e);
    e->position = position_of(handle, sql);
  }
}
