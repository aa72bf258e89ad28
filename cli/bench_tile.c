/* SPDX-License-Identifier: MIT */
#include "bench_tile.h"

#include "bench_random.h"
#include "output.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Pieces have at most as many weights as the largest block; a tile of 2^18 weights is quantised in
 * a fraction of a second and stays in the caches while rows are drawn from it. */
enum { LARGEST_PIECE = 256, TILE_WEIGHTS = 1 << 18, TASK_BYTES = 1 << 20 };

void random_normal(float *out, int64_t n, float deviation, uint64_t seed)
{
    const double turn = 6.283185307179586;

    for (int64_t i = 0; i < n; i += 2) {
        const double radius = sqrt(-2 * log(1 - random_unit(&seed))) * (double)deviation;
        const double angle = turn * random_unit(&seed);

        out[i] = (float)(radius * cos(angle));
        if (i + 1 < n)
            out[i + 1] = (float)(radius * sin(angle));
    }
}

gqmm_status bench_tile_make(bench_tile *t, gqmm_context *ctx, const gqmm_format *format, int64_t k,
                            float deviation, uint64_t seed, gqmm_error *err)
{
    gqmm_quantize_desc d;
    int64_t piece = LARGEST_PIECE;

    while (k % piece != 0)
        piece /= 2;
    *t = (bench_tile){.format = format, .piece = piece, .n_pieces = TILE_WEIGHTS / piece};
    GQMM_INIT(d);
    for (int p = 0; p < format->n_planes; p++) {
        t->bytes[p] = (size_t)gqmm_format_row_bytes(format, p, piece);
        d.plane[p] = t->plane[p] = need((size_t)t->n_pieces, t->bytes[p]);
    }
    float *x = need(TILE_WEIGHTS, sizeof *x);
    random_normal(x, TILE_WEIGHTS, deviation, seed);
    d.x_type = GQMM_F32;
    d.format = format->name;
    d.x = x;
    d.n_rows = t->n_pieces;
    d.n_cols = piece;
    const gqmm_status st = gqmm_quantize(ctx, &d, err);
    free(x);
    return st;
}

void bench_tile_free(bench_tile *t)
{
    for (int p = 0; p < 3; p++)
        free(t->plane[p]);
    *t = (bench_tile){0};
}

typedef struct fill_task {
    const bench_tile *t;
    uint8_t *const *plane;
    int64_t per_row, n_rows, rows_per_task;
    uint64_t seed;
} fill_task;

static void fill_rows(void *arg, int32_t i)
{
    const fill_task *f = arg;
    const bench_tile *t = f->t;
    const int64_t first = i * f->rows_per_task;
    const int64_t end = first + f->rows_per_task < f->n_rows ? first + f->rows_per_task : f->n_rows;
    uint64_t state = f->seed + (uint64_t)i * 0x632be59bd9b4e019u;

    for (int64_t at = first * f->per_row; at < end * f->per_row; at++) {
        const size_t from = random_below(&state, (uint32_t)t->n_pieces);

        for (int p = 0; p < t->format->n_planes; p++)
            memcpy(f->plane[p] + (size_t)at * t->bytes[p], t->plane[p] + from * t->bytes[p],
                   t->bytes[p]);
    }
}

void bench_tile_fill(const bench_tile *t, gqmm_context *ctx, int64_t k, int64_t n_rows,
                     uint64_t seed, uint8_t *const plane[3])
{
    fill_task f = {t, plane, k / t->piece, n_rows, 1, seed};
    const int64_t row_bytes = f.per_row * (int64_t)t->bytes[0];

    if (row_bytes < TASK_BYTES)
        f.rows_per_task = TASK_BYTES / row_bytes;
    gqmm_parallel_for(ctx, (int32_t)((n_rows + f.rows_per_task - 1) / f.rows_per_task), fill_rows,
                      &f);
}
