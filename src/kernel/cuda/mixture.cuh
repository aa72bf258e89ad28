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

#include "kernel/cuda/choose.cuh"
#include "kernel/cuda/few.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/pieces.cuh"

namespace gqmm
{

constexpr int FEW_WARPS = 16, FEW_THREADS = FEW_WARPS * 32;

template <class D> struct of_own : D {
    typedef D base;
};

// A decoder of the steps that warps take.
template <class D> using few_step = std::conditional_t<is_plain<D>, of_own<D>, of_256<D>>;
template <class S> GQMM_HD constexpr int few_stage()
{
    return ROWS * row_pitch<S>();
}

// Codes in two parts would take more registers than there are.
template <class S>
using few_x = piece_x<typename S::base, S::step, piece_codes<typename S::base, true>::parts == 1>;

struct few_plan {
    int team_bits; // 2^this warps share 8 outputs of gate and up and split K among them
    int stages;    // steps of a warp under way
    int sums_at;   // in shared memory: bytes before what warps add up, [turn, warp, row]
    int items;     // of an entry: steps, or eights of outputs
    float part;    // 1 / items
    int by[2];     // how far a warp's next item is: entries, and items
};

constexpr int FEW_SUM_BYTES = 2 * FEW_WARPS * ROWS * (int)sizeof(float);

// Experts in use, in the order of their slots.
struct few_table {
    int count;
    int16_t expert[MOST_FEW_SLOTS], slot[MOST_FEW_SLOTS];
    float weight[MOST_FEW_SLOTS]; // of slots
};

// `scratch` has few_scratch() bytes of shared memory.
__device__ __forceinline__ void find_entries(few_table &to, const gqmm_cuda_topk &t,
                                             uint8_t *scratch, uint32_t *fault)
{
    const int lane = (int)threadIdx.x;
    if (t.logits) {
        choose_one<FEW_WARPS>(
            scratch, t, [&](int e) { return __ldcg(t.logits + e); },
            [&](int slot, int e) {
                to.slot[slot] = (int16_t)slot;
                to.expert[slot] = (int16_t)e;
            });
        if (lane == 0)
            to.count = t.n_slots < t.n_experts ? t.n_slots : t.n_experts;
    } else if (lane < 32) {
        const int id = lane < t.n_slots ? t.ids[lane] : -1;
        if ((id < -1 || id >= t.n_experts) && fault)
            atomicOr(fault, (uint32_t)GQMM_FAULT_EXPERT);
        const bool is = id >= 0 && id < t.n_experts;
        const uint32_t some = __ballot_sync(~0u, is);
        const int at = __popc(some & ((1u << lane) - 1));
        if (is) {
            to.slot[at] = (int16_t)lane;
            to.expert[at] = (int16_t)id;
        }
        to.count = __popc(some);
    }
    __syncthreads();
}

// Weights of slots, by one warp; FIRST: for the caller as well, with the ids.
__device__ __forceinline__ void find_weights(few_table &to, const gqmm_cuda_topk &t, bool first)
{
    const int lane = (int)threadIdx.x;
    if (!t.logits) {
        if (lane < t.n_slots)
            to.weight[lane] = __ldcg(t.weights + lane);
        return;
    }
    const int own = lane < to.count ? to.expert[lane] : -1;
    const float weight = weight_of(t, t.logits, own);
    if (lane < t.n_slots)
        to.weight[lane] = weight;
    if (first && lane < t.n_slots) {
        t.ids[lane] = own;
        t.weights[lane] = weight;
    }
}

// 16 rows of an expert from `row` on or, with `up`, 8 of each of two matrices that lie alike.
template <class D>
__device__ __forceinline__ row_block few_rows(const gqmm_cuda_few &c, int expert, int64_t row,
                                              int count)
{
    row_block b;
    b.halves = c.up.plane[0] != NULL;
    b.count = count;
#pragma unroll
    for (int i = 0; i < D::planes; i++) {
        b.stride[i] = c.w.row_stride[i];
        b.first[i] = c.w.plane[i] + expert * c.w.expert_stride[i] + row * c.w.row_stride[i];
        b.second[i] = c.up.plane[i] - c.w.plane[i];
    }
    return b;
}

// Waits for the `warps` warps of a team.
__device__ __forceinline__ void meet(int team, int warps)
{
    if (warps == 1)
        __syncwarp();
    else
        asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "r"(warps * 32) : "memory");
}

// What lanes have of rows g and g + 8 to a warp's sums.
__device__ __forceinline__ void keep_rows(float *sums, float (&acc)[2], int g, int t)
{
    add_quad(acc);
    if (t < 2)
        sums[g + 8 * t] = t ? acc[1] : acc[0];
}

__device__ __forceinline__ float add_warps(const float *sums, int warps)
{
    float v = 0.0f;
#pragma unroll 4
    for (int w = 0; w < warps; w++)
        v += sums[w * ROWS];
    return v;
}

template <class S, bool ALIGNED>
__global__ void __launch_bounds__(FEW_THREADS, 2)
    few_kernel(const __grid_constant__ gqmm_cuda_few c, const __grid_constant__ few_plan plan)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ few_table table;
    const bool down = c.up.plane[0] == NULL;
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, g = lane >> 2,
              t = lane & 3;
    const int team_warps = 1 << plan.team_bits, split = warp & (team_warps - 1),
              team = warp >> plan.team_bits;
    const format_args f = {c.w.group, c.w.scale_type};
    const int k = (int)c.w.n_cols, steps = (k + S::step - 1) / S::step;
    uint8_t *ring = shared + warp * (plan.stages * few_stage<S>());
    float *sums = (float *)(shared + plan.sums_at);

    // Down: a block has 16 rows, and its warps take all (entry, step) in turn. Gate and up: teams
    // of warps take 8 rows of an entry in turn, each its warps' share of the steps.
    const int64_t row0 = down ? (int64_t)blockIdx.x * ROWS : 0;
    const int left = (int)(c.w.n_rows - row0 < ROWS ? c.w.n_rows - row0 : ROWS);
    few_items next(down ? warp : (int)(blockIdx.x + gridDim.x * team), plan.by[0], plan.by[1],
                   plan.items, plan.part);
    int major = next.major, minor = next.minor; // of the item that is next to be multiplied
    bool odd = false;
    const auto rows_of = [&](int expert, int eight) {
        return few_rows<S>(c, expert, down ? row0 : eight * 8, down ? left : 8);
    };
    loader<S> weights;
    weights.set(rows_of(0, 0), k, c.w.aligned, down ? left == ROWS : true, lane, f);
    few_x<S> x;
    int next_step = split, step = split, slot = 0;
    const auto ask_x = [&] { // of the step that is next to be multiplied
        const int s = down ? minor : step;
        const uint16_t *row = (const uint16_t *)c.x;
        if (down)
            row = (const uint16_t *)c.h + table.slot[major] * (int64_t)k;
        x.load(row + s * S::step, k - s * S::step, g, t);
    };
    // What down needs of the routing is as old as the launch before last.
    if (!down) {
        wait_for_previous();
        let_next_start();
        ask_x();
    }
    find_entries(table, c.choice, shared, down || blockIdx.x ? NULL : c.fault);
    float acc[2] = {};
#pragma unroll 1
    for (int n = -plan.stages;; n++) { // steps are asked for `stages` turns ahead
        if (n == 0 && down) {
            if (warp == 0)
                find_weights(table, c.choice, blockIdx.x == 0);
            wait_for_previous();
            let_next_start();
            if (major < table.count)
                ask_x();
            __syncthreads();
        }
        uint8_t *stage = ring + slot * few_stage<S>();
        if (n >= 0) {
            const int entry = major, row = minor * 8, s = down ? minor : step;
            float *to = sums + odd * (FEW_WARPS * ROWS);
            if (entry >= table.count)
                break;
            const int expert = table.expert[entry], pair = table.slot[entry];
            x.prepare(g, t);
            const float factor = down ? table.weight[pair] * x.post : x.post;
            const float factors[2] = {factor * global_of(c.w, expert),
                                      factor * global_of(down ? c.w : c.up, expert)};
            const bool last = step + team_warps >= steps; // of an item of gate and up
            step = last ? split : step + team_warps;
            if (down || last)
                next.move(major, minor);
            if (major < table.count)
                ask_x();
            float part[2] = {};
            few_wait<1>(plan.stages);
            x.template multiply<ALIGNED, false>(
                part, weights.at(stage, 1, lane, s), weights.at(stage, 2, lane, s), t, f,
                [&](uint32_t(&v)[4], int j) { x.operand(v, j, g, t); });
            acc[0] = fmaf(factors[0], part[0], acc[0]);
            acc[1] = fmaf(factors[1], part[1], acc[1]);
            if (!down && last) {
                keep_rows(to + warp * ROWS, acc, g, t);
                meet(team, team_warps);
                to += team * team_warps * ROWS + lane;
                if (split == 0 && lane < 8) {
                    const float h = swiglu(add_warps(to, team_warps), add_warps(to + 8, team_warps),
                                           sum_factors{});
                    store_number(c.h, pair * c.w.n_rows + row + lane, GQMM_BF16, h);
                }
                acc[0] = acc[1] = 0.0f;
                odd = !odd;
            }
            __syncwarp();
        }
        if (next.major < table.count) {
            const int expert = table.expert[next.major];
            int64_t by[3];
#pragma unroll
            for (int i = 0; i < S::planes; i++)
                by[i] = expert * c.w.expert_stride[i] +
                        (down ? 0 : next.minor * (8 * c.w.row_stride[i]));
            loader<S> there = weights;
            there.move(by);
            there.bring(stage, down ? next.minor : next_step, k, c.w.aligned, 4 * c.w.row_stride[0],
                        down ? 8 * c.w.row_stride[0] : c.up.plane[0] - c.w.plane[0], lane, f,
                        [&] { return rows_of(expert, next.minor); });
            next_step += team_warps;
            if (down || next_step >= steps) {
                next_step = split;
                next.advance();
            }
        }
        copies_commit();
        slot = slot + 1 == plan.stages ? 0 : slot + 1;
    }
    if (!down)
        return;
    keep_rows(sums + warp * ROWS, acc, g, t);
    __syncthreads();
    if (warp == 0 && lane < left) {
        float v = add_warps(sums + lane, FEW_WARPS);
        if (c.shared)
            v += shared_factor(c.shared_dot, 0) * c.shared[row0 + lane];
        store_number(c.y, row0 + lane, c.y_type, v);
    }
}

// ---------------------------------------------------------------- host

// Up to four steps of a warp are under way, in up to 112 KB.
template <class S> int few_stages(int64_t most)
{
    int stages = most < 4 ? (int)most : 4;
    while (stages > 1 && FEW_WARPS * stages * few_stage<S>() > 112 * 1024)
        stages--;
    return stages < 1 ? 1 : stages;
}

// Dynamic shared memory with which two blocks share a multiprocessor.
inline size_t few_half()
{
    return (size_t)(device_has(cudaDevAttrMaxSharedMemoryPerMultiprocessor, 100 * 1024) / 2 - 2048);
}

// Of a block: the rings, where the choice is made before they are in use, then sums.
template <class S> int few_sums_at(const gqmm_cuda_few *c, int stages)
{
    const int scratch = few_scratch<FEW_WARPS>(c->choice.n_experts, c->choice.n_slots);
    const int ring = FEW_WARPS * stages * few_stage<S>();
    return ring < scratch ? (scratch + 127) / 128 * 128 : ring;
}

template <class S> few_plan plan_few(const gqmm_cuda_few *c)
{
    const int64_t slots = c->choice.n_slots;
    const int steps = (int)((c->w.n_cols + S::step - 1) / S::step);
    few_plan plan = {};
    int stride = FEW_WARPS;
    plan.items = steps;
    if (!c->up.plane[0]) {
        plan.stages = few_stages<S>((slots * steps + FEW_WARPS - 1) / FEW_WARPS);
        // More blocks than multiprocessors: shorter rings rather than blocks that wait for others.
        const bool wait = (c->w.n_rows + ROWS - 1) / ROWS > multiprocessors();
        for (int n = plan.stages; wait && n > 0; n--)
            if ((size_t)few_sums_at<S>(c, n) + FEW_SUM_BYTES <= few_half()) {
                plan.stages = n;
                break;
            }
    } else {
        while (plan.team_bits < 2 && 2 << plan.team_bits <= steps)
            plan.team_bits++;
        plan.items = (int)(c->w.n_rows / 8);
        stride = multiprocessors() * (FEW_WARPS >> plan.team_bits);
        plan.stages = few_stages<S>((slots * plan.items + stride - 1) / stride *
                                    ((steps + (1 << plan.team_bits) - 1) >> plan.team_bits));
    }
    plan.part = 1.0f / (float)plan.items;
    plan.by[0] = stride / plan.items;
    plan.by[1] = stride % plan.items;
    plan.sums_at = few_sums_at<S>(c, plan.stages);
    return plan;
}

// What a block asks for. Gate and up have a block a multiprocessor and begin while the launch ahead
// still has some of these: where two fitted, two would lie on one, and others would have none. So
// they ask for half of all, which what each block has besides makes more.
inline size_t few_bytes(const gqmm_cuda_few *c, const few_plan &plan)
{
    const size_t bytes = (size_t)(plan.sums_at + FEW_SUM_BYTES);
    return c->up.plane[0] && bytes <= few_half() ? few_half() + 2048 : bytes;
}

template <class S, bool ALIGNED> int launch_few(const gqmm_cuda_few *c, int path, gqmm_stream s)
{
    const few_plan plan = plan_few<S>(c);
    const int64_t blocks = c->up.plane[0] ? multiprocessors() : (c->w.n_rows + ROWS - 1) / ROWS;
    gqmm_cuda_few given = *c;
    if (given.choice.routed_scale == 0.0f)
        given.choice.routed_scale = 1.0f;
    return launch(few_kernel<S, ALIGNED>, dim3((unsigned)blocks), dim3(FEW_THREADS),
                  few_bytes(c, plan), s, path, given, plan);
}

template <class D> int few(const gqmm_cuda_few *c, int path, gqmm_stream s)
{
    typedef few_step<D> step;
    if constexpr (D::loose) {
        if (!rows_at(c->w, 0, D::align) || (c->up.plane[0] && !rows_at(c->up, 0, D::align)))
            return launch_few<step, false>(c, path, s);
    }
    return launch_few<step, true>(c, path, s);
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
           c->w.n_cols % 32 == 0 && !(D::planes == 3 && c->w.scale_type == GQMM_F32) &&
           (int64_t)few_bytes(c, plan_few<few_step<D>>(c)) <= most;
}

} // namespace gqmm

#endif
