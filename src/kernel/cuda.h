/* SPDX-License-Identifier: MIT */
/* The contract of the CUDA room, in C: what src/op hands to its launches.
 *
 * Every launch only enqueues on the given stream: it allocates nothing, waits for nothing, and may
 * be captured in a graph. Pointers are device memory unless said otherwise. All checking that the
 * host can do happened in src/op; ids are checked here, as they lie on the device: -1 gives a zero
 * row, any other bad id a zero row and a bit of *fault.
 *
 * A column is one activation row of one (row, expert) pair: column c is row c % m of pair c / m. */
#ifndef GQMM_KERNEL_CUDA_CUDA_H
#define GQMM_KERNEL_CUDA_CUDA_H

#include "gqmm.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif

typedef struct CUstream_st *gqmm_stream; /* a cudaStream_t */

/* The paths. Each is a room of the table; SM90 uses what SM80 has and adds to it. */
enum { GQMM_CUDA_SM80 = 80, GQMM_CUDA_SM90 = 90 };

/* Bits of the sticky fault word. */
enum { GQMM_FAULT_EXPERT = 1, GQMM_FAULT_ROW = 2, GQMM_FAULT_TOKEN = 4 };

/* A weights handle as kernels see it, by value. plane[0] NULL: no matrix. */
typedef struct gqmm_cuda_matrix {
    const uint8_t *plane[3];
    int64_t row_stride[3], expert_stride[3]; /* bytes, may be negative */
    int64_t n_rows, n_cols;
    const float *global; /* tensor amax per expert or NULL, see gqmm.h */
    int64_t global_stride;
    int32_t n_experts;
    int32_t group;      /* weights that share a scale */
    int32_t scale_type; /* affine: type of scales and biases */
    int32_t aligned;    /* all row starts of plane 0 are multiples of 16, of the others of 4, but
                         * where these are bytes */
} gqmm_cuda_matrix;

/* Columns [begin, begin + count) of a list's order meet this expert; expert -1: their rows are
 * zeroed. */
typedef struct gqmm_cuda_tile {
    int32_t expert, begin, count;
    int32_t done; /* see gqmm_cuda_product.tells; the sort sets 0 */
} gqmm_cuda_tile;

/* Columns in the order of their experts, made by gqmm_cuda_sort() on the device. */
typedef struct gqmm_cuda_list {
    int32_t *order;        /* [n_pairs] pairs by expert, bad and skipped ones last */
    gqmm_cuda_tile *tiles; /* [most_tiles], heavy experts first; begin and count in columns */
    int32_t *n_tiles;      /* [1] tiles behind so many have no columns */
    int32_t *taken;        /* [2] for wide(): work that blocks have taken, of a product that follows
                            * none and of one that follows; 0 before and after; NULL: no wide() */
    int32_t *first;        /* [n_experts + 2] where each expert's pairs start in order; [E]: the
                            * skipped ones */
    int32_t tile_columns;  /* most columns of a tile */
    int32_t most_tiles;    /* bound known to the host */
} gqmm_cuda_list;

/* Activations rounded to int8 in blocks of 128 along k, in the int8 product's order: see
 * wide_int8_x.cuh. Sorted: [k / 128, R, 128] and [k / 128, R], R = list.most_tiles *
 * list.tile_columns, each tile of the list in rows of its own. */
typedef struct gqmm_cuda_int8 {
    int8_t *codes;
    float *scales;
    int32_t sorted;
} gqmm_cuda_int8;

/* y[column] = W[expert] . x[row]            up.plane[0] NULL
 * y[column] = silu(W . x) * (up . x)        otherwise; w and up agree in format and sizes */
typedef struct gqmm_cuda_product {
    gqmm_cuda_matrix w, up;
    int64_t k, n; /* reduction and outputs of a column */

    const void *x;
    int64_t x_row, x_mat; /* elements, true strides */
    int32_t x_type;
    int32_t y_type;
    void *y;
    int64_t y_row, y_pair;

    int64_t n_pairs, m, n_x; /* n_x matrices in x */
    const int32_t *lhs;      /* NULL: pair p takes matrix p / slots */
    const int32_t *rhs;      /* NULL: pair p takes expert `expert`, or p if that is -1 */
    int64_t lhs_stride, rhs_stride;
    int32_t slots, expert;

    gqmm_cuda_list list; /* tiles NULL: blocks find their columns themselves (few pairs) */
    /* lhs, rhs and list, if any, were complete before the launch ahead of this one began, so
     * weights may be asked for while that one still runs. */
    int32_t ids_early;
    /* For wide() alone. x and y are in a decoder's order of k inside every 32 numbers: 0 no, else
     * 1 + that order, and 16 more where they are 2^37 of what they are, see wide_codes.cuh; that is
     * gqmm_cuda_family.wide_order of the family that reads them. With x_order 0 wide() first brings
     * x to x_ordered, room for n_x * m * k bf16 numbers. */
    int32_t x_order, y_order;
    void *x_ordered;
    uint32_t *fault;
    /* For int8() alone: room for x rounded, [n_x * m, k] and [n_x * m, k / 128], which it fills; or
     * sorted, what the int8() before it wrote as y8: then x is not read. */
    gqmm_cuda_int8 x8;
    gqmm_cuda_int8 y8; /* with `up` given: in place of y */
    /* For wide() alone, n up to 2^28. A product that tells counts what it has written of each tile;
     * the next one on the stream, with the same list, then may follow: it does not wait until that
     * one has ended, but reads the rows of a tile as x, with x_order, once they are complete. Its
     * weights and its list were complete before that one began. */
    int32_t tells, follows;
} gqmm_cuda_product;

/* The last product of a mixture with its weighted sum, see sum.cuh: h bf16 [T * S, K] dense. ids
 * and weights were complete before the launch ahead of this one began. */
typedef struct gqmm_cuda_sum {
    gqmm_cuda_matrix w;
    const int32_t *ids;
    const float *weights;
    const void *h;
    const float *shared, *shared_dot; /* [T, N], [T], as in gqmm_cuda_combine */
    void *y;
    int64_t y_row, n_tokens;
    int32_t y_type, n_slots;
} gqmm_cuda_sum;

/* ids and weights from logits [n_tokens, n_experts], as gqmm_moe() describes it. */
typedef struct gqmm_cuda_topk {
    float *logits;
    const float *bias;
    int32_t *ids;
    float *weights;
    int64_t n_tokens;
    int32_t n_experts, n_slots, scoring, renormalize;
    float routed_scale;
    int32_t n_parts; /* of logits, to be added up; 0 is 1; more: up to 32 slots, 1024 experts */
} gqmm_cuda_topk;

/* A mixture for one bf16 token in two launches, see mixture.cuh: gate and up with SwiGLU into h
 * where `up` is given, else down with the weighted sum. With logits both find its experts from
 * them, and the first also writes ids and weights. logits NULL: both are given. Logits and given
 * ids were complete before the launch ahead of the second one began. w.n_rows are the rows of one
 * matrix, also where gate and up lie in one. */
typedef struct gqmm_cuda_few {
    gqmm_cuda_topk choice;
    gqmm_cuda_matrix w, up;
    const void *x;
    int64_t x_row;                    /* elements */
    void *h;                          /* bf16 [S, F] dense; rows of skipped slots are not written */
    const float *shared, *shared_dot; /* as in gqmm_cuda_combine */
    void *y;
    int64_t y_row;
    int32_t y_type;
    uint32_t *fault;
} gqmm_cuda_few;

/* Rows of weights as numbers: y[i, :] = row of stored row index ids[i] (or first + i). */
typedef struct gqmm_cuda_rows {
    gqmm_cuda_matrix w;
    const int32_t *ids; /* NULL: rows first, first + 1, ... counted through the experts */
    int64_t ids_stride, first, n;
    void *y;
    int64_t y_row;
    int32_t y_type;
    uint32_t *fault;
} gqmm_cuda_rows;

/* y[m, n] = sum over k of x[m, k] w[n, k], both bf16, on GQMM_CUDA_SM90: for many m, behind rows()
 * that made w. */
typedef struct gqmm_cuda_dense {
    const void *x, *w;
    void *y;
    int64_t x_row, w_row, y_row; /* elements */
    int64_t m, n, k;
    int32_t y_type;
    int32_t parts; /* more than 1, y fp32: [parts, m, y_row], each of a stretch of k */
} gqmm_cuda_dense;
/* By sizes and strides, and by where x and w are, unless NULL. */
bool gqmm_cuda_dense_fits(const gqmm_cuda_dense *d);
/* The parts, a power of two up to 4, with which few rows of x keep the device busy. */
int32_t gqmm_cuda_dense_parts(const gqmm_cuda_dense *d);
int gqmm_cuda_dense_product(const gqmm_cuda_dense *d, gqmm_stream s);

/* What the room has for one format family; entries a path lacks are NULL. */
typedef struct gqmm_cuda_family {
    const char *family;
    /* Any sizes. `path` is GQMM_CUDA_SM80 or SM90. */
    int (*product)(const gqmm_cuda_product *p, int path, gqmm_stream s);
    /* y[column, n] = sum over k of W[k, n] x[k]: stored rows are k. */
    int (*product_n)(const gqmm_cuda_product *p, int path, gqmm_stream s);
    int (*rows)(const gqmm_cuda_rows *r, gqmm_stream s);
    /* Few tokens; sum_fits says whether these sizes are served. */
    int (*sum)(const gqmm_cuda_sum *c, int path, gqmm_stream s);
    bool (*sum_fits)(const gqmm_cuda_sum *c, int path);
    /* One token; few_fits says whether these sizes are served, and not faster by product(). */
    int (*few)(const gqmm_cuda_few *c, int path, gqmm_stream s);
    bool (*few_fits)(const gqmm_cuda_few *c, int path);
    /* Whether on sm_90 product() in tiles of eight columns beats wide() where experts have `mean`
     * columns each. Of list only tile_columns and most_tiles are read. */
    bool (*eights_fit)(const gqmm_cuda_product *p, double mean);
    /* The columns of one matrix, dozens to thousands, in one launch: bf16 activations at a multiple
     * of 16 bytes, sm_90; weights are rounded once to bf16. middle_fits says whether these sizes
     * are served, and faster than by any other. */
    int (*middle)(const gqmm_cuda_product *p, gqmm_stream s);
    bool (*middle_fits)(const gqmm_cuda_product *p);

    /* The product in tiles of many columns with wgmma, or of few with mma.sync where the format has
     * a kernel for these, bf16 activations only, sm_90; weights are rounded once to bf16. Needs
     * p->list. wide_fits: bf16, a list, whole pieces of k, aligned rows. */
    int (*wide)(const gqmm_cuda_product *p, gqmm_stream s);
    bool (*wide_fits)(const gqmm_cuda_product *p);
    /* Of a tile, for experts of `mean` columns; by sizes and weights. 0: so few that product() is
     * faster. */
    int (*wide_columns)(const gqmm_cuda_product *p, double mean);
    int32_t wide_order; /* what wide() wants x_order to be */

    /* The same with activations rounded to int8 in blocks of 128 along k. With `up` the outputs are
     * rounded again, and p->y8 is written, not y. */
    int (*int8)(const gqmm_cuda_product *p, gqmm_stream s);
    bool (*int8_fits)(const gqmm_cuda_product *p);
    int (*int8_columns)(double mean); /* of a tile; 0: wide() is faster */
} gqmm_cuda_family;

/* ---- routing */

/* Sorts pairs by expert. Only rhs, lhs (for their range), n_pairs, m, n_x, slots, expert, fault and
 * w.n_experts of p are read, and list (all but its contents). `scratch` has
 * gqmm_cuda_sort_scratch() bytes. Up to 5000 experts (12000 on GQMM_CUDA_SM90) and 2^31 - 1
 * columns; cudaErrorInvalidValue beyond. The order within an expert is that of the pairs. */
size_t gqmm_cuda_sort_scratch(int64_t n_pairs, int32_t n_experts);
int32_t gqmm_cuda_most_tiles(int64_t n_pairs, int64_t m, int32_t n_experts, int32_t tile_columns);
/* With x_order, a family's wide_order, the same launch brings x to x_ordered, as that family's
 * wide() would with x_order 0; not for more pairs than these. */
enum { GQMM_CUDA_SORT_BRINGS = 65536 };
int gqmm_cuda_sort(const gqmm_cuda_product *p, int32_t x_order, void *scratch, int path,
                   gqmm_stream s);

int gqmm_cuda_choose(const gqmm_cuda_topk *t, int path, gqmm_stream s);

/* Logits by a router of f32, f16 or bf16 rows, in parts to be added up, each of a stretch of K. */
typedef struct gqmm_cuda_router {
    const uint8_t *w;
    int64_t w_row; /* bytes */
    int32_t w_type, x_type;
    const void *x;
    int64_t x_row, k;
    gqmm_cuda_topk choice; /* its logits [parts, n_tokens, n_experts] are written */
    int32_t parts;
} gqmm_cuda_router;
/* By sizes, strides and types alone; 0: a product makes the logits. */
int32_t gqmm_cuda_router_parts(const gqmm_cuda_router *r, int path);
/* Whether what has parts is served where x and w are. */
bool gqmm_cuda_router_fits(const gqmm_cuda_router *r, int path);
int gqmm_cuda_route(const gqmm_cuda_router *r, int path, gqmm_stream s);

/* y[t] = sum over s of weights[t, s] * pairs[t * S + s] in slot order (slots with a bad id or -1
 * are left out, but their rows are read: finite, as products leave them), then + factor[t] *
 * shared[t]; fp32, one rounding. ids and weights were complete before the launch ahead of this one
 * began. */
typedef struct gqmm_cuda_combine {
    const void *pairs; /* [T * S, D] */
    int32_t pairs_type;
    int32_t y_type;
    const int32_t *ids;
    const float *weights;
    const void *shared;      /* [T, D] of pairs_type or NULL */
    const float *shared_dot; /* [T]: factor is its sigmoid; NULL: 1 */
    void *y;
    int64_t y_row, n_tokens, d;
    int32_t n_slots, n_experts;
} gqmm_cuda_combine;
int gqmm_cuda_add_up(const gqmm_cuda_combine *c, int path, gqmm_stream s);

/* The better path that the present device has code for: SM90's is the chip's own, so neither a
 * later device nor a build without it takes it. */
int32_t gqmm_cuda_best_path(void);

/* h[i] = silu(gate[i]) * up[i], for weights whose gate and up differ in format. */
int gqmm_cuda_silu(void *h, int32_t h_type, const float *gate, const float *up, int64_t n, int path,
                   gqmm_stream s);

/* ---- quantising by rounding: formats whose quantiser is `plain` in formats.def */

typedef struct gqmm_cuda_quantize {
    int32_t format; /* index in gqmm_formats[] */
    int32_t x_type;
    const void *x;
    int64_t x_row, n_rows, n_cols;
    uint8_t *plane[3];
    int64_t row_stride[3];
    const float *global; /* one float or NULL */
} gqmm_cuda_quantize;
/* 0: the format has no rounding quantiser on the device. */
int gqmm_cuda_can_quantize(int32_t format);
int gqmm_cuda_round(const gqmm_cuda_quantize *q, gqmm_stream s);

/* Launches return a cudaError_t: 0 is success. */

#define GQMM_CUDA_FAMILY(name, wide) extern const gqmm_cuda_family gqmm_##name##_cuda;
#include "kernel/cuda_families.def"

#if defined(__cplusplus)
}
#endif
#endif
