/*
** histogram: log-linear buckets.
**
** Values below 16 us have a bucket each; from there each octave [2^k, 2^(k+1)) is cut into 16 buckets of width 2^(k-4). A
** percentile is the last value of the bucket that holds it, so it errs upwards and by less than a sixteenth.
*/
#include "histogram.h"

#include <string.h>

#define SUB_COUNT (1 << HISTOGRAM_SUB_BITS)

static int bucket_of(usec value) {
  if (value < SUB_COUNT) return value < 0 ? 0 : (int)value;
  int octave = 63 - __builtin_clzll((unsigned long long)value);
  int shift = octave - HISTOGRAM_SUB_BITS;
  int index = (shift + 1) * SUB_COUNT + (int)((value >> shift) & (SUB_COUNT - 1));
  return index < HISTOGRAM_BUCKETS ? index : HISTOGRAM_BUCKETS - 1;
}

/* The largest value that bucket_of puts into `index`. */
static usec bucket_last(int index) {
  if (index < SUB_COUNT) return index;
  if (index == HISTOGRAM_BUCKETS - 1) return NEVER;
  int shift = index / SUB_COUNT - 1;
  return ((usec)(SUB_COUNT + index % SUB_COUNT + 1) << shift) - 1;
}

void histogram_record(struct histogram *h, usec value) {
  if (value < 0) value = 0;
  h->count++;
  if (__builtin_add_overflow(h->sum, value, &h->sum)) h->sum = NEVER;
  if (value > h->max) h->max = value;
  h->buckets[bucket_of(value)]++;
}

usec histogram_percentile(const struct histogram *h, double fraction) {
  INSIST(fraction > 0 && fraction <= 1);
  if (h->count == 0) return 0;
  double rank = fraction * (double)h->count;
  uint64_t wanted = (uint64_t)rank, seen = 0;
  if ((double)wanted < rank || wanted == 0) wanted++;
  for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
    seen += h->buckets[i];
    if (seen < wanted) continue;
    usec last = bucket_last(i);
    return last < h->max ? last : h->max;
  }
  return h->max; /* only when a bucket's 32 bits have wrapped */
}

double histogram_mean(const struct histogram *h) {
  return h->count == 0 ? 0 : (double)h->sum / (double)h->count;
}

/* What was recorded between two snapshots of one histogram. The interval's own maximum is not known: the end of its highest
   bucket stands for it, which is never above the maximum of all time. `out` may be either of the others. */
void histogram_difference(struct histogram *out, const struct histogram *now, const struct histogram *before) {
  usec ceiling = now->max, max = 0;
  INSIST(now->count >= before->count);
  out->count = now->count - before->count;
  out->sum = now->sum - before->sum;
  for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
    out->buckets[i] = now->buckets[i] - before->buckets[i];
    if (out->buckets[i] > 0) max = bucket_last(i);
  }
  out->max = max < ceiling ? max : ceiling;
}
