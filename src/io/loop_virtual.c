/*
** loop_virtual: the loop in virtual time. Nothing is slept, nothing is polled: readiness is what the script said.
**
** 1. Where anything is scripted (readiness, wakes) a turn delivers it and no time passes. Where nothing is, the clock jumps
**    to the earliest timer or `until`, whichever comes first; where there is neither, the turn does nothing
**    (loop_virtual_idle says so beforehand).
** 2. The order is the script's: readiness in the order given, to watches in the order started; then wakes in the order
**    started. Two runs of one script are equal.
** 3. Readiness lasts for one turn: what no watch wants then is lost. What is scripted from inside a callback comes a turn later.
**
** wake_send is safe from another thread, as with libev; everything else is one thread's. Signals are never caught here.
*/
#include "loop_internal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct readiness {
  int fd, events;
};

struct loop_virtual {
  struct loop base;
  struct list watches;      /* running, in the order started */
  struct list *cursor;      /* the next watch to be looked at: stopping it moves this on */
  struct list wakes;        /* started, in order */
  struct readiness *script; /* owned; for the next turn */
  int scripted, capacity;
  atomic_int sent;          /* wakes sent and not yet delivered */
};

struct watch_virtual {
  struct list link;
};

struct wake_virtual {
  struct list link; /* next NULL: stopped */
  atomic_int sent;  /* since the last delivery */
  bool due;         /* to be delivered in this turn */
};

_Static_assert(sizeof(struct watch_virtual) <= sizeof(((struct watch *)0)->impl), "fits a watch");
_Static_assert(sizeof(struct wake_virtual) <= sizeof(((struct wake *)0)->impl), "fits a wake");

static struct loop_virtual *loop_virtual(struct loop *l) { return CONTAINER(l, struct loop_virtual, base); }
static struct watch_virtual *watch_virtual(struct watch *w) { return (struct watch_virtual *)(void *)w->impl; }
static struct wake_virtual *wake_virtual(struct wake *w) { return (struct wake_virtual *)(void *)w->impl; }

static usec loop_virtual_clock(struct loop *base) { return base->now; }

/* ---- delivery ---- */

static void readiness_deliver(struct loop_virtual *l, struct readiness r) {
  l->cursor = l->watches.next;
  while (l->cursor != &l->watches) {
    struct watch_virtual *v = CONTAINER(l->cursor, struct watch_virtual, link);
    struct watch *w = CONTAINER(v, struct watch, impl);
    l->cursor = l->cursor->next;
    int ready = w->fd == r.fd ? w->events & r.events : 0;
    if (ready) w->ready(w, ready);
  }
}

static bool script_deliver(struct loop_virtual *l) {
  int count = l->scripted; /* what the callbacks add is the next turn's */
  for (int i = 0; i < count; i++) readiness_deliver(l, l->script[i]);
  l->scripted -= count;
  if (count) memmove(l->script, l->script + count, (size_t)l->scripted * sizeof *l->script);
  return count > 0;
}

static bool wakes_deliver(struct loop_virtual *l) {
  bool any = false;
  LIST_EACH(node, &l->wakes) {
    struct wake_virtual *v = CONTAINER(node, struct wake_virtual, link);
    int sent = atomic_exchange(&v->sent, 0);
    atomic_fetch_sub(&l->sent, sent);
    v->due = sent > 0;
    any = any || v->due;
  }
  l->cursor = l->wakes.next;
  while (l->cursor != &l->wakes) {
    struct wake_virtual *v = CONTAINER(l->cursor, struct wake_virtual, link);
    struct wake *w = CONTAINER(v, struct wake, impl);
    l->cursor = l->cursor->next;
    if (!v->due) continue;
    v->due = false;
    w->woken(w);
  }
  return any;
}

static void loop_virtual_wait(struct loop *base, usec until) {
  struct loop_virtual *l = loop_virtual(base);
  bool readied = script_deliver(l);
  bool woken = wakes_deliver(l);
  if (readied || woken || until == NEVER) return;
  if (until > base->now) base->now = until;
}

/* ---- watches, wakes, signals ---- */

static void loop_virtual_watch_start(struct loop *base, struct watch *w) {
  list_append(&loop_virtual(base)->watches, &watch_virtual(w)->link);
}

static void loop_virtual_watch_change(struct loop *base, struct watch *w) { (void)base, (void)w; }

static void link_remove(struct loop_virtual *l, struct list *link) {
  if (l->cursor == link) l->cursor = link->next;
  list_remove(link);
}

static void loop_virtual_watch_stop(struct loop *base, struct watch *w) { link_remove(loop_virtual(base), &watch_virtual(w)->link); }

static void loop_virtual_wake_start(struct loop *base, struct wake *w) {
  struct wake_virtual *v = wake_virtual(w);
  if (v->link.next) return;
  atomic_store(&v->sent, 0);
  v->due = false;
  list_append(&loop_virtual(base)->wakes, &v->link);
}

static void loop_virtual_wake_stop(struct loop *base, struct wake *w) {
  struct loop_virtual *l = loop_virtual(base);
  struct wake_virtual *v = wake_virtual(w);
  if (!v->link.next) return;
  link_remove(l, &v->link);
  v->link.next = NULL;
  atomic_fetch_sub(&l->sent, atomic_exchange(&v->sent, 0));
}

static void loop_virtual_wake_send(struct loop *base, struct wake *w) {
  atomic_fetch_add(&loop_virtual(base)->sent, 1);
  atomic_fetch_add(&wake_virtual(w)->sent, 1);
}

static void loop_virtual_signal_start(struct loop *base, struct signal *s, int number) { (void)base, (void)s, (void)number; }

static void loop_virtual_signal_stop(struct loop *base, struct signal *s) { (void)base, (void)s; }

/* ---- creation, destruction, the script ---- */

static void loop_virtual_destroy(struct loop *base) {
  struct loop_virtual *l = loop_virtual(base);
  free(l->script);
  free(l);
}

static const struct loop_ops loop_virtual_ops = {
  .destroy = loop_virtual_destroy,
  .clock = loop_virtual_clock,
  .wait = loop_virtual_wait,
  .watch_start = loop_virtual_watch_start,
  .watch_change = loop_virtual_watch_change,
  .watch_stop = loop_virtual_watch_stop,
  .wake_start = loop_virtual_wake_start,
  .wake_stop = loop_virtual_wake_stop,
  .wake_send = loop_virtual_wake_send,
  .signal_start = loop_virtual_signal_start,
  .signal_stop = loop_virtual_signal_stop,
};

struct loop *loop_virtual_create(usec start) {
  struct loop_virtual *l = calloc(1, sizeof *l);
  if (!l) return NULL;
  loop_init(&l->base, &loop_virtual_ops, start, false);
  list_init(&l->watches);
  list_init(&l->wakes);
  l->cursor = &l->watches;
  return &l->base;
}

static bool script_grow(struct loop_virtual *l) {
  int capacity = l->capacity ? l->capacity * 2 : 16;
  struct readiness *script = realloc(l->script, (size_t)capacity * sizeof *script);
  if (!script) return false;
  l->script = script;
  l->capacity = capacity;
  return true;
}

bool loop_virtual_ready(struct loop *base, int fd, int events) {
  INSIST(base->ops == &loop_virtual_ops);
  INSIST(fd >= 0 && events != 0);
  struct loop_virtual *l = loop_virtual(base);
  if (l->scripted == l->capacity && !script_grow(l)) return false;
  l->script[l->scripted++] = (struct readiness){fd, events};
  return true;
}

bool loop_virtual_idle(const struct loop *base) {
  INSIST(base->ops == &loop_virtual_ops);
  const struct loop_virtual *l = CONTAINER(base, const struct loop_virtual, base);
  return l->scripted == 0 && atomic_load(&l->sent) == 0 && base->timers.count == 0 && !loop_pending(base);
}
