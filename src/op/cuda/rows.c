/* SPDX-License-Identifier: MIT */
/* embed, dequantize and quantize on CUDA. */
#include "op/cuda/cuda_op.h"

#include <inttypes.h>
#include <stdio.h>

static gqmm_status run_rows(gqmm_context *ctx, const gqmm_weights *w, gqmm_cuda_rows *r,
                            const char *what, gqmm_error *err)
{
    const gqmm_cuda_state *s = gqmm_cuda_of(ctx);
    gqmm_status st;
    r->w = gqmm_cuda_view(w);
    r->fault = s->fault;
    if (r->n == 0)
        return GQMM_OK;
    if ((st = gqmm_cuda_check_pointer("y", r->y, err)) != GQMM_OK ||
        (st = gqmm_cuda_check_pointer("ids", r->ids, err)) != GQMM_OK)
        return st;
    snprintf(ctx->explain, sizeof ctx->explain, "%s %s %s: %" PRId64 " rows of %" PRId64, what,
             w->format->pub.name, gqmm_weights_isa(w), r->n, w->n_cols);
    return gqmm_cuda_status(gqmm_cuda_family_of(w)->rows(r, s->stream), what, err);
}

gqmm_status gqmm_embed_on_cuda(gqmm_context *ctx, const gqmm_embed_desc *d, gqmm_error *err)
{
    gqmm_cuda_rows r = {.ids = d->ids,
                        .ids_stride = d->ids_stride,
                        .n = d->n_ids,
                        .y = d->y,
                        .y_row = d->y_row_stride,
                        .y_type = d->y_type};
    return run_rows(ctx, d->w, &r, "embed", err);
}

gqmm_status gqmm_dequantize_on_cuda(gqmm_context *ctx, const gqmm_dequantize_desc *d,
                                    gqmm_error *err)
{
    gqmm_cuda_rows r = {.first = d->first_row,
                        .n = d->n_rows,
                        .y = d->y,
                        .y_row = d->y_row_stride,
                        .y_type = d->y_type};
    return run_rows(ctx, d->w, &r, "dequantize", err);
}

gqmm_status gqmm_quantize_on_cuda(gqmm_context *ctx, const gqmm_quantize_desc *d,
                                  const gqmm_format_info *format, gqmm_error *err)
{
    const gqmm_cuda_state *s = gqmm_cuda_of(ctx);
    const int32_t index = (int32_t)(format - gqmm_formats);
    gqmm_cuda_quantize q = {.format = index,
                            .x_type = d->x_type,
                            .x = d->x,
                            .x_row = d->x_row_stride,
                            .n_rows = d->n_rows,
                            .n_cols = d->n_cols,
                            .global = d->global_scale};
    gqmm_status st;
    if (!gqmm_cuda_can_quantize(index) || d->importance)
        return gqmm_fail(err, GQMM_E_UNSUPPORTED, 0,
                         "%s%s is quantised by a search, which runs on the CPU alone",
                         format->pub.name, d->importance ? " with importance" : "");
    if ((st = gqmm_cuda_check_pointer("x", d->x, err)) != GQMM_OK ||
        (st = gqmm_cuda_check_pointer("global_scale", d->global_scale, err)) != GQMM_OK)
        return st;
    for (int i = 0; i < format->pub.n_planes; i++) {
        q.plane[i] = d->plane[i];
        q.row_stride[i] = d->row_stride[i];
        if ((st = gqmm_cuda_check_pointer("a plane", d->plane[i], err)) != GQMM_OK)
            return st;
    }
    snprintf(ctx->explain, sizeof ctx->explain, "quantize %s: %" PRId64 " rows of %" PRId64,
             format->pub.name, d->n_rows, d->n_cols);
    if (d->n_rows == 0 || d->n_cols == 0)
        return GQMM_OK;
    return gqmm_cuda_status(gqmm_cuda_round(&q, s->stream), "quantize", err);
}
