// SPDX-License-Identifier: MIT
// Launches of single.cuh: every row tile has one block and every step of K one warp, and two blocks
// share a multiprocessor.
#ifndef TESTS_CUDA_SINGLE_PLANS_H
#define TESTS_CUDA_SINGLE_PLANS_H

#include "kernel/cuda/single.cuh"

using namespace gqmm;

template <class D>
static bool check_single_plan(gqmm_cuda_product p, int path, bool (*fail)(const char *, ...))
{
    single_plan plan;
    p.n_x = 1;
    p.w.aligned = true;
    if (!has_single<D> || !single_fits<D>(&plan, &p, path))
        return true;
    const int steps = (int)(p.k / of_256<D>::step), share = 1 << plan.k_bits;
    const int most = plan.each + (plan.more > 0), groups = SINGLE_WARPS / share;
    const int ring = SINGLE_WARPS * plan.stages * ROWS * row_pitch<of_256<D>>();
    const int sums = most * share * ROWS * (int)sizeof(float), all = (int)(p.n / ROWS * p.n_pairs);
    if (plan.each * plan.blocks + plan.more != all || plan.more >= plan.blocks)
        return fail("%d and %d row tiles for %d blocks", plan.each, plan.more, plan.blocks);
    if (most > SINGLE_TILES || share > SINGLE_WARPS || share > steps || groups < 1 ||
        plan.stages < 1 || plan.stages > 4)
        return fail("%d row tiles, %d warps share K of %d, %d stages", most, share, steps,
                    plan.stages);
    const int memory = path == GQMM_CUDA_SM90 ? 227 : 99; // KB, of which 1 is the driver's
    const int fixed = SINGLE_TILES * (int)(sizeof(int64_t) + sizeof(float));
    if (plan.bytes < ring + sums ||
        (path == GQMM_CUDA_SM90 && 2 * (plan.bytes + fixed + 1024) > memory * 1024) ||
        plan.bytes + fixed + 1024 > memory * 1024)
        return fail("%d bytes for %d stages of %d row tiles", plan.bytes, plan.stages, most);
    for (int tile = 0; tile < all; tile++)
        if ((int)(((float)tile + 0.5f) * plan.pairs_of_row) != tile / plan.row_tiles)
            return fail("row tile %d of %d each", tile, plan.row_tiles);
    return true;
}

#endif
