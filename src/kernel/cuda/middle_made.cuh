// SPDX-License-Identifier: MIT
// The middle product's weights of any other format, by its decoder. Scales are rounded as in
// wide_scales.cuh, and activations come in the decoder's order.
#ifndef GQMM_KERNEL_CUDA_MIDDLE_MADE_CUH
#define GQMM_KERNEL_CUDA_MIDDLE_MADE_CUH

#include "kernel/cuda/middle_weights.cuh"

#include <type_traits>

namespace gqmm
{
namespace middle_product
{

template <class D> struct made_weights {
    typedef D decoder;
    static constexpr bool exists = true, swizzled = false,
                          ordered = wide_product::wide_codes<D>::in_order != NATIVE;
    static constexpr int least_width = 64, most_width = 64, most_columns = 256;
    static constexpr int most_split = 0;
    static constexpr wide_product::making MAKING = wide_product::making_of<D>();
    static constexpr format_args ANY = {32, GQMM_F16};
    static constexpr int step_bytes = (int)D::bytes(0, STEP, ANY), SLIP = step_bytes % 16;
    static constexpr int row_bytes = row_pitch(step_bytes, SLIP ? 16 - largest_power(SLIP) : 0);
    // Words of a row's pairs of scales: for a piece of 32, for half a step, between rows.
    static constexpr int WORDS = wide_product::scale_words<MAKING>, PAIRS = 32 / D::piece * WORDS;
    static constexpr int HALF = 4 * PAIRS, PITCH = wide_product::scale_pitch<D, STEP>();
    int at, head;          // the lane's first row, and one whose scales it makes
    int slip;              // where a step begins: tiles do at whole 16 bytes
    const uint8_t *planes; // the step's scales of the latter, where they lie apart
    int plane_bytes, plane_step;
    format_args args;
    uint32_t *scales;                     // of the warp, [16][PITCH]
    uint32_t held[2][4], pairs[2][PAIRS]; // of rows g and g + 8

    static bool fits(const gqmm_cuda_matrix &w)
    {
        bool whole = true; // words of scales
        for (int i = 1; i < D::planes; i++)
            whole = whole && (uintptr_t)w.plane[i] % 4 == 0 && w.row_stride[i] % 4 == 0 &&
                    w.expert_stride[i] % 4 == 0;
        return whole;
    }

    static int64_t bytes(int64_t k)
    {
        return D::bytes(0, k, ANY);
    }

    static int scale_bytes(const scale_planes &s, int rows, int split)
    {
        return (rows * PITCH * 4 << split) + (D::planes - 1) * rows * s.pitch;
    }

    // Both halves of a block's warps make pairs of their own from the same planes.
    __device__ __forceinline__ void set(const scale_planes &s, uint8_t *to, int rows, int64_t row0,
                                        int64_t left, int warp, int half, int split, int lane,
                                        int first, int steps)
    {
        slip = first * SLIP & 15;
        at = (warp * 16 + (lane >> 2)) * row_bytes;
        head = (warp * 16 + (lane & 15)) * row_bytes;
        scales = (uint32_t *)to + (half * rows + warp * 16) * PITCH;
        uint8_t *plane = to + (rows * PITCH * 4 << split) + warp * 16 * s.pitch;
        planes = plane + (lane & 15) * s.pitch;
        plane_bytes = rows * s.pitch;
        plane_step = s.step_bytes;
        args = s.args;
#pragma unroll
        for (int i = 0; i + 1 < D::planes; i++)
            bring_scales(plane + i * plane_bytes, s, i, row0, left, first,
                         half ? 0 : steps * s.step_bytes / 4, lane);
    }

    __device__ __forceinline__ void start(const uint8_t *stage, int lane)
    {
        using maker = wide_product::scale_maker<D, STEP / D::piece / 2>;
        const step_row row = {{stage + head + slip, planes, planes + plane_bytes}};
        uint32_t v[HALF];
        if (D::planes == 3 && args.scale_type == GQMM_F32) // types known: no branch for each scale
            maker::make(v, row, lane >> 4, {args.group, GQMM_F32});
        else if (D::planes == 3 && args.scale_type == GQMM_F16)
            maker::make(v, row, lane >> 4, {args.group, GQMM_F16});
        else
            maker::make(v, row, lane >> 4, {args.group, GQMM_BF16});
        __syncwarp();
        wide_product::write_words(scales + (lane & 15) * PITCH + (lane >> 4) * HALF, v);
        __syncwarp();
    }

    __device__ __forceinline__ void finish()
    {
        slip = (slip + SLIP) & 15;
        planes += plane_step;
    }

    __device__ __forceinline__ void load(const uint8_t *stage, int part, int j)
    {
        const int lane = (int)(threadIdx.x & 31), piece = 2 * part + j;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const step_row row = {{stage + at + slip + h * (8 * row_bytes), NULL, NULL}};
            wide_product::read_words(pairs[h],
                                     scales + ((lane >> 2) + 8 * h) * PITCH + piece * PAIRS);
            wide_product::get_codes<D, true>(held[h], row, piece, lane & 3, args);
        }
    }

    __device__ __forceinline__ void make(uint32_t (&to)[8], int, int)
    {
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                to[2 * i + h] = wide_product::weight_pair<D>(
                    held[h][i], pairs[h] + (i >= 2 ? PAIRS - WORDS : 0), i);
    }

    template <class A> static __device__ __forceinline__ float factor(const A &a)
    {
        return MAKING == wide_product::LOW ? LOW_FACTOR : a.global ? *a.global / 2688.0f : 1.0f;
    }
};

struct no_weights {
    static constexpr bool exists = false;
};

// f32, f16 and bf16 are multiplied elsewhere.
template <class D>
struct middle_weights : std::conditional_t<D::bytes(0, STEP, {32, GQMM_F16}) < 2 * STEP,
                                           made_weights<D>, no_weights> {
};

} // namespace middle_product
} // namespace gqmm

#endif
