/* SPDX-License-Identifier: MIT */
/* Small floats that serve as scales or codes: E8M0, E4M3 (MLX reading), UE4M3 (ggml reading), E2M1.
 * E2M1 codes are handled doubled, as integers: {0, 1, 2, 3, 4, 6, 8, 12} / 2. */
#ifndef GQMM_FORMAT_FP8_H
#define GQMM_FORMAT_FP8_H

#include "base/num.h"

/* 2^(e - 127); e = 0 is the subnormal 2^-127, e = 255 is infinity (MLX). */
GQMM_HD static inline float gqmm_e8m0_to_f32(uint8_t e)
{
    return gqmm_bits_to_f32(e == 0 ? 0x00400000u : (uint32_t)e << 23);
}

/* 2^(e - 128), for doubled E2M1 codes; e = 255 is 2^127 (ggml). */
GQMM_HD static inline float gqmm_e8m0_half_to_f32(uint8_t e)
{
    return gqmm_bits_to_f32(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

/* E4M3: no infinities, 0x7f and 0xff are NaN. (MLX read them as 480 before 0.32.) */
GQMM_HD static inline float gqmm_e4m3_to_f32(uint8_t u)
{
    const uint32_t sign = (uint32_t)(u & 0x80u) << 24;
    const uint32_t a = u & 0x7fu;
    if (a < 8) { /* subnormal: a * 2^-9 */
        const float v = (float)a * 0.001953125f;
        return gqmm_bits_to_f32(gqmm_f32_to_bits(v) | sign);
    }
    if (a == 0x7f)
        return gqmm_bits_to_f32(sign | 0x7fc00000u);
    return gqmm_bits_to_f32(sign | ((a << 20) + 0x3c000000u));
}

/* Round to nearest even; 448 and above, infinity and NaN give 448 (0x7e). */
GQMM_HD static inline uint8_t gqmm_f32_to_e4m3(float f)
{
    const uint32_t u = gqmm_f32_to_bits(f);
    const uint8_t sign = (uint8_t)((u >> 24) & 0x80u);
    const uint32_t a = u & 0x7fffffffu;
    if (a >= 0x43e00000u) /* 448 */
        return (uint8_t)(sign | 0x7eu);
    if (a < 0x3c800000u) { /* below 2^-6: adding 2^14 leaves the rounded multiple of 2^-9 */
        const float v = gqmm_bits_to_f32(a) + 16384.0f;
        return (uint8_t)(sign | (gqmm_f32_to_bits(v) - 0x46800000u));
    }
    return (uint8_t)(sign | ((a - 0x3c000000u + 0x7ffffu + ((a >> 20) & 1)) >> 20));
}

/* Half of unsigned E4M3 as ggml reads it: 0x7f is 0, 0xff is 240, bit 7 is ignored otherwise. */
GQMM_HD static inline float gqmm_ue4m3_half_to_f32(uint8_t u)
{
    if ((u & 0x7f) == 0x7f)
        return u == 0x7f ? 0.0f : 240.0f;
    return 0.5f * gqmm_e4m3_to_f32(u & 0x7fu);
}

/* Twice the value of an E2M1 code; negative zero becomes 0. Written without a table, so that
 * loops over it become vector code: m, plus 1 2 3 for m = 5 6 7, plus 2 for m = 7. */
GQMM_HD static inline int gqmm_e2m1_doubled(int code)
{
    const int m = code & 7;
    const int v = m + (m > 4 ? m - 4 : 0) + (m == 7 ? 2 : 0);
    return code & 8 ? -v : v;
}

/* Nearest E2M1 code of v, given twice its value; ties go to the smaller magnitude, values that
 * round to 0, infinities and NaN to code 0. That is a search for the least fp32 |v - value| which
 * keeps the first of equals; from 2^21 on even the far ends become equal in fp32. */
GQMM_HD static inline int gqmm_e2m1_nearest(float doubled)
{
    const float a = doubled < 0.0f ? -doubled : doubled;
    if (!(a > 0.5f && a <= 3.402823466e38f))
        return 0;
    int m = 1 + (a > 1.5f) + (a > 2.5f) + (a > 3.5f) + (a > 5.0f) + (a > 7.0f) + (a > 10.0f);
    while (a > 2097152.0f && m > 0 && a - (float)gqmm_e2m1_doubled(m - 1) == a - 12.0f)
        m--;
    return doubled < 0.0f && m > 0 ? m + 8 : m;
}

#endif
