/*
** engine_world: an engine in virtual time over a scripted database, and callers that only count what they are told.
*/
#ifndef POOL_SPEC_ENGINE_WORLD_H
#define POOL_SPEC_ENGINE_WORLD_H

#include "io/engine.h"
#include "scripted_driver.h"

#define SECOND USEC_PER_SECOND
#define MS ((usec)1000)

struct caller {
  struct call call;
  struct world *world;
  int ended;              /* times done() was called: 0 or 1 */
  int order;              /* the how-manieth of its world to end */
  enum slot_state place;  /* QUERY: where its connection was when done() was called */
  struct pool_error error; /* a copy; kind POOL_OK when it went well */
};

struct world {
  struct loop *loop;
  struct scripted db;
  struct engine_options options;
  struct engine *engine;
  int ends, closed, cut, emptied, set_up;
  char reason[16];        /* of the last close */
  struct conn *setting_up;
  char url[64];
};

/* Two steps, so that a test may change options and database in between. size connections, no overflow. */
void world_begin(struct world *, int size);
void world_start(struct world *);
/* Ends the engine and checks that nothing is left: connections, results, watches, timers. */
void world_end(struct world *);

void world_settle(struct world *);         /* everything that is due now; no time passes */
void world_pass(struct world *, usec);     /* the same, and time passes */
bool world_whole(struct world *);          /* nothing leased, nothing under way, every idle connection is listened to */

void caller_init(struct caller *, struct world *, const char *sql);
void caller_lease(struct caller *, struct world *, usec patience);
void caller_query(struct caller *, struct world *, const char *sql, usec patience);
void caller_run(struct caller *, struct conn *, const char *sql);
void caller_stream(struct caller *, struct conn *);
void caller_fetch(struct caller *, struct conn *);
void caller_leave(struct caller *);
/* A lease of a connection that answers; settles. */
struct conn *world_lease(struct world *);

struct db_conn *world_db(const struct conn *);

/* The parts of the program. */
void engine_call_spec(void);
void engine_leave_spec(void);
void engine_loss_spec(void);
void engine_end_spec(void);

#endif
