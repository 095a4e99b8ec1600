/*
** pool_idle: the upkeep of idle connections.
**
** Suspects are checked as soon as they are idle, all of them, whether anybody waits or not. Overflow (what is beyond `size`)
** lingers for idle_timeout, the rest for shrink_after, always the longest idle first, and never those that min_idle keeps or
** that the line may still need. min_idle is filled by opens ahead.
**
** Recycling. A connection past its `expires` goes on serving until its relief is there:
**   room in the pool            a replacement is opened; when it is there the expired one is closed, at once or at its return;
**   none, idle, nobody closing  it is closed, and its place opened again in the background;
**   none, returned, a line      the same, unless a connection is already being closed or opened: then it serves once more;
**   more than size, idle        it is closed and that is all.
** None of it happens while the pool is paused or backing off, so that a server that is away costs no connection that works.
*/
#include "pool_internal.h"

static int idle_kept(const struct pool *p) { return p->settings.size > 0 ? p->settings.min_idle : 0; }

static struct slot *idle_oldest(const struct pool *p) {
  const struct list *idle = &p->states[SLOT_IDLE], *suspects = &p->suspects;
  if (list_empty(suspects)) return list_empty(idle) ? NULL : CONTAINER(idle->prev, struct slot, link);
  struct slot *suspect = CONTAINER(suspects->prev, struct slot, link);
  if (list_empty(idle)) return suspect;
  struct slot *s = CONTAINER(idle->prev, struct slot, link);
  return s->since < suspect->since ? s : suspect;
}

/* ---- time ---- */

static usec idle_check_deadline(const struct pool *p) {
  if (list_empty(&p->states[SLOT_CHECKING]) || p->settings.pre_ping_timeout == 0) return NEVER;
  const struct slot *oldest = CONTAINER(p->states[SLOT_CHECKING].next, struct slot, link);
  return usec_after(oldest->since, p->settings.pre_ping_timeout);
}

void idle_age(struct pool *p) {
  while (idle_check_deadline(p) <= p->now) {
    slot_check_failed(p, CONTAINER(p->states[SLOT_CHECKING].next, struct slot, link), true);
  }
  while (!list_empty(&p->grace)) {
    struct slot *s = CONTAINER(p->grace.next, struct slot, grace);
    if (usec_after(s->since, CHECK_GRACE) > p->now) break;
    slot_age(p, s);
  }
  struct heap_node *first;
  while ((first = heap_first(&p->expiry)) != NULL && first->at <= p->now) {
    struct slot *s = CONTAINER(first, struct slot, by_expiry);
    slot_expiry(p, s, s->expires);
  }
}

usec idle_deadline(const struct pool *p) {
  const struct heap_node *first = heap_first(&p->expiry);
  usec at = usec_earlier(idle_check_deadline(p), idle_shrink_at(p));
  return first != NULL ? usec_earlier(at, first->at) : at;
}

/* ---- checks ---- */

void idle_check_suspects(struct pool *p) {
  if (pool_halted(p)) return;
  while (!list_empty(&p->suspects)) slot_check(p, CONTAINER(p->suspects.next, struct slot, link));
}

/* ---- shrinking and filling ---- */

usec idle_shrink_at(const struct pool *p) {
  const struct settings *set = &p->settings;
  if (p->counts[SLOT_IDLE] <= int_max(idle_kept(p), p->queue.count)) return NEVER;
  usec since = idle_oldest(p)->since, at = NEVER;
  if (idle_overflow(p) > 0) at = usec_after(since, set->size > 0 ? set->idle_timeout : 0);
  if (set->shrink_after > 0) at = usec_earlier(at, usec_after(since, set->shrink_after));
  return at;
}

void idle_shrink(struct pool *p) {
  while (idle_shrink_at(p) <= p->now) slot_close(p, idle_oldest(p));
}

void idle_trim(struct pool *p) {
  line_elide(p);
  while (pool_excess(p) > 0 && p->counts[SLOT_IDLE] > 0) slot_close(p, idle_oldest(p));
}

int idle_missing(const struct pool *p) {
  int ahead = p->counts[SLOT_OPENING] - p->retiring_opens - p->replacing;
  return idle_kept(p) - p->counts[SLOT_IDLE] - p->counts[SLOT_CHECKING] - ahead;
}

void idle_fill(struct pool *p) {
  while (idle_missing(p) > 0 && line_may_open(p)) slot_open(p, NULL);
}

/* ---- recycling ---- */

usec idle_lifetime(struct pool *p) {
  if (p->settings.recycle == 0) return NEVER;
  double u = (double)pool_random(p, (uint64_t)1 << 53) / 9007199254740992.0;
  usec lifetime = (usec)((double)p->settings.recycle * (1 - p->settings.recycle_jitter * u));
  return lifetime < SHORTEST_PAUSE ? SHORTEST_PAUSE : lifetime;
}

/* Closing an expired one can begin only when nothing else is on its way and a new one could be opened after it. */
static bool idle_may_retire(const struct pool *p) {
  return !pool_halted(p) && !pool_backing_off(p) && p->counts[SLOT_CLOSING] == 0;
}

bool idle_retires_on_return(const struct pool *p, const struct slot *s) {
  if (s->relief != NULL || pool_room(p) || p->queue.count == 0) return false;
  return p->counts[SLOT_OPENING] == 0 && idle_may_retire(p);
}

static bool idle_to_spare(const struct pool *p) {
  return idle_overflow(p) > 0 && p->counts[SLOT_IDLE] > int_max(idle_kept(p), p->queue.count);
}

void idle_recycle(struct pool *p) {
  while (!list_empty(&p->due) && !p->paused) {
    struct slot *s = CONTAINER(p->due.next, struct slot, due);
    if (idle_to_spare(p)) {
      p->counters.recycled++;
      slot_close(p, s);
    } else if (pool_room(p)) {
      if (!line_may_open(p)) return;
      slot_open(p, s);
    } else {
      if (!idle_may_retire(p)) return;
      p->counters.recycled++;
      s->reopen = true;
      slot_close(p, s);
    }
  }
}

void idle_reopen(struct pool *p) {
  if (idle_overflow(p) >= 0 || !line_may_open(p)) return;
  slot_open(p, NULL)->reopen = true;
}
