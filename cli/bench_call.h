/* SPDX-License-Identifier: MIT */
/* The calls that bench measures: their operands, in memory of the host or of a device, and what
 * they cannot do without. */
#ifndef GQMM_CLI_BENCH_CALL_H
#define GQMM_CLI_BENCH_CALL_H

#include "bench.h"

/* What the calls of one row work on. Call i takes list i of ids and layer i, around and around. */
typedef struct bench_inputs {
    bench *b;
    const bench_layers *l;
    gqmm_context *ctx;
    gqmm_weights *const *w;        /* [l->n_layers][l->n_matrices] */
    gqmm_weights *const *router;   /* [l->n_layers]; NULL: ids and weights are given */
    int64_t tokens, n_lists, list; /* list: ids of one list */
    int32_t type;                  /* of x and y */
    uint8_t *x, *y;
    int64_t x_rows; /* quantize: rows of x, of which a call takes `tokens` */
    int32_t *ids, *lhs;
    float *weights;
    const int32_t *chosen; /* the same ids where the host can read them */
    uint8_t *planes[3];    /* quantize: the output */
    void *workspace;
    size_t workspace_bytes;
} bench_inputs;

/* Experts are chosen by ids: moe, gather. */
bool bench_is_routed(bench_op op);
/* Ids of one list, how many lists take turns, and their contents on the host, from need(). */
void bench_make_ids(bench_inputs *in, int32_t **ids, float **weights, int32_t **lhs);
int64_t bench_y_count(const bench_inputs *in); /* elements of y; quantize: none */

gqmm_status bench_call(const bench_inputs *in, int64_t i, gqmm_error *err);
gqmm_status bench_call_workspace(const bench_inputs *in, size_t *bytes, gqmm_error *err);

/* Bytes that a call must move, on average over the lists, and multiply-adds. */
double bench_weight_bytes(const bench_inputs *in);
double bench_activation_bytes(const bench_inputs *in);
double bench_call_macs(const bench_inputs *in);

#endif
