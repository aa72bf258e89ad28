// SPDX-License-Identifier: MIT
// What the decoders are written in: bytes of words, pairs of bf16 in a register (low half first),
// fields of bits as numbers. On the device each function is one or two instructions; on the host
// the same result in plain C++, so that the decoders run where there is no GPU.
#ifndef GQMM_KERNEL_CUDA_WORDS_CUH
#define GQMM_KERNEL_CUDA_WORDS_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "base/num.h"

namespace gqmm
{

// ---- bytes of two words

// Byte i of the result is byte (select >> 4 i) & 7 of b:a.
GQMM_HD static inline uint32_t permute(uint32_t a, uint32_t b, uint32_t select)
{
#ifdef __CUDA_ARCH__
    return __byte_perm(a, b, select);
#else
    const uint64_t both = (uint64_t)b << 32 | a;
    uint32_t v = 0;
    for (int i = 0; i < 4; i++)
        v |= (uint32_t)(both >> (8 * ((select >> (4 * i)) & 7)) & 0xff) << (8 * i);
    return v;
#endif
}

// Bits [shift, shift + 32) of high:low, shift < 32.
GQMM_HD static inline uint32_t funnel(uint32_t low, uint32_t high, uint32_t shift)
{
    return (uint32_t)(((uint64_t)high << 32 | low) >> shift);
}

// (x & mask) | bits as one instruction: left alone, the compiler makes two of it when both are
// constants.
GQMM_HD static inline uint32_t pick(uint32_t x, uint32_t mask, uint32_t bits)
{
#ifdef __CUDA_ARCH__
    uint32_t v;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(v) : "r"(x), "r"(mask), "r"(bits));
    return v;
#else
    return (x & mask) | bits;
#endif
}

// x where mask has ones, else y.
GQMM_HD static inline uint32_t choose_bits(uint32_t x, uint32_t mask, uint32_t y)
{
    return (x & mask) | (y & ~mask);
}

// 2^e, -126 to 127.
GQMM_HD static inline float power_of_two(int e)
{
    return gqmm_bits_to_f32((uint32_t)(127 + e) << 23);
}

// ---- pairs of bf16

#ifdef __CUDA_ARCH__
__device__ static inline __nv_bfloat162 as_pair(uint32_t u)
{
    __nv_bfloat162 v;
    memcpy(&v, &u, 4);
    return v;
}

__device__ static inline uint32_t as_word(__nv_bfloat162 v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    return u;
}
#else
template <class OP> static inline uint32_t each_half(uint32_t a, uint32_t b, uint32_t c, OP op)
{
    uint32_t v = 0;
    for (int i = 0; i < 32; i += 16)
        v |= (uint32_t)gqmm_f32_to_bf16(op(gqmm_bf16_to_f32((uint16_t)(a >> i)),
                                           gqmm_bf16_to_f32((uint16_t)(b >> i)),
                                           gqmm_bf16_to_f32((uint16_t)(c >> i))))
             << i;
    return v;
}
#endif

GQMM_HD static inline uint32_t pair_sub(uint32_t a, uint32_t b)
{
#ifdef __CUDA_ARCH__
    return as_word(__hsub2(as_pair(a), as_pair(b)));
#else
    return each_half(a, b, 0, [](float x, float y, float) { return x - y; });
#endif
}

GQMM_HD static inline uint32_t pair_mul(uint32_t a, uint32_t b)
{
#ifdef __CUDA_ARCH__
    return as_word(__hmul2(as_pair(a), as_pair(b)));
#else
    return each_half(a, b, 0, [](float x, float y, float) { return x * y; });
#endif
}

GQMM_HD static inline uint32_t pair_fma(uint32_t a, uint32_t b, uint32_t c)
{
#ifdef __CUDA_ARCH__
    return as_word(__hfma2(as_pair(a), as_pair(b), as_pair(c)));
#else
    return each_half(a, b, c, [](float x, float y, float z) { return x * y + z; });
#endif
}

GQMM_HD static inline uint32_t pair_min(uint32_t a, uint32_t b)
{
#ifdef __CUDA_ARCH__
    return as_word(__hmin2(as_pair(a), as_pair(b)));
#else
    return each_half(a, b, 0, [](float x, float y, float) { return x < y ? x : y; });
#endif
}

// Rounded towards zero; NaN stays NaN.
GQMM_HD static inline uint32_t pair_cut(float low, float high)
{
#ifdef __CUDA_ARCH__
    uint32_t v;
    asm("cvt.rz.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
    return v;
#else
    const uint32_t l = gqmm_f32_to_bits(low) >> 16, h = gqmm_f32_to_bits(high) >> 16;
    return (low == low ? l : 0x7fffu) | (high == high ? h : 0x7fffu) << 16;
#endif
}

// The same with 0 for NaN.
GQMM_HD static inline uint32_t pair_without_nan(uint32_t a)
{
#ifdef __CUDA_ARCH__
    return a & __heq2_mask(as_pair(a), as_pair(a));
#else
    const uint32_t low = (a & 0x7fffu) > 0x7f80u ? 0 : a & 0xffffu;
    return low | ((a & 0x7fff0000u) > 0x7f800000u ? 0 : a & 0xffff0000u);
#endif
}

// The largest power of two up to 16 that divides n.
constexpr int largest_power(int n)
{
    return n % 16 == 0 ? 16 : n % 8 == 0 ? 8 : n % 4 == 0 ? 4 : n % 2 == 0 ? 2 : 1;
}

// 16 bits twice.
GQMM_HD constexpr uint32_t both(uint32_t half)
{
    return half << 16 | half;
}

// bf16 bits of integers and powers of two that the decoders use.
GQMM_HD constexpr uint32_t bf16_integer(int v) // 128 <= v < 256
{
    return 0x4300u + (uint32_t)(v - 128);
}

GQMM_HD constexpr uint32_t bf16_power(int e)
{
    return (uint32_t)(e + 127) << 7;
}

GQMM_HD constexpr uint32_t bf16_small(int v) // 0 < v < 256
{
    int e = 7;
    while (v < 1 << e)
        e--;
    return bf16_power(e) + ((uint32_t)(v - (1 << e)) << (7 - e));
}

// ---- fp32

GQMM_HD static inline float mul(float a, float b)
{
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

GQMM_HD static inline float half_to_float(uint32_t h)
{
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half((unsigned short)h));
#else
    return gqmm_f16_to_f32((uint16_t)h);
#endif
}

// An integer 0 <= v < 2^23 as a float, minus `less` (exact for small ones): cheaper than a
// conversion, as the mask that made v joins the OR.
GQMM_HD static inline float integer(uint32_t v, int less = 0)
{
    return gqmm_bits_to_f32(v | 0x4b000000u) - (8388608.0f + (float)less);
}

// Byte i of w as a float.
GQMM_HD static inline float integer_byte(uint32_t w, int i)
{
    return (float)permute(w, 0, 0x4440u | (uint32_t)i);
}

// Half of an E4M3 number, NaN apart: its bits have the layout of a float's, so that a power of two
// makes up for the exponents, subnormal or not.
GQMM_HD static inline float half_of_e4m3(uint32_t u)
{
    return mul(gqmm_bits_to_f32((u & 0x80) << 24 | (u & 0x7f) << 20),
               gqmm_bits_to_f32((119u + 127) << 23));
}

// ---- fields of bits as bf16 integers

// Bits [BIT, BIT + BITS) of each half of x, less LESS. bf16 has 7 bits after the leading one: a
// field inside them needs no shift, as 128 + 2^BIT q is scaled exactly.
template <int BITS, int BIT, int LESS = 0> GQMM_HD static inline uint32_t field(uint32_t x)
{
    constexpr uint32_t mask = both((1u << BITS) - 1);
    constexpr bool shifted = BIT == 0 || BIT + BITS > 7;
    static_assert(shifted || LESS == 0, "the constant below is exact without LESS");
    if (shifted)
        return pair_sub(pick(x >> BIT, mask, both(0x4300)), both(bf16_integer(128 + LESS)));
    constexpr int shift = shifted ? 0 : BIT;
    return pair_fma(pick(x, mask << shift, both(0x4300)), both(bf16_power(-shift)),
                    both(0x8000u | bf16_power(7 - shift)));
}

// Bytes 0 and 1 (2 and 3) of w, all < 128, less LESS.
template <int LESS = 0> GQMM_HD static inline void small_bytes(uint32_t *a, uint32_t w)
{
    a[0] = pair_sub(permute(w, both(0x4343), 0x4140), both(bf16_integer(128 + LESS)));
    a[1] = pair_sub(permute(w, both(0x4343), 0x4342), both(bf16_integer(128 + LESS)));
}

// The pairs (0, 4) (1, 5) (2, 6) (3, 7) of a word of nibbles, less LESS.
template <int LESS> GQMM_HD static inline void nibbles(uint32_t (&a)[4], uint32_t w)
{
    a[0] = field<4, 0, LESS>(w);
    a[1] = field<4, 4, LESS>(w);
    a[2] = field<4, 8, LESS>(w);
    a[3] = field<4, 12, LESS>(w);
}

// Bits [bit, bit + 4) of each half of x, and 16: a shift to the top of bf16's 7 bits, where the
// leading one is least.
GQMM_HD static inline uint32_t nibble_16(uint32_t x, int bit)
{
    return pick(bit <= 3 ? x << (3 - bit) : x >> (bit - 3), both(0x0078), both(0x4180));
}

// The nibbles of E2M1 codes, doubled. Exponent and mantissa go to bits 8..6, where bf16 has the
// same boundary, the sign to bit 15: one product moves both, as their images do not meet. 2^127
// then makes integers of the numbers that this is, subnormal or not.
GQMM_HD static inline uint32_t doubled_e2m1(uint32_t nibble, uint32_t times)
{
    return pair_mul(nibble * times & both(0x81c0), both(bf16_power(127)));
}

GQMM_HD static inline void e2m1_nibbles(uint32_t (&a)[4], uint32_t w)
{
    const uint32_t v = w >> 8;
    a[0] = doubled_e2m1(w & both(0x000f), 1u << 6 | 1u << 12);
    a[1] = doubled_e2m1(w & both(0x00f0), 1u << 2 | 1u << 8);
    a[2] = doubled_e2m1(v & both(0x000f), 1u << 6 | 1u << 12);
    a[3] = doubled_e2m1(v & both(0x00f0), 1u << 2 | 1u << 8);
}

// Signed bytes: 128 + the low seven bits, minus 128 or, with the sign bit, 256. Both are the byte
// below 0x43, one without its top bit and one with nothing else.
GQMM_HD static inline void signed_bytes(uint32_t *a, uint32_t w)
{
    const uint32_t x = permute(w, both(0x4343), 0x4140), y = permute(w, both(0x4343), 0x4342);
    a[0] = pair_sub(x & both(0xff7f), x & both(0xff80));
    a[1] = pair_sub(y & both(0xff7f), y & both(0xff80));
}

// Unsigned bytes: below 0x43 a byte u reads 128 + u, from 128 on 2 u. The lesser of half of it and
// it less 128 is u in both cases.
GQMM_HD static inline uint32_t unsigned_pair(uint32_t x)
{
    return pair_min(pair_mul(x, both(bf16_power(-1))), pair_sub(x, both(0x4300)));
}

GQMM_HD static inline void unsigned_bytes(uint32_t *a, uint32_t w)
{
    a[0] = unsigned_pair(permute(w, both(0x4343), 0x4140));
    a[1] = unsigned_pair(permute(w, both(0x4343), 0x4342));
}

// The table of iq4 for the eight nibbles of w, in order HALVES for bytes that hold elements j and
// j + 16. Its numbers are bf16 in tables of low and of high bytes, each in two halves of eight,
// since a permutation chooses among eight bytes.
GQMM_HD static inline void iq4_values(uint32_t (&a)[4], uint32_t w)
{
    const uint32_t index = w & 0x77777777, half = pick(w >> 1, 0x44444444, 0x32103210);
    for (int i = 0; i < 2; i++) {
        const uint32_t n = index >> 16 * i, h = half >> 16 * i;
        const uint32_t low =
            permute(permute(0x82a6d0fe, 0x20b00c44, n), permute(0x18c85080, 0xe2b28a54, n), h);
        const uint32_t high =
            permute(permute(0xc2c2c2c2, 0xc1c1c2c2, n), permute(0x4241413f, 0x42424242, n), h);
        a[i] = permute(low, high, 0x6240);
        a[i + 2] = permute(low, high, 0x7351);
    }
}

} // namespace gqmm

#endif
