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
#include "kernel/cuda/wide_order.cuh"
#include "kernel/cuda/wide_plan.cuh"
#include "kernel/cuda/wide_scales.cuh"
#include "kernel/cuda/wide_store.cuh"
#include "kernel/cuda/wide_weights.cuh"

namespace gqmm
{
namespace wide_product
{

// What a consumer warp knows of its rows in a tile.
template <class D, class S> struct warp_rows {
    int slip[S::MT];         // of the row that the lane makes scales of, planes in bytes
    int code_slip[S::MT][2]; // of its two rows of codes
};

// The scales of one step of a warp's rows to `to`[m][16][scale_pitch()].
template <class D, class S>
__device__ __forceinline__ void make_scales(uint32_t *to, const wide_args &a, const uint8_t *stage,
                                            int warp, int lane, const warp_rows<D, S> &rows,
                                            int step)
{
    constexpr int count = D::step / D::piece / 2, words = scale_words<making_of<D>()>;
    const int half = lane >> 4;
    uint32_t v[S::MT][count * words]; // all are read before the first is written
#pragma unroll
    for (int m = 0; m < S::MT; m++) {
        const int slot = (warp * S::MT + m) * 16 + (lane & 15);
        step_row row;
        row.p[0] = stage + slot * pitch<D>() +
                   (slips<D>() ? (rows.slip[m] + step * code_bytes<D>()) & 15 : 0);
#pragma unroll
        for (int plane = 1; plane < 3; plane++)
            row.p[plane] =
                plane < D::planes
                    ? stage + a.plane_at[plane] + slot * a.plane_chunks[plane] * 16 +
                          (((rows.slip[m] >> 8 * plane) + step * a.plane_bytes[plane]) & 15)
                    : stage;
        const int type = a.p.w.scale_type;
        if (D::planes == 3 && type == GQMM_F32) // a type known is a branch less for each scale
            scale_maker<D, count>::make(v[m], row, half, {a.p.w.group, GQMM_F32});
        else if (D::planes == 3 && type == GQMM_F16)
            scale_maker<D, count>::make(v[m], row, half, {a.p.w.group, GQMM_F16});
        else
            scale_maker<D, count>::make(v[m], row, half, {a.p.w.group, GQMM_BF16});
    }
#pragma unroll
    for (int m = 0; m < S::MT; m++)
        write_words(to + (m * 16 + (lane & 15)) * scale_pitch<D>() + half * count * words, v[m]);
}

// The left operands of four wgmma: 64 along k of 16 rows, pieces 2 sub and 2 sub + 1 of a step.
template <class D>
__device__ __forceinline__ void make_operand(uint32_t (&to)[16], const step_row &r0,
                                             const step_row &r1, const uint32_t *scales, int sub,
                                             int lane, const format_args &f)
{
    constexpr making M = making_of<D>();
    constexpr int words = scale_words<M>, n = 64 / D::piece * words;
    const int g = lane >> 2, t = lane & 3;
    uint32_t s0[n], s1[n];
    read_words(s0, scales + g * scale_pitch<D>() + sub * n);
    read_words(s1, scales + (g + 8) * scale_pitch<D>() + sub * n);
    if constexpr (M == LOW) {
        using C = wide_codes<D>;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint32_t lo[4], hi[4];
            C::get(lo, r0.p[0], 2 * sub + h, t);
            C::get(hi, r1.p[0], 2 * sub + h, t);
            uint32_t odd0 = s0[2 * h], odd1 = s1[2 * h];
            if (C::odd_pairs) {
                odd0 = pair_mul(odd0, both(bf16_power(-4)));
                odd1 = pair_mul(odd1, both(bf16_power(-4)));
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint32_t *at = to + h * 8 + i * 4;
                at[0] = pair_fma(lo[2 * i], s0[2 * h], s0[2 * h + 1]);
                at[1] = pair_fma(hi[2 * i], s1[2 * h], s1[2 * h + 1]);
                at[2] = pair_fma(lo[2 * i + 1], odd0, s0[2 * h + 1]);
                at[3] = pair_fma(hi[2 * i + 1], odd1, s1[2 * h + 1]);
            }
        }
    } else {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint32_t lo[D::parts][4], hi[D::parts][4];
            D::template codes<row_align<D> == D::align>(lo, r0, 2 * sub + h, t, f);
            D::template codes<row_align<D> == D::align>(hi, r1, 2 * sub + h, t, f);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int group = (D::piece == 16 ? 2 * h + i : h) * words;
                uint32_t *at = to + h * 8 + i * 4;
                at[0] = weight_pair<M>(lo[0][2 * i], s0 + group);
                at[1] = weight_pair<M>(hi[0][2 * i], s1 + group);
                at[2] = weight_pair<M>(lo[0][2 * i + 1], s0 + group);
                at[3] = weight_pair<M>(hi[0][2 * i + 1], s1 + group);
            }
        }
    }
}

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

// Wide tiles are multiplied no wider than their columns need.
template <int N, int M>
__device__ __forceinline__ void multiply_some(float (&acc)[M], const uint32_t (&operand)[16],
                                              uint64_t matrix, int count)
{
    if constexpr (N <= 64) {
        multiply<N>(acc, operand, matrix);
    } else {
        if (count > N - 16)
            multiply<N>(acc, operand, matrix);
        else if (count > N - 32)
            multiply<N - 16>(acc, operand, matrix);
        else if (count > N / 16 * 8)
            multiply<N - 32>(acc, operand, matrix);
        else
            multiply<N / 16 * 8>(acc, operand, matrix);
    }
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

// Sums of a warp's rows over k.
template <class D, class S>
__device__ __forceinline__ void
main_loop(float (&acc)[2][S::N / 2], const wide_args &a, const block_memory &mem, ring &weights,
          ring &columns, const warp_rows<D, S> &rows, int warp, int lane, int count)
{
    static_assert(D::step % (64 * S::SUBS) == 0, "stages of columns in a step");
    const format_args f = {a.p.w.group, a.p.w.scale_type};
    uint32_t *scales = (uint32_t *)mem.scales + warp * S::MT * 16 * scale_pitch<D>();
    const int steps = (int)((a.p.k + D::step - 1) / D::step);
    const int g = lane >> 2;
    const uint64_t columns_at = wgmma_matrix(mem.columns);
    // Two operands, each with sums of its own, take turns: the halves of the rows, or even and odd
    // parts along k. While wgmma reads one, the other is made.
    uint32_t operand[2][16];
    bool held = false; // stage `last` of columns is not given back yet
    int last = 0;

    int step = 0;
    settle<S>(acc);
    do { // with a test first, the sums would be copied while wgmma are at work
        barrier_wait(mem.full(0, weights.stage), weights.parity);
        const uint8_t *stage = mem.weights + weights.stage * a.stage_bytes;
        __syncwarp();
        make_scales<D, S>(scales, a, stage, warp, lane, rows, step);
        __syncwarp();
#pragma unroll
        for (int pair = 0; pair < D::step / 64 / S::SUBS; pair++) {
            barrier_wait(mem.full(1, columns.stage), columns.parity);
            const uint64_t matrix = wgmma_matrix_at(columns_at, columns.stage * S::COLUMN_BYTES);
#pragma unroll
            for (int turn = 0; turn < 2; turn++) {
                const int m = S::MT == 2 ? turn : 0, sub = S::MT == 2 ? pair : 2 * pair + turn;
                const uint8_t *at = stage + ((warp * S::MT + m) * 16 + g) * pitch<D>();
                step_row r0, r1;
                r0.p[0] = at;
                r1.p[0] = at + 8 * pitch<D>();
                if (slips<D>()) {
                    r0.p[0] += (rows.code_slip[m][0] + step * code_bytes<D>()) & 15;
                    r1.p[0] += (rows.code_slip[m][1] + step * code_bytes<D>()) & 15;
                }
                r0.p[1] = r0.p[2] = r1.p[1] = r1.p[2] = NULL;

                wgmma_wait<1>(); // the wgmma before the last: its operand is free
                if (turn == 1) { // all that read the stage of columns before this one are over
                    barrier_arrive_if(held, mem.empty(1, last));
                    last = columns.stage;
                    held = true;
                }
                make_operand<D>(operand[turn], r0, r1, scales + m * 16 * scale_pitch<D>(), sub,
                                lane, f);
                multiply_some<S::N>(acc[turn], operand[turn],
                                    wgmma_matrix_at(matrix, S::MT == 2 ? 0 : turn * S::N * 128),
                                    count);
            }
            columns.next(a.column_stages);
        }
        barrier_arrive(mem.empty(0, weights.stage));
        weights.next(a.weight_stages);
    } while (++step < steps);
    wgmma_wait<0>();
    settle<S>(acc);
    barrier_arrive(mem.empty(1, last));
}

template <class D, class S>
__device__ __forceinline__ warp_rows<D, S>
rows_of_warp(const wide_args &a, int expert, int row_block, const int (&outputs)[S::MT], int lane)
{
    warp_rows<D, S> rows;
    const bool two = a.p.up.plane[0] != NULL;
    const gqmm_cuda_matrix *mine = two && (lane & 8) ? &a.p.up : &a.p.w;
#pragma unroll
    for (int m = 0; m < S::MT; m++) {
        rows.slip[m] = 0;
        const uint32_t row = (uint32_t)row_of<S>(a, row_block, outputs[m]);
#pragma unroll
        for (int plane = slips<D>() ? 0 : 1; plane < D::planes; plane++)
            rows.slip[m] |= (int)(((uint32_t)(uintptr_t)mine->plane[plane] +
                                   (uint32_t)expert * (uint32_t)mine->expert_stride[plane] +
                                   row * (uint32_t)mine->row_stride[plane]) &
                                  15)
                            << 8 * plane;
        if (slips<D>()) // the lanes of rows g and g + 8 know them
            for (int h = 0; h < 2; h++)
                rows.code_slip[m][h] =
                    __shfl_sync(0xffffffffu, rows.slip[m], (lane >> 2) + 8 * h) & 15;
    }
    return rows;
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
