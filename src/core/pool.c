/*
** pool: the inputs of the pool, and what it promises.
**
** Every input brings the clock forward, makes its one change, and pumps. The pump does, in this order: fail waiters whose
** deadline has come; let checks, grace and lifetimes run out; grant what is ready, in the order of the line; check suspects;
** begin the checks and opens that the line needs; call off opens that nothing needs; shrink, recycle, fill. Each step looks at
** counts and list heads only, so that an input costs the same with ten slots and with a thousand.
**
** What the pool promises (asserted in pool_assert.c, or a named test in spec/core/pool_test.c, or both):
**
**  1. Connections, closing ones included, never exceed min(size + max_overflow, cap, size_limit). After a shrink they never exceed
**     what there was, and reach the new limit without cutting a lease: idle ones are closed at once, the others at their return.
**  2. While somebody waits and there is room, an open is under way, a back-off is armed, or a check or reset younger than
**     CHECK_GRACE is about to serve him. Nobody sleeps out a timeout beside free room.
**  3. Nobody overtakes in line. A connection changes hands in one step: a waiter that gave up never receives one, and no connection
**     is lost to it.
**  4. One absolute deadline covers line, open, check and retries. The clock never goes backwards: an earlier `now` stands still.
**  5. A disconnect makes every older connection suspect: it is checked before it is lent again, and at once when it is idle.
**  6. At most max_opening opens at a time. A permanent failure answers everybody in line; a passing one keeps them waiting, with a
**     jittered back-off and one probing open. Both arm the back-off, so that newcomers cost at most one attempt an interval. Opens
**     not begun are called off with their demand; one under way whose waiter left goes idle; a returned connection beats an open.
**  7. Lifetimes have jitter. An expired connection is replaced in the background, before it is closed where there is room.
**  8. A connection idle for longer than pre_ping_after is checked before it is lent. The check has its own deadline; when it fails the
**     waiter keeps his place and gets another connection.
**  9. What comes back dirty is reset before it is lent again; what cannot be reset is closed.
** 10. size 0 keeps nothing: a returned connection is closed unless somebody waits. The limit still holds.
** 11. Every refusal has a kind: timeout, overloaded, connect, closed. Nothing is allocated after pool_create.
**
** What it does not do: decide whether a connection is clean (the driver knows), time out opens and resets (the engine does: an open
** always answers), or hold a lease to its word.
*/
#include "pool_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- making and ending ---- */

static int limit_of(const struct settings *set, int cap) {
  int64_t limit = (int64_t)set->size + set->max_overflow;
  if (limit > cap) limit = cap;
  if (limit > set->size_limit) limit = set->size_limit;
  return (int)limit;
}

static void slots_init(struct pool *p) {
  for (int i = 0; i < p->settings.size_limit; i++) {
    struct slot *s = &p->slots[i];
    s->index = i;
    s->expires = NEVER;
    list_init(&s->due);
    list_init(&s->grace);
    list_append(&p->states[SLOT_EMPTY], &s->link);
  }
  p->counts[SLOT_EMPTY] = p->settings.size_limit;
}

struct pool *pool_create(const struct settings *settings, uint64_t seed) {
  INSIST(settings->size_limit >= 1);
  struct pool *p = calloc(1, sizeof *p + (size_t)settings->size_limit * sizeof p->slots[0]);
  if (p == NULL) return NULL;
  p->settings = *settings;
  p->random = seed;
  p->cap = INT32_MAX;
  p->limit = p->ceiling = limit_of(settings, p->cap);
  for (int i = 0; i < SLOT_STATES; i++) list_init(&p->states[i]);
  list_init(&p->suspects);
  list_init(&p->due);
  list_init(&p->grace);
  list_init(&p->actions);
  heap_init(&p->expiry);
  queue_init(&p->queue);
  queue_configure(&p->queue, settings->queue, settings->queue_target, settings->queue_interval);
  slots_init(p);
  return p;
}

void pool_destroy(struct pool *p) {
  if (p == NULL) return;
  INSIST(p->queue.count == 0);
  free(p);
}

void waiter_init(struct waiter *w, usec deadline, void *user) {
  memset(w, 0, sizeof *w);
  w->deadline = deadline;
  w->user = user;
  w->priority = WAITER_PRIORITY;
  w->weight = 1;
}

/* splitmix64 (Steele, Lea, Flood 2014). The modulus is uneven by less than below / 2^64. */
uint64_t pool_random(struct pool *p, uint64_t below) {
  uint64_t z = p->random += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return (z ^ (z >> 31)) % below;
}

/* ---- the clock and the pump ---- */

static void pool_at(struct pool *p, usec now) {
  INSIST(now != NEVER);
  if (!p->begun) {
    p->begun = true;
    p->since = p->now = now;
  }
  if (now <= p->now) return;
  usec leased;
  bool too_long = __builtin_mul_overflow(now - p->now, (usec)p->counts[SLOT_LEASED], &leased);
  if (too_long || __builtin_add_overflow(p->leased_time, leased, &p->leased_time)) p->leased_time = NEVER;
  p->now = now;
}

/* Before this time the clock alone, or a connection that changes hands with nobody in line, gives the pump nothing to do. */
static usec pool_wake(const struct pool *p) {
  bool stirred = p->queue.count > 0 || p->settings.min_idle > 0 || idle_overflow(p) > 0 || !list_empty(&p->suspects) ||
                 !list_empty(&p->grace);
  return stirred ? INT64_MIN : pool_deadline(p);
}

static void pool_pump(struct pool *p) {
  line_expire(p);
  idle_age(p);
  if (p->queue.count > 0) line_serve(p);
  if (!list_empty(&p->suspects)) idle_check_suspects(p);
  if (p->queue.count > 0) line_meet(p);
  if (p->unbegun > 0) line_elide(p);
  if (p->counts[SLOT_IDLE] > 0) idle_shrink(p);
  if (!list_empty(&p->due)) idle_recycle(p);
  if (p->queue.count > 0) line_serve(p); /* one proven this instant may have come to the front */
  if (p->settings.min_idle > 0) idle_fill(p);
  p->wake = pool_wake(p);
}

/* After nothing but idle -> leased or leased -> idle, with nobody in line. Spares the pump where it would find nothing to do, which
   is nearly always: no deadline has come, and none came closer but that of the connection just idle. */
static void pool_pump_if_due(struct pool *p) {
  if (p->now >= p->wake) pool_pump(p);
}

static void pool_returned(struct pool *p, const struct slot *s) {
  if (p->settings.shrink_after > 0) p->wake = usec_earlier(p->wake, usec_after(p->now, p->settings.shrink_after));
  if (s->state != SLOT_IDLE || s->generation < p->generation || s->expires <= p->now) pool_pump(p);
  else pool_pump_if_due(p);
}

void pool_tick(struct pool *p, usec now) {
  pool_at(p, now);
  pool_pump(p);
}

/* ---- waiters ---- */

/* Whether one who wants an idle connection or none may wait for a check of one. */
static bool pool_idle_will_do(const struct pool *p) {
  if (p->paused || p->queue.count > 0) return false;
  if (p->counts[SLOT_IDLE] > 0) return true;
  LIST_EACH(l, &p->states[SLOT_CHECKING]) {
    if (!CONTAINER(l, struct slot, link)->retire) return true;
  }
  return false;
}

static enum pool_err pool_line_up(struct pool *p, struct waiter *w) {
  if (w->idle_only) {
    if (!pool_idle_will_do(p)) return line_refuse(p, w, POOL_TIMEOUT);
    w->deadline = usec_after(p->now, p->settings.pre_ping_timeout > 0 ? p->settings.pre_ping_timeout : IDLE_ONLY_WAIT);
  } else if (line_crowded(p, w)) {
    w->crowded = true;
    return line_refuse(p, w, POOL_OVERLOADED);
  } else if (line_overfull(p)) {
    return line_refuse(p, w, POOL_OVERLOADED);
  }
  w->state = WAITER_IN_LINE;
  queue_add(&p->queue, w, p->now);
  p->peaks.waiting = int_max(p->peaks.waiting, p->queue.count);
  return POOL_OK;
}

enum pool_err pool_acquire(struct pool *p, struct waiter *w, usec now) {
  struct slot *s;
  INSIST(w->state == WAITER_OUT && w->priority <= WAITER_PRIORITY_MAX);
  pool_at(p, now);
  w->slot = NULL;
  w->failed = POOL_OK;
  w->since = p->now;
  w->waited = 0;
  w->shed = w->crowded = false;
  w->idle_only = w->deadline <= p->now;
  p->counters.arrivals++;
  if (p->queue.count == 0 && !p->paused && (s = line_ready(p)) != NULL) {
    line_grant(p, w, s);
    pool_pump_if_due(p);
    return POOL_OK;
  }
  enum pool_err err = p->draining ? line_refuse(p, w, POOL_CLOSED) : pool_line_up(p, w);
  pool_pump(p);
  return w->state == WAITER_FAILED ? w->failed : err;
}

static void pool_take_back(struct pool *p, struct slot *s) {
  p->counters.releases++;
  histogram_record(&p->hold, p->now - s->since);
}

void pool_cancel(struct pool *p, struct waiter *w, usec now) {
  pool_at(p, now);
  todo_drop(&w->todo);
  switch (w->state) {
    case WAITER_OUT:
    case WAITER_FAILED: break;
    case WAITER_IN_LINE:
      queue_remove(&p->queue, w);
      p->counters.cancelled++;
      break;
    case WAITER_GRANTED:
      pool_take_back(p, w->slot);
      slot_settle(p, w->slot, false);
      w->slot = NULL;
      break;
    default: WRONG("no such state of a waiter");
  }
  w->state = WAITER_OUT;
  pool_pump(p);
}

void pool_release(struct pool *p, struct slot *s, usec now, enum outcome outcome) {
  INSIST(s->state == SLOT_LEASED);
  pool_at(p, now);
  pool_take_back(p, s);
  switch (outcome) {
    case OUTCOME_CLEAN:
      slot_settle(p, s, false);
      pool_returned(p, s);
      return;
    case OUTCOME_DIRTY: slot_reset(p, s); break;
    case OUTCOME_BROKEN:
      p->counters.lost += !s->dead;
      slots_suspect(p);
      slot_close(p, s);
      break;
    case OUTCOME_RETIRE: slot_close(p, s); break;
    default: WRONG("no such outcome");
  }
  pool_pump(p);
}

/* ---- answers ---- */

void pool_opened(struct pool *p, struct slot *s, usec now, const struct pool_error *error) {
  INSIST(s->state == SLOT_OPENING && s->todo.kind == ACTION_NONE);
  pool_at(p, now);
  if (error == NULL) {
    histogram_record(&p->open_time, p->now - s->since);
    p->failing = false;
    p->failure.kind = POOL_OK;
    slot_opened(p, s);
  } else {
    p->counters.open_failures++;
    line_back_off(p, s, error);
    slot_failed(p, s);
    if (error->permanent) line_refuse_all(p, POOL_CONNECT);
  }
  pool_pump(p);
}

void pool_checked(struct pool *p, struct slot *s, usec now, bool alive) {
  INSIST(s->state == SLOT_CLOSING || (s->state == SLOT_CHECKING && s->todo.kind == ACTION_NONE));
  pool_at(p, now);
  if (s->state == SLOT_CHECKING) {
    if (alive) slot_settle(p, s, true);
    else slot_check_failed(p, s, true);
  }
  pool_pump(p);
}

void pool_reset_done(struct pool *p, struct slot *s, usec now, bool ok) {
  INSIST(s->state == SLOT_RESETTING && s->todo.kind == ACTION_NONE);
  pool_at(p, now);
  if (ok) slot_settle(p, s, false);
  else slot_close(p, s);
  pool_pump(p);
}

void pool_closed(struct pool *p, struct slot *s, usec now) {
  INSIST(s->state == SLOT_CLOSING && s->todo.kind == ACTION_NONE);
  pool_at(p, now);
  slot_closed(p, s);
  pool_pump(p);
}

void pool_lost(struct pool *p, struct slot *s, usec now, bool disconnect) {
  INSIST(s->state != SLOT_EMPTY);
  pool_at(p, now);
  if (s->state == SLOT_CHECKING) {
    slot_check_failed(p, s, disconnect);
  } else if (s->state != SLOT_CLOSING) {
    if (disconnect) slots_suspect(p);
    p->counters.lost += !s->dead && s->state != SLOT_OPENING;
    s->dead = true;
    if (s->state == SLOT_IDLE) slot_close(p, s);
    else slot_retire(p, s);
  }
  pool_pump(p);
}

void pool_suspect(struct pool *p, usec now) {
  pool_at(p, now);
  slots_suspect(p);
  pool_pump(p);
}

/* ---- orders from outside ---- */

/* The limit may have changed, and with it who is in excess. */
static void pool_relimit(struct pool *p) {
  p->limit = limit_of(&p->settings, p->cap);
  p->ceiling = int_max(p->limit, pool_total(p));
  idle_trim(p);
  p->ceiling = int_max(p->limit, int_min(p->ceiling, pool_total(p)));
}

/* A shorter life is everybody's; a longer one only of those still to be opened. */
static void pool_shorten(struct pool *p) {
  for (int i = 0; i < p->settings.size_limit; i++) {
    struct slot *s = &p->slots[i];
    if (s->state == SLOT_EMPTY || s->state == SLOT_OPENING || s->state == SLOT_CLOSING) continue;
    usec expires = usec_after(s->opened, idle_lifetime(p));
    if (expires < s->expires) slot_expiry(p, s, expires);
  }
}

enum pool_err pool_configure(struct pool *p, const struct settings *settings, usec now) {
  if (settings->size_limit != p->settings.size_limit) return POOL_SETTINGS;
  enum pool_err err = settings_check(settings, NULL);
  if (err != POOL_OK) return err;
  pool_at(p, now);
  bool ages = settings->recycle != p->settings.recycle || settings->recycle_jitter != p->settings.recycle_jitter;
  p->settings = *settings;
  queue_configure(&p->queue, settings->queue, settings->queue_target, settings->queue_interval);
  if (ages) pool_shorten(p);
  pool_relimit(p);
  pool_pump(p);
  return POOL_OK;
}

void pool_allow(struct pool *p, int cap, usec now) {
  INSIST(cap >= 0);
  pool_at(p, now);
  p->cap = cap;
  pool_relimit(p);
  pool_pump(p);
}

/* Closes what is idle, retires the rest. An open not begun yet is no connection of now. */
static void pool_retire_all(struct pool *p) {
  for (int i = 0; i < p->settings.size_limit; i++) {
    struct slot *s = &p->slots[i];
    switch (s->state) {
      case SLOT_EMPTY:
      case SLOT_CLOSING: break;
      case SLOT_IDLE: slot_close(p, s); break;
      case SLOT_OPENING:
        if (s->todo.kind != ACTION_OPEN) slot_retire(p, s);
        break;
      case SLOT_CHECKING:
      case SLOT_LEASED:
      case SLOT_RESETTING: slot_retire(p, s); break;
      default: WRONG("no such state of a slot");
    }
  }
}

void pool_invalidate(struct pool *p, usec now) {
  pool_at(p, now);
  pool_retire_all(p);
  pool_pump(p);
}

void pool_pause(struct pool *p, usec now) {
  pool_at(p, now);
  p->paused = true;
  pool_pump(p);
}

void pool_resume(struct pool *p, usec now) {
  pool_at(p, now);
  p->paused = false;
  pool_pump(p);
}

void pool_drain(struct pool *p, usec now) {
  pool_at(p, now);
  p->draining = true;
  line_refuse_all(p, POOL_CLOSED);
  pool_retire_all(p);
  pool_pump(p);
}

/* ---- queries ---- */

usec pool_deadline(const struct pool *p) { return usec_earlier(line_deadline(p), idle_deadline(p)); }

bool pool_next(struct pool *p, struct action *out) {
  struct list *l = list_shift(&p->actions);
  if (l == NULL) return false;
  struct todo *todo = CONTAINER(l, struct todo, link);
  out->kind = todo->kind;
  todo->kind = ACTION_NONE;
  if (out->kind == ACTION_GRANT || out->kind == ACTION_FAIL) {
    out->waiter = CONTAINER(todo, struct waiter, todo);
    out->slot = out->waiter->slot;
    out->waiter->state = WAITER_OUT;
  } else {
    out->waiter = NULL;
    out->slot = CONTAINER(todo, struct slot, todo);
    p->unbegun -= out->kind == ACTION_OPEN;
  }
  return true;
}

static int pool_unmet(const struct pool *p) {
  int under_way = p->counts[SLOT_OPENING] + p->counts[SLOT_CHECKING] + p->counts[SLOT_RESETTING] - p->retiring;
  return int_max(0, p->queue.count - int_max(0, under_way) - int_max(0, p->limit - pool_total(p)));
}

void pool_peaks(struct pool *p, struct peaks *out) {
  *out = p->peaks;
  p->peaks = (struct peaks){p->counts[SLOT_LEASED], p->queue.count};
}

void pool_stats(const struct pool *p, struct stats *out) {
  const struct waiter *oldest = queue_oldest(&p->queue);
  const int *counts = p->counts;
  *out = (struct stats){
    .now = p->now, .since = p->since, .leased_time = p->leased_time,
    .size = p->settings.size, .max_overflow = p->settings.max_overflow, .limit = p->limit,
    .total = pool_total(p), .idle = counts[SLOT_IDLE], .opening = counts[SLOT_OPENING], .checking = counts[SLOT_CHECKING],
    .leased = counts[SLOT_LEASED], .resetting = counts[SLOT_RESETTING], .closing = counts[SLOT_CLOSING],
    .waiting = p->queue.count, .unmet = pool_unmet(p), .queue_age = oldest != NULL ? p->now - oldest->since : 0,
    .paused = p->paused, .draining = p->draining, .failing = p->failing,
    .counters = p->counters, .wait = p->wait, .hold = p->hold, .open_time = p->open_time,
  };
}

const struct settings *pool_settings(const struct pool *p) { return &p->settings; }
const struct pool_error *pool_failure(const struct pool *p) { return &p->failure; }
bool pool_empty(const struct pool *p) { return pool_total(p) == 0; }

struct slot *pool_slot(const struct pool *p, int index) {
  INSIST(index >= 0 && index < p->settings.size_limit);
  return (struct slot *)&p->slots[index];
}
