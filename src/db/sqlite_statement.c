/*
** sqlite_statement: the worker's statements: prepared, kept, bound, run.
**
** 1. A kept statement is always reset and its bindings cleared when it is not `running`; so an open transaction is the only
**    thing that can hold a lock between operations.
** 2. Parameters go by name: $2 is the second, wherever it stands ("$1", "$2" are mere names to SQLite, numbered by
**    appearance). `?` and `?3` go by SQLite's own numbers. SQLite makes NaN a NULL.
** 3. The cache is a hash table and a list by use; the bound is on their number. A statement is identified by its text.
** 4. A shape's identity changes when the schema has changed what a kept statement gives.
** 5. A script's statements are not kept. As in PostgreSQL's simple query a script outside a transaction is one: what it writes
**    is committed at its end, or nothing of it. Its own transaction begins at the first statement that writes (IMMEDIATE, as
**    every other), unless that is the last one. What the script itself says of transactions stands: its begin takes over what
**    ran so far, its commit or rollback ends that, and another transaction of its own may follow. VACUUM and the pragmas that
**    a transaction refuses or, worse, ignores (foreign_keys) run outside: what ran before one is committed, and what follows
**    it is another transaction.
** 6. A read-only transaction begins with SQLITE_BEGIN_READ_ONLY, to the letter, and ends with SQLite's transaction however that
**    ends. In it a statement that SQLite says may write is refused before it runs: as `pragma query_only`, with nothing to
**    switch off afterwards. Temporary tables count as written, where PostgreSQL allows them.
*/
#include "sqlite.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---- the cache ---- */

bool cache_create(struct sqlite_cache *k, int limit) {
  size_t size = 16;
  *k = (struct sqlite_cache){.limit = limit};
  list_init(&k->recent);
  if (limit <= 0) return true;
  while (size < (size_t)limit && size < 65536) size *= 2;
  k->buckets = malloc(size * sizeof *k->buckets);
  if (!k->buckets) return false;
  k->mask = size - 1;
  for (size_t i = 0; i < size; i++) list_init(&k->buckets[i]);
  return true;
}

static void statement_free(struct sqlite_statement *st) {
  if (!st) return;
  sqlite3_finalize(st->stmt);
  shape_leave(st->shape);
  free(st->numbers);
  free(st);
}

static void cache_drop(struct sqlite_cache *k, struct sqlite_statement *st) {
  INSIST(st->kept && k->count > 0);
  list_remove(&st->bucket);
  list_remove(&st->recent);
  k->count--;
  statement_free(st);
}

void statements_clear(struct sqlite_cache *k) {
  while (!list_empty(&k->recent)) cache_drop(k, CONTAINER(k->recent.next, struct sqlite_statement, recent));
  INSIST(k->count == 0);
}

void cache_destroy(struct sqlite_cache *k) {
  if (!k->recent.next) return; /* never created */
  statements_clear(k);
  free(k->buckets);
  k->buckets = NULL;
}

static uint64_t text_hash(const char *text, size_t len) {
  uint64_t h = 1469598103934665603u; /* FNV-1a */
  for (size_t i = 0; i < len; i++) h = (h ^ (unsigned char)text[i]) * 1099511628211u;
  return h ^ h >> 32;
}

static struct sqlite_statement *cache_find(struct sqlite_cache *k, uint64_t hash, const char *sql, size_t len) {
  if (!k->buckets) return NULL;
  LIST_EACH(node, &k->buckets[hash & k->mask]) {
    struct sqlite_statement *st = CONTAINER(node, struct sqlite_statement, bucket);
    if (st->hash != hash || st->len != len || memcmp(st->sql, sql, len) != 0) continue;
    list_remove(&st->recent);
    list_prepend(&k->recent, &st->recent);
    return st;
  }
  return NULL;
}

static void cache_keep(struct sqlite_cache *k, struct sqlite_statement *st) {
  if (!k->buckets) return;
  st->kept = true;
  list_prepend(&k->buckets[st->hash & k->mask], &st->bucket);
  list_prepend(&k->recent, &st->recent);
  if (++k->count > k->limit) cache_drop(k, CONTAINER(k->recent.prev, struct sqlite_statement, recent));
}

/* ---- preparing ---- */

/* The number a variable's name says: "$2", "?2" → 2; a bare `?` (no name) its place. 0: it is not such a name. */
static int variable_number(const char *name, int place) {
  int number = 0;
  if (!name) return place;
  if ((*name != '$' && *name != '?') || !name[1]) return 0;
  for (const char *at = name + 1; *at; at++) {
    if (*at < '0' || *at > '9' || number > 1000000) return 0;
    number = number * 10 + (*at - '0');
  }
  return number;
}

static bool statement_variables(struct sqlite_statement *st, struct pool_error *error) {
  st->variables = sqlite3_bind_parameter_count(st->stmt);
  if (st->variables == 0) return true;
  st->numbers = malloc((size_t)st->variables * sizeof *st->numbers);
  if (!st->numbers) return sqlite_error_memory(error);
  for (int i = 0; i < st->variables; i++) {
    const char *name = sqlite3_bind_parameter_name(st->stmt, i + 1);
    int number = variable_number(name, i + 1);
    if (number == 0 && strstr(name, "::")) {
      sqlite_error_query(error, "42601", "%s: SQLite has no :: casts; cast($1 as type) works on both databases", name);
      return false;
    }
    if (number == 0) {
      sqlite_error_query(error, "42P02", "there is no parameter %s: parameters are $1, $2 and so on", name);
      return false;
    }
    st->numbers[i] = number;
    if (number > st->parameters) st->parameters = number;
  }
  return true;
}

static bool statement_failed(struct db_conn *c, int code, const char *sql) {
  sqlite_error_fill(&c->report.error, c->handle, code, atomic_load(&c->cancelled), sql);
  return false;
}

/* Gives the statement at `sql`, what follows it in *tail; NULL: the report's error says why. */
static struct sqlite_statement *statement_prepare(struct db_conn *c, const char *sql, size_t len, bool keep, const char **tail) {
  size_t kept = keep ? len : 0; /* only the cache compares it, and a script's statements have all that follows as their text */
  struct sqlite_statement *st = calloc(1, sizeof *st + kept + 1);
  if (!st) return sqlite_error_memory(&c->report.error), NULL;
  st->sql = memcpy((char *)(st + 1), sql, kept);
  st->len = kept;
  *tail = sql + len;
  if (len > INT_MAX - 1) {
    sqlite_error_query(&c->report.error, "54000", "the statement is too long: %zu bytes", len);
  } else {
    int code = sqlite3_prepare_v3(c->handle, sql, (int)len + 1, keep ? SQLITE_PREPARE_PERSISTENT : 0, &st->stmt, tail);
    if (code != SQLITE_OK) statement_failed(c, code, sql);
    else if (statement_variables(st, &c->report.error)) {
      words_command(sql, sql + len, st->command);
      return st;
    }
  }
  statement_free(st);
  return NULL;
}

/* The one statement of the request, kept or prepared now. */
static struct sqlite_statement *statement_take(struct db_conn *c) {
  const char *sql = c->request.sql, *tail, *end = sql + c->request.len;
  uint64_t hash = text_hash(sql, c->request.len);
  struct sqlite_statement *st = cache_find(&c->cache, hash, sql, c->request.len);
  if (st) return st;
  st = statement_prepare(c, sql, c->request.len, c->cache.limit > 0, &tail);
  if (!st) return NULL;
  if (words_skip(tail, end) != end) {
    sqlite_error_query(&c->report.error, "42601", "cannot insert multiple commands into a prepared statement");
    statement_free(st);
    return NULL;
  }
  st->hash = hash;
  st->begins_read_only = c->request.len == sizeof SQLITE_BEGIN_READ_ONLY - 1 && strcmp(sql, SQLITE_BEGIN_READ_ONLY) == 0;
  if (st->stmt) cache_keep(&c->cache, st);
  return st;
}

/* ---- binding ---- */

static int variable_bind(sqlite3_stmt *stmt, int at, const struct param *p) {
  const char *text = p->text ? p->text : ""; /* NULL would bind NULL */
  switch (p->type) {
  case PARAM_NULL: return sqlite3_bind_null(stmt, at);
  case PARAM_INTEGER: return sqlite3_bind_int64(stmt, at, p->integer);
  case PARAM_REAL: return sqlite3_bind_double(stmt, at, p->real);
  case PARAM_BOOLEAN: return sqlite3_bind_int(stmt, at, p->boolean);
  case PARAM_BYTES: return sqlite3_bind_blob64(stmt, at, text, p->len, SQLITE_STATIC);
  case PARAM_TEXT:
  case PARAM_JSON:
  case PARAM_ARRAY: return sqlite3_bind_text64(stmt, at, text, p->len, SQLITE_STATIC, SQLITE_UTF8);
  default: WRONG("a parameter of an unknown type");
  }
}

static bool statement_bind(struct db_conn *c, struct sqlite_statement *st) {
  if (st->parameters != c->request.nparams) {
    sqlite_error_query(&c->report.error, "08P01", "the statement has %d parameter%s, and %d %s given", st->parameters,
                       st->parameters == 1 ? "" : "s", c->request.nparams, c->request.nparams == 1 ? "was" : "were");
    return false;
  }
  for (int i = 0; i < st->variables; i++) {
    int code = variable_bind(st->stmt, i + 1, &c->request.params[st->numbers[i] - 1]);
    if (code != SQLITE_OK) return statement_failed(c, code, NULL);
  }
  return true;
}

/* ---- running ---- */

static void statement_release(struct sqlite_statement *st) {
  if (st->stmt) {
    sqlite3_reset(st->stmt);
    if (st->variables) sqlite3_clear_bindings(st->stmt); /* they point into the request */
  }
  if (!st->kept) statement_free(st);
}

static int statement_step(struct sqlite_statement *st) { return st->stmt ? sqlite3_step(st->stmt) : SQLITE_DONE; }

/* May it run in a read-only transaction? To explain a write is to read. */
static bool statement_allowed(struct db_conn *c, const struct sqlite_statement *st) {
  if (!st->stmt || sqlite3_stmt_readonly(st->stmt) || sqlite3_stmt_isexplain(st->stmt)) return true;
  sqlite_error_query(&c->report.error, "25006", "cannot execute %s in a read-only transaction", st->command);
  return false;
}

static bool statement_turn(struct db_conn *c) {
  if (c->turn || turn_take(c)) return true;
  if (atomic_load(&c->cancelled)) return statement_failed(c, SQLITE_INTERRUPT, NULL);
  sqlite_error_query(&c->report.error, "55P03", "database is locked");
  c->report.error.retryable = true;
  return false;
}

/* Does it begin to write, be it for itself alone? */
static bool statement_writes(struct db_conn *c, const struct sqlite_statement *st) {
  return st->stmt && !sqlite3_stmt_readonly(st->stmt) && sqlite3_get_autocommit(c->handle);
}

static bool statement_ready(struct db_conn *c, struct sqlite_statement *st) {
  if (!statement_bind(c, st) || (c->read_only && !statement_allowed(c, st))) return false;
  return !statement_writes(c, st) || statement_turn(c);
}

/* It ran to its end or to a batch's: is there a read-only transaction now? */
static void statement_ran(struct db_conn *c, const struct sqlite_statement *st) {
  if (c->read_only || st->begins_read_only) c->read_only = !sqlite3_get_autocommit(c->handle);
}

/* A cancel that came before the statement was running has nothing to interrupt. Once it runs, only SQLite may stop it: it
   rolls back what was done, where we would commit it. */
static int statement_first(struct db_conn *c, struct sqlite_statement *st) {
  return atomic_load(&c->cancelled) ? SQLITE_INTERRUPT : statement_step(st);
}

/* After its first step, which may have prepared it anew for another schema. */
static bool statement_shape(struct db_conn *c, struct sqlite_statement *st) {
  if (st->shape && sqlite3_stmt_status(st->stmt, SQLITE_STMTSTATUS_REPREPARE, 1) == 0) return true;
  if (st->shape && shape_same(st->shape, st->stmt)) return true;
  uintptr_t place = (uintptr_t)c->place << 20; /* 16 million before it could meet another place's */
  uintptr_t identity = st->kept ? place + (uintptr_t)atomic_fetch_add(&c->place->shapes, 1) + 1 : 0;
  shape_leave(st->shape);
  st->shape = shape_create(st->stmt, identity);
  return st->shape || sqlite_error_memory(&c->report.error);
}

static int64_t statement_affected(struct db_conn *c, const struct sqlite_statement *st, const struct db_result *r) {
  const char *name = st->command;
  if (strcmp(name, "INSERT") == 0 || strcmp(name, "UPDATE") == 0 || strcmp(name, "DELETE") == 0)
    return sqlite3_changes(c->handle);
  return strcmp(name, "SELECT") == 0 ? sqlite_result_rows(r) : 0;
}

/* Steps from `code`, adding rows to the report's result, until it ends or `most` are there and another waits. */
static bool statement_rows(struct db_conn *c, struct sqlite_statement *st, int code, int most) {
  struct db_result *r = c->report.result;
  c->row_ready = false;
  for (; code == SQLITE_ROW; code = statement_step(st)) {
    if (sqlite_result_rows(r) == most && most == INT_MAX) {
      sqlite_error_query(&c->report.error, "54000", "the result has more than %d rows", INT_MAX);
      return false;
    }
    if (sqlite_result_rows(r) == most) {
      c->row_ready = true;
      return true;
    }
    if (!batch_add(r, st->stmt)) return sqlite_error_memory(&c->report.error);
  }
  if (code != SQLITE_DONE) return statement_failed(c, code, NULL);
  batch_affected(r, statement_affected(c, st, r));
  return true;
}

static bool statement_start(struct db_conn *c, struct sqlite_statement *st, int most) {
  int code = statement_first(c, st);
  if (code != SQLITE_ROW && code != SQLITE_DONE) return statement_failed(c, code, NULL);
  if (!statement_shape(c, st)) return false;
  c->report.result = result_create(st->shape, st->command);
  if (!c->report.result) return sqlite_error_memory(&c->report.error);
  return statement_rows(c, st, code, most);
}

/* ---- scripts ---- */

/* A script as it runs. */
struct script {
  const char *at, *end; /* what is left */
  bool own;             /* a transaction of its own is open */
};

static bool script_sql(struct db_conn *c, const char *sql) {
  int code = sqlite_run(c, sql);
  return code == SQLITE_OK || statement_failed(c, code, NULL);
}

/* What is next runs outside of transactions; done before it is prepared, since a pragma may work already then. */
static bool script_part(struct db_conn *c, struct script *s) {
  if (!s->own) return true;
  s->own = !script_sql(c, "commit");
  return !s->own;
}

/* Before `st` runs: the script's transaction begins, or is taken over, as (5) says. False: the report's error says why. */
static bool script_frame(struct db_conn *c, struct script *s, struct sqlite_statement *st, bool outside) {
  bool begin = strcmp(st->command, "BEGIN") == 0;
  if (s->own && begin) {
    sqlite3_finalize(st->stmt); /* it has begun: nothing is left to run */
    st->stmt = NULL;
    s->own = false;
  }
  if (s->own || begin || outside || s->at == s->end) return true;
  if (!statement_writes(c, st)) return true;
  s->own = statement_turn(c) && script_sql(c, "begin immediate");
  return s->own;
}

/* Commits what is the script's own, or undoes it. A rollback can only be interrupted by the cancel that made it necessary. */
static bool script_over(struct db_conn *c, const struct script *s, bool ok) {
  if (!s->own) return ok;
  if (ok && script_sql(c, "commit")) return true;
  while (!sqlite3_get_autocommit(c->handle) && sqlite_run(c, "rollback") == SQLITE_INTERRUPT) continue;
  return false;
}

/* One of a script; `last`: its rows are the script's result. */
static bool script_statement(struct db_conn *c, struct sqlite_statement *st, bool last) {
  if (!statement_ready(c, st)) return false;
  if (last) return statement_start(c, st, INT_MAX);
  int code = statement_first(c, st);
  while (code == SQLITE_ROW) code = statement_step(st);
  return code == SQLITE_DONE || statement_failed(c, code, NULL);
}

static bool script_next(struct db_conn *c, struct script *s) {
  bool outside = words_outside(s->at, s->end);
  if (outside && !script_part(c, s)) return false;
  struct sqlite_statement *st = statement_prepare(c, s->at, (size_t)(s->end - s->at), false, &s->at);
  if (!st) return false;
  s->at = words_skip(s->at, s->end);
  bool ok = script_frame(c, s, st, outside) && script_statement(c, st, s->at == s->end);
  statement_ran(c, st);
  statement_release(st);
  bool over = sqlite3_get_autocommit(c->handle); /* the script, or SQLite for an error, may have ended it */
  s->own = s->own && !over;
  if (over && c->turn) turn_give(c);
  return ok;
}

static bool script_run(struct db_conn *c) {
  struct script s = {.at = c->request.sql, .end = c->request.sql + c->request.len};
  bool ok = true;
  s.at = words_skip(s.at, s.end);
  do ok = script_next(c, &s);
  while (ok && s.at != s.end);
  return script_over(c, &s, ok);
}

bool sqlite_statement_begin(struct db_conn *c) {
  INSIST(c->running == NULL);
  c->report.finished = true;
  if (c->request.script) return script_run(c);
  struct sqlite_statement *st = statement_take(c);
  if (!st) return false;
  bool ok = statement_ready(c, st) && statement_start(c, st, c->request.stream ? SQLITE_BATCH : INT_MAX);
  if (ok) statement_ran(c, st);
  if (ok && c->row_ready) {
    INSIST(c->request.stream);
    c->running = st;
    c->report.finished = false;
  } else {
    statement_release(st);
  }
  return ok;
}

bool sqlite_statement_more(struct db_conn *c) {
  struct sqlite_statement *st = c->running;
  INSIST(st != NULL && c->row_ready);
  c->report.finished = true;
  c->report.result = result_create(st->shape, st->command);
  bool ok = c->report.result ? statement_rows(c, st, SQLITE_ROW, SQLITE_BATCH) : sqlite_error_memory(&c->report.error);
  if (ok && c->row_ready) c->report.finished = false;
  else sqlite_statement_end(c);
  return ok;
}

void sqlite_statement_end(struct db_conn *c) {
  if (c->running) statement_release(c->running);
  c->running = NULL;
  c->row_ready = false;
}
