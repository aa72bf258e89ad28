/* SPDX-License-Identifier: MIT */
/* What a layer needs besides the products: one table of operations for each device.
 *
 * The value of a token depends on that token and those before it, in one fixed order: never on
 * the batch it came in, nor on the number of threads.
 *
 * On the CPU an operation is done when it returns. Elsewhere it may only have been started, behind
 * the products called before it; finish() waits for all of them and says what failed. What
 * operations and products read and write lies in memory of gqmm_session_buffer(), weights of norms
 * where gqmm_load_vector() puts them. */
#ifndef GQMM_MODEL_OPS_H
#define GQMM_MODEL_OPS_H

#include "gqmm.h"

/* Keys and values of one layer: room for `capacity` positions, a multiple of gqmm_kv_round().
 * Their layout is the device's own, which reads there how many positions came before the batch:
 * a recorded call then serves every position. */
typedef struct gqmm_kv {
    float *k, *v;
    const int64_t *length; /* memory of the device; NULL on the CPU */
    int64_t capacity;
    int32_t n_kv_heads, head_dim;
} gqmm_kv;

/* Norm of each head with weight [head_dim], then NEOX rotation of its first n_rot values (the
 * pair of i is i + n_rot / 2) by table [n_rows, n_rot]. x [n_rows, n_heads, head_dim] in place. */
typedef struct gqmm_head_norm_rope {
    float *x;
    const float *weight;
    const float *table;
    float eps;
    int32_t n_heads, head_dim, n_rot;
    int64_t n_rows;
    int64_t stride; /* devices: elements from row to row of x; 0: dense */
} gqmm_head_norm_rope;

/* Causal attention of n_tokens new tokens, the first at position `first`:
 * y[t, h] = sum over p <= first + t of softmax(q[t, h] . k[p, g] * scale) * v[p, g],
 * g = h / (n_heads / n_kv_heads). q, y [n_tokens, n_heads, head_dim] may not overlap;
 * scratch: attend_scratch() floats. */
typedef struct gqmm_attention {
    float *y;
    const float *q;
    gqmm_kv kv;
    float *scratch;
    int64_t first, n_tokens;
    int64_t q_stride; /* devices: elements from token to token; 0: dense */
    int32_t n_heads;
    float scale;
} gqmm_attention;

/* What only devices have. */
typedef struct gqmm_remote_ops {
    /* gqmm_rope_table() for positions *length, *length + 1, ... */
    void (*rope)(gqmm_context *ctx, float *table, const double *inv_freq, const int64_t *length,
                 int64_t n_rows, int32_t n_rot);
    /* norm_rope of queries and of keys, then store of those keys and of values, whose stride is
     * that of the keys: one launch. */
    void (*heads)(gqmm_context *ctx, const gqmm_head_norm_rope *q, const gqmm_head_norm_rope *k,
                  const gqmm_kv *kv, const float *v);
    void (*clear)(gqmm_context *ctx, void *memory, size_t bytes);
    /* Memory of the host that copies need no detour for; NULL if there is none. */
    void *(*host_alloc)(size_t bytes);
    void (*host_free)(void *memory);
    /* Calls between the two are recorded, not run; replay() runs them. A recording that was given
     * out is to be forgotten. */
    gqmm_status (*record_begin)(gqmm_context *ctx, gqmm_error *err);
    gqmm_status (*record_end)(gqmm_context *ctx, void **recording, gqmm_error *err);
    gqmm_status (*replay)(gqmm_context *ctx, void *recording, gqmm_error *err);
    void (*forget)(void *recording);
} gqmm_remote_ops;

typedef struct gqmm_ops {
    const char *device;
    /* x += add where add is given, then y = x / sqrt(mean(x^2) + eps) * weight by rows; [n_rows,
     * n]. y may be x, add may not. */
    void (*norm)(gqmm_context *ctx, float *y, float *x, const float *add, const float *weight,
                 float eps, int64_t n_rows, int64_t n);
    /* x += y, [n_rows, n]. */
    void (*add)(gqmm_context *ctx, float *x, const float *y, int64_t n_rows, int64_t n);
    void (*norm_rope)(gqmm_context *ctx, const gqmm_head_norm_rope *op);
    /* Keys and values [n, n_kv_heads, head_dim] of positions first, first + 1, ... */
    void (*store)(gqmm_context *ctx, const gqmm_kv *kv, const float *k, const float *v,
                  int64_t first, int64_t n);
    void (*attend)(gqmm_context *ctx, const gqmm_attention *op);
    /* Floats of scratch that attend() needs for sequences of up to `positions`. */
    int64_t (*attend_scratch)(int64_t positions, int32_t n_heads, int32_t head_dim);
    gqmm_status (*finish)(gqmm_context *ctx, gqmm_error *err);
    const gqmm_remote_ops *remote; /* NULL on the CPU; else norm_rope and store are */
} gqmm_ops;

extern const gqmm_ops gqmm_ops_cpu, gqmm_ops_cuda;

/* Positions rounded up to what a cache holds. */
int64_t gqmm_kv_round(int64_t positions);

/* In ops_attention.c, for the CPU's table. */
void gqmm_cpu_store(gqmm_context *ctx, const gqmm_kv *kv, const float *k, const float *v,
                    int64_t first, int64_t n);
void gqmm_cpu_attend(gqmm_context *ctx, const gqmm_attention *op);
int64_t gqmm_cpu_attend_scratch(int64_t positions, int32_t n_heads, int32_t head_dim);

/* inv_freq[i] = base^(-2 i / n_rot), i < n_rot / 2. */
void gqmm_rope_frequencies(double *inv_freq, int32_t n_rot, double base);
/* table[t, :] = cosines, then sines, of position first + t; [n_rows, n_rot]. */
void gqmm_rope_table(float *table, const double *inv_freq, int64_t first, int64_t n_rows,
                     int32_t n_rot);

#endif
