/* Proposals and snapshots: what becomes of a policy's wish, and what it is told. */
#include "core/proposal.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include "core/pool.h"
#include "core/snapshot.h"
#include "support/check.h"

static struct settings usual(void) {
  struct settings s;
  settings_defaults(&pool_settings_table, &s);
  return s;
}

static const struct setting *row_of(const char *name) {
  const struct setting *row = settings_find(&pool_settings_table, name);
  INSIST(row != NULL);
  return row;
}

static void give(struct proposal *p, const char *name, double value) {
  struct pool_error error;
  INSIST(setting_number(row_of(name), &p->values, value, &error) == POOL_OK);
  p->given |= (uint64_t)1 << proposal_row(row_of(name));
}

/* What size becomes when `wanted` is proposed and `now` is. */
static int size_after(int now, double wanted, bool slew) {
  struct settings s = usual(), out;
  struct proposal p = {0};
  struct limits limits;
  struct pool_error error;
  limits_defaults(&limits);
  s.size = now;
  give(&p, "size", wanted);
  INSIST(proposal_dispose(&s, &p, &limits, slew, &out, &error) == POOL_OK);
  return out.size;
}

static void test_clamp_and_slew(void) {
  TEST("what is proposed within reach is what becomes") {
    CHECK_INT(size_after(10, 11, true), 11);
    CHECK_INT(size_after(10, 9, true), 9);
    CHECK_INT(size_after(10, 10, true), 10);
  }
  TEST("one tick changes a count of connections by a quarter of what it is, rounded down, or by one") {
    CHECK_INT(size_after(10, 40, true), 12);
    CHECK_INT(size_after(10, 1, true), 8);
    CHECK_INT(size_after(3, 40, true), 4);
    CHECK_INT(size_after(40, 64, true), 50);
    CHECK_INT(size_after(40, 64, false), 64);
  }
  TEST("outside the limits is brought to the nearer one, also from settings that are outside themselves") {
    CHECK_INT(size_after(60, 1000, true), 64);
    CHECK_INT(size_after(2, 0, true), 1);
    CHECK_INT(size_after(100, 90, true), 75); /* the limit is 64, a quarter is what one tick may do */
    CHECK_INT(size_after(100, 90, false), 64);
  }
  TEST("times are not slewed") {
    struct settings s = usual(), out;
    struct proposal p = {0};
    struct limits limits;
    struct pool_error error;
    limits_defaults(&limits);
    give(&p, "timeout", 0.8);
    CHECK_INT(proposal_dispose(&s, &p, &limits, true, &out, &error), POOL_OK);
    CHECK(out.timeout == 800000);
  }
}

static void test_all_or_nothing(void) {
  struct settings s = usual(), out;
  struct proposal p = {0};
  struct limits limits;
  struct pool_error error = {0};
  limits_defaults(&limits);
  s.size = 1;
  s.max_overflow = 0;
  limits.low[proposal_row(row_of("size"))] = 0;
  give(&p, "timeout", 1);
  give(&p, "size", 0);
  TEST("settings that do not go together are refused as a whole, and nothing of them is taken") {
    CHECK_INT(proposal_dispose(&s, &p, &limits, true, &out, &error), POOL_SETTINGS);
    CHECK_INT(out.size, 1);
    CHECK(out.timeout == s.timeout);
    CHECK(strstr(error.message, "at least one connection") != NULL);
  }
  TEST("what cannot change live, and what is another room's, is nobody's to propose") {
    CHECK_INT(proposal_row(row_of("size_limit")), -1);
    struct setting foreign = *row_of("size");
    CHECK_INT(proposal_row(&foreign), -1);
    CHECK(proposal_row(row_of("size")) >= 0);
  }
  TEST("differences are told by row") {
    struct settings other = s;
    CHECK(settings_differ(&s, &other) == 0);
    other.timeout = 1;
    other.queue = !other.queue;
    CHECK(settings_differ(&s, &other) ==
          ((uint64_t)1 << proposal_row(row_of("timeout")) | (uint64_t)1 << proposal_row(row_of("queue"))));
  }
}

/* ---- snapshots ---- */

static void opened_all(struct pool *pool, usec now) {
  struct action a;
  while (pool_next(pool, &a))
    if (a.kind == ACTION_OPEN) pool_opened(pool, a.slot, now, NULL);
}

static void read_pool(struct pool *pool, struct reading *r, struct peaks *peaks) {
  pool_stats(pool, &r->stats);
  pool_peaks(pool, peaks);
}

static bool near(double a, double b) { return fabs(a - b) < 1e-9; }

static void test_snapshot(void) {
  struct settings s = usual();
  static struct reading zero, first, second;
  struct waiter one, two;
  struct peaks peaks;
  struct snapshot snap;
  s.size = 2;
  s.max_overflow = 2;
  s.min_idle = 0;
  struct pool *pool = pool_create(&s, 1);
  waiter_init(&one, NEVER, NULL);
  waiter_init(&two, NEVER, NULL);
  pool_acquire(pool, &one, 1000000);
  opened_all(pool, 1000000);
  pool_tick(pool, 2000000);
  read_pool(pool, &first, &peaks);
  snapshot_take(&snap, &first, &zero, &peaks);
  TEST("the first snapshot is since the pool's first input") {
    CHECK(near(snap.now, 1) && near(snap.interval, 1));
    CHECK_INT((int)snap.arrivals, 1);
    CHECK_INT((int)snap.grants, 1);
    CHECK_INT((int)snap.wait.count, 1);
    CHECK_INT(snap.leased, 1);
    CHECK(near(snap.leased_mean, 1) && near(snap.utilization, 0.25));
    CHECK_INT(snap.database_max_connections, -1);
  }
  pool_release(pool, one.slot, 2500000, OUTCOME_CLEAN);
  pool_acquire(pool, &two, 2750000);
  opened_all(pool, 2750000);
  pool_release(pool, two.slot, 3000000, OUTCOME_CLEAN);
  pool_tick(pool, 4000000);
  read_pool(pool, &second, &peaks);
  snapshot_take(&snap, &second, &first, &peaks);
  TEST("the next one holds what was since, and nothing of before") {
    CHECK(near(snap.now, 3) && near(snap.interval, 2));
    CHECK_INT((int)snap.arrivals, 1);
    CHECK_INT((int)snap.releases, 2);
    CHECK_INT((int)snap.opens, 0);
    CHECK_INT((int)snap.hold.count, 2);
    CHECK(snap.hold.max >= 1.5 && snap.hold.max <= 1.5 * 17 / 16);
    CHECK(near(snap.leased_mean, (0.5 + 0.25) / 2) && near(snap.utilization, snap.leased_mean / 4));
    CHECK_INT(snap.leased, 0);
    CHECK_INT(snap.leased_max, 1);
    CHECK_INT(snap.waiting_max, 0);
  }
  TEST("an interval of no length says 0 and divides by nothing") {
    snapshot_take(&snap, &second, &second, &peaks);
    CHECK(near(snap.interval, 0) && near(snap.leased_mean, 0) && near(snap.utilization, 0));
    CHECK(snap.hold.count == 0 && snap.hold.max == 0 && snap.hold.p99 == 0);
  }
  pool_drain(pool, 4000000);
  opened_all(pool, 4000000);
  pool_destroy(pool);
}

int main(void) {
  test_clamp_and_slew();
  test_all_or_nothing();
  test_snapshot();
  return check_done();
}
