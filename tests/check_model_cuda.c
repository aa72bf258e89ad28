/* SPDX-License-Identifier: MIT */
/* Models on a CUDA device against the CPU: check_model_cuda [--quick] [DATA_DIR]
 *
 * Without a device it says what must fail there, and the rest is skipped. */
#include "model/remote.h"

#include "model_maker.h"

#include <jansson.h>
#include <math.h>

static char no_device[240]; /* why there is none; empty: there is one */

#define DEVICE() \
    do { \
        if (no_device[0]) { \
            snprintf(why, sizeof why, "skip: %s", no_device); \
            return why; \
        } \
    } while (0)

/* ------------------------------------------------------------------ attention */

typedef struct shape {
    int32_t n_heads, n_kv, dim, n_rot;
    int64_t before, n; /* positions in the cache, tokens after them */
} shape;

/* Every kernel: widths of a head, heads that share keys, one split and many, one tile and many. */
static const shape shapes[] = {
    {4, 4, 32, 32, 0, 1},     {8, 2, 64, 64, 63, 1},     {8, 2, 64, 64, 64, 1},
    {8, 2, 64, 32, 700, 1},   {6, 2, 128, 128, 5000, 1}, {16, 1, 128, 64, 900, 3},
    {32, 4, 128, 128, 77, 8}, {5, 1, 80, 80, 130, 9},    {8, 2, 64, 64, 0, 100},
    {8, 2, 64, 64, 301, 130}, {6, 2, 128, 128, 40, 65},  {7, 7, 10, 6, 3, 33},
    {4, 2, 256, 256, 90, 70}, {4, 2, 256, 256, 1000, 2}, {3, 1, 512, 64, 200, 1},
    {4, 2, 1024, 2, 70, 19},  {70, 1, 16, 16, 20, 12},   {24, 2, 192, 128, 33, 1},
};

typedef struct heads {
    float *q, *k, *v, *y;
    float *weight; /* [2 dim] of queries, of keys */
} heads;

static void *floats(int64_t n)
{
    return malloc((size_t)(n ? n : 1) * sizeof(float));
}

static void randomise(float *x, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = ((float)random_bits(&seed) / 2147483648.0f - 0.5f) * 4.0f;
}

static void make_heads(heads *h, const shape *s)
{
    const int64_t n = s->before + s->n, row = (int64_t)s->n_heads * s->dim;
    const int64_t kv = (int64_t)s->n_kv * s->dim;
    h->q = floats(n * row);
    h->y = floats(n * row);
    h->k = floats(n * kv);
    h->v = floats(n * kv);
    h->weight = floats(2 * s->dim);
    randomise(h->q, n * row, 1);
    randomise(h->k, n * kv, 2);
    randomise(h->v, n * kv, 3);
    randomise(h->weight, 2 * s->dim, 4);
}

static void free_heads(heads *h)
{
    free(h->q);
    free(h->k);
    free(h->v);
    free(h->y);
    free(h->weight);
}

static gqmm_head_norm_rope norm_of(const shape *s, float *x, const float *weight,
                                   const float *table, int32_t n_heads, int64_t n)
{
    return (gqmm_head_norm_rope){.x = x,
                                 .weight = weight,
                                 .table = table,
                                 .eps = 1e-6f,
                                 .n_heads = n_heads,
                                 .head_dim = s->dim,
                                 .n_rot = s->n_rot,
                                 .n_rows = n};
}

/* h->y of the last s->n tokens on the CPU; q and k are normed and rotated on the way. */
static void attend_cpu(gqmm_context *ctx, const shape *s, const heads *h, const double *inv_freq)
{
    const int64_t n = s->before + s->n, row = (int64_t)s->n_heads * s->dim;
    gqmm_kv kv = {.capacity = gqmm_kv_round(n), .n_kv_heads = s->n_kv, .head_dim = s->dim};
    float *table = floats(n * s->n_rot),
          *sums = floats(gqmm_ops_cpu.attend_scratch(n, s->n_heads, s->dim));
    kv.k = floats(kv.capacity * s->n_kv * s->dim);
    kv.v = floats(kv.capacity * s->n_kv * s->dim);
    gqmm_rope_table(table, inv_freq, 0, n, s->n_rot);
    gqmm_head_norm_rope q = norm_of(s, h->q, h->weight, table, s->n_heads, n);
    gqmm_head_norm_rope k = norm_of(s, h->k, h->weight + s->dim, table, s->n_kv, n);
    gqmm_ops_cpu.norm_rope(ctx, &q);
    gqmm_ops_cpu.norm_rope(ctx, &k);
    gqmm_ops_cpu.store(ctx, &kv, h->k, h->v, 0, n);
    gqmm_ops_cpu.attend(ctx, &(gqmm_attention){.y = h->y,
                                               .q = h->q + s->before * row,
                                               .kv = kv,
                                               .scratch = sums,
                                               .first = s->before,
                                               .n_tokens = s->n,
                                               .n_heads = s->n_heads,
                                               .scale = 0.1f});
    free(table);
    free(sums);
    free(kv.k);
    free(kv.v);
}

enum { MOST_BLOCKS = 16 };
typedef struct remote_memory {
    gqmm_context *ctx;
    void *block[MOST_BLOCKS];
    int32_t n;
    int32_t failed;
} remote_memory;

/* A copy of n items of `size` bytes; `from` NULL: every byte is `fill`. */
static void *there(remote_memory *m, const void *from, int64_t n, size_t size, int fill)
{
    const size_t bytes = (size_t)n * size;
    void *p = NULL, *host = NULL;
    if (!from) {
        host = malloc(bytes);
        memset(host, fill, bytes);
    }
    if (m->n == MOST_BLOCKS || gqmm_device_alloc(m->ctx, bytes, &p, NULL) != GQMM_OK ||
        gqmm_device_copy(m->ctx, p, from ? from : host, bytes, NULL) != GQMM_OK ||
        gqmm_synchronize(m->ctx, NULL) != GQMM_OK)
        m->failed = 1;
    else
        m->block[m->n++] = p;
    free(host);
    return p;
}

/* The same on the device: s->before tokens first, in one batch, then s->n, twice: counters must be
 * as they were found. What lies behind the sequence is NaN. */
static const char *attend_remote(gqmm_context *ctx, const shape *s, const heads *h,
                                 const double *inv_freq, float *y)
{
    const gqmm_ops *ops = gqmm_ops_for(ctx);
    const int64_t n = s->before + s->n, row = (int64_t)s->n_heads * s->dim;
    const int64_t kv_row = (int64_t)s->n_kv * s->dim;
    gqmm_error err = {0};
    remote_memory m = {.ctx = ctx};
    gqmm_kv kv = {.capacity = gqmm_kv_round(n), .n_kv_heads = s->n_kv, .head_dim = s->dim};
    int64_t zero = 0;
    int64_t *length = there(&m, &zero, 1, sizeof zero, 0);
    double *freq = there(&m, inv_freq, s->n_rot / 2, sizeof *freq, 0);
    float *table = there(&m, NULL, n * s->n_rot, 4, 0xff),
          *weight = there(&m, h->weight, 2 * s->dim, 4, 0);
    float *q = there(&m, h->q, n * row, 4, 0), *k = there(&m, h->k, n * kv_row, 4, 0);
    float *v = there(&m, h->v, n * kv_row, 4, 0), *out = there(&m, NULL, s->n * row, 4, 0xff);
    float *sums = there(&m, NULL, ops->attend_scratch(n, s->n_heads, s->dim), 4, 0);
    kv.length = length;
    kv.k = there(&m, NULL, kv.capacity * kv_row, 4, 0xff);
    kv.v = there(&m, NULL, kv.capacity * kv_row, 4, 0xff);
    gqmm_status status = m.failed ? GQMM_E_NOMEM : GQMM_OK;
    for (int64_t at = 0; at < n && !status; at = at < s->before ? s->before : n) {
        const int64_t some = at < s->before ? s->before : s->n;
        status = gqmm_device_copy(ctx, length, &at, sizeof at, &err);
        ops->remote->rope(ctx, table, freq, length, some, s->n_rot);
        gqmm_head_norm_rope hq = norm_of(s, q + at * row, weight, table, s->n_heads, some);
        gqmm_head_norm_rope hk = norm_of(s, k + at * kv_row, weight + s->dim, table, s->n_kv, some);
        ops->remote->heads(ctx, &hq, &hk, &kv, v + at * kv_row);
        status = status ? status : ops->finish(ctx, &err);
    }
    for (int32_t i = 0; i < 2 && !status; i++)
        ops->attend(ctx, &(gqmm_attention){.y = out,
                                           .q = q + s->before * row,
                                           .kv = kv,
                                           .scratch = sums,
                                           .n_tokens = s->n,
                                           .n_heads = s->n_heads,
                                           .scale = 0.1f});
    if (!status)
        status = gqmm_device_copy(ctx, y, out, (size_t)(s->n * row) * 4, &err);
    if (!status)
        status = ops->finish(ctx, &err);
    for (int32_t i = 0; i < m.n; i++)
        gqmm_device_free(ctx, m.block[i], 0);
    NEED(!status, "on the device: %s", err.text[0] ? err.text : "no memory");
    return NULL;
}

static const char *check_shape(gqmm_context *cpu, gqmm_context *cuda, const shape *s, double *worst)
{
    const int64_t count = s->n * s->n_heads * s->dim;
    double inv_freq[512];
    float *y = floats(count);
    heads h;
    make_heads(&h, s);
    gqmm_rope_frequencies(inv_freq, s->n_rot, 1e4);
    const char *bad = attend_remote(cuda, s, &h, inv_freq, y);
    attend_cpu(cpu, s, &h, inv_freq);
    for (int64_t i = 0; i < count && !bad; i++) {
        const double d = fabs((double)y[i] - h.y[i]);
        *worst = d > *worst ? d : *worst;
        if (!(d < 1e-4)) { /* values are up to 2, scores up to some tens */
            snprintf(why, sizeof why,
                     "%d heads of %d over %d, %lld + %lld tokens: output %lld is %g, not %g",
                     s->n_heads, s->dim, s->n_kv, (long long)s->before, (long long)s->n,
                     (long long)i, (double)y[i], (double)h.y[i]);
            bad = why;
        }
    }
    free_heads(&h);
    free(y);
    return bad;
}

static const char *test_attention(void)
{
    DEVICE();
    const char *bad = NULL;
    double worst = 0;
    gqmm_context *cpu = NULL, *cuda = NULL;
    gqmm_context_desc d;
    GQMM_INIT(d);
    d.device = "cuda";
    NEED(gqmm_context_create(NULL, &cpu, NULL) == GQMM_OK &&
             gqmm_context_create(&d, &cuda, NULL) == GQMM_OK,
         "no contexts");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && !bad; i++)
        bad = check_shape(cpu, cuda, &shapes[i], &worst);
    gqmm_context_destroy(cpu);
    gqmm_context_destroy(cuda);
    snprintf(note, sizeof note, " (worst off by %.2g)", worst);
    return bad;
}

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
