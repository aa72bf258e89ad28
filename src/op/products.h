/* SPDX-License-Identifier: MIT */
/* The product of sorted activation rows with the experts they belong to, cut into tasks by shape
 * alone. gather_qmm, qmm and moe are built on it. */
#ifndef GQMM_OP_PRODUCTS_H
#define GQMM_OP_PRODUCTS_H

#include "op/op.h"

enum {
    GQMM_CHUNK_ROWS = 64,   /* stored rows of one task */
    GQMM_BATCH_ROWS = 64,   /* activation rows that kernels take at once: a divisor of the next */
    GQMM_CHUNK_COLS = 256,  /* columns of one task without transpose, a multiple of every block */
    GQMM_SEGMENT = 512,     /* most activation rows of one task */
    GQMM_ROWS_PER_TASK = 16 /* rows of the element-wise phases */
};

/* Rows [first, first + count) of the sorted order belong to this expert. */
typedef struct gqmm_segment {
    int64_t expert, first, count;
} gqmm_segment;

typedef struct gqmm_products {
    const gqmm_weights *w;
    int64_t row0;  /* first stored row to use (a fused gate_up matrix has two halves) */
    int64_t n, k;  /* outputs and reduction */
    int64_t chunk; /* outputs of one task */
    int32_t precision, transpose;
    const gqmm_segment *segments;
    int64_t n_segments;
    const int32_t *order; /* [n_segments]: which tasks come first; NULL: as they lie */
    float **y;            /* [rows], n outputs each */
    const float **x;      /* [rows]: EXACT, and everything without transpose */
    const gqmm_act **a;   /* [rows]: INT8 */
} gqmm_products;

int64_t gqmm_products_tasks(const gqmm_products *p);

/* Segment and outputs [n0, n1) of a task. */
typedef struct gqmm_piece {
    gqmm_segment segment;
    int64_t n0, n1;
} gqmm_piece;
gqmm_piece gqmm_products_piece(const gqmm_products *p, int64_t task);
/* `next` (may be NULL) is the piece of next_p that this worker computes after this one. With y,
 * output n of row i goes to y[i][n - n0] instead. */
void gqmm_products_run(const gqmm_products *p, const gqmm_piece *piece, float *const *y,
                       const gqmm_products *next_p, const gqmm_piece *next);

/* Most segments that `rows` rows of at most `experts` experts make. */
int64_t gqmm_segments_most(int64_t rows, int64_t experts);
/* Cuts `count` rows of expert 0 into segments; returns how many. */
int64_t gqmm_segments_cut(gqmm_segment *segments, int64_t count);
/* The middle of a counting sort: at[e + 1] holds the rows of expert e, at[0] is 0. Makes at[e] the
 * place of expert e's first row, at[n_experts] the number of rows; returns how many segments. */
int64_t gqmm_segments_sort(gqmm_segment *segments, int64_t *at, int64_t n_experts);
/* Numbers of segments from the longest to the shortest: what takes longest begins first. */
void gqmm_segments_order(int32_t *order, const gqmm_segment *segments, int64_t n);

static inline int64_t gqmm_ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

#endif
