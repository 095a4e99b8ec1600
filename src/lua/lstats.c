/*
** lstats: what a pool says of itself: db:stats(), db:status(), db:leases().
*/
#include <stdio.h>

#include "lpool.h"

static void set_integer(lua_State *L, const char *name, int64_t n) {
  lua_pushinteger(L, (lua_Integer)n);
  lua_setfield(L, -2, name);
}

static void set_number(lua_State *L, const char *name, double n) {
  lua_pushnumber(L, n);
  lua_setfield(L, -2, name);
}

static void set_seconds(lua_State *L, const char *name, usec t) { set_number(L, name, (double)t / USEC_PER_SECOND); }

static void set_flag(lua_State *L, const char *name, bool flag) {
  lua_pushboolean(L, flag);
  lua_setfield(L, -2, name);
}

/* { count, mean, p50, p95, p99, max }, seconds */
static void set_histogram(lua_State *L, const char *name, const struct histogram *h) {
  lua_createtable(L, 0, 6);
  set_integer(L, "count", (int64_t)h->count);
  set_number(L, "mean", histogram_mean(h) / USEC_PER_SECOND);
  set_seconds(L, "p50", histogram_percentile(h, 0.50));
  set_seconds(L, "p95", histogram_percentile(h, 0.95));
  set_seconds(L, "p99", histogram_percentile(h, 0.99));
  set_seconds(L, "max", h->max);
  lua_setfield(L, -2, name);
}

static void stats_gauges(lua_State *L, const struct stats *s) {
  set_integer(L, "size", s->size);
  set_integer(L, "max_overflow", s->max_overflow);
  set_integer(L, "limit", s->limit);
  set_integer(L, "total", s->total);
  set_integer(L, "idle", s->idle);
  set_integer(L, "leased", s->leased);
  set_integer(L, "waiting", s->waiting);
  set_integer(L, "opening", s->opening);
  set_integer(L, "checking", s->checking);
  set_integer(L, "resetting", s->resetting);
  set_integer(L, "closing", s->closing);
  set_integer(L, "unmet", s->unmet);
  set_seconds(L, "queue_age", s->queue_age);
  set_flag(L, "paused", s->paused);
  set_flag(L, "draining", s->draining);
  set_flag(L, "failing", s->failing);
}

static void stats_counters(lua_State *L, const struct counters *c) {
  set_integer(L, "arrivals", (int64_t)c->arrivals);
  set_integer(L, "grants", (int64_t)c->grants);
  set_integer(L, "releases", (int64_t)c->releases);
  set_integer(L, "timeouts", (int64_t)c->timeouts);
  set_integer(L, "rejected", (int64_t)c->rejected);
  set_integer(L, "shed", (int64_t)c->shed);
  set_integer(L, "cancelled", (int64_t)c->cancelled);
  set_integer(L, "errors", (int64_t)c->errors);
  set_integer(L, "opens", (int64_t)c->opens);
  set_integer(L, "open_failures", (int64_t)c->open_failures);
  set_integer(L, "closes", (int64_t)c->closes);
  set_integer(L, "checks", (int64_t)c->checks);
  set_integer(L, "check_failures", (int64_t)c->check_failures);
  set_integer(L, "resets", (int64_t)c->resets);
  set_integer(L, "recycled", (int64_t)c->recycled);
  set_integer(L, "lost", (int64_t)c->lost);
  set_integer(L, "elided", (int64_t)c->elided);
}

/* Mean leased over the pool's life / (size + max_overflow). */
static double stats_utilization(const struct stats *s) {
  double room = (double)(s->now - s->since) * (s->size + s->max_overflow);
  return room > 0 ? (double)s->leased_time / room : 0.0;
}

static int pool_stats_table(lua_State *L) {
  struct lpool *p = lpool_check(L, 1);
  struct stats *s = lua_newuserdatauv(L, sizeof *s, 0);
  pool_stats(engine_pool(p->engine), s);
  lua_createtable(L, 0, 48);
  stats_gauges(L, s);
  stats_counters(L, &s->counters);
  set_integer(L, "queries", (int64_t)p->queries);
  set_integer(L, "query_errors", (int64_t)p->query_errors);
  set_integer(L, "refused", (int64_t)p->refused);
  set_integer(L, "leaks", (int64_t)p->leaks);
  set_number(L, "utilization", stats_utilization(s));
  set_seconds(L, "leased_seconds", s->leased_time);
  set_histogram(L, "wait", &s->wait);
  set_histogram(L, "hold", &s->hold);
  set_histogram(L, "open_time", &s->open_time);
  set_histogram(L, "query", &p->query);
  usec alive = engine_last_alive(p->engine);
  if (alive > 0) set_seconds(L, "last_alive", loop_update(p->runtime->loop) - alive);
  lsettings_push(L, &p->settings);
  lua_setfield(L, -2, "settings");
  return 1;
}

/* SQLAlchemy's line. */
static int pool_status_line(lua_State *L) {
  struct lpool *p = lpool_check(L, 1);
  struct stats *s = lua_newuserdatauv(L, sizeof *s, 0);
  pool_stats(engine_pool(p->engine), s);
  lua_pushfstring(L, "Pool size: %d  Connections in pool: %d Current Overflow: %d Current Checked out connections: %d", s->size,
                  s->idle, s->total > s->size ? s->total - s->size : 0, s->leased);
  return 1;
}

/* Everything is read before anything but the SQL is pushed: what is pushed may run finalisers, and they may end the lease. */
static void lease_describe(lua_State *L, struct lpool *p, struct conn *c, usec now) {
  const struct lease *l = lpool_lease(p, c);
  uint64_t id = c->id, task = c->borrower ? ltask_id(c->borrower) : 0;
  bool tasked = c->borrower != NULL;
  int pid = engine_driver(p->engine)->pid(c->db);
  usec since = c->leased_at;
  char where[LUA_IDSIZE + 16] = "";
  if (l && l->line > 0)
    snprintf(where, sizeof where, "%s:%d", l->source, l->line);
  else if (c->borrower)
    ltask_where(c->borrower, where, sizeof where);
  if (c->call && c->call->kind != CALL_FETCH)
    lua_pushlstring(L, c->call->statement.sql, c->call->statement.len);
  else
    lua_pushnil(L);
  lua_createtable(L, 0, 7);
  lua_insert(L, -2);
  lua_setfield(L, -2, "sql");
  set_integer(L, "id", (int64_t)id);
  set_integer(L, "pid", pid);
  if (tasked) set_integer(L, "task", (int64_t)task);
  set_seconds(L, "since", since);
  set_seconds(L, "held", now - since);
  if (where[0]) {
    lua_pushstring(L, where);
    lua_setfield(L, -2, "where");
  }
}

struct leased {
  struct conn *conn;
  uint64_t lease;
};

/* Pushes the leases as they are now: describing one may end others. Returns how many. */
static int leases_copy(lua_State *L, struct lpool *p, struct leased **out) {
  const struct list *leases = engine_leases(p->engine);
  int room = 0, n = 0;
  LIST_EACH(node, leases) room++;
  *out = lua_newuserdatauv(L, (size_t)room * sizeof **out, 0);
  LIST_EACH(node, leases) {
    if (n == room) break;
    struct conn *c = CONTAINER(node, struct conn, leased);
    (*out)[n++] = (struct leased){c, c->lease};
  }
  return n;
}

static int pool_leases(lua_State *L) {
  struct lpool *p = lpool_check(L, 1);
  usec now = loop_update(p->runtime->loop);
  struct leased *out;
  int count = leases_copy(L, p, &out);
  lua_newtable(L);
  lua_Integer n = 0;
  for (int i = 0; i < count; i++) {
    if (out[i].conn->lease != out[i].lease) continue;
    lease_describe(L, p, out[i].conn, now);
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}

void lstats_open(lua_State *L) {
  static const luaL_Reg methods[] = {{"stats", pool_stats_table}, {"status", pool_status_line}, {"leases", pool_leases}, {NULL, NULL}};
  luaL_setfuncs(L, methods, 0);
}
