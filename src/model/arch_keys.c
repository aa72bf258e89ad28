/* SPDX-License-Identifier: MIT */
/* Hyperparameters. Every number of a file is bounded here, before anything is computed from it. */
#include "base/status.h"
#include "model/weights.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

typedef struct key_name {
    char text[128];
} key_name;

static key_name name_of(const gqmm_loader *l, const char *key)
{
    key_name name;
    snprintf(name.text, sizeof name.text, "%s.%s", l->model->arch->name, key);
    return name;
}

/* Published files write counts in any integer type, and per-layer counts as arrays. */
static bool read_int(const gqmm_loader *l, const gqmm_meta *meta, const char *name, int64_t *value)
{
    if (!gqmm_meta_int(l->file, meta, 0, value)) {
        gqmm_fail(l->err, GQMM_E_FORMAT, 0, "%s is no integer that fits 64 bits", name);
        return false;
    }
    for (uint64_t i = 1; i < meta->n; i++) {
        int64_t other;
        if (gqmm_meta_int(l->file, meta, i, &other) && other == *value)
            continue;
        gqmm_fail(l->err, GQMM_E_FORMAT, 0,
                  "%s differs between layers (entry %llu is not %lld), which is not supported",
                  name, (unsigned long long)i, (long long)*value);
        return false;
    }
    return true;
}

void gqmm_load_int(gqmm_loader *l, int32_t *out, const char *key, int64_t low, int64_t high,
                   int64_t fallback)
{
    if (l->status)
        return;
    const key_name name = name_of(l, key);
    const gqmm_meta *meta = gqmm_file_meta(l->file, name.text);
    int64_t value = fallback;
    if (!meta && fallback < 0) {
        l->status = gqmm_fail(l->err, GQMM_E_FORMAT, 0, "the key %s is missing", name.text);
        return;
    }
    if (meta && !read_int(l, meta, name.text, &value)) {
        l->status = GQMM_E_FORMAT;
        return;
    }
    if (value < low || value > high) {
        l->status = gqmm_fail(l->err, GQMM_E_FORMAT, 0, "%s is %lld, outside %lld to %lld",
                              name.text, (long long)value, (long long)low, (long long)high);
        return;
    }
    *out = (int32_t)value;
}

void gqmm_load_float(gqmm_loader *l, double *out, const char *key, double low, double high,
                     double fallback)
{
    if (l->status)
        return;
    const key_name name = name_of(l, key);
    const gqmm_meta *meta = gqmm_file_meta(l->file, name.text);
    double value = fallback;
    if (!meta && fallback < 0) {
        l->status = gqmm_fail(l->err, GQMM_E_FORMAT, 0, "the key %s is missing", name.text);
        return;
    }
    if (meta && !gqmm_meta_float(l->file, meta, 0, &value)) {
        l->status = gqmm_fail(l->err, GQMM_E_FORMAT, 0, "%s is no float", name.text);
        return;
    }
    if (!(value >= low && value <= high)) { /* so written that NaN fails */
        l->status = gqmm_fail(l->err, GQMM_E_FORMAT, 0, "%s is %g, outside %g to %g", name.text,
                              value, low, high);
        return;
    }
    *out = value;
}

void gqmm_load_only(gqmm_loader *l, const char *key, const char *known)
{
    if (l->status)
        return;
    const key_name name = name_of(l, key);
    const gqmm_meta *meta = gqmm_file_meta(l->file, name.text);
    const char *text = "";
    size_t length = 0;
    if (!meta)
        return;
    if (gqmm_meta_string(l->file, meta, 0, &text, &length) && length == strlen(known) &&
        memcmp(text, known, length) == 0)
        return;
    l->status = gqmm_fail(l->err, GQMM_E_UNSUPPORTED, 0, "%s is set, and only \"%s\" is supported",
                          name.text, known);
}

/* Rows of the embedding; the key and the token list, where present, must agree with it. */
static void load_vocabulary(gqmm_loader *l)
{
    const gqmm_tensor *t = gqmm_find_tensor(l, -1, "token_embd.weight");
    const gqmm_meta *tokens = gqmm_file_meta(l->file, "tokenizer.ggml.tokens");
    int32_t said = 0;
    if (l->status)
        return;
    const int64_t n = t && t->n_dims == 2 ? t->dims[1] : 0;
    if (t && (n < 1 || n > 1 << 24)) {
        l->status = gqmm_fail(l->err, GQMM_E_FORMAT, t->offset,
                              "token_embd.weight has %lld rows (a matrix of 1 to %d is needed)",
                              (long long)n, 1 << 24);
        return;
    }
    gqmm_load_int(l, &said, "vocab_size", 1, 1 << 24, n > 0 ? n : 1);
    if (l->status || !t)
        return; /* a missing embedding is reported, by name, when it is loaded */
    if (said != n) {
        l->status = gqmm_fail(l->err, GQMM_E_FORMAT, t->offset,
                              "%s.vocab_size is %d, but token_embd.weight has %lld rows",
                              l->model->arch->name, said, (long long)n);
        return;
    }
    if (tokens && tokens->kind == GQMM_META_ARRAY && tokens->n != (uint64_t)n) {
        l->status = gqmm_fail(l->err, GQMM_E_FORMAT, t->offset,
                              "tokenizer.ggml.tokens has %llu entries, but token_embd.weight has "
                              "%lld rows",
                              (unsigned long long)tokens->n, (long long)n);
        return;
    }
    l->model->hp.n_vocab = said;
}

/* Rules between two keys. */
static void check_attention(gqmm_loader *l, int32_t value_length)
{
    const gqmm_hparams *hp = &l->model->hp;
    const char *arch = l->model->arch->name;
    if (l->status)
        return;
    if (hp->n_heads % hp->n_kv_heads != 0)
        l->status = gqmm_fail(l->err, GQMM_E_FORMAT, 0,
                              "%s.attention.head_count is %d, no multiple of head_count_kv, %d",
                              arch, hp->n_heads, hp->n_kv_heads);
    else if (hp->head_dim % 2 != 0)
        l->status = gqmm_fail(l->err, GQMM_E_FORMAT, 0, "%s.attention.key_length is %d; it is odd",
                              arch, hp->head_dim);
    else if (value_length != hp->head_dim)
        l->status = gqmm_fail(l->err, GQMM_E_FORMAT, 0,
                              "%s.attention.value_length is %d, key_length is %d; they must agree",
                              arch, value_length, hp->head_dim);
    else if (hp->n_rot % 2 != 0)
        l->status = gqmm_fail(l->err, GQMM_E_FORMAT, 0, "%s.rope.dimension_count is %d; it is odd",
                              arch, hp->n_rot);
}

void gqmm_load_hparams(gqmm_loader *l)
{
    gqmm_hparams *hp = &l->model->hp;
    int32_t value_length = 0;
    double eps = 0, scale = 0;
    gqmm_load_int(l, &hp->n_layers, "block_count", 1, 512, -1);
    gqmm_load_int(l, &hp->n_context, "context_length", 1, 1 << 24, -1);
    gqmm_load_int(l, &hp->n_embd, "embedding_length", 1, 1 << 17, -1);
    gqmm_load_int(l, &hp->n_heads, "attention.head_count", 1, 1024, -1);
    if (l->status)
        return; /* the fallbacks below divide by these */
    gqmm_load_int(l, &hp->n_kv_heads, "attention.head_count_kv", 1, hp->n_heads, hp->n_heads);
    gqmm_load_int(l, &hp->head_dim, "attention.key_length", 2, 1024, hp->n_embd / hp->n_heads);
    gqmm_load_int(l, &value_length, "attention.value_length", 2, 1024, hp->head_dim);
    gqmm_load_int(l, &hp->n_rot, "rope.dimension_count", 2, hp->head_dim, hp->head_dim);
    gqmm_load_int(l, &hp->n_experts, "expert_count", 1, 1 << 14, -1);
    gqmm_load_int(l, &hp->n_used, "expert_used_count", 1, hp->n_experts, -1);
    gqmm_load_int(l, &hp->n_ff, "expert_feed_forward_length", 1, 1 << 17, -1);
    gqmm_load_float(l, &eps, "attention.layer_norm_rms_epsilon", 0, 1, -1);
    gqmm_load_float(l, &hp->rope_base, "rope.freq_base", 1, 1e12, 10000);
    gqmm_load_float(l, &scale, "expert_weights_scale", 0, 1e6, 1);
    hp->rms_eps = (float)eps;
    hp->routed_scale = scale > 0 ? (float)scale : 1.0f; /* files write 0 for "none" */
    gqmm_load_only(l, "rope.scaling.type", "none");
    check_attention(l, value_length);
    load_vocabulary(l);
}
