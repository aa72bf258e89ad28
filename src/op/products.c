/* SPDX-License-Identifier: MIT */
#include "op/products.h"

int64_t gqmm_products_tasks(const gqmm_products *p)
{
    return p->n_segments * gqmm_ceil_div(p->n, p->chunk);
}

gqmm_piece gqmm_products_piece(const gqmm_products *p, int64_t task)
{
    const int64_t n_chunks = gqmm_ceil_div(p->n, p->chunk);
    const int64_t n0 = task % n_chunks * p->chunk;
    const int64_t n1 = p->n - n0 < p->chunk ? p->n : n0 + p->chunk;
    const int64_t segment = task / n_chunks;
    return (gqmm_piece){p->segments[p->order ? p->order[segment] : segment], n0, n1};
}

/* The expert of a piece, from its products' first row on. */
static gqmm_matrix matrix_of(const gqmm_products *p, const gqmm_piece *piece)
{
    gqmm_matrix w = gqmm_expert(p->w, piece->segment.expert);
    for (int i = 0; i < w.format->pub.n_planes; i++)
        w.plane[i] += p->row0 * w.stride[i];
    return w;
}

void gqmm_products_run(const gqmm_products *p, const gqmm_piece *piece, float *const *y,
                       const gqmm_products *next_p, const gqmm_piece *next)
{
    gqmm_matrix w = matrix_of(p, piece);
    const int64_t first = piece->segment.first;
    gqmm_product product = {.w = &w,
                            .k = p->k,
                            .n0 = piece->n0,
                            .n1 = piece->n1,
                            .m = piece->segment.count,
                            .y = y ? y : p->y + first,
                            .x = p->x ? p->x + first : NULL,
                            .a = p->a ? p->a + first : NULL};
    if (y) {
        product.n0 = 0;
        product.n1 = piece->n1 - piece->n0;
        for (int i = 0; i < w.format->pub.n_planes; i++)
            w.plane[i] += piece->n0 * w.stride[i];
    }
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

void gqmm_segments_order(int32_t *order, const gqmm_segment *segments, int64_t n)
{
    int64_t at[GQMM_SEGMENT + 2] = {0}; /* at[c + 1]: how many have GQMM_SEGMENT - c rows */
    for (int64_t i = 0; i < n; i++)
        at[GQMM_SEGMENT - segments[i].count + 1]++;
    for (int64_t c = 0; c < GQMM_SEGMENT; c++)
        at[c + 1] += at[c];
    for (int64_t i = 0; i < n; i++)
        order[at[GQMM_SEGMENT - segments[i].count]++] = (int32_t)i;
}
