/*
** timers: a heap of timers (core/heap.h).
**
** A timer is running exactly while its node is in the heap. It is taken out before `fire` is called, so that it may start
** itself again, stop others, or be freed from inside. Stopping another timer that is due in the same round keeps it from
** firing: nothing is collected beforehand, the heap's first is asked anew each time.
*/
#include "timers.h"

void timers_init(struct timers *ts) {
  heap_init(&ts->heap);
  ts->count = 0;
}

void timers_insert(struct timers *ts, struct timer *t, usec at) {
  INSIST(t->fire != NULL);
  timers_remove(ts, t);
  heap_insert(&ts->heap, &t->node, at);
  t->running = true;
  ts->count++;
}

void timers_remove(struct timers *ts, struct timer *t) {
  if (!t->running) return;
  INSIST(ts->count > 0);
  heap_remove(&ts->heap, &t->node);
  t->running = false;
  ts->count--;
}

usec timers_first(const struct timers *ts) {
  const struct heap_node *first = heap_first(&ts->heap);
  return first ? first->at : NEVER;
}

bool timers_fire(struct timers *ts, usec now) {
  int most = ts->count, fired = 0;
  while (fired < most && timers_first(ts) <= now) {
    struct timer *t = CONTAINER(heap_first(&ts->heap), struct timer, node);
    timers_remove(ts, t);
    t->fire(t);
    fired++;
  }
  return fired > 0;
}
