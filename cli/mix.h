/* SPDX-License-Identifier: MIT */
/* Which format each tensor gets: stock mixes such as q4_k_m, as rules in a table. */
#ifndef GQMM_CLI_MIX_H
#define GQMM_CLI_MIX_H

#include <gqmm-model.h>
#include <stdbool.h>

/* What the rules ask about a file. */
typedef struct mix_facts {
    int64_t n_layers, n_experts;
    int64_t n_values; /* tensors that hold value projections */
    bool tied;        /* no output.weight: the embedding serves as output */
} mix_facts;

typedef struct mix {
    const char *name;
    const char *base; /* the format of everything that no rule names */
    int32_t file_type;
    const struct mix_rule *rules; /* NULL: none */
} mix;

/* A named mix, or a GGUF format for every matrix (then *storage holds it); NULL if neither. */
const mix *mix_find(const char *name, mix *storage);
/* "q4_k_m, q4_k_s, ..., q8_0, ...": what mix_find knows. */
void mix_names(char *text, size_t size);

mix_facts mix_look(const gqmm_file *file);
/* The format of a tensor; *value_index counts value projections and starts at 0. */
const char *mix_format(const mix *m, const mix_facts *facts, const gqmm_tensor *t,
                       int64_t *value_index);

#endif
