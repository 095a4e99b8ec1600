/*
** lua: see lua.h.
*/
#include "fuzz/lua.h"

#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "lua/embed.h"

enum { MEMORY_MAX = 256 << 20, LINES_MAX = 2000000, COUNTERS = 1 << 14 };

/* libFuzzer adds what stands in this section to what it knows as coverage, and clears it before each run. */
#ifdef POOL_FUZZ
__attribute__((section("__libfuzzer_extra_counters")))
#endif
static uint8_t counters[COUNTERS];

static size_t memory_used;
static long lines_left;
static uintptr_t line_before;

static void *alloc(void *ud, void *block, size_t old_size, size_t new_size) {
  (void)ud;
  size_t had = block != NULL ? old_size : 0;
  if (new_size > had && memory_used - had + new_size > MEMORY_MAX) return NULL;
  void *made = NULL;
  if (new_size == 0)
    free(block);
  else
    made = realloc(block, new_size);
  if (made != NULL || new_size == 0) memory_used += new_size - had;
  return made;
}

static void line_hook(lua_State *L, lua_Debug *ar) {
  lua_getinfo(L, "S", ar);
  uintptr_t line = (uintptr_t)ar->linedefined * 131 + (uintptr_t)ar->currentline;
  for (const char *p = ar->short_src; *p; p++) line = line * 33 + (unsigned char)*p; /* not the address: runs are compared */
  uint8_t *counter = &counters[(line ^ line_before >> 1) % COUNTERS];
  *counter += *counter < 255;
  line_before = line;
  if (--lines_left < 0) luaL_error(L, "too many lines");
}

static int panic(lua_State *L) {
  fprintf(stderr, "raised: %s\n", luaL_tolstring(L, -1, NULL));
  abort();
}

/* The traceback of what nobody caught. */
static int traced(lua_State *L) {
  luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
  return 1;
}

static lua_State *state_make(void) {
  lua_State *L = lua_newstate(alloc, NULL);
  if (L == NULL) abort();
  lua_atpanic(L, panic);
  luaL_openlibs(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_pool_core);
  lua_setfield(L, -2, "pool.core");
  lua_getglobal(L, "package");
  lua_pushliteral(L, FUZZ_LUA "/?.lua");
  lua_setfield(L, -2, "path");
  lua_settop(L, 0);
  return L;
}

static lua_State *state;

static void state_close(void) { lua_close(state); }

lua_State *fuzz_lua(const char *chunk) {
  if (state == NULL) {
    state = state_make();
    if (chunk != NULL) {
      if (luaL_loadbuffer(state, chunk, strlen(chunk), "=target") != LUA_OK) panic(state);
      lua_call(state, 0, 1);
      lua_rawsetp(state, LUA_REGISTRYINDEX, &state);
    }
    atexit(state_close);
#ifdef POOL_FUZZ
    lua_sethook(state, line_hook, LUA_MASKLINE, 0);
#else
    (void)line_hook;
#endif
  }
  lua_settop(state, 0);
  return state;
}

void fuzz_lua_call(lua_State *L, int arguments) {
  lines_left = LINES_MAX;
  line_before = 0;
  int base = lua_gettop(L) - arguments;
  lua_pushcfunction(L, traced);
  lua_insert(L, base + 1);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &state);
  lua_insert(L, base + 2);
  if (lua_pcall(L, arguments, LUA_MULTRET, base + 1) != LUA_OK) panic(L);
  lua_remove(L, base + 1);
}

int fuzz_lua_input(const char *chunk, const uint8_t *data, size_t size) {
  lua_State *L = fuzz_lua(chunk);
  lua_pushlstring(L, (const char *)data, size);
  fuzz_lua_call(L, 1);
  lua_settop(L, 0);
  lua_gc(L, LUA_GCSTEP, 0);
  return 0;
}
