/*
** sim_random: streams of chance. One a source, each from the run's seed and its own number, so that what one source draws never
** moves what another draws.
*/
#ifndef POOL_SIM_SIM_RANDOM_H
#define POOL_SIM_SIM_RANDOM_H

#include <stdint.h>

struct sim_random {
  uint64_t state;
};

void sim_random_init(struct sim_random *, uint64_t seed, uint64_t stream);
uint64_t sim_random_next(struct sim_random *);       /* splitmix64 (Steele, Lea, Flood 2014) */
double sim_random_uniform(struct sim_random *);      /* (0, 1] */
double sim_random_exponential(struct sim_random *, double mean);
double sim_random_normal(struct sim_random *);       /* Box and Muller 1958; two uniforms a draw */

#endif
