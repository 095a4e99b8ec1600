/*
** core_sim: the pool core against random schedules, in virtual time.
**
**   core_sim [--seeds FILE] [--steps N] [--from SEED]  the seeds in FILE, then seeds from 1 or SEED on until N (2,000,000) steps are done
**   core_sim SEED [STEPS] [trace]                      one schedule again; `trace` prints each step
**
** A schedule is settings, callers and a server drawn from its seed, and 400 steps: a caller comes, leaves or gives back; the server
** answers an order, well or badly, or never; something is reconfigured; time passes, or steps back. After every input come
** pool_assert() and what this file knows by itself:
**   - every caller is answered exactly once, and grants follow the order of arrival;
**   - a connection has one holder, is open, and was proven after the last disconnect that was known when it was lent;
**   - connections stay within min(size + max_overflow, cap, size_limit), or after a shrink within what there was;
**   - a paused pool grants, opens and checks nothing; a tick leaves pool_deadline() in the future; nothing is allocated.
** A schedule ends with the server answering all it owes; then everybody still in line is answered, and after a drain the pool is
** empty. A seed that once failed belongs into seeds.txt.
*/
#include "core/pool.h"
#include "options.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CALLERS 24
#define SLOTS_MAX 16
#define KEYS 4
#define STEPS_EACH 400
#define STEPS_DEFAULT 2000000

enum caller_state { CALLER_OUT, CALLER_IN_LINE, CALLER_HOLDS };

struct caller {
  struct waiter waiter;
  enum caller_state state;
  uint64_t ticket;
  struct slot *slot;
};

/* What the modelled server knows of a slot. */
struct connection {
  enum action_kind owes; /* the order under way */
  bool mute;             /* never answers it, but at the schedule's end */
  bool open;
  bool held;
  int proof;             /* disconnects known when its open or last check was sent */
};

struct sim {
  struct pool *pool;
  struct settings settings;
  uint64_t random;
  usec now;
  int cap, ceiling;
  bool paused, draining, trace;
  bool lagging;          /* actions were left untaken by an earlier step */
  bool resumed;          /* by this very step */
  int disconnects;
  uint64_t tickets;
  uint64_t served[KEYS][10]; /* the last ticket served of each key and priority, while the line is fifo */
  int badness;           /* per cent of answers that are bad */
  usec leap;             /* the longest that time passes in a step */
  struct caller callers[CALLERS];
  struct connection connections[SLOTS_MAX];
};

/* For the signal handler and the allocator alone: what is running, how often it allocated. */
static struct {
  uint64_t seed;
  long step, steps, allocations;
  struct counters sum;
} running;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_malloc(size_t size) { running.allocations++; return __real_malloc(size); }
void *__wrap_calloc(size_t count, size_t size) { running.allocations++; return __real_calloc(count, size); }
void *__wrap_realloc(void *memory, size_t size) { running.allocations++; return __real_realloc(memory, size); }

static void report(int sig) {
  char text[160];
  int length = snprintf(text, sizeof text, "FAILED: core_sim: replay with: core_sim %llu %ld trace (step %ld)\n0 passed, 1 failed\n",
                        (unsigned long long)running.seed, running.steps, running.step);
  if (write(STDOUT_FILENO, text, (size_t)length) < 0) _exit(3);
  signal(sig, SIG_DFL);
  raise(sig);
}

/* ---- chance ---- */

static uint64_t draw(struct sim *sim, uint64_t below) {
  uint64_t z = sim->random += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return (z ^ (z >> 31)) % below;
}

static bool chance(struct sim *sim, int percent) { return (int)draw(sim, 100) < percent; }
#define ONE_OF(sim, ...) one_of(sim, (const usec[]){__VA_ARGS__}, sizeof((const usec[]){__VA_ARGS__}) / sizeof(usec))
static usec one_of(struct sim *sim, const usec *values, size_t count) { return values[draw(sim, count)]; }

static void draw_settings(struct sim *sim, struct settings *s) {
  do {
    s->size = (int)draw(sim, 7);
    s->max_overflow = (int)draw(sim, 5);
  } while (s->size + s->max_overflow < 1 || s->size + s->max_overflow > s->size_limit);
  s->recycle = ONE_OF(sim, 0, 1, 2000, 300000, 60000000, 3600000000);
  s->recycle_jitter = (double)ONE_OF(sim, 0, 25, 100) / 100;
  s->pre_ping = chance(sim, 70);
  s->pre_ping_after = ONE_OF(sim, 0, 1000, 1000000);
  s->pre_ping_timeout = ONE_OF(sim, 0, 20000, 100000, 5000000);
  s->min_idle = chance(sim, 60) ? 0 : (int)draw(sim, (uint64_t)(s->size + s->max_overflow) + 1);
  s->idle_timeout = ONE_OF(sim, 0, 10000, 30000000);
  s->shrink_after = ONE_OF(sim, 0, 50000, 600000000);
  s->max_waiting = (int)ONE_OF(sim, 0, 1, 4, 10000);
  s->max_waiting_per_key = (int)ONE_OF(sim, 0, 0, 1, 5);
  s->queue = (int)draw(sim, 3);
  s->queue_target = ONE_OF(sim, 0, 1, 20000, 1000000);
  s->queue_interval = ONE_OF(sim, 0, 1000, 100000, 1000000);
  s->max_opening = (int)draw(sim, 4) + 1;
  s->backoff_min = ONE_OF(sim, 0, 1, 1000, 50000);
  s->backoff_max = s->backoff_min + ONE_OF(sim, 0, 10000, 500000);
}

/* ---- what must hold ---- */

static int limit_of(const struct sim *sim) {
  int limit = sim->settings.size + sim->settings.max_overflow;
  if (limit > sim->cap) limit = sim->cap;
  return limit < sim->settings.size_limit ? limit : sim->settings.size_limit;
}

static int total_of(const struct sim *sim) {
  int total = 0;
  for (int i = 0; i < sim->settings.size_limit; i++) total += pool_slot(sim->pool, i)->state != SLOT_EMPTY;
  return total;
}

/* Call before the limit may change, then after: what there was may stay, nothing more. */
static void relimit(struct sim *sim, int before) {
  sim->ceiling = before > limit_of(sim) ? before : limit_of(sim);
}

static void check_limit(struct sim *sim) {
  int total = total_of(sim), limit = limit_of(sim);
  INSIST(total <= sim->ceiling);
  if (total < sim->ceiling) sim->ceiling = total;
  if (sim->ceiling < limit) sim->ceiling = limit;
}

/* ---- taking actions ---- */

static void take_grant(struct sim *sim, const struct action *a, bool late) {
  struct caller *c = a->waiter->user;
  struct connection *conn = &sim->connections[a->slot->index];
  INSIST(c->state == CALLER_IN_LINE && a->slot->state == SLOT_LEASED);
  bool ordered = sim->settings.queue != QUEUE_LIFO && !late;
  INSIST(!ordered || c->ticket > sim->served[c->waiter.key][c->waiter.priority]);
  INSIST(conn->open && !conn->held && conn->owes == ACTION_NONE);
  INSIST(late || conn->proof == sim->disconnects);
  INSIST(late || !sim->paused);
  if (ordered) sim->served[c->waiter.key][c->waiter.priority] = c->ticket;
  conn->held = true;
  c->slot = a->slot;
  c->state = CALLER_HOLDS;
}

static void take_fail(struct sim *sim, const struct action *a) {
  struct caller *c = a->waiter->user;
  INSIST(c->state == CALLER_IN_LINE);
  INSIST(a->waiter->failed == POOL_TIMEOUT || a->waiter->failed == POOL_OVERLOADED || a->waiter->failed == POOL_CONNECT ||
         a->waiter->failed == POOL_CLOSED);
  INSIST(a->waiter->failed != POOL_CLOSED || sim->draining);
  c->state = CALLER_OUT;
}

static void take_order(struct sim *sim, const struct action *a, bool late) {
  struct connection *conn = &sim->connections[a->slot->index];
  INSIST(!conn->held);
  INSIST(conn->open == (a->kind != ACTION_OPEN));
  INSIST(conn->owes == ACTION_NONE || (a->kind == ACTION_CLOSE && conn->owes == ACTION_CHECK));
  INSIST(late || !sim->paused || (a->kind != ACTION_OPEN && a->kind != ACTION_CHECK));
  INSIST(late || !sim->draining || a->kind == ACTION_CLOSE);
  if (a->kind == ACTION_OPEN || a->kind == ACTION_CHECK) conn->proof = sim->disconnects;
  conn->owes = a->kind;
  conn->mute = a->kind != ACTION_CLOSE && chance(sim, 5);
}

static void take_actions(struct sim *sim, bool all) {
  struct action a;
  bool late = sim->lagging;
  int left = all ? INT_MAX : (int)draw(sim, 3);
  sim->lagging = true;
  while (left-- > 0) {
    if (!pool_next(sim->pool, &a)) {
      sim->lagging = false;
      return;
    }
    if (sim->trace) printf("    action %d slot %d\n", a.kind, a.slot != NULL ? a.slot->index : -1);
    if (a.kind == ACTION_GRANT) take_grant(sim, &a, late);
    else if (a.kind == ACTION_FAIL) take_fail(sim, &a);
    else take_order(sim, &a, late);
  }
}

/* ---- callers ---- */

static struct caller *any_caller(struct sim *sim, enum caller_state state) {
  int first = (int)draw(sim, CALLERS);
  for (int i = 0; i < CALLERS; i++) {
    struct caller *c = &sim->callers[(first + i) % CALLERS];
    if (c->state == state) return c;
  }
  return NULL;
}

static void step_acquire(struct sim *sim) {
  struct caller *c = any_caller(sim, CALLER_OUT);
  if (c == NULL) return;
  usec patience = ONE_OF(sim, 0, 1, 1000, 100000, 1000000, 30000000, 600000000, NEVER);
  waiter_init(&c->waiter, patience == NEVER ? NEVER : sim->now + patience, c);
  if (chance(sim, 60)) c->waiter.key = draw(sim, KEYS);
  if (chance(sim, 40)) c->waiter.priority = (uint8_t)draw(sim, 10);
  if (chance(sim, 30)) c->waiter.weight = (uint8_t)draw(sim, 4);
  c->state = CALLER_IN_LINE;
  c->ticket = ++sim->tickets;
  enum pool_err err = pool_acquire(sim->pool, &c->waiter, sim->now);
  INSIST((err != POOL_OK) == (c->waiter.state == WAITER_FAILED));
}

static void step_cancel(struct sim *sim) {
  struct caller *c = any_caller(sim, CALLER_IN_LINE);
  if (c == NULL) return;
  pool_cancel(sim->pool, &c->waiter, sim->now);
  INSIST(c->waiter.state == WAITER_OUT);
  c->state = CALLER_OUT;
}

static void give_back(struct sim *sim, struct caller *c, enum outcome outcome) {
  struct slot *slot = c->slot;
  sim->connections[slot->index].held = false;
  c->slot = NULL;
  c->state = CALLER_OUT;
  if (outcome == OUTCOME_BROKEN) sim->disconnects++;
  pool_release(sim->pool, slot, sim->now, outcome);
}

static void step_release(struct sim *sim) {
  struct caller *c = any_caller(sim, CALLER_HOLDS);
  if (c == NULL) return;
  enum outcome outcome = chance(sim, 100 - sim->badness / 2) ? OUTCOME_CLEAN : (enum outcome)draw(sim, 4);
  if (chance(sim, 20)) outcome = OUTCOME_DIRTY;
  give_back(sim, c, outcome);
}

/* ---- the server ---- */

static void answer_open(struct sim *sim, struct slot *slot, bool good) {
  struct pool_error error;
  error_set(&error, POOL_CONNECT, "refused");
  error.permanent = chance(sim, 30);
  sim->connections[slot->index].open = good;
  pool_opened(sim->pool, slot, sim->now, good ? NULL : &error);
}

static void answer(struct sim *sim, struct slot *slot, bool good) {
  struct connection *conn = &sim->connections[slot->index];
  enum action_kind owes = conn->owes;
  conn->owes = ACTION_NONE;
  conn->mute = false;
  switch (owes) {
    case ACTION_OPEN: answer_open(sim, slot, good); break;
    case ACTION_CHECK: pool_checked(sim->pool, slot, sim->now, good); break;
    case ACTION_RESET: pool_reset_done(sim->pool, slot, sim->now, good); break;
    case ACTION_CLOSE:
      conn->open = false;
      pool_closed(sim->pool, slot, sim->now);
      break;
    default: WRONG("nothing to answer");
  }
}

static struct slot *any_slot(struct sim *sim) { return pool_slot(sim->pool, (int)draw(sim, (uint64_t)sim->settings.size_limit)); }

static void step_answer(struct sim *sim) {
  int first = (int)draw(sim, (uint64_t)sim->settings.size_limit);
  for (int i = 0; i < sim->settings.size_limit; i++) {
    int index = (first + i) % sim->settings.size_limit;
    struct connection *conn = &sim->connections[index];
    if (conn->owes == ACTION_NONE || conn->mute) continue;
    answer(sim, pool_slot(sim->pool, index), !chance(sim, sim->badness));
    return;
  }
}

static void step_lost(struct sim *sim) {
  struct slot *slot = any_slot(sim);
  bool disconnect = chance(sim, 50);
  if (slot->state == SLOT_EMPTY || !sim->connections[slot->index].open) return;
  if (disconnect && (slot->state == SLOT_IDLE || slot->state == SLOT_LEASED || slot->state == SLOT_RESETTING)) sim->disconnects++;
  pool_lost(sim->pool, slot, sim->now, disconnect);
}

/* ---- orders from outside ---- */

static void step_configure(struct sim *sim) {
  struct settings settings = sim->settings;
  int before = total_of(sim);
  draw_settings(sim, &settings);
  if (chance(sim, 10)) settings.size_limit++;
  enum pool_err err = pool_configure(sim->pool, &settings, sim->now);
  INSIST((err == POOL_OK) == (settings.size_limit == sim->settings.size_limit));
  INSIST(memcmp(pool_settings(sim->pool), err == POOL_OK ? &settings : &sim->settings, sizeof settings) == 0);
  if (err != POOL_OK) return;
  sim->settings = settings;
  relimit(sim, before);
}

static void step_allow(struct sim *sim) {
  int before = total_of(sim);
  sim->cap = chance(sim, 40) ? INT_MAX : (int)draw(sim, 8);
  pool_allow(sim->pool, sim->cap, sim->now);
  relimit(sim, before);
}

static void step_pause(struct sim *sim) {
  sim->paused = true;
  pool_pause(sim->pool, sim->now);
}

static void step_resume(struct sim *sim) {
  sim->paused = false;
  pool_resume(sim->pool, sim->now);
}

static void step_suspect(struct sim *sim) {
  sim->disconnects++;
  pool_suspect(sim->pool, sim->now);
}

static void step_drain(struct sim *sim) {
  sim->draining = true;
  pool_drain(sim->pool, sim->now);
}

static void step_tick(struct sim *sim) {
  pool_tick(sim->pool, sim->now);
  INSIST(pool_deadline(sim->pool) > sim->now);
}

static void step_time(struct sim *sim) {
  usec deadline = pool_deadline(sim->pool);
  if (chance(sim, 3)) sim->now -= (usec)draw(sim, 1000000);
  else if (chance(sim, 40) && deadline != NEVER && deadline > sim->now) sim->now = deadline;
  else sim->now += (usec)draw(sim, (uint64_t)ONE_OF(sim, 10, 10, 1000, 1000, 60000, 2000000, sim->leap));
  if (chance(sim, 70)) step_tick(sim);
}

static void sim_step(struct sim *sim) {
  int kind = (int)draw(sim, 1000);
  if (sim->trace) printf("step %ld: %d at %lld\n", running.step, kind, (long long)sim->now);
  if (kind < 260) step_acquire(sim);
  else if (kind < 290) step_cancel(sim);
  else if (kind < 490) step_release(sim);
  else if (kind < 750) step_answer(sim);
  else if (kind < 935) step_time(sim);
  else if (kind < 955) step_lost(sim);
  else if (kind < 963) step_configure(sim);
  else if (kind < 970) step_allow(sim);
  else if (kind < 973) pool_invalidate(sim->pool, sim->now);
  else if (kind < 976) step_suspect(sim);
  else if (kind < 980) step_pause(sim);
  else if (kind < 999 || chance(sim, 80)) step_resume(sim);
  else step_drain(sim);
}

static void after_input(struct sim *sim) {
  pool_assert(sim->pool);
  check_limit(sim);
}

/* ---- a schedule ---- */

/* One round: the server answers what it owes, `good` or not, mute or not; whoever holds gives back. False: there was nothing. */
static bool settle_round(struct sim *sim, bool good) {
  bool any = false;
  for (int i = 0; i < sim->settings.size_limit; i++) {
    if (sim->connections[i].owes == ACTION_NONE) continue;
    answer(sim, pool_slot(sim->pool, i), good);
    after_input(sim);
    take_actions(sim, true);
    any = true;
  }
  for (int i = 0; i < CALLERS; i++) {
    if (sim->callers[i].state != CALLER_HOLDS) continue;
    give_back(sim, &sim->callers[i], OUTCOME_CLEAN);
    after_input(sim);
    take_actions(sim, true);
    any = true;
  }
  return any;
}

/* Until nothing is owed. No time passes, so that what goes round for ever is found. */
static void settle_debts(struct sim *sim, bool good) {
  for (int i = 0; settle_round(sim, good); i++) INSIST(i < 1000);
}

static int still_in_line(const struct sim *sim) {
  int count = 0;
  for (int i = 0; i < CALLERS; i++) count += sim->callers[i].state == CALLER_IN_LINE;
  return count;
}

/* With a server that answers and time that passes, everybody is answered; those who wait for ever must be served. */
static void finish_line(struct sim *sim) {
  take_actions(sim, true);
  settle_debts(sim, false);
  step_resume(sim);
  sim->cap = INT_MAX;
  pool_allow(sim->pool, sim->cap, sim->now);
  relimit(sim, total_of(sim));
  after_input(sim);
  take_actions(sim, true);
  for (int i = 0; still_in_line(sim) > 0; i++) {
    INSIST(i < 1000);
    usec deadline = pool_deadline(sim->pool);
    if (deadline != NEVER && deadline > sim->now) sim->now = deadline;
    step_tick(sim);
    after_input(sim);
    take_actions(sim, true);
    settle_debts(sim, true);
  }
}

static void finish(struct sim *sim) {
  struct stats stats;
  if (!sim->draining) finish_line(sim);
  step_drain(sim);
  after_input(sim);
  take_actions(sim, true);
  INSIST(still_in_line(sim) == 0);
  settle_debts(sim, true);
  INSIST(pool_empty(sim->pool));
  pool_stats(sim->pool, &stats);
  INSIST(stats.counters.grants == stats.counters.releases && stats.counters.opens == stats.counters.closes);
  INSIST(stats.counters.arrivals == sim->tickets && stats.total == 0 && stats.waiting == 0);
}

static void count_up(const struct pool *pool) {
  struct stats stats;
  struct counters *sum = &running.sum, *c = &stats.counters;
  pool_stats(pool, &stats);
  sum->arrivals += c->arrivals, sum->grants += c->grants, sum->opens += c->opens, sum->checks += c->checks;
  sum->resets += c->resets, sum->recycled += c->recycled, sum->timeouts += c->timeouts, sum->elided += c->elided;
}

/* A model that hardly lends would prove little: these are printed, so that a change of it that starves the pool is seen. */
static void print_sum(long steps, int schedules) {
  const struct counters *c = &running.sum;
  printf("%ld steps in %d schedules: %llu arrivals, %llu grants, %llu timeouts, %llu opens, %llu called off, %llu checks, "
         "%llu resets, %llu recycled\n", steps, schedules, (unsigned long long)c->arrivals, (unsigned long long)c->grants,
         (unsigned long long)c->timeouts, (unsigned long long)c->opens, (unsigned long long)c->elided, (unsigned long long)c->checks,
         (unsigned long long)c->resets, (unsigned long long)c->recycled);
}

static void run(uint64_t seed, long steps, bool trace) {
  struct sim sim = {.random = seed, .cap = INT_MAX, .trace = trace};
  running.seed = seed;
  running.steps = steps;
  settings_defaults(&pool_settings_table, &sim.settings);
  sim.settings.size_limit = (int)draw(&sim, SLOTS_MAX - 1) + 1;
  draw_settings(&sim, &sim.settings);
  sim.badness = (int)ONE_OF(&sim, 0, 5, 20, 60);
  sim.leap = ONE_OF(&sim, 1000, 100000, 40000000);
  sim.now = ONE_OF(&sim, 0, 1000, 1000000000000);
  sim.pool = pool_create(&sim.settings, seed);
  INSIST(sim.pool != NULL);
  sim.ceiling = limit_of(&sim);
  long allocations = running.allocations;
  for (running.step = 0; running.step < steps; running.step++) {
    sim_step(&sim);
    after_input(&sim);
    take_actions(&sim, chance(&sim, 85));
  }
  finish(&sim);
  INSIST(running.allocations == allocations);
  count_up(sim.pool);
  pool_destroy(sim.pool);
}

static int run_seeds(const char *path) {
  unsigned long long seed;
  long steps;
  int count = 0;
  char line[200];
  FILE *file = fopen(path, "r");
  if (file == NULL) {
    perror(path);
    exit(2);
  }
  while (fgets(line, sizeof line, file) != NULL) {
    if (sscanf(line, "%llu %ld", &seed, &steps) != 2) continue;
    run(seed, steps, false);
    count++;
  }
  fclose(file);
  return count;
}

int main(int argc, char **argv) {
  struct options o = {.usage = "core_sim [--seeds FILE] [--steps N] [--from SEED], or core_sim SEED [STEPS] [trace]",
                      .steps = STEPS_DEFAULT, .from = 1};
  uint64_t done = 0;
  int count = 0;
  setvbuf(stdout, NULL, _IONBF, 0);
  signal(SIGABRT, report);
  signal(SIGSEGV, report);
  if (argc > 1 && argv[1][0] != '-') {
    bool trace = argc > 3 && strcmp(argv[3], "trace") == 0;
    if (argc > (trace ? 4 : 3)) options_refuse(&o, argv[3]);
    run(options_number(&o, argv[1]), argc > 2 ? (long)options_number(&o, argv[2]) : STEPS_EACH, trace);
    printf("1 passed, 0 failed\n");
    return 0;
  }
  options_read(&o, argc, argv);
  if (o.seeds != NULL) count = run_seeds(o.seeds);
  for (uint64_t seed = o.from; done < o.steps; seed++, count++, done += STEPS_EACH) run(seed, STEPS_EACH, false);
  print_sum((long)done, count);
  printf("1 passed, 0 failed\n");
  return 0;
}
