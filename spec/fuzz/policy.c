/*
** policy: tuning policies (src/lua/lpolicy*.c): a text as a policy, and its hooks called.
**
** A text that begins with NUL is instead bytes that choose one (policy_grammar.h). Whatever it does: no call takes long; what it proposes
** is valid and disposes into valid settings; an error says something, as one line of UTF-8; the same text and seed do the same again; and
** it gets hold of no function that the sandbox has not meant for it, wherever in its state it may be hidden.
*/
#include <stdlib.h>
#include <string.h>

#include "db/json_text.h"
#include "fuzz/fuzz.h"
#include "fuzz/lua.h"
#include "fuzz/policy_grammar.h"
#include "lua/lpolicy_internal.h"

enum { TEXT_MAX = 8192, FUNCTIONS_MAX = 256, TICKS = 3 };

static const struct policy_limits limits = {.time = 250000, .memory = 1 << 20, .instructions = 30000};
#define LONGEST (4 * USEC_PER_SECOND) /* of a call: the limit, one piece of C work, and sanitizers */

static const char chunk[] = "local policies = require 'pool.policies' return function() return policies.library() end";

/* ---- what functions there are to be had ---- */

static lua_CFunction allowed[FUNCTIONS_MAX];
static int allowed_count;

static bool function_allowed(lua_CFunction function) {
  for (int i = 0; i < allowed_count; i++)
    if (allowed[i] == function) return true;
  return false;
}

/* The value on top goes into the list of those to be looked at, unless it is there; it is popped. Indices 1 the list, 2 those seen. */
static void walk_add(lua_State *P) {
  int type = lua_type(P, -1);
  lua_pushvalue(P, -1);
  bool seen = (type != LUA_TTABLE && type != LUA_TFUNCTION && type != LUA_TUSERDATA) || lua_rawget(P, 2) != LUA_TNIL;
  lua_pop(P, 1);
  if (seen) {
    lua_pop(P, 1);
    return;
  }
  lua_pushvalue(P, -1);
  lua_pushboolean(P, true);
  lua_rawset(P, 2);
  lua_rawseti(P, 1, (lua_Integer)lua_rawlen(P, 1) + 1);
}

static void walk_table(lua_State *P, int index) {
  for (lua_pushnil(P); lua_next(P, index);) {
    walk_add(P);
    lua_pushvalue(P, -1);
    walk_add(P);
  }
  if (lua_getmetatable(P, index)) walk_add(P);
}

/* A C function's upvalues are out of reach: there is no debug library. */
static void walk_function(lua_State *P, int index, bool collect) {
  lua_CFunction function = lua_tocfunction(P, index);
  for (int i = 1; function == NULL && lua_getupvalue(P, index, i) != NULL; i++) walk_add(P);
  if (function == NULL || function_allowed(function)) return;
  HOLDS(collect); /* or it has escaped */
  HOLDS(allowed_count < FUNCTIONS_MAX);
  allowed[allowed_count++] = function;
}

/* Everything that can be reached from what the policy keeps. */
static void walk(struct policy *p, bool collect) {
  lua_State *P = p->P;
  p->limits.memory = SIZE_MAX / 2;
  lua_settop(P, 0);
  lua_newtable(P);
  lua_newtable(P);
  lua_pushvalue(P, LUA_REGISTRYINDEX);
  walk_add(P);
  for (lua_Integer n; (n = (lua_Integer)lua_rawlen(P, 1)) > 0;) {
    lua_rawgeti(P, 1, n);
    lua_pushnil(P);
    lua_rawseti(P, 1, n);
    if (lua_istable(P, 3))
      walk_table(P, 3);
    else if (lua_isfunction(P, 3))
      walk_function(P, 3, collect);
    else
      HOLDS(lua_isuserdata(P, 3) || lua_isthread(P, 3));
    lua_settop(P, 2);
  }
  lua_settop(P, 0);
  p->limits.memory = limits.memory;
}

/* Lua's own functions that must not be among them. */
static void forbidden_check(void) {
  static const char *const forbidden[] = {"load",
                                          "loadfile",
                                          "loadstring",
                                          "dofile",
                                          "require",
                                          "collectgarbage",
                                          "print",
                                          "io.open",
                                          "io.popen",
                                          "io.lines",
                                          "io.write",
                                          "os.execute",
                                          "os.getenv",
                                          "os.exit",
                                          "os.time",
                                          "os.remove",
                                          "string.dump",
                                          "string.pack",
                                          "debug.getinfo",
                                          "debug.sethook",
                                          "debug.getregistry",
                                          "debug.setmetatable",
                                          "coroutine.create",
                                          "coroutine.wrap",
                                          "math.random",
                                          "math.randomseed",
                                          "table.sort",
                                          "next",
                                          "pairs",
                                          "setmetatable",
                                          "pcall",
                                          "string.rep",
                                          "string.format"};
  lua_State *L = fuzz_lua(chunk);
  for (size_t i = 0; i < sizeof forbidden / sizeof forbidden[0]; i++) {
    char source[64] = "return ";
    strcat(source, forbidden[i]);
    HOLDS(luaL_dostring(L, source) == LUA_OK);
    lua_CFunction function = lua_tocfunction(L, -1);
    HOLDS(function == NULL || !function_allowed(function));
  }
  lua_settop(L, 0);
}

static struct policy *create(const char *text, size_t len, struct pool_error *error) {
  lua_State *L = fuzz_lua(chunk);
  fuzz_lua_call(L, 0);
  struct policy *p = policy_create(L, text, len, "tune.lua", 0, 1, &limits, 7, error);
  lua_settop(L, 0);
  return p;
}

static void allowed_collect(void) {
  static const char plain[] = "compose{'usl'} return {tick = function() end}";
  struct pool_error error;
  struct policy *p = create(plain, sizeof plain - 1, &error);
  HOLDS(p != NULL);
  walk(p, true);
  policy_destroy(p);
  forbidden_check();
}

/* ---- a run ---- */

/* What it did, to be compared with what it does again. */
struct run {
  char said[TICKS + 4][256];
  struct proposal proposals[TICKS];
  bool admitted, created;
  int weight, count;
  bool slow; /* the clock has decided */
};

static void said(struct run *r, enum pool_err err, const struct pool_error *error) {
  char *line = r->said[r->count++];
  if (err == POOL_OK) return;
  HOLDS(err == POOL_POLICY && error->kind == POOL_POLICY && error->message[0] != '\0');
  HOLDS(utf8_valid(error->message, strlen(error->message)));
  for (const char *p = error->message; *p; p++) HOLDS((unsigned char)*p >= ' ' && *p != 0x7f);
  text_copy(line, sizeof r->said[0], error->message);
  r->slow = r->slow || strstr(error->message, "processor time");
}

static void tick(struct policy *p, struct run *r, int n, const struct settings *now) {
  struct snapshot s = {.now = n,
                       .interval = 1,
                       .size = 10,
                       .max_overflow = 20,
                       .limit = 30,
                       .total = 10,
                       .leased = 10 * n % 7,
                       .waiting = 3 * n,
                       .arrivals = 100,
                       .grants = 90,
                       .timeouts = (uint64_t)n,
                       .utilization = 0.9,
                       .wait = {.count = 90, .p95 = 0.1 * n},
                       .database_max_connections = n ? 100 : -1,
                       .database_in_use = -1};
  struct pool_error error;
  struct settings after;
  struct limits fences;
  enum pool_err err = policy_tick(p, &s, now, &r->proposals[n], &error);
  said(r, err, &error);
  HOLDS(err == POOL_OK || r->proposals[n].given == 0);
  HOLDS(utf8_valid(r->proposals[n].reason, strlen(r->proposals[n].reason)));
  limits_defaults(&fences);
  if (r->proposals[n].given == 0) return;
  if (proposal_dispose(now, &r->proposals[n], &fences, true, &after, &error) == POOL_OK) {
    HOLDS(settings_check(&after, &error) == POOL_OK && after.size >= 1 && after.size <= 64);
  }
  policy_tell(p, &s, now, &error);
}

static void run(const char *text, size_t len, struct run *r) {
  struct pool_error error = {.message = ""};
  struct policy_figures figures;
  struct settings now;
  struct stats stats = {.size = 10};
  memset(r, 0, sizeof *r);
  settings_defaults(&pool_settings_table, &now);
  struct policy *p = create(text, len, &error), *next;
  r->created = p != NULL;
  said(r, p ? POOL_OK : POOL_POLICY, &error);
  if (p == NULL) return;
  said(r, policy_begin(p, NULL, &error), &error);
  for (int i = 0; i < TICKS; i++) tick(p, r, i, &now);
  r->admitted = policy_admit(p, &stats, "tenant", 6, 5, NEVER);
  r->weight = policy_weight(p, "tenant", 6);
  HOLDS(r->weight >= 1 && r->weight <= 255);
  if ((next = create(text, len, &error)) != NULL) { /* a reload, its state carried over */
    said(r, policy_begin(next, p, &error), &error);
    policy_destroy(next);
  }
  policy_figures(p, &figures);
  HOLDS(figures.longest < LONGEST && figures.memory <= limits.memory);
  walk(p, false);
  policy_destroy(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct run first, second; /* static for their size alone */
  struct fuzz f = fuzz_of(data, size);
  char *text;
  size_t len;
  if (allowed_count == 0) allowed_collect();
  if (size > 0 && data[0] == 0) {
    fuzz_byte(&f);
    text = malloc(TEXT_MAX);
    len = policy_write(&f, text, TEXT_MAX);
  } else {
    text = fuzz_take(&f, size, &len);
  }
  run(text, len, &first);
  run(text, len, &second);
  if (!first.slow && !second.slow) HOLDS(memcmp(&first, &second, sizeof first) == 0);
  free(text);
  return 0;
}
