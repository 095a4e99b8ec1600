/*
** collect: linked into a pool of its own (<build>/collect), it makes the collector run whole after every callback of the runtime:
** whenever a coroutine that pool resumed, or a function that pool called in protection, comes back. Finalisers run there, and what only
** C still points at is freed there. The linker turns the runtime's calls here (--wrap); Lua's own go their own way.
**
** POOL_SPEC_GC=N: after every N-th callback.
*/
#include <lua.h>
#include <stdatomic.h>
#include <stdlib.h>

int __real_lua_resume(lua_State *L, lua_State *from, int arguments, int *results);
int __real_lua_pcallk(lua_State *L, int arguments, int results, int handler, lua_KContext context, lua_KFunction continuation);
int __wrap_lua_resume(lua_State *L, lua_State *from, int arguments, int *results);
int __wrap_lua_pcallk(lua_State *L, int arguments, int results, int handler, lua_KContext context, lua_KFunction continuation);

static atomic_ulong callbacks;

static void collect(lua_State *L) {
  const char *every = getenv("POOL_SPEC_GC");
  unsigned long n = every ? strtoul(every, NULL, 10) : 0;
  if (L && n > 0 && atomic_fetch_add(&callbacks, 1) % n == 0) lua_gc(L, LUA_GCCOLLECT, 0);
}

int __wrap_lua_resume(lua_State *L, lua_State *from, int arguments, int *results) {
  int status = __real_lua_resume(L, from, arguments, results);
  collect(from); /* never on L: no finaliser can be called on a coroutine that waits */
  return status;
}

int __wrap_lua_pcallk(lua_State *L, int arguments, int results, int handler, lua_KContext context, lua_KFunction continuation) {
  int status = __real_lua_pcallk(L, arguments, results, handler, context, continuation);
  collect(L);
  return status;
}
