/* SPDX-License-Identifier: MIT */
/* Parses bytes and touches all that a caller could: every getter on every value, the name of every
 * tensor, the first and last byte of its data. A reader that let something wrong through faults
 * here, under the sanitizer. Shared by the fuzz targets and check_io. */
#ifndef GQMM_TESTS_WALK_H
#define GQMM_TESTS_WALK_H

#include "gqmm-model.h"

#include <string.h>

static inline uint64_t walk_metas(const gqmm_file *f)
{
    uint64_t sum = 0;

    for (int64_t i = 0; i < gqmm_file_meta_count(f); i++) {
        const gqmm_meta *m = gqmm_file_meta_at(f, i);
        if (gqmm_file_meta(f, m->key) != m)
            __builtin_trap();
        for (uint64_t j = 0; j <= m->n; j++) {
            const char *text;
            size_t length;
            double x;
            int64_t n;
            int32_t got = 0;
            if (gqmm_meta_int(f, m, j, &n))
                got++, sum += (uint64_t)n;
            if (gqmm_meta_float(f, m, j, &x))
                got++, sum += x > 0.0;
            if (gqmm_meta_string(f, m, j, &text, &length)) {
                got++;
                for (size_t k = 0; k < length; k++)
                    sum += (unsigned char)text[k];
            }
            if (got > 1 || (got && j == m->n))
                __builtin_trap(); /* a value has one kind and n items */
        }
    }
    return sum;
}

static inline uint64_t walk_tensors(const gqmm_file *f)
{
    uint64_t sum = 0;

    for (int64_t i = 0; i < gqmm_file_tensor_count(f); i++) {
        const gqmm_tensor *t = gqmm_file_tensor_at(f, i);
        const unsigned char *data = t->data;
        if (gqmm_file_tensor(f, t->name) != t || !t->type_name || t->n_bytes < 0 ||
            t->offset > gqmm_file_size(f) || (uint64_t)t->n_bytes > gqmm_file_size(f) - t->offset)
            __builtin_trap();
        sum += strlen(t->type_name) + (t->format ? strlen(t->format) : 0);
        if (t->n_bytes > 0)
            sum += data[0] + data[t->n_bytes - 1];
    }
    return sum;
}

/* The status of parsing; the error is checked to be whole. */
static inline gqmm_status walk(const void *bytes, size_t size, const gqmm_allocator *alloc,
                               gqmm_error *err)
{
    gqmm_error own = {0};
    gqmm_file *f = (gqmm_file *)&own; /* must be overwritten */
    const gqmm_status status = gqmm_file_parse(bytes, size, alloc, &f, &own);
    static volatile uint64_t sink;

    if ((status == GQMM_OK) != (f != NULL) || own.status != status ||
        (status != GQMM_OK) != (own.text[0] != 0) || own.offset > size)
        __builtin_trap();
    if (f) {
        if (gqmm_file_meta(f, "") || gqmm_file_tensor_at(f, gqmm_file_tensor_count(f)) ||
            gqmm_file_meta_at(f, -1) || !gqmm_file_kind(f))
            sink++;
        sink += walk_metas(f) + walk_tensors(f);
    }
    gqmm_file_close(f);
    if (err)
        *err = own;
    return status;
}

#endif
