/*
** lsim: the simulator's door for lua/pool/sim.lua: core.simulate(options) runs src/sim once.
**
** The options come complete and in one form (sim.lua has checked and filled them); what the room itself refuses is returned. During a run
** nothing is pushed that may raise: the timeline and the decisions are gathered in memory of a userdata and become tables afterwards. The
** tick is a policy's (lpolicy.h), or a Lua function's of this state (the scorer's clairvoyant), which runs protected.
*/
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lerror.h"
#include "lpolicy.h"
#include "lsettings.h"
#include "lsim.h"
#include "sim/sim.h"

#define LSIM_NAME "pool.Simulation"

struct decision {
  double at;
  bool refused;
  uint64_t rows;                   /* of pool_settings_table, which changed */
  struct settings before, after;
  char reason[PROPOSAL_REASON_MAX]; /* or why it was refused */
};

/* One run and what it gathers. A userdata, so that an error leaves nothing behind. */
struct simulation {
  struct sim_options options;
  struct sim_result result;
  struct sim_traced *traces[SIM_SOURCES_MAX];
  struct sim_interval *intervals;
  size_t interval_count, interval_room;
  struct decision *decisions;
  size_t decision_count, decision_room;
  struct policy *policy;           /* borrows */
  lua_State *L;
  int tick;                        /* index of the tick function, 0 none */
  double now;                      /* of the last tick */
  struct pool_error error;         /* of a tick function that raised, or memory that was short; kind POOL_OK: none */
  uint64_t failures;               /* of the policy */
  struct pool_error failure;       /* its first */
};

/* ---- memory ---- */

/* Room for one more; false when memory is short. */
static bool grow(void **block, size_t count, size_t *room, size_t size) {
  if (count < *room) return true;
  size_t wanted = *room > 0 ? *room * 2 : 64;
  void *bigger = realloc(*block, wanted * size);
  if (bigger == NULL) return false;
  *block = bigger;
  *room = wanted;
  return true;
}

static int simulation_gc(lua_State *L) {
  struct simulation *s = luaL_checkudata(L, 1, LSIM_NAME);
  free(s->intervals);
  free(s->decisions);
  for (int i = 0; i < SIM_SOURCES_MAX; i++) free(s->traces[i]);
  s->intervals = NULL;
  s->decisions = NULL;
  memset(s->traces, 0, sizeof s->traces);
  return 0;
}

/* ---- hooks ---- */

static void hook_timeline(void *user, const struct sim_interval *interval) {
  struct simulation *s = user;
  if (!grow((void **)&s->intervals, s->interval_count, &s->interval_room, sizeof *s->intervals)) {
    error_set(&s->error, POOL_OVERLOADED, "not enough memory for the timeline");
    return;
  }
  s->intervals[s->interval_count++] = *interval;
}

static struct decision *decision_add(struct simulation *s) {
  if (!grow((void **)&s->decisions, s->decision_count, &s->decision_room, sizeof *s->decisions)) {
    error_set(&s->error, POOL_OVERLOADED, "not enough memory for the decisions");
    return NULL;
  }
  struct decision *d = &s->decisions[s->decision_count++];
  memset(d, 0, sizeof *d);
  d->at = s->now;
  return d;
}

static void hook_applied(void *user, const struct settings *before, const struct settings *after, const struct proposal *p) {
  struct decision *d = decision_add(user);
  if (d == NULL) return;
  d->before = *before;
  d->after = *after;
  d->rows = settings_differ(before, after);
  text_copy(d->reason, sizeof d->reason, p->reason);
}

static void hook_refused(void *user, const struct proposal *p, const struct pool_error *error) {
  struct decision *d = decision_add(user);
  (void)p;
  if (d == NULL) return;
  d->refused = true;
  text_copy(d->reason, sizeof d->reason, error->message);
}

static void policy_failed(struct simulation *s, const struct pool_error *error) {
  if (s->failures++ == 0) s->failure = *error;
  struct decision *d = decision_add(s);
  if (d == NULL) return;
  d->refused = true;
  text_copy(d->reason, sizeof d->reason, error->message);
}

static bool hook_tick(void *user, const struct snapshot *snapshot, const struct settings *now, struct proposal *out) {
  struct simulation *s = user;
  struct pool_error error;
  s->now = snapshot->now;
  if (policy_tell(s->policy, snapshot, now, &error) != POOL_OK) policy_failed(s, &error);
  if (!policy_has(s->policy, POLICY_TICK)) return false;
  if (policy_tick(s->policy, snapshot, now, out, &error) == POOL_OK) return out->given != 0;
  policy_failed(s, &error);
  return false;
}

/* What a tick function is called with, across its protection. */
struct tick {
  const struct snapshot *snapshot;
  const struct settings *now;
  struct proposal *out;
  struct pool_error *error;
};

/* Protected. Stack: function, lightuserdata tick. */
static int tick_call(lua_State *L) {
  struct tick *t = lua_touserdata(L, 2);
  lua_pushvalue(L, 1);
  policy_push_snapshot(L, t->snapshot, t->now);
  lua_call(L, 1, 2);
  if (lua_isnil(L, -2)) return 0;
  if (policy_read_changes(L, lua_gettop(L) - 1, t->out, t->error) != POOL_OK) return luaL_error(L, "%s", t->error->message);
  text_copy(t->out->reason, sizeof t->out->reason, lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "");
  return 0;
}

static bool hook_tick_function(void *user, const struct snapshot *snapshot, const struct settings *now, struct proposal *out) {
  struct simulation *s = user;
  lua_State *L = s->L;
  struct pool_error error;
  struct tick t = {snapshot, now, out, &error};
  if (s->error.kind != POOL_OK) return false;
  s->now = snapshot->now;
  lua_pushcfunction(L, tick_call);
  lua_pushvalue(L, s->tick);
  lua_pushlightuserdata(L, &t);
  if (lua_pcall(L, 2, 0, 0) == LUA_OK) return out->given != 0;
  error_set(&s->error, POOL_POLICY, "%s", lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "the tick function failed");
  lua_pop(L, 1);
  return false;
}

/* A key's name is what sim.lua gave for it: its number as text. */
static const char *key_text(uint64_t key, char *buffer, size_t size) {
  if (key == 0) return NULL;
  snprintf(buffer, size, "%llu", (unsigned long long)key);
  return buffer;
}

static bool hook_admit(void *user, const struct stats *stats, const struct sim_request *request) {
  struct simulation *s = user;
  char buffer[24];
  const char *key = key_text(request->key, buffer, sizeof buffer);
  return policy_admit(s->policy, stats, key, key ? strlen(key) : 0, request->priority, request->timeout);
}

static uint8_t hook_weight(void *user, uint64_t key) {
  struct simulation *s = user;
  char buffer[24];
  const char *name = key_text(key, buffer, sizeof buffer);
  return name ? policy_weight(s->policy, name, strlen(name)) : 1;
}

/* ---- options, from the table on top ---- */

static double number_of(lua_State *L, const char *name, double fallback) {
  int type = lua_getfield(L, -1, name);
  double value = type == LUA_TNIL ? fallback : lua_tonumber(L, -1);
  if (type != LUA_TNIL && type != LUA_TNUMBER) lerror_misuse(L, "simulate: %s must be a number, not a %s", name, luaL_typename(L, -1));
  lua_pop(L, 1);
  return value;
}

/* A whole number within an int; what is none becomes -1, which the room refuses by name. */
static int count_of(lua_State *L, const char *name, int fallback) {
  double value = number_of(L, name, fallback);
  return value == floor(value) && value >= 0 && value <= 1e9 ? (int)value : -1;
}

static bool flag_of(lua_State *L, const char *name) {
  lua_getfield(L, -1, name);
  bool flag = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return flag;
}

static int choice_of(lua_State *L, const char *name, const char *const *choices) {
  if (lua_getfield(L, -1, name) != LUA_TSTRING) lerror_misuse(L, "simulate: %s must be a text, not a %s", name, luaL_typename(L, -1));
  const char *given = lua_tostring(L, -1);
  for (int i = 0; choices[i] != NULL; i++) {
    if (strcmp(choices[i], given) != 0) continue;
    lua_pop(L, 1);
    return i;
  }
  return lerror_misuse(L, "simulate: %s: there is no \"%s\"", name, given);
}

/* Pushes the array `name`; returns its length, at most `most`. */
static int array_of(lua_State *L, const char *name, int most) {
  if (lua_getfield(L, -1, name) == LUA_TNIL) return 0;
  luaL_checktype(L, -1, LUA_TTABLE);
  lua_Unsigned n = lua_rawlen(L, -1);
  if (n > (lua_Unsigned)most) lerror_misuse(L, "simulate: %s: at most %d of them", name, most);
  return (int)n;
}

static void pair_of(lua_State *L, const char *name, double pair[2]) {
  if (lua_getfield(L, -1, name) == LUA_TTABLE) {
    for (int i = 0; i < 2; i++) {
      lua_rawgeti(L, -1, i + 1);
      pair[i] = lua_tonumber(L, -1);
      lua_pop(L, 1);
    }
  }
  lua_pop(L, 1);
}

static void read_services(lua_State *L, struct sim_source *s) {
  static const char *const kinds[] = {"exponential", "deterministic", "lognormal", "hyperexponential", "erlang", NULL};
  s->service_count = array_of(L, "services", SIM_SERVICES_MAX);
  for (int i = 0; i < s->service_count; i++) {
    lua_rawgeti(L, -1, i + 1);
    struct sim_service *v = &s->services[i];
    v->kind = (enum sim_distribution)choice_of(L, "kind", kinds);
    v->share = number_of(L, "share", 1);
    v->mean = number_of(L, "mean", 0);
    v->cv = number_of(L, "cv", v->kind == SIM_HYPEREXPONENTIAL ? 2 : 1);
    v->k = count_of(L, "k", 2);
    v->holding = flag_of(L, "holding");
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static void read_points(lua_State *L, struct sim_source *s) {
  s->point_count = array_of(L, "points", SIM_POINTS_MAX);
  for (int i = 0; i < s->point_count; i++) {
    lua_rawgeti(L, -1, i + 1);
    lua_rawgeti(L, -1, 1);
    lua_rawgeti(L, -2, 2);
    s->points[i] = (struct sim_point){lua_tonumber(L, -2), lua_tonumber(L, -1)};
    lua_pop(L, 3);
  }
  lua_pop(L, 1);
}

/* The number at [i] of the array at `index`. */
static lua_Number number_at(lua_State *L, int index, lua_Integer i) {
  lua_rawgeti(L, index, i);
  lua_Number n = lua_tonumber(L, -1);
  lua_pop(L, 1);
  return n;
}

/* The trace: { at = {seconds...}, service = {seconds...}, key = {...}, priority = {...} } */
static void read_trace(lua_State *L, struct simulation *sim, int number) {
  struct sim_source *s = &sim->options.sources[number];
  if (lua_getfield(L, -1, "trace") == LUA_TTABLE) {
    int base = lua_gettop(L);
    lua_getfield(L, base, "at");
    lua_getfield(L, base, "service");
    lua_getfield(L, base, "key");
    lua_getfield(L, base, "priority");
    size_t n = (size_t)lua_rawlen(L, base + 1);
    s->trace_count = n;
    s->trace = sim->traces[number] = calloc(n + 1, sizeof *sim->traces[number]);
    if (s->trace == NULL) luaL_error(L, "not enough memory");
    for (size_t i = 0; i < n; i++) {
      lua_Integer at = (lua_Integer)i + 1;
      sim->traces[number][i] = (struct sim_traced){
          (usec)(number_at(L, base + 1, at) * 1e6 + 0.5), (usec)(number_at(L, base + 2, at) * 1e6 + 0.5),
          (uint64_t)number_at(L, base + 3, at), (uint8_t)number_at(L, base + 4, at)};
    }
    lua_settop(L, base);
  }
  lua_pop(L, 1);
}

static void read_source(lua_State *L, struct simulation *sim, int number) {
  static const char *const kinds[] = {"poisson", "even", "diurnal", "mmpp", "batch", "trace", "closed", NULL};
  struct sim_source *s = &sim->options.sources[number];
  s->kind = (enum sim_arrival)choice_of(L, "kind", kinds);
  read_points(L, s);
  s->low = number_of(L, "low", 0);
  s->high = number_of(L, "high", 0);
  s->period = number_of(L, "period", 86400);
  pair_of(L, "rates", s->rates);
  pair_of(L, "means", s->means);
  s->fixed_periods = flag_of(L, "fixed_periods");
  s->batch = count_of(L, "batch", 0);
  s->first = number_of(L, "first", 0);
  s->every = number_of(L, "every", 0);
  s->clients = count_of(L, "clients", 0);
  s->think = number_of(L, "think", 0);
  s->key = (uint64_t)number_of(L, "key", 0);
  s->priority = (uint8_t)count_of(L, "priority", WAITER_PRIORITY);
  s->deadline = number_of(L, "deadline", 0);
  s->leaves = flag_of(L, "leaves");
  s->retries = count_of(L, "retries", 0);
  s->retry_after = number_of(L, "retry_after", 0.1);
  s->retry_budget = number_of(L, "retry_budget", 0);
  read_services(L, s);
  read_trace(L, sim, number);
}

static void read_database(lua_State *L, struct sim_database *d) {
  static const char *const kinds[] = {"restart", "speed", "others", NULL};
  d->round_trip = number_of(L, "round_trip", 0);
  d->login_work = number_of(L, "login_work", 0);
  d->max_connections = count_of(L, "max_connections", 0);
  d->sigma = number_of(L, "sigma", 0);
  d->kappa = number_of(L, "kappa", 0);
  d->fault_count = array_of(L, "faults", SIM_FAULTS_MAX);
  for (int i = 0; i < d->fault_count; i++) {
    lua_rawgeti(L, -1, i + 1);
    d->faults[i].kind = (enum sim_fault_kind)choice_of(L, "kind", kinds);
    d->faults[i].at = number_of(L, "at", 0);
    d->faults[i].seconds = number_of(L, "seconds", 0);
    d->faults[i].value = number_of(L, "value", 0);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static void read_options(lua_State *L, struct simulation *sim) {
  struct sim_options *o = &sim->options;
  o->duration = number_of(L, "duration", 0);
  o->warmup = number_of(L, "warmup", 0);
  o->seed = (uint64_t)number_of(L, "seed", 1);
  o->timeline_every = number_of(L, "timeline", 0);
  o->checked = flag_of(L, "checked");
  o->hooks.every = number_of(L, "every", 1);
  lua_getfield(L, -1, "database");
  read_database(L, &o->database);
  lua_pop(L, 1);
  o->source_count = array_of(L, "sources", SIM_SOURCES_MAX);
  for (int i = 0; i < o->source_count; i++) {
    lua_rawgeti(L, -1, i + 1);
    read_source(L, sim, i);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  lua_getfield(L, -1, "limits");
  policy_read_limits(L, lua_gettop(L), &o->limits);
  lua_pop(L, 1);
}

/* ---- the result ---- */

static void set_number(lua_State *L, const char *name, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, name);
}

static void set_count(lua_State *L, const char *name, uint64_t value) {
  lua_pushinteger(L, (lua_Integer)value);
  lua_setfield(L, -2, name);
}

static void push_wait(lua_State *L, const struct sim_result *r) {
  lua_createtable(L, 0, 7);
  set_count(L, "count", r->wait.count);
  set_number(L, "mean", r->wait_mean);
  set_number(L, "variance", r->wait_variance);
  set_number(L, "p50", r->wait_quantiles[0]);
  set_number(L, "p95", r->wait_quantiles[1]);
  set_number(L, "p99", r->wait_quantiles[2]);
  set_number(L, "max", (double)r->wait.max / USEC_PER_SECOND);
  lua_setfield(L, -2, "wait");
}

static void push_response(lua_State *L, const struct histogram *h) {
  lua_createtable(L, 0, 6);
  set_count(L, "count", h->count);
  set_number(L, "mean", histogram_mean(h) / USEC_PER_SECOND);
  set_number(L, "p50", (double)histogram_percentile(h, 0.50) / USEC_PER_SECOND);
  set_number(L, "p95", (double)histogram_percentile(h, 0.95) / USEC_PER_SECOND);
  set_number(L, "p99", (double)histogram_percentile(h, 0.99) / USEC_PER_SECOND);
  set_number(L, "max", (double)h->max / USEC_PER_SECOND);
  lua_setfield(L, -2, "response");
}

static void push_result(lua_State *L, const struct simulation *s) {
  const struct sim_result *r = &s->result;
  double span = s->options.duration - s->options.warmup;
  lua_createtable(L, 0, 40);
  set_count(L, "requests", r->requests);
  set_count(L, "offered", r->offered);
  set_count(L, "served", r->served);
  set_count(L, "good", r->good);
  set_count(L, "timeouts", r->timeouts);
  set_count(L, "rejected", r->rejected);
  set_count(L, "errors", r->errors);
  set_count(L, "cancelled", r->cancelled);
  set_count(L, "in_system", r->in_system);
  set_count(L, "retried", r->retried);
  set_number(L, "goodput", (double)r->good / span);
  push_wait(L, r);
  push_response(L, &r->response);
  set_number(L, "hold_mean", r->hold_mean);
  lua_createtable(L, 0, 2);
  set_number(L, "mean", r->connections_mean);
  set_count(L, "max", (uint64_t)r->connections_max);
  lua_setfield(L, -2, "connections");
  lua_createtable(L, 0, 2);
  set_number(L, "mean", r->line_mean);
  set_count(L, "max", (uint64_t)r->line_max);
  lua_setfield(L, -2, "line");
  set_number(L, "leased_mean", r->leased_mean);
  set_number(L, "in_database_mean", r->in_database_mean);
  set_count(L, "opens", r->opens);
  set_count(L, "open_failures", r->open_failures);
  set_count(L, "closes", r->closes);
  set_number(L, "opens_per_minute", (double)r->opens / s->options.duration * 60);
  set_number(L, "utilization", r->utilization);
  set_number(L, "over_budget", r->over_budget);
  set_count(L, "events", r->events);
  set_count(L, "ticks", r->ticks);
  set_count(L, "applied", r->applied);
  set_count(L, "refused", r->refused);
  set_count(L, "policy_failures", s->failures);
  if (s->failures > 0) lua_pushstring(L, s->failure.message), lua_setfield(L, -2, "policy_failure");
}

static void push_timeline(lua_State *L, const struct simulation *s) {
  lua_createtable(L, (int)s->interval_count, 0);
  for (size_t i = 0; i < s->interval_count; i++) {
    const struct sim_interval *v = &s->intervals[i];
    const struct snapshot *p = &v->snapshot;
    lua_createtable(L, 0, 20);
    set_number(L, "at", p->now);
    set_count(L, "arrivals", v->offered);
    set_count(L, "served", v->served);
    set_count(L, "good", v->good);
    set_count(L, "failed", v->failed);
    set_count(L, "waiting", (uint64_t)p->waiting);
    set_count(L, "waiting_max", (uint64_t)p->waiting_max);
    set_count(L, "size", (uint64_t)p->size);
    set_count(L, "limit", (uint64_t)p->limit);
    set_count(L, "open", (uint64_t)p->total);
    set_count(L, "leased", (uint64_t)p->leased);
    set_number(L, "leased_mean", p->leased_mean);
    set_count(L, "timeouts", p->timeouts);
    set_count(L, "rejected", p->rejected);
    set_count(L, "opens", p->opens);
    set_count(L, "open_failures", p->open_failures);
    set_number(L, "wait_p50", p->wait.p50);
    set_number(L, "wait_p99", p->wait.p99);
    set_number(L, "speed", v->speed);
    set_count(L, "others", (uint64_t)v->others);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "timeline");
}

/* name -> value of the rows that changed. */
static void push_rows(lua_State *L, const struct settings *settings, uint64_t rows) {
  char text[64];
  lua_newtable(L);
  for (int i = 0; i < pool_settings_table.count; i++) {
    const struct setting *row = &pool_settings_table.rows[i];
    if (!(rows >> i & 1)) continue;
    if (row->type == SETTING_COUNT) lua_pushinteger(L, (lua_Integer)setting_value(row, settings));
    else if (row->type == SETTING_FLAG) lua_pushboolean(L, strcmp(setting_format(row, settings, text, sizeof text), "true") == 0);
    else if (row->type == SETTING_CHOICE) lua_pushstring(L, setting_format(row, settings, text, sizeof text));
    else lua_pushnumber(L, setting_value(row, settings));
    lua_setfield(L, -2, row->name);
  }
}

static void push_decisions(lua_State *L, const struct simulation *s) {
  lua_createtable(L, (int)s->decision_count, 0);
  for (size_t i = 0; i < s->decision_count; i++) {
    const struct decision *d = &s->decisions[i];
    lua_createtable(L, 0, 5);
    set_number(L, "at", d->at);
    lua_pushstring(L, d->reason);
    lua_setfield(L, -2, d->refused ? "refused" : "reason");
    if (!d->refused) {
      push_rows(L, &d->before, d->rows);
      lua_setfield(L, -2, "before");
      push_rows(L, &d->after, d->rows);
      lua_setfield(L, -2, "changes");
    }
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "decisions");
}

/* ---- simulate(options, policy | function | nil) -> result | nil, err ---- */

static void set_hooks(lua_State *L, struct simulation *s) {
  struct sim_hooks *hooks = &s->options.hooks;
  hooks->user = s;
  hooks->applied = hook_applied;
  hooks->refused = hook_refused;
  s->options.timeline = hook_timeline;
  if (lua_isfunction(L, 2)) {
    s->tick = 2;
    hooks->tick = hook_tick_function;
  } else if (!lua_isnoneornil(L, 2)) {
    s->policy = lpolicy_check(L, 2);
    hooks->every = policy_every(s->policy);
    if (policy_has(s->policy, POLICY_TICK) || policy_has(s->policy, POLICY_EVENT)) hooks->tick = hook_tick;
    if (policy_has(s->policy, POLICY_ADMIT)) hooks->admit = hook_admit;
    if (policy_has(s->policy, POLICY_WEIGHT)) hooks->weight = hook_weight;
  }
}

static int simulate(lua_State *L) {
  lua_settop(L, 2);
  luaL_checktype(L, 1, LUA_TTABLE);
  struct simulation *s = lua_newuserdatauv(L, sizeof *s, 0);
  memset(s, 0, sizeof *s);
  luaL_setmetatable(L, LSIM_NAME);
  s->L = L;
  struct all_settings *all = lua_newuserdatauv(L, sizeof *all, 0);
  lua_getfield(L, 1, "settings");
  lsettings_read(L, lua_gettop(L), all);
  s->options.settings = all->pool;
  lua_pop(L, 2);
  lua_pushvalue(L, 1);
  read_options(L, s);
  lua_pop(L, 1);
  set_hooks(L, s);
  struct pool_error error;
  luaL_checkstack(L, LUA_MINSTACK, "simulate");
  if (sim_run(&s->options, &s->result, &error) != POOL_OK) return lerror_return(L, &error);
  if (s->error.kind != POOL_OK) return lerror_return(L, &s->error);
  push_result(L, s);
  push_timeline(L, s);
  push_decisions(L, s);
  return 1;
}

/* best_concurrency(sigma, kappa) -> N*, 0 when there is none */
static int best_concurrency(lua_State *L) {
  lua_pushnumber(L, sim_best_concurrency(luaL_checknumber(L, 1), luaL_checknumber(L, 2)));
  return 1;
}

void lsim_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"simulate", simulate}, {"best_concurrency", best_concurrency}, {NULL, NULL}};
  luaL_newmetatable(L, LSIM_NAME);
  lua_pushcfunction(L, simulation_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
