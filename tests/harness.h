/* SPDX-License-Identifier: MIT */
/* What the check programs share: options, lines of results, random numbers, memory between guard
 * pages. Everything is static inline, so that a program is one file. */
#ifndef TESTS_HARNESS_H
#define TESTS_HARNESS_H

#include "base/convert.h"
#include "gqmm.h"

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

typedef struct harness {
    const char *name;
    int passed, failed, skipped;
    bool quick, list;
    uint64_t seed;
    const char *kernel, *isa; /* --kernel, --isa; NULL: all */
    char why[700], note[200];
} harness;

static harness h;

/* ------------------------------------------------------------------ results */

/* Keeps the first reason of a failure; always false, so that checks can return it. */
__attribute__((format(printf, 1, 2))) static inline bool fail(const char *format, ...)
{
    va_list args;
    if (h.why[0])
        return false;
    va_start(args, format);
    vsnprintf(h.why, sizeof h.why, format, args);
    va_end(args);
    return false;
}

/* A remark behind "ok NAME". */
__attribute__((format(printf, 1, 2))) static inline void note(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(h.note, sizeof h.note, format, args);
    va_end(args);
}

#define NEED(condition, ...) \
    do { \
        if (!(condition)) \
            return fail(__VA_ARGS__); \
    } while (0)

static inline void report(const char *name, bool ok)
{
    if (ok)
        printf("ok %s%s%s\n", name, h.note[0] ? ": " : "", h.note);
    else
        printf("FAIL %s: %s\n", name, h.why[0] ? h.why : "no reason given");
    fflush(stdout);
    h.passed += ok;
    h.failed += !ok;
    h.why[0] = h.note[0] = 0;
}

static inline void skip(const char *name, const char *reason)
{
    printf("skip %s: %s\n", name, reason);
    h.skipped++;
}

static inline int finish(void)
{
    printf("%s: %d passed, %d failed, %d skipped\n", h.name, h.passed, h.failed, h.skipped);
    return h.failed != 0;
}

typedef struct check_row {
    const char *name;
    bool (*run)(void);
} check_row;

static inline void run_rows(const check_row *rows, int n)
{
    for (int i = 0; i < n; i++)
        report(rows[i].name, rows[i].run());
}

/* ------------------------------------------------------------------ random numbers */

static uint64_t rng_state = 1;

static inline uint64_t rnd(void) /* splitmix64 */
{
    uint64_t z = rng_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline int64_t rnd_below(int64_t n)
{
    return (int64_t)(rnd() % (uint64_t)n);
}

static inline double rnd_unit(void) /* (0, 1] */
{
    return ((double)(rnd() >> 11) + 1.0) * 0x1p-53;
}

static inline float rnd_gauss(void)
{
    return (float)(sqrt(-2.0 * log(rnd_unit())) * cos(6.283185307179586 * rnd_unit()));
}

static inline void rnd_fill(void *p, size_t n)
{
    uint8_t *bytes = p;
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(rnd() >> 32);
}

/* ------------------------------------------------------------------ options */

static inline void usage(const char *name)
{
    printf("%s [--quick] [--seed N] [--kernel GLOB] [--isa NAME] [--list]\n", name);
    exit(2);
}

static inline void start(const char *name, int argc, char **argv)
{
    h.name = name;
    h.seed = 20260301;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--quick") == 0)
            h.quick = true;
        else if (strcmp(argv[i], "--list") == 0)
            h.list = true;
        else if (strcmp(argv[i], "--seed") == 0 && value)
            h.seed = strtoull(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--kernel") == 0 && value)
            h.kernel = argv[++i];
        else if (strcmp(argv[i], "--isa") == 0 && value)
            h.isa = argv[++i];
        else
            usage(name);
    }
    rng_state = h.seed;
    if (!h.list)
        printf("%s: seed %llu%s\n", name, (unsigned long long)h.seed, h.quick ? ", quick" : "");
}

/* ------------------------------------------------------------------ guarded memory */

/* Readable and writable pages with one page of no access on both sides. */
typedef struct arena {
    uint8_t *base;
    size_t bytes;
} arena;

static inline arena arena_make(size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    arena a = {NULL, (bytes + page - 1) / page * page};
    uint8_t *p = mmap(NULL, a.bytes + 2 * page, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p, page, PROT_NONE) != 0 ||
        mprotect(p + page + a.bytes, page, PROT_NONE) != 0) {
        perror("guard pages");
        exit(1);
    }
    a.base = p + page;
    return a;
}

static inline void arena_free(arena *a)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (a->base)
        munmap(a->base - page, a->bytes + 2 * page);
    a->base = NULL;
}

/* `bytes` that start behind the first guard page, or end before the second one. */
static inline void *arena_at(const arena *a, size_t bytes, bool right)
{
    if (bytes > a->bytes) {
        fprintf(stderr, "arena of %zu bytes is too small for %zu\n", a->bytes, bytes);
        exit(1);
    }
    return right ? a->base + (a->bytes - bytes) : a->base;
}

static inline void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

/* Zeroed, never NULL; from malloc, so that sanitizers watch its ends. */
static inline void *make(int64_t n, size_t size)
{
    return must(calloc((size_t)n + (n == 0), size));
}

/* ------------------------------------------------------------------ faults as results */

static sigjmp_buf fault_return;
static volatile sig_atomic_t fault_armed;

static inline void on_fault(int signal_number)
{
    if (!fault_armed)
        signal(signal_number, SIG_DFL); /* not ours: die of it when the access is repeated */
    else
        siglongjmp(fault_return, signal_number);
}

static inline void catch_faults(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_fault;
    action.sa_flags = SA_NODEFER;
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}

/* ------------------------------------------------------------------ counting allocator */

/* Counts what is out, and fails the n-th request when told to. */
typedef struct counter {
    int64_t live_blocks, live_bytes, requests;
    int64_t fail_at; /* -1: never */
} counter;

static inline void *counted_alloc(void *user, size_t size, size_t align)
{
    counter *c = user;
    void *p = NULL;
    if (c->requests++ == c->fail_at || posix_memalign(&p, align, size) != 0)
        return NULL;
    c->live_blocks++;
    c->live_bytes += (int64_t)size;
    return p;
}

static inline void counted_release(void *user, void *memory, size_t size)
{
    counter *c = user;
    c->live_blocks--;
    c->live_bytes -= (int64_t)size;
    free(memory);
}

/* ------------------------------------------------------------------ element types */

static const char *const type_names[] = {"f32", "f16", "bf16"};

static inline double element(const void *p, int32_t type, int64_t i)
{
    float v;
    gqmm_widen(&v, (const uint8_t *)p + i * (int64_t)gqmm_type_size(type), type, 1);
    return (double)v;
}

static inline void set_element(void *p, int32_t type, int64_t i, float v)
{
    gqmm_narrow((uint8_t *)p + i * (int64_t)gqmm_type_size(type), type, &v, 1);
}

/* Half a unit in the last place of `type`, relative; and its smallest step. */
static inline double type_rounding(int32_t type)
{
    return type == GQMM_F32 ? 0.0 : type == GQMM_F16 ? 0x1p-11 : 0x1p-8;
}

static inline double type_step(int32_t type)
{
    return type == GQMM_F16 ? 0x1p-24 : 0x1p-133;
}

#endif
