/*
** malloc_figures: what malloc says of itself, for the soak: a Lua module of two functions.
**
**   figures() -> bytes in use, bytes held from the system; nothing where the C library does not tell (mallinfo2 is glibc 2.33's)
**   keep(n)      allocates n bytes and forgets them: the leak that soak.lua --plant memory must find
*/
#include <lauxlib.h>
#include <lua.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33) && !defined(__SANITIZE_ADDRESS__)
static int malloc_figures(lua_State *L) {
  struct mallinfo2 m = mallinfo2();
  lua_pushinteger(L, (lua_Integer)(m.uordblks + m.hblkhd));
  lua_pushinteger(L, (lua_Integer)(m.arena + m.hblkhd));
  return 2;
}
#else
static int malloc_figures(lua_State *L) {
  (void)L;
  return 0;
}
#endif

static int malloc_keep(lua_State *L) {
  size_t n = (size_t)luaL_checkinteger(L, 1);
  void *volatile lost = malloc(n);
  if (lost) memset(lost, 1, n);
  lost = NULL;
  return 0;
}

LUAMOD_API int luaopen_malloc_figures(lua_State *L);

__attribute__((visibility("default"))) int luaopen_malloc_figures(lua_State *L) {
  static const luaL_Reg functions[] = {{"figures", malloc_figures}, {"keep", malloc_keep}, {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}
