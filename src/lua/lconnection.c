/*
** lconnection: "pool.Connection", a lease in Lua's hands.
**
** The userdata points at the slot's lease and remembers its number: a connection that was given back, by whomever, no longer
** matches and every use of it raises, while the slot may long serve somebody else. __close and __gc are the same idempotent
** function; what the server still has to be told (ROLLBACK, cancel, reset) is the engine's work afterwards.
*/
#include <string.h>

#include "llater.h"
#include "lpool.h"
#include "lmeter.h"
#include "lview.h"

struct lconnection {
  const void *brand; /* lruntime_branded */
  struct lease *lease;
  struct lpool *pool;
  uint64_t serial;
  uint64_t id;       /* the connection's */
};

static const char connection_brand = 0;

static struct lconnection *connection_at(lua_State *L, int index) {
  return lruntime_branded(L, index, &connection_brand, sizeof(struct lconnection));
}

/* ---- leases ---- */

struct lease *lpool_lease(struct lpool *p, const struct conn *c) {
  struct lease *l = &p->leases[c->slot->index];
  return l->serial != 0 && l->serial == c->lease ? l : NULL;
}

static bool lease_current(const struct lease *l, uint64_t serial) {
  return l->serial == serial && l->conn && l->conn->lease == serial;
}

void lease_end(struct lease *l) {
  struct conn *c = l->conn;
  list_remove(&l->holding.link);
  l->serial = 0;
  l->conn = NULL;
  l->task = NULL;
  if (c->slot->state == SLOT_LEASED) engine_release(c); /* a set-up's ends by engine_setup_done */
}

static const char *release_outcome(const struct lease *l) {
  const struct conn *c = l->conn;
  if (c->dead) return "lost";
  if (c->retire) return "retired";
  return engine_driver(l->pool->engine)->needs_reset(c->db) ? "reset" : "clean";
}

void lease_end_untold(struct lease *l) {
  if (l->taken && l->conn->slot->state == SLOT_LEASED) lpool_note(l->pool, EVENT_RELEASE, "release", l->conn->id, release_outcome(l));
  lease_end(l);
}

/* Its task ended and had not given it back. */
static void lease_drop(struct holding *h) {
  struct lease *l = CONTAINER(h, struct lease, holding);
  l->pool->leaks += l->taken;
  if (l->conn->slot->state == SLOT_LEASED && l->line > 0)
    lruntime_log(l->pool->runtime, "warn", "a task ended holding connection %llu, acquired at %s:%d: it was taken back",
                 (unsigned long long)l->conn->id, l->source, l->line);
  lease_end_untold(l);
}

void lease_begin(struct lpool *p, struct conn *c, struct task *t) {
  struct lease *l = &p->leases[c->slot->index];
  l->pool = p;
  l->conn = c;
  l->task = t;
  l->serial = c->lease;
  l->since = loop_now(p->runtime->loop);
  l->line = 0;
  l->reported = l->taken = l->telling = false;
  l->source[0] = '\0';
  l->holding.drop = lease_drop;
  ltask_hold(t, &l->holding);
  lpool_watch_leaks(p);
}

void lconnection_push_gone(lua_State *L, struct lpool *p, uint64_t id, int index) {
  index = lua_absindex(L, index);
  struct lconnection *c = lua_newuserdatauv(L, sizeof *c, 1);
  *c = (struct lconnection){.brand = &connection_brand, .lease = p->leases, .pool = p, .id = id};
  lua_getiuservalue(L, index, LPOOL_CONNECTION_META);
  lua_setmetatable(L, -2);
  lua_pushvalue(L, index);
  lua_setiuservalue(L, -2, 1);
}

void lconnection_fill(lua_State *L, int index, struct lease *l) {
  struct lconnection *c = connection_at(L, index);
  INSIST(c && c->serial == 0 && c->pool == l->pool);
  c->lease = l;
  c->serial = l->serial;
  c->id = l->conn->id;
}

/* Did db:close end this lease, rather than its borrower? */
static bool connection_cut(const struct lconnection *c) {
  if (!c->pool->engine) return c->serial != 0;
  return c->serial != 0 && c->lease->cut == c->serial && !lease_current(c->lease, c->serial);
}

struct lease *lconnection_check(lua_State *L, int index, const char *who) {
  struct lconnection *c = connection_at(L, index);
  if (!c) lerror_misuse(L, "%s: call it on a connection, with a colon; got %s", who, luaL_typename(L, index));
  if (!c->pool->engine || !lease_current(c->lease, c->serial)) lerror_misuse(L, "%s: this connection was released", who);
  return c->lease;
}

bool lconnection_fit(lua_State *L, const char *who, struct lease **out) {
  struct lconnection *c = connection_at(L, 1);
  if (c && connection_cut(c)) {
    lerror_fail(L, POOL_CLOSED, "the pool was closed");
    return false;
  }
  *out = lconnection_check(L, 1, who);
  return true;
}

/* ---- db:acquire ---- */

enum { ACQUIRED = 3 }; /* where on the stack the Connection is from before the lease on: with one in hand there must be no way to fail */

static void acquire_note_place(lua_State *L, struct lease *l) {
  lua_Debug ar;
  if (!lerror_caller_from(L, 1, l->pool->runtime->home, &ar)) return;
  l->line = ar.currentline;
  memcpy(l->source, ar.short_src, sizeof l->source);
}

static int acquire_k(lua_State *L, int status, lua_KContext context) {
  (void)status;
  struct task *t = (struct task *)context;
  struct lcall *q = ltask_scratch(t);
  if (!lquery_ok(L, t, q, 1)) return 2;
  struct lease *l = lpool_lease(q->pool, q->call.conn);
  if (!l) return lerror_fail(L, POOL_CLOSED, "the pool was closed"); /* granted, and cut before its task had its turn */
  l->taken = true;
  acquire_note_place(L, l);
  lua_settop(L, ACQUIRED);
  lconnection_fill(L, ACQUIRED, l);
  if (q->pool->events & EVENT_ACQUIRE) {
    lua_pushvalue(L, -1);
    lpool_emit(L, 1, "acquire", 1);
  }
  return 1;
}

int lconnection_acquire(lua_State *L) {
  struct lpool *p = lpool_check(L, 1);
  lua_settop(L, 2);
  if (!lua_isnil(L, 2)) lview_options(L, 2, p, "db:acquire", &p->ask);
  struct task *t = ltask_enter(L);
  lquery_check_nested(L, p, t);
  struct lcall *q = lquery_begin(L, t, p);
  usec deadline = lpool_patience(p); /* before anything that may run a finaliser, which may ask in its own way */
  lconnection_push_gone(L, p, 0, 1);
  if (p->policy && !lmeter_admit(p, &q->call.waiter.weight)) return lmeter_refuse(L);
  ltask_set_line(t, p);
  engine_lease(p->engine, &q->call, deadline);
  return lquery_wait(L, t, acquire_k);
}

/* ---- giving back ---- */

static void connection_emit_release(lua_State *L, int index, struct lease *l) {
  lua_getiuservalue(L, index, 1);
  int pool = lua_gettop(L);
  lua_pushvalue(L, index);
  lua_pushstring(L, release_outcome(l));
  l->telling = true;
  lpool_emit(L, pool, "release", 2);
  lua_pop(L, 1);
}

void lconnection_release(lua_State *L, int index) {
  struct lconnection *c = luaL_testudata(L, index, LCONNECTION_NAME);
  if (!c) lerror_misuse(L, "c:release(): call it on a connection, with a colon; got %s", luaL_typename(L, index));
  if (!c->pool->engine || !lease_current(c->lease, c->serial)) return;
  if (c->lease->telling && c->pool->runtime->barred > 0) return; /* by a listener: who told it will end the lease */
  if (c->pool->events & EVENT_RELEASE) connection_emit_release(L, lua_absindex(L, index), c->lease);
  if (lease_current(c->lease, c->serial)) lease_end(c->lease);
}

/* __close, __gc and release: idempotent. */
static int connection_release(lua_State *L) {
  lconnection_release(L, 1);
  return 0;
}

static int connection_gc(lua_State *L) {
  struct lconnection *c = connection_at(L, 1);
  if (!c || !c->pool->engine || !lease_current(c->lease, c->serial)) return 0;
  struct lease *l = c->lease;
  l->pool->leaks++;
  if (l->line > 0)
    lruntime_log(l->pool->runtime, "warn", "connection %llu, acquired at %s:%d, was never released: the collector took it back",
                 (unsigned long long)l->conn->id, l->source, l->line);
  lease_end_untold(l);
  return 0;
}

/* c:detach(): the lease outlives the task; whoever has the Connection releases it. */
static int connection_detach(lua_State *L) {
  struct lease *l;
  if (!lconnection_fit(L, "c:detach()", &l)) return 2;
  list_remove(&l->holding.link);
  l->task = NULL;
  l->conn->borrower = NULL;
  lua_settop(L, 1);
  return 1;
}

static int connection_invalidate(lua_State *L) {
  struct lease *l;
  if (!lconnection_fit(L, "c:invalidate()", &l)) return 2;
  engine_retire(l->conn);
  lua_pushboolean(L, true);
  return 1;
}

/* ---- statements ---- */

static int connection_k(lua_State *L, int status, lua_KContext context) {
  (void)status;
  struct task *t = (struct task *)context;
  struct lcall *q = ltask_scratch(t);
  if (!lquery_ok(L, t, q, 1)) return 2;
  lua_getiuservalue(L, 1, 1);
  return lquery_give(L, q, lua_gettop(L));
}

void lconnection_check_free(lua_State *L, const struct lease *l, const char *who) {
  if (engine_busy(l->conn)) lerror_misuse(L, "%s: another task's statement is under way on this connection: one at a time", who);
  if (l->conn->streaming) lerror_misuse(L, "%s: rows are still being read from this connection: finish or break that loop first", who);
}

static int connection_start(lua_State *L, const char *who, enum lquery_answer answer) {
  struct lease *l;
  if (!lconnection_fit(L, who, &l)) return 2;
  struct task *t = ltask_enter(L);
  lconnection_check_free(L, l, who);
  if (lquery_late(L, t)) return 2;
  struct lcall *q = lquery_begin(L, t, l->pool);
  q->answer = (uint8_t)answer;
  if (answer == ANSWER_DONE) {
    if (lua_gettop(L) > 2) lerror_misuse(L, "c:exec takes a script and no parameters: use c:query");
    q->call.statement.script = true;
  }
  if (!lquery_statement(L, q, 2, who)) return 2;
  engine_run(l->conn, &q->call);
  return lquery_wait(L, t, connection_k);
}

static int connection_query(lua_State *L) { return connection_start(L, "c:query", ANSWER_ROWS); }
static int connection_json(lua_State *L) { return connection_start(L, "c:json", ANSWER_JSON); }
static int connection_exec(lua_State *L) { return connection_start(L, "c:exec", ANSWER_DONE); }

/* c:cancel() -> true: the statement under way was asked to stop, or there is none. */
static int connection_cancel(lua_State *L) {
  struct lease *l;
  if (!lconnection_fit(L, "c:cancel()", &l)) return 2;
  engine_cancel(l->conn);
  lua_pushboolean(L, true);
  return 1;
}

/* ---- fields ---- */

/* What a Connection can still say when db:close has cut it, or its task's end: true when it pushed that. */
static bool connection_field_of_gone(lua_State *L, const char *key) {
  const struct lconnection *c = connection_at(L, 1);
  if (!c || (c->pool->engine && lease_current(c->lease, c->serial))) return false;
  if (strcmp(key, "id") == 0)
    lua_pushinteger(L, (lua_Integer)c->id);
  else if (strcmp(key, "db") == 0)
    lua_getiuservalue(L, 1, 1);
  else if (strcmp(key, "in_transaction") == 0 && connection_cut(c))
    lua_pushnil(L); /* not known any more */
  else
    return false;
  return true;
}

/* Raises for the key at 2: no such field, or not yet. */
static int connection_no_field(lua_State *L) {
  static const char *const fields[] = {"id", "pid", "in_transaction", "age", "uses", "db", "encrypted", NULL};
  llater_check(L, LATER_CONNECTION, "c:", 2);
  return lerror_no_field(L, "a Connection", 2, fields, lua_upvalueindex(1));
}

static int connection_field(lua_State *L, const char *key) {
  if (connection_field_of_gone(L, key)) return 1;
  struct lease *l = lconnection_check(L, 1, "a connection's field");
  const struct conn *c = l->conn;
  const struct driver *d = engine_driver(l->pool->engine);
  usec now = loop_update(l->pool->runtime->loop);
  if (strcmp(key, "id") == 0)
    lua_pushinteger(L, (lua_Integer)c->id);
  else if (strcmp(key, "pid") == 0)
    lua_pushinteger(L, d->pid(c->db));
  else if (strcmp(key, "in_transaction") == 0)
    lua_pushboolean(L, engine_in_transaction(c));
  else if (strcmp(key, "age") == 0)
    lua_pushnumber(L, (lua_Number)(now - c->slot->opened) / USEC_PER_SECOND);
  else if (strcmp(key, "uses") == 0)
    lua_pushinteger(L, (lua_Integer)c->slot->uses);
  else if (strcmp(key, "db") == 0)
    lua_getiuservalue(L, 1, 1);
  else if (strcmp(key, "encrypted") == 0)
    lua_pushboolean(L, d->encrypted(c->db));
  else
    return connection_no_field(L);
  return 1;
}

static int connection_index(lua_State *L) {
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
  return lua_type(L, 2) == LUA_TSTRING ? connection_field(L, lua_tostring(L, 2)) : connection_no_field(L);
}

static int connection_tostring(lua_State *L) {
  struct lconnection *c = luaL_checkudata(L, 1, LCONNECTION_NAME);
  bool held = c->pool->engine && lease_current(c->lease, c->serial);
  if (held)
    lua_pushfstring(L, "pool.Connection %d", (int)c->lease->conn->id);
  else
    lua_pushliteral(L, "pool.Connection (released)");
  return 1;
}

void lconnection_open(lua_State *L) {
  static const luaL_Reg meta[] = {
      {"__gc", connection_gc}, {"__close", connection_release}, {"__tostring", connection_tostring}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{"query", connection_query},     {"json", connection_json},
                                     {"exec", connection_exec},       {"release", connection_release},
                                     {"detach", connection_detach},   {"invalidate", connection_invalidate},
                                     {"cancel", connection_cancel},   {NULL, NULL}};
  luaL_newmetatable(L, LCONNECTION_NAME);
  luaL_setfuncs(L, meta, 0);
  luaL_newlib(L, methods);
  lcursor_open(L);
  lua_pushvalue(L, -1);
  lua_setfield(L, -4, "connection_methods");
  lua_pushcclosure(L, connection_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}
