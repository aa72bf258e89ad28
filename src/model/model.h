/* SPDX-License-Identifier: MIT */
/* The two objects behind gqmm-model.h, as architectures see them. */
#ifndef GQMM_MODEL_MODEL_H
#define GQMM_MODEL_MODEL_H

#include "model/arch.h"
#include "model/arch_arena.h"
#include "model/ops.h"

typedef struct gqmm_linear {
    const gqmm_weights *w; /* NULL: this model has none */
    int32_t precision;     /* the model's, or EXACT where the weights are floats */
} gqmm_linear;

struct gqmm_model {
    gqmm_context *ctx;
    const gqmm_arch *arch;
    const gqmm_ops *ops; /* of the context's device */
    gqmm_arena arena;
    gqmm_hparams hp;
    gqmm_model_info info;
    int32_t precision;
    gqmm_weights **handles; /* every handle that was made, to be destroyed */
    int64_t n_handles;
    gqmm_linear embed, output;
    float *output_norm;
    void *layers;         /* of the architecture */
    void *remote_weights; /* on a device: all weights, info.device_bytes */
    int64_t remote_used;
};

typedef struct gqmm_remote gqmm_remote;

/* What time is counted by: the fields of gqmm_session_times. */
typedef enum gqmm_part {
    GQMM_PART_EMBED,
    GQMM_PART_NORMS,
    GQMM_PART_PROJECTIONS,
    GQMM_PART_ATTENTION,
    GQMM_PART_EXPERTS,
    GQMM_PART_LOGITS,
    GQMM_PARTS
} gqmm_part;

struct gqmm_session {
    gqmm_model *model;
    gqmm_arena arena;
    int64_t max_tokens, batch, length;
    gqmm_remote *remote; /* NULL on the CPU */
    float *x;            /* [batch, n_embd] residual stream */
    float *h, *y;        /* [batch, n_embd] scratch */
    const float *due;    /* [batch, n_embd] still to be added to x by the next norm, or NULL */
    float *rope;      /* [batch, n_rot]: n_rot / 2 cosines, then as many sines, of each position */
    double *inv_freq; /* [n_rot / 2], memory of the host */
    float *logits;    /* [n_vocab], memory of the host */
    int32_t has_logits;
    void *workspace;
    size_t workspace_bytes;
    void *state; /* of the architecture */
    void (*seen)(void *user, int32_t layer, const float *residual, int64_t n_tokens);
    void *seen_user;
    int64_t mark;              /* nanoseconds: when the last part ended */
    int64_t spent[GQMM_PARTS]; /* nanoseconds */
};

/* Memory that operations work in: n items of `size` bytes, as from the session's arena. */
void *gqmm_session_buffer(gqmm_session *s, int64_t n, int64_t size);
/* The time since the last lap was spent on `part`. */
void gqmm_session_lap(gqmm_session *s, gqmm_part part);

/* Products with the session's workspace: y[m, n_rows] = w . x[m, n_cols], dense rows. */
gqmm_status gqmm_session_qmm(gqmm_session *s, float *y, const gqmm_linear *w, const float *x,
                             int64_t m, gqmm_error *err);
/* The same with `stride` elements from row to row of y. */
gqmm_status gqmm_session_qmm_into(gqmm_session *s, float *y, int64_t stride, const gqmm_linear *w,
                                  const float *x, int64_t m, gqmm_error *err);
/* For `open`: makes the workspace large enough for that call at every m up to the batch. */
gqmm_status gqmm_session_reserve(gqmm_session *s, const gqmm_linear *w, gqmm_error *err);
/* The same for an operation whose descriptor is given for the whole batch. */
gqmm_status gqmm_session_reserve_op(gqmm_session *s, int32_t op, const void *desc, gqmm_error *err);

#endif
