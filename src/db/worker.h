/*
** worker: a few threads that run what blocks and has no asynchronous form (names, cancels), one group a kind of work.
**
** A job belongs to two: who asked, and the group. Whoever lets go last frees it, so that neither waits for the other: an
** abandoned job finishes alone, on a thread that no longer counts, and a group whose thread is stuck can be let go. The asker learns
** of the end by the job's descriptor becoming readable, and by worker_done.
*/
#ifndef POOL_DB_WORKER_H
#define POOL_DB_WORKER_H

#include "core/list.h"

#include <stdatomic.h>

struct worker_group; /* opaque */

/* The asker's own type begins with it. */
struct worker_job {
  struct list link;
  void (*run)(struct worker_job *);  /* on a thread: may block; touches nothing but its job */
  void (*free)(struct worker_job *); /* frees the whole of it, on whichever thread let go last */
  atomic_int owners;                 /* 2, 1: asker and group, or one of them */
  atomic_bool done;
  struct worker_group *group;        /* and, under its lock: */
  int state;                         /* queued, running, stuck (its asker has let go), over */
  int fd;                            /* an eventfd, readable once done */
};

struct worker_group *worker_create(int threads);   /* at most so many, started on demand; NULL when memory is short */
void worker_destroy(struct worker_group *);        /* takes; waits for nobody: jobs not yet begun are dropped */

/* Fills the job and queues it. Takes one of its two owners; worker_leave gives back the other. false: nothing was queued
   (no descriptor, no thread), the job is still wholly the caller's, to be freed by it directly. */
bool worker_submit(struct worker_group *, struct worker_job *, void (*run)(struct worker_job *), void (*free)(struct worker_job *));
bool worker_done(struct worker_job *);
void worker_leave(struct worker_job *);            /* takes the asker's share, before the group is destroyed; one in the queue is dropped */

#endif
