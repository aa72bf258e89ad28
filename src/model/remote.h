/* SPDX-License-Identifier: MIT */
/* Models and sessions on a device: weights are copied there once, a session's buffers lie there, a
 * decoded token is one recording that is replayed. */
#ifndef GQMM_MODEL_REMOTE_H
#define GQMM_MODEL_REMOTE_H

#include "model/weights.h"

/* What a batch tells the device, in memory of the host and of the device. */
typedef struct gqmm_remote_step {
    int64_t length; /* positions before the batch */
    int32_t ids[];  /* [batch] */
} gqmm_remote_step;

struct gqmm_remote {
    struct gqmm_remote_buffer *buffers; /* newest first */
    int64_t bytes;                      /* of the device, all buffers */
    gqmm_remote_step *step, *host_step;
    double *inv_freq;
    float *logits; /* [logit_rows, n_vocab] */
    int64_t logit_rows;
    float *residual; /* of the host, [batch, n_embd]: for observers, from the first on */
    void *recording; /* of one token */
    int32_t warm;    /* one token was computed without */
};

/* NULL: this library has no operations for the device. */
const gqmm_ops *gqmm_ops_for(const gqmm_context *ctx);

/* Memory for all of a file's tensors. */
gqmm_status gqmm_remote_reserve(gqmm_loader *l);
/* The next piece of it, with a copy of `bytes`; NULL after a failure that is recorded. */
void *gqmm_remote_keep(gqmm_loader *l, const void *bytes, int64_t n_bytes);
/* Matrices of one format that were kept since `used` was m->remote_used, without a gap, as one of
 * n_rows rows; out->w stays NULL where they are not. */
void gqmm_remote_join(gqmm_loader *l, gqmm_linear *out, int64_t used,
                      const gqmm_linear *const *parts, int32_t n_parts, int64_t n_rows,
                      int64_t n_cols);
void gqmm_remote_release(gqmm_model *m);

/* Makes s->remote and s->logits; s->inv_freq is filled. Close comes before the arena is cleared. */
gqmm_status gqmm_remote_open(gqmm_session *s, gqmm_error *err);
void gqmm_remote_close(gqmm_session *s);
/* Zeroed memory of the device. */
void *gqmm_remote_alloc(gqmm_session *s, int64_t n, int64_t size);
/* One batch, as gqmm_session_eval() cuts them: logits of all its tokens into `all` [n, n_vocab],
 * or, with all NULL and want = 1, of the last one into s->logits. */
gqmm_status gqmm_remote_batch(gqmm_session *s, const int32_t *tokens, int64_t n, float *all,
                              int32_t want, gqmm_error *err);
/* The residual stream, waited for and copied to the host; NULL with *status set. */
const float *gqmm_remote_residual(gqmm_session *s, int64_t n, gqmm_status *status, gqmm_error *err);

/* Of session.c, on any device: s->x through embedding and all layers, for n tokens at the end of
 * the sequence; ids lie where the device reads them. */
gqmm_status gqmm_session_trunk(gqmm_session *s, const int32_t *ids, int64_t n, gqmm_error *err);
/* Final norm and head of rows [first, first + n) of s->x. */
gqmm_status gqmm_session_head(gqmm_session *s, float *logits, int64_t first, int64_t n,
                              gqmm_error *err);

#endif
