/* SPDX-License-Identifier: MIT */
/* gather_qmm and qmm on CUDA, and how every product there is sorted and launched. */
#include "op/cuda/cuda_op.h"

#include <inttypes.h>
#include <stdio.h>

enum {
    MOST_UNSORTED = 128,  /* pairs among which a block still finds its own columns */
    WIDE_FROM = 6,        /* mean columns of an expert from which sorting for wide tiles pays */
    WIDE_FROM_DENSE = 96, /* the same of a single matrix */
    DENSE_FROM = 128,     /* rows of x from which dequantising first pays, */
    DENSE_FROM_LARGE = 65,
    LARGE_WEIGHTS = 1 << 22, /* of so many weights, */
    DENSE_FROM_FLOATS = 512, /* and where it rounds floats */
    DENSE_FROM_BF16 = 9,     /* where there is nothing to dequantise */
    MOST_SORTED = 5000,      /* experts that a sort takes, see gqmm_cuda_sort() */
    MOST_SORTED_SM90 = 12000,
    MOST_PLAIN = 1 << 24 /* weights that are dequantised at a time */
};

static int64_t experts_of(const gqmm_cuda_call *c)
{
    return c->by_id || c->p.expert < 0 ? c->p.w.n_experts : 1;
}

/* Columns of an expert. */
static double mean_of(const gqmm_cuda_call *c)
{
    return (double)(c->p.n_pairs * c->p.m) / (double)experts_of(c);
}

/* Columns of a tile, by sizes that the host knows. */
static int32_t tile_columns(const gqmm_cuda_call *c, double mean)
{
    if (!c->transpose)
        return 8;
    if (c->int8)
        return c->family->int8_columns(mean);
    if (c->wide)
        return c->family->wide_columns(&c->p, mean);
    return c->p.x_type != GQMM_BF16 ? 16 : mean > 4 && !c->eights ? 32 : 8;
}

static uint8_t somewhere[16];

/* So many pairs, a row of x each, that they are sorted for any kernel. */
static bool has_many_pairs(const gqmm_cuda_call *c)
{
    return c->by_id && c->p.m == 1 && c->p.n_pairs > MOST_UNSORTED;
}

/* By sizes and the alignment of weights, not by where data lies: a size query decides the same. */
static bool is_of_eights(const gqmm_cuda_call *c, double mean)
{
    gqmm_cuda_product p = c->p;
    if (!has_many_pairs(c))
        return false;
    p.rhs = (const int32_t *)(void *)somewhere;
    p.list.tiles = (gqmm_cuda_tile *)(void *)somewhere;
    p.list.tile_columns = 8;
    p.list.most_tiles = gqmm_cuda_most_tiles(p.n_pairs, 1, p.w.n_experts, 8);
    return c->family->eights_fit(&p, mean);
}

/* Likewise. */
static bool is_wide(const gqmm_cuda_call *c, double mean)
{
    gqmm_cuda_product p = c->p;
    if (!c->family->wide || p.x_type != GQMM_BF16)
        return false;
    p.x_order = 0;
    p.x_ordered = somewhere;
    p.list.tiles = (gqmm_cuda_tile *)(void *)somewhere;
    p.list.tile_columns = c->family->wide_columns(&p, mean);
    return p.list.tile_columns > 0 && c->family->wide_fits(&p);
}

static bool is_int8(const gqmm_cuda_call *c, double mean)
{
    return c->rounds && c->family->int8 && c->family->int8_columns(mean) > 0 &&
           c->family->int8_fits(&c->p);
}

/* Likewise. */
static bool is_middle(const gqmm_cuda_call *c)
{
    return c->alone && !c->by_id && c->family->middle_fits(&c->p);
}

int32_t gqmm_cuda_kinds(const gqmm_context *ctx, const gqmm_cuda_call *c)
{
    const double mean = mean_of(c);
    const bool many = mean >= (experts_of(c) > 1 ? WIDE_FROM : WIDE_FROM_DENSE);
    if (!c->transpose || gqmm_cuda_of(ctx)->path != GQMM_CUDA_SM90)
        return GQMM_CUDA_PRODUCT;
    return (many && is_int8(c, mean) ? GQMM_CUDA_INT8 : 0) |
           (is_of_eights(c, mean) ? GQMM_CUDA_EIGHTS : 0) | (is_middle(c) ? GQMM_CUDA_MIDDLE : 0) |
           ((many || has_many_pairs(c)) && is_wide(c, mean) ? GQMM_CUDA_WIDE : 0);
}

void gqmm_cuda_plan_as(gqmm_cuda_call *c, int32_t kinds)
{
    c->int8 = kinds & GQMM_CUDA_INT8;
    c->eights = !c->int8 && kinds & GQMM_CUDA_EIGHTS;
    c->middle = !c->int8 && kinds & GQMM_CUDA_MIDDLE;
    c->wide = c->int8 || (!c->eights && !c->middle && kinds & GQMM_CUDA_WIDE);
    c->p.list.tile_columns = tile_columns(c, mean_of(c));
    c->sorted = c->wide || has_many_pairs(c);
}

gqmm_status gqmm_cuda_check_experts(const gqmm_context *ctx, const gqmm_cuda_call *c,
                                    gqmm_error *err)
{
    const bool sm90 = gqmm_cuda_of(ctx)->path == GQMM_CUDA_SM90;
    const int32_t most = sm90 ? MOST_SORTED_SM90 : MOST_SORTED;
    if (!c->sorted || c->p.w.n_experts <= most)
        return GQMM_OK;
    return gqmm_fail(
        err, GQMM_E_UNSUPPORTED, 0,
        "%d experts: CUDA takes up to %d where it sorts pairs, as it does more than %d",
        c->p.w.n_experts, most, MOST_UNSORTED);
}

void gqmm_cuda_take_list(gqmm_cuda_call *c, gqmm_layout *l)
{
    gqmm_cuda_list *list = &c->p.list;
    if (!c->sorted)
        return;
    const int64_t pairs = c->p.n_pairs, experts = c->p.w.n_experts;
    list->most_tiles = gqmm_cuda_most_tiles(pairs, c->p.m, c->p.w.n_experts, list->tile_columns);
    list->order = gqmm_take(l, pairs, sizeof *list->order);
    list->tiles = gqmm_take(l, list->most_tiles, sizeof *list->tiles);
    list->n_tiles = gqmm_take(l, 1, sizeof *list->n_tiles);
    list->taken = gqmm_take(l, 2, sizeof *list->taken);
    list->first = gqmm_take(l, experts + 2, sizeof *list->first);
    c->scratch = gqmm_take(l, (int64_t)gqmm_cuda_sort_scratch(pairs, c->p.w.n_experts), 1);
}

void gqmm_cuda_take_ordered(gqmm_cuda_call *c, gqmm_layout *l)
{
    int64_t rows = 0, numbers = 0;
    if (!c->wide || c->p.x_order)
        return;
    l->overflow =
        l->overflow || !gqmm_mul(&rows, c->p.n_x, c->p.m) || !gqmm_mul(&numbers, rows, c->p.k);
    if (c->int8) {
        c->p.x8.codes = gqmm_take(l, numbers, sizeof *c->p.x8.codes);
        c->p.x8.scales = gqmm_take(l, numbers / 128, sizeof *c->p.x8.scales);
    } else {
        c->p.x_ordered = gqmm_take(l, numbers, sizeof(uint16_t));
    }
}

/* Whether x comes into the order of a wide product beside the sort. */
static bool sort_brings_x(const gqmm_cuda_call *c)
{
    return c->wide && !c->int8 && !c->p.x_order && c->p.n_pairs <= GQMM_CUDA_SORT_BRINGS;
}

gqmm_status gqmm_cuda_sort_call(gqmm_context *ctx, const gqmm_cuda_call *c, gqmm_error *err)
{
    const gqmm_cuda_state *s = gqmm_cuda_of(ctx);
    if (!c->sorted)
        return GQMM_OK;
    const int32_t x_order = sort_brings_x(c) ? c->family->wide_order : 0;
    return gqmm_cuda_status(gqmm_cuda_sort(&c->p, x_order, c->scratch, s->path, s->stream),
                            "sorting pairs", err);
}

gqmm_status gqmm_cuda_run_call(gqmm_context *ctx, const gqmm_cuda_call *c, gqmm_error *err)
{
    const gqmm_cuda_state *s = gqmm_cuda_of(ctx);
    gqmm_cuda_product p = c->p;
    int error;
    if (!c->sorted)
        p.list.tiles = NULL;
    if (sort_brings_x(c)) {
        p.x = p.x_ordered;
        p.x_row = p.k;
        p.x_mat = p.m * p.k;
        p.x_order = c->family->wide_order;
    }
    if (c->early && !p.rhs && !p.lhs && !p.list.tiles)
        p.ids_early = 1; /* there are none */
    if (!c->transpose)
        error = c->family->product_n(&p, s->path, s->stream);
    else if (c->int8)
        error = c->family->int8(&p, s->stream);
    else if (c->wide)
        error = c->family->wide(&p, s->stream);
    else if (c->middle)
        error = c->family->middle(&p, s->stream);
    else
        error = c->family->product(&p, s->path, s->stream);
    return gqmm_cuda_status(error, "enqueuing a product", err);
}

/* ---- many rows against one matrix */

static gqmm_cuda_dense dense_of(const gqmm_cuda_call *c)
{
    return (gqmm_cuda_dense){.x = c->p.x,
                             .w = c->lies ? c->p.w.plane[0] : c->plain,
                             .y = c->p.y,
                             .x_row = c->p.x_row,
                             .w_row = c->lies ? c->p.w.row_stride[0] / 2 : (c->p.k + 63) / 64 * 64,
                             .y_row = c->p.y_row,
                             .m = c->p.m,
                             .n = c->p.n,
                             .k = c->p.k,
                             .y_type = c->p.y_type};
}

/* Rows of x. */
static int64_t dense_from(const gqmm_cuda_call *c)
{
    return c->lies                            ? DENSE_FROM_BF16
           : !c->early                        ? DENSE_FROM_FLOATS
           : c->p.n * c->p.k >= LARGE_WEIGHTS ? DENSE_FROM_LARGE
                                              : DENSE_FROM;
}

/* By sizes and strides, as a size query decides it. */
static bool is_dense(const gqmm_context *ctx, const gqmm_cuda_call *c)
{
    gqmm_cuda_dense d = dense_of(c);
    d.x = NULL;
    return gqmm_cuda_of(ctx)->path == GQMM_CUDA_SM90 && c->transpose && c->p.x_type == GQMM_BF16 &&
           c->p.n_pairs == 1 && !c->p.lhs && !c->by_id && !c->int8 && gqmm_cuda_dense_fits(&d) &&
           c->p.m >= dense_from(c);
}

/* Outputs of one slice: rows of W that are dequantised together. */
static int64_t slice_of(const gqmm_cuda_call *c)
{
    const int64_t rows = MOST_PLAIN / dense_of(c).w_row / 256 * 256;
    const int64_t some = rows < 256 ? 256 : rows;
    return some < c->p.n ? some : c->p.n;
}

static gqmm_status run_dense(gqmm_context *ctx, const gqmm_cuda_call *c, gqmm_error *err)
{
    const gqmm_cuda_state *s = gqmm_cuda_of(ctx);
    const int64_t slice = slice_of(c);
    gqmm_cuda_dense d = dense_of(c);
    gqmm_cuda_rows rows = {
        .w = c->p.w, .y = c->plain, .y_row = d.w_row, .y_type = GQMM_BF16, .fault = c->p.fault};
    gqmm_status st = GQMM_OK;
    if (c->lies)
        return gqmm_cuda_status(gqmm_cuda_dense_product(&d, s->stream), "enqueuing a product", err);
    for (int64_t n = 0; st == GQMM_OK && n < c->p.n; n += slice) {
        rows.first = n;
        rows.n = d.n = c->p.n - n < slice ? c->p.n - n : slice;
        d.y = (char *)c->p.y + n * (int64_t)gqmm_type_size(c->p.y_type);
        st = gqmm_cuda_status(c->family->rows(&rows, s->stream), "enqueuing weights", err);
        if (st == GQMM_OK)
            st = gqmm_cuda_status(gqmm_cuda_dense_product(&d, s->stream), "enqueuing a product",
                                  err);
    }
    return st;
}

/* ---- gather_qmm */

static void take_gather(void *arg, gqmm_layout *l)
{
    gqmm_cuda_call *c = arg;
    int64_t numbers = 0;
    if (!c->dense) {
        gqmm_cuda_take_list(c, l);
        gqmm_cuda_take_ordered(c, l);
    } else if (!c->lies) {
        l->overflow = l->overflow || !gqmm_mul(&numbers, slice_of(c), dense_of(c).w_row);
        c->plain = gqmm_take(l, numbers, sizeof(uint16_t));
    }
}

gqmm_status gqmm_gather_on_cuda(gqmm_context *ctx, const gqmm_gather *d, int64_t n, int64_t k,
                                bool run, size_t *bytes, gqmm_error *err)
{
    gqmm_cuda_call c = {.family = gqmm_cuda_family_of(d->w),
                        .transpose = d->transpose,
                        .by_id = d->rhs,
                        .alone = true,
                        .early = gqmm_cuda_lasts(d->w),
                        .rounds = d->precision == GQMM_INT8};
    gqmm_status st;
    c.p = (gqmm_cuda_product){.w = gqmm_cuda_view(d->w),
                              .k = k,
                              .n = n,
                              .x = d->x,
                              .x_row = d->x_row_stride,
                              .x_mat = d->x_mat_stride,
                              .x_type = d->x_type,
                              .y_type = d->y_type,
                              .y = d->y,
                              .y_row = d->y_row_stride,
                              .y_pair = d->y_pair_stride,
                              .n_pairs = d->n_pairs,
                              .m = d->m,
                              .n_x = d->n_x,
                              .lhs = d->lhs,
                              .rhs = d->rhs,
                              .lhs_stride = d->lhs_stride,
                              .rhs_stride = d->rhs_stride,
                              .slots = 1,
                              .expert = d->w->n_experts == 1 || d->n_pairs <= 1 ? 0 : -1,
                              .fault = gqmm_cuda_of(ctx)->fault};
    c.lies = !c.early && gqmm_element_type(d->w->format) == GQMM_BF16 &&
             (uintptr_t)d->w->plane[0] % 16 == 0 && d->w->row_stride[0] % 16 == 0;
    int64_t columns = 0;
    if (!gqmm_mul(&columns, d->n_pairs, d->m) || columns > INT32_MAX)
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "%" PRId64 " pairs of %" PRId64 " rows exceed the 2^31 of one CUDA call",
                         d->n_pairs, d->m);
    gqmm_cuda_plan_as(&c, gqmm_cuda_kinds(ctx, &c));
    c.dense = !c.middle && is_dense(ctx, &c);
    if ((st = gqmm_cuda_check_experts(ctx, &c, err)) != GQMM_OK)
        return st;
    st = gqmm_lay_out(ctx, take_gather, &c, run, d->workspace, d->workspace_bytes, bytes, err);
    if (st != GQMM_OK || !run || d->n_pairs * d->m == 0)
        return st;
    if ((st = gqmm_cuda_check_pointer("y", d->y, err)) != GQMM_OK ||
        (st = gqmm_cuda_check_pointer("x", d->x, err)) != GQMM_OK ||
        (st = gqmm_cuda_check_pointer("lhs", d->lhs, err)) != GQMM_OK ||
        (st = gqmm_cuda_check_pointer("rhs", d->rhs, err)) != GQMM_OK ||
        (st = gqmm_cuda_check_pointer("workspace", d->workspace, err)) != GQMM_OK)
        return st;
    if ((uintptr_t)d->x % 16 != 0) {
        if (c.dense)
            c.wide = c.sorted = false; /* it takes no other workspace */
        c.dense = c.middle = false;
    }
    snprintf(ctx->explain, sizeof ctx->explain,
             "gather_qmm %s %s%s: %" PRId64 " pairs of %" PRId64 " rows, [%" PRId64 ", %" PRId64
             "], %s, %zu bytes of workspace",
             d->w->format->pub.name, gqmm_weights_isa(d->w),
             c.dense    ? " dense"
             : c.int8   ? " int8"
             : c.wide   ? " wide"
             : c.middle ? " middle"
                        : "",
             d->n_pairs, d->m, n, k, c.sorted ? "sorted" : "unsorted", *bytes);
    if (c.dense)
        return run_dense(ctx, &c, err);
    st = gqmm_cuda_sort_call(ctx, &c, err);
    return st != GQMM_OK ? st : gqmm_cuda_run_call(ctx, &c, err);
}
