// SPDX-License-Identifier: MIT
// Steps of 256 numbers along K whose activations a warp holds in registers, for small.cuh and
// direct_stay.cuh, in the arithmetic of direct.cuh.
#ifndef GQMM_KERNEL_CUDA_HELD_CUH
#define GQMM_KERNEL_CUDA_HELD_CUH

#include "kernel/cuda/direct_lanes.cuh"

namespace gqmm
{

constexpr int HELD = 256; // numbers of a step

// The larger magnitude of each half, perhaps with a sign.
__device__ __forceinline__ uint32_t pair_most(uint32_t a, uint32_t b)
{
    uint32_t v;
#if __CUDA_ARCH__ >= 860
    asm("max.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(v) : "r"(a), "r"(b));
#else
    asm("{ .reg .b32 x, y; abs.bf16x2 x, %1; abs.bf16x2 y, %2; max.bf16x2 %0, x, y; }"
        : "=r"(v)
        : "r"(a), "r"(b));
#endif
    return v;
}

// The largest size, as a bf16 number's bits, among the pairs of `LANES` neighbouring lanes.
template <int LANES> __device__ __forceinline__ uint32_t largest_of(uint32_t pair)
{
    pair &= 0x7fff7fff;
    uint32_t most = pair >> 16 > (pair & 0xffff) ? pair >> 16 : pair & 0xffff;
#pragma unroll
    for (int d = 1; d < LANES; d *= 2) {
        const uint32_t other = __shfl_xor_sync(~0u, most, d);
        most = other > most ? other : most;
    }
    return most;
}

// Lanes of a quad swap what they hold for each other: those without `bit` the second for the first
// of those with it.
__device__ __forceinline__ void exchange(uint32_t &first, uint32_t &second, int t, int bit)
{
    const bool upper = t & bit;
    const uint32_t got = __shfl_xor_sync(~0u, upper ? first : second, bit);
    first = upper ? got : first;
    second = upper ? second : got;
}

// Where a lane's numbers of a piece are four of each half, it loads eight neighbours, these of the
// piece's four, and has its own once halves are exchanged.
__device__ __forceinline__ int eight_of_half(int t)
{
    return (t & 1) * 2 + (t >> 1);
}

__device__ __forceinline__ void exchange_halves(uint32_t (&x)[4], int t)
{
    exchange(x[0], x[2], t, 1);
    exchange(x[1], x[3], t, 1);
}

// Eight rows of eight halves transposed: lane 4 r + c has (r, 2 c) and (r, 2 c + 1).
__device__ __forceinline__ uint32_t transposed(uint32_t v)
{
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(v));
    return v;
}

// A pair of numbers as bf16 parts, each the rest of what those before leave, transposed.
template <int N>
__device__ __forceinline__ void transposed_parts(uint32_t (&part)[N], float low, float high)
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        part[i] = pair_of(low, high, GQMM_BF16);
        low -= __uint_as_float(part[i] << 16);
        high -= __uint_as_float(part[i] & 0xffff0000u);
        part[i] = transposed(part[i]);
    }
}

// The lane's 64 numbers of column lane / 4 of a step, larger than they are by 2^power: USUALLY, or
// so that the largest of the column is about 2^100, where products with nibbles neither overflow
// nor lose bits.
struct held_numbers {
    uint32_t x[8][4];
    int power;

    __device__ __forceinline__ void find_power()
    {
        uint32_t top[8];
#pragma unroll
        for (int i = 0; i < 8; i++)
            top[i] = pair_most(pair_most(x[i][0], x[i][1]), pair_most(x[i][2], x[i][3]));
#pragma unroll
        for (int i = 0; i < 4; i++)
            top[i] = pair_most(top[i], top[i + 4]);
        const uint32_t most =
            largest_of<4>(pair_most(pair_most(top[0], top[1]), pair_most(top[2], top[3])));
        const int above = USUALLY + 127 - (int)(most >> 7);
        power = above > 127 ? 127 : above < USUALLY - 127 ? USUALLY - 127 : above;
        power = most == 0 || most - SIZE_0 < SIZE_1 - SIZE_0 ? USUALLY : power;
    }

    // What columns 2 t and 2 t + 1 of a result are to be multiplied by.
    __device__ __forceinline__ float2 post(int t) const
    {
        return make_float2(power_of_two(USUALLY - __shfl_sync(~0u, power, 8 * t)),
                           power_of_two(USUALLY - __shfl_sync(~0u, power, 8 * t + 4)));
    }
};

// Eight of them for each word of nibbles. PARTS: fewer registers, more instructions before the
// first product.
template <class L, bool PARTS_ = true> struct held : held_numbers {
    static constexpr bool PARTS = PARTS_;
    static constexpr int N = L::N;
    uint32_t sums[(3 * N + 7) / 8]; // of groups: three bf16 parts, as multiply() takes them
    float2 whole[N];                // or of columns 2 t and 2 t + 1

    __device__ __forceinline__ uint4 eight(int i) const
    {
        return make_uint4(x[i][0], x[i][1], x[i][2], x[i][3]);
    }

    __device__ __forceinline__ uint4 parts() const
    {
        return make_uint4(sums[0], sums[1], sums[2], 0);
    }

    __device__ __forceinline__ float2 sum(int i) const
    {
        return whole[i];
    }

    __device__ __forceinline__ void load(const uint16_t *row, int t)
    {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint4 v = *(const uint4 *)(row + L::first_of(i, t));
            x[i][0] = v.x;
            x[i][1] = v.y;
            x[i][2] = v.z;
            x[i][3] = v.w;
        }
    }

    // Once the power is known: numbers enlarged and in pairs. The sums of group r % N are row r of
    // a matrix product with ones, or each group has a product of its own.
    __device__ __forceinline__ void prepare(int g, int t)
    {
        const uint32_t by = pair_of_powers(power), by_16th = pair_of_powers(power - 4);
        float c[4][4] = {};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t w[4] = {x[i][0], x[i][1], x[i][2], x[i][3]};
            uint32_t one[2];
#pragma unroll
            for (int h = 0; h < 2; h++)
                one[h] = !PARTS || g % N == i / (8 / N) ? both(L::high(i, h) ? 0x4180 : 0x3f80) : 0;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const uint32_t lo = w[L::APART == 1 ? 2 * h : h];
                const uint32_t hi = w[L::APART == 1 ? 2 * h + 1 : h + 2];
                x[i][2 * h] = pair_mul(__byte_perm(lo, hi, 0x5410), L::high(i, 0) ? by_16th : by);
                x[i][2 * h + 1] =
                    pair_mul(__byte_perm(lo, hi, 0x7632), L::high(i, 1) ? by_16th : by);
                mma(c[PARTS ? i % 4 : i / 2], one[0], one[0], one[1], one[1], x[i][2 * h],
                    x[i][2 * h + 1]);
            }
        }
        if constexpr (PARTS) {
            set_parts(c, t);
        } else {
#pragma unroll
            for (int i = 0; i < N; i++) {
                const float(&a)[4] = c[i * 4 / N], (&b)[4] = c[i * 4 / N + 1 & 3];
                whole[i] = make_float2(L::factor() * (N == 4 ? a[0] : a[0] + b[0]),
                                       L::factor() * (N == 4 ? a[1] : a[1] + b[1]));
            }
        }
    }

    // From row g of four products that are to be added up.
    __device__ __forceinline__ void set_parts(const float (&c)[4][4], int t)
    {
        const float low = L::factor() * ((c[0][0] + c[1][0]) + (c[2][0] + c[3][0]));
        const float high = L::factor() * ((c[0][1] + c[1][1]) + (c[2][1] + c[3][1]));
        uint32_t part[3];
        transposed_parts(part, low, high);
        // Where rows repeat, lanes have room for a part each, or two.
        if constexpr (N == 2) {
            sums[0] = t == 0 ? part[0] : t == 1 ? part[1] : t == 2 ? part[2] : 0;
        } else if constexpr (N == 4) {
            sums[0] = t < 2 ? part[0] : part[1];
            sums[1] = t < 2 ? part[2] : 0;
        } else {
#pragma unroll
            for (int i = 0; i < 3; i++)
                sums[i] = part[i];
        }
    }
};

} // namespace gqmm

#endif
