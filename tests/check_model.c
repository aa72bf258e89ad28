/* SPDX-License-Identifier: MIT */
/* The numbers of a model: check_model [--quick] [DATA_DIR]
 *
 * Real files are held to what transformers computed in fp32 (models/fixtures.py). What must hold
 * for any weights is checked on random models. */
#include "model_maker.h"

#include <jansson.h>
#include <math.h>

/* ------------------------------------------------------------------ against transformers */

typedef struct watch {
    double l2[64];
    int64_t n_embd;
    int32_t n;
} watch;

static void watch_layer(void *user, int32_t layer, const float *x, int64_t n_tokens)
{
    watch *w = user;
    double sum = 0;
    for (int64_t i = (n_tokens - 1) * w->n_embd; i < n_tokens * w->n_embd; i++)
        sum += (double)x[i] * x[i];
    if (layer + 1 < 64)
        w->l2[layer + 1] = sqrt(sum);
    w->n = layer + 2;
}

/* Greedy steps equal transformers' until the two best logits there are closer than 1e-3: the side
 * of such a tie is rounding. */
static const char *check_greedy(stack *k, const json_t *c, const char *name)
{
    const json_t *want = json_object_get(c, "greedy"), *gap = json_object_get(c, "gap");
    const size_t n = quick && json_array_size(want) > 16 ? 16 : json_array_size(want);
    for (size_t i = 0; i < n; i++) {
        const int32_t id = best(gqmm_session_logits(k->s), k->info.n_vocab);
        const int32_t should = (int32_t)json_integer_value(json_array_get(want, i));
        const double close = json_number_value(json_array_get(gap, i));
        if (id != should && close < 1e-3)
            return NULL;
        NEED(id == should, "%s: greedy token %zu is %d, transformers has %d (gap %g)", name, i, id,
             should, close);
        EVAL(k, &id, 1, NULL);
    }
    return NULL;
}

static const char *check_case(stack *k, const json_t *c, double *worst)
{
    const char *name = json_string_value(json_object_get(c, "name"));
    const json_t *ids = json_object_get(c, "ids"), *top = json_object_get(c, "top");
    const json_t *l2 = json_object_get(c, "residual_l2");
    const int64_t n = (int64_t)json_array_size(ids);
    int32_t list[512];
    watch w = {.n_embd = k->info.n_embd};
    NEED(name && n > 0 && n <= 512 && json_array_size(top) > 0, "the fixture is not as expected");
    for (int64_t i = 0; i < n; i++)
        list[i] = (int32_t)json_integer_value(json_array_get(ids, (size_t)i));
    NEED(gqmm_session_truncate(k->s, 0, NULL) == GQMM_OK, "truncate");
    gqmm_session_observe(k->s, watch_layer, &w);
    EVAL(k, list, n, NULL);
    gqmm_session_observe(k->s, NULL, NULL);
    NEED((size_t)w.n == json_array_size(l2), "%s: %d residuals seen, the fixture has %zu", name,
         w.n, json_array_size(l2));
    for (int32_t i = 0; i < w.n; i++) {
        const double want = json_number_value(json_array_get(l2, (size_t)i));
        NEED(fabs(w.l2[i] - want) <= 1e-4 * want, "%s: residual %d has norm %g, not %g", name,
             i - 1, w.l2[i], want);
    }
    for (size_t i = 0; i < json_array_size(top); i++) {
        const json_t *pair = json_array_get(top, i);
        const int64_t id = json_integer_value(json_array_get(pair, 0));
        const double want = json_number_value(json_array_get(pair, 1));
        NEED(id >= 0 && id < k->info.n_vocab, "the fixture names token %lld", (long long)id);
        const double delta = fabs((double)gqmm_session_logits(k->s)[id] - want);
        NEED(delta < 1e-3, "%s: logit %lld is off by %g", name, (long long)id, delta);
        *worst = delta > *worst ? delta : *worst;
    }
    return check_greedy(k, c, name);
}

static const char *check_fixture(const char *model, const char *fixture, const char *isa,
                                 double *worst)
{
    json_error_t error;
    json_t *root = json_load_file(fixture, JSON_ALLOW_NUL, &error);
    NEED(root, "%s: %s", fixture, error.text);
    const json_t *cases = json_object_get(root, "cases");
    const char *bad = NULL;
    stack k;
    BUILD(&k, .path = model, .isa = isa, .threads = 2, .max_tokens = 512, .batch = 32);
    for (size_t i = 0; i < json_array_size(cases) && !bad; i++)
        bad = check_case(&k, json_array_get(cases, i), worst);
    shut(&k);
    NEED(bad || json_array_size(cases) > 0, "no cases in the fixture");
    json_decref(root);
    return bad;
}

/* On the best ISA or, with every = 1, on all that this machine has. */
static const char *check_isas(const char *model, const char *fixture, int32_t every)
{
    const char *isa, *bad = NULL;
    double worst = 0;
    if (!every)
        bad = check_fixture(model, fixture, NULL, &worst);
    for (int32_t i = 0; every && !bad && (isa = gqmm_isa_at(i)) != NULL; i++)
        if (gqmm_isa_available(isa))
            bad = check_fixture(model, fixture, isa, &worst);
    snprintf(note, sizeof note, " (worst logit off by %.2g)", worst);
    return bad;
}

static const char *test_tiny(void)
{
    char model[512], fixture[512];
    snprintf(model, sizeof model, "%s/tiny-qwen3moe-f32.gguf", data_dir);
    snprintf(fixture, sizeof fixture, "%s/tiny-fixtures.json", data_dir);
    return check_isas(model, fixture, 1);
}

static const char *test_demo(void)
{
    char model[512], fixture[512];
    snprintf(model, sizeof model, "%s/../../models/stories-q4_k_m.gguf", data_dir);
    snprintf(fixture, sizeof fixture, "%s/demo-fixtures.json", data_dir);
    if (access(model, R_OK) != 0 || access(fixture, R_OK) != 0) {
        snprintf(why, sizeof why, "skip: %s is not there", access(model, R_OK) ? model : fixture);
        return why;
    }
    return check_isas(model, fixture, 0);
}

/* ------------------------------------------------------------------ bits */

enum { PROMPT = 77 }; /* more than one chunk of attention, no multiple of any batch below */

/* Logits of every token of the prompt. */
static const char *all_logits(const setup *u, const int32_t *ids, float *out)
{
    stack k;
    gqmm_error err = {0};
    NEED(build(&k, u, &err) == GQMM_OK, "build: %s", err.text);
    EVAL(&k, ids, PROMPT, out);
    NEED(memcmp(gqmm_session_logits(k.s), out + (PROMPT - 1) * N_VOCAB, N_VOCAB * 4) == 0,
         "the last logits are not the last row of all logits");
    shut(&k);
    return NULL;
}

static float logits_a[PROMPT * N_VOCAB], logits_b[PROMPT * N_VOCAB];

static const char *test_batches(void)
{
    int32_t ids[PROMPT];
    some_tokens(ids, PROMPT);
    for (int32_t precision = 0; precision < 2; precision++) {
        const char *bad = write_model(&(recipe){.format = "q8_0"});
        if (bad)
            return bad;
        for (int64_t batch = 1; batch < 100; batch = batch * 3 + 2) {
            setup u = {.threads = 2, .precision = precision, .batch = batch};
            float *out = batch == 1 ? logits_a : logits_b;
            if ((bad = all_logits(&u, ids, out)))
                return bad;
            NEED(batch == 1 || memcmp(logits_a, logits_b, sizeof logits_a) == 0,
                 "precision %d: batches of %lld and of 1 differ", precision, (long long)batch);
        }
    }
    return NULL;
}

static const char *test_threads(void)
{
    static const char *const formats[] = {"f32", "q4_0"};
    int32_t ids[PROMPT];
    some_tokens(ids, PROMPT);
    for (int32_t i = 0; i < 4; i++) {
        const char *bad = write_model(&(recipe){.format = formats[i & 1]});
        if (bad)
            return bad;
        for (int32_t threads = 1; threads < 8; threads += threads == 3 ? 4 : 1) {
            setup u = {.threads = threads, .precision = i >> 1};
            float *out = threads == 1 ? logits_a : logits_b;
            if ((bad = all_logits(&u, ids, out)))
                return bad;
            NEED(threads == 1 || memcmp(logits_a, logits_b, sizeof logits_a) == 0,
                 "%s: %d threads and 1 differ", formats[i & 1], threads);
        }
    }
    return NULL;
}

static const char *test_truncate(void)
{
    int32_t ids[PROMPT];
    float first[N_VOCAB];
    stack k;
    const char *bad = write_model(&(recipe){0});
    some_tokens(ids, PROMPT);
    if (bad)
        return bad;
    BUILD(&k, .batch = 16);
    EVAL(&k, ids, PROMPT, NULL);
    memcpy(first, gqmm_session_logits(k.s), sizeof first);
    for (int32_t keep = 0; keep < PROMPT; keep += 19) {
        const int32_t other[3] = {1, 2, 3};
        NEED(gqmm_session_truncate(k.s, keep, NULL) == GQMM_OK, "truncate to %d", keep);
        EVAL(&k, other, 3, NULL);
        NEED(gqmm_session_truncate(k.s, keep, NULL) == GQMM_OK, "truncate to %d", keep);
        EVAL(&k, ids + keep, PROMPT - keep, NULL);
        NEED(memcmp(first, gqmm_session_logits(k.s), sizeof first) == 0,
             "other logits after keeping %d tokens", keep);
    }
    gqmm_error err = {0};
    NEED(gqmm_session_truncate(k.s, PROMPT + 1, &err) == GQMM_E_ARG && strstr(err.text, "78"),
         "keeping 78 of 77 tokens: %s", err.text);
    shut(&k);
    return NULL;
}

/* A fused stack and a tied head are other layouts of the same numbers. */
static const char *test_layouts(void)
{
    int32_t ids[PROMPT];
    some_tokens(ids, PROMPT);
    for (int32_t tied = 0; tied < 2; tied++) {
        const char *bad = NULL;
        for (int32_t fused = 0; fused < 2 && !bad; fused++) {
            bad = write_model(&(recipe){.format = "q4_1", .fused = fused, .tied = tied});
            bad = bad ? bad : all_logits(&(setup){0}, ids, fused ? logits_b : logits_a);
        }
        if (bad)
            return bad;
        NEED(memcmp(logits_a, logits_b, sizeof logits_a) == 0, "the fused stack differs");
    }
    /* Integer keys of any type, head counts as arrays, float routers and norms of 16 bits. */
    const recipe accepted[] = {{.int_type = U64}, {.int_type = 5},   {.int_type = 2},
                               {.kv_array = 1},   {.router = "f16"}, {.router = "bf16"}};
    for (size_t i = 0; i < sizeof accepted / sizeof accepted[0]; i++) {
        stack k;
        const char *bad = write_model(&accepted[i]);
        if (bad)
            return bad;
        BUILD(&k, 0);
        EVAL(&k, ids, 2, NULL);
        NEED(k.info.n_kv_heads == N_KV && k.info.n_experts == N_EXPERTS && k.info.n_embd == 64 &&
                 k.info.n_vocab == N_VOCAB && k.info.context_length == N_CTX,
             "the info of recipe %zu is wrong", i);
        shut(&k);
    }
    return NULL;
}

/* ------------------------------------------------------------------ precision and repacking */

/* Squared distance of b from a, over the squares of a. */
static double distance(const float *a, const float *b, size_t n)
{
    double d = 0, s = 0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s += (double)a[i] * a[i];
    }
    return d / s;
}

/* Every expert is used here: at a near-tie of the router the smallest rounding chooses another
 * one, and the distance would say nothing about the products.
 * One product in int8 stays below 1e-4; two layers of seven stay below BOUND_INT8. Repacking
 * rounds nothing for q4_0, q4_1 and q8_0; the scales of q4_k and q5_k round by 2^-11; q6_k is
 * requantised with 8 bits. */
#define BOUND_INT8 2e-3
#define BOUND_SAME 1e-10
#define BOUND_SCALES 1e-4
#define BOUND_REQUANTISED 1e-3

static const char *test_int8(void)
{
    static const char *const formats[] = {"q8_0", "q4_k", "q6_k"};
    int32_t ids[PROMPT];
    double worst = 0;
    some_tokens(ids, PROMPT);
    for (int32_t i = 0; i < (quick ? 1 : 3); i++) {
        const char *bad = write_model(&(recipe){.format = formats[i],
                                                .n_embd = 256,
                                                .n_ff = 256,
                                                .head_dim = 64,
                                                .key = "expert_used_count",
                                                .value = N_EXPERTS});
        bad = bad ? bad : all_logits(&(setup){.threads = 2}, ids, logits_a);
        bad = bad ? bad : all_logits(&(setup){.threads = 2, .precision = 1}, ids, logits_b);
        if (bad)
            return bad;
        const double d = distance(logits_a, logits_b, PROMPT * N_VOCAB);
        NEED(d > 0 && d < BOUND_INT8, "%s: int8 is %g from exact", formats[i], d);
        worst = d > worst ? d : worst;
    }
    snprintf(note, sizeof note, " (worst %.2g)", worst);
    return NULL;
}

static const char *test_repack(void)
{
    static const struct {
        const char *format;
        double bound;
    } rows[] = {{"q8_0", BOUND_SAME},   {"q4_0", BOUND_SAME},   {"q4_1", BOUND_SAME},
                {"q4_k", BOUND_SCALES}, {"q5_k", BOUND_SCALES}, {"q6_k", BOUND_REQUANTISED}};
    int32_t ids[PROMPT];
    double worst = 0;
    some_tokens(ids, PROMPT);
    for (int32_t i = 0; i < (quick ? 3 : 6); i++) {
        const int64_t wide = i < 3 ? 0 : 256;
        const char *bad = write_model(&(recipe){.format = rows[i].format,
                                                .n_embd = wide,
                                                .n_ff = wide,
                                                .head_dim = wide / 4,
                                                .key = "expert_used_count",
                                                .value = N_EXPERTS});
        bad = bad ? bad : all_logits(&(setup){.threads = 2}, ids, logits_a);
        bad = bad ? bad : all_logits(&(setup){.threads = 2, .repack = 1}, ids, logits_b);
        if (bad)
            return bad;
        const double d = distance(logits_a, logits_b, PROMPT * N_VOCAB);
        NEED(d < rows[i].bound, "%s repacked is %g from the blocks", rows[i].format, d);
        worst = d > worst ? d : worst;
        stack k;
        BUILD(&k, .repack = 1);
        NEED(k.info.repacked_bytes > k.info.weight_bytes / 2, "repacked_bytes is %lld",
             (long long)k.info.repacked_bytes);
        shut(&k);
    }
    snprintf(note, sizeof note, " (worst %.2g)", worst);
    return NULL;
}

int main(int argc, char **argv)
{
    static const named_test tests[] = {
        {"tiny_against_transformers", test_tiny}, {"demo_against_transformers", test_demo},
        {"any_batch_same_bits", test_batches},    {"any_threads_same_bits", test_threads},
        {"truncate_and_again", test_truncate},    {"layouts_of_one_model", test_layouts},
        {"int8_close_to_exact", test_int8},       {"repacked_close_to_blocks", test_repack},
    };
    return run_tests("check_model", tests, sizeof tests / sizeof tests[0], argc, argv);
}
