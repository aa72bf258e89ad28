/* SPDX-License-Identifier: MIT */
/* The room avx2: its integer core, and every family's row. vpmaddubsw adds two products of unsigned
 * panel bytes and signed activations (|a| <= 127) in 16 bits, which must not saturate at 32767:
 *
 *     greatest byte   15    31    63   128
 *     a pair       3810  7874 16002 32512
 *     pairs that fit  8     4     2     1
 *
 * So many are added in 16 bits before vpmaddwd widens them. Codes of 8 bits stay signed: |q| <= 128
 * takes the unsigned place and q's sign goes to the activation, which never is -128. */
#include "kernel/avx2/words.h"

#include "kernel/panel.h"

INLINE vec broadcast32(const void *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

/* `factor` times the sum of an activation block or, for pieces of 16, of its half. */
INLINE vec act_sum(const gqmm_act *a, int factor, int piece, int half)
{
    const int32_t lo = factor & 0xffff, hi = (int32_t)((uint32_t)factor << 16);
    const vec factors = _mm256_set1_epi32(piece == 32 ? lo | hi : half == 0 ? lo : hi);
    return _mm256_madd_epi16(broadcast32(a->sum), factors);
}

/* d + the dot of `count` vectors of a panel, from w on, with the activations at x. */
INLINE vec dot_unsigned(vec d, const uint8_t (*w)[ROWS][4], int v, const int8_t *x, int count)
{
    vec pairs = _mm256_maddubs_epi16(load(w[0] + v), broadcast32(x));
    UNROLL(8)
    for (int i = 1; i < count; i++)
        pairs =
            _mm256_add_epi16(pairs, _mm256_maddubs_epi16(load(w[i] + v), broadcast32(x + 4 * i)));
    return _mm256_add_epi32(d, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

INLINE vec dot_signed(vec d, vec w, vec x)
{
    const vec pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(d, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* act scale * (scale * dot + offset * sum) is added to f, where without offsets the sum has gone
 * into the dot. */
INLINE fvec fold(fvec f, vec dot, vec sum, const float *scale, const float *offset, fvec act_scale,
                 const bool has_offset)
{
    const fvec d = _mm256_cvtepi32_ps(dot);
    const fvec term = has_offset
                          ? f_fma(d, f_load(scale), f_mul(f_load(offset), _mm256_cvtepi32_ps(sum)))
                          : f_mul(d, f_load(scale));
    return f_fma(act_scale, term, f);
}

/* sum[t] += the step's products for mr activation rows. `most`: the greatest byte of the panel, 128
 * if it is signed. */
INLINE void add_step(float (*sum)[ROWS], const panel *w, const gqmm_act *const *act, int64_t block,
                     int n, int shift, cursor *next, const int mr, const int piece,
                     const bool has_offset, const int most)
{
    const int at_once = most <= 15 && piece == 32 ? 8 : most <= 31 ? 4 : 2;
    for (int j = 0; j < n; j += piece) {
        const int half = piece == 16 ? j / 16 % 2 : 0;
        const int64_t b = block + j / GQMM_ACT_ELEMS;
        const uint8_t(*q)[ROWS][4] = (const uint8_t(*)[ROWS][4])w->q + j / 4;
        vec d[I_MR][2];
        UNROLL(4)
        for (int t = 0; t < mr; t++)
            d[t][0] = d[t][1] = has_offset && most < 128 ? _mm256_setzero_si256()
                                                         : act_sum(act[t] + b, -shift, piece, half);
        UNROLL(8)
        for (int i = 0; i < piece / 4; i += most < 128 ? at_once : 1)
            UNROLL(4)
        for (int t = 0; t < mr; t++) {
            const int8_t *x = act[t][b].q + 16 * half + 4 * i;
            if (most < 128) {
                d[t][0] = dot_unsigned(d[t][0], q + i, 0, x, at_once);
                d[t][1] = dot_unsigned(d[t][1], q + i, LANES, x, at_once);
            } else {
                d[t][0] = dot_signed(d[t][0], load(q[i]), broadcast32(x));
                d[t][1] = dot_signed(d[t][1], load(q[i] + LANES), broadcast32(x));
            }
        }
        const float *scale = w->scale[j / piece], *offset = w->offset[j / piece];
        UNROLL(4)
        for (int t = 0; t < mr; t++) {
            const fvec c = f_set(act[t][b].scale);
            const vec s = has_offset ? act_sum(act[t] + b, 1, piece, half) : d[t][0];
            float *f = sum[t];
            f_store(f, fold(f_load(f), d[t][0], s, scale, offset, c, has_offset));
            f += LANES;
            f_store(f, fold(f_load(f), d[t][1], s, scale + LANES, offset + LANES, c, has_offset));
        }
        if (piece == 32 || half == 1)
            ahead(next);
    }
}

/* One function for each kind of sums; mr and what follows are constants inside. */
#define CASE(rows, ...) \
    case rows: \
        add_step(sum + i, w, act + i, block, n, shift, next, rows, __VA_ARGS__); \
        break;
#define DEFINE_ADD(name, ...) \
    static void name(float(*sum)[ROWS], const panel *w, const gqmm_act *const *act, int64_t block, \
                     int n, int shift, int64_t m, cursor *next) \
    { \
        for (int64_t i = 0, mr; i < m; i += mr) { \
            mr = rows_at_once(m - i, I_MR); \
            switch (mr) { \
                CASE(1, __VA_ARGS__) \
                CASE(2, __VA_ARGS__) \
                CASE(3, __VA_ARGS__) \
                CASE(4, __VA_ARGS__) \
            } \
        } \
    }
DEFINE_ADD(add_32_plain_15, 32, false, 15)
DEFINE_ADD(add_32_plain_31, 32, false, 31)
DEFINE_ADD(add_32_plain_wide, 32, false, 128)
DEFINE_ADD(add_32_offset_15, 32, true, 15)
DEFINE_ADD(add_32_offset_31, 32, true, 31)
DEFINE_ADD(add_32_offset_63, 32, true, 63)
DEFINE_ADD(add_32_offset_wide, 32, true, 128)
DEFINE_ADD(add_16_plain_31, 16, false, 31)
DEFINE_ADD(add_16_plain_63, 16, false, 63)
DEFINE_ADD(add_16_offset_31, 16, true, 31)

#define ADD_STEP(piece, offset, most) add_##piece##_##offset##_##most

#include "kernel/panel_rows.h"
