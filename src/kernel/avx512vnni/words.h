/* SPDX-License-Identifier: MIT */
/* The words of the room avx512vnni: AVX-512 F, BW, DQ, VL and VNNI. */
#ifndef GQMM_KERNEL_AVX512VNNI_WORDS_H
#define GQMM_KERNEL_AVX512VNNI_WORDS_H

#include "base/num.h"

#include <immintrin.h>

#define ROW_NAME(family) gqmm_##family##_avx512vnni
#define INLINE static inline __attribute__((always_inline))
#define PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#    define UNROLL(n) PRAGMA(unroll n)
#else
#    define UNROLL(n) PRAGMA(GCC unroll n)
#endif

enum {
    LANES = 16,       /* 32-bit lanes of a vector */
    ROWS = 2 * LANES, /* stored rows of a tile: a broadcast activation serves two vectors */
    I_MR = 6,         /* activation rows at once: 12 integer and 12 float sums of 32 registers */
    DIRECT = 4,       /* see panel_exact.h: 16 sums and 8 weights */
    WIDE_SHIFT = 128, /* wide_codes() makes signed codes unsigned */
    SIGNED_PANELS = false
};

typedef __m512i vec;
typedef __m512 fvec;

INLINE void prefetch(uintptr_t at)
{
    _mm_prefetch((const char *)at, _MM_HINT_T1);
}

/* ---- floats */

INLINE fvec f_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

INLINE void f_store(float *p, fvec v)
{
    _mm512_store_ps(p, v);
}

INLINE void f_store_any(float *p, fvec v)
{
    _mm512_storeu_ps(p, v);
}

INLINE fvec f_set(float v)
{
    return _mm512_set1_ps(v);
}

INLINE fvec f_mul(fvec a, fvec b)
{
    return _mm512_mul_ps(a, b);
}

INLINE fvec f_add(fvec a, fvec b)
{
    return _mm512_add_ps(a, b);
}

INLINE fvec f_fma(fvec a, fvec b, fvec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

INLINE fvec f_negate(fvec v)
{
    return _mm512_xor_ps(v, _mm512_set1_ps(-0.0f));
}

/* 16 f16 numbers at any address. */
INLINE fvec f_halves(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* 16 signed bytes. */
INLINE fvec f_codes(const int8_t *q)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)q)));
}

/* ---- bytes */

INLINE vec load(const void *p)
{
    return _mm512_load_si512(p);
}

INLINE void store(void *p, vec v)
{
    _mm512_store_si512(p, v);
}

INLINE vec masked(vec v, int mask)
{
    return _mm512_and_si512(v, _mm512_set1_epi8((char)mask));
}

INLINE vec low_nibbles(vec v)
{
    return masked(v, 15);
}

INLINE vec high_nibbles(vec v)
{
    return low_nibbles(_mm512_srli_epi16(v, 4));
}

INLINE vec either(vec a, vec b)
{
    return _mm512_or_si512(a, b);
}

/* base | (v & mask) */
INLINE vec or_masked(vec base, vec v, int mask)
{
    return _mm512_ternarylogic_epi32(base, v, _mm512_set1_epi8((char)mask), 0xf8);
}

/* To the right if negative. Bits pass from byte to byte: a mask follows. */
INLINE vec shift_left(vec v, int bits)
{
    return bits >= 0 ? _mm512_slli_epi16(v, (unsigned)bits) : _mm512_srli_epi16(v, (unsigned)-bits);
}

INLINE vec flip_signs(vec v)
{
    return _mm512_xor_si512(v, _mm512_set1_epi8((char)128));
}

/* Codes from -128 to 127 as this room's panels hold them: vpdpbusd wants them unsigned. */
INLINE vec wide_codes(vec v)
{
    return flip_signs(v);
}

/* 16 bytes, for lookup(). */
INLINE vec table(const int8_t v[16])
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)v));
}

INLINE vec lookup(vec map, vec codes)
{
    return _mm512_shuffle_epi8(map, codes);
}

/* The 4 nibbles of bytes 0 and 1 of each dword (half 0) or 2 and 3, low nibbles first: a byte b as
 * 16 bits is (b | b << 4) & 0x0f0f. */
INLINE vec nibbles_in_order(vec v, int half)
{
    const vec first = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1));
    const vec second = _mm512_broadcast_i32x4(
        _mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1));
    const vec b = _mm512_shuffle_epi8(v, half ? second : first);
    return _mm512_ternarylogic_epi32(b, _mm512_slli_epi16(b, 4), _mm512_set1_epi8(15), 0xa8);
}

/* Bits 4 i .. 4 i + 3 of each dword as bit 4 of its four bytes. The nibble times 2^4 + 2^11 + 2^18
 * + 2^25 has bit j at 8 j + 4; its copies are 7 apart and do not meet. */
INLINE vec spread_bits(vec v, int i)
{
    const vec nibble =
        _mm512_and_si512(_mm512_srli_epi32(v, (unsigned)(4 * i)), _mm512_set1_epi32(15));
    return masked(_mm512_mullo_epi32(nibble, _mm512_set1_epi32(0x02040810)), 16);
}

/* Byte j of each dword. */
INLINE fvec byte_at(vec v, int j)
{
    const vec index = _mm512_broadcast_i32x4(_mm_set_epi32(
        (int)0x8080800cu + j, (int)0x80808008u + j, (int)0x80808004u + j, (int)0x80808000u + j));
    return _mm512_cvtepi32_ps(_mm512_shuffle_epi8(v, index));
}

INLINE fvec signed_byte_at(vec v, int j)
{
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(v, (unsigned)(24 - 8 * j)), 24));
}

/* Byte j less the shift; bytes of this room's panels have no sign. */
INLINE fvec code_at(vec v, int j, int shift, bool is_signed)
{
    (void)is_signed;
    return f_add(byte_at(v, j), f_set((float)-shift));
}

/* LANES bytes, each to a dword. */
INLINE vec bytes_to_dwords(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}

/* Dwords: to the right if negative. */
INLINE vec shift32(vec v, int bits)
{
    return bits >= 0 ? _mm512_slli_epi32(v, (unsigned)bits) : _mm512_srli_epi32(v, (unsigned)-bits);
}

INLINE vec masked32(vec v, int mask)
{
    return _mm512_and_si512(v, _mm512_set1_epi32(mask));
}

/* `count` bits of each dword from bit `first` on. */
INLINE fvec field_at(vec v, int first, int count)
{
    return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(v, (unsigned)first),
                                               _mm512_set1_epi32((1 << count) - 1)));
}

/* The f16 number in the low (high) half of each dword. */
INLINE fvec low_halves(vec v)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
}

INLINE fvec high_halves(vec v)
{
    return low_halves(_mm512_srli_epi32(v, 16));
}

/* `yes` in the dwords that equal `value`, else `no`. */
INLINE fvec where_equal(vec v, int value, fvec yes, fvec no)
{
    return _mm512_mask_blend_ps(_mm512_cmpeq_epi32_mask(v, _mm512_set1_epi32(value)), no, yes);
}

INLINE fvec f_or(fvec a, vec bits)
{
    return _mm512_or_ps(a, _mm512_castsi512_ps(bits));
}

/* 32 codes + add to bytes. */
INLINE void narrow32(uint8_t *to, const int16_t *q, int add)
{
    const vec v = _mm512_add_epi16(_mm512_loadu_si512(q), _mm512_set1_epi16((short)add));
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi16_epi8(v));
}

/* ---- 16 rows */

/* 16 bytes at `at` of each: vector i holds bytes 4 i .. 4 i + 3 of all rows. */
INLINE void transpose(vec o[4], const uint8_t *const *row, int64_t at)
{
#define ROW(r) _mm_loadu_si128((const __m128i *)(row[r] + at))
#define ROWS4(r) \
    _mm512_mask_broadcast_i32x4( \
        _mm512_mask_broadcast_i32x4( \
            _mm512_mask_broadcast_i32x4(_mm512_castsi128_si512(ROW(r)), 0x00f0, ROW(r + 4)), \
            0x0f00, ROW(r + 8)), \
        0xf000, ROW(r + 12))
    const vec r0 = ROWS4(0), r1 = ROWS4(1), r2 = ROWS4(2), r3 = ROWS4(3);
#undef ROWS4
#undef ROW
    const vec a = _mm512_unpacklo_epi32(r0, r1), b = _mm512_unpackhi_epi32(r0, r1);
    const vec c = _mm512_unpacklo_epi32(r2, r3), d = _mm512_unpackhi_epi32(r2, r3);
    o[0] = _mm512_unpacklo_epi64(a, c);
    o[1] = _mm512_unpackhi_epi64(a, c);
    o[2] = _mm512_unpacklo_epi64(b, d);
    o[3] = _mm512_unpackhi_epi64(b, d);
}

/* Numbers of 16, 8 and 32 bits at `at` of each. They are collected in registers: a store of 16
 * pieces followed by a load of the whole would wait for the stores. */
#define EACH16(x) \
    x(15), x(14), x(13), x(12), x(11), x(10), x(9), x(8), x(7), x(6), x(5), x(4), x(3), x(2), \
        x(1), x(0)

INLINE __m256i shorts_at(const uint8_t *const *row, int64_t at)
{
#define SHORT(r) (short)gqmm_load16(row[r] + at)
    return _mm256_set_epi16(EACH16(SHORT));
#undef SHORT
}

INLINE fvec halves_at(const uint8_t *const *row, int64_t at)
{
    return _mm512_cvtph_ps(shorts_at(row, at));
}

INLINE fvec bf16_at(const uint8_t *const *row, int64_t at)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(shorts_at(row, at)), 16));
}

INLINE vec dwords_at(const uint8_t *const *row, int64_t at)
{
#define DWORD(r) (int)gqmm_load32(row[r] + at)
    return _mm512_set_epi32(EACH16(DWORD));
#undef DWORD
}

INLINE fvec floats_at(const uint8_t *const *row, int64_t at)
{
    return _mm512_castsi512_ps(dwords_at(row, at));
}

/* 2^(e - 127) of the bytes at `at`, as gqmm_e8m0_to_f32(), or its half. */
INLINE fvec powers_at(const uint8_t *const *row, int64_t at, bool halved)
{
#define BYTE(r) (char)row[r][at]
    const __m128i bytes = _mm_set_epi8(EACH16(BYTE));
#undef BYTE
    const vec e = _mm512_cvtepu8_epi32(bytes), least = _mm512_set1_epi32(halved ? 2 : 1);
    const vec normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(halved)), 23);
    const vec subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(halved ? 0x00200000 : 0x00400000), e);
    return _mm512_castsi512_ps(
        _mm512_mask_mov_epi32(normal, _mm512_cmplt_epu32_mask(e, least), subnormal));
}

#endif
