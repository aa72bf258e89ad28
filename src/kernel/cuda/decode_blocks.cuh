// SPDX-License-Identifier: MIT
// Decoders of the GGUF formats with one scale for 32 weights. Byte j of a block's nibbles holds
// elements j and j + 16: order HALVES, one word for the eight weights of a lane.
#ifndef GQMM_KERNEL_CUDA_DECODE_BLOCKS_CUH
#define GQMM_KERNEL_CUDA_DECODE_BLOCKS_CUH

#include "format/fp8.h"
#include "kernel/cuda/decode.cuh"
#include "kernel/cuda/memory.cuh"

namespace gqmm
{

// What the blocks of BYTES bytes for 32 weights share.
template <int BYTES, bool OFFSET, int STEP = 256> struct block32 {
    static constexpr int step = STEP, block = 32, planes = 1, parts = 1, piece = 32;
    static constexpr int align = largest_power(STEP / 32 * BYTES);
    static constexpr bool has_offset = OFFSET, grouped = false, loose = true;
    static constexpr order in_order = HALVES;

    GQMM_HD static constexpr int64_t bytes(int, int64_t n, const format_args &)
    {
        return n / 32 * BYTES;
    }

    // f16 scale first; with an offset, that second.
    template <bool ALIGNED = false>
    GQMM_HD static float2 scale(const step_row &r, int g, const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        return make_float2(m.f16(BYTES * g), OFFSET ? m.f16(BYTES * g + 2) : 0.0f);
    }
};

// The nibbles of a word whose middle bytes are exchanged, in order HALVES.
template <int LESS> GQMM_HD static inline void crossed_nibbles(uint32_t (&a)[4], uint32_t w)
{
    a[0] = field<4, 0, LESS>(w);
    a[1] = field<4, 8, LESS>(w);
    a[2] = field<4, 4, LESS>(w);
    a[3] = field<4, 12, LESS>(w);
}

// The same with 16 added.
GQMM_HD static inline void crossed_nibbles_16(uint32_t (&a)[4], uint32_t w)
{
    a[0] = nibble_16(w, 0);
    a[1] = nibble_16(w, 8);
    a[2] = nibble_16(w, 4);
    a[3] = nibble_16(w, 12);
}

struct dec_q4_0 : block32<18, false> {
    static constexpr int raw_bias = 16 + 8;
    static constexpr order raw_order = in_order;

    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        crossed_nibbles<8>(a[0], m.crossed(18 * j + 2, 4 * t));
    }

    template <bool ALIGNED = false>
    GQMM_HD static void raw_codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                                  const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        crossed_nibbles_16(a[0], m.crossed(18 * j + 2, 4 * t));
    }
};

struct dec_q4_1 : block32<20, true> {
    static constexpr int raw_bias = 16;
    static constexpr order raw_order = in_order;

    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        crossed_nibbles<0>(a[0], m.crossed(20 * j + 4, 4 * t));
    }

    template <bool ALIGNED = false>
    GQMM_HD static void raw_codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                                  const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        crossed_nibbles_16(a[0], m.crossed(20 * j + 4, 4 * t));
    }
};

// Nibbles at HEAD + 4, and bit j of the word at HEAD is bit 4 of element j: four of these bits go
// to bit 4 of four bytes by one product.
template <int LESS, class MEMORY>
GQMM_HD static inline void five_bits(uint32_t (&a)[4], const MEMORY &m, int head, int t)
{
    const uint32_t w = m.word(head + 4, 4 * t), top = m.word(head) >> 4 * t;
    const uint32_t low = (top & 15) * 0x02040810u, high = (top >> 16 & 15) * 0x02040810u;
    small_bytes<LESS>(a, pick(low, 0x10101010, w & 0x0f0f0f0f));
    small_bytes<LESS>(a + 2, pick(high, 0x10101010, w >> 4 & 0x0f0f0f0f));
}

struct dec_q5_0 : block32<22, false> {
    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        five_bits<16>(a[0], m, 22 * j + 2, t);
    }
};

struct dec_q5_1 : block32<24, true> {
    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        five_bits<0>(a[0], m, 24 * j + 4, t);
    }
};

struct dec_iq4_nl : block32<18, false> {
    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        iq4_values(a[0], m.word(18 * j + 2, 4 * t));
    }
};

// The scale is one byte, an exponent.
struct dec_mxfp4 : block32<17, false> {
    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        uint32_t v[4];
        e2m1_nibbles(v, m.crossed(17 * j + 1, 4 * t));
        a[0][0] = v[0];
        a[0][1] = v[2];
        a[0][2] = v[1];
        a[0][3] = v[3];
    }

    template <bool ALIGNED = false>
    GQMM_HD static float2 scale(const step_row &r, int g, const format_args &)
    {
        return make_float2(gqmm_e8m0_half_to_f32(r.p[0][17 * g]), 0.0f);
    }
};

// Four groups of 16 behind their scales; byte i of a group holds elements i and i + 8, which is how
// the matrix instruction takes them.
struct dec_nvfp4 {
    static constexpr int step = 256, block = 64, planes = 1, parts = 1, piece = 16, align = 16;
    static constexpr bool has_offset = false, grouped = false, loose = true;
    static constexpr order in_order = NATIVE;

    GQMM_HD static constexpr int64_t bytes(int, int64_t n, const format_args &)
    {
        return n / 64 * 36;
    }

    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        const int c = 36 * (j >> 1) + 4 + 16 * (j & 1);
        e2m1_nibbles(a[0], permute(m.half(c, 2 * t), m.half(c + 8, 2 * t), 0x5140));
    }

    // Half of ggml's UE4M3: 0x7f is 0, bit 7 is ignored otherwise.
    template <bool ALIGNED = false>
    GQMM_HD static float2 scale(const step_row &r, int g, const format_args &)
    {
        const uint32_t u = r.p[0][36 * (g >> 2) + (g & 3)];
        return make_float2(u == 0x7f ? 0.0f : half_of_e4m3(u & 0x7f), 0.0f);
    }
};

struct dec_q8_0 : block32<34, false, 128> {
    static constexpr order in_order = SERIAL;

    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        uint32_t w[2];
        m.two(w, 34 * j + 2, 8 * t);
        signed_bytes(a[0], w[0]);
        signed_bytes(a[0] + 2, w[1]);
    }
};

} // namespace gqmm

#endif
