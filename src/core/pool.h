/*
** pool: slots x waiters. Who gets which connection, when one is opened, checked, reset, closed.
**
** A pure state machine. Inputs carry `now`; what is to be done comes out of pool_next() as actions; the core never calls
** out, reads no clock, makes no system call and allocates nothing between pool_create and pool_destroy. Whoever drives it
** feeds the inputs, then drains pool_next() until it says false, and calls pool_tick() when pool_deadline() has come. An
** action is an order: OPEN is answered by pool_opened, CHECK by pool_checked, RESET by pool_reset_done, CLOSE by
** pool_closed; GRANT and FAIL end a waiter's wait. `now` may step backwards: it counts as standing still.
**
** Numbered promises: see pool.c. Everything here is one thread's.
*/
#ifndef POOL_CORE_POOL_H
#define POOL_CORE_POOL_H

#include "heap.h"
#include "list.h"
#include "settings.h"
#include "stats.h"

struct pool; /* opaque */

/* EMPTY -> OPENING -> IDLE <-> CHECKING, IDLE -> LEASED -> (RESETTING ->) IDLE, any -> CLOSING -> EMPTY */
enum slot_state { SLOT_EMPTY, SLOT_OPENING, SLOT_IDLE, SLOT_CHECKING, SLOT_LEASED, SLOT_RESETTING, SLOT_CLOSING, SLOT_STATES };

enum action_kind { ACTION_NONE, ACTION_OPEN, ACTION_CHECK, ACTION_RESET, ACTION_CLOSE, ACTION_GRANT, ACTION_FAIL };

/* An action not yet taken by pool_next; at most one a slot and one a waiter. */
struct todo {
  struct list link;
  enum action_kind kind;
};

/* A place for a connection. Made by the pool, lives as long as it. All but `user` is the pool's to write. */
struct slot {
  struct list link;      /* among the slots of its state; idle: most recently used first */
  struct todo todo;
  enum slot_state state;
  int index;             /* 0 .. size_limit-1 */
  bool retire;           /* to be closed at its next return */
  bool replacement;      /* OPENING in order to relieve an expired one */
  uint64_t generation;   /* the pool's when its open began or its last check was sent; older than the pool's: suspect */
  usec since;            /* when it came into its state */
  usec opened;           /* when its connection was opened */
  usec expires;          /* when it is due for recycling, NEVER when not */
  uint64_t uses;         /* leases of this connection */
  void *user;            /* the driving room's; the core never reads it */
  /* the pool's own */
  bool proven;           /* opened or checked since its last lease */
  bool dead;             /* pool_lost came while it was leased: not to be counted as lost again */
  bool reopen;           /* CLOSING for its age at the limit, and then OPENING in the same place */
  bool timed;            /* in the pool's heap by expiry: not expired yet */
  struct slot *relief;   /* the OPENING slot that will relieve this expired one */
  struct slot *relieves; /* the other end: set exactly when `replacement` is */
  struct heap_node by_expiry;
  struct list due;       /* among the idle ones past `expires` that nothing relieves yet */
  struct list grace;     /* among the checks and resets young enough to count as supply */
};

enum waiter_state { WAITER_OUT = 0, WAITER_IN_LINE, WAITER_GRANTED, WAITER_FAILED }; /* GRANTED, FAILED: the action is not yet taken */

enum { WAITER_PRIORITY = 5, WAITER_PRIORITY_MAX = 9 };

/* Somebody who wants a connection. The caller's memory, zeroed before first use (waiter_init); it must stay until GRANT or
   FAIL was taken or pool_cancel returned. */
struct waiter {
  usec deadline;         /* in: absolute; NEVER: waits for ever; <= now: only an idle connection will do */
  void *user;            /* in: the caller's */
  uint64_t key;          /* in: whose share it counts against (a tenant's hash); 0: no key, which is a share of its own */
  uint8_t priority;      /* in: 0..9, 9 first among those of its key; waiter_init says 5. One level is gained a second */
  uint8_t weight;        /* in: grants a round its key gets, 1..255; waiter_init says 1 */
  struct slot *slot;     /* out, at GRANT */
  enum pool_err failed;  /* out, at FAIL: POOL_TIMEOUT, POOL_OVERLOADED, POOL_CONNECT, POOL_CLOSED */
  usec since;            /* out: when it came */
  usec waited;           /* out, at GRANT and FAIL */
  /* the pool's own */
  enum waiter_state state;
  bool crowded;          /* out, at FAIL with POOL_OVERLOADED: its key has max_waiting_per_key in line */
  bool shed;             /* out, at FAIL with POOL_OVERLOADED: by codel, not for a full line */
  bool idle_only;        /* came with a deadline already reached: no open is begun for it */
  struct queue_group *group; /* NULL: not in line, or first of all */
  struct list line, level;
  struct heap_node by_deadline;
  struct todo todo;
};

void waiter_init(struct waiter *, usec deadline, void *user);

struct action {
  enum action_kind kind;
  struct slot *slot;     /* OPEN, CHECK, RESET, CLOSE, GRANT */
  struct waiter *waiter; /* GRANT, FAIL */
};

enum outcome { OUTCOME_CLEAN, OUTCOME_DIRTY /* reset first */, OUTCOME_BROKEN /* the connection died: others are suspect */,
               OUTCOME_RETIRE /* healthy or not, close it; says nothing of the others */ };

/* Gives a pool with settings->size_limit slots, all EMPTY; the seed is for jitter. NULL when memory is short. `settings`
   must have passed settings_check; copied. */
struct pool *pool_create(const struct settings *, uint64_t seed);
void pool_destroy(struct pool *); /* takes; no waiter may be in line */

/* ---- inputs ---- */

/* Puts the waiter in line; exactly one GRANT or FAIL action follows, in this call or later, unless pool_cancel comes
   first. Returns POOL_OK, or what it has just failed with (the FAIL action follows all the same). Borrows the waiter. */
enum pool_err pool_acquire(struct pool *, struct waiter *, usec now);
/* The waiter no longer wants it. Gives the waiter back at once; a grant not yet taken returns to the pool. Harmless when OUT. */
void pool_cancel(struct pool *, struct waiter *, usec now);
void pool_release(struct pool *, struct slot *, usec now, enum outcome);
/* The answer to OPEN: error NULL when it is there. On failure the slot is EMPTY when this returns: there is nothing to close. */
void pool_opened(struct pool *, struct slot *, usec now, const struct pool_error *error);
/* The answer to CHECK. A CHECKING slot may be ordered closed before (pre_ping_timeout, pool_lost): whoever drives the pool gives
   the check up when CLOSE comes; an answer that crosses it, while the slot is CLOSING, is ignored. */
void pool_checked(struct pool *, struct slot *, usec now, bool alive);
void pool_reset_done(struct pool *, struct slot *, usec now, bool ok);     /* the answer to RESET; not ok: it is closed */
void pool_closed(struct pool *, struct slot *, usec now);                  /* the answer to CLOSE: the server has let go */
/* An idle connection is dead. `disconnect`: older connections become suspect (promise 5); false when only this one is
   concerned (57P05, 25P03, 57P04). Also harmless on any state but EMPTY and CLOSING: the slot is retired. */
void pool_lost(struct pool *, struct slot *, usec now, bool disconnect);
/* A disconnect was seen elsewhere: every connection older than now is suspect. */
void pool_suspect(struct pool *, usec now);
/* Live change, all or nothing. POOL_SETTINGS when settings_check refuses it or size_limit differs. Copies. */
enum pool_err pool_configure(struct pool *, const struct settings *, usec now);
void pool_allow(struct pool *, int cap, usec now);   /* an outside budget, >= 0; unmet demand is in the stats. INT_MAX: none */
void pool_invalidate(struct pool *, usec now);       /* every connection of now is closed, leased ones on their return */
void pool_pause(struct pool *, usec now);            /* nothing is granted or opened; the line and its deadlines go on */
void pool_resume(struct pool *, usec now);
void pool_drain(struct pool *, usec now);            /* for good: the line fails with POOL_CLOSED, what comes back is closed */
void pool_tick(struct pool *, usec now);             /* deadlines, back-off, background checks, recycling, shrinking */

/* ---- queries ---- */

usec pool_deadline(const struct pool *);             /* when pool_tick is next needed, NEVER when not; > now after a tick */
bool pool_next(struct pool *, struct action *out);   /* the next action in the order decided; false when there is none */
void pool_peaks(struct pool *, struct peaks *);      /* reads them and begins anew */
void pool_stats(const struct pool *, struct stats *);/* as of the last input's now */
const struct settings *pool_settings(const struct pool *);  /* borrows; valid until the next pool_configure */
const struct pool_error *pool_failure(const struct pool *); /* the last open's failure; kind POOL_OK when it succeeded or none was made */
bool pool_empty(const struct pool *);                /* no slot but EMPTY ones: a drain is over */
struct slot *pool_slot(const struct pool *, int index);
void pool_assert(const struct pool *);               /* the promises and every list against its count; O(slots + line) */

#endif
