/* SPDX-License-Identifier: MIT */
/* The integer core of the rooms neon and neon_i8mm, and every family's row. Before it a room
 * defines
 *
 *     dots(d, q, act, from, mr, piece)   adds `piece` products along K to the integer sums of mr
 *                                        activation rows: those of panel q and of the codes
 *                                        `from`, `from` + 1, ... of block act[t]
 *
 * Both factors are signed: the panels' codes are at most 63, or wide and between -128 and 127. A
 * shift leaves the sums exactly, through the activations' sums. */
#ifndef GQMM_KERNEL_NEON_CORE_H
#define GQMM_KERNEL_NEON_CORE_H

#include "kernel/panel.h"

/* act scale * (scale * dot + offset * sum) is added to the sums at `to`. */
INLINE void fold(float *to, int32x4_t dot, fvec sum, const float *scale, const float *offset,
                 fvec act_scale, const bool has_offset)
{
    const fvec d = vcvtq_f32_s32(dot);
    const fvec term =
        has_offset ? f_fma(d, f_load(scale), f_mul(f_load(offset), sum)) : f_mul(d, f_load(scale));
    f_store(to, f_fma(act_scale, term, f_load(to)));
}

/* sum[t] += the step's products for mr activation rows. */
INLINE void add_step(float (*sum)[ROWS], const panel *w, const gqmm_act *const *act, int64_t block,
                     int n, int shift, cursor *next, const int mr, const int piece,
                     const bool has_offset)
{
    for (int j = 0; j < n; j += piece) {
        const int half = piece == 16 ? j / 16 % 2 : 0;
        const float *scale = w->scale[j / piece], *offset = w->offset[j / piece];
        const gqmm_act *a[I_MR];
        int32x4_t d[I_MR][2];
        int s[I_MR];
        UNROLL(8)
        for (int t = 0; t < mr; t++) {
            a[t] = act[t] + block + j / GQMM_ACT_ELEMS;
            s[t] = piece == 32 ? a[t]->sum[0] + a[t]->sum[1] : a[t]->sum[half];
            d[t][0] = d[t][1] = vdupq_n_s32(-shift * s[t]);
        }
        dots(d, w->q + j / 4, a, 16 * half, mr, piece);
        UNROLL(8)
        for (int t = 0; t < mr; t++) {
            const fvec c = f_set(a[t]->scale), all = f_set((float)s[t]);
            fold(sum[t], d[t][0], all, scale, offset, c, has_offset);
            fold(sum[t] + LANES, d[t][1], all, scale + LANES, offset + LANES, c, has_offset);
        }
        if (piece == 32 || half == 1)
            ahead(next);
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
                CASE(7, __VA_ARGS__) \
                CASE(8, __VA_ARGS__) \
            } \
        } \
    }
DEFINE_ADD(add_32_plain, 32, false)
DEFINE_ADD(add_32_offset, 32, true)
DEFINE_ADD(add_16_plain, 16, false)
DEFINE_ADD(add_16_offset, 16, true)

#define ADD_STEP(piece, offset, most) add_##piece##_##offset

#include "kernel/panel_rows.h"

#endif
