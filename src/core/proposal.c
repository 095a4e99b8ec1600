/*
** proposal: clamp, slew, check, in that order, and all of it or nothing.
*/
#include "proposal.h"

#include <string.h>

#define SLEW 0.25

static bool row_numeric(const struct setting *row) {
  return row->type == SETTING_DURATION || row->type == SETTING_COUNT || row->type == SETTING_RATIO;
}

static bool row_slews(const struct setting *row) {
  return strcmp(row->name, "size") == 0 || strcmp(row->name, "max_overflow") == 0 || strcmp(row->name, "min_idle") == 0;
}

int proposal_row(const struct setting *row) {
  const struct setting *first = pool_settings_table.rows;
  if (row < first || row >= first + pool_settings_table.count || !row->live) return -1;
  ptrdiff_t index = row - first;
  INSIST(index < PROPOSAL_ROWS_MAX);
  return (int)index;
}

void limits_defaults(struct limits *limits) {
  for (int i = 0; i < pool_settings_table.count; i++) {
    const struct setting *row = &pool_settings_table.rows[i];
    limits->low[i] = row->min;
    limits->high[i] = row->max;
    if (strcmp(row->name, "size") == 0) limits->low[i] = 1, limits->high[i] = 64;
    if (strcmp(row->name, "max_overflow") == 0) limits->high[i] = 64;
  }
}

static double clamp(double value, double low, double high) { return value < low ? low : value > high ? high : value; }

/* The nearest to `wanted` that one tick may reach. */
static double slewed(double now, double wanted) {
  double step = (double)(int)(now * SLEW);
  if (step < 1) step = 1;
  return clamp(wanted, now - step, now + step);
}

static enum pool_err row_dispose(const struct setting *row, int i, const struct settings *now, const struct proposal *p,
                                 const struct limits *limits, bool slew, struct settings *out, struct pool_error *error) {
  if (!row_numeric(row)) {
    size_t size = row->type == SETTING_FLAG ? sizeof(bool) : sizeof(int);
    memcpy((char *)out + row->offset, (const char *)&p->values + row->offset, size);
    return POOL_OK;
  }
  double was = setting_value(row, now), value = setting_value(row, &p->values);
  if (!(value >= row->min && value <= row->max)) return setting_number(row, out, value, error);
  value = clamp(value, limits->low[i], limits->high[i]);
  if (slew && row_slews(row)) value = slewed(was, value);
  return setting_number(row, out, value, error);
}

enum pool_err proposal_dispose(const struct settings *now, const struct proposal *p, const struct limits *limits, bool slew,
                               struct settings *out, struct pool_error *error) {
  struct settings wanted = *now;
  enum pool_err err = POOL_OK;
  *out = *now;
  for (int i = 0; i < pool_settings_table.count && err == POOL_OK; i++)
    if (p->given >> i & 1) err = row_dispose(&pool_settings_table.rows[i], i, now, p, limits, slew, &wanted, error);
  if (err == POOL_OK) err = settings_check(&wanted, error);
  if (err == POOL_OK) *out = wanted;
  return err;
}

uint64_t settings_differ(const struct settings *a, const struct settings *b) {
  uint64_t rows = 0;
  for (int i = 0; i < pool_settings_table.count; i++) {
    const struct setting *row = &pool_settings_table.rows[i];
    char one[64], other[64];
    bool same = strcmp(setting_format(row, a, one, sizeof one), setting_format(row, b, other, sizeof other)) == 0;
    if (!same) rows |= (uint64_t)1 << i;
  }
  return rows;
}
