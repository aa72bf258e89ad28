// SPDX-License-Identifier: MIT
// Weights on their way to shared memory: a warp brings one step of 16 rows at a time, several steps
// ahead of its arithmetic, and no other warp reads them.
#ifndef GQMM_KERNEL_CUDA_STAGE_CUH
#define GQMM_KERNEL_CUDA_STAGE_CUH

#include "kernel/cuda.h"
#include "kernel/cuda/decode.cuh"
#include "kernel/cuda/mma.cuh"

#include <type_traits>

namespace gqmm
{

constexpr int ROWS = 16; // of a warp: the rows of a matrix instruction

// A decoder may tell of rows that lie less freely: how far from a multiple of 16 they start at
// most, and how many bytes a scale of affine formats has at most.
template <class D, class = void> constexpr int most_slip = D::loose ? 15 : 0;
template <class D> constexpr int most_slip<D, std::void_t<decltype(D::slips)>> = D::slips;
template <class D, class = void> constexpr bool tells_slip = false;
template <class D> constexpr bool tells_slip<D, std::void_t<decltype(D::slips)>> = true;
template <class D, class = void> constexpr int scale_width = 4;
template <class D> constexpr int scale_width<D, std::void_t<decltype(D::two_byte_scales)>> = 2;

// Bytes between rows in shared memory. Lanes of a quad read 16 or 32 neighbouring bytes of one row
// and quads read rows 0, 1, 2 ...: an odd multiple of these spreads the rows over the banks.
template <class D> GQMM_HD constexpr int code_pitch()
{
    const int bytes = ((int)D::bytes(0, D::step, format_args{}) + most_slip<D> + 15) / 16 * 16;
    const int quad = D::in_order == SERIAL ? 32 : 16;
    return ((bytes + quad - 1) / quad | 1) * quad;
}

// Whether a decoder tells of scales that are bytes.
template <class D, class = void> struct scale_bytes_of {
    static constexpr int value = 0; // of a step in plane 1
};
template <class D> struct scale_bytes_of<D, std::void_t<decltype(D::byte_scales)>> {
    static constexpr int value = (int)D::bytes(1, D::step, format_args{});
};

// Whether rows may end anywhere within a step and within 16 bytes, and still are brought at full
// speed.
template <class D> constexpr bool ends_anywhere = D::loose || scale_bytes_of<D>::value > 0;

// Planes of scales: at most 4 bytes for 32 weights, or bytes in two times 16 that hold a step.
template <class D> GQMM_HD constexpr int scale_pitch()
{
    static_assert(scale_bytes_of<D>::value + 15 <= 32, "a step's scales in two times 16 bytes");
    return D::planes == 1 ? 0 : scale_bytes_of<D>::value ? 32 : D::step / 32 * scale_width<D>;
}

template <class D> GQMM_HD constexpr int row_pitch()
{
    return code_pitch<D>() + (D::planes - 1) * scale_pitch<D>();
}

// Steps of a warp that lie in shared memory. More warps read more than deeper rings do.
template <class D> GQMM_HD constexpr int stages()
{
    return 2;
}

// 16 rows of one or two matrices: rows 8 .. 15 lie `second` bytes after rows 0 .. 7.
struct row_block {
    const uint8_t *first[3];
    int64_t stride[3], second[3];
    int count;   // rows 0 .. count - 1 of each 8 exist where `halves`, else of the 16
    bool halves; // the two 8s are rows of two matrices

    __device__ __forceinline__ const uint8_t *row(int plane, int r) const
    {
        // Rows past the end read the last one: their products are computed and dropped.
        int i = halves ? r & 7 : r;
        i = i < count ? i : count - 1;
        return first[plane] + i * stride[plane] + (halves && r >= 8 ? second[plane] : 0);
    }

    // Row r + 4 lies 4 strides after row r, but for 8 after 4.
    __device__ __forceinline__ bool regular() const
    {
        return count == (halves ? 8 : 16);
    }
};

// One lane's share of bringing steps of 16 rows to shared memory, and of finding them there. A row
// is brought in pieces of 16 bytes: eight lanes to a row while it has eight, then as many as are
// left. Few registers and no arithmetic but additions: it is done for every step.
template <class D> struct loader {
    static constexpr int bytes = (int)D::bytes(0, D::step, format_args{});
    static constexpr int pieces = (bytes + most_slip<D> + 15) / 16;
    static constexpr int eights = pieces / 8, rest = pieces % 8;
    static constexpr int wide = rest <= 1 ? 1 : rest <= 2 ? 2 : rest <= 4 ? 4 : 8; // lanes for rest

    const uint8_t *from, *from_rest; // the lane's first pieces in step 0
    const uint8_t *scales_from[2];   // row lane % 16 of the other planes
    int to, to_rest;
    int whole; // steps that are brought without a look at the end of the row
    int full;  // of the others those that copies of 16 bytes can bring: all or none
    int slips; // rows lane % 16, lane / 4 and lane / 4 + 8: where they start in 16, four bits for
               // the codes and four for scales of bytes

    // `k` weights make a row. REGULAR rows or any that have row(plane, r).
    template <class B>
    __device__ __forceinline__ void set(const B &b, int64_t k, bool aligned, bool regular, int lane,
                                        const format_args &f)
    {
        const int64_t row = D::bytes(0, k, f) - (D::loose ? pieces * 16 - bytes : 0);
        const bool fast = regular && (D::loose || aligned);
        whole = fast && row > 0 ? (int)(row / bytes) : 0;
        full = fast ? (int)((k + D::step - 1) / D::step) : 0;
        to = lane / 8 * row_pitch<D>() + lane % 8 * 16;
        to_rest = lane / wide * row_pitch<D>() + eights * 128 + lane % wide * 16;
        keep(to);
        keep(to_rest);
        point(b, lane);
        find(b, lane);
    }

    // Where the rows are brought from.
    template <class B> __device__ __forceinline__ void point(const B &b, int lane)
    {
        from = b.row(0, lane / 8) + lane % 8 * 16;
        from_rest = b.row(0, lane / wide & 15) + eights * 128 + lane % wide * 16;
#pragma unroll
        for (int plane = 1; plane < D::planes; plane++)
            scales_from[plane - 1] = b.row(plane, lane & 15);
    }

    // Rows `by` bytes of each plane further on.
    __device__ __forceinline__ void move(const int64_t (&by)[3])
    {
        from += by[0];
        from_rest += by[0];
#pragma unroll
        for (int plane = 1; plane < D::planes; plane++)
            scales_from[plane - 1] += by[plane];
    }

    // The rows that at() is asked for.
    template <class B> __device__ __forceinline__ void find(const B &b, int lane)
    {
        slips = slips_of(b, 0, lane);
        if constexpr (scale_bytes_of<D>::value > 0)
            slips |= slips_of(b, 1, lane) << 4;
    }

    // Step s to `stage`; what lies beyond the row becomes zero. b() is what the lane points at;
    // rows 8 .. 15 lie `half` bytes after the first ones and rows 4 .. 7 `quarter`.
    template <class B>
    __device__ __forceinline__ void bring(uint8_t *stage, int s, int64_t k, bool aligned,
                                          int64_t quarter, int64_t half, int lane,
                                          const format_args &f, const B &b) const
    {
        if (s < whole || (ends_anywhere<D> && s < full))
            bring_codes(stage, s, k, quarter, half, lane, f);
        else
            bring_any(stage, s, k, D::loose || aligned, lane, f, b());
        bring_all_scales(stage, s, k, aligned, lane, f);
    }

    // The same for rows that no copy has to look at: regular ones of whole steps that a decoder
    // finds aligned.
    __device__ __forceinline__ void bring(uint8_t *stage, int s, int64_t k, bool aligned,
                                          int64_t quarter, int64_t half, int lane,
                                          const format_args &f) const
    {
        bring_codes(stage, s, k, quarter, half, lane, f);
        bring_all_scales(stage, s, k, aligned, lane, f);
    }

    // Row of slot 0, 1 or 2 (see slips) of a step that was brought.
    __device__ __forceinline__ step_row at(const uint8_t *stage, int slot, int lane, int s) const
    {
        const int r = slot == 0 ? lane & 15 : (lane >> 2) + (slot - 1) * 8;
        const uint8_t *row = stage + r * row_pitch<D>();
        constexpr int scale_bytes = scale_bytes_of<D>::value;
        const int slip = D::loose ? (slips >> (8 * slot)) + s * bytes & 15 : 0;
        const int scale_slip = scale_bytes ? (slips >> (8 * slot + 4)) + s * scale_bytes & 15 : 0;
        return step_row{{row + slip, row + code_pitch<D>() + scale_slip,
                         row + code_pitch<D>() + scale_pitch<D>()}};
    }

    // Plane 0 alone, of regular rows.
    __device__ __forceinline__ void bring_codes(uint8_t *stage, int s, int64_t k, int64_t quarter,
                                                int64_t half, int lane, const format_args &f) const
    {
        if (!ends_anywhere<D> || s < whole)
            bring_step<INSIDE>(stage, s, 0, quarter, half, lane);
        else if (tells_slip<D> && (s + 1) * bytes <= D::bytes(0, k, f))
            bring_step<AT_END>(stage, s, bytes, quarter, half, lane);
        else
            bring_step<BEYOND>(stage, s, (int)(D::bytes(0, k, f) - (int64_t)s * bytes), quarter,
                               half, lane);
    }

  private:
    __device__ __forceinline__ void bring_all_scales(uint8_t *stage, int s, int64_t k, bool aligned,
                                                     int lane, const format_args &f) const
    {
        if constexpr (scale_bytes_of<D>::value > 0) {
            bring_byte_scales(stage, s, k, lane, f);
        } else {
#pragma unroll
            for (int plane = 1; plane < D::planes; plane++)
                bring_scales(stage, plane, s, k, aligned, lane, f);
        }
    }

    template <class B>
    __device__ __forceinline__ static int slips_of(const B &b, int plane, int lane)
    {
        return ((int)(uintptr_t)b.row(plane, lane & 15) & 15) |
               ((int)(uintptr_t)b.row(plane, lane >> 2) & 15) << 8 |
               ((int)(uintptr_t)b.row(plane, (lane >> 2) + 8) & 15) << 16;
    }

    __device__ __forceinline__ static const uint8_t *down_to_16(const uint8_t *p)
    {
        return most_slip<D> ? (const uint8_t *)((uintptr_t)p & ~(uintptr_t)15) : p;
    }

    // 16 bytes of a row that ends `here` bytes after `down`: zeros behind that, which are not read.
    // Where none are read the address still is the row's.
    __device__ __forceinline__ static void copy_end(uint8_t *out, const uint8_t *down, int here)
    {
        copy_16(out, down + (here > 0 ? 0 : (here - 1) & ~15),
                here < 0    ? 0
                : here < 16 ? here
                            : 16);
    }

    // A step, of whose rows `left` bytes are left: pieces of 16 lie inside them, may reach over
    // their end, or those behind it are wanted as well, as zeros.
    enum ending { INSIDE, AT_END, BEYOND };
    template <ending END>
    __device__ __forceinline__ void bring_step(uint8_t *stage, int s, int left, int64_t quarter,
                                               int64_t half, int lane) const
    {
        const int64_t on = (int64_t)s * bytes;
#pragma unroll
        for (int i = 0; i < eights; i++)
            bring_rows<8, END>(stage + to + i * 128, from + on + i * 128,
                               left - lane % 8 * 16 - i * 128, quarter, half);
        if (rest > 0 && (wide != 1 || lane < 16) && (rest == wide || lane % wide < rest))
            bring_rows<wide, END>(stage + to_rest, from_rest + on,
                                  left - eights * 128 - lane % wide * 16, quarter, half);
    }

    // A piece each of all 16 rows, LANES to a row.
    template <int LANES, ending END>
    __device__ __forceinline__ static void bring_rows(uint8_t *out, const uint8_t *in, int left,
                                                      int64_t quarter, int64_t half)
    {
        bring_piece<END>(out, in, left);
        if (LANES == 8) {
            bring_piece<END>(out + 4 * row_pitch<D>(), in + quarter, left);
            bring_piece<END>(out + 12 * row_pitch<D>(), in + half + quarter, left);
        }
        if (LANES >= 4)
            bring_piece<END>(out + 8 * row_pitch<D>(), in + half, left);
    }

    template <ending END>
    __device__ __forceinline__ static void bring_piece(uint8_t *out, const uint8_t *in, int left)
    {
        const uint8_t *down = down_to_16(in);
        const int here = left + (int)(in - down);
        if (END == BEYOND)
            copy_end(out, down, here);
        else if (END == INSIDE || here > 0)
            copy_16(out, down, END == INSIDE || here > 16 ? 16 : here);
    }

    // The end of a row, rows at odd bytes, and rows that lie anywhere.
    template <class B>
    __device__ __forceinline__ static void bring_any(uint8_t *stage, int s, int64_t k, bool fast,
                                                     int lane, const format_args &f, const B &b)
    {
        const int64_t rest = D::bytes(0, k, f) - (int64_t)s * bytes;
        const int valid = (int)(rest < bytes ? rest : bytes);
#pragma unroll 1
        for (int item = lane; item < ROWS * pieces; item += 32) {
            const int r = item / pieces, at = item % pieces * 16;
            const uint8_t *p = b.row(0, r) + (int64_t)s * bytes, *down = down_to_16(p);
            const int slip = (int)(p - down), here = valid + slip - at;
            uint8_t *out = stage + r * row_pitch<D>() + at;
            if (ends_anywhere<D> && fast)
                copy_end(out, down + at, here);
            else if (fast && here >= 16)
                copy_16(out, down + at, 16);
            else if (here <= 0)
                *(uint4 *)out = make_uint4(0, 0, 0, 0);
            else
                for (int j = 0; j < 16; j++)
                    out[j] = j < here ? down[at + j] : 0;
        }
    }

    // Scales of a byte each, of row lane % 16: in 32 bytes from a multiple of 16 on a step has all.
    __device__ __forceinline__ void bring_byte_scales(uint8_t *stage, int s, int64_t k, int lane,
                                                      const format_args &f) const
    {
        const uint8_t *row = scales_from[0] + (int64_t)s * scale_bytes_of<D>::value;
        const uint8_t *down = (const uint8_t *)((uintptr_t)row & ~(uintptr_t)15);
        const int rest = (int)(D::bytes(1, k, f) - (int64_t)s * scale_bytes_of<D>::value);
        const int at = lane >> 4 << 4;
        copy_end(stage + (lane & 15) * row_pitch<D>() + code_pitch<D>() + at, down + at,
                 rest + (int)(row - down) - at);
    }

    __device__ __forceinline__ void bring_scales(uint8_t *stage, int plane, int s, int64_t k,
                                                 bool aligned, int lane, const format_args &f) const
    {
        const int n = (int)D::bytes(plane, D::step, f);
        const uint8_t *row = scales_from[plane - 1] + (int64_t)s * n;
        stage += (lane & 15) * row_pitch<D>() + code_pitch<D>() + (plane - 1) * scale_pitch<D>();
        const int64_t rest = D::bytes(plane, k, f) - (int64_t)s * n;
        if (rest >= n && aligned && n % 4 == 0) {
#pragma unroll 1
            for (int at = (lane >> 4) * 4; at < n; at += 8)
                copy_4(stage + at, row + at, 4);
            return;
        }
#pragma unroll 1
        for (int at = lane >> 4; at < n; at += 2)
            stage[at] = at < rest ? row[at] : 0;
    }
};

} // namespace gqmm

#endif
