/* SPDX-License-Identifier: MIT */
/* What the searching quantisers share: a block in a safe numeric range, and sums in eight lanes
 * (written out, because compilers may not reorder float sums on their own). */
#ifndef GQMM_FORMAT_SEARCH_COMMON_H
#define GQMM_FORMAT_SEARCH_COMMON_H

#include <float.h>
#include <math.h>

#include "format/format.h"
#include "format/round.h"

#define SEARCH_LANES 8

/* A block divided by the power of two `unit`, so that its largest magnitude lies in [0.5, 1) and
 * no square overflows; weights divided by their maximum and at least 1e-6, so that columns without
 * importance still get their nearest codes. */
typedef struct search_block {
    float x[GQMM_MAX_BLOCK];
    float w[GQMM_MAX_BLOCK];
    float unit;
} search_block;

static inline float search_lane_sum(const float *v)
{
    return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]));
}

/* Returns false for a block whose values are all nearer to zero than to 2^-24, the least step of
 * an f16 scale; the caller then writes zeros. */
static inline bool search_prepare(search_block *b, const float *x, const float *importance, int n)
{
    float amax = 0.0f, wmax = 0.0f;
    for (int i = 0; i < n; i++) {
        const float a = fabsf(x[i]);
        amax = a > amax ? a : amax;
        if (importance)
            wmax = importance[i] > wmax ? importance[i] : wmax;
    }
    amax = amax < FLT_MAX ? amax : FLT_MAX;
    if (amax < 2.98023224e-8f) /* 2^-25 */
        return false;

    int e;
    (void)frexpf(amax, &e);
    b->unit = ldexpf(1.0f, e < 127 ? e : 127);
    const float inverse = 1.0f / b->unit;
    for (int i = 0; i < n; i++) {
        const float v = x[i] == x[i] ? x[i] : 0.0f;
        b->x[i] = gqmm_clampf(v, -amax, amax) * inverse;
        b->w[i] = 1.0f;
    }
    if (wmax > 0.0f && wmax <= FLT_MAX)
        for (int i = 0; i < n; i++)
            b->w[i] = gqmm_clampf(importance[i] / wmax, 1e-6f, 1.0f);
    return true;
}

/* The f16 nearest to a scale of the block, never 0 and never infinite; *half gets its bits and
 * the return value is what it means in units of the block. */
static inline float search_half(uint16_t *half, float d, float unit)
{
    const float least = 5.9604645e-8f; /* 2^-24 */
    float v = gqmm_clampf(fabsf(d) * unit, least, 65504.0f);
    v = d < 0.0f ? -v : v;
    *half = gqmm_f32_to_f16(v);
    return gqmm_f16_to_f32(*half) / unit;
}

#endif
