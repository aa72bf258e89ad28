/* SPDX-License-Identifier: MIT */
/* How fast memory is read: as a stream, and in random pieces as large as an expert's matrix. */
#include "bench_machine.h"
#include "bench_random.h"
#include "output.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    LEAST_BUFFER = 32 << 20,
    PROBE_BYTES = 32 << 20,
    TASK_BYTES = 256 << 10, /* small pieces are read several in one task */
    STREAM_TASK = 4 << 20,
    ROUNDS = 7
};

/* Keeps the compiler from dropping the reads. */
static _Atomic uint64_t sink;

/* Eight sums: memory is the limit, not the additions. A quarter of a kilobyte a step. */
static uint64_t read_bytes(const uint8_t *p, size_t n, bool ahead)
{
    uint64_t s[8] = {0}, v[8];

    for (size_t i = 0; i + 64 <= n; i += 64) {
        if (ahead)
            __builtin_prefetch(p + i + 4096);
        memcpy(v, p + i, sizeof v);
        for (int k = 0; k < 8; k++)
            s[k] += v[k];
    }
    return s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

bool bench_reader_create(bench_reader *r, const bench_machine *m, bool huge)
{
    size_t bytes = (size_t)m->cold_bytes;

    if (bytes > (size_t)m->memory_bytes / 4)
        bytes = (size_t)m->memory_bytes / 4;
    if (bytes < LEAST_BUFFER)
        bytes = LEAST_BUFFER;
    *r = (bench_reader){.bytes = bytes, .huge = huge, .seed = 1};
    r->base = bench_pages(bytes, huge);
    if (!r->base)
        return false;
    /* Untouched pages are all the same page of zeros. */
    for (size_t i = 0; i < bytes; i += 64)
        r->base[i] = (uint8_t)(i >> 6);
    bench_reader_cut(r, 1 << 20);
    return true;
}

void bench_reader_destroy(bench_reader *r)
{
    bench_pages_free(r->base, r->bytes);
    free(r->order);
    *r = (bench_reader){0};
}

static void shuffle(bench_reader *r)
{
    for (uint32_t i = r->n; i > 1; i--) {
        const uint32_t k = random_below(&r->seed, i), held = r->order[k];

        r->order[k] = r->order[i - 1];
        r->order[i - 1] = held;
    }
    r->next = 0;
}

/* The order stays the same from pass to pass, so that a piece comes again only after all others. */
void bench_reader_cut(bench_reader *r, size_t piece)
{
    piece = piece / 64 * 64;
    if (piece < 256)
        piece = 256;
    if (piece > r->bytes / 8)
        piece = r->bytes / 8 / 64 * 64;
    r->piece = piece;
    r->n = (uint32_t)(r->bytes / piece);
    r->order = need_more(r->order, r->n, sizeof *r->order);
    for (uint32_t i = 0; i < r->n; i++)
        r->order[i] = i;
    shuffle(r);
}

typedef struct read_task {
    const bench_reader *r;
    uint32_t n, per_task;
    size_t stream; /* bytes of a task; 0: pieces */
} read_task;

static void read_one(void *arg, int32_t i)
{
    const read_task *t = arg;
    const bench_reader *r = t->r;
    uint64_t sum = 0;

    if (t->stream) {
        sum = read_bytes(r->base + (size_t)i * t->stream, t->stream, r->ahead);
        atomic_store_explicit(&sink, sum, memory_order_relaxed);
        return;
    }
    for (uint32_t k = (uint32_t)i * t->per_task; k < ((uint32_t)i + 1) * t->per_task; k++)
        if (k < t->n)
            sum +=
                read_bytes(r->base + r->order[(r->next + k) % r->n] * r->piece, r->piece, r->ahead);
    atomic_store_explicit(&sink, sum, memory_order_relaxed);
}

double bench_probe(bench_reader *r, gqmm_context *ctx)
{
    read_task t = {.r = r, .n = (uint32_t)(PROBE_BYTES / r->piece) + 1, .per_task = 1};

    if (r->piece < TASK_BYTES)
        t.per_task = (uint32_t)(TASK_BYTES / r->piece);
    /* Every thread gets several tasks, else the slowest decides alone. */
    if (t.n < 4 * (uint32_t)gqmm_context_threads(ctx))
        t.n = 4 * (uint32_t)gqmm_context_threads(ctx);
    if (t.n > r->n)
        t.n = r->n;
    const double start = seconds_now();
    gqmm_parallel_for(ctx, (int32_t)((t.n + t.per_task - 1) / t.per_task), read_one, &t);
    const double taken = seconds_now() - start;
    r->next = (r->next + t.n) % r->n;
    return (double)(t.n * r->piece) / taken;
}

static double stream_rate(bench_reader *r, gqmm_context *ctx)
{
    read_task t = {.r = r, .stream = STREAM_TASK};
    const int32_t n = (int32_t)(r->bytes / STREAM_TASK);
    const double start = seconds_now();

    gqmm_parallel_for(ctx, n, read_one, &t);
    return (double)n * STREAM_TASK / (seconds_now() - start);
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median_of(double (*measure)(bench_reader *, gqmm_context *), bench_reader *r,
                        gqmm_context *ctx, int rounds)
{
    double rates[ROUNDS];

    for (int i = 0; i < rounds; i++)
        rates[i] = measure(r, ctx);
    qsort(rates, (size_t)rounds, sizeof *rates, compare);
    return rates[rounds / 2];
}

void bench_measure(bench_ceilings *c, bench_reader *r, gqmm_context *one, gqmm_context *all,
                   bool hurry)
{
    gqmm_context *const contexts[2] = {one, all};
    const int rounds = hurry ? 1 : ROUNDS;

    r->ahead = false;
    (void)bench_probe(r, all);
    const double straight = median_of(bench_probe, r, all, rounds);
    r->ahead = true;
    r->ahead = median_of(bench_probe, r, all, rounds) > straight;
    for (int i = 0; i < 2; i++) {
        c->stream[i] = median_of(stream_rate, r, contexts[i], rounds);
        c->pieces[i] = median_of(bench_probe, r, contexts[i], rounds);
        c->int8[i] = bench_int8_rate(contexts[i], &c->int8_by, rounds);
        c->fp32[i] = bench_fp32_rate(contexts[i], &c->fp32_by, rounds);
    }
}
