// SPDX-License-Identifier: MIT
// Codes of the wide product where they lie in the low bits of a half: a bf16 number of such bits, v
// times 2^-133, is subnormal or next to it, and a multiplication with a scale times 2^96 makes it
// normal again. That leaves a mask and a multiply-add for two weights: no exponent to put in and to
// take out again. A code at bits 4 to 7 counts 16 times, which its scale makes up for.
//
// Weights are then 2^-37 of what they are, exactly so for scales below 2^31; activations in the
// order of such a decoder are 2^37 of what they are, or else the sums are multiplied in the end.
#ifndef GQMM_KERNEL_CUDA_WIDE_CODES_CUH
#define GQMM_KERNEL_CUDA_WIDE_CODES_CUH

#include "kernel/cuda/decode_blocks.cuh"
#include "kernel/cuda/decode_k_quants.cuh"
#include "kernel/cuda/decode_low_affine.cuh"
#include "kernel/cuda/decode_mlx.cuh"
#include "kernel/cuda/words.cuh"

namespace gqmm
{
namespace wide_product
{

constexpr int LOW_SCALE = 96, LOW_REST = 133 - LOW_SCALE;
constexpr float LOW_FACTOR = (float)(1ll << LOW_REST); // of activations

// low:    codes are left in the low bits; get() puts those of piece j for lane t
// bias:   what a code has too much, a power of two or 0: times a scale of bf16 it is exact
// bit()   at which codes of pair p of piece j lie, the sum of something of j % 4 and something of p
// apart:  widths of tiles, see WIDTHS_APART
template <class D> struct wide_codes {
    static constexpr bool low = false;
    static constexpr int apart = 32;
    static constexpr order in_order = D::in_order;
};

template <order O, int BIAS> struct low_at_0 {
    static constexpr bool low = true;
    static constexpr int bias = BIAS, apart = 32;
    static constexpr order in_order = O;
    static_assert((BIAS & (BIAS - 1)) == 0, "exact");

    GQMM_HD static constexpr int bit(int, int)
    {
        return 0;
    }
};

// Codes that decode_low.cuh leaves whole.
template <class D> struct low_whole : low_at_0<low_codes<D>::in_order, low_codes<D>::bias> {
    static_assert(low_codes<D>::parts == 1, "whole codes");

    GQMM_HD static constexpr int bit(int j, int p)
    {
        return low_codes<D>::bit(j, p);
    }
    GQMM_HD static inline void get(uint32_t (&a)[4], const uint8_t *p, int j, int t)
    {
        uint32_t v[1][4];
        low_codes<D>::template get<true>(v, {{p, NULL, NULL}}, j, t, {32, GQMM_F16});
        for (int i = 0; i < 4; i++)
            a[i] = v[0][i];
    }
};
template <> struct wide_codes<dec_q4_0> : low_whole<dec_q4_0> {
};
template <> struct wide_codes<dec_q4_1> : low_whole<dec_q4_1> {
};
template <> struct wide_codes<dec_q5_0> : low_whole<dec_q5_0> {
};
template <> struct wide_codes<dec_q5_1> : low_whole<dec_q5_1> {
};
template <> struct wide_codes<dec_q8_0> : low_whole<dec_q8_0> {
};
template <> struct wide_codes<dec_q2_k> : low_whole<dec_q2_k> {
};
template <> struct wide_codes<dec_iq4_nl> : low_whole<dec_iq4_nl> {
};
template <> struct wide_codes<dec_iq4_xs> : low_whole<dec_iq4_xs> {
};
template <> struct wide_codes<dec_affine2> : low_whole<dec_affine2> {
};
template <> struct wide_codes<dec_affine3> : low_whole<dec_affine3> {
};
template <> struct wide_codes<dec_affine5> : low_whole<dec_affine5> {
};
template <> struct wide_codes<dec_affine6> : low_whole<dec_affine6> {
};
template <> struct wide_codes<dec_affine8> : low_whole<dec_affine8> {
};

// Codes whose bits lie apart, joined in whole words.
template <> struct wide_codes<dec_q3_k> : low_at_0<CROSSED, 4> {
    GQMM_HD static constexpr int bit(int j, int)
    {
        return j % 4 < 3 ? 2 * (j % 4) : 4;
    }
    GQMM_HD static inline void get(uint32_t (&a)[4], const uint8_t *p, int j, int t)
    {
        const memory<dec_q3_k::align> m(p);
        for (int i = 0; i < 2; i++) {
            const uint32_t w = move_bit(m.word(32 + 32 * (j >> 2) + 16 * i, 4 * t), 2 * (j & 3),
                                        bit(j, 0)),
                           top = move_bit(m.word(16 * i, 4 * t), j, bit(j, 0) + 2);
            low_pairs(a + 2 * i, choose_bits(top, 0x04040404u << bit(j, 0), w), 7u << bit(j, 0));
        }
    }
};
template <> struct wide_codes<dec_q5_k> : low_at_0<BYTES, 0> {
    GQMM_HD static inline void get(uint32_t (&a)[4], const uint8_t *p, int j, int t)
    {
        const memory<dec_q5_k::align> m(p);
        uint32_t w[2], top[2];
        m.two(w, 48 + 32 * (j >> 1), 8 * t);
        m.two(top, 16, 8 * t);
        for (int i = 0; i < 2; i++)
            low_pairs(a + 2 * i,
                      choose_bits(move_bit(top[i], j, 4), 0x10101010, w[i] >> 4 * (j & 1)), 0x1f);
    }
};
template <> struct wide_codes<dec_q6_k> : low_at_0<CROSSED, 32> {
    GQMM_HD static inline void get(uint32_t (&a)[4], const uint8_t *p, int j, int t)
    {
        const memory<dec_q6_k::align> m(p);
        for (int i = 0; i < 2; i++) {
            const uint32_t w = m.word(64 * (j >> 2) + 32 * (j & 1) + 16 * i, 4 * t) >> 2 * (j & 2);
            const uint32_t top = m.word(128 + 32 * (j >> 2) + 16 * i, 4 * t);
            low_pairs(a + 2 * i, choose_bits(move_bit(top, 2 * (j & 3), 4), 0x30303030, w), 0x3f);
        }
    }
};

template <int BIAS> struct wide_nibbles {
    static constexpr bool low = true;
    static constexpr int bias = BIAS, apart = 16;
    static constexpr order in_order = NIBBLE;

    GQMM_HD static constexpr int bit(int, int p)
    {
        return p % 2 * 4;
    }

    GQMM_HD static inline void get(uint32_t (&a)[4], const uint8_t *p, int j, int t)
    {
        const uint32_t w = *(const uint32_t *)(p + 16 * j + 4 * t);
        a[0] = w & 0x000f000f;
        a[1] = w & 0x00f000f0;
        a[2] = w >> 8 & 0x000f000f;
        a[3] = w >> 8 & 0x00f000f0;
    }
};
template <> struct wide_codes<dec_int4> : wide_nibbles<8> {
};
template <> struct wide_codes<dec_affine4> : wide_nibbles<0> {
};

template <> struct wide_codes<dec_q4_k> {
    static constexpr bool low = true;
    static constexpr int bias = 0, apart = 16;
    static constexpr order in_order = BYTES;

    GQMM_HD static constexpr int bit(int j, int)
    {
        return j % 2 * 4;
    }

    GQMM_HD static inline void get(uint32_t (&a)[4], const uint8_t *p, int j, int t)
    {
        const uint2 w = *(const uint2 *)(p + 16 + 32 * (j >> 1) + 8 * t);
        const uint32_t mask = j & 1 ? 0x00f000f0 : 0x000f000f;
        a[0] = w.x & mask;
        a[1] = w.x >> 8 & mask;
        a[2] = w.y & mask;
        a[3] = w.y >> 8 & mask;
    }
};

// What x_order has to be, as y_order of the product ahead: 1 + the order, and 16 for activations
// times LOW_FACTOR.
template <class D> constexpr int order_code()
{
    return 1 + wide_codes<D>::in_order + (wide_codes<D>::low ? 16 : 0);
}

GQMM_HD constexpr order order_of_code(int code)
{
    return (order)((code & 15) - 1);
}

} // namespace wide_product
} // namespace gqmm

#endif
