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
    __device__ __forceinline__ uint32_t ordered_columns(int i) const
    {
        return barriers + 8 * (2 * MOST_WEIGHTS + 2 * MOST_COLUMNS + i);
    }
};

// A place in a ring, and the parity of the lap there.
struct ring {
    int stage = 0;
    uint32_t parity;

    __device__ __forceinline__ explicit ring(uint32_t p) : parity(p)
    {
    }
    __device__ __forceinline__ void next(int stages, int by = 1)
    {
        stage += by;
        if (stage >= stages) {
            stage -= stages;
            parity ^= 1;
        }
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

// ---- sums whose parts of k several warps have: 2^split of each block of a cluster, its shares.
// Each eight columns belong to a share in turn, which adds up what all wrote to its block's shared
// memory, [share][writer][turn of its columns][warp][lane]; behind it there is room for rows of y.
// Little code, as each instruction runs once: what takes time here is to fetch it.

__device__ __forceinline__ void write_to(uint32_t at, int block, const float *v)
{
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                 "st.shared::cluster.v4.f32 [there], {%2, %3, %4, %5};\n}" ::"r"(at),
                 "r"(block), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3])
                 : "memory");
}

// Rows g and g + 8, columns 2 t and 2 t + 1 of eight.
__device__ __forceinline__ void store_eight(const middle_args &a, const float (&v)[4], int64_t row,
                                            int64_t column, int count, int lane)
{
    const int g = lane >> 2, t = lane & 3;
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

struct sums_layout {
    int shares, turns, turn_bytes, share_bytes; // the latter of a share's sums

    __device__ __forceinline__ sums_layout(const middle_args &a, int columns)
    {
        shares = a.cluster << a.split;
        turns = (columns / 8 + shares - 1) / shares;
        turn_bytes = a.groups * 4 * 512;
        share_bytes = shares * turns * turn_bytes;
    }
};

// To the blocks that add them up.
template <int N>
__device__ __forceinline__ void give_away(const middle_args &a, const block_memory &mem,
                                          const float (&acc)[N / 2], int mine, int warp, int lane)
{
    const sums_layout l(a, N);
    const uint32_t first = shared_address(mem.data) + a.sums_at + mine * l.turns * l.turn_bytes +
                           warp * 512 + lane * 16;
    uint32_t at = first;
    int to = 0;
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        write_to(at + (to & a.split) * l.share_bytes, to >> a.split, acc + 4 * j);
        if (++to == l.shares) {
            to = 0;
            at += l.turn_bytes;
        }
    }
}

// Rows of bf16 leave in whole pieces of 64 weights' outputs, through shared memory behind the sums.
template <int N>
__device__ __forceinline__ void add_up(const middle_args &a, const block_memory &mem,
                                       const block_work &work, float factor, int mine, int count,
                                       int warp, int lane)
{
    const sums_layout l(a, N);
    const int group = (mine & a.split) * a.groups + (warp >> 2), r = lane & 7;
    const uint8_t *sums =
        mem.data + a.sums_at + (mine & a.split) * l.share_bytes + warp * 512 + lane * 16;
    const uint8_t *tile =
        mem.data + a.sums_at + (l.share_bytes << a.split) + group * l.turns * 1024;
    const uint32_t to =
        shared_address(tile) + r * 128 + (((warp & 3) * 2 + (lane >> 3 & 1)) ^ r) * 16;
    int rows = 0; // of y in the tile
#pragma unroll 1
    for (int column = 8 * mine; column < count; column += 8 * l.shares) {
        float v[4] = {};
#pragma unroll 2
        for (int b = 0; b < l.shares; b++) {
            const float4 u = *(const float4 *)(sums + b * l.turns * l.turn_bytes);
            v[0] += u.x;
            v[1] += u.y;
            v[2] += u.z;
            v[3] += u.w;
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] *= factor;
        if (a.whole_16)
            store_8x8x2_turned(to + rows * 128, pair_of(v[0], v[1], GQMM_BF16),
                               pair_of(v[2], v[3], GQMM_BF16));
        else
            store_eight(a, v, work.row + warp * 16, work.column + column, count - column, lane);
        sums += l.turn_bytes;
        rows += 8;
    }
    if (!a.whole_16)
        return;
    warps_sync(2 + group, 128);
#pragma unroll 1
    for (int i = (warp & 3) * 32 + lane; i < rows * 8; i += 128) {
        const int m = i >> 3, c = i & 7, column = 8 * (mine + (m >> 3) * l.shares) + (m & 7);
        const int64_t row = work.row + (warp >> 2) * 64 + c * 8;
        if (column < count && row < a.n)
            *(uint4 *)((uint16_t *)a.y + (work.column + column) * a.y_row + row) =
                *(const uint4 *)(tile + m * 128 + (c ^ (m & 7)) * 16);
    }
}

// ---- sums of one share that become whole pieces of rows of bf16: a warpgroup's 64 rows of
// weights, 64 columns at a time, through the place that its codes had in a stage.

template <class W, int N>
__device__ __forceinline__ void store_tiles(const middle_args &a, const block_memory &mem,
                                            const float (&acc)[N / 2], const block_work &work,
                                            float factor, int count, int warp, int lane)
{
    constexpr int WIDTH = N < 64 || W::row_bytes < 128 ? 32 : 64;
    static_assert(64 * W::row_bytes >= WIDTH * 128, "room");
    const int group = warp >> 2, id = (warp & 3) * 32 + lane, r = lane & 7;
    const uint8_t *tile = mem.data + a.weights_at + group * 64 * W::row_bytes;
    // 16 bytes, chunk c of column m's 128, lie at c ^ (m & 7).
    const uint32_t to = shared_address(tile) + ((lane >> 4) * 8 + r) * 128 +
                        (((warp & 3) * 2 + (lane >> 3 & 1)) ^ r) * 16;
    const int m = id >> 3, c = id & 7;
    const uint8_t *from = tile + m * 128 + (c ^ (m & 7)) * 16;
    const int64_t row = work.row + group * 64 + c * 8;
    uint16_t *y = (uint16_t *)a.y + (work.column + m) * a.y_row + row;
#pragma unroll
    for (int i = 0; i < N; i += WIDTH) {
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j += 2) {
            uint32_t v[4];
#pragma unroll
            for (int h = 0; h < 4; h++) {
                const float *two = acc + i / 2 + j * 4 + h * 2;
                v[h] = pair_of(two[0] * factor, two[1] * factor, GQMM_BF16);
            }
            store_8x8x4_turned(to + j * 1024, v);
        }
        warps_sync(1 + group, 128);
#pragma unroll
        for (int k = 0; k < WIDTH; k += 16)
            if (row < a.n && m + i + k < count)
                *(uint4 *)(y + (i + k) * a.y_row) = *(const uint4 *)(from + k * 128);
        warps_sync(1 + group, 128);
    }
}

} // namespace middle_product
} // namespace gqmm

#endif
