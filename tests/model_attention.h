/* SPDX-License-Identifier: MIT */
/* Attention with its norms and rotation on a CUDA device against the CPU's. */
#ifndef TESTS_MODEL_ATTENTION_H
#define TESTS_MODEL_ATTENTION_H

#include "model/remote.h"

#include "model_maker.h"

#include <math.h>

static char no_device[240]; /* why there is none; empty: there is one */

#define DEVICE() \
    do { \
        if (no_device[0]) { \
            snprintf(why, sizeof why, "skip: %s", no_device); \
            return why; \
        } \
    } while (0)

typedef struct shape {
    int32_t n_heads, n_kv, dim, n_rot;
    int64_t before, n; /* positions in the cache, tokens after them */
} shape;

/* Every kernel: widths of a head, heads that share keys, one split and many, one tile and many. */
static const shape shapes[] = {
    {4, 4, 32, 32, 0, 1},     {8, 2, 64, 64, 63, 1},     {8, 2, 64, 64, 64, 1},
    {8, 2, 64, 32, 700, 1},   {6, 2, 128, 128, 5000, 1}, {16, 1, 128, 64, 900, 3},
    {32, 4, 128, 128, 77, 8}, {5, 1, 80, 80, 130, 9},    {8, 2, 64, 64, 0, 100},
    {8, 2, 64, 64, 301, 130}, {6, 2, 128, 128, 40, 65},  {7, 7, 10, 6, 3, 33},
    {4, 2, 256, 256, 90, 70}, {4, 2, 256, 256, 1000, 2}, {3, 1, 512, 64, 200, 1},
    {4, 2, 1024, 2, 70, 19},  {70, 1, 16, 16, 20, 12},   {24, 2, 192, 128, 33, 1},
};

typedef struct heads {
    float *q, *k, *v, *y;
    float *weight; /* [2 dim] of queries, of keys */
} heads;

static void *floats(int64_t n)
{
    return malloc((size_t)(n ? n : 1) * sizeof(float));
}

static void randomise(float *x, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = ((float)random_bits(&seed) / 2147483648.0f - 0.5f) * 4.0f;
}

static void make_heads(heads *h, const shape *s)
{
    const int64_t n = s->before + s->n, row = (int64_t)s->n_heads * s->dim;
    const int64_t kv = (int64_t)s->n_kv * s->dim;
    h->q = floats(n * row);
    h->y = floats(n * row);
    h->k = floats(n * kv);
    h->v = floats(n * kv);
    h->weight = floats(2 * s->dim);
    randomise(h->q, n * row, 1);
    randomise(h->k, n * kv, 2);
    randomise(h->v, n * kv, 3);
    randomise(h->weight, 2 * s->dim, 4);
}

static void free_heads(heads *h)
{
    free(h->q);
    free(h->k);
    free(h->v);
    free(h->y);
    free(h->weight);
}

static gqmm_head_norm_rope norm_of(const shape *s, float *x, const float *weight,
                                   const float *table, int32_t n_heads, int64_t n)
{
    return (gqmm_head_norm_rope){.x = x,
                                 .weight = weight,
                                 .table = table,
                                 .eps = 1e-6f,
                                 .n_heads = n_heads,
                                 .head_dim = s->dim,
                                 .n_rot = s->n_rot,
                                 .n_rows = n};
}

/* h->y of the last s->n tokens on the CPU; q and k are normed and rotated on the way. */
static void attend_cpu(gqmm_context *ctx, const shape *s, const heads *h, const double *inv_freq)
{
    const int64_t n = s->before + s->n, row = (int64_t)s->n_heads * s->dim;
    gqmm_kv kv = {.capacity = gqmm_kv_round(n), .n_kv_heads = s->n_kv, .head_dim = s->dim};
    float *table = floats(n * s->n_rot),
          *sums = floats(gqmm_ops_cpu.attend_scratch(n, s->n_heads, s->dim));
    kv.k = floats(kv.capacity * s->n_kv * s->dim);
    kv.v = floats(kv.capacity * s->n_kv * s->dim);
    gqmm_rope_table(table, inv_freq, 0, n, s->n_rot);
    gqmm_head_norm_rope q = norm_of(s, h->q, h->weight, table, s->n_heads, n);
    gqmm_head_norm_rope k = norm_of(s, h->k, h->weight + s->dim, table, s->n_kv, n);
    gqmm_ops_cpu.norm_rope(ctx, &q);
    gqmm_ops_cpu.norm_rope(ctx, &k);
    gqmm_ops_cpu.store(ctx, &kv, h->k, h->v, 0, n);
    gqmm_ops_cpu.attend(ctx, &(gqmm_attention){.y = h->y,
                                               .q = h->q + s->before * row,
                                               .kv = kv,
                                               .scratch = sums,
                                               .first = s->before,
                                               .n_tokens = s->n,
                                               .n_heads = s->n_heads,
                                               .scale = 0.1f});
    free(table);
    free(sums);
    free(kv.k);
    free(kv.v);
}

enum { MOST_BLOCKS = 16 };
typedef struct remote_memory {
    gqmm_context *ctx;
    void *block[MOST_BLOCKS];
    int32_t n;
    int32_t failed;
} remote_memory;

/* A copy of n items of `size` bytes; `from` NULL: every byte is `fill`. */
static void *there(remote_memory *m, const void *from, int64_t n, size_t size, int fill)
{
    const size_t bytes = (size_t)n * size;
    void *p = NULL, *host = NULL;
    if (!from) {
        host = malloc(bytes);
        memset(host, fill, bytes);
    }
    if (m->n == MOST_BLOCKS || gqmm_device_alloc(m->ctx, bytes, &p, NULL) != GQMM_OK ||
        gqmm_device_copy(m->ctx, p, from ? from : host, bytes, NULL) != GQMM_OK ||
        gqmm_synchronize(m->ctx, NULL) != GQMM_OK)
        m->failed = 1;
    else
        m->block[m->n++] = p;
    free(host);
    return p;
}

/* The same on the device: s->before tokens first, in one batch, then s->n, twice: counters must be
 * as they were found. What lies behind the sequence is NaN. */
static const char *attend_remote(gqmm_context *ctx, const shape *s, const heads *h,
                                 const double *inv_freq, float *y)
{
    const gqmm_ops *ops = gqmm_ops_for(ctx);
    const int64_t n = s->before + s->n, row = (int64_t)s->n_heads * s->dim;
    const int64_t kv_row = (int64_t)s->n_kv * s->dim;
    gqmm_error err = {0};
    remote_memory m = {.ctx = ctx};
    gqmm_kv kv = {.capacity = gqmm_kv_round(n), .n_kv_heads = s->n_kv, .head_dim = s->dim};
    int64_t zero = 0;
    int64_t *length = there(&m, &zero, 1, sizeof zero, 0);
    double *freq = there(&m, inv_freq, s->n_rot / 2, sizeof *freq, 0);
    float *table = there(&m, NULL, n * s->n_rot, 4, 0xff),
          *weight = there(&m, h->weight, 2 * s->dim, 4, 0);
    float *q = there(&m, h->q, n * row, 4, 0), *k = there(&m, h->k, n * kv_row, 4, 0);
    float *v = there(&m, h->v, n * kv_row, 4, 0), *out = there(&m, NULL, s->n * row, 4, 0xff);
    float *sums = there(&m, NULL, ops->attend_scratch(n, s->n_heads, s->dim), 4, 0);
    kv.length = length;
    kv.k = there(&m, NULL, kv.capacity * kv_row, 4, 0xff);
    kv.v = there(&m, NULL, kv.capacity * kv_row, 4, 0xff);
    gqmm_status status = m.failed ? GQMM_E_NOMEM : GQMM_OK;
    for (int64_t at = 0; at < n && !status; at = at < s->before ? s->before : n) {
        const int64_t some = at < s->before ? s->before : s->n;
        status = gqmm_device_copy(ctx, length, &at, sizeof at, &err);
        ops->remote->rope(ctx, table, freq, length, some, s->n_rot);
        gqmm_head_norm_rope hq = norm_of(s, q + at * row, weight, table, s->n_heads, some);
        gqmm_head_norm_rope hk = norm_of(s, k + at * kv_row, weight + s->dim, table, s->n_kv, some);
        ops->remote->heads(ctx, &hq, &hk, &kv, v + at * kv_row);
        status = status ? status : ops->finish(ctx, &err);
    }
    for (int32_t i = 0; i < 2 && !status; i++)
        ops->attend(ctx, &(gqmm_attention){.y = out,
                                           .q = q + s->before * row,
                                           .kv = kv,
                                           .scratch = sums,
                                           .n_tokens = s->n,
                                           .n_heads = s->n_heads,
                                           .scale = 0.1f});
    if (!status)
        status = gqmm_device_copy(ctx, y, out, (size_t)(s->n * row) * 4, &err);
    if (!status)
        status = ops->finish(ctx, &err);
    for (int32_t i = 0; i < m.n; i++)
        gqmm_device_free(ctx, m.block[i], 0);
    NEED(!status, "on the device: %s", err.text[0] ? err.text : "no memory");
    return NULL;
}

static const char *check_shape(gqmm_context *cpu, gqmm_context *cuda, const shape *s, double *worst)
{
    const int64_t count = s->n * s->n_heads * s->dim;
    double inv_freq[512];
    float *y = floats(count);
    heads h;
    make_heads(&h, s);
    gqmm_rope_frequencies(inv_freq, s->n_rot, 1e4);
    const char *bad = attend_remote(cuda, s, &h, inv_freq, y);
    attend_cpu(cpu, s, &h, inv_freq);
    for (int64_t i = 0; i < count && !bad; i++) {
        const double d = fabs((double)y[i] - h.y[i]);
        *worst = d > *worst ? d : *worst;
        if (!(d < 1e-4)) { /* values are up to 2, scores up to some tens */
            snprintf(why, sizeof why,
                     "%d heads of %d over %d, %lld + %lld tokens: output %lld is %g, not %g",
                     s->n_heads, s->dim, s->n_kv, (long long)s->before, (long long)s->n,
                     (long long)i, (double)y[i], (double)h.y[i]);
            bad = why;
        }
    }
    free_heads(&h);
    free(y);
    return bad;
}

static const char *test_attention(void)
{
    DEVICE();
    const char *bad = NULL;
    double worst = 0;
    gqmm_context *cpu = NULL, *cuda = NULL;
    gqmm_context_desc d;
    GQMM_INIT(d);
    d.device = "cuda";
    NEED(gqmm_context_create(NULL, &cpu, NULL) == GQMM_OK &&
             gqmm_context_create(&d, &cuda, NULL) == GQMM_OK,
         "no contexts");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && !bad; i++)
        bad = check_shape(cpu, cuda, &shapes[i], &worst);
    gqmm_context_destroy(cpu);
    gqmm_context_destroy(cuda);
    snprintf(note, sizeof note, " (worst off by %.2g)", worst);
    return bad;
}

#endif
