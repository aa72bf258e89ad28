/* SPDX-License-Identifier: MIT */
/* Weights handles: the description checked and the kernel chosen, once. */
#include "op/device.h"

#include <inttypes.h>

static gqmm_status check_sizes(const gqmm_weights_desc *d, const gqmm_format_info *f,
                               gqmm_error *err)
{
    if (d->n_experts < 1 || d->n_rows < 1 || d->n_cols < 1)
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "weights of [%" PRId64 ", %" PRId64 ", %" PRId64
                         "]: every size must be at least 1",
                         d->n_experts, d->n_rows, d->n_cols);
    if (d->n_cols % f->pub.block_elems != 0)
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "n_cols is %" PRId64 ", expected a multiple of %d, the block of %s",
                         d->n_cols, f->pub.block_elems, f->pub.name);
    if (d->global_scale && !f->pub.has_global_scale)
        return gqmm_fail(err, GQMM_E_ARG, 0, "format %s has no global scale", f->pub.name);
    return GQMM_OK;
}

/* Strides of plane i resolved, its whole extent inside 2^63 bytes. */
static gqmm_status check_plane(gqmm_weights *w, const gqmm_weights_desc *d, int i, gqmm_error *err)
{
    const int64_t row = gqmm_format_row_bytes(&w->format->pub, i, d->n_cols);
    int64_t rs = d->row_stride[i] ? d->row_stride[i] : row, es = d->expert_stride[i], end;
    const int64_t step = rs < 0 ? (rs == INT64_MIN ? -1 : -rs) : rs;

    if (!d->plane[i])
        return gqmm_fail(err, GQMM_E_ARG, 0, "plane %d is NULL; %s has %d", i, w->format->pub.name,
                         w->format->pub.n_planes);
    if (row < 0 || step < 0 || !gqmm_mul(&end, d->n_rows, step))
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "plane %d: %" PRId64 " rows of %" PRId64 " weights exceed 2^63 bytes", i,
                         d->n_rows, d->n_cols);
    if (d->n_rows > 1 && step < row)
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "plane %d: row stride %" PRId64 " is smaller than a row of %" PRId64
                         " bytes",
                         i, rs, row);
    if (es == 0)
        es = end;
    if (es == INT64_MIN || !gqmm_mul(&end, d->n_experts, es < 0 ? -es : es))
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "plane %d: %" PRId64 " experts every %" PRId64 " bytes exceed 2^63", i,
                         d->n_experts, es);
    w->plane[i] = d->plane[i];
    w->row_stride[i] = rs;
    w->expert_stride[i] = es;
    return GQMM_OK;
}

static gqmm_status fill(gqmm_weights *w, gqmm_context *ctx, const gqmm_weights_desc *d,
                        gqmm_error *err)
{
    gqmm_status st = check_sizes(d, w->format, err);
    if (st == GQMM_OK)
        st = gqmm_check_aligned("global_scale", d->global_scale, err);
    for (int i = 0; st == GQMM_OK && i < w->format->pub.n_planes; i++)
        st = check_plane(w, d, i, err);
    if (st != GQMM_OK)
        return st;
    w->n_experts = d->n_experts;
    w->n_rows = d->n_rows;
    w->n_cols = d->n_cols;
    w->global = d->global_scale;
    w->global_stride = d->global_scale_stride;
    w->kernel = gqmm_kernel_find(w->format->family, ctx->device ? GQMM_ISA_SCALAR : ctx->max_isa);
    w->isa = ctx->device ? ctx->max_isa : w->kernel->isa;
    return ctx->device ? ctx->device->bind(ctx, w, err) : GQMM_OK;
}

gqmm_status gqmm_weights_create(gqmm_context *ctx, const gqmm_weights_desc *d, gqmm_weights **out,
                                gqmm_error *err)
{
    if (!out)
        return gqmm_fail(err, GQMM_E_ARG, 0, "out is NULL");
    *out = NULL;
    if (!ctx || !d)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s is NULL", ctx ? "desc" : "ctx");
    if (d->struct_size != sizeof *d || d->flags != 0)
        return gqmm_fail(err, GQMM_E_ARG, 0,
                         "gqmm_weights_desc has struct_size %u and flags %u, expected %zu and 0: "
                         "use GQMM_INIT",
                         d->struct_size, d->flags, sizeof *d);
    const gqmm_format_info *f = gqmm_format_by_name(d->format);
    if (!f)
        return gqmm_fail(err, GQMM_E_ARG, 0,
                         "format \"%s\" is unknown; gqmm_format_at() lists them",
                         d->format ? d->format : "(null)");
    gqmm_weights *w = gqmm_alloc(&ctx->memory, 1, sizeof *w);
    if (!w)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for a weights handle");
    w->memory = ctx->memory;
    w->format = f;
    const gqmm_status st = fill(w, ctx, d, err);
    if (st != GQMM_OK) {
        gqmm_weights_destroy(w);
        return st;
    }
    *out = w;
    return GQMM_OK;
}

void gqmm_weights_destroy(gqmm_weights *w)
{
    if (w) {
        const gqmm_allocator memory = w->memory;
        gqmm_release(&memory, w, 1, sizeof *w);
    }
}

const gqmm_format *gqmm_weights_format(const gqmm_weights *w)
{
    return &w->format->pub;
}

const char *gqmm_weights_isa(const gqmm_weights *w)
{
    return gqmm_isa_name(w->isa);
}

gqmm_matrix gqmm_expert(const gqmm_weights *w, int64_t e)
{
    gqmm_matrix m = {.format = w->format};
    for (int i = 0; i < w->format->pub.n_planes; i++) {
        m.plane[i] = w->plane[i] + e * w->expert_stride[i];
        m.stride[i] = w->row_stride[i];
    }
    m.global = gqmm_format_global(w->format, w->global ? w->global + e * w->global_stride : NULL);
    return m;
}
