// SPDX-License-Identifier: MIT
// A warp's 32 rows of weights by up to 32 columns, a step of 256 along k at a time. Weights are
// made as wide.cuh makes them, two by a mask and a multiply-add.
//
// A lane takes 16 bytes of a column at once: in the order of x these are pair p of four words of
// codes, of a piece of 32 along k. Two instructions multiply them, with two words' pair p each as
// the left operand. What lane t of a quad takes when is free, as long as it is of the same k on
// both sides: so each lane has its own pieces, and the lanes of a quad take the pairs in such
// orders that they read different banks.
#ifndef GQMM_KERNEL_CUDA_WIDE_FEW_ROWS_CUH
#define GQMM_KERNEL_CUDA_WIDE_FEW_ROWS_CUH

#include "kernel/cuda/mma.cuh"
#include "kernel/cuda/wide_few_load.cuh"
#include "kernel/cuda/wide_scales.cuh"

namespace gqmm
{
namespace few_product
{

using wide_product::LOW_REST;
using wide_product::LOW_SCALE;

using gqmm::read_16;

__device__ __forceinline__ void read_16(uint32_t *to, uint32_t at)
{
    const uint4 v = read_16(at);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

// A bf16 number, and as many zeros.
__device__ __forceinline__ uint32_t read_number(uint32_t at)
{
    uint16_t v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(at) : "memory");
    return v;
}

// One of two bf16 numbers, twice: the instruction that takes it can pick it, so it costs nothing.
template <int WHICH> __device__ __forceinline__ uint32_t one_of(uint32_t v)
{
    uint32_t r;
    if (WHICH)
        asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %1;\nmov.b32 %0, {h, h};\n}" : "=r"(r) : "r"(v));
    else
        asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %1;\nmov.b32 %0, {l, l};\n}" : "=r"(r) : "r"(v));
    return r;
}

__device__ __forceinline__ uint32_t one_of(uint32_t v, int which)
{
    return which ? one_of<1>(v) : one_of<0>(v);
}

// Two numbers, rounded.
__device__ __forceinline__ uint32_t rounded(float low, float high)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

// operand: of rows g and g + 8 of both parts a pair each of four words; columns: where the lane's
// 16 bytes of the first eight columns are.
template <int PARTS, int PITCH>
__device__ __forceinline__ void multiply(float (&acc)[2][N / 2], const uint32_t (&operand)[2][2][4],
                                         uint32_t columns)
{
#pragma unroll
    for (int j = 0; j < PARTS; j++) {
        const uint4 x = read_16(columns + j * 8 * PITCH);
#pragma unroll
        for (int m = 0; m < 2; m++) {
            const uint32_t(&low)[4] = operand[m][0], (&high)[4] = operand[m][1];
            float(&to)[4] = *(float(*)[4])(acc[m] + 4 * j);
            mma(to, low[0], high[0], low[1], high[1], x.x, x.y);
            mma(to, low[2], high[2], low[3], high[3], x.z, x.w);
        }
    }
}

// Planes of nibbles: of a block of 128 along k lane t has piece t, and so one scale. The upper half
// of a quad takes pairs 1 and 0 where the lower takes 0 and 1, and 3 and 2 for 2 and 3.
template <class D, bool TWO> struct lane_rows {
    uint32_t codes_at, scales_at; // of row g of part 0, in a stage
    uint32_t block_scales;        // bytes from block to block
    uint32_t columns_at[2];       // in a stage, of the first two pairs it takes
    uint32_t mask[2], powers;     // of those pairs: bits, and what scales count

    __device__ __forceinline__ lane_rows(const few_args &a, int warp, int lane)
    {
        const int g = lane >> 2, t = lane & 3, upper = t >> 1,
                  row = row_of<D>(TWO, TWO ? wide_product::order_code<D>() : 0, warp, g, 0, 0);
        codes_at = row * ROW_BYTES<D> + ((t ^ (row & 7)) << 4);
        scales_at = scale_at<D>(row) + 32 * t / a.p.w.group * 2;
        block_scales = a.row_scale_bytes / (STEP / BLOCK);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            columns_at[i] = column_at(g, t, i);
            mask[i] = i ^ upper ? 0x00f000f0 : 0x000f000f;
            asm volatile("" : "+r"(columns_at[i]), "+r"(mask[i]));
        }
        powers = bf16_power(LOW_SCALE - (upper ? 4 : 0)) |
                 (uint32_t)bf16_power(LOW_SCALE - (upper ? 0 : 4)) << 16;
        asm volatile("" : "+r"(powers));
    }

    // What turns pairs into weights of a row: factors of the first and the second that the lane
    // takes, and an offset.
    __device__ __forceinline__ void read_scale(uint32_t &factors, uint32_t &offset,
                                               uint32_t at) const
    {
        constexpr int bias = wide_product::wide_codes<D>::bias;
        const uint32_t s = read_number(at);
        factors = pair_mul(one_of<0>(s), powers);
        if (bias)
            offset = pair_mul(s, both(0x8000 | (bf16_small(bias ? bias : 1) - (LOW_REST << 7))));
        else
            offset = pair_mul(read_number(at + PLANE_SCALES<D>), both(bf16_power(-LOW_REST)));
    }

    template <int PARTS>
    __device__ __forceinline__ void do_step(float (&acc)[2][N / 2], const memory<D> &mem, int stage,
                                            int) const
    {
        const uint32_t codes = mem.weights(stage) + codes_at,
                       scales = mem.scales(stage) + scales_at;
#pragma unroll
        for (int block = 0; block < STEP / BLOCK; block++) {
            uint32_t code[2][2][4], factors[2][2], offset[2][2];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int m = i >> 1, half = i & 1, on = row_step(TWO, m, half);
                read_16(code[m][half], (codes ^ (block << 6 | (on & 7) << 4)) + on * ROW_BYTES<D>);
                read_scale(factors[m][half], offset[m][half],
                           scales + scale_at<D>(on) + block * block_scales);
            }
#pragma unroll
            for (int turn = 0; turn < 4; turn++) { // of the pairs
                const int odd = turn & 1;
                uint32_t operand[2][2][4];
#pragma unroll
                for (int i = 0; i < 16; i++) {
                    const int m = i >> 3, half = i >> 2 & 1;
                    uint32_t &v = code[m][half][i & 3];
                    if (turn == 2)
                        v >>= 8;
                    operand[m][half][i & 3] = pair_fma(v & mask[odd], one_of(factors[m][half], odd),
                                                       one_of<0>(offset[m][half]));
                }
                multiply<PARTS, COLUMN_PITCH>(acc, operand,
                                              mem.columns(stage) + columns_at[odd] +
                                                  block * BLOCK * 2 + (turn >> 1) * 32);
            }
        }
    }
};

// Blocks of 256: lane t has pieces 2 t and 2 t + 1, nibbles of the same 32 bytes. The upper half of
// a quad takes the second first, and odd lanes take pairs 1, 0, 3, 2: their bytes are swapped.
template <bool TWO> struct lane_rows<dec_q4_k, TWO> {
    typedef dec_q4_k D;
    uint32_t row_at, part_rows;  // row g of part 0 in a stage, and from there to part 1
    uint32_t codes_at;           // the lane's bytes in a row
    uint32_t columns_at[2][2];   // in a stage, [piece][pair] as the lane takes them
    uint32_t mask[2], select[2]; // of the pieces: bits, and the byte of scales
    float power[2];              // what scales count
    uint32_t bytes;              // their order
    uint32_t low_bytes, low_shift, high_shift; // of two scales or minima: where their bits are

    __device__ __forceinline__ lane_rows(const few_args &a, int warp, int lane)
    {
        const int g = lane >> 2, t = lane & 3, upper = t >> 1, odd = t & 1;
        row_at = row_of<D>(TWO, a.p.y_order, warp, g, 0, 0) * ROW_BYTES<D>;
        part_rows = (row_of<D>(TWO, a.p.y_order, warp, g, 1, 0) * ROW_BYTES<D>)-row_at;
        codes_at = 16 + 32 * t;
        bytes = odd ? 0x2301 : 0x3210;
        low_bytes = (odd ? 0x32 : 0x10) + (upper ? 0x44 : 0);
        low_shift = upper ? 4 : 0;
        high_shift = 16 * odd + (upper ? 2 : 0);
        asm volatile("" : "+r"(low_bytes), "+r"(low_shift), "+r"(high_shift));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            columns_at[i][0] = block_column_at(g, t, i, 0);
            columns_at[i][1] = block_column_at(g, t, i, 1);
            mask[i] = i ^ upper ? 0x00f000f0 : 0x000f000f;
            select[i] = 0x7440 + (i ^ upper);
            power[i] = power_of_two(LOW_SCALE - (i ^ upper ? 4 : 0));
            asm volatile("" : "+r"(columns_at[i][0]), "+r"(columns_at[i][1]), "+r"(mask[i]));
        }
    }

    // As k_scale_maker has it, of the lane's two pieces.
    __device__ __forceinline__ void read_scales(uint32_t &factors, uint32_t &offsets,
                                                uint32_t at) const
    {
        const uint4 w = read_16(at);
        const uint32_t sc =
            pick(w.y >> high_shift, 0x30303030, permute(w.y, w.w, low_bytes) & 0x0f0f0f0f);
        const uint32_t mn = pick(w.z >> high_shift, 0x30303030,
                                 permute(w.z, w.w, low_bytes) >> low_shift & 0x0f0f0f0f);
        // 2^23 + v, times d, less 2^23 d: d * v, rounded once.
        const float d = half_to_float(w.x & 0xffff);
        const float m = half_to_float(w.x >> 16) * -power_of_two(-LOW_REST);
        const float d23 = -8388608.0f * d, m23 = -8388608.0f * m;
        float factor[2], offset[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float s = __uint_as_float(permute(sc, 0x4b000000, select[i]));
            const float o = __uint_as_float(permute(mn, 0x4b000000, select[i]));
            factor[i] = __fmaf_rn(s, d, d23) * power[i];
            offset[i] = __fmaf_rn(o, m, m23);
        }
        factors = rounded(factor[0], factor[1]);
        offsets = rounded(offset[0], offset[1]);
    }

    template <int PARTS>
    __device__ __forceinline__ void do_step(float (&acc)[2][N / 2], const memory<D> &mem, int stage,
                                            int) const
    {
        uint32_t code[2][2][8], factors[2][2], offsets[2][2];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int m = i >> 1, half = i & 1;
            const uint32_t row = mem.weights(stage) + row_at + m * part_rows +
                                 half * (TWO ? ROWS / 2 : 1) * ROW_BYTES<D>;
            read_16(code[m][half], row + codes_at);
            read_16(code[m][half] + 4, row + codes_at + 16);
            read_scales(factors[m][half], offsets[m][half], row);
        }
#pragma unroll
        for (int turn = 0; turn < 8; turn++) { // of the pairs 0, 2 or 1, 3 of both pieces
            const int second = turn >> 2, word = turn >> 1 & 1, piece = turn & 1;
            uint32_t operand[2][2][4];
#pragma unroll
            for (int i = 0; i < 16; i++) {
                const int m = i >> 3, half = i >> 2 & 1;
                uint32_t &v = code[m][half][2 * (i & 3) + word];
                if (piece == 0)
                    v = second ? v >> 8 : permute(v, 0, bytes);
                operand[m][half][i & 3] = pair_fma(v & mask[piece], one_of(factors[m][half], piece),
                                                   one_of(offsets[m][half], piece));
            }
            multiply<PARTS, COLUMN_PITCH>(
                acc, operand, mem.columns(stage) + columns_at[piece][second] + 32 * word);
        }
    }
};

} // namespace few_product
} // namespace gqmm

#endif
