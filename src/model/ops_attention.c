/* SPDX-License-Identifier: MIT */
/* Attention over the cache on the CPU, one pass with a running maximum.
 *
 * The cache is in the order in which it is read: for each head of keys and values, blocks of 64
 * positions, keys transposed [head_dim][64] so that a query meets 64 of them with no sum across a
 * vector, values [64][head_dim].
 *
 * Blocks, and spans of blocks, are counted from position 0 of the sequence, never from the batch,
 * so a token's sums have one order however its prompt was cut: along head_dim within a score,
 * by position within a span, and by span. A strip is a few tokens and the heads that share their
 * keys; a block is read once for all of its rows. */
#include "model/ops.h"
#include "model/simd.h"

#include <math.h>
#include <string.h>

enum {
    BLOCK = GQMM_KV_BLOCK,
    SPAN = 16 * BLOCK, /* positions whose weighted sum stands alone before it is blended */
    ROWS = 64,         /* of a strip */
    ROW_FLOATS = 8192, /* of a strip's second sum */
    ROWS_DECODING = 4, /* one token: as many strips as possible, each a whole tile */
    TOKENS_PER_STORE = 16
};

int64_t gqmm_kv_round(int64_t positions)
{
    return (positions + BLOCK - 1) / BLOCK * BLOCK;
}

static int64_t spans_of(int64_t positions)
{
    return (positions + SPAN - 1) / SPAN;
}

/* Decoding: the sum of each span and head, and its softmax. */
int64_t gqmm_cpu_attend_scratch(int64_t positions, int32_t n_heads, int32_t head_dim)
{
    return spans_of(positions) * n_heads * (head_dim + (int64_t)(sizeof(gqmm_softmax) / 4));
}

/* ------------------------------------------------------------------ the cache */

typedef struct store_args {
    const gqmm_kv *kv;
    const float *k, *v;
    int64_t first, n;
} store_args;

static void store_task(void *arg, int32_t task)
{
    const store_args *a = arg;
    const gqmm_kv *kv = a->kv;
    const int32_t head = task % kv->n_kv_heads, dim = kv->head_dim;
    const int64_t begin = (int64_t)(task / kv->n_kv_heads) * TOKENS_PER_STORE;
    const int64_t end = begin + TOKENS_PER_STORE < a->n ? begin + TOKENS_PER_STORE : a->n;
    for (int64_t t = begin; t < end; t++) {
        const int64_t from = (t * kv->n_kv_heads + head) * dim;
        const int64_t block = head * kv->capacity + (a->first + t) / BLOCK * BLOCK;
        float *k = kv->k + block * dim + (a->first + t) % BLOCK;
        for (int32_t d = 0; d < dim; d++)
            k[(int64_t)d * BLOCK] = a->k[from + d];
        memcpy(kv->v + (head * kv->capacity + a->first + t) * dim, a->v + from,
               (size_t)dim * sizeof *kv->v);
    }
}

void gqmm_cpu_store(gqmm_context *ctx, const gqmm_kv *kv, const float *k, const float *v,
                    int64_t first, int64_t n)
{
    store_args a = {kv, k, v, first, n};
    const int32_t n_tasks =
        (int32_t)((n + TOKENS_PER_STORE - 1) / TOKENS_PER_STORE) * kv->n_kv_heads;
    if (n == 1)
        for (int32_t i = 0; i < n_tasks; i++)
            store_task(&a, i);
    else
        gqmm_parallel_for(ctx, n_tasks, store_task, &a);
}

/* ------------------------------------------------------------------ strips */

typedef struct strip {
    int32_t n, head; /* rows; the head of their keys */
    const float *q[ROWS];
    float *y[ROWS];
    int64_t end[ROWS]; /* how many positions the row sees; grows with the row */
    gqmm_softmax soft[ROWS];
} strip;

/* y and soft of the rows that see any of the span that begins at `begin`: that span alone. */
static void sum_span(const gqmm_simd *simd, const gqmm_attention *op, strip *s, int64_t begin)
{
    const int32_t dim = op->kv.head_dim;
    const float *k = op->kv.k + s->head * op->kv.capacity * dim;
    const float *v = op->kv.v + s->head * op->kv.capacity * dim;
    const int64_t last = s->end[s->n - 1], end = begin + SPAN < last ? begin + SPAN : last;
    float score[ROWS][BLOCK], shrink[ROWS];
    int32_t count[ROWS], r = 0;
    for (int32_t i = 0; i < s->n; i++) {
        s->soft[i] = (gqmm_softmax){-INFINITY, 0};
        memset(s->y[i], 0, (size_t)dim * sizeof(float));
    }
    for (int64_t at = begin; at < end; at += BLOCK) {
        while (s->end[r] <= at)
            r++;
        simd->scores(score + r, s->q + r, s->n - r, k + at * dim, dim, op->scale);
        for (int32_t i = r; i < s->n; i++) {
            count[i] = s->end[i] - at < BLOCK ? (int32_t)(s->end[i] - at) : BLOCK;
            shrink[i] = simd->soften(score[i], count[i], &s->soft[i]);
        }
        simd->values(s->y + r, score + r, shrink + r, count + r, s->n - r, v + at * dim, dim);
    }
}

/* y, soft of the positions so far and those of the next span. */
static void blend(const gqmm_simd *simd, float *y, gqmm_softmax *soft, const float *next_y,
                  const gqmm_softmax *next, int32_t dim)
{
    const float max = next->max > soft->max ? next->max : soft->max;
    const float a = simd->exp(soft->max - max), b = simd->exp(next->max - max);
    simd->blend(y, a, next_y, b, dim);
    soft->sum = soft->sum * a + next->sum * b;
    soft->max = max;
}

/* All spans of a strip, then the division. */
static void attend_strip(const gqmm_simd *simd, const gqmm_attention *op, strip *s)
{
    const int32_t dim = op->kv.head_dim;
    float part[ROW_FLOATS], *y[ROWS];
    gqmm_softmax soft[ROWS];
    sum_span(simd, op, s, 0);
    memcpy(y, s->y, sizeof y);
    memcpy(soft, s->soft, sizeof soft);
    for (int32_t i = 0; i < s->n; i++)
        s->y[i] = part + (int64_t)i * dim;
    for (int64_t begin = SPAN; begin < s->end[s->n - 1]; begin += SPAN) {
        sum_span(simd, op, s, begin);
        for (int32_t i = 0; i < s->n; i++)
            if (s->end[i] > begin)
                blend(simd, y[i], &soft[i], s->y[i], &s->soft[i], dim);
    }
    for (int32_t i = 0; i < s->n; i++)
        simd->scale(y[i], 1.0f / soft[i].sum, dim);
}

/* ------------------------------------------------------------------ tasks */

typedef struct attend_args {
    const gqmm_attention *op;
    const gqmm_simd *simd;
    int32_t n_shared;   /* heads that share keys */
    int32_t heads;      /* of those, in a strip */
    int32_t cuts;       /* strips that it takes for all that share */
    int32_t tokens;     /* of a strip */
    float *part;        /* decoding: [span, n_heads, head_dim] */
    gqmm_softmax *soft; /* [span, n_heads] */
} attend_args;

/* Rows of `heads` heads from `head` on, for tokens [begin, end). */
static void fill_strip(const attend_args *a, strip *s, int32_t head, int64_t begin, int64_t end)
{
    const gqmm_attention *op = a->op;
    const int32_t group = head / a->n_shared, last = (group + 1) * a->n_shared;
    s->n = 0;
    s->head = group;
    for (int64_t t = begin; t < end; t++)
        for (int32_t h = head; h < head + a->heads && h < last; h++) {
            const int64_t at = (t * op->n_heads + h) * op->kv.head_dim;
            s->q[s->n] = op->q + at;
            s->y[s->n] = op->y + at;
            s->end[s->n++] = op->first + t + 1;
        }
}

static int32_t first_head(const attend_args *a, int32_t strip_of_token)
{
    return strip_of_token / a->cuts * a->n_shared + strip_of_token % a->cuts * a->heads;
}

/* Late tokens see most, so they come first. */
static void prompt_task(void *arg, int32_t task)
{
    const attend_args *a = arg;
    const int32_t per_token = a->op->kv.n_kv_heads * a->cuts;
    const int64_t n = a->op->n_tokens, blocks = (n + a->tokens - 1) / a->tokens;
    const int64_t begin = (blocks - 1 - task / per_token) * a->tokens;
    strip s;
    fill_strip(a, &s, first_head(a, task % per_token), begin,
               begin + a->tokens < n ? begin + a->tokens : n);
    attend_strip(a->simd, a->op, &s);
}

/* One token, one span. */
static void span_task(void *arg, int32_t task)
{
    const attend_args *a = arg;
    const gqmm_attention *op = a->op;
    const int32_t per_token = op->kv.n_kv_heads * a->cuts;
    const int32_t head = first_head(a, task % per_token);
    const int64_t span = task / per_token, at = span * op->n_heads + head;
    strip s;
    fill_strip(a, &s, head, 0, 1);
    for (int32_t i = 0; i < s.n; i++)
        s.y[i] = a->part + (at + i) * op->kv.head_dim;
    sum_span(a->simd, op, &s, span * SPAN);
    memcpy(a->soft + at, s.soft, (size_t)s.n * sizeof *s.soft);
}

static void join_task(void *arg, int32_t head)
{
    const attend_args *a = arg;
    const gqmm_attention *op = a->op;
    const int32_t dim = op->kv.head_dim;
    float *y = op->y + (int64_t)head * dim;
    gqmm_softmax soft = a->soft[head];
    memcpy(y, a->part + (int64_t)head * dim, (size_t)dim * sizeof *y);
    for (int64_t i = 1; i < spans_of(op->first + 1); i++) {
        const int64_t at = i * op->n_heads + head;
        blend(a->simd, y, &soft, a->part + at * dim, &a->soft[at], dim);
    }
    a->simd->scale(y, 1.0f / soft.sum, dim);
}

void gqmm_cpu_attend(gqmm_context *ctx, const gqmm_attention *op)
{
    const int64_t spans = spans_of(op->first + op->n_tokens);
    const int32_t fit = ROW_FLOATS / op->kv.head_dim;
    const int32_t rows = op->n_tokens == 1 ? ROWS_DECODING : fit < ROWS ? fit : ROWS;
    attend_args a = {.op = op, .simd = gqmm_simd_of(ctx)};
    a.n_shared = op->n_heads / op->kv.n_kv_heads;
    a.heads = a.n_shared < rows ? a.n_shared : rows;
    a.cuts = (a.n_shared + a.heads - 1) / a.heads;
    a.tokens = rows / a.heads;
    const int64_t per_token = (int64_t)op->kv.n_kv_heads * a.cuts;
    if (op->n_tokens == 1 && spans > 1) {
        a.part = op->scratch;
        a.soft = (gqmm_softmax *)(void *)(op->scratch + spans * op->n_heads * op->kv.head_dim);
        gqmm_parallel_for(ctx, (int32_t)(spans * per_token), span_task, &a);
        gqmm_parallel_for(ctx, op->n_heads, join_task, &a);
    } else {
        const int64_t blocks = (op->n_tokens + a.tokens - 1) / a.tokens;
        gqmm_parallel_for(ctx, (int32_t)(blocks * per_token), prompt_task, &a);
    }
}
