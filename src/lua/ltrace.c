/*
** ltrace: one note a Lua state, {error value, coroutine, traceback}, in the registry. A new one replaces it, so nothing grows; an
** error that is raised again passes several who would keep it, of whom the first, who saw the whole stack, is right. It is told
** by identity (for strings: equality) and by its coroutine: the worst that a stale note can do is to name an earlier place that
** raised the very same text in the same task.
*/
#include "ltrace.h"

#include <stdbool.h>

static const char note_key = 0;

enum { NOTE_ERROR = 1, NOTE_COROUTINE, NOTE_TRACEBACK };
enum { LEVELS_WALKED = 500, LEVELS_SHOWN = 10 };

static void frame_push(lua_State *L, lua_State *co, lua_Debug *ar) {
  lua_getinfo(co, "Sln", ar);
  lua_pushfstring(L, "\n\t%s:", ar->short_src);
  if (ar->currentline > 0) lua_pushfstring(L, "%d:", ar->currentline);
  else lua_pushliteral(L, "");
  if (ar->name) lua_pushfstring(L, " in %s '%s'", ar->namewhat, ar->name);
  else lua_pushfstring(L, " in function <%s:%d>", ar->short_src, ar->linedefined);
  lua_concat(L, 3);
}

void ltrace_stack(lua_State *L, lua_State *co, int level) {
  lua_Debug ar;
  if (!lua_getstack(co, LEVELS_WALKED, &ar)) {
    luaL_traceback(L, co, NULL, level);
    return;
  }
  lua_pushliteral(L, "stack traceback:");
  for (int i = 0; i < LEVELS_SHOWN && lua_getstack(co, level + i, &ar); i++) {
    frame_push(L, co, &ar);
    lua_concat(L, 2);
  }
  lua_pushfstring(L, "\n\t...\t(more than %d levels)", LEVELS_WALKED);
  lua_concat(L, 2);
}

/* Is there a note for the error at index, raised on co? Then pushes the note. */
static bool note_find(lua_State *L, lua_State *co, int index) {
  index = lua_absindex(L, index);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &note_key) != LUA_TTABLE) {
    lua_pop(L, 1);
    return false;
  }
  lua_rawgeti(L, -1, NOTE_ERROR);
  bool same = lua_rawequal(L, index, -1);
  lua_rawgeti(L, -2, NOTE_COROUTINE);
  same = same && lua_touserdata(L, -1) == (void *)co;
  lua_pop(L, same ? 2 : 3);
  return same;
}

void ltrace_push(lua_State *L, lua_State *co, int index, int level) {
  if (!note_find(L, co, index)) {
    ltrace_stack(L, co, level);
    return;
  }
  lua_rawgeti(L, -1, NOTE_TRACEBACK);
  lua_remove(L, -2);
}

/* core.keep_traceback(err) -> err: a message handler for who will raise err again. */
static int trace_keep(lua_State *L) {
  lua_settop(L, 1);
  if (note_find(L, L, 1)) {
    lua_settop(L, 1);
    return 1;
  }
  lua_createtable(L, 3, 0);
  lua_pushvalue(L, 1);
  lua_rawseti(L, -2, NOTE_ERROR);
  lua_pushlightuserdata(L, L);
  lua_rawseti(L, -2, NOTE_COROUTINE);
  ltrace_stack(L, L, 1);
  lua_rawseti(L, -2, NOTE_TRACEBACK);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &note_key);
  return 1;
}

/* core.traceback(err, level) -> where err was raised: for message handlers, instead of debug.traceback(nil, level) */
static int trace_of(lua_State *L) {
  luaL_checkany(L, 1);
  ltrace_push(L, L, 1, (int)luaL_optinteger(L, 2, 1));
  return 1;
}

void ltrace_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"keep_traceback", trace_keep}, {"traceback", trace_of}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
