// SPDX-License-Identifier: MIT
// Activations in the order in which a decoder's operands meet them: inside every 32 along k, the
// right operand's place q holds element place_source(order, q).
#ifndef GQMM_KERNEL_CUDA_WIDE_ORDER_CUH
#define GQMM_KERNEL_CUDA_WIDE_ORDER_CUH

#include "kernel/cuda.h"
#include "kernel/cuda/decode.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/mma.cuh"

namespace gqmm
{
namespace wide_product
{

// Of 16 places that one instruction takes, lane t of a quad meets 2 t, 2 t + 1, 8 + 2 t and 9 + 2
// t.
GQMM_HD constexpr int place_source(int o, int q)
{
    return k_of((order)o, (q & 7) >> 1, 4 * (q >> 4) + (q >> 3 & 1) * 2 + (q & 1));
}

// Lane t of a quad holds word u of what lane u shall have, in v[u]; afterwards what it shall have
// itself.
__device__ __forceinline__ void exchange_in_quad(uint32_t (&v)[4], int lane)
{
#pragma unroll
    for (int b = 1; b <= 2; b *= 2)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (!(i & b)) {
                const bool high = lane & b;
                const uint32_t got = __shfl_xor_sync(0xffffffffu, high ? v[i] : v[i | b], b);
                if (high)
                    v[i] = got;
                else
                    v[i | b] = got;
            }
}

// Rows of x, k of them bf16, to y, rows of k.
struct order_args {
    uint16_t *y;
    const uint16_t *x;
    int64_t x_row, x_mat, m, n_rows, k;
};

constexpr int AT_ONCE = 4; // pieces that a quad of lanes has under way

// A lane's numbers of the 32 at `from`, of neighbours along k, first the lower.
template <order O>
__device__ __forceinline__ void load_piece(uint32_t (&w)[4], const uint16_t *from, int lane)
{
    const bool aligned = ((uintptr_t)from & 15) == 0;
    if (aligned && (O == SERIAL || O == NIBBLE || O == BYTES)) {
        const uint4 v = ((const uint4 *)from)[lane];
        w[0] = v.x;
        w[1] = v.y;
        w[2] = v.z;
        w[3] = v.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int word = O == NATIVE                   ? 4 * i + lane
                         : O == HALVES || O == CROSSED ? 2 * lane + (i & 1) + (i & 2) * 4
                                                       : 4 * lane + i;
        w[i] = aligned ? ((const uint32_t *)from)[word]
                       : from[2 * word] | (uint32_t)from[2 * word + 1] << 16;
    }
}

// The pieces of 32 along k number at, at + step, ..., by quads of lanes of warps that all call
// this.
template <order O>
__device__ __forceinline__ void bring_pieces(const order_args &a, uint32_t at, uint32_t step)
{
    const uint32_t pieces = (uint32_t)(a.k / 32), n = (uint32_t)a.n_rows * pieces;
    const int lane = (int)threadIdx.x & 3;
    uint32_t next[4];
    const auto load = [&](int j) {
        const uint32_t i = at + j * step < n ? at + j * step : n - 1;
        const uint32_t row = i / pieces, m = (uint32_t)a.m;
        load_piece<O>(next, a.x + row / m * a.x_mat + row % m * a.x_row + (i - row * pieces) * 32,
                      lane);
    };
    load(0);
#pragma unroll 1
    for (int j = 0; j < AT_ONCE; j++) {
        uint32_t w[4], v[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            w[i] = next[i];
        if (j + 1 < AT_ONCE)
            load(j + 1);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t e[2]; // as k_of() has them
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int p = 2 * i + h;
                const int from = O == NIBBLE                  ? p / 2 + (p & 1) * 4
                                 : O == CROSSED || O == BYTES ? (p & 4) + (p & 2) / 2 + (p & 1) * 2
                                                              : p;
                e[h] = w[from / 2] >> 16 * (from & 1) & 0xffff;
            }
            v[i] = e[0] | e[1] << 16;
        }
        exchange_in_quad(v, lane);
        if (at + j * step < n)
            *(uint4 *)(a.y + (int64_t)(at + j * step) * 32 + 8 * lane) =
                make_uint4(v[0], v[1], v[2], v[3]);
    }
}

template <order O> __global__ void __launch_bounds__(256) order_kernel(order_args a)
{
    wait_for_previous();
    let_next_start();
    bring_pieces<O>(a, (blockIdx.x * 256 * AT_ONCE + threadIdx.x) / 4, 64);
}

// Blocks of so many threads that take all pieces.
inline int64_t order_blocks(const order_args &a, int threads)
{
    return (a.n_rows * (a.k / 32) * 4 + threads * AT_ONCE - 1) / (threads * AT_ONCE);
}

inline order_args order_of(const gqmm_cuda_product *p)
{
    return {(uint16_t *)p->x_ordered,
            (const uint16_t *)p->x,
            p->x_row,
            p->x_mat,
            p->m,
            p->n_x * p->m,
            p->k};
}

// p->x to p->x_ordered, all matrices.
template <order O> int bring_in_order(const gqmm_cuda_product *p, gqmm_stream s)
{
    const int64_t blocks = order_blocks(order_of(p), 256);
    return blocks == 0 ? 0
                       : launch(order_kernel<O>, dim3((unsigned)blocks), dim3(256), 0, s,
                                GQMM_CUDA_SM90, order_of(p));
}

} // namespace wide_product
} // namespace gqmm

#endif
