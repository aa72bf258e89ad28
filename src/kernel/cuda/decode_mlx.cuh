// SPDX-License-Identifier: MIT
// Decoders of the formats with planes: codes in order in plane 0, scales (and offsets) apart.
#ifndef GQMM_KERNEL_CUDA_DECODE_MLX_CUH
#define GQMM_KERNEL_CUDA_DECODE_MLX_CUH

#include "format/fp8.h"
#include "kernel/cuda/decode.cuh"
#include "kernel/cuda/memory.cuh"

namespace gqmm
{

GQMM_HD static constexpr int scale_bytes(int type)
{
    return type == GQMM_F32 ? 4 : 2;
}

// Groups of 32, 64 or 128: which group piece g lies in.
GQMM_HD static constexpr int group_of(int g, int group)
{
    return g >> (group >> 6);
}

GQMM_HD static constexpr int64_t groups_of(int64_t n, int group)
{
    return (n + group - 1) >> (5 + (group >> 6));
}

// Number i of a plane of f32, f16 or bf16.
template <bool ALIGNED> GQMM_HD static inline float plane_float(const uint8_t *p, int i, int type)
{
    const memory<ALIGNED ? 4 : 1> words(p);
    const memory<ALIGNED ? 2 : 1> halves(p);
    if (type == GQMM_F32)
        return gqmm_bits_to_f32(words.word(4 * i));
    const uint32_t h = halves.half(2 * i);
    return type == GQMM_F16 ? half_to_float(h) : gqmm_bits_to_f32(h << 16);
}

// Affine: rows of whole 16 bytes for 4 and 8 bits, else any.
template <int BITS> struct affine {
    static constexpr int step = BITS == 8 ? 128 : 256;
    static constexpr int block = 32, planes = 3, parts = 1, piece = 32, align = 16;
    static constexpr bool has_offset = true, grouped = true, loose = BITS != 4 && BITS != 8;
    static constexpr order in_order = BITS == 8 ? SERIAL : NIBBLE;

    GQMM_HD static constexpr int64_t bytes(int plane, int64_t n, const format_args &f)
    {
        return plane == 0 ? n / 8 * BITS : groups_of(n, f.group) * scale_bytes(f.scale_type);
    }

    template <bool ALIGNED = !loose>
    GQMM_HD static float2 scale(const step_row &r, int g, const format_args &f)
    {
        const int i = group_of(g, f.group);
        return make_float2(plane_float<ALIGNED>(r.p[1], i, f.scale_type),
                           plane_float<ALIGNED>(r.p[2], i, f.scale_type));
    }
};

// A word of nibbles in order NIBBLE, 16 added.
GQMM_HD static inline void nibbles_16(uint32_t (&a)[4], uint32_t w)
{
    for (int i = 0; i < 4; i++)
        a[i] = nibble_16(w, 4 * i);
}

struct dec_affine4 : affine<4> {
    static constexpr int raw_bias = 16;
    static constexpr order raw_order = in_order;

    template <bool ALIGNED = true>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        nibbles<0>(a[0], m.word(16 * j, 4 * t));
    }

    template <bool ALIGNED = true>
    GQMM_HD static void raw_codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                                  const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        nibbles_16(a[0], m.word(16 * j, 4 * t));
    }
};

// Where a lane's eight codes are no whole word: elements 0 to 3 below, 4 to 7 above, at the same
// bits.
struct dec_affine2 : affine<2> {
    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        const uint32_t x = permute(m.half(8 * j, 2 * t), 0, 0x4140);
        a[0][0] = field<2, 0>(x);
        a[0][1] = field<2, 2>(x);
        a[0][2] = field<2, 4>(x);
        a[0][3] = field<2, 6>(x);
    }
};

struct dec_affine3 : affine<3> {
    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        const uint32_t v = m.word(12 * j, 3 * t, 3);
        const uint32_t x = (v & 0x0000ffff) | (v << 4 & 0xffff0000), y = x >> 6;
        a[0][0] = field<3, 0>(x);
        a[0][1] = field<3, 3>(x);
        a[0][2] = field<3, 0>(y);
        a[0][3] = field<3, 3>(y);
    }
};

// Eight codes of 5 or 6 bits: each half of x begins with element 0 or 4, of y 8 bits further on.
template <int BITS, class M> GQMM_HD static inline uint2 codes_apart(const M &m, int j, int t)
{
    uint32_t w[2];
    m.two(w, 4 * BITS * j, BITS * t, BITS);
    const uint32_t above = funnel(w[0], w[1], 4 * BITS);
    return make_uint2(permute(w[0], above, 0x5410), permute(w[0], above, 0x6521));
}

struct dec_affine5 : affine<5> {
    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        const uint2 c = codes_apart<5>(m, j, t);
        a[0][0] = field<5, 0>(c.x);
        a[0][1] = field<5, 5>(c.x);
        a[0][2] = field<5, 2>(c.y); // y is 8 bits on
        a[0][3] = field<5, 7>(c.y);
    }
};

struct dec_affine6 : affine<6> {
    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        const uint2 c = codes_apart<6>(m, j, t);
        a[0][0] = field<6, 0>(c.x);
        a[0][1] = field<6, 6>(c.x);
        a[0][2] = field<6, 4>(c.y);
        a[0][3] = field<6, 10>(c.y);
    }
};

struct dec_affine8 : affine<8> {
    template <bool ALIGNED = true>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        uint32_t w[2];
        m.two(w, 32 * j, 8 * t);
        unsigned_bytes(a[0], w[0]);
        unsigned_bytes(a[0] + 2, w[1]);
    }
};

struct dec_int4 {
    static constexpr int step = 256, block = 32, planes = 2, parts = 1, piece = 32, align = 16;
    static constexpr bool has_offset = false, grouped = true, loose = false;
    static constexpr order in_order = NIBBLE, raw_order = NIBBLE;
    static constexpr int raw_bias = 16 + 8;

    GQMM_HD static constexpr int64_t bytes(int plane, int64_t n, const format_args &f)
    {
        return plane == 0 ? n / 2 : groups_of(n, f.group) * 2;
    }

    template <bool ALIGNED = true>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        nibbles<8>(a[0], m.word(16 * j, 4 * t));
    }

    template <bool ALIGNED = true>
    GQMM_HD static void raw_codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                                  const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        nibbles_16(a[0], m.word(16 * j, 4 * t));
    }

    template <bool ALIGNED = true>
    GQMM_HD static float2 scale(const step_row &r, int g, const format_args &f)
    {
        return make_float2(plane_float<ALIGNED>(r.p[1], group_of(g, f.group), GQMM_BF16), 0.0f);
    }
};

// Scales are bytes, one for PIECE weights.
template <int BITS, int PIECE, int STEP> struct mlx_float {
    static constexpr int step = STEP, block = 32, planes = 2, parts = 1, piece = PIECE, align = 16;
    static constexpr bool has_offset = false, grouped = false, byte_scales = true;
    static constexpr bool loose = PIECE * BITS % 128 != 0;

    GQMM_HD static constexpr int64_t bytes(int plane, int64_t n, const format_args &)
    {
        return plane == 0 ? n / 8 * BITS : n / PIECE;
    }
};

struct dec_mlx_mxfp4 : mlx_float<4, 32, 256> {
    static constexpr order in_order = NIBBLE;

    template <bool ALIGNED = true>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        e2m1_nibbles(a[0], m.word(16 * j, 4 * t));
    }

    template <bool ALIGNED = true>
    GQMM_HD static float2 scale(const step_row &r, int g, const format_args &)
    {
        return make_float2(0.5f * gqmm_e8m0_to_f32(r.p[1][g]), 0.0f);
    }
};

// A row may have an odd number of groups of 8 bytes.
struct dec_mlx_nvfp4 : mlx_float<4, 16, 256> {
    static constexpr order in_order = CROSSED;

    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        e2m1_nibbles(a[0], permute(m.half(16 * j, 2 * t), m.half(16 * j + 8, 2 * t), 0x5140));
    }

    template <bool ALIGNED = false>
    GQMM_HD static float2 scale(const step_row &r, int g, const format_args &)
    {
        const uint32_t u = r.p[1][g];
        return make_float2((u & 0x7f) == 0x7f ? gqmm_bits_to_f32(0x7fc00000) : half_of_e4m3(u),
                           0.0f);
    }
};

struct dec_mlx_mxfp8 : mlx_float<8, 32, 128> {
    static constexpr order in_order = SERIAL;

    template <bool ALIGNED = true>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        uint32_t w[2];
        m.two(w, 32 * j, 8 * t);
        for (int i = 0; i < 2; i++) {
            a[0][2 * i] = e4m3(permute(w[i], 0, 0x1404));
            a[0][2 * i + 1] = e4m3(permute(w[i], 0, 0x3424));
        }
    }

    template <bool ALIGNED = true>
    GQMM_HD static float2 scale(const step_row &r, int g, const format_args &)
    {
        return make_float2(gqmm_e8m0_to_f32(r.p[1][g]), 0.0f);
    }

    // Codes in the high byte of each half. bf16 has the same boundary between exponent and mantissa
    // at bit 7, and 2^120 makes up for the exponents, subnormal or not. 0x7f, which would be 480,
    // is NaN: a product that overflows for 480 and not for 448 makes infinity of it, times zero
    // NaN.
    GQMM_HD static uint32_t e4m3(uint32_t x)
    {
        const uint32_t v =
            pair_mul(pick(x >> 4, both(0x07f0), x & both(0x8000)), both(bf16_power(120)));
        return pair_fma(pair_mul(v, both(bf16_power(119) | 0x0d)), 0, v); // 1.1 * 2^119
    }
};

} // namespace gqmm

#endif
