// SPDX-License-Identifier: MIT
// Activations of few tokens as integers, for direct_stay.cuh: where an expert has one or two
// tokens, the other columns of a matrix instruction are free for digits of theirs.
//
// A step's numbers of a token are taken as multiples of 2^-power, up to 2^30, which is rounded only
// where they are less than 2^-23 of the largest. Their four bytes are digits from -128 to 127, a
// column each. So nibbles are multiplied as the bytes that they are, 32 along K at once, and the
// sums of a group are exact.
#ifndef GQMM_KERNEL_CUDA_DIRECT_DIGITS_CUH
#define GQMM_KERNEL_CUDA_DIRECT_DIGITS_CUH

#include "kernel/cuda/held.cuh"

namespace gqmm
{

constexpr int DIGITS = 4;
constexpr float DIGIT_UNIT = 0.0625f; // of sums: a code counts 16

// The lane's 64 numbers of a step of token lane / 16, digit lane / 4 % 4 of each.
template <class L> struct digits {
    static constexpr int N = L::N;
    // Sums of groups of columns 2 t and 2 t + 1, or two bf16 parts of them as a right operand.
    static constexpr bool PARTS = L::OFFSETS;

    uint32_t x[8][2]; // of each word, four digits that meet low nibbles, and high ones
    int sums[PARTS ? 2 : 2 * N];
    float2 times; // what columns 2 t and 2 t + 1 count
    uint4 raw[2]; // between load() and prepare()

    // The eight numbers that meet a word of nibbles.
    __device__ __forceinline__ static uint4 load_word(const uint16_t *row, int word, int t)
    {
        if (L::APART != 1)
            return *(const uint4 *)(row + L::first_of(word, t));
        const uint16_t *from = row + L::first_of(word & ~1, t) + word % 2 * 4;
        const uint2 low = *(const uint2 *)from, high = *(const uint2 *)(from + 32);
        return make_uint4(low.x, low.y, high.x, high.y);
    }

    // Those of low nibbles first.
    __device__ __forceinline__ static void in_order(uint32_t (&v)[4], const uint4 &w)
    {
        if (L::APART == 1) {
            v[0] = w.x, v[1] = w.y, v[2] = w.z, v[3] = w.w;
        } else {
            v[0] = __byte_perm(w.x, w.y, 0x5410), v[1] = __byte_perm(w.z, w.w, 0x5410);
            v[2] = __byte_perm(w.x, w.y, 0x7632), v[3] = __byte_perm(w.z, w.w, 0x7632);
        }
    }

    // 32 bits of four numbers as their digits.
    __device__ __forceinline__ static void split(uint32_t (&to)[DIGITS], const uint32_t *pair,
                                                 float by)
    {
        uint32_t n[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t p = pair[i / 2];
            const float f = __uint_as_float(i % 2 ? p & 0xffff0000u : p << 16);
            n[i] = ((uint32_t)__float2int_rn(f * by) + 0x808080u) ^ 0x808080u;
        }
        const uint32_t a = __byte_perm(n[0], n[1], 0x5140), b = __byte_perm(n[2], n[3], 0x5140);
        const uint32_t c = __byte_perm(n[0], n[1], 0x7362), d = __byte_perm(n[2], n[3], 0x7362);
        to[0] = __byte_perm(a, b, 0x5410);
        to[1] = __byte_perm(a, b, 0x7632);
        to[2] = __byte_perm(c, d, 0x5410);
        to[3] = __byte_perm(c, d, 0x7632);
    }

    // A quarter of the step's numbers of the lane's token, for prepare(); NULL: zeros.
    __device__ __forceinline__ void load(const uint16_t *row, int lane)
    {
        const int t = lane & 3, part = lane >> 2 & 3;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            raw[i] = make_uint4(0, 0, 0, 0);
            if (row)
                raw[i] = load_word(row, 2 * part + i, t);
        }
    }

    // scratch: eight times 256 bytes of the warp's own, `apart` bytes from one to the next.
    __device__ __forceinline__ void prepare(uint32_t scratch, int apart, int lane)
    {
        const int t = lane & 3;
        uint32_t v[2][4];
        in_order(v[0], raw[0]);
        in_order(v[1], raw[1]);
        const uint32_t most = largest_of<16>(
            pair_most(pair_most(pair_most(v[0][0], v[0][1]), pair_most(v[0][2], v[0][3])),
                      pair_most(pair_most(v[1][0], v[1][1]), pair_most(v[1][2], v[1][3]))));
        const int above = 156 - (int)(most >> 7), power = above < 126 ? above : 126;
        spread(v, power_of_two(power), scratch, apart, lane);
        const int own = __shfl_sync(~0u, most < 0x7f80 ? power : 1 << 10, (t >> 1) * 16);
        const float one = power_of_two(16 * (t & 1) - own);
        times = own == 1 << 10 ? make_float2(NAN, NAN) : make_float2(one, one * 256.0f);
        add_up(lane);
    }

    // Each lane splits a quarter of its token's numbers.
    __device__ __forceinline__ void spread(const uint32_t (&v)[2][4], float by, uint32_t scratch,
                                           int apart, int lane)
    {
        const int part = lane >> 2 & 3;
        uint32_t d[4][DIGITS]; // of low and high of both words
#pragma unroll
        for (int i = 0; i < 4; i++)
            split(d[i], v[i / 2] + i % 2 * 2, by);
        const uint32_t half = scratch + (lane >> 4) * apart + (lane & 3) * 16;
#pragma unroll
        for (int i = 0; i < DIGITS; i++)
            asm volatile(
                "st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(half + 2 * part * apart + i * 64),
                "r"(d[0][i]), "r"(d[1][i]), "r"(d[2][i]), "r"(d[3][i])
                : "memory");
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint4 w = read_16(scratch + (2 * i + (lane >> 4)) * apart + (lane & 15) * 16);
            x[2 * i][0] = w.x, x[2 * i][1] = w.y, x[2 * i + 1][0] = w.z, x[2 * i + 1][1] = w.w;
        }
        __syncwarp();
    }

    // Products with ones: row r has the sum of group r % N, or each group has its own.
    __device__ __forceinline__ void add_up(int lane)
    {
        const int g = lane >> 2, t = lane & 3;
        if constexpr (!PARTS) {
#pragma unroll
            for (int i = 0; i < N; i++) {
                int c[4] = {};
#pragma unroll
                for (int j = i * 4 / N; j < (i + 1) * 4 / N; j++)
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        mma_bytes(c, 0x01010101, 0x01010101, 0x01010101, 0x01010101, x[2 * j][h],
                                  x[2 * j + 1][h]);
                sums[2 * i] = FLOAT_BITS - 128 * c[0]; // codes are 8 too large
                sums[2 * i + 1] = FLOAT_BITS - 128 * c[1];
            }
        } else {
            int c[2][4] = {};
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const int group = N == 8 ? 2 * j + h : j * N / 4;
                    const uint32_t one = g % N == group ? 0x01010101 : 0;
                    mma_bytes(c[h], one, one, one, one, x[2 * j][h], x[2 * j + 1][h]);
                }
            const float low = (float)(c[0][0] + c[1][0]) * L::OFFSET_TIMES;
            const float high = (float)(c[0][1] + c[1][1]) * L::OFFSET_TIMES;
            uint32_t part[2];
            transposed_parts(part, low, high);
            // Where rows repeat, a lane has room for one part.
            sums[0] = (int)(t < N / 2 ? part[0] : t < N ? part[1] : 0);
            sums[1] = N == 8 ? (int)part[1] : 0;
        }
    }
};

} // namespace gqmm

#endif
