/*
** engine_test: leases, queries, runs, fetches, the line, opens and their time. The other parts: engine_leave_spec.c,
** engine_loss_spec.c, engine_end_spec.c.
*/
#include "engine_world.h"
#include "support/check.h"

#define MANY 8

/* ---- calls that go well ---- */

static void specify_calls(struct world *w) {
  struct caller a, b;
  TEST("a lease opens a connection, and its release leaves it idle") {
    world_begin(w, 2);
    world_start(w);
    caller_lease(&a, w, SECOND);
    CHECK_INT(a.ended, 0);
    world_settle(w);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK && a.call.conn->slot->state == SLOT_LEASED);
    engine_release(a.call.conn);
    CHECK(world_whole(w) && w->db.live == 1 && w->db.resets == 0);
    caller_lease(&a, w, SECOND);
    CHECK_INT(a.ended, 1); /* before engine_lease returned */
    CHECK_INT(w->db.opened, 1);
    engine_release(a.call.conn);
    world_end(w);
  }
  TEST("a query's connection is back in the pool before the caller is told") {
    world_begin(w, 1);
    world_start(w);
    caller_query(&a, w, "select", SECOND);
    caller_query(&b, w, "select", SECOND);
    world_settle(w);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK && a.place == SLOT_LEASED); /* handed on to b within the same instant */
    CHECK(b.ended == 1 && b.place == SLOT_IDLE);
    CHECK(w->db.live == 1 && w->db.sends == 2 && world_whole(w));
    world_end(w);
  }
  TEST("a query that the server refuses fails with its error, and its connection is fit") {
    world_begin(w, 1);
    w->db.answers[OP_STATEMENT].kind = ANSWER_FAIL;
    world_start(w);
    caller_query(&a, w, "selec", SECOND);
    world_settle(w);
    CHECK(a.ended == 1 && a.error.kind == POOL_QUERY);
    CHECK_TEXT(a.error.sqlstate, "42601");
    CHECK(world_whole(w) && w->db.live == 1 && w->db.resets == 0);
    world_end(w);
  }
  TEST("a query that leaves a transaction open has its connection reset before anybody else gets it") {
    world_begin(w, 1);
    world_start(w);
    caller_query(&a, w, "begin", SECOND);
    caller_query(&b, w, "select", SECOND);
    world_settle(w);
    CHECK(a.ended == 1 && b.ended == 1 && b.error.kind == POOL_OK && w->db.resets == 1);
    CHECK(world_whole(w));
    world_end(w);
  }
  TEST("a statement that the driver refuses fails alone, in line and on a lease") {
    world_begin(w, 1);
    world_start(w);
    struct conn *c = world_lease(w);
    w->db.refuse_send = true;
    caller_run(&a, c, "select");
    CHECK(a.ended == 1 && a.error.kind == POOL_QUERY && !engine_busy(c));
    engine_release(c);
    caller_query(&a, w, "select", SECOND);
    CHECK(a.ended == 1 && a.error.kind == POOL_QUERY);
    CHECK(world_whole(w) && w->db.live == 1);
    world_end(w);
  }
}

static void specify_streams(struct world *w) {
  struct caller a;
  TEST("a stream comes batch by batch, and what is not asked for is not read") {
    world_begin(w, 1);
    world_start(w);
    struct conn *c = world_lease(w);
    caller_stream(&a, c);
    world_settle(w);
    CHECK(a.ended == 1 && c->streaming && c->watch.events == 0);
    int steps = w->db.steps;
    world_pass(w, SECOND);
    CHECK_INT(w->db.steps, steps);
    caller_fetch(&a, c);
    world_settle(w);
    CHECK(a.ended == 1 && c->streaming);
    caller_fetch(&a, c);
    world_settle(w);
    CHECK(a.ended == 1 && !c->streaming && c->watch.events == LOOP_READ);
    engine_release(c);
    CHECK(world_whole(w) && w->db.cancels == 0 && w->db.resets == 0);
    world_end(w);
  }
  TEST("a statement sent in pieces leaves no watch for writing behind") {
    world_begin(w, 1);
    w->db.write_first = true;
    w->db.answers[OP_STATEMENT].after = MS;
    world_start(w);
    struct conn *c = world_lease(w);
    caller_run(&a, c, "select");
    CHECK_INT(c->watch.events, LOOP_READ | LOOP_WRITE);
    world_pass(w, MS);
    CHECK_INT(a.ended, 1);
    CHECK_INT(c->watch.events, LOOP_READ);
    engine_release(c);
    CHECK(world_whole(w));
    world_end(w);
  }
  TEST("an idle connection that says something harmless stays") {
    world_begin(w, 1);
    world_start(w);
    struct conn *c = world_lease(w);
    c->db->noise = true;
    world_settle(w);
    engine_release(c);
    scripted_conn(&w->db, 0)->noise = true;
    world_settle(w);
    CHECK(w->db.idles == 2 && world_whole(w) && w->db.live == 1);
    world_end(w);
  }
}

/* ---- the line ---- */

static void specify_line(struct world *w) {
  struct caller many[MANY], a;
  TEST("those in line are served in the order they came") {
    world_begin(w, 1);
    world_start(w);
    struct conn *c = world_lease(w);
    for (int i = 0; i < MANY; i++) caller_query(&many[i], w, "select", SECOND);
    world_settle(w);
    CHECK_INT(w->ends, 1);
    engine_release(c);
    world_settle(w);
    for (int i = 0; i < MANY; i++) CHECK_INT(many[i].order, i + 2);
    CHECK(w->db.most == 1 && world_whole(w));
    world_end(w);
  }
  TEST("one whose deadline comes in line fails with timeout then, and the rest are served") {
    world_begin(w, 1);
    world_start(w);
    struct conn *c = world_lease(w);
    caller_lease(&many[0], w, 100 * MS);
    caller_query(&many[1], w, "select", 300 * MS);
    world_pass(w, 99 * MS);
    CHECK_INT(many[0].ended, 0);
    world_pass(w, 1 * MS);
    CHECK(many[0].ended == 1 && many[0].error.kind == POOL_TIMEOUT && many[0].error.retryable && many[1].ended == 0);
    engine_release(c);
    world_settle(w);
    CHECK(many[1].ended == 1 && many[1].error.kind == POOL_OK && world_whole(w));
    world_end(w);
  }
  TEST("one too many in line is overloaded at once") {
    world_begin(w, 1);
    w->options.pool.max_waiting = 0;
    world_start(w);
    struct conn *c = world_lease(w);
    caller_query(&a, w, "select", SECOND);
    CHECK(a.ended == 1 && a.error.kind == POOL_OVERLOADED);
    engine_release(c);
    world_end(w);
  }
  TEST("a driver's own limit on connections holds, whatever size and allowance say") {
    world_begin(w, 4);
    w->db.size_limit = 1;
    world_start(w);
    for (int i = 0; i < MANY; i++) caller_query(&many[i], w, "select", SECOND);
    world_settle(w);
    CHECK(w->ends == MANY && w->db.most == 1);
    engine_allow(w->engine, 3);
    for (int i = 0; i < MANY; i++) caller_query(&many[i], w, "select", SECOND);
    world_settle(w);
    CHECK(w->ends == 2 * MANY && w->db.most == 1);
    world_end(w);
  }
  TEST("while the pool is paused nobody is served; when it resumes everybody is") {
    world_begin(w, 2);
    world_start(w);
    engine_pause(w->engine);
    for (int i = 0; i < MANY; i++) caller_query(&many[i], w, "select", SECOND);
    world_pass(w, 500 * MS);
    CHECK(w->ends == 0 && w->db.opened == 0);
    engine_resume(w->engine);
    world_settle(w);
    CHECK(w->ends == MANY && world_whole(w));
    world_end(w);
  }
}

/* ---- opening ---- */

static void specify_opens(struct world *w) {
  struct caller a, b;
  TEST("a failed open keeps the line waiting, and the next one serves it") {
    world_begin(w, 1);
    w->db.answers[OP_OPEN].kind = ANSWER_FAIL;
    world_start(w);
    caller_query(&a, w, "select", 10 * SECOND);
    world_settle(w);
    CHECK(a.ended == 0 && w->db.live == 0);
    w->db.answers[OP_OPEN].kind = ANSWER_OK;
    world_pass(w, SECOND);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK && world_whole(w));
    world_end(w);
  }
  TEST("an open that cannot even begin is a failed open") {
    world_begin(w, 1);
    w->db.refuse_open = true;
    world_start(w);
    caller_query(&a, w, "select", 3 * SECOND);
    world_pass(w, 4 * SECOND);
    CHECK(a.ended == 1 && a.error.kind == POOL_CONNECT);
    CHECK_TEXT(a.error.message, "no descriptor");
    world_end(w);
  }
  TEST("a permanent failure answers everybody in line at once") {
    world_begin(w, 1);
    w->db.answers[OP_OPEN].kind = ANSWER_DIE;
    world_start(w);
    caller_query(&a, w, "select", 10 * SECOND);
    caller_lease(&b, w, 10 * SECOND);
    world_settle(w);
    CHECK(a.ended == 1 && a.error.kind == POOL_CONNECT && b.ended == 1 && b.error.kind == POOL_CONNECT);
    CHECK_TEXT(a.error.message, "the server refused");
    world_end(w);
  }
}

static void specify_slow_opens(struct world *w) {
  struct caller a;
  TEST("an open that never answers is given up after connect_timeout") {
    world_begin(w, 1);
    w->options.db.connect_timeout = 2 * SECOND;
    w->db.answers[OP_OPEN].after = NEVER;
    world_start(w);
    caller_lease(&a, w, 30 * SECOND);
    world_pass(w, 2 * SECOND - 1);
    CHECK_INT(w->db.live, 1);
    w->db.answers[OP_OPEN].after = 0;
    world_pass(w, 1);
    CHECK_INT(w->db.live, 0);
    CHECK(strstr(pool_failure(engine_pool(w->engine))->message, "connect_timeout (2 s)") != NULL);
    world_pass(w, SECOND);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK);
    engine_release(a.call.conn);
    world_end(w);
  }
  TEST("without connect_timeout an open is waited for, even when one is set meanwhile") {
    world_begin(w, 1);
    w->options.db.connect_timeout = 0;
    w->db.addresses = 2;
    w->db.answers[OP_OPEN].after = 50 * SECOND;
    world_start(w);
    caller_lease(&a, w, 90 * SECOND);
    w->db.answers[OP_OPEN] = (struct answer){ANSWER_OK, 20 * SECOND};
    w->options.db.connect_timeout = SECOND;
    struct pool_error error;
    CHECK_INT(engine_configure(w->engine, &w->options.pool, &w->options.db, &error), POOL_OK);
    scripted_conn(&w->db, 0)->answer.kind = ANSWER_FAIL;
    world_pass(w, 60 * SECOND);
    CHECK_INT(w->db.opened, 1);
    world_pass(w, 11 * SECOND);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK && w->db.opened == 1);
    engine_release(a.call.conn);
    world_end(w);
  }
}

/* Somebody asks for a connection within 8 s; none of so many addresses answers, within 9. */
static void world_begin_unanswered(struct world *w, struct caller *a, int addresses) {
  world_begin(w, 1);
  w->options.db.connect_timeout = 9 * SECOND;
  w->db.addresses = addresses;
  w->db.answers[OP_OPEN].after = NEVER;
  world_start(w);
  caller_lease(a, w, 8 * SECOND);
}

static void specify_addresses(struct world *w) {
  struct caller a;
  TEST("each address gets its share of connect_timeout, and the last one what is left") {
    world_begin_unanswered(w, &a, 3);
    world_pass(w, 3 * SECOND - 1);
    CHECK_INT(w->db.next_addresses, 0);
    world_pass(w, 1);
    CHECK_INT(w->db.next_addresses, 1);
    world_pass(w, 3 * SECOND);
    CHECK_INT(w->db.next_addresses, 2);
    world_pass(w, 3 * SECOND - 1);
    CHECK_INT(w->db.live, 1);
    world_pass(w, 1);
    CHECK(w->db.live == 0 && w->db.next_addresses == 2);
    world_end(w);
  }
}

static void specify_busy_addresses(struct world *w) {
  struct caller a;
  TEST("an address that has something to say from time to time gets no more than its share") {
    world_begin_unanswered(w, &a, 3);
    for (int i = 0; i < 5; i++) {
      world_pass(w, 500 * MS);
      loop_virtual_ready(w->loop, scripted_conn(&w->db, 0)->fd, LOOP_READ | LOOP_WRITE);
    }
    world_pass(w, 500 * MS);
    CHECK_INT(w->db.next_addresses, 1);
    world_pass(w, 6 * SECOND);
    CHECK(w->db.live == 0 && w->db.next_addresses == 2);
    world_end(w);
  }
  TEST("an address found meanwhile gets its share, too") {
    world_begin_unanswered(w, &a, 2);
    world_pass(w, 4 * SECOND);
    w->db.addresses = 3;
    world_pass(w, 500 * MS);
    CHECK_INT(w->db.next_addresses, 1);
    world_pass(w, 2250 * MS);
    CHECK_INT(w->db.next_addresses, 2);
    world_pass(w, 2250 * MS);
    CHECK_INT(w->db.live, 0);
    world_end(w);
  }
  TEST("an address that refuses leaves its time to the others") {
    world_begin(w, 1);
    w->options.db.connect_timeout = 9 * SECOND;
    w->db.addresses = 3;
    w->db.answers[OP_OPEN].after = NEVER;
    world_start(w);
    caller_lease(&a, w, 30 * SECOND);
    world_settle(w);
    scripted_answer(scripted_conn(&w->db, 0), ANSWER_FAIL);
    world_pass(w, 4500 * MS - 1);
    CHECK_INT(w->db.next_addresses, 0);
    w->db.answers[OP_OPEN].after = 4 * SECOND;
    world_pass(w, 1);
    CHECK_INT(w->db.next_addresses, 1);
    world_pass(w, 4 * SECOND);
    CHECK(a.ended == 1 && a.error.kind == POOL_OK && w->db.opened == 1);
    engine_release(a.call.conn);
    CHECK(world_whole(w));
    world_end(w);
  }
  TEST("an open whose caller left goes idle") {
    world_begin(w, 1);
    w->db.answers[OP_OPEN].after = MS;
    world_start(w);
    caller_lease(&a, w, SECOND);
    caller_leave(&a);
    world_pass(w, MS);
    CHECK(a.ended == 0 && w->db.live == 1 && world_whole(w));
    world_end(w);
  }
}

/* ---- settings ---- */

static void specify_settings(struct world *w) {
  struct caller a;
  struct pool_error error;
  TEST("what cannot change live is refused by name, and nothing changes") {
    world_begin(w, 1);
    world_start(w);
    struct settings pool = w->options.pool;
    struct db_settings db = w->options.db;
    pool.size = 3;
    db.statement_cache++;
    CHECK_INT(engine_configure(w->engine, &pool, &db, &error), POOL_SETTINGS);
    CHECK(strstr(error.message, "statement_cache") != NULL);
    db = w->options.db;
    text_copy(db.database_url, sizeof db.database_url, "scripted:1");
    CHECK_INT(engine_configure(w->engine, &pool, &db, &error), POOL_SETTINGS);
    CHECK(strstr(error.message, "database_url") != NULL);
    pool.size_limit++;
    CHECK_INT(engine_configure(w->engine, &pool, &w->options.db, &error), POOL_SETTINGS);
    CHECK(strstr(error.message, "size_limit") != NULL);
    pool = w->options.pool;
    pool.size = 0;
    CHECK_INT(engine_configure(w->engine, &pool, &w->options.db, &error), POOL_SETTINGS);
    CHECK(pool_settings(engine_pool(w->engine))->size == 1 && w->db.configured == 0);
    world_end(w);
  }
  TEST("a change of size and reset is in force at once") {
    world_begin(w, 1);
    world_start(w);
    struct conn *c = world_lease(w);
    caller_query(&a, w, "select", SECOND);
    w->options.pool.size = 2;
    w->options.db.reset = RESET_DISCARD;
    CHECK_INT(engine_configure(w->engine, &w->options.pool, &w->options.db, &error), POOL_OK);
    world_settle(w);
    CHECK(a.ended == 1 && w->db.configured == 1 && engine_db_settings(w->engine)->reset == RESET_DISCARD);
    engine_release(c);
    world_settle(w);
    CHECK(w->db.resets == 2 && world_whole(w) && w->db.live == 2);
    world_end(w);
  }
  TEST("an engine without a database it knows is refused, and leaves nothing") {
    world_begin(w, 1);
    text_copy(w->options.db.database_url, sizeof w->options.db.database_url, "nowhere:1");
    CHECK(engine_create(w->loop, &w->options, &error) == NULL && error.kind == POOL_SETTINGS);
    w->options.driver = NULL;
    CHECK(engine_create(w->loop, &w->options, &error) == NULL && error.kind == POOL_SETTINGS);
    loop_destroy(w->loop);
  }
}

int main(void) {
  struct world w;
  specify_calls(&w);
  specify_streams(&w);
  specify_line(&w);
  specify_opens(&w);
  specify_slow_opens(&w);
  specify_addresses(&w);
  specify_busy_addresses(&w);
  specify_settings(&w);
  engine_leave_spec();
  engine_loss_spec();
  engine_end_spec();
  return check_done();
}
