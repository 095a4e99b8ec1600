/*
** order: what a simulation knows of the line by itself: everybody who asked the core for a connection, in the order they came.
**
** It stands between the engine and the core, and before the engine: a program that links it with --wrap for pool_acquire, pool_cancel,
** pool_next, engine_lease and engine_query has every request, withdrawal and answer go through here, whoever makes them. It is seen to that
** 1. an answer is to somebody who is in line, and to nobody twice;
** 2. who is granted had nobody of his key before him, of his priority or a higher one (but under lifo), nor was his deadline over
**    or the pool paused;
** 3. who goes back in line, because his connection was dead, has the deadline that he came with;
** 4. nobody is in line beside max_waiting_per_key others of his key, nor refused for it beside fewer;
** 5. keys take turns: while one waits, no other one is served again and again;
** and order_check: the core's counters are what was counted here, and nobody is in line of whom nothing is known.
*/
#ifndef POOL_SPEC_SIM_ORDER_H
#define POOL_SPEC_SIM_ORDER_H

#include "core/pool.h"

/* Begins anew, for a pool still to be made. */
void order_begin(void);
void order_check(const struct pool *);

#endif
