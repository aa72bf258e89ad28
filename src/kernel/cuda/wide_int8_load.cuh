// SPDX-License-Identifier: MIT
// The int8 product's shapes, shared memory, and the warps that bring columns and weights.
#ifndef GQMM_KERNEL_CUDA_WIDE_INT8_LOAD_CUH
#define GQMM_KERNEL_CUDA_WIDE_INT8_LOAD_CUH

#include "kernel/cuda/dense_mma.cuh"
#include "kernel/cuda/wide_load.cuh"

namespace gqmm
{
namespace int8_product
{

using wide_product::item_walk;
using wide_product::ring;

constexpr int BLOCK = 128;                        // along k: one scale of x and of a row of weights
constexpr int STEP = 2 * BLOCK, CODES = STEP / 2; // weights of a row that are brought at once
constexpr int ROWS = 256, N = 64;                 // of weights and of columns in a tile
constexpr int CONSUMERS = 256, COLUMN_LOADERS = 96, WEIGHT_LOADERS = 32; // threads
constexpr int THREADS = CONSUMERS + COLUMN_LOADERS + WEIGHT_LOADERS;
constexpr int TURNS = COLUMN_LOADERS / 32;
constexpr int LOADER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
constexpr int WEIGHT_STAGES = 3, COLUMN_STAGES = 8, INFOS = 4, MOST_STAGES = 8;

// Shared memory. Stages of codes are multiples of 1024 bytes, as their swizzle asks for.
constexpr int COLUMN_BYTES = N * BLOCK, WEIGHT_BYTES = ROWS * CODES; // codes of a stage
constexpr int COLUMN_SCALE_BYTES = N * 4, WEIGHT_SCALE_BYTES = ROWS * 4;
constexpr int WEIGHTS_AT = COLUMN_STAGES * COLUMN_BYTES;
constexpr int STAGING_AT = WEIGHTS_AT + WEIGHT_STAGES * WEIGHT_BYTES; // h on its way
constexpr int COLUMN_SCALES_AT = STAGING_AT + COLUMN_BYTES;
constexpr int WEIGHT_SCALES_AT = COLUMN_SCALES_AT + COLUMN_STAGES * COLUMN_SCALE_BYTES;
constexpr int MAXIMA_AT = WEIGHT_SCALES_AT + WEIGHT_STAGES * WEIGHT_SCALE_BYTES; // [8][N] of h
constexpr int INVERSES_AT = MAXIMA_AT + 8 * N * 4; // [N], what h is multiplied by
constexpr int Y_AT = INVERSES_AT + N * 4;          // [INFOS][N] elements of y, int64_t
constexpr int X_AT = Y_AT + INFOS * N * 8;         // [INFOS][N] rows of x
constexpr int BARRIERS_AT = X_AT + INFOS * N * 4;  // [3 rings][full, empty][MOST_STAGES]
constexpr int INFOS_AT = BARRIERS_AT + 6 * MOST_STAGES * 8;

// Lane t of a quad reads 16 bytes of codes, k = 32 t and following of a block of 128. Of its word i
// the low nibbles are k = 8 i, 2, 4 and 6 further, the high ones those one further: one wgmma's
// words 4 t and 16 + 4 t. So word 8 i + 4 h + t of a block of activations holds k = 32 t + 8 i + h
// and those 2, 4 and 6 further.
GQMM_HD constexpr int word_of(int k)
{
    return (k >> 3 & 3) * 8 + (k & 1) * 4 + (k >> 5 & 3);
}

// Of the scales of a tile's columns: a lane's four of every sixteen columns lie together.
GQMM_HD constexpr int scale_place(int column)
{
    return (column & ~15) + (column & 6) * 2 + (column >> 2 & 2) + (column & 1);
}

struct int8_args : wide_product::wide_args {
    CUtensorMap maps[2]; // codes of w and of up
    CUtensorMap x_map;   // codes of x
    int64_t tile_rows;   // of h, between its blocks of k
};

struct tile_info {
    int expert, count, first; // row of h
};
constexpr int SHARED_BYTES = INFOS_AT + INFOS * (int)sizeof(tile_info);
static_assert(SHARED_BYTES <= wide_product::SHARED_OF_PROCESSOR, "shared memory of a block");

struct memory {
    uint32_t at; // of its beginning
    uint8_t *shared;

    __device__ __forceinline__ explicit memory(uint8_t *p) : at(shared_address(p)), shared(p)
    {
    }

    __device__ __forceinline__ int64_t *y_at(int slot) const
    {
        return (int64_t *)(shared + Y_AT) + slot * N;
    }

    __device__ __forceinline__ uint32_t *x_at(int slot) const
    {
        return (uint32_t *)(shared + X_AT) + slot * N;
    }

    __device__ __forceinline__ tile_info &info(int slot) const
    {
        return ((tile_info *)(shared + INFOS_AT))[slot];
    }

    // Rings: 0 weights, 1 columns, 2 infos.
    __device__ __forceinline__ uint32_t full(int which, int stage) const
    {
        return at + BARRIERS_AT + (which * 2 * MOST_STAGES + stage) * 8;
    }

    __device__ __forceinline__ uint32_t empty(int which, int stage) const
    {
        return at + BARRIERS_AT + ((which * 2 + 1) * MOST_STAGES + stage) * 8;
    }
};

// ---- columns

__device__ __forceinline__ void copy_4_to(uint32_t to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}

// Multiples of 16 bytes that count at the barrier.
__device__ __forceinline__ void copy_bulk(uint32_t to, const void *from, uint32_t bytes,
                                          uint32_t barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}

// Where the columns of a tile lie in x and y.
__device__ __forceinline__ void tell_tile(const int8_args &a, const memory &mem, const ring &slot,
                                          int tile_index, int id)
{
    const gqmm_cuda_tile tile = a.p.list.tiles[tile_index];
    const int m = (int)a.p.m;
    barrier_wait_lazily(mem.empty(2, slot.stage), slot.parity);
#pragma unroll 1
    for (int c = id; c < N; c += COLUMN_LOADERS) {
        uint32_t x_at = 0;
        if (c < tile.count) {
            const int at = tile.begin + c, pair = a.p.list.order[m == 1 ? at : at / m];
            const int row = m == 1 ? 0 : at % m;
            int matrix = pair / a.p.slots;
            if (a.p.lhs && tile.expert >= 0) // the sort has put pairs with a bad row aside
                matrix = a.p.lhs[pair * a.p.lhs_stride];
            x_at = (uint32_t)(matrix * m + row);
            mem.y_at(slot.stage)[c] = pair * a.p.y_pair + row * a.p.y_row;
        }
        mem.x_at(slot.stage)[c] = x_at;
    }
    if (id == 0)
        mem.info(slot.stage) = tile_info{tile.expert, tile.count, tile_index * N};
    barrier_arrive(mem.full(2, slot.stage)); // each for what it wrote itself
    warps_sync(2, COLUMN_LOADERS);
}

// Block `block` of k of a tile's columns, a lane each: the accelerator brings and swizzles rows.
__device__ __forceinline__ void gather_columns(uint32_t to, uint32_t scales_to, const int8_args &a,
                                               const uint32_t *x_at, int block, int count, int lane,
                                               uint32_t full)
{
    const int blocks = (int)(a.p.k / BLOCK);
#pragma unroll 1
    for (int c = lane; c < count; c += 32) {
        const uint32_t row = x_at[c];
        copy_tile(to + c * BLOCK, &a.x_map, block * BLOCK, (int)row, full);
        copy_4_to(scales_to + scale_place(c) * 4, a.p.x8.scales + (uint64_t)row * blocks + block);
    }
}

// A block of the columns of a tile, by one warp.
__device__ __forceinline__ void load_block(const int8_args &a, const memory &mem, const ring &to,
                                           int slot, int block, int lane)
{
    const uint32_t stage = mem.at + to.stage * COLUMN_BYTES;
    const uint32_t scales = mem.at + COLUMN_SCALES_AT + to.stage * COLUMN_SCALE_BYTES;
    const uint32_t full = mem.full(1, to.stage);
    const tile_info tile = mem.info(slot);
    barrier_wait_lazily(mem.empty(1, to.stage), to.parity);
    if (!a.p.x8.sorted) {
        if (lane == 0)
            barrier_expect(full, tile.count * BLOCK);
        gather_columns(stage, scales, a, mem.x_at(slot), block, tile.count, lane, full);
        barrier_arrive_after_copies(full);
        return;
    }
    if (lane == 0) {
        const int64_t row = block * a.tile_rows + tile.first;
        const int count = (tile.count + 15) & ~15;
        barrier_expect(full, tile.count * BLOCK + count * 4);
        copy_bulk(stage, a.p.x8.codes + row * BLOCK, tile.count * BLOCK, full);
        copy_bulk(scales, a.p.x8.scales + row, count * 4, full);
    }
    barrier_arrive(full);
}

// The warps take turns, a stage each. A tile is told of while the one before it is loaded.
__device__ __forceinline__ void load_columns(const int8_args &a, const memory &mem, int id)
{
    const int tiles = *a.p.list.n_tiles, blocks = (int)(a.p.k / BLOCK);
    ring to = {0, 1}, infos = {0, 1};
    int turn = id >> 5, slot = -1; // turn 0: the next stage is this warp's
    for (item_walk item(a);; item.next(a)) {
        const bool more = item.tile < tiles;
        if (more)
            tell_tile(a, mem, infos, item.tile, id);
        for (int i = 0; i < blocks && slot >= 0 && mem.info(slot).expert >= 0; i++) {
            if (turn == 0)
                load_block(a, mem, to, slot, i, id & 31);
            turn = turn == 0 ? TURNS - 1 : turn - 1;
            to.next(COLUMN_STAGES);
        }
        if (!more)
            break;
        slot = infos.stage;
        infos.next(INFOS);
    }
}

// ---- weights

// The row of weights in place `part` (part of 64 rows, row g or g + 8) of g of a consumer warp. A
// lane of the sums then has two neighbouring words of outputs, as the epilogue wants them, and the
// rows that eight lanes read at once lie in different halves of the banks.
GQMM_HD inline int row_of(bool two, int warp, int g, int part)
{
    return two ? 16 * warp + 8 * (g >> 2) + 4 * (g & 1) + (g >> 1 & 1) + 2 * (part >> 1)
               : 32 * warp + 8 * (g >> 1) + 4 * (g & 1) + part;
}

__device__ __forceinline__ void copy_codes(uint32_t to, const CUtensorMap *map, int byte, int row,
                                           int expert, uint32_t barrier)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
                 "l"(map), "r"(barrier), "r"(byte), "r"(row), "r"(expert)
                 : "memory");
}

// One warp: the tensor memory accelerator brings codes, the lanes scales, two of a row at once.
__device__ __forceinline__ void load_weights(const int8_args &a, const memory &mem, int lane)
{
    const int tiles = *a.p.list.n_tiles, steps = (int)(a.p.k / STEP);
    const bool two = a.p.up.plane[0] != NULL;
    const int outputs = two ? ROWS / 2 : ROWS;
    const gqmm_cuda_matrix &mine = two && (lane & 1) ? a.p.up : a.p.w;
    const int stride = (int)mine.row_stride[1];
    ring to = {0, 1};
    for (item_walk item(a); item.tile < tiles; item.next(a)) {
        const int expert = a.p.list.tiles[item.tile].expert, first = item.row_block * outputs;
        if (expert < 0)
            continue;
        const uint8_t *from = mine.plane[1] + expert * mine.expert_stride[1];
        const int end = (int)a.p.n - 1;
        int row = first + row_of(two, 0, lane >> 2, lane & 3);
        for (int step = 0; step < steps; step++) {
            const uint32_t stage = mem.at + WEIGHTS_AT + to.stage * WEIGHT_BYTES;
            const uint32_t full = mem.full(0, to.stage);
            const uint32_t scales =
                mem.at + WEIGHT_SCALES_AT + to.stage * WEIGHT_SCALE_BYTES + lane * 4;
            barrier_wait_lazily(mem.empty(0, to.stage), to.parity);
            if (lane == 0) {
                barrier_expect(full, WEIGHT_BYTES);
                copy_codes(stage, &a.maps[0], step * CODES, first, expert, full);
                if (two)
                    copy_codes(stage + WEIGHT_BYTES / 2, &a.maps[1], step * CODES, first, expert,
                               full);
            }
#pragma unroll
            for (int i = 0; i < ROWS / 32; i++) {
                asm volatile("" : "+r"(row)); // eight addresses are not to be kept
                const int mine_i = row + i * (outputs / 8);
                copy_4_to(scales + i * 128,
                          from + (int64_t)(mine_i < end ? mine_i : end) * stride + step * 4);
            }
            barrier_arrive_after_copies(full);
            to.next(WEIGHT_STAGES);
        }
    }
}

} // namespace int8_product
} // namespace gqmm

#endif
