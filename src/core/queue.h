/*
** queue: how waiters wait. Today first come, first served; other disciplines (lifo, codel, keys, priorities) will live here,
** behind the same functions. A waiter is in the line and in a heap by deadline at once; both are threaded through it, so
** the line has no limit of its own and never allocates.
*/
#ifndef POOL_CORE_QUEUE_H
#define POOL_CORE_QUEUE_H

#include "heap.h"
#include "list.h"

struct waiter;

struct queue {
  struct list line;        /* in the order of service */
  struct heap by_deadline; /* those with a deadline */
  int count;
};

void queue_init(struct queue *);
void queue_add(struct queue *, struct waiter *);    /* at the end */
void queue_remove(struct queue *, struct waiter *); /* must be in line */
struct waiter *queue_first(const struct queue *);   /* the next to be served, NULL when empty; stays in line */
struct waiter *queue_oldest(const struct queue *);  /* the one longest in line, NULL when empty */
struct waiter *queue_expired(const struct queue *, usec now); /* one whose deadline is <= now, NULL when none; stays */
usec queue_deadline(const struct queue *);          /* the earliest deadline, NEVER when none */

#endif
