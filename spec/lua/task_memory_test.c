/*
** task_memory_test: tasks when memory ends. A script of tasks runs in states whose allocator fails at the n-th allocation made after
** pool was loaded, once or from then on, for every n until none fails. Each must end in the script's answer or in a memory error,
** and leave nothing allocated (counted for Lua's memory; the rest is the sanitizers'). The argument is the directory of pool.lua.
*/
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdlib.h>

#include "lua/embed.h"
#include "support/check.h"

struct memory {
  long left;     /* allocations that succeed; negative: all */
  bool for_good; /* fails from then on, else once */
  bool failed;
  long blocks;
};

static void *memory_alloc(void *ud, void *block, size_t old_size, size_t size) {
  struct memory *m = ud;
  (void)old_size;
  if (size == 0) {
    if (block) m->blocks--;
    free(block);
    return NULL;
  }
  bool grows = !block || size > old_size; /* Lua relies on shrinking */
  if (grows && m->left == 0) {
    m->failed = true;
    if (!m->for_good) m->left = -1;
    return NULL;
  }
  if (grows && m->left > 0) m->left--;
  void *got = realloc(block, size);
  if (!block && got) m->blocks++;
  return got;
}

static const char *const script =
  "local pool, db = ...\n"
  "return pool.run(function()\n"
  "  local closed = 0\n"
  "  local function mark() return setmetatable({}, {__close = function() closed = closed + 1 end}) end\n"
  "  local sleeper = pool.spawn(function() local _ <close> = mark() pool.sleep(100) end)\n"
  "  local failing = pool.spawn(function() local _ <close> = mark() error('no') end)\n"
  "  pool.spawn(error, 'nobody joins')\n"
  "  local both = assert(pool.all{function() pool.sleep(0.0001) return 1 end, function() return db:query('select 2 as n')[1].n end})\n"
  "  pool.all{function() local _ <close> = mark() pool.sleep(100) end, function() error{} end}\n"
  "  local late = select(2, pool.deadline(0.0001, pool.sleep, 100))\n"
  "  sleeper:cancel()\n"
  "  local _, cancelled = sleeper:join()\n"
  "  local _, no = failing:join()\n"
  "  local holder = pool.spawn(function() assert(db:acquire()) error('holding') end)\n"
  "  holder:join()\n"
  "  if closed ~= 3 or db:stats().leased ~= 0 then error('closed ' .. closed) end\n"
  "  return table.concat({both[1], both[2], late.kind, tostring(cancelled.kind), no:match('no')}, ' ')\n"
  "end)\n";

static const char *const answer = "1 2 deadline cancelled no";

/* Stack: the directory. Returns the script, pool, db. */
static int prepare(lua_State *L) {
  luaL_openlibs(L);
  luaL_requiref(L, "pool.core", luaopen_pool_core, 0);
  lua_getglobal(L, "package");
  lua_pushfstring(L, "%s/?.lua", lua_tostring(L, 1));
  lua_setfield(L, -2, "path");
  lua_settop(L, 0);
  if (luaL_loadstring(L, script) != LUA_OK) return lua_error(L);
  if (luaL_dostring(L, "local pool = require 'pool' pool.log = function() end\n"
                       "local db = pool.new{database_url = 'sqlite:///:memory:', size_limit = 1, size = 1, max_overflow = 0}\n"
                       "db:query 'select 1' return pool, db") != LUA_OK)
    return lua_error(L);
  return 3;
}

/* What is left of the run, once the memory is there again: the pool must be whole. */
static bool pool_is_whole(lua_State *L) {
  lua_getglobal(L, "checked");
  return lua_pcall(L, 0, 1, 0) == LUA_OK && lua_toboolean(L, -1);
}

static const char *const check_script =
  "local pool, db = ... checked = function()\n"
  "  collectgarbage() collectgarbage()\n"
  "  pcall(pool.run, function() error{} end)\n" /* what is left of tasks ends */
  "  return db:stats().leased == 0 and assert(db:query('select 7 as n'))[1].n == 7 end";

static bool outcome_is_fair(lua_State *L, int status, const struct memory *m, char *text, size_t size) {
  const char *got = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "(no text)";
  snprintf(text, size, "%s", got);
  if (status == LUA_OK && strcmp(got, answer) == 0) return true;
  return m->failed; /* an error, or an answer that lacks what memory was too short for: but never without a failure */
}

/* One run; false when n is past the last allocation. */
static bool sweep_once(const char *lua_dir, long n, bool for_good) {
  struct memory m = {.left = -1};
  char text[200];
  lua_State *L = lua_newstate(memory_alloc, &m);
  lua_pushcfunction(L, prepare);
  lua_pushstring(L, lua_dir);
  if (!CHECK(lua_pcall(L, 1, 3, 0) == LUA_OK)) return puts(lua_tostring(L, -1)), false;
  CHECK(luaL_loadstring(L, check_script) == LUA_OK);
  lua_pushvalue(L, -3);
  lua_pushvalue(L, -3);
  lua_call(L, 2, 0);
  m.left = n;
  m.for_good = for_good;
  int status = lua_pcall(L, 2, 1, 0);
  m.left = -1;
  bool failed = m.failed;
  if (!CHECK(outcome_is_fair(L, status, &m, text, sizeof text))) printf("  allocation %ld: %s\n", n, text);
  if (!failed) CHECK_TEXT(text, answer);
  if (!CHECK(pool_is_whole(L))) printf("  allocation %ld (%s): %s\n", n, for_good ? "for good" : "once", lua_tostring(L, -1));
  lua_close(L);
  CHECK_INT(m.blocks, 0);
  return failed;
}

int main(int argc, char **argv) {
  if (argc != 2) return fprintf(stderr, "task_memory_test DIRECTORY\n"), 2;
  stderr = fopen("/dev/null", "w"); /* log lines that pool.log had no memory for; the sanitizers write to the descriptor */
  if (!stderr) return 2;
  TEST("tasks end in an answer or an error when one allocation fails, whichever it is") {
    for (long n = 0; sweep_once(argv[1], n, false); n++) continue;
  }
  TEST("tasks end in an answer or an error when memory ends for good") {
    for (long n = 0; sweep_once(argv[1], n, true); n++) continue;
  }
  return check_done();
}
