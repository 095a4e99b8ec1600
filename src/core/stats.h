/*
** stats: what a pool can say of itself in one snapshot. Plain data, copied out by pool_stats().
** Conservation, asserted by pool_assert: arrivals = grants + timeouts + rejected + cancelled + errors + waiting, and
** grants = releases + leased (a grant not yet taken by pool_next counts as leased).
*/
#ifndef POOL_CORE_STATS_H
#define POOL_CORE_STATS_H

#include "histogram.h"

struct counters {
  uint64_t arrivals;      /* pool_acquire calls */
  uint64_t grants;        /* leases begun */
  uint64_t releases;      /* leases ended, by release, loss or withdrawn grant */
  uint64_t timeouts;      /* failed with POOL_TIMEOUT */
  uint64_t rejected;      /* failed with POOL_OVERLOADED */
  uint64_t shed;          /* those of them that codel sent away */
  uint64_t cancelled;     /* pool_cancel before a grant */
  uint64_t errors;        /* failed with POOL_CONNECT or POOL_CLOSED */
  uint64_t opens;         /* connections opened */
  uint64_t open_failures; /* opens that failed */
  uint64_t closes;        /* connections closed, for whatever reason */
  uint64_t checks;        /* pre-pings sent */
  uint64_t check_failures;
  uint64_t resets;
  uint64_t recycled;      /* closed for their age */
  uint64_t lost;          /* found dead: idle, leased or in a check */
  uint64_t elided;        /* opens called off before they began */
};

struct stats {
  usec now;
  int size, max_overflow, limit;                        /* limit: min(size + max_overflow, cap, size_limit) */
  int total, idle, opening, checking, leased, resetting, closing;
  int waiting;
  int unmet;         /* waiters that more room would serve */
  usec queue_age;    /* how long the first in line has waited; 0 when nobody does */
  usec leased_time;  /* integral of leased over time: its difference over an interval / the interval is the mean leased */
  usec since;        /* pool_create's first input: utilization = leased_time / ((now - since) * (size + max_overflow)) */
  bool paused, draining, failing; /* failing: the last open failed, none has succeeded since */
  struct counters counters;
  struct histogram wait, hold, open_time; /* wait: of grants, zeros included */
};

/* The most at any time since pool_peaks was last asked. */
struct peaks {
  int leased, waiting;
};

#endif
