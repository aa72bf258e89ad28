/* SPDX-License-Identifier: MIT */
/* Text to ids: special tokens are cut out first, then ill-formed bytes, then the expression cuts
 * pieces, and each piece is merged by itself. */
#include "model/tokenizer.h"

#include "base/memory.h"
#include "base/status.h"
#include "model/utf8.h"

#include <string.h>

/* Words come again: their ids are kept for the length of one call. */
enum { KEPT = 1024, KEPT_BYTES = 16, KEPT_IDS = 6, KEEP_FROM = 512 };

typedef struct gqmm_kept {
    uint8_t n_bytes, n_ids; /* n_bytes 0: empty */
    uint8_t bytes[KEPT_BYTES];
    int32_t ids[KEPT_IDS];
} gqmm_kept;

typedef struct gqmm_encoder {
    const gqmm_tokenizer *tok;
    gqmm_bpe_scratch scratch;
    pcre2_match_data *match;
    gqmm_kept *kept; /* NULL: the text is too short for it to pay */
    int32_t *ids;
    int64_t max, n;
    gqmm_error *err;
} gqmm_encoder;

static void put(gqmm_encoder *e, const int32_t *ids, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (e->n + i < e->max)
            e->ids[e->n + i] = ids[i];
    e->n += n;
}

static gqmm_kept *kept_of(const gqmm_encoder *e, const uint8_t *bytes, size_t length)
{
    uint64_t h = GQMM_NAMES_SEED;
    if (!e->kept || length > KEPT_BYTES)
        return NULL;
    for (size_t i = 0; i < length; i++)
        h = gqmm_names_step(h, bytes[i]);
    return e->kept + ((h ^ (h >> 31)) % KEPT);
}

static gqmm_status encode_piece(gqmm_encoder *e, const uint8_t *bytes, size_t length)
{
    gqmm_kept *kept = kept_of(e, bytes, length);
    if (kept && kept->n_bytes == length && memcmp(kept->bytes, bytes, length) == 0) {
        put(e, kept->ids, kept->n_ids);
        return GQMM_OK;
    }
    const int64_t n = gqmm_bpe_piece(&e->tok->bpe, &e->scratch, bytes, length);
    if (n < 0)
        return gqmm_fail(e->err, GQMM_E_NOMEM, 0, "no memory to merge a piece of %zu bytes",
                         length);
    put(e, e->scratch.ids, n);
    if (kept && n <= KEPT_IDS) {
        kept->n_bytes = (uint8_t)length;
        kept->n_ids = (uint8_t)n;
        memcpy(kept->bytes, bytes, length);
        memcpy(kept->ids, e->scratch.ids, (size_t)n * sizeof *kept->ids);
    }
    return GQMM_OK;
}

/* Length of the piece at text[from, length), which is well-formed; 0 with *e->err filled. */
static size_t next_piece(gqmm_encoder *e, const uint8_t *text, size_t length, size_t from)
{
    const gqmm_tokenizer *tok = e->tok;
    const int found = tok->has_jit ? pcre2_jit_match(tok->code, text, length, from,
                                                     PCRE2_NO_UTF_CHECK, e->match, tok->matching)
                                   : pcre2_match(tok->code, text, length, from, PCRE2_NO_UTF_CHECK,
                                                 e->match, tok->matching);
    const size_t end = found > 0 ? pcre2_get_ovector_pointer(e->match)[1] : 0;
    if (end > from)
        return end - from;
    /* Every character begins a match: only the machine can fail. */
    gqmm_fail(e->err, GQMM_E_NOMEM, 0, "PCRE2 could not go on at byte %zu of %zu: error %d", from,
              length, found);
    return 0;
}

static gqmm_status encode_valid(gqmm_encoder *e, const uint8_t *text, size_t length)
{
    for (size_t i = 0; i < length;) {
        const size_t n = next_piece(e, text, length, i);
        if (n == 0)
            return GQMM_E_NOMEM;
        const gqmm_status st = encode_piece(e, text + i, n);
        if (st != GQMM_OK)
            return st;
        i += n;
    }
    return GQMM_OK;
}

/* Text without special tokens: well-formed runs, and ill-formed bytes as the tokens of bytes. */
static gqmm_status encode_plain(gqmm_encoder *e, const uint8_t *text, size_t length)
{
    while (length > 0) {
        const size_t n = gqmm_utf8_valid(text, length);
        const gqmm_status st = encode_valid(e, text, n);
        if (st != GQMM_OK)
            return st;
        text += n;
        length -= n;
        if (length > 0) {
            put(e, &e->tok->bpe.byte_id[*text], 1);
            text++;
            length--;
        }
    }
    return GQMM_OK;
}

/* The longest special token at the start of the text, or -1. `bits`: which kinds count. */
static int32_t special_at(const gqmm_tokenizer *tok, const uint8_t *text, size_t length,
                          uint8_t bits)
{
    const size_t longest = length < tok->special_longest ? length : tok->special_longest;
    uint64_t hash = GQMM_NAMES_SEED;
    int32_t best = -1;
    for (size_t n = 1; n <= longest; n++) {
        hash = gqmm_names_step(hash, text[n - 1]);
        if (!(tok->special_length[n] & bits))
            continue;
        const gqmm_text name = {(const char *)text, n};
        const int32_t id = gqmm_names_find_hash(&tok->by_bytes, name, hash);
        if (id >= 0 && (gqmm_special_bit(tok->type[id]) & bits))
            best = id;
    }
    return best;
}

static gqmm_status encode_all(gqmm_encoder *e, const uint8_t *text, size_t length, uint8_t bits)
{
    size_t from = 0;
    for (size_t i = 0; i < length;) {
        int32_t id = -1;
        if (e->tok->special_first[text[i]] & bits)
            id = special_at(e->tok, text + i, length - i, bits);
        if (id < 0) {
            i++;
            continue;
        }
        const gqmm_status st = encode_plain(e, text + from, i - from);
        if (st != GQMM_OK)
            return st;
        put(e, &id, 1);
        i += e->tok->bytes[id].length;
        from = i;
    }
    return encode_plain(e, text + from, length - from);
}

gqmm_status gqmm_tokenizer_encode(const gqmm_tokenizer *tok, const char *text, size_t length,
                                  int32_t special, int32_t *ids, int64_t max, int64_t *n,
                                  gqmm_error *err)
{
    if (!tok || !n)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s is NULL", tok ? "n" : "tok");
    if (!text && length > 0)
        return gqmm_fail(err, GQMM_E_ARG, 0, "text is NULL with %zu bytes", length);
    if (max < 0 || (max > 0 && !ids))
        return gqmm_fail(err, GQMM_E_ARG, 0, "room for %lld ids at %s", (long long)max,
                         ids ? "ids" : "NULL");
    gqmm_encoder e = {.tok = tok, .ids = ids, .max = max, .err = err};
    e.scratch.a = &tok->a;
    e.match = pcre2_match_data_create(1, tok->general);
    const int32_t keeps = length >= KEEP_FROM;
    if (keeps)
        e.kept = gqmm_alloc(&tok->a, KEPT, sizeof *e.kept);
    gqmm_status st = GQMM_OK;
    if (!e.match || (keeps && !e.kept))
        st = gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory to encode %zu bytes", length);
    if (st == GQMM_OK && length > 0)
        st = encode_all(&e, (const uint8_t *)text, length, special ? 3 : 2);
    pcre2_match_data_free(e.match);
    gqmm_release(&tok->a, e.kept, KEPT, sizeof *e.kept);
    gqmm_bpe_scratch_free(&e.scratch);
    if (st == GQMM_OK)
        *n = e.n;
    return st;
}
