// SPDX-License-Identifier: MIT
// The same as small.cuh for layouts that have numbers of their own, of direct_low.cuh and
// direct_fp4.cuh: a block has row tiles of one pair, each of its warps one step of K of them and
// that step's activations in registers. Where eight warps have all of K, the next launch's block
// fits beside this one, and its weights arrive while this one multiplies.
#ifndef GQMM_KERNEL_CUDA_SMALL_LOW_CUH
#define GQMM_KERNEL_CUDA_SMALL_LOW_CUH

#include "kernel/cuda/small.cuh"

namespace gqmm
{

template <class L, int WARPS>
__global__ void __launch_bounds__(WARPS * 32, 16 / WARPS)
    small_low_kernel(const __grid_constant__ gqmm_cuda_product p,
                     const __grid_constant__ small_plan plan)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) // elsewhere nobody launches it
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ int64_t y[SMALL_TILES];
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, g = lane >> 2,
              t = lane & 3;
    const int share = 1 << plan.k_bits, mine = warp & (share - 1), group = warp >> plan.k_bits;
    const int groups = WARPS >> plan.k_bits, left_of_k = (int)p.k - mine * L::STEP;
    const int pair = (int)blockIdx.x / plan.blocks, b = (int)blockIdx.x - pair * plan.blocks;
    const int n = plan.each + (b < plan.more);
    const int first = b * plan.each + (b < plan.more ? b : plan.more);
    int ring = (int)shared_address(shared) + warp * (plan.stages * L::stage_bytes);
    keep(ring);
    const int end = ring + plan.stages * L::stage_bytes;
    float4 *sums = (float4 *)(shared + WARPS * plan.stages * L::stage_bytes);

    typename L::numbers x;
    typename L::rows rows;
    const typename L::places places(lane);
    L::begin(rows, x, p, mine, lane);
    const auto begin = [&] { // what the launch ahead may have written is read from here on
        wait_for_previous();
        let_next_start();
        const int matrix = matrix_of(p, pair);
        const uint16_t *row = (const uint16_t *)p.x + matrix * p.x_mat + g * p.x_row;
        x.load(matrix < 0 || g >= (int)p.m ? NULL : row + mine * L::STEP, left_of_k, t);
    };
    if (warp == 0 && lane < n)
        y[lane] = pair * p.y_pair + (first + lane) * ROWS;
    if (!p.ids_early)
        begin();
    const int expert = expert_of(p, pair);
    const bool some = expert >= 0 && left_of_k > 0;
    int left = some ? n - group : 0; // row tiles to ask for
    int64_t by[L::planes], second[L::planes];
#    pragma unroll
    for (int i = 0; i < L::planes; i++) {
        by[i] = expert * p.w.expert_stride[i] + mine * L::bytes(i);
        second[i] = 8 * p.w.row_stride[i];
    }
    rows.set(p.w, (first + group) * ROWS, second, lane);
    rows.move(by);
#    pragma unroll
    for (int i = 0; i < L::planes; i++)
        by[i] = groups * ROWS * p.w.row_stride[i];
    const auto ask = [&](int stage) {
        if (left > 0) {
            rows.bring((uint32_t)stage, places, lane);
            rows.move(by);
        }
        copies_commit();
        left -= groups;
    };
#    pragma unroll 1
    for (int i = ring; i < end; i += L::stage_bytes)
        ask(i);
    if (p.ids_early)
        begin();

    x.find_power();
    x.prepare(g, t);
    const float2 post = x.post(t);
    const int pairs = small_pairs(plan);
    float4 *to = sums + (warp * 8 + g) * pairs + t;
    int stage = ring;
#    pragma unroll 1
    for (int i = group; i < n; i += groups, to += WARPS * 8 * pairs) {
        float acc[4] = {};
        few_wait<2>(plan.stages);
        if (some)
            L::template multiply<1>(acc, (const uint8_t *)__cvta_shared_to_generic(stage), x, g, t);
        __syncwarp();
        ask(stage);
        stage = stage + L::stage_bytes == end ? ring : stage + L::stage_bytes;
        if (t < pairs)
            *to = make_float4(acc[0] * post.x, acc[1] * post.y, acc[2] * post.x, acc[3] * post.y);
    }
    __syncthreads();
    store_small(p, plan, sums, y, n);
#endif
}

// ---------------------------------------------------------------- host

template <class D>
using small_lane = std::conditional_t<has_fp4<D>, lane_fp4<D>, lane_low<D, 8, true>>;

// mxfp4's steps of 192 leave too many of 2^n warps idle.
template <class D>
constexpr bool has_small_low =
    (has_own<D> && !std::is_same<D, dec_mxfp4>::value) || std::is_same<D, dec_q5_k>::value;

// Formats that take two pairs of one row each; others leave them to single.cuh.
template <class D> constexpr bool small_takes_pairs = false;
template <> constexpr bool small_takes_pairs<dec_affine2> = true;
template <> constexpr bool small_takes_pairs<dec_affine3> = true;

// Shared memory of a block.
constexpr int small_low_room(int warps)
{
    return STAY_MEMORY * warps / 8;
}

// For eight warps or 16.
template <class L> small_plan plan_small_low(const gqmm_cuda_product *p, int warps)
{
    const int blocks = multiprocessors() / (int)p->n_pairs;
    small_plan s = share_small(p, warps, 1, blocks);
    s.blocks = blocks;
    while (L::STEP << s.k_bits < p->k)
        s.k_bits++;
    s.todo = (most_tiles(s) - 1) / (warps >> s.k_bits) + 1;
    s.stages = s.todo < 2 ? 2 : s.todo > 4 ? 4 : s.todo;
    while (s.stages > 2 && small_bytes<L>(s) > small_low_room(warps))
        s.stages--;
    s.bytes = small_bytes<L>(s);
    return s;
}

// False: not for these sizes or weights; then there may be no plan.
template <class D> bool small_low_fits(small_plan *plan, const gqmm_cuda_product *p, int path)
{
    typedef small_lane<D> L;
    const bool one = p->n_pairs == 1 && p->m > 1 && p->m <= 8;
    if (path != GQMM_CUDA_SM90 || p->x_type != GQMM_BF16 || p->list.tiles || p->up.plane[0] ||
        !(one || (small_takes_pairs<D> && p->rhs && p->n_pairs == 2 && p->m == 1)) || p->n_x < 1 ||
        p->k <= 0 || p->k % 32 != 0 || p->k > 16 * L::STEP || p->n <= 0 || p->n % ROWS != 0 ||
        p->n > (int64_t)SMALL_TILES * ROWS * (multiprocessors() / p->n_pairs) || !x_aligned(p) ||
        !L::fits(p))
        return false;
    *plan = plan_small_low<L>(p, p->k <= 8 * L::STEP ? 8 : 16);
    return plan->bytes <= small_low_room(plan->warps);
}

template <class D>
int small_low(const gqmm_cuda_product *p, const small_plan &plan, int path, gqmm_stream s)
{
    typedef small_lane<D> L;
    return launch(plan.warps == 8 ? small_low_kernel<L, 8> : small_low_kernel<L, 16>,
                  dim3((unsigned)(plan.blocks * (int)p->n_pairs)), dim3((unsigned)plan.warps * 32),
                  (size_t)plan.bytes, s, path, *p, plan);
}

} // namespace gqmm

#endif
