// SPDX-License-Identifier: MIT
// How a lane takes its 64 weights of a row for wide_few_low.cuh, a struct for each format.
#ifndef GQMM_KERNEL_CUDA_WIDE_FEW_LANES_CUH
#define GQMM_KERNEL_CUDA_WIDE_FEW_LANES_CUH

#include "kernel/cuda/wide_few_rows.cuh"

namespace gqmm
{
namespace few_product
{

// few_lane<D>, what lane t of a quad has of a row:
//   WORDS, SCALES       registers that hold codes and scales of a row
//   PHASES, TURNS       of a step; codes are made ready for a phase at once
//   BIASED      what is made of scales in a phase is made again in the next: registers are short
//   set(t, group)       what is the same for all rows
//   first_column(t)     the lane's first 16 bytes in a column
//   column(at, phase, turn)     where those of a turn are if the first are at `at`
//   scales(s, row, planes)      shared addresses of a row's step and of its scales in planes
//   get(v, row, phase)
//   make(a, v, s, phase, turn)  four pairs
template <class D> struct few_lane;

// 2^e and a quarter of it.
__device__ __forceinline__ uint32_t powers_from(int e)
{
    return bf16_power(e) | bf16_power(e - 2) << 16;
}

// 2^23 + byte i of w.
__device__ __forceinline__ float byte_after_2_23(uint32_t w, int i)
{
    return __uint_as_float(permute(w, 0x4b000000, 0x7440u | (uint32_t)i));
}

// A lane has quarters n ^ t of its pieces in turn.
struct quarters_in_turn {
    GQMM_HD static constexpr uint32_t first_column(int t)
    {
        return 128 * t + 16 * t;
    }
    GQMM_HD static constexpr uint32_t column(uint32_t at, int piece, int n)
    {
        return (at ^ n << 4) + piece * 64;
    }
};

// Pieces 2 t and 2 t + 1.
template <> struct few_lane<dec_affine2> : quarters_in_turn {
    static constexpr int WORDS = 6, SCALES = 3, PHASES = 2, TURNS = 4;
    static constexpr bool BIASED = false;
    uint32_t codes_at, scales_at, mask[4], powers[2];

    __device__ __forceinline__ void set(int t, int group)
    {
        codes_at = 16 * t;
        scales_at = 64 * t / group * 2;
#pragma unroll
        for (int n = 0; n < 4; n++) {
            mask[n] = both(3u << 2 * (n ^ t));
            asm volatile("" : "+r"(mask[n]));
        }
#pragma unroll
        for (int n = 0; n < 2; n++) {
            powers[n] = bf16_power(LOW_SCALE - 2 * (2 * n ^ t)) |
                        (uint32_t)bf16_power(LOW_SCALE - 2 * ((2 * n + 1) ^ t)) << 16;
            asm volatile("" : "+r"(powers[n]));
        }
    }

    __device__ __forceinline__ void scales(uint32_t (&s)[SCALES], uint32_t, uint32_t planes) const
    {
        const uint32_t scale = read_number(planes + scales_at);
        s[0] = pair_mul(one_of<0>(scale), powers[0]);
        s[1] = pair_mul(one_of<0>(scale), powers[1]);
        s[2] = pair_mul(read_number(planes + scales_at + PLANE_SCALES<dec_affine2>),
                        both(bf16_power(-LOW_REST)));
    }

    __device__ __forceinline__ void get(uint32_t (&v)[WORDS], uint32_t row, int phase) const
    {
        uint32_t w[2] = {v[4], v[5]};
        if (phase == 0) {
            const uint4 u = read_16(row + codes_at);
            w[0] = u.x, w[1] = u.y, v[4] = u.z, v[5] = u.w;
        }
#pragma unroll
        for (int u = 0; u < 4; u++)
            v[u] = permute(w[u / 2], 0, u % 2 ? 0x4342 : 0x4140);
    }

    __device__ __forceinline__ void make(uint32_t (&a)[4], const uint32_t (&v)[WORDS],
                                         const uint32_t (&s)[SCALES], int, int turn) const
    {
#pragma unroll
        for (int u = 0; u < 4; u++)
            a[u] = pair_fma(v[u] & mask[turn], one_of(s[turn / 2], turn % 2), one_of<0>(s[2]));
    }
};

// The same of three bits: a phase has half of a piece's pairs, each eight numbers of three bytes
// with four in either half of a word.
template <> struct few_lane<dec_affine3> : quarters_in_turn {
    static constexpr int WORDS = 4, SCALES = 2, PHASES = 4, TURNS = 2;
    static constexpr bool BIASED = false;
    uint32_t codes_at, scales_at, shift[2], mask[2], powers;

    GQMM_HD static constexpr uint32_t column(uint32_t at, int phase, int turn)
    {
        return quarters_in_turn::column(at, phase >> 1, 2 * (phase & 1) + turn);
    }

    __device__ __forceinline__ void set(int t, int group)
    {
        codes_at = 24 * t;
        scales_at = 64 * t / group * 2;
        powers = bf16_power(LOW_SCALE - 3 * (t & 1)) |
                 (uint32_t)bf16_power(LOW_SCALE - 3 * (~t & 1)) << 16;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            shift[i] = 6 * (i ^ t >> 1);
            mask[i] = both(7u << 3 * (i ^ (t & 1)));
            asm volatile("" : "+r"(shift[i]), "+r"(mask[i]));
        }
    }

    __device__ __forceinline__ void scales(uint32_t (&s)[SCALES], uint32_t, uint32_t planes) const
    {
        s[0] = pair_mul(one_of<0>(read_number(planes + scales_at)), powers);
        s[1] = pair_mul(read_number(planes + scales_at + PLANE_SCALES<dec_affine3>),
                        both(bf16_power(-LOW_REST)));
    }

    __device__ __forceinline__ void get(uint32_t (&v)[WORDS], uint32_t row, int phase) const
    {
        if (phase % 2)
            return;
        const uint2 a = read_8(row + codes_at + 8 * (phase / 2)),
                    b = read_8(row + codes_at + 8 + 8 * (phase / 2));
        // Of 24 bytes the middle eight are both pieces'.
        const uint32_t w[3] = {phase ? a.y : a.x, phase ? b.x : a.y, phase ? b.y : b.x};
#pragma unroll
        for (int u = 0; u < 4; u++) {
            const int first = 3 * u - u / 2 * 4; // byte, from w[u / 2] on
            const uint32_t pairs = permute(w[u / 2], w[u / 2 + 1], 0x2110u + 0x1111u * first);
            v[u] = choose_bits(pairs >> 4, 0xffff0000, pairs);
        }
    }

    __device__ __forceinline__ void make(uint32_t (&a)[4], const uint32_t (&v)[WORDS],
                                         const uint32_t (&s)[SCALES], int phase, int turn) const
    {
#pragma unroll
        for (int u = 0; u < 4; u++)
            a[u] = pair_fma(v[u] >> shift[phase % 2] & mask[turn], one_of(s[0], turn),
                            one_of<0>(s[1]));
    }
};

// Blocks whose four pieces of 128 weights share bytes: lane t has 16 bytes of these, and so the
// same half of each piece of half t / 2 of the block; pairs of bytes 0 and 2 and of bytes 1 and 3
// in one phase or the other.
struct bytes_in_turn {
    GQMM_HD static constexpr uint32_t first_column(int t)
    {
        return (t >> 1) * 256 + (t & 1) * 32 + (t >> 1) * 16;
    }
    GQMM_HD static constexpr uint32_t column(uint32_t at, int phase, int piece)
    {
        return (at ^ phase << 4) + piece * 64;
    }
};

template <> struct few_lane<dec_q2_k> : bytes_in_turn {
    static constexpr int WORDS = 4, SCALES = 4, PHASES = 2, TURNS = 4;
    static constexpr bool BIASED = false;
    uint32_t codes_at, scales_at, own, bytes; // the latter two: their order

    __device__ __forceinline__ void set(int t, int)
    {
        bytes = t >> 1 ? 0x2301 : 0x3210;
        codes_at = 16 + 16 * t;
        scales_at = 8 * (t >> 1);
        own = t & 1 ? 0x7531 : 0x6420;
    }

    __device__ __forceinline__ void scales(uint32_t (&s)[SCALES], uint32_t row, uint32_t) const
    {
        const uint32_t dd = read_4(row + 80);
        const uint32_t w = permute(read_4(row + scales_at), read_4(row + scales_at + 4), own);
        const uint32_t sc = w & 0x0f0f0f0f, mn = w >> 4 & 0x0f0f0f0f;
        // 2^23 + v, times d, less 2^23 d: d * v, rounded once.
        const float d = half_to_float(dd & 0xffff);
        const float m = half_to_float(dd >> 16) * -power_of_two(-LOW_REST);
        const float d23 = -8388608.0f * d, m23 = -8388608.0f * m;
        float scale[4], offset[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            scale[i] = __fmaf_rn(byte_after_2_23(sc, i), d, d23);
            offset[i] = __fmaf_rn(byte_after_2_23(mn, i), m, m23);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            s[i] =
                pair_mul(rounded(scale[2 * i], scale[2 * i + 1]), powers_from(LOW_SCALE - 4 * i));
            s[2 + i] = rounded(offset[2 * i], offset[2 * i + 1]);
        }
    }

    __device__ __forceinline__ void get(uint32_t (&v)[WORDS], uint32_t row, int phase) const
    {
#pragma unroll
        for (int u = 0; u < 4; u++)
            v[u] = phase == 0 ? permute(read_4(row + codes_at + 4 * u), 0, bytes) : v[u] >> 8;
    }

    __device__ __forceinline__ void make(uint32_t (&a)[4], const uint32_t (&v)[WORDS],
                                         const uint32_t (&s)[SCALES], int, int piece) const
    {
#pragma unroll
        for (int u = 0; u < 4; u++)
            a[u] = pair_fma(v[u] & both(3u << 2 * piece), one_of(s[piece / 2], piece % 2),
                            one_of(s[2 + piece / 2], piece % 2));
    }
};

// Each half of a word has two bits of four codes below the third bits of these. Such a bit alone,
// in the exponent, is a power of two: times the scale, and less what all codes have too much, it is
// what a multiply-add of the lower bits begins with.
template <> struct few_lane<dec_q3_k> : bytes_in_turn {
    static constexpr int WORDS = 4, SCALES = 2, PHASES = 2, TURNS = 4, BIAS = 4;
    static constexpr bool BIASED = true;
    uint32_t codes_at, tops_at, shift, own, high_own, select[2];

    __device__ __forceinline__ void set(int t, int)
    {
        codes_at = (2 + t) << 4;
        tops_at = (t & 1) << 4;
        shift = 4 * (t >> 1);
        own = t & 1 ? 0x7531 : 0x6420;
        high_own = t & 1 ? 0x3131 : 0x2020;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            select[i] = i ^ t >> 1 ? 0x7351 : 0x6240;
            asm volatile("" : "+r"(select[i]));
        }
    }

    __device__ __forceinline__ void scales(uint32_t (&s)[SCALES], uint32_t row, uint32_t) const
    {
        uint32_t w[4];
        read_16(w, row ^ 6 << 4);
        const uint32_t low = permute(w[0], w[1], own) >> shift & 0x0f0f0f0f;
        const uint32_t high = permute(w[2], 0, high_own) >> shift;
        const uint32_t sc = pick(high << 4, 0x00003030, pick(high << 2, 0x30300000, low));
        const float d = half_to_float(w[3] & 0xffff);
        float scale[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            scale[i] = mul(low_integer(sc, i, 32), d);
#pragma unroll
        for (int i = 0; i < 2; i++)
            s[i] =
                pair_mul(rounded(scale[2 * i], scale[2 * i + 1]), powers_from(LOW_SCALE - 4 * i));
    }

    __device__ __forceinline__ void get(uint32_t (&v)[WORDS], uint32_t row, int phase) const
    {
        uint32_t tops[4];
        read_16(v, row ^ codes_at);
        read_16(tops, row ^ tops_at);
#pragma unroll
        for (int u = 0; u < 4; u++)
            v[u] = permute(v[u], tops[u] >> shift, select[phase]);
    }

    __device__ __forceinline__ void make(uint32_t (&a)[4], const uint32_t (&v)[WORDS],
                                         const uint32_t (&s)[SCALES], int, int piece) const
    {
        const int top = (2 << piece) - 127; // the power that bit 8 + piece is
        const uint32_t scale = one_of(s[piece / 2], piece % 2);
        const uint32_t by = pair_mul(scale, both(bf16_power(2 - 133 + 2 * piece - top)));
        const uint32_t less = pair_mul(scale, both(0x8000 | BIAS << 2 * piece));
#pragma unroll
        for (int u = 0; u < 4; u++)
            a[u] = pair_fma(v[u] & both(3u << 2 * piece), scale,
                            pair_fma(v[u] & both(0x100u << piece), by, less));
    }
};

// Pieces 2 t and 2 t + 1: a phase has the numbers of half of a piece's bytes, first those of their
// low or of their high nibbles.
template <> struct few_lane<dec_iq4_xs> : quarters_in_turn {
    static constexpr int WORDS = 4, SCALES = 1, PHASES = 4, TURNS = 2;
    static constexpr bool BIASED = false;
    uint32_t codes_at, of_scales, shift[2], select[2];

    GQMM_HD static constexpr uint32_t column(uint32_t at, int phase, int turn)
    {
        return quarters_in_turn::column(at, phase >> 1, (phase & 1) + 2 * turn);
    }

    __device__ __forceinline__ void set(int t, int)
    {
        codes_at = 8 + 32 * t;
        of_scales = 8 * t;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            shift[i] = 16 * (i ^ (t & 1));
            select[i] = i ^ t >> 1 ? 0x4341 : 0x4240;
            asm volatile("" : "+r"(shift[i]), "+r"(select[i]));
        }
    }

    __device__ __forceinline__ void scales(uint32_t (&s)[SCALES], uint32_t row, uint32_t) const
    {
        const uint2 head = read_8(row);
        const uint32_t low = head.y >> of_scales, high = head.x >> 12 >> of_scales / 2;
        const float d = half_to_float(head.x & 0xffff);
        const float first = integer((low & 15) | (high & 0x30), 32),
                    second = integer((low >> 4 & 15) | (high >> 2 & 0x30), 32);
        s[0] = pair_mul(rounded(mul(d, first), mul(d, second)), both(bf16_power(LOW_SCALE)));
    }

    __device__ __forceinline__ void get(uint32_t (&v)[WORDS], uint32_t row, int phase) const
    {
        const uint2 low = read_8(row + codes_at + 16 * (phase >> 1)),
                    high = read_8(row + codes_at + 16 * (phase >> 1) + 8);
        v[0] = low.x, v[1] = low.y, v[2] = high.x, v[3] = high.y;
#pragma unroll
        for (int u = 0; u < 4; u++)
            v[u] = low_iq4_bytes(v[u] >> shift[phase & 1]);
    }

    template <int W>
    __device__ __forceinline__ void make(uint32_t (&a)[4], const uint32_t (&v)[W],
                                         const uint32_t (&s)[SCALES], int phase, int turn) const
    {
        const uint32_t scale = one_of(s[0], phase >> 1);
        const uint32_t rest = pair_mul(scale, both(0x8000 | low_codes<dec_iq4_xs>::bias));
#pragma unroll
        for (int u = 0; u < 4; u++)
            a[u] = pair_fma(permute(v[u], 0, select[turn]), scale, rest);
    }
};

// Of two blocks of 18 bytes at `at`, a multiple of four, the words that hold one's codes: the
// first's begin two bytes into w[0], the second's with w[1].
__device__ __forceinline__ void read_of_18(uint32_t (&w)[5], uint32_t at, bool second)
{
#pragma unroll
    for (int u = 0; u < 5; u++)
        w[u] = second && u == 0 ? 0 : read_4(at + 4 * u + (second ? 16 : 0));
}

// The same of blocks of 18 bytes each, of which every other one's codes begin two behind a multiple
// of four. What the second phase of a piece takes is kept by the first.
template <> struct few_lane<dec_iq4_nl> : few_lane<dec_iq4_xs> {
    static constexpr int WORDS = 6;

    __device__ __forceinline__ void set(int t, int group)
    {
        few_lane<dec_iq4_xs>::set(t, group);
        codes_at = 36 * t;
    }

    __device__ __forceinline__ void scales(uint32_t (&s)[SCALES], uint32_t row, uint32_t) const
    {
        const float first = half_to_float(read_4(row + codes_at) & 0xffff),
                    second = half_to_float(read_4(row + codes_at + 16) >> 16);
        s[0] = pair_mul(rounded(first, second), both(bf16_power(LOW_SCALE)));
    }

    __device__ __forceinline__ void get(uint32_t (&v)[WORDS], uint32_t row, int phase) const
    {
        uint32_t now[4] = {v[4], v[4] >> 16, v[5], v[5] >> 16}; // in their low halves
        if (phase % 2 == 0) {
            uint32_t w[5];
            read_of_18(w, row + codes_at, phase);
#pragma unroll
            for (int u = 0; u < 4; u++)
                w[u] = phase ? w[u + 1] : __byte_perm(w[u], w[u + 1], 0x5432);
#pragma unroll
            for (int u = 0; u < 4; u++)
                now[u] = w[u] >> shift[0];
            v[4] = __byte_perm(w[0] >> shift[1], w[1] >> shift[1], 0x5410);
            v[5] = __byte_perm(w[2] >> shift[1], w[3] >> shift[1], 0x5410);
        }
#pragma unroll
        for (int u = 0; u < 4; u++)
            v[u] = low_iq4_bytes(now[u]);
    }
};

} // namespace few_product
} // namespace gqmm

#endif
