/* SPDX-License-Identifier: MIT */
/* The caller's allocator, or malloc. */
#ifndef GQMM_BASE_MEMORY_H
#define GQMM_BASE_MEMORY_H

#include "gqmm.h"

#define GQMM_ALIGN 64 /* cache line: every block handed out starts on one */

/* The allocator to keep: *given, or malloc's when given is NULL. ARG if a member is NULL. */
gqmm_status gqmm_allocator_init(gqmm_allocator *a, const gqmm_allocator *given, gqmm_error *err);

/* Zeroed memory for n items of `size` bytes; NULL on overflow or when there is none. n = 0 gives
 * a pointer that may be released but not read. */
void *gqmm_alloc(const gqmm_allocator *a, size_t n, size_t size);
/* The same without zeroing. */
void *gqmm_alloc_raw(const gqmm_allocator *a, size_t n, size_t size);
/* n and size as given to gqmm_alloc; NULL is fine. */
void gqmm_release(const gqmm_allocator *a, void *memory, size_t n, size_t size);

#endif
