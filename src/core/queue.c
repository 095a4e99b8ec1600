/*
** queue: first come, first served.
**
** A waiter is in `line` while its state is WAITER_IN_LINE, and in `by_deadline` exactly when its deadline is not NEVER. The
** deadline must not change while it is in line.
*/
#include "queue.h"

#include "pool.h"

void queue_init(struct queue *q) {
  list_init(&q->line);
  heap_init(&q->by_deadline);
  q->count = 0;
}

void queue_add(struct queue *q, struct waiter *w) {
  list_append(&q->line, &w->line);
  if (w->deadline != NEVER) heap_insert(&q->by_deadline, &w->by_deadline, w->deadline);
  q->count++;
}

void queue_remove(struct queue *q, struct waiter *w) {
  INSIST(q->count > 0);
  list_remove(&w->line);
  if (w->deadline != NEVER) heap_remove(&q->by_deadline, &w->by_deadline);
  q->count--;
}

struct waiter *queue_first(const struct queue *q) {
  return list_empty(&q->line) ? NULL : CONTAINER(q->line.next, struct waiter, line);
}

struct waiter *queue_oldest(const struct queue *q) { return queue_first(q); }

struct waiter *queue_expired(const struct queue *q, usec now) {
  struct heap_node *first = heap_first(&q->by_deadline);
  return first != NULL && first->at <= now ? CONTAINER(first, struct waiter, by_deadline) : NULL;
}

usec queue_deadline(const struct queue *q) {
  struct heap_node *first = heap_first(&q->by_deadline);
  return first != NULL ? first->at : NEVER;
}
