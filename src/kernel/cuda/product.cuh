// SPDX-License-Identifier: MIT
// The product of any format, any sizes and any activations, on the matrix units of sm_80 and later.
//
// A block of four warps takes a tile of columns that meet one expert. A warp takes 16 rows of
// weights (of two matrices, 8 and 8, where SwiGLU follows) and all the columns, 8 to a matrix
// instruction. Codes enter as bf16 integers, which is exact, sums of 32 products are fp32, and the
// scale is applied to the sum:
//
//     acc += scale * sum(code * x) + offset * sum(x)
//
// so that nothing is rounded to bf16 but x, and x of f32 and f16 is split into parts without loss.
// The warps may share rows and split K among them (few rows, long K); their sums are then added in
// order.
#ifndef GQMM_KERNEL_CUDA_PRODUCT_CUH
#define GQMM_KERNEL_CUDA_PRODUCT_CUH

#include "kernel/cuda/activations.cuh"
#include "kernel/cuda/columns.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/stage.cuh"

namespace gqmm
{

constexpr int WARPS = 8;

// Host's choices for a launch; kernels read them.
struct product_plan {
    int k_split; // warps that share rows: 1, 2, 4 or 8
    int phase;   // activations along K in shared memory at a time, a multiple of 256
    int x_parts;
    int row_blocks; // blocks of a tile, which are neighbours in the grid
};

template <class D> GQMM_HD constexpr int groups_of_step()
{
    return D::step / D::piece;
}

template <class D> GQMM_HD constexpr int warp_bytes()
{
    return stages<D>() * ROWS * row_pitch<D>() + groups_of_step<D>() * ROWS * (int)sizeof(float2);
}

template <class D> GQMM_HD constexpr int phase_bytes(int columns, int phase, int x_parts)
{
    return phase / 32 * columns * 64 * x_parts + phase / D::piece * columns * (int)sizeof(float);
}

// The sum of 8 numbers over the threads that hold a group of them; e counts eighths.
template <class D>
__device__ __forceinline__ void keep_sum(float *sums, int NC, int col, int e, float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    if (D::piece == 32)
        v += __shfl_xor_sync(0xffffffffu, v, 2);
    if (e % (D::piece / 8) == 0)
        sums[e / (D::piece / 8) * NC + col] = v;
}

__device__ __forceinline__ float sum_of_pairs(const uint4 &v)
{
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
    float sum[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        sum[i] = __uint_as_float(w[i] << 16) + __uint_as_float(w[i] & 0xffff0000u);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Activations of the columns along [k0, k0 + phase) to shared memory, with their sums for each
// scale. A column without a row is all zeros.
template <class D, int NC>
__device__ __forceinline__ void bring_x(uint8_t *xs, float *sums, const gqmm_cuda_product &p,
                                        const product_plan &plan, const column_set<NC> &c,
                                        int64_t k0)
{
    const int eighths = plan.phase / 8, part_bytes = plan.phase / 32 * NC * 64;
    for (int col = (int)threadIdx.x / 32; col < c.count; col += WARPS) {
        const uint8_t *row = (const uint8_t *)p.x + c.x_at[col] * bytes_of(p.x_type);
        const int64_t n = c.x_at[col] < 0 ? 0 : p.k;
        for (int e = (int)threadIdx.x % 32; e < eighths; e += 32) {
            uint8_t *at = xs + (e / 4 * NC + col) * 64;
            float v[8];
            load_8(v, row, k0 + e * 8, n, p.x_type);
            if (D::has_offset)
                keep_sum<D>(sums, NC, col, e,
                            ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7])));
            for (int part = 0; part < plan.x_parts; part++) {
                uint32_t h[8];
#pragma unroll
                for (int j = 0; j < 8; j++)
                    h[j] = next_part(v[j]);
                place_8<D::in_order>(at + part * part_bytes, e & 3,
                                     make_uint4(h[0] | h[1] << 16, h[2] | h[3] << 16,
                                                h[4] | h[5] << 16, h[6] | h[7] << 16));
            }
        }
    }
}

// The same of bf16 rows at multiples of 16 bytes, several loads under way at once.
template <class D, int NC>
__device__ __forceinline__ void bring_bf16(uint8_t *xs, float *sums, const gqmm_cuda_product &p,
                                           const product_plan &plan, const column_set<NC> &c,
                                           int64_t k0)
{
    constexpr int AHEAD = 4;
    const int eighths = plan.phase / 8;
    for (int col = (int)threadIdx.x / 32; col < c.count; col += WARPS) {
        const uint8_t *row = (const uint8_t *)p.x + (c.x_at[col] + k0) * 2;
        const int64_t n = c.x_at[col] < 0 ? 0 : p.k - k0;
        for (int e0 = (int)threadIdx.x % 32; e0 < eighths; e0 += 32 * AHEAD) {
            uint4 v[AHEAD];
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
                const int e = e0 + 32 * j;
                v[j] = make_uint4(0, 0, 0, 0);
                if (e < eighths && e * 8 < n)
                    v[j] = *(const uint4 *)(row + e * 16);
            }
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
                const int e = e0 + 32 * j;
                if (e >= eighths) // the same for the whole warp: 32 divides a phase's eighths
                    break;
                if (D::has_offset)
                    keep_sum<D>(sums, NC, col, e, sum_of_pairs(v[j]));
                place_8<D::in_order>(xs + (e / 4 * NC + col) * 64, e & 3, v[j]);
            }
        }
    }
}

// One step of weights against the columns. What lies behind K is zero, in weights and activations,
// so that a step always has all its pieces. ONE: activations are of one part.
template <class D, int NT, bool ONE>
__device__ __forceinline__ void
multiply(float (&acc)[NT][4], const step_row &r0, const step_row &r1, const float2 *scales,
         const uint8_t *xs, const float *sums, int x_parts, int part_bytes, int lane, format_args f)
{
    constexpr int NC = NT * 8, per = 32 / D::piece;
    const int g = lane >> 2, t = lane & 3;

#pragma unroll 4
    for (int j = 0; j < D::step / 32; j++) {
        uint32_t a[D::parts][4], b[D::parts][4];
        D::codes(a, r0, j, t, f);
        D::codes(b, r1, j, t, f);
        float2 s0[per], s1[per];
#pragma unroll
        for (int h = 0; h < per; h++) {
            s0[h] = scales[(j * per + h) * ROWS + g];
            s1[h] = scales[(j * per + h) * ROWS + g + 8];
        }
#pragma unroll
        for (int nt = 0; nt < NT; nt++) {
            float c[per][4] = {};
#pragma unroll 1
            for (int part = 0; part < (ONE ? 1 : x_parts); part++) {
                const uint4 x =
                    *(const uint4 *)(xs + part * part_bytes + (j * NC + nt * 8 + g) * 64 + t * 16);
#pragma unroll
                for (int w = 0; w < D::parts; w++) {
                    mma(c[0], a[w][0], b[w][0], a[w][1], b[w][1], x.x, x.y);
                    mma(c[per - 1], a[w][2], b[w][2], a[w][3], b[w][3], x.z, x.w);
                }
            }
#pragma unroll
            for (int h = 0; h < per; h++) {
                acc[nt][0] = fmaf(s0[h].x, c[h][0], acc[nt][0]);
                acc[nt][1] = fmaf(s0[h].x, c[h][1], acc[nt][1]);
                acc[nt][2] = fmaf(s1[h].x, c[h][2], acc[nt][2]);
                acc[nt][3] = fmaf(s1[h].x, c[h][3], acc[nt][3]);
                if (D::has_offset) {
                    const float2 sx = *(const float2 *)(sums + (j * per + h) * NC + nt * 8 + 2 * t);
                    acc[nt][0] = fmaf(s0[h].y, sx.x, acc[nt][0]);
                    acc[nt][1] = fmaf(s0[h].y, sx.y, acc[nt][1]);
                    acc[nt][2] = fmaf(s1[h].y, sx.x, acc[nt][2]);
                    acc[nt][3] = fmaf(s1[h].y, sx.y, acc[nt][3]);
                }
            }
        }
    }
}

__device__ __forceinline__ float silu(float v)
{
    return v / (1.0f + expf(-v));
}

// Column c, output n of the lane's sums to y.
template <int NT, int NC>
__device__ __forceinline__ void write(const float (&acc)[NT][4], const gqmm_cuda_product &p,
                                      const column_set<NC> &c, int64_t row, int lane)
{
    const int g = lane >> 2, t = lane & 3;
    const bool two = p.up.plane[0] != NULL;
#pragma unroll
    for (int nt = 0; nt < NT; nt++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int col = nt * 8 + 2 * t + i;
            if (col >= c.count)
                continue;
            const int64_t at = c.y_at[col] + row + g;
            const bool none = c.x_at[col] < 0;
            const float lo = none ? 0.0f : acc[nt][i], hi = none ? 0.0f : acc[nt][2 + i];
            if (row + g < p.n)
                store_number(p.y, at, p.y_type, two ? silu(lo) * hi : lo);
            if (!two && row + g + 8 < p.n)
                store_number(p.y, at + 8, p.y_type, hi);
        }
}

// What the expert's scales are multiplied by.
__device__ __forceinline__ float global_of(const gqmm_cuda_matrix &m, int expert)
{
    return m.global ? m.global[expert * m.global_stride] / 2688.0f : 1.0f;
}

__device__ __forceinline__ row_block rows_at(const gqmm_cuda_product &p, int expert, int64_t row)
{
    row_block b;
    b.halves = p.up.plane[0] != NULL;
    const int64_t left = p.n - row, most = b.halves ? 8 : 16;
    b.count = (int)(left < 1 ? 1 : left < most ? left : most);
    const int64_t first = row < p.n ? row : p.n - 1;
#pragma unroll
    for (int i = 0; i < 3; i++) {
        const uint8_t *w = p.w.plane[i] + expert * p.w.expert_stride[i];
        const uint8_t *up = p.up.plane[i] + expert * p.up.expert_stride[i];
        b.stride[i] = p.w.row_stride[i];
        b.first[i] = w + first * b.stride[i];
        b.second[i] = up - w;
    }
    return b;
}

template <class D, int NT, bool ONE>
__global__ void __launch_bounds__(WARPS * 32)
    product_kernel(const __grid_constant__ gqmm_cuda_product p,
                   const __grid_constant__ product_plan plan)
{
    constexpr int NC = NT * 8, STAGES = stages<D>();
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ column_set<NC> columns;
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5;
    const format_args f = {p.w.group, p.w.scale_type};

    if (!p.ids_early)
        wait_for_previous();
    find_columns(columns, p, (int)(blockIdx.x / (unsigned)plan.row_blocks));
    if (columns.count == 0) {
        // Every block waits: a launch that has ended tells that the one before it has.
        if (p.ids_early)
            wait_for_previous();
        return;
    }
    const int per_warp = p.up.plane[0] ? 8 : 16; // outputs
    const int64_t row0 =
        (int64_t)(blockIdx.x % (unsigned)plan.row_blocks) * (WARPS / plan.k_split) * per_warp;
    if (columns.expert < 0) {
        if (p.ids_early)
            wait_for_previous();
        zero_rows(p, columns, row0, WARPS / plan.k_split * per_warp);
        return;
    }

    const int split = warp % plan.k_split;
    const int64_t row = row0 + warp / plan.k_split * per_warp;
    const row_block b = rows_at(p, columns.expert, row);
    const float factor = global_of(b.halves && (lane & 15) >= 8 ? p.up : p.w, columns.expert);
    const int steps = (int)((p.k + D::step - 1) / D::step);
    const bool x_fast = p.x_type == GQMM_BF16 && p.k % 8 == 0 && (uintptr_t)p.x % 16 == 0 &&
                        p.x_row % 8 == 0 && p.x_mat % 8 == 0;
    const int part_bytes = plan.phase / 32 * NC * 64;

    uint8_t *ring = shared + warp * warp_bytes<D>();
    float2 *scales = (float2 *)(ring + STAGES * ROWS * row_pitch<D>());
    uint8_t *xs = shared + WARPS * warp_bytes<D>();
    float *sums = (float *)(xs + plan.x_parts * part_bytes);

    loader<D> weights;
    weights.set(b, lane);
    int used = 0;
#pragma unroll 1
    for (int i = 0; i < STAGES; i++) {
        if (split + i * plan.k_split < steps)
            weights.bring(ring + i * ROWS * row_pitch<D>(), split + i * plan.k_split, p.k,
                          p.w.aligned, lane, f);
        copies_commit();
    }
    if (p.ids_early)
        wait_for_previous();
    let_next_start();

    float acc[NT][4] = {};
    for (int s0 = 0; s0 < steps; s0 += plan.phase / D::step) {
        __syncthreads();
        if (ONE && x_fast)
            bring_bf16<D, NC>(xs, sums, p, plan, columns, (int64_t)s0 * D::step);
        else
            bring_x<D, NC>(xs, sums, p, plan, columns, (int64_t)s0 * D::step);
        __syncthreads();
        const int end = s0 + plan.phase / D::step < steps ? s0 + plan.phase / D::step : steps;
        // Of all steps, a warp takes every k_split-th.
        int s = (s0 + plan.k_split - 1 - split) / plan.k_split * plan.k_split + split;
        for (; s < end; s += plan.k_split) {
            copies_wait<STAGES - 1>();
            __syncwarp();
            uint8_t *stage = ring + used % STAGES * ROWS * row_pitch<D>();
            make_scales<D>(scales, weights.at(stage, 0, lane, s), factor, lane, f);
            used++;
            __syncwarp();
            multiply<D, NT, ONE>(acc, weights.at(stage, 1, lane, s), weights.at(stage, 2, lane, s),
                                 scales, xs + (s - s0) * (D::step / 32) * NC * 64,
                                 sums + (s - s0) * groups_of_step<D>() * NC, plan.x_parts,
                                 part_bytes, lane, f);
            __syncwarp();
            if (s + STAGES * plan.k_split < steps)
                weights.bring(stage, s + STAGES * plan.k_split, p.k, p.w.aligned, lane, f);
            copies_commit();
        }
    }

    if (plan.k_split > 1) {
        __syncthreads();
        float *all = (float *)shared;
#pragma unroll
        for (int i = 0; i < NT * 4; i++)
            all[(warp * NT * 4 + i) * 32 + lane] = acc[i / 4][i % 4];
        __syncthreads();
        if (split)
            return;
        for (int other = 1; other < plan.k_split; other++)
#pragma unroll
            for (int i = 0; i < NT * 4; i++)
                acc[i / 4][i % 4] += all[((warp + other) * NT * 4 + i) * 32 + lane];
    }
    write<NT, NC>(acc, p, columns, row, lane);
}

// ---------------------------------------------------------------- host

// Warps share rows while the launch would leave multiprocessors without enough warps to read with.
inline int k_split_of(int64_t warps, int64_t steps)
{
    int split = 1;
    while (split < WARPS && warps * split < 132 * 12 && steps >= 2 * split)
        split *= 2;
    return split;
}

template <class D, int NT, bool ONE>
int launch_product(const gqmm_cuda_product *p, int path, gqmm_stream s)
{
    constexpr int NC = NT * 8;
    const int64_t per_warp = p->up.plane[0] ? 8 : 16, tiles = tiles_of(p, NC);
    product_plan plan;
    if (tiles == 0 || p->n == 0)
        return 0;
    plan.x_parts = parts_of(p->x_type);
    plan.k_split =
        k_split_of((p->n + per_warp - 1) / per_warp * tiles, (p->k + D::step - 1) / D::step);
    const int64_t whole = (p->k + 255) / 256 * 256;
    const int x_bytes = (NT == 1 ? 16 : 32) * 1024; // or 256 along K
    int64_t phase = x_bytes / (NC * 2 * plan.x_parts) / 256 * 256;
    phase = phase < 256 ? 256 : phase;
    plan.phase = (int)(whole < phase ? whole : phase);

    int bytes = WARPS * warp_bytes<D>() + phase_bytes<D>(NC, plan.phase, plan.x_parts);
    const int sums = WARPS * NT * 4 * 32 * (int)sizeof(float);
    bytes = bytes < sums ? sums : bytes;
    const int64_t rows = WARPS / plan.k_split * per_warp;
    plan.row_blocks = (int)((p->n + rows - 1) / rows);
    return launch(product_kernel<D, NT, ONE>, dim3((unsigned)(plan.row_blocks * tiles)),
                  dim3(WARPS * 32), (size_t)bytes, s, path, *p, plan);
}

template <class D> int product(const gqmm_cuda_product *p, int path, gqmm_stream s)
{
    if (p->x_type != GQMM_BF16)
        return launch_product<D, 2, false>(p, path, s);
    return columns_of_tile(p) > 8 ? launch_product<D, 4, true>(p, path, s)
                                  : launch_product<D, 1, true>(p, path, s);
}

} // namespace gqmm

#endif
