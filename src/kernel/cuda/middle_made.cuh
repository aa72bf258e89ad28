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

// How codes come: as wide_codes.cuh has them, and activations in that order. To order 128 columns
// takes as long as to multiply them, so formats of few bytes have codes in the order of the
// instruction; their bits lie where wide_codes has them.
//   RAW        words that a lane holds of a row
//   bring()    sets them, of pieces from j on that share them
//   get()      four pairs of piece j
//   powers(t)  where APART, what the halves of lane t's pairs count
template <class D> struct made_codes {
    static constexpr bool ordered = wide_product::wide_codes<D>::in_order != NATIVE, APART = false;
    static constexpr int RAW = 4;

    static __device__ __forceinline__ void bring(uint32_t (&v)[RAW], const step_row &row, int j,
                                                 int t, const format_args &f)
    {
        wide_product::get_codes<D, true>(v, row, j, t, f);
    }
    static __device__ __forceinline__ void get(uint32_t (&a)[4], const uint32_t (&v)[RAW], int, int)
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = v[i];
    }
};

template <int WORDS> struct native_codes {
    static constexpr bool ordered = false, APART = false;
    static constexpr int RAW = WORDS;

    // Bytes 2 t and 2 t + 1 of each eight of 32, one in each half.
    static __device__ __forceinline__ void bytes_of(uint32_t *v, const uint8_t *p, int t)
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = permute(*(const uint16_t *)(p + 8 * i + 2 * t), 0, 0x4140);
    }
};

template <> struct made_codes<dec_q2_k> : native_codes<4> {
    static __device__ __forceinline__ void bring(uint32_t (&v)[4], const step_row &row, int j,
                                                 int t, const format_args &)
    {
        if (j % 4 == 0)
            bytes_of(v, row.p[0] + 16 + 8 * j, t);
    }
    static __device__ __forceinline__ void get(uint32_t (&a)[4], const uint32_t (&v)[4], int j, int)
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = v[i] & both(3u << 2 * (j & 3));
    }
};

template <> struct made_codes<dec_q3_k> : native_codes<8> {
    static __device__ __forceinline__ void bring(uint32_t (&v)[8], const step_row &row, int j,
                                                 int t, const format_args &)
    {
        if (j % 4 == 0)
            bytes_of(v, row.p[0] + 32 + 8 * j, t);
        if (j == 0)
            bytes_of(v + 4, row.p[0], t);
    }
    static __device__ __forceinline__ void get(uint32_t (&a)[4], const uint32_t (&v)[8], int j, int)
    {
        const int bit = wide_product::wide_codes<dec_q3_k>::bit(j, 0);
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = choose_bits(move_bit(v[4 + i], j, bit + 2), both(4u << bit),
                               move_bit(v[i], 2 * (j & 3), bit)) &
                   both(7u << bit);
    }
};

// A byte has four numbers, of which a lane takes the first or the second two.
template <> struct made_codes<dec_affine2> : native_codes<2> {
    static constexpr bool APART = true;

    static __device__ __forceinline__ void bring(uint32_t (&v)[2], const step_row &row, int j, int,
                                                 const format_args &)
    {
        const uint2 w = *(const uint2 *)(row.p[0] + 8 * j);
        v[0] = w.x, v[1] = w.y;
    }
    static __device__ __forceinline__ void get(uint32_t (&a)[4], const uint32_t (&v)[2], int, int t)
    {
        const uint32_t byte = 0x1111u * (t >> 1), mask = t & 1 ? 0x00c00030 : 0x000c0003;
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = permute(v[i / 2], 0, byte + i % 2 * 0x2222) & mask;
    }
    static __device__ __forceinline__ uint32_t powers(int t)
    {
        return t & 1 ? bf16_power(-4) | bf16_power(-6) << 16 : bf16_power(0) | bf16_power(-2) << 16;
    }
};

// Eight numbers have three bytes, of which two or one hold a lane's.
template <> struct made_codes<dec_affine3> : native_codes<6> {
    static constexpr bool APART = true;

    static __device__ __forceinline__ void bring(uint32_t (&v)[6], const step_row &row, int j, int,
                                                 const format_args &)
    {
        if (j % 2 == 0)
#pragma unroll
            for (int i = 0; i < 6; i += 2) {
                const uint2 w = *(const uint2 *)(row.p[0] + 12 * j + 4 * i);
                v[i] = w.x, v[i + 1] = w.y;
            }
    }
    static __device__ __forceinline__ void get(uint32_t (&a)[4], const uint32_t (&v)[6], int j,
                                               int t)
    {
        const uint32_t bytes = t < 2 ? 0x1010 : t == 2 ? 0x2121 : 0x2222;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t *w = v + j % 2 * 3 + i / 2; // from byte i / 2 * 4 on
            const uint32_t both_halves = permute(w[0], w[1], bytes + 0x1111u * (3 * i - i / 2 * 4));
            a[i] = both_halves >> 6 * t % 8 & 0x00380007;
        }
    }
    static __device__ __forceinline__ uint32_t powers(int)
    {
        return bf16_power(0) | bf16_power(-3) << 16;
    }
};

template <class D> struct made_weights {
    typedef D decoder;
    static constexpr bool exists = true, swizzled = false, ordered = made_codes<D>::ordered;
    static constexpr int least_width = 32, most_width = ordered ? 128 : 256;
    static constexpr int most_columns = ordered ? 256 : 1 << 20; // more are dequantised first
    static constexpr int most_split = 0;
    static constexpr wide_product::making MAKING = wide_product::making_of<D>();
    static constexpr format_args ANY = {32, GQMM_F16};
    static constexpr int step_bytes = (int)D::bytes(0, STEP, ANY), SLIP = step_bytes % 16;
    static constexpr int row_bytes = pitch_of_step(step_bytes);
    // Words of a row's pairs of scales: for a piece of 32, for half a step, between rows.
    static constexpr int WORDS = wide_product::scale_words<MAKING>, PAIRS = 32 / D::piece * WORDS;
    static constexpr int HALF = 4 * PAIRS, PITCH = wide_product::scale_pitch<D, STEP>();
    int at, head;          // the lane's first row, and one whose scales it makes
    int slip;              // where a step begins: tiles do at whole 16 bytes
    const uint8_t *planes; // the step's scales of the latter, where they lie apart
    int plane_bytes, plane_step;
    format_args args;
    uint32_t *scales;                                      // of the warp, [16][PITCH]
    uint32_t held[2][made_codes<D>::RAW], pairs[2][PAIRS]; // of rows g and g + 8

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
            made_codes<D>::bring(held[h], row, piece, lane & 3, args);
            if constexpr (made_codes<D>::APART)
                pairs[h][0] = pair_mul(pairs[h][0], made_codes<D>::powers(lane & 3));
        }
    }

    __device__ __forceinline__ void make(uint32_t (&to)[8], int part, int j)
    {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint32_t codes[4];
            made_codes<D>::get(codes, held[h], 2 * part + j, (int)(threadIdx.x & 3));
#pragma unroll
            for (int i = 0; i < 4; i++)
                to[2 * i + h] = wide_product::weight_pair<D>(
                    codes[i], pairs[h] + (i >= 2 ? PAIRS - WORDS : 0), ordered ? i : 0);
        }
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
