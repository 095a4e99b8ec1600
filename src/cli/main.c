/*
** main: the `pool` command. Makes a Lua state, finds pool's Lua files relative to this executable (bin/pool beside share/lua/5.4,
** in a build tree and where it is installed), and leaves the rest to lua/pool/cli.lua.
*/
#include <lauxlib.h>
#include <libgen.h>
#include <limits.h>
#include <lua.h>
#include <lualib.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lua/embed.h"

#define LUA_DIRECTORY "share/lua/" LUA_VERSION_MAJOR "." LUA_VERSION_MINOR

enum { EXIT_INTERNAL = 1 };

/* Pushes the directory above the one this executable is in. */
static void push_prefix(lua_State *L) {
  char path[PATH_MAX];
  ssize_t len = readlink("/proc/self/exe", path, sizeof path - 1);
  if (len <= 0) luaL_error(L, "cannot find out where this executable is");
  path[len] = '\0';
  char *directory = dirname(path);
  lua_pushstring(L, dirname(directory));
}

/* package.path and package.cpath begin with ours, so that scripts find the very pool that runs them. */
static void set_paths(lua_State *L) {
  push_prefix(L);
  const char *prefix = lua_tostring(L, -1);
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "path");
  lua_pushfstring(L, "%s/" LUA_DIRECTORY "/?.lua;%s", prefix, lua_tostring(L, -1));
  lua_setfield(L, -3, "path");
  lua_pop(L, 1);
  luaL_getsubtable(L, -1, "preload"); /* the module is part of this executable */
  lua_pushcfunction(L, luaopen_pool_core);
  lua_setfield(L, -2, "pool.core");
  lua_pop(L, 3);
}

static void push_arguments(lua_State *L, int argc, char **argv) {
  lua_createtable(L, argc, 1);
  for (int i = 0; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i);
  }
}

static const char URL_FLAG[] = "--database-url";

/* Does the argument begin with the flag, in either of its spellings (--database_url)? */
static bool is_url_flag(const char *argument) {
  size_t i = 0;
  while (URL_FLAG[i] && (argument[i] == '_' ? '-' : argument[i]) == URL_FLAG[i]) i++;
  return URL_FLAG[i] == '\0';
}

/* A URL holds a password, and everybody may read a process's arguments: once Lua has them, stars take its place. */
static void hide_urls(int argc, char **argv) {
  const size_t len = sizeof URL_FLAG - 1;
  for (int i = 1; i < argc; i++) {
    if (!is_url_flag(argv[i])) continue;
    char *url = argv[i][len] == '=' ? argv[i] + len + 1 : argv[i][len] == '\0' && i + 1 < argc ? argv[++i] : NULL;
    if (url != NULL) memset(url, '*', strlen(url));
  }
}

/* Protected. Stack: argc, lightuserdata argv. Returns the exit code. */
static int command(lua_State *L) {
  int argc = (int)lua_tointeger(L, 1);
  char **argv = lua_touserdata(L, 2);
  luaL_openlibs(L);
  set_paths(L);
  push_arguments(L, argc, argv);
  hide_urls(argc, argv);
  lua_pushvalue(L, -1);
  lua_setglobal(L, "arg");
  lua_getglobal(L, "require");
  lua_pushliteral(L, "pool.cli");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "main");
  lua_pushvalue(L, 3);
  lua_call(L, 1, 1);
  return 1;
}

static int traceback(lua_State *L) {
  const char *message = luaL_tolstring(L, 1, NULL);
  luaL_traceback(L, L, message, 1);
  return 1;
}

int main(int argc, char **argv) {
  lua_State *L = luaL_newstate();
  if (L == NULL) {
    fputs("pool: not enough memory\n", stderr);
    return EXIT_INTERNAL;
  }
  lua_pushcfunction(L, traceback);
  lua_pushcfunction(L, command);
  lua_pushinteger(L, argc);
  lua_pushlightuserdata(L, argv);
  int code = EXIT_INTERNAL;
  if (lua_pcall(L, 2, 1, 1) == LUA_OK) code = (int)lua_tointeger(L, -1);
  else fprintf(stderr, "pool: internal error: %s\n", lua_tostring(L, -1));
  lua_close(L);
  return code;
}
