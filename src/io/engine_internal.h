/*
** engine_internal: struct engine, shared by engine.c (the pool and its actions), engine_conn.c (a connection's jobs) and
** engine_call.c (what callers wait for). Nobody else's.
*/
#ifndef POOL_IO_ENGINE_INTERNAL_H
#define POOL_IO_ENGINE_INTERNAL_H

#include "engine.h"

#define CLOSE_TIMEOUT USEC_PER_SECOND     /* a goodbye the server does not answer */
#define FRESH_FOR (USEC_PER_SECOND / 1000) /* idle for less needs no second look: somebody has just read from it */
#define DRAIN_TIMEOUT (5 * USEC_PER_SECOND) /* the rest of a stream that a cancel would abort the transaction for */
#define DRAIN_TURN 16                      /* batches of it, before others have their turn */
#define STOP_TIMEOUT (5 * USEC_PER_SECOND) /* a cancel or reset that does not come to an end: the connection is given up */

struct engine {
  struct loop *loop;
  struct pool *core;
  const struct driver *driver;
  struct db *db;
  struct recorder *recorder; /* NULL: nobody listens. Borrows */
  struct db_settings db_settings;
  struct engine_events events;
  void *user;
  struct conn *conns;      /* one a slot */
  int conn_count;
  struct list leases;      /* struct conn by leased */
  struct timer tick;       /* pool_deadline */
  uint64_t serial;         /* of leases */
  uint64_t opened;         /* of connections */
  usec alive;              /* when a server last answered */
  bool setup_wanted, cutting;
  void (*empty)(void *user);
  void *empty_user;
  struct pool_error error; /* scratch for the driver: too large to clear at every step */
};

static inline usec engine_now(const struct engine *e) { return loop_now(e->loop); }
static inline struct conn *slot_conn(const struct slot *s) { return s->user; }
static inline struct call *waiter_call(struct waiter *w) { return CONTAINER(w, struct call, waiter); }

void engine_settle(struct engine *); /* carries out what the core has decided; after every input */

/* engine_conn.c */
void conn_init(struct conn *, struct engine *, struct slot *);
void conn_open(struct conn *);
void conn_check(struct conn *);
void conn_reset(struct conn *);
void conn_close(struct conn *);
void conn_step(struct conn *);
void conn_run(struct conn *, struct call *); /* a statement or the next batch; ends in call_finish or call_fail, now or later */
void conn_stop(struct conn *);               /* its statement is nobody's any more: cancel it, then LEASED again */
void conn_drain(struct conn *);              /* the same of a stream in a transaction, which a cancel would abort: read the rest */
void conn_lease(struct conn *);              /* a lease begins */
void conn_unlease(struct conn *);            /* a lease ends: off the list, the watch as an idle one's */
void conn_discard(struct conn *);            /* frees the driver's side at once */
void conn_rest(struct conn *);               /* IDLE from now on */
bool conn_fresh(struct conn *);              /* idle, and not found dead by another look; false: engine->error says why */
void conn_declare_dead(struct conn *, const struct pool_error *);
void conn_cut(struct conn *);                /* the pool is draining: an open, set-up, check or reset is given up */

/* engine_call.c */
void call_granted(struct engine *, struct waiter *, struct slot *);
void call_refused(struct engine *, struct waiter *);
void call_finish(struct call *, struct db_result *);
void call_fail(struct call *, const struct pool_error *);
void call_statement_over(struct conn *, struct db_result *, const struct pool_error *); /* error NULL: it went well */
void call_resume_held(struct conn *);
void call_drop(struct conn *);               /* fails what somebody still waits for on a connection that is given back */

#endif
