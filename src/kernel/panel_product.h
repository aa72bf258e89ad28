/* SPDX-License-Identifier: MIT */
/* The products: tiles, passes and steps around the cores. At the end, a coded family's row of
 * kernels.def. */
#ifndef GQMM_KERNEL_PANEL_PRODUCT_H
#define GQMM_KERNEL_PANEL_PRODUCT_H

#include "kernel/panel_exact.h"
#include "kernel/rows.h"

typedef void dequantize_fn(float *w, const gqmm_matrix *m, int64_t row, int64_t k0, int64_t n);

/* With transpose, quantised activations or float ones, whichever p has. */
static void product_coded(const gqmm_product *p, const family *f)
{
    const gqmm_format_info *info = p->w->format;
    const meaning is = {.shift = f->shift,
                        .piece = info->pub.group_elems == 16 ? 16 : 32,
                        .has_offset = info->has_offset,
                        .is_signed = f->is_signed};
    const int64_t at_once = p->m < PASS ? p->m : PASS, by = p->a ? I_MR : F_MR;
    const int64_t visits = 2 + (at_once + by - 1) / by;
    __attribute__((aligned(64))) float sum[PASS][ROWS];
    panel w;
    tile t;

    for (int64_t m0 = 0; m0 < p->m; m0 += PASS) { /* activations stay near while tiles pass */
        const int64_t m = p->m - m0 < PASS ? p->m - m0 : PASS;
        gqmm_product pass = *p;
        for (int i = 0; i < info->pub.n_planes && m0 + PASS < p->m; i++)
            pass.next[i] = p->w->plane[i] + p->n0 * p->w->stride[i];
        for (int64_t n = p->n0; n < p->n1; n += ROWS) {
            tile_at(&t, &pass, n, visits);
            memset(sum, 0, (size_t)m * sizeof *sum);
            for (int64_t k = 0; k < p->k; k += STEP) {
                const int step = (int)(p->k - k < STEP ? p->k - k : STEP);
                f->pack(&w, &t, k, step);
                fetch_scales(&t, p, k);
                if (p->a)
                    f->add(sum, &w, p->a + m0, k / GQMM_ACT_ELEMS, step, f->shift, m, &t.next);
                else
                    add_exact_any(sum, &w, p->x + m0, k, step, m, &t.next, is);
            }
            tile_store(p->y + m0, n, p->n1 - n < ROWS ? p->n1 - n : ROWS, sum, m);
        }
    }
}

/* ---- no transpose: stored rows run along N, each k adds a multiple of its row */

enum {
    COLS = 256, /* columns at a time */
    DEPTH = 8,  /* stored rows decoded at a time: 8 KiB */
    MOST = 16,  /* activation rows that share a decoded row: 16 KiB of sums */
    ACROSS = 8  /* vectors of sums in registers */
};

/* sum[0 .. 256) += x[j] * w[j][...], j < depth, in the order of j. */
static void add_rows(float *sum, float (*w)[COLS], const float *x, int depth)
{
    for (int c = 0; c < COLS; c += ACROSS * LANES) {
        fvec f[ACROSS];
        UNROLL(8)
        for (int v = 0; v < ACROSS; v++)
            f[v] = f_load(sum + c + LANES * v);
        for (int j = 0; j < depth; j++) {
            const fvec a = f_set(x[j]);
            UNROLL(8)
            for (int v = 0; v < ACROSS; v++)
                f[v] = f_fma(a, f_load(w[j] + c + LANES * v), f[v]);
        }
        UNROLL(8)
        for (int v = 0; v < ACROSS; v++)
            f_store(sum + c + LANES * v, f[v]);
    }
}

static void product_columns(const gqmm_product *p, dequantize_fn *dequantize)
{
    const int64_t block = p->w->format->pub.block_elems, most = COLS / block * block;
    __attribute__((aligned(64))) float w[DEPTH][COLS], sum[MOST][COLS];

    memset(w, 0, sizeof w); /* columns past the last are computed and dropped */
    for (int64_t n = p->n0, cols; n < p->n1; n += cols) {
        cols = p->n1 - n < most ? p->n1 - n : most;
        for (int64_t m0 = 0; m0 < p->m; m0 += MOST) {
            const int64_t m = p->m - m0 < MOST ? p->m - m0 : MOST;
            memset(sum, 0, (size_t)m * sizeof *sum);
            for (int64_t k = 0; k < p->k; k += DEPTH) {
                const int depth = (int)(p->k - k < DEPTH ? p->k - k : DEPTH);
                for (int j = 0; j < depth; j++)
                    dequantize(w[j], p->w, k + j, n, cols);
                for (int64_t i = 0; i < m; i++)
                    add_rows(sum[i], w, p->x[m0 + i] + k, depth);
            }
            for (int64_t i = 0; i < m; i++)
                memcpy(p->y[m0 + i] + n, sum[i], (size_t)cols * sizeof(float));
        }
    }
}

/* ---- the definition, block after block */

INLINE void generic_dequantize(float *w, const gqmm_matrix *m, int64_t row, int64_t k0, int64_t n,
                               gqmm_unpack_fn *unpack)
{
    const gqmm_format_info *f = m->format;
    const int block = f->pub.block_elems, group = f->pub.group_elems;
    int16_t q[GQMM_MAX_BLOCK];
    float scale[GQMM_MAX_GROUPS], offset[GQMM_MAX_GROUPS] = {0};
    const uint8_t *p[3] = {NULL, NULL, NULL};

    for (int i = 0; i < f->pub.n_planes; i++)
        p[i] = m->plane[i] + row * m->stride[i] + k0 / block * f->pub.plane_bytes[i];
    for (int64_t j = 0; j < n; j += block) {
        unpack(f, q, scale, offset, p);
        for (int g = 0; g < block / group; g++) {
            const float s = scale[g] * m->global;
            for (int i = g * group; i < (g + 1) * group; i++) {
                const float product = s * (float)q[i];
                w[j + i] = f->has_offset ? product + offset[g] : product;
            }
        }
        for (int i = 0; i < f->pub.n_planes; i++)
            p[i] += f->pub.plane_bytes[i];
    }
}

/* ---- rows of kernels.def */

#define EXPORT_FNS(token, product) \
    static void token##_qmm(const gqmm_product *p) \
    { \
        product; \
    } \
    static void token##_qmm_n(const gqmm_product *p) \
    { \
        product_columns(p, token##_dequantize); \
    } \
    const gqmm_kernel_fns ROW_NAME(token) = {.dequantize = token##_dequantize, \
                                             .qmm = token##_qmm, \
                                             .qmm_int8 = token##_qmm, \
                                             .qmm_n = token##_qmm_n, \
                                             .rows = &gqmm_rows};

/* Given token_pack(). shift: what makes the codes unsigned (wide: after wide_codes()); piece and
 * plain or offset: the kind of sums; most: the greatest code in the panel is at most 15, 31, 63,
 * or it is wide, that is passes 128. */
#define EXPORT_FAMILY(token, shift, piece, offset, most) \
    static const family token##_family = {token##_pack, ADD_STEP(piece, offset, most), \
                                          SHIFT_##most(shift), SIGNED_##most}; \
    static void token##_dequantize(float *w, const gqmm_matrix *m, int64_t row, int64_t k0, \
                                   int64_t n) \
    { \
        generic_dequantize(w, m, row, k0, n, gqmm_unpack_##token); \
    } \
    EXPORT_FNS(token, product_coded(p, &token##_family))

#define GENERIC_FAMILY(token, shift, piece, offset, most) \
    static void token##_pack(panel *to, tile *t, int64_t k, int n) \
    { \
        generic_pack(to, t, k, n, SHIFT_##most(shift), gqmm_unpack_##token); \
    } \
    EXPORT_FAMILY(token, shift, piece, offset, most)

#define SHIFT_15(shift) (shift)
#define SHIFT_31(shift) (shift)
#define SHIFT_63(shift) (shift)
#define SHIFT_wide(shift) ((shift) + WIDE_SHIFT)
#define SIGNED_15 false
#define SIGNED_31 false
#define SIGNED_63 false
#define SIGNED_wide SIGNED_PANELS

#endif
