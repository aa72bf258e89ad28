/* SPDX-License-Identifier: MIT */
/* One call of every kind, with the bytes that one thread makes of it. */
#ifndef TESTS_THREAD_ITEMS_H
#define TESTS_THREAD_ITEMS_H

#include "harness.h"
#include "reference.h"

static gqmm_context *one; /* one thread: the reference */
static stack gate, up, down, router, s_gate, s_down, s_scale, wide;

enum { T = 37, D = 256, F = 128, E = 6, S = 3, G = 64 };
static float x[T * 2048];
static int32_t ids[T * S];

/* ------------------------------------------------------------------ one of every call */

typedef struct item {
    const char *name;
    int32_t op;
    union {
        gqmm_gather gather;
        gqmm_dense dense;
        gqmm_moe_desc moe;
        gqmm_embed_desc embed;
        gqmm_dequantize_desc dequantize;
        gqmm_quantize_desc quantize;
        gqmm_repack_desc repack;
    } d;
    size_t bytes[3]; /* of the outputs, one after another */
    uint8_t *want;
} item;

static item items[32];
static int n_items;
static size_t most_bytes; /* of the outputs of one item */

static size_t item_bytes(const item *it)
{
    return it->bytes[0] + it->bytes[1] + it->bytes[2];
}

/* Points the outputs of a copy at `out`. */
static item aimed(const item *it, uint8_t *out)
{
    item a = *it;
    uint8_t *p[3] = {out, out + a.bytes[0], out + a.bytes[0] + a.bytes[1]};
    switch (a.op) {
    case GQMM_OP_GATHER_QMM:
        a.d.gather.y = out;
        break;
    case GQMM_OP_QMM:
        a.d.dense.y = out;
        break;
    case GQMM_OP_MOE:
        a.d.moe.y = p[0];
        a.d.moe.ids = (int32_t *)(void *)p[1];
        a.d.moe.weights = (float *)(void *)p[2];
        break;
    case GQMM_OP_EMBED:
        a.d.embed.y = out;
        break;
    case GQMM_OP_DEQUANTIZE:
        a.d.dequantize.y = out;
        break;
    case GQMM_OP_QUANTIZE:
        memcpy(a.d.quantize.plane, p, sizeof p);
        break;
    default:
        memcpy(a.d.repack.plane, p, sizeof p);
        break;
    }
    return a;
}

static gqmm_status run(gqmm_context *ctx, const item *it)
{
    switch (it->op) {
    case GQMM_OP_GATHER_QMM:
        return gqmm_gather_qmm(ctx, &it->d.gather, NULL);
    case GQMM_OP_QMM:
        return gqmm_qmm(ctx, &it->d.dense, NULL);
    case GQMM_OP_MOE:
        return gqmm_moe(ctx, &it->d.moe, NULL);
    case GQMM_OP_EMBED:
        return gqmm_embed(ctx, &it->d.embed, NULL);
    case GQMM_OP_DEQUANTIZE:
        return gqmm_dequantize(ctx, &it->d.dequantize, NULL);
    case GQMM_OP_QUANTIZE:
        return gqmm_quantize(ctx, &it->d.quantize, NULL);
    default:
        return gqmm_repack(ctx, &it->d.repack, NULL);
    }
}

static item *add(const char *name, int32_t op, size_t a, size_t b, size_t c)
{
    item *it = &items[n_items++];
    *it = (item){.name = name, .op = op, .bytes = {a, b, c}};
    most_bytes = item_bytes(it) > most_bytes ? item_bytes(it) : most_bytes;
    return it;
}

static void add_gather(const char *name, int precision, int transpose, int type, const stack *s)
{
    const int64_t n = transpose ? s->rows : s->cols, p = T * S;
    item *it = add(name, GQMM_OP_GATHER_QMM, (size_t)(p * n) * gqmm_type_size(type), 0, 0);
    gqmm_gather *g = &it->d.gather;
    GQMM_INIT(*g);
    g->precision = precision;
    g->transpose = transpose;
    g->w = s->w;
    g->n_pairs = p;
    g->n_x = p;
    g->x = x;
    g->y_type = type;
    g->x_mat_stride = 64; /* overlapping inputs */
    g->rhs = ids;
}

static void add_moe(const char *name, int precision, int scoring, int type)
{
    item *it = add(name, GQMM_OP_MOE, (size_t)(T * D) * gqmm_type_size(type),
                   T * S * sizeof(int32_t), T * S * sizeof(float));
    gqmm_moe_desc *m = &it->d.moe;
    GQMM_INIT(*m);
    m->precision = precision;
    m->scoring = scoring;
    m->gate = gate.w;
    m->up = up.w;
    m->down = down.w;
    m->router = router.w;
    m->shared_gate = s_gate.w; /* fused */
    m->shared_down = s_down.w;
    m->shared_scale = s_scale.w;
    m->n_tokens = T;
    m->n_slots = S;
    m->x = x;
    m->x_row_stride = 300;
    m->y_type = type;
}

static void add_quantize(const char *format)
{
    const gqmm_format *f = gqmm_format_find(format);
    size_t bytes[3] = {0};
    for (int i = 0; i < f->n_planes; i++)
        bytes[i] = (size_t)(T * gqmm_format_row_bytes(f, i, 512));
    item *it = add(format, GQMM_OP_QUANTIZE, bytes[0], bytes[1], bytes[2]);
    GQMM_INIT(it->d.quantize);
    it->d.quantize.format = format;
    it->d.quantize.x = x;
    it->d.quantize.n_rows = T;
    it->d.quantize.n_cols = 512;
}

static void add_rows(void)
{
    const int64_t rows = gate.e * gate.rows;
    item *it = add("qmm", GQMM_OP_QMM, (size_t)(T * wide.rows) * 2, 0, 0);
    GQMM_INIT(it->d.dense);
    it->d.dense.w = wide.w;
    it->d.dense.transpose = 1;
    it->d.dense.precision = GQMM_INT8;
    it->d.dense.y_type = GQMM_BF16;
    it->d.dense.m = T;
    it->d.dense.x = x;
    it = add("embed", GQMM_OP_EMBED, (size_t)(T * S * D) * 4, 0, 0);
    GQMM_INIT(it->d.embed);
    it->d.embed.w = gate.w;
    it->d.embed.n_ids = T * S;
    it->d.embed.ids = ids;
    it = add("dequantize", GQMM_OP_DEQUANTIZE, (size_t)(rows * D) * 2, 0, 0);
    GQMM_INIT(it->d.dequantize);
    it->d.dequantize.w = gate.w;
    it->d.dequantize.n_rows = rows;
    it->d.dequantize.y_type = GQMM_F16;
    it = add("repack", GQMM_OP_REPACK, (size_t)(rows * D / 2), (size_t)(rows * D / 32) * 4,
             (size_t)(rows * D / 32) * 4);
    GQMM_INIT(it->d.repack);
    it->d.repack.w = gate.w;
    it->d.repack.format = "affine4_g32_f32";
}

static void make_items(void)
{
    gate = stack_make(one, "q4_k", E, F, D, (stack_how){0});
    up = stack_make(one, "q5_1", E, F, D, (stack_how){.row_gap = 2});
    down = stack_make(one, "affine4_g64_f16", E, D, F, (stack_how){0});
    router = stack_make(one, "f32", 1, E, D, (stack_how){0});
    s_gate = stack_make(one, "q8_0", 1, 2 * G, D, (stack_how){0});
    s_down = stack_make(one, "mlx_mxfp4", 1, D, G, (stack_how){0});
    s_scale = stack_make(one, "bf16", 1, 1, D, (stack_how){0});
    wide = stack_make(one, "q6_k", 1, 300, 256, (stack_how){0});
    for (int i = 0; i < COUNT(x); i++)
        x[i] = 0.05f * rnd_gauss();
    for (int i = 0; i < COUNT(ids); i++)
        ids[i] = (int32_t)rnd_below(E + 1) - 1;
    add_gather("gather exact", GQMM_EXACT, 1, GQMM_F32, &gate);
    add_gather("gather int8", GQMM_INT8, 1, GQMM_F16, &gate);
    add_gather("gather no transpose", GQMM_EXACT, 0, GQMM_F32, &up);
    add_gather("gather int8 no transpose", GQMM_INT8, 0, GQMM_BF16, &down);
    add_moe("moe exact", GQMM_EXACT, GQMM_SOFTMAX, GQMM_F32);
    add_moe("moe int8", GQMM_INT8, GQMM_SIGMOID, GQMM_BF16);
    add_rows();
    add_quantize("q4_0");
    add_quantize("q4_k");
    add_quantize("affine3_g64_bf16");
    add_quantize("mlx_nvfp4");
    for (int i = 0; i < n_items; i++) {
        items[i].want = make((int64_t)item_bytes(&items[i]), 1);
        const item a = aimed(&items[i], items[i].want);
        if (run(one, &a) != GQMM_OK) {
            fprintf(stderr, "%s does not run\n", a.name);
            exit(1);
        }
    }
}

#endif
