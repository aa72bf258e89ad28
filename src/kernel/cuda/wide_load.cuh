// SPDX-License-Identifier: MIT
// The loading side of the wide product: shapes, shared memory, and the warps that fill it.
#ifndef GQMM_KERNEL_CUDA_WIDE_LOAD_CUH
#define GQMM_KERNEL_CUDA_WIDE_LOAD_CUH

#include "kernel/cuda.h"
#include "kernel/cuda/decode.cuh"
#include "kernel/cuda/mma.cuh"
#include "kernel/cuda/wgmma.cuh"
#include "kernel/cuda/wide_order.cuh"
#include "kernel/cuda/words.cuh"

#include <math.h>

namespace gqmm
{
namespace wide_product
{

constexpr int CONSUMERS = 256;
constexpr int MOST_STAGES = 8; // of a ring
constexpr int INFOS = 4;       // tiles that loaders may be ahead
constexpr int SHARED_OF_PROCESSOR = 227 * 1024, RESERVED = 1024;

// Columns of a tile, each a kernel of its own.
#define GQMM_WIDTHS(f) f(8) f(16) f(24) f(32) f(64) f(128) f(152)

// Columns of a tile and what they decide. Few columns: dequantising is the work, and two blocks of
// 128 rows share a multiprocessor. Many: one block, whose consumers take two times 64 rows each.
// The registers that the loaders give up go to the consumers.
template <int COLUMNS> struct shape {
    static constexpr int N = COLUMNS;
    static constexpr bool FEW = N <= 24;
    static constexpr int MT = FEW ? 1 : 2, BLOCKS = FEW ? 2 : 1, ROWS = 128 * MT;
    static constexpr int THREADS = FEW ? 384 : 512;
    static constexpr int COLUMN_LOADERS = FEW ? 32 : 128;
    static constexpr int WEIGHT_LOADERS = THREADS - CONSUMERS - COLUMN_LOADERS;
    static constexpr int LOADER_REGISTERS = FEW ? 64 : 40;
    static constexpr int CONSUMER_REGISTERS = FEW ? 88 : 216;
    static constexpr int SUBS = 3 - MT; // a stage of columns: SUBS times N rows of 64 along k
    static constexpr int COLUMN_BYTES = SUBS * N * 128;
};

inline int tile_width(int columns)
{
#define GQMM_WIDTH(n) \
    if (columns <= n) \
        return n;
    GQMM_WIDTHS(GQMM_WIDTH)
#undef GQMM_WIDTH
    return 0;
}

// The width for experts that meet `mean` columns each: most of them then have one tile.
inline int width_for(double mean)
{
    const double want = mean + 2 * sqrt(mean);
    const int width = want < 152 ? tile_width((int)want) : 0;
    return width ? width : 152;
}

struct wide_args {
    gqmm_cuda_product p;
    const uint8_t *x; // ordered; strides in 16 bytes
    int64_t x_row, x_mat;
    int row_blocks;
    int weight_stages, column_stages, stage_bytes;
    int plane_at[3], plane_chunks[3], plane_bytes[3]; // in a stage, of a row of a step
    int scales_at, infos_at;                          // in shared memory
    int shared_bytes;
    int apart;   // experts of gate and up are not equally far apart
    int whole_y; // outputs of a lane may be written at once
};

struct tile_info {
    int expert, count;
};

struct ring {
    int stage, parity;

    __device__ __forceinline__ void next(int stages)
    {
        if (++stage == stages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// ---- a step of a row in shared memory

template <class D> GQMM_HD constexpr int code_bytes()
{
    return (int)D::bytes(0, D::step, format_args{32, GQMM_F32});
}

// Rows start at multiples of D::align, steps perhaps only there too.
template <class D> GQMM_HD constexpr bool slips()
{
    return D::align < 16;
}

template <class D> GQMM_HD constexpr int code_chunks()
{
    return (code_bytes<D>() + (slips<D>() ? 16 - D::align : 0) + 15) / 16;
}

// Bytes between rows: lanes of a quad read neighbouring words (SERIAL: two words) of one row, and
// eight rows shall lie in banks of their own.
template <class D> GQMM_HD constexpr int pitch()
{
    const int want = D::in_order == SERIAL ? 32 : 16;
    return code_chunks<D>() * 16 + (want - code_chunks<D>() * 16 % 128 + 128) % 128;
}

// ---- shared memory of a block

struct block_memory {
    uint32_t columns;  // ring of S::N rows of 128 bytes
    uint8_t *weights;  // ring of stages
    uint8_t *scales;   // of each consumer warp
    int64_t *y_at;     // [INFOS][N] elements of y
    uint32_t *x_at;    // [INFOS][N] 16 bytes of x
    tile_info *infos;  // [INFOS]
    uint64_t *rows;    // [planes][ROWS] bytes from the block's first row
    uint32_t barriers; // [3 rings][full, empty][MOST_STAGES]

    template <class D, class S>
    static __device__ __forceinline__ block_memory of(uint8_t *shared, const wide_args &a)
    {
        block_memory mem;
        mem.columns = shared_address(shared);
        mem.weights = shared + a.column_stages * S::COLUMN_BYTES;
        mem.scales = shared + a.scales_at;
        mem.y_at = (int64_t *)(shared + a.infos_at);
        mem.rows = (uint64_t *)(mem.y_at + INFOS * S::N);
        uint64_t *barriers = mem.rows + D::planes * S::ROWS;
        mem.barriers = shared_address(barriers);
        mem.infos = (tile_info *)(barriers + 6 * MOST_STAGES);
        mem.x_at = (uint32_t *)(mem.infos + INFOS);
        return mem;
    }

    // Rings: 0 weights, 1 columns, 2 infos.
    __device__ __forceinline__ uint32_t full(int which, int stage) const
    {
        return barriers + (which * 2 * MOST_STAGES + stage) * 8;
    }

    __device__ __forceinline__ uint32_t empty(int which, int stage) const
    {
        return barriers + ((which * 2 + 1) * MOST_STAGES + stage) * 8;
    }
};

template <class D, class S> constexpr int info_bytes()
{
    return INFOS * S::N * 12 + D::planes * S::ROWS * 8 + 6 * MOST_STAGES * 8 + INFOS * 8;
}

// ---- rows of weights

// Place of a lane's output: 16 * MT places of a warp hold MT times (rows g, rows g + 8). A lane
// ends with the outputs of places g = 2 t and 2 t + 1 of all of them: they are neighbours.
template <class S> GQMM_HD int output_of(int slot, bool two, int y_order)
{
    const int g = slot & 7, half = slot >> 3 & 1, m = S::MT == 1 ? 0 : slot >> 4 & 1;
    const int warp = slot / (16 * S::MT), parts = two ? S::MT : 2 * S::MT;
    const int part = two ? m : 2 * m + half;
    const int q = 2 * parts * (4 * warp + (g >> 1)) + 2 * part + (g & 1);
    return y_order ? (q & ~31) + place_source(y_order - 1, q & 31) : q;
}

// The row of weights in a slot of a block of rows; past the last output the last one, whose sums
// are not written.
template <class S>
__device__ __forceinline__ int row_of(const wide_args &a, int row_block, int slot)
{
    const bool two = a.p.up.plane[0] != NULL;
    const int row =
        row_block * (two ? S::ROWS / 2 : S::ROWS) + output_of<S>(slot, two, a.p.y_order);
    return row < a.p.n ? row : (int)a.p.n - 1;
}

__device__ __forceinline__ void copy_16_near(void *to, const void *from, int valid)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(valid)
                 : "memory");
}

// `valid` bytes of row `from`, of a step at `slip` + 16 `chunk`.
__device__ __forceinline__ int bytes_here(int valid, int slip, int chunk)
{
    const int n = valid + slip - 16 * chunk;
    return n < 0 ? 0 : n < 16 ? n : 16;
}

constexpr int BATCH = 4; // copies whose addresses a loader looks up before it issues the first

// Codes of a step. A thread brings the same chunk of every ROWS_AT_ONCE-th row.
template <class D, class S, bool ALL>
__device__ __forceinline__ void load_codes(const block_memory &mem, uint8_t *stage,
                                           const uint8_t *base, int valid, int id)
{
    constexpr int chunks = code_chunks<D>(), at_once = S::WEIGHT_LOADERS / chunks;
    constexpr int passes = (S::ROWS + at_once - 1) / at_once;
    const int row = id / chunks, c = id % chunks;
    if (row >= at_once)
        return;
    uint8_t *to = stage + row * pitch<D>() + 16 * c;
    if (ALL)
        base += 16 * c;
#pragma unroll
    for (int p0 = 0; p0 < passes; p0 += BATCH) {
        uint64_t at[BATCH];
#pragma unroll
        for (int p = p0; p < p0 + BATCH && p < passes; p++)
            if ((p + 1) * at_once <= S::ROWS || row + p * at_once < S::ROWS)
                at[p - p0] = mem.rows[row + p * at_once];
#pragma unroll
        for (int p = p0; p < p0 + BATCH && p < passes; p++)
            if ((p + 1) * at_once <= S::ROWS || row + p * at_once < S::ROWS) {
                const uint8_t *from = base + at[p - p0];
                if (ALL) {
                    copy_16(to + p * at_once * pitch<D>(), from, 16);
                } else {
                    const int slip = slips<D>() ? (int)((uintptr_t)from & 15) : 0;
                    const int n = bytes_here(valid, slip, c);
                    copy_16(to + p * at_once * pitch<D>(), from - slip + (n ? 16 * c : 0), n);
                }
            }
    }
}

// A plane of scales whose step lies in 16 aligned bytes.
template <class S>
__device__ __forceinline__ void load_scales(const uint64_t *rows, uint8_t *to, const uint8_t *base,
                                            int valid, int id)
{
    constexpr int passes = (S::ROWS + S::WEIGHT_LOADERS - 1) / S::WEIGHT_LOADERS;
    uint64_t at[passes];
#pragma unroll
    for (int p = 0; p < passes; p++)
        at[p] = rows[(id + p * S::WEIGHT_LOADERS) % S::ROWS];
#pragma unroll
    for (int p = 0; p < passes; p++)
        if (id + p * S::WEIGHT_LOADERS < S::ROWS) {
            const uint8_t *from = base + at[p];
            const int slip = (int)((uintptr_t)from & 15);
            copy_16_near(to + (id + p * S::WEIGHT_LOADERS) * 16, from - slip,
                         valid > 0 ? slip + valid : 0);
        }
}

template <class D, class S>
__device__ __forceinline__ void load_step(const wide_args &a, const block_memory &mem,
                                          uint8_t *stage, const uint8_t *const (&base)[3], int step,
                                          int id)
{
    constexpr int bytes = code_bytes<D>();
    const format_args f = {a.p.w.group, a.p.w.scale_type};
    const int64_t left = D::bytes(0, a.p.k, f) - (int64_t)step * bytes;
    if (!slips<D>() && bytes % 16 == 0 && left >= bytes)
        load_codes<D, S, true>(mem, stage, base[0] + (int64_t)step * bytes, bytes, id);
    else
        load_codes<D, S, false>(mem, stage, base[0] + (int64_t)step * bytes,
                                (int)(left < bytes ? left : bytes), id);
#pragma unroll
    for (int plane = 1; plane < D::planes; plane++) {
        const int each = a.plane_bytes[plane], of_row = a.plane_chunks[plane];
        const int64_t rest = D::bytes(plane, a.p.k, f) - (int64_t)step * each;
        const int valid = (int)(rest < each ? rest : each);
        const uint8_t *from = base[plane] + (int64_t)step * each;
        const uint64_t *rows = mem.rows + plane * S::ROWS;
        if (of_row == 1) {
            load_scales<S>(rows, stage + a.plane_at[plane], from, valid, id);
            continue;
        }
#pragma unroll 1
        for (int i = id; i < S::ROWS * of_row; i += S::WEIGHT_LOADERS) {
            const uint8_t *row = from + rows[i / of_row];
            const int slip = (int)((uintptr_t)row & 15), c = i % of_row;
            const int n = bytes_here(valid, slip, c);
            copy_16_near(stage + a.plane_at[plane] + i * 16, row - slip + (n ? 16 * c : 0), n);
        }
    }
}

// Bytes from the first row of a block to that of each slot. They are the same for all blocks but
// the last, unless gate and up lie differently for each expert.
template <class D, class S>
__device__ __forceinline__ void place_rows(const wide_args &a, const block_memory &mem, int expert,
                                           int row_block, int first, int id)
{
    warps_sync(1, S::WEIGHT_LOADERS);
#pragma unroll
    for (int plane = 0; plane < D::planes; plane++)
        for (int slot = id; slot < S::ROWS; slot += S::WEIGHT_LOADERS) {
            const gqmm_cuda_matrix &w = a.p.w, &up = a.p.up;
            int64_t at = (row_of<S>(a, row_block, slot) - first) * w.row_stride[plane];
            if (up.plane[0] && (slot & 8))
                at = (row_of<S>(a, row_block, slot)) * up.row_stride[plane] -
                     first * w.row_stride[plane] + (up.plane[plane] - w.plane[plane]) +
                     expert * (up.expert_stride[plane] - w.expert_stride[plane]);
            mem.rows[plane * S::ROWS + slot] = (uint64_t)at;
        }
    warps_sync(1, S::WEIGHT_LOADERS);
}

template <class D, class S>
__device__ __forceinline__ void load_weights(const wide_args &a, const block_memory &mem, int id)
{
    const int items = *a.p.list.n_tiles * a.row_blocks;
    const int steps = (int)((a.p.k + D::step - 1) / D::step);
    const int outputs = a.p.up.plane[0] ? S::ROWS / 2 : S::ROWS;
    ring to = {0, 1};
    int placed = -1, placed_expert = 0; // outputs that the places are for
    int expert = (int)blockIdx.x < items ? a.p.list.tiles[blockIdx.x / a.row_blocks].expert : -1;
    for (int item = (int)blockIdx.x; item < items; item += (int)gridDim.x) {
        const int now = expert, following = item + (int)gridDim.x;
        if (following < items)
            expert = a.p.list.tiles[following / a.row_blocks].expert;
        if (now < 0)
            continue;
        const int row_block = item % a.row_blocks, first = row_block * outputs;
        const int left = (int)a.p.n - first < outputs ? (int)a.p.n - first : outputs;
        if (left != placed || (a.apart && now != placed_expert)) {
            place_rows<D, S>(a, mem, now, row_block, first, id);
            placed = left;
            placed_expert = now;
        }
        const uint8_t *base[3];
#pragma unroll
        for (int plane = 0; plane < D::planes; plane++)
            base[plane] = a.p.w.plane[plane] + now * a.p.w.expert_stride[plane] +
                          first * a.p.w.row_stride[plane];
        for (int step = 0; step < steps; step++) {
            barrier_wait(mem.empty(0, to.stage), to.parity);
            load_step<D, S>(a, mem, mem.weights + to.stage * a.stage_bytes, base, step, id);
            barrier_arrive_after_copies(mem.full(0, to.stage));
            to.next(a.weight_stages);
        }
    }
}

// ---- columns

// A tile and, of each of a thread's columns, the pair, asked for before they are needed.
template <class S> struct coming_tile {
    gqmm_cuda_tile tile;
    int pair[(S::N + S::COLUMN_LOADERS - 1) / S::COLUMN_LOADERS];
};

__device__ __forceinline__ gqmm_cuda_tile tile_of(const wide_args &a, int item, int items)
{
    return item < items ? a.p.list.tiles[item / a.row_blocks] : gqmm_cuda_tile{-1, 0, 0, 0};
}

template <class S>
__device__ __forceinline__ void ask_pairs(coming_tile<S> &to, const wide_args &a, int id)
{
#pragma unroll
    for (int i = 0; i < (int)(sizeof to.pair / sizeof *to.pair); i++) {
        const int c = i * S::COLUMN_LOADERS + id, at = to.tile.begin + c, m = (int)a.p.m;
        to.pair[i] = c < to.tile.count ? a.p.list.order[m == 1 ? at : at / m] : 0;
    }
}

// Where the columns of a tile lie in x and y.
template <class S>
__device__ __forceinline__ void tell_tile(const wide_args &a, const block_memory &mem, int slot,
                                          const coming_tile<S> &now, int id)
{
#pragma unroll
    for (int i = 0; i < (int)(sizeof now.pair / sizeof *now.pair); i++) {
        const int c = i * S::COLUMN_LOADERS + id, m = (int)a.p.m;
        if (c < now.tile.count) {
            const int row = m == 1 ? 0 : (now.tile.begin + c) % m;
            // The sort has put pairs with a bad row aside.
            int matrix = now.pair[i] / a.p.slots;
            if (a.p.lhs && now.tile.expert >= 0)
                matrix = a.p.lhs[now.pair[i] * a.p.lhs_stride];
            mem.x_at[slot * S::N + c] = (uint32_t)(matrix * a.x_mat + row * a.x_row);
            mem.y_at[slot * S::N + c] = now.pair[i] * a.p.y_pair + row * a.p.y_row;
        }
    }
    if (id == 0)
        mem.infos[slot] = tile_info{now.tile.expert, now.tile.count};
    warps_sync(2, S::COLUMN_LOADERS);
    if (id == 0)
        barrier_arrive(mem.full(2, slot));
}

template <class D, class S>
__device__ __forceinline__ void load_columns(const wide_args &a, const block_memory &mem, int id)
{
    constexpr int AT_ONCE = S::COLUMN_LOADERS / 8;
    const int items = *a.p.list.n_tiles * a.row_blocks, stride = (int)gridDim.x;
    const int stages = (int)((a.p.k + D::step - 1) / D::step) * (D::step / 64 / S::SUBS);
    ring to = {0, 1}, infos = {0, 1};
    coming_tile<S> now, next;
    now.tile = tile_of(a, (int)blockIdx.x, items);
    ask_pairs(now, a, id);
    next.tile = tile_of(a, (int)blockIdx.x + stride, items);
    for (int item = (int)blockIdx.x; item < items; item += stride) {
        const int slot = infos.stage, c = id & 7;
        const gqmm_cuda_tile tile = now.tile;
        barrier_wait(mem.empty(2, slot), infos.parity);
        tell_tile<S>(a, mem, slot, now, id);
        infos.next(INFOS);
        ask_pairs(next, a, id);
        now = next;
        next.tile = tile_of(a, item + 2 * stride, items);
        if (tile.expert < 0)
            continue;
        const uint32_t *x_at = mem.x_at + slot * S::N;
        for (int i = 0; i < stages; i++) {
            barrier_wait(mem.empty(1, to.stage), to.parity);
#pragma unroll
            for (int sub = 0; sub < S::SUBS; sub++) {
                const uint32_t part = mem.columns + to.stage * S::COLUMN_BYTES + sub * (S::N * 128);
                const int64_t k = (int64_t)(i * S::SUBS + sub) * 64 + c * 8;
                const int valid = k < a.p.k ? 16 : 0;
                const uint8_t *from = a.x + (valid ? k * 2 : 0);
                const uint32_t row_to = part + (id >> 3) * 128;
#pragma unroll 1
                for (int first = 0; first < tile.count; first += BATCH * AT_ONCE) {
                    uint32_t at[BATCH];
#pragma unroll
                    for (int j = 0; j < BATCH; j++) {
                        const int col = first + j * AT_ONCE + (id >> 3);
                        at[j] = x_at[col < tile.count ? col : 0];
                    }
#pragma unroll
                    for (int j = 0; j < BATCH; j++) {
                        const int col = first + j * AT_ONCE + (id >> 3);
                        if (col < tile.count)
                            asm volatile(
                                "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                                    row_to + (first + j * AT_ONCE) * 128 + ((c ^ (col & 7)) << 4)),
                                "l"(from + (uint64_t)at[j] * 16), "r"(valid)
                                : "memory");
                    }
                }
            }
            barrier_arrive_after_copies(mem.full(1, to.stage));
            to.next(a.column_stages);
        }
    }
}

} // namespace wide_product
} // namespace gqmm

#endif
