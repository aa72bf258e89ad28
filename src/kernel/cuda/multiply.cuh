// SPDX-License-Identifier: MIT
// The inner loop of the products: 16 rows of weights, 8 and 8, against tiles of 8 columns.
#ifndef GQMM_KERNEL_CUDA_MULTIPLY_CUH
#define GQMM_KERNEL_CUDA_MULTIPLY_CUH

#include "kernel/cuda/mma.cuh"
#include "kernel/cuda/stage.cuh"

#include <type_traits>

namespace gqmm
{

// How a product of NT tiles takes its codes. With one tile unpacking is what the time goes into, so
// that a decoder's `raw` codes are taken where it has them: `bias` more than they should be, which
// offsets make up for. With more tiles it pays to subtract from the codes.
template <class D, int NT, class = void> struct codes_of {
    static constexpr int bias = 0;
    static constexpr bool has_offset = D::has_offset;
    static constexpr order in_order = D::in_order;

    __device__ __forceinline__ static void get(uint32_t (&a)[D::parts][4], const step_row &r, int j,
                                               int t, const format_args &f)
    {
        D::codes(a, r, j, t, f);
    }
};

template <class D> struct codes_of<D, 1, std::void_t<decltype(D::raw_bias)>> {
    static constexpr int bias = D::raw_bias;
    static constexpr bool has_offset = true;
    static constexpr order in_order = D::raw_order;

    __device__ __forceinline__ static void get(uint32_t (&a)[D::parts][4], const step_row &r, int j,
                                               int t, const format_args &f)
    {
        D::raw_codes(a, r, j, t, f);
    }
};

// ---- scales and offsets of a step as floats, a row of them for each row of weights

// Floats of a group, and between rows: eight rows, 16 bytes of each, lie in different banks.
template <class D, int NT> struct scale_table {
    typedef codes_of<D, NT> codes;
    static constexpr int floats = codes::has_offset ? 2 : 1, n = D::step / D::piece * floats;
    static constexpr int row = n <= 4 ? 4 : n + 4, bytes = ROWS * row * (int)sizeof(float);

    // Row lane % 16, half of its groups for each half of the warp.
    __device__ __forceinline__ static void make(float *to, const step_row &r, int lane,
                                                const format_args &f)
    {
        constexpr int half = D::step / D::piece / 2;
        const int first = (lane >> 4) * half;
        float v[half * floats]; // stored together: groups that share bytes share their loads
#pragma unroll
        for (int i = 0; i < half; i++) {
            const float2 s = D::scale(r, first | i, f);
            v[i * floats] = s.x;
            if (codes::has_offset)
                v[i * floats + floats - 1] = fmaf(s.x, -codes::bias, s.y);
        }
        to += (lane & 15) * row + first * floats;
#pragma unroll
        for (int i = 0; i < half * floats; i += 4)
            if (half * floats % 4 == 0)
                *(float4 *)(to + i) = *(float4 *)(v + i);
            else
                for (int j = i; j < half * floats; j++)
                    to[j] = v[j];
    }

    // Of group g.
    __device__ __forceinline__ static float2 get(const float *from, int g)
    {
        const int at = g * floats;
        const float4 v = *(const float4 *)(from + (at & ~3)); // one load where groups share it
        const float s[4] = {v.x, v.y, v.z, v.w};
        return make_float2(s[at & 3], s[(at + 1) & 3]);
    }
};

// What a lane multiplies with: its column of a tile, at the lane's place in a quad, and sums of
// groups of the two columns whose outputs it has; all pieces of a group have the group's sum.
struct x_tile {
    const uint8_t *x;
    const float *sums[2];
};

__device__ __forceinline__ float float_of_4(const float *from, int i)
{
    const float4 v = *(const float4 *)(from + (i & ~3));
    const float s[4] = {v.x, v.y, v.z, v.w};
    return s[i & 3];
}

// One step of weights, rows lane / 4 of each 8, against the columns. Parts of activations lie
// part_bytes apart. What lies behind K is zero in the activations, so that a step always has all
// its pieces. ONE: activations are of one part.
template <class D, int NT, bool ONE>
__device__ __forceinline__ void
multiply(float (&acc)[NT][4], const step_row &r0, const step_row &r1, const float *scales,
         const x_tile (&tile)[NT], int x_parts, int part_bytes, int t, const format_args &f)
{
    typedef codes_of<D, NT> codes;
    typedef scale_table<D, NT> table;
    constexpr int per = 32 / D::piece; // groups of a piece

    // Sums of products whose scale is still to come.
    float c[NT][per][4] = {};
    const int group = D::grouped ? f.group / 32 : 1; // pieces
#pragma unroll
    for (int j = 0; j < D::step / 32; j++) {
        uint32_t a[D::parts][4], b[D::parts][4];
        codes::get(a, r0, j, t, f);
        codes::get(b, r1, j, t, f);
#pragma unroll
        for (int nt = 0; nt < NT; nt++)
#pragma unroll 1
            for (int part = 0; part < (ONE ? 1 : x_parts); part++) {
                const uint4 x = *(const uint4 *)(tile[nt].x + part * part_bytes + j * 64);
#pragma unroll
                for (int w = 0; w < D::parts; w++) {
                    mma(c[nt][0], a[w][0], b[w][0], a[w][1], b[w][1], x.x, x.y);
                    mma(c[nt][per - 1], a[w][2], b[w][2], a[w][3], b[w][3], x.z, x.w);
                }
            }
        if (j % 4 < 3 && group > 1 && (j % 2 == 0 || group > 2)) // the group goes on
            continue;
#pragma unroll
        for (int h = 0; h < per; h++) {
            const int g = j * per + h;
            const float2 s[2] = {table::get(scales, g), table::get(scales + 8 * table::row, g)};
#pragma unroll
            for (int nt = 0; nt < NT; nt++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    acc[nt][i] = fmaf(s[i / 2].x, c[nt][h][i], acc[nt][i]);
                    if (codes::has_offset)
                        acc[nt][i] =
                            fmaf(s[i / 2].y, float_of_4(tile[nt].sums[i & 1], g), acc[nt][i]);
                    c[nt][h][i] = 0.0f;
                }
        }
    }
}

} // namespace gqmm

#endif
