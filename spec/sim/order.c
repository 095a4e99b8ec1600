/*
** order: see the header. A waiter keeps its address while it is in line; those in line are few, so that they are found by looking.
*/
#include "order.h"

#include <string.h>

#include "io/engine.h"

enum { ASKED_MOST = 4096, CALLS = 4096, KEYS_MOST = 16, PASSED_MOST = 8 };

struct asked {
  const struct waiter *waiter;
  uint64_t key;
  uint8_t priority;
};

/* One pool at a time: in the order of arrival; who was answered leaves a gap that the others close up. */
static struct {
  struct asked asked[ASKED_MOST];
  int count;
  struct counters counters;
  uint64_t keys[KEYS_MOST];       /* those seen */
  int key_count;
  int passed[KEYS_MOST][KEYS_MOST]; /* how often the second was served since the first had its turn, while that waited */
  struct {
    const struct waiter *waiter;
    usec deadline;
  } calls[CALLS]; /* by address; a call that meets another's place takes it, and the other is not known any more */
} order;

enum pool_err __real_pool_acquire(struct pool *, struct waiter *, usec now);
void __real_pool_cancel(struct pool *, struct waiter *, usec now);
bool __real_pool_next(struct pool *, struct action *out);
void __real_engine_lease(struct engine *, struct call *, usec deadline);
void __real_engine_query(struct engine *, struct call *, usec deadline);
void __wrap_engine_lease(struct engine *, struct call *, usec deadline);
void __wrap_engine_query(struct engine *, struct call *, usec deadline);
enum pool_err __wrap_pool_acquire(struct pool *, struct waiter *, usec now);
void __wrap_pool_cancel(struct pool *, struct waiter *, usec now);
bool __wrap_pool_next(struct pool *, struct action *out);

void order_begin(void) {
  order.count = order.key_count = 0;
  memset(order.passed, 0, sizeof order.passed);
  order.counters = (struct counters){0};
}

static int asked_find(const struct waiter *w) {
  for (int i = 0; i < order.count; i++)
    if (order.asked[i].waiter == w) return i;
  return -1;
}

static void asked_remove(int i) {
  order.count--;
  memmove(&order.asked[i], &order.asked[i + 1], (size_t)(order.count - i) * sizeof order.asked[0]);
}

static int waiting_of(uint64_t key) {
  int count = 0;
  for (int i = 0; i < order.count; i++) {
    const struct asked *a = &order.asked[i];
    count += a->key == key && a->waiter->state == WAITER_IN_LINE && !a->waiter->idle_only; /* who is first of all is in no key's line */
  }
  return count;
}

static void check_crowd(const struct pool *p, const struct waiter *w, int before) {
  int most = pool_settings(p)->max_waiting_per_key;
  bool bound = w->key != 0 && most > 0;
  if (w->state == WAITER_IN_LINE && !w->idle_only) INSIST(!bound || before < most);
  if (w->state == WAITER_FAILED && w->crowded) INSIST(bound && before >= most);
}

/* ---- what a call was begun with ---- */

static size_t call_place(const struct waiter *w) { return (size_t)((uintptr_t)w / 64 % CALLS); }

static void call_note(const struct waiter *w, usec deadline) {
  order.calls[call_place(w)].waiter = w;
  order.calls[call_place(w)].deadline = deadline;
}

void __wrap_engine_lease(struct engine *e, struct call *call, usec deadline) {
  call_note(&call->waiter, deadline);
  __real_engine_lease(e, call, deadline);
}

void __wrap_engine_query(struct engine *e, struct call *call, usec deadline) {
  call_note(&call->waiter, deadline);
  __real_engine_query(e, call, deadline);
}

/* However often it goes back in line. */
static void check_deadline(const struct waiter *w, usec now) {
  if (order.calls[call_place(w)].waiter != w) return;
  INSIST(w->deadline <= order.calls[call_place(w)].deadline || w->deadline <= now);
}

/* ---- the line ---- */

enum pool_err __wrap_pool_acquire(struct pool *p, struct waiter *w, usec now) {
  INSIST(asked_find(w) < 0 && order.count < ASKED_MOST);
  check_deadline(w, now);
  int before = waiting_of(w->key);
  order.asked[order.count++] = (struct asked){w, w->key, w->priority};
  order.counters.arrivals++;
  enum pool_err err = __real_pool_acquire(p, w, now);
  check_crowd(p, w, before);
  return err;
}

static void count_failure(enum pool_err kind) {
  struct counters *c = &order.counters;
  uint64_t *of = kind == POOL_TIMEOUT ? &c->timeouts : kind == POOL_OVERLOADED ? &c->rejected : &c->errors;
  INSIST(kind == POOL_TIMEOUT || kind == POOL_OVERLOADED || kind == POOL_CONNECT || kind == POOL_CLOSED);
  ++*of;
}

void __wrap_pool_cancel(struct pool *p, struct waiter *w, usec now) {
  enum waiter_state state = w->state;
  int i = asked_find(w);
  INSIST((i >= 0) == (state != WAITER_OUT));
  if (state == WAITER_IN_LINE) order.counters.cancelled++;
  if (state == WAITER_GRANTED) order.counters.grants++;
  if (state == WAITER_FAILED) count_failure(w->failed);
  if (i >= 0) asked_remove(i);
  __real_pool_cancel(p, w, now);
}

static void check_turn(const struct pool *p, const struct asked *served) {
  if (pool_settings(p)->queue == QUEUE_LIFO) return;
  for (const struct asked *a = order.asked; a < served; a++)
    INSIST(a->key != served->key || a->priority < served->priority || a->waiter->state != WAITER_IN_LINE);
}

static void check_open(const struct pool *p) {
  struct stats s;
  pool_stats(p, &s);
  INSIST(!s.paused);
}

static int key_place(uint64_t key) {
  int i = 0;
  while (i < order.key_count && order.keys[i] != key) i++;
  INSIST(i < KEYS_MOST);
  if (i == order.key_count) order.keys[order.key_count++] = key;
  return i;
}

/* A key was served: those whose turn it is have not waited for long. Weights here are 3 at most. */
static void check_share(const struct waiter *w) {
  int served = key_place(w->key);
  memset(order.passed[served], 0, sizeof order.passed[served]);
  if (w->idle_only) return;
  for (int i = 0; i < order.key_count; i++) {
    if (waiting_of(order.keys[i]) == 0) memset(order.passed[i], 0, sizeof order.passed[i]);
    else if (i != served) INSIST(++order.passed[i][served] <= PASSED_MOST);
  }
}

bool __wrap_pool_next(struct pool *p, struct action *out) {
  if (!__real_pool_next(p, out)) return false;
  if (out->kind != ACTION_GRANT && out->kind != ACTION_FAIL) return true;
  int i = asked_find(out->waiter);
  INSIST(i >= 0);
  if (out->kind == ACTION_GRANT) {
    check_open(p);
    check_turn(p, &order.asked[i]);
    INSIST(out->waiter->idle_only || out->waiter->since + out->waiter->waited < out->waiter->deadline);
    order.counters.grants++;
    check_share(out->waiter);
  } else {
    count_failure(out->waiter->failed);
  }
  asked_remove(i);
  return true;
}

void order_check(const struct pool *p) {
  struct stats s;
  const struct counters *is = &s.counters, *mine = &order.counters;
  pool_stats(p, &s);
  INSIST(s.waiting == order.count);
  INSIST(is->arrivals == mine->arrivals && is->grants == mine->grants && is->timeouts == mine->timeouts);
  INSIST(is->rejected == mine->rejected && is->cancelled == mine->cancelled && is->errors == mine->errors);
}
