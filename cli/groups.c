/* SPDX-License-Identifier: MIT */
#include "groups.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *key, *name;
} names[N_GROUPS] = {
    [GROUP_EMBEDDING] = {"embedding", "embedding"},
    [GROUP_ATTENTION] = {"attention", "attention"},
    [GROUP_DELTA_NET] = {"delta_net", "delta net"},
    [GROUP_ROUTER] = {"router", "router"},
    [GROUP_EXPERTS_GATE] = {"experts_gate", "experts gate"},
    [GROUP_EXPERTS_UP] = {"experts_up", "experts up"},
    [GROUP_EXPERTS_DOWN] = {"experts_down", "experts down"},
    [GROUP_SHARED] = {"shared_expert", "shared expert"},
    [GROUP_DENSE] = {"dense", "dense feed-forward"},
    [GROUP_NORMS] = {"norms", "norms"},
    [GROUP_OUTPUT] = {"output", "output"},
    [GROUP_OTHER] = {"other", "other"},
};

/* The first pattern that a name contains decides; '^' ties it to the beginning. */
static const struct {
    const char *pattern;
    int group;
} patterns[] = {
    {"norm", GROUP_NORMS},
    {"token_embd", GROUP_EMBEDDING},
    {"embed_tokens", GROUP_EMBEDDING},
    {"^output.", GROUP_OUTPUT},
    {"lm_head", GROUP_OUTPUT},
    {"shexp", GROUP_SHARED},
    {"shared_expert", GROUP_SHARED},
    {"ffn_gate_inp", GROUP_ROUTER},
    {"mlp.gate.", GROUP_ROUTER},
    {"exp_probs", GROUP_ROUTER},
    {"ffn_gate_exps", GROUP_EXPERTS_GATE},
    {"ffn_gate_up_exps", GROUP_EXPERTS_GATE},
    {"ffn_up_exps", GROUP_EXPERTS_UP},
    {"ffn_down_exps", GROUP_EXPERTS_DOWN},
    {"switch_mlp.gate", GROUP_EXPERTS_GATE},
    {"switch_mlp.up", GROUP_EXPERTS_UP},
    {"switch_mlp.down", GROUP_EXPERTS_DOWN},
    {"experts.gate", GROUP_EXPERTS_GATE},
    {"experts.down", GROUP_EXPERTS_DOWN},
    {"ssm_", GROUP_DELTA_NET},
    {"linear_attn", GROUP_DELTA_NET},
    {"attn", GROUP_ATTENTION},
    {"ffn_", GROUP_DENSE},
};

const char *group_name(int group)
{
    return names[group].name;
}

const char *group_key(int group)
{
    return names[group].key;
}

/* Hugging Face files that keep each expert apart: "mlp.experts.17.up_proj". */
static int group_of_projection(const char *name)
{
    const bool expert = strstr(name, ".experts.") != NULL;

    if (strstr(name, "gate_proj") || strstr(name, "gate_up_proj"))
        return expert ? GROUP_EXPERTS_GATE : GROUP_DENSE;
    if (strstr(name, "up_proj"))
        return expert ? GROUP_EXPERTS_UP : GROUP_DENSE;
    if (strstr(name, "down_proj"))
        return expert ? GROUP_EXPERTS_DOWN : GROUP_DENSE;
    return GROUP_OTHER;
}

int group_of(const char *tensor_name)
{
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        const char *p = patterns[i].pattern;

        if (*p == '^' ? strncmp(tensor_name, p + 1, strlen(p + 1)) == 0
                      : strstr(tensor_name, p) != NULL)
            return patterns[i].group;
    }
    return group_of_projection(tensor_name);
}

int64_t tensor_weights(const gqmm_tensor *t)
{
    int64_t n = 1;

    for (int32_t i = 0; i < t->n_dims; i++)
        n *= t->dims[i];
    return n;
}

void group_add(group_sum *sum, const gqmm_tensor *t)
{
    int k = 0;

    sum->n_tensors++;
    sum->n_weights += tensor_weights(t);
    sum->n_bytes += t->n_bytes;
    sum->n_packed += t->type < 0 && !t->format;
    while (k < sum->n_types && strcmp(sum->types[k], t->type_name) != 0)
        k++;
    if (k == sum->n_types && k < 8)
        sum->types[sum->n_types++] = t->type_name;
}

void group_types(const group_sum *sum, char *text, size_t size)
{
    size_t used = 0;

    text[0] = '\0';
    for (int i = 0; i < sum->n_types && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", i ? " " : "", sum->types[i]);
}

double group_bits(const group_sum *sum)
{
    if (sum->n_packed || sum->n_weights == 0)
        return (double)NAN;
    return 8.0 * (double)sum->n_bytes / (double)sum->n_weights;
}

group_sum group_total(const group_sum sums[N_GROUPS])
{
    group_sum all = {0};

    for (int g = 0; g < N_GROUPS; g++) {
        all.n_tensors += sums[g].n_tensors;
        all.n_weights += sums[g].n_weights;
        all.n_bytes += sums[g].n_bytes;
        all.n_packed += sums[g].n_packed;
    }
    return all;
}
