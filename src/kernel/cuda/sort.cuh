// SPDX-License-Identifier: MIT
// The pieces of the sort, on the device: pairs to classes, classes to places. Class e < E is
// expert e; class E takes the pairs that are skipped.
#ifndef GQMM_KERNEL_CUDA_SORT_CUH
#define GQMM_KERNEL_CUDA_SORT_CUH

#include "kernel/cuda.h"
#include "kernel/cuda/mma.cuh"
#include "kernel/cuda/wide_order.cuh"

#include <stdint.h>

namespace gqmm
{

constexpr int MOST_WARPS = 32; // of a sorting block
constexpr int ROUNDS = 4;      // of 32 pairs that a warp takes at a time
constexpr int BUCKETS = 4;     // of experts, by columns

struct sort_args {
    const int32_t *rhs, *lhs;
    int64_t rhs_stride, lhs_stride, n_x;
    int64_t n_pairs;
    int32_t n_experts, expert;
    uint32_t *fault;
    int32_t *order, *first, *n_tiles, *taken;
    gqmm_cuda_tile *tiles;
    uint32_t tile_columns, m;
    int32_t pitch;              // counters of a warp, a multiple of 8
    int32_t bits;               // of a class
    bool few_tiles;             // below 2^16 in all
    int32_t counter_bytes;      // of shared memory: what follows the counters
    int32_t chunk, n_blocks;    // pairs of a block
    bool plain;                 // rhs alone, in whole fours
    uint32_t *counts;           // three launches: [n_blocks, classes]
    int32_t *tile_at;           // three launches: [classes]
    wide_product::order_args x; // to be brought into
    int32_t order_of_x;         // this order; -1: no
};

// ---- pairs to classes

// A lane's pairs of all rounds at once: code[i] is the class of pair p0 + 32 i, -1 past the end.
__device__ __forceinline__ void load_classes(int (&code)[ROUNDS], const sort_args &a, int64_t p0,
                                             int64_t end)
{
    uint32_t bad = 0;
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const int64_t p = p0 + 32 * i;
        code[i] = -1;
        if (p < end)
            code[i] = a.rhs ? a.rhs[p * a.rhs_stride] : a.expert >= 0 ? a.expert : (int32_t)p;
    }
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const int64_t p = p0 + 32 * i;
        if (p < end) {
            bad |= code[i] < -1 || code[i] >= a.n_experts ? GQMM_FAULT_EXPERT : 0;
            code[i] = code[i] < 0 || code[i] >= a.n_experts ? a.n_experts : code[i];
        }
    }
    if (a.lhs) {
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
            const int64_t p = p0 + 32 * i;
            const int32_t x = p < end ? a.lhs[p * a.lhs_stride] : 0;
            const bool past = x >= 0 && x >= a.n_x;
            if (p < end) {
                bad |= x < -1 || past ? GQMM_FAULT_ROW : 0;
                code[i] = x < 0 || past ? a.n_experts : code[i];
            }
        }
    }
    bad = __reduce_or_sync(~0u, bad);
    if (bad && a.fault && threadIdx.x % 32 == 0)
        atomicOr(a.fault, bad);
}

// ---- classes to places

// What lies before a class: pairs, and tiles of each bucket, 16 bits each; where these might not
// do, all in bucket 0, which then has all the bits.
struct tally {
    uint32_t pairs, low, high;

    __device__ __forceinline__ void add(const tally &t)
    {
        pairs += t.pairs;
        low += t.low;
        high += t.high;
    }
    __device__ __forceinline__ uint32_t tiles(int bucket, bool few) const
    {
        const uint32_t word = bucket < 2 ? low : high;
        return few ? bucket & 1 ? word >> 16 : word & 0xffff : bucket ? 0 : low;
    }
};

__device__ __forceinline__ uint32_t tiles_of(const sort_args &a, uint32_t pairs)
{
    const uint32_t columns = pairs * a.m;
    return columns <= a.tile_columns ? columns != 0
                                     : (columns + a.tile_columns - 1) / a.tile_columns;
}

// The room of a list, as gqmm_cuda_most_tiles() gives it.
__device__ __forceinline__ uint32_t most_tiles(const sort_args &a)
{
    const uint32_t pairs = (uint32_t)a.n_pairs, classes = (uint32_t)a.n_experts + 1;
    const uint32_t n = pairs < classes ? pairs : classes;
    return n + (pairs * a.m - n) / a.tile_columns;
}

// The heavier the sooner; the skipped pairs, the last class, end the last bucket.
__device__ __forceinline__ int bucket_of(const sort_args &a, int c, uint32_t pairs)
{
    const uint32_t columns = pairs * a.m;
    if (!a.few_tiles)
        return 0;
    if (c == a.n_experts || columns <= a.tile_columns / 4)
        return 3;
    return columns > a.tile_columns ? 0 : columns > a.tile_columns / 2 ? 1 : 2;
}

__device__ __forceinline__ tally tally_of(const sort_args &a, int c, uint32_t pairs)
{
    const int bucket = bucket_of(a, c, pairs);
    const uint32_t n = tiles_of(a, pairs) << (bucket & 1) * 16;
    return {pairs, bucket < 2 ? n : 0, bucket < 2 ? 0 : n};
}

// Sums over the threads before, and over all. Warps from `used` on have nothing to add; they get no
// sums.
__device__ __forceinline__ tally scan(tally own, tally *all, tally *shared, int used)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    tally sum = own;
    if (warp < used) {
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
            const tally t = {__shfl_up_sync(~0u, sum.pairs, d), __shfl_up_sync(~0u, sum.low, d),
                             __shfl_up_sync(~0u, sum.high, d)};
            if (lane >= d)
                sum.add(t);
        }
        if (lane == 31)
            shared[warp] = sum;
    }
    __syncthreads();
    if (warp < used) {
        tally w = {0, 0, 0}; // lane w holds warp w
        if (lane < used)
            w = shared[lane];
        const bool ahead = lane < warp;
        *all = {__reduce_add_sync(~0u, w.pairs), __reduce_add_sync(~0u, w.low),
                __reduce_add_sync(~0u, w.high)};
        sum.add({__reduce_add_sync(~0u, ahead ? w.pairs : 0),
                 __reduce_add_sync(~0u, ahead ? w.low : 0),
                 __reduce_add_sync(~0u, ahead ? w.high : 0)});
        sum.pairs -= own.pairs;
        sum.low -= own.low;
        sum.high -= own.high;
    }
    return sum;
}

// Threads take classes [*c0, *c0 + the result); *used: warps that have any.
__device__ __forceinline__ int classes_of_thread(const sort_args &a, int *c0, int *used)
{
    const int classes = a.n_experts + 1, threads = (int)blockDim.x;
    const int each = classes <= threads ? 1 : (classes + threads - 1) / threads;
    *c0 = (int)threadIdx.x * each;
    *used = each == 1 ? (classes + 31) / 32 : threads / 32;
    return each;
}

__device__ __forceinline__ void write_tile(const sort_args &a, int c, uint32_t first,
                                           uint32_t pairs, uint32_t n, uint32_t at, uint32_t j)
{
    const uint32_t columns = pairs * a.m, size = n == 1 ? columns : columns / n;
    const uint32_t larger = columns - size * n; // tiles that are one column larger
    const uint32_t begin = first * a.m + j * size + (j < larger ? j : larger);
    *(int4 *)&a.tiles[at + j] =
        make_int4(c == a.n_experts ? -1 : c, (int)begin, (int)(size + (j < larger)), 0);
}

// The share `part` of `parts` of the tiles of a warp's classes, one class to a lane: n tiles from
// `at` on.
__device__ __forceinline__ void write_tiles(const sort_args &a, int c, uint32_t first,
                                            uint32_t pairs, uint32_t n, uint32_t at, int part,
                                            int parts)
{
    const uint32_t few = 16;
    if (n <= few && c % parts == part)
#pragma unroll 1
        for (uint32_t j = 0; j < n; j++)
            write_tile(a, c, first, pairs, n, at, j);
#pragma unroll 1
    for (uint32_t many = __ballot_sync(~0u, n > few); many; many &= many - 1) {
        const int lane = __ffs((int)many) - 1;
        const int c_ = __shfl_sync(~0u, c, lane);
        const uint32_t first_ = __shfl_sync(~0u, first, lane);
        const uint32_t pairs_ = __shfl_sync(~0u, pairs, lane);
        const uint32_t n_ = __shfl_sync(~0u, n, lane), at_ = __shfl_sync(~0u, at, lane);
        const uint32_t end = (uint32_t)((uint64_t)n_ * (part + 1) / parts);
#pragma unroll 1
        for (uint32_t j = (uint32_t)((uint64_t)n_ * part / parts) + threadIdx.x % 32; j < end;
             j += 32)
            write_tile(a, c_, first_, pairs_, n_, at_, j);
    }
}

// From all[c], the pairs of each class: base[c] = where they start + base[c], first, tiles and
// their number. With `tile_at` the tiles' places are kept and the tiles left to others.
__device__ __forceinline__ void plan_classes(const sort_args &a, const uint32_t *all,
                                             uint32_t *base, tally *shared, int part, int parts,
                                             int32_t *tile_at)
{
    int c0, used;
    const int classes = a.n_experts + 1, each = classes_of_thread(a, &c0, &used);
    tally own = {0, 0, 0}, sum;
#pragma unroll 1
    for (int c = c0; c < c0 + each && c < classes; c++)
        own.add(tally_of(a, c, all[c]));
    tally at = scan(own, &sum, shared, used);
    if ((int)threadIdx.x / 32 >= used)
        return;
    uint32_t before[BUCKETS + 1] = {0};
#pragma unroll
    for (int b = 0; b < BUCKETS; b++)
        before[b + 1] = before[b] + sum.tiles(b, a.few_tiles);
    if (part == 0 && threadIdx.x == 0) {
        a.first[classes] = (int32_t)sum.pairs;
        *a.n_tiles = (int32_t)before[BUCKETS];
        if (a.taken)
            a.taken[0] = a.taken[1] = 0;
    }
    const uint32_t most = most_tiles(a), threads = (uint32_t)used * 32; // no columns past the last
#pragma unroll 1
    for (uint32_t i = before[BUCKETS] + (uint32_t)part * threads + threadIdx.x; i < most;
         i += (uint32_t)parts * threads)
        *(int4 *)&a.tiles[i] = make_int4(-1, 0, 0, 0);
#pragma unroll 1
    for (int i = 0; i < each; i++) {
        const int c = c0 + i;
        const bool is = c < classes;
        const uint32_t pairs = is ? all[c] : 0, n = tiles_of(a, pairs);
        const int bucket = bucket_of(a, c, pairs);
        uint32_t tile = at.tiles(bucket, a.few_tiles);
#pragma unroll
        for (int b = 1; b < BUCKETS; b++)
            tile += b == bucket ? before[b] : 0;
        if (is) {
            base[c] += at.pairs;
            if (part == 0)
                a.first[c] = (int32_t)at.pairs;
            if (tile_at)
                tile_at[c] = (int32_t)tile;
        }
        if (!tile_at)
            write_tiles(a, c, at.pairs, pairs, n, tile, part, parts);
        if (is && i + 1 < each)
            at.add(tally_of(a, c, pairs));
    }
}

} // namespace gqmm

#endif
