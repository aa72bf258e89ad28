/* SPDX-License-Identifier: MIT */
/* Tensors by their part in the model, and sums over such groups, for inspect and quantize. */
#ifndef GQMM_CLI_GROUPS_H
#define GQMM_CLI_GROUPS_H

#include <gqmm-model.h>

/* In the order in which tables show them. */
enum {
    GROUP_EMBEDDING,
    GROUP_ATTENTION,
    GROUP_DELTA_NET,
    GROUP_ROUTER,
    GROUP_EXPERTS_GATE,
    GROUP_EXPERTS_UP,
    GROUP_EXPERTS_DOWN,
    GROUP_SHARED,
    GROUP_DENSE,
    GROUP_NORMS,
    GROUP_OUTPUT,
    GROUP_OTHER,
    N_GROUPS
};

typedef struct group_sum {
    int64_t n_tensors, n_weights, n_bytes;
    int64_t n_packed; /* tensors whose words hold several weights each: their count is unknown */
    const char *types[8];
    int n_types;
} group_sum;

const char *group_name(int group);
const char *group_key(int group); /* for JSON: "experts_gate" */
/* By GGUF, Hugging Face and MLX names. */
int group_of(const char *tensor_name);
int64_t tensor_weights(const gqmm_tensor *t);
void group_add(group_sum *sum, const gqmm_tensor *t);
/* "q4_k q6_k" into text. */
void group_types(const group_sum *sum, char *text, size_t size);
/* Bits per weight; NaN where it is unknown. */
double group_bits(const group_sum *sum);
group_sum group_total(const group_sum sums[N_GROUPS]);

#endif
