/* SPDX-License-Identifier: MIT */
#include "base/memory.h"

#include "base/status.h"

#include <stdlib.h>
#include <string.h>

static void *libc_alloc(void *user, size_t size, size_t align)
{
    void *p = NULL;
    (void)user;
    return posix_memalign(&p, align, size) == 0 ? p : NULL;
}

static void libc_release(void *user, void *memory, size_t size)
{
    (void)user;
    (void)size;
    free(memory);
}

gqmm_status gqmm_allocator_init(gqmm_allocator *a, const gqmm_allocator *given, gqmm_error *err)
{
    if (!given) {
        *a = (gqmm_allocator){libc_alloc, libc_release, NULL};
        return GQMM_OK;
    }
    if (!given->alloc || !given->release)
        return gqmm_fail(err, GQMM_E_ARG, 0,
                         "the allocator has no %s function; give both or pass NULL",
                         given->alloc ? "release" : "alloc");
    *a = *given;
    return GQMM_OK;
}

/* Never 0: an allocator may answer NULL to that. */
static size_t bytes(size_t n, size_t size)
{
    return n && size ? n * size : 1;
}

void *gqmm_alloc_raw(const gqmm_allocator *a, size_t n, size_t size)
{
    if (size != 0 && n > (SIZE_MAX / 2) / size)
        return NULL;
    return a->alloc(a->user, bytes(n, size), GQMM_ALIGN);
}

void *gqmm_alloc(const gqmm_allocator *a, size_t n, size_t size)
{
    void *p = gqmm_alloc_raw(a, n, size);
    if (p)
        memset(p, 0, n * size);
    return p;
}

void gqmm_release(const gqmm_allocator *a, void *memory, size_t n, size_t size)
{
    if (memory)
        a->release(a->user, memory, bytes(n, size));
}
