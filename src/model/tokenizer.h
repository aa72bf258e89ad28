/* SPDX-License-Identifier: MIT */
/* Inside of a tokenizer, shared by the files tokenizer*.c. */
#ifndef GQMM_MODEL_TOKENIZER_H
#define GQMM_MODEL_TOKENIZER_H

#include "gqmm-model.h"
#include "model/bpe.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* Values of tokenizer.ggml.token_type. */
enum {
    GQMM_TOKEN_NORMAL = 1,
    GQMM_TOKEN_UNKNOWN = 2,
    GQMM_TOKEN_CONTROL = 3,
    GQMM_TOKEN_USER = 4,
    GQMM_TOKEN_UNUSED = 5,
    GQMM_TOKEN_BYTE = 6
};

/* Texts of special tokens are looked for at every place of the input, so they may not be long. */
enum { GQMM_SPECIAL_LONGEST = 256 };

typedef struct gqmm_text {
    const char *bytes;
    size_t length;
} gqmm_text;

/* From text to the index in items[]; the texts stay the caller's. */
typedef struct gqmm_names {
    const gqmm_text *items;
    int32_t *slots; /* index + 1; 0: empty */
    size_t n_slots; /* a power of two */
} gqmm_names;

/* The running hash of a text, byte by byte, so that all prefixes of a text cost one pass. */
#define GQMM_NAMES_SEED 0xcbf29ce484222325u
static inline uint64_t gqmm_names_step(uint64_t hash, uint8_t byte)
{
    return (hash ^ byte) * 0x100000001b3u;
}

/* Room for n names. NOMEM. */
gqmm_status gqmm_names_create(gqmm_names *names, const gqmm_allocator *a, const gqmm_text *items,
                              size_t n, gqmm_error *err);
void gqmm_names_destroy(gqmm_names *names, const gqmm_allocator *a);
/* Adds items[id]; returns id, or the id that already has this text, or -1 if more names fall on
 * one place of the table than chance can explain. */
int32_t gqmm_names_add(gqmm_names *names, int32_t id);
/* Id of the text head followed by tail, or -1. */
int32_t gqmm_names_find(const gqmm_names *names, gqmm_text head, gqmm_text tail);
/* The same with the running hash of the text. */
int32_t gqmm_names_find_hash(const gqmm_names *names, gqmm_text text, uint64_t hash);

struct gqmm_tokenizer {
    gqmm_allocator a;
    int32_t n;
    int32_t has_jit;
    gqmm_text *bytes; /* [n], in pool */
    char *pool;
    size_t pool_size;
    uint8_t *type; /* [n] */
    uint8_t *end;  /* [n] 1: end of generation */
    gqmm_names by_bytes;
    gqmm_bpe bpe;

    /* Where a special text can begin and how long it can be: bit 1 control, bit 2 user-defined. */
    uint8_t special_first[256];
    uint8_t special_length[GQMM_SPECIAL_LONGEST + 1];
    size_t special_longest;

    pcre2_general_context *general;
    pcre2_compile_context *compiling;
    pcre2_match_context *matching;
    pcre2_code *code;
};

static inline uint8_t gqmm_special_bit(uint8_t type)
{
    return type == GQMM_TOKEN_CONTROL ? 1 : type == GQMM_TOKEN_USER ? 2 : 0;
}

/* Vocabulary and merges from the metadata of a file. */
gqmm_status gqmm_tokenizer_load(gqmm_tokenizer *tok, const gqmm_file *file, gqmm_error *err);
/* The expression that cuts text into pieces, by its name in the file. */
gqmm_status gqmm_tokenizer_compile(gqmm_tokenizer *tok, const char *pre, size_t length,
                                   gqmm_error *err);
/* Hostile strings in error texts: at most size - 1 printable characters, ending in NUL. */
void gqmm_tokenizer_quote(char *out, size_t size, const char *text, size_t length);

#endif
