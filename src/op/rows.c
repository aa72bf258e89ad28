/* SPDX-License-Identifier: MIT */
/* Operations on rows one by one: embed, dequantize, quantize. */
#include "op/device.h"
#include "op/products.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

enum { CHUNK = 256 }; /* weights on the stack, a multiple of every block */

/* Stored row `row` of expert e to y. */
static void write_row(void *y, int32_t type, const gqmm_weights *w, int64_t e, int64_t row)
{
    const gqmm_matrix m = gqmm_expert(w, e);
    const size_t size = gqmm_type_size(type);
    float buffer[CHUNK];
    for (int64_t k = 0; k < w->n_cols; k += CHUNK) {
        const int64_t n = w->n_cols - k < CHUNK ? w->n_cols - k : CHUNK;
        w->kernel->fns->dequantize(buffer, &m, row, k, n);
        gqmm_narrow((uint8_t *)y + k * (int64_t)size, type, buffer, n);
    }
}

/* ---- embed */

static void embed_rows(void *arg, int64_t task)
{
    const gqmm_embed_desc *d = arg;
    const int64_t size = (int64_t)gqmm_type_size(d->y_type), cols = d->w->n_cols;
    const int64_t first = task * GQMM_ROWS_PER_TASK;
    for (int64_t t = first; t < d->n_ids && t < first + GQMM_ROWS_PER_TASK; t++) {
        uint8_t *y = (uint8_t *)d->y + t * d->y_row_stride * size;
        const int32_t id = d->ids[t * d->ids_stride];
        if (id < 0)
            memset(y, 0, (size_t)(cols * size));
        else
            write_row(y, d->y_type, d->w, 0, id);
    }
}

static gqmm_status prepare_embed(gqmm_context *ctx, const void *desc, gqmm_job *job, size_t *bytes,
                                 gqmm_error *err)
{
    gqmm_embed_desc d = *(const gqmm_embed_desc *)desc;
    gqmm_status st;
    if ((st = gqmm_check_handle(ctx, "w", d.w, err)) != GQMM_OK ||
        (st = gqmm_check_type("y_type", d.y_type, err)) != GQMM_OK ||
        (st = gqmm_check_stride("y_row_stride", &d.y_row_stride, d.w->n_cols, false, err)) !=
            GQMM_OK)
        return st;
    if (d.n_ids < 0)
        return gqmm_fail(err, GQMM_E_SHAPE, 0, "n_ids is %" PRId64 ", expected 0 or more", d.n_ids);
    if (d.ids_stride < -1)
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "ids_stride is %" PRId64 ", expected -1 (one id for all) or more",
                         d.ids_stride);
    d.ids_stride = d.ids_stride == -1 ? 0 : d.ids_stride ? d.ids_stride : 1;
    *bytes = 0;
    if (!job)
        return GQMM_OK;
    const gqmm_span y = {"y", d.y, d.n_ids, d.w->n_cols, d.y_row_stride, d.y_type};
    if ((st = gqmm_check_span(&y, err)) != GQMM_OK)
        return st;
    if (!d.ids && d.n_ids > 0)
        return gqmm_fail(err, GQMM_E_ARG, 0, "ids is NULL");
    if ((st = gqmm_check_aligned("ids", d.ids, err)) != GQMM_OK)
        return st;
    if (ctx->device)
        return ctx->device->embed(ctx, &d, err);
    for (int64_t t = 0; t < d.n_ids; t++) {
        const int32_t id = d.ids[t * d.ids_stride];
        if (id < -1 || id >= d.w->n_rows)
            return gqmm_fail(err, GQMM_E_INDEX, 0,
                             "ids[%" PRId64 "] is %d, expected -1 (zero row) or 0 to %" PRId64, t,
                             id, d.w->n_rows - 1);
    }
    memcpy(ctx->state, &d, sizeof d);
    gqmm_job_init(job, ctx->state);
    gqmm_job_add(job, embed_rows, gqmm_ceil_div(d.n_ids, GQMM_ROWS_PER_TASK));
    snprintf(ctx->explain, sizeof ctx->explain, "embed %s %s: %" PRId64 " rows of %" PRId64,
             d.w->format->pub.name, gqmm_weights_isa(d.w), d.n_ids, d.w->n_cols);
    return GQMM_OK;
}

/* ---- dequantize */

static void dequantize_rows(void *arg, int64_t task)
{
    const gqmm_dequantize_desc *d = arg;
    const int64_t size = (int64_t)gqmm_type_size(d->y_type), first = task * GQMM_ROWS_PER_TASK;
    for (int64_t r = first; r < d->n_rows && r < first + GQMM_ROWS_PER_TASK; r++)
        write_row((uint8_t *)d->y + r * d->y_row_stride * size, d->y_type, d->w,
                  (d->first_row + r) / d->w->n_rows, (d->first_row + r) % d->w->n_rows);
}

static gqmm_status prepare_dequantize(gqmm_context *ctx, const void *desc, gqmm_job *job,
                                      size_t *bytes, gqmm_error *err)
{
    gqmm_dequantize_desc d = *(const gqmm_dequantize_desc *)desc;
    gqmm_status st;
    int64_t all;
    if ((st = gqmm_check_handle(ctx, "w", d.w, err)) != GQMM_OK ||
        (st = gqmm_check_type("y_type", d.y_type, err)) != GQMM_OK ||
        (st = gqmm_check_stride("y_row_stride", &d.y_row_stride, d.w->n_cols, false, err)) !=
            GQMM_OK)
        return st;
    if (!gqmm_mul(&all, d.w->n_experts, d.w->n_rows) || d.first_row < 0 || d.n_rows < 0 ||
        d.first_row > all || d.n_rows > all - d.first_row)
        return gqmm_fail(err, GQMM_E_INDEX, 0,
                         "rows %" PRId64 " + %" PRId64 " are not inside the %" PRId64 " rows of w",
                         d.first_row, d.n_rows, all);
    *bytes = 0;
    if (!job)
        return GQMM_OK;
    const gqmm_span y = {"y", d.y, d.n_rows, d.w->n_cols, d.y_row_stride, d.y_type};
    if ((st = gqmm_check_span(&y, err)) != GQMM_OK)
        return st;
    if (ctx->device)
        return ctx->device->dequantize(ctx, &d, err);
    memcpy(ctx->state, &d, sizeof d);
    gqmm_job_init(job, ctx->state);
    gqmm_job_add(job, dequantize_rows, gqmm_ceil_div(d.n_rows, GQMM_ROWS_PER_TASK));
    snprintf(ctx->explain, sizeof ctx->explain, "dequantize %s %s: %" PRId64 " rows of %" PRId64,
             d.w->format->pub.name, gqmm_weights_isa(d.w), d.n_rows, d.w->n_cols);
    return GQMM_OK;
}

/* ---- quantize */

typedef struct {
    gqmm_quantize_desc d;
    const gqmm_format_info *format;
} quantize_state;

static void quantize_row(const quantize_state *s, int64_t row)
{
    const gqmm_quantize_desc *d = &s->d;
    const gqmm_format *f = &s->format->pub;
    const int64_t size = (int64_t)gqmm_type_size(d->x_type);
    const uint8_t *x = (const uint8_t *)d->x + row * d->x_row_stride * size;
    const float global = d->global_scale ? *d->global_scale : 0.0f;
    float buffer[CHUNK];

    const int64_t step = f->block_elems == 1 ? CHUNK : f->block_elems;
    for (int64_t k = 0; k < d->n_cols; k += step) {
        const int64_t n = d->n_cols - k < step ? d->n_cols - k : step;
        uint8_t *p[3] = {NULL, NULL, NULL};
        for (int i = 0; i < f->n_planes; i++)
            p[i] = (uint8_t *)d->plane[i] + row * d->row_stride[i] +
                   k / f->block_elems * f->plane_bytes[i];
        gqmm_widen(buffer, x + k * size, d->x_type, n);
        if (f->block_elems == 1)
            for (int64_t i = 0; i < n; i++, p[0] += f->plane_bytes[0])
                s->format->quantize(s->format, p, buffer + i, NULL, 0.0f, d->x_type);
        else
            s->format->quantize(s->format, p, buffer, d->importance ? d->importance + k : NULL,
                                global, d->x_type);
    }
}

static void quantize_rows(void *arg, int64_t task)
{
    const quantize_state *s = arg;
    const int64_t first = task * GQMM_ROWS_PER_TASK;
    for (int64_t r = first; r < s->d.n_rows && r < first + GQMM_ROWS_PER_TASK; r++)
        quantize_row(s, r);
}

static gqmm_status check_quantize_shape(quantize_state *s, gqmm_error *err)
{
    gqmm_quantize_desc *d = &s->d;
    gqmm_status st;
    s->format = gqmm_format_by_name(d->format);
    if (!s->format)
        return gqmm_fail(err, GQMM_E_ARG, 0,
                         "format \"%s\" is unknown; gqmm_format_at() lists them",
                         d->format ? d->format : "(null)");
    const gqmm_format *f = &s->format->pub;
    if (!s->format->quantize)
        return gqmm_fail(err, GQMM_E_UNSUPPORTED, 0, "format %s has no quantiser", f->name);
    if ((st = gqmm_check_type("x_type", d->x_type, err)) != GQMM_OK)
        return st;
    if (d->n_rows < 0 || d->n_cols < 0 || d->n_cols % f->block_elems != 0)
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "x is [%" PRId64 ", %" PRId64
                         "], expected columns in multiples of %d, the "
                         "block of %s",
                         d->n_rows, d->n_cols, f->block_elems, f->name);
    if (d->importance && !f->takes_importance)
        return gqmm_fail(err, GQMM_E_ARG, 0, "format %s takes no importance", f->name);
    if (d->global_scale && !f->has_global_scale)
        return gqmm_fail(err, GQMM_E_ARG, 0, "format %s has no global scale", f->name);
    return gqmm_check_stride("x_row_stride", &d->x_row_stride, d->n_cols, true, err);
}

static gqmm_status check_quantize_data(quantize_state *s, bool on_host, gqmm_error *err)
{
    gqmm_quantize_desc *d = &s->d;
    const gqmm_format *f = &s->format->pub;
    const gqmm_span x = {"x", d->x, d->n_rows, d->n_cols, d->x_row_stride, d->x_type};
    gqmm_status st = gqmm_check_span(&x, err);
    if (st == GQMM_OK && (st = gqmm_check_aligned("importance", d->importance, err)) == GQMM_OK)
        st = gqmm_check_aligned("global_scale", d->global_scale, err);
    for (int i = 0; st == GQMM_OK && i < f->n_planes; i++) {
        const int64_t row = gqmm_format_row_bytes(f, i, d->n_cols);
        int64_t all;
        if (!d->plane[i] && d->n_rows > 0 && d->n_cols > 0)
            return gqmm_fail(err, GQMM_E_ARG, 0, "plane %d is NULL; %s has %d", i, f->name,
                             f->n_planes);
        if (d->row_stride[i] == 0)
            d->row_stride[i] = row;
        if (row < 0 || d->row_stride[i] < row || !gqmm_mul(&all, d->n_rows, d->row_stride[i]))
            return gqmm_fail(err, GQMM_E_SHAPE, 0,
                             "plane %d: row stride %" PRId64 ", expected at least %" PRId64
                             " bytes",
                             i, d->row_stride[i], row);
    }
    for (int64_t k = 0; st == GQMM_OK && on_host && d->importance && k < d->n_cols; k++)
        if (!(d->importance[k] >= 0.0f) || isinf(d->importance[k]))
            return gqmm_fail(err, GQMM_E_ARG, 0,
                             "importance[%" PRId64 "] is %g, expected a finite number >= 0", k,
                             (double)d->importance[k]);
    return st;
}

static gqmm_status prepare_quantize(gqmm_context *ctx, const void *desc, gqmm_job *job,
                                    size_t *bytes, gqmm_error *err)
{
    quantize_state s = {.d = *(const gqmm_quantize_desc *)desc};
    gqmm_status st = check_quantize_shape(&s, err);
    *bytes = 0;
    if (st != GQMM_OK || !job || (st = check_quantize_data(&s, !ctx->device, err)) != GQMM_OK)
        return st;
    if (ctx->device)
        return ctx->device->quantize(ctx, &s.d, s.format, err);
    memcpy(ctx->state, &s, sizeof s);
    gqmm_job_init(job, ctx->state);
    gqmm_job_add(job, quantize_rows, gqmm_ceil_div(s.d.n_rows, GQMM_ROWS_PER_TASK));
    snprintf(ctx->explain, sizeof ctx->explain, "quantize %s: %" PRId64 " rows of %" PRId64,
             s.format->pub.name, s.d.n_rows, s.d.n_cols);
    return GQMM_OK;
}

const gqmm_op gqmm_op_embed = {"embed", sizeof(gqmm_embed_desc), prepare_embed};
const gqmm_op gqmm_op_dequantize = {"dequantize", sizeof(gqmm_dequantize_desc), prepare_dequantize};
const gqmm_op gqmm_op_quantize = {"quantize", sizeof(gqmm_quantize_desc), prepare_quantize};

gqmm_status gqmm_embed(gqmm_context *ctx, const gqmm_embed_desc *op, gqmm_error *err)
{
    return gqmm_run(ctx, &gqmm_op_embed, op, err);
}

gqmm_status gqmm_dequantize(gqmm_context *ctx, const gqmm_dequantize_desc *op, gqmm_error *err)
{
    return gqmm_run(ctx, &gqmm_op_dequantize, op, err);
}

gqmm_status gqmm_quantize(gqmm_context *ctx, const gqmm_quantize_desc *op, gqmm_error *err)
{
    return gqmm_run(ctx, &gqmm_op_quantize, op, err);
}
