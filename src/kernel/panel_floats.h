/* SPDX-License-Identifier: MIT */
/* f32, f16, bf16 and mlx_mxfp8: weights without integer codes. Their tiles go straight to fp32
 * panels; with quantised activations the weights stay float and only the activations are codes. */
#ifndef GQMM_KERNEL_PANEL_FLOATS_H
#define GQMM_KERNEL_PANEL_FLOATS_H

#include "kernel/panel_product.h"

enum { B_MR = 4 };

/* Weights [k, k + n) of the tile at row n0, k after k. */
static void pack_floats(float (*to)[ROWS], tile *t, int64_t n0, int64_t rows, int64_t k, int n,
                        dequantize_fn *widen_row)
{
    __attribute__((aligned(64))) float w[LANES][WIDE];
    const uint8_t *row[LANES];
    vec v[4];

    for (int h = 0; h < ROWS; h += LANES) {
        for (int r = 0; r < LANES; r++) {
            row[r] = (const uint8_t *)w[r];
            widen_row(w[r], t->w, n0 + (h + r < rows ? h + r : rows - 1), k, n);
        }
        for (int j = 0; j < n; j += 4) { /* past n: numbers that are never used */
            transpose(v, row, j * 4);
            for (int i = 0; i < 4; i++)
                store(to[j + i] + h, v[i]);
        }
        for (int i = 0; i < n; i += 32)
            ahead(&t->next);
    }
}

/* sum[t] += act scale * (sum over the block of w * q) for mr activation rows. */
INLINE void add_block(float (*sum)[ROWS], float (*w)[ROWS], const gqmm_act *const *act,
                      int64_t block, int n, const int mr)
{
    __attribute__((aligned(64))) float x[B_MR][GQMM_ACT_ELEMS];
    fvec f[B_MR][2];
    UNROLL(4)
    for (int t = 0; t < mr; t++) {
        for (int i = 0; i < GQMM_ACT_ELEMS; i += LANES)
            f_store(x[t] + i, f_codes(act[t][block].q + i));
        f[t][0] = f[t][1] = f_set(0.0f);
    }
    for (int i = 0; i < n; i++)
        UNROLL(4)
    for (int t = 0; t < mr; t++) {
        const fvec v = f_set(x[t][i]);
        f[t][0] = f_fma(v, f_load(w[i]), f[t][0]);
        f[t][1] = f_fma(v, f_load(w[i] + LANES), f[t][1]);
    }
    UNROLL(4)
    for (int t = 0; t < mr; t++) {
        const fvec s = f_set(act[t][block].scale);
        f_store(sum[t], f_fma(s, f[t][0], f_load(sum[t])));
        f_store(sum[t] + LANES, f_fma(s, f[t][1], f_load(sum[t] + LANES)));
    }
}

static void add_codes(float (*sum)[ROWS], float (*w)[ROWS], const gqmm_act *const *act, int64_t k,
                      int n, int64_t m)
{
    for (int j = 0; j < n; j += GQMM_ACT_ELEMS) {
        const int64_t block = (k + j) / GQMM_ACT_ELEMS;
        const int len = n - j < GQMM_ACT_ELEMS ? n - j : GQMM_ACT_ELEMS;
        int64_t i = 0;
        for (; i + B_MR <= m; i += B_MR)
            add_block(sum + i, w + j, act + i, block, len, B_MR);
        for (; i < m; i++)
            add_block(sum + i, w + j, act + i, block, len, 1);
    }
}

static void product_floats(const gqmm_product *p, dequantize_fn *widen_row)
{
    const int64_t at_once = p->m < PASS ? p->m : PASS;
    const int64_t visits = 2 + (p->a ? 0 : (at_once + F_MR - 1) / F_MR);
    __attribute__((aligned(64))) float sum[PASS][ROWS], w[WIDE][ROWS];
    tile t;

    for (int64_t n = p->n0; n < p->n1; n += ROWS)
        for (int64_t m0 = 0; m0 < p->m; m0 += PASS) {
            const int64_t m = p->m - m0 < PASS ? p->m - m0 : PASS;
            const int64_t rows = p->n1 - n < ROWS ? p->n1 - n : ROWS;
            tile_at(&t, p, n, visits);
            memset(sum, 0, (size_t)m * sizeof *sum);
            for (int64_t k = 0; k < p->k; k += WIDE) {
                const int len = (int)(p->k - k < WIDE ? p->k - k : WIDE);
                pack_floats(w, &t, n, rows, k, len, widen_row);
                if (k % STEP == 0)
                    fetch_scales(&t, p, k);
                if (p->a)
                    add_codes(sum, w, p->a + m0, k, len, m);
                else
                    add_floats(sum, w, p->x + m0, k, len, m, &t.next);
            }
            tile_store(p->y + m0, n, rows, sum, m);
        }
}

static const uint8_t *weights_at(const gqmm_matrix *m, int plane, int64_t row, int64_t block)
{
    return m->plane[plane] + row * m->stride[plane] + block * m->format->pub.plane_bytes[plane];
}

static void f32_dequantize(float *w, const gqmm_matrix *m, int64_t row, int64_t k0, int64_t n)
{
    memcpy(w, weights_at(m, 0, row, k0), (size_t)n * sizeof *w);
}

static void f16_dequantize(float *w, const gqmm_matrix *m, int64_t row, int64_t k0, int64_t n)
{
    const uint8_t *p = weights_at(m, 0, row, k0);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        f_store_any(w + i, f_halves(p + 2 * i));
    for (; i < n; i++)
        w[i] = gqmm_f16_to_f32(gqmm_load16(p + 2 * i));
}

static void bf16_dequantize(float *w, const gqmm_matrix *m, int64_t row, int64_t k0, int64_t n)
{
    const uint8_t *p = weights_at(m, 0, row, k0);
    for (int64_t i = 0; i < n; i++)
        w[i] = gqmm_bf16_to_f32(gqmm_load16(p + 2 * i));
}

/* gqmm_e4m3_to_f32() of byte j of each dword: 7 bits of an f16 number that is 2^8 times too small,
 * and a sign. */
INLINE fvec e4m3_byte(vec v, int j)
{
    const vec u = masked32(shift32(v, -8 * j), 255), bits = masked32(u, 127);
    const fvec size = f_mul(f_set(256.0f), low_halves(shift32(bits, 7)));
    return f_or(where_equal(bits, 127, f_set(NAN), size), shift32(masked32(u, 128), 24));
}

static void mlx_mxfp8_dequantize(float *w, const gqmm_matrix *m, int64_t row, int64_t k0, int64_t n)
{
    const uint8_t *codes = weights_at(m, 0, row, k0 / 32), *scales = weights_at(m, 1, row, k0 / 32);
    for (int64_t k = 0; k < n; k += LANES) {
        const fvec scale = f_set(gqmm_e8m0_to_f32(scales[k / 32]));
        f_store_any(w + k, f_mul(e4m3_byte(bytes_to_dwords(codes + k), 0), scale));
    }
}

#endif
