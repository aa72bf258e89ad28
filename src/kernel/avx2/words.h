/* SPDX-License-Identifier: MIT */
/* The words of the room avx2: AVX2, FMA and F16C. */
#ifndef GQMM_KERNEL_AVX2_WORDS_H
#define GQMM_KERNEL_AVX2_WORDS_H

#include "base/num.h"

#include <immintrin.h>

#define ROW_NAME(family) gqmm_##family##_avx2
#define INLINE static inline __attribute__((always_inline))
#define PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#    define UNROLL(n) PRAGMA(unroll n)
#else
#    define UNROLL(n) PRAGMA(GCC unroll n)
#endif

enum {
    LANES = 8,        /* 32-bit lanes of a vector */
    ROWS = 2 * LANES, /* stored rows of a tile: a broadcast activation serves two vectors */
    I_MR = 4,         /* activation rows at once: 8 integer sums of 16 registers */
    DIRECT = 2,       /* see panel_exact.h: 8 sums and 4 weights */
    WIDE_SHIFT = 0,   /* wide_codes() leaves codes signed */
    SIGNED_PANELS = true
};

typedef __m256i vec;
typedef __m256 fvec;

INLINE void prefetch(uintptr_t at)
{
    _mm_prefetch((const char *)at, _MM_HINT_T1);
}

/* ---- floats */

INLINE fvec f_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

INLINE void f_store(float *p, fvec v)
{
    _mm256_store_ps(p, v);
}

INLINE void f_store_any(float *p, fvec v)
{
    _mm256_storeu_ps(p, v);
}

INLINE fvec f_set(float v)
{
    return _mm256_set1_ps(v);
}

INLINE fvec f_mul(fvec a, fvec b)
{
    return _mm256_mul_ps(a, b);
}

INLINE fvec f_add(fvec a, fvec b)
{
    return _mm256_add_ps(a, b);
}

INLINE fvec f_fma(fvec a, fvec b, fvec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

INLINE fvec f_negate(fvec v)
{
    return _mm256_xor_ps(v, _mm256_set1_ps(-0.0f));
}

/* 8 f16 numbers at any address. */
INLINE fvec f_halves(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

/* 8 signed bytes. */
INLINE fvec f_codes(const int8_t *q)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)q)));
}

/* ---- bytes */

INLINE vec load(const void *p)
{
    return _mm256_load_si256((const __m256i *)p);
}

INLINE void store(void *p, vec v)
{
    _mm256_store_si256((__m256i *)p, v);
}

INLINE vec masked(vec v, int mask)
{
    return _mm256_and_si256(v, _mm256_set1_epi8((char)mask));
}

INLINE vec low_nibbles(vec v)
{
    return masked(v, 15);
}

INLINE vec high_nibbles(vec v)
{
    return low_nibbles(_mm256_srli_epi16(v, 4));
}

INLINE vec either(vec a, vec b)
{
    return _mm256_or_si256(a, b);
}

/* base | (v & mask) */
INLINE vec or_masked(vec base, vec v, int mask)
{
    return either(base, masked(v, mask));
}

/* To the right if negative. Bits pass from byte to byte: a mask follows. */
INLINE vec shift_left(vec v, int bits)
{
    return bits >= 0 ? _mm256_slli_epi16(v, bits) : _mm256_srli_epi16(v, -bits);
}

INLINE vec flip_signs(vec v)
{
    return _mm256_xor_si256(v, _mm256_set1_epi8((char)128));
}

/* Codes from -128 to 127 as this room's panels hold them: see dot_signed() in room.c. */
INLINE vec wide_codes(vec v)
{
    return v;
}

/* 16 bytes, for lookup(). */
INLINE vec table(const int8_t v[16])
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)v));
}

INLINE vec lookup(vec map, vec codes)
{
    return _mm256_shuffle_epi8(map, codes);
}

/* The 4 nibbles of bytes 0 and 1 of each dword (half 0) or 2 and 3, low nibbles first: a byte b as
 * 16 bits is (b | b << 4) & 0x0f0f. */
INLINE vec nibbles_in_order(vec v, int half)
{
    const vec first = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1));
    const vec second = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1));
    const vec b = _mm256_shuffle_epi8(v, half ? second : first);
    return low_nibbles(either(b, _mm256_slli_epi16(b, 4)));
}

/* Bits 4 i .. 4 i + 3 of each dword as bit 4 of its four bytes. The nibble times 2^4 + 2^11 + 2^18
 * + 2^25 has bit j at 8 j + 4; its copies are 7 apart and do not meet. */
INLINE vec spread_bits(vec v, int i)
{
    const vec nibble = _mm256_and_si256(_mm256_srli_epi32(v, 4 * i), _mm256_set1_epi32(15));
    return masked(_mm256_mullo_epi32(nibble, _mm256_set1_epi32(0x02040810)), 16);
}

/* Byte j of each dword. */
INLINE fvec byte_at(vec v, int j)
{
    const vec index = _mm256_broadcastsi128_si256(_mm_set_epi32(
        (int)0x8080800cu + j, (int)0x80808008u + j, (int)0x80808004u + j, (int)0x80808000u + j));
    return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(v, index));
}

INLINE fvec signed_byte_at(vec v, int j)
{
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(v, 24 - 8 * j), 24));
}

/* Byte j, with a sign or without, less the shift. */
INLINE fvec code_at(vec v, int j, int shift, bool is_signed)
{
    return f_add(is_signed ? signed_byte_at(v, j) : byte_at(v, j), f_set((float)-shift));
}

/* LANES bytes, each to a dword. */
INLINE vec bytes_to_dwords(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

/* Dwords: to the right if negative. */
INLINE vec shift32(vec v, int bits)
{
    return bits >= 0 ? _mm256_slli_epi32(v, bits) : _mm256_srli_epi32(v, -bits);
}

INLINE vec masked32(vec v, int mask)
{
    return _mm256_and_si256(v, _mm256_set1_epi32(mask));
}

/* `count` bits of each dword from bit `first` on. */
INLINE fvec field_at(vec v, int first, int count)
{
    return _mm256_cvtepi32_ps(
        _mm256_and_si256(_mm256_srli_epi32(v, first), _mm256_set1_epi32((1 << count) - 1)));
}

/* The f16 number in the low (high) half of each dword. */
INLINE fvec low_halves(vec v)
{
    const vec low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    const vec pairs = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(pairs));
}

INLINE fvec high_halves(vec v)
{
    return low_halves(_mm256_srli_epi32(v, 16));
}

/* `yes` in the dwords that equal `value`, else `no`. */
INLINE fvec where_equal(vec v, int value, fvec yes, fvec no)
{
    const vec equal = _mm256_cmpeq_epi32(v, _mm256_set1_epi32(value));
    return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(equal));
}

INLINE fvec f_or(fvec a, vec bits)
{
    return _mm256_or_ps(a, _mm256_castsi256_ps(bits));
}

/* 32 codes + add to bytes. */
INLINE void narrow32(uint8_t *to, const int16_t *q, int add)
{
    const vec more = _mm256_set1_epi16((short)add), byte = _mm256_set1_epi16(255);
    const vec a = _mm256_loadu_si256((const __m256i *)q);
    const vec b = _mm256_loadu_si256((const __m256i *)(q + 16));
    const vec v = _mm256_packus_epi16(_mm256_and_si256(_mm256_add_epi16(a, more), byte),
                                      _mm256_and_si256(_mm256_add_epi16(b, more), byte));
    _mm256_storeu_si256((__m256i *)to, _mm256_permute4x64_epi64(v, 0xd8));
}

/* ---- 8 rows */

/* 16 bytes at `at` of each: vector i holds bytes 4 i .. 4 i + 3 of all rows. */
INLINE void transpose(vec o[4], const uint8_t *const *row, int64_t at)
{
#define ROW(r) _mm_loadu_si128((const __m128i *)(row[r] + at))
#define ROWS2(r) _mm256_inserti128_si256(_mm256_castsi128_si256(ROW(r)), ROW(r + 4), 1)
    const vec r0 = ROWS2(0), r1 = ROWS2(1), r2 = ROWS2(2), r3 = ROWS2(3);
#undef ROWS2
#undef ROW
    const vec a = _mm256_unpacklo_epi32(r0, r1), b = _mm256_unpackhi_epi32(r0, r1);
    const vec c = _mm256_unpacklo_epi32(r2, r3), d = _mm256_unpackhi_epi32(r2, r3);
    o[0] = _mm256_unpacklo_epi64(a, c);
    o[1] = _mm256_unpackhi_epi64(a, c);
    o[2] = _mm256_unpacklo_epi64(b, d);
    o[3] = _mm256_unpackhi_epi64(b, d);
}

/* Numbers of 16, 8 and 32 bits at `at` of each. They are collected in registers: a store of 8
 * pieces followed by a load of the whole would wait for the stores. */
#define EACH8(x) x(7), x(6), x(5), x(4), x(3), x(2), x(1), x(0)

INLINE __m128i shorts_at(const uint8_t *const *row, int64_t at)
{
#define SHORT(r) (short)gqmm_load16(row[r] + at)
    return _mm_set_epi16(EACH8(SHORT));
#undef SHORT
}

INLINE fvec halves_at(const uint8_t *const *row, int64_t at)
{
    return _mm256_cvtph_ps(shorts_at(row, at));
}

INLINE fvec bf16_at(const uint8_t *const *row, int64_t at)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(shorts_at(row, at)), 16));
}

INLINE vec dwords_at(const uint8_t *const *row, int64_t at)
{
#define DWORD(r) (int)gqmm_load32(row[r] + at)
    return _mm256_set_epi32(EACH8(DWORD));
#undef DWORD
}

INLINE fvec floats_at(const uint8_t *const *row, int64_t at)
{
    return _mm256_castsi256_ps(dwords_at(row, at));
}

/* 2^(e - 127) of the bytes at `at`, as gqmm_e8m0_to_f32(), or its half. */
INLINE fvec powers_at(const uint8_t *const *row, int64_t at, bool halved)
{
#define BYTE(r) row[r][at]
    const vec e = _mm256_set_epi32(EACH8(BYTE));
#undef BYTE
    const vec normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(halved)), 23);
    const vec subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(halved ? 0x00200000 : 0x00400000), e);
    const vec small = _mm256_cmpgt_epi32(_mm256_set1_epi32(halved ? 2 : 1), e);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, small));
}

#endif
