// SPDX-License-Identifier: MIT
// The product of bf16 activations and at most eight columns of an expert, for formats of nibbles.
//
// A nibble is a bf16 number as it lies: bits v < 256 at the low end are v 2^-133, subnormal or of
// the smallest exponent, which the matrix instruction multiplies exactly and at full speed. So
// unpacking is a mask; a nibble in bits 4 to 7 counts sixteenfold, which its activation makes up
// for, and activations are 2^100 larger than they are, so that products are of ordinary size.
//
// The row tiles (16 rows of one matrix, or 8 and 8 of two) of all tiles of columns are shared out
// among the blocks, which stay. A warp brings its own steps, 256 numbers along K of a row tile, to
// shared memory, several ahead and beyond the end of its block's columns. Where there are enough
// row tiles each warp has its own; else warps share K, and their sums meet in shared memory.
#ifndef GQMM_KERNEL_CUDA_DIRECT_CUH
#define GQMM_KERNEL_CUDA_DIRECT_CUH

#include "kernel/cuda/decode_k_quants.cuh"
#include "kernel/cuda/decode_mlx.cuh"
#include "kernel/cuda/direct_q4_k.cuh"
#include "kernel/cuda/direct_stay.cuh"
#include "kernel/cuda/direct_tiles.cuh"
#include "kernel/cuda/direct_walk.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/product.cuh"
#include "kernel/cuda/sum.cuh"

namespace gqmm
{

// Host's choices for a launch.
struct direct_plan {
    int warps, blocks; // of a block; of a multiprocessor
    int k_bits;        // 2^this warps share K
    int round;         // then: row tiles of a warp between two meetings
    int stages;        // of a warp's ring, 2 to 4
    int tiles;         // of columns, at most
    int row_tiles;
    int x_bytes, bytes; // of shared memory
};

// ---------------------------------------------------------------- kernel

// The sums of K's parts, in order.
__device__ __forceinline__ void add_parts(float (&total)[4], const float4 *from, int parts,
                                          float2 times)
{
    float4 sum = from[0];
    for (int k = 1; k < parts; k++) {
        const float4 v = from[k * 32];
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    total[0] = sum.x * times.x;
    total[1] = sum.y * times.y;
    total[2] = sum.z * times.x;
    total[3] = sum.w * times.y;
}

template <class L>
__global__ void __launch_bounds__(DIRECT_THREADS)
    direct_kernel(const __grid_constant__ gqmm_cuda_product p,
                  const __grid_constant__ direct_plan plan)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ column_set<DIRECT_COLUMNS> both_columns[2];
    __shared__ direct_pairs pairs;
    __shared__ uint32_t sizes[2]; // of numbers
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, g = lane >> 2,
              t = lane & 3;
    const int share = 1 << plan.k_bits, mine = warp & (share - 1), group = warp >> plan.k_bits;
    const int groups = plan.warps >> plan.k_bits, steps = (int)(p.k / 256);
    const int per_tile = p.up.plane[0] ? 8 : 16;
    const direct_share own_share = {
        mine,    share, group, 31 - __clz(groups), (steps - mine + share - 1) >> plan.k_bits,
        per_tile};
    float4 *sums = (float4 *)(shared + plan.x_bytes); // [round][warps][32]
    uint8_t *ring =
        (uint8_t *)(sums + plan.round * blockDim.x) + warp * plan.stages * L::stage_bytes;
    const uint32_t ring_at = shared_address(ring);
    direct_asker<L, int64_t, false> weights(p, own_share, lane);

    if (!p.ids_early)
        wait_for_previous();
    const direct_columns tiles(pairs, p, plan.tiles);
    const direct_part<int64_t> part((int64_t)tiles.count * plan.row_tiles, groups);
    const int64_t end = part.end;
    int64_t at = part.at;
    if (threadIdx.x < 2)
        sizes[threadIdx.x] = 0;
    if (at < end)
        tiles.set(both_columns[0], p, (int)(at / plan.row_tiles));

    weights.at = at;
    weights.end = end;
    const auto ask = [&](int slot) {
        if (weights.left <= 0)
            weights.go_on(p, own_share, plan.row_tiles, lane, tiles);
        weights.bring(ring_at + slot * L::stage_bytes, own_share, lane);
    };
    for (int i = 0; i < plan.stages; i++)
        ask(i);
    if (p.ids_early)
        wait_for_previous();
    let_next_start();
    __syncthreads();

    int slot = 0;
    for (int b = 0; at < end; b ^= 1) {
        const direct_stretch now(at, end, plan.row_tiles);
        const column_set<DIRECT_COLUMNS> &columns = both_columns[b];
        at += now.n;
        float2 post = {};
        if (columns.expert >= 0)
            post = bring_direct<L>(shared, p, columns, sizes[b], t);
        if (at < end)
            tiles.set(both_columns[b ^ 1], p, (int)(at / plan.row_tiles));
        if (threadIdx.x == 0)
            sizes[b ^ 1] = 0;
        if (columns.expert < 0) {
            zero_rows(p, columns, (int64_t)now.first * per_tile, now.n * per_tile);
            __syncthreads();
            continue;
        }

        // The warp's row tiles are first + group, and every groups-th after.
        const int own_tiles = now.n > group ? (now.n - group + groups - 1) / groups : 0;
        const int c = g < columns.count ? g : columns.count - 1;
        const uint8_t *x = shared + c * direct_pitch(p.k) + t * 16 + mine * 512;
        const uint8_t *x_sums = shared + DIRECT_COLUMNS * direct_pitch(p.k);
        const int round = share == 1 ? own_tiles : plan.round;
        for (int i = 0, first = 0; first < now.n || i < own_tiles;) {
            const int to = i + round < own_tiles ? i + round : own_tiles;
            for (int at_round = 0; i < to; i++, at_round++) {
                float acc[1][4] = {};
                const uint8_t *x_step = x;
                for (int s = mine; s < steps; s += share, x_step += share * 512) {
                    few_wait<2>(plan.stages);
                    const typename L::operand operand(x_step, x_sums, p, c, s, t);
                    L::template multiply<1>(acc[0], ring + slot * L::stage_bytes, operand, g, t);
                    __syncwarp();
                    ask(slot);
                    slot = slot + 1 == plan.stages ? 0 : slot + 1;
                }
                if (share > 1) {
                    sums[at_round * blockDim.x + threadIdx.x] =
                        make_float4(acc[0][0], acc[0][1], acc[0][2], acc[0][3]);
                    continue;
                }
#pragma unroll
                for (int e = 0; e < 4; e++)
                    acc[0][e] *= e & 1 ? post.y : post.x;
                write<1, DIRECT_COLUMNS>(
                    acc, p, columns, (int64_t)(now.first + group + i * groups) * per_tile, lane);
            }
            if (share == 1)
                break;
            __syncthreads();
            for (int u = warp; u < round * groups && first + u < now.n; u += plan.warps) {
                float total[1][4];
                add_parts(total[0],
                          sums + u / groups * blockDim.x + (u % groups << plan.k_bits) * 32 + lane,
                          share, post);
                write<1, DIRECT_COLUMNS>(total, p, columns,
                                         (int64_t)(now.first + first + u) * per_tile, lane);
            }
            first += round * groups;
            if (first < now.n)
                __syncthreads();
        }
        __syncthreads(); // before the next columns
    }
}

// ---------------------------------------------------------------- host

// Shared memory of a multiprocessor for its blocks, 4 KB more for each than its plan counts.
constexpr int direct_memory(int path)
{
    return (path == GQMM_CUDA_SM90 ? 222 : 98) * 1024;
}

// Steps of 256 that a multiprocessor has to do, as far as is known here.
inline double direct_steps(const gqmm_cuda_product *p)
{
    const int64_t row_tiles = p->n / (p->up.plane[0] ? 8 : 16);
    return expected_tiles(p, DIRECT_COLUMNS) * (double)(row_tiles * (p->k / 256)) /
           multiprocessors();
}

// `todo` is direct_steps(); needs one step of K.
template <class L> direct_plan plan_direct(const gqmm_cuda_product *p, int path, double todo)
{
    const int steps = (int)(p->k / 256), memory = direct_memory(path);
    direct_plan plan = {};
    plan.tiles = (int)tiles_of(p, DIRECT_COLUMNS);
    plan.row_tiles = (int)(p->n / (p->up.plane[0] ? 8 : 16));
    plan.x_bytes = direct_bytes<L>(p);
    // Two small blocks share a multiprocessor, so that one reads while the other begins, where
    // activations leave them room for it.
    const bool small = plan.x_bytes + 8 * 3 * L::stage_bytes <= memory / 2 - 4096;
    plan.blocks = small ? 2 : 1;
    plan.warps = small || path != GQMM_CUDA_SM90 ? 8 : 16;
    // Warps share K where each would have less than one half of a row tile to itself.
    const double mean = todo / steps / plan.blocks; // row tiles of a block
    plan.k_bits = small ? 0 : 1;
    while (plan.warps >> plan.k_bits > 2 * mean + 1 && 2 << plan.k_bits <= plan.warps)
        plan.k_bits++;
    while (steps % (1 << plan.k_bits) != 0 && steps < 8 << plan.k_bits)
        plan.k_bits--;
    const int groups = plan.warps >> plan.k_bits;
    const int most = (int)(mean / groups) + 1;
    plan.round = plan.k_bits == 0 ? 0 : most < 4 ? most : 4;
    const auto bytes_of = [&](int n) {
        return plan.x_bytes +
               plan.warps * (plan.round * 32 * (int)sizeof(float4) + n * L::stage_bytes);
    };
    plan.stages = 4;
    while (plan.stages > 2 && bytes_of(plan.stages) > memory / plan.blocks - 4096)
        plan.stages--;
    plan.bytes = bytes_of(plan.stages);
    return plan;
}

// By sizes and weights.
template <class L> bool lanes_fit(const gqmm_cuda_product *p)
{
    const int per_tile = p->up.plane[0] ? 8 : 16;
    return p->x_type == GQMM_BF16 && p->k % 256 == 0 && p->k > 0 && p->n % per_tile == 0 &&
           p->w.aligned && (!p->up.plane[0] || p->up.aligned) && L::fits(p->w) &&
           columns_of_tile(p) <= DIRECT_COLUMNS && p->w.n_experts <= INT16_MAX &&
           (p->list.tiles || !p->rhs || p->m > 1 || p->n_pairs <= DIRECT_PAIRS);
}

// False: not for these sizes or weights, too little to do, or no room; then there may be no plan.
template <class L> bool direct_fits(direct_plan *plan, const gqmm_cuda_product *p, int path)
{
    if (!lanes_fit<L>(p))
        return false;
    const double todo = direct_steps(p);
    if (todo < L::pays_from)
        return false;
    *plan = plan_direct<L>(p, path, todo);
    return plan->bytes <= direct_memory(path) - 4096;
}

constexpr double DIGITS_FROM = 24; // steps of a multiprocessor

// Whether pairs of which few meet the same expert are taken as digits.
template <class L> bool digits_pay(const gqmm_cuda_product *p, int path)
{
    return lanes_fit<L>(p) && digits_fit<L>(p, path) && direct_steps(p) >= DIGITS_FROM;
}

template <class L>
int direct(const gqmm_cuda_product *p, const direct_plan &plan, int path, gqmm_stream s)
{
    const int64_t all = (int64_t)plan.tiles * plan.row_tiles;
    const int64_t most = (int64_t)plan.blocks * multiprocessors();
    return launch(direct_kernel<L>, dim3((unsigned)(all < most ? all : most)),
                  dim3((unsigned)plan.warps * 32), (size_t)plan.bytes, s, path, *p, plan);
}

// Tries the layouts of a family's lanes; product() where none suits.
template <class... L> struct direct_lanes {
    static bool fit(const gqmm_cuda_product *, int)
    {
        return false;
    }
    static bool stay(const gqmm_cuda_product *, int)
    {
        return false;
    }
    static int run(const gqmm_cuda_product *, int, gqmm_stream, bool *done)
    {
        *done = false;
        return 0;
    }
};

template <class L, class... M> struct direct_lanes<L, M...> {
    static bool fit(const gqmm_cuda_product *p, int path)
    {
        direct_plan plan;
        return digits_pay<L>(p, path) || direct_fits<L>(&plan, p, path) ||
               direct_lanes<M...>::fit(p, path);
    }
    static bool stay(const gqmm_cuda_product *p, int path)
    {
        direct_plan plan;
        return direct_fits<L>(&plan, p, path) ? stay_fits<L>(p, path)
                                              : direct_lanes<M...>::stay(p, path);
    }
    static int run(const gqmm_cuda_product *p, int path, gqmm_stream s, bool *done)
    {
        direct_plan plan;
        *done = true;
        if constexpr (most_digits < L >> 0)
            if (digits_pay<L>(p, path) && x_aligned(p))
                return gqmm::stay<L, true>(p, path, s);
        if (!direct_fits<L>(&plan, p, path))
            return direct_lanes<M...>::run(p, path, s, done);
        if constexpr (stays<L>)
            if (stay_fits<L>(p, path) && x_aligned(p))
                return gqmm::stay<L, false>(p, path, s);
        return direct<L>(p, plan, path, s);
    }
};

template <class D> struct lanes_of {
    typedef direct_lanes<> list;
};

template <> struct lanes_of<dec_q4_k> {
    typedef direct_lanes<lane_q4_k> list;
};

template <> struct lanes_of<dec_int4> {
    typedef direct_lanes<lane_nibbles<128, false>, lane_nibbles<64, false>> list;
};

template <> struct lanes_of<dec_affine4> {
    typedef direct_lanes<lane_nibbles<64, true>, lane_nibbles<128, true>> list;
};

// The layout with numbers of its own of a format: for E2M1 codes, for others that have low_codes
// and no list above, or none. q5_k and q6_k gain too little by it.
template <class D>
constexpr bool has_fp4 = std::is_same<D, dec_mxfp4>::value || std::is_same<D, dec_mlx_mxfp4>::value;
template <class D>
constexpr bool has_low = !has_fp4<D> && D::step == 256 && piece_codes<D, true>::low &&
                         !std::is_same<D, dec_q5_k>::value && !std::is_same<D, dec_q6_k>::value &&
                         std::is_same<typename lanes_of<D>::list, direct_lanes<>>::value;
template <class D> constexpr bool has_own = has_fp4<D> || has_low<D>;
template <class D> using own_lane = std::conditional_t<has_fp4<D>, lane_fp4<D>, lane_low<D, 8>>;
template <class D> using long_lane = std::conditional_t<has_fp4<D>, lane_fp4<D>, lane_low<D, 16>>;

// Mean columns of an expert up to which tiles of eight beat wider ones.
template <class D> constexpr double MOST_OWN = 8;
template <> constexpr double MOST_OWN<dec_mlx_mxfp4> = 7;
template <> constexpr double MOST_OWN<dec_q5_0> = 5;
template <> constexpr double MOST_OWN<dec_nvfp4> = 5;
template <> constexpr double MOST_OWN<dec_mlx_nvfp4> = 5;

// Of fewer pairs of several experts product.cuh and sum.cuh are as fast with low_codes, as they are
// with one row.
constexpr int LOW_PAIRS = 16;

template <class D> bool is_for_own(const gqmm_cuda_product *p, int path)
{
    if constexpr (has_own<D>)
        return (p->rhs ? has_fp4<D> || p->n_pairs >= LOW_PAIRS : p->n_pairs * p->m > 1) &&
               own_fits<long_lane<D>>(p, path);
    return false;
}

// What a product of a row of x for each of `n_pairs` would be asked, by sizes and strides.
inline gqmm_cuda_product product_of_pairs(const gqmm_cuda_matrix &w, int64_t n_pairs)
{
    static const int32_t ids = 0; // any: it only tells that there are ids
    gqmm_cuda_product p = {};
    p.w = w;
    p.n = w.n_rows;
    p.k = w.n_cols;
    p.x_type = GQMM_BF16;
    p.n_pairs = n_pairs;
    p.m = 1;
    p.rhs = &ids;
    return p;
}

constexpr double FP4_BEATS_FEW = 64; // steps of a multiprocessor

// Whether gate and up of one token are faster as those of several.
template <class D> bool fp4_beats_few(const gqmm_cuda_few *c, int path)
{
    gqmm_cuda_product p = product_of_pairs(c->w, c->choice.n_slots);
    p.up = c->up;
    return has_fp4<D> && is_for_own<D>(&p, path) && direct_steps(&p) >= FP4_BEATS_FEW;
}

template <class D> int best_product(const gqmm_cuda_product *p, int path, gqmm_stream s)
{
    bool done;
    if constexpr (has_own<D>)
        if (is_for_own<D>(p, path) && x_aligned(p))
            return p->k <= stay_warps<own_lane<D>> * stay_step<own_lane<D>>
                       ? stay<own_lane<D>, false>(p, path, s)
                       : stay<long_lane<D>, false>(p, path, s);
    const int error = lanes_of<D>::list::run(p, path, s, &done);
    return done ? error : product<D>(p, path, s);
}

// By sizes and strides.
template <class D> bool eights_fit(const gqmm_cuda_product *p)
{
    return lanes_of<D>::list::stay(p, GQMM_CUDA_SM90) || is_for_own<D>(p, GQMM_CUDA_SM90);
}

// One launch for down and the weighted sum pays where the product has no better one.
template <class D> bool best_sum_fits(const gqmm_cuda_sum *c, int path)
{
    const gqmm_cuda_product p = product_of_pairs(c->w, c->n_tokens * c->n_slots);
    return sum_fits<D>(c) && !lanes_of<D>::list::fit(&p, GQMM_CUDA_SM90) &&
           !is_for_own<D>(&p, path);
}

} // namespace gqmm

#endif
