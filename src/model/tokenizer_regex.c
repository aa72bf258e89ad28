/* SPDX-License-Identifier: MIT */
/* The expressions that cut text into pieces before merging, as PCRE2 programs. */
#include "model/tokenizer.h"

#include "base/memory.h"
#include "base/status.h"

#include <string.h>

/* \s spelt out: that of PCRE2 also takes U+180E, which Unicode's White_Space has not had for long
 * and the tokenizers that made the vocabularies do not take. */
#define SPACES \
    "\\t-\\r\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}" \
    "\\x{3000}"
#define S "[" SPACES "]"
#define ENDINGS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define TAIL "|" S "*[\\r\\n]+|" S "+(?![^" SPACES "])|" S "+"

/* Every character begins a match, and no alternative looks back over more than one run that the
 * match or the next one then consumes: the whole is linear in the text. */
static const struct {
    const char *name, *expression;
} expressions[] = {
    {"qwen2",
     ENDINGS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" SPACES "\\p{L}\\p{N}]+[\\r\\n]*" TAIL},
    {"qwen35", ENDINGS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" SPACES
                       "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" TAIL},
};

/* PCRE2 gives memory back without its size, the allocator wants it: it stands in front. 64 bytes
 * keep the alignment of the block. */
enum { BEFORE = GQMM_ALIGN };

static void *regex_alloc(size_t size, void *user)
{
    const gqmm_allocator *a = user;
    if (size > SIZE_MAX / 2)
        return NULL;
    unsigned char *block = gqmm_alloc_raw(a, size + BEFORE, 1);
    if (!block)
        return NULL;
    memcpy(block, &size, sizeof size);
    return block + BEFORE;
}

static void regex_release(void *memory, void *user)
{
    const gqmm_allocator *a = user;
    size_t size;
    if (!memory)
        return;
    unsigned char *block = (unsigned char *)memory - BEFORE;
    memcpy(&size, block, sizeof size);
    gqmm_release(a, block, size + BEFORE, 1);
}

static const char *expression_of(const char *pre, size_t length)
{
    for (size_t i = 0; i < sizeof expressions / sizeof expressions[0]; i++)
        if (strlen(expressions[i].name) == length && memcmp(expressions[i].name, pre, length) == 0)
            return expressions[i].expression;
    return NULL;
}

gqmm_status gqmm_tokenizer_compile(gqmm_tokenizer *tok, const char *pre, size_t length,
                                   gqmm_error *err)
{
    const char *expression = expression_of(pre, length);
    if (!expression) {
        char name[40];
        gqmm_tokenizer_quote(name, sizeof name, pre, length);
        return gqmm_fail(err, GQMM_E_UNSUPPORTED, 0,
                         "tokenizer.ggml.pre \"%s\" is not known; known: \"qwen2\" and \"qwen35\"",
                         name);
    }
    tok->general = pcre2_general_context_create(regex_alloc, regex_release, &tok->a);
    tok->compiling = pcre2_compile_context_create(tok->general);
    tok->matching = tok->general ? pcre2_match_context_create(tok->general) : NULL;
    if (!tok->general || !tok->compiling || !tok->matching)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for the contexts of PCRE2");
    /* Steps back over a run count against the limit when PCRE2 interprets; they are linear (see
     * above), so the limit only must not stop a long run. Depth never grows with the text. */
    pcre2_set_match_limit(tok->matching, UINT32_MAX);
    pcre2_set_depth_limit(tok->matching, 1000);
    int code = 0;
    PCRE2_SIZE at = 0;
    tok->code = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED,
                              PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &code, &at, tok->compiling);
    if (!tok->code && code == PCRE2_ERROR_HEAP_FAILED)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for a regular expression");
    if (!tok->code)
        return gqmm_fail(err, GQMM_E_UNSUPPORTED, 0,
                         "this PCRE2 cannot compile the expression \"%.*s\": error %d at %zu",
                         (int)length, pre, code, (size_t)at);
    /* Machine code is a matter of speed: where it may not be made, PCRE2 interprets. */
    tok->has_jit = pcre2_jit_compile(tok->code, PCRE2_JIT_COMPLETE) == 0;
    return GQMM_OK;
}
