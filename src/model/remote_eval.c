/* SPDX-License-Identifier: MIT */
/* Evaluation on a device. Ids and the sequence's length go there in one copy, logits come back in
 * another, and between the two the host decides nothing: so a token can be recorded. */
#include "model/remote.h"

#include "base/status.h"

#include <stddef.h>
#include <string.h>

enum { LOGITS_BYTES = 64 << 20 /* of all_logits, computed together */ };

static size_t step_bytes(int64_t n)
{
    return offsetof(gqmm_remote_step, ids) + (size_t)n * sizeof(int32_t);
}

gqmm_status gqmm_remote_open(gqmm_session *s, gqmm_error *err)
{
    const gqmm_hparams *hp = &s->model->hp;
    const gqmm_remote_ops *ops = s->model->ops->remote;
    const int64_t row = (int64_t)hp->n_vocab * (int64_t)sizeof *s->logits;
    const int64_t n_freq = hp->n_rot / 2;
    gqmm_remote *r = gqmm_arena_zero(&s->arena, 1, sizeof *r);
    s->remote = r;
    if (r) {
        r->logit_rows = LOGITS_BYTES / row < 1 ? 1 : LOGITS_BYTES / row;
        if (r->logit_rows > s->batch)
            r->logit_rows = s->batch;
        r->step = gqmm_remote_alloc(s, 1, (int64_t)step_bytes(s->batch));
        r->inv_freq = gqmm_remote_alloc(s, n_freq, sizeof *r->inv_freq);
        r->logits = gqmm_remote_alloc(s, r->logit_rows, row);
        r->host_step = ops->host_alloc(step_bytes(s->batch));
        s->logits = ops->host_alloc((size_t)row);
    }
    if (!r || !r->step || !r->inv_freq || !r->logits || !r->host_step || !s->logits)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for logits, %lld bytes for each token",
                         (long long)row);
    return gqmm_device_copy(s->model->ctx, r->inv_freq, s->inv_freq,
                            (size_t)n_freq * sizeof *r->inv_freq, err);
}

/* The part of a batch that is the same for every batch of this size. */
static gqmm_status send_and_run(gqmm_session *s, int64_t n, gqmm_error *err)
{
    const gqmm_remote *r = s->remote;
    const gqmm_status status =
        gqmm_device_copy(s->model->ctx, r->step, r->host_step, step_bytes(n), err);
    return status ? status : gqmm_session_trunk(s, r->step->ids, n, err);
}

/* Logits of n rows of the residual stream, from `first` on, to `to`. */
static gqmm_status fetch_logits(gqmm_session *s, float *to, int64_t first, int64_t n,
                                gqmm_error *err)
{
    const gqmm_remote *r = s->remote;
    const int64_t n_vocab = s->model->hp.n_vocab;
    const gqmm_status status = gqmm_session_head(s, r->logits, first, n, err);
    return status ? status
                  : gqmm_device_copy(s->model->ctx, to, r->logits,
                                     (size_t)(n * n_vocab) * sizeof *to, err);
}

static gqmm_status one_token(gqmm_session *s, gqmm_error *err)
{
    const gqmm_status status = send_and_run(s, 1, err);
    return status ? status : fetch_logits(s, s->logits, 0, 1, err);
}

static gqmm_status record(gqmm_session *s, gqmm_error *err)
{
    const gqmm_remote_ops *ops = s->model->ops->remote;
    gqmm_remote *r = s->remote;
    gqmm_context *ctx = s->model->ctx;
    gqmm_status status = ops->record_begin(ctx, err);
    if (status)
        return status;
    status = one_token(s, err);
    const gqmm_status ended = ops->record_end(ctx, &r->recording, status ? NULL : err);
    if (status && r->recording) {
        ops->forget(r->recording);
        r->recording = NULL;
    }
    return status ? status : ended;
}

/* The first token is computed call by call, as what it loads onto the device cannot be recorded. */
static gqmm_status decode(gqmm_session *s, gqmm_error *err)
{
    gqmm_remote *r = s->remote;
    gqmm_status status = GQMM_OK;
    if (!r->warm) {
        status = one_token(s, err);
        r->warm = 1;
        return status;
    }
    if (!r->recording)
        status = record(s, err);
    return status ? status : s->model->ops->remote->replay(s->model->ctx, r->recording, err);
}

static gqmm_status prompt(gqmm_session *s, int64_t n, float *all, int32_t want, gqmm_error *err)
{
    const int64_t n_vocab = s->model->hp.n_vocab, rows = s->remote->logit_rows;
    gqmm_status status = send_and_run(s, n, err);
    if (!all && want && !status)
        return fetch_logits(s, s->logits, n - 1, 1, err);
    for (int64_t at = 0; all && at < n && !status; at += rows)
        status = fetch_logits(s, all + at * n_vocab, at, n - at < rows ? n - at : rows, err);
    return status;
}

gqmm_status gqmm_remote_batch(gqmm_session *s, const int32_t *tokens, int64_t n, float *all,
                              int32_t want, gqmm_error *err)
{
    gqmm_remote *r = s->remote;
    r->host_step->length = s->length;
    memcpy(r->host_step->ids, tokens, (size_t)n * sizeof *tokens);
    const gqmm_status status =
        n == 1 && !all && want && !s->seen ? decode(s, err) : prompt(s, n, all, want, err);
    const gqmm_status ended = s->model->ops->finish(s->model->ctx, status ? NULL : err);
    return status ? status : ended;
}

/* Memory is taken here, at the first batch that is watched, since most never are. */
const float *gqmm_remote_residual(gqmm_session *s, int64_t n, gqmm_status *status, gqmm_error *err)
{
    const gqmm_ops *ops = s->model->ops;
    const size_t row = (size_t)s->model->hp.n_embd * sizeof *s->x;
    gqmm_remote *r = s->remote;
    if (!r->residual)
        r->residual = ops->remote->host_alloc((size_t)s->batch * row);
    *status = r->residual
                  ? gqmm_device_copy(s->model->ctx, r->residual, s->x, (size_t)n * row, err)
                  : gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for a residual stream of %lld",
                              (long long)s->batch);
    if (!*status)
        *status = ops->finish(s->model->ctx, err);
    return *status ? NULL : r->residual;
}
