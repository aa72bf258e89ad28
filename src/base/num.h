/* SPDX-License-Identifier: MIT */
/* Numbers: checked size arithmetic, f16 / bf16 / 8-bit floats to and from fp32. Compiles as C11,
 * C++17 and CUDA. Conversions to narrow types round to nearest, ties to even. */
#ifndef GQMM_BASE_NUM_H
#define GQMM_BASE_NUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__)
#    define GQMM_HD __host__ __device__
#else
#    define GQMM_HD
#endif
#if defined(__cplusplus)
#    define GQMM_STATIC_ASSERT(x, s) static_assert(x, s)
#else
#    define GQMM_STATIC_ASSERT(x, s) _Static_assert(x, s)
#endif

/* *out = a * b or a + b; false on overflow or a negative operand, *out then is 0. Sizes that come
 * from outside pass through these and nothing else. */
static inline bool gqmm_mul(int64_t *out, int64_t a, int64_t b)
{
    *out = 0;
    if (a < 0 || b < 0 || (b != 0 && a > INT64_MAX / b))
        return false;
    *out = a * b;
    return true;
}

static inline bool gqmm_add(int64_t *out, int64_t a, int64_t b)
{
    *out = 0;
    if (a < 0 || b < 0 || a > INT64_MAX - b)
        return false;
    *out = a + b;
    return true;
}

GQMM_HD static inline float gqmm_bits_to_f32(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

GQMM_HD static inline uint32_t gqmm_f32_to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

/* Unaligned little-endian loads: blocks of a file have no alignment. */
GQMM_HD static inline uint16_t gqmm_load16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

GQMM_HD static inline uint32_t gqmm_load32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

GQMM_HD static inline float gqmm_bf16_to_f32(uint16_t h)
{
    return gqmm_bits_to_f32((uint32_t)h << 16);
}

GQMM_HD static inline uint16_t gqmm_f32_to_bf16(float f)
{
    const uint32_t u = gqmm_f32_to_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40); /* NaN stays NaN, quiet */
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

GQMM_HD static inline float gqmm_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t rest = (uint32_t)(h & 0x7fffu) << 13;
    if ((h & 0x7c00u) == 0x7c00u) /* infinity, NaN */
        return gqmm_bits_to_f32(sign | 0x7f800000u | rest);
    if ((h & 0x7c00u) == 0) { /* zero, subnormal: h * 2^-24, exact in fp32 */
        const float v = (float)(h & 0x3ffu) * 5.9604644775390625e-8f;
        return gqmm_bits_to_f32(gqmm_f32_to_bits(v) | sign);
    }
    return gqmm_bits_to_f32(sign | (rest + 0x38000000u));
}

GQMM_HD static inline uint16_t gqmm_f32_to_f16(float f)
{
    const uint32_t u = gqmm_f32_to_bits(f);
    const uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
    const uint32_t a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u); /* NaN */
    if (a >= 0x477ff000u)
        return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
    if (a < 0x38800000u) { /* below 2^-14: adding 0.5 leaves the subnormal's bits, rounded */
        const float v = gqmm_bits_to_f32(a) + 0.5f;
        return (uint16_t)(sign | (gqmm_f32_to_bits(v) - 0x3f000000u));
    }
    return (uint16_t)(sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1)) >> 13));
}

#endif
