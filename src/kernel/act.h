/* SPDX-License-Identifier: MIT */
/* Activations of GQMM_INT8: 32 numbers along K share one fp32 scale. Every room and CUDA use this
 * block and must produce these bits. */
#ifndef GQMM_KERNEL_ACT_H
#define GQMM_KERNEL_ACT_H

#include "base/num.h"

#include <float.h>
#include <math.h>

#define GQMM_ACT_ELEMS 32

/* x[i] is about scale * q[i], |q| <= 127. sum[h] is the sum of q over half h: offsets of formats
 * with 16 weights to a group need halves. */
typedef struct gqmm_act {
    float scale;
    int16_t sum[2]; /* |sum| <= 16 * 127 */
    int8_t q[GQMM_ACT_ELEMS];
} gqmm_act;
GQMM_STATIC_ASSERT(sizeof(gqmm_act) == 40, "act has no padding");

/* Blocks of a row of k activations; the last one is padded with zeros. */
GQMM_HD static inline int64_t gqmm_act_blocks(int64_t k)
{
    return (k + GQMM_ACT_ELEMS - 1) / GQMM_ACT_ELEMS;
}

/* scale = amax / 127, q = x / scale to the nearest, ties to even. A block with a NaN or an infinity
 * gets scale NaN, so the product says NaN; one with amax / 127 below the smallest normal is zero.
 */
GQMM_HD static inline void gqmm_act_quantize_block(gqmm_act *a, const float *x, int n)
{
    float amax = 0.0f;
    bool finite = true;
    for (int i = 0; i < n; i++) {
        const float m = fabsf(x[i]);
        finite = finite && m <= FLT_MAX;
        amax = m > amax ? m : amax;
    }
    memset(a, 0, sizeof *a);
    const float scale = amax / 127.0f;
    if (!finite)
        a->scale = gqmm_bits_to_f32(0x7fc00000u);
    if (!finite || scale < FLT_MIN)
        return;
    const float inverse = 127.0f / amax;
    a->scale = scale;
    for (int i = 0; i < n; i++) {
        a->q[i] = (int8_t)rintf(x[i] * inverse); /* |x * inverse| < 127.5 */
        a->sum[i / 16] = (int16_t)(a->sum[i / 16] + a->q[i]);
    }
}

GQMM_HD static inline void gqmm_act_quantize(gqmm_act *a, const float *x, int64_t k)
{
    for (int64_t i = 0; i < k; i += GQMM_ACT_ELEMS)
        gqmm_act_quantize_block(a++, x + i, (int)(k - i < GQMM_ACT_ELEMS ? k - i : GQMM_ACT_ELEMS));
}

#endif
