// SPDX-License-Identifier: MIT
// How the blocks of a sort of very many pairs bring theirs to their places: warps rank them, 32 at
// a time, and add up what they counted.
#ifndef GQMM_KERNEL_CUDA_SORT_RANKS_CUH
#define GQMM_KERNEL_CUDA_SORT_RANKS_CUH

#include "kernel/cuda/sort.cuh"

namespace gqmm
{

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
