/*
** lview: "pool.View", a Pool seen with defaults of its own for what it asks: db:with{key=, priority=, timeout=}.
**
** It is a Pool wherever one is wanted: lpool_check puts the Pool in its place on the stack and notes in lpool.ask what the call is to ask
** with; a plain Pool resets that. Nothing may run between the two that could ask for a connection: a call takes lpool.ask in lquery_begin.
*/
#include "lview.h"

#include <stdio.h>
#include <string.h>

#include "lerror.h"

static const char view_brand = 0;

enum { KEY_SHOWN = 64 };

struct lview {
  const void *brand;
  struct lask ask;      /* its key_text is `key` */
  char key[KEY_SHOWN]; /* as it was given, cut when long */
};

enum { VIEW_POOL = 1, VIEW_VALUES = 1 };

static const struct lask plain = {.timeout = -1, .priority = WAITER_PRIORITY};

void lview_none(struct lask *ask) { *ask = plain; }

bool lview_resolve(lua_State *L, int index, struct lask *ask) {
  const struct lview *v = lruntime_branded(L, index, &view_brand, sizeof *v);
  if (!v) return false;
  index = lua_absindex(L, index);
  *ask = v->ask;
  lua_getiuservalue(L, index, VIEW_POOL);
  lua_replace(L, index);
  return true;
}

void lview_push(lua_State *L, int pool, const struct lask *ask) {
  pool = lua_absindex(L, pool);
  struct lview *v = lua_newuserdatauv(L, sizeof *v, VIEW_VALUES);
  v->brand = &view_brand;
  v->ask = *ask;
  if (ask->key_text) {
    v->ask.key_length = ask->key_length < KEY_SHOWN ? ask->key_length : KEY_SHOWN;
    v->ask.key_text = memcpy(v->key, ask->key_text, v->ask.key_length);
  }
  luaL_setmetatable(L, LVIEW_NAME);
  lua_pushvalue(L, pool);
  lua_setiuservalue(L, -2, VIEW_POOL);
}

/* FNV-1a (Fowler, Noll, Vo) from a seed that the process drew, and splitmix64's last step: who chooses keys cannot choose collisions. */
static uint64_t key_hash(const struct lpool *p, const char *key, size_t length) {
  uint64_t h = 0xcbf29ce484222325u ^ p->key_seed;
  for (size_t i = 0; i < length; i++) h = (h ^ (unsigned char)key[i]) * 0x100000001b3u;
  h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9u;
  h = (h ^ (h >> 27)) * 0x94D049BB133111EBu;
  h ^= h >> 31;
  return h ? h : 1; /* 0 is no key */
}

/* The text stays where it is, with the options; that of a number, which lua_next forbids to become one in place, with the Pool. */
static void key_check(lua_State *L, struct lpool *p, const char *who, struct lask *ask) {
  if (lua_isinteger(L, -1)) {
    ask->key_length = (size_t)snprintf(p->key_number, sizeof p->key_number, LUA_INTEGER_FMT, lua_tointeger(L, -1));
    ask->key_text = p->key_number;
  } else if (lua_type(L, -1) == LUA_TSTRING) {
    ask->key_text = lua_tolstring(L, -1, &ask->key_length);
  } else {
    lerror_misuse(L, "%s: key must be a string or an integer (a tenant's name or number), not %s", who, luaL_typename(L, -1));
  }
  ask->key = key_hash(p, ask->key_text, ask->key_length);
}

static uint8_t priority_check(lua_State *L, const char *who) {
  if (!lua_isinteger(L, -1) || lua_tointeger(L, -1) < 0 || lua_tointeger(L, -1) > WAITER_PRIORITY_MAX)
    lerror_misuse(L, "%s: priority must be a whole number from 0 to %d (9 goes first; 5 is what others have)", who, WAITER_PRIORITY_MAX);
  return (uint8_t)lua_tointeger(L, -1);
}

void lview_options(lua_State *L, int index, struct lpool *p, const char *who, struct lask *ask) {
  char what[48];
  if (!lua_istable(L, index))
    lerror_misuse(L, "%s: a table is wanted ({timeout = seconds, key = ..., priority = 0..9}), not %s", who, luaL_typename(L, index));
  snprintf(what, sizeof what, "%s timeout", who);
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "";
    if (strcmp(name, "timeout") == 0) ask->timeout = lruntime_check_seconds(L, -1, what);
    else if (strcmp(name, "key") == 0) key_check(L, p, who, ask);
    else if (strcmp(name, "priority") == 0) ask->priority = priority_check(L, who);
    else lerror_misuse(L, "%s: unknown option %s (timeout, key, priority)", who, lerror_push_key(L, -2));
  }
}

/* db:with{key=, priority=, timeout=} -> View */
static int pool_with(lua_State *L) {
  struct lpool *p = lpool_check(L, 1);
  struct lask ask = p->ask;
  lua_settop(L, 2);
  lview_options(L, 2, p, "db:with", &ask);
  lview_push(L, 1, &ask);
  return 1;
}

/* core.pool_of(pool or view) -> Pool */
static int pool_of(lua_State *L) {
  struct lask ask;
  lua_settop(L, 1);
  lview_resolve(L, 1, &ask);
  return 1;
}

void lview_open(lua_State *L) {
  lua_pushcfunction(L, pool_of);
  lua_setfield(L, -2, "pool_of");
}

void lview_methods(lua_State *L) {
  lua_pushcfunction(L, pool_with);
  lua_setfield(L, -2, "with");
}
