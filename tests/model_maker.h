/* SPDX-License-Identifier: MIT */
/* What the model's test programs share: random qwen3moe models written to a file by recipe, the
 * whole stack from file to session opened at once, and the lines that a test prints. */
#ifndef TESTS_MODEL_MAKER_H
#define TESTS_MODEL_MAKER_H

#include "gqmm-model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *data_dir = "tests/data";
static int quick;
static char scratch[512]; /* path of the file that the test at hand writes */
static char why[700];
static char note[128]; /* shown behind "ok" */

/* Ends a test function with a sentence. */
#define NEED(condition, ...) \
    do { \
        if (!(condition)) { \
            snprintf(why, sizeof why, __VA_ARGS__); \
            return why; \
        } \
    } while (0)

/* ------------------------------------------------------------------ a random model on disk */

typedef struct recipe {
    const char *format; /* of the matrices; NULL: "f32" */
    const char *router; /* NULL: "f32" */
    int64_t n_embd, n_ff, head_dim;
    int32_t fused, tied;
    int32_t int_type; /* GGUF type of integer keys; 0: u32 */
    /* Edits: a key left out or set, a tensor left out, renamed or turned on its side. */
    const char *no_key, *key;
    int64_t value;
    const char *arch, *text_key;
    const char *drop, *rename_to, *turn;
    int32_t kv_array;
} recipe;

enum { N_VOCAB = 96, N_LAYERS = 2, N_HEADS = 4, N_KV = 2, N_EXPERTS = 5, N_USED = 2, N_CTX = 160 };
enum { U32 = 4, F32 = 6, U64 = 10 };

typedef struct made {
    char name[48];
    const char *format;
    int64_t dims[3];
} made;

static inline uint32_t random_bits(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* Values of a tensor depend on its name and expert, so a fused stack holds the same numbers. */
static inline void fill(float *x, int64_t n, const char *name, int64_t expert)
{
    uint64_t state = 14695981039346656037u + (uint64_t)expert;
    for (const char *c = name; *c; c++)
        state = (state ^ (uint8_t)*c) * 1099511628211u;
    const int norm = strstr(name, "norm") != NULL;
    for (int64_t i = 0; i < n; i++) {
        float s = 0;
        for (int32_t j = 0; j < 4; j++)
            s += (float)random_bits(&state) / 2147483648.0f - 0.5f;
        x[i] = norm ? 1.0f + 0.2f * s : 0.15f * s;
    }
}

static inline int32_t list_tensors(const recipe *r, made *t)
{
    const int64_t d = r->n_embd, f = r->n_ff, q = N_HEADS * r->head_dim, kv = N_KV * r->head_dim;
    const char *fmt = r->format ? r->format : "f32", *router = r->router ? r->router : "f32";
    int32_t n = 0;
    t[n++] = (made){"token_embd.weight", fmt, {d, N_VOCAB, 0}};
    t[n++] = (made){"output_norm.weight", "f32", {d, 0, 0}};
    if (!r->tied)
        t[n++] = (made){"output.weight", fmt, {d, N_VOCAB, 0}};
    for (int32_t i = 0; i < N_LAYERS; i++) {
        const struct {
            const char *name, *format;
            int64_t dims[3];
        } layer[] = {
            {"attn_norm", router, {d, 0, 0}},
            {"attn_q", fmt, {d, q, 0}},
            {"attn_k", fmt, {d, kv, 0}},
            {"attn_v", fmt, {d, kv, 0}},
            {"attn_output", fmt, {q, d, 0}},
            {"attn_q_norm", "f32", {r->head_dim, 0, 0}},
            {"attn_k_norm", "f32", {r->head_dim, 0, 0}},
            {"ffn_norm", "f32", {d, 0, 0}},
            {"ffn_gate_inp", router, {d, N_EXPERTS, 0}},
            {"ffn_down_exps", fmt, {f, d, N_EXPERTS}},
            {"ffn_gate_exps", fmt, {d, f, N_EXPERTS}},
            {"ffn_up_exps", fmt, {d, f, N_EXPERTS}},
        };
        for (int32_t j = 0; j < 12 - r->fused; j++) {
            const int both = r->fused && j == 10;
            const int64_t *dims = layer[j].dims;
            t[n] = (made){"", layer[j].format, {dims[0], dims[1] * (both ? 2 : 1), dims[2]}};
            snprintf(t[n++].name, sizeof t->name, "blk.%d.%s.weight", i,
                     both ? "ffn_gate_up_exps" : layer[j].name);
        }
    }
    return n;
}

/* Rows of one expert as bytes of the tensor's format. */
static inline size_t encode(gqmm_context *ctx, const made *t, int64_t expert, float *x,
                            uint8_t *bytes)
{
    const int64_t cols = t->dims[0], rows = t->dims[1] ? t->dims[1] : 1;
    const char *both = strstr(t->name, "gate_up");
    if (both) {
        char part[64];
        snprintf(part, sizeof part, "%.*sgate_exps.weight", (int)(both - t->name), t->name);
        fill(x, cols * rows / 2, part, expert);
        snprintf(part, sizeof part, "%.*sup_exps.weight", (int)(both - t->name), t->name);
        fill(x + cols * rows / 2, cols * rows / 2, part, expert);
    } else {
        fill(x, cols * rows, t->name, expert);
    }
    gqmm_quantize_desc q;
    GQMM_INIT(q);
    q.format = t->format;
    q.x = x;
    q.n_rows = rows;
    q.n_cols = cols;
    q.plane[0] = bytes;
    if (gqmm_quantize(ctx, &q, NULL))
        return 0;
    return (size_t)(rows * gqmm_format_row_bytes(gqmm_format_find(t->format), 0, cols));
}

/* A GGUF in memory with nothing but KEY = [2, 2], to copy an array from. */
static inline gqmm_status copy_array(gqmm_writer *w, const char *key, gqmm_error *err)
{
    uint8_t b[256] = "GGUF";
    const uint64_t length = strlen(key);
    const uint32_t words[] = {9, 5, 2, 0, 2, 2}; /* array of i32, count as u64, items */
    gqmm_file *file = NULL;
    b[4] = 3;
    b[16] = 1;
    memcpy(b + 24, &length, 8);
    memcpy(b + 32, key, length);
    memcpy(b + 32 + length, words, sizeof words);
    gqmm_status status =
        gqmm_file_parse(b, (32 + length + sizeof words + 31) / 32 * 32, NULL, &file, err);
    if (!status)
        status = gqmm_writer_meta_copy(w, file, gqmm_file_meta_at(file, 0), err);
    gqmm_file_close(file);
    return status;
}

static inline gqmm_status write_keys(gqmm_writer *w, const recipe *r, gqmm_error *err)
{
    const struct {
        const char *name;
        int64_t value;
    } keys[] = {
        {"block_count", N_LAYERS},
        {"context_length", N_CTX},
        {"embedding_length", r->n_embd},
        {"attention.head_count", N_HEADS},
        {"attention.head_count_kv", N_KV},
        {"attention.key_length", r->head_dim},
        {"expert_count", N_EXPERTS},
        {"expert_used_count", N_USED},
        {"expert_feed_forward_length", r->n_ff},
    };
    const char *arch = r->arch ? r->arch : "qwen3moe", *eps = "attention.layer_norm_rms_epsilon";
    char name[128];
    gqmm_status status =
        gqmm_writer_meta_string(w, "general.architecture", arch, strlen(arch), err);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0] && !status; i++) {
        const int edited = r->key && strcmp(r->key, keys[i].name) == 0;
        if (r->no_key && strcmp(r->no_key, keys[i].name) == 0)
            continue;
        snprintf(name, sizeof name, "qwen3moe.%s", keys[i].name);
        if (r->kv_array && i == 4)
            status = copy_array(w, name, err);
        else
            status = gqmm_writer_meta_int(w, name, r->int_type ? r->int_type : U32,
                                          edited ? r->value : keys[i].value, err);
    }
    snprintf(name, sizeof name, "qwen3moe.%s", eps);
    if (!status && !(r->no_key && strcmp(r->no_key, eps) == 0))
        status = gqmm_writer_meta_float(w, name, F32,
                                        r->key && strcmp(r->key, eps) == 0 ? NAN : 1e-6, err);
    snprintf(name, sizeof name, "qwen3moe.%s", r->text_key ? r->text_key : "");
    if (!status && r->text_key)
        status = gqmm_writer_meta_string(w, name, "yarn", 4, err);
    return status;
}

/* Writes the recipe's file at `scratch`; NULL or what went wrong. */
static inline const char *write_model(const recipe *given)
{
    recipe r = *given;
    r.n_embd = r.n_embd ? r.n_embd : 64;
    r.n_ff = r.n_ff ? r.n_ff : 32;
    r.head_dim = r.head_dim ? r.head_dim : 32;
    made t[64];
    int32_t n = list_tensors(&r, t);
    const int64_t wide = r.n_ff > N_VOCAB ? r.n_ff : N_VOCAB, heads = N_HEADS * r.head_dim;
    const int64_t biggest = 2 * r.n_embd * (heads > wide ? heads : wide) * 4;
    float *x = malloc((size_t)biggest * sizeof *x);
    uint8_t *bytes = malloc((size_t)biggest * sizeof *x);
    gqmm_context *ctx = NULL;
    gqmm_writer *w = NULL;
    gqmm_error err = {0};
    gqmm_status status = gqmm_context_create(NULL, &ctx, &err);
    if (!status)
        status = gqmm_writer_create(scratch, 1, NULL, &w, &err);
    if (!status)
        status = write_keys(w, &r, &err);
    for (int32_t i = 0; i < n && !status; i++) {
        if (r.drop && strcmp(r.drop, t[i].name) == 0) {
            if (!r.rename_to) {
                memmove(t + i, t + i + 1, (size_t)(--n - i) * sizeof t[0]);
                i--;
                continue;
            }
            snprintf(t[i].name, sizeof t[i].name, "%s", r.rename_to);
        }
        int64_t dims[3] = {t[i].dims[0], t[i].dims[1], t[i].dims[2]};
        if (r.turn && strcmp(r.turn, t[i].name) == 0) {
            dims[0] = t[i].dims[1];
            dims[1] = t[i].dims[0];
        }
        status = gqmm_writer_tensor(w, t[i].name, t[i].format,
                                    dims[2]   ? 3
                                    : dims[1] ? 2
                                              : 1,
                                    dims, &err);
    }
    for (int32_t i = 0; i < n && !status; i++)
        for (int64_t e = 0; e < (t[i].dims[2] ? t[i].dims[2] : 1) && !status; e++)
            status = gqmm_writer_data(w, bytes, encode(ctx, &t[i], e, x, bytes), &err);
    if (!status)
        status = gqmm_writer_finish(w, &err);
    gqmm_writer_destroy(w);
    gqmm_context_destroy(ctx);
    free(x);
    free(bytes);
    NEED(status == GQMM_OK, "the test's own file was not written: %s", err.text);
    return NULL;
}

/* ------------------------------------------------------------------ everything opened */

typedef struct stack {
    gqmm_context *ctx;
    gqmm_file *file;
    gqmm_model *model;
    gqmm_session *s;
    gqmm_model_info info;
} stack;

typedef struct setup {
    const char *path; /* NULL: scratch */
    int32_t threads, precision, repack;
    int64_t max_tokens, batch;
    const char *isa, *device;
    const gqmm_allocator *allocator;
} setup;

static inline void shut(stack *k)
{
    gqmm_session_destroy(k->s);
    gqmm_model_destroy(k->model);
    gqmm_file_close(k->file);
    gqmm_context_destroy(k->ctx);
    memset(k, 0, sizeof *k);
}

static inline gqmm_status build(stack *k, const setup *u, gqmm_error *err)
{
    gqmm_context_desc c;
    gqmm_model_desc m;
    GQMM_INIT(c);
    GQMM_INIT(m);
    memset(k, 0, sizeof *k);
    c.n_threads = u->threads ? u->threads : 1;
    c.isa = u->isa;
    c.device = u->device;
    c.allocator = m.allocator = u->allocator;
    m.precision = u->precision;
    m.repack = u->repack;
    gqmm_status status = gqmm_context_create(&c, &k->ctx, err);
    if (!status)
        status = gqmm_file_open(u->path ? u->path : scratch, 0, u->allocator, &k->file, err);
    if (!status)
        status = gqmm_model_create(k->ctx, k->file, &m, &k->model, err);
    if (!status)
        status = gqmm_session_create(k->model, u->max_tokens, u->batch, &k->s, err);
    if (status) {
        shut(k);
        return status;
    }
    GQMM_INIT(k->info);
    gqmm_model_get_info(k->model, &k->info);
    return status;
}

#define BUILD(k, ...) \
    do { \
        gqmm_error e_ = {0}; \
        NEED(build(k, &(setup){__VA_ARGS__}, &e_) == GQMM_OK, "build: %s", e_.text); \
    } while (0)

#define EVAL(k, ids, n, all) \
    do { \
        gqmm_error e_ = {0}; \
        NEED(gqmm_session_eval((k)->s, ids, n, all, &e_) == GQMM_OK, "eval: %s", e_.text); \
    } while (0)

static inline void some_tokens(int32_t *ids, int64_t n)
{
    uint64_t state = 7;
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)(random_bits(&state) % N_VOCAB);
}

/* The first of the largest logits. */
static inline int32_t best(const float *x, int32_t n)
{
    int32_t b = 0;
    for (int32_t i = 1; i < n; i++)
        b = x[i] > x[b] ? i : b;
    return b;
}

/* ------------------------------------------------------------------ the program */

typedef struct named_test {
    const char *name;
    const char *(*run)(void);
} named_test;

static inline int run_tests(const char *program, const named_test *tests, size_t n_tests, int argc,
                            char **argv)
{
    int passed = 0, failed = 0, skipped = 0;
    const char *tmp = getenv("TMPDIR");
    char folder[400];
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0)
            quick = 1;
        else
            data_dir = argv[i];
    }
    snprintf(folder, sizeof folder, "%s/%s-XXXXXX", tmp ? tmp : "/tmp", program);
    if (!mkdtemp(folder)) {
        printf("FAIL scratch: no directory %s\n%s: 0 passed, 1 failed, 0 skipped\n", folder,
               program);
        return 1;
    }
    snprintf(scratch, sizeof scratch, "%s/model.gguf", folder);
    for (size_t i = 0; i < n_tests; i++) {
        note[0] = 0;
        const char *bad = tests[i].run();
        const int skip = bad && strncmp(bad, "skip: ", 6) == 0;
        if (bad)
            printf("%s %s: %s\n", skip ? "skip" : "FAIL", tests[i].name, skip ? bad + 6 : bad);
        else
            printf("ok %s%s\n", tests[i].name, note);
        fflush(stdout);
        passed += !bad;
        skipped += skip;
        failed += bad && !skip;
    }
    unlink(scratch);
    rmdir(folder);
    printf("%s: %d passed, %d failed, %d skipped\n", program, passed, failed, skipped);
    return failed != 0;
}

#endif
