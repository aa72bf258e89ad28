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
    alignas(16) int id[DIRECT_PAIRS];
    int16_t first[DIRECT_PAIRS], tile[DIRECT_PAIRS], columns[DIRECT_PAIRS];
};

struct direct_own {
    int tile, column;
};

// Every `width` pairs of an expert are a tile, and so is every skipped pair.
__device__ __forceinline__ direct_own find_tiles(direct_pairs &to, const gqmm_cuda_product &p,
                                                 int width)
{
    __shared__ int before[DIRECT_WARPS];
    const int own = (int)threadIdx.x, n = (int)p.n_pairs, lane = own % 32;
    const int id = own < n ? expert_of(p, own) : -1;
    if (own < DIRECT_PAIRS)
        to.id[own] = id;
    __syncthreads();
    int rank = 0, first = own, after = 0; // among the pairs of this expert; the tile's first pair
    if (own < n && id >= 0) {
        // Who is equal, 32 pairs at a time, as bits.
#pragma unroll 1
        for (int q = 0; q < n; q += 32) {
            uint32_t same = 0;
#pragma unroll
            for (int i = 0; i < 32; i += 4) {
                const int4 v = *(const int4 *)(to.id + q + i);
                same |= (v.x == id) << i | (v.y == id) << (i + 1) | (v.z == id) << (i + 2) |
                        (v.w == id) << (i + 3);
            }
            const int left = own - q;
            const uint32_t earlier = left >= 32 ? ~0u : left > 0 ? (1u << left) - 1 : 0;
            after += __popc(same & ~earlier);
            for (uint32_t b = same & earlier; b; b &= b - 1) {
                first = rank % width ? first : q + __ffs(b) - 1;
                rank++;
            }
        }
        first = rank % width ? first : own;
        after--; // itself
    }
    const bool leads = own < n && first == own;
    const uint32_t vote = __ballot_sync(~0u, leads);
    if (lane == 0)
        before[own / 32] = __popc(vote);
    __syncthreads();
    int at = __popc(vote & ((1u << lane) - 1)), all = 0;
#pragma unroll 1
    for (int w = 0; w < (n + 31) / 32; w++) {
        at += w < own / 32 ? before[w] : 0;
        all += before[w];
    }
    if (leads) {
        to.first[at] = (int16_t)own;
        to.tile[own] = (int16_t)at;
        to.columns[at] = (int16_t)(after < width - 1 ? after + 1 : width);
    }
    if (own == 0)
        to.count = all;
    __syncthreads();
    return {own < n ? to.tile[first] : -1, rank % width};
}

// Row tiles [first, first + n) of a tile of columns.
struct direct_stretch {
    int tile, first, n;

    template <class I, class R>
    __device__ __forceinline__ direct_stretch(I at, I end, R row_tiles)
        : tile((int)(at / row_tiles)), first((int)(at - tile * (I)row_tiles))
    {
        n = end - at < row_tiles - first ? (int)(end - at) : row_tiles - first;
    }
};

// A divisor of numbers below 2^32 / by.
struct quick_divisor {
    int by;
    uint32_t inverse; // 2^32 / by, rounded up

    __device__ __forceinline__ operator int() const
    {
        return by;
    }

    static quick_divisor of(int by)
    {
        return {by, (uint32_t)((0xffffffffu + (uint64_t)by) / (uint64_t)by)};
    }
};

GQMM_HD inline int operator/(int a, quick_divisor d)
{
    return d.by == 1 ? a : (int)((uint64_t)(uint32_t)a * d.inverse >> 32);
}

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

    // The same by `blocks`, with 2^group_bits groups, of `tiles` of columns with row_tiles each.
    __device__ __forceinline__ direct_part(int tiles, int row_tiles, quick_divisor padded,
                                           int group_bits, quick_divisor blocks)
        : at(begin((int)blockIdx.x, tiles, row_tiles, padded, group_bits, blocks)),
          end(begin((int)blockIdx.x + 1, tiles, row_tiles, padded, group_bits, blocks))
    {
    }

    // Where a block begins. A tile counts `padded` row tiles: what is more stands for its
    // beginning, which a block that has begun with another tile pays for besides its own.
    GQMM_HD static int begin(int block, int tiles, int row_tiles, quick_divisor padded,
                             int group_bits, quick_divisor blocks)
    {
        const int pad = padded.by - row_tiles, all = tiles > 0 ? tiles * padded.by - pad : 0;
        const int turns = (all + (1 << group_bits) - 1) >> group_bits;
        const int each = turns / blocks, more = turns - each * blocks.by;
        const int before = (block * each + (block < more ? block : more)) << group_bits;
        const int at = (before < all ? before : all) + pad, tile = at / padded;
        const int left = at - tile * padded.by - pad;
        return tile * row_tiles + (left > 0 ? left : 0);
    }
};

// A launch's tiles of columns, found by the whole block.
struct direct_columns {
    direct_pairs &pairs;
    enum { LISTED, IN_PAIRS, PLAIN } kind;
    direct_own own;
    int count;

    // `most` tiles where nobody has counted them; of `width` columns where found here.
    __device__ __forceinline__ direct_columns(direct_pairs &pairs_, const gqmm_cuda_product &p,
                                              int most, int width = DIRECT_COLUMNS,
                                              bool in_pairs = false)
        : pairs(pairs_), kind(in_pairs            ? IN_PAIRS
                              : p.list.tiles      ? LISTED
                              : p.rhs && p.m == 1 ? IN_PAIRS
                                                  : PLAIN),
          own({-1, 0})
    {
        if (kind == IN_PAIRS)
            own = find_tiles(pairs, p, width);
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
        if (kind != IN_PAIRS) {
            set_columns(to, p, tile, [] {});
            return;
        }
        if (threadIdx.x == 0) {
            to.expert = pairs.id[pairs.first[tile]];
            to.count = pairs.columns[tile];
        }
        if (own.tile == tile)
            set_column(to, own.column, p, (int)threadIdx.x, 0);
    }
};

} // namespace gqmm

#endif
