/* SPDX-License-Identifier: MIT */
/* What a wrong file, a wrong call or missing memory gets: check_model_errors [--quick]
 * The sentence is part of the contract, so it is compared. */
#include "model_maker.h"

/* ------------------------------------------------------------------ refusals */

static const char *test_bad_files(void)
{
    static const struct {
        recipe r;
        gqmm_status status;
        const char *says;
    } rows[] = {
        {{.arch = "mamba\n9"}, GQMM_E_UNSUPPORTED, "\"mamba?9\" is unknown; known: qwen3moe"},
        {{.drop = "blk.1.attn_k.weight"}, GQMM_E_FORMAT, "blk.1.attn_k.weight is missing"},
        {{.drop = "token_embd.weight"}, GQMM_E_FORMAT, "token_embd.weight is missing"},
        {{.drop = "output_norm.weight"}, GQMM_E_FORMAT, "output_norm.weight is missing"},
        {{.drop = "blk.0.ffn_up_exps.weight", .rename_to = "blk.0.ffn_up.weight"},
         GQMM_E_FORMAT,
         "blk.0.ffn_up_exps.weight is missing"},
        {{.drop = "output.weight", .rename_to = "blk.2.nextn.eh_proj.weight"},
         GQMM_E_FORMAT,
         "blk.2.nextn.eh_proj.weight is unexpected"},
        {{.turn = "blk.0.attn_q.weight"}, GQMM_E_FORMAT, "is {128, 64}; the file's settings"},
        {{.turn = "token_embd.weight"}, GQMM_E_FORMAT, "token_embd.weight is {96, 64}"},
        {{.router = "q8_0"}, GQMM_E_UNSUPPORTED, "attn_norm.weight has type Q8_0"},
        {{.no_key = "block_count"}, GQMM_E_FORMAT, "qwen3moe.block_count is missing"},
        {{.no_key = "expert_used_count"}, GQMM_E_FORMAT, "expert_used_count is missing"},
        {{.no_key = "attention.layer_norm_rms_epsilon"}, GQMM_E_FORMAT, "epsilon is missing"},
        {{.key = "attention.layer_norm_rms_epsilon"}, GQMM_E_FORMAT, "epsilon is nan"},
        {{.key = "block_count"}, GQMM_E_FORMAT, "block_count is 0, outside 1 to 512"},
        {{.key = "block_count", .value = 3}, GQMM_E_FORMAT, "blk.2.attn_norm.weight is missing"},
        {{.key = "block_count", .value = 1}, GQMM_E_FORMAT, "blk.1.attn_norm.weight is unexp"},
        {{.key = "block_count", .value = 513}, GQMM_E_FORMAT, "block_count is 513"},
        {{.key = "attention.head_count"}, GQMM_E_FORMAT, "head_count is 0"},
        {{.key = "attention.head_count_kv"}, GQMM_E_FORMAT, "head_count_kv is 0"},
        {{.key = "attention.head_count_kv", .value = 3}, GQMM_E_FORMAT, "no multiple of"},
        {{.key = "attention.head_count_kv", .value = 8}, GQMM_E_FORMAT, "head_count_kv is 8"},
        {{.key = "attention.key_length", .value = 31}, GQMM_E_FORMAT, "key_length is 31"},
        {{.key = "embedding_length", .value = 65}, GQMM_E_FORMAT, "ask for {65}"},
        {{.key = "embedding_length", .value = INT64_MAX, .int_type = U64},
         GQMM_E_FORMAT,
         "embedding_length is 9223372036854775807"},
        {{.key = "embedding_length", .value = -1, .int_type = 5}, GQMM_E_FORMAT, "length is -1"},
        {{.key = "expert_used_count", .value = 6},
         GQMM_E_FORMAT,
         "used_count is 6, outside 1 to 5"},
        {{.key = "expert_count", .value = 4}, GQMM_E_FORMAT, "ffn_gate_inp.weight is {64, 5}"},
        {{.key = "expert_feed_forward_length", .value = 33}, GQMM_E_FORMAT, "{64, 33, 5}"},
        {{.key = "context_length"}, GQMM_E_FORMAT, "context_length is 0"},
        {{.text_key = "rope.scaling.type"}, GQMM_E_UNSUPPORTED, "rope.scaling.type is set"},
        {{.text_key = "rope.freq_base"}, GQMM_E_FORMAT, "rope.freq_base is no float"},
        {{.text_key = "rope.dimension_count"}, GQMM_E_FORMAT, "dimension_count is no integer"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        gqmm_error err = {0};
        stack k;
        const char *bad = write_model(&rows[i].r);
        if (bad)
            return bad;
        const gqmm_status status = build(&k, &(setup){0}, &err);
        NEED(status == rows[i].status && err.status == status && strstr(err.text, rows[i].says),
             "wanted %s with \"%s\", got %s: %s", gqmm_status_name(rows[i].status), rows[i].says,
             gqmm_status_name(status), err.text);
    }
    return NULL;
}

/* A tensor of a type that other programs write and gqmm does not compute with. */
static const char *test_bad_type(void)
{
    static const char name[] = "blk.0.attn_q.weight";
    static uint8_t bytes[1 << 20];
    gqmm_error err = {0};
    gqmm_context *ctx = NULL;
    gqmm_file *file = NULL;
    gqmm_model *model = NULL;
    const char *bad = write_model(&(recipe){0});
    if (bad)
        return bad;
    FILE *f = fopen(scratch, "rb");
    const size_t size = f ? fread(bytes, 1, sizeof bytes, f) : 0;
    if (f)
        fclose(f);
    uint8_t *at = size ? memmem(bytes, size, name, sizeof name - 1) : NULL;
    NEED(at && size < sizeof bytes, "the test's own file has %zu bytes and no %s", size, name);
    at[sizeof name - 1 + 4 + 16] = 26; /* behind the name, the number of sizes and two sizes: I32 */
    NEED(gqmm_context_create(NULL, &ctx, NULL) == GQMM_OK, "context");
    NEED(gqmm_file_parse(bytes, size, NULL, &file, &err) == GQMM_OK, "parse: %s", err.text);
    const gqmm_status status = gqmm_model_create(ctx, file, NULL, &model, &err);
    gqmm_file_close(file);
    gqmm_context_destroy(ctx);
    NEED(status == GQMM_E_UNSUPPORTED && !model && strstr(err.text, name) &&
             strstr(err.text, "type I32"),
         "a tensor of type I32: %s: %s", gqmm_status_name(status), err.text);
    return NULL;
}

/* `call` must fail with `status` and say `says`; the session stays as it was. */
#define REFUSED(call, want, says) \
    do { \
        gqmm_error err = {0}; \
        const gqmm_status got_ = (call); \
        NEED(got_ == (want) && strstr(err.text, says), "%s: %s: %s", #call, \
             gqmm_status_name(got_), err.text); \
    } while (0)

static const char *test_bad_calls(void)
{
    int32_t ids[N_CTX + 1];
    float before[N_VOCAB];
    gqmm_session *none = NULL;
    stack k;
    const char *bad = write_model(&(recipe){0});
    if (bad)
        return bad;
    some_tokens(ids, N_CTX + 1);
    BUILD(&k, .batch = 7);
    NEED(!gqmm_session_logits(k.s), "there are logits before any token");
    NEED(gqmm_session_bytes(k.s) > 0, "the session costs nothing");
    EVAL(&k, NULL, 0, NULL);
    EVAL(&k, ids, 30, NULL);
    memcpy(before, gqmm_session_logits(k.s), sizeof before);
    EVAL(&k, ids, 0, NULL);
    REFUSED(gqmm_session_eval(k.s, ids, N_CTX - 29, NULL, &err), GQMM_E_SHAPE,
            "131 tokens after 30 do not fit into a context of 160");
    REFUSED(gqmm_session_eval(k.s, ids, INT64_MAX, NULL, &err), GQMM_E_SHAPE, "after 30");
    REFUSED(gqmm_session_eval(k.s, NULL, 1, NULL, &err), GQMM_E_ARG, "tokens is NULL");
    REFUSED(gqmm_session_eval(k.s, ids, -1, NULL, &err), GQMM_E_ARG, "negative");
    ids[11] = N_VOCAB;
    REFUSED(gqmm_session_eval(k.s, ids, 12, NULL, &err), GQMM_E_INDEX,
            "token 11 of 12 is id 96; the vocabulary has 0 to 95");
    ids[11] = -1;
    REFUSED(gqmm_session_eval(k.s, ids, 12, NULL, &err), GQMM_E_INDEX, "is id -1");
    NEED(gqmm_session_length(k.s) == 30, "a refused call changed the length");
    NEED(memcmp(before, gqmm_session_logits(k.s), sizeof before) == 0, "... or the logits");
    REFUSED(gqmm_session_create(k.model, N_CTX + 1, 0, &none, &err), GQMM_E_ARG, "161");
    REFUSED(gqmm_session_create(k.model, -1, 0, &none, &err), GQMM_E_ARG, "-1");
    REFUSED(gqmm_session_create(k.model, 0, -1, &none, &err), GQMM_E_ARG, "-1");
    REFUSED(gqmm_model_create(k.ctx, NULL, NULL, &(gqmm_model *){NULL}, &err), GQMM_E_ARG, "NULL");
    gqmm_model_desc d;
    GQMM_INIT(d);
    d.precision = 2;
    REFUSED(gqmm_model_create(k.ctx, k.file, &d, &(gqmm_model *){NULL}, &err), GQMM_E_ARG, "2");
    ids[11] = 5;
    EVAL(&k, ids, N_CTX - 30, NULL); /* exactly full */
    REFUSED(gqmm_session_eval(k.s, ids, 1, NULL, &err), GQMM_E_SHAPE, "1 tokens after 160");
    shut(&k);
    NEED(strcmp(gqmm_architecture_at(0), "qwen3moe") == 0 && !gqmm_architecture_at(-1) &&
             !gqmm_architecture_at(1000),
         "the list of architectures");
    return NULL;
}

/* ------------------------------------------------------------------ memory */

typedef struct counter {
    int64_t calls, live, fail_at; /* the fail_at-th call and all after it fail; 0: none */
} counter;

static void *counted_alloc(void *user, size_t size, size_t align)
{
    counter *c = user;
    void *p = NULL;
    c->calls++;
    if ((c->fail_at && c->calls >= c->fail_at) || posix_memalign(&p, align, size) != 0)
        return NULL;
    c->live++;
    return p;
}

static void counted_release(void *user, void *memory, size_t size)
{
    counter *c = user;
    (void)size;
    c->live--;
    free(memory);
}

static const char *test_memory(void)
{
    int32_t ids[40];
    some_tokens(ids, 40);
    const char *bad = write_model(&(recipe){.format = "q8_0"});
    if (bad)
        return bad;
    for (int32_t repack = 0; repack < 2; repack++) {
        int64_t step = 1;
        for (int64_t at = 1;; at += quick ? step += 2 : 1) {
            counter c = {.fail_at = at};
            const gqmm_allocator a = {counted_alloc, counted_release, &c};
            gqmm_error err = {0};
            stack k;
            const gqmm_status status =
                build(&k, &(setup){.allocator = &a, .repack = repack, .batch = 16}, &err);
            if (status == GQMM_OK) {
                /* Nothing failed, and from here on nothing is even asked for. */
                const int64_t calls = c.calls;
                c.fail_at = 1;
                EVAL(&k, ids, 40, NULL);
                EVAL(&k, ids, 1, NULL);
                NEED(c.calls == calls, "evaluation asked for memory");
                shut(&k);
                NEED(c.live == 0, "%lld blocks leaked", (long long)c.live);
                snprintf(note, sizeof note, " (%lld allocations)", (long long)calls);
                break;
            }
            NEED(status == GQMM_E_NOMEM && err.text[0], "allocation %lld failing gave %s: %s",
                 (long long)at, gqmm_status_name(status), err.text);
            NEED(c.live == 0, "allocation %lld failing leaked %lld blocks", (long long)at,
                 (long long)c.live);
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static const named_test tests[] = {
        {"bad_files", test_bad_files},
        {"bad_tensor_type", test_bad_type},
        {"bad_calls", test_bad_calls},
        {"no_memory", test_memory},
    };
    return run_tests("check_model_errors", tests, sizeof tests / sizeof tests[0], argc, argv);
}
