/* SPDX-License-Identifier: MIT */
/* moe on CUDA: router, choice, sort, gate and up with SwiGLU, down, weighted sum; the shared expert
 * beside them. Every launch but the first may begin before the one ahead of it has ended. */
#include "op/moe.h"
#include "op/cuda/cuda_op.h"

#include <inttypes.h>
#include <stdio.h>

/* Pairs up to which the rows that are summed stay fp32: they then fit in the second-level cache,
 * unless wide tiles' weights pass through it meanwhile. */
enum { MOST_FP32_PAIRS = 4096 };

/* Of gate and up, that the next product may follow: see gqmm_cuda_product.tells. */
enum { MOST_TOLD = 1 << 28 };

/* gate, up and down over `rows` rows, each product its own call. */
typedef struct {
    gqmm_cuda_call gate, up, down;
    bool fused;        /* up goes with gate; else up is a product of its own */
    void *h;           /* [rows, F] in x_type */
    gqmm_cuda_int8 h8; /* in place of h */
    float *parts[2];   /* [rows, F] of gate and up when they are not fused */
    void *y;           /* [rows, D] */
} ffn;

typedef struct {
    const gqmm_moe_state *s;
    gqmm_context *ctx;
    gqmm_cuda_call router, shared_dot;
    ffn routed, shared;
    float *logits, *dot, *weights;
    int32_t *ids;
    int32_t parts; /* of the logits, each of a stretch of K; 0: a product makes them */
    int32_t pairs_type;
    bool summed; /* few tokens: down and the weighted sum are one launch */
    bool few;    /* one token: so it is, and gate and up find the experts themselves, as it does */
} plan;

static gqmm_cuda_product base(const plan *m, const gqmm_weights *w, int64_t n, int64_t k)
{
    return (gqmm_cuda_product){.w = gqmm_cuda_view(w),
                               .k = k,
                               .n = n,
                               .m = 1,
                               .slots = 1,
                               .expert = 0,
                               .fault = gqmm_cuda_of(m->ctx)->fault};
}

/* Rows of x against one matrix: the router, the shared expert. */
static gqmm_cuda_call dense_call(const plan *m, const gqmm_weights *w, int64_t n, int64_t k)
{
    gqmm_cuda_call c = {.family = gqmm_cuda_family_of(w),
                        .transpose = true,
                        .early = gqmm_cuda_lasts(w),
                        .rounds = m->s->d.precision == GQMM_INT8};
    c.p = base(m, w, n, k);
    c.p.x = m->s->d.x;
    c.p.x_row = m->s->d.x_row_stride;
    c.p.x_type = m->s->d.x_type;
    c.p.n_pairs = m->s->n_tokens > 0;
    c.p.n_x = 1;
    c.p.m = m->s->n_tokens;
    c.p.y_type = GQMM_F32;
    c.p.y_row = n;
    return c;
}

static bool same_layout(const gqmm_weights *a, const gqmm_weights *b)
{
    bool same = a->format == b->format;
    for (int i = 0; same && i < a->format->pub.n_planes; i++)
        same = a->row_stride[i] == b->row_stride[i];
    return same;
}

/* Rows F .. 2 F of a gate matrix that holds both. */
static gqmm_cuda_matrix second_half(const gqmm_weights *w, int64_t f)
{
    gqmm_cuda_matrix m = gqmm_cuda_view(w);
    for (int i = 0; i < w->format->pub.n_planes; i++)
        m.plane[i] += f * m.row_stride[i];
    return m;
}

static void plan_ffn(plan *m, ffn *f, const gqmm_ffn *w, bool routed)
{
    const gqmm_moe_state *s = m->s;
    const gqmm_weights *gate = w->gate_w, *up = w->up_w;
    f->gate = dense_call(m, gate, w->width, s->width);
    f->fused = same_layout(gate, up);
    if (routed) {
        f->gate.p.n_pairs = s->n_pairs;
        f->gate.p.m = 1;
        f->gate.p.n_x = s->n_tokens;
        f->gate.p.x_mat = s->d.x_row_stride;
        f->gate.p.slots = (int32_t)s->n_slots;
        f->gate.by_id = true;
        f->gate.p.rhs_stride = 1;
    }
    f->gate.p.y_row = f->gate.p.y_pair = w->width;
    f->gate.p.y_type = f->fused ? s->d.x_type : GQMM_F32;
    f->up = f->gate;
    f->up.family = gqmm_cuda_family_of(up);
    f->up.p.w = up == gate ? second_half(gate, w->width) : gqmm_cuda_view(up);
    if (f->fused)
        f->gate.p.up = f->up.p.w;
    f->down = f->gate;
    f->down.family = gqmm_cuda_family_of(w->down_w);
    f->down.p.w = gqmm_cuda_view(w->down_w);
    f->down.p.up = (gqmm_cuda_matrix){0};
    f->down.p.k = w->width;
    f->down.p.n = s->width;
    f->down.p.x_row = f->down.p.x_mat = w->width;
    f->down.p.x_type = s->d.x_type;
    f->down.p.slots = 1;
    f->down.p.n_x = routed ? s->n_pairs : 1;
    f->down.p.y_row = f->down.p.y_pair = s->width;
    /* Ids and the list are as old as gate's launch. */
    f->down.p.ids_early = 1;
    f->down.p.x8.sorted = f->h8.sorted = 1;
    /* One list, so one size of tile, serves all three. */
    const int32_t kinds = f->fused ? gqmm_cuda_kinds(m->ctx, &f->gate) : GQMM_CUDA_PRODUCT;
    const int32_t both = kinds ? kinds & gqmm_cuda_kinds(m->ctx, &f->down) : GQMM_CUDA_PRODUCT;
    gqmm_cuda_plan_as(&f->gate, both);
    gqmm_cuda_plan_as(&f->up, both);
    gqmm_cuda_plan_as(&f->down, both);
    if (f->gate.wide) { /* h is written in the order that down wants */
        f->gate.p.y_order = f->down.p.x_order = f->down.family->wide_order;
        f->down.p.list.tile_columns = f->gate.p.list.tile_columns;
        f->gate.p.tells = f->down.p.follows = !f->gate.int8 && w->width <= MOST_TOLD;
    }
}

static void take_ffn(plan *m, ffn *f, const gqmm_ffn *w, gqmm_layout *l)
{
    const gqmm_moe_state *s = m->s;
    int64_t h = 0, y = 0;
    l->overflow =
        l->overflow || !gqmm_mul(&h, w->rows, w->width) || !gqmm_mul(&y, w->rows, s->width);
    f->h = gqmm_take(l, f->gate.int8 ? 0 : h, gqmm_type_size(s->d.x_type));
    if (f->gate.int8) {
        const gqmm_cuda_product *p = &f->gate.p;
        const int64_t rows =
            p->list.tile_columns *
            (int64_t)gqmm_cuda_most_tiles(p->n_pairs, p->m, p->w.n_experts, p->list.tile_columns);
        l->overflow = l->overflow || !gqmm_mul(&h, rows, w->width);
        f->h8.codes = gqmm_take(l, h, sizeof *f->h8.codes);
        f->h8.scales = gqmm_take(l, h / 128, sizeof *f->h8.scales);
    }
    f->parts[0] = gqmm_take(l, f->fused ? 0 : h, sizeof(float));
    f->parts[1] = gqmm_take(l, f->fused ? 0 : h, sizeof(float));
    f->y = gqmm_take(l, m->summed && f == &m->routed ? 0 : y, gqmm_type_size(m->pairs_type));
    gqmm_cuda_take_list(&f->gate, l);
    gqmm_cuda_take_ordered(&f->gate, l);
    f->down.p.list = f->up.p.list = f->gate.p.list;
    f->down.scratch = f->up.scratch = f->gate.scratch;
    f->gate.p.y = f->fused ? f->h : (void *)f->parts[0];
    f->up.p.y = f->parts[1];
    f->gate.p.y8 = f->down.p.x8 = f->h8;
    f->down.p.x = f->h;
    f->down.p.y = f->y;
}

static void take_all(void *arg, gqmm_layout *l)
{
    plan *m = arg;
    const gqmm_moe_state *s = m->s;
    int64_t logits = 0;
    l->overflow = l->overflow || !gqmm_mul(&logits, s->d.router ? s->n_tokens : 0, s->n_experts);
    l->overflow = l->overflow || !gqmm_mul(&logits, logits, m->parts > 1 ? m->parts : 1);
    m->logits = gqmm_take(l, logits, sizeof *m->logits);
    m->dot = gqmm_take(l, s->d.shared_scale ? s->n_tokens : 0, sizeof *m->dot);
    m->ids = gqmm_take(l, s->n_pairs, sizeof *m->ids);
    m->weights = gqmm_take(l, s->n_pairs, sizeof *m->weights);
    m->ids = s->d.ids ? s->d.ids : m->ids;
    m->weights = s->d.weights ? s->d.weights : m->weights;
    take_ffn(m, &m->routed, &s->routed, l);
    if (s->d.shared_gate)
        take_ffn(m, &m->shared, &s->shared, l);
    m->router.p.y = m->logits;
    m->shared_dot.p.y = m->dot;
    m->routed.gate.p.rhs = m->routed.up.p.rhs = m->routed.down.p.rhs = m->ids;
}

static gqmm_status run_ffn(const plan *m, const ffn *f, const gqmm_ffn *w, gqmm_error *err)
{
    const gqmm_cuda_state *c = gqmm_cuda_of(m->ctx);
    gqmm_status st = gqmm_cuda_sort_call(m->ctx, &f->gate, err);
    if (st != GQMM_OK || (st = gqmm_cuda_run_call(m->ctx, &f->gate, err)) != GQMM_OK)
        return st;
    if (!f->fused) {
        if ((st = gqmm_cuda_run_call(m->ctx, &f->up, err)) != GQMM_OK)
            return st;
        st = gqmm_cuda_status(gqmm_cuda_silu(f->h, m->s->d.x_type, f->parts[0], f->parts[1],
                                             w->rows * w->width, c->path, c->stream),
                              "SwiGLU", err);
        if (st != GQMM_OK)
            return st;
    }
    return m->summed && f == &m->routed ? GQMM_OK : gqmm_cuda_run_call(m->ctx, &f->down, err);
}

static gqmm_cuda_sum sum_of(const plan *m)
{
    const gqmm_moe_state *s = m->s;
    return (gqmm_cuda_sum){.w = m->routed.down.p.w,
                           .ids = m->ids,
                           .weights = m->weights,
                           .h = m->routed.h,
                           .shared = s->d.shared_gate ? m->shared.y : NULL,
                           .shared_dot = s->d.shared_scale ? m->dot : NULL,
                           .y = s->d.y,
                           .y_row = s->d.y_row_stride,
                           .n_tokens = s->n_tokens,
                           .y_type = s->d.y_type,
                           .n_slots = (int32_t)s->n_slots};
}

static gqmm_cuda_topk choice_of(const plan *m)
{
    const gqmm_moe_state *s = m->s;
    return (gqmm_cuda_topk){.logits = m->logits,
                            .bias = s->rule.bias,
                            .ids = m->ids,
                            .weights = m->weights,
                            .n_tokens = s->n_tokens,
                            .n_experts = (int32_t)s->n_experts,
                            .n_slots = (int32_t)s->n_slots,
                            .scoring = s->rule.scoring,
                            .renormalize = s->rule.renormalize,
                            .routed_scale = s->rule.scale};
}

/* Gate and up of one token, or down with the sum. */
static gqmm_cuda_few few_of(const plan *m, bool down)
{
    const gqmm_moe_state *s = m->s;
    const gqmm_cuda_product *p = down ? &m->routed.down.p : &m->routed.gate.p;
    gqmm_cuda_few few = {.choice = choice_of(m),
                         .w = p->w,
                         .up = p->up,
                         .x = s->d.x,
                         .x_row = s->d.x_row_stride,
                         .h = m->routed.h,
                         .shared = s->d.shared_gate ? m->shared.y : NULL,
                         .shared_dot = s->d.shared_scale ? m->dot : NULL,
                         .y = s->d.y,
                         .y_row = s->d.y_row_stride,
                         .y_type = s->d.y_type,
                         .fault = p->fault};
    few.w.n_rows = p->n; /* gate's matrix may hold up's rows as well */
    if (!s->d.router)
        few.choice.logits = NULL;
    return few;
}

static bool few_fits(const plan *m)
{
    const gqmm_cuda_few gate = few_of(m, false), down = few_of(m, true);
    const int path = gqmm_cuda_of(m->ctx)->path;
    return m->s->d.x_type == GQMM_BF16 && m->routed.fused &&
           m->routed.gate.family->few_fits(&gate, path) &&
           m->routed.down.family->few_fits(&down, path);
}

static gqmm_status run_few(const plan *m, gqmm_error *err)
{
    const gqmm_cuda_state *c = gqmm_cuda_of(m->ctx);
    const gqmm_cuda_few gate = few_of(m, false), down = few_of(m, true);
    const gqmm_status st = gqmm_cuda_status(m->routed.gate.family->few(&gate, c->path, c->stream),
                                            "enqueuing gate and up", err);
    return st != GQMM_OK ? st
                         : gqmm_cuda_status(m->routed.down.family->few(&down, c->path, c->stream),
                                            "enqueuing down", err);
}

static gqmm_cuda_router router_of(const plan *m)
{
    const gqmm_moe_state *s = m->s;
    const gqmm_weights *w = s->d.router;
    return (gqmm_cuda_router){.w = w->plane[0],
                              .w_row = w->row_stride[0],
                              .w_type = gqmm_cuda_lasts(w) ? -1 : gqmm_element_type(w->format),
                              .x = s->d.x,
                              .x_row = s->d.x_row_stride,
                              .x_type = s->d.x_type,
                              .k = s->width,
                              .choice = choice_of(m),
                              .parts = m->parts};
}

static gqmm_status run_routing(const plan *m, gqmm_error *err)
{
    const gqmm_cuda_state *c = gqmm_cuda_of(m->ctx);
    const gqmm_cuda_router r = router_of(m);
    gqmm_cuda_topk t = r.choice;
    gqmm_status st;
    if (m->parts > 0 && gqmm_cuda_router_fits(&r, c->path)) {
        t.n_parts = m->parts;
        st = gqmm_cuda_status(gqmm_cuda_route(&r, c->path, c->stream), "routing", err);
    } else {
        st = gqmm_cuda_run_call(m->ctx, &m->router, err);
    }
    return st != GQMM_OK || m->few ? st
                                   : gqmm_cuda_status(gqmm_cuda_choose(&t, c->path, c->stream),
                                                      "choosing experts", err);
}

static gqmm_status run_all(const plan *m, gqmm_error *err)
{
    const gqmm_moe_state *s = m->s;
    const gqmm_cuda_state *c = gqmm_cuda_of(m->ctx);
    gqmm_status st = GQMM_OK;
    if (s->d.shared_scale)
        st = gqmm_cuda_run_call(m->ctx, &m->shared_dot, err);
    if (st == GQMM_OK && s->d.shared_gate)
        st = run_ffn(m, &m->shared, &s->shared, err);
    if (st == GQMM_OK && s->d.router)
        st = run_routing(m, err);
    if (st == GQMM_OK && m->few)
        return run_few(m, err);
    if (st == GQMM_OK)
        st = run_ffn(m, &m->routed, &s->routed, err);
    if (st != GQMM_OK)
        return st;
    if (m->summed) {
        const gqmm_cuda_sum few = sum_of(m);
        return gqmm_cuda_status(m->routed.down.family->sum(&few, c->path, c->stream),
                                "enqueuing down", err);
    }
    const gqmm_cuda_combine sum = {.pairs = m->routed.y,
                                   .pairs_type = m->pairs_type,
                                   .y_type = s->d.y_type,
                                   .ids = m->ids,
                                   .weights = m->weights,
                                   .shared = s->d.shared_gate ? m->shared.y : NULL,
                                   .shared_dot = s->d.shared_scale ? m->dot : NULL,
                                   .y = s->d.y,
                                   .y_row = s->d.y_row_stride,
                                   .n_tokens = s->n_tokens,
                                   .d = s->width,
                                   .n_slots = (int32_t)s->n_slots,
                                   .n_experts = (int32_t)s->n_experts};
    return gqmm_cuda_status(gqmm_cuda_add_up(&sum, c->path, c->stream), "adding up", err);
}

static gqmm_status check_pointers(const gqmm_moe_desc *d, gqmm_error *err)
{
    gqmm_status st;
    if ((st = gqmm_cuda_check_pointer("y", d->y, err)) != GQMM_OK ||
        (st = gqmm_cuda_check_pointer("x", d->x, err)) != GQMM_OK ||
        (st = gqmm_cuda_check_pointer("ids", d->ids, err)) != GQMM_OK ||
        (st = gqmm_cuda_check_pointer("weights", d->weights, err)) != GQMM_OK ||
        (st = gqmm_cuda_check_pointer("workspace", d->workspace, err)) != GQMM_OK)
        return st;
    return gqmm_cuda_check_pointer("router_bias", d->router_bias, err);
}

gqmm_status gqmm_moe_on_cuda(gqmm_context *ctx, const gqmm_moe_state *s, bool run, size_t *bytes,
                             gqmm_error *err)
{
    plan m = {.s = s, .ctx = ctx};
    gqmm_status st;
    if (s->n_pairs > INT32_MAX)
        return gqmm_fail(err, GQMM_E_SHAPE, 0, "%" PRId64 " pairs exceed the 2^31 of one CUDA call",
                         s->n_pairs);
    plan_ffn(&m, &m.routed, &s->routed, true);
    if (s->d.shared_gate)
        plan_ffn(&m, &m.shared, &s->shared, false);
    m.pairs_type = s->n_pairs <= MOST_FP32_PAIRS && !m.routed.down.wide ? GQMM_F32 : s->d.x_type;
    m.routed.down.p.y_type = m.shared.down.p.y_type = m.pairs_type;
    if (s->d.router) {
        m.router = dense_call(&m, s->d.router, s->n_experts, s->width);
        gqmm_cuda_plan_as(&m.router, GQMM_CUDA_PRODUCT); /* its weights are never rounded */
        if (s->n_slots <= 32 && s->n_experts <= 1024) {  /* choosing adds up no more */
            const gqmm_cuda_router r = router_of(&m);
            m.parts = gqmm_cuda_router_parts(&r, gqmm_cuda_of(ctx)->path);
        }
    }
    if (s->d.shared_scale) {
        m.shared_dot = dense_call(&m, s->d.shared_scale, 1, s->width);
        gqmm_cuda_plan_as(&m.shared_dot, GQMM_CUDA_PRODUCT);
    }
    const gqmm_cuda_sum few = sum_of(&m);
    m.summed = s->d.x_type == GQMM_BF16 && !m.routed.down.wide && /* h as it lies */
               m.routed.down.family->sum_fits(&few, gqmm_cuda_of(ctx)->path);
    m.few = few_fits(&m);
    if ((st = gqmm_cuda_check_experts(ctx, &m.routed.gate, err)) != GQMM_OK)
        return st;
    st = gqmm_lay_out(ctx, take_all, &m, run, s->d.workspace, s->d.workspace_bytes, bytes, err);
    if (st != GQMM_OK || !run || s->n_tokens == 0 || (st = check_pointers(&s->d, err)) != GQMM_OK)
        return st;
    const char *how = m.routed.gate.int8 ? " int8" : m.routed.gate.wide ? " wide" : "";
    snprintf(ctx->explain, sizeof ctx->explain,
             "moe gate %s, down %s, %s%s: %" PRId64 " tokens, %" PRId64 " of %" PRId64
             " experts, %" PRId64 " x %" PRId64 ", %zu bytes of workspace",
             s->d.gate->format->pub.name, s->d.down->format->pub.name, gqmm_weights_isa(s->d.gate),
             how, s->n_tokens, s->n_slots, s->n_experts, s->width, s->routed.width, *bytes);
    return run_all(&m, err);
}
