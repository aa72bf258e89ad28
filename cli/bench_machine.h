/* SPDX-License-Identifier: MIT */
/*
 * What this machine is and the most it can do: its caches and memory, and the ceilings against
 * which a figure is judged, measured on the threads of a context.
 */
#ifndef GQMM_CLI_BENCH_MACHINE_H
#define GQMM_CLI_BENCH_MACHINE_H

#include <gqmm.h>
#include <stdbool.h>

typedef struct bench_machine {
    char cpu[96];
    int64_t cache_bytes;  /* last level; a guess of 32 MiB where the system does not tell */
    int64_t cold_bytes;   /* what is read before the same byte may come again */
    int64_t memory_bytes; /* that this process may still take */
} bench_machine;

/* hurry: enough to try the command, not to judge by its figures. */
void bench_machine_read(bench_machine *m, bool hurry);

/* Zeroed pages; huge = false keeps the system from giving huge ones, for a fair comparison. NULL
 * when the memory cannot be had. */
void *bench_pages(size_t bytes, bool huge);
void bench_pages_free(void *memory, size_t bytes);

/* Memory to read from, more than any cache holds. */
typedef struct bench_reader {
    uint8_t *base;
    size_t bytes;
    size_t piece;    /* bytes of one piece */
    uint32_t *order; /* of the pieces, shuffled */
    uint32_t n, next;
    bool ahead; /* prefetching 4 KiB ahead is the faster way to read here */
    bool huge;
    uint64_t seed;
} bench_reader;

bool bench_reader_create(bench_reader *r, const bench_machine *m, bool huge);
void bench_reader_destroy(bench_reader *r);
/* Pieces of this many bytes from here on. */
void bench_reader_cut(bench_reader *r, size_t piece);
/* Bytes per second of one pass over some 32 MB in random pieces: a few milliseconds. */
double bench_probe(bench_reader *r, gqmm_context *ctx);

/* Rates with one thread [0] and with all threads [1]. */
typedef struct bench_ceilings {
    double stream[2], pieces[2]; /* bytes per second */
    double int8[2], fp32[2];     /* multiply-adds per second */
    const char *int8_by, *fp32_by;
} bench_ceilings;

/* Multiply-adds per second of registers alone, the best that this CPU has instructions for. */
double bench_int8_rate(gqmm_context *ctx, const char **by, int rounds);
double bench_fp32_rate(gqmm_context *ctx, const char **by, int rounds);
/* All of it, in about half a second, or in a hurry; also finds how this machine reads fastest. */
void bench_measure(bench_ceilings *c, bench_reader *r, gqmm_context *one, gqmm_context *all,
                   bool hurry);

#endif
