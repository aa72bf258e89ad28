/* SPDX-License-Identifier: MIT */
/* The sampler by the exact distribution of its draws, streaming UTF-8 and ChatML.
 * check_sampler [data directory, not used] */
#include "gqmm-model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char why[300];

#define NEED(condition, ...) \
    do { \
        if (!(condition)) { \
            snprintf(why, sizeof why, __VA_ARGS__); \
            return why; \
        } \
    } while (0)

static gqmm_sampler *sampler(float temperature, int32_t top_k, float top_p, float min_p)
{
    gqmm_sampler_desc d;
    gqmm_sampler *s = NULL;
    GQMM_INIT(d);
    d.temperature = temperature;
    d.top_k = top_k;
    d.top_p = top_p;
    d.min_p = min_p;
    d.seed = 42;
    if (gqmm_sampler_create(&d, NULL, &s, NULL) != GQMM_OK)
        abort();
    return s;
}

static int32_t once(gqmm_sampler *s, const float *logits, int32_t n, const uint8_t *allowed)
{
    const int32_t id = gqmm_sampler_next(s, logits, n, allowed);
    gqmm_sampler_destroy(s);
    return id;
}

static const char *test_greedy(void)
{
    const float ties[5] = {1, 3, 3, 2, 3}, nans[4] = {NAN, -INFINITY, 1, NAN};
    const float low[3] = {-INFINITY, -INFINITY, -INFINITY}, none[2] = {NAN, NAN};
    const float high[3] = {1, INFINITY, INFINITY};
    const uint8_t not_1[5] = {1, 0, 1, 1, 1}, nothing[5] = {0};
    for (int32_t t = 0; t < 2; t++) { /* with top_k = 1 a warm sampler is greedy too */
        const float T = t ? 0.7f : 0;
        NEED(once(sampler(T, 1, 0, 0), ties, 5, NULL) == 1, "ties go to the lower id");
        NEED(once(sampler(T, 1, 0, 0), ties, 5, not_1) == 2, "the allowed of the ties");
        NEED(once(sampler(T, 1, 0, 0), nans, 4, NULL) == 2, "NaN is never chosen");
        NEED(once(sampler(T, 1, 0, 0), low, 3, NULL) == 0, "all minus infinity");
        NEED(once(sampler(T, 1, 0, 0), high, 3, NULL) == 1, "infinity");
        NEED(once(sampler(T, 1, 0, 0), none, 2, NULL) == -1, "only NaN");
        NEED(once(sampler(T, 1, 0, 0), ties, 5, nothing) == -1, "all forbidden");
        NEED(once(sampler(T, 1, 0, 0), ties, 0, NULL) == -1, "no logits");
        NEED(once(sampler(T, 1, 0, 0), NULL, 3, NULL) == -1, "NULL logits");
    }
    return NULL;
}

/* ------------------------------------------------------------------ distributions */

enum { N = 12, DRAWS = 40000 };

/* Probabilities by the definition, in a way of its own: sort everything, cut, renormalise. */
static void exact(double p[N], const float *logits, const uint8_t *allowed, float temperature,
                  int32_t top_k, float top_p, float min_p)
{
    int32_t order[N], n = 0;
    double sum = 0, mass = 0;
    for (int32_t i = 0; i < N; i++) {
        p[i] = 0;
        if (!isnan(logits[i]) && (!allowed || allowed[i]))
            order[n++] = i;
    }
    for (int32_t i = 1; i < n; i++) /* stable: ties keep the order of ids */
        for (int32_t j = i; j > 0 && logits[order[j]] > logits[order[j - 1]]; j--) {
            const int32_t swap = order[j];
            order[j] = order[j - 1];
            order[j - 1] = swap;
        }
    if (top_k > 0 && top_k < n)
        n = top_k;
    for (int32_t i = 0; i < n; i++)
        sum += exp(((double)logits[order[i]] - (double)logits[order[0]]) / (double)temperature);
    for (int32_t i = 0; i < n; i++) {
        const double w =
            exp(((double)logits[order[i]] - (double)logits[order[0]]) / (double)temperature);
        if (i > 0 && top_p > 0 && top_p < 1 && mass >= (double)top_p * sum)
            break;
        mass += w;
        p[order[i]] = w >= (double)min_p ? w : 0;
    }
    mass = 0;
    for (int32_t i = 0; i < N; i++)
        mass += p[i];
    for (int32_t i = 0; i < N; i++)
        p[i] /= mass;
}

static const char *distribution(const float *logits, const uint8_t *allowed, float temperature,
                                int32_t top_k, float top_p, float min_p)
{
    double p[N], chi = 0;
    int32_t seen[N] = {0}, freedom = -1;
    exact(p, logits, allowed, temperature, top_k, top_p, min_p);
    gqmm_sampler *s = sampler(temperature, top_k, top_p, min_p);
    for (int32_t i = 0; i < DRAWS; i++) {
        const int32_t id = gqmm_sampler_next(s, logits, N, allowed);
        if (id >= 0 && id < N)
            seen[id]++;
    }
    gqmm_sampler_destroy(s);
    for (int32_t i = 0; i < N; i++) {
        const double want = p[i] * DRAWS;
        if (want < 1e-9) {
            NEED(seen[i] == 0, "T %g k %d p %g m %g: id %d came %d times", (double)temperature,
                 top_k, (double)top_p, (double)min_p, i, seen[i]);
            continue;
        }
        freedom++;
        chi += (seen[i] - want) * (seen[i] - want) / want;
    }
    /* mean f, variance 2 f: five deviations beyond is chance once in many thousands, and the seed
     * is fixed */
    NEED(chi <= freedom + 5 * sqrt(2.0 * freedom + 1), "T %g k %d p %g m %g: chi2 %g of %d",
         (double)temperature, top_k, (double)top_p, (double)min_p, chi, freedom);
    return NULL;
}

static const char *test_distributions(void)
{
    const float logits[N] = {1, 2.5f, -1, 2.5f, 0, NAN, 3, 1.75f, -INFINITY, 2, 0.5f, 2.5f};
    const uint8_t allowed[N] = {1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1};
    const float temperatures[3] = {0.4f, 1, 2.5f}, top_ps[4] = {0, 0.3f, 0.9f, 1};
    const float min_ps[3] = {0, 0.1f, 0.6f};
    const int32_t top_ks[4] = {0, 1, 4, 100};
    const char *wrong = NULL;
    for (int32_t i = 0; !wrong && i < 3 * 4 * 3 * 4; i++)
        wrong = distribution(logits, i % 2 ? allowed : NULL, temperatures[i % 3], top_ks[i / 3 % 4],
                             top_ps[i / 12 % 4], min_ps[i / 48]);
    return wrong;
}

static const char *test_boundaries(void)
{
    const float ties[4] = {1, 1, 1, 1}; /* top_k and top_p cut ties by id */
    const uint8_t *all = NULL;
    for (int32_t seed = 0; seed < 100; seed++) {
        gqmm_sampler *k = sampler(1, 2, 0, 0), *p = sampler(1, 0, 0.5f, 0);
        for (int32_t i = 0; i < seed; i++)
            gqmm_sampler_next(k, ties, 4, all), gqmm_sampler_next(p, ties, 4, all);
        NEED(once(k, ties, 4, all) < 2, "top_k = 2 of four ties takes the first two");
        NEED(once(p, ties, 4, all) < 2, "top_p = 0.5 of four ties takes the first two");
    }
    const float two[3] = {-INFINITY, 0, INFINITY};
    NEED(once(sampler(1e-38f, 0, 0.9f, 0.1f), two, 3, all) == 2, "infinity wins when cold");
    NEED(once(sampler(1e30f, 0, 0, 1), two, 2, all) == 1, "min_p = 1 leaves the best");
    return NULL;
}

static const char *test_seeds(void)
{
    float logits[500];
    int32_t same = 0;
    for (int32_t i = 0; i < 500; i++)
        logits[i] = (float)(i % 37) * 0.1f;
    gqmm_sampler_desc d;
    GQMM_INIT(d);
    d.temperature = 1;
    gqmm_sampler *s[3] = {NULL, NULL, NULL};
    for (int32_t i = 0; i < 3; i++) {
        d.seed = i == 2;
        NEED(gqmm_sampler_create(&d, NULL, &s[i], NULL) == GQMM_OK, "create");
    }
    for (int32_t i = 0; i < 200; i++) {
        const int32_t a = gqmm_sampler_next(s[0], logits, 500, NULL);
        NEED(a == gqmm_sampler_next(s[1], logits, 500, NULL), "same seed, draw %d differs", i);
        same += a == gqmm_sampler_next(s[2], logits, 500, NULL);
    }
    for (int32_t i = 0; i < 3; i++)
        gqmm_sampler_destroy(s[i]);
    NEED(same < 20, "another seed, %d of 200 tokens are the same", same);
    return NULL;
}

static const char *test_penalty(void)
{
    const float logits[4] = {2, 1.9f, -1, -1.5f}, negative[2] = {-1, -1.5f};
    gqmm_sampler_desc d;
    gqmm_sampler *s = NULL;
    GQMM_INIT(d);
    d.repeat_penalty = 2;
    d.repeat_last = 2;
    NEED(gqmm_sampler_create(&d, NULL, &s, NULL) == GQMM_OK, "create");
    const int32_t steps[][2] = {{0, 1}, {0, 1}, {1, 0}, {7, 0}, {-5, 0}, {0, 1}};
    NEED(gqmm_sampler_next(s, logits, 4, NULL) == 0, "nothing is penalised at first");
    for (int32_t i = 0; i < 6; i++) { /* {accepted, chosen after it}; the window is two tokens */
        gqmm_sampler_accept(s, steps[i][0]);
        const int32_t got = gqmm_sampler_next(s, logits, 4, NULL);
        NEED(got == steps[i][1], "step %d chose %d", i, got);
    }
    gqmm_sampler_accept(s, 0);
    NEED(gqmm_sampler_next(s, negative, 2, NULL) == 1, "negative logits are multiplied");
    gqmm_sampler_destroy(s);
    return NULL;
}

static const char *test_descriptors(void)
{
    const struct {
        float temperature, top_p, min_p, penalty;
        int32_t top_k, last;
    } bad[] = {{NAN, 0, 0, 0, 0, 0},   {-1, 0, 0, 0, 0, 0},    {INFINITY, 0, 0, 0, 0, 0},
               {1, 1.01f, 0, 0, 0, 0}, {1, -0.1f, 0, 0, 0, 0}, {1, NAN, 0, 0, 0, 0},
               {1, 0, 1.5f, 0, 0, 0},  {1, 0, -1, 0, 0, 0},    {1, 0, NAN, 0, 0, 0},
               {1, 0, 0, -1, 0, 0},    {1, 0, 0, NAN, 0, 0},   {1, 0, 0, INFINITY, 0, 0},
               {1, 0, 0, 0, -1, 0},    {1, 0, 0, 0, 0, -1}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        gqmm_sampler_desc d;
        gqmm_error err = {0};
        gqmm_sampler *s = (gqmm_sampler *)&d;
        GQMM_INIT(d);
        d.temperature = bad[i].temperature;
        d.top_p = bad[i].top_p;
        d.min_p = bad[i].min_p;
        d.repeat_penalty = bad[i].penalty;
        d.top_k = bad[i].top_k;
        d.repeat_last = bad[i].last;
        NEED(gqmm_sampler_create(&d, NULL, &s, &err) == GQMM_E_ARG && !s && err.text[0],
             "case %zu is accepted", i);
    }
    gqmm_sampler *s = NULL;
    NEED(gqmm_sampler_create(NULL, NULL, &s, NULL) == GQMM_E_ARG, "NULL description");
    gqmm_sampler_destroy(NULL);
    return NULL;
}

/* ------------------------------------------------------------------ memory */

static int32_t calls, fail_at;
static int64_t live;

static void *failing_alloc(void *user, size_t size, size_t align)
{
    void *p = NULL;
    (void)user;
    if (calls++ == fail_at || posix_memalign(&p, align, size) != 0)
        return NULL;
    live += (int64_t)size;
    return p;
}

static void failing_release(void *user, void *memory, size_t size)
{
    (void)user;
    live -= (int64_t)size;
    free(memory);
}

static const char *test_allocations(void)
{
    const gqmm_allocator a = {failing_alloc, failing_release, NULL};
    const float logits[3] = {1, 2, 3};
    gqmm_sampler_desc d;
    GQMM_INIT(d);
    d.temperature = 1;
    d.repeat_penalty = 1.5f;
    int32_t done = 0;
    for (fail_at = 0; !done; fail_at++) {
        gqmm_sampler *s = NULL;
        gqmm_error err = {0};
        calls = 0;
        const gqmm_status st = gqmm_sampler_create(&d, &a, &s, &err);
        NEED(st == (calls > fail_at ? GQMM_E_NOMEM : GQMM_OK), "create with call %d failing",
             fail_at);
        if (s) {
            const int32_t id = gqmm_sampler_next(s, logits, 3, NULL);
            NEED((id == -1) == (calls > fail_at), "next with call %d failing gives %d", fail_at,
                 id);
            NEED(gqmm_sampler_next(s, logits, 3, NULL) >= 0, "memory is back, the sampler is not");
            done = calls <= fail_at;
        }
        gqmm_sampler_destroy(s);
        NEED(live == 0, "call %d failing loses memory", fail_at);
    }
    return NULL;
}

/* ------------------------------------------------------------------ UTF-8 and ChatML */

#define U "\xef\xbf\xbd"
static const struct {
    const char *in, *out;
} streams[] = {
    {"plain", "plain"},
    {"\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80", "\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80"},
    {"\x80\xff", U U},
    {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", U U U U U U U U "A"},   /* Unicode, table 3-8 */
    {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", U U U U U U U U "A"},   /* table 3-9 */
    {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", U U U U U "A" U U "B"}, /* table 3-10 */
    {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", U U U U "A"},           /* table 3-11 */
    {"a\xf0\x9f\x98", "a" U},
    {"\xe4\xb8\xe4\xb8\xad", U "\xe4\xb8\xad"},
};

static const char *test_utf8(void)
{
    for (size_t i = 0; i < sizeof streams / sizeof streams[0]; i++)
        for (size_t step = 1; step <= 4; step++) {
            gqmm_utf8 state = {{0}, 0};
            char out[200] = {0};
            size_t n = 0;
            const size_t length = strlen(streams[i].in);
            for (size_t at = 0; at < length; at += step) {
                const size_t k = length - at < step ? length - at : step;
                const size_t got = gqmm_utf8_feed(&state, streams[i].in + at, k, 0, out + n);
                NEED(got <= 3 * (k + 3), "stream %zu writes %zu bytes for %zu", i, got, k);
                n += got;
            }
            n += gqmm_utf8_feed(&state, NULL, 0, 1, out + n);
            NEED(n == strlen(streams[i].out) && memcmp(out, streams[i].out, n) == 0,
                 "stream %zu in steps of %zu gives \"%s\"", i, step, out);
            NEED(state.n_held == 0, "stream %zu leaves bytes", i);
        }
    gqmm_utf8 state = {{0}, 0};
    char out[20];
    NEED(gqmm_utf8_feed(&state, "\0x", 2, 1, out) == 2 && out[0] == 0, "NUL passes");
    return NULL;
}

static const char *test_chat(void)
{
    const char *whole = "<|im_start|>user\nhello<|im_end|>\n";
    char out[64];
    for (size_t size = 0; size < sizeof out; size++) {
        memset(out, '#', sizeof out);
        NEED(gqmm_chat_format("user", "hello", out, size) == strlen(whole), "length");
        const size_t kept = size == 0 ? 0 : size - 1 < strlen(whole) ? size - 1 : strlen(whole);
        NEED(memcmp(out, whole, kept) == 0 && (size == 0 || out[kept] == 0), "text at %zu", size);
        NEED(out[size == 0 ? 0 : size] == '#', "size %zu is passed", size);
    }
    gqmm_chat_format("assistant", NULL, out, sizeof out);
    NEED(strcmp(out, "<|im_start|>assistant\n") == 0, "opening is %s", out);
    NEED(gqmm_chat_format("system", "", NULL, 0) == 30, "no room at all");
    return NULL;
}

int main(void)
{
    static const struct {
        const char *name;
        const char *(*test)(void);
    } tests[] = {{"greedy", test_greedy},
                 {"distributions", test_distributions},
                 {"boundaries", test_boundaries},
                 {"seeds", test_seeds},
                 {"penalty", test_penalty},
                 {"descriptors", test_descriptors},
                 {"allocations", test_allocations},
                 {"utf8", test_utf8},
                 {"chat", test_chat}};
    int32_t passed = 0, failed = 0;
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        const char *wrong = tests[i].test();
        if (wrong)
            printf("FAIL %s: %s\n", tests[i].name, wrong);
        else
            printf("ok %s\n", tests[i].name);
        passed += !wrong;
        failed += wrong != NULL;
    }
    printf("check_sampler: %d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
