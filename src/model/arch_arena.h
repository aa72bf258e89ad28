/* SPDX-License-Identifier: MIT */
/* Memory with one owner: blocks of a model or a session, given back together. */
#ifndef GQMM_MODEL_ARCH_ARENA_H
#define GQMM_MODEL_ARCH_ARENA_H

#include "gqmm.h"

typedef struct gqmm_arena {
    gqmm_allocator allocator;
    struct gqmm_arena_block *blocks; /* newest first */
    int64_t bytes;                   /* asked for, all blocks */
} gqmm_arena;

/* n items of `size` bytes, 64-byte aligned, not zeroed; NULL on overflow or when there is none.
 * Sizes may come from a file. */
void *gqmm_arena_alloc(gqmm_arena *arena, int64_t n, int64_t size);
/* The same, zeroed. */
void *gqmm_arena_zero(gqmm_arena *arena, int64_t n, int64_t size);
/* Gives everything back; the arena may be used again. */
void gqmm_arena_clear(gqmm_arena *arena);

#endif
