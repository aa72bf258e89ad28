/* SPDX-License-Identifier: MIT */
/* Qwen3 MoE: grouped-query attention with normed heads, then softmax top-k experts.
 *
 *   x += Wo attention(rope(norm(Wq n)), rope(norm(Wk n)), Wv n),   n = norm(x)
 *   x += moe(norm(x))
 *
 * Weights of the chosen experts always add up to 1 in this architecture; no key says so. */
#include "base/num.h"
#include "base/status.h"
#include "model/ops.h"
#include "model/weights.h"

#include <math.h>

typedef struct layer_weights {
    float *attn_norm, *q_norm, *k_norm, *ffn_norm;
    gqmm_linear q, k, v, out;
    gqmm_linear router, gate, up, down; /* up.w NULL: gate holds both, gate rows first */
} layer_weights;

/* Keys and values stay f32. Rounding them to f16 would halve the cache, but moved a logit of the
 * tests' tiny model by 1.1e-3, past the 1e-3 that we keep to transformers. */
typedef struct qwen3moe_state {
    float *k, *v; /* [n_layers, max_tokens, n_kv_heads, head_dim] */
    float *q;     /* [batch, n_heads, head_dim] */
    float *seen;  /* the same: what attention saw */
} qwen3moe_state;

static void load_layer(gqmm_loader *l, layer_weights *w, int32_t i)
{
    const gqmm_hparams *hp = &l->model->hp;
    const int64_t d = hp->n_embd, e = hp->n_experts, f = hp->n_ff;
    const int64_t q = (int64_t)hp->n_heads * hp->head_dim;
    const int64_t kv = (int64_t)hp->n_kv_heads * hp->head_dim;
    gqmm_load_vector(l, &w->attn_norm, i, "attn_norm.weight", d);
    gqmm_load_matrix(l, &w->q, i, "attn_q.weight", d, q, 1);
    gqmm_load_matrix(l, &w->k, i, "attn_k.weight", d, kv, 1);
    gqmm_load_matrix(l, &w->v, i, "attn_v.weight", d, kv, 1);
    gqmm_load_vector(l, &w->q_norm, i, "attn_q_norm.weight", hp->head_dim);
    gqmm_load_vector(l, &w->k_norm, i, "attn_k_norm.weight", hp->head_dim);
    gqmm_load_matrix(l, &w->out, i, "attn_output.weight", q, d, 1);
    gqmm_load_vector(l, &w->ffn_norm, i, "ffn_norm.weight", d);
    gqmm_load_float_matrix(l, &w->router, i, "ffn_gate_inp.weight", d, e);
    if (gqmm_find_tensor(l, i, "ffn_gate_up_exps.weight")) {
        gqmm_load_matrix(l, &w->gate, i, "ffn_gate_up_exps.weight", d, 2 * f, e);
    } else {
        gqmm_load_matrix(l, &w->gate, i, "ffn_gate_exps.weight", d, f, e);
        gqmm_load_matrix(l, &w->up, i, "ffn_up_exps.weight", d, f, e);
    }
    gqmm_load_matrix(l, &w->down, i, "ffn_down_exps.weight", f, d, e);
}

static gqmm_status load(gqmm_loader *l)
{
    gqmm_model *m = l->model;
    int32_t gating = 0;
    gqmm_load_hparams(l);
    /* 1 is softmax, 0 "not said"; this architecture knows nothing else. */
    gqmm_load_int(l, &gating, "expert_gating_func", 0, 1, 0);
    if (l->status)
        return l->status;
    layer_weights *layers = gqmm_arena_zero(&m->arena, m->hp.n_layers, sizeof *layers);
    if (!layers)
        return gqmm_fail(l->err, GQMM_E_NOMEM, 0, "no memory for %d layers", m->hp.n_layers);
    m->layers = layers;
    for (int32_t i = 0; i < m->hp.n_layers && !l->status; i++)
        load_layer(l, &layers[i], i);
    return l->status;
}

/* One precision holds for the whole block: int8 only where all three products are quantised. */
static void describe_moe(const gqmm_session *s, const layer_weights *w, int64_t n, gqmm_moe_desc *d)
{
    const gqmm_hparams *hp = &s->model->hp;
    const int32_t int8 = w->gate.precision == GQMM_INT8 && w->down.precision == GQMM_INT8 &&
                         (!w->up.w || w->up.precision == GQMM_INT8);
    GQMM_INIT(*d);
    d->precision = int8 ? GQMM_INT8 : GQMM_EXACT;
    d->gate = w->gate.w;
    d->up = w->up.w;
    d->down = w->down.w;
    d->router = w->router.w;
    d->n_tokens = n;
    d->n_slots = hp->n_used;
    d->scoring = GQMM_SOFTMAX;
    d->renormalize = 1;
    d->routed_scale = hp->routed_scale;
    d->y_type = GQMM_F32;
    d->x_type = GQMM_F32;
    d->y = s->y;
    d->x = s->h;
    d->workspace = s->workspace;
    d->workspace_bytes = s->workspace_bytes;
}

static gqmm_status reserve(gqmm_session *s, const layer_weights *w, gqmm_error *err)
{
    const gqmm_linear *const dense[] = {&w->q, &w->k, &w->v, &w->out};
    gqmm_status status = GQMM_OK;
    for (int32_t i = 0; i < 4 && !status; i++)
        status = gqmm_session_reserve(s, dense[i], err);
    for (int64_t n = 1; !status; n = s->batch) {
        gqmm_moe_desc d;
        describe_moe(s, w, n, &d);
        status = gqmm_session_reserve_op(s, GQMM_OP_MOE, &d, err);
        if (n == s->batch)
            break;
    }
    return status;
}

static gqmm_status open_session(gqmm_session *s, gqmm_error *err)
{
    const gqmm_hparams *hp = &s->model->hp;
    const layer_weights *layers = s->model->layers;
    const int64_t q = (int64_t)hp->n_heads * hp->head_dim;
    const int64_t kv = (int64_t)hp->n_kv_heads * hp->head_dim;
    int64_t rows, cache;
    qwen3moe_state *st = gqmm_arena_zero(&s->arena, 1, sizeof *st);
    if (!st)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for the session");
    s->state = st;
    if (!gqmm_mul(&rows, hp->n_layers, s->max_tokens) || !gqmm_mul(&cache, rows, kv))
        cache = INT64_MAX;
    st->k = gqmm_arena_alloc(&s->arena, cache, sizeof *st->k);
    st->v = st->k ? gqmm_arena_alloc(&s->arena, cache, sizeof *st->v) : NULL;
    if (!st->v)
        return gqmm_fail(err, GQMM_E_NOMEM, 0,
                         "no memory for the cache of %lld tokens (%lld bytes each)",
                         (long long)s->max_tokens, (long long)(hp->n_layers * kv * 8));
    st->q = gqmm_arena_alloc(&s->arena, s->batch * q, sizeof *st->q);
    st->seen = st->q ? gqmm_arena_alloc(&s->arena, s->batch * q, sizeof *st->seen) : NULL;
    if (!st->seen)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for batches of %lld tokens",
                         (long long)s->batch);
    for (int32_t i = 0; i < hp->n_layers; i++) {
        const gqmm_status status = reserve(s, &layers[i], err);
        if (status)
            return status;
    }
    return GQMM_OK;
}

/* s->y = what attention adds to the residual stream; s->h holds the normed input. */
static gqmm_status attention(gqmm_session *s, const layer_weights *w, int32_t layer, int64_t n,
                             gqmm_error *err)
{
    const gqmm_hparams *hp = &s->model->hp;
    gqmm_context *ctx = s->model->ctx;
    const qwen3moe_state *st = s->state;
    const int64_t kv = (int64_t)hp->n_kv_heads * hp->head_dim;
    float *k = st->k + layer * s->max_tokens * kv, *v = st->v + layer * s->max_tokens * kv;
    float *new_k = k + s->length * kv;
    gqmm_status status;
    if ((status = gqmm_session_qmm(s, st->q, &w->q, s->h, n, err)) != GQMM_OK ||
        (status = gqmm_session_qmm(s, new_k, &w->k, s->h, n, err)) != GQMM_OK ||
        (status = gqmm_session_qmm(s, v + s->length * kv, &w->v, s->h, n, err)) != GQMM_OK)
        return status;
    gqmm_head_norm_rope heads = {.x = st->q,
                                 .weight = w->q_norm,
                                 .table = s->rope,
                                 .eps = hp->rms_eps,
                                 .n_heads = hp->n_heads,
                                 .head_dim = hp->head_dim,
                                 .n_rot = hp->n_rot,
                                 .n_rows = n};
    gqmm_norm_rope(ctx, &heads);
    heads.x = new_k;
    heads.weight = w->k_norm;
    heads.n_heads = hp->n_kv_heads;
    gqmm_norm_rope(ctx, &heads);
    gqmm_attend(ctx, &(gqmm_attention){.y = st->seen,
                                       .q = st->q,
                                       .k = k,
                                       .v = v,
                                       .first = s->length,
                                       .n_tokens = n,
                                       .n_heads = hp->n_heads,
                                       .n_kv_heads = hp->n_kv_heads,
                                       .head_dim = hp->head_dim,
                                       .scale = 1.0f / sqrtf((float)hp->head_dim)});
    return gqmm_session_qmm(s, s->y, &w->out, st->seen, n, err);
}

static gqmm_status run_layer(gqmm_session *s, int32_t layer, int64_t n, gqmm_error *err)
{
    const gqmm_hparams *hp = &s->model->hp;
    gqmm_context *ctx = s->model->ctx;
    const layer_weights *w = (const layer_weights *)s->model->layers + layer;
    gqmm_moe_desc moe;
    gqmm_rms_norm(ctx, s->h, s->x, w->attn_norm, hp->rms_eps, n, hp->n_embd);
    gqmm_status status = attention(s, w, layer, n, err);
    if (status)
        return status;
    gqmm_add_rows(ctx, s->x, s->y, n, hp->n_embd);
    gqmm_rms_norm(ctx, s->h, s->x, w->ffn_norm, hp->rms_eps, n, hp->n_embd);
    describe_moe(s, w, n, &moe);
    status = gqmm_moe(ctx, &moe, err);
    if (status)
        return status;
    gqmm_add_rows(ctx, s->x, s->y, n, hp->n_embd);
    return GQMM_OK;
}

const gqmm_arch gqmm_arch_qwen3moe = {
    .name = "qwen3moe",
    .load = load,
    .open = open_session,
    .layer = run_layer,
};
