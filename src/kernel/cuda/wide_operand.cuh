// SPDX-License-Identifier: MIT
// The left operand of the wide product's wgmma: rows of a step as they lie in the file become bf16
// in registers.
#ifndef GQMM_KERNEL_CUDA_WIDE_OPERAND_CUH
#define GQMM_KERNEL_CUDA_WIDE_OPERAND_CUH

#include "kernel/cuda/wide_codes.cuh"
#include "kernel/cuda/wide_load.cuh"
#include "kernel/cuda/wide_scales.cuh"

namespace gqmm
{
namespace wide_product
{

// What a consumer warp knows of its rows in a tile.
template <class D, class S> struct warp_rows {
    uint32_t slips;          // of the rows that the lane makes scales of: 4 bits a plane, 12 a row
    int code_slip[S::MT][2]; // of its two rows of codes
};

template <class D, class S>
__device__ __forceinline__ warp_rows<D, S>
rows_of_warp(const wide_args &a, int expert, int row_block, const int (&outputs)[S::MT], int lane)
{
    warp_rows<D, S> rows;
    rows.slips = 0;
    const bool two = a.p.up.plane[0] != NULL;
    const gqmm_cuda_matrix *mine = two && (lane & 8) ? &a.p.up : &a.p.w;
#pragma unroll
    for (int m = 0; m < S::MT; m++) {
        const uint32_t row = (uint32_t)row_of<S>(a, row_block, outputs[m]);
#pragma unroll
        for (int plane = slips<D>() ? 0 : 1; plane < D::planes; plane++)
            rows.slips |= (((uint32_t)(uintptr_t)mine->plane[plane] +
                            (uint32_t)expert * (uint32_t)mine->expert_stride[plane] +
                            row * (uint32_t)mine->row_stride[plane]) &
                           15)
                          << (12 * m + 4 * plane);
        if (slips<D>()) // the lanes of rows g and g + 8 know them
            for (int h = 0; h < 2; h++)
                rows.code_slip[m][h] =
                    __shfl_sync(0xffffffffu, rows.slips >> 12 * m, (lane >> 2) + 8 * h) & 15;
    }
    asm volatile("" : "+r"(rows.slips)); // not to be found again for each step
    return rows;
}

// The scales of one step of a warp's rows to `to`[m][16][scale_pitch()].
template <class D, class S>
__device__ __forceinline__ void make_scales(uint32_t *to, const wide_args &a, const uint8_t *stage,
                                            int warp, int lane, const warp_rows<D, S> &rows,
                                            int step)
{
    constexpr int count = D::step / D::piece / 2, words = scale_words<making_of<D>()>;
    const int half = lane >> 4;
    uint32_t v[S::MT][count * words]; // all are read before the first is written
#pragma unroll
    for (int m = 0; m < S::MT; m++) {
        const int slot = (warp * S::MT + m) * 16 + (lane & 15);
        step_row row;
        row.p[0] = stage + slot * pitch<D>() +
                   (slips<D>() ? ((rows.slips >> 12 * m) + step * code_bytes<D>()) & 15 : 0);
#pragma unroll
        for (int plane = 1; plane < 3; plane++)
            row.p[plane] =
                plane < D::planes
                    ? stage + a.plane_at[plane] + slot * a.plane_chunks[plane] * 16 +
                          (((rows.slips >> (12 * m + 4 * plane)) + step * a.plane_bytes[plane]) &
                           15)
                    : stage;
        const int type = a.p.w.scale_type;
        if (D::planes == 3 && type == GQMM_F32) // a type known is a branch less for each scale
            scale_maker<D, count>::make(v[m], row, half, {a.p.w.group, GQMM_F32});
        else if (D::planes == 3 && type == GQMM_F16)
            scale_maker<D, count>::make(v[m], row, half, {a.p.w.group, GQMM_F16});
        else
            scale_maker<D, count>::make(v[m], row, half, {a.p.w.group, GQMM_BF16});
    }
#pragma unroll
    for (int m = 0; m < S::MT; m++)
        write_words(to + (m * 16 + (lane & 15)) * scale_pitch<D>() + half * count * words, v[m]);
}

// The left operands of four wgmma: 64 along k of 16 rows, pieces 2 sub and 2 sub + 1 of a step.
template <class D>
__device__ __forceinline__ void make_operand(uint32_t (&to)[16], const step_row &r0,
                                             const step_row &r1, const uint32_t *scales, int sub,
                                             int lane, const format_args &f)
{
    constexpr making M = making_of<D>();
    constexpr int words = scale_words<M>, n = 64 / D::piece * words;
    const int g = lane >> 2, t = lane & 3;
    uint32_t s0[n], s1[n];
    read_words(s0, scales + g * scale_pitch<D>() + sub * n);
    read_words(s1, scales + (g + 8) * scale_pitch<D>() + sub * n);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint32_t lo[4], hi[4];
        get_codes<D, row_align<D> == D::align>(lo, r0, 2 * sub + h, t, f);
        get_codes<D, row_align<D> == D::align>(hi, r1, 2 * sub + h, t, f);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int group = (D::piece == 16 ? 2 * h + i : h) * words;
            uint32_t *at = to + h * 8 + i * 4;
            at[0] = weight_pair<D>(lo[2 * i], s0 + group, 2 * i);
            at[1] = weight_pair<D>(hi[2 * i], s1 + group, 2 * i);
            at[2] = weight_pair<D>(lo[2 * i + 1], s0 + group, 2 * i + 1);
            at[3] = weight_pair<D>(hi[2 * i + 1], s1 + group, 2 * i + 1);
        }
    }
}

} // namespace wide_product
} // namespace gqmm

#endif
