/* SPDX-License-Identifier: MIT */
/* One gather_qmm or qmm call with its operands, and every output against the definition. */
#ifndef TESTS_GATHER_JOB_H
#define TESTS_GATHER_JOB_H

#include "harness.h"
#include "reference.h"

static gqmm_context *ctx;
static gqmm_error err;

typedef struct job {
    stack s;
    gqmm_gather g;
    int64_t n, k, x_row, x_mat, y_row, y_pair; /* true strides */
    int64_t x_elems, y_elems, lhs_step, rhs_step;
    uint8_t *x, *y;
    int32_t *lhs, *rhs;
    double *w, *mag; /* decoded stack */
    bool dense;      /* through gqmm_qmm */
    int64_t expert;
} job;

static void job_free(job *j)
{
    stack_free(&j->s);
    free(j->x);
    free(j->y);
    free(j->lhs);
    free(j->rhs);
    free(j->w);
    free(j->mag);
}

static int64_t true_stride(int64_t stride, int64_t dense)
{
    return stride == 0 ? dense : stride == -1 ? 0 : stride;
}

/* Memory for x and y as the strides ask, poison in y, and the decoded weights. */
static void job_fill(job *j)
{
    const gqmm_gather *g = &j->g;
    const int64_t cols = j->s.cols, m = g->m ? g->m : 1;
    j->n = g->transpose ? j->s.rows : cols;
    j->k = g->transpose ? cols : j->s.rows;
    j->x_row = true_stride(g->x_row_stride, j->k);
    j->x_mat = true_stride(g->x_mat_stride, m * j->x_row);
    j->y_row = true_stride(g->y_row_stride, j->n);
    j->y_pair = true_stride(g->y_pair_stride, m * j->y_row);
    j->x_elems = g->n_x ? (g->n_x - 1) * j->x_mat + (m - 1) * j->x_row + j->k : 0;
    j->y_elems = g->n_pairs ? (g->n_pairs - 1) * j->y_pair + (m - 1) * j->y_row + j->n : 0;
    j->x = make(j->x_elems, gqmm_type_size(g->x_type));
    j->y = make(j->y_elems, gqmm_type_size(g->y_type));
    memset(j->y, 0xcd, (size_t)j->y_elems * gqmm_type_size(g->y_type));
    for (int64_t i = 0; i < j->x_elems; i++)
        set_element(j->x, g->x_type, i, rnd_gauss());
    j->g.x = j->x;
    j->g.y = j->y;
    j->g.w = j->s.w;
    j->w = make(j->s.e * j->s.rows * cols, sizeof *j->w);
    j->mag = make(j->s.e * j->s.rows * cols, sizeof *j->mag);
    for (int64_t r = 0; r < j->s.e * j->s.rows; r++)
        stack_decode(&j->s, r / j->s.rows, r % j->s.rows, j->w + r * cols, j->mag + r * cols, NULL);
}

static int64_t lhs_of(const job *j, int64_t p)
{
    return j->dense ? 0 : j->lhs ? j->lhs[p * j->lhs_step] : p;
}

static int64_t rhs_of(const job *j, int64_t p)
{
    return j->dense ? j->expert : j->rhs ? j->rhs[p * j->rhs_step] : p;
}

static bool check_output_row(const job *j, int64_t p, int64_t m, const double *x)
{
    const int64_t e = rhs_of(j, p), base = e * j->s.rows * j->s.cols;
    const int64_t row = j->g.transpose ? j->k : 1, col = j->g.transpose ? 1 : j->n;
    double abs_x = 0;
    for (int64_t k = 0; x && k < j->k; k++)
        abs_x += fabs(x[k]);
    for (int64_t n = 0; n < j->n; n++) {
        double want = 0, mag = 0;
        for (int64_t k = 0; x && k < j->k; k++) {
            want += j->w[base + n * row + k * col] * x[k];
            mag += j->mag[base + n * row + k * col] * fabs(x[k]);
        }
        const double got = element(j->y, j->g.y_type, p * j->y_pair + m * j->y_row + n);
        const double slack = x ? underflow_slack((double)j->k, abs_x) : 0;
        NEED(x ? close_enough(got, want, mag, 0, (double)j->k, slack, j->g.y_type) : got == 0,
             "%s %s [%lld, %lld] of %lld experts, transpose %d, %s, x %s, y %s, %lld pairs of "
             "%lld: y[%lld, %lld, %lld] is %.9g, expected %.9g (x %lld, expert %lld)",
             j->dense ? "qmm" : "gather_qmm", j->s.f->pub.name, (long long)j->n, (long long)j->k,
             (long long)j->s.e, j->g.transpose, j->g.precision ? "int8" : "exact",
             type_names[j->g.x_type], type_names[j->g.y_type], (long long)j->g.n_pairs,
             (long long)j->g.m, (long long)p, (long long)m, (long long)n, got, want,
             (long long)lhs_of(j, p), (long long)e);
    }
    return true;
}

/* All outputs, and that nothing between them was written. */
static bool job_check(const job *j)
{
    const int64_t m = j->g.m ? j->g.m : 1, size = (int64_t)gqmm_type_size(j->g.y_type);
    float *x = make(j->k, sizeof *x);
    double *xd = make(j->k, sizeof *xd);
    uint8_t *ours = make(j->y_elems, 1);
    bool ok = true;
    for (int64_t r = 0; ok && r < j->g.n_pairs * m; r++) {
        const int64_t p = r / m, i = r % m, lhs = lhs_of(j, p);
        const bool skipped = lhs < 0 || rhs_of(j, p) < 0;
        memset(ours + p * j->y_pair + i * j->y_row, 1, (size_t)j->n);
        for (int64_t k = 0; !skipped && k < j->k; k++) {
            xd[k] = element(j->x, j->g.x_type, lhs * j->x_mat + i * j->x_row + k);
            x[k] = (float)xd[k];
        }
        if (!skipped && j->g.precision == GQMM_INT8)
            round_int8(xd, x, j->k);
        ok = check_output_row(j, p, i, skipped ? NULL : xd);
    }
    for (int64_t i = 0; ok && i < j->y_elems * size; i++)
        if (!ours[i / size] && j->y[i] != 0xcd)
            ok = fail("element %lld of y lies between the rows and was written",
                      (long long)(i / size));
    free(x);
    free(xd);
    free(ours);
    return ok;
}

static bool job_run(job *j)
{
    gqmm_status status;
    if (j->dense) {
        gqmm_dense d;
        GQMM_INIT(d);
        d.precision = j->g.precision;
        d.w = j->s.w;
        d.expert = j->expert;
        d.transpose = j->g.transpose;
        d.y_type = j->g.y_type;
        d.x_type = j->g.x_type;
        d.m = j->g.n_pairs ? j->g.m : 0;
        d.x = j->g.x;
        d.y = j->g.y;
        d.y_row_stride = j->g.y_row_stride;
        d.x_row_stride = j->g.x_row_stride;
        status = gqmm_qmm(ctx, &d, &err);
    } else {
        status = gqmm_gather_qmm(ctx, &j->g, &err);
    }
    return status == GQMM_OK ? job_check(j) : fail("status %d: %s", status, err.text);
}

#endif
