/*
** task_sim: what the program (task_sim.c) and its world (task_world.c) share. Nobody else's.
*/
#ifndef POOL_SPEC_SIM_TASK_SIM_H
#define POOL_SPEC_SIM_TASK_SIM_H

#include "io/scripted_driver.h"
#include "lua/lpool.h"

enum { DUES = 256, SIM_SLOTS = 12, NAME_SIZE = 24 };

/* What has become of a number that somebody asked with; how often each. */
struct fate {
  uint8_t sent, answered, failed, committed;
};

/* Something that must be over by then. */
struct due {
  usec by;         /* NEVER: a free place */
  char what[NAME_SIZE];
};

/* One life: a Lua state, its virtual loop, a pool, the database behind it. */
struct sim {
  lua_State *L;
  struct loop *loop;     /* the state's; NULL until it is there, and when it is gone */
  struct lpool *pool;    /* the one to be looked at after each turn; NULL: none */
  struct scripted db;
  uint64_t seed, dice, hash;
  bool trace;            /* print what is noted */
  long turns, budget;    /* turns of the loop made, and after how many its tasks are to end */
  long still;            /* turns since time passed */
  int badness;           /* percent */
  bool calm;             /* no faults any more */
  usec down_until;       /* the server is away until then */
  int opened, ceiling;   /* opens seen; the most connections there may be */
  struct fate *fates;    /* by number, from 1; owned */
  int64_t numbers, room;
  struct due dues[DUES];
  int detached;          /* leases that may be nobody's */
};

/* The one thing that changes beside it: the life under way, for the functions that stand in for others; what was done in all. */
struct running {
  struct sim *sim;
  long turns, lives, blocks; /* blocks: allocated by pool and by Lua, and not freed */
  struct count {
    char name[NAME_SIZE];
    long n;
  } counts[64];
};
extern struct running running;

void sim_note(struct sim *, const char *format, ...) __attribute__((format(printf, 2, 3))); /* into the trace, and its hash */
_Noreturn void sim_fail(struct sim *, const char *format, ...) __attribute__((format(printf, 2, 3)));
void count_up(const char *name, long n);

/* task_world.c */
void world_begin(struct sim *);
void world_calm(struct sim *);   /* the server is there again, what hangs is answered, and nothing goes wrong from now on */
void world_watch(struct sim *, struct lpool *);
void world_end(struct sim *);    /* nothing may be left of connections and results */
struct fate *world_fate(struct sim *, int64_t number);

#endif
