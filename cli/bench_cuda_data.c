/* SPDX-License-Identifier: MIT */
#include "bench_cuda.h"

#if defined(GQMM_WITH_CUDA)
#    include "bench_random.h"
#    include "output.h"

#    include <math.h>
#    include <stdlib.h>
#    include <string.h>

enum { ROUTERS = 8 }; /* random ones; the layers after them have the same again */

bool bench_did(on_device *d, gqmm_status status)
{
    if (status != GQMM_OK)
        say_error(NULL, &d->err);
    return status == GQMM_OK;
}

static void *device_alloc(on_device *d, size_t bytes)
{
    void *memory = NULL;

    return bench_did(d, gqmm_device_alloc(d->ctx, bytes ? bytes : 1, &memory, &d->err)) ? memory
                                                                                        : NULL;
}

bool bench_copy(on_device *d, void *to, const void *from, size_t bytes)
{
    return bench_did(d, gqmm_device_copy(d->ctx, to, from, bytes, &d->err));
}

bool bench_settle(on_device *d)
{
    return bench_did(d, gqmm_synchronize(d->ctx, &d->err));
}

/* ------------------------------------------------------------------ layers */

bool bench_has_router(const bench *b)
{
    return b->op == BENCH_MOE && b->set->routing == ROUTING_UNIFORM;
}

size_t bench_router_bytes(const bench_layers *l)
{
    return (size_t)(l->n_experts * l->cols[0]) * 2;
}

/* Gaussian routers, so that the experts of random activations are random and distinct. */
static bool put_routers(on_device *d)
{
    const int64_t e = d->l->n_experts, k = d->l->cols[0];
    const int64_t n = d->l->n_layers < ROUTERS ? d->l->n_layers : ROUTERS;
    float *x = need((size_t)(e * k), sizeof *x);
    uint8_t *bf16 = need(bench_router_bytes(d->l), 1);
    bool ok = true;

    for (int64_t i = 0; ok && i < n; i++) {
        gqmm_quantize_desc q;

        random_normal(x, e * k, 1 / sqrtf((float)k), 500 + (uint64_t)i);
        GQMM_INIT(q);
        q.format = "bf16";
        q.x = x;
        q.n_rows = e;
        q.n_cols = k;
        q.plane[0] = bf16;
        ok = bench_did(d, gqmm_quantize(d->b->all, &q, &d->err));
        for (int64_t layer = i; ok && layer < d->l->n_layers; layer += n)
            ok = bench_copy(d, d->memory + (size_t)layer * d->layer_bytes + d->l->layer_bytes, bf16,
                            bench_router_bytes(d->l));
        ok = ok && bench_settle(d);
    }
    free(x);
    free(bf16);
    return ok;
}

static bool open_weights(on_device *d, int64_t layer, int m)
{
    uint8_t *base = d->memory + (size_t)layer * d->layer_bytes;
    const bench_layers *l = d->l;
    gqmm_weights_desc w;

    GQMM_INIT(w);
    w.n_experts = l->n_experts;
    w.n_rows = m < l->n_matrices ? l->rows[m] : l->n_experts;
    w.n_cols = m < l->n_matrices ? l->cols[m] : l->cols[0];
    w.format = m < l->n_matrices ? l->format[m]->name : "bf16";
    if (m == l->n_matrices) { /* the router */
        w.n_experts = 1;
        w.plane[0] = base + l->layer_bytes;
        return bench_did(d, gqmm_weights_create(d->ctx, &w, &d->router[layer], &d->err));
    }
    for (int p = 0; p < l->format[m]->n_planes; p++)
        w.plane[p] = base + bench_layers_plane(l, m, p);
    return bench_did(d, gqmm_weights_create(d->ctx, &w, &d->w[layer * l->n_matrices + m], &d->err));
}

/* The host's one layer goes over once and is copied from there: what matters is that addresses
 * differ, and contents are random either way. */
bool bench_put_layers(on_device *d)
{
    const bench_layers *l = d->l;
    const size_t n = (size_t)l->n_layers;
    bool ok = true;

    d->layer_bytes = l->layer_bytes + (bench_router_bytes(l) + 255) / 256 * 256;
    d->w = need(n * (size_t)l->n_matrices, sizeof(gqmm_weights *));
    d->router = need(n, sizeof(gqmm_weights *));
    memset(d->w, 0, n * (size_t)l->n_matrices * sizeof(gqmm_weights *));
    memset(d->router, 0, n * sizeof(gqmm_weights *));
    if (!(d->memory = device_alloc(d, n * d->layer_bytes)) ||
        !bench_copy(d, d->memory, l->memory, l->layer_bytes))
        return false;
    for (size_t i = 1; ok && i < n; i++)
        ok = bench_copy(d, d->memory + i * d->layer_bytes, d->memory, l->layer_bytes);
    ok = ok && bench_settle(d) && (!bench_has_router(d->b) || put_routers(d));
    for (int64_t i = 0; ok && i < l->n_layers; i++)
        for (int m = 0; ok && m < l->n_matrices + bench_has_router(d->b); m++)
            ok = open_weights(d, i, m);
    return ok;
}

void bench_drop_layers(on_device *d)
{
    const size_t n = d->l ? (size_t)d->l->n_layers : 0;

    for (size_t i = 0; d->w && i < n * (size_t)d->l->n_matrices; i++)
        gqmm_weights_destroy(d->w[i]);
    for (size_t i = 0; d->router && i < n; i++)
        gqmm_weights_destroy(d->router[i]);
    free(d->w);
    free(d->router);
    gqmm_device_free(d->ctx, d->memory, n * d->layer_bytes);
    d->w = d->router = NULL;
    d->memory = NULL;
}

/* ------------------------------------------------------------------ a row's operands */

/* Device memory with the contents of `from` where that is not NULL. */
static void *put(operands *o, const void *from, size_t bytes)
{
    void *memory = device_alloc(o->d, bytes);

    if (!memory || (from && (!bench_copy(o->d, memory, from, bytes) || !bench_settle(o->d)))) {
        gqmm_device_free(o->d->ctx, memory, bytes);
        return NULL;
    }
    o->bytes[o->n] = bytes;
    return o->buffer[o->n++] = memory;
}

size_t bench_type_size(int32_t type)
{
    return type == GQMM_F32 ? 4 : 2;
}

static bool put_x(operands *o)
{
    static const char *const formats[] = {"f32", "f16", "bf16"};
    bench_inputs *in = &o->in;
    const int64_t k = in->l->cols[0];
    const int64_t all = in->b->machine.cold_bytes / (k * (int64_t)bench_type_size(in->type));
    gqmm_quantize_desc q;

    in->x_rows = in->tokens;
    if (in->b->op == BENCH_QUANTIZE)
        in->x_rows = all > 2 * in->tokens ? all : 2 * in->tokens;
    const size_t bytes = (size_t)(in->x_rows * k) * bench_type_size(in->type);
    float *x = need((size_t)(in->x_rows * k), sizeof *x);
    void *narrow = need(bytes, 1);
    random_normal(x, in->x_rows * k, 1, 5);
    GQMM_INIT(q);
    q.format = formats[in->type];
    q.x = x;
    q.n_rows = in->x_rows;
    q.n_cols = k;
    q.plane[0] = narrow;
    if (bench_did(o->d, gqmm_quantize(in->b->all, &q, &o->d->err)))
        in->x = put(o, narrow, bytes);
    free(x);
    free(narrow);
    return in->x != NULL;
}

static bool put_ids(operands *o)
{
    bench_inputs *in = &o->in;
    float *weights;
    int32_t *lhs;

    bench_make_ids(in, &o->ids, &weights, &lhs);
    if (in->router) /* an output, for the floor; every layer chooses its own */
        in->n_lists = in->l->n_layers;
    const size_t n = (size_t)(in->n_lists * in->list);
    if (in->router) {
        in->ids = put(o, NULL, (size_t)in->list * 4);
        in->weights = put(o, NULL, (size_t)in->list * 4);
        o->ids = need_more(o->ids, n, sizeof *o->ids);
        in->chosen = o->ids;
    } else {
        in->ids = put(o, o->ids, n * 4);
        in->weights = put(o, weights, n * 4);
    }
    in->lhs = put(o, lhs, (size_t)in->list * 4);
    free(weights);
    free(lhs);
    return in->ids && in->weights && in->lhs;
}

bool bench_put_operands(operands *o, on_device *d, int64_t tokens)
{
    bench_inputs *in = &o->in;
    const bench_layers *l = d->l;

    *o = (operands){.d = d};
    *in = (bench_inputs){.b = d->b,
                         .l = l,
                         .ctx = d->ctx,
                         .w = d->w,
                         .router = bench_has_router(d->b) ? d->router : NULL,
                         .tokens = tokens,
                         .type = d->b->set->activations};
    if (d->b->op == BENCH_DEQUANTIZE && tokens > l->n_experts * l->rows[0]) {
        say("%lld rows are more than the weights have", (long long)tokens);
        return false;
    }
    if (!put_ids(o) || !put_x(o))
        return false;
    if (!(in->y = put(o, NULL, (size_t)bench_y_count(in) * bench_type_size(in->type))))
        return false;
    for (int p = 0; d->b->op == BENCH_QUANTIZE && p < l->format[0]->n_planes; p++)
        if (!(in->planes[p] = put(
                  o, NULL, (size_t)(tokens * gqmm_format_row_bytes(l->format[0], p, l->cols[0])))))
            return false;
    if (!bench_did(d, bench_call_workspace(in, &in->workspace_bytes, &d->err)))
        return false;
    return !in->workspace_bytes || (in->workspace = put(o, NULL, in->workspace_bytes));
}

void bench_drop_operands(operands *o)
{
    for (int i = 0; i < o->n; i++)
        gqmm_device_free(o->d->ctx, o->buffer[i], o->bytes[i]);
    free(o->ids);
}

#endif
