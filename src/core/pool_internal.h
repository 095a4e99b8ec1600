/*
** pool_internal: what the pool's own files share: the pool's fields, and the moves they may make. Nobody else includes it.
**
** pool.c holds the inputs and the promises, pool_slot.c the moves of one slot, pool_line.c the line, its opens and the
** back-off, pool_idle.c the upkeep of idle connections, pool_assert.c the invariants. Every input changes something and then
** calls pool_pump() once; only the pump grants, opens and checks.
*/
#ifndef POOL_CORE_POOL_INTERNAL_H
#define POOL_CORE_POOL_INTERNAL_H

#include "pool.h"
#include "queue.h"

/* A check or a reset counts as supply for this long; then an open is begun beside it (promise 2). */
#define CHECK_GRACE ((usec)50000)
/* How long a waiter for an idle connection alone stays for its check when pre_ping_timeout is 0. */
#define IDLE_ONLY_WAIT (5 * USEC_PER_SECOND)
/* No back-off and no lifetime is shorter, whatever the settings: the same instant never sees a second try. */
#define SHORTEST_PAUSE ((usec)1000)

struct pool {
  struct settings settings;
  usec now, since;                    /* the latest input's, never backwards; the first one's */
  usec wake;                          /* pool_deadline() or earlier: before it time alone gives the pump nothing to do */
  bool begun, paused, draining;
  int cap, limit;                     /* the outside budget; min(size + max_overflow, cap, size_limit) */
  int ceiling;                        /* >= limit: what a shrink found; total never exceeds it, and it only sinks to limit */
  uint64_t generation;                /* raised by each disconnect */
  uint64_t random;

  int counts[SLOT_STATES];
  struct list states[SLOT_STATES];    /* idle: of this generation, most recently used first; empty: last emptied first; else oldest first */
  struct list suspects;               /* idle ones of older generations, most recently used first */
  struct list due;                    /* idle ones past `expires` that nothing relieves */
  struct list grace;                  /* checks and resets younger than CHECK_GRACE and not to be retired, oldest first */
  struct heap expiry;                 /* connections with an `expires` still to come */
  int young, young_checks;            /* in `grace`; those of them that are CHECKING */
  int retiring, retiring_opens;       /* slots with `retire`; those of them that are OPENING */
  int replacing;                      /* slots with `replacement` */
  int unbegun;                        /* OPENING whose OPEN was not taken yet */

  struct queue queue;
  struct list actions;                /* todos, in the order decided */

  bool failing;                       /* the last open failed, none has succeeded since */
  usec failed_at, retry_at, backoff;  /* while failing: the last back-off's beginning, end and nominal length */
  struct pool_error failure;

  struct counters counters;
  struct peaks peaks;
  usec leased_time;
  struct histogram wait, hold, open_time;
  struct slot slots[];
};

static inline usec usec_after(usec at, usec pause) {
  usec sum;
  return pause == NEVER || __builtin_add_overflow(at, pause, &sum) ? NEVER : sum;
}
static inline usec usec_earlier(usec a, usec b) { return a < b ? a : b; }
static inline int int_max(int a, int b) { return a > b ? a : b; }
static inline int int_min(int a, int b) { return a < b ? a : b; }

static inline int pool_total(const struct pool *p) { return p->settings.size_limit - p->counts[SLOT_EMPTY]; }
static inline bool pool_room(const struct pool *p) { return pool_total(p) < p->limit; }
/* How many connections beyond the limit are not on their way out yet. */
static inline int pool_excess(const struct pool *p) { return pool_total(p) - p->counts[SLOT_CLOSING] - p->limit; }
/* No open may begin before retry_at. */
static inline bool pool_backing_off(const struct pool *p) { return p->failing && p->retry_at > p->now; }
static inline bool pool_halted(const struct pool *p) { return p->paused || p->draining; }
static inline int pool_max_opening(const struct pool *p) { return int_max(1, p->settings.max_opening); }
uint64_t pool_random(struct pool *, uint64_t below); /* uniform in [0, below) */

/* ---- pool_slot.c: the moves of one slot; none of them pumps ---- */

struct slot *slot_open(struct pool *, struct slot *expired); /* begins an open in an EMPTY slot; to relieve `expired` unless NULL */
void slot_elide(struct pool *, struct slot *);        /* an open not taken yet -> EMPTY */
void slot_opened(struct pool *, struct slot *);       /* OPENING -> IDLE or CLOSING */
void slot_failed(struct pool *, struct slot *);       /* OPENING -> EMPTY */
void slot_check(struct pool *, struct slot *);        /* IDLE -> CHECKING */
void slot_check_failed(struct pool *, struct slot *, bool disconnect); /* CHECKING -> CLOSING */
void slot_lease(struct pool *, struct slot *);        /* IDLE -> LEASED */
void slot_reset(struct pool *, struct slot *);        /* LEASED -> RESETTING, or CLOSING when it is not to stay */
void slot_settle(struct pool *, struct slot *, bool proven); /* a healthy connection is back -> IDLE, or CLOSING when it is not to stay */
void slot_close(struct pool *, struct slot *);        /* any with a connection -> CLOSING */
void slot_closed(struct pool *, struct slot *);       /* CLOSING -> EMPTY */
void slot_retire(struct pool *, struct slot *);       /* to be closed at its next return */
void slot_age(struct pool *, struct slot *);          /* counts as supply no longer; harmless when it did not */
void slot_expiry(struct pool *, struct slot *, usec expires); /* sets `expires` and all that hangs on it */
void slots_suspect(struct pool *);                    /* a disconnect: raises the generation, moves the idle ones to the suspects */
void todo_add(struct pool *, struct todo *, enum action_kind);
void todo_drop(struct todo *);                        /* harmless when there is none */

/* ---- pool_line.c ---- */

struct slot *line_ready(const struct pool *);         /* the idle connection to be lent next, NULL when none is ready */
void line_grant(struct pool *, struct waiter *, struct slot *); /* the waiter must be out of the queue */
enum pool_err line_refuse(struct pool *, struct waiter *, enum pool_err); /* FAIL; the same */
void line_refuse_all(struct pool *, enum pool_err);
void line_expire(struct pool *);                      /* fails those whose deadline has come, and those whom codel sheds */
void line_serve(struct pool *);                       /* grants what is ready */
void line_meet(struct pool *);                        /* begins the checks and opens that the line needs */
void line_elide(struct pool *);                       /* calls off opens not begun that nothing needs any more */
int line_need(const struct pool *);                   /* waiters that no open, young check or young reset will serve */
bool line_overfull(const struct pool *);              /* one waiter more would be more than max_waiting allows */
bool line_crowded(const struct pool *, const struct waiter *); /* the same for its key and max_waiting_per_key */
bool line_may_open(const struct pool *);
void line_back_off(struct pool *, const struct slot *, const struct pool_error *);
usec line_deadline(const struct pool *);

/* ---- pool_idle.c ---- */

/* Connections that are to stay, beyond `size`. A replacement is not one more, nor is what is retiring. */
static inline int idle_overflow(const struct pool *p) {
  return pool_total(p) - p->counts[SLOT_CLOSING] - p->replacing - p->retiring - p->settings.size;
}

void idle_age(struct pool *);                         /* check deadlines, CHECK_GRACE, expiries that have come */
void idle_check_suspects(struct pool *);
void idle_shrink(struct pool *);
void idle_recycle(struct pool *);
void idle_fill(struct pool *);                        /* min_idle */
void idle_trim(struct pool *);                        /* after a limit shrank */
void idle_reopen(struct pool *);                      /* in the place of one closed for its age */
bool idle_retires_on_return(const struct pool *, const struct slot *); /* an expired one: now is the time to close it */
int idle_missing(const struct pool *);                /* opens that min_idle still wants */
usec idle_lifetime(struct pool *);                    /* of a new connection; NEVER when there is none */
usec idle_shrink_at(const struct pool *);             /* when the longest idle one is to be closed, NEVER when it is not */
usec idle_deadline(const struct pool *);

#endif
