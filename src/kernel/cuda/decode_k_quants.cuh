// SPDX-License-Identifier: MIT
// Decoders of the GGUF formats with 256 weights in a block.
#ifndef GQMM_KERNEL_CUDA_DECODE_K_QUANTS_CUH
#define GQMM_KERNEL_CUDA_DECODE_K_QUANTS_CUH

#include "kernel/cuda/decode.cuh"
#include "kernel/cuda/memory.cuh"

namespace gqmm
{

// A step is a block of BYTES bytes.
template <int BYTES, int PIECE, bool OFFSET> struct block256 {
    static constexpr int step = 256, block = 256, planes = 1, parts = 1, piece = PIECE;
    static constexpr int align = largest_power(BYTES);
    static constexpr bool has_offset = OFFSET, grouped = false, loose = align < 16;
    static constexpr order in_order = PIECE == 16 ? HALVES : SERIAL;

    GQMM_HD static constexpr int64_t bytes(int, int64_t n, const format_args &)
    {
        return n / 256 * BYTES;
    }
};

// w moved so that bit `from` comes to bit `to`.
GQMM_HD static inline uint32_t move_bit(uint32_t w, int from, int to)
{
    return from < to ? w << (to - from) : w >> (from - to);
}

// q4_k and q5_k begin alike: d, dmin, twelve bytes of 6-bit scales and minima. Four groups share
// what is done to words.
template <int A> GQMM_HD static inline float2 k_scale(const memory<A> &m, int g)
{
    uint32_t w[4];
    m.four(w, 0);
    const uint32_t high = (uint32_t)g >> 2; // groups 4 to 7
    const uint32_t s = high ? w[3] : w[1], n = high ? w[3] >> 4 : w[2];
    const uint32_t sc = pick(s, 0x0f0f0f0f, w[1] >> 2 * high & 0x30303030);
    const uint32_t mn = pick(n, 0x0f0f0f0f, w[2] >> 2 * high & 0x30303030);
    return make_float2(mul(half_to_float(w[0] & 0xffff), integer_byte(sc, g & 3)),
                       mul(-half_to_float(w[0] >> 16), integer_byte(mn, g & 3)));
}

// Pieces 2 c and 2 c + 1 share 32 bytes, the low nibbles and the high ones.
struct dec_q4_k : block256<144, 32, true> {
    static constexpr int raw_bias = 16;
    static constexpr order raw_order = BYTES;

    template <bool ALIGNED = true>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        uint32_t w[2];
        m.two(w, 16 + 32 * (j >> 1), 8 * t);
        for (int i = 0; i < 2; i++)
            small_bytes(a[0] + 2 * i, w[i] >> 4 * (j & 1) & 0x0f0f0f0f);
    }

    template <bool ALIGNED = true>
    GQMM_HD static void raw_codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                                  const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        uint32_t w[2];
        m.two(w, 16 + 32 * (j >> 1), 8 * t);
        for (int i = 0; i < 4; i++)
            a[0][i] = nibble_16(w[i / 2], 8 * (i & 1) + 4 * (j & 1));
    }

    template <bool ALIGNED = true>
    GQMM_HD static float2 scale(const step_row &r, int g, const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        return k_scale(m, g);
    }
};

// As q4_k, and bit j of the 32 bytes at 16 is bit 4 of the codes of piece j.
struct dec_q5_k : block256<176, 32, true> {
    template <bool ALIGNED = true>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        uint32_t w[2], top[2];
        m.two(w, 48 + 32 * (j >> 1), 8 * t);
        m.two(top, 16, 8 * t);
        for (int i = 0; i < 2; i++)
            small_bytes(a[0] + 2 * i,
                        pick(move_bit(top[i], j, 4), 0x10101010, w[i] >> 4 * (j & 1) & 0x0f0f0f0f));
    }

    template <bool ALIGNED = true>
    GQMM_HD static float2 scale(const step_row &r, int g, const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        return k_scale(m, g);
    }
};

// Halves of 128 weights share 32 bytes: piece j has bits 2 (j % 4) of each.
struct dec_q2_k : block256<84, 16, true> {
    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        const int bit = j & 3, c = 16 + 32 * (j >> 2);
        for (int i = 0; i < 2; i++) {
            const uint32_t w = m.crossed(c + 16 * i, 4 * t);
            a[0][2 * i] = two_bits(w, bit);
            a[0][2 * i + 1] = two_bits(w >> 8, bit);
        }
    }

    template <bool ALIGNED = false>
    GQMM_HD static float2 scale(const step_row &r, int g, const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        const uint32_t s = m.byte(g), dd = m.word(80);
        return make_float2(mul(half_to_float(dd & 0xffff), integer(s & 15)),
                           -mul(half_to_float(dd >> 16), integer(s >> 4)));
    }

    // Bits 2 i and 2 i + 1 of each half of w. Those that lie inside bf16's 7 bits stay in place.
    GQMM_HD static uint32_t two_bits(uint32_t w, int i)
    {
        const int bit = i == 3 ? 0 : 2 * i;
        return pair_fma(pick(i == 3 ? w >> 6 : w, both(3u << bit), both(0x4300)),
                        both(bf16_power(-bit)), both(0x8000u | bf16_power(7 - bit)));
    }
};

// Two low bits as q2_k; bit j of the 32 bytes at 0 is the third bit of piece j.
struct dec_q3_k : block256<110, 16, false> {
    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        const int c = 32 + 32 * (j >> 2);
        for (int i = 0; i < 2; i++) {
            const uint32_t low = m.word(c + 16 * i, 4 * t) >> 2 * (j & 3) & 0x03030303;
            const uint32_t top = move_bit(m.word(16 * i, 4 * t), j, 2);
            small_bytes<4>(a[0] + 2 * i, pick(top, 0x04040404, low));
        }
    }

    template <bool ALIGNED = false>
    GQMM_HD static float2 scale(const step_row &r, int g, const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        const uint32_t low = m.byte(96 + (g & 7)) >> (g >> 3) * 4;
        const uint32_t high = m.byte(104 + (g & 3)) >> (g >> 2) * 2;
        return make_float2(mul(m.f16(108), integer((low & 15) | (high & 3) << 4, 32)), 0.0f);
    }
};

// Halves of 128 weights: pieces 0 and 2 (1 and 3) are the low and high nibbles of the same 32
// bytes, and bits 2 (j % 4) of 32 further bytes are the top bits of piece j.
struct dec_q6_k : block256<210, 16, false> {
    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        const int c = 64 * (j >> 2) + 32 * (j & 1), d = 128 + 32 * (j >> 2);
        for (int i = 0; i < 2; i++) {
            const uint32_t low = m.word(c + 16 * i, 4 * t) >> 2 * (j & 2) & 0x0f0f0f0f;
            const uint32_t top = move_bit(m.word(d + 16 * i, 4 * t), 2 * (j & 3), 4);
            small_bytes<32>(a[0] + 2 * i, pick(top, 0x30303030, low));
        }
    }

    template <bool ALIGNED = false>
    GQMM_HD static float2 scale(const step_row &r, int g, const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        const uint32_t s = m.byte(192 + g) ^ 0x80;
        return make_float2(mul(m.f16(208), integer(s, 128)), 0.0f);
    }
};

struct dec_iq4_xs : block256<136, 32, false> {
    static constexpr order in_order = HALVES;

    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        iq4_values(a[0], m.word(8 + 16 * j, 4 * t));
    }

    template <bool ALIGNED = false>
    GQMM_HD static float2 scale(const step_row &r, int g, const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        const uint32_t head = m.word(0), low = m.word(4) >> 4 * g & 15;
        const uint32_t high = head >> (16 + 2 * g) & 3;
        return make_float2(mul(half_to_float(head & 0xffff), integer(low | high << 4, 32)), 0.0f);
    }
};

} // namespace gqmm

#endif
