// SPDX-License-Identifier: MIT
// Weights on their way to shared memory: a warp brings one step of 16 rows at a time, several steps
// ahead of its arithmetic, and no other warp reads them.
#ifndef GQMM_KERNEL_CUDA_STAGE_CUH
#define GQMM_KERNEL_CUDA_STAGE_CUH

#include "kernel/cuda.h"
#include "kernel/cuda/decode.cuh"
#include "kernel/cuda/mma.cuh"

namespace gqmm
{

constexpr int ROWS = 16; // of a warp: the rows of a matrix instruction

// Bytes between rows in shared memory. Lanes of a quad read neighbouring words of one row and quads
// read rows 0, 1, 2 ...: the remainder by 128 spreads the rows over the banks.
template <class D> GQMM_HD constexpr int code_pitch()
{
    const int bytes =
        ((int)D::bytes(0, D::step, format_args{}) + (D::loose ? 15 : 0) + 15) / 16 * 16;
    const int want = D::in_order == SERIAL ? 32 : 16;
    return bytes + (want - bytes % 128 + 128) % 128;
}

// Planes of scales: at most 4 bytes for 32 weights.
template <class D> GQMM_HD constexpr int scale_pitch()
{
    return D::planes == 1 ? 0 : D::step / 32 * 4;
}

template <class D> GQMM_HD constexpr int row_pitch()
{
    return code_pitch<D>() + (D::planes - 1) * scale_pitch<D>();
}

// Steps of a warp that lie in shared memory. More warps read more than deeper rings do.
template <class D> GQMM_HD constexpr int stages()
{
    return 2;
}

// 16 rows of one or two matrices: rows 8 .. 15 lie `second` bytes after rows 0 .. 7.
struct row_block {
    const uint8_t *first[3];
    int64_t stride[3], second[3];
    int count;   // rows 0 .. count - 1 of each 8 exist where `halves`, else of the 16
    bool halves; // the two 8s are rows of two matrices

    __device__ __forceinline__ const uint8_t *row(int plane, int r) const
    {
        // Rows past the end read the last one: their products are computed and dropped.
        int i = halves ? r & 7 : r;
        i = i < count ? i : count - 1;
        return first[plane] + i * stride[plane] + (halves && r >= 8 ? second[plane] : 0);
    }
};

// One lane's share of bringing steps of 16 rows to shared memory, and of finding them there.
template <class D> struct loader {
    static constexpr int bytes = (int)D::bytes(0, D::step, format_args{});
    static constexpr int pieces = (bytes + (D::loose ? 15 : 0) + 15) / 16; // of 16 bytes in a row
    static constexpr int items = (ROWS * pieces + 31) / 32;

    const uint8_t *from[items];    // rows of the lane's pieces of plane 0
    const uint8_t *scales_from[2]; // row lane % 16 of the other planes
    int slips; // rows lane % 16, lane / 4 and lane / 4 + 8: where they start in 16

    // B has row(plane, r) for r = 0 .. 15.
    template <class B> __device__ __forceinline__ void set(const B &b, int lane)
    {
#pragma unroll
        for (int i = 0; i < items; i++)
            from[i] = b.row(0, (i * 32 + lane) / pieces & 15);
#pragma unroll
        for (int plane = 1; plane < D::planes; plane++)
            scales_from[plane - 1] = b.row(plane, lane & 15);
        slips = ((int)(uintptr_t)b.row(0, lane & 15) & 15) |
                ((int)(uintptr_t)b.row(0, lane >> 2) & 15) << 8 |
                ((int)(uintptr_t)b.row(0, (lane >> 2) + 8) & 15) << 16;
    }

    // Step s to `to`. `k` weights make a row; what lies beyond becomes zero.
    __device__ __forceinline__ void bring(uint8_t *to, int s, int64_t k, bool aligned, int lane,
                                          const format_args &f) const
    {
        const int64_t left = D::bytes(0, k, f) - (int64_t)s * bytes;
        if (!D::loose && !aligned)
            bring_bytes(to, s, left, lane);
        else if (left >= bytes + (D::loose ? 16 : 0))
            bring_whole(to, s, lane);
        else
            bring_last(to, s, (int)(left < bytes ? left : bytes), lane);
#pragma unroll
        for (int plane = 1; plane < D::planes; plane++)
            bring_scales(to, plane, s, k, aligned, lane, f);
    }

    // Row of slot 0, 1 or 2 (see slips) of a step that was brought.
    __device__ __forceinline__ step_row at(const uint8_t *stage, int slot, int lane, int s) const
    {
        const int r = slot == 0 ? lane & 15 : (lane >> 2) + (slot - 1) * 8;
        const uint8_t *row = stage + r * row_pitch<D>();
        const int slip = D::loose ? (slips >> (8 * slot)) + s * bytes & 15 : 0;
        return step_row{
            {row + slip, row + code_pitch<D>(), row + code_pitch<D>() + scale_pitch<D>()}};
    }

  private:
    __device__ __forceinline__ static const uint8_t *down_to_16(const uint8_t *p)
    {
        return D::loose ? p - ((uintptr_t)p & 15) : p;
    }

    __device__ __forceinline__ void bring_whole(uint8_t *to, int s, int lane) const
    {
#pragma unroll
        for (int i = 0; i < items; i++) {
            const int item = i * 32 + lane, r = item / pieces, at = item % pieces * 16;
            if (ROWS * pieces % 32 == 0 || item < ROWS * pieces)
                copy_16(to + r * row_pitch<D>() + at, down_to_16(from[i] + (int64_t)s * bytes) + at,
                        16);
        }
    }

    __device__ __forceinline__ void bring_last(uint8_t *to, int s, int valid, int lane) const
    {
#pragma unroll
        for (int i = 0; i < items; i++) {
            const int item = i * 32 + lane, r = item / pieces, at = item % pieces * 16;
            if (ROWS * pieces % 32 == 0 || item < ROWS * pieces) {
                const uint8_t *row = from[i] + (int64_t)s * bytes, *down = down_to_16(row);
                const int here = valid + (int)(row - down) - at;
                uint8_t *out = to + r * row_pitch<D>() + at;
                // Nothing behind the row is touched, not even by a copy that would drop it.
                if (here >= 16)
                    copy_16(out, down + at, 16);
                else
                    for (int j = 0; j < 16; j++)
                        out[j] = j < here ? down[at + j] : 0;
            }
        }
    }

    // A view at odd bytes: correct, not fast.
    __device__ __forceinline__ void bring_bytes(uint8_t *to, int s, int64_t valid, int lane) const
    {
#pragma unroll
        for (int i = 0; i < items; i++) {
            const int item = i * 32 + lane, r = item / pieces, at = item % pieces * 16;
            for (int j = at; j < at + 16 && j < bytes && item < ROWS * pieces; j++)
                to[r * row_pitch<D>() + j] = j < valid ? from[i][(int64_t)s * bytes + j] : 0;
        }
    }

    __device__ __forceinline__ void bring_scales(uint8_t *to, int plane, int s, int64_t k,
                                                 bool aligned, int lane, const format_args &f) const
    {
        const int n = (int)D::bytes(plane, D::step, f);
        const int64_t left = D::bytes(plane, k, f) - (int64_t)s * n;
        const uint8_t *row = scales_from[plane - 1] + (int64_t)s * n;
        to += (lane & 15) * row_pitch<D>() + code_pitch<D>() + (plane - 1) * scale_pitch<D>();
        if (aligned && n % 4 == 0) {
            for (int at = (lane >> 4) * 4; at < n; at += 8) {
                if (left - at >= 4)
                    copy_4(to + at, row + at, 4);
                else
                    for (int j = 0; j < 4; j++)
                        to[at + j] = at + j < left ? row[at + j] : 0;
            }
            return;
        }
        for (int at = lane >> 4; at < n; at += 2)
            to[at] = at < left ? row[at] : 0;
    }
};

// Scales and offsets of a step, [group][row]; `factor` multiplies the scales of row lane % 16.
template <class D>
__device__ __forceinline__ void make_scales(float2 *to, const step_row &row, float factor, int lane,
                                            const format_args &f)
{
    constexpr int half = D::step / D::piece / 2; // of the groups, for each half of the warp
    const int first = (lane >> 4) * half;
    float2 v[half]; // stored together, so that groups that share bytes share their loads
#pragma unroll
    for (int i = 0; i < half; i++) {
        v[i] = D::scale(row, first + i, f);
        v[i].x = __fmul_rn(v[i].x, factor);
    }
#pragma unroll
    for (int i = 0; i < half; i++)
        to[(first + i) * ROWS + (lane & 15)] = v[i];
}

} // namespace gqmm

#endif
