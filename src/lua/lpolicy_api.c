/*
** lpolicy_api: the policy host for pool's own Lua files (core.policy, core.dispose, core.snapshot). What a policy does wrong is
** returned, what the caller does wrong is raised.
*/
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host_settings.h"
#include "lerror.h"
#include "lpolicy_internal.h"

#define LPOLICY_NAME "pool.Policy"

struct lpolicy {
  struct policy *policy; /* NULL: closed */
};

struct policy *lpolicy_check(lua_State *L, int index) {
  struct lpolicy *l = luaL_checkudata(L, index, LPOLICY_NAME);
  if (l->policy == NULL) lerror_misuse(L, "this policy is closed");
  return l->policy;
}

/* ---- options ---- */

static double option_number(lua_State *L, int options, const char *name, double fallback) {
  double value = fallback;
  if (lua_getfield(L, options, name) != LUA_TNIL) {
    value = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : 0;
    if (!(value > 0 && value <= 1e15)) lerror_misuse(L, "policy: %s must be a number above 0", name);
  }
  lua_pop(L, 1);
  return value;
}

/* Pushes the option and returns its index, 0 (and pushes nothing) when it is not given. */
static int option_table(lua_State *L, int options, const char *name) {
  int type = lua_getfield(L, options, name);
  if (type == LUA_TTABLE) return lua_gettop(L);
  if (type != LUA_TNIL) lerror_misuse(L, "policy: %s must be a table, not a %s", name, luaL_typename(L, -1));
  lua_pop(L, 1);
  return 0;
}

static void options_limits(lua_State *L, int options, struct policy_limits *limits) {
  struct host_settings host;
  settings_defaults(&host_settings_table, &host);
  limits->time = (usec)(option_number(L, options, "time", (double)host.policy_time / (double)USEC_PER_SECOND) * (double)USEC_PER_SECOND);
  limits->memory = (size_t)option_number(L, options, "memory", host.policy_memory);
  limits->instructions = (int64_t)option_number(L, options, "instructions", host.policy_instructions);
}

/* ---- files ---- */

/* The descriptor of a policy's file, its size in *size; -1: what is wrong is pushed. Only a file has an end that is known: a pipe or a
   device would be waited for, or read for ever, with everybody else waiting. */
static int file_open(lua_State *L, const char *path, size_t *size) {
  struct stat info;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd >= 0 && fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size <= POLICY_SOURCE_MAX) {
    *size = (size_t)info.st_size;
    return fd;
  }
  int wrong = errno;
  bool opened = fd >= 0;
  if (opened) close(fd); /* what is pushed below may raise */
  if (!opened)
    lua_pushfstring(L, "%s: %s", path, wrong == ENXIO ? "it is no file" : strerror(wrong));
  else if (!S_ISREG(info.st_mode))
    lua_pushfstring(L, "%s: it is no file", path);
  else
    lua_pushfstring(L, "%s: %I bytes of text; a policy has at most %d", path, (LUAI_UACINT)info.st_size, (int)POLICY_SOURCE_MAX);
  return -1;
}

/* policy_text(path) -> text | nil, what is wrong */
static int api_policy_text(lua_State *L) {
  char text[POLICY_SOURCE_MAX];
  size_t size = 0, length = 0, longest;
  ssize_t n = 1;
  const char *path = luaL_checklstring(L, 1, &longest);
  lua_pushnil(L);
  if (strlen(path) != longest) {
    lua_pushliteral(L, "a path with a NUL in it");
    return 2;
  }
  int fd = file_open(L, path, &size);
  if (fd < 0) return 2;
  while (length < size && n > 0)
    if ((n = read(fd, text + length, size - length)) > 0) length += (size_t)n;
  int wrong = errno;
  close(fd);
  if (n < 0) {
    lua_pushfstring(L, "%s: %s", path, strerror(wrong));
    return 2;
  }
  lua_pushlstring(L, text, length);
  return 1;
}

/* policy(source, chunk, options) */
static int api_policy(lua_State *L) {
  struct pool_error error;
  struct policy_limits limits;
  size_t length;
  const char *source = luaL_checklstring(L, 1, &length), *chunk = luaL_checkstring(L, 2);
  if (lua_isnoneornil(L, 3)) {
    lua_settop(L, 2);
    lua_newtable(L);
  }
  luaL_checktype(L, 3, LUA_TTABLE);
  options_limits(L, 3, &limits);
  lua_getfield(L, 3, "seed");
  uint64_t seed = (uint64_t)luaL_optinteger(L, -1, 1);
  lua_pop(L, 1);
  int params = option_table(L, 3, "params"), library = option_table(L, 3, "library");
  struct lpolicy *l = lua_newuserdatauv(L, sizeof *l, 0);
  l->policy = NULL;
  luaL_setmetatable(L, LPOLICY_NAME);
  l->policy = policy_create(L, source, length, chunk, params, library, &limits, seed, &error);
  return l->policy != NULL ? 1 : lerror_return(L, &error);
}

/* ---- methods ---- */

static int true_or_error(lua_State *L, enum pool_err err, const struct pool_error *error) {
  if (err != POOL_OK) return lerror_return(L, error);
  lua_pushboolean(L, true);
  return 1;
}

static int lpolicy_begin(lua_State *L) {
  struct pool_error error;
  struct policy *p = lpolicy_check(L, 1), *old = lua_isnoneornil(L, 2) ? NULL : lpolicy_check(L, 2);
  if (old == p) lerror_misuse(L, "begin: a policy cannot follow itself");
  return true_or_error(L, policy_begin(p, old, &error), &error);
}

static void changes_push(lua_State *L, const struct proposal *proposal) {
  lua_newtable(L);
  policy_push_settings(L, &proposal->values);
  for (int i = 0; i < pool_settings_table.count; i++) {
    if (!(proposal->given >> i & 1)) continue;
    lua_getfield(L, -1, pool_settings_table.rows[i].name);
    lua_setfield(L, -3, pool_settings_table.rows[i].name);
  }
  lua_pop(L, 1);
}

/* tick(snapshot) -> changes | nil, reason | nil; nil, nil, err when it failed */
static int lpolicy_tick(lua_State *L) {
  struct pool_error error;
  struct policy *p = lpolicy_check(L, 1);
  struct snapshot snapshot;
  struct settings now;
  struct proposal proposal;
  policy_check_snapshot(L, 2, &snapshot, &now);
  if (policy_tick(p, &snapshot, &now, &proposal, &error) != POOL_OK) {
    lua_pushnil(L);
    lua_pushnil(L);
    lerror_push(L, &error);
    return 3;
  }
  if (proposal.given != 0)
    changes_push(L, &proposal);
  else
    lua_pushnil(L);
  lua_pushstring(L, proposal.reason[0] ? proposal.reason : NULL);
  return 2;
}

static int lpolicy_event(lua_State *L) {
  struct pool_error error;
  struct policy *p = lpolicy_check(L, 1);
  struct snapshot snapshot;
  struct settings now;
  const char *kind = luaL_checkstring(L, 2), *message = luaL_checkstring(L, 3);
  policy_check_snapshot(L, 4, &snapshot, &now);
  return true_or_error(L, policy_event(p, kind, message, &snapshot, &now, &error), &error);
}

/* tell(snapshot): what happened in its interval, as events */
static int lpolicy_tell(lua_State *L) {
  struct pool_error error;
  struct policy *p = lpolicy_check(L, 1);
  struct snapshot snapshot;
  struct settings now;
  policy_check_snapshot(L, 2, &snapshot, &now);
  return true_or_error(L, policy_tell(p, &snapshot, &now, &error), &error);
}

/* admit(snapshot, key?, priority, timeout): the snapshot's gauges alone are shown to it */
static int lpolicy_admit(lua_State *L) {
  struct policy *p = lpolicy_check(L, 1);
  struct snapshot s;
  struct settings now;
  size_t length = 0;
  lua_settop(L, 5);
  policy_check_snapshot(L, 2, &s, &now);
  struct stats *stats = lua_newuserdatauv(L, sizeof *stats, 0);
  *stats = (struct stats){
    .size = s.size, .max_overflow = s.max_overflow, .limit = s.limit, .total = s.total, .idle = s.idle, .leased = s.leased,
    .opening = s.opening, .waiting = s.waiting, .queue_age = (usec)(s.queue_age * (double)USEC_PER_SECOND),
    .counters = {.arrivals = s.arrivals, .grants = s.grants, .timeouts = s.timeouts, .rejected = s.rejected},
  };
  const char *key = luaL_optlstring(L, 3, NULL, &length);
  usec timeout = (usec)(luaL_checknumber(L, 5) * (double)USEC_PER_SECOND);
  lua_pushboolean(L, policy_admit(p, stats, key, length, (int)luaL_checkinteger(L, 4), timeout));
  return 1;
}

static int lpolicy_weight(lua_State *L) {
  size_t length;
  const char *key = luaL_checklstring(L, 2, &length);
  lua_pushinteger(L, policy_weight(lpolicy_check(L, 1), key, length));
  return 1;
}

static void set_number(lua_State *L, const char *name, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, name);
}

static int lpolicy_figures(lua_State *L) {
  struct policy_figures f;
  policy_figures(lpolicy_check(L, 1), &f);
  lua_createtable(L, 0, 5);
  lua_pushinteger(L, (lua_Integer)f.calls);
  lua_setfield(L, -2, "calls");
  lua_pushinteger(L, (lua_Integer)f.errors);
  lua_setfield(L, -2, "errors");
  lua_pushinteger(L, (lua_Integer)f.memory);
  lua_setfield(L, -2, "memory");
  set_number(L, "mean", f.calls > 0 ? (double)f.time / (double)f.calls / (double)USEC_PER_SECOND : 0);
  set_number(L, "longest", (double)f.longest / (double)USEC_PER_SECOND);
  return 1;
}

/* close, __gc and __close */
static int lpolicy_close(lua_State *L) {
  struct lpolicy *l = luaL_checkudata(L, 1, LPOLICY_NAME);
  struct policy *p = l->policy;
  l->policy = NULL;
  policy_destroy(p);
  return 0;
}

static int lpolicy_hooks(lua_State *L, const struct policy *p) {
  static const char *const names[POLICY_HOOKS] = {"tick", "admit", "on_event", "weight", "load"};
  lua_newtable(L);
  for (int i = 0; i < POLICY_HOOKS; i++) {
    if (!policy_has(p, (enum policy_hook)i)) continue;
    lua_pushboolean(L, true);
    lua_setfield(L, -2, names[i]);
  }
  return 1;
}

/* Upvalue 1: the methods. */
static int lpolicy_index(lua_State *L) {
  luaL_checkudata(L, 1, LPOLICY_NAME);
  lua_settop(L, 2);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
  const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  const struct policy *p = lpolicy_check(L, 1);
  if (strcmp(key, "name") == 0)
    lua_pushstring(L, policy_name(p));
  else if (strcmp(key, "every") == 0)
    lua_pushnumber(L, policy_every(p));
  else if (strcmp(key, "hooks") == 0)
    return lpolicy_hooks(L, p);
  else
    return lerror_no_field(L, "a Policy", 2, NULL, lua_upvalueindex(1));
  return 1;
}

/* ---- snapshots ---- */

void lsnapshot_push(lua_State *L, const struct snapshot *snapshot, const struct settings *now) {
  struct lsnapshot *s = lua_newuserdatauv(L, sizeof *s, 0);
  *s = (struct lsnapshot){*snapshot, *now};
  luaL_setmetatable(L, LSNAPSHOT_NAME);
}

static int api_snapshot(lua_State *L) {
  struct snapshot snapshot;
  struct settings now;
  policy_check_snapshot(L, 1, &snapshot, &now);
  lsnapshot_push(L, &snapshot, &now);
  return 1;
}

static int lsnapshot_table(lua_State *L) {
  const struct lsnapshot *s = luaL_checkudata(L, 1, LSNAPSHOT_NAME);
  policy_push_snapshot(L, &s->snapshot, &s->settings);
  return 1;
}

/* ---- disposing ---- */

static double limit_of(lua_State *L, int pair, const char *name) {
  lua_rawgeti(L, -1, pair);
  if (lua_type(L, -1) != LUA_TNUMBER) lerror_misuse(L, "limits: %s must be {low, high}", name);
  double value = lua_tonumber(L, -1);
  lua_pop(L, 1);
  return value;
}

/* The table at index, name = {low, high}, over the defaults. */
void policy_read_limits(lua_State *L, int index, struct limits *limits) {
  limits_defaults(limits);
  if (lua_isnoneornil(L, index)) return;
  luaL_checktype(L, index, LUA_TTABLE);
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
    const struct setting *row = settings_find(&pool_settings_table, name);
    int i = row != NULL ? proposal_row(row) : -1;
    bool numeric = i >= 0 && (row->type == SETTING_COUNT || row->type == SETTING_DURATION || row->type == SETTING_RATIO);
    if (!numeric || strcmp(row->name, name) != 0) lerror_misuse(L, "limits: %s is no setting with a range that a policy may change", name);
    if (!lua_istable(L, -1)) lerror_misuse(L, "limits: %s must be {low, high}", name);
    limits->low[i] = limit_of(L, 1, name);
    limits->high[i] = limit_of(L, 2, name);
    if (!(limits->low[i] >= row->min && limits->low[i] <= limits->high[i] && limits->high[i] <= row->max))
      lerror_misuse(L, "limits: %s: {low, high} must lie within %f and %f, low first", name, row->min, row->max);
  }
}

/* dispose(settings, changes, limits?, slew?): slew true unless false is given */
static int api_dispose(lua_State *L) {
  struct pool_error error;
  struct settings now, out;
  lua_settop(L, 4);
  struct proposal *proposal = lua_newuserdatauv(L, sizeof *proposal, 0);
  struct limits *limits = lua_newuserdatauv(L, sizeof *limits, 0);
  bool slew = lua_isnoneornil(L, 4) || lua_toboolean(L, 4);
  luaL_checktype(L, 2, LUA_TTABLE);
  policy_check_settings(L, 1, &now);
  policy_read_limits(L, 3, limits);
  if (policy_read_changes(L, 2, proposal, &error) != POOL_OK) return lerror_return(L, &error);
  if (proposal_dispose(&now, proposal, limits, slew, &out, &error) != POOL_OK) return lerror_return(L, &error);
  policy_push_settings(L, &out);
  return 1;
}

void lpolicy_open(lua_State *L) {
  static const luaL_Reg methods[] = {{"begin", lpolicy_begin}, {"tick", lpolicy_tick},     {"event", lpolicy_event},
                                     {"admit", lpolicy_admit}, {"weight", lpolicy_weight}, {"figures", lpolicy_figures},
                                     {"tell", lpolicy_tell},   {"close", lpolicy_close},   {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", lpolicy_close}, {"__close", lpolicy_close}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"policy", api_policy}, {"policy_text", api_policy_text}, {"dispose", api_dispose},
                                       {"snapshot", api_snapshot}, {NULL, NULL}};
  static const luaL_Reg snapshot_methods[] = {{"table", lsnapshot_table}, {NULL, NULL}};
  luaL_newmetatable(L, LPOLICY_NAME);
  luaL_setfuncs(L, meta, 0);
  luaL_newlib(L, methods);
  lua_pushcclosure(L, lpolicy_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_newmetatable(L, LSNAPSHOT_NAME);
  luaL_newlib(L, snapshot_methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
