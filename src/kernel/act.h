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
 * Written for vectorisers: magnitudes compare as integers, and adding 1.5 * 2^23 rounds. */
GQMM_HD static inline void gqmm_act_quantize_block(gqmm_act *a, const float *x, int n)
{
    const float magic = 12582912.0f;
    int32_t most = 0;
    for (int i = 0; i < n; i++) {
        const int32_t magnitude = (int32_t)(gqmm_f32_to_bits(x[i]) & 0x7fffffffu);
        most = magnitude > most ? magnitude : most;
    }
    memset(a, 0, sizeof *a);
    const float amax = gqmm_bits_to_f32((uint32_t)most), scale = amax / 127.0f;
    if (most >= 0x7f800000)
        a->scale = gqmm_bits_to_f32(0x7fc00000u);
    if (most >= 0x7f800000 || scale < FLT_MIN)
        return;
    const float inverse = 127.0f / amax;
    int32_t q[GQMM_ACT_ELEMS] = {0}, sum[2] = {0, 0};
    a->scale = scale;
    for (int i = 0; i < n; i++) /* |x * inverse| < 127.5 */
        q[i] = (int32_t)(x[i] * inverse + magic - magic);
    for (int i = 0; i < GQMM_ACT_ELEMS; i++)
        a->q[i] = (int8_t)q[i];
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < 16; i++)
            sum[half] += q[16 * half + i];
        a->sum[half] = (int16_t)sum[half];
    }
}

GQMM_HD static inline void gqmm_act_quantize(gqmm_act *a, const float *x, int64_t k)
{
    const int64_t whole = k / GQMM_ACT_ELEMS; /* a constant count is what vectorisers want */
    for (int64_t i = 0; i < whole; i++)
        gqmm_act_quantize_block(a + i, x + i * GQMM_ACT_ELEMS, GQMM_ACT_ELEMS);
    if (k % GQMM_ACT_ELEMS)
        gqmm_act_quantize_block(a + whole, x + whole * GQMM_ACT_ELEMS, (int)(k % GQMM_ACT_ELEMS));
}

#endif
