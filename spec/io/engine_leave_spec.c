/*
** engine_leave_spec: callers that leave, statements that are cancelled or run out of time, resets, and the quarantine: no
** connection is lent while its cancelled statement, or the cancel itself, is under way (the driver insists on that too).
*/
#include "engine_world.h"
#include "support/check.h"

/* A query's answer never comes unless it is cancelled; the cancel takes `after`. */
static void world_begin_stuck(struct world *w, int size, usec after) {
  world_begin(w, size);
  w->db.answers[OP_STATEMENT].after = NEVER;
  w->db.answers[OP_CANCEL].after = after;
}

static void specify_leaving(struct world *w) {
  struct caller a, b;
  TEST("one who leaves the line is never told, and costs nobody a connection") {
    world_begin(w, 1);
    world_start(w);
    struct conn *c = world_lease(w);
    caller_query(&a, w, "select", SECOND);
    caller_query(&b, w, "select", SECOND);
    caller_leave(&a);
    caller_leave(&a);
    engine_release(c);
    world_settle(w);
    CHECK(a.ended == 0 && b.ended == 1 && world_whole(w));
    world_end(w);
  }
  TEST("leaving a call that has ended does nothing") {
    world_begin(w, 1);
    world_start(w);
    caller_lease(&a, w, SECOND);
    world_settle(w);
    caller_leave(&a);
    CHECK_INT(a.call.conn->slot->state, SLOT_LEASED);
    engine_release(a.call.conn);
    CHECK(world_whole(w));
    world_end(w);
  }
  TEST("a query that is left is cancelled, and its connection lent only after the cancel has come to its end") {
    world_begin_stuck(w, 1, 200 * MS);
    world_start(w);
    caller_query(&a, w, "select", SECOND);
    world_settle(w);
    caller_leave(&a);
    w->db.answers[OP_STATEMENT].after = 0;
    caller_query(&b, w, "select", SECOND);
    world_pass(w, 199 * MS);
    CHECK(a.ended == 0 && b.ended == 0 && w->db.cancels == 1 && w->db.sends == 1);
    world_pass(w, 1 * MS);
    CHECK(b.ended == 1 && b.error.kind == POOL_OK && w->db.opened == 1 && world_whole(w));
    world_end(w);
  }
}

static void specify_leaving_leases(struct world *w) {
  struct caller a, b;
  TEST("a statement that is left on a lease is cancelled, and the next one held until it is over") {
    world_begin_stuck(w, 1, 200 * MS);
    world_start(w);
    struct conn *c = world_lease(w);
    caller_run(&a, c, "select");
    CHECK(engine_busy(c));
    caller_leave(&a);
    CHECK(!engine_busy(c));
    w->db.answers[OP_STATEMENT].after = 0;
    caller_run(&b, c, "select");
    CHECK(engine_busy(c));
    world_pass(w, 199 * MS);
    CHECK(b.ended == 0 && b.call.state == CALL_HELD && w->db.sends == 1);
    world_pass(w, 1 * MS);
    CHECK(a.ended == 0 && b.ended == 1 && b.error.kind == POOL_OK && w->db.cancels == 1);
    CHECK_INT(c->watch.events, LOOP_READ);
    engine_release(c);
    CHECK(world_whole(w) && w->db.resets == 0);
    world_end(w);
  }
  TEST("a held statement can be left too") {
    world_begin_stuck(w, 1, 200 * MS);
    world_start(w);
    struct conn *c = world_lease(w);
    caller_run(&a, c, "select");
    caller_leave(&a);
    caller_run(&b, c, "select");
    caller_leave(&b);
    CHECK(!engine_busy(c));
    world_pass(w, 200 * MS);
    CHECK(a.ended == 0 && b.ended == 0 && w->db.sends == 1 && c->job == CONN_LEASED && c->watch.events == LOOP_READ);
    engine_release(c);
    CHECK(world_whole(w));
    world_end(w);
  }
}

static void specify_releasing(struct world *w) {
  struct caller a, b;
  TEST("a connection released while its left statement stops is reset, and lent no sooner") {
    world_begin_stuck(w, 1, 200 * MS);
    world_start(w);
    struct conn *c = world_lease(w);
    caller_run(&a, c, "select");
    caller_leave(&a);
    engine_release(c);
    w->db.answers[OP_STATEMENT].after = 0;
    caller_query(&b, w, "select", SECOND);
    world_pass(w, 199 * MS);
    CHECK_INT(b.ended, 0);
    world_pass(w, 1 * MS);
    CHECK(b.ended == 1 && b.error.kind == POOL_OK && w->db.resets == 1 && w->db.cancels == 1 && world_whole(w));
    world_end(w);
  }
  TEST("releasing a connection whose statement runs fails that with cancelled") {
    world_begin_stuck(w, 1, 10 * MS);
    world_start(w);
    struct conn *c = world_lease(w);
    caller_run(&a, c, "select");
    engine_release(c);
    CHECK(a.ended == 1 && a.error.kind == POOL_CANCELLED);
    world_pass(w, 10 * MS);
    CHECK(world_whole(w) && w->db.live == 1);
    world_end(w);
  }
  TEST("releasing a connection fails what is held on it") {
    world_begin_stuck(w, 1, 10 * MS);
    world_start(w);
    struct conn *c = world_lease(w);
    caller_run(&a, c, "select");
    caller_leave(&a);
    caller_run(&b, c, "select");
    engine_release(c);
    CHECK(a.ended == 0 && b.ended == 1 && b.error.kind == POOL_CANCELLED);
    world_pass(w, 10 * MS);
    CHECK(world_whole(w));
    world_end(w);
  }
}

static void specify_leaving_streams(struct world *w) {
  struct caller a, b;
  TEST("a batch that is left stops its stream, and the connection can be used at once") {
    world_begin(w, 1);
    world_start(w);
    struct conn *c = world_lease(w);
    caller_stream(&a, c);
    world_settle(w);
    scripted_conn(&w->db, 0)->due = NEVER;
    w->db.answers[OP_CANCEL].after = 100 * MS;
    caller_fetch(&a, c);
    caller_leave(&a);
    CHECK(!c->streaming && !engine_busy(c));
    caller_run(&b, c, "select");
    world_pass(w, 100 * MS);
    CHECK(a.ended == 0 && b.ended == 1 && b.error.kind == POOL_OK && w->db.cancels == 1 && w->db.results == 0);
    engine_release(c);
    CHECK(world_whole(w));
    world_end(w);
  }
  TEST("a stream that is not wanted any more is stopped between its batches, and the rest thrown away") {
    world_begin(w, 1);
    w->db.batches = 2000;
    w->db.prompt = true;
    world_start(w);
    struct conn *c = world_lease(w);
    caller_stream(&a, c);
    world_settle(w);
    w->db.answers[OP_CANCEL] = (struct answer){ANSWER_FAIL, 100 * MS}; /* it hits nothing: the stream ends well */
    engine_stop_stream(c);
    engine_stop_stream(c);
    CHECK(!c->streaming);
    caller_run(&b, c, "select");
    world_pass(w, 99 * MS);
    CHECK_INT(b.ended, 0);
    world_pass(w, 1 * MS);
    CHECK(b.ended == 1 && b.error.kind == POOL_OK && w->db.cancels == 1 && w->db.results == 0);
    engine_release(c);
    CHECK(world_whole(w));
    world_end(w);
  }
}

static void timer_nothing(struct timer *t) { (void)t; }

/* A connection in a transaction, the first of so many batches read. The others are there at once. */
static struct conn *world_begin_stream(struct world *w, int batches) {
  struct caller a;
  world_begin(w, 1);
  w->db.batches = batches;
  w->db.prompt = true;
  world_start(w);
  struct conn *c = world_lease(w);
  caller_run(&a, c, "begin");
  world_settle(w);
  caller_stream(&a, c);
  world_settle(w);
  return c;
}

static void specify_streams_in_transactions(struct world *w) {
  struct caller b;
  TEST("within a transaction the rest is read, for a cancel would abort the transaction") {
    struct conn *c = world_begin_stream(w, 2000);
    engine_stop_stream(c);
    CHECK(!c->streaming && c->job == CONN_STOPPING); /* 2000 batches at once would keep others waiting */
    caller_run(&b, c, "select");
    world_pass(w, 1 * MS);
    CHECK(b.ended == 1 && b.error.kind == POOL_OK && w->db.cancels == 0 && w->db.results == 0 && engine_in_transaction(c));
    caller_run(&b, c, "commit");
    world_settle(w);
    engine_release(c);
    CHECK(world_whole(w) && w->db.resets == 0);
    world_end(w);
  }
  TEST("others have their turn meanwhile, however many timers there are") {
    struct timer later[100] = {0};
    struct conn *c = world_begin_stream(w, 2000);
    for (int i = 0; i < 100; i++) {
      later[i].fire = timer_nothing;
      timer_start(w->loop, &later[i], loop_now(w->loop) + SECOND);
    }
    int before = w->db.steps;
    engine_stop_stream(c);
    loop_turn(w->loop, loop_now(w->loop));
    CHECK(w->db.steps - before < 100);
    for (int i = 0; i < 100; i++) timer_stop(w->loop, &later[i]);
    engine_release(c);
    world_settle(w);
    CHECK(world_whole(w));
    world_end(w);
  }
  TEST("within a transaction a rest that does not end within 5 s is cancelled") {
    struct conn *c = world_begin_stream(w, 3);
    w->db.prompt = false;
    scripted_conn(&w->db, 0)->due = NEVER;
    engine_stop_stream(c);
    world_pass(w, 4999 * MS);
    CHECK(c->job == CONN_STOPPING && w->db.cancels == 0);
    world_pass(w, 1 * MS);
    CHECK(c->job == CONN_LEASED && w->db.cancels == 1 && !c->dead);
    engine_release(c);
    world_settle(w);
    CHECK(world_whole(w) && w->db.resets == 1);
    world_end(w);
  }
}

static void specify_ends_of_streams(struct world *w) {
  struct caller a;
  TEST("a connection released in the middle of a stream is reset") {
    world_begin(w, 1);
    world_start(w);
    struct conn *c = world_lease(w);
    caller_stream(&a, c);
    world_settle(w);
    engine_release(c);
    world_settle(w);
    CHECK(w->db.resets == 1 && world_whole(w) && w->db.live == 1);
    world_end(w);
  }
}

/* ---- cancels ---- */

static void specify_cancels(struct world *w) {
  struct caller a;
  TEST("a cancelled statement fails with cancelled, and its connection goes on") {
    world_begin_stuck(w, 1, 100 * MS);
    world_start(w);
    struct conn *c = world_lease(w);
    CHECK(!engine_cancel(c));
    caller_run(&a, c, "select");
    CHECK(engine_cancel(c));
    CHECK(!engine_cancel(c)); /* it was asked already */
    world_pass(w, 100 * MS);
    CHECK(a.ended == 1 && a.error.kind == POOL_CANCELLED && w->db.cancels == 1);
    CHECK_TEXT(a.error.sqlstate, "57014");
    CHECK(c->watch.events == LOOP_READ && !c->timer.running);
    engine_release(c);
    CHECK(world_whole(w));
    world_end(w);
  }
  TEST("a cancelled statement that ends well all the same gives its result, once the cancel can hit no other") {
    world_begin(w, 1);
    w->db.answers[OP_STATEMENT].after = 50 * MS;
    w->db.answers[OP_CANCEL] = (struct answer){ANSWER_OK, 100 * MS};
    world_start(w);
    struct conn *c = world_lease(w);
    caller_run(&a, c, "select");
    int fd = scripted_conn(&w->db, 0)->fd;
    engine_cancel(c);
    world_pass(w, 99 * MS);
    CHECK(a.ended == 0 && c->watch.fd == fd);
    world_pass(w, 1 * MS);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK);
    engine_release(c);
    CHECK(world_whole(w));
    world_end(w);
  }
  TEST("the descriptor is watched afresh when it has become another one under a cancel") {
    world_begin_stuck(w, 1, 100 * MS);
    world_start(w);
    struct conn *c = world_lease(w);
    caller_run(&a, c, "select");
    engine_cancel(c);
    struct db_conn *db = scripted_conn(&w->db, 0);
    int fd = db->fd;
    scripted_answer(db, ANSWER_OK);
    loop_virtual_ready(w->loop, fd, LOOP_READ);
    loop_turn(w->loop, loop_now(w->loop));
    CHECK(a.ended == 0 && db->fd != fd && c->watch.fd == db->fd);
    world_pass(w, 100 * MS);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK && c->watch.fd == db->fd);
    engine_release(c);
    world_end(w);
  }
}

static void specify_long_cancels(struct world *w) {
  struct caller a;
  TEST("a cancel that never ends costs the connection after five seconds") {
    world_begin_stuck(w, 1, NEVER);
    world_start(w);
    struct conn *c = world_lease(w);
    caller_run(&a, c, "select");
    engine_cancel(c);
    world_pass(w, 5 * SECOND - 1);
    CHECK_INT(a.ended, 0);
    world_pass(w, 1);
    CHECK(a.ended == 1 && a.error.kind == POOL_LOST && !a.error.retryable && c->dead);
    engine_release(c);
    CHECK(w->db.live == 0 && world_whole(w));
    world_end(w);
  }
  TEST("the same holds for a statement that was left, and what was held behind it fails as never sent") {
    struct caller b;
    world_begin_stuck(w, 1, NEVER);
    world_start(w);
    struct conn *c = world_lease(w);
    caller_run(&a, c, "select");
    caller_leave(&a);
    caller_run(&b, c, "select");
    world_pass(w, 5 * SECOND);
    CHECK(a.ended == 0 && b.ended == 1 && b.error.kind == POOL_LOST && b.error.retryable);
    engine_release(c);
    CHECK(w->db.live == 0 && world_whole(w));
    world_end(w);
  }
  TEST("a batch that overtakes its cancel is delivered, and the cancel ends the next one") {
    world_begin(w, 1);
    world_start(w);
    struct conn *c = world_lease(w);
    w->db.answers[OP_STATEMENT].after = 10 * MS;
    w->db.answers[OP_CANCEL].after = 15 * MS;
    caller_stream(&a, c);
    engine_cancel(c);
    world_pass(w, 10 * MS);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK && c->streaming && !c->timer.running);
    caller_fetch(&a, c);
    CHECK(c->timer.running); /* the patience with the cancel */
    world_pass(w, 5 * MS);
    CHECK(a.ended == 1 && a.error.kind == POOL_CANCELLED && !c->streaming);
    engine_release(c);
    CHECK(world_whole(w));
    world_end(w);
  }
}

static void specify_statement_timeout(struct world *w) {
  struct caller a, b;
  TEST("a query that runs into statement_timeout fails with deadline, and its connection is watched again") {
    world_begin_stuck(w, 1, 100 * MS);
    w->options.db.statement_timeout = 2 * SECOND;
    world_start(w);
    caller_query(&a, w, "select", SECOND);
    world_pass(w, 2 * SECOND - 1);
    CHECK_INT(w->db.cancels, 0);
    world_pass(w, 100 * MS + 1);
    CHECK(a.ended == 1 && a.error.kind == POOL_DEADLINE && strstr(a.error.message, "statement_timeout (2 s)") != NULL);
    CHECK(world_whole(w) && w->db.live == 1);
    scripted_kill(scripted_conn(&w->db, 0), false);
    world_settle(w);
    CHECK_INT(w->db.live, 0); /* it was heard */
    world_end(w);
  }
  TEST("a statement within its time leaves no timer") {
    world_begin(w, 1);
    w->options.db.statement_timeout = 2 * SECOND;
    w->db.answers[OP_STATEMENT].after = SECOND;
    world_start(w);
    caller_query(&a, w, "select", SECOND);
    world_pass(w, 10 * SECOND);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK && w->db.cancels == 0 && world_whole(w));
    world_end(w);
  }
  TEST("after a time-out that came too late the next statement's cancel is not taken for another") {
    world_begin(w, 1);
    w->options.db.statement_timeout = SECOND;
    w->db.answers[OP_STATEMENT].after = 1100 * MS;
    w->db.answers[OP_CANCEL] = (struct answer){ANSWER_FAIL, 10 * MS};
    world_start(w);
    struct conn *c = world_lease(w);
    caller_run(&a, c, "select");
    world_pass(w, 1100 * MS);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK && w->db.cancels == 1);
    w->db.answers[OP_CANCEL].kind = ANSWER_OK;
    caller_run(&b, c, "select");
    engine_cancel(c);
    world_pass(w, 10 * MS);
    CHECK(b.ended == 1 && b.error.kind == POOL_CANCELLED);
    engine_release(c);
    world_end(w);
  }
}

/* ---- resets and goodbyes ---- */

static void specify_resets(struct world *w) {
  struct caller a, b;
  TEST("a connection that cannot be reset is closed, and the line gets another") {
    world_begin(w, 1);
    w->db.answers[OP_RESET].kind = ANSWER_FAIL;
    world_start(w);
    caller_query(&a, w, "begin", SECOND);
    caller_query(&b, w, "select", SECOND);
    world_settle(w);
    CHECK(b.ended == 1 && b.error.kind == POOL_OK && w->db.opened == 2 && w->db.closes == 1 && world_whole(w));
    world_end(w);
  }
  TEST("a reset that hangs is given up after five seconds") {
    world_begin(w, 1);
    w->db.answers[OP_RESET].after = NEVER;
    world_start(w);
    caller_query(&a, w, "begin", SECOND);
    caller_query(&b, w, "select", 30 * SECOND);
    world_pass(w, 5 * SECOND - 1);
    CHECK(b.ended == 0 && w->db.live == 1);
    world_pass(w, 1);
    CHECK(b.ended == 1 && b.error.kind == POOL_OK && w->db.opened == 2 && world_whole(w));
    world_end(w);
  }
  TEST("a goodbye that is not answered is cut short after a second") {
    world_begin(w, 1);
    w->db.answers[OP_CLOSE].after = NEVER;
    world_start(w);
    struct conn *c = world_lease(w);
    engine_retire(c);
    engine_release(c);
    world_pass(w, SECOND - 1);
    CHECK(w->db.live == 1 && w->closed == 0);
    world_pass(w, 1);
    CHECK(w->db.live == 0 && w->closed == 1 && world_whole(w));
    CHECK_TEXT(w->reason, "closed");
    world_end(w);
  }
  TEST("a retired connection whose statement runs is cancelled first, then told goodbye") {
    world_begin_stuck(w, 1, 300 * MS);
    world_start(w);
    struct conn *c = world_lease(w);
    caller_run(&a, c, "select");
    engine_retire(c);
    engine_release(c);
    world_pass(w, 299 * MS);
    CHECK(w->db.cancels == 1 && w->db.closes == 0 && w->db.live == 1);
    world_pass(w, 1 * MS);
    CHECK(w->db.closes == 1 && w->db.live == 0 && world_whole(w));
    world_end(w);
  }
}

void engine_leave_spec(void) {
  struct world w;
  specify_leaving(&w);
  specify_leaving_leases(&w);
  specify_releasing(&w);
  specify_leaving_streams(&w);
  specify_streams_in_transactions(&w);
  specify_ends_of_streams(&w);
  specify_cancels(&w);
  specify_long_cancels(&w);
  specify_statement_timeout(&w);
  specify_resets(&w);
}
