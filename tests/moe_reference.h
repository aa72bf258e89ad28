/* SPDX-License-Identifier: MIT */
/* A mixture-of-experts layer and what it computes, in double, from the words of gqmm.h. */
#ifndef TESTS_MOE_REFERENCE_H
#define TESTS_MOE_REFERENCE_H

#include "harness.h"
#include "reference.h"

static gqmm_context *ctx;
static gqmm_error err;

/* ------------------------------------------------------------------ a layer */

typedef struct layer {
    stack gate, up, down, router, s_gate, s_up, s_down, s_scale;
    bool fused, shared, s_fused;
    int64_t d, f, g; /* D, F, G */
    float *bias;
} layer;

/* A stack scaled down, so that products of products stay of ordinary size: Gaussian weights. */
static stack soft(const char *format, int64_t e, int64_t rows, int64_t cols, bool dense)
{
    const int64_t gap = dense ? 0 : rows % 3;
    stack s = stack_make(NULL, format, e, rows, cols, (stack_how){.row_gap = gap});
    float *w = make(cols, sizeof *w);
    const int block = s.f->pub.block_elems;
    for (int64_t r = 0; r < e * rows; r++) {
        uint8_t *p[3];
        stack_row(&s, r / rows, r % rows, p);
        for (int64_t k = 0; k < cols; k += block) {
            for (int i = 0; i < block; i++)
                w[i] = rnd_gauss() / sqrtf((float)cols);
            s.f->quantize(s.f, p, w, NULL, 0.0f, GQMM_F32);
            for (int i = 0; i < s.f->pub.n_planes; i++)
                p[i] += s.f->pub.plane_bytes[i];
        }
    }
    free(w);
    if (gqmm_weights_create(ctx, &s.d, &s.w, &err) != GQMM_OK) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    return s;
}

typedef struct plan {
    const char *gate, *down, *router;
    const char *up; /* where it is a matrix of its own; NULL: another format than gate's */
    int64_t e, d, f;
    int64_t t;
    int s;
    bool fused, shared, s_fused, s_scale;
    int scoring, renormalize, precision, x_type, y_type;
    float scale;
    bool bias, given; /* given: ids and weights are inputs */
    bool dense;       /* weights without gaps between rows */
} plan;

static layer layer_make(const plan *p)
{
    layer l = {.fused = p->fused,
               .shared = p->shared,
               .s_fused = p->s_fused,
               .d = p->d,
               .f = p->f,
               .g = 64};
    l.gate = soft(p->gate, p->e, p->fused ? 2 * p->f : p->f, p->d, p->dense);
    if (!p->fused)
        l.up = soft(p->up ? p->up : "q8_0", p->e, p->f, p->d, p->dense);
    l.down = soft(p->down, p->e, p->d, p->f, p->dense);
    if (!p->given)
        l.router = soft(p->router, 1, p->e, p->d, p->dense);
    if (p->shared) {
        l.s_gate = soft("q5_1", 1, p->s_fused ? 2 * l.g : l.g, p->d, p->dense);
        if (!p->s_fused)
            l.s_up = soft("affine6_g32_bf16", 1, l.g, p->d, p->dense);
        l.s_down = soft("mlx_mxfp4", 1, p->d, l.g, p->dense);
        if (p->s_scale)
            l.s_scale = soft("f16", 1, 1, p->d, p->dense);
    }
    if (p->bias) {
        l.bias = make(p->e, sizeof *l.bias);
        for (int64_t e = 0; e < p->e; e++)
            l.bias[e] = rnd_gauss();
    }
    return l;
}

static void layer_free(layer *l)
{
    stack *all[] = {&l->gate,   &l->up,   &l->down,   &l->router,
                    &l->s_gate, &l->s_up, &l->s_down, &l->s_scale};
    for (int i = 0; i < COUNT(all); i++)
        if (all[i]->f)
            stack_free(all[i]);
    free(l->bias);
}

/* ------------------------------------------------------------------ the block in double */

/* Rows [r0, r0 + n) of expert e times x. */
static void product(double *y, const stack *s, int64_t e, int64_t r0, int64_t n, const double *x)
{
    double *w = make(s->cols, sizeof *w);
    for (int64_t i = 0; i < n; i++) {
        stack_decode(s, e, r0 + i, w, NULL, NULL);
        y[i] = 0;
        for (int64_t k = 0; k < s->cols; k++)
            y[i] += w[k] * x[k];
    }
    free(w);
}

static double sigmoid(double v)
{
    return 1.0 / (1.0 + exp(-v));
}

/* y += factor * down . (silu(gate . x) * (up . x)), h rounded to int8 if asked. */
static void feed_forward(double *y, double factor, const stack *gate, const stack *up,
                         const stack *down, int64_t e, const double *x, int int8)
{
    const int64_t f = down->cols, d = down->rows;
    double *a = make(f, sizeof *a), *b = make(f, sizeof *b), *out = make(d, sizeof *out);
    float *h32 = make(f, sizeof *h32);
    product(a, gate, e, 0, f, x);
    product(b, up->f ? up : gate, e, up->f ? 0 : f, f, x);
    for (int64_t i = 0; i < f; i++) {
        a[i] = a[i] * sigmoid(a[i]) * b[i];
        h32[i] = (float)a[i];
    }
    if (int8)
        round_int8(a, h32, f);
    product(out, down, e, 0, d, a);
    for (int64_t i = 0; i < d; i++)
        y[i] += factor * out[i];
    free(a);
    free(b);
    free(out);
    free(h32);
}

/* The S best experts of a token, ties to the lower id, and their weights. */
static void route(int32_t *ids, double *weights, const double *logits, const plan *p,
                  const float *bias)
{
    bool *taken = make(p->e, sizeof *taken);
    double sum = 0, all = 0, top = -INFINITY;
    for (int64_t e = 0; e < p->e; e++)
        top = fmax(top, logits[e]);
    for (int64_t e = 0; e < p->e; e++)
        all += exp(logits[e] - top);
    for (int s = 0; s < p->s; s++) {
        int64_t best = -1;
        double best_score = 0;
        for (int64_t e = 0; e < p->e; e++) {
            const double score = (p->scoring == GQMM_SIGMOID ? sigmoid(logits[e]) : logits[e]) +
                                 (bias ? (double)bias[e] : 0);
            if (!taken[e] && (best < 0 || score > best_score)) {
                best = e;
                best_score = score;
            }
        }
        taken[best] = true;
        ids[s] = (int32_t)best;
        weights[s] =
            p->scoring == GQMM_SIGMOID ? sigmoid(logits[best]) : exp(logits[best] - top) / all;
        sum += weights[s];
    }
    for (int s = 0; s < p->s; s++)
        weights[s] *= (p->scale != 0.0f ? (double)p->scale : 1) / (p->renormalize ? sum : 1);
    free(taken);
}

#endif
