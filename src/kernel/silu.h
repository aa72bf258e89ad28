/* SPDX-License-Identifier: MIT */
/* The activation of the feed-forward block, written so that compilers vectorise it. */
#ifndef GQMM_KERNEL_SILU_H
#define GQMM_KERNEL_SILU_H

#include "base/num.h"

/* e^x within 2 units in the last place for -87 <= x <= 88, clamped outside, NaN for NaN.
 * x = n ln 2 + r, |r| <= 0.347; the series of e^r ends at r^7, whose next term is below 6e-9.
 * Adding 1.5 * 2^23 leaves n, rounded, in the low bits: no conversion that NaN could upset. */
static inline float gqmm_exp(float x)
{
    const float magic = 12582912.0f;
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float shifted = x * 1.44269504f + magic;
    const float n = shifted - magic;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f; /* ln 2 in two parts */
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    return p * gqmm_bits_to_f32((gqmm_f32_to_bits(shifted) + 127u) << 23);
}

/* x * sigmoid(x) */
static inline float gqmm_silu(float x)
{
    return x / (1.0f + gqmm_exp(-x));
}

#endif
