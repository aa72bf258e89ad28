// SPDX-License-Identifier: MIT
// The middle product's sums, added up over the parts of K that blocks and their warps have.
#ifndef GQMM_KERNEL_CUDA_MIDDLE_SUMS_CUH
#define GQMM_KERNEL_CUDA_MIDDLE_SUMS_CUH

#include "kernel/cuda/activations.cuh"
#include "kernel/cuda/dense_mma.cuh"
#include "kernel/cuda/middle_plan.cuh"

namespace gqmm
{
namespace middle_product
{

// Shared memory of a block: barriers, then the rings.
struct block_memory {
    uint8_t *data;
    uint32_t barriers;

    __device__ __forceinline__ explicit block_memory(uint8_t *shared)
    {
        const uint32_t at = shared_address(shared), to = (at + 1023) & ~1023u;
        barriers = to;
        data = shared + (to - at) + BARRIERS;
    }
    __device__ __forceinline__ uint32_t full_weights(int i) const
    {
        return barriers + 8 * i;
    }
    __device__ __forceinline__ uint32_t empty_weights(int i) const
    {
        return barriers + 8 * (MOST_WEIGHTS + i);
    }
    __device__ __forceinline__ uint32_t full_columns(int i) const
    {
        return barriers + 8 * (2 * MOST_WEIGHTS + i);
    }
    __device__ __forceinline__ uint32_t empty_columns(int i) const
    {
        return barriers + 8 * (2 * MOST_WEIGHTS + MOST_COLUMNS + i);
    }
};

// What a block has to do.
struct block_work {
    int row, column, first, steps;

    template <int N> static __device__ __forceinline__ block_work of(const middle_args &a, int rank)
    {
        const int tile = (int)blockIdx.x / a.cluster, first = rank * a.steps / a.cluster;
        return {tile % a.row_blocks * a.groups * 64, tile / a.row_blocks * N, first,
                (rank + 1) * a.steps / a.cluster - first};
    }
};

// ---- sums of the cluster, in which 2^split shares of each block have parts of k. Eight columns
// belong to a share, which adds up what the others wrote to its block's shared memory, [share]
// [writer][turn of its columns][warp][lane], and its own.

__device__ __forceinline__ void write_to(uint32_t at, int block, const float *v)
{
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                 "st.shared::cluster.v4.f32 [there], {%2, %3, %4, %5};\n}" ::"r"(at),
                 "r"(block), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3])
                 : "memory");
}

// Of the N / 8 times eight columns those that share `of` has, or all others, below `count`.
template <int N, class F>
__device__ __forceinline__ void each_eight(int shares, int of, bool own, int count, const F &f)
{
    int share = 0, turn = 0;
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        if ((share == of) == own && 8 * j < count)
            f(j, share, turn);
        if (++share == shares) {
            share = 0;
            turn++;
        }
    }
}

// Rows g and g + 8, columns 2 t and 2 t + 1 of eight.
__device__ __forceinline__ void store_eight(const middle_args &a, float (&v)[4], int64_t row,
                                            int64_t column, int count, int lane)
{
    const int g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int i = 0; i < 4; i++)
        v[i] *= LOW_FACTOR;
    if (a.whole_y) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t two = transpose_8x8(pair_of(v[2 * h], v[2 * h + 1], a.y_type));
            const int64_t at = row + 8 * h + 2 * t;
            if (g < count && at < a.n)
                *(uint32_t *)((uint16_t *)a.y + (column + g) * a.y_row + at) = two;
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (2 * t + (i & 1) < count && row + g + i / 2 * 8 < a.n)
            store_number(a.y, (column + 2 * t + (i & 1)) * a.y_row + row + g + i / 2 * 8, a.y_type,
                         v[i]);
}

// Where the lane's four sums of a writer's turn lie.
__device__ __forceinline__ const uint8_t *sums_of(const middle_args &a, const block_memory &mem,
                                                  int warp, int lane)
{
    return mem.data + a.sums_at + warp * 512 + lane * 16;
}

// To the blocks that add them up, which have begun.
template <int N>
__device__ __forceinline__ void give_away(const middle_args &a, const block_memory &mem,
                                          const float (&acc)[N / 2], int mine, int count, int warp,
                                          int lane)
{
    const int shares = a.cluster << a.split, turns = (N / 8 + shares - 1) / shares;
    const int bytes = a.groups * 4 * 512;
    const uint32_t sums = shared_address(sums_of(a, mem, warp, lane));
    each_eight<N>(shares, mine, false, count, [&](int j, int to, int turn) {
        const int of = (to & a.split) * (shares - 1) + (mine < to ? mine : mine - 1);
        write_to(sums + (of * turns + turn) * bytes, to >> a.split, acc + 4 * j);
    });
}

template <int N>
__device__ __forceinline__ void add_up(const middle_args &a, const block_memory &mem,
                                       const float (&acc)[N / 2], const block_work &work, int mine,
                                       int count, int warp, int lane)
{
    const int shares = a.cluster << a.split, turns = (N / 8 + shares - 1) / shares;
    const int bytes = a.groups * 4 * 512;
    const uint8_t *sums =
        sums_of(a, mem, warp, lane) + (mine & a.split) * (shares - 1) * turns * bytes;
    each_eight<N>(shares, mine, true, count, [&](int j, int, int turn) {
        float v[4] = {acc[4 * j], acc[4 * j + 1], acc[4 * j + 2], acc[4 * j + 3]};
#pragma unroll 1
        for (int b = 0; b < shares - 1; b++) {
            const float4 u = *(const float4 *)(sums + (b * turns + turn) * bytes);
            v[0] += u.x;
            v[1] += u.y;
            v[2] += u.z;
            v[3] += u.w;
        }
        store_eight(a, v, work.row + warp * 16, work.column + 8 * j, count - 8 * j, lane);
    });
}

} // namespace middle_product
} // namespace gqmm

#endif
