// SPDX-License-Identifier: MIT
// The product of any format, any sizes and any activations, on the matrix units of sm_80 and later.
//
// A block takes a tile of columns that meet one expert. A warp takes 16 rows of weights (of two
// matrices, 8 and 8, where SwiGLU follows) and all the columns, 8 to a matrix instruction. Codes
// enter as bf16 integers, which is exact, sums of the products of a scale are fp32, and the scale
// is applied to the sum:
//
//     acc += scale * sum(code * x) + offset * sum(x)
//
// so that nothing is rounded to bf16 but x, and x of f32 and f16 is split into parts without loss.
// The warps may share rows and split K among them (few rows, long K); their sums are then added in
// order. Or each takes several times 16 rows in turn (many rows, short K): steps of the next ones
// are asked for before the last of these are used up.
#ifndef GQMM_KERNEL_CUDA_PRODUCT_CUH
#define GQMM_KERNEL_CUDA_PRODUCT_CUH

#include "kernel/cuda/columns.cuh"
#include "kernel/cuda/epilogue.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/multiply.cuh"
#include "kernel/cuda/stage.cuh"
#include "kernel/cuda/stage_x.cuh"

#include <math.h>

namespace gqmm
{

constexpr int TILES_OF_Z = 32768; // of a grid whose y is limited

// The most warps of a block: registers then are enough for the sums of NT tiles.
GQMM_HD constexpr int most_warps(int nt)
{
    return nt == 1 ? 24 : 16;
}

// Host's choices for a launch; kernels read them.
struct product_plan {
    int warps;      // of a block
    int split_bits; // 2^this warps share rows: 1, 2, 4 or 8
    int turns;      // row tiles that a warp takes in turn; 1 where warps share rows
    int phase;      // activations along K at a time of all columns, a multiple of 256
    int x_parts;
    int tiles, row_blocks; // of the grid
    int bytes;             // of dynamic shared memory
};

template <class D, int NT> GQMM_HD constexpr int warp_bytes()
{
    return stages<D>() * ROWS * row_pitch<D>() + scale_table<D, NT>::bytes;
}

// Column c, output n of the lane's sums to y.
template <int NT, int NC>
__device__ __forceinline__ void write(const float (&acc)[NT][4], const gqmm_cuda_product &p,
                                      const column_set<NC> &c, int64_t row, int lane)
{
    const int g = lane >> 2, t = lane & 3;
    const bool two = p.up.plane[0] != NULL;
    const float first = global_of(p.w, c.expert), second = two ? global_of(p.up, c.expert) : first;
#pragma unroll
    for (int nt = 0; nt < NT; nt++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int col = nt * 8 + 2 * t + i;
            if (col >= c.count)
                continue;
            const int64_t at = c.y_at[col] + row + g;
            const bool none = c.x_at[col] < 0;
            const float lo = none ? 0.0f : first * acc[nt][i];
            const float hi = none ? 0.0f : second * acc[nt][2 + i];
            if (row + g < p.n)
                store_number(p.y, at, p.y_type, two ? silu(lo) * hi : lo);
            if (!two && row + g + 8 < p.n)
                store_number(p.y, at + 8, p.y_type, hi);
        }
}

__device__ __forceinline__ row_block rows_at(const gqmm_cuda_product &p, int expert, int64_t row)
{
    row_block b;
    b.halves = p.up.plane[0] != NULL;
    const int64_t left = p.n - row, most = b.halves ? 8 : 16;
    b.count = (int)(left < 1 ? 1 : left < most ? left : most);
    const int64_t first = row < p.n ? row : p.n - 1;
#pragma unroll
    for (int i = 0; i < 3; i++) {
        const uint8_t *w = p.w.plane[i] + expert * p.w.expert_stride[i];
        const uint8_t *up = p.up.plane[i] + expert * p.up.expert_stride[i];
        b.stride[i] = p.w.row_stride[i];
        b.first[i] = w + first * b.stride[i];
        b.second[i] = up - w;
    }
    return b;
}

template <class D, int NT, bool ONE>
__global__ void __launch_bounds__(32 * most_warps(NT))
    product_kernel(const __grid_constant__ gqmm_cuda_product p,
                   const __grid_constant__ product_plan plan)
{
    constexpr int NC = NT * 8, STAGES = stages<D>();
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ column_set<NC> columns;
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5;
    const format_args f = {p.w.group, p.w.scale_type};
    keep(lane);
    keep(warp);

    if (!p.ids_early)
        wait_for_previous();
    const int at = (int)(blockIdx.z * TILES_OF_Z + blockIdx.y);
    if (at < plan.tiles)
        find_columns(columns, p, at);
    if (at >= plan.tiles || columns.count == 0) {
        // Every block waits: a launch that has ended tells that the one before it has.
        if (p.ids_early)
            wait_for_previous();
        return;
    }
    const int per_tile = p.up.plane[0] ? 8 : 16; // outputs
    const int per_turn = (plan.warps >> plan.split_bits) * per_tile;
    const int64_t row0 = (int64_t)blockIdx.x * plan.turns * per_turn;
    if (columns.expert < 0) {
        if (p.ids_early)
            wait_for_previous();
        zero_rows(p, columns, row0, plan.turns * per_turn);
        return;
    }

    // Of all steps a warp takes every `every`-th, from `split` on.
    const int every = 1 << plan.split_bits, split = warp & (every - 1);
    const int64_t row = row0 + (warp >> plan.split_bits) * per_tile; // of the first turn
    const int steps = (int)((p.k + D::step - 1) / D::step);
    const auto rows_of = [&](int turn) {
        return rows_at(p, columns.expert, row + turn * per_turn);
    };

    uint8_t *ring = shared + warp * warp_bytes<D, NT>();
    float *scales = (float *)(ring + STAGES * ROWS * row_pitch<D>());
    const float *my_scales = scales + (lane >> 2) * scale_table<D, NT>::row;
    uint8_t *xs = shared + plan.warps * warp_bytes<D, NT>();
    const x_layout l = lay_out_x<D, NT>(plan.phase, plan.x_parts, columns.count, p.k);

    // Weights are asked for ahead of their use, through the rows of all turns.
    loader<D> weights;
    int ask_turn = 0, ask_step = split;
    const int64_t quarter = 4 * p.w.row_stride[0];
    int64_t half = 2 * quarter;
    const auto point_at = [&](const row_block &b) {
        weights.set(b, p.k, p.w.aligned, b.regular(), lane, f);
        half = b.halves ? b.second[0] : half;
    };
    point_at(rows_of(0));
    const auto ask = [&](int slot) {
        if (ask_step >= steps && ask_turn + 1 < plan.turns) {
            const int slips = weights.slips; // of the rows in use, which lag behind
            ask_step = split;
            point_at(rows_of(++ask_turn));
            weights.slips = slips;
        }
        if (ask_step < steps)
            weights.bring(ring + slot * ROWS * row_pitch<D>(), ask_step, p.k, p.w.aligned, quarter,
                          half, lane, f, [&] { return rows_of(ask_turn); });
        ask_step += every;
        copies_commit();
    };
#pragma unroll 1
    for (int i = 0; i < STAGES; i++)
        ask(i);
    if (p.ids_early)
        wait_for_previous();
    let_next_start();

    // A lane's places in the activations; tiles beyond the columns repeat the last one.
    int x_at[NT], sums_at[NT][2];
#pragma unroll
    for (int nt = 0; nt < NT; nt++) {
        const int last = columns.count - 1, c = nt * 8 + (lane >> 2), q = nt * 8 + (lane & 3) * 2;
        x_at[nt] = (c < last ? c : last) * l.pitch + (lane & 3) * 16;
        sums_at[nt][0] = l.sums + (q < last ? q : last) * l.sum_pitch;
        sums_at[nt][1] = l.sums + (q + 1 < last ? q + 1 : last) * l.sum_pitch;
        keep(x_at[nt]);
        keep(sums_at[nt][0]);
        keep(sums_at[nt][1]);
    }
    float acc[NT][4] = {};
    int slot = 0, s = split;
    for (int turn = 0; turn < plan.turns; turn++) {
        if (ends_anywhere<D> && turn)
            weights.find(rows_of(turn), lane);
        for (int s0 = 0; s0 < steps; s0 += l.phase / D::step) {
            if (turn == 0 || l.phase < p.k) {
                __syncthreads();
                bring_x<D, NT, ONE>(xs, p, l, plan.x_parts, columns, (int64_t)s0 * D::step);
                __syncthreads();
            }
            const int end = s0 + l.phase / D::step < steps ? s0 + l.phase / D::step : steps;
            for (; s < end; s += every) {
                uint8_t *stage = ring + slot * ROWS * row_pitch<D>();
                x_tile tile[NT];
#pragma unroll
                for (int nt = 0; nt < NT; nt++) {
                    constexpr int SUMS = D::step / D::piece * (int)sizeof(float);
                    const int on = s - s0;
                    tile[nt].x = xs + (x_at[nt] + on * (D::step * 2));
                    tile[nt].sums[0] = (const float *)(xs + (sums_at[nt][0] + on * SUMS));
                    tile[nt].sums[1] = (const float *)(xs + (sums_at[nt][1] + on * SUMS));
                }
                copies_wait<STAGES - 1>();
                __syncwarp();
                scale_table<D, NT>::make(scales, weights.at(stage, 0, lane, s), lane, f);
                __syncwarp();
                multiply<D, NT, ONE>(acc, weights.at(stage, 1, lane, s),
                                     weights.at(stage, 2, lane, s), my_scales, tile, plan.x_parts,
                                     l.part_bytes, lane & 3, f);
                __syncwarp();
                ask(slot);
                slot = slot + 1 == STAGES ? 0 : slot + 1;
            }
        }
        if (plan.turns > 1) {
            write<NT, NC>(acc, p, columns, row + turn * per_turn, lane);
#pragma unroll
            for (int i = 0; i < NT * 4; i++)
                acc[i / 4][i % 4] = 0.0f;
            s = split;
        }
    }
    if (plan.turns > 1)
        return;

    if (plan.split_bits) {
        __syncthreads();
        float *all = (float *)shared;
#pragma unroll
        for (int i = 0; i < NT * 4; i++)
            all[(warp * NT * 4 + i) * 32 + lane] = acc[i / 4][i % 4];
        __syncthreads();
        if (split)
            return;
        for (int other = 1; other < 1 << plan.split_bits; other++)
#pragma unroll
            for (int i = 0; i < NT * 4; i++)
                acc[i / 4][i % 4] += all[((warp + other) * NT * 4 + i) * 32 + lane];
    }
    write<NT, NC>(acc, p, columns, row, lane);
}

// ---------------------------------------------------------------- host

// How many tiles of `columns` will have any, as far as is known here: ids are taken for random.
inline double expected_tiles(const gqmm_cuda_product *p, int columns)
{
    const double tiles = (double)tiles_of(p, columns), n = p->w.n_experts;
    if (!p->rhs || p->m > 1)
        return tiles;
    const double used = n * (1.0 - pow(1.0 - 1.0 / n, (double)p->n_pairs));
    return tiles < used ? tiles : used;
}

// Needs at least one tile and one output.
template <class D, int NT> product_plan plan_product(const gqmm_cuda_product *p, int path)
{
    // Multiprocessors and the shared memory of one; what every device of path sm_80 has.
    constexpr int NC = NT * 8, SMS = 132, ENOUGH = SMS * (NT == 1 ? 24 : 12);
    const int memory = (path == GQMM_CUDA_SM90 ? 220 : 96) * 1024;
    const int64_t per_tile = p->up.plane[0] ? 8 : 16, tiles = tiles_of(p, NC);
    const int64_t row_tiles = (p->n + per_tile - 1) / per_tile;
    const int64_t steps = (p->k + D::step - 1) / D::step, whole = (p->k + 255) / 256 * 256;
    const int64_t warps = (int64_t)((double)row_tiles * expected_tiles(p, NC));
    product_plan plan = {8, 0, 1, 0, parts_of(p->x_type), (int)tiles, 0, 0};
    const int per_256 = x_bytes<D, NT>(256, NC, plan.x_parts);
    while (plan.warps > 1 && plan.warps * warp_bytes<D, NT>() + per_256 > memory)
        plan.warps /= 2;
    // Warps share rows while the launch would leave multiprocessors without enough warps to read
    // with; where there are many, a warp takes several rows in turn and so begins more seldom.
    while (1 << plan.split_bits < plan.warps && warps << (plan.split_bits + 1) <= ENOUGH &&
           steps >= 2 << plan.split_bits)
        plan.split_bits++;
    while (plan.turns * steps < 16 && warps >= 4 * ENOUGH * plan.turns)
        plan.turns *= 2;
    // Several small blocks share a multiprocessor, unless a larger one for each does as well: it
    // brings activations once, and has room for all of K.
    const int64_t most = p->rhs && p->m == 1 && p->w.n_experts < tiles ? p->w.n_experts : tiles;
    const auto blocks_of = [&](int w) {
        const int64_t rows = (w >> plan.split_bits) * plan.turns;
        return (row_tiles + rows - 1) / rows * most;
    };
    const int64_t small = blocks_of(plan.warps);
    bool alone = small <= SMS;
    for (int w = 16; w <= most_warps(NT) && !alone && path == GQMM_CUDA_SM90; w += 8)
        if (blocks_of(w) <= SMS && w <= (small + SMS - 1) / SMS * plan.warps &&
            w * warp_bytes<D, NT>() + per_256 <= memory) {
            plan.warps = w;
            alone = true;
        }
    // All of K in shared memory where there is room, 256 along it at least.
    int64_t room = memory - plan.warps * warp_bytes<D, NT>();
    room = alone || room < 16 * 1024 ? room : 16 * 1024;
    const int64_t phase = room < per_256 ? 256 : room / per_256 * 256;
    plan.phase = (int)(whole < phase ? whole : phase);
    plan.row_blocks = (int)(blocks_of(plan.warps) / most);
    const int sums = plan.warps * NT * 4 * 32 * (int)sizeof(float);
    plan.bytes = plan.warps * warp_bytes<D, NT>() + x_bytes<D, NT>(plan.phase, NC, plan.x_parts);
    plan.bytes = plan.bytes < sums ? sums : plan.bytes;
    return plan;
}

template <class D, int NT, bool ONE>
int launch_product(const gqmm_cuda_product *p, int path, gqmm_stream s)
{
    const int64_t tiles = tiles_of(p, NT * 8);
    if (tiles == 0 || p->n == 0)
        return 0;
    const product_plan plan = plan_product<D, NT>(p, path);
    const dim3 grid((unsigned)plan.row_blocks, (unsigned)(tiles < TILES_OF_Z ? tiles : TILES_OF_Z),
                    (unsigned)((tiles + TILES_OF_Z - 1) / TILES_OF_Z));
    return launch(product_kernel<D, NT, ONE>, grid, dim3((unsigned)plan.warps * 32),
                  (size_t)plan.bytes, s, path, *p, plan);
}

template <class D> int product(const gqmm_cuda_product *p, int path, gqmm_stream s)
{
    if (p->x_type != GQMM_BF16)
        return launch_product<D, 2, false>(p, path, s);
    return columns_of_tile(p) > 8 ? launch_product<D, 4, true>(p, path, s)
                                  : launch_product<D, 1, true>(p, path, s);
}

} // namespace gqmm

#endif
