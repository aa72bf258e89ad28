/* SPDX-License-Identifier: MIT */
/* gqmm_moe: checks, workspace and the job; its phases are in moe_phases.c. */
#include "op/moe.h"
#include "op/device.h"

#include <inttypes.h>
#include <stdio.h>

static gqmm_status check_weights(const char *name, const gqmm_weights *w, int64_t e, int64_t n,
                                 int64_t k, gqmm_error *err)
{
    if (!w)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s is NULL", name);
    if (w->n_experts != e || w->n_rows != n || w->n_cols != k)
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "%s is [%" PRId64 ", %" PRId64 ", %" PRId64 "], expected [%" PRId64
                         ", %" PRId64 ", %" PRId64 "]",
                         name, w->n_experts, w->n_rows, w->n_cols, e, n, k);
    return GQMM_OK;
}

/* gate, up (or a gate of twice the width) and down of one stack. */
static gqmm_status check_ffn(gqmm_ffn *f, const char *const names[3], const gqmm_weights *gate,
                             const gqmm_weights *up, const gqmm_weights *down, int64_t e, int64_t d,
                             gqmm_error *err)
{
    gqmm_status st;
    if (!up && gate->n_rows % 2 != 0)
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "%s has %" PRId64 " rows; without %s it needs an even number", names[0],
                         gate->n_rows, names[1]);
    f->width = up ? gate->n_rows : gate->n_rows / 2;
    if ((st = check_weights(names[0], gate, e, gate->n_rows, d, err)) != GQMM_OK ||
        (up && (st = check_weights(names[1], up, e, f->width, d, err)) != GQMM_OK) ||
        (st = check_weights(names[2], down, e, d, f->width, err)) != GQMM_OK)
        return st;
    f->gate_w = gate;
    f->up_w = up ? up : gate;
    f->down_w = down;
    return GQMM_OK;
}

static gqmm_status check_experts(gqmm_moe_state *s, gqmm_error *err)
{
    static const char *const routed[] = {"gate", "up", "down"};
    static const char *const shared[] = {"shared_gate", "shared_up", "shared_down"};
    const gqmm_moe_desc *d = &s->d;
    gqmm_status st;
    if (!d->gate || !d->down)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s is NULL", d->gate ? "down" : "gate");
    s->width = d->gate->n_cols;
    s->fns = d->gate->kernel->fns->rows;
    s->n_experts = d->gate->n_experts;
    st = check_ffn(&s->routed, routed, d->gate, d->up, d->down, s->n_experts, s->width, err);
    if (st != GQMM_OK)
        return st;
    if (d->router &&
        (st = check_weights("router", d->router, 1, s->n_experts, s->width, err)) != GQMM_OK)
        return st;
    if (!d->shared_gate) {
        if (d->shared_up || d->shared_down || d->shared_scale)
            return gqmm_fail(err, GQMM_E_ARG, 0, "shared_%s is given but shared_gate is NULL",
                             d->shared_up     ? "up"
                             : d->shared_down ? "down"
                                              : "scale");
        return GQMM_OK;
    }
    st = check_ffn(&s->shared, shared, d->shared_gate, d->shared_up, d->shared_down, 1, s->width,
                   err);
    if (st == GQMM_OK && d->shared_scale)
        st = check_weights("shared_scale", d->shared_scale, 1, 1, s->width, err);
    return st;
}

static gqmm_status check_routing(gqmm_moe_state *s, gqmm_error *err)
{
    const gqmm_moe_desc *d = &s->d;
    if (d->n_slots < 1 || (d->router && d->n_slots > s->n_experts))
        return gqmm_fail(err, GQMM_E_SHAPE, 0, "n_slots is %d, expected 1 to %" PRId64, d->n_slots,
                         s->n_experts);
    if (d->scoring != GQMM_SOFTMAX && d->scoring != GQMM_SIGMOID)
        return gqmm_fail(err, GQMM_E_ARG, 0,
                         "scoring is %d, expected GQMM_SOFTMAX (0) or GQMM_SIGMOID (1)",
                         d->scoring);
    if (d->router_bias && d->scoring != GQMM_SIGMOID)
        return gqmm_fail(err, GQMM_E_ARG, 0, "router_bias belongs to GQMM_SIGMOID scoring");
    if (s->n_experts > INT32_MAX)
        return gqmm_fail(err, GQMM_E_SHAPE, 0, "%" PRId64 " experts exceed 2^31", s->n_experts);
    s->rule = (gqmm_router_rule){.n_experts = (int32_t)s->n_experts,
                                 .n_slots = d->n_slots,
                                 .scoring = d->scoring,
                                 .renormalize = d->renormalize,
                                 .scale = d->routed_scale != 0.0f ? d->routed_scale : 1.0f,
                                 .bias = d->router_bias};
    return GQMM_OK;
}

static gqmm_status check_shape(gqmm_moe_state *s, gqmm_error *err)
{
    gqmm_moe_desc *d = &s->d;
    gqmm_status st;
    if ((st = gqmm_check_precision(d->precision, err)) != GQMM_OK ||
        (st = gqmm_check_type("y_type", d->y_type, err)) != GQMM_OK ||
        (st = gqmm_check_type("x_type", d->x_type, err)) != GQMM_OK ||
        (st = check_experts(s, err)) != GQMM_OK || (st = check_routing(s, err)) != GQMM_OK ||
        (st = gqmm_check_stride("y_row_stride", &d->y_row_stride, s->width, false, err)) !=
            GQMM_OK ||
        (st = gqmm_check_stride("x_row_stride", &d->x_row_stride, s->width, true, err)) != GQMM_OK)
        return st;
    if (d->n_tokens < 0 || !gqmm_mul(&s->n_pairs, d->n_tokens, d->n_slots))
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "n_tokens is %" PRId64 " with %d slots, expected 0 to 2^63 pairs",
                         d->n_tokens, d->n_slots);
    s->n_tokens = d->n_tokens;
    s->n_slots = d->n_slots;
    s->routed.rows = s->n_pairs;
    s->shared.rows = d->shared_gate ? s->n_tokens : 0;
    return GQMM_OK;
}

/* ids and weights against everything else; GQMM_F32 stands for the four bytes of an id. */
static gqmm_status check_lists(const gqmm_moe_state *s, const gqmm_span *y, const gqmm_span *x,
                               gqmm_error *err)
{
    const gqmm_moe_desc *d = &s->d;
    const gqmm_span ids = {"ids", d->ids, d->ids ? 1 : 0, s->n_pairs, 0, GQMM_F32};
    const gqmm_span weights = {"weights", d->weights, d->weights ? 1 : 0, s->n_pairs, 0, GQMM_F32};
    gqmm_status st;
    if ((st = gqmm_check_aligned("ids", d->ids, err)) != GQMM_OK ||
        (st = gqmm_check_aligned("weights", d->weights, err)) != GQMM_OK ||
        (st = gqmm_check_aligned("router_bias", d->router_bias, err)) != GQMM_OK ||
        (st = gqmm_check_disjoint(y, &ids, err)) != GQMM_OK ||
        (st = gqmm_check_disjoint(y, &weights, err)) != GQMM_OK || !d->router)
        return st;
    if ((st = gqmm_check_disjoint(&ids, x, err)) != GQMM_OK ||
        (st = gqmm_check_disjoint(&weights, x, err)) != GQMM_OK)
        return st;
    return gqmm_check_disjoint(&ids, &weights, err);
}

/* Ids are looked at when they lie in memory of the host. */
static gqmm_status check_data(const gqmm_moe_state *s, bool on_host, gqmm_error *err)
{
    const gqmm_moe_desc *d = &s->d;
    const gqmm_span y = {"y", d->y, s->n_tokens, s->width, d->y_row_stride, d->y_type};
    const gqmm_span x = {"x", d->x, s->n_tokens, s->width, d->x_row_stride, d->x_type};
    gqmm_status st;
    if ((st = gqmm_check_span(&y, err)) != GQMM_OK || (st = gqmm_check_span(&x, err)) != GQMM_OK ||
        (st = gqmm_check_disjoint(&y, &x, err)) != GQMM_OK || (st = check_lists(s, &y, &x, err)) ||
        d->router || s->n_pairs == 0)
        return st;
    if (!d->ids || !d->weights)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s is NULL, needed without a router",
                         d->ids ? "weights" : "ids");
    for (int64_t p = 0; on_host && p < s->n_pairs; p++)
        if (d->ids[p] < -1 || d->ids[p] >= s->n_experts)
            return gqmm_fail(err, GQMM_E_INDEX, 0,
                             "ids[%" PRId64 ", %" PRId64
                             "] is %d, expected -1 (skip) or 0 to %" PRId64,
                             p / s->n_slots, p % s->n_slots, d->ids[p], s->n_experts - 1);
    return GQMM_OK;
}

/* Takes n * m items, or none. */
static void *take(gqmm_layout *l, int64_t n, int64_t m, size_t size)
{
    int64_t items = 0;
    l->overflow = l->overflow || !gqmm_mul(&items, n, m);
    void *p = gqmm_take(l, items, size);
    return items ? p : NULL;
}

static void take_ffn(gqmm_moe_state *s, gqmm_ffn *f, gqmm_layout *l, int64_t n_experts)
{
    const int64_t n = f->rows, acts = s->d.precision == GQMM_INT8 ? n : 0;
    const int64_t segments = gqmm_segments_most(n, n_experts);
    f->h = take(l, n - acts, f->width, sizeof *f->h);
    f->act = take(l, acts, gqmm_act_blocks(f->width), sizeof *f->act);
    f->segments = take(l, segments, 1, sizeof *f->segments);
    f->order = take(l, segments, 1, sizeof *f->order);
    f->x_rows = take(l, n, 1, sizeof *f->x_rows);
    f->h_rows = take(l, n - acts, 1, sizeof *f->h_rows);
    f->x_acts = take(l, acts, 1, sizeof *f->x_acts);
    f->h_acts = take(l, acts, 1, sizeof *f->h_acts);
    f->y_rows = take(l, n, 1, sizeof *f->y_rows);
    f->factors = take(l, n, 1, sizeof *f->factors);
}

static void take_all(void *arg, gqmm_layout *l)
{
    gqmm_moe_state *s = arg;
    const gqmm_moe_desc *d = &s->d;
    const int64_t t = s->n_tokens;
    s->x = take(l, d->x_type == GQMM_F32 ? 0 : t, s->width, sizeof *s->x);
    s->act = take(l, d->precision == GQMM_INT8 ? t : 0, gqmm_act_blocks(s->width), sizeof *s->act);
    s->sum = take(l, d->y_type == GQMM_F32 ? 0 : t, s->width, sizeof *s->sum);
    s->x_rows = take(l, t, 1, sizeof *s->x_rows);
    s->token_segments = take(l, gqmm_segments_most(t, 1), 1, sizeof *s->token_segments);
    s->logits = take(l, d->router ? t : 0, s->n_experts, sizeof *s->logits);
    s->logit_rows = take(l, d->router ? t : 0, 1, sizeof *s->logit_rows);
    s->shared_logit = take(l, d->shared_scale ? t : 0, 1, sizeof *s->shared_logit);
    s->shared_rows = take(l, d->shared_scale ? t : 0, 1, sizeof *s->shared_rows);
    s->ids = take(l, s->n_pairs, 1, sizeof *s->ids);
    s->weights = take(l, s->n_pairs, 1, sizeof *s->weights);
    s->bounds = take(l, s->n_experts + 1, 1, sizeof *s->bounds);
    take_ffn(s, &s->routed, l, s->n_experts);
    take_ffn(s, &s->shared, l, 1);
    if (d->ids)
        s->ids = d->ids;
    if (d->weights)
        s->weights = d->weights;
}

/* Wide tasks read longer pieces of each expert, and rows of h less often; but every thread needs a
 * few. The bits of y do not depend on it. */
static int64_t down_chunk(const gqmm_moe_state *s, int32_t n_threads)
{
    int64_t chunk = 2 * GQMM_CHUNK_ROWS;
    while (chunk > GQMM_CHUNK_ROWS / 2 && gqmm_ceil_div(s->width, chunk) < 8 * n_threads)
        chunk /= 2;
    return chunk;
}

static void set_ffn(const gqmm_moe_state *s, gqmm_ffn *f, int32_t n_threads)
{
    const gqmm_products base = {.precision = s->d.precision,
                                .transpose = 1,
                                .segments = f->segments,
                                .order = f->order,
                                .x = f->x_rows,
                                .a = f->x_acts,
                                .n = f->width,
                                .k = s->width,
                                .chunk = GQMM_CHUNK_ROWS};
    f->gate_p = f->up_p = f->down_p = base;
    f->gate_p.w = f->gate_w;
    f->up_p.w = f->up_w;
    f->up_p.row0 = f->gate_w && f->gate_w->n_rows > f->width ? f->width : 0; /* fused */
    f->down_p.w = f->down_w;
    f->down_p.n = s->width;
    f->down_p.k = f->width;
    f->down_p.chunk = down_chunk(s, n_threads);
    f->down_p.x = f->h_rows;
    f->down_p.a = f->h_acts;
}

/* Everything that does not depend on the routing. */
static void set_products(gqmm_moe_state *s, int32_t n_threads)
{
    const int64_t size = (int64_t)gqmm_type_size(s->d.x_type);
    for (int64_t t = 0; t < s->n_tokens; t++) {
        const uint8_t *x = (const uint8_t *)s->d.x + t * s->d.x_row_stride * size;
        s->x_rows[t] = s->x ? s->x + t * s->width : (const float *)(const void *)x;
        if (s->logit_rows)
            s->logit_rows[t] = s->logits + t * s->n_experts;
        if (s->shared_rows)
            s->shared_rows[t] = s->shared_logit + t;
    }
    const gqmm_products base = {.precision = GQMM_EXACT,
                                .transpose = 1,
                                .k = s->width,
                                .chunk = GQMM_CHUNK_ROWS,
                                .segments = s->token_segments,
                                .n_segments = gqmm_segments_cut(s->token_segments, s->n_tokens),
                                .x = s->x_rows};
    s->router_p = s->shared_scale_p = base;
    s->router_p.w = s->d.router;
    s->router_p.n = s->d.router ? s->n_experts : 0; /* no outputs, no tasks */
    s->router_p.y = s->logit_rows;
    s->shared_scale_p.w = s->d.shared_scale;
    s->shared_scale_p.n = s->d.shared_scale ? 1 : 0;
    s->shared_scale_p.y = s->shared_rows;
    set_ffn(s, &s->routed, n_threads);
    set_ffn(s, &s->shared, n_threads);
}

static void set_job(gqmm_moe_state *s, gqmm_job *job)
{
    const int64_t per_token = gqmm_ceil_div(s->n_tokens, GQMM_ROWS_PER_TASK);
    const int64_t logits =
        gqmm_products_tasks(&s->router_p) + gqmm_products_tasks(&s->shared_scale_p);
    gqmm_job_init(job, s);
    gqmm_job_add(job, gqmm_moe_convert, s->x || s->act ? per_token : 0);
    gqmm_job_add(job, gqmm_moe_logits, logits);
    gqmm_job_add(job, gqmm_moe_choose, s->d.router ? per_token : 0);
    gqmm_job_add(job, gqmm_moe_sort, s->n_tokens > 0);
    gqmm_job_add_ahead(job, gqmm_moe_gate_up, 0); /* counted by the sort */
    gqmm_job_add_ahead(job, gqmm_moe_down,
                       s->n_tokens > 0 ? gqmm_ceil_div(s->width, s->routed.down_p.chunk) : 0);
    gqmm_job_add(job, gqmm_moe_round, s->sum ? per_token : 0);
    s->job = job;
}

static gqmm_status check_home(const gqmm_context *ctx, const gqmm_moe_desc *d, gqmm_error *err)
{
    const struct {
        const char *name;
        const gqmm_weights *w;
    } all[] = {{"gate", d->gate},
               {"up", d->up},
               {"down", d->down},
               {"router", d->router},
               {"shared_gate", d->shared_gate},
               {"shared_up", d->shared_up},
               {"shared_down", d->shared_down},
               {"shared_scale", d->shared_scale}};
    gqmm_status st = GQMM_OK;
    for (size_t i = 0; st == GQMM_OK && i < sizeof all / sizeof *all; i++)
        if (all[i].w)
            st = gqmm_check_handle(ctx, all[i].name, all[i].w, err);
    return st;
}

static gqmm_status prepare(gqmm_context *ctx, const void *desc, gqmm_job *job, size_t *bytes,
                           gqmm_error *err)
{
    gqmm_moe_state sizing = {.d = *(const gqmm_moe_desc *)desc};
    gqmm_moe_state *s = job ? (gqmm_moe_state *)(void *)ctx->state : &sizing;
    gqmm_status st;

    *s = sizing;
    if ((st = check_shape(s, err)) != GQMM_OK || (st = check_home(ctx, &s->d, err)) != GQMM_OK ||
        (job && (st = check_data(s, !ctx->device, err)) != GQMM_OK))
        return st;
    if (ctx->device)
        return ctx->device->moe(ctx, s, job != NULL, bytes, err);
    st = gqmm_lay_out(ctx, take_all, s, job != NULL, s->d.workspace, s->d.workspace_bytes, bytes,
                      err);
    if (st != GQMM_OK || !job)
        return st;
    set_products(s, ctx->n_threads);
    set_job(s, job);
    snprintf(ctx->explain, sizeof ctx->explain,
             "moe gate %s, up %s, down %s, %s %s: %" PRId64 " tokens, %d of %" PRId64
             " experts, %" PRId64 " x %" PRId64 ", %zu bytes of workspace",
             s->d.gate->format->pub.name, s->routed.up_w->format->pub.name,
             s->d.down->format->pub.name, gqmm_weights_isa(s->d.gate),
             s->d.precision == GQMM_INT8 ? "int8" : "exact", s->n_tokens, s->d.n_slots,
             s->n_experts, s->width, s->routed.width, *bytes);
    return GQMM_OK;
}

const gqmm_op gqmm_op_moe = {"moe", sizeof(gqmm_moe_desc), prepare};

gqmm_status gqmm_moe(gqmm_context *ctx, const gqmm_moe_desc *op, gqmm_error *err)
{
    return gqmm_run(ctx, &gqmm_op_moe, op, err);
}
