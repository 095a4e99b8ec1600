/* The pool: waiting, opening, limits, back-off, configuration, in virtual time. Promises 1 to 4, 6, 9, 10 and 11 of core/pool.c. */
#include "world.h"

static void test_lifecycle(void) {
  struct world w = world_begin(plain());
  TEST("a new pool opens nothing") {
    NOTHING(&w);
    CHECK(pool_empty(w.pool) && pool_deadline(w.pool) == NEVER);
  }
  TEST("the first caller has a connection opened, and gets it") {
    CHECK_INT(ask(&w, 0, 30 * SECOND), POOL_OK);
    struct slot *s = ORDER(&w, ACTION_OPEN);
    NOTHING(&w);
    w.now += 5 * MS;
    opened(&w, s);
    GRANTED(&w, 0);
    CHECK(w.callers[0].slot == s && s->state == SLOT_LEASED && s->uses == 1);
    CHECK_INT(w.callers[0].waited, 5 * MS);
  }
  TEST("a returned connection is lent again") {
    struct slot *s = w.callers[0].slot;
    give_back(&w, 0, OUTCOME_CLEAN);
    NOTHING(&w);
    ask(&w, 1, 30 * SECOND);
    GRANTED(&w, 1);
    CHECK(w.callers[1].slot == s && s->uses == 2);
  }
  TEST("the most recently used of the idle connections is lent first") {
    lease(&w, 2, 2);
    struct slot *last = w.callers[1].slot;
    give_back(&w, 2, OUTCOME_CLEAN);
    give_back(&w, 1, OUTCOME_CLEAN);
    ask(&w, 3, 30 * SECOND);
    GRANTED(&w, 3);
    CHECK(w.callers[3].slot == last);
  }
  TEST("the statistics add up") {
    struct stats stats = stats_of(&w);
    CHECK_INT(stats.counters.arrivals, 4);
    CHECK_INT(stats.counters.grants, 4);
    CHECK_INT(stats.counters.opens, 2);
    CHECK(stats.leased == 1 && stats.idle == 1 && stats.total == 2 && stats.limit == 3);
    CHECK_INT(stats.wait.count, 4);
    CHECK_INT(stats.wait.max, 5 * MS);
    CHECK_INT(stats.open_time.max, 5 * MS);
    w.now += SECOND;
    pool_tick(w.pool, w.now);
    CHECK_INT(stats_of(&w).leased_time - stats.leased_time, SECOND);
    world_end(&w);
  }
}

static void test_limit(void) {
  struct world w = world_begin(plain());
  lease(&w, 0, 2);
  TEST("past size + max_overflow nobody opens: the next waits (promise 1)") {
    CHECK_INT(ask(&w, 3, 30 * SECOND), POOL_OK);
    NOTHING(&w);
    CHECK(stats_of(&w).waiting == 1 && stats_of(&w).unmet == 1 && stats_of(&w).total == 3);
  }
  TEST("a connection being closed still counts until the server has let go (promise 1)") {
    give_back(&w, 0, OUTCOME_RETIRE);
    struct slot *s = ORDER(&w, ACTION_CLOSE);
    NOTHING(&w);
    CHECK_INT(stats_of(&w).total, 3);
    closed(&w, s);
    opened(&w, ORDER(&w, ACTION_OPEN));
    GRANTED(&w, 3);
  }
  TEST("a cap from outside shrinks the pool without cutting a lease (promise 1)") {
    pool_allow(w.pool, 1, w.now);
    NOTHING(&w);
    CHECK_INT(stats_of(&w).limit, 1);
    ask(&w, 4, 30 * SECOND);
    give_back(&w, 1, OUTCOME_CLEAN);
    closed(&w, ORDER(&w, ACTION_CLOSE));
    give_back(&w, 2, OUTCOME_CLEAN);
    closed(&w, ORDER(&w, ACTION_CLOSE));
    NOTHING(&w);
    give_back(&w, 3, OUTCOME_CLEAN);
    GRANTED(&w, 4);
  }
  TEST("a cap that is lifted lets the line open again") {
    ask(&w, 5, 30 * SECOND);
    NOTHING(&w);
    pool_allow(w.pool, INT_MAX, w.now);
    opened(&w, ORDER(&w, ACTION_OPEN));
    GRANTED(&w, 5);
    world_end(&w);
  }
}

static void test_configure(void) {
  struct world w = world_begin(plain());
  struct settings s = plain();
  lease_and_return(&w, 0, 1);
  TEST("settings that are refused change nothing") {
    s.size = s.max_overflow = 0;
    CHECK_INT(pool_configure(w.pool, &s, w.now), POOL_SETTINGS);
    s = plain();
    s.size_limit++;
    CHECK_INT(pool_configure(w.pool, &s, w.now), POOL_SETTINGS);
    CHECK(pool_settings(w.pool)->size == 2 && stats_of(&w).limit == 3);
  }
  TEST("a smaller pool closes its idle connections at once, the longest idle first") {
    w.now += SECOND;
    ask(&w, 2, SECOND);
    GRANTED(&w, 2);
    struct slot *used = w.callers[2].slot;
    give_back(&w, 2, OUTCOME_CLEAN);
    s = plain();
    s.size = 1;
    s.max_overflow = 0;
    CHECK_INT(pool_configure(w.pool, &s, w.now), POOL_OK);
    pool_assert(w.pool);
    CHECK(ORDER(&w, ACTION_CLOSE) != used);
    NOTHING(&w);
    CHECK(used->state == SLOT_IDLE);
  }
  TEST("a larger pool opens for those in line at once") {
    ask(&w, 3, SECOND);
    GRANTED(&w, 3);
    ask(&w, 4, SECOND);
    NOTHING(&w);
    s.size = 3;
    CHECK_INT(pool_configure(w.pool, &s, w.now), POOL_OK);
    ORDER(&w, ACTION_OPEN);
    world_end(&w);
  }
}

static void test_line(void) {
  struct world w = world_begin(plain());
  lease(&w, 0, 2);
  TEST("nobody overtakes in line (promise 3)") {
    for (int i = 10; i < 15; i++) ask(&w, i, 30 * SECOND);
    leave(&w, 11);
    for (int i = 0; i < 3; i++) give_back(&w, i, OUTCOME_CLEAN);
    GRANTED(&w, 10);
    GRANTED(&w, 12);
    GRANTED(&w, 13);
    NOTHING(&w);
  }
  TEST("a grant not taken yet goes to the next in line when its waiter leaves (promise 3)") {
    give_back(&w, 10, OUTCOME_CLEAN);
    ask(&w, 15, 30 * SECOND);
    leave(&w, 14);
    GRANTED(&w, 15);
    NOTHING(&w);
    CHECK_INT(stats_of(&w).counters.grants, stats_of(&w).counters.releases + 3);
  }
  TEST("a waiter is answered at its deadline and never receives a connection after it (promise 4)") {
    ask(&w, 20, SECOND);
    CHECK_INT(pool_deadline(w.pool), w.now + SECOND);
    w.now += SECOND;
    give_back(&w, 12, OUTCOME_CLEAN); /* in the very instant */
    FAILED(&w, 20, POOL_TIMEOUT);
    CHECK_INT(w.callers[20].waited, SECOND);
    NOTHING(&w);
    leave(&w, 20); /* harmless */
    CHECK_INT(stats_of(&w).counters.timeouts, 1);
  }
  TEST("a clock that steps back stands still (promise 4)") {
    ask(&w, 21, SECOND);
    GRANTED(&w, 21);
    ask(&w, 22, SECOND);
    pool_tick(w.pool, w.now - 3600 * SECOND);
    pool_assert(w.pool);
    CHECK_INT(stats_of(&w).now, w.now);
    NOTHING(&w);
    CHECK_INT(pool_deadline(w.pool), w.now + SECOND);
    world_end(&w);
  }
}

static void test_overloaded(void) {
  struct settings s = plain();
  s.max_waiting = 1;
  struct world w = world_begin(s);
  lease(&w, 0, 2);
  TEST("max_waiting counts no room that is leased or being closed (promise 11)") {
    give_back(&w, 0, OUTCOME_RETIRE);
    ORDER(&w, ACTION_CLOSE);
    CHECK_INT(ask(&w, 4, SECOND), POOL_OK);
    CHECK_INT(ask(&w, 5, SECOND), POOL_OVERLOADED);
    world_end(&w);
  }
}

static void test_refusals(void) {
  struct settings s = plain();
  s.max_waiting = 1;
  struct world w = world_begin(s);
  TEST("max_waiting counts those beyond the opens that room allows (promise 11)") {
    for (int i = 0; i < 4; i++) CHECK_INT(ask(&w, i, SECOND), POOL_OK);
    CHECK_INT(ask(&w, 4, SECOND), POOL_OVERLOADED);
    for (int i = 0; i < 3; i++) ORDER(&w, ACTION_OPEN);
    FAILED(&w, 4, POOL_OVERLOADED);
    CHECK_INT(stats_of(&w).counters.rejected, 1);
  }
  TEST("a drain answers the line with closed, and every newcomer (promise 11)") {
    pool_drain(w.pool, w.now);
    pool_assert(w.pool);
    for (int i = 0; i < 4; i++) FAILED(&w, i, POOL_CLOSED);
    CHECK_INT(ask(&w, 5, SECOND), POOL_CLOSED);
    FAILED(&w, 5, POOL_CLOSED);
  }
  TEST("a drained pool closes what is still opening") {
    for (int i = 0; i < 3; i++) opened(&w, pool_slot(w.pool, i));
    for (int i = 0; i < 3; i++) closed(&w, ORDER(&w, ACTION_CLOSE));
    CHECK(pool_empty(w.pool));
    world_end(&w);
  }
}

static void test_idle_only(void) {
  struct world w = world_begin(plain());
  TEST("timeout 0 with nothing idle fails at once and opens nothing") {
    CHECK_INT(ask(&w, 0, 0), POOL_TIMEOUT);
    FAILED(&w, 0, POOL_TIMEOUT);
    NOTHING(&w);
  }
  TEST("timeout 0 gets an idle connection") {
    lease_and_return(&w, 1, 1);
    CHECK_INT(ask(&w, 2, 0), POOL_OK);
    GRANTED(&w, 2);
    give_back(&w, 2, OUTCOME_CLEAN);
  }
  TEST("timeout 0 waits for the check of an idle connection that needs one") {
    pass(&w, 10 * SECOND);
    CHECK_INT(ask(&w, 3, 0), POOL_OK);
    struct slot *s = ORDER(&w, ACTION_CHECK);
    pass(&w, SECOND); /* long past the grace: still no open */
    NOTHING(&w);
    CHECK_INT(ask(&w, 4, 0), POOL_TIMEOUT);
    FAILED(&w, 4, POOL_TIMEOUT);
    checked(&w, s, true);
    GRANTED(&w, 3);
    give_back(&w, 3, OUTCOME_CLEAN);
  }
  TEST("timeout 0 fails when the last idle connection fails its check") {
    pass(&w, 10 * SECOND);
    ask(&w, 5, 0);
    checked(&w, ORDER(&w, ACTION_CHECK), false);
    ORDER(&w, ACTION_CLOSE);
    FAILED(&w, 5, POOL_TIMEOUT);
    NOTHING(&w);
    world_end(&w);
  }
}

static void test_opens(void) {
  struct settings s = plain();
  s.size = 10;
  struct world w = world_begin(s);
  TEST("at most max_opening opens are under way (promise 6)") {
    for (int i = 0; i < 8; i++) ask(&w, i, 30 * SECOND);
    for (int i = 0; i < 4; i++) ORDER(&w, ACTION_OPEN);
    NOTHING(&w);
  }
  TEST("each open that ends lets the next begin (promise 2)") {
    opened(&w, pool_slot(w.pool, 0));
    GRANTED(&w, 0);
    ORDER(&w, ACTION_OPEN);
    NOTHING(&w);
  }
  TEST("a returned connection beats a pending open (promise 6)") {
    give_back(&w, 0, OUTCOME_CLEAN);
    GRANTED(&w, 1);
    NOTHING(&w);
  }
  TEST("an open whose waiter left completes and goes idle (promise 6)") {
    for (int i = 2; i < 8; i++) leave(&w, i);
    for (int i = 0; i < 5; i++) {
      if (pool_slot(w.pool, i)->state == SLOT_OPENING) opened(&w, pool_slot(w.pool, i));
    }
    NOTHING(&w);
    CHECK(stats_of(&w).idle == 4 && stats_of(&w).leased == 1);
  }
  TEST("demand that vanished calls off the opens not begun (promise 6)") {
    for (int i = 10; i < 14; i++) {
      ask(&w, i, 30 * SECOND);
      GRANTED(&w, i);
    }
    ask(&w, 20, 30 * SECOND);
    leave(&w, 20);
    NOTHING(&w);
    CHECK_INT(stats_of(&w).counters.elided, 1);
    world_end(&w);
  }
}

/* The second pause, b = 100 ms, of a pool of this seed whose opens fail. */
static usec pause_of(uint64_t seed) {
  struct settings s = plain();
  struct world w = {.now = 1000 * SECOND, .pool = pool_create(&s, seed), .allocations = world_allocations};
  pool_tick(w.pool, w.now);
  ask(&w, 0, 10 * SECOND);
  refused(&w, ORDER(&w, ACTION_OPEN), false);
  pass(&w, 50 * MS);
  refused(&w, ORDER(&w, ACTION_OPEN), false);
  usec pause = pool_deadline(w.pool) - w.now;
  leave(&w, 0);
  world_end(&w);
  return pause;
}

static void test_jitter(void) {
  usec pauses[100];
  int repeated = 0, short_ones = 0, long_ones = 0;
  TEST("pools that lost one server do not come back together: the pause b is anywhere in [b/2, b] (promise 6)") {
    for (int i = 0; i < 100; i++) {
      pauses[i] = pause_of((uint64_t)i + 1);
      CHECK(pauses[i] >= 50 * MS && pauses[i] <= 100 * MS);
      short_ones += pauses[i] < 75 * MS;
      long_ones += pauses[i] > 75 * MS;
      for (int k = 0; k < i; k++) repeated += pauses[k] == pauses[i];
    }
    CHECK(repeated <= 5); /* of 50000 possible ones: 0 or 1 is likely */
    CHECK(short_ones >= 25 && long_ones >= 25);
  }
}

static void test_back_off(void) {
  struct world w = world_begin(plain());
  TEST("a passing failure keeps the line waiting, behind a jittered back-off (promise 6)") {
    ask(&w, 0, 10 * SECOND);
    ask(&w, 1, 10 * SECOND);
    struct slot *a = ORDER(&w, ACTION_OPEN), *b = ORDER(&w, ACTION_OPEN);
    refused(&w, a, false);
    NOTHING(&w);
    usec retry = pool_deadline(w.pool);
    CHECK(retry >= w.now + 25 * MS && retry <= w.now + 50 * MS);
    refused(&w, b, false); /* the same outage does not lengthen it */
    CHECK_INT(pool_deadline(w.pool), retry);
    CHECK(stats_of(&w).failing && pool_failure(w.pool)->kind == POOL_CONNECT);
  }
  TEST("after the back-off one open probes, however many wait (promise 6)") {
    pass(&w, 50 * MS);
    struct slot *s = ORDER(&w, ACTION_OPEN);
    NOTHING(&w);
    refused(&w, s, false);
    usec pause = pool_deadline(w.pool) - w.now;
    CHECK(pause >= 50 * MS && pause <= 100 * MS);
  }
  TEST("the back-off doubles up to backoff_max") {
    for (int i = 0; i < 8; i++) {
      pass(&w, 500 * MS);
      refused(&w, ORDER(&w, ACTION_OPEN), false);
    }
    usec pause = pool_deadline(w.pool) - w.now;
    CHECK(pause >= 250 * MS && pause <= 500 * MS);
  }
  TEST("an open that succeeds ends the back-off for everybody") {
    pass(&w, 500 * MS);
    opened(&w, ORDER(&w, ACTION_OPEN));
    GRANTED(&w, 0);
    opened(&w, ORDER(&w, ACTION_OPEN));
    GRANTED(&w, 1);
    CHECK(!stats_of(&w).failing && pool_failure(w.pool)->kind == POOL_OK);
  }
  TEST("a deadline that comes while opens fail says connect, not timeout (promise 6)") {
    ask(&w, 2, SECOND);
    refused(&w, ORDER(&w, ACTION_OPEN), false);
    w.now += SECOND;
    pool_tick(w.pool, w.now);
    FAILED(&w, 2, POOL_CONNECT);
  }
  TEST("an armed back-off without demand wakes nobody") {
    while (next(&w).kind != ACTION_NONE) continue;
    for (int i = 0; i < 40; i++) {
      if (pool_slot(w.pool, i)->state == SLOT_OPENING) refused(&w, pool_slot(w.pool, i), false);
    }
    CHECK_INT(pool_deadline(w.pool), NEVER);
    world_end(&w);
  }
}

static void test_permanent(void) {
  struct world w = world_begin(plain());
  TEST("a permanent failure answers everybody in line at once (promise 6)") {
    for (int i = 0; i < 5; i++) ask(&w, i, 30 * SECOND);
    struct slot *s = ORDER(&w, ACTION_OPEN);
    ORDER(&w, ACTION_OPEN);
    ORDER(&w, ACTION_OPEN);
    refused(&w, s, true);
    for (int i = 0; i < 5; i++) FAILED(&w, i, POOL_CONNECT);
    NOTHING(&w);
    CHECK_INT(stats_of(&w).counters.errors, 5);
  }
  TEST("newcomers after it cost one attempt a back-off, and are answered with it (promise 6)") {
    refused(&w, pool_slot(w.pool, 1), true);
    refused(&w, pool_slot(w.pool, 2), true);
    ask(&w, 10, 30 * SECOND);
    ask(&w, 11, 30 * SECOND);
    NOTHING(&w);
    pass(&w, 50 * MS);
    struct slot *s = ORDER(&w, ACTION_OPEN);
    NOTHING(&w);
    refused(&w, s, true);
    FAILED(&w, 10, POOL_CONNECT);
    FAILED(&w, 11, POOL_CONNECT);
    NOTHING(&w);
    world_end(&w);
  }
}

static void test_reset(void) {
  struct world w = world_begin(plain());
  lease(&w, 0, 2);
  TEST("what comes back dirty is reset before it is lent again (promise 9)") {
    ask(&w, 3, 30 * SECOND);
    give_back(&w, 0, OUTCOME_DIRTY);
    struct slot *s = ORDER(&w, ACTION_RESET);
    NOTHING(&w);
    reset_done(&w, s, true);
    GRANTED(&w, 3);
    CHECK(w.callers[3].slot == s);
  }
  TEST("what cannot be reset is closed, and its place opened for the line (promise 9)") {
    ask(&w, 4, 30 * SECOND);
    give_back(&w, 1, OUTCOME_DIRTY);
    reset_done(&w, ORDER(&w, ACTION_RESET), false);
    closed(&w, ORDER(&w, ACTION_CLOSE));
    ORDER(&w, ACTION_OPEN);
  }
  TEST("a reset slower than its grace has an open begun beside it where there is room (promise 2)") {
    leave(&w, 4);
    opened(&w, pool_slot(w.pool, 1));
    give_back(&w, 2, OUTCOME_RETIRE);
    closed(&w, ORDER(&w, ACTION_CLOSE));
    ask(&w, 5, SECOND);
    GRANTED(&w, 5);
    give_back(&w, 5, OUTCOME_DIRTY);
    ORDER(&w, ACTION_RESET);
    ask(&w, 6, SECOND);
    NOTHING(&w);
    CHECK_INT(pool_deadline(w.pool), w.now + 50 * MS);
    pass(&w, 50 * MS);
    ORDER(&w, ACTION_OPEN);
    world_end(&w);
  }
}

static void test_null_pool(void) {
  struct settings s = plain();
  s.size = 0;
  s.max_overflow = 2;
  struct world w = world_begin(s);
  lease(&w, 0, 1);
  TEST("size 0 hands a returned connection on while somebody waits, within the limit (promise 10)") {
    ask(&w, 2, 30 * SECOND);
    NOTHING(&w);
    give_back(&w, 0, OUTCOME_CLEAN);
    GRANTED(&w, 2);
  }
  TEST("size 0 closes a returned connection when nobody waits (promise 10)") {
    give_back(&w, 1, OUTCOME_CLEAN);
    closed(&w, ORDER(&w, ACTION_CLOSE));
    give_back(&w, 2, OUTCOME_CLEAN);
    closed(&w, ORDER(&w, ACTION_CLOSE));
    CHECK(pool_empty(w.pool));
    world_end(&w);
  }
}

static void test_pause(void) {
  struct world w = world_begin(plain());
  lease(&w, 0, 0);
  pool_pause(w.pool, w.now);
  TEST("a paused pool grants and opens nothing, while deadlines go on") {
    ask(&w, 1, SECOND);
    ask(&w, 2, 10 * SECOND);
    give_back(&w, 0, OUTCOME_CLEAN);
    NOTHING(&w);
    pass(&w, SECOND);
    FAILED(&w, 1, POOL_TIMEOUT);
    NOTHING(&w);
  }
  TEST("a pool that resumes serves its line") {
    pool_resume(w.pool, w.now);
    GRANTED(&w, 2);
    world_end(&w);
  }
}

int main(void) {
  test_lifecycle();
  test_limit();
  test_configure();
  test_line();
  test_overloaded();
  test_refusals();
  test_idle_only();
  test_opens();
  test_back_off();
  test_jitter();
  test_permanent();
  test_reset();
  test_null_pool();
  test_pause();
  return check_done();
}
