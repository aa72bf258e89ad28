// SPDX-License-Identifier: MIT
// Rows of few columns whose codes lane_rows of wide_few_rows.cuh does not know: of a step of 256
// each lane of a quad has 64 weights of a row to itself, with the scales of these, and takes them
// in eight turns of four pairs. What it meets in a turn are 16 bytes of a column, a quarter of a
// piece in the decoder's order. The lanes of a quad take the quarters of a piece in such orders
// that they read different banks.
#ifndef GQMM_KERNEL_CUDA_WIDE_FEW_LOW_CUH
#define GQMM_KERNEL_CUDA_WIDE_FEW_LOW_CUH

#include "kernel/cuda/wide_few_lanes.cuh"
#include "kernel/cuda/wide_few_nibbles.cuh"

namespace gqmm
{
namespace few_product
{

// A warp's rows by lanes of few_lane.
template <class D, bool TWO> struct low_rows {
    few_lane<D> own;
    uint32_t rows[2][2], planes[2][2]; // of parts and halves: in a stage of codes and of scales
    uint32_t slips;                    // of these rows' first step, a byte each
    uint32_t columns_at;

    __device__ __forceinline__ low_rows(const few_args &a, int warp, int lane)
    {
        constexpr bool swizzled = few_layout<D>::SWIZZLED || few_layout<D>::STRAIGHT;
        const int g = lane >> 2, t = lane & 3;
        own.set(t, a.p.w.group);
        slips = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = row_of<D>(TWO, a.p.y_order, warp, g, i >> 1, i & 1);
            const int place = place_of<TWO>(row, a.spread);
            const int64_t stride = TWO && i & 1 ? a.p.up.row_stride[0] : a.p.w.row_stride[0];
            rows[i >> 1][i & 1] = place * ROW_BYTES<D> + (swizzled ? (place & 7) << 4 : 0);
            planes[i >> 1][i & 1] = scale_at<D>(row);
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

// A warp's rows of a format.
template <class D, bool TWO>
using lanes_for = std::conditional_t<few_layout<D>::LOW, low_rows<D, TWO>, lane_rows<D, TWO>>;

} // namespace few_product
} // namespace gqmm

#endif
