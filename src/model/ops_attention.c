/* SPDX-License-Identifier: MIT */
/* Attention over the cache, one pass with a running maximum.
 *
 * Positions are taken in chunks of 64 counted from position 0 of the sequence, never from the
 * batch, so a token's sums have one order however its prompt was cut. A task is one head and a few
 * tokens: a chunk of keys and values is read once for all of them. */
#include "model/ops.h"

#include "model/ops_dot.h"

#include <math.h>

enum { CHUNK = 64, TOKENS_PER_TASK = 8 };

typedef struct running {
    float max, sum;
} running;

/* y += the weighted values; four rows a pass, added in order of position. */
static void add_values(float *restrict y, const float *restrict weight, const float *restrict v,
                       int64_t stride, int64_t n, int32_t head_dim)
{
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const float w0 = weight[i], w1 = weight[i + 1], w2 = weight[i + 2], w3 = weight[i + 3];
        const float *v0 = v + i * stride, *v1 = v0 + stride, *v2 = v1 + stride, *v3 = v2 + stride;
        for (int32_t d = 0; d < head_dim; d++) {
            float s = y[d] + w0 * v0[d];
            s += w1 * v1[d];
            s += w2 * v2[d];
            y[d] = s + w3 * v3[d];
        }
    }
    for (; i < n; i++)
        for (int32_t d = 0; d < head_dim; d++)
            y[d] += weight[i] * v[i * stride + d];
}

/* One query against n positions of a chunk; y and *r carry the sums so far. */
static void add_chunk(const gqmm_attention *op, float *y, running *r, const float *q,
                      const float *k, const float *v, int64_t n)
{
    const int64_t stride = (int64_t)op->n_kv_heads * op->head_dim;
    float score[CHUNK];
    float max = r->max;
    for (int64_t i = 0; i < n; i++) {
        score[i] = gqmm_dot8(q, k + i * stride, op->head_dim) * op->scale;
        max = score[i] > max ? score[i] : max;
    }
    if (max > r->max) {
        const float shrink = expf(r->max - max); /* the first time exp(-inf) = 0 */
        r->sum *= shrink;
        for (int32_t d = 0; d < op->head_dim; d++)
            y[d] *= shrink;
        r->max = max;
    }
    for (int64_t i = 0; i < n; i++) {
        score[i] = expf(score[i] - r->max);
        r->sum += score[i];
    }
    add_values(y, score, v, stride, n, op->head_dim);
}

static void attend_task(void *arg, int32_t task)
{
    const gqmm_attention *op = arg;
    const int32_t head = task % op->n_heads;
    const int64_t begin = (int64_t)(task / op->n_heads) * TOKENS_PER_TASK;
    const int64_t end =
        begin + TOKENS_PER_TASK < op->n_tokens ? begin + TOKENS_PER_TASK : op->n_tokens;
    const int64_t row = (int64_t)op->n_heads * op->head_dim;
    const int64_t kv_row = (int64_t)op->n_kv_heads * op->head_dim;
    const int64_t kv_head = (int64_t)(head / (op->n_heads / op->n_kv_heads)) * op->head_dim;
    running state[TOKENS_PER_TASK];
    for (int64_t t = begin; t < end; t++) {
        float *y = op->y + t * row + (int64_t)head * op->head_dim;
        for (int32_t d = 0; d < op->head_dim; d++)
            y[d] = 0;
        state[t - begin] = (running){-INFINITY, 0};
    }
    for (int64_t c = 0; c < op->first + end; c += CHUNK) {
        for (int64_t t = begin; t < end; t++) {
            const int64_t at = t * row + (int64_t)head * op->head_dim;
            const int64_t left = op->first + t + 1 - c;
            if (left > 0)
                add_chunk(op, op->y + at, &state[t - begin], op->q + at,
                          op->k + c * kv_row + kv_head, op->v + c * kv_row + kv_head,
                          left < CHUNK ? left : CHUNK);
        }
    }
    for (int64_t t = begin; t < end; t++) {
        float *y = op->y + t * row + (int64_t)head * op->head_dim;
        const float scale = 1.0f / state[t - begin].sum;
        for (int32_t d = 0; d < op->head_dim; d++)
            y[d] *= scale;
    }
}

void gqmm_attend(gqmm_context *ctx, const gqmm_attention *op)
{
    gqmm_attention copy = *op;
    const int64_t blocks = (op->n_tokens + TOKENS_PER_TASK - 1) / TOKENS_PER_TASK;
    gqmm_parallel_for(ctx, (int32_t)(blocks * op->n_heads), attend_task, &copy);
}
