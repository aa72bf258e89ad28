// SPDX-License-Identifier: MIT
// E2M1 codes with a power of two for every 32, for direct_stay.cuh: mxfp4, whose blocks start at
// any byte, and MLX's, whose scales do. K is any multiple of 32: zeros fill the last step.
//
// Codes are bf16 numbers as decode_low.cuh has them, doubled and 2^-127 of what they are.
// Activations are larger by a power of two that makes up for it.
#ifndef GQMM_KERNEL_CUDA_DIRECT_FP4_CUH
#define GQMM_KERNEL_CUDA_DIRECT_FP4_CUH

#include "kernel/cuda/decode_low.cuh"
#include "kernel/cuda/few.cuh"
#include "kernel/cuda/held.cuh"

namespace gqmm
{

// The lane's numbers of column lane / 4, eight for each piece of 32.
template <class L> struct held_fp4 {
    static constexpr int power = 0; // never the usual one of held.cuh
    uint32_t x[L::PIECES][4];
    float2 times; // what columns 2 t and 2 t + 1 count
    // Where the lane's weights lie in a stage, of rows g and g + 8.
    int words_at[2][L::SLIPS]; // of pieces by how far from a multiple of 4 these are in the step
    int slip_bits[2];          // that a row's first word is behind
    int scales_at[2];          // of pieces 2 t and on

    // `left` numbers are left of the row from the step on; NULL: zeros.
    __device__ __forceinline__ void load(const uint16_t *row, int left, int t)
    {
#pragma unroll
        for (int i = 0; i < L::PIECES; i++) {
            uint4 v = make_uint4(0, 0, 0, 0);
            if (row && i * 32 < left)
                v = L::load_eight(row + i * 32, t);
            x[i][0] = v.x;
            x[i][1] = v.y;
            x[i][2] = v.z;
            x[i][3] = v.w;
        }
    }

    __device__ __forceinline__ void find_power()
    {
        const int t = (int)threadIdx.x & 3;
#pragma unroll
        for (int i = 0; i < L::PIECES && L::planes == 1; i++)
            exchange_halves(x[i], t);
    }

    // The largest number of a column is about 2^127 then.
    __device__ __forceinline__ void prepare(int, int t)
    {
        uint32_t most = 0;
#pragma unroll
        for (int i = 0; i < L::PIECES; i++)
            most = pair_most(most,
                             pair_most(pair_most(x[i][0], x[i][1]), pair_most(x[i][2], x[i][3])));
        most = largest_of<4>(most);
        const int above = 254 - (int)(most >> 7);
        const int by = above > 127 ? 127 : above < 0 ? 0 : above;
#pragma unroll
        for (int i = 0; i < L::PIECES; i++) {
            L::to_pairs(x[i]);
#pragma unroll
            for (int j = 0; j < 4; j++)
                x[i][j] = pair_mul(x[i][j], pair_of_powers(by));
        }
        times = make_float2(power_of_two(127 - __shfl_sync(~0u, by, 8 * t)),
                            power_of_two(127 - __shfl_sync(~0u, by, 8 * t + 4)));
    }

    __device__ __forceinline__ float2 post(int) const
    {
        return times;
    }
};

template <class D> struct lane_fp4 {
    typedef held_fp4<lane_fp4> numbers;
    // Codes of a row and what is around them fill 128 bytes of a stage, then come scales of MLX:
    // lanes of a quad read 16 neighbouring bytes, eight rows meet all banks.
    static constexpr int planes = D::planes, TAIL = 128, PITCH = planes == 1 ? 144 : 176;
    static constexpr int stage_bytes = 16 * PITCH;
    // Of a step, and warps of a block, each with a step of K: where bytes of rows lie anywhere,
    // shorter steps come in fewer copies.
    static constexpr int PIECES = planes == 1 ? 6 : 8, WARPS = planes == 1 ? 15 : 12;
    static constexpr int BLOCKS = 1; // of a multiprocessor
    static constexpr int STEP = PIECES * 32;
    static constexpr int SLIPS = planes == 1 ? 4 : 1;
    static constexpr int SECOND = planes == 1 ? 2 : 1; // pair of low_e2m1() in the order of k
    static constexpr bool PAIRS = false;               // see direct_lanes.cuh

    // Of a step.
    GQMM_HD static constexpr int bytes(int plane)
    {
        return PIECES * (planes == 1 ? 17 : plane == 0 ? 16 : 1);
    }
    static_assert(PIECES * (planes == 1 ? 17 : 16) + (planes == 1 ? 15 : 0) <= TAIL &&
                      PIECES + 15 <= 32,
                  "codes in eight times 16 bytes, scales in two");

    // 16 bytes of codes of rows lane / 8, 4, 8 and 12 further, and of scales of row lane / 2.
    struct places {
        int to[2];

        __device__ __forceinline__ explicit places(int lane)
            : to{lane / 8 * PITCH + lane % 8 * 16, lane / 2 * PITCH + TAIL + lane % 2 * 16}
        {
        }
    };

    struct rows {
        const uint8_t *from[2];
        int64_t quarter, half;
        int valid[5];  // bytes that are wanted of the lane's 16
        bool whole[2]; // the rows of a plane do not end near

        __device__ __forceinline__ void set(const gqmm_cuda_matrix &w, int64_t row,
                                            const int64_t (&second)[planes], int lane)
        {
            constexpr int last = planes - 1;
            quarter = 4 * w.row_stride[0];
            half = second[0];
            from[0] = w.plane[0] + (row + lane / 8) * w.row_stride[0] + lane % 8 * 16;
            if (last)
                from[1] = w.plane[last] + (row + lane / 2 % 8) * w.row_stride[last] +
                          (lane & 16 ? second[last] : 0) + lane % 2 * 16;
        }
        __device__ __forceinline__ void move(const int64_t (&by)[planes])
        {
            from[0] += by[0];
            if (planes > 1)
                from[1] += by[planes - 1];
        }
        __device__ __forceinline__ void bring(uint32_t stage, const places &at, int) const
        {
            if (whole[0])
                bring_codes<true>(stage, at);
            else
                bring_codes<false>(stage, at);
            if (planes > 1 && whole[1])
                copy<true, true>(stage + at.to[1], from[1], valid[4]);
            else if (planes > 1)
                copy<false, true>(stage + at.to[1], from[1], valid[4]);
        }

      private:
        template <bool WHOLE>
        __device__ __forceinline__ void bring_codes(uint32_t stage, const places &at) const
        {
            const uint32_t to = stage + at.to[0];
            copy<WHOLE>(to, from[0], valid[0]);
            copy<WHOLE>(to + 4 * PITCH, from[0] + quarter, valid[1]);
            copy<WHOLE>(to + 8 * PITCH, from[0] + half, valid[2]);
            copy<WHOLE>(to + 12 * PITCH, from[0] + half + quarter, valid[3]);
        }

        // The 16 bytes that hold `from`, with zeros for those behind the row's end. SCALES: also
        // where none are there, as some are no numbers.
        template <bool WHOLE, bool SCALES = false>
        __device__ __forceinline__ static void copy(uint32_t to, const uint8_t *from, int valid)
        {
            const uint8_t *down = (const uint8_t *)((uintptr_t)from & ~(uintptr_t)15);
            if (WHOLE && valid > 0)
                copy_to<16>(to, down);
            else if (!WHOLE && (SCALES || valid > 0))
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
                             "l"(SCALES && valid == 0 ? down - 16 : down), "r"(valid)
                             : "memory");
        }
    };

    // How far from a multiple of 16 row r of 16 has its step of a plane: so in all row tiles.
    __device__ __forceinline__ static int slip(const gqmm_cuda_product &p, int plane, int r,
                                               int step)
    {
        const bool up = r >= 8 && p.up.plane[0];
        const gqmm_cuda_matrix &w = up ? p.up : p.w;
        const int64_t row =
            (int64_t)(uintptr_t)w.plane[plane] + (up ? r - 8 : r) * w.row_stride[plane];
        return (int)(row + step * bytes(plane)) & 15;
    }

    // Sets what is the same in all row tiles.
    __device__ __forceinline__ static void begin(rows &own, held_fp4<lane_fp4> &x,
                                                 const gqmm_cuda_product &p, int step, int lane)
    {
        constexpr int last = planes - 1;
        const int g = lane >> 2, t = lane & 3, pieces = (int)p.k / 32 - step * PIECES;
        const auto valid = [&](int plane, int r, int at) {
            const int some = pieces * (bytes(plane) / PIECES);
            const int here =
                (some < bytes(plane) ? some : bytes(plane)) + slip(p, plane, r, step) - at;
            return here < 0 ? 0 : here < 16 ? here : 16;
        };
#pragma unroll
        for (int i = 0; i < 4; i++)
            own.valid[i] = valid(0, lane / 8 + 4 * i, lane % 8 * 16);
        own.whole[0] = pieces > PIECES + 1;
        own.whole[1] = pieces >= PIECES + 15;
        own.valid[4] = valid(last, lane / 2, lane % 2 * 16);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = (g + 8 * h) * PITCH, in_last = slip(p, last, g + 8 * h, step);
            const int own_slip = last ? 0 : in_last;
#pragma unroll
            for (int i = 0; i < SLIPS; i++) {
                x.words_at[h][i] = row + (own_slip & 12) + 4 * t + ((own_slip & 3) + i & 4);
                keep(x.words_at[h][i]);
            }
            x.slip_bits[h] = own_slip * 8;
            x.scales_at[h] = row + in_last + (last ? TAIL + 2 * t : 34 * t);
            keep(x.slip_bits[h]);
            keep(x.scales_at[h]);
        }
    }

    // The numbers of a piece that meet the lane's word, once halves are exchanged, and these in
    // pairs as low_codes has them.
    __device__ __forceinline__ static uint4 load_eight(const uint16_t *piece, int t)
    {
        return *(const uint4 *)(piece + 8 * (planes > 1 ? t : eight_of_half(t)));
    }

    __device__ __forceinline__ static void to_pairs(uint32_t (&x)[4])
    {
        const uint32_t v[4] = {x[0], planes > 1 ? x[2] : x[1], planes > 1 ? x[1] : x[2], x[3]};
        x[0] = __byte_perm(v[0], v[1], 0x5410);
        x[1] = __byte_perm(v[0], v[1], 0x7632);
        x[2] = __byte_perm(v[2], v[3], 0x5410);
        x[3] = __byte_perm(v[2], v[3], 0x7632);
    }

    // The lane's codes of piece j of row g or g + 8.
    __device__ __forceinline__ static uint32_t word(const uint8_t *stage,
                                                    const held_fp4<lane_fp4> &x, int h, int j)
    {
        const int at = planes == 1 ? 17 * j + 1 : 16 * j, i = at % SLIPS;
        const uint32_t *words = (const uint32_t *)(stage + x.words_at[h][i] + at / 4 * 4);
        return planes == 1 ? __funnelshift_r(words[0], words[1], x.slip_bits[h] + 8 * i) : words[0];
    }

    // Each lane of a quad has the scales of two pieces of both rows.
    template <int>
    __device__ __forceinline__ static void multiply(float (&acc)[4], const uint8_t *stage,
                                                    const held_fp4<lane_fp4> &x, int, int)
    {
        float own[2][2];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint8_t s = stage[x.scales_at[i / 2] + i % 2 * (planes > 1 ? 1 : 17)];
            own[i / 2][i % 2] = planes > 1 ? 0.5f * gqmm_e8m0_to_f32(s) : gqmm_e8m0_half_to_f32(s);
        }
#pragma unroll
        for (int j = 0; j < PIECES; j++) {
            uint32_t a[4], b[4];
            float c[4] = {};
            low_e2m1(a, word(stage, x, 0, j));
            low_e2m1(b, word(stage, x, 1, j));
            mma(c, a[0], b[0], a[SECOND], b[SECOND], x.x[j][0], x.x[j][1]);
            mma(c, a[3 - SECOND], b[3 - SECOND], a[3], b[3], x.x[j][2], x.x[j][3]);
#pragma unroll
            for (int e = 0; e < 4; e++)
                acc[e] = fmaf(__shfl_sync(~0u, own[e / 2][j & 1], j / 2, 4), c[e], acc[e]);
        }
    }

    // Whether rows lie so that a lane's pieces have one slip in all row tiles, and codes of MLX
    // none.
    static bool fits(const gqmm_cuda_product *p)
    {
        bool ok = planes == 1 || (p->w.aligned && (!p->up.plane[0] || p->up.aligned));
        for (int i = 0; i < planes; i++)
            ok = ok && p->w.expert_stride[i] % 16 == 0 &&
                 (!p->up.plane[0] ||
                  (p->up.expert_stride[i] % 16 == 0 && p->w.row_stride[i] % 2 == 0 &&
                   p->up.row_stride[i] == p->w.row_stride[i]));
        return ok;
    }
};

} // namespace gqmm

#endif
