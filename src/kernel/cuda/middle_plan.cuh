// SPDX-License-Identifier: MIT
// The host's side of the middle product: which products it takes, how their work is shared out, and
// the sizes of its rings.
#ifndef GQMM_KERNEL_CUDA_MIDDLE_PLAN_CUH
#define GQMM_KERNEL_CUDA_MIDDLE_PLAN_CUH

#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/middle_blocks.cuh"
#include "kernel/cuda/middle_made.cuh"

#include <cuda.h>

namespace gqmm
{
namespace middle_product
{

constexpr int PART = 64, PARTS = STEP / PART;      // numbers along k of a stage of activations
constexpr int MOST_CLUSTER = 8;                    // blocks
constexpr int MOST_ROWS = 256;                     // that one copy brings
constexpr int MOST_WEIGHTS = 8, MOST_COLUMNS = 32; // stages
constexpr int SHARED = 227 * 1024, RESERVED = 1024, BARRIERS = 1024;

struct middle_args {
    CUtensorMap w, x;
    scale_planes scales;
    void *y;
    int64_t y_row, n;
    int m, y_type, early;
    int steps, cluster, groups, row_blocks;
    int split; // 0, 1: 2^this times `groups` share a step
    int weight_stages, column_stages;
    int weights_at, scales_at; // in shared memory, behind columns
    int bytes;                 // of shared memory
    int whole_y;               // two outputs are 4 bytes, exist together, are aligned
    int whole_16;              // eight are 16 bytes so
    int sums_at;               // 0: where stages are
    const float *global;       // see gqmm_cuda_matrix
};

// Warpgroups of a block, at most, by the registers that sums and operands need.
template <class W> GQMM_HD constexpr int most_groups(int n)
{
    if (W::ordered)
        return n > 64 ? 2 : 4;
    return n > 128 ? 2 : n > 64 ? 3 : n > 32 ? 4 : 6;
}

// Threads beside them: a warp, or a warpgroup that leaves its registers to the others.
GQMM_HD constexpr int bringers(int n)
{
    return n > 128 ? 128 : 32;
}

// And those who bring activations into the decoder's order.
template <class W> GQMM_HD constexpr int orderers(int n)
{
    return !W::ordered ? 0 : n > 64 ? 128 : 64;
}

// What a launch takes.
struct middle_plan {
    int width;   // of a tile: 32, 64, 128, 256
    int groups;  // of a block, that have rows of their own
    int split;   // 0, 1: 2^this times as many share steps
    int cluster; // blocks that share rows
    int blocks;  // of a multiprocessor
};

// Columns of one matrix as rows of x and y.
struct middle_rows {
    int64_t m, x_row, y_row;
};

inline middle_rows rows_of(const gqmm_cuda_product *p)
{
    if (p->n_pairs == 1)
        return {p->m, p->x_row, p->y_row};
    return {p->m == 1 && p->slots == 1 ? p->n_pairs : 0, p->x_mat, p->y_pair};
}

// What a plan takes of shared memory: stages beside scales and, at least when all are read, sums.
struct middle_memory {
    int scales, weights, columns; // the latter of a stage
    int sums;

    int least(int most_steps) const
    {
        const int stages = (most_steps < 2 ? 1 : 2) * weights + PARTS * columns;
        return stages + scales > sums ? stages + scales : sums;
    }
};

inline int room_of(int blocks)
{
    return (SHARED + RESERVED) / blocks - RESERVED - BARRIERS - 1024;
}

inline int parts_in(int n, int size)
{
    return (n + size - 1) / size;
}

// Sets the scales' pitch. Rings of columns have whole steps, whose stages follow each other; and so
// halves of a step never wait for a stage that the other one had before.
template <class W> middle_memory memory_of(scale_planes *s, const middle_plan &plan, int most_steps)
{
    const int rows = plan.groups * 64, shares = plan.cluster << plan.split;
    s->pitch = (most_steps * s->step_bytes / 4 | 1) * 4;
    return {parts_in(W::scale_bytes(*s, rows, plan.split), 16) * 16, rows * W::row_bytes,
            plan.width * PART * 2,
            (shares * 2048 + 1024) * parts_in(plan.width / 8, shares) * plan.groups << plan.split};
}

template <class W> bool has_room(scale_planes s, const middle_plan &plan, int steps)
{
    const int most = parts_in(steps, plan.cluster);
    return memory_of<W>(&s, plan, most).least(most) <= room_of(plan.blocks);
}

// Stages of both rings in the shared memory that there is; the plan is one that has room. Sums that
// blocks share lie apart where rings stay deep: then nobody waits until all have read their stages.
template <class W> void lay_out(middle_args *a, const middle_plan &plan)
{
    const int most = parts_in(a->steps, plan.cluster);
    const middle_memory mem = memory_of<W>(&a->scales, plan, most);
    const int all = room_of(plan.blocks) - mem.scales, shared = plan.cluster << plan.split > 1;
    const int good = (most < 3 ? most : 3) * mem.weights + 2 * PARTS * mem.columns;
    const bool apart = shared && all - mem.sums >= good;
    const int room = apart ? all - mem.sums : all;
    int w = most < 2 ? most : 2, c = PARTS;
    for (bool more = true; more;) {
        const int left = room - w * mem.weights - c * mem.columns;
        more = false;
        if (w < most && w < MOST_WEIGHTS && PARTS * w <= c + PARTS && left >= mem.weights)
            w++, more = true;
        else if (c < PARTS * w && c + PARTS <= MOST_COLUMNS && left >= PARTS * mem.columns)
            c += PARTS, more = true;
    }
    a->weight_stages = w;
    a->column_stages = c;
    a->weights_at = c * mem.columns;
    a->scales_at = a->weights_at + w * mem.weights;
    const int end = a->scales_at + mem.scales;
    a->sums_at = apart ? end : 0;
    a->bytes = BARRIERS + 1024 + (apart ? end + mem.sums : end > mem.sums ? end : mem.sums);
}

template <class W> scale_planes scales_of(const gqmm_cuda_product *p)
{
    scale_planes s = {};
    for (int i = 0; i < 2; i++) {
        s.plane[i] = p->w.plane[1 + i] + p->expert * p->w.expert_stride[1 + i];
        s.row[i] = p->w.row_stride[1 + i];
    }
    const format_args f = {p->w.group, p->w.scale_type};
    s.shift = p->w.group >> 6;
    s.bytes = (int)W::decoder::bytes(1, p->k, f);
    s.step_bytes = (int)W::decoder::bytes(1, STEP, f);
    s.args = f;
    return s;
}

// ---- which plan

constexpr int MIDDLE_FROM = 16; // columns
constexpr int MIDDLE_K = 1 << 16;

// Of `all` multiprocessors those that clusters of `n` blocks reach: they lie within parts of the
// chip that are no multiples of them.
inline int reached(int all, int n)
{
    return n <= 2 ? all : n <= 5 ? all * 9 / 11 : all * 25 / 33;
}

// Blocks of a multiprocessor, 1 or 2: a warp has the registers that `width` wants, a quarter of the
// warps has a quarter of the registers.
template <class W> int resident(const middle_plan &plan)
{
    const int registers = plan.width == 32   ? W::ordered ? 80 : 72
                          : plan.width == 64 ? 96
                          : plan.width > 128 ? 240
                                             : 128;
    const int warps = (4 * plan.groups << plan.split) + 1 + orderers<W>(plan.width) / 32;
    return (2 * warps + 3) / 4 * registers <= 512 ? 2 : 1;
}

// Microseconds on an H200, about: what a launch takes, that warps wait for themselves, matrix
// instructions, bytes, room for the next launch's blocks, and sums that change blocks. The numbers
// follow times of four matrices in three formats, or where columns are brought into order in five.
template <class W> double cost_of(const middle_plan &plan, int there, int n, int m, int all_steps)
{
    const bool wide = plan.width > 64;
    const int steps = parts_in(all_steps, plan.cluster);
    const int blocks = parts_in(n, plan.groups * 64) * plan.cluster * parts_in(m, plan.width);
    const int busiest = parts_in(blocks, reached(there, plan.cluster)); // its blocks
    const int waves = parts_in(busiest, plan.blocks), together = parts_in(busiest, waves);
    // Operands of 32 along k that a warp makes, and as many of all warpgroups meanwhile.
    const double turns = (double)waves * (steps * (STEP / 32) >> plan.split);
    const double all = turns * (together * plan.groups << plan.split);
    const double bytes =
        (double)busiest * steps * (plan.groups * 64 * W::row_bytes + plan.width * STEP * 2);
    const double made = W::most_split == 0 ? wide ? 0.02 : 0.045 : 0.0; // by a decoder
    // Blocks of 64 rows took 1 to 1.7 us more for 96 columns than for 128; why is not known.
    const double part = made > 0 && wide && plan.groups == 1 && m % plan.width ? 1.3 : 0.0;
    if (plan.width > 128)
        return 1.8 + waves * (4.4 + 2.17 * steps);
    if (W::ordered)
        return 3.3 + 0.005 * turns + 0.055 * all + 2e-6 * bytes +
               (plan.cluster > 2 ? 0.01 * plan.cluster : 0.0) +
               (plan.cluster > 1 ? 0.13 * plan.groups : 0.0);
    return wide ? 1.8 + part + (plan.cluster << plan.split > 1 ? 3.3 : 2.4) * waves + 0.02 * turns +
                      (0.07 + made) * all + 2e-6 * bytes +
                      (plan.cluster > 1 ? 0.75 * plan.groups : 0.0)
                : 3.3 * waves + 0.005 * turns + (0.055 + made) * all + 6.9e-6 * bytes +
                      (together < plan.blocks ? 0.0 : 1.4) +
                      (plan.cluster > 2 ? 0.1 * plan.cluster : 0.0);
}

// The best plan of tiles of `width`, if it is better than *best of cost *least or the first.
template <class W>
void plan_width(middle_plan *best, double *least, const gqmm_cuda_product *p, int width)
{
    const int m = (int)rows_of(p).m, n = (int)p->n, steps = (int)((p->k + STEP - 1) / STEP);
    const int there = multiprocessors();
    const scale_planes s = scales_of<W>(p);
    const bool widest = width > 128; // has one form
    for (int split = 0; split <= (widest ? 0 : W::most_split); split++)
        for (int groups = widest ? 2 : 1;
             groups <= MOST_ROWS / 64 && groups << split <= most_groups<W>(width); groups++)
            for (int cluster = 1; cluster <= (widest ? 1 : MOST_CLUSTER) && cluster <= steps;
                 cluster++) {
                middle_plan plan = {width, groups, split, cluster, 1};
                plan.blocks = resident<W>(plan);
                if (best->width && cost_of<W>(plan, there, n, m, steps) >= *least)
                    continue;
                if (!has_room<W>(s, plan, steps))
                    plan.blocks = 1;
                const double cost = cost_of<W>(plan, there, n, m, steps);
                if ((best->width && cost >= *least) || !has_room<W>(s, plan, steps))
                    continue;
                *least = cost;
                *best = plan;
            }
}

// False: no plan has room; up to MIDDLE_K there is one.
template <class W> bool plan_for(middle_plan *best, const gqmm_cuda_product *p)
{
    const int m = (int)rows_of(p).m;
    double least = 0;
    *best = {};
    for (int width = W::least_width; width <= W::most_width; width *= 2) {
        if (width >= 128 || width == W::most_width || m <= 2 * width)
            plan_width<W>(best, &least, p, width);
        if (m <= width)
            break;
    }
    for (int width = 64; width >= W::least_width && !best->width; width /= 2)
        plan_width<W>(best, &least, p, width);
    return best->width > 0;
}

// By sizes, strides and where weights are.
template <class W> bool fits(const gqmm_cuda_product *p)
{
    const middle_rows r = rows_of(p);
    return p->x_type == GQMM_BF16 && !p->rhs && !p->lhs && p->expert >= 0 && !p->list.tiles &&
           !p->up.plane[0] && !p->x_order && !p->y_order && r.m >= MIDDLE_FROM &&
           r.m <= W::most_columns && r.x_row >= p->k && r.x_row % 8 == 0 && p->k > 0 &&
           p->k % 32 == 0 && p->k <= MIDDLE_K && p->n > 0 && p->n <= 1 << 30 && p->w.aligned &&
           p->w.row_stride[0] % 16 == 0 && p->w.row_stride[0] >= W::bytes(p->k) && W::fits(p->w);
}

} // namespace middle_product
} // namespace gqmm

#endif
