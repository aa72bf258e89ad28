// SPDX-License-Identifier: MIT
// Decoders of f32, f16 and bf16 weights: as bf16 numbers that add up to them, each the next bits of
// what the ones before leave.
#ifndef GQMM_KERNEL_CUDA_DECODE_FLOAT_CUH
#define GQMM_KERNEL_CUDA_DECODE_FLOAT_CUH

#include "kernel/cuda/decode.cuh"
#include "kernel/cuda/memory.cuh"

namespace gqmm
{

template <int BYTES, int PARTS> struct plain_float {
    static constexpr int step = BYTES == 4 ? 64 : 128;
    static constexpr int block = 32, planes = 1, parts = PARTS, piece = 32, align = 16;
    static constexpr bool has_offset = false, grouped = false, loose = true;
    static constexpr order in_order = SERIAL;

    GQMM_HD static constexpr int64_t bytes(int, int64_t n, const format_args &)
    {
        return n * BYTES;
    }

    template <bool ALIGNED = false>
    GQMM_HD static float2 scale(const step_row &, int, const format_args &)
    {
        return make_float2(1.0f, 0.0f);
    }
};

// What is left of x after a number of 8 bits that lies in one half of a pair. Infinity and NaN
// leave NaN, for the caller to drop.
GQMM_HD static inline float rest_low(float x, uint32_t pair)
{
    return x - gqmm_bits_to_f32(pair << 16);
}

GQMM_HD static inline float rest_high(float x, uint32_t pair)
{
    return x - gqmm_bits_to_f32(pair & 0xffff0000u);
}

struct dec_bf16 : plain_float<2, 1> {
    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        memory<ALIGNED ? align : 1>(r.p[0]).four(a[0], 64 * j, 16 * t);
    }
};

struct dec_f16 : plain_float<2, 2> {
    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[2][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        uint32_t w[4];
        memory<ALIGNED ? align : 1>(r.p[0]).four(w, 64 * j, 16 * t);
        for (int i = 0; i < 4; i++) {
            const float x = half_to_float(w[i] & 0xffff), y = half_to_float(w[i] >> 16);
            a[0][i] = pair_cut(x, y);
            a[1][i] = pair_without_nan(pair_cut(rest_low(x, a[0][i]), rest_high(y, a[0][i])));
        }
    }
};

// Exact down to 2^-110; below, bits less than 2^-133 are lost.
struct dec_f32 : plain_float<4, 3> {
    template <bool ALIGNED = false>
    GQMM_HD static void codes(uint32_t (&a)[3][4], const step_row &r, int j, int t,
                              const format_args &)
    {
        const memory<ALIGNED ? align : 1> m(r.p[0]);
        uint32_t w[2][4];
        m.four(w[0], 128 * j, 32 * t);
        m.four(w[1], 128 * j + 16, 32 * t);
        for (int i = 0; i < 4; i++) {
            float x = gqmm_bits_to_f32(w[i >> 1][i * 2 & 2]);
            float y = gqmm_bits_to_f32(w[i >> 1][(i * 2 & 2) + 1]);
            a[0][i] = pair_cut(x, y);
            x = rest_low(x, a[0][i]);
            y = rest_high(y, a[0][i]);
            a[1][i] = pair_without_nan(pair_cut(x, y));
            x = rest_low(x, a[1][i]);
            y = rest_high(y, a[1][i]);
            a[2][i] = pair_without_nan(pair_cut(x, y));
        }
    }
};

} // namespace gqmm

#endif
