/* SPDX-License-Identifier: MIT */
/* For the tests of readers and writer: result lines, an allocator that can fail, and files built in
 * memory. All static inline, so that each test is one program. */
#ifndef TESTS_IO_IMAGE_H
#define TESTS_IO_IMAGE_H

#include "fuzz/walk.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* ------------------------------------------------------------------ reporting */

static int n_passed, n_failed, n_skipped;
static char why[512]; /* of the running test; empty: it holds */

__attribute__((format(printf, 1, 2))) static inline void fail(const char *format, ...)
{
    va_list args;
    if (why[0])
        return; /* the first reason counts */
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
}

#define EXPECT(x) \
    do { \
        if (!(x)) \
            fail("line %d: not %s", __LINE__, #x); \
    } while (0)

static inline void report(const char *name)
{
    if (why[0])
        printf("FAIL %s: %s\n", name, why), n_failed++;
    else
        printf("ok %s\n", name), n_passed++;
    why[0] = 0;
}

static inline void skip(const char *name, const char *reason)
{
    printf("skip %s: %s\n", name, reason), n_skipped++;
}

/* ------------------------------------------------------------------ memory that can run out */

static int64_t n_live, n_allocs, fail_at = -1;
static size_t largest;

static inline void *test_alloc(void *user, size_t size, size_t align)
{
    void *p = NULL;
    (void)user;
    largest = size > largest ? size : largest;
    if (n_allocs++ == fail_at || posix_memalign(&p, align, size) != 0)
        return NULL;
    memset(p, 0xa5, size);
    n_live += (int64_t)size;
    return p;
}

static inline void test_release(void *user, void *memory, size_t size)
{
    (void)user;
    n_live -= (int64_t)size;
    free(memory);
}

static const gqmm_allocator counting = {test_alloc, test_release, NULL};

/* ------------------------------------------------------------------ images */

typedef struct image {
    uint8_t at[1024];
    size_t n;
} image;

static inline void put(image *m, const void *bytes, size_t n)
{
    if (n)
        memcpy(m->at + m->n, bytes, n);
    m->n += n;
}

static inline void put_int(image *m, uint64_t v, size_t n)
{
    put(m, &v, n);
}

static inline void put_text(image *m, const char *text)
{
    put_int(m, strlen(text), 8);
    put(m, text, strlen(text));
}

static inline void put_head(image *m, uint64_t n_tensors, uint64_t n_keys)
{
    put(m, "GGUF\3\0\0\0", 8);
    put_int(m, n_tensors, 8);
    put_int(m, n_keys, 8);
}

static inline void put_tensor(image *m, const char *name, int n_dims, const int64_t *dims, int type,
                              uint64_t offset)
{
    put_text(m, name);
    put_int(m, (uint64_t)n_dims, 4);
    put(m, dims, 8 * (size_t)n_dims);
    put_int(m, (uint64_t)type, 4);
    put_int(m, offset, 8);
}

static inline void pad(image *m, size_t alignment)
{
    while (m->n % alignment)
        put_int(m, 0, 1);
}

static inline image safetensors(const char *header, size_t n_data)
{
    image m = {.n = 0};
    put_text(&m, header);
    for (size_t i = 0; i < n_data; i++)
        put_int(&m, i, 1);
    return m;
}

static inline int finish(const char *name)
{
    printf("%s: %d passed, %d failed, %d skipped\n", name, n_passed, n_failed, n_skipped);
    return n_failed != 0;
}

#endif
