/* SPDX-License-Identifier: MIT */
/* One product for a kernel: its contents in ordinary memory, laid between guard pages at either
 * end, and what the definition says about them. */
#ifndef TESTS_PROBLEM_H
#define TESTS_PROBLEM_H

#include "harness.h"
#include "kernel/kernel.h"
#include "reference.h"

enum { QMM, QMM_INT8, QMM_N, DEQUANTIZE, FUNCTIONS };
static const char *const function_names[] = {"qmm", "qmm_int8", "qmm_n", "dequantize"};

typedef enum activations {
    X_GAUSS,
    X_ONES, /* no cancellation: an error of the scale stands out */
    X_EXTREME,
    X_OUTLIER,
    X_ZERO,
    X_SUBNORMAL,
    X_HUGE,
    X_NAN,
    X_INF,
    X_KINDS
} activations;

static const char *const x_names[] = {"gauss",     "ones", "extreme", "outlier", "zero",
                                      "subnormal", "huge", "nan",     "inf"};

typedef struct shape {
    int64_t n, k, m;
    int64_t w_gap, x_gap, y_gap; /* bytes, elements, elements between rows */
    bool reversed;               /* negative row strides */
    float global;
    blocks w;
    activations x;
} shape;

/* ------------------------------------------------------------------ one problem */

enum { PLANE_BYTES = 4 << 20, ROWS_BYTES = 4 << 20, TABLE_BYTES = 1 << 12, MOST = 1 << 20 };
enum { MAX_M = 33 };

/* Contents in ordinary memory; place() lays them between guard pages, at either end. */
static struct {
    arena plane[3], x, a, y, x_table, a_table, y_table;
    uint8_t *plane_bytes[3];
    float *x_values;
    gqmm_act *acts;
    double *w, *mag; /* [stored rows, stored columns] */
    double *xq;      /* [m, K] activations as the function sees them */
    float *first, *again;
} mem;

static void make_memory(void)
{
    for (int i = 0; i < 3; i++) {
        mem.plane[i] = arena_make(PLANE_BYTES);
        mem.plane_bytes[i] = make(PLANE_BYTES, 1);
    }
    mem.x = arena_make(ROWS_BYTES);
    mem.a = arena_make(ROWS_BYTES);
    mem.y = arena_make(ROWS_BYTES);
    mem.x_table = arena_make(TABLE_BYTES);
    mem.a_table = arena_make(TABLE_BYTES);
    mem.y_table = arena_make(TABLE_BYTES);
    mem.x_values = make(ROWS_BYTES, 1);
    mem.acts = make(ROWS_BYTES, 1);
    mem.w = make(MOST, sizeof *mem.w);
    mem.mag = make(MOST, sizeof *mem.mag);
    mem.xq = make(MOST, sizeof *mem.xq);
    mem.first = make(ROWS_BYTES, 1);
    mem.again = make(ROWS_BYTES, 1);
}

/* A problem at hand: stored rows and columns, strides, and the operands where they lie now. */
typedef struct problem {
    const gqmm_format_info *f;
    const shape *s;
    int function;
    int64_t rows, cols, step[3], bytes[3]; /* of w */
    int64_t x_step, y_step;
    gqmm_matrix w;
    const float **x;
    const gqmm_act **a;
    float **y;
    float *y_base;
} problem;

static float activation(activations kind, int64_t k, int64_t i)
{
    switch (kind) {
    case X_ONES:
        return 1.0f;
    case X_EXTREME: /* int8 codes of +-127 */
        return rnd() & 1 ? 1.0f : -1.0f;
    case X_OUTLIER:
        return i == k / 2 ? 1e6f : rnd_gauss() * 1e-3f;
    case X_ZERO:
        return rnd() & 1 ? 0.0f : -0.0f;
    case X_SUBNORMAL:
        return rnd_gauss() * 1e-39f;
    case X_HUGE:
        return rnd_gauss() * 1e37f;
    case X_NAN:
        return i == k / 2 ? NAN : rnd_gauss();
    case X_INF:
        return i == k - 1 ? INFINITY : rnd_gauss();
    default:
        return rnd_gauss();
    }
}

static void fill_weights(problem *p)
{
    const gqmm_format_info *f = p->f;
    const int block = f->pub.block_elems;
    decoded d;
    p->rows = p->function == QMM_N ? p->s->k : p->s->n;
    p->cols = p->function == QMM_N ? p->s->n : p->s->k;
    for (int i = 0; i < f->pub.n_planes; i++) {
        const int64_t row = gqmm_format_row_bytes(&f->pub, i, p->cols);
        p->step[i] = row + p->s->w_gap;
        p->bytes[i] = (p->rows - 1) * p->step[i] + row;
        memset(mem.plane_bytes[i], 0xa5, (size_t)p->bytes[i]);
    }
    for (int64_t r = 0; r < p->rows; r++) {
        uint8_t *at[3] = {NULL, NULL, NULL};
        const int64_t slot = p->s->reversed ? p->rows - 1 - r : r;
        for (int i = 0; i < f->pub.n_planes; i++)
            at[i] = mem.plane_bytes[i] + slot * p->step[i];
        fill_row(f, at, p->cols, p->s->w);
        for (int64_t k = 0; k < p->cols; k += block) {
            const uint8_t *const from[3] = {at[0], at[1], at[2]};
            decode(&d, f, from, p->s->global);
            memcpy(mem.w + r * p->cols + k, d.exact, (size_t)block * sizeof(double));
            memcpy(mem.mag + r * p->cols + k, d.mag, (size_t)block * sizeof(double));
            for (int i = 0; i < f->pub.n_planes; i++)
                at[i] += f->pub.plane_bytes[i];
        }
    }
}

static void fill_activations(problem *p)
{
    const int64_t k = p->s->k, m = p->s->m, n_acts = gqmm_act_blocks(k);
    p->x_step = k + p->s->x_gap;
    for (int64_t i = 0; i < m; i++) {
        float *x = mem.x_values + i * p->x_step;
        for (int64_t j = 0; j < p->x_step; j++)
            x[j] = j < k ? activation(p->s->x, k, j) : NAN;
        gqmm_act_quantize(mem.acts + i * n_acts, x, k);
        if (p->function == QMM_INT8)
            round_int8(mem.xq + i * k, x, k);
        else
            for (int64_t j = 0; j < k; j++)
                mem.xq[i * k + j] = (double)x[j];
    }
}

#define POISON 0x7fc0deadu

/* Lays all operands at one end of their pages and poisons the output. */
static void place(problem *p, bool right)
{
    const int64_t m = p->s->m, n_acts = gqmm_act_blocks(p->s->k);
    p->w = (gqmm_matrix){.format = p->f, .global = p->s->global};
    for (int i = 0; i < p->f->pub.n_planes; i++) {
        uint8_t *at = arena_at(&mem.plane[i], (size_t)p->bytes[i], right);
        memcpy(at, mem.plane_bytes[i], (size_t)p->bytes[i]);
        p->w.plane[i] = p->s->reversed ? at + (p->rows - 1) * p->step[i] : at;
        p->w.stride[i] = p->s->reversed ? -p->step[i] : p->step[i];
    }
    const size_t x_bytes = (size_t)((m - 1) * p->x_step + p->s->k) * sizeof(float);
    const size_t a_bytes = (size_t)(m * n_acts) * sizeof(gqmm_act);
    p->y_step = p->s->n + p->s->y_gap;
    const int64_t y_elems = (m - 1) * p->y_step + p->s->n;
    const float *x = memcpy(arena_at(&mem.x, x_bytes, right), mem.x_values, x_bytes);
    const gqmm_act *a = memcpy(arena_at(&mem.a, a_bytes, right), mem.acts, a_bytes);
    p->y_base = arena_at(&mem.y, (size_t)y_elems * sizeof(float), right);
    for (int64_t i = 0; i < y_elems; i++)
        p->y_base[i] = gqmm_bits_to_f32(POISON);
    const size_t table = (size_t)m * sizeof(void *);
    p->x = arena_at(&mem.x_table, table, right);
    p->a = arena_at(&mem.a_table, table, right);
    p->y = arena_at(&mem.y_table, table, right);
    for (int64_t i = 0; i < m; i++) {
        p->x[i] = x + i * p->x_step;
        p->a[i] = a + i * n_acts;
        p->y[i] = p->y_base + i * p->y_step;
    }
}

/* Rows [i0, i0 + m) and outputs [n0, n1). The unused kind of activations is NULL. */
static void call(const gqmm_kernel_fns *fns, const problem *p, int64_t i0, int64_t m, int64_t n0,
                 int64_t n1)
{
    const bool int8 = p->function == QMM_INT8;
    const gqmm_product q = {.w = &p->w,
                            .k = p->s->k,
                            .n0 = n0,
                            .n1 = n1,
                            .m = m,
                            .y = p->y + i0,
                            .x = int8 ? NULL : p->x + i0,
                            .a = int8 ? p->a + i0 : NULL};
    (p->function == QMM ? fns->qmm : int8 ? fns->qmm_int8 : fns->qmm_n)(&q);
}

#endif
