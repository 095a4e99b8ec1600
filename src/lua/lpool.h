/*
** lpool: "pool.Pool", a database pool in Lua's hands; and what lquery.c, lconnection.c and lcursor.c share of it. Internal.
**
** A lease is a Lua borrower's side of a leased connection: one a slot, told apart by the engine's lease number, held by the
** task that acquired it (ltask_hold) so that it comes back when the task ends, however that is.
*/
#ifndef POOL_LUA_LPOOL_H
#define POOL_LUA_LPOOL_H

#include "io/engine.h"
#include "lerror.h"
#include "lrows.h"
#include "lruntime.h"
#include "lsettings.h"

#define LPOOL_NAME "pool.Pool"
#define LCONNECTION_NAME "pool.Connection"
#define LCURSOR_NAME "pool.Cursor"

struct lpool;

struct lease {
  struct holding holding;   /* by its task; in no list once detached */
  struct lpool *pool;
  struct conn *conn;
  struct task *task;        /* NULL once detached */
  uint64_t serial;          /* the engine's lease number; another one: this lease is over */
  uint64_t cut;             /* the number of the lease that db:close cut here, 0 none */
  uint64_t stream;          /* the number of the last statement whose rows a cursor reads; never the same twice */
  struct conn *setup;       /* the connection being set up, and under which lease number (db:on("connect")) */
  uint64_t setup_lease;
  usec since;
  int line;                 /* where it was acquired */
  bool reported;            /* as older than leak_after */
  bool taken;               /* its task was given it: one that was cancelled before never knew of it */
  bool telling;             /* the listeners to its release have been called */
  char source[LUA_IDSIZE];
};

/* Events that Lua functions may be there for (db:on). */
enum { EVENT_CONNECT = 1, EVENT_ACQUIRE = 2, EVENT_RELEASE = 4, EVENT_CLOSE = 8, EVENT_TIMEOUT = 16, EVENT_SETTINGS = 32 };

/* What came up where Lua must not run, to be told to db:on("close") or db:on("release"). */
struct note {
  struct list link;
  const char *event;
  uint64_t id;        /* the connection's */
  const char *reason; /* or outcome */
};

/* With what a call asks for a connection: a Pool's own way, or a View's (lview.h). */
struct lask {
  usec timeout;     /* -1: the setting */
  uint64_t key;     /* 0 none */
  uint8_t priority; /* 0..9 */
  const char *key_text; /* as it was given, cut when long; borrowed for the call, NULL without a key */
  size_t key_length;
};

struct lpool {
  const void *brand;            /* lruntime_branded */
  struct runtime *runtime;
  struct engine *engine;        /* NULL once finalised */
  const struct driver *driver;  /* the engine's; outlives it */
  struct all_settings settings;
  struct lease *leases;         /* one a slot */
  int events;                   /* EVENT_... that somebody listens to */
  bool closed;
  struct list closers;          /* tasks in db:close that wait for the pool to be empty */
  struct timer leak_timer;
  struct deferred setups, notes, leaks_due;
  struct list noted;            /* struct note, oldest first */
  uint64_t leaks;               /* leases that their task did not give back itself */
  uint64_t queries, query_errors;
  uint64_t refused;             /* calls that the policy did not let in */
  struct histogram query;       /* how long statements took, their line left out */
  struct policy *policy;        /* the tuner's, when it is asked at the door; NULL: nobody is. Borrows: LPOOL_POLICY keeps it */
  uint64_t key_seed;            /* of the hashes of keys */
  char key_number[24];          /* text of the last key that was a number */
  struct lask ask;              /* of the call that lpool_check has just begun */
};

/* User values of a Pool: what db:on was given, a table of Lua's; the metatable of its Connections, at hand for each lease; the guard of
   results on their way into Lua, nil before the first; the Script of a scripted database; the policy that is asked at the door. */
enum { LPOOL_HANDLERS = 1, LPOOL_CONNECTION_META = 2, LPOOL_GUARD = 3, LPOOL_SCRIPT = 4, LPOOL_POLICY = 5, LPOOL_VALUES = 5 };

/* The Pool at index, or the one of the View there, which then stands there instead; lpool.ask says how it asks. Raises for anything
   else. */
struct lpool *lpool_check(lua_State *L, int index);

/* By when a call that begins now is to have its connection, by lpool.ask. */
usec lpool_patience(const struct lpool *);

/* Calls the functions of db:on(event) with the nargs values on top (popped); they may not wait; their errors are logged. The
   Pool is at `index`. */
void lpool_emit(lua_State *L, int index, const char *event, int nargs);

/* The whole sentence for a time-out, and whether it is a deadlock. Not in Lua. */
void lpool_explain_timeout(struct lpool *, usec waited, struct pool_error *, bool *deadlock);

/* Tells db:on(event) later, if anybody listens. Not in Lua. */
void lpool_note(struct lpool *, int event_bit, const char *event, uint64_t id, const char *reason);
void lpool_explain_overload(struct lpool *, const struct waiter *, struct pool_error *);

void lpool_watch_leaks(struct lpool *); /* a lease began: see to it that it is looked at when it has grown old */
void lpool_open(lua_State *L);          /* makes the metatable; sets new, pool_methods … in the table on top */

/* ---- lstats.c ---- */
void lstats_open(lua_State *L);         /* sets stats, status, leases in the Pool's methods on top */

/* ---- lquery.c: calls as tasks wait for them ---- */

enum lquery_answer { ANSWER_ROWS, ANSWER_JSON, ANSWER_DONE };

/* What a task's scratch holds while it waits for a call. */
struct lcall {
  struct call call;
  struct lpool *pool;
  struct holding undelivered; /* the result, the error or the lease, until the continuation takes it */
  const struct driver *driver; /* the Pool's: a result left behind may outlive the Pool */
  uint8_t answer;
  uint8_t stage;              /* enum call_state when it was left */
  bool deadlock;
  usec began;                 /* when the wait did */
  struct param params[2];
};

struct lcall *lquery_begin(lua_State *L, struct task *, struct lpool *); /* zeroes the scratch; raises where the task is in virtual time
                                                                               and the pool is not */
/* Fills the statement from the stack: SQL at `index`, parameters after it. false: nil and an error are pushed. Pushes values
   that must stay until the call ended. `who` names the method in messages. */
bool lquery_statement(lua_State *L, struct lcall *, int index, const char *who);
bool lquery_late(lua_State *L, const struct task *); /* true: the task's deadline has passed: nothing may begin; nil, error are pushed */
int lquery_wait(lua_State *L, struct task *, lua_KFunction continuation); /* after engine_query, engine_run … */
/* In a continuation: true when it went well; else nil and the error are pushed. `index`: the Pool. */
bool lquery_ok(lua_State *L, struct task *, struct lcall *, int index);
int lquery_give(lua_State *L, struct lcall *, int index);           /* pushes what the answer is; returns how many. `index`: the Pool */
void lquery_check_nested(lua_State *L, struct lpool *, struct task *); /* raises where nested = error forbids another lease */
void lquery_open(lua_State *L);                                     /* sets query, json, exec in the Pool's methods on top */

/* ---- lconnection.c ---- */

void lconnection_open(lua_State *L); /* makes the metatable; sets connection_methods in the table on top */
void lease_begin(struct lpool *, struct conn *, struct task *); /* not in Lua */
struct lease *lpool_lease(struct lpool *, const struct conn *);      /* NULL when the conn is not leased through here */
void lease_end(struct lease *);                                      /* gives the connection back; not in Lua */
void lease_end_untold(struct lease *);                               /* the same where db:on("release") is to hear of it later */
/* Pushes a Connection without a lease, that only has its id left, or waits to be filled; the Pool is at `index`. */
void lconnection_push_gone(lua_State *L, struct lpool *, uint64_t id, int index);
void lconnection_fill(lua_State *L, int index, struct lease *); /* it is this lease's from now on; never raises */
struct lease *lconnection_check(lua_State *L, int index, const char *who); /* raises after its release */
/* The same where the world may have ended the lease (db:close): false: nil and a `closed` error are pushed. */
bool lconnection_fit(lua_State *L, const char *who, struct lease **);
void lconnection_check_free(lua_State *L, const struct lease *, const char *who); /* raises while a statement runs or rows are unread */
int lconnection_acquire(lua_State *L);                                /* db:acquire */
void lconnection_release(lua_State *L, int index);                    /* c:release() on the Connection there; idempotent */

/* ---- lcursor.c ---- */
void lcursor_open(lua_State *L);     /* sets rows in the Connection's methods on top */

#endif
