/* SPDX-License-Identifier: MIT */
/* AVX2 and FMA: vectors of eight floats. */
#include "model/simd.h"
#include "model/simd_inline.h"

#include <immintrin.h>

enum { LANES = 8, KEY_VECS = 2 };

typedef __m256 vec;

INLINE vec v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

INLINE void v_store(float *p, vec v)
{
    _mm256_storeu_ps(p, v);
}

INLINE vec v_set(float x)
{
    return _mm256_set1_ps(x);
}

INLINE vec v_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

INLINE vec v_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}

INLINE vec v_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}

INLINE vec v_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

INLINE float f_fma(float a, float b, float c)
{
    return __builtin_fmaf(a, b, c);
}

INLINE vec v_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}

INLINE vec v_exponent(vec x)
{
    const __m256i n = _mm256_add_epi32(_mm256_castps_si256(x), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(n, 23));
}

#include "model/simd_body.h"

const gqmm_simd gqmm_simd_avx2 = SIMD_TABLE("avx2");
