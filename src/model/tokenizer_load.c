/* SPDX-License-Identifier: MIT */
/* From tokenizer.ggml.* to tables. Every number and text here comes from outside. */
#include "model/tokenizer.h"

#include "base/memory.h"
#include "base/status.h"
#include "model/utf8.h"

#include <string.h>

#define KEY(name) "tokenizer.ggml." name

/* What the loading needs and the tokenizer does not keep. */
typedef struct gqmm_vocab {
    const gqmm_file *file;
    const gqmm_meta *tokens, *types, *merges;
    gqmm_text *texts; /* [n] as in the file, in the byte alphabet */
    gqmm_names by_text;
} gqmm_vocab;

static gqmm_status array_of(const gqmm_meta **out, const gqmm_file *file, const char *key,
                            int32_t strings, gqmm_error *err)
{
    const gqmm_meta *meta = gqmm_file_meta(file, key);
    if (!meta)
        return gqmm_fail(err, GQMM_E_FORMAT, 0, "the file has no %s", key);
    const int32_t fits =
        strings ? meta->item_kind == GQMM_META_STRING
                : meta->item_kind == GQMM_META_INT || meta->item_kind == GQMM_META_UINT;
    if (meta->kind != GQMM_META_ARRAY || !fits)
        return gqmm_fail(err, GQMM_E_FORMAT, 0, "%s is not an array of %s", key,
                         strings ? "strings" : "integers");
    *out = meta;
    return GQMM_OK;
}

static gqmm_status read_types(gqmm_tokenizer *tok, const gqmm_vocab *v, gqmm_error *err)
{
    for (int32_t i = 0; i < tok->n; i++) {
        int64_t type;
        if (!gqmm_meta_int(v->file, v->types, (uint64_t)i, &type) || type < GQMM_TOKEN_NORMAL ||
            type > GQMM_TOKEN_BYTE)
            return gqmm_fail(err, GQMM_E_FORMAT, 0,
                             KEY("token_type") ": token %d has a type that is not 1 to 6", i);
        tok->type[i] = (uint8_t)type;
    }
    return GQMM_OK;
}

static gqmm_status read_texts(gqmm_tokenizer *tok, gqmm_vocab *v, gqmm_error *err)
{
    for (int32_t i = 0; i < tok->n; i++) {
        gqmm_text *t = v->texts + i;
        if (!gqmm_meta_string(v->file, v->tokens, (uint64_t)i, &t->bytes, &t->length))
            return gqmm_fail(err, GQMM_E_FORMAT, 0, KEY("tokens") ": token %d is unreadable", i);
        tok->pool_size += t->length;
        const int32_t first = gqmm_names_add(&v->by_text, i);
        if (first < 0)
            return gqmm_fail(err, GQMM_E_FORMAT, 0,
                             KEY("tokens") ": token %d collides with too many others", i);
        if (first != i)
            return gqmm_fail(err, GQMM_E_FORMAT, 0,
                             KEY("tokens") ": token %d has the text of token %d", i, first);
    }
    return GQMM_OK;
}

/* The alphabet of byte-level BPE: printable Latin-1 stands for itself, the other 68 bytes are
 * U+0100 and up, in order. byte_of[] is its inverse. */
static void alphabet(uint16_t code_of[256], int16_t byte_of[324])
{
    uint16_t next = 256;
    for (int32_t i = 0; i < 324; i++)
        byte_of[i] = -1;
    for (int32_t b = 0; b < 256; b++) {
        const int32_t itself = (b >= 33 && b <= 126) || (b >= 161 && b != 173);
        code_of[b] = itself ? (uint16_t)b : next++;
        byte_of[code_of[b]] = (int16_t)b;
    }
}

/* Bytes that a text of the alphabet stands for, at `out`; -1 if it has other characters. */
static int64_t unmap(char *out, gqmm_text text, const int16_t byte_of[324])
{
    const uint8_t *s = (const uint8_t *)text.bytes;
    size_t n = 0;
    for (size_t i = 0; i < text.length;) {
        const int32_t step = gqmm_utf8_char(s + i, text.length - i);
        uint32_t code = s[i];
        if (step == 2)
            code = (uint32_t)(s[i] & 0x1f) << 6 | (s[i + 1] & 0x3f);
        else if (step != 1)
            return -1;
        if (code >= 324 || byte_of[code] < 0)
            return -1;
        out[n++] = (char)byte_of[code];
        i += (size_t)step;
    }
    return (int64_t)n;
}

/* Bytes of every token. Special tokens and fillers are their own text; so is a token outside the
 * alphabet, which no merge can make. */
static void decode_texts(gqmm_tokenizer *tok, const gqmm_vocab *v, const int16_t byte_of[324])
{
    char *at = tok->pool;
    for (int32_t i = 0; i < tok->n; i++) {
        int64_t n = -1;
        if (tok->type[i] == GQMM_TOKEN_NORMAL || tok->type[i] == GQMM_TOKEN_BYTE)
            n = unmap(at, v->texts[i], byte_of);
        if (n < 0) {
            n = (int64_t)v->texts[i].length;
            if (n > 0)
                memcpy(at, v->texts[i].bytes, (size_t)n);
        }
        tok->bytes[i] = (gqmm_text){at, (size_t)n};
        at += n;
    }
}

/* Two tokens can have the same bytes (a control token and the normal one that spells it): the
 * special one is found. */
static gqmm_status index_bytes(gqmm_tokenizer *tok, gqmm_error *err)
{
    for (int32_t special = 1; special >= 0; special--)
        for (int32_t i = 0; i < tok->n; i++) {
            const uint8_t bit = gqmm_special_bit(tok->type[i]);
            const gqmm_text t = tok->bytes[i];
            if (t.length == 0 || (bit != 0) != special)
                continue;
            if (gqmm_names_add(&tok->by_bytes, i) < 0)
                return gqmm_fail(err, GQMM_E_FORMAT, 0,
                                 KEY("tokens") ": token %d collides with too many others", i);
            if (!bit)
                continue;
            if (t.length > GQMM_SPECIAL_LONGEST)
                return gqmm_fail(err, GQMM_E_FORMAT, 0,
                                 KEY("tokens") ": special token %d has %zu bytes, at most %d do", i,
                                 t.length, GQMM_SPECIAL_LONGEST);
            tok->special_first[(uint8_t)t.bytes[0]] |= bit;
            tok->special_length[t.length] |= bit;
            if (t.length > tok->special_longest)
                tok->special_longest = t.length;
        }
    return GQMM_OK;
}

static gqmm_status find_byte_tokens(gqmm_tokenizer *tok, const gqmm_vocab *v,
                                    const uint16_t code_of[256], gqmm_error *err)
{
    const gqmm_text none = {NULL, 0};
    for (int32_t b = 0; b < 256; b++) {
        const uint16_t code = code_of[b];
        const char text[2] = {(char)(code < 0x80 ? code : 0xc0 | code >> 6),
                              (char)(0x80 | (code & 0x3f))};
        const gqmm_text name = {text, code < 0x80 ? 1 : 2};
        tok->bpe.byte_id[b] = gqmm_names_find(&v->by_text, name, none);
        if (tok->bpe.byte_id[b] < 0)
            return gqmm_fail(err, GQMM_E_FORMAT, 0,
                             KEY("tokens") ": no token for byte 0x%02x (U+%04X)", b, code);
    }
    return GQMM_OK;
}

/* "left right", cut at the first space after position 0. */
static gqmm_status read_merge(gqmm_tokenizer *tok, const gqmm_vocab *v, uint32_t i, gqmm_error *err)
{
    const gqmm_text none = {NULL, 0};
    gqmm_text line;
    if (!gqmm_meta_string(v->file, v->merges, i, &line.bytes, &line.length))
        return gqmm_fail(err, GQMM_E_FORMAT, 0, KEY("merges") ": merge %u is unreadable", i);
    const char *space = line.length > 1 ? memchr(line.bytes + 1, ' ', line.length - 1) : NULL;
    const size_t cut = space ? (size_t)(space - line.bytes) : 0;
    if (!space || cut + 1 == line.length)
        return gqmm_fail(err, GQMM_E_FORMAT, 0, KEY("merges") ": merge %u is not two texts", i);
    const gqmm_text left = {line.bytes, cut};
    const gqmm_text right = {space + 1, line.length - cut - 1};
    const int32_t ids[3] = {gqmm_names_find(&v->by_text, left, none),
                            gqmm_names_find(&v->by_text, right, none),
                            gqmm_names_find(&v->by_text, left, right)};
    static const char *const parts[3] = {"left side", "right side", "result"};
    for (int32_t k = 0; k < 3; k++)
        if (ids[k] < 0)
            return gqmm_fail(err, GQMM_E_FORMAT, 0,
                             KEY("merges") ": the %s of merge %u is no token", parts[k], i);
    /* Otherwise plain text could end the turn it is in. */
    if (tok->type[ids[2]] == GQMM_TOKEN_CONTROL)
        return gqmm_fail(err, GQMM_E_FORMAT, 0,
                         KEY("merges") ": merge %u makes the control token %d", i, ids[2]);
    return gqmm_bpe_add(&tok->bpe, ids[0], ids[1], ids[2], i, err);
}

static gqmm_status find_ends(gqmm_tokenizer *tok, const gqmm_vocab *v, gqmm_error *err)
{
    static const char *const names[2] = {"<|im_end|>", "<|endoftext|>"};
    const gqmm_text none = {NULL, 0};
    const gqmm_meta *eos = gqmm_file_meta(v->file, KEY("eos_token_id"));
    int64_t id = 0;
    if (eos && (!gqmm_meta_int(v->file, eos, 0, &id) || id < 0 || id >= tok->n))
        return gqmm_fail(err, GQMM_E_FORMAT, 0, KEY("eos_token_id") " is no id of the %d tokens",
                         tok->n);
    if (eos)
        tok->end[id] = 1;
    for (int32_t i = 0; i < 2; i++) {
        const gqmm_text name = {names[i], strlen(names[i])};
        const int32_t found = gqmm_names_find(&v->by_text, name, none);
        if (found >= 0)
            tok->end[found] = 1;
    }
    return GQMM_OK;
}

static gqmm_status read_vocab(gqmm_tokenizer *tok, gqmm_vocab *v, gqmm_error *err)
{
    uint16_t code_of[256];
    int16_t byte_of[324];
    alphabet(code_of, byte_of);
    const size_t n = (size_t)tok->n;
    v->texts = gqmm_alloc(&tok->a, n, sizeof *v->texts);
    tok->bytes = gqmm_alloc(&tok->a, n, sizeof *tok->bytes);
    tok->type = gqmm_alloc(&tok->a, n, 1);
    tok->end = gqmm_alloc(&tok->a, n, 1);
    if (!v->texts || !tok->bytes || !tok->type || !tok->end)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for %zu tokens", n);
    gqmm_status st = gqmm_names_create(&v->by_text, &tok->a, v->texts, n, err);
    if (st == GQMM_OK)
        st = gqmm_names_create(&tok->by_bytes, &tok->a, tok->bytes, n, err);
    if (st == GQMM_OK)
        st = read_types(tok, v, err);
    if (st == GQMM_OK)
        st = read_texts(tok, v, err);
    if (st != GQMM_OK)
        return st;
    tok->pool = gqmm_alloc_raw(&tok->a, tok->pool_size, 1);
    if (!tok->pool)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for %zu bytes of tokens", tok->pool_size);
    decode_texts(tok, v, byte_of);
    st = index_bytes(tok, err);
    if (st == GQMM_OK)
        st = find_byte_tokens(tok, v, code_of, err);
    return st;
}

gqmm_status gqmm_tokenizer_load(gqmm_tokenizer *tok, const gqmm_file *file, gqmm_error *err)
{
    gqmm_vocab v = {.file = file};
    gqmm_status st = array_of(&v.tokens, file, KEY("tokens"), 1, err);
    if (st == GQMM_OK)
        st = array_of(&v.types, file, KEY("token_type"), 0, err);
    if (st == GQMM_OK)
        st = array_of(&v.merges, file, KEY("merges"), 1, err);
    if (st != GQMM_OK)
        return st;
    if (v.tokens->n < 256 || v.tokens->n > INT32_MAX / 2)
        return gqmm_fail(err, GQMM_E_FORMAT, 0,
                         KEY("tokens") " has %llu tokens; the bytes alone are 256",
                         (unsigned long long)v.tokens->n);
    if (v.types->n != v.tokens->n)
        return gqmm_fail(err, GQMM_E_FORMAT, 0,
                         KEY("token_type") " has %llu entries for %llu tokens",
                         (unsigned long long)v.types->n, (unsigned long long)v.tokens->n);
    if (v.merges->n > INT32_MAX / 2)
        return gqmm_fail(err, GQMM_E_FORMAT, 0, KEY("merges") " has %llu merges",
                         (unsigned long long)v.merges->n);
    tok->n = (int32_t)v.tokens->n;
    st = read_vocab(tok, &v, err);
    if (st == GQMM_OK)
        st = gqmm_bpe_create(&tok->bpe, &tok->a, (size_t)v.merges->n, err);
    for (uint32_t i = 0; st == GQMM_OK && i < v.merges->n; i++)
        st = read_merge(tok, &v, i, err);
    if (st == GQMM_OK)
        st = find_ends(tok, &v, err);
    gqmm_names_destroy(&v.by_text, &tok->a);
    gqmm_release(&tok->a, v.texts, (size_t)tok->n, sizeof *v.texts);
    return st;
}
