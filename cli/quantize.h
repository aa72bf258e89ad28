/* SPDX-License-Identifier: MIT */
/* The work of gqmm quantize, apart from its options and reports. */
#ifndef GQMM_CLI_QUANTIZE_H
#define GQMM_CLI_QUANTIZE_H

#include "groups.h"
#include "mix.h"

#include <gqmm-model.h>
#include <stdbool.h>

typedef struct quantize_settings {
    const char *type;
    bool force, stats, json;
    int64_t threads;
} quantize_settings;

typedef struct quantize_job {
    quantize_settings set;
    const mix *mix;
    gqmm_context *ctx;
    gqmm_file *file;
    /* Results, by tensor group; error and energy with set.stats: sums of squares. */
    group_sum before[N_GROUPS], after[N_GROUPS];
    double error[N_GROUPS], energy[N_GROUPS];
    int64_t n_done; /* weights, for the progress */
} quantize_job;

/* Reads job->file, writes `out` and fills the results. False on failure (err) or Ctrl-C; there is
 * no output then. */
bool quantize_file(quantize_job *job, const char *out, gqmm_error *err);

#endif
