/* SPDX-License-Identifier: MIT */
/* A CUDA device as bench sees it beside the library: what it can do at most, and calls captured in
 * graphs and timed by events. Only in builds with CUDA. */
#ifndef GQMM_CLI_BENCH_DEVICE_H
#define GQMM_CLI_BENCH_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif

typedef struct bench_device {
    const char *name;      /* "cuda:0" */
    char text[200];        /* as gqmm_device_text() has it */
    void *stream, *memory; /* memory: what is read to empty the L2 */
    int64_t l2_bytes, free_bytes;
    double copy, read; /* bytes per second: a large copy, both ways counted; a large read */
    double matrix;     /* bf16 multiply-adds per second of the tensor cores, on random numbers */
    const char *matrix_by; /* "wgmma", "mma.sync" */
    double int8;           /* the same of int8 by wgmma; 0: there is none */
} bench_device;

/* Failures: false or NULL, and bench_device_error() has the runtime's sentence. */
const char *bench_device_error(void);

/* Fills the sizes and makes a stream; `index` as in "cuda:INDEX". */
bool bench_device_open(bench_device *d, int index);
void bench_device_close(bench_device *d);
/* Measures the rates, after the clocks have risen; hurry: once, to try the command. */
bool bench_device_rates(bench_device *d, bool hurry);

/* Everything that is enqueued on d->stream between begin and end becomes a graph. */
bool bench_graph_begin(const bench_device *d);
void *bench_graph_end(const bench_device *d);
/* Microseconds of one replay that finds nothing in the L2. */
bool bench_graph_time(const bench_device *d, void *graph, double *us);
void bench_graph_free(void *graph);

#if defined(__cplusplus)
}
#endif
#endif
