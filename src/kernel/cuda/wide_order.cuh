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

// Rows i of x, `k` of them bf16, to y, rows of k. A quad takes 32 along k.
template <order O>
__global__ void __launch_bounds__(256)
    order_kernel(uint16_t *y, const uint16_t *x, int64_t x_row, int64_t x_mat, int64_t m,
                 int64_t n_rows, int64_t k)
{
    wait_for_previous();
    let_next_start();
    const int64_t pieces = k / 32, n = n_rows * pieces;
    const int64_t at = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 4;
    const int lane = (int)threadIdx.x & 3;
    const int64_t row = (at < n ? at : n - 1) / pieces, piece = (at < n ? at : n - 1) % pieces;
    const uint16_t *from = x + row / m * x_mat + row % m * x_row + piece * 32;
    uint16_t e[8]; // those of the lane, as k_of() has them
    if (((uintptr_t)from & 15) == 0) {
        const uint32_t *words = (const uint32_t *)from;
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; i++) // of neighbours along k, first the lower
            w[i] = words[O == NATIVE                   ? 4 * i + lane
                         : O == HALVES || O == CROSSED ? 2 * lane + (i & 1) + (i & 2) * 4
                                                       : 4 * lane + i];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int at = O == NIBBLE                  ? i / 2 + (i & 1) * 4
                           : O == CROSSED || O == BYTES ? (i & 4) + (i & 2) / 2 + (i & 1) * 2
                                                        : i;
            e[i] = (uint16_t)(w[at / 2] >> 16 * (at & 1));
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            e[i] = from[k_of(O, lane, i)];
    }
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        v[i] = e[2 * i] | (uint32_t)e[2 * i + 1] << 16;
    exchange_in_quad(v, lane);
    if (at < n)
        *(uint4 *)(y + row * k + piece * 32 + 8 * lane) = make_uint4(v[0], v[1], v[2], v[3]);
}

// p->x to p->x_ordered, all matrices.
template <order O> int bring_in_order(const gqmm_cuda_product *p, gqmm_stream s)
{
    const int64_t rows = p->n_x * p->m, threads = rows * (p->k / 32) * 4;
    if (threads == 0)
        return 0;
    return launch(order_kernel<O>, dim3((unsigned)((threads + 255) / 256)), dim3(256), 0, s,
                  GQMM_CUDA_SM90, (uint16_t *)p->x_ordered, (const uint16_t *)p->x, p->x_row,
                  p->x_mat, p->m, rows, p->k);
}

} // namespace wide_product
} // namespace gqmm

#endif
