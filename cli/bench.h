/* SPDX-License-Identifier: MIT */
/* gqmm bench: what its parts share. */
#ifndef GQMM_CLI_BENCH_H
#define GQMM_CLI_BENCH_H

#include "bench_machine.h"
#include "bench_shape.h"
#include "settings.h"

#include <gqmm-model.h>

typedef struct bench_settings {
    machine_settings machine;
    const char *shape, *formats, *tokens;
    const char *device;  /* NULL or "cpu", "cuda", "cuda:1" */
    int32_t activations; /* GQMM_F32 ...: type of x and y on a device */
    double seconds;
    int32_t routing, pages; /* ROUTING_*; 1: huge */
    int64_t prompt, gen, repeat;
    bool json;
} bench_settings;

enum { ROUTING_UNIFORM, ROUTING_SKEWED };

typedef enum {
    BENCH_MOE,
    BENCH_QMM,
    BENCH_GATHER,
    BENCH_EMBED,
    BENCH_DEQUANTIZE,
    BENCH_QUANTIZE,
    N_BENCH_OPS
} bench_op;
const char *bench_op_name(bench_op op);

/* One run of the command. */
typedef struct bench {
    const bench_settings *set;
    bench_op op;
    bench_shape shape;
    gqmm_context *one, *all; /* of one thread and of all */
    bench_machine machine;
    bench_reader reader;
    bench_ceilings ceilings;
    const struct bench_device *device; /* NULL: the CPU */
} bench;

/* Several layers of weights, used in turn so that none is found in a cache. */
typedef struct bench_layers {
    const gqmm_format *format[3]; /* of each matrix */
    int64_t rows[3], cols[3];
    int n_matrices; /* 3: gate, up, down */
    int64_t n_experts, n_layers;
    int64_t n_made;           /* layers in `memory`; of a device the first one, which it copies */
    size_t plane_bytes[3][3]; /* [matrix][plane], of a layer */
    size_t expert_bytes;      /* of all matrices */
    size_t layer_bytes;       /* with the gaps between planes */
    uint8_t *memory;
    gqmm_weights **w; /* [n_made][n_matrices] */
} bench_layers;

/* Weights for calls of `tokens` tokens or more; false after saying what is wrong. */
bool bench_layers_create(bench_layers *l, bench *b, const gqmm_format *format, int64_t tokens);
void bench_layers_destroy(bench_layers *l);
/* Where plane p of matrix m begins in a layer. */
size_t bench_layers_plane(const bench_layers *l, int m, int p);

/* Expert ids [n, S] for n tokens, distinct within a token, and weights that sum to 1. */
void bench_route(int32_t *ids, float *weights, int64_t n, int64_t n_experts, int64_t n_used,
                 int32_t routing, uint64_t seed);
/* How many experts occur in n ids. */
int64_t bench_distinct(const int32_t *ids, int64_t n, int64_t n_experts);

typedef struct bench_row {
    const bench_layers *layers;
    const char *isa;
    int64_t tokens, repeats;
    int64_t calls;             /* of a repeat: those of a graph */
    double us, us_min, spread; /* median, least, (p90 - p10) / median */
    double bytes, macs;        /* of a call, on average */
    double dram;               /* bytes per second, measured between the calls */
    double floor_us, share;
    bool by_memory; /* which floor holds */
    bool router;    /* a part of the call */
    bool int8;      /* on a device: activations were rounded */
} bench_row;

/* All rows on set->device; a CLI_* code, after saying what is wrong. */
int bench_cuda(bench *b, const gqmm_format *const *formats, int n_formats, const int64_t *tokens,
               int n_tokens);

/* Measures one row; a CLI_* code, after saying what is wrong. */
int bench_measure_row(bench *b, const bench_layers *l, int64_t tokens, bench_row *row);

void bench_print_head(const bench *b);
void bench_print_layers(const bench *b, const bench_layers *l);
void bench_print_row(const bench *b, const bench_row *row);

extern const command bench_command;

/* `gqmm bench model FILE`. */
int bench_model(const bench_settings *set, const char *path);

/* Sorts the numbers; the value below which the share q of them lies. */
void bench_sort(double *values, int64_t n);
double bench_quantile(const double *sorted, int64_t n, double q);

#endif
