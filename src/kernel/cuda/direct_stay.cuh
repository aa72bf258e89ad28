// SPDX-License-Identifier: MIT
// direct.cuh where K is short: a warp has one step, 256 numbers along K, of all the row tiles that
// meet the same columns, as numbers or as digits, see direct_digits.cuh. Its activations stay in
// registers while weights pass by, so that a block begins without a meeting and warps share out
// even few row tiles. What the warps found along K is added up in shared memory, some row tiles at
// a time.
#ifndef GQMM_KERNEL_CUDA_DIRECT_STAY_CUH
#define GQMM_KERNEL_CUDA_DIRECT_STAY_CUH

#include "kernel/cuda/direct_digits.cuh"
#include "kernel/cuda/direct_fp4.cuh"
#include "kernel/cuda/direct_low.cuh"
#include "kernel/cuda/direct_q4_k.cuh"
#include "kernel/cuda/direct_walk.cuh"
#include "kernel/cuda/epilogue.cuh"
#include "kernel/cuda/held.cuh"
#include "kernel/cuda/product.cuh"
#include <type_traits>

namespace gqmm
{

constexpr int STAY_WARPS = 8, STAY_BLOCKS = 2; // of a block; of a multiprocessor
constexpr int STAY_STAGES = 3;                 // of a warp's ring, one of them the one last read
constexpr int STAY_ROUND = 8;                  // row tiles of a warp between two meetings
constexpr int STAY_PAD = 2;                    // of them take as long as a tile's beginning

template <bool DIGITAL> constexpr int STAY_COLUMNS = DIGITAL ? 8 / DIGITS : DIRECT_COLUMNS;
template <bool DIGITAL> using stay_sum = std::conditional_t<DIGITAL, float2, float4>;

// Shared memory of a multiprocessor with GQMM_CUDA_SM90 for each of its blocks.
constexpr int STAY_MEMORY = 222 * 1024 / STAY_BLOCKS - 4096;

// Layouts that have `numbers` of their own have WARPS in each of BLOCKS of a multiprocessor, with
// STEPs of K, and as many row tiles between two meetings as there is room for.
template <class L, class = void> struct stay_of {
    static constexpr bool own = false;
    static constexpr int warps = STAY_WARPS, blocks = STAY_BLOCKS, step = HELD, round = STAY_ROUND;
};
template <class L> struct stay_of<L, std::void_t<typename L::numbers>> {
    static constexpr bool own = true;
    static constexpr int warps = L::WARPS, blocks = L::BLOCKS, step = L::STEP;
    static constexpr int room =
        STAY_BLOCKS * STAY_MEMORY / (blocks * warps) - STAY_STAGES * L::stage_bytes;
    static constexpr int round = room < 12 * 512 ? room / 512 : 12;
};
template <class L> constexpr int stay_warps = stay_of<L>::warps;
template <class L> constexpr int stay_blocks = stay_of<L>::blocks;
template <class L> constexpr int stay_step = stay_of<L>::step;
template <class L> constexpr int stay_round = stay_of<L>::round;

template <class L, bool DIGITAL, class = void> struct stay_numbers {
    typedef std::conditional_t<DIGITAL, digits<L>, held<L>> type;
};
template <class L> struct stay_numbers<L, false, std::void_t<typename L::numbers>> {
    typedef typename L::numbers type;
};
template <class L, bool DIGITAL> using stay_x = typename stay_numbers<L, DIGITAL>::type;

// Host's choices for a launch.
struct stay_plan {
    int warps; // of a block: whole times K / 256
    quick_divisor steps;
    int tiles;                       // of columns, at most
    quick_divisor row_tiles, padded; // see direct_part
    quick_divisor blocks;            // of the launch
    int group_bits;                  // 2^this times the warps share out K
    int ring, bytes;                 // of shared memory: where the warps' rings begin, all
};

// What the lane has of a row tile after a matrix instruction; of digits, the sum of its two.
__device__ __forceinline__ void keep_sums(float4 *to, const float (&acc)[4], float2 post)
{
    *to = make_float4(acc[0] * post.x, acc[1] * post.y, acc[2] * post.x, acc[3] * post.y);
}

__device__ __forceinline__ void keep_sums(float2 *to, const float (&acc)[4], float2 post)
{
    *to = make_float2(fmaf(acc[1], post.y, acc[0] * post.x), fmaf(acc[3], post.y, acc[2] * post.x));
}

// Adds up what `parts` warps found, for `tiles` row tiles from output `row` on, and stores it: a
// warp takes a row tile, each lane what it has of it after a matrix instruction.
template <int MOST>
__device__ __forceinline__ void
add_up(const float4 *sums, int parts, int tiles, const gqmm_cuda_product &p,
       const column_set<DIRECT_COLUMNS> &c, int64_t row, int warp, int warps, int lane)
{
    const bool two = p.up.plane[0] != NULL;
    const int col = (lane & 3) * 2;
    if (col >= c.count)
        return;
    for (int tile = warp; tile < tiles; tile += warps) {
        const float4 *from = sums + tile * parts * 32 + lane;
        float4 sum = from[0];
#pragma unroll
        for (int k = 1; k < MOST; k++)
            if (k < parts) {
                const float4 v = from[k * 32];
                sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
            }
        const int64_t at = row + tile * (two ? 8 : 16) + lane / 4;
#pragma unroll
        for (int e = 0; e < 2; e++) {
            if (col + e >= c.count)
                break;
            const bool none = c.x_at[col + e] < 0;
            const float lo = none ? 0.0f : e ? sum.y : sum.x, hi = none ? 0.0f : e ? sum.w : sum.z;
            store_number(p.y, c.y_at[col + e] + at, p.y_type, two ? swiglu(lo, hi, {}) : lo);
            if (!two)
                store_number(p.y, c.y_at[col + e] + at + 8, p.y_type, hi);
        }
    }
}

// The same of digits: a quad has two columns, two lanes of it their digits.
template <int MOST>
__device__ __forceinline__ void
add_up(const float2 *sums, int parts, int tiles, const gqmm_cuda_product &p,
       const column_set<DIRECT_COLUMNS> &c, int64_t row, int warp, int warps, int lane)
{
    const bool two = p.up.plane[0] != NULL;
    const int col = lane >> 1 & 1, upper = lane & 1;
    for (int tile = warp; tile < tiles; tile += warps) {
        const float2 *from = sums + tile * parts * 32 + lane;
        float2 sum = from[0];
#pragma unroll
        for (int k = 1; k < MOST; k++)
            if (k < parts) {
                const float2 v = from[k * 32];
                sum = make_float2(sum.x + v.x, sum.y + v.y);
            }
        sum.x = (sum.x + __shfl_xor_sync(~0u, sum.x, 1)) * DIGIT_UNIT;
        sum.y = (sum.y + __shfl_xor_sync(~0u, sum.y, 1)) * DIGIT_UNIT;
        if (col >= c.count || (two && upper))
            continue;
        const int64_t at = c.y_at[col] + row + tile * (two ? 8 : 16) + lane / 4;
        if (c.x_at[col] < 0)
            sum = make_float2(0.0f, 0.0f);
        store_number(p.y, at + 8 * upper, p.y_type,
                     two     ? swiglu(sum.x, sum.y, {})
                     : upper ? sum.y
                             : sum.x);
    }
}

template <class L, bool DIGITAL>
__device__ __forceinline__ void multiply_held(const gqmm_cuda_product &p, const stay_plan &plan)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ column_set<DIRECT_COLUMNS> both_columns[2]; // of this stretch, the next
    __shared__ direct_pairs pairs;
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, g = lane >> 2,
              t = lane & 3;
    const int steps = plan.steps.by, group = warp / plan.steps, step = warp - group * steps;
    const int groups = 1 << plan.group_bits, chunk = stay_round<L> * groups;
    const int per_tile = p.up.plane[0] ? 8 : 16;
    const direct_share own_share = {step, 1, group, plan.group_bits, 1, per_tile};
    typedef stay_sum<DIGITAL> sum_type;
    sum_type *const sums = (sum_type *)shared; // [chunk][steps][32]
    int ring = (int)shared_address(shared) + plan.ring + warp * (STAY_STAGES * L::stage_bytes);
    keep(ring);
    const int last_stage = ring + (STAY_STAGES - 1) * L::stage_bytes;
    direct_asker<L, int, true> weights(p, own_share, lane);
    int heads = 0; // of blocks, behind the others of their rows
    const bool in_pairs = L::PAIRS && steps % 2 == 0;
    if constexpr (L::PAIRS)
        if (in_pairs) {
            const typename L::part part = step % 2 ? L::SECOND : L::FIRST;
            weights.rows.is = part;
            weights.places = typename L::places(lane, part);
            heads = step % 2 ? L::HEAD - STAY_STAGES * L::stage_bytes : 0;
        }
#pragma unroll
    for (int &to : weights.places.to)
        keep(to);

    if (!p.ids_early)
        wait_for_previous();
    const direct_columns tiles(pairs, p, plan.tiles, STAY_COLUMNS<DIGITAL>, DIGITAL);
    const direct_part<int> part(tiles.count, plan.row_tiles.by, plan.padded, plan.group_bits,
                                plan.blocks);
    const int end = part.end;
    int at = part.at;
    weights.at = at;
    weights.end = end;
    const auto ask = [&](int stage) {
        if (weights.left <= 0)
            weights.go_on(p, own_share, plan.row_tiles, lane, tiles);
        weights.bring((uint32_t)stage, own_share, lane);
    };
    stay_x<L, DIGITAL> x;
    if constexpr (stay_of<L>::own)
        L::begin(weights.rows, x, p, step, lane);
    const auto load_x = [&](const column_set<DIRECT_COLUMNS> &c) {
        const int own = DIGITAL ? lane / 16 : g;
        const int64_t x_at = own < c.count ? c.x_at[own] : -1;
        const uint16_t *row = x_at < 0 ? NULL : (const uint16_t *)p.x + x_at + step * stay_step<L>;
        if constexpr (DIGITAL) {
            x.load(row, lane);
        } else if constexpr (stay_of<L>::own) {
            x.load(row, (int)p.k - step * stay_step<L>, t);
        } else {
            x = {};
            if (row)
                x.load(row, t);
        }
    };
    if (at < end)
        tiles.set(both_columns[0], p, at / plan.row_tiles);
    if (!p.ids_early && at < end) { // ahead of weights, which keep memory busy
        __syncthreads();
        load_x(both_columns[0]);
    }
#pragma unroll 1
    for (int i = ring; i < last_stage; i += L::stage_bytes)
        ask(i);
    __syncthreads();
    if (p.ids_early) {
        wait_for_previous();
        if (at < end)
            load_x(both_columns[0]);
    }
    let_next_start();

    bool loaded = true;
    int stage = ring, free = last_stage; // to read next; the one read before
    for (int b = 0; at < end; b ^= 1) {
        const direct_stretch now(at, end, plan.row_tiles);
        const column_set<DIRECT_COLUMNS> &c = both_columns[b];
        at += now.n;
        if (at < end)
            tiles.set(both_columns[b ^ 1], p, at / plan.row_tiles);
        if (c.expert < 0) {
            zero_rows(p, c, (int64_t)now.first * per_tile, now.n * per_tile);
            loaded = false;
            __syncthreads();
            continue;
        }
        if (!loaded)
            load_x(c);
        loaded = false;
        sum_type *const own_sums = sums + (group * steps + step) * 32;
        bool usual = false;
        if constexpr (DIGITAL) {
            x.prepare(shared_address(own_sums), groups * steps * 32 * (int)sizeof(sum_type), lane);
        } else {
            x.find_power();
            x.prepare(g, t);
            usual = __all_sync(~0u, x.power == USUALLY);
        }
        for (int first = 0; first < now.n; first += chunk) {
            const int n = now.n - first < chunk ? now.n - first : chunk;
            sum_type *to = own_sums + lane;
#pragma unroll 1
            for (int i = group; i < n; i += groups, to += groups * steps * 32) {
                copies_wait<STAY_STAGES - 2>();
                if (in_pairs)
                    asm volatile("bar.sync %0, 64;" ::"r"(warp / 2 + 1) : "memory");
                else
                    __syncwarp();
                ask(free);
                float acc[4] = {};
                const uint8_t *here = (const uint8_t *)__cvta_shared_to_generic(stage);
                if constexpr (DIGITAL)
                    L::multiply_digits(acc, here, x, g, t, heads);
                else
                    L::template multiply<1>(acc, here, x, g, t);
                free = stage;
                stage = stage == last_stage ? ring : stage + L::stage_bytes;
                float2 post = make_float2(1.0f, 1.0f);
                if constexpr (DIGITAL)
                    post = x.times;
                else if (!usual)
                    post = x.post(t);
                keep_sums(to, acc, post);
            }
            __syncthreads();
            add_up<stay_warps<L>>(sums, steps, n, p, c, (int64_t)(now.first + first) * per_tile,
                                  warp, plan.warps, lane);
            __syncthreads();
        }
    }
}

template <class L, bool DIGITAL>
__global__ void __launch_bounds__(stay_warps<L> * 32, stay_blocks<L>)
    stay_kernel(const __grid_constant__ gqmm_cuda_product p, const __grid_constant__ stay_plan plan)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) // elsewhere nobody launches it
    multiply_held<L, DIGITAL>(p, plan);
#endif
}

// ---------------------------------------------------------------- host

// The layouts of direct.cuh that come here.
template <class L> constexpr bool stays = false;
template <> constexpr bool stays<lane_nibbles<128, false>> = true;
template <> constexpr bool stays<lane_nibbles<64, true>> = true;

// Whether quick divisors serve.
inline bool is_quick(const gqmm_cuda_product *p)
{
    const double row_tiles = (double)p->n / 8 + 8 * STAY_PAD;
    const double tiles = (double)tiles_of(p, DIRECT_COLUMNS);
    const double by = row_tiles > 512 ? row_tiles : 512; // or blocks
    return tiles * row_tiles * by < 4294967296.0;
}

// Where direct.cuh would serve: K up to a step of each warp.
template <class L> bool stay_fits(const gqmm_cuda_product *p, int path)
{
    return stays<L> && path == GQMM_CUDA_SM90 && p->k <= STAY_WARPS * HELD && is_quick(p);
}

// Up to so many pairs of an expert, in the mean, digits of two at a time beat numbers of eight; 0:
// not built.
template <class L> constexpr double most_digits = 0;
template <> constexpr double most_digits<lane_nibbles<128, false>> = 1;
template <> constexpr double most_digits<lane_nibbles<64, true>> = 1;
template <> constexpr double most_digits<lane_q4_k> = 2;

// Likewise, of pairs in no list.
template <class L> bool digits_fit(const gqmm_cuda_product *p, int path)
{
    return path == GQMM_CUDA_SM90 && p->k <= STAY_WARPS * HELD && !p->list.tiles && p->rhs &&
           p->m == 1 && (double)p->n_pairs <= most_digits<L> * p->w.n_experts && is_quick(p);
}

// The same of layouts with numbers of their own, which direct.cuh does not serve: up to eight
// columns of each of several experts, or of one matrix.
template <class L> bool own_fits(const gqmm_cuda_product *p, int path)
{
    const int per_tile = p->up.plane[0] ? 8 : 16;
    return path == GQMM_CUDA_SM90 && p->x_type == GQMM_BF16 && p->k > 0 && p->k % 32 == 0 &&
           p->k <= stay_warps<L> * stay_step<L> && p->n > 0 && p->n % per_tile == 0 &&
           (p->rhs ? p->m == 1 : p->expert >= 0) && columns_of_tile(p) <= DIRECT_COLUMNS &&
           p->w.n_experts <= INT16_MAX && (p->list.tiles || p->n_pairs <= DIRECT_PAIRS) &&
           is_quick(p) && L::fits(p);
}

template <class L, bool DIGITAL> stay_plan plan_stay(const gqmm_cuda_product *p)
{
    const int steps = (int)((p->k + stay_step<L> - 1) / stay_step<L>);
    stay_plan plan = {};
    while (steps << (plan.group_bits + 1) <= stay_warps<L>)
        plan.group_bits++;
    plan.warps = steps << plan.group_bits;
    plan.tiles = (int)tiles_of(p, DIRECT_COLUMNS);
    plan.steps = quick_divisor::of(steps);
    plan.row_tiles = quick_divisor::of((int)(p->n / (p->up.plane[0] ? 8 : 16)));
    plan.padded = quick_divisor::of(plan.row_tiles.by + (STAY_PAD << plan.group_bits));
    const int64_t turns = (((int64_t)plan.tiles * plan.row_tiles.by - 1) >> plan.group_bits) + 1;
    const int64_t most = (int64_t)stay_blocks<L> * multiprocessors();
    plan.blocks = quick_divisor::of((int)(turns < most ? turns : most));
    plan.ring = stay_round<L> * plan.warps * 32 * (int)sizeof(stay_sum<DIGITAL>);
    plan.bytes = plan.ring + plan.warps * STAY_STAGES * L::stage_bytes;
    return plan;
}

template <class L, bool DIGITAL> int stay(const gqmm_cuda_product *p, int path, gqmm_stream s)
{
    static_assert(stay_blocks<L> * stay_warps<L> *
                          (stay_round<L> * 512 + STAY_STAGES * L::stage_bytes) <=
                      STAY_BLOCKS * STAY_MEMORY,
                  "all blocks fit");
    const stay_plan plan = plan_stay<L, DIGITAL>(p);
    return launch(stay_kernel<L, DIGITAL>, dim3((unsigned)plan.blocks.by),
                  dim3((unsigned)plan.warps * 32), (size_t)plan.bytes, s, path, *p, plan);
}

} // namespace gqmm

#endif
