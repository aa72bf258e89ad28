/* SPDX-License-Identifier: MIT */
/* Byte-pair merging of one piece of text: bytes in, token ids out. Knows nothing of files, regular
 * expressions or special tokens. */
#ifndef GQMM_MODEL_BPE_H
#define GQMM_MODEL_BPE_H

#include "gqmm.h"

/* Pieces of text up to this long merge by scanning, in arrays of the scratch; longer ones by heap.
 * Words are short: a scan of eight ranks is cheaper than the upkeep of a heap. */
enum { GQMM_BPE_SHORT = 48 };

typedef struct gqmm_merge {
    int32_t left, right, merged;
    uint32_t rank; /* index in the merge list + 1; 0: empty slot */
} gqmm_merge;

typedef struct gqmm_bpe {
    gqmm_merge *slots; /* open addressing on (left, right) */
    size_t n_slots;    /* a power of two */
    int32_t byte_id[256];
} gqmm_bpe;

/* Working memory of one thread; zero it except for the allocator. */
typedef struct gqmm_bpe_scratch {
    const gqmm_allocator *a;
    int32_t *ids; /* result of the last piece */
    int32_t near_ids[GQMM_BPE_SHORT];
    int32_t *far_ids, *previous, *next; /* [capacity] */
    uint32_t *rank;                     /* [capacity] */
    uint64_t *heap;                     /* [2 * capacity] */
    size_t capacity;
} gqmm_bpe_scratch;

/* Room for n merges. NOMEM. */
gqmm_status gqmm_bpe_create(gqmm_bpe *bpe, const gqmm_allocator *a, size_t n, gqmm_error *err);
void gqmm_bpe_destroy(gqmm_bpe *bpe, const gqmm_allocator *a);

/* Adds a merge of rank `index`; of a repeated pair the first (best) rank stays. FORMAT if more
 * pairs fall on one place of the table than chance can explain. */
gqmm_status gqmm_bpe_add(gqmm_bpe *bpe, int32_t left, int32_t right, int32_t merged, uint32_t index,
                         gqmm_error *err);

/* Ids of the piece at scratch->ids; returns how many, or -1 without memory. length >= 1. */
int64_t gqmm_bpe_piece(const gqmm_bpe *bpe, gqmm_bpe_scratch *scratch, const uint8_t *bytes,
                       size_t length);
void gqmm_bpe_scratch_free(gqmm_bpe_scratch *scratch);

#endif
