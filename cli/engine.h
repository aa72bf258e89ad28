/* SPDX-License-Identifier: MIT */
/* What run, chat and eval share: an open model, its options, prompts as tokens, generation. */
#ifndef GQMM_CLI_ENGINE_H
#define GQMM_CLI_ENGINE_H

#include "cli.h"
#include "settings.h"

#include <gqmm-model.h>
#include <jansson.h>

typedef struct engine {
    const char *path;
    machine_settings machine;
    gqmm_context *ctx;
    gqmm_file *file;
    gqmm_tokenizer *tok;
    gqmm_model *model;
    gqmm_model_info info;
    gqmm_session *session;
    uint8_t *allowed; /* [n_vocab], 0 for fillers */
    double load_seconds;
} engine;

/* Opens everything but the session; says what is wrong and returns the exit code. Close always. */
int engine_open(engine *e, const char *path, const machine_settings *machine);
void engine_close(engine *e);
/* The context for `needed` tokens: --ctx, or what is needed within what the model knows. */
int64_t engine_context(const engine *e, int64_t needed);
int engine_session(engine *e, int64_t n_tokens);
gqmm_sampler *engine_sampler(sampling_settings *s); /* draws the seed if none was given */

/* "cuda:0"; NULL on the CPU. */
const char *engine_device(const engine *e);
typedef struct engine_words {
    char text[120];
} engine_words;
/* Where it computes: "2 threads", or "cuda:0 (NVIDIA H200, ...)". */
engine_words engine_place(const engine *e);
/* "exact" or "int8", as it is computed there. */
const char *engine_precision(const engine *e);
/* "scalar (q4_k q6_k f32)": rooms with the weight formats they serve. The caller frees it. */
char *engine_kernels(const engine *e);
void engine_print_stats(const engine *e);
void engine_json(const engine *e, json_t *object);

typedef struct tokens {
    int32_t *ids;
    int64_t n, room;
} tokens;

void tokens_add(tokens *t, const int32_t *ids, int64_t n);
void tokens_free(tokens *t);
/* Appends the tokens of a text; special = 1 reads "<|im_end|>" and the like as what they name. */
bool tokens_add_text(tokens *t, const engine *e, const char *text, size_t length, int32_t special);
/* Appends one ChatML message; names of control tokens inside `text` stay text. */
bool tokens_add_message(tokens *t, const engine *e, const char *role, const char *text,
                        size_t length);
/* "<|im_start|>assistant\n". */
bool tokens_add_answer(tokens *t, const engine *e);
/* False, with a sentence, when the model lacks the tokens of ChatML. */
bool engine_can_chat(const engine *e);

#endif
