// SPDX-License-Identifier: MIT
// direct.cuh where K is short: a warp has one step, 256 numbers along K, of all the row tiles that
// meet the same columns. Its activations stay in registers while weights pass by, so that a block
// begins without a meeting and warps share out even few row tiles. What the warps found along K is
// added up in shared memory, some row tiles at a time.
#ifndef GQMM_KERNEL_CUDA_DIRECT_STAY_CUH
#define GQMM_KERNEL_CUDA_DIRECT_STAY_CUH

#include "kernel/cuda/direct_walk.cuh"
#include "kernel/cuda/epilogue.cuh"
#include "kernel/cuda/held.cuh"
#include "kernel/cuda/product.cuh"

namespace gqmm
{

constexpr int STAY_WARPS = 8, STAY_BLOCKS = 2; // of a block; of a multiprocessor
constexpr int STAY_STAGES = 3;                 // of a warp's ring, one of them the one last read
constexpr int STAY_ROUND = 8;                  // row tiles of a warp between two meetings

// Host's choices for a launch.
struct stay_plan {
    int warps; // of a block: whole times K / 256
    int tiles; // of columns, at most
    int row_tiles;
    int ring, bytes; // of shared memory: where the warps' rings begin, all
};

// Adds up what `parts` warps found, for `tiles` row tiles from output `row` on, and stores it: a
// warp takes a row tile, each lane what it has of it after a matrix instruction.
__device__ __forceinline__ void add_up(const float4 *sums, int parts, int tiles,
                                       const gqmm_cuda_product &p,
                                       const column_set<DIRECT_COLUMNS> &c, int64_t row, int warp,
                                       int warps, int lane)
{
    const bool two = p.up.plane[0] != NULL;
    const int col = (lane & 3) * 2;
    if (col >= c.count)
        return;
    for (int tile = warp; tile < tiles; tile += warps) {
        const float4 *from = sums + tile * parts * 32 + lane;
        float4 sum = from[0];
#pragma unroll
        for (int k = 1; k < STAY_WARPS; k++)
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

template <class L>
__global__ void __launch_bounds__(STAY_WARPS * 32, STAY_BLOCKS)
    stay_kernel(const __grid_constant__ gqmm_cuda_product p, const __grid_constant__ stay_plan plan)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ column_set<DIRECT_COLUMNS> both_columns[2]; // of this stretch, the next
    __shared__ direct_pairs pairs;
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, g = lane >> 2,
              t = lane & 3;
    const int steps = (int)(p.k / HELD), step = warp % steps, group = warp / steps;
    const int groups = plan.warps / steps, chunk = STAY_ROUND * groups;
    const int per_tile = p.up.plane[0] ? 8 : 16;
    const direct_share own_share = {step, 1, group, groups, 1, per_tile};
    float4 *const sums = (float4 *)shared; // [chunk][steps][32]
    int ring = (int)shared_address(shared) + plan.ring + warp * (STAY_STAGES * L::stage_bytes);
    keep(ring);
    const int last_stage = ring + (STAY_STAGES - 1) * L::stage_bytes;
    direct_asker<L, int, true> weights(p, own_share, lane);
#pragma unroll
    for (int &to : weights.places.to)
        keep(to);

    if (!p.ids_early)
        wait_for_previous();
    const direct_columns tiles(pairs, p, plan.tiles);
    const direct_part<int> part(tiles.count * plan.row_tiles, groups);
    const int end = part.end;
    int at = part.at;
    if (at < end)
        tiles.set(both_columns[0], p, at / plan.row_tiles);

    weights.at = at;
    weights.end = end;
    const auto ask = [&](int stage) {
        if (weights.left <= 0)
            weights.go_on(p, own_share, plan.row_tiles, lane, tiles);
        weights.bring((uint32_t)stage, own_share, lane);
    };
#pragma unroll 1
    for (int i = ring; i < last_stage; i += L::stage_bytes)
        ask(i);
    if (p.ids_early)
        wait_for_previous();
    let_next_start();
    __syncthreads();

    int stage = ring, free = last_stage; // to read next; the one read before
    for (int b = 0; at < end; b ^= 1) {
        const direct_stretch now(at, end, plan.row_tiles);
        const column_set<DIRECT_COLUMNS> &c = both_columns[b];
        at += now.n;
        if (at < end)
            tiles.set(both_columns[b ^ 1], p, at / plan.row_tiles);
        if (c.expert < 0) {
            zero_rows(p, c, (int64_t)now.first * per_tile, now.n * per_tile);
            __syncthreads();
            continue;
        }
        held<L> x = {};
        const int64_t x_at = g < c.count ? c.x_at[g] : -1;
        if (x_at >= 0)
            x.load((const uint16_t *)p.x + x_at + step * HELD, t);
        x.find_power();
        x.prepare(g, t);
        const bool usual = __all_sync(~0u, x.power == USUALLY);
        for (int first = 0; first < now.n; first += chunk) {
            const int n = now.n - first < chunk ? now.n - first : chunk;
            float4 *to = sums + (group * steps + step) * 32 + lane;
#pragma unroll 1
            for (int i = group; i < n; i += groups, to += groups * steps * 32) {
                copies_wait<STAY_STAGES - 2>();
                __syncwarp();
                ask(free);
                float acc[4] = {};
                L::template multiply<1>(acc, (const uint8_t *)__cvta_shared_to_generic(stage), x, g,
                                        t);
                free = stage;
                stage = stage == last_stage ? ring : stage + L::stage_bytes;
                if (!usual) {
                    const float2 post = x.post(t);
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        acc[e] *= e & 1 ? post.y : post.x;
                }
                *to = make_float4(acc[0], acc[1], acc[2], acc[3]);
            }
            __syncthreads();
            add_up(sums, steps, n, p, c, (int64_t)(now.first + first) * per_tile, warp, plan.warps,
                   lane);
            __syncthreads();
        }
    }
}

// ---------------------------------------------------------------- host

// Shared memory of a multiprocessor with GQMM_CUDA_SM90 for each of its blocks.
constexpr int STAY_MEMORY = 222 * 1024 / STAY_BLOCKS - 4096;

// The layouts of direct.cuh that come here.
template <class L> constexpr bool stays = false;
template <> constexpr bool stays<lane_nibbles<128, false>> = true;
template <> constexpr bool stays<lane_nibbles<64, true>> = true;

// Where direct.cuh would serve: K up to a step of each warp.
template <class L> bool stay_fits(const gqmm_cuda_product *p, int path)
{
    return stays<L> && path == GQMM_CUDA_SM90 && p->k <= STAY_WARPS * HELD &&
           (double)tiles_of(p, DIRECT_COLUMNS) * (double)p->n <= INT32_MAX;
}

template <class L> stay_plan plan_stay(const gqmm_cuda_product *p)
{
    const int steps = (int)(p->k / HELD);
    stay_plan plan = {};
    plan.warps = STAY_WARPS / steps * steps;
    plan.tiles = (int)tiles_of(p, DIRECT_COLUMNS);
    plan.row_tiles = (int)(p->n / (p->up.plane[0] ? 8 : 16));
    plan.ring = STAY_ROUND * plan.warps * 32 * (int)sizeof(float4);
    plan.bytes = plan.ring + plan.warps * STAY_STAGES * L::stage_bytes;
    return plan;
}

template <class L> int stay(const gqmm_cuda_product *p, int path, gqmm_stream s)
{
    static_assert(STAY_WARPS * (STAY_ROUND * 512 + STAY_STAGES * L::stage_bytes) <= STAY_MEMORY,
                  "both blocks fit");
    const stay_plan plan = plan_stay<L>(p);
    const int64_t groups = plan.warps / (p->k / HELD);
    const int64_t turns = ((int64_t)plan.tiles * plan.row_tiles + groups - 1) / groups;
    const int64_t most = (int64_t)STAY_BLOCKS * multiprocessors();
    return launch(stay_kernel<L>, dim3((unsigned)(turns < most ? turns : most)),
                  dim3((unsigned)plan.warps * 32), (size_t)plan.bytes, s, path, *p, plan);
}

} // namespace gqmm

#endif
