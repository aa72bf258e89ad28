/* SPDX-License-Identifier: MIT */
/* Prompt in, text out, for run and chat. */
#ifndef GQMM_CLI_GENERATE_H
#define GQMM_CLI_GENERATE_H

#include "engine.h"

#include <stdio.h>

typedef enum { STOP_END, STOP_LIMIT, STOP_CONTEXT, STOP_INTERRUPT, STOP_ERROR } stop_reason;

typedef struct generation {
    stop_reason stop;
    tokens out;    /* generated, without the end token */
    int64_t known; /* how many of them the session has; the last one may be missing */
    double seconds;
    char *text; /* whole characters */
    size_t length;
} generation;

/* Evaluates tokens in batches; false when a call failed (said) or Ctrl-C came. *seconds grows. */
bool evaluate(engine *e, const tokens *t, double *seconds);

/* Writes text; a terminal gets no control characters but line ends and tabs. */
void show(const char *text, size_t n, FILE *stream);

/* Generates at most `limit` tokens (-1: until the end) and streams whole characters to `stream`,
 * which may be NULL. */
void generate(engine *e, gqmm_sampler *sampler, int64_t limit, int64_t context, FILE *stream,
              generation *g);
void generation_free(generation *g);
const char *stop_words(stop_reason stop);

/* "generated     128 tokens     1.90 s      67.4 tokens/s  (note)"; `what` is the first column,
 * the rate is of the tokens that were computed. */
void print_rate(const char *what, int64_t n, int64_t computed, double seconds, const char *note);
double rate(int64_t n, double seconds); /* NaN where there is none */

#endif
