/* SPDX-License-Identifier: MIT */
/* One gather_qmm or qmm call on the device under test: twice with equal bits (scratch of the
 * context, then exactly the workspace asked for), every output against the definition in double. */
#ifndef TESTS_DEVICE_PRODUCT_H
#define TESTS_DEVICE_PRODUCT_H

#include "device_job.h"

/* ------------------------------------------------------------------ the definition */

static int64_t id_of(const job *j, const span *ids, int64_t step, int64_t p, int64_t limit)
{
    if (j->p->dense)
        return 0;
    const int64_t id = ids->memory ? ((const int32_t *)(const void *)span_image(ids))[p * step] : p;
    return id >= 0 && id < limit ? id : -1;
}

/* Only one side of a call has bad ids, and then no -1 on the other. */
static bool has_bad_id(const job *j)
{
    const bool left = j->p->lhs == IDS_BAD;
    const span *ids = left ? &j->lhs : &j->rhs;
    const int64_t limit = left ? j->g.n_x : j->s.e, step = left ? j->lhs_step : j->rhs_step;
    bool bad = false;
    for (int64_t p = 0; (left || j->p->rhs == IDS_BAD) && p < j->g.n_pairs; p++) {
        const int32_t id = ((const int32_t *)(const void *)span_image(ids))[p * step];
        bad = bad || id < -1 || id >= limit;
    }
    return bad;
}

/* Whether weights passed through bf16 on their way to the tensor cores, as gqmm.h says: the call
 * before says so itself, and it may with bf16 activations in many columns. Others are held to fp32.
 */
static bool was_wide(const call_plan *p)
{
    const int64_t columns = (p->dense ? 1 : p->pairs) * (p->m ? p->m : 1);
    char how[300] = "";
    gqmm_explain(on.ctx, how, sizeof how);
    return on.cuda && strcmp(on.path, "sm_90") == 0 && p->transpose && p->x_type == GQMM_BF16 &&
           columns >= 16 &&
           (strstr(how, " wide") || strstr(how, " middle") || strstr(how, " dense"));
}

/* x has to lie at a multiple of 16 for those kernels that take it as it is; else the call before
 * says that it took another. */
static bool says_what_slips(const call_plan *p)
{
    char how[300] = "";
    gqmm_explain(on.ctx, how, sizeof how);
    NEED(!p->slipped || !(strstr(how, " middle") || strstr(how, " dense")),
         "x is at no multiple of 16, but: %s", how);
    return true;
}

/* Whether activations were rounded in blocks of 128, as gqmm.h says of many columns. */
static bool was_int8(const call_plan *p, const char *format)
{
    const int64_t columns = (p->dense ? 1 : p->pairs) * (p->m ? p->m : 1);
    char how[300] = "";
    gqmm_explain(on.ctx, how, sizeof how);
    return on.cuda && strcmp(on.path, "sm_90") == 0 && p->transpose && p->x_type == GQMM_BF16 &&
           p->y_type == GQMM_BF16 && p->precision == GQMM_INT8 && columns >= 6 &&
           strcmp(format, "int4_g128") == 0 && strstr(how, " int8");
}

/* What a row of x may lose to int8, for each element: half a step of its block of 32. */
static void int8_steps(double *lost, const double *x, int64_t k)
{
    for (int64_t i = 0; i < k; i += 32) {
        double most = 0;
        for (int64_t q = i; q < k && q < i + 32; q++)
            most = fmax(most, fabs(x[q]));
        for (int64_t q = i; q < k && q < i + 32; q++)
            lost[q] = most / 127.0 * 0.51;
    }
}

/* Output row (p, m) from activations x (NULL: a skipped pair). The sum of n terms may differ from
 * the definition's by (n + 6) roundings of fp32, whatever its order; tensor cores truncate where
 * others round and align to the largest term, so four times that. */
static bool check_row_of(job *j, int64_t p, int64_t m, int64_t e, const double *x,
                         const double *lost)
{
    const int64_t base = (j->p->dense ? j->expert : e) * j->s.rows * j->s.cols;
    const int64_t down = j->g.transpose ? j->k : 1, across = j->g.transpose ? 1 : j->n;
    const uint8_t *y = j->y.seen + j->y.front;
    for (int64_t n = 0; n < j->n; n++) {
        double want = 0, mag = 0, squares = 0, extra = 0, abs_w = 0, excess;
        for (int64_t k = 0; x && k < j->k; k++) {
            const int64_t at = base + n * down + k * across;
            const double term = j->mag[at] * fabs(x[k]);
            want += j->value[at] * x[k];
            mag += term;
            squares += term * term;
            abs_w += j->mag[at];
            extra += lost ? j->mag[at] * lost[k] : 0;
        }
        const double got = element(y, j->g.y_type, p * j->y_pair + m * j->y_row + n);
        /* Subnormal activations may be taken for zero. */
        double bound = 4 * (double)(j->k + 6) * UNIT * mag + abs_w * 0x1p-126 + extra;
        bound += 0x1p-149; /* a step of subnormal results */
        bound += j->wide ? 0x1p-8 * mag : 0;
        NEED(x ? within(got, want, bound, mag, j->g.y_type, &excess) : got == 0,
             "y[%lld, %lld, %lld] is %.9g, expected %.9g +- %.2g (expert %lld)", (long long)p,
             (long long)m, (long long)n, got, want, bound, (long long)e);
        if (x && !lost && mag > 0x1p-100) { /* steps of subnormals are no noise */
            tally_add(&j->noise, excess, mag);
            tally_add(&j->grain, excess, sqrt(squares));
        }
    }
    return true;
}

/* All rows of small calls, some of large ones; the first and the last always. */
static bool check_rows(job *j)
{
    const int64_t rows = j->g.n_pairs * j->m;
    const double cost = (double)rows * (double)(j->n * j->k);
    const int64_t every = cost > 6e6 ? (int64_t)(cost / 6e6) + 1 : 1;
    double *x = make(j->k, sizeof *x), *lost = make(j->k, sizeof *lost);
    float *x32 = make(j->k, sizeof *x32);
    bool ok = true;
    for (int64_t r = 0; ok && r < rows; r++) {
        if (r % every && r != rows - 1)
            continue;
        const int64_t p = r / j->m, m = r % j->m;
        const int64_t lhs = id_of(j, &j->lhs, j->lhs_step, p, j->g.n_x);
        const int64_t rhs = id_of(j, &j->rhs, j->rhs_step, p, j->s.e);
        for (int64_t k = 0; lhs >= 0 && k < j->k; k++)
            x[k] = element(span_image(&j->x), j->g.x_type, lhs * j->x_mat + m * j->x_row + k);
        int8_steps(lost, x, j->k);
        for (int64_t k = 0; j->int8 && k < j->k; k++)
            x32[k] = (float)x[k];
        if (j->int8)
            round_int8_wide(x, x32, j->k);
        ok = check_row_of(j, p, m, rhs, lhs < 0 || rhs < 0 ? NULL : x,
                          j->g.precision == GQMM_INT8 && !on.cuda ? lost : NULL);
    }
    free(x);
    free(x32);
    free(lost);
    return ok;
}

/* No element of a row is left as it was, and nothing between rows was written. */
static bool check_gaps(const job *j)
{
    const size_t size = gqmm_type_size(j->g.y_type);
    uint8_t *ours = make(j->y_elems, 1);
    bool ok = true;
    for (int64_t r = 0; r < j->g.n_pairs * j->m; r++)
        memset(ours + r / j->m * j->y_pair + r % j->m * j->y_row, 1, (size_t)j->n);
    for (int64_t i = 0; ok && i < j->y_elems; i++) {
        bool blank = true;
        for (size_t b = 0; b < size; b++)
            blank = blank && (j->y.seen + j->y.front)[(size_t)i * size + b] == BLANK;
        if (blank == (ours[i] != 0))
            ok = fail("element %lld of y %s", (long long)i,
                      blank ? "was not written" : "lies between the rows and was written");
    }
    free(ours);
    return ok;
}

/* ------------------------------------------------------------------ running */

static gqmm_status job_call(const job *j, gqmm_dense *d)
{
    const gqmm_gather *g = &j->g;
    on.calls++;
    if (!j->p->dense)
        return gqmm_gather_qmm(on.ctx, g, &fault);
    GQMM_INIT(*d);
    d->precision = g->precision;
    d->w = g->w;
    d->expert = j->expert;
    d->transpose = g->transpose;
    d->y_type = g->y_type;
    d->x_type = g->x_type;
    d->m = g->m;
    d->y = g->y;
    d->x = g->x;
    d->y_row_stride = g->y_row_stride;
    d->x_row_stride = g->x_row_stride;
    d->workspace = g->workspace;
    d->workspace_bytes = g->workspace_bytes;
    return gqmm_qmm(on.ctx, d, &fault);
}

/* Bad ids are told once, by the gqmm_synchronize() after the call. */
static bool job_settle(const job *j)
{
    if (!has_bad_id(j))
        return step(gqmm_synchronize(on.ctx, &fault));
    const gqmm_status first = gqmm_synchronize(on.ctx, &fault);
    NEED(first == GQMM_E_INDEX, "bad ids, but gqmm_synchronize says %s", gqmm_status_name(first));
    NEED(fault.text[0], "no sentence about a bad id");
    return step(gqmm_synchronize(on.ctx, &fault));
}

static bool job_once(job *j)
{
    gqmm_dense d;
    return span_blank(&j->y) && step(job_call(j, &d)) && span_get(&j->y) && span_get(&j->work) &&
           job_settle(j);
}

/* The same bits with exactly the workspace asked for; a byte less is refused with y as it was. */
static bool job_workspace(job *j)
{
    gqmm_gather blind = j->g;
    gqmm_dense d;
    size_t bytes = 0;
    blind.x = blind.y = NULL;
    blind.lhs = j->g.lhs; /* that there are ids matters, where they are does not */
    GQMM_INIT(d);
    d.w = j->g.w, d.precision = j->g.precision, d.transpose = j->g.transpose, d.m = j->g.m;
    d.x_type = j->g.x_type, d.y_type = j->g.y_type, d.expert = j->expert;
    d.y_row_stride = j->g.y_row_stride, d.x_row_stride = j->g.x_row_stride;
    const bool dense = j->p->dense;
    if (!step(gqmm_workspace_size(on.ctx, dense ? GQMM_OP_QMM : GQMM_OP_GATHER_QMM,
                                  dense ? (const void *)&d : &blind, &bytes, &fault)) ||
        !span_make(&j->work, (int64_t)bytes, 0))
        return false;
    j->g.workspace = bytes ? span_at(&j->work) : NULL;
    j->g.workspace_bytes = bytes;
    if (!span_blank(&j->work) || !job_once(j) || !span_fenced(&j->work, "the workspace"))
        return false;
    NEED(memcmp(j->first, j->y.seen, j->y.total) == 0,
         "other bits the second time, with %zu bytes of workspace", bytes);
    if (bytes == 0)
        return true;
    j->g.workspace_bytes = bytes - 1;
    if (!span_blank(&j->y))
        return false;
    const gqmm_status less = job_call(j, &d);
    NEED(less == GQMM_E_NOMEM, "a byte less of workspace than %zu: %s", bytes,
         gqmm_status_name(less));
    return span_get(&j->y) && step(gqmm_synchronize(on.ctx, &fault)) && span_intact(&j->y, "y");
}

/* Noise of f32 in the mean: a dropped part of the activations, or a scale in half precision, stands
 * above it long before it passes the bound of a single output, most of all in sums of few terms. */
static bool check_noise(const job *j)
{
    if (j->noise.n < 64)
        return true;
    if (j->wide) /* scale, offset and weight are each rounded to bf16, steps of 2^-8 */
        NEED(tally_rms(&j->grain) <= 0x1p-8, "errors of %.3g of the terms in the mean, in bf16",
             tally_rms(&j->grain));
    else
        NEED(tally_rms(&j->noise) <= 16 * UNIT, "errors of %.2f roundings of the terms in the mean",
             tally_rms(&j->noise) / UNIT);
    return true;
}

static bool job_run(job *j)
{
    if (!job_once(j))
        return false;
    j->wide = was_wide(j->p);
    j->int8 = was_int8(j->p, j->s.f->pub.name);
    NEED(!j->p->rounds || !on.cuda || strcmp(on.path, "sm_90") != 0 || j->int8,
         "int8 was not taken");
    if (!says_what_slips(j->p) || !span_fenced(&j->y, "y") || !check_gaps(j) || !check_rows(j) ||
        !check_noise(j))
        return false;
    j->first = must(malloc(j->y.total));
    memcpy(j->first, j->y.seen, j->y.total);
    return job_workspace(j) && span_get(&j->x) && span_get(&j->lhs) && span_get(&j->rhs) &&
           planes_get(&j->w) && step(gqmm_synchronize(on.ctx, &fault)) && span_intact(&j->x, "x") &&
           span_intact(&j->lhs, "lhs") && span_intact(&j->rhs, "rhs") && planes_intact(&j->w);
}

static bool job_explain(const gqmm_format_info *f, const call_plan *p)
{
    return fail_in("%s %s [%lld, %lld, %lld] transpose %d %s, x %s y %s, pairs %lld m %lld n_x "
                   "%lld, ids %d %d%s%s",
                   p->dense ? "qmm" : "gather_qmm", f->pub.name, (long long)p->e,
                   (long long)p->rows, (long long)p->cols, p->transpose,
                   p->precision ? "int8" : "exact", type_names[p->x_type], type_names[p->y_type],
                   (long long)p->pairs, (long long)p->m, (long long)p->n_x, p->lhs, p->rhs,
                   p->odd ? " odd" : "",
                   p->crooked   ? " crooked"
                   : p->slipped ? " slipped"
                                : "");
}

static bool try_call(const gqmm_format_info *f, const call_plan *p)
{
    job j;
    const bool ok = job_make(&j, f, p) && job_run(&j);
    job_free(&j);
    return ok || job_explain(f, p);
}

#endif
