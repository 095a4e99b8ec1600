/*
** snapshot: differences of counters and histograms.
*/
#include "snapshot.h"

#define SECONDS(t) ((double)(t) / (double)USEC_PER_SECOND)

static void figures_take(struct figures *out, const struct histogram *now, const struct histogram *before) {
  struct histogram between;
  histogram_difference(&between, now, before);
  out->count = between.count;
  out->mean = histogram_mean(&between) / (double)USEC_PER_SECOND;
  out->p50 = SECONDS(histogram_percentile(&between, 0.50));
  out->p95 = SECONDS(histogram_percentile(&between, 0.95));
  out->p99 = SECONDS(histogram_percentile(&between, 0.99));
  out->max = between.count > 0 ? SECONDS(between.max) : 0;
}

static void counters_take(struct snapshot *out, const struct counters *now, const struct counters *before) {
  out->arrivals = now->arrivals - before->arrivals;
  out->grants = now->grants - before->grants;
  out->releases = now->releases - before->releases;
  out->timeouts = now->timeouts - before->timeouts;
  out->rejected = now->rejected - before->rejected;
  out->cancelled = now->cancelled - before->cancelled;
  out->errors = now->errors - before->errors;
  out->opens = now->opens - before->opens;
  out->open_failures = now->open_failures - before->open_failures;
  out->closes = now->closes - before->closes;
  out->lost = now->lost - before->lost;
}

void snapshot_take(struct snapshot *out, const struct reading *now, const struct reading *before, const struct peaks *peaks) {
  const struct stats *s = &now->stats;
  usec began = before->stats.now > s->since ? before->stats.now : s->since;
  *out = (struct snapshot){
    .now = SECONDS(s->now - s->since), .interval = SECONDS(s->now - began),
    .size = s->size, .max_overflow = s->max_overflow, .limit = s->limit,
    .total = s->total, .idle = s->idle, .leased = s->leased, .opening = s->opening, .waiting = s->waiting,
    .leased_max = peaks->leased, .waiting_max = peaks->waiting, .unmet = s->unmet,
    .queue_age = SECONDS(s->queue_age), .failing = s->failing,
    .database_max_connections = -1, .database_in_use = -1,
  };
  counters_take(out, &s->counters, &before->stats.counters);
  if (s->now > began) out->leased_mean = (double)(s->leased_time - before->stats.leased_time) / (double)(s->now - began);
  if (s->size + s->max_overflow > 0) out->utilization = out->leased_mean / (s->size + s->max_overflow);
  figures_take(&out->wait, &s->wait, &before->stats.wait);
  figures_take(&out->hold, &s->hold, &before->stats.hold);
  figures_take(&out->open_time, &s->open_time, &before->stats.open_time);
  figures_take(&out->query, &now->query, &before->query);
}
