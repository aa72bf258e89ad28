/* SPDX-License-Identifier: MIT */
/* gqmm synth: model files of true shape and random weights. */
#ifndef GQMM_CLI_SYNTH_H
#define GQMM_CLI_SYNTH_H

#include "cli.h"

#include <gqmm-model.h>

/* The least vocabulary: 256 bytes, one merged pair and three control tokens. */
enum { SYNTH_LEAST_VOCAB = 260 };

/* Writes the tokenizer.ggml.* keys: bytes, one merge, control tokens, fillers up to n_vocab. */
gqmm_status synth_tokenizer(gqmm_writer *w, int64_t n_vocab, gqmm_error *err);

extern const command synth_command;

#endif
