/* SPDX-License-Identifier: MIT */
/* gqmm_moe on the device under test against the feed-forward block of moe_reference.h. */
#ifndef TESTS_DEVICE_MOE_H
#define TESTS_DEVICE_MOE_H

#include "device_layer.h"

/* ------------------------------------------------------------------ the definition */

/* Whether weights of the experts passed through bf16, see was_wide(); the shared one's may have,
 * and its row of y is rounded as theirs are. */
static bool moe_is_wide(const plan *p, bool shared)
{
    char how[300] = "";
    gqmm_explain(on.ctx, how, sizeof how);
    return on.cuda && strcmp(on.path, "sm_90") == 0 && p->x_type == GQMM_BF16 &&
           (strstr(how, " wide") || (shared && (p->t >= 16 || strstr(how, " int8"))));
}

/* Whether activations of the experts, and h, were rounded to int8 in blocks of 128. */
static bool moe_is_int8(const plan *p, bool shared)
{
    char how[300] = "";
    gqmm_explain(on.ctx, how, sizeof how);
    return on.cuda && !shared && strcmp(on.path, "sm_90") == 0 && p->x_type == GQMM_BF16 &&
           p->precision == GQMM_INT8 && strcmp(p->gate, "int4_g128") == 0 &&
           strcmp(p->down, "int4_g128") == 0 && strstr(how, " int8") != NULL;
}

/* What a token's output should be, and what it may be off by: as far as numbers of h may lie on the
 * other side of where they round, and the standard deviation that weights in bf16 bring. */
typedef struct wanted {
    double *y, *loose, *noise; /* [D] */
} wanted;

/* Sums of a product's terms, of their sizes and of their sizes' squares. */
typedef struct sums {
    double y, size, squares;
} sums;

static void product_sums(sums *to, const stack *s, int64_t e, int64_t r0, int64_t n,
                         const double *x)
{
    double *w = make(s->cols, sizeof *w), *mag = make(s->cols, sizeof *mag);
    for (int64_t i = 0; i < n; i++) {
        sums sum = {0, 0, 0};
        stack_decode(s, e, r0 + i, w, mag, NULL);
        for (int64_t k = 0; k < s->cols; k++) {
            const double size = mag[k] * fabs(x[k]);
            sum.y += w[k] * x[k];
            sum.size += size;
            sum.squares += size * size;
        }
        to[i] = sum;
    }
    free(w);
    free(mag);
}

static double rounded_to(double v, int32_t type)
{
    float kept;
    set_element(&kept, type, 0, (float)v);
    return element(&kept, type, 0);
}

enum { BF16_STEP = 512 }; /* scale, offset and weight are rounded by 2^-9 at most, each */

/* silu(a) * b as the device keeps it. *loose: how far the rounding goes the other way where sums in
 * fp32 that differ in their last bits may lie on the other side of a middle; *noise: the variance.
 */
static double kept_h(sums a, sums b, int32_t type, bool wide, double *loose, double *noise)
{
    const double silu = a.y * sigmoid(a.y), v = silu * b.y, kept = rounded_to(v, type);
    const double off =
        16 * UNIT * (1.1 * a.size * fabs(b.y) + fabs(silu) * b.size) + 8 * UNIT * fabs(v);
    *loose = *noise = 0;
    if (wide)
        *noise = (1.21 * b.y * b.y * a.squares + silu * silu * b.squares + v * v) /
                 ((double)BF16_STEP * BF16_STEP);
    else
        *loose =
            fmax(fabs(rounded_to(v - off, type) - kept), fabs(rounded_to(v + off, type) - kept));
    return kept;
}

/* to->y += factor * ... as feed_forward(), with h kept in x's type as the device does. */
static void feed_forward_in(const wanted *to, double factor, const stack *gate, const stack *up,
                            const stack *down, int64_t e, const double *x, const plan *p, bool wide)
{
    const int64_t f = down->cols, d = down->rows;
    sums *a = make(f, sizeof *a), *b = make(f, sizeof *b);
    double *w = make(f, sizeof *w), *mag = make(f, sizeof *mag);
    double *h_of = make(f, sizeof *w), *loose = make(f, sizeof *w), *noise = make(f, sizeof *w);
    product_sums(a, gate, e, 0, f, x);
    product_sums(b, up->f ? up : gate, e, up->f ? 0 : f, f, x);
    for (int64_t i = 0; i < f; i++)
        h_of[i] = kept_h(a[i], b[i], p->x_type, wide, &loose[i], &noise[i]);
    for (int64_t i = 0; i < d; i++) {
        double y = 0, off = 0, variance = 0;
        stack_decode(down, e, i, w, mag, NULL);
        for (int64_t k = 0; k < f; k++) {
            const double size = mag[k] * h_of[k] / BF16_STEP;
            y += w[k] * h_of[k];
            off += fabs(w[k]) * loose[k];
            variance += w[k] * w[k] * noise[k] + size * size;
        }
        to->y[i] += factor * y;
        to->loose[i] += fabs(factor) * off;
        to->noise[i] += wide ? fabs(factor) * sqrt(variance) : 0; /* experts may be the same */
    }
    free(a);
    free(b);
    free(w);
    free(mag);
    free(h_of);
    free(loose);
    free(noise);
}

/* The same with h in int8: where sums in fp32 fall on the other side of a middle, a number of it is
 * a step off. That is rare; *noise has one of a thousand. */
static void feed_forward_int8(const wanted *to, double factor, const stack *gate, const stack *up,
                              const stack *down, int64_t e, const double *x)
{
    const int64_t f = down->cols, d = down->rows;
    double *a = make(f, sizeof *a), *b = make(f, sizeof *b), *w = make(f, sizeof *w);
    double *step = make(f, sizeof *step);
    float *h32 = make(f, sizeof *h32);
    product(a, gate, e, 0, f, x);
    product(b, up->f ? up : gate, e, up->f ? 0 : f, f, x);
    for (int64_t i = 0; i < f; i++)
        h32[i] = (float)(a[i] * sigmoid(a[i]) * b[i]);
    round_int8_wide(a, h32, f);
    for (int64_t i = 0; i < f; i++)
        for (int64_t k = i & ~(int64_t)127; k < (i | 127) + 1; k++)
            step[i] = fmax(step[i], fabs((double)h32[k]) / 127);
    for (int64_t i = 0; i < d; i++) {
        double y = 0, variance = 0;
        stack_decode(down, e, i, w, NULL, NULL);
        for (int64_t k = 0; k < f; k++) {
            y += w[k] * a[k];
            variance += w[k] * w[k] * step[k] * step[k] * 1e-3;
        }
        to->y[i] += factor * y;
        to->noise[i] += fabs(factor) * sqrt(variance + y * y * 0x1p-18); /* its row is bf16 */
    }
    free(a);
    free(b);
    free(w);
    free(step);
    free(h32);
}

static void forward(const wanted *to, double factor, const layer *l, bool shared, int64_t e,
                    const double *x, const double *x8, const plan *p)
{
    const stack *gate = shared ? &l->s_gate : &l->gate, *up = shared ? &l->s_up : &l->up;
    const stack *down = shared ? &l->s_down : &l->down;
    if (moe_is_int8(p, shared))
        feed_forward_int8(to, factor, gate, up, down, e, x8);
    else if (on.cuda)
        feed_forward_in(to, factor, gate, up, down, e, x, p, moe_is_wide(p, shared));
    else
        feed_forward(to->y, factor, gate, up, down, e, x8, p->precision == GQMM_INT8);
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

static bool want_token(const wanted *to, const moe_call *c, int64_t t)
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
    if (moe_is_int8(p, false))
        round_int8_wide(x8, x32, p->d);
    else if (p->precision == GQMM_INT8)
        round_int8(x8, x32, p->d);
    for (int64_t i = 0; i < p->d; i++)
        to->y[i] = to->loose[i] = to->noise[i] = 0;
    if (!p->given) {
        product(logits, &l->router, 0, 0, p->e, x);
        ok = same_choice(c, t, logits);
    }
    const int32_t *ids = (const int32_t *)(const void *)(c->ids.seen + c->ids.front) + t * p->s;
    for (int s = 0; ok && s < p->s; s++)
        if (ids[s] >= 0 && ids[s] < p->e)
            forward(to, element(c->weights.seen + c->weights.front, GQMM_F32, t * p->s + s), l,
                    false, ids[s], x, x8, p);
    if (ok && p->shared) {
        if (p->s_scale)
            product(&logit, &l->s_scale, 0, 0, 1, x);
        forward(to, p->s_scale ? sigmoid(logit) : 1, l, true, 0, x, x8, p);
    }
    free(x);
    free(x8);
    free(logits);
    free(x32);
    return ok;
}

/* Errors allowed, as shares of the output's size: of one output, and of the mean square; what is
 * known of h and of weights in bf16 comes on top. Of a device's int8 too. */
static double share_of(const plan *p, bool mean)
{
    const double step = type_rounding(p->x_type); /* many pairs: each slot's row is rounded too */
    const double slots = on.cuda && p->t * p->s > 4096 ? (mean ? step * step : 4 * step) : 0;
    if (p->precision == GQMM_INT8 && !on.cuda)
        return mean ? 5e-4 : 0.15;
    return slots + (mean ? 1e-9 : 4e-5);
}

static bool moe_check(const moe_call *c)
{
    const plan *p = c->p;
    const int64_t every = 1 + p->t / 24;
    const double floor = p->y_type == GQMM_BF16 ? 8e-6 : p->y_type == GQMM_F16 ? 2e-7 : 0;
    double *want = make(3 * p->d, sizeof *want);
    const wanted to = {want, want + p->d, want + 2 * p->d};
    double noise = 0, power = 0, allowed = 0, excess;
    bool ok = true;
    for (int64_t t = 0; ok && t < p->t; t++) {
        double rms = 0;
        if (t % every && t != p->t - 1)
            continue;
        ok = want_token(&to, c, t);
        for (int64_t i = 0; i < p->d; i++)
            rms += want[i] * want[i] / (double)p->d;
        for (int64_t i = 0; ok && i < p->d; i++) {
            const double got = element(c->y.seen + c->y.front, p->y_type, t * c->y_step + i);
            const double bound = share_of(p, false) * (sqrt(rms) + fabs(want[i])) + to.loose[i] +
                                 7 * to.noise[i] + 1e-7;
            noise += (got - want[i]) * (got - want[i]);
            power += want[i] * want[i];
            allowed += to.loose[i] * to.loose[i] + to.noise[i] * to.noise[i];
            if (!within(got, want[i], bound, fabs(want[i]), p->y_type, &excess))
                ok = fail("y[%lld, %lld] is %.9g, expected %.9g +- %.2g", (long long)t,
                          (long long)i, got, want[i], bound);
        }
    }
    free(want);
    if (ok && !(noise <= (share_of(p, true) + floor) * power + allowed + 1e-30))
        ok = fail("mean square error %.3g of the definition's, more than %.3g", noise / power,
                  share_of(p, true) + floor + allowed / power);
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
