/* SPDX-License-Identifier: MIT */
#include "mix.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* When a rule holds. Layers i of n are those of the tensor's name, for value projections their
 * running number, as llama-quantize counts them. */
typedef enum {
    ALWAYS,
    MORE,       /* the first and last eighth of the layers and every third between */
    FIRST_FOUR, /* i < 4 */
    EIGHTH,     /* i < n / 8 */
    TIED,       /* the embedding is the output too */
    EIGHT,      /* exactly eight experts */
    STACK       /* the tensor stacks experts */
} condition;

/* The first rule whose pattern is in the tensor's name ('^': begins it) and whose condition holds
 * decides. */
typedef struct mix_rule {
    const char *pattern;
    condition when;
    const char *format;
} mix_rule;

/* clang-format off */
#define END {NULL, ALWAYS, NULL}
#define K_RULES \
    {"^output.weight", ALWAYS, "q6_k"}, \
    {"token_embd", TIED, "q6_k"}, \
    {"attn_k.weight", EIGHT, "q8_0"}, \
    {"attn_v.weight", EIGHT, "q8_0"}, \
    {"attn_output.weight", EIGHT, "q5_k"}
/* clang-format on */

static const mix_rule q4_k_m_rules[] = {
    K_RULES,
    {"attn_v.weight", MORE, "q6_k"},
    {"attn_qkv.weight", MORE, "q6_k"},
    {"ffn_down", MORE, "q6_k"},
    END,
};
static const mix_rule q4_k_s_rules[] = {
    K_RULES,
    {"attn_v.weight", FIRST_FOUR, "q5_k"},
    {"attn_qkv.weight", FIRST_FOUR, "q5_k"},
    {"ffn_down", EIGHTH, "q5_k"},
    END,
};
static const mix_rule q5_k_s_rules[] = {K_RULES, END};
static const mix_rule mxfp4_rules[] = {{"_exps.weight", STACK, "mxfp4"}, END};

/* clang-format off */
static const mix mixes[] = {
    {"q4_k_m", "q4_k", 15, q4_k_m_rules},
    {"q4_k_s", "q4_k", 14, q4_k_s_rules},
    {"q5_k_m", "q5_k", 17, q4_k_m_rules},
    {"q5_k_s", "q5_k", 16, q5_k_s_rules},
    {"mxfp4_moe", "q8_0", 38, mxfp4_rules},
};
/* clang-format on */
enum { N_MIXES = sizeof mixes / sizeof *mixes };

/* general.file_type of files in one format; formats without a number of their own say "guessed". */
static const struct {
    const char *format;
    int32_t file_type;
} file_types[] = {
    {"f32", 0},     {"f16", 1},     {"q4_0", 2},  {"q4_1", 3},   {"q8_0", 7},  {"q5_0", 8},
    {"q5_1", 9},    {"q2_k", 10},   {"q3_k", 11}, {"q4_k", 14},  {"q5_k", 16}, {"q6_k", 18},
    {"iq4_nl", 25}, {"iq4_xs", 30}, {"bf16", 32}, {"nvfp4", 39},
};
enum { FILE_TYPE_GUESSED = 1024 };

/* Where rows are no multiple of a format's block: the next smaller block, in the end none. */
static const struct {
    const char *from, *to;
} fallbacks[] = {
    {"q2_k", "iq4_nl"}, {"q3_k", "iq4_nl"}, {"iq4_xs", "iq4_nl"}, {"q4_k", "q5_0"},
    {"q5_k", "q5_1"},   {"q6_k", "q8_0"},   {"nvfp4", "q5_0"},
};

static bool usable(const gqmm_format *f)
{
    return f->gguf_type >= 0 && (f->can_quantize || f->block_elems == 1);
}

const mix *mix_find(const char *name, mix *storage)
{
    for (int i = 0; i < N_MIXES; i++)
        if (strcmp(name, mixes[i].name) == 0)
            return &mixes[i];
    const gqmm_format *f = gqmm_format_find(name);
    if (!f || !usable(f))
        return NULL;
    *storage = (mix){f->name, f->name, FILE_TYPE_GUESSED, NULL};
    for (size_t i = 0; i < sizeof file_types / sizeof *file_types; i++)
        if (strcmp(f->name, file_types[i].format) == 0)
            storage->file_type = file_types[i].file_type;
    return storage;
}

void mix_names(char *text, size_t size)
{
    size_t used = 0;

    for (int i = 0; i < N_MIXES && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", i ? ", " : "", mixes[i].name);
    for (int32_t i = 0; i < gqmm_format_count() && used < size; i++)
        if (usable(gqmm_format_at(i)))
            used += (size_t)snprintf(text + used, size - used, ", %s", gqmm_format_at(i)->name);
}

static bool is_value(const char *name)
{
    return strstr(name, "attn_v.weight") || strstr(name, "attn_qkv.weight");
}

static int64_t file_number(const gqmm_file *file, const char *arch, size_t length, const char *key)
{
    char name[160];
    int64_t value = 0;

    snprintf(name, sizeof name, "%.*s.%s", (int)(length < 100 ? length : 100), arch, key);
    const gqmm_meta *m = gqmm_file_meta(file, name);
    return m && gqmm_meta_int(file, m, 0, &value) ? value : 0;
}

mix_facts mix_look(const gqmm_file *file)
{
    const gqmm_meta *m = gqmm_file_meta(file, "general.architecture");
    const char *arch = "";
    size_t length = 0;
    mix_facts facts = {.tied = !gqmm_file_tensor(file, "output.weight")};

    if (m && gqmm_meta_string(file, m, 0, &arch, &length)) {
        facts.n_layers = file_number(file, arch, length, "block_count");
        facts.n_experts = file_number(file, arch, length, "expert_count");
    }
    for (int64_t i = 0; i < gqmm_file_tensor_count(file); i++)
        facts.n_values += is_value(gqmm_file_tensor_at(file, i)->name);
    return facts;
}

static bool holds(condition when, const mix_facts *facts, const gqmm_tensor *t, int64_t i,
                  int64_t n)
{
    switch (when) {
    case ALWAYS:
        return true;
    case MORE:
        return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
    case FIRST_FOUR:
        return i < 4;
    case EIGHTH:
        return i < n / 8;
    case TIED:
        return facts->tied;
    case EIGHT:
        return facts->n_experts == 8;
    case STACK:
        return t->n_dims > 2 && t->dims[2] > 1;
    }
    return false;
}

/* Vectors, norms, the router and the short convolution keep float weights: they are small, and
 * errors in them are not. */
static bool stays_float(const gqmm_tensor *t)
{
    const size_t n = strlen(t->name);

    return t->n_dims < 2 || n < 7 || strcmp(t->name + n - 7, ".weight") != 0 ||
           strstr(t->name, "norm") || strstr(t->name, "ffn_gate_inp") ||
           strstr(t->name, "ssm_conv1d");
}

static const char *fitting(const char *format, int64_t n_cols)
{
    const gqmm_format *f = gqmm_format_find(format);
    const char *next = "f16";

    if (!f || n_cols % f->block_elems == 0)
        return format;
    for (size_t i = 0; i < sizeof fallbacks / sizeof *fallbacks; i++)
        if (strcmp(fallbacks[i].from, format) == 0)
            next = fallbacks[i].to;
    return fitting(next, n_cols);
}

const char *mix_format(const mix *m, const mix_facts *facts, const gqmm_tensor *t,
                       int64_t *value_index)
{
    const bool value = is_value(t->name);
    const int64_t i = value                              ? (*value_index)++
                      : strncmp(t->name, "blk.", 4) == 0 ? atoll(t->name + 4)
                                                         : 0;
    const int64_t n = value ? facts->n_values : facts->n_layers;
    const char *format = m->base;

    if (stays_float(t))
        return "f32";
    for (const mix_rule *r = m->rules; r && r->pattern; r++) {
        const bool named = *r->pattern == '^'
                               ? strncmp(t->name, r->pattern + 1, strlen(r->pattern + 1)) == 0
                               : strstr(t->name, r->pattern) != NULL;

        if (named && holds(r->when, facts, t, i, n)) {
            format = r->format;
            break;
        }
    }
    return fitting(format, t->dims[0]);
}
