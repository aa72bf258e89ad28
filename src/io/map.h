/* SPDX-License-Identifier: MIT */
/* Bytes of a file: mapped, read or borrowed, and a cursor that cannot leave them. */
#ifndef GQMM_IO_MAP_H
#define GQMM_IO_MAP_H

#include "base/memory.h"

#include <stdbool.h>

enum { GQMM_MAP_BORROWED = 0, GQMM_MAP_MAPPED = 1, GQMM_MAP_READ = 2 };

typedef struct gqmm_map {
    const uint8_t *bytes;
    size_t size;
    int how; /* GQMM_MAP_*: what gqmm_map_close() must undo */
} gqmm_map;

/* Maps the file, or reads all of it with GQMM_FILE_NO_MMAP. IO, or FORMAT for an empty file. */
gqmm_status gqmm_map_open(gqmm_map *map, const char *path, uint32_t flags,
                          const gqmm_allocator *alloc, gqmm_error *err);
/* IO if the file behind a mapping is no longer as long as it was: its tail would fault. */
gqmm_status gqmm_map_check(const gqmm_map *map, const char *path, gqmm_error *err);
void gqmm_map_close(gqmm_map *map, const gqmm_allocator *alloc);

/* A reading position that remembers if it ever ran off the end. After that every read gives 0, so
 * a parser checks once per structure, not per field. Little endian. */
typedef struct gqmm_cursor {
    const uint8_t *bytes;
    size_t size;
    size_t pos;
    bool short_read;
} gqmm_cursor;

size_t gqmm_cursor_left(const gqmm_cursor *c);
uint32_t gqmm_read_u32(gqmm_cursor *c);
uint64_t gqmm_read_u64(gqmm_cursor *c);
/* n bytes where they lie, or NULL. */
const uint8_t *gqmm_read_bytes(gqmm_cursor *c, uint64_t n);

/* Text of a file or a path made fit for a message: unprintable bytes become '?', and of what is
 * too long the end is kept for paths and the beginning for names. */
#define GQMM_QUOTE_SIZE 64
const char *gqmm_quote(char out[GQMM_QUOTE_SIZE], const void *text, size_t length);
const char *gqmm_quote_path(char out[GQMM_QUOTE_SIZE], const char *path);

#endif
