/*
** queue: turns, levels, disciplines.
**
** Turns are start-time fair queueing (Goyal, Vin, Cheng 1996) with a grant as the unit of work: a group's grant begins at
** max(virtual time, the end of its last grant) and lasts TURN / weight; the group whose next grant begins first is served, ties in the
** order in which the groups came into line; virtual time is the start of the grant in service. So a key can neither save up turns by
** staying away nor get more of them by coming and going: a group keeps `finish` when its last waiter leaves, for as long as its place in
** the table is not needed by another key.
**
** Invariants (queue_assert):
** 1. a waiter is in `line` while its state is WAITER_IN_LINE, in `by_deadline` exactly when its deadline is not NEVER, and in a level of
** its group, unless it is the front. Deadline, key, priority must not change meanwhile. 2. a group is in `turns` exactly while it has
** waiters, and spare exactly while it has none (the first group excepted). 3. all waiters of one key are in one group: a key that came
** while the table was full stays with its strangers' group until they are gone. 4. nobody's next grant begins later than one full turn (of
** the lightest weight) after the virtual time.
*/
#include "queue.h"

#include "pool.h"

#define TURN ((int64_t)1 << 20) /* virtual time of a grant of weight 1 */

static struct waiter *in_line(const struct list *l) { return CONTAINER(l, struct waiter, line); }
static struct waiter *in_level(const struct list *l) { return CONTAINER(l, struct waiter, level); }

void queue_init(struct queue *q) {
  list_init(&q->line);
  list_init(&q->spare);
  heap_init(&q->by_deadline);
  heap_init(&q->turns);
  for (int i = 0; i < QUEUE_GROUPS; i++) {
    struct queue_group *g = &q->groups[i];
    list_init(&q->buckets[i]);
    list_init(&g->chain);
    list_init(&g->spare);
    for (int level = 0; level < QUEUE_LEVELS; level++) list_init(&g->levels[level]);
    if (i > 0) list_append(&q->spare, &g->spare);
  }
}

void queue_configure(struct queue *q, int discipline, usec target, usec interval) {
  q->discipline = discipline;
  q->target = target;
  q->interval = interval;
}

/* ---- groups ---- */

/* Keys are hashes already; this spreads those that are small numbers. */
static int bucket_of(uint64_t key) { return (int)((key * 0x9E3779B97F4A7C15u) >> 56) % QUEUE_GROUPS; }

static struct queue_group *group_find(const struct queue *q, uint64_t key) {
  const struct list *bucket = &q->buckets[bucket_of(key)];
  if (key == 0) return (struct queue_group *)&q->groups[0];
  LIST_EACH(l, bucket) {
    struct queue_group *g = CONTAINER(l, struct queue_group, chain);
    if (g->key == key) return g;
  }
  return NULL;
}

/* The group that a key without one shares while the table is full, and for as long as strangers are in it. */
static struct queue_group *group_shared(struct queue *q, uint64_t key) { return &q->groups[1 + key % (QUEUE_GROUPS - 1)]; }

static struct queue_group *group_for(struct queue *q, uint64_t key) {
  struct queue_group *g = group_find(q, key), *shared = group_shared(q, key);
  if (g != NULL) return g;
  if (shared->strangers > 0 || list_empty(&q->spare)) return shared;
  g = CONTAINER(q->spare.next, struct queue_group, spare); /* stays spare until somebody is in it */
  list_remove(&g->chain);
  list_append(&q->buckets[bucket_of(key)], &g->chain);
  g->key = key;
  g->finish = 0;
  return g;
}

static void group_add(struct queue *q, struct queue_group *g, struct waiter *w) {
  w->group = g;
  if (w->key == g->key) g->weight = w->weight > 0 ? w->weight : 1;
  else g->strangers++;
  list_append(&g->levels[w->priority], &w->level);
  if (g->count++ > 0) return;
  list_remove(&g->spare);
  heap_insert(&q->turns, &g->turn, g->finish > q->virtual_time ? g->finish : q->virtual_time);
}

static void group_remove(struct queue *q, struct waiter *w) {
  struct queue_group *g = w->group;
  INSIST(g->count > 0);
  w->group = NULL;
  g->strangers -= w->key != g->key;
  list_remove(&w->level);
  if (--g->count > 0) return;
  heap_remove(&q->turns, &g->turn);
  if (g != &q->groups[0]) list_append(&q->spare, &g->spare);
}

/* One of the group is granted: its turn is over. */
static void group_served(struct queue *q, struct queue_group *g) {
  q->virtual_time = g->turn.at;
  g->finish = g->turn.at + TURN / (g->weight > 0 ? g->weight : 1);
  heap_remove(&q->turns, &g->turn);
  heap_insert(&q->turns, &g->turn, g->finish);
}

/* ---- disciplines ---- */

static bool newest_first(const struct queue *q, usec now) {
  return q->discipline == QUEUE_LIFO && q->count > 0 && now - q->stood_since >= q->interval;
}

/* The next of a group: by arrival as if each had come `priority` seconds earlier, or, newest first, later. */
static struct waiter *group_first(const struct queue_group *g, bool newest) {
  struct waiter *best = NULL;
  usec best_at = 0;
  for (int level = QUEUE_LEVELS - 1; level >= 0; level--) {
    const struct list *l = &g->levels[level];
    if (list_empty(l)) continue;
    struct waiter *w = in_level(newest ? l->prev : l->next);
    usec at = newest ? -w->since - level * USEC_PER_SECOND : w->since - level * USEC_PER_SECOND;
    if (best != NULL && at >= best_at) continue;
    best = w;
    best_at = at;
  }
  return best;
}

struct waiter *queue_first(const struct queue *q, usec now) {
  if (q->count == 0) return NULL;
  if (q->front != NULL) return q->front;
  return group_first(CONTAINER(heap_first(&q->turns), struct queue_group, turn), newest_first(q, now));
}

/* ---- coming and going ---- */

void queue_add(struct queue *q, struct waiter *w, usec now) {
  if (q->count++ == 0) q->stood_since = q->calm_at = now;
  list_append(&q->line, &w->line);
  if (w->deadline != NEVER) heap_insert(&q->by_deadline, &w->by_deadline, w->deadline);
  if (w->idle_only) {
    INSIST(q->front == NULL);
    q->front = w;
  } else {
    group_add(q, group_for(q, w->key), w);
  }
}

void queue_remove(struct queue *q, struct waiter *w) {
  INSIST(q->count > 0);
  q->count--;
  list_remove(&w->line);
  if (w->deadline != NEVER) heap_remove(&q->by_deadline, &w->by_deadline);
  if (q->front == w) q->front = NULL;
  else group_remove(q, w);
}

struct waiter *queue_take(struct queue *q, usec now) {
  struct waiter *w = queue_first(q, now);
  if (w == NULL) return NULL;
  if (now - w->since <= q->target) q->calm_at = now;
  if (w != q->front) group_served(q, w->group);
  queue_remove(q, w);
  return w;
}

/* ---- queries ---- */

struct waiter *queue_oldest(const struct queue *q) { return list_empty(&q->line) ? NULL : in_line(q->line.next); }

int queue_of_key(const struct queue *q, uint64_t key) {
  const struct queue_group *g = group_find(q, key);
  if (g == NULL) g = group_shared((struct queue *)q, key)->strangers > 0 ? group_shared((struct queue *)q, key) : NULL;
  return g != NULL ? g->count : 0;
}

struct waiter *queue_expired(const struct queue *q, usec now) {
  struct heap_node *first = heap_first(&q->by_deadline);
  return first != NULL && first->at <= now ? CONTAINER(first, struct waiter, by_deadline) : NULL;
}

static usec later(usec at, usec pause) {
  usec sum;
  return __builtin_add_overflow(at, pause, &sum) ? NEVER : sum;
}

/* When codel sheds the oldest, NEVER when it will not. The front has its own deadline. */
static usec shed_at(const struct queue *q, const struct waiter **oldest) {
  if (q->discipline != QUEUE_CODEL || q->count == 0) return NEVER;
  const struct list *l = q->line.next;
  if (in_line(l) == q->front) l = l->next;
  if (l == &q->line) return NEVER;
  *oldest = in_line(l);
  usec overloaded = later(q->calm_at, q->interval), waited = later(later((*oldest)->since, q->target), q->target);
  return overloaded > waited ? overloaded : waited;
}

struct waiter *queue_to_shed(const struct queue *q, usec now) {
  const struct waiter *oldest = NULL;
  return shed_at(q, &oldest) <= now ? (struct waiter *)oldest : NULL;
}

usec queue_deadline(const struct queue *q) {
  const struct waiter *oldest;
  struct heap_node *first = heap_first(&q->by_deadline);
  usec at = first != NULL ? first->at : NEVER, shed = shed_at(q, &oldest);
  return shed < at ? shed : at;
}

/* ---- what must hold ---- */

static int group_assert(const struct queue *q, const struct queue_group *g) {
  int count = 0, strangers = 0;
  INSIST(list_empty(&g->spare) == (g->count > 0 || g == &q->groups[0]));
  if (g->count == 0) return 0; /* who says that he is in it is found missing in the sum */
  for (int level = 0; level < QUEUE_LEVELS; level++) {
    usec since = INT64_MIN;
    LIST_EACH(l, &g->levels[level]) {
      const struct waiter *w = in_level(l);
      INSIST(w->group == g && w->priority == level && w->since >= since && w != q->front);
      INSIST(w->key == g->key || group_find(q, w->key) == NULL || group_find(q, w->key)->count == 0);
      since = w->since;
      strangers += w->key != g->key;
      count++;
    }
  }
  INSIST(count == g->count && strangers == g->strangers);
  INSIST(g->turn.at >= g->finish - TURN && g->turn.at <= q->virtual_time + TURN);
  return count;
}

void queue_assert(const struct queue *q, usec now) {
  int count = 0, grouped = 0;
  usec since = INT64_MIN;
  LIST_EACH(l, &q->line) {
    const struct waiter *w = in_line(l);
    INSIST(w->since >= since && (w->group == NULL) == (w == q->front) && w->idle_only == (w == q->front));
    since = w->since;
    count++;
  }
  for (int i = 0; i < QUEUE_GROUPS; i++) grouped += group_assert(q, &q->groups[i]);
  INSIST(count == q->count && grouped == count - (q->front != NULL));
  INSIST(count == 0 || (q->stood_since <= q->calm_at && q->calm_at <= now));
  INSIST(queue_deadline(q) > now);
}
