/*
** heap: a pairing heap.
**
** A node's children hang from `child`, siblings from `next`; `prev` points left, or up for the leftmost. Invariants:
** 1. no child is before its parent (heap_before: time, then sequence, so that the order is total);
** 2. the root has neither `next` nor `prev`;
** 3. a node outside the heap has all three pointers NULL.
** Removal merges the children in two passes, left to right in pairs and back from the right: that is what makes it O(log n)
** amortised. Both passes are loops: a heap that grew by a million inserts in order is a million siblings.
*/
#include "heap.h"

static bool heap_before(const struct heap_node *a, const struct heap_node *b) {
  return a->at != b->at ? a->at < b->at : a->sequence < b->sequence;
}

/* Joins two roots; either may be NULL. The later one becomes the leftmost child of the earlier. */
static struct heap_node *heap_merge(struct heap_node *a, struct heap_node *b) {
  if (a == NULL) return b;
  if (b == NULL) return a;
  if (heap_before(b, a)) {
    struct heap_node *swap = a;
    a = b;
    b = swap;
  }
  b->prev = a;
  b->next = a->child;
  if (a->child != NULL) a->child->prev = b;
  a->child = b;
  return a;
}

static struct heap_node *heap_detach(struct heap_node *node) {
  node->next = node->prev = NULL;
  return node;
}

/* Makes one heap of a row of siblings. */
static struct heap_node *heap_merge_row(struct heap_node *first) {
  struct heap_node *pairs = NULL; /* linked backwards through next: the last pair first */
  while (first != NULL) {
    struct heap_node *a = first, *b = a->next;
    first = b != NULL ? b->next : NULL;
    struct heap_node *pair = heap_merge(heap_detach(a), b != NULL ? heap_detach(b) : NULL);
    pair->next = pairs;
    pairs = pair;
  }
  struct heap_node *root = NULL;
  while (pairs != NULL) {
    struct heap_node *pair = pairs;
    pairs = pair->next;
    root = heap_merge(root, heap_detach(pair));
  }
  return root;
}

void heap_init(struct heap *h) {
  h->root = NULL;
  h->sequence = 0;
}

void heap_insert(struct heap *h, struct heap_node *node, usec at) {
  node->child = node->next = node->prev = NULL;
  node->at = at;
  node->sequence = ++h->sequence;
  h->root = heap_merge(h->root, node);
}

/* Takes a node that is not the root, with all below it, out of its row. */
static void heap_cut(struct heap_node *node) {
  if (node->prev->child == node) node->prev->child = node->next;
  else node->prev->next = node->next;
  if (node->next != NULL) node->next->prev = node->prev;
}

void heap_remove(struct heap *h, struct heap_node *node) {
  struct heap_node *below = node->child;
  if (node == h->root) {
    h->root = heap_merge_row(below);
  } else {
    INSIST(node->prev != NULL); /* else it was not inside */
    heap_cut(node);
    h->root = heap_merge(h->root, heap_merge_row(below));
  }
  node->child = node->next = node->prev = NULL;
}
