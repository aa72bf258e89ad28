// SPDX-License-Identifier: MIT
// wgmma of sm_90a with 8-bit integers: the left operand in registers, 32-bit sums.
#ifndef GQMM_KERNEL_CUDA_WGMMA_INT8_CUH
#define GQMM_KERNEL_CUDA_WGMMA_INT8_CUH

#include <stdint.h>

namespace gqmm
{

// c[64 x n] += a[64 x 32] b[n x 32]^T; without `keep` c is a b^T. A warp's lanes hold a as
// mma.m16n8k32 wants it: words of rows g and g + 8 at k 4 t, then of both at 16 + 4 t. c and b are
// as those of bf16, see wgmma.cuh: 32 along k further in b are 32 bytes again.
template <int n> struct wgmma_int8;

#define GQMM_O32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define GQMM_O64 \
    GQMM_O32 \
    ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define GQMM_C(i) "+r"(c[i]), "+r"(c[i + 1]), "+r"(c[i + 2]), "+r"(c[i + 3])
#define GQMM_C32 GQMM_C(0), GQMM_C(4), GQMM_C(8), GQMM_C(12)
#define GQMM_C64 GQMM_C32, GQMM_C(16), GQMM_C(20), GQMM_C(24), GQMM_C(28)

// a, b, on (whether c is kept): the numbers of their operands.
#define GQMM_WGMMA(n, a, b, on) \
    template <> struct wgmma_int8<n> { \
        template <bool keep, int m> \
        static __device__ __forceinline__ void add(int (&c)[m], const uint32_t *r, uint64_t at) \
        { \
            static_assert(m >= n / 2, "sums"); \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " on ", 0;\n" \
                         "wgmma.mma_async.sync.aligned.m64n" #n "k32.s32.s8.s8 {" GQMM_O##n \
                         "}, {" a "}, " b ", p;\n}" \
                         : GQMM_C##n \
                         : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "l"(at), "n"((int)keep)); \
        } \
    };
GQMM_WGMMA(32, "%16, %17, %18, %19", "%20", "%21")
GQMM_WGMMA(64, "%32, %33, %34, %35", "%36", "%37")
#undef GQMM_WGMMA
#undef GQMM_C
#undef GQMM_O32
#undef GQMM_O64
#undef GQMM_C32
#undef GQMM_C64

} // namespace gqmm

#endif
