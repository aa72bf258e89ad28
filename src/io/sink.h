/* SPDX-License-Identifier: MIT */
/* A file that appears whole or not at all: written beside its target under another name, flushed
 * to the disk, then given its own. */
#ifndef GQMM_IO_SINK_H
#define GQMM_IO_SINK_H

#include "base/memory.h"

#include <stdbool.h>

typedef struct gqmm_sink {
    gqmm_allocator alloc;
    char *path, *temp;
    size_t path_size, temp_size; /* allocated */
    int fd;                      /* -1: not open */
    bool overwrite;
    bool failed;        /* a write was lost: nothing more is accepted */
    uint8_t *buffer;    /* [GQMM_SINK_BUFFER] */
    size_t n_buffered;  /* bytes in it */
    uint64_t n_written; /* all bytes given so far */
} gqmm_sink;

/* IO if the target exists (overwrite = 0) or is not a regular file, or no file can be made beside
 * it; NOMEM. A sink that failed to open may be closed. */
gqmm_status gqmm_sink_open(gqmm_sink *s, const char *path, bool overwrite,
                           const gqmm_allocator *alloc, gqmm_error *err);
gqmm_status gqmm_sink_write(gqmm_sink *s, const void *bytes, size_t size, gqmm_error *err);
gqmm_status gqmm_sink_commit(gqmm_sink *s, gqmm_error *err);
/* Removes what was not committed. */
void gqmm_sink_close(gqmm_sink *s);

#endif
