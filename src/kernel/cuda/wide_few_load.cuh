// SPDX-License-Identifier: MIT
// The shapes and the shared memory of the product in tiles of few columns, and the warps that
// bring columns and weights.
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
constexpr int THREADS = CONSUMERS + 128; // loaders and a warp for their group to be whole
// A block has what its threads have at the launch; consumers that ask for more wait for ever.
constexpr int LOADER_REGISTERS = 32, CONSUMER_REGISTERS = 104;
static_assert(65536 / BLOCKS / THREADS / 8 * 8 * THREADS >=
                  CONSUMERS * CONSUMER_REGISTERS + (THREADS - CONSUMERS) * LOADER_REGISTERS,
              "registers of a block");
constexpr int STAGES = 2, INFOS = 4, MOST_STAGES = 4;
constexpr int LEAST_GROUP = 64; // of weights that share a scale; or twice as many

using shape = wide_product::shape<N>; // how rows and sums lie in a warp
static_assert(shape::MT == 2 && shape::ROWS == ROWS, "two parts of 16 rows a warp");

// Columns are so far apart that the 16 bytes of eight lanes, two columns of four, lie in banks of
// their own: see column_at().
constexpr int COLUMN_PITCH = STEP * 2 + 32;
constexpr int COLUMN_BYTES = N * COLUMN_PITCH;

// Of a plane, the scales of a step of a row, up to four. 16 bytes behind 16 rows keep those of
// row_of() that are read at once in banks of their own.
GQMM_HD constexpr int scale_at(int row)
{
    return row * 8 + (row >> 4) * 16;
}
constexpr int PLANE_SCALES = ROWS * 8 + ROWS / 16 * 16;
static_assert(STEP / LEAST_GROUP * 2 <= 8, "scales of a step");

// Plane 0 of a step: codes alone, swizzled, or a block of all that there is, as it lies.
template <class D> constexpr bool swizzled = D::planes > 1;
template <class D> constexpr int ROW_BYTES = wide_product::code_bytes<D>();
template <class D> constexpr int WEIGHT_BYTES = ROWS *ROW_BYTES<D>;
template <class D> constexpr int SCALE_BYTES = (D::planes - 1) * PLANE_SCALES;

struct few_args : wide_product::wide_args {
    CUtensorMap maps[2]; // plane 0 of w and of up
    int row_scale_bytes; // of a step, in a plane of scales
};

template <class D> struct memory {
    static constexpr int COLUMNS_AT = STAGES * WEIGHT_BYTES<D>;
    static constexpr int Y_AT = COLUMNS_AT + STAGES * COLUMN_BYTES; // [INFOS][N] elements of y
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
        return at + COLUMNS_AT + stage * COLUMN_BYTES;
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
// with words 0 and 1 of the four parts of two quads of outputs, neighbours all.
GQMM_HD inline int row_of(bool two, int y_order, int warp, int g, int m, int half)
{
    if (two)
        return wide_product::output_of<shape>((warp * 2 + m) * 16 + g, true, y_order) +
               half * (ROWS / 2);
    return 32 * warp + 8 * (g >> 1) + 4 * (g & 1) + 2 * m + half;
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

template <int BYTES> __device__ __forceinline__ void copy_few_to(uint32_t to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(BYTES)
                 : "memory");
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

// Where rows of a step are whole sectors these leave the second-level cache first, to h and y,
// which are read again; else a neighbour still wants what they share.
template <class D> constexpr bool LEAVE_FIRST = ROW_BYTES<D> % 32 == 0;

template <class D>
__device__ __forceinline__ void copy_codes(uint32_t to, const CUtensorMap *map, int byte, int row,
                                           int expert, uint32_t barrier)
{
    if constexpr (LEAVE_FIRST<D>)
        asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                     ".L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(to),
                     "l"(map), "r"(barrier), "r"(byte), "r"(row), "r"(expert), "l"(read_once())
                     : "memory");
    else
        asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                     "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
                     "l"(map), "r"(barrier), "r"(byte), "r"(row), "r"(expert)
                     : "memory");
}

// The scales of an item that a loader brings: those of every 64th row of w and then of up, whose
// planes of them have rows of one length. Where they lie is found once for all steps.
template <class D, bool TWO> struct scale_source {
    static constexpr int PLANES = D::planes > 1 ? D::planes - 1 : 1;
    static constexpr int ROWS_OF_ONE = ROWS / (TWO ? 2 : 1) / WEIGHT_LOADERS;
    const uint8_t *from[PLANES][1 + TWO]; // of row 0
    uint32_t row[ROWS_OF_ONE];            // bytes from there to a row, at the next step

    __device__ __forceinline__ scale_source(const few_args &a, int expert, int first)
    {
        const uint32_t end = (uint32_t)a.p.n - 1, stride = (uint32_t)a.p.w.row_stride[1];
#pragma unroll
        for (int plane = 1; plane < D::planes; plane++) {
            from[plane - 1][0] = a.p.w.plane[plane] + expert * a.p.w.expert_stride[plane];
            if (TWO)
                from[plane - 1][TWO] = a.p.up.plane[plane] + expert * a.p.up.expert_stride[plane];
        }
#pragma unroll
        for (int i = 0; i < ROWS_OF_ONE; i++)
            row[i] = min((uint32_t)first + i * WEIGHT_LOADERS, end) * stride;
    }

    // `BYTES` of each row, 4 or 8.
    template <int BYTES> __device__ __forceinline__ void copy(uint32_t to)
    {
#pragma unroll
        for (int i = 0; i < ROWS_OF_ONE; i++) {
#pragma unroll
            for (int plane = 1; plane < D::planes; plane++)
#pragma unroll
                for (int h = 0; h < 1 + TWO; h++)
                    copy_few_to<BYTES>(to + (plane - 1) * PLANE_SCALES +
                                           scale_at(h * (ROWS / 2) + i * WEIGHT_LOADERS),
                                       from[plane - 1][h] + row[i]);
            row[i] += BYTES;
        }
    }
};

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
                copy_row(mem.columns(to.stage) + lane * COLUMN_PITCH, from + step * (STEP * 2),
                         STEP * 2, full);
            to.next(STAGES);
        }
        now = next;
        from = next_from;
    }
}

// Two warps: the accelerator brings codes, each thread scales.
template <class D, bool TWO>
__device__ __forceinline__ void load_weights(const few_args &a, const memory<D> &mem, int id)
{
    const int steps = (int)(a.p.k / STEP);
    constexpr int outputs = TWO ? ROWS / 2 : ROWS;
    ring to = {0, 1}, infos = {0, 0};
    for (;;) {
        barrier_wait_lazily(mem.full(1, infos.stage), infos.parity);
        const tile_info info = mem.info(infos.stage);
        barrier_arrive(mem.empty(1, infos.stage));
        infos.next(INFOS);
        if (info.tile < 0)
            break;
        if (info.expert < 0)
            continue;
        const int first = info.row_block * outputs;
        scale_source<D, TWO> scales(a, info.expert, first + id);
#pragma unroll 1
        for (int step = 0; step < steps; step++) {
            const uint32_t full = mem.full(0, to.stage), stage = mem.weights(to.stage);
            barrier_wait_lazily(mem.empty(0, to.stage), to.parity);
            if (id == 0) {
                barrier_expect(full, WEIGHT_BYTES<D>);
                copy_codes<D>(stage, &a.maps[0], step * ROW_BYTES<D>, first, info.expert, full);
                if (TWO)
                    copy_codes<D>(stage + WEIGHT_BYTES<D> / 2, &a.maps[1], step * ROW_BYTES<D>,
                                  first, info.expert, full);
            }
            if (a.row_scale_bytes == 4)
                scales.template copy<4>(mem.scales(to.stage) + scale_at(id));
            else
                scales.template copy<8>(mem.scales(to.stage) + scale_at(id));
            barrier_arrive_after_copies(full);
            to.next(STAGES);
        }
    }
}

} // namespace few_product
} // namespace gqmm

#endif
