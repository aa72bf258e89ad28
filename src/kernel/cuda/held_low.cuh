// SPDX-License-Identifier: MIT
// Activations that meet codes as decode_low.cuh has them, for direct_low.cuh.
#ifndef GQMM_KERNEL_CUDA_HELD_LOW_CUH
#define GQMM_KERNEL_CUDA_HELD_LOW_CUH

#include "kernel/cuda/pieces.cuh"

namespace gqmm
{

// The lane's numbers of column lane / 4, eight for each piece of 32. Where they are no neighbours,
// L may want these loaded and exchanged: loads of 4 or 8 bytes take two or four times as long, more
// than all else where there are eight columns.
template <class L> struct held_low : held_numbers {
    typedef typename L::codes codes;
    static constexpr order ORDER = codes::in_order;
    // Four numbers of each half of a piece are a lane's, or two of each quarter.
    static constexpr bool HALF = L::EXCHANGES && (ORDER == HALVES || ORDER == CROSSED),
                          QUARTER = L::EXCHANGES && ORDER == NATIVE;
    uint32_t sums[3][L::OWN / 2];  // of groups, three parts as right operands of 8 or 16 along K
    int codes_at[2], scales_at[2]; // of rows g and g + 8 in a stage
    format_args f;

    // `left` numbers are left of the row from the step on; NULL: zeros.
    __device__ __forceinline__ void load(const uint16_t *row, int left, int t)
    {
#pragma unroll
        for (int j = 0; j < 8; j++) {
            x[j][0] = x[j][1] = x[j][2] = x[j][3] = 0;
            if (row && j * 32 < left)
                load_eight<HALF || QUARTER ? NIBBLE : ORDER>(x[j], row + j * 32,
                                                             HALF ? eight_of_half(t) : t);
        }
    }

    __device__ __forceinline__ void find_power()
    {
        const int t = (int)threadIdx.x & 3;
        held_numbers::find_power();
#pragma unroll
        for (int j = 0; j < 8; j++) {
            if (HALF)
                exchange_halves(x[j], t);
            if (!QUARTER)
                continue;
            exchange(x[j][0], x[j][1], t, 1);
            exchange(x[j][2], x[j][3], t, 1);
            exchange(x[j][0], x[j][2], t, 2);
            exchange(x[j][1], x[j][3], t, 2);
        }
    }

    // Once the power is known: numbers enlarged and in pairs, and their sums, which are rows of
    // products with ones. Of 16 groups a lane has two in rows 2 t and 2 t + 1, the next two 8
    // below.
    __device__ __forceinline__ void prepare(int g, int t)
    {
        float c[2][4] = {};
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const uint32_t raw[4] = {x[j][0], x[j][1], x[j][2], x[j][3]};
#pragma unroll
            for (int h = 0; h < 2; h++) {
                uint32_t one[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    uint32_t &own = x[j][2 * h + i];
                    const int bit = codes::bit(j, 2 * h + i);
                    own = pair_mul(pair_in<codes::in_order>(raw, 2 * h + i),
                                   pair_of_powers(power - bit));
                    one[i] = g == (L::OWN == 2 ? j : j / 2 * 2 + h) ? both(bf16_power(bit)) : 0;
                }
                const bool upper = L::OWN == 4 && j % 2;
                if (L::SUMS)
                    mma(c[h], upper ? 0 : one[0], upper ? one[0] : 0, upper ? 0 : one[1],
                        upper ? one[1] : 0, x[j][2 * h], x[j][2 * h + 1]);
            }
        }
        const float factor = (L::OFFSET ? 1.0f : (float)-codes::bias) / UNIT;
#pragma unroll
        for (int i = 0; L::SUMS && i < L::OWN / 2; i++) {
            uint32_t part[3];
            const float by = power_of_two(-USUALLY);
            transposed_parts(part, by * (c[0][2 * i] + c[1][2 * i]) * factor,
                             by * (c[0][2 * i + 1] + c[1][2 * i + 1]) * factor);
#pragma unroll
            for (int n = 0; n < 3; n++)
                sums[n][i] = part[n];
        }
    }
};

} // namespace gqmm

#endif
