/*
** heap: a pairing heap threaded through its members, ordered by an absolute time; ties by insertion (sequence), so that
** equal deadlines are served in order and runs are deterministic. No allocation. Insert O(1), first O(1), remove O(log n)
** amortised (Fredman, Sedgewick, Sleator, Tarjan 1986). Iterative throughout: a million members need no stack.
*/
#ifndef POOL_CORE_HEAP_H
#define POOL_CORE_HEAP_H

#include "base.h"

struct heap_node {
  struct heap_node *child, *next, *prev; /* prev: left sibling, or the parent when leftmost; NULL at the root */
  usec at;                               /* the order; not to be changed while inside */
  uint64_t sequence;                     /* given at insertion */
};

struct heap {
  struct heap_node *root; /* the earliest, NULL when empty */
  uint64_t sequence;
};

void heap_init(struct heap *);
void heap_insert(struct heap *, struct heap_node *, usec at);
void heap_remove(struct heap *, struct heap_node *); /* must be inside */
static inline struct heap_node *heap_first(const struct heap *h) { return h->root; }

#endif
