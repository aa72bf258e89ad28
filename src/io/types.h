/* SPDX-License-Identifier: MIT */
/* The ggml types of GGUF files: names of all, sizes where they are certain, and the one function
 * that says how many bytes a tensor has. */
#ifndef GQMM_IO_TYPES_H
#define GQMM_IO_TYPES_H

#include "gqmm.h"

#include <stdbool.h>

typedef struct gqmm_ggml_type {
    int32_t id;
    const char *name;          /* "Q4_K"; NULL for an id without one */
    const gqmm_format *format; /* NULL: none that gqmm computes with */
    int32_t block, bytes;      /* 0: size not known */
} gqmm_ggml_type;

gqmm_ggml_type gqmm_ggml_type_of(int32_t id);
/* By gqmm format name or ggml name; id -1 if there is none. */
gqmm_ggml_type gqmm_ggml_type_find(const char *name);

/* Elements and bytes of a tensor; bytes is -1 for types of unknown size. FORMAT with a sentence
 * about `name` at `offset` if a dimension is out of range, no whole number of blocks, or a product
 * passes 2^63. */
gqmm_status gqmm_tensor_bytes(int64_t *n_elems, int64_t *n_bytes, const gqmm_ggml_type *type,
                              const char *name, int32_t n_dims, const int64_t *dims,
                              uint64_t offset, gqmm_error *err);

#endif
