/*
** engine_end_spec: set-ups, drains, cuts, and the end of an engine with everything under way.
*/
#include "engine_world.h"
#include "support/check.h"

static void world_begin_setup(struct world *w) {
  world_begin(w, 1);
  world_start(w);
  engine_setup_wanted(w->engine, true);
}

/* ---- set-ups ---- */

static void specify_setups(struct world *w) {
  struct caller a, b;
  TEST("a new connection is set up before it is lent, and may be used for it") {
    world_begin_setup(w);
    caller_query(&a, w, "select", SECOND);
    world_settle(w);
    struct conn *c = w->setting_up;
    CHECK(w->set_up == 1 && a.ended == 0 && c->lease != 0);
    caller_run(&b, c, "set");
    world_settle(w);
    CHECK(b.ended == 1 && b.error.kind == POOL_OK && a.ended == 0 && list_empty(engine_leases(w->engine)));
    engine_setup_done(c, NULL);
    world_settle(w);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK && w->set_up == 1 && world_whole(w));
    world_end(w);
  }
  TEST("a set-up that fails is a failed open, and the line hears of it when its time is over") {
    struct pool_error error;
    world_begin_setup(w);
    caller_query(&a, w, "select", 100 * MS);
    world_settle(w);
    error_set(&error, POOL_CONNECT, "no such schema");
    error.permanent = true;
    engine_setup_done(w->setting_up, &error);
    world_settle(w);
    CHECK(a.ended == 1 && a.error.kind == POOL_CONNECT && w->db.live == 0 && w->db.closes == 1);
    CHECK_TEXT(a.error.message, "no such schema");
    world_end(w);
  }
  TEST("a connection that dies in its set-up is a failed open with its own cause") {
    world_begin_setup(w);
    caller_query(&a, w, "select", 10 * SECOND);
    world_settle(w);
    struct conn *c = w->setting_up;
    scripted_kill(c->db, true);
    world_settle(w);
    caller_run(&b, c, "set");
    CHECK(b.ended == 1 && b.error.kind == POOL_LOST);
    engine_setup_done(c, NULL);
    CHECK(w->db.live == 0 && a.ended == 0);
    CHECK_TEXT(pool_failure(engine_pool(w->engine))->message, "the server hung up");
    engine_setup_wanted(w->engine, false);
    world_pass(w, SECOND);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK && world_whole(w));
    world_end(w);
  }
  TEST("a disconnect seen in a set-up makes the others suspect") {
    world_begin(w, 2);
    world_start(w);
    struct conn *idle = world_lease(w);
    engine_setup_wanted(w->engine, true);
    caller_lease(&a, w, SECOND);
    world_settle(w);
    engine_release(idle); /* a has it now */
    engine_release(a.call.conn);
    CHECK(w->db.pings == 0 && w->setting_up->job == CONN_SETUP);
    scripted_kill(w->setting_up->db, true);
    world_settle(w);
    CHECK_INT(w->db.pings, 1);
    engine_setup_done(w->setting_up, NULL);
    CHECK(w->db.live == 1 && world_whole(w));
    world_end(w);
  }
}

static void specify_setups_refused(struct world *w) {
  struct caller a, b;
  TEST("a set-up that leaves a transaction open is a failed open") {
    world_begin_setup(w);
    caller_query(&a, w, "select", 10 * SECOND);
    world_settle(w);
    caller_run(&b, w->setting_up, "begin");
    world_settle(w);
    engine_setup_done(w->setting_up, NULL);
    CHECK(w->db.live == 1 && pool_slot(engine_pool(w->engine), 0)->state == SLOT_OPENING); /* until the server has let go */
    world_settle(w);
    CHECK(w->db.live == 0 && a.ended == 0 && w->db.closes == 1);
    caller_leave(&a);
    world_end(w);
  }
  TEST("a connection that its set-up invalidates is never lent") {
    world_begin_setup(w);
    caller_query(&a, w, "select", 10 * SECOND);
    world_settle(w);
    engine_retire(w->setting_up);
    engine_setup_done(w->setting_up, NULL);
    world_settle(w);
    CHECK(w->db.live == 0 && a.ended == 0);
    caller_leave(&a);
    world_end(w);
  }
  TEST("a set-up that ends while its statement runs fails that statement, and the open") {
    world_begin_setup(w);
    caller_query(&a, w, "select", 10 * SECOND);
    world_settle(w);
    w->db.answers[OP_STATEMENT].after = NEVER;
    caller_run(&b, w->setting_up, "set");
    engine_setup_done(w->setting_up, NULL);
    CHECK(b.ended == 1 && b.error.kind == POOL_CANCELLED && w->db.cancels == 1);
    world_settle(w);
    CHECK(w->db.live == 0 && w->db.closes == 1);
    caller_leave(&b); /* harmless: it has ended */
    caller_leave(&a);
    world_end(w);
  }
  TEST("a statement left in a set-up is cancelled, and the set-up may go on") {
    world_begin_setup(w);
    caller_query(&a, w, "select", 10 * SECOND);
    world_settle(w);
    w->db.answers[OP_STATEMENT].after = NEVER;
    caller_run(&b, w->setting_up, "set");
    caller_leave(&b);
    w->db.answers[OP_STATEMENT].after = 0;
    world_settle(w);
    CHECK_INT(w->setting_up->job, CONN_SETUP);
    engine_setup_done(w->setting_up, NULL);
    world_settle(w);
    CHECK(b.ended == 0 && a.ended == 1 && a.error.kind == POOL_OK && world_whole(w));
    world_end(w);
  }
}

/* ---- drains and cuts ---- */

static void world_emptied(void *user) {
  struct world *w = user;
  w->emptied++;
}

static void specify_drains(struct world *w) {
  struct caller a, b;
  TEST("a drain closes what is idle, fails the line, waits for leases, and says when the pool is empty") {
    world_begin(w, 2);
    world_start(w);
    struct conn *c = world_lease(w), *d = world_lease(w);
    caller_lease(&a, w, SECOND);
    engine_release(d);
    CHECK_INT(a.ended, 1);
    caller_lease(&b, w, SECOND);
    engine_drain(w->engine);
    engine_when_empty(w->engine, world_emptied, w);
    CHECK(b.ended == 1 && b.error.kind == POOL_CLOSED);
    engine_release(c);
    world_settle(w);
    CHECK(w->db.live == 1 && w->emptied == 0);
    caller_run(&b, a.call.conn, "select");
    world_settle(w);
    CHECK(b.ended == 1 && b.error.kind == POOL_OK);
    engine_release(a.call.conn);
    world_settle(w);
    CHECK(w->db.live == 0 && w->emptied == 1 && w->db.closes == 2);
    caller_query(&a, w, "select", SECOND);
    CHECK(a.ended == 1 && a.error.kind == POOL_CLOSED);
    engine_when_empty(w->engine, world_emptied, w);
    CHECK_INT(w->emptied, 2); /* at once */
    world_end(w);
  }
  TEST("a watcher for the empty pool can be withdrawn") {
    world_begin(w, 1);
    world_start(w);
    struct conn *c = world_lease(w);
    engine_drain(w->engine);
    engine_when_empty(w->engine, world_emptied, w);
    engine_when_empty(w->engine, NULL, NULL);
    engine_release(c);
    world_settle(w);
    CHECK(w->db.live == 0 && w->emptied == 0);
    world_end(w);
  }
}

/* Six connections: one leased idle, one whose statement is being cancelled, one that stops with a call held, one that runs a query,
   one in a reset, one that opens. calls[1] has left, calls[3] failed: they are used again for the query and for the line. */
static void world_busy(struct world *w, struct caller calls[4]) {
  struct conn *c[4];
  struct stats s;
  world_begin(w, 6);
  world_start(w);
  for (int i = 0; i < 4; i++) c[i] = world_lease(w);
  w->db.answers[OP_STATEMENT].after = w->db.answers[OP_CANCEL].after = w->db.answers[OP_RESET].after = NEVER;
  caller_run(&calls[0], c[1], "select");
  engine_cancel(c[1]);
  caller_run(&calls[1], c[2], "select");
  caller_leave(&calls[1]);
  caller_run(&calls[2], c[2], "select");
  caller_run(&calls[3], c[3], "select");
  engine_release(c[3]);
  caller_query(&calls[1], w, "select", SECOND);
  world_pass(w, 60 * MS);
  w->db.answers[OP_OPEN].after = NEVER;
  caller_lease(&calls[3], w, SECOND);
  world_pass(w, 60 * MS);
  pool_stats(engine_pool(w->engine), &s);
  CHECK(s.leased == 4 && s.resetting == 1 && s.opening == 1 && s.waiting == 1);
}

static void specify_cuts(struct world *w) {
  struct caller calls[4], a, b;
  TEST("a cut ends everything: running calls fail with closed, and the pool is empty within a second") {
    world_busy(w, calls);
    engine_when_empty(w->engine, world_emptied, w);
    engine_cut(w->engine);
    for (int i = 0; i < 4; i++) CHECK(calls[i].ended == 1 && calls[i].error.kind == POOL_CLOSED);
    CHECK(list_empty(engine_leases(w->engine)));
    world_pass(w, SECOND);
    CHECK(w->db.live == 0 && w->emptied == 1);
    world_end(w);
  }
  TEST("a cut gives up an open that never answers, however long connect_timeout is") {
    world_begin(w, 1);
    w->options.db.connect_timeout = 0;
    w->db.answers[OP_OPEN].after = NEVER;
    world_start(w);
    caller_lease(&a, w, SECOND);
    engine_drain(w->engine);
    engine_when_empty(w->engine, world_emptied, w);
    CHECK(w->emptied == 0 && w->db.live == 1);
    engine_cut(w->engine);
    CHECK(w->emptied == 1 && w->db.live == 0);
    world_end(w);
  }
  TEST("a cut gives up a check that hangs") {
    world_begin(w, 1);
    w->options.pool.pre_ping = true;
    w->options.pool.pre_ping_timeout = 0;
    w->db.answers[OP_PING].after = w->db.answers[OP_CANCEL].after = NEVER;
    world_start(w);
    engine_release(world_lease(w));
    world_pass(w, 2 * SECOND);
    caller_lease(&a, w, SECOND);
    CHECK(w->db.pings == 1);
    engine_cut(w->engine);
    world_pass(w, SECOND);
    CHECK(a.ended == 1 && a.error.kind == POOL_CLOSED && w->db.live == 0);
    world_end(w);
  }
  TEST("a cut ends a set-up and fails its running statement with closed") {
    world_begin_setup(w);
    caller_query(&a, w, "select", 10 * SECOND);
    world_settle(w);
    w->db.answers[OP_STATEMENT].after = NEVER;
    caller_run(&b, w->setting_up, "set");
    engine_drain(w->engine);
    engine_cut(w->engine);
    CHECK(a.ended == 1 && a.error.kind == POOL_CLOSED && b.ended == 1 && b.error.kind == POOL_CLOSED);
    CHECK(w->cut == 1 && w->db.cancels == 1);
    world_settle(w);
    CHECK(w->db.live == 0 && w->db.closes == 1);
    caller_leave(&b);
    world_end(w);
  }
}

static void specify_destroying(struct world *w) {
  struct caller calls[4], a, b;
  TEST("destroying an engine with everything under way leaves nothing, and tells nobody") {
    world_busy(w, calls);
    int ends = w->ends;
    world_end(w);
    CHECK_INT(w->ends, ends);
    for (int i = 0; i < 4; i++) CHECK_INT(calls[i].call.state, CALL_OUT);
  }
  TEST("so does destroying one in the middle of a set-up and of a goodbye") {
    world_begin(w, 2);
    w->db.answers[OP_CLOSE].after = NEVER;
    world_start(w);
    struct conn *c = world_lease(w);
    engine_retire(c);
    engine_release(c);
    engine_setup_wanted(w->engine, true);
    caller_lease(&a, w, SECOND);
    world_settle(w);
    w->db.answers[OP_STATEMENT].after = NEVER;
    caller_run(&b, w->setting_up, "set");
    CHECK(w->set_up == 1 && w->db.live == 2);
    world_end(w);
    CHECK(a.ended == 0 && b.ended == 0);
  }
}

void engine_end_spec(void) {
  struct world w;
  specify_setups(&w);
  specify_setups_refused(&w);
  specify_drains(&w);
  specify_cuts(&w);
  specify_destroying(&w);
}
