/* SPDX-License-Identifier: MIT */
/* gather_qmm, and qmm as its case of one pair. Phases: bring x to the precision, multiply expert by
 * expert, round and zero what is left. */
#include "op/device.h"
#include "op/products.h"

#include <inttypes.h>
#include <stdio.h>

typedef struct {
    gqmm_gather d; /* strides resolved: 0 now means 0 */
    gqmm_products products;
    int64_t n, k, n_rows; /* N, K, P * M */
    bool per_pair;        /* x is converted per pair, else per matrix of x */
    int64_t n_slots;      /* converted matrices; 0: x is used where it lies */
    float *xf;            /* [n_slots * M, K] */
    gqmm_act *xa;         /* [n_slots * M, act blocks] */
    float *yf;            /* [P * M, N] when y is not fp32 */
    int64_t *bounds;      /* [E + 1] */
    gqmm_segment *segments;
} state;
_Static_assert(sizeof(state) <= GQMM_MAX_OP_STATE, "the context holds the state");

static int64_t id_at(const int32_t *ids, int64_t stride, int64_t p)
{
    return ids ? ids[p * stride] : p;
}

static int64_t lhs_at(const state *s, int64_t p)
{
    return id_at(s->d.lhs, s->d.lhs_stride, p);
}

static int64_t rhs_at(const state *s, int64_t p)
{
    return id_at(s->d.rhs, s->d.rhs_stride, p);
}

static bool skipped(const state *s, int64_t p)
{
    return lhs_at(s, p) < 0 || rhs_at(s, p) < 0;
}

static const uint8_t *x_row(const state *s, int64_t matrix, int64_t m)
{
    return (const uint8_t *)s->d.x + (matrix * s->d.x_mat_stride + m * s->d.x_row_stride) *
                                         (int64_t)gqmm_type_size(s->d.x_type);
}

static uint8_t *y_row(const state *s, int64_t p, int64_t m)
{
    return (uint8_t *)s->d.y +
           (p * s->d.y_pair_stride + m * s->d.y_row_stride) * (int64_t)gqmm_type_size(s->d.y_type);
}

/* ---- phases */

/* Row `row` of the converted activations. Without transpose INT8 has no integer sums: the scales of
 * w lie across k, so the rounded activations go on as fp32. */
static void convert_row(const state *s, int64_t row)
{
    const int64_t slot = row / s->d.m, blocks = gqmm_act_blocks(s->k);
    const int64_t matrix = s->per_pair ? lhs_at(s, slot) : slot;
    if (matrix < 0)
        return;
    float *x = s->xf + row * s->k;
    gqmm_widen(x, x_row(s, matrix, row % s->d.m), s->d.x_type, s->k);
    if (s->d.precision != GQMM_INT8)
        return;
    gqmm_act *a = s->xa + row * blocks;
    s->d.w->kernel->fns->rows->quantize(a, x, s->k);
    if (!s->d.transpose)
        for (int64_t i = 0; i < s->k; i++)
            x[i] = a[i / GQMM_ACT_ELEMS].scale * (float)a[i / GQMM_ACT_ELEMS].q[i % GQMM_ACT_ELEMS];
}

static void convert(void *arg, int64_t task)
{
    const state *s = arg;
    const int64_t end = s->n_slots * s->d.m;
    for (int64_t row = task * GQMM_ROWS_PER_TASK;
         row < end && row < (task + 1) * GQMM_ROWS_PER_TASK; row++)
        convert_row(s, row);
}

static void multiply(void *arg, int64_t task, int64_t upcoming)
{
    const state *s = arg;
    const gqmm_piece piece = gqmm_products_piece(&s->products, task);
    const gqmm_piece next = gqmm_products_piece(&s->products, upcoming < 0 ? task : upcoming);
    gqmm_products_run(&s->products, &piece, NULL, &s->products, upcoming < 0 ? NULL : &next);
}

static void finish(void *arg, int64_t task)
{
    const state *s = arg;
    for (int64_t row = task * GQMM_ROWS_PER_TASK;
         row < s->n_rows && row < (task + 1) * GQMM_ROWS_PER_TASK; row++) {
        const int64_t p = row / s->d.m;
        uint8_t *y = y_row(s, p, row % s->d.m);
        if (skipped(s, p))
            memset(y, 0, (size_t)s->n * gqmm_type_size(s->d.y_type));
        else if (s->yf)
            gqmm_narrow(y, s->d.y_type, s->yf + row * s->n, s->n);
    }
}

/* ---- preparation */

/* Pairs in expert order (a counting sort), as row pointers of the products; returns how many pairs
 * are not skipped. */
static int64_t route(state *s)
{
    gqmm_products *pr = &s->products;
    const int64_t n_experts = s->d.w->n_experts, m = s->d.m, blocks = gqmm_act_blocks(s->k);
    int64_t *at = s->bounds;

    memset(at, 0, (size_t)(n_experts + 1) * sizeof *at);
    for (int64_t p = 0; p < s->d.n_pairs; p++)
        if (!skipped(s, p))
            at[rhs_at(s, p) + 1] += m;
    pr->n_segments = gqmm_segments_sort(s->segments, at, n_experts);
    const int64_t n_used = at[n_experts];
    for (int64_t p = 0; p < s->d.n_pairs; p++) {
        if (skipped(s, p))
            continue;
        const int64_t i = at[rhs_at(s, p)], lhs = lhs_at(s, p), slot = s->per_pair ? p : lhs;
        at[rhs_at(s, p)] += m;
        for (int64_t r = 0; r < m; r++) {
            const int64_t row = slot * m + r;
            pr->x[i + r] =
                s->n_slots ? s->xf + row * s->k : (const float *)(const void *)x_row(s, lhs, r);
            if (pr->a)
                pr->a[i + r] = s->xa + row * blocks;
            pr->y[i + r] = s->yf ? s->yf + (p * m + r) * s->n : (float *)(void *)y_row(s, p, r);
        }
    }
    return n_used / m;
}

static void take_all(void *arg, gqmm_layout *l)
{
    state *s = arg;
    const bool int8 = s->d.precision == GQMM_INT8;
    const int64_t most = gqmm_segments_most(s->n_rows, s->d.w->n_experts);
    s->per_pair = s->d.n_x > s->d.n_pairs;
    s->n_slots = 0;
    if (int8 || s->d.x_type != GQMM_F32)
        s->n_slots = s->per_pair ? s->d.n_pairs : s->d.n_x;
    int64_t x_rows = 0, x_elems = 0, acts = 0, y_elems = 0;
    const bool fits = gqmm_mul(&x_rows, s->n_slots, s->d.m) && gqmm_mul(&x_elems, x_rows, s->k) &&
                      gqmm_mul(&acts, int8 ? x_rows : 0, gqmm_act_blocks(s->k)) &&
                      gqmm_mul(&y_elems, s->d.y_type == GQMM_F32 ? 0 : s->n_rows, s->n);
    l->overflow = l->overflow || !fits;
    s->xf = gqmm_take(l, x_elems, sizeof *s->xf);
    s->xa = gqmm_take(l, acts, sizeof *s->xa);
    s->yf = gqmm_take(l, y_elems, sizeof *s->yf);
    s->bounds = gqmm_take(l, s->d.w->n_experts + 1, sizeof *s->bounds);
    s->segments = gqmm_take(l, most, sizeof *s->segments);
    s->products.y = gqmm_take(l, s->n_rows, sizeof *s->products.y);
    s->products.x = gqmm_take(l, s->n_rows, sizeof *s->products.x);
    s->products.a = gqmm_take(l, int8 ? s->n_rows : 0, sizeof *s->products.a);
    if (s->d.y_type == GQMM_F32)
        s->yf = NULL;
    if (!int8)
        s->products.a = NULL;
}

/* Sizes and options, but no data. Resolves strides in s->d. */
static gqmm_status check_shape(state *s, gqmm_error *err)
{
    gqmm_gather *d = &s->d;
    gqmm_status st;
    if ((st = gqmm_check_precision(d->precision, err)) != GQMM_OK ||
        (st = gqmm_check_type("y_type", d->y_type, err)) != GQMM_OK ||
        (st = gqmm_check_type("x_type", d->x_type, err)) != GQMM_OK)
        return st;
    if (d->transpose != 0 && d->transpose != 1)
        return gqmm_fail(err, GQMM_E_ARG, 0, "transpose is %d, expected 0 or 1", d->transpose);
    d->m = d->m == 0 ? 1 : d->m;
    s->n = d->transpose ? d->w->n_rows : d->w->n_cols;
    s->k = d->transpose ? d->w->n_cols : d->w->n_rows;
    if (d->n_pairs < 0 || d->m < 0 || d->n_x < 0 || !gqmm_mul(&s->n_rows, d->n_pairs, d->m))
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "n_pairs %" PRId64 ", m %" PRId64 ", n_x %" PRId64
                         ": none may be negative, n_pairs * m must stay below 2^63",
                         d->n_pairs, d->m, d->n_x);
    if ((st = gqmm_check_stride("y_row_stride", &d->y_row_stride, s->n, false, err)) != GQMM_OK ||
        (st = gqmm_check_stride("x_row_stride", &d->x_row_stride, s->k, true, err)) != GQMM_OK)
        return st;
    int64_t x_mat, y_pair;
    if (!gqmm_mul(&x_mat, d->m, d->x_row_stride) || !gqmm_mul(&y_pair, d->m, d->y_row_stride))
        return gqmm_fail(err, GQMM_E_SHAPE, 0, "%" PRId64 " rows exceed 2^63 elements", d->m);
    if (d->y_pair_stride < 0 || d->x_mat_stride < -1)
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "y_pair_stride %" PRId64 " and x_mat_stride %" PRId64
                         " must not be negative",
                         d->y_pair_stride, d->x_mat_stride);
    d->y_pair_stride = d->y_pair_stride ? d->y_pair_stride : y_pair;
    d->x_mat_stride = d->x_mat_stride == -1 ? 0 : d->x_mat_stride ? d->x_mat_stride : x_mat;
    if (d->lhs_stride < -1 || d->rhs_stride < -1)
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "lhs_stride %" PRId64 " and rhs_stride %" PRId64
                         " must be -1 (one id for all) or more",
                         d->lhs_stride, d->rhs_stride);
    d->lhs_stride = d->lhs_stride == -1 ? 0 : d->lhs_stride ? d->lhs_stride : 1;
    d->rhs_stride = d->rhs_stride == -1 ? 0 : d->rhs_stride ? d->rhs_stride : 1;
    return GQMM_OK;
}

static gqmm_status check_ids(const char *name, const int32_t *ids, int64_t stride, int64_t n,
                             int64_t limit, bool on_host, gqmm_error *err)
{
    if (!ids && n > limit)
        return gqmm_fail(err, GQMM_E_INDEX, 0,
                         "%s is NULL (identity) for %" PRId64 " pairs but there are only %" PRId64,
                         name, n, limit);
    const gqmm_status st = gqmm_check_aligned(name, ids, err);
    if (st != GQMM_OK)
        return st;
    for (int64_t p = 0; ids && on_host && p < n; p++) {
        const int32_t id = ids[p * stride];
        if (id < -1 || id >= limit)
            return gqmm_fail(err, GQMM_E_INDEX, 0,
                             "%s[%" PRId64 "] is %d, expected -1 (skip) or 0 to %" PRId64, name, p,
                             id, limit - 1);
    }
    return GQMM_OK;
}

/* Ids are looked at when they lie in memory of the host. */
static gqmm_status check_data(const state *s, bool on_host, gqmm_error *err)
{
    const gqmm_gather *d = &s->d;
    gqmm_status st;
    if (s->n_rows == 0)
        return GQMM_OK;
    int64_t y_cols, y_rows, x_cols;
    if (!gqmm_mul(&y_cols, d->m - 1, d->y_row_stride) || !gqmm_add(&y_cols, y_cols, s->n) ||
        !gqmm_mul(&y_rows, d->n_pairs - 1, d->y_pair_stride) || !gqmm_add(&y_rows, y_rows, s->n) ||
        !gqmm_mul(&x_cols, d->m - 1, d->x_row_stride) || !gqmm_add(&x_cols, x_cols, s->k))
        return gqmm_fail(err, GQMM_E_SHAPE, 0, "strides of x or y exceed 2^63 elements");
    if (d->n_pairs > 1 && d->y_pair_stride < y_cols && d->m > 1 && d->y_row_stride < y_rows)
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "rows of y overlap: y_row_stride %" PRId64 ", y_pair_stride %" PRId64
                         " for [%" PRId64 ", %" PRId64 ", %" PRId64 "]",
                         d->y_row_stride, d->y_pair_stride, d->n_pairs, d->m, s->n);
    if (d->n_pairs > 1 && d->y_pair_stride < s->n)
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "y_pair_stride is %" PRId64 ", expected at least N = %" PRId64,
                         d->y_pair_stride, s->n);
    const gqmm_span y = {"y", d->y, d->n_pairs, y_cols, d->y_pair_stride, d->y_type};
    const gqmm_span x = {"x", d->x, d->n_x, x_cols, d->x_mat_stride, d->x_type};
    /* Indices are read after y is written. GQMM_F32 stands for their four bytes. */
    const gqmm_span lhs = {"lhs", d->lhs, d->lhs ? d->n_pairs : 0, 1, d->lhs_stride, GQMM_F32};
    const gqmm_span rhs = {"rhs", d->rhs, d->rhs ? d->n_pairs : 0, 1, d->rhs_stride, GQMM_F32};
    if ((st = gqmm_check_span(&y, err)) != GQMM_OK || (st = gqmm_check_span(&x, err)) != GQMM_OK ||
        (st = gqmm_check_disjoint(&y, &x, err)) != GQMM_OK ||
        (st = gqmm_check_disjoint(&y, &lhs, err)) != GQMM_OK ||
        (st = gqmm_check_disjoint(&y, &rhs, err)) != GQMM_OK ||
        (st = check_ids("lhs", d->lhs, d->lhs_stride, d->n_pairs, d->n_x, on_host, err)) != GQMM_OK)
        return st;
    return check_ids("rhs", d->rhs, d->rhs_stride, d->n_pairs, d->w->n_experts, on_host, err);
}

/* Many activation rows are read once for each task: where enough tasks remain, larger ones. */
static int64_t chunk(const state *s)
{
    int64_t rows = GQMM_CHUNK_ROWS;
    if (!s->d.transpose)
        return GQMM_CHUNK_COLS;
    while (s->d.m > 2 * GQMM_BATCH_ROWS && rows < 4 * GQMM_CHUNK_ROWS && s->n / (2 * rows) >= 16)
        rows *= 2;
    return rows;
}

static gqmm_status prepare_state(gqmm_context *ctx, const gqmm_gather *desc, gqmm_job *job,
                                 size_t *bytes, gqmm_error *err)
{
    state sizing = {.d = *desc}, *s = job ? (state *)(void *)ctx->state : &sizing;
    gqmm_status st;

    *s = sizing;
    if ((st = gqmm_check_handle(ctx, "w", s->d.w, err)) != GQMM_OK ||
        (st = check_shape(s, err)) != GQMM_OK ||
        (job && (st = check_data(s, !ctx->device, err)) != GQMM_OK))
        return st;
    if (ctx->device)
        return ctx->device->gather(ctx, &s->d, s->n, s->k, job != NULL, bytes, err);
    st = gqmm_lay_out(ctx, take_all, s, job != NULL, s->d.workspace, s->d.workspace_bytes, bytes,
                      err);
    if (st != GQMM_OK || !job)
        return st;
    gqmm_products *pr = &s->products;
    pr->w = s->d.w;
    pr->n = s->n;
    pr->k = s->k;
    pr->precision = s->d.precision;
    pr->transpose = s->d.transpose;
    pr->chunk = chunk(s);
    pr->segments = s->segments;
    const int64_t n_used = route(s);
    const bool untouched_rows = n_used < s->d.n_pairs;

    gqmm_job_init(job, s);
    gqmm_job_add(job, convert, gqmm_ceil_div(s->n_slots * s->d.m, GQMM_ROWS_PER_TASK));
    gqmm_job_add_ahead(job, multiply, gqmm_products_tasks(pr));
    gqmm_job_add(job, finish,
                 s->yf || untouched_rows ? gqmm_ceil_div(s->n_rows, GQMM_ROWS_PER_TASK) : 0);
    snprintf(ctx->explain, sizeof ctx->explain,
             "gather_qmm %s %s %s: %" PRId64 " pairs of %" PRId64 " rows, [%" PRId64 ", %" PRId64
             "], %" PRId64 " segments, %zu bytes of workspace",
             pr->w->format->pub.name, gqmm_weights_isa(pr->w),
             s->d.precision == GQMM_INT8 ? "int8" : "exact", n_used, s->d.m, s->n, s->k,
             pr->n_segments, *bytes);
    return GQMM_OK;
}

static gqmm_status prepare_gather(gqmm_context *ctx, const void *desc, gqmm_job *job, size_t *bytes,
                                  gqmm_error *err)
{
    return prepare_state(ctx, desc, job, bytes, err);
}

static gqmm_status prepare_dense(gqmm_context *ctx, const void *desc, gqmm_job *job, size_t *bytes,
                                 gqmm_error *err)
{
    const gqmm_dense *d = desc;
    static const int32_t zero = 0;
    if (!d->w)
        return gqmm_fail(err, GQMM_E_ARG, 0, "w is NULL");
    if (d->expert < 0 || d->expert >= d->w->n_experts)
        return gqmm_fail(err, GQMM_E_INDEX, 0, "expert is %" PRId64 ", expected 0 to %" PRId64,
                         d->expert, d->w->n_experts - 1);
    if (d->m < 0)
        return gqmm_fail(err, GQMM_E_SHAPE, 0, "m is %" PRId64 ", expected 0 or more", d->m);
    gqmm_weights *one = &ctx->dense; /* the expert alone, as a stack of one */
    *one = *d->w;
    one->n_experts = 1;
    for (int i = 0; i < one->format->pub.n_planes; i++)
        one->plane[i] += d->expert * one->expert_stride[i];
    if (one->global)
        one->global += d->expert * one->global_stride;
    gqmm_gather g;
    GQMM_INIT(g);
    g.precision = d->precision;
    g.w = one;
    g.transpose = d->transpose;
    g.n_pairs = d->m > 0;
    g.m = d->m;
    g.n_x = 1;
    g.y = d->y;
    g.y_type = d->y_type;
    g.x_type = d->x_type;
    g.x = d->x;
    g.y_row_stride = d->y_row_stride;
    g.x_row_stride = d->x_row_stride;
    g.rhs = ctx->device ? NULL : &zero; /* one pair, so that NULL says the same */
    g.workspace = d->workspace;
    g.workspace_bytes = d->workspace_bytes;
    return prepare_state(ctx, &g, job, bytes, err);
}

const gqmm_op gqmm_op_gather = {"gather_qmm", sizeof(gqmm_gather), prepare_gather};
const gqmm_op gqmm_op_dense = {"qmm", sizeof(gqmm_dense), prepare_dense};

gqmm_status gqmm_gather_qmm(gqmm_context *ctx, const gqmm_gather *op, gqmm_error *err)
{
    return gqmm_run(ctx, &gqmm_op_gather, op, err);
}

gqmm_status gqmm_qmm(gqmm_context *ctx, const gqmm_dense *op, gqmm_error *err)
{
    return gqmm_run(ctx, &gqmm_op_dense, op, err);
}
