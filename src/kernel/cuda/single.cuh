// SPDX-License-Identifier: MIT
// The product of bf16 activations with one column for each of a few pairs, of any quantised format.
//
// The arithmetic is that of pieces.cuh. As in small.cuh the warps of a block share K and hold their
// activations in registers, and weights are asked for before the launch ahead has ended.
#ifndef GQMM_KERNEL_CUDA_SINGLE_CUH
#define GQMM_KERNEL_CUDA_SINGLE_CUH

#include "kernel/cuda/few.cuh"
#include "kernel/cuda/pieces.cuh"
#include "kernel/cuda/small_low.cuh"

namespace gqmm
{

constexpr int SINGLE_WARPS = 8, SINGLE_TILES = 32; // row tiles of a block: a lane knows of each

// Host's choices for a launch.
struct single_plan {
    int blocks;         // of eight warps, one or two to a multiprocessor
    int k_bits;         // 2^this warps share K
    int stages;         // of a warp under way, 1 to 4
    int row_tiles;      // of a pair
    float pairs_of_row; // 1 / row_tiles
    int each, more;     // row tiles of a block; the first `more` blocks have one more
    int bytes;          // of shared memory
};

template <class S> constexpr int single_stage = ROWS *row_pitch<S>();

template <class S>
__global__ void __launch_bounds__(SINGLE_WARPS * 32, 2)
    single_kernel(const __grid_constant__ gqmm_cuda_product p,
                  const __grid_constant__ single_plan plan)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ int64_t y[SINGLE_TILES];
    __shared__ float factor[SINGLE_TILES];
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, g = lane >> 2,
              t = lane & 3;
    const int share = 1 << plan.k_bits, mine = warp & (share - 1), group = warp >> plan.k_bits;
    const int groups = SINGLE_WARPS >> plan.k_bits, k = (int)p.k, steps = k / S::step;
    const int block = (int)blockIdx.x, n = plan.each + (block < plan.more);
    const int first = block * plan.each + (block < plan.more ? block : plan.more);
    const format_args f = {p.w.group, p.w.scale_type};
    int ring = warp * (plan.stages * single_stage<S>); // in shared memory
    keep(ring);
    float *sums = (float *)(shared + SINGLE_WARPS * plan.stages * single_stage<S>);
    const bool early = p.ids_early;

    // Lane i knows row tile i of the block; behind the last one it knows the first.
    const int all = plan.row_tiles * (int)p.n_pairs, behind = first + (lane < n ? lane : 0);
    const int tile = behind < all ? behind : all - 1;
    const int pair = p.n_pairs > 1 ? (int)(((float)tile + 0.5f) * plan.pairs_of_row) : 0;
    const int row = (tile - pair * plan.row_tiles) * ROWS;
    int64_t own_x = p.lhs ? 0 : matrix_of(p, pair) * p.x_mat;
    const uint16_t *x_step = (const uint16_t *)p.x + mine * S::step;
    piece_x<typename S::base, S::step> x;
    uint32_t at[S::step / 32][4]; // for many row tiles
    const auto begin = [&] {      // what the launch ahead may have written is read from here on
        wait_for_previous();
        let_next_start();
        if (p.lhs) {
            const int matrix = matrix_of(p, pair);
            own_x = (matrix < 0 ? 0 : matrix) * p.x_mat;
        }
        x.load(x_step + __shfl_sync(~0u, own_x, group), S::step, g, t);
    };
    row_block b = {};
    b.count = ROWS;
#pragma unroll
    for (int i = 0; i < S::planes; i++) {
        b.first[i] = p.w.plane[i];
        b.stride[i] = p.w.row_stride[i];
    }
    loader<S> weights;
    weights.set(b, k, p.w.aligned, true, lane, f);
    if (!early)
        begin();
    const int expert = lane < n ? expert_of(p, pair) : -1;
    const uint32_t present = __ballot_sync(~0u, expert >= 0);
    int64_t from[S::planes]; // from the first row of expert 0
#pragma unroll
    for (int i = 0; i < S::planes; i++) {
        from[i] = expert * p.w.expert_stride[i] + row * p.w.row_stride[i];
        keep(from[i]);
    }
    int ask_tile = group, ask_step = mine;
    const auto ask = [&](int slot) {
        if (ask_step < steps && present >> ask_tile & 1) {
            int64_t by[3];
#pragma unroll
            for (int i = 0; i < S::planes; i++)
                by[i] = __shfl_sync(~0u, from[i], ask_tile);
            loader<S> there = weights;
            there.move(by);
            there.bring(shared + ring + slot * single_stage<S>, ask_step, k, p.w.aligned,
                        4 * p.w.row_stride[0], 8 * p.w.row_stride[0], lane, f);
        }
        copies_commit();
        ask_tile += groups;
        if (ask_tile >= n) {
            ask_tile = group;
            ask_step += share;
        }
    };
#pragma unroll 1
    for (int i = 0; i < plan.stages; i++)
        ask(i);
    if (early)
        begin();
    if (warp == 0 && lane < n) {
        y[lane] = pair * p.y_pair + row;
        factor[lane] = expert < 0 ? 0.0f : global_of(p.w, expert);
    }

    int slot = 0;
#pragma unroll 1
    for (int s = mine; s - mine < steps; s += share, x_step += share * S::step) {
        int codes_at[2], scales_at[2]; // of rows g and g + 8, which lie alike in all row tiles
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const step_row r = weights.at(shared + ring, 1 + h, lane, s);
            codes_at[h] = (int)(r.p[0] - shared);
            scales_at[h] = (int)(r.p[1] - shared);
            keep(codes_at[h]);
            if (S::planes > 1)
                keep(scales_at[h]);
        }
        const auto row_at = [&](int h) {
            const uint8_t *stage = shared + slot * single_stage<S>, *scales = stage + scales_at[h];
            return step_row{{stage + codes_at[h], scales, scales + scale_pitch<S>()}};
        };
        float *to = sums + warp * ROWS + g + 8 * (t & 1);
        int held_pair = -1;
#pragma unroll 1
        for (int i = group; i < n; i += groups, to += SINGLE_WARPS * ROWS) {
            const bool some = s < steps && present >> i & 1;
            const int now = p.n_pairs > 1 ? __shfl_sync(~0u, pair, i) : 0;
            if (some && now != held_pair) {
                held_pair = now;
                if (p.n_pairs > 1 && (s != mine || i != group))
                    x.load(x_step + __shfl_sync(~0u, own_x, i), S::step, g, t);
                x.prepare(g, t);
#pragma unroll
                for (int j = 0; j < S::step / 32; j++)
                    x.operand(at[j], j, g, t);
                if (p.n_pairs == 1 && s + share < steps)
                    x.load(x_step + share * S::step + __shfl_sync(~0u, own_x, 0), S::step, g, t);
            }
            float acc[2] = {};
            few_wait<1>(plan.stages);
            if (some)
                x.template multiply<true, true>(acc, row_at(0), row_at(1), t, f,
                                                [&](uint32_t(&v)[4], int j) {
#pragma unroll
                                                    for (int e = 0; e < 4; e++)
                                                        v[e] = at[j][e];
                                                });
            __syncwarp();
            ask(slot);
            slot = slot + 1 == plan.stages ? 0 : slot + 1;
            if (!some)
                continue;
            add_quad(acc);
            if (t < 2)
                *to = fmaf(t ? acc[1] : acc[0], x.post, s < share ? 0.0f : *to);
        }
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < n * ROWS; i += SINGLE_WARPS * 32) {
        const int u = i / ROWS, r = i % ROWS;
        const float *parts = sums + (u << plan.k_bits) * ROWS + r;
        float sum = 0.0f;
#pragma unroll 4
        for (int part = 0; part < share; part++)
            sum += parts[part * ROWS];
        store_number(p.y, y[u] + r, p.y_type, factor[u] == 0.0f ? 0.0f : factor[u] * sum);
    }
}

// ---------------------------------------------------------------- host

template <class S> single_plan plan_single(const gqmm_cuda_product *p, int path)
{
    const int half = (path == GQMM_CUDA_SM90 ? 110 : 47) * 1024; // two blocks share the memory
    single_plan s = {};
    s.row_tiles = (int)(p->n / ROWS);
    s.pairs_of_row = 1.0f / (float)s.row_tiles;
    const int all = s.row_tiles * (int)p->n_pairs, steps = (int)(p->k / S::step);
    // One block for each, so that the next launch has room to ask for its weights, while a warp has
    // eight steps or fewer.
    const bool two = (int64_t)all * steps > 8 * SINGLE_WARPS * multiprocessors();
    s.blocks = multiprocessors() << two;
    s.each = all / s.blocks;
    s.more = all % s.blocks;
    const int most = s.each + (s.more > 0);
    const int todo = best_share(&s.k_bits, SINGLE_WARPS, most, steps);
    const int sums = (most << s.k_bits) * ROWS * (int)sizeof(float);
    s.stages = todo < 4 ? todo : 4;
    while (s.stages > 1 && SINGLE_WARPS * s.stages * single_stage<S> + sums > half)
        s.stages--;
    s.bytes = SINGLE_WARPS * s.stages * single_stage<S> + sums;
    return s;
}

// Formats whose small.cuh is better, and plain numbers, do without.
template <class D>
constexpr bool has_single =
    std::is_same<typename lanes_of<D>::list, direct_lanes<>>::value && !is_plain<D>;

// Whether rows of a plane start at multiples of `align`, and those of all experts in the same place
// of 16 bytes.
inline bool single_apart(const gqmm_cuda_matrix &w, int plane, int align)
{
    return rows_at(w, plane, align) && w.expert_stride[plane] % 16 == 0;
}

// False: not for these sizes or weights; then there may be no plan.
template <class D> bool single_fits(single_plan *plan, const gqmm_cuda_product *p, int path)
{
    if (p->x_type != GQMM_BF16 || p->list.tiles || p->up.plane[0] || p->m != 1 || p->k <= 0 ||
        p->k % of_256<D>::step != 0 || p->k > INT_MAX / 2 || p->n <= 0 || p->n % ROWS != 0 ||
        p->n_pairs < 1 || p->n_pairs > SMALL_PAIRS || p->n_x < 1 ||
        p->n > (int64_t)SINGLE_TILES * ROWS * multiprocessors() / p->n_pairs || p->x_mat % 8 != 0 ||
        (uintptr_t)p->x % 16 != 0 || !(D::loose || p->w.aligned) ||
        (D::planes == 3 && p->w.scale_type == GQMM_F32) || !single_apart(p->w, 0, D::align) ||
        (scale_bytes_of<D>::value && !single_apart(p->w, 1, 1)))
        return false;
    *plan = plan_single<of_256<D>>(p, path);
    return true;
}

template <class D> int first_product(const gqmm_cuda_product *p, int path, gqmm_stream s)
{
    if constexpr (has_small_low<D>) {
        small_plan plan;
        if (small_low_fits<D>(&plan, p, path))
            return small_low<D>(p, plan, path, s);
    }
    if constexpr (has_single<D>) {
        single_plan plan;
        if (single_fits<D>(&plan, p, path))
            return launch(single_kernel<of_256<D>>, dim3((unsigned)plan.blocks),
                          dim3(SINGLE_WARPS * 32), (size_t)plan.bytes, s, path, *p, plan);
    }
    return any_product<D>(p, path, s);
}

} // namespace gqmm

#endif
