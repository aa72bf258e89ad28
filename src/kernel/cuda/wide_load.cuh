// SPDX-License-Identifier: MIT
// The wide product's shapes, shared memory, and the warps that bring columns.
#ifndef GQMM_KERNEL_CUDA_WIDE_LOAD_CUH
#define GQMM_KERNEL_CUDA_WIDE_LOAD_CUH

#include "kernel/cuda.h"
#include "kernel/cuda/decode_blocks.cuh"
#include "kernel/cuda/decode_k_quants.cuh"
#include "kernel/cuda/decode_mlx.cuh"
#include "kernel/cuda/mma.cuh"
#include "kernel/cuda/wgmma.cuh"
#include "kernel/cuda/wide_codes.cuh"
#include "kernel/cuda/wide_order.cuh"
#include "kernel/cuda/words.cuh"

#include <math.h>

namespace gqmm
{
namespace wide_product
{

constexpr int CONSUMERS = 256, COLUMN_LOADERS = 128, WEIGHT_LOADERS = 128; // threads
constexpr int THREADS = CONSUMERS + COLUMN_LOADERS + WEIGHT_LOADERS;
constexpr int MOST_STAGES = 8; // of a ring
constexpr int INFOS = 4;       // tiles that loaders may be ahead
constexpr int SHARED_OF_PROCESSOR = 227 * 1024, RESERVED = 1024;

// Columns of a tile, each a kernel of its own. A family may have others: what follows is static.
#ifndef GQMM_WIDTHS
#    define GQMM_WIDTHS(f) f(16) f(24) f(32) f(64) f(128) f(152)
#endif

// Columns of a tile and what they decide. Few columns: dequantising is the work, and two blocks of
// 128 rows share a multiprocessor. Many: one block, whose consumers take two times 64 rows each.
// The registers that the loaders give up go to the consumers.
template <int COLUMNS> struct shape {
    static constexpr int N = COLUMNS;
    static constexpr bool FEW = N <= 24;
    static constexpr int MT = FEW ? 1 : 2, BLOCKS = FEW ? 2 : 1, ROWS = 128 * MT;
    static constexpr int LOADER_REGISTERS = 40;
    static constexpr int CONSUMER_REGISTERS = FEW ? 88 : 216;
    static constexpr int SUBS = 3 - MT; // a stage of columns: SUBS times N rows of 64 along k
    static constexpr int COLUMN_BYTES = SUBS * N * 128;
    static constexpr int PADDED = (N + 15) / 16 * 16; // columns that a tile tells of
};

static inline int tile_width(int columns)
{
#define GQMM_WIDTH(n) \
    if (columns <= n) \
        return n;
    GQMM_WIDTHS(GQMM_WIDTH)
#undef GQMM_WIDTH
    return 0;
}

constexpr double MOST_OTHERS = 4; // mean columns of an expert up to which product() is faster

// The width for experts that meet `mean` columns each: most of them then have one tile.
static inline int width_for(double mean)
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
    int column_turns; // loader warps that take turns at the ring of columns
    int plane_at[3], plane_chunks[3], plane_bytes[3]; // in a stage, of a row of a step
    int scales_at, infos_at;                          // in shared memory
    int shared_bytes;
    int whole_y;            // bf16 outputs of a lane exist or do not together, and are aligned
    float factor, y_factor; // of the sums, and behind SwiGLU of what is written
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

// The items of a block: every gridDim.x-th (tile, block of rows) in the order of the list.
struct item_walk {
    int tile, row_block, tiles_on, blocks_on;

    __device__ __forceinline__ explicit item_walk(const wide_args &a)
        : tile((int)blockIdx.x / a.row_blocks), row_block((int)blockIdx.x % a.row_blocks),
          tiles_on((int)gridDim.x / a.row_blocks), blocks_on((int)gridDim.x % a.row_blocks)
    {
    }

    __device__ __forceinline__ void next(const wide_args &a)
    {
        tile += tiles_on;
        row_block += blocks_on;
        if (row_block >= a.row_blocks) {
            row_block -= a.row_blocks;
            tile++;
        }
    }
};

// ---- tiles of one product that the next one reads

// A product that follows another begins at once and ends no sooner than that one.
__device__ __forceinline__ void begin(const wide_args &a)
{
    if (!a.p.follows) {
        wait_for_previous();
        let_next_start();
    }
}

__device__ __forceinline__ void end(const wide_args &a)
{
    if (a.p.follows) {
        wait_for_previous();
        let_next_start();
    }
}

// By each warp of consumers, for what all its lanes have written.
__device__ __forceinline__ void tell_done(const wide_args &a, int tile, int row_block, int outputs,
                                          int lane)
{
    if (a.p.tells) {
        const int64_t left = a.p.n - (int64_t)row_block * outputs;
        __syncwarp();
        if (lane == 0)
            asm volatile(
                "red.release.gpu.global.add.s32 [%0], %1;" ::"l"(&a.p.list.tiles[tile].done),
                "r"((int)(left < outputs ? left : outputs))
                : "memory");
    }
}

// Before x of a tile is read.
__device__ __forceinline__ void wait_until_done(const wide_args &a, int tile)
{
    if (a.p.follows) {
        const int all = (int)a.p.k * (CONSUMERS / 32);
        int done;
        do
            asm volatile("ld.acquire.gpu.global.s32 %0, [%1];"
                         : "=r"(done)
                         : "l"(&a.p.list.tiles[tile].done)
                         : "memory");
        while (done < all);
        asm volatile("fence.proxy.async;" ::: "memory"); // the accelerator reads it
    }
}

// ---- a step of a row in shared memory

template <class D> GQMM_HD constexpr int code_bytes()
{
    return (int)D::bytes(0, D::step, format_args{32, GQMM_F32});
}

// What rows, and so steps, must start at multiples of. mxfp4's 17 bytes of 32 weights leave rows
// anywhere: its codes are read at any byte.
template <class D> constexpr int row_align = D::align;
template <> constexpr int row_align<dec_mxfp4> = 1;

// Steps may start inside 16 aligned bytes.
template <class D> GQMM_HD constexpr bool slips()
{
    return row_align<D> < 16;
}

template <class D> GQMM_HD constexpr int code_chunks()
{
    return (code_bytes<D>() + (slips<D>() ? 16 - row_align<D> : 0) + 15) / 16;
}

// Bytes between rows: lanes of a quad read neighbouring words (SERIAL: two words) of one row, and
// eight rows shall lie in banks of their own, so that this is an odd multiple of what a quad reads.
template <class D> GQMM_HD constexpr int pitch()
{
    constexpr int quad = D::in_order == SERIAL ? 2 : 1, chunks = code_chunks<D>();
    return ((chunks + quad - 1) / quad | 1) * quad * 16;
}

// ---- shared memory of a block

struct block_memory {
    uint32_t columns;  // ring of S::N rows of 128 bytes
    uint8_t *weights;  // ring of stages
    uint8_t *scales;   // of each consumer warp
    int64_t *y_at;     // [INFOS][N] elements of y
    uint32_t *x_at;    // [INFOS][PADDED] 16 bytes of x
    tile_info *infos;  // [INFOS]
    uint32_t *rows;    // [16][ROWS / 16] from the block's first row, by slot % 16, slot / 16
    uint32_t barriers; // [3 rings][full, empty][MOST_STAGES]

    template <class S>
    static __device__ __forceinline__ block_memory of(uint8_t *shared, const wide_args &a)
    {
        block_memory mem;
        mem.columns = shared_address(shared);
        mem.weights = shared + a.column_stages * S::COLUMN_BYTES;
        mem.scales = shared + a.scales_at;
        mem.y_at = (int64_t *)(shared + a.infos_at);
        mem.rows = (uint32_t *)(mem.y_at + INFOS * S::N);
        uint32_t *barriers = mem.rows + S::ROWS;
        mem.barriers = shared_address(barriers);
        mem.infos = (tile_info *)(barriers + 12 * MOST_STAGES);
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

template <class S> constexpr int info_bytes()
{
    return INFOS * (S::N * 8 + S::PADDED * 4) + S::ROWS * 4 + 6 * MOST_STAGES * 8 +
           INFOS * (int)sizeof(tile_info);
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
    return y_order ? (q & ~31) + place_source(order_of_code(y_order), q & 31) : q;
}

// The row of weights of an output of a block of rows; past the last output the last one, whose
// sums are not written.
template <class S>
__device__ __forceinline__ int row_of(const wide_args &a, int row_block, int output)
{
    const int row = row_block * (a.p.up.plane[0] ? S::ROWS / 2 : S::ROWS) + output;
    return row < a.p.n ? row : (int)a.p.n - 1;
}

// ---- columns

// A tile and, of each of a thread's columns, the pair, asked for before they are needed.
template <class S> struct coming_tile {
    gqmm_cuda_tile tile;
    int pair[(S::PADDED + COLUMN_LOADERS - 1) / COLUMN_LOADERS];
};

__device__ __forceinline__ gqmm_cuda_tile tile_of(const wide_args &a, int tile, int tiles)
{
    return tile < tiles ? a.p.list.tiles[tile] : gqmm_cuda_tile{-1, 0, 0, 0};
}

template <class S>
__device__ __forceinline__ void ask_pairs(coming_tile<S> &to, const wide_args &a, int id)
{
#pragma unroll
    for (int i = 0; i < (int)(sizeof to.pair / sizeof *to.pair); i++) {
        const int c = i * COLUMN_LOADERS + id, at = to.tile.begin + c, m = (int)a.p.m;
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
        const int c = i * COLUMN_LOADERS + id, m = (int)a.p.m;
        if (c < now.tile.count) {
            const int row = m == 1 ? 0 : (now.tile.begin + c) % m;
            // The sort has put pairs with a bad row aside.
            int matrix = now.pair[i] / a.p.slots;
            if (a.p.lhs && now.tile.expert >= 0)
                matrix = a.p.lhs[now.pair[i] * a.p.lhs_stride];
            mem.x_at[slot * S::PADDED + c] = (uint32_t)(matrix * a.x_mat + row * a.x_row);
            mem.y_at[slot * S::N + c] = now.pair[i] * a.p.y_pair + row * a.p.y_row;
        } else if (c < S::PADDED) {
            mem.x_at[slot * S::PADDED + c] = 0;
        }
    }
    if (id == 0)
        mem.infos[slot] = tile_info{now.tile.expert, now.tile.count};
    barrier_arrive(mem.full(2, slot)); // each for what it wrote itself
    warps_sync(2, COLUMN_LOADERS);
}

// 64 along k of a tile's columns, by one warp: a quarter of its lanes brings four neighbouring
// columns of every 16. Columns past the count are copies of some other, as far as they exist.
template <class S>
__device__ __forceinline__ void load_part(uint32_t to, const uint8_t *from, const uint32_t *x_at,
                                          int valid, int count, int lane)
{
    const int c = lane & 7, first = (lane >> 3) * 4;
    uint32_t at[4];
    asm volatile("" : "+l"(from)); // a sum to keep, not to make again for each copy
#pragma unroll
    for (int j = 0; j < 4; j++)
        at[j] = to + (first + j) * 128 + ((c ^ ((first + j) & 7)) << 4);
#pragma unroll
    for (int i = 0; i < S::N; i += 16) {
        if (i >= count)
            break;
        if (S::N % 16 != 0 && i + 16 > S::N && first >= S::N % 16)
            break;
        const uint4 x = *(const uint4 *)(x_at + i + first);
        const uint32_t row[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int j = 0; j < 4; j++)
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at[j] + i * 128),
                         "l"(from + (uint64_t)row[j] * 16), "r"(valid)
                         : "memory");
    }
}

// The warps take turns, a stage each: a thread waits for its own copies and shows them to wgmma
// before it says that they are there, so that consumers need no fence.
template <class D, class S>
__device__ __forceinline__ void load_columns(const wide_args &a, const block_memory &mem, int id)
{
    const int tiles = *a.p.list.n_tiles;
    const int stages = (int)((a.p.k + D::step - 1) / D::step) * (D::step / 64 / S::SUBS);
    const int lane = id & 31;
    ring to = {0, 1}, infos = {0, 1};
    const bool takes = id >> 5 < a.column_turns;
    int turn = id >> 5; // 0: the next stage is this warp's, if it takes any
    item_walk item(a), ahead = item;
    coming_tile<S> now, next;
    now.tile = tile_of(a, item.tile, tiles);
    ask_pairs(now, a, id);
    ahead.next(a);
    next.tile = tile_of(a, ahead.tile, tiles);
    for (; item.tile < tiles; item.next(a)) {
        const int slot = infos.stage;
        const gqmm_cuda_tile tile = now.tile;
        barrier_wait_lazily(mem.empty(2, slot), infos.parity);
        tell_tile<S>(a, mem, slot, now, id);
        infos.next(INFOS);
        ask_pairs(next, a, id);
        now = next;
        ahead.next(a);
        next.tile = tile_of(a, ahead.tile, tiles);
        if (tile.expert < 0)
            continue;
        wait_until_done(a, item.tile);
        for (int i = 0; i < stages; i++) {
            if (takes && turn == 0) {
                const uint32_t stage = mem.columns + to.stage * S::COLUMN_BYTES;
                barrier_wait_lazily(mem.empty(1, to.stage), to.parity);
#pragma unroll
                for (int sub = 0; sub < S::SUBS; sub++) {
                    const int64_t k = (int64_t)(i * S::SUBS + sub) * 64 + (lane & 7) * 8;
                    load_part<S>(stage + sub * (S::N * 128), a.x + (k < a.p.k ? k * 2 : 0),
                                 mem.x_at + slot * S::PADDED, k < a.p.k ? 16 : 0, tile.count, lane);
                }
                copies_wait();
                fence_for_wgmma();
                barrier_arrive(mem.full(1, to.stage));
            }
            turn = turn == 0 ? a.column_turns - 1 : turn - 1;
            to.next(a.column_stages);
        }
    }
}

} // namespace wide_product
} // namespace gqmm

#endif
