/* SPDX-License-Identifier: MIT */
/* The matrix core that vector rooms share. A room defines its words (src/kernel/ROOM/words.h) and
 * includes this family of headers in its one file, so that everything here is compiled with the
 * room's flags and is static.
 *
 * A product walks tiles of ROWS stored rows and steps of 256 along K. Each step of a tile is
 * decoded once into a panel of bytes: a vector holds 4 consecutive k of LANES rows, the operand of
 * the byte dot products. A lane is a row, so scales and offsets are vectors too and nothing is
 * added across lanes. Up to PASS activation rows then meet the panel. One activation row takes the
 * same way as many, and every output is summed in the same order: the bits of a row depend on
 * nothing but the row. What a family brings is its pack(). */
#ifndef GQMM_KERNEL_PANEL_H
#define GQMM_KERNEL_PANEL_H

#include "kernel/kernel.h"
#include "kernel/unpack.h"

enum {
    STEP = 256, /* weights along K of one panel: the largest block */
    PASS = 64   /* activation rows whose sums lie beside the panel in L1, 8 KiB for 32 rows */
};

/* A piece is 32 weights along K, or 16 where the format's groups are that small; larger groups
 * repeat their scale. */
typedef struct panel {
    uint8_t q[STEP / 4][ROWS][4];                          /* codes + shift of the family */
    float scale[STEP / 16][ROWS], offset[STEP / 16][ROWS]; /* [piece][row] */
} __attribute__((aligned(64))) panel;

/* Bytes to fetch while others are worked on: the rows after a tile are contiguous memory, and
 * prefetches that walk it in order use DRAM at its full rate, unlike one stream for each row. */
typedef struct cursor {
    uintptr_t at; /* not a pointer: it may pass the end of the weights, which prefetches allow */
    int lines;    /* 64-byte lines for each call of ahead() */
} cursor;

INLINE void ahead(cursor *c)
{
    for (int i = 0; i < c->lines; i++, c->at += 64)
        prefetch(c->at);
}

/* Where the rows of a tile start. Past the last row the last one is repeated: its products are
 * computed and dropped, so that only one shape of tile exists. */
typedef struct tile {
    const gqmm_matrix *w;
    const uint8_t *row[3][ROWS];
    cursor next;
    uintptr_t scales[3]; /* planes after the first: where the next tile starts */
} tile;

/* Adds the products of a step, n weights from activation block `block` on, to m rows of sums. */
typedef void add_step_fn(float (*sum)[ROWS], const panel *w, const gqmm_act *const *act,
                         int64_t block, int n, int shift, int64_t m, cursor *next);

typedef struct family {
    /* Decodes weights [k, k + n) of the tile, n <= STEP, whole blocks. Calls ahead() once for
     * every 32 weights of LANES rows. */
    void (*pack)(panel *to, tile *t, int64_t k, int n);
    add_step_fn *add;
    int shift;      /* what pack adds to the codes */
    bool is_signed; /* the panel's bytes are */
} family;

/* ---- the tile */

/* Fetches the scales that lie in planes of their own, of the next tile, the share that goes with
 * step k: prefetches in one go would be dropped. */
static inline void fetch_scales(const tile *t, const gqmm_product *p, int64_t k)
{
    const gqmm_format *f = &p->w->format->pub;
    const int64_t first = ROWS * k / p->k, end = ROWS * (k + STEP) / p->k;
    for (int i = 1; i < f->n_planes; i++) {
        const int64_t bytes = p->k / f->block_elems * f->plane_bytes[i];
        for (int64_t r = first; r < end && r < ROWS; r++)
            for (int64_t j = 0; j < bytes; j += 64)
                prefetch(t->scales[i] + (uintptr_t)(r * p->w->stride[i] + j));
    }
}

/* The tile at row n of [n, n1). `visits` is how often each 32 weights along K of the tile are met
 * by code that calls ahead(): spread over all of them, the next tile arrives in time. */
static inline void tile_at(tile *t, const gqmm_product *p, int64_t n, int64_t visits)
{
    const gqmm_matrix *w = p->w;
    const int64_t rows = p->n1 - n < ROWS ? p->n1 - n : ROWS;
    const int64_t row_bytes = p->k / w->format->pub.block_elems * w->format->pub.plane_bytes[0];
    const bool dense = w->stride[0] >= row_bytes && w->stride[0] <= row_bytes + row_bytes / 8;
    const int64_t slots = (p->k + 31) / 32 * visits * 64;

    t->w = w;
    for (int i = 0; i < w->format->pub.n_planes; i++)
        for (int r = 0; r < ROWS; r++)
            t->row[i][r] = w->plane[i] + (n + (r < rows ? r : rows - 1)) * w->stride[i];
    t->next.lines = dense ? (int)((ROWS * w->stride[0] + slots - 1) / slots) : 0;
    for (int i = 0; i < w->format->pub.n_planes; i++) {
        const uint8_t *after = w->plane[i] + (p->n1 - 1) * w->stride[i]; /* of the product's end */
        t->scales[i] = (uintptr_t)w->plane[i] + (uintptr_t)((n + rows) * w->stride[i]);
        if (n + rows == p->n1)
            t->scales[i] = (uintptr_t)(p->next[i] ? p->next[i] : after);
    }
    t->next.at = t->scales[0];
}

static inline void tile_store(float *const *y, int64_t n, int64_t cols, float (*sum)[ROWS],
                              int64_t m)
{
    for (int64_t i = 0; i < m; i++)
        if (cols == ROWS)
            memcpy(y[i] + n, sum[i], sizeof *sum); /* a few stores instead of a call */
        else
            memcpy(y[i] + n, sum[i], (size_t)cols * sizeof(float));
}

/* The fewest passes of at most `most` rows, of nearly equal size: 7 rows by 6 are 4 + 3. */
static inline int64_t rows_at_once(int64_t left, int64_t most)
{
    const int64_t passes = (left + most - 1) / most;
    return (left + passes - 1) / passes;
}

/* ---- the pack that serves any format */

/* One row of the step: n codes + shift as bytes, its scales and offsets to column r. */
INLINE void unpack_row(uint8_t *bytes, panel *to, int r, const uint8_t *p[3], const gqmm_matrix *m,
                       int n, int shift, gqmm_unpack_fn *unpack)
{
    const gqmm_format_info *f = m->format;
    const int block = f->pub.block_elems, group = f->pub.group_elems;
    const int piece = group == 16 ? 16 : 32;
    int16_t q[STEP];
    float scale[GQMM_MAX_GROUPS], offset[GQMM_MAX_GROUPS] = {0};

    for (int j = 0; j < n; j += block) {
        unpack(f, q + j, scale, offset, p);
        for (int i = 0; i < block; i += piece) {
            to->scale[(j + i) / piece][r] = scale[i / group] * m->global;
            if (f->has_offset)
                to->offset[(j + i) / piece][r] = offset[i / group];
        }
        for (int i = 0; i < f->pub.n_planes; i++)
            p[i] += f->pub.plane_bytes[i];
    }
    for (int j = 0; j < n; j += 32) /* half of the last 32 is not read if n ends there */
        narrow32(bytes + j, q + j, shift);
}

/* Decodes LANES rows to bytes in order, then transposes them. */
INLINE void generic_pack(panel *to, tile *t, int64_t k, int n, int shift, gqmm_unpack_fn *unpack)
{
    const gqmm_format *f = &t->w->format->pub;
    uint8_t bytes[LANES][STEP];
    const uint8_t *row[LANES];
    vec v[4];

    for (int h = 0; h < ROWS; h += LANES) {
        for (int r = 0; r < LANES; r++) {
            const uint8_t *p[3] = {NULL, NULL, NULL};
            for (int i = 0; i < f->n_planes; i++)
                p[i] = t->row[i][h + r] + k / f->block_elems * f->plane_bytes[i];
            row[r] = bytes[r];
            unpack_row(bytes[r], to, h + r, p, t->w, n, shift, unpack);
            for (int j = r; j < n / 32; j += LANES)
                ahead(&t->next);
        }
        for (int j = 0; j < n; j += 16) {
            transpose(v, row, j);
            for (int i = 0; i < 4; i++)
                store(to->q[j / 4 + i] + h, v[i]);
        }
    }
}

#endif
