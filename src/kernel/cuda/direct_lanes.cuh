// SPDX-License-Identifier: MIT
// How a lane holds 256 weights of two rows for direct.cuh, a struct for each layout of bytes.
//
// In a matrix instruction a quad of lanes shares rows g and g + 8 of a row tile, and its contracted
// numbers must share a scale: lane t holds 16 numbers in every 64 along K.
#ifndef GQMM_KERNEL_CUDA_DIRECT_LANES_CUH
#define GQMM_KERNEL_CUDA_DIRECT_LANES_CUH

#include "kernel/cuda/direct_x.cuh"

namespace gqmm
{

constexpr float UNIT = 8589934592.0f; // 2^33: a code of 1 times an activation of 1

// For direct_digits.cuh, whose sums of codes count 16: plus an integer, the float that much larger
// than FLOAT_ZERO.
constexpr int FLOAT_BITS = 0x4b400000;
constexpr float FLOAT_ZERO = 12582912.0f;

// 64 numbers of 16 rows: low nibbles, and high ones, which count sixteenfold.
template <class X>
__device__ __forceinline__ void mma_nibbles(int (&low)[4], int (&high)[4], uint2 q0, uint2 q1,
                                            const X &x, int j)
{
    const uint32_t l = 0x0f0f0f0f, h = 0xf0f0f0f0;
    mma_bytes(low, q0.x & l, q1.x & l, q0.y & l, q1.y & l, x.x[2 * j][0], x.x[2 * j + 1][0]);
    mma_bytes(high, q0.x & h, q1.x & h, q0.y & h, q1.y & h, x.x[2 * j][1], x.x[2 * j + 1][1]);
}

// Nibbles of a word as pairs: pair[0] as they are, pair[1] sixteenfold, then of the bytes above.
__device__ __forceinline__ void nibble_pairs(uint32_t (&pair)[4], uint32_t w)
{
    pair[0] = w & 0x000f000f;
    pair[1] = w & 0x00f000f0;
    w >>= 8;
    pair[2] = w & 0x000f000f;
    pair[3] = w & 0x00f000f0;
}

// 16 rows of a step lie in shared memory this far apart: lanes of a quad read 32 bytes of one row,
// and four rows meet all banks.
constexpr int DIRECT_PITCH = 160;

// From global memory to `further` bytes behind `to` in shared memory.
template <int bytes, int further = 0>
__device__ __forceinline__ void copy_to(uint32_t to, const uint8_t *from)
{
    if (bytes == 16)
        asm volatile("cp.async.cg.shared.global [%0 + %2], [%1], 16;" ::"r"(to), "l"(from),
                     "n"(further)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0 + %2], [%1], 4;" ::"r"(to), "l"(from),
                     "n"(further)
                     : "memory");
}

// What a layout has:
//   N groups of a step, planes and bytes(plane) of a step, stage_bytes of 16 rows of one in shared
//   memory, pays_from: steps of a multiprocessor, measured beside product.cuh
//   places and rows: where in shared memory the lane brings what; rows are set() to the first 16 of
//   expert 0, of which the last eight are `second` bytes behind the first, then move() and bring()
//   first_of(word, t): the first of the eight numbers that meet a word of nibbles of lane t; APART:
//   those of a pair are this many pairs apart; high(word, half): they meet nibbles in bits 4 to 7
//   factor(): what sums of numbers, which are 2^USUALLY larger, are to be multiplied by
//   multiply(): the product of 16 rows and the columns. Its operand x has eight(word), the lane's
//   numbers of column lane / 4, and sums of groups: sum(group) of columns 2 t and 2 t + 1 or, where
//   it has PARTS, those of a matrix instruction's right operand.
//   multiply_digits(): the same with digits; OFFSETS: it wants their sums, OFFSET_TIMES as large
//   PAIRS: two warps with neighbouring steps may bring them together. Then rows and places have a
//   `part`, and multiply_digits() reads the heads of blocks so many bytes behind their place

// Groups of 64 or 128 with scales of 16 bits; OFFSET: affine, else symmetric about 8.
template <int G, bool OFFSET> struct lane_nibbles {
    static constexpr int N = 256 / G, SCALES = OFFSET ? 2 : 1, planes = 1 + SCALES, APART = 2;
    static constexpr int BEHIND = 16 * DIRECT_PITCH, PLANE = 16 * N * 2; // of scales
    static constexpr float TIMES = OFFSET ? 1.0f : -8.0f;                // sums of numbers
    static constexpr int stage_bytes = BEHIND + SCALES * PLANE, pays_from = 80;
    static constexpr bool OFFSETS = OFFSET, PAIRS = false;
    static constexpr float OFFSET_TIMES = 16.0f;

    GQMM_HD static constexpr int bytes(int plane)
    {
        return plane == 0 ? 128 : N * 2;
    }

    // Of codes 16 bytes of rows lane / 8, 4 and 8 and 12 further, of scales 4 bytes of row lane %
    // 16.
    struct places {
        int to[2];

        __device__ __forceinline__ explicit places(int lane)
            : to{lane / 8 * DIRECT_PITCH + lane % 8 * 16, lane % 16 * (N * 2) + lane / 16 * 4}
        {
        }
    };

    struct rows {
        const uint8_t *from[planes];
        int64_t quarter, half;

        __device__ __forceinline__ void set(const gqmm_cuda_matrix &w, int64_t row,
                                            const int64_t (&second)[planes], int lane)
        {
            quarter = 4 * w.row_stride[0];
            half = second[0];
            from[0] = w.plane[0] + (row + lane / 8) * w.row_stride[0] + lane % 8 * 16;
#pragma unroll
            for (int i = 1; i < planes; i++)
                from[i] = w.plane[i] + (row + lane % 8) * w.row_stride[i] +
                          (lane & 8 ? second[i] : 0) + lane / 16 * 4;
        }
        __device__ __forceinline__ void move(const int64_t (&by)[planes])
        {
#pragma unroll
            for (int i = 0; i < planes; i++)
                from[i] += by[i];
        }
        __device__ __forceinline__ void bring(uint32_t stage, const places &at, int lane) const
        {
            uint32_t to = stage + at.to[0];
            copy_to<16>(to, from[0]);
            copy_to<16, 4 * DIRECT_PITCH>(to, from[0] + quarter);
            copy_to<16, 8 * DIRECT_PITCH>(to, from[0] + half);
            copy_to<16, 12 * DIRECT_PITCH>(to, from[0] + half + quarter);
            to = stage + at.to[1];
            if (N == 4 || lane < 16) {
                copy_to<4, BEHIND>(to, from[1]);
                if (OFFSET)
                    copy_to<4, BEHIND + PLANE>(to, from[planes - 1]);
            }
        }
    };

    static bool fits(const gqmm_cuda_matrix &w)
    {
        return w.group == G && (!OFFSET || w.scale_type == GQMM_BF16);
    }

    // Eight numbers (the e-th of a row) in pairs (0, 4) (1, 5) (2, 6) (3, 7), to where lane e / 2 %
    // 4 reads 16 bytes for its word e % 2.
    __device__ __forceinline__ static void place(uint8_t *row, int e, const uint4 &v, uint32_t by,
                                                 uint32_t by_16th)
    {
        const int at = (e & ~7) | (e & 1) * 4 | (e >> 1 & 3);
        *(uint4 *)(row + at * 16) = make_uint4(pair_mul(__byte_perm(v.x, v.z, 0x5410), by),
                                               pair_mul(__byte_perm(v.x, v.z, 0x7632), by_16th),
                                               pair_mul(__byte_perm(v.y, v.w, 0x5410), by),
                                               pair_mul(__byte_perm(v.y, v.w, 0x7632), by_16th));
    }

    // Sums of groups TIMES, [group][column].
    static int sum_bytes(const gqmm_cuda_product *p)
    {
        return (int)(p->k / G) * DIRECT_COLUMNS * (int)sizeof(float);
    }

    __device__ __forceinline__ static void keep_sum(uint8_t *sums, const gqmm_cuda_product &,
                                                    int col, int e, float sum, int power)
    {
#pragma unroll
        for (int d = 1; d < G / 8; d *= 2)
            sum += __shfl_xor_sync(~0u, sum, d);
        if (e % (G / 8) == 0)
            ((float *)sums)[e / (G / 8) * DIRECT_COLUMNS + col] =
                sum * TIMES * (power == USUALLY ? 1.0f : power_of_two(power - USUALLY));
    }

    // What direct.cuh has of them in shared memory: eight numbers 64 bytes behind eight, and sums
    // of a step.
    struct operand {
        static constexpr bool PARTS = false;
        const uint8_t *x, *sums;

        __device__ __forceinline__ operand(const uint8_t *x_, const uint8_t *all,
                                           const gqmm_cuda_product &, int, int step, int t)
            : x(x_), sums(all + step * (N * DIRECT_COLUMNS * (int)sizeof(float)) + t * 8)
        {
        }
        __device__ __forceinline__ uint4 eight(int i) const
        {
            return *(const uint4 *)(x + i * 64);
        }
        __device__ __forceinline__ float2 sum(int i) const
        {
            return *(const float2 *)(sums + i * (DIRECT_COLUMNS * (int)sizeof(float)));
        }
    };

    GQMM_HD static constexpr int first_of(int word, int t)
    {
        return word / 2 * 64 + t * 16 + word % 2 * 8;
    }

    GQMM_HD static constexpr bool high(int, int half)
    {
        return half;
    }

    __device__ __forceinline__ static float factor()
    {
        return power_of_two(-USUALLY) * TIMES;
    }

    __device__ __forceinline__ static float number(uint32_t pair, int i)
    {
        return __uint_as_float(i & 1 ? pair & 0xffff0000u : pair << 16);
    }

    __device__ __forceinline__ static void load(uint32_t (&to)[N / 2], const uint8_t *from)
    {
        if (N == 4) {
            const uint2 v = *(const uint2 *)from;
            to[0] = v.x;
            to[N / 2 - 1] = v.y;
        } else {
            to[0] = *(const uint32_t *)from;
        }
    }

    // CHAINS of matrix instructions, 1 or 4: where warps are few they would wait for one another.
    template <int CHAINS, class X>
    __device__ __forceinline__ static void multiply(float (&acc)[4], const uint8_t *stage,
                                                    const X &x, int g, int t)
    {
        const uint8_t *row = stage + g * DIRECT_PITCH + t * 8, *at = stage + BEHIND + g * (N * 2);
        uint32_t s[2][N / 2], o[2][N / 2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            load(s[h], at + h * (PLANE / 2));
            if (OFFSET || X::PARTS)
                load(o[h], at + h * (PLANE / 2) + (OFFSET ? PLANE : 0));
        }
        if constexpr (X::PARTS) {
            const uint32_t lo = N == 4 && t & 1 ? o[0][N / 2 - 1] : o[0][0];
            const uint32_t hi = N == 4 && t & 1 ? o[1][N / 2 - 1] : o[1][0];
            mma(acc, lo, hi, N == 4 ? lo : 0, N == 4 ? hi : 0, x.sums[0],
                N == 4 ? x.sums[N / 2 - 1] : 0);
        }
        float c[CHAINS][4] = {};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float(&now)[4] = c[j % CHAINS], (&last)[4] = c[(j + 3) % 4 % CHAINS];
            const uint2 q0 = *(const uint2 *)(row + j * 32);
            const uint2 q1 = *(const uint2 *)(row + j * 32 + 8 * DIRECT_PITCH);
#pragma unroll
            for (int w = 0; w < 2; w++) {
                uint32_t a[4], b[4];
                const uint4 v = x.eight(2 * j + w);
                nibble_pairs(a, w ? q0.y : q0.x);
                nibble_pairs(b, w ? q1.y : q1.x);
                mma(now, a[0], b[0], a[1], b[1], v.x, v.y);
                mma(now, a[2], b[2], a[3], b[3], v.z, v.w);
            }
            if (G == 128 && j % 2 == 0)
                continue;
            const int i = j / (G / 64);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float scale = number(s[e / 2][i / 2], i);
                const float all = G == 128 && CHAINS > 1 ? last[e] + now[e] : now[e];
                if constexpr (X::PARTS) {
                    acc[e] = fmaf(UNIT * scale, all, acc[e]);
                } else {
                    const float sum = e & 1 ? x.sum(i).y : x.sum(i).x;
                    acc[e] = OFFSET ? fmaf(number(o[e / 2][i / 2], i), sum,
                                           fmaf(scale, all * UNIT, acc[e]))
                                    : fmaf(scale, fmaf(all, UNIT, sum), acc[e]);
                }
                now[e] = 0.0f;
            }
        }
    }

    // The same for digits, see direct_digits.cuh.
    template <class X>
    __device__ __forceinline__ static void multiply_digits(float (&acc)[4], const uint8_t *stage,
                                                           const X &x, int g, int t, int)
    {
        const uint8_t *row = stage + g * DIRECT_PITCH + t * 8, *at = stage + BEHIND + g * (N * 2);
        uint32_t s[2][N / 2], o[2][N / 2];
        int low[4], high[4];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            load(s[h], at + h * (PLANE / 2));
            if (OFFSET)
                load(o[h], at + h * (PLANE / 2) + PLANE);
        }
        if constexpr (OFFSET)
            mma(acc, N == 4 && t & 1 ? o[0][N / 2 - 1] : o[0][0],
                N == 4 && t & 1 ? o[1][N / 2 - 1] : o[1][0], 0, 0, x.sums[0], 0);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int i = j / (G / 64);
            const uint2 q0 = *(const uint2 *)(row + j * 32);
            const uint2 q1 = *(const uint2 *)(row + j * 32 + 8 * DIRECT_PITCH);
            if (G == 64 || j % 2 == 0)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    low[e] = 0;
                    high[e] = OFFSET ? FLOAT_BITS : x.sums[OFFSET ? 0 : 2 * i + e % 2];
                }
            mma_nibbles(low, high, q0, q1, x, j);
            if (G == 128 && j % 2 == 0)
                continue;
#pragma unroll
            for (int e = 0; e < 4; e++)
                acc[e] = fmaf(number(s[e / 2][i / 2], i),
                              __int_as_float(high[e] + 16 * low[e]) - FLOAT_ZERO, acc[e]);
        }
    }
};

} // namespace gqmm

#endif
