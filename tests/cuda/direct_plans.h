// SPDX-License-Identifier: MIT
// Launches of direct.cuh and direct_stay.cuh: K is shared so that every warp has some, and what a
// block wants of shared memory is there on any device of the path.
#ifndef TESTS_CUDA_DIRECT_PLANS_H
#define TESTS_CUDA_DIRECT_PLANS_H

#include "kernel/cuda/direct.cuh"

using namespace gqmm;

template <class L>
static bool check_direct_plan(const gqmm_cuda_product &p, int path, bool (*fail)(const char *, ...))
{
    const direct_plan plan = plan_direct<L>(&p, path, direct_steps(&p));
    const int steps = (int)(p.k / 256), share = 1 << plan.k_bits;
    const int ring = plan.warps * (plan.stages * L::stage_bytes + plan.round * 32 * 16);
    const int own = (int)(2 * sizeof(column_set<DIRECT_COLUMNS>) + sizeof(direct_pairs)) + 1024;
    const int most = (path == GQMM_CUDA_SM90 ? 227 : 99) * 1024 - 1024; // the driver's own
    if (share > plan.warps || (steps % share && steps < 8 * share) || plan.warps > DIRECT_WARPS ||
        (share > 1) != (plan.round > 0) || plan.stages < 2 || plan.stages > 4)
        return fail("sm_%d: %d warps, %d share K of %d, rounds of %d, %d stages", path, plan.warps,
                    share, steps, plan.round, plan.stages);
    return (plan.bytes == plan.x_bytes + ring &&
            (plan.bytes + own <= most || plan.bytes > direct_memory(path) - 4096) &&
            (plan.blocks == 1 || 2 * (plan.bytes + own) <= most + 1024)) ||
           fail("sm_%d: %d bytes for each of %d blocks", path, plan.bytes, plan.blocks);
}

// Blocks follow one another from the first row tile to the last one, and none has more turns of the
// warps than what is padded gives it.
static bool check_parts(const stay_plan &plan, int tiles)
{
    const int blocks = plan.blocks.by, groups = 1 << plan.group_bits;
    const int most = (tiles * plan.padded.by / groups / blocks + 2) * groups;
    int last = 0;
    bool ok = true;
    for (int i = 0; i <= blocks; i++) {
        const int at = direct_part<int>::begin(i, tiles, plan.row_tiles.by, plan.padded,
                                               plan.group_bits, plan.blocks);
        ok = ok && at >= last && at - last <= most && (i > 0 || at == 0);
        last = at;
    }
    return ok && last == tiles * plan.row_tiles.by;
}

template <class L, bool DIGITAL>
static bool check_stay_plan(const gqmm_cuda_product &p, bool (*fail)(const char *, ...))
{
    const stay_plan plan = plan_stay<L, DIGITAL>(&p);
    for (int tiles = 0, by = plan.tiles / 5 + 1; tiles <= plan.tiles; tiles += by)
        if (!check_parts(plan, tiles))
            return fail("%d blocks of %d x %d row tiles", plan.blocks.by, tiles, plan.row_tiles.by);
    const int steps = (int)((p.k + stay_step<L> - 1) / stay_step<L>),
              ring = plan.warps * STAY_STAGES * L::stage_bytes;
    const int own = (int)(2 * sizeof(column_set<DIRECT_COLUMNS>) + sizeof(direct_pairs)) + 1024;
    return (plan.warps == steps << plan.group_bits && plan.warps <= stay_warps<L> &&
            plan.steps.by == steps &&
            plan.ring == plan.warps * stay_round<L> * (DIGITAL ? 256 : 512) &&
            plan.bytes == plan.ring + ring &&
            stay_blocks<L> * (plan.bytes + own) <=
                (227 + 1) * 1024 - (stay_blocks<L> < 2) * 1024) ||
           fail("%d warps for %d steps, %d bytes of which rings begin at %d", plan.warps, steps,
                plan.bytes, plan.ring);
}

// Of layouts with numbers of their own, in pairs and in tiles of a list.
template <class D>
static bool check_own_plan(gqmm_cuda_product p, int path, bool (*fail)(const char *, ...))
{
    if constexpr (has_own<D>) {
        typedef own_lane<D> lane;
        typedef long_lane<D> longer;
        p.w.aligned = p.up.aligned = 1;
        p.w.scale_type = p.up.scale_type = GQMM_BF16;
        for (int i = 0; i < 3; i++)
            p.w.row_stride[i] = p.up.row_stride[i] = 2 * p.k;
        const bool served = is_for_own<D>(&p, path);
        const int per_tile = p.up.plane[0] ? 8 : 16;
        const int64_t columns = p.n_pairs * p.m; // pairs of experts, or rows of one matrix
        const bool some =
            p.rhs ? p.m == 1 && columns <= DIRECT_PAIRS && (has_fp4<D> || columns >= LOW_PAIRS)
                  : p.expert >= 0 && columns > 1 && columns <= DIRECT_COLUMNS;
        const bool wanted = path == GQMM_CUDA_SM90 && p.x_type == GQMM_BF16 && some &&
                            p.n % per_tile == 0 && is_quick(&p) &&
                            p.k <= stay_warps<longer> * stay_step<longer> &&
                            (has_fp4<D> || p.k % D::block == 0);
        const bool is_short = p.k <= stay_warps<lane> * stay_step<lane>;
        return served == wanted ? !served || (is_short ? check_stay_plan<lane, false>(p, fail)
                                                       : check_stay_plan<longer, false>(p, fail))
                                : fail("sm_%d: [%d, %d] of %d pairs in its own layout: %d", path,
                                       (int)p.n, (int)p.k, (int)p.n_pairs, served);
    }
    return true;
}

static bool check_direct_plans(const direct_lanes<> *, const gqmm_cuda_product &, int,
                               bool (*)(const char *, ...))
{
    return true;
}

template <class L, class... M>
static bool check_direct_plans(const direct_lanes<L, M...> *, const gqmm_cuda_product &p, int path,
                               bool (*fail)(const char *, ...))
{
    const direct_lanes<M...> *rest = NULL;
    return (p.k % 256 || p.x_type != GQMM_BF16 ||
            (check_direct_plan<L>(p, path, fail) &&
             (!stay_fits<L>(&p, path) || check_stay_plan<L, false>(p, fail)) &&
             (!digits_fit<L>(&p, path) || check_stay_plan<L, true>(p, fail)))) &&
           check_direct_plans(rest, p, path, fail);
}

#endif
