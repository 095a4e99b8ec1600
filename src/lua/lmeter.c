/*
** lmeter: readings of a pool's stats, their differences, and now and then how full the database is.
**
** That is asked with one statement on an idle connection, every ASK_EVERY, while the pool is in use: never by one that somebody waits for
** or that would have to be opened, and not so often that it keeps a quiet pool awake. An answer that does not come by the next time is
** given up; a database that refuses the question is not asked again.
*/
#include "lmeter.h"

#include <sha256.h>
#include <string.h>

#include "lpolicy.h"

#define LMETER_NAME "pool.Meter"
#define ASK_EVERY (10 * USEC_PER_SECOND)
#define ASK_PATIENCE USEC_PER_SECOND /* with the check of an idle connection */

/* Connections for everybody, and those in use. Without pg_read_all_stats the backend_type of others is NULL; background workers then have
   no usesysid. */
static const char ASK[] =
    "select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    " - coalesce(nullif(current_setting('reserved_connections', true), ''), '0')::int,"
    " (select count(*)::int from pg_stat_activity"
    " where backend_type = 'client backend' or (backend_type is null and usesysid is not null))";

enum { METER_POOL = 1, METER_VALUES = 1 };

struct meter {
  struct lpool *pool;
  struct reading before, now;
  struct call call;         /* the question under way: state not CALL_OUT */
  bool mute;                /* nobody is there to be asked */
  usec asked;               /* when it last was; 0 never */
  uint64_t arrivals;        /* then, the question included */
  int max_connections, in_use; /* the last answer; -1: none */
};

static void meter_read(const struct lpool *p, struct reading *out) {
  pool_stats(engine_pool(p->engine), &out->stats);
  out->query = p->query;
}

/* ---- the database's own figures ---- */

static int cell_count(const struct driver *driver, struct db_result *result, int column) {
  struct value v;
  driver->cell(result, 0, column, &v);
  return v.type == VALUE_INTEGER && v.integer >= 0 && v.integer <= INT32_MAX ? (int)v.integer : -1;
}

static void ask_done(struct call *call) {
  struct meter *m = CONTAINER(call, struct meter, call);
  const struct driver *driver = m->pool->driver;
  m->max_connections = m->in_use = -1;
  if (call->error) {
    m->mute = call->error->kind == POOL_QUERY;
    engine_free_error(call->error);
  } else if (driver->rows(call->result) == 1 && driver->columns(call->result) == 2) {
    m->max_connections = cell_count(driver, call->result, 0);
    m->in_use = cell_count(driver, call->result, 1);
  }
  driver->free_result(call->result);
  call->error = NULL;
  call->result = NULL;
}

static void ask(struct meter *m, const struct stats *s) {
  struct lpool *p = m->pool;
  usec now = loop_now(p->runtime->loop);
  if (m->mute || (m->asked > 0 && now - m->asked < ASK_EVERY)) return;
  if (m->call.state != CALL_OUT) {
    engine_leave(p->engine, &m->call);
    m->max_connections = m->in_use = -1;
  }
  if (s->idle == 0 || s->waiting > 0 || s->paused || s->counters.arrivals == m->arrivals) return;
  m->asked = now;
  m->arrivals = s->counters.arrivals + 1;
  m->call = (struct call){.statement = {.sql = ASK, .len = sizeof ASK - 1}, .done = ask_done};
  engine_query(p->engine, &m->call, now + ASK_PATIENCE);
}

/* ---- readings ---- */

/* meter(db) */
static int meter_new(lua_State *L) {
  struct lpool *p = lpool_check(L, 1);
  struct peaks peaks;
  lua_settop(L, 1);
  struct meter *m = lua_newuserdatauv(L, sizeof *m, METER_VALUES);
  memset(m, 0, sizeof *m);
  luaL_setmetatable(L, LMETER_NAME);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, METER_POOL);
  m->pool = p;
  m->max_connections = m->in_use = -1;
  m->mute = strcmp(p->driver->name, postgres_driver.name) != 0;
  meter_read(p, &m->before);
  pool_peaks(engine_pool(p->engine), &peaks);
  return 1;
}

static int meter_gc(lua_State *L) {
  struct meter *m = luaL_checkudata(L, 1, LMETER_NAME);
  if (m->pool != NULL && m->pool->engine != NULL) engine_leave(m->pool->engine, &m->call); /* else it went with the engine */
  m->pool = NULL;
  return 0;
}

/* m:take(lag) */
static int meter_take(lua_State *L) {
  struct meter *m = luaL_checkudata(L, 1, LMETER_NAME);
  double lag = luaL_optnumber(L, 2, 0);
  struct snapshot snapshot;
  struct peaks peaks;
  struct lpool *p = m->pool;
  if (p->engine == NULL || p->closed) return 0;
  engine_refresh(p->engine);
  meter_read(p, &m->now);
  if (m->now.stats.draining) return 0;
  pool_peaks(engine_pool(p->engine), &peaks);
  snapshot_take(&snapshot, &m->now, &m->before, &peaks);
  snapshot.loop_lag = lag;
  snapshot.database_max_connections = m->max_connections;
  snapshot.database_in_use = m->in_use;
  m->before = m->now;
  ask(m, &m->now.stats);
  lsnapshot_push(L, &snapshot, &p->settings.pool);
  return 1;
}

/* ---- the door ---- */

bool lmeter_admit(struct lpool *p, uint8_t *weight) {
  const struct lask *ask = &p->ask;
  if (ask->key != 0 && policy_has(p->policy, POLICY_WEIGHT)) *weight = policy_weight(p->policy, ask->key_text, ask->key_length);
  if (!policy_has(p->policy, POLICY_ADMIT)) return true;
  struct stats s;
  pool_stats(engine_pool(p->engine), &s);
  usec timeout = ask->timeout >= 0 ? ask->timeout : p->settings.pool.timeout;
  if (policy_admit(p->policy, &s, ask->key != 0 ? ask->key_text : NULL, ask->key_length, ask->priority, timeout)) return true;
  p->refused++;
  return false;
}

int lmeter_refuse(lua_State *L) {
  return lerror_fail(L, POOL_OVERLOADED, "refused by the tuning policy (its admit said no)");
}

/* set_policy(db, policy | nil) */
static int set_policy(lua_State *L) {
  struct lpool *p = lpool_check(L, 1);
  lua_settop(L, 2);
  struct policy *policy = lua_isnil(L, 2) ? NULL : lpolicy_check(L, 2);
  bool asked = policy != NULL && (policy_has(policy, POLICY_ADMIT) || policy_has(policy, POLICY_WEIGHT));
  p->policy = NULL;
  lua_setiuservalue(L, 1, LPOOL_POLICY);
  p->policy = asked ? policy : NULL;
  return 0;
}

/* sha256(text) */
static int sha256(lua_State *L) {
  size_t length;
  char hex[SHA256_DIGEST_STRING_LENGTH];
  const char *text = luaL_checklstring(L, 1, &length);
  SHA256Data((const uint8_t *)text, length, hex);
  lua_pushstring(L, hex);
  return 1;
}

void lmeter_open(lua_State *L) {
  static const luaL_Reg methods[] = {{"take", meter_take}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"meter", meter_new}, {"set_policy", set_policy}, {"sha256", sha256}, {NULL, NULL}};
  luaL_newmetatable(L, LMETER_NAME);
  lua_pushcfunction(L, meter_gc);
  lua_setfield(L, -2, "__gc");
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
