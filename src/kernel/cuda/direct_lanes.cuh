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

// The distance from row r of w to row r of up, or to row r + 8 of w.
__device__ __forceinline__ int64_t second_rows(const gqmm_cuda_product &p, int plane, int expert)
{
    return p.up.plane[0] ? p.up.plane[plane] - p.w.plane[plane] +
                               expert * (p.up.expert_stride[plane] - p.w.expert_stride[plane])
                         : 8 * p.w.row_stride[plane];
}

// ---------------------------------------------------------------- planes of nibbles

// Groups of 64 or 128 with scales of 16 bits; OFFSET: affine, else symmetric about 8.
template <int G, bool OFFSET> struct lane_nibbles {
    static constexpr int N = 256 / G, SCALES = OFFSET ? 2 : 1; // groups; planes of 16 bits
    static constexpr int stage_bytes = 16 * (DIRECT_PITCH + SCALES * N * 2);
    static constexpr int pays_from = 80; // steps of a multiprocessor, measured beside product.cuh

    // What the lane brings to shared memory: of codes 16 bytes of rows lane / 8, 4 and 8 and 12
    // further, of scales 4 bytes of row lane % 16.
    struct rows {
        const uint8_t *codes, *scales[SCALES];
        int64_t quarter, second, tile[1 + SCALES]; // to the next row tile's first step
        int step;                                  // steps of 256 to the next one

        // From step `first` of `row` on, every `every`-th of `steps`, then `n_rows` further.
        __device__ __forceinline__ void set(const gqmm_cuda_product &p, int expert, int64_t row,
                                            int n_rows, int first, int every, int steps, int lane)
        {
            quarter = 4 * p.w.row_stride[0];
            second = second_rows(p, 0, expert);
            codes = p.w.plane[0] + expert * p.w.expert_stride[0] +
                    (row + lane / 8) * p.w.row_stride[0] + lane % 8 * 16 + first * 128;
            step = every;
            tile[0] = n_rows * p.w.row_stride[0] - (steps - 1) * every * 128;
#pragma unroll
            for (int i = 0; i < SCALES; i++) {
                scales[i] = p.w.plane[1 + i] + expert * p.w.expert_stride[1 + i] +
                            (row + lane % 8) * p.w.row_stride[1 + i] +
                            (lane & 8 ? second_rows(p, 1 + i, expert) : 0) + lane / 16 * 4 +
                            first * (N * 2);
                tile[1 + i] = n_rows * p.w.row_stride[1 + i] - (steps - 1) * every * (N * 2);
            }
        }
        __device__ __forceinline__ void next_step()
        {
            codes += step * 128;
#pragma unroll
            for (int i = 0; i < SCALES; i++)
                scales[i] += step * (N * 2);
        }
        __device__ __forceinline__ void next_tile()
        {
            codes += tile[0];
#pragma unroll
            for (int i = 0; i < SCALES; i++)
                scales[i] += tile[1 + i];
        }
        __device__ __forceinline__ void bring(uint8_t *stage, int lane) const
        {
            uint8_t *to = stage + lane / 8 * DIRECT_PITCH + lane % 8 * 16;
            copy_16(to, codes, 16);
            copy_16(to + 4 * DIRECT_PITCH, codes + quarter, 16);
            copy_16(to + 8 * DIRECT_PITCH, codes + second, 16);
            copy_16(to + 12 * DIRECT_PITCH, codes + second + quarter, 16);
            to = stage + 16 * DIRECT_PITCH + lane % 16 * (N * 2) + lane / 16 * 4;
#pragma unroll
            for (int i = 0; i < SCALES; i++)
                if (N == 4 || lane < 16)
                    copy_4(to + i * (16 * N * 2), scales[i], 4);
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

    // Sums of groups, [group][column].
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
                sum * (power == USUALLY ? 1.0f : power_of_two(power - USUALLY));
    }

    // Those of the lane's two columns.
    __device__ __forceinline__ static const uint8_t *sums_of(const uint8_t *sums,
                                                             const gqmm_cuda_product &, int, int t)
    {
        return sums + t * 8;
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

    __device__ __forceinline__ static void multiply(float (&acc)[4], const uint8_t *stage,
                                                    const uint8_t *x, const uint8_t *sums, int step,
                                                    int g, int t)
    {
        const uint8_t *row = stage + g * DIRECT_PITCH + t * 8;
        const uint8_t *scales = stage + 16 * DIRECT_PITCH + g * (N * 2);
        uint32_t s[2][N / 2], o[2][N / 2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            load(s[h], scales + h * (8 * N * 2));
            if (OFFSET)
                load(o[h], scales + h * (8 * N * 2) + 16 * N * 2);
        }
        float c[4] = {};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint2 q0 = *(const uint2 *)(row + j * 32);
            const uint2 q1 = *(const uint2 *)(row + j * 32 + 8 * DIRECT_PITCH);
#pragma unroll
            for (int w = 0; w < 2; w++) {
                uint32_t a[4], b[4];
                const uint4 v = *(const uint4 *)(x + j * 128 + w * 64);
                nibble_pairs(a, w ? q0.y : q0.x);
                nibble_pairs(b, w ? q1.y : q1.x);
                mma(c, a[0], b[0], a[1], b[1], v.x, v.y);
                mma(c, a[2], b[2], a[3], b[3], v.z, v.w);
            }
            if (G == 128 && j % 2 == 0)
                continue;
            const int i = j / (G / 64);
            const float2 sum =
                *(const float2 *)(sums + (step * N + i) * (DIRECT_COLUMNS * (int)sizeof(float)));
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float scale = number(s[e / 2][i / 2], i), v = e & 1 ? sum.y : sum.x;
                if (OFFSET)
                    acc[e] = fmaf(number(o[e / 2][i / 2], i), v, fmaf(scale, c[e] * UNIT, acc[e]));
                else
                    acc[e] = fmaf(scale, fmaf(c[e], UNIT, -8.0f * v), acc[e]);
                c[e] = 0.0f;
            }
        }
    }
};

// ---------------------------------------------------------------- q4_k

struct lane_q4_k {
    static constexpr int stage_bytes = 16 * DIRECT_PITCH, BLOCK = 144, pays_from = 200;

    // Pieces of 16 bytes, nine to a row: lane, 32 further and so on.
    struct rows {
        const uint8_t *from[5];
        int64_t tile;
        int step;

        __device__ __forceinline__ void set(const gqmm_cuda_product &p, int expert, int64_t row,
                                            int n_rows, int first, int every, int steps, int lane)
        {
            const int64_t second = second_rows(p, 0, expert);
            step = every * BLOCK;
            tile = n_rows * p.w.row_stride[0] - (steps - 1) * step;
#pragma unroll
            for (int i = 0; i < 5; i++) {
                const int c = lane + 32 * i, r = c / 9;
                from[i] = p.w.plane[0] + expert * p.w.expert_stride[0] +
                          (row + r % 8) * p.w.row_stride[0] + (r & 8 ? second : 0) + c % 9 * 16 +
                          first * BLOCK;
            }
        }
        __device__ __forceinline__ void next_step()
        {
#pragma unroll
            for (int i = 0; i < 5; i++)
                from[i] += step;
        }
        __device__ __forceinline__ void next_tile()
        {
#pragma unroll
            for (int i = 0; i < 5; i++)
                from[i] += tile;
        }
        __device__ __forceinline__ void bring(uint8_t *stage, int lane) const
        {
#pragma unroll
            for (int i = 0; i < 5; i++) {
                const int c = lane + 32 * i;
                if (i < 4 || lane < 16)
                    copy_16(stage + c / 9 * DIRECT_PITCH + c % 9 * 16, from[i], 16);
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

    __device__ __forceinline__ static const uint8_t *
    sums_of(const uint8_t *sums, const gqmm_cuda_product &p, int c, int t)
    {
        return sums + c * sum_pitch(p.k) + t * 16;
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

    __device__ __forceinline__ static void multiply(float (&acc)[4], const uint8_t *stage,
                                                    const uint8_t *x, const uint8_t *sums, int step,
                                                    int g, int t)
    {
        const uint8_t *row = stage + g * DIRECT_PITCH;
        const uint4 head[2] = {*(const uint4 *)row, *(const uint4 *)(row + 8 * DIRECT_PITCH)};
        uint32_t scale[2][2], minima[2];
        unpack(scale[0], minima[0], head[0], t);
        unpack(scale[1], minima[1], head[1], t);
        float all[4] = {}, least[4] = {};
        const uint4 s = *(const uint4 *)(sums + step * 64);
        mma(least, minima[0], minima[1], minima[0], minima[1], s.x, s.y);
        mma(least, minima[0], minima[1], 0, 0, s.z, 0);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float low[4] = {}, high[4] = {};
            const uint4 v = *(const uint4 *)(x + j * 128), u = *(const uint4 *)(x + j * 128 + 64);
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
};

} // namespace gqmm

#endif
