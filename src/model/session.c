/* SPDX-License-Identifier: MIT */
/* A session: one sequence, its cache, and everything that evaluation needs, allocated once. */
#include "base/memory.h"
#include "base/num.h"
#include "base/status.h"
#include "model/remote.h"

#include <string.h>
#include <time.h>

/* Beyond MAX_BATCH nothing gets faster, and the tasks of one batch must fit in an int32. */
enum { DEFAULT_BATCH = 512, MAX_BATCH = 1 << 16 };

static int64_t nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void gqmm_session_lap(gqmm_session *s, gqmm_part part)
{
    if (s->remote)
        return;
    const int64_t now = nanoseconds();
    s->spent[part] += now - s->mark;
    s->mark = now;
}

void *gqmm_session_buffer(gqmm_session *s, int64_t n, int64_t size)
{
    return s->remote ? gqmm_remote_alloc(s, n, size) : gqmm_arena_alloc(&s->arena, n, size);
}

static void describe_dense(const gqmm_session *s, float *y, const gqmm_linear *w, const float *x,
                           int64_t m, gqmm_dense *d)
{
    GQMM_INIT(*d);
    d->precision = w->precision;
    d->w = w->w;
    d->transpose = 1;
    d->m = m;
    d->y = y;
    d->y_type = GQMM_F32;
    d->x = x;
    d->x_type = GQMM_F32;
    d->workspace = s->workspace;
    d->workspace_bytes = s->workspace_bytes;
}

gqmm_status gqmm_session_qmm_into(gqmm_session *s, float *y, int64_t stride, const gqmm_linear *w,
                                  const float *x, int64_t m, gqmm_error *err)
{
    gqmm_dense d;
    describe_dense(s, y, w, x, m, &d);
    d.y_row_stride = stride;
    return gqmm_qmm(s->model->ctx, &d, err);
}

gqmm_status gqmm_session_qmm(gqmm_session *s, float *y, const gqmm_linear *w, const float *x,
                             int64_t m, gqmm_error *err)
{
    return gqmm_session_qmm_into(s, y, 0, w, x, m, err);
}

gqmm_status gqmm_session_reserve_op(gqmm_session *s, int32_t op, const void *desc, gqmm_error *err)
{
    size_t bytes = 0;
    const gqmm_status status = gqmm_workspace_size(s->model->ctx, op, desc, &bytes, err);
    if (!status && bytes > s->workspace_bytes)
        s->workspace_bytes = bytes;
    return status;
}

/* One row is asked for as well: a kernel may treat it in another way than many. */
gqmm_status gqmm_session_reserve(gqmm_session *s, const gqmm_linear *w, gqmm_error *err)
{
    gqmm_dense d;
    describe_dense(s, NULL, w, NULL, 1, &d);
    const gqmm_status status = gqmm_session_reserve_op(s, GQMM_OP_QMM, &d, err);
    if (status)
        return status;
    d.m = s->batch;
    return gqmm_session_reserve_op(s, GQMM_OP_QMM, &d, err);
}

static gqmm_status open_session(gqmm_session *s, gqmm_error *err)
{
    const gqmm_model *m = s->model;
    const gqmm_hparams *hp = &m->hp;
    gqmm_status status = GQMM_OK;
    s->inv_freq = gqmm_arena_alloc(&s->arena, hp->n_rot / 2, sizeof *s->inv_freq);
    if (!s->inv_freq)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for the session");
    gqmm_rope_frequencies(s->inv_freq, hp->n_rot, hp->rope_base);
    if (m->ops->remote)
        status = gqmm_remote_open(s, err);
    else
        s->logits = gqmm_session_buffer(s, hp->n_vocab, sizeof *s->logits);
    if (status)
        return status;
    s->x = gqmm_session_buffer(s, s->batch * hp->n_embd, sizeof *s->x);
    s->h = gqmm_session_buffer(s, s->batch * hp->n_embd, sizeof *s->h);
    s->y = gqmm_session_buffer(s, s->batch * hp->n_embd, sizeof *s->y);
    s->rope = gqmm_session_buffer(s, s->batch * hp->n_rot, sizeof *s->rope);
    if (!s->x || !s->h || !s->y || !s->rope || !s->logits)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for batches of %lld tokens",
                         (long long)s->batch);
    status = m->arch->open(s, err);
    if (status || (status = gqmm_session_reserve(s, &m->output, err)) != GQMM_OK)
        return status;
    s->workspace = gqmm_session_buffer(s, (int64_t)s->workspace_bytes, 1);
    if (!s->workspace)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for %zu bytes of workspace",
                         s->workspace_bytes);
    return m->ops->finish(m->ctx, err);
}

static gqmm_status check_sizes(const gqmm_model *model, int64_t max_tokens, int64_t batch,
                               gqmm_error *err)
{
    if (max_tokens < 0 || max_tokens > model->hp.n_context)
        return gqmm_fail(err, GQMM_E_ARG, 0, "max_tokens is %lld; this model knows up to %d",
                         (long long)max_tokens, model->hp.n_context);
    if (batch < 0)
        return gqmm_fail(err, GQMM_E_ARG, 0, "batch is %lld", (long long)batch);
    return GQMM_OK;
}

gqmm_status gqmm_session_create(gqmm_model *model, int64_t max_tokens, int64_t batch,
                                gqmm_session **out, gqmm_error *err)
{
    gqmm_status status;
    if (!out)
        return gqmm_fail(err, GQMM_E_ARG, 0, "out is NULL");
    *out = NULL;
    if (!model)
        return gqmm_fail(err, GQMM_E_ARG, 0, "model is NULL");
    if ((status = check_sizes(model, max_tokens, batch, err)) != GQMM_OK)
        return status;
    gqmm_session *s = gqmm_alloc(&model->arena.allocator, 1, sizeof *s);
    if (!s)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for the session");
    s->model = model;
    s->arena.allocator = model->arena.allocator;
    s->max_tokens = max_tokens ? max_tokens : model->hp.n_context;
    s->batch = batch ? batch : DEFAULT_BATCH;
    if (s->batch > MAX_BATCH)
        s->batch = MAX_BATCH;
    if (s->batch > s->max_tokens)
        s->batch = s->max_tokens;
    status = open_session(s, err);
    if (status) {
        gqmm_session_destroy(s);
        return status;
    }
    *out = s;
    return GQMM_OK;
}

void gqmm_session_destroy(gqmm_session *s)
{
    if (!s)
        return;
    const gqmm_allocator a = s->arena.allocator;
    gqmm_remote_close(s);
    gqmm_arena_clear(&s->arena);
    gqmm_release(&a, s, 1, sizeof *s);
}

static gqmm_status check_tokens(const gqmm_session *s, const int32_t *tokens, int64_t n,
                                gqmm_error *err)
{
    const int32_t n_vocab = s->model->hp.n_vocab;
    if (n < 0 || (n > 0 && !tokens))
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s", n < 0 ? "n is negative" : "tokens is NULL");
    if (n > s->max_tokens - s->length)
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "%lld tokens after %lld do not fit into a context of %lld", (long long)n,
                         (long long)s->length, (long long)s->max_tokens);
    for (int64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= n_vocab)
            return gqmm_fail(err, GQMM_E_INDEX, 0,
                             "token %lld of %lld is id %d; the vocabulary has 0 to %d",
                             (long long)i, (long long)n, tokens[i], n_vocab - 1);
    return GQMM_OK;
}

/* Shows the residual stream to whoever asked for it. */
static gqmm_status show(gqmm_session *s, int32_t layer, int64_t n, gqmm_error *err)
{
    gqmm_status status = GQMM_OK;
    if (!s->seen)
        return status;
    if (s->due)
        s->model->ops->add(s->model->ctx, s->x, s->due, n, s->model->hp.n_embd);
    s->due = NULL;
    const float *x = s->remote ? gqmm_remote_residual(s, n, &status, err) : s->x;
    if (!status)
        s->seen(s->seen_user, layer, x, n);
    return status;
}

gqmm_status gqmm_session_trunk(gqmm_session *s, const int32_t *ids, int64_t n, gqmm_error *err)
{
    const gqmm_model *m = s->model;
    gqmm_embed_desc embed;
    GQMM_INIT(embed);
    embed.w = m->embed.w;
    embed.y_type = GQMM_F32;
    embed.n_ids = n;
    embed.ids = ids;
    embed.y = s->x;
    gqmm_status status = gqmm_embed(m->ctx, &embed, err);
    s->due = NULL;
    if (!status)
        status = show(s, -1, n, err);
    if (s->remote)
        m->ops->remote->rope(m->ctx, s->rope, s->remote->inv_freq, &s->remote->step->length, n,
                             m->hp.n_rot);
    else
        gqmm_rope_table(s->rope, s->inv_freq, s->length, n, m->hp.n_rot);
    gqmm_session_lap(s, GQMM_PART_EMBED);
    for (int32_t i = 0; i < m->hp.n_layers && !status; i++) {
        status = m->arch->layer(s, i, n, err);
        if (!status)
            status = show(s, i, n, err);
    }
    return status;
}

gqmm_status gqmm_session_head(gqmm_session *s, float *logits, int64_t first, int64_t n,
                              gqmm_error *err)
{
    const gqmm_model *m = s->model;
    const int64_t at = first * m->hp.n_embd;
    m->ops->norm(m->ctx, s->h, s->x + at, s->due ? s->due + at : NULL, m->output_norm,
                 m->hp.rms_eps, n, m->hp.n_embd);
    const gqmm_status status = gqmm_session_qmm(s, logits, &m->output, s->h, n, err);
    gqmm_session_lap(s, GQMM_PART_LOGITS);
    return status;
}

/* One batch: logits of all its tokens into `all`, or, where wanted, of the last into s->logits. */
static gqmm_status run_batch(gqmm_session *s, const int32_t *tokens, int64_t n, float *all,
                             int32_t want, gqmm_error *err)
{
    const gqmm_status status = gqmm_session_trunk(s, tokens, n, err);
    if (status || (!all && !want))
        return status;
    return all ? gqmm_session_head(s, all, 0, n, err)
               : gqmm_session_head(s, s->logits, n - 1, 1, err);
}

/* The length moves batch by batch and goes back on failure: what a failed call left in the cache
 * lies beyond the length, where nothing reads it. */
gqmm_status gqmm_session_eval(gqmm_session *s, const int32_t *tokens, int64_t n, float *all_logits,
                              gqmm_error *err)
{
    if (!s)
        return gqmm_fail(err, GQMM_E_ARG, 0, "session is NULL");
    const int64_t before = s->length, n_vocab = s->model->hp.n_vocab;
    gqmm_status status = check_tokens(s, tokens, n, err);
    s->mark = nanoseconds();
    for (int64_t at = 0, now; at < n && !status; at += now) {
        const int last = n - at <= s->batch;
        now = last ? n - at : s->batch;
        status = (s->remote ? gqmm_remote_batch : run_batch)(
            s, tokens + at, now, all_logits ? all_logits + at * n_vocab : NULL, last, err);
        s->length += now;
    }
    if (status) {
        s->length = before;
        return status;
    }
    if (n > 0 && all_logits)
        memcpy(s->logits, all_logits + (n - 1) * n_vocab, (size_t)n_vocab * sizeof *s->logits);
    if (n > 0)
        s->has_logits = 1;
    return GQMM_OK;
}

void gqmm_session_get_times(const gqmm_session *s, gqmm_session_times *times)
{
    if (!s || !times)
        return;
    double seconds[GQMM_PARTS];
    for (int32_t i = 0; i < GQMM_PARTS; i++)
        seconds[i] = (double)s->spent[i] * 1e-9;
    gqmm_session_times t = {.struct_size = times->struct_size,
                            .embed = seconds[GQMM_PART_EMBED],
                            .norms = seconds[GQMM_PART_NORMS],
                            .projections = seconds[GQMM_PART_PROJECTIONS],
                            .attention = seconds[GQMM_PART_ATTENTION],
                            .experts = seconds[GQMM_PART_EXPERTS],
                            .logits = seconds[GQMM_PART_LOGITS]};
    memcpy(times, &t, times->struct_size < sizeof t ? times->struct_size : sizeof t);
}

const float *gqmm_session_logits(const gqmm_session *s)
{
    return s && s->has_logits ? s->logits : NULL;
}

int64_t gqmm_session_length(const gqmm_session *s)
{
    return s ? s->length : 0;
}

gqmm_status gqmm_session_truncate(gqmm_session *s, int64_t n, gqmm_error *err)
{
    if (!s)
        return gqmm_fail(err, GQMM_E_ARG, 0, "session is NULL");
    if (n < 0 || n > s->length)
        return gqmm_fail(err, GQMM_E_ARG, 0, "cannot keep %lld of %lld tokens", (long long)n,
                         (long long)s->length);
    if (s->model->arch->truncate && n < s->length) {
        const gqmm_status status = s->model->arch->truncate(s, n, err);
        if (status)
            return status;
    }
    s->length = n;
    return GQMM_OK;
}

int64_t gqmm_session_bytes(const gqmm_session *s)
{
    return s ? s->arena.bytes + gqmm_session_device_bytes(s) : 0;
}

int64_t gqmm_session_device_bytes(const gqmm_session *s)
{
    return s && s->remote ? s->remote->bytes : 0;
}

void gqmm_session_observe(gqmm_session *s,
                          void (*seen)(void *user, int32_t layer, const float *residual,
                                       int64_t n_tokens),
                          void *user)
{
    if (!s)
        return;
    s->seen = seen;
    s->seen_user = user;
}
