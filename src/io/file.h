/* SPDX-License-Identifier: MIT */
/* What the two readers fill and gqmm_file_* shows. A reader gets a zeroed gqmm_file with map and
 * alloc set, allocates the tables through the helpers below and may stop anywhere: closing a
 * half-built object is fine. */
#ifndef GQMM_IO_FILE_H
#define GQMM_IO_FILE_H

#include "gqmm-model.h"
#include "io/map.h"

/* Limits on what any file may ask for; real files stay far below. */
#define GQMM_MAX_TENSORS (1u << 20)
#define GQMM_MAX_METAS (1u << 16)
#define GQMM_MAX_STRING (16u << 20)
#define GQMM_MAX_NAME 65535u /* the GGUF specification's bound on keys */
#define GQMM_MAX_DIM ((int64_t)1 << 40)
#define GQMM_MAX_ALIGNMENT (1u << 20)

typedef struct gqmm_chunk gqmm_chunk;

typedef struct gqmm_tensor_entry {
    gqmm_tensor pub; /* first, so that the pointers convert */
    uint64_t at;     /* of the entry's name in the file, for messages */
    int64_t n_elems;
} gqmm_tensor_entry;

typedef struct gqmm_meta_entry {
    gqmm_meta pub;    /* first */
    uint64_t at;      /* of the entry's key in the file */
    uint64_t n_bytes; /* at pub.raw */
    uint64_t *items;  /* string arrays: where in raw item i begins; else NULL */
} gqmm_meta_entry;

struct gqmm_file {
    gqmm_allocator alloc;
    gqmm_map map;
    const char *kind;
    int32_t version;
    size_t n_tensors, n_metas;
    gqmm_tensor_entry *tensors; /* [n_tensors] */
    gqmm_meta_entry *metas;     /* [n_metas] */
    uint32_t *tensor_order;     /* [n_tensors] indices by name, NULL until indexed */
    uint32_t *meta_order;
    gqmm_chunk *chunks; /* strings that need a NUL or an escape undone */
};

/* Zeroed tables for n entries. NOMEM. */
gqmm_status gqmm_file_alloc_tensors(gqmm_file *f, size_t n, gqmm_error *err);
gqmm_status gqmm_file_alloc_metas(gqmm_file *f, size_t n, gqmm_error *err);
/* Bytes that live as long as the file, of no alignment; NULL without memory. */
char *gqmm_file_room(gqmm_file *f, size_t size);
/* A copy of `length` bytes and a NUL, in such room. */
char *gqmm_file_keep(gqmm_file *f, const void *bytes, size_t length);
/* Sorts names for lookup. FORMAT at the second of two equal names, NOMEM. */
gqmm_status gqmm_file_index_tensors(gqmm_file *f, gqmm_error *err);
gqmm_status gqmm_file_index_metas(gqmm_file *f, gqmm_error *err);

/* 1 if meta is an entry of this very file. */
bool gqmm_meta_belongs(const gqmm_file *f, const gqmm_meta *meta);

/* Orders indices so that less(ctx, order[i + 1], order[i]) is never true. Heap sort: needs no
 * memory and has no slow inputs, which matters for a file made to have one. */
void gqmm_sort(uint32_t *order, size_t n, bool (*less)(const void *ctx, uint32_t a, uint32_t b),
               const void *ctx);

gqmm_status gqmm_gguf_read(gqmm_file *f, gqmm_error *err);
gqmm_status gqmm_safetensors_read(gqmm_file *f, gqmm_error *err);

#endif
