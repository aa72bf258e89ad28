// SPDX-License-Identifier: MIT
// Launches of small.cuh and small_low.cuh: every row tile has one block and every step of K one
// warp, and two blocks fit where they are to share a multiprocessor.
#ifndef TESTS_CUDA_SMALL_PLANS_H
#define TESTS_CUDA_SMALL_PLANS_H

#include "kernel/cuda/small_low.cuh"

using namespace gqmm;

template <class L>
static bool check_small_plan(const gqmm_cuda_product &p, int warps, bool (*fail)(const char *, ...))
{
    const small_plan plan = plan_small<L>(&p, warps);
    const int steps = (int)(p.k / HELD), share = 1 << plan.k_bits, blocks = multiprocessors();
    const int most = plan.each + (plan.more > 0), groups = warps / share;
    const int ring = warps * plan.stages * L::stage_bytes, columns = 1 << plan.column_bits;
    const int sums = most * share * ROWS * (columns < 2 ? 2 : columns) * (int)sizeof(float);
    if (plan.each * blocks + plan.more != (int)(p.n / ROWS * p.n_pairs) || plan.more >= blocks)
        return fail("%d and %d row tiles for %d blocks", plan.each, plan.more, blocks);
    if (plan.warps != warps || share > warps || share > steps || plan.stages < 2 ||
        plan.stages > 4 || columns < p.m || columns > 8)
        return fail("%d warps, %d share K of %d, %d stages, %d columns", plan.warps, share, steps,
                    plan.stages, columns);
    if (plan.todo * share * groups < most * steps || plan.bytes < ring + sums)
        return fail("%d steps of a warp, %d bytes", plan.todo, plan.bytes);
    for (int tile = 0; tile < plan.row_tiles * (int)p.n_pairs; tile++)
        if ((int)(((float)tile + 0.5f) * plan.pairs_of_row) != tile / plan.row_tiles)
            return fail("row tile %d of %d each", tile, plan.row_tiles);
    const small_plan best = best_small<L>(&p);
    return best.warps == 16 || 2 * (best.bytes + SMALL_TILES * 8 + 1024) <= 227 * 1024 ||
           fail("%d bytes for each of two blocks", best.bytes);
}

static bool check_small_plans(const direct_lanes<> *, const gqmm_cuda_product &,
                              bool (*)(const char *, ...))
{
    return true;
}

template <class L, class... M>
static bool check_small_plans(const direct_lanes<L, M...> *, const gqmm_cuda_product &p,
                              bool (*fail)(const char *, ...))
{
    const direct_lanes<M...> *rest = NULL;
    const bool fits = p.k % HELD == 0 && p.k <= SMALL_K && p.n % ROWS == 0 && p.m <= 8 &&
                      p.n_pairs <= SMALL_PAIRS &&
                      p.n * p.n_pairs <= (int64_t)SMALL_TILES * ROWS * multiprocessors();
    return !fits || (check_small_plan<L>(p, 8, fail) && check_small_plan<L>(p, 16, fail) &&
                     check_small_plans(rest, p, fail));
}

// Two to eight rows of one matrix come, and no other format's two pairs but those of a few.
template <class D>
static bool check_small_low_plan(gqmm_cuda_product p, int path, bool (*fail)(const char *, ...))
{
    if constexpr (has_small_low<D>) {
        typedef small_lane<D> L;
        small_plan plan;
        p.n_x = p.slots = 1;
        p.w.aligned = true;
        p.w.group = 64;
        p.w.scale_type = GQMM_BF16;
        for (int i = 0; i < 3; i++)
            p.w.row_stride[i] = 2 * p.k;
        const bool two = small_takes_pairs<D> && p.rhs && p.n_pairs == 2 && p.m == 1;
        const int most = SMALL_TILES * ROWS * (multiprocessors() / (two ? 2 : 1));
        const bool wanted = path == GQMM_CUDA_SM90 && p.x_type == GQMM_BF16 && !p.up.plane[0] &&
                            (two || (p.n_pairs == 1 && p.m > 1 && p.m <= 8)) && p.n % ROWS == 0 &&
                            p.n <= most && p.k <= 16 * L::STEP && p.k % D::block == 0;
        if (small_low_fits<D>(&plan, &p, path) != wanted)
            return fail("sm_%d: [%d, %d], %d rows of %d pairs", path, (int)p.n, (int)p.k, (int)p.m,
                        (int)p.n_pairs);
        if (!wanted)
            return true;
        const int share = 1 << plan.k_bits, tiles = plan.each + (plan.more > 0);
        const int ring = plan.warps * plan.stages * L::stage_bytes;
        const int sums = tiles * share * ROWS * (p.m < 2 ? 2 : 1 << plan.column_bits) * 4;
        const int bytes = plan.bytes + SMALL_TILES * (int)sizeof(int64_t) + 1024;
        if (plan.each * plan.blocks + plan.more != plan.row_tiles || plan.more >= plan.blocks ||
            plan.blocks * p.n_pairs > multiprocessors() || tiles > SMALL_TILES)
            return fail("%d and %d row tiles for %d blocks", plan.each, plan.more, plan.blocks);
        if (share > plan.warps || share * L::STEP < p.k || plan.stages < 2 ||
            plan.bytes < ring + sums || bytes * (16 / plan.warps) > 227 * 1024)
            return fail("%d of %d warps share K of %d, %d stages, %d bytes", share, plan.warps,
                        (int)p.k, plan.stages, plan.bytes);
    }
    return true;
}

#endif
