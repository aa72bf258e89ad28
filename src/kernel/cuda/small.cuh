// SPDX-License-Identifier: MIT
// The product of bf16 activations and at most eight columns of one expert, or of each of a few, for
// formats of nibbles, where a launch is over soon after its weights have come.
//
// What counts then is what must follow one after the other. A block has a few row tiles of 16 rows
// and its warps share K: each holds its 256 activations of all columns in registers, so that nobody
// waits for another before the sums of K's parts meet. Weights are asked for before the launch
// ahead has ended, except behind ids that it may write. Warps have many registers, for arithmetic
// that does not wait for itself.
#ifndef GQMM_KERNEL_CUDA_SMALL_CUH
#define GQMM_KERNEL_CUDA_SMALL_CUH

#include "kernel/cuda/direct.cuh"
#include "kernel/cuda/held.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/product.cuh"

#include <limits.h>

namespace gqmm
{

constexpr int SMALL_TILES = 8; // row tiles of a block, at most: a lane knows where each begins
constexpr int SMALL_PAIRS = 8; // of several rows
constexpr int SMALL_K = 4096;

// Host's choices for a launch.
struct small_plan {
    int warps;          // of a block: 8, two blocks of which fit in a multiprocessor, or 16
    int k_bits;         // 2^this warps share K
    int todo;           // steps of the warp that has most
    int stages;         // of a warp under way, 2 to 4
    int column_bits;    // 2^this is room for the columns
    int row_tiles;      // of a pair
    float pairs_of_row; // 1 / row_tiles
    int blocks;         // of a pair, in small_low.cuh
    int each, more;     // row tiles of a block; the first `more` blocks have one more
    int bytes;          // of shared memory
};

// A lane's sums of two columns lie at [row tile][part of K][row % 8][pair of columns].
GQMM_HD inline int small_pairs(const small_plan &plan)
{
    return plan.column_bits ? 1 << (plan.column_bits - 1) : 1;
}

// The sums of K's parts of `n` row tiles to y.
__device__ __forceinline__ void store_small(const gqmm_cuda_product &p, const small_plan &plan,
                                            const float4 *sums, const int64_t *y, int n)
{
    const int parts = 1 << plan.k_bits, bits = plan.column_bits, pairs = small_pairs(plan);
    for (int i = (int)threadIdx.x; i < n << (4 + bits); i += (int)blockDim.x) {
        const int r = i & 15, c = i >> 4 & ((1 << bits) - 1), u = i >> (4 + bits);
        if (c >= (int)p.m)
            continue;
        const float *from = (const float *)(sums + ((u << plan.k_bits) * 8 + (r & 7)) * pairs) +
                            c / 2 * 4 + (c & 1) + r / 8 * 2;
        float sum = 0.0f;
#pragma unroll 4
        for (int k = 0; k < parts; k++)
            sum += from[k * 32 * pairs];
        store_number(p.y, y[u] + c * p.y_row + r, p.y_type, sum);
    }
}

template <class L, int WARPS>
__global__ void __launch_bounds__(WARPS * 32, 16 / WARPS)
    small_kernel(const __grid_constant__ gqmm_cuda_product p,
                 const __grid_constant__ small_plan plan)
{
    constexpr int PLANES = L::planes, STAGE = L::stage_bytes;
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ int64_t y[SMALL_TILES];
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, g = lane >> 2,
              t = lane & 3;
    const int share = 1 << plan.k_bits, mine = warp & (share - 1), group = warp >> plan.k_bits;
    const int groups = WARPS >> plan.k_bits, steps = (int)(p.k / HELD);
    const int b = (int)blockIdx.x, n = plan.each + (b < plan.more);
    const int first = b * plan.each + (b < plan.more ? b : plan.more);
    uint8_t *ring = shared + warp * (plan.stages * STAGE);
    int ring_at = (int)shared_address(ring);
    keep(ring_at);
    float4 *sums = (float4 *)(shared + WARPS * plan.stages * STAGE);
    const bool early = p.ids_early;

    // Lane i knows row tile i of the block; behind the last one it knows that one.
    const int all = plan.row_tiles * (int)p.n_pairs, behind = lane < n ? first + lane : first;
    const int tile = behind < all ? behind : all - 1;
    const int pair = p.n_pairs > 1 ? (int)(((float)tile + 0.5f) * plan.pairs_of_row) : 0;
    const int row = (tile - pair * plan.row_tiles) * ROWS;
    int64_t own_x = p.lhs ? 0 : matrix_of(p, pair) * p.x_mat;
    const uint16_t *const numbers = (const uint16_t *)p.x;
    int64_t x_at = (g < (int)p.m ? g : (int)p.m - 1) * p.x_row + mine * HELD; // of matrix 0
    int64_t first_x = x_at + __shfl_sync(~0u, own_x, group);
    if (WARPS == 16) // else two blocks share a multiprocessor, and weights are asked for sooner
        keep(first_x);
    held<L, (L::N > 4)> x; // else there are registers for all sums
    float2 post = {};
    const auto begin = [&] { // what the launch ahead may have written is read from here on
        if (WARPS == 8)
            keep(first_x);
        wait_for_previous();
        let_next_start();
        if (p.lhs) {
            const int matrix = matrix_of(p, pair);
            own_x = (matrix < 0 ? 0 : matrix) * p.x_mat;
            first_x = x_at + __shfl_sync(~0u, own_x, group);
        }
        x.load(numbers + first_x, t);
    };
    typename L::rows rows; // the first of expert 0
    int64_t second[PLANES];
#pragma unroll
    for (int i = 0; i < PLANES; i++)
        second[i] = 8 * p.w.row_stride[i];
    rows.set(p.w, 0, second, lane);
    typename L::places places(lane);
#pragma unroll
    for (const uint8_t *&at : rows.from)
        keep(at);
#pragma unroll
    for (int &to : places.to)
        keep(to);
    if (warp == 0 && lane < n)
        y[lane] = pair * p.y_pair + row;
    if (!early)
        begin();
    const int expert = lane < n ? expert_of(p, pair) : -1;
    const uint32_t present = __ballot_sync(~0u, expert >= 0);
    int64_t from[PLANES]; // from those
#pragma unroll
    for (int i = 0; i < PLANES; i++) {
        from[i] = expert * p.w.expert_stride[i] + row * p.w.row_stride[i];
        keep(from[i]);
    }
    int ask_tile = group, ask_step = mine;
    const auto ask = [&](int slot) {
        if (ask_step < steps && present >> ask_tile & 1) {
            int64_t by[PLANES];
#pragma unroll
            for (int i = 0; i < PLANES; i++)
                by[i] = __shfl_sync(~0u, from[i], ask_tile) + ask_step * L::bytes(i);
            typename L::rows there = rows;
            there.move(by);
            there.bring((uint32_t)(ring_at + slot * STAGE), places, lane);
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

    const int pairs = small_pairs(plan);
    int slot = 0;
#pragma unroll 1
    for (int s = mine; s - mine < steps; s += share, x_at += share * HELD) {
        float4 *to = sums + (warp * 8 + g) * pairs + t;
        int held_pair = -1;
#pragma unroll 1
        for (int i = group; i < n; i += groups, to += WARPS * 8 * pairs) {
            const bool some = s < steps && present >> i & 1;
            const int now = p.n_pairs > 1 ? __shfl_sync(~0u, pair, i) : 0;
            if (some && now != held_pair) {
                held_pair = now;
                if (s != mine || i != group)
                    x.load(numbers + x_at + __shfl_sync(~0u, own_x, i), t);
                x.find_power();
                post = x.post(t);
                x.prepare(g, t);
            }
            float acc[4] = {};
            few_wait<2>(plan.stages);
            if (some) // four chains of instructions, as warps are few
                L::template multiply<4>(acc, ring + slot * STAGE, x, g, t);
            __syncwarp();
            ask(slot);
            slot = slot + 1 == plan.stages ? 0 : slot + 1;
            if (t >= pairs)
                continue;
            float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (s >= share)
                v = *to;
            if (some)
                v = make_float4(fmaf(acc[0], post.x, v.x), fmaf(acc[1], post.y, v.y),
                                fmaf(acc[2], post.x, v.z), fmaf(acc[3], post.y, v.w));
            *to = v;
        }
    }
    __syncthreads();
    store_small(p, plan, sums, y, n);
}

// ---------------------------------------------------------------- host

// How many of `warps`, 2^bits, are to share K, `steps` long, of `tiles` row tiles; returns the
// steps of the warp that has most. More share where that makes no difference.
inline int best_share(int *k_bits, int warps, int tiles, int steps)
{
    int least = INT_MAX;
    for (int bits = 0; 1 << bits <= warps && 1 << bits <= steps; bits++) {
        const int groups = warps >> bits;
        const int todo = (tiles + groups - 1) / groups * ((steps + (1 << bits) - 1) >> bits);
        if (todo <= least) {
            *k_bits = bits;
            least = todo;
        }
    }
    return least;
}

// A plan as far as it says who has which of the row tiles of so many pairs.
inline small_plan share_small(const gqmm_cuda_product *p, int warps, int n_pairs, int blocks)
{
    small_plan s = {};
    s.warps = warps;
    s.row_tiles = (int)(p->n / ROWS);
    s.each = s.row_tiles * n_pairs / blocks;
    s.more = s.row_tiles * n_pairs % blocks;
    while (1 << s.column_bits < p->m)
        s.column_bits++;
    return s;
}

inline int most_tiles(const small_plan &s)
{
    return s.each + (s.more > 0);
}

// Shared memory of a plan that has its stages: rings, then sums.
template <class L> int small_bytes(const small_plan &s)
{
    return s.warps * s.stages * L::stage_bytes +
           (most_tiles(s) << s.k_bits) * 8 * small_pairs(s) * (int)sizeof(float4);
}

template <class L> small_plan plan_small(const gqmm_cuda_product *p, int warps)
{
    small_plan s = share_small(p, warps, (int)p->n_pairs, multiprocessors());
    s.pairs_of_row = 1.0f / (float)s.row_tiles;
    s.todo = best_share(&s.k_bits, warps, most_tiles(s), (int)(p->k / HELD));
    s.stages = warps == 16 || s.todo < 3 ? 2 : s.todo < 4 ? 3 : 4;
    s.bytes = small_bytes<L>(s);
    return s;
}

// Two blocks in a multiprocessor pay where weights do not wait for ids, warps need not take new
// activations, and all their steps are under way at once.
template <class L> small_plan best_small(const gqmm_cuda_product *p)
{
    const small_plan two = plan_small<L>(p, 8);
    return !p->rhs && !p->lhs && p->k <= 8 * HELD && two.todo <= two.stages ? two
                                                                            : plan_small<L>(p, 16);
}

// False: not for these sizes or weights; then there may be no plan. Rows of pairs that may well
// share an expert are left to who reads it once for all of them.
template <class L> bool small_fits(small_plan *plan, const gqmm_cuda_product *p, int path)
{
    const int64_t pairs = !p->rhs ? 1 : p->m == 1 ? 2 : SMALL_PAIRS;
    if (p->x_type != GQMM_BF16 || p->list.tiles || p->up.plane[0] || p->k % HELD != 0 ||
        p->k <= 0 || p->k > SMALL_K || p->n % ROWS != 0 || p->n <= 0 || p->m < 1 || p->m > 8 ||
        p->n_pairs < 1 || p->n_pairs > pairs || p->n_x < 1 ||
        p->n > (int64_t)SMALL_TILES * ROWS * multiprocessors() / p->n_pairs || !p->w.aligned ||
        !L::fits(p->w) || !x_aligned(p))
        return false;
    *plan = best_small<L>(p);
    return plan->bytes <= direct_memory(path) - 4096;
}

template <class L>
int small(const gqmm_cuda_product *p, const small_plan &plan, int path, gqmm_stream s)
{
    return launch(plan.warps == 8 ? small_kernel<L, 8> : small_kernel<L, 16>,
                  dim3((unsigned)multiprocessors()), dim3((unsigned)plan.warps * 32),
                  (size_t)plan.bytes, s, path, *p, plan);
}

// Tries the layouts of a family's lanes.
inline bool run_small(const direct_lanes<> *, const gqmm_cuda_product *, int, gqmm_stream, int *)
{
    return false;
}

template <class L, class... M>
bool run_small(const direct_lanes<L, M...> *, const gqmm_cuda_product *p, int path, gqmm_stream s,
               int *error)
{
    const direct_lanes<M...> *rest = NULL;
    small_plan plan;
    if (!small_fits<L>(&plan, p, path))
        return run_small(rest, p, path, s, error);
    *error = small<L>(p, plan, path, s);
    return true;
}

template <class D> int any_product(const gqmm_cuda_product *p, int path, gqmm_stream s)
{
    const typename lanes_of<D>::list *lanes = NULL;
    int error;
    return run_small(lanes, p, path, s, &error) ? error : best_product<D>(p, path, s);
}

} // namespace gqmm

#endif
