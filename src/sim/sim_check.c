/*
** sim_check: whether a run's options make sense. What a person could have written wrong is refused with its name, before anything runs.
*/
#include <math.h>

#include "sim_internal.h"

static enum pool_err refuse(struct pool_error *error, const char *name, double value, const char *wanted) {
  return error_set(error, POOL_SETTINGS, "%s: %g is not %s", name, value, wanted);
}

static bool positive(double v) { return v > 0 && isfinite(v); }
static bool not_negative(double v) { return v >= 0 && isfinite(v); }

static enum pool_err check_service(const struct sim_service *s, struct pool_error *e) {
  if (!positive(s->share)) return refuse(e, "service share", s->share, "more than 0");
  if (!not_negative(s->mean)) return refuse(e, "service mean", s->mean, "seconds, 0 or more");
  if (s->kind == SIM_LOGNORMAL && !positive(s->cv)) return refuse(e, "service cv", s->cv, "more than 0");
  if (s->kind == SIM_HYPEREXPONENTIAL && !(s->cv > 1 && isfinite(s->cv))) return refuse(e, "service cv", s->cv, "more than 1");
  if (s->kind == SIM_ERLANG && (s->k < 1 || s->k > 1000)) return refuse(e, "service k", s->k, "a whole number from 1 to 1000");
  return POOL_OK;
}

static enum pool_err check_points(const struct sim_source *s, struct pool_error *e) {
  if (s->point_count < 1 || s->point_count > SIM_POINTS_MAX) return refuse(e, "arrival rate", s->point_count, "1 to 64 points");
  for (int i = 0; i < s->point_count; i++) {
    if (!not_negative(s->points[i].rate)) return refuse(e, "arrival rate", s->points[i].rate, "requests a second, 0 or more");
    bool later = i == 0 || s->points[i].at > s->points[i - 1].at;
    if (!later) return refuse(e, "arrival rate at", s->points[i].at, "later than the point before");
  }
  return POOL_OK;
}

static enum pool_err check_trace(const struct sim_source *s, struct pool_error *e) {
  for (size_t i = 0; i < s->trace_count; i++) {
    bool fine = s->trace[i].at >= 0 && s->trace[i].service >= 0 && (i == 0 || s->trace[i].at >= s->trace[i - 1].at);
    if (!fine) return refuse(e, "trace line", (double)i + 1, "later than the one before, with times of 0 or more");
  }
  return POOL_OK;
}

static enum pool_err check_arrival(const struct sim_source *s, struct pool_error *e) {
  switch (s->kind) {
    case SIM_POISSON:
    case SIM_EVEN: return check_points(s, e);
    case SIM_DIURNAL:
      if (!not_negative(s->low)) return refuse(e, "arrival low", s->low, "requests a second, 0 or more");
      if (!not_negative(s->high)) return refuse(e, "arrival high", s->high, "requests a second, 0 or more");
      return positive(s->period) ? POOL_OK : refuse(e, "arrival period", s->period, "seconds, more than 0");
    case SIM_MMPP:
      for (int i = 0; i < 2; i++) {
        if (!not_negative(s->rates[i])) return refuse(e, "arrival rates", s->rates[i], "requests a second, 0 or more");
        if (!positive(s->means[i])) return refuse(e, "arrival means", s->means[i], "seconds, more than 0");
      }
      return POOL_OK;
    case SIM_BATCH:
      if (s->batch < 1 || s->batch > 1000000) return refuse(e, "arrival batch", s->batch, "a whole number from 1 to 1000000");
      if (!not_negative(s->first)) return refuse(e, "arrival first", s->first, "seconds, 0 or more");
      return not_negative(s->every) ? POOL_OK : refuse(e, "arrival every", s->every, "seconds, 0 or more");
    case SIM_TRACE: return check_trace(s, e);
    case SIM_CLOSED:
      if (s->clients < 1 || s->clients > 1000000) return refuse(e, "arrival clients", s->clients, "a whole number from 1 to 1000000");
      return not_negative(s->think) ? POOL_OK : refuse(e, "arrival think", s->think, "seconds, 0 or more");
    default: WRONG("no such arrival");
  }
}

static enum pool_err check_source(const struct sim_source *s, struct pool_error *e) {
  enum pool_err err = check_arrival(s, e);
  if (err != POOL_OK) return err;
  if (s->service_count < 1 || s->service_count > SIM_SERVICES_MAX) return refuse(e, "service", s->service_count, "1 to 8 kinds");
  for (int i = 0; i < s->service_count; i++)
    if ((err = check_service(&s->services[i], e)) != POOL_OK) return err;
  if (!not_negative(s->deadline)) return refuse(e, "deadline", s->deadline, "seconds, 0 or more");
  if (s->retries < 0 || s->retries > 100) return refuse(e, "retries", s->retries, "a whole number from 0 to 100");
  if (!not_negative(s->retry_after)) return refuse(e, "retry_after", s->retry_after, "seconds, 0 or more");
  if (!not_negative(s->retry_budget)) return refuse(e, "retry_budget", s->retry_budget, "a share, 0 or more");
  if (s->priority > WAITER_PRIORITY_MAX) return refuse(e, "priority", s->priority, "from 0 to 9");
  return POOL_OK;
}

static enum pool_err check_database(const struct sim_database *d, struct pool_error *e) {
  if (!not_negative(d->round_trip)) return refuse(e, "connect", d->round_trip, "seconds, 0 or more");
  if (!not_negative(d->login_work)) return refuse(e, "connect work", d->login_work, "seconds, 0 or more");
  if (d->max_connections < 0) return refuse(e, "max_connections", d->max_connections, "0 or more");
  if (!not_negative(d->sigma)) return refuse(e, "usl sigma", d->sigma, "0 or more");
  if (!not_negative(d->kappa)) return refuse(e, "usl kappa", d->kappa, "0 or more");
  if (d->fault_count < 0 || d->fault_count > SIM_FAULTS_MAX) return refuse(e, "faults", d->fault_count, "at most 32");
  for (int i = 0; i < d->fault_count; i++) {
    const struct sim_fault *f = &d->faults[i];
    if (!not_negative(f->at)) return refuse(e, "fault at", f->at, "seconds, 0 or more");
    if (!not_negative(f->seconds)) return refuse(e, "fault seconds", f->seconds, "seconds, 0 or more");
    if (!not_negative(f->value)) return refuse(e, "fault value", f->value, "0 or more");
  }
  return POOL_OK;
}

enum pool_err sim_check(const struct sim_options *o, struct pool_error *e) {
  enum pool_err err = settings_check(&o->settings, e);
  if (err == POOL_OK) err = check_database(&o->database, e);
  if (err != POOL_OK) return err;
  if (!positive(o->duration) || o->duration > 1e8) return refuse(e, "duration", o->duration, "seconds, more than 0 and at most 1e8");
  if (!not_negative(o->warmup) || o->warmup >= o->duration) return refuse(e, "warmup", o->warmup, "seconds, less than the duration");
  if (!not_negative(o->timeline_every)) return refuse(e, "timeline", o->timeline_every, "seconds, 0 or more");
  if (o->source_count < 1 || o->source_count > SIM_SOURCES_MAX) return refuse(e, "workload", o->source_count, "1 to 8 sources");
  for (int i = 0; i < o->source_count; i++)
    if ((err = check_source(&o->sources[i], e)) != POOL_OK) return err;
  return POOL_OK;
}
