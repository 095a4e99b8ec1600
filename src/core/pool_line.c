/*
** pool_line: the line, the opens and checks begun for it, and the back-off.
**
** Demand is the waiters in line; supply under way is what will come to the first of them by itself: opens, and checks and
** resets younger than CHECK_GRACE. What supply does not cover is the need. The need is met by checks of idle connections
** first and then by opens; once a check has outlived its grace, by opens first, since what is slow once is slow again.
**
** Invariants (asserted in pool_assert.c):
** 1. nobody is in line beside an idle connection that is ready, unless the pool is paused;
** 2. a need is left only while paused, or without room, or with max_opening opens under way, or backing off, or while the one
**    probing open of a failing pool is under way;
** 3. a waiter for an idle connection alone is first in line, and waits only while a connection is idle or in a check.
**
** A failing pool (its last open failed, none has succeeded since) opens one connection at a time, at retry_at. Failures of
** opens that were begun before the back-off was armed belong to the same outage and do not lengthen it.
*/
#include "pool_internal.h"

/* ---- waiters ---- */

void line_grant(struct pool *p, struct waiter *w, struct slot *s) {
  slot_lease(p, s);
  w->state = WAITER_GRANTED;
  w->slot = s;
  w->waited = p->now - w->since;
  p->counters.grants++;
  histogram_record(&p->wait, w->waited);
  todo_add(p, &w->todo, ACTION_GRANT);
}

enum pool_err line_refuse(struct pool *p, struct waiter *w, enum pool_err kind) {
  w->state = WAITER_FAILED;
  w->failed = kind;
  w->waited = p->now - w->since;
  switch (kind) {
    case POOL_TIMEOUT: p->counters.timeouts++; break;
    case POOL_OVERLOADED: p->counters.rejected++; break;
    case POOL_CONNECT:
    case POOL_CLOSED: p->counters.errors++; break;
    default: WRONG("no waiter fails so");
  }
  todo_add(p, &w->todo, ACTION_FAIL);
  return kind;
}

static void line_fail(struct pool *p, struct waiter *w, enum pool_err kind) {
  queue_remove(&p->queue, w);
  line_refuse(p, w, kind);
}

void line_refuse_all(struct pool *p, enum pool_err kind) {
  struct waiter *w;
  while ((w = queue_oldest(&p->queue)) != NULL) line_fail(p, w, kind);
}

void line_expire(struct pool *p) {
  struct waiter *w;
  while ((w = queue_expired(&p->queue, p->now)) != NULL) {
    line_fail(p, w, p->failing && !w->idle_only ? POOL_CONNECT : POOL_TIMEOUT);
  }
  while ((w = queue_to_shed(&p->queue, p->now)) != NULL) {
    w->shed = true;
    p->counters.shed++;
    line_fail(p, w, POOL_OVERLOADED);
  }
}

bool line_crowded(const struct pool *p, const struct waiter *w) {
  int most = p->settings.max_waiting_per_key;
  return w->key != 0 && most > 0 && queue_of_key(&p->queue, w->key) >= most;
}

bool line_overfull(const struct pool *p) {
  int room = int_max(0, p->limit - p->counts[SLOT_LEASED] - p->counts[SLOT_CLOSING]);
  return (int64_t)p->queue.count + 1 > (int64_t)room + p->settings.max_waiting;
}

/* ---- what is ready ---- */

/* The most recently used one has been idle for the shortest time: when it needs a check, all do. */
struct slot *line_ready(const struct pool *p) {
  if (list_empty(&p->states[SLOT_IDLE])) return NULL;
  struct slot *s = CONTAINER(p->states[SLOT_IDLE].next, struct slot, link);
  const struct settings *set = &p->settings;
  if (!set->pre_ping) return s;
  usec idle = p->now - s->since;
  if (set->pre_ping_after > 0) return idle <= set->pre_ping_after ? s : NULL;
  return s->proven && idle == 0 ? s : NULL;
}

void line_serve(struct pool *p) {
  struct slot *s;
  if (p->paused) return;
  while (p->queue.count > 0 && (s = line_ready(p)) != NULL) {
    line_grant(p, queue_take(&p->queue, p->now), s);
  }
}

/* ---- need ---- */

static bool line_idle_only(const struct pool *p) { return p->queue.front != NULL; }

/* Opens that will become connections for the line or the idle. */
static int line_opens(const struct pool *p) { return p->counts[SLOT_OPENING] - p->retiring_opens; }

int line_need(const struct pool *p) {
  int idle_only = line_idle_only(p);
  return p->queue.count - idle_only - line_opens(p) - int_max(0, p->young - idle_only);
}

/* The same for checks: they serve a waiter for an idle connection alone, too. */
static int line_check_need(const struct pool *p) {
  int need = p->queue.count - line_opens(p) - p->young;
  return line_idle_only(p) && p->counts[SLOT_CHECKING] == 0 ? int_max(1, need) : need;
}

bool line_may_open(const struct pool *p) {
  if (pool_halted(p) || !pool_room(p) || p->counts[SLOT_OPENING] >= pool_max_opening(p)) return false;
  return !p->failing || (p->retry_at <= p->now && p->counts[SLOT_OPENING] == 0);
}

static void line_open(struct pool *p) {
  while (line_need(p) > 0 && line_may_open(p)) slot_open(p, NULL);
}

/* Behind one that came back this instant there may be one that was proven this instant (pre_ping_after 0): hence line_serve. */
static void line_check(struct pool *p) {
  struct list *idle = &p->states[SLOT_IDLE];
  while (!list_empty(idle) && line_check_need(p) > 0) {
    slot_check(p, CONTAINER(idle->next, struct slot, link));
    line_serve(p);
  }
}

void line_meet(struct pool *p) {
  if (pool_halted(p)) return;
  if (p->counts[SLOT_CHECKING] > p->young_checks) line_open(p);
  line_check(p);
  line_open(p);
  if (line_idle_only(p) && p->counts[SLOT_CHECKING] + p->counts[SLOT_IDLE] == 0) {
    line_fail(p, p->queue.front, POOL_TIMEOUT);
  }
}

/* ---- opens nothing needs any more ---- */

static bool line_wants_unbegun(const struct pool *p) {
  if (pool_halted(p) || pool_backing_off(p) || pool_excess(p) > 0) return false;
  int demand = p->queue.count - line_idle_only(p) - int_max(0, p->young - line_idle_only(p));
  return line_opens(p) - p->replacing <= demand || idle_missing(p) >= 0;
}

/* The newest open that was not begun, of those begun for the line or min_idle unless `any`: recycling wants its own. */
static struct slot *line_unbegun(const struct pool *p, bool any) {
  for (struct list *l = p->states[SLOT_OPENING].prev; l != &p->states[SLOT_OPENING]; l = l->prev) {
    struct slot *s = CONTAINER(l, struct slot, link);
    if (s->todo.kind == ACTION_OPEN && (any || !(s->replacement || s->reopen))) return s;
  }
  return NULL;
}

void line_elide(struct pool *p) {
  while (p->unbegun > 0 && !line_wants_unbegun(p)) {
    struct slot *s = line_unbegun(p, pool_halted(p) || pool_backing_off(p) || pool_excess(p) > 0);
    if (s == NULL) return;
    slot_elide(p, s);
  }
}

/* ---- the back-off ---- */

void line_back_off(struct pool *p, const struct slot *s, const struct pool_error *error) {
  const struct settings *set = &p->settings;
  bool same_outage = p->failing && s->since <= p->failed_at;
  p->failure = *error;
  if (p->failure.kind == POOL_OK) p->failure.kind = POOL_CONNECT; /* kind says that there is a failure */
  if (!p->failing) p->backoff = set->backoff_min;
  else if (!same_outage) p->backoff = p->backoff > set->backoff_max / 2 ? set->backoff_max : p->backoff * 2;
  if (p->backoff < SHORTEST_PAUSE) p->backoff = SHORTEST_PAUSE;
  if (same_outage && p->retry_at > p->now) return;
  usec half = p->backoff / 2;
  p->failing = true;
  p->failed_at = p->now;
  p->retry_at = usec_after(p->now, half + (usec)pool_random(p, (uint64_t)(p->backoff - half) + 1));
}

usec line_deadline(const struct pool *p) {
  usec at = queue_deadline(&p->queue);
  if (pool_halted(p)) return at;
  if (p->queue.count > 0 && !list_empty(&p->grace)) {
    const struct slot *s = CONTAINER(p->grace.next, struct slot, grace);
    at = usec_earlier(at, usec_after(s->since, CHECK_GRACE));
  }
  if (!pool_backing_off(p)) return at;
  bool wanted = (pool_room(p) && (line_need(p) > 0 || idle_missing(p) > 0)) || !list_empty(&p->due);
  return wanted ? usec_earlier(at, p->retry_at) : at;
}
