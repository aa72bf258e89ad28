/* SPDX-License-Identifier: MIT */
/* How the words and loops of simd_*.c are forced into registers. */
#ifndef GQMM_MODEL_SIMD_INLINE_H
#define GQMM_MODEL_SIMD_INLINE_H

#define INLINE static inline __attribute__((always_inline))
#define PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#    define UNROLL(n) PRAGMA(unroll n)
#else
#    define UNROLL(n) PRAGMA(GCC unroll n)
#endif

#endif
