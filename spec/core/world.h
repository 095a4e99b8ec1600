/*
** world: a pool in virtual time for the tests of spec/core: callers by number, one clock, actions taken one by one.
** Every input goes through here and is followed by pool_assert; every allocation after pool_create is counted.
*/
#ifndef POOL_SPEC_WORLD_H
#define POOL_SPEC_WORLD_H

#include "core/pool.h"
#include "support/check.h"

#include <limits.h>
#include <stdlib.h>

#define MS ((usec)1000)
#define SECOND USEC_PER_SECOND
#define CALLERS 64

struct world {
  struct pool *pool;
  usec now;
  long allocations; /* at creation */
  struct waiter callers[CALLERS];
};

/* Counted by the linker's --wrap. Weak: once a program. */
extern long world_allocations;
__attribute__((weak)) long world_allocations;
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
__attribute__((weak)) void *__wrap_malloc(size_t size) { world_allocations++; return __real_malloc(size); }
__attribute__((weak)) void *__wrap_calloc(size_t count, size_t size) { world_allocations++; return __real_calloc(count, size); }
__attribute__((weak)) void *__wrap_realloc(void *memory, size_t size) { world_allocations++; return __real_realloc(memory, size); }

/* size 2, overflow 1, no recycling, no jitter; everything else as people get it. */
static inline struct settings plain(void) {
  struct settings s;
  settings_defaults(&pool_settings_table, &s);
  s.size = 2;
  s.max_overflow = 1;
  s.size_limit = 40;
  s.recycle = 0;
  s.recycle_jitter = 0;
  return s;
}

static inline struct world world_begin(struct settings s) {
  struct world w = {.now = 1000 * SECOND};
  w.pool = pool_create(&s, 42);
  w.allocations = world_allocations;
  pool_tick(w.pool, w.now);
  return w;
}

static inline struct stats stats_of(const struct world *w) {
  struct stats stats;
  pool_stats(w->pool, &stats);
  return stats;
}

static inline enum pool_err ask(struct world *w, int caller, usec patience) {
  struct waiter *waiter = &w->callers[caller];
  waiter_init(waiter, patience == NEVER ? NEVER : w->now + patience, w);
  enum pool_err err = pool_acquire(w->pool, waiter, w->now);
  pool_assert(w->pool);
  return err;
}

static inline void give_back(struct world *w, int caller, enum outcome outcome) {
  pool_release(w->pool, w->callers[caller].slot, w->now, outcome);
  pool_assert(w->pool);
}

static inline void leave(struct world *w, int caller) {
  pool_cancel(w->pool, &w->callers[caller], w->now);
  pool_assert(w->pool);
}

static inline void pass(struct world *w, usec time) {
  w->now += time;
  pool_tick(w->pool, w->now);
  pool_assert(w->pool);
}

/* The next action, ACTION_NONE when there is none. */
static inline struct action next(struct world *w) {
  struct action a = {.kind = ACTION_NONE};
  if (!pool_next(w->pool, &a)) a.kind = ACTION_NONE;
  return a;
}

static inline struct slot *order(struct world *w, enum action_kind kind, const char *file, int line) {
  struct action a = next(w);
  check_int(a.kind, kind, "the next action", file, line);
  if (a.kind != kind || a.slot == NULL) exit(check_done() | 1); /* nothing after this would make sense */
  return a.slot;
}

static inline bool answered(struct world *w, int caller, enum action_kind kind) {
  struct action a = next(w);
  return a.kind == kind && a.waiter == &w->callers[caller];
}

#define ORDER(w, kind) order(w, kind, __FILE__, __LINE__)
#define NOTHING(w) CHECK_INT(next(w).kind, ACTION_NONE)
#define GRANTED(w, caller) CHECK(answered(w, caller, ACTION_GRANT))
#define FAILED(w, caller, err) \
  (CHECK(answered(w, caller, ACTION_FAIL)), CHECK_TEXT(pool_err_name((w)->callers[caller].failed), pool_err_name(err)))

static inline void opened(struct world *w, struct slot *s) {
  pool_opened(w->pool, s, w->now, NULL);
  pool_assert(w->pool);
}

static inline void refused(struct world *w, struct slot *s, bool permanent) {
  struct pool_error e;
  error_set(&e, POOL_CONNECT, permanent ? "no such role" : "connection refused");
  e.permanent = permanent;
  pool_opened(w->pool, s, w->now, &e);
  pool_assert(w->pool);
}

static inline void checked(struct world *w, struct slot *s, bool alive) {
  pool_checked(w->pool, s, w->now, alive);
  pool_assert(w->pool);
}

static inline void closed(struct world *w, struct slot *s) {
  pool_closed(w->pool, s, w->now);
  pool_assert(w->pool);
}

static inline void reset_done(struct world *w, struct slot *s, bool ok) {
  pool_reset_done(w->pool, s, w->now, ok);
  pool_assert(w->pool);
}

static inline void lost(struct world *w, struct slot *s, bool disconnect) {
  pool_lost(w->pool, s, w->now, disconnect);
  pool_assert(w->pool);
}

/* Callers first..last each get a new connection. */
static inline void lease(struct world *w, int first, int last) {
  for (int i = first; i <= last; i++) {
    ask(w, i, 30 * SECOND);
    opened(w, ORDER(w, ACTION_OPEN));
    GRANTED(w, i);
  }
}

static inline void lease_and_return(struct world *w, int first, int last) {
  lease(w, first, last);
  for (int i = first; i <= last; i++) give_back(w, i, OUTCOME_CLEAN);
}

/* Everything comes back and is closed; nothing was allocated meanwhile. */
static inline void world_end(struct world *w) {
  struct action a;
  pool_drain(w->pool, w->now);
  for (int i = 0; i < stats_of(w).total + 40; i++) {
    for (int k = 0; k < 40 && k < pool_settings(w->pool)->size_limit; k++) {
      struct slot *s = pool_slot(w->pool, k);
      if (s->state == SLOT_LEASED) pool_release(w->pool, s, w->now, OUTCOME_CLEAN);
      while (pool_next(w->pool, &a)) continue;
      if (s->state == SLOT_OPENING) opened(w, s);
      if (s->state == SLOT_CHECKING) checked(w, s, true);
      if (s->state == SLOT_RESETTING) reset_done(w, s, true);
      while (pool_next(w->pool, &a)) continue;
      if (s->state == SLOT_CLOSING) closed(w, s);
    }
  }
  CHECK(pool_empty(w->pool));
  CHECK_INT(world_allocations, w->allocations);
  pool_destroy(w->pool);
}

#endif
