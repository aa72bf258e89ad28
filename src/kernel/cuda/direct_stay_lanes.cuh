// SPDX-License-Identifier: MIT
// Activations and products of direct_stay.cuh: 256 numbers along K of eight columns in registers,
// in the order in which nibbles come out of their bytes, larger by a power of two.
#ifndef GQMM_KERNEL_CUDA_DIRECT_STAY_LANES_CUH
#define GQMM_KERNEL_CUDA_DIRECT_STAY_LANES_CUH

#include "kernel/cuda/direct_lanes.cuh"

namespace gqmm
{

// Three parts of two numbers, which they add up to, as pairs of bf16.
__device__ __forceinline__ void three_parts(uint32_t (&part)[3], float lo, float hi)
{
#pragma unroll
    for (int i = 0; i < 3; i++) {
        const __nv_bfloat162 two = __floats2bfloat162_rn(lo, hi);
        part[i] = *(const uint32_t *)&two;
        lo -= __low2float(two);
        hi -= __high2float(two);
    }
}

// From global memory to `further` bytes behind `to` in shared memory.
template <int bytes, int further>
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

template <int G, bool OFFSET> struct stay_nibbles : lane_nibbles<G, OFFSET> {
    typedef lane_nibbles<G, OFFSET> base;
    static constexpr int N = base::N, SUMS = N / 2;

    // The same copies with one address and what lies how far behind it.
    struct rows : base::rows {
        __device__ __forceinline__ void bring(uint32_t stage, int lane) const
        {
            uint32_t to = stage + lane / 8 * DIRECT_PITCH + lane % 8 * 16;
            copy_to<16, 0>(to, this->codes);
            copy_to<16, 4 * DIRECT_PITCH>(to, this->codes + this->quarter);
            copy_to<16, 8 * DIRECT_PITCH>(to, this->codes + this->second);
            copy_to<16, 12 * DIRECT_PITCH>(to, this->codes + this->second + this->quarter);
            to = stage + 16 * DIRECT_PITCH + lane % 16 * (N * 2) + lane / 16 * 4;
            if (N == 4 || lane < 16) {
                copy_to<4, 0>(to, this->scales[0]);
                if (OFFSET)
                    copy_to<4, 16 * N * 2>(to, this->scales[base::SCALES - 1]);
            }
        }
    };

    // The right operands of the matrix instructions: lane (g, t) has 64 numbers of column g.
    struct operand {
        uint32_t v[32];
        uint32_t sums[SUMS]; // of groups, pairs of bf16 parts

        // The lane's numbers of a step of K, of no row zeros.
        __device__ __forceinline__ void load(const uint16_t *row, int step, int t)
        {
            const bool whole = ((uintptr_t)row & 15) == 0;
#pragma unroll
            for (int i = 0; i < 8; i++) { // for each word of codes
                bf16_eight e = {make_uint4(0, 0, 0, 0)};
                const uint16_t *from = row + step * 256 + i / 2 * 64 + t * 16 + i % 2 * 8;
                if (row && whole)
                    e.v = *(const uint4 *)from;
                else if (row)
                    e.load(from, 0, 8, GQMM_BF16);
                v[4 * i] = e.v.x;
                v[4 * i + 1] = e.v.y;
                v[4 * i + 2] = e.v.z;
                v[4 * i + 3] = e.v.w;
            }
        }

        // Makes operands of them; returns the power of two by which column g is larger. Eight
        // numbers meet a word's nibbles in pairs (0, 4) (1, 5) (2, 6) (3, 7).
        __device__ __forceinline__ int settle(int t)
        {
            float sum[8];
            uint32_t top = 0;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const bf16_eight e = {
                    make_uint4(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3])};
                const uint32_t largest_of = largest(e.v);
                sum[i] = e.sum();
                top = largest_of > top ? largest_of : top;
            }
#pragma unroll
            for (int d = 1; d < 4; d *= 2) {
                const uint32_t other = __shfl_xor_sync(~0u, top, d);
                top = other > top ? other : top;
            }
            const int power = top ? direct_power(sizes_of(top), 0) : USUALLY;
            const uint32_t by = pair_of_powers(power), by_16th = pair_of_powers(power - 4);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                uint32_t *w = v + 4 * i;
                const uint4 e = make_uint4(w[0], w[1], w[2], w[3]);
                w[0] = pair_mul(__byte_perm(e.x, e.z, 0x5410), by);
                w[1] = pair_mul(__byte_perm(e.x, e.z, 0x7632), by_16th);
                w[2] = pair_mul(__byte_perm(e.y, e.w, 0x5410), by);
                w[3] = pair_mul(__byte_perm(e.y, e.w, 0x7632), by_16th);
            }
            keep_sums(sum, power, t);
            return power;
        }

        // Three parts of the sums of groups, which meet the offsets (symmetric: -8 times the
        // scales) in one matrix instruction: lane t has part t of two groups, or of four groups
        // part t / 2 of the pair t % 2, and lanes 0 and 1 the third part as well.
        __device__ __forceinline__ void keep_sums(const float (&sum)[8], int power, int t)
        {
            constexpr int EACH = 8 / N;
            float all[N];
#pragma unroll
            for (int i = 0; i < N; i++) {
                all[i] = sum[i * EACH];
#pragma unroll
                for (int j = 1; j < EACH; j++)
                    all[i] += sum[i * EACH + j];
                all[i] += __shfl_xor_sync(~0u, all[i], 1);
                all[i] += __shfl_xor_sync(~0u, all[i], 2);
                all[i] *= power_of_two(power - USUALLY) * (OFFSET ? 1.0f : -8.0f);
            }
            uint32_t part[3];
            const bool later = N == 4 && t & 1;
            three_parts(part, later ? all[N - 2] : all[0], later ? all[N - 1] : all[1]);
            if (N == 4) {
                sums[0] = t < 2 ? part[0] : part[1];
                sums[SUMS - 1] = t < 2 ? part[2] : 0;
            } else {
                sums[0] = t == 0 ? part[0] : t == 1 ? part[1] : t == 2 ? part[2] : 0;
            }
        }
    };

    // The product of 16 rows and the columns.
    __device__ __forceinline__ static void multiply(float (&acc)[4], const uint8_t *stage,
                                                    const operand &x, int g, int t)
    {
        const uint8_t *row = stage + g * DIRECT_PITCH + t * 8;
        const uint8_t *scales = stage + 16 * DIRECT_PITCH + g * (N * 2);
        uint32_t s[2][N / 2], o[2][N / 2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            base::load(s[h], scales + h * (8 * N * 2));
            base::load(o[h], scales + h * (8 * N * 2) + (OFFSET ? 16 * N * 2 : 0));
        }
        const uint32_t lo = N == 4 && t & 1 ? o[0][N / 2 - 1] : o[0][0];
        const uint32_t hi = N == 4 && t & 1 ? o[1][N / 2 - 1] : o[1][0];
#pragma unroll
        for (int e = 0; e < 4; e++)
            acc[e] = 0.0f;
        if (N == 4)
            mma(acc, lo, hi, lo, hi, x.sums[0], x.sums[SUMS - 1]);
        else
            mma(acc, lo, hi, 0, 0, x.sums[0], 0);
        float part[4] = {};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint2 q0 = *(const uint2 *)(row + j * 32);
            const uint2 q1 = *(const uint2 *)(row + j * 32 + 8 * DIRECT_PITCH);
#pragma unroll
            for (int w = 0; w < 2; w++) {
                uint32_t a[4], b[4];
                const uint32_t *v = x.v + (j * 2 + w) * 4;
                nibble_pairs(a, w ? q0.y : q0.x);
                nibble_pairs(b, w ? q1.y : q1.x);
                mma(part, a[0], b[0], a[1], b[1], v[0], v[1]);
                mma(part, a[2], b[2], a[3], b[3], v[2], v[3]);
            }
            if (G == 128 && j % 2 == 0)
                continue;
            const int i = j / (G / 64);
            const float scale[2] = {UNIT * base::number(s[0][i / 2], i),
                                    UNIT * base::number(s[1][i / 2], i)};
#pragma unroll
            for (int e = 0; e < 4; e++) {
                acc[e] = fmaf(scale[e / 2], part[e], acc[e]);
                part[e] = 0.0f;
            }
        }
    }
};

} // namespace gqmm

#endif
