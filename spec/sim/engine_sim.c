/*
** engine_sim: the engine, the core and the loop driven with random schedules over the scripted driver, in virtual time.
**
** Agents lease, query, run, stream, fetch, cancel, leave and release; set-ups come and go; connections die, hang, refuse and recover;
** settings change, the pool is paused, invalidated, capped. After every step:
** 1. the core's promises hold (pool_assert), and the driver has exactly the connections that the core counts, never more than the
**    limit (what there was before a shrink stays until it goes);
** 2. a call ends exactly once, or its agent left: never both, never twice;
** 3. a granted connection has nothing under way, nor a cancel that may still hit (here and in the driver's own checks);
** 4. a connection with nothing under way is watched for reading, has no timer, and is not held for `moving`;
** 5. what is readable is read: time never stands still.
** A schedule ends when faults have stopped: everybody still in line is answered, everybody who comes is served, and then the engine is
** drained, cut or destroyed as it is. Nothing is left.
**
**   engine_sim                 all schedules
**   engine_sim SEED            that one
*/
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/engine_world.h"

enum { AGENTS = 10, SLOTS = 12, STEPS_EACH = 500, SCHEDULES = 1000, ROUNDS_MOST = 20000 };

struct agent {
  struct call call;
  struct sim *sim;
  bool waiting;       /* for done() */
  struct conn *conn;  /* held */
  uint64_t lease;     /* its number then */
  enum pool_err last; /* how its last call ended */
};

struct sim {
  struct loop *loop;
  struct scripted db;
  struct engine *engine;
  struct engine_options options;
  uint64_t random;
  int badness;        /* percent */
  int cap, ceiling;
  bool emptied;
  struct agent agents[AGENTS], setups[SLOTS];
};

/* The one thing that changes: what to report when an assertion fails, and what was done in all. */
static struct {
  uint64_t seed;
  int step;
  long steps, granted, queries, failed, left, held, cancelled, killed, set_up, opened;
} running;

static void report(int sig) {
  char text[160];
  int length = snprintf(text, sizeof text, "FAILED: engine_sim: replay with: engine_sim %llu (step %d)\n0 passed, 1 failed\n",
                        (unsigned long long)running.seed, running.step);
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

static struct answer choose(void *user, enum operation op) {
  struct sim *sim = user;
  struct answer a = {ANSWER_OK, ONE_OF(sim, 0, 0, 1 * MS, 5 * MS, 40 * MS)};
  if (op == OP_STATEMENT && sim->badness > 0 && chance(sim, 10)) a.kind = ANSWER_FAIL;
  if (!chance(sim, sim->badness)) return a;
  a.kind = (enum answer_kind)draw(sim, 4);
  a.after = ONE_OF(sim, 0, 1 * MS, 700 * MS, 8 * SECOND, NEVER);
  return a;
}

static void draw_settings(struct sim *sim) {
  struct settings *s = &sim->options.pool;
  struct db_settings *d = &sim->options.db;
  s->size = (int)draw(sim, 6);
  s->max_overflow = (int)draw(sim, 4) + (s->size == 0);
  s->min_idle = chance(sim, 70) ? 0 : (int)draw(sim, (uint64_t)(s->size + s->max_overflow) + 1);
  s->recycle = ONE_OF(sim, 0, 100 * MS, 10 * SECOND);
  s->pre_ping = chance(sim, 60);
  s->pre_ping_after = ONE_OF(sim, 0, 10 * MS, SECOND);
  s->pre_ping_timeout = ONE_OF(sim, 50 * MS, 5 * SECOND);
  s->idle_timeout = ONE_OF(sim, 0, 10 * MS, 30 * SECOND);
  s->shrink_after = ONE_OF(sim, 0, 100 * MS, 600 * SECOND);
  s->max_waiting = (int)ONE_OF(sim, 0, 3, 10000, 10000, 10000, 10000, 10000, 10000);
  s->max_opening = 1 + (int)draw(sim, 4);
  d->connect_timeout = ONE_OF(sim, 500 * MS, 10 * SECOND);
  d->statement_timeout = ONE_OF(sim, 0, 0, 20 * MS, SECOND);
  d->reset = (int)draw(sim, 3);
}

/* ---- what must hold ---- */

static void check_conn(const struct conn *c) {
  bool resting = c->job == CONN_IDLE || ((c->job == CONN_LEASED || c->job == CONN_SETUP) && !c->dead && !c->streaming);
  if (resting) INSIST(c->watch.events == LOOP_READ && c->watch.fd == c->db->fd && !c->timer.running && !c->moving && !c->call);
  if (resting) INSIST(!scripted_busy(c->db));
  if (c->dead && c->job == CONN_LEASED) INSIST(c->watch.events == 0 && !c->timer.running);
  if (c->job == CONN_EMPTY) INSIST(!c->db && c->watch.events == 0 && !c->timer.running);
  if (c->job == CONN_RUNNING) INSIST(c->call && c->call->state == CALL_RUNNING && c->watch.events != 0);
  if (c->held) INSIST(c->job == CONN_STOPPING && c->held->state == CALL_HELD);
}

static int limit_of(const struct sim *sim) {
  int limit = sim->options.pool.size + sim->options.pool.max_overflow;
  return limit < sim->cap ? limit : sim->cap;
}

static void check(struct sim *sim) {
  struct stats s;
  const struct pool *pool = engine_pool(sim->engine);
  pool_assert(pool);
  pool_stats(pool, &s);
  INSIST(s.total == sim->db.live);
  INSIST(s.total <= sim->ceiling);
  if (s.total < sim->ceiling) sim->ceiling = s.total > limit_of(sim) ? s.total : limit_of(sim);
  for (int i = 0; i < SLOTS; i++) check_conn(pool_slot(pool, i)->user);
}

/* ---- agents ---- */

static void agent_hold(struct agent *a, struct conn *c) {
  INSIST(c->job == CONN_LEASED && !scripted_busy(c->db) && c->db->op == OP_NONE && !c->db->cancelled_at);
  a->conn = c;
  a->lease = c->lease;
  running.granted++;
}

static void agent_done(struct call *call) {
  struct agent *a = CONTAINER(call, struct agent, call);
  INSIST(a->waiting && call->state == CALL_OUT);
  a->waiting = false;
  a->last = call->error ? call->error->kind : POOL_OK;
  running.failed += call->error != NULL;
  INSIST(!call->error || !call->result);
  if (call->kind == CALL_LEASE && !call->error) agent_hold(a, call->conn);
  engine_free_error(call->error);
  scripted_driver.free_result(call->result);
  call->error = NULL;
  call->result = NULL;
}

static void agent_call(struct agent *a, const char *sql, bool stream) {
  INSIST(!a->waiting);
  a->waiting = true;
  a->call.done = agent_done;
  a->call.statement = (struct statement){.sql = sql, .len = strlen(sql), .stream = stream};
}

static void agent_come(struct agent *a, usec patience) {
  struct sim *sim = a->sim;
  if (chance(sim, 40)) {
    agent_call(a, "", false);
    engine_lease(sim->engine, &a->call, loop_now(sim->loop) + patience);
  } else {
    running.queries++;
    agent_call(a, chance(sim, 10) ? "begin" : "select", false);
    engine_query(sim->engine, &a->call, loop_now(sim->loop) + patience);
  }
}

static void agent_leave(struct agent *a) {
  if (!a->waiting) return;
  a->waiting = false;
  running.left++;
  running.held += a->call.state == CALL_HELD;
  engine_leave(a->sim->engine, &a->call);
  INSIST(a->call.state == CALL_OUT);
}

static void agent_release(struct agent *a) {
  struct conn *c = a->conn;
  INSIST(c->lease == a->lease);
  a->conn = NULL;
  engine_release(c);
  INSIST(!a->waiting); /* what it waited for has failed */
}

static void agent_run(struct agent *a, struct conn *c) {
  struct sim *sim = a->sim;
  static const char *const words[] = {"select", "select", "begin", "commit"};
  if (c->streaming && chance(sim, 80)) {
    agent_call(a, "", false);
    engine_fetch(c, &a->call);
  } else if (c->streaming) {
    engine_stop_stream(c);
  } else {
    agent_call(a, words[draw(sim, 4)], chance(sim, 25));
    engine_run(c, &a->call);
  }
}

static void agent_act(struct agent *a) {
  struct sim *sim = a->sim;
  if (a->waiting && chance(sim, 15)) {
    agent_leave(a);
  } else if (a->waiting && a->conn && chance(sim, 20)) {
    running.cancelled += engine_cancel(a->conn);
  } else if (a->conn && chance(sim, a->waiting ? 3 : 25)) {
    if (chance(sim, 10)) engine_retire(a->conn);
    agent_release(a);
  } else if (a->conn && !a->waiting) {
    agent_run(a, a->conn);
  } else if (!a->conn && !a->waiting) {
    agent_come(a, ONE_OF(sim, 0, 20 * MS, 300 * MS, 30 * SECOND, 30 * SECOND, 30 * SECOND, 30 * SECOND, 30 * SECOND));
  }
}

/* ---- set-ups ---- */

static void sim_setup(void *user, struct conn *c) {
  struct sim *sim = user;
  struct agent *a = &sim->setups[c->slot->index];
  INSIST(!a->conn && !a->waiting && c->job == CONN_SETUP);
  a->conn = c;
  a->lease = c->lease;
  running.set_up++;
}

static void setup_act(struct agent *a) {
  struct sim *sim = a->sim;
  if (!a->conn) return;
  INSIST(a->conn->lease == a->lease);
  if (a->waiting && !chance(sim, 10)) return;
  if (a->waiting && chance(sim, 50)) {
    agent_leave(a);
  } else if (!a->waiting && chance(sim, 50)) {
    agent_run(a, a->conn);
  } else {
    struct conn *c = a->conn;
    struct pool_error error;
    error_set(&error, POOL_CONNECT, "set-up refused");
    a->conn = NULL;
    engine_setup_done(c, chance(sim, sim->badness) ? &error : NULL);
    INSIST(!a->waiting);
  }
}

static void sim_lost(void *user, struct conn *c) {
  struct sim *sim = user;
  for (int i = 0; i < AGENTS; i++)
    if (sim->agents[i].conn == c) sim->agents[i].conn = NULL;
  sim->setups[c->slot->index].conn = NULL;
}

/* ---- orders and faults ---- */

static void sim_kill(struct sim *sim) {
  struct db_conn *c = sim->db.live > 0 ? scripted_conn(&sim->db, (int)draw(sim, (uint64_t)sim->db.live)) : NULL;
  if (!c || c->killed) return;
  if (chance(sim, 50))
    c->noise = true;
  else
    running.killed++, scripted_kill(c, chance(sim, 30));
}

static void sim_relimit(struct sim *sim) {
  int live = sim->db.live, limit = limit_of(sim);
  sim->ceiling = live > limit ? live : limit;
}

static void sim_configure(struct sim *sim) {
  struct pool_error error;
  draw_settings(sim);
  sim_relimit(sim);
  INSIST(engine_configure(sim->engine, &sim->options.pool, &sim->options.db, &error) == POOL_OK);
}

static void sim_allow(struct sim *sim, int cap) {
  sim->cap = cap;
  sim_relimit(sim);
  engine_allow(sim->engine, cap);
}

static void sim_order(struct sim *sim) {
  switch (draw(sim, 7)) {
    case 0: sim_configure(sim); return;
    case 1: engine_pause(sim->engine); return;
    case 2:
    case 3: engine_resume(sim->engine); return;
    case 4: engine_invalidate(sim->engine); return;
    case 5: sim_allow(sim, (int)ONE_OF(sim, 0, 1, 3, 5, INT_MAX, INT_MAX, INT_MAX, INT_MAX)); return;
    default: engine_setup_wanted(sim->engine, chance(sim, 60)); return;
  }
}

static void sim_turn(struct sim *sim) {
  usec now = loop_now(sim->loop), next = scripted_next(&sim->db);
  usec until = now + ONE_OF(sim, 1 * MS, 1 * MS, 1 * MS, 30 * MS, 30 * MS, 2 * SECOND);
  if (scripted_announce(&sim->db)) until = now;
  loop_turn(sim->loop, next < until ? (next > now ? next : now) : until);
}

static void sim_step(struct sim *sim) {
  uint64_t what = draw(sim, 100);
  if (what < 45)
    sim_turn(sim);
  else if (what < 90)
    agent_act(&sim->agents[draw(sim, AGENTS)]);
  else if (what < 96)
    setup_act(&sim->setups[draw(sim, SLOTS)]);
  else if (what < 97)
    sim_order(sim);
  else if (what < 99)
    engine_resume(sim->engine);
  else if (chance(sim, sim->badness * 5))
    sim_kill(sim);
  check(sim);
}

/* ---- the end ---- */

static void sim_pass(struct sim *sim, usec pause) {
  usec until = loop_now(sim->loop) + pause;
  int rounds = 0;
  while (loop_now(sim->loop) < until || scripted_next(&sim->db) <= loop_now(sim->loop)) {
    usec before = loop_now(sim->loop), next = scripted_next(&sim->db);
    bool ready = scripted_announce(&sim->db);
    loop_turn(sim->loop, ready ? before : next < until ? next : until);
    if (sim->engine) check(sim);
    for (int i = 0; i < SLOTS; i++) setup_act(&sim->setups[i]);
    rounds = loop_now(sim->loop) > before ? 0 : rounds + 1;
    INSIST(rounds < ROUNDS_MOST);
  }
}

/* What would never be answered is answered now. */
static void sim_unstick(struct sim *sim) {
  usec now = loop_now(sim->loop);
  LIST_EACH(node, &sim->db.conns) {
    struct db_conn *c = CONTAINER(node, struct db_conn, link);
    if (c->op != OP_NONE && c->due == NEVER) c->due = now;
    if (c->cancelled_at == NEVER) c->cancelled_at = now;
  }
}

static void sim_recover(struct sim *sim) {
  sim->badness = 0;
  sim->db.deaf = false;
  engine_setup_wanted(sim->engine, false);
  engine_resume(sim->engine);
  sim->options.pool.max_waiting = 10000;
  sim->options.pool.recycle = 0;
  sim->options.db.statement_timeout = 0;
  struct pool_error error;
  INSIST(engine_configure(sim->engine, &sim->options.pool, &sim->options.db, &error) == POOL_OK);
  sim_allow(sim, INT_MAX);
  for (int i = 0; i < AGENTS; i++)
    if (sim->agents[i].conn) agent_release(&sim->agents[i]);
  sim_unstick(sim);
  sim_pass(sim, 20 * SECOND); /* what is stuck is given up, those in line get their answer */
  for (int i = 0; i < AGENTS; i++)
    if (sim->agents[i].conn) agent_release(&sim->agents[i]);
}

static void sim_serve_all(struct sim *sim) {
  for (int round = 0; round < AGENTS; round++) {
    sim_pass(sim, 2 * SECOND);
    for (int i = 0; i < AGENTS; i++)
      if (sim->agents[i].conn) agent_release(&sim->agents[i]);
  }
  for (int i = 0; i < AGENTS; i++) INSIST(!sim->agents[i].waiting);
}

static void sim_emptied(void *user) { ((struct sim *)user)->emptied = true; }

static void sim_end(struct sim *sim) {
  bool cut = chance(sim, 50);
  engine_drain(sim->engine);
  engine_when_empty(sim->engine, sim_emptied, sim);
  if (cut) engine_cut(sim->engine);
  for (int i = 0; i < AGENTS; i++) {
    INSIST(!cut || (!sim->agents[i].waiting && !sim->agents[i].conn));
    if (sim->agents[i].conn) agent_release(&sim->agents[i]);
  }
  if (!cut) sim->badness = 0;
  if (!cut) sim_unstick(sim);
  sim_pass(sim, SECOND);
  for (int i = 0; !cut && !sim->emptied && i < 300; i++) sim_pass(sim, 100 * MS); /* set-ups take their time */
  INSIST(sim->emptied && sim->db.live == 0);
}

static void sim_begin(struct sim *sim, uint64_t seed) {
  char *url = sim->options.db.database_url;
  sim->random = seed;
  sim->cap = INT_MAX;
  sim->loop = loop_virtual_create(SECOND);
  INSIST(sim->loop != NULL);
  scripted_init(&sim->db, sim->loop);
  sim->db.choose = choose;
  sim->db.user = sim;
  settings_defaults(&pool_settings_table, &sim->options.pool);
  settings_defaults(&db_settings_table, &sim->options.db);
  sim->options.pool.size_limit = SLOTS;
  draw_settings(sim);
  scripted_url(&sim->db, url, SETTING_TEXT_MAX);
  sim->badness = (int)ONE_OF(sim, 0, 3, 8, 20, 40);
  sim->db.addresses = 1 + (int)draw(sim, 3);
  sim->db.deaf = chance(sim, 30);
  sim->db.prompt = chance(sim, 30);
  sim->db.write_first = chance(sim, 30);
  sim->options.driver = &scripted_driver;
  sim->options.events = (struct engine_events){.setup = sim_setup, .lost = sim_lost};
  sim->options.user = sim;
  sim->options.seed = seed;
  sim->ceiling = limit_of(sim);
  for (int i = 0; i < AGENTS; i++) sim->agents[i].sim = sim;
  for (int i = 0; i < SLOTS; i++) sim->setups[i].sim = sim;
  sim->engine = engine_create(sim->loop, &sim->options, NULL);
  INSIST(sim->engine != NULL);
}

static void run(uint64_t seed) {
  static const struct sim fresh;
  struct sim sim = fresh;
  running.seed = seed;
  sim_begin(&sim, seed);
  for (running.step = 0; running.step < STEPS_EACH; running.step++) sim_step(&sim);
  running.steps += STEPS_EACH;
  if (chance(&sim, 60)) {
    sim_recover(&sim);
    sim_serve_all(&sim);
    for (int i = 0; i < AGENTS; i++) agent_come(&sim.agents[i], 30 * SECOND);
    sim_serve_all(&sim);
    for (int i = 0; i < AGENTS; i++) INSIST(sim.agents[i].last == POOL_OK);
  }
  if (chance(&sim, 60)) sim_end(&sim);
  running.opened += sim.db.opened;
  engine_destroy(sim.engine);
  INSIST(sim.db.live == 0 && sim.db.results == 0 && loop_virtual_idle(sim.loop));
  loop_destroy(sim.loop);
}

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IONBF, 0);
  signal(SIGABRT, report);
  signal(SIGSEGV, report);
  if (argc > 1) {
    run(strtoull(argv[1], NULL, 10));
  } else {
    for (uint64_t seed = 1; seed <= SCHEDULES; seed++) run(seed);
    printf("%ld steps in %d schedules: %ld leases, %ld queries, %ld failed calls, %ld left (%ld held), %ld cancelled, %ld opens, "
           "%ld kills, %ld set-ups\n", running.steps, SCHEDULES, running.granted, running.queries, running.failed, running.left,
           running.held, running.cancelled, running.opened, running.killed, running.set_up);
  }
  printf("1 passed, 0 failed\n");
  return 0;
}
