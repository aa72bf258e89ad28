/* SPDX-License-Identifier: MIT */
/* The multiply-adds that the cores can do on registers alone: the roof over compute. */
#include "bench_machine.h"
#include "output.h"

#if defined(__x86_64__)
#    include <immintrin.h>
#endif
#include <stdatomic.h>
#include <string.h>

/* `steps` steps; the result depends on all of them. */
typedef uint32_t (*spin)(int64_t steps);

typedef struct peak {
    const char *name;
    spin run;
    int64_t per_step; /* multiply-adds */
} peak;

enum { GENERIC = 1024, TASKS_PER_THREAD = 4 };

static _Atomic uint32_t sink;

/* Plain C, for the compiler to make of it what it can. */
static uint32_t int8_generic(int64_t steps)
{
    int8_t a[GENERIC], b[GENERIC];
    uint32_t total = 0;

    memset(a, 3, sizeof a);
    memset(b, 5, sizeof b);
    for (int64_t s = 0; s < steps; s++) {
        int32_t sum = 0;

        __asm__ volatile("" : : "r"(a), "r"(b) : "memory"); /* both may have changed */
        for (int i = 0; i < GENERIC; i++)
            sum += a[i] * b[i];
        total += (uint32_t)sum;
    }
    return total;
}

static uint32_t fp32_generic(int64_t steps)
{
    float a[GENERIC], b[GENERIC], c[64] = {0};

    memset(a, 0, sizeof a);
    memset(b, 0, sizeof b);
    for (int64_t s = 0; s < steps; s++) {
        __asm__ volatile("" : : "r"(a), "r"(b) : "memory");
        for (int i = 0; i < GENERIC; i += 64)
            for (int k = 0; k < 64; k++)
                c[k] += a[i + k] * b[i + k];
    }
    uint32_t bits;
    for (int k = 1; k < 64; k++)
        c[0] += c[k];
    memcpy(&bits, c, sizeof bits);
    return bits;
}

#if defined(__x86_64__)

/* Twelve sums cover latency times throughput of every core so far (4 or 5 cycles, two a cycle). */
#    define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

__attribute__((target("avx512f,avx512bw,avx512vnni"))) static uint32_t int8_avx512(int64_t steps)
{
    const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
    __m512i total = _mm512_setzero_si512();
#    define X(i) __m512i s##i = _mm512_set1_epi32(i);
    TWELVE(X)
#    undef X
    for (int64_t n = 0; n < steps; n++) {
        /* In assembly, for gcc 12 copies each sum twice in the loop. */
#    define X(i) __asm__("vpdpbusd %2, %1, %0" : "+v"(s##i) : "v"(a), "v"(b));
        TWELVE(X)
#    undef X
    }
#    define X(i) total = _mm512_add_epi32(total, s##i);
    TWELVE(X)
#    undef X
    return (uint32_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(total));
}

__attribute__((target("avx512f"))) static uint32_t fp32_avx512(int64_t steps)
{
    const __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
    __m512 total = _mm512_setzero_ps();
#    define X(i) __m512 s##i = _mm512_set1_ps(i);
    TWELVE(X)
#    undef X
    for (int64_t n = 0; n < steps; n++) {
#    define X(i) s##i = _mm512_fmadd_ps(s##i, a, b);
        TWELVE(X)
#    undef X
    }
#    define X(i) total = _mm512_add_ps(total, s##i);
    TWELVE(X)
#    undef X
    return (uint32_t)_mm512_cvtss_f32(total);
}

__attribute__((target("avx2"))) static uint32_t int8_avx2(int64_t steps)
{
    __m256i a = _mm256_set1_epi8(3), total = _mm256_setzero_si256();
    const __m256i b = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);
#    define X(i) __m256i s##i = _mm256_set1_epi32(i);
    TWELVE(X)
#    undef X
    for (int64_t n = 0; n < steps; n++) {
        /* The products are the same each time; `a` seems to change, so they are made each time. */
#    define X(i) \
        __asm__("" : "+x"(a)); \
        s##i = _mm256_add_epi32(s##i, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
        TWELVE(X)
#    undef X
    }
#    define X(i) total = _mm256_add_epi32(total, s##i);
    TWELVE(X)
#    undef X
    return (uint32_t)_mm_cvtsi128_si32(_mm256_castsi256_si128(total));
}

__attribute__((target("avx2,fma"))) static uint32_t fp32_avx2(int64_t steps)
{
    const __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
    __m256 total = _mm256_setzero_ps();
#    define X(i) __m256 s##i = _mm256_set1_ps(i);
    TWELVE(X)
#    undef X
    for (int64_t n = 0; n < steps; n++) {
#    define X(i) s##i = _mm256_fmadd_ps(s##i, a, b);
        TWELVE(X)
#    undef X
    }
#    define X(i) total = _mm256_add_ps(total, s##i);
    TWELVE(X)
#    undef X
    return (uint32_t)_mm256_cvtss_f32(total);
}

static peak int8_peak(void)
{
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw"))
        return (peak){"avx512vnni", int8_avx512, 12 * 64};
    if (__builtin_cpu_supports("avx2"))
        return (peak){"avx2", int8_avx2, 12 * 32};
    return (peak){"generic", int8_generic, GENERIC};
}

static peak fp32_peak(void)
{
    if (__builtin_cpu_supports("avx512f"))
        return (peak){"avx512", fp32_avx512, 12 * 16};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (peak){"avx2", fp32_avx2, 12 * 8};
    return (peak){"generic", fp32_generic, GENERIC};
}

#else

static peak int8_peak(void)
{
    return (peak){"generic", int8_generic, GENERIC};
}

static peak fp32_peak(void)
{
    return (peak){"generic", fp32_generic, GENERIC};
}

#endif

typedef struct spin_task {
    peak p;
    int64_t steps;
} spin_task;

static void spin_one(void *arg, int32_t i)
{
    const spin_task *t = arg;

    atomic_store_explicit(&sink, t->p.run(t->steps) + (uint32_t)i, memory_order_relaxed);
}

/* The best of several rounds of some milliseconds each: less is somebody else's work. */
static double peak_rate(peak p, gqmm_context *ctx, int rounds)
{
    const int32_t n = TASKS_PER_THREAD * gqmm_context_threads(ctx);
    spin_task t = {p, 1000};
    double best = 0, start = seconds_now();

    /* Steps of about two milliseconds. */
    do {
        t.steps *= 2;
        start = seconds_now();
        spin_one(&t, 0);
    } while (seconds_now() - start < 2e-3);
    for (int i = 0; i < rounds; i++) {
        start = seconds_now();
        gqmm_parallel_for(ctx, n, spin_one, &t);
        const double rate = (double)(n * t.steps * p.per_step) / (seconds_now() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

double bench_int8_rate(gqmm_context *ctx, const char **by, int rounds)
{
    const peak p = int8_peak();

    *by = p.name;
    return peak_rate(p, ctx, rounds);
}

double bench_fp32_rate(gqmm_context *ctx, const char **by, int rounds)
{
    const peak p = fp32_peak();

    *by = p.name;
    return peak_rate(p, ctx, rounds);
}
