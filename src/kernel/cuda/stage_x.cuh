// SPDX-License-Identifier: MIT
// Activations of a block's columns on their way to shared memory: split into bf16 parts, in the
// decoder's order, with their sums for each scale where offsets need them.
#ifndef GQMM_KERNEL_CUDA_STAGE_X_CUH
#define GQMM_KERNEL_CUDA_STAGE_X_CUH

#include "kernel/cuda/activations.cuh"
#include "kernel/cuda/columns.cuh"
#include "kernel/cuda/multiply.cuh"

namespace gqmm
{

// Activations in shared memory, `phase` along K at a time: rows of numbers, then rows of sums of
// each group. Pitches are 64 and 16 bytes beyond multiples of 128, so that neighbouring columns
// meet different banks.
struct x_layout {
    int column_bits, phase, pitch, part_bytes, sums, sum_pitch;
};

template <class D, int NT> GQMM_HD constexpr int sum_pitch(int phase)
{
    return codes_of<D, NT>::has_offset ? phase / D::piece * (int)sizeof(float) + 16 : 0;
}

template <class D, int NT> GQMM_HD constexpr int x_bytes(int phase, int columns, int x_parts)
{
    return columns * ((phase * 2 + 64) * x_parts + sum_pitch<D, NT>(phase));
}

// `count` columns where there is room for `phase` of NT * 8: fewer leave room for more of K.
template <class D, int NT>
__device__ __forceinline__ x_layout lay_out_x(int phase, int x_parts, int count, int64_t k)
{
    x_layout l;
    l.column_bits = count <= 1 ? 0 : 32 - __clz(count - 1);
    const int64_t whole = (k + 255) / 256 * 256, most = phase * NT * 8 >> l.column_bits;
    l.phase = (int)(whole < most ? whole : most);
    l.pitch = l.phase * 2 + 64;
    l.part_bytes = l.pitch << l.column_bits;
    l.sums = x_parts * l.part_bytes;
    l.sum_pitch = sum_pitch<D, NT>(l.phase);
    return l;
}

// A sum of 8 numbers added up over the lanes that hold a group of them, for each piece of the
// group; e counts eighths of a row.
template <class D> __device__ __forceinline__ void keep_sum(float *row, int e, float sum, int group)
{
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    if (D::piece == 32)
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (D::grouped && group > 32)
        sum += __shfl_xor_sync(0xffffffffu, sum, 4);
    if (D::grouped && group > 64)
        sum += __shfl_xor_sync(0xffffffffu, sum, 8);
    if (e % (D::piece / 8) == 0)
        row[e / (D::piece / 8)] = sum;
}

// Activations of the columns along [k0, k0 + phase). A column without a row is all zeros. A warp
// takes 256 numbers at a time; of bf16 several times, so that their loads are under way at once.
template <class D, int NT, bool ONE>
__device__ __forceinline__ void bring_x(uint8_t *xs, const gqmm_cuda_product &p, const x_layout &l,
                                        int x_parts, const column_set<NT * 8> &c, int64_t k0)
{
    typedef codes_of<D, NT> codes;
    typedef typename std::conditional<ONE, bf16_eight, float_eight>::type eight;
    constexpr int AHEAD = ONE ? 4 : 1;
    const int warps = (int)blockDim.x / 32, all = l.phase / 256 << l.column_bits;
    for (int u0 = (int)threadIdx.x / 32; u0 < all; u0 += warps * AHEAD) {
        eight v[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int u = u0 + i * warps, col = u & ((1 << l.column_bits) - 1);
            const int e = (u >> l.column_bits) * 32 + (int)threadIdx.x % 32;
            const int64_t at = u < all && col < c.count ? c.x_at[col] : -1;
            v[i].load((const uint8_t *)p.x + at * bytes_of(p.x_type), k0 + e * 8, at < 0 ? 0 : p.k,
                      p.x_type);
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int u = u0 + i * warps, col = u & ((1 << l.column_bits) - 1);
            const int e = (u >> l.column_bits) * 32 + (int)threadIdx.x % 32;
            if (u >= all)
                break;
            if (codes::has_offset)
                keep_sum<D>((float *)(xs + l.sums + col * l.sum_pitch), e, v[i].sum(), p.w.group);
            for (int part = 0; part < (ONE ? 1 : x_parts); part++)
                place_8<codes::in_order>(xs + part * l.part_bytes + col * l.pitch + e / 4 * 64,
                                         e & 3, v[i].next());
        }
    }
}

} // namespace gqmm

#endif
