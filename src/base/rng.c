/* SPDX-License-Identifier: Apache-2.0
 *
 * SplitMix64; see rng.h.
 */
#include "base/rng.h"
#include "base/must.h"

struct rng rng_seed(uint64_t seed)
{
    return (struct rng){seed};
}

uint64_t rng_u64(struct rng *r)
{
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t rng_below(struct rng *r, uint64_t n)
{
    MUST(n > 0);
    return (uint64_t)(((unsigned __int128)rng_u64(r) * n) >> 64);
}

double rng_unit(struct rng *r)
{
    return (double)(rng_u64(r) >> 11) * 0x1.0p-53;
}
