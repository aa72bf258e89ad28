/* SPDX-License-Identifier: MIT */
/* The words of the rooms neon and neon_i8mm, which define ROW_NAME: ARMv8.2-A with dot products. */
#ifndef GQMM_KERNEL_NEON_WORDS_H
#define GQMM_KERNEL_NEON_WORDS_H

#include "kernel/act.h"

#include <arm_neon.h>

#define INLINE static inline __attribute__((always_inline))
#define PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#    define UNROLL(n) PRAGMA(unroll n)
#else
#    define UNROLL(n) PRAGMA(GCC unroll n)
#endif

enum {
    LANES = 4,        /* 32-bit lanes of a vector */
    ROWS = 2 * LANES, /* stored rows of a tile: an activation in a register serves two vectors */
    I_MR = 8,         /* activation rows at once: 16 integer sums of 32 registers */
    DIRECT = 4,       /* see panel_exact.h: 16 sums and 8 weights */
    WIDE_SHIFT = 0,   /* wide_codes() leaves codes signed, as both factors of sdot and smmla are */
    SIGNED_PANELS = true
};

typedef uint8x16_t vec;
typedef float32x4_t fvec;

INLINE void prefetch(uintptr_t at)
{
    __builtin_prefetch((const void *)at, 0, 2);
}

/* Vectors by the size and sign of their numbers. */
INLINE uint32x4_t u32(vec v)
{
    return vreinterpretq_u32_u8(v);
}

INLINE int32x4_t s32(vec v)
{
    return vreinterpretq_s32_u8(v);
}

INLINE vec from_u32(uint32x4_t v)
{
    return vreinterpretq_u8_u32(v);
}

/* ---- floats */

INLINE fvec f_load(const float *p)
{
    return vld1q_f32(p);
}

INLINE void f_store(float *p, fvec v)
{
    vst1q_f32(p, v);
}

INLINE void f_store_any(float *p, fvec v)
{
    vst1q_f32(p, v);
}

INLINE fvec f_set(float v)
{
    return vdupq_n_f32(v);
}

INLINE fvec f_mul(fvec a, fvec b)
{
    return vmulq_f32(a, b);
}

INLINE fvec f_add(fvec a, fvec b)
{
    return vaddq_f32(a, b);
}

INLINE fvec f_fma(fvec a, fvec b, fvec c)
{
    return vfmaq_f32(c, a, b);
}

INLINE fvec f_negate(fvec v)
{
    return vnegq_f32(v);
}

/* 4 f16 numbers at any address. */
INLINE fvec f_halves(const void *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

/* 4 signed bytes. */
INLINE fvec f_codes(const int8_t *q)
{
    const int16x8_t wide = vmovl_s8(vcreate_s8(gqmm_load32((const uint8_t *)q)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}

/* ---- bytes */

INLINE vec load(const void *p)
{
    return vld1q_u8(p);
}

INLINE void store(void *p, vec v)
{
    vst1q_u8(p, v);
}

INLINE vec masked(vec v, int mask)
{
    return vandq_u8(v, vdupq_n_u8((uint8_t)mask));
}

INLINE vec low_nibbles(vec v)
{
    return masked(v, 15);
}

INLINE vec high_nibbles(vec v)
{
    return vshrq_n_u8(v, 4);
}

INLINE vec either(vec a, vec b)
{
    return vorrq_u8(a, b);
}

/* base | (v & mask) */
INLINE vec or_masked(vec base, vec v, int mask)
{
    return either(base, masked(v, mask));
}

/* To the right if negative. Shifts by vectors need no literals, and become shifts by constants. */
INLINE vec shift_left(vec v, int bits)
{
    return bits >= 0 ? v << vdupq_n_u8((uint8_t)bits) : v >> vdupq_n_u8((uint8_t)-bits);
}

INLINE vec flip_signs(vec v)
{
    return veorq_u8(v, vdupq_n_u8(128));
}

/* Codes from -128 to 127 as the panels hold them. */
INLINE vec wide_codes(vec v)
{
    return v;
}

/* 16 bytes, for lookup(). */
INLINE vec table(const int8_t v[16])
{
    return vreinterpretq_u8_s8(vld1q_s8(v));
}

INLINE vec lookup(vec map, vec codes)
{
    return vqtbl1q_u8(map, codes);
}

/* The 4 nibbles of bytes 0 and 1 of each dword (half 0) or 2 and 3, low nibbles first. */
INLINE vec nibbles_in_order(vec v, int half)
{
    const vec lo = low_nibbles(v), hi = high_nibbles(v);
    const uint32x4_t a = u32(vzip1q_u8(lo, hi)), b = u32(vzip2q_u8(lo, hi));
    return from_u32(half ? vuzp2q_u32(a, b) : vuzp1q_u32(a, b));
}

/* Bits 4 i .. 4 i + 3 of each dword as bit 4 of its four bytes: their byte goes to all four, and
 * each tests one bit of it. */
INLINE vec spread_bits(vec v, int i)
{
    const vec from = from_u32(vaddq_u32(vdupq_n_u32(0x01010101u * (unsigned)(i / 2)),
                                        (uint32x4_t){0, 0x04040404, 0x08080808, 0x0c0c0c0c}));
    const vec bit = from_u32(vdupq_n_u32(i % 2 ? 0x80402010u : 0x08040201u));
    return masked(vtstq_u8(vqtbl1q_u8(v, from), bit), 16);
}

/* Dwords: to the right if negative. */
INLINE vec shift32(vec v, int bits)
{
    return from_u32(bits >= 0 ? u32(v) << vdupq_n_u32((uint32_t)bits)
                              : u32(v) >> vdupq_n_u32((uint32_t)-bits));
}

INLINE vec masked32(vec v, int mask)
{
    return from_u32(vandq_u32(u32(v), vdupq_n_u32((uint32_t)mask)));
}

/* `count` bits of each dword from bit `first` on. */
INLINE fvec field_at(vec v, int first, int count)
{
    return vcvtq_f32_u32(u32(masked32(shift32(v, -first), (1 << count) - 1)));
}

/* Byte j of each dword. */
INLINE fvec byte_at(vec v, int j)
{
    return field_at(v, 8 * j, 8);
}

/* Byte j of each dword with its sign. */
INLINE int32x4_t signed_byte(vec v, int j)
{
    return s32(shift32(v, 24 - 8 * j)) >> vdupq_n_s32(24);
}

INLINE fvec signed_byte_at(vec v, int j)
{
    return vcvtq_f32_s32(signed_byte(v, j));
}

/* Byte j, with a sign or without, less the shift. */
INLINE fvec code_at(vec v, int j, int shift, bool is_signed)
{
    const int32x4_t b = is_signed ? signed_byte(v, j) : s32(masked32(shift32(v, -8 * j), 255));
    return vcvtq_f32_s32(vsubq_s32(b, vdupq_n_s32(shift)));
}

/* LANES bytes, each to a dword. */
INLINE vec bytes_to_dwords(const uint8_t *p)
{
    return from_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(gqmm_load32(p))))));
}

/* The f16 number in the low (high) half of each dword. */
INLINE fvec low_halves(vec v)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(u32(v))));
}

INLINE fvec high_halves(vec v)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(u32(v), 16)));
}

/* `yes` in the dwords that equal `value`, else `no`. */
INLINE fvec where_equal(vec v, int value, fvec yes, fvec no)
{
    return vbslq_f32(vceqq_u32(u32(v), vdupq_n_u32((uint32_t)value)), yes, no);
}

INLINE fvec f_or(fvec a, vec bits)
{
    return vreinterpretq_f32_u8(either(vreinterpretq_u8_f32(a), bits));
}

/* 32 codes + add to bytes. */
INLINE void narrow32(uint8_t *to, const int16_t *q, int add)
{
    const int16x8_t more = vdupq_n_s16((int16_t)add);
    UNROLL(4)
    for (int i = 0; i < 32; i += 8)
        vst1_s8((int8_t *)to + i, vmovn_s16(vaddq_s16(vld1q_s16(q + i), more)));
}

/* ---- 4 rows */

/* 16 bytes at `at` of each: vector i holds bytes 4 i .. 4 i + 3 of all rows. */
INLINE void transpose(vec o[4], const uint8_t *const *row, int64_t at)
{
    const uint32x4_t r0 = u32(vld1q_u8(row[0] + at)), r1 = u32(vld1q_u8(row[1] + at));
    const uint32x4_t r2 = u32(vld1q_u8(row[2] + at)), r3 = u32(vld1q_u8(row[3] + at));
    const uint64x2_t a = vreinterpretq_u64_u32(vtrn1q_u32(r0, r1)); /* dwords 0 and 2 */
    const uint64x2_t b = vreinterpretq_u64_u32(vtrn2q_u32(r0, r1)); /* dwords 1 and 3 */
    const uint64x2_t c = vreinterpretq_u64_u32(vtrn1q_u32(r2, r3));
    const uint64x2_t d = vreinterpretq_u64_u32(vtrn2q_u32(r2, r3));
    o[0] = vreinterpretq_u8_u64(vtrn1q_u64(a, c));
    o[1] = vreinterpretq_u8_u64(vtrn1q_u64(b, d));
    o[2] = vreinterpretq_u8_u64(vtrn2q_u64(a, c));
    o[3] = vreinterpretq_u8_u64(vtrn2q_u64(b, d));
}

/* Numbers of 16, 8 and 32 bits at `at` of each. */
#define EACH4(x) x(0), x(1), x(2), x(3)

INLINE uint16x4_t shorts_at(const uint8_t *const *row, int64_t at)
{
#define SHORT(r) gqmm_load16(row[r] + at)
    return (uint16x4_t){EACH4(SHORT)};
#undef SHORT
}

INLINE fvec halves_at(const uint8_t *const *row, int64_t at)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(shorts_at(row, at)));
}

INLINE fvec bf16_at(const uint8_t *const *row, int64_t at)
{
    return vreinterpretq_f32_u32(vshll_n_u16(shorts_at(row, at), 16));
}

INLINE vec dwords_at(const uint8_t *const *row, int64_t at)
{
#define DWORD(r) gqmm_load32(row[r] + at)
    return from_u32((uint32x4_t){EACH4(DWORD)});
#undef DWORD
}

INLINE fvec floats_at(const uint8_t *const *row, int64_t at)
{
    return vreinterpretq_f32_u8(dwords_at(row, at));
}

/* 2^(e - 127) of the bytes at `at`, as gqmm_e8m0_to_f32(), or its half. */
INLINE fvec powers_at(const uint8_t *const *row, int64_t at, bool halved)
{
#define BYTE(r) row[r][at]
    const uint32x4_t e = {EACH4(BYTE)};
#undef BYTE
    const uint32x4_t normal = vshlq_n_u32(vsubq_u32(e, vdupq_n_u32(halved)), 23);
    const uint32x4_t subnormal =
        vshlq_u32(vdupq_n_u32(halved ? 0x00200000 : 0x00400000), vreinterpretq_s32_u32(e));
    const uint32x4_t small = vcltq_u32(e, vdupq_n_u32(halved ? 2 : 1));
    return vreinterpretq_f32_u32(vbslq_u32(small, subnormal, normal));
}

/* ---- integer sums */

/* See neon_core.h. A lane of x holds the 4 codes that meet a panel vector; lanes are literals. */
INLINE void dots_of_rows(int32x4_t (*d)[2], const uint8_t (*q)[ROWS][4], const gqmm_act *const *act,
                         int from, const int mr, const int piece)
{
    UNROLL(2)
    for (int i = 0; i < piece; i += 16) {
        int8x16_t x[I_MR];
        UNROLL(8)
        for (int t = 0; t < mr; t++)
            x[t] = vld1q_s8(act[t]->q + from + i);
#define DOTS(lane) \
    { \
        const int8x16_t w0 = vreinterpretq_s8_u8(load(q[i / 4 + lane])); \
        const int8x16_t w1 = vreinterpretq_s8_u8(load(q[i / 4 + lane] + LANES)); \
        UNROLL(8) \
        for (int t = 0; t < mr; t++) { \
            d[t][0] = vdotq_laneq_s32(d[t][0], w0, x[t], lane); \
            d[t][1] = vdotq_laneq_s32(d[t][1], w1, x[t], lane); \
        } \
    }
        DOTS(0)
        DOTS(1)
        DOTS(2)
        DOTS(3)
#undef DOTS
    }
}

#endif
