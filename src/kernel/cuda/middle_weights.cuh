// SPDX-License-Identifier: MIT
// The middle product's weights: from a step in shared memory, as it lies in the file, to the left
// operand of wgmma in registers. Here those of planes of nibbles; GGUF's blocks are in
// middle_blocks.cuh, all others in middle_made.cuh.
//
// Activations keep their order along k, 16 bytes (8 numbers) of them being half of a matrix
// instruction's 16. Of these 8 a lane of a quad has weights 2 t and 2 t + 1. Codes stay in low bits
// of bf16, as in wide_codes.cuh: the sums are to be multiplied by LOW_FACTOR.
#ifndef GQMM_KERNEL_CUDA_MIDDLE_WEIGHTS_CUH
#define GQMM_KERNEL_CUDA_MIDDLE_WEIGHTS_CUH

#include "kernel/cuda.h"
#include "kernel/cuda/decode_mlx.cuh"
#include "kernel/cuda/mma.cuh"
#include "kernel/cuda/wide_scales.cuh"

namespace gqmm
{
namespace middle_product
{

using wide_product::LOW_FACTOR;
using wide_product::LOW_REST;
using wide_product::LOW_SCALE;

constexpr int STEP = 256; // weights of a row in a stage

// Bytes of a row's step in shared memory, which may begin behind the first of whole 16 bytes: an
// odd multiple of 16, so that eight rows' words are in banks of their own.
GQMM_HD constexpr int pitch_of_step(int bytes)
{
    return ((bytes + (bytes % 16 ? 16 - largest_power(bytes) : 0) + 15) / 16 | 1) * 16;
}

// What a block knows of scales that lie in planes of their own.
struct scale_planes {
    const uint8_t *plane[2]; // of the expert
    int64_t row[2];
    int bytes;      // of a row
    int step_bytes; // of a step, a multiple of 4
    int pitch;      // of a row in shared memory
    int shift;      // 0, 1, 2: pieces of 32 that share a scale are 2^this
    format_args args;
};

// Scales of one plane, of a warp's 16 rows and `words` words of each, from the step `first` on.
// `left`: rows that there are.
__device__ __forceinline__ void bring_scales(uint8_t *to, const scale_planes &s, int plane,
                                             int64_t row0, int64_t left, int first, int words,
                                             int lane)
{
    for (int n = lane; n < 16 * words; n += 32) {
        const int r = n / words, c = n - r * words;
        const int here = s.bytes - first * s.step_bytes - c * 4;
        const bool some = r < left && here > 0;
        const uint8_t *from =
            s.plane[plane] + (some ? (row0 + r) * s.row[plane] + first * s.step_bytes + c * 4 : 0);
        copy_4(to + r * s.pitch + c * 4, from, !some ? 0 : here < 4 ? here : 4);
    }
}

// middle_weights<D>, a lane's view of its warp's 16 rows:
//   decoder       D
//   least_width, most_width   of a tile of columns; most_columns of a matrix that it pays for
//   ordered       activations come in D's order, see middle_order.cuh
//   most_split    of a plan
//   step_bytes    of a row's step in memory
//   row_bytes     of it in shared memory; swizzled: 16 bytes c of a row at c ^ (row & 7)
//   fits(w), bytes(k) of a row, scale_bytes(planes, rows, warps) in shared memory
//   set()         asks for scales of `steps` steps, by cp.async, if they lie apart
//   start()       of a step at `stage`
//   load()        32 numbers, the first or second of a part of 64, from shared memory, before
//   make()        makes two operands of 16 along k of them
//   factor(args)  what sums are to be multiplied by
template <class D> struct middle_weights;

// What codes in low bits have in common.
struct low_weights {
    static constexpr bool exists = true, ordered = false;
    static constexpr int least_width = 32, most_width = 256, most_columns = 1 << 20;
    static constexpr int most_split = 1;

    template <class A> static __device__ __forceinline__ float factor(const A &)
    {
        return LOW_FACTOR;
    }
};

// ---------------------------------------------------------------- planes of nibbles

template <class D> struct plane_nibbles : low_weights {
    typedef D decoder;
    static constexpr bool OFFSET = D::has_offset, swizzled = true;
    static constexpr int step_bytes = STEP / 2, row_bytes = step_bytes, PLANES = OFFSET ? 2 : 1;
    int at, turn;          // of the lane's first row in a stage; its row's swizzle
    uint32_t mine;         // picks the lane's byte, for all bytes
    int shift, scale_step; // of scales
    const uint8_t *scales[PLANES];
    int half; // to scales eight rows on
    uint4 codes[2];
    uint32_t numbers[PLANES][2], by[2], rest[2];

    static bool fits(const gqmm_cuda_matrix &w)
    {
        return !OFFSET || (w.scale_type == GQMM_BF16 && w.group > 32);
    }

    static int64_t bytes(int64_t k)
    {
        return k / 2;
    }

    static int scale_bytes(const scale_planes &s, int rows, int)
    {
        return PLANES * rows * s.pitch;
    }

    // `left`: rows from the warp's first one on that there are. `half`: of the warps of these rows.
    __device__ __forceinline__ void set(const scale_planes &s, uint8_t *to, int rows, int64_t row0,
                                        int64_t left, int warp, int half_, int, int lane, int first,
                                        int steps)
    {
        const int g = lane >> 2, words = half_ ? 0 : steps * s.step_bytes / 4;
        at = (warp * 16 + g) * row_bytes;
        turn = g * 16;
        mine = (uint32_t)(lane & 3) * 0x1111;
        shift = s.shift;
        scale_step = s.step_bytes;
        half = 8 * s.pitch;
#pragma unroll
        for (int i = 0; i < PLANES; i++) {
            uint8_t *plane = to + (i * rows + warp * 16) * s.pitch;
            scales[i] = plane + g * s.pitch;
            bring_scales(plane, s, i, row0, left, first, words, lane);
        }
    }

    __device__ __forceinline__ void start(const uint8_t *, int)
    {
    }

    __device__ __forceinline__ void finish()
    {
#pragma unroll
        for (int i = 0; i < PLANES; i++)
            scales[i] += scale_step;
    }

    // Rows g and g + 8.
    __device__ __forceinline__ void load(const uint8_t *stage, int part, int j)
    {
        const uint8_t *from = stage + at + ((2 * part + j) * 16 ^ turn);
        const int scale_at = ((2 * part + j) >> shift) * 2;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            codes[h] = *(const uint4 *)(from + h * (8 * row_bytes));
#pragma unroll
            for (int i = 0; i < PLANES; i++)
                if (j == 0 || (!OFFSET && shift == 0))
                    numbers[i][h] = *(const uint16_t *)(scales[i] + scale_at + h * half);
        }
    }

    __device__ __forceinline__ void make(uint32_t (&to)[8], int, int j)
    {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            if (j == 0 || (!OFFSET && shift == 0)) {
                const uint32_t s = permute(numbers[0][h], 0, 0x1010);
                // Odd weights are in high nibbles.
                by[h] = pair_mul(s, bf16_power(LOW_SCALE) | bf16_power(LOW_SCALE - 4) << 16);
                rest[h] = OFFSET ? pair_mul(permute(numbers[PLANES - 1][h], 0, 0x1010),
                                            both(bf16_power(-LOW_REST)))
                                 : pair_mul(s, both(0x8000 | (bf16_small(8) - (LOW_REST << 7))));
            }
            const uint32_t w[4] = {codes[h].x, codes[h].y, codes[h].z, codes[h].w};
#pragma unroll
            for (int i = 0; i < 4; i++)
                to[2 * i + h] = pair_fma(permute(w[i], 0, mine) & 0x00f0000f, by[h], rest[h]);
        }
    }
};

template <> struct middle_weights<dec_int4> : plane_nibbles<dec_int4> {
};
template <> struct middle_weights<dec_affine4> : plane_nibbles<dec_affine4> {
};

} // namespace middle_product
} // namespace gqmm

#endif
