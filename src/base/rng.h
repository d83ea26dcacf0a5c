/* SPDX-License-Identifier: Apache-2.0
 *
 * A small seeded generator (SplitMix64, Steele, Lea and Flood 2014) for tests, the simulator and
 * seeded choices of the core. Never for secrets.
 */
#ifndef YADO_BASE_RNG_H
#define YADO_BASE_RNG_H

#include <stdint.h>

struct rng {
    uint64_t state;
};

struct rng rng_seed(uint64_t seed);
uint64_t rng_u64(struct rng *r);
/* Uniform in [0, n); n > 0. */
uint64_t rng_below(struct rng *r, uint64_t n);
/* Uniform in [0, 1). */
double rng_unit(struct rng *r);

#endif
