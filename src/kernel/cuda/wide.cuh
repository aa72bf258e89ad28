// SPDX-License-Identifier: MIT
// The product in tiles of many columns, with wgmma of sm_90a: bf16 activations, weights rounded to
// bf16.
//
// A block walks (tile, row block) items in the order of the list. Loader warps bring weights as
// they lie in the file and activations, by cp.async, each through a ring of its own; two warpgroups
// of consumers turn weights into the left operand of wgmma in registers, 64 rows by 64 along k at a
// time, while the wgmma of the one before runs. Activations come in the decoder's order of k (see
// wide_order.cuh); they are the right operand, in shared memory.
//
// A ring has a barrier `full` and a barrier `empty` for each stage. Every thread arrives for what
// it wrote or read itself, of weights by cp.async: one lane after a __syncwarp() would do, but is
// no faster, and racecheck takes an arrival for the thread alone that makes it.
//
// Which row of weights stands in which place of a fragment is free. The order is such that, once 8
// x 8 blocks of the sums are transposed, a lane holds neighbouring outputs of one column; and gate
// and up of an output are in the same lane.
#ifndef GQMM_KERNEL_CUDA_WIDE_CUH
#define GQMM_KERNEL_CUDA_WIDE_CUH

#include "kernel/cuda/epilogue.cuh"
#include "kernel/cuda/wgmma.cuh"
#include "kernel/cuda/wide_few.cuh"
#include "kernel/cuda/wide_load.cuh"
#include "kernel/cuda/wide_operand.cuh"
#include "kernel/cuda/wide_order.cuh"
#include "kernel/cuda/wide_plan.cuh"
#include "kernel/cuda/wide_store.cuh"
#include "kernel/cuda/wide_weights.cuh"

namespace gqmm
{
namespace wide_product
{

template <int N, int M>
__device__ __forceinline__ void multiply(float (&acc)[M], const uint32_t (&operand)[16],
                                         uint64_t matrix)
{
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        wgmma<N>::add(acc, operand + 4 * i, matrix);
        // One number that grows: four would be kept, and each copied to where it is used.
        uint32_t low = (uint32_t)matrix;
        asm volatile("add.u32 %0, %0, 2;" : "+r"(low));
        matrix = (matrix >> 32 << 32) | low;
    }
    wgmma_commit(); // here, or a branch between would make a group of its own of it
}

// The compiler neither moves a use of the sums ahead of this nor their making behind it.
template <class S> __device__ __forceinline__ void settle(float (&acc)[2][S::N / 2])
{
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int i = 0; i < S::N / 2; i++)
            asm volatile("" : "+f"(acc[m][i])::"memory");
}

// Wide tiles are multiplied no wider than their columns need, to so many. Each width is code of its
// own, for steps of its own: a branch ahead of each multiplication costs as much as it spares.
// Formats that take longer to compile and to decode have two.
template <class D> constexpr int WIDTHS_APART = wide_codes<D>::apart;

template <class D, class S, int W> constexpr bool is_least_width()
{
    const int next = W - WIDTHS_APART<D>;
    return next < 64 || next < (WIDTHS_APART<D> < 32 ? S::N / 2 : S::N - WIDTHS_APART<D>);
}

// A consumer warp's way through the steps of a tile.
template <class D, class S> struct tile_walk {
    warp_rows<D, S> rows;
    uint32_t *scales; // of a step
    uint64_t columns_at;
    int warp, lane, step, steps;
    // Two operands, each with sums of its own, take turns: the halves of the rows, or even and odd
    // parts along k. While wgmma reads one, the other is made.
    uint32_t operand[2][16];
    bool held; // stage `last` of columns is not given back yet
    int last;

    __device__ __forceinline__ void bring_scales(const wide_args &a, const block_memory &mem,
                                                 const ring &weights)
    {
        barrier_wait(mem.full(0, weights.stage), weights.parity);
        __syncwarp();
        make_scales<D, S>(scales, a, mem.weights + weights.stage * a.stage_bytes, warp, lane, rows,
                          step);
        __syncwarp();
    }
};

// A step of a warp's rows times W columns, then the scales of the next.
template <class D, class S, int W>
__device__ __forceinline__ void multiply_step(float (&acc)[2][S::N / 2], tile_walk<D, S> &at,
                                              const wide_args &a, const block_memory &mem,
                                              ring &weights, ring &columns)
{
    static_assert(D::step % (64 * S::SUBS) == 0, "stages of columns in a step");
    const format_args f = {a.p.w.group, a.p.w.scale_type};
    const uint8_t *stage = mem.weights + weights.stage * a.stage_bytes;
    const int g = at.lane >> 2;
#pragma unroll
    for (int pair = 0; pair < D::step / 64 / S::SUBS; pair++) {
        barrier_wait(mem.full(1, columns.stage), columns.parity);
        const uint64_t matrix = wgmma_matrix_at(at.columns_at, columns.stage * S::COLUMN_BYTES);
#pragma unroll
        for (int turn = 0; turn < 2; turn++) {
            const int m = S::MT == 2 ? turn : 0, sub = S::MT == 2 ? pair : 2 * pair + turn;
            step_row r0, r1;
            r0.p[0] = stage + ((at.warp * S::MT + m) * 16 + g) * pitch<D>();
            r1.p[0] = r0.p[0] + 8 * pitch<D>();
            if (slips<D>()) {
                r0.p[0] += (at.rows.code_slip[m][0] + at.step * code_bytes<D>()) & 15;
                r1.p[0] += (at.rows.code_slip[m][1] + at.step * code_bytes<D>()) & 15;
            }
            r0.p[1] = r0.p[2] = r1.p[1] = r1.p[2] = NULL;

            wgmma_wait<1>(); // the wgmma before the last: its operand is free
            if (turn == 1) { // all that read the stage of columns before this one are over
                barrier_arrive_if(at.held, mem.empty(1, at.last));
                at.last = columns.stage;
                at.held = true;
            }
            make_operand<D>(at.operand[turn], r0, r1, at.scales + m * 16 * scale_pitch<D>(), sub,
                            at.lane, f);
            multiply<W>(acc[turn], at.operand[turn],
                        wgmma_matrix_at(matrix, S::MT == 2 ? 0 : turn * S::N * 128));
        }
        columns.next(a.column_stages);
    }
    barrier_arrive(mem.empty(0, weights.stage));
    weights.next(a.weight_stages);
    if (++at.step < at.steps)
        at.bring_scales(a, mem, weights);
    // ptxas finds registers for operands of several widths only if none is at work from one step to
    // the next.
    if (!is_least_width<D, S, S::N>())
        wgmma_wait<0>();
}

template <class D, class S, int W = S::N>
__device__ __forceinline__ void multiply_some(float (&acc)[2][S::N / 2], tile_walk<D, S> &at,
                                              const wide_args &a, const block_memory &mem,
                                              ring &weights, ring &columns, int count)
{
    if constexpr (is_least_width<D, S, W>())
        multiply_step<D, S, W>(acc, at, a, mem, weights, columns);
    else if (count > W - WIDTHS_APART<D>)
        multiply_step<D, S, W>(acc, at, a, mem, weights, columns);
    else
        multiply_some<D, S, W - WIDTHS_APART<D>>(acc, at, a, mem, weights, columns, count);
}

// Sums of a warp's rows over k.
template <class D, class S>
__device__ __forceinline__ void
main_loop(float (&acc)[2][S::N / 2], const wide_args &a, const block_memory &mem, ring &weights,
          ring &columns, const warp_rows<D, S> &rows, int warp, int lane, int count)
{
    tile_walk<D, S> at;
    at.rows = rows;
    at.scales = (uint32_t *)mem.scales + warp * S::MT * 16 * scale_pitch<D>();
    at.columns_at = wgmma_matrix(mem.columns);
    at.warp = warp, at.lane = lane;
    at.step = 0, at.steps = (int)((a.p.k + D::step - 1) / D::step);
    at.held = false, at.last = 0;
    at.bring_scales(a, mem, weights);
    settle<S>(acc);
    do // with a test first, the sums would be copied while wgmma are at work
        multiply_some<D, S>(acc, at, a, mem, weights, columns, count);
    while (at.step < at.steps);
    wgmma_wait<0>();
    settle<S>(acc);
    barrier_arrive(mem.empty(1, at.last));
}

template <class D, class S>
__device__ __forceinline__ void consume(const wide_args &a, const block_memory &mem)
{
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5;
    asm volatile("" : "+r"(lane), "+r"(warp)); // not to be made again in the loop
    const int tiles = *a.p.list.n_tiles;
    ring weights = {0, 0}, columns = {0, 0}, infos = {0, 0};
    float acc[2][S::N / 2];
    int outputs[S::MT]; // of the rows that the lane makes scales of
#pragma unroll
    for (int m = 0; m < S::MT; m++)
        outputs[m] = output_of<S>((warp * S::MT + m) * 16 + (lane & 15), a.p.up.plane[0] != NULL,
                                  a.p.y_order);

    for (item_walk item(a); item.tile < tiles; item.next(a)) {
        barrier_wait(mem.full(2, infos.stage), infos.parity);
        const tile_info info = mem.infos[infos.stage];
#pragma unroll
        for (int i = 0; i < S::N / 2; i++)
            acc[0][i] = acc[1][i] = 0.0f;
        if (info.expert >= 0) {
            const warp_rows<D, S> rows =
                rows_of_warp<D, S>(a, info.expert, item.row_block, outputs, lane);
            main_loop<D, S>(acc, a, mem, weights, columns, rows, warp, lane, info.count);
            if (S::MT == 1) {
#pragma unroll
                for (int i = 0; i < S::N / 2; i++)
                    acc[0][i] += acc[1][i];
            }
        }
        store<S>(acc, a, mem.y_at + infos.stage * S::N, info.expert, item.row_block, warp, lane,
                 info.count);
        barrier_arrive(mem.empty(2, infos.stage));
        infos.next(INFOS);
        tell_done(a, item.tile, item.row_block, a.p.up.plane[0] ? S::ROWS / 2 : S::ROWS, lane);
    }
}

template <class D, class S>
__global__ void __launch_bounds__(THREADS, S::BLOCKS) kernel(const __grid_constant__ wide_args a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) // elsewhere nobody launches it
    extern __shared__ __align__(1024) uint8_t shared[];
    const block_memory mem = block_memory::of<S>(shared, a);
    const int group = (int)threadIdx.x >> 7;
    if (threadIdx.x == 0) {
        if (mem.columns & 1023)
            __trap();
        for (int i = 0; i < MOST_STAGES; i++) {
            barrier_init(mem.full(0, i), WEIGHT_LOADERS);
            barrier_init(mem.full(1, i), 32); // a warp's
            barrier_init(mem.full(2, i), COLUMN_LOADERS);
            barrier_init(mem.empty(0, i), CONSUMERS);
            barrier_init(mem.empty(1, i), CONSUMERS);
            barrier_init(mem.empty(2, i), CONSUMERS);
        }
        fence_for_wgmma();
    }
    begin(a);
    __syncthreads();
    if (group >= 2) {
        registers_down<S::LOADER_REGISTERS>();
        if (threadIdx.x < CONSUMERS + COLUMN_LOADERS)
            load_columns<D, S>(a, mem, (int)threadIdx.x - CONSUMERS);
        else
            load_weights<D, S>(a, mem, (int)threadIdx.x - CONSUMERS - COLUMN_LOADERS);
    } else {
        registers_up<S::CONSUMER_REGISTERS>();
        consume<D, S>(a, mem);
        end(a);
    }
#endif
}

// ---------------------------------------------------------------- host

template <class D, int N>
int launch_tiles(const gqmm_cuda_product *p, const void *x, int64_t x_row, int64_t x_mat,
                 gqmm_stream s)
{
    using S = shape<N>;
    wide_args a = {};
    if (!plan<D, S>(&a, p, x, x_row, x_mat))
        return (int)cudaErrorInvalidValue;
    const int64_t items = (int64_t)p->list.most_tiles * a.row_blocks;
    const int64_t blocks = (int64_t)multiprocessors() * S::BLOCKS;
    return launch(kernel<D, S>, dim3((unsigned)(items < blocks ? items : blocks)), dim3(THREADS),
                  a.shared_bytes, s, GQMM_CUDA_SM90, a);
}

} // namespace wide_product

// ---- what the room's table takes

template <class D> bool wide_fits(const gqmm_cuda_product *p)
{
    return wide_product::fits<D>(p);
}

template <class D, bool FEW = has_few_columns<D>>
int wide(const gqmm_cuda_product *p, gqmm_stream s)
{
    const void *x = p->x;
    int64_t x_row = p->x_row, x_mat = p->x_mat;
    if (p->list.most_tiles == 0 || p->n == 0)
        return 0;
    if (p->x_order != wide_product::order_code<D>()) {
        const int error = wide_product::bring_in_order<wide_product::wide_codes<D>::in_order>(p, s);
        if (error)
            return error;
        x = p->x_ordered;
        x_row = p->k;
        x_mat = p->m * p->k;
    }
    if constexpr (FEW) {
        bool done;
        const int error = few_product::launch_product<D>(p, x, x_row, x_mat, s, &done);
        if (done)
            return error;
    }
    switch (wide_product::tile_width(p->list.tile_columns)) {
#define GQMM_WIDTH(n) \
case n: \
    return wide_product::launch_tiles<D, n>(p, x, x_row, x_mat, s);
        GQMM_WIDTHS(GQMM_WIDTH)
#undef GQMM_WIDTH
    }
    return (int)cudaErrorInvalidValue;
}

} // namespace gqmm

#endif
