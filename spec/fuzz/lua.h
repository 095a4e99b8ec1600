/*
** lua: a lua_State for fuzz targets, with pool's modules at hand, made once a process.
**
** The Lua files are not compiled with coverage, so a hook on each line counts which line followed which, where libFuzzer sees it as it
** sees branches of C. Memory is bounded and a call has only so many lines: what asks for more raises.
*/
#ifndef POOL_SPEC_FUZZ_LUA_H
#define POOL_SPEC_FUZZ_LUA_H

#include <lauxlib.h>
#include <lua.h>
#include <stdint.h>

/* The state, its stack empty. When it is made `chunk` is run, which returns the function that fuzz_lua_call calls; NULL: there is none. The
   libraries are all there, and `require "pool.router"` and its like find pool's files. */
lua_State *fuzz_lua(const char *chunk);

/* Calls that function with the `arguments` on top of the stack; as many results are left as it returns. An error ends the process: what a
   target expects to be raised it catches itself. */
void fuzz_lua_call(lua_State *, int arguments);

/* A whole target: the function is called with the input as its only argument, and the collector goes a step on. Returns 0. */
int fuzz_lua_input(const char *chunk, const uint8_t *data, size_t size);

#endif
