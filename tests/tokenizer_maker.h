/* SPDX-License-Identifier: MIT */
/* What check_tokenizer.c stands on: vocabularies written as GGUF bytes by recipe, an allocator that
 * counts and fails on order, small helpers. */
#ifndef TESTS_TOKENIZER_MAKER_H
#define TESTS_TOKENIZER_MAKER_H

#include "gqmm-model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ------------------------------------------------------------------ an allocator that can fail */

typedef struct counter {
    int64_t live, calls, fail_at; /* fail_at: the call that gets NULL; -1: none */
} counter;

static inline void *counted_alloc(void *user, size_t size, size_t align)
{
    counter *c = user;
    void *p = NULL;
    if (c->calls++ == c->fail_at || posix_memalign(&p, align, size) != 0)
        return NULL;
    c->live += (int64_t)size;
    return p;
}

static inline void counted_release(void *user, void *memory, size_t size)
{
    counter *c = user;
    c->live -= (int64_t)size;
    free(memory);
}

/* ------------------------------------------------------------------ a vocabulary as GGUF bytes */

typedef struct bytes {
    unsigned char *data;
    size_t n, capacity;
} bytes;

static inline void add(bytes *b, const void *data, size_t n)
{
    if (b->n + n > b->capacity) {
        b->capacity = (b->n + n) * 2;
        b->data = realloc(b->data, b->capacity);
        if (!b->data)
            abort();
    }
    if (n)
        memcpy(b->data + b->n, data, n);
    b->n += n;
}

static inline void add32(bytes *b, uint32_t v)
{
    add(b, &v, 4);
}

static inline void add64(bytes *b, uint64_t v)
{
    add(b, &v, 8);
}

static inline void add_text(bytes *b, const char *text, size_t n)
{
    add64(b, n);
    add(b, text, n);
}

/* Starts from the 256 bytes and a few merges; every edit is off when zero. */
typedef struct recipe {
    const char *model, *pre; /* NULL: "gpt2", "qwen2"; "": the key is left out */
    const char *skip;        /* a key left out */
    const char *extra[8];    /* tokens behind the bytes */
    int32_t extra_type[8];   /* 0: 1 */
    const char *merges[8];
    int32_t no_byte;    /* 1 + a byte whose token is spelt otherwise */
    int32_t more_types; /* entries of token_type above (below) the number of tokens */
    int32_t type_of_0;
    int32_t eos; /* 0: none; n: id n - 1, -1: beyond */
    int32_t ints_as_tokens;
    int32_t special_length; /* a control token of that many 'z' */
} recipe;

enum { T_U32 = 4, T_I32 = 5, T_STRING = 8, T_ARRAY = 9 };

static inline size_t byte_token(int32_t b, char out[2])
{
    int32_t code = b;
    if (!((b >= 33 && b <= 126) || (b >= 161 && b != 173)))
        code = b <= 32 ? 256 + b : b <= 160 ? 256 + 33 + (b - 127) : 256 + 67;
    if (code < 128) {
        out[0] = (char)code;
        return 1;
    }
    out[0] = (char)(0xc0 | code >> 6);
    out[1] = (char)(0x80 | (code & 63));
    return 2;
}

static inline int32_t key(bytes *b, const recipe *r, const char *name)
{
    char full[64];
    if (r->skip && strcmp(r->skip, name) == 0)
        return 0;
    snprintf(full, sizeof full, "tokenizer.ggml.%s", name);
    add_text(b, full, strlen(full));
    return 1;
}

static inline int32_t string_key(bytes *b, const recipe *r, const char *name, const char *value)
{
    if (!key(b, r, name))
        return 0;
    add32(b, T_STRING);
    add_text(b, value, strlen(value));
    return 1;
}

static inline int32_t array_key(bytes *b, const recipe *r, const char *name, uint32_t type,
                                int32_t n)
{
    if (!key(b, r, name))
        return 0;
    add32(b, T_ARRAY);
    add32(b, type);
    add64(b, (uint64_t)n);
    return 1;
}

static inline void add_tokens(bytes *b, const recipe *r)
{
    for (int32_t i = 0; i < 256; i++) {
        char text[2];
        const size_t n = byte_token(i, text);
        if (r->no_byte == i + 1)
            add_text(b, "zzzz", 4);
        else
            add_text(b, text, n);
    }
    for (int32_t i = 0; i < 8 && r->extra[i]; i++)
        add_text(b, r->extra[i], strlen(r->extra[i]));
    if (r->special_length) {
        char *z = malloc((size_t)r->special_length);
        if (!z)
            abort();
        memset(z, 'z', (size_t)r->special_length);
        add_text(b, z, (size_t)r->special_length);
        free(z);
    }
}

static inline bytes make(const recipe *r)
{
    bytes b = {NULL, 0, 0};
    int32_t n_extra = 0, n_merges = 0;
    uint64_t n_keys = 0;
    while (n_extra < 8 && r->extra[n_extra])
        n_extra++;
    while (n_merges < 8 && r->merges[n_merges])
        n_merges++;
    const int32_t n = 256 + n_extra + (r->special_length != 0);
    add(&b, "GGUF", 4);
    add32(&b, 3);
    add64(&b, 0);
    add64(&b, 0); /* keys, set at the end */
    n_keys += string_key(&b, r, "model", r->model ? r->model : "gpt2");
    n_keys += string_key(&b, r, "pre", r->pre ? r->pre : "qwen2");
    if (r->ints_as_tokens) {
        n_keys += array_key(&b, r, "tokens", T_I32, 1);
        add32(&b, 0);
    } else if (array_key(&b, r, "tokens", T_STRING, n)) {
        n_keys++;
        add_tokens(&b, r);
    }
    if (array_key(&b, r, "token_type", T_I32, n + r->more_types)) {
        n_keys++;
        for (int32_t i = 0; i < n + r->more_types; i++) {
            int32_t type = i >= 256 && i < 256 + n_extra ? r->extra_type[i - 256] : 0;
            if (i == n - 1 && r->special_length)
                type = 3;
            if (i == 0 && r->type_of_0)
                type = r->type_of_0;
            add32(&b, type ? (uint32_t)type : 1);
        }
    }
    if (array_key(&b, r, "merges", T_STRING, n_merges)) {
        n_keys++;
        for (int32_t i = 0; i < n_merges; i++)
            add_text(&b, r->merges[i], strlen(r->merges[i]));
    }
    if (r->eos && key(&b, r, "eos_token_id")) {
        n_keys++;
        add32(&b, T_U32);
        add32(&b, r->eos < 0 ? (uint32_t)n : (uint32_t)(r->eos - 1));
    }
    memcpy(b.data + 16, &n_keys, 8);
    return b;
}

/* Bytes of a file of a directory with the string `from` put as `to`, which may be longer
 * or shorter; for a GGUF string its length goes along. */
static inline bytes load(const char *dir, const char *name, const char *from, const char *to)
{
    char path[600];
    bytes b = {NULL, 0, 0};
    unsigned char block[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    for (size_t n; f && (n = fread(block, 1, sizeof block, f)) > 0;)
        add(&b, block, n);
    if (f)
        fclose(f);
    for (size_t i = 8; from && i + strlen(from) < b.n; i++) {
        const uint64_t length = strlen(from), other = strlen(to);
        if (memcmp(b.data + i, from, length) != 0 || memcmp(b.data + i - 8, &length, 8) != 0)
            continue;
        bytes c = {NULL, 0, 0};
        add(&c, b.data, i - 8);
        add_text(&c, to, other);
        add(&c, b.data + i + length, b.n - i - length);
        free(b.data);
        return c;
    }
    return b;
}

static inline double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline uint32_t random_bits(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* A tokenizer with what it was made of. */
typedef struct vocab {
    gqmm_file *file;
    gqmm_tokenizer *tok;
    bytes made;
} vocab;

static inline void drop(vocab *v)
{
    gqmm_tokenizer_destroy(v->tok);
    gqmm_file_close(v->file);
    free(v->made.data);
    *v = (vocab){0};
}

#endif
