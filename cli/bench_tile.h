/* SPDX-License-Identifier: MIT */
/*
 * Many weights quickly: a tile of Gaussian weights is quantised once, piece by piece, and rows are
 * put together from pieces drawn at random. A row is thus what the quantiser makes of Gaussian
 * weights, no two rows are alike, and gigabytes take seconds even where quantising is slow.
 */
#ifndef GQMM_CLI_BENCH_TILE_H
#define GQMM_CLI_BENCH_TILE_H

#include <gqmm.h>
#include <stdbool.h>

typedef struct bench_tile {
    const gqmm_format *format;
    int64_t piece; /* weights of a piece, a multiple of the format's block */
    int64_t n_pieces;
    uint8_t *plane[3];
    size_t bytes[3]; /* of a piece */
} bench_tile;

/* Pieces for rows of k weights, k a multiple of the block. Free it in either case. */
gqmm_status bench_tile_make(bench_tile *t, gqmm_context *ctx, const gqmm_format *format, int64_t k,
                            float deviation, uint64_t seed, gqmm_error *err);
void bench_tile_free(bench_tile *t);
/* n_rows dense rows of k weights, on the threads of ctx. */
void bench_tile_fill(const bench_tile *t, gqmm_context *ctx, int64_t k, int64_t n_rows,
                     uint64_t seed, uint8_t *const plane[3]);

#endif
