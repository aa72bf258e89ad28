/* SPDX-License-Identifier: MIT */
#include "bench_call.h"

#include "bench_random.h"
#include "output.h"

#include <stdlib.h>
#include <string.h>

/* LISTS id lists take turns; being prime, they meet every layer. Of long lists fewer will do; for a
 * device, whose calls of a graph read few rows each, there are more of the short ones. */
enum { LISTS = 61, FEW_LISTS = 7, MANY_LISTS = 2003, LONG_LIST = 1 << 16, SHORT_LIST = 1 << 12 };

bool bench_is_routed(bench_op op)
{
    return op == BENCH_MOE || op == BENCH_GATHER;
}

void bench_make_ids(bench_inputs *in, int32_t **ids, float **weights, int32_t **lhs)
{
    const bench_shape *s = &in->b->shape;
    const int64_t total_rows = in->l->rows[0] * in->l->n_experts;
    uint64_t seed = 99;

    in->list = in->tokens * (bench_is_routed(in->b->op) ? s->n_used : 1);
    in->n_lists = in->list > LONG_LIST ? FEW_LISTS : LISTS;
    if (in->b->device && in->b->op == BENCH_EMBED && in->list <= SHORT_LIST)
        in->n_lists = MANY_LISTS;
    *ids = need((size_t)(in->n_lists * in->list), sizeof **ids);
    *weights = need((size_t)(in->n_lists * in->list), sizeof **weights);
    *lhs = need((size_t)in->list, sizeof **lhs);
    for (int64_t i = 0; i < in->list; i++)
        (*lhs)[i] = (int32_t)(i / (in->list / in->tokens));
    for (int64_t i = 0; i < in->n_lists && bench_is_routed(in->b->op); i++)
        bench_route(*ids + i * in->list, *weights + i * in->list, in->tokens, in->l->n_experts,
                    s->n_used, in->b->set->routing, 1000 + (uint64_t)i);
    for (int64_t i = 0; i < in->n_lists * in->list && in->b->op == BENCH_EMBED; i++)
        (*ids)[i] = (int32_t)random_below(&seed, (uint32_t)total_rows);
    in->chosen = *ids;
}

int64_t bench_y_count(const bench_inputs *in)
{
    switch (in->b->op) {
    case BENCH_QMM:
    case BENCH_GATHER:
        return in->list * in->b->shape.n_ff;
    case BENCH_QUANTIZE:
        return 0;
    default:
        return in->tokens * in->b->shape.n_hidden;
    }
}

static int64_t type_bytes(int32_t type)
{
    return type == GQMM_F32 ? 4 : 2;
}

/* ------------------------------------------------------------------ descriptors */

static gqmm_moe_desc moe_of(const bench_inputs *in, int64_t i)
{
    const int64_t list = in->router ? 0 : i % in->n_lists * in->list;
    const int64_t layer = i % in->l->n_layers;
    gqmm_weights *const *w = in->w + layer * in->l->n_matrices;
    gqmm_moe_desc d;

    GQMM_INIT(d);
    d.precision = in->b->set->machine.precision;
    d.gate = w[0];
    d.up = w[1];
    d.down = w[2];
    d.router = in->router ? in->router[layer] : NULL;
    d.renormalize = 1;
    d.n_tokens = in->tokens;
    d.n_slots = (int32_t)in->b->shape.n_used;
    d.y_type = d.x_type = in->type;
    d.y = in->y;
    d.x = in->x;
    d.ids = in->ids ? in->ids + list : NULL;
    d.weights = in->weights ? in->weights + list : NULL;
    d.workspace = in->workspace;
    d.workspace_bytes = in->workspace_bytes;
    return d;
}

static gqmm_gather gather_of(const bench_inputs *in, int64_t i)
{
    gqmm_gather d;

    GQMM_INIT(d);
    d.precision = in->b->set->machine.precision;
    d.w = in->w[i % in->l->n_layers * in->l->n_matrices];
    d.transpose = 1;
    d.n_pairs = in->list;
    d.n_x = in->tokens;
    d.y_type = d.x_type = in->type;
    d.y = in->y;
    d.x = in->x;
    d.lhs = in->lhs;
    d.rhs = in->ids + i % in->n_lists * in->list;
    d.workspace = in->workspace;
    d.workspace_bytes = in->workspace_bytes;
    return d;
}

static gqmm_dense dense_of(const bench_inputs *in, int64_t i)
{
    gqmm_dense d;

    GQMM_INIT(d);
    d.precision = in->b->set->machine.precision;
    d.w = in->w[i % in->l->n_layers * in->l->n_matrices];
    d.transpose = 1;
    d.m = in->tokens;
    d.y_type = d.x_type = in->type;
    d.y = in->y;
    d.x = in->x;
    d.workspace = in->workspace;
    d.workspace_bytes = in->workspace_bytes;
    return d;
}

static gqmm_status call_embed(const bench_inputs *in, int64_t i, gqmm_error *err)
{
    gqmm_embed_desc d;

    GQMM_INIT(d);
    d.w = in->w[i % in->l->n_layers * in->l->n_matrices];
    d.n_ids = in->tokens;
    d.ids = in->ids + i % in->n_lists * in->list;
    d.y_type = in->type;
    d.y = in->y;
    return gqmm_embed(in->ctx, &d, err);
}

/* Call i takes the next rows, around and around. */
static gqmm_status call_dequantize(const bench_inputs *in, int64_t i, gqmm_error *err)
{
    const int64_t steps = in->l->n_experts * in->l->rows[0] / in->tokens;
    gqmm_dequantize_desc d;

    GQMM_INIT(d);
    d.w = in->w[i % in->l->n_layers * in->l->n_matrices];
    d.first_row = i / in->l->n_layers % steps * in->tokens;
    d.n_rows = in->tokens;
    d.y_type = in->type;
    d.y = in->y;
    return gqmm_dequantize(in->ctx, &d, err);
}

static gqmm_status call_quantize(const bench_inputs *in, int64_t i, gqmm_error *err)
{
    gqmm_quantize_desc d;

    GQMM_INIT(d);
    d.format = in->l->format[0]->name;
    d.x_type = in->type;
    d.x =
        in->x + i % (in->x_rows / in->tokens) * in->tokens * in->l->cols[0] * type_bytes(in->type);
    d.n_rows = in->tokens;
    d.n_cols = in->l->cols[0];
    for (int p = 0; p < 3; p++)
        d.plane[p] = in->planes[p];
    return gqmm_quantize(in->ctx, &d, err);
}

gqmm_status bench_call(const bench_inputs *in, int64_t i, gqmm_error *err)
{
    switch (in->b->op) {
    case BENCH_EMBED:
        return call_embed(in, i, err);
    case BENCH_DEQUANTIZE:
        return call_dequantize(in, i, err);
    case BENCH_QUANTIZE:
        return call_quantize(in, i, err);
    case BENCH_MOE: {
        const gqmm_moe_desc d = moe_of(in, i);

        return gqmm_moe(in->ctx, &d, err);
    }
    case BENCH_GATHER: {
        const gqmm_gather d = gather_of(in, i);

        return gqmm_gather_qmm(in->ctx, &d, err);
    }
    default: {
        const gqmm_dense d = dense_of(in, i);

        return gqmm_qmm(in->ctx, &d, err);
    }
    }
}

gqmm_status bench_call_workspace(const bench_inputs *in, size_t *bytes, gqmm_error *err)
{
    *bytes = 0;
    if (in->b->op == BENCH_MOE) {
        const gqmm_moe_desc d = moe_of(in, 0);

        return gqmm_workspace_size(in->ctx, GQMM_OP_MOE, &d, bytes, err);
    }
    if (in->b->op == BENCH_GATHER) {
        const gqmm_gather d = gather_of(in, 0);

        return gqmm_workspace_size(in->ctx, GQMM_OP_GATHER_QMM, &d, bytes, err);
    }
    if (in->b->op != BENCH_QMM)
        return GQMM_OK;
    const gqmm_dense d = dense_of(in, 0);

    return gqmm_workspace_size(in->ctx, GQMM_OP_QMM, &d, bytes, err);
}

/* ------------------------------------------------------------------ what a call cannot do without
 */

double bench_weight_bytes(const bench_inputs *in)
{
    const double expert = (double)in->l->expert_bytes;
    double experts = 0;

    switch (in->b->op) {
    case BENCH_QMM:
        return expert;
    case BENCH_EMBED:
    case BENCH_DEQUANTIZE:
    case BENCH_QUANTIZE:
        return (double)in->tokens * expert / (double)in->l->rows[0];
    default:
        for (int64_t i = 0; i < in->n_lists; i++)
            experts +=
                (double)bench_distinct(in->chosen + i * in->list, in->list, in->l->n_experts);
        return expert * experts / (double)in->n_lists;
    }
}

double bench_activation_bytes(const bench_inputs *in)
{
    const bool has_x = in->b->op != BENCH_EMBED && in->b->op != BENCH_DEQUANTIZE;
    const int64_t x = has_x ? in->tokens * in->l->cols[0] : 0;

    return (double)((x + bench_y_count(in)) * type_bytes(in->type));
}

double bench_call_macs(const bench_inputs *in)
{
    double macs = 0;

    if (!bench_is_routed(in->b->op) && in->b->op != BENCH_QMM)
        return 0;
    for (int m = 0; m < in->l->n_matrices; m++)
        macs += (double)in->list * (double)in->l->rows[m] * (double)in->l->cols[m];
    return macs;
}
