// SPDX-License-Identifier: MIT
// Codes as they lie, for products with one column, where unpacking is what the time goes into.
//
// A bf16 number without a sign whose exponent field is 0 or 1 is its low eight bits, taken for an
// integer, times 2^-133. So bits of a code that lie in the low eight of each half of a word are a
// pair of numbers once the other bits are masked: one instruction. Where they lie is made up for in
// the activations, and what all codes have too much in the offsets.
//
// low_codes<D> has
//   in_order, parts            of decode.cuh; parts are 2 where the bits of a code lie apart
//   bias                       codes are this much more than they should be
//   bit(j, p), up(j)           code = (v[0] + v[1] * 2^up) / 2^bit for pair p of piece j, where
//                              v[part] are the numbers times 2^133; both only where parts are 2
//                              need bit to be the same for all pairs
//   get(a, row, j, t, args)
// and may have
//   scales(s, row, t)          what scale() says of the groups of pieces 2 t and 2 t + 1
//   integers(s, m, row, t)     the same as integers that bf16 has and what these are multiplied by,
//                              which it returns: scales and offsets are s.x * v.x and m * v.y
// all templates of ALIGNED as in decode.cuh.
// For decoders that are not here it is not defined.
#ifndef GQMM_KERNEL_CUDA_DECODE_LOW_CUH
#define GQMM_KERNEL_CUDA_DECODE_LOW_CUH

#include "kernel/cuda/decode_blocks.cuh"
#include "kernel/cuda/decode_k_quants.cuh"
#include "kernel/cuda/decode_mlx.cuh"
#include <type_traits>

namespace gqmm
{

template <class D> struct low_codes;

template <class D, class = void> constexpr bool has_scales = false;
template <class D>
constexpr bool has_scales<D, std::void_t<decltype(&low_codes<D>::template scales<true>)>> = true;
template <class D, class = void> constexpr bool has_integers = false;
template <class D>
constexpr bool has_integers<D, std::void_t<decltype(&low_codes<D>::template integers<true>)>> =
    true;
template <class D> constexpr bool has_low_scales = has_scales<D> || has_integers<D>;

// What scale() says of the groups of pieces 2 t and 2 t + 1 of a format that has either.
template <class D, bool ALIGNED, int N>
GQMM_HD static inline void low_scales(float2 (&to)[N], const step_row &r, int t)
{
    if constexpr (has_scales<D>) {
        low_codes<D>::template scales<ALIGNED>(to, r, t);
    } else {
        float s[N], m[N] = {};
        const float2 v = low_codes<D>::template integers<ALIGNED>(s, m, r, t);
        for (int i = 0; i < N; i++)
            to[i] = make_float2(mul(v.x, s[i]), D::has_offset ? mul(v.y, m[i]) : 0.0f);
    }
}

// A step of 256 weights where other products take less.
template <class D> struct of_256 : D {
    typedef D base;
    static constexpr int step = 256;
};

template <order O, int BIAS, int PARTS = 1> struct low_base {
    static constexpr order in_order = O;
    static constexpr int bias = BIAS, parts = PARTS;

    GQMM_HD static constexpr int bit(int, int)
    {
        return 0;
    }
    GQMM_HD static constexpr int up(int)
    {
        return 0;
    }
};

template <class D, bool ALIGNED> using low_memory = memory<ALIGNED ? D::align : 1>;

// The same bits of bytes 0 and 2, and of bytes 1 and 3.
GQMM_HD static inline void low_pairs(uint32_t *a, uint32_t w, uint32_t bits)
{
    a[0] = w & both(bits);
    a[1] = w >> 8 & both(bits);
}

// All of bytes 0 and 2, and of bytes 1 and 3.
GQMM_HD static inline void low_bytes(uint32_t *a, uint32_t w)
{
    a[0] = w & both(0x00ff);
    a[1] = permute(w, 0, 0x4341);
}

// ---------------------------------------------------------------- blocks of 32

// HEAD bytes, then nibbles of elements 16 apart.
template <class D, int BYTES, int HEAD, int BIAS> struct low_nibbles : low_base<CROSSED, BIAS> {
    GQMM_HD static constexpr int bit(int, int p)
    {
        return p < 2 ? 0 : 4;
    }
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        const uint32_t w = low_memory<D, ALIGNED>(r.p[0]).word(BYTES * j + HEAD, 4 * t);
        low_pairs(a[0], w, 0x000f);
        low_pairs(a[0] + 2, w, 0x00f0);
    }
};

template <> struct low_codes<dec_q4_0> : low_nibbles<dec_q4_0, 18, 2, 8> {
};
template <> struct low_codes<dec_q4_1> : low_nibbles<dec_q4_1, 20, 4, 0> {
};

// HEAD bytes, then the fifth bits of all and the nibbles of elements 16 apart.
template <class D, int BYTES, int HEAD, int BIAS> struct low_fives : low_base<CROSSED, BIAS> {
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        const low_memory<D, ALIGNED> m(r.p[0]);
        const uint32_t w = m.word(BYTES * j + HEAD + 4, 4 * t);
        const uint32_t top = m.word(BYTES * j + HEAD) >> 4 * t;
        const uint32_t low = (top & 15) * 0x02040810u, high = (top >> 16 & 15) * 0x02040810u;
        low_bytes(a[0], pick(low, 0x10101010, w & 0x0f0f0f0f));
        low_bytes(a[0] + 2, pick(high, 0x10101010, w >> 4 & 0x0f0f0f0f));
    }
};

template <> struct low_codes<dec_q5_0> : low_fives<dec_q5_0, 22, 2, 16> {
};
template <> struct low_codes<dec_q5_1> : low_fives<dec_q5_1, 24, 4, 0> {
};

template <> struct low_codes<dec_q8_0> : low_base<BYTES, 128> {
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        uint32_t w[2];
        low_memory<dec_q8_0, ALIGNED>(r.p[0]).two(w, 34 * j + 2, 8 * t);
        low_bytes(a[0], w[0] ^ 0x80808080);
        low_bytes(a[0] + 2, w[1] ^ 0x80808080);
    }
};

// The table of iq4, 128 more, for four nibbles of w, see iq4_values().
GQMM_HD static inline uint32_t low_iq4_bytes(uint32_t w)
{
    const uint32_t n = w & 0x7777, half = pick(w >> 1, 0x4444, 0x3210);
    return permute(permute(0x3f2d1801, 0x766a5d4f, n), permute(0xa6998d81, 0xf1d9c5b5, n), half);
}

GQMM_HD static inline void low_iq4(uint32_t (&a)[4], uint32_t w)
{
    for (int i = 0; i < 2; i++) {
        const uint32_t v = low_iq4_bytes(w >> 16 * i);
        a[i] = v & both(0x00ff);
        a[i + 2] = permute(v, 0, 0x4341);
    }
}

template <> struct low_codes<dec_iq4_nl> : low_base<HALVES, 128> {
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        low_iq4(a[0], low_memory<dec_iq4_nl, ALIGNED>(r.p[0]).word(18 * j + 2, 4 * t));
    }
};

template <> struct low_codes<dec_iq4_xs> : low_base<HALVES, 128> {
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        low_iq4(a[0], low_memory<dec_iq4_xs, ALIGNED>(r.p[0]).word(8 + 16 * j, 4 * t));
    }
    template <bool ALIGNED>
    GQMM_HD static float2 integers(float (&s)[2], float (&)[2], const step_row &r, int t)
    {
        const low_memory<dec_iq4_xs, ALIGNED> m(r.p[0]);
        const uint32_t head = m.word(0), low = m.word(4) >> 8 * t, high = head >> 12 >> 4 * t;
        s[0] = integer((low & 15) | (high & 0x30), 32);
        s[1] = integer((low >> 4 & 15) | (high >> 2 & 0x30), 32);
        return make_float2(half_to_float(head & 0xffff), 0.0f);
    }
};

// ---------------------------------------------------------------- E2M1

// Doubled codes times 2^6: exponent and mantissa at bits 8..6, the sign at bit 15. In the order of
// the nibbles 0 and 4, 1 and 5, 2 and 6, 3 and 7.
GQMM_HD static inline void low_e2m1(uint32_t (&a)[4], uint32_t w)
{
    const uint32_t v = w >> 8, low = 1u << 6 | 1u << 12, high = 1u << 2 | 1u << 8;
    a[0] = (w & both(0x000f)) * low & both(0x81c0);
    a[1] = (w & both(0x00f0)) * high & both(0x81c0);
    a[2] = (v & both(0x000f)) * low & both(0x81c0);
    a[3] = (v & both(0x00f0)) * high & both(0x81c0);
}

template <order O> struct low_e2m1_base : low_base<O, 0> {
    GQMM_HD static constexpr int bit(int, int)
    {
        return 6;
    }
};

template <> struct low_codes<dec_mxfp4> : low_e2m1_base<CROSSED> {
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        uint32_t v[4];
        low_e2m1(v, low_memory<dec_mxfp4, ALIGNED>(r.p[0]).word(17 * j + 1, 4 * t));
        a[0][0] = v[0];
        a[0][1] = v[2];
        a[0][2] = v[1];
        a[0][3] = v[3];
    }
};

template <> struct low_codes<dec_nvfp4> : low_e2m1_base<NATIVE> {
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        const low_memory<dec_nvfp4, ALIGNED> m(r.p[0]);
        const int c = 36 * (j >> 1) + 4 + 16 * (j & 1);
        low_e2m1(a[0], permute(m.half(c, 2 * t), m.half(c + 8, 2 * t), 0x5140));
    }
};

template <> struct low_codes<dec_mlx_mxfp4> : low_e2m1_base<NIBBLE> {
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        low_e2m1(a[0], low_memory<dec_mlx_mxfp4, ALIGNED>(r.p[0]).word(16 * j, 4 * t));
    }
};

template <> struct low_codes<dec_mlx_nvfp4> : low_e2m1_base<CROSSED> {
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        const low_memory<dec_mlx_nvfp4, ALIGNED> m(r.p[0]);
        low_e2m1(a[0], permute(m.half(16 * j, 2 * t), m.half(16 * j + 8, 2 * t), 0x5140));
    }
};

// ---------------------------------------------------------------- blocks of 256

// Byte i of w as a float, minus `less`.
GQMM_HD static inline float low_integer(uint32_t w, int i, int less)
{
    return gqmm_bits_to_f32(permute(w, 0x4b000000, 0x7440u | (uint32_t)i)) -
           (8388608.0f + (float)less);
}

// Pairs of the 32 bytes at c, bits that all have at the same place: lane t has four and, 16 bytes
// further, four more.
template <class M>
GQMM_HD static inline void low_halves(uint32_t (&a)[4], const M &m, int c, int t, uint32_t bits)
{
    low_pairs(a, m.word(c, 4 * t), bits);
    low_pairs(a + 2, m.word(c + 16, 4 * t), bits);
}

template <> struct low_codes<dec_q2_k> : low_base<CROSSED, 0> {
    GQMM_HD static constexpr int bit(int j, int)
    {
        return 2 * (j & 3);
    }
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        low_halves(a[0], low_memory<dec_q2_k, ALIGNED>(r.p[0]), 16 + 32 * (j >> 2), t,
                   3u << bit(j, 0));
    }
    template <bool ALIGNED>
    GQMM_HD static float2 integers(float (&s)[4], float (&m)[4], const step_row &r, int t)
    {
        const low_memory<dec_q2_k, ALIGNED> from(r.p[0]);
        const uint32_t w = from.word(0, 4 * t), low = w & 0x0f0f0f0f, high = w >> 4 & 0x0f0f0f0f;
        const uint32_t dd = from.word(80);
        for (int i = 0; i < 4; i++) {
            s[i] = low_integer(low, i, 0);
            m[i] = low_integer(high, i, 0);
        }
        return make_float2(half_to_float(dd & 0xffff), -half_to_float(dd >> 16));
    }
};

template <> struct low_codes<dec_q3_k> : low_base<CROSSED, 4, 2> {
    GQMM_HD static constexpr int bit(int j, int)
    {
        return 2 * (j & 3);
    }
    GQMM_HD static constexpr int up(int j)
    {
        return 2 + bit(j, 0) - j;
    }
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[2][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        const low_memory<dec_q3_k, ALIGNED> m(r.p[0]);
        low_halves(a[0], m, 32 + 32 * (j >> 2), t, 3u << bit(j, 0));
        low_halves(a[1], m, 0, t, 1u << j);
    }
    template <bool ALIGNED>
    GQMM_HD static float2 integers(float (&s)[4], float (&)[4], const step_row &r, int t)
    {
        const low_memory<dec_q3_k, ALIGNED> m(r.p[0]);
        const uint32_t low = m.word(96, 4 * (t & 1)) >> 4 * (t >> 1) & 0x0f0f0f0f;
        const uint32_t w = pick(m.word(104) >> 2 * t << 4, 0x30303030, low);
        for (int i = 0; i < 4; i++)
            s[i] = low_integer(w, i, 32);
        return make_float2(m.f16(108), 0.0f);
    }
};

// Of q4_k and q5_k, as in k_scale().
template <class D, bool ALIGNED>
GQMM_HD static inline void low_k_scales(float2 (&s)[2], const step_row &r, int t)
{
    uint32_t w[4];
    low_memory<D, ALIGNED>(r.p[0]).four(w, 0);
    const int high = t >> 1, first = 2 * (t & 1);
    const uint32_t sc = pick(high ? w[3] : w[1], 0x0f0f0f0f, w[1] >> 2 * high & 0x30303030);
    const uint32_t mn = pick(high ? w[3] >> 4 : w[2], 0x0f0f0f0f, w[2] >> 2 * high & 0x30303030);
    const float d = half_to_float(w[0] & 0xffff), least = -half_to_float(w[0] >> 16);
    for (int i = 0; i < 2; i++)
        s[i] = make_float2(mul(d, low_integer(sc, first + i, 0)),
                           mul(least, low_integer(mn, first + i, 0)));
}

template <> struct low_codes<dec_q4_k> : low_base<BYTES, 0> {
    GQMM_HD static constexpr int bit(int j, int)
    {
        return 4 * (j & 1);
    }
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        uint32_t w[2];
        low_memory<dec_q4_k, ALIGNED>(r.p[0]).two(w, 16 + 32 * (j >> 1), 8 * t);
        low_pairs(a[0], w[0], 15u << bit(j, 0));
        low_pairs(a[0] + 2, w[1], 15u << bit(j, 0));
    }
    template <bool ALIGNED> GQMM_HD static void scales(float2 (&s)[2], const step_row &r, int t)
    {
        low_k_scales<dec_q4_k, ALIGNED>(s, r, t);
    }
};

template <> struct low_codes<dec_q5_k> : low_base<BYTES, 0, 2> {
    GQMM_HD static constexpr int bit(int j, int)
    {
        return 4 * (j & 1);
    }
    GQMM_HD static constexpr int up(int j)
    {
        return 4 + bit(j, 0) - j;
    }
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[2][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        const low_memory<dec_q5_k, ALIGNED> m(r.p[0]);
        uint32_t w[2], top[2];
        m.two(w, 48 + 32 * (j >> 1), 8 * t);
        m.two(top, 16, 8 * t);
        for (int i = 0; i < 2; i++) {
            low_pairs(a[0] + 2 * i, w[i], 15u << bit(j, 0));
            low_pairs(a[1] + 2 * i, top[i], 1u << j);
        }
    }
    template <bool ALIGNED> GQMM_HD static void scales(float2 (&s)[2], const step_row &r, int t)
    {
        low_k_scales<dec_q5_k, ALIGNED>(s, r, t);
    }
};

template <> struct low_codes<dec_q6_k> : low_base<CROSSED, 32, 2> {
    GQMM_HD static constexpr int bit(int j, int)
    {
        return 2 * (j & 2);
    }
    GQMM_HD static constexpr int up(int j)
    {
        return 4 + bit(j, 0) - 2 * (j & 3);
    }
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[2][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        const low_memory<dec_q6_k, ALIGNED> m(r.p[0]);
        low_halves(a[0], m, 64 * (j >> 2) + 32 * (j & 1), t, 15u << bit(j, 0));
        low_halves(a[1], m, 128 + 32 * (j >> 2), t, 3u << 2 * (j & 3));
    }
    template <bool ALIGNED>
    GQMM_HD static float2 integers(float (&s)[4], float (&)[4], const step_row &r, int t)
    {
        const low_memory<dec_q6_k, ALIGNED> m(r.p[0]);
        const uint32_t w = m.word(192, 4 * t) ^ 0x80808080;
        for (int i = 0; i < 4; i++)
            s[i] = low_integer(w, i, 128);
        return make_float2(m.f16(208), 0.0f);
    }
};

} // namespace gqmm

#endif
