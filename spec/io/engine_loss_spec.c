/*
** engine_loss_spec: connections that die, in whatever they are doing, and what others learn from it.
*/
#include "engine_world.h"
#include "support/check.h"

/* Two idle connections. */
static void world_begin_two(struct world *w) {
  world_begin(w, 2);
  world_start(w);
  struct conn *a = world_lease(w), *b = world_lease(w);
  engine_release(a);
  engine_release(b);
  world_settle(w);
}

static void specify_idle(struct world *w) {
  TEST("a connection that dies idle is gone at once") {
    world_begin_two(w);
    scripted_kill(scripted_conn(&w->db, 0), false);
    world_settle(w);
    CHECK(w->db.live == 1 && w->closed == 1 && w->db.closes == 0 && w->db.pings == 0 && world_whole(w));
    CHECK_TEXT(w->reason, "lost");
    world_end(w);
  }
  TEST("a disconnect makes the others suspect: they are checked at once, and the sound ones stay") {
    world_begin_two(w);
    scripted_kill(scripted_conn(&w->db, 0), true);
    world_settle(w);
    CHECK(w->db.live == 1 && w->db.pings == 1 && world_whole(w));
    world_end(w);
  }
  TEST("a suspect that does not answer its check costs the line a retry, not an error") {
    struct caller a;
    world_begin_two(w);
    w->db.answers[OP_PING].kind = ANSWER_DIE;
    scripted_kill(scripted_conn(&w->db, 0), true);
    world_settle(w);
    CHECK_INT(w->db.live, 0);
    caller_query(&a, w, "select", SECOND);
    world_settle(w);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK && world_whole(w));
    world_end(w);
  }
  TEST("a check that hangs is given up after pre_ping_timeout, and its connection cut off a second later") {
    struct caller a;
    world_begin(w, 1);
    w->options.pool.pre_ping = true;
    w->options.pool.pre_ping_after = SECOND;
    w->options.pool.pre_ping_timeout = 3 * SECOND;
    w->db.answers[OP_PING].after = NEVER;
    w->db.answers[OP_CANCEL].after = NEVER;
    world_start(w);
    engine_release(world_lease(w));
    world_pass(w, 2 * SECOND);
    caller_query(&a, w, "select", 30 * SECOND);
    world_pass(w, 3 * SECOND);
    CHECK(w->db.pings == 1 && w->db.cancels == 1 && w->db.live == 1);
    world_pass(w, SECOND);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK && w->db.opened == 2 && world_whole(w));
    world_end(w);
  }
  TEST("a connection idle for long is checked before it is lent") {
    struct caller a;
    world_begin(w, 1);
    w->options.pool.pre_ping = true;
    w->options.pool.pre_ping_after = SECOND;
    world_start(w);
    engine_release(world_lease(w));
    world_pass(w, 2 * SECOND);
    caller_query(&a, w, "select", SECOND);
    world_settle(w);
    CHECK(a.ended == 1 && w->db.pings == 1 && w->db.opened == 1 && world_whole(w));
    world_end(w);
  }
}

static void specify_doomed(struct world *w) {
  TEST("a server that says farewell to an idle connection is told no goodbye, though it is there still") {
    world_begin(w, 1);
    w->db.lingers = true;
    world_start(w);
    engine_release(world_lease(w));
    scripted_kill(scripted_conn(&w->db, 0), false);
    world_settle(w);
    CHECK(w->db.closes == 0 && w->db.live == 0 && world_whole(w));
    world_end(w);
  }
  TEST("nor is one that answered a check with an error") {
    struct caller a;
    world_begin(w, 1);
    w->db.lingers = true;
    w->options.pool.pre_ping = true;
    w->options.pool.pre_ping_after = SECOND;
    w->db.answers[OP_PING].kind = ANSWER_FAIL;
    world_start(w);
    engine_release(world_lease(w));
    world_pass(w, 2 * SECOND);
    caller_query(&a, w, "select", SECOND);
    world_settle(w);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK && w->db.pings == 1 && w->db.closes == 0 && w->db.opened == 2 && world_whole(w));
    world_end(w);
  }
}

static void specify_leased(struct world *w) {
  struct caller a;
  TEST("a connection that dies while it is leased idle fails what is run on it as lost and never sent") {
    world_begin_two(w);
    struct conn *c = world_lease(w);
    scripted_kill(c->db, false);
    world_settle(w);
    CHECK(c->dead && c->watch.events == 0);
    caller_run(&a, c, "select");
    CHECK(a.ended == 1 && a.error.kind == POOL_LOST && a.error.retryable && w->db.sends == 0);
    CHECK_TEXT(a.error.message, "the server hung up");
    engine_release(c);
    CHECK(w->db.live == 1 && world_whole(w));
    CHECK_TEXT(w->reason, "lost");
    world_end(w);
  }
  TEST("its death makes the others suspect while it is still leased") {
    world_begin_two(w);
    struct conn *c = world_lease(w);
    scripted_kill(c->db, true);
    world_settle(w);
    CHECK_INT(w->db.pings, 1);
    engine_release(c);
    CHECK(w->db.live == 1 && world_whole(w));
    world_end(w);
  }
}

static void specify_senders(struct world *w) {
  struct caller a;
  TEST("a dead connection found by send fails a lease's statement as lost and never sent") {
    world_begin(w, 1);
    world_start(w);
    struct conn *c = world_lease(w);
    scripted_kill(c->db, false);
    caller_run(&a, c, "select");
    CHECK(a.ended == 1 && a.error.kind == POOL_LOST && a.error.retryable && c->dead);
    engine_release(c);
    CHECK(w->db.live == 0 && world_whole(w));
    world_end(w);
  }
  TEST("a dead connection found by send sends a query back in line, and another connection serves it") {
    world_begin_two(w);
    struct db_conn *first = scripted_conn(&w->db, 0), *second = scripted_conn(&w->db, 1);
    scripted_kill(first, false);
    scripted_kill(second, false);
    caller_query(&a, w, "select", SECOND);
    CHECK_INT(a.ended, 0);
    world_settle(w);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK && w->db.opened == 3 && w->db.sends == 1 && world_whole(w));
    world_end(w);
  }
  TEST("a lease of a connection that died while nobody looked goes back in line, too") {
    world_begin(w, 1);
    world_start(w);
    engine_release(world_lease(w));
    world_pass(w, 10 * MS);
    scripted_kill(scripted_conn(&w->db, 0), false);
    caller_lease(&a, w, SECOND);
    CHECK_INT(a.ended, 0);
    world_settle(w);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK && w->db.opened == 2 && w->db.live == 1);
    engine_release(a.call.conn);
    CHECK(world_whole(w));
    world_end(w);
  }
  TEST("a query sent back in line keeps its deadline") {
    world_begin(w, 1);
    world_start(w);
    engine_release(world_lease(w));
    scripted_kill(scripted_conn(&w->db, 0), false);
    w->db.answers[OP_OPEN].after = NEVER;
    caller_query(&a, w, "select", SECOND);
    world_pass(w, SECOND - 1);
    CHECK_INT(a.ended, 0);
    world_pass(w, 1);
    CHECK(a.ended == 1 && a.error.kind == POOL_TIMEOUT);
    world_end(w);
  }
}

/* Two connections: one leased, and given; one idle for so long that it must be checked, which takes for ever. */
static struct conn *world_begin_checking(struct world *w) {
  world_begin(w, 2);
  w->options.pool.pre_ping = true;
  w->options.pool.pre_ping_after = SECOND;
  w->options.pool.pre_ping_timeout = 3 * SECOND;
  w->db.answers[OP_PING].after = NEVER;
  w->db.deaf = w->db.candid = true;
  world_start(w);
  struct conn *a = world_lease(w), *b = world_lease(w);
  engine_release(b);
  world_pass(w, 2 * SECOND);
  return a;
}

static void specify_idle_only(struct world *w) {
  struct caller a;
  TEST("who wants an idle connection or none wants no other when that one was dead") {
    struct conn *c = world_begin_checking(w);
    caller_query(&a, w, "select", 0);
    scripted_kill(c->db, false);
    engine_release(c);
    world_settle(w);
    CHECK(a.ended == 0 && w->db.sends == 1 && w->db.opened == 2); /* it waits for the check of the other one */
    world_pass(w, 3 * SECOND);
    CHECK(a.ended == 1 && a.error.kind == POOL_TIMEOUT && w->db.opened == 2);
    world_end(w);
  }
}

static void specify_statements(struct world *w) {
  struct caller a;
  TEST("a connection that dies in a query fails it as lost, not retryable, and is gone") {
    world_begin_two(w);
    w->db.answers[OP_STATEMENT].after = NEVER;
    caller_query(&a, w, "select", SECOND);
    world_settle(w);
    struct conn *c = a.call.conn;
    scripted_kill(c->db, true);
    world_settle(w);
    CHECK(a.ended == 1 && a.error.kind == POOL_LOST && !a.error.retryable);
    CHECK(w->db.live == 1 && w->db.pings == 1 && world_whole(w));
    world_end(w);
  }
  TEST("a death that only the first step sees fails the query as lost: it may have run") {
    world_begin(w, 1);
    w->db.deaf = true;
    world_start(w);
    engine_release(world_lease(w));
    scripted_kill(scripted_conn(&w->db, 0), false);
    caller_query(&a, w, "select", SECOND);
    CHECK(a.ended == 1 && a.error.kind == POOL_LOST && !a.error.retryable && w->db.live == 0);
    world_end(w);
  }
  TEST("a connection that dies on a lease stays the borrower's until its release") {
    world_begin(w, 1);
    w->db.answers[OP_STATEMENT].kind = ANSWER_DIE;
    world_start(w);
    struct conn *c = world_lease(w);
    caller_run(&a, c, "select");
    world_settle(w);
    CHECK(a.ended == 1 && a.error.kind == POOL_LOST && !engine_cancel(c));
    world_pass(w, SECOND);
    CHECK_INT(w->db.live, 1);
    caller_run(&a, c, "select");
    CHECK(a.ended == 1 && a.error.kind == POOL_LOST && a.error.retryable);
    engine_release(c);
    CHECK(w->db.live == 0 && world_whole(w));
    world_end(w);
  }
}

static void specify_streams(struct world *w) {
  struct caller a;
  TEST("a connection that dies between the batches of a stream fails the next fetch, which is not retryable") {
    world_begin(w, 1);
    world_start(w);
    struct conn *c = world_lease(w);
    caller_stream(&a, c);
    world_settle(w);
    scripted_kill(c->db, false);
    caller_fetch(&a, c);
    world_settle(w);
    CHECK(a.ended == 1 && a.error.kind == POOL_LOST && !a.error.retryable && !c->streaming);
    caller_fetch(&a, c);
    CHECK(a.ended == 1 && a.error.kind == POOL_LOST && !a.error.retryable);
    engine_stop_stream(c);
    engine_release(c);
    CHECK(w->db.live == 0 && world_whole(w));
    world_end(w);
  }
  TEST("a connection that dies while its left statement stops fails what is held behind it") {
    struct caller b;
    world_begin(w, 1);
    w->db.answers[OP_STATEMENT].after = w->db.answers[OP_CANCEL].after = NEVER;
    world_start(w);
    struct conn *c = world_lease(w);
    caller_run(&a, c, "select");
    caller_leave(&a);
    caller_run(&b, c, "select");
    scripted_kill(c->db, false);
    world_settle(w);
    CHECK(a.ended == 0 && b.ended == 1 && b.error.kind == POOL_LOST && b.error.retryable);
    engine_release(c);
    CHECK(w->db.live == 0 && world_whole(w));
    world_end(w);
  }
}

static void specify_resets(struct world *w) {
  struct caller a, b;
  TEST("a connection that dies in its reset is gone, and the line gets another") {
    world_begin(w, 1);
    w->db.answers[OP_RESET].kind = ANSWER_DIE;
    world_start(w);
    caller_query(&a, w, "begin", SECOND);
    caller_query(&b, w, "select", SECOND);
    world_settle(w);
    CHECK(b.ended == 1 && b.error.kind == POOL_OK && w->db.opened == 2 && w->db.closes == 0 && world_whole(w));
    world_end(w);
  }
  TEST("a disconnect seen by a reset makes the others suspect") {
    world_begin_two(w);
    w->db.answers[OP_RESET].kind = ANSWER_DISCONNECT;
    caller_query(&a, w, "begin", SECOND);
    world_settle(w);
    CHECK(w->db.live == 1 && w->db.pings == 1 && world_whole(w));
    world_end(w);
  }
  TEST("a server that became a standby costs every connection, and the query only its error") {
    world_begin_two(w);
    w->db.answers[OP_STATEMENT].kind = ANSWER_DISCONNECT;
    caller_query(&a, w, "insert", SECOND);
    world_settle(w);
    CHECK(a.ended == 1 && a.error.kind == POOL_QUERY);
    CHECK_TEXT(a.error.sqlstate, "25006");
    CHECK(w->db.live == 0 && w->db.closes == 2 && world_whole(w));
    world_end(w);
  }
  TEST("and one found out on a lease is closed at its return") {
    world_begin(w, 1);
    w->db.answers[OP_STATEMENT].kind = ANSWER_DISCONNECT;
    world_start(w);
    struct conn *c = world_lease(w);
    caller_run(&a, c, "insert");
    world_settle(w);
    CHECK(a.ended == 1 && c->retire && !c->dead && w->db.live == 1);
    engine_release(c);
    world_settle(w);
    CHECK(w->db.live == 0 && w->db.closes == 1 && world_whole(w));
    world_end(w);
  }
  TEST("invalidate closes idle connections at once and leased ones at their return") {
    world_begin_two(w);
    struct conn *c = world_lease(w);
    engine_invalidate(w->engine);
    world_settle(w);
    CHECK(w->db.live == 1 && !engine_busy(c));
    caller_run(&a, c, "select");
    world_settle(w);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK);
    engine_release(c);
    world_settle(w);
    CHECK(w->db.live == 0 && world_whole(w));
    world_end(w);
  }
}

void engine_loss_spec(void) {
  struct world w;
  specify_idle(&w);
  specify_doomed(&w);
  specify_leased(&w);
  specify_senders(&w);
  specify_idle_only(&w);
  specify_statements(&w);
  specify_streams(&w);
  specify_resets(&w);
}
