/* SPDX-License-Identifier: MIT */
/* What an architecture is: one row of the table in arch.c and one file that fills it.
 * A layer is the architecture's own business; embedding, final norm, head, batching and the
 * sequence's length are common (session.c). */
#ifndef GQMM_MODEL_ARCH_H
#define GQMM_MODEL_ARCH_H

#include "gqmm-model.h"

typedef struct gqmm_loader gqmm_loader;

/* Bounded on reading, so products of two of them fit in 64 bits. */
typedef struct gqmm_hparams {
    int32_t n_layers, n_embd, n_vocab, n_context;
    int32_t n_heads, n_kv_heads, head_dim, n_rot;
    int32_t n_experts, n_used, n_ff; /* n_ff: rows of one expert */
    float rms_eps, routed_scale;
    double rope_base;
} gqmm_hparams;

typedef struct gqmm_arch {
    const char *name;
    /* Reads its keys and the trunk's tensors into model->layers (memory of the model's arena). */
    gqmm_status (*load)(gqmm_loader *l);
    /* Cache and scratch of a session into session->state, and its workspace needs. */
    gqmm_status (*open)(gqmm_session *s, gqmm_error *err);
    /* One layer for n tokens at positions length, length + 1, ...: session->x [n, n_embd] in
     * place, session->due first added to it; what it adds last may be left in session->due. What it
     * writes to the cache counts only once the session's length grows. */
    gqmm_status (*layer)(gqmm_session *s, int32_t layer, int64_t n, gqmm_error *err);
    /* Architectures whose state cannot drop tokens from its end refuse here; NULL: it can. */
    gqmm_status (*truncate)(gqmm_session *s, int64_t n, gqmm_error *err);
} gqmm_arch;

extern const gqmm_arch gqmm_arch_qwen3moe;

/* Row of the architecture that the file names. Errors: FORMAT (no such key), UNSUPPORTED. */
gqmm_status gqmm_arch_find(const gqmm_file *file, const gqmm_arch **out, gqmm_error *err);

/* A name from a file, fit for a message: cut to size and printable. */
void gqmm_printable(char *out, size_t size, const char *text, size_t length);

#endif
