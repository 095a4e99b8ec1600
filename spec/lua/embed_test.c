/*
** embed_test: pool inside a C program with a libev loop and a lua_State of its own (src/lua/embed.h). The first argument is the
** directory of pool.lua.
*/
#include <ev.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdlib.h>
#include <time.h>

#include "lua/embed.h"
#include "support/check.h"

struct host {
  struct ev_loop *loop;
  lua_State *L;
};

static lua_State *state_make(const char *lua_dir) {
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_pool_core);
  lua_setfield(L, -2, "pool.core");
  lua_getglobal(L, "package");
  lua_pushfstring(L, "%s/?.lua", lua_dir);
  lua_setfield(L, -2, "path");
  lua_settop(L, 0);
  return L;
}

static struct host host_make(const char *lua_dir) {
  struct host h = {ev_loop_new(EVFLAG_AUTO), state_make(lua_dir)};
  pool_use_loop(h.L, h.loop);
  return h;
}

static void host_end(struct host *h) {
  lua_close(h->L);
  ev_loop_destroy(h->loop);
}

/* Runs a chunk; its first result as text is what the test looks at, valid until the next. */
static const char *run(lua_State *L, const char *chunk) {
  lua_settop(L, 0);
  if (luaL_dostring(L, chunk) != LUA_OK || lua_gettop(L) == 0) return lua_tostring(L, -1);
  return luaL_tolstring(L, 1, NULL);
}

static void ticked(struct ev_loop *loop, ev_timer *w, int events) {
  (void)events;
  ++*(int *)w->data;
  if (*(int *)w->data == 5) ev_timer_stop(loop, w);
}

static int call_use_loop(lua_State *L) {
  pool_use_loop(L, lua_touserdata(L, 1));
  return 0;
}

static void tasks_run_by_the_host(const char *lua_dir) {
  TEST("tasks query on the host's loop, and its ev_run returns when nothing is left, open pools included") {
    struct host h = host_make(lua_dir);
    CHECK_TEXT(run(h.L, "pool = require 'pool'; db = pool.new{database_url = 'sqlite:///:memory:'}\n"
                        "local sum, count = 0, 0\n"
                        "for i = 1, 20 do pool.spawn(function() pool.sleep(0.001)\n"
                        "  local n = assert(db:query('select $1 + 0 as n', i))[1].n\n"
                        "  sum, count = sum + n, count + 1\n"
                        "  if count == 20 then result, leased = sum, db:stats().leased db:close() end end) end return result"), "nil");
    ev_run(h.loop, 0);
    CHECK_TEXT(run(h.L, "return result"), "210");
    CHECK_TEXT(run(h.L, "return leased"), "0");
    host_end(&h);
  }
  TEST("the host's own watchers run beside tasks that never rest") {
    struct host h = host_make(lua_dir);
    int ticks = 0;
    ev_timer timer;
    ev_timer_init(&timer, ticked, 0.001, 0.001);
    timer.data = &ticks;
    ev_timer_start(h.loop, &timer);
    run(h.L, "pool = require 'pool'; task = pool.spawn(function() while true do pool.sleep(0) end end)\n"
             "pool.spawn(function() pool.sleep(0.02) task:cancel() end)");
    ev_run(h.loop, 0);
    CHECK_INT(ticks, 5);
    CHECK_TEXT(run(h.L, "return task.status"), "cancelled");
    host_end(&h);
  }
}

static void waits_outside_tasks(const char *lua_dir) {
  TEST("a call that waits raises outside a task, at its line, and pool.run is the host's business") {
    struct host h = host_make(lua_dir);
    run(h.L, "pool = require 'pool'");
    CHECK_TEXT(run(h.L, "return select(2, pcall(function() pool.sleep(0) end))"),
               "[string \"return select(2, pcall(function() pool.sleep(...\"]:1: nothing runs the host's loop from here: a call that "
               "waits belongs in pool.spawn");
    CHECK(strstr(run(h.L, "return select(2, pcall(function() pool.run(print) end))"), "pool.run: the host runs the loop; use pool.spawn"));
    host_end(&h);
  }
}

static void too_late(const char *lua_dir) {
  TEST("pool_use_loop raises once pool is in use in the state") {
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    lua_State *L = state_make(lua_dir);
    run(L, "pool = require 'pool'; pool.now()");
    lua_pushcfunction(L, call_use_loop);
    lua_pushlightuserdata(L, loop);
    CHECK(lua_pcall(L, 1, 0, 0) != LUA_OK);
    CHECK(strstr(lua_tostring(L, -1), "pool is already in use") != NULL);
    lua_close(L);
    ev_loop_destroy(loop);
  }
}

static void the_end(const char *lua_dir) {
  TEST("closing the state amid waits leaves the host's loop empty and usable") {
    struct host h = host_make(lua_dir);
    run(h.L, "pool = require 'pool'; db = pool.new{database_url = 'sqlite:///:memory:'} pool.log = function() end\n"
             "local function wait(fn) pool.spawn(fn) end\n"
             "wait(function() local c <close> = assert(db:acquire()) pool.sleep(100) end)\n"
             "wait(function() db:query 'select 1' end) wait(function() pool.sleep(100) end)\n"
             "wait(function() pool.all{function() pool.sleep(100) end, function() db:acquire() end} end)\n"
             "wait(function() error 'nobody joins' end)");
    static const char amid[] = "local s = db:stats() return s.leased .. ' leased, ' .. s.waiting .. ' waiting'";
    /* A thread opens, maybe so soon that the loop would sleep with everybody in line already. */
    for (int i = 0; i < 10000 && strcmp(run(h.L, amid), "1 leased, 2 waiting") != 0; i++) {
      ev_run(h.loop, EVRUN_NOWAIT);
      nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    CHECK_TEXT(run(h.L, amid), "1 leased, 2 waiting");
    lua_close(h.L);
    CHECK_INT(ev_run(h.loop, 0), 0); /* returns at once: nothing of pool's is active */
    int ticks = 0;
    ev_timer timer;
    ev_timer_init(&timer, ticked, 0.001, 0.001);
    timer.data = &ticks;
    ev_timer_start(h.loop, &timer);
    ev_run(h.loop, 0);
    CHECK_INT(ticks, 5);
    ev_loop_destroy(h.loop);
  }
  TEST("two states share a host's loop, and one may go") {
    struct host h = host_make(lua_dir);
    lua_State *other = state_make(lua_dir);
    pool_use_loop(other, h.loop);
    run(h.L, "pool = require 'pool'; pool.spawn(function() pool.sleep(100) end)");
    run(other, "pool = require 'pool'; pool.spawn(function() pool.sleep(0.001) done = true end)");
    ev_run(h.loop, EVRUN_NOWAIT);
    lua_close(h.L);
    ev_run(h.loop, 0);
    CHECK_TEXT(run(other, "return done"), "true");
    lua_close(other);
    ev_loop_destroy(h.loop);
  }
}

int main(int argc, char **argv) {
  if (argc != 2) return fprintf(stderr, "embed_test DIRECTORY\n"), 2;
  tasks_run_by_the_host(argv[1]);
  waits_outside_tasks(argv[1]);
  too_late(argv[1]);
  the_end(argv[1]);
  return check_done();
}
