// SPDX-License-Identifier: MIT
// Scales of the wide product: from a step in shared memory to bf16 pairs that a weight is made
// with, one for each row and group of a consumer warp.
#ifndef GQMM_KERNEL_CUDA_WIDE_SCALES_CUH
#define GQMM_KERNEL_CUDA_WIDE_SCALES_CUH

#include "kernel/cuda/wide_codes.cuh"
#include "kernel/cuda/wide_load.cuh"

namespace gqmm
{
namespace wide_product
{

// How a code becomes a weight.
//   ONE    code * x                 scales that bf16 holds exactly, so one rounding
//   TWO    fma(code, x, code * y)   x + y is the scale: one rounding again
//   OFFSET fma(code, x, y)          scale and offset, both rounded
//   LOW    the same with codes in low bits, see wide_codes.cuh
enum making { ONE, TWO, OFFSET, LOW };

template <class D> struct has_bf16_scales {
    static constexpr bool value = false;
};
template <> struct has_bf16_scales<dec_mxfp4> {
    static constexpr bool value = true;
};
template <> struct has_bf16_scales<dec_nvfp4> {
    static constexpr bool value = true;
};
template <> struct has_bf16_scales<dec_mlx_mxfp4> {
    static constexpr bool value = true;
};
template <> struct has_bf16_scales<dec_mlx_nvfp4> {
    static constexpr bool value = true;
};
template <> struct has_bf16_scales<dec_mlx_mxfp8> {
    static constexpr bool value = true;
};

template <class D> GQMM_HD constexpr making making_of()
{
    return wide_codes<D>::low          ? LOW
           : D::has_offset             ? OFFSET
           : has_bf16_scales<D>::value ? ONE
                                       : TWO;
}

// A row's pairs of bits lie together, one or two words for a group, and rows so far apart that
// eight rows' 8 or 16 bytes are in banks of their own.
template <making M> constexpr int scale_words = M == ONE ? 1 : 2;

template <class D, int STEP = D::step> GQMM_HD constexpr int scale_pitch() // words of a row
{
    constexpr int groups = STEP / D::piece;
    return making_of<D>() == ONE ? groups + (groups == 16 ? 4 : 2) : 2 * groups + 4;
}

// Sixteen rows' bytes for each of a warp's parts.
template <class D> GQMM_HD constexpr int scale_bytes_of_rows()
{
    return 16 * 4 * scale_pitch<D>();
}

template <int n> __device__ __forceinline__ void read_words(uint32_t (&v)[n], const uint32_t *p)
{
    if constexpr (n == 1) {
        v[0] = *p;
    } else if constexpr (n == 2) {
        const uint2 u = *(const uint2 *)p;
        v[0] = u.x, v[1] = u.y;
    } else {
#pragma unroll
        for (int i = 0; i < n; i += 4) {
            const uint4 u = *(const uint4 *)(p + i);
            v[i] = u.x, v[i + 1] = u.y, v[i + 2] = u.z, v[i + 3] = u.w;
        }
    }
}

template <int n> __device__ __forceinline__ void write_words(uint32_t *p, const uint32_t (&v)[n])
{
    if constexpr (n % 4 == 0 && n > 4) {
#pragma unroll
        for (int i = 0; i < n; i += 4)
            *(uint4 *)(p + i) = make_uint4(v[i], v[i + 1], v[i + 2], v[i + 3]);
    } else {
#pragma unroll
        for (int i = 0; i < n; i += 2)
            *(uint2 *)(p + i) = make_uint2(v[i], v[i + 1]);
    }
}

// The same number twice, rounded.
__device__ __forceinline__ uint32_t twice(float v)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %1;" : "=r"(r) : "f"(v));
    return r;
}

// Of group-piece g.
template <class D>
__device__ __forceinline__ void put_scale(uint32_t *to, float scale, float offset, int g)
{
    constexpr making M = making_of<D>();
    if constexpr (M == LOW) {
        using C = wide_codes<D>;
        to[0] = twice(scale * power_of_two(LOW_SCALE - C::bit(g / (32 / D::piece), 0)));
        to[1] = twice((C::bias ? -C::bias * scale : offset) * power_of_two(-LOW_REST));
        return;
    }
    to[0] = twice(scale);
    if constexpr (M == OFFSET)
        to[1] = twice(offset);
    if constexpr (M == TWO) {
        const float rest = scale - __uint_as_float(to[0] & 0xffff0000);
        to[1] = twice(rest - rest == 0.0f ? rest : 0.0f); // of an infinite scale there is no rest
    }
}

// Codes of piece j of a row for lane t. `row` is where the decoder wants it.
template <class D, bool ALIGNED>
__device__ __forceinline__ void get_codes(uint32_t (&a)[4], const step_row &row, int j, int t,
                                          const format_args &f)
{
    if constexpr (making_of<D>() == LOW) {
        wide_codes<D>::get(a, row.p[0], j, t);
    } else {
        uint32_t v[1][4];
        D::template codes<ALIGNED>(v, row, j, t, f);
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = v[0][i];
    }
}

// Of pair p.
template <class D>
__device__ __forceinline__ uint32_t weight_pair(uint32_t code, const uint32_t *scale, int p)
{
    constexpr making M = making_of<D>();
    if constexpr (M == ONE) {
        return pair_mul(code, scale[0]);
    } else if constexpr (M == TWO) {
        return pair_fma(code, scale[0], pair_mul(code, scale[1]));
    } else if constexpr (M == LOW) {
        const int bit = wide_codes<D>::bit(0, p) - wide_codes<D>::bit(0, 0);
        const uint32_t by = bit ? pair_mul(scale[0], both(bf16_power(-bit))) : scale[0];
        return pair_fma(code, by, scale[1]);
    } else {
        return pair_fma(code, scale[0], scale[1]);
    }
}

// Scales of groups `count` * half and following of a row.
template <class D, int count> struct scale_maker {
    static __device__ __forceinline__ void make(uint32_t (&v)[count * scale_words<making_of<D>()>],
                                                const step_row &row, int half, const format_args &f)
    {
        constexpr int words = scale_words<making_of<D>()>;
        float2 s = make_float2(0.0f, 0.0f);
#pragma unroll
        for (int i = 0; i < count; i++) {
            if (i == 0 || D::piece == 16 ||
                (32 * i & (f.group - 1)) == 0) // else that of the one before
                s = D::template scale<true>(row, half * count + i, f);
            put_scale<D>(v + i * words, s.x, s.y, i);
        }
    }
};

// Planes of bf16 scales, of four groups of 32 each.
template <class D> struct low_scale_maker {
    static __device__ __forceinline__ uint32_t read(const uint8_t *p, int i, int shift)
    {
        return permute(((const uint16_t *)p)[i >> shift], 0, 0x1010);
    }

    static __device__ __forceinline__ void make(uint32_t (&v)[8], const step_row &row, int half,
                                                const format_args &f)
    {
        constexpr int bias = wide_codes<D>::bias;
        const int shift = f.group >> 6; // groups of 32, 64, 128
        if (D::planes == 3 && f.scale_type != GQMM_BF16) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float2 s = D::template scale<true>(row, 4 * half + i, f);
                put_scale<D>(v + 2 * i, s.x, s.y, i);
            }
            return;
        }
        const int at = (4 * half >> shift) * 2;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t s = read(row.p[1] + at, i, shift);
            v[2 * i] = pair_mul(s, both(bf16_power(LOW_SCALE)));
            v[2 * i + 1] =
                bias ? pair_mul(s, both(0x8000 | (bf16_small(bias ? bias : 1) - (LOW_REST << 7))))
                     : pair_mul(read(row.p[2] + at, i, shift), both(bf16_power(-LOW_REST)));
        }
    }
};
template <> struct scale_maker<dec_int4, 4> : low_scale_maker<dec_int4> {
};
template <> struct scale_maker<dec_affine4, 4> : low_scale_maker<dec_affine4> {
};

// q4_k and q5_k: six bits each of eight scales and minima, packed; four at once.
template <class D> struct k_scale_maker {
    static __device__ __forceinline__ void make(uint32_t (&v)[8], const step_row &row, int half,
                                                const format_args &)
    {
        const uint4 w = *(const uint4 *)row.p[0];
        const uint32_t sc = half ? pick(w.y >> 2, 0x30303030, w.w & 0x0f0f0f0f) : w.y & 0x3f3f3f3f;
        const uint32_t mn =
            half ? pick(w.z >> 2, 0x30303030, w.w >> 4 & 0x0f0f0f0f) : w.z & 0x3f3f3f3f;
        // 2^23 + v, times d, less 2^23 d: d * v, rounded once.
        const float d = half_to_float(w.x & 0xffff), m = -half_to_float(w.x >> 16);
        const float d23 = -8388608.0f * d, m23 = -8388608.0f * m;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float s = __uint_as_float(permute(sc, 0x4b000000, 0x7440 + i));
            const float o = __uint_as_float(permute(mn, 0x4b000000, 0x7440 + i));
            put_scale<D>(v + 2 * i, __fmaf_rn(s, d, d23), __fmaf_rn(o, m, m23), i);
        }
    }
};
template <> struct scale_maker<dec_q4_k, 4> : k_scale_maker<dec_q4_k> {
};
template <> struct scale_maker<dec_q5_k, 4> : k_scale_maker<dec_q5_k> {
};

} // namespace wide_product
} // namespace gqmm

#endif
