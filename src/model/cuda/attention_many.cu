// SPDX-License-Identifier: MIT
// Attention of a prompt in fp32, flash-style: a block takes B rows, a row being one token and one
// of the heads that share keys, and walks tiles of B positions up to the last that its rows see.
//
// 16 x 16 threads: thread (ty, tx) has the scores of rows ty * R + i and positions tx + 16 * j, and
// of the sums the columns tx + 16 * c of the same rows. Rows of shared memory are 4 floats longer
// than they are wide, so that the 8 lanes of one 128-byte access meet different banks.
#include "model/cuda/attention.cuh"

namespace gqmm_model
{

namespace
{

struct many_args {
    attention_view v;
    int64_t n_rows; // tokens times heads that share keys
    int blocks;
};

// Rows [begin, begin + B) of a tile, zeros behind `end` and behind dim; row r lies at at(r).
template <int D, int B, class At>
__device__ void fetch(float *tile, int64_t begin, int64_t end, int dim, float scale, At at)
{
    for (int i = threadIdx.x; i < B * D; i += 256) {
        const int r = i / D, d = i % D;
        const bool there = begin + r < end && d < dim;
        tile[r * (D + 4) + d] = there ? at(begin + r)[d] * scale : 0.0f;
    }
}

template <int D, int B>
__device__ void scores(float (&s)[B / 16][B / 16], const float *q, const float *k, int ty, int tx)
{
    constexpr int R = B / 16;
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < R; j++)
            s[i][j] = 0;
#pragma unroll 4
    for (int d = 0; d < D; d += 4) {
        float4 x[R], y[R];
#pragma unroll
        for (int i = 0; i < R; i++) {
            x[i] = *(const float4 *)(q + (ty * R + i) * (D + 4) + d);
            y[i] = *(const float4 *)(k + (tx + 16 * i) * (D + 4) + d);
        }
#pragma unroll
        for (int i = 0; i < R; i++)
#pragma unroll
            for (int j = 0; j < R; j++) {
                s[i][j] = fmaf(x[i].x, y[j].x, s[i][j]);
                s[i][j] = fmaf(x[i].y, y[j].y, s[i][j]);
                s[i][j] = fmaf(x[i].z, y[j].z, s[i][j]);
                s[i][j] = fmaf(x[i].w, y[j].w, s[i][j]);
            }
    }
}

// Over the 16 threads that share a row.
template <class F> __device__ float row_fold(float v, F f)
{
#pragma unroll
    for (int step = 8; step > 0; step /= 2)
        v = f(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

// How many positions a row sees.
__device__ int64_t seen(const many_args &a, int64_t length, int64_t row, int shared)
{
    return length + a.v.ahead + row / shared + 1;
}

template <int D, int B> __global__ void __launch_bounds__(256) many_kernel(many_args a)
{
    constexpr int R = B / 16, C = D / 16;
    extern __shared__ float4 memory[];
    float *q = (float *)memory, *kv = q + B * (D + 4), *p = kv + B * (D + 4);
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16, group = blockIdx.y, dim = a.v.head_dim;
    const int shared = a.v.n_heads / a.v.n_kv_heads;
    const int64_t row0 = (int64_t)(a.blocks - 1 - blockIdx.x) * B; // late rows see most: first
    const int64_t end_row = row0 + B < a.n_rows ? row0 + B : a.n_rows;
    const auto in = [&](int64_t row) {
        return a.v.q + row / shared * a.v.q_stride + (group * shared + row % shared) * dim;
    };
    enter();
    const int64_t length = *a.v.length, last = seen(a, length, end_row - 1, shared);
    const float *keys = a.v.k + group * a.v.capacity * dim;
    const float *values = a.v.v + group * a.v.capacity * dim;
    float y[R][C], max[R], sum[R];
#pragma unroll
    for (int i = 0; i < R; i++) {
        max[i] = -INFINITY;
        sum[i] = 0;
#pragma unroll
        for (int c = 0; c < C; c++)
            y[i][c] = 0;
    }
    fetch<D, B>(q, row0, end_row, dim, a.v.scale, in);
    for (int64_t at = 0; at < last; at += B) {
        float s[R][R];
        __syncthreads();
        fetch<D, B>(kv, at, last, dim, 1.0f, [&](int64_t r) { return keys + r * dim; });
        __syncthreads();
        scores<D, B>(s, q, kv, ty, tx);
        __syncthreads();
        fetch<D, B>(kv, at, last, dim, 1.0f, [&](int64_t r) { return values + r * dim; });
#pragma unroll
        for (int i = 0; i < R; i++) {
            const int64_t end = seen(a, length, row0 + ty * R + i, shared);
            float top = max[i], total = 0;
#pragma unroll
            for (int j = 0; j < R; j++) {
                s[i][j] = at + tx + 16 * j < end ? s[i][j] : -INFINITY;
                top = fmaxf(top, s[i][j]);
            }
            top = row_fold(top, [](float u, float w) { return fmaxf(u, w); });
            const float shrink = exp2f(max[i] - top); // every row sees position 0: top is finite
#pragma unroll
            for (int j = 0; j < R; j++) {
                s[i][j] = exp2f(s[i][j] - top);
                total += s[i][j];
                p[(ty * R + i) * (B + 4) + tx + 16 * j] = s[i][j];
            }
            sum[i] = sum[i] * shrink + row_fold(total, [](float u, float w) { return u + w; });
            max[i] = top;
#pragma unroll
            for (int c = 0; c < C; c++)
                y[i][c] *= shrink;
        }
        __syncthreads();
#pragma unroll 4
        for (int k = 0; k < B; k++) {
            float w[R];
#pragma unroll
            for (int i = 0; i < R; i++)
                w[i] = p[(ty * R + i) * (B + 4) + k];
#pragma unroll
            for (int c = 0; c < C; c++) {
                const float v = kv[k * (D + 4) + tx + 16 * c];
#pragma unroll
                for (int i = 0; i < R; i++)
                    y[i][c] = fmaf(w[i], v, y[i][c]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < R; i++) {
        const int64_t row = row0 + ty * R + i;
        if (row >= end_row)
            continue;
        float *out = a.v.y + (row / shared * a.v.n_heads + group * shared + row % shared) * dim;
#pragma unroll
        for (int c = 0; c < C; c++)
            if (tx + 16 * c < dim)
                out[tx + 16 * c] = y[i][c] / sum[i];
    }
}

template <int D, int B> void start(gqmm_context *ctx, many_args a)
{
    const size_t shared = (2 * B * (D + 4) + B * (B + 4)) * sizeof(float);
    a.blocks = (int)((a.n_rows + B - 1) / B);
    if (shared > 48 * 1024)
        note(cudaFuncSetAttribute((const void *)many_kernel<D, B>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    launch(ctx, many_kernel<D, B>, dim3((unsigned)a.blocks, (unsigned)a.v.n_kv_heads), dim3(256),
           shared, a);
}

} // namespace

void attend_many(gqmm_context *ctx, const attention_view &v, int64_t n_tokens)
{
    many_args a = {};
    a.v = v;
    a.n_rows = n_tokens * (v.n_heads / v.n_kv_heads);
    if (v.head_dim <= 32)
        start<32, 64>(ctx, a);
    else if (v.head_dim <= 64)
        start<64, 64>(ctx, a);
    else if (v.head_dim <= 128)
        start<128, 64>(ctx, a);
    else
        start<256, 32>(ctx, a);
}

} // namespace gqmm_model
