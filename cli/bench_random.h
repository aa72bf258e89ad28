/* SPDX-License-Identifier: MIT */
/* Random numbers that are the same everywhere (splitmix64). */
#ifndef GQMM_CLI_BENCH_RANDOM_H
#define GQMM_CLI_BENCH_RANDOM_H

#include <stdint.h>

static inline uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* In [0, n), n < 2^32. */
static inline uint32_t random_below(uint64_t *state, uint32_t n)
{
    return (uint32_t)((random_next(state) >> 32) * n >> 32);
}

/* In [0, 1). */
static inline double random_unit(uint64_t *state)
{
    return (double)(random_next(state) >> 11) * 0x1p-53;
}

/* n numbers of a normal distribution. */
void random_normal(float *out, int64_t n, float deviation, uint64_t seed);

#endif
