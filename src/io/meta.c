/* SPDX-License-Identifier: MIT */
/* Typed getters of metadata values: each checks the kind of what it reads. */
#include "io/file.h"

#include <string.h>

/* A gqmm_meta is the head of its entry; one from elsewhere, or a copy, is not. */
bool gqmm_meta_belongs(const gqmm_file *f, const gqmm_meta *meta)
{
    const uintptr_t first = (uintptr_t)f->metas, at = (uintptr_t)meta;
    return at >= first && (at - first) / sizeof *f->metas < f->n_metas;
}

/* The entry around a gqmm_meta if it has an item i; else NULL. */
static const gqmm_meta_entry *entry_of(const gqmm_file *f, const gqmm_meta *meta, uint64_t i)
{
    return meta && gqmm_meta_belongs(f, meta) && i < meta->n ? (const gqmm_meta_entry *)meta : NULL;
}

/* Where item i of fixed size lies; raw has no alignment. */
static const uint8_t *item_at(const gqmm_meta *meta, uint64_t i, size_t size)
{
    return (const uint8_t *)meta->raw + i * size;
}

int32_t gqmm_meta_int(const gqmm_file *file, const gqmm_meta *meta, uint64_t i, int64_t *value)
{
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } v;
    int64_t x;

    if (!entry_of(file, meta, i))
        return 0;
    switch (meta->item_type) {
    case 0:
        x = (memcpy(&v, item_at(meta, i, 1), 1), v.u8);
        break;
    case 1:
        x = (memcpy(&v, item_at(meta, i, 1), 1), v.i8);
        break;
    case 2:
        x = (memcpy(&v, item_at(meta, i, 2), 2), v.u16);
        break;
    case 3:
        x = (memcpy(&v, item_at(meta, i, 2), 2), v.i16);
        break;
    case 4:
        x = (memcpy(&v, item_at(meta, i, 4), 4), v.u32);
        break;
    case 5:
        x = (memcpy(&v, item_at(meta, i, 4), 4), v.i32);
        break;
    case 7:
        x = (memcpy(&v, item_at(meta, i, 1), 1), v.u8 != 0);
        break;
    case 10:
        memcpy(&v, item_at(meta, i, 8), 8);
        if (v.u64 > INT64_MAX)
            return 0;
        x = v.i64;
        break;
    case 11:
        x = (memcpy(&v, item_at(meta, i, 8), 8), v.i64);
        break;
    default:
        return 0;
    }
    if (value)
        *value = x;
    return 1;
}

int32_t gqmm_meta_float(const gqmm_file *file, const gqmm_meta *meta, uint64_t i, double *value)
{
    double x;
    float narrow;

    if (!entry_of(file, meta, i))
        return 0;
    if (meta->item_type == 6) {
        memcpy(&narrow, item_at(meta, i, 4), 4);
        x = (double)narrow;
    } else if (meta->item_type == 12) {
        memcpy(&x, item_at(meta, i, 8), 8);
    } else {
        return 0;
    }
    if (value)
        *value = x;
    return 1;
}

int32_t gqmm_meta_string(const gqmm_file *file, const gqmm_meta *meta, uint64_t i,
                         const char **text, size_t *length)
{
    const gqmm_meta_entry *entry = entry_of(file, meta, i);
    const uint8_t *at;
    uint64_t n;

    if (!entry || meta->item_type != 8)
        return 0;
    at = (const uint8_t *)meta->raw + (entry->items ? entry->items[i] : 0);
    memcpy(&n, at, 8); /* the reader has checked it against the file */
    if (text)
        *text = (const char *)at + 8;
    if (length)
        *length = (size_t)n;
    return 1;
}
