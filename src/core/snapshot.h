/*
** snapshot: a pool over one interval, as tuning policies see it and recordings keep it: the difference of two readings of its
** stats, in seconds. Plain data of a fixed size.
*/
#ifndef POOL_CORE_SNAPSHOT_H
#define POOL_CORE_SNAPSHOT_H

#include "stats.h"

/* What a histogram says of an interval: seconds; zeros when count is 0. */
struct figures {
  uint64_t count;
  double mean, p50, p95, p99, max;
};

struct snapshot {
  double now, interval;         /* seconds since the pool's first input; the length of the interval */
  int size, max_overflow, limit;
  int total, idle, leased, opening, waiting; /* as they are at the end of the interval */
  int leased_max, waiting_max;  /* the most at any time of the interval */
  int unmet;
  uint64_t arrivals, grants, releases, timeouts, rejected, cancelled, errors, opens, open_failures, closes, lost;
  double leased_mean;           /* mean leases over the interval */
  double utilization;           /* leased_mean / (size + max_overflow), as they are at its end */
  double queue_age;             /* how long the first in line has waited at the end of it */
  double loop_lag;              /* how late the interval's end was noticed */
  bool failing;                 /* the last open failed */
  struct figures wait, hold, open_time, query;
  int database_max_connections; /* -1: not known */
  int database_in_use;          /* connections at the server, everybody's; -1: not known */
};

/* The least that is kept of a reading of the stats to take the next difference from. */
struct reading {
  struct stats stats;
  struct histogram query;
};

/* *out from two readings of one pool, `before` the earlier (all zero: since the pool's first input) and the peaks between them. What only
   the driving room knows (loop_lag, the database's figures) is set to 0 and -1. */
void snapshot_take(struct snapshot *out, const struct reading *now, const struct reading *before, const struct peaks *peaks);

#endif
