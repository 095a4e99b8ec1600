/*
** engine_sim: the engine, the core and the loop driven with random schedules over the scripted driver, in virtual time.
**
** Agents lease, query, run, stream, fetch, cancel, leave and release, with keys, priorities and weights; set-ups come and go; connections
** die, hang, refuse, fall silent and recover; settings change (the queue's too), the pool is paused, invalidated, capped. After every step:
** 1. the core's promises hold (pool_assert), its line is the one that order.h knows, and the driver has exactly the connections that the
**    core counts, never more than the limit (what there was before a shrink stays until it goes);
** 2. a call ends exactly once, or its agent left: never both, never twice; it ends with the answer to its own number, from the connection
**    that it ran on, and outside any transaction but its lease's own; or with an error that can have come to it;
** 3. a granted connection has nothing under way, nor a cancel that may still hit, nor a transaction (here and in the driver's own checks);
** 4. a connection with nothing under way is watched for reading, has no timer, and is not held for `moving`;
** 5. what is readable is read: time never stands still;
** 6. a recorder is told of every request that ended, once, with what it was asked with.
** A schedule ends when faults have stopped: everybody still in line is answered, everybody who comes is served, and then the engine is
** drained, cut or destroyed as it is. Nothing is left.
**
**   engine_sim [--seeds FILE] [--steps N] [--from SEED]  the seeds in FILE, then seeds from 1 or SEED on until N (500,000) steps are done
**   engine_sim SEED                                      that one
*/
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chance.h"
#include "engine_check.h"
#include "io/engine_world.h"
#include "options.h"
#include "order.h"

enum { AGENTS = 10, SLOTS = 12, STEPS_EACH = 500, STEPS_DEFAULT = 500000, ROUNDS_MOST = 20000, KEYS = 4 };

struct agent {
  struct call call;
  struct sim *sim;
  bool waiting;       /* for done() */
  struct conn *conn;  /* held */
  uint64_t lease;     /* its number then */
  enum pool_err last; /* how its last call ended */
  struct param param; /* the number it asks with */
  bool hit;           /* somebody asked for the end of its statement, or of the stream that it reads */
  bool let_go;        /* gives its connection back this instant */
  uint64_t key;       /* of its last request */
  uint8_t priority;
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
  bool timed;         /* statement_timeout has not always been 0 */
  bool cutting;
  int64_t numbers;    /* asked with */
  long begun;         /* requests for a connection */
  bool recording;     /* from the beginning to the end */
  long recorded;
  struct agent agents[AGENTS], setups[SLOTS];
};

/* The one thing that changes: what to report when an assertion fails, and what was done in all. */
static struct {
  struct sim *sim;
  uint64_t seed;
  int step;
  long steps, granted, queries, failed, left, held, cancelled, killed, set_up, opened, recorded;
} running;

void __wrap_recorder_add(struct recorder *, const struct recorded *);

static void report(int sig) {
  char text[160];
  int length = snprintf(text, sizeof text, "FAILED: engine_sim: replay with: engine_sim %llu (step %d)\n0 passed, 1 failed\n",
                        (unsigned long long)running.seed, running.step);
  if (write(STDOUT_FILENO, text, (size_t)length) < 0) _exit(3);
  signal(sig, SIG_DFL);
  raise(sig);
}

/* ---- chance ---- */

static uint64_t draw(struct sim *sim, uint64_t below) { return dice_draw(&sim->random, below); }
static bool chance(struct sim *sim, int percent) { return dice_chance(&sim->random, percent); }
#define ONE_OF(sim, ...) DICE_ONE_OF(&(sim)->random, __VA_ARGS__)

static struct answer choose(void *user, enum operation op) {
  struct sim *sim = user;
  struct answer a = {ANSWER_OK, ONE_OF(sim, 0, 0, 1 * MS, 5 * MS, 40 * MS)};
  if (op == OP_STATEMENT && sim->badness > 0 && chance(sim, 10)) a.kind = ANSWER_FAIL;
  if (!chance(sim, sim->badness)) return a;
  a.kind = (enum answer_kind)draw(sim, 4);
  a.after = ONE_OF(sim, 0, 1 * MS, 700 * MS, 8 * SECOND, NEVER);
  a.ran = chance(sim, 50);
  return a;
}

static void draw_queue(struct sim *sim, struct settings *s) {
  s->max_waiting_per_key = (int)ONE_OF(sim, 0, 0, 0, 1, 3);
  s->queue = (int)ONE_OF(sim, QUEUE_FIFO, QUEUE_FIFO, QUEUE_LIFO, QUEUE_CODEL);
  s->queue_target = ONE_OF(sim, 0, 5 * MS, 50 * MS, SECOND);
  s->queue_interval = ONE_OF(sim, 0, 10 * MS, SECOND);
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
  draw_queue(sim, s);
  d->connect_timeout = ONE_OF(sim, 500 * MS, 10 * SECOND);
  d->statement_timeout = ONE_OF(sim, 0, 0, 20 * MS, SECOND);
  d->reset = (int)draw(sim, 3);
  sim->timed = sim->timed || d->statement_timeout > 0;
}

/* ---- what must hold ---- */

static int limit_of(const struct sim *sim) {
  int limit = sim->options.pool.size + sim->options.pool.max_overflow;
  return limit < sim->cap ? limit : sim->cap;
}

/* Of every request that was made something is written, once it is over. */
static void check_recorded(const struct sim *sim) {
  long open = 0;
  for (int i = 0; i < AGENTS; i++) {
    const struct agent *a = &sim->agents[i];
    open += a->conn || (a->waiting && (a->call.kind == CALL_LEASE || a->call.kind == CALL_QUERY));
  }
  INSIST(sim->recorded == sim->begun - open);
}

static void check(struct sim *sim) {
  struct stats s;
  const struct pool *pool = engine_pool(sim->engine);
  pool_assert(pool);
  order_check(pool);
  if (sim->recording) check_recorded(sim);
  pool_stats(pool, &s);
  INSIST(s.total == sim->db.live);
  INSIST(s.total <= sim->ceiling);
  if (s.total < sim->ceiling) sim->ceiling = s.total > limit_of(sim) ? s.total : limit_of(sim);
  for (int i = 0; i < SLOTS; i++) engine_check_conn(pool_slot(pool, i)->user);
}

void __wrap_recorder_add(struct recorder *recorder, const struct recorded *r) {
  struct sim *sim = running.sim;
  bool known = false;
  INSIST(recorder == (struct recorder *)&running && r->waited >= 0 && r->held >= 0 && strchr("gltoec", r->outcome));
  for (int i = 0; i < AGENTS; i++) known = known || (sim->agents[i].key == r->key && sim->agents[i].priority == r->priority);
  INSIST(known);
  INSIST(r->arrived >= 0 && r->arrived + r->waited + r->held <= loop_now(sim->loop));
  sim->recorded++;
  running.recorded++;
}

/* ---- agents ---- */

static void agent_hold(struct agent *a, struct conn *c) {
  INSIST(c->job == CONN_LEASED && !scripted_busy(c->db) && c->db->op == OP_NONE && !c->db->cancelled_at);
  INSIST(c->db->status == DB_IDLE && c->db->transaction == 0);
  if (loop_now(a->sim->loop) - c->idle_at >= MS) INSIST(!c->db->killed || c->db->mute); /* it was looked at once more */
  a->conn = c;
  a->lease = c->lease;
  running.granted++;
}

static int64_t result_cell(struct db_result *r, int column) {
  struct value v;
  scripted_driver.cell(r, 0, column, &v);
  return v.integer;
}

/* An answer is its own: n, conn, tx. Control of transactions has no rows. */
static void agent_check_result(const struct agent *a, const struct call *call) {
  INSIST(call->result != NULL);
  if (scripted_driver.rows(call->result) == 0) return;
  INSIST(result_cell(call->result, 0) == a->param.integer);
  INSIST(result_cell(call->result, 1) == call->conn->db->serial);
  if (call->kind == CALL_QUERY) INSIST(result_cell(call->result, 2) == 0);
}

static void agent_check_error(const struct agent *a, enum call_kind kind, enum pool_err err) {
  const struct sim *sim = a->sim;
  bool line = kind == CALL_LEASE || kind == CALL_QUERY;
  switch (err) {
    case POOL_TIMEOUT:
    case POOL_OVERLOADED:
    case POOL_CONNECT: INSIST(line); return;
    case POOL_LOST:
    case POOL_QUERY: INSIST(kind != CALL_LEASE); return;
    case POOL_DEADLINE: INSIST(kind != CALL_LEASE && sim->timed); return;
    case POOL_CANCELLED: INSIST(!line && (a->hit || a->let_go)); return;
    case POOL_CLOSED: INSIST(sim->cutting); return;
    default: WRONG("a call cannot end so");
  }
}

static void agent_done(struct call *call) {
  struct agent *a = CONTAINER(call, struct agent, call);
  INSIST(a->waiting && call->state == CALL_OUT);
  a->waiting = false;
  a->last = call->error ? call->error->kind : POOL_OK;
  running.failed += call->error != NULL;
  INSIST(!call->error || !call->result);
  if (call->error && call->kind == CALL_FETCH) INSIST(!call->error->retryable); /* it has given rows */
  if (call->error) agent_check_error(a, call->kind, call->error->kind);
  else if (call->kind == CALL_LEASE) agent_hold(a, call->conn);
  else agent_check_result(a, call);
  engine_free_error(call->error);
  scripted_driver.free_result(call->result);
  call->error = NULL;
  call->result = NULL;
}

static void agent_wait(struct agent *a) {
  INSIST(!a->waiting);
  a->waiting = true;
  a->call.done = agent_done;
}

static void agent_call(struct agent *a, const char *sql, bool stream) {
  agent_wait(a);
  a->hit = false;
  a->param = (struct param){.type = PARAM_INTEGER, .integer = ++a->sim->numbers};
  a->call.statement = (struct statement){.sql = sql, .len = strlen(sql), .params = &a->param, .nparams = 1, .stream = stream};
}

/* With what it asks: nothing, or a key, a priority, a weight. */
static void agent_ask(struct agent *a) {
  struct sim *sim = a->sim;
  struct waiter *w = &a->call.waiter;
  waiter_init(w, 0, NULL);
  if (chance(sim, 60)) w->key = draw(sim, KEYS);
  if (chance(sim, 40)) w->priority = (uint8_t)draw(sim, WAITER_PRIORITY_MAX + 1);
  if (chance(sim, 30)) w->weight = (uint8_t)draw(sim, 4);
  if (w->weight == 0) *w = (struct waiter){.priority = WAITER_PRIORITY}; /* as one who says nothing */
  a->key = w->key;
  a->priority = w->priority;
  sim->begun++;
}

static void agent_come(struct agent *a, usec patience) {
  struct sim *sim = a->sim;
  agent_ask(a);
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
  a->let_go = true;
  engine_release(c);
  a->let_go = false;
  INSIST(!a->waiting); /* what it waited for has failed */
}

static void agent_run(struct agent *a, struct conn *c) {
  struct sim *sim = a->sim;
  static const char *const words[] = {"select", "select", "begin", "commit"};
  if ((c->streaming && chance(sim, 80)) || (c->dead && chance(sim, 30))) { /* dead: perhaps since its last batch */
    agent_wait(a);
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
    a->hit = true;
    running.cancelled += engine_cancel(a->conn);
  } else if (a->conn && chance(sim, a->waiting ? 3 : 25)) {
    struct conn *c = a->conn;
    if (chance(sim, 10)) engine_retire(c);
    bool retired = c->retire;
    int serial = c->db->serial;
    agent_release(a);
    if (retired) INSIST(!c->db || c->db->serial != serial || c->job == CONN_CLOSING);
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
    a->let_go = true;
    engine_setup_done(c, chance(sim, sim->badness) ? &error : NULL);
    a->let_go = false;
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
  if (chance(sim, 45))
    c->noise = true;
  else if (chance(sim, 10))
    scripted_mute(c, loop_now(sim->loop) + ONE_OF(sim, 2 * SECOND, 60 * SECOND, 3600 * SECOND));
  else
    running.killed++, scripted_kill(c, chance(sim, 30));
  if (chance(sim, 50)) agent_act(&sim->agents[draw(sim, AGENTS)]); /* before anybody has seen it */
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
  switch (draw(sim, 8)) {
    case 0: sim_configure(sim); return;
    case 1: engine_pause(sim->engine); return;
    case 2:
    case 3: engine_resume(sim->engine); return;
    case 4: engine_invalidate(sim->engine); return;
    case 5: sim_allow(sim, (int)ONE_OF(sim, 0, 1, 3, 5, INT_MAX, INT_MAX, INT_MAX, INT_MAX)); return;
    case 6:
      if (!sim->recording) engine_record(sim->engine, chance(sim, 50) ? (struct recorder *)&running : NULL);
      return;
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
  else if (what < 95)
    setup_act(&sim->setups[draw(sim, SLOTS)]);
  else if (what < 96)
    sim_order(sim);
  else if (what < 97)
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

/* What would never be answered is answered now; who fell silent is found dead. */
static void sim_unstick(struct sim *sim) {
  usec now = loop_now(sim->loop);
  LIST_EACH(node, &sim->db.conns) {
    struct db_conn *c = CONTAINER(node, struct db_conn, link);
    c->mute = 0;
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
  sim->options.pool.max_waiting_per_key = 0;
  sim->options.pool.queue = QUEUE_FIFO;
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
  sim->cutting = true;
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
  sim->db.candid = chance(sim, 50);
  sim->db.batch_rows = 1 + (int)draw(sim, 2);
  sim->options.driver = &scripted_driver;
  sim->options.events = (struct engine_events){.setup = sim_setup, .lost = sim_lost};
  sim->options.user = sim;
  sim->options.seed = seed;
  sim->ceiling = limit_of(sim);
  for (int i = 0; i < AGENTS; i++) sim->agents[i].sim = sim;
  for (int i = 0; i < SLOTS; i++) sim->setups[i].sim = sim;
  order_begin();
  sim->engine = engine_create(sim->loop, &sim->options, NULL);
  INSIST(sim->engine != NULL);
  sim->recording = chance(sim, 50);
  if (sim->recording) engine_record(sim->engine, (struct recorder *)&running);
}

static void run(uint64_t seed) {
  static const struct sim fresh;
  struct sim sim = fresh;
  running.seed = seed;
  running.sim = &sim;
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

static void run_seeds(const char *path) {
  unsigned long long seed;
  char line[200];
  FILE *file = fopen(path, "r");
  if (file == NULL) {
    perror(path);
    exit(2);
  }
  while (fgets(line, sizeof line, file) != NULL)
    if (sscanf(line, "%llu", &seed) == 1) run(seed);
  fclose(file);
}

static void run_all(const struct options *o) {
  uint64_t schedules = 0;
  for (uint64_t done = 0; done < o->steps; done += STEPS_EACH) run(o->from + schedules++);
  printf("%ld steps in %llu schedules: %ld leases, %ld queries, %ld failed calls, %ld left (%ld held), %ld cancelled, %ld opens, "
         "%ld kills, %ld set-ups, %ld recorded\n", running.steps, (unsigned long long)schedules, running.granted, running.queries,
         running.failed, running.left, running.held, running.cancelled, running.opened, running.killed, running.set_up,
         running.recorded);
}

int main(int argc, char **argv) {
  struct options o = {.usage = "engine_sim [--seeds FILE] [--steps N] [--from SEED], or engine_sim SEED",
                      .steps = STEPS_DEFAULT, .from = 1};
  setvbuf(stdout, NULL, _IONBF, 0);
  signal(SIGABRT, report);
  signal(SIGSEGV, report);
  if (argc == 2 && argv[1][0] != '-') {
    run(options_number(&o, argv[1]));
  } else {
    options_read(&o, argc, argv);
    if (o.seeds != NULL) run_seeds(o.seeds);
    run_all(&o);
  }
  printf("1 passed, 0 failed\n");
  return 0;
}
