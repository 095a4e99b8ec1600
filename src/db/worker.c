/*
** worker: threads for what blocks.
**
** A group is a queue, a lock and detached threads. Group and threads share it by a count (the creator and each thread are
** owners); the last one frees it. So destroying never waits: idle threads are told to go, a stuck one goes when its call
** returns, and finds the group still there.
**
** 1. A job is in the queue, or with one thread, or over. Who lets go of a queued one takes it out.
** 2. `done` is set, and the descriptor made readable, before the group's share of the job is let go.
** 3. Threads take no signals: those are the host program's.
** 4. A call may never return (a server that is connected to and says nothing), and must not keep its thread from the others for ever:
**    whose asker has let go counts no more among the group's threads, and another may begin in its place. So many may be stuck at once
**    (STUCK_MOST); beyond that the queue waits for the first that is back.
*/
#include "worker.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { STUCK_MOST = 64 };
enum { JOB_QUEUED, JOB_RUNNING, JOB_STUCK, JOB_OVER };

struct worker_group {
  pthread_mutex_t lock;
  pthread_cond_t more;
  struct list queue;
  int queued;             /* jobs in the queue */
  int idle;               /* threads waiting for one */
  int threads, most;      /* those whose job is wanted, or that have none */
  int stuck;              /* those whose asker has gone */
  int owners;             /* the creator and every thread */
  bool closing;
};

static void job_leave(struct worker_job *job) {
  if (atomic_fetch_sub(&job->owners, 1) > 1) return;
  close(job->fd);
  job->free(job);
}

/* Called with the lock held; releases it. */
static void group_leave(struct worker_group *group) {
  INSIST(group->owners > 0);
  bool last = --group->owners == 0;
  pthread_mutex_unlock(&group->lock);
  if (!last) return;
  pthread_cond_destroy(&group->more);
  pthread_mutex_destroy(&group->lock);
  free(group);
}

static struct worker_job *group_take(struct worker_group *group) {
  struct list *link = list_shift(&group->queue);
  if (!link) return NULL;
  group->queued--;
  return CONTAINER(link, struct worker_job, link);
}

/* With the lock held, which is let go meanwhile. Did its asker go before it was over? */
static bool group_run(struct worker_group *group, struct worker_job *job) {
  job->state = JOB_RUNNING;
  pthread_mutex_unlock(&group->lock);
  job->run(job);
  pthread_mutex_lock(&group->lock);
  bool stuck = job->state == JOB_STUCK;
  job->state = JOB_OVER;
  pthread_mutex_unlock(&group->lock);
  atomic_store(&job->done, true);
  uint64_t one = 1;
  ssize_t written = write(job->fd, &one, sizeof one); /* cannot fail: the counter is 0 */
  INSIST(written == sizeof one);
  job_leave(job);
  pthread_mutex_lock(&group->lock);
  return stuck;
}

/* With the lock held: one that was stuck is back. Is there room for it? */
static bool group_take_back(struct worker_group *group) {
  group->stuck--;
  if (group->threads >= group->most) return false;
  group->threads++;
  return true;
}

static void *group_thread(void *argument) {
  struct worker_group *group = argument;
  pthread_mutex_lock(&group->lock);
  while (!group->closing) {
    struct worker_job *job = group_take(group);
    if (!job) {
      group->idle++;
      pthread_cond_wait(&group->more, &group->lock);
      group->idle--;
      continue;
    }
    if (group_run(group, job) && !group_take_back(group)) {
      group_leave(group);
      return NULL;
    }
  }
  group->threads--;
  group_leave(group);
  return NULL;
}

/* With the lock held. */
static bool group_grow(struct worker_group *group) {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return false;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  bool started = pthread_create(&thread, &attributes, group_thread, group) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (!started) return false;
  group->threads++;
  group->owners++;
  return true;
}

struct worker_group *worker_create(int threads) {
  INSIST(threads > 0);
  struct worker_group *group = calloc(1, sizeof *group);
  if (!group) return NULL;
  pthread_mutex_init(&group->lock, NULL);
  pthread_cond_init(&group->more, NULL);
  list_init(&group->queue);
  group->most = threads;
  group->owners = 1;
  return group;
}

void worker_destroy(struct worker_group *group) {
  if (!group) return;
  pthread_mutex_lock(&group->lock);
  group->closing = true;
  for (struct worker_job *job; (job = group_take(group));) job_leave(job);
  pthread_cond_broadcast(&group->more);
  group_leave(group);
}

static bool group_has_room(const struct worker_group *group) {
  return group->threads < group->most && group->threads + group->stuck < group->most + STUCK_MOST;
}

/* With the lock held: is there a thread for one more job, now or later? */
static bool group_serves_one_more(struct worker_group *group) {
  return group->idle > group->queued || !group_has_room(group) || group_grow(group) || group->threads + group->stuck > 0;
}

bool worker_submit(struct worker_group *group, struct worker_job *job, void (*run)(struct worker_job *),
                   void (*free_job)(struct worker_job *)) {
  job->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (job->fd < 0) return false;
  job->run = run;
  job->free = free_job;
  job->group = group;
  job->state = JOB_QUEUED;
  atomic_init(&job->owners, 2);
  atomic_init(&job->done, false);
  list_init(&job->link);
  pthread_mutex_lock(&group->lock);
  INSIST(!group->closing);
  bool served = group_serves_one_more(group);
  if (served) {
    list_append(&group->queue, &job->link);
    group->queued++;
    pthread_cond_signal(&group->more);
  }
  pthread_mutex_unlock(&group->lock);
  if (!served) close(job->fd);
  return served;
}

bool worker_done(struct worker_job *job) { return atomic_load(&job->done); }

void worker_leave(struct worker_job *job) {
  if (!job) return;
  struct worker_group *group = job->group; /* there still: its creator goes last */
  pthread_mutex_lock(&group->lock);
  bool queued = job->state == JOB_QUEUED;
  if (queued) {
    list_remove(&job->link);
    group->queued--;
  } else if (job->state == JOB_RUNNING) {
    job->state = JOB_STUCK;
    group->threads--;
    group->stuck++;
    if (group->queued > group->idle && group_has_room(group)) group_grow(group);
  }
  pthread_mutex_unlock(&group->lock);
  if (queued) job_leave(job); /* the group's share */
  job_leave(job);
}
