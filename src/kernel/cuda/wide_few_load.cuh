// SPDX-License-Identifier: MIT
// The shapes and the shared memory of the product in tiles of few columns, and the warp that brings
// columns.
#ifndef GQMM_KERNEL_CUDA_WIDE_FEW_LOAD_CUH
#define GQMM_KERNEL_CUDA_WIDE_FEW_LOAD_CUH

#include "kernel/cuda/dense_mma.cuh"
#include "kernel/cuda/wide_load.cuh"

namespace gqmm
{
namespace few_product
{

using wide_product::ring;

// What a block does next, told by the warp that brings columns; tile -1: nothing.
struct tile_info {
    int expert, count, row_block, tile;
};

constexpr int BLOCK = 128, STEP = 2 * BLOCK; // along k
constexpr int ROWS = 256, N = 32;            // of weights and of columns
constexpr int BLOCKS = 2;                    // on a multiprocessor
constexpr int CONSUMERS = 256, WEIGHT_LOADERS = 64, COLUMN_LOADERS = 32; // threads
constexpr int STRAIGHTENERS = 64;        // in their place, behind a warp
constexpr int THREADS = CONSUMERS + 128; // loaders and a warp for their group to be whole
// A block has what its threads have at the launch; consumers that ask for more wait for ever.
constexpr int LOADER_REGISTERS = 32, CONSUMER_REGISTERS = 104;
static_assert(65536 / BLOCKS / THREADS / 8 * 8 * THREADS >=
                  CONSUMERS * CONSUMER_REGISTERS + (THREADS - CONSUMERS) * LOADER_REGISTERS,
              "registers of a block");
constexpr int STAGES = 2, INFOS = 4, MOST_STAGES = 4;
static_assert(2 * STAGES <= MOST_STAGES, "barriers of weights that are not straight");

using shape = wide_product::shape<N>; // how rows and sums lie in a warp
static_assert(shape::MT == 2 && shape::ROWS == ROWS, "two parts of 16 rows a warp");

// Columns are so far apart that the 16 bytes of eight lanes, two columns of four, lie in banks of
// their own: see column_at(), few_lane.
constexpr int COLUMN_PITCH = STEP * 2 + 32;

// Plane 0 of a step in shared memory: codes alone, or a block of all that there is, as it lies. The
// accelerator brings whole 16 bytes, of which a step may begin behind the first.
//   ROW_BYTES   of a row
//   NEXT        between rows of g = 2 t and 2 t + 1 of one matrix, see row_of()
//   PITCH       between columns
//   SWIZZLED    16 bytes c of 128 lie at c ^ (row & 7)
//   SLIPS       a step's beginning is found where it is read
//   STRAIGHT    warps move steps to where rows begin, and swizzle them: see put_straight()
//   LOW         codes are taken by few_lane
//   SCALES      bytes that a step of a row has in a plane of scales, at most
//   SPREAD      every 2^this-th row in a copy, of one matrix or of two: see spread_for()
//   GLOBAL      experts may have a global scale
//   DOWN        weights are 2^-this of what they are
struct few_any {
    static constexpr int NEXT = 4, PITCH = COLUMN_PITCH, SCALES = 8, DOWN = 0;
    static constexpr int SPREAD[2] = {0, 0};
    static constexpr bool SWIZZLED = false, SLIPS = false, STRAIGHT = false, LOW = false,
                          GLOBAL = false;
};
template <class D> struct few_layout : few_any {
    static constexpr int ROW_BYTES = wide_product::code_bytes<D>();
    static constexpr bool SWIZZLED = D::planes > 1;
};
template <int BYTES, int NEXT_, int SPREAD_OF_ONE = 0, int SPREAD_OF_TWO = 0>
struct few_rows : few_any {
    static constexpr int ROW_BYTES = BYTES, NEXT = NEXT_, PITCH = STEP * 2 + 64;
    static constexpr int SPREAD[2] = {SPREAD_OF_ONE, SPREAD_OF_TWO};
    static constexpr bool LOW = true;
};
template <> struct few_layout<dec_affine2> : few_rows<64, 1, 0, 2> {
};
template <> struct few_layout<dec_affine3> : few_rows<96, 1> {
};
template <> struct few_layout<dec_iq4_nl> : few_rows<144, 1> {
};
template <> struct few_layout<dec_q4_0> : few_rows<144, 4, 2> {
};
template <> struct few_layout<dec_q4_1> : few_rows<160, 4, 2> {
};
template <> struct few_layout<dec_nvfp4> : few_rows<144, 4, 2> {
    static constexpr int DOWN = 20;
};
template <> struct few_layout<dec_mlx_mxfp4> : few_rows<128, 1> {
    static constexpr bool SWIZZLED = true;
};
template <> struct few_layout<dec_mlx_nvfp4> : few_rows<128, 2, 1, 1> {
    static constexpr int SCALES = 16, DOWN = 20;
    static constexpr bool SWIZZLED = true, GLOBAL = true;
};
template <> struct few_layout<dec_q2_k> : few_rows<96, 4, 2> {
    static constexpr bool SLIPS = true;
};
template <> struct few_layout<dec_q3_k> : few_rows<128, 2> {
    static constexpr bool STRAIGHT = true;
};
template <> struct few_layout<dec_iq4_xs> : few_rows<144, 1> {
    static constexpr bool SLIPS = true;
};
template <class D> constexpr int STEP_BYTES = wide_product::code_bytes<D>();
template <class D> constexpr int ROW_BYTES = few_layout<D>::ROW_BYTES;
// Whether lines of the second-level cache hold parts of two steps.
template <class D> constexpr bool CROSSES = STEP_BYTES<D> % 32 != 0 || 128 < STEP_BYTES<D>;
template <class D> constexpr int column_pitch = few_layout<D>::PITCH;
template <class D> constexpr int WEIGHT_BYTES = ROWS *ROW_BYTES<D>;
// Columns of a tile at most: rows of many bytes leave room for fewer.
template <class D> constexpr int MOST_COLUMNS = ROW_BYTES<D> <= 144 ? N : 24;
template <class D> constexpr int COLUMN_BYTES = MOST_COLUMNS<D> *column_pitch<D>;

// Of a plane, the scales of a step of a row. 16 bytes behind 16 rows keep those of row_of() that
// are read at once in banks of their own.
template <class D> GQMM_HD constexpr int scale_at(int row)
{
    return row * few_layout<D>::SCALES + (row >> 4) * 16;
}
template <class D> constexpr int PLANE_SCALES = scale_at<D>(ROWS);
template <class D> constexpr int SCALE_BYTES = (D::planes - 1) * PLANE_SCALES<D>;

struct few_args : wide_product::wide_args {
    CUtensorMap maps[2]; // plane 0 of w and of up
    int row_scale_bytes; // of a step, in a plane of scales
    int spread;          // rows of w come in 2^this copies, see place_of()
};

template <class D> struct memory {
    static constexpr int COLUMNS_AT = STAGES * WEIGHT_BYTES<D>;
    static constexpr int Y_AT = COLUMNS_AT + STAGES * COLUMN_BYTES<D>; // [INFOS][N] elements of y
    static constexpr int BARRIERS_AT = Y_AT + INFOS * N * 8; // [2 rings][full, empty][MOST_STAGES]
    static constexpr int INFOS_AT = BARRIERS_AT + 4 * MOST_STAGES * 8;
    static constexpr int SCALES_AT = INFOS_AT + INFOS * (int)sizeof(tile_info);
    static constexpr int BYTES = SCALES_AT + STAGES * SCALE_BYTES<D>;

    uint32_t at; // of its beginning
    uint8_t *shared;

    __device__ __forceinline__ explicit memory(uint8_t *p) : at(shared_address(p)), shared(p)
    {
    }

    __device__ __forceinline__ uint32_t weights(int stage) const
    {
        return at + stage * WEIGHT_BYTES<D>;
    }

    __device__ __forceinline__ uint32_t columns(int stage) const
    {
        return at + COLUMNS_AT + stage * COLUMN_BYTES<D>;
    }

    __device__ __forceinline__ uint32_t scales(int stage) const
    {
        return at + SCALES_AT + stage * SCALE_BYTES<D>;
    }

    __device__ __forceinline__ int64_t *y_at(int slot) const
    {
        return (int64_t *)(shared + Y_AT) + slot * N;
    }

    __device__ __forceinline__ tile_info &info(int slot) const
    {
        return ((tile_info *)(shared + INFOS_AT))[slot];
    }

    // Weights that are not straight yet.
    __device__ __forceinline__ uint32_t crooked(int stage) const
    {
        return full(0, STAGES + stage);
    }

    // Rings: 0 weights with columns, 1 infos.
    __device__ __forceinline__ uint32_t full(int which, int stage) const
    {
        return at + BARRIERS_AT + (which * 2 * MOST_STAGES + stage) * 8;
    }

    __device__ __forceinline__ uint32_t empty(int which, int stage) const
    {
        return at + BARRIERS_AT + ((which * 2 + 1) * MOST_STAGES + stage) * 8;
    }
};

// Where in a stage the row of weights lies that is row g (half 0) or g + 8 of part m of a warp. The
// rows of g = 2 t and 2 t + 1, which eight lanes read at once, are in different halves of the
// banks: in a mixture by the order of h, see output_of(). Of one matrix a lane of the sums ends
// with eight neighbours: those of g = 2 t and 2 t + 1 are NEXT apart.
template <class D> GQMM_HD int row_of(bool two, int y_order, int warp, int g, int m, int half)
{
    constexpr int next = few_layout<D>::NEXT;
    if (two)
        return wide_product::output_of<shape>((warp * 2 + m) * 16 + g, true, y_order) +
               half * (ROWS / 2);
    const int part = 2 * m + half;
    return 32 * warp + 8 * (g >> 1) + next * (g & 1) + part % next + part / next * 2 * next;
}

// Rows that start at no multiples of 16 bytes are brought every 2^spread-th, in as many copies:
// where row `row` of a stage stands, of w and of up in a half each.
template <bool TWO> GQMM_HD int place_of(int row, int spread)
{
    constexpr int height = TWO ? ROWS / 2 : ROWS;
    const int of = row % height, first = of & ((1 << spread) - 1);
    return row - of + (first * height >> spread) + (of >> spread);
}

// Behind whole 16 bytes: where a step begins in rows number 2^spread n + i.
template <class D> GQMM_HD int slip_of(int64_t row_stride, int i, int step)
{
    return (int)((uint32_t)row_stride * i + step * STEP_BYTES<D>)&15;
}

// How far rows of other parts and halves are from row g of part 0, in the order that nibbles want
// h in.
GQMM_HD constexpr int row_step(bool two, int m, int half)
{
    return two ? 8 * m + half * (ROWS / 2) : 2 * m + half;
}

// Where lane t finds the pairs of codes that it takes in a turn in column g of a stage, in its
// first block; turns 2 and 3 are 32 bytes behind 0 and 1.
GQMM_HD constexpr int column_at(int g, int t, int turn)
{
    return g * COLUMN_PITCH + 64 * t + 16 * (turn ^ t >> 1);
}

// The same where a lane has two pieces of a step, of turns at them and at pairs 0 and 1.
GQMM_HD constexpr int block_column_at(int g, int t, int piece, int turn)
{
    return g * COLUMN_PITCH + 128 * t + 64 * (piece ^ t >> 1) + 16 * (turn ^ (t & 1));
}

// Multiples of 16 bytes that count at the barrier.
__device__ __forceinline__ void copy_row(uint32_t to, const void *from, uint32_t bytes,
                                         uint32_t barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}

// Tells what item comes, with y's places, and finds where the lane's column of it lies in x.
template <class D>
__device__ __forceinline__ const uint8_t *tell_item(tile_info &info, const few_args &a,
                                                    const memory<D> &mem, const ring &slot,
                                                    int item, int tiles, int lane)
{
    const int m = (int)a.p.m, at = item / a.row_blocks;
    const uint8_t *from = a.x;
    gqmm_cuda_tile tile = {-1, 0, 0, 0};
    if (at < tiles)
        tile = a.p.list.tiles[at];
    info = tile_info{tile.expert, tile.count, item % a.row_blocks, at < tiles ? at : -1};
    barrier_wait_lazily(mem.empty(1, slot.stage), slot.parity);
    if (lane < tile.count) {
        const int at = tile.begin + lane, pair = a.p.list.order[m == 1 ? at : at / m];
        const int row = m == 1 ? 0 : at % m;
        int matrix = pair / a.p.slots;
        if (a.p.lhs && tile.expert >= 0) // the sort has put pairs with a bad row aside
            matrix = a.p.lhs[pair * a.p.lhs_stride];
        from += (uint64_t)(uint32_t)(matrix * a.x_mat + row * a.x_row) * 16;
        mem.y_at(slot.stage)[lane] = pair * a.p.y_pair + row * a.p.y_row;
    }
    if (lane == 0)
        mem.info(slot.stage) = info;
    barrier_arrive(mem.full(1, slot.stage)); // each for what it wrote itself
    return from;
}

// The next item, behind the first of each block, that no block has taken. Who is the last to find
// none leaves the counter as it was: each item but the first ones is taken once, and each block of
// these finds none once.
__device__ __forceinline__ int next_item(const few_args &a, int tiles, int lane)
{
    int *counter = a.p.list.taken + (a.p.follows ? 1 : 0), taken = 0;
    if (lane == 0) {
        taken = atomicAdd(counter, 1);
        if (taken == tiles * a.row_blocks - 1)
            *counter = 0;
    }
    return (int)gridDim.x + __shfl_sync(~0u, taken, 0);
}

// One warp, a column each; the accelerator brings them. It takes items when it needs them, so that
// blocks end together.
template <class D>
__device__ __forceinline__ void load_columns(const few_args &a, const memory<D> &mem, int lane)
{
    const int tiles = *a.p.list.n_tiles, steps = (int)(a.p.k / STEP);
    ring to = {0, 1}, infos = {0, 1};
    tile_info now, next;
    const uint8_t *from = tell_item(now, a, mem, infos, (int)blockIdx.x, tiles, lane);
    while (now.tile >= 0) {
        const uint8_t *next_from = from;
        infos.next(INFOS);
        if (now.expert >= 0)
            wide_product::wait_until_done(a, now.tile);
#pragma unroll 1
        for (int step = now.expert < 0 ? steps - 1 : 0; step < steps; step++) {
            const uint32_t full = mem.full(0, to.stage);
            if (step + 1 == steps) // while the stage is not free yet
                next_from = tell_item(next, a, mem, infos, next_item(a, tiles, lane), tiles, lane);
            if (now.expert < 0)
                break;
            barrier_wait_lazily(mem.empty(0, to.stage), to.parity);
            if (lane == 0)
                barrier_expect(full, now.count * (STEP * 2));
            __syncwarp(); // no bytes count before they are expected
            if (lane < now.count)
                copy_row(mem.columns(to.stage) + lane * column_pitch<D>, from + step * (STEP * 2),
                         STEP * 2, full);
            to.next(STAGES);
        }
        now = next;
        from = next_from;
    }
}

} // namespace few_product
} // namespace gqmm

#endif
