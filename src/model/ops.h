/* SPDX-License-Identifier: MIT */
/* The small operations around the products, in plain C on the context's threads.
 * The value of a token depends on that token and those before it, in one fixed order: never on
 * the batch it came in, nor on the number of threads. */
#ifndef GQMM_MODEL_OPS_H
#define GQMM_MODEL_OPS_H

#include "gqmm.h"

/* y[t, :] = x[t, :] / sqrt(mean(x[t, :]^2) + eps) * weight; [n_rows, n]. y may be x. */
void gqmm_rms_norm(gqmm_context *ctx, float *y, const float *x, const float *weight, float eps,
                   int64_t n_rows, int64_t n);

/* x += y, [n]. */
void gqmm_add_rows(gqmm_context *ctx, float *x, const float *y, int64_t n_rows, int64_t n);

/* inv_freq[i] = base^(-2 i / n_rot), i < n_rot / 2. */
void gqmm_rope_frequencies(double *inv_freq, int32_t n_rot, double base);
/* table[t, :] = cosines, then sines, of position first + t; [n_rows, n_rot]. */
void gqmm_rope_table(float *table, const double *inv_freq, int64_t first, int64_t n_rows,
                     int32_t n_rot);

/* Per head: rms norm with weight [head_dim], then NEOX rotation of the first n_rot values (the
 * pair of i is i + n_rot / 2). x [n_rows, n_heads, head_dim] in place. */
typedef struct gqmm_head_norm_rope {
    float *x;
    const float *weight;
    const float *table;
    float eps;
    int32_t n_heads, head_dim, n_rot;
    int64_t n_rows;
} gqmm_head_norm_rope;
void gqmm_norm_rope(gqmm_context *ctx, const gqmm_head_norm_rope *op);

/* Causal attention of n_tokens new tokens, the first at position `first`:
 * y[t, h] = sum over p <= first + t of softmax(q[t, h] . k[p, g] * scale) * v[p, g],
 * g = h / (n_heads / n_kv_heads). q, y [n_tokens, n_heads, head_dim] may not overlap;
 * k, v [first + n_tokens, n_kv_heads, head_dim]. */
typedef struct gqmm_attention {
    float *y;
    const float *q, *k, *v;
    int64_t first, n_tokens;
    int32_t n_heads, n_kv_heads, head_dim;
    float scale;
} gqmm_attention;
void gqmm_attend(gqmm_context *ctx, const gqmm_attention *op);

#endif
