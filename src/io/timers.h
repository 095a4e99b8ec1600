/*
** timers: the running timers of one loop, ordered by when they are due. Both loops keep one; neither has another idea of
** what "due" means. No clock: `now` is given.
*/
#ifndef POOL_IO_TIMERS_H
#define POOL_IO_TIMERS_H

#include "loop.h"

struct timers {
  struct heap heap;
  int count; /* running */
};

void timers_init(struct timers *);
void timers_insert(struct timers *, struct timer *, usec at); /* restarts a running one; borrows until fired or removed */
void timers_remove(struct timers *, struct timer *);          /* harmless on a stopped one */
usec timers_first(const struct timers *);                     /* when the earliest is due, NEVER when none runs */

/* Fires what is due at `now`, earliest first, equal times in the order started; true when any was. At most as many as ran
   at the beginning: a timer that restarts itself for a time already past cannot hold the turn for ever. */
bool timers_fire(struct timers *, usec now);

#endif
