/* SPDX-License-Identifier: MIT */
/* Norm, rotation, residual on the CPU: rows are cut into tasks here, their arithmetic is in
 * simd_body.h. */
#include "model/ops.h"

#include "model/simd.h"

#include <math.h>

/* Rows per task: enough work to be worth a hand-over, few enough for a prompt to spread. */
enum { ROWS_PER_TASK = 16 };

/* A task over rows [i * ROWS_PER_TASK, ...) of n_rows. */
static void row_range(int32_t i, int64_t n_rows, int64_t *begin, int64_t *end)
{
    *begin = (int64_t)i * ROWS_PER_TASK;
    *end = *begin + ROWS_PER_TASK < n_rows ? *begin + ROWS_PER_TASK : n_rows;
}

/* One task: a hand-over would only cost. */
static void for_rows(gqmm_context *ctx, int64_t n_rows, void (*task)(void *arg, int32_t i),
                     void *arg)
{
    const int32_t n = (int32_t)((n_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK);
    if (n == 1)
        task(arg, 0);
    else if (n > 1)
        gqmm_parallel_for(ctx, n, task, arg);
}

typedef struct norm_args {
    const gqmm_simd *simd;
    float *y, *x;
    const float *add, *weight;
    float eps;
    int64_t n_rows, n;
} norm_args;

static void norm_task(void *arg, int32_t i)
{
    const norm_args *a = arg;
    int64_t begin, end;
    row_range(i, a->n_rows, &begin, &end);
    for (int64_t at = begin * a->n; at < end * a->n; at += a->n) {
        if (a->add)
            a->simd->add(a->x + at, a->add + at, a->n);
        if (a->y)
            a->simd->norm(a->y + at, a->x + at, a->weight, a->eps, a->n);
    }
}

static void norm(gqmm_context *ctx, float *y, float *x, const float *add, const float *weight,
                 float eps, int64_t n_rows, int64_t n)
{
    norm_args a = {gqmm_simd_of(ctx), y, x, add, weight, eps, n_rows, n};
    for_rows(ctx, n_rows, norm_task, &a);
}

static void add_rows(gqmm_context *ctx, float *x, const float *y, int64_t n_rows, int64_t n)
{
    norm_args a = {.simd = gqmm_simd_of(ctx), .x = x, .add = y, .n_rows = n_rows, .n = n};
    for_rows(ctx, n_rows, norm_task, &a);
}

void gqmm_rope_frequencies(double *inv_freq, int32_t n_rot, double base)
{
    for (int32_t i = 0; i < n_rot / 2; i++)
        inv_freq[i] = pow(base, -2.0 * i / n_rot);
}

/* Angles stay in double: at position 262144 a float angle would be off by 0.03. */
void gqmm_rope_table(float *table, const double *inv_freq, int64_t first, int64_t n_rows,
                     int32_t n_rot)
{
    const int32_t half = n_rot / 2;
    for (int64_t t = 0; t < n_rows; t++) {
        float *row = table + t * n_rot;
        for (int32_t i = 0; i < half; i++) {
            const double angle = (double)(first + t) * inv_freq[i];
            row[i] = (float)cos(angle);
            row[half + i] = (float)sin(angle);
        }
    }
}

typedef struct head_args {
    const gqmm_simd *simd;
    const gqmm_head_norm_rope *op;
} head_args;

static void norm_rope_task(void *arg, int32_t i)
{
    const head_args *a = arg;
    const gqmm_head_norm_rope *op = a->op;
    int64_t begin, end;
    row_range(i, op->n_rows, &begin, &end);
    for (int64_t t = begin; t < end; t++) {
        float *x = op->x + t * op->n_heads * op->head_dim;
        for (int32_t h = 0; h < op->n_heads; h++, x += op->head_dim) {
            a->simd->norm(x, x, op->weight, op->eps, op->head_dim);
            a->simd->rotate(x, op->table + t * op->n_rot, op->n_rot);
        }
    }
}

static void norm_rope(gqmm_context *ctx, const gqmm_head_norm_rope *op)
{
    head_args a = {gqmm_simd_of(ctx), op};
    for_rows(ctx, op->n_rows, norm_rope_task, &a);
}

static gqmm_status finish(gqmm_context *ctx, gqmm_error *err)
{
    (void)ctx;
    (void)err;
    return GQMM_OK;
}

const gqmm_ops gqmm_ops_cpu = {
    .device = "cpu",
    .norm = norm,
    .add = add_rows,
    .norm_rope = norm_rope,
    .store = gqmm_cpu_store,
    .attend = gqmm_cpu_attend,
    .attend_scratch = gqmm_cpu_attend_scratch,
    .finish = finish,
};
