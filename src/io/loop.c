/*
** loop: what both loops share: the order of a turn, drains, the rule that time never goes back, which watches really change.
**
** A turn:  work, wait, work.   work: timers that are due, then drains, round after round until a whole round did nothing.
**
** 1. The loop sleeps only when the work before it had nothing to do: whoever calls loop_turn in a `while (!done)` gets to
**    look at `done` after any work that might have set it, and what was queued between two turns is never slept over.
** 2. It does not sleep while a drain says `pending`, a timer is due, or the rounds ran out (LOOP_ROUNDS): events are polled
**    instead, so that tasks that never rest cannot starve the sockets.
** 3. loop_now is the same for everything in one dispatch; it never goes back, whatever the clock does.
** 4. A drain may add and remove drains, itself included, while it runs. Neither drains nor turns nest.
** 5. A watch is running exactly while its `events` is not 0.
*/
#include "loop_internal.h"

void loop_init(struct loop *l, const struct loop_ops *ops, usec now, bool attached) {
  *l = (struct loop){.ops = ops, .now = now, .attached = attached};
  timers_init(&l->timers);
  list_init(&l->drains);
  l->cursor = &l->drains;
}

void loop_destroy(struct loop *l) {
  if (!l) return;
  INSIST(!l->draining);
  INSIST(l->watches == 0);
  INSIST(l->timers.count == 0);
  INSIST(list_empty(&l->drains));
  l->ops->destroy(l);
}

usec loop_now(const struct loop *l) { return l->now; }

usec loop_update(struct loop *l) {
  usec clock = l->ops->clock(l);
  if (clock > l->now) l->now = clock;
  return l->now;
}

bool loop_attached(const struct loop *l) { return l->attached; }

/* ---- drains ---- */

static bool drain_round(struct loop *l) {
  bool did = false;
  l->cursor = l->drains.next;
  while (l->cursor != &l->drains) {
    struct drain *d = CONTAINER(l->cursor, struct drain, link);
    l->cursor = l->cursor->next;
    if (d->run(d)) did = true;
  }
  return did;
}

static bool drain_rounds(struct loop *l) {
  int round = 0;
  INSIST(!l->draining);
  l->draining = true;
  while (round < LOOP_ROUNDS && drain_round(l)) round++;
  l->draining = false;
  l->restless = round == LOOP_ROUNDS;
  return round > 0;
}

static bool drain_added(const struct drain *d) { return d->link.next && d->link.next != &d->link; }

void drain_add(struct loop *l, struct drain *d) {
  INSIST(d->run != NULL);
  INSIST(!drain_added(d));
  list_append(&l->drains, &d->link);
}

void drain_remove(struct loop *l, struct drain *d) {
  if (!drain_added(d)) return;
  if (l->cursor == &d->link) l->cursor = d->link.next;
  list_remove(&d->link);
}

/* ---- the turn ---- */

bool loop_work(struct loop *l) {
  bool fired = timers_fire(&l->timers, l->now);
  bool drained = drain_rounds(l);
  return fired || drained;
}

bool loop_pending(const struct loop *l) {
  if (l->restless || timers_first(&l->timers) <= l->now) return true;
  LIST_EACH(node, &l->drains) {
    struct drain *d = CONTAINER(node, struct drain, link);
    if (d->pending && d->pending(d)) return true;
  }
  return false;
}

void loop_turn(struct loop *l, usec until) {
  INSIST(!l->attached);
  INSIST(!l->draining);
  loop_update(l); /* whatever happened since the last turn took time: nobody's deadline may start in the past */
  bool worked = loop_work(l);
  usec first = timers_first(&l->timers);
  if (worked || loop_pending(l)) until = l->now;
  l->ops->wait(l, first < until ? first : until);
  loop_work(l);
}

/* ---- watches ---- */

static void watch_stop(struct loop *l, struct watch *w) {
  if (w->events == 0) return;
  INSIST(l->watches > 0);
  l->ops->watch_stop(l, w);
  w->events = 0;
  l->watches--;
}

static void watch_start(struct loop *l, struct watch *w, int fd, int events) {
  w->fd = fd;
  w->events = events;
  l->watches++;
  l->ops->watch_start(l, w);
}

static void watch_check(const struct watch *w, int fd, int events) {
  INSIST((events & ~(LOOP_READ | LOOP_WRITE)) == 0);
  INSIST(events == 0 || fd >= 0);
  INSIST(events == 0 || w->ready != NULL);
}

void watch_set(struct loop *l, struct watch *w, int fd, int events) {
  if (w->events == events && (w->fd == fd || events == 0)) return; /* the hot path */
  watch_check(w, fd, events);
  if (w->events != 0 && events != 0 && w->fd == fd) {
    w->events = events;
    l->ops->watch_change(l, w);
    return;
  }
  watch_stop(l, w);
  if (events) watch_start(l, w, fd, events);
}

void watch_renew(struct loop *l, struct watch *w, int fd, int events) {
  watch_check(w, fd, events);
  watch_stop(l, w);
  if (events) watch_start(l, w, fd, events);
}

/* ---- timers, wakes, signals ---- */

void timer_start(struct loop *l, struct timer *t, usec at) {
  if (at == NEVER) timers_remove(&l->timers, t);
  else timers_insert(&l->timers, t, at);
}

void timer_stop(struct loop *l, struct timer *t) { timers_remove(&l->timers, t); }

void wake_start(struct loop *l, struct wake *w) {
  INSIST(w->woken != NULL);
  l->ops->wake_start(l, w);
}

void wake_stop(struct loop *l, struct wake *w) { l->ops->wake_stop(l, w); }

void wake_send(struct loop *l, struct wake *w) { l->ops->wake_send(l, w); }

void signal_start(struct loop *l, struct signal *s, int number) {
  INSIST(s->caught != NULL);
  INSIST(number > 0);
  l->ops->signal_start(l, s, number);
}

void signal_stop(struct loop *l, struct signal *s) { l->ops->signal_stop(l, s); }
