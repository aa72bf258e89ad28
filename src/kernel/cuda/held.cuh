// SPDX-License-Identifier: MIT
// Steps of 256 numbers along K whose activations a warp holds in registers, in the arithmetic of
// direct.cuh: nibbles as they lie, activations larger by a power of two.
#ifndef GQMM_KERNEL_CUDA_HELD_CUH
#define GQMM_KERNEL_CUDA_HELD_CUH

#include "kernel/cuda/direct_lanes.cuh"

namespace gqmm
{

constexpr int HELD = 256; // numbers of a step

// The larger magnitude of each half.
__device__ __forceinline__ uint32_t pair_most(uint32_t a, uint32_t b)
{
    uint32_t v;
    asm("{ .reg .b32 x, y; abs.bf16x2 x, %1; abs.bf16x2 y, %2; max.bf16x2 %0, x, y; }"
        : "=r"(v)
        : "r"(a), "r"(b));
    return v;
}

// Eight rows of eight halves transposed: lane 4 r + c has (r, 2 c) and (r, 2 c + 1).
__device__ __forceinline__ uint32_t transposed(uint32_t v)
{
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(v));
    return v;
}

// The lane's 64 numbers of column lane / 4, eight at a time, larger than they are by 2^power: the
// largest of the column is about 2^100, where products with nibbles neither overflow nor lose bits.
struct held_numbers {
    uint32_t x[8][4];
    int power;
    float post[2]; // what columns 2 t and 2 t + 1 of a result are to be multiplied by

    __device__ __forceinline__ void load(int i, const uint16_t *from)
    {
        const uint4 v = *(const uint4 *)from;
        x[i][0] = v.x;
        x[i][1] = v.y;
        x[i][2] = v.z;
        x[i][3] = v.w;
    }

    __device__ __forceinline__ void find_power(int t)
    {
        uint32_t top[8];
#pragma unroll
        for (int i = 0; i < 8; i++)
            top[i] = pair_most(pair_most(x[i][0], x[i][1]), pair_most(x[i][2], x[i][3]));
#pragma unroll
        for (int i = 0; i < 4; i++)
            top[i] = pair_most(top[i], top[i + 4]);
        uint32_t most = pair_most(pair_most(top[0], top[1]), pair_most(top[2], top[3]));
        most = most >> 16 > (most & 0xffff) ? most >> 16 : most & 0xffff;
#pragma unroll
        for (int d = 1; d < 4; d *= 2) {
            const uint32_t other = __shfl_xor_sync(~0u, most, d);
            most = other > most ? other : most;
        }
        const int above = USUALLY + 127 - (int)(most >> 7);
        power = above > 127 ? 127 : above < USUALLY - 127 ? USUALLY - 127 : above;
#pragma unroll
        for (int i = 0; i < 2; i++)
            post[i] = power_of_two(USUALLY - __shfl_sync(~0u, power, 8 * t + 4 * i));
    }
};

// held<L> for a layout of direct_lanes.cuh:
//   planes, bytes(plane) of a step and `stage` of 16 rows of one in shared memory; the loader
//   `rows` with set() and bring(); load() of the numbers of column lane / 4, then prepare();
//   multiply()
template <class L> struct held;

// ---------------------------------------------------------------- planes of nibbles

template <int G, bool OFFSET> struct held<lane_nibbles<G, OFFSET>> : held_numbers {
    typedef lane_nibbles<G, OFFSET> lanes;
    static constexpr int N = HELD / G, SCALES = lanes::SCALES, planes = 1 + SCALES;
    static constexpr int stage = lanes::stage_bytes, BEHIND = 16 * DIRECT_PITCH, PLANE = 16 * N * 2;
    float sums[N][2]; // of groups

    GQMM_HD static constexpr int bytes(int plane)
    {
        return plane == 0 ? HELD / 2 : N * 2;
    }

    // The lane's 16 bytes of rows lane / 8, 4 and 8 and 12 further, and of scales 4 bytes of row
    // lane % 16.
    struct rows {
        const uint8_t *from[planes];
        int64_t quarter;
        int to, scales_to;

        // Of the first 16 rows of expert 0.
        __device__ __forceinline__ void set(const gqmm_cuda_matrix &w, int lane)
        {
            quarter = 4 * w.row_stride[0];
            from[0] = w.plane[0] + lane / 8 * w.row_stride[0] + lane % 8 * 16;
            to = lane / 8 * DIRECT_PITCH + lane % 8 * 16;
            scales_to = BEHIND + lane % 16 * (N * 2) + lane / 16 * 4;
            keep(to);
            keep(scales_to);
            keep(from[0]);
#pragma unroll
            for (int i = 1; i < planes; i++) {
                from[i] = w.plane[i] + lane % 16 * w.row_stride[i] + lane / 16 * 4;
                keep(from[i]);
            }
        }
        // Rows `by` bytes of each plane further on.
        __device__ __forceinline__ void bring(uint8_t *stage, const int64_t (&by)[planes],
                                              int lane) const
        {
            const uint8_t *codes = from[0] + by[0];
            copy_16(stage + to, codes, 16);
            copy_16(stage + to + 4 * DIRECT_PITCH, codes + quarter, 16);
            codes += 2 * quarter;
            copy_16(stage + to + 8 * DIRECT_PITCH, codes, 16);
            copy_16(stage + to + 12 * DIRECT_PITCH, codes + quarter, 16);
            if (N == 4 || lane < 16)
#pragma unroll
                for (int i = 1; i < planes; i++)
                    copy_4(stage + scales_to + (i - 1) * PLANE, from[i] + by[i], 4);
        }
    };

    __device__ __forceinline__ void load(const uint16_t *row, int t)
    {
#pragma unroll
        for (int i = 0; i < 8; i++)
            held_numbers::load(i, row + i / 2 * 64 + t * 16 + i % 2 * 8);
    }

    __device__ __forceinline__ void prepare(int, int t)
    {
        find_power(t);
        const uint32_t by = pair_of_powers(power), by_16th = pair_of_powers(power - 4);
        const uint32_t one = both(0x3f80), sixteen = both(0x4180);
        float c[4][4] = {};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t w[4] = {x[i][0], x[i][1], x[i][2], x[i][3]};
#pragma unroll
            for (int h = 0; h < 2; h++) {
                x[i][2 * h] = pair_mul(__byte_perm(w[h], w[h + 2], 0x5410), by);
                x[i][2 * h + 1] = pair_mul(__byte_perm(w[h], w[h + 2], 0x7632), by_16th);
                mma(c[i / 2], one, one, sixteen, sixteen, x[i][2 * h], x[i][2 * h + 1]);
            }
        }
#pragma unroll
        for (int i = 0; i < N; i++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                sums[i][e] = power_of_two(-USUALLY) * (OFFSET ? 1.0f : -8.0f) *
                             (N == 4 ? c[i][e] : c[2 * i % 4][e] + c[(2 * i + 1) % 4][e]);
    }

    __device__ __forceinline__ void multiply(float (&acc)[4], const uint8_t *stage, int g,
                                             int t) const
    {
        const uint8_t *row = stage + g * DIRECT_PITCH + t * 8, *at = stage + BEHIND + g * (N * 2);
        uint32_t s[2][N / 2], o[2][N / 2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            lanes::load(s[h], at + h * (PLANE / 2));
            if (OFFSET)
                lanes::load(o[h], at + h * (PLANE / 2) + PLANE);
        }
        float c[4][4] = {}; // four chains of instructions, as warps are few
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint2 q0 = *(const uint2 *)(row + j * 32);
            const uint2 q1 = *(const uint2 *)(row + j * 32 + 8 * DIRECT_PITCH);
#pragma unroll
            for (int w = 0; w < 2; w++) {
                uint32_t a[4], b[4];
                const uint32_t(&v)[4] = x[2 * j + w];
                nibble_pairs(a, w ? q0.y : q0.x);
                nibble_pairs(b, w ? q1.y : q1.x);
                mma(c[j], a[0], b[0], a[1], b[1], v[0], v[1]);
                mma(c[j], a[2], b[2], a[3], b[3], v[2], v[3]);
            }
        }
#pragma unroll
        for (int i = 0; i < N; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float scale = lanes::number(s[e / 2][i / 2], i), sum = sums[i][e & 1];
                const float all = N == 4 ? c[i][e] : c[2 * i % 4][e] + c[(2 * i + 1) % 4][e];
                acc[e] = OFFSET ? fmaf(lanes::number(o[e / 2][i / 2], i), sum,
                                       fmaf(scale, all * UNIT, acc[e]))
                                : fmaf(scale, fmaf(all, UNIT, sum), acc[e]);
            }
    }
};

// ---------------------------------------------------------------- q4_k

template <> struct held<lane_q4_k> : held_numbers {
    static constexpr int planes = 1, stage = lane_q4_k::stage_bytes, PIECES = 9;
    uint32_t sums[3]; // of 32 numbers, blocks 2 t and 2 t + 1 of column lane / 4: bf16 parts

    GQMM_HD static constexpr int bytes(int)
    {
        return lane_q4_k::BLOCK;
    }

    struct rows {
        const uint8_t *from[5]; // pieces lane, 32 further and so on
        int to[5];

        __device__ __forceinline__ void set(const gqmm_cuda_matrix &w, int lane)
        {
#pragma unroll
            for (int i = 0; i < 5; i++) {
                const int c = lane + 32 * i, r = c / PIECES, at = c % PIECES * 16;
                from[i] = w.plane[0] + r * w.row_stride[0] + at;
                to[i] = r * DIRECT_PITCH + at;
                keep(from[i]);
                keep(to[i]);
            }
        }
        __device__ __forceinline__ void bring(uint8_t *stage, const int64_t (&by)[1],
                                              int lane) const
        {
#pragma unroll
            for (int i = 0; i < 5; i++)
                if (i < 4 || lane < 16)
                    copy_16(stage + to[i], from[i] + by[0], 16);
        }
    };

    // Of every 64 the first 32 meet low nibbles, the others high ones.
    __device__ __forceinline__ void load(const uint16_t *row, int t)
    {
#pragma unroll
        for (int i = 0; i < 8; i++)
            held_numbers::load(i, row + i * 32 + t * 8);
    }

    __device__ __forceinline__ void prepare(int g, int t)
    {
        find_power(t);
        float c[4][4] = {}; // row i: the sums of numbers 32 i and on
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t by = pair_of_powers(i % 2 ? power - 4 : power);
            const uint32_t one = g == i ? both(i % 2 ? 0x4180 : 0x3f80) : 0;
            const uint32_t w[4] = {x[i][0], x[i][1], x[i][2], x[i][3]};
#pragma unroll
            for (int h = 0; h < 2; h++) {
                x[i][2 * h] = pair_mul(__byte_perm(w[2 * h], w[2 * h + 1], 0x5410), by);
                x[i][2 * h + 1] = pair_mul(__byte_perm(w[2 * h], w[2 * h + 1], 0x7632), by);
                mma(c[i % 4], one, 0, one, 0, x[i][2 * h], x[i][2 * h + 1]);
            }
        }
        float low = (c[0][0] + c[1][0]) + (c[2][0] + c[3][0]);
        float high = (c[0][1] + c[1][1]) + (c[2][1] + c[3][1]);
#pragma unroll
        for (int i = 0; i < 3; i++) {
            const uint32_t part = next_part(low);
            sums[i] = transposed(part | next_part(high) << 16);
        }
    }

    __device__ __forceinline__ void multiply(float (&acc)[4], const uint8_t *stage, int g,
                                             int t) const
    {
        const uint8_t *row = stage + g * DIRECT_PITCH;
        const uint4 head[2] = {*(const uint4 *)row, *(const uint4 *)(row + 8 * DIRECT_PITCH)};
        uint32_t scale[2][2], minima[2];
        lane_q4_k::unpack(scale[0], minima[0], head[0], t);
        lane_q4_k::unpack(scale[1], minima[1], head[1], t);
        float all[4] = {}, least[4] = {};
        mma(least, minima[0], minima[1], minima[0], minima[1], sums[0], sums[1]);
        mma(least, minima[0], minima[1], 0, 0, sums[2], 0);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float low[4] = {}, high[4] = {};
            const uint32_t(&v)[4] = x[2 * j], (&u)[4] = x[2 * j + 1];
            const uint2 q0 = *(const uint2 *)(row + 16 + j * 32 + t * 8);
            const uint2 q1 = *(const uint2 *)(row + 16 + j * 32 + t * 8 + 8 * DIRECT_PITCH);
#pragma unroll
            for (int w = 0; w < 2; w++) {
                uint32_t a[4], b[4];
                nibble_pairs(a, w ? q0.y : q0.x);
                nibble_pairs(b, w ? q1.y : q1.x);
                mma(low, a[0], b[0], a[2], b[2], v[2 * w], v[2 * w + 1]);
                mma(high, a[1], b[1], a[3], b[3], u[2 * w], u[2 * w + 1]);
            }
#pragma unroll
            for (int e = 0; e < 4; e++) {
                all[e] = fmaf(lane_q4_k::byte_of(scale[e / 2], 2 * j), low[e], all[e]);
                all[e] = fmaf(lane_q4_k::byte_of(scale[e / 2], 2 * j + 1), high[e], all[e]);
            }
        }
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float2 d = __half22float2(*(const __half2 *)&head[e / 2].x);
            acc[e] = fmaf(UNIT, fmaf(d.x, all[e], -d.y * least[e]), acc[e]);
        }
    }
};

} // namespace gqmm

#endif
