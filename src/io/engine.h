/*
** engine: one database pool at work: a core (who gets which connection), a driver (how to talk), a loop (when). It carries
** out the core's actions and feeds results back. No Lua, no clock of its own.
**
** A `struct call` is something a caller waits for; it ends exactly once, by done(call), unless engine_leave comes first.
** done() may be called before the starting function returns, and from any event; it must only take note (wake a task): it
** may not call into the engine. A `struct conn` is a slot's connection; while it is leased it belongs to its borrower, who
** runs calls on it one at a time and gives it back with engine_release.
*/
#ifndef POOL_IO_ENGINE_H
#define POOL_IO_ENGINE_H

#include "core/pool.h"
#include "db/driver.h"
#include "loop.h"
#include "recorder.h"

struct engine;

enum call_kind {
  CALL_LEASE, /* a connection; conn is set at the end */
  CALL_QUERY, /* a connection, a statement, and the connection back: result is set */
  CALL_RUN,   /* a statement on a lease */
  CALL_FETCH  /* the next batch of a stream on a lease */
};
enum call_state { CALL_OUT = 0, CALL_IN_LINE, CALL_RUNNING, CALL_HELD /* waits until its connection is fit again */ };

struct call {
  struct waiter waiter;        /* in, of LEASE and QUERY: key, priority, weight, when weight is not 0; else as waiter_init has them */
  enum call_kind kind;
  enum call_state state;
  struct statement statement;  /* in: QUERY, RUN; its texts must stay until the call ended */
  struct conn *conn;           /* in: RUN, FETCH; out: LEASE */
  void *borrower;              /* in: LEASE, QUERY: becomes conn->borrower with the grant */
  struct db_result *result;    /* out: gives; NULL after a failure */
  struct pool_error *error;    /* out: gives (engine_free_error); NULL when it went well */
  void (*done)(struct call *);
};

enum conn_job { CONN_EMPTY, CONN_OPENING, CONN_SETUP, CONN_IDLE, CONN_CHECKING, CONN_LEASED, CONN_RUNNING, CONN_STOPPING,
                CONN_RESETTING, CONN_CLOSING };

struct conn {
  struct engine *engine;
  struct slot *slot;
  struct db_conn *db;     /* NULL when EMPTY */
  enum conn_job job;
  bool streaming;         /* a stream has more to come */
  bool dead;              /* leased, but the connection is gone */
  bool retire;            /* to be closed at its return: invalidated, or its server became a standby */
  bool timed_out;         /* its statement was cancelled for statement_timeout */
  bool moving;            /* the driver may put another file under its descriptor: it opens, closes, resets, or a cancel is under way */
  bool within;            /* was in a transaction when its last statement was sent: all that is known while that runs */
  int drained;            /* STOPPING without a cancel: batches read and thrown away */
  usec drain_by;          /* and until when there is no cancel */
  bool parting;           /* CLOSING: the goodbye is under way (before: the cancel of its statement) */
  struct pool_error *why; /* of a dead one: how it died; malloc'd, may be NULL */
  int addresses_left;     /* OPENING: those not yet begun, as far as the driver knows; -1 at first */
  usec connect_by;        /* OPENING: when connect_timeout is over */
  uint64_t id;            /* of the connection: 1, 2 ... */
  uint64_t lease;         /* of the lease: never the same twice; 0 when not leased */
  usec leased_at;
  usec idle_at;           /* since when it has been idle */
  usec arrived;           /* of the lease, while there is a recorder: when it was asked for; -1: nobody records it */
  uint64_t key;           /* and with what */
  uint8_t priority;
  struct call *call;      /* whose statement runs; NULL when its caller left */
  struct call *held;      /* waits until a cancelled statement is over */
  struct watch watch;
  struct timer timer;     /* of the job: connect_timeout, statement_timeout, close, cancel */
  struct list leased;     /* among the engine's leases, oldest first */
  void *borrower;         /* the room above's: whose lease it is */
};

/* What the engine tells the room above. Each may be NULL. None may call into the engine but where stated. */
struct engine_events {
  void (*setup)(void *user, struct conn *);   /* a new connection, before its first lease: ends with engine_setup_done */
  void (*closed)(void *user, struct conn *, const char *reason); /* "closed", or "lost" when it was found dead; not of failed opens */
  void (*log)(void *user, const char *level, const char *message);
  void (*lost)(void *user, struct conn *);    /* its lease, or its set-up, was cut by engine_cut */
};

struct engine_options {
  struct settings pool;
  struct db_settings db;
  const struct driver *driver; /* NULL: by the URL's scheme */
  struct engine_events events;
  void *user;
  uint64_t seed;
};

/* Never blocks, opens nothing. NULL: *error (POOL_SETTINGS). The loop must outlive it. */
struct engine *engine_create(struct loop *, const struct engine_options *, struct pool_error *error);
/* Takes. Everything is cut at once; calls still under way are dropped without done(). */
void engine_destroy(struct engine *);

/* ---- calls ---- */

void engine_lease(struct engine *, struct call *, usec deadline);  /* kind LEASE; deadline absolute, for the line only */
void engine_query(struct engine *, struct call *, usec deadline);  /* kind QUERY */
void engine_run(struct conn *, struct call *);                     /* kind RUN; the connection must be free (engine_busy) */
void engine_fetch(struct conn *, struct call *);                   /* kind FETCH; only while conn->streaming */
void engine_stop_stream(struct conn *);                             /* the rest of a stream is not wanted; harmless without one */
/* The caller no longer waits: it leaves the line, or its statement is cancelled and the connection put in order. Gives the call
   back at once. Harmless when it has ended. */
void engine_leave(struct engine *, struct call *);

void engine_free_error(struct pool_error *);  /* takes a call's error; NULL is harmless */
bool engine_error_is_shared(const struct pool_error *); /* the one for want of memory: not to be written to */

bool engine_in_transaction(const struct conn *); /* as the server said last */
bool engine_busy(const struct conn *);        /* a statement is under way, or held, for somebody who has not left */
void engine_release(struct conn *);           /* ends the lease: it goes back clean, or is put in order first, or is closed */
void engine_retire(struct conn *);            /* this lease's connection is to be closed at its return */
bool engine_cancel(struct conn *);            /* asks for the end of the statement under way; false when there is none */
void engine_setup_done(struct conn *, const struct pool_error *error); /* NULL: fit for use */

/* ---- the pool ---- */

enum pool_err engine_configure(struct engine *, const struct settings *, const struct db_settings *, struct pool_error *);
void engine_refresh(struct engine *);         /* brings the pool to now, as its timer would: for figures that are as of now */
void engine_invalidate(struct engine *);
void engine_pause(struct engine *);
void engine_resume(struct engine *);
void engine_allow(struct engine *, int cap);  /* pool_allow, for who divides a budget; nothing here does yet */
void engine_drain(struct engine *);           /* for good */
void engine_cut(struct engine *);             /* drains, and everything ends now: leases, set-ups (events.lost), opens, checks, resets;
                                                 the pool is empty once the goodbyes are over, in 1 s at most */
/* done is called once the pool is empty; at once when it is. One watcher at a time; NULL to withdraw. */
void engine_when_empty(struct engine *, void (*done)(void *user), void *user);
/* Every request for a connection that ends from now on is added to it. Borrows; NULL: none. */
void engine_record(struct engine *, struct recorder *);
struct recorder *engine_recorder(const struct engine *);
void engine_setup_wanted(struct engine *, bool wanted); /* whether events.setup is called for new connections */

struct pool *engine_pool(const struct engine *);           /* for queries only: pool_stats, pool_failure, pool_settings */
const struct driver *engine_driver(const struct engine *);
const struct db_settings *engine_db_settings(const struct engine *);
void *engine_user(const struct engine *);
struct list *engine_leases(struct engine *);               /* of struct conn by `leased`, oldest first */
usec engine_last_alive(const struct engine *);             /* when a server last answered; 0: never, or a connection was lost since */

#endif
