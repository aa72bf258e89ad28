/* SPDX-License-Identifier: MIT */
/* Every format, plain C: the reference that the vector rooms must equal. One idea: a block is
 * decoded by the format's own definition and then meets up to TILE activation rows, so decoding is
 * paid once per tile. Sums run over fixed lanes in a fixed order whatever m is. */
#include "base/convert.h"
#include "kernel/rows.h"

#include <assert.h>

enum {
    TILE = 16,  /* activation rows that share one decoded block */
    LANES = 8,  /* partial sums of an exact dot: wide enough for the compiler to vectorise */
    CHUNK = 256 /* weights decoded at a time when the block is one element or small */
};

typedef struct {
    int16_t q[GQMM_MAX_BLOCK];
    float scale[GQMM_MAX_GROUPS], offset[GQMM_MAX_GROUPS];
} coded;

static void block_at(const uint8_t *p[3], const gqmm_matrix *m, int64_t row, int64_t k)
{
    const gqmm_format *f = &m->format->pub;
    for (int i = 0; i < 3; i++)
        p[i] = i < f->n_planes
                   ? m->plane[i] + row * m->stride[i] + k / f->block_elems * f->plane_bytes[i]
                   : NULL;
}

static void unpack(coded *c, const gqmm_matrix *m, int64_t row, int64_t k)
{
    const gqmm_format_info *f = m->format;
    const uint8_t *p[3];
    block_at(p, m, row, k);
    f->unpack(f, c->q, c->scale, c->offset, p);
    if (f->pub.has_global_scale)
        for (int g = 0; g < f->pub.block_elems / f->pub.group_elems; g++)
            c->scale[g] *= m->global;
}

static void dequantize(float *w, const gqmm_matrix *m, int64_t row, int64_t k0, int64_t n)
{
    const gqmm_format_info *f = m->format;
    const int32_t step = f->pub.block_elems;
    const uint8_t *p[3];
    assert(k0 % step == 0 && n % step == 0);

    if (step == 1) { /* f32, f16, bf16: a row is an array */
        block_at(p, m, row, k0);
        gqmm_widen(w, p[0], gqmm_element_type(f), n);
        return;
    }
    for (int64_t i = 0; i < n; i += step) {
        block_at(p, m, row, k0 + i);
        gqmm_format_dequantize_block(f, w + i, p, m->global);
    }
}

/* Weights to decode at k: whole blocks, at most CHUNK, at most what is left. */
static int64_t chunk_at(const gqmm_format_info *f, int64_t k, int64_t end)
{
    const int64_t most = CHUNK / f->pub.block_elems * f->pub.block_elems;
    return end - k < most ? end - k : most;
}

static float sum_lanes(const float acc[LANES])
{
    return ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]));
}

static void add_products(float acc[LANES], const float *w, const float *x, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            acc[l] += w[i + l] * x[i + l];
    for (int l = 0; i < n; i++, l++)
        acc[l] += w[i] * x[i];
}

static void qmm(const gqmm_product *p)
{
    const gqmm_format_info *f = p->w->format;
    float w[CHUNK];

    for (int64_t m0 = 0; m0 < p->m; m0 += TILE) {
        const int64_t tile = p->m - m0 < TILE ? p->m - m0 : TILE;
        for (int64_t n = p->n0; n < p->n1; n++) {
            float acc[TILE][LANES] = {{0}};
            for (int64_t k = 0, step; k < p->k; k += step) {
                step = chunk_at(f, k, p->k);
                dequantize(w, p->w, n, k, step);
                for (int64_t i = 0; i < tile; i++)
                    add_products(acc[i], w, p->x[m0 + i] + k, step);
            }
            for (int64_t i = 0; i < tile; i++)
                p->y[m0 + i][n] = sum_lanes(acc[i]);
        }
    }
}

/* The exact integer sum of one group's piece: |dot| <= 32 * 255 * 127 < 2^20. */
static int32_t dot(const int16_t *q, const int8_t *a, int n)
{
    int32_t sum = 0;
    for (int i = 0; i < n; i++)
        sum += q[i] * (int16_t)a[i];
    return sum;
}

/* The contribution of the block at k: per group of 16, or per 32 of a larger group,
 *     act scale * (scale * dot(q, a) + offset * sum(a)). */
static float add_block(float acc, const coded *c, const gqmm_format_info *f, const gqmm_act *a,
                       int64_t k)
{
    const int group = f->pub.group_elems;
    const int piece = group < GQMM_ACT_ELEMS ? group : GQMM_ACT_ELEMS;
    assert(piece == 16 || piece == 32);

    for (int j = 0; j < f->pub.block_elems; j += piece) {
        const gqmm_act *b = &a[(k + j) / GQMM_ACT_ELEMS];
        const int first = (int)((k + j) % GQMM_ACT_ELEMS);
        const int32_t d = piece == 32 ? dot(c->q + j, b->q, 32) : dot(c->q + j, b->q + first, 16);
        float term = c->scale[j / group] * (float)d;
        if (f->has_offset) {
            const int32_t sum = piece == 32 ? b->sum[0] + b->sum[1] : b->sum[first / 16];
            term += c->offset[j / group] * (float)sum;
        }
        acc += b->scale * term;
    }
    return acc;
}

static void qmm_int8_coded(const gqmm_product *p)
{
    const gqmm_format_info *f = p->w->format;
    coded c;

    for (int64_t m0 = 0; m0 < p->m; m0 += TILE) {
        const int64_t tile = p->m - m0 < TILE ? p->m - m0 : TILE;
        for (int64_t n = p->n0; n < p->n1; n++) {
            float acc[TILE] = {0};
            for (int64_t k = 0; k < p->k; k += f->pub.block_elems) {
                unpack(&c, p->w, n, k);
                for (int64_t i = 0; i < tile; i++)
                    acc[i] = add_block(acc[i], &c, f, p->a[m0 + i], k);
            }
            for (int64_t i = 0; i < tile; i++)
                p->y[m0 + i][n] = acc[i];
        }
    }
}

/* Float formats have no codes: the weights stay float, only the activations are rounded. */
static void qmm_int8_float(const gqmm_product *p)
{
    float w[CHUNK], x[GQMM_ACT_ELEMS];

    for (int64_t m0 = 0; m0 < p->m; m0 += TILE) {
        const int64_t tile = p->m - m0 < TILE ? p->m - m0 : TILE;
        for (int64_t n = p->n0; n < p->n1; n++) {
            float acc[TILE] = {0};
            for (int64_t k = 0, step; k < p->k; k += step) {
                step = chunk_at(p->w->format, k, p->k);
                dequantize(w, p->w, n, k, step);
                for (int64_t i = 0; i < tile; i++) {
                    const gqmm_act *a = p->a[m0 + i] + k / GQMM_ACT_ELEMS;
                    for (int64_t j = 0; j < step; j += GQMM_ACT_ELEMS, a++) {
                        const int64_t len = step - j < GQMM_ACT_ELEMS ? step - j : GQMM_ACT_ELEMS;
                        float lanes[LANES] = {0};
                        for (int l = 0; l < GQMM_ACT_ELEMS; l++)
                            x[l] = (float)a->q[l];
                        add_products(lanes, w + j, x, len);
                        acc[i] += a->scale * sum_lanes(lanes);
                    }
                }
            }
            for (int64_t i = 0; i < tile; i++)
                p->y[m0 + i][n] = acc[i];
        }
    }
}

static void qmm_int8(const gqmm_product *p)
{
    if (p->w->format->unpack)
        qmm_int8_coded(p);
    else
        qmm_int8_float(p);
}

/* Stored rows run along N: each k adds a multiple of its row. */
static void qmm_n(const gqmm_product *p)
{
    const gqmm_format_info *f = p->w->format;
    float w[CHUNK], acc[TILE][CHUNK];

    for (int64_t m0 = 0; m0 < p->m; m0 += TILE) {
        const int64_t tile = p->m - m0 < TILE ? p->m - m0 : TILE;
        for (int64_t n = p->n0, step; n < p->n1; n += step) {
            step = chunk_at(f, n, p->n1);
            memset(acc, 0, sizeof acc);
            for (int64_t k = 0; k < p->k; k++) {
                dequantize(w, p->w, k, n, step);
                for (int64_t i = 0; i < tile; i++) {
                    const float x = p->x[m0 + i][k];
                    for (int64_t j = 0; j < step; j++)
                        acc[i][j] += x * w[j];
                }
            }
            for (int64_t i = 0; i < tile; i++)
                memcpy(p->y[m0 + i] + n, acc[i], (size_t)step * sizeof(float));
        }
    }
}

const gqmm_kernel_fns gqmm_any_scalar = {
    .dequantize = dequantize, .qmm = qmm, .qmm_int8 = qmm_int8, .qmm_n = qmm_n, .rows = &gqmm_rows};
