/*
** histogram: durations counted in log-linear buckets (HdrHistogram's layout, Tene 2012): 16 sub-buckets an octave, so a
** reported percentile is at most 1/16 above the true one; 1 us to 2^36 us (19 hours), larger ones in the last bucket.
** Fixed size, no allocation; recording is a shift and an increment.
*/
#ifndef POOL_CORE_HISTOGRAM_H
#define POOL_CORE_HISTOGRAM_H

#include "base.h"

#define HISTOGRAM_SUB_BITS 4
#define HISTOGRAM_BUCKETS ((36 - HISTOGRAM_SUB_BITS + 1) * (1 << HISTOGRAM_SUB_BITS))

struct histogram {
  uint64_t count;
  usec sum, max; /* exact */
  uint32_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_record(struct histogram *, usec value); /* negative counts as 0 */
usec histogram_percentile(const struct histogram *, double fraction); /* 0 < fraction <= 1; 0 when empty; never above max */
double histogram_mean(const struct histogram *); /* usec; 0 when empty */
/* What was recorded between two readings of one histogram: for figures of an interval, which the tuning policies will read. */
void histogram_difference(struct histogram *out, const struct histogram *now, const struct histogram *before);

#endif
