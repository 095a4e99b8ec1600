/*
** sim_database: how fast work goes.
**
** Every running job progresses at speed / (1 + sigma (n - 1) + kappa n (n - 1)) (Gunther's Universal Scalability Law, as processor
** sharing). So one clock V, which runs at that rate, serves all: a job that begins at V ends at V + work, whoever else comes and goes.
** The heap keeps jobs by that end, in units of 2^-20 seconds of work; V itself is kept in seconds. A job ends at the first microsecond at
** which V has reached its end.
*/
#include <math.h>

#include "sim_internal.h"

#define V_UNIT 1048576.0

static double rate_of(const struct sim *sim) {
  const struct sim_database *is = &sim->options->database;
  double n = sim->database.running;
  if (n <= 1) return sim->database.speed;
  return sim->database.speed / (1 + is->sigma * (n - 1) + is->kappa * n * (n - 1));
}

static void database_advance(struct sim *sim) {
  struct database *d = &sim->database;
  d->v += (double)(sim->now - d->at) * 1e-6 * d->rate;
  d->at = sim->now;
}

static void database_next(struct sim *sim, struct event *event);

/* The number of jobs, or the speed, has changed: the next end comes at another time. */
static void database_replan(struct sim *sim) {
  struct database *d = &sim->database;
  d->rate = rate_of(sim);
  struct heap_node *first = heap_first(&d->jobs);
  if (first == NULL || d->rate <= 0) {
    event_drop(sim, &d->next);
    return;
  }
  double left = (double)first->at / V_UNIT - d->v;
  usec after = left <= 0 ? 0 : (usec)ceil(left / d->rate * 1e6 - 1e-6);
  event_plan(sim, &d->next, sim->now + after, database_next);
}

static void database_next(struct sim *sim, struct event *event) {
  struct database *d = &sim->database;
  (void)event;
  database_advance(sim);
  struct heap_node *first = heap_first(&d->jobs);
  struct job *job = CONTAINER(first, struct job, node);
  double end = (double)first->at / V_UNIT;
  if (d->v < end) d->v = end; /* rounding */
  heap_remove(&d->jobs, first);
  job->running = false;
  d->running--;
  database_replan(sim);
  job->done(sim, job);
}

void job_begin(struct sim *sim, struct job *job, double work, void (*done)(struct sim *, struct job *)) {
  struct database *d = &sim->database;
  INSIST(!job->running);
  database_advance(sim);
  job->done = done;
  job->running = true;
  heap_insert(&d->jobs, &job->node, (usec)((d->v + work) * V_UNIT));
  d->running++;
  database_replan(sim);
}

void job_drop(struct sim *sim, struct job *job) {
  struct database *d = &sim->database;
  if (!job->running) return;
  database_advance(sim);
  heap_remove(&d->jobs, &job->node);
  job->running = false;
  d->running--;
  database_replan(sim);
}

bool database_refuses(const struct sim *sim) {
  const struct sim_database *is = &sim->options->database;
  const struct database *d = &sim->database;
  return d->down || (is->max_connections > 0 && d->connections + d->others >= is->max_connections);
}

/* ---- faults ---- */

static void database_kill(struct sim *sim) {
  for (int i = 0; i < sim->settings.size_limit; i++)
    if (sim->conns[i].connected) conn_killed(sim, &sim->conns[i]);
}

static void fault_apply(struct sim *sim, const struct sim_fault *fault, bool on) {
  struct database *d = &sim->database;
  switch (fault->kind) {
    case SIM_RESTART:
      d->down = on;
      if (on) database_kill(sim);
      break;
    case SIM_SPEED:
      database_advance(sim);
      d->speed = on ? fault->value : 1;
      database_replan(sim);
      break;
    case SIM_OTHERS: d->others += on ? (int)fault->value : -(int)fault->value; break;
    default: WRONG("no such fault");
  }
}

static void fault_begins(struct sim *sim, struct event *event) {
  fault_apply(sim, &sim->options->database.faults[event - sim->database.faults], true);
}

static void fault_ends(struct sim *sim, struct event *event) {
  fault_apply(sim, &sim->options->database.faults[event - sim->database.mends], false);
}

void database_begin(struct sim *sim) {
  struct database *d = &sim->database;
  const struct sim_database *is = &sim->options->database;
  d->speed = d->rate = 1;
  heap_init(&d->jobs);
  for (int i = 0; i < is->fault_count; i++) {
    event_plan(sim, &d->faults[i], seconds_usec(is->faults[i].at), fault_begins);
    event_plan(sim, &d->mends[i], seconds_usec(is->faults[i].at + is->faults[i].seconds), fault_ends);
  }
}

double sim_best_concurrency(double sigma, double kappa) { return kappa > 0 && sigma < 1 ? sqrt((1 - sigma) / kappa) : 0; }
