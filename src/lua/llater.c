/*
** llater: a table, looked up by kind and name. It holds no names of flags and verbs: those are the command's own (cli.lua).
*/
#include "llater.h"

#include <string.h>

#include "lerror.h"

#define FAST_PATH "the fast path"

static const struct later_name {
  enum later_kind kind;
  const char *name, *with;
} later_names[] = {
    {LATER_SETTING, "lanes", FAST_PATH},
    {LATER_POOL, "listen", FAST_PATH},
    {LATER_CONNECTION, "pipeline", FAST_PATH},
    {LATER_CONNECTION, "copy_in", FAST_PATH},
    {LATER_CONNECTION, "copy_out", FAST_PATH},
};

#define LATER_COUNT (sizeof later_names / sizeof later_names[0])

const char *llater_with(enum later_kind kind, const char *name) {
  for (size_t i = 0; i < LATER_COUNT; i++)
    if (later_names[i].kind == kind && strcmp(later_names[i].name, name) == 0) return later_names[i].with;
  return NULL;
}

void llater_check(lua_State *L, enum later_kind kind, const char *whose, int key) {
  const char *name = lua_type(L, key) == LUA_TSTRING ? lua_tostring(L, key) : NULL;
  const char *with = name ? llater_with(kind, name) : NULL;
  if (with) lerror_misuse(L, "%s%s is not there yet: it comes with %s", whose, name, with);
}

static void later_push(lua_State *L, enum later_kind kind) {
  lua_newtable(L);
  for (size_t i = 0; i < LATER_COUNT; i++) {
    if (later_names[i].kind != kind) continue;
    lua_pushstring(L, later_names[i].with);
    lua_setfield(L, -2, later_names[i].name);
  }
}

void llater_open(lua_State *L) {
  lua_newtable(L);
  later_push(L, LATER_SETTING);
  lua_setfield(L, -2, "setting");
  lua_setfield(L, -2, "later");
}
