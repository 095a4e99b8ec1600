/*
** scarce: memory that ends when a test says so. A program that links scarce.c has its malloc, calloc and realloc, and what is
** made with them, come by way of it: those of every library too (libpq, SQLite, jansson, libc itself, the threads' stacks),
** since what a program defines stands before what libraries do. Under the sanitizers, whose own allocator must stay, only
** the calls of the program's own objects do (-Wl,--wrap, spec/CMakeLists.txt), and blocks are not counted: the leak check is.
**
**   static void query(void *user) {               // a trial: begins and ends its own world
**     ... what must be there before ...
**     scarce_on();                                 // from here on one allocation fails: the first, in the next trial the second ...
**     ... what is tested ...
**     scarce_off();                                // memory is there again
**     ... what must be true whatever failed; scarce_failed() says whether anything did ...
**   }
**   TEST("a query that memory is too short for fails with an error") { scarce_sweep("query", query, user); }
**
** A sweep goes on until nothing fails any more, and then anew with memory that ends for good. Long ones take every so-manieth allocation
** (scarce_sweep_by), and every one when the program is given the argument `all`. SCARCE=open:12 in the environment tries
** that one alone, of the sweep called open; in a debugger, scarce_hit is where it fails.
**
** The allocations of the test itself go between scarce_spare and scarce_mind (a thread's own; they nest). Threads are counted
** together: a sweep is as deterministic as its scenario is. An allocation that shrinks a block never fails.
*/
#ifndef POOL_SPEC_SCARCE_H
#define POOL_SPEC_SCARCE_H

#include <limits.h>
#include <stdlib.h>

#include "support/check.h"

enum { SCARCE_FEW = 150 }; /* a sweep of so few leaves none out */

void scarce_set(long n, bool for_good); /* what the next scarce_on brings; LONG_MAX: nothing fails */
void scarce_on(void);
void scarce_off(void);
bool scarce_failed(void);     /* since scarce_on */
bool scarce_for_good(void);
void scarce_limit(int milliseconds); /* for good is for so long, from the first failure on; 0, as at first: until scarce_off */
long scarce_count(void);      /* allocations since scarce_on */
void scarce_spare(void);
void scarce_mind(void);
/* An allocator that never fails, for ev_set_allocator: libev ends the process when it gets no memory, and its allocator is one for a
   whole process, which a library cannot set. How often it was asked: scarce_spared. */
void *scarce_sparing(void *block, long size);
long scarce_spared(void);
long scarce_live(void);       /* blocks that are allocated now, once no other thread is left; always 0 under the sanitizers */

/* One trial. What it leaves allocated has leaked. */
static inline bool scarce_trial(const char *name, void (*trial)(void *), void *user, long n, bool for_good) {
  long before = scarce_live();
  int failures = check_state.failures;
  scarce_set(n, for_good);
  trial(user);
  long left = scarce_live() - before;
  CHECK_INT(left, 0);
  if (check_state.failures > failures) printf("  %s, allocation %ld, %s\n", name, n, for_good ? "for good" : "once");
  return scarce_failed();
}

static inline bool scarce_all(int argc, char **argv) { return argc > 1 && strcmp(argv[argc - 1], "all") == 0; }

/* Every `stride`-th allocation of it, unless they are few; with `thin` the steps grow by n / thin, for what allocates alike ten
   thousand times. */
static inline void scarce_sweep_thin(const char *name, void (*trial)(void *), void *user, long stride, long thin) {
  long most = 0;
  scarce_set(LONG_MAX, false);
  trial(user); /* what is made once in a process is made now */
  if (scarce_count() < SCARCE_FEW) stride = 1;
  const char *only = getenv("SCARCE");
  if (only) {
    bool mine = strncmp(only, name, strlen(name)) == 0 && only[strlen(name)] == ':';
    for (int for_good = 0; mine && for_good < 2; for_good++) scarce_trial(name, trial, user, atol(only + strlen(name) + 1), for_good);
    CHECK(true);
    return;
  }
  for (int for_good = 0; for_good < 2; for_good++) {
    long n = 0;
    while (scarce_trial(name, trial, user, n, for_good)) n += stride + (thin ? n / thin : 0);
    if (n > most) most = n;
  }
  printf("# %s: %ld allocations\n", name, most);
}

static inline void scarce_sweep_by(const char *name, void (*trial)(void *), void *user, long stride) {
  scarce_sweep_thin(name, trial, user, stride, 0);
}

static inline void scarce_sweep(const char *name, void (*trial)(void *), void *user) { scarce_sweep_by(name, trial, user, 1); }

#endif
