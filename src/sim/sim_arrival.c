/*
** sim_arrival: when requests come, and how much work each brings.
**
** A rate that changes is thinned (Lewis, Shedler 1979): candidates come at the highest rate and are kept with the probability
** rate(t) / highest, so that the same seed gives the same candidates. A request's service is drawn as it arrives, from a stream of its
** own: request i is the same whatever a policy does.
*/
#include <math.h>

#include "sim_internal.h"

#define TWO_PI 6.283185307179586

/* ---- service ---- */

static double draw(struct sim_random *r, const struct sim_service *s) {
  switch (s->kind) {
    case SIM_EXPONENTIAL: return sim_random_exponential(r, s->mean);
    case SIM_DETERMINISTIC: return s->mean;
    case SIM_LOGNORMAL: {
      double variance = log(1 + s->cv * s->cv);
      return s->mean * exp(sqrt(variance) * sim_random_normal(r) - variance / 2);
    }
    case SIM_HYPEREXPONENTIAL: { /* two phases with balanced means: p m1 = (1 - p) m2 (Whitt 1982) */
      double c2 = s->cv * s->cv, p = (1 + sqrt((c2 - 1) / (c2 + 1))) / 2;
      bool first = sim_random_uniform(r) <= p;
      return sim_random_exponential(r, s->mean / (2 * (first ? p : 1 - p)));
    }
    case SIM_ERLANG: {
      double sum = 0;
      for (int i = 0; i < s->k; i++) sum += sim_random_exponential(r, s->mean / s->k);
      return sum;
    }
    default: WRONG("no such distribution");
  }
}

double source_work(struct source *source, bool *holding) {
  const struct sim_source *is = source->is;
  int i = 0;
  if (is->service_count > 1) {
    double at = sim_random_uniform(&source->service) * source->shares;
    while (i < is->service_count - 1 && at > is->services[i].share) at -= is->services[i++].share;
  }
  *holding = is->services[i].holding;
  return draw(&source->service, &is->services[i]);
}

/* ---- rates ---- */

static double points_rate(const struct sim_source *is, double t) {
  const struct sim_point *p = is->points;
  int n = is->point_count;
  if (t <= p[0].at) return p[0].rate;
  for (int i = 1; i < n; i++) {
    if (t >= p[i].at) continue;
    return p[i - 1].rate + (p[i].rate - p[i - 1].rate) * (t - p[i - 1].at) / (p[i].at - p[i - 1].at);
  }
  return p[n - 1].rate;
}

static double source_rate(const struct source *source, double t) {
  const struct sim_source *is = source->is;
  if (is->kind == SIM_DIURNAL) return is->low + (is->high - is->low) * (1 - cos(TWO_PI * t / is->period)) / 2;
  return points_rate(is, t);
}

static double rate_max(const struct sim_source *is) {
  double most = 0;
  if (is->kind == SIM_DIURNAL) return fmax(is->low, is->high);
  for (int i = 0; i < is->point_count; i++) most = fmax(most, is->points[i].rate);
  return most;
}

/* ---- arrivals ---- */

static void arrival(struct sim *sim, struct source *source) {
  struct request *r = request_new(sim, source);
  if (r == NULL) return;
  r->work = source_work(source, &r->holding);
  request_arrive(sim, r);
}

static void poisson_fire(struct sim *sim, struct event *event);

/* The next candidate that is kept. */
static void poisson_plan(struct sim *sim, struct source *source, double t) {
  double end = (double)sim->end * 1e-6;
  if (source->rate_max <= 0) return;
  do {
    t += sim_random_exponential(&source->arrivals, 1 / source->rate_max);
  } while (t < end && sim_random_uniform(&source->arrivals) * source->rate_max > source_rate(source, t));
  if (t < end) event_plan(sim, &source->event, seconds_usec(t), poisson_fire);
}

static void poisson_fire(struct sim *sim, struct event *event) {
  struct source *source = CONTAINER(event, struct source, event);
  poisson_plan(sim, source, (double)sim->now * 1e-6);
  arrival(sim, source);
}

static void even_fire(struct sim *sim, struct event *event) {
  struct source *source = CONTAINER(event, struct source, event);
  double rate = source_rate(source, (double)sim->now * 1e-6);
  bool comes = rate > 0;
  event_plan(sim, &source->event, sim->now + seconds_usec(comes ? 1 / rate : 0.01), even_fire);
  if (comes) arrival(sim, source);
}

static void batch_fire(struct sim *sim, struct event *event) {
  struct source *source = CONTAINER(event, struct source, event);
  if (source->is->every > 0) event_plan(sim, &source->event, sim->now + seconds_usec(source->is->every), batch_fire);
  for (int i = 0; i < source->is->batch; i++) arrival(sim, source);
}

static void trace_fire(struct sim *sim, struct event *event) {
  struct source *source = CONTAINER(event, struct source, event);
  const struct sim_traced *t = &source->is->trace[source->traced++];
  if (source->traced < source->is->trace_count) event_plan(sim, &source->event, t[1].at, trace_fire);
  struct request *r = request_new(sim, source);
  if (r == NULL) return;
  r->work = (double)t->service * 1e-6;
  r->holding = source->is->services[0].holding;
  r->key = t->key;
  r->priority = t->priority;
  request_arrive(sim, r);
}

/* ---- two rates in turn ---- */

static void mmpp_fire(struct sim *sim, struct event *event);

static void mmpp_plan(struct sim *sim, struct source *source) {
  double rate = source->is->rates[source->phase];
  event_drop(sim, &source->event);
  if (rate <= 0) return;
  event_plan(sim, &source->event, sim->now + seconds_usec(sim_random_exponential(&source->arrivals, 1 / rate)), mmpp_fire);
}

static void mmpp_fire(struct sim *sim, struct event *event) {
  struct source *source = CONTAINER(event, struct source, event);
  mmpp_plan(sim, source);
  arrival(sim, source);
}

static void mmpp_turn(struct sim *sim, struct event *event);

static void mmpp_stay(struct sim *sim, struct source *source) {
  double mean = source->is->means[source->phase];
  double stay = source->is->fixed_periods ? mean : sim_random_exponential(&source->arrivals, mean);
  event_plan(sim, &source->turn, sim->now + seconds_usec(stay), mmpp_turn);
  mmpp_plan(sim, source); /* the exponential has no memory: what was planned at the old rate may be drawn anew */
}

static void mmpp_turn(struct sim *sim, struct event *event) {
  struct source *source = CONTAINER(event, struct source, turn);
  source->phase = !source->phase;
  mmpp_stay(sim, source);
}

/* ---- callers that wait for their answers ---- */

static void closed_begin(struct sim *sim, struct source *source) {
  for (int i = 0; i < source->is->clients; i++) {
    struct request *r = request_new(sim, source);
    if (r == NULL) return;
    r->thinker = true;
    double think = source->is->think > 0 ? sim_random_exponential(&source->arrivals, source->is->think) : 0;
    event_plan(sim, &r->event, seconds_usec(think), sim_begin_request);
  }
}

void source_begin(struct sim *sim, int number) {
  struct source *source = &sim->sources[number];
  const struct sim_source *is = &sim->options->sources[number];
  uint64_t stream = (uint64_t)number * 8 + 1;
  source->is = is;
  source->number = number;
  sim_random_init(&source->arrivals, sim->options->seed, stream);
  sim_random_init(&source->service, sim->options->seed, stream + 1);
  sim_random_init(&source->retry, sim->options->seed, stream + 2);
  for (int i = 0; i < is->service_count; i++) source->shares += is->services[i].share;
  source->rate_max = rate_max(is);
  switch (is->kind) {
    case SIM_POISSON:
    case SIM_DIURNAL: poisson_plan(sim, source, 0); break;
    case SIM_EVEN: event_plan(sim, &source->event, 0, even_fire); break;
    case SIM_MMPP: mmpp_stay(sim, source); break;
    case SIM_BATCH: event_plan(sim, &source->event, seconds_usec(is->first), batch_fire); break;
    case SIM_TRACE:
      if (is->trace_count > 0) event_plan(sim, &source->event, is->trace[0].at, trace_fire);
      break;
    case SIM_CLOSED: closed_begin(sim, source); break;
    default: WRONG("no such arrival");
  }
}
