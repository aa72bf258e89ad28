// SPDX-License-Identifier: MIT
// The sums of a wide tile to y, with SwiGLU where there are two matrices.
#ifndef GQMM_KERNEL_CUDA_WIDE_STORE_CUH
#define GQMM_KERNEL_CUDA_WIDE_STORE_CUH

#include "kernel/cuda/epilogue.cuh"
#include "kernel/cuda/wide_load.cuh"

namespace gqmm
{
namespace wide_product
{

// Two columns of a row as 16-bit numbers.
template <int TYPE> __device__ __forceinline__ uint32_t narrow(float lo, float hi)
{
    uint32_t v;
    if (TYPE == GQMM_F16)
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo));
    else
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo));
    return v;
}

// Lane (g, t) holds columns 2 t and 2 t + 1 of row g; it gets rows 2 t and 2 t + 1 of column g, one
// word of 16-bit or two of 32-bit numbers.
template <int TYPE> __device__ __forceinline__ void turn(uint32_t *to, float lo, float hi)
{
    if (TYPE != GQMM_F32) {
        to[0] = transpose_8x8(narrow<TYPE>(lo, hi));
        return;
    }
    const uint32_t a = __float_as_uint(lo), b = __float_as_uint(hi);
    const uint32_t low = transpose_8x8(__byte_perm(a, b, 0x5410));
    const uint32_t high = transpose_8x8(__byte_perm(a, b, 0x7632));
    to[0] = __byte_perm(low, high, 0x5410);
    to[1] = __byte_perm(low, high, 0x7632);
}

// WORDS words at y, of which `n` numbers exist.
template <int TYPE, int WORDS>
__device__ __forceinline__ void write(uint8_t *y, const uint32_t (&v)[WORDS], int64_t n, bool whole)
{
    constexpr int per = TYPE == GQMM_F32 ? 1 : 2; // numbers of a word
    if (whole && n >= WORDS * per) {
        if (WORDS % 4 == 0) {
#pragma unroll
            for (int i = 0; i < WORDS / 4; i++)
                ((uint4 *)y)[i] = make_uint4(v[4 * i % WORDS], v[(4 * i + 1) % WORDS],
                                             v[(4 * i + 2) % WORDS], v[(4 * i + 3) % WORDS]);
        } else if (WORDS == 2) {
            *(uint2 *)y = make_uint2(v[0], v[1 % WORDS]);
        } else {
            *(uint32_t *)y = v[0];
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < WORDS * per; i++)
        if (i < n) {
            if (TYPE == GQMM_F32)
                ((uint32_t *)y)[i] = v[i / per];
            else
                ((uint16_t *)y)[i] = (uint16_t)(v[i / per] >> 16 * (i % per));
        }
}

// What a tile's sums are multiplied by, as SwiGLU wants it.
struct sum_factors {
    float exponent; // of the gate's sum: 2^that is exp(-gate)
    float divisor;  // of the product of both sums, times 1 + exp(-gate)
};

__device__ __forceinline__ float swiglu(float gate, float up, const sum_factors &f)
{
    float e, r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(gate * f.exponent));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(fmaf(e, f.divisor, f.divisor)));
    return gate * r * up;
}

// Eight columns of a warp's rows, a lane's numbers of one of them in v.
template <class S, bool TWO, int TYPE, int WORDS>
__device__ __forceinline__ void turn_columns(uint32_t (&v)[WORDS], const float (&acc)[2][S::N / 2],
                                             int j, const sum_factors &f)
{
    constexpr int size = TYPE == GQMM_F32 ? 4 : 2;
#pragma unroll
    for (int m = 0; m < S::MT; m++) {
        const float *c = acc[m] + 4 * j;
        if (TWO) {
            turn<TYPE>(v + m * (size / 2), swiglu(c[0], c[2], f), swiglu(c[1], c[3], f));
        } else {
            turn<TYPE>(v + 2 * m * (size / 2), c[0], c[1]);
            turn<TYPE>(v + (2 * m + 1) * (size / 2), c[2], c[3]);
        }
    }
}

template <class S, bool TWO, int TYPE>
__device__ __forceinline__ void store_as(const float (&acc)[2][S::N / 2], const wide_args &a,
                                         const int64_t *y_at, int row_block, int warp, int lane,
                                         int count, const sum_factors &f)
{
    constexpr int parts = TWO ? S::MT : 2 * S::MT, outputs = TWO ? S::ROWS / 2 : S::ROWS;
    constexpr int size = TYPE == GQMM_F32 ? 4 : 2, words = parts * size / 2;
    constexpr int together = size == 2 ? 2 : 1; // times eight columns
    const int64_t first = (int64_t)row_block * outputs + 2 * parts * (4 * warp + (lane & 3));
    const int64_t n = a.p.n - first;
    const int whole = a.whole_y;
#pragma unroll
    for (int j = 0; j < S::N / 8; j += together)
        if (8 * j < count) {
            uint32_t v[together][words];
#pragma unroll
            for (int i = 0; i < together && j + i < S::N / 8; i++)
                turn_columns<S, TWO, TYPE>(v[i], acc, j + i, f);
#pragma unroll
            for (int i = 0; i < together && j + i < S::N / 8; i++) {
                const int column = 8 * (j + i) + (lane >> 2);
                if (column < count && n > 0)
                    write<TYPE>((uint8_t *)a.p.y + (y_at[column] + first) * size, v[i], n, whole);
            }
        }
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
        if (a.p.y_type == GQMM_BF16)
            store_as<S, true, GQMM_BF16>(acc, a, y_at, row_block, warp, lane, count, f);
        else if (a.p.y_type == GQMM_F16)
            store_as<S, true, GQMM_F16>(acc, a, y_at, row_block, warp, lane, count, f);
        else
            store_as<S, true, GQMM_F32>(acc, a, y_at, row_block, warp, lane, count, f);
    } else {
        if (a.p.y_type == GQMM_BF16)
            store_as<S, false, GQMM_BF16>(acc, a, y_at, row_block, warp, lane, count, {});
        else if (a.p.y_type == GQMM_F16)
            store_as<S, false, GQMM_F16>(acc, a, y_at, row_block, warp, lane, count, {});
        else
            store_as<S, false, GQMM_F32>(acc, a, y_at, row_block, warp, lane, count, {});
    }
}

} // namespace wide_product
} // namespace gqmm

#endif
