// SPDX-License-Identifier: MIT
// wgmma of sm_90a with the left operand in registers, and the barriers of shared memory that a
// block of producers and consumers is built on.
#ifndef GQMM_KERNEL_CUDA_WGMMA_CUH
#define GQMM_KERNEL_CUDA_WGMMA_CUH

#include <stdint.h>

namespace gqmm
{

// c[64 x n] += a[64 x 16] b[n x 16]^T of bf16. A warp's lanes hold a as mma.m16n8k16 wants it, and
// c as it returns it, 4 numbers for 8 columns. b lies in shared memory, see wgmma_matrix().
template <int n> struct wgmma;

// Operands: 4 accumulators for 8 columns, then a, then b.
#define GQMM_O8 "%0, %1, %2, %3"
#define GQMM_O16 GQMM_O8 ", %4, %5, %6, %7"
#define GQMM_O24 GQMM_O16 ", %8, %9, %10, %11"
#define GQMM_O32 GQMM_O24 ", %12, %13, %14, %15"
#define GQMM_O40 GQMM_O32 ", %16, %17, %18, %19"
#define GQMM_O48 GQMM_O40 ", %20, %21, %22, %23"
#define GQMM_O56 GQMM_O48 ", %24, %25, %26, %27"
#define GQMM_O64 GQMM_O56 ", %28, %29, %30, %31"
#define GQMM_O72 GQMM_O64 ", %32, %33, %34, %35"
#define GQMM_O80 GQMM_O72 ", %36, %37, %38, %39"
#define GQMM_O88 GQMM_O80 ", %40, %41, %42, %43"
#define GQMM_O96 GQMM_O88 ", %44, %45, %46, %47"
#define GQMM_O104 GQMM_O96 ", %48, %49, %50, %51"
#define GQMM_O112 GQMM_O104 ", %52, %53, %54, %55"
#define GQMM_O120 GQMM_O112 ", %56, %57, %58, %59"
#define GQMM_O128 GQMM_O120 ", %60, %61, %62, %63"
#define GQMM_O136 GQMM_O128 ", %64, %65, %66, %67"
#define GQMM_O144 GQMM_O136 ", %68, %69, %70, %71"
#define GQMM_O152 GQMM_O144 ", %72, %73, %74, %75"
#define GQMM_O160 GQMM_O152 ", %76, %77, %78, %79"
#define GQMM_O256 \
    GQMM_O160 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, " \
              "%94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, " \
              "%108, %109, " \
              "%110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, " \
              "%123, %124, " \
              "%125, %126, %127"
#define GQMM_C(i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define GQMM_C8 GQMM_C(0)
#define GQMM_C16 GQMM_C8, GQMM_C(4)
#define GQMM_C24 GQMM_C16, GQMM_C(8)
#define GQMM_C32 GQMM_C24, GQMM_C(12)
#define GQMM_C40 GQMM_C32, GQMM_C(16)
#define GQMM_C48 GQMM_C40, GQMM_C(20)
#define GQMM_C56 GQMM_C48, GQMM_C(24)
#define GQMM_C64 GQMM_C56, GQMM_C(28)
#define GQMM_C72 GQMM_C64, GQMM_C(32)
#define GQMM_C80 GQMM_C72, GQMM_C(36)
#define GQMM_C88 GQMM_C80, GQMM_C(40)
#define GQMM_C96 GQMM_C88, GQMM_C(44)
#define GQMM_C104 GQMM_C96, GQMM_C(48)
#define GQMM_C112 GQMM_C104, GQMM_C(52)
#define GQMM_C120 GQMM_C112, GQMM_C(56)
#define GQMM_C128 GQMM_C120, GQMM_C(60)
#define GQMM_C136 GQMM_C128, GQMM_C(64)
#define GQMM_C144 GQMM_C136, GQMM_C(68)
#define GQMM_C152 GQMM_C144, GQMM_C(72)
#define GQMM_C160 GQMM_C152, GQMM_C(76)
#define GQMM_C256 \
    GQMM_C160, GQMM_C(80), GQMM_C(84), GQMM_C(88), GQMM_C(92), GQMM_C(96), GQMM_C(100), \
        GQMM_C(104), GQMM_C(108), GQMM_C(112), GQMM_C(116), GQMM_C(120), GQMM_C(124)

// a and b: the numbers of their operands.
#define GQMM_WGMMA(n, a, b) \
    template <> struct wgmma<n> { \
        template <int m> \
        static __device__ __forceinline__ void add(float (&c)[m], const uint32_t *r, uint64_t at) \
        { \
            static_assert(m >= n / 2, "accumulators"); \
            asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" GQMM_O##n \
                         "}, {" a "}, " b ", 1, 1, 1, 0;" \
                         : GQMM_C##n \
                         : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "l"(at)); \
        } \
    };
GQMM_WGMMA(8, "%4, %5, %6, %7", "%8")
GQMM_WGMMA(16, "%8, %9, %10, %11", "%12")
GQMM_WGMMA(24, "%12, %13, %14, %15", "%16")
GQMM_WGMMA(32, "%16, %17, %18, %19", "%20")
GQMM_WGMMA(40, "%20, %21, %22, %23", "%24")
GQMM_WGMMA(48, "%24, %25, %26, %27", "%28")
GQMM_WGMMA(56, "%28, %29, %30, %31", "%32")
GQMM_WGMMA(64, "%32, %33, %34, %35", "%36")
GQMM_WGMMA(72, "%36, %37, %38, %39", "%40")
GQMM_WGMMA(80, "%40, %41, %42, %43", "%44")
GQMM_WGMMA(88, "%44, %45, %46, %47", "%48")
GQMM_WGMMA(96, "%48, %49, %50, %51", "%52")
GQMM_WGMMA(104, "%52, %53, %54, %55", "%56")
GQMM_WGMMA(112, "%56, %57, %58, %59", "%60")
GQMM_WGMMA(120, "%60, %61, %62, %63", "%64")
GQMM_WGMMA(128, "%64, %65, %66, %67", "%68")
GQMM_WGMMA(136, "%68, %69, %70, %71", "%72")
GQMM_WGMMA(144, "%72, %73, %74, %75", "%76")
GQMM_WGMMA(152, "%76, %77, %78, %79", "%80")
GQMM_WGMMA(160, "%80, %81, %82, %83", "%84")
GQMM_WGMMA(256, "%128, %129, %130, %131", "%132")
#undef GQMM_WGMMA
#undef GQMM_O256
#undef GQMM_C256
#undef GQMM_C
#undef GQMM_O8
#undef GQMM_O16
#undef GQMM_O24
#undef GQMM_O32
#undef GQMM_O40
#undef GQMM_O48
#undef GQMM_O56
#undef GQMM_O64
#undef GQMM_O72
#undef GQMM_O80
#undef GQMM_O88
#undef GQMM_O96
#undef GQMM_O104
#undef GQMM_O112
#undef GQMM_O120
#undef GQMM_O128
#undef GQMM_O136
#undef GQMM_O144
#undef GQMM_O152
#undef GQMM_O160
#undef GQMM_C8
#undef GQMM_C16
#undef GQMM_C24
#undef GQMM_C32
#undef GQMM_C40
#undef GQMM_C48
#undef GQMM_C56
#undef GQMM_C64
#undef GQMM_C72
#undef GQMM_C80
#undef GQMM_C88
#undef GQMM_C96
#undef GQMM_C104
#undef GQMM_C112
#undef GQMM_C120
#undef GQMM_C128
#undef GQMM_C136
#undef GQMM_C144
#undef GQMM_C152
#undef GQMM_C160

// b in shared memory: rows of 128 bytes (64 along k), whose 16-byte chunks c lie at c ^ (row & 7),
// at a multiple of 1024 bytes. 16 along k further are 32 bytes: add 2.
__device__ __forceinline__ uint64_t wgmma_matrix(uint32_t shared)
{
    return (uint64_t)((shared & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

// The matrix `bytes` (a multiple of 16) further.
__device__ __forceinline__ uint64_t wgmma_matrix_at(uint64_t first, uint32_t bytes)
{
    return (first >> 32 << 32) | ((uint32_t)first + bytes / 16);
}

// Registers written before are seen by the wgmma that follow.
__device__ __forceinline__ void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// At most n of the latest groups are still at work.
template <int n> __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}

// What this thread saw in shared memory is seen by its wgmma, and what it has read there is read
// before copies of the accelerator that follow it write there.
__device__ __forceinline__ void fence_for_wgmma()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

template <int n> __device__ __forceinline__ void registers_down()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}

template <int n> __device__ __forceinline__ void registers_up()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}

// Barriers in shared memory, by their addresses there.
__device__ __forceinline__ void barrier_init(uint32_t at, int count)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t at)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}

// The same where `really`, without a branch: ptxas follows no wgmma across one.
__device__ __forceinline__ void barrier_arrive_if(bool really, uint32_t at)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %1, 0;\n"
                 "@p mbarrier.arrive.shared::cta.b64 _, [%0];\n}" ::"r"(at),
                 "r"((uint32_t)really)
                 : "memory");
}

// Arrives when all cp.async of this thread so far have written.
__device__ __forceinline__ void barrier_arrive_after_copies(uint32_t at)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(at) : "memory");
}

// Until all cp.async of this thread have written.
__device__ __forceinline__ void copies_wait()
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

// Until the phase of this parity is over.
__device__ __forceinline__ void barrier_wait(uint32_t at, uint32_t parity)
{
    asm volatile(
        "{\n.reg .pred p;\nagain:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra again;\n}" ::"r"(at),
        "r"(parity)
        : "memory");
}

// The same for those who are ahead of others: they ask to be left asleep for long, as asking again
// takes issue slots and power.
__device__ __forceinline__ void barrier_wait_lazily(uint32_t at, uint32_t parity)
{
    asm volatile(
        "{\n.reg .pred p;\nagain:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1, %2;\n@!p bra again;\n}" ::"r"(at),
        "r"(parity), "r"(10000000)
        : "memory");
}

// Threads of some warps of a block; id from 1.
__device__ __forceinline__ void warps_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// 8 x 8 of 16 bits, lane 4 i + j holding columns 2 j, 2 j + 1 of row i, transposed.
__device__ __forceinline__ uint32_t transpose_8x8(uint32_t v)
{
    uint32_t r;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(v));
    return r;
}

} // namespace gqmm

#endif
