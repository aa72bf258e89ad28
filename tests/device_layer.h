/* SPDX-License-Identifier: MIT */
/* A layer of moe_reference.h on the device under test, and one gqmm_moe call of it with its
 * operands between canaries. */
#ifndef TESTS_DEVICE_LAYER_H
#define TESTS_DEVICE_LAYER_H

#include "device_job.h"
#include "moe_reference.h"

enum { MATRICES = 8 };

/* A layer's matrices on the device. */
typedef struct device_layer {
    planes m[MATRICES];
    span bias;
} device_layer;

static const stack *matrix_of(const layer *l, int i)
{
    const stack *const all[MATRICES] = {&l->gate,   &l->up,   &l->down,   &l->router,
                                        &l->s_gate, &l->s_up, &l->s_down, &l->s_scale};
    return all[i];
}

static void device_layer_free(device_layer *d)
{
    for (int i = 0; i < MATRICES; i++)
        planes_free(&d->m[i]);
    span_free(&d->bias);
}

static bool device_layer_make(device_layer *d, const layer *l, int64_t e, bool crooked)
{
    *d = (device_layer){0};
    for (int i = 0; i < MATRICES; i++)
        if (matrix_of(l, i)->f && !planes_make(&d->m[i], matrix_of(l, i), crooked))
            return false;
    if (!l->bias)
        return true;
    if (!span_make(&d->bias, 4 * e, 0))
        return false;
    memcpy(span_image(&d->bias), l->bias, d->bias.bytes);
    return span_put(&d->bias);
}

typedef struct moe_call {
    const plan *p;
    const layer *l;
    gqmm_moe_desc d;
    span x, y, ids, weights, work;
    int64_t x_step, y_step;
    int ids_kind; /* of given ids: IDS_* */
} moe_call;

static void moe_free(moe_call *c)
{
    span_free(&c->x);
    span_free(&c->y);
    span_free(&c->ids);
    span_free(&c->weights);
    span_free(&c->work);
}

/* ------------------------------------------------------------------ making */

/* -1, duplicates and empty experts included, or all on one. */
static void fill_ids(const moe_call *c)
{
    int32_t *ids = (int32_t *)(void *)span_image(&c->ids);
    for (int64_t i = 0; c->p->given && i < c->p->t * c->p->s; i++) {
        ids[i] = (int32_t)rnd_below(c->p->e + 1) - 1;
        if (c->ids_kind == IDS_ONE)
            ids[i] = (int32_t)c->p->e - 1;
        if (c->ids_kind == IDS_BAD && i % 5 == 0)
            ids[i] = i % 2 ? (int32_t)c->p->e : INT32_MIN;
        set_element(span_image(&c->weights), GQMM_F32, i, rnd_gauss());
    }
}

static bool moe_spans(moe_call *c, bool crooked)
{
    const plan *p = c->p;
    const int64_t xs = (int64_t)gqmm_type_size(p->x_type), ys = (int64_t)gqmm_type_size(p->y_type);
    if (!span_make(&c->x, (p->t ? (p->t - 1) * c->x_step + p->d : 0) * xs, crooked ? xs : 0) ||
        !span_make(&c->y, (p->t ? (p->t - 1) * c->y_step + p->d : 0) * ys, crooked ? ys : 0) ||
        !span_make(&c->ids, 4 * p->t * p->s, 0) || !span_make(&c->weights, 4 * p->t * p->s, 0))
        return false;
    for (int64_t i = 0; i < p->t * p->d; i++)
        set_element(span_image(&c->x), p->x_type, i / p->d * c->x_step + i % p->d, rnd_gauss());
    fill_ids(c);
    return span_put(&c->x);
}

static bool moe_make(moe_call *c, const plan *p, const layer *l, const device_layer *on_device,
                     bool crooked)
{
    gqmm_moe_desc *d = &c->d;
    const planes *m = on_device->m;
    *c = (moe_call){.p = p, .l = l, .x_step = p->d, .y_step = p->d, .ids_kind = c->ids_kind};
    if (crooked) {
        c->x_step += 2;
        c->y_step += 3;
    }
    if (!moe_spans(c, crooked))
        return false;
    GQMM_INIT(*d);
    d->precision = p->precision;
    d->gate = m[0].w, d->up = m[1].w, d->down = m[2].w, d->router = m[3].w;
    d->shared_gate = m[4].w, d->shared_up = m[5].w, d->shared_down = m[6].w;
    d->shared_scale = m[7].w;
    d->router_bias = (const float *)(const void *)span_at(&on_device->bias);
    d->n_tokens = p->t;
    d->n_slots = p->s;
    d->scoring = p->scoring;
    d->renormalize = p->renormalize;
    d->routed_scale = p->scale;
    d->y_type = p->y_type;
    d->x_type = p->x_type;
    d->y = span_at(&c->y);
    d->x = span_at(&c->x);
    d->y_row_stride = crooked ? c->y_step : 0;
    d->x_row_stride = crooked ? c->x_step : 0;
    d->ids = (int32_t *)(void *)span_at(&c->ids);
    d->weights = (float *)(void *)span_at(&c->weights);
    return true;
}

#endif
