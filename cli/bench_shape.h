/* SPDX-License-Identifier: MIT */
/* Shapes of models for bench and synth, by name from bench/shapes.def or as four numbers. */
#ifndef GQMM_CLI_BENCH_SHAPE_H
#define GQMM_CLI_BENCH_SHAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct bench_shape {
    const char *name;
    int64_t n_experts, n_ff, n_hidden, n_used; /* E, N, K, top */
    int64_t n_heads, n_kv_heads, head_dim, n_layers, n_vocab;
} bench_shape;

/* A name, or "E,N,K,top" with a small attention around it; false, with a sentence, for others. */
bool bench_shape_find(const char *text, bench_shape *shape);

#endif
