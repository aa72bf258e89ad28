/* SPDX-License-Identifier: MIT */
/* Qwen3 MoE: grouped-query attention with normed heads, then softmax top-k experts.
 *
 *   x += Wo attention(rope(norm(Wq n)), rope(norm(Wk n)), Wv n),   n = norm(x)
 *   x += moe(norm(x))
 *
 * Weights of the chosen experts always add up to 1 in this architecture; no key says so. */
#include "base/num.h"
#include "base/status.h"
#include "model/remote.h"

#include <math.h>

typedef struct layer_weights {
    float *attn_norm, *q_norm, *k_norm, *ffn_norm;
    gqmm_linear q, k, v, out;
    gqmm_linear qkv, qk; /* on a device: those of one format as one matrix, the larger of the two */
    gqmm_linear router, gate, up, down; /* up.w NULL: gate holds both, gate rows first */
} layer_weights;

/* Keys and values stay f32. Rounding them to f16 would halve the cache, but moved a logit of the
 * tests' tiny model by 1.1e-3, past the 1e-3 that we keep to transformers. */
typedef struct qwen3moe_state {
    gqmm_kv all;    /* of all layers, one behind the other */
    float *q;       /* [batch, n_heads, head_dim] */
    float *k, *v;   /* [batch, n_kv_heads, head_dim] of the new tokens */
    int64_t stride; /* on a device: from token to token in q, k and v, which lie side by side */
    float *seen;    /* as q: what attention saw */
    float *scratch; /* of attention */
} qwen3moe_state;

static void load_layer(gqmm_loader *l, layer_weights *w, int32_t i)
{
    const gqmm_hparams *hp = &l->model->hp;
    const int64_t d = hp->n_embd, e = hp->n_experts, f = hp->n_ff;
    const int64_t q = (int64_t)hp->n_heads * hp->head_dim;
    const int64_t kv = (int64_t)hp->n_kv_heads * hp->head_dim;
    gqmm_load_vector(l, &w->attn_norm, i, "attn_norm.weight", d);
    const gqmm_linear *const parts[] = {&w->q, &w->k, &w->v};
    const int64_t used = l->model->remote_used;
    gqmm_load_matrix(l, &w->q, i, "attn_q.weight", d, q, 1);
    gqmm_load_matrix(l, &w->k, i, "attn_k.weight", d, kv, 1);
    gqmm_remote_join(l, &w->qk, used, parts, 2, q + kv, d);
    gqmm_load_matrix(l, &w->v, i, "attn_v.weight", d, kv, 1);
    gqmm_remote_join(l, &w->qkv, used, parts, 3, q + 2 * kv, d);
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

/* The numbers of tokens that workspace is asked for. A device's kernels change with the size of a
 * batch, and a smaller one may need more: there, all small ones and then steps of a sixteenth. */
static int64_t next_size(const gqmm_session *s, int64_t n)
{
    const int64_t next = n < 256 ? n + 1 : n + n / 16;
    return s->remote && next < s->batch ? next : s->batch;
}

static gqmm_status reserve(gqmm_session *s, const layer_weights *w, gqmm_error *err)
{
    const gqmm_linear *const dense[] = {&w->q, &w->k, &w->v, &w->out, &w->qk, &w->qkv};
    gqmm_status status = GQMM_OK;
    for (int32_t i = 0; i < 6 && !status; i++)
        if (dense[i]->w)
            status = gqmm_session_reserve(s, dense[i], err);
    for (int64_t n = 1; !status; n = next_size(s, n)) {
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
    st->all = (gqmm_kv){.length = s->remote ? &s->remote->step->length : NULL,
                        .capacity = gqmm_kv_round(s->max_tokens),
                        .n_kv_heads = hp->n_kv_heads,
                        .head_dim = hp->head_dim};
    if (!gqmm_mul(&rows, hp->n_layers, st->all.capacity) || !gqmm_mul(&cache, rows, kv))
        cache = INT64_MAX;
    st->all.k = gqmm_session_buffer(s, cache, sizeof *st->all.k);
    st->all.v = st->all.k ? gqmm_session_buffer(s, cache, sizeof *st->all.v) : NULL;
    if (!st->all.v)
        return gqmm_fail(err, GQMM_E_NOMEM, 0,
                         "no memory for the cache of %lld tokens (%lld bytes each)",
                         (long long)s->max_tokens, (long long)(hp->n_layers * kv * 8));
    st->stride = s->remote ? q + 2 * kv : 0;
    st->q = gqmm_session_buffer(s, s->batch * (s->remote ? st->stride : q), sizeof *st->q);
    if (!s->remote) {
        st->k = gqmm_session_buffer(s, s->batch * kv, sizeof *st->k);
        st->v = gqmm_session_buffer(s, s->batch * kv, sizeof *st->v);
    } else if (st->q) {
        st->k = st->q + q;
        st->v = st->k + kv;
    }
    st->seen = gqmm_session_buffer(s, s->batch * q, sizeof *st->seen);
    const int64_t sums = s->model->ops->attend_scratch(s->max_tokens, hp->n_heads, hp->head_dim);
    st->scratch = gqmm_session_buffer(s, sums, sizeof *st->scratch);
    if (!st->q || !st->k || !st->v || !st->seen || !st->scratch)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for batches of %lld tokens",
                         (long long)s->batch);
    for (int32_t i = 0; i < hp->n_layers; i++) {
        const gqmm_status status = reserve(s, &layers[i], err);
        if (status)
            return status;
    }
    return GQMM_OK;
}

static gqmm_kv cache_of(const gqmm_session *s, int32_t layer)
{
    const qwen3moe_state *st = s->state;
    const int64_t at = layer * st->all.capacity * st->all.n_kv_heads * st->all.head_dim;
    gqmm_kv kv = st->all;
    kv.k += at;
    kv.v += at;
    return kv;
}

/* Queries, keys and values of the normed input, in as few products as there are. */
static gqmm_status project_all(gqmm_session *s, const layer_weights *w, int64_t n, gqmm_error *err)
{
    const qwen3moe_state *st = s->state;
    const gqmm_linear *const joined = w->qkv.w ? &w->qkv : w->qk.w ? &w->qk : &w->q;
    gqmm_status status = gqmm_session_qmm_into(s, st->q, st->stride, joined, s->h, n, err);
    if (!status && joined == &w->q)
        status = gqmm_session_qmm_into(s, st->k, st->stride, &w->k, s->h, n, err);
    if (!status && joined != &w->qkv)
        status = gqmm_session_qmm_into(s, st->v, st->stride, &w->v, s->h, n, err);
    return status;
}

/* Queries into st->q, keys and values into the cache. */
static gqmm_status project(gqmm_session *s, const layer_weights *w, const gqmm_kv *kv, int64_t n,
                           gqmm_error *err)
{
    const gqmm_hparams *hp = &s->model->hp;
    const gqmm_ops *ops = s->model->ops;
    gqmm_context *ctx = s->model->ctx;
    const qwen3moe_state *st = s->state;
    const gqmm_status status = project_all(s, w, n, err);
    if (status)
        return status;
    gqmm_session_lap(s, GQMM_PART_PROJECTIONS);
    gqmm_head_norm_rope heads = {.x = st->q,
                                 .weight = w->q_norm,
                                 .table = s->rope,
                                 .eps = hp->rms_eps,
                                 .n_heads = hp->n_heads,
                                 .head_dim = hp->head_dim,
                                 .n_rot = hp->n_rot,
                                 .n_rows = n,
                                 .stride = st->stride};
    gqmm_head_norm_rope keys = heads;
    keys.x = st->k;
    keys.weight = w->k_norm;
    keys.n_heads = hp->n_kv_heads;
    if (ops->remote) {
        ops->remote->heads(ctx, &heads, &keys, kv, st->v);
        return GQMM_OK;
    }
    ops->norm_rope(ctx, &heads);
    ops->norm_rope(ctx, &keys);
    gqmm_session_lap(s, GQMM_PART_NORMS);
    ops->store(ctx, kv, st->k, st->v, s->length, n);
    return GQMM_OK;
}

/* s->y = what attention adds to the residual stream; s->h holds the normed input. */
static gqmm_status attention(gqmm_session *s, const layer_weights *w, int32_t layer, int64_t n,
                             gqmm_error *err)
{
    const gqmm_hparams *hp = &s->model->hp;
    const qwen3moe_state *st = s->state;
    const gqmm_kv kv = cache_of(s, layer);
    gqmm_status status = project(s, w, &kv, n, err);
    if (status)
        return status;
    s->model->ops->attend(s->model->ctx,
                          &(gqmm_attention){.y = st->seen,
                                            .q = st->q,
                                            .kv = kv,
                                            .scratch = st->scratch,
                                            .first = s->length,
                                            .n_tokens = n,
                                            .q_stride = st->stride,
                                            .n_heads = hp->n_heads,
                                            .scale = 1.0f / sqrtf((float)hp->head_dim)});
    gqmm_session_lap(s, GQMM_PART_ATTENTION);
    status = gqmm_session_qmm(s, s->y, &w->out, st->seen, n, err);
    gqmm_session_lap(s, GQMM_PART_PROJECTIONS);
    return status;
}

static gqmm_status run_layer(gqmm_session *s, int32_t layer, int64_t n, gqmm_error *err)
{
    const gqmm_hparams *hp = &s->model->hp;
    const gqmm_ops *ops = s->model->ops;
    gqmm_context *ctx = s->model->ctx;
    const layer_weights *w = (const layer_weights *)s->model->layers + layer;
    gqmm_moe_desc moe;
    ops->norm(ctx, s->h, s->x, s->due, w->attn_norm, hp->rms_eps, n, hp->n_embd);
    s->due = NULL;
    gqmm_session_lap(s, GQMM_PART_NORMS);
    gqmm_status status = attention(s, w, layer, n, err);
    if (status)
        return status;
    ops->norm(ctx, s->h, s->x, s->y, w->ffn_norm, hp->rms_eps, n, hp->n_embd);
    gqmm_session_lap(s, GQMM_PART_NORMS);
    describe_moe(s, w, n, &moe);
    status = gqmm_moe(ctx, &moe, err);
    gqmm_session_lap(s, GQMM_PART_EXPERTS);
    s->due = s->y;
    return status;
}

const gqmm_arch gqmm_arch_qwen3moe = {
    .name = "qwen3moe",
    .load = load,
    .open = open_session,
    .layer = run_layer,
};
