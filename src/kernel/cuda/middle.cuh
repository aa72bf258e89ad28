// SPDX-License-Identifier: MIT
// The product of one matrix and dozens to thousands of columns of bf16, in one launch: sm_90a.
//
// All multiprocessors are to have the same work, which is R rows of weights by a part of K: weights
// come from memory once, activations from L2 once for each R rows. 64 rows by 32 along K by 64
// columns are 64 cycles of the tensor cores: steps of 256 columns take no more, of 128 some 70, of
// 64 and fewer 110 and more, in which warps make operands, instruction after instruction.
//
//   block     warpgroups with 64 rows each and one thread that asks the tensor memory accelerator
//             for weights, as they lie in the file, before the launch ahead has ended, and for
//             activations behind it, through a ring each. Twice as many may share the rows and
//             halve each step along K: more warps hide that they wait for themselves
//   operand   weights become bf16 in registers, 64 along K at a time, while wgmma of other warps is
//             at work; activations keep their order, see middle_weights.cuh. Or a format's decoder
//             makes them in an order of its own, and two more warps bring activations into it where
//             they lie, see middle_made.cuh
//   cluster   blocks that have the same rows split K. Each writes its sums to the shared memory of
//             the block that adds these columns up, always in the same order: middle_sums.cuh
//   plan      tiles, rows, splits and blocks of a multiprocessor by what they cost, in
//             middle_plan.cuh. Where two blocks fit, the next launch's weights arrive while this
//             one multiplies
#ifndef GQMM_KERNEL_CUDA_MIDDLE_CUH
#define GQMM_KERNEL_CUDA_MIDDLE_CUH

#include "kernel/cuda/middle_order.cuh"
#include "kernel/cuda/middle_sums.cuh"
#include "kernel/cuda/tensor_map.cuh"

namespace gqmm
{
namespace middle_product
{

// Bytes of an element of a tensor of weights: a tile has up to 256.
template <class W> GQMM_HD constexpr int unit_of()
{
    return W::row_bytes > 256 ? 2 : 1;
}

template <class W, int N> struct producer {
    const middle_args &a;
    const block_memory &mem;
    const block_work &work;

    static constexpr int UNIT = unit_of<W>();

    __device__ __forceinline__ void start() const
    {
        for (int i = 0; i < a.weight_stages; i++) {
            barrier_init(mem.full_weights(i), 1);
            barrier_init(mem.empty_weights(i), 4 * a.groups << a.split);
        }
        for (int i = 0; i < a.column_stages; i++) {
            barrier_init(mem.full_columns(i), 1);
            barrier_init(mem.empty_columns(i), 4 * a.groups);
            if (W::ordered)
                barrier_init(mem.ordered_columns(i), 32);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        fence_for_wgmma(); // this thread's first copies follow at once
    }

    __device__ __forceinline__ void weights(int step, int stage) const
    {
        const int bytes = a.groups * 64 * W::row_bytes;
        const uint32_t full = mem.full_weights(stage);
        barrier_expect(full, bytes);
        copy_tile(shared_address(mem.data) + a.weights_at + stage * bytes, &a.w,
                  (work.first + step) * W::step_bytes / 16 * (16 / UNIT), work.row, full);
    }

    __device__ __forceinline__ void first_weights() const
    {
        for (int i = 0; i < a.weight_stages && i < work.steps; i++)
            weights(i, i);
    }

    // Columns lie no more stages ahead than weights: a step whose last columns are free is free.
    __device__ __forceinline__ void rest() const
    {
        ring columns(1), free(0);
        int done = 0, next = a.weight_stages; // steps that are, the step whose weights are due
        for (int part = 0; part < PARTS * work.steps; part++) {
            const uint32_t full = mem.full_columns(columns.stage);
            barrier_wait(mem.empty_columns(columns.stage), columns.parity);
            barrier_expect(full, N * PART * 2);
            copy_tile(shared_address(mem.data) + columns.stage * (N * PART * 2), &a.x,
                      work.first * STEP + part * PART, work.column, full);
            columns.next(a.column_stages);
            if (part + 1 - a.column_stages < PARTS * (done + 1) || next >= work.steps)
                continue;
            done++;
            barrier_wait(mem.empty_weights(free.stage), free.parity);
            weights(next++, free.stage);
            free.next(a.weight_stages);
        }
    }
};

// Lane 0's, which all have: it goes to where descriptors are added to once a warp.
__device__ __forceinline__ uint32_t uniform(uint32_t v)
{
    return __shfl_sync(0xffffffffu, v, 0);
}

template <int N> __device__ __forceinline__ void settle(float (&acc)[N / 2])
{
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        asm volatile("" : "+f"(acc[i])::"memory");
}

// Sums of a warp's rows over the block's steps: of each all parts along k or, where it is split,
// the first or the second half of them.
template <class W, int N, int SPLIT>
__device__ __forceinline__ void main_loop(float (&acc)[N / 2], const middle_args &a,
                                          const block_memory &mem, W &w, int steps, int half,
                                          int lane)
{
    constexpr int HERE = PARTS >> SPLIT, MATRIX = N * PART * 2;
    const int bytes = a.groups * 64 * W::row_bytes, first = SPLIT ? half * HERE : 0;
    const uint64_t columns_at = wgmma_matrix(shared_address(mem.data) + first * MATRIX);
    ring weights(0), columns(0);
    int last = -1; // stage of columns that is not given back yet
    settle<N>(acc);
    do { // with a test first, the sums would be copied while wgmma are at work
        const uint8_t *stage = mem.data + a.weights_at + weights.stage * bytes;
        const uint64_t matrices = wgmma_matrix_at(columns_at, uniform(columns.stage * MATRIX));
        const int here = columns.stage + first;
        barrier_wait(mem.full_weights(weights.stage), weights.parity);
        w.start(stage, lane);
#pragma unroll
        for (int part = 0; part < HERE; part++) {
            const uint64_t matrix = wgmma_matrix_at(matrices, part * MATRIX);
            uint32_t lower[8], upper[8];
            w.load(stage, first + part, 0);
            wgmma_wait<0>(); // others multiply while this warp makes operands
            barrier_arrive_if(lane == 0 && (part > 0 || last >= 0),
                              mem.empty_columns(part > 0 ? here + part - 1 : last));
            w.make(lower, first + part, 0);
            w.load(stage, first + part, 1);
            w.make(upper, first + part, 1);
            barrier_wait(W::ordered ? mem.ordered_columns(here + part)
                                    : mem.full_columns(here + part),
                         columns.parity);
            wgmma_fence();
            wgmma<N>::add(acc, lower, matrix);
            wgmma<N>::add(acc, lower + 4, wgmma_matrix_at(matrix, 32));
            wgmma<N>::add(acc, upper, wgmma_matrix_at(matrix, 64));
            wgmma<N>::add(acc, upper + 4, wgmma_matrix_at(matrix, 96));
            wgmma_commit();
        }
        last = here + HERE - 1;
        columns.next(a.column_stages, PARTS);
        __syncwarp();
        barrier_arrive_if(lane == 0, mem.empty_weights(weights.stage));
        w.finish();
        weights.next(a.weight_stages);
    } while (--steps > 0);
    wgmma_wait<0>();
    settle<N>(acc);
}

// All who have parts of the same sums: every thread of a cluster, or those of a block that
// multiply.
template <int N>
__device__ __forceinline__ void sharers_sync(const middle_args &a, bool consumes, int threads)
{
    if (N <= 128 && a.cluster > 1)
        cluster_sync();
    else if (consumes)
        warps_sync(1, threads);
}

template <class W, int N, int SPLIT>
__global__ void __launch_bounds__(128 * most_groups<W>(N) + bringers(N) + orderers<W>(N), 1)
    kernel(const __grid_constant__ middle_args a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) // elsewhere nobody launches it
    extern __shared__ uint8_t shared[];
    const block_memory mem(shared);
    const int lane = (int)threadIdx.x & 31, rank = (int)cluster_rank();
    const int all = (int)threadIdx.x >> 5, half = SPLIT && all >= 4 * a.groups;
    const int warp = half ? all - 4 * a.groups : all; // by its rows
    const int consumers = 4 * a.groups << a.split;    // warps
    const bool consumes = all < consumers, brings = all == consumers && lane == 0;
    const block_work work = block_work::of<N>(a, rank);
    const int count = a.m - work.column < N ? a.m - work.column : N;
    const producer<W, N> bring = {a, mem, work};
    W w;
    if (a.cluster > 1 && a.sums_at > 0)
        cluster_begun();
    if (!a.early)
        wait_for_previous();
    if (brings) {
        bring.start();
        bring.first_weights();
    } else if (consumes) {
        const int64_t row = work.row + warp * 16;
        w.set(a.scales, mem.data + a.scales_at, a.groups * 64, row, a.n - row, warp, half, a.split,
              lane, work.first, work.steps);
    }
    wait_for_previous();
    let_next_start();
    if (consumes)
        copies_wait();
    __syncthreads();
    if constexpr (N > 128) { // registers go to those who multiply
        if (!consumes) {
            registers_down<24>();
            if (brings)
                bring.rest();
            return;
        }
        registers_up<240>();
    }
    float acc[N / 2];
#    pragma unroll
    for (int i = 0; i < N / 2; i++)
        acc[i] = 0.0f;
    if (consumes)
        main_loop<W, N, SPLIT>(acc, a, mem, w, work.steps, half, lane);
    else if (brings)
        bring.rest();
    if constexpr (W::ordered)
        if (all > consumers)
            order_columns<W, N>(a, mem, work.steps, all - consumers - 1, lane);
    __syncwarp();
    if (a.whole_16 && a.cluster << a.split == 1) {
        if (consumes)
            store_tiles<W, N>(a, mem, acc, work, W::factor(a), count, warp, lane);
        return;
    }
    const int mine = (rank << a.split) + half;
    if (a.sums_at == 0) // where stages are, which all must have read
        sharers_sync<N>(a, consumes, 32 * consumers);
    else if (a.cluster > 1)
        cluster_wait();
    if (consumes)
        give_away<N>(a, mem, acc, mine, warp, lane);
    sharers_sync<N>(a, consumes, 32 * consumers);
    if (consumes)
        add_up<N>(a, mem, work, W::factor(a), mine, count, warp, lane);
#endif
}

// ---------------------------------------------------------------- host

inline bool describe(CUtensorMap *map, CUtensorMapDataType type, const void *at, int64_t columns,
                     int64_t rows, int64_t stride, int width, int height, bool swizzled)
{
    static const tensor_encoder encode = find_tensor_encoder();
    const cuuint64_t size[] = {(cuuint64_t)columns, (cuuint64_t)rows};
    const cuuint64_t bytes[] = {(cuuint64_t)stride};
    const cuuint32_t box[] = {(cuuint32_t)width, (cuuint32_t)height}, step[] = {1, 1};
    return encode &&
           encode(map, type, 2, (void *)at, size, bytes, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <class W, int N>
int launch_middle(const gqmm_cuda_product *p, const middle_plan &plan, gqmm_stream s)
{
    middle_args a = {};
    const middle_rows r = rows_of(p);
    const uint8_t *codes = p->w.plane[0] + p->expert * p->w.expert_stride[0];
    a.scales = scales_of<W>(p);
    a.global = p->w.global ? p->w.global + p->expert * p->w.global_stride : NULL;
    a.y = p->y;
    a.y_row = r.y_row;
    a.n = p->n;
    a.m = (int)r.m;
    a.y_type = p->y_type;
    a.early = p->ids_early;
    a.steps = (int)((p->k + STEP - 1) / STEP);
    a.cluster = plan.cluster;
    a.groups = plan.groups;
    a.split = plan.split;
    a.row_blocks = (int)((p->n + plan.groups * 64 - 1) / (plan.groups * 64));
    a.whole_y =
        p->y_type != GQMM_F32 && (uintptr_t)p->y % 4 == 0 && r.y_row % 2 == 0 && p->n % 2 == 0;
    a.whole_16 =
        p->y_type == GQMM_BF16 && (uintptr_t)p->y % 16 == 0 && r.y_row % 8 == 0 && p->n % 8 == 0;
    lay_out<W>(&a, plan);
    constexpr int unit = unit_of<W>();
    if (!describe(&a.w, unit == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_UINT16,
                  codes, W::bytes(p->k) / unit, p->n, p->w.row_stride[0], W::row_bytes / unit,
                  plan.groups * 64, W::swizzled) ||
        !describe(&a.x, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, p->x, p->k, r.m, r.x_row * 2, PART, N,
                  true))
        return (int)cudaErrorInvalidValue;
    const int64_t tiles = (r.m + N - 1) / N * a.row_blocks;
    const int threads = (128 * a.groups << a.split) + bringers(N) + orderers<W>(N);
    constexpr bool splits = W::most_split > 0 && N <= 128;
    return launch_cluster(plan.split ? kernel<W, N, splits> : kernel<W, N, 0>,
                          dim3((unsigned)(tiles * a.cluster)), dim3((unsigned)threads), a.cluster,
                          (size_t)a.bytes, s, GQMM_CUDA_SM90, a);
}

template <class D> int start(const gqmm_cuda_product *p, const middle_plan &plan, gqmm_stream s)
{
    using W = middle_weights<D>;
    if constexpr (W::most_width == 256)
        if (plan.width == 256)
            return launch_middle<W, 256>(p, plan, s);
    return plan.width == 32   ? launch_middle<W, 32>(p, plan, s)
           : plan.width == 64 ? launch_middle<W, 64>(p, plan, s)
                              : launch_middle<W, 128>(p, plan, s);
}

} // namespace middle_product

// Whether middle() takes these sizes and beats all others. x is to lie at a multiple of 16.
template <class D> bool middle_fits(const gqmm_cuda_product *p)
{
    if constexpr (middle_product::middle_weights<D>::exists)
        return middle_product::fits<middle_product::middle_weights<D>>(p);
    return false;
}

template <class D> int middle(const gqmm_cuda_product *p, gqmm_stream s)
{
    if constexpr (middle_product::middle_weights<D>::exists) {
        middle_product::middle_plan plan;
        if (middle_product::plan_for<middle_product::middle_weights<D>>(&plan, p))
            return middle_product::start<D>(p, plan, s);
    }
    return (int)cudaErrorInvalidValue;
}

} // namespace gqmm

#endif
