/*
** lrecorder: the recorder belongs to the userdata, which keeps the Pool; the engine only borrows it, and is told when it goes.
*/
#include "lrecorder.h"

#include <string.h>

#define LRECORDER_NAME "pool.Recorder"

enum { RECORDER_POOL = 1, RECORDER_VALUES = 1 };

struct lrecorder {
  struct recorder *recorder; /* NULL once closed */
  struct lpool *pool;
};

/* recorder(db, path, limit, header) */
static int recorder_new(lua_State *L) {
  struct lpool *p = lpool_check(L, 1);
  const char *path = luaL_checkstring(L, 2);
  lua_Integer limit = luaL_checkinteger(L, 3);
  const char *header = luaL_checkstring(L, 4);
  struct pool_error error;
  luaL_argcheck(L, limit >= RECORDER_LEAST, 3, "too small a limit");
  lua_settop(L, 4);
  struct lrecorder *r = lua_newuserdatauv(L, sizeof *r, RECORDER_VALUES);
  memset(r, 0, sizeof *r);
  luaL_setmetatable(L, LRECORDER_NAME);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, RECORDER_POOL);
  r->pool = p;
  r->recorder = recorder_open(path, (size_t)limit, header, loop_update(p->runtime->loop), &error);
  if (r->recorder == NULL) return lerror_return(L, &error);
  engine_record(p->engine, r->recorder);
  return 1;
}

static struct lrecorder *recorder_check(lua_State *L) {
  struct lrecorder *r = luaL_checkudata(L, 1, LRECORDER_NAME);
  if (r->recorder == NULL) lerror_misuse(L, "this recording is closed");
  return r;
}

static int recorder_add_line(lua_State *L) {
  struct lrecorder *r = recorder_check(L);
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  recorder_line(r->recorder, text, length);
  return 0;
}

static int recorder_write(lua_State *L) {
  struct lrecorder *r = recorder_check(L);
  struct pool_error error;
  if (recorder_flush(r->recorder, &error) != POOL_OK) return lerror_return(L, &error);
  lua_pushboolean(L, true);
  return 1;
}

static int recorder_count(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)recorder_requests(recorder_check(L)->recorder));
  return 1;
}

/* The Pool may have been finalised before, when the whole state goes. */
static int recorder_end(lua_State *L) {
  struct lrecorder *r = luaL_checkudata(L, 1, LRECORDER_NAME);
  if (r->recorder == NULL) return 0;
  struct engine *e = r->pool->engine;
  if (e != NULL && engine_recorder(e) == r->recorder) engine_record(e, NULL); /* else a later recording is under way */
  recorder_close(r->recorder);
  r->recorder = NULL;
  return 0;
}

void lrecorder_open(lua_State *L) {
  static const luaL_Reg methods[] = {{"line", recorder_add_line}, {"flush", recorder_write}, {"requests", recorder_count},
                                     {"close", recorder_end}, {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", recorder_end}, {"__close", recorder_end}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"recorder", recorder_new}, {NULL, NULL}};
  luaL_newmetatable(L, LRECORDER_NAME);
  luaL_setfuncs(L, meta, 0);
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
