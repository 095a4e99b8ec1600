/*
** task_world: the database of task_sim, what goes wrong with it, and what must hold after every turn of the loop.
**
** It stands in for loop_turn (--wrap): before a turn it decides what breaks, announces what has something to say, and lets time pass no
** further than to the next thing that happens; after it, it looks at everything.
*/
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "chance.h"
#include "engine_check.h"
#include "lua/ltask_internal.h"
#include "order.h"
#include "task_sim.h"

#define SECOND USEC_PER_SECOND
#define MS ((usec)1000)
#define HANG (60 * SECOND)     /* how long the network takes to find out that nobody is there */
#define DUE_SLACK ((usec)2000) /* seconds as floats, and rounded */
enum { STILL_MOST = 20000 };

void __real_loop_turn(struct loop *, usec until);
void __wrap_loop_turn(struct loop *, usec until);
enum pool_err __real_pool_configure(struct pool *, const struct settings *, usec now);
enum pool_err __wrap_pool_configure(struct pool *, const struct settings *, usec now);
const struct driver *__real_driver_for(const char *url, struct pool_error *);
const struct driver *__wrap_driver_for(const char *url, struct pool_error *);
ssize_t __wrap_getrandom(void *buffer, size_t size, unsigned flags);

static usec one_of(struct sim *sim, const usec *values, size_t count) { return dice_pick(&sim->dice, values, count); }
#define ONE_OF(sim, ...) one_of(sim, (const usec[]){__VA_ARGS__}, sizeof((const usec[]){__VA_ARGS__}) / sizeof(usec))
static bool chance(struct sim *sim, int percent) { return dice_chance(&sim->dice, percent); }

/* ---- what the database answers ---- */

static const char *const operation_names[OPERATIONS] = {"none", "open", "ping", "statement", "reset", "close", "cancel"};

static void answer_statement(struct sim *sim, struct answer *a) {
  static const char *const states[] = {"42601", "23505", "40001", "40P01"};
  a->ran = chance(sim, 50);
  if (sim->badness == 0 || !chance(sim, 15)) return;
  a->kind = chance(sim, 30) ? ANSWER_DIE : ANSWER_FAIL;
  a->sqlstate = states[dice_draw(&sim->dice, 4)];
}

/* Every so often something that takes for ever; statements, opens and pings until the network notices. */
static void answer_badly(struct sim *sim, enum operation op, struct answer *a) {
  a->kind = (enum answer_kind)dice_draw(&sim->dice, 4);
  if (op == OP_OPEN && a->kind == ANSWER_DIE && chance(sim, 60)) a->kind = ANSWER_FAIL;
  a->after = ONE_OF(sim, 0, 0, 0, 1 * MS, 5 * MS, 40 * MS, 700 * MS, 8 * SECOND);
  if (!chance(sim, 6)) return;
  a->after = HANG;
  if (op == OP_RESET || op == OP_CLOSE || op == OP_CANCEL) a->after = NEVER;
  else if (op != OP_OPEN) a->kind = ANSWER_DISCONNECT;
  if (op == OP_STATEMENT) a->kind = ANSWER_DIE;
}

/* A connection too many is one too many from its first instant. */
static void open_look(struct sim *sim) {
  if (!sim->pool) return;                    /* a life is over, and its pool still there */
  if (sim->db.opened == sim->opened) return; /* another address of an open that was seen */
  sim->opened = sim->db.opened;
  const struct settings *s = pool_settings(engine_pool(sim->pool->engine));
  INSIST(sim->db.live <= s->size + s->max_overflow);
}

static struct answer choose(void *user, enum operation op) {
  struct sim *sim = user;
  struct answer a = {ANSWER_OK, ONE_OF(sim, 0, 0, 1 * MS, 5 * MS, 40 * MS)};
  if (op == OP_OPEN) open_look(sim);
  if (op == OP_STATEMENT && !sim->calm) answer_statement(sim, &a);
  if (op == OP_OPEN && loop_now(sim->loop) < sim->down_until) a.kind = ANSWER_FAIL;
  if (!sim->calm && chance(sim, sim->badness)) answer_badly(sim, op, &a);
  sim_note(sim, "%s %d %lld", operation_names[op], a.kind, a.after == NEVER ? -1 : (long long)a.after);
  return a;
}

struct fate *world_fate(struct sim *sim, int64_t number) {
  if (number >= sim->room) {
    int64_t room = number * 2 + 1024;
    sim->fates = realloc(sim->fates, (size_t)room * sizeof *sim->fates);
    INSIST(sim->fates != NULL);
    memset(sim->fates + sim->room, 0, (size_t)(room - sim->room) * sizeof *sim->fates);
    sim->room = room;
  }
  return &sim->fates[number];
}

static void fate_note(void *user, enum scripted_note note, const struct db_conn *c, int64_t number) {
  static const char *const notes[] = {"sent", "answered", "failed", "committed"};
  struct sim *sim = user;
  sim_note(sim, "  conn %d %s: %s %lld", c->serial, note == NOTE_COMMITTED ? "" : c->sql, notes[note], (long long)number);
  INSIST(number <= sim->numbers);
  if (number == 0) return;
  struct fate *f = world_fate(sim, number);
  uint8_t *of = note == NOTE_SENT ? &f->sent : note == NOTE_ANSWERED ? &f->answered : note == NOTE_FAILED ? &f->failed : &f->committed;
  INSIST(++*of == 1); /* no statement is sent twice, nor answered, nor does it happen twice */
}

/* ---- what goes wrong with it ---- */

static void conn_perish(struct sim *sim, struct db_conn *c) {
  if (chance(sim, 15)) scripted_mute(c, loop_now(sim->loop) + HANG);
  else scripted_kill(c, chance(sim, 50));
  if (c->op == OP_OPEN) scripted_answer(c, ANSWER_FAIL);
}

static void server_restart(struct sim *sim) {
  usec away = ONE_OF(sim, 50 * MS, SECOND, 8 * SECOND);
  sim->down_until = loop_now(sim->loop) + away;
  sim->db.refuse_open = chance(sim, 20);
  sim_note(sim, "the server restarts for %lld", (long long)away);
  LIST_EACH(node, &sim->db.conns) conn_perish(sim, CONTAINER(node, struct db_conn, link));
}

/* What hangs comes to its end after all; who fell silent is found dead. */
static void conn_wake(struct sim *sim, struct db_conn *c) {
  usec now = loop_now(sim->loop);
  c->mute = 0;
  if (c->op != OP_NONE && c->due > now) c->due = now;
  if (c->cancelled_at > now) c->cancelled_at = now;
}

static void world_fault(struct sim *sim) {
  if (sim->calm || sim->db.live == 0 || sim->badness == 0 || !chance(sim, 5)) return;
  struct db_conn *c = scripted_conn(&sim->db, (int)dice_draw(&sim->dice, (uint64_t)sim->db.live));
  uint64_t what = dice_draw(&sim->dice, 10);
  sim_note(sim, "fault %d of %d", (int)what, c->serial);
  if (what < 3) {
    c->noise = c->op == OP_NONE;
  } else if (what < 6) {
    scripted_kill(c, chance(sim, 30));
  } else if (what < 7) {
    scripted_mute(c, loop_now(sim->loop) + HANG);
  } else if (what < 9) {
    conn_wake(sim, c);
  } else if (chance(sim, sim->badness)) {
    server_restart(sim);
  }
}

void world_calm(struct sim *sim) {
  sim_note(sim, "calm");
  sim->calm = true;
  sim->down_until = 0;
  LIST_EACH(node, &sim->db.conns) conn_wake(sim, CONTAINER(node, struct db_conn, link));
}

/* ---- what must hold ---- */

static bool task_lives(const struct runtime *r, const struct task *task) {
  if (task == r->self) return true;
  LIST_EACH(node, &r->all) {
    if (CONTAINER(node, struct task, all) == task) return true;
  }
  return false;
}

/* Somebody who lives has it, or somebody let go of it knowingly. */
static void check_owner(const struct sim *sim, const struct conn *c, int *detached) {
  struct lpool *p = sim->pool;
  const struct lease *l = lpool_lease(p, c);
  if (l && !l->task) {
    ++*detached;
  } else if (l) {
    INSIST(task_lives(p->runtime, l->task));
  } else {
    INSIST(c->call && c->call->kind == CALL_QUERY && c->call->state == CALL_RUNNING);
    INSIST(c->borrower && task_lives(p->runtime, c->borrower) && ((struct task *)c->borrower)->status == TASK_WAITING);
  }
}

static int limit_of(const struct settings *s) { return s->size + s->max_overflow; }

/* After a shrink what there was stays until it goes, and nothing more. */
static void check_limit(struct sim *sim, const struct pool *core) {
  int limit = limit_of(pool_settings(core));
  INSIST(sim->db.live <= sim->ceiling);
  if (sim->db.live < sim->ceiling) sim->ceiling = sim->db.live > limit ? sim->db.live : limit;
}

enum pool_err __wrap_pool_configure(struct pool *core, const struct settings *settings, usec now) {
  struct sim *sim = running.sim;
  enum pool_err err = __real_pool_configure(core, settings, now);
  int limit = limit_of(pool_settings(core));
  sim->ceiling = sim->db.live > limit ? sim->db.live : limit;
  return err;
}

static void check_pool(struct sim *sim) {
  struct lpool *p = sim->pool;
  const struct pool *core = engine_pool(p->engine);
  struct stats s;
  int detached = 0;
  pool_assert(core);
  order_check(core);
  pool_stats(core, &s);
  INSIST(s.total == sim->db.live);
  check_limit(sim, core);
  for (int i = 0; i < SIM_SLOTS; i++) {
    const struct conn *c = pool_slot(core, i)->user;
    engine_check_conn(c);
    if (c->db) c->db->given_up = c->dead;
  }
  LIST_EACH(node, engine_leases(p->engine)) check_owner(sim, CONTAINER(node, struct conn, leased), &detached);
  INSIST(detached <= sim->detached);
}

static void check_dues(struct sim *sim) {
  usec now = loop_now(sim->loop);
  for (int i = 0; i < DUES; i++) {
    if (sim->dues[i].by < now - DUE_SLACK)
      sim_fail(sim, "%s is not over %lld us after it had to be", sim->dues[i].what, (long long)(now - sim->dues[i].by));
  }
}

static void world_check(struct sim *sim) {
  if (sim->pool && sim->pool->engine) check_pool(sim);
  check_dues(sim);
}

/* What the connections are doing, on standard error. */
static void world_tell(const struct sim *sim) {
  for (int i = 0; sim->pool && sim->pool->engine && i < SIM_SLOTS; i++) {
    const struct conn *c = pool_slot(engine_pool(sim->pool->engine), i)->user;
    const struct db_conn *d = c->db;
    if (!d) continue;
    fprintf(stderr, "conn %d: job %d, dead %d, moving %d, streaming %d, watches %d for %d; fd %d, op %d, due %lld, killed %d, resting %d, "
            "cancelled %lld\n", d->serial, c->job, c->dead, c->moving, c->streaming, c->watch.fd, c->watch.events, d->fd, d->op,
            (long long)d->due, d->killed, d->resting, (long long)d->cancelled_at);
  }
}

/* ---- turns ---- */

void __wrap_loop_turn(struct loop *loop, usec until) {
  struct sim *sim = running.sim;
  INSIST(loop == sim->loop);
  usec now = loop_now(loop);
  sim->turns++;
  world_fault(sim);
  if (now >= sim->down_until) sim->db.refuse_open = false;
  usec next = scripted_next(&sim->db);
  if (scripted_announce(&sim->db)) until = now;
  if (next < until) until = next > now ? next : now;
  if (until == NEVER && loop_virtual_idle(loop)) sim_fail(sim, "everybody waits, and nothing is going to happen");
  __real_loop_turn(loop, until);
  sim->still = loop_now(loop) > now ? 0 : sim->still + 1;
  if (sim->still > STILL_MOST) {
    world_tell(sim);
    sim_fail(sim, "the loop turns and time stands still");
  }
  world_check(sim);
}

const struct driver *__wrap_driver_for(const char *url, struct pool_error *error) {
  return strncmp(url, "scripted:", 9) == 0 ? &scripted_driver : __real_driver_for(url, error);
}

/* Seeds of what pool draws by itself. */
ssize_t __wrap_getrandom(void *buffer, size_t size, unsigned flags) {
  unsigned char *bytes = buffer;
  (void)flags;
  for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)dice_draw(&running.sim->dice, 256);
  return (ssize_t)size;
}

/* ---- beginning and end ---- */

void world_begin(struct sim *sim) {
  scripted_init(&sim->db, sim->loop);
  sim->db.choose = choose;
  sim->db.note = fate_note;
  sim->db.user = sim;
  sim->badness = (int)ONE_OF(sim, 0, 3, 8, 20, 40);
  sim->db.addresses = 1 + (int)dice_draw(&sim->dice, 3);
  sim->db.batches = 1 + (int)dice_draw(&sim->dice, 4);
  sim->db.batch_rows = 1 + (int)dice_draw(&sim->dice, 3);
  sim->db.deaf = chance(sim, 30);
  sim->db.candid = chance(sim, 50);
  sim->db.prompt = chance(sim, 30);
  sim->db.write_first = chance(sim, 30);
  for (int i = 0; i < DUES; i++) sim->dues[i].by = NEVER;
  order_begin();
}

void world_watch(struct sim *sim, struct lpool *pool) {
  sim->pool = pool;
  if (pool) sim->ceiling = limit_of(pool_settings(engine_pool(pool->engine)));
}

void world_end(struct sim *sim) {
  INSIST(sim->db.live == 0 && sim->db.results == 0);
  free(sim->fates);
  sim->fates = NULL;
}
