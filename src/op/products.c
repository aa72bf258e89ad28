/* SPDX-License-Identifier: MIT */
#include "op/products.h"

static int64_t chunk(const gqmm_products *p)
{
    return p->transpose ? GQMM_CHUNK_ROWS : GQMM_CHUNK_COLS;
}

int64_t gqmm_products_tasks(const gqmm_products *p)
{
    return p->n_segments * gqmm_ceil_div(p->n, chunk(p));
}

gqmm_piece gqmm_products_piece(const gqmm_products *p, int64_t task)
{
    const int64_t n_chunks = gqmm_ceil_div(p->n, chunk(p));
    const int64_t n0 = task % n_chunks * chunk(p);
    const int64_t n1 = p->n - n0 < chunk(p) ? p->n : n0 + chunk(p);
    return (gqmm_piece){p->segments[task / n_chunks], n0, n1};
}

/* The expert of a piece, from its products' first row on. */
static gqmm_matrix matrix_of(const gqmm_products *p, const gqmm_piece *piece)
{
    gqmm_matrix w = gqmm_expert(p->w, piece->segment.expert);
    for (int i = 0; i < w.format->pub.n_planes; i++)
        w.plane[i] += p->row0 * w.stride[i];
    return w;
}

void gqmm_products_run(const gqmm_products *p, const gqmm_piece *piece, const gqmm_products *next_p,
                       const gqmm_piece *next)
{
    const gqmm_matrix w = matrix_of(p, piece);
    const int64_t first = piece->segment.first;
    gqmm_product product = {.w = &w,
                            .k = p->k,
                            .n0 = piece->n0,
                            .n1 = piece->n1,
                            .m = piece->segment.count,
                            .y = p->y + first,
                            .x = p->x ? p->x + first : NULL,
                            .a = p->a ? p->a + first : NULL};
    if (next && p->transpose) {
        const gqmm_matrix after = matrix_of(next_p, next);
        for (int i = 0; i < after.format->pub.n_planes; i++)
            product.next[i] = after.plane[i] + next->n0 * after.stride[i];
    }
    const gqmm_kernel_fns *fns = p->w->kernel->fns;
    if (!p->transpose)
        fns->qmm_n(&product);
    else if (p->precision == GQMM_INT8)
        fns->qmm_int8(&product);
    else
        fns->qmm(&product);
}

int64_t gqmm_segments_most(int64_t rows, int64_t experts)
{
    return rows / GQMM_SEGMENT + (rows < experts ? rows : experts);
}

/* Appends the segments of `count` rows of one expert; returns the new number of segments. */
static int64_t append(gqmm_segment *segments, int64_t n, int64_t expert, int64_t first,
                      int64_t count)
{
    for (int64_t i = 0; i < count; i += GQMM_SEGMENT) {
        const int64_t len = count - i < GQMM_SEGMENT ? count - i : GQMM_SEGMENT;
        segments[n++] = (gqmm_segment){expert, first + i, len};
    }
    return n;
}

int64_t gqmm_segments_cut(gqmm_segment *segments, int64_t count)
{
    return append(segments, 0, 0, 0, count);
}

int64_t gqmm_segments_sort(gqmm_segment *segments, int64_t *at, int64_t n_experts)
{
    int64_t n = 0;
    for (int64_t e = 0; e < n_experts; e++) {
        n = append(segments, n, e, at[e], at[e + 1]);
        at[e + 1] += at[e];
    }
    return n;
}
