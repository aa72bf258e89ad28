// SPDX-License-Identifier: MIT
// Which columns and rows a block of direct.cuh multiplies.
#ifndef GQMM_KERNEL_CUDA_DIRECT_TILES_CUH
#define GQMM_KERNEL_CUDA_DIRECT_TILES_CUH

#include "kernel/cuda/columns.cuh"

namespace gqmm
{

constexpr int DIRECT_WARPS = 16, DIRECT_THREADS = DIRECT_WARPS * 32; // of a block, at most
constexpr int DIRECT_PAIRS = 256;                                    // in no list, at most
constexpr int DIRECT_COLUMNS = 8;                                    // of a tile

// Where pairs are few and in no list: the first pair of every tile, and each thread's own pair.
struct direct_pairs {
    int count;
    int16_t id[DIRECT_PAIRS], first[DIRECT_PAIRS], tile[DIRECT_PAIRS], columns[DIRECT_PAIRS];
};

struct direct_own {
    int tile, column;
};

// Every eight pairs of an expert are a tile, and so is every skipped pair.
__device__ __forceinline__ direct_own find_tiles(direct_pairs &to, const gqmm_cuda_product &p)
{
    __shared__ int before[DIRECT_WARPS];
    const int own = (int)threadIdx.x, n = (int)p.n_pairs, lane = own % 32;
    const int id = own < n ? expert_of(p, own) : -1;
    if (own < DIRECT_PAIRS)
        to.id[own] = (int16_t)id;
    __syncthreads();
    int rank = 0, first = own, after = 0; // among the pairs of this expert; the tile's first pair
    if (own < n && id >= 0) {
#pragma unroll 8
        for (int q = 0; q < own; q++)
            if (to.id[q] == id) {
                first = rank % DIRECT_COLUMNS ? first : q;
                rank++;
            }
        first = rank % DIRECT_COLUMNS ? first : own;
#pragma unroll 8
        for (int q = own + 1; q < n; q++)
            after += to.id[q] == id;
    }
    const bool leads = own < n && first == own;
    const uint32_t vote = __ballot_sync(~0u, leads);
    if (lane == 0)
        before[own / 32] = __popc(vote);
    __syncthreads();
    int at = __popc(vote & ((1u << lane) - 1)), all = 0;
    for (int w = 0; w < (int)blockDim.x / 32; w++) {
        at += w < own / 32 ? before[w] : 0;
        all += before[w];
    }
    if (leads) {
        to.first[at] = (int16_t)own;
        to.tile[own] = (int16_t)at;
        to.columns[at] = (int16_t)(after < DIRECT_COLUMNS - 1 ? after + 1 : DIRECT_COLUMNS);
    }
    if (own == 0)
        to.count = all;
    __syncthreads();
    return {own < n ? to.tile[first] : -1, rank % DIRECT_COLUMNS};
}

// Row tiles [first, first + n) of a tile of columns.
struct direct_stretch {
    int tile, first, n;

    template <class I>
    __device__ __forceinline__ direct_stretch(I at, I end, int row_tiles)
        : tile((int)(at / row_tiles)), first((int)(at % row_tiles))
    {
        n = end - at < row_tiles - first ? (int)(end - at) : row_tiles - first;
    }
};

// The block's part of a launch's row tiles: whole turns of the warps, `groups` row tiles each, so
// that none waits for another's last tile.
template <class I> struct direct_part {
    I at, end;

    __device__ __forceinline__ direct_part(I all, int groups)
    {
        const I turns = (all + groups - 1) / groups;
        const int blocks = (int)gridDim.x, block = (int)blockIdx.x;
        const I each = turns / blocks;
        const int more = (int)(turns % blocks);
        at = (block * each + block * more / blocks) * groups;
        const I after = ((block + 1) * each + (block + 1) * more / blocks) * groups;
        end = after < all ? after : all;
    }
};

// A launch's tiles of columns, found by the whole block.
struct direct_columns {
    direct_pairs &pairs;
    enum { LISTED, IN_PAIRS, PLAIN } kind;
    direct_own own;
    int count;

    // `most` tiles where nobody has counted them.
    __device__ __forceinline__ direct_columns(direct_pairs &pairs_, const gqmm_cuda_product &p,
                                              int most)
        : pairs(pairs_), kind(p.list.tiles        ? LISTED
                              : p.rhs && p.m == 1 ? IN_PAIRS
                                                  : PLAIN),
          own({-1, 0})
    {
        if (kind == IN_PAIRS)
            own = find_tiles(pairs, p);
        count = kind == LISTED ? *p.list.n_tiles : kind == IN_PAIRS ? pairs.count : most;
    }

    __device__ __forceinline__ int expert(const gqmm_cuda_product &p, int tile) const
    {
        if (kind == LISTED)
            return p.list.tiles[tile].expert;
        if (kind == IN_PAIRS)
            return pairs.id[pairs.first[tile]];
        const int per = ((int)p.m + DIRECT_COLUMNS - 1) / DIRECT_COLUMNS;
        return !p.rhs && p.expert >= 0 ? p.expert : expert_of(p, tile / per);
    }

    // By the whole block, which is to be synchronised before they are used.
    __device__ __forceinline__ void set(column_set<DIRECT_COLUMNS> &to, const gqmm_cuda_product &p,
                                        int tile) const
    {
        set_columns(to, p, tile, [&] {
            if (threadIdx.x == 0) {
                to.expert = pairs.id[pairs.first[tile]];
                to.count = pairs.columns[tile];
            }
            if (own.tile == tile)
                set_column(to, own.column, p, (int)threadIdx.x, 0);
        });
    }
};

} // namespace gqmm

#endif
