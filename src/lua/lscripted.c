/*
** lscripted: a driver whose answers come from a Lua function.
**
** Nothing may run Lua where a driver is called, so an operation that needs the script is put in line (`asking`) and asked in the
** loop's drain; its answer comes when its delay is over, by a timer that readies the connection's number (there is no descriptor: the
** loop is a virtual one). States of a connection: `op` NONE; asking (in line, or its timer runs); answered (`ready`), which the next
** step takes. Pings, resets, goodbyes and transaction control are answered at once.
*/
#include "lscripted.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "lerror.h"

#define LSCRIPTED_NAME "pool.Script"
#define URL_PREFIX "scripted:"
enum { COMMAND_MAX = 32 };

struct script {
  struct runtime *runtime;
  struct deferred ask;
  struct list asking;   /* struct db_conn, in the order asked */
  int numbers, opens;   /* handed out */
};

enum { SCRIPT_FUNCTION = 1, SCRIPT_FAILURE, SCRIPT_VALUES = SCRIPT_FAILURE };

struct db {
  struct script *script;
};

enum op { OP_NONE, OP_OPEN, OP_STATEMENT, OP_PROMPT };

struct db_conn {
  struct script *script;
  struct list asking;
  struct timer timer;
  enum op op;
  bool ready, lost;         /* the answer is there; and it is the connection's death */
  int number;
  enum db_status status;
  char *sql;                /* of the statement under way; owned */
  struct param *params;     /* and its parameters, their texts in one block behind them; owned */
  int nparams;
  struct db_result *result; /* of the answer */
  bool failed;              /* of the answer, with: */
  struct pool_error error;
};

struct cell {
  struct value value;
  char *text; /* owned */
};

struct db_result {
  int rows, columns;
  int64_t affected;
  char command[COMMAND_MAX];
  char **names;       /* owned */
  struct cell *cells; /* rows x columns */
};

/* ---- results ---- */

static void result_free(struct db_result *r) {
  if (r == NULL) return;
  for (int i = 0; i < r->columns; i++) free(r->names[i]);
  for (int i = 0; i < r->rows * r->columns; i++) free(r->cells[i].text);
  free(r->names);
  free(r->cells);
  free(r);
}

static struct db_result *result_new(int rows, int columns) {
  struct db_result *r = calloc(1, sizeof *r);
  if (r == NULL) return NULL;
  r->names = calloc((size_t)columns + 1, sizeof *r->names);
  r->cells = calloc((size_t)rows * (size_t)columns + 1, sizeof *r->cells);
  if (r->names == NULL || r->cells == NULL) {
    free(r->names);
    free(r->cells);
    free(r);
    return NULL;
  }
  r->rows = rows;
  r->columns = columns;
  return r;
}

static int result_rows(const struct db_result *r) { return r->rows; }
static int result_columns(const struct db_result *r) { return r->columns; }
static const char *result_command(const struct db_result *r) { return r->command; }
static int64_t result_affected(const struct db_result *r) { return r->affected; }
static const void *result_shape(const struct db_result *r) { return (void)r, NULL; }

static void result_column(const struct db_result *r, int column, struct column *out) {
  *out = (struct column){r->names[column], r->rows > 0 ? r->cells[column].value.type : VALUE_TEXT};
}

static void result_cell(struct db_result *r, int row, int column, struct value *out) { *out = r->cells[row * r->columns + column].value; }

/* ---- an answer, from Lua ---- */

static char *text_keep(lua_State *L, int index, size_t *length) {
  const char *text = lua_tolstring(L, index, length);
  char *copy = malloc(*length + 1);
  if (copy == NULL) luaL_error(L, "not enough memory");
  memcpy(copy, text, *length + 1);
  return copy;
}

static void cell_read(lua_State *L, struct cell *cell) {
  struct value *v = &cell->value;
  v->type = VALUE_TEXT;
  switch (lua_type(L, -1)) {
  case LUA_TNIL:
  case LUA_TLIGHTUSERDATA: v->type = VALUE_NULL; return;
  case LUA_TBOOLEAN:
    v->type = VALUE_BOOLEAN;
    v->boolean = lua_toboolean(L, -1);
    return;
  case LUA_TNUMBER:
    if (lua_isinteger(L, -1)) v->type = VALUE_INTEGER, v->integer = lua_tointeger(L, -1);
    else v->type = VALUE_REAL, v->real = lua_tonumber(L, -1);
    return;
  case LUA_TTABLE:
    v->type = VALUE_JSON;
    lua_rawgeti(L, -1, 1);
    lua_replace(L, -2);
    break;
  default: break;
  }
  if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "a scripted row holds a %s", luaL_typename(L, -1));
  v->text = cell->text = text_keep(L, -1, &v->len);
}

/* Stack: ..., answer. Fills r, whose sizes are the answer's. */
static void result_read(lua_State *L, struct db_result *r) {
  size_t length;
  lua_getfield(L, -1, "columns");
  for (int i = 0; i < r->columns; i++) {
    if (lua_rawgeti(L, -1, i + 1) != LUA_TSTRING) luaL_error(L, "a scripted column's name is a %s", luaL_typename(L, -1));
    r->names[i] = text_keep(L, -1, &length);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  lua_getfield(L, -1, "rows");
  for (int row = 0; row < r->rows; row++) {
    if (lua_rawgeti(L, -1, row + 1) != LUA_TTABLE) luaL_error(L, "a scripted row is a %s", luaL_typename(L, -1));
    for (int i = 0; i < r->columns; i++) {
      lua_rawgeti(L, -1, i + 1);
      cell_read(L, &r->cells[row * r->columns + i]);
      lua_pop(L, 1);
    }
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  lua_getfield(L, -1, "affected");
  r->affected = lua_isinteger(L, -1) ? lua_tointeger(L, -1) : r->rows;
  lua_getfield(L, -2, "command");
  text_copy(r->command, sizeof r->command, lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "SELECT");
  lua_pop(L, 2);
}

static int field_length(lua_State *L, const char *name) {
  lua_getfield(L, -1, name);
  int length = lua_istable(L, -1) ? (int)lua_rawlen(L, -1) : 0;
  lua_pop(L, 1);
  return length;
}

static void error_field(lua_State *L, const char *name, char *field, size_t size) {
  if (lua_getfield(L, -1, name) == LUA_TSTRING) text_copy(field, size, lua_tostring(L, -1));
  lua_pop(L, 1);
}

static struct pool_error *error_new(struct db_conn *c, enum pool_err kind, const char *message) {
  c->failed = true;
  error_set(&c->error, kind, "%s", message);
  return &c->error;
}

/* Stack: ..., the answer's error. */
static void error_read(lua_State *L, struct db_conn *c) {
  struct pool_error *e = error_new(c, c->op == OP_OPEN ? POOL_CONNECT : POOL_QUERY, "a scripted failure");
  error_field(L, "message", e->message, sizeof e->message);
  error_field(L, "sqlstate", e->sqlstate, sizeof e->sqlstate);
  error_field(L, "detail", e->detail, sizeof e->detail);
  error_field(L, "hint", e->hint, sizeof e->hint);
  error_field(L, "constraint", e->constraint, sizeof e->constraint);
  error_field(L, "schema", e->schema, sizeof e->schema);
  error_field(L, "table", e->table, sizeof e->table);
  error_field(L, "column", e->column, sizeof e->column);
  lua_getfield(L, -1, "permanent");
  e->permanent = lua_toboolean(L, -1);
  lua_pop(L, 1);
}

/* Stack: ..., answer (a table). Returns after how long it comes. */
static usec answer_read(lua_State *L, struct db_conn *c) {
  lua_getfield(L, -1, "lost");
  c->lost = lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (c->lost) {
    error_new(c, c->op == OP_OPEN ? POOL_CONNECT : POOL_LOST, "the scripted connection was lost");
  } else if (lua_getfield(L, -1, "error") == LUA_TTABLE) {
    error_read(L, c);
    lua_pop(L, 1);
  } else {
    lua_pop(L, 1);
    c->result = result_new(field_length(L, "rows"), field_length(L, "columns"));
    if (c->result == NULL) luaL_error(L, "not enough memory");
    result_read(L, c->result);
  }
  lua_getfield(L, -1, "after");
  lua_Number after = lua_tonumber(L, -1);
  lua_pop(L, 1);
  if (!(after >= 0 && after <= 1e9)) luaL_error(L, "a scripted answer's `after` must be seconds from 0 to 1e9");
  return (usec)(after * (lua_Number)USEC_PER_SECOND);
}

static void param_push(lua_State *L, const struct param *p) {
  switch (p->type) {
  case PARAM_NULL: lua_pushlightuserdata(L, NULL); break;
  case PARAM_INTEGER: lua_pushinteger(L, (lua_Integer)p->integer); break;
  case PARAM_REAL: lua_pushnumber(L, p->real); break;
  case PARAM_BOOLEAN: lua_pushboolean(L, p->boolean); break;
  default: lua_pushlstring(L, p->text, p->len); break;
  }
}

/* Protected. Stack: Script, lightuserdata connection. Returns after how long the answer comes, in usec. */
static int conn_ask(lua_State *L) {
  struct db_conn *c = lua_touserdata(L, 2);
  bool open = c->op == OP_OPEN;
  luaL_checkstack(L, c->nparams + LUA_MINSTACK, "parameters");
  lua_getiuservalue(L, 1, SCRIPT_FUNCTION);
  lua_pushstring(L, open ? "connect" : "query");
  if (open) lua_pushinteger(L, ++c->script->opens);
  else lua_pushstring(L, c->sql);
  for (int i = 0; i < c->nparams; i++) param_push(L, &c->params[i]);
  lua_call(L, 2 + c->nparams, 1);
  if (lua_isnil(L, -1)) lua_newtable(L);
  if (!lua_istable(L, -1)) return luaL_error(L, "the script answered with a %s; it answers with a table", luaL_typename(L, -1));
  lua_pushinteger(L, (lua_Integer)answer_read(L, c));
  return 1;
}

static void conn_ready(struct timer *t) {
  struct db_conn *c = CONTAINER(t, struct db_conn, timer);
  struct loop *loop = c->script->runtime->loop;
  c->ready = true;
  if (!loop_virtual_ready(loop, c->number, LOOP_READ | LOOP_WRITE)) timer_start(loop, t, loop_now(loop) + 1); /* no memory: later */
}

static int text_of(lua_State *L) {
  luaL_tolstring(L, 1, NULL);
  return 1;
}

/* Stack: ..., what conn_ask raised. The first one is kept for who runs the test. Raises nothing: the statement would never be answered. */
static void conn_ask_failed(lua_State *L, int script, struct db_conn *c) {
  lua_pushcfunction(L, text_of);
  lua_pushvalue(L, -2);
  const char *why = lua_pcall(L, 1, 1, 0) == LUA_OK ? lua_tostring(L, -1) : "the script failed, and cannot say how";
  result_free(c->result);
  c->result = NULL;
  c->lost = false;
  error_new(c, c->op == OP_OPEN ? POOL_CONNECT : POOL_QUERY, why);
  if (lua_getiuservalue(L, script, SCRIPT_FAILURE) == LUA_TNIL) {
    lua_pushvalue(L, -2);
    lua_setiuservalue(L, script, SCRIPT_FAILURE);
  }
  lua_pop(L, 3);
}

/* Stack: ..., Script. */
static void script_ask(lua_State *L, int script, struct script *s) {
  struct list *node;
  while ((node = list_shift(&s->asking)) != NULL) {
    struct db_conn *c = CONTAINER(node, struct db_conn, asking);
    struct loop *loop = s->runtime->loop;
    usec after = 0;
    lua_pushcfunction(L, conn_ask);
    lua_pushvalue(L, script);
    lua_pushlightuserdata(L, c);
    s->runtime->barred++;
    int status = lua_pcall(L, 2, 1, 0);
    s->runtime->barred--;
    if (status == LUA_OK) {
      after = (usec)lua_tointeger(L, -1);
      lua_pop(L, 1);
    } else {
      conn_ask_failed(L, script, c);
    }
    timer_start(loop, &c->timer, loop_now(loop) + after);
  }
}

static void script_run(lua_State *L, struct deferred *d) {
  struct script *s = CONTAINER(d, struct script, ask);
  lua_rawgetp(L, LUA_REGISTRYINDEX, s);
  if (lua_touserdata(L, -1) == s) script_ask(L, lua_gettop(L), s);
  lua_pop(L, 1);
}

/* ---- the driver ---- */

static struct db *db_create(const struct db_settings *settings, db_log_fn log, void *user, struct pool_error *error) {
  void *script;
  (void)log, (void)user;
  if (sscanf(settings->database_url, URL_PREFIX "%p", &script) != 1) {
    error_set(error, POOL_SETTINGS, "a scripted database is made by pool.testing alone");
    return NULL;
  }
  struct db *db = calloc(1, sizeof *db);
  if (db == NULL) {
    error_set(error, POOL_SETTINGS, "not enough memory");
    return NULL;
  }
  db->script = script;
  return db;
}

static void db_configure(struct db *db, const struct db_settings *settings) { (void)db, (void)settings; }
static void db_destroy(struct db *db) { free(db); }
static int db_size_limit(const struct db *db) { return (void)db, INT32_MAX; }

static void conn_clear(struct db_conn *c) {
  list_remove(&c->asking);
  timer_stop(c->script->runtime->loop, &c->timer);
  free(c->sql);
  free(c->params);
  result_free(c->result);
  c->sql = NULL;
  c->params = NULL;
  c->nparams = 0;
  c->result = NULL;
  c->ready = c->lost = c->failed = false;
}

static void conn_begin(struct db_conn *c, enum op op) {
  conn_clear(c);
  c->op = op;
  if (op == OP_PROMPT) {
    c->ready = true;
    return;
  }
  list_append(&c->script->asking, &c->asking);
  lruntime_defer(c->script->runtime, &c->script->ask);
}

static struct db_conn *conn_open(struct db *db, struct pool_error *error) {
  struct db_conn *c = calloc(1, sizeof *c);
  if (c == NULL) {
    error_set(error, POOL_CONNECT, "not enough memory");
    return NULL;
  }
  c->script = db->script;
  c->number = ++db->script->numbers;
  c->timer.fire = conn_ready;
  list_init(&c->asking);
  conn_begin(c, OP_OPEN);
  return c;
}

static void conn_abandon(struct db_conn *c) {
  conn_clear(c);
  free(c);
}

static void conn_prompt(struct db_conn *c) { conn_begin(c, OP_PROMPT); }

static void conn_reset(struct db_conn *c) {
  conn_begin(c, OP_PROMPT);
  c->status = DB_IDLE;
}

static bool word_is(const char *sql, const char *word) {
  size_t length = strlen(word);
  return strncasecmp(sql, word, length) == 0 && strspn(sql + length, " \t\n;") + (sql[length] == '\0') > 0;
}

static void prompt_answer(struct db_conn *c, const char *command) {
  conn_begin(c, OP_PROMPT);
  c->result = result_new(0, 0);
  if (c->result != NULL) text_copy(c->result->command, sizeof c->result->command, command);
  else error_new(c, POOL_QUERY, "not enough memory");
}

/* Transaction control is not the script's to answer. */
static bool conn_control(struct db_conn *c, const char *sql) {
  bool failed = c->status == DB_IN_FAILED_TRANSACTION;
  sql += strspn(sql, " \t\n");
  if (word_is(sql, "begin") || word_is(sql, "start transaction")) {
    prompt_answer(c, "BEGIN");
    c->status = DB_IN_TRANSACTION;
  } else if (word_is(sql, "commit") || word_is(sql, "end")) {
    prompt_answer(c, failed ? "ROLLBACK" : "COMMIT");
    c->status = DB_IDLE;
  } else if (word_is(sql, "rollback to")) {
    prompt_answer(c, "ROLLBACK");
    c->status = DB_IN_TRANSACTION;
  } else if (word_is(sql, "rollback")) {
    prompt_answer(c, "ROLLBACK");
    c->status = DB_IDLE;
  } else if (word_is(sql, "savepoint") || word_is(sql, "release")) {
    prompt_answer(c, "SAVEPOINT");
  } else {
    return false;
  }
  return true;
}

/* Copies the parameters, their texts behind them. */
static bool conn_keep(struct db_conn *c, const struct statement *s) {
  size_t size = (size_t)s->nparams * sizeof *c->params + 1;
  for (int i = 0; i < s->nparams; i++) size += s->params[i].text != NULL ? s->params[i].len : 0;
  c->sql = strdup(s->sql);
  c->params = malloc(size);
  if (c->sql == NULL || c->params == NULL) return false;
  char *texts = (char *)(c->params + s->nparams);
  for (int i = 0; i < s->nparams; i++) {
    struct param *p = &c->params[i];
    *p = s->params[i];
    if (p->type < PARAM_TEXT || p->text == NULL) continue;
    p->text = memcpy(texts, p->text, p->len);
    texts += p->len;
  }
  c->nparams = s->nparams;
  return true;
}

static bool conn_send(struct db_conn *c, const struct statement *statement, struct pool_error *error) {
  if (conn_control(c, statement->sql)) return true;
  conn_begin(c, OP_STATEMENT);
  if (conn_keep(c, statement)) return true;
  conn_clear(c);
  c->op = OP_NONE;
  error_set(error, POOL_QUERY, "not enough memory");
  return false;
}

/* The statement ends now, as one that its server was asked to stop. */
static void conn_cancel(struct db_conn *c) {
  if (c->op != OP_STATEMENT || c->ready) return;
  conn_clear(c);
  struct pool_error *e = error_new(c, POOL_CANCELLED, "canceling statement due to user request");
  text_copy(e->sqlstate, sizeof e->sqlstate, "57014");
  conn_ready(&c->timer);
}

static enum db_want conn_failed(struct db_conn *c, struct pool_error *error) {
  *error = c->error;
  if (c->lost) {
    c->status = DB_DEAD;
    error->disconnect = c->op != OP_OPEN;
  } else if (c->status == DB_IN_TRANSACTION) {
    c->status = DB_IN_FAILED_TRANSACTION;
  }
  conn_clear(c);
  c->op = OP_NONE;
  return DB_FAILED;
}

static enum db_want conn_step(struct db_conn *c, struct pool_error *error) {
  if (!c->ready) return DB_READ;
  if (c->failed) return conn_failed(c, error);
  struct db_result *result = c->result;
  c->result = NULL;
  conn_clear(c);
  c->result = result;
  c->op = OP_NONE;
  return DB_DONE;
}

static enum db_want conn_idle(struct db_conn *c, struct pool_error *error) { return (void)c, (void)error, DB_READ; }
static int conn_fd(const struct db_conn *c) { return c->number; }
static int conn_pid(const struct db_conn *c) { return c->number; }
static bool conn_encrypted(const struct db_conn *c) { return (void)c, false; }
static bool conn_finished(const struct db_conn *c) { return (void)c, true; }
static enum db_status conn_status(const struct db_conn *c) { return c->op == OP_STATEMENT ? DB_BUSY : c->status; }
static bool conn_needs_reset(const struct db_conn *c) { return conn_status(c) != DB_IDLE; }

static struct db_result *conn_result(struct db_conn *c) {
  struct db_result *r = c->result;
  c->result = NULL;
  return r;
}

static const char *db_begin(bool read_only, const char *isolation, bool deferrable, char *buffer, size_t size) {
  (void)deferrable;
  snprintf(buffer, size, "BEGIN%s%s%s", isolation ? " ISOLATION LEVEL " : "", isolation ? isolation : "", read_only ? " READ ONLY" : "");
  return buffer;
}

const struct driver lscripted_driver = {
  .name = "scripted", .begin_sql = "BEGIN", .create = db_create, .configure = db_configure, .destroy = db_destroy,
  .size_limit = db_size_limit, .open = conn_open, .ping = conn_prompt, .send = conn_send, .reset = conn_reset,
  .needs_reset = conn_needs_reset, .cancel = conn_cancel, .close = conn_prompt, .abandon = conn_abandon, .step = conn_step,
  .idle = conn_idle, .fd = conn_fd, .status = conn_status, .pid = conn_pid, .encrypted = conn_encrypted, .result = conn_result,
  .finished = conn_finished, .rows = result_rows, .columns = result_columns, .column = result_column, .cell = result_cell,
  .command = result_command, .affected = result_affected, .shape = result_shape, .free_result = result_free, .begin = db_begin,
};

/* ---- for Lua ---- */

void lscripted_push(lua_State *L, int index, char url[SETTING_TEXT_MAX]) {
  index = lua_absindex(L, index);
  struct script *s = lua_newuserdatauv(L, sizeof *s, SCRIPT_VALUES);
  *s = (struct script){.runtime = lruntime_get(L)};
  list_init(&s->asking);
  list_init(&s->ask.link);
  s->ask.run = script_run;
  luaL_setmetatable(L, LSCRIPTED_NAME);
  lua_pushvalue(L, index);
  lua_setiuservalue(L, -2, SCRIPT_FUNCTION);
  snprintf(url, SETTING_TEXT_MAX, URL_PREFIX "%p", (void *)s);
}

void lscripted_begin(lua_State *L) {
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, luaL_checkudata(L, -1, LSCRIPTED_NAME));
}

/* core.script_end(script) -> what its function raised first, nil: after this it is not asked any more. */
static int script_end(lua_State *L) {
  struct script *s = luaL_checkudata(L, 1, LSCRIPTED_NAME);
  list_remove(&s->ask.link);
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, s);
  lua_getiuservalue(L, 1, SCRIPT_FAILURE);
  return 1;
}

void lscripted_open(lua_State *L) {
  luaL_newmetatable(L, LSCRIPTED_NAME);
  lua_pop(L, 1);
  lua_pushcfunction(L, script_end);
  lua_setfield(L, -2, "script_end");
}
