/* SPDX-License-Identifier: MIT */
/* A tokenizer as an object: made from a file, asked about its tokens. Cutting text is in
 * tokenizer_encode.c. */
#include "model/tokenizer.h"

#include "base/memory.h"
#include "base/status.h"

#include <string.h>

void gqmm_tokenizer_quote(char *out, size_t size, const char *text, size_t length)
{
    size_t n = length < size - 1 ? length : size - 1;
    for (size_t i = 0; i < n; i++)
        out[i] = text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?';
    out[n] = '\0';
}

static gqmm_status string_of(gqmm_text *out, const gqmm_file *file, const char *key,
                             gqmm_error *err)
{
    const gqmm_meta *meta = gqmm_file_meta(file, key);
    if (!meta)
        return gqmm_fail(err, GQMM_E_FORMAT, 0, "the file has no %s", key);
    if (meta->kind != GQMM_META_STRING ||
        !gqmm_meta_string(file, meta, 0, &out->bytes, &out->length))
        return gqmm_fail(err, GQMM_E_FORMAT, 0, "%s is not a string", key);
    return GQMM_OK;
}

static gqmm_status build(gqmm_tokenizer *tok, const gqmm_file *file, gqmm_error *err)
{
    gqmm_text model = {NULL, 0}, pre = {NULL, 0};
    gqmm_status st = string_of(&model, file, "tokenizer.ggml.model", err);
    if (st != GQMM_OK)
        return st;
    if (model.length != 4 || memcmp(model.bytes, "gpt2", 4) != 0) {
        char name[40];
        gqmm_tokenizer_quote(name, sizeof name, model.bytes, model.length);
        return gqmm_fail(err, GQMM_E_UNSUPPORTED, 0,
                         "tokenizer.ggml.model \"%s\" is not known; known: \"gpt2\"", name);
    }
    st = string_of(&pre, file, "tokenizer.ggml.pre", err);
    if (st == GQMM_OK)
        st = gqmm_tokenizer_compile(tok, pre.bytes, pre.length, err);
    if (st == GQMM_OK)
        st = gqmm_tokenizer_load(tok, file, err);
    return st;
}

gqmm_status gqmm_tokenizer_create(const gqmm_file *file, const gqmm_allocator *allocator,
                                  gqmm_tokenizer **out, gqmm_error *err)
{
    gqmm_allocator a;
    if (!out)
        return gqmm_fail(err, GQMM_E_ARG, 0, "out is NULL");
    *out = NULL;
    if (!file)
        return gqmm_fail(err, GQMM_E_ARG, 0, "file is NULL");
    gqmm_status st = gqmm_allocator_init(&a, allocator, err);
    if (st != GQMM_OK)
        return st;
    gqmm_tokenizer *tok = gqmm_alloc(&a, 1, sizeof *tok);
    if (!tok)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for a tokenizer");
    tok->a = a;
    st = build(tok, file, err);
    if (st != GQMM_OK) {
        gqmm_tokenizer_destroy(tok);
        return st;
    }
    *out = tok;
    return GQMM_OK;
}

void gqmm_tokenizer_destroy(gqmm_tokenizer *tok)
{
    if (!tok)
        return;
    const gqmm_allocator a = tok->a;
    const size_t n = (size_t)tok->n;
    pcre2_code_free(tok->code);
    pcre2_match_context_free(tok->matching);
    pcre2_compile_context_free(tok->compiling);
    pcre2_general_context_free(tok->general);
    gqmm_bpe_destroy(&tok->bpe, &a);
    gqmm_names_destroy(&tok->by_bytes, &a);
    gqmm_release(&a, tok->pool, tok->pool_size, 1);
    gqmm_release(&a, tok->bytes, n, sizeof *tok->bytes);
    gqmm_release(&a, tok->type, n, 1);
    gqmm_release(&a, tok->end, n, 1);
    gqmm_release(&a, tok, 1, sizeof *tok);
}

static int32_t has(const gqmm_tokenizer *tok, int32_t id)
{
    return id >= 0 && id < tok->n;
}

int32_t gqmm_tokenizer_size(const gqmm_tokenizer *tok)
{
    return tok->n;
}

const char *gqmm_tokenizer_bytes(const gqmm_tokenizer *tok, int32_t id, size_t *length)
{
    if (length)
        *length = has(tok, id) ? tok->bytes[id].length : 0;
    return has(tok, id) ? tok->bytes[id].bytes : NULL;
}

int32_t gqmm_tokenizer_find(const gqmm_tokenizer *tok, const char *bytes, size_t length)
{
    const gqmm_text text = {bytes, length}, none = {NULL, 0};
    return bytes && length > 0 ? gqmm_names_find(&tok->by_bytes, text, none) : -1;
}

int32_t gqmm_tokenizer_is_control(const gqmm_tokenizer *tok, int32_t id)
{
    return has(tok, id) && tok->type[id] == GQMM_TOKEN_CONTROL;
}

int32_t gqmm_tokenizer_is_end(const gqmm_tokenizer *tok, int32_t id)
{
    return has(tok, id) && tok->end[id];
}

int32_t gqmm_tokenizer_is_filler(const gqmm_tokenizer *tok, int32_t id)
{
    return has(tok, id) &&
           (tok->type[id] == GQMM_TOKEN_UNUSED || tok->type[id] == GQMM_TOKEN_UNKNOWN);
}
