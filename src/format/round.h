/* SPDX-License-Identifier: MIT */
/* Floats to codes. Every conversion is clamped first, so that no input (NaN included) leaves the
 * range of the integer type. */
#ifndef GQMM_FORMAT_ROUND_H
#define GQMM_FORMAT_ROUND_H

#include <math.h>

#include "base/num.h"
#include "gqmm.h"

/* v limited to [lo, hi]; NaN gives lo. */
GQMM_HD static inline float gqmm_clampf(float v, float lo, float hi)
{
    v = v > lo ? v : lo;
    return v < hi ? v : hi;
}

/* Truncated towards zero, inside [lo, hi]. */
GQMM_HD static inline int gqmm_trunc_code(float v, int lo, int hi)
{
    return (int)gqmm_clampf(v, (float)lo, (float)hi);
}

/* Nearest, ties to even, inside [lo, hi], |lo| and |hi| < 2^22: adding 1.5 * 2^23 leaves no
 * fraction bits. Clamping first changes nothing, as the bounds are integers. */
GQMM_HD static inline int gqmm_round_code(float v, int lo, int hi)
{
    const float magic = 12582912.0f;
    return (int)((gqmm_clampf(v, (float)lo, (float)hi) + magic) - magic);
}

/* Nearest, ties away from zero, inside [-limit, limit]. */
GQMM_HD static inline int gqmm_round_away_code(float v, int limit)
{
    const float c = gqmm_clampf(v, (float)-limit, (float)limit);
    const int t = (int)c;
    const float rest = c - (float)t; /* exact */
    return t + (rest >= 0.5f) - (rest <= -0.5f);
}

/* 1 / d, and 0 for 0. */
GQMM_HD static inline float gqmm_inverse(float d)
{
    return d == 0.0f ? 0.0f : 1.0f / d;
}

/* v as an element of a type would hold it. */
GQMM_HD static inline float gqmm_round_to_type(float v, int32_t type)
{
    if (type == GQMM_F16)
        return gqmm_f16_to_f32(gqmm_f32_to_f16(v));
    return type == GQMM_BF16 ? gqmm_bf16_to_f32(gqmm_f32_to_bf16(v)) : v;
}

/* The element of greatest magnitude, the first of equals (zeros too), with its sign; NaN never
 * wins. */
GQMM_HD static inline float gqmm_signed_max(const float *x, int n)
{
    float best = x[0] == 0.0f ? x[0] : 0.0f, amax = 0.0f;
    for (int i = 0; i < n; i++) {
        const float a = x[i] < 0.0f ? -x[i] : x[i];
        if (a > amax) {
            amax = a;
            best = x[i];
        }
    }
    return best;
}

GQMM_HD static inline float gqmm_abs_max(const float *x, int n)
{
    float amax = 0.0f;
    for (int i = 0; i < n; i++) {
        const float a = x[i] < 0.0f ? -x[i] : x[i];
        amax = a > amax ? a : amax;
    }
    return amax;
}

GQMM_HD static inline void gqmm_min_max(float *min, float *max, const float *x, int n)
{
    *min = INFINITY;
    *max = -INFINITY;
    for (int i = 0; i < n; i++) {
        *min = x[i] < *min ? x[i] : *min;
        *max = x[i] > *max ? x[i] : *max;
    }
}

GQMM_HD static inline void gqmm_store16(void *p, uint16_t v)
{
    memcpy(p, &v, 2);
}

GQMM_HD static inline void gqmm_store32(void *p, uint32_t v)
{
    memcpy(p, &v, 4);
}

#endif
