/* SPDX-License-Identifier: MIT */
/* The two objects behind gqmm-model.h, as architectures see them. */
#ifndef GQMM_MODEL_MODEL_H
#define GQMM_MODEL_MODEL_H

#include "model/arch.h"
#include "model/arch_arena.h"

typedef struct gqmm_linear {
    const gqmm_weights *w; /* NULL: this model has none */
    int32_t precision;     /* the model's, or EXACT where the weights are floats */
} gqmm_linear;

struct gqmm_model {
    gqmm_context *ctx;
    const gqmm_arch *arch;
    gqmm_arena arena;
    gqmm_hparams hp;
    gqmm_model_info info;
    int32_t precision;
    gqmm_weights **handles; /* every handle that was made, to be destroyed */
    int64_t n_handles;
    gqmm_linear embed, output;
    float *output_norm;
    void *layers; /* of the architecture */
};

struct gqmm_session {
    gqmm_model *model;
    gqmm_arena arena;
    int64_t max_tokens, batch, length;
    float *x;         /* [batch, n_embd] residual stream */
    float *h, *y;     /* [batch, n_embd] scratch */
    float *rope;      /* [batch, n_rot]: n_rot / 2 cosines, then as many sines, of each position */
    double *inv_freq; /* [n_rot / 2] */
    float *logits;    /* [n_vocab] */
    int32_t has_logits;
    void *workspace;
    size_t workspace_bytes;
    void *state; /* of the architecture */
    void (*seen)(void *user, int32_t layer, const float *residual, int64_t n_tokens);
    void *seen_user;
};

/* Products with the session's workspace: y[m, n_rows] = w . x[m, n_cols], dense rows. */
gqmm_status gqmm_session_qmm(gqmm_session *s, float *y, const gqmm_linear *w, const float *x,
                             int64_t m, gqmm_error *err);
/* For `open`: makes the workspace large enough for that call at every m up to the batch. */
gqmm_status gqmm_session_reserve(gqmm_session *s, const gqmm_linear *w, gqmm_error *err);
/* The same for an operation whose descriptor is given for the whole batch. */
gqmm_status gqmm_session_reserve_op(gqmm_session *s, int32_t op, const void *desc, gqmm_error *err);

#endif
