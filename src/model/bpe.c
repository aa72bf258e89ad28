/* SPDX-License-Identifier: MIT */
/* Byte-pair merging: of all adjacent pairs the one of lowest rank merges, the leftmost on ties,
 * until no pair is in the table. */
#include "model/bpe.h"

#include "base/memory.h"
#include "base/status.h"

#include <string.h>

/* A table at most half full with a mixed key has chains of a few dozen; a file with longer ones
 * was made to be slow. */
enum { LONGEST_CHAIN = 1024 };

static uint64_t mix(int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    h = (h ^ (h >> 32)) * 0xd6e8feb86659fd93u;
    return h ^ (h >> 29);
}

gqmm_status gqmm_bpe_create(gqmm_bpe *bpe, const gqmm_allocator *a, size_t n, gqmm_error *err)
{
    size_t n_slots = 16;
    while (n_slots / 2 < n)
        n_slots *= 2;
    bpe->slots = gqmm_alloc(a, n_slots, sizeof *bpe->slots);
    if (!bpe->slots)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for %zu merges", n);
    bpe->n_slots = n_slots;
    return GQMM_OK;
}

void gqmm_bpe_destroy(gqmm_bpe *bpe, const gqmm_allocator *a)
{
    gqmm_release(a, bpe->slots, bpe->n_slots, sizeof *bpe->slots);
    bpe->slots = NULL;
    bpe->n_slots = 0;
}

gqmm_status gqmm_bpe_add(gqmm_bpe *bpe, int32_t left, int32_t right, int32_t merged, uint32_t index,
                         gqmm_error *err)
{
    const size_t mask = bpe->n_slots - 1;
    size_t at = (size_t)mix(left, right) & mask;
    for (int32_t step = 0; step < LONGEST_CHAIN; step++, at = (at + 1) & mask) {
        gqmm_merge *m = bpe->slots + at;
        if (m->rank == 0) {
            *m = (gqmm_merge){left, right, merged, index + 1};
            return GQMM_OK;
        }
        if (m->left == left && m->right == right)
            return GQMM_OK;
    }
    return gqmm_fail(err, GQMM_E_FORMAT, 0,
                     "tokenizer.ggml.merges: merge %u collides with %d others in the table", index,
                     LONGEST_CHAIN);
}

static const gqmm_merge *find(const gqmm_bpe *bpe, int32_t left, int32_t right)
{
    const size_t mask = bpe->n_slots - 1;
    size_t at = (size_t)mix(left, right) & mask;
    for (;; at = (at + 1) & mask) { /* half of the slots are empty: this ends */
        const gqmm_merge *m = bpe->slots + at;
        if (m->rank == 0)
            return NULL;
        if (m->left == left && m->right == right)
            return m;
    }
}

static uint32_t pair_rank(const gqmm_bpe *bpe, int32_t left, int32_t right)
{
    const gqmm_merge *m = find(bpe, left, right);
    return m ? m->rank : UINT32_MAX;
}

/* rank[i] belongs to the pair (i, i + 1); the last symbol has UINT32_MAX. */
static int64_t merge_short(const gqmm_bpe *bpe, int32_t *ids, size_t n)
{
    uint32_t rank[GQMM_BPE_SHORT];
    for (size_t i = 0; i + 1 < n; i++)
        rank[i] = pair_rank(bpe, ids[i], ids[i + 1]);
    rank[n - 1] = UINT32_MAX;
    for (;;) {
        size_t best = 0;
        for (size_t i = 1; i < n; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == UINT32_MAX)
            return (int64_t)n;
        ids[best] = find(bpe, ids[best], ids[best + 1])->merged;
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        memmove(rank + best + 1, rank + best + 2, (n - best - 2) * sizeof *rank);
        n--;
        rank[best] = best + 1 < n ? pair_rank(bpe, ids[best], ids[best + 1]) : UINT32_MAX;
        if (best > 0)
            rank[best - 1] = pair_rank(bpe, ids[best - 1], ids[best]);
    }
}

/* A binary heap of (rank << 32 | position): the smallest is the best pair and, on ties, the
 * leftmost. */
static void heap_push(uint64_t *heap, size_t *n, uint64_t key)
{
    size_t i = (*n)++;
    while (i > 0 && heap[(i - 1) / 2] > key) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = key;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n)
{
    const uint64_t top = heap[0];
    const uint64_t last = heap[--(*n)];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= *n)
            break;
        if (child + 1 < *n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= last)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

static void pair_push(const gqmm_bpe *bpe, gqmm_bpe_scratch *s, size_t *n_heap, int32_t at)
{
    const int32_t right = s->next[at];
    s->rank[at] = right < 0 ? UINT32_MAX : pair_rank(bpe, s->far_ids[at], s->far_ids[right]);
    if (s->rank[at] != UINT32_MAX)
        heap_push(s->heap, n_heap, (uint64_t)s->rank[at] << 32 | (uint32_t)at);
}

/* Symbols are a linked list. A heap entry is stale if the pair at its position has another rank
 * by now: texts only grow, so a rank never comes back to a position.
 * The heap starts with at most n - 1 entries, and each of at most n - 1 merges removes one and
 * adds two: 2 n are enough. */
static int64_t merge_long(const gqmm_bpe *bpe, gqmm_bpe_scratch *s, size_t n)
{
    size_t n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        s->previous[i] = (int32_t)i - 1;
        s->next[i] = i + 1 < n ? (int32_t)(i + 1) : -1;
        pair_push(bpe, s, &n_heap, (int32_t)i);
    }
    while (n_heap > 0) {
        const uint64_t key = heap_pop(s->heap, &n_heap);
        const int32_t at = (int32_t)(key & 0xffffffffu);
        if (s->rank[at] != (uint32_t)(key >> 32))
            continue;
        const int32_t gone = s->next[at];
        s->far_ids[at] = find(bpe, s->far_ids[at], s->far_ids[gone])->merged;
        s->rank[gone] = UINT32_MAX;
        s->next[at] = s->next[gone];
        if (s->next[at] >= 0)
            s->previous[s->next[at]] = at;
        pair_push(bpe, s, &n_heap, at);
        if (s->previous[at] >= 0)
            pair_push(bpe, s, &n_heap, s->previous[at]);
    }
    int64_t n_out = 0; /* position 0 never disappears; ids move only to the left */
    for (int32_t i = 0; i >= 0; i = s->next[i])
        s->far_ids[n_out++] = s->far_ids[i];
    return n_out;
}

void gqmm_bpe_scratch_free(gqmm_bpe_scratch *s)
{
    gqmm_release(s->a, s->far_ids, s->capacity, sizeof *s->far_ids);
    gqmm_release(s->a, s->previous, s->capacity, sizeof *s->previous);
    gqmm_release(s->a, s->next, s->capacity, sizeof *s->next);
    gqmm_release(s->a, s->rank, s->capacity, sizeof *s->rank);
    gqmm_release(s->a, s->heap, s->capacity, 2 * sizeof *s->heap);
    *s = (gqmm_bpe_scratch){.a = s->a};
}

static int32_t reserve(gqmm_bpe_scratch *s, size_t n)
{
    if (n <= s->capacity)
        return 1;
    if (n > INT32_MAX / 2)
        return 0; /* positions are 32-bit; a piece of a gigabyte is not text */
    gqmm_bpe_scratch_free(s);
    s->capacity = n < 1024 ? 1024 : n + n / 2; /* the next long piece is often a bit longer */
    s->far_ids = gqmm_alloc_raw(s->a, s->capacity, sizeof *s->far_ids);
    s->previous = gqmm_alloc_raw(s->a, s->capacity, sizeof *s->previous);
    s->next = gqmm_alloc_raw(s->a, s->capacity, sizeof *s->next);
    s->rank = gqmm_alloc_raw(s->a, s->capacity, sizeof *s->rank);
    s->heap = gqmm_alloc_raw(s->a, s->capacity, 2 * sizeof *s->heap);
    return s->far_ids && s->previous && s->next && s->rank && s->heap;
}

int64_t gqmm_bpe_piece(const gqmm_bpe *bpe, gqmm_bpe_scratch *s, const uint8_t *bytes,
                       size_t length)
{
    const int32_t is_short = length <= GQMM_BPE_SHORT;
    if (!is_short && !reserve(s, length))
        return -1;
    s->ids = is_short ? s->near_ids : s->far_ids;
    for (size_t i = 0; i < length; i++)
        s->ids[i] = bpe->byte_id[bytes[i]];
    return is_short ? merge_short(bpe, s->ids, length) : merge_long(bpe, s, length);
}
