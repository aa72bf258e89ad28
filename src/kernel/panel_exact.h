/* SPDX-License-Identifier: MIT */
/* Float activations: the tile becomes fp32 weights, as the definition rounds them. In spans of 64
 * along K, products of even k are summed first and those of odd k apart, by one fused multiply-add
 * each: one activation row has two vectors of rows and two sums for each, and four chains of
 * additions hide three quarters of their latency. */
#ifndef GQMM_KERNEL_PANEL_EXACT_H
#define GQMM_KERNEL_PANEL_EXACT_H

#include "kernel/panel.h"

enum {
    WIDE = 64, /* weights along K of an fp32 panel */
    F_MR = 6   /* activation rows at once: 12 sums and 3 more are all that 16 registers hold */
};

/* What a panel's bytes mean. */
typedef struct meaning {
    int shift, piece;
    bool has_offset, is_signed;
} meaning;

/* Weights k .. k + 3 of the rows in a vector of the panel, by one multiply-add each: scale * q +
 * offset, where a format without offsets takes the shift of its codes away as one. Shifts are
 * powers of two or 0: times the scale they are exact, and a code of zero gives zero. */
INLINE void weights4(fvec w[4], const panel *p, int k, int v, meaning is)
{
    const int piece = is.piece == 16 ? k / 16 : k / 32; /* no division by a variable */
    const vec q = load(p->q[k / 4] + v);
    const fvec scale = f_load(p->scale[piece] + v);
    const fvec offset =
        is.has_offset ? f_load(p->offset[piece] + v) : f_mul(scale, f_set((float)-is.shift));
    UNROLL(4)
    for (int j = 0; j < 4; j++)
        w[j] = !is.is_signed   ? f_fma(scale, byte_at(q, j), offset)
               : is.has_offset ? f_fma(scale, code_at(q, j, is.shift, true), offset)
                               : f_mul(scale, code_at(q, j, is.shift, true));
}

INLINE void widen(float (*to)[ROWS], const panel *p, int k, int n, const meaning is)
{
    for (int i = 0; i < n; i += 4)
        UNROLL(2)
    for (int v = 0; v < ROWS; v += LANES) {
        fvec w[4];
        weights4(w, p, k + i, v, is);
        UNROLL(4)
        for (int j = 0; j < 4; j++)
            f_store(to[i + j] + v, w[j]);
    }
}

/* sum[t] += weights * x[t] for mr rows, mr <= DIRECT, straight from bytes: few rows do not repay a
 * panel of fp32. */
INLINE void add_direct(float (*sum)[ROWS], const panel *p, const float *const *x, int64_t k, int n,
                       const int mr, cursor *next, const meaning is)
{
    for (int i0 = 0; i0 < n; i0 += WIDE) {
        const int end = n - i0 < WIDE ? n : i0 + WIDE;
        fvec f[DIRECT][2][2]; /* [row][vector][k % 2] */
        UNROLL(4)
        for (int t = 0; t < mr; t++)
            f[t][0][0] = f[t][0][1] = f[t][1][0] = f[t][1][1] = f_set(0.0f);
        for (int i = i0; i < end; i += 4) {
            UNROLL(2)
            for (int v = 0; v < 2; v++) {
                fvec w[4];
                weights4(w, p, i, v * LANES, is);
                UNROLL(4)
                for (int j = 0; j < 4; j++)
                    UNROLL(4)
                for (int t = 0; t < mr; t++)
                    f[t][v][j % 2] = f_fma(f_set(x[t][k + i + j]), w[j], f[t][v][j % 2]);
            }
        }
        UNROLL(4)
        for (int t = 0; t < mr; t++)
            UNROLL(2)
        for (int v = 0; v < 2; v++) {
            float *to = sum[t] + v * LANES;
            f_store(to, f_add(f_add(f_load(to), f[t][v][0]), f[t][v][1]));
        }
        ahead(next);
        ahead(next);
    }
}

/* The same from fp32 weights, n <= WIDE. */
INLINE void add_wide(float (*sum)[ROWS], float (*w)[ROWS], const float *const *x, int64_t k, int n,
                     const int mr)
{
    const float *a[F_MR];
    UNROLL(8)
    for (int t = 0; t < mr; t++)
        a[t] = x[t] + k;
    for (int odd = 0; odd < 2; odd++) {
        fvec f[F_MR][2];
        UNROLL(8)
        for (int t = 0; t < mr; t++)
            f[t][0] = f[t][1] = f_set(0.0f);
        for (int i = odd; i < n; i += 2) {
            const fvec w0 = f_load(w[i]), w1 = f_load(w[i] + LANES);
            UNROLL(8)
            for (int t = 0; t < mr; t++) {
                const fvec v = f_set(a[t][i]);
                f[t][0] = f_fma(v, w0, f[t][0]);
                f[t][1] = f_fma(v, w1, f[t][1]);
            }
        }
        UNROLL(8)
        for (int t = 0; t < mr; t++) {
            f_store(sum[t], f_add(f_load(sum[t]), f[t][0]));
            f_store(sum[t] + LANES, f_add(f_load(sum[t] + LANES), f[t][1]));
        }
    }
}

static void add_floats(float (*sum)[ROWS], float (*w)[ROWS], const float *const *x, int64_t k,
                       int n, int64_t m, cursor *next)
{
    for (int64_t i = 0, mr; i < m; i += mr) {
        mr = rows_at_once(m - i, F_MR);
        switch (mr) {
        case 1:
            add_wide(sum + i, w, x + i, k, n, 1);
            break;
        case 2:
            add_wide(sum + i, w, x + i, k, n, 2);
            break;
        case 3:
            add_wide(sum + i, w, x + i, k, n, 3);
            break;
        case 4:
            add_wide(sum + i, w, x + i, k, n, 4);
            break;
        case 5:
            add_wide(sum + i, w, x + i, k, n, 5);
            break;
        default:
            add_wide(sum + i, w, x + i, k, n, 6);
            break;
        }
        for (int j = 0; j < n; j += 32)
            ahead(next);
    }
}

/* sum += the step's products. */
INLINE void add_exact(float (*sum)[ROWS], const panel *p, const float *const *x, int64_t k, int n,
                      int64_t m, cursor *next, const meaning is)
{
    __attribute__((aligned(64))) float w[WIDE][ROWS];
    if (m == 1)
        add_direct(sum, p, x, k, n, 1, next, is);
    else if (m == 2 && DIRECT >= 2)
        add_direct(sum, p, x, k, n, 2, next, is);
    else if (m == 3 && DIRECT >= 3)
        add_direct(sum, p, x, k, n, 3, next, is);
    else if (m == 4 && DIRECT >= 4)
        add_direct(sum, p, x, k, n, 4, next, is);
    else
        for (int j = 0, len; j < n; j += len) {
            len = n - j < WIDE ? n - j : WIDE;
            widen(w, p, j, len, is);
            add_floats(sum, w, x, k + j, len, m, next);
        }
}

/* The kinds of meaning become constants; the piece need not. */
static void add_exact_any(float (*sum)[ROWS], const panel *p, const float *const *x, int64_t k,
                          int n, int64_t m, cursor *next, meaning is)
{
    const int shift = is.shift, piece = is.piece;
    if (SIGNED_PANELS && is.is_signed && is.has_offset)
        add_exact(sum, p, x, k, n, m, next, (meaning){shift, piece, true, true});
    else if (SIGNED_PANELS && is.is_signed)
        add_exact(sum, p, x, k, n, m, next, (meaning){shift, piece, false, true});
    else if (is.has_offset)
        add_exact(sum, p, x, k, n, m, next, (meaning){shift, piece, true, false});
    else
        add_exact(sum, p, x, k, n, m, next, (meaning){shift, piece, false, false});
}

#endif
