/* SPDX-License-Identifier: MIT */
/* The tokenizer against Hugging Face's ids (data/tok-*.txt), on hostile bytes and files, and with
 * every allocation failing once.  check_tokenizer [data directory] */
#include "tokenizer_maker.h"

#include "model/tokenizer.h"

static const char *data_dir = "tests/data";
static char note[128];
static char why[700];

/* Ends a test function with a sentence. */
#define NEED(condition, ...) \
    do { \
        if (!(condition)) { \
            snprintf(why, sizeof why, __VA_ARGS__); \
            return why; \
        } \
    } while (0)

static const char *open_golden(vocab *v, const char *pre)
{
    gqmm_error err = {0};
    v->made = load(data_dir, "tok-golden.gguf", "qwen2", pre);
    NEED(v->made.n > 0, "no %s/tok-golden.gguf", data_dir);
    NEED(gqmm_file_parse(v->made.data, v->made.n, NULL, &v->file, &err) == 0, "%s", err.text);
    NEED(gqmm_tokenizer_create(v->file, NULL, &v->tok, &err) == 0, "%s", err.text);
    return NULL;
}

/* ------------------------------------------------------------------ golden ids */

static const char *golden_line(const gqmm_tokenizer *tok, char *hex, int32_t special, char *rest)
{
    static int32_t ids[1 << 16], want[1 << 16];
    static char text[1 << 16];
    size_t length = 0;
    int64_t n = -1, n_want = 0;
    for (const char *h = hex; h[0] != '-' && h[0] && length < sizeof text; h += 2) {
        unsigned v = 0;
        sscanf(h, "%2x", &v);
        text[length++] = (char)v;
    }
    for (char *p = strtok(rest, " \n"); p && n_want < 1 << 16; p = strtok(NULL, " \n"))
        want[n_want++] = (int32_t)strtol(p, NULL, 10);
    gqmm_error err = {0};
    NEED(gqmm_tokenizer_encode(tok, text, length, special, ids, 1 << 16, &n, &err) == 0, "%s",
         err.text);
    NEED(n == n_want, "%lld ids, not %lld, for %.300s", (long long)n, (long long)n_want, hex);
    for (int64_t i = 0; i < n; i++)
        NEED(ids[i] == want[i], "id %lld is %d, not %d, for %.300s", (long long)i, ids[i], want[i],
             hex);
    return NULL;
}

static const char *golden(const gqmm_tokenizer *tok, const char *name, const char *pre)
{
    static char line[1 << 18];
    char path[600];
    int32_t seen = 0;
    const char *wrong = NULL;
    snprintf(path, sizeof path, "%s/%s", data_dir, name);
    FILE *f = fopen(path, "r");
    NEED(f, "no %s", path);
    while (!wrong && fgets(line, sizeof line, f)) {
        char *hex, *which = line, *special = strchr(line, ' ');
        if (!special || !(hex = strchr(special + 1, ' ')))
            continue;
        *special++ = 0;
        *hex++ = 0;
        char *rest = hex + strcspn(hex, " \n");
        if (*rest)
            *rest++ = 0;
        if (strcmp(which, pre) != 0)
            continue;
        seen++;
        wrong = golden_line(tok, hex, special[0] == '1', rest);
    }
    fclose(f);
    snprintf(note, sizeof note, " (%d texts)", seen);
    if (!wrong)
        NEED(seen > 100, "only %d lines for %s", seen, pre);
    return wrong;
}

static const char *golden_of(const char *pre)
{
    vocab v = {0};
    const char *wrong = open_golden(&v, pre);
    if (!wrong)
        wrong = golden(v.tok, "tok-golden.txt", pre);
    if (!wrong) {
        v.tok->has_jit = 0; /* where machine code may not be made, PCRE2 interprets */
        wrong = golden(v.tok, "tok-golden.txt", pre);
    }
    drop(&v);
    return wrong;
}

static const char *test_golden_qwen2(void)
{
    return golden_of("qwen2");
}

static const char *test_golden_qwen35(void)
{
    return golden_of("qwen35");
}

static const char *test_golden_demo(void)
{
    char path[600];
    gqmm_error err = {0};
    vocab v = {0};
    snprintf(path, sizeof path, "%s/../../models/stories-q4_k_m.gguf", data_dir);
    if (gqmm_file_open(path, 0, NULL, &v.file, &err) != GQMM_OK)
        return "skip the demo model is not here";
    const char *wrong = NULL;
    if (gqmm_tokenizer_create(v.file, NULL, &v.tok, &err) != GQMM_OK) {
        snprintf(why, sizeof why, "%s", err.text);
        wrong = why;
    }
    if (!wrong)
        wrong = golden(v.tok, "tok-demo.txt", "qwen2");
    drop(&v);
    return wrong;
}

/* ------------------------------------------------------------------ bytes go round */

/* Encodes and puts the bytes of the ids together again. */
static const char *round_trip(const gqmm_tokenizer *tok, const char *text, size_t length,
                              int32_t special)
{
    gqmm_error err = {0};
    int64_t n = -1, again = -1;
    int32_t *ids = malloc((length + 1) * sizeof *ids);
    const char *wrong = NULL;
    size_t at = 0;
    if (!ids || gqmm_tokenizer_encode(tok, text, length, special, ids, (int64_t)length + 1, &n,
                                      &err) != GQMM_OK)
        wrong = "encode failed";
    if (!wrong && (n < 0 || n > (int64_t)length))
        wrong = "more ids than bytes";
    for (int64_t i = 0; !wrong && i < n; i++) {
        size_t k = 0;
        const char *b = gqmm_tokenizer_bytes(tok, ids[i], &k);
        if (!b || k > length - at || memcmp(text + at, b, k) != 0)
            wrong = "other bytes come back";
        at += k;
    }
    if (!wrong && at != length)
        wrong = "bytes are missing";
    if (!wrong && length < 4096 &&
        (gqmm_tokenizer_encode(tok, text, length, special, NULL, 0, &again, &err) || again != n))
        wrong = "counting gives another number";
    free(ids);
    return wrong;
}

static const char *test_hostile_bytes(void)
{
    static const char *const parts[] = {"\xf0\x9f", "\xed\xa0\x80", "\xc0\xaf", "\xf4\x90\x80\x80",
                                        "<|im_",    "<|im_start|>", " \r\n",    "\xe4\xb8\xad",
                                        "'ll",      "\xff",         "  ",       "\xcc\x81"};
    vocab v = {0};
    const char *wrong = open_golden(&v, "qwen35");
    uint64_t state = 7;
    for (int32_t i = 0; !wrong && i < 4000; i++) {
        char text[256];
        size_t n = 0;
        while (n < (size_t)(i % 200)) {
            const uint32_t r = random_bits(&state);
            const char *part = parts[r % 12];
            if (i % 3 == 0 || n + strlen(part) > sizeof text)
                text[n++] = (char)(r >> 8);
            else
                for (; *part; part++)
                    text[n++] = *part;
        }
        wrong = round_trip(v.tok, text, n, i & 1);
    }
    drop(&v);
    return wrong;
}

static const char *test_long_runs(void)
{
    static const char *const units[] = {
        "a",     " ",        "\n",    "\xf0\x9f\x98\x80", "\xff",
        "1",     "\xcc\x81", "<",     "<|im_start|>",     " \n",
        "'s",    "ab",       "\t \r", "e\xcc\x81",        "\xe4\xb8\xad",
        "!\r\n", "\xf0\x9f"};
    const size_t size = 1 << 20;
    vocab v = {0};
    const char *wrong = open_golden(&v, "qwen35");
    char *text = malloc(size + 16);
    double slowest = 0;
    for (size_t u = 0; !wrong && text && u < sizeof units / sizeof units[0]; u++) {
        const size_t unit = strlen(units[u]);
        size_t n = 0;
        for (; n < size; n += unit)
            memcpy(text + n, units[u], unit);
        if (u & 1)
            text[n++] = 'x';
        const double start = now();
        wrong = round_trip(v.tok, text, n, 1);
        const double seconds = now() - start;
        slowest = seconds > slowest ? seconds : slowest;
        if (!wrong && seconds > 10) /* sanitizers and shared machines included; 0.2 s is usual */
            wrong = "1 MB of one unit takes more than 10 s";
    }
    free(text);
    drop(&v);
    snprintf(note, sizeof note, " (1 MB in at most %.2f s)", slowest);
    return wrong;
}

/* ------------------------------------------------------------------ files that are wrong */

static const struct {
    gqmm_status status;
    const char *text; /* part of the error's text */
    recipe r;
} bad[] = {
    {GQMM_E_FORMAT, "no tokenizer.ggml.model", {.skip = "model"}},
    {GQMM_E_FORMAT, "no tokenizer.ggml.pre", {.skip = "pre"}},
    {GQMM_E_FORMAT, "no tokenizer.ggml.tokens", {.skip = "tokens"}},
    {GQMM_E_FORMAT, "no tokenizer.ggml.token_type", {.skip = "token_type"}},
    {GQMM_E_FORMAT, "no tokenizer.ggml.merges", {.skip = "merges"}},
    {GQMM_E_UNSUPPORTED, "\"llama?\"", {.model = "llama\n"}},
    {GQMM_E_UNSUPPORTED, "\"qwen2\" and \"qwen35\"", {.pre = "llama-bpe"}},
    {GQMM_E_FORMAT, "not an array of strings", {.ints_as_tokens = 1}},
    {GQMM_E_FORMAT, "byte 0xad (U+0143)", {.no_byte = 0xad + 1}},
    {GQMM_E_FORMAT, "byte 0x41 (U+0041)", {.no_byte = 0x41 + 1}},
    {GQMM_E_FORMAT, "257 entries for 256 tokens", {.more_types = 1}},
    {GQMM_E_FORMAT, "255 entries for 256 tokens", {.more_types = -1}},
    {GQMM_E_FORMAT, "token 0 has a type", {.type_of_0 = 7}},
    {GQMM_E_FORMAT, "token 0 has a type", {.type_of_0 = -1}},
    {GQMM_E_FORMAT, "token 257 has the text of token 256", {.extra = {"ab", "ab"}}},
    {GQMM_E_FORMAT, "merge 1 is not two", {.extra = {"ab"}, .merges = {"a b", "ab"}}},
    {GQMM_E_FORMAT, "merge 0 is not two", {.merges = {""}}},
    {GQMM_E_FORMAT, "merge 0 is not two", {.merges = {"a "}}},
    {GQMM_E_FORMAT, "left side of merge 0", {.extra = {"ab"}, .merges = {"xy b"}}},
    {GQMM_E_FORMAT, "right side of merge 0", {.extra = {"ab"}, .merges = {"a xy"}}},
    {GQMM_E_FORMAT, "result of merge 0", {.extra = {"ab"}, .merges = {"b a"}}},
    {GQMM_E_FORMAT, "right side of merge 0", {.extra = {"a b"}, .merges = {"a b c"}}},
    {GQMM_E_FORMAT,
     "makes the control token 256",
     {.extra = {"ab"}, .extra_type = {3}, .merges = {"a b"}}},
    {GQMM_E_FORMAT, "no id of the 256 tokens", {.eos = -1}},
    {GQMM_E_FORMAT, "special token 256 has 257 bytes", {.special_length = 257}},
};

static const char *test_bad_files(void)
{
    const int32_t n = (int32_t)(sizeof bad / sizeof bad[0]);
    for (int32_t i = 0; i < n; i++) {
        gqmm_error err = {0};
        vocab v = {0};
        v.made = make(&bad[i].r);
        NEED(gqmm_file_parse(v.made.data, v.made.n, NULL, &v.file, &err) == 0, "case %d: %s", i,
             err.text);
        const gqmm_status st = gqmm_tokenizer_create(v.file, NULL, &v.tok, &err);
        NEED(st == bad[i].status && !v.tok && strstr(err.text, bad[i].text),
             "case %d: status %d, \"%s\", wanted \"%s\"", i, st, err.text, bad[i].text);
        drop(&v);
    }
    snprintf(note, sizeof note, " (%d files)", n);
    return NULL;
}

/* ------------------------------------------------------------------ questions and specials */

static const char *asked(const gqmm_tokenizer *tok)
{
    int32_t ids[8] = {0};
    int64_t n = 0;
    size_t length = 9;
    gqmm_error err = {0};
    NEED(gqmm_tokenizer_size(tok) == 263, "size %d", gqmm_tokenizer_size(tok));
    NEED(gqmm_tokenizer_find(tok, "<|im_end|>", 10) == 257, "find of a control token");
    NEED(gqmm_tokenizer_find(tok, " ", 1) == 32 && gqmm_tokenizer_find(tok, "\0", 1) == 0 &&
             gqmm_tokenizer_find(tok, "", 0) == -1 && gqmm_tokenizer_find(tok, "nope", 4) == -1,
         "find of bytes");
    NEED(gqmm_tokenizer_is_control(tok, 257) && !gqmm_tokenizer_is_control(tok, 258), "control");
    NEED(gqmm_tokenizer_is_end(tok, 257) && gqmm_tokenizer_is_end(tok, 256) &&
             gqmm_tokenizer_is_end(tok, 5) && !gqmm_tokenizer_is_end(tok, 6),
         "end");
    NEED(gqmm_tokenizer_is_filler(tok, 260) && gqmm_tokenizer_is_filler(tok, 261) &&
             !gqmm_tokenizer_is_filler(tok, 259),
         "filler");
    for (int32_t i = -1; i <= 263; i += 264) {
        NEED(!gqmm_tokenizer_bytes(tok, i, &length) && length == 0, "bytes of id %d", i);
        NEED(!gqmm_tokenizer_is_control(tok, i) && !gqmm_tokenizer_is_end(tok, i) &&
                 !gqmm_tokenizer_is_filler(tok, i),
             "kinds of id %d", i);
    }
    NEED(gqmm_tokenizer_encode(tok, "ab<t><t>x<t>", 12, 0, ids, 2, &n, &err) == 0 && n == 3 &&
             ids[0] == 262 && ids[1] == 258 && ids[2] == 0,
         "user-defined tokens: %lld ids %d %d %d", (long long)n, ids[0], ids[1], ids[2]);
    NEED(gqmm_tokenizer_encode(tok, "a", 1, 0, NULL, 1, &n, &err) == GQMM_E_ARG, "NULL ids");
    NEED(gqmm_tokenizer_encode(tok, NULL, 1, 0, ids, 8, &n, &err) == GQMM_E_ARG, "NULL text");
    NEED(gqmm_tokenizer_encode(tok, "a", 1, 0, ids, -1, &n, &err) == GQMM_E_ARG, "max -1");
    NEED(gqmm_tokenizer_encode(tok, "a", 1, 0, ids, 8, NULL, &err) == GQMM_E_ARG, "NULL n");
    NEED(gqmm_tokenizer_encode(tok, NULL, 0, 1, NULL, 0, &n, NULL) == 0 && n == 0, "no text");
    return NULL;
}

static const char *test_questions(void)
{
    const recipe r = {
        .extra = {"<|endoftext|>", "<|im_end|>", "<t><t>x", "<t>", "[PAD0]", "[UNK]", "ab"},
        .extra_type = {3, 3, 4, 4, 5, 2, 1},
        .merges = {"a b", "a b"},
        .eos = 6};
    gqmm_error err = {0};
    vocab v = {0};
    v.made = make(&r);
    NEED(gqmm_file_parse(v.made.data, v.made.n, NULL, &v.file, &err) == 0, "%s", err.text);
    NEED(gqmm_tokenizer_create(v.file, NULL, &v.tok, &err) == 0, "%s", err.text);
    const char *wrong = asked(v.tok);
    drop(&v);
    return wrong;
}

/* ------------------------------------------------------------------ memory that runs out */

static const char *test_allocations(void)
{
    counter c = {0, 0, -1};
    const gqmm_allocator a = {counted_alloc, counted_release, &c};
    char text[3000];
    vocab v = {0};
    const char *wrong = open_golden(&v, "qwen2");
    int64_t n_create = 0, n_encode = 0, n = 0;
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = i < 2000 ? 'a' : (char)("word \xff \n"[i % 8]);
    for (int64_t at = 0; !wrong; at++, n_create++) {
        gqmm_tokenizer *tok = NULL;
        gqmm_error err = {0};
        c = (counter){0, 0, at};
        const gqmm_status st = gqmm_tokenizer_create(v.file, &a, &tok, &err);
        const int32_t failed = c.calls > at && st != GQMM_OK;
        if (failed ? st != GQMM_E_NOMEM || tok || !err.text[0] : st != GQMM_OK)
            wrong = "create did not end with NOMEM";
        for (int64_t k = 0; !wrong && !failed && c.calls <= at; k++, n_encode++) {
            c.calls = 0;
            c.fail_at = k;
            const gqmm_status got =
                gqmm_tokenizer_encode(tok, text, sizeof text, 1, NULL, 0, &n, &err);
            if (got != (c.calls > k ? GQMM_E_NOMEM : GQMM_OK))
                wrong = "encode did not end with NOMEM";
            if (got == GQMM_OK)
                break;
        }
        gqmm_tokenizer_destroy(tok);
        if (!wrong && c.live != 0)
            wrong = "memory is lost";
        if (n_encode > 0)
            break;
    }
    drop(&v);
    snprintf(note, sizeof note, " (%lld of create, %lld of encode)", (long long)n_create,
             (long long)n_encode);
    return wrong;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        const char *(*test)(void);
    } tests[] = {{"golden_qwen2", test_golden_qwen2}, {"golden_qwen35", test_golden_qwen35},
                 {"golden_demo", test_golden_demo},   {"hostile_bytes", test_hostile_bytes},
                 {"long_runs", test_long_runs},       {"bad_files", test_bad_files},
                 {"questions", test_questions},       {"allocations", test_allocations}};
    int32_t passed = 0, failed = 0, skipped = 0;
    if (argc > 1)
        data_dir = argv[1];
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        note[0] = 0;
        const char *wrong = tests[i].test();
        if (!wrong) {
            printf("ok %s%s\n", tests[i].name, note);
            passed++;
        } else if (strncmp(wrong, "skip ", 5) == 0) {
            printf("skip %s: %s\n", tests[i].name, wrong + 5);
            skipped++;
        } else {
            printf("FAIL %s: %s\n", tests[i].name, wrong);
            failed++;
        }
        fflush(stdout);
    }
    printf("check_tokenizer: %d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed > 0;
}
