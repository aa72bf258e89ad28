// SPDX-License-Identifier: MIT
// The last product of a mixture of experts for a few tokens, with the weighted sum inside it:
//
//     y[t] = sum over s of weights[t, s] * W[ids[t, s]] . h[t S + s]   (+ factor[t] * shared[t])
//
// A block takes 16 outputs of all tokens and its warps take the experts in turn, so nothing is
// scattered and nothing added up in memory. The tokens are the columns of the matrix instruction: a
// column whose token does not use the expert is zero. Weights are asked for before the launch that
// makes h has ended.
#ifndef GQMM_KERNEL_CUDA_SUM_CUH
#define GQMM_KERNEL_CUDA_SUM_CUH

#include "kernel/cuda/product.cuh"

namespace gqmm
{

constexpr int SUM_WARPS = 16, SUM_TOKENS = 8, SUM_PAIRS = 128;

// Experts in use and who uses them. A token that names an expert twice makes it two entries.
struct expert_table {
    int count;
    int16_t expert[SUM_PAIRS];
    int16_t pair[SUM_PAIRS][SUM_TOKENS]; // -1: the token does not use it
    int16_t entry[SUM_PAIRS];            // of a pair; -1: skipped
    int16_t twin[SUM_PAIRS];             // how often its token named the expert before
};

__device__ __forceinline__ void fill_table(expert_table &to, const gqmm_cuda_sum &c)
{
    const int pairs = (int)(c.n_tokens * c.n_slots), p = (int)threadIdx.x;
    int mine = p < pairs ? c.ids[p] : -1;
    mine = mine < 0 || mine >= c.w.n_experts ? -1 : mine;
    const int token = p / c.n_slots;
    for (int i = p; i < pairs * SUM_TOKENS; i += SUM_WARPS * 32)
        to.pair[i / SUM_TOKENS][i % SUM_TOKENS] = -1;
    if (p < pairs)
        to.expert[p] = (int16_t)mine; // by pair, for the searches that follow
    __syncthreads();
    if (p < pairs) {
        int twin = 0;
        for (int q = token * c.n_slots; q < p; q++)
            twin += mine >= 0 && to.expert[q] == mine;
        to.twin[p] = (int16_t)twin;
    }
    __syncthreads();
    int first = p;
    for (int q = 0; q < p && p < pairs && first == p; q++)
        if (to.expert[q] == mine && to.twin[q] == to.twin[p])
            first = q;
    const bool leads = p < pairs && mine >= 0 && first == p;
    // Entries in the order of their first pairs.
    __shared__ int before[SUM_WARPS];
    const uint32_t vote = __ballot_sync(0xffffffffu, leads);
    if (p % 32 == 0)
        before[p / 32] = __popc(vote);
    __syncthreads();
    int at = __popc(vote & ((1u << (p % 32)) - 1));
    for (int w = 0; w < p / 32; w++)
        at += before[w];
    if (p < pairs)
        to.entry[p] = (int16_t)(leads ? at : -1);
    __syncthreads();
    const int entry = p < pairs && mine >= 0 ? to.entry[first] : -1;
    __syncthreads();
    if (leads)
        to.expert[entry] = (int16_t)mine; // entry <= p: everybody has read what it overwrites
    if (entry >= 0)
        to.pair[entry][token] = (int16_t)p;
    if (p == 0) {
        int count = 0;
        for (int w = 0; w < SUM_WARPS; w++)
            count += before[w];
        to.count = count;
    }
    __syncthreads();
}

// Bytes between rows of h in shared memory, each with its sums: the eight lanes of a phase then
// meet 32 banks.
template <class D> GQMM_HD constexpr int64_t h_pitch(int64_t k)
{
    return (k * 2 + sum_pitch<D, 1>((int)k) + 127) / 128 * 128 + 64;
}

template <class D>
__global__ void __launch_bounds__(SUM_WARPS * 32)
    sum_kernel(const __grid_constant__ gqmm_cuda_sum c)
{
    typedef codes_of<D, 1> codes;
    constexpr int STAGES = stages<D>();
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ expert_table table;
    __shared__ float sums[SUM_WARPS][4][32];
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, g = lane >> 2,
              t = lane & 3;
    const format_args f = {c.w.group, c.w.scale_type};
    const int64_t row0 = (int64_t)blockIdx.x * ROWS, k = c.w.n_cols, pitch = h_pitch<D>(k);
    const int steps = (int)((k + D::step - 1) / D::step), pairs = (int)(c.n_tokens * c.n_slots);
    uint8_t *ring = shared + warp * warp_bytes<D, 1>();
    float *scales = (float *)(ring + STAGES * ROWS * row_pitch<D>());
    uint8_t *h = shared + SUM_WARPS * warp_bytes<D, 1>();

    // The ids are as old as the launch before last.
    fill_table(table, c);
    // A warp takes every 16th of all (expert, step), so that eight experts already keep it busy.
    const int items = table.count * steps;
    const int todo = warp < items ? (items - warp + SUM_WARPS - 1) / SUM_WARPS : 0;
    loader<D> weights;
    const auto rows_of = [&](int entry) {
        row_block b;
        const int expert = table.expert[entry];
        b.halves = false;
        b.count = (int)(c.w.n_rows - row0 < ROWS ? c.w.n_rows - row0 : ROWS);
#pragma unroll
        for (int plane = 0; plane < 3; plane++) {
            b.stride[plane] = c.w.row_stride[plane];
            b.first[plane] =
                c.w.plane[plane] + expert * c.w.expert_stride[plane] + row0 * b.stride[plane];
            b.second[plane] = 0;
        }
        return b;
    };
    const auto ask = [&](int i) {
        if (i < todo) {
            const int item = warp + i * SUM_WARPS;
            const int entry = item / steps;
            const row_block b = rows_of(entry);
            weights.set(b, k, c.w.aligned, b.regular(), lane, f);
            weights.bring(ring + i % STAGES * ROWS * row_pitch<D>(), item % steps, k, c.w.aligned,
                          4 * b.stride[0], 8 * b.stride[0], lane, f, [&] { return b; });
        }
        copies_commit();
    };
#pragma unroll 1
    for (int i = 0; i < STAGES; i++)
        ask(i);

    wait_for_previous();
    let_next_start();
    // Rows of h with their sums behind them, after a row of zeros.
    const int eighths = (int)(k / 8);
    const auto row_of = [&](int pair) { return h + (pair + 1) * pitch; };
    for (int i = (int)threadIdx.x; i < pitch / 16; i += SUM_WARPS * 32)
        *(uint4 *)(h + i * 16) = make_uint4(0, 0, 0, 0);
    const int numbers = pairs * eighths;
    for (int i = (int)threadIdx.x; i < (numbers + 31) / 32 * 32; i += SUM_WARPS * 32) {
        const int at = i < numbers ? i : numbers - 1, pair = at / eighths, e = at % eighths;
        bf16_eight v;
        v.load((const uint16_t *)c.h + (int64_t)pair * k, e * 8, k, GQMM_BF16);
        place_8<codes::in_order>(row_of(pair) + e / 4 * 64, e & 3, v.next());
        if (codes::has_offset)
            keep_sum<D>((float *)(row_of(pair) + k * 2), e, v.sum(), c.w.group);
    }
    __syncthreads();

    float total[4] = {};
    for (int i = 0; i < todo; i++) {
        const int item = warp + i * SUM_WARPS, entry = item / steps, s = item % steps;
        copies_wait<STAGES - 1>();
        __syncwarp();
        const uint8_t *stage = ring + i % STAGES * ROWS * row_pitch<D>();
        if (ends_anywhere<D>) // `weights` already is further on
            weights.find(rows_of(entry), lane);
        const step_row r0 = weights.at(stage, 1, lane, s), r1 = weights.at(stage, 2, lane, s);
        scale_table<D, 1>::make(scales, weights.at(stage, 0, lane, s), lane, f);
        __syncwarp();
        const auto sums_of = [&](int column) {
            return (const float *)(row_of(table.pair[entry][column]) + k * 2) +
                   s * (D::step / D::piece);
        };
        const x_tile tile[1] = {{row_of(table.pair[entry][g]) + s * D::step * 2 + t * 16,
                                 {sums_of(2 * t), sums_of(2 * t + 1)}}};
        float acc[1][4] = {};
        multiply<D, 1, true>(acc, r0, r1, scales + g * scale_table<D, 1>::row, tile, 1, 0, t, f);
        const float factor = global_of(c.w, table.expert[entry]);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int at = table.pair[entry][2 * t + (e & 1)];
            if (at >= 0)
                total[e] = fmaf(c.weights[at] * factor, acc[0][e], total[e]);
        }
        __syncwarp();
        ask(i + STAGES);
    }
#pragma unroll
    for (int e = 0; e < 4; e++)
        sums[warp][e][lane] = total[e];
    __syncthreads();
    // 16 outputs of 8 tokens: sums of the warps in order, then the shared expert.
    const int out = (int)threadIdx.x % 16, token = (int)threadIdx.x / 16;
    if (token >= c.n_tokens || row0 + out >= c.w.n_rows)
        return;
    const int from = (out % 8) * 4 + token / 2, e = token % 2 + out / 8 * 2;
    float v = 0.0f;
    for (int w = 0; w < SUM_WARPS; w++)
        v += sums[w][e][from];
    if (c.shared) {
        const float gate = shared_factor(c.shared_dot, token);
        v += gate * c.shared[token * c.w.n_rows + row0 + out];
    }
    store_number(c.y, token * c.y_row + row0 + out, c.y_type, v);
}

// False: sizes beyond what this launch is for.
template <class D> size_t sum_bytes(const gqmm_cuda_sum *c)
{
    return (size_t)(SUM_WARPS * warp_bytes<D, 1>() +
                    (1 + c->n_tokens * c->n_slots) * h_pitch<D>(c->w.n_cols));
}

template <class D> int sum(const gqmm_cuda_sum *c, int path, gqmm_stream s)
{
    const unsigned blocks = (unsigned)((c->w.n_rows + ROWS - 1) / ROWS);
    return launch(sum_kernel<D>, dim3(blocks), dim3(SUM_WARPS * 32), sum_bytes<D>(c), s, path, *c);
}

template <class D> bool sum_fits(const gqmm_cuda_sum *c)
{
    // Dynamic and static, of which there are less than 15 KiB.
    const int most = device_has(cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
    return c->n_tokens <= SUM_TOKENS && c->n_tokens * c->n_slots <= SUM_PAIRS &&
           c->w.n_cols % D::step == 0 && c->w.n_experts <= INT16_MAX &&
           sum_bytes<D>(c) + 15 * 1024 <= (size_t)most;
}

} // namespace gqmm

#endif
