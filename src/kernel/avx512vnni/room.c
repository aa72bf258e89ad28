/* SPDX-License-Identifier: MIT */
/* The room avx512vnni: its integer core, and every family's row. vpdpbusd takes unsigned panel
 * bytes and signed activations; shifts leave the sums exactly, through the activations' sums. */
#include "kernel/avx512vnni/words.h"

#include "kernel/panel.h"

INLINE vec broadcast32(const void *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
}

/* What vpdpwssd multiplies the two half sums of an activation block with, so that their total, or
 * for pieces of 16 the half that belongs to the piece, is taken `factor` times. */
INLINE vec half_factors(int factor, int piece, int half)
{
    const int32_t lo = factor & 0xffff, hi = (int32_t)((uint32_t)factor << 16);
    return _mm512_set1_epi32(piece == 32 ? lo | hi : half == 0 ? lo : hi);
}

/* act scale * (scale * dot + offset * sum) is added to f, where without offsets the sum has gone
 * into the dot. */
INLINE fvec fold(fvec f, vec dot, vec sum, const float *scale, const float *offset, fvec act_scale,
                 const bool has_offset)
{
    const fvec d = _mm512_cvtepi32_ps(dot);
    const fvec term = has_offset
                          ? f_fma(d, f_load(scale), f_mul(f_load(offset), _mm512_cvtepi32_ps(sum)))
                          : f_mul(d, f_load(scale));
    return f_fma(act_scale, term, f);
}

/* sum[t] += the step's products for mr activation rows. |dot| <= 32 * 255 * 127 < 2^20. */
INLINE void add_step(float (*sum)[ROWS], const panel *w, const gqmm_act *const *act, int64_t block,
                     int n, int shift, cursor *next, const int mr, const int piece,
                     const bool has_offset)
{
    fvec f[I_MR][2];
    const gqmm_act *a[I_MR];
    UNROLL(8)
    for (int t = 0; t < mr; t++) {
        f[t][0] = f_load(sum[t]);
        f[t][1] = f_load(sum[t] + LANES);
        a[t] = act[t] + block;
    }
    for (int j = 0; j < n; j += piece) {
        const int half = piece == 16 ? j / 16 % 2 : 0;
        const vec factors = half_factors(has_offset ? 1 : -shift, piece, half);
        vec d[I_MR][2], s[I_MR];
        UNROLL(8)
        for (int t = 0; t < mr; t++) {
            s[t] = _mm512_dpwssd_epi32(_mm512_setzero_si512(), factors, broadcast32(a[t]->sum));
            d[t][0] = d[t][1] = has_offset ? _mm512_setzero_si512() : s[t];
        }
        UNROLL(8)
        for (int i = 0; i < piece / 4; i++) {
            const vec w0 = load(w->q[j / 4 + i]), w1 = load(w->q[j / 4 + i] + LANES);
            UNROLL(8)
            for (int t = 0; t < mr; t++) {
                const vec x = broadcast32(a[t]->q + 16 * half + 4 * i);
                d[t][0] = _mm512_dpbusd_epi32(d[t][0], w0, x);
                d[t][1] = _mm512_dpbusd_epi32(d[t][1], w1, x);
            }
        }
        const float *scale = w->scale[j / piece], *offset = w->offset[j / piece];
        UNROLL(8)
        for (int t = 0; t < mr; t++) {
            const fvec c = f_set(a[t]->scale);
            f[t][0] = fold(f[t][0], d[t][0], s[t], scale, offset, c, has_offset);
            f[t][1] = fold(f[t][1], d[t][1], s[t], scale + LANES, offset + LANES, c, has_offset);
            a[t] += piece == 32 || half == 1;
        }
        if (piece == 32 || half == 1)
            ahead(next);
    }
    UNROLL(8)
    for (int t = 0; t < mr; t++) {
        f_store(sum[t], f[t][0]);
        f_store(sum[t] + LANES, f[t][1]);
    }
}

/* One function for each kind of sums; mr, piece and has_offset are constants inside. */
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
                CASE(5, __VA_ARGS__) \
                CASE(6, __VA_ARGS__) \
            } \
        } \
    }
DEFINE_ADD(add_32_plain, 32, false)
DEFINE_ADD(add_32_offset, 32, true)
DEFINE_ADD(add_16_plain, 16, false)
DEFINE_ADD(add_16_offset, 16, true)

#define ADD_STEP(piece, offset, most) add_##piece##_##offset

#include "kernel/panel_rows.h"
