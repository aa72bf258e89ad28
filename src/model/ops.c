/* SPDX-License-Identifier: MIT */
/* Norm, rotation, residual. Sums run in eight partial sums so that the vectoriser can keep the
 * order that is written here. */
#include "model/ops.h"

#include "model/ops_dot.h"

#include <math.h>

/* Rows per task: enough work to be worth a hand-over, few enough for a prompt to spread. */
enum { ROWS_PER_TASK = 16 };

static int32_t n_row_tasks(int64_t n_rows)
{
    return (int32_t)((n_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK);
}

/* A task over rows [i * ROWS_PER_TASK, ...) of n_rows. */
static void row_range(int32_t i, int64_t n_rows, int64_t *begin, int64_t *end)
{
    *begin = (int64_t)i * ROWS_PER_TASK;
    *end = *begin + ROWS_PER_TASK < n_rows ? *begin + ROWS_PER_TASK : n_rows;
}

/* One row: a task of its own would only cost the hand-over. */
static void for_rows(gqmm_context *ctx, int64_t n_rows, void (*task)(void *arg, int32_t i),
                     void *arg)
{
    const int32_t n = n_row_tasks(n_rows);
    if (n == 1)
        task(arg, 0);
    else if (n > 1)
        gqmm_parallel_for(ctx, n, task, arg);
}

static void norm_row(float *y, const float *x, const float *weight, float eps, int64_t n)
{
    const float mean = gqmm_dot8(x, x, n) / (float)n;
    const float scale = 1.0f / sqrtf(mean + eps);
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] * scale * weight[i];
}

typedef struct norm_args {
    float *y;
    const float *x, *weight;
    float eps;
    int64_t n_rows, n;
} norm_args;

static void norm_task(void *arg, int32_t i)
{
    const norm_args *a = arg;
    int64_t begin, end;
    row_range(i, a->n_rows, &begin, &end);
    for (int64_t t = begin; t < end; t++)
        norm_row(a->y + t * a->n, a->x + t * a->n, a->weight, a->eps, a->n);
}

void gqmm_rms_norm(gqmm_context *ctx, float *y, const float *x, const float *weight, float eps,
                   int64_t n_rows, int64_t n)
{
    norm_args a = {y, x, weight, eps, n_rows, n};
    for_rows(ctx, n_rows, norm_task, &a);
}

static void add_task(void *arg, int32_t i)
{
    const norm_args *a = arg;
    int64_t begin, end;
    row_range(i, a->n_rows, &begin, &end);
    float *restrict y = a->y;
    const float *restrict x = a->x;
    for (int64_t j = begin * a->n; j < end * a->n; j++)
        y[j] += x[j];
}

void gqmm_add_rows(gqmm_context *ctx, float *x, const float *y, int64_t n_rows, int64_t n)
{
    norm_args a = {.y = x, .x = y, .n_rows = n_rows, .n = n};
    for_rows(ctx, n_rows, add_task, &a);
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

static void rotate(float *x, const float *row, int32_t n_rot)
{
    const int32_t half = n_rot / 2;
    for (int32_t i = 0; i < half; i++) {
        const float a = x[i], b = x[half + i], c = row[i], s = row[half + i];
        x[i] = a * c - b * s;
        x[half + i] = b * c + a * s;
    }
}

static void norm_rope_task(void *arg, int32_t i)
{
    const gqmm_head_norm_rope *op = arg;
    int64_t begin, end;
    row_range(i, op->n_rows, &begin, &end);
    for (int64_t t = begin; t < end; t++) {
        float *x = op->x + t * op->n_heads * op->head_dim;
        for (int32_t h = 0; h < op->n_heads; h++, x += op->head_dim) {
            norm_row(x, x, op->weight, op->eps, op->head_dim);
            rotate(x, op->table + t * op->n_rot, op->n_rot);
        }
    }
}

void gqmm_norm_rope(gqmm_context *ctx, const gqmm_head_norm_rope *op)
{
    gqmm_head_norm_rope copy = *op;
    for_rows(ctx, op->n_rows, norm_rope_task, &copy);
}
