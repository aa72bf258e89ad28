/* SPDX-License-Identifier: MIT */
/* Text against the tokenizer: the bytes of the ids must be the text, with and without special
 * tokens, and the stream of characters must stay inside its bound. The first byte chooses the
 * expression. Whole files are tried too: an input that begins with "GGUF" is one. */
#include "../tokenizer_maker.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static gqmm_tokenizer *made_of(const char *pre)
{
    const recipe r = {
        .pre = pre,
        .extra = {"<|im_end|>", "<t>", "<t>x", "ab", "aba", "\xc4\xa0\xc4\xa0", "'s",
                  "\xc3\xb0\xc5\x81"},
        .extra_type = {3, 4, 3, 1, 1, 1, 1, 1},
        .merges = {"ab a", "a b", "\xc4\xa0 \xc4\xa0", "' s"},
    };
    gqmm_file *file = NULL;
    gqmm_tokenizer *tok = NULL;
    bytes b = make(&r);
    if (gqmm_file_parse(b.data, b.n, NULL, &file, NULL) != GQMM_OK ||
        gqmm_tokenizer_create(file, NULL, &tok, NULL) != GQMM_OK)
        abort();
    gqmm_file_close(file); /* the tokenizer keeps nothing of it */
    free(b.data);
    return tok;
}

static void encode(const gqmm_tokenizer *tok, const char *text, size_t size, int32_t special)
{
    int64_t n = 0;
    size_t at = 0;
    int32_t *ids = malloc((size + 1) * sizeof *ids);
    if (!ids || gqmm_tokenizer_encode(tok, text, size, special, ids, (int64_t)size, &n, NULL) ||
        n > (int64_t)size)
        abort();
    for (int64_t i = 0; i < n; i++) {
        size_t k;
        const char *b = gqmm_tokenizer_bytes(tok, ids[i], &k);
        if (!b || k > size - at || memcmp(b, text + at, k) != 0)
            abort();
        at += k;
    }
    if (at != size)
        abort();
    free(ids);
}

static void whole_file(const uint8_t *data, size_t size)
{
    gqmm_file *file = NULL;
    gqmm_tokenizer *tok = NULL;
    int64_t n = 0;
    if (gqmm_file_parse(data, size, NULL, &file, NULL) == GQMM_OK &&
        gqmm_tokenizer_create(file, NULL, &tok, NULL) == GQMM_OK)
        gqmm_tokenizer_encode(tok, (const char *)data, size, 1, NULL, 0, &n, NULL);
    gqmm_tokenizer_destroy(tok);
    gqmm_file_close(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static gqmm_tokenizer *toks[2];
    if (!toks[0]) {
        toks[0] = made_of("qwen2");
        toks[1] = made_of("qwen35");
    }
    if (size >= 4 && memcmp(data, "GGUF", 4) == 0) {
        whole_file(data, size);
        return 0;
    }
    if (size == 0)
        return 0;
    for (int32_t special = 0; special < 2; special++)
        encode(toks[data[0] & 1], (const char *)data + 1, size - 1, special);

    gqmm_utf8 state = {{0}, 0};
    char *out = malloc(3 * (size + 3));
    if (!out || gqmm_utf8_feed(&state, (const char *)data, size, 1, out) > 3 * (size + 3))
        abort();
    free(out);
    return 0;
}
