/*
** queue: how waiters wait, and who of them is next.
**
** Keys share. The waiters of one key are a group; groups take turns by grants (a key of weight w gets w grants a round), so that a tenant
** who asks for much waits longer, not everybody. What asks without a key is one group more.
**
** Within a group the discipline decides, and the priority: 0 to 9, one level gained a second, which is the same as having come `priority`
** seconds earlier.
**   fifo   first come, first served.
**   lifo   the same until the line has stood (has not been empty) for `interval`; from then until it is empty the newest first: in an
**   overload the fresh are served in time, and the old, whose callers have given up, are not (Facebook's adaptive LIFO, Maurer 2015).
**   codel  fifo; when for `interval` the line has not been empty and nobody was granted within `target`, it is overloaded: who has waited
**   twice the target is shed, until the line is empty or somebody was granted within the target (after Nichols, Jacobson 2012 and folly's
**   Codel).
**
** A waiter is threaded into the line by arrival, into its group by level and into a heap by deadline; the line has no limit of its own
** and never allocates. Groups come from a fixed table.
*/
#ifndef POOL_CORE_QUEUE_H
#define POOL_CORE_QUEUE_H

#include "heap.h"
#include "list.h"

struct waiter;

/* Keys in line at once that have a group each. Beyond it keys share groups by their hash (stochastic fairness queueing, McKenney 1990). */
enum { QUEUE_GROUPS = 256, QUEUE_LEVELS = 10 };

struct queue_group {
  uint64_t key;
  struct list chain;                /* in its bucket, or, never used, in none */
  struct list spare;                /* among those without waiters, longest ago first */
  struct heap_node turn;            /* in `turns` while it has waiters: the start of its next grant in virtual time */
  int64_t finish;                   /* the end of its last grant in virtual time */
  int count, strangers;             /* waiters; those of them whose key is another */
  int weight;
  struct list levels[QUEUE_LEVELS]; /* waiters by priority, in the order of arrival */
};

struct queue {
  struct list line;                 /* all, in the order of arrival */
  struct heap by_deadline;          /* those with a deadline */
  struct heap turns;                /* groups with waiters */
  struct waiter *front;             /* the one who wants an idle connection or none: before all others; NULL mostly */
  int64_t virtual_time;             /* the start of the last grant */
  int count;
  int discipline;                   /* QUEUE_FIFO ... */
  usec target, interval;
  usec stood_since;                 /* while count > 0: since when the line has not been empty */
  usec calm_at;                     /* while count > 0: when it was last empty, or somebody was granted within `target` */
  struct list spare;                /* of struct queue_group */
  struct list buckets[QUEUE_GROUPS];
  struct queue_group groups[QUEUE_GROUPS]; /* the first one is for those without a key, and never spare */
};

void queue_init(struct queue *);
void queue_configure(struct queue *, int discipline, usec target, usec interval); /* at any time */
void queue_add(struct queue *, struct waiter *, usec now);
void queue_remove(struct queue *, struct waiter *);           /* must be in line; not granted */
struct waiter *queue_take(struct queue *, usec now);          /* takes the next to be served out of the line; NULL when empty */
struct waiter *queue_first(const struct queue *, usec now);   /* the next to be served, NULL when empty; stays in line */
struct waiter *queue_oldest(const struct queue *);            /* the one longest in line, NULL when empty */
struct waiter *queue_expired(const struct queue *, usec now); /* one whose deadline is <= now, NULL when none; stays */
struct waiter *queue_to_shed(const struct queue *, usec now); /* one whom codel sheds now, NULL when none; stays */
int queue_of_key(const struct queue *, uint64_t key);         /* how many of that key are in line (of its group, where keys share one) */
usec queue_deadline(const struct queue *);  /* when queue_expired or queue_to_shed next finds somebody by time alone, NEVER when not */
void queue_assert(const struct queue *, usec now);            /* every list against its count; the order of the line */

#endif
