// SPDX-License-Identifier: MIT
// Rows of few columns whose codes lane_rows of wide_few_rows.cuh does not know: of a step of 256
// each lane of a quad has 64 weights of a row to itself, with the scales of these, and takes them
// in eight turns of four pairs. What it meets in a turn are 16 bytes of a column, a quarter of a
// piece in the decoder's order. The lanes of a quad take the quarters of a piece in such orders
// that they read different banks.
#ifndef GQMM_KERNEL_CUDA_WIDE_FEW_LOW_CUH
#define GQMM_KERNEL_CUDA_WIDE_FEW_LOW_CUH

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
        s[2] =
            pair_mul(read_number(planes + scales_at + PLANE_SCALES), both(bf16_power(-LOW_REST)));
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
        s[1] =
            pair_mul(read_number(planes + scales_at + PLANE_SCALES), both(bf16_power(-LOW_REST)));
    }

    __device__ __forceinline__ void get(uint32_t (&v)[WORDS], uint32_t row, int phase) const
    {
        if (phase % 2)
            return;
        const uint2 even = read_8(row + codes_at + 8 * (phase / 2)),
                    odd = read_8(row + codes_at + 8 + 8 * (phase / 2));
        // Of 24 bytes the middle eight are both pieces'.
        const uint32_t w[3] = {phase ? even.y : even.x, phase ? odd.x : even.y,
                               phase ? odd.y : odd.x};
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
#pragma unroll
            for (int u = 0; u < 5; u++)
                w[u] = phase && u == 0 ? 0 : read_4(row + codes_at + 4 * u + (phase ? 16 : 0));
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

// A warp's rows by lanes of few_lane.
template <class D, bool TWO> struct low_rows {
    few_lane<D> own;
    uint32_t rows[2][2], planes[2][2]; // of parts and halves: in a stage of codes and of scales
    uint32_t slips;                    // of these rows' first step, a byte each
    uint32_t columns_at;

    __device__ __forceinline__ low_rows(const few_args &a, int warp, int lane)
    {
        const int g = lane >> 2, t = lane & 3;
        own.set(t, a.p.w.group);
        slips = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = row_of<D>(TWO, a.p.y_order, warp, g, i >> 1, i & 1);
            const int place = place_of<TWO>(row, a.spread);
            const int64_t stride = TWO && i & 1 ? a.p.up.row_stride[0] : a.p.w.row_stride[0];
            rows[i >> 1][i & 1] =
                place * ROW_BYTES<D> + (few_layout<D>::STRAIGHT ? (place & 7) << 4 : 0);
            planes[i >> 1][i & 1] = scale_at(row);
            slips |= slip_of<D>(stride, row & ((1 << a.spread) - 1), 0) << 8 * i;
        }
        columns_at = g * column_pitch<D> + few_lane<D>::first_column(t);
    }

    // Where a step of a row begins.
    __device__ __forceinline__ uint32_t row_at(uint32_t weights, int i, int step) const
    {
        const uint32_t slip =
            few_layout<D>::SLIPS ? ((slips >> 8 * i) + step * STEP_BYTES<D>)&15 : 0;
        return weights + rows[i >> 1][i & 1] + slip;
    }

    template <int PARTS>
    __device__ __forceinline__ void do_step(float (&acc)[2][N / 2], const memory<D> &mem, int stage,
                                            int step) const
    {
        const uint32_t columns = mem.columns(stage) + columns_at;
        uint32_t at[4], held[2][2][few_lane<D>::WORDS], s[2][2][few_lane<D>::SCALES];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            at[i] = row_at(mem.weights(stage), i, step);
            own.scales(s[i >> 1][i & 1], at[i],
                       D::planes > 1 ? mem.scales(stage) + planes[i >> 1][i & 1] : 0);
        }
#pragma unroll
        for (int phase = 0; phase < few_lane<D>::PHASES; phase++) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                own.get(held[i >> 1][i & 1], at[i], phase);
            if (phase > 0 && few_lane<D>::BIASED) // what is made of scales is not to be kept
#pragma unroll
                for (int i = 0; i < 4 * few_lane<D>::SCALES; i++)
                    keep(s[i >> 1 & 1][i & 1][i >> 2]);
#pragma unroll
            for (int turn = 0; turn < few_lane<D>::TURNS; turn++) {
                uint32_t operand[2][2][4];
#pragma unroll
                for (int i = 0; i < 4; i++)
                    own.make(operand[i >> 1][i & 1], held[i >> 1][i & 1], s[i >> 1][i & 1], phase,
                             turn);
                multiply<PARTS, column_pitch<D>>(acc, operand, own.column(columns, phase, turn));
            }
        }
    }
};

template <bool TWO> struct lane_rows<dec_affine2, TWO> : low_rows<dec_affine2, TWO> {
    using low_rows<dec_affine2, TWO>::low_rows;
};
template <bool TWO> struct lane_rows<dec_affine3, TWO> : low_rows<dec_affine3, TWO> {
    using low_rows<dec_affine3, TWO>::low_rows;
};
template <bool TWO> struct lane_rows<dec_iq4_nl, TWO> : low_rows<dec_iq4_nl, TWO> {
    using low_rows<dec_iq4_nl, TWO>::low_rows;
};
template <bool TWO> struct lane_rows<dec_q2_k, TWO> : low_rows<dec_q2_k, TWO> {
    using low_rows<dec_q2_k, TWO>::low_rows;
};
template <bool TWO> struct lane_rows<dec_q3_k, TWO> : low_rows<dec_q3_k, TWO> {
    using low_rows<dec_q3_k, TWO>::low_rows;
};
template <bool TWO> struct lane_rows<dec_iq4_xs, TWO> : low_rows<dec_iq4_xs, TWO> {
    using low_rows<dec_iq4_xs, TWO>::low_rows;
};

} // namespace few_product
} // namespace gqmm

#endif
