/* The heap: order, ties, removal from anywhere, a million siblings. */
#include "core/heap.h"
#include "support/check.h"

#include <stdlib.h>

static uint64_t draw(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return *state >> 33;
}

static struct heap_node *shift(struct heap *h) {
  struct heap_node *first = heap_first(h);
  if (first != NULL) heap_remove(h, first);
  return first;
}

static void test_order(void) {
  struct heap h;
  struct heap_node nodes[5];
  const usec at[5] = {30, 10, NEVER, 10, -5};
  heap_init(&h);
  TEST("an empty heap has no first") CHECK(heap_first(&h) == NULL);
  for (int i = 0; i < 5; i++) heap_insert(&h, &nodes[i], at[i]);
  TEST("the earliest comes first, and equal times in the order of their insertion") {
    const int order[5] = {4, 1, 3, 0, 2};
    for (int i = 0; i < 5; i++) CHECK(shift(&h) == &nodes[order[i]]);
    CHECK(heap_first(&h) == NULL);
  }
}

/* Inserts and removes at random beside a plain array. */
static void test_random(void) {
  enum { COUNT = 300 };
  struct heap h;
  struct heap_node nodes[COUNT];
  bool inside[COUNT] = {false};
  uint64_t state = 7;
  long wrong = 0, removed = 0;
  heap_init(&h);
  for (int step = 0; step < 200000; step++) {
    int i = (int)(draw(&state) % COUNT), first = -1;
    if (inside[i]) heap_remove(&h, &nodes[i]), removed++;
    else heap_insert(&h, &nodes[i], (usec)(draw(&state) % 1000));
    inside[i] = !inside[i];
    if (step % 16 != 0) continue;
    for (int k = 0; k < COUNT; k++) {
      if (inside[k] && (first < 0 || nodes[k].at < nodes[first].at ||
                        (nodes[k].at == nodes[first].at && nodes[k].sequence < nodes[first].sequence))) first = k;
    }
    wrong += heap_first(&h) != (first < 0 ? NULL : &nodes[first]);
  }
  TEST("whatever is inserted and removed, the first is the earliest of those inside") {
    CHECK_INT(wrong, 0);
    CHECK(removed > 90000);
  }
}

static void test_million(void) {
  enum { COUNT = 1000000 };
  struct heap h;
  struct heap_node *nodes = malloc(COUNT * sizeof *nodes);
  long wrong = 0;
  heap_init(&h);
  for (int i = 0; i < COUNT; i++) heap_insert(&h, &nodes[i], i / 2);
  for (int i = 0; i < COUNT; i++) wrong += shift(&h) != &nodes[i];
  TEST("a million members need no stack") CHECK_INT(wrong, 0);
  free(nodes);
}

int main(void) {
  test_order();
  test_random();
  test_million();
  return check_done();
}
