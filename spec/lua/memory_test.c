/*
** memory_test: pool in Lua's hands when memory ends, allocation by allocation: Lua's own, and in another round C's (support/scarce.h).
** What is done is in memory_test.lua, scenario by scenario; which allocation fails, and how, is decided here. Each trial ends in its
** answer or in an error that says why; then, with memory back, the scenario looks whether all is whole. An error outside a protected
** call, and a trial that does not end, end the program.
**
** Lua asks twice, with a collection in between. So an allocation that fails once comes to a collection at that place, and nothing else (but
** where lauxlib asks: it asks once); one that fails in earnest fails twice.
**
**   memory_test LUA_DIRECTORY SCRIPT [all | SCENARIO [N]]    all: every allocation of every scenario; N: that one alone
*/
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <ev.h>
#include <jansson.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/base.h"
#include "lua/embed.h"
#include "support/scarce.h"

enum {
  PATIENCE = 60,  /* seconds for a trial: one that takes longer has hung */
  FRESH = 23,     /* a state for each trial: of so many fewer allocations, unless it is to be all */
  SHORT_FOR = 10  /* milliseconds that memory is short for good: longer than anything but a wait, which is then seen to go on */
};

enum shortage { COLLECTION, ONCE, FOR_GOOD, SHORTAGES };
static const char *const shortage_names[] = {"a collection", "once", "for good"};

struct memory {
  long count, at; /* allocations so far; the one that fails */
  enum shortage shortage;
  bool failed;
  long long until; /* when memory that is short for good is back, in microseconds; 0: not yet known */
  long blocks;
};

static bool memory_over(struct memory *m) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  long long now = t.tv_sec * 1000000LL + t.tv_nsec / 1000;
  if (m->until == 0) m->until = now + SHORT_FOR * 1000;
  return now > m->until;
}

static bool memory_fails(struct memory *m) {
  long number = m->count++;
  bool fails = number == m->at || (m->shortage == ONCE && number - 1 == m->at) ||
               (m->shortage == FOR_GOOD && number > m->at && !memory_over(m));
  m->failed = m->failed || fails;
  return fails;
}

static void *memory_alloc(void *ud, void *block, size_t old_size, size_t size) {
  struct memory *m = ud;
  bool grows = !block || size > old_size; /* Lua relies on shrinking */
  if (size > 0 && grows && memory_fails(m)) return NULL;
  scarce_spare(); /* these are Lua's: C's are counted apart */
  void *got = NULL;
  if (size == 0) free(block);
  else got = realloc(block, size);
  scarce_mind();
  if (size == 0 && block) m->blocks--;
  if (!block && got) m->blocks++;
  return got;
}

/* ---- what must not fail ---- */

/* jansson 2.14 does not look whether its token's buffer has grown, and writes past the old one. What grows by doubling is spared. */
static void *jansson_alloc(size_t size) {
  bool doubled = size >= 32 && (size & (size - 1)) == 0;
  if (doubled) scarce_spare();
  void *got = malloc(size);
  if (doubled) scarce_mind();
  return got;
}

static void jansson_free(void *block) { free(block); }

/* ---- files ---- */

static char scratch[] = "/tmp/pool-memory-XXXXXX"; /* where scenarios keep their files */

static void scratch_remove(void) {
  DIR *directory = opendir(scratch);
  for (struct dirent *entry; directory && (entry = readdir(directory));) unlinkat(dirfd(directory), entry->d_name, 0);
  if (directory) closedir(directory);
  rmdir(scratch);
}

/* ---- where it is, for when it does not end ---- */

static char place[160];

static void hung(int number) {
  (void)number;
  scratch_remove();
  ssize_t n = write(STDOUT_FILENO, place, strlen(place));
  n += write(STDOUT_FILENO, " does not end\n0 passed, 1 failed\n", 33);
  _exit(n > 0 ? 1 : 2);
}

static int panicked(lua_State *L) {
  printf("%s: an error outside a protected call: %s\n0 passed, 1 failed\n", place, lua_tostring(L, -1));
  exit(1);
}

/* ---- what the script cannot do by itself; none of it allocates in Lua ---- */

/* t.dial(port) -> descriptor */
static int t_dial(lua_State *L) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)luaL_checkinteger(L, 1)),
                           .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  INSIST(fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
  lua_pushinteger(L, fd);
  return 1;
}

/* t.say(descriptor, text) */
static int t_say(lua_State *L) {
  size_t len;
  const char *text = luaL_checklstring(L, 2, &len);
  INSIST(send((int)luaL_checkinteger(L, 1), text, len, MSG_NOSIGNAL) == (ssize_t)len);
  return 0;
}

static char heard[16384];

/* t.hear(descriptor) -> whether the other side has closed; t.heard() -> all that came */
static int t_hear(lua_State *L) {
  size_t len = strlen(heard);
  ssize_t n = recv((int)luaL_checkinteger(L, 1), heard + len, sizeof heard - len - 1, MSG_DONTWAIT);
  if (n > 0) heard[len + (size_t)n] = '\0';
  lua_pushboolean(L, n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR));
  return 1;
}

static int t_heard(lua_State *L) {
  lua_pushstring(L, heard);
  return 1;
}

/* t.hang_up(descriptor) */
static int t_hang_up(lua_State *L) {
  close((int)luaL_checkinteger(L, 1));
  heard[0] = '\0';
  return 0;
}

/* ---- states ---- */

/* Stack: the directory. What a host does before `require "pool"`. */
static int prepare(lua_State *L) {
  static const luaL_Reg functions[] = {{"dial", t_dial}, {"say", t_say}, {"hear", t_hear}, {"heard", t_heard}, {"hang_up", t_hang_up},
                                       {NULL, NULL}};
  luaL_openlibs(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_pool_core);
  lua_setfield(L, -2, "pool.core");
  lua_getglobal(L, "package");
  lua_pushfstring(L, "%s/?.lua", lua_tostring(L, 1));
  lua_setfield(L, -2, "path");
  luaL_newlib(L, functions);
  lua_pushstring(L, scratch);
  lua_setfield(L, -2, "directory");
  return 1;
}

struct run {
  const char *directory, *script, *scenario;
  struct memory memory;
  lua_State *L;
  long stride;
  bool c; /* C's memory, not Lua's */
};

/* A state with the scenario at stack index 1: a table of functions. */
static void state_open(struct run *r) {
  r->memory = (struct memory){.at = LONG_MAX};
  r->L = lua_newstate(memory_alloc, &r->memory);
  lua_State *L = r->L;
  lua_atpanic(L, panicked);
  lua_pushcfunction(L, prepare);
  lua_pushstring(L, r->directory);
  lua_call(L, 1, 1);
  if (luaL_loadfile(L, r->script) != LUA_OK) lua_error(L);
  lua_insert(L, 1);
  lua_pushstring(L, r->scenario);
  lua_call(L, 2, 1);
}

static void state_close(struct run *r) {
  lua_close(r->L);
  CHECK_INT(r->memory.blocks, 0);
}

/* ---- trials ---- */

static void memory_short(struct run *r, long n, enum shortage shortage) {
  r->memory.count = 0;
  r->memory.shortage = shortage;
  r->memory.failed = false;
  r->memory.until = 0;
  scarce_set(r->c ? n : LONG_MAX, shortage == FOR_GOOD);
  r->memory.at = r->c ? LONG_MAX : n;
  scarce_on();
}

static bool memory_back(struct run *r) {
  scarce_off();
  r->memory.at = LONG_MAX;
  return r->c ? scarce_failed() : r->memory.failed;
}

/* act() while memory is short, then check(act's success, its result or error, whether memory was short, and for good): nil, or what is
   wrong. */
static bool trial(struct run *r, long n, enum shortage shortage) {
  lua_State *L = r->L;
  snprintf(place, sizeof place, "%s: %s's allocation %ld, %s", r->scenario, r->c ? "C" : "Lua", n, shortage_names[shortage]);
  alarm(PATIENCE);
  lua_settop(L, 1);
  lua_getfield(L, 1, "check");
  lua_getfield(L, 1, "act");
  memory_short(r, n, shortage);
  int status = lua_pcall(L, 0, 1, 0);
  bool failed = memory_back(r);
  lua_pushboolean(L, status == LUA_OK);
  lua_insert(L, 3);
  lua_pushboolean(L, failed);
  lua_pushboolean(L, shortage == FOR_GOOD);
  if (lua_pcall(L, 4, 1, 0) != LUA_OK || !lua_isnil(L, -1)) {
    CHECK(lua_isnil(L, -1));
    printf("  %s: %s\n", place, luaL_tolstring(L, -1, NULL));
  }
  alarm(0);
  return failed;
}

static void sweep(struct run *r) {
  long most = 0;
  for (enum shortage shortage = r->c ? ONCE : COLLECTION; shortage < SHORTAGES; shortage++) {
    long n = 0;
    for (; trial(r, n, shortage); n += r->stride) continue;
    if (n > most) most = n;
  }
  CHECK(most > 0 || r->c);
  printf("# %s: %ld allocations of %s's\n", r->scenario, most, r->c ? "C" : "Lua");
}

/* What is kept grows in the first trials (strings, stacks, caches), and then no more. */
static void check_growth(struct run *r, long before) {
  lua_gc(r->L, LUA_GCCOLLECT);
  lua_gc(r->L, LUA_GCCOLLECT);
  long grown = r->memory.blocks - before;
  if (!CHECK(grown < 60)) printf("  %s: %ld blocks more than before\n", r->scenario, grown);
}

static bool field_is(lua_State *L, const char *name) {
  bool is = lua_getfield(L, 1, name) && lua_toboolean(L, -1);
  lua_pop(L, 1);
  return is;
}

static void sweep_fresh(struct run *r, long n) {
  long live = 0;
  for (int i = 0; i < 3; i++) { /* threads' stacks, which later threads use again */
    trial(r, LONG_MAX, ONCE);
    state_close(r);
    live = scarce_live();
    state_open(r);
  }
  for (enum shortage shortage = r->c ? ONCE : COLLECTION; shortage < SHORTAGES; shortage++) {
    for (long at = n < 0 ? 0 : n;; at += r->stride) {
      bool failed = trial(r, at, shortage);
      state_close(r);
      long left = scarce_live() - live;
      if (!CHECK(left < 4)) printf("  %s: %ld blocks are left\n", place, left), live += left;
      state_open(r);
      if (!failed || n >= 0) break;
    }
  }
}

/* One state for all trials, or one for each where what is tried can be had only once in a state. */
static void sweep_scenario(struct run *r, long n) {
  state_open(r);
  bool fresh = field_is(r->L, "fresh");
  if (fresh && r->stride > 1) r->stride *= FRESH;
  long count = 0;
  for (int i = 0; !fresh && i < 3; i++) trial(r, LONG_MAX, ONCE), count = r->c ? scarce_count() : r->memory.count;
  if (!fresh) lua_gc(r->L, LUA_GCCOLLECT), lua_gc(r->L, LUA_GCCOLLECT);
  if (!fresh && count < 40) r->stride = 1;
  long before = r->memory.blocks;
  if (fresh) {
    sweep_fresh(r, n);
  } else if (n >= 0) {
    for (enum shortage shortage = COLLECTION; shortage < SHORTAGES; shortage++) trial(r, n, shortage);
  } else {
    sweep(r);
    check_growth(r, before);
  }
  state_close(r);
}

static void each_scenario(struct run *r, const char *only, long n, long stride) {
  static char names[32][32];
  int count = 0;
  r->scenario = "";
  state_open(r); /* without a name the script gives the list */
  for (; count < 32 && lua_geti(r->L, 1, count + 1) == LUA_TSTRING; count++) {
    snprintf(names[count], sizeof names[count], "%s", lua_tostring(r->L, -1));
    lua_settop(r->L, 1);
  }
  state_close(r);
  for (int i = 0; i < count; i++) {
    char sentence[200];
    if (only && strcmp(only, names[i]) != 0) continue;
    r->scenario = names[i];
    r->stride = stride;
    snprintf(sentence, sizeof sentence, "%.31s: whichever allocation of %s fails, an answer or an error, and all is whole afterwards",
             names[i], r->c ? "C" : "Lua");
    TEST(sentence) sweep_scenario(r, n);
  }
}

int main(int argc, char **argv) {
  if (argc < 3) return fprintf(stderr, "memory_test LUA_DIRECTORY SCRIPT [all | SCENARIO [N]]\n"), 2;
  struct run r = {.directory = argv[1], .script = argv[2]};
  bool all = argc > 3 && strcmp(argv[3], "all") == 0;
  const char *only = argc > 3 && !all ? argv[3] : NULL;
  long n = argc > 4 ? atol(argv[4]) : -1;
  INSIST(mkdtemp(scratch) != NULL);
  atexit(scratch_remove);
  setvbuf(stdout, NULL, _IOLBF, 0); /* for when a trial does not end */
  scarce_limit(SHORT_FOR);
  ev_set_allocator(scarce_sparing);
  json_set_alloc_funcs(jansson_alloc, jansson_free);
  signal(SIGALRM, hung);
  signal(SIGPIPE, SIG_IGN);
  stderr = fopen("/dev/null", "w"); /* log lines that pool.log had no memory for; the sanitizers write to the descriptor */
  if (!stderr) return 2;
  each_scenario(&r, only, n, all || only ? 1 : 31);
  r.c = true;
  each_scenario(&r, only, n, all || only ? 1 : 17);
  return check_done();
}
