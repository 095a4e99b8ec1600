/*
** task_sim: the whole stack in virtual time: Lua tasks on the engine, the core and the virtual loop, over the scripted driver.
**
** A life is a Lua state, a pool with settings drawn from the seed, and tasks (task_*.lua) that do what users do, all at once, while the
** database (task_world.c) fails, hangs, falls silent, restarts and recovers. It ends in many ways: closed in the middle, dropped, its
** pool.run left by an error, its state closed. Time is virtual and everything that is drawn comes from the seed: the collector, too, runs
** only where the seed says, so that a seed gives the same trace each time (what a life has noted is hashed, and some are run twice).
**
** What must hold, after every turn of the loop and at the end:
** 1. every call is answered once: with its own number's rows, from its own connection and transaction; or with an error of a kind that can
**    come there, and then the database bears it out: a time-out was never sent, a query error is the server's, a retryable one did nothing;
** 2. a statement is sent once at most and happens once at most; of a transaction all happens that was answered with success, and nothing of
**    any other, whatever was in doubt happened whole or not at all; a savepoint that was undone never happens;
** 3. connections stay within the limit at each open, and at every instant within what there was before a shrink; nobody shares one;
** 4. a lease is somebody's who lives, or was let go of knowingly; the line keeps its order, the counters add up (order.h, pool_assert);
** 5. nothing is later than its deadline, not by one turn; no time-out either; the loop never stops with anybody waiting, nor spins;
** 6. six virtual seconds after the faults stop every call is answered right within one;
** 7. at the end nothing is left: connections, results, tasks, references, memory.
**
**   task_sim [--seeds FILE] [--steps N | --seconds N] [--from SEED]   the seeds in FILE, then seeds one after another, N turns in all
**   task_sim SEED [--trace]                                           one again; --trace prints what it noted
*/
#include "options.h"
#include "task_sim.h"

#include <lauxlib.h>
#include <lualib.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "chance.h"
#include "lua/embed.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

enum { STEPS_DEFAULT = 300000, TWICE = 12, LIFE_SECONDS = 20 /* of the processor; a life takes far less than one */ };

struct running running;

/* ---- telling ---- */

static void tell_seed(void) {
  char text[160];
  const struct sim *sim = running.sim;
  if (!sim) return;
  int length = snprintf(text, sizeof text, "FAILED: task_sim: replay with: task_sim %llu --trace (turn %ld)\n0 passed, 1 failed\n",
                        (unsigned long long)sim->seed, sim->turns);
  if (write(STDOUT_FILENO, text, (size_t)length) < 0) _exit(3);
}

static void report(int sig) {
  tell_seed();
  running.sim = NULL;
  signal(sig, SIG_DFL);
  raise(sig);
}

void sim_fail(struct sim *sim, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "task_sim: at %lld: ", sim->loop ? (long long)loop_now(sim->loop) : 0);
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\n");
  va_end(arguments);
  abort();
}

/* FNV-1a (Fowler, Noll, Vo). */
void sim_note(struct sim *sim, const char *format, ...) {
  char text[256];
  va_list arguments;
  int length = snprintf(text, sizeof text, "%lld ", sim->loop ? (long long)loop_now(sim->loop) : 0);
  va_start(arguments, format);
  vsnprintf(text + length, sizeof text - (size_t)length, format, arguments);
  va_end(arguments);
  for (const char *c = text; *c; c++) sim->hash = (sim->hash ^ (unsigned char)*c) * 0x100000001b3u;
  if (sim->trace) puts(text);
}

void count_up(const char *name, long n) {
  for (size_t i = 0; i < sizeof running.counts / sizeof running.counts[0]; i++) {
    struct count *c = &running.counts[i];
    if (c->name[0] != '\0' && strcmp(c->name, name) != 0) continue;
    text_copy(c->name, sizeof c->name, name);
    c->n += n;
    return;
  }
}

/* ---- memory: what is not freed is missed at the end of its life ---- */

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void __real_free(void *memory);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void __wrap_free(void *memory);
char *__wrap_strdup(const char *text);

void *__wrap_malloc(size_t size) { running.blocks++; return __real_malloc(size); }
void *__wrap_calloc(size_t count, size_t size) { running.blocks++; return __real_calloc(count, size); }
void *__wrap_realloc(void *memory, size_t size) { running.blocks += memory == NULL; return __real_realloc(memory, size); }
void __wrap_free(void *memory) { running.blocks -= memory != NULL; __real_free(memory); }

char *__wrap_strdup(const char *text) {
  size_t size = strlen(text) + 1;
  char *copy = malloc(size);
  return copy ? memcpy(copy, text, size) : NULL;
}

static void *lua_memory(void *user, void *block, size_t old_size, size_t size) {
  (void)user, (void)old_size;
  if (size > 0) return realloc(block, size);
  free(block);
  return NULL;
}

/* ---- what the tasks are given: the module `sim` ---- */

/* sim.random(n) -> 1..n */
static int api_random(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)dice_draw(&running.sim->dice, (uint64_t)luaL_checkinteger(L, 1)) + 1);
  return 1;
}

static int api_note(lua_State *L) {
  sim_note(running.sim, "%s", luaL_checkstring(L, 1));
  return 0;
}

static int api_fail(lua_State *L) { sim_fail(running.sim, "%s", luaL_checkstring(L, 1)); }

static int api_count(lua_State *L) {
  count_up(luaL_checkstring(L, 1), (long)luaL_optinteger(L, 2, 1));
  return 0;
}

/* sim.over() -> is the life's work done? */
static int api_over(lua_State *L) {
  lua_pushboolean(L, running.sim->turns >= running.sim->budget);
  return 1;
}

static int api_calm(lua_State *L) {
  (void)L;
  world_calm(running.sim);
  return 0;
}

/* sim.number() -> one that nobody has asked with */
static int api_number(lua_State *L) {
  struct sim *sim = running.sim;
  world_fate(sim, ++sim->numbers);
  lua_pushinteger(L, (lua_Integer)sim->numbers);
  return 1;
}

/* sim.fate(number) -> sent, answered, failed, committed: how often */
static int api_fate(lua_State *L) {
  const struct fate *f = world_fate(running.sim, luaL_checkinteger(L, 1));
  lua_pushinteger(L, f->sent);
  lua_pushinteger(L, f->answered);
  lua_pushinteger(L, f->failed);
  lua_pushinteger(L, f->committed);
  return 4;
}

/* sim.due(what, seconds) -> a number for sim.done: it must be over within that time */
static int api_due(lua_State *L) {
  struct sim *sim = running.sim;
  int i = 0;
  while (i < DUES - 1 && sim->dues[i].by != NEVER) i++;
  if (sim->dues[i].by != NEVER) sim_fail(sim, "too much is under way");
  sim->dues[i].by = loop_now(sim->loop) + (usec)(luaL_checknumber(L, 2) * (double)USEC_PER_SECOND);
  text_copy(sim->dues[i].what, sizeof sim->dues[i].what, luaL_checkstring(L, 1));
  lua_pushinteger(L, i);
  return 1;
}

static int api_done(lua_State *L) {
  running.sim->dues[luaL_checkinteger(L, 1)].by = NEVER;
  return 0;
}

/* sim.watch(pool): the one whose promises are looked at. sim.watch(nil): none. */
static int api_watch(lua_State *L) {
  world_watch(running.sim, lua_isnil(L, 1) ? NULL : luaL_checkudata(L, 1, LPOOL_NAME));
  return 0;
}

/* sim.detach(n): so many leases more may be nobody's. */
static int api_detach(lua_State *L) {
  running.sim->detached += (int)luaL_checkinteger(L, 1);
  return 0;
}

/* sim.left() -> tasks that have not ended */
static int api_left(lua_State *L) {
  lua_Integer tasks = 0;
  LIST_EACH(node, &lruntime_get(L)->all) tasks++;
  lua_pushinteger(L, tasks);
  return 1;
}

/* sim.lease(pid) -> the number of its lease, 0 when it is not leased */
static int api_lease(lua_State *L) {
  const struct lpool *p = running.sim->pool;
  lua_Integer pid = luaL_checkinteger(L, 1), lease = 0;
  LIST_EACH(node, engine_leases(p->engine)) {
    const struct conn *c = CONTAINER(node, struct conn, leased);
    if (c->db->serial == pid) lease = (lua_Integer)c->lease;
  }
  lua_pushinteger(L, lease);
  return 1;
}

/* sim.age() -> seconds that the oldest connection is old */
static int api_age(lua_State *L) {
  const struct sim *sim = running.sim;
  usec age = 0, now = loop_now(sim->loop);
  for (int i = 0; i < SIM_SLOTS; i++) {
    const struct slot *s = pool_slot(engine_pool(sim->pool->engine), i);
    if (s->state != SLOT_EMPTY && s->state != SLOT_OPENING && now - s->opened > age) age = now - s->opened;
  }
  lua_pushnumber(L, (double)age / (double)USEC_PER_SECOND);
  return 1;
}

/* sim.live() -> connections */
static int api_live(lua_State *L) {
  lua_pushinteger(L, running.sim->db.live);
  return 1;
}

static const luaL_Reg api[] = {
    {"random", api_random}, {"note", api_note},   {"fail", api_fail},     {"count", api_count}, {"over", api_over}, {"calm", api_calm},
    {"number", api_number}, {"fate", api_fate},   {"due", api_due},       {"done", api_done},   {"left", api_left}, {"live", api_live},
    {"watch", api_watch},   {"lease", api_lease}, {"detach", api_detach}, {"age", api_age},     {NULL, NULL}};

static int api_open(lua_State *L) {
  const struct sim *sim = running.sim;
  luaL_newlib(L, api);
  lua_pushfstring(L, "scripted:%p", (const void *)&sim->db);
  lua_setfield(L, -2, "url");
  lua_pushinteger(L, sim->badness);
  lua_setfield(L, -2, "badness");
  return 1;
}

/* ---- Lua's files, compiled once ---- */

struct chunk {
  char name[64];
  char *code; /* owned by the process */
  size_t size;
};

static struct chunk chunks[64];

static int chunk_write(lua_State *L, const void *bytes, size_t size, void *user) {
  struct chunk *c = user;
  (void)L;
  c->code = __real_realloc(c->code, c->size + size);
  INSIST(c->code != NULL);
  memcpy(c->code + c->size, bytes, size);
  c->size += size;
  return 0;
}

/* Pushes the file's function. */
static void chunk_load(lua_State *L, const char *name, const char *path) {
  struct chunk *c = chunks;
  while (c->code && strcmp(c->name, name) != 0) INSIST(++c < chunks + sizeof chunks / sizeof chunks[0]);
  if (c->code) {
    INSIST(luaL_loadbufferx(L, c->code, c->size, name, "b") == LUA_OK);
    return;
  }
  if (luaL_loadfile(L, path) != LUA_OK) lua_error(L);
  text_copy(c->name, sizeof c->name, name);
  lua_dump(L, chunk_write, c, 0);
}

/* A searcher of package.searchers: pool's own files, and task_*. */
static int chunk_search(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  const char *directory = strncmp(name, "task_", 5) == 0 ? SIM_DIRECTORY : LUA_DIRECTORY;
  const char *path = lua_pushfstring(L, "%s/%s.lua", directory, luaL_gsub(L, name, ".", "/"));
  chunk_load(L, name, path);
  lua_pushstring(L, path);
  return 2;
}

/* ---- a life ---- */

static int traceback(lua_State *L) {
  luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
  return 1;
}

static void searchers_set(lua_State *L) {
  lua_getglobal(L, "package");
  lua_createtable(L, 2, 0);
  lua_getfield(L, -2, "searchers");
  lua_rawgeti(L, -1, 1); /* package.preload */
  lua_rawseti(L, -3, 1);
  lua_pop(L, 1);
  lua_pushcfunction(L, chunk_search);
  lua_rawseti(L, -2, 2);
  lua_setfield(L, -2, "searchers");
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_pool_core);
  lua_setfield(L, -2, "pool.core");
  lua_pop(L, 2);
}

/* Stack: lightuserdata sim. Everything of a life that is Lua's. */
static int life(lua_State *L) {
  struct sim *sim = lua_touserdata(L, 1);
  lua_gc(L, LUA_GCSTOP);
  luaL_openlibs(L);
  searchers_set(L);
  luaL_requiref(L, "pool.core", luaopen_pool_core, 0);
  lua_getfield(L, -1, "virtual_time");
  lua_pushboolean(L, true);
  lua_call(L, 1, 0);
  sim->loop = ltask_loop(L);
  world_begin(sim);
  luaL_requiref(L, "sim", api_open, 0);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "task_sim");
  lua_call(L, 1, 0);
  return 0;
}

/* What a state that ends with all that is in it says of leases that nobody gave back would be all that is seen of a run. */
static void state_close(struct sim *sim) {
  FILE *told = stderr, *nowhere = sim->trace ? NULL : fopen("/dev/null", "w");
  if (nowhere) stderr = nowhere;
  lua_close(sim->L);
  sim->loop = NULL;
  stderr = told;
  if (nowhere) fclose(nowhere);
}

/* Returns the hash of what was noted. */
static uint64_t run(uint64_t seed, bool trace) {
  struct sim *sim = __real_calloc(1, sizeof *sim);
  INSIST(sim != NULL);
  *sim = (struct sim){.seed = seed, .dice = seed, .hash = 0xcbf29ce484222325u, .trace = trace};
  sim->budget = 100 + (long)dice_draw(&sim->dice, 1400);
  long blocks = running.blocks;
  running.sim = sim;
  setitimer(ITIMER_PROF, &(struct itimerval){.it_value.tv_sec = LIFE_SECONDS}, NULL);
  lua_State *L = sim->L = lua_newstate(lua_memory, NULL);
  INSIST(L != NULL);
  lua_pushcfunction(L, traceback);
  lua_pushcfunction(L, life);
  lua_pushlightuserdata(L, sim);
  if (lua_pcall(L, 1, 0, 1) != LUA_OK) sim_fail(sim, "%s", lua_tostring(L, -1));
  world_watch(sim, NULL);
  state_close(sim);
  world_end(sim);
  if (running.blocks != blocks) sim_fail(sim, "%ld blocks of memory are left", running.blocks - blocks);
  running.turns += sim->turns;
  running.lives++;
  count_up("opens", sim->db.opened);
  count_up("statements", sim->db.sends);
  count_up("cancels", sim->db.cancels);
  count_up("resets", sim->db.resets);
  uint64_t hash = sim->hash;
  running.sim = NULL;
  __real_free(sim);
  return hash;
}

static void run_twice(uint64_t seed) {
  uint64_t first = run(seed, false), second = run(seed, false);
  if (first == second) return;
  printf("FAILED: task_sim: seed %llu is not the same twice\n0 passed, 1 failed\n", (unsigned long long)seed);
  exit(1);
}

/* ---- the program ---- */

static void run_seeds(const char *path) {
  unsigned long long seed;
  char line[300];
  FILE *file = fopen(path, "r");
  if (file == NULL) {
    perror(path);
    exit(2);
  }
  while (fgets(line, sizeof line, file) != NULL)
    if (sscanf(line, "%llu", &seed) == 1) run(seed, false);
  fclose(file);
}

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void print_sum(double seconds) {
  printf("%ld steps in %ld lives, %.0f a second:", running.turns, running.lives, (double)running.turns / seconds);
  for (const struct count *c = running.counts; c < running.counts + 64 && c->name[0]; c++)
    printf("%s %ld %s", c == running.counts ? "" : ",", c->n, c->name);
  printf("\n");
}

static int run_one(const struct options *o, int argc, char **argv) {
  bool trace = argc > 2 && strcmp(argv[2], "--trace") == 0;
  if (argc > (trace ? 3 : 2)) options_refuse(o, argv[argc - 1]);
  uint64_t hash = run(options_number(o, argv[1]), trace);
  printf("trace %016llx\n1 passed, 0 failed\n", (unsigned long long)hash);
  return 0;
}

int main(int argc, char **argv) {
  struct options o = {.usage = "task_sim [--seeds FILE] [--steps N | --seconds N] [--from SEED], or task_sim SEED [--trace]",
                      .steps = STEPS_DEFAULT, .from = 1, .seconds = 1e9};
  double began = seconds_now();
  setvbuf(stdout, NULL, _IOLBF, 0);
  signal(SIGABRT, report);
  signal(SIGSEGV, report);
  signal(SIGPROF, report);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_set_death_callback(tell_seed);
#endif
  if (argc > 1 && argv[1][0] != '-') return run_one(&o, argc, argv);
  options_read(&o, argc, argv);
  if (o.seeds != NULL) run_seeds(o.seeds);
  uint64_t seed = o.from;
  for (int i = 0; i < TWICE && (uint64_t)running.turns < o.steps; i++) run_twice(seed++);
  while ((uint64_t)running.turns < o.steps && seconds_now() - began < o.seconds) run(seed++, false);
  print_sum(seconds_now() - began);
  printf("1 passed, 0 failed\n");
  return 0;
}
