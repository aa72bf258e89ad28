/* SPDX-License-Identifier: MIT */
/* Vectors of four floats, which every CPU that we build for has. Without fused multiply-adds on
 * x86, where the base does not have them. */
#include "base/num.h"
#include "model/simd.h"
#include "model/simd_inline.h"

enum { LANES = 4, KEY_VECS = 2 };

typedef float vec __attribute__((vector_size(16)));
typedef int32_t ivec __attribute__((vector_size(16)));

INLINE vec v_load(const float *p)
{
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void v_store(float *p, vec v)
{
    memcpy(p, &v, sizeof v);
}

INLINE vec v_set(float x)
{
    return (vec){x, x, x, x};
}

INLINE vec v_add(vec a, vec b)
{
    return a + b;
}

INLINE vec v_sub(vec a, vec b)
{
    return a - b;
}

INLINE vec v_mul(vec a, vec b)
{
    return a * b;
}

INLINE vec v_fma(vec a, vec b, vec c)
{
#if defined(__ARM_FEATURE_FMA)
    for (int32_t i = 0; i < LANES; i++)
        c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#else
    return a * b + c;
#endif
}

INLINE float f_fma(float a, float b, float c)
{
#if defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

INLINE vec v_max(vec a, vec b)
{
    const ivec more = a > b;
    return (vec)((more & (ivec)a) | (~more & (ivec)b));
}

INLINE vec v_exponent(vec x)
{
    return (vec)(((ivec)x + 127) << 23);
}

#include "model/simd_body.h"

const gqmm_simd gqmm_simd_base = SIMD_TABLE("scalar");
