/* SPDX-License-Identifier: MIT */
/* The arithmetic of the small operations on single rows, once for each width of vectors.
 *
 * simd_body.h is written over a handful of words; simd_*.c bring them and the compiler's flags for
 * that file alone. Every sum has one order that is written there, whatever the width: all variants
 * with fused multiply-adds give the same bits, and none depends on how many rows come together. */
#ifndef GQMM_MODEL_SIMD_H
#define GQMM_MODEL_SIMD_H

#include "gqmm.h"

/* Positions of a block of the cache, which softmax takes together. */
enum { GQMM_KV_BLOCK = 64 };

/* Softmax over the blocks seen so far: weights are e^(score - max). */
typedef struct gqmm_softmax {
    float max, sum;
} gqmm_softmax;

typedef struct gqmm_simd {
    const char *isa; /* serves contexts of this room and of better ones */
    /* y = x / sqrt(mean(x^2) + eps) * weight, [n]. y may be x. */
    void (*norm)(float *y, const float *x, const float *weight, float eps, int64_t n);
    /* x += y, [n]. */
    void (*add)(float *x, const float *y, int64_t n);
    /* NEOX rotation of x[0, n_rot) by n_rot / 2 cosines, then as many sines. */
    void (*rotate)(float *x, const float *table, int32_t n_rot);
    /* score[r][i] = q[r] . key i * scale for the GQMM_KV_BLOCK keys [head_dim][GQMM_KV_BLOCK]. */
    void (*scores)(float (*score)[GQMM_KV_BLOCK], const float *const *q, int32_t n_rows,
                   const float *keys, int32_t head_dim, float scale);
    /* Takes n scores into the softmax and leaves their weights in place, 0 behind them. Returns
     * the factor that what was summed before shrinks by. */
    float (*soften)(float *score, int32_t n, gqmm_softmax *s);
    /* y[r] = y[r] * shrink[r] + sum over i < n[r] of weight[r][i] * value i, values
     * [GQMM_KV_BLOCK][head_dim]; n grows with r. */
    void (*values)(float *const *y, float (*weight)[GQMM_KV_BLOCK], const float *shrink,
                   const int32_t *n, int32_t n_rows, const float *values, int32_t head_dim);
    /* y *= a, [n]. */
    void (*scale)(float *y, float a, int64_t n);
    /* y = y * a + x * b, [n]. */
    void (*blend)(float *y, float a, const float *x, float b, int64_t n);
    /* e^x for x <= 0, within 2 units in the last place; below -87 as at -87. */
    float (*exp)(float x);
} gqmm_simd;

extern const gqmm_simd gqmm_simd_base;
#if defined(__x86_64__)
extern const gqmm_simd gqmm_simd_avx2, gqmm_simd_avx512;
#endif

/* The widest that the context's ISA allows. */
const gqmm_simd *gqmm_simd_of(const gqmm_context *ctx);

#endif
