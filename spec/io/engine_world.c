/*
** engine_world: see the header. What it checks by itself: that no readable connection goes unread (world_settle), and that the core holds
** its promises after every turn.
*/
#include "engine_world.h"

#include <stdlib.h>
#include <string.h>

#include "support/check.h"

enum { ROUNDS_MOST = 10000 };

/* ---- the engine's events ---- */

static void world_closed(void *user, struct conn *c, const char *reason) {
  struct world *w = user;
  (void)c;
  w->closed++;
  text_copy(w->reason, sizeof w->reason, reason);
}

static void world_cut(void *user, struct conn *c) {
  struct world *w = user;
  (void)c;
  w->cut++;
}

static void world_setup(void *user, struct conn *c) {
  struct world *w = user;
  w->set_up++;
  w->setting_up = c;
}

/* ---- the world ---- */

void world_begin(struct world *w, int size) {
  memset(w, 0, sizeof *w);
  w->loop = loop_virtual_create(1 * SECOND);
  scripted_init(&w->db, w->loop);
  scripted_url(&w->db, w->url, sizeof w->url);
  settings_defaults(&pool_settings_table, &w->options.pool);
  settings_defaults(&db_settings_table, &w->options.db);
  w->options.pool.size = size;
  w->options.pool.max_overflow = 0;
  w->options.pool.size_limit = size + 8;
  w->options.pool.recycle = 0;
  w->options.pool.pre_ping = false;
  w->options.pool.shrink_after = 0;
  text_copy(w->options.db.database_url, sizeof w->options.db.database_url, w->url);
  w->options.driver = &scripted_driver;
  w->options.events = (struct engine_events){.setup = world_setup, .closed = world_closed, .lost = world_cut};
  w->options.user = w;
  w->options.seed = 7;
}

void world_start(struct world *w) {
  struct pool_error error;
  w->engine = engine_create(w->loop, &w->options, &error);
  CHECK(w->engine != NULL);
}

void world_end(struct world *w) {
  engine_destroy(w->engine);
  CHECK_INT(w->db.live, 0);
  CHECK_INT(w->db.results, 0);
  CHECK(loop_virtual_idle(w->loop));
  loop_destroy(w->loop);
}

static void world_turn(struct world *w, usec until) {
  loop_turn(w->loop, until);
  if (w->engine) pool_assert(engine_pool(w->engine));
}

void world_settle(struct world *w) {
  int rounds = 0;
  while (scripted_announce(&w->db) && rounds < ROUNDS_MOST) {
    world_turn(w, loop_now(w->loop));
    rounds++;
  }
  CHECK(rounds < ROUNDS_MOST); /* something is readable and nobody reads it */
  world_turn(w, loop_now(w->loop));
}

void world_pass(struct world *w, usec pause) {
  usec until = loop_now(w->loop) + pause;
  for (world_settle(w); loop_now(w->loop) < until; world_settle(w)) {
    usec next = scripted_next(&w->db);
    world_turn(w, next < until ? next : until);
  }
}

static bool conn_listens(const struct conn *c) {
  return c->job == CONN_EMPTY || (c->job == CONN_IDLE && c->watch.events == LOOP_READ && !c->timer.running && !c->moving && !c->call);
}

bool world_whole(struct world *w) {
  struct stats s;
  pool_stats(engine_pool(w->engine), &s);
  bool whole = s.leased == 0 && s.waiting == 0 && s.total == s.idle && s.total == w->db.live;
  for (int i = 0; i < w->options.pool.size_limit; i++) whole = whole && conn_listens(pool_slot(engine_pool(w->engine), i)->user);
  return whole && list_empty(engine_leases(w->engine));
}

/* ---- callers ---- */

static void caller_done(struct call *call) {
  struct caller *a = CONTAINER(call, struct caller, call);
  struct world *w = a->world;
  a->ended++;
  a->order = ++w->ends;
  a->error.kind = POOL_OK;
  if (call->conn && call->kind == CALL_QUERY) a->place = call->conn->slot->state;
  if (call->error) a->error = *call->error;
  engine_free_error(call->error);
  if (call->result) scripted_driver.free_result(call->result);
  call->error = NULL;
  call->result = NULL;
}

void caller_init(struct caller *a, struct world *w, const char *sql) {
  memset(a, 0, sizeof *a);
  a->world = w;
  a->call.done = caller_done;
  a->call.statement = (struct statement){.sql = sql, .len = strlen(sql)};
}

void caller_lease(struct caller *a, struct world *w, usec patience) {
  caller_init(a, w, "");
  engine_lease(w->engine, &a->call, loop_now(w->loop) + patience);
}

void caller_query(struct caller *a, struct world *w, const char *sql, usec patience) {
  caller_init(a, w, sql);
  engine_query(w->engine, &a->call, loop_now(w->loop) + patience);
}

void caller_run(struct caller *a, struct conn *c, const char *sql) {
  caller_init(a, engine_user(c->engine), sql);
  engine_run(c, &a->call);
}

void caller_stream(struct caller *a, struct conn *c) {
  caller_init(a, engine_user(c->engine), "select");
  a->call.statement.stream = true;
  engine_run(c, &a->call);
}

void caller_fetch(struct caller *a, struct conn *c) {
  caller_init(a, engine_user(c->engine), "");
  engine_fetch(c, &a->call);
}

void caller_leave(struct caller *a) { engine_leave(a->world->engine, &a->call); }

struct conn *world_lease(struct world *w) {
  struct caller a;
  caller_lease(&a, w, 30 * SECOND);
  world_settle(w);
  CHECK(a.ended == 1 && a.error.kind == POOL_OK);
  return a.call.conn;
}

struct db_conn *world_db(const struct conn *c) { return c->db; }
