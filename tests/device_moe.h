/* SPDX-License-Identifier: MIT */
/* gqmm_moe on the device under test against the feed-forward block of moe_reference.h. */
#ifndef TESTS_DEVICE_MOE_H
#define TESTS_DEVICE_MOE_H

#include "device_product.h"
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

/* ------------------------------------------------------------------ the definition */

/* Columns enough for weights in bf16, see was_wide(): of an expert, or of the shared one. */
static bool moe_is_wide(const plan *p)
{
    return on.cuda && strcmp(on.path, "sm_90") == 0 && p->x_type == GQMM_BF16 &&
           (p->t * p->s >= 16 * p->e || (p->shared && p->t >= 16));
}

/* As feed_forward(), with h kept in x's type where the device does so. */
static void feed_forward_in(double *y, double factor, const stack *gate, const stack *up,
                            const stack *down, int64_t e, const double *x, const plan *p)
{
    const int64_t f = down->cols, d = down->rows;
    double *a = make(f, sizeof *a), *b = make(f, sizeof *b), *out = make(d, sizeof *out);
    float kept;
    product(a, gate, e, 0, f, x);
    product(b, up->f ? up : gate, e, up->f ? 0 : f, f, x);
    for (int64_t i = 0; i < f; i++) {
        set_element(&kept, p->x_type, 0, (float)(a[i] * sigmoid(a[i]) * b[i]));
        a[i] = element(&kept, p->x_type, 0);
    }
    product(out, down, e, 0, d, a);
    for (int64_t i = 0; i < d; i++)
        y[i] += factor * out[i];
    free(a);
    free(b);
    free(out);
}

static void forward(double *y, double factor, const layer *l, bool shared, int64_t e,
                    const double *x, const double *x8, const plan *p)
{
    const stack *gate = shared ? &l->s_gate : &l->gate, *up = shared ? &l->s_up : &l->up;
    const stack *down = shared ? &l->s_down : &l->down;
    if (on.cuda)
        feed_forward_in(y, factor, gate, up, down, e, x, p);
    else
        feed_forward(y, factor, gate, up, down, e, x8, p->precision == GQMM_INT8);
}

/* The experts that the definition takes, but for logits that fp32 cannot tell apart. */
static bool same_choice(const moe_call *c, int64_t t, const double *logits)
{
    const plan *p = c->p;
    const int32_t *got = (const int32_t *)(const void *)(c->ids.seen + c->ids.front) + t * p->s;
    int32_t *ids = make(p->s, sizeof *ids);
    double *weights = make(p->s, sizeof *weights);
    bool ok = true, tie = false;
    route(ids, weights, logits, p, c->l->bias);
    for (int s = 0; ok && s < p->s; s++) {
        const double weight = element(c->weights.seen + c->weights.front, GQMM_F32, t * p->s + s);
        if (got[s] < 0 || got[s] >= p->e) {
            ok = fail("token %lld slot %d: the router gave expert %d", (long long)t, s, got[s]);
        } else if (got[s] != ids[s]) {
            const double bias = c->l->bias ? c->l->bias[got[s]] - c->l->bias[ids[s]] : 0;
            const double far = fabs(logits[got[s]] - logits[ids[s]]) + fabs(bias);
            tie = far < 1e-5;
            if (!tie)
                ok = fail("token %lld slot %d: expert %d, expected %d", (long long)t, s, got[s],
                          ids[s]);
        } else if (!tie && !(fabs(weight - weights[s]) <= 2e-5 * fmax(1, fabs(weights[s])))) {
            ok = fail("token %lld slot %d: weight %.7g, expected %.7g", (long long)t, s, weight,
                      weights[s]);
        }
    }
    free(ids);
    free(weights);
    return ok;
}

static bool want_token(double *y, const moe_call *c, int64_t t)
{
    const plan *p = c->p;
    const layer *l = c->l;
    double *x = make(p->d, sizeof *x), *x8 = make(p->d, sizeof *x8);
    double *logits = make(p->e, sizeof *logits), logit = 0;
    float *x32 = make(p->d, sizeof *x32);
    bool ok = true;
    for (int64_t k = 0; k < p->d; k++)
        x8[k] = x[k] =
            (double)(x32[k] = (float)element(span_image(&c->x), p->x_type, t * c->x_step + k));
    if (p->precision == GQMM_INT8)
        round_int8(x8, x32, p->d);
    memset(y, 0, (size_t)p->d * sizeof *y);
    if (!p->given) {
        product(logits, &l->router, 0, 0, p->e, x);
        ok = same_choice(c, t, logits);
    }
    const int32_t *ids = (const int32_t *)(const void *)(c->ids.seen + c->ids.front) + t * p->s;
    for (int s = 0; ok && s < p->s; s++)
        if (ids[s] >= 0 && ids[s] < p->e)
            forward(y, element(c->weights.seen + c->weights.front, GQMM_F32, t * p->s + s), l,
                    false, ids[s], x, x8, p);
    if (ok && p->shared) {
        if (p->s_scale)
            product(&logit, &l->s_scale, 0, 0, 1, x);
        forward(y, p->s_scale ? sigmoid(logit) : 1, l, true, 0, x, x8, p);
    }
    free(x);
    free(x8);
    free(logits);
    free(x32);
    return ok;
}

/* Errors allowed, as shares of the output's size: of one output, and of the mean square. h is
 * rounded from numbers that differ in their last bits, so that single values of it may differ by a
 * step of x's type; int8 and weights in bf16 are what gqmm.h says of them. */
static double share_of(const plan *p, bool mean)
{
    const double step = type_rounding(p->x_type); /* many pairs: each slot's row is rounded too */
    const double slots = on.cuda && p->t * p->s > 4096 ? (mean ? step * step : 4 * step) : 0;
    if (p->precision == GQMM_INT8)
        return mean ? 5e-4 : 0.15;
    if (moe_is_wide(p))
        return slots + (mean ? 3e-5 : 2.5e-2);
    if (!on.cuda || p->x_type == GQMM_F32)
        return mean ? 1e-9 : 4e-5;
    if (p->x_type == GQMM_F16)
        return slots + (mean ? 1e-8 : 5e-4);
    return slots + (mean ? 3e-7 : 1e-2);
}

static bool moe_check(const moe_call *c)
{
    const plan *p = c->p;
    const int64_t every = 1 + p->t / 24;
    const double floor = p->y_type == GQMM_BF16 ? 8e-6 : p->y_type == GQMM_F16 ? 2e-7 : 0;
    double *want = make(p->d, sizeof *want), noise = 0, power = 0, excess;
    bool ok = true;
    for (int64_t t = 0; ok && t < p->t; t++) {
        double rms = 0;
        if (t % every && t != p->t - 1)
            continue;
        ok = want_token(want, c, t);
        for (int64_t i = 0; i < p->d; i++)
            rms += want[i] * want[i] / (double)p->d;
        for (int64_t i = 0; ok && i < p->d; i++) {
            const double got = element(c->y.seen + c->y.front, p->y_type, t * c->y_step + i);
            const double bound = share_of(p, false) * (sqrt(rms) + fabs(want[i])) + 1e-7;
            noise += (got - want[i]) * (got - want[i]);
            power += want[i] * want[i];
            if (!within(got, want[i], bound, fabs(want[i]), p->y_type, &excess))
                ok = fail("y[%lld, %lld] is %.9g, expected %.9g +- %.2g", (long long)t,
                          (long long)i, got, want[i], bound);
        }
    }
    free(want);
    if (ok && !(noise <= (share_of(p, true) + floor) * power + 1e-30))
        ok = fail("mean square error %.3g of the definition's", noise / power);
    return ok;
}

/* Every element is written, and nothing between rows. */
static bool moe_gaps(const moe_call *c)
{
    const int64_t size = (int64_t)gqmm_type_size(c->p->y_type);
    const int64_t n = (int64_t)c->y.bytes / size;
    for (int64_t i = 0; i < n; i++) {
        bool blank = true;
        for (int64_t b = 0; b < size; b++)
            blank = blank && (c->y.seen + c->y.front)[i * size + b] == BLANK;
        NEED(blank == (i % c->y_step >= c->p->d), "element %lld of y %s", (long long)i,
             blank ? "was not written" : "lies between the rows and was written");
    }
    return true;
}

/* ------------------------------------------------------------------ running */

static bool moe_once(moe_call *c)
{
    bool (*put)(span *) = c->p->given ? span_put : span_blank; /* ids and weights: in or out */
    on.calls++;
    if (!span_blank(&c->y) || !put(&c->ids) || !put(&c->weights) || !span_blank(&c->work) ||
        !step(gqmm_moe(on.ctx, &c->d, &fault)) || !span_get(&c->y) || !span_get(&c->ids) ||
        !span_get(&c->weights) || !span_get(&c->work))
        return false;
    const gqmm_status status = gqmm_synchronize(on.ctx, &fault);
    NEED(status == (c->ids_kind == IDS_BAD ? GQMM_E_INDEX : GQMM_OK),
         "gqmm_synchronize says %s: %s", gqmm_status_name(status), fault.text);
    return true;
}

/* Again with exactly the workspace asked for and, with a router, no ids and weights to write. */
static bool moe_again(moe_call *c)
{
    gqmm_moe_desc blind = c->d;
    uint8_t *first = must(malloc(c->y.total));
    size_t bytes = 0;
    memcpy(first, c->y.seen, c->y.total);
    if (!c->p->given)
        c->d.ids = blind.ids = NULL, c->d.weights = blind.weights = NULL;
    blind.x = blind.y = NULL;
    bool ok = step(gqmm_workspace_size(on.ctx, GQMM_OP_MOE, &blind, &bytes, &fault)) &&
              span_make(&c->work, (int64_t)bytes, 0);
    c->d.workspace = bytes ? span_at(&c->work) : NULL;
    c->d.workspace_bytes = bytes;
    ok = ok && moe_once(c) && span_fenced(&c->work, "the workspace");
    if (ok && memcmp(first, c->y.seen, c->y.total) != 0)
        ok = fail("other bits the second time, with %zu bytes of workspace", bytes);
    free(first);
    if (!ok || bytes == 0)
        return ok;
    c->d.workspace_bytes = bytes - 1;
    if (!span_blank(&c->y))
        return false;
    const gqmm_status less = gqmm_moe(on.ctx, &c->d, &fault);
    NEED(less == GQMM_E_NOMEM, "a byte less of workspace than %zu: %s", bytes,
         gqmm_status_name(less));
    return span_get(&c->y) && step(gqmm_synchronize(on.ctx, &fault)) && span_intact(&c->y, "y");
}

static bool moe_run(moe_call *c)
{
    return moe_once(c) && span_fenced(&c->y, "y") && span_fenced(&c->ids, "ids") &&
           span_fenced(&c->weights, "weights") && moe_gaps(c) && moe_check(c) && moe_again(c) &&
           span_get(&c->x) && step(gqmm_synchronize(on.ctx, &fault)) && span_intact(&c->x, "x");
}

static bool try_moe(const plan *p, const layer *l, bool crooked, int ids_kind)
{
    device_layer d;
    moe_call c = {.ids_kind = ids_kind};
    bool ok =
        device_layer_make(&d, l, p->e, crooked) && moe_make(&c, p, l, &d, crooked) && moe_run(&c);
    for (int i = 0; ok && i < MATRICES; i++)
        ok = planes_get(&d.m[i]);
    ok = ok && step(gqmm_synchronize(on.ctx, &fault));
    for (int i = 0; ok && i < MATRICES; i++)
        ok = planes_intact(&d.m[i]);
    moe_free(&c);
    device_layer_free(&d);
    return ok || fail_in("T %lld S %d E %lld D %lld F %lld %s%s %s %s%s%s, shared %d, x %s y %s",
                         (long long)p->t, p->s, (long long)p->e, (long long)p->d, (long long)p->f,
                         p->gate, p->fused ? " fused" : "", p->precision ? "int8" : "exact",
                         p->given     ? "given ids"
                         : p->scoring ? "sigmoid"
                                      : "softmax",
                         p->renormalize ? " renormalized" : "", crooked ? " crooked" : "",
                         p->shared, type_names[p->x_type], type_names[p->y_type]);
}

#endif
