/*
** engine_memory_test: the engine when memory ends. What it is asked for in these trials is the whole of engine.h, on the scripted database
** and in virtual time; every allocation of ours on the way fails in turn. Then, with memory back: each call has ended once, in its
** answer or in an error that says so; a query works; every connection is at rest; nothing is left allocated.
**
** The scripted driver stands for one that takes memory for each connection and each statement, and says so when there is none.
** rooms_memory_test.c has what else there is in this room and those below.
*/
#include <stdlib.h>
#include <unistd.h>

#include "engine_world.h"
#include "support/scarce.h"

#define CALLERS 6
#define LIMIT 2

/* ---- a driver that takes memory ---- */

static bool memory_there(void) {
  void *block = malloc(64);
  free(block);
  return block != NULL;
}

static struct db_conn *memory_open(struct db *db, struct pool_error *error) {
  if (!memory_there()) return error_set(error, POOL_CONNECT, "out of memory"), NULL;
  scarce_spare();
  struct db_conn *c = scripted_driver.open(db, error);
  scarce_mind();
  return c;
}

static bool memory_send(struct db_conn *c, const struct statement *s, struct pool_error *error) {
  if (!memory_there() && scripted_driver.status(c) != DB_DEAD) return error_set(error, POOL_QUERY, "out of memory"), false;
  return scripted_driver.send(c, s, error);
}

static enum db_want memory_step(struct db_conn *c, struct pool_error *error) {
  scarce_spare();
  enum db_want want = scripted_driver.step(c, error);
  scarce_mind();
  return want;
}

/* ---- a trial ---- */

#define MAY(kind) (1u << (kind))

struct trial {
  const char *name;
  void (*prepare)(struct world *); /* options and answers, before the engine is made; NULL */
  void (*act)(struct world *, struct caller *); /* while memory is short; callers[CALLERS], zeroed */
  unsigned may;                    /* MAY(kind): what a call may end in although memory was there */
};

static void turn(struct world *w, usec until) {
  scarce_spare(); /* loop_virtual_ready is a script's, not the loop's */
  scripted_announce(&w->db);
  scarce_mind();
  loop_turn(w->loop, until);
  pool_assert(engine_pool(w->engine));
}

/* As world_pass, where memory may be short. */
static void pass(struct world *w, usec pause) {
  usec until = loop_now(w->loop) + pause;
  for (int i = 0; i < 20; i++) turn(w, loop_now(w->loop));
  while (loop_now(w->loop) < until) {
    usec next = scripted_next(&w->db);
    turn(w, next < until ? next : until);
    for (int i = 0; i < 20; i++) turn(w, loop_now(w->loop));
  }
}

static struct conn *lease(struct world *w) {
  struct caller a;
  caller_lease(&a, w, 30 * SECOND);
  pass(w, 0);
  if (!a.ended) caller_leave(&a);
  return a.ended && a.error.kind == POOL_OK ? a.call.conn : NULL;
}

static bool tells_of_memory(const struct pool_error *e) { return strstr(e->message, "memory") != NULL; }

/* Each call that was begun has ended once, and in nothing that it could not have ended in. */
static void check_callers(const struct trial *t, struct caller *callers) {
  for (int i = 0; i < CALLERS; i++) {
    const struct caller *a = &callers[i];
    if (a->world == NULL || a->call.state != CALL_OUT) CHECK(a->world == NULL);
    if (a->world == NULL) continue;
    bool fair = a->error.kind == POOL_OK || (MAY(a->error.kind) & t->may) || (scarce_failed() && tells_of_memory(&a->error));
    CHECK(a->ended <= 1);
    if (!CHECK(fair)) printf("  %s: %s\n", pool_err_name(a->error.kind), a->error.message);
  }
}

/* With memory back: the pool works and comes to rest, but for one that was told to end. */
static void check_world(struct world *w) {
  struct stats s;
  struct caller a;
  while (!list_empty(engine_leases(w->engine))) engine_release(CONTAINER(engine_leases(w->engine)->next, struct conn, leased));
  engine_setup_wanted(w->engine, false);
  w->db.refuse_send = w->db.refuse_open = false;
  memset(w->db.answers, 0, sizeof w->db.answers);
  pass(w, 60 * SECOND);
  pool_stats(engine_pool(w->engine), &s);
  caller_query(&a, w, "select", 30 * SECOND);
  pass(w, SECOND);
  CHECK_INT(a.ended, 1);
  CHECK(a.error.kind == (s.draining ? POOL_CLOSED : POOL_OK));
  CHECK(w->db.most <= LIMIT);
  CHECK(s.draining ? s.total == 0 : world_whole(w));
}

static void try(void *user) {
  const struct trial *t = user;
  struct caller callers[CALLERS];
  struct world w;
  struct driver driver = scripted_driver;
  memset(callers, 0, sizeof callers);
  driver.open = memory_open;
  driver.send = memory_send;
  driver.step = memory_step;
  world_begin(&w, LIMIT);
  w.options.driver = &driver;
  if (t->prepare) t->prepare(&w);
  world_start(&w);
  scarce_on();
  t->act(&w, callers);
  scarce_off();
  pass(&w, 60 * SECOND);
  check_callers(t, callers);
  check_world(&w);
  world_end(&w);
}

/* ---- what is tried: statements ---- */

static void act_queries(struct world *w, struct caller *a) {
  for (int i = 0; i < CALLERS; i++) caller_query(&a[i], w, i == 2 ? "begin" : "select", 20 * SECOND);
  pass(w, 200 * MS);
}

static void act_query(struct world *w, struct caller *a) {
  caller_query(&a[0], w, "select", 20 * SECOND);
  pass(w, 200 * MS);
}

static void answer_fail(struct world *w) { w->db.answers[OP_STATEMENT].kind = ANSWER_FAIL; }
static void answer_die(struct world *w) { w->db.answers[OP_STATEMENT].kind = ANSWER_DIE; }
static void answer_standby(struct world *w) { w->db.answers[OP_STATEMENT].kind = ANSWER_DISCONNECT; }
static void answer_never(struct world *w) { w->db.answers[OP_STATEMENT].after = NEVER; }
static void refuse_send(struct world *w) { w->db.refuse_send = true; }
static void open_dies(struct world *w) { w->db.answers[OP_OPEN].kind = ANSWER_DIE; }
static void open_fails(struct world *w) { w->db.answers[OP_OPEN].kind = ANSWER_FAIL; }

static void open_never(struct world *w) {
  w->db.answers[OP_OPEN].after = NEVER;
  w->options.db.connect_timeout = 100 * MS;
}

static void time_out(struct world *w) {
  answer_never(w);
  w->options.db.statement_timeout = 50 * MS;
}

static void act_lease(struct world *w, struct caller *a) {
  struct conn *c = lease(w);
  if (!c) return;
  caller_run(&a[0], c, "begin");
  pass(w, 0);
  caller_stream(&a[1], c);
  pass(w, 0);
  if (c->streaming) caller_fetch(&a[2], c), pass(w, 0);
  engine_stop_stream(c);
  pass(w, 0);
  caller_run(&a[3], c, "commit");
  pass(w, 0);
  engine_release(c);
  pass(w, 200 * MS);
}

static void act_dead_lease(struct world *w, struct caller *a) {
  struct conn *c = lease(w);
  if (!c) return;
  scripted_kill(c->db, true);
  pass(w, 0);
  caller_run(&a[0], c, "select");
  pass(w, 0);
  if (!engine_busy(c)) caller_run(&a[1], c, "select");
  pass(w, 0);
  engine_release(c);
}

static void act_cancel(struct world *w, struct caller *a) {
  struct conn *c = lease(w);
  if (!c) return;
  caller_run(&a[0], c, "select");
  pass(w, 0);
  engine_cancel(c);
  pass(w, 10 * SECOND);
  if (!engine_busy(c)) caller_run(&a[1], c, "select");
  pass(w, 0);
  caller_leave(&a[1]);
  if (!engine_busy(c)) caller_run(&a[2], c, "select"); /* held until the cancel is over */
  engine_retire(c);
  engine_release(c);
}

static void cancel_never_ends(struct world *w) {
  answer_never(w);
  w->db.answers[OP_CANCEL].after = NEVER;
}

static void act_leave(struct world *w, struct caller *a) {
  caller_query(&a[0], w, "select", 20 * SECOND);
  caller_query(&a[1], w, "select", 20 * SECOND);
  caller_query(&a[2], w, "select", 20 * SECOND);
  caller_leave(&a[1]);
  pass(w, 10 * MS);
  caller_leave(&a[0]);
  pass(w, 10 * MS);
  caller_leave(&a[2]);
  pass(w, 10 * MS);
}

static void act_line(struct world *w, struct caller *a) {
  struct conn *c = lease(w), *d = lease(w);
  for (int i = 0; i < 4; i++) caller_query(&a[i], w, "select", (i + 1) * 10 * MS);
  pass(w, 100 * MS);
  if (c) engine_release(c);
  if (d) engine_release(d);
}

static void crowded(struct world *w) { w->options.pool.max_waiting = 2; }

/* ---- what is tried: set-ups, changes, ends ---- */

static void act_setup(struct world *w, struct caller *a, const struct pool_error *error, bool kill) {
  engine_setup_wanted(w->engine, true);
  caller_query(&a[0], w, "select", 20 * SECOND);
  for (int i = 0; i < 3 && w->set_up == 0; i++) pass(w, 500 * MS);
  engine_setup_wanted(w->engine, false);
  if (w->set_up == 0) return;
  struct conn *c = w->setting_up;
  caller_run(&a[1], c, "set");
  pass(w, 0);
  if (kill) scripted_kill(c->db, true), pass(w, 0);
  engine_setup_done(c, error);
  pass(w, 10 * MS);
}

static void act_setup_fine(struct world *w, struct caller *a) { act_setup(w, a, NULL, false); }
static void act_setup_dies(struct world *w, struct caller *a) { act_setup(w, a, NULL, true); }

static void act_setup_refuses(struct world *w, struct caller *a) {
  static struct pool_error error;
  error_set(&error, POOL_CONNECT, "no such schema");
  act_setup(w, a, &error, false);
}

static void act_changes(struct world *w, struct caller *a) {
  struct settings pool = w->options.pool;
  struct db_settings db = w->options.db;
  struct pool_error error;
  caller_query(&a[0], w, "select", 20 * SECOND);
  pass(w, 0);
  pool.size = 1;
  db.reset = RESET_DISCARD;
  CHECK(engine_configure(w->engine, &pool, &db, &error) == POOL_OK);
  pool.size = LIMIT;
  CHECK(engine_configure(w->engine, &pool, &db, &error) == POOL_OK);
  pool.size_limit++;
  CHECK(engine_configure(w->engine, &pool, &db, &error) == POOL_SETTINGS);
  engine_invalidate(w->engine);
  engine_pause(w->engine);
  caller_query(&a[1], w, "select", 20 * SECOND);
  pass(w, 10 * MS);
  engine_allow(w->engine, 1);
  engine_resume(w->engine);
  engine_allow(w->engine, LIMIT);
  pass(w, 10 * MS);
}

static void told_empty(void *user) { ((struct world *)user)->emptied++; }

static void act_drain(struct world *w, struct caller *a) {
  struct conn *c = lease(w);
  caller_query(&a[0], w, "select", 20 * SECOND);
  engine_drain(w->engine);
  caller_query(&a[1], w, "select", 20 * SECOND);
  engine_when_empty(w->engine, told_empty, w);
  pass(w, 10 * MS);
  if (c) engine_release(c);
  pass(w, 2 * SECOND);
  CHECK_INT(w->emptied, 1);
}

static void act_cut(struct world *w, struct caller *a) {
  struct conn *c = lease(w);
  if (c) caller_run(&a[0], c, "select");
  caller_query(&a[1], w, "select", 20 * SECOND);
  caller_query(&a[2], w, "select", 20 * SECOND);
  pass(w, 0);
  engine_cut(w->engine);
  engine_when_empty(w->engine, told_empty, w);
  pass(w, 2 * SECOND);
  CHECK_INT(w->emptied, 1);
}

static void act_record(struct world *w, struct caller *a) {
  struct pool_error error = {0};
  struct recorder *r = recorder_open("/tmp/engine_memory_test.recording", RECORDER_LEAST, "", loop_now(w->loop), &error);
  engine_record(w->engine, r);
  act_lease(w, a);
  act_line(w, a);
  engine_record(w->engine, NULL);
  if (r) CHECK(recorder_flush(r, &error) == POOL_OK);
  else CHECK(scarce_failed() && error.kind == POOL_SETTINGS && tells_of_memory(&error));
  recorder_close(r);
  unlink("/tmp/engine_memory_test.recording");
}

/* ---- sweeps ---- */

static void sweep_statements(void) {
  static const struct trial trials[] = {
    {"queries", NULL, act_queries, 0},
    {"a query that fails", answer_fail, act_query, MAY(POOL_QUERY)},
    {"a query whose connection dies", answer_die, act_query, MAY(POOL_LOST)},
    {"a query on a server that became a standby", answer_standby, act_query, MAY(POOL_QUERY)},
    {"a query that runs into statement_timeout", time_out, act_query, MAY(POOL_DEADLINE)},
    {"a statement that the driver refuses", refuse_send, act_lease, MAY(POOL_QUERY)},
    {"statements and a stream on a lease", NULL, act_lease, 0},
    {"a lease whose connection dies", NULL, act_dead_lease, MAY(POOL_LOST)},
    {"a cancel", answer_never, act_cancel, MAY(POOL_CANCELLED)},
    {"a cancel that does not end", cancel_never_ends, act_cancel, MAY(POOL_LOST) | MAY(POOL_CANCELLED)},
  };
  for (size_t i = 0; i < sizeof trials / sizeof trials[0]; i++) scarce_sweep(trials[i].name, try, (void *)(uintptr_t)&trials[i]);
}

static void sweep_pool(void) {
  static const struct trial trials[] = {
    {"callers that leave", answer_never, act_leave, 0},
    {"a line that is too long for some", NULL, act_line, MAY(POOL_TIMEOUT)},
    {"a line that is full", crowded, act_line, MAY(POOL_TIMEOUT) | MAY(POOL_OVERLOADED)},
    {"an open that is refused for good", open_dies, act_query, MAY(POOL_CONNECT)},
    {"an open that fails", open_fails, act_query, MAY(POOL_CONNECT)},
    {"an open that is never answered", open_never, act_query, MAY(POOL_CONNECT)},
    {"a set-up", NULL, act_setup_fine, 0},
    {"a set-up whose connection dies", NULL, act_setup_dies, MAY(POOL_LOST)},
    {"a set-up that fails", NULL, act_setup_refuses, MAY(POOL_CONNECT)},
    {"settings that change", NULL, act_changes, 0},
    {"the end", answer_never, act_drain, MAY(POOL_CLOSED)},
    {"the end at once", answer_never, act_cut, MAY(POOL_CLOSED)},
    {"a recording", NULL, act_record, MAY(POOL_TIMEOUT)},
  };
  for (size_t i = 0; i < sizeof trials / sizeof trials[0]; i++) scarce_sweep(trials[i].name, try, (void *)(uintptr_t)&trials[i]);
}

static void create(void *user) {
  struct world w;
  struct pool_error error = {0};
  (void)user;
  world_begin(&w, LIMIT);
  scarce_on();
  w.engine = engine_create(w.loop, &w.options, &error);
  scarce_off();
  CHECK((w.engine == NULL) == scarce_failed());
  if (!w.engine) CHECK(error.kind == POOL_SETTINGS && tells_of_memory(&error));
  if (!w.engine) world_start(&w);
  world_end(&w);
}

int main(void) {
  TEST("statements end in an answer or an error, whichever allocation fails, and the pool is whole afterwards") sweep_statements();
  TEST("so do lines, opens, set-ups, changes and ends") sweep_pool();
  TEST("an engine that cannot be made says so and leaves nothing") scarce_sweep("an engine", create, NULL);
  return check_done();
}
