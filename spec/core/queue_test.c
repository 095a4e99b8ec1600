/* How waiters wait: turns of keys, priorities, lifo and codel, in virtual time. One connection, which comes back when the test says. */
#include "core/queue.h"
#include "world.h"

#include <string.h>

static struct settings one(int discipline) {
  struct settings s = plain();
  s.size = 1;
  s.max_overflow = 0;
  s.queue = discipline;
  s.queue_target = 50 * MS;
  s.queue_interval = SECOND;
  return s;
}

/* A world whose one connection caller 0 holds. */
static struct world busy(struct settings s) {
  struct world w = world_begin(s);
  ask(&w, 0, NEVER);
  opened(&w, ORDER(&w, ACTION_OPEN));
  GRANTED(&w, 0);
  return w;
}

static enum pool_err ask_as(struct world *w, int caller, uint64_t key, int priority, int weight) {
  struct waiter *waiter = &w->callers[caller];
  waiter_init(waiter, NEVER, w);
  waiter->key = key;
  waiter->priority = (uint8_t)priority;
  waiter->weight = (uint8_t)weight;
  enum pool_err err = pool_acquire(w->pool, waiter, w->now);
  pool_assert(w->pool);
  return err;
}

/* Who is granted when `holder` gives back: the caller's number, -1 nobody. */
static int pass_on(struct world *w, int holder) {
  give_back(w, holder, OUTCOME_CLEAN);
  struct action a = next(w);
  return a.kind == ACTION_GRANT ? (int)(a.waiter - w->callers) : -1;
}

/* Hands the connection round until nobody waits: the numbers in the order of service, as text. */
static const char *order_of(struct world *w, int holder) {
  static char text[256];
  int used = 0;
  for (int served = holder; (served = pass_on(w, served)) >= 0;) used += snprintf(text + used, sizeof text - (size_t)used, "%d ", served);
  if (used > 0) text[used - 1] = '\0';
  else text[0] = '\0';
  return text;
}

static void end(struct world *w) {
  while (next(w).kind != ACTION_NONE) continue;
  world_end(w);
}

static void test_keys(void) {
  TEST("keys take turns by grants, first come first served inside each") {
    struct world w = busy(one(QUEUE_FIFO));
    for (int i = 1; i <= 4; i++) ask_as(&w, i, 7, 5, 1);
    ask_as(&w, 5, 8, 5, 1);
    ask_as(&w, 6, 8, 5, 1);
    ask_as(&w, 7, 9, 5, 1);
    CHECK_TEXT(order_of(&w, 0), "1 5 7 2 6 3 4");
    end(&w);
  }
  TEST("a key of weight 2 gets two grants a round") {
    struct world w = busy(one(QUEUE_FIFO));
    for (int i = 1; i <= 6; i++) ask_as(&w, i, 7, 5, 2);
    for (int i = 7; i <= 9; i++) ask_as(&w, i, 8, 5, 1);
    CHECK_TEXT(order_of(&w, 0), "1 7 2 8 3 4 9 5 6");
    end(&w);
  }
  TEST("what has no key shares as one more key (and had its turn: the holder has none)") {
    struct world w = busy(one(QUEUE_FIFO));
    for (int i = 1; i <= 3; i++) ask_as(&w, i, 0, 5, 1);
    for (int i = 4; i <= 5; i++) ask_as(&w, i, 8, 5, 1);
    CHECK_TEXT(order_of(&w, 0), "4 1 5 2 3");
    end(&w);
  }
  TEST("a key that leaves and comes back gains nothing by it") {
    struct world w = busy(one(QUEUE_FIFO));
    for (int i = 10; i < 16; i++) ask_as(&w, i, 8, 5, 1);
    int holder = 0, mine = 0;
    ask_as(&w, 1, 7, 5, 1);
    for (int i = 0; i < 6; i++) { /* key 7 asks anew each time that it was granted: never two in line */
      holder = pass_on(&w, holder);
      mine += holder == 1 || holder == 2;
      if (holder == 1) ask_as(&w, 2, 7, 5, 1);
      if (holder == 2) ask_as(&w, 1, 7, 5, 1);
    }
    CHECK_INT(mine, 3);
    while ((holder = pass_on(&w, holder)) >= 0) continue;
    end(&w);
  }
  TEST("a key that stayed away cannot save up turns") {
    struct world w = busy(one(QUEUE_FIFO));
    ask_as(&w, 1, 7, 5, 1);
    int holder = pass_on(&w, 0);
    for (int i = 10; i < 16; i++) ask_as(&w, i, 8, 5, 1);
    for (int i = 0; i < 4; i++) holder = pass_on(&w, holder);
    for (int i = 2; i <= 4; i++) ask_as(&w, i, 7, 5, 1);
    CHECK_TEXT(order_of(&w, holder), "2 14 3 15 4");
    end(&w);
  }
}

static void test_bounds(void) {
  TEST("max_waiting_per_key bounds a key, and no other") {
    struct settings s = one(QUEUE_FIFO);
    s.max_waiting_per_key = 2;
    struct world w = busy(s);
    CHECK_INT(ask_as(&w, 1, 7, 5, 1), POOL_OK);
    CHECK_INT(ask_as(&w, 2, 7, 5, 1), POOL_OK);
    CHECK_INT(ask_as(&w, 3, 7, 5, 1), POOL_OVERLOADED);
    FAILED(&w, 3, POOL_OVERLOADED);
    CHECK(!w.callers[3].shed);
    CHECK_INT(ask_as(&w, 4, 8, 5, 1), POOL_OK);
    for (int i = 5; i < 9; i++) CHECK_INT(ask_as(&w, i, 0, 5, 1), POOL_OK);
    CHECK_INT(stats_of(&w).counters.rejected, 1);
    CHECK_INT(stats_of(&w).counters.shed, 0);
    leave(&w, 1);
    CHECK_INT(ask_as(&w, 3, 7, 5, 1), POOL_OK);
    order_of(&w, 0);
    end(&w);
  }
}

/* More keys than groups: a queue of its own, since a world has few callers. */
static void test_many_keys(void) {
  enum { MANY = 1000 };
  static struct queue q;
  static struct waiter waiters[2 * MANY];
  queue_init(&q);
  TEST("more keys than groups share groups, and each key stays first come, first served") {
    static int last[MANY];
    int out_of_order = 0, taken = 0;
    for (int i = 0; i < 2 * MANY; i++) {
      waiter_init(&waiters[i], NEVER, NULL);
      waiters[i].key = 1 + (uint64_t)(i % MANY);
      waiters[i].since = i;
      queue_add(&q, &waiters[i], i);
      if (i % 97 == 0) queue_assert(&q, i);
    }
    memset(last, 0, sizeof last);
    for (struct waiter *w; (w = queue_take(&q, 2 * MANY)) != NULL; taken++) {
      out_of_order += w->since < last[w->key - 1];
      last[w->key - 1] = (int)w->since;
      if (taken % 97 == 0) queue_assert(&q, 2 * MANY);
    }
    CHECK_INT(taken, 2 * MANY);
    CHECK_INT(out_of_order, 0);
    CHECK_INT(q.count, 0);
  }
  TEST("once they are gone each key has a group to itself again") {
    for (int i = 0; i < 200; i++) queue_add(&q, &waiters[i], 3 * MANY);
    for (int i = 0; i < QUEUE_GROUPS; i++) CHECK(q.groups[i].strangers == 0 && q.groups[i].count <= 1);
    while (queue_take(&q, 3 * MANY) != NULL) continue;
  }
}

/* Keys come and go while the table of groups is full. */
static void test_table(void) {
  static struct queue q;
  static struct waiter waiters[2 * QUEUE_GROUPS];
  struct waiter *strange = &waiters[QUEUE_GROUPS], *again = strange + 1;
  queue_init(&q);
  for (int i = 0; i < 2 * QUEUE_GROUPS; i++) {
    waiter_init(&waiters[i], NEVER, NULL);
    waiters[i].key = 1 + (uint64_t)i;
  }
  TEST("a key that came when the table was full stays with its strangers when there is room again, and is counted there") {
    for (int i = 0; i < QUEUE_GROUPS - 1; i++) queue_add(&q, &waiters[i], 0);
    strange->key = again->key = 1000;
    queue_add(&q, strange, 0);
    CHECK(queue_of_key(&q, 1000) >= 1);
    struct waiter *gone = waiters[0].group == strange->group ? &waiters[1] : &waiters[0];
    queue_remove(&q, gone);
    queue_add(&q, again, 0);
    queue_assert(&q, 0);
    CHECK(again->group == strange->group);
    while (queue_take(&q, 0) != NULL) continue;
  }
  TEST("a key that gets the place of one which was served does not pay for its turn") {
    memset(&q, 0, sizeof q);
    queue_init(&q);
    queue_add(&q, &waiters[0], 0);
    const struct queue_group *place = waiters[0].group;
    CHECK(queue_take(&q, 0) == &waiters[0]);
    for (int i = 1; i < QUEUE_GROUPS - 1; i++) { /* everybody else's place is used once more recently */
      queue_add(&q, &waiters[i], 0);
      queue_remove(&q, &waiters[i]);
    }
    queue_add(&q, &waiters[QUEUE_GROUPS + 10], 0);
    CHECK(waiters[QUEUE_GROUPS + 10].group == place);
    queue_add(&q, &waiters[QUEUE_GROUPS + 11], 0);
    CHECK(queue_take(&q, 0) == &waiters[QUEUE_GROUPS + 10]);
    CHECK(queue_take(&q, 0) == &waiters[QUEUE_GROUPS + 11]);
  }
}

static void test_priorities(void) {
  TEST("the higher priority goes first, inside its key alone") {
    struct world w = busy(one(QUEUE_FIFO));
    ask_as(&w, 1, 7, 0, 1);
    ask_as(&w, 2, 7, 9, 1);
    ask_as(&w, 3, 7, 5, 1);
    ask_as(&w, 4, 8, 0, 1);
    CHECK_TEXT(order_of(&w, 0), "2 4 3 1");
    end(&w);
  }
  TEST("one level is gained a second: a 0 that has waited 9 s goes before a fresh 9") {
    struct world w = busy(one(QUEUE_FIFO));
    ask_as(&w, 1, 0, 0, 1);
    pass(&w, 9 * SECOND + 1);
    ask_as(&w, 2, 0, 9, 1);
    CHECK_TEXT(order_of(&w, 0), "1 2");
    end(&w);
  }
  TEST("of two who are level the higher priority goes first") {
    struct world w = busy(one(QUEUE_FIFO));
    ask_as(&w, 1, 0, 5, 1);
    pass(&w, 4 * SECOND);
    ask_as(&w, 2, 0, 9, 1);
    CHECK_TEXT(order_of(&w, 0), "2 1");
    end(&w);
  }
  TEST("before that it does not") {
    struct world w = busy(one(QUEUE_FIFO));
    ask_as(&w, 1, 0, 0, 1);
    pass(&w, 9 * SECOND - 1);
    ask_as(&w, 2, 0, 9, 1);
    CHECK_TEXT(order_of(&w, 0), "2 1");
    end(&w);
  }
}

static void test_lifo(void) {
  TEST("lifo is fifo until the line has stood for queue_interval") {
    struct world w = busy(one(QUEUE_LIFO));
    for (int i = 1; i <= 3; i++) ask_as(&w, i, 0, 5, 1), pass(&w, MS);
    pass(&w, SECOND - 4 * MS);
    CHECK_TEXT(order_of(&w, 0), "1 2 3");
    end(&w);
  }
  TEST("then the newest goes first, until the line is empty") {
    struct world w = busy(one(QUEUE_LIFO));
    for (int i = 1; i <= 3; i++) ask_as(&w, i, 0, 5, 1), pass(&w, MS);
    pass(&w, SECOND - 3 * MS);
    CHECK_INT(pass_on(&w, 0), 3);
    ask_as(&w, 4, 0, 5, 1);
    CHECK_TEXT(order_of(&w, 3), "4 2 1");
    ask_as(&w, 0, 0, 5, 1);
    GRANTED(&w, 0);
    for (int i = 1; i <= 3; i++) ask_as(&w, i, 0, 5, 1), pass(&w, MS);
    CHECK_TEXT(order_of(&w, 0), "1 2 3");
    end(&w);
  }
  TEST("a priority counts as having come so many seconds later") {
    struct world w = busy(one(QUEUE_LIFO));
    ask_as(&w, 1, 0, 5, 1);
    ask_as(&w, 2, 0, 9, 1);
    pass(&w, 3 * SECOND);
    ask_as(&w, 3, 0, 5, 1);
    ask_as(&w, 4, 0, 5, 1);
    pass(&w, 2 * SECOND);
    ask_as(&w, 5, 0, 5, 1);
    CHECK_TEXT(order_of(&w, 0), "5 2 4 3 1");
    end(&w);
  }
  TEST("changing to fifo and back takes effect at once") {
    struct settings s = one(QUEUE_LIFO);
    struct world w = busy(s);
    for (int i = 1; i <= 4; i++) ask_as(&w, i, 0, 5, 1), pass(&w, MS);
    pass(&w, 2 * SECOND);
    s.queue = QUEUE_FIFO;
    CHECK_INT(pool_configure(w.pool, &s, w.now), POOL_OK);
    CHECK_INT(pass_on(&w, 0), 1);
    s.queue = QUEUE_LIFO;
    CHECK_INT(pool_configure(w.pool, &s, w.now), POOL_OK);
    CHECK_TEXT(order_of(&w, 1), "4 3 2");
    end(&w);
  }
}

static void test_codel(void) {
  TEST("codel sheds nobody in a burst shorter than queue_interval") {
    struct world w = busy(one(QUEUE_CODEL));
    for (int i = 1; i <= 3; i++) ask_as(&w, i, 0, 5, 1);
    pass(&w, SECOND - 1);
    NOTHING(&w);
    CHECK_TEXT(order_of(&w, 0), "1 2 3");
    end(&w);
  }
  TEST("after it, who has waited twice the target is shed, at the deadline that the pool names") {
    struct world w = busy(one(QUEUE_CODEL));
    ask_as(&w, 1, 0, 5, 1);
    CHECK_INT(pool_deadline(w.pool), w.now + SECOND);
    pass(&w, SECOND - 20 * MS);
    ask_as(&w, 2, 0, 5, 1);
    pass(&w, 20 * MS);
    FAILED(&w, 1, POOL_OVERLOADED);
    CHECK(w.callers[1].shed);
    NOTHING(&w);
    CHECK_INT(pool_deadline(w.pool), w.now + 80 * MS);
    pass(&w, 80 * MS);
    FAILED(&w, 2, POOL_OVERLOADED);
    CHECK_INT(stats_of(&w).counters.shed, 2);
    CHECK_INT(stats_of(&w).counters.rejected, 2);
    CHECK_INT(pool_deadline(w.pool) > w.now + SECOND, true);
    CHECK_INT(pass_on(&w, 0), -1);
    end(&w);
  }
}

static void test_codel_calm(void) {
  TEST("a grant within the target ends the overload") {
    struct world w = busy(one(QUEUE_CODEL));
    ask_as(&w, 1, 0, 5, 1);
    pass(&w, SECOND);
    FAILED(&w, 1, POOL_OVERLOADED);
    ask_as(&w, 1, 0, 5, 1);
    ask_as(&w, 2, 0, 5, 1);
    pass(&w, 50 * MS);
    CHECK_INT(pass_on(&w, 0), 1); /* within the target: calm again */
    pass(&w, SECOND - 1);
    NOTHING(&w);
    pass(&w, 1);
    FAILED(&w, 2, POOL_OVERLOADED);
    CHECK_INT(pass_on(&w, 1), -1);
    end(&w);
  }
  TEST("a grant that took longer than the target does not") {
    struct world w = busy(one(QUEUE_CODEL));
    ask_as(&w, 1, 0, 5, 1);
    ask_as(&w, 2, 0, 5, 1);
    pass(&w, 400 * MS);
    CHECK_INT(pass_on(&w, 0), 1);
    pass(&w, 600 * MS - 1);
    NOTHING(&w);
    pass(&w, 1);
    FAILED(&w, 2, POOL_OVERLOADED);
    CHECK_INT(pass_on(&w, 1), -1);
    end(&w);
  }
  TEST("a line that empties begins a new interval") {
    struct world w = busy(one(QUEUE_CODEL));
    ask_as(&w, 1, 0, 5, 1);
    pass(&w, 900 * MS);
    CHECK_INT(pass_on(&w, 0), 1);
    ask_as(&w, 2, 0, 5, 1);
    pass(&w, 900 * MS);
    NOTHING(&w);
    CHECK_INT(pass_on(&w, 1), 2);
    CHECK_INT(pass_on(&w, 2), -1);
    end(&w);
  }
  TEST("a target of 0 sheds at once when it is time, and does not spin") {
    struct settings s = one(QUEUE_CODEL);
    s.queue_target = 0;
    struct world w = busy(s);
    ask_as(&w, 1, 0, 5, 1);
    pass(&w, SECOND);
    FAILED(&w, 1, POOL_OVERLOADED);
    CHECK(pool_deadline(w.pool) > w.now);
    CHECK_INT(pass_on(&w, 0), -1);
    end(&w);
  }
}

/* ---- fairness ---- */

enum { TENANTS = 3, HELD = 10, GRANTS = 30000 };

/* Ten connections, each held for 1 ms; tenants have 2, 16 and 64 callers. The first wants less than its share (its callers ask again 4 ms
   after each grant), the others more than there is. Returns Jain's index of what each got over what max-min fairness gives. */
static double fairness(bool keyed) {
  static struct waiter waiters[82];
  static usec asks[82];
  long got[TENANTS] = {0}, total = 0, asked = 0;
  struct settings s = plain();
  s.size = HELD;
  s.max_overflow = 0;
  struct world w = world_begin(s);
  struct slot *held[HELD];
  usec until[HELD];
  int holding = 0, tenant_of[82];
  for (int i = 0; i < 82; i++) tenant_of[i] = i < 2 ? 0 : i < 18 ? 1 : 2;
  memset(asks, 0, sizeof asks);
  for (int i = 0; i < 82; i++) waiter_init(&waiters[i], NEVER, NULL);
  while (total < GRANTS) {
    for (int i = 0; i < 82; i++) {
      if (asks[i] < 0 || asks[i] > w.now) continue;
      waiter_init(&waiters[i], NEVER, NULL);
      waiters[i].key = keyed ? 1 + (uint64_t)tenant_of[i] : 0;
      asks[i] = -1;
      asked += tenant_of[i] == 0;
      pool_acquire(w.pool, &waiters[i], w.now);
    }
    struct action a;
    while (pool_next(w.pool, &a)) {
      if (a.kind == ACTION_OPEN) pool_opened(w.pool, a.slot, w.now, NULL);
      if (a.kind != ACTION_GRANT) continue;
      int i = (int)(a.waiter - waiters);
      got[tenant_of[i]]++;
      total++;
      held[holding] = a.slot;
      until[holding++] = w.now + MS;
      asks[i] = w.now + (tenant_of[i] == 0 ? 4 * MS : MS);
    }
    usec next_at = until[0];
    for (int i = 1; i < holding; i++) next_at = until[i] < next_at ? until[i] : next_at;
    w.now = next_at;
    for (int i = holding - 1; i >= 0; i--) {
      if (until[i] > w.now) continue;
      pool_release(w.pool, held[i], w.now, OUTCOME_CLEAN);
      held[i] = held[--holding];
      until[i] = until[holding];
    }
  }
  double wants = (double)asked, rest = ((double)total - wants) / 2, fair[TENANTS] = {wants, rest, rest}, sum = 0, squares = 0;
  for (int i = 0; i < TENANTS; i++) {
    double x = (double)got[i] / fair[i];
    sum += x;
    squares += x * x;
  }
  printf("  %s: %ld, %ld, %ld grants of %.0f, %.0f, %.0f: Jain's index %.4f\n", keyed ? "by key" : "without keys", got[0], got[1], got[2],
         fair[0], fair[1], fair[2], sum * sum / (TENANTS * squares));
  for (int i = 0; i < 82; i++) pool_cancel(w.pool, &waiters[i], w.now);
  while (holding > 0) pool_release(w.pool, held[--holding], w.now, OUTCOME_CLEAN);
  end(&w);
  return sum * sum / (TENANTS * squares);
}

static void test_fairness(void) {
  TEST("three tenants of unequal demand get what max-min fairness gives: Jain's index at least 0.99") {
    CHECK(fairness(true) >= 0.99);
    CHECK(fairness(false) < 0.9); /* that the measure measures */
  }
}

int main(void) {
  test_keys();
  test_bounds();
  test_many_keys();
  test_table();
  test_priorities();
  test_lifo();
  test_codel();
  test_codel_calm();
  test_fairness();
  return check_done();
}
