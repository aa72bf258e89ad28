// SPDX-License-Identifier: MIT
// A mixture of experts for one token, in two launches of one kernel: gate and up with SwiGLU,
//
//     h[s] = silu(gate[ids[s]] . x) * (up[ids[s]] . x)
//
// then down with the weighted sum,
//
//     y = sum over s of weights[s] * down[ids[s]] . h[s]   (+ factor * shared)
//
// Every block finds the experts itself, which costs less than a launch, and the second launch asks
// for its weights before the first has ended. Nothing runs twice, so that instructions come as late
// as data does: this is why there is one kernel and why its loops are not unrolled.
#ifndef GQMM_KERNEL_CUDA_MIXTURE_CUH
#define GQMM_KERNEL_CUDA_MIXTURE_CUH

#include "kernel/cuda/few.cuh"

namespace gqmm
{

struct few_plan {
    int team;   // warps that share 8 outputs of gate and up and split K among them
    int stages; // steps of a warp under way
    int x_at;   // in shared memory: bytes before the activations
};

constexpr int FEW_SUM_BYTES = 2 * FEW_THREADS * (int)sizeof(float4);

// Waits for the `warps` warps of a team.
__device__ __forceinline__ void meet(int team, int warps)
{
    if (warps == 1)
        __syncwarp();
    else
        asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "r"(warps * 32) : "memory");
}

// The sums of a team's warps, 8 gates and 8 ups for each token, to h.
__device__ __forceinline__ void store_h(const gqmm_cuda_few &c, const few_table &table, int entry,
                                        int row, const float4 *sums, int team, int thread)
{
#pragma unroll 1
    for (int i = thread; i < (int)c.choice.n_tokens * 8; i += team * 32) {
        const int token = i / 8, r = i % 8, pair = table.pair[entry][token];
        const float *from = (const float *)(sums + r * 4 + token / 2) + token % 2;
        float gate = 0.0f, up = 0.0f;
#pragma unroll 2
        for (int w = 0; w < team; w++) {
            gate += from[w * 128];
            up += from[w * 128 + 2];
        }
        if (pair >= 0)
            store_number(c.h, pair * c.w.n_rows + row + r, GQMM_BF16, silu(gate) * up);
    }
}

// 16 outputs of 8 tokens: sums of the warps in order, then the shared expert.
__device__ __forceinline__ void store_y(const gqmm_cuda_few &c, const float4 *sums, int64_t row)
{
    const int out = (int)threadIdx.x % 16, token = (int)threadIdx.x / 16;
    if (token >= c.choice.n_tokens || row + out >= c.w.n_rows)
        return;
    const float *from = (const float *)(sums + out % 8 * 4 + token / 2) + token % 2 + out / 8 * 2;
    float v = 0.0f;
#pragma unroll 4
    for (int w = 0; w < FEW_WARPS; w++)
        v += from[w * 128];
    if (c.shared) {
        const float gate = shared_factor(c.shared_dot, token);
        v += gate * c.shared[token * c.w.n_rows + row + out];
    }
    store_number(c.y, token * c.y_row + row + out, c.y_type, v);
}

template <class D>
__global__ void __launch_bounds__(FEW_THREADS, 2)
    few_kernel(const __grid_constant__ gqmm_cuda_few c, const __grid_constant__ few_plan plan)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ few_table table;
    const bool down = c.up.plane[0] == NULL;
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5;
    const int split = warp % plan.team, team = warp / plan.team;
    const format_args f = {c.w.group, c.w.scale_type};
    const int k = (int)c.w.n_cols, steps = (k + D::step - 1) / D::step;
    const int n_tokens = (int)c.choice.n_tokens;
    const int rows = down ? n_tokens * c.choice.n_slots : n_tokens; // of activations
    uint8_t *ring = shared + warp * few_warp_bytes<D>(plan.stages);
    float *scales = (float *)(ring + plan.stages * ROWS * row_pitch<D>());
    float4 *turn = (float4 *)(shared + FEW_WARPS * few_warp_bytes<D>(plan.stages));
    uint8_t *xs = shared + plan.x_at;
    float *sums = (float *)(xs + rows * few_pitch<D>(k));

    // Down: a block has 16 rows, and its warps take all (entry, step) in turn. Gate and up: teams
    // of warps take 8 rows of an entry in turn, each its warps' share of the steps.
    const int64_t row0 = down ? (int64_t)blockIdx.x * ROWS : 0;
    const int left = (int)(c.w.n_rows - row0 < ROWS ? c.w.n_rows - row0 : ROWS);
    few_items next(down ? warp : (int)(blockIdx.x + gridDim.x * team),
                   down ? FEW_WARPS : (int)gridDim.x * (FEW_WARPS / plan.team),
                   down ? steps : (int)c.w.n_rows / 8);
    few_items now = next;
    const auto rows_of = [&](int expert, int minor) {
        return few_rows<D>(c.w, c.up, expert, down ? row0 : minor * 8, down ? left : 8);
    };
    loader<D> weights;
    weights.set(rows_of(0, 0), k, c.w.aligned, down ? left == ROWS : true, lane, f);
    // What down needs of the routing is as old as the launch before last.
    if (!down) {
        wait_for_previous();
        let_next_start();
        if (warp >= FEW_WARPS / 2) // weights would hold x up
            bring_few<D>(xs, sums, c.x, c.x_row, rows, k, NULL, f.group, warp - FEW_WARPS / 2,
                         FEW_WARPS / 2);
    }
    find_entries(table, c.choice, shared, down || blockIdx.x ? NULL : c.fault);

    const int g = lane >> 2, t = lane & 3;
    float acc[1][4] = {}, total[4] = {};
    int next_step = split, step = split, slot = 0;
#pragma unroll 1
    for (int n = -plan.stages;; n++) { // steps are asked for `stages` turns ahead
        if (n == 0 && down) {
            wait_for_previous();
            let_next_start();
            bring_few<D>(xs, sums, c.h, k, rows, k, table.id, f.group, warp, FEW_WARPS);
            __syncthreads();
        }
        uint8_t *stage = ring + slot * ROWS * row_pitch<D>();
        if (n >= 0) {
            const int entry = now.major, s = down ? now.minor : step;
            if (entry >= table.count)
                break;
            // Columns without a token read another row and are dropped.
            int from[3] = {g, 2 * t, 2 * t + 1};
            float weight[2];
            bool uses[2];
#pragma unroll
            for (int i = 0; i < 3; i++) {
                from[i] = down ? table.pair[entry][from[i]] : from[i];
                if (i > 0 && down) {
                    uses[i - 1] = from[i] >= 0;
                    weight[i - 1] = uses[i - 1] ? __ldcg(c.choice.weights + from[i]) : 0.0f;
                }
                from[i] = from[i] < 0 || from[i] >= rows ? 0 : from[i];
            }
            const int at = s * (D::step / D::piece);
            const x_tile tile[1] = {
                {xs + from[0] * few_pitch<D>(k) + s * D::step * 2 + t * 16,
                 {sums + from[1] * few_sums<D>(k) + at, sums + from[2] * few_sums<D>(k) + at}}};
            const float factor[2] = {global_of(c.w, table.expert[entry]),
                                     global_of(down ? c.w : c.up, table.expert[entry])};
            few_wait<1>(plan.stages);
            scale_table<D, 1>::make(scales, weights.at(stage, 0, lane, s), lane, f);
            __syncwarp();
            multiply<D, 1, true>(acc, weights.at(stage, 1, lane, s), weights.at(stage, 2, lane, s),
                                 scales + g * scale_table<D, 1>::row, tile, 1, 0, t, f);
            step += plan.team;
            if (down || step >= steps) { // the item's last
#pragma unroll
                for (int i = 0; i < 4; i++)
                    acc[0][i] *= factor[i / 2];
                if (down) {
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        if (uses[i & 1])
                            total[i] = fmaf(weight[i & 1], acc[0][i], total[i]);
                } else {
                    turn[threadIdx.x] = make_float4(acc[0][0], acc[0][1], acc[0][2], acc[0][3]);
                    meet(team, plan.team);
                    store_h(c, table, entry, now.minor * 8, turn + team * plan.team * 32, plan.team,
                            split * 32 + lane);
                    turn += now.odd() ? -FEW_THREADS : FEW_THREADS;
                }
                acc[0][0] = acc[0][1] = acc[0][2] = acc[0][3] = 0.0f;
                step = split;
                now.advance();
            }
            __syncwarp();
        }
        if (next.major < table.count) {
            const int expert = table.expert[next.major];
            int64_t by[3];
#pragma unroll
            for (int i = 0; i < D::planes; i++)
                by[i] = expert * c.w.expert_stride[i] +
                        (down ? 0 : next.minor * (8 * c.w.row_stride[i]));
            loader<D> there = weights;
            there.move(by);
            there.bring(stage, down ? next.minor : next_step, k, c.w.aligned, 4 * c.w.row_stride[0],
                        down ? 8 * c.w.row_stride[0] : c.up.plane[0] - c.w.plane[0], lane, f,
                        [&] { return rows_of(expert, next.minor); });
            next_step += plan.team;
            if (down || next_step >= steps) {
                next_step = split;
                next.advance();
            }
        }
        copies_commit();
        slot = slot + 1 == plan.stages ? 0 : slot + 1;
    }
    if (down) {
        turn[threadIdx.x] = make_float4(total[0], total[1], total[2], total[3]);
        __syncthreads();
        store_y(c, turn, row0);
    } else if (blockIdx.x + 1 == gridDim.x && c.choice.logits && warp < n_tokens) {
        // For the caller, and for the weights of down, which waits for this launch.
        const int slots = c.choice.n_slots, own = lane < slots ? table.id[warp * slots + lane] : -1;
        if (lane < slots)
            c.choice.ids[warp * slots + lane] = own;
        weigh(c.choice, c.choice.logits + warp * c.choice.n_experts, NULL,
              c.choice.weights + warp * slots, own);
    }
}

// ---------------------------------------------------------------- host

// Up to four steps of a warp are under way, in up to 112 KB.
template <class D> int few_stages(int64_t most)
{
    int stages = most < 4 ? (int)most : 4;
    while (stages > 1 && FEW_WARPS * few_warp_bytes<D>(stages) > 112 * 1024)
        stages--;
    return stages < 1 ? 1 : stages;
}

// Dynamic shared memory with which two blocks share a multiprocessor.
inline size_t few_half()
{
    return (size_t)(device_has(cudaDevAttrMaxSharedMemoryPerMultiprocessor, 100 * 1024) / 2 - 2048);
}

// Where the rings end, and the shared memory of a block.
template <class D> int few_x_at(const gqmm_cuda_few *c, int stages)
{
    const int scratch = few_scratch(c->choice.n_experts, c->choice.n_slots);
    const int ring = FEW_WARPS * few_warp_bytes<D>(stages) + FEW_SUM_BYTES;
    return ring < scratch ? (scratch + 127) / 128 * 128 : ring;
}

template <class D> size_t few_bytes(const gqmm_cuda_few *c, const few_plan &plan)
{
    const int64_t rows = c->choice.n_tokens * (c->up.plane[0] ? 1 : c->choice.n_slots);
    return (size_t)(plan.x_at + rows * few_row_bytes<D>(c->w.n_cols) +
                    few_sums<D>(c->w.n_cols) * sizeof(float) + 128);
}

template <class D> few_plan plan_few(const gqmm_cuda_few *c)
{
    const int64_t pairs = c->choice.n_tokens * c->choice.n_slots;
    const int steps = (int)((c->w.n_cols + D::step - 1) / D::step);
    few_plan plan = {1, 0, 0};
    if (!c->up.plane[0]) {
        plan.stages = few_stages<D>((pairs * steps + FEW_WARPS - 1) / FEW_WARPS);
        // More blocks than multiprocessors: shorter rings rather than blocks that wait for others.
        const bool wait = (c->w.n_rows + ROWS - 1) / ROWS > multiprocessors();
        for (int n = plan.stages; wait && n > 0; n--)
            if (few_bytes<D>(c, {1, n, few_x_at<D>(c, n)}) <= few_half()) {
                plan.stages = n;
                break;
            }
    } else {
        while (plan.team < 4 && plan.team * 2 <= steps)
            plan.team *= 2;
        const int64_t teams = (int64_t)multiprocessors() * (FEW_WARPS / plan.team);
        plan.stages = few_stages<D>((pairs * (c->w.n_rows / 8) + teams - 1) / teams *
                                    ((steps + plan.team - 1) / plan.team));
    }
    plan.x_at = few_x_at<D>(c, plan.stages);
    return plan;
}

// What a block asks for. Gate and up have a block a multiprocessor and begin while the launch ahead
// still has some of these: where two fitted, two would lie on one, and others would have none. So
// they ask for half of all, which what each block has besides makes more.
template <class D> size_t few_shared(const gqmm_cuda_few *c, const few_plan &plan)
{
    const size_t bytes = few_bytes<D>(c, plan);
    return c->up.plane[0] && bytes <= few_half() ? few_half() + 2048 : bytes;
}

template <class D> int few(const gqmm_cuda_few *c, int path, gqmm_stream s)
{
    const few_plan plan = plan_few<D>(c);
    const int64_t blocks = c->up.plane[0] ? multiprocessors() : (c->w.n_rows + ROWS - 1) / ROWS;
    gqmm_cuda_few given = *c;
    if (given.choice.routed_scale == 0.0f)
        given.choice.routed_scale = 1.0f;
    return launch(few_kernel<D>, dim3((unsigned)blocks), dim3(FEW_THREADS), few_shared<D>(c, plan),
                  s, path, given, plan);
}

inline bool lie_alike(const gqmm_cuda_matrix &a, const gqmm_cuda_matrix &b)
{
    bool alike = a.aligned == b.aligned;
    for (int i = 0; i < 3; i++)
        alike =
            alike && a.expert_stride[i] == b.expert_stride[i] && a.row_stride[i] == b.row_stride[i];
    return alike;
}

// Whether rows of a plane lie multiples of 16 bytes apart where a loader goes.
inline bool few_apart(const gqmm_cuda_few *c, int plane)
{
    return c->w.expert_stride[plane] % 16 == 0 &&
           (!c->up.plane[0] || c->w.row_stride[plane] * 8 % 16 == 0);
}

template <class D> bool few_fits(const gqmm_cuda_few *c)
{
    const gqmm_cuda_topk &t = c->choice;
    const bool two = c->up.plane[0] != NULL;
    const int64_t most = device_has(cudaDevAttrMaxSharedMemoryPerBlockOptin, 99 * 1024) - 4096;
    return t.n_tokens == 1 && t.n_slots <= MOST_FEW_SLOTS && t.n_experts <= MOST_FEW_EXPERTS &&
           few_apart(c, 0) && (!scale_bytes_of<D>::value || few_apart(c, 1)) &&
           (!two || (c->w.n_rows % 8 == 0 && lie_alike(c->w, c->up) && c->x_row % 8 == 0 &&
                     (uintptr_t)c->x % 16 == 0)) &&
           c->w.n_cols % 8 == 0 && (int64_t)few_bytes<D>(c, plan_few<D>(c)) <= most;
}

} // namespace gqmm

#endif
