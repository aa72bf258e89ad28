// SPDX-License-Identifier: MIT
// The product in tiles of many columns with integers: activations rounded to int8 in blocks of 128
// along k, weights of 4 bits in groups of 128, wgmma of sm_90a.
//
// It is built as wide.cuh is: loaders bring weights and columns through rings, two warpgroups of
// consumers make left operands of codes, of 128 rows each. The integer sums of a block of 128 along
// k are folded into float sums, times the scale of the column and that of the row, while the wgmma
// of the consumer's other 64 rows and of the other consumer run.
//
// Two products make a mixture: the first, of gate and up, rounds its outputs again, 128 of a tile
// being a block of h, and writes them as the second reads them: blocks of k apart, in each the
// columns of a tile together and swizzled, so that one copy brings them.
#ifndef GQMM_KERNEL_CUDA_WIDE_INT8_CUH
#define GQMM_KERNEL_CUDA_WIDE_INT8_CUH

#include "kernel/cuda/wgmma_int8.cuh"
#include "kernel/cuda/wide_int8_load.cuh"
#include "kernel/cuda/wide_int8_plan.cuh"
#include "kernel/cuda/wide_int8_store.cuh"
#include "kernel/cuda/wide_int8_x.cuh"

namespace gqmm
{
namespace int8_product
{

__device__ __forceinline__ uint2 read_8(uint32_t at)
{
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at) : "memory");
    return v;
}

// 16 times code - 8 in bytes, of codes in the high halves of bytes.
__device__ __forceinline__ uint32_t centred(uint32_t codes)
{
    uint32_t v; // (codes & mask) ^ sign, which the compiler makes two of
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(v) : "r"(codes), "r"(0xf0f0f0f0), "r"(0x80808080));
    return v;
}

// Of 32 codes, the left operands' words.
__device__ __forceinline__ void make_operand(uint32_t (&to)[16], const uint4 &low,
                                             const uint4 &high)
{
    const uint32_t l[4] = {low.x, low.y, low.z, low.w}, h[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to[4 * i] = centred(l[i] << 4);
        to[4 * i + 1] = centred(h[i] << 4);
        to[4 * i + 2] = centred(l[i]);
        to[4 * i + 3] = centred(h[i]);
    }
}

// The right operand lies at `matrix`, of which the low half is given.
template <int W>
__device__ __forceinline__ void multiply(int (&sum)[W / 2], const uint32_t (&operand)[16],
                                         uint32_t matrix)
{
    constexpr uint64_t high = 64ull << 32 | 1ull << 62;
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (i == 0)
            wgmma_int8<W>::template add<false>(sum, operand, high | matrix);
        else
            wgmma_int8<W>::template add<true>(sum, operand + 4 * i, high | matrix);
        // One number that grows: four would be kept, and each copied to where it is used.
        asm volatile("add.u32 %0, %0, 2;" : "+r"(matrix));
    }
    wgmma_commit();
}

// The compiler moves no use of the sums ahead of this.
template <int M> __device__ __forceinline__ void settle(int (&sum)[M])
{
#pragma unroll
    for (int i = 0; i < M; i++)
        asm volatile("" : "+r"(sum[i])::"memory");
}

// Where a lane finds its rows of weights in a stage.
struct rows_at {
    uint32_t first;                // row g of part 0 and the lane's 16 bytes of it, swizzled
    uint32_t other, other_swizzle; // from there to row g + 8
    uint32_t scales;

    __device__ __forceinline__ rows_at(bool two, int warp, int lane)
    {
        const int row = row_of(two, warp, lane >> 2, 0);
        first = row * CODES + (((lane & 3) ^ (row & 7)) << 4);
        scales = (warp * 8 + (lane >> 2)) * 16;
        other = two ? ROWS / 2 * CODES : CODES;
        other_swizzle = two ? 0 : 16;
    }

    // Block `half` of a step; part m is 2 m rows further, and so is the swizzle.
    __device__ __forceinline__ void read(uint32_t (&operand)[16], uint32_t stage, int m,
                                         int half) const
    {
        const uint32_t at = first ^ (m << 5 | half << 6);
        make_operand(operand, read_16(stage + m * 2 * CODES + at),
                     read_16(stage + m * 2 * CODES + other + (at ^ other_swizzle)));
    }
};

// Scales of rows g and g + 8 of a part.
struct row_scales {
    float low, high;

    // The first or the second bf16 of each word.
    __device__ __forceinline__ void read(uint32_t at, int m, int half)
    {
        const uint2 v = read_8(at + 8 * m);
        low = __uint_as_float(half ? v.x & 0xffff0000 : v.x << 16);
        high = __uint_as_float(half ? v.y & 0xffff0000 : v.y << 16);
    }
};

// Sums of W columns; columns: where the columns' scales of lane t of a quad are.
template <int W>
__device__ __forceinline__ void fold(float (&acc)[N / 2], const int (&sum)[W / 2],
                                     const row_scales &rows, uint32_t columns)
{
#pragma unroll
    for (int j = 0; j < W / 8; j += 2) {
        const uint4 v = read_16(columns + 32 * j);
        const uint32_t s[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float &to = acc[4 * j + i];
            to = __fmaf_rn((float)sum[4 * j + i] * __uint_as_float(s[i / 4 * 2 + (i & 1)]),
                           i & 2 ? rows.high : rows.low, to);
        }
    }
}

// What the loop over k goes through.
struct position {
    ring weights, columns;
};

// A step of 256 along k by W columns. The parts of the rows take turns: one is folded while the
// other is multiplied.
template <int W>
__device__ __forceinline__ void do_step(float (&acc)[2][N / 2], const memory &mem, position &at,
                                        const rows_at &rows, int lane)
{
    const uint32_t stage = mem.at + WEIGHTS_AT + at.weights.stage * WEIGHT_BYTES;
    const uint32_t scales_at =
        mem.at + WEIGHT_SCALES_AT + at.weights.stage * WEIGHT_SCALE_BYTES + rows.scales;
    uint32_t operand[2][16], columns[2]; // columns: where the scales of the blocks of k are
    int sum[2][W / 2];
    row_scales scales[2];
#pragma unroll
    for (int turn = 0; turn < 4; turn++) {
        const int half = turn >> 1, m = turn & 1;
        if (m == 0) {
            barrier_wait(mem.full(1, at.columns.stage), at.columns.parity);
            columns[half] =
                mem.at + COLUMN_SCALES_AT + at.columns.stage * COLUMN_SCALE_BYTES + (lane & 3) * 16;
        }
        rows.read(operand[m], stage, m, half);
        multiply<W>(sum[m], operand[m], (mem.at + at.columns.stage * COLUMN_BYTES) >> 4 | 1 << 16);
        if (turn > 0) {
            wgmma_wait<1>();
            settle(sum[m ^ 1]);
            fold<W>(acc[m ^ 1], sum[m ^ 1], scales[m ^ 1], columns[(turn - 1) >> 1]);
        }
        scales[m].read(scales_at, m, half);
        if (m == 1)
            at.columns.next(COLUMN_STAGES);
    }
    wgmma_wait<0>(); // ptxas follows no sums into the next step
    settle(sum[1]);
    fold<W>(acc[1], sum[1], scales[1], columns[1]);
}

// Sums of a warp's rows over k, of W columns.
template <int W>
__device__ __forceinline__ void main_loop(float (&acc)[2][N / 2], const int8_args &a,
                                          const memory &mem, position &at, const rows_at &rows,
                                          int lane)
{
    const int steps = (int)(a.p.k / STEP);
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        const int columns = at.columns.stage;
        barrier_wait(mem.full(0, at.weights.stage), at.weights.parity);
        do_step<W>(acc, mem, at, rows, lane);
        fence_for_wgmma(); // what was read is written by the accelerator next
        barrier_arrive(mem.empty(1, columns));
        barrier_arrive(mem.empty(1, columns + 1 == COLUMN_STAGES ? 0 : columns + 1));
        barrier_arrive(mem.empty(0, at.weights.stage));
        at.weights.next(WEIGHT_STAGES);
    }
}

__device__ __forceinline__ void consume(const int8_args &a, const memory &mem)
{
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5;
    asm volatile("" : "+r"(lane), "+r"(warp)); // not to be made again in the loop
    const int tiles = *a.p.list.n_tiles;
    const rows_at rows(a.p.up.plane[0] != NULL, warp, lane);
    position at = {{0, 0}, {0, 0}};
    ring infos = {0, 0};
    float acc[2][N / 2];
    for (item_walk item(a); item.tile < tiles; item.next(a)) {
        barrier_wait(mem.full(2, infos.stage), infos.parity);
        const tile_info info = mem.info(infos.stage);
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            acc[0][i] = acc[1][i] = 0.0f;
        if (info.expert >= 0 && info.count <= N / 2)
            main_loop<N / 2>(acc, a, mem, at, rows, lane);
        else if (info.expert >= 0)
            main_loop<N>(acc, a, mem, at, rows, lane);
        if (a.p.up.plane[0] == NULL)
            store(acc, a, mem.y_at(infos.stage), item.row_block, warp, lane, info.count);
        else if (info.expert >= 0)
            store_h(acc, a, mem, item.row_block, warp, lane, info);
        barrier_arrive(mem.empty(2, infos.stage));
        infos.next(INFOS);
    }
    if (threadIdx.x == 0)
        stores_wait();
}

static __global__ void __launch_bounds__(THREADS, 1) kernel(const __grid_constant__ int8_args a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) // elsewhere nobody launches it
    extern __shared__ __align__(1024) uint8_t shared[];
    const memory mem(shared);
    if (threadIdx.x == 0) {
        if (mem.at & 1023)
            __trap();
        for (int i = 0; i < MOST_STAGES; i++) {
            barrier_init(mem.full(0, i), WEIGHT_LOADERS + 1); // and the accelerator's bytes
            barrier_init(mem.full(1, i), 32 + 1);             // a warp's, and as many
            barrier_init(mem.full(2, i), COLUMN_LOADERS);
            for (int which = 0; which < 3; which++)
                barrier_init(mem.empty(which, i), CONSUMERS);
        }
        fence_for_wgmma();
    }
    __syncthreads();
    const bool weights = threadIdx.x >= CONSUMERS + COLUMN_LOADERS;
    if (!(weights && a.p.ids_early)) // else weights may be asked for already
        wait_for_previous();
    let_next_start();
    if (threadIdx.x >= CONSUMERS) {
        registers_down<LOADER_REGISTERS>();
        if (weights)
            load_weights(a, mem, (int)threadIdx.x & 31);
        else
            load_columns(a, mem, (int)threadIdx.x - CONSUMERS);
    } else {
        registers_up<CONSUMER_REGISTERS>();
        consume(a, mem);
    }
#endif
}

// ---------------------------------------------------------------- host

// The product alone.
inline int launch_product(const gqmm_cuda_product *p, gqmm_stream s)
{
    const bool two = p->up.plane[0] != NULL;
    const int outputs = two ? ROWS / 2 : ROWS;
    int8_args a = {};
    a.p = *p;
    a.row_blocks = (int)((p->n + outputs - 1) / outputs);
    a.whole_y = (uintptr_t)p->y % 16 == 0 && p->y_row % 8 == 0 && p->y_pair % 8 == 0;
    a.tile_rows = (int64_t)p->list.most_tiles * N;
    if (!describe_weights(&a.maps[0], p->w, p->n, p->k, outputs) ||
        (two && !describe_weights(&a.maps[1], p->up, p->n, p->k, outputs)) ||
        (!p->x8.sorted && !describe(&a.x_map, p->x8.codes, p->k, p->n_x * p->m, 0, p->k, 0, 1)))
        return (int)cudaErrorInvalidValue;
    const int64_t items = (int64_t)p->list.most_tiles * a.row_blocks, blocks = multiprocessors();
    return launch(kernel, dim3((unsigned)(items < blocks ? items : blocks)), dim3(THREADS),
                  SHARED_BYTES, s, GQMM_CUDA_SM90, a);
}

} // namespace int8_product

// What the room's table takes: x is rounded first, unless the product before did it.
inline int int8(const gqmm_cuda_product *p, gqmm_stream s)
{
    int error = 0;
    if (p->list.most_tiles == 0 || p->n == 0)
        return 0;
    if (!p->x8.sorted)
        error = int8_product::round_rows(p, p->x8.codes, p->x8.scales, s);
    return error ? error : int8_product::launch_product(p, s);
}

} // namespace gqmm

#endif
