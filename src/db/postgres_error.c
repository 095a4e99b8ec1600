/*
** postgres_error: what the server or libpq says went wrong, as a struct pool_error.
**
** A server's error comes in fields. A lost connection mostly comes without an SQLSTATE: the reason, when there was one, came
** before as a FATAL, often as a notice, and is kept in the connection (`doom`). A failed open has only libpq's text, made
** verbose so that it holds the SQLSTATE. libpq's text about the connection string itself may show a secret: it never comes
** here.
**
** What leaves the driver is masked (error_mask): a server that is told a password can say it, and quotes parameters. Only then, since
** what an error means is read from its message in places.
*/
#include "mask.h"
#include "postgres.h"

#include <ctype.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void postgres_log(struct db *db, const char *level, const char *format, ...) {
  if (!db->log) return;
  char line[1200];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  text_line(line);
  db->log(db->user, level, line);
}

bool postgres_dead(const struct db_conn *conn) { return conn->dead || !conn->pg || PQstatus(conn->pg) == CONNECTION_BAD; }

static bool is_one_of(const char *state, const char *const *states) {
  for (; *states; states++)
    if (strcmp(state, *states) == 0) return true;
  return false;
}

static bool state_is_lonely(const char *state) { /* concerns its connection alone */
  static const char *const lonely[] = {"57P05", "25P03", "57P04", NULL};
  return is_one_of(state, lonely);
}

static bool state_is_disconnect(const char *state) {
  static const char *const states[] = {"57P01", "57P02", "57P03", NULL};
  return is_one_of(state, states);
}

static void field_copy(char *field, size_t size, const PGresult *result, int code) {
  text_copy(field, size, PQresultErrorField(result, code));
  text_clean(field);
}

/* Five digits and capitals, or none. */
static void state_copy(char state[6], const char *given) {
  bool fine = given && strlen(given) == 5 && strspn(given, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5;
  text_copy(state, 6, fine ? given : "");
}

/* A server that is none, or means ill, may leave out what the protocol asks for. */
static void fields_copy(const PGresult *result, struct pool_error *error) {
  const char *position = PQresultErrorField(result, PG_DIAG_STATEMENT_POSITION);
  long place = position ? strtol(position, NULL, 10) : 0;
  error->position = place > 0 && place <= INT_MAX ? (int)place : 0;
  state_copy(error->sqlstate, PQresultErrorField(result, PG_DIAG_SQLSTATE));
  field_copy(error->message, sizeof error->message, result, PG_DIAG_MESSAGE_PRIMARY);
  if (!error->message[0]) text_copy(error->message, sizeof error->message, "the server sent an error without a message");
  field_copy(error->detail, sizeof error->detail, result, PG_DIAG_MESSAGE_DETAIL);
  field_copy(error->hint, sizeof error->hint, result, PG_DIAG_MESSAGE_HINT);
  field_copy(error->constraint, sizeof error->constraint, result, PG_DIAG_CONSTRAINT_NAME);
  field_copy(error->schema, sizeof error->schema, result, PG_DIAG_SCHEMA_NAME);
  field_copy(error->table, sizeof error->table, result, PG_DIAG_TABLE_NAME);
  field_copy(error->column, sizeof error->column, result, PG_DIAG_COLUMN_NAME);
}

static bool severity_is_fatal(const PGresult *result) {
  const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
  return severity && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0);
}

/* An immediate stop (57P01) and another backend's crash (57P02) are said as a WARNING, and then the connection ends without more words. */
static bool says_goodbye(const PGresult *result) {
  const char *source = PQresultErrorField(result, PG_DIAG_SOURCE_FUNCTION);
  return severity_is_fatal(result) || (source && strcmp(source, "quickdie") == 0);
}

/* The first line of a libpq text, without its final space. */
static void line_copy(char *field, size_t size, const char *text) {
  char line[512];
  size_t len = strcspn(text, "\n");
  if (len >= sizeof line) len = sizeof line - 1;
  memcpy(line, text, len);
  while (len > 0 && isspace((unsigned char)line[len - 1])) len--;
  line[len] = '\0';
  text_copy(field, size, line);
}

/* What the server says of why the connection ends. */
static void doom_set(struct db_conn *conn, const PGresult *result) {
  if (conn->fatal) return;
  struct pool_error *doom = &conn->doom;
  error_set(doom, POOL_LOST, "the connection was lost");
  fields_copy(result, doom);
  doom->disconnect = !state_is_lonely(doom->sqlstate);
  doom->retryable = strcmp(doom->sqlstate, "57P05") == 0; /* said only while no statement had come */
  conn->fatal = true;
}

void error_of_loss(struct db_conn *conn, struct pool_error *error) {
  conn->dead = true;
  if (conn->fatal) {
    *error = conn->doom;
    return;
  }
  char reason[512];
  line_copy(reason, sizeof reason, conn->pg ? PQerrorMessage(conn->pg) : "");
  error_set(error, POOL_LOST, "the connection was lost: %s", reason[0] ? reason : "the server closed it");
  error->disconnect = true;
}

static bool transaction_is_read_only_by_standby(const struct db_conn *conn) {
  const char *standby = PQparameterStatus(conn->pg, "in_hot_standby");
  return !conn->read_only && standby && strcmp(standby, "on") == 0;
}

static enum pool_err kind_of_cancel(const struct db_conn *conn, const struct pool_error *error) {
  return !conn->cancelled && strstr(error->message, "statement timeout") ? POOL_DEADLINE : POOL_CANCELLED;
}

/* 42P18 is what one parameter too many comes to; the server says nothing about why. */
static void hint_add(struct pool_error *error) {
  if (strcmp(error->sqlstate, "42P18") != 0 || error->hint[0]) return;
  text_copy(error->hint, sizeof error->hint,
            "the statement does not use that parameter, or nothing in it says its type: a cast does, $1::text");
}

void error_of_result(struct db_conn *conn, const PGresult *result, struct pool_error *error) {
  const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
  if (!state) { /* libpq's own: a lost connection, or memory */
    if (postgres_dead(conn)) {
      error_of_loss(conn, error);
      return;
    }
    char reason[512];
    line_copy(reason, sizeof reason, PQresultErrorMessage(result));
    error_set(error, POOL_QUERY, "%s", reason[0] ? reason : "libpq could not read the answer");
    return;
  }
  if (severity_is_fatal(result)) {
    doom_set(conn, result);
    *error = conn->doom;
    return;
  }
  error_set(error, POOL_QUERY, " ");
  fields_copy(result, error);
  hint_add(error);
  if (strcmp(error->sqlstate, "57014") == 0) error->kind = kind_of_cancel(conn, error);
  if (strcmp(error->sqlstate, "25006") == 0) error->disconnect = transaction_is_read_only_by_standby(conn);
  if (state_is_disconnect(error->sqlstate)) error->disconnect = true;
}

/* libpq's own, without an SQLSTATE: it threw something away that nothing had asked for. Whose the next answer is nobody can say. */
static void doom_of_violation(struct db_conn *conn, const char *message) {
  char line[512];
  conn->dead = true;
  if (conn->fatal) return;
  line_copy(line, sizeof line, message);
  error_set(&conn->doom, POOL_LOST, "the server broke the protocol: %s", line);
  conn->doom.disconnect = conn->fatal = true;
}

void error_mask(struct db_conn *conn, struct pool_error *error) {
  const struct pg_params *p = &conn->params;
  for (int i = 0; i < p->count; i++)
    if (p->values[i] && !p->formats[i]) mask_value(error->message, sizeof error->message, p->values[i], (size_t)p->lengths[i], i + 1);
  const char *password = conn->pg ? PQpass(conn->pg) : NULL, *user = conn->pg ? PQuser(conn->pg) : NULL;
  if (password && (!user || strcmp(password, user) != 0)) mask_secret(error, password); /* one that everybody would guess hides names */
}

void error_notice(void *user, const PGresult *result) {
  struct db_conn *conn = user;
  struct pool_error note;
  const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
  const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
  if (!message) return;
  if (says_goodbye(result)) doom_set(conn, result);
  if (!PQresultErrorField(result, PG_DIAG_SQLSTATE)) doom_of_violation(conn, message);
  const char *level = !severity || strncmp(severity, "DEBUG", 5) == 0 ? "debug"
                      : strcmp(severity, "WARNING") == 0 || severity_is_fatal(result) ? "warn" : "info";
  error_set(&note, POOL_OK, "%s", message);
  error_mask(conn, &note);
  postgres_log(conn->db, level, "%s: %s", severity ? severity : "libpq", note.message);
}

/* ---- failed opens ---- */

/* "...FATAL:  28P01: password ..." -> where the SQLSTATE begins. */
static const char *text_find_state(const char *text) {
  for (const char *at = text; (at = strstr(at, ":  ")); at++) {
    const char *state = at + 3;
    int n = 0;
    while (n < 5 && (isdigit((unsigned char)state[n]) || isupper((unsigned char)state[n]))) n++;
    if (n == 5 && state[5] == ':' && state[6] == ' ') return state;
  }
  return NULL;
}

static bool text_has(const char *text, const char *const *words) {
  for (; *words; words++)
    if (strstr(text, *words)) return true;
  return false;
}

static bool open_is_permanent(const struct pool_error *error, const char *text) {
  static const char *const transient[] = {"SYSCALL", "timed out", "unexpected eof", "connection was closed", "out of memory",
                                          "annot allocate memory", "emory allocation failure", "malloc failure", NULL};
  static const char *const hopeless[] = {"SSL", "certificate", "private key", "no password supplied", "authentication", "SCRAM",
                                         "channel binding", "invalid port number", "Unix-domain socket path", NULL};
  if (error->sqlstate[0])
    return strncmp(error->sqlstate, "28", 2) == 0 || strcmp(error->sqlstate, "3D000") == 0 || strcmp(error->sqlstate, "42501") == 0;
  return text_has(text, hopeless) && !text_has(text, transient);
}

void error_of_open(const char *text, struct pool_error *error) {
  char line[512];
  const char *state = text_find_state(text);
  line_copy(line, sizeof line, state ? state + 7 : text);
  error_set(error, POOL_CONNECT, "%s", line[0] ? line : "the connection could not be opened");
  if (state) {
    memcpy(error->sqlstate, state, 5);
    error->sqlstate[5] = '\0';
  }
  error->permanent = open_is_permanent(error, text);
  error->disconnect = state_is_disconnect(error->sqlstate);
}
