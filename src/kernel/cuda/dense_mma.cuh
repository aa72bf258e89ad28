// SPDX-License-Identifier: MIT
// What a product of two bf16 matrices in shared memory is made of on sm_90a: wgmma with both
// operands there, copies of tiles by the tensor memory accelerator, barriers of a cluster.
#ifndef GQMM_KERNEL_CUDA_DENSE_MMA_CUH
#define GQMM_KERNEL_CUDA_DENSE_MMA_CUH

#include "kernel/cuda/mma.cuh"
#include "kernel/cuda/wgmma.cuh"

#include <cuda.h>

namespace gqmm
{

// c[64 x n] += a[64 x 16] b[n x 16]^T; a and b as wgmma_matrix() describes them.
template <int n> struct wgmma_shared;

#define GQMM_C8(i) \
    "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), \
        "+f"(c[i + 6]), "+f"(c[i + 7])
#define GQMM_C32(i) GQMM_C8(i), GQMM_C8(i + 8), GQMM_C8(i + 16), GQMM_C8(i + 24)

template <> struct wgmma_shared<128> {
    static __device__ __forceinline__ void add(float (&c)[64], uint64_t a, uint64_t b)
    {
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
            "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
            "}, %64, %65, 1, 1, 1, 0, 0;"
            : GQMM_C32(0), GQMM_C32(32)
            : "l"(a), "l"(b));
    }
};

template <> struct wgmma_shared<256> {
    static __device__ __forceinline__ void add(float (&c)[128], uint64_t a, uint64_t b)
    {
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
            "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
            "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
            "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
            "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, "
            "%110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, "
            "%124, %125, %126, %127"
            "}, %128, %129, 1, 1, 1, 0, 0;"
            : GQMM_C32(0), GQMM_C32(32), GQMM_C32(64), GQMM_C32(96)
            : "l"(a), "l"(b));
    }
};
#undef GQMM_C8
#undef GQMM_C32

__device__ __forceinline__ void barrier_expect(uint32_t at, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes)
                 : "memory");
}

// At the same barrier of a block of the cluster.
__device__ __forceinline__ void barrier_arrive_at(uint32_t at, uint32_t block)
{
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(at),
                 "r"(block)
                 : "memory");
}

// The tile at column k, row `row` of a tensor to shared memory; its bytes count at the barrier.
__device__ __forceinline__ void copy_tile(uint32_t to, const CUtensorMap *tensor, int k, int row,
                                          uint32_t barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];" ::"r"(to),
                 "l"(tensor), "r"(barrier), "r"(k), "r"(row)
                 : "memory");
}

// The same to the blocks of the cluster in `blocks`, a bit each, and their barriers.
__device__ __forceinline__ void copy_tile_to(uint32_t to, const CUtensorMap *tensor, int k, int row,
                                             uint32_t barrier, uint16_t blocks)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%4, %5}], [%2], %3;" ::"r"(to),
                 "l"(tensor), "r"(barrier), "h"(blocks), "r"(k), "r"(row)
                 : "memory");
}

// A tile from shared memory to column n, row `row` of a tensor; what lies outside of it is left
// out.
__device__ __forceinline__ void store_tile(const CUtensorMap *tensor, int n, int row, uint32_t from)
{
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(tensor),
        "r"(from), "r"(n), "r"(row)
        : "memory");
}

__device__ __forceinline__ void stores_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Until this thread's stores have read shared memory.
__device__ __forceinline__ void stores_have_read()
{
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// Four 8 x 8 of 16 bits; lane i says where row i % 8 of number i / 8 goes.
__device__ __forceinline__ void store_8x8x4(uint32_t at, const uint32_t (&v)[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),
                 "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
}

// The same of their transposes.
__device__ __forceinline__ void store_8x8x4_turned(uint32_t at, const uint32_t (&v)[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),
                 "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
}

// Two of them, of lanes 0 to 15.
__device__ __forceinline__ void store_8x8x2_turned(uint32_t at, uint32_t first, uint32_t second)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(at),
                 "r"(first), "r"(second)
                 : "memory");
}

__device__ __forceinline__ uint32_t cluster_rank()
{
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// That every block of the cluster has begun: each thread says so, and later waits for all.
__device__ __forceinline__ void cluster_begun()
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

} // namespace gqmm

#endif
