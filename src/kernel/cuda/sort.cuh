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

// Each code becomes class | rank << 16, the rank among the pairs of this class that the warp met;
// `row` counts them. All bits of -1 are set: a.bits hold one class more than there is.
__device__ __forceinline__ void rank_classes(int (&code)[ROUNDS], uint16_t *row, const sort_args &a)
{
    const uint32_t below = (1u << threadIdx.x % 32) - 1;
    uint32_t same[ROUNDS]; // lanes whose class is that of this lane
#pragma unroll
    for (int i = 0; i < ROUNDS; i++)
        same[i] = ~0u;
#pragma unroll 1
    for (int b = 0; b < a.bits; b++) {
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
            const bool set = code[i] >> b & 1;
            const uint32_t lanes = __ballot_sync(~0u, set);
            same[i] &= set ? lanes : ~lanes;
        }
    }
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const int before = __popc(same[i] & below), c = code[i];
        const int met = c < 0 ? 0 : row[c];
        __syncwarp();
        if (c >= 0 && before == 0)
            row[c] = (uint16_t)(met + __popc(same[i]));
        __syncwarp();
        code[i] = c < 0 ? -1 : c | (met + before) << 16;
    }
}

// One column of counters over `rows` warps becomes the sums before, from `sum` on; returns the sum
// of all. With `only` nothing is written.
__device__ __forceinline__ uint32_t sum_column(uint32_t *word, int words, int rows, uint32_t sum,
                                               bool only)
{
    int w = 0;
#pragma unroll 1
    for (; w + 8 <= rows; w += 8) {
        uint32_t v[8];
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = word[(w + i) * words];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            if (!only)
                word[(w + i) * words] = sum;
            sum += v[i];
        }
    }
#pragma unroll 1
    for (; w < rows; w++) {
        const uint32_t v = word[w * words];
        if (!only)
            word[w * words] = sum;
        sum += v;
    }
    return sum;
}

// Counters become the sums over the warps before; total[c] the sum over all, below 2^16. Two
// classes to a word. Where there are threads for it, four share a column.
__device__ __forceinline__ void sum_over_warps(uint16_t *counters, uint32_t *total, int pitch)
{
    __shared__ uint32_t quarter_sum[MOST_WARPS * 32];
    const int words = pitch / 2, warps = (int)blockDim.x / 32, t = (int)threadIdx.x;
    const bool share = words * 4 <= (int)blockDim.x;
    const int quarter = share ? t / words : 0, rows = share ? warps / 4 : warps;
    if (share) {
        if (quarter < 4)
            quarter_sum[t] = sum_column((uint32_t *)counters + quarter * rows * words + t % words,
                                        words, rows, 0, true);
        __syncthreads();
    }
    for (int j = share ? t - quarter * words : t; j < words && quarter < 4; j += (int)blockDim.x) {
        uint32_t sum = 0;
        for (int q = 0; q < quarter; q++)
            sum += quarter_sum[q * words + j];
        sum =
            sum_column((uint32_t *)counters + quarter * rows * words + j, words, rows, sum, false);
        if (!share || quarter == 3) {
            total[2 * j] = sum & 0xffff;
            total[2 * j + 1] = sum >> 16;
        }
    }
}

__device__ __forceinline__ void clear_counters(uint16_t *row, int pitch)
{
    for (int j = (int)threadIdx.x % 32; j < pitch / 8; j += 32)
        ((uint4 *)row)[j] = make_uint4(0, 0, 0, 0);
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

// start[c] = the sum of count[] before c.
__device__ __forceinline__ void start_classes(uint32_t *start, const uint32_t *count,
                                              const sort_args &a, tally *shared)
{
    int c0, used;
    const int each = classes_of_thread(a, &c0, &used);
    tally own = {0, 0, 0}, sum;
    for (int c = c0; c < c0 + each && c <= a.n_experts; c++)
        own.pairs += count[c];
    uint32_t at = scan(own, &sum, shared, used).pairs;
    for (int c = c0; c < c0 + each && c <= a.n_experts; c++) {
        start[c] = at;
        at += count[c];
    }
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

// The `count` pairs of a block from `p0` on to their places, through shared memory (`staged`, which
// may be that of the counters): neighbours in the block's own order, which starts[] describes, are
// neighbours in memory but for the classes' ends. Class c starts at base[c].
__device__ __forceinline__ void place(int (&code)[ROUNDS], const sort_args &a, const uint16_t *row,
                                      const uint32_t *starts, const uint32_t *base,
                                      uint32_t *staged, int64_t p0, int count)
{
    const int own = (int)threadIdx.x / 32 * ROUNDS * 32 + (int)threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < ROUNDS; i++)
        if (code[i] >= 0) {
            const int c = code[i] & 0xffff;
            code[i] = c | (int)(starts[c] + row[c] + (uint32_t)(code[i] >> 16)) << 16;
        }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ROUNDS; i++)
        if (code[i] >= 0)
            staged[code[i] >> 16] = (uint32_t)(own + 32 * i) | (uint32_t)code[i] << 16;
    __syncthreads();
#pragma unroll 4
    for (int i = (int)threadIdx.x; i < count; i += (int)blockDim.x) {
        const uint32_t v = staged[i], c = v >> 16;
        a.order[base[c] + ((uint32_t)i - starts[c])] = (int32_t)(p0 + (v & 0xffff));
    }
}

} // namespace gqmm

#endif
