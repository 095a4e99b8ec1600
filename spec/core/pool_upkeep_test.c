/* The pool: suspicion, checks, recycling, shrinking, filling, invalidation, in virtual time. Promises 5, 7 and 8 of core/pool.c. */
#include "world.h"

static void test_checks(void) {
  struct world w = world_begin(plain());
  lease_and_return(&w, 0, 1);
  TEST("a connection idle for no longer than pre_ping_after is lent without a check (promise 8)") {
    pass(&w, SECOND);
    ask(&w, 2, SECOND);
    GRANTED(&w, 2);
    give_back(&w, 2, OUTCOME_CLEAN);
  }
  TEST("a connection idle for longer is checked before it is lent (promise 8)") {
    pass(&w, SECOND + 1);
    ask(&w, 3, 30 * SECOND);
    struct slot *s = ORDER(&w, ACTION_CHECK);
    NOTHING(&w);
    w.now += MS;
    checked(&w, s, true);
    GRANTED(&w, 3);
    CHECK(w.callers[3].slot == s && w.callers[3].waited == MS);
    give_back(&w, 3, OUTCOME_CLEAN);
  }
  TEST("one that fails its check costs the borrower a retry, not an error (promise 8)") {
    pass(&w, 2 * SECOND);
    ask(&w, 4, 30 * SECOND);
    struct slot *dead = ORDER(&w, ACTION_CHECK);
    checked(&w, dead, false);
    CHECK(ORDER(&w, ACTION_CLOSE) == dead);
    struct slot *other = ORDER(&w, ACTION_CHECK); /* suspect now */
    NOTHING(&w);
    checked(&w, other, true);
    GRANTED(&w, 4);
    CHECK(w.callers[4].slot == other);
    closed(&w, dead);
    give_back(&w, 4, OUTCOME_CLEAN);
  }
  TEST("a check has its own deadline, and an answer that crosses the order to close is ignored (promise 8)") {
    pass(&w, 2 * SECOND);
    ask(&w, 5, 30 * SECOND);
    struct slot *s = ORDER(&w, ACTION_CHECK);
    pass(&w, 5 * SECOND - 1);
    CHECK(s->state == SLOT_CHECKING && pool_deadline(w.pool) == w.now + 1);
    struct slot *beside = ORDER(&w, ACTION_OPEN);
    pass(&w, 1);
    CHECK(ORDER(&w, ACTION_CLOSE) == s);
    checked(&w, s, true);
    CHECK(s->state == SLOT_CLOSING);
    closed(&w, s);
    opened(&w, beside); /* begun before the disconnect was seen: suspect */
    checked(&w, ORDER(&w, ACTION_CHECK), true);
    GRANTED(&w, 5);
    world_end(&w);
  }
}

static void test_slow_check(void) {
  struct world w = world_begin(plain());
  lease_and_return(&w, 0, 0);
  TEST("a check without an answer within its grace has an open begun beside it (promise 2)") {
    pass(&w, 2 * SECOND);
    ask(&w, 1, 30 * SECOND);
    struct slot *checking = ORDER(&w, ACTION_CHECK);
    NOTHING(&w);
    CHECK_INT(pool_deadline(w.pool), w.now + 50 * MS);
    pass(&w, 50 * MS);
    struct slot *s = ORDER(&w, ACTION_OPEN);
    opened(&w, s);
    GRANTED(&w, 1);
    checked(&w, checking, true);
    NOTHING(&w);
    CHECK(checking->state == SLOT_IDLE);
    world_end(&w);
  }
}

static void test_slow_checks(void) {
  struct world w = world_begin(plain());
  lease_and_return(&w, 0, 1);
  TEST("while a check is slow, an open is begun rather than another check (promise 2)") {
    pass(&w, 2 * SECOND);
    ask(&w, 2, 30 * SECOND);
    ORDER(&w, ACTION_CHECK);
    pass(&w, 50 * MS);
    ORDER(&w, ACTION_OPEN);
    NOTHING(&w);
    world_end(&w);
  }
}

static void test_every_lease(void) {
  struct settings s = plain();
  s.pre_ping_after = 0;
  struct world w = world_begin(s);
  lease_and_return(&w, 0, 0);
  TEST("pre_ping_after 0 checks before every lease") {
    ask(&w, 1, SECOND);
    checked(&w, ORDER(&w, ACTION_CHECK), true);
    GRANTED(&w, 1);
    give_back(&w, 1, OUTCOME_CLEAN);
  }
  TEST("with pre_ping_after 0 a check that was passed holds for that instant alone") {
    ask(&w, 2, SECOND);
    struct slot *s1 = ORDER(&w, ACTION_CHECK);
    leave(&w, 2);
    checked(&w, s1, true); /* proven, and idle again */
    pass(&w, 1);
    ask(&w, 3, SECOND);
    CHECK(ORDER(&w, ACTION_CHECK) == s1);
    checked(&w, s1, true);
    GRANTED(&w, 3);
    world_end(&w);
  }
  s.pre_ping = false;
  w = world_begin(s);
  lease_and_return(&w, 0, 0);
  TEST("without pre_ping nothing but suspicion asks for a check") {
    pass(&w, 100 * SECOND);
    ask(&w, 1, SECOND);
    GRANTED(&w, 1);
    give_back(&w, 1, OUTCOME_CLEAN);
    pool_suspect(w.pool, w.now);
    pool_assert(w.pool);
    ORDER(&w, ACTION_CHECK);
    world_end(&w);
  }
}

static void test_suspicion(void) {
  struct settings s = plain();
  s.size = 10;
  s.pre_ping = false;
  struct world w = world_begin(s);
  lease_and_return(&w, 0, 4);
  TEST("a disconnect has every idle connection checked at once, whatever pre_ping says (promise 5)") {
    ask(&w, 0, SECOND);
    GRANTED(&w, 0);
    ask(&w, 1, SECOND);
    GRANTED(&w, 1);
    give_back(&w, 0, OUTCOME_BROKEN);
    int checks = 0, closes = 0;
    for (struct action a = next(&w); a.kind != ACTION_NONE; a = next(&w)) {
      checks += a.kind == ACTION_CHECK;
      closes += a.kind == ACTION_CLOSE;
    }
    CHECK(checks == 3 && closes == 1);
  }
  TEST("nobody gets one of them before its check has passed: N stale ones cost one failed query (promise 5)") {
    ask(&w, 2, 30 * SECOND);
    NOTHING(&w);
    struct slot *alive = NULL;
    for (int i = 0; i < 5; i++) {
      struct slot *slot = pool_slot(w.pool, i);
      if (slot->state == SLOT_CHECKING && alive == NULL) alive = slot;
      else if (slot->state == SLOT_CHECKING) checked(&w, slot, false);
    }
    struct action a;
    do a = next(&w); while (a.kind == ACTION_CLOSE || a.kind == ACTION_OPEN);
    CHECK_INT(a.kind, ACTION_NONE);
    checked(&w, alive, true); /* sent before the last disconnect was seen: once more */
    CHECK(ORDER(&w, ACTION_CHECK) == alive);
    checked(&w, alive, true);
    GRANTED(&w, 2);
  }
  TEST("one that was leased during the disconnect is checked when it comes back (promise 5)") {
    struct slot *leased = w.callers[1].slot;
    give_back(&w, 1, OUTCOME_CLEAN);
    CHECK(ORDER(&w, ACTION_CHECK) == leased);
    checked(&w, leased, true);
    CHECK(leased->state == SLOT_IDLE);
    world_end(&w);
  }
}

static void test_one_disconnect(void) {
  struct settings s = plain();
  s.size = 3;
  struct world w = world_begin(s);
  lease_and_return(&w, 0, 2);
  TEST("a disconnect that several checks find counts once (promise 5)") {
    struct slot *checking[3];
    pool_suspect(w.pool, w.now);
    pool_assert(w.pool);
    for (int i = 0; i < 3; i++) checking[i] = ORDER(&w, ACTION_CHECK);
    checked(&w, checking[0], false);
    ORDER(&w, ACTION_CLOSE);
    checked(&w, checking[1], true);
    CHECK(ORDER(&w, ACTION_CHECK) == checking[1]); /* sent before the disconnect was seen */
    checked(&w, checking[2], false);               /* and so was this one */
    checked(&w, checking[1], true);
    CHECK(checking[1]->state == SLOT_IDLE);
    world_end(&w);
  }
}

static void test_lost(void) {
  struct world w = world_begin(plain());
  lease_and_return(&w, 0, 1);
  struct slot *a = w.callers[0].slot, *b = w.callers[1].slot;
  TEST("an idle connection that is lost alone is closed, and the others are not suspect (promise 5)") {
    lost(&w, a, false);
    CHECK(ORDER(&w, ACTION_CLOSE) == a);
    NOTHING(&w);
    closed(&w, a);
  }
  TEST("an idle connection lost by a disconnect makes the others suspect (promise 5)") {
    ask(&w, 2, SECOND);
    GRANTED(&w, 2);
    lease(&w, 3, 3);
    give_back(&w, 2, OUTCOME_CLEAN);
    give_back(&w, 3, OUTCOME_CLEAN);
    lost(&w, w.callers[3].slot, true);
    CHECK(ORDER(&w, ACTION_CLOSE) == w.callers[3].slot);
    CHECK(ORDER(&w, ACTION_CHECK) == b);
    NOTHING(&w);
    world_end(&w);
  }
}

static void test_lost_leased(void) {
  struct world w = world_begin(plain());
  lease(&w, 0, 0);
  TEST("a leased connection that is lost is closed at its return, and counted once") {
    lost(&w, w.callers[0].slot, true);
    NOTHING(&w);
    give_back(&w, 0, OUTCOME_BROKEN);
    ORDER(&w, ACTION_CLOSE);
    CHECK_INT(stats_of(&w).counters.lost, 1);
    world_end(&w);
  }
  w = world_begin(plain());
  lease(&w, 0, 0);
  TEST("one that was lost while leased is not lent again, whatever its borrower says of it") {
    lost(&w, w.callers[0].slot, false);
    give_back(&w, 0, OUTCOME_CLEAN);
    ORDER(&w, ACTION_CLOSE);
    world_end(&w);
  }
}

static void test_longest_idle(void) {
  struct settings s = plain();
  s.shrink_after = 10 * SECOND;
  struct world w = world_begin(s);
  lease(&w, 0, 1);
  TEST("the longest idle goes first, be it one that a paused pool could not check") {
    struct slot *suspect = w.callers[0].slot;
    give_back(&w, 1, OUTCOME_CLEAN);
    pool_suspect(w.pool, w.now);
    struct slot *proven = ORDER(&w, ACTION_CHECK);
    pool_pause(w.pool, w.now);
    give_back(&w, 0, OUTCOME_CLEAN);
    pass(&w, SECOND);
    checked(&w, proven, true);
    pass(&w, 9 * SECOND - 1);
    NOTHING(&w);
    pass(&w, 1);
    CHECK(ORDER(&w, ACTION_CLOSE) == suspect);
    pass(&w, SECOND);
    CHECK(ORDER(&w, ACTION_CLOSE) == proven);
    world_end(&w);
  }
}

static void test_overflow(void) {
  struct world w = world_begin(plain());
  lease_and_return(&w, 0, 2);
  TEST("overflow lingers for idle_timeout, then the longest idle one is closed") {
    CHECK_INT(pool_deadline(w.pool), w.now + 30 * SECOND);
    pass(&w, 30 * SECOND - 1);
    NOTHING(&w);
    pass(&w, 1);
    closed(&w, ORDER(&w, ACTION_CLOSE));
    NOTHING(&w);
    CHECK_INT(stats_of(&w).idle, 2);
  }
  TEST("what is within size is closed down to min_idle after shrink_after") {
    CHECK_INT(pool_deadline(w.pool), w.now + 570 * SECOND);
    pass(&w, 570 * SECOND);
    closed(&w, ORDER(&w, ACTION_CLOSE));
    closed(&w, ORDER(&w, ACTION_CLOSE));
    CHECK(pool_empty(w.pool) && pool_deadline(w.pool) == NEVER);
    world_end(&w);
  }
}

static void test_min_idle(void) {
  struct settings s = plain();
  s.min_idle = 2;
  struct world w = world_begin(s);
  TEST("min_idle is opened ahead, and filled up again when one is lent") {
    opened(&w, ORDER(&w, ACTION_OPEN));
    opened(&w, ORDER(&w, ACTION_OPEN));
    NOTHING(&w);
    ask(&w, 0, SECOND);
    GRANTED(&w, 0);
    opened(&w, ORDER(&w, ACTION_OPEN));
    ask(&w, 1, SECOND);
    GRANTED(&w, 1);
    NOTHING(&w); /* the limit */
  }
  TEST("min_idle is never closed for being idle") {
    give_back(&w, 0, OUTCOME_CLEAN);
    give_back(&w, 1, OUTCOME_CLEAN);
    pass(&w, 30 * SECOND);
    closed(&w, ORDER(&w, ACTION_CLOSE));
    pass(&w, 100000 * SECOND);
    NOTHING(&w);
    CHECK(stats_of(&w).idle == 2 && pool_deadline(w.pool) == NEVER);
    world_end(&w);
  }
}

static void test_recycling(void) {
  struct settings s = plain();
  s.recycle = 100 * SECOND;
  s.shrink_after = 0;
  struct world w = world_begin(s);
  lease_and_return(&w, 0, 0);
  struct slot *old = w.callers[0].slot, *fresh;
  TEST("an expired idle connection is closed when its replacement is there, not before (promise 7)") {
    CHECK_INT(pool_deadline(w.pool), w.now + 100 * SECOND);
    pass(&w, 100 * SECOND);
    fresh = ORDER(&w, ACTION_OPEN);
    NOTHING(&w);
    CHECK(old->state == SLOT_IDLE && fresh->replacement);
    opened(&w, fresh);
    CHECK(ORDER(&w, ACTION_CLOSE) == old);
    closed(&w, old);
    CHECK(fresh->state == SLOT_IDLE && stats_of(&w).counters.recycled == 1);
    NOTHING(&w);
  }
  TEST("an expired connection whose replacement fails serves on and waits for the back-off (promise 7)") {
    pass(&w, 100 * SECOND);
    refused(&w, ORDER(&w, ACTION_OPEN), false);
    NOTHING(&w);
    CHECK(fresh->state == SLOT_IDLE && pool_deadline(w.pool) <= w.now + 50 * MS);
    ask(&w, 1, 30 * SECOND);
    checked(&w, ORDER(&w, ACTION_CHECK), true);
    GRANTED(&w, 1);
    give_back(&w, 1, OUTCOME_CLEAN);
    NOTHING(&w);
    pass(&w, 50 * MS);
    ORDER(&w, ACTION_OPEN);
    world_end(&w);
  }
}

static void test_recycling_at_the_limit(void) {
  struct settings s = plain();
  s.recycle = 100 * SECOND;
  s.shrink_after = 0;
  s.max_overflow = 0;
  struct world w = world_begin(s);
  lease_and_return(&w, 0, 1);
  TEST("at the limit expired idle ones are replaced one after the other (promise 7)") {
    pass(&w, 100 * SECOND);
    for (int i = 0; i < 2; i++) {
      struct slot *s1 = ORDER(&w, ACTION_CLOSE);
      NOTHING(&w);
      closed(&w, s1);
      opened(&w, ORDER(&w, ACTION_OPEN));
    }
    NOTHING(&w);
    CHECK_INT(stats_of(&w).idle, 2);
  }
  TEST("an expired one that comes back to a line is retired only while nothing else is on its way (promise 7)") {
    for (int i = 10; i < 12; i++) {
      ask(&w, i, SECOND);
      GRANTED(&w, i);
    }
    for (int i = 12; i < 16; i++) ask(&w, i, 1000 * SECOND);
    pass(&w, 100 * SECOND);
    give_back(&w, 10, OUTCOME_CLEAN);
    struct slot *closing = ORDER(&w, ACTION_CLOSE);
    give_back(&w, 11, OUTCOME_CLEAN);
    GRANTED(&w, 12);
    closed(&w, closing);
    opened(&w, ORDER(&w, ACTION_OPEN));
    GRANTED(&w, 13);
    world_end(&w);
  }
}

static struct settings recycled(int size, int max_overflow) {
  struct settings s = plain();
  s.size = size;
  s.max_overflow = max_overflow;
  s.recycle = 100 * SECOND;
  s.shrink_after = 0;
  return s;
}

static void test_recycling_waits(void) {
  struct world w = world_begin(recycled(1, 1));
  lease(&w, 0, 0);
  TEST("nothing that works is closed for its age while the server is away (promise 7)") {
    pass(&w, 100 * SECOND - 10 * MS);
    ask(&w, 1, 30 * SECOND);
    refused(&w, ORDER(&w, ACTION_OPEN), false);
    leave(&w, 1);
    pool_allow(w.pool, 1, w.now);
    give_back(&w, 0, OUTCOME_CLEAN);
    pass(&w, 15 * MS);
    NOTHING(&w);
    pass(&w, 50 * MS);
    ORDER(&w, ACTION_CLOSE);
    world_end(&w);
  }
}

static void test_recycling_opening(void) {
  struct world w = world_begin(recycled(2, 0));
  lease(&w, 0, 0);
  TEST("an expired connection that comes back to a line serves once more while an open is under way (promise 7)") {
    pass(&w, 100 * SECOND);
    for (int i = 1; i < 4; i++) ask(&w, i, 30 * SECOND);
    ORDER(&w, ACTION_OPEN);
    give_back(&w, 0, OUTCOME_CLEAN);
    GRANTED(&w, 1);
    NOTHING(&w);
    world_end(&w);
  }
}

static void test_recycling_overflow(void) {
  struct settings s = recycled(1, 2);
  s.idle_timeout = 1000 * SECOND;
  struct world w = world_begin(s);
  lease_and_return(&w, 0, 1);
  TEST("an expired connection beyond size is closed and not replaced (promise 7)") {
    pass(&w, 100 * SECOND);
    closed(&w, ORDER(&w, ACTION_CLOSE));
    ORDER(&w, ACTION_OPEN); /* for the one within size */
    NOTHING(&w);
    CHECK_INT(stats_of(&w).counters.recycled, 1);
    world_end(&w);
  }
  w = world_begin(s);
  lease_and_return(&w, 0, 1);
  TEST("a paused pool closes nothing for its age, not even beyond size (promise 7)") {
    pool_pause(w.pool, w.now);
    pass(&w, 100 * SECOND);
    NOTHING(&w);
    pool_resume(w.pool, w.now);
    pool_assert(w.pool);
    ORDER(&w, ACTION_CLOSE);
    world_end(&w);
  }
}

static void test_no_reopening(void) {
  struct world w = world_begin(recycled(1, 1));
  lease(&w, 0, 1);
  TEST("one closed for its age at the limit is not opened again beyond size (promise 7)") {
    pass(&w, 100 * SECOND);
    ask(&w, 2, 30 * SECOND);
    give_back(&w, 0, OUTCOME_CLEAN);
    struct slot *s = ORDER(&w, ACTION_CLOSE);
    leave(&w, 2);
    closed(&w, s);
    NOTHING(&w);
    world_end(&w);
  }
}

static void test_jitter(void) {
  struct settings s = plain();
  s.size = 30;
  s.recycle = 100 * SECOND;
  s.recycle_jitter = 0.25;
  struct world w = world_begin(s);
  lease_and_return(&w, 0, 29);
  TEST("lifetimes differ by the jitter and never exceed recycle (promise 7)") {
    usec least = NEVER, most = 0;
    for (int i = 0; i < 30; i++) {
      usec life = pool_slot(w.pool, i)->expires - pool_slot(w.pool, i)->opened;
      if (life < least) least = life;
      if (life > most) most = life;
    }
    CHECK(least >= 75 * SECOND && most <= 100 * SECOND && most - least > 10 * SECOND);
  }
  TEST("a shorter recycle shortens the lives of those already open") {
    s.recycle = 10 * SECOND;
    CHECK_INT(pool_configure(w.pool, &s, w.now), POOL_OK);
    pool_assert(w.pool);
    for (int i = 0; i < 30; i++) CHECK(pool_slot(w.pool, i)->expires <= w.now + 10 * SECOND);
    world_end(&w);
  }
}

static void test_invalidate(void) {
  struct settings s = plain();
  s.size = 4;
  struct world w = world_begin(s);
  lease_and_return(&w, 0, 1);
  ask(&w, 2, SECOND);
  GRANTED(&w, 2);
  ask(&w, 3, SECOND);
  GRANTED(&w, 3);
  give_back(&w, 2, OUTCOME_CLEAN);
  ask(&w, 4, SECOND);
  GRANTED(&w, 4);
  give_back(&w, 4, OUTCOME_CLEAN);
  TEST("invalidate closes the idle at once, and the leased at their return") {
    pool_invalidate(w.pool, w.now);
    pool_assert(w.pool);
    closed(&w, ORDER(&w, ACTION_CLOSE));
    NOTHING(&w);
    give_back(&w, 3, OUTCOME_DIRTY);
    closed(&w, ORDER(&w, ACTION_CLOSE));
    CHECK(pool_empty(w.pool));
  }
  TEST("an open that was under way serves nobody, and another is begun for the line") {
    ask(&w, 5, 30 * SECOND);
    struct slot *stale = ORDER(&w, ACTION_OPEN);
    pool_invalidate(w.pool, w.now);
    pool_assert(w.pool);
    struct slot *fresh = ORDER(&w, ACTION_OPEN);
    opened(&w, stale);
    CHECK(ORDER(&w, ACTION_CLOSE) == stale);
    opened(&w, fresh);
    GRANTED(&w, 5);
    world_end(&w);
  }
}

static void test_invalidate_unbegun(void) {
  struct world w = world_begin(plain());
  TEST("an open not begun when the others are invalidated is none of them") {
    ask(&w, 0, SECOND);
    pool_invalidate(w.pool, w.now);
    pool_assert(w.pool);
    opened(&w, ORDER(&w, ACTION_OPEN));
    GRANTED(&w, 0);
    world_end(&w);
  }
}

int main(void) {
  test_checks();
  test_slow_check();
  test_slow_checks();
  test_one_disconnect();
  test_recycling_waits();
  test_recycling_opening();
  test_recycling_overflow();
  test_no_reopening();
  test_invalidate_unbegun();
  test_every_lease();
  test_suspicion();
  test_lost();
  test_lost_leased();
  test_longest_idle();
  test_overflow();
  test_min_idle();
  test_recycling();
  test_recycling_at_the_limit();
  test_jitter();
  test_invalidate();
  return check_done();
}
