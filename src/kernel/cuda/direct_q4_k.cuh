// SPDX-License-Identifier: MIT
// q4_k for direct.cuh: blocks of 256 weights, a step each.
#ifndef GQMM_KERNEL_CUDA_DIRECT_Q4_K_CUH
#define GQMM_KERNEL_CUDA_DIRECT_Q4_K_CUH

#include "kernel/cuda/direct_lanes.cuh"

namespace gqmm
{

struct lane_q4_k {
    static constexpr int N = 8, planes = 1, APART = 1, BLOCK = 144;
    static constexpr int stage_bytes = 16 * DIRECT_PITCH, pays_from = 200;
    static constexpr bool OFFSETS = true, PAIRS = true;
    static constexpr float OFFSET_TIMES = 0x1p104f; // minima are subnormal

    GQMM_HD static constexpr int bytes(int)
    {
        return BLOCK;
    }

    // Blocks of a row are 4.5 sectors of 32 bytes. Where two warps have two that begin with a whole
    // sector, the first brings five of them, with the head of the other's block at the end of its
    // rows, and the second four.
    enum part { WHOLE, FIRST, SECOND };
    static constexpr int HEAD = BLOCK; // of the second's block, in rows of the first

    // Pieces of 16 bytes of a row.
    __device__ __forceinline__ static int pieces(part is)
    {
        return BLOCK / 16 + (is == FIRST) - (is == SECOND);
    }

    __device__ __forceinline__ static int first_piece(part is)
    {
        return is == SECOND;
    }

    // Lanes bring three rows, the next three, and two, then the same of the last eight rows.
    struct places {
        int to[1];

        __device__ __forceinline__ explicit places(int lane, part is = WHOLE)
            : to{lane / pieces(is) * DIRECT_PITCH + (lane % pieces(is) + first_piece(is)) * 16}
        {
        }
    };

    struct rows {
        const uint8_t *from[1];
        int64_t three, half;
        part is = WHOLE;

        __device__ __forceinline__ void set(const gqmm_cuda_matrix &w, int64_t row,
                                            const int64_t (&second)[1], int lane)
        {
            const int n = pieces(is);
            three = 3 * w.row_stride[0];
            half = second[0];
            from[0] =
                w.plane[0] + (row + lane / n) * w.row_stride[0] + (lane % n + first_piece(is)) * 16;
        }
        __device__ __forceinline__ void move(const int64_t (&by)[1])
        {
            from[0] += by[0];
        }
        __device__ __forceinline__ void bring(uint32_t stage, const places &at, int lane) const
        {
            const uint32_t to = stage + at.to[0];
            const int n = pieces(is);
            if (lane >= 3 * n)
                return;
            copy_to<16>(to, from[0]);
            copy_to<16, 3 * DIRECT_PITCH>(to, from[0] + three);
            copy_to<16, 8 * DIRECT_PITCH>(to, from[0] + half);
            copy_to<16, 11 * DIRECT_PITCH>(to, from[0] + half + three);
            if (lane < 2 * n) {
                copy_to<16, 6 * DIRECT_PITCH>(to, from[0] + 2 * three);
                copy_to<16, 14 * DIRECT_PITCH>(to, from[0] + half + 2 * three);
            }
        }
    };

    static bool fits(const gqmm_cuda_matrix &)
    {
        return true;
    }

    // Eight numbers in pairs (0, 2) (1, 3) (4, 6) (5, 7); every other 32 meet high nibbles.
    __device__ __forceinline__ static void place(uint8_t *row, int e, const uint4 &v, uint32_t by,
                                                 uint32_t by_16th)
    {
        const uint32_t f = e & 4 ? by_16th : by;
        *(uint4 *)(row + e * 16) = make_uint4(
            pair_mul(__byte_perm(v.x, v.y, 0x5410), f), pair_mul(__byte_perm(v.x, v.y, 0x7632), f),
            pair_mul(__byte_perm(v.z, v.w, 0x5410), f), pair_mul(__byte_perm(v.z, v.w, 0x7632), f));
    }

    // Sums of 32 numbers as three bf16 parts, for a matrix instruction with the minima: of every
    // column [256 numbers][lane of the quad] three pairs and a gap.
    GQMM_HD static constexpr int sum_pitch(int64_t k)
    {
        return (int)(k / 256) * 64 + (k / 256 % 2 ? 0 : 64);
    }

    static int sum_bytes(const gqmm_cuda_product *p)
    {
        return DIRECT_COLUMNS * sum_pitch(p->k);
    }

    __device__ __forceinline__ static void keep_sum(uint8_t *sums, const gqmm_cuda_product &p,
                                                    int col, int e, float sum, int power)
    {
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (e % 4)
            return;
        const int b = e / 4 % 8;
        uint8_t *at = sums + col * sum_pitch(p.k) + e / 32 * 64 + b / 2 * 16 + b % 2 * 2;
        float v = sum * power_of_two(power);
#pragma unroll
        for (int i = 0; i < 3; i++) {
            const __nv_bfloat16 part = __float2bfloat16_rn(v);
            *(__nv_bfloat16 *)(at + i * 4) = part;
            v -= __bfloat162float(part);
        }
    }

    struct operand {
        const uint8_t *x, *sums;

        __device__ __forceinline__ operand(const uint8_t *x_, const uint8_t *all,
                                           const gqmm_cuda_product &p, int c, int step, int t)
            : x(x_), sums(all + c * sum_pitch(p.k) + step * 64 + t * 16)
        {
        }
        __device__ __forceinline__ uint4 eight(int i) const
        {
            return *(const uint4 *)(x + i * 64);
        }
        __device__ __forceinline__ uint4 parts() const
        {
            return *(const uint4 *)sums;
        }
    };

    // Of every 64 numbers the first 32 meet low nibbles, the others high ones.
    GQMM_HD static constexpr int first_of(int word, int t)
    {
        return word * 32 + t * 8;
    }

    GQMM_HD static constexpr bool high(int word, int)
    {
        return word % 2;
    }

    __device__ __forceinline__ static float factor()
    {
        return 1.0f;
    }

    // Scales of eight times 32 weights as bytes, and a lane's two minima as a pair.
    __device__ __forceinline__ static void unpack(uint32_t (&scale)[2], uint32_t &minima,
                                                  const uint4 &h, int t)
    {
        scale[0] = h.y & 0x3f3f3f3f;
        scale[1] = (h.w & 0x0f0f0f0f) | (h.y >> 2 & 0x30303030);
        const uint32_t low = h.z & 0x3f3f3f3f,
                       high = (h.w >> 4 & 0x0f0f0f0f) | (h.z >> 2 & 0x30303030);
        minima = __byte_perm(t & 2 ? high : low, 0, t & 1 ? 0x4342 : 0x4140);
    }

    __device__ __forceinline__ static float byte_of(const uint32_t (&from)[2], int i)
    {
        return (float)(from[i / 4] >> i % 4 * 8 & 0xff);
    }

    template <int, class X>
    __device__ __forceinline__ static void multiply(float (&acc)[4], const uint8_t *stage,
                                                    const X &x, int g, int t)
    {
        const uint8_t *row = stage + g * DIRECT_PITCH;
        const uint4 head[2] = {*(const uint4 *)row, *(const uint4 *)(row + 8 * DIRECT_PITCH)};
        uint32_t scale[2][2], minima[2];
        unpack(scale[0], minima[0], head[0], t);
        unpack(scale[1], minima[1], head[1], t);
        float all[4] = {}, least[4] = {};
        const uint4 s = x.parts();
        mma(least, minima[0], minima[1], minima[0], minima[1], s.x, s.y);
        mma(least, minima[0], minima[1], 0, 0, s.z, 0);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float low[4] = {}, high[4] = {};
            const uint4 v = x.eight(2 * j), u = x.eight(2 * j + 1);
            const uint2 q0 = *(const uint2 *)(row + 16 + j * 32 + t * 8);
            const uint2 q1 = *(const uint2 *)(row + 16 + j * 32 + t * 8 + 8 * DIRECT_PITCH);
            uint32_t a[4], b[4];
            nibble_pairs(a, q0.x);
            nibble_pairs(b, q1.x);
            mma(low, a[0], b[0], a[2], b[2], v.x, v.y);
            mma(high, a[1], b[1], a[3], b[3], u.x, u.y);
            nibble_pairs(a, q0.y);
            nibble_pairs(b, q1.y);
            mma(low, a[0], b[0], a[2], b[2], v.z, v.w);
            mma(high, a[1], b[1], a[3], b[3], u.z, u.w);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                all[e] = fmaf(byte_of(scale[e / 2], 2 * j), low[e], all[e]);
                all[e] = fmaf(byte_of(scale[e / 2], 2 * j + 1), high[e], all[e]);
            }
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float2 d = __half22float2(*(const __half2 *)&head[h].x);
#pragma unroll
            for (int i = 0; i < 2; i++)
                acc[2 * h + i] =
                    fmaf(UNIT, fmaf(d.x, all[2 * h + i], -d.y * least[2 * h + i]), acc[2 * h + i]);
        }
    }

    template <class X>
    __device__ __forceinline__ static void multiply_digits(float (&acc)[4], const uint8_t *stage,
                                                           const X &x, int g, int t, int heads)
    {
        const uint8_t *row = stage + g * DIRECT_PITCH, *from = row + heads;
        const uint4 head[2] = {*(const uint4 *)from, *(const uint4 *)(from + 8 * DIRECT_PITCH)};
        uint32_t scale[2][2], minima[2];
        unpack(scale[0], minima[0], head[0], t);
        unpack(scale[1], minima[1], head[1], t);
        float least[4] = {};
        int all[2][4] = {}; // of low nibbles, of high ones
        mma(least, minima[0], minima[1], minima[0], minima[1], x.sums[0], x.sums[1]);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int now[2][4] = {};
            const uint2 q0 = *(const uint2 *)(row + 16 + j * 32 + t * 8);
            const uint2 q1 = *(const uint2 *)(row + 16 + j * 32 + t * 8 + 8 * DIRECT_PITCH);
            mma_nibbles(now[0], now[1], q0, q1, x, j);
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    all[h][e] +=
                        (int)(scale[e / 2][j / 2] >> (2 * j + h) % 4 * 8 & 0xff) * now[h][e];
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float2 d = __half22float2(*(const __half2 *)&head[h].x);
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++)
                acc[i] = fmaf(d.x, (float)(all[1][i] + 16 * all[0][i]), -d.y * UNIT * least[i]);
        }
    }
};

} // namespace gqmm

#endif
