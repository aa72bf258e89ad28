/* SPDX-License-Identifier: MIT */
/* AVX-512: vectors of sixteen floats, and registers enough for sixteen of them in a tile. */
#include "model/simd.h"
#include "model/simd_inline.h"

#include <immintrin.h>

enum { LANES = 16, KEY_VECS = 4 };

typedef __m512 vec;

INLINE vec v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

INLINE void v_store(float *p, vec v)
{
    _mm512_storeu_ps(p, v);
}

INLINE vec v_set(float x)
{
    return _mm512_set1_ps(x);
}

INLINE vec v_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

INLINE vec v_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}

INLINE vec v_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}

INLINE vec v_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

INLINE float f_fma(float a, float b, float c)
{
    return __builtin_fmaf(a, b, c);
}

INLINE vec v_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}

INLINE vec v_exponent(vec x)
{
    const __m512i n = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(n, 23));
}

#include "model/simd_body.h"

const gqmm_simd gqmm_simd_avx512 = SIMD_TABLE("avx512vnni");
