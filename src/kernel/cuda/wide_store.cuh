// SPDX-License-Identifier: MIT
// The sums of a wide tile to y, with SwiGLU where there are two matrices.
#ifndef GQMM_KERNEL_CUDA_WIDE_STORE_CUH
#define GQMM_KERNEL_CUDA_WIDE_STORE_CUH

#include "kernel/cuda/activations.cuh"
#include "kernel/cuda/epilogue.cuh"
#include "kernel/cuda/wide_load.cuh"

namespace gqmm
{
namespace wide_product
{

// Lane (g, t) holds columns 2 t and 2 t + 1 of row g; it gets rows 2 t and 2 t + 1 of column g.
__device__ __forceinline__ uint32_t turn(float2 c)
{
    return transpose_8x8(pair_of(c.x, c.y, GQMM_BF16));
}

// A lane's columns 8 j + 2 t and the next, of its row in part i of a warp's.
template <class S, bool TWO>
__device__ __forceinline__ float2 sums_of(const float (&acc)[2][S::N / 2], int j, int i,
                                          const sum_factors &f)
{
    const float *c = acc[TWO ? i : i / 2] + 4 * j;
    if (TWO)
        return make_float2(swiglu(c[0], c[2], f), swiglu(c[1], c[3], f));
    return make_float2(c[i % 2 * 2], c[i % 2 * 2 + 1]);
}

template <class S, bool TWO> constexpr int parts = TWO ? S::MT : 2 * S::MT;

// bf16 numbers; those of a lane are neighbours and lie at a multiple of their size. Other cases are
// elsewhere: this runs once for an item, so that its instructions are fetched anew each time.
template <class S, bool TWO>
__device__ __forceinline__ void store_whole(const float (&acc)[2][S::N / 2], const wide_args &a,
                                            const int64_t *y_at, int64_t first, int lane, int count,
                                            const sum_factors &f)
{
    constexpr int n = parts<S, TWO>;
    uint8_t *y = (uint8_t *)a.p.y + (first + 2 * n * (lane & 3)) * 2;
    const int here = first + 2 * n * (lane & 3) < a.p.n ? count : 0;
    constexpr int AT_ONCE = 2; // times eight columns, that one's latency be another's work
#pragma unroll
    for (int first_j = 0; first_j < S::N / 8; first_j += AT_ONCE) {
        if (8 * first_j >= count)
            break;
#pragma unroll
        for (int j = first_j; j < first_j + AT_ONCE && j < S::N / 8; j++) {
            uint32_t v[n];
#pragma unroll
            for (int i = 0; i < n; i++)
                v[i] = turn(sums_of<S, TWO>(acc, j, i, f));
            const int column = 8 * j + (lane >> 2);
            if (column < here) {
                uint8_t *to = y + y_at[column] * 2;
                if constexpr (n == 4)
                    *(uint4 *)to = make_uint4(v[0], v[1], v[2], v[3]);
                else if constexpr (n == 2)
                    *(uint2 *)to = make_uint2(v[0], v[1]);
                else
                    *(uint32_t *)to = v[0];
            }
        }
    }
}

// Number by number, for any y. Sums move down in their registers, so that this is short.
template <class S, bool TWO>
__device__ __forceinline__ void store_numbers(float (&acc)[2][S::N / 2], const wide_args &a,
                                              const int64_t *y_at, int64_t first, int lane,
                                              int count, const sum_factors &f)
{
    constexpr int n = parts<S, TWO>;
    const int g = lane >> 2;
#pragma unroll 1
    for (int column = 2 * (lane & 3), end = count + column; column < end; column += 8) {
#pragma unroll
        for (int i = 0; i < n; i++) {
            const float2 c = sums_of<S, TWO>(acc, 0, i, f);
            const int64_t output = first + 2 * n * (g >> 1) + 2 * i + (g & 1);
            if (column < count && output < a.p.n)
                store_number(a.p.y, y_at[column] + output, a.p.y_type, c.x);
            if (column + 1 < count && output < a.p.n)
                store_number(a.p.y, y_at[column + 1] + output, a.p.y_type, c.y);
        }
#pragma unroll
        for (int i = 0; i < S::N / 2 - 4; i++) {
            acc[0][i] = acc[0][i + 4];
            acc[1][i] = acc[1][i + 4];
        }
    }
}

template <class S, bool TWO>
__device__ __forceinline__ void store_as(float (&acc)[2][S::N / 2], const wide_args &a,
                                         const int64_t *y_at, int row_block, int warp, int lane,
                                         int count, const sum_factors &f)
{
    constexpr int outputs = TWO ? S::ROWS / 2 : S::ROWS;
    const int64_t first = (int64_t)row_block * outputs + 8 * parts<S, TWO> * warp;
    if (a.whole_y)
        store_whole<S, TWO>(acc, a, y_at, first, lane, count, f);
    else
        store_numbers<S, TWO>(acc, a, y_at, first, lane, count, f);
}

// Global scales and powers of two, where there is one matrix.
template <class S>
__device__ __forceinline__ void apply_globals(float (&acc)[2][S::N / 2], float factor)
{
#pragma unroll
    for (int i = 0; i < S::N / 2; i++) {
        acc[0][i] *= factor;
        acc[1][i] *= factor;
    }
}

template <class S>
__device__ __forceinline__ void store(float (&acc)[2][S::N / 2], const wide_args &a,
                                      const int64_t *y_at, int expert, int row_block, int warp,
                                      int lane, int count)
{
    const float w = expert < 0 ? 1.0f : a.factor * global_of(a.p.w, expert);
    if (!a.p.up.plane[0] && w != 1.0f)
        apply_globals<S>(acc, w);
    if (a.p.up.plane[0]) {
        const float up = expert < 0 ? 1.0f : a.factor * global_of(a.p.up, expert);
        const sum_factors f = {-1.44269504f * w, 1.0f / (w * up * a.y_factor)};
        store_as<S, true>(acc, a, y_at, row_block, warp, lane, count, f);
    } else {
        store_as<S, false>(acc, a, y_at, row_block, warp, lane, count, {});
    }
}

} // namespace wide_product
} // namespace gqmm

#endif
