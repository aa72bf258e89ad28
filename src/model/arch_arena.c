/* SPDX-License-Identifier: MIT */
#include "model/arch_arena.h"

#include "base/memory.h"
#include "base/num.h"

#include <string.h>

/* Lies in front of the bytes handed out, padded to keep their alignment. */
typedef struct gqmm_arena_block {
    struct gqmm_arena_block *next;
    size_t size; /* with this header */
} gqmm_arena_block;

GQMM_STATIC_ASSERT(sizeof(gqmm_arena_block) <= GQMM_ALIGN, "the header fits into its padding");

void *gqmm_arena_alloc(gqmm_arena *arena, int64_t n, int64_t size)
{
    int64_t bytes, whole;
    if (!gqmm_mul(&bytes, n, size) || !gqmm_add(&whole, bytes, GQMM_ALIGN))
        return NULL;
    gqmm_arena_block *block = gqmm_alloc_raw(&arena->allocator, (size_t)whole, 1);
    if (!block)
        return NULL;
    *block = (gqmm_arena_block){arena->blocks, (size_t)whole};
    arena->blocks = block;
    arena->bytes += bytes;
    return (unsigned char *)block + GQMM_ALIGN;
}

void *gqmm_arena_zero(gqmm_arena *arena, int64_t n, int64_t size)
{
    void *p = gqmm_arena_alloc(arena, n, size);
    if (p)
        memset(p, 0, (size_t)(n * size));
    return p;
}

void gqmm_arena_clear(gqmm_arena *arena)
{
    while (arena->blocks) {
        gqmm_arena_block *block = arena->blocks;
        arena->blocks = block->next;
        gqmm_release(&arena->allocator, block, block->size, 1);
    }
    arena->bytes = 0;
}
