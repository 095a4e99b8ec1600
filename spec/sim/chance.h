/*
** chance: the dice of the simulations: splitmix64 (Steele, Lea, Flood 2014), so that a seed says all.
*/
#ifndef POOL_SPEC_SIM_CHANCE_H
#define POOL_SPEC_SIM_CHANCE_H

#include "core/base.h"

static inline uint64_t dice_draw(uint64_t *dice, uint64_t below) {
  uint64_t z = *dice += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return (z ^ (z >> 31)) % below;
}

static inline bool dice_chance(uint64_t *dice, int percent) { return (int)dice_draw(dice, 100) < percent; }

static inline usec dice_pick(uint64_t *dice, const usec *values, size_t count) { return values[dice_draw(dice, count)]; }

#define DICE_ONE_OF(dice, ...) \
  dice_pick(dice, (const usec[]){__VA_ARGS__}, sizeof((const usec[]){__VA_ARGS__}) / sizeof(usec))

#endif
