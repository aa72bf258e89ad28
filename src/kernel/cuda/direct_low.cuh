// SPDX-License-Identifier: MIT
// Codes as decode_low.cuh has them, for direct_stay.cuh: formats of any blocks, bits and offsets
// that have no layout of their own. Rows are brought as product.cuh brings them, K is any number of
// whole blocks: zeros fill the last step.
//
// Offsets, or scales times what codes have too much, meet sums of activations in a matrix
// instruction of their own, both as bf16 parts that add up to fp32.
#ifndef GQMM_KERNEL_CUDA_DIRECT_LOW_CUH
#define GQMM_KERNEL_CUDA_DIRECT_LOW_CUH

#include "kernel/cuda/few.cuh"
#include "kernel/cuda/held_low.cuh"

namespace gqmm
{

// Steps of 256 in rows that start at multiples of D::align.
template <class D> struct of_lanes : of_256<D> {
    static constexpr bool loose = true, two_byte_scales = true;
    static constexpr int slips = 16 - D::align;
};

// WARPS of a block share K: eight where a step for each is enough, as then two blocks of a
// multiprocessor wait for each other's sums less. ALONE, of small_low.cuh, where a warp has one
// step of one tile of columns: pieces of a group, which has 64 weights or more, meet its scale
// together, and activations are loaded the faster way also where that takes registers.
template <class D, int WARPS_, bool ALONE = false> struct lane_low {
    typedef of_lanes<D> steps;
    typedef low_codes<D> codes;
    typedef held_low<lane_low> numbers;
    static constexpr int planes = D::planes, OWN = 64 / D::piece; // groups of a lane of a quad
    static constexpr bool OFFSET = D::has_offset, SUMS = OFFSET || codes::bias != 0;
    static constexpr bool PAIRS = false;                         // see direct_lanes.cuh
    static constexpr int SHARERS = ALONE && planes == 3 ? 2 : 1; // of a scale, pieces
    static constexpr bool EXCHANGES = ALONE || (codes::in_order == CROSSED && codes::parts == 1);
    static constexpr int PITCH = row_pitch<steps>(), stage_bytes = ROWS * PITCH;
    static constexpr int STEP = HELD, WARPS = WARPS_, BLOCKS = 16 / WARPS;
    static constexpr bool INTEGERS = has_integers<D>;
    static constexpr bool AFFINE = planes == 3; // scales of two bytes, offsets that lie like them

    // Steps are counted by the loader.
    GQMM_HD static constexpr int bytes(int)
    {
        return 0;
    }

    // Scales of an affine format of row lane % 16, or its offsets.
    struct places {
        int to[1];

        __device__ __forceinline__ explicit places(int lane)
            : to{lane % 16 * PITCH + code_pitch<steps>() + lane / 16 * scale_pitch<steps>()}
        {
        }
    };

    struct rows {
        loader<steps> from;
        const uint8_t *scales; // of an affine format, from the step on
        int64_t quarter, half, k;
        int step, scale_bytes, left; // of a step, of a row from the step on
        format_args f;

        __device__ __forceinline__ void set(const gqmm_cuda_matrix &w, int64_t row,
                                            const int64_t (&second)[planes], int lane)
        {
            from.point(block_of(w, row, second), lane);
            if (AFFINE)
                scales = from.scales_from[0] + step * scale_bytes +
                         (lane < 16 ? 0 : from.scales_from[1] - from.scales_from[0]);
        }
        __device__ __forceinline__ void move(const int64_t (&by)[planes])
        {
            int64_t all[3] = {};
#pragma unroll
            for (int i = 0; i < planes; i++)
                all[i] = by[i];
            from.move(all);
            if (AFFINE)
                scales += by[1];
        }
        __device__ __forceinline__ void bring(uint32_t stage, const places &at, int lane) const
        {
            uint8_t *to = (uint8_t *)__cvta_shared_to_generic(stage);
            if (!AFFINE) {
                from.bring(to, step, k, true, quarter, half, lane, f);
                return;
            }
            from.bring_codes(to, step, k, quarter, half, lane, f);
            if (left >= scale_bytes)
                bring_scales<true>(to + at.to[0]);
            else
                bring_scales<false>(to + at.to[0]);
        }

      private:
        template <bool WHOLE> __device__ __forceinline__ void bring_scales(uint8_t *to) const
        {
#pragma unroll
            for (int i = 0; i < 16; i += 4)
                if (i < scale_bytes)
                    copy_4(to + i, scales + (WHOLE || i < left ? i : 0),
                           WHOLE || i + 4 <= left ? 4
                           : i < left             ? left - i
                                                  : 0);
        }
    };

    __device__ __forceinline__ static row_block block_of(const gqmm_cuda_matrix &w, int64_t row,
                                                         const int64_t (&second)[planes])
    {
        row_block b = {};
        b.count = 8;
        b.halves = true;
#pragma unroll
        for (int i = 0; i < planes; i++) {
            b.first[i] = w.plane[i] + row * w.row_stride[i];
            b.stride[i] = w.row_stride[i];
            b.second[i] = second[i];
        }
        return b;
    }

    // Sets what is the same in all row tiles.
    __device__ __forceinline__ static void begin(rows &own, numbers &x, const gqmm_cuda_product &p,
                                                 int step, int lane)
    {
        int64_t second[planes];
#pragma unroll
        for (int i = 0; i < planes; i++)
            second[i] = p.up.plane[0] ? p.up.plane[i] - p.w.plane[i] : 8 * p.w.row_stride[i];
        own.f = x.f = {p.w.group, p.w.scale_type};
        own.from.set(block_of(p.w, 0, second), p.k, true, true, lane, own.f);
        own.quarter = 4 * p.w.row_stride[0];
        own.half = second[0];
        own.k = p.k;
        own.step = step;
        if (AFFINE) {
            own.scale_bytes = (int)D::bytes(1, HELD, own.f);
            own.left = (int)D::bytes(1, p.k, own.f) - step * own.scale_bytes;
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint8_t *stage = p.w.plane[0]; // any
            const step_row r = own.from.at(stage, 1 + h, lane, step);
            x.codes_at[h] = (int)(r.p[0] - stage);
            x.scales_at[h] = (int)(r.p[1] - stage);
            keep(x.codes_at[h]);
            if (planes > 1)
                keep(x.scales_at[h]);
        }
    }

    // Adds what offsets of rows g and g + 8 make, as SPLIT bf16 parts, each the rest of what those
    // before leave; least products first.
    template <int SPLIT>
    __device__ __forceinline__ static void add_offsets(float (&acc)[4], float (&v)[2][OWN],
                                                       const numbers &x)
    {
        uint32_t a[2][2][OWN / 2] = {}; // [part][half of rows]
#pragma unroll
        for (int i = 0; i < SPLIT * OWN; i++) {
            const int n = i / OWN, h = i / (OWN / 2) % 2, at = i % (OWN / 2);
            uint32_t &pair = a[n][h][at];
            float &low = v[h][2 * at], &high = v[h][2 * at + 1];
            pair = pair_of(low, high, GQMM_BF16);
            low -= __uint_as_float(pair << 16);
            high -= __uint_as_float(pair & 0xffff0000u);
        }
        if constexpr (OWN == 2) {
            if (SPLIT > 1)
                mma(acc, a[1][0][0], a[1][1][0], 0, 0, x.sums[1][0], 0);
            mma(acc, a[0][0][0], a[0][1][0], a[1][0][0], a[1][1][0], x.sums[2][0], x.sums[0][0]);
            mma(acc, a[0][0][0], a[0][1][0], a[0][0][0], a[0][1][0], x.sums[1][0], x.sums[0][0]);
        } else {
#pragma unroll
            for (int n = 2; n >= 0; n--)
#pragma unroll
                for (int i = 0; i <= n && i < SPLIT; i++)
                    mma(acc, a[i][0][0], a[i][1][0], a[i][0][OWN / 2 - 1], a[i][1][OWN / 2 - 1],
                        x.sums[n - i][0], x.sums[n - i][OWN / 2 - 1]);
        }
    }

    // Each lane of a quad has the scales of two pieces of both rows, and what all of a row's are
    // multiplied by.
    template <int>
    __device__ __forceinline__ static void multiply(float (&acc)[4], const uint8_t *stage,
                                                    const numbers &x, int, int t)
    {
        constexpr int PER = 32 / D::piece, PARTS = codes::parts;
        step_row r[2];
        float own[2][OWN], offset[2][OWN], all[4] = {}, least[4] = {};
        float2 whole[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint8_t *scales = stage + x.scales_at[h];
            r[h] = step_row{{stage + x.codes_at[h], scales, scales + scale_pitch<steps>()}};
            whole[h] = scales_of(own[h], offset[h], r[h], t, x.f);
        }
        float(&to)[4] = INTEGERS && OFFSET ? least : all;
        if (SUMS && (INTEGERS || (AFFINE && x.f.scale_type == GQMM_BF16)))
            add_offsets<1>(to, offset, x);
        else if (SUMS)
            add_offsets<2>(to, offset, x);
#pragma unroll
        for (int first = 0; first < 8; first += SHARERS) {
            float c[PER][4] = {};
#pragma unroll
            for (int j = first; j < first + SHARERS; j++) {
                uint32_t a[PARTS][4], b[PARTS][4];
                codes::template get<true>(a, r[0], j, t, x.f);
                codes::template get<true>(b, r[1], j, t, x.f);
#pragma unroll
                for (int n = PARTS - 1; n >= 0; n--) {
                    mma(c[0], a[n][0], b[n][0], a[n][1], b[n][1], x.x[j][0], x.x[j][1]);
                    mma(c[PER - 1], a[n][2], b[n][2], a[n][3], b[n][3], x.x[j][2], x.x[j][3]);
#pragma unroll
                    for (int i = 0; n > 0 && i < 4 * PER; i++)
                        c[i / 4][i % 4] *= power_of_two(codes::up(j));
                }
            }
#pragma unroll
            for (int i = first * PER; i < (first + 1) * PER; i++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    all[e] = fmaf(__shfl_sync(~0u, own[e / 2][i % OWN], i / (2 * PER), 4),
                                  c[i % PER][e], all[e]);
        }
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float v = INTEGERS ? whole[e / 2].x * all[e] : all[e];
            v = INTEGERS && OFFSET ? fmaf(whole[e / 2].y, least[e], v) : v;
            acc[e] = fmaf(UNIT, v, acc[e]);
        }
    }

    // Scales of the lane's groups, and their offsets or what meets sums of activations as these do.
    __device__ __forceinline__ static float2 scales_of(float (&own)[OWN], float (&offset)[OWN],
                                                       const step_row &r, int t,
                                                       const format_args &f)
    {
        float2 whole = make_float2(1.0f, 1.0f);
        if constexpr (INTEGERS) {
            whole = codes::template integers<true>(own, offset, r, t);
        } else {
            float2 s[OWN];
            piece_scales<D, true>(s, r, t, f);
#pragma unroll
            for (int i = 0; i < OWN; i++)
                own[i] = s[i].x, offset[i] = s[i].y;
        }
#pragma unroll
        for (int i = 0; i < OWN && !OFFSET; i++)
            offset[i] = own[i];
        return whole;
    }

    // Whether rows lie so that those of a lane start alike in all row tiles.
    static bool fits(const gqmm_cuda_product *p)
    {
        return matrix_fits(p->w) && p->k % D::block == 0 &&
               (SHARERS == 1 || p->w.group >= 32 * SHARERS) &&
               (!p->up.plane[0] || (matrix_fits(p->up) && alike(p->w, p->up)));
    }

  private:
    static bool matrix_fits(const gqmm_cuda_matrix &w)
    {
        return rows_at(w, 0, D::align) && w.expert_stride[0] % 16 == 0 && !w.global &&
               (planes == 1 || w.aligned) && (planes < 3 || w.scale_type != GQMM_F32) &&
               (!scale_bytes_of<D>::value || (rows_at(w, 1, 2) && w.expert_stride[1] % 16 == 0)) &&
               (!AFFINE ||
                (w.row_stride[1] == w.row_stride[2] && w.expert_stride[1] == w.expert_stride[2]));
    }

    static bool alike(const gqmm_cuda_matrix &w, const gqmm_cuda_matrix &up)
    {
        bool ok = true;
        for (int i = 0; i < planes; i++)
            ok = ok && w.row_stride[i] == up.row_stride[i] &&
                 w.expert_stride[i] == up.expert_stride[i];
        return ok;
    }
};

} // namespace gqmm

#endif
