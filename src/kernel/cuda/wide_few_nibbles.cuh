// SPDX-License-Identifier: MIT
// few_lane of wide_few_lanes.cuh for nibbles in blocks of 32 and for those that are numbers
// themselves, E2M1.
#ifndef GQMM_KERNEL_CUDA_WIDE_FEW_NIBBLES_CUH
#define GQMM_KERNEL_CUDA_WIDE_FEW_NIBBLES_CUH

#include "kernel/cuda/wide_few_lanes.cuh"

namespace gqmm
{
namespace few_product
{

// Pieces 2 t and 2 t + 1, half of a piece's pairs a phase: a turn has its low or its high nibbles.
struct nibbles_in_turn : quarters_in_turn {
    static constexpr int WORDS = 4, PHASES = 4, TURNS = 2;
    static constexpr bool BIASED = false;
};

// Blocks whose byte j has elements j and j + 16. Odd lanes swap bytes, the upper half of a quad
// takes high nibbles first.
struct halves_in_turn : nibbles_in_turn {
    static constexpr int SCALES = 3;
    uint32_t mask[2], powers, bytes;

    GQMM_HD static constexpr uint32_t column(uint32_t at, int phase, int turn)
    {
        return quarters_in_turn::column(at, phase >> 1, (phase & 1) + 2 * turn);
    }

    __device__ __forceinline__ void set(int t, int)
    {
        const int upper = t >> 1;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            mask[i] = i ^ upper ? 0x00f000f0 : 0x000f000f;
            asm volatile("" : "+r"(mask[i]));
        }
        powers = bf16_power(LOW_SCALE - (upper ? 4 : 0)) |
                 (uint32_t)bf16_power(LOW_SCALE - (upper ? 0 : 4)) << 16;
        bytes = t & 1 ? 0x2301 : 0x3210;
        asm volatile("" : "+r"(powers), "+r"(bytes));
    }

    // To the pairs of the piece's second phase.
    __device__ __forceinline__ static void go_on(uint32_t (&v)[WORDS])
    {
#pragma unroll
        for (int u = 0; u < 4; u++)
            v[u] >>= 8;
    }

    // Of both pieces' scales, rounded; s[2]: offsets.
    __device__ __forceinline__ void set_scales(uint32_t (&s)[SCALES], uint32_t scales) const
    {
        s[0] = pair_mul(one_of<0>(scales), powers);
        s[1] = pair_mul(one_of<1>(scales), powers);
    }

    __device__ __forceinline__ void make(uint32_t (&a)[4], const uint32_t (&v)[WORDS],
                                         const uint32_t (&s)[SCALES], int phase, int turn) const
    {
#pragma unroll
        for (int u = 0; u < 4; u++)
            a[u] =
                pair_fma(v[u] & mask[turn], one_of(s[phase >> 1], turn), one_of(s[2], phase >> 1));
    }
};

// Of 18 bytes each: the codes of every other one begin two behind a multiple of four.
template <> struct few_lane<dec_q4_0> : halves_in_turn {
    uint32_t codes_at, crooked;

    __device__ __forceinline__ void set(int t, int group)
    {
        halves_in_turn::set(t, group);
        codes_at = 36 * t;
        crooked = bytes + 0x2222;
    }

    __device__ __forceinline__ void scales(uint32_t (&s)[SCALES], uint32_t row, uint32_t) const
    {
        const uint32_t d = rounded(half_to_float(read_4(row + codes_at) & 0xffff),
                                   half_to_float(read_4(row + codes_at + 16) >> 16));
        set_scales(s, d);
        s[2] = pair_mul(d, both(0x8000 | bf16_power(3 - LOW_REST)));
    }

    __device__ __forceinline__ void get(uint32_t (&v)[WORDS], uint32_t row, int phase) const
    {
        if (phase % 2)
            return go_on(v);
        uint32_t w[5];
        read_of_18(w, row + codes_at, phase);
#pragma unroll
        for (int u = 0; u < 4; u++)
            v[u] = phase ? permute(w[u + 1], 0, bytes) : permute(w[u], w[u + 1], crooked);
    }
};

// Of 20 bytes.
template <> struct few_lane<dec_q4_1> : halves_in_turn {
    uint32_t codes_at;

    __device__ __forceinline__ void set(int t, int group)
    {
        halves_in_turn::set(t, group);
        codes_at = 40 * t;
    }

    __device__ __forceinline__ void scales(uint32_t (&s)[SCALES], uint32_t row, uint32_t) const
    {
        const uint32_t first = read_4(row + codes_at), second = read_4(row + codes_at + 20);
        set_scales(s, rounded(half_to_float(first & 0xffff), half_to_float(second & 0xffff)));
        s[2] = pair_mul(rounded(half_to_float(first >> 16), half_to_float(second >> 16)),
                        both(bf16_power(-LOW_REST)));
    }

    __device__ __forceinline__ void get(uint32_t (&v)[WORDS], uint32_t row, int phase) const
    {
        if (phase % 2)
            return go_on(v);
        const uint32_t at = row + codes_at + (phase ? 24 : 4);
        const uint2 a = phase ? read_8(at) : make_uint2(read_4(at), read_4(at + 4));
        const uint2 b = phase ? read_8(at + 8) : make_uint2(read_4(at + 8), read_4(at + 12));
        v[0] = permute(a.x, 0, bytes), v[1] = permute(a.y, 0, bytes);
        v[2] = permute(b.x, 0, bytes), v[3] = permute(b.y, 0, bytes);
    }
};

// E2M1: what low_e2m1() makes of two nibbles, which is 2^-127 of what they are, doubled.
struct numbers_in_turn : nibbles_in_turn {
    uint32_t mask[2], times[2];

    GQMM_HD static constexpr uint32_t column(uint32_t at, int phase, int turn)
    {
        return quarters_in_turn::column(at, phase >> 1, 2 * (phase & 1) + turn);
    }

    // high: the lane takes high nibbles first.
    __device__ __forceinline__ void set_nibbles(int high)
    {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            mask[i] = i ^ high ? 0x00f000f0 : 0x000f000f;
            times[i] = i ^ high ? 1u << 2 | 1u << 8 : 1u << 6 | 1u << 12;
            asm volatile("" : "+r"(mask[i]), "+r"(times[i]));
        }
    }

    __device__ __forceinline__ uint32_t number(uint32_t v, int turn) const
    {
        return (v & mask[turn]) * times[turn] & both(0x81c0);
    }
};

// Nibbles in order; the upper half of a quad swaps bytes, odd lanes take high nibbles first.
template <> struct few_lane<dec_mlx_mxfp4> : numbers_in_turn {
    static constexpr int SCALES = 1;
    uint32_t codes_at, scales_at, bytes;

    __device__ __forceinline__ void set(int t, int)
    {
        set_nibbles(t & 1);
        codes_at = 32 * t;
        scales_at = 2 * t;
        bytes = t >> 1 ? 0x2301 : 0x3210;
        asm volatile("" : "+r"(bytes));
    }

    __device__ __forceinline__ void scales(uint32_t (&s)[SCALES], uint32_t, uint32_t planes) const
    {
        const uint32_t e = read_number(planes + scales_at);
        s[0] = rounded(gqmm_e8m0_half_to_f32((uint8_t)(e & 0xff)),
                       gqmm_e8m0_half_to_f32((uint8_t)(e >> 8)));
    }

    __device__ __forceinline__ void get(uint32_t (&v)[WORDS], uint32_t row, int phase) const
    {
        if (phase % 2 == 0)
            read_16(v, row ^ (codes_at + 16 * (phase >> 1)));
#pragma unroll
        for (int u = 0; u < 4; u++)
            v[u] = phase % 2 ? v[u] >> 8 : permute(v[u], 0, bytes);
    }

    __device__ __forceinline__ void make(uint32_t (&a)[4], const uint32_t (&v)[WORDS],
                                         const uint32_t (&s)[SCALES], int phase, int turn) const
    {
#pragma unroll
        for (int u = 0; u < 4; u++)
            a[u] = pair_mul(pair_mul(number(v[u], turn), both(bf16_power(127))),
                            one_of(s[0], phase >> 1));
    }
};

// Groups of 16 with a scale of E4M3, whose 8 bytes have pairs of neighbours each: those of one
// group in one phase. Such scales leave room for the power that numbers want, but for 2^DOWN.
struct groups_in_turn : numbers_in_turn {
    static constexpr int SCALES = 2;
    uint32_t scales_order;

    // The upper half of a quad takes second groups first, odd lanes high nibbles.
    __device__ __forceinline__ void set_order(int t)
    {
        set_nibbles(t & 1);
        scales_order = t >> 1 ? 0x2301 : 0x3210;
    }

    // Of four groups, a byte each in the order of phases: with(v) makes numbers of those in the
    // high bytes of halves.
    template <class F>
    __device__ __forceinline__ void set_scales(uint32_t (&s)[SCALES], uint32_t bytes,
                                               const F &with) const
    {
        const uint32_t w = permute(bytes, 0, scales_order);
        s[0] = with(permute(w, 0, 0x1404));
        s[1] = with(permute(w, 0, 0x3424));
    }

    __device__ __forceinline__ void spread_bytes(uint32_t (&v)[WORDS], uint32_t low,
                                                 uint32_t high) const
    {
        v[0] = permute(low, 0, 0x4140), v[1] = permute(low, 0, 0x4342);
        v[2] = permute(high, 0, 0x4140), v[3] = permute(high, 0, 0x4342);
    }

    __device__ __forceinline__ void make(uint32_t (&a)[4], const uint32_t (&v)[WORDS],
                                         const uint32_t (&s)[SCALES], int phase, int turn) const
    {
#pragma unroll
        for (int u = 0; u < 4; u++)
            a[u] = pair_mul(number(v[u], turn), one_of(s[phase >> 1], phase & 1));
    }
};

template <> struct few_lane<dec_nvfp4> : groups_in_turn {
    uint32_t codes_at, group_at[2];

    __device__ __forceinline__ void set(int t, int)
    {
        set_order(t);
        codes_at = 36 * t;
#pragma unroll
        for (int i = 0; i < 2; i++)
            group_at[i] = codes_at + 4 + 8 * (i ^ t >> 1);
    }

    __device__ __forceinline__ void scales(uint32_t (&s)[SCALES], uint32_t row, uint32_t) const
    {
        // 0x7f is 0, bit 7 is ignored otherwise.
        const uint32_t w = read_4(row + codes_at);
        set_scales(s, w & ~__vcmpeq4(w, 0x7f7f7f7f), [](uint32_t v) {
            return pair_mul(pair_mul(v >> 4 & both(0x07f0), both(bf16_power(119))),
                            both(bf16_power(127 - few_layout<dec_nvfp4>::DOWN)));
        });
    }

    __device__ __forceinline__ void get(uint32_t (&v)[WORDS], uint32_t row, int phase) const
    {
        const uint32_t at = row + group_at[phase & 1] + 16 * (phase >> 1);
        spread_bytes(v, read_4(at), read_4(at + 4));
    }
};

template <> struct few_lane<dec_mlx_nvfp4> : groups_in_turn {
    uint32_t codes_at[2], scales_at;

    __device__ __forceinline__ void set(int t, int)
    {
        set_order(t);
        scales_at = 4 * t;
#pragma unroll
        for (int i = 0; i < 2; i++)
            codes_at[i] = 32 * t + 8 * (i ^ t >> 1);
    }

    __device__ __forceinline__ void scales(uint32_t (&s)[SCALES], uint32_t, uint32_t planes) const
    {
        set_scales(s, read_4(planes + scales_at), [](uint32_t v) {
            return pair_mul(dec_mlx_mxfp8::e4m3(v),
                            both(bf16_power(126 - few_layout<dec_mlx_nvfp4>::DOWN)));
        });
    }

    __device__ __forceinline__ void get(uint32_t (&v)[WORDS], uint32_t row, int phase) const
    {
        const uint2 w = read_8(row ^ (codes_at[phase & 1] + 16 * (phase >> 1)));
        spread_bytes(v, w.x, w.y);
    }
};

} // namespace few_product
} // namespace gqmm

#endif
