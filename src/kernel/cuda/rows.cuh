// SPDX-License-Identifier: MIT
// Rows of weights as numbers (dequantize, embed), and the product without transpose, whose stored
// rows are k. Both read steps of 16 rows as the products do; neither is on the way of a token.
#ifndef GQMM_KERNEL_CUDA_ROWS_CUH
#define GQMM_KERNEL_CUDA_ROWS_CUH

#include "kernel/cuda/product.cuh"

namespace gqmm
{

constexpr int ROW_WARPS = 4;

// Element i of a lane's codes as a number.
template <int parts> __device__ __forceinline__ float code_at(const uint32_t (&a)[parts][4], int i)
{
    float v = 0.0f;
#pragma unroll
    for (int w = parts - 1; w >= 0; w--)
        v += __uint_as_float(i & 1 ? a[w][i / 2] & 0xffff0000u : a[w][i / 2] << 16);
    return v;
}

// scale * code + offset with the definition's two roundings.
template <class D>
__device__ __forceinline__ float weight_at(const uint32_t (&a)[D::parts][4], int i, float2 s)
{
    const float v = __fmul_rn(s.x, code_at<D::parts>(a, i));
    return D::has_offset ? __fadd_rn(v, s.y) : v;
}

template <class D>
__device__ __forceinline__ float2 scale_of(const step_row &r, int j, int i, float factor,
                                           format_args f)
{
    float2 s = D::scale(r, D::piece == 16 ? 2 * j + i / 4 : j, f);
    s.x = __fmul_rn(s.x, factor);
    return s;
}

// 16 rows of any experts.
struct any_rows {
    const gqmm_cuda_matrix *w;
    const int64_t *row_of; // in its expert
    const int32_t *expert; // -1: a zero row, for which row 0 of expert 0 is read

    __device__ __forceinline__ const uint8_t *row(int plane, int r) const
    {
        const int e = expert[r] < 0 ? 0 : expert[r];
        return w->plane[plane] + e * w->expert_stride[plane] + row_of[r] * w->row_stride[plane];
    }
};

// One store, which the compiler else takes apart where it saves moves.
__device__ __forceinline__ void store_16(void *y, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(y)),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
}

// Eight numbers, or as many as are left, 16 bytes at a time where y is aligned.
__device__ __forceinline__ void store_8(void *y, int64_t at, int type, const float (&v)[8],
                                        bool vectors, int64_t left)
{
    if (!vectors || left < 8) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < left)
                store_number(y, at + i, type, v[i]);
    } else if (type == GQMM_F32) {
#pragma unroll
        for (int i = 0; i < 8; i += 4)
            store_16((float *)y + at + i, __float_as_uint(v[i]), __float_as_uint(v[i + 1]),
                     __float_as_uint(v[i + 2]), __float_as_uint(v[i + 3]));
    } else {
        store_16((uint16_t *)y + at, pair_of(v[0], v[1], type), pair_of(v[2], v[3], type),
                 pair_of(v[4], v[5], type), pair_of(v[6], v[7], type));
    }
}

// A warp takes one step of 16 rows of the output.
template <class D>
__global__ void __launch_bounds__(ROW_WARPS * 32)
    rows_kernel(const __grid_constant__ gqmm_cuda_rows r)
{
    // A lane's eight codes are eight numbers that follow each other.
    constexpr bool OWN = D::in_order == SERIAL || D::in_order == NIBBLE;
    __shared__ __align__(128) uint8_t shared[ROW_WARPS][ROWS * row_pitch<D>()];
    __shared__ int64_t row_of[ROW_WARPS][ROWS];
    __shared__ int32_t expert[ROW_WARPS][ROWS];
    __shared__ float turn[ROW_WARPS][8][33]; // 32 of 8 rows, for orders that mix the lanes' eighths
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, t = lane & 3;
    const format_args f = {r.w.group, r.w.scale_type};
    const bool vectors = (uintptr_t)r.y % 16 == 0 && r.y_row * bytes_of(r.y_type) % 16 == 0;
    const int64_t k = r.w.n_cols;
    const uint32_t steps = (uint32_t)((k + D::step - 1) / D::step);
    const uint32_t task = blockIdx.x * ROW_WARPS + warp;
    const int64_t row0 = (int64_t)(task / steps) * ROWS, s = task % steps;

    wait_for_previous();
    let_next_start();
    if (row0 >= r.n)
        return;
    if (lane < ROWS) {
        const int64_t i = row0 + lane;
        int64_t id = -1;
        if (i < r.n)
            id = r.ids ? r.ids[i * r.ids_stride] : r.first + i;
        if (id < -1 || (r.ids && id >= r.w.n_rows)) {
            atomicOr(r.fault, GQMM_FAULT_TOKEN);
            id = -1;
        }
        // Divisions of 64 bits are long: one for each row.
        const int64_t e = id < r.w.n_rows ? 0 : id / r.w.n_rows;
        row_of[warp][lane] = id < 0 ? 0 : id - e * r.w.n_rows;
        expert[warp][lane] = id < 0 ? -1 : (int32_t)e;
    }
    __syncwarp();
    const any_rows b = {&r.w, row_of[warp], expert[warp]};
    loader<D> weights;
    weights.set(b, k, r.w.aligned, false, lane, f);
    weights.bring(shared[warp], (int)s, k, r.w.aligned, 0, 0, lane, f, [&] { return b; });
    copies_commit();
    copies_wait<0>();
    __syncwarp();

    const int64_t left = k - s * D::step;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int at = half * 8 + lane / 4;
        const bool none = expert[warp][at] < 0;
        const float factor = global_of(r.w, none ? 0 : expert[warp][at]);
        const step_row from = weights.at(shared[warp], 1 + half, lane, (int)s);
        const int64_t y = (row0 + at) * r.y_row + s * D::step + 8 * t;
        for (int j = 0; j < D::step / 32 && j * 32 < left; j++) {
            uint32_t a[D::parts][4];
            D::codes(a, from, j, t, f);
            const float2 first = scale_of<D>(from, j, 0, factor, f);
            const float2 second = D::piece == 16 ? scale_of<D>(from, j, 4, factor, f) : first;
            float v[8];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float w = none ? 0.0f : weight_at<D>(a, i, i < 4 ? first : second);
                if (OWN)
                    v[k_of(D::in_order, 0, i)] = w;
                else
                    turn[warp][lane / 4][k_of(D::in_order, t, i)] = w;
            }
            if (!OWN) {
                __syncwarp();
#pragma unroll
                for (int i = 0; i < 8; i++)
                    v[i] = turn[warp][lane / 4][8 * t + i];
                __syncwarp();
            }
            if (row0 + at < r.n)
                store_8(r.y, y + j * 32, r.y_type, v, vectors, left - j * 32 - 8 * t);
        }
    }
}

template <class D> int rows(const gqmm_cuda_rows *r, gqmm_stream s)
{
    const int64_t steps = (r->w.n_cols + D::step - 1) / D::step;
    const int64_t tasks = (r->n + ROWS - 1) / ROWS * steps;
    if (tasks == 0)
        return 0;
    if (tasks > UINT32_MAX)
        return (int)cudaErrorInvalidValue;
    return launch(rows_kernel<D>, dim3((unsigned)((tasks + ROW_WARPS - 1) / ROW_WARPS)),
                  dim3(ROW_WARPS * 32), 0, s, GQMM_CUDA_SM80, *r);
}

// y[column, n] = sum over k of W[k, n] x[k]. A block takes one step of n and one column; its warps
// share the stored rows and their sums are added in order.
template <class D>
__global__ void __launch_bounds__(ROW_WARPS * 32)
    product_n_kernel(const __grid_constant__ gqmm_cuda_product p, int steps)
{
    constexpr int PIECES = D::step / 32;
    __shared__ __align__(128) uint8_t shared[ROW_WARPS][ROWS * row_pitch<D>()];
    __shared__ float sums[ROW_WARPS][D::step];
    __shared__ column_set<8> columns;
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, g = lane >> 2,
              t = lane & 3;
    const format_args f = {p.w.group, p.w.scale_type};
    const int s = (int)(blockIdx.x % (unsigned)steps);

    wait_for_previous();
    let_next_start();
    find_columns(columns, p, (int)(blockIdx.x / (unsigned)steps));
    if (columns.count == 0)
        return;
    if (columns.expert < 0) {
        zero_rows(p, columns, (int64_t)s * D::step, D::step);
        return;
    }
    const float factor = global_of(p.w, columns.expert);
    const int64_t left = p.n - (int64_t)s * D::step;
    for (int c = 0; c < columns.count; c++) {
        const bool none = columns.x_at[c] < 0;
        float acc[PIECES][8] = {};
        for (int64_t k0 = warp * ROWS; k0 < p.k && !none; k0 += ROW_WARPS * ROWS) {
            row_block b = rows_at(p, columns.expert, 0);
            b.count = (int)(p.k - k0 < ROWS ? p.k - k0 : ROWS);
#pragma unroll
            for (int i = 0; i < 3; i++)
                b.first[i] += k0 * b.stride[i];
            loader<D> weights;
            weights.set(b, p.n, p.w.aligned, false, lane, f);
            weights.bring(shared[warp], s, p.n, p.w.aligned, 0, 0, lane, f, [&] { return b; });
            copies_commit();
            copies_wait<0>();
            __syncwarp();
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int r = half * 8 + g;
                const step_row from = weights.at(shared[warp], 1 + half, lane, s);
                const bool here = k0 + r < p.k;
                const float x = here ? load_number(p.x, columns.x_at[c] + k0 + r, p.x_type) : 0.0f;
#pragma unroll
                for (int j = 0; j < PIECES; j++) {
                    if (!here || j * 32 >= left)
                        continue;
                    uint32_t a[D::parts][4];
                    D::codes(a, from, j, t, f);
#pragma unroll
                    for (int i = 0; i < 8; i++)
                        acc[j][i] = fmaf(weight_at<D>(a, i, scale_of<D>(from, j, i, factor, f)), x,
                                         acc[j][i]);
                }
            }
            __syncwarp();
        }
#pragma unroll
        for (int j = 0; j < PIECES; j++)
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float v = acc[j][i];
                v += __shfl_xor_sync(0xffffffffu, v, 4);
                v += __shfl_xor_sync(0xffffffffu, v, 8);
                v += __shfl_xor_sync(0xffffffffu, v, 16);
                if (g == 0)
                    sums[warp][j * 32 + k_of(D::in_order, t, i)] = v;
            }
        __syncthreads();
        for (int i = (int)threadIdx.x; i < D::step && i < left; i += ROW_WARPS * 32) {
            float v = 0.0f;
            for (int w = 0; w < ROW_WARPS; w++)
                v += sums[w][i];
            store_number(p.y, columns.y_at[c] + (int64_t)s * D::step + i, p.y_type, v);
        }
        __syncthreads();
    }
}

template <class D> int product_n(const gqmm_cuda_product *p, int path, gqmm_stream s)
{
    const int64_t steps = (p->n + D::step - 1) / D::step, tiles = tiles_of(p, 8);
    if (steps * tiles == 0)
        return 0;
    return launch(product_n_kernel<D>, dim3((unsigned)(steps * tiles)), dim3(ROW_WARPS * 32), 0, s,
                  path, *p, (int)steps);
}

} // namespace gqmm

#endif
