/* SPDX-License-Identifier: MIT */
/* Models on a CUDA device against the CPU: check_model_cuda [--quick] [DATA_DIR]
 *
 * Without a device it says what must fail there, and the rest is skipped. */
#include "model_attention.h"

#include <jansson.h>

/* ------------------------------------------------------------------ the demo model */

enum { STEPS = 200, CONTEXT = 768 };

static double largest_difference(const float *a, const float *b, int64_t n)
{
    double d = 0;
    for (int64_t i = 0; i < n; i++)
        d = fabs((double)a[i] - b[i]) <= d ? d : fabs((double)a[i] - b[i]);
    return d;
}

/* How far the best logit is above the second. */
static double gap_of(const float *x, int32_t n)
{
    const int32_t first = best(x, n);
    double second = -INFINITY;
    for (int32_t i = 0; i < n; i++)
        second = i != first && x[i] > second ? x[i] : second;
    return x[first] - second;
}

/* Logits of the whole prompt, then greedy steps, which the device takes from its recording. */
static const char *compare(stack *cpu, stack *cuda, const char *name, const int32_t *ids, int64_t n,
                           int32_t steps, double *worst, int32_t *same)
{
    const int32_t n_vocab = cpu->info.n_vocab;
    float *a = floats(n * n_vocab), *b = floats(n * n_vocab);
    NEED(gqmm_session_truncate(cpu->s, 0, NULL) == GQMM_OK &&
             gqmm_session_truncate(cuda->s, 0, NULL) == GQMM_OK,
         "truncate");
    EVAL(cpu, ids, n, a);
    EVAL(cuda, ids, n, b);
    const double d = largest_difference(a, b, n * n_vocab);
    free(a);
    free(b);
    NEED(d < 1e-3, "%s: logits of the prompt are off by %g", name, d);
    *worst = d > *worst ? d : *worst;
    for (int32_t i = 0; i < steps; i++) {
        const float *x = gqmm_session_logits(cpu->s), *y = gqmm_session_logits(cuda->s);
        const double off = largest_difference(x, y, n_vocab);
        const int32_t id = best(x, n_vocab);
        NEED(off < 1e-3, "%s: logits of step %d are off by %g", name, i, off);
        *worst = off > *worst ? off : *worst;
        if (best(y, n_vocab) != id && gap_of(x, n_vocab) < 1e-3)
            return NULL;
        NEED(best(y, n_vocab) == id, "%s: greedy token %d is %d, the CPU has %d (gap %g)", name, i,
             best(y, n_vocab), id, gap_of(x, n_vocab));
        EVAL(cpu, &id, 1, NULL);
        EVAL(cuda, &id, 1, NULL);
        ++*same;
    }
    return NULL;
}

static const char *test_demo(void)
{
    DEVICE();
    char model[512], fixture[512];
    json_error_t error;
    stack cpu, cuda;
    const char *bad = NULL;
    double worst = 0;
    int32_t same = 0;
    snprintf(model, sizeof model, "%s/../../models/stories-q4_k_m.gguf", data_dir);
    snprintf(fixture, sizeof fixture, "%s/demo-fixtures.json", data_dir);
    if (access(model, R_OK) != 0) {
        snprintf(why, sizeof why, "skip: %s is not there", model);
        return why;
    }
    json_t *root = json_load_file(fixture, JSON_ALLOW_NUL, &error);
    NEED(root, "%s: %s", fixture, error.text);
    const json_t *cases = json_object_get(root, "cases");
    BUILD(&cpu, .path = model, .threads = 2, .max_tokens = CONTEXT);
    BUILD(&cuda, .path = model, .device = "cuda", .max_tokens = CONTEXT);
    for (size_t i = 0; i < json_array_size(cases) && !bad; i++) {
        const json_t *c = json_array_get(cases, i), *ids = json_object_get(c, "ids");
        int32_t list[512];
        const int64_t n = (int64_t)json_array_size(ids);
        NEED(n > 0 && n <= 512, "the fixture is not as expected");
        for (int64_t k = 0; k < n; k++)
            list[k] = (int32_t)json_integer_value(json_array_get(ids, (size_t)k));
        bad = compare(&cpu, &cuda, json_string_value(json_object_get(c, "name")), list, n,
                      quick ? 16 : STEPS, &worst, &same);
    }
    NEED(bad || json_array_size(cases) > 0, "no cases in the fixture");
    shut(&cpu);
    shut(&cuda);
    json_decref(root);
    snprintf(note, sizeof note, " (worst logit off by %.2g, %d greedy tokens the same)", worst,
             same);
    return bad;
}

/* ------------------------------------------------------------------ any model */

enum { PROMPT = 77 };

static const char *test_formats(void)
{
    DEVICE();
    static const recipe recipes[] = {
        {.format = "f32"},
        {.format = "q8_0", .tied = 1},
        {.format = "q4_0", .fused = 1, .router = "f16"},
        {.format = "bf16", .head_dim = 80},
        {.format = "q4_k", .n_embd = 256, .n_ff = 256, .head_dim = 64},
        {.format = "q6_k", .n_embd = 512, .n_ff = 256, .head_dim = 128, .router = "bf16"},
    };
    int32_t ids[PROMPT], same = 0;
    double worst = 0;
    some_tokens(ids, PROMPT);
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        for (int64_t batch = 7; batch <= 77; batch += 70) {
            stack cpu, cuda;
            recipe r = recipes[i];
            r.key = "expert_used_count"; /* all: no tie of the router decides */
            r.value = N_EXPERTS;
            const char *bad = write_model(&r);
            if (bad)
                return bad;
            BUILD(&cpu, .threads = 2);
            BUILD(&cuda, .device = "cuda", .batch = batch);
            bad = compare(&cpu, &cuda, r.format, ids, PROMPT, 20, &worst, &same);
            shut(&cpu);
            shut(&cuda);
            if (bad)
                return bad;
        }
    snprintf(note, sizeof note, " (worst logit off by %.2g)", worst);
    return NULL;
}

typedef struct watch {
    double last; /* sum of the residual stream after the last layer */
    int32_t layers;
} watch;

static void look(void *user, int32_t layer, const float *x, int64_t n_tokens)
{
    watch *w = user;
    (void)layer;
    w->last = 0;
    for (int64_t i = 0; i < n_tokens * 64; i++)
        w->last += x[i];
    w->layers++;
}

/* A token of the recording has the bits of one that was computed call by call (an observer asks for
 * that), also after the sequence was cut; the residual stream is the CPU's. */
static const char *test_recording(void)
{
    DEVICE();
    static float logits[40][N_VOCAB];
    int32_t ids[PROMPT];
    stack k, cpu;
    watch w = {0}, on_cpu = {0};
    some_tokens(ids, PROMPT);
    const char *bad = write_model(&(recipe){.format = "q8_0"});
    if (bad)
        return bad;
    BUILD(&k, .device = "cuda");
    BUILD(&cpu, .threads = 1);
    for (int32_t round = 0; round < 3; round++) {
        if (round == 1)
            gqmm_session_observe(k.s, look, &w);
        else
            gqmm_session_observe(k.s, NULL, NULL);
        NEED(gqmm_session_truncate(k.s, 0, NULL) == GQMM_OK, "truncate");
        for (int32_t i = 0; i < 40; i++) {
            EVAL(&k, ids + i, 1, NULL);
            if (round == 0)
                memcpy(logits[i], gqmm_session_logits(k.s), sizeof logits[i]);
            NEED(memcmp(logits[i], gqmm_session_logits(k.s), sizeof logits[i]) == 0,
                 "round %d: token %d has other logits", round, i);
        }
        NEED(gqmm_session_truncate(k.s, 11, NULL) == GQMM_OK, "truncate");
        EVAL(&k, ids + 11, 1, NULL);
        NEED(memcmp(logits[11], gqmm_session_logits(k.s), sizeof logits[11]) == 0,
             "round %d: other logits after going back", round);
    }
    NEED(w.layers == 41 * (N_LAYERS + 1), "%d residuals were seen", w.layers);
    gqmm_session_observe(cpu.s, look, &on_cpu);
    EVAL(&cpu, ids, 12, NULL);
    EVAL(&cpu, ids, 1, NULL);
    gqmm_session_observe(k.s, look, &w);
    NEED(gqmm_session_truncate(k.s, 0, NULL) == GQMM_OK, "truncate");
    EVAL(&k, ids, 12, NULL);
    EVAL(&k, ids, 1, NULL);
    NEED(fabs(w.last - on_cpu.last) < 1e-3, "the residual stream adds up to %g, not %g", w.last,
         on_cpu.last);
    NEED(k.info.device_bytes > 0 && gqmm_session_device_bytes(k.s) > 0 &&
             gqmm_session_bytes(k.s) > gqmm_session_device_bytes(k.s) &&
             cpu.info.device_bytes == 0 && gqmm_session_device_bytes(cpu.s) == 0,
         "the sizes are wrong");
    shut(&k);
    shut(&cpu);
    return NULL;
}

/* ------------------------------------------------------------------ errors */

static const char *test_errors(void)
{
    stack k;
    gqmm_error err = {0};
    const char *bad = write_model(&(recipe){.format = "q8_0",
                                            .n_embd = 64,
                                            .head_dim = 1024,
                                            .key = "context_length",
                                            .value = 1 << 24});
    if (bad)
        return bad;
    if (no_device[0]) {
        NEED(build(&k, &(setup){.device = "cuda"}, &err) != GQMM_OK && strlen(err.text) > 10,
             "a model was opened without a device");
        snprintf(note, sizeof note, " (without a device: %.80s)", err.text);
        return NULL;
    }
    NEED(build(&k, &(setup){.device = "cuda", .repack = 1}, &err) == GQMM_E_UNSUPPORTED &&
             strstr(err.text, "CPU"),
         "repacking on a device: %s", err.text);
    NEED(build(&k, &(setup){.device = "cuda:63"}, &err) != GQMM_OK && strstr(err.text, "63"),
         "device 63: %s", err.text);
    /* 2 layers of 2^24 positions of 2 heads of 1024: 512 GiB of keys alone. */
    NEED(build(&k, &(setup){.device = "cuda"}, &err) == GQMM_E_NOMEM &&
             strstr(err.text, "16777216"),
         "a cache of 512 GiB: %s", err.text);
    int32_t ids[3] = {1, N_VOCAB, 2};
    BUILD(&k, .device = "cuda", .max_tokens = 20);
    EVAL(&k, ids, 1, NULL);
    NEED(gqmm_session_eval(k.s, ids, 3, NULL, &err) == GQMM_E_INDEX &&
             gqmm_session_length(k.s) == 1,
         "a token outside the vocabulary");
    EVAL(&k, ids, 1, NULL);
    EVAL(&k, ids, 1, NULL);
    NEED(gqmm_session_length(k.s) == 3, "the length is wrong after an error");
    shut(&k);
    return NULL;
}

int main(int argc, char **argv)
{
    static const named_test tests[] = {
        {"errors", test_errors},
        {"attention_like_the_cpu", test_attention},
        {"formats_like_the_cpu", test_formats},
        {"recorded_same_bits", test_recording},
        {"demo_like_the_cpu", test_demo},
    };
    gqmm_context *ctx = NULL;
    gqmm_context_desc d;
    gqmm_error err = {0};
    GQMM_INIT(d);
    d.device = "cuda";
    if (gqmm_context_create(&d, &ctx, &err) != GQMM_OK)
        snprintf(no_device, sizeof no_device, "%s", err.text);
    gqmm_context_destroy(ctx);
    return run_tests("check_model_cuda", tests, sizeof tests / sizeof tests[0], argc, argv);
}
