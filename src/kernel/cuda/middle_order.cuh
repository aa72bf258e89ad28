// SPDX-License-Identifier: MIT
// Warps that bring a stage's activations into the order of a decoder, where they lie.
#ifndef GQMM_KERNEL_CUDA_MIDDLE_ORDER_CUH
#define GQMM_KERNEL_CUDA_MIDDLE_ORDER_CUH

#include "kernel/cuda/middle_sums.cuh"
#include "kernel/cuda/wide_order.cuh"

namespace gqmm
{
namespace middle_product
{

// Two numbers of the order, those of places q and q + 1, from the 32 in their own one.
template <order O, int q> __device__ __forceinline__ uint32_t ordered_pair(const uint32_t (&v)[16])
{
    constexpr int low = wide_product::place_source(O, q),
                  high = wide_product::place_source(O, q + 1);
    if constexpr (low % 2 == 0 && high == low + 1)
        return v[low / 2];
    return permute(v[low / 2], v[high / 2], (low % 2 ? 0x32 : 0x10) | (high % 2 ? 0x7600 : 0x5400));
}

template <order O, int c>
__device__ __forceinline__ void put_in_order(uint8_t *row, int turn, const uint32_t (&v)[16])
{
    *(uint4 *)(row + (c * 16 ^ turn)) =
        make_uint4(ordered_pair<O, 8 * c>(v), ordered_pair<O, 8 * c + 2>(v),
                   ordered_pair<O, 8 * c + 4>(v), ordered_pair<O, 8 * c + 6>(v));
}

// 32 numbers of a row of 128 bytes, chunks of 16 bytes at c ^ (row & 7): `turn` is 16 times that
// for their first chunk.
template <order O> __device__ __forceinline__ void order_piece(uint8_t *row, int turn)
{
    uint32_t v[16];
#pragma unroll
    for (int c = 0; c < 4; c++) {
        const uint4 u = *(const uint4 *)(row + (c * 16 ^ turn));
        v[4 * c] = u.x, v[4 * c + 1] = u.y, v[4 * c + 2] = u.z, v[4 * c + 3] = u.w;
    }
    put_in_order<O, 0>(row, turn, v);
    put_in_order<O, 1>(row, turn, v);
    put_in_order<O, 2>(row, turn, v);
    put_in_order<O, 3>(row, turn, v);
}

// Warps take stages in turn, so that one reads while another writes. A stage is a warp's from when
// it is full until its lanes arrive at it.
template <class W, int N>
__device__ __forceinline__ void order_columns(const middle_args &a, const block_memory &mem,
                                              int steps, int warp, int lane)
{
    constexpr int WARPS = orderers<W>(N) / 32;
    static_assert(PARTS % WARPS == 0, "rings have whole steps");
    uint8_t *rows = mem.data + lane * (PART * 2);
    ring columns(0);
    columns.stage = warp;
    for (int part = warp; part < PARTS * steps; part += WARPS) {
        uint8_t *mine = rows + columns.stage * (N * PART * 2);
        barrier_wait(mem.full_columns(columns.stage), columns.parity);
#pragma unroll
        for (int i = 0; i < N / 32; i++)
#pragma unroll
            for (int c = 0; c < 8; c += 4)
                order_piece<wide_product::wide_codes<typename W::decoder>::in_order>(
                    mine + i * (32 * PART * 2), (c ^ (lane & 7)) * 16);
        fence_for_wgmma(); // what is written, to be multiplied and later written over
        barrier_arrive(mem.ordered_columns(columns.stage));
        columns.next(a.column_stages, WARPS);
    }
}

} // namespace middle_product
} // namespace gqmm

#endif
