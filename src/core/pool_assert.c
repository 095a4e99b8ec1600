/*
** pool_assert: what is true of a pool after every input.
**
** The functions below are the invariants, one group each; pool_assert() runs them all. They recompute from the slots and the
** line what the pool keeps as counts, so that a count that drifted is found at the input that made it drift. For tests and for
** whoever hunts a bug: it walks everything.
*/
#include "pool_internal.h"

/* Each slot by itself: its state, flags and partners agree. */
static void assert_slot(const struct pool *p, const struct slot *s) {
  bool connected = s->state == SLOT_IDLE || s->state == SLOT_CHECKING || s->state == SLOT_LEASED || s->state == SLOT_RESETTING;
  INSIST((s->state == SLOT_EMPTY || s->since <= p->now) && s->generation <= p->generation);
  INSIST(!s->retire || s->state == SLOT_OPENING || s->state == SLOT_CHECKING || s->state == SLOT_LEASED || s->state == SLOT_RESETTING);
  INSIST(s->replacement == (s->relieves != NULL));
  INSIST(s->relieves == NULL || (s->state == SLOT_OPENING && s->relieves->relief == s && !s->retire));
  INSIST(s->relief == NULL || (connected && s->relief->relieves == s && s->expires <= p->now));
  INSIST(!s->reopen || s->state == SLOT_CLOSING || s->state == SLOT_OPENING);
  INSIST(s->expires == NEVER || connected);
  INSIST(s->timed == (s->expires != NEVER && s->expires > p->now));
  INSIST(list_empty(&s->due) == !(s->state == SLOT_IDLE && s->expires <= p->now && s->relief == NULL));
  switch (s->todo.kind) {
    case ACTION_NONE: break;
    case ACTION_OPEN: INSIST(s->state == SLOT_OPENING); break;
    case ACTION_CHECK: INSIST(s->state == SLOT_CHECKING); break;
    case ACTION_RESET: INSIST(s->state == SLOT_RESETTING); break;
    case ACTION_CLOSE: INSIST(s->state == SLOT_CLOSING); break;
    default: WRONG("a slot with a waiter's action");
  }
}

/* Each count against the slots it counts. */
static void assert_counts(const struct pool *p) {
  int counts[SLOT_STATES] = {0}, young = 0, young_checks = 0, retiring = 0, retiring_opens = 0, replacing = 0, unbegun = 0;
  for (int i = 0; i < p->settings.size_limit; i++) {
    const struct slot *s = &p->slots[i];
    assert_slot(p, s);
    counts[s->state]++;
    young += !list_empty(&s->grace);
    young_checks += !list_empty(&s->grace) && s->state == SLOT_CHECKING;
    retiring += s->retire;
    retiring_opens += s->retire && s->state == SLOT_OPENING;
    replacing += s->replacement;
    unbegun += s->todo.kind == ACTION_OPEN;
  }
  for (int i = 0; i < SLOT_STATES; i++) INSIST(counts[i] == p->counts[i]);
  INSIST(young == p->young && young_checks == p->young_checks);
  INSIST(retiring == p->retiring && retiring_opens == p->retiring_opens);
  INSIST(replacing == p->replacing && unbegun == p->unbegun);
}

/* One list of a state: who is in it, in which order. Returns how many. */
static int assert_row(const struct pool *p, const struct list *row, enum slot_state state, bool suspect) {
  int count = 0;
  const struct slot *before = NULL;
  LIST_EACH(l, row) {
    const struct slot *s = CONTAINER(l, struct slot, link);
    INSIST(s->state == state && l->next->prev == l);
    if (state == SLOT_IDLE) INSIST((s->generation < p->generation) == suspect);
    if (before != NULL && state == SLOT_IDLE) INSIST(s->since <= before->since);
    if (before != NULL && state != SLOT_IDLE && state != SLOT_EMPTY) INSIST(s->since >= before->since);
    before = s;
    count++;
  }
  return count;
}

static void assert_lists(const struct pool *p) {
  int suspects = assert_row(p, &p->suspects, SLOT_IDLE, true), due = 0, young = 0;
  for (enum slot_state state = 0; state < SLOT_STATES; state++) {
    int count = assert_row(p, &p->states[state], state, false);
    INSIST(count + (state == SLOT_IDLE ? suspects : 0) == p->counts[state]);
  }
  LIST_EACH(l, &p->due) {
    INSIST(CONTAINER(l, struct slot, due)->state == SLOT_IDLE);
    due++;
  }
  LIST_EACH(l, &p->grace) {
    INSIST(usec_after(CONTAINER(l, struct slot, grace)->since, CHECK_GRACE) > p->now);
    young++;
  }
  INSIST(due <= p->counts[SLOT_IDLE] && young == p->young);
  INSIST(heap_first(&p->expiry) == NULL || heap_first(&p->expiry)->at > p->now);
}

/* The line: in the order of arrival (promise 3), nobody past his deadline (4), one for an idle connection alone only first. */
static void assert_line(const struct pool *p) {
  LIST_EACH(l, &p->queue.line) {
    const struct waiter *w = CONTAINER(l, struct waiter, line);
    INSIST(w->state == WAITER_IN_LINE && w->todo.kind == ACTION_NONE && w->deadline > p->now);
  }
  queue_assert(&p->queue, p->now);
}

/* Promise 1. */
static void assert_limit(const struct pool *p) {
  int64_t limit = (int64_t)p->settings.size + p->settings.max_overflow;
  if (limit > p->cap) limit = p->cap;
  if (limit > p->settings.size_limit) limit = p->settings.size_limit;
  INSIST(p->limit == limit && p->ceiling >= p->limit);
  INSIST(pool_total(p) <= p->ceiling);
  INSIST(pool_excess(p) <= 0 || (p->counts[SLOT_IDLE] == 0 && p->unbegun == 0));
}

/* Promises 2, 5 and 10: nothing that could be done is left undone. */
static void assert_progress(const struct pool *p) {
  INSIST(!p->draining || (p->queue.count == 0 && p->counts[SLOT_IDLE] == 0 && p->unbegun == 0));
  INSIST(idle_shrink_at(p) > p->now);
  if (p->settings.size == 0) INSIST(p->counts[SLOT_IDLE] <= p->queue.count);
  if (p->paused || p->draining) {
    INSIST(p->unbegun == 0);
    return;
  }
  INSIST(list_empty(&p->suspects));
  if (p->queue.count == 0) return;
  INSIST(line_ready(p) == NULL);
  if (p->queue.front != NULL) INSIST(p->counts[SLOT_IDLE] + p->counts[SLOT_CHECKING] > 0);
  bool opening = p->counts[SLOT_OPENING] >= pool_max_opening(p) || (p->failing && p->counts[SLOT_OPENING] > 0);
  bool armed = pool_backing_off(p) && pool_deadline(p) <= p->retry_at;
  INSIST(line_need(p) <= 0 || !pool_room(p) || opening || armed);
}

/* What was counted is conserved (stats.h). */
static void assert_counters(const struct pool *p) {
  const struct counters *c = &p->counters;
  const int *n = p->counts;
  INSIST(c->arrivals == c->grants + c->timeouts + c->rejected + c->cancelled + c->errors + (uint64_t)p->queue.count);
  INSIST(c->grants == c->releases + (uint64_t)n[SLOT_LEASED]);
  INSIST(c->opens == c->closes + (uint64_t)(n[SLOT_IDLE] + n[SLOT_CHECKING] + n[SLOT_LEASED] + n[SLOT_RESETTING]));
  INSIST(c->grants == p->wait.count && c->releases == p->hold.count && c->opens == p->open_time.count);
}

void pool_assert(const struct pool *p) {
  assert_counts(p);
  assert_lists(p);
  assert_line(p);
  assert_limit(p);
  assert_progress(p);
  assert_counters(p);
  INSIST(p->failing == (p->failure.kind != POOL_OK));
  INSIST(!p->begun || pool_deadline(p) > p->now);
}
