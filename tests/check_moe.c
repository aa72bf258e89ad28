/* SPDX-License-Identifier: MIT */
/* gqmm_moe against a feed-forward block written here in double from the words of gqmm.h: routing,
 * shared expert, formats, strides, both precisions, and the errors of the call. */
#include "moe_reference.h"

#include "kernel/silu.h"

/* ------------------------------------------------------------------ one call compared */

typedef struct call {
    gqmm_moe_desc m;
    uint8_t *x, *y;
    int32_t *ids;
    float *weights;
    int64_t x_step, y_step;
} call;

static call call_make(const plan *p, const layer *l)
{
    call c = {.x_step = p->d + 2, .y_step = p->d + 3};
    GQMM_INIT(c.m);
    c.x = make(p->t * c.x_step, gqmm_type_size(p->x_type));
    c.y = make(p->t * c.y_step, gqmm_type_size(p->y_type));
    c.ids = make(p->t * p->s, sizeof *c.ids);
    c.weights = make(p->t * p->s, sizeof *c.weights);
    memset(c.y, 0xcd, (size_t)(p->t * c.y_step) * gqmm_type_size(p->y_type));
    for (int64_t i = 0; i < p->t * c.x_step; i++)
        set_element(c.x, p->x_type, i, rnd_gauss());
    for (int64_t i = 0; p->given && i < p->t * p->s; i++) {
        c.ids[i] = (int32_t)rnd_below(p->e + 1) - 1; /* -1 and duplicates included */
        c.weights[i] = rnd_gauss();
    }
    c.m.precision = p->precision;
    c.m.gate = l->gate.w;
    c.m.up = l->up.w;
    c.m.down = l->down.w;
    c.m.router = l->router.w;
    c.m.router_bias = l->bias;
    c.m.shared_gate = l->s_gate.w;
    c.m.shared_up = l->s_up.w;
    c.m.shared_down = l->s_down.w;
    c.m.shared_scale = l->s_scale.w;
    c.m.n_tokens = p->t;
    c.m.n_slots = p->s;
    c.m.scoring = p->scoring;
    c.m.renormalize = p->renormalize;
    c.m.routed_scale = p->scale;
    c.m.y_type = p->y_type;
    c.m.x_type = p->x_type;
    c.m.x = c.x;
    c.m.y = c.y;
    c.m.x_row_stride = c.x_step;
    c.m.y_row_stride = c.y_step;
    c.m.ids = c.ids;
    c.m.weights = c.weights;
    return c;
}

static void call_free(call *c)
{
    free(c->x);
    free(c->y);
    free(c->ids);
    free(c->weights);
}

/* What the token's y should be, in double; ids are those that gqmm chose, if its choice is right.
 */
static bool want_token(double *y, const plan *p, const layer *l, const call *c, int64_t t)
{
    double *x = make(p->d, sizeof *x), *xq = make(p->d, sizeof *xq);
    double *logits = make(p->e, sizeof *logits), *weights = make(p->s, sizeof *weights);
    float *x32 = make(p->d, sizeof *x32);
    int32_t *ids = make(p->s, sizeof *ids);
    const int32_t *got = c->ids + t * p->s;
    bool ok = true;
    for (int64_t k = 0; k < p->d; k++)
        xq[k] = x[k] = (double)(x32[k] = (float)element(c->x, p->x_type, t * c->x_step + k));
    if (p->precision == GQMM_INT8)
        round_int8(xq, x32, p->d);
    memset(y, 0, (size_t)p->d * sizeof *y);
    if (!p->given) {
        product(logits, &l->router, 0, 0, p->e, x);
        route(ids, weights, logits, p, l->bias);
    }
    for (int s = 0; ok && s < p->s; s++) {
        const double weight = (double)c->weights[t * p->s + s];
        if (!p->given && (ids[s] != got[s] || !(fabs(weight - weights[s]) < 1e-5)))
            ok = fail("token %lld slot %d: expert %d with %.7g, expected %d with %.7g",
                      (long long)t, s, got[s], weight, ids[s], weights[s]);
        if (ok && got[s] >= 0)
            feed_forward(y, weight, &l->gate, &l->up, &l->down, got[s], xq,
                         p->precision == GQMM_INT8);
    }
    if (ok && p->shared) {
        double logit = 0;
        if (p->s_scale)
            product(&logit, &l->s_scale, 0, 0, 1, x);
        feed_forward(y, p->s_scale ? sigmoid(logit) : 1, &l->s_gate, &l->s_up, &l->s_down, 0, xq,
                     p->precision == GQMM_INT8);
    }
    free(x);
    free(xq);
    free(logits);
    free(weights);
    free(x32);
    free(ids);
    return ok;
}

/* Exact: every element within fp32's noise. int8: h is rounded from numbers that differ in the last
 * bit, so single codes may differ by one; the mean square of the difference stays far below. */
static bool compare(const plan *p, const layer *l, const call *c)
{
    const int64_t step = p->t > 40 ? 37 : 1; /* some tokens of a long batch */
    double *want = make(p->d, sizeof *want), noise = 0, power = 0;
    bool ok = true;
    for (int64_t t = 0; ok && t < p->t; t += step) {
        double rms = 0;
        ok = want_token(want, p, l, c, t);
        for (int64_t i = 0; i < p->d; i++)
            rms += want[i] * want[i] / (double)p->d;
        for (int64_t i = 0; ok && i < p->d; i++) {
            const double got = element(c->y, p->y_type, t * c->y_step + i);
            const double bound = (p->precision ? 2e-2 : 2e-5) * (sqrt(rms) + fabs(want[i])) +
                                 1.01 * type_rounding(p->y_type) * fabs(want[i]) + 1e-7;
            noise += (got - want[i]) * (got - want[i]);
            power += want[i] * want[i];
            if (!(fabs(got - want[i]) <= bound))
                ok = fail("y[%lld, %lld] is %.9g, expected %.9g +- %.2g", (long long)t,
                          (long long)i, got, want[i], bound);
        }
    }
    const double floor = p->y_type == GQMM_BF16 ? 8e-6 : p->y_type == GQMM_F16 ? 2e-7 : 1e-9;
    if (ok && !(noise <= (p->precision ? 2e-6 + floor : floor) * power + 1e-30))
        ok = fail("mean square error %.3g of the definition's", noise / power);
    const size_t size = gqmm_type_size(p->y_type);
    for (int64_t i = 0; ok && i < p->t * c->y_step * (int64_t)size; i++)
        if (i / (int64_t)size % c->y_step >= p->d && c->y[i] != 0xcd)
            ok = fail("y was written between its rows");
    free(want);
    return ok;
}

static bool run_plan(const plan *p)
{
    layer l = layer_make(p);
    call c = call_make(p, &l);
    char text[500];
    bool ok = gqmm_moe(ctx, &c.m, &err) == GQMM_OK ? compare(p, &l, &c) : fail("%s", err.text);
    if (ok && !p->given) { /* ids and weights are not needed: the same bytes of y */
        const size_t bytes = (size_t)(p->t * c.y_step) * gqmm_type_size(p->y_type);
        uint8_t *first = make((int64_t)bytes, 1);
        memcpy(first, c.y, bytes);
        c.m.ids = NULL;
        c.m.weights = NULL;
        ok = gqmm_moe(ctx, &c.m, &err) == GQMM_OK && memcmp(first, c.y, bytes) == 0;
        free(first);
        if (!ok)
            fail("other bits without ids and weights as outputs");
    }
    if (!ok) {
        snprintf(text, sizeof text, "%.499s", h.why);
        snprintf(h.why, sizeof h.why,
                 "T %lld S %d E %lld, %s%s %s, %s, renormalize %d, shared %d, x %s y %s: %s",
                 (long long)p->t, p->s, (long long)p->e, p->gate, p->fused ? " fused" : "",
                 p->precision ? "int8" : "exact",
                 p->given     ? "given ids"
                 : p->scoring ? "sigmoid"
                              : "softmax",
                 p->renormalize, p->shared, type_names[p->x_type], type_names[p->y_type], text);
    }
    call_free(&c);
    layer_free(&l);
    return ok;
}

/* ------------------------------------------------------------------ checks */

/* With the given ids: small formats that have a quantiser in any state of the tree. */
static plan random_plan(int i)
{
    static const char *const gates[] = {"q8_0", "q4_0", "f32", "affine8_g64_f16", "q5_1", "bf16"};
    static const char *const downs[] = {"affine6_g64_bf16", "q8_0", "mlx_mxfp8", "f16", "q4_1"};
    static const char *const routers[] = {"f32", "f16", "bf16", "q8_0"};
    static const int64_t tokens[] = {0, 1, 2, 3, 17, 64}, experts[] = {1, 2, 5, 8, 16};
    plan p = {.gate = gates[i % COUNT(gates)],
              .down = downs[i % COUNT(downs)],
              .router = routers[i % COUNT(routers)],
              .e = experts[rnd_below(COUNT(experts))],
              .d = 64 * (1 + rnd_below(5)),
              .f = 64 * (1 + rnd_below(3)),
              .t = tokens[rnd_below(COUNT(tokens))]};
    p.s = 1 + (int)rnd_below(p.e < 6 ? p.e : 6);
    p.fused = rnd() & 1;
    p.shared = rnd() & 1;
    p.s_fused = rnd() & 1;
    p.s_scale = rnd() & 1;
    p.scoring = (int)rnd_below(2);
    p.renormalize = (int)rnd_below(2);
    p.precision = (int)rnd_below(2);
    p.x_type = (int)rnd_below(3);
    p.y_type = (int)rnd_below(3);
    p.scale = rnd_below(3) ? 0.0f : 2.5f;
    p.bias = p.scoring == GQMM_SIGMOID && rnd_below(2);
    p.given = rnd_below(3) == 0;
    return p;
}

static bool random_layers(void)
{
    const int n = h.quick ? 25 : 220;
    bool ok = true;
    for (int i = 0; ok && i < n; i++) {
        const plan p = random_plan(i);
        ok = run_plan(&p);
    }
    note("%d random layers", n);
    return ok;
}

/* More than one segment (512 rows) on one expert; experts without tokens. */
static bool long_batch(void)
{
    plan p = {.gate = "q4_0",
              .down = "q8_0",
              .router = "f32",
              .e = 1,
              .d = 64,
              .f = 64,
              .t = 513,
              .s = 1,
              .shared = true};
    bool ok = run_plan(&p);
    p.e = 40;
    p.s = 2;
    p.precision = GQMM_INT8;
    ok = ok && run_plan(&p);
    p.given = true;
    p.s = 40; /* more rows of one expert than tokens: duplicates */
    p.e = 2;
    p.t = 60;
    return ok && run_plan(&p);
}

/* Equal logits: the lower ids win, in order. Router rows that are all the same make them. */
static bool ties(void)
{
    const plan p = {.gate = "q8_0",
                    .down = "q8_0",
                    .router = "f32",
                    .e = 9,
                    .d = 64,
                    .f = 64,
                    .t = 5,
                    .s = 4,
                    .renormalize = 1};
    layer l = layer_make(&p);
    for (int64_t r = 1; r < p.e; r++) {
        uint8_t *from[3], *to[3];
        stack_row(&l.router, 0, r == 5 ? 5 : 0, from);
        stack_row(&l.router, 0, r, to);
        memmove(to[0], from[0], 64 * sizeof(float));
    }
    call c = call_make(&p, &l);
    bool ok = gqmm_moe(ctx, &c.m, &err) == GQMM_OK;
    for (int64_t t = 0; ok && t < p.t; t++) {
        int32_t next = 0;
        for (int s = 0; ok && s < p.s; s++) {
            const int32_t id = c.ids[t * p.s + s];
            if (id != 5 && id != next++)
                ok =
                    fail("token %lld slot %d chose %d, expected %d", (long long)t, s, id, next - 1);
        }
    }
    call_free(&c);
    layer_free(&l);
    return ok;
}

/* A token's NaN stays its own; a NaN logit never wins while numbers are left. */
static bool not_numbers(void)
{
    const plan p = {.gate = "q8_0",
                    .down = "q8_0",
                    .router = "f32",
                    .e = 4,
                    .d = 64,
                    .f = 64,
                    .t = 3,
                    .s = 2,
                    .shared = true};
    for (int precision = 0; precision < 2; precision++) {
        layer l = layer_make(&p);
        call c = call_make(&p, &l);
        c.m.precision = precision;
        set_element(c.x, GQMM_F32, c.x_step + 7, precision ? INFINITY : NAN);
        bool ok = gqmm_moe(ctx, &c.m, &err) == GQMM_OK;
        for (int64_t t = 0; ok && t < p.t; t++)
            for (int64_t i = 0; ok && i < p.d; i++)
                if (isfinite(element(c.y, GQMM_F32, t * c.y_step + i)) != (t != 1))
                    ok = fail("y[%lld, %lld] is %g", (long long)t, (long long)i,
                              element(c.y, GQMM_F32, t * c.y_step + i));
        for (int64_t i = 0; ok && i < p.t * p.s; i++)
            if (c.ids[i] < 0 || c.ids[i] >= p.e)
                ok = fail("a NaN made expert %d", c.ids[i]);
        uint8_t *row[3]; /* expert 2's logit is NaN for every token */
        set_element(c.x, GQMM_F32, c.x_step + 7, 1.0f);
        stack_row(&l.router, 0, 2, row);
        set_element(row[0], GQMM_F32, 0, NAN);
        ok = ok && gqmm_moe(ctx, &c.m, &err) == GQMM_OK;
        for (int64_t i = 0; ok && i < p.t * p.s; i++)
            if (c.ids[i] == 2)
                ok = fail("the expert with a NaN logit was chosen");
        call_free(&c);
        layer_free(&l);
        if (!ok)
            return false;
    }
    return true;
}

#define BAD(change, status, words) \
    do { \
        c.m = good; \
        change; \
        memset(c.y, 0xcd, y_bytes); \
        const gqmm_status got = gqmm_moe(ctx, &c.m, &err); \
        if (ok && (got != (status) || !strstr(err.text, words))) \
            ok = fail("expected %s with \"%s\", got %s: %s", gqmm_status_name(status), words, \
                      gqmm_status_name(got), err.text); \
        for (size_t b = 0; b < y_bytes; b++) \
            if (ok && c.y[b] != 0xcd) \
                ok = fail("\"%s\": y was written", words); \
    } while (0)

static bool errors(void)
{
    plan p = {.gate = "q8_0",
              .down = "q4_0",
              .router = "f32",
              .e = 4,
              .d = 64,
              .f = 32,
              .t = 3,
              .s = 2,
              .shared = true,
              .s_scale = true};
    layer l = layer_make(&p);
    call c = call_make(&p, &l);
    const gqmm_moe_desc good = c.m;
    const size_t y_bytes = (size_t)(p.t * c.y_step) * 4;
    float bias[4] = {0};
    int32_t ids[6] = {0, 1, 2, -1, 4, 0};
    bool ok = true;
    BAD(c.m.struct_size = 16, GQMM_E_ARG, "struct_size is 16");
    BAD(c.m.gate = NULL, GQMM_E_ARG, "gate is NULL");
    BAD(c.m.down = NULL, GQMM_E_ARG, "down is NULL");
    BAD(c.m.up = l.down.w, GQMM_E_SHAPE, "up is [4, 64, 32], expected [4, 32, 64]");
    BAD(c.m.down = l.gate.w, GQMM_E_SHAPE, "down is [4, 32, 64], expected [4, 64, 32]");
    BAD(c.m.up = NULL, GQMM_E_SHAPE, "expected [4, 64, 16]");
    BAD(c.m.router = l.gate.w, GQMM_E_SHAPE, "router is [4, 32, 64], expected [1, 4, 64]");
    BAD(c.m.shared_gate = NULL, GQMM_E_ARG, "shared_gate is NULL");
    BAD(c.m.shared_down = NULL, GQMM_E_ARG, "shared_down is NULL");
    BAD(c.m.shared_scale = l.router.w, GQMM_E_SHAPE, "shared_scale is [1, 4, 64]");
    BAD(c.m.shared_down = l.down.w, GQMM_E_SHAPE, "shared_down is");
    BAD(c.m.n_slots = 0, GQMM_E_SHAPE, "n_slots is 0, expected 1 to 4");
    BAD(c.m.n_slots = 5, GQMM_E_SHAPE, "n_slots is 5");
    BAD(c.m.n_tokens = -1, GQMM_E_SHAPE, "n_tokens is -1");
    BAD(c.m.scoring = 2, GQMM_E_ARG, "scoring is 2");
    BAD(c.m.precision = 3, GQMM_E_ARG, "precision is 3");
    BAD(c.m.x_type = 3, GQMM_E_ARG, "x_type is 3");
    BAD(c.m.y_type = 8, GQMM_E_ARG, "y_type is 8");
    BAD(c.m.y_row_stride = 63, GQMM_E_SHAPE, "y_row_stride is 63");
    BAD(c.m.x_row_stride = -5, GQMM_E_SHAPE, "x_row_stride is -5");
    BAD(c.m.router_bias = bias, GQMM_E_ARG, "router_bias");
    BAD(c.m.x = NULL, GQMM_E_ARG, "x is NULL");
    BAD(c.m.y = NULL, GQMM_E_ARG, "y is NULL");
    BAD(c.m.x = c.y, GQMM_E_ARG, "y and x share memory");
    BAD(c.m.weights = (float *)(void *)c.y, GQMM_E_ARG, "y and weights share memory");
    BAD(c.m.weights = (float *)(void *)c.m.ids, GQMM_E_ARG, "ids and weights share memory");
    BAD((c.m.router = NULL, c.m.ids = NULL), GQMM_E_ARG, "ids is NULL");
    BAD((c.m.router = NULL, c.m.weights = NULL), GQMM_E_ARG, "weights is NULL");
    BAD(c.m.ids = (int32_t *)(void *)((char *)ids + 1), GQMM_E_ARG,
        "ids is not aligned to 4 bytes");
    BAD((c.m.router = NULL, c.m.ids = ids), GQMM_E_INDEX, "ids[2, 0] is 4, expected -1");
    BAD((c.m.workspace = c.x, c.m.workspace_bytes = 32), GQMM_E_NOMEM, "32 bytes");
    BAD(c.m.n_tokens = INT64_MAX / 4, GQMM_E_SHAPE, "2^63");
    for (int i = 0; ok && i < p.t * p.s; i++)
        if (c.ids[i] != 0 || c.weights[i] != 0.0f)
            ok = fail("a refused call wrote ids or weights");
    c.m = good;
    NEED(!ok || gqmm_moe(ctx, &c.m, &err) == GQMM_OK, "the right call: %s", err.text);
    call_free(&c);
    layer_free(&l);
    return ok;
}

/* Exactly the workspace asked for, between guard pages; nothing allocated; NOMEM a byte below. */
static bool workspace_of(const plan *p, gqmm_context *counted, const counter *count)
{
    layer l = layer_make(p);
    call c = call_make(p, &l);
    gqmm_moe_desc blind = c.m;
    const size_t y_bytes = (size_t)(p->t * c.y_step) * gqmm_type_size(p->y_type);
    uint8_t *first = make((int64_t)y_bytes, 1);
    size_t bytes = 0;
    blind.x = blind.y = NULL;
    bool ok = gqmm_moe(ctx, &c.m, &err) == GQMM_OK;
    memcpy(first, c.y, y_bytes);
    ok = ok && gqmm_workspace_size(counted, GQMM_OP_MOE, &blind, &bytes, &err) == GQMM_OK;
    arena a = arena_make(bytes);
    for (int right = 0; ok && right < 2; right++) {
        const int64_t before = count->requests;
        memset(a.base, 0xff, a.bytes);
        memset(c.y, 0xcd, y_bytes);
        c.m.workspace = arena_at(&a, bytes, right);
        c.m.workspace_bytes = bytes;
        ok = gqmm_moe(counted, &c.m, &err) == GQMM_OK && memcmp(first, c.y, y_bytes) == 0;
        if (!ok || count->requests != before)
            ok = fail("with %zu bytes of workspace: other bits, or an allocation", bytes);
        memset(c.y, 0xcd, y_bytes);
        c.m.workspace_bytes = bytes - 1;
        if (ok && (gqmm_moe(counted, &c.m, &err) != GQMM_E_NOMEM || (y_bytes && c.y[0] != 0xcd)))
            ok = fail("a byte less was taken");
    }
    arena_free(&a);
    free(first);
    call_free(&c);
    layer_free(&l);
    return ok;
}

static bool workspace(void)
{
    counter count = {.fail_at = -1};
    const gqmm_allocator memory = {counted_alloc, counted_release, &count};
    gqmm_context_desc d;
    gqmm_context *counted;
    bool ok = true;
    GQMM_INIT(d);
    d.n_threads = 2;
    d.allocator = &memory;
    NEED(gqmm_context_create(&d, &counted, &err) == GQMM_OK, "%s", err.text);
    for (int i = 0; ok && i < (h.quick ? 6 : 30); i++) {
        plan p = random_plan(i);
        p.t = 1 + p.t % 20;
        ok = workspace_of(&p, counted, &count);
    }
    gqmm_context_destroy(counted);
    NEED(!ok || count.live_blocks == 0, "%lld blocks left", (long long)count.live_blocks);
    return ok;
}

/* The exponential against libm's in double, and the blocks of activations against their definition
 * with rintf, which the vectorisable code does not call. */
static bool small_functions(void)
{
    for (double x = -87.0; x <= 88.0; x += h.quick ? 0.0137 : 0.000137) {
        const double want = exp((double)(float)x), got = gqmm_exp((float)x);
        NEED(fabs(got - want) <= 2 * FLT_EPSILON * want, "exp(%g) is %g", x, got);
    }
    NEED(isnan(gqmm_exp(NAN)) && isnan(gqmm_silu(NAN)), "NaN is lost");
    NEED(gqmm_silu(0.0f) == 0.0f && gqmm_silu(200.0f) == 200.0f, "silu(0), silu(200)");
    NEED(fabsf(gqmm_silu(-200.0f)) < 1e-30f, "silu(-200) is %g", (double)gqmm_silu(-200.0f));
    for (int round = 0; round < 1000; round++) {
        float x[GQMM_ACT_ELEMS], amax = 0.0f;
        gqmm_act a;
        const int n = 1 + round % GQMM_ACT_ELEMS;
        for (int i = 0; i < n; i++) {
            x[i] = i % 3 ? rnd_gauss() : rintf(rnd_gauss() * 127.0f) / 254.0f; /* ties too */
            amax = fmaxf(amax, fabsf(x[i]));
        }
        gqmm_act_quantize(&a, x, n);
        for (int i = 0; i < GQMM_ACT_ELEMS; i++)
            NEED(a.q[i] == (i < n && amax > 0 ? (int)rintf(x[i] * (127.0f / amax)) : 0),
                 "q[%d] of %g is %d", i, (double)x[i], a.q[i]);
    }
    return true;
}

int main(int argc, char **argv)
{
    static const check_row rows[] = {
        {"random_layers", random_layers},    {"long_batch", long_batch}, {"ties", ties},
        {"not_numbers", not_numbers},        {"errors", errors},         {"workspace", workspace},
        {"small_functions", small_functions}};
    gqmm_context_desc d;
    GQMM_INIT(d);
    start("check_moe", argc, argv);
    d.n_threads = 2;
    if (gqmm_context_create(&d, &ctx, &err) != GQMM_OK)
        return 1;
    run_rows(rows, COUNT(rows));
    gqmm_context_destroy(ctx);
    return finish();
}
