// SPDX-License-Identifier: MIT
// Which columns a block multiplies: taken from a sorted list, or, where the pairs are few, found by
// the block itself.
#ifndef GQMM_KERNEL_CUDA_COLUMNS_CUH
#define GQMM_KERNEL_CUDA_COLUMNS_CUH

#include "kernel/cuda.h"
#include "kernel/cuda/activations.cuh"

namespace gqmm
{

template <int NC> struct column_set {
    int expert;       // -1: the rows are zeroed
    int count;        // 0: nothing to do
    int64_t x_at[NC]; // element of x where the activation row starts; -1: a zero row
    int64_t y_at[NC];
};

__device__ __forceinline__ void tell(const gqmm_cuda_product &p, uint32_t fault)
{
    if (p.fault)
        atomicOr(p.fault, fault);
}

// The matrix of x that a pair reads; -1: none. There are at most 2^31 - 1 columns.
__device__ __forceinline__ int matrix_of(const gqmm_cuda_product &p, int pair)
{
    if (!p.lhs)
        return pair / p.slots;
    const int32_t id = p.lhs[pair * p.lhs_stride];
    if (id < -1 || id >= p.n_x)
        tell(p, GQMM_FAULT_ROW);
    return id < 0 || id >= p.n_x ? -1 : id;
}

// The expert that a pair meets; -1: none, of either side.
__device__ __forceinline__ int expert_of(const gqmm_cuda_product &p, int pair)
{
    int id = p.rhs ? p.rhs[pair * p.rhs_stride] : p.expert >= 0 ? p.expert : pair;
    if (id < -1 || id >= p.w.n_experts) {
        tell(p, GQMM_FAULT_EXPERT);
        id = -1;
    }
    return id >= 0 && (!p.lhs || matrix_of(p, pair) >= 0) ? id : -1;
}

// Sets column c of the tile to row i of a pair.
template <int NC>
__device__ __forceinline__ void set_column(column_set<NC> &to, int c, const gqmm_cuda_product &p,
                                           int pair, int i)
{
    const int64_t matrix = matrix_of(p, pair);
    to.x_at[c] = matrix < 0 ? -1 : matrix * p.x_mat + i * p.x_row;
    to.y_at[c] = pair * p.y_pair + i * p.y_row;
}

// Columns [begin, end) of all, where column c is row c % m of pair c / m.
template <int NC>
__device__ __forceinline__ void set_range(column_set<NC> &to, const gqmm_cuda_product &p,
                                          const int32_t *order, int expert, int begin, int count)
{
    const int c = (int)threadIdx.x;
    if (c < count) {
        const int m = (int)p.m, pair = m == 1 ? begin + c : (begin + c) / m;
        set_column(to, c, p, order ? order[pair] : pair, begin + c - pair * m);
    }
    if (c == 0) {
        to.expert = expert;
        to.count = count;
    }
}

// One row for each pair: the block of the first pair of every NC with the same expert takes them
// all.
template <int NC>
__device__ __forceinline__ void gather_equals(column_set<NC> &to, const gqmm_cuda_product &p,
                                              int tile)
{
    const int lane = (int)threadIdx.x;
    if (lane >= 32)
        return;
    constexpr int AHEAD = 4;
    const int mine = expert_of(p, tile);
    int before = 0, rank = 0; // of mine: pairs seen, and how many came before this block's
    for (int q0 = 0; q0 < p.n_pairs; q0 += 32 * AHEAD) {
        int ids[AHEAD]; // their loads are under way at once
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            ids[i] = q0 + i * 32 + lane < p.n_pairs ? expert_of(p, q0 + i * 32 + lane) : -1;
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int first = q0 + i * 32, q = first + lane;
            const bool same = mine >= 0 && ids[i] == mine;
            const uint32_t all = __ballot_sync(0xffffffffu, same);
            if (first <= tile && tile < first + 32)
                rank = before + __popc(all & ((1u << (tile - first)) - 1));
            const int c = before + __popc(all & ((1u << lane) - 1)) - rank;
            if (same && q >= tile && c < NC && rank % NC == 0)
                set_column(to, c, p, q, 0);
            before += __popc(all);
        }
    }
    if (mine < 0)
        to.y_at[0] = (int64_t)tile * p.y_pair;
    if (lane == 0) {
        const int count = before - rank;
        to.expert = mine;
        to.count = mine < 0 ? 1 : rank % NC != 0 ? 0 : count < NC ? count : NC;
    }
}

// The columns of a tile; `few` sets those of pairs of one row that are in no list.
template <int NC, class F>
__device__ __forceinline__ void set_columns(column_set<NC> &to, const gqmm_cuda_product &p,
                                            int tile, const F &few)
{
    if (p.list.tiles) {
        const gqmm_cuda_tile t = p.list.tiles[tile];
        set_range(to, p, p.list.order, t.expert, t.begin, t.count);
    } else if (!p.rhs && p.expert >= 0) {
        const int left = (int)(p.n_pairs * p.m) - tile * NC;
        set_range(to, p, NULL, p.expert, tile * NC, left < NC ? left : NC);
    } else if (p.rhs && p.m == 1) {
        few();
    } else {
        const int m = (int)p.m, per = (m + NC - 1) / NC, pair = tile / per, i = tile % per * NC;
        set_range(to, p, NULL, expert_of(p, pair), pair * m + i, m - i < NC ? m - i : NC);
    }
}

template <int NC>
__device__ __forceinline__ void find_columns(column_set<NC> &to, const gqmm_cuda_product &p,
                                             int tile)
{
    set_columns(to, p, tile, [&] { gather_equals(to, p, tile); });
    __syncthreads();
}

// Outputs [row, row + n) of all columns become 0.
template <int NC>
__device__ __forceinline__ void zero_rows(const gqmm_cuda_product &p, const column_set<NC> &c,
                                          int64_t row, int n)
{
    for (int i = (int)threadIdx.x; i < c.count * n; i += (int)blockDim.x)
        if (row + i % n < p.n)
            store_number(p.y, c.y_at[i / n] + row + i % n, p.y_type, 0.0f);
}

// ---------------------------------------------------------------- host

// Tiles of at most `columns` that a launch may have to look at.
inline int64_t tiles_of(const gqmm_cuda_product *p, int columns)
{
    if (p->list.tiles)
        return p->list.most_tiles;
    if (!p->rhs && p->expert >= 0)
        return (p->n_pairs * p->m + columns - 1) / columns;
    return p->n_pairs * ((p->m + columns - 1) / columns);
}

// The most columns that a tile can have.
inline int64_t columns_of_tile(const gqmm_cuda_product *p)
{
    if (p->list.tiles)
        return p->list.tile_columns;
    return !p->rhs && p->expert >= 0 ? p->n_pairs * p->m : p->rhs && p->m == 1 ? 8 : p->m;
}

// Rows of bf16 x can be read 16 bytes at a time.
inline bool x_aligned(const gqmm_cuda_product *p)
{
    return p->x_row % 8 == 0 && p->x_mat % 8 == 0 && (uintptr_t)p->x % 16 == 0;
}

} // namespace gqmm

#endif
