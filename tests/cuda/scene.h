/* SPDX-License-Identifier: MIT */
/* One operation of each kind on buffers that stay where they are, with inputs that take turns. */
#ifndef TESTS_CUDA_SCENE_H
#define TESTS_CUDA_SCENE_H

#include "device_memory.h"

enum { EXPERTS = 8, SETS = 3 };
enum { GATHER, QMM, MOE_ROUTED, MOE_GIVEN, EMBED, DEQUANTIZE, QUANTIZE, OPS };
static const char *const op_names[OPS] = {"gather", "qmm",        "moe routed", "moe given",
                                          "embed",  "dequantize", "quantize"};

/* A layer's sizes and how activations enter its products. */
typedef struct sizes {
    int64_t experts, d, f;
    int32_t slots, precision;
} sizes;
static const sizes small = {.experts = EXPERTS, .d = 256, .f = 256, .slots = 2};

/* One operation with its buffers, and three sets of inputs that take turns in them. */
typedef struct scene {
    int op;
    sizes of;
    int64_t tokens;
    int32_t type;
    planes gate, up, down, router;
    span x, ids, weights, y, work;
    span set_x[SETS], set_ids[SETS], set_weights[SETS], result[SETS];
    uint8_t *want[SETS];
} scene;

static void scene_free(scene *s)
{
    planes *const w[] = {&s->gate, &s->up, &s->down, &s->router};
    span *const one[] = {&s->x, &s->ids, &s->weights, &s->y, &s->work};
    for (int i = 0; i < COUNT(w); i++)
        planes_free(w[i]);
    for (int i = 0; i < COUNT(one); i++)
        span_free(one[i]);
    for (int i = 0; i < SETS; i++) {
        span_free(&s->set_x[i]);
        span_free(&s->set_ids[i]);
        span_free(&s->set_weights[i]);
        span_free(&s->result[i]);
        free(s->want[i]);
    }
}

/* ------------------------------------------------------------------ making */

/* Rows of a matrix that are different: quantisers take their time. */
enum { DIFFERENT = 509 };

/* Gaussian weights of ordinary size through the format's quantiser. */
static bool matrix(planes *p, const char *format, int64_t e, int64_t rows, int64_t cols)
{
    stack s = stack_make(NULL, format, e, rows, cols, (stack_how){0});
    float w[GQMM_MAX_BLOCK];
    const int block = s.f->pub.block_elems;
    for (int64_t r = 0; r < e * rows; r++) {
        uint8_t *at[3], *from[3];
        stack_row(&s, r / rows, r % rows, at);
        if (r >= DIFFERENT) {
            stack_row(&s, r % DIFFERENT / rows, r % DIFFERENT % rows, from);
            for (int i = 0; i < s.f->pub.n_planes; i++)
                memcpy(at[i], from[i], (size_t)gqmm_format_row_bytes(&s.f->pub, i, cols));
            continue;
        }
        for (int64_t k = 0; k < cols; k += block) {
            for (int i = 0; i < block; i++)
                w[i] = rnd_gauss() / sqrtf((float)cols);
            s.f->quantize(s.f, at, w, NULL, 0.0f, GQMM_F32);
            for (int i = 0; i < s.f->pub.n_planes; i++)
                at[i] += s.f->pub.plane_bytes[i];
        }
    }
    const bool ok = planes_make(p, &s, false);
    stack_free(&s);
    return ok;
}

static int64_t pairs_of(const scene *s)
{
    return s->op == QMM || s->op == EMBED || s->op == DEQUANTIZE || s->op == QUANTIZE
               ? s->tokens
               : s->tokens * s->of.slots;
}

static int64_t y_bytes(const scene *s)
{
    const int64_t size = (int64_t)gqmm_type_size(s->type);
    if (s->op == QUANTIZE)
        return s->tokens * gqmm_format_row_bytes(gqmm_format_find("q8_0"), 0, s->of.d);
    if (s->op == GATHER || s->op == QMM)
        return pairs_of(s) * s->of.f * size;
    return s->tokens * s->of.d * size;
}

/* Set 0 is what is captured; set 1 has other contents; of set 2 only half the tokens are there: the
 * ids of the others are -1. */
static bool make_set(scene *s, int i)
{
    const int64_t n = pairs_of(s), size = (int64_t)gqmm_type_size(s->type);
    const int64_t limit = s->op == EMBED ? s->of.f : s->of.experts;
    if (!span_make(&s->set_x[i], s->tokens * s->of.d * size, 0) ||
        !span_make(&s->set_ids[i], 4 * n, 0) || !span_make(&s->set_weights[i], 4 * n, 0) ||
        !span_make(&s->result[i], y_bytes(s), 0))
        return false;
    for (int64_t k = 0; k < s->tokens * s->of.d; k++)
        set_element(span_image(&s->set_x[i]), s->type, k, rnd_gauss());
    for (int64_t p = 0; p < n; p++) {
        int32_t id = (int32_t)rnd_below(limit);
        if (i == 2 && p >= n / 2)
            id = -1;
        memcpy(span_image(&s->set_ids[i]) + 4 * p, &id, 4);
        set_element(span_image(&s->set_weights[i]), GQMM_F32, p, rnd_gauss());
    }
    return span_put(&s->set_x[i]) && span_put(&s->set_ids[i]) && span_put(&s->set_weights[i]) &&
           span_blank(&s->result[i]);
}

static bool scene_of(scene *s, sizes of, int op, const char *format, int64_t tokens, int32_t type)
{
    *s = (scene){.op = op, .of = of, .tokens = tokens, .type = type};
    const int64_t size = (int64_t)gqmm_type_size(type), n = pairs_of(s);
    const int64_t e = of.experts, d = of.d, f = of.f;
    bool ok = matrix(&s->gate, format, e, f, d) && span_make(&s->x, tokens * d * size, 0) &&
              span_make(&s->ids, 4 * n, 0) && span_make(&s->weights, 4 * n, 0) &&
              span_make(&s->y, y_bytes(s), 0);
    if (ok && (op == MOE_ROUTED || op == MOE_GIVEN))
        ok = matrix(&s->up, format, e, f, d) && matrix(&s->down, format, e, d, f);
    if (ok && op == MOE_ROUTED)
        ok = matrix(&s->router, "f32", 1, e, d);
    for (int i = 0; ok && i < SETS; i++)
        ok = make_set(s, i);
    return ok;
}

static bool scene_make(scene *s, int op, const char *format, int64_t tokens, int32_t type)
{
    return scene_of(s, small, op, format, tokens, type);
}

/* ------------------------------------------------------------------ the calls */

static const int32_t *ids_of(const scene *s)
{
    return (const int32_t *)(const void *)span_at(&s->ids);
}

static gqmm_moe_desc moe_of(const scene *s)
{
    gqmm_moe_desc d;
    GQMM_INIT(d);
    d.gate = s->gate.w, d.up = s->up.w, d.down = s->down.w, d.router = s->router.w;
    d.n_tokens = s->tokens;
    d.n_slots = s->of.slots;
    d.precision = s->of.precision;
    d.renormalize = 1;
    d.x_type = d.y_type = s->type;
    d.y = span_at(&s->y);
    d.x = span_at(&s->x);
    d.ids = (int32_t *)(void *)span_at(&s->ids);
    d.weights = (float *)(void *)span_at(&s->weights);
    d.workspace = span_at(&s->work);
    d.workspace_bytes = s->work.bytes;
    return d;
}

static gqmm_gather gather_of(const scene *s)
{
    gqmm_gather d;
    GQMM_INIT(d);
    d.w = s->gate.w;
    d.transpose = 1;
    d.precision = s->of.precision;
    d.n_pairs = pairs_of(s);
    d.n_x = s->tokens;
    d.x_type = d.y_type = s->type;
    d.y = span_at(&s->y);
    d.x = span_at(&s->x);
    d.lhs = d.rhs = ids_of(s); /* lhs are below the experts: as many tokens have them */
    d.workspace = span_at(&s->work);
    d.workspace_bytes = s->work.bytes;
    return d;
}

static gqmm_dense dense_of(const scene *s)
{
    gqmm_dense d;
    GQMM_INIT(d);
    d.w = s->gate.w;
    d.expert = s->of.experts - 1;
    d.precision = s->of.precision;
    d.transpose = 1;
    d.m = s->tokens;
    d.x_type = d.y_type = s->type;
    d.y = span_at(&s->y);
    d.x = span_at(&s->x);
    d.workspace = span_at(&s->work);
    d.workspace_bytes = s->work.bytes;
    return d;
}

static gqmm_status call_rows(const scene *s)
{
    gqmm_embed_desc e;
    gqmm_dequantize_desc q;
    gqmm_quantize_desc r;
    GQMM_INIT(e);
    GQMM_INIT(q);
    GQMM_INIT(r);
    e.y_type = q.y_type = r.x_type = s->type;
    e.w = q.w = s->gate.w;
    e.n_ids = q.n_rows = r.n_rows = s->tokens;
    e.ids = ids_of(s);
    q.first_row = 5;
    e.y = q.y = r.plane[0] = span_at(&s->y);
    r.format = "q8_0";
    r.x = span_at(&s->x);
    r.n_cols = s->of.d;
    return s->op == EMBED        ? gqmm_embed(on.ctx, &e, &fault)
           : s->op == DEQUANTIZE ? gqmm_dequantize(on.ctx, &q, &fault)
                                 : gqmm_quantize(on.ctx, &r, &fault);
}

static bool enqueue(const scene *s)
{
    const gqmm_moe_desc m = moe_of(s);
    const gqmm_gather g = gather_of(s);
    const gqmm_dense d = dense_of(s);
    on.calls++;
    return step(s->op == GATHER  ? gqmm_gather_qmm(on.ctx, &g, &fault)
                : s->op == QMM   ? gqmm_qmm(on.ctx, &d, &fault)
                : s->op >= EMBED ? call_rows(s)
                                 : gqmm_moe(on.ctx, &m, &fault));
}

static bool make_workspace(scene *s)
{
    const gqmm_moe_desc m = moe_of(s);
    const gqmm_gather g = gather_of(s);
    const gqmm_dense d = dense_of(s);
    size_t bytes = 0;
    if (s->op >= EMBED)
        return true;
    const bool ok =
        s->op == GATHER ? step(gqmm_workspace_size(on.ctx, GQMM_OP_GATHER_QMM, &g, &bytes, &fault))
        : s->op == QMM  ? step(gqmm_workspace_size(on.ctx, GQMM_OP_QMM, &d, &bytes, &fault))
                        : step(gqmm_workspace_size(on.ctx, GQMM_OP_MOE, &m, &bytes, &fault));
    return ok && span_make(&s->work, (int64_t)bytes, 0) && span_blank(&s->work);
}

#endif
