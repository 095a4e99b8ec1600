/*
** core_bench: N times acquire, next, release of an idle connection, and nothing else. Run it under callgrind with two values of N:
** the difference of the instruction counts over the difference of N is the cost of one lease. Without callgrind it prints the time.
**
**   core_bench [N] [SIZE]
*/
#include "core/pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void take(struct pool *p, enum action_kind kind, struct action *a) {
  bool any = pool_next(p, a);
  INSIST(any && a->kind == kind);
}

/* Every connection opened and given back. */
static void fill(struct pool *p, int size, struct waiter *waiters) {
  struct action a;
  for (int i = 0; i < size; i++) {
    waiter_init(&waiters[i], NEVER, NULL);
    pool_acquire(p, &waiters[i], 0);
    take(p, ACTION_OPEN, &a);
    pool_opened(p, a.slot, 0, NULL);
    take(p, ACTION_GRANT, &a);
  }
  for (int i = 0; i < size; i++) pool_release(p, waiters[i].slot, 0, OUTCOME_CLEAN);
}

int main(int argc, char **argv) {
  long count = argc > 1 ? atol(argv[1]) : 10000000;
  struct settings settings;
  settings_defaults(&pool_settings_table, &settings);
  if (argc > 2) settings.size = atoi(argv[2]);
  struct waiter *waiters = calloc((size_t)settings.size, sizeof *waiters);
  struct pool *p = pool_create(&settings, 1);
  struct timespec begin, end;
  struct action a;
  INSIST(waiters != NULL && p != NULL);
  fill(p, settings.size, waiters);
  clock_gettime(CLOCK_MONOTONIC, &begin);
  for (long i = 0; i < count; i++) {
    waiter_init(&waiters[0], i + 30 * USEC_PER_SECOND, NULL);
    pool_acquire(p, &waiters[0], i);
    take(p, ACTION_GRANT, &a);
    pool_release(p, a.slot, i + 1, OUTCOME_CLEAN);
  }
  clock_gettime(CLOCK_MONOTONIC, &end);
  double nanoseconds = (double)(end.tv_sec - begin.tv_sec) * 1e9 + (double)(end.tv_nsec - begin.tv_nsec);
  printf("%ld leases, %.1f ns each\n", count, nanoseconds / (double)(count > 0 ? count : 1));
  pool_destroy(p);
  free(waiters);
  return 0;
}
