/*
** sim_random: splitmix64 and what is made of it.
*/
#include "sim_random.h"

#include <math.h>

uint64_t sim_random_next(struct sim_random *r) {
  uint64_t z = r->state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/* Streams of one seed begin at hashes of (seed, stream), so that no two walk through the same states side by side. */
void sim_random_init(struct sim_random *r, uint64_t seed, uint64_t stream) {
  r->state = seed;
  r->state = sim_random_next(r) ^ (stream + 1) * 0xD1342543DE82EF95u;
  r->state = sim_random_next(r);
}

double sim_random_uniform(struct sim_random *r) { return (double)((sim_random_next(r) >> 11) + 1) / 9007199254740992.0; }

double sim_random_exponential(struct sim_random *r, double mean) { return -mean * log(sim_random_uniform(r)); }

double sim_random_normal(struct sim_random *r) {
  double radius = sqrt(-2 * log(sim_random_uniform(r)));
  return radius * cos(6.283185307179586 * sim_random_uniform(r));
}
