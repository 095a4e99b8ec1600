/*
** lpolicy: a policy's life, and the calls of its hooks.
**
** One lua_State a policy. In its registry, by address: the hooks, and the state table that tick is given. Each entry is a body, a C
** function run by policy_run inside P: it pushes what the hook is called with, calls it, and reads what it returned, so that
** nothing of this can fail elsewhere than under the limits. Between calls P's stack is empty.
*/
#include "lpolicy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/nearest.h"
#include "lpolicy_internal.h"

#define EVERY_MIN 0.01 /* seconds: whoever calls tick must not be kept busy by it */
#define EVERY_MAX 1e6

static const char *const hook_names[POLICY_HOOKS] = {"tick", "admit", "on_event", "weight", "load"};
static const char HOOK[POLICY_HOOKS] = {0}; /* their addresses: keys of the registry */
static const char STATE = 's';

/* ---- what a policy is ---- */

static void check_hooks(lua_State *P, int index, const char *what) {
  bool any = false;
  for (int i = 0; i < POLICY_HOOKS; i++) {
    lua_pushstring(P, hook_names[i]);
    int type = lua_rawget(P, index);
    if (type != LUA_TNIL && type != LUA_TFUNCTION)
      luaL_error(P, "%s: %s is a %s, not a function", what, hook_names[i], luaL_typename(P, -1));
    any = any || (type == LUA_TFUNCTION && i != POLICY_LOAD);
    lua_pop(P, 1);
  }
  if (!any) luaL_error(P, "%s: the policy has none of tick, admit, on_event, weight", what);
}

/* A function under any other name is a mistake that would go unnoticed. Of several the first in the order of their bytes. */
static void check_strangers(lua_State *P, int index, const char *what) {
  const char *first = NULL;
  for (lua_pushnil(P); lua_next(P, index); lua_pop(P, 1)) {
    bool known = lua_type(P, -1) != LUA_TFUNCTION || lua_type(P, -2) != LUA_TSTRING;
    for (int i = 0; i < POLICY_HOOKS && !known; i++) known = strcmp(lua_tostring(P, -2), hook_names[i]) == 0;
    if (!known && (first == NULL || strcmp(lua_tostring(P, -2), first) < 0)) first = lua_tostring(P, -2);
  }
  if (first == NULL) return;
  struct nearest near;
  nearest_begin(&near, first);
  for (int i = 0; i < POLICY_HOOKS; i++) nearest_offer(&near, hook_names[i]);
  if (near.name != NULL) luaL_error(P, "%s: a policy has no hook %s; did you mean %s?", what, first, near.name);
  luaL_error(P, "%s: a policy has no hook %s; there are tick, admit, on_event, weight, load", what, first);
}

static void check_name(lua_State *P, int index, const char *what) {
  char cleaned[POLICY_NAME_MAX + 1];
  lua_pushliteral(P, "name");
  int type = lua_rawget(P, index);
  if (type != LUA_TNIL) {
    if (type != LUA_TSTRING) luaL_error(P, "%s: name is a %s, not a text", what, luaL_typename(P, -1));
    size_t length = lua_rawlen(P, -1);
    if (length == 0 || length > POLICY_NAME_MAX)
      luaL_error(P, "%s: name has %d bytes; 1 to %d are wanted", what, (int)length, (int)POLICY_NAME_MAX);
    text_copy(cleaned, sizeof cleaned, lua_tostring(P, -1));
    text_line(cleaned);
    if (strlen(cleaned) != length || strcmp(cleaned, lua_tostring(P, -1)) != 0)
      luaL_error(P, "%s: name has control characters or is not UTF-8", what);
  }
  lua_pop(P, 1);
}

void policy_check_table(lua_State *P, int index, const char *what) {
  index = lua_absindex(P, index);
  luaL_checkstack(P, 6, "policy");
  if (!lua_istable(P, index))
    luaL_error(P, "%s: the chunk returned %s: a table with tick, admit, on_event or weight is wanted", what,
               lua_isnil(P, index) ? "nothing" : lua_pushfstring(P, "a %s", luaL_typename(P, index)));
  check_hooks(P, index, what);
  check_strangers(P, index, what);
  check_name(P, index, what);
  lua_pushliteral(P, "every");
  if (lua_rawget(P, index) != LUA_TNIL) {
    double every = lua_type(P, -1) == LUA_TNUMBER ? lua_tonumber(P, -1) : 0;
    if (!(every >= EVERY_MIN && every <= EVERY_MAX)) luaL_error(P, "%s: every must be a number of seconds, from 0.01 to 1000000", what);
  }
  lua_pop(P, 1);
}

/* ---- creation ---- */

struct creation {
  struct policy *p;
  lua_State *L;
  const char *source;
  size_t length;
  int params; /* absolute index in L; 0 none */
};

static void policy_adopt(lua_State *P, struct policy *p, int index) {
  index = lua_absindex(P, index);
  for (int i = 0; i < POLICY_HOOKS; i++) {
    lua_pushstring(P, hook_names[i]);
    if (lua_rawget(P, index) == LUA_TFUNCTION) p->hooks |= 1u << i;
    lua_rawsetp(P, LUA_REGISTRYINDEX, &HOOK[i]);
  }
  lua_pushliteral(P, "name");
  if (lua_rawget(P, index) != LUA_TNIL) text_copy(p->name, sizeof p->name, lua_tostring(P, -1));
  lua_pushliteral(P, "every");
  if (lua_rawget(P, index) != LUA_TNIL) p->every = lua_tonumber(P, -1);
  lua_newtable(P);
  lua_rawsetp(P, LUA_REGISTRYINDEX, &STATE);
}

static int create_body(lua_State *P) {
  struct creation *c = lua_touserdata(P, 1);
  policy_sandbox_open(P);
  policy_compile(P, c->source, c->length, c->p->chunk);
  if (c->params != 0)
    policy_copy(P, c->L, c->params, true, "params");
  else
    lua_newtable(P);
  lua_call(P, 1, 1);
  policy_check_table(P, -1, c->p->chunk);
  policy_adopt(P, c->p, -1);
  return 0;
}

static int policy_panic(lua_State *P) {
  (void)P;
  WRONG("an error outside a policy's call");
}

static int entry_compare(const void *a, const void *b) {
  return strcmp(((const struct library_entry *)a)->name, ((const struct library_entry *)b)->name);
}

/* Copies the table name -> source at index of L; what is something else in it is left out. False: memory is short. */
static bool library_copy(struct policy *p, lua_State *L, int index) {
  int count = 0;
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) count++;
  p->library = calloc((size_t)count + 1, sizeof *p->library);
  if (p->library == NULL) return false;
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING) continue;
    struct library_entry *entry = &p->library[p->library_count++];
    entry->length = lua_rawlen(L, -1);
    entry->name = strdup(lua_tostring(L, -2));
    entry->source = malloc(entry->length + 1);
    if (entry->name == NULL || entry->source == NULL) return false;
    memcpy(entry->source, lua_tostring(L, -1), entry->length + 1);
  }
  qsort(p->library, (size_t)p->library_count, sizeof *p->library, entry_compare);
  return true;
}

/* An empty one, with a state of its own; NULL: not even that much memory. */
static struct policy *policy_blank(const char *chunk, const struct policy_limits *limits, uint64_t seed) {
  struct policy *p = calloc(1, sizeof *p);
  if (p == NULL) return NULL;
  p->limits = *limits;
  p->every = 1;
  text_copy(p->chunk, sizeof p->chunk, chunk + (*chunk == '@' || *chunk == '='));
  text_line(p->chunk);
  sim_random_init(&p->random, seed, 0);
  p->P = lua_newstate(policy_alloc, p);
  if (p->P == NULL) {
    policy_destroy(p);
    return NULL;
  }
  lua_atpanic(p->P, policy_panic);
  return p;
}

struct policy *policy_create(lua_State *L, const char *source, size_t length, const char *chunk, int params, int library,
                             const struct policy_limits *limits, uint64_t seed, struct pool_error *error) {
  int top = lua_gettop(L);
  struct policy *p = policy_blank(chunk, limits, seed);
  struct creation creation = {p, L, source, length, params != 0 ? lua_absindex(L, params) : 0};
  if (library != 0) library = lua_absindex(L, library);
  if (p == NULL || !lua_checkstack(L, 4) || (library != 0 && !library_copy(p, L, library))) {
    error_set(error, POOL_POLICY, "%s: not enough memory to begin with (policy_memory %zu)", chunk, limits->memory);
    goto fail;
  }
  if (policy_run(p, create_body, &creation, "the chunk", error) != POOL_OK) goto fail;
  lua_settop(L, top);
  return p;
fail:
  lua_settop(L, top);
  policy_destroy(p);
  return NULL;
}

void policy_destroy(struct policy *p) {
  if (p == NULL) return;
  INSIST(!p->running);
  if (p->P != NULL) lua_close(p->P);
  for (int i = 0; i < p->library_count; i++) {
    free(p->library[i].name);
    free(p->library[i].source);
  }
  free(p->library);
  free(p);
}

const char *policy_name(const struct policy *p) { return p->name[0] ? p->name : NULL; }
double policy_every(const struct policy *p) { return p->every; }
bool policy_has(const struct policy *p, enum policy_hook hook) { return p->hooks >> hook & 1; }
void policy_set_limits(struct policy *p, const struct policy_limits *limits) { p->limits = *limits; }
void policy_figures(const struct policy *p, struct policy_figures *figures) { *figures = p->figures; }

/* ---- calls ---- */

/* Everything a body may need; each uses its own part. */
struct call {
  struct policy *p, *old;
  const struct snapshot *snapshot;
  const struct settings *now;
  const struct stats *stats;
  struct proposal *proposal;
  const char *key, *kind, *message;
  size_t key_length;
  int priority;
  usec timeout;
  bool admitted;
  uint8_t weight;
};

static enum pool_err hook_run(struct policy *p, enum policy_hook hook, lua_CFunction body, struct call *call, struct pool_error *error) {
  call->p = p;
  p->figures.calls++;
  enum pool_err err = policy_run(p, body, call, hook_names[hook], error);
  if (err != POOL_OK) p->figures.errors++;
  return err;
}

static void hook_push(lua_State *P, enum policy_hook hook) { lua_rawgetp(P, LUA_REGISTRYINDEX, &HOOK[hook]); }

static int begin_body(lua_State *P) {
  struct call *c = lua_touserdata(P, 1);
  lua_settop(P, 0);
  if (c->old != NULL) {
    lua_rawgetp(c->old->P, LUA_REGISTRYINDEX, &STATE);
    policy_copy(P, c->old->P, -1, false, "the old state");
  } else {
    lua_pushnil(P);
  }
  if (policy_has(c->p, POLICY_LOAD)) {
    hook_push(P, POLICY_LOAD);
    lua_insert(P, 1);
    lua_call(P, 1, 1);
  }
  if (lua_isnil(P, 1)) {
    lua_newtable(P);
    lua_replace(P, 1);
  }
  if (!lua_istable(P, 1)) luaL_error(P, "%s: load returned a %s: a table is wanted", c->p->chunk, luaL_typename(P, 1));
  lua_rawsetp(P, LUA_REGISTRYINDEX, &STATE);
  return 0;
}

enum pool_err policy_begin(struct policy *p, struct policy *old, struct pool_error *error) {
  struct call call = {.old = old};
  INSIST(old != p && (old == NULL || !old->running));
  enum pool_err err = hook_run(p, POLICY_LOAD, begin_body, &call, error);
  if (old != NULL) lua_settop(old->P, 0);
  return err;
}

static int tick_body(lua_State *P) {
  struct call *c = lua_touserdata(P, 1);
  struct pool_error error;
  lua_settop(P, 0);
  hook_push(P, POLICY_TICK);
  policy_push_snapshot(P, c->snapshot, c->now);
  lua_rawgetp(P, LUA_REGISTRYINDEX, &STATE);
  lua_call(P, 2, 2);
  if (!lua_isnil(P, 1) && !lua_istable(P, 1))
    luaL_error(P, "%s: tick returned a %s: a table of settings, or nothing", c->p->chunk, luaL_typename(P, 1));
  if (!lua_isnil(P, 2) && lua_type(P, 2) != LUA_TSTRING)
    luaL_error(P, "%s: the reason that tick returned is a %s, not a text", c->p->chunk, luaL_typename(P, 2));
  if (lua_istable(P, 1) && policy_read_changes(P, 1, c->proposal, &error) != POOL_OK)
    luaL_error(P, "%s: tick: %s", c->p->chunk, error.message);
  if (lua_isstring(P, 2)) text_copy(c->proposal->reason, sizeof c->proposal->reason, lua_tostring(P, 2));
  text_line(c->proposal->reason);
  return 0;
}

enum pool_err policy_tick(struct policy *p, const struct snapshot *snapshot, const struct settings *now, struct proposal *out,
                          struct pool_error *error) {
  struct call call = {.snapshot = snapshot, .now = now, .proposal = out};
  memset(out, 0, sizeof *out);
  if (!policy_has(p, POLICY_TICK)) return POOL_OK;
  enum pool_err err = hook_run(p, POLICY_TICK, tick_body, &call, error);
  if (err != POOL_OK) memset(out, 0, sizeof *out);
  return err;
}

static int admit_body(lua_State *P) {
  struct call *c = lua_touserdata(P, 1);
  lua_settop(P, 0);
  hook_push(P, POLICY_ADMIT);
  policy_push_gauges(P, c->stats);
  lua_createtable(P, 0, 3);
  if (c->key != NULL) {
    lua_pushlstring(P, c->key, c->key_length);
    lua_setfield(P, -2, "key");
  }
  lua_pushinteger(P, c->priority);
  lua_setfield(P, -2, "priority");
  if (c->timeout != NEVER) {
    lua_pushnumber(P, (double)c->timeout / (double)USEC_PER_SECOND);
    lua_setfield(P, -2, "timeout");
  }
  lua_call(P, 2, 1);
  c->admitted = lua_isnil(P, 1) || (lua_isboolean(P, 1) && lua_toboolean(P, 1));
  return 0;
}

bool policy_admit(struct policy *p, const struct stats *stats, const char *key, size_t key_length, int priority, usec timeout) {
  struct call call = {.stats = stats, .key = key, .key_length = key_length, .priority = priority, .timeout = timeout};
  if (!policy_has(p, POLICY_ADMIT)) return true;
  return hook_run(p, POLICY_ADMIT, admit_body, &call, NULL) != POOL_OK || call.admitted;
}

static int event_body(lua_State *P) {
  struct call *c = lua_touserdata(P, 1);
  lua_settop(P, 0);
  hook_push(P, POLICY_EVENT);
  lua_createtable(P, 0, 2);
  lua_pushstring(P, c->kind);
  lua_setfield(P, -2, "kind");
  lua_pushstring(P, c->message);
  lua_setfield(P, -2, "message");
  policy_push_snapshot(P, c->snapshot, c->now);
  lua_call(P, 2, 0);
  return 0;
}

enum pool_err policy_event(struct policy *p, const char *kind, const char *message, const struct snapshot *snapshot,
                           const struct settings *now, struct pool_error *error) {
  struct call call = {.kind = kind, .message = message, .snapshot = snapshot, .now = now};
  if (!policy_has(p, POLICY_EVENT)) return POOL_OK;
  return hook_run(p, POLICY_EVENT, event_body, &call, error);
}

enum pool_err policy_tell(struct policy *p, const struct snapshot *s, const struct settings *now, struct pool_error *error) {
  const struct {
    const char *kind;
    uint64_t count;
  } kinds[] = {{"timeout", s->timeouts}, {"overloaded", s->rejected}, {"connect", s->open_failures}, {"lost", s->lost}};
  char many[24];
  if (!policy_has(p, POLICY_EVENT)) return POOL_OK;
  for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
    if (kinds[i].count == 0) continue;
    snprintf(many, sizeof many, "%llu", (unsigned long long)kinds[i].count);
    enum pool_err err = policy_event(p, kinds[i].kind, many, s, now, error);
    if (err != POOL_OK) return err;
  }
  return POOL_OK;
}

static int weight_body(lua_State *P) {
  struct call *c = lua_touserdata(P, 1);
  int whole;
  lua_settop(P, 0);
  hook_push(P, POLICY_WEIGHT);
  lua_pushlstring(P, c->key, c->key_length);
  lua_call(P, 1, 1);
  if (lua_isnil(P, 1)) return 0;
  lua_Integer weight = lua_type(P, 1) == LUA_TNUMBER ? lua_tointegerx(P, 1, &whole) : 0;
  if (weight < 1 || weight > UINT8_MAX) luaL_error(P, "%s: weight returned what is no whole number from 1 to 255", c->p->chunk);
  c->weight = (uint8_t)weight;
  return 0;
}

uint8_t policy_weight(struct policy *p, const char *key, size_t length) {
  struct call call = {.key = key, .key_length = length, .weight = 1};
  if (!policy_has(p, POLICY_WEIGHT)) return 1;
  return hook_run(p, POLICY_WEIGHT, weight_body, &call, NULL) == POOL_OK ? call.weight : 1;
}
