/* SPDX-License-Identifier: MIT */
/* One gather_qmm or qmm call on the device under test, as a plan wants it: operands between
 * canaries, strides, ids, and the decoded weights. */
#ifndef TESTS_DEVICE_JOB_H
#define TESTS_DEVICE_JOB_H

#include "device_memory.h"

enum { IDS_NONE, IDS_ONE, IDS_RANDOM, IDS_SKIP, IDS_BAD };

/* How a call is to look; strides and alignment follow from `odd` and `crooked`. */
typedef struct call_plan {
    int64_t e, rows, cols, pairs, m, n_x;
    int32_t transpose, x_type, y_type, precision;
    int lhs, rhs; /* IDS_* */
    bool dense;   /* through gqmm_qmm */
    bool odd;     /* strides with gaps, repeats and reversed rows */
    bool crooked; /* planes, x and y on odd addresses */
    bool slipped; /* x alone */
    bool nan;     /* one activation is NaN or infinite */
    bool rounds;  /* int8 has to be taken where the device has it */
    bool scaled;  /* rows of x differ by powers of two, 2^-100 to 2^100 */
} call_plan;

typedef struct job {
    const call_plan *p;
    stack s;
    planes w;
    gqmm_gather g;
    int64_t n, k, m, x_row, x_mat, y_row, y_pair, x_elems, y_elems, lhs_step, rhs_step, expert;
    span x, y, lhs, rhs, work;
    bool wide, int8;     /* weights in bf16, activations in int8 */
    double *value, *mag; /* decoded stack */
    uint8_t *first;      /* y of the first run */
    tally noise, grain;  /* errors over the terms' sum, over their root of squares */
} job;

static int64_t pick_of(const int64_t *set, int n)
{
    return set[rnd_below(n)];
}
#define PICK(...) \
    pick_of((const int64_t[]){__VA_ARGS__}, \
            (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)))

static int64_t true_stride(int64_t stride, int64_t dense)
{
    return stride == 0 ? dense : stride == -1 ? 0 : stride;
}

/* ------------------------------------------------------------------ making */

static bool make_ids(span *s, int kind, int64_t n, int64_t limit, int64_t step)
{
    static const int32_t bad[] = {INT32_MAX, INT32_MIN, -2};
    if (!span_make(s, (n ? (n - 1) * step + 1 : 1) * 4, on.tight ? 0 : 4 * rnd_below(4)))
        return false;
    int32_t *ids = (int32_t *)(void *)span_image(s);
    const int32_t one = (int32_t)rnd_below(limit);
    for (int64_t i = 0; i < n; i++) {
        int32_t id = kind == IDS_ONE ? one : (int32_t)(rnd_below(6) ? rnd_below(limit) : 0);
        if (kind >= IDS_SKIP && rnd_below(4) == 0)
            id = -1;
        if (kind == IDS_BAD && rnd_below(3) == 0)
            id = rnd() & 1 ? (int32_t)limit : bad[rnd_below(COUNT(bad))];
        ids[i * step] = id; /* canaries between: never read */
    }
    return span_put(s);
}

static void set_strides(job *j)
{
    gqmm_gather *g = &j->g;
    if (j->p->odd) {
        g->x_row_stride = PICK(0, j->k + 5, j->k + 8, -1, 1);
        g->x_mat_stride = PICK(0, 0, j->m * (j->k + 8) + 3, -1, j->k);
        if (rnd() & 1) { /* gaps, or the rows of the pairs interleaved: [M, P, N] */
            g->y_row_stride = j->n + 3;
            g->y_pair_stride = j->m * (j->n + 3) + 1;
        } else {
            g->y_pair_stride = j->n;
            g->y_row_stride = j->n * (g->n_pairs ? g->n_pairs : 1);
        }
        g->lhs_stride = PICK(0, 3, -1);
        g->rhs_stride = PICK(0, 2, -1);
    }
    if (j->p->dense)
        g->y_pair_stride = 0;
    j->x_row = true_stride(g->x_row_stride, j->k);
    j->x_mat = true_stride(g->x_mat_stride, j->m * j->x_row);
    j->y_row = true_stride(g->y_row_stride, j->n);
    j->y_pair = true_stride(g->y_pair_stride, j->m * j->y_row);
    j->lhs_step = true_stride(g->lhs_stride, 1);
    j->rhs_step = true_stride(g->rhs_stride, 1);
    j->x_elems = g->n_x ? (g->n_x - 1) * j->x_mat + (j->m - 1) * j->x_row + j->k : 0;
    j->y_elems = g->n_pairs ? (g->n_pairs - 1) * j->y_pair + (j->m - 1) * j->y_row + j->n : 0;
}

static bool make_xy(job *j)
{
    const int64_t xs = (int64_t)gqmm_type_size(j->g.x_type);
    const int64_t ys = (int64_t)gqmm_type_size(j->g.y_type);
    const bool crooked = j->p->crooked, slipped = crooked || j->p->slipped;
    if (!span_make(&j->x, j->x_elems * xs, slipped ? xs * (1 + rnd_below(7)) : 0) ||
        !span_make(&j->y, j->y_elems * ys, crooked ? ys * (1 + rnd_below(7)) : 0))
        return false;
    for (int64_t i = 0; i < j->x_elems; i++)
        set_element(span_image(&j->x), j->g.x_type, i,
                    ldexpf(rnd_gauss(), j->p->scaled ? (int)(i / j->k * 83 % 201) - 100 : 0));
    if (j->p->nan && j->x_elems)
        set_element(span_image(&j->x), j->g.x_type, rnd_below(j->x_elems),
                    rnd() & 1 ? NAN : -INFINITY);
    j->g.x = span_at(&j->x);
    j->g.y = span_at(&j->y);
    return span_put(&j->x);
}

static bool job_make(job *j, const gqmm_format_info *f, const call_plan *p)
{
    const stack_how how = {.row_gap = p->odd ? PICK(0, 3, 16) : 0,
                           .expert_gap = p->odd ? PICK(0, 101, 32) : 0,
                           .reversed = p->odd && rnd_below(3) == 0,
                           .global = rnd() & 1};
    gqmm_gather *g = &j->g;
    *j = (job){.p = p, .s = stack_make(NULL, f->pub.name, p->e, p->rows, p->cols, how)};
    GQMM_INIT(*g);
    g->precision = p->precision;
    g->transpose = p->transpose;
    g->sorted = (int32_t)rnd_below(2);
    g->m = p->m;
    g->n_pairs = p->dense ? 1 : p->pairs;
    g->n_x = p->dense ? 1 : p->n_x;
    g->x_type = p->x_type;
    g->y_type = p->y_type;
    j->m = p->m ? p->m : 1;
    j->n = p->transpose ? p->rows : p->cols;
    j->k = p->transpose ? p->cols : p->rows;
    j->expert = p->dense ? rnd_below(p->e) : 0;
    set_strides(j);
    if (!planes_make(&j->w, &j->s, p->crooked) || !make_xy(j))
        return false;
    g->w = j->w.w;
    if (p->lhs && !p->dense && !make_ids(&j->lhs, p->lhs, g->n_pairs, g->n_x, j->lhs_step))
        return false;
    if (p->rhs && !p->dense && !make_ids(&j->rhs, p->rhs, g->n_pairs, p->e, j->rhs_step))
        return false;
    g->lhs = (const int32_t *)(const void *)span_at(&j->lhs);
    g->rhs = (const int32_t *)(const void *)span_at(&j->rhs);
    j->value = make(p->e * p->rows * p->cols, sizeof *j->value);
    j->mag = make(p->e * p->rows * p->cols, sizeof *j->mag);
    for (int64_t r = 0; r < p->e * p->rows; r++)
        stack_decode(&j->s, r / p->rows, r % p->rows, j->value + r * p->cols, j->mag + r * p->cols,
                     NULL);
    return true;
}

static void job_free(job *j)
{
    planes_free(&j->w);
    stack_free(&j->s);
    span_free(&j->x);
    span_free(&j->y);
    span_free(&j->lhs);
    span_free(&j->rhs);
    span_free(&j->work);
    free(j->value);
    free(j->mag);
    free(j->first);
}

#endif
