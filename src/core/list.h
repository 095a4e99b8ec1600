/*
** list: a circular doubly linked list threaded through its members. No allocation; the member's owner owns the memory.
** A node that is in no list points at itself, so list_remove is safe to call twice.
*/
#ifndef POOL_CORE_LIST_H
#define POOL_CORE_LIST_H

#include "base.h"

struct list {
  struct list *next, *prev;
};

static inline void list_init(struct list *l) { l->next = l->prev = l; }
static inline bool list_empty(const struct list *l) { return l->next == l; }

static inline void list_insert(struct list *prev, struct list *node, struct list *next) {
  node->prev = prev;
  node->next = next;
  prev->next = node;
  next->prev = node;
}

static inline void list_append(struct list *l, struct list *node) { list_insert(l->prev, node, l); }
static inline void list_prepend(struct list *l, struct list *node) { list_insert(l, node, l->next); }

static inline void list_remove(struct list *node) {
  node->prev->next = node->next;
  node->next->prev = node->prev;
  list_init(node);
}

/* Takes the first node off, NULL when empty. */
static inline struct list *list_shift(struct list *l) {
  struct list *node = l->next;
  if (node == l) return NULL;
  list_remove(node);
  return node;
}

#define LIST_EACH(node, l) for (struct list *node = (l)->next; node != (l); node = node->next)

#endif
