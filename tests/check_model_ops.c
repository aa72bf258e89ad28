/* SPDX-License-Identifier: MIT */
/* The small operations of a model: check_model_ops [--quick]
 *
 * Every width of vectors is held to double arithmetic, those with fused multiply-adds to each
 * other's bits, and attention to the same bits however a sequence is cut. */
#include "model/ops.h"
#include "model/simd.h"

#include "model_maker.h"

static const gqmm_simd *variants[4];
static int n_variants;

static void find_variants(void)
{
    variants[n_variants++] = &gqmm_simd_base;
#if defined(__x86_64__)
    if (gqmm_isa_available("avx2"))
        variants[n_variants++] = &gqmm_simd_avx2;
    if (gqmm_isa_available("avx512vnni"))
        variants[n_variants++] = &gqmm_simd_avx512;
#endif
}

/* Numbers of about unit size. */
static void randomise(float *x, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = ((float)random_bits(&seed) / 2147483648.0f - 0.5f) * 4.0f;
}

static double off(double got, double want, double size)
{
    return fabs(got - want) / (size > 1e-30 ? size : 1e-30);
}

/* ------------------------------------------------------------------ rows */

enum { LONGEST = 150 };

typedef struct rows {
    float norm[LONGEST], add[LONGEST], rotate[LONGEST], scale[LONGEST], blend[LONGEST], exp[64];
} rows;

static void run_rows(const gqmm_simd *f, rows *r, const float *x, const float *y, int32_t n)
{
    memset(r, 0, sizeof *r);
    memcpy(r->add, x, (size_t)n * 4);
    memcpy(r->rotate, x, (size_t)n * 4);
    memcpy(r->scale, x, (size_t)n * 4);
    memcpy(r->blend, x, (size_t)n * 4);
    f->norm(r->norm, x, y, 1e-6f, n);
    f->add(r->add, y, n);
    f->rotate(r->rotate, y, n / 2 * 2);
    f->scale(r->scale, 0.37f, n);
    f->blend(r->blend, 0.37f, y, 1.61f, n);
    for (int32_t i = 0; i < 64; i++)
        r->exp[i] = f->exp(-0.03f * (float)(i * i));
}

static const char *compare_rows(const rows *r, const float *x, const float *y, int32_t n,
                                const char *isa)
{
    double squares = 0;
    for (int32_t i = 0; i < n; i++)
        squares += (double)x[i] * x[i];
    const double norm = 1 / sqrt(squares / n + 1e-6);
    for (int32_t i = 0; i < n; i++) {
        const int32_t half = n / 2, k = i < half ? i : i - half;
        const double c = y[k], s = y[half + k];
        const double turned = i >= 2 * half ? (double)x[i]
                              : i < half    ? x[k] * c - x[half + k] * s
                                            : x[half + k] * c + x[k] * s;
        const double wants[] = {x[i] * norm * y[i], (double)x[i] + y[i], turned, x[i] * 0.37f,
                                (double)x[i] * 0.37f + (double)y[i] * 1.61f};
        const float gots[] = {r->norm[i], r->add[i], r->rotate[i], r->scale[i], r->blend[i]};
        static const char *const names[] = {"norm", "add", "rotate", "scale", "blend"};
        for (int32_t j = 0; j < 5; j++)
            NEED(off(gots[j], wants[j], 4) < 5e-7, "%s, %s of %d: number %d is %g, not %g", isa,
                 names[j], n, i, gots[j], wants[j]);
    }
    for (int32_t i = 0; i < 64; i++) {
        const double at = (double)(-0.03f * (float)(i * i)), want = exp(at < -87 ? -87 : at);
        NEED(off(r->exp[i], want, want) < 3e-7, "%s: exp(%g) is %g, not %g", isa, at, r->exp[i],
             want);
    }
    return NULL;
}

static const char *test_rows(void)
{
    static float x[LONGEST], y[LONGEST];
    static rows got[4];
    for (int32_t n = 1; n <= LONGEST; n++) {
        randomise(x, n, (uint64_t)n);
        randomise(y, n, (uint64_t)n + 1000);
        for (int i = 0; i < n_variants; i++) {
            run_rows(variants[i], &got[i], x, y, n);
            const char *bad = compare_rows(&got[i], x, y, n, variants[i]->isa);
            if (bad)
                return bad;
            NEED(i < 2 || memcmp(&got[i], &got[1], sizeof got[i]) == 0,
                 "rows of %d: the bits of %s and %s differ", n, variants[i]->isa, variants[1]->isa);
        }
    }
    return NULL;
}

/* ------------------------------------------------------------------ attention */

typedef struct shape {
    int32_t n_heads, n_kv_heads, head_dim, n; /* n: positions */
} shape;

/* More than one span of 1024; heads that share keys by 8, 1, 3 and 70; no multiple of a vector. */
static const shape shapes[] = {{8, 1, 32, 1300}, {3, 3, 10, 200},  {6, 2, 128, 130},
                               {70, 1, 16, 70},  {4, 2, 1024, 66}, {2, 1, 18, 2100}};

typedef struct data {
    float *q, *k, *v, *y;
} data;

static int64_t row_of(const shape *s)
{
    return (int64_t)s->n_heads * s->head_dim;
}

static int64_t kv_row_of(const shape *s)
{
    return (int64_t)s->n_kv_heads * s->head_dim;
}

static void make_data(data *d, const shape *s)
{
    d->q = malloc((size_t)(s->n * row_of(s)) * 4);
    d->y = malloc((size_t)(s->n * row_of(s)) * 4);
    d->k = malloc((size_t)(s->n * kv_row_of(s)) * 4);
    d->v = malloc((size_t)(s->n * kv_row_of(s)) * 4);
    randomise(d->q, s->n * row_of(s), 1);
    randomise(d->k, s->n * kv_row_of(s), 2);
    randomise(d->v, s->n * kv_row_of(s), 3);
}

static void free_data(data *d)
{
    free(d->q);
    free(d->k);
    free(d->v);
    free(d->y);
}

/* y of all positions, computed `batch` at a time after `prompt` at once. What lies in the cache
 * behind the sequence is NaN: nothing may read it into a result. */
static void attend(gqmm_context *ctx, const shape *s, const data *d, float *y, int64_t prompt,
                   int64_t batch)
{
    gqmm_kv kv = {
        .capacity = gqmm_kv_round(s->n), .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim};
    const int64_t floats = kv.capacity * kv_row_of(s);
    kv.k = malloc((size_t)floats * 4);
    kv.v = malloc((size_t)floats * 4);
    memset(kv.k, 0xff, (size_t)floats * 4);
    memset(kv.v, 0xff, (size_t)floats * 4);
    float *sums = malloc((size_t)gqmm_ops_cpu.attend_scratch(s->n, s->n_heads, s->head_dim) * 4);
    for (int64_t at = 0, n; at < s->n; at += n) {
        n = at == 0 ? prompt : batch;
        n = n < s->n - at ? n : s->n - at;
        gqmm_ops_cpu.store(ctx, &kv, d->k + at * kv_row_of(s), d->v + at * kv_row_of(s), at, n);
        gqmm_ops_cpu.attend(ctx, &(gqmm_attention){.y = y + at * row_of(s),
                                                   .q = d->q + at * row_of(s),
                                                   .kv = kv,
                                                   .scratch = sums,
                                                   .first = at,
                                                   .n_tokens = n,
                                                   .n_heads = s->n_heads,
                                                   .scale = 0.3f});
    }
    free(kv.k);
    free(kv.v);
    free(sums);
}

/* One head of one token in double. */
static void reference(const shape *s, const data *d, int64_t t, int32_t head, double *y)
{
    const int64_t group = (int64_t)(head / (s->n_heads / s->n_kv_heads)) * s->head_dim;
    const float *q = d->q + t * row_of(s) + (int64_t)head * s->head_dim;
    double sum = 0, max = -INFINITY;
    double *score = malloc((size_t)(t + 1) * sizeof *score);
    for (int64_t p = 0; p <= t; p++) {
        score[p] = 0;
        for (int32_t i = 0; i < s->head_dim; i++)
            score[p] += (double)q[i] * d->k[p * kv_row_of(s) + group + i];
        score[p] *= 0.3f;
        max = score[p] > max ? score[p] : max;
    }
    for (int32_t i = 0; i < s->head_dim; i++)
        y[i] = 0;
    for (int64_t p = 0; p <= t; p++) {
        const double w = exp(score[p] - max);
        sum += w;
        for (int32_t i = 0; i < s->head_dim; i++)
            y[i] += w * d->v[p * kv_row_of(s) + group + i];
    }
    for (int32_t i = 0; i < s->head_dim; i++)
        y[i] /= sum;
    free(score);
}

static gqmm_context *context(const char *isa, int32_t threads)
{
    gqmm_context_desc c;
    gqmm_context *ctx = NULL;
    GQMM_INIT(c);
    c.isa = isa;
    c.n_threads = threads;
    return gqmm_context_create(&c, &ctx, NULL) == GQMM_OK ? ctx : NULL;
}

/* Every seventh token and the last; scores reach some hundreds, so e^score turns their rounding
 * into a few 1e-5. */
static const char *against_double(const shape *s, const data *d, const float *y, const char *isa,
                                  double *worst)
{
    double want[1024];
    for (int64_t t = 0; t < s->n; t += t + 7 < s->n || t == s->n - 1 ? 7 : s->n - 1 - t)
        for (int32_t h = 0; h < s->n_heads; h++) {
            reference(s, d, t, h, want);
            for (int32_t i = 0; i < s->head_dim; i++) {
                const double delta =
                    fabs(y[t * row_of(s) + (int64_t)h * s->head_dim + i] - want[i]);
                NEED(delta < 2e-4, "%s, token %lld, head %d: number %d is off by %g", isa,
                     (long long)t, h, i, delta);
                *worst = delta > *worst ? delta : *worst;
            }
        }
    return NULL;
}

static const char *check_shape(const shape *s, double *worst)
{
    const char *bad = NULL;
    const int64_t n_bytes = s->n * row_of(s) * 4;
    data d;
    make_data(&d, s);
    float *fused = NULL, *again = malloc((size_t)n_bytes);
    for (int i = 0; i < n_variants && !bad; i++) {
        gqmm_context *one = context(variants[i]->isa, 1), *three = context(variants[i]->isa, 3);
        NEED(one && three, "context");
        attend(one, s, &d, d.y, s->n, 1);
        bad = against_double(s, &d, d.y, variants[i]->isa, worst);
        /* All but a few at once, then one by one: prompt and decoding meet on both sides. */
        const int64_t cuts[][2] = {{1, s->n / 3}, {s->n - 40, 1}, {s->n / 2 + 1, 5}};
        for (int32_t k = 0; k < 3 && !bad; k++) {
            attend(k == 1 ? one : three, s, &d, again, cuts[k][0], cuts[k][1]);
            NEED(memcmp(again, d.y, (size_t)n_bytes) == 0,
                 "%s, %d heads: batches of %lld and %lld have other bits", variants[i]->isa,
                 s->n_heads, (long long)cuts[k][0], (long long)cuts[k][1]);
        }
        if (i == 1) {
            fused = malloc((size_t)n_bytes);
            memcpy(fused, d.y, (size_t)n_bytes);
        }
        NEED(i < 2 || memcmp(fused, d.y, (size_t)n_bytes) == 0, "%d heads: %s has other bits",
             s->n_heads, variants[i]->isa);
        gqmm_context_destroy(one);
        gqmm_context_destroy(three);
    }
    free(fused);
    free(again);
    free_data(&d);
    return bad;
}

static const char *test_attention(void)
{
    double worst = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        shape s = shapes[i];
        if (quick && s.n > 200 && i > 0)
            continue;
        const char *bad = check_shape(&s, &worst);
        if (bad)
            return bad;
    }
    snprintf(note, sizeof note, " (%d widths, worst off by %.2g)", n_variants, worst);
    return NULL;
}

/* A NaN and an infinity stay with the tokens that see them. */
static const char *test_not_numbers(void)
{
    const shape s = {4, 2, 16, 90};
    for (int i = 0; i < n_variants; i++)
        for (int32_t bad_k = 0; bad_k < 2; bad_k++) {
            gqmm_context *ctx = context(variants[i]->isa, 2);
            data d;
            NEED(ctx, "context");
            make_data(&d, &s);
            float *poisoned = malloc((size_t)(s.n * row_of(&s)) * 4);
            attend(ctx, &s, &d, d.y, s.n, 1);
            float *at = (bad_k ? d.k : d.v) + 70 * kv_row_of(&s);
            at[3] = bad_k ? NAN : INFINITY;
            attend(ctx, &s, &d, poisoned, s.n, 1);
            for (int64_t t = 0; t < s.n; t++) {
                const float *y = poisoned + t * row_of(&s);
                const int same = memcmp(y, d.y + t * row_of(&s), (size_t)row_of(&s) * 4) == 0;
                NEED(t < 70 ? same : !isfinite(y[3]), "%s: token %lld %s", variants[i]->isa,
                     (long long)t, t < 70 ? "changed" : "should not be a number");
            }
            free(poisoned);
            free_data(&d);
            gqmm_context_destroy(ctx);
        }
    return NULL;
}

int main(int argc, char **argv)
{
    static const named_test tests[] = {
        {"rows_against_double", test_rows},
        {"attention_against_double", test_attention},
        {"not_numbers_stay_where_they_are", test_not_numbers},
    };
    find_variants();
    return run_tests("check_model_ops", tests, sizeof tests / sizeof tests[0], argc, argv);
}
