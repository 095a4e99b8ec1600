/*
** proposal: a policy proposes, the core disposes.
**
** A proposal is some of the pool's settings with new values, each of them valid in itself (setting_number and its like have seen to
** that). Disposing of it is a pure function of the settings as they are, the proposal and the limits: a value outside its limits
** is moved to the nearer one, the counts of connections (size, max_overflow, min_idle) then change by at most max(1, 25 %) of what
** they are, and what comes of it must pass settings_check as a whole. So a policy can be wrong, but not unsafe.
*/
#ifndef POOL_CORE_PROPOSAL_H
#define POOL_CORE_PROPOSAL_H

#include "settings.h"

enum { PROPOSAL_ROWS_MAX = 64, PROPOSAL_REASON_MAX = 256 };

/* By row of pool_settings_table, in outside units; of numeric rows alone. */
struct limits {
  double low[PROPOSAL_ROWS_MAX], high[PROPOSAL_ROWS_MAX];
};

struct proposal {
  uint64_t given;                    /* bit i: row i of pool_settings_table was proposed */
  struct settings values;            /* only what is given counts */
  char reason[PROPOSAL_REASON_MAX];  /* "" when the policy gave none */
};

/* Every setting's own range, but size 1..64 and max_overflow 0..64. */
void limits_defaults(struct limits *);

/* The row's own number, from 0; -1 when no policy may propose it (it is not live, or not the pool's own). */
int proposal_row(const struct setting *);

/* *out: `now` with what the proposal makes of it. POOL_SETTINGS (and *out as `now`): the settings that would result do not go together,
   or a value is outside its setting's own range. `slew` false: any step is fine (a person's own order, a policy's first start). */
enum pool_err proposal_dispose(const struct settings *now, const struct proposal *, const struct limits *, bool slew,
                               struct settings *out, struct pool_error *error);

/* The rows in which two settings differ, as bits. */
uint64_t settings_differ(const struct settings *a, const struct settings *b);

#endif
