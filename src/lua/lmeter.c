/*
** lmeter: readings of a pool's stats, and their differences.
*/
#include "lmeter.h"

#include <sha256.h>
#include <string.h>

#include "lpolicy.h"

#define LMETER_NAME "pool.Meter"

enum { METER_POOL = 1, METER_VALUES = 1 };

struct meter {
  struct reading before, now;
};

static void meter_read(const struct lpool *p, struct reading *out) {
  pool_stats(engine_pool(p->engine), &out->stats);
  out->query = p->query;
}

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
  meter_read(p, &m->before);
  pool_peaks(engine_pool(p->engine), &peaks);
  return 1;
}

/* m:take(lag) */
static int meter_take(lua_State *L) {
  struct meter *m = luaL_checkudata(L, 1, LMETER_NAME);
  double lag = luaL_optnumber(L, 2, 0);
  struct snapshot snapshot;
  struct peaks peaks;
  lua_getiuservalue(L, 1, METER_POOL);
  struct lpool *p = lua_touserdata(L, -1);
  if (p->engine == NULL || p->closed) return 0;
  engine_refresh(p->engine);
  meter_read(p, &m->now);
  if (m->now.stats.draining) return 0;
  pool_peaks(engine_pool(p->engine), &peaks);
  snapshot_take(&snapshot, &m->now, &m->before, &peaks);
  snapshot.loop_lag = lag;
  m->before = m->now;
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
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
