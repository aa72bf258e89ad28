/* SPDX-License-Identifier: MIT */
/* Wrong kernels, wrapped around a right one: what check_kernels must catch before it reports. */
#ifndef TESTS_PLANTED_H
#define TESTS_PLANTED_H

#include "problem.h"

typedef enum plant {
    PLANT_NAN,
    PLANT_DROPS_BLOCK,
    PLANT_SCALE,
    PLANT_SKIPS_ROW,
    PLANT_READS_PAST,
    PLANT_READS_BEFORE,
    PLANT_WRITES_OUTSIDE,
    PLANT_DEPENDS_ON_M,
    PLANT_DEPENDS_ON_SPLIT,
    PLANTS
} plant;

static const char *const plant_names[] = {"a NaN result",
                                          "the last block dropped",
                                          "scale off by 1e-4",
                                          "an output not written",
                                          "a byte past the end",
                                          "a byte before the start",
                                          "a write outside [n0,n1)",
                                          "a result that depends on m",
                                          "a result that depends on n0"};

static plant planted;
static const gqmm_kernel_fns *real;
static volatile uint8_t sink;

static void spoil(const gqmm_product *p, int64_t step)
{
    float *last = &p->y[p->m - 1][p->n1 - 1];
    switch (planted) {
    case PLANT_NAN:
        *last = NAN;
        break;
    case PLANT_SCALE:
        for (int64_t i = 0; i < p->m; i++)
            for (int64_t n = p->n0; n < p->n1; n++)
                p->y[i][n] *= 1.0001f;
        break;
    case PLANT_SKIPS_ROW:
        for (int64_t n = p->n0; p->m > 1 && n < p->n1; n++)
            p->y[p->m - 1][n] = gqmm_bits_to_f32(POISON);
        break;
    case PLANT_READS_BEFORE:
        sink = p->w->plane[0][-1];
        break;
    case PLANT_WRITES_OUTSIDE:
        last[1] = 0.0f;
        break;
    case PLANT_DEPENDS_ON_M:
        p->y[0][p->n0] = p->m > 1 ? nextafterf(p->y[0][p->n0], INFINITY) : p->y[0][p->n0];
        break;
    case PLANT_DEPENDS_ON_SPLIT:
        if (p->n1 - p->n0 > step)
            *last = nextafterf(*last, INFINITY);
        break;
    default:
        break;
    }
}

static void planted_product(const gqmm_product *given, void (*run)(const gqmm_product *), bool n)
{
    gqmm_product p = *given;
    const gqmm_format *f = &p.w->format->pub;
    const int64_t rows = n ? p.k : p.n1, cols = n ? p.n1 : p.k;
    if (planted == PLANT_DROPS_BLOCK)
        p.k -= n ? 1 : f->block_elems;
    run(&p);
    if (planted == PLANT_READS_PAST) /* the row that is last in memory */
        sink = p.w->plane[0][(p.w->stride[0] < 0 ? 0 : (rows - 1) * p.w->stride[0]) +
                             gqmm_format_row_bytes(f, 0, cols)];
    spoil(given, n ? f->block_elems : 1);
}

static void planted_qmm(const gqmm_product *p)
{
    planted_product(p, real->qmm, false);
}

static void planted_int8(const gqmm_product *p)
{
    planted_product(p, real->qmm_int8, false);
}

static void planted_n(const gqmm_product *p)
{
    planted_product(p, real->qmm_n, true);
}

static void planted_dequantize(float *w, const gqmm_matrix *m, int64_t row, int64_t k0, int64_t n)
{
    real->dequantize(w, m, row, k0, n);
    if (planted == PLANT_NAN)
        w[n - 1] = NAN;
    else if (planted == PLANT_DROPS_BLOCK)
        memset(w + n - m->format->pub.block_elems, 0,
               (size_t)m->format->pub.block_elems * sizeof *w);
    else if (planted == PLANT_WRITES_OUTSIDE)
        w[n] = 0.0f;
    else if (planted == PLANT_READS_BEFORE)
        sink = m->plane[0][-1];
    else
        w[0] = nextafterf(w[0], INFINITY);
}

static const gqmm_kernel_fns wrong_kernel = {.dequantize = planted_dequantize,
                                             .qmm = planted_qmm,
                                             .qmm_int8 = planted_int8,
                                             .qmm_n = planted_n};

#endif
